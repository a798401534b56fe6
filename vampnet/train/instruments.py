"""General MIDI programs by family, their ranges and behaviour, and drum kits."""

from __future__ import annotations

FAMILIES: dict[str, tuple[int, ...]] = {
    "piano": (0, 0, 1, 2, 3),
    "epiano": (4, 4, 5),
    "keys": (6, 7),
    "mallet": (8, 9, 10, 11, 11, 12, 13, 14, 15, 108, 114),
    "organ": (16, 17, 18, 19, 20),
    "reedbox": (21, 22, 23),
    "acoustic guitar": (24, 25),
    "electric guitar": (26, 27, 28),
    "drive guitar": (29, 30),
    "upright": (32, 35),
    "bass": (33, 34, 35, 36, 37),
    "synth bass": (38, 39, 87),
    "bowed": (40, 41, 42, 110),
    "plucked": (45, 46, 24, 107, 105),
    "section": (48, 49, 48, 44),
    "synth strings": (50, 51),
    "choir": (52, 53, 54, 91),
    "brass": (56, 57, 59, 60),
    "brass section": (61, 62, 63, 60),
    "low brass": (57, 58),
    "sax": (64, 65, 66, 67),
    "reed": (68, 69, 70, 71, 111),
    "pipe": (72, 73, 73, 74, 75, 76, 77, 78, 79),
    "synth lead": (80, 81, 82, 83, 84, 85, 86),
    "pad": (88, 89, 90, 91, 92, 93, 94, 95),
    "atmosphere": (97, 98, 99, 100, 101, 102, 103, 96),
    "ethnic": (104, 105, 106, 107, 108, 109, 111, 15),
}

RANGES: dict[int, tuple[int, int]] = {
    8: (60, 96),
    9: (72, 100),
    10: (60, 96),
    11: (53, 89),
    12: (48, 88),
    13: (65, 100),
    14: (60, 77),
    15: (55, 86),
    22: (60, 88),
    24: (45, 80),
    25: (45, 81),
    26: (45, 82),
    27: (45, 84),
    28: (42, 76),
    29: (45, 86),
    30: (42, 86),
    32: (28, 55),
    40: (57, 93),
    41: (50, 81),
    42: (38, 72),
    43: (28, 52),
    45: (43, 84),
    46: (40, 92),
    47: (38, 55),
    56: (55, 82),
    57: (42, 70),
    58: (30, 56),
    59: (55, 80),
    60: (43, 74),
    61: (48, 79),
    64: (58, 86),
    65: (51, 80),
    66: (46, 74),
    67: (40, 68),
    68: (58, 88),
    69: (54, 80),
    70: (36, 68),
    71: (52, 86),
    72: (74, 100),
    73: (60, 94),
    74: (60, 88),
    75: (58, 86),
    77: (57, 84),
    78: (67, 94),
    79: (60, 88),
    104: (48, 76),
    105: (50, 84),
    106: (50, 80),
    107: (48, 84),
    108: (55, 86),
    109: (55, 74),
    110: (57, 90),
    111: (58, 82),
    114: (55, 86),
    52: (48, 79),
    53: (48, 79),
    54: (48, 79),
    85: (50, 79),
}
"""Playable range (lowest, highest MIDI pitch) where it is narrower than (48, 84)."""

SINGING = frozenset({22, 40, 41, 42, 43, 44, 48, 49, 52, 53, 54, 85, 110, *range(56, 80), *range(80, 87), 111})
"""Programs that hold a note with vibrato."""

SUSTAINED = SINGING | frozenset({*range(16, 24), 29, 30, 50, 51, *range(88, 104), 109})
"""Programs whose notes last as long as they are held."""

BENDING = frozenset(
    {22, 26, 27, 29, 30, 40, 42, 56, 57, 59, 64, 65, 66, 67, 71, 75, 77, 80, 81, 84, 85, 104, 106, 110, 111, 35}
)
"""Programs whose players slide into notes."""

CHORDAL = frozenset({*range(0, 32), 45, 46, *range(48, 55), *range(88, 104), 104, 105, 107, 108})
"""Programs on which one player plays chords."""

KITS = (0, 0, 1, 2, 3, 4, 8, 9, 16, 17, 24, 25, 32, 33, 40, 48)

KICK, RIM, SNARE, CLAP, CLOSED, PEDAL, OPEN, CRASH, RIDE, BELL = 36, 37, 38, 39, 42, 44, 46, 49, 51, 53
TOMS = (50, 48, 47, 45, 43, 41)
SHAKER, TAMBOURINE, COWBELL, CLAVES, TRIANGLE = 82, 54, 56, 75, 81
HAND = (60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 73, 74, 76, 77)
"""Bongos, congas, timbales, agogo, cabasa, maracas, guiro, wood blocks."""


def pitch_range(program: int) -> tuple[int, int]:
    """Lowest and highest MIDI pitch that a General MIDI program (0..127) is written for here."""
    return RANGES.get(program, (48, 84))
