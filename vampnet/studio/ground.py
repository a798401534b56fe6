"""The mel spectrogram of a source as a small picture, for the ground of the token map."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from vampnet import audio
from vampnet.studio.session import Source

BANDS = 64
WINDOW = 2048
LEAST_HOP = 512
MOST_COLUMNS = 1200
LOWEST_HZ, HIGHEST_HZ = 40.0, 16_000.0
RANGE_DB = 66.0
TILT_DB = 18.0
"""How much the highest band is lifted over the lowest: music falls off towards the top, and would be dark there."""


def ground(source: Source) -> dict[str, Any]:
    """What the browser needs to draw it.

    Returns:
        dict of plain data: `image` (rows x columns uint8 in base64, row 0 the highest band, 255 the loudest), `rows`, `columns`
        and `seconds` (that the columns cover).
    """
    samples = audio.load(source.path, source.rate).audio_data[0].mean(0)
    hop = max(LEAST_HOP, -(-len(samples) // MOST_COLUMNS))
    columns = -(-len(samples) // hop)
    padded = torch.nn.functional.pad(samples, (WINDOW // 2, WINDOW // 2 + columns * hop - len(samples)))
    frames = padded.unfold(0, WINDOW, hop)[:columns]
    power = torch.fft.rfft(frames * torch.hann_window(WINDOW)).abs().square().numpy()
    level = 10 * np.log10(power @ _mel(source.rate) + 1e-12) + np.linspace(0, TILT_DB, BANDS)
    image = np.clip((level - level.max()) / RANGE_DB + 1, 0, 1)
    pixels = np.ascontiguousarray(np.round(255 * image.T[::-1]).astype(np.uint8))
    return {
        "image": base64.b64encode(pixels.tobytes()).decode("ascii"), "rows": BANDS, "columns": columns,
        "seconds": columns * hop / source.rate,
    }  # fmt: skip


@lru_cache(maxsize=4)
def _mel(rate: int) -> np.ndarray:
    """(WINDOW / 2 + 1, BANDS) triangles, evenly spaced on O'Shaughnessy's mel scale, each with the sum 1."""
    top = min(HIGHEST_HZ, rate / 2)
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOWEST_HZ, top))
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.arange(WINDOW // 2 + 1)[:, None] * (rate / WINDOW)
    rising, falling = (bins - edges[:-2]) / np.diff(edges[:-1]), (edges[2:] - bins) / np.diff(edges[1:])
    weights = np.maximum(0, np.minimum(rising, falling))
    return weights / np.maximum(weights.sum(0), 1e-9)
