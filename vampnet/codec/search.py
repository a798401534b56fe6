"""The rounds of Griffin-Lim for one clip on a CPU: each is one pass by all threads, compiled by numba (`search_kernels`)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from vampnet import passes

LANES = 16
"""Frames that are worked on at once."""


def fits(window: Tensor, hop: int, frames: int) -> bool:
    """Whether `run` takes it: a window of a power of two, an even hop, a clip longer than half of a window."""
    size = window.shape[0]
    return size >= 64 and size & (size - 1) == 0 and hop % 2 == 0 and hop <= size // 2 and frames * hop > (size - hop) // 2


def run(
    sizes: Tensor,
    window: Tensor,
    hop: int,
    phases: tuple[np.ndarray, np.ndarray],
    weight: Tensor,
    rounds: int,
    momentum: float,
    loop: bool = False,
    head: Tensor | None = None,
    tail: Tensor | None = None,
    known: Tensor | None = None,
    own: bool = False,
) -> Tensor:
    """Samples for magnitudes, as of `griffin_lim`.

    Args:
        sizes: (J, F) float32 magnitudes.
        window, hop: which `fits`.
        phases: of `in_blocks`, real and imaginary parts of length 1 to start from.
        weight: (J * hop,) by how much squared windows overlap at every sample.
        rounds, momentum, loop: as of `griffin_lim`.
        head, tail: (n,) samples that are known, or None.
        known: (J, f) complex, whose phases are known, or None.
        own: `phases` may be written over.

    Returns:
        (J * hop,) float32.
    """
    size, (frames, bins) = window.shape[0], sizes.shape
    blocks, side, n = -(-frames // LANES), (size - hop) // 2, frames * hop
    rows = blocks * LANES + -(-size // hop) - 1
    aims = in_blocks(sizes)
    real, imaginary = (np.multiply(part, aims, out=part if own else None) for part in phases)
    if known is not None:
        laid = [part.reshape(blocks, bins, LANES)[:, : known.shape[1]] for part in (real, imaginary)]
        for block, some in enumerate(known.split(LANES)):  # not all at once, which would take more than the search does
            units = torch.view_as_real(torch.sgn(some)) * sizes[block * LANES :][: len(some), : known.shape[1], None]
            for part, given in zip(laid, units.unbind(-1), strict=True):
                part[block, :, : len(some)] = given.numpy().T
    threads = min(torch.get_num_threads(), blocks)
    bounds = np.array([blocks * part // threads * LANES for part in range(threads + 1)])
    inverse = np.zeros(rows * hop, np.float32)
    inverse[side : side + n] = 1 / weight.numpy()
    inverse = np.ascontiguousarray(inverse.reshape(rows, hop).T).reshape(-1)
    audio, outs = np.empty(rows * hop, np.float32), np.empty((threads, rows * hop), np.float32)
    pinned = [np.empty(0, np.float32) if part is None else part.contiguous().numpy() for part in (head, tail)]
    from . import search_kernels

    assert search_kernels.LANES == LANES
    fixed = (window.contiguous().numpy(), *_roots(size // 2, 1), *_roots(size // 2, 2), aims, real, imaginary, hop)
    for number in range(rounds + 1):
        ahead = np.float32(momentum if number > 1 else 0)
        given = [(audio, outs[part], *fixed, ahead, number, *(bounds[part : part + 2] // LANES)) for part in range(threads)]
        passes.at_once(search_kernels.search, given)
        search_kernels.close(outs, bounds, inverse, audio, hop, side, n, loop, *pinned)
    return torch.from_numpy(audio.reshape(hop, rows).T.reshape(-1)[side : side + n].copy())


def in_blocks(x: Tensor) -> np.ndarray:
    """(J, F) float -> flat float32 of (blocks, F, LANES): the frames of each 16 side by side, with silence behind the last."""
    frames, bins = x.shape
    blocks = -(-frames // LANES)
    out = np.zeros((blocks, bins, LANES), np.float32)
    whole = frames // LANES
    values = x.numpy()
    out[:whole] = values[: whole * LANES].reshape(whole, LANES, bins).transpose(0, 2, 1)
    if whole < blocks:
        out[-1, :, : frames - whole * LANES] = values[whole * LANES :].T
    return out.reshape(-1)


@lru_cache(maxsize=8)
def _roots(n: int, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary parts of exp(-2 pi i j / (n part)) for j < n, (n,) float32 each."""
    angle = 2 * np.pi * np.arange(n) / (n * part)
    return np.cos(angle).astype(np.float32), (-np.sin(angle)).astype(np.float32)
