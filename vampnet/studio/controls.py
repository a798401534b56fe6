"""The controls of the page: one table from which the sliders are laid out and from which a `Request` is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from vampnet.config import BEFORE, CODEBOOK_SIZE, HOP, MOST, N_COARSE, N_CODEBOOKS, SAMPLE_RATE, TUNED, Prompt, Sampling
from vampnet.studio.paint import Paint, paint_of, read_paint
from vampnet.studio.text import DEFAULT, say, worded

if TYPE_CHECKING:
    from torch import Tensor

    from vampnet.studio.shelf import Shape

MAX_TAKES = 8
MAX_SEED = MOST
COSTLY = ("steps", "fine_steps", "feedback")
"""The controls that a vamp takes longer with: nobody may hold the models with more of these than the page offers."""
BARS = ("off", "1", "2", "4", "8")


@dataclass(frozen=True)
class Control:
    """One control. Its texts are the sentences "map.<name>" (the field's term, with its unit) and "map.<name>.info".

    Attributes:
        name: of the field of `Prompt`, `Sampling` or `Request` that it sets.
        group: where it stands on the page: "stays", "filled", "length", "takes", "more", or "map" for what is drawn on the map.
        low, high, step: range of a slider; all others have no `step`.
    """

    name: str
    group: str
    low: float = 0
    high: float = 1
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.step is not None and float(self.step).is_integer() and not isinstance(DEFAULTS[self.name], float)

    @property
    def label(self) -> str:
        """In English."""
        return say(f"map.{self.name}")


@dataclass(frozen=True)
class Request:
    """What a vamp is asked for: what stays, how the rest is filled, and of what.

    Attributes:
        takes: 1 to 8.
        seed: take i depends on (seed, i) alone.
        loop: the clip is a ring: its end flows into its beginning.
        bars: cut to so many whole bars first; None = the whole clip.
        extend: seconds (before, after) that are added to it then.
        paint: what was painted over the mask of the prompt; None where nothing was.
    """

    prompt: Prompt
    sampling: Sampling
    takes: int = 4
    seed: int = 0
    loop: bool = False
    bars: int | None = None
    extend: tuple[float, float] = (0.0, 0.0)
    paint: Paint | None = None


def _defaults() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for options in (Prompt(), Sampling()):
        values.update({field.name: getattr(options, field.name) for field in fields(options)})
    # A first page is about loops: nobody who brings one wants a click at its end.
    rest = {"takes": 4, "seed": 0, "loop": True, "bars": "off", "extend_before": 0.0, "extend_after": 0.0, "paint": None}
    return {**values, **rest}


DEFAULTS = _defaults()


CONTROLS: tuple[Control, ...] = (
    Control("periodic", "stays", 0, 64, 1),
    Control("kept_codebooks", "stays", 0, N_CODEBOOKS, 1),
    Control("beat_width_ms", "stays", 0, 400, 5),
    Control("prefix_seconds", "stays", 0, 10, 0.1),
    Control("suffix_seconds", "stays", 0, 10, 0.1),
    Control("steps", "filled", 1, 72, 1),
    Control("temperature", "filled", 0, 2, 0.05),
    Control("mask_temperature", "filled", 0, 30, 0.5),
    Control("loop", "length"),
    Control("bars", "length"),
    Control("extend_before", "length", 0, 16, 0.1),
    Control("extend_after", "length", 0, 16, 0.1),
    Control("takes", "takes", 1, MAX_TAKES, 1),
    Control("seed", "takes", 0, MAX_SEED),
    Control("prompt_codebooks", "more", 1, N_CODEBOOKS, 1),
    Control("periodic_width", "more", 1, 16, 1),
    Control("periodic_offset", "more", 0, 64, 1),
    Control("periodic_jitter", "more", 0, 16, 1),
    Control("onset_width_ms", "more", 0, 400, 5),
    Control("dropout", "more", 0, 1, 0.05),
    Control("original_sound", "more"),
    Control("guidance", "more", 0, 2, 0.05),
    Control("palette", "more", 0, 2, 0.05),
    Control("recall", "more", 0, 2, 0.05),
    Control("balance", "more", 0, 1, 0.05),
    Control("top_p", "more", 0.05, 1, 0.05),
    Control("top_k", "more", 0, CODEBOOK_SIZE, 1),
    Control("typical_mass", "more", 0.05, 1, 0.05),
    Control("sample_cutoff", "more", 0, 1, 0.05),
    Control("fine_steps", "more", 1, 24, 1),
    Control("feedback", "more", 1, 8, 1),
    Control("region", "map"),
    Control("paint", "map"),
)
NAMES = tuple(control.name for control in CONTROLS)
LEVELS = ("kept_codebooks", "prompt_codebooks")
"""The controls that count codebook levels."""
FOLLOWERS = ("periodic", "fine_steps", *LEVELS, *TUNED)
"""The controls that say something about the model, or have a default of its own, and change with it."""
READ = (*LEVELS, *TUNED)
"""Those of them that change by the value that they have."""


def info_of(
    name: str, step_ms: float = 1000 * HOP / SAMPLE_RATE, fine: int = N_CODEBOOKS - N_COARSE, language: str = DEFAULT
) -> str:
    """The line of a control for a model with time steps of `step_ms` and `fine` fine levels; at first, for the paper's."""
    return say(f"map.{name}.info", language, ms=f"{step_ms:.0f}", fine=fine)


def most_levels(shape: Shape) -> int:
    """Where the sliders of `LEVELS` end: no more than `Prompt` can ask for, and a slider needs two ends."""
    return max(2, min(shape.levels, N_CODEBOOKS))


def capped(name: str, value: Any, shape: Shape) -> Any:
    """The value of a control, no larger than a model of this shape has levels where it counts them: sliders refuse more."""
    return min(value, most_levels(shape)) if name in LEVELS else value


def follow(name: str, shape: Shape, before: Shape, value: Any = None, language: str = DEFAULT) -> dict[str, Any]:
    """What changes of a control in `FOLLOWERS` with a model: arguments of `gr.update`.

    Args:
        name: of the control.
        shape: of the model.
        before: of the model that the page had before.
        value: of a control in `READ`.
        language: of the visitor.
    """
    if name in LEVELS:
        most, given = most_levels(shape), isinstance(value, (int, float))
        whole = name == "prompt_codebooks" and given and value >= most_levels(before)  # all levels stay all levels
        moved = most if whole or (given and value > most) else None
        return {"maximum": most} if moved is None else {"maximum": most, "value": moved}
    if name in TUNED:
        # Where it stood at the default it goes on doing so; what somebody has chosen stays.
        left, wanted = getattr(before.sampling, name), getattr(shape.sampling, name)
        return {"value": wanted} if value == left != wanted else {}
    return {"info": info_of(name, 1000 / shape.grid.tokens_per_second, shape.levels - shape.coarse, language)}


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
        raise ValueError(worded("map.wrong.takes", most=MAX_TAKES, given=given["takes"]))
    if not 0 <= given["seed"] <= MAX_SEED:
        raise ValueError(worded("map.wrong.seed", most=MAX_SEED, given=given["seed"]))
    if given["bars"] not in BARS:
        raise ValueError(worded("map.wrong.bars", known=", ".join(BARS), given=given["bars"]))
    prompt, sampling = (
        kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given}) for kind in (Prompt, Sampling)
    )
    bars = None if given["bars"] == "off" else int(given["bars"])
    extend = given["extend_before"], given["extend_after"]
    return Request(prompt, sampling, given["takes"], given["seed"], bool(given["loop"]), bars, extend, given["paint"])


def values_of(request: Request) -> dict[str, Any]:
    """The values of all controls by name that `read_request` makes this request of."""
    region, paint = request.prompt.region, request.paint
    found = {
        **vars(request.prompt), **vars(request.sampling), "takes": request.takes, "seed": request.seed, "loop": request.loop,
        "bars": "off" if request.bars is None else str(request.bars), "extend_before": request.extend[0],
        "extend_after": request.extend[1], "region": None if region is None else list(region),
        "paint": None if paint is None else paint.value(),
    }  # fmt: skip
    return {name: found[name] for name in NAMES}


def restore(settings: dict[str, Any], mask: Tensor | None = None) -> dict[str, Any]:
    """The values of all controls by name for the settings of a vamp (`Vamp.settings`, checked as those of `bundle`).

    Args:
        mask: (1, K, T) bool, of the vamp: needed where the settings say that it was painted.

    Raises:
        ValueError: settings that the page has no controls for.
    """
    try:
        given = {**BEFORE["prompt"], **settings["prompt"], **BEFORE["sampling"], **settings["sampling"]}
        bars, extend = settings.get("bars"), settings.get("extend") or (0.0, 0.0)
        given.update(
            takes=min(settings["takes"], MAX_TAKES), seed=settings["seed"], loop=settings["loop"], extend_before=extend[0],
            extend_after=extend[1], bars="off" if bars is None else str(bars),
            paint=paint_of(mask).value() if settings.get("painted") and mask is not None else None,
        )  # fmt: skip
        values = {name: given.get(name, DEFAULTS[name]) for name in NAMES}
        values.update({control.name: min(values[control.name], control.high) for control in CONTROLS if control.name in COSTLY})
        return values_of(read_request([values[name] for name in NAMES]))
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(worded("map.wrong.settings")) from error


def _clean(control: Control, value: Any) -> Any:
    """A browser sends 7 as 7.0, and an emptied number field as nothing."""
    if control.name in ("loop", "bars", "original_sound"):
        return value
    if control.name == "paint":
        return read_paint(value)
    if control.name == "region":
        return _read_region(value)
    name = worded(f"map.{control.name}")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < math.inf:
        raise ValueError(worded("map.wrong.empty", control=name))
    if control.name == "seed" or control.whole:
        if value != int(value):
            raise ValueError(worded("map.wrong.whole", control=name, value=value))
        if control.name in COSTLY and value > control.high:
            raise ValueError(worded("map.wrong.range", control=name, low=control.low, high=control.high, value=value))
        return int(value)
    return float(value)


def _read_region(value: Any) -> tuple[float, float] | None:
    """Start and end in seconds, or None; `Prompt` says what is wrong with other numbers."""
    if value in (None, "", []):
        return None
    numbers = isinstance(value, (list, tuple)) and len(value) == 2
    if not numbers or any(isinstance(part, bool) or not isinstance(part, (int, float)) for part in value):
        raise ValueError(worded("map.wrong.region"))
    return float(value[0]), float(value[1])
