"""`python -m vampnet bench`: seconds, tokens a second, memory and the share of the machine's limit for each stage."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vampnet.bench.cases import ABOUT, AXES, BASE_STEPS, plan
from vampnet.config import PRECISIONS

if TYPE_CHECKING:
    from vampnet.bench.runner import Run

FULL = {
    "stages": tuple(AXES), "lengths": (5.0, 10.0, 30.0, 60.0, 300.0, 600.0), "takes": (1, 2, 4, 8),
    "steps": (1, 4, 8, 12, 24, 36, 72), "repeats": 5, "limit": 200.0,
}  # fmt: skip
QUICK = {
    "stages": tuple(stage for stage in AXES if stage not in ("beats", "command")), "lengths": (5.0, 10.0), "takes": (1, 4),
    "steps": (4,), "repeats": 3, "limit": 4.0,
}  # fmt: skip
LONGEST_SECONDS, MOST_TAKES, MOST_STEPS = 600.0, 64, 1000


def _list(text: str, kind: Callable[[str], Any], low: float, high: float, what: str) -> tuple:
    """Numbers with commas between them, each within low..high."""
    try:
        values = tuple(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or not all(low <= value <= high for value in values):
        raise argparse.ArgumentTypeError(f"must be {what} from {low:g} to {high:g} with commas between them, not '{text}'")
    return values


def _lengths(text: str) -> tuple[float, ...]:
    return _list(text, float, 0.5, LONGEST_SECONDS, "seconds")


def _takes(text: str) -> tuple[int, ...]:
    return _list(text, int, 1, MOST_TAKES, "whole numbers")


def _steps(text: str) -> tuple[int, ...]:
    return _list(text, int, 1, MOST_STEPS, "whole numbers")


def _stages(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip().replace("-", " ") for part in text.split(",")))
    unknown = [name for name in names if name not in AXES]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(AXES)}")
    return names


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not '{text}'")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `vampnet bench`."""
    parser = argparse.ArgumentParser(
        prog="vampnet bench",
        description="Measures how fast each stage is, how much memory it takes, and how near it is to what the machine can do. "
        f"One thing at a time is varied around 10 s, 4 takes and {BASE_STEPS} steps.",
        epilog="stages: " + "; ".join(f"{stage}: {about}" for stage, about in ABOUT.items()),
    )

    def shown(values: Any) -> str:
        return ",".join(f"{value:g}" for value in values) if isinstance(values, tuple) else f"{values:g}"

    add = parser.add_argument
    about = "what to measure, with commas between them: mini, another model (see 'vampnet models'), a folder, or paper: "
    add("--model", default="mini", metavar="NAMES", help=about + "random weights in the published shapes (default mini)")
    add("--stages", type=_stages, metavar="NAMES", help="which ones, with commas between them (default all)")
    add("--lengths", type=_lengths, metavar="S", help=f"seconds of music (default {shown(FULL['lengths'])})")
    add("--takes", type=_takes, metavar="N", help=f"takes at once (default {shown(FULL['takes'])})")
    add("--steps", type=_steps, metavar="N", help=f"coarse sampling steps (default {shown(FULL['steps'])})")
    add("--device", metavar="NAME", help="cpu, cuda or mps (default: the fastest there is)")
    add("--threads", type=_positive, metavar="N", help="of the processor (default: torch's own choice)")
    about = "of the transformers' weights (default auto: what a vamp takes here)"
    add("--precision", choices=("auto", *PRECISIONS), default="auto", help=about)
    add("--repeats", type=_positive, metavar="N", help=f"repetitions of each figure (default {FULL['repeats']})")
    about = f"leave out a case of which one repetition would take longer (default {shown(FULL['limit'])} s)"
    add("--limit", type=float, metavar="S", help=about)
    add("--quick", action="store_true", help="fewer and shorter cases: under a minute with mini")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="also write bench.json, bench.md and pictures there, a stopped run beside a whole one into its folder stopped",
    )
    about = "compare with an earlier run's bench.json; with two files, compare these and measure nothing"
    add("--compare", nargs="+", type=Path, metavar="JSON", help=about)
    about = "where the files of 'paper' lie or are to be made (3 GB; default: made anew, and deleted at the end)"
    add("--weights", type=Path, metavar="FOLDER", help=about)
    add("--quiet", action="store_true", help="no line for each case on stderr")
    return parser


def _settings(args: argparse.Namespace) -> None:
    """Puts the defaults where nothing was given."""
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if not args.limit > 0:
        raise ValueError(f"--limit is a number of seconds above 0, not {args.limit:g}.")
    if args.compare and len(args.compare) > 2:
        raise ValueError("--compare takes one bench.json, or two that are to be compared with each other.")


def _measure(args: argparse.Namespace) -> Run:
    import torch

    from vampnet.bench.runner import Runner
    from vampnet.device import best_device
    from vampnet.model.fast import best_precision

    device = args.device or best_device()
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"The device '{device}' cannot be used here: leave it out, or use cpu.") from error
    names = list(dict.fromkeys(part.strip() for part in args.model.split(",") if part.strip()))
    # A folder is called by its own name, so that runs of different machines can be compared and tell nothing of their disks.
    called = {name: Path(name).resolve().name if Path(name).is_dir() else name for name in names}
    plans = {name: plan(called[name], args.stages, args.lengths, args.takes, args.steps) for name in names}
    rounds = (args.repeats - 1) * sum(len({case.stage for case in cases}) for cases in plans.values())
    total, said = sum(map(len, plans.values())) + rounds + 2, 0

    def say(text: str) -> None:
        nonlocal said
        said += 1
        if not args.quiet:
            sys.stderr.write(f"[{said}/{total}] {text}\n")

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(args.threads or before)
        precision = best_precision(device) if args.precision == "auto" else args.precision
        runner = Runner(torch.device(device), precision, args.repeats, args.limit, args.weights, say)
        return runner.measure(plans)
    finally:
        torch.set_num_threads(before)


def _draw(run: Run, folder: Path) -> list[str]:
    """The pictures, or none and a sentence where matplotlib is missing."""
    from vampnet.bench.plot import draw

    try:
        return draw(run, folder)
    except ModuleNotFoundError as error:
        sys.stderr.write(f"No pictures. {error}\n")
        return []


def _folder_for(run: Run, out: Path) -> Path:
    """`out`, or a folder in it for a run that was stopped where a whole one has been written before."""
    from vampnet.bench import compare

    try:
        whole = run.stopped and not compare.read(out / "bench.json").get("stopped")
    except (OSError, ValueError):
        whole = False
    folder = out / "stopped" if whole else out
    folder.mkdir(exist_ok=True)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; 130 if it was stopped, after writing what had been measured.

    Raises:
        ValueError, OSError: an option, a model or a file that cannot be used.
    """
    args = build_parser().parse_args(argv)
    _settings(args)
    from vampnet.bench import compare, report

    # An old file that is none, or a folder that cannot be made, is to be heard of now and not after half an hour.
    earlier = [compare.read(path) for path in args.compare or ()]
    if len(earlier) == 2:
        sys.stdout.write(compare.compare(*earlier))
        return 0
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = _measure(args)
    sys.stdout.write(report.table(run))
    if args.out and run.figures:
        folder = _folder_for(run, args.out)
        paths = report.write(run, folder, _draw(run, folder))
        sys.stdout.write("".join(f"{path}\n" for path in paths))
    if earlier:
        sys.stdout.write("\n" + compare.compare(earlier[0], report.to_json(run)))
    return 130 if run.stopped else 0
