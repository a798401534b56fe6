"""Training data of stage 2: audio -> token shards (`vampnet.train.shards`)."""

from __future__ import annotations

import argparse
import functools
import logging
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vampnet import audio
from vampnet.train.ahead import read_ahead
from vampnet.train.audio_pool import MAX_FILE_SECONDS
from vampnet.train.loop import StopRequest
from vampnet.train.shards import done_sources, keep_vectors, write_shard
from vampnet.train.tempo import beat_of

log = logging.getLogger(__name__)

PIECE_SECONDS = 30.0
SHARD_ROWS = 256
SEMITONES = (-2, -1, 1, 2)
"""By how much a further version of a piece is played higher and faster, or lower and slower."""


def find_audio(folders: Sequence[str | os.PathLike]) -> Iterator[tuple[str, Path]]:
    """(name, path) of every sound file below the folders, sorted; the name is the path as it was given, with forward slashes.

    Raises:
        ValueError: a folder does not exist.
    """
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder}: check the path given with --audio.")
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in audio.SUFFIXES and path.is_file():
                yield path.as_posix(), path


def channel_views(audio: Tensor, channels: str) -> list[Tensor]:
    """(C, N) float -> the mono signals (N,) to encode: the mean of the channels, with "all" also each channel that differs."""
    views = [audio.mean(dim=0)]
    if channels == "all" and audio.shape[0] > 1 and not torch.allclose(audio[0], audio[1], atol=1e-4):
        views += list(audio)
    return views


def pieces_of(path: str | os.PathLike, sample_rate: int, hop: int, channels: str = "mono") -> list[tuple[Tensor, float]]:
    """What of one sound file is encoded.

    Each view is cut into pieces of at most 30 s, and each piece is brought to -24 LUFS by itself, as a clip is before it is
    vamped. Silent pieces and tails under a second are left out.

    Args:
        path: the file.
        sample_rate, hop: the codec's.
        channels: "mono" or "all".

    Returns:
        Pieces (N,) float, each with where it begins in the file, in seconds.

    Raises:
        ValueError: the file cannot be used (vampnet.audio.AudioError); the sentence says why.
    """
    signal = audio.load(path, sample_rate, max_seconds=MAX_FILE_SECONDS)
    length = int(PIECE_SECONDS * sample_rate) // hop * hop
    pieces = []
    for view in channel_views(signal.audio_data[0], channels):
        for number, part in enumerate(view.split(length)):
            if len(part) < sample_rate or part.abs().max() < 1e-4:
                continue
            level, _ = audio.to_codec_level(audio.make_signal(part[None, None], sample_rate))
            pieces.append((level.audio_data[0, 0], number * length / sample_rate))
    return pieces


def versions_of(piece: Tensor, name: str, count: int) -> list[tuple[Tensor, float]]:
    """A piece as it is, and as a tape that runs faster or slower by one or two semitones would play it.

    A model that has heard a piece a dozen times knows it by heart. Each version is another piece to it, in another key and
    tempo; where a GPU encodes, it costs a twentieth of a new one.

    Args:
        piece: (N,) float.
        name: decides which versions there are.
        count: of them beside the piece itself, at most 4.

    Returns:
        (N / speed,) float and the speed, the piece itself at 1.0 first.
    """
    import soxr

    seed = name.encode(errors="backslashreplace").decode()  # the name itself, but where that is not UTF-8
    speeds = [2 ** (semitones / 12) for semitones in random.Random(seed).sample(SEMITONES, count)]
    return [(piece, 1.0)] + [(torch.from_numpy(soxr.resample(piece.numpy(), speed, 1.0)), speed) for speed in speeds]


@torch.no_grad()
def encode_pieces(codec, pieces: Sequence[Tensor], batch: int = 1) -> list[Tensor]:
    """Tokens (K, T) int16 on the CPU of pieces (N,) float, in their order.

    Args:
        codec: with `encode(audio (B, 1, N)) -> (B, K, T)`.
        batch: most pieces, of one length, that are encoded at once.
    """
    device = next((p.device for p in codec.parameters()), "cpu") if isinstance(codec, torch.nn.Module) else "cpu"
    alike: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        alike.setdefault(len(piece), []).append(index)
    rows: dict[int, Tensor] = {}
    for indices in alike.values():
        for first in range(0, len(indices), batch):
            some = indices[first : first + batch]
            codes = codec.encode(torch.stack([pieces[index] for index in some])[:, None].to(device))
            rows.update(zip(some, codes.to("cpu", torch.int16), strict=True))
    return [rows[index] for index in range(len(pieces))]


def encode_folders(
    codec,
    folders: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    channels: str = "mono",
    progress: bool = True,
    minutes: float | None = None,
    stop: Callable[[], bool] | None = None,
    workers: int = 0,
    batch: int = 1,
    transposed: int = 0,
) -> dict[str, int]:
    """Encode all sound files below `folders` into token shards in `out`; files that are done are skipped.

    A shard is written whenever 256 rows have come together, so a kill loses at most those. A file that cannot be used is named
    in the log and left out.

    Args:
        codec: with `sample_rate`, `hop`, `codebook_vectors()` and `encode(audio (B, 1, N)) -> (B, K, T)`.
        minutes: begin no file later than this.
        stop: begin no other file once this says True; what is encoded is written.
        workers: processes that read files; 0 = this one reads them.
        batch: most pieces of one length that are encoded at once.
        transposed: further versions of each piece, 0 to 4; see `versions_of`.

    Returns:
        {"files", "skipped", "failed", "rows", "steps"} of this call, and "left" for want of time or because of `stop`.

    Raises:
        ValueError: a folder is missing, or `out` holds the tokens of another codec.
    """
    from tqdm import tqdm

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    keep_vectors(codec, out)
    done, files = done_sources(out), list(find_audio(folders))
    todo = [(name, path) for name, path in files if name not in done]
    result = {"files": 0, "skipped": len(files) - len(todo), "failed": 0, "rows": 0, "steps": 0, "left": 0}
    end = time.monotonic() + 60 * (math.inf if minutes is None else minutes)
    stop = stop or (lambda: False)
    writer = _ShardWriter(codec, out, batch, result)
    read = functools.partial(_read, sample_rate=codec.sample_rate, hop=codec.hop, channels=channels, transposed=transposed)
    found = read_ahead(read, todo, workers)
    for begun, (name, path) in enumerate(tqdm(todo, unit="file", disable=not progress, file=sys.stderr)):
        if time.monotonic() > end or stop():
            result["left"] = len(todo) - begun
            break
        pieces = next(found)
        if isinstance(pieces, str):
            log.warning("%s is left out: %s", name, pieces)
            result["failed"] += 1
            continue
        writer.add(name, path, [(piece.clone() if workers else piece, *where) for piece, *where in pieces])
    writer.finish()
    return result


Piece = tuple[Tensor, float, float]
"""(N,) float, where it begins in its file in seconds, and how fast it is played."""


def _read(item: tuple[str, Path], sample_rate: int, hop: int, channels: str, transposed: int) -> list[Piece] | str:
    """The pieces of a named file in all their versions, or the sentence that says why it cannot be used."""
    try:
        pieces = pieces_of(item[1], sample_rate, hop, channels)
    except ValueError as error:
        return str(error)
    return [
        (version, start, speed)
        for piece, start in pieces
        for version, speed in versions_of(piece, f"{item[0]} {start}", transposed)
    ]


class _ShardWriter:
    """Encodes files once a batch of pieces has come together, and writes a shard once 256 rows have.

    Args:
        result: of `encode_folders`; counted up.
    """

    def __init__(self, codec, out: Path, batch: int, result: dict[str, int]) -> None:
        self.codec, self.out, self.batch, self.result = codec, out, batch, result
        self.read: list[tuple[str, Path, list[Piece]]] = []
        self.rows: list[Tensor] = []
        self.beats: list[tuple[float, float] | None] = []
        self.names: list[str] = []

    def add(self, name: str, path: Path, pieces: list[Piece]) -> None:
        self.read.append((name, path, pieces))
        if sum(len(some) for _, _, some in self.read) >= self.batch:
            self.encode()

    def encode(self) -> None:
        rows = iter(encode_pieces(self.codec, [piece for *_, some in self.read for piece, *_ in some], self.batch))
        second = self.codec.sample_rate / self.codec.hop
        for name, path, some in self.read:
            beat = beat_of(path)
            for _, start, speed in some:
                self.rows.append(next(rows))
                self.result["steps"] += self.rows[-1].shape[1]
                scale = second / speed
                self.beats.append(None if beat is None else ((beat[0] - start) % beat[1] * scale, beat[1] * scale))
            self.names.append(name)
            self.result["files"] += 1
            self.result["rows"] += len(some)
        self.read = []
        if len(self.rows) >= SHARD_ROWS:
            self.write()

    def write(self) -> None:
        write_shard(self.out, self.rows, self.names, self.beats)
        self.rows, self.beats, self.names = [], [], []

    def finish(self) -> None:
        self.encode()
        if self.rows:
            self.write()


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m vampnet.train.tokens`: encode folders of audio. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="vampnet train tokens", description="Encode folders of audio into training tokens.")
    about = "the trained codec: a folder, or the name of a model such as mini"
    parser.add_argument("--codec", required=True, metavar="NAME", help=about)
    parser.add_argument(
        "--audio", required=True, nargs="+", metavar="FOLDER", help="folders of wav, flac, ogg, mp3 or aiff files"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the shards go; run again to go on")
    parser.add_argument(
        "--channels",
        choices=("mono", "all"),
        default="mono",
        help="mono: the mean of the channels; all: left and right as well",
    )
    parser.add_argument("--device", default=None, help="cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read files (default: this one reads them)")
    parser.add_argument("--batch", type=int, default=1, help="pieces of one length encoded at once (default 1; a GPU wants 32)")
    parser.add_argument(
        "--transposed", type=int, default=0, metavar="N", help="further versions of each piece, faster or slower (0 to 4)"
    )
    parser.add_argument("--stop-after", type=float, metavar="MINUTES", help="begin no file later than this, and exit with 3")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        from vampnet.checkpoints import load_codec_of
        from vampnet.codec import load_codec

        if args.workers < 0 or args.batch < 1:
            raise ValueError("--workers must be at least 0 and --batch at least 1.")
        if not 0 <= args.transposed <= len(SEMITONES):
            raise ValueError(f"--transposed must be between 0 and {len(SEMITONES)}.")
        codec = load_codec(args.codec) if Path(args.codec).is_dir() else load_codec_of(args.codec)
        if isinstance(codec, torch.nn.Module):
            codec.eval().to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with StopRequest.listening() as stop:
            result = encode_folders(
                codec, args.audio, args.out, args.channels, minutes=args.stop_after, stop=lambda: bool(stop),
                workers=args.workers, batch=args.batch, transposed=args.transposed,
            )  # fmt: skip
        if result["files"] + result["skipped"] + result["left"] == 0:
            raise ValueError(f"No file below {', '.join(args.audio)} can be used: name folders of audio.")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    seconds = result["steps"] * codec.hop / codec.sample_rate
    sys.stderr.write(
        f"{result['files']} files, {result['rows']} rows, {seconds / 3600:.2f} hours encoded; "
        f"{result['skipped']} were done before, {result['failed']} could not be used.\n"
    )
    if stop:
        sys.stderr.write("Stopped; the same command goes on from here.\n")
        return 130
    return 3 if result["left"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
