"""How parts are set to sounds: source, level, effects of each track, sample layers and the settings of the mix."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from vampnet.train import instruments as gm
from vampnet.train.score import Mix, Note, Track

LEVELS = {
    "drums": -1.0,
    "bass": -2.0,
    "comp": -5.0,
    "arp": -8.0,
    "pad": -9.0,
    "lead": -3.0,
    "counter": -8.0,
    "loop": -6.0,
    "bed": -16.0,
    "shots": -9.0,
}
TONES_SHARE = 0.07
BASS_ROOTS = {"f": 29, "g": 31, "c": 36}

KIT_KINDS: dict[int, tuple[str, ...]] = {
    gm.KICK: ("bd", "drum_bass", "drum_heavy", "elec_soft_kick", "elec_hollow_kick"),
    gm.SNARE: ("sn", "drum_snare", "elec_snare", "elec_mid_snare", "elec_hi_snare", "elec_filt_snare"),
    gm.RIM: ("elec_wood", "elec_tick", "perc_snap", "elec_lo_snare", "tabla_te"),
    gm.CLAP: ("sn", "perc_snap", "elec_hi_snare"),
    gm.CLOSED: ("hat", "drum_cymbal_closed", "elec_tick"),
    gm.PEDAL: ("drum_cymbal_pedal", "hat"),
    gm.OPEN: ("drum_cymbal_open", "hat_zild", "elec_cymbal"),
    gm.CRASH: ("drum_splash", "drum_cymbal_hard"),
    gm.RIDE: ("ride", "drum_cymbal_soft", "elec_triangle"),
    gm.BELL: ("ride", "elec_bell"),
    gm.COWBELL: ("drum_cowbell", "elec_blip"),
    gm.TAMBOURINE: ("hat", "elec_tick"),
    gm.SHAKER: ("hat", "elec_tick"),
    gm.TRIANGLE: ("elec_triangle", "elec_ping"),
    gm.CLAVES: ("elec_wood", "elec_plip"),
    50: ("drum_tom_hi",),
    48: ("drum_tom_hi", "elec_fuzz_tom"),
    47: ("drum_tom_mid",),
    45: ("drum_tom_mid",),
    43: ("drum_tom_lo",),
    41: ("drum_tom_lo",),
}
BASSES = "bass"
OTHER_HITS = ("perc", "tabla", "elec")
HAND_DRUMS = ("tabla", "perc", "elec_bong", "elec_wood")
LOOPS = ("loop", "arovane_beat")
BEDS = ("ambi", "vinyl_hiss", "guit_e", "misc_cine", "loop_drone")
ONE_SHOTS = ("elec", "perc", "tabla", "glitch", "guit", "mehackit", "vinyl_scratch", "misc", "ambi_piano")


def known(samples: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of some names of samples that are ever chosen."""
    kits = [prefix for prefixes in KIT_KINDS.values() for prefix in prefixes]
    return _named(samples, (*kits, BASSES, *OTHER_HITS, *HAND_DRUMS, *LOOPS, *BEDS, *ONE_SHOTS))


def _named(samples: Mapping[str, Sequence[str]], prefixes: Sequence[str]) -> list[str]:
    return [n for names in samples.values() for n in names if n.startswith(tuple(prefixes))]


def make_track(
    rng: np.random.Generator, role: str, program: int, notes: tuple[Note, ...], samples: Mapping[str, Sequence[str]]
) -> Track:
    """Choose the sound and the effects of one part."""
    drums = role == "drums"
    source, files = "soundfont", ()
    if not drums and rng.random() < TONES_SHARE:
        source = "tones"
    elif role == "bass" and program in gm.FAMILIES["synth bass"] and rng.random() < 0.3 and samples.get(BASSES):
        name = str(rng.choice([n for n in samples[BASSES]]))
        source, files = "pitched", ((BASS_ROOTS.get(name.rsplit("_", 1)[-1], 36), name),)
    sustained, singing = program in gm.SUSTAINED and not drums, program in gm.SINGING and not drums
    guitar = program in range(24, 32) and not drums
    chorus = (
        float(rng.uniform(0.2, 0.8))
        if not drums and role != "bass" and rng.random() < (0.2 if sustained or guitar or program in (4, 5) else 0.06)
        else 0.0
    )
    drive = float(rng.uniform(0.1, 1.0)) if rng.random() < (0.35 if guitar or role in ("bass", "drums") else 0.1) else 0.0
    narrow = role in ("bass", "drums", "lead")
    return Track(
        role=role,
        source=source,
        program=program,
        drums=drums,
        notes=notes,
        samples=files,
        level=LEVELS[role] + float(rng.normal(0, 3.0)),
        pan=float(np.clip(rng.normal(0, 0.12 if narrow else 0.45), -0.9, 0.9)),
        send=float(rng.uniform(0, 0.25) if role in ("bass", "drums") else rng.beta(1.5, 3.0)),
        drive=drive,
        tilt=float(np.clip(rng.normal(0, 3.0), -8, 8)),
        lowpass=float(np.exp(rng.uniform(np.log(800), np.log(9000)))) if rng.random() < 0.1 else 0.0,
        chorus=chorus,
        vibrato_cents=float(rng.uniform(6, 45)) if singing and rng.random() < 0.8 else 0.0,
        vibrato_hz=float(rng.uniform(3.8, 7.0)),
        drift_cents=float(rng.uniform(2, 14)) if sustained or (not drums and rng.random() < 0.25) else 0.0,
        scoop=float(rng.uniform(0.05, 0.5))
        if program in gm.BENDING and not drums and role in ("lead", "counter") and rng.random() < 0.7
        else 0.0,
    )


def kit_samples(rng: np.random.Generator, track: Track, samples: Mapping[str, Sequence[str]], hand: bool) -> Track:
    """Sometimes give a drum track one-shots in place of the SoundFont's kit."""
    if not samples or rng.random() > 0.35:
        return track
    chosen: dict[int, str] = {}
    for key in sorted({n.pitch for n in track.notes}):
        prefixes = HAND_DRUMS if hand else KIT_KINDS.get(key, OTHER_HITS)
        names = _named(samples, prefixes)
        if names:
            chosen[key] = str(rng.choice(names))
    return dataclasses.replace(track, source="kit", samples=tuple(chosen.items())) if chosen else track


def loop_track(rng: np.random.Generator, samples: Mapping[str, Sequence[str]], seconds: float, step: float) -> Track | None:
    """A sample loop under the music, one note for each run of it; None without loops."""
    names = _named(samples, LOOPS)
    if not names:
        return None
    start, length = 0.0, seconds
    if rng.random() < 0.3:
        start = float(np.round(rng.uniform(0, seconds * 0.4) / (step * 16)) * step * 16)
        length = min(seconds, seconds - start)
    name = str(rng.choice(names))
    note = Note(start, length, int(rng.choice([60, 60, 60, 57, 64])), 100)
    return Track(
        "loop",
        "loop",
        0,
        False,
        (note,),
        ((int(step * 4e6), name),),
        level=LEVELS["loop"] + float(rng.normal(0, 4)),
        pan=float(rng.normal(0, 0.15)),
        send=float(rng.uniform(0, 0.2)),
        drive=float(rng.uniform(0, 0.6)) if rng.random() < 0.25 else 0.0,
        tilt=float(rng.normal(0, 2)),
    )


def bed_track(rng: np.random.Generator, samples: Mapping[str, Sequence[str]], seconds: float, step: float) -> Track | None:
    """A quiet layer of ambience or vinyl noise; None without such samples."""
    names = _named(samples, BEDS)
    if not names:
        return None
    gap = step * 4 * int(rng.choice([8, 16, 16, 32]))
    pitch = int(rng.integers(50, 68))
    notes = tuple(Note(float(t), float(gap), pitch, int(rng.integers(60, 110))) for t in np.arange(0.0, seconds, gap))
    return Track(
        "bed",
        "bed",
        0,
        False,
        notes,
        ((60, str(rng.choice(names))),),
        level=LEVELS["bed"] + float(rng.normal(0, 5)),
        pan=float(rng.normal(0, 0.3)),
        send=float(rng.uniform(0, 0.6)),
    )


def one_shot_track(rng: np.random.Generator, samples: Mapping[str, Sequence[str]], seconds: float, step: float) -> Track | None:
    """One to three one-shots in a repeated rhythm of their own; None without samples."""
    names = _named(samples, ONE_SHOTS)
    if not names:
        return None
    files = tuple((60 + i, str(rng.choice(names))) for i in range(int(rng.integers(1, 4))))
    cycle = int(rng.choice([16, 16, 32, 12]))
    hits = [
        (int(rng.integers(cycle)), int(rng.integers(len(files))), int(rng.integers(50, 115)))
        for _ in range(int(rng.integers(1, 7)))
    ]
    notes = [
        Note(float((t + s) * step), 2.0, 60 + k, v)
        for t in range(0, int(seconds / step), cycle)
        for s, k, v in sorted(set(hits))
    ]
    notes = [n for n in notes if n.start < seconds]
    return Track(
        "shots",
        "kit",
        0,
        False,
        tuple(sorted(notes, key=lambda n: n.start)),
        files,
        level=LEVELS["shots"] + float(rng.normal(0, 4)),
        pan=float(rng.normal(0, 0.4)),
        send=float(rng.uniform(0, 0.5)),
    )


def draw_mix(rng: np.random.Generator, ensemble: str) -> Mix:
    """Draw the room, the equaliser, the loudness and the faults of a recording."""
    dry = rng.random() < 0.15
    reverb = 0.0 if dry else float(np.exp(rng.uniform(np.log(0.25), np.log(3.0))))
    lowpass = float(np.exp(rng.uniform(np.log(2500), np.log(15000)))) if rng.random() < 0.22 else 0.0
    highpass = float(np.exp(rng.uniform(np.log(30), np.log(350)))) if rng.random() < 0.3 else 0.0
    bell = rng.random() < 0.4
    return Mix(
        reverb_seconds=reverb,
        reverb_bright=float(np.exp(rng.uniform(np.log(1500), np.log(12000)))),
        predelay=float(rng.uniform(0, 0.04)),
        tilt=float(np.clip(rng.normal(0, 3.0), -7, 7)),
        lowpass=lowpass,
        highpass=highpass,
        bell_hz=float(np.exp(rng.uniform(np.log(150), np.log(6000)))) if bell else 0.0,
        bell_db=float(rng.uniform(-6, 6)) if bell else 0.0,
        drive=float(rng.uniform(0.1, 1.0)) if rng.random() < 0.45 else 0.0,
        noise_db=float(rng.uniform(38, 65)) if rng.random() < 0.3 else 0.0,
        width=0.0 if rng.random() < 0.1 else float(rng.uniform(0.4, 1.0)),
        peak=float(rng.uniform(0.35, 0.97)),
    )
