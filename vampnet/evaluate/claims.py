"""The paper's claims, held against the figures. A verdict is only given where the intervals allow it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .estimates import Estimate
from .recipes import CODEC, Experiment
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
BEATS = "beats, 75 ms"


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds, and the figures it was judged by."""

    claim: str
    verdict: str
    why: str


def below(figure: Estimate, limit: float = 0.0) -> str:
    """Whether a figure is below a limit, by its whole interval and itself: ranks of noisy draws lie nearer to 0 than theirs."""
    if not (math.isfinite(figure.low) and math.isfinite(figure.high)):
        return OPEN
    ends = (figure.low, figure.value, figure.high)
    return HOLDS if max(ends) < limit else FAILS if min(ends) > limit else OPEN


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

    def clips(self, names: tuple[str, ...], figures: tuple[str, ...] = ()) -> int:
        """The fewest clips of any setting of the experiments in which all of some figures could be measured."""
        found = [self.summaries[setting.recipe.id] for name in names for setting in self.experiments[name].settings]
        return min(one.measured.get(figure, one.clips) for one in found for figure in (*figures, ""))

    def open_prompts(self) -> list[str]:
        """The pure prompts that leave something open: of short clips two seconds at either end are all."""
        full = self.summaries[CODEC.id]["kbps"].value if CODEC.id in self.summaries else math.inf
        return [label for label, kbps in self.of("prompts", "kbps").items() if "+" not in label and kbps.value < full - 1e-6]

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
    one, few, many = (found[label] for label in ("1 step", "12 steps", "36 steps"))
    times, gain = few.over(many), below(many - one)
    near = below(times, NEARLY)
    best = min(found, key=lambda label: found[label].value)
    why = (
        f"12 steps {show(few)}, 36 steps {show(many)}, 12 / 36 {show(times)}, nearly = at most {NEARLY:g} times: {near}; "
        f"1 step {show(one)}, 36 lower than 1: {gain}; lowest at {best}"
    )
    # Where steps do nothing, 12 of them are as good as any number, which says nothing of 12.
    return near if near != HOLDS or gain == HOLDS else OPEN, why


def _noise(figures: Figures, fad: str) -> tuple[str, str]:
    """For every prompt on its own: a mean over prompts would be that of the one with the largest distances."""
    labels = [label for label in figures.open_prompts() if f"noise: {label}" in figures.of("baselines", fad)]

    def pairs(figure: str) -> dict[str, tuple[Estimate, Estimate]]:
        made, chance = figures.of("prompts", figure), figures.of("baselines", figure)
        return {label: (made[label], chance[f"noise: {label}"]) for label in labels}

    mel = {label: all_of([below(n - m * ALIKE), below(m - n * ALIKE)]) for label, (m, n) in pairs("mel").items()}
    far = {label: below(m * FAR - n) for label, (m, n) in pairs(fad).items()}
    alike, worse = (all_of(list(verdicts.values())) for verdicts in (mel, far))
    why = (
        f"noise over vamps, {len(labels)} prompts: mel {_range(pairs('mel'))}, alike = within {ALIKE:g} times: "
        f"{alike}{_but(mel)}; FAD {_range(pairs(fad))}, far worse = at least {FAR:g} times: {worse}{_but(far)}"
    )
    return all_of([alike, worse]), why


def _range(pairs: dict[str, tuple[Estimate, Estimate]]) -> str:
    """How many times the first of each pair the second is: the fewest and the most, and where."""
    times = {label: second.over(first) for label, (first, second) in pairs.items()}
    told = sorted((label for label in times if math.isfinite(times[label].value)), key=lambda label: times[label].value)
    if not told:
        return "–"
    ends = " to ".join(f"{show(times[label])} times ({label})" for label in dict.fromkeys((told[0], told[-1])))
    return ends + f", {len(times) - len(told)} cannot be told" * (len(told) < len(times))


def _but(verdicts: dict[str, str]) -> str:
    """The single verdicts that are not "holds", where not all are the same."""
    if len(set(verdicts.values())) < 2:
        return ""
    return " (" + "; ".join(f"{label}: {verdict}" for label, verdict in verdicts.items() if verdict != HOLDS) + ")"


def _against_others(figures: Figures, figure: str) -> tuple[str, str]:
    """The beat-driven prompt below each of the other pure prompts."""
    of_prompts = figures.of("prompts", figure)
    found = {label: of_prompts[label] for label in figures.open_prompts() if label != BEATS}
    beats = of_prompts[BEATS]
    verdicts = {label: below(beats - other) for label, other in found.items()}
    if not all(math.isfinite(estimate.value) for estimate in (beats, *found.values())):
        return OPEN, "not measured for every prompt"
    best = min(found, key=lambda label: found[label].value)
    why = (
        f"beats {show(beats)}, best of the {len(found)} others {best} with {show(found[best])}, beats less that "
        f"{show(beats - found[best])}, wanted below 0 against each{_but(verdicts)}"
    )
    return all_of(list(verdicts.values())), why


def _tempo(figures: Figures, fad: str) -> tuple[str, str]:
    return _against_others(figures, "tempo_drift")


def _lowest(figures: Figures, fad: str) -> tuple[str, str]:
    return _against_others(figures, fad)


def _even(figures: Figures, fad: str) -> tuple[str, str]:
    found = figures.of("prompts", fad)
    even, ends = found["periodic, P = 16"], found["inpaint, 1 s"]
    times = even.over(ends)
    verdict = below(times, NEARLY)
    return (
        verdict,
        f"P = 16 {show(even)}, inpaint 1 s {show(ends)}, the first over the second {show(times)}, wanted at most {NEARLY:g}",
    )


def _nearer(figures: Figures, fad: str) -> tuple[str, str]:
    found = figures.of("prompts", "mel")
    beats, periodic = found[BEATS], {label: mel for label, mel in found.items() if label.startswith("periodic")}
    verdicts = {label: below(beats - mel) for label, mel in periodic.items()}
    told = ", ".join(f"{label.removeprefix('periodic, ')} {show(mel)}" for label, mel in periodic.items())
    why = f"mel of beats {show(beats)}; {told}; wanted below each{_but(verdicts)}"
    return all_of(list(verdicts.values())), why


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
    ends = int(rate.argmax()), int(rate.argmin())
    for figure, name in (("mel", "mel"), (fad, "FAD")):
        found = list(figures.of("bitrate", figure).values())
        value = rank_correlation(rate, np.array([[estimate.value for estimate in found]]))[0]
        draws = np.stack([estimate.draws for estimate in found], axis=1)
        good = np.isfinite(draws).all(axis=1)
        correlation = Estimate(float(value), rank_correlation(rate, draws[good]) if good.any() else np.array([np.nan]))
        most, least = (found[end] for end in ends)
        in_order = below(correlation, FALLS)
        # Ranks do not tell how far apart they are.
        verdicts += [in_order, below(most - least)]
        high, low = (significant(rate[end], 2) for end in ends)
        parts.append(
            f"{name} {show(most)} at {high} kbps, {show(least)} at {low}, the first lower: {verdicts[-1]}; in rank correlation "
            f"{show(correlation, 2)}, wanted at most {FALLS:g}: {in_order}"
        )
    return all_of(verdicts), f"{len(rate)} settings; " + "; ".join(parts)


@dataclass(frozen=True)
class Claim:
    """What the paper says, the experiments and the means over clips that it is judged by, and the rule."""

    text: str
    experiments: tuple[str, ...]
    means: tuple[str, ...]
    rule: Callable[[Figures, str], tuple[str, str]]


CLAIMS = (
    Claim("FAD is nearly as low at 12 as at 36 steps", ("steps",), (), _steps),
    Claim("Noise is as near in mel distance but far worse in FAD", ("prompts", "baselines"), ("mel",), _noise),
    Claim("The beat-driven prompt has the lowest FAD of the prompts", ("prompts",), (), _lowest),
    Claim("The tempo is steadier with the beat-driven prompt", ("prompts",), ("tempo_drift",), _tempo),
    Claim("Mel distance and FAD grow as the bit rate falls", ("bitrate",), ("mel",), _bitrate),
    Claim("The beat-driven prompt stays nearer to the source than periodic ones", ("prompts",), ("mel",), _nearer),
    Claim("Every 16th step is about as good as one second at either end", ("prompts",), (), _even),
)


def judge(figures: Figures, embedding: str) -> list[Verdict]:
    """A verdict for each of `CLAIMS` by the distance of one embedding; those whose experiments were not run are left out."""
    found = []
    for claim in CLAIMS:
        if not all(figures.has(name) for name in claim.experiments):
            continue
        verdict, why = claim.rule(figures, FAD + embedding)
        clips = figures.clips(claim.experiments, claim.means)
        if clips < MIN_CLIPS:
            verdict, why = OPEN, f"only {clips} clips to be judged by, at least {MIN_CLIPS} are wanted; {why}"
        found.append(Verdict(claim.text, verdict, why))
    return found
