"""Transformers for inference in bfloat16, or with int8 weights: the same model, its arithmetic rounded.

The residual stream stays in float32. In bfloat16 the norms' weights are part of the matrices behind them; the scale of
attention is part of the queries' matrix, and the embedding is a table. With int8, weights have one scale an output and
activations one a row: what a matrix makes of a time step depends neither on the other steps nor on the other items of a batch.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vampnet import kernels
from vampnet.config import PRECISIONS
from vampnet.device import answers_late
from vampnet.model.attention import Layer, RelativeBias
from vampnet.model.transformer import TokenTransformer

if TYPE_CHECKING:
    from vampnet.codec import Codec


GPU_ITEMS = 16
"""Items that a GPU sees at a time: this bounds what a call takes of its memory."""


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones."""
    return _cpu_has("avx512_bf16", "amx_tile")


def fast_int8() -> bool:
    """Whether this CPU multiplies int8 matrices faster than float32 ones, and without saturating in between."""
    return _cpu_has("vnni", "amx_tile")


def _cpu_has(*instructions: str) -> bool:
    # Torch may stop to tell: then the CPU is taken for one without them.
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in instructions)


def best_precision(device: str | torch.device) -> str:
    """What "auto" means on a device: the fastest that it has instructions for, "int8" on CPUs, "bfloat16" on GPUs of CUDA."""
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "int8" if kind == "cpu" and fast_int8() else "float32"


def in_precision(model: nn.Module, precision: str, device: str | torch.device) -> nn.Module:
    """A model for inference in a precision, on a device.

    Args:
        model: in eval mode, float32. Another model than a `TokenTransformer` stays as it is.
        precision: one of `PRECISIONS`, or "auto".
        device: where it is to compute. int8 is for CPUs.

    Returns:
        `model` itself for float32; otherwise a `FastTransformer` that shares nothing with it but what stays in float32.

    Raises:
        ValueError: an unknown precision, or int8 on another device than a CPU.
    """
    if precision == "auto":
        precision = best_precision(device)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be auto, {', '.join(PRECISIONS)}, not {precision!r}.")
    if precision == "int8" and torch.device(device).type != "cpu":
        raise ValueError(f"int8 is for CPUs, not for {torch.device(device).type}: use bfloat16 there.")
    if precision == "float32" or not isinstance(model, TokenTransformer):
        return model.to(device)
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
    """A codec to go with transformers in a precision: in bfloat16 beside faster ones than float32, where that is fast.

    Args:
        codec: in float32; it stays as it is.
        precision: that the transformers really have.
        device: where it computes.

    Returns:
        `codec`, or one with the same weights.
    """
    device = torch.device(device)
    half = precision != "float32" and (device.type == "cuda" or (device.type == "cpu" and fast_bfloat16()))
    if not half or not hasattr(codec, "precision"):
        return codec
    twin = copy.copy(codec)
    twin.precision = "bfloat16"
    return twin


class HalfLinear(nn.Module):
    """weight @ x + bias with the weight in bfloat16, behind an RMS norm if there is one.

    Args:
        weight: (outputs, inputs) float.
        bias: (outputs,) float or None.
        eps: of the norm before it; None = no norm.
        gain: (inputs,) float, the weight of that norm.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, eps: float | None = None, gain: Tensor | None = None
    ) -> None:
        super().__init__()
        self.eps = eps
        weight = weight if gain is None else weight * gain
        self.weight = nn.Parameter(weight.detach().bfloat16(), requires_grad=False)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def prepare(self, x: Tensor) -> Tensor:
        """(N, inputs) float -> the same in bfloat16, normalised: what `multiply` takes, whole or some rows of it."""
        if self.eps is not None:
            x = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps)
        return x.to(self.weight.dtype)

    def multiply(self, x: Tensor, into: Tensor | None = None) -> Tensor:
        """Some rows of what `prepare` gave -> (n, outputs) bfloat16; float32 with a bias, `into` if there is one."""
        out = F.linear(x, self.weight)
        return out if self.bias is None else torch.add(out, self.bias, out=into)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) float -> (N, outputs) bfloat16."""
        return self.multiply(self.prepare(x))


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
        self.register_buffer("gain", None if gain is None else gain.detach().float())
        scale = weight.detach().float().abs().amax(dim=1).clamp_min(1e-12) / 127
        whole = (weight.detach() / scale[:, None]).round().to(torch.int8).T.contiguous()
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def prepare(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, inputs) float -> (N, inputs) int8 and the (N, 1) float factors of its rows."""
        x = x.float()
        y = x if self.gain is None else x * self.gain
        size = y.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12)
        rows = (y * (127 / size)).round_().to(torch.int8)
        factor = size / 127
        if self.eps is not None:
            mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_() / x.shape[-1]
            factor = factor * torch.rsqrt(mean + self.eps)
        return rows, factor

    def multiply(self, rows: Tensor, factor: Tensor, into: Tensor | None = None) -> Tensor:
        """Some rows of what `prepare` gave -> (n, outputs) float32, with a bias `into` if there is one."""
        whole = torch._int_mm(rows, self.weight)
        out = whole.view(torch.float32).copy_(whole).mul_(factor)  # in its own memory, which is still in the cache
        return out.mul_(self.scale) if self.bias is None else torch.addcmul(self.bias, out, self.scale, out=into)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) float -> (N, outputs) float32."""
        return self.multiply(*self.prepare(x))


class FastLayer(nn.Module):
    """`attention.Layer` with matrices of `kind`, on flat (B * T, dim) float32."""

    def __init__(self, layer: Layer, kind: type[HalfLinear] | type[Int8Linear]) -> None:
        super().__init__()
        attention, feed_forward = layer.attention, layer.feed_forward
        self.heads = attention.heads
        dim = attention.qkv.in_features
        qkv = attention.qkv.weight
        qkv = torch.cat([qkv[:dim] * (dim // self.heads) ** -0.5, qkv[dim:]])
        self.qkv = kind(qkv, eps=layer.attention_norm.eps, gain=layer.attention_norm.weight)
        self.out = kind(attention.out.weight)
        self.into = kind(feed_forward.into.weight, eps=layer.feed_forward_norm.eps, gain=layer.feed_forward_norm.weight)
        self.down = kind(feed_forward.out.weight)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B * T, dim) float32 and the (1, heads, T, T) bias -> (B * T, dim) float32."""
        qkv = self._split(self.qkv(x), bias.shape[-1])
        mixed = attend(*qkv.to(_attention_type(x.device), memory_format=torch.contiguous_format).unbind(0), bias)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        value, gate = self.into(x).chunk(2, dim=-1)
        return x + self.down(F.gelu(gate, approximate="tanh") * value)

    def in_passes(self, x: Tensor, add: Tensor | None, bias: Tensor) -> Tensor:
        """The same for a GPU, where each pass over memory counts: additions and norms are one, and wait for each other.

        Args:
            x: (B * T, dim) float32, to which everything but the layer's last part is added in place.
            add: (B * T, dim), what the layer before has still to add, or None.
            bias: (1, heads, T, T).

        Returns:
            (B * T, dim) of the weights' type, what this layer has still to add.
        """
        heard = kernels.normed(x, add, self.qkv.eps, self.qkv.weight.dtype)
        mixed = attend(*self._split(self.qkv.multiply(heard), bias.shape[-1]).unbind(0), bias)
        add = self.out.multiply(mixed.transpose(1, 2).reshape(x.shape))
        heard = kernels.normed(x, add, self.into.eps, self.into.weight.dtype)
        return self.down.multiply(kernels.gated(self.into.multiply(heard)))

    def _split(self, qkv: Tensor, steps: int) -> Tensor:
        """(B * T, 3 dim) -> (3, B, heads, T, dim / heads)."""
        return qkv.view(-1, steps, 3, self.heads, qkv.shape[-1] // 3 // self.heads).permute(2, 0, 3, 1, 4)


def _attention_type(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type != "cpu" or fast_bfloat16() else torch.float32


def _padded(bias: Tensor) -> Tensor:
    """(1, heads, T, T) with rows that begin at every 16th number: a fused kernel takes others only as a copy of all of it."""
    steps = bias.shape[-1]
    wide = bias.new_zeros(*bias.shape[:-1], -(-steps // 16) * 16)
    wide[..., :steps] = bias
    return wide[..., :steps]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T + bias) v, with q scaled already.

    Args:
        q, k, v: (B, heads, T, d) bfloat16 or float32.
        bias: (1, heads, T, T), on a CPU of the type of q.

    Returns:
        (B, heads, T, d) of the type of v.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), scale=1.0)
    # One item at a time, so that the scores stay near the cache; see `attention.attend`. In bfloat16 a score is rounded once,
    # after its bias, and then all passes are in the same memory.
    out, scores = torch.empty_like(v), v.new_empty(q.shape[1], q.shape[2], k.shape[2])
    for one_q, one_k, one_v, mixed in zip(q, k, v, out, strict=True):
        torch.baddbmm(bias[0], one_q, one_k.mT, out=scores)
        torch.softmax(scores, dim=-1, out=scores)
        torch.matmul(scores, one_v, out=mixed)
    return out


class FastTransformer(nn.Module):
    """A `TokenTransformer` in "bfloat16" or "int8", for inference: `model(tokens, where)` as there.

    Args:
        model: in eval mode, with codebook vectors.
        precision: "bfloat16" or "int8".
    """

    def __init__(self, model: TokenTransformer, precision: str) -> None:
        super().__init__()
        kind = {"bfloat16": HalfLinear, "int8": Int8Linear}[precision]
        self.config, self.precision = model.config, precision
        with torch.no_grad():
            table = model.projected_vectors()
            table[: model.config.codebook_size + 1] += model.input.bias
            self.register_buffer("table", table)
            self.bias = RelativeBias(model.config.heads, model.config.position_buckets, model.config.position_max_distance)
            self.bias.load_state_dict(model.bias.state_dict())
            self.layers = nn.ModuleList(FastLayer(layer, kind) for layer in model.layers)
            self.classifiers = nn.ModuleList(
                kind(weight, bias, model.norm.eps, model.norm.weight) for weight, bias in model.heads()
            )
        self._biases: dict[tuple[int, torch.device], Tensor] = {}
        self.eval()

    @torch.no_grad()
    def forward(self, tokens: Tensor, where: Tensor | None = None) -> Tensor:
        """Logits, float32; arguments and shapes as `TokenTransformer.forward`.

        Raises:
            ValueError: a shape does not fit.
        """
        config = self.config
        if tokens.ndim != 3 or tokens.shape[1] != config.n_codebooks:
            raise ValueError(
                f"This model reads tokens of shape (B, {config.n_codebooks}, T), and these are {tuple(tokens.shape)}."
            )
        batch, _, steps = tokens.shape
        if where is not None and tuple(where.shape) != (batch, config.n_predicted, steps):
            raise ValueError(
                f"`where` must have the shape {(batch, config.n_predicted, steps)}, and it is {tuple(where.shape)}."
            )
        offsets = torch.arange(config.n_codebooks, device=tokens.device) * (config.codebook_size + 1)
        rows = tokens.clamp(max=config.codebook_size).transpose(1, 2) + offsets
        x = F.embedding_bag(rows.reshape(batch * steps, -1), self.table, mode="sum")
        bias = self._bias(steps)
        if self.precision == "bfloat16" and answers_late(x.device):
            add = None
            for layer in self.layers:
                add = layer.in_passes(x, add, bias)
            if add is not None:
                x += add
        else:
            for layer in self.layers:
                x = layer(x, bias)
        if where is not None:
            return self._classify(x.view(batch, steps, -1), where)
        # No shape here depends on what a tensor holds, so that a GPU can do all of it without being asked in between.
        prepared = self._prepared(x)
        logits = x.new_empty(batch * steps, config.n_predicted, config.codebook_size, dtype=torch.float32)
        for level, classify in enumerate(self.classifiers):
            classify.multiply(*prepared, into=logits[:, level])
        return logits.view(batch, steps, config.n_predicted, -1).transpose(1, 2)

    def _classify(self, x: Tensor, where: Tensor) -> Tensor:
        """(B, T, dim) float and (B, n_predicted, T) bool -> (M, codebook_size) float32, in the order of `where.nonzero()`."""
        logits = x.new_empty(int(where.sum()), self.config.codebook_size, dtype=torch.float32)
        done = 0
        for one, asked in zip(x, where, strict=True):
            prepared = self._prepared(one)
            for classify, here in zip(self.classifiers, asked, strict=True):
                rows = [part[here] for part in prepared]
                # Item by item and level by level: so each part of the logits has its place, and nothing is moved there.
                classify.multiply(*rows, into=logits[done : done + len(rows[0])])
                done += len(rows[0])
        return logits

    def _prepared(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the classifiers' `multiply` takes, of (N, dim) float."""
        prepared = self.classifiers[0].prepare(x)
        return prepared if isinstance(prepared, tuple) else (prepared,)

    def _bias(self, steps: int) -> Tensor:
        key = (steps, self.table.device)
        if key not in self._biases:
            # One length at a time: it takes heads * T * T numbers.
            bias = self.bias(steps).detach().to(_attention_type(self.table.device))
            self._biases = {key: bias.contiguous() if bias.device.type == "cpu" else _padded(bias)}
        return self._biases[key]

    def widen(self) -> None:
        """From now on products in float32, with the weights as they are: for a CPU that is slow in bfloat16."""
        for part in self.modules():
            if isinstance(part, HalfLinear):
                part.weight = nn.Parameter(part.weight.float(), requires_grad=False)

    def constants(self) -> list[Tensor]:
        """What was computed in advance and is still kept."""
        return list(self._biases.values())

    def _apply(self, fn, recurse: bool = True):
        self._biases = {}
        return super()._apply(fn, recurse)
