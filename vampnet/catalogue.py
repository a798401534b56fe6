"""Which models there are: bundled, in the hub's cache, and on the hub, with size and licence."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vampnet import hub, layout
from vampnet.hub_errors import ModelUnavailable
from vampnet.sentences import Sentence

STOCK = "hugggof/vampnet"
"""The repository of the published weights."""
STOCK_BYTES = 600_996_465 + 1_330_000_000 + 1_100_000_000
"""Size of the published codec, coarse and fine model, to be told without a network."""
LICENCES = {STOCK: "CC BY-NC-SA 4.0"}
NOT_STATED = Sentence("not stated")
SECONDS = 4.0
"""How long the hub may take: somebody waits for the list."""

_SHORT = {"cc0-1.0": "CC0 1.0", "mit": "MIT", "apache-2.0": "Apache 2.0", "other": NOT_STATED}
_LICENCE_LINE = re.compile(r"licen[cs]e[^:\n]*:\W*([A-Za-z0-9].*?)(?:\.\s|\.?$)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One model that can be loaded.

    Attributes:
        name: for `checkpoints.load`.
        source: "bundled", "cached" (downloaded, all of it) or "hub" (would be downloaded).
        size_bytes: of all the files it is made of, also those that it shares with others; None where nobody says.
        licence: of the weights, for people.
        on_disk: whether it loads without a network.
        about: a few words.
    """

    name: str
    source: Literal["bundled", "cached", "hub"]
    size_bytes: int | None
    licence: str
    on_disk: bool
    about: str


def size(count: int | None) -> str:
    """Bytes for people, in powers of ten: "33 MB", "1.3 GB"; None is "size unknown"."""
    if count is None:
        return Sentence("size unknown")
    if count >= 999_500_000:
        return f"{count / 1e9:.1f} GB"
    return f"{max(count, 1) / 1e6:.0f} MB" if count >= 950_000 else f"{max(count / 1e6, 0.1):.1f} MB"


def catalogue(online: bool = True, unanswered: Callable[[], None] | None = None) -> list[Entry]:
    """The models there are: bundled ones, the published one with its fine-tunes, then what else the hub's cache holds.

    Args:
        online: ask the hub for the fine-tunes and sizes of the published weights. Without it, without an answer or with
            HF_HUB_OFFLINE set, those are listed that are on disk, and the published model always.
        unanswered: called where the hub was asked and gave no answer.
    """
    cached = dict(hub.cached_snapshots())
    entries = [_bundled(name) for name in layout.bundled_models()] + _published(cached.pop(STOCK, None), online, unanswered)
    for name, folder in cached.items():
        entries += _cached(name, folder)
    return entries


def _bundled(name: str) -> Entry:
    folder = layout.bundled_folder() / name
    size = sum((folder / file).stat().st_size for file in ("config.json", *layout.WEIGHTS))
    return Entry(name, "bundled", size, _licence_in(folder), True, Sentence("comes with the program; small and quick"))


def _published(folder: Path | None, online: bool, unanswered: Callable[[], None] | None) -> list[Entry]:
    """The stock model and its fine-tunes."""
    here = {entry.name: entry for entry in (_cached(STOCK, folder) if folder else [])}
    found = dict(here)
    if online and not hub.is_offline():
        try:
            listed = hub.listing(STOCK, seconds=SECONDS)
        except ModelUnavailable:
            if unanswered is not None:  # the list is of use without it
                unanswered()
        else:
            licence = LICENCES[STOCK]
            for entry in _entries(STOCK, listed.sizes, licence, "hub"):
                # What is on disk is told as it is there: another revision may be on the hub by now.
                found.setdefault(entry.name, entry)
    found.setdefault(STOCK, Entry(STOCK, "hub", STOCK_BYTES, LICENCES[STOCK], False, _about(STOCK)))
    return [found.pop(STOCK), *(found[name] for name in sorted(found))]


def _cached(name: str, folder: Path) -> list[Entry]:
    """The complete models in a folder of the hub's cache."""
    sizes: dict[str, int | None] = {file: (folder / file).stat().st_size for file in layout.files_of(folder)}
    return _entries(name, sizes, LICENCES.get(name.partition("@")[0]) or _licence_in(folder), "cached")


def _entries(name: str, sizes: dict[str, int | None], licence: str, source: Literal["cached", "hub"]) -> list[Entry]:
    entries = []
    for style in (None, *layout.styles_of(sizes)):
        try:
            chosen = layout.choose(sizes, name, style=style)
        except ModelUnavailable:
            continue
        parts = [sizes[file] for file in chosen.values()]
        size = None if None in parts else sum(part or 0 for part in parts)
        title = name if style is None else f"{name}:{style}"
        entries.append(Entry(title, source, size, licence, source == "cached", _about(name, style)))
    return entries


def _about(name: str, style: str | None = None) -> str:
    if style is not None:
        return Sentence("fine-tune '{style}'; shares its codec with {name}", style=style, name=name)
    if name == STOCK:
        return Sentence("the published weights, paper size; a GPU helps")
    return Sentence("downloaded from the hub")


def _licence_in(folder: Path) -> str:
    """What the model card in a folder says of the licence, in the first line that names one."""
    for name in ("MODEL_CARD.md", "README.md"):
        try:
            found = _LICENCE_LINE.search((folder / name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        if found:
            return _SHORT.get(found[1].strip().lower(), found[1].strip())
    return NOT_STATED
