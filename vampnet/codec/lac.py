"""LAC: the codec of the published VampNet weights (44.1 kHz, 14 tokens every 768 samples; paper section 3.1).

The encoder and the quantizer are those of `dac.DAC`; the decoder has a HiFi-GAN style multi-receptive-field block after each
transposed convolution (Kong, Kim and Bae, 2020, section 2.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import rows
from .convolutional import ConvolutionalCodec
from .layers import Snake, convolution

KERNELS = (3, 7, 11)
DILATIONS = (1, 3, 5)


class Layer(nn.Module):
    """x + [Snake, dilated convolution, Snake, convolution](x), both of the same kernel."""

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            Snake(channels),
            convolution(channels, channels, kernel, dilation),
            Snake(channels),
            convolution(channels, channels, kernel),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N)."""
        return self.layer(x).add_(x)

    def on_rows(self, dtype: torch.dtype) -> rows.Unit:
        """The same on (time, channels), its convolutions in `dtype`."""
        return rows.Unit(self.layer, dtype)


class Branch(nn.Module):
    """One receptive field: a layer for each dilation."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.block = nn.Sequential(*(Layer(channels, kernel, dilation) for dilation in DILATIONS))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N)."""
        return self.block(x)

    def on_rows(self, dtype: torch.dtype) -> rows.Chain:
        """The same on (time, channels), its convolutions in `dtype`."""
        return rows.Chain([layer.on_rows(dtype) for layer in self.block])


class MultiReceptiveField(nn.Module):
    """The mean of parallel branches, one for each kernel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mrf_blocks = nn.ModuleList(Branch(channels, kernel) for kernel in KERNELS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) -> (B, C, N)."""
        total = self.mrf_blocks[0](x)
        for branch in self.mrf_blocks[1:]:
            total = total.add_(branch(x))
        return total.div_(len(self.mrf_blocks))

    def on_rows(self, dtype: torch.dtype) -> rows.Mean:
        """The same on (time, channels), its convolutions in `dtype`."""
        return rows.Mean([branch.on_rows(dtype) for branch in self.mrf_blocks])


class LAC(ConvolutionalCodec):
    """The codec of the published VampNet weights; made by `codec_from_published`.

    In the published shape (encoder_dim 64, decoder_dim 1536, hop 768) a token sees its own samples and 8 time steps to
    either side, and acts on 18 to either side.
    """

    kind = "lac"

    @staticmethod
    def decoder_blocks(channels: int) -> Sequence[nn.Module]:
        """One multi-receptive-field block."""
        return [MultiReceptiveField(channels)]

    @staticmethod
    def recognises(names: Sequence[str]) -> bool:
        """Whether tensors of these names are a LAC's."""
        return any(".mrf_blocks." in name for name in names)

    def _decoder_path(self) -> list[nn.Conv1d | nn.ConvTranspose1d]:
        widest = f".mrf_blocks.{len(KERNELS) - 1}."
        return [
            module
            for name, module in self.decoder.named_modules()
            if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) and (".mrf_blocks." not in name or widest in name)
        ]
