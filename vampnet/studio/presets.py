"""Starting points from faithful to free: a plain name, one sentence, and what they set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vampnet.config import N_COARSE
from vampnet.studio.controls import CONTROLS, DEFAULTS

TOUCHED = tuple(
    control.name for control in CONTROLS if control.group == "stays" or control.name in
    ("temperature", "prompt_codebooks", "periodic_width", "periodic_offset", "onset_width_ms", "dropout", "feedback")
)  # fmt: skip
"""The controls that a preset sets, always all of them, so that it means the same whatever came before."""


@dataclass(frozen=True)
class Preset:
    """A named starting point.

    Attributes:
        name: one to three plain words.
        sentence: what comes out, for a musician.
        changes: values of controls where they differ from the plain ones: nothing kept but what is named here.
    """

    name: str
    sentence: str
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The value of every control in `TOUCHED`."""
        return {name: self.changes.get(name, 0 if name == "periodic" else DEFAULTS[name]) for name in TOUCHED}


PRESETS: tuple[Preset, ...] = (
    Preset("Compress", "The same music: only its fine texture is played anew.", {"kept_codebooks": N_COARSE}),
    Preset("Tighten", "Close to the source, with small new turns.", {"periodic": 3}),
    Preset("Vary", "A variation: the gist stays, the details change.", {"periodic": 7}),
    Preset("Follow the beat", "The hits on the beat stay, all between them is new.", {"beat_width_ms": 75.0}),
    Preset("Loosen", "A free variation that still remembers the source.", {"periodic": 16}),
    Preset("Dream", "Hardly a trace of the source: the model plays on its own.", {"periodic": 48, "temperature": 1.1}),
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
    for preset in PRESETS:
        if all(abs(values[name] - wanted) < 1e-9 for name, wanted in preset.values.items()):
            return preset.name
    return None
