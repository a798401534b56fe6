"""Which files a model consists of, in the two formats there are, and where the bundled models lie. No file is opened here.

Ours is `config.json` with the safetensors of `WEIGHTS`; the published one is `codec.pth`, `coarse.pth` and `c2f.pth`, whose
fine-tunes lie beside them as `loras/<style>/{coarse,c2f}.pth`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from vampnet.hub_errors import FileMissing
from vampnet.sentences import Sentence

PARTS = ("codec", "coarse", "fine")
WEIGHTS = ("codec.safetensors", "coarse.safetensors", "fine.safetensors")
OUR_FILES = dict(zip(PARTS, WEIGHTS, strict=True))
PUBLISHED_FILES = {"codec": "codec.pth", "coarse": "coarse.pth", "fine": "c2f.pth"}
FOLDER_VARIABLE = "VAMPNET_CHECKPOINTS"
"""Environment variable that names another folder of bundled checkpoints."""

_STYLE = re.compile(r"\w(?:[\w .+-]*[\w+-])?")


def bundled_folder() -> Path:
    """The folder of the checkpoints that ship with the program; the environment variable VAMPNET_CHECKPOINTS names another."""
    named = os.environ.get(FOLDER_VARIABLE, "").strip()
    return Path(named).expanduser() if named else Path(__file__).resolve().parent.parent / "checkpoints"


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder holds all files of a checkpoint in our format (they are not opened)."""
    return all((Path(folder) / name).is_file() for name in ("config.json", *WEIGHTS))


def bundled_models() -> list[str]:
    """Names of the complete checkpoints in `bundled_folder()`, sorted."""
    folder = bundled_folder()
    return sorted(path.name for path in folder.iterdir() if is_checkpoint(path)) if folder.is_dir() else []


def check_style(style: str) -> str:
    """Gives back the name of a fine-tune, which is a plain name: it never leads out of `loras/`.

    Raises:
        ValueError: it is none.
    """
    if not _STYLE.fullmatch(style) or ".." in style:
        raise ValueError(Sentence(
            "'{style}' cannot be the name of a fine-tune: it has letters, digits, '.', '-', '_' and spaces only.",
            style=style,
        ))  # fmt: skip
    return style


def files_of(folder: Path) -> set[str]:
    """Names of the files in a folder and in the folders of its fine-tunes, with "/" between, relative to the folder."""
    found = {path.name for path in folder.iterdir() if path.is_file()}
    return found | {path.relative_to(folder).as_posix() for path in folder.glob("loras/*/*") if path.is_file()}


def styles_of(files: Collection[str]) -> list[str]:
    """Names of the complete fine-tunes among some files, sorted."""
    split = [file.split("/") for file in files]
    found = {parts[1] for parts in split if len(parts) == 3 and parts[0] == "loras" and _STYLE.fullmatch(parts[1])}
    return sorted(style for style in found if set(_style_files(style).values()) <= set(files))


def _style_files(style: str) -> dict[str, str]:
    return {part: f"loras/{style}/{PUBLISHED_FILES[part]}" for part in ("coarse", "fine")}


def choose(files: Collection[str], where: str, needed: Collection[str] = PARTS, style: str | None = None) -> dict[str, str]:
    """The file of each part of a model; ours where both formats are there.

    Args:
        files: names of those there are, relative to the folder or repository.
        where: what they belong to, as it begins a sentence.
        needed: the parts wanted, of `PARTS`.
        style: a fine-tune, whose coarse and fine model take the place of the others.

    Returns:
        {part: file name}.

    Raises:
        FileMissing: there is no model, or not all of it; the sentence says what is missing.
        ValueError: the style is not a plain name.
    """
    # A config.json alone says nothing: repositories of the published format may have one for other programs.
    published = not any(name in files for name in WEIGHTS) and any(name.endswith(".pth") for name in files)
    chosen = dict(PUBLISHED_FILES if published else OUR_FILES)
    if style is not None:
        own = _style_files(check_style(style))
        if not any(name in files for name in own.values()):
            known = ", ".join(styles_of(files))
            raise FileMissing(
                Sentence("{where} has no fine-tune '{style}': it has {known}.", where=where, style=style, known=known)
                if known
                else Sentence("{where} has no fine-tune '{style}': it has none.", where=where, style=style)
            )
        chosen |= own
    chosen = {part: chosen[part] for part in PARTS if part in needed}
    wanted = [*(["config.json"] if any(name in WEIGHTS for name in chosen.values()) else []), *chosen.values()]
    missing = [name for name in wanted if name not in files]
    if missing:
        raise FileMissing(Sentence("{where} is not complete: {missing} missing.", where=where, missing=", ".join(missing)))
    return chosen
