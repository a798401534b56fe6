"""A run as a picture: how time grows, and how near each stage is to the limit of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vampnet.bench.growth import AXIS, Series, find_series
from vampnet.bench.runner import Figure, Run
from vampnet.evaluate.extras import need

DRAWN = ("coarse step", "coarse", "decode", "vamp", "encode", "fine")
"""Stages whose growth is drawn, as many as there are colours that can be told apart in one panel."""


def draw(run: Run, folder: Path) -> list[str]:
    """Draws a picture for each model into a folder (made if missing); returns the names of the files.

    Raises:
        ModuleNotFoundError: matplotlib is missing; the sentence says how to get it.
    """
    figure_class, matplotlib = need("matplotlib.figure").Figure, need("matplotlib")
    from vampnet.evaluate.plots import STYLE

    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, model in enumerate(dict.fromkeys(figure.case.model for figure in run.figures)):
        with matplotlib.rc_context(STYLE):
            picture = figure_class(figsize=(13, 7), layout="constrained", dpi=130)
            axes = picture.subplots(2, 2)
            series = [s for s in find_series(run.figures) if s.figures[0].case.model == model]
            for place, (axis, word, _) in zip(axes.flat, AXIS.values(), strict=False):
                _growth(place, [s for s in series if s.axis == axis], word, axis)
            _shares(axes[1, 1], [figure for figure in run.figures if figure.case.model == model], run)
            picture.suptitle(f"{model} on {run.machine['device_name']}, {run.precision}")
            names.append(f"bench-{number + 1}.png")
            picture.savefig(folder / names[-1], metadata={"Software": None})
    return names


def _growth(axes: Any, series: list[Series], word: str, axis: str) -> None:
    """Time over one thing on two logarithmic axes: points with their spread, and the fitted lines."""
    from vampnet.evaluate.plots import COLOURS, MARKERS

    shown = [s for s in series if s.figures[0].case.stage in DRAWN]
    for number, one in enumerate(shown):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        medians = np.array([figure.timing.median for figure in one.figures])
        low, high = (np.array([end(figure.timing.times) for figure in one.figures]) for end in (min, max))
        label = f"{one.figures[0].case.stage}: x^{one.time.exponent:.2f}"
        axes.errorbar(
            one.x, medians, yerr=[medians - low, high - medians], fmt=marker, color=colour, label=label, capsize=2.5,
            mfc="none" if number >= len(COLOURS) else colour,
        )  # fmt: skip
        x = np.geomspace(one.x[0], one.x[-1], 50)
        line = one.time.fixed + one.time.slope * x
        axes.plot(x[line > 0], line[line > 0], color=colour, linewidth=1)
    unit = {"seconds": "length of the music, s", "takes": "takes", "steps": "coarse sampling steps"}[axis]
    axes.set(xlabel=unit, ylabel="time, s", title=f"Time over {word}")
    if shown:
        axes.set(xscale="log", yscale="log")
        ticks = sorted({value for one in shown for value in one.x})
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "fewer than three cases", ha="center", transform=axes.transAxes)


def _shares(axes: Any, figures: list[Figure], run: Run) -> None:
    """For each stage the case that comes nearest to the limit."""
    from vampnet.evaluate.plots import COLOURS

    best: dict[str, float] = {}
    for figure in figures:
        share = figure.share(run.ceilings)
        if share is not None:
            best[figure.case.stage] = max(best.get(figure.case.stage, 0.0), share)
    places = np.arange(len(best))[::-1]
    axes.barh(places, [100 * share for share in best.values()], color=COLOURS[0])
    for place, share in zip(places, best.values(), strict=True):
        # With a ceiling that was measured too low a share can lie beyond the axis, and its text must not.
        axes.text(min(100 * share, 100) + 1, place, f"{share:.1%}", va="center", fontsize=8)
    axes.set_yticks(places, list(best))
    axes.set(xlim=(0, 110), xlabel="share of the machine's limit, %", title="Floor / time, best case of each stage")
