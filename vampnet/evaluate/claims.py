"""The paper's claims, held against the figures. A verdict is only given where the intervals allow it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .estimates import Estimate
from .recipes import Experiment
from .summary import FAD, Summary

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
NEARLY = 1.15
"""12 steps are nearly as good as 36 if their distance is at most so many times that of 36."""
ALIKE = 1.25
"""Two mel distances are alike if neither is more than so many times the other."""
FAR = 2.0
"""A distance is far worse if it is at least so many times the other."""
MIN_CLIPS = 10
"""With fewer clips nothing is told: a bootstrap of a handful knows nothing of other clips."""
FALLS = -0.7
"""A figure grows as the bit rate falls if their rank correlation is at most this."""


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds, and the figures it was judged by."""

    claim: str
    verdict: str
    why: str


def below(difference: Estimate) -> str:
    """Whether a figure is below 0, by its whole interval."""
    if not (math.isfinite(difference.low) and math.isfinite(difference.high)):
        return OPEN
    return HOLDS if difference.high < 0 else FAILS if difference.low > 0 else OPEN


def all_of(verdicts: list[str]) -> str:
    """Holds if all hold, fails if any fails; nothing can be told of nothing."""
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and all(verdict == HOLDS for verdict in verdicts) else OPEN


class Figures:
    """Summaries by experiment and label."""

    def __init__(self, experiments: list[Experiment], summaries: dict[str, Summary]) -> None:
        self.experiments = {experiment.name: experiment for experiment in experiments}
        self.summaries = summaries

    def has(self, name: str) -> bool:
        """Whether that experiment was run."""
        return name in self.experiments

    def clips(self, names: tuple[str, ...]) -> int:
        """The fewest clips of any setting of the experiments."""
        return min(self.summaries[setting.recipe.id].clips for name in names for setting in self.experiments[name].settings)

    def of(self, experiment: str, figure: str) -> dict[str, Estimate]:
        """{label: the figure} of an experiment, in its order."""
        settings = self.experiments[experiment].settings
        return {setting.label: self.summaries[setting.recipe.id][figure] for setting in settings}


def show(estimate: Estimate, digits: int = 3) -> str:
    """value (low to high), or a dash where nothing was measured."""
    if not math.isfinite(estimate.value):
        return "–"
    value, low, high = (significant(x, digits) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})" if math.isfinite(estimate.low) else value


def significant(value: float, digits: int = 3) -> str:
    """0.0123, 1.23, 12.3, 123: so many digits that say something, never an exponent."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or abs(value) < 1e-9:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 6)}f}"


def _steps(figures: Figures, fad: str) -> tuple[str, str]:
    found = figures.of("steps", fad)
    few, many = found["12 steps"], found["36 steps"]
    best = min(found, key=lambda label: found[label].value)
    why = f"12 steps {show(few)}, 36 steps {show(many)}, lowest at {best}; nearly = at most {NEARLY:g} times"
    return below(few - many * NEARLY), why


def _noise(figures: Figures, fad: str) -> tuple[str, str]:
    labels = [label for label in figures.of("prompts", fad) if f"noise: {label}" in figures.of("baselines", fad)]

    def mean(experiment: str, prefix: str, figure: str) -> Estimate:
        found = figures.of(experiment, figure)
        chosen = [found[prefix + label] for label in labels]
        return Estimate(
            float(np.mean([e.value for e in chosen])), np.mean([e.draws for e in chosen], axis=0)
        )  # fmt: skip

    mel, mel_noise = mean("prompts", "", "mel"), mean("baselines", "noise: ", "mel")
    far, far_noise = mean("prompts", "", fad), mean("baselines", "noise: ", fad)
    alike = all_of([below(mel_noise - mel * ALIKE), below(mel - mel_noise * ALIKE)])
    worse = below(far * FAR - far_noise)
    why = (
        f"means over {len(labels)} prompts: mel {show(mel)} and noise {show(mel_noise)}, alike = within {ALIKE:g} times: "
        f"{alike}; FAD {show(far)} and noise {show(far_noise)}, far worse = at least {FAR:g} times: {worse}"
    )
    return all_of([alike, worse]), why


def _against_others(figures: Figures, figure: str) -> tuple[str, str]:
    """The beat-driven prompt below each of the other pure prompts."""
    found = {label: value for label, value in figures.of("prompts", figure).items() if "+" not in label}
    beats = found.pop("beats, 75 ms")
    verdicts = {label: below(beats - other) for label, other in found.items()}
    best = min(found, key=lambda label: found[label].value)
    against = "; ".join(f"{label}: {verdict}" for label, verdict in verdicts.items() if verdict != HOLDS)
    why = f"beats {show(beats)}, best of the others {best} with {show(found[best])}" + (f"; against {against}" * bool(against))
    return all_of(list(verdicts.values())), why


def _tempo(figures: Figures, fad: str) -> tuple[str, str]:
    return _against_others(figures, "tempo_drift")


def _lowest(figures: Figures, fad: str) -> tuple[str, str]:
    return _against_others(figures, fad)


def ranks(values: np.ndarray) -> np.ndarray:
    """(rows, n) -> their ranks in each row, equal values sharing theirs."""
    from scipy.stats import rankdata

    return rankdata(values, axis=1)


def rank_correlation(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Spearman's, of x (n,) with each row of values (rows, n)."""
    a, b = ranks(np.broadcast_to(x, values.shape)), ranks(values)
    a, b = (r - r.mean(axis=1, keepdims=True) for r in (a, b))
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(axis=1), norm, out=np.zeros(len(a)), where=norm > 0)


def _bitrate(figures: Figures, fad: str) -> tuple[str, str]:
    rate = np.array([estimate.value for estimate in figures.of("bitrate", "kbps").values()])
    verdicts, parts = [], []
    for figure, name in (("mel", "mel"), (fad, "FAD")):
        found = list(figures.of("bitrate", figure).values())
        value = rank_correlation(rate, np.array([[estimate.value for estimate in found]]))[0]
        draws = np.stack([estimate.draws for estimate in found], axis=1)
        good = np.isfinite(draws).all(axis=1)
        correlation = Estimate(float(value), rank_correlation(rate, draws[good]) if good.any() else np.array([np.nan]))
        verdicts.append(below(Estimate(correlation.value - FALLS, correlation.draws - FALLS)))
        parts.append(f"{name} {show(correlation, 2)}: {verdicts[-1]}")
    return all_of(verdicts), f"rank correlation with the bit rate, wanted at most {FALLS:g}: " + "; ".join(parts)


CLAIMS: tuple[tuple[str, tuple[str, ...], Callable[[Figures, str], tuple[str, str]]], ...] = (
    ("FAD is nearly as low at 12 as at 36 steps", ("steps",), _steps),
    ("Noise is as near in mel distance but far worse in FAD", ("prompts", "baselines"), _noise),
    ("The beat-driven prompt has the lowest FAD of the prompts", ("prompts",), _lowest),
    ("The tempo is steadier with the beat-driven prompt", ("prompts",), _tempo),
    ("Mel distance and FAD grow as the bit rate falls", ("bitrate",), _bitrate),
)


def judge(figures: Figures, embedding: str) -> list[Verdict]:
    """A verdict for each of `CLAIMS` by the distance of one embedding; those whose experiments were not run are left out."""
    found = []
    for claim, needed, rule in CLAIMS:
        if not all(figures.has(name) for name in needed):
            continue
        verdict, why = rule(figures, FAD + embedding)
        clips = figures.clips(needed)
        if clips < MIN_CLIPS:
            verdict, why = OPEN, f"only {clips} clips, at least {MIN_CLIPS} are wanted; {why}"
        found.append(Verdict(claim, verdict, why))
    return found
