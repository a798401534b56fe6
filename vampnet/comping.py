"""Comping: the best take for each bar, in one; the model remakes only the joins.

The chosen takes' tokens are laid side by side, a short stretch around every place where the take changes is made anew with all
else as its surroundings, and the whole is rendered like any take. Where how the takes sound is known, that is heard between the
joins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vampnet import audio, loops, original
from vampnet.beats import BeatGrid
from vampnet.config import Sampling, TokenGrid
from vampnet.offset import offset_of
from vampnet.ring import may_be_ring, whole_steps
from vampnet.sentences import Sentence

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.pipeline import Cancelled, OnStep, VampNet
    from vampnet.vamp import Clip

JOIN_SECONDS = 0.25
"""How much is made anew around a join: about what a note needs to end and another to begin."""
PARTS = 8
"""Equal parts of a clip without beats."""
EDGE_STEPS = 3
"""Time steps of a take beside a join that are not compared: what is made anew is heard in them."""
SILENCE = 1e-9
"""Mean square of samples below which there is nothing to compare."""
MAX_PARTS = 64
FEW_BARS = 4


def part_times(samples: int, rate: int, beats: BeatGrid | None) -> list[float]:
    """Where the parts of a clip begin and end: its bars; in a clip of less than four its beats; without beats 8 equal parts.

    Args:
        samples, rate: length of the clip, and Hz.
        beats: of the clip.

    Returns:
        Seconds, rising, from 0 to the end of the clip: one more than there are parts.
    """
    seconds = samples / rate
    if beats is not None and len(beats.beats) > 1:
        first, bar = loops.bar_line(beats)
        beat = bar / beats.beats_per_bar
        times = _lines(seconds, first, bar)
        if len(times) - 1 < FEW_BARS:
            times = _lines(seconds, first, beat)
        while len(times) - 1 > MAX_PARTS:
            times = [*times[:-1:2], times[-1]]
        if len(times) > 2:
            return times
    return [seconds * i / PARTS for i in range(PARTS + 1)]


def _lines(seconds: float, first: float, step: float) -> list[float]:
    """0, the lines first + n * step inside, and the end: no part is under half a step, and whole steps are of equal length."""
    whole = loops.whole_bars(seconds, step)
    offset = first % step
    if whole and min(offset, step - offset) < max(loops.START_TOLERANCE_SECONDS, 0.1 * step):
        return [seconds * i / whole for i in range(whole + 1)]
    inside = [offset + n * step for n in range(int((seconds - offset) / step) + 1)]
    return [0.0, *(t for t in inside if step / 2 <= t <= seconds - step / 2), seconds]


def part_steps(
    times: Sequence[float], samples: int, grid: TokenGrid, rate: int, loop: bool, steps: int | None = None
) -> list[int]:
    """The times of `part_times` as time steps of the clip's tokens, from 0 to T.

    Args:
        samples, rate: length of the clip, and Hz.
        loop: the clip is a ring, which is stretched to whole time steps.
        steps: T of the takes; None = of a clip that was not made longer, as a ring may lie in others then.
    """
    length = round(samples * grid.sample_rate / rate)
    if steps is None:
        steps = whole_steps(length, grid.hop) // grid.hop if loop else grid.samples_to_tokens(length)
    stretch = grid.tokens_to_samples(steps) / length if loop else 1.0
    found = [min(steps, grid.seconds_to_tokens(time * stretch)) for time in times]
    return [0, *found[1:-1], steps]


def assemble(tokens: Tensor, choice: Sequence[int], bounds: Sequence[int]) -> Tensor:
    """The tokens of the chosen takes side by side.

    Args:
        tokens: (takes, K, T) int64.
        choice: for each part, which take (from 0).
        bounds: time steps from 0 to T, one more than there are parts.

    Returns:
        (1, K, T) int64.

    Raises:
        ValueError: choices that do not fit the takes or the parts.
    """
    steps = tokens.shape[-1]
    if len(bounds) != len(choice) + 1 or list(bounds) != sorted(bounds) or bounds[0] != 0 or bounds[-1] != steps:
        raise ValueError(Sentence(
            "{count} parts of {steps} time steps need as many bounds and one more, from 0 to the end.", count=len(choice),
            steps=steps,
        ))  # fmt: skip
    if any(isinstance(take, bool) or not isinstance(take, int) or not 0 <= take < len(tokens) for take in choice):
        raise ValueError(Sentence("Each part needs one of the takes 1 to {takes}.", takes=len(tokens)))
    parts = zip(choice, bounds[:-1], bounds[1:], strict=True)
    return torch.cat([tokens[take : take + 1, :, start:end] for take, start, end in parts], dim=-1)


def joins(
    choice: Sequence[int],
    bounds: Sequence[int],
    levels: int,
    grid: TokenGrid,
    seconds: float = JOIN_SECONDS,
    loop: bool = False,
) -> Tensor:
    """The mask of what is made anew: around every bound where the take changes; in a ring also where its end meets its start.

    Args:
        seconds: how wide, half of it before the bound and half after; on each side at most a third of the part there, so that
            no part that was chosen is made anew as a whole.

    Returns:
        (1, levels, T) bool, True = regenerate; all False where one take plays throughout.
    """
    steps, lengths = bounds[-1], [end - start for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
    mask = torch.zeros(1, levels, steps, dtype=torch.bool)
    reach = max(1, round(seconds * grid.tokens_per_second / 2))
    sides = [min(reach, length // 3) for length in lengths]
    for part, place in enumerate(bounds[1:-1]):
        if choice[part] != choice[part + 1]:
            mask[..., place - sides[part] : place + sides[part + 1]] = True
    if loop and choice[0] != choice[-1]:
        mask[..., : sides[0]] = True
        mask[..., steps - sides[-1] :] = True
    return mask


def comp(
    model: VampNet,
    clip: Clip,
    tokens: Tensor,
    choice: Sequence[int],
    bounds: Sequence[int],
    sampling: Sampling | None = None,
    seed: int = 0,
    *,
    seconds: float = JOIN_SECONDS,
    takes: Sequence[AudioSignal] | None = None,
    on_step: OnStep | None = None,
    cancelled: Cancelled | None = None,
) -> tuple[AudioSignal, Tensor, Tensor]:
    """One take out of several.

    Args:
        model: the one that made the takes.
        clip: their source, as `VampNet.listen` gives it.
        tokens: (takes, K, T) int64, of the takes.
        choice, bounds: as in `assemble`.
        sampling: how the joins are made; None = the model's defaults.
        seed: of the joins.
        seconds: width of a join.
        takes: how each of them sounds, (1, C, N): then every part sounds as it does there. None = all is decoded, and the whole
            as loud as the clip.
        on_step, cancelled: as in `VampNet.generate`.

    Returns:
        The take (1, C, N), its tokens (1, K, T), and the mask (1, K, T) of what was made anew. Outside the mask the tokens are
        those of the chosen takes; where one take plays throughout, they all are.

    Raises:
        ValueError: as `assemble`, or tokens or takes that do not fit the clip.
        CancelledError: `cancelled()` was True.
    """
    fits = tokens.shape[1:] == clip.tokens.shape[1:]
    if clip.loop and tokens.shape[1] == clip.tokens.shape[1]:
        fits = may_be_ring(tokens.shape[-1], clip.image.length, model.grid.hop)
    if not fits:
        shapes = tuple(tokens.shape[1:]), tuple(clip.tokens.shape[1:])
        raise ValueError(Sentence(
            "The takes' tokens {takes} do not fit the clip's {clip}: use the model that made them.", takes=shapes[0],
            clip=shapes[1],
        ))  # fmt: skip
    if takes is not None and any(take.audio_data.shape != clip.signal.audio_data.shape for take in takes):
        raise ValueError(f"Each take must be a sound {tuple(clip.signal.audio_data.shape)}, as the clip is.")
    laid = assemble(tokens, choice, bounds)
    mask = joins(choice, bounds, tokens.shape[1], model.grid, seconds, clip.loop)
    if mask.any():
        laid = model.generate(laid, mask, sampling, [(seed, 0)], loop=clip.loop, on_step=on_step, cancelled=cancelled)
    if on_step is not None:
        on_step("decode", 0, 1)
    if takes is None:
        return model.render(clip, laid, balance=(sampling or model.sampling).balance), laid, mask
    owners = _owners(choice, bounds, mask)
    whole, hop, rate = clip.signal.audio_data.shape[-1], model.grid.hop, model.grid.sample_rate
    # Parts that are too short to be faded in and out are decoded, like joins.
    found = original.lasting(original.stretches(owners, clip.loop), whole, bounds[-1], hop, rate, clip.loop)
    # Takes that have sound of the clip have its offset, too, and what is laid between them must not thump.
    made, offset = torch.zeros_like(clip.signal.audio_data), offset_of(takes[choice[0]].audio_data)
    for first, sound in model.decode_around(clip, laid, found):
        gain = _gain(sound.audio_data, first, takes, offset, owners, hop, clip)
        original.lay(made, sound.audio_data * gain + offset, first)
    made = audio.make_signal(made, clip.signal.sample_rate)
    return original.put_back(made, takes, found, bounds[-1], hop, clip.loop), laid, mask


def _owners(choice: Sequence[int], bounds: Sequence[int], mask: Tensor) -> list[int]:
    """For each time step whose take is heard there; -1 where a join was made anew."""
    chosen = [take for take, start, end in zip(choice, bounds[:-1], bounds[1:], strict=True) for _ in range(start, end)]
    return [-1 if made else take for take, made in zip(chosen, mask.any(dim=1)[0].tolist(), strict=True)]


def _gain(
    sound: Tensor, first: int, takes: Sequence[AudioSignal], offset: Tensor, owners: Sequence[int], hop: int, clip: Clip
) -> Tensor:  # fmt: skip
    """(n,) float32: linear gain that makes decoded sound (1, C, n), from sample `first` on, as loud as the takes beside it
    are without their offset (1, C, 1).

    In a join it goes over from one to the other; where nothing can be compared it is what was taken off before the codec.
    """
    length, samples, steps = clip.image.length, sound.shape[-1], len(owners)
    stride = length / steps if clip.loop else hop
    begins, ends = math.ceil(first / stride), math.floor((first + samples) / stride)
    at, gain = [], []
    for start, end, owner in original.stretches([owners[step % steps] for step in range(begins, ends)]):
        low, high = (round((begins + step) * stride) - first for step in (start, end))
        edge = min(round(EDGE_STEPS * stride), (high - low) // 4)
        own = torch.arange(first + low + edge, first + high - edge) % length
        theirs = takes[owner].audio_data[..., own] - offset
        powers = [float(x.square().mean()) for x in (theirs, sound[..., low + edge : high - edge])]
        if len(own) and min(powers) > SILENCE:
            at += [low, high]
            gain += [10 * math.log10(powers[0] / powers[1])] * 2
    if not at:
        plain = clip.lufs - audio.CODEC_LUFS
        return torch.full((samples,), 10 ** (plain / 20) if math.isfinite(plain) else 1.0)
    around = length if clip.loop and samples == length else None
    found = np.interp(np.arange(samples), at, gain, period=around)
    return torch.from_numpy(10 ** (found / 20)).float()
