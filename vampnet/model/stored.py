"""How a transformer's tensors lie in a file: as float16, or the matrices as whole numbers of 8 bits and a factor a row.

Each row of a matrix is rounded by its largest number, as `tile_passes.TileMatrix` and `model.int8` round it to compute: so a
model that computes in int8 is the same as before, and takes half of the room. In the file `<name>.int8` (rows, columns) and
`<name>.scale` (rows,) float32 stand for `<name>`; of more than two axes all but the last count as rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

NUMBERS, SCALE = ".int8", ".scale"
LEAST_SIDE = 64
"""What has a shorter side is no matrix here: it is small, and much depends on it."""
MOST = 127


def is_matrix(shape: torch.Size | tuple[int, ...]) -> bool:
    """Whether a tensor of this shape is a matrix with both sides longer than `LEAST_SIDE`; leading axes count as rows."""
    return len(shape) >= 2 and min(math.prod(shape[:-1]), shape[-1]) > LEAST_SIDE


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float tensors {name: tensor} with the matrices among them as whole numbers and factors; the others as they are."""
    made = {}
    for name, tensor in tensors.items():
        if is_matrix(tensor.shape):
            rows = tensor.detach().float().flatten(0, -2)
            scale = rows.abs().amax(dim=1).clamp_min(1e-12) / MOST
            made[name + NUMBERS] = (rows / scale[:, None]).round().clamp(-MOST, MOST).to(torch.int8).view(tensor.shape)
            made[name + SCALE] = scale
        else:
            made[name] = tensor
    return made


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `rounded` gave, or any tensors, as float tensors of the names they had.

    Raises:
        ValueError: whole numbers without their factors, or the other way around; the tensor is named.
    """
    made = {name: tensor for name, tensor in tensors.items() if not name.endswith((NUMBERS, SCALE))}
    halves = {name.removesuffix(NUMBERS).removesuffix(SCALE) for name in tensors.keys() - made.keys()}
    for name in sorted(halves):
        numbers, scale = tensors.get(name + NUMBERS), tensors.get(name + SCALE)
        fits = numbers is not None and scale is not None and numbers.ndim >= 2 and name not in made
        if not fits or numbers.dtype != torch.int8 or scale.shape != (math.prod(numbers.shape[:-1]),):
            raise ValueError(f"of {name} there are not whole numbers of 8 bits and a factor for each row of them")
        made[name] = numbers.float().flatten(0, -2).mul_(scale.float()[:, None]).view(numbers.shape)
    return made
