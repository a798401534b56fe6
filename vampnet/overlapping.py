"""Frames that overlap: a signal as spectra a hop apart, and spectra as a signal again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch

from vampnet import scratch
from vampnet.decorrelation import span

WINDOW = 4096
HOP = 1024
BATCH = 256
"""Frames that are worked on at a time."""
_KEPT = 1024
"""Frames (24 s) up to which the spectra of a clip are kept while it is worked on: two signals take 34 MB then."""


def ring_of(length: int, loop: bool) -> tuple[int, torch.Tensor]:
    """Length of the ring that is analysed and (frames,) int64, the first sample of each frame on it.

    Frames are about HOP apart and evenly spread, so that those of a ring meet at its seam whatever its length. A clip that is
    no ring becomes one by a window of silence after its end, and some more to whole hops.
    """
    ring = max(length, 1) if loop else -(-(length + WINDOW) // HOP) * HOP
    frames = max(1, -(-ring // HOP))
    return ring, torch.round(torch.arange(frames, dtype=torch.float64) * (ring / frames)).long() - WINDOW // 2


class Spectra:
    """Spectra of signals (N,) of one length frame by frame, as often as they are asked for.

    Iterating gives batches: which frames, where on the ring each begins, and of each signal the spectra (n, 2 F) float32,
    F = WINDOW / 2 + 1. Those of a short clip are kept, since a look at the bands comes before anything is done with them.

    Attributes:
        length, loop: N, and whether the signals are rings.
        ring, starts: as of `ring_of`.
    """

    def __init__(self, signals: list[torch.Tensor], length: int, loop: bool) -> None:
        self.length, self.loop = length, loop
        self.ring, self.starts = ring_of(length, loop)
        self._signals, self._kept = signals, None
        if len(self.starts) <= _KEPT:
            self._kept = list(self._made())

    def __iter__(self) -> Iterator[tuple[slice, list[int], list[torch.Tensor]]]:
        return self._made() if self._kept is None else iter(self._kept)

    def _made(self) -> Iterator[tuple[slice, list[int], list[torch.Tensor]]]:
        for first in range(0, len(self.starts), BATCH):
            batch = slice(first, min(first + BATCH, len(self.starts)))
            where = self.starts[batch].tolist()
            yield batch, where, [_spectra(x, self.ring, where) for x in self._signals]


def _roll_up(x: torch.Tensor, ring: int) -> torch.Tensor:
    """(C, ring + WINDOW) as `_add` leaves it -> (C, ring), in the same memory: what reaches over either end is added there."""
    half = WINDOW // 2
    if ring < half:
        return torch.zeros(len(x), ring).index_add_(1, (torch.arange(ring + WINDOW) - half) % ring, x)
    out = x[:, half : half + ring]
    out[:, ring - half :] += x[:, :half]
    out[:, :half] += x[:, half + ring :]
    return out


def _regular(where: list[int]) -> bool:
    """Whether frames lie exactly HOP apart: then they are views of the signal, and added up hop by hop."""
    return where == list(range(where[0], where[0] + HOP * len(where), HOP))


def _spectra(x: torch.Tensor, ring: int, where: list[int]) -> torch.Tensor:
    """(N,) on its ring -> (n, 2 F) spectra of the frames that begin at `where`, real and imaginary parts in turn.

    Torch turns a real factor of complex numbers into a complex one first.
    """
    if _regular(where):
        frames = span(x, ring, where[0], where[-1] + WINDOW).unfold(0, WINDOW, HOP)
    else:
        frames = torch.stack([span(x, ring, start, start + WINDOW) for start in where])
    return torch.view_as_real(torch.fft.rfft(frames * _window())).flatten(1)


def twice(x: torch.Tensor) -> torch.Tensor:
    """(..., F) -> (..., 2 F), each number for the real and the imaginary part of a frequency."""
    return x.repeat_interleave(2, dim=-1)


def _add(out: torch.Tensor, pieces: torch.Tensor, where: list[int]) -> None:
    """Adds (C, n, WINDOW) onto (C, ring + WINDOW), which begins half a window before the ring."""
    half = WINDOW // 2
    if not _regular(where):
        for i, start in enumerate(where):
            out[:, start + half : start + half + WINDOW] += pieces[:, i]
        return
    for first in range(half, half + WINDOW, HOP):
        part = out[:, where[0] + first : where[0] + first + HOP * len(where)]
        part.unflatten(1, (-1, HOP)).add_(pieces[:, :, first - half : first - half + HOP])


@lru_cache(maxsize=1)
def _window() -> torch.Tensor:
    return torch.hann_window(WINDOW)


def filtered(heard: Spectra, process: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Overlap-add: spectra (n, 2 F) of each signal -> process(frames, *spectra) -> two of them (2, n, 2 F) -> (2, N) samples.

    Divides by the sum of squared windows that really fell on each sample, so that doing nothing gives the signal back.
    """
    ring, starts, window = heard.ring, heard.starts, _window()
    # In the last row the sum of squared windows, unless frames lie as regularly as hops: then it is the same in each of them.
    even, square = ring == HOP * len(starts) and _regular(starts.tolist()), window.square()
    out = scratch.zeros(2 if even else 3, ring + WINDOW)
    for batch, where, spectra in heard:
        made = process(batch, *spectra)
        _add(out[:2], torch.fft.irfft(torch.view_as_complex(made.unflatten(2, (-1, 2))), WINDOW) * window, where)
        if not even:
            _add(out[2:], square.expand(1, len(where), -1), where)
    out = _roll_up(out, ring)
    if even:
        weight = square.view(-1, HOP).sum(dim=0).clamp_min_(1e-8)
        for some in scratch.parts(out.unflatten(1, (-1, HOP)).movedim(1, 2)):
            some.div_(weight[:, None])
    else:
        for some in scratch.parts(out):
            some[:2].div_(some[2].clamp_min_(1e-8))
    return out[:2, : heard.length]
