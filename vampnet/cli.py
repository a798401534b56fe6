"""The command line: `python -m vampnet vamp|encode|decode|models|convert|train|...`, also installed as `vampnet`.

Results (paths) go to stdout, everything else to stderr. Exit status: 0, 2 for input that cannot be used, 130 when stopped.
Heavy modules are imported once it is clear that they are needed, so that help comes at once.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import importlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vampnet import compiling, convert, hub_cli
from vampnet.cli_settings import add_settings, settings
from vampnet.config import PRECISIONS, CancelledError
from vampnet.program import prepare
from vampnet.progress import SENTENCES, told_by

FORMATS = ("wav", "flac", "ogg")

MODULES = {
    "train": {
        "codec": ("vampnet.train.codec", "stage 1: audio to tokens and back"),
        "tokens": ("vampnet.train.tokens", "encode folders of audio for stage 2"),
        "coarse": ("vampnet.train.transformer", "stage 2: the model of the coarse layers"),
        "fine": ("vampnet.train.transformer", "stage 2: the model of the fine layers"),
        "export": ("vampnet.train.transformer", "write a run's weights into a model's folder"),
        "distill": ("vampnet.train.distill", "stage 3: the coarse model guided, in half of the time"),
        "decoder": ("vampnet.train.decoder", "stage 4: the codec's decoder, against a discriminator"),
    },
    "evaluate": {
        "model": ("vampnet.evaluate.model", "everything, on a folder of audio; the word may be left out"),
        "codec": ("vampnet.evaluate.codec", "how well a codec gives audio back"),
        "paper": ("vampnet.evaluate.paper", "the paper's experiments"),
        "card": ("vampnet.evaluate.card", "plots for a model card"),
    },
}


# ----------------------------------------------------------------------------------------------------------------- parser


def _bars(text: str) -> int | str:
    if text == "all":
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number or 'all', not '{text}'") from None


def _add_common(group: Any) -> None:
    about = "a bundled model, a folder, or one of the hub, such as hugggof/vampnet:choir; see 'vampnet models' (default mini)"
    group.add_argument("--model", default="mini", metavar="NAME", help=about)
    group.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: the fastest there is)")
    about = (
        "of the models' arithmetic: float32, bfloat16, int8 (default auto: int8 on CPUs and bfloat16 on GPUs that are made "
        "for it, else float32)"
    )
    group.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help=about)
    group.add_argument("--quiet", action="store_true", help="no progress bar and no summary")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="vampnet", description="Variations of a loop or a song: part of its sound stays, the rest is made anew."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    vamp = commands.add_parser(
        "vamp",
        help="make variations of a sound file",
        description="Makes variations (takes) of a sound file, as long and as loud as it is. You say what stays of it.",
        epilog="example: vampnet vamp loop.wav -o out/ --periodic 7 --takes 4 --seed 0 --loop",
    )
    vamp.add_argument("input", help="a sound file: wav, flac, ogg, mp3, aiff")
    add_settings(vamp)
    output = vamp.add_argument_group("Output")
    output.add_argument("-o", "--out", default="out", metavar="FOLDER", help="where the takes go (default out)")
    output.add_argument("--takes", type=int, default=4, metavar="N", help="how many (default 4)")
    output.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same takes (default 0)")
    output.add_argument("--loop", action="store_true", help="make seamless loops: the end flows into the beginning")
    output.add_argument("--bars", type=_bars, metavar="N", help="use so many whole bars of the file; all = as many as it holds")
    about = "add so many seconds before and after the clip; the model plays them"
    output.add_argument("--extend", nargs=2, type=float, default=(0.0, 0.0), metavar=("BEFORE", "AFTER"), help=about)
    output.add_argument("--format", choices=FORMATS, default="wav", help="of the takes (default wav, 24 bit)")
    _add_common(output)
    encode = commands.add_parser(
        "encode",
        help="turn a sound file into a small file of tokens",
        description="Turns a sound file into tokens, 8 kilobits a second, in one channel; 'decode' gives a sound file back.",
    )
    encode.add_argument("input", help="a sound file: wav, flac, ogg, mp3, aiff")
    encode.add_argument("-o", "--out", metavar="FILE", help="the file of tokens (default: the input's name with .vnt, if free)")
    encode.add_argument("--loop", action="store_true", help="the clip is a loop: its end flows into its beginning")
    _add_common(encode)
    decode = commands.add_parser(
        "decode",
        help="turn a file of tokens into a sound file",
        description="Turns a file of tokens into a sound file, as long and as loud as the one it was made from.",
    )
    decode.add_argument("input", help="a file that 'encode' wrote")
    decode.add_argument("-o", "--out", metavar="FILE", help="the sound file (default: the input's name with .wav, if free)")
    decode.add_argument("--format", choices=FORMATS, help="of the sound file (default: from its name)")
    _add_common(decode)
    hub_cli.add_parser(commands)
    convert.add_parser(commands)
    compiling.add_parser(commands)
    for name, text in (("train", "train a model on your own audio"), ("evaluate", "measure a model")):
        sub = commands.add_parser(name, help=text, description=f"{text.capitalize()}. Each stage has its own --help.")
        stages = "; ".join(f"{stage}: {about}" for stage, (_, about) in MODULES[name].items())
        sub.add_argument("stage", choices=MODULES[name], help=stages)
        sub.add_argument("options", nargs=argparse.REMAINDER, help="of that stage")
    commands.add_parser("corpus", help="compose and render music to train on", add_help=False)
    commands.add_parser("bench", help="measure the speed of each stage", add_help=False)
    return parser


# --------------------------------------------------------------------------------------------------------------- commands


class _Progress:
    """A bar on stderr for each stage; nothing where nobody watches."""

    def __init__(self, show: bool) -> None:
        self.show, self.stage, self.bar = show, "", None

    def __call__(self, stage: str, step: int, of: int) -> None:
        if not self.show:
            return
        if stage != self.stage:
            self.close()
            self.stage, self.bar = stage, self._make(stage, of)
        if self.bar is None:
            sys.stderr.write(f"\r{stage} {step}/{of} ")
            sys.stderr.flush()
        else:
            self.bar.update(step - self.bar.n)

    @staticmethod
    def _make(stage: str, of: int) -> Any:
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            return None
        return tqdm(total=of, desc=f"{stage:<6}", unit="step", file=sys.stderr)

    def close(self) -> None:
        """Ends the bar's line."""
        if self.bar is not None:
            self.bar.close()
        elif self.stage:
            sys.stderr.write("\n")
        self.stage, self.bar = "", None


def _say(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        sys.stderr.write(text + "\n")


def _load_model(args: argparse.Namespace) -> Any:
    from vampnet.pipeline import VampNet

    bar = None if args.quiet else hub_cli.DownloadBar()
    try:
        return VampNet.from_pretrained(args.model, args.device, on_download=bar, precision=args.precision)
    finally:
        if bar is not None:
            bar.close()


def _vamp(args: argparse.Namespace) -> None:
    settings(args)
    from vampnet import audio

    # Bad options and audio are to be heard of before models are loaded, and a bad folder before anything is made.
    signal = audio.load(args.input)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    model, progress = _load_model(args), _Progress(not args.quiet and sys.stderr.isatty())
    try:
        vamp = model.vamp(
            signal if signal.sample_rate == model.grid.sample_rate else args.input,
            *settings(args, model), args.takes, args.seed, loop=args.loop, bars=args.bars, extend=tuple(args.extend),
            on_step=progress,
        )  # fmt: skip
    finally:
        progress.close()
    vamp.source.path_to_file = args.input
    paths = vamp.save(args.out, args.format, Path(args.input).stem)
    seconds = vamp.source.audio_data.shape[-1] / vamp.source.sample_rate
    _say(
        args,
        f"{len(paths)} take{'s' * (len(paths) > 1)} of {seconds:.2f} s; "
        f"{vamp.kept_share:.1%} of the tokens stayed, {vamp.kept_kbps:.2f} kbps."
        + (f" {vamp.beats.note}" if vamp.beats is not None else ""),
    )
    sys.stdout.write("".join(f"{path}\n" for path in paths))


def _output(args: argparse.Namespace, suffix: str) -> Path:
    """The file to write. One that nobody named replaces nothing: beside the tokens of a recording the recording itself lies."""
    out = Path(args.out) if args.out else Path(args.input).with_suffix(suffix)
    if out.exists() and out.samefile(args.input):
        raise ValueError(f"'{out}' is the input itself: name another file with --out.")
    if not args.out and out.exists():
        raise ValueError(f"'{out}' is there already: name another file with --out, or this one to replace it.")
    return out


def _encode(args: argparse.Namespace) -> None:
    from vampnet import audio, tokens_file

    signal, out = audio.load(args.input), _output(args, ".vnt")
    model = _load_model(args)
    file = tokens_file.compress(model, signal if signal.sample_rate == model.grid.sample_rate else args.input, args.loop)
    size, seconds = tokens_file.write(file, out), file.samples / file.sample_rate
    _say(args, f"{seconds:.2f} s in {size:,} bytes: {8 * size / seconds / 1000:.2f} kbps.")
    sys.stdout.write(f"{out}\n")


def _decode(args: argparse.Namespace) -> None:
    from vampnet import audio, tokens_file

    file = tokens_file.read(args.input)
    out = _output(args, f".{args.format or 'wav'}")
    if not args.format and out.suffix.lower().lstrip(".") not in FORMATS:
        raise ValueError(f"'{out.name}' does not say which format to write: name it *.wav, *.flac or *.ogg, or use --format.")
    sys.stdout.write(f"{audio.save(tokens_file.expand(_load_model(args), file), out, args.format)}\n")


def _pass_on(arguments: Sequence[str]) -> int | None:
    """Runs the commands that have a module of their own; None if `arguments` is not one of them."""
    command, *rest = arguments
    try:
        if command == "corpus":
            return importlib.import_module("vampnet.train.corpus").main(rest)
        if command == "bench":
            return importlib.import_module("vampnet.bench.command").main(rest)
        if command == "evaluate" and rest and rest[0] not in (*MODULES[command], "-h", "--help"):
            rest = ["model", *rest]
        if rest and rest[0] in MODULES.get(command, ()):
            module = MODULES[command][rest[0]][0]
            keep = module == "vampnet.train.transformer"
            return importlib.import_module(module).main(rest if keep else rest[1:])
    except ModuleNotFoundError as error:
        extra = "evaluate" if command == "evaluate" else "train"
        raise ValueError(
            f"'{command}' needs '{error.name}', which is not installed: python -m pip install -r requirements/{extra}.txt"
        ) from error
    return None


def _name(error: UnicodeError) -> tuple[str | bytes, int]:
    """What cannot be encoded, as the bytes that it was read from or, if it was read from none, as escapes."""
    for name in ("surrogateescape", "backslashreplace"):
        with contextlib.suppress(UnicodeError):
            return codecs.lookup_error(name)(error)
    raise error


PATHS = {
    FileNotFoundError: "There is no '{path}': check the path.",
    FileExistsError: "'{path}' is there already, and it is no folder: give another name.",
    NotADirectoryError: "'{path}' is no folder: give another one.",
    IsADirectoryError: "'{path}' is a folder: give the name of a file.",
    PermissionError: "'{path}' may not be read or written by you: give another place.",
}


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        for kind, sentence in PATHS.items():
            if isinstance(error, kind):
                return sentence.format(path=error.filename)
    if isinstance(error, OSError) and error.strerror:
        return f"'{error.filename}': {error.strerror}." if error.filename else f"{error.strerror}."
    return " ".join(str(error).split())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status; argparse itself exits with 2 for a line that it cannot parse."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    prepare()
    if hasattr(sys.stdout, "reconfigure"):
        # A file's name may be any bytes, and is said as it is, unless that cannot be written at all.
        codecs.register_error("name", _name)
        sys.stdout.reconfigure(errors="name")
    try:
        status = _pass_on(arguments) if arguments else None
        if status is not None:
            return status
        args = build_parser().parse_args(arguments)
        with warnings.catch_warnings():
            # What libraries have to say about their own future is not for musicians.
            warnings.simplefilter("ignore")
            commands = {"vamp": _vamp, "encode": _encode, "decode": _decode, "compile": compiling.run}
            commands |= {"models": hub_cli.run, "convert": convert.run}
            with told_by(lambda kind: sys.stderr.write(f"warning: {SENTENCES[kind]}\n")):
                commands[args.command](args)
    except (KeyboardInterrupt, CancelledError):
        sys.stderr.write("Stopped.\n")
        return 130
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {_sentence(error)}\n")
        return 2
    return 0
