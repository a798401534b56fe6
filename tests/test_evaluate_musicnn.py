"""musicnn as an embedding: read from what is published, without TensorFlow, and equal to what the original gives."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vampnet import cli
from vampnet.evaluate import embeddings, musicnn
from vampnet.evaluate.tensor_bundle import read_bundle

GOLDEN = Path(__file__).parent / "golden" / "musicnn"
INDEX, DATA = (GOLDEN / "small.index").read_bytes(), (GOLDEN / "small.data").read_bytes()
RATE = 44_100


def number(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers that stood in a tensor of the original when the golden ones were made."""
    made = np.random.default_rng(sum(name.encode()) + len(shape)).standard_normal(shape).astype(np.float32)
    if name.endswith("variance"):
        return made**2 + np.float32(0.5)
    if name.endswith("kernel"):
        return (made / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)
    return (made * 0.3 + name.endswith("gamma")).astype(np.float32)


def their_shape(ours: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Theirs go (time, frequency, inputs, outputs)."""
    if len(shape) == 4:
        return (*shape[2:], shape[1], shape[0])
    return (shape[2], shape[1], 1, shape[0]) if len(shape) == 3 else shape[::-1]


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    model = musicnn.MusiCNN()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    names = musicnn.published_names(model)
    assert set(names) == {name for name in shapes if not name.endswith("num_batches_tracked")}
    return {theirs: number(theirs, their_shape(ours, shapes[ours])) for ours, theirs in names.items()}


def test_it_says_what_the_original_says(tensors):
    """The original, in TensorFlow 2.15 with the same made-up weights, gave these of two examples."""
    given = (2 + np.random.default_rng(7).standard_normal((2, 187, 96))).astype(np.float32)
    found = musicnn.load_musicnn(tensors)(torch.from_numpy(given)).numpy()
    wanted = np.load(GOLDEN / "expected.npy")
    assert found.shape == wanted.shape == (2, 200)
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_bands_are_those_of_its_description():
    """In words: 16 kHz, 512 samples of a periodic Hann window around every 256th, the power in 96 of librosa's mel bands, the
    logarithm of 10,000 times that and one. Clips are measured 10 dB below what it has learned from."""
    import librosa

    wave = (0.1 * np.random.default_rng(0).normal(size=16_000)).astype(np.float32)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    padded = np.pad(wave * 10**0.5, 256)
    frames = np.stack([padded[i : i + 512] * window for i in range(0, len(padded) - 511, 256)])
    mel = librosa.filters.mel(sr=16_000, n_fft=512, n_mels=96)
    wanted = np.log10(10_000 * (np.abs(np.fft.rfft(frames)) ** 2 @ mel.T) + 1)
    found = musicnn.log_bands(torch.from_numpy(wave), 16_000)
    assert found.shape == (63, 96) and np.allclose(found.numpy(), wanted, atol=1e-4)


def test_a_checkpoint_of_tensorflow_is_read():
    found = read_bundle(INDEX, DATA)
    assert len(found) == 94 and "flags" not in found, "what is no number of 32 or 64 bits is left out"
    assert found["conv2d/kernel"].shape == (2, 3, 1, 4) and found["conv2d/kernel"].ravel().tolist() == list(range(24))
    assert found["conv2d/bias"].tolist() == [0.5, -1, 2, 3] and found["power"].shape == () and found["power"] == 0.25
    assert found["conv2d_1/bias"].dtype == np.int64 and found["conv2d_1/bias"].tolist() == [7]
    assert all(found[f"batch_normalization_{i}/gamma"].tolist() == [i, i] for i in range(90))


def test_what_is_no_checkpoint_is_refused():
    with pytest.raises(ValueError, match="no table of LevelDB"):
        read_bundle(b"not a table" * 10, DATA)
    with pytest.raises(ValueError, match="does not lie in the data"):
        read_bundle(INDEX, DATA[:-8])
    damaged = INDEX[: len(INDEX) // 2] + b"\xff" * (len(INDEX) // 2 - 48) + INDEX[-48:]
    with pytest.raises(ValueError):
        read_bundle(damaged, DATA)
    with pytest.raises(ValueError, match="compressed or not there"):
        read_bundle(INDEX[-48:], DATA)
    # A handle that points beyond the end.
    far = INDEX[:-48] + bytes([0, 0, 0xFF, 0xFF, 0x7F, 5]).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    with pytest.raises(ValueError, match="compressed or not there"):
        read_bundle(far, DATA)


def test_clips_become_points(tensors, monkeypatch):
    embed = musicnn.MusicnnEmbedding(musicnn.load_musicnn(tensors))
    wave = torch.randn(10 * RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    points = embed(wave, RATE)
    assert points.shape == (5, 200) and points.dtype == np.float32 and np.isfinite(points).all()
    assert embed(wave[:RATE], RATE).shape == (1, 200), "a clip that is too short is repeated"
    other = dict(tensors)
    other["dense/kernel"] = other["dense/kernel"] * 2
    assert embeddings.key_of(embed) != embeddings.key_of(musicnn.MusicnnEmbedding(musicnn.load_musicnn(other)))
    for wrong, why in (({}, "missing"), ({"dense/kernel": np.zeros((200, 1506), np.float32)}, "another shape")):
        with pytest.raises(ValueError, match=why):
            musicnn.load_musicnn({**tensors, **wrong} if wrong else {})


def test_weights_come_from_a_wheel_a_folder_or_what_is_installed(tmp_path, monkeypatch, tensors):
    (tmp_path / "site" / "musicnn" / musicnn.WEIGHTS).mkdir(parents=True)
    for name, content in ((musicnn.INDEX, b"index"), (musicnn.DATA, b"data")):
        (tmp_path / "site" / "musicnn" / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "musicnn.whl", "w") as wheel:
        for name in (musicnn.INDEX, musicnn.DATA):
            wheel.write(tmp_path / "site" / "musicnn" / name, f"musicnn/{name}")
    ran = tmp_path / "site" / "musicnn" / "__init__.py"
    ran.write_text("raise SystemExit('nothing of it runs')")
    for path in ("site", "site/musicnn", "musicnn.whl"):
        assert musicnn.find_weights(tmp_path / path) == (b"index", b"data")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert musicnn.find_weights() == (b"index", b"data")
    with pytest.raises(ValueError, match="cannot be used: the index is no table of LevelDB"):
        embeddings.make_embeddings(["musicnn"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps musicnn==0.1.0"):
        embeddings.make_embeddings(["musicnn"])
    empty = tmp_path / "empty.whl"
    with zipfile.ZipFile(empty, "w"):
        pass
    for path in (tmp_path, empty, ran, tmp_path / "none"):
        with pytest.raises(ValueError, match="no weights of musicnn in"):
            musicnn.find_weights(path)


def test_the_command_says_in_one_sentence_that_it_has_none(tmp_path, capsys):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    code = cli.main(["evaluate", str(tmp_path), "--embedding", "musicnn", "--musicnn", str(tmp_path / "none.whl"), "--quiet"])
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1 and "no weights of musicnn" in said
