"""Bins of frequency: those above the limit of what is coded one by one are bands, those below have neighbourhoods."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def over_frequency(x: Tensor) -> Tensor:
    """(B, J, F) -> its moving average over 41 bins of frequency, or as many as there are; mirrored at the edges."""
    side, bins = min(20, x.shape[-1] - 1), x.shape[-1]
    span, width = F.pad(x, (side, side), mode="reflect"), 2 * side + 1
    # Sums over 1, 2, 4, ... bins, each of the one before: a third of the price of `F.avg_pool1d`.
    total, reach = torch.zeros_like(x), 0
    for power in range(width.bit_length()):
        if width >> power & 1:
            total += span[..., reach : reach + bins]
            reach += 1 << power
        if width >> power > 1:
            span = span[..., : -(1 << power)] + span[..., 1 << power :]
    return total.div_(width)


def band_matrices(bins: int, bands: int) -> tuple[Tensor, Tensor]:
    """(high bins, bands) mean over each band, and (bands, high bins) linear interpolation between band centres."""
    edges = torch.linspace(0, bins, bands + 1)
    position = torch.arange(bins) + 0.5
    band = torch.bucketize(position, edges[1:-1], right=True)
    pool = F.one_hot(band, bands).float()
    pool = pool / pool.sum(0, keepdim=True)
    centres = (edges[1:] + edges[:-1]) / 2
    place = ((position - centres[0]) / (centres[1] - centres[0])).clamp(0, bands - 1)
    low = place.floor().long().clamp(max=bands - 2)
    spreader = torch.zeros(bands, bins)
    spreader[low, torch.arange(bins)] = 1 - (place - low)
    spreader[low + 1, torch.arange(bins)] = place - low
    return pool, spreader
