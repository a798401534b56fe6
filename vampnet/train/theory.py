"""Scales, metres, chord progressions and voice leading."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 9, 11),
    "double harmonic": (0, 1, 4, 5, 7, 8, 11),
    "phrygian dominant": (0, 1, 4, 5, 7, 8, 10),
}
MELODY_SUBSETS: dict[str, tuple[int, ...]] = {"major pentatonic": (0, 1, 2, 4, 5), "minor pentatonic": (0, 2, 3, 4, 6)}
"""Scale degrees (of a seven-note scale) that a pentatonic melody keeps."""

METRES: dict[tuple[int, int], tuple[tuple[int, ...], ...]] = {
    (4, 4): ((4, 4, 4, 4),),
    (3, 4): ((4, 4, 4),),
    (6, 8): ((6, 6),),
    (5, 4): ((4, 4, 4, 4, 4), (6, 6, 4, 4)),
    (7, 8): ((4, 4, 6), (6, 4, 4)),
}
"""Groups of sixteenths that make up one bar."""

PROGRESSIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "bright": (
        (0, 4, 5, 3),
        (0, 5, 3, 4),
        (5, 3, 0, 4),
        (0, 3, 4, 3),
        (0, 3, 0, 4),
        (0, 2, 3, 4),
        (1, 4, 0, 0),
        (0, 5, 1, 4),
        (0, 4, 5, 2, 3, 0, 3, 4),
        (3, 4, 2, 5),
        (0, 0, 3, 3, 4, 3, 0, 4),
        (0, 1, 3, 0),
        (3, 0, 4, 5),
        (1, 4, 0, 5),
    ),
    "dark": (
        (0, 5, 2, 6),
        (0, 6, 5, 4),
        (0, 3, 4, 0),
        (0, 5, 3, 4),
        (0, 2, 6, 3),
        (0, 3, 0, 4),
        (5, 6, 0, 0),
        (0, 4, 0, 3),
        (0, 0, 5, 6),
        (0, 6, 5, 6),
        (1, 4, 0, 0),
        (0, 3, 6, 2, 5, 1, 4, 0),
        (0, 2, 3, 5),
    ),
    "modal": ((0, 0, 1, 0), (0, 6, 0, 6), (0, 1), (0, 3), (0, 0, 0, 0), (0, 6, 3, 0), (0, 0, 3, 0), (0, 1, 2, 1)),
    "blues": ((0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4), (0, 3, 0, 0, 3, 3, 0, 5, 1, 4, 0, 4)),
    "jazz": ((1, 4, 0, 5), (2, 5, 1, 4), (0, 5, 1, 4), (1, 4, 0, 0, 3, 6, 2, 5), (0, 3, 2, 5, 1, 4, 0, 0)),
}

MARKOV = {0: (3, 4, 5, 1, 2), 1: (4, 4, 6), 2: (5, 3), 3: (4, 0, 1), 4: (0, 0, 5, 3), 5: (3, 1, 4), 6: (0, 2)}


@dataclass(frozen=True)
class Chord:
    """A chord: pitch class of its root and the pitch classes of all its notes, root first."""

    root: int
    tones: tuple[int, ...]


def build_chord(key: int, scale: tuple[int, ...], degree: int, size: int) -> Chord:
    """Stack `size` thirds (3 = triad, 4 = seventh, 5 = ninth) on a degree 0..6 of a seven-note scale."""
    tones = tuple((key + scale[(degree + 2 * i) % 7]) % 12 for i in range(size))
    return Chord(tones[0], tones)


def progression(rng: np.random.Generator, kind: str, key: int, scale: tuple[int, ...], size: int) -> list[Chord]:
    """Draw a progression of 2 to 12 chords, one per bar; sometimes walked, sometimes with secondary dominants."""
    if kind != "blues" and rng.random() < 0.25:
        degrees = [0]
        for _ in range(int(rng.choice([3, 3, 7]))):
            degrees.append(int(rng.choice(MARKOV[degrees[-1]])))
    else:
        pool = PROGRESSIONS[kind]
        degrees = list(pool[rng.integers(len(pool))])
    chords = []
    for i, degree in enumerate(degrees):
        chord = build_chord(key, scale, degree, size)
        if kind == "blues":
            chord = Chord(chord.root, tuple((chord.root + s) % 12 for s in (0, 4, 7, 10)))
        elif kind in ("bright", "jazz", "dark") and rng.random() < 0.07:
            target = (key + scale[degrees[(i + 1) % len(degrees)]]) % 12
            root = (target + 7) % 12
            chord = Chord(root, tuple((root + s) % 12 for s in (0, 4, 7, 10)))
        elif rng.random() < 0.06:
            chord = Chord(chord.root, tuple((chord.root + s) % 12 for s in (0, 5, 7)))
        chords.append(chord)
    return chords


def voicings(chord: Chord, voices: int, low: int, high: int) -> list[tuple[int, ...]]:
    """All close and open voicings of a chord with that many voices between two MIDI pitches, ascending."""
    tones = list(dict.fromkeys(chord.tones))
    if len(tones) > voices:
        # The fifth is the note that a chord can do without.
        tones = [t for i, t in enumerate(tones) if i != 2][:voices]
    result = []
    for spread in (1, 2):
        for start in range(low, max(low + 1, high - 8)):
            if start % 12 not in tones:
                continue
            notes, pitch, index = [start], start, tones.index(start % 12)
            while len(notes) < voices:
                index = (index + spread) % len(tones) if len(tones) > 1 else 0
                pitch += (tones[index] - pitch) % 12 or 12
                notes.append(pitch)
            if notes[-1] <= high and len({n % 12 for n in notes}) >= min(len(tones), voices):
                result.append(tuple(notes))
    if result:
        return result
    ladder = [p for p in range(low, low + 13) if p % 12 in tones]
    return [tuple(ladder[:voices])]


def lead_voices(chords: list[Chord], voices: int, low: int, high: int) -> list[tuple[int, ...]]:
    """Voice a progression with the least movement from chord to chord, between two MIDI pitches."""
    result: list[tuple[int, ...]] = []
    target = (low + high) / 2
    for chord in chords:
        options = voicings(chord, voices, low, high)
        if result:
            last = result[-1]
            # The pull to the middle keeps long progressions from drifting out of the register.
            best = min(
                options,
                key=lambda v: sum(abs(a - b) for a, b in zip(v, last, strict=False)) + 0.3 * abs(sum(v) / len(v) - target),
            )
        else:
            best = min(options, key=lambda v: abs(sum(v) / len(v) - target))
        result.append(best)
    return result


def ladder(key: int, scale: tuple[int, ...], low: int, high: int) -> list[int]:
    """All MIDI pitches of a scale between two pitches, ascending."""
    allowed = {(key + s) % 12 for s in scale}
    return [p for p in range(low, high + 1) if p % 12 in allowed]
