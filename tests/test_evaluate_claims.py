"""The paper's claims: a verdict follows the intervals, and only where the figures can bear one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vampnet.config import TokenGrid
from vampnet.evaluate import claims
from vampnet.evaluate.estimates import Estimate
from vampnet.evaluate.recipes import Recipe, paper_experiments, paper_sampling
from vampnet.evaluate.store import Result
from vampnet.evaluate.summary import Summary, summarize
from vampnet.prompt import build_mask


def test_a_verdict_follows_the_interval():
    def estimate(low: float, high: float) -> Estimate:
        return Estimate((low + high) / 2, np.linspace(low, high, 101))

    assert claims.below(estimate(-2, -1)) == "holds" and claims.below(estimate(1, 2)) == "does not hold"
    assert claims.below(estimate(-1, 1)) == "cannot be told" and claims.below(estimate(math.nan, math.nan)) == "cannot be told"
    assert claims.all_of(["holds", "cannot be told"]) == "cannot be told" == claims.all_of([])
    assert claims.all_of(["holds", "cannot be told", "does not hold"]) == "does not hold"
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert claims.rank_correlation(x, np.array([[1, 4, 9, 16.0], [4, 3, 2, 1]])) == pytest.approx([1, -1])
    assert [claims.significant(v) for v in (0.012345, 1.2345, 12.345, 1234.5, 0.0, math.nan)] == [
        "0.0123", "1.23", "12.3", "1234", "0", "–"
    ]  # fmt: skip


def as_the_paper_says(setting, experiment: str) -> dict[str, float]:
    """Figures under which every claim holds."""
    label = setting.label
    fad, mel, drift = 2.0, 1.0, 5.0
    if experiment == "steps":
        fad = {1: 6.0, 4: 3.0, 8: 2.2, 12: 2.05}.get(int(setting.x), 2.0)
    if experiment == "bitrate":
        fad = mel = 1 + 0.1 * setting.x + 0.5 * (setting.series == "C = 4") + 0.9 * (setting.series == "C = 1")
    if label == "beats, 75 ms":
        fad, drift, mel = 1.5, 1.0, 0.92
    if setting.series == "noise":
        fad, mel = 9.0, 1.1
    depth = {"C = 14": 14, "C = 4": 4, "C = 1": 1}.get(setting.series, 14)
    kbps = 0.57 * depth / max(setting.x, 1)
    if experiment == "prompts":
        kbps = {"compression, 1 codebook": 0.57}.get(label, 8 / float(label.split()[-1]) if "periodic" in label else 1.0)
    return {"fad_logmel": fad, "mel": mel, "tempo_drift": drift, "kbps": kbps}


def made_figures(change=lambda label, figures: None, clips_: int = 50, spread: float = 0.01, **measured) -> claims.Figures:
    rng, experiments, summaries = np.random.default_rng(0), paper_experiments(), {}
    for experiment in experiments:
        for setting in experiment.settings:
            figures = as_the_paper_says(setting, experiment.name)
            change(setting.label, figures)
            found = {name: Estimate(v, v * (1 + spread * rng.normal(size=60))) for name, v in figures.items()}
            # Experiments share recipes, such as P = 16.
            summaries.setdefault(setting.recipe.id, Summary(clips_, found, {"logmel": figures["fad_logmel"] * 1.1}, measured))
    return claims.Figures(experiments, summaries)


def test_every_claim_can_hold_and_can_fail():
    held = claims.judge(made_figures(), "logmel")
    assert len(held) == 7 and [v.verdict for v in held] == ["holds"] * 7, held
    assert {v.verdict for v in claims.judge(made_figures(clips_=3), "logmel")} == {"cannot be told"}

    def broken(label, figures):
        if label == "12 steps":
            figures["fad_logmel"] = 4.0
        if label.startswith("noise"):
            figures["fad_logmel"] = 2.5
        if label == "inpaint, 2 s":
            figures |= {"fad_logmel": 1.0, "tempo_drift": 0.1}
        if label == "inpaint, 1 s":
            figures["fad_logmel"] = 1.0
        if label == "periodic, P = 8":
            figures["mel"] = 0.5
        if label.startswith("C = 1, P"):
            figures["mel"] = 0.1

    assert [v.verdict for v in claims.judge(made_figures(broken), "logmel")] == ["does not hold"] * 7


STEPS, NOISE, LOWEST, TEMPO, RATE = range(5)


def verdicts(change=lambda label, figures: None, **more) -> list[claims.Verdict]:
    return claims.judge(made_figures(change, **more), "logmel")


def test_twelve_steps_are_only_good_where_steps_do_something():
    def flat(label, figures):
        if "step" in label:
            figures["fad_logmel"] = 2.0

    found = verdicts(flat)[STEPS]
    assert (
        found.verdict == "cannot be told" and "12 / 36 1.00 (" in found.why and "36 lower than 1: cannot be told" in found.why
    )

    def nothing_left(label, figures):
        if label in ("36 steps", "periodic, P = 16"):  # one recipe
            figures["fad_logmel"] = 0.0

    assert verdicts(nothing_left)[STEPS].verdict == "cannot be told", "1.15 times nothing is nothing"


def test_noise_is_judged_prompt_by_prompt():
    def one_prompt_is_no_better_than_noise(label, figures):
        if label.startswith("noise"):
            figures["fad_logmel"] = 40.0
        if label == "noise: periodic, P = 8":
            figures["fad_logmel"] = 2.2

    found = verdicts(one_prompt_is_no_better_than_noise)[NOISE]
    assert found.verdict == "does not hold", "though the means are far apart"
    assert "FAD 1.10 (" in found.why and "times (periodic, P = 8) to " in found.why
    assert "(periodic, P = 8: does not hold)" in found.why


def test_a_prompt_that_keeps_everything_is_no_prompt():
    def all_kept(label, figures):
        if label == "inpaint, 2 s":
            figures |= {"kbps": 0.57 * 14, "fad_logmel": 0.1, "tempo_drift": 0.1}
        if label == "noise: inpaint, 2 s":
            figures["fad_logmel"] = 0.1

    found = verdicts(all_kept)
    assert [v.verdict for v in found] == ["holds"] * 7 and "best of the 5 others" in found[LOWEST].why

    def nearly_all(label, figures):
        all_kept(label, figures)
        figures["kbps"] *= 0.9 if label == "inpaint, 2 s" else 1

    assert [v.verdict for v in verdicts(nearly_all)][NOISE : TEMPO + 1] == ["does not hold"] * 3


def test_clips_without_a_pulse_say_nothing_of_tempo():
    found = verdicts(tempo_drift=4)
    assert [v.verdict for v in found] == [*["holds"] * 3, "cannot be told", *["holds"] * 3]
    assert found[TEMPO].why.startswith("only 4 clips to be judged by, at least 10 are wanted; beats 1.00 (")
    results = [Result({"mel": 1.0, "tempo_drift": drift}, {}) for drift in (2.0, math.nan, math.nan)]
    summary = summarize({"source": [Result({}, {})] * 3, "takes": results}, draws=20)["takes"]
    assert summary.clips == 3 and summary.measured == {"mel": 3, "tempo_drift": 1}


def test_ranks_that_chance_could_have_made_are_none():
    """Perfectly in order, but no farther apart than intervals are wide."""

    def hardly(label, figures):
        figures["mel"] = 1 - 0.001 * figures["kbps"]

    found = verdicts(hardly, spread=0.1)[RATE]
    assert found.verdict == "cannot be told" and "the first lower: cannot be told" in found.why
    assert verdicts(hardly, spread=1e-5)[RATE].verdict == "holds"


def test_times_of_what_may_be_nothing_are_not_told():
    one, two = Estimate(4.0, np.array([3.0, 4.0, 5.0])), Estimate(2.0, np.array([1.0, 2.0, 2.5]))
    assert one.over(two).value == 2 and one.over(two).draws.tolist() == [3, 2, 2]
    nothing = one.over(Estimate(0.1, np.array([-0.2, 0.1, 0.3])))
    assert math.isnan(nothing.value) and math.isnan(nothing.low) and claims.below(nothing) == "cannot be told"


def test_recipes_are_told_apart_by_all_that_they_say():
    experiments = paper_experiments(paper_sampling(24))
    assert [e.name for e in experiments] == ["baselines", "prompts", "steps", "bitrate"]
    everything = [setting.recipe for experiment in experiments for setting in experiment.settings]
    assert len({recipe.id for recipe in everything}) == len(set(everything))
    assert [s.x for s in experiments[2].settings] == [1, 4, 8, 12, 36, 64, 72]
    assert Recipe("codec").id != Recipe("codec", loop=True).id
    assert paper_experiments(paper_sampling(36))[3].settings[0].recipe == Recipe("codec")
    # The same mask is not made twice under two names.
    masks = {}
    for recipe in set(everything):
        if recipe.prompt is not None:
            key = (
                recipe.kind,
                recipe.sampling,
                build_mask(recipe.prompt, (14, 300), TokenGrid(), (0.5, 1.0)).numpy().tobytes(),
            )
            assert masks.setdefault(key, recipe) == recipe
