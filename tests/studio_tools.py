"""What the studio's tests share: values of the controls, a short clip, beats that need no tracking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny import tiny_vampnet

from vampnet import beats
from vampnet.beats import make_grid
from vampnet.config import SAMPLE_RATE
from vampnet.studio.controls import DEFAULTS, NAMES
from vampnet.studio.handlers import Handlers

BEATS = make_grid([0.02, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], [0.02, 2.0], "librosa", "as in the music")


def values(**changes: Any) -> list[Any]:
    """The values of all controls, as a browser sends them, with a quick vamp as the plain one."""
    return [{**DEFAULTS, "steps": 2, "fine_steps": 1, "takes": 1, **changes}[name] for name in NAMES]


def know_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracking is tested elsewhere; with this it is instant."""
    monkeypatch.setattr(beats, "track", lambda signal, **options: BEATS)


def make_handlers(folder: Path) -> Handlers:
    """Handlers with the tiny model, and a folder of examples with one sound and one text in it."""
    soundfile.write(folder / "slow_waltz.wav", 0.3 * np.sin(np.arange(44100) / 20), SAMPLE_RATE)
    (folder / "readme.txt").write_text("not a sound")
    return Handlers(tiny_vampnet(), folder)


def short_clip(path: Path, seconds: float = 0.5) -> Path:
    """Stereo noise at `path`."""
    noise = np.random.default_rng(1).normal(size=(round(seconds * SAMPLE_RATE), 2))
    soundfile.write(path, 0.1 * noise, SAMPLE_RATE, subtype="PCM_16")
    return path
