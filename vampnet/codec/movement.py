"""How decoded spectra move: an equaliser for it, over the time steps.

A decoder that has learned the mean of all that may be makes fine structure that moves too little: by half of what music does
between 3 and 12 Hz. Faster than that a window of 93 ms, of which the next one, 17 ms later, hears four fifths, shows next to
nothing of any partial; what is there in spite of that flutters from token to token, and phases cannot be found for it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .bands import over_frequency

if TYPE_CHECKING:
    from .spectral import SpectralCodecConfig

SLOW_HZ, FAST_HZ = 3.5, 12.0
"""What moves slower than the first is left as it is; faster than the second it flutters."""
SIDE = 8
"""Time steps to either side that are looked at."""


@lru_cache(maxsize=8)
def taps(rate: float, movement: float, flutter: float) -> tuple[float, ...]:
    """The middle and one side of a symmetric filter over time steps: SIDE + 1 numbers, the least squares to the gains.

    Args:
        rate: time steps a second.
        movement: gain from `SLOW_HZ` to `FAST_HZ`; from below it rises within a quarter of the former to either side.
        flutter: gain above, reached a quarter higher.

    Returns:
        Numbers that leave what does not move at all as it is.
    """
    omega = torch.linspace(0, math.pi, 256, dtype=torch.float64)
    hz = omega * rate / (2 * math.pi)
    middle, high = ((hz / SLOW_HZ - 0.75) * 2).clamp(0, 1), ((hz / FAST_HZ - 1) * 4).clamp(0, 1)
    wanted = (movement - 1) * middle * (1 - high) + (flutter - 1) * high
    # Without the middle tap, which is what the others leave of 1.
    waves = 2 * torch.cos(omega[:, None] * torch.arange(1, SIDE + 1)) - 2
    side = torch.linalg.lstsq(waves, wanted[:, None]).solution[:, 0]
    return (float(1 - 2 * side.sum()), *side.tolist())


def added(x: Tensor, start: int, stop: int, loop: bool, filtered: tuple[float, ...]) -> Tensor:
    """What a filter adds to the time steps start..stop of x.

    Args:
        x: (B, T, C) float.
        start, stop: 0 <= start < stop <= T.
        loop: x is a ring; else its ends go on as they are.
        filtered: of `taps`.

    Returns:
        (B, stop - start, C), of the type of x.
    """
    steps = torch.arange(start - SIDE, stop + SIDE, device=x.device)
    around = x[:, steps % x.shape[1] if loop else steps.clamp(0, x.shape[1] - 1)]
    n = stop - start
    out = around[:, SIDE:-SIDE] * (filtered[0] - 1)
    for away, weight in enumerate(filtered[1:], 1):
        out.add_(around[:, SIDE - away :][:, :n], alpha=weight).add_(around[:, SIDE + away :][:, :n], alpha=weight)
    return out


class Movement:
    """What is added to decoded features so that the fine structure of their spectra moves as wanted.

    Attributes:
        rows: of the features, those of the spectra.
    """

    def __init__(self, weight: Tensor, config: SpectralCodecConfig) -> None:
        """`weight` (inputs, dim) is that by which the codec makes features of what its decoder's blocks have heard."""
        c = config
        self.rows = c.frames * c.features
        self._taps = taps(c.sample_rate / c.hop, c.movement, c.flutter)
        fine = weight[: self.rows].unflatten(0, (c.frames, c.features))[:, : c.fine_bins].mT
        # A product with it is the fine structure of what is made, since both are linear, and nothing above the bins.
        self._weight = F.pad((fine - over_frequency(fine)).mT, (0, 0, 0, c.bands)).flatten(0, 1)

    def __call__(self, heard: Tensor, start: int, stop: int, loop: bool) -> Tensor:
        """For time steps start..stop of `heard` (B, T, dim): (B, stop - start, rows)."""
        return F.linear(added(heard, start, stop, loop, self._taps), self._weight)
