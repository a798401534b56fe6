"""A whole vamp <-> a folder: source and takes as sound files, the tokens and the mask, and the settings as JSON.

Nothing that is read is executed or unpickled, every path stays inside the folder, and every number is checked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vampnet import audio
from vampnet.beats import BeatGrid
from vampnet.config import CODEBOOK_SIZE, MOST, Prompt, Sampling, TokenGrid, whole_seed
from vampnet.metadata import read_bars, read_seconds, read_whole
from vampnet.ring import may_be_ring
from vampnet.sentences import Sentence
from vampnet.vamp import FORMATS, Vamp
from vampnet.whole_file import whole_file, write_json

SETTINGS, TOKENS, SOURCE = "vamp.json", "tokens.safetensors", "source"
VERSION = 1


def write_bundle(
    vamp: Vamp,
    folder: str | Path,
    format: str = "flac",
    names: Sequence[str] | None = None,
    extra: dict[str, Any] | None = None,
    *,
    private: bool = False,
    comments: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Writes a vamp into a folder, which is made if it is missing.

    Args:
        format: "wav", "flac" (both 24 bit) or "ogg".
        names: of the takes' files without their ending; by default take-1, take-2, ...
        extra: plain values that are kept beside the settings; its `source_name` goes into the takes' files too.
        private: leave out what gives the source away: its sound, its name, its beats, and all tokens, since those of the takes
            are the source's own wherever the mask kept them. Such a folder has settings and takes, and no whole vamp.
        comments: what travels in each take's file; by default `Vamp.comments`, and nothing if private.

    Returns:
        What stands in `vamp.json`: `Vamp.settings()`, `version`, `grid`, `files` (names of the takes), `source_file` (None if
        private), `extra`.

    Raises:
        ValueError: a format that cannot be written, another number of names than of takes, a name with a folder,
            or two that are one.
        OSError: the folder cannot be written to.
    """
    if format not in FORMATS:
        raise ValueError(f"Takes are written as {', '.join(FORMATS)}, not as '{format}'.")
    names = [f"take-{number}" for number in range(1, len(vamp.takes) + 1)] if names is None else list(names)
    if len(names) != len(vamp.takes) or (comments is not None and len(comments) != len(vamp.takes)):
        raise ValueError(f"{len(vamp.takes)} takes need as many names and comments, not {len(names)}.")
    for name in names:
        if not name or Path(name).name != name or name.startswith("."):
            raise ValueError(f"A take is called something like take-1, not '{name}': a folder's name has no place in it.")
    # Some disks do not tell "Take" from "take".
    if len({SOURCE, *(name.casefold() for name in names)}) <= len(names):
        raise ValueError(f"Every take needs a name of its own, and none is called {SOURCE}: these are {', '.join(names)}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = None if private else audio.save(vamp.source, folder / f"{SOURCE}.{format}").name
    if comments is None:
        given = vamp.comments(str((extra or {}).get("source_name", "")))
        comments = [None] * len(names) if private else given
    paths = [
        audio.save(take, folder / f"{name}.{format}", comment=comment)
        for take, name, comment in zip(vamp.takes, names, comments, strict=True)
    ]
    if not private:
        tensors = {"tokens": vamp.tokens, "source_tokens": vamp.source_tokens}
        tensors = {name: value.to(torch.int16).contiguous() for name, value in tensors.items()}
        with whole_file(folder / TOKENS) as part:
            part.write_bytes(save({**tensors, "mask": vamp.mask.to(torch.uint8).contiguous()}))
    settings = {
        **vamp.settings(), "version": VERSION, "grid": {"sample_rate": vamp.grid.sample_rate, "hop": vamp.grid.hop},
        "files": [path.name for path in paths], "source_file": source, "extra": extra or {},
    }  # fmt: skip
    if private:
        settings.update(source=None, beats=None)
    write_json(settings, folder / SETTINGS)
    return json.loads(json.dumps(settings))


def read_settings(folder: str | Path) -> dict[str, Any]:
    """What `write_bundle` returned, from the folder.

    Raises:
        ValueError: there is no vamp in the folder, or its settings are damaged.
    """
    path = Path(folder) / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        source = settings["source_file"]
        names = [*([] if source is None else [source]), *settings["files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(Sentence("There is no vamp here, or its settings are damaged.")) from error
    if any(not isinstance(name, str) or Path(name).name != name or name.startswith(".") for name in names):
        raise ValueError(Sentence("The settings of this vamp name files outside its folder: it is not used."))
    return settings


def read_bundle(folder: str | Path) -> Vamp:
    """The vamp that `write_bundle` wrote; sound as it came out of the files.

    Raises:
        ValueError: there is none, it is damaged, or its source was kept private.
    """
    folder, settings = Path(folder), read_settings(folder)
    if settings["source_file"] is None:
        raise ValueError(Sentence("The source of this vamp was kept private: there are its takes and settings, and no more."))
    try:
        tokens, source_tokens, mask = _tensors(folder / TOKENS)
        grid = TokenGrid(**{name: read_whole(value, 1) for name, value in settings["grid"].items()})
        rate = grid.sample_rate
        if not audio.MIN_FILE_RATE <= rate <= audio.MAX_FILE_RATE or settings["sample_rate"] != rate:
            raise ValueError("a rate that no model has")
        # What was made longer may be longer than what can be brought.
        most = 2 * audio.MAX_SECONDS
        names = (settings["source_file"], *settings["files"])
        source, *takes = (audio.load(folder / name, rate, most, own=True) for name in names)
        beats = settings["beats"]
        vamp = Vamp(
            source, takes, tokens, source_tokens, mask, Prompt.of(settings["prompt"]),
            Sampling.of(settings["sampling"]), whole_seed(settings["seed"]), bool(settings["loop"]), str(settings["model"]),
            grid, read_bars(settings["bars"]), None if beats is None else _checked(BeatGrid(**beats)),
            bool(settings.get("painted", False)), read_seconds(settings.get("extend", (0.0, 0.0))),
            str(settings.get("precision", "float32")),
        )  # fmt: skip
    except (
        OSError,
        ValueError,
        ArithmeticError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise ValueError(Sentence("The vamp in this folder is damaged ({kind}).", kind=type(error).__name__)) from error
    levels, steps = source_tokens.shape[1:]
    length = source.audio_data.shape[-1]
    in_time = may_be_ring(steps, length, grid.hop) if vamp.loop else abs(length / grid.hop - steps) <= 2
    if tokens.shape != (len(takes), levels, steps) or mask.shape != (1, levels, steps) or not in_time:
        raise ValueError(Sentence("The vamp in this folder is damaged: its tokens do not fit its takes."))
    return vamp


def _tensors(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (takes, K, T), those of the source (1, K, T), both int64, and the mask (1, K, T) bool. ValueError for others."""
    found = load_file(path)
    tokens, source_tokens, mask = (found[name] for name in ("tokens", "source_tokens", "mask"))
    for codes in (tokens, source_tokens):
        whole = not codes.is_floating_point() and codes.dim() == 3 and codes.numel() > 0
        if not whole or int(codes.min()) < 0 or int(codes.max()) >= CODEBOOK_SIZE:
            raise ValueError("tokens that no model has")
    if len(source_tokens) != 1:
        raise ValueError("a vamp has one source")
    return tokens.long(), source_tokens.long(), mask.bool()


def _checked(grid: BeatGrid) -> BeatGrid:
    """A grid of tuples of floats from one of what JSON knows. ValueError or TypeError for what no grid holds."""
    beats, downbeats, (tempo,) = ([_number(value) for value in row] for row in (grid.beats, grid.downbeats, [grid.tempo]))
    if tempo < 0 or any(later < time for times in (beats, downbeats) for time, later in pairwise(times)):
        raise ValueError("beats that no music has")
    # Two that lay just before a cut are both at 0.
    beats, downbeats = (tuple(dict.fromkeys(times)) for times in (beats, downbeats))
    return BeatGrid(beats, downbeats, tempo, str(grid.engine), str(grid.note))


def _number(value: Any) -> float:
    # NaN is no number either.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= MOST:
        raise ValueError("a number was expected")
    return float(value)
