"""Samples in memory, as AudioSignal, array or tensor -> one array."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from vampnet.sentences import Sentence

MAX_CHANNELS = 8
MIN_FILE_RATE, MAX_FILE_RATE = 4_000, 384_000


class AudioError(ValueError):
    """Audio that cannot be used; its message is one sentence for the person who brought it."""


def read_memory(source: Any) -> tuple[np.ndarray, int]:
    """Audio in memory -> (N, C) float32 samples, integers as shares of their full scale, and their rate in Hz.

    Args:
        source: an AudioSignal (1, C, N), `(rate, array)` or `(tensor, rate)`, as of `audio.load`.

    Raises:
        AudioError: anything else, several clips, too many channels, a rate that no file has.
    """
    if source is None:
        raise AudioError(Sentence("There is no audio: upload, record or choose a clip first."))
    if hasattr(source, "audio_data") and hasattr(source, "sample_rate"):
        source = (source.audio_data, source.sample_rate)
    if not (isinstance(source, (tuple, list)) and len(source) == 2):
        raise AudioError(
            f"Audio must be a path, an AudioSignal, (rate, array) or (tensor, rate), not {type(source).__name__}: "
            "give the samples with their sample rate."
        )
    first, second = source
    samples, rate = (second, first) if np.ndim(first) == 0 else (first, second)
    if isinstance(rate, bool) or np.ndim(rate) != 0 or not isinstance(rate, (int, float, np.number)) or not math.isfinite(rate):
        raise AudioError(f"The sample rate must be a number in Hz, not {rate!r}.")
    if not MIN_FILE_RATE <= rate <= MAX_FILE_RATE or rate != int(rate):
        raise AudioError(f"The sample rate must be a whole number from {MIN_FILE_RATE} to {MAX_FILE_RATE} Hz, not {rate}.")
    if isinstance(samples, torch.Tensor):
        samples = _tensor_to_frames(samples)
    else:
        samples = _array_to_frames(np.asarray(samples))
    if samples.shape[1] > MAX_CHANNELS:
        channels = samples.shape[1]
        raise AudioError(Sentence(
            "The audio has {channels} channels, and at most {most} can be read: mix it to stereo.", channels=channels,
            most=MAX_CHANNELS,
        ))  # fmt: skip
    return samples, int(rate)


def _tensor_to_frames(samples: torch.Tensor) -> np.ndarray:
    samples = samples.detach().cpu()
    if samples.is_floating_point():
        samples = samples.float()
    if samples.ndim == 3 and samples.shape[0] == 1:
        samples = samples[0]
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[0] == 0):
        shape = tuple(samples.shape)
        raise AudioError(f"One clip (N,), (C, N) or (1, C, N) is needed, not the shape {shape}: give the clips one by one.")
    return _to_float(np.atleast_2d(samples.numpy()).T)


def _array_to_frames(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 3 and samples.shape[0] == 1:
        samples = samples[0].T
    elif samples.ndim == 2 and samples.shape[0] <= MAX_CHANNELS and 0 < samples.shape[0] < samples.shape[1]:
        samples = samples.T
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] == 0):
        raise AudioError(f"One clip (N,) or (N, C) is needed, not the shape {samples.shape}: give the clips one by one.")
    return _to_float(samples[:, None] if samples.ndim == 1 else samples)


def _to_float(samples: np.ndarray) -> np.ndarray:
    """Integers to [-1, 1) by their own width; floats as they are."""
    kind = samples.dtype
    if kind == np.uint8:
        return (samples.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(kind, np.signedinteger):
        return (samples / -float(np.iinfo(kind).min)).astype(np.float32)
    if np.issubdtype(kind, np.floating):
        return samples.astype(np.float32, copy=False)
    raise AudioError(f"Samples must be integers or floats, not {kind}: convert the array first.")
