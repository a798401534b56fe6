"""Folders for what a program writes while it runs: only its own, and gone when it ends."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

LOCK, LOCK_SECONDS = ".lock", 60
UPLOADS = "vampnet-uploads-"

_locks: list[IO[str]] = []


def make_own_folder(prefix: str) -> Path:
    """Makes a folder in the system's one for temporary files, which nobody but the user can look into.

    It is deleted when the program ends; what one with the same prefix left behind that was killed, when the next one begins.

    Args:
        prefix: of its name; no other kind of folder has it.
    """
    # Resolved, since a web server that looks a path up under its real name does not find it under a linked one.
    root = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    if (own := _locked(root)) is not None:
        _locks.append(own)
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for folder in root.parent.glob(f"{prefix}*"):
        # As long as a program lives it holds the lock on its folder.
        if folder != root and _is_old(folder / LOCK) and (lock := _locked(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()
    return root


def keep_uploads_apart() -> None:
    """Gives gradio a folder of this program's own, unless GRADIO_TEMP_DIR names one. Call it before anything imports gradio.

    By default it keeps what visitors bring in one folder for the whole computer, which belongs to whoever came first: another
    user's program cannot start, and can read what lies there.
    """
    if not os.environ.get("GRADIO_TEMP_DIR"):
        os.environ["GRADIO_TEMP_DIR"] = str(make_own_folder(UPLOADS))


def _is_old(lock: Path) -> bool:
    """Whether there is a lock that its program has had the time to take."""
    try:
        return time.time() - lock.stat().st_mtime > LOCK_SECONDS
    except OSError:
        return False


def _locked(folder: Path) -> IO[str] | None:
    """A lock on a folder until it is closed; None where another program has it, or where there are no locks."""
    try:
        import fcntl

        lock = open(folder / LOCK, "a")  # noqa: SIM115
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock
