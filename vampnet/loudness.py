"""Loudness by ITU-R BS.1770-4 on plain arrays: measured in pieces, and told in advance for a gain that moves slowly.

The filters are pyloudnorm's. Its meter would do the same with several copies of a clip in float64, once for every measurement;
here one pass leaves the weighted energy of every few samples, and from that the loudness under any gain follows.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import numpy as np
import torch

from vampnet import scratch

BLOCK_SECONDS = 0.4
"""Gating block; a shorter clip is repeated until it fills two."""
OVERLAP = 4
"""A new block begins every quarter of one."""
ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0
"""LUFS below which a block does not count, and LU below the mean of those that do."""
POINT = 30
"""Samples that share a gain, the limiter's too: 0.7 ms at 44.1 kHz. At usual rates whole points make a quarter of a block."""


class Loudness:
    """The loudness of a clip, and of the same clip under a gain.

    Args:
        samples: (C, N) float32, one or two channels, which count alike; N > 0.
        sample_rate: Hz.
    """

    def __init__(self, samples: np.ndarray, sample_rate: int) -> None:
        self.sample_rate, self.length = sample_rate, samples.shape[-1]
        self.laps = max(1, -(-math.ceil(2 * BLOCK_SECONDS * sample_rate) // self.length))
        sections = _weighting(sample_rate)
        self._plain, self._weighted = _energies(samples, sections)
        if self.laps > 1:
            self._weighted = _energies(np.tile(samples, (1, self.laps)), sections)[1]

    def measure(self, gain: np.ndarray | float = 1.0) -> float:
        """LUFS; -inf for digital silence.

        What lies wholly below the absolute gate gets its plain level (mean square of all channels) instead.

        Args:
            gain: linear: one for all, or (points,) one for every `POINT` samples, the last of them for what remains too.
                It has to move slowly beside the filters, whose responses take some ten milliseconds.
        """
        squares = np.square(np.asarray(gain, dtype=np.float64))
        if squares.ndim == 0:
            plain, weighted = self._plain * squares, self._weighted * squares
        else:
            laid = np.pad(squares, (0, len(self._plain) - len(squares)), mode="edge")
            plain = self._plain * laid
            # On a clip that is repeated the points of a lap begin anywhere in the one before.
            at = np.minimum(np.arange(len(self._weighted)) * POINT % self.length // POINT, len(laid) - 1)
            weighted = self._weighted * (laid if self.laps == 1 else laid[at])
        if not plain.any():
            return -math.inf
        lufs = _gated(self._blocks(weighted))
        return lufs if math.isfinite(lufs) else _lufs(plain.sum() / self.length)

    def _blocks(self, weighted: np.ndarray) -> np.ndarray:
        """Energies of the points -> mean squares of the gating blocks, summed over the channels."""
        quarter = BLOCK_SECONDS / OVERLAP * self.sample_rate
        length = self.length * self.laps
        edges = np.minimum(np.arange(len(weighted) + 1) * POINT, length)
        count = max(1, round(length / quarter - OVERLAP) + 1)
        reached = np.interp(np.arange(count + OVERLAP) * quarter, edges, np.concatenate(([0.0], np.cumsum(weighted))))
        return (reached[OVERLAP:] - reached[:-OVERLAP]) / (OVERLAP * quarter)


def _energies(samples: np.ndarray, sections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C, N) -> (ceil(N / POINT),) float64 sums of squares of POINT samples and all channels, as they are and behind a filter.

    Args:
        sections: (2, 6) of the filter.
    """
    from vampnet import loudness_kernels, passes

    assert loudness_kernels.POINT == POINT
    out = scratch.empty(len(samples), 2, -(-samples.shape[-1] // POINT), dtype=torch.float64).numpy()
    given = [(np.ascontiguousarray(channel, np.float32), sections, *made) for channel, made in zip(samples, out, strict=True)]
    passes.at_once(loudness_kernels.energies, given)
    plain, weighted = out.sum(axis=0)
    return plain, weighted


def _gated(blocks: np.ndarray) -> float:
    """Mean squares of the blocks -> LUFS over those that pass both gates, or not a number where none does."""
    with np.errstate(divide="ignore"):
        loud = -0.691 + 10 * np.log10(blocks)
    heard = blocks[loud >= ABSOLUTE_GATE]
    if not len(heard):
        return math.nan
    gate = max(_lufs(float(heard.mean())) + RELATIVE_GATE, ABSOLUTE_GATE)
    return _lufs(float(blocks[loud > gate].mean()))


def _lufs(power: float) -> float:
    return -0.691 + 10 * math.log10(power)


@lru_cache(maxsize=4)
def _weighting(sample_rate: int) -> np.ndarray:
    """(2, 6) the two sections of the K-weighting."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyloudnorm

        shelf = pyloudnorm.IIRfilter(4.0, 1 / math.sqrt(2), 1500.0, sample_rate, "high_shelf")
        high_pass = pyloudnorm.IIRfilter(0.0, 0.5, 38.0, sample_rate, "high_pass")
    return np.array([[*f.passband_gain * f.b, *f.a] for f in (shelf, high_pass)])
