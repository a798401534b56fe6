"""The blocks of a spectral codec by tiles, for CPUs that have instructions for them: the same blocks, in one pass each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vampnet import scratch
from vampnet.passes import in_turns
from vampnet.tile_passes import COLUMNS, TileMatrix, has_tiles

BLOCK = 48
"""Rows that a thread takes at a time: their products stay in its caches beside the weights."""


class TiledBlocks:
    """The blocks of `spectral.Block`, their products in int8: rows by a factor each, weights by one for each output.

    Args:
        blocks: of one width, which `can_be_tiled`. They may change or move afterwards: nothing of them is kept.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.blocks = [_prepared(block) for block in blocks]

    @torch.no_grad()
    def __call__(self, x: Tensor, loop: bool = False) -> Tensor:
        """(B, T, C) float32 on the CPU -> (B, T, C) float32; on a ring the convolutions wrap around."""
        from vampnet import block_kernels

        given, steps = x.flatten(0, 1).float().contiguous(), x.shape[1]
        other, mine = scratch.new_empty(given, *given.shape), given.data_ptr() != x.data_ptr()
        for block in self.blocks:
            in_turns(block_kernels.blocked, given.numel(), given, other, steps, loop, *block, BLOCK)
            # What was given stays as it is.
            given, other, mine = other, given if mine else scratch.new_empty(given, *given.shape), True
        return given.view(x.shape)


def can_be_tiled(blocks: Sequence[nn.Module]) -> bool:
    """Whether blocks are made of whole tiles, on a CPU that has them."""
    sizes = {size for block in blocks for size in block.up.weight.shape}
    return has_tiles() and bool(sizes) and not any(size % COLUMNS for size in sizes)


def _prepared(block: nn.Module) -> tuple[object, ...]:
    """The numbers of a block as its kernel takes them: the norm's bias is part of the first matrix's, the block's scale of the
    second one and of its bias."""
    with torch.no_grad():
        norm, up, down = block.norm, block.up, block.down
        into = TileMatrix(up.weight, None, norm.eps, norm.weight)
        out = TileMatrix(block.scale[:, None] * down.weight)
        above = up.bias + up.weight @ norm.bias
        kernel = block.depthwise.weight[:, 0, :, 0].t().float().contiguous()
        shifts = (tensor.detach().float().clone() for tensor in (block.depthwise.bias, above, block.scale * down.bias))
        bias, above, below = shifts
    return kernel, bias, into.given, above, out.given, below
