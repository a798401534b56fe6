"""Random weights in the published format and shapes: as large and as slow as the published ones, and nobody's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

PAPER = "paper"
"""The name by which `bench` knows a model of random weights in the published shapes."""

TRANSFORMER = {
    "n_heads": 20, "r_cond_dim": 0, "latent_dim": 8, "embedding_dim": 1280, "vocab_size": 1024, "flash_attn": False,
    "noise_mode": "mask", "dropout": 0.1, "ctrl_dims": None, "cfg_dropout_prob": 0.2, "cond_dim": 0,
}  # fmt: skip
CODEC = {
    "encoder_dim": 64, "encoder_rates": [2, 6, 8, 8], "decoder_dim": 1536, "decoder_rates": [6, 4, 4, 2, 2, 2],
    "n_codebooks": 14, "codebook_size": 1024, "codebook_dim": 8, "quantizer_dropout": False, "sample_rate": 44100,
}  # fmt: skip
SHAPES: dict[str, dict[str, dict]] = {
    PAPER: {
        "coarse": TRANSFORMER | {"n_layers": 20, "n_codebooks": 4, "n_conditioning_codebooks": 0},
        "c2f": TRANSFORMER | {"n_layers": 16, "n_codebooks": 14, "n_conditioning_codebooks": 4},
        "codec": CODEC,
    },
}
"""{name: {file: the options that it is made with}}."""

SHAPES["tiny"] = {
    "coarse": SHAPES[PAPER]["coarse"] | {"n_heads": 4, "embedding_dim": 64, "n_layers": 2},
    "c2f": SHAPES[PAPER]["c2f"] | {"n_heads": 4, "embedding_dim": 64, "n_layers": 2},
    "codec": CODEC | {"encoder_dim": 4, "decoder_dim": 64},
}
SPARE_BYTES = 3_200_000_000
"""What the files of `PAPER` take on a disk."""


def transformer_state(kwargs: dict) -> dict[str, Tensor]:
    """Random float32 tensors of a transformer under the published names (no LoRA); `kwargs` as in `SHAPES`."""
    dim, levels, latent, codes = (kwargs[name] for name in ("embedding_dim", "n_codebooks", "latent_dim", "vocab_size"))

    def linear(out: int, into: int, *more: int) -> Tensor:
        return torch.randn(out, into, *more) * into**-0.5

    predicted = codes * (levels - kwargs["n_conditioning_codebooks"])
    state = {
        "embedding.special.MASK": torch.randn(levels, latent),
        "embedding.out_proj.weight": linear(dim, levels * latent, 1),
        "embedding.out_proj.bias": torch.zeros(dim),
        "transformer.norm.weight": torch.ones(dim),
        "classifier.layers.0.weight_g": torch.ones(predicted, 1, 1),
        "classifier.layers.0.weight_v": linear(predicted, dim, 1),
        "classifier.layers.0.bias": torch.zeros(predicted),
        "transformer.layers.0.self_attn.relative_attention_bias.weight": torch.randn(32, kwargs["n_heads"]),
    }
    for layer in range(kwargs["n_layers"]):
        name = f"transformer.layers.{layer}."
        state |= {f"{name}norm_{i}.weight": torch.ones(dim) for i in (1, 3)}
        state |= {f"{name}self_attn.{w}.weight": linear(dim, dim) for w in ("w_qs", "w_ks", "w_vs", "fc")}
        state[f"{name}feed_forward.w_1.weight"] = linear(4 * dim, dim)
        state[f"{name}feed_forward.w_2.weight"] = linear(dim, 2 * dim)
    return state


def codec_state(kwargs: dict) -> dict[str, Tensor]:
    """Random float32 tensors of the LAC codec under the published names; `kwargs` as in `SHAPES`."""
    state: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, kernel: int, transposed: bool = False) -> None:
        shape = (into, out, kernel) if transposed else (out, into, kernel)
        state[f"{name}.bias"] = torch.zeros(out)
        state[f"{name}.weight_v"] = torch.randn(shape)
        state[f"{name}.weight_g"] = torch.ones(shape[0], 1, 1)

    def snake(name: str, dim: int) -> None:
        state[f"{name}.alpha"] = torch.ones(1, dim, 1)

    def layer(name: str, dim: int, first: int, second: int) -> None:
        snake(f"{name}.0", dim)
        conv(f"{name}.1", dim, dim, first)
        snake(f"{name}.2", dim)
        conv(f"{name}.3", dim, dim, second)

    dim, strides = kwargs["encoder_dim"], kwargs["encoder_rates"]
    conv("encoder.block.0", dim, 1, 7)
    for i, stride in enumerate(strides, 1):
        for unit in range(3):
            layer(f"encoder.block.{i}.block.{unit}.block", dim, 7, 1)
        snake(f"encoder.block.{i}.block.3", dim)
        conv(f"encoder.block.{i}.block.4", 2 * dim, dim, 2 * stride)
        dim *= 2
    snake(f"encoder.block.{len(strides) + 1}", dim)
    conv(f"encoder.block.{len(strides) + 2}", dim, dim, 3)
    for level in range(kwargs["n_codebooks"]):
        name = f"quantizer.quantizers.{level}"
        conv(f"{name}.in_proj", kwargs["codebook_dim"], dim, 1)
        conv(f"{name}.out_proj", dim, kwargs["codebook_dim"], 1)
        state[f"{name}.codebook.weight"] = torch.randn(kwargs["codebook_size"], kwargs["codebook_dim"])
    latent, dim, rates = dim, kwargs["decoder_dim"], kwargs["decoder_rates"]
    conv("decoder.model.0", dim, latent, 7)
    for i, rate in enumerate(rates, 1):
        name = f"decoder.model.{i}.block"
        snake(f"{name}.0", dim)
        conv(f"{name}.1", dim // 2, dim, 2 * rate, transposed=True)
        dim //= 2
        for branch, kernel in enumerate((3, 7, 11)):
            for unit in range(3):
                layer(f"{name}.2.mrf_blocks.{branch}.block.{unit}.layer", dim, kernel, kernel)
    snake(f"decoder.model.{len(rates) + 1}", dim)
    conv(f"decoder.model.{len(rates) + 2}", 1, dim, 7)
    return state


def write_files(folder: str | Path, shape: str = PAPER) -> Path:
    """Writes codec.pth, coarse.pth and c2f.pth with random weights (3 GB in the published shapes), unless they are there.

    Args:
        folder: made if missing; a file that is there stays as it is.
        shape: a key of `SHAPES`.

    Returns:
        The folder.

    Raises:
        ValueError: the disk has no room for them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    missing = {name: kwargs for name, kwargs in SHAPES[shape].items() if not (folder / f"{name}.pth").exists()}
    if shape == PAPER and missing and shutil.disk_usage(folder).free < SPARE_BYTES:
        raise ValueError("Random weights in the published shapes take 3.2 GB, and the disk has less: name another folder.")
    make: dict[bool, Callable[[dict], dict[str, Tensor]]] = {True: codec_state, False: transformer_state}
    for name, kwargs in missing.items():
        path = folder / f"{name}.pth"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sorted(SHAPES[shape]).index(name))
            state = make[name == "codec"](kwargs)
        torch.save({"state_dict": state, "metadata": {"kwargs": kwargs}}, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return folder
