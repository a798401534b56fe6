"""Stage 2, the loop: checkpoints, budgets, stopping, the average of the weights, configurations."""

import os
import signal
from pathlib import Path

import pytest
import torch

from vampnet.codec import SpectralCodec, SpectralCodecConfig
from vampnet.config import TransformerConfig
from vampnet.model.files import ROUNDED
from vampnet.model.stored import is_matrix
from vampnet.model.transformer import TokenTransformer
from vampnet.train.loop import Budget, StopRequest, WeightAverage, atomic_save, load_checkpoint, read_config, step_seed
from vampnet.train.settings import TrainConfig

CONFIGS = Path(__file__).parent.parent / "configs"


def test_checkpoints_are_whole_or_absent(tmp_path):
    path = tmp_path / "last.pt"
    assert load_checkpoint(path) is None
    atomic_save({"step": 1}, path)
    with pytest.raises((TypeError, AttributeError)):
        atomic_save({"step": 2, "bad": (x for x in [1])}, path)
    assert load_checkpoint(path) == {"step": 1}


def test_a_full_disk_is_said_and_leaves_the_checkpoint(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "last.pt"
    atomic_save({"step": 1}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as found:
            atomic_save({"step": 2, "weights": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.value.filename == str(path) and load_checkpoint(path) == {"step": 1} and list(tmp_path.iterdir()) == [path]


def test_budgets():
    budget = Budget(minutes=1, steps=None, elapsed=59.0)
    assert 0.98 < budget.progress(5) < 1 and not budget.done(5) and not budget.session_over()
    assert Budget(minutes=1, elapsed=60).done(0)
    assert Budget(steps=10).progress(5) == 0.5 and Budget(steps=10).done(10)
    assert Budget(session_minutes=0).session_over() and not Budget().done(10**9)


def test_seeds_of_steps_are_all_different():
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(200)}
    assert len(seeds) == 4000 and min(seeds) >= 0 and max(seeds) < 2**63


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM handler to send to oneself")
def test_a_signal_asks_to_stop():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest.listening() as stop:
        assert not stop
        signal.raise_signal(signal.SIGTERM)
        assert stop
    assert signal.getsignal(signal.SIGTERM) is before


def test_weight_average_follows_and_steps_back():
    model = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.9)
    torch.nn.init.ones_(model.weight)
    average.update(model)
    assert average.weights()["weight"].mean().item() == pytest.approx(1 - 2 / 11)
    with average.applied(model):
        assert model.weight.mean().item() == pytest.approx(1 - 2 / 11)
    assert model.weight.mean().item() == 1
    for _ in range(200):
        average.update(model)
    assert average.weights()["weight"].mean().item() == pytest.approx(1, abs=1e-6)


def test_configuration_files_and_changes(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("model: {dim: 8}\npeak: 1.0e-3\n")
    assert read_config(path, ["model.dim=16", "run=x", "minutes=2.5"]) == {
        "model": {"dim": 16}, "peak": 1e-3, "run": "x", "minutes": 2.5,
    }  # fmt: skip
    for change in ("dim", "peak.x=1"):
        with pytest.raises(ValueError):
            read_config(path, [change])
    with pytest.raises(ValueError, match="model.width"):
        TrainConfig.from_dict({"model": {"width": 3}, "train": "a", "run": "b"})
    with pytest.raises(ValueError, match="'train'"):
        TrainConfig.from_dict({"run": "b"})


@pytest.mark.parametrize("run", ["mini", "mini-gpu"])
def test_shipped_configurations_fit_the_bundle(run):
    """Codec, coarse and fine model of a run, as they lie on the disk, take at most 60 MB."""
    codec = SpectralCodec(SpectralCodecConfig(**read_config(CONFIGS / f"{run}-codec.yaml")["model"]))
    size = 2 * sum(x.numel() for x in codec.state_dict().values())
    for which in ("coarse", "fine"):
        config = TrainConfig.from_dict(read_config(CONFIGS / f"{run}-{which}.yaml"))
        with torch.device("meta"):
            model = TokenTransformer(TransformerConfig(**config.model))
        assert (model.config.n_conditioning > 0) == (which == "fine")
        matrices = [p for name, p in model.named_parameters() if name.startswith(ROUNDED) and is_matrix(p.shape)]
        numbers = sum(p.numel() for p in matrices)
        # A byte a number and four a row; all else is in half precision.
        size += numbers + sum(4 * p.numel() // p.shape[-1] for p in matrices)
        size += 2 * (sum(p.numel() for p in model.parameters()) - numbers)
    assert size < 59e6


@pytest.mark.parametrize(
    "setting",
    [
        {"peak": -1.0}, {"peak": float("nan")}, {"average": 2.0}, {"clip": 0.0}, {"crop": -5}, {"micro_batch": -2},
        {"minutes": -1.0}, {"steps": -1}, {"valid_crops": -3}, {"bfloat16": "x"}, {"weight_decay": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_settings_out_of_their_range_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        TrainConfig(train="a", run="b", **setting)


def test_settings_that_are_no_numbers_are_named():
    for given, words in (({"steps": 10**400}, "steps must be a number"), ({1: 2, "x": 3}, "There is no setting")):
        with pytest.raises(ValueError, match=words):
            TrainConfig.from_dict({"train": "a", "run": "b", **given})
