"""Stereo through a codec of one channel: a downmix along the principal axis, and the stereo image that brings the rest back.

Tokens carry one channel. `split` turns a stereo signal into that channel and a `StereoImage`; `apply` puts the image onto a
take. In every band the two channels are written in a rotated basis, M along the principal axis (a, b) and S across it:

    M = a L + b R          L = a M - b S
    S = a R - b L          R = b M + a S          a^2 + b^2 = 1

M is what the codec sees. Of S the image keeps, per band and time frame, what M predicts (S = p M + e, p real) and how strong
the remainder e is. A take M' then gets S' = p M' + w D, where D is a decorrelated copy of M' with the same band energies and
w = |e| / |M|. So the level, position and width of every band return: the 2 x 2 covariance of the channels (its real part) is
that of the source wherever the take has the energies of the source. It is parametric stereo (Breebaart, van de Par, Kohlrausch
and Schuijers, 2005) with one difference: the axis follows the audio per band, so that what stands in antiphase or in one
channel alone is not lost in the downmix.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from vampnet import passes, scratch
from vampnet.audio import make_signal
from vampnet.decorrelation import decorrelate
from vampnet.overlapping import BATCH, HOP, WINDOW, Spectra, filtered, ring_of, twice

if TYPE_CHECKING:
    from audiotools import AudioSignal

BANDS = 24
SMOOTHING_SECONDS = 0.08
"""Half-width of the window over which band energies are averaged in time, so that the image of the source does not chop what a
take plays a little earlier or later. With 0.15 a hi-hat from side to side in sixteenths came from the middle."""
MAX_RATIO = 4.0
"""The most (12 dB) that S may exceed M by in a band: where the source had next to nothing in M, a take may well have more."""
MID_WEIGHT = 0.5
"""How strongly the axis is drawn to mid, as a share of the band's energy: two independent, equally loud channels have no
principal axis, and mid is then the downmix to take. Below 1, a band in pure antiphase still gets the side axis."""
_FRAMES = 4096
"""Frames whose energies are worked on at a time."""


@dataclass(frozen=True)
class StereoImage:
    """Where the sound of a source stands between the channels, per band and time frame.

    Attributes:
        channels: 1 = the source was mono and nothing else is filled; 2 = stereo.
        length: samples N of the source.
        sample_rate: Hz.
        loop: whether the frames are those of a ring.
        axis: (2, F) float32, the unit vector (a, b) of the downmix at each of the F = WINDOW / 2 + 1 frequencies.
        predicted: (BANDS, frames) float32, p: what M predicts of S.
        remainder: (BANDS, frames) float32, w >= 0: how strong the rest of S is beside M.
    """

    channels: int
    length: int
    sample_rate: int
    loop: bool = False
    axis: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    remainder: torch.Tensor | None = None


def split(signal: AudioSignal, loop: bool = False) -> tuple[AudioSignal, StereoImage]:
    """Stereo -> one channel and its stereo image. Ordinary music becomes (L + R) / sqrt(2); nothing vanishes for any input.

    Args:
        signal: (1, C, N) float, C = 1 or 2. One channel comes back as it is.
        loop: the clip is a ring: frames at its end look on into its start.

    Returns:
        AudioSignal (1, 1, N) and the image that `apply` takes.

    Raises:
        ValueError: a batch of clips or more than two channels.
    """
    audio = signal.audio_data
    if audio.ndim != 3 or audio.shape[0] != 1 or audio.shape[1] not in (1, 2):
        shape = tuple(audio.shape)
        raise ValueError(f"One mono or stereo clip (1, C, N) is needed, not the shape {shape}: mix it to stereo first.")
    rate, length = int(signal.sample_rate), audio.shape[-1]
    if audio.shape[1] == 1:
        return make_signal(scratch.copy(audio), rate), StereoImage(1, length, rate, loop)
    left, right = audio[0].detach().float().cpu()
    heard = Spectra([left, right], length, loop)
    axis = _principal_axis(*_band_energies(heard, rate), rate)
    a, b = twice(axis)
    if bool((axis == axis[:, :1]).all()):
        mid, side = scratch.empty(2, length)
        for m, s, x, y in zip(*(of.split(BATCH * HOP) for of in (mid, side, left, right)), strict=True):
            m.copy_(a[0] * x + b[0] * y)
            s.copy_(a[0] * y - b[0] * x)
    else:
        mid, side = filtered(heard, lambda _, x, y: torch.stack((a * x + b * y, a * y - b * x))).unbind()
    del heard
    energies = _smooth(_band_energies(Spectra([mid, side], length, loop), rate), length, rate, loop)
    image = StereoImage(2, length, rate, loop, axis, *_of_side(energies))
    return make_signal(mid[None, None].to(audio.device), rate), image


def _of_side(energies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of (3, BANDS, frames) energies of M and S: p and w of the image, (BANDS, frames) float32 each."""
    floor = 1e-10 * float(energies[0].sum(0).mean() + energies[2].sum(0).mean()) + 1e-20
    predicted, remainder = torch.empty(2, *energies.shape[1:])
    for p, w, (mm, ms, ss) in zip(*(x.split(_FRAMES, dim=-1) for x in (predicted, remainder, energies)), strict=True):
        p.copy_((ms / (mm + floor)).clamp(-MAX_RATIO, MAX_RATIO))
        rest = (ss - ms.square() / (mm + floor)).clamp_min(0.0)
        # Rounding leaves some -70 dB of remainder in a signal that has none; below -60 dB there is nothing to hear.
        rest = torch.where(rest < 1e-6 * (mm + ss), torch.zeros_like(rest), rest)
        w.copy_((rest / (mm + floor)).sqrt().clamp_max(MAX_RATIO))
    return predicted, remainder


def apply(take: AudioSignal, image: StereoImage, loop: bool = False) -> AudioSignal:
    """Puts the stereo image of a source onto a take.

    Args:
        take: (1, 1, N) float, at the sample rate of the image. A take of another length than the source gets the image from its
            start on; past the end the image's last frame stays, or with `loop` the image begins again.
        loop: the take is a ring; the result is one too, continuous across its seam.

    Returns:
        AudioSignal (1, 2, N), or the take itself (1, 1, N) where the source was mono. Deterministic.

    Raises:
        ValueError: the take is not one channel, or has another sample rate.
    """
    audio = take.audio_data
    if audio.ndim != 3 or audio.shape[:2] != (1, 1):
        raise ValueError(f"A take has one channel (1, 1, N), not the shape {tuple(audio.shape)}: apply the image to each take.")
    if int(take.sample_rate) != image.sample_rate:
        raise ValueError(f"The take has {take.sample_rate} Hz and the image {image.sample_rate} Hz: resample the take first.")
    if image.channels == 1:
        return make_signal(scratch.copy(audio), image.sample_rate)
    from vampnet import stereo_kernels

    mid, rate, length = audio[0, 0].detach().float().cpu(), image.sample_rate, audio.shape[-1]
    predicted, remainder = _at_frames(image, length, loop)
    if remainder.any():
        heard = Spectra([mid, decorrelate(mid, rate, loop)], length, loop)
        on_mid, on_far = _matched(heard, rate, predicted, remainder)
    else:
        heard, on_mid, on_far = Spectra([mid], length, loop), predicted, torch.zeros_like(predicted)
    a, b = twice(image.axis)

    def paint(frames: slice, m: torch.Tensor, d: torch.Tensor | None = None) -> torch.Tensor:
        out = torch.empty(2, *m.shape)
        gains = on_mid[:, frames].float().contiguous(), on_far[:, frames].float().contiguous()
        given = (m, m if d is None else d, *gains, *_places(rate), a, b, *out)
        passes.by_rows(stereo_kernels.painted, out.numel(), len(m), *given)
        return out

    channels = filtered(heard, paint)
    return make_signal(channels[None].to(audio.device), rate)


def _matched(heard: Spectra, rate: int, predicted: torch.Tensor, remainder: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gains (BANDS, frames) on M' and on its decorrelated copy, so that the part w D is uncorrelated with M' and as loud.

    In a narrow band the copy can by chance resemble M' (a single partial is only shifted in phase): that share is taken out,
    and what is left is brought to the energy of M'.
    """
    energies = _smooth(_band_energies(heard, rate), heard.length, rate, heard.loop)
    floor = 1e-10 * float(energies[0].sum(0).mean()) + 1e-20
    on_mid, on_far = torch.empty(2, *energies.shape[1:])
    given = (on_mid, on_far, energies, predicted, remainder)
    for m, d, (mm, md, dd), p, w in zip(*(x.split(_FRAMES, dim=-1) for x in given), strict=True):
        alike = md / (mm + floor)
        apart = (dd - md * alike).clamp_min(0.0)
        scale = (mm / (apart + floor)).sqrt().clamp_max(MAX_RATIO)
        torch.mul(w, scale.float(), out=d)
        m.copy_(p - d * alike.float())
    return on_mid, on_far


def _principal_axis(ll: torch.Tensor, lr: torch.Tensor, rr: torch.Tensor, rate: int) -> torch.Tensor:
    """Band energies (BANDS, frames) -> (2, F) the unit axis at each frequency, smooth from band to band."""
    ll, lr, rr = ll.sum(1), lr.sum(1), rr.sum(1)
    total = ll + rr
    # A band 60 dB below the whole has nothing to say: it follows the axis of all.
    ll, lr, rr = (e + 1e-6 * e.sum() for e in (ll, lr, rr))
    lr = lr + MID_WEIGHT * (ll + rr) / 2
    angle = 0.5 * torch.atan2(2 * lr, ll - rr)
    axes = torch.stack([angle.cos(), angle.sin()])
    if float(total.sum()) <= 0.0:
        axes = torch.full_like(axes, math.sqrt(0.5))
    # (a, b) and (-a, -b) are the same axis: choose the signs so that neighbours agree, then that most of it points to mid.
    for band in range(1, axes.shape[1]):
        if float(axes[:, band] @ axes[:, band - 1]) < 0:
            axes[:, band] *= -1
    if float((axes.sum(0) * total).sum()) < 0:
        axes = -axes
    if float((axes - axes[:, :1]).abs().max()) < 1e-3:
        axes = axes.mean(1, keepdim=True).expand_as(axes)
        return (axes / axes.norm(dim=0)).float()[:, :1].repeat(1, WINDOW // 2 + 1)
    spread = axes.float() @ _band_matrix(rate)
    return spread / spread.norm(dim=0, keepdim=True)


@lru_cache(maxsize=4)
def _band_matrix(rate: int) -> torch.Tensor:
    """(BANDS, F) triangular weights, evenly spaced in ERB rate (Glasberg and Moore, 1990); those of a frequency sum to 1."""
    frequency = torch.arange(WINDOW // 2 + 1, dtype=torch.float64) * rate / WINDOW
    erb = 21.4 * torch.log10(1 + 0.00437 * frequency)
    position = (erb / erb[-1] * (BANDS - 1)).clamp(0, BANDS - 1)
    return (1 - (position[None] - torch.arange(BANDS, dtype=torch.float64)[:, None]).abs()).clamp_min(0).float()


@lru_cache(maxsize=4)
def _places(rate: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`share` (2 F,) float32 and `starts` (BANDS,) int64 of `_band_matrix`, as `stereo_kernels` takes them."""
    matrix = twice(_band_matrix(rate))
    position = torch.arange(BANDS, dtype=torch.float32) @ matrix
    low = position.floor().long().clamp_max(BANDS - 2)
    starts = torch.searchsorted(low, torch.arange(BANDS))
    return position - low, starts


def _band_energies(heard: Spectra, rate: int) -> torch.Tensor:
    """Of two signals |X|^2, Re(X conj Y), |Y|^2 summed over each band, (3, BANDS, frames) float64."""
    from vampnet import stereo_kernels

    out = scratch.empty(3, BANDS, len(heard.starts), dtype=torch.float64)
    for batch, _, (x, y) in heard:
        made = torch.empty(3, BANDS, len(x), dtype=torch.float64)
        passes.by_rows(stereo_kernels.energies, x.numel(), len(x), x, y, *_places(rate), made)
        out[..., batch] = made
    return out


def _smooth(energy: torch.Tensor, length: int, rate: int, loop: bool) -> torch.Tensor:
    """(3, BANDS, frames), written over by what it is averaged over SMOOTHING_SECONDS to either side with a Hann window."""
    from scipy.ndimage import convolve1d

    ring, starts = ring_of(length, loop)
    reach = max(1, round(SMOOTHING_SECONDS * rate * len(starts) / ring))
    kernel = np.hanning(2 * reach + 3)[1:-1]
    for band in energy.flatten(0, 1).numpy():
        convolve1d(band, kernel / kernel.sum(), output=band, mode="wrap" if loop else "nearest")
    return energy


def longer(image: StereoImage, before: int, length: int) -> StereoImage:
    """The image of a clip that begins `before` samples into a whole of `length` samples; its ends are held to both sides."""
    if image.channels == 1:
        return dataclasses.replace(image, length=length)
    _, starts = ring_of(length, image.loop)
    position = (starts + WINDOW // 2).double() - before
    predicted, remainder = _image_at(image, position.clamp(0, max(0, image.length - WINDOW // 4)))
    return dataclasses.replace(image, length=length, predicted=predicted, remainder=remainder)


def part(image: StereoImage, first: int, length: int) -> StereoImage:
    """The image of the `length` samples from `first` on, which on a ring may go on behind its end; no ring itself."""
    if image.channels == 1:
        return StereoImage(1, length, image.sample_rate)
    _, starts = ring_of(length, False)
    position = (starts + WINDOW // 2).double() + first
    most = max(0, image.length - WINDOW // 4)
    position = position % max(1, image.length) if image.loop else position.clamp(0, most)
    predicted, remainder = _image_at(image, position)
    return StereoImage(2, length, image.sample_rate, False, image.axis, predicted, remainder)


def _at_frames(image: StereoImage, length: int, loop: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The image's p and w (BANDS, frames) at the frames of a take of `length` samples."""
    ring, starts = ring_of(length, loop)
    source_ring, source_starts = ring_of(image.length, image.loop)
    if (ring, len(starts), loop) == (source_ring, len(source_starts), image.loop):
        return image.predicted, image.remainder
    position = (starts + WINDOW // 2).double()
    if loop:
        position = position % max(1, image.length)
    elif not image.loop:
        # The frames at the very end see little of the source and much of the silence after it.
        position = position.clamp_max(max(0, image.length - WINDOW // 4))
    return _image_at(image, position)


def _image_at(image: StereoImage, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The image's p and w (BANDS, n) at n positions (float64) in samples of its source, between its frames by a line."""
    ring, starts = ring_of(image.length, image.loop)
    values = torch.stack([image.predicted, image.remainder])
    position = position * (len(starts) / ring)
    last = len(starts) - 1
    low = position.floor().long().clamp(0, last)
    high = (low + 1) % (last + 1) if image.loop else (low + 1).clamp_max(last)
    part = (position - low).clamp(0, 1).float()
    mixed = values[..., low] * (1 - part) + values[..., high] * part
    return mixed[0], mixed[1]
