"""Which tokens a training step hides."""

from __future__ import annotations

import torch
from torch import Tensor

from vampnet import masks
from vampnet.train.schedule import mask_shares

BEAT_GAPS = (19.0, 58.0)
"""Time steps between beats, of which the prompts around beats have one: 180 to 60 a minute at 57.4 steps a second."""
BEAT_WIDTH = 10
"""Most steps that are kept from a beat on (75 ms are 4)."""


def prompt_mask(levels: int, steps: int, generator: torch.Generator) -> Tensor:
    """A mask of the shape that people's prompts have (paper section 4): periodic, inpaint, compression, around beats, or a
    mix of them; a quarter of them keep only the coarsest levels of what they keep.

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
        mask = masks.keep_union(mask, masks.periodic(shape, period, draw(1, max(1, period // 4)), draw(0, period - 1)))
    if kinds & 2:
        mask = masks.keep_union(mask, masks.prefix_suffix(shape, draw(0, steps // 4), draw(0, steps // 4)))
    if kinds & 8:
        mask = masks.keep_union(mask, _beats(shape, generator))
    if draw(0, 3) == 0:
        mask[draw(1, levels) :] = True
    if kinds & 4:
        mask = masks.keep_union(mask, masks.codebooks(shape, draw(1, max(1, levels - 1))))
    return mask


def _beats(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A mask (levels, steps) that keeps some steps from each beat of a steady tempo on; no music is asked for its beats."""
    levels, steps = shape
    gap, phase, width = torch.rand(3, generator=generator).tolist()
    gap = BEAT_GAPS[0] + gap * (BEAT_GAPS[1] - BEAT_GAPS[0])
    places = torch.arange(steps, dtype=torch.float64)
    since = torch.remainder(places - phase * gap, gap)
    return (since >= 1 + int(width * BEAT_WIDTH)).expand(levels, steps).clone()


def training_masks(
    batch: int, levels: int, steps: int, conditioning: int, prompt_share: float, generator: torch.Generator,
    hidden_share: float = 0.0,
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

    Returns:
        (B, K, T) bool on the CPU, True = hidden; every item hides at least one token.
    """
    predicted = levels - conditioning
    shares = mask_shares(batch, generator)
    open_ = torch.rand(batch, predicted, steps, generator=generator) < shares[:, None, None]
    prompted = torch.rand(batch, generator=generator) < prompt_share
    for item in prompted.nonzero().flatten().tolist():
        open_[item] &= prompt_mask(predicted, steps, generator)
    if hidden_share:
        open_[torch.rand(batch, generator=generator) < hidden_share] = True
    flat = open_.view(batch, -1)
    one = torch.randint(flat.shape[1], (batch,), generator=generator)
    flat[torch.arange(batch), one] |= ~flat.any(dim=1)
    mask = torch.zeros(batch, levels, steps, dtype=torch.bool)
    mask[:, conditioning:] = open_
    return mask
