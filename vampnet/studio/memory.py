"""How much memory there is for a model, and giving back what one has left."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a model may still take, of the computer and, on a CUDA device, of that too: the smaller of the two.

    Returns:
        The number, None where the system does not say.
    """
    found = [_host_free()]
    if device.type == "cuda":
        found.append(torch.cuda.mem_get_info(device)[0])
    return None if None in found else min(found)


def _host_free() -> int | None:
    """Bytes of main memory that can be had without swapping; in a container no more than its limit leaves."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        rows = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        # Pages of files that were read count as used, but give way.
        free = min(free, limit - used + int(rows.get("inactive_file", 0)))
    except (OSError, ValueError):
        pass  # no container, or one without a limit ("max")
    return max(free, 0)


def release() -> None:
    """Gives the memory of what nobody refers to any more back to the system and to the device."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there was too little memory, of the computer or of the device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
