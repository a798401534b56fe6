"""Plots like the paper's, in one style, drawn without a screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .estimates import Estimate
from .extras import need
from .frechet import MIN_CLIPS
from .recipes import CODEC, Experiment, Setting
from .summary import FAD, Summary

INK, GRID, PAPER = "#222222", "#dddddd", "#ffffff"
COLOURS = ("#3b4cc0", "#c2410c", "#15803d", "#7e22ce")
"""Told apart in print and by most colour-blind eyes; the markers differ as well."""
MARKERS = ("o", "s", "^", "D")
STYLE = {
    "font.size": 10, "axes.titlesize": 11, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "axes.axisbelow": True,
    "legend.frameon": False, "figure.facecolor": PAPER, "savefig.facecolor": PAPER, "xtick.color": INK, "ytick.color": INK,
}  # fmt: skip

Get = Callable[[Setting, str], Estimate | None]


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns), apart from pyplot's state: threads and other plots are left alone."""
    figure = need("matplotlib.figure").Figure(figsize=(width, height), layout="constrained", dpi=130)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _errors(estimates: Sequence[Estimate]) -> np.ndarray:
    """(2, n) lengths of the error bars; none where there is no interval."""
    ends = np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T
    return np.nan_to_num(ends).clip(min=0)


def _curve(axes: Any, x: Sequence[float], estimates: Sequence[Estimate], number: int, label: str | None) -> None:
    axes.errorbar(
        x, [e.value for e in estimates], yerr=_errors(estimates), color=COLOURS[number], marker=MARKERS[number], label=label,
        markersize=5, linewidth=1.6, elinewidth=1, capsize=2.5,
    )  # fmt: skip


def _told_empty(axes: Any, estimates: Sequence[Estimate | None]) -> bool:
    """Says so where nothing of a panel was measured, as a distance of fewer clips than it needs."""
    empty = not any(estimate is not None and np.isfinite(estimate.value) for estimate in estimates)
    if empty:
        axes.text(0.5, 0.5, f"not measured:\nit takes {MIN_CLIPS} clips", transform=axes.transAxes, ha="center", va="center")
        axes.set_xticks([])
        axes.set_yticks([])
    return empty


def _baseline(axes: Any, estimate: Estimate | None) -> None:
    if estimate is not None and np.isfinite(estimate.value):
        axes.axhline(estimate.value, color=INK, linestyle="--", linewidth=1, label="codec alone")


def plot_steps(experiment: Experiment, get: Get, fad: str, codec: Callable[[str], Estimate | None]) -> Any:
    """Mel distance and FAD over the number of sampling steps."""
    figure, axes = _figure(1, 2, 9, 3.6)
    settings = [setting for setting in experiment.settings if get(setting, "mel")]
    x = [setting.x for setting in settings]
    for place, (name, title) in enumerate((("mel", "mel distance"), (fad, _fad_title(fad)))):
        one = axes[0, place]
        _curve(one, x, [get(setting, name) for setting in settings], 0, "vamps")
        _baseline(one, codec(name))
        one.set_xscale("log", base=2)
        one.minorticks_off()
        # 64 and 72 lie so close that their numbers would overlap.
        one.set_xticks(x, ["" if value == 64 and 72 in x else f"{value:g}" for value in x])
        one.set(xlabel="sampling steps", ylabel=title, ylim=(0, None))
        if not _told_empty(one, [get(setting, name) for setting in settings]):
            one.legend()
    figure.suptitle(experiment.title)
    return figure


def plot_prompts(experiment: Experiment, noise: Experiment | None, get: Get, fad: str, codec: Callable[[str], Any]) -> Any:
    """Mel distance and FAD by prompt, with tokens at random in the same places beside them."""
    labels = [setting.label for setting in experiment.settings]
    figure, axes = _figure(1, 2, 10.5, 1.4 + 0.36 * len(labels))
    beside = {s.label.removeprefix("noise: "): s for s in noise.settings if s.series == "noise"} if noise else {}
    y = np.arange(len(labels))[::-1]
    for place, (name, title) in enumerate((("mel", "mel distance"), (fad, _fad_title(fad)))):
        one = axes[0, place]
        rows = [(s, get(s, name), get(beside[s.label], name) if s.label in beside else None) for s in experiment.settings]
        for number, (which, label) in enumerate(((1, "vamps"), (2, "random tokens in the same places"))):
            points = [(at, row[which]) for at, row in zip(y, rows, strict=True) if row[which] is not None]
            if points:
                values = [estimate for _, estimate in points]
                # A little apart, so that neither hides the other.
                aside = 0.13 * (1 - 2 * number) if noise else 0.0
                one.errorbar(
                    [e.value for e in values], [at + aside for at, _ in points], xerr=_errors(values), fmt=MARKERS[number],
                    color=COLOURS[number], markersize=6, elinewidth=1, capsize=2.5, label=label,
                )  # fmt: skip
        alone = codec(name)
        if alone is not None and np.isfinite(alone.value):
            one.axvline(alone.value, color=INK, linestyle="--", linewidth=1, label="codec alone")
        one.set_yticks(y, labels if place == 0 else [""] * len(labels))
        one.set(xlabel=title, xlim=(0, None), ylim=(-0.6, len(labels) - 0.4))
        _told_empty(one, [row[1] for row in rows])
        if place == 0:
            figure.legend(*one.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(experiment.title)
    return figure


def plot_bitrate(experiment: Experiment, get: Get, fad: str) -> Any:
    """Mel distance and FAD over the bit rate of what stayed, a curve for each number of kept codebooks."""
    figure, axes = _figure(1, 2, 9, 3.8)
    series = list(dict.fromkeys(setting.series for setting in experiment.settings))
    for place, (name, title) in enumerate((("mel", "mel distance"), (fad, _fad_title(fad)))):
        one = axes[0, place]
        for number, label in enumerate(series):
            settings = [setting for setting in experiment.settings if setting.series == label and get(setting, name)]
            rates = [get(setting, "kbps").value for setting in settings]
            _curve(one, rates, [get(setting, name) for setting in settings], number, label)
        one.set_xscale("log")
        one.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        one.set(xlabel="kept tokens, kbps", ylabel=title, ylim=(0, None))
        if _told_empty(one, [get(setting, name) for setting in experiment.settings]):
            one.xaxis.set_major_formatter(lambda *_: "")
            one.minorticks_off()
        else:
            one.legend(title="kept codebooks")
    figure.suptitle(experiment.title)
    return figure


def plot_musical(experiment: Experiment, get: Get, codec: Callable[[str], Estimate | None]) -> Any:
    """What a musician would notice, by prompt."""
    panels = (
        ("beat_f", "beats on the source's (F)"), ("tempo_drift", "tempo drift, %"),
        ("onset_f", "attacks on the source's (F)"), ("chroma", "chroma similarity"),
    )  # fmt: skip
    labels = [setting.label for setting in experiment.settings]
    figure, axes = _figure(1, 4, 14, 1.2 + 0.34 * len(labels))
    y = np.arange(len(labels))[::-1]
    for place, (name, title) in enumerate(panels):
        one = axes[0, place]
        values = [get(setting, name) for setting in experiment.settings]
        one.errorbar(
            [e.value for e in values], y, xerr=_errors(values), fmt=MARKERS[0], color=COLOURS[0], elinewidth=1, capsize=2.5
        )  # fmt: skip
        alone = codec(name)
        if alone is not None and np.isfinite(alone.value):
            one.axvline(alone.value, color=INK, linestyle="--", linewidth=1, label="codec alone")
        one.set_yticks(y, labels if place == 0 else [""] * len(labels))
        one.set(xlabel=title, ylim=(-0.6, len(labels) - 0.4))
    if axes[0, 0].get_legend_handles_labels()[0]:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center")
    figure.suptitle(f"{experiment.title}: what a musician would notice")
    return figure


def _fad_title(fad: str) -> str:
    return f"FAD ({fad.removeprefix(FAD)})"


def draw_all(experiments: Sequence[Experiment], summaries: dict[str, Summary], embedding: str, folder: Path) -> dict[str, str]:
    """Draws what there are figures for into `folder`; returns {name of the experiment: file name}."""
    matplotlib = need("matplotlib")
    by_name = {experiment.name: experiment for experiment in experiments}
    fad = FAD + embedding

    def get(setting: Setting, name: str) -> Estimate | None:
        summary = summaries.get(setting.recipe.id)
        return None if summary is None else summary.figures.get(name)

    def codec(name: str) -> Estimate | None:
        summary = summaries.get(CODEC.id)
        return None if summary is None else summary.figures.get(name)

    drawings: dict[str, Callable[[], Any]] = {
        "steps": lambda: plot_steps(by_name["steps"], get, fad, codec),
        "prompts": lambda: plot_prompts(by_name["prompts"], by_name.get("baselines"), get, fad, codec),
        "bitrate": lambda: plot_bitrate(by_name["bitrate"], get, fad),
        "musical": lambda: plot_musical(by_name["prompts"], get, codec),
    }
    files = {}
    with matplotlib.rc_context(STYLE):
        for name, draw in drawings.items():
            if (name if name != "musical" else "prompts") in by_name:
                draw().savefig(folder / f"{name}.png", metadata={"Software": None})
                files[name] = f"{name}.png"
    return files
