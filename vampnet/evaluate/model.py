"""`python -m vampnet evaluate FOLDER`: a model on any folder of audio, by everything that can be measured."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .. import cli_settings
from ..config import Prompt
from ..pipeline import VampNet
from . import report
from .extras import need
from .options import add_common, batch_of, check_common, choose_clips, load_model, make_judge
from .recipes import CODEC, Experiment, Recipe, Setting
from .runner import Judge, Progress, Source, run
from .store import write
from .summary import Summary, summarize
from .token_figures import token_figures, token_table


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="vampnet evaluate",
        description="Measures a model on a folder of audio: the codec alone and takes with one prompt, by mel distance, "
        "Fréchet audio distance and what a musician would notice; and how well hidden tokens are predicted.",
        epilog="example: vampnet evaluate music/ --model mini --periodic 7 --takes 2 --clips 20",
    )
    made.add_argument("audio", help="a folder of audio, or 'composed' for music that no training has heard")
    cli_settings.add_settings(made, decoded=True)
    made.add_argument("--takes", type=int, default=2, metavar="N", help="of each clip (default 2)")
    made.add_argument("--loop", action="store_true", help="every file is a loop and used whole, up to --seconds")
    made.add_argument("--reference", metavar="FOLDER", help="measure the Fréchet distance from this music (default: the clips)")
    made.add_argument("--no-tokens", action="store_true", help="leave out how well hidden tokens are predicted")
    made.add_argument("--json", metavar="FILE", help="write all figures there")
    add_common(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; exit status 0, or 2 for input that cannot be used."""
    args = parser().parse_args(argv)
    try:
        check_common(args)
        if args.takes < 1:
            raise ValueError(f"--takes must be at least 1, not {args.takes}.")
        # Now, and not after all the work.
        cli_settings.settings(args)
        for name in ("mir_eval.beat", "mir_eval.onset"):
            need(name)
        if args.reference is not None and not Path(args.reference).is_dir():
            raise ValueError(f"There is no folder '{args.reference}' for --reference: name one that holds audio.")
        if args.json and not Path(args.json).resolve().parent.is_dir():
            raise ValueError(f"There is no folder for '{args.json}': make it first, or give another --json.")
        _run(args)
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; nothing is kept of it, as 'evaluate paper' would.\n")
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


def _experiment(args: argparse.Namespace, model: VampNet) -> Experiment:
    prompt, sampling = cli_settings.settings(args, model)
    prompt = dataclasses.replace(prompt, original_sound=False)  # what is measured is decoded
    takes = Recipe("vamp", prompt, sampling, args.takes, args.loop)
    codec = Recipe("codec", loop=True) if args.loop else CODEC
    return Experiment("model", "The codec alone, and takes", (Setting("codec alone", codec), Setting("takes", takes)))


def _run(args: argparse.Namespace) -> None:
    model = load_model(args)
    experiment = _experiment(args, model)
    judge = make_judge(args, model)
    origin = judge.origin(model)
    clips, count = choose_clips(args.audio, args, model, args.loop, full=False)
    tokens: list[Tensor] = []
    lengths: list[float] = []

    def keep(source: Source) -> None:
        tokens.append(source.tokens[0])
        lengths.append(source.clip.audio.shape[-1] / source.clip.rate)

    recipes = [setting.recipe for setting in experiment.settings]
    results = run(model, clips, count, recipes, judge, None, Progress(not args.quiet), keep, batch_of(args, model))
    if not tokens:
        raise ValueError(f"No clip in {args.audio} can be used: name a folder of music that can be heard.")
    reference = None if args.reference is None else _reference(args, judge, model)
    summaries = summarize(results, reference, args.draws, args.seed)
    predicted = None if args.no_tokens else token_figures(model, tokens, args.seed)
    where = "the clips themselves, in pairs" if reference is None else args.reference
    takes = experiment.settings[-1].recipe
    drawn = f"{takes.takes} take{'s' * (takes.takes > 1)} of a clip in {takes.sampling.steps} coarse steps; what stays: "
    drawn = f"{drawn}{_changed(takes.prompt)}. {report.how_drawn(takes.sampling)}"
    notes = tuple(report.thin_notes(results, judge.embeddings))
    about = report.About(model.name, origin, lengths, args.audio, judge.embeddings, drawn, where, notes)
    sys.stdout.write("".join(f"{line}\n" for line in report.head_lines(about)) + "\n")
    head, rows = report.table(experiment, summaries)
    # Two settings and many figures read better as lines than as columns.
    sys.stdout.write(report.text(["figure", *(row[0] for row in rows)], _turned(head, rows)))
    sys.stdout.write("\n" + "".join(f"{line}\n" for line in report.legend(report.columns(list(summaries.values())))))
    if predicted is not None:
        sys.stdout.write("\nHidden tokens: accuracy, cross-entropy in nats\n" + report.text(*token_table(predicted)))
    if args.json:
        asked = {name: getattr(args, name) for name in ("audio", "seconds", "reference", "loop", "takes", "draws")}
        asked |= {"prompt": dataclasses.asdict(takes.prompt), "sampling": dataclasses.asdict(takes.sampling)}
        found = {
            "model": model.name, "run": dataclasses.asdict(origin), "asked": asked,
            **as_json(experiment, summaries, predicted),
        }  # fmt: skip
        write(Path(args.json), json.dumps(found, indent=2) + "\n")


def _changed(prompt: Prompt) -> str:
    """The fields of a prompt that are not what they would be without one, such as "periodic 7"."""
    plain = Prompt(periodic=0, periodic_jitter=0, original_sound=False)
    nothing, given = dataclasses.asdict(plain), dataclasses.asdict(prompt)
    if not prompt.periodic:
        del given["periodic_jitter"]
    found = [f"{name.replace('_', ' ')} {value}" for name, value in given.items() if value != nothing[name]]
    return ", ".join(found) or "nothing"


def _turned(head: list[str], rows: list[list[str]]) -> list[list[str]]:
    return [[head[column], *(row[column] for row in rows)] for column in range(1, len(head))]


def _reference(args: argparse.Namespace, judge: Judge, model: VampNet) -> dict[str, list[np.ndarray]]:
    """Embeddings of up to 2000 clips of the folder that the distance is measured from."""
    clips, _ = choose_clips(args.reference, argparse.Namespace(**{**vars(args), "clips": 2000}), model, args.loop, full=False)
    each = [judge.embed(clip.audio, clip.rate) for clip in clips]
    return {embedding.name: [one[embedding.name] for one in each] for embedding in judge.embeddings}


def as_json(experiment: Experiment, summaries: dict[str, Summary], tokens: dict[str, Any] | None) -> dict[str, Any]:
    """Plain values: {"settings": {label: {"clips", "figures": {name: [value, low, high]}, "fad_uncorrected"}}, "tokens"}."""

    def plain(value: float) -> float | None:
        return round(value, 6) if np.isfinite(value) else None

    found = {}
    for setting in experiment.settings:
        summary = summaries[setting.recipe.id]
        figures = {name: [plain(x) for x in (e.value, e.low, e.high)] for name, e in summary.figures.items()}
        uncorrected = {name: plain(value) for name, value in summary.plain_fad.items()}
        found[setting.label] = {"clips": summary.clips, "figures": figures, "fad_uncorrected": uncorrected}
    return {"settings": found, "tokens": tokens}
