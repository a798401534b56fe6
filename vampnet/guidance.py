"""Guidance: what a model says, carried on in the direction in which it differs from what a weaker one would say.

The weaker one is the model itself with one layer left out, and with half of the time steps that it could see hidden. Both lose
what ties a token to those around it, so what the two disagree about is what the context says, and what the model is unsure of
for want of depth (Ho and Salimans, 2022, for contexts; Karras et al., 2024, for weaker models; the paper has neither).

At the weight that a model has been distilled for, the distilled one is asked instead of both (`vampnet.model.distilled`).
"""

from __future__ import annotations

import copy
import math
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from vampnet.config import MASK

HIDDEN_SHARE = 0.5
"""Of the time steps, those that the weaker model does not see."""
DEPTH = 2 / 3
"""How deep the layer lies that it goes without. The fifth of six is better than the third and the fourth (docs/log.md)."""
LEAST_LAYERS = 3
"""Of fewer none is left out."""


def layers_of_weaker(layers: int) -> int:
    """How many layers the weaker one of a model of `layers` has."""
    return layers - (layers >= LEAST_LAYERS)


_weaker: weakref.WeakKeyDictionary[nn.Module, nn.Module] = weakref.WeakKeyDictionary()


def weaker(model: Any) -> Any:
    """The model without one of its layers, or the model itself where it has too few: always the same object for a model.

    Args:
        model: a transformer with `layers`, whose weights the weaker one shares, wherever they are moved; or what stands in for
            one and has a `weaker` of its own.
    """
    if not isinstance(model, nn.Module):
        return getattr(model, "weaker", model)
    layers = getattr(model, "layers", ())
    if len(layers) < LEAST_LAYERS:
        return model
    if model not in _weaker:
        less = copy.copy(model)
        less._modules = dict(model._modules)
        out = int(DEPTH * len(layers))
        less.layers = nn.ModuleList(layer for number, layer in enumerate(layers) if number != out)
        _weaker.setdefault(model, less)
    return _weaker[model]


def hidden(steps: int, number: int) -> Tensor:
    """The time steps that the weaker model does not see in a decoding step.

    Spread evenly, and over what stays of any periodic prompt evenly too: by the golden ratio from step to step. It is the same
    for all takes, so that no take depends on those beside it.

    Args:
        steps: T, time steps of the window.
        number: of the decoding step, from 0.

    Returns:
        (T,) bool, about `HIDDEN_SHARE` of it True.
    """
    places = torch.arange(steps, dtype=torch.float64) * ((math.sqrt(5) - 1) / 2) + number * math.sqrt(2)
    return places % 1 < HIDDEN_SHARE


def without(tokens: Tensor, where: Tensor, first: int) -> Tensor:
    """Tokens (B, K, T) int64 with MASK at the time steps `where` (T,) bool; the `first` levels are always given."""
    return torch.cat([tokens[:, :first], tokens[:, first:].masked_fill(where, MASK)], dim=1)


def distilled(model: Any, guidance: float) -> Any | None:
    """What is asked instead of the model and the weaker one, at a weight; None where there is no such model.

    Args:
        model: as in `weaker`.
        guidance: the weight.
    """
    return getattr(model, "distilled", None) if guidance and getattr(model, "distilled_guidance", 0.0) == guidance else None


def asks_weaker(model: Any, guidance: float) -> bool:
    """Whether the weaker model is asked beside a model at a weight of guidance, so that a step is nearly two."""
    return guidance > 0 and distilled(model, guidance) is None


def logits_of(model: Any, tokens: Tensor, unseen: Tensor | None, first: int, guidance: float, **how: Any) -> Tensor:
    """`model(tokens, **how)`, guided: by its distilled one, where it has one for this weight.

    Args:
        model: see `weaker`.
        tokens: (B, K, T) int64.
        unseen: (T,) bool, of `hidden`; None without guidance.
        first: levels that are always given.
        guidance: 0 = none, and the model is asked alone.
        how: what else the model takes.
    """
    if (instead := distilled(model, guidance)) is not None:
        return instead(tokens, **how)
    logits = model(tokens, **how)
    return guided(logits, weaker(model)(without(tokens, unseen, first), **how), guidance) if guidance else logits


def guided(logits: Tensor, less: Tensor, guidance: float) -> Tensor:
    """What the model says, (1 + guidance) of the way from what the weaker one says: two tensors of one shape, float32."""
    return torch.lerp(less.float(), logits.float(), 1 + guidance)
