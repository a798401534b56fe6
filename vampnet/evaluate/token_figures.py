"""How well the two transformers predict hidden tokens of clips, by level and by how much is hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..pipeline import VampNet
from ..train.shards import common_crop
from ..train.validation import validate


class ClipTokens:
    """The tokens of clips, in the place of `train.shards.TokenData`: the middle of each clip is its one crop.

    Args:
        clips: each (K, T) int64; those that are shorter than a crop are left out of it.
    """

    def __init__(self, clips: Sequence[Tensor]) -> None:
        self.clips = list(clips)

    def counts(self, size: int) -> Tensor:
        """(K, size) int64: how often each code occurs in each level."""
        return torch.stack([torch.bincount(level, minlength=size) for level in torch.cat(self.clips, dim=1)])

    def fitting(self, steps: int) -> list[Tensor]:
        """The clips of at least `steps`."""
        return [clip for clip in self.clips if clip.shape[1] >= steps]

    def crops(self, count: int, steps: int, generator: torch.Generator) -> Tensor:
        """(count, K, steps): the middle of the first clips that are long enough."""
        return torch.stack(
            [clip[:, (start := (clip.shape[1] - steps) // 2) : start + steps] for clip in self.fitting(steps)[:count]]
        )


def token_figures(model: VampNet, clips: Sequence[Tensor], seed: int = 0) -> dict[str, Any]:
    """{"coarse": ..., "fine": ...}, each as `train.validation.validate` gives it.

    The baseline of mere frequencies knows those of these very clips, which flatters it where there are few.

    Args:
        model: whose transformers predict.
        clips: each (K, T) int64.
        seed: of the masks.
    """
    data = ClipTokens(clips)
    counts = data.counts(model.codec.codebook_size)
    found = {}
    for name, transformer in (("coarse", model.coarse), ("fine", model.fine)):
        # One short clip must not shorten what all are judged by.
        crop = common_crop([clip.shape[1] for clip in clips], transformer.config.context)
        found[name] = validate(transformer, data, counts, crop, crops=len(data.fitting(crop)), seed=seed, batch=2)
    return found


def token_table(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: one for each level, with accuracy and cross-entropy for each mask and by frequency."""
    masks = list(figures["coarse"]["by_mask"])
    head = ["level", *(f"{mask} hidden" if mask.endswith("%") else f"all but {mask}" for mask in masks), "by frequency"]
    rows: list[list[str]] = []
    for which in ("coarse", "fine"):
        part = figures[which]
        for level in range(len(part["unigram"]["accuracy"])):
            cells = [part["by_mask"][mask] for mask in masks] + [part["unigram"]]
            row = [f"{100 * cell['accuracy'][level]:.1f} %, {cell['cross_entropy'][level]:.2f}" for cell in cells]
            rows.append([str(len(rows)), *row])
    return head, rows
