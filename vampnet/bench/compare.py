"""Two runs beside each other, case by case."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vampnet.bench.cases import Case
from vampnet.bench.report import FORMAT, align, duration

TITLES = ("model", "stage", "case", "before", "now", "as fast", "memory before", "now")
SAME = ("device_name", "threads", "torch")
NUMBERS = ("seconds", "takes", "steps", "median")


def read(path: str | Path) -> dict[str, Any]:
    """A `bench.json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: name the bench.json of an earlier run.")
    problem = f"{path} is not the bench.json of a run of 'vampnet bench'."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(problem) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(problem)
    figures = content.get("figures")
    if not isinstance(figures, list) or not all(map(_whole, figures)) or not isinstance(content.get("machine"), dict):
        raise ValueError(problem)
    return content


def _whole(figure: Any) -> bool:
    """Whether an entry of "figures" has all that is read of it."""
    if not isinstance(figure, dict) or not all(isinstance(figure.get(name), (int, float)) for name in NUMBERS):
        return False
    times, words, peak = figure.get("times"), (figure.get("model"), figure.get("stage")), figure.get("peak")
    numbers = isinstance(times, list) and times and all(isinstance(value, (int, float)) for value in times)
    known = all(isinstance(word, str) for word in words) and (peak is None or isinstance(peak, (int, float)))
    return bool(numbers) and known and figure["median"] > 0


def _cases(content: Mapping[str, Any]) -> dict[Case, Mapping[str, Any]]:
    return {Case(f["model"], f["stage"], f["seconds"], f["takes"], f["steps"]): f for f in content["figures"]}


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """A table of the cases that both runs have: how many times as fast the new one is, and its memory.

    A tilde marks a ratio that may be chance: the repetitions of the two runs overlap, or one has no second.
    """
    before, now = _cases(old), _cases(new)
    rows = []
    for case in (case for case in now if case in before):
        a, b = before[case], now[case]
        apart = min(a["times"]) > max(b["times"]) or max(a["times"]) < min(b["times"])
        apart = apart and min(len(a["times"]), len(b["times"])) > 1
        memory = [f"{f['peak'] / 1e6:.0f} MB" if f.get("peak") else "" for f in (a, b)]
        ratio = f"{'' if apart else '~ '}{a['median'] / b['median']:.2f}x"
        rows.append((case.model, case.stage, case.words, duration(a["median"]), duration(b["median"]), ratio, *memory))
    if not rows:
        return "The two runs have no case in common.\n"
    text = align(rows, TITLES, range(3, len(TITLES)))
    if any(row[5].startswith("~") for row in rows):
        text += "~: the repetitions of the two runs overlap, or there is only one, so the ratio may be chance.\n"
    if old.get("precision") != new.get("precision"):
        text += f"Precision before: {old.get('precision')}; now: {new.get('precision')}.\n"
    for name in SAME:
        if old["machine"].get(name) != new["machine"].get(name):
            text += f"Not the same machine: {name} was {old['machine'].get(name)} and is {new['machine'].get(name)}.\n"
    return text
