"""Which tokens a training step hides."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vampnet import masks
from vampnet.config import TokenGrid
from vampnet.train.schedule import mask_shares

BEAT_GAPS = (19.0, 58.0)
"""Time steps between beats, of which the prompts around beats have one: 180 to 60 a minute at 57.4 steps a second."""
BEAT_WIDTH = 10
"""Most steps that are kept from a beat on (75 ms are 4)."""
MOST_JITTER = 3
"""Time steps by which kept steps of a periodic prompt come early or late, at most; 2 where a vamp is not told otherwise."""
GRID = TokenGrid()
"""Any will do: steps become seconds, since these are what prompts around beats are given in, and steps again."""


def prompt_mask(
    levels: int, steps: int, generator: torch.Generator, beat: tuple[float, float] = (math.nan, math.nan)
) -> Tensor:
    """A mask of the shape that people's prompts have (paper section 4): periodic, inpaint, compression, around beats, or a
    mix of them; a quarter of them keep only the coarsest levels of what they keep.

    Args:
        beat: as in `_beats`.

    Returns:
        (levels, steps) bool, True = regenerate.
    """

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    shape = (levels, steps)
    mask = masks.everything(shape)
    kinds = draw(1, 15)  # bits: periodic, inpaint, compression, beats; never none of them
    if kinds & 1:
        period = draw(2, 32)
        width, offset, jitter = draw(1, max(1, period // 4)), draw(0, period - 1), draw(0, MOST_JITTER)
        mask = masks.keep_union(mask, masks.periodic(shape, period, width, offset, jitter=jitter))
    if kinds & 2:
        mask = masks.keep_union(mask, masks.prefix_suffix(shape, draw(0, steps // 4), draw(0, steps // 4)))
    if kinds & 8:
        mask = masks.keep_union(mask, _beats(shape, generator, beat))
    if draw(0, 3) == 0:
        mask = masks.prompt_depth(mask, draw(1, levels))
    if kinds & 4:
        mask = masks.keep_union(mask, masks.codebooks(shape, draw(1, max(1, levels - 1))))
    return mask


def _beats(shape: tuple[int, int], generator: torch.Generator, beat: tuple[float, float]) -> Tensor:
    """A mask (levels, steps) that keeps some steps from each beat of a steady tempo on, early or late by up to a step.

    Args:
        beat: the first beat and the gap between beats in time steps; where nobody knows them (NaN), any.
    """
    levels, steps = shape
    jitter, phase, tempo, width = torch.rand(4, generator=generator).tolist()
    first, gap = beat
    if not gap > BEAT_WIDTH:
        gap = BEAT_GAPS[0] + tempo * (BEAT_GAPS[1] - BEAT_GAPS[0])
        first = phase * gap
    step = GRID.hop / GRID.sample_rate
    times = torch.arange(first + 2 * jitter - 1 - gap, steps, gap, dtype=torch.float64) * step
    return masks.around_times((levels, steps), times.tolist(), 1000 * step * (1 + int(width * BEAT_WIDTH)), GRID)


def training_masks(
    batch: int, levels: int, steps: int, conditioning: int, prompt_share: float, generator: torch.Generator,
    hidden_share: float = 0.0, beats: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Masks of a batch: random tokens of all predicted levels and time steps, in shares from the cosine schedule.

    An item with a prompt (`prompt_share` of them) hides the same share of what its prompt leaves open: a state in the midst
    of the sampling from that prompt.

    Args:
        batch, levels, steps: the shape (B, K, T) of the tokens.
        conditioning: coarsest levels that are never hidden.
        prompt_share: share of the items that have a prompt, 0..1 (the paper: 0).
        generator: on the CPU.
        hidden_share: share of the items of which nothing that is predicted is seen, 0..1 (the paper: 0). Random masks hardly
            ever are that empty, and what a model says of a state that it has not met is not even the codes' frequencies.
        beats: (B, 2) float, the first beat and the gap between beats of each item in time steps, NaN where nobody knows; None =
            of all.

    Returns:
        (B, K, T) bool on the CPU, True = hidden; every item hides at least one token.
    """
    predicted = levels - conditioning
    shares = mask_shares(batch, generator)
    open_ = torch.rand(batch, predicted, steps, generator=generator) < shares[:, None, None]
    prompted = torch.rand(batch, generator=generator) < prompt_share
    for item in prompted.nonzero().flatten().tolist():
        beat = (math.nan, math.nan) if beats is None else tuple(beats[item].tolist())
        open_[item] &= prompt_mask(predicted, steps, generator, beat)
    if hidden_share:
        open_[torch.rand(batch, generator=generator) < hidden_share] = True
    flat = open_.view(batch, -1)
    one = torch.randint(flat.shape[1], (batch,), generator=generator)
    flat[torch.arange(batch), one] |= ~flat.any(dim=1)
    mask = torch.zeros(batch, levels, steps, dtype=torch.bool)
    mask[:, conditioning:] = open_
    return mask
