"""Which weights a checkpoint holds: the checksums of its files, and a short name for all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vampnet.layout import OUR_FILES, PARTS, WEIGHTS
from vampnet.sentences import Sentence
from vampnet.whole_file import write_json


def checkpoint_config(folder: Path) -> dict:
    """What `config.json` of a folder in our format says.

    Raises:
        OSError: there is none that may be read.
        ValueError: it is no JSON, or describes no checkpoint.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(Sentence("{file} is not readable JSON: get the file again.", file=folder / "config.json")) from error
    if not isinstance(config, dict):
        raise ValueError(Sentence("{file} does not describe a checkpoint: get the file again.", file=folder / "config.json"))
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
    config = checkpoint_config(folder)
    config["sha256"] = {name: _sha256(folder / name) for name in WEIGHTS if (folder / name).is_file()}
    write_json(config, folder / "config.json")
    return config["sha256"]


def verify_checksums(folder: str | Path, weights: Sequence[str] = WEIGHTS) -> None:
    """Compares the files of a checkpoint with the checksums in its `config.json`; one without checksums passes.

    Args:
        folder: in our format.
        weights: the files to look at.

    Raises:
        ValueError: a file is not the one that was sealed, or the checksums are not of weight files.
    """
    folder = Path(folder)
    sums = checkpoint_config(folder).get("sha256", {})
    if not isinstance(sums, dict) or not set(sums) <= set(WEIGHTS):
        raise ValueError(
            Sentence("The section 'sha256' of {file} must name weight files: get the file again.", file=folder / "config.json")
        )
    for name, expected in sums.items():
        if name in weights and _sha256(folder / name) != expected:
            raise ValueError(
                Sentence("{file} does not have the checksum in config.json: get the file again.", file=folder / name)
            )


def weights_id(paths: dict[str, Path]) -> str:
    """16 hex digits that name the weights of a model: the same on every machine and in every precision.

    Of the SHA-256 of the files and, in our format, what `config.json` says of the models' shapes.

    Args:
        paths: of `checkpoints.Models`. Checksums in `config.json` are taken from there, since loading has verified them.

    Raises:
        OSError, ValueError: a file is gone or not readable any more.
    """
    said = []
    for part in PARTS:
        path, shape, digest = paths[part], None, None
        if path.is_dir():
            config = checkpoint_config(path)
            shape, digest = config.get(part), config.get("sha256", {}).get(OUR_FILES[part])
            path = path / OUR_FILES[part]
        said.append([part, shape, digest or _sha256(path)])
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
