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

from vampnet.config import Sampling
from vampnet.sampling import choose, in_one_pass

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


def snake(x: Tensor, alpha: Tensor, inverse: Tensor, bias: Tensor | None = None) -> Tensor:
    """x + sin(alpha x)^2 * inverse, one alpha a channel.

    Args:
        x: (B, C, N) float contiguous, or (B, C, 1, N) with channels last in memory.
        alpha, inverse: float32 of C numbers, in a shape that broadcasts over x.
        bias: (C,) float, added to x before that, or None.

    Returns:
        As x.
    """
    kernels = _fused(x.device)
    if kernels is not None:
        out = torch.empty_like(x)  # in the same order in memory
        kernels.snake(x, alpha, inverse, bias, out)
        return out
    y = x.float() if bias is None else x + bias.view(alpha.shape).float()
    return torch.addcmul(y, (y * alpha).sin_().square_(), inverse).to(x.dtype)


def joined(x: Tensor, bias: Tensor, more: Tensor) -> Tensor:
    """x + bias + more.

    Args:
        x, more: (B, C, 1, N) float of one type, channels last in memory.
        bias: (C,) float.

    Returns:
        As x.
    """
    kernels = _fused(x.device)
    if kernels is not None:
        x, more = (part.contiguous(memory_format=torch.channels_last) for part in (x, more))  # as they are, as a rule
        out = torch.empty_like(x)
        kernels.joined(x, bias, more, out)
        return out
    return (x.float() + bias.view(-1, 1, 1).float() + more.float()).to(x.dtype)


def chosen(
    logits: Tensor, u: Tensor, sampling: Sampling, smoothing: float, typical: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`sampling.choose`, in one pass where tokens are drawn as the model says or from the typical ones of these.

    Args:
        logits: (..., V) float32 contiguous.
        u: (...) or (..., n) float32 contiguous, as `sampling.choose` takes it.
        sampling, smoothing, typical: as there.

    Returns:
        As there, up to rounding.
    """
    kernels = _fused(logits.device)
    if kernels is not None and sampling.temperature == 1 and in_one_pass(sampling):
        return kernels.draw(logits, u, smoothing, sampling.typical_mass, typical)
    return choose(logits, u, sampling, smoothing, typical)


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
