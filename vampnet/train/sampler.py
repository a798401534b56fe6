"""One-shots and loops of a folder: finding them, and playing kits, pitched samples, loops and beds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vampnet.audio import SUFFIXES
from vampnet.train.score import Track

SAMPLE_RATE = 44_100
HELD_OUT_SAMPLES = frozenset({"loop_tabla", "loop_mika", "loop_garzul"})
"""Loops that are never used for training: the evaluation needs real music that no model has seen."""


def find_samples(folder: str | Path) -> dict[str, tuple[Path, ...]]:
    """Sample files of a folder by kind (the name up to the first underscore), sorted; held-out ones are left out."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() in SUFFIXES and path.stem not in HELD_OUT_SAMPLES:
            kinds.setdefault(path.stem.split("_")[0], []).append(path)
    return {kind: tuple(paths) for kind, paths in sorted(kinds.items())}


def speed_change(sound: np.ndarray, ratio: float) -> np.ndarray:
    """Play (2, N) faster by `ratio`, so that pitch rises with it; float32 (2, N / ratio), linear interpolation."""
    if abs(ratio - 1) < 1e-6:
        return sound
    if ratio > 1.2:
        # A two-point average keeps the worst of the aliasing out.
        sound = 0.5 * (sound + np.concatenate([sound[:, :1], sound[:, :-1]], axis=1))
    places = np.arange(0, sound.shape[1] - 1, ratio)
    grid = np.arange(sound.shape[1])
    return np.stack([np.interp(places, grid, channel) for channel in sound]).astype(np.float32)


class Sampler:
    """Plays sample tracks; files are read once and kept."""

    def __init__(self, folder: str | Path) -> None:
        """folder: where the samples lie."""
        found = find_samples(folder)
        self.names = {kind: tuple(p.stem for p in paths) for kind, paths in found.items()}
        self.paths = {p.stem: p for paths in found.values() for p in paths}
        self.sounds: dict[str, np.ndarray] = {}

    def sound(self, name: str) -> np.ndarray:
        """A sample as float32 (2, N) at 44.1 kHz, peak at most 1. Raises ValueError for a file that is not audio."""
        if name not in self.sounds:
            import soundfile

            try:
                data, rate = soundfile.read(self.paths[name], dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise ValueError(f"{self.paths[name]} cannot be read as audio; remove it from the samples folder.") from error
            data = np.ascontiguousarray(np.broadcast_to(data.T[:2], (2, len(data))))
            data = speed_change(data, rate / SAMPLE_RATE)
            self.sounds[name] = data / max(1e-3, float(np.abs(data).max()))
        return self.sounds[name]

    def render(self, track: Track, samples: int, tuning: float, rng: np.random.Generator) -> np.ndarray:
        """Render a track of source "kit", "pitched", "loop" or "bed" to float32 (2, samples). tuning in cents."""
        out = np.zeros((2, samples), np.float32)
        if track.source == "loop":
            self._loop(track, out)
            return out
        files = dict(track.samples)
        shift = {key: 2 ** (rng.normal(0, 1.5) / 12) if rng.random() < 0.5 else 1.0 for key in files}
        ready: dict[tuple[int, int], np.ndarray] = {}
        for note in track.notes:
            key = next(iter(files)) if track.source != "kit" else note.pitch
            if key not in files:
                continue
            if (key, note.pitch) not in ready:
                ratio = shift[key] if track.source == "kit" else 2 ** ((note.pitch - key + tuning / 100) / 12)
                ready[key, note.pitch] = speed_change(self.sound(files[key]), ratio)
            hit = ready[key, note.pitch]
            if track.source != "kit":
                hit = hit[:, : int(note.length * SAMPLE_RATE)].copy()
                fade = min(hit.shape[1], 1500 if track.source == "pitched" else 22_050)
                hit[:, hit.shape[1] - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
            start = int(note.start * SAMPLE_RATE)
            hit = hit[:, : max(0, samples - start)]
            out[:, start : start + hit.shape[1]] += hit * np.float32((note.velocity / 127) ** 1.4)
        return out

    def _loop(self, track: Track, out: np.ndarray) -> None:
        beat_us, name = track.samples[0]
        sound, note = self.sound(name), track.notes[0]
        beat = beat_us / 1e6 * SAMPLE_RATE
        # The number of beats that needs the least change of speed; an octave of speed change is too much to sound right.
        beats = min((1, 2, 3, 4, 6, 8, 12, 16, 24, 32), key=lambda b: abs(np.log(sound.shape[1] / (b * beat))))
        ratio = sound.shape[1] / (beats * beat) * 2 ** (round((note.pitch - 60) / 12))
        cycle = speed_change(sound, ratio)
        start, end = int(note.start * SAMPLE_RATE), min(out.shape[1], int((note.start + note.length) * SAMPLE_RATE))
        index = np.arange(max(0, end - start)) % cycle.shape[1]
        out[:, start:end] = cycle[:, index]
