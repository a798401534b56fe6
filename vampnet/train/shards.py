"""Training data of stage 2: token shards, and crops from them.

A shard is a `tokens-NNNNN.safetensors` with `codes` (N, K, T) int16, rows filled up with -1, `lengths` (N,) int32 in time
steps, `beats` (N, 2) float32 (the first beat and the gap between beats in time steps, NaN where nobody knows) and the names
of its sources in the metadata. `codebooks.safetensors` beside them holds the codec's `vectors`
(K, 1024, D) float32, so that a transformer trains from the folder alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vampnet.whole_file import whole_file


def common_crop(lengths: Sequence[int] | np.ndarray, most: int) -> int:
    """Time steps of crops that half of the rows at least are long enough for.

    A crop as long as the longest row has but one place in all of the data: one long row would be all that is seen.

    Args:
        lengths: of the rows, in time steps; at least one.
        most: time steps that are wanted, such as a model's context.
    """
    return min(most, int(sorted(lengths)[len(lengths) // 2]))


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
        vectors = self.folder / "codebooks.safetensors"
        self._read: set[str] = set()
        self.codes, self.lengths, self.beats = torch.empty(0, 0, dtype=torch.int16), np.empty(0, np.int64), torch.empty(0, 2)
        if vectors.is_file():
            self.codebooks: Tensor = load_file(str(vectors))["vectors"].float()
            self.codes = self._room = torch.empty(len(self.codebooks), 0, dtype=torch.int16)
            self.grow()
        if not len(self):
            raise ValueError(
                f"{self.folder} holds no tokens: make them with "
                f"python -m vampnet.train.tokens --codec FOLDER --audio FOLDER --out {self.folder}"
            )

    def grow(self) -> int:
        """Reads the shards that have come into the folder since it was last looked at; returns how many rows they had.

        Raises:
            ValueError: a shard does not belong to the others.
        """
        from safetensors.torch import load_file

        codes, lengths, beats = [], [self.lengths], [self.beats]
        found = [path for path in sorted(self.folder.glob("tokens-*.safetensors")) if path.name not in self._read]
        for shard in found:
            tensors = load_file(str(shard))
            if tensors["codes"].shape[1] != self.codebooks.shape[0]:
                raise ValueError(f"{shard} has {tensors['codes'].shape[1]} levels, the codebooks {self.codebooks.shape[0]}.")
            rows = tensors["lengths"].numpy().astype(np.int64)
            codes += [row[:, :length] for row, length in zip(tensors["codes"], rows.tolist(), strict=True)]
            lengths.append(rows)
            # Shards of earlier versions do not say.
            beats.append(tensors.get("beats", torch.full((len(rows), 2), torch.nan)))
            self._read.add(shard.name)
        if codes:
            self._append(codes)
            self.lengths, self.beats = np.concatenate(lengths), torch.cat(beats)
            self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        return sum(map(len, lengths[1:]))

    def _append(self, rows: Sequence[Tensor]) -> None:
        """Rows (K, T_i) at the end of a memory that about doubles when it is full: all of it would else be copied for each
        shard that comes, every few seconds beside a GPU."""
        old, wanted = self.codes.shape[1], self.codes.shape[1] + sum(row.shape[1] for row in rows)
        if wanted <= self._room.shape[1]:
            torch.cat(rows, dim=1, out=self._room[:, old:wanted])
        else:
            self._room = torch.cat([self.codes, *rows, torch.empty_like(self.codes)], dim=1)
        self.codes = self._room[:, :wanted]

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


def same_codec(a: Tensor, b: Tensor) -> bool:
    """Whether two codecs' vectors, (K, size, D) each, are the same."""
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-4)


def keep_vectors(codec, out: Path) -> None:
    """Writes a codec's vectors into a folder of tokens; ValueError if it holds those of another one."""
    from safetensors.torch import load_file

    vectors = codec.codebook_vectors().detach().float().cpu().contiguous()
    stored = out / "codebooks.safetensors"
    if not stored.is_file():
        _save({"vectors": vectors}, stored)
    elif not same_codec(load_file(str(stored))["vectors"].float(), vectors):
        raise ValueError(f"{out} holds tokens of another codec: choose an empty folder with --out.")
