"""Transformers as files: weights in safetensors, shapes in `config.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vampnet.config import TokenGrid, TransformerConfig
from vampnet.model import distilled
from vampnet.model.stored import is_matrix, rounded, whole
from vampnet.model.transformer import TokenTransformer, transformer_of, without_guide
from vampnet.whole_file import seal, whole_file, write_json

ROUNDED = ("layers.", "classifier")
"""What lies in whole numbers is what is computed in them. The input's matrix reads vectors of levels that differ in size by
hundreds, and so do the numbers in a row of it: rounded, the fine model was 0.08 nats off."""


def save_transformer(
    model: TokenTransformer,
    folder: str | os.PathLike,
    which: str,
    weights: dict[str, Tensor] | None = None,
    int8: bool = False,
) -> Path:
    """Write `<which>.safetensors` (float16, without the codec's codebook vectors) and the shape into `config.json`.

    A distilled model is not written along: it belongs to the weights that it was made for, which these need not be.

    Args:
        model: gives the shape, and the weights if `weights` is None.
        folder: made if missing; other sections of its `config.json` stay as they are.
        which: "coarse" or "fine".
        weights: name -> tensor, to save instead of the model's own (an average, say).
        int8: matrices in whole numbers, see `vampnet.model.stored`.

    Returns:
        The path of the weights.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = without_guide(model.state_dict() if weights is None else weights)
    names, _ = distilled.split(without_guide(model.state_dict()))
    own = {name: source[name].detach().cpu() for name in names}
    matrices = {name: tensor for name, tensor in own.items() if int8 and is_matrix(tensor.shape) and name.startswith(ROUNDED)}
    kept = {name: tensor.half() for name, tensor in own.items() if name not in matrices} | rounded(matrices)
    return _write(folder, which, kept, model.config.to_dict())


def add_distilled(folder: str | os.PathLike, added: Mapping[str, Tensor], which: str = "coarse") -> Path:
    """Write a distilled model into the file of the model that it was made for, whose own tensors stay to the last bit.

    Args:
        folder: as `save_transformer` left it.
        added: see `vampnet.model.distilled`; in float16 in the file. It takes the place of one that is there.
        which: "coarse" or "fine".

    Returns:
        The path of the weights.
    """
    from safetensors.torch import load_file

    own, _ = distilled.split(load_file(str(Path(folder) / f"{which}.safetensors")))
    return _write(Path(folder), which, own | {name: tensor.detach().cpu().half() for name, tensor in added.items()})


def _write(folder: Path, which: str, tensors: Mapping[str, Tensor], section: dict[str, Any] | None = None) -> Path:
    """Tensors as `<which>.safetensors`, with their checksum and, if it is given, their section in `config.json`."""
    from safetensors.torch import save

    path, config_path = folder / f"{which}.safetensors", folder / "config.json"
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    with whole_file(path) as part:
        part.write_bytes(data)
    config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
    if section is not None:
        config[which] = section
    seal(config, path.name, data)
    write_json(config, config_path)
    return path


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a file of `save_transformer`, {name: float tensor}, those of a distilled model among them.

    Raises:
        ValueError: whole numbers without their factors; the tensor is named.
    """
    from safetensors.torch import load_file

    own, added = distilled.split(load_file(str(path)))
    try:
        return whole(own) | added
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def load_transformer(
    folder: str | os.PathLike, which: str, codebooks: Tensor, grid: TokenGrid | None = None
) -> TokenTransformer:
    """Load a transformer that `save_transformer` wrote, or a converted published one, as float32 on the CPU, in eval mode.

    Args:
        folder: holds `config.json` and `<which>.safetensors`.
        which: "coarse" or "fine".
        codebooks: the codec's vectors, (at least n_codebooks, codebook_size, codebook_dim) float.
        grid: the codec's (default: the paper's); read only for a section {"type": "published", "metadata": {"kwargs": ...}},
            which gives the context in seconds.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the configuration has no such section, or a tensor is missing, left over or of another shape; it is named.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    path, config_path = folder / f"{which}.safetensors", folder / "config.json"
    for needed in (config_path, path):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} is missing: {folder} does not hold a {which} model.")
    sections = json.loads(config_path.read_text(encoding="utf-8"))
    if which not in sections:
        raise ValueError(f"{config_path} has no section {which!r}; it has {sorted(sections)}.")
    section = sections[which]
    if isinstance(section, dict) and section.get("type") == "published":
        from vampnet.model.published import transformer_from_published

        try:
            return transformer_from_published(load_file(str(path)), section["metadata"]["kwargs"], codebooks, grid)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be loaded by its section in config.json: {error}") from error
    try:
        config = TransformerConfig(**section)
        with torch.device("meta"):
            own: dict[str, Tensor] = TokenTransformer(config).state_dict()
    except TypeError as error:
        raise ValueError(f"The section {which!r} of {config_path} does not describe a transformer: {error}.") from error
    tensors = read_weights(path)
    _, added = distilled.split(tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    if added:
        shapes |= distilled.expected(own, distilled.rank_of(added))
    missing, extra = sorted(shapes.keys() - tensors.keys()), sorted(tensors.keys() - shapes.keys())
    wrong = sorted(n for n in shapes.keys() & tensors.keys() if shapes[n] != tuple(tensors[n].shape))
    if missing or extra or wrong:
        raise ValueError(
            f"{path} does not fit its configuration: missing {missing}, left over {extra}, of another shape {wrong}."
        )
    model = transformer_of(config, {name: tensors[name].to(torch.float32, copy=True) for name in own}, codebooks)
    return distilled.with_distilled(model, added) if added else model
