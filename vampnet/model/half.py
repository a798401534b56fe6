"""Matrices and layers of a transformer in bfloat16; the residual stream stays in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vampnet import kernels
from vampnet.model.attention import Layer


class HalfLinear(nn.Module):
    """weight @ x + bias with the weight in bfloat16, behind an RMS norm if there is one.

    Args:
        weight: (outputs, inputs) float.
        bias: (outputs,) float or None.
        eps: of the norm before it; None = no norm.
        gain: (inputs,) float, the weight of that norm.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, eps: float | None = None, gain: Tensor | None = None
    ) -> None:
        super().__init__()
        self.eps = eps
        weight = weight if gain is None else weight * gain
        self.weight = nn.Parameter(weight.detach().bfloat16(), requires_grad=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def prepare(self, x: Tensor) -> Tensor:
        """(N, inputs) float -> the same in bfloat16, normalised: what `multiply` takes, whole or some rows of it."""
        if self.eps is not None:
            x = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)
        return x.to(self.weight.dtype)

    def multiply(self, x: Tensor, into: Tensor | None = None) -> Tensor:
        """Some rows of what `prepare` gave -> (n, outputs) bfloat16; float32 with a bias, `into` if there is one."""
        out = F.linear(x, self.weight)
        return out if self.bias is None else torch.add(out, self.bias, out=into)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) float -> (N, outputs) bfloat16."""
        return self.multiply(self.prepare(x))


class Matrices(nn.Module):
    """The four matrices of a layer, queries scaled and norms in them.

    Args:
        layer: in float32; it stays as it is.
        linear: what becomes of a weight, called as `HalfLinear` is.
    """

    def __init__(self, layer: Layer, linear: Callable[..., nn.Module]) -> None:
        super().__init__()
        attention, feed_forward = layer.attention, layer.feed_forward
        self.heads, dim = attention.heads, attention.qkv.in_features
        qkv = attention.qkv.weight
        qkv = torch.cat([qkv[:dim] * (dim // self.heads) ** -0.5, qkv[dim:]])
        self.qkv = linear(qkv, eps=layer.attention_norm.eps, gain=layer.attention_norm.weight)
        self.out = linear(attention.out.weight)
        self.into = linear(feed_forward.into.weight, eps=layer.feed_forward_norm.eps, gain=layer.feed_forward_norm.weight)
        self.down = linear(feed_forward.out.weight)


class HalfLayer(Matrices):
    """`attention.Layer` on flat (B * T, dim) float32."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer, HalfLinear)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B * T, dim) float32 and the (1, heads, T, T) bias -> (B * T, dim) float32."""
        qkv = split_heads(self.qkv(x), bias.shape[-1], self.heads)
        mixed = attend(*qkv.to(bias.dtype, memory_format=torch.contiguous_format).unbind(0), bias)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        value, gate = self.into(x).chunk(2, dim=-1)
        return x + self.down(F.gelu(gate, approximate="tanh") * value)

    def in_passes(self, x: Tensor, add: Tensor | None, bias: Tensor) -> Tensor:
        """The same for a GPU, where each pass over memory counts: additions and norms are one, and wait for each other.

        Args:
            x: (B * T, dim) float32, to which everything but the layer's last part is added in place.
            add: (B * T, dim), what the layer before has still to add, or None.
            bias: (1, heads, T, T).

        Returns:
            (B * T, dim) of the weights' type, what this layer has still to add.
        """
        heard = kernels.normed(x, add, self.qkv.eps, self.qkv.weight.dtype)
        mixed = attend(*split_heads(self.qkv.multiply(heard), bias.shape[-1], self.heads).unbind(0), bias)
        add = self.out.multiply(mixed.transpose(1, 2).reshape(x.shape))
        heard = kernels.normed(x, add, self.into.eps, self.into.weight.dtype)
        return self.down.multiply(kernels.gated(self.into.multiply(heard)))


def split_heads(qkv: Tensor, steps: int, heads: int) -> Tensor:
    """(B * T, 3 dim) -> (3, B, heads, T, dim / heads)."""
    return qkv.view(-1, steps, 3, heads, qkv.shape[-1] // 3 // heads).permute(2, 0, 3, 1, 4)


def padded(bias: Tensor) -> Tensor:
    """(1, heads, T, T) with rows that begin at every 16th number: a fused kernel takes others only as a copy of all of it."""
    steps = bias.shape[-1]
    wide = bias.new_zeros(*bias.shape[:-1], -(-steps // 16) * 16)
    wide[..., :steps] = bias
    return wide[..., :steps]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T + bias) v, with q scaled already.

    Args:
        q, k, v: (B, heads, T, d) bfloat16 or float32.
        bias: (1, heads, T, T), on a CPU of the type of q.

    Returns:
        (B, heads, T, d) of the type of v.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
    # One item at a time, so that the scores stay near the cache; see `attention.attend`. In bfloat16 a score is rounded once,
    # after its bias, and then all passes are in the same memory.
    out, scores = torch.empty_like(v), v.new_empty(q.shape[1], q.shape[2], k.shape[2])
    for one_q, one_k, one_v, mixed in zip(q, k, v, out, strict=True):
        torch.baddbmm(bias[0], one_q, one_k.mT, out=scores)
        torch.softmax(scores, dim=-1, out=scores)
        torch.matmul(scores, one_v, out=mixed)
    return out
