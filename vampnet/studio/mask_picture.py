"""The picture of what stays and what is made: the very mask that a vamp will use, as plain data that the browser draws."""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vampnet import extend
from vampnet.config import TokenGrid
from vampnet.extend import Extension, longer_beats
from vampnet.prompt import build_mask, full_kbps, kept_kbps, kept_share
from vampnet.ring import whole_steps
from vampnet.studio.controls import Request
from vampnet.studio.session import ENVELOPE_HOP, Source, shrink
from vampnet.studio.shelf import Shape
from vampnet.studio.text import DEFAULT, say

MAX_COLUMNS = 1200
EXAMPLE_SECONDS = 8.0
EXAMPLE_BEAT = 0.5
"""Before there is a source, the picture shows the prompt on a clip of eight seconds at 120 beats a minute."""


@dataclass(frozen=True)
class Layout:
    """A request laid out on its clip.

    Attributes:
        mask: (1, K, T) bool, True = is made anew: of the sliders, without paint.
        start, end: samples of the source that are vamped; without a source, samples of the codec.
        samples: of these at the codec's rate.
        added: what is added to them, and which time steps are made anew because of it.
    """

    mask: Tensor
    start: int
    end: int
    samples: int
    added: Extension


def lay_out(request: Request, source: Source | None, shape: Shape) -> Layout:
    """The mask of the sliders on a clip, and what part of the clip it covers.

    Beats that are still being tracked count as none.

    Raises:
        ValueError: options that do not fit the clip, such as more bars than it has.
    """
    grid = shape.grid
    if source is None:
        start, end = 0, grid.seconds_to_samples(EXAMPLE_SECONDS)
        beats, onsets = np.arange(0, EXAMPLE_SECONDS, EXAMPLE_BEAT), np.arange(0, EXAMPLE_SECONDS, EXAMPLE_BEAT / 2)
    else:
        start, end = source.bounds(request.bars)
        found = source.beats_between(start, end)
        beats = np.array(found.beats if found is not None else ())
        onsets = np.array(source.onsets_between(start, end) if request.prompt.needs_onsets else ())
    # As many as there will be once the clip is resampled for the codec.
    samples = end - start if source is None else round((end - start) * grid.sample_rate / source.rate)
    stretch = 1.0
    steps = grid.samples_to_tokens(samples)
    if request.loop:
        # A ring is stretched to whole time steps, and so are the times in it.
        steps = whole_steps(samples, grid.hop) // grid.hop
        stretch = grid.tokens_to_samples(steps) / samples
    # Plain floats times a plain float, as in a vamp, so that rounding falls the same way.
    times = [[float(t) * stretch for t in found] for found in (beats, onsets)]
    mask = build_mask(request.prompt, (shape.levels, steps), grid, *times, seed=request.seed, loop=request.loop)
    added = extend.plan(samples, request.extend, grid, request.loop)
    return Layout(added.mask(mask), start, end, samples, added)


def mask_of(request: Request, source: Source | None, shape: Shape) -> tuple[Tensor, tuple[int, int]]:
    """The mask that a vamp of `source` will use, paint and all, and what part of the source it covers.

    Returns:
        (1, K, T) bool, True = regenerate; and (start, end) in samples of the source, or without one of the codec.

    Raises:
        ValueError: as `lay_out`, or what was painted is for another length.
    """
    laid = lay_out(request, source, shape)
    return _painted(laid, request), (laid.start, laid.end)


def given_mask(request: Request, source: Source, shape: Shape) -> Tensor | None:
    """What `VampNet.vamp(mask=...)` must be given: the painted mask, or None where the prompt alone says what stays."""
    return None if request.paint is None else mask_of(request, source, shape)[0]


def _painted(laid: Layout, request: Request) -> Tensor:
    # What is added cannot be kept, whatever is painted there.
    return laid.mask if request.paint is None else request.paint.over(laid.mask) | laid.added.made()


def picture(request: Request, source: Source | None, shape: Shape, language: str = DEFAULT) -> dict[str, Any]:
    """What the browser draws.

    Returns:
        dict of plain data: `kept` (what the sliders keep: levels x steps bits, packed, base64), `steps`, `levels`, `coarse`,
        `step` (seconds of a time step), `seconds` (of all), `inner` (seconds at which the source begins and ends in it), `open`
        (the first step that can be kept and the one after the last), `beats`, `downbeats` (seconds), `tempo`, `wave` (of the
        source: lowest then highest per column, int8, base64), `kbps` (of all tokens), `sentence` (paint counts), `dropped` (a
        sentence where paint or the region no longer fit), `lost` (which: "paint", "region"), `track` (what to play of the
        source: sound, a path, and start and end in seconds)
        and `name`.

    Raises:
        ValueError: as `lay_out`.
    """
    outside = source is not None and request.prompt.region is not None and request.prompt.region[0] >= source.seconds
    if outside:  # it was drawn on another clip
        request = replace(request, prompt=replace(request.prompt, region=None))
    laid = lay_out(request, source, shape)
    fits = request.paint is None or request.paint.fits(laid.mask)
    final = _painted(laid, request) if fits else laid.mask
    rate, made = shape.grid.sample_rate, laid.added.made()
    seconds, offset = laid.added.length / rate, laid.added.offset / rate
    lost = ["paint"] * (not fits) + ["region"] * outside
    can_stay = (~made).nonzero()[:, 0]
    drawn: dict[str, Any] = {
        "kept": _pack(np.packbits(~laid.mask[0].numpy())), "steps": len(made), "levels": shape.levels, "coarse": shape.coarse,
        "step": seconds / len(made) if request.loop else shape.grid.hop / rate, "seconds": seconds,
        "inner": [offset, offset + laid.samples / rate], "open": [int(can_stay[0]), int(can_stay[-1]) + 1],
        "beats": [], "downbeats": [], "wave": "", "track": None, "name": "", "tempo": 0.0,
        "kbps": full_kbps(shape.grid, shape.levels), "sentence": describe(final, shape.grid, language),
        "dropped": " ".join(say(f"map.{name}.dropped", language) for name in lost), "lost": lost,
    }  # fmt: skip
    if source is None:
        times = np.arange(0, EXAMPLE_SECONDS, EXAMPLE_BEAT) + offset
        return {**drawn, "beats": times.tolist(), "downbeats": times[::4].tolist()}
    found = source.beats_between(laid.start, laid.end)
    if found is not None:
        found = longer_beats(found, offset, seconds) if sum(request.extend) else found
        drawn.update(beats=_milliseconds(found.beats), downbeats=_milliseconds(found.downbeats), tempo=round(found.tempo, 1))
    part = source.envelope[:, laid.start // ENVELOPE_HOP : -(-laid.end // ENVELOPE_HOP)]
    track = {"sound": str(source.path), "start": laid.start / source.rate, "end": laid.end / source.rate}
    return {**drawn, "wave": pack_wave(part), "track": track, "name": source.name}


def unpack(drawn: dict[str, Any]) -> Tensor:
    """The mask of the sliders that `picture` gave, (1, K, T) bool, True = is made anew."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(drawn["kept"]), np.uint8))[: drawn["levels"] * drawn["steps"]]
    return torch.from_numpy(bits == 0).reshape(1, drawn["levels"], drawn["steps"])


def describe(mask: Tensor, grid: TokenGrid, language: str = DEFAULT) -> str:
    """ "Keeps 12 % of the tokens, 0.9 of 8.0 kbps." of a mask (1, K, T)."""
    share = 100 * kept_share(mask)
    shown = f"{share:.0f}" if share == 0 or 1 <= share <= 99 or share == 100 else f"{share:.1f}"
    kept, whole = kept_kbps(mask, grid), full_kbps(grid, mask.shape[-2])
    return say("map.keeps", language, share=shown, kept=f"{kept:.1f}", whole=f"{whole:.1f}")


def pack_wave(envelope: np.ndarray, most: int = MAX_COLUMNS) -> str:
    """An envelope (2, n) int8 in base64, of at most `most` columns: all lows, then all highs."""
    return _pack(shrink(envelope, most))


def _pack(data: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(data).tobytes()).decode("ascii")


def _milliseconds(times: tuple[float, ...]) -> list[float]:
    return [round(time, 3) for time in times]
