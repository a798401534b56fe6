"""Work on a GPU recorded as a CUDA graph and replayed: one call of the driver instead of hundreds, each of which takes the
computer longer to ask for than the device to do."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress

import torch
from torch import Tensor

from vampnet.device import is_shortage

log = logging.getLogger(__name__)

WARM_UPS = 2
"""Times that work is done before it is recorded: in the first of them tables and workspaces are made, kernels are compiled."""

KEPT = 4
"""Shapes that `Recordings` keep."""


class _Pool:
    """The memory that the recordings of a device share, for as long as one of them is there.

    Each works on what is left in it by the others, so it is as large as the largest needs. The driver lets go of it with the
    last graph, and a new one is wanted then.
    """

    def __init__(self) -> None:
        self.handle = torch.cuda.graph_pool_handle()


_recording, _replaying = threading.Lock(), threading.RLock()
_streams: dict[torch.device, torch.cuda.Stream] = {}
"""For each device the stream that is recorded on: libraries keep memory for each that they meet."""
_pools: weakref.WeakValueDictionary[torch.device, _Pool] = weakref.WeakValueDictionary()
_refused = False
"""Whether a recording has failed: no other one is tried then."""


class Recording:
    """Work that was recorded; `replay()` asks the device for all of it.

    Args:
        work: without arguments; reads and writes tensors that stay where they are, and never waits for the device.
        device: of these tensors. Others must not be freed while the recording is in use either.

    Raises:
        RuntimeError: the work cannot be recorded. The device and its memory are as they were before.
    """

    def __init__(self, work: Callable[[], object], device: torch.device) -> None:
        # One at a time in a process.
        with _recording, torch.cuda.device(device):
            stream = _streams.setdefault(device, torch.cuda.Stream(device))
            pool = _pools.get(device) or _Pool()
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    work()
                torch.cuda.synchronize(device)
                self._graph = _captured(work, pool.handle, device)
            torch.cuda.current_stream(device).wait_stream(stream)
            # After the graph, which alone keeps the driver from letting go of the memory.
            self._pool = _pools[device] = pool

    def replay(self) -> None:
        """Does the work once more, on the current stream."""
        with _replaying:
            self._graph.replay()


def _captured(work: Callable[[], object], pool: tuple[int, int], device: torch.device) -> torch.cuda.CUDAGraph:
    """`work` as a graph, captured on the current stream. `torch.cuda.graph` would leave that stream changed where it fails."""
    graph, failed = torch.cuda.CUDAGraph(), None
    try:
        # Other threads may go on using the device meanwhile.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        work()
    except Exception as error:
        failed = error
    try:
        graph.capture_end()
    except RuntimeError as error:
        failed = failed or error
    if failed is None:
        return graph
    # If the end of the capture failed, nobody was told of it: the allocator would go on filling the graph's pool, and the
    # device's generator of random numbers would refuse to give any.
    index = torch.cuda._utils._get_device_index(device)
    with suppress(RuntimeError, AttributeError):
        torch._C._cuda_endAllocateToPool(index, pool)
    with suppress(RuntimeError, AttributeError):
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())
    raise failed


def refused() -> bool:
    """Whether work could not be recorded once in this process, and is done piece by piece from then on."""
    return _refused


def recorded(work: Callable[[], object], device: torch.device) -> Recording | None:
    """The recording of some work, or None where it cannot be had (which is logged once); arguments as for `Recording`.

    Raises:
        Exception: `is_shortage` of memory.
    """
    global _refused
    if _refused:
        return None
    try:
        return Recording(work, device)
    except Exception as error:
        if is_shortage(error):
            raise
        _refused = True
        log.warning("Work cannot be recorded on this GPU and is done piece by piece: %s", error)
        return None


class _Entry:
    """What is recorded for one shape: where the work's input goes, where its result comes."""

    def __init__(self) -> None:
        self.busy = threading.Lock()
        self.given: Tensor | None = None
        self.result: Tensor | None = None
        self.recording: Recording | None = None


class Recordings:
    """Functions of one tensor, done at once for a shape that is new and recorded for one that comes again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._keeping = threading.Lock()
        _all.add(self)

    def __call__(self, name: Hashable, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`work(x)`, a tensor of its own; `name` tells several functions apart. Not on CUDA it is just that.

        Raises:
            Exception: what `work` raises.
        """
        if x.device.type != "cuda" or _refused:
            return work(x)
        entry = self._entry((name, tuple(x.shape), x.dtype, x.device))
        if entry is None or not entry.busy.acquire(blocking=False):
            return work(x)
        try:
            if entry.recording is None:
                entry.given = x.clone()

                def once() -> None:
                    entry.result = work(entry.given)

                entry.recording = recorded(once, x.device)
                if entry.recording is None:
                    return work(x)
            with _replaying:  # the memory is all recordings': nobody else's work may lie between these three
                entry.given.copy_(x)
                entry.recording.replay()
                return entry.result.clone()
        finally:
            entry.busy.release()

    def _entry(self, key: Hashable) -> _Entry | None:
        """What is kept for a shape; None if it is met for the first time."""
        with self._keeping:
            met = key in self._kept
            entry = self._kept.setdefault(key, _Entry())
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return entry if met else None

    def __deepcopy__(self, memo: dict) -> Recordings:
        return Recordings()  # what is recorded works on the tensors of the one that is copied

    def forget(self) -> bool:
        """Lets go of all that is kept. Returns whether anything was recorded."""
        with self._keeping:
            any_kept = any(entry.recording is not None for entry in self._kept.values())
            self._kept.clear()
        return any_kept


_all: weakref.WeakSet[Recordings] = weakref.WeakSet()


def forget_recordings() -> bool:
    """Lets go of what all `Recordings` keep. Returns whether anything was recorded."""
    return any([recordings.forget() for recordings in list(_all)])
