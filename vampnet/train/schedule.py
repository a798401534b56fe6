"""Learning rates and mask shares: pure functions of the step."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def noam(step: int, peak: float, warmup: int, hold: bool = False) -> float:
    """Inverse square root after a linear warm-up (Vaswani et al. 2017; the paper's section 4): `peak` at step `warmup`.

    Args:
        step: 1 for the first.
        peak: the highest learning rate.
        warmup: steps until then, at least 1.
        hold: it stays there.

    Raises:
        ValueError: `step` or `warmup` is below 1.
    """
    if step < 1 or warmup < 1:
        raise ValueError(f"Steps and warm-up count from 1, and they are {step} and {warmup}.")
    return peak * min(step / warmup, 1.0 if hold else math.sqrt(warmup / step))


def cooldown(progress: float, share: float = 0.2) -> float:
    """Factor on the learning rate: 1 until the last `share` of the training, then linearly to 0 at `progress` = 1.

    A model stopped at a high learning rate is worse than the same model after a short descent, so a run whose end is known
    spends its last part on that. `share` 0 = no cooldown.
    """
    if share <= 0:
        return 1.0
    return min(1.0, max(0.0, (1.0 - progress) / share))


def mask_shares(count: int, generator: torch.Generator) -> Tensor:
    """Mask probabilities cos(pi/2 r), r in [0, 1), of `count` items (paper section 3.2, the schedule of MaskGIT).

    The r are equidistant with one random shift, in a random order: each is uniform, and together they cover [0, 1) evenly,
    so that no step sees only easy or only hard masks.

    Returns:
        (count,) float32 in (0, 1], on the CPU.
    """
    shift = torch.rand((), generator=generator)
    r = (torch.arange(count) / count + shift) % 1.0
    return torch.cos(r[torch.randperm(count, generator=generator)] * (math.pi / 2)).clamp(min=1e-6)
