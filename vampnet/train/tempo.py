"""Where the beats of a training clip are: a steady tempo, written into the clip's file by who composed it."""

from __future__ import annotations

import math
import os
import re

_WORDS = re.compile(r"vampnet beats: first ([0-9.]+) s, every ([0-9.]+) s")


def beat_comment(first: float, gap: float) -> str:
    """The comment of a file whose beats are at `first`, `first + gap`, ... seconds."""
    return f"vampnet beats: first {first:.5f} s, every {gap:.7f} s"


def beat_of(path: str | os.PathLike) -> tuple[float, float] | None:
    """(first, gap) in seconds of the beats of a sound file that says so in a comment; None for any other file."""
    import soundfile

    try:
        # By a handle: soundfile takes no name that is not UTF-8.
        with open(path, "rb") as handle, soundfile.SoundFile(handle) as file:
            found = _WORDS.search(file.comment)
    except (soundfile.SoundFileError, OSError):
        return None
    if found is None:
        return None
    try:
        first, gap = float(found[1]), float(found[2])
    except ValueError:
        return None
    return (first, gap) if 0.05 < gap < 10 and math.isfinite(first) else None
