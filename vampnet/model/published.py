"""Transformers of the published weights -> `TokenTransformer`: names, shapes, options and LoRA tensors, all accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vampnet.config import MASK, TokenGrid, TransformerConfig
from vampnet.model.transformer import TokenTransformer, transformer_of

COARSE_SECONDS = 10.0
FINE_SECONDS = 3.0
"""What the published models saw at a time in training; their files do not say so."""

LORA_RANK = 8
LORA_SCALE = 1 / LORA_RANK
"""alpha / r with alpha = 1 (Hu et al. 2021, section 4.1)."""

LORA_WEIGHTS = ("self_attn.w_qs", "self_attn.w_vs", "self_attn.fc", "feed_forward.w_1", "feed_forward.w_2")
"""The weights of a layer that a fine-tune may have LoRA tensors for (the keys' projection never has)."""

SHAPE_OPTIONS = ("n_heads", "n_layers", "n_codebooks", "latent_dim", "embedding_dim", "vocab_size")
FIXED_OPTIONS: dict[str, tuple[object, ...]] = {
    "noise_mode": ("mask",),
    "r_cond_dim": (0, None),
    "ctrl_dims": (None, {}),
    "cond_dim": (0, None),
}
"""Options that would change the function, and the values that leave it as it is."""

FREE_OPTIONS = ("dropout", "cfg_dropout_prob", "seq_len", "flash_attn")
"""Options of any value: the first three act in training only, and a model that was made with flash attention has no relative
position bias and other names, so its tensors are refused anyway."""

LISTED = 12
"""Names of tensors that an error lists before it counts the rest."""

LAYER = {
    "attention_norm": ("norm_1",),
    "attention.qkv": ("self_attn.w_qs", "self_attn.w_ks", "self_attn.w_vs"),
    "attention.out": ("self_attn.fc",),
    "feed_forward_norm": ("norm_3",),
    "feed_forward.into": ("feed_forward.w_1",),
    "feed_forward.out": ("feed_forward.w_2",),
}
"""Our names of a layer's weights -> the published ones that they are made of, one below the other."""

ROOT, BIAS = "transformer.layers.", "self_attn.relative_attention_bias.weight"


def published_config(kwargs: Mapping[str, Any], grid: TokenGrid | None = None) -> TransformerConfig:
    """The shape that the options of a published transformer describe.

    Args:
        kwargs: as in the file's metadata.
        grid: of the codec (default: the paper's), for the time steps of the 10 s (coarse) or 3 s (coarse-to-fine) of context.

    Raises:
        ValueError: an option is missing, unknown, or has a value that this implementation does not compute; it is named.
    """
    known = {*SHAPE_OPTIONS, "n_conditioning_codebooks", *FIXED_OPTIONS, *FREE_OPTIONS}
    unknown = sorted(set(kwargs) - known)
    if unknown:
        raise ValueError(f"The published transformer has options that are not known here: {', '.join(map(str, unknown))}.")
    missing = [name for name in SHAPE_OPTIONS if name not in kwargs]
    if missing:
        raise ValueError(f"The published transformer lacks the options {', '.join(missing)}: it is not one, or is damaged.")
    for name, allowed in FIXED_OPTIONS.items():
        if name in kwargs and not any(kwargs[name] == value for value in allowed):
            raise ValueError(f"The published transformer was made with {name} = {kwargs[name]!r}, which is not computed here.")
    given = kwargs.get("n_conditioning_codebooks", 0)
    for name, value, least in (*((n, kwargs[n], 1) for n in SHAPE_OPTIONS), ("n_conditioning_codebooks", given, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"The option {name} of the published transformer must be a whole number from {least}: {value!r}.")
    if kwargs["vocab_size"] > MASK:
        raise ValueError(f"The published transformer has {kwargs['vocab_size']} codes a level, and at most {MASK} fit here.")
    return TransformerConfig(
        n_codebooks=kwargs["n_codebooks"],
        n_conditioning=given,
        codebook_size=kwargs["vocab_size"],
        codebook_dim=kwargs["latent_dim"],
        dim=kwargs["embedding_dim"],
        layers=kwargs["n_layers"],
        heads=kwargs["n_heads"],
        context=(grid or TokenGrid()).seconds_to_tokens(FINE_SECONDS if given else COARSE_SECONDS),
        **({"dropout": float(kwargs["dropout"])} if isinstance(kwargs.get("dropout"), (int, float)) else {}),
    )


def check_published(state: Mapping[str, Tensor], kwargs: Mapping[str, Any]) -> None:
    """Raises a ValueError that names every tensor (of any float dtype) that is missing, left over or of another shape.

    A weight of `LORA_WEIGHTS` has both of its LoRA tensors or none. Nothing else is optional, and nothing may be left over.
    """
    expected = _shapes(published_config(kwargs))
    for weight in [name for name in expected if name.endswith(tuple(f"{part}.weight" for part in LORA_WEIGHTS))]:
        down, up = _lora_names(weight)
        if down in state or up in state:
            outputs, inputs = expected[weight]
            expected[down], expected[up] = (LORA_RANK, inputs), (outputs, LORA_RANK)
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if missing or extra or wrong:
        parts = (("missing", missing), ("left over", extra), ("of another shape", wrong))
        found = "; ".join(f"{label}: {_listing(names)}" for label, names in parts if names)
        raise ValueError(f"The tensors do not fit the published transformer that their options describe. {found}.")
    odd = [name for name in expected if not state[name].is_floating_point()]
    if odd:
        raise ValueError(f"The published transformer has tensors that are not floating point numbers: {', '.join(odd)}.")


@torch.no_grad()
def transformer_from_published(
    state: Mapping[str, Tensor], kwargs: Mapping[str, Any], codebooks: Tensor, grid: TokenGrid | None = None
) -> TokenTransformer:
    """A published transformer, coarse or coarse-to-fine, as float32 on the CPU, in eval mode.

    LoRA tensors, where present, are added to their weights as B A / 8 (Hu et al. 2021), and the classifier's weight norm is
    folded away: w = g v / |v| for each output channel (Salimans and Kingma 2016). The model has memory of its own: besides it,
    one tensor at a time is copied, and `state` may be mapped from a file.

    Args:
        state: parameter name -> tensor of any float dtype, as in the file.
        kwargs: the options, as in the file's metadata.
        codebooks: (at least n_codebooks, vocab_size, latent_dim) float, the codec's vectors.
        grid: of the codec (default: the paper's); it says how many time steps the trained 10 s or 3 s are.

    Raises:
        ValueError: the options are not those of a model that this computes, a tensor is missing, left over or of another
            shape (it is named), or the codebooks do not fit.
    """
    config = published_config(kwargs, grid)
    check_published(state, kwargs)
    weights: dict[str, Tensor] = {
        "mask_vectors": _float(state["embedding.special.MASK"]),
        "input.weight": _float(state["embedding.out_proj.weight"]).squeeze(-1),
        "input.bias": _float(state["embedding.out_proj.bias"]),
        "bias.weight": _float(state[f"{ROOT}0.{BIAS}"]),
        "norm.weight": _float(state["transformer.norm.weight"]),
    }
    for index in range(config.layers):
        for ours, parts in LAYER.items():
            weights[f"layers.{index}.{ours}.weight"] = _merged(state, [f"{ROOT}{index}.{part}.weight" for part in parts])
    weights["classifier"], weights["classifier_bias"] = _classifier(state, config)
    return transformer_of(config, weights, codebooks)


def _shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a published transformer without LoRA."""
    dim, channels = config.dim, config.codebook_size * config.n_predicted
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.special.MASK": (config.n_codebooks, config.codebook_dim),
        "embedding.out_proj.weight": (dim, config.n_codebooks * config.codebook_dim, 1),
        "embedding.out_proj.bias": (dim,),
        f"{ROOT}0.{BIAS}": (config.position_buckets, config.heads),
        "transformer.norm.weight": (dim,),
        "classifier.layers.0.bias": (channels,),
        "classifier.layers.0.weight_g": (channels, 1, 1),
        "classifier.layers.0.weight_v": (channels, dim, 1),
    }
    wide = config.ff_mult * dim
    for index in range(config.layers):
        there = f"{ROOT}{index}."
        shapes |= {f"{there}{norm}.weight": (dim,) for norm in ("norm_1", "norm_3")}
        shapes |= {f"{there}self_attn.{part}.weight": (dim, dim) for part in ("w_qs", "w_ks", "w_vs", "fc")}
        shapes |= {f"{there}feed_forward.w_1.weight": (wide, dim), f"{there}feed_forward.w_2.weight": (dim, wide // 2)}
    return shapes


def _listing(names: list[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _classifier(state: Mapping[str, Tensor], config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Weight (n_predicted, codebook_size, dim) and bias (n_predicted, codebook_size); channels are (class, level)."""
    v = _float(state["classifier.layers.0.weight_v"]).squeeze(-1)
    g = state["classifier.layers.0.weight_g"].float().flatten()
    v *= (g / v.norm(dim=1))[:, None]
    levels = (config.codebook_size, config.n_predicted)
    weight = v.view(*levels, config.dim).transpose(0, 1).contiguous()
    return weight, state["classifier.layers.0.bias"].float().view(levels).t().contiguous()


def _lora_names(weight: str) -> tuple[str, str]:
    stem = weight.removesuffix("weight")
    return f"{stem}lora_A", f"{stem}lora_B"


def _merged(state: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """The weights of these names, one below the other, each with its LoRA tensors added; a float32 copy."""
    weights = [state[name] for name in names]
    merged = torch.cat(weights).float()
    for name, rows in zip(names, merged.split([len(weight) for weight in weights]), strict=True):
        down, up = _lora_names(name)
        if down in state:
            rows.addmm_(state[up].float(), state[down].float(), alpha=LORA_SCALE)
    return merged


def _float(tensor: Tensor) -> Tensor:
    """A float32 copy: the tensor may be mapped from a file that changes or goes away."""
    return tensor.to(torch.float32, copy=True)
