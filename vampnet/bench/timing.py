"""Seconds of something: warmed up, several times, with the spread and the memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from vampnet.bench.ceilings import synchronise
from vampnet.bench.memory import PeakMemory

LONG_SECONDS = 10.0
"""A run this long is its own warm-up: what starting up adds is lost in it, and it would be a pity about the time."""
WARM_SECONDS = 1.0
"""What is shorter is warmed up again for each repetition: something else may have been at work since the last one."""
SHORT_SECONDS = 0.02
"""What is shorter is run several times in a row for one measurement."""
MOST_CALLS = 1000

Parts = Mapping[str, float]


@dataclass(frozen=True)
class Timing:
    """What was measured of one thing.

    Attributes:
        times: seconds of each repetition.
        parts: {name: seconds}, the median of what the thing itself said of its parts; empty if it says nothing.
        warmed: whether it had run once before the first repetition.
        before, peak: bytes of the process before, and at most; None where the system does not say.
        device_peak: bytes on the CUDA device at most; None without one.
    """

    times: tuple[float, ...]
    parts: dict[str, float] = field(default_factory=dict)
    warmed: bool = True
    before: int | None = None
    peak: int | None = None
    device_peak: int | None = None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.times)

    @property
    def spread(self) -> float:
        """From the fastest to the slowest repetition, as a share of the median."""
        return (max(self.times) - min(self.times)) / self.median if self.median > 0 else 0.0


def _once(run: Callable[[], object], device: torch.device, calls: int) -> tuple[float, object]:
    synchronise(device)
    start = time.perf_counter()
    for _ in range(calls):
        said = run()
    synchronise(device)
    return (time.perf_counter() - start) / calls, said


class Stopwatch:
    """Times repetitions of one thing, between which others may be timed.

    Args:
        device: waited for before and after; a CUDA device's memory is watched too.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.times: list[float] = []
        self.calls = 0  # in a row for a measurement; 0 = not known yet
        self.warmed = True
        self.before: int | None = None
        self.peaks: list[tuple[int | None, int | None]] = []
        self.said: list[object] = []

    def time(self, run: Callable[[], object]) -> None:
        """One more repetition of `run()`; if it returns {name: seconds}, these are its parts."""
        with torch.no_grad(), PeakMemory(self.device) as memory:
            measured = self._first(run) if not self.calls else None
            if measured is None:
                if self.times and self.times[-1] < WARM_SECONDS:
                    run()
                measured = _once(run, self.device, self.calls)
        self.times.append(measured[0])
        self.said.append(measured[1])
        self.before = memory.before if self.before is None else self.before
        self.peaks.append((memory.peak, memory.device_peak))

    def _first(self, run: Callable[[], object]) -> tuple[float, object] | None:
        """Warms up and settles `calls`; what was measured, where that is the repetition already."""
        self.calls = 1
        measured = _once(run, self.device, 1)
        if measured[0] >= LONG_SECONDS:
            self.warmed = False
            return measured
        # The first run may be slow for reasons of its own: the number of calls follows the second one.
        if measured[0] < 10 * SHORT_SECONDS:
            self.calls = min(MOST_CALLS, max(1, math.ceil(SHORT_SECONDS / max(_once(run, self.device, 1)[0], 1e-9))))
        return None

    def timing(self) -> Timing:
        """What the repetitions came to; at least one."""
        columns = zip(*self.peaks, strict=True)
        peak, device_peak = (max((x for x in column if x is not None), default=None) for column in columns)
        parts = medians([answer for answer in self.said if isinstance(answer, Mapping)])
        return Timing(tuple(self.times), parts, self.warmed, self.before, peak, device_peak)


def medians(rows: Sequence[Parts]) -> dict[str, float]:
    """{name: median over the rows that have it}, in the order in which the names appear."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.median(row[name] for row in rows if name in row) for name in names}
