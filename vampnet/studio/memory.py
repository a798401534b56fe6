"""How much memory there is for a model."""

from __future__ import annotations

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
