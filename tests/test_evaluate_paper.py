"""The commands `evaluate` and `evaluate paper` from end to end, with the tiny random model on short clips."""

from __future__ import annotations

import argparse
import csv
import json
import os

import pytest
import soundfile
import torch
from tiny import tiny_checkpoint, tiny_vampnet

from vampnet import Prompt, Sampling, beats, cli
from vampnet.evaluate import claims, options, paper, plots, report, runner, token_figures
from vampnet.evaluate.clips import make_clip
from vampnet.evaluate.embeddings import LogMel
from vampnet.evaluate.recipes import CODEC, Recipe, paper_experiments

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 44_100


@pytest.fixture
def quick_beats(monkeypatch):
    """Half a second from beat to beat: tracking has its own tests, and the tracker is slow to start."""
    monkeypatch.setattr(beats, "track", lambda signal, engine: beats.make_grid((0.0, 0.5, 1.0), (0.0,), engine, ""))
    monkeypatch.setattr(beats, "onsets", lambda signal: (0.0, 0.25))


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_music):
    """A folder with the tiny model and a folder `audio` of three clips."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "audio").mkdir()
    for seed in range(3):
        soundfile.write(folder / "audio" / f"{seed}.wav", make_music(1.2, seed).T, RATE)
    tiny_checkpoint(folder / "tiny")
    return folder


def run(*words) -> int:
    return cli.main(["evaluate", *map(str, words)])


def paper_line(place, out, *more) -> list:
    common = ["--seconds", 1.1, "--device", "cpu", "--draws", 20, "--beats", "librosa", "--quiet", "--steps", 2]
    return ["paper", "--audio", place / "audio", "--model", place / "tiny", "--out", out, *common, *more]


def test_the_paper_command_goes_on_after_a_kill_in_the_midst_of_writing(place, tmp_path, monkeypatch, capsys, quick_beats):
    line = paper_line(place, tmp_path, "--only", "prompts", "--only", "tokens", "--clips", 2)
    real, written = os.replace, []

    def replace(part, path):
        if str(path).endswith(".npz"):
            written.append(path)
            if len(written) == 15:
                raise KeyboardInterrupt  # the part file stays, as after a kill
        real(part, path)

    monkeypatch.setattr(os, "replace", replace)
    assert run(*line) == 130 and "goes on from here" in capsys.readouterr().err
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.npz")}
    assert len(results) == 14 and len(list((tmp_path / "store").rglob("*.part"))) == 1
    # Another one is damaged, as by a full disk: it is made anew too.
    torn = next(path for path in results if path.parent.name.startswith("vamp"))
    torn.write_bytes(b"")
    assert run(*line) == 0
    said = capsys.readouterr().out
    assert said.count("cannot be told") >= 2 and "The tempo is steadier" in said and "sampling steps" not in said
    # One for each of the source, the codec and eleven prompts, of two clips.
    assert len(written) == 15 + 1 + 26 - 14 and len(set(written)) == 26
    assert all(path.stat().st_mtime_ns == at for path, at in results.items() if path != torn)
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {"README.md", "prompts.csv", "prompts.md", "prompts.png", "musical.png"}
    rows = list(csv.DictReader((tmp_path / "prompts.csv").read_text().splitlines()))
    assert len(rows) == 11 and {row["clips"] for row in rows} == {"2"}
    assert all(float(row["mel_low"]) <= float(row["mel"]) <= float(row["mel_high"]) for row in rows)
    text = (tmp_path / "README.md").read_text()
    assert "![Prompts, 2 steps](prompts.png)" in text and "## Hidden tokens" in text and "2 clips are few" in text
    assert str(tmp_path) not in text and str(place) not in text
    # What is all there is not made again, and the model is part of what results belong to.
    monkeypatch.setattr(runner, "measure", None)
    monkeypatch.setattr(plots, "draw_all", lambda *_: {})
    assert run(*line) == 0
    with pytest.raises(TypeError):
        run(*line, "--seed", 1)


def test_bad_input_is_one_sentence(place, tmp_path, capsys, monkeypatch):
    for words, sentence in (
        (paper_line(place, tmp_path, "--clips", 0), "--clips must be at least 1"),
        (paper_line(place, tmp_path, "--seconds", 50), "No clip of 50 s lies below"),
        (paper_line(place, tmp_path, "--embedding", "nothing"), "There is no embedding 'nothing'"),
        (paper_line(tmp_path, tmp_path), "There is no model"),
        ([tmp_path / "none", "--model", place / "tiny"], "There is no folder"),
        ([place / "audio", "--takes", 0], "--takes must be at least 1"),
    ):
        assert run(*words, *([] if "paper" in words else ["--device", "cpu"])) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert run(*paper_line(place, tmp_path)) == 2
    assert "'matplotlib', which is not installed" in capsys.readouterr().err


def test_a_folder_is_measured_by_everything(place, tmp_path, capsys):
    out = tmp_path / "all.json"
    line = [place / "audio", "--model", place / "tiny", "--device", "cpu", "--seconds", 1.1, "--clips", 2, "--steps", 2]
    line += ["--reference", place / "audio"]
    assert run(*line, "--loop", "--embedding", "logmel", "--embedding", "codec", "--beats", "librosa", "--json", out) == 0
    said = capsys.readouterr()
    for word in ("FAD codec", "judged model's own codec", "seam step", "takes, tokens", "Hidden tokens", "codec alone"):
        assert word in said.out
    assert "2 clips, 2 settings, done" in said.err
    found = json.loads(out.read_text())
    takes = found["settings"]["takes"]
    assert takes["clips"] == 2 and {"mel", "beat_f", "chroma", "seam_flux", "takes_mel", "kbps"} <= set(takes["figures"])
    assert found["settings"]["codec alone"]["figures"]["kbps"][0] == pytest.approx(8.04, abs=0.01)
    assert set(found["tokens"]) == {"coarse", "fine"} and set(takes["fad_uncorrected"]) == {"logmel", "codec"}


def test_takes_keep_what_the_prompt_keeps_and_noise_changes_the_same_places(make_music, quick_beats):
    model, judge = tiny_vampnet(), runner.Judge((LogMel(),), "librosa")
    clips = [make_clip(torch.from_numpy(make_music(1.0, seed)), RATE, str(seed)) for seed in (0, 1)]
    first, second = (runner.listen(model, clip, judge) for clip in clips)
    prompt = Prompt(periodic=4)
    takes, tokens, mask = runner.make(model, first, Recipe("vamp", prompt, Sampling(steps=2), takes=2))
    noise, random, corrupted = runner.make(model, first, Recipe("noise", prompt))
    assert len(takes) == 2 and all(len(take) == RATE for take in (*takes, *noise))
    assert torch.equal(mask, corrupted) and 0.7 < mask.float().mean() < 0.8
    for made in (*tokens, *random):
        assert torch.equal(made[~mask[0]], first.tokens[0][~mask[0]])
        assert (made[mask[0]] != first.tokens[0][mask[0]]).float().mean() > 0.9
    assert not torch.equal(random, runner.make(model, second, Recipe("noise", prompt))[1])
    back, same, nothing = runner.make(model, first, CODEC)
    assert torch.equal(same, first.tokens) and not nothing.any()
    assert torch.equal(back[0], model.decode(same, length=RATE).audio_data[0, 0])
    on_beats = runner.make(model, first, Recipe("vamp", Prompt(periodic=0, beat_width_ms=75), Sampling(steps=1)))[2]
    assert torch.equal(on_beats, model.mask(first.tokens, Prompt(periodic=0, beat_width_ms=75), beats=first.heard.beats))


def test_token_figures_are_those_of_the_validation(make_music):
    model = tiny_vampnet()
    rows = [model.encode((RATE, make_music(seconds, 0)))[0] for seconds in (1.0, 1.2)]
    found = token_figures.token_figures(model, rows)
    head, table = token_figures.token_table(found)
    assert [row[0] for row in table] == [str(level) for level in range(14)] and len(head) == len(table[0]) == 7
    # Random weights know nothing: about ln 1024 nats.
    assert found["coarse"]["cross_entropy"] == pytest.approx(6.93, abs=0.3)


def test_composed_clips_are_there_without_any_folder():
    args = argparse.Namespace(clips=2, seconds=1.0)
    clips, count = options.choose_clips("composed", args, RATE, whole=False, full=True)
    one, two = clips
    assert count == 2 and one.name != two.name and len(one.audio) == RATE


def test_tables_and_plots_of_a_whole_run(tmp_path):
    from test_evaluate import made_figures

    figures = made_figures(lambda label, f: f.update(beat_f=0.9, onset_f=0.8, chroma=0.7))
    experiments = paper_experiments()
    files = plots.draw_all(experiments, figures.summaries, "logmel", tmp_path)
    assert set(files) == {"steps", "prompts", "bitrate", "musical"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in files.values())
    verdicts = {"logmel": claims.judge(figures, "logmel")}
    assert [row[1] for row in report.verdict_table(verdicts)[1]] == ["**holds**"] * 5
    assert len(report.verdict_table({**verdicts, "other": verdicts["logmel"]})[1]) == 5
    about = report.About("tiny", 50, 10, "made figures", "librosa", (LogMel(),))
    text = report.document(about, experiments, figures.summaries, verdicts, files, None)
    assert text.count("| --- |") >= 5 and "few" not in text
    head, rows = report.table(experiments[2], figures.summaries)
    assert head[:2] == ["setting", "FAD logmel"] and rows[0][0] == "1 step" and rows[0][1].startswith("6.00 (")
    assert paper.chosen(["steps"], 8)[0].name == "steps"
