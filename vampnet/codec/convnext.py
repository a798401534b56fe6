"""The blocks of the spectral codec."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """ConvNeXt block on (B, T, C): depthwise convolution over time, then an MLP on every step."""

    def __init__(self, dim: int, kernel: int, expansion: int, scale: float) -> None:
        super().__init__()
        self.kernel = kernel
        # A 2-d convolution in channels-last layout: several times faster on CPUs than a depthwise Conv1d.
        self.depthwise = nn.Conv2d(dim, dim, (kernel, 1), groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, expansion * dim)
        self.down = nn.Linear(expansion * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor, loop: bool = False) -> Tensor:
        """(B, T, C) -> (B, T, C); on a ring the convolution wraps around."""
        side = self.kernel // 2
        y = ring_pad(x, side) if loop else F.pad(x, (0, 0, side, side))
        y = self.depthwise(y.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(y)), approximate="tanh"))


def ring_pad(x: Tensor, side: int) -> Tensor:
    """(B, T, C) -> (B, T + 2 side, C), wrapped around in time."""
    steps = x.shape[1]
    return x[:, torch.arange(-side, steps + side, device=x.device) % steps]
