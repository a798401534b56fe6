"""What somebody painted over the mask of the sliders: cells that stay or are made anew, whatever the sliders say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vampnet.studio.text import worded

Run = tuple[int, int, int]
"""(level, first time step, the step after the last)."""
MAX_RUNS = 500_000


@dataclass(frozen=True)
class Paint:
    """Painted cells of a mask.

    Attributes:
        levels, steps: K and T of the mask that was painted on.
        keep: runs of cells that stay.
        make: runs of cells that are made anew.
    """

    levels: int
    steps: int
    keep: tuple[Run, ...] = ()
    make: tuple[Run, ...] = ()

    def fits(self, mask: Tensor) -> bool:
        """Whether a mask (1, K, T) is of the shape that was painted on."""
        return tuple(mask.shape[-2:]) == (self.levels, self.steps)

    def over(self, mask: Tensor) -> Tensor:
        """The mask (1, K, T) bool with the painted cells as they were painted.

        Raises:
            ValueError: the mask has another shape.
        """
        if not self.fits(mask):
            raise ValueError(worded("map.paint.other"))
        out = mask.clone()
        for runs, made in ((self.keep, False), (self.make, True)):
            for level, start, stop in runs:
                out[:, level, start:stop] = made
        return out

    def value(self) -> dict[str, Any]:
        """As the browser has it; `read_paint` reads it."""
        keep, make = ([list(run) for run in runs] for runs in (self.keep, self.make))
        return {"levels": self.levels, "steps": self.steps, "keep": keep, "make": make}


def read_paint(value: Any) -> Paint | None:
    """What a browser sends, checked: a dict of `levels`, `steps`, `keep` and `make`; None or "" where nothing is painted.

    Raises:
        ValueError: it is something else.
    """
    if value in (None, "", {}):
        return None
    try:
        levels, steps = (_whole(value[name]) for name in ("levels", "steps"))
        keep, make = (tuple(_run(run, levels, steps) for run in value[name]) for name in ("keep", "make"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(worded("map.paint.unreadable")) from error
    if len(keep) + len(make) > MAX_RUNS:
        raise ValueError(worded("map.paint.many", most=MAX_RUNS))
    return Paint(levels, steps, keep, make) if keep or make else None


def paint_of(mask: Tensor) -> Paint:
    """Paint that makes every mask of the shape of `mask` (1, K, T) bool into this one."""
    levels, steps = mask.shape[-2:]
    found: dict[bool, list[Run]] = {False: [], True: []}
    for level, row in enumerate(torch.as_tensor(mask[0]).cpu().numpy()):
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), steps]
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            found[bool(row[start])].append((level, start, stop))
    return Paint(levels, steps, tuple(found[False]), tuple(found[True]))


def _run(run: Sequence[Any], levels: int, steps: int) -> Run:
    level, start, stop = (_whole(part) for part in run)
    if not (0 <= level < levels and 0 <= start < stop <= steps):
        raise ValueError("a run outside of the mask")
    return level, start, stop


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError("not a whole number")
    return int(value)
