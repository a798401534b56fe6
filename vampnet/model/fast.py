"""Transformers for inference in bfloat16, or with int8 weights: the same model, its arithmetic rounded.

The scale of attention is part of the queries' matrix, and the embedding is a table. For the rest see `half` and `int8`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vampnet import passes
from vampnet.config import PRECISIONS, TransformerConfig
from vampnet.device import answers_late, cpu_has
from vampnet.model.attention import RelativeBias
from vampnet.model.half import HalfLayer, HalfLinear, padded
from vampnet.model.transformer import TokenTransformer
from vampnet.tile_passes import can_be_tiled, has_tiles

if TYPE_CHECKING:
    from vampnet.codec import Codec


GPU_ITEMS = 16
"""Items that a GPU sees at a time: this bounds what a call takes of its memory."""


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones."""
    return cpu_has("avx512_bf16", "amx_tile")


def fast_int8() -> bool:
    """Whether this CPU multiplies int8 matrices of any shape faster than float32 ones, and without saturating in between."""
    return cpu_has("vnni", "amx_tile")


def best_precision(device: str | torch.device, config: TransformerConfig | None = None) -> str:
    """What "auto" means on a device: the fastest that it has instructions for, "int8" on CPUs, "bfloat16" on GPUs of CUDA.

    Args:
        device: where.
        config: of a transformer, since some CPUs are fast in int8 by tiles alone, which not every shape is made of; None = one
            that is.
    """
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    tiled = has_tiles() if config is None else can_be_tiled(config)
    return "int8" if kind == "cpu" and (fast_int8() or tiled) else "float32"


def get_ready(precision: str, device: str | torch.device) -> None:
    """Begins to import what a model in this precision will need on this device, beside the reading of its weights."""
    precision = best_precision(device) if precision == "auto" else precision
    tiles = has_tiles(precision)
    if precision == "int8" or (precision == "bfloat16" and tiles and torch.device(device).type == "cpu"):
        passes.begin(*(["vampnet.tile_kernels", "vampnet.block_kernels"] if tiles else []))


def in_precision(model: nn.Module, precision: str, device: str | torch.device) -> nn.Module:
    """A model for inference in a precision, on a device.

    Args:
        model: in eval mode, float32. Another model than a `TokenTransformer` stays as it is.
        precision: one of `PRECISIONS`, or "auto".
        device: where it is to compute. int8 is for CPUs.

    Returns:
        `model` itself for float32; otherwise a `FastTransformer` that shares nothing with it but what stays in float32, made of
        tiles where the device and the shape are for that.

    Raises:
        ValueError: an unknown precision, or int8 on another device than a CPU.
    """
    if precision == "auto":
        precision = best_precision(device, getattr(model, "config", None))
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be auto, {', '.join(PRECISIONS)}, not {precision!r}.")
    if precision == "int8" and torch.device(device).type != "cpu":
        raise ValueError(f"int8 is for CPUs, not for {torch.device(device).type}: use bfloat16 there.")
    if precision == "float32" or not isinstance(model, TokenTransformer):
        return model.to(device)
    if torch.device(device).type == "cpu" and can_be_tiled(model.config, precision):
        from vampnet.model.tiled import TiledTransformer

        return TiledTransformer(model, precision)
    return FastTransformer(model, precision).to(device)


def items_at_a_time(precision: str, device: str | torch.device = "cpu") -> int:
    """How many items a device had best see at a time.

    A CPU 4 in int8, where whole numbers make each what it is alone, else 1: larger batches gain nothing, four clips of 10 s
    fill the cache. Any other device `GPU_ITEMS`.
    """
    if torch.device(device).type != "cpu":
        return GPU_ITEMS
    return 4 if precision == "int8" else 1


def codec_in_precision(codec: Codec, precision: str, device: str | torch.device) -> Codec:
    """A codec to go with transformers in a precision: in bfloat16 beside faster ones than float32, where that is fast, and
    beside int8 with what it has to offer in int8.

    Args:
        codec: in float32; it stays as it is.
        precision: that the transformers really have.
        device: where it computes.

    Returns:
        `codec`, or one with the same weights.
    """
    device = torch.device(device)
    half = precision != "float32" and (device.type == "cuda" or (device.type == "cpu" and fast_bfloat16()))
    tiled = precision == "int8" and device.type == "cpu" and hasattr(codec, "with_tiles")
    if not (half or tiled) or not hasattr(codec, "precision"):
        return codec
    twin = copy.copy(codec)
    if half:
        twin.precision = "bfloat16"
    if tiled:
        twin.with_tiles()
    return twin if half or twin.tiles is not None else codec


def _attention_type(device: torch.device) -> torch.dtype:
    """What queries, keys and values are best held in on a device, and the bias of their scores."""
    return torch.bfloat16 if device.type != "cpu" or fast_bfloat16() else torch.float32


class FastTransformer(nn.Module):
    """A `TokenTransformer` in "bfloat16" or "int8", for inference: `model(tokens, where)` as there. So is its distilled one.

    Args:
        model: in eval mode, with codebook vectors.
        precision: "bfloat16" or "int8".
    """

    def __init__(self, model: TokenTransformer, precision: str) -> None:
        super().__init__()
        self.config, self.precision = model.config, precision
        with torch.no_grad():
            table = model.projected_vectors()
            table[: model.config.codebook_size + 1] += model.input.bias
            self.register_buffer("table", table)
            self.register_buffer("gain", model.norm.weight.detach().float().clone())
            self.bias = RelativeBias(model.config.heads, model.config.position_buckets, model.config.position_max_distance)
            self.bias.load_state_dict(model.bias.state_dict())
            self._take(model)
        twin = model.distilled
        self.distilled = None if twin is None else type(self)(twin, precision)
        self.distilled_guidance = model.distilled_guidance
        self._biases: dict[tuple[int, torch.device], Tensor] = {}
        self.eval()

    def _take(self, model: TokenTransformer) -> None:
        if self.precision == "int8":
            from vampnet.model.int8 import Int8Layer as FastLayer  # with it comes numba
            from vampnet.model.int8 import Int8Linear as Linear
        else:
            FastLayer, Linear = HalfLayer, HalfLinear
        self.layers = nn.ModuleList(FastLayer(layer) for layer in model.layers)
        self.classifiers = nn.ModuleList(
            Linear(weight, bias, model.norm.eps, model.norm.weight) for weight, bias in model.heads()
        )

    @torch.no_grad()
    def forward(self, tokens: Tensor, where: Tensor | None = None, ring: bool = False) -> Tensor:
        """Logits, float32; arguments and shapes as `TokenTransformer.forward`.

        Raises:
            ValueError: a shape does not fit.
        """
        config = self.config
        batch, steps = len(tokens), tokens.shape[-1]
        x = self._embed(tokens)
        if where is not None and tuple(where.shape) != (batch, config.n_predicted, steps):
            raise ValueError(
                f"`where` must have the shape {(batch, config.n_predicted, steps)}, and it is {tuple(where.shape)}."
            )
        prepared = self._through(x, steps, ring)
        return self._everywhere(prepared, batch, steps) if where is None else self._classify(prepared, where)

    @torch.no_grad()
    def hidden(self, tokens: Tensor, ring: bool = False) -> Tensor:
        """(B, n_codebooks, T) int64 with MASK -> (B, T, dim) float32, what the classifiers read; ValueError as `forward`."""
        rows = self._read(*self._through(self._embed(tokens), tokens.shape[-1], ring))
        return rows.view(len(tokens), tokens.shape[-1], -1)

    def _embed(self, tokens: Tensor) -> Tensor:
        """(B, n_codebooks, T) int64 -> (B * T, dim) float32."""
        config = self.config
        if tokens.ndim != 3 or tokens.shape[1] != config.n_codebooks:
            raise ValueError(
                f"This model reads tokens of shape (B, {config.n_codebooks}, T), and these are {tuple(tokens.shape)}."
            )
        offsets = torch.arange(config.n_codebooks, device=tokens.device) * (config.codebook_size + 1)
        rows = tokens.clamp(max=config.codebook_size).transpose(1, 2) + offsets
        return F.embedding_bag(rows.reshape(len(rows) * rows.shape[1], -1), self.table, mode="sum")

    def _read(self, rows: Tensor, factors: Tensor | None = None) -> Tensor:
        """What `_through` gives -> (B * T, dim) float32."""
        # In bfloat16 the weight of the last norm is in the classifiers' matrices.
        return rows.float() * (self.gain if factors is None else factors[:, None])

    def _everywhere(self, prepared: tuple[Tensor, ...], batch: int, steps: int) -> Tensor:
        """What `_through` gives -> (B, n_predicted, T, codebook_size) float32."""
        config = self.config
        # No shape here depends on what a tensor holds, so that a GPU can do all of it without being asked in between.
        logits = prepared[0].new_empty(batch * steps, config.n_predicted, config.codebook_size, dtype=torch.float32)
        for level, classify in enumerate(self.classifiers):
            classify.multiply(*prepared, into=logits[:, level])
        return logits.view(batch, steps, config.n_predicted, -1).transpose(1, 2)

    def _through(self, x: Tensor, steps: int, ring: bool) -> tuple[Tensor, ...]:
        """(B * T, dim) float32 through all layers -> what the classifiers' `multiply` takes."""
        bias = self._bias(steps, ring)
        if self.precision == "int8":
            heard = self.layers[0].qkv.prepare(x)
            following = [layer.qkv for layer in self.layers[1:]] + [self.classifiers[0]]
            for layer, matrix in zip(self.layers, following, strict=True):
                heard = layer(x, heard, bias, matrix)
            return heard
        if answers_late(x.device):
            add = None
            for layer in self.layers:
                add = layer.in_passes(x, add, bias)
            if add is not None:
                x += add
        else:
            for layer in self.layers:
                x = layer(x, bias)
        return (self.classifiers[0].prepare(x),)

    def _classify(self, prepared: tuple[Tensor, ...], where: Tensor) -> Tensor:
        """What `_through` gives, (B, n_predicted, T) bool -> (M, codebook_size) float32, in the order of `where.nonzero()`."""
        logits = prepared[0].new_empty(int(where.sum()), self.config.codebook_size, dtype=torch.float32)
        batch, _, steps = where.shape
        parts = [part.view(batch, steps, *part.shape[1:]) for part in prepared]
        done = 0
        for item, asked in enumerate(where):
            for classify, here in zip(self.classifiers, asked, strict=True):
                rows = [part[item][here] for part in parts]
                # Item by item and level by level: so each part of the logits has its place, and nothing is moved there.
                classify.multiply(*rows, into=logits[done : done + len(rows[0])])
                done += len(rows[0])
        return logits

    def _bias(self, steps: int, ring: bool) -> Tensor:
        key = (steps, ring, self.table.device)
        if key not in self._biases:
            # One length at a time: it takes heads * T * T numbers.
            bias = self.bias(steps, ring).detach().to(_attention_type(self.table.device))
            self._biases = {key: bias.contiguous() if bias.device.type == "cpu" else padded(bias)}
        return self._biases[key]

    def widen(self) -> None:
        """From now on products in float32, with the weights as they are: for a CPU that is slow in bfloat16."""
        for part in self.modules():
            if isinstance(part, HalfLinear):
                part.weight = nn.Parameter(part.weight.float(), requires_grad=False)

    def constants(self) -> list[Tensor]:
        """What was computed in advance and is still kept."""
        kept = list(self._biases.values())
        return kept if self.distilled is None else kept + self.distilled.constants()

    def train(self, mode: bool = True) -> FastTransformer:
        """As of any module; what was computed in advance is let go of."""
        self._biases = {}
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True):
        self._biases = {}
        return super()._apply(fn, recurse)
