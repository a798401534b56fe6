"""A second signal that sounds like a first one and is independent of it: what is wide in a stereo image is made of it."""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from vampnet import scratch

LENGTH = 4096
"""Samples of the response: half of it before the sound, half of it after."""


def span(x: torch.Tensor, ring: int, start: int, stop: int) -> torch.Tensor:
    """Samples start to stop of a ring on which (N,) lies, N <= ring, with silence behind it."""
    if 0 <= start and stop <= len(x):
        return x[start:stop]
    out, at = x.new_zeros(stop - start), start
    while at < stop:
        first = at % ring
        last = min(first + stop - at, ring)
        part = x[first:last]
        out[at - start : at - start + len(part)] = part
        at += last - first
    return out


@lru_cache(maxsize=4)
def _allpass(rate: int) -> torch.Tensor:
    """(LENGTH,) impulse response of the decorrelator; index 0 is time 0, and the second half lies before it.

    An allpass whose phase goes down a staircase, +90 degrees, -90, -270 ..., a few steps to each ear's critical band and at
    least 27 Hz apart. At a quarter of a turn m + d and m - d are equally loud at every frequency, so that nothing is coloured
    as by random phases or a delay; from step to step the signs change, so that the two are independent over a band.
    """
    frequency = torch.arange(LENGTH // 2 + 1, dtype=torch.float64) * rate / LENGTH
    phase = torch.full_like(frequency, math.pi / 2)
    generator = torch.Generator().manual_seed(2023)
    step = 27.0
    while step < rate / 2:
        spacing = max(27.0, 24.7 * (1 + 0.00437 * step) / 3)
        turned = ((frequency - step) / (0.6 * spacing) + 0.5).clamp(0, 1)
        phase -= math.pi * turned.square() * (3 - 2 * turned)
        step += spacing * float(0.75 + 0.5 * torch.rand((), generator=generator))
    return torch.fft.irfft(torch.polar(torch.ones_like(phase), phase), LENGTH).float()


def decorrelate(x: torch.Tensor, rate: int, loop: bool) -> torch.Tensor:
    """(N,) float at `rate` Hz -> (N,) as loud at every frequency, and independent of it; around the ring with `loop`."""
    response, n, half = _allpass(rate), len(x), LENGTH // 2
    if loop and n < LENGTH:
        # The response goes round more than once.
        return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(_placed(response, n)), n)
    size, step, ring = 4 * LENGTH, 3 * LENGTH, n if loop else n + LENGTH
    there, out = torch.fft.rfft(_placed(response, size)), scratch.new_empty(x, n)
    # In pieces, of which what the response reaches around is left out: one transform of five minutes would take 300 MB.
    for start in range(0, n, 32 * step):
        count = -(-min(32 * step, n - start) // step)
        around = span(x, ring, start - half, start - half + count * step + LENGTH)
        made = torch.fft.irfft(torch.fft.rfft(around.unfold(0, size, step)) * there, size)[:, half : half + step]
        out[start : start + count * step] = made.reshape(-1)[: n - start]
    return out


def _placed(response: torch.Tensor, size: int) -> torch.Tensor:
    """An impulse response (LENGTH,) on a ring of `size` samples."""
    where = torch.cat([torch.arange(LENGTH // 2), torch.arange(-(LENGTH // 2), 0)]) % size
    return torch.zeros(size).index_add_(0, where, response)
