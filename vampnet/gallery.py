"""Shared vamps on disk: one folder each under an id that nobody can guess, and who may delete it.

    <folder>/vamps/<id>/   vamp.json, tokens, sounds (`vampnet.bundle`), share.json (title, lineage, hashes), pictures
    <folder>/index.sqlite  a copy of what the folders say; it may be deleted at any time

A folder appears whole or not at all: it is written beside the others, flushed to the disk, and renamed.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import sqlite3
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vampnet.bundle import SETTINGS, TOKENS, read_bundle, read_settings, write_bundle
from vampnet.gallery_index import ID, RECORD, Index, Limits, Row
from vampnet.vamp import Vamp

VERSION = 1
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
LONGEST_TITLE, LONGEST_NOTE = 80, 600
ABANDONED_SECONDS = 3600
"""A folder that was begun this long ago and never finished is nobody's."""
BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of text around: they would let a title pass for another."""


class GalleryError(ValueError):
    """Something that cannot be shared or deleted.

    Attributes:
        reason: "too_large", "title", "note", "not_yours", "disk" or "too_often".
        values: what a sentence about it needs.
    """

    def __init__(self, reason: str, sentence: str, **values: Any) -> None:
        super().__init__(sentence)
        self.reason, self.values = reason, values


class NotShared(LookupError):
    """There is no such vamp: a wrong id, or one that was deleted."""


@dataclass(frozen=True)
class Shared:
    """One shared vamp.

    Attributes:
        id: 26 characters, 128 random bits.
        created: seconds since 1970.
        title, note: plain text of who shared it.
        private: its source was kept back.
        parent: id of the vamp that it came from; "" if there is none or the source is private.
        bytes: of its folder.
        files: names that may be given out.
        owner, secret: SHA-256 of the owner's cookie ("" without one) and of the delete link's secret.
        page: plain data for the page that shows it.
    """

    id: str
    created: float
    title: str
    note: str
    private: bool
    parent: str
    bytes: int
    files: tuple[str, ...]
    owner: str
    secret: str
    page: dict[str, Any] = field(default_factory=dict)


class Gallery:
    """A folder of shared vamps. Safe in several threads, and several programs may use the same folder.

    Args:
        folder: made if missing.
        limits: how much it holds.
        clock: seconds since 1970.
        on_delete: told the id of every vamp that was deleted, for a copy elsewhere.

    Attributes:
        before_delete: told it while the vamp is still there, so that a kill in between leaves a trace.

    Raises:
        OSError: the folder cannot be made or written to.
    """

    def __init__(
        self, folder: str | Path, limits: Limits | None = None, clock: Callable[[], float] = time.time,
        on_delete: Callable[[str], None] = lambda id: None,
    ) -> None:  # fmt: skip
        self.root = Path(folder).expanduser().resolve()
        self.limits, self.on_delete, self._clock = limits or Limits(), on_delete, clock
        self.before_delete: Callable[[str], None] = lambda id: None
        self.vamps, self._new, self._gone = (self.root / name for name in ("vamps", ".new", ".gone"))
        self.root.parent.mkdir(parents=True, exist_ok=True)
        for path in (self.root, self.vamps, self._new, self._gone):
            path.mkdir(exist_ok=True, mode=0o700)
        with contextlib.suppress(OSError):
            # Who else is on this computer could read the ids: also where an older program has made it, or the user.
            self.root.chmod(self.root.stat().st_mode & ~0o077)
        self._lock = threading.RLock()
        self.index = Index(self.root / "index.sqlite", self.vamps, self._stamps, self._row)
        self.sweep()

    # ---- sharing ------------------------------------------------------------------------------------------------------

    def add(
        self,
        vamp: Vamp,
        *,
        title: str = "",
        note: str = "",
        private: bool = False,
        parent: str | None = None,
        owner: str = "",
        source_name: str = "",
        page: dict[str, Any] | None = None,
        files: dict[str, bytes] | None = None,
    ) -> tuple[Shared, str]:
        """Shares a vamp.

        Args:
            title, note: plain text.
            private: nothing is stored that gives the source away (`write_bundle`), nor from which vamp it came.
            parent: id of the vamp that this one came from; it need not be there any more.
            owner: the owner's cookie, "" = only who has the delete link can delete it.
            source_name: for people; not stored if private.
            page: plain data that is kept for the page; must not give a private source away.
            files: more files that may be given out, by name.

        Returns:
            What was shared, and the secret of its delete link, which is stored nowhere.

        Raises:
            GalleryError: too large, a text too long, or no room on the disk.
        """
        title, note = _text(title, LONGEST_TITLE, "title"), _text(note, LONGEST_NOTE, "note")
        id, secret = new_id(), secrets.token_urlsafe(24)
        begun = self._new / id
        try:
            begun.mkdir(mode=0o700)
            extra = {"title": title, "source_name": "" if private else source_name}
            settings = write_bundle(vamp, begun, "flac", extra=extra, private=private)
            for name, content in (files or {}).items():
                (begun / _plain(name)).write_bytes(content)
            source = [] if private else [settings["source_file"], TOKENS]
            shared = Shared(
                id, self._clock(), title, note, private, parent if parent and ID.fullmatch(parent) and not private else "",
                _size(begun), (*settings["files"], *source, SETTINGS, *(files or {})), _hash(owner), _hash(secret), page or {},
            )  # fmt: skip
            shared = self._record(begun, shared)
            self._publish(begun, shared)
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise GalleryError("disk", f"The vamp could not be stored ({reason}).") from error
        finally:
            shutil.rmtree(begun, ignore_errors=True)
        return shared, secret

    def _record(self, begun: Path, shared: Shared) -> Shared:
        """Writes `share.json`, which counts itself; refuses what is too large."""
        text = json.dumps({"version": VERSION, **vars(shared)}, ensure_ascii=False)
        size = shared.bytes + len(text.encode())
        most = min(self.limits.one, self.limits.bytes)
        if size > most:
            raise GalleryError(
                "too_large", f"This vamp takes {size / 1e6:.1f} MB and at most {most / 1e6:.1f} MB can be shared: "
                "share fewer takes or a shorter clip.", size=f"{size / 1e6:.1f}", most=f"{most / 1e6:.1f}",
            )  # fmt: skip
        shared = Shared(**{**vars(shared), "bytes": size})
        (begun / RECORD).write_text(json.dumps({"version": VERSION, **vars(shared)}, ensure_ascii=False), encoding="utf-8")
        return shared

    def _publish(self, begun: Path, shared: Shared) -> None:
        """Makes room, and moves a finished folder to where it is seen."""
        for path in [*begun.iterdir(), begun]:
            _flush(path)
        with self._lock:
            self.prune(1, shared.bytes)
            os.rename(begun, self.vamps / shared.id)
            _flush(self.vamps)
            row = self._row(shared.id)
            if row is not None:
                with contextlib.suppress(sqlite3.Error):  # a full disk: the folder is there, and the index finds it later
                    self.index.add(row)

    # ---- reading ------------------------------------------------------------------------------------------------------

    def get(self, id: str) -> Shared:
        """The vamp with this id, which may be any text.

        Raises:
            NotShared: there is none, or none any more.
        """
        shared = self._read(id) if isinstance(id, str) and ID.fullmatch(id) else None
        if shared is None or self._is_old(shared.created):
            raise NotShared("There is no such vamp: its link is wrong, or it was deleted.")
        return shared

    def path_of(self, id: str, name: str) -> Path:
        """Where a file of a vamp lies, if it is one that may be given out.

        Raises:
            NotShared: no such vamp, or no such file.
        """
        shared = self.get(id)
        if name not in shared.files:
            raise NotShared("This vamp has no such file.")
        return self.vamps / shared.id / name

    def settings(self, id: str) -> dict[str, Any]:
        """What stands in its `vamp.json`.

        Raises:
            NotShared: there is none, or it is damaged.
        """
        try:
            return read_settings(self.vamps / self.get(id).id)
        except ValueError as error:
            raise NotShared(str(error)) from error

    def read(self, id: str) -> Vamp:
        """The whole vamp.

        Raises:
            NotShared: there is none, it is damaged, or its source is private.
        """
        try:
            return read_bundle(self.vamps / self.get(id).id)
        except ValueError as error:
            raise NotShared(str(error)) from error

    def children(self, id: str) -> list[Shared]:
        """The shared vamps that came from this one, oldest first."""
        return list(self._existing(self.index.children(id)))

    def of_owner(self, owner: str) -> list[Shared]:
        """What somebody with this cookie has shared, newest first."""
        return list(self._existing(self.index.of_owner(_hash(owner)))) if owner else []

    def _existing(self, ids: list[str]) -> Iterator[Shared]:
        for id in ids:
            with contextlib.suppress(NotShared):
                yield self.get(id)

    # ---- deleting -----------------------------------------------------------------------------------------------------

    def is_owner(self, shared: Shared, owner: str) -> bool:
        """Whether a cookie is the owner's."""
        return bool(owner and shared.owner) and hmac.compare_digest(shared.owner, _hash(owner))

    def delete(self, id: str, *, secret: str = "", owner: str = "") -> None:
        """Deletes a vamp for who has the secret of its delete link or its owner's cookie.

        Raises:
            NotShared: there is none.
            GalleryError: neither fits.
        """
        shared = self.get(id)
        knows = bool(secret) and hmac.compare_digest(shared.secret, _hash(secret))
        if not (knows or self.is_owner(shared, owner)):
            raise GalleryError("not_yours", "Only who shared this vamp can delete it: use the delete link.")
        self.remove(id)

    def remove(self, id: str) -> None:
        """Deletes a vamp, whoever asks: out of sight at once, then off the disk. Nothing happens if there is none."""
        gone = self._gone / f"{id}-{secrets.token_hex(4)}"
        self.before_delete(id)
        with self._lock, contextlib.suppress(FileNotFoundError):
            os.rename(self.vamps / id, gone)
        shutil.rmtree(gone, ignore_errors=True)
        # On a full disk the index may have to wait: it looks at the folders before its next answer.
        with contextlib.suppress(sqlite3.Error):
            self.index.remove(id)
        self.on_delete(id)

    def prune(self, vamps: int = 0, bytes: int = 0) -> None:
        """Deletes the oldest until none is too old, and so many vamps and bytes more do not go beyond the limits."""
        with self._lock:
            while True:
                count, held = self.index.totals()
                fits = count + vamps <= self.limits.vamps and held + bytes <= self.limits.bytes
                first = self.index.oldest()
                if not first or (fits and not self._is_old(first[0][1])):
                    return
                self.remove(first[0][0])

    def sweep(self) -> None:
        """Deletes what is too old or too much, and what was left behind where the program was killed."""
        now = time.time()
        for path in [*self._new.iterdir(), *self._gone.iterdir()]:
            with contextlib.suppress(OSError):
                if path.parent == self._gone or now - path.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
        self.prune()

    def _is_old(self, created: float) -> bool:
        return bool(self.limits.days) and self._clock() - created > self.limits.days * 86_400

    # ---- folders ------------------------------------------------------------------------------------------------------

    def _stamps(self) -> Iterator[tuple[str, int]]:
        with os.scandir(self.vamps) as entries:
            for entry in entries:
                if ID.fullmatch(entry.name):
                    with contextlib.suppress(OSError):
                        yield entry.name, (self.vamps / entry.name / RECORD).stat().st_mtime_ns

    def _row(self, id: str) -> Row | None:
        shared = self._read(id)
        try:
            stamp = (self.vamps / id / RECORD).stat().st_mtime_ns
        except OSError:
            return None
        return shared and Row(id, stamp, shared.created, shared.bytes, shared.owner, shared.parent)

    def _read(self, id: str) -> Shared | None:
        """The record of a folder; None where there is none or it is damaged."""
        try:
            found = json.loads((self.vamps / id / RECORD).read_text(encoding="utf-8"))
            if found.pop("version") != VERSION or found["id"] != id:
                return None
            shared = Shared(**{**found, "files": tuple(_plain(name) for name in found["files"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        fits = all(isinstance(value, str) for value in (shared.title, shared.note, shared.parent, shared.owner, shared.secret))
        numbers = (int, float)
        fits = fits and isinstance(shared.created, numbers) and isinstance(shared.bytes, int) and isinstance(shared.page, dict)
        return shared if fits else None


def new_id() -> str:
    """128 random bits as 26 small letters and digits, which every file system and address takes."""
    return base64.b32encode(secrets.token_bytes(16)).decode("ascii").rstrip("=").lower()


def _text(given: str, longest: int, reason: str) -> str:
    """Plain text on one line or, for a note, several; without control characters.

    Raises:
        GalleryError: it is too long.
    """
    kept = (char for char in BIDI.sub("", str(given)) if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Cn"))
    lines = [" ".join(line.split()) for line in "".join(kept).strip().split("\n")]
    text = "\n".join(lines) if reason == "note" else " ".join(" ".join(lines).split())
    if len(text) > longest:
        sentence = f"The {reason} has {len(text)} characters: use at most {longest}."
        raise GalleryError(reason, sentence, n=len(text), most=longest)
    return text


def _plain(name: str) -> str:
    if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name) or name == RECORD:
        raise ValueError(f"{name!r} is no name for a file of a shared vamp.")
    return name


def _hash(secret: str) -> str:
    """SHA-256 in hexadecimal: what it is made of has 128 random bits, so nothing slower is needed. "" of ""."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest() if secret else ""


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _flush(path: Path) -> None:
    """Makes a file or a folder's list of names survive a power failure, where the system can."""
    if path.is_dir() and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
