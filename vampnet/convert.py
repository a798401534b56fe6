"""The published format <-> ours: three `.pth` files <-> a checkpoint folder of safetensors and `config.json`, without loss.

The tensors stay as they are published (names, dtypes, weight norm and LoRA unfolded), so both ways are exact. What safetensors
does not keep by itself, the order of the tensors and torch's version numbers of the modules, lies in its header.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

from vampnet.layout import PARTS, PUBLISHED_FILES
from vampnet.published import Published, read_published, write_published
from vampnet.whole_file import write_json


def to_folder(codec: str | os.PathLike, coarse: str | os.PathLike, fine: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Published files -> a checkpoint folder in our format, with checksums.

    Args:
        codec, coarse, fine: files such as `codec.pth`, `coarse.pth` and `c2f.pth`.
        out: the folder, made if missing.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: a file is missing.
        FileExistsError: `out` holds a checkpoint already.
        ValueError: a file cannot be read safely, its tensors are not exactly those that its options describe, the three do not
            fit together, or the metadata cannot be written as JSON without loss. Nothing is written then.
    """
    from vampnet import checkpoints

    out = Path(out)
    parts = {section: read_published(path) for section, path in zip(PARTS, (codec, coarse, fine), strict=True)}
    sections = _sections(parts)
    for section, part in parts.items():
        if not _is_json(part.metadata):
            raise ValueError(f"The metadata of the {section} file cannot be written as JSON without loss.")
    _refuse_existing(out, ["config.json", *(f"{section}.safetensors" for section in PARTS)])
    out.mkdir(parents=True, exist_ok=True)
    for section in PARTS:
        _write_tensors(out / f"{section}.safetensors", parts.pop(section).state)
    # last, so that a folder whose weights are not all there is no checkpoint
    write_json(sections, out / "config.json")
    checkpoints.write_checksums(out)
    return out


def to_published(folder: str | os.PathLike, out: str | os.PathLike) -> list[Path]:
    """A checkpoint folder that `to_folder` wrote -> `codec.pth`, `coarse.pth` and `c2f.pth`, with the tensors as they were.

    Args:
        folder: in our format.
        out: the folder of the three files, made if missing.

    Returns:
        Their paths.

    Raises:
        FileNotFoundError: a file of the checkpoint is missing.
        FileExistsError: `out` holds one of the three files already.
        ValueError: a model of the folder was not published in that format (the bundled ones are not), or a file is damaged.
    """
    from safetensors import SafetensorError

    from vampnet import checkpoints

    folder, out = Path(folder), Path(out)
    missing = [name for name in ("config.json", *checkpoints.WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is not a checkpoint: {', '.join(missing)} missing.")
    checkpoints.verify_checksums(folder)
    sections = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metadata = {section: _metadata(folder, section, sections.get(section)) for section in PARTS}
    _refuse_existing(out, PUBLISHED_FILES.values())
    written = []
    for section, name in PUBLISHED_FILES.items():
        path = folder / f"{section}.safetensors"
        try:
            state = _read_tensors(path)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is damaged: get it again.") from error
        written.append(write_published(out / name, Published(state, metadata[section])))
    return written


def _sections(parts: dict[str, Published]) -> dict[str, Any]:
    """The sections of `config.json`; ValueError if a part is not what its options say or the parts do not fit together."""
    from vampnet.codec.published import codec_from_published
    from vampnet.model.published import check_published, published_config

    codec = codec_from_published(parts["codec"].state, parts["codec"].metadata)
    configs = {}
    for section in ("coarse", "fine"):
        check_published(parts[section].state, parts[section].kwargs)
        configs[section] = published_config(parts[section].kwargs)
    coarse, fine = configs["coarse"], configs["fine"]
    if coarse.n_conditioning or fine.n_conditioning != coarse.n_codebooks or fine.n_codebooks != codec.n_codebooks:
        raise ValueError(
            f"The three files do not fit together: the codec has {codec.n_codebooks} levels, the coarse model reads "
            f"{coarse.n_codebooks} of which it is given {coarse.n_conditioning}, and the fine one reads {fine.n_codebooks} of "
            f"which it is given {fine.n_conditioning}."
        )
    kinds = {"codec": codec.kind, "coarse": "published", "fine": "published"}
    return {section: {"type": kind, "metadata": parts[section].metadata} for section, kind in kinds.items()}


def _metadata(folder: Path, section: str, fields: Any) -> dict[str, Any]:
    kinds = ("lac", "dac") if section == "codec" else ("published",)
    if not isinstance(fields, dict) or fields.get("type") not in kinds or not isinstance(fields.get("metadata"), dict):
        raise ValueError(
            f"The {section} model of {folder} has no published form: only what was converted from the published format can be "
            "turned back into it."
        )
    return fields["metadata"]


def _is_json(value: Any) -> bool:
    """Whether JSON gives exactly this value back (it makes lists of tuples and strings of the keys, say)."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    # NaN is not equal to itself, and infinities are not JSON
    return value is None or type(value) in (bool, int, str) or (type(value) is float and value - value == 0)


def _write_tensors(path: Path, state: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    header = {"format": "pt", "order": json.dumps(list(state))}
    versions = getattr(state, "_metadata", None)  # of each module; torch attaches them to a state_dict
    if versions is not None and _is_json(versions):
        header["versions"] = json.dumps(versions)
    tensors, seen = {}, set()
    for name, tensor in state.items():
        # safetensors wants contiguous tensors, each with memory of its own
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.contiguous().clone() if storage in seen else tensor.contiguous()
        seen.add(storage)
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, metadata=header)
        partial.chmod(0o644)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_tensors(path: Path) -> dict[str, Any]:
    """The tensors in their first order; an OrderedDict with `_metadata` where the published file had one."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        header = file.metadata() or {}
        names = list(file.keys())
        order = json.loads(header.get("order", "null")) or names
        if sorted(order) != sorted(names):
            raise ValueError("The order in the header is of other tensors.")
        state = {name: file.get_tensor(name) for name in order}
    if "versions" not in header:
        return state
    ordered = OrderedDict(state)
    ordered._metadata = OrderedDict(json.loads(header["versions"]))
    return ordered


def _refuse_existing(out: Path, names: Any) -> None:
    there = [name for name in names if (out / name).exists()]
    if there:
        raise FileExistsError(f"{out} holds {', '.join(there)} already: name another folder.")


# ----------------------------------------------------------------------------------------------------------- command line


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Adds the command `convert` to the subparsers `commands` of an argparse parser; `run` runs it."""
    parser = commands.add_parser(
        "convert",
        help="turn published weights (.pth) into a folder of safetensors, or back",
        description="Turn published weights (codec.pth, coarse.pth, c2f.pth) into a model's folder of safetensors and "
        "config.json, or such a folder back into the published files. Nothing is lost either way, and no code in them runs.",
    )
    parser.add_argument("source", type=Path, help="folder of the published files, or a model's folder that was made from such")
    parser.add_argument("out", type=Path, help="folder to write, made if missing")
    for section, name in PUBLISHED_FILES.items():
        parser.add_argument(f"--{section}", type=Path, metavar="FILE", help=f"instead of {name} of SOURCE: a fine-tune's, say")
    return parser


def run(options: argparse.Namespace) -> int:
    """Runs `convert`: writes the paths of what was made to stdout and returns 0.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: as `to_folder` and `to_published`.
    """
    source: Path = options.source
    given = {section: getattr(options, section) for section in PARTS}
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder {source}.")
    if (source / "config.json").is_file():
        if any(given.values()):
            raise ValueError("--codec, --coarse and --fine are for published files, and SOURCE is a folder with config.json.")
        made = to_published(source, options.out)
    else:
        made = [to_folder(*(given[section] or source / name for section, name in PUBLISHED_FILES.items()), options.out)]
    sys.stdout.write("".join(f"{path}\n" for path in made))
    return 0
