"""Reads checkpoints of TensorFlow without TensorFlow: a file of raw numbers and an index that says what lies where.

The index is a table of LevelDB: blocks of sorted keys, of which each says how much of the one before it keeps, then handles of
these blocks in a block of their own, then 48 bytes at the end that say where that one is. What a key stands for is a protocol
buffer (`BundleEntryProto`). Nothing in either file can run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import numpy as np

MAGIC = 0xDB4775248B80FB57
FOOTER = 48
TRAILER = 5
"""Bytes behind a block: how it is compressed, and a checksum."""
TYPES = {1: np.dtype("<f4"), 3: np.dtype("<i4"), 9: np.dtype("<i8")}
"""`DataType` of what is read; what is of another one is left out."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where what follows it begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _block(data: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the block that a handle (offset and size) names."""
    start, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    block = data[start : start + size]
    if len(data) < start + size + TRAILER or data[start + size] != 0:
        raise ValueError("a block of the index is compressed or not there")
    at, end, key = 0, size - 4 - 4 * struct.unpack_from("<I", block, size - 4)[0], b""
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + rest]
        at += rest + length
        yield key, block[at - length : at]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and contents of the fields of a protocol buffer."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield tag >> 3, message[at : at + size]
        at += size


def _shape(message: bytes) -> tuple[int, ...]:
    sizes = (dict(_fields(part)) for number, part in _fields(message) if number == 2)
    return tuple(int(size.get(1, 0)) for size in sizes)


def read_bundle(index: bytes, data: bytes) -> Mapping[str, np.ndarray]:
    """Tensors by name.

    Args:
        index: contents of the file `*.index`.
        data: contents of the only file of numbers, `*.data-00000-of-00001`.

    Returns:
        float32, int32 and int64 arrays in the shapes that the index gives.

    Raises:
        ValueError: these are no such files, or the data ends early; the sentence says which.
    """
    try:
        if len(index) < FOOTER or struct.unpack_from("<Q", index, len(index) - 8)[0] != MAGIC:
            raise ValueError("the index is no table of LevelDB")
        footer, at = index[-FOOTER:], 0
        for _ in range(2):  # past the handle of a block that is empty here
            _, at = _varint(footer, at)
        entries = (entry for _, handle in _block(index, footer[at:]) for entry in _block(index, handle))
        found = {}
        for key, value in entries:
            entry = dict(_fields(value))
            if key and entry.get(1) in TYPES:
                start, size = int(entry.get(4, 0)), int(entry.get(5, 0))
                shape, kind = _shape(entry.get(2, b"")), TYPES[entry[1]]
                if start + size > len(data) or size != kind.itemsize * int(np.prod(shape, dtype=np.int64)):
                    raise ValueError(f"'{key.decode()}' does not lie in the data as the index says")
                found[key.decode()] = np.frombuffer(data, kind, size // kind.itemsize, start).reshape(shape)
        return found
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise ValueError(f"the index cannot be read ({type(error).__name__})") from error
