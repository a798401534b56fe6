"""The plots of a model card, with the tiny random model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from tiny import tiny_checkpoint

from vampnet import cli
from vampnet.evaluate import card

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 44_100
NAMES = ["card-codec.png", "card-tokens.png", "card-codes.png", "card-sound.png"]


def made_figures(clips: int = 200) -> dict:
    """As of a large run, with spectrograms that no file format makes small."""
    rng = np.random.default_rng(0)
    levels = {"accuracy": [0.3, 0.2, 0.15, 0.1], "cross_entropy": [3.0, 4.0, 4.5, 5.0]}
    fine = {key: values * 2 + values[:2] for key, values in levels.items()}
    masks = ("25%", "50%", "75%", "100%", "p7")
    tokens = {
        name: {"by_mask": dict.fromkeys(masks, part), "unigram": part} for name, part in (("coarse", levels), ("fine", fine))
    }
    one = {f"clip {i}": {"mel": 0.4 + 0.001 * i, "partials": 0.5} for i in range(clips)}
    sound = {name: rng.integers(-80, 0, (96, 400)).tolist() for name in ("source", "codec", "take")}
    return {
        "model": "made", "seconds": 10, "sets": {"held out": one, "songs": one, "loops": one}, "tokens": tokens,
        "perplexity": [500.0] * 14, "codes": 100_000, "sound": sound,
    }  # fmt: skip


def test_plots_are_small_whatever_they_show(tmp_path):
    paths = card.draw(made_figures(), tmp_path)
    assert [path.name for path in paths] == NAMES and all(2_000 < path.stat().st_size < 100_000 for path in paths)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_a_plot_holds_every_clip_level_and_mask():
    figures = made_figures(7)
    mel, partials = card.plot_codec(figures).axes
    assert (
        [len(dots.get_offsets()) for dots in mel.collections]
        == [7, 7, 7]
        == [len(d.get_offsets()) for d in partials.collections]
    )
    assert mel.lines[0].get_xdata()[0] == pytest.approx(0.403) and mel.get_yticklabels()[0].get_text() == "held out (7)"
    accuracy, entropy = card.plot_tokens(figures).axes
    curves = [line for line in accuracy.lines if len(line.get_xdata()) in (4, 10)]
    assert len(curves) == 2 * 6 and list(curves[0].get_ydata()) == pytest.approx([30, 20, 15, 10])
    assert list(curves[1].get_xdata()) == list(range(4, 14)) and list(entropy.lines[0].get_ydata()) == [3.0, 4.0, 4.5, 5.0]
    assert [bar.get_height() for bar in card.plot_codes(figures).axes[0].patches] == [500.0] * 14
    shown = card.plot_sound(figures).axes
    assert [np.array(one.images[0].get_array()).tolist() for one in shown] == list(figures["sound"].values())


def test_the_command_measures_once_and_draws_again(tmp_path, make_music, capsys, monkeypatch):
    for folder, seeds in (("first", (0, 1, 2)), ("second", (3,))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            soundfile.write(tmp_path / folder / f"{seed}.wav", make_music(1.2, seed).T, RATE)
    out = tmp_path / "out"
    line = ["evaluate", "card", str(out), "--model", str(tiny_checkpoint(tmp_path / "tiny")), "--device", "cpu", "--quiet"]
    folders = ["--audio", str(tmp_path / "first"), "--audio", str(tmp_path / "second"), "--seconds", "1.1", "--clips", "2"]
    assert cli.main([*line, *folders]) == 0
    assert [path.rsplit("/")[-1] for path in capsys.readouterr().out.split()] == NAMES
    text = (out / card.FIGURES).read_text()
    figures = json.loads(text)
    assert figures["model"] == "tiny" and str(tmp_path) not in text
    assert {name: len(clips) for name, clips in figures["sets"].items()} == {"first": 2, "second": 1}
    assert len(figures["perplexity"]) == 14 and figures["codes"] == 2 * 64 and np.shape(figures["sound"]["take"])[0] == 96
    assert len(figures["tokens"]["fine"]["by_mask"]["25%"]["accuracy"]) == 10
    assert all((out / name).stat().st_size < 100_000 for name in NAMES)
    drawn = []
    monkeypatch.setattr(card, "gather", None)
    monkeypatch.setattr(card, "draw", lambda figures, folder: drawn.append((figures, folder)) or [])
    assert cli.main([*line, "--redraw"]) == 0 and drawn == [(figures, out)]
    capsys.readouterr()
    for words, sentence in (
        ([str(tmp_path), "--redraw"], "holds no figures of a card"),
        ([str(out), "--clips", "0"], "--clips must be at least 1"),
        ([str(out), "--seconds", "0.5"], "--seconds must lie between"),
    ):
        assert cli.main(["evaluate", "card", *words]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
