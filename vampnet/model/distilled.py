"""A second transformer that says at once what guidance makes of two (`vampnet.guidance`), and is stored as little.

What guidance at one weight makes of the model and the weaker one can be taught to a model of the same shape (Meng et al., 2023,
"On distillation of guided diffusion models"; the paper has no guidance). It differs from the model by products of thin matrices
(LoRA: Hu et al., 2021), so it is a twentieth of the model's size on a disk, and a step of decoding takes half of the time.

In a file of weights its tensors begin with `distilled.`: for a matrix (`stored.is_matrix`) `<name>.out` (outputs, rank) and
`<name>.in` (rank, inputs), whose product is to be added to it, for anything else `<name>` itself, to be added; and
`distilled.guidance` (), the weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from vampnet.model.stored import is_matrix
from vampnet.model.transformer import TokenTransformer, transformer_of

PREFIX = "distilled."
GUIDANCE = PREFIX + "guidance"


def split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's own tensors, and those of its distilled one, if any."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    return own, {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}


def expected(own: Mapping[str, Tensor], rank: int) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the tensors of a distilled model.

    Args:
        own: the model's tensors, {name: float tensor}.
        rank: of the products.
    """
    shapes: dict[str, tuple[int, ...]] = {GUIDANCE: ()}
    for name, tensor in own.items():
        if is_matrix(tensor.shape):
            shapes[f"{PREFIX}{name}.out"] = (math.prod(tensor.shape[:-1]), rank)
            shapes[f"{PREFIX}{name}.in"] = (rank, tensor.shape[-1])
        else:
            shapes[PREFIX + name] = tuple(tensor.shape)
    return shapes


def rank_of(added: Mapping[str, Tensor]) -> int:
    """The rank of the products among the tensors of a distilled model; 0 if there are none."""
    return next((tensor.shape[0] for name, tensor in added.items() if name.endswith(".in") and tensor.ndim == 2), 0)


def applied(own: Mapping[str, Tensor], added: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the distilled model, {name: float tensor} of the model's shapes.

    Args:
        own: the model's tensors.
        added: those of `expected`; gradients flow through them.
    """
    made = {}
    for name, tensor in own.items():
        if is_matrix(tensor.shape):
            made[name] = tensor + (added[f"{PREFIX}{name}.out"] @ added[f"{PREFIX}{name}.in"]).view(tensor.shape)
        else:
            made[name] = tensor + added[PREFIX + name]
    return made


def with_distilled(model: TokenTransformer, added: Mapping[str, Tensor]) -> TokenTransformer:
    """The model, which has its distilled one from now on.

    Args:
        model: float32, in eval mode, with codebook vectors.
        added: the tensors of `expected`, float of any kind.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(PREFIX)}
    floats = {name: tensor.float() for name, tensor in added.items()}
    model.distilled = transformer_of(model.config, applied(own, floats), model.codebooks)
    model.distilled_guidance = round(float(added[GUIDANCE]), 3)
    return model
