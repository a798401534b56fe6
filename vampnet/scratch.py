"""Large arrays in files of their own: what a program holds in memory does not grow with the length of a clip.

Five minutes of stereo are 106 MB, and vamping them wants several arrays of that size, of which a few seconds at a time are
worked on. From `LEAST` bytes on such an array lies in a file without a name, mapped into memory, and a thread takes its pages
out of the process again and again. They stay in what the system keeps of files as long as there is room, so that to touch them
anew costs little, and without room they are on the disk.

On Linux, where a file can be given its room on the disk beforehand. Elsewhere, and where the disk has too little, an array lies
in plain memory: nothing but what it takes there depends on that.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import mmap
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vampnet.kept_memory import give_back

LEAST = 4 << 20
"""Bytes from which on an array has a file: 24 seconds of one channel."""
LONG = 16 << 20
"""Bytes from which on free memory is given back, which costs some 40 ms each time: 95 seconds of one channel."""
PART = 1 << 20
"""Bytes that `parts` are of, more or less."""
SPARE = 1 << 30
"""Bytes that are left free on the disk."""
SECONDS = 0.004
"""Pages are taken out so often while the program works: what is touched meanwhile is in memory."""
IDLE_SECONDS = 0.25
"""At most, while it does not."""
FOLDER = "/var/tmp"
"""Looked at before the system's own folder for temporary files, which on many systems lies in memory itself."""


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor on the CPU of any content, its memory in a file if it is large."""
    return _tensor(torch.empty, shape, dtype)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of zeros on the CPU, its memory in a file if it is large."""
    return _tensor(torch.zeros, shape, dtype)


def new_empty(like: Tensor, *shape: int) -> Tensor:
    """`like.new_empty(shape)`, and on the CPU as `empty`."""
    return empty(*shape, dtype=like.dtype) if like.device.type == "cpu" else like.new_empty(shape)


def copy(x: Tensor) -> Tensor:
    """`x.clone()`, contiguous, and on the CPU as `empty`."""
    return write(new_empty(x, *x.shape), x)


def write(out: Tensor, x: Tensor) -> Tensor:
    """`out.copy_(x)` of the same shape, in `parts`."""
    for part, given in zip(parts(out), parts(x), strict=True):
        part.copy_(given)
    return out


def parts(x: Tensor) -> Iterator[Tensor]:
    """The tensor (..., N) in parts along its last axis, for what goes over it faster than pages are taken out: when the next
    one is asked for, the last one's are."""
    size = max(1, PART // max(1, 4 * x[..., :1].numel()))
    for part in x.split(size, dim=-1):
        yield part
        if x.shape[-1] > size:
            sweep()


def tidy(size: int) -> None:
    """Gives free memory back to the system where an array of `size` bytes, a long clip, is being made: what has lain between
    pieces of other work fits none of the next, and so memory would grow by each."""
    if size >= LONG:
        give_back()


def sweep() -> None:
    """Takes pages out now, and not within `SECONDS`."""
    _sweeper.sweep()


def _tensor(plain: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in a file of their own; what `plain` makes where there is none."""
    found = _mapped(math.prod(shape) * dtype.itemsize)
    return plain(shape, dtype=dtype) if found is None else found.view(dtype).view(shape)


def _mapped(size: int) -> Tensor | None:
    """(size,) uint8 zeros in a file of their own; None where they are too few, or it cannot be had."""
    if size < LEAST or not (hasattr(os, "posix_fallocate") and hasattr(mmap, "MADV_DONTNEED")):
        return None
    for folder in _folders():
        try:
            if shutil.disk_usage(folder).free < size + SPARE:
                continue
            # Without a name from the start: it is gone with the last who holds it, whatever the program's end.
            with tempfile.TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a page that finds no room later would end the program
                mapped = mmap.mmap(file.fileno(), size)
        except OSError:
            continue
        _sweeper.add(mapped)
        return torch.from_numpy(np.frombuffer(mapped, np.uint8))
    return None


def _folders() -> list[str]:
    """Where files may lie, the best first."""
    chosen = os.environ.get("TMPDIR")
    return [folder for folder in ((chosen,) if chosen else (FOLDER, tempfile.gettempdir())) if Path(folder).is_dir()]


class _Sweeper:
    """The thread that takes pages of files out of the process, as long as there are such files."""

    def __init__(self) -> None:
        self.maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self.lock, self.wanted, self.ended = threading.Lock(), threading.Event(), False
        self.thread: threading.Thread | None = None

    def add(self, mapped: mmap.mmap) -> None:
        """From now on this one, too."""
        with self.lock:
            self.maps.add(mapped)
            if self.thread is None and not self.ended:
                self.thread = threading.Thread(target=self._run, name="scratch", daemon=True)
                self.thread.start()
        self.wanted.set()

    def sweep(self) -> None:
        """Takes out what there is."""
        with self.lock:
            found = list(self.maps)
        for mapped in found:
            with contextlib.suppress(OSError):
                mapped.madvise(mmap.MADV_DONTNEED)  # of a file, not of memory: what was written stays in it

    def _run(self) -> None:
        pause, at, busy = SECONDS, time.monotonic(), time.process_time()
        while True:
            self.sweep()
            if self.wanted.wait(pause):
                self.wanted.clear()
            now, work = time.monotonic(), time.process_time()
            # A studio keeps clips for an hour, and for most of it nobody touches them.
            pause = SECONDS if work - busy > 0.2 * (now - at) else min(2 * pause, IDLE_SECONDS)
            at, busy = now, work
            with self.lock:
                if self.ended or not self.maps:
                    self.thread = None
                    return

    def stop(self) -> None:
        """Ends the thread, which may not be there when the interpreter goes."""
        with self.lock:
            self.ended, thread = True, self.thread
        self.wanted.set()
        if thread is not None:
            thread.join()


_sweeper = _Sweeper()
atexit.register(lambda: _sweeper.stop())


def _begin_anew() -> None:
    """In a process that was forked off, which has the files and no thread."""
    global _sweeper
    found, _sweeper = list(_sweeper.maps), _Sweeper()
    _sweeper.maps.update(found)  # looked after once there are others


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
