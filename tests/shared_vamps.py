"""What the tests of sharing share: a vamp that needs no model, somebody who owns it, a gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vampnet import audio
from vampnet.beats import make_grid
from vampnet.config import HOP, SAMPLE_RATE, Prompt, Sampling
from vampnet.gallery import Gallery
from vampnet.vamp import Vamp

SECRET_NAME = "Grandmother humming"
OWNER = "o" * 22


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "gallery")


def make_vamp(takes: int = 2, seconds: float = 0.3, seed: int = 7, name: str = SECRET_NAME) -> Vamp:
    """Noise as source and takes, tokens and a mask that fit, and beats."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * SAMPLE_RATE)
    steps = -(-samples // HOP)
    source, *made = (
        audio.make_signal(torch.from_numpy(0.2 * rng.standard_normal((1, 2, samples)).astype(np.float32)), SAMPLE_RATE)
        for _ in range(takes + 1)
    )
    source.path_to_file = f"/somewhere/{name}.wav"
    mask = torch.zeros(1, 14, steps, dtype=torch.bool)
    mask[..., 1::2] = True
    source_tokens = torch.from_numpy(rng.integers(0, 1024, (1, 14, steps)))
    tokens = torch.where(mask, torch.from_numpy(rng.integers(0, 1024, (takes, 14, steps))), source_tokens)
    grid = make_grid([0.0123, 0.1234, 0.2345], [0.0123], "librosa", "as in the noise")
    options = Prompt(periodic=2), Sampling(steps=5), seed, True, "tiny"
    return Vamp(source, made, tokens, source_tokens, mask, *options, beats=grid)
