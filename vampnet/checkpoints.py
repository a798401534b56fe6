"""A name -> files -> models. Weights are safetensors, loaded strictly; checksums are verified where they are given.

A checkpoint is a folder with `config.json` (sections "codec", "coarse", "fine", and "sha256": {file name: hex digest} where it
was sealed with `write_checksums`) and the three weight files of `WEIGHTS`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from vampnet.codec import Codec
    from vampnet.model.transformer import TokenTransformer

WEIGHTS = ("codec.safetensors", "coarse.safetensors", "fine.safetensors")
DEFAULT = "mini"
FOLDER_VARIABLE = "VAMPNET_CHECKPOINTS"
"""Environment variable that names another folder of bundled checkpoints."""


@dataclass(frozen=True)
class Models:
    """What a checkpoint holds, in eval mode and on one device.

    Attributes:
        name: as a person would name it: "mini", or the name of the folder.
        codec: audio <-> tokens.
        coarse: transformer of the coarse levels.
        fine: transformer of the other levels, given the coarse ones.
    """

    name: str
    codec: Codec
    coarse: TokenTransformer
    fine: TokenTransformer


def bundled_folder() -> Path:
    """The folder of the checkpoints that ship with the program; the environment variable VAMPNET_CHECKPOINTS names another."""
    named = os.environ.get(FOLDER_VARIABLE, "").strip()
    return Path(named).expanduser() if named else Path(__file__).resolve().parent.parent / "checkpoints"


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder holds all files of a checkpoint (they are not opened)."""
    return all((Path(folder) / name).is_file() for name in ("config.json", *WEIGHTS))


def bundled_models() -> list[str]:
    """Names of the complete checkpoints in `bundled_folder()`, sorted."""
    folder = bundled_folder()
    return sorted(path.name for path in folder.iterdir() if is_checkpoint(path)) if folder.is_dir() else []


def find(name: str | Path, weights: Sequence[str] = WEIGHTS) -> Path:
    """The folder of a checkpoint.

    Args:
        name: of a bundled checkpoint, or the path of a folder. A bundled one comes first; "./mini" is the path.
        weights: the files it must hold beside `config.json`, for those who need one model only.

    Raises:
        FileNotFoundError: there is no such checkpoint, or files of it are missing; the sentence says what to do.
    """
    text = os.fspath(name)
    bundled = bundled_folder() / text
    plain = text not in ("", ".", "..") and Path(text).name == text
    for folder in ([bundled] if plain else []) + [Path(text).expanduser()]:
        if text and folder.is_dir():
            missing = [file for file in ("config.json", *weights) if not (folder / file).is_file()]
            if missing:
                raise FileNotFoundError(f"The checkpoint {folder} is not complete: {', '.join(missing)} missing.")
            return folder
    known = ", ".join(f"'{model}'" for model in bundled_models()) or f"none in {bundled_folder()}"
    raise FileNotFoundError(
        f"There is no model '{text}': this version loads the bundled models ({known}) and folders that hold config.json, "
        f"{', '.join(WEIGHTS[:-1])} and {WEIGHTS[-1]}."
    )


def load(name: str | Path = DEFAULT, device: str | torch.device = "cpu") -> Models:
    """The models of a checkpoint, in eval mode, float32, on `device`.

    Args:
        name: as in `find`.
        device: "cpu", "cuda", "mps" or a torch.device.

    Raises:
        FileNotFoundError: as `find`.
        ValueError: a file is damaged, is not the one that the checksum is of, or does not fit its configuration.
    """
    from safetensors import SafetensorError

    from vampnet.codec import load_codec
    from vampnet.model.transformer import load_transformer

    folder = find(name)
    verify_checksums(folder)
    try:
        codec = load_codec(folder)
        vectors = codec.codebook_vectors()
        coarse, fine = (load_transformer(folder, which, vectors) for which in ("coarse", "fine"))
    except (SafetensorError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The checkpoint {folder} cannot be loaded ({reason}): get its files again.") from error
    if fine.config.n_codebooks != codec.n_codebooks or fine.config.n_conditioning != coarse.config.n_codebooks:
        raise ValueError(
            f"The models of {folder} do not fit together: the codec has {codec.n_codebooks} levels, the coarse model "
            f"{coarse.config.n_codebooks}, and the fine one reads {fine.config.n_codebooks} of which it is given "
            f"{fine.config.n_conditioning}."
        )
    title = folder.resolve().name
    return Models(title, codec.to(device), coarse.requires_grad_(False).to(device), fine.requires_grad_(False).to(device))


# -------------------------------------------------------------------------------------------------------------- checksums


def _config(folder: Path) -> dict:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / 'config.json'} is not readable JSON: get the file again.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{folder / 'config.json'} does not describe a checkpoint: get the file again.")
    return config


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(folder: str | Path) -> dict[str, str]:
    """Writes the SHA-256 of the weight files that are there into `config.json`; returns {file name: hex digest}.

    Raises:
        FileNotFoundError: the folder has no `config.json`.
        ValueError: `config.json` is not readable.
    """
    folder = Path(folder)
    config = _config(folder)
    config["sha256"] = {name: _sha256(folder / name) for name in WEIGHTS if (folder / name).is_file()}
    part = folder / "config.json.part"
    part.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(part, folder / "config.json")
    return config["sha256"]


def verify_checksums(folder: str | Path) -> None:
    """Compares the files of a checkpoint with the checksums in its `config.json`; one without checksums passes.

    Raises:
        ValueError: a file is not the one that was sealed, or the checksums are not of weight files.
    """
    folder = Path(folder)
    sums = _config(folder).get("sha256", {})
    if not isinstance(sums, dict) or not set(sums) <= set(WEIGHTS):
        raise ValueError(f"The section 'sha256' of {folder / 'config.json'} must name weight files: get the file again.")
    for name, expected in sums.items():
        if _sha256(folder / name) != expected:
            raise ValueError(f"{folder / name} does not have the checksum in config.json: get the file again.")
