"""What the waveform codecs share: a strided convolutional encoder, `dac`'s residual vector quantizer, a decoder.

Long clips are worked on in pieces with enough context on both sides, so that memory is bounded and the result is that of the
whole clip, up to rounding.
"""

from __future__ import annotations

import math
import numbers
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from dac.nn.quantize import ResidualVectorQuantize
from torch import Tensor, nn

from vampnet.graphs import Recordings

from . import rows
from .described import DescribedCodec
from .images import OnImages
from .layers import Decoder, Encoder, context

PIECE_SAMPLES = 393_216
"""Samples worked on at a time (512 time steps of 768), over all clips of a batch: 0.5 GB in the published shape. Where bfloat16
takes less, twice as many, which for 10 s spares the context in the middle."""

GPU_PIECE_SAMPLES = 16 * 786_432
"""The same on a GPU in bfloat16: one call for 16 clips of 15 s, in the published shape with some 5 GB."""

IMAGE_SAMPLES = 4 * 393_216
"""Samples from which on a decoder on images is faster than one on (channels, time): for one clip of 10 s cuDNN takes twice as
long there, for 16 two fifths. An encoder always is faster."""

RECORDED_SAMPLES = 2 * 786_432
"""Samples up to which a GPU has done the layers before the computer has asked for all of them: these are recorded."""


@dataclass(frozen=True)
class ConvolutionalShape:
    """Shape of a waveform codec, in the words of the published files.

    Attributes:
        encoder_dim: channels of the encoder's first convolution.
        encoder_rates: strides of the encoder; their product is the hop.
        latent_dim: channels of a latent.
        decoder_dim: channels of the decoder's first convolution.
        decoder_rates: strides of the decoder; the same product.
        n_codebooks, codebook_size: of the quantizer.
        codebook_dim: width of a code, one for all codebooks or one for each.
        sample_rate: Hz.
    """

    encoder_dim: int
    encoder_rates: tuple[int, ...]
    latent_dim: int
    decoder_dim: int
    decoder_rates: tuple[int, ...]
    n_codebooks: int
    codebook_size: int
    codebook_dim: int | tuple[int, ...]
    sample_rate: int

    @classmethod
    def from_kwargs(cls, kwargs: Mapping) -> ConvolutionalShape:
        """From metadata["kwargs"] of a published file; what says nothing about the shape is passed over.

        Raises:
            ValueError: an entry is missing or out of range, or the decoder's hop is not the encoder's.
        """
        counts = {
            key: _count(kwargs, key) for key in ("encoder_dim", "decoder_dim", "n_codebooks", "codebook_size", "sample_rate")
        }
        rates = {key: _counts(kwargs, key) for key in ("encoder_rates", "decoder_rates")}
        width = kwargs.get("codebook_dim")
        width = _count(kwargs, "codebook_dim") if isinstance(width, numbers.Integral) else _counts(kwargs, "codebook_dim")
        latent = counts["encoder_dim"] * 2 ** len(rates["encoder_rates"])
        if kwargs.get("latent_dim") is not None:
            latent = _count(kwargs, "latent_dim")
        shape = cls(latent_dim=latent, codebook_dim=width, **counts, **rates)
        if math.prod(shape.decoder_rates) != shape.hop:
            raise ValueError(
                f"The codec's decoder_rates {list(shape.decoder_rates)} do not multiply to its hop of {shape.hop}."
            )
        if shape.decoder_dim % 2 ** len(shape.decoder_rates):
            raise ValueError(f"The codec's decoder_dim {shape.decoder_dim} cannot be halved for each of its decoder_rates.")
        if not isinstance(width, int) and len(width) != shape.n_codebooks:
            raise ValueError(f"The codec's codebook_dim lists {len(width)} widths for {shape.n_codebooks} codebooks.")
        return shape

    @property
    def hop(self) -> int:
        """Samples a time step."""
        return math.prod(self.encoder_rates)


def _count(kwargs: Mapping, key: str) -> int:
    if key not in kwargs:
        raise ValueError(f"The codec's metadata lacks '{key}': this is not a whole published codec.")
    value = kwargs[key]
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"The codec's metadata gives {key} = {value!r}, which should be a whole number above 0.")
    return int(value)


def _counts(kwargs: Mapping, key: str) -> tuple[int, ...]:
    values = kwargs.get(key)
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"The codec's metadata gives {key} = {values!r}, which should be a list of whole numbers.")
    return tuple(_count({key: value}, key) for value in values)


class ConvolutionalCodec(DescribedCodec, ABC):
    """Audio <-> tokens by convolutions over samples. See `LAC` and `DacCodec`, and `codec_from_published`, which makes them.

    Attributes:
        config: the shape of its layers.
        encoder_context, decoder_context: time steps of neighbours on either side that a token depends on, and that a time
            step of samples depends on (the receptive field, in whole time steps).
    """

    kind = ""
    """The type in config.json."""

    def __init__(self, shape: ConvolutionalShape) -> None:
        super().__init__()
        self.config = shape
        self.encoder = Encoder(shape.encoder_dim, shape.encoder_rates, shape.latent_dim)
        self.decoder = Decoder(shape.latent_dim, shape.decoder_dim, shape.decoder_rates, self.decoder_blocks)
        self.quantizer = _quantizer(shape)
        self.encoder_context = context(_convolutions(self.encoder))
        self.decoder_context = context(self._decoder_path()[::-1])
        # Made when first used in bfloat16.
        self._on_rows: dict[str, rows.Encoder | rows.Decoder] = {}
        self._on_images: dict[str, OnImages] = {}
        self._recordings = Recordings()

    @staticmethod
    @abstractmethod
    def decoder_blocks(channels: int) -> Sequence[nn.Module]:
        """The blocks that follow each transposed convolution of the decoder."""

    @staticmethod
    @abstractmethod
    def recognises(names: Sequence[str]) -> bool:
        """Whether tensors of these names are of this kind of codec."""

    def _decoder_path(self) -> list[nn.Conv1d | nn.ConvTranspose1d]:
        """The convolutions from a latent to its farthest sample."""
        return _convolutions(self.decoder)

    def codebook_vectors(self) -> Tensor:
        """(n_codebooks, codebook_size, codebook_dim) float: the vectors that transformers read tokens with.

        Raises:
            ValueError: the codebooks have vectors of different widths.
        """
        if not isinstance(self.config.codebook_dim, int) and len(set(self.config.codebook_dim)) > 1:
            raise ValueError(f"No transformer can read codebooks of different widths {list(self.config.codebook_dim)}.")
        return torch.stack([q.codebook.weight.detach() for q in self.quantizer.quantizers])

    @torch.no_grad()
    def encode(self, audio: Tensor, loop: bool = False) -> Tensor:
        """Samples to tokens.

        Args:
            audio: (B, 1, N) float samples; N is padded with silence on the right to whole time steps.
            loop: the clip is a ring (N must then be whole time steps, or silence enters the ring).

        Returns:
            (B, n_codebooks, ceil(N / hop)) int64 in 0..codebook_size - 1.

        Raises:
            ValueError: the shape is not (B, 1, N) with N > 0.
        """
        if audio.ndim != 3 or audio.shape[1] != 1 or 0 in audio.shape:
            raise ValueError(f"The codec takes audio of shape (batch, 1, samples), not {tuple(audio.shape)}.")
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop))

        def codes(piece: Tensor) -> Tensor:
            return self.quantizer(self._computed("encoder", piece))[1]

        return self._in_pieces("encode", codes, audio, self.hop, 1, self.encoder_context, loop)

    @torch.no_grad()
    def decode(self, codes: Tensor, loop: bool = False) -> Tensor:
        """Tokens to samples.

        Args:
            codes: (B, n, T) int64 codes of the n coarsest levels, 1 <= n <= n_codebooks.
            loop: the clip is a ring; its end flows into its beginning.

        Returns:
            (B, 1, T * hop) float samples. Decoders with odd rates (`dac.DAC` at 24 and 16 kHz) make a few samples less (8 of
            320 to a step); the last sample is held for as long, unless the clip is a ring.

        Raises:
            ValueError: the shape is not (B, n, T), or there are codes out of range.
        """
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= self.n_codebooks or 0 in codes.shape:
            raise ValueError(
                f"The codec takes tokens of shape (batch, 1 to {self.n_codebooks}, steps), not {tuple(codes.shape)}."
            )
        low, high = codes.aminmax()
        if low < 0 or high >= self.codebook_size:
            raise ValueError(
                f"Tokens to decode lie in 0..{self.codebook_size - 1}, not {int(low)}..{int(high)}: none may be masked."
            )

        def samples(piece: Tensor) -> Tensor:
            return self._computed("decoder", self.quantizer.from_codes(piece)[0])

        return self._in_pieces("decode", samples, codes, 1, self.hop, self.decoder_context, loop)

    def _computed(self, name: str, x: Tensor) -> Tensor:
        """What the encoder or the decoder makes of (B, C, N) float32, in the codec's precision; float32."""
        module = getattr(self, name)
        if self._works_on_rows(x):
            if name not in self._on_rows:
                self._on_rows[name] = module.on_rows()
            return torch.cat([self._on_rows[name](clip) for clip in x.split(1)])
        if self._works_on_images(x) and (name == "encoder" or x.shape[0] * x.shape[2] * self.hop >= IMAGE_SAMPLES):
            if name not in self._on_images:
                self._on_images[name] = OnImages(module)
            return self._on_images[name](x)
        with self.arithmetic(x.device):
            return module(x).float()

    def _works_on_rows(self, x: Tensor) -> bool:
        return self.precision == "bfloat16" and x.device.type == "cpu"

    def _works_on_images(self, x: Tensor) -> bool:
        return self.precision == "bfloat16" and x.device.type == "cuda"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ConvolutionalCodec:
        self._drop()
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> ConvolutionalCodec:
        """As in torch; drops what was made of the weights, so that a copy does not take it along."""
        self._drop()
        return super().train(mode)

    def _drop(self) -> None:
        self._on_rows.clear()
        self._on_images.clear()
        self._recordings.forget()

    def _in_pieces(
        self, name: str, run: Callable[[Tensor], Tensor], x: Tensor, unit_in: int, unit_out: int, around: int, loop: bool
    ) -> Tensor:
        """`run` on pieces of (B, C, T * unit_in), each with `around` time steps of its neighbours; (B, C', T * unit_out).

        `name` tells what is recorded of it from other recordings.
        """
        steps = x.shape[-1] // unit_in
        on_gpu = self._works_on_images(x)
        samples = GPU_PIECE_SAMPLES if on_gpu else PIECE_SAMPLES * (2 if self._works_on_rows(x) else 1)
        limit = max(1, samples // self.hop)
        size = math.ceil(steps / math.ceil(steps / limit))  # pieces of one size, rather than a stub at the end
        clips = []
        for clip in x.split(max(1, limit // size)):
            done = []
            for start in range(0, steps, size):
                stop = min(steps, start + size)
                left, right = (around, around) if loop else (min(around, start), min(around, steps - stop))
                piece = _excerpt(clip, (start - left) * unit_in, (stop + right) * unit_in)
                if len(piece) * (stop + right - start + left) * self.hop <= RECORDED_SAMPLES:
                    y = self._recordings((name, self.precision), run, piece)
                else:
                    y = run(piece)
                y = y[..., left * unit_out : (left + stop - start) * unit_out]
                short = (stop - start) * unit_out - y.shape[-1]
                # A copy where nothing is short too: a view would keep the context, and its storage, alive.
                done.append(F.pad(y, (0, short), mode="replicate") if short else y.clone())
            clips.append(torch.cat(done, dim=-1))
        return torch.cat(clips)


def _excerpt(x: Tensor, start: int, stop: int) -> Tensor:
    """x[..., start:stop] of a ring: places before the beginning and after the end wrap around."""
    n = x.shape[-1]
    if start >= 0 and stop <= n:
        return x[..., start:stop]
    return x[..., torch.arange(start, stop, device=x.device) % n]


def _convolutions(module: nn.Module) -> list[nn.Conv1d | nn.ConvTranspose1d]:
    return [layer for layer in module.modules() if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))]


def _quantizer(shape: ConvolutionalShape) -> ResidualVectorQuantize:
    """`dac`'s quantizer without weight norm. Small, so on the CPU even under `torch.device("meta")`, where weight norm takes
    seconds; its first values are drawn without touching the caller's random numbers."""
    width = shape.codebook_dim if isinstance(shape.codebook_dim, int) else list(shape.codebook_dim)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # dac still uses the former interface of weight_norm
        quantizer = ResidualVectorQuantize(shape.latent_dim, shape.n_codebooks, shape.codebook_size, width)
    for level in quantizer.quantizers:
        nn.utils.remove_weight_norm(level.in_proj)
        nn.utils.remove_weight_norm(level.out_proj)
    return quantizer
