"""Beats set right by hand, where the tracker errs: another tempo, another bar line, taps. All on a `BeatGrid`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vampnet.beats import EDGE_SECONDS, BeatGrid, make_grid
from vampnet.extend import longer_beats
from vampnet.studio.text import worded

ENGINE = "hand"
LOW, HIGH = 30.0, 300.0
"""Beats a minute that can be set."""
PLAIN_TEMPO = 120.0
"""Where one begins with a clip in which no beat was found."""
NUDGE_SECONDS = 0.01
MIN_TAPS, MAX_TAPS = 4, 200
ACTS = ("half", "double", "slower", "faster", "earlier", "later", "left", "right")


def edit(grid: BeatGrid | None, seconds: float, act: str) -> BeatGrid:
    """The beats after one of `ACTS`.

    Args:
        grid: of the clip; None or one without beats counts as 120 beats a minute from the start.
        seconds: length of the clip.
        act: "half", "double": the tempo; "slower", "faster": by one beat a minute; "earlier", "later": the bar line by a beat;
            "left", "right": all beats by 10 ms.

    Raises:
        ValueError: an unknown act, or a tempo outside of `LOW` to `HIGH`.
    """
    if act not in ACTS:
        raise ValueError(worded("map.tempo.act", known=", ".join(ACTS), given=act))
    if grid is None or len(grid.beats) < 2 or not grid.tempo > 0:
        # A short clip has no two beats even then, and no tempo could be read off it.
        wanted = {"half": PLAIN_TEMPO / 2, "double": PLAIN_TEMPO * 2, "slower": PLAIN_TEMPO - 1, "faster": PLAIN_TEMPO + 1}
        grid = regular(wanted.get(act, PLAIN_TEMPO), 0.0, seconds)
        if act in wanted:
            return grid
    if act in ("slower", "faster"):
        return regular(grid.tempo + (1 if act == "faster" else -1), _anchor(grid), seconds, grid.beats_per_bar)
    if act in ("half", "double"):
        _check(grid.tempo * (2 if act == "double" else 0.5))
        return _every_second(grid) if act == "half" else _filled(_between(grid), seconds)
    if act in ("earlier", "later"):
        return _with_bars(grid.beats, _phase(grid) + (1 if act == "later" else -1), grid.beats_per_bar)
    by = NUDGE_SECONDS if act == "right" else -NUDGE_SECONDS
    beats, downbeats = (
        tuple(time + by for time in times if 0 <= time + by < seconds - EDGE_SECONDS) for times in (grid.beats, grid.downbeats)
    )
    return _filled(BeatGrid(beats, downbeats, grid.tempo), seconds)


def _filled(grid: BeatGrid, seconds: float) -> BeatGrid:
    """With beats to the end of the clip."""
    filled = longer_beats(grid, 0.0, seconds)
    return _made(filled.beats, filled.downbeats)


def tapped(grid: BeatGrid | None, seconds: float, taps: Sequence[float], at: Sequence[float] | None = None) -> BeatGrid:
    """The beats that somebody tapped.

    Args:
        grid: of the clip, whose bar line and beats a bar stay where they can.
        seconds: length of the clip.
        taps: moments in milliseconds, at least `MIN_TAPS`; a tap far from the others' distance counts for nothing.
        at: where in the clip, in seconds, each tap fell while it played; None = the beats begin where they did.

    Raises:
        ValueError: too few or no usable taps, a tempo outside of `LOW` to `HIGH`.
    """
    if not isinstance(taps, (list, tuple)) or not isinstance(at, (list, tuple, type(None))):
        raise ValueError(worded("map.tempo.unreadable"))
    if len(taps) < MIN_TAPS or len(taps) > MAX_TAPS or (at is not None and len(at) != len(taps)):
        raise ValueError(worded("map.tempo.few", least=MIN_TAPS))
    given = [*taps, *(at or ())]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in given):
        raise ValueError(worded("map.tempo.unreadable"))
    gaps = np.diff(np.asarray(taps, dtype=float)) / 1000
    usual = float(np.median(gaps))
    if usual <= 0:
        raise ValueError(worded("map.tempo.at_once"))
    near = gaps[np.abs(gaps / usual - 1) < 0.3]
    period = float(near.mean()) if len(near) else usual
    bar = 4 if grid is None else grid.beats_per_bar
    first = _anchor(grid) if grid is not None and grid.beats else 0.0
    if at is None:
        return regular(60 / period, first, seconds, bar)
    # The mean of the taps' places within a beat, on a circle.
    turns = 2 * np.pi * np.asarray(at, dtype=float) / period
    phase = float(np.angle(np.exp(1j * turns).mean())) / (2 * np.pi) * period
    near_first = phase + period * round(((first if grid is not None and grid.beats else at[0]) - phase) / period)
    return regular(60 / period, near_first, seconds, bar)


def regular(tempo: float, anchor: float, seconds: float, bar: int = 4) -> BeatGrid:
    """Even beats over a clip, with a bar line at `anchor` seconds.

    Raises:
        ValueError: a tempo outside of `LOW` to `HIGH`.
    """
    _check(tempo)
    period = 60 / tempo
    first = math.ceil(-(anchor + EDGE_SECONDS / 2) / period)
    count = range(first, math.ceil((seconds - EDGE_SECONDS - anchor) / period))
    beats = [max(0.0, anchor + k * period) for k in count]
    return _made(beats, [beat for k, beat in zip(count, beats, strict=True) if k % bar == 0])


def _made(beats: Sequence[float], downbeats: Sequence[float]) -> BeatGrid:
    return make_grid(beats, downbeats, ENGINE, worded("map.tempo.set"))


def _check(tempo: float) -> None:
    if not LOW <= tempo <= HIGH:
        raise ValueError(worded("map.tempo.range", low=LOW, high=HIGH, tempo=tempo))


def _anchor(grid: BeatGrid) -> float:
    return (grid.downbeats or grid.beats)[0]


def _phase(grid: BeatGrid) -> int:
    """Index of the beat at the first bar line."""
    return min(range(len(grid.beats)), key=lambda i: abs(grid.beats[i] - _anchor(grid)))


def _with_bars(beats: Sequence[float], phase: int, bar: int) -> BeatGrid:
    return _made(beats, [beat for i, beat in enumerate(beats) if (i - phase) % bar == 0])


def _every_second(grid: BeatGrid) -> BeatGrid:
    phase = _phase(grid)
    beats = grid.beats[phase % 2 :: 2]
    return _with_bars(beats, phase // 2, grid.beats_per_bar)


def _between(grid: BeatGrid) -> BeatGrid:
    middles = [(a + b) / 2 for a, b in zip(grid.beats[:-1], grid.beats[1:], strict=True)]
    return _with_bars(sorted((*grid.beats, *middles)), 2 * _phase(grid), grid.beats_per_bar)
