"""A run in several processes that fill one store, each with every N-th clip; on small models that beats threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def read_part(text: str) -> tuple[int, int]:
    """(which, of how many) from "2/3".

    Raises:
        ValueError: it is no part.
    """
    which, _, of = text.partition("/")
    if not (which.isdecimal() and of.isdecimal() and 1 <= int(which) <= int(of)):
        raise ValueError(f"--part must be such as 1/2 or 2/2, not '{text}'.")
    return int(which), int(of)


def run_parts(argv: Sequence[str], workers: int) -> None:
    """Runs `evaluate paper` with the options `argv` in so many processes at once, and waits for all of them.

    Raises:
        ValueError: one of them failed; it has said why.
        KeyboardInterrupt: stopped; the processes are ended, and what they had done is in the store.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    root = str(Path(__file__).resolve().parent.parent.parent)
    paths = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "vampnet", "evaluate", "paper", *argv, "--workers", "1"]
    children = [
        subprocess.Popen([*command, "--part", f"{number}/{workers}"], env=environment) for number in range(1, workers + 1)
    ]
    try:
        failed = [child.args[-1] for child in children if child.wait() != 0]
    except BaseException:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        raise
    if failed:
        raise ValueError(f"Part {', '.join(failed)} did not come to its end; the same command goes on from here.")
