"""Which time steps a model sees at once when a clip is longer than its context, or a loop."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MARGIN_SHARE = 10
"""A window decides nothing within context // MARGIN_SHARE steps of its ends, unless the clip ends there too."""

STRETCH_SHARE = 4
"""A clip that is longer than the context by at most context // STRETCH_SHARE steps is still seen at once: two windows cost
twice as much (10 s are 575 steps, and published models are trained on 574). Positions are relative, and from 128 steps on they
are not told apart, so a model meets no position there that it does not know. The windows of longer clips may be as long, where
fewer are needed then: the bundled model finds what is true likelier in three of 215 steps than in five of 172 (docs/log.md)."""

LENGTH_SHARE = 16
"""Windows are longer than the context by multiples of context // LENGTH_SHARE: what is recorded on a GPU is for one length."""


def reach(context: int) -> int:
    """The most time steps that a model of `context` time steps is shown at once."""
    return context + context // STRETCH_SHARE


class Window(NamedTuple):
    """A stretch of time steps that the model sees at once, and the part of it that is decided there.

    `start` may be negative or reach beyond the clip's end in a ring: steps count modulo T. With `ring`, the window is all of a
    ring, and the model knows that its last step is followed by its first.
    """

    start: int
    length: int
    core: tuple[int, int]
    ring: bool = False

    def places(self, steps: int) -> Tensor:
        """(length,) int64: its time steps in a clip of `steps`."""
        return (self.start + torch.arange(self.length)) % steps


def plan_windows(steps: int, context: int, loop: bool = False) -> list[Window]:
    """Cover a clip of `steps` time steps with windows that a model of `context` time steps can see.

    The cores partition the clip, in order, and there is no padding. What fits into `reach(context)` is one window, that of a
    loop a `ring`. More are as few windows as that reach allows, of one length, at least `context`, each core at least
    context // MARGIN_SHARE steps inside its window, except at the two ends of a clip that is no loop; those of a loop are a
    circle: the first and the last see each other.

    Raises:
        ValueError: `steps` or `context` is below 1.
    """
    if steps < 1 or context < 1:
        raise ValueError(f"Windows need at least 1 time step and 1 step of context, not {steps} and {context}.")
    margin = max(1, context // MARGIN_SHARE) if context >= 3 else 0
    if steps <= reach(context):
        return [Window(0, steps, (0, steps), ring=loop)]
    return (_plan_ring if loop else _plan_line)(steps, context, margin)


def _plan_line(steps: int, context: int, margin: int) -> list[Window]:
    count = -(-(steps - 2 * margin) // (reach(context) - 2 * margin))
    length = _length(-(-(steps + 2 * margin * (count - 1)) // count), context)
    starts = [i * (steps - length) // (count - 1) for i in range(count)]
    # what the windows overlap by beyond the two margins goes to the left context, which is decided already
    bounds = [0, *(start + length - margin for start in starts[:-1]), steps]
    return [Window(start, length, (bounds[i], bounds[i + 1])) for i, start in enumerate(starts)]


def _plan_ring(steps: int, context: int, margin: int) -> list[Window]:
    count = -(-steps // (reach(context) - 2 * margin))
    length = _length(-(-steps // count) + 2 * margin, context)
    bounds = [i * steps // count for i in range(count + 1)]
    cores = [(bounds[i], bounds[i + 1]) for i in range(count)]
    return [Window(start - (length - (stop - start)) // 2, length, (start, stop)) for start, stop in cores]


def _length(needed: int, context: int) -> int:
    """Time steps of windows that are to have `needed` ones at least, which are at most `reach(context)`."""
    grain = max(1, context // LENGTH_SHARE)
    return min(reach(context), context + max(0, -(-(needed - context) // grain)) * grain)


def plan_for_mask(mask: Tensor, context: int, loop: bool = False) -> list[Window]:
    """The windows for one item's mask: those of `plan_windows` whose cores hold something to regenerate.

    If the clip is no loop, they cover only the masked stretch and its surroundings; a gap that fits into one window is decided
    in one, with as much of the clip on both sides of it as the model can see.

    Args:
        mask: (K, T) bool, True = regenerate.
        context: time steps that the model can see.
        loop: the clip is a ring.

    Returns:
        Windows in the order in which they are to be filled; none for an empty mask.
    """
    masked = mask.any(dim=0).nonzero()[:, 0]
    steps = mask.shape[-1]
    if len(masked) == 0:
        return []
    if loop:
        plan = plan_windows(steps, context, loop)
    else:
        first, last = int(masked[0]), int(masked[-1])
        room = max(2 * (context // MARGIN_SHARE), context - (last + 1 - first))
        low = max(0, min(first - room // 2, steps - context))
        high = min(steps, max(last + 1 + room // 2, low + context))
        plan = [Window(w.start + low, w.length, (w.core[0] + low, w.core[1] + low)) for w in plan_windows(high - low, context)]
    return [window for window in plan if bool(((masked >= window.core[0]) & (masked < window.core[1])).any())]
