"""Stage 2: the training loop, its resumption, what a run begins with and what comes of it."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_tools
from safetensors.torch import load_file, save_file
from train_tools import SIZE, generator, settings

from vampnet.config import TransformerConfig
from vampnet.model.files import load_transformer
from vampnet.model.transformer import TokenTransformer, without_guide
from vampnet.train import transformer
from vampnet.train.loop import (
    in_bfloat16,
    load_checkpoint,
)
from vampnet.train.optimizer import Muon
from vampnet.train.settings import TrainConfig
from vampnet.train.shards import TokenData, write_shard
from vampnet.train.transformer import Trainer, export, main, train
from vampnet.train.validation import unigram, validate, validation_masks

shards = train_tools.shards
pytestmark = pytest.mark.usefixtures("one_thread")


# ----------------------------------------------------------------------------------------------------------------- training


def test_learns_a_repeating_pattern(shards, tmp_path):
    changes = {"peak": 5e-3, "crop": 24, "batch": 8, "micro_batch": 0, "average": 0.9, "valid": str(shards), "valid_crops": 8}
    result = train(settings(shards, tmp_path / "run", steps=150, **changes), progress=False)
    assert result["done"] and result["step"] == 150
    valid = result["valid"]
    # What the frequencies give: one of four codes. What the pattern gives: nearly everything, but where all is hidden.
    assert valid["unigram_accuracy"] < 0.35 and valid["unigram_cross_entropy"] > 1.3
    assert sum(valid["by_mask"]["50%"]["accuracy"]) / 4 > 0.9
    assert sum(valid["by_mask"]["25%"]["cross_entropy"]) / 4 < 0.5
    assert sum(valid["by_mask"]["p7"]["accuracy"]) / 4 > 0.5
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 150 and sum(losses[-20:]) / 20 < math.log(SIZE) / 3
    assert {"start", "train", "valid"} == {line["kind"] for line in lines}


def test_bfloat16_is_where_it_is_fast_or_wanted(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert in_bfloat16(True, cpu) and not in_bfloat16(False, gpu) and in_bfloat16("auto", gpu)
    for fast in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert in_bfloat16("auto", cpu) == fast
    with pytest.raises(ValueError, match="true, false or auto"):
        in_bfloat16("yes", cpu)


def test_bfloat16_learns_nearly_the_same(shards, tmp_path):
    losses = {}
    for half in (False, True):
        result = train(settings(shards, tmp_path / str(half), steps=6, bfloat16=half), progress=False)
        losses[half] = result["loss"]
    assert losses[True] != losses[False] and losses[True] == pytest.approx(losses[False], rel=0.02)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_is_the_uninterrupted_run(shards, tmp_path, optimizer):
    whole, parts = (settings(shards, tmp_path / name, optimizer=optimizer) for name in ("whole", "parts"))
    train({**whole, "steps": 9}, progress=False)
    trainer = Trainer(TrainConfig.from_dict({**parts, "steps": 9}))
    for number in range(4):
        trainer.train_step(number / 9)
    trainer.save(1.0)
    trainer.train_step(4 / 9)  # lost, as after a kill
    result = train({**parts, "steps": 9}, progress=False)
    assert result["step"] == 9 and result["elapsed"] > 1.0
    a, b = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for name, value in a["model"].items():
        assert torch.equal(value, b["model"][name]), name
    for name, value in a["average"]["values"].items():
        assert torch.equal(value, b["average"]["values"][name]), name
    fresh = TokenTransformer(TransformerConfig(**whole["model"]), TokenData(shards).codebooks)
    assert any(not torch.allclose(p, a["model"][n], atol=1e-3) for n, p in fresh.named_parameters())


def test_matrices_orthogonalised_together_move_as_one_by_one():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in [(6, 4), (4, 6), (6, 4), (4, 4)]]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    both = Muon(ours, 0.1, 0.01), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape)
            other.grad = mine.grad.clone()
        for optimizer in both:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-3)  # bfloat16 in between
    both[1].load_state_dict(both[0].state_dict())  # and a run of either can be gone on with by the other


def test_runs_of_earlier_versions_go_on(shards, tmp_path):
    train(settings(shards, tmp_path / "run", steps=2), progress=False)
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    state["optimizer"] = state["optimizer"]["parts"][0]
    torch.save(state, tmp_path / "run" / "last.pt")
    assert train(settings(shards, tmp_path / "run", steps=4), progress=False)["step"] == 4


def test_a_run_does_not_go_on_with_the_tokens_of_another_codec(shards, tmp_path):
    train(settings(shards, tmp_path / "run", steps=2), progress=False)
    other = torch.randn(4, SIZE, 4, generator=generator(1))
    save_file({"vectors": other}, shards / "codebooks.safetensors")
    with pytest.raises(ValueError, match="another codec"):
        train(settings(shards, tmp_path / "run", steps=4), progress=False)


@pytest.mark.parametrize("width", [4, 5])
def test_held_out_tokens_are_of_the_same_codec(shards, tmp_path, width):
    held_out = tmp_path / "held-out"
    shutil.copytree(shards, held_out)
    save_file({"vectors": torch.randn(4, SIZE, width, generator=generator(1))}, held_out / "codebooks.safetensors")
    with pytest.raises(ValueError, match="held-out holds tokens of another codec"):
        Trainer(TrainConfig.from_dict(settings(shards, tmp_path / "run", valid=str(held_out))))


def test_music_shorter_than_the_context_is_trained_on_crops(shards, tmp_path, caplog):
    config = settings(shards, tmp_path / "run", steps=4, context_share=1.0)
    config["model"] = {**config["model"], "context": 400}
    caplog.set_level("INFO")
    assert train(config, progress=False)["done"] and "No piece has 400 time steps" in caplog.text
    train(config, progress=False)
    assert "used up" in caplog.text


def test_one_long_row_is_not_all_that_is_measured(shards, tmp_path, monkeypatch):
    config = settings(shards, tmp_path / "run", valid=str(shards))
    config["model"] = {**config["model"], "context": 400}
    trainer, asked = Trainer(TrainConfig.from_dict(config)), []
    monkeypatch.setattr(transformer, "validate", lambda model, data, counts, crop, crops: asked.append(crop))
    trainer.validate()
    assert asked == [44]  # of rows of 40 to 47 time steps


def test_optimizers_are_not_exchanged_in_a_run(shards, tmp_path):
    train(settings(shards, tmp_path / "run", optimizer="muon", steps=1), progress=False)
    with pytest.raises(ValueError, match="another optimizer"):
        train(settings(shards, tmp_path / "run", steps=2), progress=False)
    with pytest.raises(ValueError, match="choose one of adamw, muon"):
        Trainer(TrainConfig.from_dict(settings(shards, tmp_path / "other", optimizer="sgd")))
    trainer = Trainer(TrainConfig.from_dict(settings(shards, tmp_path / "third", optimizer="muon")))
    moved = [p for part in trainer.optimizer.parts for group in part.param_groups for p in group["params"]]
    assert sorted(map(id, moved)) == sorted(map(id, trainer.model.parameters()))
    layers = {id(p) for n, p in trainer.model.named_parameters() if n.startswith("layers.") and p.ndim == 2}
    assert {id(p) for p in trainer.optimizer.parts[1].param_groups[0]["params"]} == layers


def test_parts_of_a_batch_give_the_gradient_of_the_whole(shards, tmp_path):
    norms = []
    for size in (1, 3, 4):
        config = settings(shards, tmp_path / "run", micro_batch=size, context_share=0.0)
        config["model"] = {**config["model"], "dropout": 0.0}
        norms.append(Trainer(TrainConfig.from_dict(config)).train_step(0.0)["grad_norm"])
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-4)


@pytest.mark.parametrize(("given", "read"), [("1e-3", 1e-3), (2, 2)])
def test_numbers_without_a_point(given, read):
    assert TrainConfig.from_dict({"train": "a", "run": "b", "peak": given}).peak == read
    with pytest.raises(ValueError, match="must be a number"):
        TrainConfig.from_dict({"train": "a", "run": "b", "peak": "fast"})


def test_sessions_end_in_time_and_go_on(shards, tmp_path):
    config = settings(shards, tmp_path / "run", session_minutes=0.0, minutes=10.0)
    assert train(config, progress=False)["done"] is False
    with pytest.raises(ValueError, match="another model shape"):
        train({**config, "model": {**config["model"], "layers": 1}}, progress=False)


def test_export_writes_the_average_for_strict_loading(shards, tmp_path):
    conditioned = settings(shards, tmp_path / "fine", steps=3)
    conditioned["model"] = {**conditioned["model"], "n_conditioning": 2}
    train(conditioned, progress=False)
    train(settings(shards, tmp_path / "coarse", steps=3), progress=False)
    out = tmp_path / "model"
    assert export(tmp_path / "coarse", out).name == "coarse.safetensors"
    assert main(["export", "--run", str(tmp_path / "fine"), "--out", str(out)]) == 0
    assert set(json.loads((out / "config.json").read_text())) == {"coarse", "fine"}
    state = load_checkpoint(tmp_path / "fine" / "last.pt")
    average = without_guide({**state["model"], **state["average"]["values"]})
    model = load_transformer(out, "fine", TokenData(shards).codebooks)
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, average[name], atol=2e-3, rtol=2e-3), name
    with pytest.raises(ValueError, match="train first"):
        export(tmp_path / "nothing", out)
    (tmp_path / "codec").mkdir()
    torch.save({"config": {"dim": 8}}, tmp_path / "codec" / "last.pt")
    with pytest.raises(ValueError, match="no run of a transformer"):
        export(tmp_path / "codec", out)


def test_validation_masks_and_baseline(shards):
    data = TokenData(shards)
    tokens = data.crops(3, 21, generator())
    masks = validation_masks(tokens, 1)
    assert list(masks) == ["25%", "50%", "75%", "100%", "p7"]
    assert not any(mask[:, :1].any() for mask in masks.values()) and masks["100%"][:, 1:].all()
    assert (~masks["p7"][0, 1]).nonzero().flatten().tolist() == [0, 7, 14]
    accuracy, entropy = unigram(data.counts(SIZE), tokens)
    counts = data.counts(SIZE).float() + 1
    for level in range(4):
        codes = tokens[:, level].flatten()
        assert accuracy[level].item() == pytest.approx((codes == counts[level].argmax()).float().mean().item())
        p = counts[level] / counts[level].sum()
        assert entropy[level].item() == pytest.approx(-p[codes].log().mean().item(), rel=1e-5)
    model = TokenTransformer(TransformerConfig(**settings(shards, Path("x"))["model"]), data.codebooks).train()
    first, again = (validate(model, data, data.counts(SIZE), 24, crops=3, batch=2) for _ in range(2))
    assert first == again and model.training
    assert first["cross_entropy"] == pytest.approx(math.log(SIZE), abs=0.3)


def test_the_command_trains_and_says_what_is_wrong(shards, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps(settings(shards, tmp_path / "run", steps=2)))
    command = [sys.executable, "-m", "vampnet.train.transformer"]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [*command, "coarse", "--config", str(config), "--set", "peak=1e-4"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "last.pt").is_file() and done.stdout == ""
    assert main(["coarse", "--config", str(config), "--session-minutes", "0", "--steps", "9"]) == 3
    assert main(["fine", "--config", str(config)]) == 2
    assert main(["coarse", "--config", str(config), "--set", "typo=1"]) == 2


def test_layers_that_are_added_change_nothing_before_the_first_step(shards, tmp_path):
    train(settings(shards, tmp_path / "first", steps=2), progress=False)
    export(tmp_path / "first", tmp_path / "model")
    data = TokenData(shards)
    given = load_transformer(tmp_path / "model", "coarse", data.codebooks)
    deeper = settings(shards, tmp_path / "deeper", start=str(tmp_path / "model"), start_codes=True, steps=3)
    deeper["model"] = {**deeper["model"], "layers": 4}
    trainer = Trainer(TrainConfig.from_dict(deeper))
    tokens = data.crops(2, 12, generator())[:, :4]
    with torch.no_grad():
        assert torch.equal(trainer.model.eval()(tokens), given(tokens))
    train(deeper, progress=False)
    export(tmp_path / "deeper", tmp_path / "grown")
    grown = load_transformer(tmp_path / "grown", "coarse", data.codebooks)
    assert len(grown.layers) == 4
    assert all(grown.layers[3].get_parameter(f"{part}.weight").abs().max() > 0 for part in ("attention.out", "attention.qkv"))


def test_music_that_comes_while_it_learns_is_learned_from_too(shards, tmp_path):
    config = settings(shards, tmp_path / "run", grow_every=3)
    trainer = Trainer(TrainConfig.from_dict(config))
    rows = len(trainer.data)
    trainer.train_step(0.0)
    write_shard(shards, [torch.full((4, 30), 3, dtype=torch.int16)], ["late.wav"], [(2.0, 20.0)])
    other = Trainer(TrainConfig.from_dict(settings(shards, tmp_path / "run")))
    assert (len(trainer.data), len(other.data)) == (rows, rows + 1)
    for _ in range(3):
        trainer.train_step(0.0)
    assert len(trainer.data) == rows + 1 and trainer.data.grow() == 0
    assert torch.equal(trainer.data.codes, other.data.codes) and trainer.data.steps == other.data.steps
    assert torch.equal(trainer.data.beats.nan_to_num(), other.data.beats.nan_to_num())
    places = [(rows, 5)]
    assert torch.equal(trainer.data.at(places, 12), torch.full((1, 4, 12), 3))
    assert trainer.data.beats_at(places).tolist() == [[17.0, 20.0]]
    before = trainer.data.codes
    write_shard(shards, [torch.full((4, 20), 5, dtype=torch.int16)], ["later.wav"])
    assert trainer.data.grow() == 1 and torch.equal(trainer.data.codes, TokenData(shards).codes)
    assert trainer.data.codes.data_ptr() == before.data_ptr()  # there was room: what was there has not been copied


def test_a_run_can_start_from_the_layers_of_another_model(shards, tmp_path):
    train(settings(shards, tmp_path / "first", steps=2), progress=False)
    export(tmp_path / "first", tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["coarse"]["label_smoothing"] == 0.1
    trainer = Trainer(TrainConfig.from_dict(settings(shards, tmp_path / "second", start=str(tmp_path / "model"), seed=7)))
    given = load_transformer(tmp_path / "model", "coarse", TokenData(shards).codebooks).state_dict()
    for name, tensor in trainer.model.state_dict().items():
        if name.startswith(("layers.", "bias.", "norm.")):
            assert torch.equal(tensor, given[name]), name
    assert not torch.equal(trainer.model.input.weight, given["input.weight"])
    same = settings(shards, tmp_path / "same", start=str(tmp_path / "model"), start_codes=True, seed=7)
    kept = without_guide(Trainer(TrainConfig.from_dict(same)).model.state_dict())
    assert all(torch.equal(tensor, given[name]) for name, tensor in kept.items())
    other = settings(shards, tmp_path / "third", start=str(tmp_path / "model"))
    for change in ({"layers": 1}, {"dim": 16}):
        other["model"] = {**same["model"], **change}
        with pytest.raises(ValueError, match="another shape"):
            Trainer(TrainConfig.from_dict(other))
    weights = load_file(tmp_path / "model" / "coarse.safetensors")
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    save_file({f"other.{name}": tensor for name, tensor in weights.items()}, renamed / "coarse.safetensors")
    with pytest.raises(ValueError, match="another shape"):
        Trainer(TrainConfig.from_dict(settings(shards, tmp_path / "fifth", start=str(renamed), start_codes=True)))
    with pytest.raises(ValueError, match="no .*coarse.safetensors"):
        Trainer(TrainConfig.from_dict(settings(shards, tmp_path / "fourth", start=str(tmp_path))))
