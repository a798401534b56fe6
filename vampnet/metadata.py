"""The settings inside an exported sound file: what made it, so that a file that is dropped back restores them.

They travel as JSON in the comment of the file: Vorbis comments in FLAC and OGG, LIST/INFO in WAV, which every player shows or
skips. libsndfile writes them whole but reads only 2 kB of a WAV file's, so reading looks at the bytes itself. A file that comes
back may hold anything: sizes are limited, only JSON is parsed, every value is checked by `Prompt` and `Sampling`, and what is
not ours or not sound is nothing (None), never an error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from vampnet import __version__, packed_mask
from vampnet.config import MOST, Prompt, Sampling
from vampnet.packed_mask import PackedMask

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.vamp import Vamp

VERSION = 1
"""Of the schema. A reader takes older ones; from a newer one it takes what it knows."""
PROGRAM = f"VampNet {__version__}"
KINDS = ("take", "comp", "journey")
MAX_BYTES = 64_000
"""A comment that is longer is not ours: ours take about 1 kB, and with a painted mask at most `packed_mask.MAX_TEXT` more."""
MAX_SCANNED = 1_000_000
"""Bytes of blocks, chunks or pages that are looked through before the search ends."""
MAX_BLOCKS = 200
MAX_NAME = 200


@dataclass(frozen=True)
class Origin:
    """What a file says about how it was made, checked.

    Attributes:
        prompt, sampling, seed, takes, loop, bars: as in `Vamp`; `takes` is how many there were, `bars` a number, "all" or None.
        kind: "take", "comp" (made of several takes) or "journey" (rounds joined).
        take: its number from 1; of a journey the number of rounds.
        model: name of the checkpoint.
        source: name of the source, for people.
        source_hash: `hash_of` the source, as it was vamped; "" if it is not known.
        program: that wrote the file.
        extend: seconds (before, after) that were added to the source.
        painted: the mask was given and did not come from the prompt.
        mask: that mask; None where none was given, or it is too large to travel.
    """

    prompt: Prompt
    sampling: Sampling
    seed: int = 0
    takes: int = 1
    loop: bool = False
    bars: int | str | None = None
    kind: str = "take"
    take: int = 1
    model: str = ""
    source: str = ""
    source_hash: str = ""
    program: str = PROGRAM
    extend: tuple[float, float] = (0.0, 0.0)
    painted: bool = False
    mask: PackedMask | None = None


def hash_of(signal: AudioSignal) -> str:
    """32 hex digits that name a clip (1, C, N): of the SHA-256 of its shape, rate and samples in steps of 2 ** -24."""
    samples = signal.audio_data[0].detach().cpu()
    found = hashlib.sha256(f"{tuple(samples.shape)} {int(signal.sample_rate)}".encode())
    # Channel after channel, in pieces: at once it would take eight times the memory of the sound.
    for channel in samples:
        for piece in channel.split(1 << 18):
            found.update((piece.double() * 2**24).round().to(torch.int64).numpy().astype("<i8").tobytes())
    return found.hexdigest()[:32]


def origin_of(vamp: Vamp, take: int = 1, source: str = "", source_hash: str | None = None) -> Origin:
    """What a take of a vamp is to say about itself.

    Args:
        vamp: whose settings are told.
        take: its number from 1.
        source: name of the source; by default that of the vamp's file.
        source_hash: if it is known already; None = found from the vamp's source.
    """
    path = vamp.source.path_to_file
    found = hash_of(vamp.source) if source_hash is None else source_hash
    return Origin(
        vamp.prompt, vamp.sampling, vamp.seed, len(vamp.takes), vamp.loop, vamp.bars, "take", take, vamp.model,
        source or (Path(path).stem if path else ""), found, extend=vamp.extend, painted=vamp.painted,
        mask=PackedMask.of(vamp.mask) if vamp.painted else None,
    )  # fmt: skip


def write(origin: Origin) -> str:
    """The comment for `audio.save`: JSON in ASCII, since what players take INFO strings for differs."""
    values = {
        "vampnet": VERSION, "program": origin.program, "kind": origin.kind, "take": origin.take,
        "model": origin.model[:MAX_NAME], "source": {"name": origin.source[:MAX_NAME], "hash": origin.source_hash},
        "prompt": dataclasses.asdict(origin.prompt), "sampling": dataclasses.asdict(origin.sampling), "seed": origin.seed,
        "takes": origin.takes, "loop": origin.loop, "bars": origin.bars, "extend": list(origin.extend),
        "painted": origin.painted,
    }  # fmt: skip
    mask = None if origin.mask is None else origin.mask.write()
    if mask is not None:
        values["mask"] = mask
    return json.dumps(values, separators=(",", ":"))


def read(path: str | Path) -> Origin | None:
    """What a FLAC, WAV or OGG file says about how it was made; None if it says nothing, or nothing that can be used."""
    try:
        with open(path, "rb") as file:
            for comment in _comments(file):
                origin = parse(comment)
                if origin is not None:
                    return origin
    except (OSError, ValueError, struct.error):
        pass
    return None


def parse(comment: bytes) -> Origin | None:
    """The checked values of a comment; None if it is not one of ours or holds values that no vamp could have had."""
    comment = comment.rstrip(b"\x00").strip()
    if len(comment) > MAX_BYTES or not comment.startswith(b"{"):
        return None
    try:
        values = json.loads(comment.decode("utf-8"), parse_constant=_refuse)
        if not isinstance(values, dict) or read_whole(values["vampnet"], 1) < 1:
            return None
        source = values.get("source") if isinstance(values.get("source"), dict) else {}
        kind = values.get("kind", "take")
        return Origin(
            _options(Prompt, values["prompt"]), _options(Sampling, values["sampling"]), read_whole(values["seed"], 0),
            read_whole(values.get("takes", 1), 1), _flag(values.get("loop", False)), read_bars(values.get("bars")),
            kind if kind in KINDS else "take", read_whole(values.get("take", 1), 1), _text(values.get("model")),
            _text(source.get("name")), _hash(source.get("hash")), _text(values.get("program")),
            read_seconds(values.get("extend", [0, 0])), _flag(values.get("painted", False)),
            packed_mask.read(values.get("mask")),
        )  # fmt: skip
    # Deep nesting ends in RecursionError, a lone surrogate in a ValueError.
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


# ---------------------------------------------------------------------------------------------------------------- checks


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number.")


def _options(kind: type, values: Any) -> Any:
    """A `Prompt` or `Sampling` of the fields that it knows."""
    if not isinstance(values, dict):
        raise ValueError("Options are an object.")
    known = {field.name for field in dataclasses.fields(kind)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known}
    for name, value in given.items():
        numbers = value if name == "region" and isinstance(value, tuple) else (value,)
        if name == "region" and value is None:
            continue
        if isinstance(getattr(kind, name, None), bool):
            _flag(value)
            continue
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and abs(n) <= MOST for n in numbers):
            raise ValueError(f"{name} is no number.")
    return kind.of(given)


def read_whole(value: Any, low: int) -> int:
    """A whole number from `low` to `MOST`; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MOST:
        raise ValueError("A whole number was expected.")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("A yes or no was expected.")
    return value


def read_bars(value: Any) -> int | str | None:
    """How many bars were asked for, "all" or None; ValueError for anything else."""
    return value if value in (None, "all") else read_whole(value, 1)


def read_seconds(value: Any) -> tuple[float, float]:
    """Seconds (before, after), each from 0 to `MOST`; ValueError or TypeError for anything else."""
    before, after = value
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) and 0 <= n <= MOST for n in (before, after)):
        raise ValueError("Seconds before and after were expected.")
    return float(before), float(after)


def _text(value: Any) -> str:
    """A name for people, without what could break a line; nothing else is ever done with it."""
    text = value[:MAX_NAME] if isinstance(value, str) else ""
    return "".join(c for c in text if c.isprintable()).strip()


def _hash(value: Any) -> str:
    fits = isinstance(value, str) and len(value) == 32 and all(c in "0123456789abcdef" for c in value)
    return value if fits else ""


# ----------------------------------------------------------------------------------------------------------------- bytes


def _comments(file: BinaryIO) -> Iterator[bytes]:
    """The comments of a file, by what its first bytes say that it is."""
    head = file.read(12)
    if head[:4] == b"fLaC":
        file.seek(4)
        yield from _flac(file)
    elif head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        yield from _wav(file)
    elif head[:4] == b"OggS":
        file.seek(0)
        yield from _ogg(file)


def _flac(file: BinaryIO) -> Iterator[bytes]:
    """Metadata blocks: a byte of kind (its top bit: the last), three of size; kind 4 holds the Vorbis comments."""
    scanned = 0
    for _ in range(MAX_BLOCKS):
        head = file.read(4)
        if len(head) < 4:
            return
        size = int.from_bytes(head[1:], "big")
        if head[0] & 127 == 4 and size <= MAX_SCANNED:
            yield from _vorbis(file.read(size))
        else:
            file.seek(size, 1)
        scanned += size
        if head[0] & 128 or scanned > 16 * MAX_SCANNED:
            return


def _wav(file: BinaryIO) -> Iterator[bytes]:
    """Chunks: four letters and a size, padded to even; in a LIST of INFO, ICMT holds the comment."""
    for _ in range(MAX_BLOCKS):
        head = file.read(8)
        if len(head) < 8:
            return
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"LIST" and 4 <= size <= MAX_SCANNED:
            body = file.read(size)
            file.seek(size & 1, 1)
            if body[:4] == b"INFO":
                yield from _info(body)
        else:
            file.seek(size + (size & 1), 1)


def _info(body: bytes) -> Iterator[bytes]:
    at = 4
    while at + 8 <= len(body):
        size = struct.unpack_from("<I", body, at + 4)[0]
        if body[at : at + 4] == b"ICMT":
            yield body[at + 8 : at + 8 + size]
        at += 8 + size + (size & 1)


def _ogg(file: BinaryIO) -> Iterator[bytes]:
    """Pages of one stream: the second packet of a Vorbis or Opus stream holds the comments."""
    packet, packets, stream, scanned = bytearray(), 0, None, 0
    while scanned < MAX_SCANNED:
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            return
        sizes = file.read(head[26])
        body = file.read(sum(sizes))
        scanned += 27 + len(sizes) + len(body)
        stream = head[14:18] if stream is None else stream
        if head[14:18] != stream:
            continue
        at = 0
        for size in sizes:
            packet += body[at : at + size]
            at += size
            # A segment that is not full ends its packet.
            if size < 255:
                packets += 1
                if packets == 2:
                    for start in (b"\x03vorbis", b"OpusTags"):
                        if packet.startswith(start):
                            yield from _vorbis(bytes(packet[len(start) :]))
                    return
                packet.clear()


def _vorbis(data: bytes) -> Iterator[bytes]:
    """Vorbis comments: a vendor, a count, and strings "NAME=value", each with its size before it, little-endian."""
    vendor = struct.unpack_from("<I", data)[0]
    count = struct.unpack_from("<I", data, 4 + vendor)[0]
    at = 8 + vendor
    for _ in range(min(count, 10_000)):
        size = struct.unpack_from("<I", data, at)[0]
        name, _, value = data[at + 4 : at + 4 + size].partition(b"=")
        if name.lower() in (b"comment", b"description"):
            yield value
        at += 4 + size
