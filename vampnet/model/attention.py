"""The parts of a bidirectional transformer layer: RMSNorm, attention with T5 relative position bias, gated feed-forward."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_buckets(distance: Tensor, buckets: int = 32, max_distance: int = 128) -> Tensor:
    """T5's bidirectional buckets of relative positions (Raffel et al. 2020, section 2.1; the paper's section 3.2).

    Half of the buckets is for keys at or before the query, half for keys after it. In each half, the first half counts single
    steps and the rest grows logarithmically up to `max_distance`, from which on everything shares the last bucket.

    Args:
        distance: key position minus query position, integers of any shape.
        buckets: number of buckets, a multiple of 4.
        max_distance: distance in time steps from which on the last bucket is used.

    Returns:
        int64 tensor of the same shape, values 0..buckets-1.
    """
    half = buckets // 2
    exact = half // 2
    size = distance.abs()
    # float32 on purpose: at exact powers the rounding decides the bucket, and published weights were trained with this one.
    growth = torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + growth.to(torch.int64)).clamp(max=half - 1)
    return (distance > 0).to(torch.int64) * half + torch.where(size < exact, size, far)


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, eps 1e-6, no bias."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) float -> the same shape and dtype."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class RelativeBias(nn.Module):
    """One bias per head and relative position bucket, added to the attention scores of every layer."""

    def __init__(self, heads: int, buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.buckets = buckets
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.zeros(buckets, heads))

    @torch.no_grad()
    def reset(self) -> None:
        """Start with heads of different reach: head h falls off as -slope_h * log(1 + distance), slopes from 0 to 2.

        Music depends first on what is near; a flat start spends its first thousand steps on finding that out.
        """
        distance = torch.arange(-self.max_distance, self.max_distance + 1)
        index = relative_buckets(distance, self.buckets, self.max_distance)
        total = torch.zeros(self.buckets).index_add_(0, index, torch.log1p(distance.abs().float()))
        count = torch.zeros(self.buckets).index_add_(0, index, torch.ones(len(distance))).clamp(min=1)
        slopes = torch.linspace(0, 2, self.weight.shape[1])
        self.weight.copy_(-(total / count)[:, None] * slopes)

    def line(self, steps: int, ring: bool = False) -> Tensor:
        """(heads, 2 * steps - 1) float: the bias of key k for query q at [:, k - q + steps - 1].

        On a ring a key lies at its distance the shorter way around: each query is in the middle of what it sees.
        """
        distance = torch.arange(1 - steps, steps, device=self.weight.device)
        if ring:
            distance = (distance + steps // 2) % steps - steps // 2
        return self.weight[relative_buckets(distance, self.buckets, self.max_distance)].t()

    def forward(self, steps: int, ring: bool = False) -> Tensor:
        """(1, heads, steps, steps) float: the bias of key k for query q at [0, :, q, k]; `ring` as in `line`."""
        # Row i of the unfolded view holds the distances i - (steps - 1) + k: the query steps - 1 - i. Only 2 * steps - 1 values
        # are looked up, so the backward pass does not scatter steps * steps gradients into 32 buckets.
        return self.line(steps, ring).unfold(1, steps, 1).flip(1).unsqueeze(0)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    Args:
        q, k, v: (B, heads, T, d) float.
        bias: (1, heads, T, T) float.

    Returns:
        (B, heads, T, d) float.
    """
    if q.device.type != "cpu" and not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    # With a gradient for the bias the fused kernels of a GPU fall back to the plain formula, and that in float32.
    # On a CPU the plain formula is 1.3 to 1.8 times as fast as scaled_dot_product_attention with a bias, forward and
    # backward, as long as the (heads, T, T) scores stay near the cache: so one item at a time.
    if q.shape[0] > 1 and not torch.is_grad_enabled():
        return torch.cat([attend(q[i : i + 1], k[i : i + 1], v[i : i + 1], bias) for i in range(q.shape[0])])
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    scores += bias
    return torch.softmax(scores, dim=-1) @ v


class SelfAttention(nn.Module):
    """Multi-head self-attention over all time steps, without biases; q, k and v come from one matrix, in this order."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, T, dim) float and the (1, heads, T, T) bias -> (B, T, dim)."""
        batch, steps, dim = x.shape
        q, k, v = self.qkv(x).view(batch, steps, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(attend(q, k, v, bias).transpose(1, 2).reshape(batch, steps, dim))


class FeedForward(nn.Module):
    """dim -> ff_mult * dim, halves value and gate: value * gelu(gate) (tanh form), -> dim; without biases."""

    def __init__(self, dim: int, ff_mult: int, dropout: float) -> None:
        super().__init__()
        self.into = nn.Linear(dim, ff_mult * dim, bias=False)
        self.out = nn.Linear(ff_mult * dim // 2, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) float -> (B, T, dim)."""
        value, gate = self.into(x).chunk(2, dim=-1)
        return self.out(self.dropout(value * F.gelu(gate, approximate="tanh")))


class Layer(nn.Module):
    """Pre-norm transformer layer. Dropout acts on the residual branches and in the feed-forward.

    The attention weights themselves are not dropped: it would draw heads * T * T random numbers a layer and item, and keeps
    the fused attention kernels from being used.
    """

    def __init__(self, dim: int, heads: int, ff_mult: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(dim)
        self.attention = SelfAttention(dim, heads)
        self.feed_forward_norm = RMSNorm(dim)
        self.feed_forward = FeedForward(dim, ff_mult, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, T, dim) float and the (1, heads, T, T) bias -> (B, T, dim)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
