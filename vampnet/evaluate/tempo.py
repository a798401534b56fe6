"""How far the tempo of a take lies from its source's, from the rhythm itself and without a beat tracker.

A tracker finds other beats when it hears ten seconds of the same music again: for it, what a codec alone gives back "drifts" by
5 %, and noise by no more than 12 to 19 %. Here the autocorrelations of both clips' attacks are laid over each other on a
logarithmic axis of time: how far one has to be moved to fit is the ratio of the tempos, whatever is played between the beats.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from .embeddings import log_mel

RATE = 100
"""Values of a pulse a second."""
SECONDS, HOP_SECONDS = 6.0, 0.5
"""Of the stretch that has one tempo, and from one to the next."""
SHORTEST, LONGEST = 0.2, 3.0
"""Seconds from one attack to another, the ones that are compared: from sixteenths to bars."""
STEP = 0.005
"""Of the logarithm of a tempo."""
_SHIFTS = round(0.5 * math.log(2) / STEP)
WORST = 100 * (math.exp(_SHIFTS * STEP) - 1)
"""Percent: half an octave, the farthest that a tempo can lie from another where half and double count as the same."""


def pulse(audio: Tensor, sample_rate: int) -> np.ndarray:
    """How much begins to sound, (N,) float samples at -24 LUFS -> (frames,) float64, RATE a second, in dB, about 0 on the mean.

    The rise of the log-mel spectrum, less its mean over a second.
    """
    rise = np.maximum(np.diff(log_mel(audio, sample_rate).double().numpy(), axis=0), 0).mean(axis=1)
    if not len(rise):
        return np.zeros(1)
    around = np.hanning(RATE + 3)[1:-1]
    return rise - np.convolve(np.pad(rise, RATE // 2, mode="edge"), around / around.sum(), "valid")[: len(rise)]


def tempo_drift(source: np.ndarray, take: np.ndarray) -> float:
    """How far the local tempo of a take lies from its source's, in percent, the mean over time.

    Half and double tempo count as the same, so the farthest is `WORST`, which is also what a take without any pulse gets;
    what has nothing to do with its source gets about 19.

    Args:
        source, take: (frames,) of `pulse`.

    Returns:
        0 or more; nan if the source has no pulse.
    """
    length = max(len(source), len(take), round(SECONDS * RATE))
    reference, estimate = (_rhythms(np.pad(x, (0, length - len(x)))) for x in (source, take))
    heard = np.abs(reference).max(axis=1) > 0
    if not heard.any():
        return math.nan
    shifts = np.arange(-_SHIFTS, _SHIFTS + 1)
    fits = np.stack([_likeness(reference[heard], estimate[heard], int(shift)) for shift in shifts])
    moved = np.where(fits.max(axis=0) > 0, np.abs(shifts[fits.argmax(axis=0)]), _SHIFTS)
    return float(np.mean(100 * (np.exp(moved * STEP) - 1)))


def _rhythms(values: np.ndarray) -> np.ndarray:
    """(frames,) -> (stretches, lags): autocorrelations of each stretch, at lags that grow by STEP; 0 for silence."""
    size = round(SECONDS * RATE)
    window = np.hanning(size + 2)[1:-1]
    parts = np.lib.stride_tricks.sliding_window_view(values, size)[:: round(HOP_SECONDS * RATE)]
    parts = (parts - parts.mean(axis=1, keepdims=True)) * window

    def correlated(x: np.ndarray) -> np.ndarray:
        return np.fft.irfft(np.square(np.abs(np.fft.rfft(x, 2 * size))))[..., :size]

    alone = correlated(window)
    found = correlated(parts) / np.maximum(alone, 0.01 * alone[0])  # what the window takes from long lags
    energy = found[:, :1]
    found = np.divide(found, energy, out=np.zeros_like(found), where=energy > 1e-9)
    lags = np.exp(np.arange(math.log(SHORTEST), math.log(LONGEST), STEP)) * RATE
    return np.stack([np.interp(lags, np.arange(size), row) for row in found])


def _likeness(a: np.ndarray, b: np.ndarray, shift: int) -> np.ndarray:
    """(stretches, lags) twice -> (stretches,): correlation of the first with the second, moved by `shift` lags."""
    lags = a.shape[1]
    a, b = (a[:, : lags - shift], b[:, shift:]) if shift >= 0 else (a[:, -shift:], b[:, : lags + shift])
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(a)), where=norm > 1e-12)
