"""How much memory a stage takes at its highest."""

from __future__ import annotations

import threading
from pathlib import Path

import torch

from vampnet.fallback import release

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SAMPLE_SECONDS = 0.002


def resident(field: str = "VmRSS") -> int | None:
    """Bytes of the process in memory, now ("VmRSS") or at most so far ("VmHWM"); None where the system does not say."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if field == "VmRSS":
        try:
            import psutil  # where it happens to be installed

            return psutil.Process().memory_info().rss
        except ImportError:
            pass
    return None


def _reset_mark() -> bool:
    """Sets the system's high-water mark of this process to what it takes now; False where that cannot be done."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


class PeakMemory:
    """Watches the memory of this process, and of a CUDA device, while the context lasts.

    The system's own high-water mark is used where it can be reset (Linux); elsewhere a thread looks every 2 ms.

    Attributes:
        before, peak: bytes of the process; None where the system does not say.
        device_peak: bytes that torch held on the CUDA device at most; None without one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before: int | None = None
        self.peak: int | None = None
        self.device_peak: int | None = None
        self._thread: threading.Thread | None = None
        self._end = threading.Event()

    def __enter__(self) -> PeakMemory:
        release()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.before = self.peak = resident()
        if self.before is not None and not _reset_mark():
            self._thread = threading.Thread(target=self._watch, name="bench-memory", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._end.set()
            self._thread.join()
        elif self.before is not None:
            self.peak = max(self.before, resident("VmHWM") or 0)
        if self.device.type == "cuda":
            self.device_peak = torch.cuda.max_memory_allocated(self.device)

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak or 0, resident() or 0)
