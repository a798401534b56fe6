"""A look-ahead peak limiter on plain arrays: smooth gain, true peaks, and rings.

It turns down only what surrounds a peak, never the whole clip, and never clips: the gain starts to fall before the peak comes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_STEP = 32
"""Samples a point of the gain envelope stands for: 0.7 ms at 44.1 kHz."""


def limit_peaks(
    samples: np.ndarray,
    sample_rate: int,
    ceiling: float,
    loop: bool = False,
    attack_seconds: float = 0.005,
    release_seconds: float = 0.06,
) -> np.ndarray:
    """Holds the true peak (4 times oversampled, as in ITU-R BS.1770-4 annex 2) of `samples` below `ceiling`.

    The gain starts to fall `attack_seconds` before a peak and comes back exponentially after it; all channels share it, so
    that the stereo image stays.

    Args:
        samples: (C, N) float32.
        sample_rate: Hz.
        ceiling: linear, above 0.
        loop: treat the clip as a ring, so that the gain is continuous from its end to its start.

    Returns:
        (C, N) float32, no sample above `ceiling`; an unchanged copy where nothing exceeded it.
    """
    n = samples.shape[-1]
    points = max(1, n // _STEP)
    edges = np.round(np.arange(points + 1) * (n / points)).astype(np.int64)
    reduction = 1.0 - np.minimum(1.0, ceiling / np.maximum(true_peaks(samples, edges, loop), 1e-12))
    if not reduction.any():
        return samples.copy()
    points_a_second = sample_rate / _STEP
    gain = 1.0 - _envelope(reduction, loop, round(attack_seconds * points_a_second), release_seconds * points_a_second)
    centres = (edges[:-1] + edges[1:] - 1) / 2
    out = np.empty_like(samples)
    for start, stop in _chunks(n, 1 << 19):
        factor = np.interp(np.arange(start, stop), centres, gain, period=n if loop else None).astype(np.float32)
        # The envelope already obeys the ceiling; the clamp only takes off what rounding to float32 left above it.
        np.clip(samples[:, start:stop] * factor, -ceiling, ceiling, out=out[:, start:stop])
    return out


def true_peaks(samples: np.ndarray, edges: np.ndarray, loop: bool = False, context: int = 32) -> np.ndarray:
    """(C, N), sorted edges (K + 1,) -> (K,) the largest magnitude over the channels in each [edges[k], edges[k + 1]).

    Peaks between the samples count: the signal is looked at 4 times oversampled. With `loop` it is a ring.
    """
    from scipy.signal import resample_poly

    padded = np.pad(samples, ((0, 0), (context, context)), mode="wrap" if loop else "constant")
    peaks = np.empty(len(edges) - 1)
    for first, last in _chunks(len(peaks), 1 << 13):
        piece = padded[:, edges[first] : edges[last] + 2 * context]
        fine = np.abs(resample_poly(piece, 4, 1, axis=-1)[:, 4 * context : -4 * context]).max(axis=0)
        coarse = np.abs(piece[:, context:-context]).max(axis=0)
        offsets = edges[first:last] - edges[first]
        peaks[first:last] = np.maximum(np.maximum.reduceat(fine, 4 * offsets), np.maximum.reduceat(coarse, offsets))
    return peaks


def _chunks(n: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, n)) for start in range(0, n, size))


def _envelope(reduction: np.ndarray, loop: bool, attack: int, release: float) -> np.ndarray:
    """Needed gain reduction per point -> a smooth one that is nowhere smaller at a point or its two neighbours.

    A running maximum of half-width attack + 1 followed by a weighted mean of half-width attack cannot fall below the middle
    value, nor can the straight lines between neighbouring points.
    """
    from scipy.ndimage import convolve1d, maximum_filter1d

    # d[n] = max(x[n], c * d[n - 1]) is a running maximum once log(c ** n) is taken out; two laps make it circular.
    laps = np.tile(reduction, 2) if loop else reduction
    decay = np.arange(len(laps)) / max(release, 1e-9)
    with np.errstate(divide="ignore"):
        held = np.exp(np.maximum.accumulate(np.log(laps) + decay) - decay)[-len(reduction) :]
    mode = "wrap" if loop else "nearest"
    held = maximum_filter1d(held, 2 * attack + 3, mode=mode)
    window = np.hanning(2 * attack + 3)[1:-1]
    return np.minimum(convolve1d(held, window / window.sum(), mode=mode), 1.0)
