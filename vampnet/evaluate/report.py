"""Tables of a run, as CSV with every figure and its interval, and as Markdown to read."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config import Sampling
from .claims import Verdict, show, significant
from .embeddings import Embedding
from .musical import FIGURES
from .origin import Origin
from .recipes import Experiment
from .runner import SOURCE, Results
from .summary import FAD, Summary

HEADS = {
    "kbps": "kbps kept",
    "mel": "mel",
    "partials": "partials",
    "beat_f": "beat F",
    "tempo_drift": "tempo drift, %",
    "onset_f": "onset F",
    "chroma": "chroma",
    "loudness": "loudness, dB",
    "balance": "balance, dB",
    "takes_mel": "takes, mel",
    "takes_tokens": "takes, tokens",
    "seam_step": "seam step",
    "seam_flux": "seam flux",
    "seconds": "s a take",
}
"""Figures in the order of the columns, with their heads."""
WITH_INTERVAL = ("mel", "beat_f", "tempo_drift", "chroma")


@dataclass(frozen=True)
class About:
    """What a run was, for the head of its report.

    model: its name. origin: weights, arithmetic, beat tracker. lengths: seconds of each clip. audio: where they come from.
    drawn: how takes are made. reference: of the Fréchet distances. notes: further sentences.
    """

    model: str
    origin: Origin
    lengths: Sequence[float]
    audio: str
    embeddings: Sequence[Embedding]
    drawn: str
    reference: str = "the clips themselves, in pairs"
    notes: tuple[str, ...] = field(default=())


def columns(summaries: Sequence[Summary]) -> list[str]:
    """Names of the figures that any of them has: distances first, then in the order of `HEADS`."""
    there = {name for summary in summaries for name in summary.figures}
    return [name for name in summaries[0].figures if name.startswith(FAD)] + [name for name in HEADS if name in there]


def head_of(name: str) -> str:
    """The head of a figure's column."""
    return f"FAD {name.removeprefix(FAD)}" if name.startswith(FAD) else HEADS[name]


def table(experiment: Experiment, summaries: dict[str, Summary]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of an experiment to read: one row a setting."""
    found = [summaries[setting.recipe.id] for setting in experiment.settings]
    names = columns(found)
    rows = []
    for setting, summary in zip(experiment.settings, found, strict=True):
        row = [setting.label]
        for name in names:
            estimate = summary.figures.get(name)
            if estimate is None:
                row.append("–")
            elif name.startswith(FAD) or name in WITH_INTERVAL:
                row.append(show(estimate))
            else:
                row.append(significant(estimate.value))
        rows.append(row)
    return ["setting", *map(head_of, names)], rows


def to_csv(experiment: Experiment, summaries: dict[str, Summary]) -> str:
    """Every figure of an experiment with both ends of its interval, and the distances without correction."""
    found = [summaries[setting.recipe.id] for setting in experiment.settings]
    names, plain = columns(found), list(found[0].plain_fad)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = [part for name in names for part in (name, f"{name}_low", f"{name}_high")]
    writer.writerow(["setting", "clips", *head, *(f"{FAD}{name}_uncorrected" for name in plain)])
    for setting, summary in zip(experiment.settings, found, strict=True):
        row: list[Any] = [setting.label, summary.clips]
        for name in names:
            estimate = summary.figures.get(name)
            values = (estimate.value, estimate.low, estimate.high) if estimate is not None else (float("nan"),) * 3
            row += [f"{value:.6g}" if value == value else "" for value in values]
        writer.writerow([*row, *(f"{summary.plain_fad[name]:.6g}" for name in plain)])
    return out.getvalue()


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal, in columns."""
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *rows))
    return "".join(line.rstrip() + "\n" for line in lines)


def legend(names: Sequence[str]) -> list[str]:
    """What the columns mean, one sentence each."""
    said = [f"{HEADS[name]}: {FIGURES[name]}" for name in names if name in HEADS]
    return ["FAD: Fréchet audio distance at endlessly many clips, 0 = the same music", *said]


def count_of(lengths: Sequence[float]) -> str:
    """ "3 clips of 2.5 to 10 s"."""
    shortest, longest = (f"{length:.3g}" for length in (min(lengths), max(lengths)))
    span = longest if shortest == longest else f"{shortest} to {longest}"
    return f"{len(lengths)} clip{'s' * (len(lengths) > 1)} of {span} s"


def how_drawn(sampling: Sampling) -> str:
    """A sentence about a sampling, all but its coarse steps; what the paper does is said where this is something else."""
    parts = [f"temperature {sampling.temperature:g}", f"mask temperature {sampling.mask_temperature:g}"]
    parts += [words.format(value) for words, value, off in (
        ("top-k {}", sampling.top_k, 0), ("top-p {:g}", sampling.top_p, 1),
        ("typical mass {:g} of the coarsest level", sampling.typical_mass, 1),
        ("guidance {:g} of the coarse tokens, which the paper has not", sampling.guidance, 0),
        ("a palette of weight {:g}, which it has not either", sampling.palette, 0),
        ("recall of weight {:g}, nor this", sampling.recall, 0),
        ("{:.0%} of the source's tonal balance, which it leaves alone", sampling.balance, 0),
    ) if value != off]  # fmt: skip
    every = "" if sampling.filters else ", from all tokens as in the paper"
    other = " (the paper draws from all tokens)" if sampling.filters else ""
    named = (sampling.guidance, sampling.palette, sampling.recall, sampling.balance)
    usual = "guidance, a palette, recall and their source's balance"
    without = "" if any(named) else f" Vamps have {usual} by default; these have none."
    return f"Takes are drawn with {', '.join(parts)}{every}, fine tokens in {sampling.fine_steps} steps{other}.{without}"


def head_lines(about: About) -> list[str]:
    """Sentences on what was measured and how."""
    origin, clips = about.origin, len(about.lengths)
    half = "" if origin.codec == "float32" else f", codec in {origin.codec} where it stands that"
    lines = [
        f"Model `{about.model}`, {count_of(about.lengths)}, one channel at -24 LUFS, from {about.audio}.",
        about.drawn,
        f"Weights {origin.weights}, transformers in {origin.precision}{half}; seed {origin.seed}.",
        f"Beats by {origin.beats}. In brackets: 95 % intervals from a bootstrap over the clips.",
        f"FAD is measured from {about.reference}, without the bias of a small sample (a line over 1/N).",
    ]
    for one in about.embeddings:
        lines.append(f"FAD {one.name}: {one.about}.")
    if clips < 30:
        lines.append(f"{clips} clip{'s are' if clips > 1 else ' is'} few: distances and intervals are rough, a trial at best.")
    return [*lines, *about.notes]


def verdict_table(verdicts: dict[str, list[Verdict]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: one for each claim and embedding."""
    order = [verdict.claim for verdict in next(iter(verdicts.values()))]
    every = sorted(((v, name) for name, found in verdicts.items() for v in found), key=lambda pair: order.index(pair[0].claim))
    # What does not depend on the embedding is said once.
    rows = [[v.claim, f"**{v.verdict}**", name, v.why] for v, name in {v: n for v, n in reversed(every)}.items()][::-1]
    return ["the paper says", "here", "FAD by", "judged by"], rows


def verdicts_csv(verdicts: dict[str, list[Verdict]]) -> str:
    """Every verdict by every embedding."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["claim", "embedding", "verdict", "judged by"])
    for name, found in verdicts.items():
        writer.writerows([verdict.claim, name, verdict.verdict, verdict.why] for verdict in found)
    return out.getvalue()


def thin_notes(results: Results, embeddings: Sequence[Embedding]) -> list[str]:
    """A sentence for each embedding of which the clips give fewer points than it has dimensions."""
    notes = []
    for one in embeddings:
        points = [result.embeddings[one.name] for result in results[SOURCE]]
        count, size = sum(len(part) for part in points), points[0].shape[1]
        if count <= size:
            notes.append(
                f"FAD {one.name}: {count} points do not fill {size} dimensions; it may tell what is nearer, not how near."
            )
    return notes


def document(
    about: About,
    experiments: Sequence[Experiment],
    summaries: dict[str, Summary],
    verdicts: dict[str, list[Verdict]],
    pictures: dict[str, str],
    tokens: tuple[list[str], list[list[str]]] | None,
) -> str:
    """The whole report in Markdown; `pictures` are {name of an experiment: file name}."""
    parts = ["# The paper's experiments\n", "".join(f"- {line}\n" for line in head_lines(about))]
    if any(verdicts.values()):
        parts += ["## The paper's claims\n", markdown(*verdict_table(verdicts))]
    for experiment in experiments:
        parts.append(f"## {experiment.title}\n")
        if experiment.name in pictures:
            parts.append(f"![{experiment.title}]({pictures[experiment.name]})\n")
        parts.append(markdown(*table(experiment, summaries)))
    if tokens is not None:
        parts += ["## Hidden tokens: accuracy, cross-entropy in nats\n", markdown(*tokens)]
    names = columns(list(summaries.values()))
    parts += ["## What the columns mean\n", "".join(f"- {line}\n" for line in legend(names))]
    return "\n".join(parts)
