"""The passes of `kernels` for Triton. Importing this imports Triton, so only `kernels` does it, on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Numbers that a program of an elementwise pass works on."""


@triton.jit
def _norm(x_at, add_at, out_at, width, eps, ADDS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_at + row + column, mask=inside, other=0.0)
    if ADDS:
        x += tl.load(add_at + row + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(x_at + row + column, x, mask=inside)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / width + eps)
    tl.store(out_at + row + column, (x * scale).to(out_at.dtype.element_ty), mask=inside)


def norm(x: Tensor, add: Tensor | None, out: Tensor, eps: float) -> None:
    """`kernels.normed`: adds `add` to x (N, dim) float32 in place and writes the norm of that to `out`; all contiguous."""
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    with _on(x):
        _norm[(rows,)](x, x if add is None else add, out, width, eps, ADDS=add is not None, BLOCK=block)


@triton.jit
def _gate(x_at, out_at, width, total, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    source = x_at + place + place // width * width
    value = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(source + width, mask=inside, other=0.0).to(tl.float32)
    # (1 + tanh z) / 2 = sigmoid(2 z)
    soft = tl.sigmoid(1.5957691216057308 * (gate + 0.044715 * gate * gate * gate))
    tl.store(out_at + place, (value * gate * soft).to(out_at.dtype.element_ty), mask=inside)


def gate(x: Tensor, out: Tensor) -> None:
    """`kernels.gated`: x (N, 2 width) to `out` (N, width), both contiguous."""
    total = out.numel()
    with _on(x):
        _gate[(triton.cdiv(total, BLOCK),)](x, out, out.shape[1], total, BLOCK=BLOCK)


@triton.jit
def _snake(
    x_at, bias_at, alpha_at, inverse_at, out_at, channels, length, total, BIASED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    channel = place // length % channels
    x = tl.load(x_at + place, mask=inside, other=0.0).to(tl.float32)
    if BIASED:
        x += tl.load(bias_at + channel, mask=inside, other=0.0).to(tl.float32)
    wave = tl.sin(x * tl.load(alpha_at + channel, mask=inside, other=0.0))
    x += wave * wave * tl.load(inverse_at + channel, mask=inside, other=0.0)
    tl.store(out_at + place, x.to(out_at.dtype.element_ty), mask=inside)


def snake(x: Tensor, alpha: Tensor, inverse: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """`kernels.snake`: x to `out`, both (B, C, N), or (B, C, 1, N) with channels last in memory; the others have C numbers."""
    total, length = x.numel(), x.shape[-1] if x.is_contiguous() else 1
    with _on(x):
        _snake[(triton.cdiv(total, BLOCK),)](
            x, alpha if bias is None else bias, alpha, inverse, out, x.shape[1], length, total,
            BIASED=bias is not None, BLOCK=BLOCK,
        )  # fmt: skip


@triton.jit
def _joined(x_at, bias_at, more_at, out_at, channels, total, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    x = tl.load(x_at + place, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(bias_at + place % channels, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(more_at + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_at + place, x.to(out_at.dtype.element_ty), mask=inside)


def joined(x: Tensor, bias: Tensor, more: Tensor, out: Tensor) -> None:
    """`kernels.joined`: x + bias + more to `out`, images of one shape with channels last in memory."""
    total = x.numel()
    with _on(x):
        _joined[(triton.cdiv(total, BLOCK),)](x, bias, more, out, x.shape[1], total, BLOCK=BLOCK)


def _on(x: Tensor) -> torch.cuda.device:
    """Launches go to the current device, whichever the tensors are on."""
    return torch.cuda.device(x.device if x.is_cuda else -1)
