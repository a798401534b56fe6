"""Small pictures without a plotting library: spectrograms and masks as PNG files of 256 colours."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import torch
from torch import Tensor

from .embeddings import log_mel

RANGE_DB = 70.0
"""From the loudest cell of a spectrogram down to where it is black."""
STOPS = ((0, 0, 4), (60, 15, 110), (150, 40, 120), (230, 90, 80), (252, 180, 110), (252, 253, 190))
"""From silence to the loudest: as bright as it is loud, so that it also reads in grey."""
KEPT, MADE = (124, 92, 255), (233, 231, 242)


def png(cells: np.ndarray, palette: np.ndarray) -> bytes:
    """A PNG file.

    Args:
        cells: (height, width) uint8, indices into the palette; the first row is the top.
        palette: (up to 256, 3) uint8, red, green and blue.
    """
    height, width = cells.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), cells], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    body = [
        chunk(b"IHDR", head),
        chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
        chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + chunk(b"IEND", b"")


def heat(steps: int = 64) -> np.ndarray:
    """(steps, 3) uint8: the colours of a spectrogram."""
    at, stops = np.linspace(0, len(STOPS) - 1, steps), np.array(STOPS, np.float64)
    return np.stack([np.interp(at, np.arange(len(STOPS)), stops[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


def spectrogram(audio: Tensor, sample_rate: int, top_db: float | None = None, columns: int = 600) -> tuple[bytes, float]:
    """The log-mel spectrogram of (N,) float samples, 30 Hz at the bottom and 16 kHz at the top.

    Args:
        top_db: level of the brightest colour, such as that of another spectrogram beside it; None = the loudest cell.
        columns: at most so wide; two pixels a band high.

    Returns:
        a PNG file, and the level of its brightest colour in dB.
    """
    levels = log_mel(audio.detach().cpu(), sample_rate).T
    if levels.shape[1] > columns:
        levels = torch.nn.functional.adaptive_max_pool1d(levels[None], columns)[0]
    top = float(levels.max()) if top_db is None else top_db
    colours = heat()
    cells = ((levels - top) / RANGE_DB + 1).clamp(0, 1).mul(len(colours) - 1).round().to(torch.uint8).numpy()
    return png(np.repeat(cells[::-1], 2, axis=0), colours), top


def mask_picture(mask: Tensor) -> bytes:
    """What a mask (K, T) bool keeps: a PNG file, a pixel a token, the coarsest level at the bottom."""
    return png(mask.cpu().numpy()[::-1].astype(np.uint8), np.array([KEPT, MADE]))
