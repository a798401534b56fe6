"""Freed memory stays with the program: to get it anew from the system, page by page, costs as much as what it is used for."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

MMAP_THRESHOLD, TRIM_THRESHOLD, ARENA_MAX = -3, -1, -8
"""Of glibc's `mallopt` (malloc.h)."""
LARGEST = 32 << 20
"""Bytes: larger pieces go back to the system at once. glibc takes no larger number."""
KEPT = 1 << 30
"""Bytes that may lie unused at the end of the heap."""


def give_back() -> None:
    """Returns what is free to the system after all, where there is glibc."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next tensor of that size. For programs, not for libraries: it concerns everything.

    Returns:
        Whether it could be done: elsewhere than with glibc nothing happens.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    # By default threads get heaps of their own, several for each core: in a studio, where every vamp has a thread, each of them
    # keeps what one vamp needed at most.
    mallopt(ARENA_MAX, 1)
    # Both, since to set one ends glibc's own adaptation of the other.
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, KEPT))


def _glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
