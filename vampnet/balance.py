"""Tonal balance: how strong each band of frequency is in a clip, on the average over time.

A take is made as loud as its source, and in the same way as bright: the tokens that a model draws are, clip by clip, a little
duller or brighter, fuller or thinner than those of the source (the paper has nothing of the kind).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

MOST = 0.3454
"""No band is moved by more, in nepers: 3 dB. What is farther off is other music and no other balance."""


@dataclass(frozen=True)
class Balance:
    """What sound is brought to.

    Attributes:
        levels: (1 or B, bands) float32: means of the logarithms of levels, in nepers, of `Codec.tonal_balance`.
        share: how much of the way, 0..1.
    """

    levels: Tensor
    share: float = 1.0

    def gains(self, own: Tensor) -> Tensor:
        """Levels (B, bands) of sound -> (B, bands) gains in nepers that bring it there, of at most `MOST`."""
        return ((self.levels.to(own.device) - own) * self.share).clamp(-MOST, MOST)
