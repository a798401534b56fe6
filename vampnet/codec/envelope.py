"""A second, short view of the sound: levels of broad bands at a fine grid in time, beside spectra that tell partials apart.

A window that is long enough to separate partials smears an attack over its whole length. The band levels of a short window say
when it really happened; `ShortView.correct` moves the energy of a signal there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .griffin_lim import frames_between, spectrum, synthesize

CLAMP = 2.3
"""The most that a correction raises a level by, in nepers (20 dB)."""
CUT = 4.6
"""The most that it lowers one by (40 dB): before an attack out of a rest the long window has put sound that is not there."""
SLOW_FRAMES = 20
"""Frames to each side over which a correction is averaged that is about the level and not about time."""


class ShortView(nn.Module):
    """Levels of a few bands, several times a time step.

    Args:
        sample_rate: Hz.
        window: samples of the analysis window (Hann).
        hop: samples from frame to frame.
        bands: on a mel-like scale, overlapping triangles, none narrower than a bin.
        floor: added to a level before its logarithm.
        slack: nepers by which a level may be off before its fast part is corrected: what is left of a level after coding
            fluctuates, and to follow every fluctuation would make tones flutter.
        tones_hz: in bands above it no tones are coded, so that none can flutter, and there is no slack.
    """

    def __init__(
        self,
        sample_rate: int,
        window: int,
        hop: int,
        bands: int,
        floor: float = 1e-3,
        slack: float = 0.4,
        tones_hz: float = math.inf,
    ) -> None:
        super().__init__()
        self.hop, self.floor, self.slack = hop, floor, slack
        pool, spread = broad_bands(sample_rate, window, bands)
        centres = (torch.arange(window // 2 + 1) * (sample_rate / window)) @ pool
        self.register_buffer("tonal", (centres < tones_hz).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("pool", pool, persistent=False)
        self.register_buffer("spread", spread, persistent=False)

    def frames(self, audio: Tensor, loop: bool = False, first: int = 0, stop: int | None = None) -> Tensor:
        """(B, J * hop) float samples -> (B, stop - first, window): frames first to stop, or J, as a view."""
        stop = audio.shape[-1] // self.hop if stop is None else stop
        return frames_between(audio, self.window.shape[0], self.hop, loop, first, stop)

    def levels(self, frames: Tensor) -> Tensor:
        """(B, J, window) samples -> (B, J, bands), the logarithm of the mean magnitude of each band (in nepers)."""
        return self._of_spectra(torch.fft.rfft(frames * self.window))

    def _of_spectra(self, spectra: Tensor) -> Tensor:
        power = torch.view_as_real(spectra).square().sum(-1)
        return 0.5 * torch.log(power @ self.pool + self.floor**2)

    def correct(self, audio: Tensor, levels: Tensor, loop: bool = False) -> Tensor:
        """(B, J * hop) float samples with levels nearer to (B, J, bands): the slow part of a difference is made good entirely,
        the fast part beyond `slack`, or all of it where there are no tones."""
        if len(audio) > 1 and audio.device.type == "cpu":  # one after the other, so that spectra stay in the cache
            return torch.cat([self.correct(*one, loop) for one in zip(audio.split(1), levels.split(1), strict=True)])
        now = spectrum(audio, self.window, self.hop, loop)
        gain = (levels - self._of_spectra(now)).clamp(-CUT, CLAMP)
        side = min(SLOW_FRAMES, gain.shape[1] - 1)
        padded = F.pad(gain.mT, (side, side), mode="circular" if loop else "replicate")
        slow = F.avg_pool1d(padded, 2 * side + 1, stride=1).mT
        fast = gain - slow
        gain = slow + fast.sign() * (fast.abs() - self.slack * self.tonal).clamp_min(0)
        return synthesize(now.mul_(torch.exp(gain @ self.spread)), self.window, self.hop, loop)


def broad_bands(sample_rate: int, window: int, bands: int) -> tuple[Tensor, Tensor]:
    """(bins, bands) mean over each band, and (bands, bins) linear interpolation between band centres."""
    bins = window // 2 + 1
    mel = torch.log1p(torch.arange(bins, dtype=torch.float64) * sample_rate / window / 700)
    place = (mel / mel[-1] * bands - 0.5).clamp(0, bands - 1)
    low = place.floor().long().clamp(max=bands - 2)
    share = (place - low).float()
    spread = torch.zeros(bands, bins)
    spread[low, torch.arange(bins)] = 1 - share
    spread[low + 1, torch.arange(bins)] += share
    # A band between two bins of the lowest octave has none of its own: it takes the nearest one.
    centres = torch.arange(bands, dtype=torch.float64)
    for band in (spread.sum(1) < 1e-3).nonzero()[:, 0].tolist():
        spread_of = (place - centres[band]).abs().argmin()
        spread[band, spread_of] = 1e-3
    return (spread / spread.sum(1, keepdim=True)).T.contiguous(), spread
