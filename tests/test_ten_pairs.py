"""The ten pairs to listen to, with the tiny random model."""

from __future__ import annotations

import importlib.util
import math
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_checkpoint

from vampnet import beats, metadata
from vampnet.evaluate import pictures
from vampnet.studio.presets import PRESETS

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 44_100
SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "ten_pairs.py"


@pytest.fixture(scope="module")
def ten_pairs():
    spec = importlib.util.spec_from_file_location("ten_pairs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def decoded(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Cells and palette of a PNG file that `pictures.png` wrote."""
    width, height = struct.unpack(">II", data[16:24])
    at, parts = 8, {}
    while at < len(data):
        size, kind = struct.unpack(">I", data[at : at + 4])[0], data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        parts[kind], at = body, at + 12 + size
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, width + 1)
    return rows[:, 1:], np.frombuffer(parts[b"PLTE"], np.uint8).reshape(-1, 3)


def test_pictures_show_pitch_and_what_stays():
    time = torch.arange(2 * RATE) / RATE
    low, top = pictures.spectrogram(0.5 * torch.sin(2 * torch.pi * 100 * time), RATE)
    quiet, _ = pictures.spectrogram(0.05 * torch.sin(2 * torch.pi * 100 * time), RATE, top)
    high, _ = pictures.spectrogram(0.5 * torch.sin(2 * torch.pi * 6000 * time), RATE)
    (a, palette), (b, _), (c, _) = decoded(low), decoded(quiet), decoded(high)
    assert a.shape[0] == 2 * 96 and a.max() == c.max() == len(palette) - 1
    assert a.mean(axis=1).argmax() > 150 and c.mean(axis=1).argmax() < 70, "low notes are at the bottom"
    # 20 dB of 70 down.
    assert b.max() == pytest.approx((1 - 20 / pictures.RANGE_DB) * (len(palette) - 1), abs=1)
    assert np.diff(palette.astype(int) @ [299, 587, 114]).min() >= 0, "as bright as it is loud"
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[0] = False
    cells, palette = decoded(pictures.mask_picture(mask))
    assert cells.tolist() == [[1] * 5, [1] * 5, [0] * 5] and tuple(palette[0]) == pictures.KEPT


def test_ten_pairs_are_a_folder_that_a_browser_opens(ten_pairs, tmp_path, make_music, monkeypatch, capsys):
    monkeypatch.setattr(beats, "track", lambda signal, **_: beats.make_grid((0.0, 0.5, 1.0), (0.0,), "librosa", ""))
    monkeypatch.setattr(beats, "onsets", lambda signal: (0.0, 0.25, 1.0))
    music, out = tmp_path / "music", tmp_path / "out"
    music.mkdir()
    soundfile.write(music / "rock & roll.wav", make_music(2.1, 0)[0], RATE)
    soundfile.write(music / "silent.wav", np.zeros(3 * RATE), RATE)
    model = tiny_checkpoint(tmp_path / "tiny")
    line = ["--model", str(model), "--device", "cpu", "--seconds", "2", "--steps", "1", "--seed", "7"]
    assert ten_pairs.main([str(out), *line, "--audio", str(music)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "index.html")
    takes, sources = (sorted(out.glob(f"*-{kind}.flac")) for kind in ("take", "source"))
    assert len(takes) == len(sources) == 10 and len(list(out.iterdir())) == 22
    origins = [metadata.read(path) for path in takes]
    assert [origin.seed for origin in origins] == list(range(7, 17)) and all(metadata.read(path) is None for path in sources)
    assert len({(origin.prompt, origin.extend) for origin in origins}) == 10 and {o.model for o in origins} == {"tiny"}
    for preset, origin in zip(PRESETS, origins, strict=False):
        assert origin.prompt.periodic == preset.values["periodic"] and origin.extend[1] == preset.values["extend_after"]
        assert origin.prompt.kept_codebooks == preset.values["kept_codebooks"] and origin.sampling.steps == 1
    seconds = [soundfile.info(path).duration for path in takes]
    assert seconds[5] == pytest.approx(6, abs=0.05) and all(s == pytest.approx(2) for s in seconds[:5] + seconds[6:])
    assert all(soundfile.info(path).duration == pytest.approx(2) for path in sources)

    page, table = (out / "index.html").read_text(), (out / "index.md").read_text()
    files = re.findall(r'<audio [^>]*src="([^"]+)"', page)
    assert sorted(files) == sorted(path.name for path in (*takes, *sources)) and page.count('src="data:image/png;base64,') == 30
    assert "http" not in page and "<script" not in page and "rock &amp; roll.wav" in page
    rows = [line for line in table.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [row.split(" | ")[1] for row in rows[:3]] == ["Compress", "Tighten", "Vary"] and len(rows) == 10
    assert all(len(re.split(r"(?<!\\)\|", row)) == 11 for row in rows)
    figures = [[float(cell) for cell in re.split(r"(?<!\\)\|", row)[5:8]] for row in rows]
    assert all(math.isfinite(x) for row in figures for x in row) and "Prompt(periodic=7), Sampling(steps=1), seed=9" in rows[2]
    assert str(tmp_path) not in page + table


def test_without_a_folder_the_music_is_composed_from_the_seed(ten_pairs):
    def first(seed: str) -> tuple[str, torch.Tensor]:
        name, signal = next(ten_pairs.composed(ten_pairs.parser().parse_args(["out", "--seconds", "2", "--seed", seed])))
        return name, signal.audio_data

    (name, sound), (again, same), (other, another) = first("0"), first("0"), first("1")
    assert (name, other) == ("composed 0", "composed 10") and sound.shape == (1, 2, 2 * RATE)
    assert again == name and torch.equal(sound, same) and not torch.equal(sound, another)


def test_bad_input_is_one_sentence(ten_pairs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    soundfile.write(tmp_path / "empty" / "silent.wav", np.zeros(3 * RATE), RATE)
    for words, sentence in (
        (["--seconds", "1"], "--seconds must lie between 2 and 60"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--model", str(tmp_path / "none")], "There is no model"),
        (["--audio", str(tmp_path / "none")], "There is no folder"),
        (["--audio", str(tmp_path / "empty"), "--model", str(tiny_checkpoint(tmp_path / "tiny"))], "can be heard"),
        (["--soundfont", "none.sf2"], "There is no SoundFont"),
    ):
        assert ten_pairs.main([str(tmp_path / "out"), "--device", "cpu", *words]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1, said
