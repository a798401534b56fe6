"""From a seed to a piece: style, form, harmony, who plays what, and the mix. No sound is made here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vampnet.train import instruments as gm
from vampnet.train.arranger import bass_part, comp_part, melody_part, pad_part
from vampnet.train.drums import StepNote, drum_part
from vampnet.train.orchestration import bed_track, draw_mix, kit_samples, loop_track, make_track, one_shot_track
from vampnet.train.score import Note, Piece, Style, Track
from vampnet.train.styles import STYLES
from vampnet.train.theory import MELODY_SUBSETS, METRES, SCALES, Chord, ladder, progression

SPARSE = ("solo", "solo", "solo", "duo", "duo", "strings", "choir", "chamber", "drums", "bass and drums", "percussion", "loop")
SPARSE_SHARE = 0.32
SECTION_NAMES = ("full", "full", "full", "intro", "break", "solo", "build")


@dataclass(frozen=True)
class Plan:
    """The skeleton that all parts share."""

    style: Style
    step: float
    groups: tuple[int, ...]
    key: int
    scale: tuple[int, ...]
    melody_scale: tuple[int, ...]
    swing: tuple[int, float]
    loose: float
    sections: tuple[tuple[str, int, int], ...]
    harmony: dict[str, list[Chord]]
    seconds: float

    def at(self, step: float) -> float:
        """Seconds of a step (sixteenths from the start), swing included."""
        unit, amount = self.swing
        phase = step % (2 * unit)
        if amount and phase >= unit:
            phase = unit + amount / 3 * 2 * unit / 2 + (phase - unit) * (1 - amount / 3)
        elif amount:
            phase *= 1 + amount / 3
        return (step - step % (2 * unit) + phase) * self.step


def draw_sections(rng: np.random.Generator, bars: int, plain: bool) -> tuple[tuple[str, int, int], ...]:
    """Cut a number of bars into named sections: (name, first bar, bars)."""
    if plain:
        return (("full", 0, bars),)
    sections: list[tuple[str, int, int]] = []
    at = 0
    while at < bars:
        length = int(min(rng.choice([2, 4, 4, 4, 8, 8]), bars - at))
        name = SECTION_NAMES[rng.integers(len(SECTION_NAMES))]
        if sections and name == "intro" or sections and sections[-1][0] == name != "full":
            name = "full"
        sections.append((name, at, length))
        at += length
    return tuple(sections)


def draw_plan(rng: np.random.Generator, seconds: float, plain: bool) -> tuple[str, str, tuple[int, int], float, Plan]:
    """Draw style, scale, metre, tempo and everything in Plan; seconds counts the lead-in."""
    name = str(rng.choice(list(STYLES)))
    style = STYLES[name]
    metre = style.metres[rng.integers(len(style.metres))]
    groups = METRES[metre][rng.integers(len(METRES[metre]))]
    tempo = float(np.round(rng.uniform(*style.tempo), 2))
    step = 60.0 / tempo / 4
    scale_name = str(rng.choice(list(style.scales)))
    scale = SCALES[scale_name]
    key = int(rng.integers(12))
    bars = math.ceil(seconds / (step * sum(groups))) + 1
    unit, low, high = style.swing
    swing = (unit if sum(groups) % (2 * unit) == 0 else 1, float(rng.uniform(low, high)) if rng.random() < 0.8 else 0.0)
    kinds = [k for k in style.harmony if k != "blues" or scale_name in ("mixolydian", "dorian")]
    kind = str(rng.choice(kinds or ["modal"]))
    size = int(rng.choice(style.sizes))
    harmony = {
        "A": progression(rng, kind, key, scale, size),
        "B": progression(rng, str(rng.choice(kinds or ["modal"])), key, scale, size),
    }
    subset = rng.random()
    third_is_major = 4 in scale
    degrees = MELODY_SUBSETS["major pentatonic" if third_is_major else "minor pentatonic"] if subset < 0.3 else tuple(range(7))
    melody_scale = tuple(scale[d] for d in degrees) + ((6,) if kind == "blues" and 6 not in scale else ())
    plan = Plan(
        style,
        step,
        groups,
        key,
        scale,
        tuple(sorted(set(melody_scale))),
        swing,
        style.loose * float(rng.uniform(0.2, 1.5)),
        draw_sections(rng, bars, plain),
        harmony,
        seconds,
    )
    return name, scale_name, metre, tempo, plan


def humanise(rng: np.random.Generator, plan: Plan, notes: Sequence[StepNote], late: float = 0.0) -> tuple[Note, ...]:
    """Steps to seconds, with swing, jitter and the part's own lateness; notes after the end are left out."""
    jitter = rng.normal(0.0, plan.loose, len(notes)) if notes else ()
    result = []
    for (step, length, pitch, velocity), shift in zip(notes, jitter, strict=True):
        start = max(0.0, plan.at(step) + float(shift) + late)
        if start < plan.seconds and 0 <= pitch <= 127:
            span = max(0.03, plan.at(step + length) - plan.at(step))
            result.append(Note(round(start, 5), round(span, 5), int(pitch), min(127, max(1, int(velocity)))))
    return tuple(sorted(result, key=lambda n: (n.start, n.pitch)))


def lay_out(plan: Plan, part: Callable[[list[Chord]], list[StepNote]], active: Mapping[str, bool]) -> list[StepNote]:
    """Compose a part once for each harmony and repeat it over the sections in which it plays."""
    steps = sum(plan.groups)
    patterns: dict[str, list[StepNote]] = {}
    notes: list[StepNote] = []
    for name, first, bars in plan.sections:
        if not active.get(name, True):
            continue
        letter = "B" if name in ("solo", "break") else "A"
        # Short progressions are played through at least four bars, so that a melody has room to answer itself.
        chords = plan.harmony[letter] * max(1, math.ceil(4 / len(plan.harmony[letter])))
        if letter not in patterns:
            patterns[letter] = part(chords)
        span, end = len(chords) * steps, bars * steps
        for turn in range(math.ceil(end / span)):
            for at, length, pitch, velocity in patterns[letter]:
                if at + turn * span < end:
                    notes.append((first * steps + turn * span + at, length, pitch, velocity))
    return notes


def activity(rng: np.random.Generator, role: str) -> dict[str, bool]:
    """In which kinds of sections a role plays."""
    chances = {
        "bass": {"intro": 0.4, "break": 0.35, "build": 0.7},
        "comp": {"intro": 0.7, "break": 0.6, "build": 0.9},
        "lead": {"intro": 0.3, "break": 0.4, "solo": 1.0, "build": 0.5, "full": 0.85},
        "pad": {"solo": 0.6},
        "arp": {"full": 0.8, "solo": 0.6, "intro": 0.7},
        "counter": {"full": 0.7, "intro": 0.1, "break": 0.3, "solo": 0.3},
        "drums": {"intro": 0.55, "break": 0.5, "build": 0.9},
    }.get(role, {})
    result = {name: bool(rng.random() < chance) for name, chance in chances.items()}
    return {"full": True} | result


def pick(rng: np.random.Generator, families: Sequence[str]) -> int:
    """A General MIDI program out of one of the families; now and then out of any family."""
    family = str(rng.choice(list(families)))
    if rng.random() < 0.12:
        family = str(rng.choice([f for f in gm.FAMILIES if "bass" not in f and f != "upright"]))
    return int(rng.choice(gm.FAMILIES[family]))


class PartWriter:
    """Writes the parts of one piece; every part draws from its own generator."""

    def __init__(self, rng: np.random.Generator, plan: Plan, samples: Mapping[str, Sequence[str]]) -> None:
        self.rng, self.plan, self.samples = rng, plan, samples
        self.kicks: list[int] = []

    def melodic(self, role: str, program: int, part: Callable[[list[Chord]], list[StepNote]], always: bool = False) -> Track:
        """A pitched track from a part function."""
        active = {} if always else activity(self.rng, role)
        notes = humanise(self.rng, self.plan, lay_out(self.plan, part, active), float(self.rng.normal(0, 0.004)))
        return make_track(self.rng, role, program, notes, self.samples)

    def drums(self, groove: str | None = None) -> Track:
        """The drummer, on a General MIDI kit or on one-shots."""
        style, plan = self.plan.style, self.plan
        name = groove or str(self.rng.choice(list(style.grooves)))
        active = activity(self.rng, "drums")
        sections = [(n if active.get(n, True) else "silent", f, b) for n, f, b in plan.sections]
        notes = drum_part(self.rng, name, plan.groups, sections)
        self.kicks = sorted({int(s) % sum(plan.groups) for s, _, k, _ in notes if k == gm.KICK and s < 4 * sum(plan.groups)})[
            :8
        ]
        kit = int(self.rng.choice(style.kits if self.rng.random() < 0.7 else gm.KITS))
        track = make_track(self.rng, "drums", kit, humanise(self.rng, plan, notes), self.samples)
        return kit_samples(self.rng, track, self.samples, hand=name == "hand")

    def bass(self) -> Track:
        """The bass player."""
        line = str(self.rng.choice(list(self.plan.style.bass_lines)))
        program = int(self.rng.choice(gm.FAMILIES[str(self.rng.choice(list(self.plan.style.bass)))]))
        classes = [(self.plan.key + s) % 12 for s in self.plan.scale]
        low = int(self.rng.choice([28, 28, 30, 33]))
        return self.melodic("bass", program, lambda c: bass_part(self.rng, line, c, self.plan.groups, self.kicks, classes, low))

    def comp(self, role: str = "comp", program: int | None = None, line: str | None = None, always: bool = False) -> Track:
        """Chords, strummed, struck or broken."""
        program = pick(self.rng, self.plan.style.comp) if program is None else program
        line = line or str(self.rng.choice(list(self.plan.style.comp_lines)))
        low, high = gm.pitch_range(program)
        return self.melodic(role, program, lambda c: comp_part(self.rng, line, c, self.plan.groups, low, high), always)

    def pad(self, program: int | None = None, always: bool = False, low: int = 43, high: int = 81) -> Track:
        """Held chords."""
        program = pick(self.rng, self.plan.style.pads) if program is None else program
        voices = int(self.rng.choice([2, 3, 3, 4]))
        return self.melodic("pad", program, lambda c: pad_part(self.rng, c, self.plan.groups, low, high, voices), always)

    def lead(
        self,
        role: str = "lead",
        program: int | None = None,
        density: float | None = None,
        always: bool = False,
        span: tuple[int, int] | None = None,
    ) -> Track:
        """A melody within an octave and a half somewhere in the instrument's range."""
        program = pick(self.rng, self.plan.style.leads) if program is None else program
        low, high = span or gm.pitch_range(program)
        base = int(self.rng.integers(low, max(low + 1, high - 18)))
        pitches = ladder(self.plan.key, self.plan.melody_scale, base, min(high, base + 19))
        density = float(self.rng.uniform(0.15, 0.95)) if density is None else density
        return self.melodic(role, program, lambda c: melody_part(self.rng, c, self.plan.groups, pitches, density), always)


def band(writer: PartWriter, rng: np.random.Generator) -> list[Track]:
    """A whole band or orchestra of the style, with a chance for each player to be missing."""
    tracks: list[Track] = []
    if rng.random() < 0.88:
        tracks.append(writer.drums())
    if rng.random() < 0.92:
        tracks.append(writer.bass())
    if rng.random() < 0.92:
        tracks.append(writer.comp())
    if rng.random() < 0.75:
        tracks.append(writer.lead())
    for chance, write in (
        (0.3, writer.comp),
        (0.4, writer.pad),
        (0.15, lambda: writer.lead("counter", density=0.25)),
        (0.2, lambda: writer.comp("arp", line="arp")),
    ):
        if rng.random() < chance and len(tracks) < 6:
            tracks.append(write())
    if not tracks or (len(tracks) == 1 and tracks[0].role == "drums"):
        tracks.append(writer.comp())
    plan = writer.plan
    for chance, make in ((0.13, loop_track), (0.14, bed_track), (0.14, one_shot_track)):
        if rng.random() < chance:
            extra = make(rng, writer.samples, plan.seconds, plan.step)
            tracks += [extra] if extra else []
    return tracks


def sparse(writer: PartWriter, rng: np.random.Generator, ensemble: str) -> list[Track]:
    """A thin texture: one player, two, or one kind of instrument."""
    if ensemble == "solo":
        program = pick(rng, tuple(f for f in gm.FAMILIES if f not in ("synth bass", "atmosphere", "pad")))
        tracks = [writer.lead(program=program, always=True)]
        if program in gm.CHORDAL and rng.random() < 0.75:
            tracks.append(
                writer.comp(
                    program=program,
                    line=str(rng.choice(["arp", "alberti", "block", "strum", "syncopated", "waltz"])),
                    always=True,
                )
            )
            if rng.random() < 0.3:
                tracks = tracks[1:]
        return tracks
    if ensemble == "duo":
        other = writer.comp(
            program=pick(rng, ("piano", "acoustic guitar", "epiano", "plucked", "reedbox", "keys", "organ", "electric guitar")),
            always=True,
        )
        return [writer.lead(always=True), other if rng.random() < 0.75 else writer.bass()]
    if ensemble == "strings":
        if rng.random() < 0.5:
            program = int(rng.choice([48, 48, 49, 44, 45]))
            return [writer.pad(program, True), writer.lead(program=program, density=float(rng.uniform(0.1, 0.6)), always=True)]
        quartet = ((40, (64, 88)), (40, (57, 79)), (41, (50, 72)), (42, (38, 60)))
        return [
            writer.lead(program=p, span=r, density=float(rng.uniform(0.1, 0.6)), always=True)
            for p, r in quartet[: int(rng.integers(2, 5))]
        ]
    if ensemble == "choir":
        tracks = [writer.pad(int(rng.choice([52, 53, 52, 54])), True, 43, 79)]
        return tracks + (
            [writer.lead(program=int(rng.choice([52, 53, 85])), density=0.25, always=True)] if rng.random() < 0.6 else []
        )
    if ensemble == "chamber":
        family = str(rng.choice(["reed", "brass", "pipe", "sax", "low brass", "brass section"]))
        return [
            writer.lead(program=int(rng.choice(gm.FAMILIES[family])), density=float(rng.uniform(0.1, 0.7)), always=True)
            for _ in range(int(rng.integers(2, 4)))
        ]
    if ensemble == "loop":
        made = [m(rng, writer.samples, writer.plan.seconds, writer.plan.step) for m in (loop_track, one_shot_track)]
        tracks = [t for t in made[: int(rng.integers(1, 3))] if t]
        return tracks or [writer.drums()]
    if ensemble == "percussion":
        return [writer.drums("hand")] + ([writer.drums("generic")] if rng.random() < 0.3 else [])
    return [writer.drums()] + ([writer.bass()] if ensemble == "bass and drums" else [])


def compose(seed: int, seconds: float, soundfonts: int, samples: Mapping[str, Sequence[str]]) -> Piece:
    """Compose a piece that lasts at least `seconds`; deterministic in all its arguments.

    soundfonts: how many SoundFonts there are to choose from; samples: names of the one-shots and loops by kind."""
    rng = np.random.default_rng([seed, 0x5EED])
    ensemble = str(rng.choice(SPARSE)) if rng.random() < SPARSE_SHARE else "band"
    lead_in = float(rng.uniform(0.1, 2.0)) if rng.random() < 0.7 else 0.0
    tuning = float(np.round(rng.uniform(-50, 50), 2)) if rng.random() < 0.5 else 0.0
    font = int(rng.integers(max(1, soundfonts)))
    name, scale, metre, tempo, plan = draw_plan(rng, seconds + lead_in, ensemble != "band")
    writer = PartWriter(rng, plan, samples)
    tracks = band(writer, rng) if ensemble == "band" else sparse(writer, rng, ensemble)
    tracks = [t for t in tracks if t.notes] or [writer.comp(line="block", always=True)]
    if rng.random() < 0.06:
        # The piece ends within the clip and rings out.
        last = lead_in + seconds * float(rng.uniform(0.6, 0.95))
        tracks = [dataclasses.replace(t, notes=tuple(n for n in t.notes if n.start < last)) for t in tracks]
        tracks = [t for t in tracks if t.notes] or [writer.comp(line="block", always=True)]
    return Piece(
        seed,
        name,
        ensemble,
        tempo,
        metre,
        plan.key,
        scale,
        tuning,
        seconds,
        lead_in,
        font,
        plan.sections,
        tuple(tracks),
        draw_mix(rng, ensemble),
    )
