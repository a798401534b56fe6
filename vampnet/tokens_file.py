"""Tokens in a small file, so that the codec can be used as one: 10 bits a token and some 40 bytes around them.

Layout, little-endian: the header (`_HEADER`), the model's name in UTF-8, the tokens as 10-bit numbers, first bit first, step by
step and in each from level 0 on, zero bits up to a whole byte, and the CRC-32 of all that. Nothing in it is executed or
unpickled, and every number is checked before it is used.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vampnet import audio
from vampnet.config import BITS_PER_TOKEN
from vampnet.ring import whole_steps
from vampnet.whole_file import whole_file

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.pipeline import VampNet

MAGIC, VERSION = b"VNTK", 1
MAX_BYTES = 8_000_000
"""More than ten minutes of any codec here; a larger file is not opened."""
MAX_LEVELS = 64
# magic, version, loop, levels, bits a token, hop, sample rate, samples, steps, loudness in LUFS, codec, length of the name
_HEADER = struct.Struct("<4sBBBBHIIIf8sB")
_CRC = struct.Struct("<I")


class TokenFileError(ValueError):
    """A file of tokens that cannot be used; its message is one sentence for the person who brought it."""


@dataclass(frozen=True, eq=False)
class TokenFile:
    """What a file of tokens holds.

    Attributes:
        tokens: (1, K, T) int64 in 0..1023.
        sample_rate: Hz.
        hop: samples a time step.
        samples: exact length of the audio.
        lufs: its loudness.
        loop: the clip is a ring.
        codec_id: 16 hex digits, `VampNet.codec_id` of the codec that the tokens belong to.
        model: name of the model that wrote them, for people.
    """

    tokens: Tensor
    sample_rate: int
    hop: int
    samples: int
    lufs: float
    loop: bool
    codec_id: str
    model: str


def compress(model: VampNet, source: Any, loop: bool = False) -> TokenFile:
    """Audio -> tokens. They carry one channel: stereo is mixed along its principal axis.

    Args:
        model: whose codec is used.
        source: anything that `audio.load` takes.
        loop: the clip is a ring, and is to be decoded as one.

    Raises:
        AudioError: audio that cannot be used (a ValueError).
    """
    signal = audio.load(source, model.grid.sample_rate)
    return TokenFile(
        tokens=model.encode(signal, loop),
        sample_rate=model.grid.sample_rate,
        hop=model.grid.hop,
        samples=signal.audio_data.shape[-1],
        lufs=audio.measure_loudness(signal),
        loop=loop,
        codec_id=model.codec_id,
        model=model.name,
    )


def expand(model: VampNet, file: TokenFile) -> AudioSignal:
    """Tokens -> audio of one channel, (1, 1, samples), as long and as loud as it was.

    Raises:
        TokenFileError: the tokens are those of another codec, or the file says that they last longer or shorter than they do.
    """
    if file.codec_id != model.codec_id:
        raise TokenFileError(
            f"These tokens were made by the model '{file.model}', and '{model.name}' has another codec: choose that model."
        )
    if (file.sample_rate, file.hop) != (model.grid.sample_rate, model.grid.hop):
        # A length that is checked by another clock than the one that it is decoded by is none.
        raise TokenFileError("The file of tokens does not have the time steps of its codec: encode the audio again.")
    sound = model.decode(file.tokens, file.loop, file.samples)
    return audio.restore_loudness(sound, file.lufs, loop=file.loop, in_place=True)


def to_bytes(file: TokenFile) -> bytes:
    """The whole file. ValueError if the tokens are not (1, K, T) int64 in 0..1023."""
    tokens = file.tokens
    if tokens.dtype != torch.int64 or tokens.dim() != 3 or len(tokens) != 1 or not 1 <= tokens.shape[1] <= MAX_LEVELS:
        raise ValueError(f"Tokens must be int64 (1, levels, steps), not {tokens.dtype} of shape {tuple(tokens.shape)}.")
    if int(tokens.min()) < 0 or int(tokens.max()) >= 1 << BITS_PER_TOKEN:
        raise ValueError(f"Tokens must lie in 0..{(1 << BITS_PER_TOKEN) - 1} to be written.")
    name = file.model.encode()[:255].decode(errors="ignore").encode()
    head = _HEADER.pack(
        MAGIC, VERSION, file.loop, tokens.shape[1], BITS_PER_TOKEN, file.hop, file.sample_rate, file.samples,
        tokens.shape[2], file.lufs, bytes.fromhex(file.codec_id), len(name),
    )  # fmt: skip
    numbers = tokens[0].T.reshape(-1).cpu().numpy().astype(">u2")
    bits = np.unpackbits(numbers.view(np.uint8).reshape(-1, 2), axis=1)[:, -BITS_PER_TOKEN:]
    body = head + name + np.packbits(bits).tobytes()
    return body + _CRC.pack(zlib.crc32(body))


def from_bytes(data: bytes) -> TokenFile:
    """The file that `to_bytes` made.

    Raises:
        TokenFileError: it is no such file, of a later version, cut off, or damaged.
    """
    if data[:4] != MAGIC:
        raise TokenFileError("This is not a file of tokens: give one that 'vampnet encode' wrote.")
    if len(data) > 4 and data[4] != VERSION:
        raise TokenFileError(
            f"This file of tokens has version {data[4]}, and this program reads {VERSION}: update the program."
        )
    damaged = TokenFileError("The file of tokens is damaged or cut off: encode the audio again.")
    if len(data) < _HEADER.size + _CRC.size or zlib.crc32(data[: -_CRC.size]) != _CRC.unpack(data[-_CRC.size :])[0]:
        raise damaged
    _, _, loop, levels, bits, hop, rate, samples, steps, lufs, codec, length = _HEADER.unpack_from(data)
    start = _HEADER.size + length
    sound = (
        loop in (0, 1)
        and 1 <= levels <= MAX_LEVELS
        and bits == BITS_PER_TOKEN
        and hop >= 1
        and audio.MIN_FILE_RATE <= rate <= audio.MAX_FILE_RATE
        and 1 <= samples <= audio.MAX_SECONDS * rate
        and steps == (whole_steps(samples, hop) // hop if loop else -(-samples // hop))
        and math.isfinite(lufs)
        and len(data) == start + -(-levels * steps * bits // 8) + _CRC.size
    )
    if not sound:
        raise damaged
    spread = np.unpackbits(np.frombuffer(data, np.uint8, offset=start)[: -_CRC.size])
    if spread[levels * steps * bits :].any():
        raise damaged
    numbers = spread[: levels * steps * bits].reshape(-1, bits).astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
    tokens = torch.from_numpy(numbers.reshape(steps, levels).T.copy())[None]
    name = data[_HEADER.size : start].decode(errors="replace")
    return TokenFile(tokens, rate, hop, samples, lufs, bool(loop), codec.hex(), "".join(c for c in name if c.isprintable()))


def write(file: TokenFile, path: str | Path) -> int:
    """Writes `path` whole or not at all; returns its bytes. OSError if that cannot be done."""
    data = to_bytes(file)
    with whole_file(path) as part:
        part.write_bytes(data)
    return len(data)


def read(path: str | Path) -> TokenFile:
    """Reads what `write` wrote.

    Raises:
        TokenFileError: as `from_bytes`, or the file is far too large.
        OSError: it cannot be opened.
    """
    path = Path(path)
    with open(path, "rb") as handle:
        data = handle.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise TokenFileError(f"'{path.name}' is too large to be a file of tokens: give one that 'vampnet encode' wrote.")
    return from_bytes(data)
