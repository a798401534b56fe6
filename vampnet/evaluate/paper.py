"""`python -m vampnet evaluate paper`: the paper's experiments on any model, and what becomes of its claims."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from . import claims, plots, report
from .extras import need
from .options import COMPOSED, add_common, check_common, choose_clips, load_model, make_judge
from .recipes import CODEC, Experiment, paper_experiments
from .runner import Progress, Results, Source, run
from .store import Store
from .summary import summarize
from .token_figures import token_figures, token_table

NAMES = ("baselines", "prompts", "steps", "bitrate", "tokens")


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="vampnet evaluate paper",
        description="Runs the paper's experiments: sampling steps, prompts, bit rate, baselines. Writes tables, plots and what "
        "becomes of each of the paper's claims. A run that was stopped goes on where it was.",
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
    made.add_argument("--steps", type=int, default=36, metavar="N", help="of sampling where they are not varied (default 36)")
    add_common(made)
    return made


def chosen(only: Sequence[str] | None, steps: int) -> list[Experiment]:
    """The experiments asked for, in their order. ValueError for a number of steps that cannot be."""
    return [experiment for experiment in paper_experiments(steps) if only is None or experiment.name in only]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; exit status 0, or 2 for input that cannot be used."""
    args = parser().parse_args(argv)
    try:
        check_common(args)
        experiments = chosen(args.only, args.steps)
        # Now, and not after hours of work.
        for name in ("matplotlib.figure", "mir_eval.beat", "mir_eval.onset"):
            need(name)
        out = Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        _run(args, experiments, out)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("Stopped; the same command goes on from here.\n")
        return 130
    return 0


def _run(args: argparse.Namespace, experiments: list[Experiment], out: Path) -> None:
    model = load_model(args)
    judge = make_judge(args, model)
    clips, count = choose_clips(args.audio, args, model.grid.sample_rate, whole=False, full=True)
    store = Store(out / "store", judge.fingerprint(model))
    tokens: list[Tensor] = []
    wants_tokens = args.only is None or "tokens" in args.only
    recipes = [CODEC, *(setting.recipe for experiment in experiments for setting in experiment.settings)]
    names: list[str] = []

    def named(source: Source) -> None:
        tokens.append(source.tokens[0])

    def counted():
        for clip in clips:
            names.append(clip.name)
            yield clip

    results = run(model, counted(), count, recipes, judge, store, Progress(not args.quiet), named if wants_tokens else None)
    if not names:
        raise ValueError(f"No clip of {args.seconds:g} s lies below {args.audio}: give shorter --seconds or another folder.")
    table = token_table(token_figures(model, tokens, args.seed)) if wants_tokens else None
    _report(args, model.name, judge, experiments, results, table, out)


def _report(args, model: str, judge, experiments: list[Experiment], results: Results, table, out: Path) -> None:
    """Writes tables, plots, verdicts and the document that holds them together; prints the verdicts."""
    summaries = summarize(results, None, args.draws, args.seed)
    first = judge.embeddings[0].name
    figures = claims.Figures(experiments, summaries)
    verdicts = {embedding.name: claims.judge(figures, embedding.name) for embedding in judge.embeddings}
    for experiment in experiments:
        report.write(out / f"{experiment.name}.csv", report.to_csv(experiment, summaries))
        report.write(out / f"{experiment.name}.md", report.markdown(*report.table(experiment, summaries)))
    pictures = plots.draw_all(experiments, summaries, first, out)
    audio = "composed music with held-out seeds" if args.audio == COMPOSED else f"`{Path(args.audio).name}`"
    notes = () if table is None else ("By frequency: what the codes' mere frequencies in these clips give.",)
    clips = next(iter(results.values()))
    about = report.About(model, len(clips), args.seconds, audio, judge.engine, judge.embeddings, notes=notes)
    report.write(out / "README.md", report.document(about, experiments, summaries, verdicts, pictures, table))
    for verdict in verdicts[first]:
        sys.stdout.write(f"{verdict.verdict}: {verdict.claim}\n    {verdict.why}\n")
    sys.stdout.write(f"{out / 'README.md'}\n")
