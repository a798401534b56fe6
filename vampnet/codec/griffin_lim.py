"""Magnitudes -> samples: fast Griffin-Lim (Perraudin, Balazs and Søndergaard, 2013), also on a ring.

Frame j is centred on sample j * hop + hop // 2, so that a time step of two frames covers its samples symmetrically.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vampnet import scratch

from . import phases, search

KEPT_PHASES = 1 << 21
"""Phases of at most so many bins are kept for the next call: those of 17 seconds take 17 MB."""


def pad_for_frames(audio: Tensor, window: int, hop: int, loop: bool) -> Tensor:
    """(B, N) -> (B, N + window - hop): the context that the first and the last frame see.

    On a ring the context is the other end of the clip; otherwise it is the clip mirrored (or its edge value where the
    clip is shorter than the context).
    """
    side = (window - hop) // 2
    n = audio.shape[-1]
    if loop:
        index = torch.arange(-side, n + side, device=audio.device) % n
        return audio[..., index]
    if n > side:
        return F.pad(audio[:, None], (side, side), mode="reflect")[:, 0]
    return F.pad(audio[:, None], (side, side), mode="replicate")[:, 0]


def frames_between(audio: Tensor, window: int, hop: int, loop: bool, first: int, stop: int) -> Tensor:
    """(B, N), N a multiple of hop -> (B, stop - first, window): some of its frames, of `pad_for_frames`, as a view."""
    side, n = (window - hop) // 2, audio.shape[-1]
    start, end = first * hop - side, stop * hop + side
    if start >= 0 and end <= n:
        return audio[:, start:end].unfold(-1, window, hop)
    at = torch.arange(start, end, device=audio.device)
    if loop:
        at %= n
    elif n > side:
        at = (n - 1) - ((n - 1) - at.abs()).abs()
    else:
        at.clamp_(0, n - 1)
    return audio[:, at].unfold(-1, window, hop)


def spectrum(audio: Tensor, window: Tensor, hop: int, loop: bool = False) -> Tensor:
    """(B, N) float, N a multiple of hop -> (B, N / hop, window / 2 + 1) complex."""
    size = window.shape[0]
    frames = pad_for_frames(audio, size, hop, loop).unfold(-1, size, hop)
    return torch.fft.rfft(frames * window, dim=-1)


def synthesize(spec: Tensor, window: Tensor, hop: int, loop: bool = False) -> Tensor:
    """Least-squares inverse of `spectrum`: (B, J, F) complex -> (B, J * hop) float."""
    pieces = torch.fft.irfft(spec, n=window.shape[0], dim=-1).mul_(window)
    return _gather(pieces, hop, loop) / _overlap_weight(window, hop, spec.shape[1], loop)


def _overlap_weight(window: Tensor, hop: int, frames: int, loop: bool) -> Tensor:
    """(1, frames * hop): by how much the squared windows overlap at every sample."""
    squares = (window**2).expand(1, frames, -1)
    return _gather(squares, hop, loop).clamp_min_(1e-8)


def _gather(pieces: Tensor, hop: int, loop: bool) -> Tensor:
    """(B, J, W) frames -> (B, J * hop): overlap-add, without what lies outside of the clip, or wrapped around."""
    size = pieces.shape[-1]
    audio = _overlap_add(pieces, hop)
    side, n = (size - hop) // 2, pieces.shape[1] * hop
    return _wrap(audio, side, n) if loop else audio[:, side : side + n]


def _overlap_add(pieces: Tensor, hop: int) -> Tensor:
    """(B, J, W) -> (B, J * hop + W - hop). One addition per hop of the window: ten times faster than `F.fold`."""
    batch, frames, size = pieces.shape
    shifts = -(-size // hop)
    out = pieces.new_zeros(batch, frames + shifts - 1, hop)
    for shift in range(shifts):
        part = pieces[:, :, shift * hop : (shift + 1) * hop]
        out[:, shift : shift + frames, : part.shape[-1]] += part
    return out.view(batch, -1)[:, : frames * hop + size - hop]


def _wrap(x: Tensor, side: int, n: int) -> Tensor:
    """Folds what reaches over either end of a ring of n samples back onto it."""
    index = torch.arange(-side, x.shape[-1] - side, device=x.device) % n
    return torch.zeros(x.shape[0], n, dtype=x.dtype, device=x.device).index_add_(1, index, x)


def white_phases(frames: int, bins: int, hop: int, size: int) -> Tensor:
    """(frames, bins, 2) real and imaginary parts of length 1 to start from: white, the same for the same arguments.

    Griffin-Lim needs phases that differ from bin to bin (zeros pile all energy on the frame's centre), and takes must be
    reproducible, so they come from a generator of their own.
    """
    # Take after take asks for the same ones. What a long clip wants is large, and asked for piece by piece.
    return (_kept_phases if frames * bins <= KEPT_PHASES else _draw_phases)(frames, bins, hop, size)


def _draw_phases(frames: int, bins: int, hop: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(hop * 31 + size)
    phases = torch.rand(frames, bins, generator=generator) * (2 * math.pi)
    return torch.stack((phases.cos(), phases.sin()), dim=-1)


_kept_phases = lru_cache(maxsize=2)(_draw_phases)


def white_blocks(frames: int, bins: int, hop: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """`white_phases` as `search.run` takes them."""
    return (_kept_blocks if frames * bins <= KEPT_PHASES else _draw_blocks)(frames, bins, hop, size)


def _draw_blocks(frames: int, bins: int, hop: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Drawn block by block, which gives the same numbers, so that they are there once."""
    generator = torch.Generator().manual_seed(hop * 31 + size)
    real, imaginary = np.zeros((2, -(-frames // search.LANES), bins, search.LANES), np.float32)
    for start in range(0, frames, search.LANES):
        count, block = min(search.LANES, frames - start), start // search.LANES
        angle = torch.rand(count, bins, generator=generator) * (2 * math.pi)
        real[block, :, :count], imaginary[block, :, :count] = angle.cos().numpy().T, angle.sin().numpy().T
    return real.reshape(-1), imaginary.reshape(-1)


def _blocks(real: Tensor, imaginary: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(1, J, F) each -> as `search.run` takes them."""
    return search.in_blocks(real[0]), search.in_blocks(imaginary[0])


_kept_blocks = lru_cache(maxsize=2)(_draw_blocks)


@torch.no_grad()
def griffin_lim(
    magnitudes: Tensor,
    window: Tensor,
    hop: int,
    rounds: int = 32,
    momentum: float = 0.99,
    loop: bool = False,
    head: Tensor | None = None,
    tail: Tensor | None = None,
    correct: Callable[[Tensor], Tensor] | None = None,
    start: Tensor | None = None,
    track: bool = False,
) -> Tensor:
    """Samples whose magnitude spectrum comes near to the given one.

    Args:
        magnitudes: (B, J, F) float, not negative, J frames of F = window / 2 + 1 bins.
        window: (W,) float analysis and synthesis window.
        hop: samples from frame to frame.
        rounds: projections; each costs one transform forth and one back.
        momentum: of the fast variant; 0 = the classic one.
        loop: the clip is a ring; the last frame overlaps the first.
        head, tail: (B, n) float samples that the first and the last n samples are known to be; the rest joins onto them.
        correct: (B, J * hop) float -> the same shape: what else is known of the samples, laid onto them at the end.
        start: (B, J, f) complex, spectra of f <= F bins whose phases are known already; the others start as `track` says.
        track: from phases that go on from frame to frame (`phases.track`); else from white ones.

    Returns:
        (B, J * hop) float samples.
    """
    frames, bins = magnitudes.shape[1:]
    weight = _overlap_weight(window, hop, frames, loop)
    ends = [head, tail, start]
    known = _known_spectra(head, window, hop, frames) if track else None
    if magnitudes.device.type == "cpu" and magnitudes.dtype == torch.float32 and search.fits(window, hop, frames):
        parts = []
        for i, one in enumerate(magnitudes):
            if track:
                given = _blocks(*phases.track(one[None], hop, None if known is None else known[i, None]))
            else:
                given = white_blocks(frames, bins, hop, window.shape[0])
            mine = (None if x is None else x[i] for x in ends)
            own = track or frames * bins > KEPT_PHASES
            parts.append(search.run(one, window, hop, given, weight[0], rounds, momentum, loop, *mine, own=own))
        audio = torch.stack(parts)
        del given  # as large as the magnitudes, twice
    else:
        if track:
            white = torch.stack(phases.track(magnitudes, hop, known), dim=-1)
        else:
            white = white_phases(frames, bins, hop, window.shape[0])
        audio = _Search(magnitudes, window, hop, loop, weight, head, tail).run(
            white.to(magnitudes.device), start, rounds, momentum
        )
    return audio if correct is None else _pinned(correct(audio), head, tail)


def _known_spectra(head: Tensor | None, window: Tensor, hop: int, frames: int) -> Tensor | None:
    """(B, n) samples that a clip begins with -> (B, j, F) complex, of its frames that hold nothing else; None without any."""
    size = window.shape[0]
    count = 0 if head is None else min((head.shape[-1] - (size - hop) // 2) // hop, frames - 1)
    return spectrum(head[:, : head.shape[-1] // hop * hop], window, hop)[:, :count] if count > 0 else None


def _pinned(audio: Tensor, head: Tensor | None, tail: Tensor | None) -> Tensor:
    if head is not None:
        audio[:, : head.shape[-1]] = head
    if tail is not None:
        audio[:, -tail.shape[-1] :] = tail
    return audio


class _Search:
    """The rounds of `griffin_lim` where `search` does not fit, with memory that they share: to get it anew costs as much as
    the work."""

    def __init__(
        self, magnitudes: Tensor, window: Tensor, hop: int, loop: bool, weight: Tensor, head: Tensor | None, tail: Tensor | None
    ) -> None:
        self.magnitudes, self.window, self.hop, self.loop = magnitudes, window, hop, loop
        self.weight, self.head, self.tail = weight, head, tail
        self.frames = magnitudes.new_empty(*magnitudes.shape[:2], window.shape[0])
        self.sizes = torch.empty_like(magnitudes)
        self.pairs = magnitudes.new_empty(*magnitudes.shape, 2)

    def start(self, white: Tensor, known: Tensor | None) -> Tensor:
        """Real and imaginary parts to start from: (J, F, 2) of length 1 and (B, J, f) complex -> (B, J, F, 2)."""
        spectra = torch.stack((self.magnitudes, self.magnitudes), dim=-1).mul_(white)
        if known is not None:
            bins = known.shape[-1]
            spectra[:, :, :bins] = torch.view_as_real(torch.sgn(known)) * self.magnitudes[:, :, :bins, None]
        return spectra

    def samples(self, spectra: Tensor) -> Tensor:
        """(B, J, F, 2) -> (B, J * hop + W - hop): the nearest sound, with the context that its first and last frame see."""
        size, hop = self.window.shape[0], self.hop
        pieces = torch.fft.irfft(torch.view_as_complex(spectra), n=size, dim=-1).mul_(self.window)
        side, n = (size - hop) // 2, pieces.shape[1] * hop
        audio = _overlap_add(pieces, hop)
        if self.loop or n <= side:
            middle = _wrap(audio, side, n) if self.loop else audio[:, side : side + n]
            return pad_for_frames(_pinned(middle / self.weight, self.head, self.tail), size, hop, self.loop)
        # The mirrored context is written where the overlap-add left what lies outside of the clip.
        _pinned(audio[:, side : side + n].div_(self.weight), self.head, self.tail)
        audio[:, :side] = audio[:, side + 1 : 2 * side + 1].flip(1)
        audio[:, side + n :] = audio[:, n - 1 : side + n - 1].flip(1)
        return audio

    def spectra(self, audio: Tensor) -> Tensor:
        """What `samples` gives -> (B, J, F, 2)."""
        frames = audio.unfold(-1, self.window.shape[0], self.hop)
        return torch.view_as_real(torch.fft.rfft(torch.mul(frames, self.window, out=self.frames), dim=-1))

    def run(self, white: Tensor, known: Tensor | None, rounds: int, momentum: float) -> Tensor:
        """Phases to start from, as of `start` -> (B, J * hop) samples."""
        before, spectra = None, self.start(white, known)
        for _ in range(rounds):
            now = self.spectra(self.samples(spectra))
            # Real and imaginary parts by hand: for complex numbers torch's lerp, abs and products with real ones cost more than
            # the transforms, and so does whatever broadcasts over an axis of two.
            ahead = now.clone() if before is None else torch.lerp(before, now, 1 + momentum, out=before)
            before = now
            squares = torch.mul(ahead, ahead, out=self.pairs)
            gain = torch.add(squares[..., 0], squares[..., 1], out=self.sizes).add_(1e-18).rsqrt_().mul_(self.magnitudes)
            spectra = ahead.mul_(torch.stack((gain, gain), dim=-1, out=self.pairs))
        side = (self.window.shape[0] - self.hop) // 2
        return self.samples(spectra)[:, side : side + self.magnitudes.shape[1] * self.hop]


def griffin_lim_pieces(
    magnitudes: Callable[[int, int], Tensor],
    frames: int,
    window: Tensor,
    hop: int,
    rounds: int = 32,
    loop: bool = False,
    piece: int = 1024,
    context: int = 48,
    correct: Callable[[Tensor, list[tuple[int, int]], bool], Tensor] | None = None,
    start: Callable[[list[tuple[int, int]], bool], Tensor] | None = None,
    momentum: float = 0.99,
    track: bool = False,
) -> Tensor:
    """`griffin_lim` in bounded memory: piece after piece, each joined onto the samples of the one before.

    Args:
        magnitudes: (start, stop) -> (B, stop - start, F) float magnitudes of those frames.
        frames: J, of the whole clip.
        window, hop, rounds, loop, momentum, track: as for `griffin_lim`.
        piece: frames at a time; a clip of up to a piece is made at once.
        context: frames that a piece sees of its neighbours.
        correct: (samples, spans, loop) -> samples: as for `griffin_lim`, for the frames of the spans (start, stop), one after
            the other.
        start: (spans, loop) -> spectra: as for `griffin_lim`, for the frames of the spans.

    Returns:
        (B, J * hop) float samples; on a ring the last piece is joined onto the first one too.
    """
    find = partial(griffin_lim, window=window, hop=hop, rounds=rounds, momentum=momentum, track=track)
    if frames <= piece:
        spans = [(0, frames)]
        whole = None if correct is None else partial(correct, spans=spans, loop=loop)
        known = None if start is None else start(spans, loop)
        return find(magnitudes(0, frames), loop=loop, correct=whole, start=known)
    out: Tensor | None = None  # all of it from the start: joined at the end it would be there twice
    known = context * hop
    for first in range(0, frames, piece):
        stop = min(frames, first + piece)
        wraps = loop and stop == frames
        left, right = min(context, first), 0 if stop == frames else min(context, frames - stop)
        spans = [(first - left, stop + right)] + ([(0, context)] if wraps else [])
        levels = [magnitudes(*span) for span in spans]
        part = None if correct is None else partial(correct, spans=spans, loop=False)
        head = out[:, max(0, first * hop - known) : first * hop] if left else None
        tail = out[:, :known] if wraps else None
        given = None if start is None else start(spans, False)
        audio = find(torch.cat(levels, dim=1) if wraps else levels[0], head=head, tail=tail, correct=part, start=given)
        out = scratch.new_empty(audio, len(audio), frames * hop) if out is None else out
        out[:, first * hop : stop * hop] = audio[:, left * hop : (left + stop - first) * hop]
        del audio, levels, given, part  # before the next ones are made
        if not first:  # those of the next are larger, and would find no room between what is left of these
            scratch.tidy(4 * frames * hop)
    return out
