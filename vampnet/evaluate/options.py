"""What the commands `evaluate model` and `evaluate paper` have in common: options, clips, judge and model."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import PRECISIONS
from ..serving import batch_for
from .clips import Clip, composed_clips, folder_clips
from .runner import Judge

if TYPE_CHECKING:
    from ..pipeline import VampNet

COMPOSED = "composed"


def add_model(parser: argparse.ArgumentParser) -> None:
    """The options that `load_model` reads beside --quiet."""
    parser.add_argument("--model", default="mini", metavar="NAME", help="any model; see 'vampnet models' (default mini)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: the fastest there is)")
    about = (
        "of the models' arithmetic: float32, bfloat16, int8 (default auto: int8 on CPUs and bfloat16 on GPUs that are made "
        "for it, else float32)"
    )
    parser.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help=about)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that both commands have."""
    add_model(parser)
    parser.add_argument("--clips", type=int, default=50, metavar="N", help="how many clips at most (default 50)")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of a clip (default 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default 0)")
    parser.add_argument(
        "--embedding",
        action="append",
        metavar="NAME",
        help="for the Fréchet distance: logmel (needs no download), musicnn, vggish (the paper's), clap, codec (of the "
        "judged model), codec:MODEL; may be given several times, the first one is plotted (default logmel)",
    )
    parser.add_argument("--vggish", metavar="FILE", help="the weights of VGGish (default: torch hub's cache, or a download)")
    about = "wheel or folder of the package musicnn, of which the weights are read (default: the installed one)"
    parser.add_argument("--musicnn", metavar="FILE", help=about)
    about = "a folder or a repository with a CLAP model (default: laion/larger_clap_music of the hub)"
    parser.add_argument("--clap", metavar="NAME", help=about)
    parser.add_argument(
        "--beats", choices=("auto", "beat-this", "librosa"), default="auto", help="the beat tracker (default auto)"
    )
    parser.add_argument("--draws", type=int, default=300, metavar="N", help="of the bootstrap (default 300)")
    about = "takes that the models see at a time (default 1 or 4 on a CPU, else 16)"
    parser.add_argument("--batch", type=int, default=0, metavar="N", help=about)
    parser.add_argument("--quiet", action="store_true", help="no progress")


def check_common(args: argparse.Namespace) -> None:
    """ValueError for numbers that cannot be meant."""
    for name, low in (("clips", 1), ("draws", 20), ("seed", 0)):
        if getattr(args, name) < low:
            raise ValueError(f"--{name} must be at least {low}, not {getattr(args, name)}.")
    if args.batch < 0:
        raise ValueError(f"--batch must be at least 1, not {args.batch}.")
    if not 1 <= args.seconds <= 60:
        raise ValueError(f"--seconds must lie between 1 and 60, not {args.seconds:g}.")


def load_model(args: argparse.Namespace):
    """The `VampNet` of `--model` on `--device`, in `--precision`."""
    from ..pipeline import VampNet

    with _download_bar(args) as bar:
        return VampNet.from_pretrained(args.model, args.device, on_download=bar, precision=args.precision)


@contextlib.contextmanager
def _download_bar(args: argparse.Namespace) -> Iterator[Any]:
    """What is told of downloads; None with --quiet."""
    from ..hub_cli import DownloadBar

    bar = None if args.quiet else DownloadBar()
    try:
        yield bar
    finally:
        if bar is not None:
            bar.close()


def make_judge(args: argparse.Namespace, model) -> Judge:
    """The judge that the options ask for; the beat tracker is decided once, so that all clips have the same one."""
    from .. import beats
    from .embeddings import make_embeddings

    with _download_bar(args) as bar:
        embeddings = make_embeddings(
            args.embedding or ["logmel"], model.codec, args.vggish, model.device, args.clap, bar, args.musicnn
        )
    engine = args.beats
    if engine == "auto":
        engine = "beat-this" if beats.find_checkpoint()[0] is not None else "librosa"
    return Judge(embeddings, engine, args.seed)


def choose_clips(audio: str, args: argparse.Namespace, model: VampNet, whole: bool, full: bool) -> tuple[Iterator[Clip], int]:
    """The clips of a folder, or composed ones, and how many there will be at most.

    Args:
        audio: a folder, or `COMPOSED`.
        args: as of `add_common`: how many, how long.
        model: whose rate they get.
        whole, full: as of `folder_clips`.

    Raises:
        ValueError: the folder holds no clips.
    """
    from .clips import excerpts

    rate, seconds = model.grid.sample_rate, args.seconds
    if audio == COMPOSED:
        return composed_clips(args.clips, seconds, rate), args.clips
    if not Path(audio).is_dir():
        raise ValueError(f"There is no folder '{audio}': name one that holds audio.")
    count = min(args.clips, len(excerpts(audio, seconds, whole)))
    return folder_clips(audio, args.clips, seconds, rate, whole, full), count


def batch_of(args: argparse.Namespace, model: VampNet) -> int:
    """Takes that the models see at a time: as asked for, else what the device gains by."""
    return args.batch or batch_for(model)
