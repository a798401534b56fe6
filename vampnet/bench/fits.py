"""How cost grows: the line and the power of a series of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """A series y over x, described twice.

    Attributes:
        fixed, slope: of the line y = fixed + slope * x.
        scale, exponent: of the power law y = scale * x ** exponent.
        off: per point, how far y lies above (+) or below (-) the line, as a share of y.
    """

    fixed: float
    slope: float
    scale: float
    exponent: float
    off: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The largest distance from the line, as a share of y."""
        return max(abs(share) for share in self.off)


def fit(x: Sequence[float], y: Sequence[float]) -> Growth:
    """Least squares of relative errors: a point of an hour weighs as much as one of a second.

    Args:
        x: at least two different positive numbers.
        y: as many positive ones.

    Raises:
        ValueError: fewer, or others.
    """
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    if xs.shape != ys.shape or len(set(xs.tolist())) < 2 or (xs <= 0).any() or (ys <= 0).any():
        raise ValueError("A fit needs at least two different positive x, and as many positive y.")
    (fixed, slope), *_ = np.linalg.lstsq(np.stack([1 / ys, xs / ys], axis=1), np.ones_like(ys), rcond=None)
    exponent, log_scale = np.polyfit(np.log(xs), np.log(ys), 1)
    off = 1 - (fixed + slope * xs) / ys
    return Growth(float(fixed), float(slope), float(np.exp(log_scale)), float(exponent), tuple(off.tolist()))
