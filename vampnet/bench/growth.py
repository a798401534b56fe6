"""How the cost of a stage grows with the length of the music, the takes and the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vampnet.bench.cases import AXES
from vampnet.bench.fits import Growth, fit
from vampnet.bench.runner import Figure

AXIS = {"l": ("seconds", "length", "a second of music"), "t": ("takes", "takes", "a take"), "s": ("steps", "steps", "a step")}
"""Letter of `cases.AXES` -> field of `Case`, the word for it, and for one of it."""
FEWEST = 3
"""A line goes through any two points, so a fit of two says nothing."""
FLAT = 0.1
FIVE_MINUTES = 300.0


@dataclass(frozen=True)
class Series:
    """The figures of a stage that differ in one thing.

    Attributes:
        axis: "seconds", "takes" or "steps".
        figures: rising along it.
        time: how seconds grow.
        memory: how the process's bytes at most grow; None where they are not known.
    """

    axis: str
    figures: tuple[Figure, ...]
    time: Growth
    memory: Growth | None

    @property
    def x(self) -> list[float]:
        """What is varied."""
        return [getattr(figure.case, self.axis) for figure in self.figures]


def find_series(figures: Sequence[Figure]) -> list[Series]:
    """All series of at least three figures that differ in one thing alone."""
    found = []
    for letter, (axis, _, _) in AXIS.items():
        groups: dict[tuple, list[Figure]] = {}
        for figure in figures:
            case = figure.case
            if letter in AXES[case.stage]:
                others = tuple(getattr(case, other) for other, _, _ in AXIS.values() if other != axis)
                groups.setdefault((case.model, case.stage, others), []).append(figure)
        for group in groups.values():
            if len(group) >= FEWEST:
                found.append(_series(axis, sorted(group, key=lambda figure: getattr(figure.case, axis))))
    order = {stage: place for place, stage in enumerate(AXES)}
    return sorted(found, key=lambda series: (series.figures[0].case.model, order[series.figures[0].case.stage]))


def _series(axis: str, figures: list[Figure]) -> Series:
    x = [getattr(figure.case, axis) for figure in figures]
    peaks = [figure.timing.peak for figure in figures]
    memory = fit(x, peaks) if all(peaks) else None
    return Series(axis, tuple(figures), fit(x, [figure.timing.median for figure in figures]), memory)


def describe(series: Series) -> list[str]:
    """A line about time and, over length, one about memory and one about five minutes of music."""
    _, word, one = next(entry for entry in AXIS.values() if entry[0] == series.axis)
    case, line, x = series.figures[0].case, series.time, series.x
    fixed = {"seconds": 0.0, "takes": 0, "steps": 0} | {axis: getattr(case, axis) for axis, _, _ in AXIS.values()}
    fixed[series.axis] = 0
    rest = type(case)(case.model, case.stage, fixed["seconds"], fixed["takes"], fixed["steps"]).words
    worst = max(range(len(x)), key=lambda i: abs(line.off[i]))
    lines = [
        f"{case.model}, {case.stage} over {word}{f' ({rest})' if rest else ''}: t = {line.fixed:.3g} s + {line.slope:.3g} s "
        f"{one}; exponent {line.exponent:.2f}; farthest from the line {line.off[worst]:+.1%} at {x[worst]:g}"
    ]
    if series.axis == "seconds" and series.memory is not None:
        low, high = series.figures[0].timing.peak, series.figures[-1].timing.peak
        grown = high / low - 1
        verdict = f"flat within {FLAT:.0%}" if abs(grown) <= FLAT else "not flat"
        lines.append(
            f"  memory {low / 1e6:.0f} MB at {x[0]:g} s, {high / 1e6:.0f} MB at {x[-1]:g} s ({grown:+.0%}, "
            f"{60 * series.memory.slope / 1e6:+.1f} MB a minute): {verdict}"
        )
    return lines + _five_minutes(series)


def _five_minutes(series: Series) -> list[str]:
    """What the series says of five minutes of music, beside its shortest clip and its line."""
    if series.axis != "seconds" or FIVE_MINUTES not in series.x or series.x[0] == FIVE_MINUTES:
        return []
    at = series.x.index(FIVE_MINUTES)
    short, long = series.figures[0], series.figures[at]
    per_second = (long.timing.median / FIVE_MINUTES) / (short.timing.median / series.x[0])
    text = (
        f"  5 minutes: {long.timing.median:.3g} s, {series.time.off[at]:+.1%} from the line; a second of music costs "
        f"{per_second:.2f} times what it costs at {series.x[0]:g} s"
    )
    if short.timing.peak and long.timing.peak:
        text += f"; memory {long.timing.peak / short.timing.peak - 1:+.0%}"
    return [text]
