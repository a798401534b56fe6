"""Files that a script of the page has uploaded: where they may lie, since a browser says their paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder

from vampnet.studio.text import worded


def uploaded(path: Any) -> Path:
    """The path of an uploaded file.

    Raises:
        ValueError: it is none: the path lies outside the folder of uploads, or there is no file.
    """
    if isinstance(path, str) and 0 < len(path) < 4000 and "\x00" not in path:
        found = Path(path).resolve()
        root = Path(get_upload_folder()).resolve()
        # Each in a folder named by the hash of what it holds: who knows that has the file.
        if root in found.parents and len(found.relative_to(root).parts) >= 2 and found.is_file():
            return found
    raise ValueError(worded("restore.lost"))
