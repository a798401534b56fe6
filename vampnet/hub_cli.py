"""The command `vampnet models`, and the progress bar of downloads."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vampnet.catalogue import Entry, size

WHERE = {"bundled": "bundled", "cached": "on disk", "hub": "hub"}


def add_parser(commands: Any) -> None:
    """Adds `models` to the subparsers of the command line."""
    models = commands.add_parser(
        "models",
        help="list the models that can be loaded",
        description="Lists the models that come with the program, that have been downloaded, and that the hub has.",
        epilog="example: vampnet vamp loop.wav --model hugggof/vampnet:choir",
    )
    models.add_argument("--offline", action="store_true", help="don't ask the hub: list what is on this computer")


def run(options: argparse.Namespace) -> int:
    """Prints the table of models to stdout, and to stderr whether the hub was asked in vain; returns the exit status 0."""
    from vampnet.catalogue import catalogue

    silent: list[bool] = []
    sys.stdout.write(table(catalogue(not options.offline, lambda: silent.append(True))))
    if silent:
        sys.stderr.write("The hub gave no answer: fine-tunes that are not on this computer are left out.\n")
    return 0


def table(entries: list[Entry]) -> str:
    """A line for each model under a line of titles: name, where it is, size, licence, and what it is about."""
    rows = [("name", "where", "size", "licence", "about")]
    rows += [(entry.name, WHERE[entry.source], size(entry.size_bytes), entry.licence, entry.about) for entry in entries]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "".join(f"{line.rstrip()}\n" for line in lines)


class DownloadBar:
    """A bar on stderr for each file, to be given as `on_download`; close it when all is done."""

    def __init__(self) -> None:
        self.file, self.bar = "", None

    def __call__(self, file: str, done: int, total: int) -> None:
        """Shows that `done` of `total` bytes of a file are there."""
        from tqdm import tqdm  # huggingface_hub needs it, so it is there

        if file != self.file or self.bar is None:
            self.close()
            # What is there already counts as done, but not for the speed.
            self.file, self.bar = file, tqdm(
                total=total or None, initial=done, desc=file, unit="B", unit_scale=True, file=sys.stderr
            )  # fmt: skip
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Ends the line of the last bar."""
        if self.bar is not None:
            self.bar.close()
        self.file, self.bar = "", None
