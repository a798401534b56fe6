"""What of a clip is kept, as sound: the tokens that stay, through the codec alone.

A codec's levels build on one another, so a time step sounds as deep as its levels stay without a gap from the coarsest down; a
step whose coarsest level is made anew is silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vampnet import audio, scratch, stereo
from vampnet.original import Stretch, lay
from vampnet.ring import ring_resample
from vampnet.sentences import Sentence

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.codec import Codec
    from vampnet.vamp import Clip

FADE_SECONDS = 0.003
"""Fade at the edges of what is kept: short beside a time step of 17 ms, long enough not to click."""


def depths(mask: Tensor) -> Tensor:
    """How deep each time step of a mask (1, K, T) bool sounds: (T,) int64, levels kept from the coarsest on without a gap."""
    return (~mask[0]).long().cumprod(dim=0).sum(dim=0)


def kept_sound(codec: Codec, clip: Clip, mask: Tensor, parts: Sequence[Stretch] | None = None) -> AudioSignal:
    """The kept tokens of a clip decoded, silence where none are.

    Args:
        codec: that the clip's tokens are of.
        clip: of `VampNet.listen`.
        mask: (1, K, T) bool, True = is made anew.
        parts: the stretches of time steps to decode, the rest is silent; None = all.

    Returns:
        AudioSignal (1, C, N) with the stereo image of the clip, as loud as the clip where all is kept.

    Raises:
        ValueError: nothing that sounds is kept, or the mask is not of the clip.
    """
    if mask.shape != clip.tokens.shape:
        raise ValueError(Sentence(
            "The mask must be of the clip's tokens {clip_shape}, not {shape}.", clip_shape=tuple(clip.tokens.shape),
            shape=tuple(mask.shape),
        ))  # fmt: skip
    found = depths(mask)
    if not bool(found.any()):
        raise ValueError(Sentence("Nothing that sounds is kept: keep some moments, from the coarsest level on."))
    steps, length = mask.shape[-1], clip.image.length
    wave = scratch.zeros(codec.hop * steps)
    for start, end, _ in [(0, steps, 0)] if parts is None else parts:
        at = torch.arange(start, end) % steps
        lay(wave, _wave(codec, clip.tokens[..., at], found[at], clip.loop and end - start == steps), start * codec.hop)
    wave = (ring_resample(wave, length) if clip.loop else wave[:length])[None, None]
    sound = stereo.apply(audio.make_signal(wave, codec.sample_rate), clip.image, clip.loop)
    gain = 10 ** ((clip.lufs - audio.CODEC_LUFS) / 20)
    return audio.limit(audio.make_signal(sound.audio_data * gain, codec.sample_rate), loop=clip.loop)


def _wave(codec: Codec, tokens: Tensor, found: Tensor, loop: bool) -> Tensor:
    """(1, K, T) int64 tokens, each step as deep as `found` (T,) says -> (T * hop,) samples at the codec's level."""
    device = codec.codebook_vectors().device
    wave = torch.zeros(codec.hop * tokens.shape[-1])
    for depth in sorted(set(found.tolist()) - {0}):
        made = codec.decode(tokens[:, :depth].to(device), loop=loop)[0, 0].float().cpu()
        wave += made * _gain(found == depth, codec.hop, round(FADE_SECONDS * codec.sample_rate), loop)
    return wave


def _gain(steps: Tensor, hop: int, fade: int, loop: bool) -> Tensor:
    """(T,) bool -> (T * hop,) float 0..1, 1 inside the steps, with straight ramps of `fade` samples over their edges."""
    gain = steps.float().repeat_interleave(hop)[None, None]
    side = fade // 2
    padded = F.pad(gain, (side, side), mode="circular" if loop else "replicate")
    return F.avg_pool1d(padded, 2 * side + 1, stride=1)[0, 0]
