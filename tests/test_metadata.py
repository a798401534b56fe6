"""The settings inside sound files: there and back in every format, and nothing from a hostile one."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_vampnet

from vampnet import audio, metadata
from vampnet.bundle import write_bundle
from vampnet.config import Prompt, Sampling
from vampnet.metadata import Origin

RATE = 44_100
ORIGIN = Origin(
    Prompt(periodic=5, region=(0.5, 1.5), dropout=0.25), Sampling(steps=3, temperature=0.9), 77, 3, True, "all", "comp", 2,
    "tiny", "Müller \u266b loop", "0123456789abcdef" * 2,
)  # fmt: skip


def noise(samples: int = 9000, channels: int = 2) -> audio.AudioSignal:
    return audio.make_signal(0.1 * torch.randn(1, channels, samples), RATE)


def sound(path: Path, comment: str) -> Path:
    return audio.save(noise(), path, comment=comment)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_settings_come_back_from_every_format(ending: str, tmp_path: Path) -> None:
    path = sound(tmp_path / f"take.{ending}", metadata.write(ORIGIN))
    assert metadata.read(path) == ORIGIN
    assert audio.load(path).audio_data.shape == (1, 2, 9000)
    # However the file is called, and with long names that fill more than libsndfile reads of a WAV file.
    other = path.rename(tmp_path / "renamed.bin")
    assert metadata.read(other) == ORIGIN
    long = sound(tmp_path / f"long.{ending}", json.dumps({**json.loads(metadata.write(ORIGIN)), "more": "x" * 5000}))
    assert metadata.read(long) == ORIGIN


def test_float_wav_and_other_chunks_before_it(tmp_path: Path) -> None:
    path = audio.save(noise(501, 1), tmp_path / "f.wav", subtype="FLOAT", comment=metadata.write(ORIGIN))
    data = path.read_bytes()
    odd = b"note" + struct.pack("<I", 3) + b"abc\x00"
    path.write_bytes(data[:12] + odd + data[12:])
    assert metadata.read(path) == ORIGIN


def test_what_is_exported_carries_its_settings(music: np.ndarray, tmp_path: Path, one_thread: None) -> None:
    source = (torch.from_numpy(music[:, :44_100]), RATE)
    vamp = tiny_vampnet().vamp(source, Prompt(periodic=3), Sampling(steps=2, fine_steps=1), 2, 9, loop=True)
    saved = vamp.save(tmp_path, "flac", "song")
    kept = write_bundle(vamp, tmp_path / "bundle", "ogg", extra={"source_name": "My song"})
    first, second = (metadata.read(path) for path in saved)
    assert (first.prompt, first.sampling, first.seed, first.take, second.take) == (vamp.prompt, vamp.sampling, 9, 1, 2)
    assert first.loop and first.takes == 2 and first.source_hash == metadata.hash_of(vamp.source) and first.kind == "take"
    other = metadata.read(tmp_path / "bundle" / kept["files"][1])
    assert other == dataclasses.replace(second, source="My song")


def test_a_hash_tells_clips_apart_and_survives_a_file(tmp_path: Path) -> None:
    signal = noise()
    assert metadata.hash_of(signal) == metadata.hash_of(audio.make_signal(signal.audio_data.clone(), RATE))
    changed = signal.audio_data.clone()
    changed[0, 0, 5] += 1e-4
    assert metadata.hash_of(audio.make_signal(changed, RATE)) != metadata.hash_of(signal)
    path = audio.save(signal, tmp_path / "x.wav", subtype="FLOAT")
    assert metadata.hash_of(audio.load(path)) == metadata.hash_of(signal)


GOOD = json.loads(metadata.write(ORIGIN))


def changed(**values: object) -> str:
    return json.dumps({**GOOD, **values})


@pytest.mark.parametrize(
    "comment",
    [
        "", "Great song", "[]", "{}", "{" * 5000, '{"a":' * 3000 + "1" + "}" * 3000, json.dumps(GOOD)[:-5],
        changed(vampnet=0), changed(vampnet="1"), changed(seed=-1), changed(seed=True), changed(seed=1e400),
        changed(seed=2**40), changed(prompt=None), changed(prompt={"periodic": "7"}), changed(prompt={"periodic": -7}),
        changed(prompt={"dropout": True}), changed(prompt={"region": [1]}), changed(prompt={"region": ["a", "b"]}),
        changed(sampling={"steps": 0}), changed(sampling={"temperature": [1]}), changed(sampling=7), changed(loop=1),
        changed(bars=0), changed(bars=[1]), changed(takes=0), changed(take="x"), changed(more="x" * metadata.MAX_BYTES),
        json.dumps(GOOD).replace("0.9", "NaN"), json.dumps(GOOD).replace("0.25", "1e999"),
    ],
)  # fmt: skip
def test_foreign_and_hostile_comments_are_nothing(comment: str, tmp_path: Path) -> None:
    assert metadata.parse(comment.encode()) is None
    assert metadata.read(sound(tmp_path / "x.flac", comment)) is None


def test_names_are_plain_and_short_and_unknown_fields_are_left_out() -> None:
    given = {"name": "a\nb\u202ec<i>" + "d" * 999, "hash": "../../etc/passwd"}
    prompt = {**GOOD["prompt"], "__class__": 1, "new": 2}
    told = metadata.parse(changed(source=given, model=5, kind="evil", prompt=prompt).encode())
    assert told is not None and told.prompt == ORIGIN.prompt and told.kind == "take" and told.model == ""
    assert told.source.startswith("abc<i>") and len(told.source) <= metadata.MAX_NAME and told.source_hash == ""


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_damaged_files_are_nothing(ending: str, tmp_path: Path) -> None:
    data = sound(tmp_path / f"take.{ending}", metadata.write(ORIGIN)).read_bytes()
    generator = np.random.default_rng(0)
    path = tmp_path / "broken"
    for cut in (0, 3, 11, 13, 40, 90, 200):
        path.write_bytes(data[:cut])
        assert metadata.read(path) is None
    for _ in range(60):
        bytes_ = bytearray(data)
        for place in generator.integers(0, 1500, 12):
            bytes_[place % len(bytes_)] = generator.integers(0, 256)
        path.write_bytes(bytes(bytes_))
        found = metadata.read(path)
        assert found is None or isinstance(found, Origin)
    assert metadata.read(tmp_path / "nowhere.flac") is None and metadata.read(tmp_path) is None
