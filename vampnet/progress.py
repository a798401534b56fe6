"""How callers follow a vamp and stop it, and how they hear that memory was short."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from vampnet.config import CancelledError

OnStep = Callable[[str, int, int], None]
"""Called with the stage ("beats", "encode", "coarse", "fine", "decode"), the steps done, and of how many."""

OnDownload = Callable[[str, int, int], None]
"""Called with the name of a file that is being downloaded, the bytes done, and of how many."""

Cancelled = Callable[[], bool]
"""Asked between steps; once it says True, CancelledError is raised."""

Shortage = Literal["batch", "cpu"]
"""How one went on where memory was short: with fewer items at a time, or on the CPU."""

SENTENCES: dict[Shortage, str] = {
    "batch": "Memory was short: it went on with fewer takes at a time, which is slower.",
    "cpu": "The device's memory was too small: it went on with the CPU, which is slower.",
}

_listener: ContextVar[Callable[[Shortage], None] | None] = ContextVar("shortage_listener", default=None)


def part_of(on_step: OnStep | None, part: int, parts: int) -> OnStep | None:
    """What to tell of progress in one of several equal parts of the work, so that it is counted over all of them."""
    if on_step is None or parts == 1:
        return on_step
    return lambda stage, step, of: on_step(stage, part * of + step, parts * of)


class Watch:
    """Progress and cancellation of one vamp."""

    def __init__(self, on_step: OnStep | None, cancelled: Cancelled | None) -> None:
        self.on_step, self.cancelled = on_step, cancelled

    def __call__(self, stage: str, step: int, of: int) -> None:
        """Report `step` steps done; CancelledError if the caller wants no more of them."""
        if self.on_step is not None:
            self.on_step(stage, step, of)
        if step < of and self.cancelled is not None and self.cancelled():
            raise CancelledError(f"Stopped in the {stage} stage after {step} of {of} steps.")


class MemoryWarning(UserWarning):
    """Memory was short and the work went on with less of it; the takes are whole."""


@contextmanager
def told_by(listener: Callable[[Shortage], None]) -> Iterator[None]:
    """Within it (in this thread and context) `listener(kind)` is called where memory is short; elsewhere a MemoryWarning."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell_of_shortage(kind: Shortage) -> None:
    """Tells who listens, or warns."""
    listener = _listener.get()
    if listener is None:
        warnings.warn(SENTENCES[kind], MemoryWarning, stacklevel=4)
    else:
        listener(kind)
