"""Matrices and layers of a transformer in whole numbers, for CPUs.

Weights have one scale an output and activations one factor a row: what a matrix makes of a time step depends neither on the
other steps nor on the other items of a batch. The residual stream stays in float32; attention is in bfloat16 where a CPU is
fast in that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vampnet import passes
from vampnet.model.attention import Layer
from vampnet.model.half import Matrices, attend, split_heads


class Int8Linear(nn.Module):
    """weight @ x + bias with an int8 weight, behind an RMS norm if there is one; see `HalfLinear` for the arguments.

    Rows of x are scaled to -127..127. A norm before it is one more factor of a row's scale, next to free; its weight comes
    first, since what it takes back would else be the largest of a row, and leave too few numbers for the rest.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, eps: float | None = None, gain: Tensor | None = None
    ) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("gain", torch.ones(weight.shape[1]) if gain is None else gain.detach().float().contiguous())
        scale = weight.detach().float().abs().amax(dim=1).clamp_min(1e-12) / 127
        whole = (weight.detach() / scale[:, None]).round().to(torch.int8).T.contiguous()
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", torch.zeros(len(weight)) if bias is None else bias.detach().float().contiguous())

    def prepare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs) float32 -> (N, inputs) int8 and the (N,) float32 factors of its rows."""
        x = x.contiguous()
        return passes.quantised(x) if self.eps is None else passes.normed(x, self.gain, self.eps)

    def product(self, rows: Tensor) -> Tensor:
        """(N, inputs) int8 -> (N, outputs) int32, without any scale."""
        return torch._int_mm(rows, self.weight)

    def multiply(self, rows: Tensor, factors: Tensor, into: Tensor | None = None) -> Tensor:
        """Some rows of what `prepare` gave -> (n, outputs) float32, `into` a tensor if there is one."""
        return passes.scaled(self.product(rows), factors, self.scale, self.bias, into)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) float32 -> (N, outputs) float32."""
        return self.multiply(*self.prepare(x))


class Int8Layer(Matrices):
    """`attention.Layer` on flat (B * T, dim) float32 and what its first matrix reads of that."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer, Int8Linear)

    def forward(self, x: Tensor, heard: tuple[Tensor, Tensor], bias: Tensor, following: Int8Linear) -> tuple[Tensor, Tensor]:
        """One layer, in place.

        Args:
            x: (B * T, dim) float32 contiguous, to which the layer is added.
            heard: what `self.qkv.prepare` makes of it.
            bias: (1, heads, T, T), of the type that attention is in.
            following: the matrix that reads x next.

        Returns:
            What `following.prepare` makes of x.
        """
        rows, factors = self._attend(*heard, bias)
        rows, factors = self._add(x, self.out, rows, rows, factors, self.into)
        hidden, factors = passes.gated(self.into.product(rows), self.into.scale, factors)
        return self._add(x, self.down, hidden, rows, factors, following)

    def _attend(self, rows: Tensor, factors: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        product, steps = self.qkv.product(rows), bias.shape[-1]
        if bias.dtype == torch.bfloat16:
            return passes.merged(*passes.attend(*passes.split(product, factors, self.qkv.scale, self.heads, steps), bias))
        qkv = passes.scaled(product, factors, self.qkv.scale, self.qkv.bias)
        mixed = attend(*split_heads(qkv, steps, self.heads).contiguous(), bias)
        return passes.quantised(mixed.transpose(1, 2).reshape(rows.shape))

    @staticmethod
    def _add(
        x: Tensor, matrix: Int8Linear, given: Tensor, rows: Tensor, factors: Tensor, following: Int8Linear
    ) -> tuple[Tensor, Tensor]:
        product = matrix.product(given)
        return passes.added(x, product, matrix.scale, following.gain, following.eps, rows, factors)
