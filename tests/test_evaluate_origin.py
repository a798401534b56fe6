"""Results say with which weights and in which arithmetic they were made, and are not mixed with others."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import soundfile
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_models, tiny_vampnet

from vampnet import VampNet, checkpoints, cli
from vampnet.evaluate import origin, parts, plots, runner
from vampnet.evaluate.embeddings import LogMel

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 44_100


def nudge(folder, file: str) -> None:
    """Another model: one number of a weight file is another."""
    state = load_file(folder / file)
    name = next(name for name, tensor in sorted(state.items()) if tensor.is_floating_point())
    state[name].view(-1)[0] += 0.5
    save_file(state, folder / file)


def weights_of(folder, precision: str = "float32") -> str:
    return VampNet.from_pretrained(folder, "cpu", precision=precision).weights_id


def test_weights_are_named_by_their_files(tmp_path):
    here, there = tiny_checkpoint(tmp_path / "here"), tiny_checkpoint(tmp_path / "elsewhere" / "other name")
    known = weights_of(here)
    assert known == weights_of(there) == weights_of(here, "bfloat16") and len(known) == 16
    checkpoints.write_checksums(there)
    assert weights_of(there) == known, "sealed or not, they are the same files"
    # What the shape says counts as well: the codec's rounds are heard, and no tensor holds them.
    config = json.loads((here / "config.json").read_text())
    config["codec"]["rounds"] += 1
    (here / "config.json").write_text(json.dumps(config))
    others = {known, weights_of(here)}
    for file in checkpoints.WEIGHTS:
        shutil.rmtree(here)
        nudge(tiny_checkpoint(here), file)
        others.add(weights_of(here))
    assert len(others) == 5
    # In the published format every part is a file of its own.
    (tmp_path / "codec.pth").write_bytes(b"one")
    paths = {part: tmp_path / "codec.pth" for part in checkpoints.PARTS}
    first = checkpoints.weights_id(paths)
    (tmp_path / "codec.pth").write_bytes(b"two")
    assert checkpoints.weights_id(paths) != first != known


def test_a_model_that_was_not_loaded_is_named_by_its_tensors():
    codec, coarse, fine = tiny_models()
    plain = tiny_vampnet()
    assert plain.weights_id == VampNet(codec, coarse, fine, name="another name").weights_id
    assert plain.weights_id != VampNet(codec, fine, coarse).weights_id
    found = runner.Judge((LogMel(),), "librosa", 3).origin(VampNet(codec, coarse, fine, precision="bfloat16"))
    assert (found.precision, found.beats, found.seed) == ("bfloat16", "librosa", 3)
    assert found.id != dataclasses.replace(found, codec="another").id and len(found.id) == 16


def test_a_folder_belongs_to_one_run(tmp_path):
    one = origin.Origin("aa", "int8", "bfloat16", "librosa", 0, 2)
    two = dataclasses.replace(one, precision="float32", codec="float32")
    # As long as nothing is there, it is anybody's.
    for run in (one, two, one):
        origin.settle(tmp_path, run, ())
        assert origin.noted(tmp_path) == run
    result = tmp_path / "store" / one.id / "codec" / "clip.npz"
    result.parent.mkdir(parents=True)
    result.touch()
    (tmp_path / "store" / "of somebody else").mkdir()
    (tmp_path / "claims.csv").touch()
    (tmp_path / "own.csv").touch()
    origin.settle(tmp_path, one, ())
    wanted = "precision there int8, here float32; precision of the codec there bfloat16, here float32.*--out, or --replace"
    with pytest.raises(ValueError, match=wanted):
        origin.settle(tmp_path, two, ("claims.csv",))
    assert origin.noted(tmp_path) == one and result.exists()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="does not say with which weights"):
        origin.settle(tmp_path, two, ("claims.csv",))
    own = tmp_path / "store" / two.id
    own.mkdir()
    origin.settle(tmp_path, two, ("claims.csv", "steps.csv"), replace=True)
    assert origin.noted(tmp_path) == two
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "own.csv", "store"}
    assert {path.name for path in (tmp_path / "store").iterdir()} == {two.id, "of somebody else"}


def test_the_paper_command_never_mixes_models(tmp_path, make_music, monkeypatch, capsys):
    audio, out, model = tmp_path / "audio", tmp_path / "out", tiny_checkpoint(tmp_path / "tiny")
    audio.mkdir()
    soundfile.write(audio / "0.wav", make_music(1.2, 0).T, RATE)
    monkeypatch.setattr(plots, "draw_all", lambda *_: {})
    monkeypatch.setattr(runner, "compare", lambda *_: {"mel": 1.0})
    monkeypatch.setattr(runner, "hear", lambda *_: None)
    line = [
        "evaluate",
        "paper",
        "--model",
        model,
        "--audio",
        audio,
        "--out",
        out,
        "--only",
        "tokens",
        "--clips",
        1,
        "--seconds",
    ]
    line += [1.1, "--device", "cpu", "--draws", 20, "--beats", "librosa", "--typical-mass", 0.8, "--quiet", "--precision"]

    def run(*words) -> int:
        return cli.main(list(map(str, [*line, *words])))

    def files() -> dict:
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def refused(sentence: str, *words) -> bool:
        before = files()
        code, said = run(*words), capsys.readouterr().err
        return code == 2 and sentence in said and said.count("\n") == 1 and files() == before

    assert run("float32") == 0
    weights = weights_of(model)
    assert f"- Weights {weights}, transformers in float32; seed 0." in (out / "README.md").read_text()
    assert "typical mass 0.8" in (out / "README.md").read_text()
    assert json.loads((out / "run.json").read_text())["weights"] == weights
    (out / "prompts.csv").write_text("of the first model")
    assert refused("precision there float32, here bfloat16", "bfloat16")
    assert refused("precision there float32, here bfloat16", "bfloat16", "--report")
    assert refused("seed there 0, here 1", "float32", "--seed", 1)
    monkeypatch.setattr(parts.subprocess, "Popen", None)
    assert refused("precision there float32, here bfloat16", "bfloat16", "--workers", 2), "once, not by every part"
    nudge(model, "fine.safetensors")
    assert refused(f"weights there {weights}, here {weights_of(model)}", "float32")
    assert run("bfloat16", "--replace") == 0
    assert "transformers in bfloat16" in (out / "README.md").read_text() and not (out / "prompts.csv").exists()
    assert len([path for path in (out / "store").iterdir() if path.is_dir()]) == 1
    assert run("bfloat16") == 0
