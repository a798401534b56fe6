"""Drum grooves with ghost notes, fills and breaks, for every metre."""

from __future__ import annotations

import numpy as np

from vampnet.train.instruments import (
    BELL,
    CLAP,
    CLAVES,
    CLOSED,
    COWBELL,
    CRASH,
    HAND,
    KICK,
    OPEN,
    PEDAL,
    RIDE,
    RIM,
    SHAKER,
    SNARE,
    TAMBOURINE,
    TOMS,
    TRIANGLE,
)

StepNote = tuple[float, float, int, int]
"""(step in sixteenths, length in sixteenths, MIDI pitch, velocity)."""

LEVELS = {"X": 120, "x": 98, "o": 80, "g": 42, "-": 62}

GROOVES: dict[str, tuple[dict[int, str], ...]] = {
    "rock": (
        {KICK: "X.......X.x.....", SNARE: "....X.......X...", CLOSED: "x.-.x.-.x.-.x.-."},
        {KICK: "X.....x.X.......", SNARE: "....X.......X..g", CLOSED: "x.-.x.-.x.-.x.-."},
    ),
    "rock2": (
        {KICK: "X..x....X..x..x.", SNARE: "....X..g.g..X...", RIDE: "x.-.x.-.x.-.x.-."},
        {KICK: "X.X...x...X.....", SNARE: "....X.......X...", OPEN: "x...x...x...x..."},
    ),
    "half": (
        {KICK: "X.....x.....x...", SNARE: "........X.......", CLOSED: "x.-.x.-.x.-.x.-."},
        {KICK: "X..x......x.....", SNARE: "........X....g..", RIDE: "x.-.x.-.x.-.x.-."},
    ),
    "pop": (
        {KICK: "X...x...X...x...", SNARE: "....X.......X...", CLOSED: "x-x-x-x-x-x-x-x-", TAMBOURINE: "....x.......x..."},
        {KICK: "X.....x...x.....", CLAP: "....X.......X...", CLOSED: "..x...x...x...x."},
    ),
    "four": (
        {KICK: "X...X...X...X...", CLAP: "....x.......x...", OPEN: "..x...x...x...x."},
        {KICK: "X...X...X...X...", SNARE: "....x.......x..g", CLOSED: "-.x.-.x.-.x.-.xg", SHAKER: "g-g-g-g-g-g-g-g-"},
    ),
    "four2": (
        {KICK: "X...X...X...X..x", CLAP: "....X.......X...", CLOSED: "x-x-x-x-x-x-x-x-", COWBELL: "x..x..x...x..x.."},
        {KICK: "X...X...X...X...", OPEN: "..X...X...X...X.", RIM: "...x..x....x..x.", SHAKER: "x-o-x-o-x-o-x-o-"},
    ),
    "funk": (
        {KICK: "X.x....x..x..x..", SNARE: "....X..g.g..X..g", CLOSED: "x-o-x-o-x-o-x-o-"},
        {KICK: "X..x..x...x.....", SNARE: ".g..X.g.g.g.X.g.", CLOSED: "xgxgxgxgxgxgxgxg"},
    ),
    "funk2": (
        {KICK: "X.....x.x.x....x", SNARE: "....X..g.gX...g.", CLOSED: "x.x.x.x.x.x.x.x.", OPEN: ".......x........"},
        {KICK: "X.X.......x..x..", SNARE: "..g.X.gg.g.gX...", CLOSED: "x-x-x-x-x-x-x-x-"},
    ),
    "hiphop": (
        {KICK: "X......x..x.....", SNARE: "....X.......X...", CLOSED: "x.x.x.x.x.x.x.x."},
        {KICK: "X.x.......x..x..", SNARE: "....X.......X..g", CLOSED: "x.o.x.oxx.o.x.o."},
    ),
    "hiphop2": (
        {KICK: "X..x......xx....", CLAP: "....X.......X...", CLOSED: "x.x.x.xxx.x.x.x.", SHAKER: "..x...x...x...x."},
        {KICK: "X.....X...x.....", SNARE: "....X.......X...", CLOSED: "x-x-x-x-x-x-x-x-"},
    ),
    "trap": (
        {KICK: "X......x..X.....", CLAP: "........X.......", CLOSED: "x.x.xxxxx.x.xoxo"},
        {KICK: "X..x..x....x....", SNARE: "........X.......", CLOSED: "xxxxx.x.xoxox.x."},
    ),
    "dnb": (
        {KICK: "X.........x.....", SNARE: "....X.......X...", CLOSED: "x.x.x.x.x.x.x.x."},
        {KICK: "X.........X..g..", SNARE: "....X..g.g..X..g", RIDE: "x.x.x.x.x.x.x.x."},
    ),
    "dnb2": (
        {KICK: "X.x.......x.....", SNARE: "....X..g.g....X.", CLOSED: "x-x-x-x-x-x-x-x-"},
        {KICK: "X.....x...x.....", SNARE: "....X.......X.gg", OPEN: "..x...x...x...x."},
    ),
    "breaks": (
        {KICK: "X.x.......xx....", SNARE: "....X..x.x..X..x", RIDE: "x.x.x.x.x.x.x.x."},
        {KICK: "X.......x.x..x..", SNARE: "....X..g....X.g.", CLOSED: "x-x-x-x-x-x-x-x-"},
    ),
    "bossa": (
        {KICK: "x..xx..xx..xx..x", RIM: "x..x..x...x..x..", CLOSED: "x-x-x-x-x-x-x-x-"},
        {KICK: "x..xx..xx..xx..x", RIM: "..x...x..x..x...", SHAKER: "x-o-x-o-x-o-x-o-"},
    ),
    "swing": (
        {RIDE: "x...x.o.x...x.o.", PEDAL: "....x.......x...", KICK: "g...g...g...g..."},
        {RIDE: "x...x.o.x...x.o.", PEDAL: "....x.......x...", SNARE: "......g....g....", KICK: "........o......."},
    ),
    "swing2": (
        {RIDE: "x.o.x.o.x.o.x.o.", SNARE: "....x.......x...", KICK: "x.......x......."},
        {CLOSED: "x.o.x.o.x.o.x.o.", SNARE: "....X.......X.g.", KICK: "X.......X.x....."},
    ),
    "waltz": (
        {KICK: "X...........", SNARE: "....o...o...", CLOSED: "x...x...x..."},
        {KICK: "X.......", RIDE: "x...x.o.x...", PEDAL: "....x...x..."},
    ),
    "onedrop": (
        {KICK: "........X.......", RIM: "........X.......", CLOSED: "x.o.x.o.x.o.x.o."},
        {KICK: "X.......X.......", SNARE: "........X.....g.", CLOSED: "-.x.-.x.-.x.-.x."},
    ),
    "afro": (
        {KICK: "X..x......x...x.", SNARE: "......g.X..g...g", CLOSED: "x.xxx.xxx.xxx.xx", COWBELL: "x.x..x.x.x..x..."},
        {KICK: "X.....x...x.....", RIM: "...x..x...x.x...", SHAKER: "x-x-x-x-x-x-x-x-", 63: "....x.x.......xx"},
    ),
    "tresillo": (
        {KICK: "X.....x.X.....x.", SNARE: "...x..x....x..x.", CLOSED: "x.-.x.-.x.-.x.-."},
        {KICK: "X..x..x.X..x..x.", 62: "..x...x...x...xx", 64: ".....x.......x..", CLAVES: "x..x..x...x.x..."},
    ),
    "ballad": (
        {KICK: "X.........x.....", RIM: "....x.......x...", CLOSED: "x.-.x.-.x.-.x.-."},
        {KICK: "X.......x.......", SNARE: "....o.......o..."},
    ),
    "electro": (
        {KICK: "X.....x...x.....", CLAP: "....X.......X...", CLOSED: "x.x.x.x.x.x.x.x.", COWBELL: "..x..x....x.x..."},
        {KICK: "X..x..X....x..x.", SNARE: "....X.......X...", CLOSED: "xxxxxxxxxxxxxxxx"},
    ),
    "sparse": (
        {KICK: "x...............", RIDE: "....o.......-..."},
        {SHAKER: "..-...-...-...-.", TRIANGLE: "x...............", KICK: "g.......g......."},
    ),
    "orchestra": (
        {KICK: "X...............", SNARE: "......ggg.g...gg", CRASH: "g..............."},
        {KICK: "x.......o.......", 47: "............o.o."},
    ),
}


def generic_bar(rng: np.random.Generator, groups: tuple[int, ...], hand: bool) -> dict[int, list[tuple[int, int]]]:
    """A pattern for any metre from its groups: kick on the first, snare on the others, hats between."""
    rows: dict[int, list[tuple[int, int]]] = {}
    starts = np.cumsum((0, *groups[:-1]))
    steps = sum(groups)
    if hand:
        drums = [int(d) for d in rng.choice(HAND, 3, replace=False)]
        for step in range(0, steps, int(rng.choice([1, 2, 2]))):
            strong = step in starts
            if strong or rng.random() < 0.6:
                rows.setdefault(drums[0 if strong else int(rng.integers(3))], []).append(
                    (step, 110 if strong else int(rng.integers(40, 95)))
                )
        return rows
    for i, step in enumerate(int(s) for s in starts):
        rows.setdefault(KICK if i % 2 == 0 else SNARE, []).append((step, 112 if i < 2 else 100))
        if groups[i] > 4 and rng.random() < 0.6:
            rows.setdefault(KICK, []).append((step + groups[i] - 2, 84))
    cymbal = int(rng.choice([CLOSED, CLOSED, RIDE, SHAKER, BELL]))
    rows[cymbal] = [(s, 96 if s in starts else 64) for s in range(0, steps, int(rng.choice([1, 2, 2, 2])))]
    return rows


def groove_bar(rng: np.random.Generator, name: str, groups: tuple[int, ...]) -> dict[int, list[tuple[int, int]]]:
    """One bar of a groove: {drum key: [(step, velocity), ...]}; other metres than 4/4 get a pattern of their own."""
    steps = sum(groups)
    if name in ("generic", "hand") or (steps != 16 and name != "waltz") or (name == "waltz" and steps != 12):
        return generic_bar(rng, groups, name == "hand")
    variants = GROOVES[name]
    rows = {
        k: [(i, LEVELS[c]) for i, c in enumerate(row) if c != "."] for k, row in variants[rng.integers(len(variants))].items()
    }
    if rng.random() < 0.35:
        # Another variant's cymbals or percussion over the same kick and snare widens the pool of grooves.
        other = variants[rng.integers(len(variants))]
        rows = {k: v for k, v in rows.items() if k in (KICK, SNARE, CLAP, RIM)}
        rows.update({k: [(i, LEVELS[c]) for i, c in enumerate(r) if c != "."] for k, r in other.items() if k not in rows})
    if rng.random() < 0.3:
        extra = int(rng.choice([SHAKER, TAMBOURINE, COWBELL, *HAND]))
        gap = int(rng.choice([2, 2, 3, 4]))
        rows.setdefault(extra, [(s, int(rng.integers(45, 90))) for s in range(int(rng.integers(gap)), steps, gap)])
    return rows


def vary(rng: np.random.Generator, rows: dict[int, list[tuple[int, int]]], steps: int) -> dict[int, list[tuple[int, int]]]:
    """A bar like the one given: here a ghost note more, there a kick moved, a hat opened."""
    result = {k: list(v) for k, v in rows.items()}
    if SNARE in result and rng.random() < 0.4:
        result[SNARE].append((int(rng.integers(steps)), int(rng.integers(28, 50))))
    if KICK in result and rng.random() < 0.35:
        result[KICK].append((int(rng.integers(steps // 2)) * 2, int(rng.integers(70, 100))))
    if CLOSED in result and rng.random() < 0.3:
        result.setdefault(OPEN, []).append((max(steps - 2, 0), 88))
        result[CLOSED] = [(s, v) for s, v in result[CLOSED] if s != steps - 2]
    return result


def fill(rng: np.random.Generator, steps: int, length: int) -> list[tuple[float, int, int]]:
    """A fill over the last `length` sixteenths of a bar: (step, key, velocity)."""
    kind = rng.integers(4)
    first = steps - length
    unit = float(rng.choice([1.0, 1.0, 2.0, 4 / 3, 0.5 if length <= 8 else 1.0]))
    notes = []
    for i, step in enumerate(np.arange(first, steps, unit)):
        share = i * unit / length
        if rng.random() < 0.12:
            continue
        velocity = int(60 + 55 * share + rng.integers(-8, 8))
        if kind == 0:
            key = SNARE
        elif kind == 1:
            key = TOMS[min(int(share * len(TOMS)), len(TOMS) - 1)]
        elif kind == 2:
            key = int(rng.choice([SNARE, KICK, TOMS[1], TOMS[4]]))
        else:
            key = SNARE if i % 3 == 0 else int(rng.choice(TOMS))
        notes.append((float(step), key, velocity))
    return notes


def drum_part(
    rng: np.random.Generator, groove: str, groups: tuple[int, ...], sections: list[tuple[str, int, int]]
) -> list[StepNote]:
    """The whole drum part. sections: (name, first bar, bars); intros and breaks are thinned, sections end with fills.

    Returns notes as (step, length, drum key, velocity), steps in sixteenths from the start of the piece."""
    steps = sum(groups)
    base = [groove_bar(rng, groove, groups)]
    base.append(vary(rng, base[0], steps))
    other = groove_bar(rng, groove, groups)
    notes: list[StepNote] = []
    for name, first, bars in sections:
        if name == "silent":
            continue
        rows_a = other if name == "solo" else base[0]
        thin: set[int] = set()
        if name in ("intro", "break"):
            keys = list(rows_a)
            thin = {int(k) for k in rng.choice(keys, max(1, len(keys) // 2), replace=False)}
        for bar in range(first, first + bars):
            at = bar * steps
            rows = vary(rng, rows_a, steps) if rng.random() < 0.3 else (base[1] if bar % 2 and name != "solo" else rows_a)
            last = bar == first + bars - 1
            length = int(rng.choice([4, 8, steps])) if last and rng.random() < 0.65 else 0
            for key, hits in rows.items():
                if key not in thin:
                    notes += [(at + s, 1.0, key, v) for s, v in hits if s < steps - length]
            if length:
                notes += [(at + s, 1.0, key, v) for s, key, v in fill(rng, steps, min(length, steps))]
            if bar == first and bar > 0 and rng.random() < 0.7 and groove not in ("hand", "sparse"):
                notes.append((float(at), 4.0, CRASH, 104))
    return notes
