"""What is made of a clip and measured, as plain values: recipes, and the paper's experiments as lists of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from ..config import N_COARSE, N_CODEBOOKS, Prompt, Sampling

STEPS = (1, 4, 8, 12, 36, 64, 72)
PERIODS = (8, 16, 32)
STEPS_PERIOD = 16
"""The prompt under which the steps are compared, as in the original experiment."""
SWEEP_CODEBOOKS = (N_CODEBOOKS, N_COARSE, 1)
SWEEP_PERIODS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Recipe:
    """How audio is made from a clip.

    Attributes:
        kind: "codec": to tokens and back. "vamp": what the prompt leaves open is made by the models. "noise": by chance.
        prompt: None for "codec".
        sampling: None unless "vamp".
        takes: how many.
        loop: the clip is a ring.
    """

    kind: Literal["codec", "vamp", "noise"]
    prompt: Prompt | None = None
    sampling: Sampling | None = None
    takes: int = 1
    loop: bool = False

    @property
    def id(self) -> str:
        """Its kind and 10 hex digits of all that it says: safe as a folder's name."""
        values = dataclasses.asdict(self)
        if self.prompt is not None:
            del values["prompt"]["original_sound"]  # what is measured is decoded
        text = json.dumps(values, sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def cost(self) -> float:
        """A guess at the work of one clip, in seconds of the bundled model: only to tell how long a run will take."""
        steps = 0 if self.sampling is None or self.prompt is None else self.sampling.steps
        coarse = 0 if self.prompt is not None and self.prompt.kept_codebooks >= N_COARSE else 0.2 * steps
        return self.takes * (2.0 + coarse)


@dataclass(frozen=True)
class Setting:
    """One line of a table: a recipe and what it is called. `x` is its place on an axis, `series` its curve."""

    label: str
    recipe: Recipe
    x: float = 0.0
    series: str = ""


@dataclass(frozen=True)
class Experiment:
    """Settings that are looked at together."""

    name: str
    title: str
    settings: tuple[Setting, ...]


CODEC = Recipe("codec")


def _prompt(**fields: float) -> Prompt:
    """As in the paper: nothing but what is named is kept, and every P-th step is."""
    return Prompt(**{"periodic": 0, "periodic_jitter": 0, **fields})


def prompts() -> dict[str, Prompt]:
    """The paper's prompts by their labels, the pure ones first."""
    found = {"compression, 1 codebook": _prompt(kept_codebooks=1)}
    found |= {f"periodic, P = {period}": _prompt(periodic=period) for period in PERIODS}
    found |= {f"inpaint, {s} s": _prompt(prefix_seconds=float(s), suffix_seconds=float(s)) for s in (1, 2)}
    found["beats, 75 ms"] = _prompt(beat_width_ms=75.0)
    return found


def mixes() -> dict[str, Prompt]:
    """Prompts of two kinds, by their labels."""
    return {
        "beats + P = 16": _prompt(periodic=16, beat_width_ms=75.0),
        "beats + inpaint, 1 s": _prompt(beat_width_ms=75.0, prefix_seconds=1.0, suffix_seconds=1.0),
        "P = 16 + inpaint, 1 s": _prompt(periodic=16, prefix_seconds=1.0, suffix_seconds=1.0),
        "P = 16 + 1 codebook": _prompt(periodic=16, kept_codebooks=1),
    }


def paper_sampling(
    steps: int = 36, typical_mass: float = Sampling.typical_mass, guidance: float = 0.0, palette: float = 0.0,
    recall: float = 0.0,
) -> Sampling:  # fmt: skip
    """How the takes of the paper's experiments are drawn: the tonal balance is left alone, as in the paper.

    Args:
        steps: of sampling, in all experiments but that on the steps (the paper: 36).
        typical_mass: of sampling, as in `Sampling` (the paper draws from all tokens: 1).
        guidance, palette, recall: of sampling (the paper: 0).
    """
    drawn = {"guidance": guidance, "palette": palette, "recall": recall}
    return Sampling(steps=steps, typical_mass=typical_mass, balance=0.0, **drawn)


def paper_experiments(sampling: Sampling | None = None) -> list[Experiment]:
    """The experiments of the paper (section 5), their takes drawn with `sampling` (without one `paper_sampling`'s)."""
    sampling = sampling or paper_sampling()
    steps = sampling.steps

    def vamp(prompt: Prompt) -> Recipe:
        return Recipe("vamp", prompt, sampling)

    by_steps = [
        Setting(
            f"{n} step{'s' * (n > 1)}",
            Recipe("vamp", _prompt(periodic=STEPS_PERIOD), dataclasses.replace(sampling, steps=n)),
            n,
        )
        for n in STEPS
    ]
    by_prompt = [Setting(label, vamp(prompt), series="vamp") for label, prompt in (prompts() | mixes()).items()]
    noise = [Setting(f"noise: {label}", Recipe("noise", prompt), series="noise") for label, prompt in prompts().items()]
    sweep = [
        Setting(f"C = {depth}, P = {period}", vamp(_prompt(periodic=period, prompt_codebooks=depth)), period, f"C = {depth}")
        for depth in SWEEP_CODEBOOKS
        for period in SWEEP_PERIODS
    ]
    fine = Recipe("vamp", _prompt(kept_codebooks=N_COARSE), sampling)
    # At P = 1 levels stay everywhere, which other experiments make as well: all of them are the codec alone.
    same = {N_CODEBOOKS: CODEC, N_COARSE: fine, 1: vamp(prompts()["compression, 1 codebook"])}
    for place, depth in enumerate(SWEEP_CODEBOOKS):
        first = place * len(SWEEP_PERIODS)
        sweep[first] = dataclasses.replace(sweep[first], recipe=same[depth])
    alone = [Setting("codec alone", CODEC), Setting("coarse-to-fine alone", fine)]
    return [
        Experiment("baselines", "Baselines: the codec alone, coarse-to-fine alone, tokens at random", (*alone, *noise)),
        Experiment("prompts", f"Prompts, {steps} steps", tuple(by_prompt)),
        Experiment("steps", f"Sampling steps, periodic prompt with P = {STEPS_PERIOD}", tuple(by_steps)),
        Experiment("bitrate", f"Bit rate: C kept codebooks at every P-th step, {steps} steps", tuple(sweep)),
    ]
