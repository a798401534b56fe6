"""Stage 3: a coarse model is taught what guidance makes of it, and what is learned is stored beside the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_checkpoint, tiny_models, transformer

from vampnet import checkpoints
from vampnet.config import MASK
from vampnet.gaps import ENOUGH, SHORT, near
from vampnet.model import distilled
from vampnet.model.files import save_transformer
from vampnet.train import shards as shard_files
from vampnet.train.distill import Distillation, Distiller, distill, export, main, states
from vampnet.train.loop import load_checkpoint
from vampnet.train.shards import write_shard

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint whose coarse model has layers enough to leave one out, and an opinion."""
    folder = tiny_checkpoint(tmp_path / "model")
    coarse = transformer(3, dim=128)
    with torch.no_grad():
        coarse.classifier.mul_(5)
    save_transformer(coarse, folder, "coarse")
    checkpoints.write_checksums(folder)
    return folder


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    folder = tmp_path / "tokens"
    folder.mkdir()
    shard_files.keep_vectors(tiny_models()[0], folder)
    generator = torch.Generator().manual_seed(0)
    write_shard(folder, [torch.randint(1024, (14, 60), generator=generator).to(torch.int16) for _ in range(6)], ["a.wav"])
    return folder


def settings(model: Path, tokens: Path, run: Path, **changes: object) -> Distillation:
    base = {"batch": 3, "crop": 24, "rank": 4, "warmup": 5, "device": "cpu", "valid_crops": 4}
    return Distillation(str(model), str(tokens), run=str(run), **{**base, **changes})


def test_the_states_are_those_of_vamps_that_are_guided() -> None:
    generator = torch.Generator().manual_seed(0)
    many = torch.cat([states(4, 120, 8, generator) for _ in range(12)])
    assert many.shape == (96, 4, 120) and many.flatten(1).any(dim=1).all()
    # What is settled by then is kept, too, so that nothing masked lies far from what stays.
    assert all(near(mask, SHORT) >= ENOUGH for mask in many)
    shares = many.float().mean(dim=(1, 2))
    assert shares.min() < 0.1 and shares.max() > 0.6
    again = torch.Generator().manual_seed(0)
    assert torch.equal(states(4, 120, 8, again), many[:8])


def test_it_learns_what_guidance_says_and_the_model_stays(model: Path, tokens: Path, tmp_path: Path) -> None:
    before = (model / "coarse.safetensors").read_bytes()
    config = settings(model, tokens, tmp_path / "run", valid=str(tokens), steps=60, peak=5e-3)
    result = distill(config)
    assert result["done"] and result["step"] == 60
    assert result["valid"]["distilled"] < 0.7 * result["valid"]["model"]
    assert (model / "coarse.safetensors").read_bytes() == before
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", *["train"] * 60, "valid"]
    plain = checkpoints.load(model).coarse
    export(tmp_path / "run", model)
    found = checkpoints.load(model).coarse
    assert found.distilled_guidance == 0.5
    generator = torch.Generator().manual_seed(9)
    mask = states(4, 24, 2, generator)
    given = torch.randint(1024, (2, 4, 24), generator=generator).masked_fill(mask, MASK)
    assert torch.equal(found(given, where=mask), plain(given, where=mask))
    added = load_checkpoint(tmp_path / "run" / "last.pt")["added"]
    wanted = distilled.with_distilled(plain, added).distilled(given, where=mask)
    torch.testing.assert_close(found.distilled(given, where=mask), wanted, atol=0.02, rtol=0.02)  # float16 on the disk


def test_a_resumed_run_is_the_uninterrupted_run(model: Path, tokens: Path, tmp_path: Path) -> None:
    whole = distill(settings(model, tokens, tmp_path / "whole", steps=6))
    run = Distiller(settings(model, tokens, tmp_path / "parts", steps=6))
    for number in range(3):
        run.train_step(number / 6)
    run.save(1.0)
    run.train_step(3 / 6)  # lost, as after a kill
    parts = distill(settings(model, tokens, tmp_path / "parts", steps=6))
    assert parts["loss"] == whole["loss"] and parts["step"] == 6 and parts["elapsed"] > 1.0
    a, b = (load_checkpoint(tmp_path / name / "last.pt")["added"] for name in ("whole", "parts"))
    assert a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_a_run_is_of_one_model_one_weight_and_one_codec(model: Path, tokens: Path, tmp_path: Path) -> None:
    distill(settings(model, tokens, tmp_path / "run", steps=1))
    for changes, said in (({"guidance": 0.75}, "guidance 0.5"), ({"rank": 5}, "rank 4")):
        with pytest.raises(ValueError, match=said):
            distill(settings(model, tokens, tmp_path / "run", steps=2, **changes))
    save_transformer(transformer(3, dim=64), model, "coarse")
    with pytest.raises(ValueError, match="other weights"):
        distill(settings(model, tokens, tmp_path / "run", steps=2))
    with pytest.raises(ValueError, match="other weights"):
        export(tmp_path / "run", model)
    with pytest.raises(ValueError, match="train first"):
        export(tmp_path / "nothing", model)
    (tokens / "codebooks.safetensors").unlink()
    shard_files._save({"vectors": torch.randn(14, 1024, 16)}, tokens / "codebooks.safetensors")
    with pytest.raises(ValueError, match="another codec"):
        distill(settings(model, tokens, tmp_path / "other", steps=1))


def test_held_out_tokens_are_of_the_same_codec(model: Path, tokens: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held-out"
    shutil.copytree(tokens, held_out)
    shard_files._save({"vectors": torch.randn(14, 1024, 16)}, held_out / "codebooks.safetensors")
    with pytest.raises(ValueError, match="held-out holds tokens of another codec"):
        Distiller(settings(model, tokens, tmp_path / "run", valid=str(held_out)))


def uneven(folder: Path) -> Path:
    """Four rows of 28 to 31 time steps, and one of 50."""
    folder.mkdir()
    shard_files.keep_vectors(tiny_models()[0], folder)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1024, (14, steps), generator=generator).to(torch.int16) for steps in (28, 29, 30, 31, 50)]
    write_shard(folder, rows, ["a.wav"])
    return folder


def test_one_long_row_is_not_all_that_is_seen(
    model: Path, tokens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = uneven(tmp_path / "uneven")
    caplog.set_level("INFO")
    run = Distiller(settings(model, folder, tmp_path / "run", crop=0))
    assert run.crop == 30 and "2 of 5 rows are shorter than 30" in caplog.text
    run = Distiller(settings(model, tokens, tmp_path / "run", crop=50, valid=str(folder), valid_crops=6))
    crops, drawn = run.valid.crops, []
    monkeypatch.setattr(run.valid, "crops", lambda *how: drawn.append(crops(*how)) or drawn[-1])
    run.validate()
    assert len({tuple(crop.flatten().tolist()) for crop in drawn}) > 2


def test_the_command_goes_on_until_it_is_done_and_then_writes(
    model: Path, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--model", str(model), "--tokens", str(tokens), "--run", str(tmp_path / "run"), "--crop", "24", "--batch", "1"]
    assert main([*command, "--steps", "2", "--session-minutes", "0", "--export", str(model)]) == 3
    assert checkpoints.load(model).coarse.distilled is None
    assert main([*command, "--steps", "2", "--export", str(model)]) == 0
    assert checkpoints.load(model).coarse.distilled is not None
    assert main([*command, "--guidance", "3"]) == 2 and "at most 2" in capsys.readouterr().err


def test_matrices_in_whole_numbers_stay_in_them(model: Path, tokens: Path, tmp_path: Path) -> None:
    path = save_transformer(checkpoints.load(model).coarse, model, "coarse", int8=True)
    before = load_file(path)
    distill(settings(model, tokens, tmp_path / "run", steps=1))
    for _ in range(2):  # a run that went on is written again: it belongs to the same weights still
        after = load_file(export(tmp_path / "run", model))
        assert before.keys() < after.keys() and all(torch.equal(after[name], tensor) for name, tensor in before.items())
