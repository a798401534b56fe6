"""What each stage cannot do without: multiplications of its matrix products, Fourier transforms, and bytes.

Counted from the shapes alone, for what a stage computes and not for how. A matrix product of (m, k) and (k, n) is 2 m k n
operations; a convolution is one of every output sample with its kernel; a real transform of N samples is 2.5 N log2 N. What is
done element by element is left out. Bytes are what has to move even if all in between stayed on the chip: weights once each
time that a model is run, what goes in, and what comes out. So nothing gets below the floor that follows, as long as it decodes
in the same steps and windows (those of `windows.plan_for_mask`: a better plan lowers the floor too).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vampnet.bench.ceilings import Ceilings
from vampnet.codec.lac import DILATIONS, KERNELS
from vampnet.config import Sampling, TransformerConfig
from vampnet.gaps import fitting
from vampnet.guidance import asks_weaker, layers_of_weaker
from vampnet.sampling import mask_count
from vampnet.windows import plan_for_mask

WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
INDEX_BYTES = 8


@dataclass(frozen=True)
class Work:
    """What one part of a stage needs.

    Attributes:
        matrix: operations of matrix products and convolutions.
        fourier: operations of Fourier transforms.
        moved: bytes read and written.
        dtype: in which the matrix products are done, a key of `WEIGHT_BYTES`: it has its own ceiling.
    """

    matrix: int = 0
    fourier: int = 0
    moved: int = 0
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """All operations."""
        return self.matrix + self.fourier

    def __add__(self, other: Work) -> Work:
        return Work(self.matrix + other.matrix, self.fourier + other.fourier, self.moved + other.moved, self.dtype)

    def __mul__(self, times: int) -> Work:
        return Work(self.matrix * times, self.fourier * times, self.moved * times, self.dtype)


Demand = Sequence[Work]
"""Parts of a stage, one after the other."""


def floor_seconds(demand: Demand, ceilings: Ceilings) -> float:
    """The least seconds that a machine of these ceilings needs: for each part max(operations / rate, bytes / rate)."""
    return sum(max(part.flops / ceilings.matmul(part.dtype), part.moved / ceilings.copied) for part in demand)


# ----------------------------------------------------------------------------------------------------------- transformers


def parameters(config: TransformerConfig) -> int:
    """Numbers in the weights that a step reads: layers and classifier, and the small rest."""
    d, wide = config.dim, config.ff_mult * config.dim
    layer = 4 * d * d + d * wide + wide // 2 * d + 2 * d
    classifier = config.n_predicted * config.codebook_size * (d + 1)
    vectors = config.n_codebooks * (config.codebook_size + 1) * config.codebook_dim
    entry = config.n_codebooks * config.codebook_dim * d + d
    return config.layers * layer + classifier + vectors + entry + d + config.position_buckets * config.heads


def step(config: TransformerConfig, takes: int, steps: int, asked: int, dtype: str = "float32") -> Work:
    """One run of a transformer.

    The projection of the tokens' vectors is not counted: it is a table, as long as the weights do not change. What
    `model.tiled` leaves out of the last layer is counted.

    Args:
        config: its shape.
        takes: items of the batch.
        steps: time steps that it sees.
        asked: tokens, over the whole batch, whose logits are wanted.
        dtype: of the weights.
    """
    d, wide = config.dim, config.ff_mult * config.dim
    products = 4 * d * d + d * wide + wide // 2 * d  # a time step of a layer
    layers = config.layers * takes * steps * (2 * products + 4 * steps * d)
    classifier = 2 * asked * d * config.codebook_size
    moved = parameters(config) * WEIGHT_BYTES[dtype] + takes * steps * config.n_codebooks * INDEX_BYTES
    return Work(layers + classifier, 0, moved + asked * config.codebook_size * 4, dtype)


def decoding(
    config: TransformerConfig,
    mask: Tensor,
    takes: int,
    steps: int,
    dtype: str = "float32",
    guided: bool = False,
    alike: bool = False,
    recalls: bool = False,
) -> Work:
    """Iterative parallel decoding of a clip, window by window as `generate.fill_windows` does it.

    Args:
        config: shape of the model.
        mask: (n_codebooks, T) bool, True = regenerate; of each take.
        takes: decoded at once.
        steps: in each window.
        dtype: of the weights.
        guided: the weaker model of `vampnet.guidance` is asked in every step too, where gaps are short.
        alike: the takes begin with the same tokens, so the model need be asked for one in the first step of all.
        recalls: the model is asked once a window which places are alike (`vampnet.recall`).
    """
    seen = 1 if alike else takes
    weaker = dataclasses.replace(config, layers=layers_of_weaker(config.layers))
    left, work = mask.clone(), Work(dtype=dtype)
    for window in plan_for_mask(mask, config.context):
        at = window.places(mask.shape[-1])
        way = fitting(Sampling(guidance=1.0 if guided else 0.0), mask[config.n_conditioning :, at])
        shapes = [config, weaker] if way.guidance else [config]
        total = asked = int(left[config.n_conditioning :, at].sum())
        if recalls and asked:
            work += step(config, seen, window.length, 0, dtype)
            work += Work(2 * seen * window.length**2 * config.dim, dtype="float32")
        for number in range(steps):
            if asked == 0:
                break
            items, alike = 1 if alike else takes, False
            for shape in shapes:
                work += step(shape, items, window.length, items * asked, dtype)
            asked = mask_count(number, steps, total)
        left[:, window.core[0] : window.core[1]] = False
    return work


# ----------------------------------------------------------------------------------------------------------------- codecs


def _weights(dtype: str, *modules: Any) -> int:
    """Bytes of the weights of modules in the arithmetic that they are used in."""
    return sum(p.numel() for module in modules for p in module.parameters()) * WEIGHT_BYTES[dtype]


def _real_transform(size: int) -> int:
    return round(2.5 * size * math.log2(size))


def _quantizer(codec: Any, steps: int, width: int, search: bool) -> int:
    """Operations of the residual quantizer on `steps` time steps; with `search` from latents to codes, else back alone."""
    total = 0
    for level in codec.quantizer.quantizers:
        codes, dim = level.codebook.weight.shape
        total += 2 * steps * width * dim + (2 * steps * dim * (width + codes) if search else 0)
    return total


def _residual_codes(codec: Any, steps: int, width: int) -> tuple[int, int]:
    """Operations of `codec.quantize.residual_codes`: a projection for all levels and likenesses to their codes; and of its
    tables, which are made once."""
    shapes = [level.codebook.weight.shape for level in codec.quantizer.quantizers]
    later = sum(dim for _, dim in shapes)
    found, tables = 2 * steps * width * later, 0
    for codes, dim in shapes:
        later -= dim
        found += 2 * steps * dim * codes
        tables += 2 * later * dim * (width + codes)
    return found, tables


def encode(codec: Any, steps: int, takes: int = 1) -> Demand:
    """Samples of `takes` clips of `steps` time steps to tokens, with a spectral, a LAC or a DAC codec."""
    moved = takes * steps * (codec.hop * 4 + codec.n_codebooks * INDEX_BYTES)
    if not hasattr(codec.config, "window"):
        moved += _weights(codec.precision, codec.encoder, codec.quantizer)
        return (Work(takes * _waveform_encode(codec, steps), 0, moved, codec.precision),)
    matrix, fourier, tables = _spectral_encode(codec, steps)
    # In float32 whatever the codec's precision is: its tokens are to be the same.
    return (
        Work(
            takes * matrix + tables,
            takes * fourier,
            moved + _weights("float32", codec.project_in, codec.encoder, codec.quantizer),
        ),
    )


def decode(codec: Any, steps: int, takes: int = 1) -> Demand:
    """Tokens of `takes` clips of `steps` time steps to samples: a spectral codec's blocks, its projection, and the rest."""
    moved = takes * steps * (codec.hop * 4 + codec.n_codebooks * INDEX_BYTES)
    if not hasattr(codec.config, "window"):
        moved += _weights(codec.precision, codec.decoder, codec.quantizer)
        return (Work(takes * _waveform_decode(codec, steps), 0, moved, codec.precision),)
    c, half = codec.config, codec.precision
    blocks = half if codec.tiles is None else "int8"
    rest, fourier = _spectral_decode(codec, steps)
    rows = c.inputs + (0 if c.movement == c.flutter == 1 else c.frames * c.features)
    return (
        Work(takes * _blocks(c, c.decoder_layers, steps), 0, _weights(blocks, codec.decoder), blocks),
        Work(takes * 2 * steps * c.dim * rows, 0, _weights(half, codec.project_out), half),
        Work(takes * rest, takes * fourier, moved + _weights("float32", codec.quantizer)),
    )


def _blocks(config: Any, layers: int, steps: int) -> int:
    """ConvNeXt blocks: a depthwise convolution, then up and down."""
    return layers * 2 * steps * config.dim * (config.kernel + 2 * config.expansion * config.dim)


def _spectral_encode(codec: Any, steps: int) -> tuple[int, int, int]:
    """Of matrices and of transforms for a clip, and of tables for any number of them."""
    c = codec.config
    frames, short = steps * c.frames, steps * c.short_frames
    high = c.window // 2 + 1 - c.fine_bins
    matrix = 2 * frames * high * c.bands + 2 * short * (c.short_window // 2 + 1) * c.short_bands
    matrix += 2 * steps * c.inputs * c.dim + _blocks(c, c.encoder_layers, steps)
    found, tables = _residual_codes(codec, steps, c.dim)
    return matrix + found, frames * _real_transform(c.window) + short * _real_transform(c.short_window), tables


def _spectral_decode(codec: Any, steps: int) -> tuple[int, int]:
    """All but the blocks and the projection behind them."""
    c = codec.config
    frames, short = steps * c.frames, steps * c.short_frames
    high = c.window // 2 + 1 - c.fine_bins
    matrix = _quantizer(codec, steps, c.dim, search=False) + 2 * frames * c.bands * high
    matrix += 4 * short * (c.short_window // 2 + 1) * c.short_bands  # the levels of what was made, and their correction
    if c.wide_rounds:  # the others search the lower half of the band, at half the rate
        fourier = frames * (
            (2 * c.rounds + 2) * _real_transform(c.window // 2) + (2 * c.wide_rounds + 1) * _real_transform(c.window)
        )
    else:
        fourier = frames * (2 * c.rounds + 1) * _real_transform(c.window)
    fourier += 2 * short * _real_transform(c.short_window)
    return matrix, fourier


def _waveform_encode(codec: Any, steps: int) -> int:
    c = codec.config
    n, width = steps * c.hop, c.encoder_dim
    total = 2 * n * width * 7
    for stride in c.encoder_rates:
        total += 3 * 2 * n * width * width * (7 + 1)
        n = (n + stride % 2) // stride
        total += 2 * n * 2 * width * width * 2 * stride
        width *= 2
    return total + 2 * n * width * c.latent_dim * 3 + _quantizer(codec, steps, c.latent_dim, search=True)


def _waveform_decode(codec: Any, steps: int) -> int:
    c = codec.config
    # of one sample of one channel, for every channel that it is made from
    taps = sum(KERNELS) * len(DILATIONS) * 2 if codec.kind == "lac" else 3 * (7 + 1)
    n, width = steps, c.decoder_dim
    total = _quantizer(codec, steps, c.latent_dim, search=False) + 2 * n * c.latent_dim * width * 7
    for rate in c.decoder_rates:
        total += 2 * n * width * (width // 2) * 2 * rate
        width //= 2
        n = n * rate - rate % 2
        total += 2 * n * width * width * taps
    return total + 2 * n * width * 7


# ------------------------------------------------------------------------------------------------------------- whole vamp


def vamp(model: Any, mask: Tensor, takes: int, sampling: Sampling, dtype: str) -> Demand:
    """From samples to samples.

    Args:
        model: `VampNet`.
        mask: (K, T) bool, True = regenerate.
        takes: how many.
        sampling: how.
        dtype: of the transformers' weights.
    """
    coarse, fine = model.coarse.config, model.fine.config
    guided = asks_weaker(model.coarse, sampling.guidance)
    deep = mask.clone()
    deep[: fine.n_conditioning] = False
    return (
        *encode(model.codec, mask.shape[-1]),
        decoding(coarse, mask[: coarse.n_codebooks], takes, sampling.steps, dtype, guided, True, bool(sampling.recall)),
        decoding(fine, deep, takes, sampling.fine_steps, dtype),
        *decode(model.codec, mask.shape[-1], takes),
    )
