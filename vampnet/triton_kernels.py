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


@triton.jit
def _draw(
    logits_at, u_at, typical_at, token_at, log_p_at, width, share, mass,
    NUMBERS: tl.constexpr, TYPICAL: tl.constexpr, SMOOTHED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(logits_at + row * width + column, mask=inside, other=-float("inf"))
    x -= tl.max(x, axis=0)
    whole = tl.sum(tl.exp(x), axis=0)
    p = tl.exp(x) / whole
    weight = p
    if SMOOTHED:
        weight = tl.where(inside, tl.maximum(p - share, 0.0), 0.0)
        weight = weight / tl.sum(weight, axis=0)
    reached = tl.cumsum(weight, axis=0)
    total = tl.max(reached, axis=0)
    if TYPICAL:
        information = -tl.log(tl.maximum(weight, 1.1754944e-38))
        entropy = tl.sum(weight * information, axis=0)
        off = tl.where(inside, tl.abs(information - entropy), float("inf"))
        token = tl.argmin(off, axis=0)
        waiting = token * 0 + 1
        free = tl.load(typical_at + row) == 0
        for number in tl.static_range(NUMBERS):
            point = tl.minimum(tl.load(u_at + row * NUMBERS + number) * total, total * (1 - 2**-23))
            tried = tl.minimum(tl.sum((reached <= point).to(tl.int32), axis=0), width - 1)
            limit = tl.sum(tl.where(column == tried, off, 0.0), axis=0)
            typical = (tl.sum(tl.where(off < limit, weight, 0.0), axis=0) < mass) | free
            token = tl.where(typical & (waiting > 0), tried, token)
            waiting = tl.where(typical, 0, waiting)
    else:
        point = tl.minimum(tl.load(u_at + row) * total, total * (1 - 2**-23))
        token = tl.minimum(tl.sum((reached <= point).to(tl.int32), axis=0), width - 1)
    if SMOOTHED:
        log_p = tl.log(tl.sum(tl.where(column == token, p, 0.0), axis=0))
    else:
        log_p = tl.sum(tl.where(column == token, x, 0.0), axis=0) - tl.log(whole)
    tl.store(token_at + row, token.to(tl.int64))
    tl.store(log_p_at + row, log_p)


def draw(logits: Tensor, u: Tensor, smoothing: float, mass: float, typical: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`kernels.chosen`: logits (..., V) and u (...) or (..., n), float32 contiguous -> (...) int64 and (...) float32."""
    shape, width = logits.shape[:-1], logits.shape[-1]
    token, log_p = logits.new_empty(shape, dtype=torch.int64), logits.new_empty(shape)
    which = torch.ones_like(token, dtype=torch.uint8) if typical is None else typical.to(torch.uint8).contiguous()
    with _on(logits):
        _draw[(token.numel(),)](
            logits, u, which, token, log_p, width, smoothing / width, mass,
            NUMBERS=u.numel() // token.numel(), TYPICAL=mass < 1, SMOOTHED=smoothing > 0, BLOCK=triton.next_power_of_2(width),
        )  # fmt: skip
    return token, log_p


def _on(x: Tensor) -> torch.cuda.device:
    """Launches go to the current device, whichever the tensors are on."""
    return torch.cuda.device(x.device if x.is_cuda else -1)
