"""The options of a prompt and of sampling on a command line: what each says in the help, and what comes of them."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from vampnet.config import PUBLISHED, TUNED, Prompt, Sampling

if TYPE_CHECKING:
    from vampnet.pipeline import VampNet

PROMPT_HELP = {
    "periodic": (
        "P",
        "keep about every P-th moment (a moment is 17 ms): 2 stays close, 7 varies, 16 and up goes far; 0 = off, 1 = all",
    ),
    "periodic_width": ("N", "how many moments in a row are kept each time"),
    "periodic_offset": ("N", "shift that pattern to the right by so many moments"),
    "periodic_jitter": (
        "N",
        "with --periodic, keep each early or late by up to so many moments: no fast rhythm is missed; 0 = even distances",
    ),
    "kept_codebooks": (
        "N",
        "keep the N coarsest of the 14 layers of the sound everywhere: the outline stays, detail is made anew",
    ),
    "prompt_codebooks": ("N", "keep only the N coarsest layers of each kept moment: freer in timbre; 14 = all"),
    "prefix_seconds": ("S", "keep the first S seconds"),
    "suffix_seconds": ("S", "keep the last S seconds"),
    "beat_width_ms": ("MS", "keep so many milliseconds at each beat: the pulse stays (75 is a good start); 0 = off"),
    "onset_width_ms": ("MS", "keep so many milliseconds at each attack: the rhythm stays; 0 = off"),
    "dropout": ("SHARE", "let go of this share (0 to 1) of the kept moments again, at random"),
    "region": (("START", "END"), "change only what lies between these two times in seconds"),
    "original_sound": (
        None,
        "what is kept for half a second or more in a row is the file's own sound (default); with --no-original-sound all goes "
        "through the codec",
    ),
}
SAMPLING_HELP = {
    "steps": ("N", "rounds in which the coarse layers are settled: 8 do, 24 where nothing is kept; large models take 12 to 36"),
    "temperature": ("T", "how daring each choice is: below 1 safer, above 1 wilder, 0 always the likeliest"),
    "mask_temperature": ("T", "how much chance there is in what is settled first; over 6 is best"),
    "top_p": ("SHARE", "choose only among the likeliest sounds up to this share of the probability; 1 = off"),
    "top_k": ("N", "choose only among the N likeliest sounds; 0 = off"),
    "typical_mass": (
        "SHARE",
        "choose only the most typical sounds, up to this share of the probability; the coarsest layer, gaps of up to a second; "
        "1 = off",
    ),
    "typical_min_tokens": ("N", "with --typical-mass: always leave so many sounds to choose from"),
    "sample_cutoff": ("SHARE", "after this share of the rounds always take the likeliest; 1 = never"),
    "fine_steps": ("N", "rounds in which the fine layers are settled"),
    "guidance": (
        "G",
        "how much further than the model takes go towards what is kept, where gaps are short; 0 = off; takes time unless the "
        "model was taught it",
    ),
    "palette": ("W", "how far the takes keep to the sounds that the file is made of, wherever they come; 0 = off"),
    "recall": (
        "W",
        "how far the takes lean on what the file plays at other places that are like the one that is filled; 0 = off",
    ),
    "balance": ("SHARE", "how far the takes are made as bright, full and lively as the file, by at most 3 dB; 0 = off"),
    "feedback": ("N", "vamp the result again, N rounds in all: each goes further from the source"),
}


def _add_fields(group: Any, defaults: Prompt | Sampling, texts: dict[str, tuple[Any, str]], without: str = "") -> None:
    """One option for each field but one, with its default in the help."""
    for field in dataclasses.fields(defaults):
        if field.name == without:
            continue
        metavar, text = texts[field.name]
        value = getattr(defaults, field.name)
        name = f"--{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            group.add_argument(name, action=argparse.BooleanOptionalAction, default=value, help=text)
            continue
        more: dict[str, Any] = {"nargs": 2, "type": float} if isinstance(metavar, tuple) else {"type": type(value)}
        shown = "" if value is None else f" (default {value:g})"
        if isinstance(defaults, Sampling) and field.name in TUNED:
            shown, value = f" (default {value:g}; with published weights {getattr(PUBLISHED, field.name):g})", None
        group.add_argument(name, metavar=metavar, default=value, help=text + shown, **more)


def add_settings(parser: argparse.ArgumentParser, decoded: bool = False) -> None:
    """The options of a prompt and of sampling, which `settings` reads; where all is `decoded`, none for what is not."""
    without = "original_sound" if decoded else ""
    _add_fields(parser.add_argument_group("What stays (what any of these keeps, stays)"), Prompt(), PROMPT_HELP, without)
    _add_fields(parser.add_argument_group("How it is filled"), Sampling(), SAMPLING_HELP)


def settings(args: argparse.Namespace, model: VampNet | None = None) -> tuple[Prompt, Sampling]:
    """The prompt and the sampling of the command line, with the model's defaults for what is not given there.

    Args:
        model: None = it is not loaded yet: what is given is checked, which should not wait for it.

    Raises:
        ValueError: values out of range.
    """
    values = {name: getattr(args, name) for name in PROMPT_HELP if name in args}
    values["region"] = tuple(values["region"]) if values["region"] else None
    given = {name: value for name in SAMPLING_HELP if (value := getattr(args, name)) is not None}
    return Prompt(**values), dataclasses.replace(Sampling() if model is None else model.sampling, **given)
