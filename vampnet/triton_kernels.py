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
def _snake(x_at, alpha_at, inverse_at, out_at, channels, total, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < total
    channel = place % channels
    x = tl.load(x_at + place, mask=inside, other=0.0).to(tl.float32)
    wave = tl.sin(x * tl.load(alpha_at + channel, mask=inside, other=0.0))
    x += wave * wave * tl.load(inverse_at + channel, mask=inside, other=0.0)
    tl.store(out_at + place, x.to(out_at.dtype.element_ty), mask=inside)


def snake(x: Tensor, alpha: Tensor, inverse: Tensor, out: Tensor) -> None:
    """`kernels.snake`: x and `out` (B, C, 1, N) with channels last in memory, alpha and inverse of C numbers."""
    total = x.numel()
    with _on(x):
        _snake[(triton.cdiv(total, BLOCK),)](x, alpha, inverse, out, x.shape[1], total, BLOCK=BLOCK)


@triton.jit
def _convolution(
    x_at, weight_at, bias_at, alpha_at, inverse_at, more_at, out_at, length, dilation,
    inputs: tl.constexpr, outputs: tl.constexpr, TAPS: tl.constexpr, SNAKE: tl.constexpr, ADDS: tl.constexpr,
    BLOCK: tl.constexpr, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(2).to(tl.int64) * length  # of the clip
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    known = channel < outputs
    total = tl.zeros((BLOCK, OUTPUTS), tl.float32)
    for tap in range(TAPS):
        at = place + (tap - TAPS // 2) * dilation
        heard = (at >= 0) & (at < length)
        for begin in range(0, inputs, INPUTS):
            source = begin + tl.arange(0, INPUTS)
            row = x_at + (first + at)[:, None] * inputs + source[None, :]
            x = tl.load(row, mask=heard[:, None] & (source < inputs)[None, :], other=0.0)
            column = weight_at + (channel[None, :] * TAPS + tap) * inputs + source[:, None]
            weight = tl.load(column, mask=known[None, :] & (source < inputs)[:, None], other=0.0)
            total = tl.dot(x, weight, total)
    total += tl.load(bias_at + channel, mask=known, other=0.0).to(tl.float32)[None, :]
    out = (first + place)[:, None] * outputs + channel[None, :]
    inside = (place < length)[:, None] & known[None, :]
    if ADDS:
        total += tl.load(more_at + out, mask=inside, other=0.0).to(tl.float32)
    if SNAKE:
        wave = tl.sin(total * tl.load(alpha_at + channel, mask=known, other=0.0)[None, :])
        total += wave * wave * tl.load(inverse_at + channel, mask=known, other=0.0)[None, :]
    tl.store(out_at + out, total.to(out_at.dtype.element_ty), mask=inside)


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dilation: int,
    snake: tuple[Tensor, Tensor] | None,
    more: Tensor | None,
    out: Tensor,
) -> None:
    """`kernels.convolved`: x and `more` to `out`, images with channels last in memory, as the (C', C, 1, taps) weight has."""
    clips, inputs, _, length = x.shape
    outputs = out.shape[1]
    wide = min(128, max(16, triton.next_power_of_2(outputs)))
    block = 128 if wide >= 64 else 256
    grid = triton.cdiv(length, block), triton.cdiv(outputs, wide), clips
    alpha, inverse = snake or (bias, bias)
    with _on(x):
        _convolution[grid](
            x, weight, bias, alpha, inverse, x if more is None else more, out, length, dilation,
            inputs=inputs, outputs=outputs, TAPS=weight.shape[-1], SNAKE=snake is not None, ADDS=more is not None,
            BLOCK=block, INPUTS=min(64, max(16, triton.next_power_of_2(inputs))), OUTPUTS=wide,
            num_warps=8 if wide == 128 else 4, num_stages=3,
        )  # fmt: skip


def _on(x: Tensor) -> torch.cuda.device:
    """Launches go to the current device, whichever the tensors are on."""
    return torch.cuda.device(x.device if x.is_cuda else -1)
