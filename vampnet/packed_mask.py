"""A mask as a short text that can travel inside a sound file, and back: its bits, compressed, in base64.

What comes back may be anything: sizes are limited before a byte is unpacked, and no more is unpacked than the mask has bits.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_TEXT = 48_000
"""Characters. A mask that needs more does not travel: minutes of it would have to be painted cell by cell."""
MAX_LEVELS = 64
MAX_CELLS = 2_000_000
"""Levels times time steps: 40 minutes of the paper's codec."""


@dataclass(frozen=True)
class PackedMask:
    """A mask as its bits; unlike a tensor, two of them can be compared.

    Attributes:
        levels, steps: K and T.
        bits: level by level from the coarsest, first step first, 1 = regenerate, the last byte filled up with 0.
    """

    levels: int
    steps: int
    bits: bytes

    @classmethod
    def of(cls, mask: Tensor) -> PackedMask:
        """Of a mask (1, K, T) bool."""
        levels, steps = mask.shape[-2:]
        return cls(levels, steps, np.packbits(mask[0].cpu().numpy().astype(bool)).tobytes())

    def mask(self) -> Tensor:
        """(1, K, T) bool."""
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.levels * self.steps)
        return torch.from_numpy(bits.astype(bool)).reshape(1, self.levels, self.steps)

    def write(self) -> dict[str, Any] | None:
        """Plain values for JSON; None if it is too large to travel."""
        text = base64.b64encode(zlib.compress(self.bits, 9)).decode("ascii")
        return {"levels": self.levels, "steps": self.steps, "bits": text} if len(text) <= MAX_TEXT else None


def read(value: Any) -> PackedMask | None:
    """What `PackedMask.write` gave; None for everything else, however large it says that it is."""
    if not isinstance(value, dict):
        return None
    levels, steps, text = (value.get(name) for name in ("levels", "steps", "bits"))
    if any(isinstance(number, bool) or not isinstance(number, int) or number < 1 for number in (levels, steps)):
        return None
    if levels > MAX_LEVELS or levels * steps > MAX_CELLS or not isinstance(text, str) or len(text) > MAX_TEXT:
        return None
    size = -(-levels * steps // 8)
    try:
        unpacking = zlib.decompressobj()
        # One byte more than it may have: enough to see that it has more.
        bits = unpacking.decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error):
        return None
    whole = len(bits) == size and unpacking.eof and not unpacking.unused_data
    return PackedMask(levels, steps, bits) if whole else None
