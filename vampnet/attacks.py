"""Moments that a tracker found -> where the attacks that they stand for begin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vampnet.flux import blocks

REACH_SECONDS = 0.015
"""How far a tracked moment may lie from its attack."""
SPAN_SECONDS = 0.006
"""How long the levels before and after an attack are that it lies between."""
RISE_DB = 6.0
"""The least rise of level that is an attack."""


def at_attacks(samples: np.ndarray, rate: int, times: Sequence[float]) -> list[float]:
    """Moments -> where the attack that each stands for begins, as far as there is one within `REACH_SECONDS` of it.

    That is where the level of `SPAN_SECONDS` from there on exceeds that of as much before it the most.

    Args:
        samples: (N,) float.
        rate: Hz.
        times: seconds.

    Returns:
        Seconds, as many; a moment without an attack stays as it is.
    """
    hop = max(1, round(rate / 1000))
    reach, span = (max(1, round(seconds * rate / hop)) for seconds in (REACH_SECONDS, SPAN_SECONDS))
    power = np.zeros(2 * span + len(samples) // hop)  # of hop after hop, with silence around
    for begin, block in blocks(samples, hop):
        padded = np.pad(block, (0, -len(block) % hop)).reshape(-1, hop)
        power[span + begin // hop :][: len(padded)] = np.square(padded, dtype=np.float64).mean(axis=1)
    total = np.concatenate([[0.0], np.cumsum(10 * np.log10(power + 1e-8))])
    # rise[i]: of the block that begins i * hop samples into the audio.
    rise = (total[2 * span :] - 2 * total[span:-span] + total[: -2 * span]) / span
    found = []
    for moment in times:
        middle = round(moment * rate / hop)
        first = max(0, middle - reach)
        near = rise[first : max(0, middle + reach + 1)]
        clear = len(near) > 0 and near.max() >= RISE_DB
        found.append((first + int(near.argmax())) * hop / rate if clear else moment)
    return found
