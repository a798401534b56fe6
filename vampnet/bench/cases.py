"""Which cases are measured: one thing at a time is varied around a base. A run takes minutes then, and growth can be fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vampnet.config import Sampling

AXES = {
    "load": "",
    "beats": "l",
    "mask": "l",
    "encode": "l",
    "coarse step": "t",
    "fine step": "t",
    "decode": "lt",
    "coarse": "lts",
    "fine": "lt",
    "vamp": "lts",
    "command": "",
}
"""Stage -> what its cost depends on: l(ength), t(akes), s(teps). In the order in which they are measured."""

ABOUT = {
    "load": "from files to models that are ready, in a process that has its imports done",
    "beats": "beat tracking",
    "mask": "prompt to mask",
    "encode": "samples to tokens",
    "coarse step": "the coarse model once over a whole window, everything masked",
    "fine step": "the fine model once over a whole window, all fine levels masked",
    "decode": "tokens to samples",
    "coarse": "all steps of the coarse levels, sampling included",
    "fine": "all steps of the fine levels, sampling included",
    "vamp": "from a sound file to the files of the takes, with a model that is loaded",
    "command": "the command `vampnet vamp` in a new process: imports, loading and all",
}

BASE_SECONDS, BASE_TAKES, BASE_STEPS = 10.0, 4, Sampling().steps
"""What a newcomer has: a comparison with another base, as of earlier tables, finds few cases that both have."""


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        model: its name.
        stage: a key of `AXES`.
        seconds: of audio.
        takes: how many at once.
        steps: coarse sampling steps. What a stage does not depend on has the value 0.
    """

    model: str
    stage: str
    seconds: float = 0.0
    takes: int = 0
    steps: int = 0

    @property
    def words(self) -> str:
        """The case in words, such as "10 s, 4 takes, 24 steps"."""
        parts = [f"{self.seconds:g} s"] if self.seconds else []
        parts += [f"{self.takes} take{'s' if self.takes > 1 else ''}"] if self.takes else []
        parts += [f"{self.steps} step{'s' if self.steps > 1 else ''}"] if self.steps else []
        return ", ".join(parts)


def _base(values: Sequence, wanted: float):
    return wanted if wanted in values else min(values, key=lambda value: abs(value - wanted))


def plan(model: str, stages: Sequence[str], lengths: Sequence[float], takes: Sequence[int], steps: Sequence[int]) -> list[Case]:
    """The cases of a model, each stage's from short to long.

    The base is 10 s, 4 takes and the steps of the defaults, or what is nearest. Lengths are varied at the fewest takes, or ten
    minutes of many takes would be most of the run.
    """
    seconds, count, rounds = _base(lengths, BASE_SECONDS), _base(takes, BASE_TAKES), _base(steps, BASE_STEPS)
    cases: dict[Case, None] = {}
    for stage in (name for name in AXES if name in stages):
        axes = AXES[stage]

        def case(s: float, t: int, n: int, stage: str = stage, axes: str = axes) -> Case:
            # A single step has a length, though it does not depend on it once the window is full.
            has = {"l": "l" in axes or "step" in stage or stage == "command", "t": "t" in axes or stage == "command"}
            steps = n if "s" in axes or stage == "command" else 0
            return Case(model, stage, s if has["l"] else 0.0, t if has["t"] else 0, steps)

        found = [case(seconds, count, rounds)]
        found += [case(s, min(takes), rounds) for s in sorted(lengths)] if "l" in axes else []
        found += [case(seconds, t, rounds) for t in sorted(takes)] if "t" in axes else []
        found += [case(seconds, count, n) for n in sorted(steps)] if "s" in axes else []
        cases |= dict.fromkeys(sorted(set(found), key=lambda c: (c.seconds, c.takes, c.steps)))
    return list(cases)
