"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from soundfile import SoundFile


@contextlib.contextmanager
def whole_file(path: str | Path, alone: bool = False) -> Iterator[Path]:
    """The path of a file beside `path` to write; it takes the place of `path` at the end, or goes where that fails.

    Args:
        path: of the file.
        alone: nobody else writes it at the same time. What a kill leaves behind is then written over by the next one.

    Raises:
        OSError: it cannot be written, or `path` is there and no plain file: a device would be replaced by it. It names `path`.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()  # what it points to is meant, and the link stays
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "this is a device and no file, name another one", str(path))
    part = path.with_name(f".{path.name if alone else secrets.token_hex(8)}.part")
    try:
        yield part
        with contextlib.suppress(OSError):
            shutil.copymode(path, part)  # of the file that was there
        os.replace(part, path)
    except OSError as error:
        # Nobody has heard of the file beside it.
        if error.filename in (None, str(part), part) and error.errno is not None:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def fitting(name: str, most: int = 200) -> str:
    """A file's name cut to so many bytes, of which disks take 255: there is to be room for what comes behind it."""
    return os.fsencode(name)[:most].decode("utf-8", "ignore") if len(os.fsencode(name)) > most else name


class CheckedFile:
    """A file to write to that remembers what went wrong: libsndfile does not tell of a disk that is full at the very end."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def write(self, data: bytes) -> int:
        """Writes all of `data`, or remembers why not; returns how many bytes were written."""
        done, rest = 0, memoryview(data)
        try:
            while done < len(rest):
                done += self.file.write(rest[done:])
        except OSError as error:
            self.error = error
        return done


@contextlib.contextmanager
def whole_sound(path: str | Path, rate: int, channels: int, subtype: str, format: str, **options: Any) -> Iterator[SoundFile]:
    """A sound file to write that takes the place of `path` at the end, as of `whole_file`.

    Args:
        path: of the file.
        rate, channels, subtype, format, options: as of `soundfile.SoundFile`.

    Raises:
        OSError: as `whole_file`, or the disk is full.
        SoundFileError, AssertionError: what is written does not fit the format.
    """
    import soundfile

    with whole_file(path) as part, open(part, "w+b", buffering=0) as plain:
        handle = CheckedFile(plain)
        try:
            with soundfile.SoundFile(handle, "w", rate, channels, subtype, format=format, **options) as file:
                yield file
        except (soundfile.SoundFileError, AssertionError) as error:  # soundfile asserts that all was written
            if handle.error is not None:
                raise handle.error from error
            raise
        if handle.error is not None:
            raise handle.error


def write_json(values: Any, path: str | Path) -> None:
    """Writes plain values as JSON in UTF-8, names in their own letters. OSError as `whole_file`."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:  # a file's name that is not UTF-8
        data = json.dumps(values, indent=2).encode()
    with whole_file(path) as part:
        part.write_bytes(data + b"\n")


def seal(config: dict[str, Any], name: str, data: bytes) -> None:
    """Tells the checksum of a file that is written anew in the `config.json` of its folder, if that holds checksums."""
    if isinstance(config.get("sha256"), dict):
        config["sha256"][name] = hashlib.sha256(data).hexdigest()
