"""A small synthesizer of our own: wavetables with envelopes, and drums of noise and falling sines. Needs no SoundFont."""

from __future__ import annotations

import functools

import numpy as np

from vampnet.train.instruments import CLAP, CRASH, HAND, KICK, OPEN, RIDE, SNARE, SUSTAINED, TOMS
from vampnet.train.player import BLOCK, SAMPLE_RATE, pitch_curve
from vampnet.train.score import Track

TABLE = 2048


def wavetable(rng: np.random.Generator, harmonics: int, kind: int, slope: float) -> np.ndarray:
    """One period of a waveform with that many harmonics, float32 (2049,), peak 1: saw, square, organ, bell-like or random."""
    k = np.arange(1, harmonics + 1)
    amplitude = k**-slope
    if kind == 1:
        amplitude = amplitude * (k % 2)
    elif kind == 2:
        amplitude = np.isin(k, (1, 2, 3, 4, 6, 8)) * rng.uniform(0.2, 1, harmonics)
    elif kind >= 3:
        amplitude = amplitude * rng.uniform(0, 1, harmonics) ** 2
        amplitude[0] = 1.0
    table = amplitude @ np.sin(2 * np.pi * np.outer(k, np.arange(TABLE + 1) / TABLE) + rng.uniform(0, 0.5, (harmonics, 1)))
    return (table / np.abs(table).max()).astype(np.float32)


def _read(table: np.ndarray, phase: np.ndarray) -> np.ndarray:
    return table[(phase * TABLE).astype(np.int64) & (TABLE - 1)]


def render_pitched(track: Track, samples: int, tuning: float, rng: np.random.Generator) -> np.ndarray:
    """Render a pitched track to float32 (2, samples); the timbre is drawn from rng."""
    kind, slope, detune = int(rng.integers(5)), rng.uniform(0.9, 2.2), rng.uniform(0, 0.006) * (rng.random() < 0.5)
    held = track.program in SUSTAINED
    attack = rng.uniform(0.005, 0.15) if held else rng.uniform(0.001, 0.01)
    decay, release = rng.uniform(0.15, 1.5), rng.uniform(0.03, 0.35)
    curve = pitch_curve(track, samples, rng)
    tables: dict[int, np.ndarray] = {}
    out = np.zeros((2, samples), np.float32)
    for note in track.notes:
        start = int(note.start * SAMPLE_RATE)
        length = min(int((note.length + release) * SAMPLE_RATE), samples - start)
        if length <= 0:
            continue
        hertz = 440.0 * 2 ** ((note.pitch - 69 + tuning / 100) / 12)
        band = int(np.clip(9000 / hertz, 1, 48))
        table = tables.setdefault(band, wavetable(np.random.default_rng(kind), band, kind, slope))
        time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
        cycles = hertz * time.astype(np.float64)
        if curve is not None:
            ratio = 2 ** (np.interp(start + np.arange(0, length, 64), np.arange(len(curve)) * BLOCK, curve) / 1200)
            cycles = np.interp(np.arange(length), np.arange(0, length, 64), np.cumsum(ratio) * 64 * hertz / SAMPLE_RATE)
        body = np.minimum(time / attack, 1) * (1 if held else np.exp(-time / decay))
        body = body * np.clip((note.length + release - time) / release, 0, 1) * (note.velocity / 127) ** 1.5
        out[0, start : start + length] += _read(table, cycles * (1 - detune)) * body
        out[1, start : start + length] += _read(table, cycles * (1 + detune)) * body
    return out


@functools.lru_cache(maxsize=256)
def drum_hit(key: int, kit: int) -> np.ndarray:
    """One hit of a General MIDI drum key, float32 (N,), different for each kit 0..127."""
    rng = np.random.default_rng([key, kit])
    tonal = key in (KICK, 35, *TOMS, *HAND)
    long = key in (OPEN, CRASH, RIDE, 57, 59)
    seconds = rng.uniform(0.15, 0.5) if tonal else rng.uniform(0.5, 1.5) if long else rng.uniform(0.04, 0.25)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = np.exp(-time * 6 / seconds)
    noise = rng.normal(0, 0.4, len(time))
    if tonal:
        base = rng.uniform(42, 60) if key in (KICK, 35) else 70 + (key - 41) * rng.uniform(8, 14)
        cycles = base * time + base * rng.uniform(0.5, 3) * 0.03 * (1 - np.exp(-time / 0.03))
        return (envelope * (np.sin(2 * np.pi * cycles) + 0.1 * noise * np.exp(-time * 200))).astype(np.float32)
    if key in (SNARE, 40, CLAP):
        return (envelope * (noise + 0.5 * np.sin(2 * np.pi * rng.uniform(160, 240) * time))).astype(np.float32)
    bright = np.diff(np.diff(noise, prepend=0), prepend=0)
    ring = sum(np.sign(np.sin(2 * np.pi * f * time)) for f in rng.uniform(2000, 9000, 4)) * 0.05
    return (envelope * (0.5 * bright + ring)).astype(np.float32)


def render_drums(track: Track, samples: int) -> np.ndarray:
    """Render a drum track to float32 (2, samples)."""
    out = np.zeros(samples, np.float32)
    for note in track.notes:
        start = int(note.start * SAMPLE_RATE)
        hit = drum_hit(note.pitch, track.program)[: max(0, samples - start)]
        out[start : start + len(hit)] += hit * np.float32((note.velocity / 127) ** 1.5)
    return np.stack([out, out])


def render_tones(track: Track, samples: int, tuning: float, rng: np.random.Generator) -> np.ndarray:
    """Render any track of notes to float32 (2, samples) without a SoundFont. tuning in cents."""
    return render_drums(track, samples) if track.drums else render_pitched(track, samples, tuning, rng)
