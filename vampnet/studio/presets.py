"""Starting points: a plain name, one sentence, and what they set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vampnet.config import N_COARSE
from vampnet.studio.controls import CONTROLS, DEFAULTS
from vampnet.studio.text import say

TOUCHED = tuple(
    control.name for control in CONTROLS if control.group == "stays" or control.name in
    ("temperature", "prompt_codebooks", "periodic_width", "periodic_offset", "periodic_jitter", "onset_width_ms", "dropout",
     "feedback", "extend_before", "extend_after")
)  # fmt: skip
"""The controls that a preset sets, always all of them, so that it means the same whatever came before."""


@dataclass(frozen=True)
class Preset:
    """A named starting point. Its texts are the sentences "map.preset.<key>" and "map.preset.<key>.info".

    Attributes:
        key: of its texts.
        changes: values of controls where they differ from the plain ones: nothing kept but what is named here.
    """

    key: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In English: one to three plain words, and what the page knows it by."""
        return say(f"map.preset.{self.key}")

    @property
    def values(self) -> dict[str, Any]:
        """The value of every control in `TOUCHED`."""
        return {name: self.changes.get(name, 0 if name == "periodic" else DEFAULTS[name]) for name in TOUCHED}


PRESETS: tuple[Preset, ...] = (
    Preset("compress", {"kept_codebooks": N_COARSE}),
    Preset("tighten", {"periodic": 3}),
    Preset("vary", {"periodic": 7}),
    Preset("beat", {"beat_width_ms": 75.0}),
    Preset("transform", {"kept_codebooks": 1}),
    # All of the clip is the context, however long it is; a context in seconds would remake the rest of a longer one.
    Preset("continue", {"periodic": 1, "extend_after": 4.0}),
    Preset("middle", {"prefix_seconds": 1.0, "suffix_seconds": 1.0}),
    Preset("dream", {"periodic": 48, "temperature": 1.1}),
)


def find(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    for preset in PRESETS:
        if preset.name == name:
            return preset
    raise ValueError(f"There is no preset '{name}': choose one of {', '.join(preset.name for preset in PRESETS)}.")


def matching(values: dict[str, Any]) -> str | None:
    """Name of the preset that the controls stand at, None where they stand at none.

    Args:
        values: of all controls by name.
    """
    preset = matching_preset(values)
    return None if preset is None else preset.name


def matching_preset(values: dict[str, Any]) -> Preset | None:
    """That preset itself."""
    for preset in PRESETS:
        if all(abs(values[name] - wanted) < 1e-9 for name, wanted in preset.values.items()):
            return preset
    return None
