"""The public DAC codecs (Kumar et al., 2023), or any other `dac.DAC` checkpoint, behind the interface of this package."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .convolutional import ConvolutionalCodec
from .layers import ResidualUnit


class DacCodec(ConvolutionalCodec):
    """A `dac.DAC`; made by `codec_from_published`.

    Hop, sample rate, number and size of the codebooks are the file's: 44.1 kHz with 9 or 18 codebooks every 512 samples,
    24 and 16 kHz with 32 or 12 every 320, or whatever was trained.
    """

    kind = "dac"

    @staticmethod
    def decoder_blocks(channels: int) -> Sequence[nn.Module]:
        """Three residual units with dilations 1, 3 and 9."""
        return [ResidualUnit(channels, dilation) for dilation in (1, 3, 9)]

    @staticmethod
    def recognises(names: Sequence[str]) -> bool:
        """Whether tensors of these names are a `dac.DAC`'s."""
        return "decoder.model.1.block.2.block.0.alpha" in names
