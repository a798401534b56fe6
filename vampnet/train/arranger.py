"""Bass lines, accompaniments, pads and melodies over a chord progression; notes are in steps of a sixteenth."""

from __future__ import annotations

import numpy as np

from vampnet.train.drums import StepNote
from vampnet.train.theory import Chord, lead_voices

TRESILLO = (0, 3, 6, 8, 11, 14)
BOSSA = (0, 3, 6, 10, 13)
RHYTHMS = {"bossa": BOSSA, "tresillo": TRESILLO, "charleston": (0, 6), "montuno": (0, 3, 6, 7, 10, 11, 14)}


def syncopation(rng: np.random.Generator, steps: int, density: float) -> list[int]:
    """A rhythm of one bar: onsets in sixteenths, the first beat likelier, at least one."""
    weights = np.where(np.arange(steps) % 4 == 0, 1.3, np.where(np.arange(steps) % 2 == 0, 1.0, 0.45))
    onsets = [int(s) for s in np.flatnonzero(rng.random(steps) < density * weights)]
    return onsets or [0]


def nearest(pitch_class: int, around: float) -> int:
    """The MIDI pitch of a pitch class that is nearest to a given pitch."""
    return int(round((around - pitch_class) / 12.0)) * 12 + pitch_class


def group_starts(groups: tuple[int, ...]) -> list[int]:
    """Steps at which the groups of a bar begin."""
    return [int(s) for s in np.cumsum((0, *groups[:-1]))]


def bass_rhythm(rng: np.random.Generator, line: str, groups: tuple[int, ...], kicks: list[int]) -> list[int]:
    """Onsets of one bar of a bass line, in sixteenths."""
    steps, starts = sum(groups), group_starts(groups)
    if line == "eighths":
        return list(range(0, steps, 2))
    if line == "sixteenths":
        return [s for s in range(steps) if rng.random() < 0.8 or s == 0]
    if line == "walking":
        return starts if max(groups) <= 4 else list(range(0, steps, 4))
    if line == "offbeat":
        return list(range(2, steps, 4))
    if line == "octaves":
        return list(range(0, steps, 2))
    if line == "long":
        return [0] if rng.random() < 0.7 else [0, starts[len(starts) // 2]]
    if line == "kick" and kicks:
        return sorted(set(kicks) | {0})
    if line in RHYTHMS:
        return [s for s in RHYTHMS[line] if s < steps]
    if line == "dub":
        return sorted(set(syncopation(rng, steps, 0.25)) - ({0} if rng.random() < 0.4 else set())) or [4]
    if line == "funk":
        return sorted(set(syncopation(rng, steps, 0.4)) | {0})
    return starts[:: 1 if len(starts) < 4 else 2]


def bass_part(
    rng: np.random.Generator,
    line: str,
    chords: list[Chord],
    groups: tuple[int, ...],
    kicks: list[int],
    scale: list[int],
    low: int = 28,
) -> list[StepNote]:
    """A bass line over one chord a bar. scale: its pitch classes; low: the lowest MIDI pitch."""
    steps = sum(groups)
    around = low + 9.0
    rhythm = bass_rhythm(rng, line, groups, kicks)
    notes: list[StepNote] = []
    for bar, chord in enumerate(chords):
        if rng.random() < 0.2:
            rhythm = bass_rhythm(rng, line, groups, kicks)
        root = nearest(chord.root, around)
        root += 12 if root < low else 0
        following = nearest(chords[(bar + 1) % len(chords)].root, root)
        for i, step in enumerate(rhythm):
            gap = (rhythm[i + 1] if i + 1 < len(rhythm) else steps) - step
            pitch = root
            if line == "walking":
                if i == len(rhythm) - 1:
                    pitch = following + int(rng.choice([-1, 1, -2, 2]))
                elif i:
                    pitch = nearest(int(rng.choice(chord.tones if rng.random() < 0.6 else scale)), root + 4)
            elif line == "octaves":
                pitch = root + 12 * (i % 2)
            elif step and rng.random() < (0.45 if line in ("funk", "dub", "tresillo", "sixteenths") else 0.15):
                pitch = nearest(int(rng.choice([chord.root, *chord.tones[1:3], chord.root])), root + rng.choice([0, 5, 12]))
            length = gap if line in ("long", "walking", "root", "dub", "kick") else gap * rng.choice([0.5, 0.8, 0.95])
            notes.append(
                (
                    bar * steps + step,
                    max(0.6, 0.95 * length),
                    max(pitch, low),
                    int(96 + 14 * (step == 0) + rng.integers(-10, 8)),
                )
            )
    return notes


def comp_onsets(rng: np.random.Generator, line: str, groups: tuple[int, ...]) -> list[tuple[int, float]]:
    """Onsets and lengths, in sixteenths, of one bar of chords."""
    steps, starts = sum(groups), group_starts(groups)
    if line == "block":
        return [(0, steps * 0.97)] if rng.random() < 0.6 else [(s, g * 0.95) for s, g in zip(starts, groups, strict=True)][::2]
    if line in ("eighths", "power"):
        return [(s, 1.6) for s in range(0, steps, 2)]
    if line == "sixteenths":
        return [(s, 0.6) for s in range(steps) if rng.random() < 0.55]
    if line in ("offbeat", "skank"):
        return [(s, 1.0) for s in range(2 if line == "offbeat" else 4, steps, 4 if line == "offbeat" else 8)] or [(2, 1.0)]
    if line == "waltz":
        return [(s, 2.0) for s in starts[1:]]
    if line == "stabs":
        return [(s, 1.0) for s in syncopation(rng, steps, 0.22)]
    onsets = [s for s in RHYTHMS[line] if s < steps] if line in RHYTHMS else syncopation(rng, steps, 0.32)
    ends = [*onsets[1:], steps]
    short = rng.random() < 0.4
    return [(s, 1.2 if short else 0.9 * (e - s)) for s, e in zip(onsets, ends, strict=True)]


def comp_part(
    rng: np.random.Generator, line: str, chords: list[Chord], groups: tuple[int, ...], low: int, high: int
) -> list[StepNote]:
    """Chords or broken chords over one chord a bar, between two MIDI pitches, with voice leading."""
    steps = sum(groups)
    low, high = max(low, 45), max(min(high, 79), max(low, 45) + 19)
    voiced = lead_voices(chords, int(rng.choice([3, 3, 4])), low, high)
    if line == "power":
        voiced = [(nearest(c.root, 45), nearest(c.root, 45) + 7, nearest(c.root, 45) + 12) for c in chords]
    notes: list[StepNote] = []
    if line in ("arp", "alberti", "fastarp"):
        unit = 1 if line == "fastarp" else int(rng.choice([1, 2, 2])) if line == "arp" else 2
        order = rng.permutation(4) if rng.random() < 0.4 else np.array([0, 1, 2, 3] if rng.random() < 0.5 else [0, 2, 1, 2])
        hold = float(rng.choice([0.9, 1.0, 2.5, 4.0]))
        for bar, voicing in enumerate(voiced):
            tones = [*voicing, voicing[0] + 12]
            for i, s in enumerate(range(0, steps, unit)):
                up = i // 4 % 2 * (3 if line == "arp" and unit == 1 else 0)
                pitch = tones[int(order[(i + up) % 4]) % len(tones)]
                notes.append((bar * steps + s, unit * hold, pitch, int(72 + 14 * (s % 4 == 0) + rng.integers(-10, 10))))
        return notes
    pattern = comp_onsets(rng, line, groups)
    spread = float(rng.uniform(0.1, 0.35)) if line == "strum" else 0.0
    for bar, voicing in enumerate(voiced):
        if rng.random() < 0.2:
            pattern = comp_onsets(rng, line, groups)
        for i, (s, length) in enumerate(pattern):
            down = i % 2 == 0
            for j, pitch in enumerate(voicing if down else voicing[::-1]):
                velocity = int(78 + 12 * (s % 4 == 0) - 3 * j + rng.integers(-10, 10))
                notes.append((bar * steps + s + spread * j, max(0.5, length - spread * j), pitch, velocity))
    return notes


def pad_part(
    rng: np.random.Generator, chords: list[Chord], groups: tuple[int, ...], low: int, high: int, voices: int
) -> list[StepNote]:
    """Held chords; a voice that stays on its pitch is tied over the bar line."""
    steps = sum(groups)
    voiced = lead_voices(chords, voices, max(low, 43), max(min(high, 81), max(low, 43) + 19))
    notes: list[StepNote] = []
    for voice in range(min(len(v) for v in voiced)):
        start = 0
        for bar in range(len(voiced)):
            if bar + 1 == len(voiced) or voiced[bar + 1][voice] != voiced[bar][voice]:
                notes.append((start * steps, (bar + 1 - start) * steps * 0.99, voiced[bar][voice], int(rng.integers(58, 92))))
                start = bar + 1
    return notes


def motif_rhythm(rng: np.random.Generator, groups: tuple[int, ...], density: float) -> list[tuple[float, float]]:
    """One bar of melody rhythm: (onset, length) in sixteenths, with rests."""
    steps = sum(groups)
    lengths = np.array([1, 2, 3, 4, 6, 8, 4 / 3])
    weights = np.array([0.5 + 3 * max(0, density - 0.6), 3 * density, 1.0, 2.4 - density, 0.8, 1.2 - density, 0.12])
    weights = np.maximum(weights, 0.02) / np.maximum(weights, 0.02).sum()
    rest = 0.32 - 0.22 * density
    result, at = [], 0.0
    while at < steps - 0.5:
        length = float(rng.choice(lengths, p=weights))
        count = 3 if length < 2 and length != 1 else 1
        for _ in range(count):
            if at < steps - 0.5 and rng.random() >= rest:
                result.append((at, min(length, steps - at)))
            at += length
    return result or [(0.0, float(steps))]


def melody_part(
    rng: np.random.Generator, chords: list[Chord], groups: tuple[int, ...], pitches: list[int], density: float
) -> list[StepNote]:
    """A phrased melody: motifs that return with variation, steps more than leaps, chord tones on strong beats,
    a breath at the end of each phrase. pitches: the scale's MIDI pitches in the instrument's range, ascending."""
    steps, starts = sum(groups), set(group_starts(groups))
    motifs = [motif_rhythm(rng, groups, density) for _ in range(3)]
    form = [int(i) for i in rng.choice([0, 0, 1, 1, 2], 4)]
    moves = [
        [
            int(m)
            for m in rng.choice(
                [-3, -2, -1, -1, 0, 1, 1, 2, 3, 4, -4], 24, p=[0.05, 0.14, 0.22, 0.06, 0.07, 0.06, 0.22, 0.1, 0.04, 0.02, 0.02]
            )
        ]
        for _ in range(3)
    ]
    index = len(pitches) // 2
    loud, legato = rng.uniform(-6, 8), rng.uniform(0.7, 1.0)
    notes: list[StepNote] = []
    for bar, chord in enumerate(chords):
        which = form[bar % 4]
        rhythm = motif_rhythm(rng, groups, density) if rng.random() < 0.15 else motifs[which]
        phrase_end = bar % 4 == 3 or (bar % 2 == 1 and rng.random() < 0.3)
        for i, (onset, length) in enumerate(rhythm):
            if phrase_end and onset >= steps * 0.7:
                continue
            move = moves[which][i % 24] if rng.random() < 0.85 else int(rng.integers(-3, 4))
            index += move
            if not 2 <= index <= len(pitches) - 3:
                index = int(np.clip(index, 1, len(pitches) - 2)) + (2 if index < 2 else -2)
                index = int(np.clip(index, 0, len(pitches) - 1))
            if onset in starts or length >= 4:
                options = [k for k in range(max(0, index - 2), min(len(pitches), index + 3)) if pitches[k] % 12 in chord.tones]
                if options:
                    index = min(options, key=lambda k: abs(k - index))
            arch = 8 * np.sin(np.pi * ((bar % 4) * steps + onset) / (4 * steps))
            velocity = int(84 + loud + arch + 8 * (onset in starts) + rng.integers(-9, 9))
            notes.append((bar * steps + onset, length * legato, pitches[index], velocity))
            if length >= 3 and rng.random() < 0.05:
                neighbour = pitches[min(index + 1, len(pitches) - 1)]
                notes[-1] = (bar * steps + onset, 0.5, neighbour, velocity)
                notes.append((bar * steps + onset + 0.5, length * legato - 0.5, pitches[index], velocity))
    return notes
