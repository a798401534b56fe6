"""Training data of stage 2: audio -> token shards, and crops from them.

A shard is a `tokens-NNNNN.safetensors` with `codes` (N, K, T) int16, rows filled up with -1, `lengths` (N,) int32 in time
steps, `beats` (N, 2) float32 (the first beat and the gap between beats in time steps, NaN where nobody knows) and the names
of its sources in the metadata. `codebooks.safetensors` beside them holds the codec's `vectors`
(K, 1024, D) float32, so that a transformer trains from the folder alone.
"""

from __future__ import annotations

import argparse
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


@torch.no_grad()
def encode_file(codec, path: str | os.PathLike, channels: str = "mono") -> list[tuple[Tensor, float]]:
    """The token rows of one sound file.

    Each view is cut into pieces of at most 30 s, and each piece is brought to -24 LUFS by itself, as a clip is before it is
    vamped. Silent pieces and tails under a second are left out.

    Args:
        codec: with `sample_rate`, `hop` and `encode(audio (B, 1, N)) -> (B, K, T)`.
        path: the file.
        channels: "mono" or "all".

    Returns:
        Rows (K, T) int16 on the CPU, each with where it begins in the file, in seconds.

    Raises:
        ValueError: the file cannot be used (vampnet.audio.AudioError); the sentence says why.
    """
    signal = audio.load(path, codec.sample_rate, max_seconds=MAX_FILE_SECONDS)
    piece = int(PIECE_SECONDS * codec.sample_rate) // codec.hop * codec.hop
    device = next((p.device for p in codec.parameters()), "cpu") if isinstance(codec, torch.nn.Module) else "cpu"
    rows = []
    for view in channel_views(signal.audio_data[0], channels):
        for number, part in enumerate(view.split(piece)):
            if len(part) < codec.sample_rate or part.abs().max() < 1e-4:
                continue
            level, _ = audio.to_codec_level(audio.make_signal(part[None, None], codec.sample_rate))
            row = codec.encode(level.audio_data.to(device))[0].to("cpu", torch.int16)
            rows.append((row, number * piece / codec.sample_rate))
    return rows


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
) -> dict[str, int]:
    """Encode all sound files below `folders` into token shards in `out`; files that are done are skipped.

    A shard is written whenever 256 rows have come together, so a kill loses at most those. A file that cannot be used is named
    in the log and left out.

    Args:
        minutes: begin no file later than this.
        stop: begin no other file once this says True; what is encoded is written.

    Returns:
        {"files", "skipped", "failed", "rows", "steps"} of this call, and "left" for want of time or because of `stop`.

    Raises:
        ValueError: a folder is missing, or `out` holds the tokens of another codec.
    """
    from safetensors.torch import load_file
    from tqdm import tqdm

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    vectors = codec.codebook_vectors().detach().float().cpu().contiguous()
    stored = out / "codebooks.safetensors"
    if not stored.is_file():
        _save({"vectors": vectors}, stored)
    elif not torch.allclose(load_file(str(stored))["vectors"], vectors, atol=1e-4):
        raise ValueError(f"{out} holds tokens of another codec: choose an empty folder with --out.")
    done = done_sources(out)
    files = list(find_audio(folders))
    result = {"files": 0, "skipped": 0, "failed": 0, "rows": 0, "steps": 0, "left": 0}
    end = time.monotonic() + 60 * (math.inf if minutes is None else minutes)
    rows: list[Tensor] = []
    beats: list[tuple[float, float] | None] = []
    names: list[str] = []
    stop = stop or (lambda: False)
    for name, path in tqdm(files, unit="file", disable=not progress, file=sys.stderr):
        if name in done:
            result["skipped"] += 1
            continue
        if time.monotonic() > end or stop():
            result["left"] += 1
            continue
        try:
            found = encode_file(codec, path, channels)
        except ValueError as error:
            log.warning("%s is left out: %s", name, error)
            result["failed"] += 1
            continue
        result["files"] += 1
        result["rows"] += len(found)
        result["steps"] += sum(row.shape[1] for row, _ in found)
        beat, second = beat_of(path), codec.sample_rate / codec.hop
        for row, start in found:
            rows.append(row)
            beats.append(None if beat is None else ((beat[0] - start) % beat[1] * second, beat[1] * second))
        names.append(name)
        if len(rows) >= SHARD_ROWS:
            write_shard(out, rows, names, beats)
            rows, beats, names = [], [], []
    if rows:
        write_shard(out, rows, names, beats)
    return result


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
    parser.add_argument("--stop-after", type=float, metavar="MINUTES", help="begin no file later than this, and exit with 3")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        from vampnet.checkpoints import load_codec_of
        from vampnet.codec import load_codec

        codec = load_codec(args.codec) if Path(args.codec).is_dir() else load_codec_of(args.codec)
        if isinstance(codec, torch.nn.Module):
            codec.eval().to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with StopRequest.listening() as stop:
            result = encode_folders(
                codec, args.audio, args.out, args.channels, minutes=args.stop_after, stop=lambda: bool(stop)
            )
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
