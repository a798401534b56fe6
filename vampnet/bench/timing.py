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


def measure(run: Callable[[], object], repeats: int, device: torch.device | str = "cpu") -> Timing:
    """Times `run()`.

    Args:
        run: what to measure; if it returns {name: seconds}, these are its parts.
        repeats: repetitions, at least 1. Something short is run several times for each of them.
        device: waited for before and after; a CUDA device's memory is watched too.
    """
    device = torch.device(device)
    said: list[object] = []
    with torch.no_grad(), PeakMemory(device) as memory:
        first, answer = _once(run, device, 1)
        long = first >= LONG_SECONDS
        times = [first] if long else []
        said += [answer] if long else []
        # The first run may be slow for reasons of its own: the number of calls follows the second one.
        calls = 1
        if first < 10 * SHORT_SECONDS:
            calls = min(MOST_CALLS, max(1, math.ceil(SHORT_SECONDS / max(_once(run, device, 1)[0], 1e-9))))
        while len(times) < repeats:
            seconds, answer = _once(run, device, calls)
            times.append(seconds)
            said.append(answer)
    parts = medians([answer for answer in said if isinstance(answer, Mapping)])
    return Timing(tuple(times), parts, not long, memory.before, memory.peak, memory.device_peak)


def medians(rows: Sequence[Parts]) -> dict[str, float]:
    """{name: median over the rows that have it}, in the order in which the names appear."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.median(row[name] for row in rows if name in row) for name in names}
