"""A look-ahead peak limiter on plain arrays: smooth gain, true peaks, and rings.

It turns down only what surrounds a peak, never the whole clip, and never clips: the gain starts to fall before the peak comes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vampnet import scratch
from vampnet.loudness import POINT

ATTACK_SECONDS, RELEASE_SECONDS = 0.005, 0.06
_TAPS = 20
"""Samples around a place between two samples that tell how high the wave is there."""
_PIECE = 1 << 13


def limit_peaks(samples: np.ndarray, sample_rate: int, ceiling: float, loop: bool = False) -> np.ndarray:
    """Holds the true peak (4 times oversampled, as in ITU-R BS.1770-4 annex 2) of `samples` below `ceiling`.

    The gain starts to fall `ATTACK_SECONDS` before a peak and comes back exponentially after it; all channels share it, so
    that the stereo image stays.

    Args:
        samples: (C, N) float32.
        sample_rate: Hz.
        ceiling: linear, above 0.
        loop: treat the clip as a ring, so that the gain is continuous from its end to its start.

    Returns:
        (C, N) float32, no sample above `ceiling`; an unchanged copy where nothing exceeded it.
    """
    gain = limiting_gain(true_peaks(samples, loop, ceiling), sample_rate, ceiling, loop)
    return with_gain(samples, gain, ceiling, loop)


def true_peaks(samples: np.ndarray, loop: bool = False, above: float = 0.0) -> np.ndarray:
    """(C, N) -> (max(1, N // POINT),) the largest magnitude over the channels in each POINT samples, and in what remains.

    Peaks between the samples count: the signal is looked at 4 times oversampled. With `loop` it is a ring. Where no peak can
    lie above `above`, nobody looks between the samples, and the largest of them stands for it.
    """
    from vampnet import loudness_kernels, passes

    filters = _between()
    # Times the largest sample around it is the highest that a wave can be.
    most = np.float32(1.0001 * float(np.abs(filters).sum(axis=1).max()))
    n = samples.shape[-1]
    out = np.empty((len(samples), -(-n // POINT)), np.float32)
    for channel, made in zip(samples, out, strict=True):
        plain = np.ascontiguousarray(channel, np.float32)
        given = plain, plain.view(np.int32), filters, np.float32(above), most, loop, made
        passes.by_rows(loudness_kernels.peaks, n, len(made), *given)
    peaks, points = out.max(axis=0).astype(np.float64), max(1, n // POINT)
    peaks[points - 1] = peaks[points - 1 :].max()
    return peaks[:points]


def limiting_gain(peaks: np.ndarray, sample_rate: int, ceiling: float, loop: bool = False) -> np.ndarray:
    """The gain (points,) at the middle of each point that `with_gain` takes, for these `true_peaks`; else as `limit_peaks`."""
    reduction = 1.0 - np.minimum(1.0, ceiling / np.maximum(peaks, 1e-12))
    if not reduction.any():
        return np.ones_like(reduction)
    points_a_second = sample_rate / POINT
    return 1.0 - _envelope(reduction, loop, round(ATTACK_SECONDS * points_a_second), RELEASE_SECONDS * points_a_second)


def with_gain(
    samples: np.ndarray, gain: np.ndarray, ceiling: float, loop: bool = False, scale: float = 1.0, out: np.ndarray | None = None
) -> np.ndarray:
    """(C, N) float32 times `scale` and the gain (points,) of `limiting_gain` -> (C, N) float32, no sample above `ceiling`: in
    `out`, which may be `samples`, or in new memory."""
    n, unlimited = samples.shape[-1], bool((gain == 1.0).all())
    out = scratch.empty(*samples.shape).numpy() if out is None else out
    edges = np.append(np.arange(len(gain)) * POINT, n)
    centres = (edges[:-1] + edges[1:] - 1) / 2
    for start in range(0, n, POINT * _PIECE):
        part = out[:, start : start + POINT * _PIECE]
        np.multiply(samples[:, start : start + POINT * _PIECE], np.float32(scale), out=part, dtype=np.float32)
        scratch.sweep()
        if unlimited:
            continue
        at = np.arange(start, start + part.shape[-1])
        part *= np.interp(at, centres, gain, period=n if loop else None).astype(np.float32)
        # The envelope already obeys the ceiling; the clamp only takes off what rounding to float32 left above it.
        np.clip(part, -ceiling, ceiling, out=part)
    return out


@lru_cache(maxsize=1)
def _between() -> np.ndarray:
    """(3, _TAPS) float32: samples around a place -> the wave a quarter, a half and three quarters behind it.

    The interpolation filter is that of `scipy.signal.resample_poly`.
    """
    from scipy.signal import firwin

    taps = 4 * firwin(4 * _TAPS + 1, 1 / 4, window=("kaiser", 5.0))
    # y[4 n + quarter] = sum over m of taps[4 m + quarter] x[n + _TAPS / 2 - m]
    return np.stack([taps[quarter::4][::-1] for quarter in (1, 2, 3)]).astype(np.float32)


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
