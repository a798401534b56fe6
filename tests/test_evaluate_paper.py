"""The commands `evaluate` and `evaluate paper` from end to end, with the tiny random model on short clips."""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_checkpoint, tiny_vampnet

from vampnet import Prompt, Sampling, VampNet, beats, cli
from vampnet.evaluate import claims, options, paper, parts, plots, report, runner, token_figures
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
                part.with_name(".killed.part").write_bytes(part.read_bytes())  # as a kill leaves it
                raise KeyboardInterrupt
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
    assert files == {
        "README.md",
        "claims.csv",
        "prompts.csv",
        "prompts.md",
        "prompts.png",
        "musical.png",
        "run.json",
        "report.json",
    }
    verdicts = list(csv.DictReader((tmp_path / "claims.csv").read_text().splitlines()))
    assert len(verdicts) == 4 and {row["verdict"] for row in verdicts} == {"cannot be told"}
    rows = list(csv.DictReader((tmp_path / "prompts.csv").read_text().splitlines()))
    assert len(rows) == 11 and {row["clips"] for row in rows} == {"2"}
    assert all(float(row["mel_low"]) <= float(row["mel"]) <= float(row["mel_high"]) for row in rows)
    text = (tmp_path / "README.md").read_text()
    assert "![Prompts, 2 steps](prompts.png)" in text and "## Hidden tokens" in text and "2 clips are few" in text
    assert "Not run on all of these clips yet: baselines, steps, bitrate." in text
    assert str(tmp_path) not in text and str(place) not in text
    assert "typical mass 0.6" in text and "2 clips of 1.1 s" in text
    assert "these have none" in text and "tonal balance" not in text
    # A trial takes the place of no larger report, and is told so before anything is made.
    smaller = paper_line(place, tmp_path, "--only", "prompts", "--clips", 1)
    for more in ([], ["--workers", 2]):
        assert (
            run(*smaller, *more) == 2 and "holds the report of 2 clips, and this would be one of 1" in capsys.readouterr().err
        )
    assert (tmp_path / "README.md").read_text() == text
    # What is all there is not made again.
    monkeypatch.setattr(runner, "measure", None)
    monkeypatch.setattr(plots, "draw_all", lambda *_: {})
    assert run(*line) == 0


def test_bad_input_is_one_sentence(place, tmp_path, capsys, monkeypatch):
    (tmp_path / "audio").mkdir()
    for words, sentence in (
        (paper_line(place, tmp_path, "--clips", 0), "--clips must be at least 1"),
        (paper_line(place, tmp_path, "--seed", -1), "--seed must be at least 0"),
        (paper_line(place, tmp_path, "--seconds", 50), "No clip of 50 s lies below"),
        (paper_line(place, tmp_path, "--embedding", "nothing"), "There is no embedding 'nothing'"),
        (paper_line(tmp_path, tmp_path), "There is no model"),
        ([tmp_path / "none", "--model", place / "tiny"], "There is no folder"),
        ([place / "audio", "--takes", 0], "--takes must be at least 1"),
        (["--takes", 0, place / "audio"], "--takes must be at least 1"),
        ([place / "audio", "--model", place / "tiny", "--reference", tmp_path / "no"], "for --reference"),
        ([place / "audio", "--model", place / "tiny", "--json", tmp_path / "no" / "x.json"], "There is no folder for"),
        (paper_line(place, tmp_path / "new", "--audio", tmp_path / "no"), "There is no folder"),
    ):
        assert run(*words, *([] if "paper" in words else ["--device", "cpu"])) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
    assert not (tmp_path / "new").exists()
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
    assert "2 takes of a clip in 2 coarse steps; what stays: periodic 7, periodic jitter 2. Takes are drawn with" in said.out
    assert "100% of the source's tonal balance, which it leaves alone" in said.out
    assert found["asked"]["prompt"]["periodic"] == 7 and found["asked"]["sampling"]["steps"] == 2
    assert found["asked"]["prompt"]["original_sound"] is False, "what is measured is decoded"
    assert found["asked"]["takes"] == 2 and found["asked"]["seconds"] == 1.1 and found["asked"]["loop"] is True
    takes = found["settings"]["takes"]
    assert found["model"] == "tiny" and f"Weights {found['run']['weights']}, transformers in" in said.out
    assert takes["clips"] == 2 and {"mel", "beat_f", "chroma", "seam_flux", "takes_mel", "kbps"} <= set(takes["figures"])
    assert found["settings"]["codec alone"]["figures"]["kbps"][0] == pytest.approx(8.04, abs=0.01)
    assert set(found["tokens"]) == {"coarse", "fine"} and set(takes["fad_uncorrected"]) == {"logmel", "codec"}


def test_what_is_there_is_taken_by_more_clips_and_another_embedding(place, tmp_path, monkeypatch, capsys, quick_beats):
    made, heard, real = [], [], VampNet.generate
    monkeypatch.setattr(VampNet, "generate", lambda self, *a, **k: made.append(1) or real(self, *a, **k))
    hear = runner.hear
    monkeypatch.setattr(runner, "hear", lambda *a: heard.append(1) or hear(*a))
    monkeypatch.setattr(plots, "draw_all", lambda *_: {})
    line = paper_line(place, tmp_path, "--only", "baselines")
    # The source, the codec, coarse-to-fine, and noise with seven prompts.
    assert run(*line, "--clips", 1) == 0 and len(made) == 1 and len(heard) == 10
    made.clear(), heard.clear()
    # Another clip of two: only its own takes.
    assert run(*line, "--clips", 2) == 0 and len(made) == 1 and len(heard) == 10
    # Another embedding: what was made is decoded and heard by it, neither made nor compared again.
    made.clear(), heard.clear()
    assert run(*line, "--clips", 2, "--embedding", "logmel", "--embedding", "codec") == 0
    assert not made and not heard and "FAD codec" in (tmp_path / "baselines.md").read_text()
    # Another experiment: the report has both, and so the claim that needs both is judged.
    capsys.readouterr()
    assert run(*paper_line(place, tmp_path, "--only", "prompts", "--clips", 2)) == 0
    assert "Noise is as near" in capsys.readouterr().out
    text = (tmp_path / "README.md").read_text()
    assert text.index("## Baselines") < text.index("## Prompts") and "clips yet: steps, bitrate, tokens." in text
    # What is done can be seen at any time, and nothing is made for it.
    monkeypatch.setattr(runner, "_finish", None)
    (place / "audio").joinpath("0.wav").rename(place / "0.wav")
    try:
        assert run(*line, "--clips", 3, "--report") == 0 and "Not run" in (tmp_path / "README.md").read_text()
    finally:
        (place / "0.wav").rename(place / "audio" / "0.wav")
    assert run(*paper_line(place, tmp_path, "--clips", 2, "--report")) == 2
    assert "No clip has all of these experiments yet" in capsys.readouterr().err


def spoil(folder: Path) -> None:
    """Results as an older way of measuring has left them: other figures, and no word of its version."""
    for path in folder.rglob("*.npz"):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name != "hearing"}
        figures = json.loads(str(arrays["figures"]))
        arrays["figures"] = np.array(json.dumps({name: x if name == "seconds" else 99.0 for name, x in figures.items()}))
        np.savez(path, **arrays)


def test_what_was_measured_in_another_way_is_measured_again_and_not_made_again(place, tmp_path, monkeypatch, quick_beats):
    monkeypatch.setattr(plots, "draw_all", lambda *_: {})
    line = paper_line(place, tmp_path, "--only", "baselines", "--clips", 2)
    assert run(*line) == 0
    before = (tmp_path / "baselines.csv").read_text()
    spoil(tmp_path / "store")
    monkeypatch.setattr(VampNet, "generate", None)
    assert run(*line, "--report") == 2, "until then they belong to no report"
    assert run(*line) == 0 and (tmp_path / "baselines.csv").read_text() == before


def test_parts_of_a_run_share_a_store(place, tmp_path, monkeypatch, capsys, quick_beats):
    line = paper_line(place, tmp_path, "--only", "baselines", "--clips", 3)
    assert run(*line, "--part", "2/2") == 0 and not list(tmp_path.glob("*.md"))
    assert len(list((tmp_path / "store").rglob("source/*.npz"))) == 1
    started = []

    class Process:
        def __init__(self, command, env):
            self.args, self.code = command, run(*command[4:], "--quiet")
            started.append((env["OMP_NUM_THREADS"], command[-1]))

        def wait(self):
            return self.code

    monkeypatch.setattr(parts.subprocess, "Popen", Process)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(plots, "draw_all", lambda *_: {})
    assert run(*line, "--workers", "2") == 0 and started == [("1", "1/2"), ("1", "2/2")]
    assert len(list((tmp_path / "store").rglob("source/*.npz"))) == 3 and (tmp_path / "README.md").exists()
    capsys.readouterr()
    for words, sentence in ((("--part", "3/2"), "--part must be such as 1/2"), (("--workers", 0), "--workers must be")):
        assert run(*line, *words) == 2 and sentence in capsys.readouterr().err
    monkeypatch.setattr(Process, "wait", lambda self: 1)
    assert run(*line, "--workers", 2) == 2
    assert "Part 1/2, 2/2 did not come to its end; the same command goes on" in capsys.readouterr().err


def test_takes_keep_what_the_prompt_keeps_and_noise_changes_the_same_places(make_music, quick_beats):
    model, judge = tiny_vampnet(), runner.Judge((LogMel(),), "librosa")
    clips = [make_clip(torch.from_numpy(make_music(1.0, seed)), RATE, str(seed)) for seed in (0, 1)]
    first, second = (runner.Source(model, clip, judge) for clip in clips)
    prompt = Prompt(periodic=4)
    ((tokens, mask),) = runner.make(first, [Recipe("vamp", prompt, Sampling(steps=2), takes=2)])
    ((random, corrupted),) = runner.make(first, [Recipe("noise", prompt)])
    takes, noise = runner.sound(first, tokens), runner.sound(first, random)
    assert len(takes) == 2 and all(len(take) == RATE for take in (*takes, *noise))
    assert torch.equal(mask, corrupted) and 0.7 < mask.float().mean() < 0.8
    for made in (*tokens, *random):
        assert torch.equal(made[~mask[0]], first.tokens[0][~mask[0]])
        assert (made[mask[0]] != first.tokens[0][mask[0]]).float().mean() > 0.9
    assert not torch.equal(random, runner.make(second, [Recipe("noise", prompt)])[0][0])
    # What is dropped from a prompt is another chance for every clip as well.
    dropped = [runner.make(source, [Recipe("noise", Prompt(periodic=2, dropout=0.5))])[0][1] for source in (first, second)]
    assert not torch.equal(*dropped)
    ((same, nothing),) = runner.make(first, [CODEC])
    assert torch.equal(same, first.tokens) and not nothing.any()
    assert torch.equal(runner.sound(first, same)[0], model.decode(same, length=RATE).audio_data[0, 0])
    on_beats = Prompt(periodic=0, beat_width_ms=75)
    ((_, mask),) = runner.make(first, [Recipe("vamp", on_beats, Sampling(steps=1))])
    assert torch.equal(mask, model.mask(first.tokens, on_beats, beats=first.heard.beats)) and not mask.all()


def test_what_is_made_at_once_is_what_is_made_alone(make_music, quick_beats):
    recipes = [Recipe("vamp", Prompt(periodic=p), Sampling(steps=2), takes=t) for p, t in ((3, 1), (5, 2), (7, 1))]
    others = [CODEC, Recipe("noise", Prompt(periodic=3)), Recipe("vamp", Prompt(periodic=3), Sampling(steps=3))]
    mixed = [recipes[0], others[0], recipes[1], others[1], recipes[2], others[2]]
    assert runner.groups(mixed, 1) == [[one] for one in mixed]
    assert runner.groups(mixed, 4)[0] == recipes and len(runner.groups(mixed, 4)) == 4
    assert runner.groups(mixed, 3)[0] == recipes[:2]
    model, judge = tiny_vampnet(), runner.Judge((LogMel(),), "librosa")
    source = runner.Source(model, make_clip(torch.from_numpy(make_music(1.0, 0)), RATE, "0"), judge)
    for recipe, (tokens, mask) in zip(recipes, runner.make(source, recipes), strict=True):
        ((alone, own),) = runner.make(source, [recipe])
        assert torch.equal(tokens, alone) and torch.equal(mask, own) and len(tokens) == recipe.takes


def test_token_figures_are_those_of_the_validation(make_music):
    model = tiny_vampnet()
    rows = [model.encode((RATE, make_music(seconds, 0)))[0] for seconds in (1.0, 1.2)]
    found = token_figures.token_figures(model, rows)
    head, table = token_figures.token_table(found)
    assert [row[0] for row in table] == [str(level) for level in range(14)] and len(head) == len(table[0]) == 7
    # Random weights know nothing: about ln 1024 nats.
    assert found["coarse"]["cross_entropy"] == pytest.approx(6.93, abs=0.3)


def test_composed_clips_are_there_without_any_folder():
    model, args = tiny_vampnet(), argparse.Namespace(clips=2, seconds=1.1)
    clips, count = options.choose_clips("composed", args, model, whole=False, full=True)
    one, two = clips
    assert count == 2 and one.name != two.name and len(one.audio) == round(1.1 * RATE)


def test_tables_and_plots_of_a_whole_run(tmp_path):
    from test_evaluate_claims import made_figures

    figures = made_figures(lambda label, f: f.update(beat_f=0.9, onset_f=0.8, chroma=0.7))
    experiments = paper_experiments()
    files = plots.draw_all(experiments, figures.summaries, "logmel", tmp_path)
    assert set(files) == {"steps", "prompts", "bitrate", "musical"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in files.values())
    verdicts = {"logmel": claims.judge(figures, "logmel")}
    assert [row[1] for row in report.verdict_table(verdicts)[1]] == ["**holds**"] * 7
    assert len(report.verdict_table({**verdicts, "other": verdicts["logmel"]})[1]) == 7
    origin = runner.Origin("0" * 16, "int8", "bfloat16", "librosa", 0, runner.VERSION)
    about = report.About("tiny", origin, [10.0] * 50, "made figures", (LogMel(),), "Drawn.")
    text = report.document(about, experiments, figures.summaries, verdicts, files, None)
    assert text.count("| --- |") >= 5 and "few" not in text
    assert f"Weights {'0' * 16}, transformers in int8, codec in bfloat16 where it stands that; seed 0." in text
    head, rows = report.table(experiments[2], figures.summaries)
    assert head[:2] == ["setting", "FAD logmel"] and rows[0][0] == "1 step" and rows[0][1].startswith("6.00 (")
    asked = paper.parser().parse_args(["--only", "steps", "--steps", "8", "--typical-mass", "1"])
    (steps,) = paper.chosen(asked)
    assert steps.name == "steps" and not any(setting.recipe.sampling.filters for setting in steps.settings)
    assert "from all tokens as in the paper" in report.how_drawn(steps.settings[0].recipe.sampling)
    assert "these have none" in report.how_drawn(steps.settings[0].recipe.sampling)
    assert "these have none" not in report.how_drawn(Sampling(palette=0.0, balance=0.0))
    assert "typical mass 0.6" in report.how_drawn(Sampling()) and "the paper draws from all" in report.how_drawn(Sampling())
