"""The levels of what a spectral codec decodes, brought to those of music: a constant for each narrow band of frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from vampnet.codec import SpectralCodec
from vampnet.codec.envelope import ShortView, broad_bands

BANDS = 96
WINDOW = 2048
"""Bands and window by which levels are compared: narrower bands than those that a decoder corrects by itself."""
ROUNDS = 3
"""Decoding does not follow a change of its features to the letter: what is left is looked at again."""


@torch.no_grad()
def level(codec: SpectralCodec, music: Tensor, bands: int = BANDS, rounds: int = ROUNDS) -> list[float]:
    """Changes the bias of `project_out` so that decoded music has the levels of the music, averaged over all of it.

    Args:
        codec: changed in place.
        music: (clips, T * hop) float samples at -24 LUFS, on the device of the codec.
        bands: by which levels are compared.
        rounds: of decoding and changing.

    Returns:
        The root of the mean square of the bands' differences in dB, before each round and after the last.
    """
    c, device = codec.config, music.device
    view = ShortView(c.sample_rate, WINDOW, c.hop, bands, c.floor).to(device)
    spread = broad_bands(c.sample_rate, c.window, bands)[1].to(device)
    spectrum = torch.cat([spread[:, : c.fine_bins], spread[:, c.fine_bins :] @ codec.pool], dim=1)
    parts = [spectrum.repeat(1, c.frames)]
    if codec.short is not None:
        near = torch.linspace(0, c.window // 2, c.short_window // 2 + 1).round().long()
        parts.append((spread[:, near] @ codec.short.pool).repeat(1, c.short_frames) * c.short_weight)
    features = torch.cat(parts, dim=1) / codec.spread

    def levels(audio: Tensor) -> Tensor:
        return view.levels(view.frames(audio)).mean(dim=(0, 1))

    codes = [codec.encode(clip[None, None]) for clip in music]
    found = []
    for number in range(rounds + 1):
        pairs = zip(music, codes, strict=True)
        apart = torch.stack([levels(clip[None]) - levels(codec.decode(own)[:, 0]) for clip, own in pairs]).mean(dim=0)
        found.append(float(apart.square().mean().sqrt()) * 8.686)
        if number < rounds:
            codec.project_out.bias += apart @ features
    return found
