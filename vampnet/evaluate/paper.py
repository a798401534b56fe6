"""`python -m vampnet evaluate paper`: the paper's experiments on any model, and what becomes of its claims."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import Sampling
from ..pipeline import VampNet
from . import claims, plots, report
from .extras import need
from .options import COMPOSED, add_common, batch_of, check_common, choose_clips, load_model, make_judge
from .origin import SIGN, STORE, Origin, settle
from .parts import read_part, run_parts
from .recipes import CODEC, Experiment, paper_experiments, paper_sampling
from .runner import Judge, Progress, Results, Source, run, stored
from .store import Store, write
from .summary import summarize
from .token_figures import token_figures, token_table

NAMES = ("baselines", "prompts", "steps", "bitrate", "tokens")
SIZE = "report.json"
"""Of how many clips the report in a folder is."""
REPORTS = ("README.md", SIGN, SIZE, *(f"{name}.{kind}" for name in (*NAMES, "musical") for kind in ("csv", "md", "png")))
"""All files that a report may consist of."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="vampnet evaluate paper",
        description="Runs the paper's experiments: sampling steps, prompts, bit rate, baselines. Writes tables, plots and what "
        "becomes of each of the paper's claims. A run that was stopped goes on where it was, and one with more --clips, other "
        "experiments or another --embedding takes what is there. A folder holds the results of one model in one precision.",
        epilog="example: vampnet evaluate paper --model mini --audio held-out --clips 50 --only steps --only prompts",
    )
    made.add_argument(
        "--audio",
        default=COMPOSED,
        metavar="FOLDER",
        help="of music (default: composed music that no training has heard, played by the built-in synthesizer)",
    )
    made.add_argument("--out", default="docs/results", metavar="FOLDER", help="where all goes (default docs/results)")
    made.add_argument("--only", action="append", choices=NAMES, metavar="EXPERIMENT", help=f"one of {', '.join(NAMES)}; may be "
                      "given several times (default: all)")  # fmt: skip
    made.add_argument(
        "--report", action="store_true", help="make nothing: tables, plots and verdicts of the clips that are done"
    )
    made.add_argument(
        "--replace", action="store_true", help="delete what another model, precision, seed or beat tracker has left in --out"
    )
    about = "processes that share the work (default 1); with a small model as many as there are cores are the fastest"
    made.add_argument("--workers", type=int, default=1, metavar="N", help=about)
    made.add_argument(
        "--part", metavar="I/N", help="only every N-th clip, from the I-th on, and no report: for runs side by side"
    )
    made.add_argument("--steps", type=int, default=36, metavar="N", help="of sampling where they are not varied (default 36)")
    about = f"of sampling: 1 draws from all tokens, as the paper does (default {Sampling.typical_mass:g}, as of a vamp)"
    made.add_argument("--typical-mass", type=float, default=Sampling.typical_mass, metavar="SHARE", help=about)
    about = f"of sampling (default 0: none, as in the paper; of a vamp {Sampling.guidance:g} where gaps are short)"
    made.add_argument("--guidance", type=float, default=0.0, metavar="G", help=about)
    about = f"of sampling (default 0: none, as in the paper; of a vamp {Sampling.palette:g})"
    made.add_argument("--palette", type=float, default=0.0, metavar="W", help=about)
    about = f"of sampling (default 0: none, as in the paper; of a vamp {Sampling.recall:g})"
    made.add_argument("--recall", type=float, default=0.0, metavar="W", help=about)
    add_common(made)
    return made


def sampling_of(args: argparse.Namespace) -> Sampling:
    """How takes are drawn, by the options. ValueError for steps, a mass, a guidance, palette or recall that cannot be."""
    return paper_sampling(args.steps, args.typical_mass, args.guidance, args.palette, args.recall)


def chosen(args: argparse.Namespace) -> list[Experiment]:
    """The experiments asked for, in their order. ValueError for steps, a mass, a guidance, palette or recall that cannot be."""
    every = paper_experiments(sampling_of(args))
    return [experiment for experiment in every if args.only is None or experiment.name in args.only]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; exit status 0, 2 for input that cannot be used, or 130 when stopped."""
    args = parser().parse_args(argv)
    try:
        check_common(args)
        part = None if args.part is None else read_part(args.part)
        if args.workers < 1:
            raise ValueError(f"--workers must be at least 1, not {args.workers}.")
        experiments = chosen(args)
        # Now, and not after hours of work.
        for name in ("matplotlib.figure", "mir_eval.beat", "mir_eval.onset"):
            need(name)
        out = Path(args.out)
        if args.audio != COMPOSED and not Path(args.audio).is_dir():
            raise ValueError(f"There is no folder '{args.audio}': name one that holds audio.")
        out.mkdir(parents=True, exist_ok=True)
        if args.workers > 1 and not args.report:
            # What cannot be is said here, once, and not by every part.
            this = _prepare(args, out)
            _keep_larger(this, choose_clips(args.audio, args, this.model, whole=False, full=True)[1])
            run_parts(sys.argv[1:] if argv is None else argv, args.workers)
        _run(_prepare(args, out), experiments, part)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; the same command goes on from here, and with --report it shows what is done.\n")
        return 130
    return 0


@dataclass(frozen=True)
class Run:
    """What a run is of: its options, the model and what judges it, where results are kept and where the report goes."""

    args: argparse.Namespace
    model: VampNet
    judge: Judge
    origin: Origin
    store: Store
    out: Path


def _prepare(args: argparse.Namespace, out: Path) -> Run:
    """Loads what a run needs, and makes the folder its own."""
    model = load_model(args)
    judge = make_judge(args, model)
    origin = judge.origin(model)
    settle(out, origin, REPORTS, args.replace)
    return Run(args, model, judge, origin, Store(out / STORE, origin.id), out)


def _run(this: Run, experiments: list[Experiment], part: tuple[int, int] | None) -> None:
    args, model, judge = this.args, this.model, this.judge
    clips, count = choose_clips(args.audio, args, model, whole=False, full=True)
    if part is None:
        _keep_larger(this, count)
    else:
        clips = itertools.islice(clips, part[0] - 1, None, part[1])
        count = len(range(part[0] - 1, count, part[1]))
    recipes = [CODEC, *(setting.recipe for experiment in experiments for setting in experiment.settings)]
    ids: list[str] = []
    tokens: list[Tensor] = []
    lengths: list[float] = []

    def keep(source: Source) -> None:
        ids.append(source.clip.id)
        tokens.append(source.tokens[0])
        lengths.append(source.clip.audio.shape[-1] / source.clip.rate)

    progress = Progress(not args.quiet, name="" if part is None else f"part {args.part}, ")
    results = run(
        model, clips, count, recipes, judge, this.store, progress, keep, batch_of(args, model), compute=not args.report
    )  # fmt: skip
    if part is not None:
        return
    if not ids and args.report:
        raise ValueError("No clip has all of these experiments yet: name those that were run with --only, or go on with them.")
    if not ids:
        raise ValueError(f"No clip of {args.seconds:g} s lies below {args.audio}: give shorter --seconds or another folder.")
    for experiment in paper_experiments(sampling_of(args)):
        # What another run has made of the same clips belongs into the report as well.
        if experiment not in experiments:
            more = stored(this.store, judge, [setting.recipe for setting in experiment.settings], ids)
            results |= more or {}
            experiments = experiments if more is None else [*experiments, experiment]
    _keep_larger(this, len(ids))
    order = NAMES.index
    experiments = sorted(experiments, key=lambda one: order(one.name))
    _report(this, experiments, results, lengths, _token_table(this, ids, tokens))


def _keep_larger(this: Run, clips: int) -> None:
    """ValueError where the folder holds a report of more clips: a trial must not take its place. `--report` may."""
    try:
        there = int(json.loads((this.out / SIZE).read_text(encoding="utf-8"))["clips"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if clips < there and not (this.args.replace or this.args.report):
        raise ValueError(
            f"{this.out} holds the report of {there} clips, and this would be one of {clips}: give another folder with --out, "
            "or --replace to replace it."
        )


def _token_table(this: Run, ids: Sequence[str], tokens: Sequence[Tensor]) -> tuple[list[str], list[list[str]]] | None:
    """How well hidden tokens of the clips are predicted, kept in the store; None where nobody asked for it yet."""
    name = "tokens-" + hashlib.sha256(json.dumps([this.args.seed, *ids]).encode()).hexdigest()[:12]
    found: dict[str, Any] | None = this.store.read_values(name)
    if found is None:
        if this.args.report or (this.args.only is not None and "tokens" not in this.args.only):
            return None
        found = token_figures(this.model, tokens, this.args.seed)
        this.store.write_values(name, found)
    return token_table(found)


def _report(this: Run, experiments: list[Experiment], results: Results, lengths: Sequence[float], table: Any) -> None:
    """Writes tables, plots, verdicts and the document that holds them together; prints the verdicts."""
    args, judge, out = this.args, this.judge, this.out
    progress = Progress(not args.quiet)

    def told(done: int, of: int) -> None:
        if done:
            progress(f"distances and intervals {done}/{of}", 1, progress.lap(), of - done)

    summaries = summarize(results, None, args.draws, args.seed, told)
    first = judge.embeddings[0].name
    figures = claims.Figures(experiments, summaries)
    verdicts = {embedding.name: claims.judge(figures, embedding.name) for embedding in judge.embeddings}
    # What is not written anew is of other clips.
    for name in REPORTS:
        (out / name).unlink(missing_ok=True)
    for experiment in experiments:
        write(out / f"{experiment.name}.csv", report.to_csv(experiment, summaries))
        write(out / f"{experiment.name}.md", report.markdown(*report.table(experiment, summaries)))
    write(out / SIGN, report.verdicts_csv(verdicts))
    pictures = plots.draw_all(experiments, summaries, first, out)
    audio = "composed music with held-out seeds" if args.audio == COMPOSED else f"`{Path(args.audio).name}`"
    missing = [name for name in NAMES if name not in [one.name for one in experiments] and (name != "tokens" or table is None)]
    notes = [] if table is None else ["By frequency: what the codes' mere frequencies in these clips give."]
    if args.seconds <= 4 and any(one.name == "prompts" for one in experiments):
        notes.append(f"Of clips of {args.seconds:g} s 'inpaint, 2 s' keeps everything, and is the codec alone.")
    if missing:
        notes.append(f"Not run on all of these clips yet: {', '.join(missing)}.")
    about = report.About(
        this.model.name, this.origin, lengths, audio, judge.embeddings, report.how_drawn(sampling_of(args)),
        notes=(*report.thin_notes(results, judge.embeddings), *notes),
    )  # fmt: skip
    write(out / "README.md", report.document(about, experiments, summaries, verdicts, pictures, table))
    write(out / SIZE, json.dumps({"clips": len(lengths), "seconds": args.seconds, "audio": audio}) + "\n")
    for verdict in verdicts[first]:
        sys.stdout.write(f"{verdict.verdict}: {verdict.claim}\n    {verdict.why}\n")
    sys.stdout.write(f"{out / 'README.md'}\n")
