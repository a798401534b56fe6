"""What a composed piece is made of: its style, notes, tracks and the settings of the mix. Plain data, no sound."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """One note: start and length in seconds, MIDI pitch (or General MIDI drum key) and velocity 1..127."""

    start: float
    length: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Track:
    """One part of a piece.

    source: "soundfont" (General MIDI `program`, or drum kit `program` when `drums`), "tones" (the built-in synthesizer),
    "kit" (drum one-shots), "pitched" (one sample, resampled to play the notes), "loop" (a sample loop stretched to the
    tempo), "bed" (a quiet layer of ambience). `samples` names the files of the last four.
    level is in dB against the other tracks, pan in -1..1, send (to the reverb) and drive in 0..1, tilt in dB,
    vibrato_cents and drift_cents the depths of pitch movement, vibrato_hz its rate, scoop the share of notes that
    slide in from below, chorus 0..1.
    """

    role: str
    source: str
    program: int
    drums: bool
    notes: tuple[Note, ...]
    samples: tuple[tuple[int, str], ...] = ()
    level: float = 0.0
    pan: float = 0.0
    send: float = 0.2
    drive: float = 0.0
    tilt: float = 0.0
    lowpass: float = 0.0
    chorus: float = 0.0
    vibrato_cents: float = 0.0
    vibrato_hz: float = 5.5
    drift_cents: float = 0.0
    scoop: float = 0.0


@dataclass(frozen=True)
class Mix:
    """Settings of the whole mix: reverb time in seconds and its brightness in Hz, equaliser in dB and Hz (0 = off),
    drive 0..1, noise floor in dB below the music (0 = none), stereo width 0..1 and the peak of the result."""

    reverb_seconds: float
    reverb_bright: float
    predelay: float
    tilt: float
    lowpass: float
    highpass: float
    bell_hz: float
    bell_db: float
    drive: float
    noise_db: float
    width: float
    peak: float


@dataclass(frozen=True)
class Piece:
    """A composed clip. tempo in quarter notes a minute; metre as (beats, unit); key as pitch class 0..11; tuning in
    cents; sections as (name, first bar, bars); lead_in is how many seconds of the start are not heard."""

    seed: int
    style: str
    ensemble: str
    tempo: float
    metre: tuple[int, int]
    key: int
    scale: str
    tuning: float
    seconds: float
    lead_in: float
    soundfont: int
    sections: tuple[tuple[str, int, int], ...]
    tracks: tuple[Track, ...]
    mix: Mix

    @property
    def beat(self) -> tuple[float, float] | None:
        """(first, gap) in seconds of what is heard: where its beats are, as people tap them; None in odd metres of eighths."""
        beats, unit = self.metre
        if unit == 8 and beats % 3:
            return None
        gap = 60 / self.tempo * (1.5 if unit == 8 else 4 / unit)
        return (-self.lead_in) % gap, gap


@dataclass(frozen=True)
class Style:
    """Ranges and choices a piece is drawn from. Swing is (unit in sixteenths, least, most share); grooves name drum
    patterns of `drums.py`; each of the families lists names General MIDI families of `instruments.py`."""

    tempo: tuple[int, int]
    metres: tuple[tuple[int, int], ...]
    swing: tuple[int, float, float]
    harmony: tuple[str, ...]
    scales: tuple[str, ...]
    grooves: tuple[str, ...]
    kits: tuple[int, ...]
    bass: tuple[str, ...]
    bass_lines: tuple[str, ...]
    comp: tuple[str, ...]
    comp_lines: tuple[str, ...]
    leads: tuple[str, ...]
    pads: tuple[str, ...]
    sizes: tuple[int, ...] = (3,)
    loose: float = 0.008
