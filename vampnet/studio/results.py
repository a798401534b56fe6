"""What was made for programs, kept for an hour under an unguessable name; and that Gradio's own hourly deletion goes on."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from vampnet.studio.session import Files

MAX_AGE = 3600.0
"""Seconds; as old as Gradio lets the files of a page become."""


class Results:
    """Folders with names of 128 random bits, which are deleted when they are old.

    Args:
        files: where the folders are made.
        max_age: seconds.
    """

    def __init__(self, files: Files, max_age: float = MAX_AGE) -> None:
        self._files, self._max_age = files, max_age
        self._born: dict[str, float] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def new(self) -> tuple[str, Path]:
        """A fresh folder: (its name, its path)."""
        folder = self._files.new_folder()
        with self._lock:
            self._born[folder.name] = time.monotonic()
        self.sweep()
        return folder.name, folder

    def find(self, name: object) -> Path | None:
        """The folder of a name; None if there is none, or it is too old."""
        self.sweep()
        with self._lock:
            known = isinstance(name, str) and re.fullmatch("[0-9a-f]{32}", name) and name in self._born
        return self._files.root / str(name) if known else None

    def sweep(self) -> None:
        """Deletes what is too old, and comes back for the rest."""
        now = time.monotonic()
        with self._lock:
            old = [name for name, born in self._born.items() if now - born >= self._max_age]
            for name in old:
                del self._born[name]
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._born:
                wait = max(0.0, min(self._born.values()) + self._max_age - now) + 0.01
                self._timer = threading.Timer(wait, self.sweep)
                self._timer.daemon = True
                self._timer.start()
        for name in old:
            shutil.rmtree(self._files.root / name, ignore_errors=True)


class FilesOnly(set):
    """Paths of files that Gradio is to delete; folders are not taken."""

    def add(self, path: Any) -> None:
        if not Path(path).is_dir():
            super().add(path)


def keep_tidy(page: gr.Blocks) -> None:
    """Keeps Gradio's own folder for files private and tidy.

    Others on this computer could list it and read what programs were given. And a request that names the folder of an upload as
    its file would end the hourly deletion for everybody.
    """
    cache = Path(get_upload_folder())
    with contextlib.suppress(OSError):  # somebody else's, which Gradio will say something about itself
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        cache.chmod(0o700)
    guarded = {id(block.temp_files): FilesOnly(block.temp_files) for block in page.blocks.values()}
    for block in page.blocks.values():
        block.temp_files = guarded[id(block.temp_files)]
    page.temp_file_sets = [guarded.get(id(paths), paths) for paths in page.temp_file_sets]
