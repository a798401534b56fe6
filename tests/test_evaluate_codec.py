"""`evaluate codec` on folders as they are: names that come twice, files that hold nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from tiny import tiny_checkpoint, tiny_models

from vampnet import cli
from vampnet.evaluate import embeddings

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 44_100


@pytest.fixture
def music(tmp_path, make_music):
    """Two clips of one name, and four files that cannot be used."""
    folder = tmp_path / "music"
    for seed, place in enumerate(("a", "b")):
        (folder / place).mkdir(parents=True)
        soundfile.write(folder / place / "loop.wav", make_music(0.5, seed).T, RATE)
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "short.wav", make_music(0.05).T, RATE)
    (folder / "broken.wav").write_bytes(b"RIFF")
    return folder


def test_every_file_counts_once_and_none_stops_the_others(tmp_path, music, capsys):
    line = ["evaluate", "codec", str(music), "--model", str(tiny_checkpoint(tmp_path / "tiny")), "--seconds", "0.4"]
    out = tmp_path / "out.json"
    assert cli.main([*line, "--json", str(out)]) == 0
    found = json.loads(out.read_text())[str(music)]
    assert list(found["clips"]) == ["a/loop.wav", "b/loop.wav"]
    assert found["clips"]["a/loop.wav"]["mel"] != found["clips"]["b/loop.wav"]["mel"]
    assert found["left_out"] == ["broken.wav", "short.wav", "silent.wav"]
    assert found["mean"]["mel"] == pytest.approx(np.mean([clip["mel"] for clip in found["clips"].values()]), abs=1e-4)
    said = capsys.readouterr().out
    assert "2 clips of 0.4 s" in said and "cannot be used: broken.wav, short.wav, silent.wav" in said
    assert cli.main([*line, "--limit", "1"]) == 0 and "1 clip of" in capsys.readouterr().out
    for place in ("a", "b"):
        (music / place / "loop.wav").unlink()
    for words, sentence in (
        ([], "No file below"), (["--limit", "0"], "--limit must be at least 1"), (["--seconds", "0"], "--seconds must lie"),
    ):  # fmt: skip
        assert cli.main([*line, *words]) == 2 and sentence in capsys.readouterr().err


def test_a_codec_that_hears_otherwise_is_another_embedding():
    codec = tiny_models()[0]
    known = embeddings.key_of(embeddings.CodecLatents(codec, "codec:x", own=False))
    name, tensor = next((name, tensor) for name, tensor in codec.state_dict().items() if name.startswith("encoder"))
    kept = tensor.clone()
    try:
        tensor.view(-1)[0] += 1
        assert embeddings.key_of(embeddings.CodecLatents(codec, "codec:x", own=False)) != known, name
    finally:
        tensor.copy_(kept)
    assert embeddings.key_of(embeddings.CodecLatents(codec, "codec:x", own=False)) == known
