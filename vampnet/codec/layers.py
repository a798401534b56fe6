"""Layers that the waveform codecs share, with the parameter names of their published files and weight norm folded away.

All work on (B, channels, time) float32, for inference only: activations are overwritten where nobody reads them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vampnet import kernels

from . import rows


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, one alpha a channel (Ziyin, Hartwig and Ueda, 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N); 1e-9 keeps an alpha of 0 finite, as in training."""
        inverse = (self.alpha + 1e-9).reciprocal()
        if x.is_cuda:
            return kernels.snake(x.contiguous(), self.alpha, inverse)
        return torch.addcmul(x, (x * self.alpha).sin_().square_(), inverse)


def convolution(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Conv1d:
    """A convolution that keeps the length (odd kernel), zeros beyond the edges."""
    return nn.Conv1d(inputs, outputs, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)


class ResidualUnit(nn.Module):
    """x + [Snake, dilated convolution of 7, Snake, convolution of 1](x)."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(channels), convolution(channels, channels, 7, dilation), Snake(channels), convolution(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N)."""
        return self.block(x).add_(x)

    def on_rows(self, dtype: torch.dtype) -> rows.Unit:
        """The same on (time, channels), its convolutions in `dtype`."""
        return rows.Unit(self.block, dtype)


class EncoderBlock(nn.Module):
    """Three residual units (dilations 1, 3, 9), then half the channels' width per `stride` samples: C/2 -> C channels."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        down = nn.Conv1d(half, channels, 2 * stride, stride=stride, padding=math.ceil(stride / 2))
        self.block = nn.Sequential(*(ResidualUnit(half, dilation) for dilation in (1, 3, 9)), Snake(half), down)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C / 2, N) -> (B, C, N / stride)."""
        return self.block(x)


class Encoder(nn.Module):
    """Samples to latents: the strided convolutional encoder that LAC and `dac.DAC` share.

    Args:
        channels: after the first convolution; they double with every stride.
        strides: samples to latents, step by step; their product is the hop.
        latent: channels of a latent.
    """

    def __init__(self, channels: int, strides: Sequence[int], latent: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution(1, channels, 7)]
        for stride in strides:
            channels *= 2
            layers.append(EncoderBlock(channels, stride))
        self.block = nn.Sequential(*layers, Snake(channels), convolution(channels, latent, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, T * hop) samples -> (B, latent, T)."""
        return self.block(x)

    def on_rows(self) -> rows.Encoder:
        """The same in bfloat16 on (time, channels), for one clip at a time."""
        return rows.Encoder(self.block)


class DecoderBlock(nn.Module):
    """Snake, transposed convolution (C -> C/2 channels, `stride` times the length), then the codec's own blocks."""

    def __init__(self, channels: int, stride: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        up = nn.ConvTranspose1d(channels, channels // 2, 2 * stride, stride=stride, padding=math.ceil(stride / 2))
        self.block = nn.Sequential(Snake(channels), up, *blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C / 2, N * stride), one step shorter where `stride` is odd."""
        return self.block(x)


class Decoder(nn.Module):
    """Latents to samples in -1..1.

    Args:
        latent: channels of a latent.
        channels: after the first convolution; they halve with every rate.
        rates: latents to samples, step by step; their product is the hop.
        blocks: channels -> the blocks that follow each transposed convolution, which tell LAC from `dac.DAC`.
    """

    def __init__(self, latent: int, channels: int, rates: Sequence[int], blocks: Callable[[int], Sequence[nn.Module]]) -> None:
        super().__init__()
        layers: list[nn.Module] = [convolution(latent, channels, 7)]
        for rate in rates:
            layers.append(DecoderBlock(channels, rate, blocks(channels // 2)))
            channels //= 2
        self.model = nn.Sequential(*layers, Snake(channels), convolution(channels, 1, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """(B, latent, T) -> (B, 1, at most T * hop) samples; odd rates leave the end short."""
        return self.model(x)

    def on_rows(self) -> rows.Decoder:
        """The same in bfloat16 on (time, channels), for one clip at a time."""
        return rows.Decoder(self.model)


def context(convolutions: Sequence[nn.Conv1d | nn.ConvTranspose1d]) -> int:
    """The receptive field of an encoder or a decoder beyond a time step's own samples, in whole time steps.

    Latent t sees, or acts on, the samples t * hop - left ... t * hop + right: the same arithmetic for both directions.

    Args:
        convolutions: from the samples to the latents, so the decoder's in reverse order; of parallel branches the widest.

    Returns:
        Time steps to the farther side.
    """
    left = right = 0
    hop = 1
    for layer in convolutions:
        span = (layer.kernel_size[0] - 1) * layer.dilation[0]
        left += layer.padding[0] * hop
        right += (span - layer.padding[0]) * hop
        hop *= layer.stride[0]
    return max(math.ceil(left / hop), right // hop)
