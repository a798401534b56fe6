"""A constant offset of a clip: what a codec would make rumble of, and what makes a thump where it ends."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vampnet.audio import make_signal

if TYPE_CHECKING:
    from audiotools import AudioSignal


def without_offset(signal: AudioSignal) -> AudioSignal:
    """The clip (1, C, N) without a constant offset, which a codec would make rumble of; the same object where there is none."""
    offset = offset_of(signal.audio_data)
    return make_signal(signal.audio_data - offset, signal.sample_rate) if bool(offset.any()) else signal


def offset_of(audio: Tensor) -> Tensor:
    """(1, C, 1) float: the constant offset of the samples of a clip (1, C, N), 0 where there is none.

    There is one where the mean of all samples and the middle one of them say the same: a drum that swings to one side and then
    rests has no such middle, and a reed that swings farther to one side than to the other no such mean.
    """
    mean, least = audio.mean(dim=-1, keepdim=True), 0.02 / math.sqrt(audio.shape[-1]) * audio.norm(dim=-1, keepdim=True)
    if not bool((mean.abs() > least).any()):
        return torch.zeros_like(mean)  # whatever the middle is: to find it takes longer than all else here
    middle = audio.median(dim=-1, keepdim=True).values
    offset = torch.where(mean * middle > 0, mean.sign() * torch.minimum(mean.abs(), middle.abs()), 0.0)
    return offset * bool((offset.abs() > least).any())
