"""The picture of what stays and what is made: the very mask that a vamp will use, as plain data that the browser draws."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from torch import Tensor

from vampnet.config import TokenGrid
from vampnet.prompt import build_mask, full_kbps, kept_kbps, kept_share
from vampnet.ring import whole_steps
from vampnet.studio.controls import Request
from vampnet.studio.session import ENVELOPE_HOP, Source, shrink
from vampnet.studio.shelf import Shape

MAX_COLUMNS = 1200
EXAMPLE_SECONDS = 8.0
EXAMPLE_BEAT = 0.5
"""Before there is a source, the picture shows the prompt on a clip of eight seconds at 120 beats a minute."""


def mask_of(request: Request, source: Source | None, shape: Shape) -> tuple[Tensor, tuple[int, int]]:
    """The mask that a vamp of `source` will use, and what part of the source it covers.

    Beats that are still being tracked count as none.

    Returns:
        (1, K, T) bool, True = regenerate; and (start, end) in samples of the source, or without one of the codec.

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
    return build_mask(request.prompt, (shape.levels, steps), grid, *times, seed=request.seed), (start, end)


def picture(request: Request, source: Source | None, shape: Shape) -> dict[str, Any]:
    """What the browser draws.

    Returns:
        dict of plain data: `kept` (levels x columns shares of what stays, 0..255, base64), `columns`, `levels`, `coarse`,
        `seconds`, `beats`, `downbeats` (seconds), `wave` (lowest then highest per column, int8, base64), `sentence`, `track`
        (what to play: sound, a path, and start and end in seconds) and `name`.

    Raises:
        ValueError: as `mask_of`.
    """
    mask, (start, end) = mask_of(request, source, shape)
    kept = columns_of(mask)
    rate = shape.grid.sample_rate if source is None else source.rate
    drawn: dict[str, Any] = {
        "kept": _pack(kept), "columns": kept.shape[1], "levels": kept.shape[0], "coarse": shape.coarse,
        "seconds": (end - start) / rate, "sentence": describe(mask, shape.grid),
        "beats": [], "downbeats": [], "wave": "", "track": None, "name": "",
    }  # fmt: skip
    if source is None:
        times = np.arange(0, EXAMPLE_SECONDS, EXAMPLE_BEAT)
        return {**drawn, "beats": times.tolist(), "downbeats": times[::4].tolist()}
    found = source.beats_between(start, end)
    if found is not None:
        drawn.update(beats=_milliseconds(found.beats), downbeats=_milliseconds(found.downbeats))
    part = source.envelope[:, start // ENVELOPE_HOP : -(-end // ENVELOPE_HOP)]
    track = {"sound": str(source.path), "start": start / source.rate, "end": end / source.rate}
    return {**drawn, "wave": pack_wave(part), "track": track, "name": source.name}


def columns_of(mask: Tensor, most: int = MAX_COLUMNS) -> np.ndarray:
    """What stays of a mask (1, K, T) bool: (K, min(T, most)) uint8, 255 = all of a column's time steps."""
    kept = np.asarray(~mask[0].cpu().numpy(), dtype=np.float32)
    steps = kept.shape[1]
    if steps > most:
        starts = np.arange(most) * steps // most
        kept = np.add.reduceat(kept, starts, axis=1) / np.diff([*starts, steps])
    return np.round(kept * 255).astype(np.uint8)


def describe(mask: Tensor, grid: TokenGrid) -> str:
    """ "Keeps 12 % of the tokens, 0.9 of 8.0 kbps." of a mask (1, K, T)."""
    share = 100 * kept_share(mask)
    shown = f"{share:.0f}" if share == 0 or 1 <= share <= 99 or share == 100 else f"{share:.1f}"
    return f"Keeps {shown} % of the tokens, {kept_kbps(mask, grid):.1f} of {full_kbps(grid, mask.shape[-2]):.1f} kbps."


def pack_wave(envelope: np.ndarray, most: int = MAX_COLUMNS) -> str:
    """An envelope (2, n) int8 in base64, of at most `most` columns: all lows, then all highs."""
    return _pack(shrink(envelope, most))


def _pack(data: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(data).tobytes()).decode("ascii")


def _milliseconds(times: tuple[float, ...]) -> list[float]:
    return [round(time, 3) for time in times]
