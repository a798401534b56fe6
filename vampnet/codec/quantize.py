"""Latents to codes as `dac`'s residual vector quantizer gives them, without what only training needs.

Each level projects what the levels before have left onto few dimensions and takes the code that points in the same direction.
What a level takes away is one of as many vectors as it has codes, so what that is to each later level lies in a table: the
latents themselves, which are 32 times as wide, are looked at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from dac.nn.quantize import ResidualVectorQuantize
from torch import Tensor, nn

ROWS = 256
"""Time steps at a time: their likenesses to all codes of a level stay in a core's cache."""


def weight_of(layer: nn.Module) -> Tensor:
    """(out, in) of a convolution of one step, which weight norm works out anew whenever the layer is called."""
    if not hasattr(layer, "weight_g"):
        return layer.weight[..., 0]
    return (layer.weight_g * layer.weight_v / layer.weight_v.norm(dim=(1, 2), keepdim=True))[..., 0]


@torch.no_grad()
def residual_codes(quantizer: ResidualVectorQuantize, latents: Tensor) -> Tensor:
    """The codes of `quantizer(latents.transpose(1, 2))`, but for those that rounding decides.

    Args:
        quantizer: in eval mode.
        latents: (B, T, dim) float.

    Returns:
        (B, n_codebooks, T) int64.
    """
    levels = list(quantizer.quantizers)
    sizes = [level.codebook.embedding_dim for level in levels]
    into = torch.cat([weight_of(level.in_proj) for level in levels])
    bias = torch.cat([level.in_proj.bias for level in levels])
    directions = [F.normalize(level.codebook.weight).t().contiguous() for level in levels]
    taken = []
    for place, level in enumerate(levels):
        later = into[sum(sizes[: place + 1]) :]
        out = level.out_proj
        taken.append(F.linear(level.codebook.weight, later @ weight_of(out), later @ out.bias))
    rows = latents.flatten(0, 1)
    codes = torch.empty(len(levels), len(rows), dtype=torch.int64, device=rows.device)
    for start in range(0, len(rows), ROWS):
        left = F.linear(rows[start : start + ROWS], into, bias)
        for place, size in enumerate(sizes):
            code = (left[:, :size] @ directions[place]).argmax(dim=1)
            codes[place, start : start + ROWS] = code
            left = left[:, size:] - taken[place][code]
    return codes.unflatten(1, latents.shape[:2]).transpose(0, 1).contiguous()
