"""Fréchet audio distance (Kilgour et al., 2019): how far apart two sets of audio lie, each seen as one Gaussian.

Pure functions on embeddings. A set is a list of clips, each (frames, D): clips are drawn anew and left out, never frames.

**The bias.** With N clips the distance comes out too high by about c / N, so that a small set looks bad. `fad_infinity`
measures it on parts of the set and follows the line over 1 / N to 0 (Chong and Forsyth, 2020, for images; Gui et al., 2024, for
audio).

**Pairs.** Where clip i of one set was made from clip i of the other, both are drawn together: then the chance in which clips
there are falls out, equal sets have a distance of 0 at every N, and only what the takes add is extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .estimates import DRAWS, Estimate, resamples

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Parts of the clips that the line of `fad_infinity` goes through."""
REPEATS = 8
MIN_CLIPS = 3


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and covariance (D, D) of `count` frames, float64."""

    count: float
    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Moments:
    """What is needed of each of G clips to have the Gaussian of any choice of them.

    Attributes:
        counts: (G,) frames.
        sums: (G, D), of the frames less `origin`.
        products: (G, D * D), sums of their outer products.
        origin: (D,), near the frames, so that the differences below are not lost in rounding.
    """

    counts: np.ndarray
    sums: np.ndarray
    products: np.ndarray
    origin: np.ndarray

    def gaussians(self, weights: np.ndarray) -> list[Gaussian]:
        """The Gaussian for each row of `weights` (rows, G): how often each clip counts.

        Raises:
            ValueError: a row has fewer than two frames.
        """
        counts, sums = weights @ self.counts, weights @ self.sums
        if (counts < 2).any():
            raise ValueError("A covariance needs at least two frames: use more or longer clips.")
        products = (weights @ self.products).reshape(len(weights), *2 * self.sums.shape[1:])
        out = []
        for count, total, product in zip(counts, sums, products, strict=True):
            mean = total / count
            out.append(Gaussian(count, mean + self.origin, (product - np.outer(mean, total)) / (count - 1)))
        return out


def moments(clips: Sequence[np.ndarray], origin: np.ndarray | None = None) -> Moments:
    """Moments of clips, each (frames, D) float.

    Raises:
        ValueError: no clips, clips of different D, or numbers that are not finite.
    """
    clips = [np.asarray(clip, np.float64) for clip in clips]
    if not clips or any(clip.ndim != 2 or clip.shape[1:] != clips[0].shape[1:] for clip in clips):
        raise ValueError("Moments are taken of one or more clips of shape (frames, D), with the same D in all.")
    frames = np.concatenate(clips)
    if not np.isfinite(frames).all():
        raise ValueError("The embeddings are not finite: the audio or the model that made them is damaged.")
    origin = frames.mean(axis=0) if origin is None else origin
    shifted = [clip - origin for clip in clips]
    return Moments(
        np.array([len(clip) for clip in clips], np.float64),
        np.stack([clip.sum(axis=0) for clip in shifted]),
        np.stack([(clip.T @ clip).ravel() for clip in shifted]),
        origin,
    )


def _in_their_span(
    reference: Sequence[np.ndarray], made: Sequence[np.ndarray]
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """The same clips in as many dimensions as there are frames, where the embedding has more: no distance changes, and what
    takes minutes with 512 dimensions takes seconds."""
    both = [np.asarray(clip, np.float64) for clip in (*reference, *made)]
    if not both or any(clip.ndim != 2 or clip.shape[1:] != both[0].shape[1:] for clip in both):
        return reference, made  # `moments` says what is wrong with them
    frames = np.concatenate(both)
    if len(frames) >= frames.shape[1] or not np.isfinite(frames).all():
        return reference, made
    origin = frames.mean(axis=0)
    axes = np.linalg.qr((frames - origin).T)[0]
    moved = [(clip - origin) @ axes for clip in both]
    return moved[: len(reference)], moved[len(reference) :]


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root of a covariance; what rounding made negative counts as 0."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def frechet_distance(a: Gaussian, b: Gaussian, root_of_a: np.ndarray | None = None) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), also for covariances without full rank.

    The trace of the root is the sum of the singular values of C_a^(1/2) C_b^(1/2), which needs no root of a matrix that is
    not symmetric and is never complex.

    Args:
        a, b: of the same D.
        root_of_a: C_a^(1/2), if it is known already.

    Returns:
        at least 0.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Two Gaussians of one embedding are compared, not of {len(a.mean)} and {len(b.mean)} dimensions.")
    root = _root(a.covariance) if root_of_a is None else root_of_a
    overlap = np.linalg.svd(root @ _root(b.covariance), compute_uv=False).sum()
    between = np.square(a.mean - b.mean).sum()
    return max(0.0, float(between + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap))


@dataclass(frozen=True)
class Sets:
    """Two sets of clips to be compared: a reference and what was made.

    Attributes:
        reference, made: their moments, about one origin.
        paired: clip i of one belongs to clip i of the other; both must then have as many.
    """

    reference: Moments
    made: Moments
    paired: bool

    @classmethod
    def of(cls, reference: Sequence[np.ndarray], made: Sequence[np.ndarray], paired: bool) -> Sets:
        """From clips, each (frames, D).

        Raises:
            ValueError: as `moments`, or pairs that are not.
        """
        if paired and len(reference) != len(made):
            raise ValueError(f"Paired sets have equally many clips, not {len(reference)} and {len(made)}.")
        reference, made = _in_their_span(reference, made)
        of_reference = moments(reference)
        return cls(of_reference, moments(made, of_reference.origin), paired)

    def distances(self, of_reference: np.ndarray, of_made: np.ndarray) -> np.ndarray:
        """(rows,) distances for rows of weights (rows, clips) of each set."""
        pairs = zip(self.reference.gaussians(of_reference), self.made.gaussians(of_made), strict=True)
        return np.array([frechet_distance(a, b) for a, b in pairs])

    @property
    def sizes(self) -> tuple[int, int]:
        """Clips of the reference and of what was made."""
        return len(self.reference.counts), len(self.made.counts)


def fad(sets: Sets) -> float:
    """The plain distance of all clips, with its bias; nan where a set has a single frame and thus no covariance."""
    if min(sets.reference.counts.sum(), sets.made.counts.sum()) < 2:
        return float("nan")
    return float(sets.distances(*(np.ones((1, size)) for size in sets.sizes))[0])


def _parts(size: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """(size,) 1 for max(2, share * size) clips drawn without replacement, 0 for the others."""
    chosen = np.zeros(size)
    chosen[rng.permutation(size)[: max(min(2, size), round(share * size))]] = 1
    return chosen


def fad_infinity(sets: Sets, seed: int = 0) -> float:
    """The distance without its bias: what a straight line over 1 / N says for endlessly many clips.

    Of both sets the same share is drawn, so that the bias of both goes. It may come out a little below 0 where there is
    nothing to see; nan with fewer than `MIN_CLIPS` clips.
    """
    if min(sets.sizes) < MIN_CLIPS:
        return float("nan")
    rng = np.random.default_rng([seed, 1])
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    for share in SHARES:
        for _ in range(REPEATS if share < 1 else 1):
            of_reference = _parts(sets.sizes[0], share, rng)
            rows.append((of_reference, of_reference if sets.paired else _parts(sets.sizes[1], share, rng)))
    of_reference, of_made = (np.stack(part) for part in zip(*rows, strict=True))
    inverse = sets.sizes[1] / of_made.sum(axis=1)
    # The whole is one draw, and as good as all the draws of a part together.
    weights = np.where(inverse == inverse.min(), np.sqrt(REPEATS), 1.0)
    return float(np.polyfit(inverse, sets.distances(of_reference, of_made), 1, w=weights)[1])


def fad_estimate(sets: Sets, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """`fad_infinity` with bootstrap draws.

    A bootstrap sample has the bias of its own size once more, so its draws say how wide the interval is, and `fad_infinity`
    where it lies. Where paired, the draws are those of `mean_estimate` for the same seed.
    """
    value = fad_infinity(sets, seed)
    if not np.isfinite(value):
        return Estimate(value, np.full(draws, np.nan))
    of_made = resamples(sets.sizes[1], draws, seed)
    of_reference = of_made if sets.paired else resamples(sets.sizes[0], draws, seed + 1)
    found = sets.distances(of_reference, of_made)
    return Estimate(value, value + found - found.mean())
