"""Transformers as files: weights in safetensors, shapes in `config.json`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from vampnet.config import TokenGrid, TransformerConfig
from vampnet.model.transformer import TokenTransformer, transformer_of, without_guide
from vampnet.whole_file import seal, whole_file, write_json


def save_transformer(
    model: TokenTransformer, folder: str | os.PathLike, which: str, weights: dict[str, Tensor] | None = None
) -> Path:
    """Write `<which>.safetensors` (float16, without the codec's codebook vectors) and the shape into `config.json`.

    Args:
        model: gives the shape, and the weights if `weights` is None.
        folder: made if missing; other sections of its `config.json` stay as they are.
        which: "coarse" or "fine".
        weights: name -> tensor, to save instead of the model's own (an average, say).

    Returns:
        The path of the weights.
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = without_guide(model.state_dict() if weights is None else weights)
    names = without_guide(model.state_dict())
    half = {name: source[name].detach().to("cpu", torch.float16).contiguous() for name in names}
    path = folder / f"{which}.safetensors"
    data = save(half)
    with whole_file(path) as part:
        part.write_bytes(data)
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
    config[which] = model.config.to_dict()
    seal(config, path.name, data)
    write_json(config, config_path)
    return path


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
            own = TokenTransformer(config).state_dict()
    except TypeError as error:
        raise ValueError(f"The section {which!r} of {config_path} does not describe a transformer: {error}.") from error
    tensors = load_file(str(path))
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = sorted(n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape)
    if missing or extra or wrong:
        raise ValueError(
            f"{path} does not fit its configuration: missing {missing}, left over {extra}, of another shape {wrong}."
        )
    return transformer_of(config, {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, codebooks)
