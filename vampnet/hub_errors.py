"""What can go wrong between this program and the Hugging Face Hub: one class and one sentence for each."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import Any

from vampnet.sentences import Sentence


class ModelUnavailable(FileNotFoundError):
    """A model cannot be had; the message is one sentence that says what to do."""


class HubUnreachable(ModelUnavailable):
    """There is no network, or what answers is not a working hub."""


class NotCached(ModelUnavailable):
    """HF_HUB_OFFLINE forbids to ask the hub, and the cache does not hold the files."""


class RepoMissing(ModelUnavailable):
    """The hub has no such repository."""


class RevisionMissing(ModelUnavailable):
    """The repository has no such branch, tag or commit."""


class FileMissing(ModelUnavailable):
    """The repository or folder lacks a file of the model."""


class AccessDenied(ModelUnavailable):
    """The repository is private, or its conditions have not been accepted, or the token is wrong."""


class Damaged(ModelUnavailable):
    """A file is not the one that the hub's checksum is of; it has been deleted."""


class CacheUnwritable(ModelUnavailable):
    """The disk is full, or the cache's folder cannot be written."""


def endpoint() -> str:
    """Address of the hub: https://huggingface.co, or what HF_ENDPOINT says."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def transport_errors() -> tuple[type[Exception], ...]:
    """What the HTTP library raises where there is no answer; which library it is depends on huggingface_hub's version."""
    modules = [sys.modules[name] for name in ("httpx2", "httpx") if name in sys.modules]
    names = ("HTTPError", "InvalidURL", "StreamError")
    return (ConnectionError, TimeoutError, *(getattr(module, name) for module in modules for name in names))


def _refused(error: Any, what: str, revision: str, file: str) -> ModelUnavailable:
    """The sentence for an answer of the hub that says no."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    status = error.response.status_code if error.response is not None else 0
    page = f"{endpoint()}/{what}"
    if isinstance(error, GatedRepoError):
        return AccessDenied(Sentence(
            "The conditions of '{what}' must be accepted first: do so at {page}, then run 'hf auth login'.", what=what,
            page=page,
        ))  # fmt: skip
    if isinstance(error, RevisionNotFoundError):
        return RevisionMissing(Sentence(
            "'{what}' has no revision '{revision}': look for its branches and tags at {page}/tree/main.", what=what,
            revision=revision, page=page,
        ))  # fmt: skip
    if isinstance(error, EntryNotFoundError):
        return FileMissing(
            Sentence("'{what}' has no file {file}: it is not a model that this version can load.", what=what, file=file)
        )
    if status in (401, 403):
        if get_token():
            return AccessDenied(Sentence(
                "Your token gives no access to '{what}', if it is there: log in again with 'hf auth login'.", what=what,
            ))  # fmt: skip
        return AccessDenied(Sentence(
            "There is no repository '{what}' that can be read without a token: check the name, or, if it is private, "
            "log in with 'hf auth login' or set HF_TOKEN.", what=what,
        ))  # fmt: skip
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return RepoMissing(Sentence(
            "The hub has no model repository '{what}': check the name, or your token if it is private.", what=what,
        ))  # fmt: skip
    return HubUnreachable(Sentence(
        "The hub ({hub}) answers '{what}' with error {status}: try again later.", hub=endpoint(), what=what, status=status,
    ))  # fmt: skip


@contextlib.contextmanager
def explained(what: str, revision: str, file: str = "") -> Iterator[None]:
    """Turns what goes wrong inside into a `ModelUnavailable` of one sentence."""
    from huggingface_hub import constants
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    goal = Sentence("{file} of '{what}'", file=file, what=what) if file else f"'{what}'"
    try:
        yield
    except ModelUnavailable:
        raise
    except OfflineModeIsEnabled as error:
        raise not_cached(what) from error
    except HfHubHTTPError as error:
        raise _refused(error, what, revision, file) from error
    except (FileMetadataError, LookupError, TypeError, ValueError) as error:
        raise HubUnreachable(Sentence(
            "{hub} does not answer as a hub does: check HF_ENDPOINT, and whether the network asks for a log-in page.",
            hub=endpoint(),
        )) from error  # fmt: skip
    except (*transport_errors(), LocalEntryNotFoundError) as error:
        raise HubUnreachable(Sentence(
            "The hub ({hub}) cannot be reached, and {goal} is not on this computer: check the connection and try "
            "again; the bundled model 'mini' needs no network.", hub=endpoint(), goal=goal,
        )) from error  # fmt: skip
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        reason = Sentence("is full") if full else Sentence("cannot be used ({reason})", reason=error.strerror or str(error))
        raise CacheUnwritable(Sentence(
            "The folder for downloads, {folder}, {reason}: make room there, or set HF_HOME to another folder.",
            folder=constants.HF_HUB_CACHE, reason=reason,
        )) from error  # fmt: skip


def not_cached(what: str) -> NotCached:
    """The error for something that the cache does not hold while HF_HUB_OFFLINE is set."""
    return NotCached(Sentence(
        "'{what}' is not on this computer and HF_HUB_OFFLINE is set: unset it to download, or use the bundled model 'mini'.",
        what=what,
    ))  # fmt: skip
