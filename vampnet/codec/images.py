"""The waveform codecs' layers for GPUs, in bfloat16: the same arithmetic on images of one row, channels last in memory.

So the convolutions run as the library likes them, without turning each one's input and result around, and a snake is one pass.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vampnet import kernels

from .layers import Decoder, Encoder, Snake

HALF = torch.bfloat16
"""The type of all convolutions but those that read or make samples, or make latents: these are in float32."""


class ImageSnake(nn.Module):
    """A `Snake`, behind a bias if it is given one."""

    def __init__(self, module: Snake) -> None:
        super().__init__()
        alpha = module.alpha.detach().float()[..., None]
        self.register_buffer("alpha", alpha)
        self.register_buffer("inverse", (alpha + 1e-9).reciprocal())

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, C, 1, N) float and (C,) float or None -> (B, C, 1, N)."""
        return kernels.snake(x, self.alpha, self.inverse, bias)


class ImageConvolution(nn.Module):
    """An `nn.Conv1d` or an `nn.ConvTranspose1d`, in `dtype`."""

    def __init__(self, module: nn.Conv1d | nn.ConvTranspose1d, dtype: torch.dtype) -> None:
        super().__init__()
        weight = module.weight.detach()[:, :, None].to(dtype, memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", module.bias.detach().to(dtype))
        self.options = {"stride": (1, *module.stride), "padding": (0, *module.padding), "dilation": (1, *module.dilation)}
        self.run = nn.functional.conv2d
        if isinstance(module, nn.ConvTranspose1d):
            self.run, self.options["output_padding"] = nn.functional.conv_transpose2d, (0, *module.output_padding)

    def forward(self, x: Tensor, biased: bool = True) -> Tensor:
        """(B, C, 1, N) float -> (B, C', 1, N') of the convolution's type, without its bias if that is added later."""
        return self.run(x.to(self.weight.dtype), self.weight, self.bias if biased else None, **self.options)


class ImageUnit(nn.Module):
    """x + [Snake, convolution, Snake, convolution](x): a residual unit of `layers` or a layer of `lac`.

    The library adds a bias in a pass of its own, the slowest of all; here it is part of the pass that follows.
    """

    def __init__(self, parts: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__()
        before, first, between, second = parts
        self.before, self.between = ImageSnake(before), ImageSnake(between)
        self.first, self.second = ImageConvolution(first, dtype), ImageConvolution(second, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, N) float -> the same, of the convolutions' type."""
        x = x.to(self.first.weight.dtype)
        heard = self.between(self.first(self.before(x), biased=False), self.first.bias)
        return kernels.joined(self.second(heard, biased=False), self.second.bias, x)


class OnImages(nn.Module):
    """An encoder or a decoder.

    Args:
        module: in float32; it stays as it is.
    """

    def __init__(self, module: Encoder | Decoder) -> None:
        super().__init__()
        layers = module.block if isinstance(module, Encoder) else module.model
        self.layers = copy.deepcopy(layers)
        first, *_, last = (n for n, layer in enumerate(self.layers) if isinstance(layer, nn.Conv1d))
        exact = {last, first} if isinstance(module, Encoder) else {last}
        for number, layer in enumerate(self.layers):
            self.layers[number] = _on_images(layer, torch.float32 if number in exact else HALF)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N) float -> (B, C', N') float32."""
        image = x[:, :, None].contiguous(memory_format=torch.channels_last)
        return self.layers(image)[:, :, 0].float().contiguous()


def _on_images(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`module`, or what takes its place, with everything in it exchanged that knows of an axis of time."""
    if isinstance(module, Snake):
        return ImageSnake(module)
    if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
        return ImageConvolution(module, dtype)
    parts = next(module.children(), None)
    if isinstance(parts, nn.Sequential) and [type(part) for part in parts] == [Snake, nn.Conv1d, Snake, nn.Conv1d]:
        return ImageUnit(parts, dtype)
    for name, child in module.named_children():
        setattr(module, name, _on_images(child, dtype))
    return module
