"""What the tests of stage 2 share: a folder of token shards with a pattern to learn, and settings that learn it in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vampnet.train import shards as shard_files
from vampnet.train.shards import write_shard

SIZE = 64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two shards of a pattern that repeats every 4 steps, each level in its own way and each row with its own shift."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    shard_files._save({"vectors": torch.randn(4, SIZE, 4, generator=generator())}, folder / "codebooks.safetensors")
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
