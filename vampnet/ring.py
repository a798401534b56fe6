"""Rings of audio whose length is not whole time steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TAPS = 32
"""Samples around a place from which `between` tells what is there."""
_BATCH = 1 << 16


def whole_steps(samples: int, hop: int) -> int:
    """The multiple of `hop` nearest to `samples`, and at least one."""
    return max(1, (2 * samples + hop) // (2 * hop)) * hop


def may_be_ring(steps: int, samples: int, hop: int) -> bool:
    """Whether a ring of so many samples may lie in so many time steps.

    They are the nearest whole number, but of one that was made longer: that keeps the stretch of the clip that it was made of,
    up to half a step in the five of the shortest one.
    """
    return abs(samples / hop - steps) <= 1 + 0.1 * steps


def ring_resample(audio: Tensor, samples: int) -> Tensor:
    """A ring resampled to another number of samples a turn: exact for what both lengths can hold, and without a seam.

    A ring is periodic, so its Fourier series is finite: the spectrum is cut or padded with zeros, with no filter and no edges.
    There and back again gives the ring as it was, up to rounding, less what lies above the lower of the two Nyquist
    frequencies.

    Args:
        audio: (..., N) float, one turn.
        samples: of the result, at least 1.

    Returns:
        (..., samples) float of the same type.

    Raises:
        ValueError: an empty ring is given or asked for.
    """
    length = audio.shape[-1]
    if length < 1 or samples < 1:
        raise ValueError(f"A ring has at least 1 sample: {length} cannot become {samples}.")
    if samples == length:
        return audio.clone()
    spectrum = torch.fft.rfft(audio)
    shared = min(length, samples)
    if shared % 2 == 0:
        # The bin at the shorter ring's Nyquist frequency stands alone there, and for two, itself and its mirror, in the longer.
        spectrum[..., shared // 2] *= 0.5 if samples > length else 2.0
    # What is missing above counts as zeros.
    return torch.fft.irfft(spectrum[..., : shared // 2 + 1], n=samples).mul_(samples / length).to(audio.dtype)


def between(audio: Tensor, first: float, step: float, samples: int) -> Tensor:
    """A stretch of a ring as `ring_resample` would give it, without the rest of the ring: by a windowed sinc.

    Args:
        audio: (..., N) float, silent around.
        first: place of the first sample of the result, in samples of `audio`.
        step: samples of `audio` from one of the result to the next, close to 1: nothing is filtered out above a limit.
        samples: of the result.

    Returns:
        (..., samples) float of the same type.
    """
    half = TAPS // 2
    padded = torch.nn.functional.pad(audio, (half, half + TAPS))
    parts = []
    for start in range(0, samples, _BATCH):
        place = first + step * torch.arange(start, min(start + _BATCH, samples), dtype=torch.float64)
        whole = place.floor()
        away = torch.arange(1 - half, half + 1) - (place - whole)[:, None]
        taps = torch.sinc(away) * (0.5 + 0.5 * torch.cos(math.pi * away / half))
        low = int(whole[0])
        windows = padded[..., low + 1 :].unfold(-1, TAPS, 1)
        at = (whole - low).long()
        parts.append((windows[..., at, :] * taps.to(audio.dtype)).sum(dim=-1))
    return torch.cat(parts, dim=-1)
