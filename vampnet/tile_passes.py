"""The parts of a transformer that `vampnet.tile_kernels` computes on a CPU, by all of torch's threads.

Wide tiles are for CPUs that multiply 64 pairs of int8 numbers and 32 of bfloat16 by one instruction (AVX512-VNNI and -BF16),
but not whole matrices (AMX): torch's own products are best there. Narrow ones are for CPUs that have AVX2 and nothing made for
whole numbers, as most laptops: torch's products of int8 are a hundred times slower than those of float32 there. What becomes of
an item depends on no other one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vampnet.config import TransformerConfig
from vampnet.device import cpu_has
from vampnet.passes import in_turns

COLUMNS, NARROW_COLUMNS = 64, 16
"""Of a tile, wide and narrow, as in `tiles`."""
ROWS = 12
"""Whole tiles of either kind."""
LARGE = 768
"""From this width on the weights of a layer do not stay in a CPU's second cache."""


def has_wide_tiles() -> bool:
    """Whether this CPU has the instructions for wide tiles."""
    return all(map(cpu_has, ("avx512", "vnni", "avx512_bf16"))) and not cpu_has("amx_tile") and _compiles_for_itself()


def has_narrow_tiles() -> bool:
    """Whether this CPU is best served with narrow ones."""
    return cpu_has("avx2") and not cpu_has("vnni", "avx512_bf16", "amx_tile") and _compiles_for_itself()


def has_tiles(precision: str = "int8") -> bool:
    """Whether this CPU has tiles for "int8" or "bfloat16": the latter are wide ones."""
    return has_wide_tiles() or (precision == "int8" and has_narrow_tiles())


def _compiles_for_itself() -> bool:
    # numba can be told to compile for another CPU than this one.
    return not any(name in os.environ for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"))


def can_be_tiled(config: TransformerConfig, precision: str = "int8") -> bool:
    """Whether a transformer of this shape is made of whole tiles, on a CPU that has them in that precision."""
    whole = (config.dim, config.codebook_size, config.dim * config.ff_mult // 2)
    return has_tiles(precision) and config.dim == config.heads * COLUMNS and not any(size % COLUMNS for size in whole)


class TileMatrix(nn.Module):
    """A matrix (inputs, outputs) as tiles read it, behind a norm or not.

    Args:
        weight: (outputs, inputs) float, multiples of 64.
        eps, gain: of the norm before it, the latter (inputs,) float; or None.
        precision: "int8" or "bfloat16".

    Attributes:
        packed: (outputs / 64, inputs / 4, 64, 4) int8, or (outputs / 64, inputs / 2, 64, 2) bfloat16; for narrow tiles
            (outputs / 16, inputs / 2, 16, 2) int16.
        start: (outputs,) with which sums begin: int32, or zeros in float32.
        scale: (outputs,) float32.
    """

    def __init__(
        self, weight: Tensor, bias: None = None, eps: float | None = None, gain: Tensor | None = None, precision: str = "int8"
    ) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        weight, narrow = weight.detach().float(), precision == "int8" and not has_wide_tiles()
        if precision == "int8":
            scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
            numbers = (weight / scale[:, None]).round().to(torch.int16 if narrow else torch.int8)
            start = (0 if narrow else -128) * numbers.sum(dim=1, dtype=torch.int32)
        else:
            numbers, start, scale = weight.bfloat16(), torch.zeros(outputs), torch.ones(outputs)
        columns, each = NARROW_COLUMNS if narrow else COLUMNS, 4 // numbers.itemsize
        # What a column holds of a line as one number of 32 bits: so it is moved at once.
        lines = numbers.contiguous().view(torch.int32).view(outputs // columns, columns, inputs // each).transpose(1, 2)
        packed = lines.contiguous().view(numbers.dtype).view(outputs // columns, inputs // each, columns, each)
        self.packed = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("start", start)
        self.register_buffer("scale", scale)
        self.register_buffer("gain", None if gain is None else gain.detach().float().contiguous())
        self.eps = eps

    @property
    def given(self) -> tuple[Any, ...]:
        """What kernels take."""
        own = (self.packed, self.start, self.scale)
        return own if self.gain is None else (*own, self.gain, np.float32(self.eps))


@dataclass(frozen=True)
class Parts:
    """Queries, keys and values of B items of T steps, as attention by tiles reads them: bfloat16 in wide tiles, int16 in narrow
    ones. A tile has C columns, and two numbers are 32 bits.

    Attributes:
        queries: (B, heads, T, 64).
        keys: (B, heads, panels, 32, C, 2): of C steps each the numbers, two at a time.
        values: (B, heads, 64 / C, panels * C / 2, C, 2): of C numbers each the steps, two at a time.
        sizes: (3, B, heads, panels * C) float32, factors of what is int16, of which T are there; none of what is not.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    sizes: Tensor

    @staticmethod
    def empty(items: int, heads: int, steps: int, narrow: bool) -> Parts:
        columns = NARROW_COLUMNS if narrow else COLUMNS
        panels, kind = -(-steps // columns), {"dtype": torch.int16 if narrow else torch.bfloat16}
        values = torch.empty(items, heads, COLUMNS // columns, panels * columns // 2, columns, 2, **kind)
        values[..., steps // 2 :, :, :] = 0  # of steps that there are not, which weigh next to nothing
        keys = torch.empty(items, heads, panels, COLUMNS // 2, columns, 2, **kind)
        sizes = torch.empty(3, items, heads, panels * columns if narrow else 0)
        return Parts(torch.empty(items, heads, steps, COLUMNS, **kind), keys, values, sizes)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.queries, self.keys, self.values, self.sizes


def multiplied(given: Tensor, matrix: TileMatrix) -> Tensor:
    """A product alone: (N, inputs) of the matrix's type, int8 as the bits of x + 128, contiguous -> (N, outputs) int32, or
    float32."""
    sums = torch.empty(len(given), len(matrix.scale), dtype=matrix.start.dtype)
    in_turns(_kernels().multiplied, sums.numel(), given, matrix.packed, matrix.start, sums, 96)
    return sums


def line_of(values: Tensor, steps: int) -> Tensor:
    """The bias of attention as `mixed` takes it.

    Args:
        values: (heads, 2 T - 1) float, of key k for query q at k - q + T - 1.
        steps: T.

    Returns:
        (heads, T + T rounded up to a multiple of 64) float32.
    """
    room = steps + -(-steps // COLUMNS) * COLUMNS
    return F.pad(values.detach().float(), (0, room - values.shape[1])).contiguous()


def mixed(parts: Parts, line: Tensor) -> Tensor:
    """softmax(q k^T + bias) v, with q scaled already; see `line_of` -> (B * T, heads * 64) float32."""
    items, heads, steps, size = parts.queries.shape
    out = torch.empty(items * steps, heads * size)
    sums = torch.empty(0, dtype=torch.int32 if parts.keys.dtype == torch.int16 else torch.float32)
    in_turns(_kernels().mixed, out.numel(), *parts.tensors, line, sums, out, 8)
    return out


def by_rows(
    given: Tensor | None,
    x: Tensor,
    out: TileMatrix,
    into: TileMatrix,
    down: TileMatrix,
    following: TileMatrix,
    parts: Parts,
    leaves: bool = False,
) -> tuple[Tensor, Tensor]:
    """All that goes by rows between one attention and the next.

    Args:
        given: (B * T, dim) float32 of `mixed`; None before the first attention.
        x: (B * T, dim) float32 contiguous, to which all that follows in the layer of that attention is added.
        out, into, down: the matrices of the rest of that layer; `into` has (2 width) columns, value and gate. Before the
            first attention any of the same shapes.
        following: of the next layer's queries, keys and values; or what is behind all layers.
        parts: of the next attention, written.
        leaves: stop behind the norm of `following`, and write no parts.

    Returns:
        Where it leaves, (B * T, dim) rows of the matrices' type and their (B * T,) float32 factors, else two that are empty.
    """
    count = len(x) if leaves else 0
    rows, factors = torch.empty(count, x.shape[1], dtype=out.packed.dtype), torch.empty(count)
    given = x.new_empty(0, x.shape[1]) if given is None else given
    matrices = (out.given, into.given, down.given, following.given)
    in_turns(_kernels().by_rows, x.numel(), given, x, *matrices, *parts.tensors, rows, factors, _block(x))
    return rows, factors


def classified(
    rows: Tensor, factors: Tensor, places: Tensor, levels: Tensor, packed: Tensor, start: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Some rows of what left the layers, times the classifiers of their levels.

    Args:
        rows, factors: of `by_rows`.
        places: (M,) int64, which rows.
        levels: (M,) int64, whose classifier; the more of one follow each other, the better.
        packed, start, scale: of the levels' matrices, one more dimension in front.
        bias: (levels, codes) float32.

    Returns:
        (M, codes) float32.
    """
    out = torch.empty(len(places), bias.shape[1])
    tensors = (rows, factors, places, levels, packed, start, scale, bias, out)
    in_turns(_kernels().classified, out.numel(), *tensors, 96)
    return out


def _block(x: Tensor) -> int:
    """Rows that a thread takes at a time.

    Few, so that threads end together; many where a layer's weights, all of them read for each block, do not stay in a cache.
    """
    turns = 12 if x.shape[1] < LARGE else torch.get_num_threads()
    return min(96, max(24, -(-len(x) // turns // ROWS) * ROWS))


def _kernels() -> Any:
    from vampnet import tile_kernels

    return tile_kernels
