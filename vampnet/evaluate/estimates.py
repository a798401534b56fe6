"""Figures with what chance could have made of them: means and bootstrap intervals over clips.

Clips are what is drawn anew, never the frames in them, since the frames of one clip are alike. All figures of a run share
their draws, so that the difference of two settings is taken on the same clips, and its interval is that of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

LEVEL = 0.95
DRAWS = 300


@dataclass(frozen=True, eq=False)
class Estimate:
    """A figure and its bootstrap draws.

    Attributes:
        value: the figure; nan where nothing could be measured.
        draws: (draws,) float64, what it might have been with other clips; aligned between the estimates of one run.
    """

    value: float
    draws: np.ndarray = field(repr=False)

    @property
    def low(self) -> float:
        """Lower end of the interval that holds `LEVEL` of the draws."""
        return _quantile(self.draws, (1 - LEVEL) / 2)

    @property
    def high(self) -> float:
        """Upper end of that interval."""
        return _quantile(self.draws, (1 + LEVEL) / 2)

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.value - other.value, self.draws - other.draws)

    def __mul__(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.draws * factor)

    def over(self, other: Estimate) -> Estimate:
        """How many times the other, draw by draw; nan where the other cannot be told from 0, which then has no multiple."""
        if not (other.value > 0 and other.low > 0):
            return Estimate(float("nan"), np.full_like(self.draws, np.nan))
        draws = np.divide(self.draws, other.draws, out=np.full_like(self.draws, np.nan), where=other.draws > 0)
        return Estimate(self.value / other.value, draws)


def _quantile(draws: np.ndarray, share: float) -> float:
    draws = draws[np.isfinite(draws)]
    return float(np.quantile(draws, share)) if len(draws) else float("nan")


def resamples(clips: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(draws, clips) float64: how often each clip is in each bootstrap sample of as many clips, drawn with replacement."""
    rng = np.random.default_rng([seed, clips])
    return rng.multinomial(clips, np.full(clips, 1 / clips), size=draws).astype(np.float64)


def mean_estimate(values: Sequence[float], draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The mean over clips.

    Args:
        values: one a clip, in the same order for all settings of a run; nan where the figure does not apply, which is left out.
        draws, seed: as of `resamples`.
    """
    values = np.asarray(values, np.float64)
    if len(values) == 0:
        return Estimate(float("nan"), np.full(draws, np.nan))
    there = np.isfinite(values)
    weights = resamples(len(values), draws, seed) * there
    total = weights.sum(axis=1)
    sums = weights @ np.where(there, values, 0.0)
    value = float(values[there].mean()) if there.any() else float("nan")
    return Estimate(value, np.divide(sums, total, out=np.full(draws, np.nan), where=total > 0))
