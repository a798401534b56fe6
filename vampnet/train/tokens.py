"""Training data of stage 2: audio -> token shards, and crops from them.

A shard is a `tokens-NNNNN.safetensors` with `codes` (N, K, T) int16, rows filled up with -1, `lengths` (N,) int32 in time
steps, `beats` (N, 2) float32 (the first beat and the gap between beats in time steps, NaN where nobody knows) and the names
of its sources in the metadata. `codebooks.safetensors` beside them holds the codec's `vectors`
(K, 1024, D) float32, so that a transformer trains from the folder alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vampnet import audio
from vampnet.train.ahead import read_ahead
from vampnet.train.audio_pool import MAX_FILE_SECONDS
from vampnet.train.loop import StopRequest
from vampnet.train.tempo import beat_of
from vampnet.whole_file import whole_file

log = logging.getLogger(__name__)

PIECE_SECONDS = 30.0
SHARD_ROWS = 256


class TokenData:
    """All rows of a folder of shards, in memory as int16; `beats` (rows, 2) as in the shards.

    Args:
        folder: with `tokens-*.safetensors` and `codebooks.safetensors`.

    Raises:
        ValueError: the folder has no shards, or they do not belong together.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        from safetensors.torch import load_file

        self.folder = Path(folder)
        shards = sorted(self.folder.glob("tokens-*.safetensors"))
        vectors = self.folder / "codebooks.safetensors"
        if not shards or not vectors.is_file():
            raise ValueError(
                f"{self.folder} holds no tokens: make them with "
                f"python -m vampnet.train.tokens --codec FOLDER --audio FOLDER --out {self.folder}"
            )
        self.codebooks: Tensor = load_file(str(vectors))["vectors"].float()
        rows: list[Tensor] = []
        beats: list[Tensor] = []
        for shard in shards:
            tensors = load_file(str(shard))
            if tensors["codes"].shape[1] != self.codebooks.shape[0]:
                raise ValueError(f"{shard} has {tensors['codes'].shape[1]} levels, the codebooks {self.codebooks.shape[0]}.")
            rows += [codes[:, :length] for codes, length in zip(tensors["codes"], tensors["lengths"].tolist(), strict=True)]
            # Shards of earlier versions do not say.
            beats.append(tensors.get("beats", torch.full((len(tensors["lengths"]), 2), torch.nan)))
        self.beats = torch.cat(beats)
        self.lengths = np.array([row.shape[1] for row in rows], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.codes = torch.cat(rows, dim=1)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    @property
    def steps(self) -> int:
        """Time steps of all rows together."""
        return int(self.starts[-1])

    def counts(self, size: int = 1024) -> Tensor:
        """(K, size) int64: how often each code occurs in each level."""
        return torch.stack([torch.bincount(level.long(), minlength=size) for level in self.codes])

    def places(self, count: int, steps: int, generator: torch.Generator) -> list[tuple[int, int]]:
        """(row, first time step in it) of `count` random crops; every possible crop of every row is equally likely.

        Raises:
            ValueError: no row is that long.
        """
        choices = np.maximum(self.lengths - steps + 1, 0)
        total = int(choices.sum())
        if total == 0:
            raise ValueError(f"No row in {self.folder} has {steps} time steps: train with a shorter crop or on longer audio.")
        ends = np.cumsum(choices)
        picks = torch.randint(total, (count,), generator=generator).numpy()
        rows = np.searchsorted(ends, picks, side="right")
        return list(zip(rows.tolist(), (picks - (ends[rows] - choices[rows])).tolist(), strict=True))

    def at(self, places: Sequence[tuple[int, int]], steps: int) -> Tensor:
        """The crops at some places, (count, K, steps) int64."""
        begins = [int(self.starts[row]) + first for row, first in places]
        return torch.stack([self.codes[:, begin : begin + steps] for begin in begins]).long()

    def beats_at(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """(count, 2) float: the first beat and the gap between beats of the crops at some places, in time steps."""
        beats = self.beats[[row for row, _ in places]].clone()
        beats[:, 0] = (beats[:, 0] - torch.tensor([float(first) for _, first in places])).remainder(beats[:, 1])
        return beats

    def crops(self, count: int, steps: int, generator: torch.Generator) -> Tensor:
        """`count` crops of `places`, (count, K, steps) int64. ValueError as there."""
        return self.at(self.places(count, steps, generator), steps)


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


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    from safetensors.torch import save

    with whole_file(path, alone=True) as part:
        part.write_bytes(save(tensors, metadata))


def write_shard(
    folder: str | os.PathLike, rows: Sequence[Tensor], sources: Sequence[str], beats: Sequence[tuple[float, float] | None] = ()
) -> Path:
    """Write rows (K, T_i) int16 as the next shard of the folder.

    Args:
        sources: the names of the files that the rows complete.
        beats: for each row the first beat and the gap between beats in time steps, or None; empty = None for all.
    """
    folder = Path(folder)
    numbers = [int(p.stem.split("-")[1]) for p in folder.glob("tokens-*.safetensors")]
    path = folder / f"tokens-{max(numbers, default=-1) + 1:05d}.safetensors"
    lengths = torch.tensor([row.shape[1] for row in rows], dtype=torch.int32)
    codes = torch.full((len(rows), rows[0].shape[0], int(lengths.max())), -1, dtype=torch.int16)
    for target, row in zip(codes, rows, strict=True):
        target[:, : row.shape[1]] = row
    unknown = (torch.nan, torch.nan)
    known = torch.tensor([beat or unknown for beat in beats or [None] * len(rows)], dtype=torch.float32)
    _save({"codes": codes, "lengths": lengths, "beats": known}, path, {"sources": json.dumps(list(sources))})
    return path


def done_sources(folder: str | os.PathLike) -> set[str]:
    """Names of the files whose tokens the folder already holds."""
    from safetensors import safe_open

    done: set[str] = set()
    for path in Path(folder).glob("tokens-*.safetensors"):
        with safe_open(str(path), framework="pt") as shard:
            done.update(json.loads((shard.metadata() or {}).get("sources", "[]")))
    return done


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

    Returns:
        {"files", "skipped", "failed", "rows", "steps"} of this call, and "left" for want of time or because of `stop`.

    Raises:
        ValueError: a folder is missing, or `out` holds the tokens of another codec.
    """
    from tqdm import tqdm

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _keep_vectors(codec, out)
    done, files = done_sources(out), list(find_audio(folders))
    todo = [(name, path) for name, path in files if name not in done]
    result = {"files": 0, "skipped": len(files) - len(todo), "failed": 0, "rows": 0, "steps": 0, "left": 0}
    end = time.monotonic() + 60 * (math.inf if minutes is None else minutes)
    stop = stop or (lambda: False)
    writer = _ShardWriter(codec, out, batch, result)
    read = functools.partial(_read, sample_rate=codec.sample_rate, hop=codec.hop, channels=channels)
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
        writer.add(name, path, [(piece.clone() if workers else piece, start) for piece, start in pieces])
    writer.finish()
    return result


def _read(item: tuple[str, Path], sample_rate: int, hop: int, channels: str) -> list[tuple[Tensor, float]] | str:
    """`pieces_of` a named file, or the sentence that says why it cannot be used."""
    try:
        return pieces_of(item[1], sample_rate, hop, channels)
    except ValueError as error:
        return str(error)


def _keep_vectors(codec, out: Path) -> None:
    """Writes a codec's vectors into a folder of tokens; ValueError if it holds those of another one."""
    from safetensors.torch import load_file

    vectors = codec.codebook_vectors().detach().float().cpu().contiguous()
    stored = out / "codebooks.safetensors"
    if not stored.is_file():
        _save({"vectors": vectors}, stored)
    elif not torch.allclose(load_file(str(stored))["vectors"], vectors, atol=1e-4):
        raise ValueError(f"{out} holds tokens of another codec: choose an empty folder with --out.")


class _ShardWriter:
    """Encodes files once a batch of pieces has come together, and writes a shard once 256 rows have.

    Args:
        result: of `encode_folders`; counted up.
    """

    def __init__(self, codec, out: Path, batch: int, result: dict[str, int]) -> None:
        self.codec, self.out, self.batch, self.result = codec, out, batch, result
        self.read: list[tuple[str, Path, list[tuple[Tensor, float]]]] = []
        self.rows: list[Tensor] = []
        self.beats: list[tuple[float, float] | None] = []
        self.names: list[str] = []

    def add(self, name: str, path: Path, pieces: list[tuple[Tensor, float]]) -> None:
        self.read.append((name, path, pieces))
        if sum(len(some) for _, _, some in self.read) >= self.batch:
            self.encode()

    def encode(self) -> None:
        rows = iter(encode_pieces(self.codec, [piece for *_, some in self.read for piece, _ in some], self.batch))
        second = self.codec.sample_rate / self.codec.hop
        for name, path, some in self.read:
            beat = beat_of(path)
            for _, start in some:
                self.rows.append(next(rows))
                self.result["steps"] += self.rows[-1].shape[1]
                self.beats.append(None if beat is None else ((beat[0] - start) % beat[1] * second, beat[1] * second))
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
    parser = argparse.ArgumentParser(
        prog="python -m vampnet.train.tokens", description="Encode folders of audio into training tokens."
    )
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
    parser.add_argument("--stop-after", type=float, metavar="MINUTES", help="begin no file later than this, and exit with 3")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        from vampnet.checkpoints import load_codec_of
        from vampnet.codec import load_codec

        if args.workers < 0 or args.batch < 1:
            raise ValueError("--workers must be at least 0 and --batch at least 1.")
        codec = load_codec(args.codec) if Path(args.codec).is_dir() else load_codec_of(args.codec)
        if isinstance(codec, torch.nn.Module):
            codec.eval().to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with StopRequest.listening() as stop:
            result = encode_folders(
                codec, args.audio, args.out, args.channels, minutes=args.stop_after, stop=lambda: bool(stop),
                workers=args.workers, batch=args.batch,
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
