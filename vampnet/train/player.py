"""Plays one track through a SoundFont, with vibrato, drift and slides as pitch bend."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vampnet.train.score import Note, Track

SAMPLE_RATE = 44_100
BLOCK = 512
"""Samples between two pitch bends: 11.6 ms."""

BEND_RANGE = 4.0
"""Semitones of full pitch bend."""


def pitch_curve(track: Track, samples: int, rng: np.random.Generator) -> np.ndarray | None:
    """Pitch movement of a track in cents, one value per BLOCK samples (float64); None when it stands still."""
    if not (track.vibrato_cents or track.drift_cents or track.scoop):
        return None
    blocks = samples // BLOCK + 1
    times = np.arange(blocks) * BLOCK / SAMPLE_RATE
    starts = np.array([n.start for n in track.notes])
    index = np.maximum(np.searchsorted(starts, times, side="right") - 1, 0)
    age = np.maximum(times - starts[index], 0.0)
    # Vibrato fades in after the attack, and its rate is never quite steady.
    onset, rise = rng.uniform(0.05, 0.35), rng.uniform(0.1, 0.5)
    wobble = np.cumsum(rng.normal(0, 0.02, blocks))
    phase = 2 * np.pi * track.vibrato_hz * times + wobble
    cents = track.vibrato_cents * np.clip((age - onset) / rise, 0, 1) * np.sin(phase)
    if track.drift_cents:
        slow = np.interp(times, np.arange(0, times[-1] + 1, 0.4), rng.normal(0, 1, len(np.arange(0, times[-1] + 1, 0.4))))
        cents = cents + track.drift_cents * slow
    if track.scoop:
        depth = np.where(rng.random(len(starts)) < track.scoop, rng.uniform(-250, -40, len(starts)), 0.0)
        cents = cents + depth[index] * np.exp(-age / rng.uniform(0.02, 0.09))
    return np.clip(cents, -100 * BEND_RANGE, 100 * BEND_RANGE)


def note_events(notes: tuple[Note, ...], samples: int) -> list[tuple[int, int, int, int]]:
    """Notes as sorted events (sample, kind, pitch, velocity), kind 0 = off and 1 = on.

    A note ends before its pitch is struck again."""
    following: dict[int, int] = {}
    events = []
    for note in reversed(notes):
        start = int(note.start * SAMPLE_RATE)
        end = min(start + max(1, int(note.length * SAMPLE_RATE)), following.get(note.pitch, samples))
        following[note.pitch] = start
        if start < samples and end > start:
            events.append((start, 1, note.pitch, note.velocity))
            events.append((end, 0, note.pitch, 0))
    return sorted(events)


class SoundFontPlayer:
    """One SoundFont, loaded once; silent and reset between tracks, so that a track always sounds the same."""

    def __init__(self, path: str | Path) -> None:
        """Load a SoundFont file (.sf2, .sf3). Raises ModuleNotFoundError without tinysoundfont, ValueError for a bad file."""
        try:
            import tinysoundfont
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'Install the SoundFont player with "pip install tinysoundfont", or give no SoundFont.'
            ) from error
        self.synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE)
        try:
            self.font = self.synth.sfload(str(path), gain=-12.0, max_voices=96)
        except Exception as error:
            raise ValueError(f"{path} cannot be read as a SoundFont; give a .sf2 or .sf3 file.") from error

    def render(self, track: Track, samples: int, tuning: float, rng: np.random.Generator) -> np.ndarray | None:
        """Render a track to float32 (2, samples). tuning in cents. None when the SoundFont lacks the instrument."""
        synth, channel = self.synth, 9 if track.drums else 0
        bank = 128 if track.drums else 0
        try:
            synth.program_select(channel, self.font, bank, track.program, track.drums)
        except RuntimeError:
            return None
        synth.set_tuning(channel, tuning / 100)
        synth.pitchbend_range(channel, BEND_RANGE)
        synth.pitchbend(channel, 8192)
        curve = None if track.drums else pitch_curve(track, samples, rng)
        events = note_events(track.notes, samples)
        if curve is not None:
            wheel = np.clip(8192 + curve / (100 * BEND_RANGE) * 8191, 0, 16383).astype(int)
            changed = np.flatnonzero(np.diff(wheel, prepend=8192))
            events = sorted(events + [(int(b) * BLOCK, -1, int(wheel[b]), 0) for b in changed if b * BLOCK < samples])
        buffer = np.zeros((samples, 2), np.float32)
        view = memoryview(buffer).cast("B")
        at = 0
        for sample, kind, value, velocity in events:
            if sample > at:
                synth.generate_simple(sample - at, view[at * 8 : sample * 8])
                at = sample
            if kind == 1:
                synth.noteon(channel, value, velocity)
            elif kind == 0:
                synth.noteoff(channel, value)
            else:
                synth.pitchbend(channel, value)
        if at < samples:
            synth.generate_simple(samples - at, view[at * 8 :])
        self._silence(channel)
        return np.ascontiguousarray(buffer.T)

    def _silence(self, channel: int) -> None:
        self.synth.sounds_off(channel)
        self.synth.pitchbend(channel, 8192)
        self.synth.set_tuning(channel, 0.0)
        # A voice counts as free once it has faded out; voices left over would change the order in which later ones are summed.
        for _ in range(200):
            if not np.frombuffer(self.synth.generate_simple(2048), np.float32).any():
                break
