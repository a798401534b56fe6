"""From results of single clips to the figures of a setting, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .estimates import DRAWS, Estimate, mean_estimate
from .frechet import Sets, fad, fad_estimate
from .runner import SOURCE, Results

FAD = "fad_"
"""What the names of distances begin with: "fad_logmel" is that of the embedding "logmel"."""


@dataclass(frozen=True, eq=False)
class Summary:
    """The figures of one recipe over all clips.

    Attributes:
        clips: how many.
        figures: by name: those of `musical.FIGURES`, and "fad_<embedding>".
        plain_fad: {embedding: the distance with its bias, as others print it}.
        measured: {figure: in how many clips it could be measured}, of those that are means over clips.
    """

    clips: int
    figures: dict[str, Estimate]
    plain_fad: dict[str, float]
    measured: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Estimate:
        return self.figures[name]


def summarize(
    results: Results,
    reference: dict[str, Sequence[np.ndarray]] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Summary]:
    """{id of a recipe: its figures}.

    Args:
        results: of `runner.run`.
        reference: {embedding: one (frames, D) for each clip} that the distances are measured from; None = the sources
            themselves, in pairs.
        draws, seed: of the bootstrap.
        on_step: progress, (done, of).
    """
    sources = results[SOURCE]
    names = [name for name in results if name != SOURCE]
    found = {}
    for number, name in enumerate(names):
        if on_step is not None:
            on_step(number, len(names))
        made = results[name]
        keys = list(dict.fromkeys(key for result in made for key in result.figures))
        values = {key: [result.figures.get(key, np.nan) for result in made] for key in keys}
        figures = {key: mean_estimate(of_clips, draws, seed) for key, of_clips in values.items()}
        measured = {key: int(np.isfinite(of_clips).sum()) for key, of_clips in values.items()}
        plain = {}
        for embedding in sources[0].embeddings if sources else ():
            paired = reference is None
            ours = [result.embeddings[embedding] for result in made]
            theirs = [result.embeddings[embedding] for result in sources] if reference is None else reference[embedding]
            sets = Sets.of(theirs, ours, paired)
            figures[FAD + embedding] = fad_estimate(sets, draws, seed)
            plain[embedding] = fad(sets)
        found[name] = Summary(len(made), figures, plain, measured)
    if on_step is not None:
        on_step(len(names), len(names))
    return found
