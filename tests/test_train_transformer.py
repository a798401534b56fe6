"""Stage 2: schedules, masks, token shards, the training loop and its resumption."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from vampnet.config import TransformerConfig
from vampnet.model.transformer import TokenTransformer, load_transformer, without_guide
from vampnet.train import masking
from vampnet.train import tokens as token_files
from vampnet.train.loop import (
    in_bfloat16,
    load_checkpoint,
)
from vampnet.train.masking import _beats, prompt_mask, training_masks
from vampnet.train.schedule import cooldown, mask_shares, noam
from vampnet.train.settings import TrainConfig
from vampnet.train.tempo import beat_comment, beat_of
from vampnet.train.tokens import TokenData, encode_folders, write_shard
from vampnet.train.transformer import Trainer, export, main, train
from vampnet.train.validation import unigram, validate, validation_masks

SIZE = 64
CONFIGS = Path(__file__).parent.parent / "configs"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose time on the way between threads; and trainings set the number for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two shards of a pattern that repeats every 4 steps, each level in its own way and each row with its own shift."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    token_files._save({"vectors": torch.randn(4, SIZE, 4, generator=generator())}, folder / "codebooks.safetensors")
    rows = []
    for row in range(8):
        steps = torch.arange(40 + row) + row
        rows.append(torch.stack([(steps % 4) * 5 + 7 * level for level in range(4)]).to(torch.int16))
    write_shard(folder, rows[:5], ["a.wav"])
    write_shard(folder, rows[5:], ["b.wav", "c.wav"])
    return folder


def settings(shards: Path, run: Path, **changes) -> dict:
    model = {"n_codebooks": 4, "codebook_size": SIZE, "codebook_dim": 4, "dim": 32, "layers": 2, "heads": 2, "context": 24}
    base = {
        "model": model,
        "train": str(shards),
        "run": str(run),
        "crop": 12,
        "context_share": 0.3,
        "batch": 4,
        "micro_batch": 3,
    }
    return {
        **base,
        "prompt_share": 0.25,
        "warmup": 20,
        "bfloat16": False,
        "device": "cpu",
        "tensorboard": False,
        "log_every": 1,
        "threads": 1,
        **changes,
    }


# ---------------------------------------------------------------------------------------------------------------- schedules


def test_noam_rises_then_falls_as_the_inverse_square_root():
    rates = [noam(step, 2e-3, 10) for step in range(1, 200)]
    assert rates[9] == pytest.approx(2e-3) and max(rates) == rates[9]
    assert rates[4] == pytest.approx(1e-3)
    assert rates[39] == pytest.approx(1e-3)
    with pytest.raises(ValueError):
        noam(0, 1.0, 10)


def test_cooldown_is_linear_over_the_last_share():
    assert [cooldown(p, 0.2) for p in (0, 0.5, 0.8)] == pytest.approx([1, 1, 1])
    assert cooldown(0.9, 0.2) == pytest.approx(0.5) and cooldown(1.0, 0.2) == 0 and cooldown(1.0, 0) == 1


def test_mask_shares_follow_the_cosine_and_cover_it_in_every_batch():
    batches = torch.stack([mask_shares(16, generator(seed)) for seed in range(300)])
    assert batches.mean().item() == pytest.approx(2 / math.pi, abs=0.01)
    # One r lies in every sixteenth of [0, 1).
    r = torch.acos(batches) / (math.pi / 2)
    counts = torch.stack([torch.bincount((row * 16 - 1e-4).floor().clamp(0, 15).long(), minlength=16) for row in r])
    assert (counts - 1).abs().float().mean() < 0.05
    assert batches[:, 0].std() > 0.2  # no place in the batch is always easy


def test_training_masks_hide_the_drawn_share_and_never_the_conditioning():
    masks = torch.cat([training_masks(8, 6, 100, 2, 0.0, generator(seed)) for seed in range(40)])
    assert not masks[:, :2].any()
    hidden = masks[:, 2:].float()
    assert hidden.mean().item() == pytest.approx(2 / math.pi, abs=0.02)
    shares = hidden.mean(dim=(1, 2))
    assert shares.min() < 0.15 and shares.max() > 0.95
    # Random over levels and time alike: no level and no step is preferred.
    assert hidden.mean(dim=(0, 2)).std() < 0.02 and hidden.mean(dim=(0, 1)).std() < 0.05


def test_training_masks_always_hide_something():
    masks = torch.cat([training_masks(64, 3, 2, 1, 0.9, generator(seed)) for seed in range(20)])
    assert masks.flatten(1).any(dim=1).all()


def test_prompt_masks_keep_some_and_leave_some():
    shares = torch.stack([prompt_mask(4, 100, generator(seed)).float().mean() for seed in range(200)])
    assert (shares > 0).all() and (shares < 1).float().mean() > 0.9 and shares.std() > 0.1
    plain, prompted = (
        torch.stack([training_masks(8, 4, 50, 0, p, generator(s)) for s in range(20)]).float().mean() for p in (0, 1)
    )
    assert prompted < plain - 0.1


def test_some_examples_show_nothing():
    masks = torch.cat([training_masks(8, 6, 50, 2, 1.0, generator(s), 0.25) for s in range(40)])
    assert masks[:, 2:].flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert not masks[:, :2].any()


def test_prompts_around_beats_are_steady():
    widths = set()
    for seed in range(60):
        beat = (5.3, 31.7) if seed % 2 else (math.nan, math.nan)
        kept = ~_beats((4, 300), generator(seed), beat)
        assert torch.equal(kept, kept[:1].expand_as(kept))
        starts = (kept[0, 1:] & ~kept[0, :-1]).nonzero()[:, 0] + 1
        gaps = starts.diff()
        assert 18 <= gaps.min() and gaps.max() <= 58 and gaps.max() - gaps.min() <= 1
        if seed % 2:  # known beats, up to a step early or late
            off = (starts - 5.3 + 16) % 31.7 - 16
            assert off.min() >= -2 and off.max() <= 1
        widths.add(round(float(kept.float().mean() * gaps.float().mean())))
    assert min(widths) <= 2 and max(widths) >= 9


def test_only_comments_of_the_composer_say_where_beats_are(tmp_path):
    for number, (comment, beat) in enumerate([
        (beat_comment(0.0, 0.5123456), (0.0, 0.5123456)), ("made by me", None), ("", None), (beat_comment(1.0, 0.001), None),
        ("vampnet beats: first 1.2.3 s, every . s", None),
    ]):  # fmt: skip
        path = tmp_path / f"{number}.flac"
        with soundfile.SoundFile(path, "w", 8000, 1) as file:
            if comment:
                file.comment = comment
            file.write(np.zeros(800))
        assert beat_of(path) == beat
    (tmp_path / "text.wav").write_text("no audio")
    assert beat_of(tmp_path / "text.wav") is None and beat_of(tmp_path / "none.wav") is None


def test_beats_are_those_of_the_crop(tmp_path):
    rows = [torch.arange(4 * 200).view(4, 200).remainder(1024).short() for _ in range(3)]
    write_shard(tmp_path, rows, ["a", "b", "c"], [(7.5, 20.0), None, (0.0, 33.0)])
    save_file({"vectors": torch.zeros(4, 1024, 2)}, tmp_path / "codebooks.safetensors")
    data = TokenData(tmp_path)
    places = [(0, 0), (0, 10), (0, 8), (1, 3), (2, 34)]
    beats = data.beats_at(places)
    assert beats[[0, 1, 2, 4]].tolist() == [[7.5, 20.0], [17.5, 20.0], [19.5, 20.0], [32.0, 33.0]] and beats[3].isnan().all()
    assert torch.equal(data.at(places, 50)[1], rows[0][:, 10:60].long())


def test_prompts_are_made_of_the_beats_of_their_crops(shards, tmp_path, monkeypatch):
    asked = []

    def beats(shape, generator, beat):
        asked.append(beat)
        return _beats(shape, generator, beat)

    monkeypatch.setattr(masking, "_beats", beats)
    own = torch.tensor([[float(row), 100.0 + row] for row in range(6)])
    for seed in range(20):
        training_masks(6, 4, 60, 0, 1.0, generator(seed), 0.0, own)
    assert set(asked) == {tuple(row) for row in own.tolist()}
    asked.clear()
    trainer = Trainer(TrainConfig.from_dict(settings(shards, tmp_path / "run", prompt_share=1.0)))
    trainer.data.beats = torch.full((len(trainer.data), 2), 1000.0)
    for seed in range(20):
        trainer.draw(generator(seed))
    assert asked and all(gap == 1000.0 and 0 <= first <= 1000 for first, gap in asked)


# -------------------------------------------------------------------------------------------------------------- token files


def test_crops_are_pieces_of_rows_and_reach_every_place(shards):
    data = TokenData(shards)
    assert len(data) == 8 and data.steps == sum(range(40, 48))
    crops = data.crops(600, 40, generator())
    assert crops.shape == (600, 4, 40) and crops.dtype == torch.int64
    rows = [data.codes[:, a:b].long() for a, b in zip(data.starts[:-1], data.starts[1:], strict=True)]
    possible = {tuple(row[:, a : a + 40].flatten().tolist()) for row in rows for a in range(row.shape[1] - 39)}
    assert {tuple(crop.flatten().tolist()) for crop in crops} == possible
    with pytest.raises(ValueError, match="48 time steps"):
        data.crops(1, 48, generator())
    assert data.counts(SIZE).sum(dim=1).tolist() == [data.steps] * 4


def test_a_folder_without_tokens_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no tokens"):
        TokenData(tmp_path)


class LoudCodec:
    """Codes that tell the loudness of each hop, so that a test can see what was encoded."""

    sample_rate, hop = 8000, 80

    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        audio = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % self.hop))
        level = (audio.view(1, -1, self.hop).pow(2).mean(-1).sqrt() * 1000).long()
        return level[:, None].expand(1, 4, -1).clamp(max=SIZE - 1)

    def codebook_vectors(self) -> torch.Tensor:
        return torch.ones(4, SIZE, 4)


def test_folders_are_encoded_once_and_gone_on_with(tmp_path, caplog):
    audio, out = tmp_path / "audio", tmp_path / "out"
    (audio / "deep").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (8000 * 31, 2))
    soundfile.write(audio / "long.wav", noise, 8000)
    soundfile.write(audio / "deep" / "quiet.flac", noise[: 8000 * 2, 0] * 0.01, 8000)
    (audio / "text.wav").write_text("no audio")
    first = encode_folders(LoudCodec(), [audio], out, "all", progress=False)
    assert first == {"files": 2, "skipped": 0, "failed": 1, "rows": 7, "steps": 3 * (3000 + 100) + 200}
    assert "text.wav" in caplog.text
    data = TokenData(out)
    assert sorted(data.lengths.tolist()) == [100, 100, 100, 200, 3000, 3000, 3000]
    # Both files were at -24 LUFS when they were encoded, although one is 40 dB softer.
    quiet = data.codes[0, data.starts[0] : data.starts[1]].float().mean()
    loud = data.codes[0, data.starts[1] : data.starts[2]].float().mean()
    assert len(data.codes[0, data.starts[0] : data.starts[1]]) == 200 and abs(quiet - loud) < 0.15 * loud
    soundfile.write(audio / "new.wav", noise[:16000, 0], 8000)
    assert encode_folders(LoudCodec(), [audio], out, progress=False) == {
        "files": 1, "skipped": 2, "failed": 1, "rows": 1, "steps": 200,
    }  # fmt: skip
    data = TokenData(out)
    assert len(data) == 8 and data.beats.isnan().all()
    with soundfile.SoundFile(audio / "steady.wav", "w", 8000, 1) as file:
        file.comment = beat_comment(0.25, 0.5)
        file.write(noise[:16000, 0])
    encode_folders(LoudCodec(), [audio], out, progress=False)
    assert TokenData(out).beats[-1].tolist() == [25.0, 50.0]
    with soundfile.SoundFile(audio / "zz long and wide.flac", "w", 8000, 2) as file:
        file.comment = beat_comment(0.25, 0.7)
        file.write(noise[: 8000 * 31])
        file.write(noise[: 8000 * 10])
    encode_folders(LoudCodec(), [audio], out, "all", progress=False)
    beats = TokenData(out).beats[-6:]  # two pieces of each of three views
    assert beats[::2].tolist() == [pytest.approx([25.0, 70.0], abs=1e-3)] * 3
    assert beats[1::2].tolist() == [pytest.approx([(25.0 - 3000) % 70, 70.0], abs=1e-2)] * 3
    other = LoudCodec()
    other.codebook_vectors = lambda: torch.zeros(4, SIZE, 4)
    with pytest.raises(ValueError, match="another codec"):
        encode_folders(other, [audio], out, progress=False)


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


def test_runs_of_earlier_versions_go_on(shards, tmp_path):
    train(settings(shards, tmp_path / "run", steps=2), progress=False)
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    state["optimizer"] = state["optimizer"]["parts"][0]
    torch.save(state, tmp_path / "run" / "last.pt")
    assert train(settings(shards, tmp_path / "run", steps=4), progress=False)["step"] == 4


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
    other["model"] = {**other["model"], "layers": 3}
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
