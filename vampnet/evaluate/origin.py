"""Whose results a folder holds: weights, arithmetic and what else they depend on, noted beside them and never mixed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .store import write

NOTE, STORE = "run.json", "store"
SIGN = "claims.csv"
"""Of all files of a report the one that nothing else in a folder is called by."""
WORDS = {
    "weights": "weights", "precision": "precision", "codec": "precision of the codec", "beats": "beat tracker", "seed": "seed",
    "version": "version of the making",
}  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """All that results depend on beside their recipe and their clip; embeddings have keys of their own.

    Attributes:
        weights: see `VampNet.weights_id`.
        precision: of the transformers, see `VampNet.precision`.
        codec: precision of the codec, which is that of the machine's faster arithmetic beside fast transformers.
        beats: the beat tracker.
        seed: of all that is drawn.
        version: of the making; figures are measured again where theirs is another, see `runner.HEARING`.
    """

    weights: str
    precision: str
    codec: str
    beats: str
    seed: int
    version: int

    @property
    def id(self) -> str:
        """16 hex digits: names its folder in the store."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def unlike(self, other: Origin) -> str:
        """In what they differ, in words: "seed there 0, here 1", where `other` is here."""
        here, there = dataclasses.asdict(other), dataclasses.asdict(self)
        return "; ".join(f"{WORDS[name]} there {there[name]}, here {here[name]}" for name in WORDS if there[name] != here[name])


def noted(out: Path) -> Origin | None:
    """Whose results a folder says that it holds; None where it says nothing that can be read."""
    try:
        return Origin(**json.loads((out / NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def settle(out: Path, origin: Origin, reports: Collection[str], replace: bool = False) -> None:
    """Makes a folder that of one run: notes whose results it holds, beside them, and keeps those of others apart.

    Args:
        out: the folder, which is there.
        origin: of the run that is about to write.
        reports: names of the files that a report consists of.
        replace: delete what another run has left there.

    Raises:
        ValueError: it holds results of another run, or of one that nobody knows; the sentence says what to do.
    """
    there = noted(out)
    if there == origin:
        return
    strange = [path for path in (out / STORE).glob("*") if re.fullmatch("[0-9a-f]{16}", path.name) and path.name != origin.id]
    if (out / SIGN).exists() or any(True for path in strange for _ in path.glob("*/*.npz")):
        if not replace:
            why = "it does not say with which weights they were made" if there is None else there.unlike(origin)
            raise ValueError(
                f"{out} holds results of another run, with which these must not be mixed ({why}): "
                "give another folder with --out, or --replace to delete them."
            )
        for name in reports:
            (out / name).unlink(missing_ok=True)
        # That of this run stays: another part of it may have begun.
        for path in strange:
            shutil.rmtree(path, ignore_errors=True)
    write(out / NOTE, json.dumps(dataclasses.asdict(origin), indent=2) + "\n")
