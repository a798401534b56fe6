"""The controls of the page: one table from which the sliders are laid out and from which a `Request` is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from vampnet.config import HOP, N_COARSE, N_CODEBOOKS, SAMPLE_RATE, Prompt, Sampling

if TYPE_CHECKING:
    from vampnet.studio.shelf import Shape

MAX_TAKES = 8
MAX_SEED = 2**31 - 1
BARS = ("off", "1", "2", "4", "8")


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        name: of the field of `Prompt`, `Sampling` or `Request` that it sets.
        label: the field's term, with its unit.
        info: one line for a musician; {ms} is the length of a time step, {fine} the number of fine levels.
        group: where it stands on the page: "stays", "filled", "takes" or "more".
        low, high, step: range of a slider; a number field, check box or choice has no `step`.
    """

    name: str
    label: str
    info: str
    group: str
    low: float = 0
    high: float = 1
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.step is not None and float(self.step).is_integer() and not isinstance(DEFAULTS[self.name], float)


@dataclass(frozen=True)
class Request:
    """What a vamp is asked for: what stays, how the rest is filled, and of what.

    Attributes:
        takes: 1 to 8.
        seed: take i depends on (seed, i) alone.
        loop: the clip is a ring: its end flows into its beginning.
        bars: cut to so many whole bars first; None = the whole clip.
    """

    prompt: Prompt
    sampling: Sampling
    takes: int = 4
    seed: int = 0
    loop: bool = False
    bars: int | None = None


def _defaults() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for options in (Prompt(), Sampling()):
        values.update({field.name: getattr(options, field.name) for field in fields(options)})
    # A first page is about loops: nobody who brings one wants a click at its end.
    return {**values, "takes": 4, "seed": 0, "loop": True, "bars": "off"}


DEFAULTS = _defaults()

def _group(group: str, *rows: tuple[Any, ...]) -> tuple[Control, ...]:
    """Rows of (name, label, info, low, high, step) as controls of one group."""
    return tuple(Control(*row[:3], group, *row[3:]) for row in rows)


CONTROLS: tuple[Control, ...] = (
    *_group(
        "stays",
        (
            "periodic", "Periodic prompt P (time steps)",
            "Keeps every P-th moment of {ms} ms: low stays close, high roams, 0 is off.", 0, 64, 1,
        ),
        (
            "kept_codebooks", "Kept codebooks N_k (levels)",
            "Keeps the coarsest levels throughout: notes and rhythm before texture.", 0, N_CODEBOOKS, 1,
        ),
        (
            "beat_width_ms", "Beat mask width (ms)",
            "Keeps this much from each beat on: 75 holds the pulse, 0 is off.", 0, 400, 5,
        ),
        ("prefix_seconds", "Context before (seconds)", "Inpainting: the opening that stays untouched.", 0, 10, 0.1),
        ("suffix_seconds", "Context after (seconds)", "Inpainting: the ending that stays untouched.", 0, 10, 0.1),
    ),
    *_group(
        "filled",
        ("steps", "Sampling steps", "Passes over the gaps: 12 is quick, 24 balanced, 36 the most careful.", 1, 72, 1),
        ("temperature", "Temperature", "How daring each choice is: below 1 plays safe, above 1 takes risks.", 0, 2, 0.05),
        ("mask_temperature", "Mask temperature", "Chance in what is settled first: over 6 keeps takes lively.", 0, 30, 0.5),
    ),
    *_group(
        "takes",
        ("takes", "Takes", "How many variations to make.", 1, MAX_TAKES, 1),
        ("seed", "Seed", "The same seed and settings give the same takes.", 0, MAX_SEED),
        ("loop", "Seamless loop", "The end flows into the beginning."),
        ("bars", "Whole bars", "Cut the source to this many bars first."),
    ),
    *_group(
        "more",
        (
            "prompt_codebooks", "Prompt depth (levels)",
            "How many levels of a kept moment stay: fewer frees its timbre.", 1, N_CODEBOOKS, 1,
        ),
        ("periodic_width", "Periodic width (time steps)", "Moments kept in a row at every period.", 1, 16, 1),
        ("periodic_offset", "Periodic offset (time steps)", "Shifts the periodic pattern to the right.", 0, 64, 1),
        ("onset_width_ms", "Onset mask width (ms)", "Keeps this much from each attack on: 0 is off.", 0, 400, 5),
        ("dropout", "Prompt dropout (share)", "Lets go of a random share of the kept moments.", 0, 1, 0.05),
        ("top_p", "Top-p (probability mass)", "Only the likeliest choices up to this mass: 1 is off.", 0.05, 1, 0.05),
        (
            "typical_mass", "Typical mass (probability mass)",
            "Only the most typical choices up to this mass: 1 is off.", 0.05, 1, 0.05,
        ),
        ("fine_steps", "Fine sampling steps", "Passes over the {fine} fine levels: 4 is enough for most.", 1, 24, 1),
        ("feedback", "Feedback rounds", "Vamps the result again, each round a step further away.", 1, 8, 1),
    ),
)
NAMES = tuple(control.name for control in CONTROLS)
LEVELS = ("kept_codebooks", "prompt_codebooks")
"""The controls that count codebook levels."""
FOLLOWERS = ("periodic", "fine_steps", *LEVELS)
"""The controls that say something about the model, and change with it."""


def info_of(control: Control, step_ms: float = 1000 * HOP / SAMPLE_RATE, fine: int = N_CODEBOOKS - N_COARSE) -> str:
    """The line of a control for a model with time steps of `step_ms` and `fine` fine levels; at first, for the paper's."""
    return control.info.format(ms=f"{step_ms:.0f}", fine=fine)


def most_levels(shape: Shape) -> int:
    """Where the sliders of `LEVELS` end: no more than `Prompt` can ask for, and a slider needs two ends."""
    return max(2, min(shape.levels, N_CODEBOOKS))


def follow(name: str, shape: Shape, before: Shape, value: Any = None) -> dict[str, Any]:
    """What changes of a control in `FOLLOWERS` with a model: arguments of `gr.update`.

    Args:
        name: of the control.
        shape: of the model.
        before: of the model that the page had before.
        value: of a control in `LEVELS`.
    """
    control = CONTROLS[NAMES.index(name)]
    if name in LEVELS:
        most, given = most_levels(shape), isinstance(value, (int, float))
        whole = name == "prompt_codebooks" and given and value >= most_levels(before)  # all levels stay all levels
        moved = most if whole or (given and value > most) else None
        return {"maximum": most} if moved is None else {"maximum": most, "value": moved}
    return {"info": info_of(control, 1000 / shape.grid.tokens_per_second, shape.levels - shape.coarse)}


def whole_depth(values: Sequence[Any], levels: int) -> list[Any]:
    """The values of all controls, with a prompt as deep as the model has levels made what that is called: the default."""
    given = list(values)
    place = NAMES.index("prompt_codebooks")
    if isinstance(given[place], (int, float)) and given[place] >= levels:
        given[place] = DEFAULTS["prompt_codebooks"]
    return given


def read_request(values: Sequence[Any]) -> Request:
    """The values of all controls, in the order of `CONTROLS`, as what is asked for.

    Raises:
        ValueError: a value is out of its range; the sentence says which and what is allowed.
    """
    given = {control.name: _clean(control, value) for control, value in zip(CONTROLS, values, strict=True)}
    if not 1 <= given["takes"] <= MAX_TAKES:
        raise ValueError(f"Takes must lie in 1..{MAX_TAKES}, not {given['takes']}.")
    if not 0 <= given["seed"] <= MAX_SEED:
        raise ValueError(f"The seed must lie in 0..{MAX_SEED}, not {given['seed']}.")
    if given["bars"] not in BARS:
        raise ValueError(f"Whole bars must be one of {', '.join(BARS)}, not {given['bars']!r}.")
    prompt, sampling = (
        kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given}) for kind in (Prompt, Sampling)
    )
    bars = None if given["bars"] == "off" else int(given["bars"])
    return Request(prompt, sampling, given["takes"], given["seed"], bool(given["loop"]), bars)


def _clean(control: Control, value: Any) -> Any:
    """A browser sends 7 as 7.0, and an emptied number field as nothing."""
    if control.name in ("loop", "bars"):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{control.label} is empty: type a number or move its slider.")
    if control.name == "seed" or control.whole:
        if value != int(value):
            raise ValueError(f"{control.label} must be a whole number, not {value:g}.")
        return int(value)
    return float(value)
