"""A run as a table for people, as Markdown, and as JSON that a later run can be compared with."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vampnet.bench.cases import ABOUT
from vampnet.bench.growth import describe, find_series
from vampnet.bench.runner import Figure, Run

FORMAT = 1
TITLES = ("model", "stage", "case", "time", "spread", "tokens/s", "memory", "floor", "share")
RIGHT = range(3, len(TITLES))


# -------------------------------------------------------------------------------------------------------------- for people


def duration(seconds: float) -> str:
    """Seconds with three digits, in the unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _row(figure: Figure, run: Run) -> tuple[str, ...]:
    timing, floor, share = figure.timing, figure.floor(run.ceilings), figure.share(run.ceilings)
    rate = figure.tokens_per_second
    memory = [f"{timing.peak / 1e6:.0f} MB"] if timing.peak else []
    memory += [f"{timing.device_peak / 1e6:.0f} MB on the GPU"] if timing.device_peak is not None else []
    case = ", ".join(filter(None, (figure.case.words, figure.note)))
    return (
        figure.case.model,
        figure.case.stage,
        case,
        duration(timing.median),
        f"{timing.spread:.0%}",
        f"{rate:,.0f}" if rate else "",
        " + ".join(memory),
        duration(floor) if floor else "",
        f"{share:.1%}" if share else "",
    )


def align(rows: Sequence[Sequence[str]], titles: Sequence[str], right: Sequence[int]) -> str:
    """Rows under their titles, for a terminal."""
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        padded = [cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in enumerate(cells)]
        return "  ".join(padded).rstrip() + "\n"

    return line(titles) + "".join(map(line, rows))


def markdown_table(rows: Sequence[Sequence[str]], titles: Sequence[str], right: Sequence[int]) -> str:
    """The same in Markdown."""
    rule = ["---:" if column in right else "---" for column in range(len(titles))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rule, *rows))


def table(run: Run) -> str:
    """The figures of a run for a terminal, with what is to be known about them."""
    rows = [_row(figure, run) for figure in run.figures]
    return "\n".join([align(rows, TITLES, RIGHT), *notes(run), ""])


def notes(run: Run) -> list[str]:
    """Sentences: the machine, its ceilings, how cost grows, what was left out."""
    m, after = run.machine, run.after
    lines = [
        f"{m['device_name']}, {m['threads']} threads of {m['cores']} cores, torch {m['torch']}, weights in {run.precision}; "
        f"medians of {run.repeats} repetitions, spread from the fastest to the slowest."
    ]
    for name, rate in run.before.products.items():
        again = f", after the run {after.products[name].median / 1e9:.0f}" if after else ""
        lines.append(
            f"A large matrix product in {name}: {rate.median / 1e9:.0f} GFLOP/s ({rate.low / 1e9:.0f} to {rate.high / 1e9:.0f})"
            f"{again}."
        )
    again = f", after the run {after.copied / 1e9:.1f}" if after else ""
    copy = run.before.copy
    lines.append(
        f"A large copy: {copy.median / 1e9:.1f} GB/s read and written ({copy.low / 1e9:.1f} to {copy.high / 1e9:.1f}){again}."
    )
    lines.append(
        "Floor: operations or bytes that the stage cannot do without, at the better of these rates; share: floor / time."
    )
    for figure in run.figures:
        if figure.timing.parts:
            parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in figure.timing.parts.items())
            lines.append(f"{figure.case.model}, {figure.case.stage}, {figure.case.words}: {parts}.")
    growth = [line for series in find_series(run.figures) for line in describe(series)]
    lines += ["", "How cost grows:", *growth] if growth else []
    lines += [
        f"Left out, since a repetition would take some {seconds:.0f} s: {case.model}, {case.stage}, {case.words}."
        for case, seconds in run.skipped
    ]
    return lines + (["The run was stopped; this is what it had measured."] if run.stopped else [])


def markdown(run: Run, plots: Sequence[str] = ()) -> str:
    """The whole report."""
    rows = [_row(figure, run) for figure in run.figures]
    stages = dict.fromkeys(figure.case.stage for figure in run.figures)
    text = ["# Speed", "", markdown_table(rows, TITLES, RIGHT)]
    text += [f"- {line.strip()}" for line in notes(run) if line.strip()]
    text += ["", "Stages:", ""] + [f"- **{stage}**: {ABOUT[stage]}" for stage in stages]
    text += [""] + [f"![{name}]({name})" for name in plots]
    return "\n".join(text).rstrip() + "\n"


# ---------------------------------------------------------------------------------------------------------------- for later


def to_json(run: Run) -> dict[str, Any]:
    """All of a run as plain values."""

    def rates(ceilings: Any) -> dict[str, Any] | None:
        return None if ceilings is None else {
            "products": {name: vars(rate) for name, rate in ceilings.products.items()}, "copy": vars(ceilings.copy)
        }  # fmt: skip

    def figure(one: Figure) -> dict[str, Any]:
        timing = one.timing
        return vars(one.case) | {
            "median": timing.median, "times": list(timing.times), "warmed": timing.warmed, "parts": timing.parts,
            "tokens": one.tokens, "tokens_per_second": one.tokens_per_second, "note": one.note,
            "before": timing.before, "peak": timing.peak, "device_peak": timing.device_peak,
            "work": [vars(part) for part in one.demand],
            "floor": one.floor(run.ceilings), "share": one.share(run.ceilings),
        }  # fmt: skip

    growth = [
        {
            "model": s.figures[0].case.model, "stage": s.figures[0].case.stage, "over": s.axis, "x": s.x,
            "time": vars(s.time), "memory": None if s.memory is None else vars(s.memory),
        }
        for s in find_series(run.figures)
    ]  # fmt: skip
    return {
        "format": FORMAT, "machine": run.machine, "precision": run.precision, "repeats": run.repeats, "stopped": run.stopped,
        "ceilings": {"before": rates(run.before), "after": rates(run.after)},
        "figures": [figure(one) for one in run.figures], "growth": growth,
        "skipped": [vars(case) | {"expected": seconds} for case, seconds in run.skipped],
    }  # fmt: skip


def write(run: Run, folder: Path, plots: Sequence[str] = ()) -> list[Path]:
    """Writes bench.json and bench.md into a folder (made if missing); returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"bench.json": json.dumps(to_json(run), indent=1) + "\n", "bench.md": markdown(run, plots)}
    for name, text in texts.items():
        part = folder / f"{name}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, folder / name)
    return [folder / name for name in texts]
