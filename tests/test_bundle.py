"""A vamp into a folder and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_vampnet

from vampnet import audio
from vampnet.beats import make_grid
from vampnet.bundle import SETTINGS, TOKENS, read_bundle, read_settings, write_bundle
from vampnet.config import Prompt, Sampling
from vampnet.vamp import Vamp


@pytest.fixture
def made(music, one_thread) -> Vamp:
    beats = make_grid([0.0, 0.5, 1.0, 1.5], [0.0], "librosa", "as in the music")
    prompt = Prompt(periodic=5, region=(0.2, 1.5))
    source = audio.make_signal(torch.from_numpy(music[None, :, :88_200]), 44_100)
    return tiny_vampnet().vamp(source, prompt, Sampling(steps=2, fine_steps=1), 2, 7, beats=beats)


def test_a_vamp_comes_back(made: Vamp, tmp_path: Path) -> None:
    written = write_bundle(made, tmp_path / "vamp", extra={"title": "Now"})
    back = read_bundle(tmp_path / "vamp")
    assert written == read_settings(tmp_path / "vamp") and written["extra"] == {"title": "Now"}
    assert written["files"] == ["take-1.flac", "take-2.flac"]
    for name in ("tokens", "source_tokens", "mask"):
        assert torch.equal(getattr(back, name), getattr(made, name)), name
    for name in ("prompt", "sampling", "seed", "loop", "model", "grid", "bars", "beats"):
        assert getattr(back, name) == getattr(made, name), name
    for a, b in zip([made.source, *made.takes], [back.source, *back.takes], strict=True):
        assert torch.allclose(a.audio_data, b.audio_data, atol=2e-7)
    assert not list((tmp_path / "vamp").glob("*.part"))


@pytest.mark.parametrize("spoil", ["no json", "outside", "tokens", "shape", "prompt"])
def test_a_damaged_vamp_gets_a_sentence(made: Vamp, tmp_path: Path, spoil: str) -> None:
    write_bundle(made, tmp_path)
    settings = read_settings(tmp_path)
    if spoil == "no json":
        (tmp_path / SETTINGS).write_text("{")
    elif spoil == "tokens":
        (tmp_path / TOKENS).write_bytes(b"nothing")
    else:
        outside, fewer = {"files": ["../x.flac", "take-2.flac"]}, {"files": ["take-1.flac"]}
        settings |= {"outside": outside, "shape": fewer, "prompt": {"prompt": {"periodic": "x"}}}[spoil]
        (tmp_path / SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="vamp"):
        read_bundle(tmp_path)


def test_names_and_formats_are_checked(made: Vamp, tmp_path: Path) -> None:
    assert write_bundle(made, tmp_path, "wav", ["a", "b"])["files"] == ["a.wav", "b.wav"]
    with pytest.raises(ValueError, match="as many names"):
        write_bundle(made, tmp_path, names=["a"])
    with pytest.raises(ValueError, match="not as 'mp3'"):
        write_bundle(made, tmp_path, "mp3")
    for names in (["a", "a"], ["Take", "take"], ["a", "source"], ["Source", "b"]):
        with pytest.raises(ValueError, match="a name of its own"):
            write_bundle(made, tmp_path / "other", names=names)
    assert not (tmp_path / "other").exists()


def test_a_take_that_is_all_but_silent_comes_back(made: Vamp, tmp_path: Path) -> None:
    soft = audio.make_signal(1e-5 * made.takes[0].audio_data, 44_100)
    write_bundle(dataclasses.replace(made, takes=[soft, made.takes[1]]), tmp_path)
    assert read_bundle(tmp_path).takes[0].audio_data.shape == soft.audio_data.shape


@pytest.mark.parametrize(
    "spoil",
    [
        {"beats": 5}, {"prompt": []}, {"seed": "x"}, {"seed": -5}, {"extend": "ab"}, {"extend": 5}, {"extend": [10**400, 0]},
        {"sample_rate": 10**9}, {"grid": {"sample_rate": 44_100, "hop": 100}}, {"grid": {"sample_rate": 44_100, "hop": 0}},
        {"sampling": None}, {"bars": {"a": 1}}, {"bars": 0}, {"bars": float("nan")}, {"extend": [float("nan"), 0]},
        {"extend": [1, 2, 3]}, {"grid": {"sample_rate": 44_100.0, "hop": 768}},
        {"grid": {"sample_rate": 44_100, "hop": float("nan")}},
        {"beats": {"beats": ["x", None]}}, {"beats": {"beats": [0, None]}}, {"beats": {"beats": [0, float("nan"), 1]}},
        {"beats": {"beats": [0, 1e999]}}, {"beats": {"beats": [1, 0]}}, {"beats": {"downbeats": [0, 0.5, 0.4]}},
        {"beats": {"beats": None}}, {"beats": {"tempo": "fast"}}, {"beats": {"tempo": float("nan")}}, {"beats": {"tempo": -60}},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_no_vamp_has(made: Vamp, tmp_path: Path, spoil: dict) -> None:
    write_bundle(made, tmp_path)
    (tmp_path / SETTINGS).write_text(json.dumps({**read_settings(tmp_path), **spoil}))
    with pytest.raises(ValueError, match="damaged"):
        read_bundle(tmp_path)


def test_beats_that_a_cut_has_put_together_are_one(made: Vamp, tmp_path: Path) -> None:
    cut = make_grid([0.5, 0.53, 1.0], [0.5, 0.53], "librosa", "").cut(0.54, 2)
    assert cut.beats[:2] == (0, 0)
    write_bundle(dataclasses.replace(made, beats=cut), tmp_path)
    back = read_bundle(tmp_path).beats
    assert back is not None and (back.beats, back.downbeats, back.tempo) == ((0, cut.beats[2]), (0,), cut.tempo)


@pytest.mark.parametrize("spoil", ["high", "float", "flat", "short", "deep"])
def test_tokens_that_no_vamp_has(made: Vamp, tmp_path: Path, spoil: str) -> None:
    write_bundle(made, tmp_path)
    found = load_file(tmp_path / TOKENS)
    if spoil == "deep":
        (tmp_path / SETTINGS).write_text("[" * 100_000)
    elif spoil == "flat":
        found["source_tokens"] = found["source_tokens"][0, 0].clone()
    else:
        change = {"high": lambda x: x + 4000, "float": lambda x: x.float() * float("nan"), "short": lambda x: x[..., :7]}[spoil]
        names = found if spoil == "short" else ("tokens",)
        found |= {name: change(found[name]).contiguous() for name in names}
    save_file(found, tmp_path / TOKENS)
    with pytest.raises(ValueError, match="damaged"):
        read_bundle(tmp_path)
