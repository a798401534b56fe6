"""The waveform codecs' layers for CPUs that are fast at bfloat16: the same arithmetic on matrices of (time, channels), "rows".

With channels innermost, convolutions in bfloat16 run at the speed of matrix products whatever the number of channels, and
nothing is rearranged between them. Residual layers work on stretches of time that stay in the cache.

A snake is (z + sin(z)^2) / alpha with z = alpha x: the convolution behind it takes in 1 / alpha, the one before it alpha.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRETCH = 1_572_864
"""Numbers in a stretch of rows that residual layers work on at a time: a few arrays of as many fit a cache of 32 MB. With
shorter ones the threads meet more often, and wait for one another where another process keeps one of them busy."""
STRETCH_ROWS = 8192
"""Rows of a stretch at least: its neighbours on either side, some tens of rows, are computed again."""
HALVED_FROM = 1100
"""Channels times taps from which a convolution is worth halving."""
LEVELS = 2
"""How often it is then halved."""
LEAST_ALPHA = 1e-6
"""A smaller alpha leaves x as it is, and counts as this one, which has a reciprocal."""


class Conv:
    """A convolution over rows that keeps their number or, without zeros at the edges, takes away what it reaches over.

    Args:
        weight: (outputs, inputs, taps) float32.
        bias: (outputs,) float32 or None.
        dilation: rows from tap to tap.
        dtype: of its arithmetic.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dilation: int, dtype: torch.dtype) -> None:
        self.weight = weight[:, :, None].to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)
        self.dilation = dilation

    def __call__(self, rows: Tensor, zeros: int = 0) -> Tensor:
        """(N, inputs) -> (N + 2 zeros - (taps - 1) dilation, outputs), with `zeros` rows of zeros at either edge."""
        return _rows(F.conv2d(_image(rows), self.weight, self.bias, padding=(0, zeros), dilation=(1, self.dilation)))


class HalvedConv:
    """A `Conv` of three convolutions that have half its taps and work on half its rows, instead of four (Karatsuba's way).

    Of rows and taps x0 and h0 are the even ones, x1 and h1 the odd, and x2 the even ones from the second on. With
    p = (h0 + h1) * x1 the even rows of the result are h0 * (x0 - x1) + p, the odd ones h1 * (x2 - x1) + p. With a dilation,
    every other block of as many rows is even.

    Args:
        weight, bias, dilation, dtype: as for `Conv`.
        levels: how often to halve.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dilation: int, dtype: torch.dtype, levels: int) -> None:
        even, odd = weight[..., 0::2], weight[..., 1::2]
        both = even + F.pad(odd, (0, even.shape[-1] - odd.shape[-1]))
        self.taps, self.dilation = weight.shape[-1], dilation
        self.even, self.odd = (convolution(part, None, dilation, dtype, levels - 1) for part in (even, odd))
        self.both = convolution(both, bias, dilation, dtype, levels - 1)

    def __call__(self, rows: Tensor, zeros: int = 0) -> Tensor:
        """As `Conv`."""
        width, channels = self.dilation, rows.shape[1]
        count = len(rows) + 2 * zeros - (self.taps - 1) * width
        pairs = math.ceil(count / (2 * width))
        more_even, more_odd = (self.taps - 1) // 2, self.taps // 2 - 1
        end = (pairs + more_even + 1) * 2 * width
        rows = F.pad(rows, (0, 0, zeros, end - zeros - len(rows)))
        x0, x1 = rows.view(-1, 2, width, channels).unbind(1)
        p = self.both(x1[: pairs + more_even].reshape(-1, channels)).view(pairs, width, -1)
        out = p.new_empty(pairs, 2, width, p.shape[-1])
        even = self.even((x0[:-1] - x1[:-1]).view(-1, channels))
        torch.add(p, even.view_as(p), out=out[:, 0])
        odd = self.odd((x0[1 : pairs + more_odd + 1] - x1[: pairs + more_odd]).view(-1, channels))
        torch.add(p, odd.view_as(p), out=out[:, 1])
        return out.view(-1, p.shape[-1])[:count]


def convolution(weight: Tensor, bias: Tensor | None, dilation: int, dtype: torch.dtype, levels: int) -> Conv | HalvedConv:
    """A `Conv`, halved `levels` times or until it has one tap."""
    if levels and weight.shape[-1] > 1:
        return HalvedConv(weight, bias, dilation, dtype, levels)
    return Conv(weight, bias, dilation, dtype)


class Layer:
    """An `nn.Conv1d` that keeps the length, on rows.

    Args:
        module: in float32.
        dtype: of the arithmetic.
        behind: (inputs,) alphas of the snake before it; None = there is none, and so for the next.
        before: (outputs,) alphas of the snake behind it.
    """

    def __init__(
        self, module: nn.Conv1d, dtype: torch.dtype, behind: Tensor | None = None, before: Tensor | None = None
    ) -> None:
        weight, bias = module.weight.detach(), module.bias.detach()
        if behind is not None:
            weight = weight / behind[:, None]
        if before is not None:
            weight, bias = weight * before[:, None, None], bias * before
        outputs, inputs, taps = weight.shape
        levels = LEVELS if min(inputs, outputs) * taps >= HALVED_FROM and inputs == outputs else 0
        self.run = convolution(weight, bias, module.dilation[0], dtype, levels)
        self.reach = module.padding[0]

    def __call__(self, rows: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        return self.run(rows, self.reach)


class Strided:
    """An `nn.Conv1d` or `nn.ConvTranspose1d` that changes the length, behind a snake, on rows."""

    def __init__(self, snake: nn.Module, module: nn.Conv1d | nn.ConvTranspose1d, dtype: torch.dtype) -> None:
        alpha = _alphas(snake).to(dtype)
        transposed = isinstance(module, nn.ConvTranspose1d)
        weight = module.weight.detach() / alpha.float().view((-1, 1, 1) if transposed else (-1, 1))
        self.alpha, self.bias = alpha, module.bias.detach().to(dtype)
        self.weight = weight[:, :, None].to(dtype).contiguous(memory_format=torch.channels_last)
        self.run = F.conv_transpose2d if transposed else F.conv2d
        self.options = dict(stride=(1, module.stride[0]), padding=(0, module.padding[0]))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N', outputs)."""
        return _rows(self.run(_image(_snake(x * self.alpha)), self.weight, self.bias, **self.options))


class Unit:
    """x + [snake, convolution, snake, convolution](x), with x in float32: in bfloat16 it would lose 1 to 2 dB."""

    def __init__(self, layers: Sequence[nn.Module], dtype: torch.dtype) -> None:
        self.alpha, inner = _alphas(layers[0]), _alphas(layers[2])
        self.first = Layer(layers[1], dtype, self.alpha, inner)
        self.second = Layer(layers[3], dtype, inner)
        self.dtype = dtype
        self.reach = self.first.reach + self.second.reach

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C) float32 -> (N, C) float32."""
        z = (x * self.alpha).to(self.dtype)
        return x + self.second(_snake(self.first(_snake(z))))


class Chain:
    """Parts one after the other, each of which keeps the length and depends on `reach` rows on either side."""

    def __init__(self, parts: Sequence[Unit | Chain | Mean]) -> None:
        self.parts = parts
        self.reach = sum(part.reach for part in parts)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C) float32 -> (N, C) float32."""
        for part in self.parts:
            x = part(x)
        return x


class Mean:
    """The mean of parallel parts."""

    def __init__(self, parts: Sequence[Unit | Chain]) -> None:
        self.parts = parts
        self.reach = max(part.reach for part in parts)

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C) float32 -> (N, C) float32."""
        total = self.parts[0](x)
        for part in self.parts[1:]:
            total.add_(part(x))
        return total.div_(len(self.parts))


def in_stretches(run: Chain, rows: Tensor) -> Tensor:
    """`run` on (N, C) of any type, stretch by stretch, each with the neighbours that it depends on; of the same type."""
    count, channels = rows.shape
    size = max(STRETCH // channels, STRETCH_ROWS)
    out = torch.empty_like(rows)
    for start in range(0, count, size):
        stop, left = min(count, start + size), max(0, start - run.reach)
        out[start:stop] = run(rows[left : stop + run.reach].float())[start - left : stop - left]
    return out


class Encoder:
    """A `layers.Encoder`.

    Args:
        model: its block.
        dtype: of the arithmetic; the first and the last convolution are in float32.
    """

    def __init__(self, model: Sequence[nn.Module], dtype: torch.dtype = torch.bfloat16) -> None:
        first, *blocks, snake, last = model
        self.dtype = dtype
        self.first = Layer(first, torch.float32)
        self.blocks = []
        for *units, before, down in (block.block for block in blocks):
            self.blocks.append((Chain([unit.on_rows(dtype) for unit in units]), Strided(before, down, dtype)))
        self.alpha = _alphas(snake)
        self.last = Layer(last, torch.float32, self.alpha)

    def __call__(self, audio: Tensor) -> Tensor:
        """(1, 1, T * hop) float32 samples -> (1, latent, T) float32."""
        x = self.first(audio[0].T).to(self.dtype)
        for units, down in self.blocks:
            x = down(in_stretches(units, x))
        return self.last(_snake(x.float() * self.alpha)).T[None]


class Decoder:
    """A `layers.Decoder`.

    Args:
        model: its model.
        dtype: of the arithmetic; the last convolution is in float32.
    """

    def __init__(self, model: Sequence[nn.Module], dtype: torch.dtype = torch.bfloat16) -> None:
        first, *blocks, snake, last, _ = model
        self.first = Layer(first, dtype)
        self.dtype = dtype
        self.blocks = []
        for before, up, *parts in (block.block for block in blocks):
            self.blocks.append((Strided(before, up, dtype), Chain([part.on_rows(dtype) for part in parts])))
        self.alpha = _alphas(snake)
        self.last = Layer(last, torch.float32, self.alpha)

    def __call__(self, latents: Tensor) -> Tensor:
        """(1, latent, T) float32 -> (1, 1, at most T * hop) float32 samples."""
        x = self.first(latents[0].T.to(self.dtype))
        for up, parts in self.blocks:
            x = in_stretches(parts, up(x))
        return self.last(_snake(x.float() * self.alpha)).tanh_().T[None]


def _alphas(snake: nn.Module) -> Tensor:
    """(C,) float32: what a `layers.Snake` has, none of it 0."""
    alpha = snake.alpha.detach().flatten()
    return torch.where(alpha.abs() < LEAST_ALPHA, torch.full_like(alpha, LEAST_ALPHA), alpha)


def _snake(z: Tensor) -> Tensor:
    """z + sin(z)^2, in the memory of z."""
    s = torch.sin(z)
    return z.addcmul_(s, s)


def _image(rows: Tensor) -> Tensor:
    """(N, C) -> (1, C, 1, N) with channels last, no copy."""
    return rows.reshape(1, 1, *rows.shape).permute(0, 3, 1, 2)


def _rows(image: Tensor) -> Tensor:
    """(1, C, 1, N) with channels last -> (N, C), no copy."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])
