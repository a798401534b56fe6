"""What lies between the matrix products, each in one pass over the memory of a GPU; elsewhere the same in torch's steps.

On a large GPU a product of matrices takes hardly longer than reading what stands between two of them, and torch's steps read
and write it several times over. The fused passes are Triton's. Where Triton cannot be had (it compiles with the system's C
compiler), torch's steps are taken there too.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

log = logging.getLogger(__name__)


def normed(x: Tensor, add: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
    """RMS norm without weights, of the residual stream after what a layer adds to it.

    Args:
        x: (N, dim) float32 contiguous; `add` is added to it in place.
        add: (N, dim) float, or None = nothing.
        eps: under the root.
        dtype: of the result.

    Returns:
        (N, dim): x / sqrt(mean(x^2) + eps) by rows.
    """
    kernels = _fused(x.device)
    if kernels is not None:
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        kernels.norm(x, add, out, eps)
        return out
    if add is not None:
        x.add_(add)
    return (x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)).to(dtype)


def gated(x: Tensor) -> Tensor:
    """(N, 2 width) float contiguous, halves value and gate -> (N, width) of the same dtype: value * gelu(gate), tanh form."""
    kernels = _fused(x.device)
    if kernels is not None:
        out = x.new_empty(x.shape[0], x.shape[1] // 2)
        kernels.gate(x, out)
        return out
    value, gate = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate="tanh") * value


def snake(x: Tensor, alpha: Tensor, inverse: Tensor) -> Tensor:
    """x + sin(alpha x)^2 * inverse, one alpha a channel.

    Args:
        x: (B, C, 1, N) float, channels last in memory.
        alpha, inverse: (1, C, 1, 1) float32.

    Returns:
        As x.
    """
    kernels = _fused(x.device)
    if kernels is not None:
        out = torch.empty_like(x)  # in the same order in memory
        kernels.snake(x, alpha, inverse, out)
        return out
    return torch.addcmul(x.float(), (x * alpha).sin_().square_(), inverse).to(x.dtype)


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dilation: int = 1,
    after: tuple[Tensor, Tensor] | None = None,
    more: Tensor | None = None,
) -> Tensor:
    """A convolution that keeps the length, with what follows it.

    Args:
        x: (B, C, 1, N) float, channels last in memory.
        weight: (C', C, 1, taps) of the same type, channels last in memory, taps odd.
        bias: (C',) float.
        dilation: samples from tap to tap.
        after: alpha and inverse of a `snake` that the result goes through, or None.
        more: (B, C', 1, N) of the type of x, channels last, added before that, or None.

    Returns:
        (B, C', 1, N) of the type of x.
    """
    kernels = _fused(x.device)
    if kernels is not None:
        shape = x.shape[0], weight.shape[0], 1, x.shape[3]
        out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        kernels.convolution(x, weight, bias, dilation, after, more, out)
        return out
    reach = dilation * (weight.shape[3] // 2)
    out = F.conv2d(x, weight, bias, padding=(0, reach), dilation=(1, dilation))
    if more is not None:
        out += more
    return out if after is None else snake(out, *after)


@lru_cache
def _fused(device: torch.device) -> Any:
    """The module of fused passes, tried out on a device; None where they cannot be had or are not wanted."""
    if device.type != "cuda":
        return None
    try:
        from vampnet import triton_kernels

        x = torch.ones(2, 4, device=device)
        triton_kernels.gate(x, x.new_empty(2, 2))
        return triton_kernels
    except Exception as error:  # a compiler has many ways to fail
        log.warning("Fused passes cannot be compiled for this GPU, and torch's are taken: %s", error)
        return None
