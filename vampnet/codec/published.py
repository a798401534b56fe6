"""Published codec files -> codecs: which kind it is, strict loading, weight norm folded away."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .convolutional import ConvolutionalCodec, ConvolutionalShape
from .dac import DacCodec
from .lac import LAC

KINDS: tuple[type[ConvolutionalCodec], ...] = (LAC, DacCodec)
LISTED = 8
"""Names of tensors that an error lists before it counts the rest."""


def codec_from_published(state: Mapping[str, Tensor], metadata: Mapping) -> ConvolutionalCodec:
    """The codec of a published file: a LAC or a `dac.DAC`, told apart by the names of its tensors.

    Args:
        state: the file's state_dict: name -> float tensor, weight norm as `weight_g` and `weight_v`. It is not changed and
            not held on to.
        metadata: the file's metadata; "kwargs" gives the shape and the sample rate.

    Returns:
        On the CPU, float32, in evaluation mode, without gradients.

    Raises:
        ValueError: the tensors are of no known codec, the metadata is incomplete, or the tensors are not exactly those that
            the metadata asks for; the sentence names those that are missing, left over, or of another shape.
    """
    kind = next((kind for kind in KINDS if kind.recognises(list(state))), None)
    if kind is None:
        raise ValueError("These tensors are of no codec known here: give a published VampNet codec (LAC) or a dac.DAC.")
    kwargs = metadata.get("kwargs")
    if not isinstance(kwargs, Mapping):
        raise ValueError("The codec's metadata has no 'kwargs', so its sample rate is not known: get the file again.")
    with torch.device("meta"):  # shapes only: the tensors come from the file
        codec = kind(ConvolutionalShape.from_kwargs(kwargs))
    expected = _published_shapes(codec)
    _require_exactly(expected, {name: tuple(tensor.shape) for name, tensor in state.items()})
    codec.load_state_dict(fold_weight_norm(state), assign=True)
    return codec.eval().requires_grad_(False)


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each pair `weight_g`, `weight_v` as the `weight` that it stands for; new float32 tensors.

    weight = g v / |v|, the norm over all axes but the first (Salimans and Kingma, 2016, equation 2).

    Args:
        state: name -> float tensor; every `x.weight_g` has its `x.weight_v`, with the same number of axes.
    """
    folded = {}
    for name, tensor in state.items():
        if name.endswith(".weight_g"):
            continue
        if name.endswith(".weight_v"):
            v = tensor.float()
            norm = torch.linalg.vector_norm(v, dim=tuple(range(1, v.ndim)), keepdim=True)
            folded[name.removesuffix("_v")] = v * (state[name.removesuffix("v") + "g"].float() / norm)
        else:
            folded[name] = tensor.to(torch.float32, copy=True)
    return folded


def _published_shapes(codec: ConvolutionalCodec) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that the codec's published file holds, weight norm unfolded."""
    shapes = {}
    for name, tensor in codec.state_dict().items():
        if name.endswith(".weight") and tensor.ndim == 3:
            shapes[name + "_g"] = (tensor.shape[0], 1, 1)
            shapes[name + "_v"] = tuple(tensor.shape)
        else:
            shapes[name] = tuple(tensor.shape)
    return shapes


def _require_exactly(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> None:
    missing = [name for name in expected if name not in given]
    left_over = [name for name in given if name not in expected]
    other = [f"{name} {given[name]} instead of {shape}" for name, shape in expected.items() if given.get(name, shape) != shape]
    faults = {"missing": missing, "left over": left_over, "of another shape": other}
    if any(faults.values()):
        text = "; ".join(f"{fault}: {_listing(names)}" for fault, names in faults.items() if names)
        raise ValueError(f"The codec's tensors are not those that its metadata asks for ({text}): get the file again.")


def _listing(names: list[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
