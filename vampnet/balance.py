"""Tonal balance: how strong each band of frequency is in a clip, on the average over time, and how much it moves.

A take is made as loud as its source, and in the same way as bright and as lively: the tokens that a model draws are, clip by
clip, a little duller or brighter, fuller or thinner than those of the source, and their levels rise and fall a little more or
less (the paper has nothing of the kind). When something rises is the take's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MOST = 0.3454
"""No mean is moved by more, in nepers, and no moment by what it moves: 3 dB. What is farther off is other music and no other
balance; and how deep the silence between two hits is nobody hears, though to its logarithm it is most of all movement."""
MOST_MOVEMENT = 0.25
"""No movement is made larger or smaller by more, in nepers: a quarter."""
EDGES_HZ = (0.15, 1.0, 2.0, 3.5, 7.0, 12.0)
"""Movement is told apart by its rate, from each of these to the next and from the last on. Slower than the first is form."""
GROUP = 4
"""Bands whose movement is told together: one alone has too little of it in ten seconds."""
QUIET = 1e-5
"""Movement in nepers squared that is as good as none."""


@dataclass(frozen=True)
class Balance:
    """What sound is brought to.

    Attributes:
        levels: (1 or B, bands) float32: means over time of the logarithms of levels, in nepers.
        movement: (1 or B, rates, bands / GROUP) float32: powers of what these do around their means, in nepers squared.
        share: how much of the way, 0..1.
    """

    levels: Tensor
    movement: Tensor
    share: float = 1.0

    @classmethod
    def of(cls, levels: Tensor, steps_per_second: float, loop: bool = False) -> Balance:
        """That of sound with these levels.

        Args:
            levels: (B, T, bands) float, logarithms of the levels of bands at each time step, in nepers.
            steps_per_second: T of a second.
            loop: the time steps are a ring.
        """
        mean = levels.mean(dim=1)
        return cls(mean, _powers(_spectrum(levels - mean[:, None], loop), levels.shape[1], steps_per_second, loop))

    def to(self, device: str | torch.device, share: float) -> Balance:
        """The same on a device and with another share."""
        return Balance(self.levels.to(device), self.movement.to(device), share)

    def gains(self, levels: Tensor, steps_per_second: float, loop: bool = False) -> Tensor:
        """Levels of sound, as of `of`, -> (B, T, bands) gains in nepers that bring it there.

        A mean is moved by at most `MOST`. Movement is made larger or smaller by at most `MOST_MOVEMENT`, no moment of it by
        more than `MOST`, and nothing is moved in time.
        """
        steps, mean = levels.shape[1], levels.mean(dim=1, keepdim=True)
        moving = levels - mean
        spectrum = _spectrum(moving, loop)
        own, wanted = _powers(spectrum, steps, steps_per_second, loop), self.movement.to(levels.device)
        more = (0.5 * self.share * ((wanted + QUIET) / (own + QUIET)).log()).clamp(-MOST_MOVEMENT, MOST_MOVEMENT)
        over_rates = _over_rates(spectrum.shape[1], _rate_step(steps, steps_per_second, loop)).to(levels.device)
        factor = (over_rates @ more).exp().repeat_interleave(GROUP, dim=2)[..., : levels.shape[2]]
        moved = torch.fft.irfft(spectrum * factor, n=steps if loop else 2 * steps, dim=1)[:, :steps]
        moved.sub_(moving).clamp_(-MOST, MOST)
        return moved.add_(((self.levels.to(levels.device)[:, None] - mean) * self.share).clamp(-MOST, MOST))


def _spectrum(moving: Tensor, loop: bool) -> Tensor:
    """(B, T, bands) around its mean -> (B, F, bands) complex. What is no ring goes back the way it came: nothing jumps."""
    return torch.fft.rfft(moving if loop else torch.cat([moving, moving.flip(1)], dim=1), dim=1)


def _rate_step(steps: int, steps_per_second: float, loop: bool) -> float:
    """Hz from one number of `_spectrum` to the next."""
    return steps_per_second / (steps if loop else 2 * steps)


def _powers(spectrum: Tensor, steps: int, steps_per_second: float, loop: bool) -> Tensor:
    """(B, F, bands) -> (B, rates, bands / GROUP): mean powers of the bands of a group."""
    step = _rate_step(steps, steps_per_second, loop)
    edges = [min(math.ceil(edge / step), spectrum.shape[1]) for edge in EDGES_HZ] + [spectrum.shape[1]]
    power = torch.view_as_real(spectrum).square().sum(-1) * (2 * (step / steps_per_second) ** 2)
    rates = torch.stack([power[:, low:high].sum(dim=1) for low, high in zip(edges[:-1], edges[1:], strict=True)], dim=1)
    return torch.stack([group.mean(dim=2) for group in rates.split(GROUP, dim=2)], dim=2)


@lru_cache(maxsize=8)
def _over_rates(count: int, step: float) -> Tensor:
    """(F, rates): weights of a line over the logarithm of the rate, between the middles of what `EDGES_HZ` tells apart."""
    middles = [math.sqrt(low * high) for low, high in zip(EDGES_HZ, (*EDGES_HZ[1:], 2 * EDGES_HZ[-1]), strict=True)]
    places = torch.tensor([0.6 * EDGES_HZ[0], *middles], dtype=torch.float64).log()
    at = (torch.arange(count, dtype=torch.float64) * step).clamp_min(1e-9).log().clamp(places[0], places[-1])
    right = torch.searchsorted(places, at).clamp(1, len(places) - 1)
    share = (at - places[right - 1]) / (places[right] - places[right - 1])
    found = torch.zeros(count, len(places), dtype=torch.float64)
    found.scatter_(1, right[:, None], share[:, None]).scatter_(1, right[:, None] - 1, 1 - share[:, None])
    return found[:, 1:].float()
