"""A clip made longer: time before or after it that the models fill.

What is added is silence to begin with and is always made anew. Before a clip come whole time steps, so that its own tokens stay
where they are; after it, as many samples as asked for. On a ring both are whole time steps of the ring.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vampnet import scratch, stereo
from vampnet.audio import MAX_SECONDS, make_signal
from vampnet.beats import EDGE_SECONDS, BeatGrid
from vampnet.config import TokenGrid
from vampnet.ring import whole_steps
from vampnet.sentences import Sentence

if TYPE_CHECKING:
    from vampnet.codec import Codec
    from vampnet.vamp import Clip

JOIN_STEPS = 2
"""Time steps of a clip that are made anew beside what is added: their tokens know of the silence that was there."""
SILENT_STEPS = 16
"""Silence that is encoded to find its tokens."""


@dataclass(frozen=True)
class Extension:
    """What is added to a clip, in time steps and samples.

    Attributes:
        seconds: (before, after) as asked for.
        steps: T of the clip itself.
        before, after: time steps added.
        offset: samples before the clip.
        length: samples N of the whole.
        samples: N of the clip itself.
    """

    seconds: tuple[float, float]
    steps: int
    before: int
    after: int
    offset: int
    length: int
    samples: int

    @property
    def total(self) -> int:
        """Time steps of the whole."""
        return self.before + self.steps + self.after

    @property
    def own(self) -> slice:
        """The samples of the whole that are the clip's own."""
        return slice(self.offset, self.offset + self.samples)

    def made(self) -> Tensor:
        """(total,) bool, True = made anew whatever a prompt says: all that was added, and where it joins the clip."""
        join = min(JOIN_STEPS, self.steps // 4)
        made = torch.ones(self.total, dtype=torch.bool)
        first, last = self.before, self.before + self.steps
        made[first + (join if self.before else 0) : last - (join if self.after else 0)] = False
        return made

    def mask(self, mask: Tensor) -> Tensor:
        """The mask (B, K, steps) of the clip as that of the whole, (B, K, total) bool."""
        return F.pad(mask, (self.before, self.after), value=True) | self.made().to(mask.device)


def plan(samples: int, seconds: tuple[float, float], grid: TokenGrid, loop: bool = False) -> Extension:
    """What is added to a clip of so many samples.

    Args:
        samples: N of the clip at the grid's sample rate.
        seconds: (before, after), each at least 0. Before is rounded to whole time steps (17 ms), and on a ring after as well.
        loop: the clip is a ring; its stretch to whole time steps stays that of the clip.

    Raises:
        ValueError: negative or no numbers, or the whole would be longer than `audio.MAX_SECONDS`.
    """
    before, after = added_seconds(seconds)
    found = _planned(samples, before, after, grid, loop)
    if found.length > MAX_SECONDS * grid.sample_rate and before + after > 0:
        raise _too_long()
    return found


def added_seconds(seconds: tuple[float, float]) -> tuple[float, float]:
    """(before, after) as two floats.

    Raises:
        ValueError: no two numbers of at least 0, or together more than `audio.MAX_SECONDS`.
    """
    try:
        before, after = (float(value) for value in seconds)
    except (TypeError, ValueError):
        raise ValueError(
            Sentence("What is added must be two numbers of seconds, before and after, not {given}.", given=repr(seconds))
        ) from None
    if not (math.isfinite(before) and math.isfinite(after)) or before < 0 or after < 0:
        raise ValueError(Sentence(
            "What is added before and after must be seconds of at least 0, not {before:g} and {after:g}.", before=before,
            after=after,
        ))  # fmt: skip
    if not before + after <= MAX_SECONDS:
        raise _too_long()
    return before, after


def _too_long() -> ValueError:
    return ValueError(Sentence(
        "With what is added the clip would be longer than {minutes:g} minutes: add less.", minutes=MAX_SECONDS / 60,
    ))  # fmt: skip


def _planned(samples: int, before: float, after: float, grid: TokenGrid, loop: bool) -> Extension:
    if loop:
        steps = whole_steps(samples, grid.hop) // grid.hop
        step = samples / steps  # samples of the clip a time step of the ring
        first, last = (round(value * grid.sample_rate / step) for value in (before, after))
        offset = round(first * step)
        # Two roundings may be a sample apart, and none of the clip's may be lost.
        length = max(round((steps + first + last) * step), offset + samples)
        return Extension((before, after), steps, first, last, offset, length, samples)
    steps, first = grid.samples_to_tokens(samples), grid.seconds_to_tokens(before)
    whole = samples + grid.seconds_to_samples(after)
    offset = grid.tokens_to_samples(first)
    return Extension((before, after), steps, first, grid.samples_to_tokens(whole) - steps, offset, offset + whole, samples)


def longer(clip: Clip, seconds: tuple[float, float], codec: Codec) -> Clip:
    """The clip with silence before and after it, to be filled.

    Its stereo image is held, its beats go on at its tempo, its loudness stays that of the clip itself.

    Args:
        clip: of `VampNet.listen`.
        seconds: as in `plan`.
        codec: that the clip's tokens are of.

    Returns:
        A `Clip` with `extension` filled; its mask is `clip.extension.mask(mask of the clip itself)`.

    Raises:
        ValueError: as `plan`, or the clip was made longer already.
    """
    if clip.extension is not None:
        raise ValueError(Sentence("This clip was made longer already: begin with the clip itself."))
    samples, rate = clip.signal.audio_data.shape[-1], int(clip.signal.sample_rate)
    added = plan(samples, seconds, TokenGrid(codec.sample_rate, codec.hop), clip.loop)
    silent = _silent_tokens(codec)
    tokens = torch.cat([silent.expand(-1, -1, added.before), clip.tokens, silent.expand(-1, -1, added.after)], dim=-1)
    padded = scratch.zeros(*clip.signal.audio_data.shape[:2], added.length)
    scratch.write(padded[..., added.offset : added.offset + samples], clip.signal.audio_data)
    signal = make_signal(padded, rate)
    signal.path_to_file = clip.signal.path_to_file
    return dataclasses.replace(
        clip, signal=signal, tokens=tokens, image=stereo.longer(clip.image, added.offset, added.length), extension=added,
        beats=None if clip.beats is None else longer_beats(clip.beats, added.offset / rate, added.length / rate),
    )  # fmt: skip


def longer_beats(grid: BeatGrid, offset: float, seconds: float) -> BeatGrid:
    """The beats of a clip that begins `offset` seconds into a whole of `seconds`, gone on with at their tempo to both sides."""
    beats = [time + offset for time in grid.beats]
    downbeats = [time + offset for time in grid.downbeats]
    if not grid.tempo > 0 or not beats:
        return dataclasses.replace(grid, beats=tuple(beats), downbeats=tuple(downbeats))
    period, bar = 60 / grid.tempo, grid.beats_per_bar
    earlier = [beats[0] - k * period for k in range(1, 1 + int((beats[0] + 1e-9) / period))]
    room = seconds - EDGE_SECONDS - beats[-1]
    later = [beats[-1] + k * period for k in range(1, 1 + max(0, math.ceil(room / period) - 1))]
    if downbeats:
        first, last = (min(range(len(beats)), key=lambda i: abs(beats[i] - time)) for time in (downbeats[0], downbeats[-1]))
        before = [time for k, time in enumerate(earlier, start=1) if (k + first) % bar == 0]
        after = [time for k, time in enumerate(later, start=len(beats)) if (k - last) % bar == 0]
        downbeats = [*before[::-1], *downbeats, *after]
    every = [max(0.0, time) for time in (*earlier[::-1], *beats, *later)]
    return dataclasses.replace(grid, beats=tuple(every), downbeats=tuple(max(0.0, time) for time in downbeats))


def _silent_tokens(codec: Codec) -> Tensor:
    """(1, K, 1) int64 on the CPU: the tokens of silence."""
    device = codec.codebook_vectors().device
    return codec.encode(torch.zeros(1, 1, SILENT_STEPS * codec.hop, device=device))[..., SILENT_STEPS // 2, None].cpu()
