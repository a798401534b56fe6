"""Audio <-> tokens: one small interface (`Codec`), and the codecs behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..balance import Balance
from ..config import TokenGrid
from ..whole_file import seal, whole_file, write_json
from .dac import DacCodec
from .lac import LAC
from .published import codec_from_published
from .spectral import SpectralCodec, SpectralCodecConfig

__all__ = [
    "LAC",
    "Codec",
    "DacCodec",
    "SpectralCodec",
    "SpectralCodecConfig",
    "codec_from_published",
    "load_codec",
    "save_codec",
]


@runtime_checkable
class Codec(Protocol):
    """What every codec offers: mono audio at about -24 LUFS to residual codes and back."""

    sample_rate: int
    hop: int
    n_codebooks: int
    codebook_size: int

    @property
    def grid(self) -> TokenGrid:
        """Seconds, samples and time steps."""

    def encode(self, audio: Tensor, loop: bool = False) -> Tensor:
        """(B, 1, N) float -> (B, n_codebooks, ceil(N / hop)) int64."""

    def decode(self, codes: Tensor, loop: bool = False) -> Tensor:
        """(B, n_codebooks, T) int64 -> (B, 1, T * hop) float; with `loop` the end flows into the beginning."""

    def tonal_balance(self, codes: Tensor, loop: bool = False) -> Balance | None:
        """(B, n_codebooks, T) int64 -> what `decode` takes as `balance`; None = neither."""

    def codebook_vectors(self) -> Tensor:
        """(n_codebooks, codebook_size, D) float: the vectors that transformers read tokens with."""


def save_codec(codec: SpectralCodec, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes `codec.safetensors` and the "codec" section of `config.json`; other sections stay."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Codebooks stay exact: a rounded code may be nearest to another vector, and the transformers were trained on these.
    tensors = {k: (v if "codebook" in k else v.to(dtype)).contiguous() for k, v in codec.state_dict().items()}
    data = save(tensors)
    with whole_file(folder / "codec.safetensors") as part:
        part.write_bytes(data)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    config["codec"] = {"type": "spectral", **codec.config.to_dict()}
    seal(config, "codec.safetensors", data)
    write_json(config, path)


def load_codec(folder: str | Path, device: str | torch.device = "cpu") -> SpectralCodec | LAC | DacCodec:
    """Loads a codec from `config.json` and `codec.safetensors`, ready to use (evaluation mode, float32).

    The section "codec" of `config.json` has the type "spectral" and the fields of `SpectralCodecConfig`, or the type "lac" or
    "dac" and "metadata": that of the published file, whose tensors the weights are then as they were.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the type is unknown, or the tensors are not exactly those of the configuration.
    """
    folder = Path(folder)
    for name in ("config.json", "codec.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: name a folder that was made by the training's export.")
    fields = dict(json.loads((folder / "config.json").read_text()).get("codec", {}))
    kind = fields.pop("type", None)
    path = folder / "codec.safetensors"
    if kind in (LAC.kind, DacCodec.kind):
        codec = _load_published(path, kind, fields)
    elif kind == "spectral":
        codec = _load_spectral(path, fields)
    else:
        raise ValueError(f"{folder / 'config.json'} does not describe a codec of type 'spectral', 'lac' or 'dac'.")
    return codec.eval().requires_grad_(False).to(device)


def _load_spectral(path: Path, fields: dict) -> SpectralCodec:
    codec = SpectralCodec(SpectralCodecConfig(**fields))
    state = {k: v.float() for k, v in load_file(path).items()}
    missing, unexpected = codec.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(f"{path} does not fit its configuration: missing {missing}, left over {unexpected}.")
    return codec


def _load_published(path: Path, kind: str, fields: dict) -> LAC | DacCodec:
    metadata = fields.get("metadata")
    if not isinstance(metadata, dict):
        raise ValueError(
            f"The codec section of {path.parent / 'config.json'} has no metadata: convert the published files again."
        )
    codec = codec_from_published(load_file(path), metadata)
    if codec.kind != kind:
        raise ValueError(f"{path} holds a codec of type '{codec.kind}', and config.json says '{kind}': get the files again.")
    return codec
