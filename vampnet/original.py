"""The source's own sound where all of it stays.

What a codec makes of sound at 8 kilobits a second can be told from it, and who has two seconds of a song made anew wants the
rest of it as it is. So a take is decoded only around what was made anew. Where the two meet they fade into each other within
milliseconds, at the place nearby where they are most alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vampnet import limiter
from vampnet.audio import CEILING_DBTP
from vampnet.loops import crossfade

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.config import TokenGrid

PIECE_SECONDS = 0.5
"""What stays in one piece of this length sounds as it did, and as loud."""
FADE_SECONDS = 0.02
MARGIN = 64
"""Time steps that are decoded to either side of what is wanted, and thrown away: the codec's own pieces have 48 of them."""
MOST = 0.7
"""Share of a clip up to which it is decoded in parts."""
NEAR = 1e-3
"""Likeness that a place a time step nearer to the edge is worth: it decides where none is more alike than another."""

Stretch = tuple[int, int, int]
"""Time steps (start, end) and whose sound they have; on a ring one that goes on behind the end has an `end` above T."""


def stretches(owners: Sequence[int], loop: bool = False) -> list[Stretch]:
    """Where the same one plays on.

    Args:
        owners: for each of T time steps a number from 0 on, or a negative one where nobody's own sound is heard.
        loop: the last time step is followed by the first.

    Returns:
        The stretches in the order of their starts, as long as they can be; of T steps if one plays throughout.
    """
    steps = len(owners)
    changes = [step for step in range(steps) if owners[step] != owners[step - 1] or (step == 0 and not loop)]
    if not changes:
        return [(0, steps, owners[0])] if steps and owners[0] >= 0 else []
    ends = [*changes[1:], changes[0] + steps]
    return [(start, end, owners[start]) for start, end in zip(changes, ends, strict=True) if owners[start] >= 0]


def pieces(mask: Tensor, grid: TokenGrid, loop: bool = False) -> list[Stretch]:
    """What stays in one piece while something else is made anew.

    Args:
        mask: (1, K, T) bool, True = is made anew.
        grid: of the tokens.
        loop: the clip is a ring.

    Returns:
        `stretches` of at least `PIECE_SECONDS` in which all levels stay, owned by 0. None where all of the clip stays: who asks
        for that wants to hear its tokens.
    """
    if not bool(mask.any()):
        return []
    kept = (~mask).all(dim=1)[0]
    least = grid.seconds_to_tokens(PIECE_SECONDS)
    return [found for found in stretches((kept.long() - 1).tolist(), loop) if found[1] - found[0] >= least]


def around(found: Sequence[Stretch], steps: int, loop: bool = False) -> list[Stretch]:
    """What has to be decoded of a clip of T `steps` where these pieces stay: all else, and `MARGIN` to either side of it, which
    what is heard there depends on. If that is most of the clip, all of it, in one: it is done sooner as a whole."""
    made = torch.ones(1, 1, steps)
    for start, end, _ in found:
        made[..., torch.arange(start, end) % steps] = 0
    reach = min(MARGIN, steps - 1)
    padded = F.pad(made, (reach, reach), mode="circular" if loop else "constant")
    heard = F.max_pool1d(padded, 2 * reach + 1, stride=1)[0, 0]
    return [(0, steps, 0)] if heard.mean() > MOST else stretches((heard.long() - 1).tolist(), loop)


def lasting(found: Sequence[Stretch], length: int, steps: int, hop: int, rate: int, loop: bool = False) -> list[Stretch]:
    """The stretches of a take of `length` samples in T `steps` that have room for a fade at either end, or are all of it."""

    def samples(start: int, end: int) -> int:
        first, last = _samples(start, end, length, steps, hop, loop)
        return last - first

    least = 2 * (round(FADE_SECONDS * rate) + hop)
    return [one for one in found if one[1] - one[0] == steps or samples(*one[:2]) >= least]


def _samples(start: int, end: int, length: int, steps: int, hop: int, loop: bool) -> tuple[int, int]:
    """The samples (first, last) of the time steps of a stretch."""
    if loop:
        return round(start * length / steps), round(end * length / steps)
    return start * hop, min(length, end * hop)


def put_back(
    take: AudioSignal, sounds: Sequence[AudioSignal], found: Sequence[Stretch], steps: int, hop: int, loop: bool = False
) -> AudioSignal:
    """Lays sounds over stretches of a take, and holds its peaks.

    Args:
        take: (1, C, N) float32 on the CPU, which is written over.
        sounds: each (1, C, N); a stretch is owned by one of them, by its place here.
        found: stretches, of which those of `lasting` are laid.
        steps: T of the take.
        hop: samples a time step, N <= T * hop; in a ring all T steps are N samples.
        loop: the take is a ring.

    Returns:
        The take. Its true peak is at most at `audio.CEILING_DBTP`, or at that of the highest of the sounds that were laid over
        it, if that is higher and no sample of theirs lies above full scale.
    """
    x, rate = take.audio_data[0], int(take.sample_rate)
    length, used = x.shape[-1], set()
    fade = round(FADE_SECONDS * rate)
    for start, end, owner in lasting(found, length, steps, hop, rate, loop):
        own = sounds[owner].audio_data[0].to(x)
        first, last = _samples(start, end, length, steps, hop, loop)
        whole = end - start == steps
        used.add(owner)
        if not whole and (loop or start > 0):
            first = _join(x, own, (first - fade // 2, first + hop // 2), fade, loop, into=True)
        if not whole and (loop or end < steps):
            last = _join(x, own, (last - fade // 2 - hop // 2, last - fade // 2), fade, loop, into=False)
        for at in _turns(first, last, length):
            x[:, at] = own[:, at]
    return _held(take, [sounds[owner] for owner in sorted(used)], loop)


def lay(out: Tensor, sound: Tensor, first: int) -> None:
    """Writes a sound (..., n) over (..., N) from sample `first` on, and behind the end from its start on."""
    done = 0
    for at in _turns(first, first + sound.shape[-1], out.shape[-1]):
        count = at.stop - at.start
        out[..., at] = sound[..., done : done + count]
        done += count


def _turns(first: int, last: int, length: int) -> Iterator[slice]:
    """Samples first to last of a ring as parts of it, in turn."""
    while first < last:
        at = first % length
        count = min(last - first, length - at)
        yield slice(at, at + count)
        first += count


def _join(x: Tensor, own: Tensor, places: tuple[int, int], fade: int, loop: bool, into: bool) -> int:
    """Fades x (C, N) `into` `own`, or out of it, at one of the places; where what is all `own` begins, or ends."""
    length = x.shape[-1]
    low, high = places if loop else (max(0, places[0]), min(places[1], length - fade))
    at = torch.arange(low, max(low, high) + fade) % length
    made, kept = x[:, at], own[:, at]
    edge = fade // 2 if into else max(0, high - low)
    place = _most_alike(made, kept, fade, edge)
    part = slice(place, place + fade)
    x[:, at[part]] = crossfade(made[:, part], kept[:, part]) if into else crossfade(kept[:, part], made[:, part])
    return low + place + fade if into else low + place


def _most_alike(a: Tensor, b: Tensor, length: int, edge: int) -> int:
    """Where within (C, n) the two are most alike over `length` samples; `edge` decides between places that are as good."""

    def windows(x: Tensor) -> Tensor:
        sums = F.pad(x.double().sum(dim=0).cumsum(0), (1, 0))
        return sums[length:] - sums[:-length]

    alike = windows(a * b) / (windows(a.square()) * windows(b.square())).clamp_min(1e-20).sqrt()
    away = (torch.arange(len(alike)) - edge).abs() / length
    return int((alike - NEAR * away).argmax())


def _held(take: AudioSignal, sounds: Sequence[AudioSignal], loop: bool) -> AudioSignal:
    """The take, written over, with what rises above both the ceiling and the sounds in it turned down."""
    samples, ceiling = take.audio_data[0].numpy(), 10 ** (CEILING_DBTP / 20)
    peaks = limiter.true_peaks(samples, loop, ceiling)
    for sound in sounds if peaks.max() > ceiling else ():
        own = sound.audio_data[0].detach().float().cpu().numpy()
        if np.abs(own).max() > 1.0:
            ceiling = 1.0
            break
        # No more than rounding above their peak, so that they stay to the last bit.
        ceiling = max(ceiling, (1 + 1e-6) * float(limiter.true_peaks(own, loop, ceiling).max()))
    gain = limiter.limiting_gain(peaks, int(take.sample_rate), ceiling, loop)
    limiter.with_gain(samples, gain, ceiling, loop, out=samples)
    return take
