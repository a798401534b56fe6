"""Files of models on the Hugging Face Hub: what a repository holds, what the cache holds, and downloads from one to the other.

The only module that calls huggingface_hub. Its settings are honoured (HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME, HF_HUB_CACHE,
HF_TOKEN), and files end up in its cache, where every other program finds them. The bytes are fetched here, since
`hf_hub_download` starts a file from nothing after each failure and does not compare it with its checksum: here a file that
broke off goes on where it stopped, also in another run, and none enters the cache unchecked.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vampnet.hub_errors import Damaged, HubUnreachable, explained, transport_errors
from vampnet.sentences import Sentence

OnDownload = Callable[[str, int, int], None]
"""Called with (file name, bytes there, bytes in all) while a file is fetched; it may raise `CancelledError` to stop."""

RETRIES = 5
"""How often in a row a connection may break without a new byte before a download is given up."""
RETRY_SECONDS = 1.0
REPORT_SECONDS = 0.1
"""The least time between two calls of `OnDownload` for one file; the first and the last always come."""
LISTING_SECONDS = 10.0
"""How long the hub may take to say what a repository holds."""

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./+-]*[A-Za-z0-9_+-])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Listing:
    """What a repository holds at one commit.

    Attributes:
        repo: "owner/repo".
        revision: as it was asked for: a branch, a tag or a commit.
        commit: 40 hex digits.
        sizes: {file name: bytes, None where the hub does not say}.
        sha256: {file name: hex digest}, for those the hub gives one.
    """

    repo: str
    revision: str
    commit: str
    sizes: dict[str, int | None]
    sha256: dict[str, str]


def is_repo(text: str) -> bool:
    """Whether a text can be the name of a repository: "owner/repo"."""
    return bool(_REPO.fullmatch(text)) and len(text) <= 96 and "--" not in text and ".." not in text


def check_revision(revision: str) -> str:
    """Gives back a revision that names a branch, a tag or a commit, and nothing outside the cache's folder.

    Raises:
        ValueError: it cannot be one.
    """
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision.endswith(".lock"):
        raise ValueError(Sentence(
            "'{revision}' cannot be a revision: name a branch, a tag or a commit of the repository.", revision=revision,
        ))  # fmt: skip
    return revision


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


# ------------------------------------------------------------------------------------------------------------------ cache


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _storage(repo: str) -> Path:
    return _cache() / f"models--{repo.replace('/', '--')}"


def snapshot(repo: str, revision: str = "main") -> Path | None:
    """The cache's folder of a repository at a revision, None where there is none. It may lack files. No network."""
    storage = _storage(repo)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        commit = (storage / "refs" / revision).read_text(encoding="utf-8").strip()
        if _COMMIT.fullmatch(commit) and (storage / "snapshots" / commit).is_dir():
            return storage / "snapshots" / commit
    folder = storage / "snapshots" / revision
    return folder if _COMMIT.fullmatch(revision) and folder.is_dir() else None


def cached_snapshots() -> list[tuple[str, Path]]:
    """Everything that the cache holds of model repositories: (name, folder), sorted by name; the name is "owner/repo" for the
    branch main and "owner/repo@revision" for others. No network."""
    found = {}
    for storage in sorted(_cache().glob("models--*--*")):
        repo = storage.name.removeprefix("models--").replace("--", "/")
        folders, refs = storage / "snapshots", storage / "refs"
        if not is_repo(repo) or not folders.is_dir():
            continue
        revisions = [path.relative_to(refs).as_posix() for path in refs.rglob("*") if path.is_file()] if refs.is_dir() else []
        named = {revision: snapshot(repo, revision) for revision in revisions}
        commits = (path for path in folders.iterdir() if path.is_dir())  # a Finder leaves files there
        named |= {path.name: path for path in commits if path not in named.values()}
        for revision, folder in named.items():
            if folder is not None:
                found[repo if revision == "main" else f"{repo}@{revision}"] = folder
    return sorted(found.items())


def discard_damaged(paths: Iterable[Path]) -> list[str]:
    """Deletes those of some cached files that differ from their checksums, which the cache names them by; returns their names.

    Files outside the cache, and those it holds no checksum of, stay.
    """
    damaged = []
    for path in paths:
        blob = path.resolve()
        if blob.parent.name == "blobs" and blob.is_relative_to(_cache().resolve()) and not _matches(blob, blob.name):
            path.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
            damaged.append(path.name)
    return damaged


def _matches(path: Path, digest: str) -> bool:
    """Whether a file has a digest: of 64 hex digits its SHA-256, of 40 its SHA-1 as git counts it. Others say nothing."""
    if re.fullmatch(r"[0-9a-f]{64}", digest):
        computed = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", digest):
        computed = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return True
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            computed.update(block)
    return computed.hexdigest() == digest


# --------------------------------------------------------------------------------------------------------------- download


def listing(repo: str, revision: str = "main", seconds: float = LISTING_SECONDS) -> Listing:
    """Asks the hub what a repository holds.

    Args:
        repo: "owner/repo".
        revision: a branch, a tag or a commit.
        seconds: how long it may take to answer.

    Raises:
        ModelUnavailable: there is no answer, or it is no.
    """
    from huggingface_hub import HfApi

    with explained(repo, revision):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=seconds)
        files = {file.rfilename: file for file in info.siblings or ()}
        if not _COMMIT.fullmatch(info.sha or ""):
            raise ValueError("no commit")
        sha256 = {name: file.lfs.sha256 for name, file in files.items() if file.lfs}
        return Listing(repo, revision, info.sha, {name: file.size for name, file in files.items()}, sha256)


def fetch(listed: Listing, names: Iterable[str], on_download: OnDownload | None = None) -> Path:
    """Brings files of a repository into the cache, those that are not there yet, and returns their folder there.

    What breaks off or is cancelled stays as `*.incomplete` and goes on from there when it is asked for again.

    Args:
        listed: from `listing`.
        names: of files, as the repository names them.
        on_download: see `OnDownload`; not called for files that are there.

    Raises:
        ModelUnavailable: a file cannot be had; its class says why.
        CancelledError: raised by `on_download`.
    """
    storage = _storage(listed.repo)
    for name in names:
        with explained(listed.repo, listed.revision, name):
            _fetch_file(listed, name, storage, on_download or (lambda file, done, total: None))
    if listed.revision != listed.commit:
        # Last, so that the revision goes on to mean the files it meant before until all of the new ones are there.
        with explained(listed.repo, listed.revision):
            path = storage / "refs" / check_revision(listed.revision)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(listed.commit, encoding="utf-8")
    return storage / "snapshots" / listed.commit


def _fetch_file(listed: Listing, name: str, storage: Path, on_download: OnDownload) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils import WeakFileLock

    if (storage / "snapshots" / listed.commit / name).is_file():
        return
    url = hf_hub_url(listed.repo, name, revision=listed.commit)
    metadata = get_hf_file_metadata(url)
    if not _ETAG.fullmatch(metadata.etag or ""):
        raise ValueError("no ETag")
    blob = storage / "blobs" / metadata.etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock = _cache() / ".locks" / storage.name / f"{metadata.etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    # The lock of huggingface_hub itself: two programs don't write one file.
    with WeakFileLock(lock):
        if not blob.exists():
            part = blob.with_name(f"{blob.name}.incomplete")
            size = metadata.size if metadata.size is not None else listed.sizes.get(name)
            _receive(url, part, size, name, on_download)
            if not all(_matches(part, digest) for digest in (listed.sha256.get(name, ""), metadata.etag)):
                part.unlink()
                raise Damaged(
                    Sentence("{name} of '{repo}' arrived damaged and was deleted: try again.", name=name, repo=listed.repo)
                )
            os.replace(part, blob)
    # The blob is there: this only enters it into the cache, as huggingface_hub does on this system.
    hf_hub_download(listed.repo, name, revision=listed.commit)


def _receive(url: str, part: Path, size: int | None, name: str, on_download: OnDownload) -> None:
    """Fetches what is missing of the file `part`, and goes on where it stopped when the connection breaks."""
    from huggingface_hub.errors import HfHubHTTPError

    if size is None:
        part.unlink(missing_ok=True)  # whether it is complete could not be seen
    failures, broken = 0, None
    while True:
        done = part.stat().st_size if part.exists() else 0
        if size is not None and done > size:
            part.unlink()
            done = 0
        if size is not None and done == size and size:
            return on_download(name, done, size)
        free = shutil.disk_usage(part.parent).free
        if size is not None and size - done > free:
            raise OSError(errno.ENOSPC, f"{name} needs {size - done} more bytes, {free} are free")
        if failures > RETRIES:
            part = Sentence("{done:,} of {size:,} bytes are here", done=done, size=size or 0)
            got = part if size else Sentence("its size is not known")
            raise HubUnreachable(
                Sentence("The connection broke while {name} came in ({got}): try again, it goes on there.", name=name, got=got)
            ) from broken
        on_download(name, done, size or 0)
        try:
            _stream(url, part, done, size, lambda now: on_download(name, now, size or 0))
            if size is None or part.stat().st_size >= size:
                return on_download(name, part.stat().st_size, part.stat().st_size)
        except HfHubHTTPError as error:
            status, broken = error.response.status_code, error
            if status == 416:
                part.unlink(missing_ok=True)
            elif status not in (408, 429) and status < 500:
                raise
        except transport_errors() as error:
            broken = error
        came = part.stat().st_size if part.exists() else 0
        failures = 0 if came > done else failures + 1
        time.sleep(RETRY_SECONDS)


def _stream(url: str, part: Path, done: int, size: int | None, report: Callable[[int], None]) -> None:
    """One request: appends to `part` from byte `done` on. A hub that does not know ranges makes it start from nothing."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    # The token goes to the hub alone: the HTTP library takes it off where the hub redirects to another host.
    with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        hf_raise_for_status(response)
        resumed = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        done, last = done if resumed else 0, time.monotonic()
        with open(part, "ab" if resumed else "wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() - last >= REPORT_SECONDS:
                    last = time.monotonic()
                    report(done)
                if size is not None and done > size:
                    return
