"""Where the gallery lies: a folder, and if wanted a dataset repository of the Hugging Face Hub that keeps a copy of it."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vampnet.gallery_index import ID, RECORD, Limits

if TYPE_CHECKING:
    from vampnet.gallery import Gallery

FOLDER_VARIABLE = "VAMPNET_GALLERY"
REPO_VARIABLE = "VAMPNET_GALLERY_REPO"
SPACE_DISK = Path("/data")
EVERY_MINUTES = 5
log = logging.getLogger(__name__)


def default_folder() -> Path:
    """`VAMPNET_GALLERY` if it is set, on a Space its persistent disk if there is one, else the user's folder for data."""
    if given := os.environ.get(FOLDER_VARIABLE):
        return Path(given)
    if "SPACE_ID" in os.environ and os.access(SPACE_DISK, os.W_OK):
        return SPACE_DISK / "vampnet" / "gallery"
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "vampnet" / "gallery"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `open_gallery`. Each but the first can be set by an environment variable too, as a Space does."""
    plain, group = Limits(), parser.add_argument_group("links to shared vamps")
    group.add_argument(
        "--share-links", action=argparse.BooleanOptionalAction, default=True, help="let visitors share vamps by link (yes)"
    )
    group.add_argument("--gallery", type=Path, default=None, help=f"folder for them ({FOLDER_VARIABLE}, or {default_folder()})")
    group.add_argument(
        "--gallery-repo", default=os.environ.get(REPO_VARIABLE) or None,
        help=f"dataset repository of the hub that keeps a private copy ({REPO_VARIABLE}, or none)",
    )  # fmt: skip
    for name, kind, value, words in (
        ("vamps", int, plain.vamps, "how many are kept; the oldest go first"),
        ("gb", float, plain.bytes / 1e9, "how many gigabytes of them"),
        ("days", float, plain.days, "how long each is kept; 0 is for ever"),
        ("hourly", int, plain.hourly, "how many a visitor may share an hour; 0 is no limit"),
        # A Space is behind one, which is all that is known of who asks there.
        ("proxies", int, int("SPACE_ID" in os.environ), "how many of your own proxies visitors come through"),
    ):
        variable = f"{FOLDER_VARIABLE}_{name.upper()}"
        # As text, so that a bad value of a variable is refused like that of an option.
        given = os.environ.get(variable) or str(value)
        group.add_argument(f"--gallery-{name}", type=_positive(kind), default=given, help=f"{words} ({variable}, or {value:g})")


def _positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        value = kind(text)
        if not 0 <= value < 1e9:
            raise ValueError(text)
        return value

    return number


def open_gallery(options: argparse.Namespace) -> Gallery | None:
    """The gallery that the options of `add_options` ask for; None if there is to be none, or its folder cannot be used."""
    if not options.share_links:
        return None
    from vampnet.gallery import Gallery  # with torch, which `--help` need not wait for

    folder = options.gallery or default_folder()
    limits = Limits(
        options.gallery_vamps, round(options.gallery_gb * 1e9), days=options.gallery_days,
        hourly=options.gallery_hourly, proxies=options.gallery_proxies,
    )  # fmt: skip
    try:
        gallery = Gallery(folder, limits)
    except OSError as error:
        log.warning("Vamps cannot be shared: the folder %s cannot be used (%s).", folder, error.strerror)
        return None
    if options.gallery_repo:
        copy = HubCopy(gallery, options.gallery_repo)
        threading.Thread(target=_copy_quietly, args=(copy,), daemon=True, name="gallery-copy").start()
    return gallery


def _copy_quietly(copy: HubCopy) -> None:
    try:
        copy.start()
    except Exception as error:  # of a network or an account: links work without the copy
        log.warning("The gallery has no copy in %s (%s: %s).", copy.repo, type(error).__name__, error)


class HubCopy:
    """A copy of a gallery in a private dataset repository, which a new disk is filled from.

    What is to be deleted from the gallery is written down in `forgotten` until the repository has confirmed that it is gone
    there too: neither a failure of a network nor a kill brings a deleted vamp back.

    Args:
        gallery: what is copied; from now on this hears of what is deleted.
        repo: "owner/name", made if it is missing.
        every: minutes between two commits.
        scheduler: `huggingface_hub.CommitScheduler`, or what stands in for it.
        api: `huggingface_hub.HfApi()`, or what stands in for it.
    """

    def __init__(
        self, gallery: Gallery, repo: str, every: float = EVERY_MINUTES, scheduler: Any = None, api: Any = None
    ) -> None:
        self.gallery, self.repo, self.every = gallery, repo, every
        self.scheduler, self.api = scheduler, api
        self.forgotten = gallery.root / ".forgotten"
        self.forgotten.mkdir(exist_ok=True, mode=0o700)
        self._started = False
        gallery.before_delete, gallery.on_delete = self.note, self.forget

    def start(self) -> None:
        """Brings what only the repository has, and begins to copy.

        Raises:
            PermissionError: the repository is not private; nothing was copied.
            Exception: what the hub's client raises where there is no network or no permission.
        """
        for id in self._pending():
            if (self.gallery.vamps / id).exists():  # killed between the note and the deletion
                self.gallery.remove(id)
        if self.scheduler is None or self.api is None:
            import huggingface_hub

            self.scheduler = self.scheduler or huggingface_hub.CommitScheduler
            self.api = self.api or huggingface_hub.HfApi()
        self.api.create_repo(repo_id=self.repo, repo_type="dataset", private=True, exist_ok=True)
        # One that exists stays as it is, and would tell everybody the ids.
        if self.api.repo_info(repo_id=self.repo, repo_type="dataset").private is not True:
            raise PermissionError("everybody may read it: make it private in its settings on the hub, or name another one")
        self.fetch()
        # What a gallery deletes while it is opened goes unheard, and the copy may hold more than the limits allow by now.
        self.gallery.prune()
        self.scheduler = self.scheduler(
            repo_id=self.repo, repo_type="dataset", private=True, folder_path=self.gallery.vamps, path_in_repo="vamps",
            every=self.every, hf_api=self.api,
        )  # fmt: skip
        self._started = True
        for id in self._pending():
            self.api.run_as_future(self._forget, id)

    def fetch(self) -> int:
        """Brings the vamps that only the repository has; returns how many. One that is not whole is left out."""
        missing = [id for id in sorted(self._copied()) if not (self.gallery.vamps / id).exists()]
        # Asked for last: what is deleted just now is noted before it is missing.
        pending = self._pending()
        missing = [id for id in missing if id not in pending]
        if not missing:
            return 0
        begun, count = self.gallery.root / ".new" / "from-the-hub", 0
        self.api.snapshot_download(
            repo_id=self.repo, repo_type="dataset", local_dir=begun, allow_patterns=[f"vamps/{id}/*" for id in missing]
        )
        for id in missing:
            folder = begun / "vamps" / id
            if (folder / RECORD).is_file():
                os.rename(folder, self.gallery.vamps / id)
                count += 1
        shutil.rmtree(begun, ignore_errors=True)
        return count

    def note(self, id: str) -> None:
        """Writes down that a vamp is to be deleted, before it is: `fetch` leaves it where it is from now on."""
        with contextlib.suppress(OSError):  # a full disk: there is room when it is deleted
            (self.forgotten / id).touch()

    def forget(self, id: str) -> None:
        """Deletes a vamp from the repository and its history, in the background and after the commit that may be under way.

        Its folder is gone by now: the commit after that one would bring it back.
        """
        self.note(id)
        if self._started:
            self.api.run_as_future(self._forget, id)

    def _forget(self, id: str) -> None:
        try:
            if id in self._copied():  # it may not have been copied yet
                self.api.delete_folder(path_in_repo=f"vamps/{id}", repo_id=self.repo, repo_type="dataset")
                self.api.super_squash_history(repo_id=self.repo, repo_type="dataset")
            (self.forgotten / id).unlink(missing_ok=True)
        except Exception as error:
            log.warning("%s is deleted from %s when it can next be reached (%s).", id, self.repo, type(error).__name__)

    def _copied(self) -> set[str]:
        """Ids of which the repository has anything."""
        names = (path.split("/") for path in self.api.list_repo_files(repo_id=self.repo, repo_type="dataset"))
        return {parts[1] for parts in names if len(parts) == 3 and parts[0] == "vamps" and ID.fullmatch(parts[1])}

    def _pending(self) -> set[str]:
        """Ids that were deleted here, which the repository has not confirmed yet."""
        return {path.name for path in self.forgotten.iterdir() if ID.fullmatch(path.name)}
