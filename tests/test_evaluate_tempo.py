"""The tempo of a take against its source's: drums whose tempo is known, with other hits between the beats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vampnet.evaluate.tempo import WORST, pulse, tempo_drift

RATE = 22_050


def hit(kind: str, rng: np.random.Generator) -> np.ndarray:
    t = np.arange(round(0.12 * RATE)) / RATE
    if kind == "kick":
        return np.sin(2 * np.pi * (50 + 60 * np.exp(-t * 40)) * t) * np.exp(-t * 25)
    if kind == "snare":
        return (0.5 * rng.standard_normal(len(t)) + 0.5 * np.sin(2 * np.pi * 190 * t)) * np.exp(-t * 30)
    return 0.35 * rng.standard_normal(len(t)) * np.exp(-t * 90)


def drums(tempo: float, between: int, seconds: float = 10.0, later: float | None = None) -> torch.Tensor:
    """Kick and snare in turn, and hats and kicks by chance on the sixteenths `between` them; from 5 s on at `later`."""
    rng, chance = np.random.default_rng(between + 50), np.random.default_rng(between)
    out = 1e-4 * rng.standard_normal(round((seconds + 1) * RATE))
    time, beat = 0.3, 0
    while time < seconds:
        gap = 60 / (tempo if later is None or time < seconds / 2 else later)
        places = [(0.0, "snare" if beat % 2 else "kick")]
        places += [(q * gap / 4, str(chance.choice(["hat", "hat", "kick"]))) for q in (1, 2, 3) if chance.random() < 0.5]
        for after, kind in places:
            start, sound = round((time + after) * RATE), hit(kind, rng)
            out[start : start + len(sound)] += 0.2 * sound
        time, beat = time + gap, beat + 1
    return torch.from_numpy(out[: round(seconds * RATE)]).float()


def heard(*args: float, **kwargs: float) -> np.ndarray:
    return pulse(drums(*args, **kwargs), RATE)


@pytest.mark.parametrize("tempo", [82, 108, 141])
def test_the_tempo_is_that_of_the_beats_whatever_is_between_them(tempo):
    source = heard(tempo, 1)
    assert tempo_drift(source, source) == 0
    assert tempo_drift(source, heard(tempo, 2)) < 0.6
    for percent in (-6, 3, 12):
        there = 100 * (math.exp(abs(math.log1p(percent / 100))) - 1)
        assert tempo_drift(source, heard(tempo * (1 + percent / 100), 2)) == pytest.approx(there, abs=0.6)


def test_a_tempo_that_changes_on_the_way_is_told_by_how_long_it_does():
    drift = tempo_drift(heard(100, 1), heard(100, 2, later=110))
    assert 2 < drift < 9, "about half of the time 10 % off"


def test_half_tempo_is_the_same_and_what_has_no_pulse_or_another_lies_far_off():
    source = heard(120, 1)
    assert tempo_drift(source, heard(60, 1)) < 1
    silence = np.zeros(len(source))
    assert tempo_drift(source, silence) == pytest.approx(WORST) and math.isnan(tempo_drift(silence, source))
    noise = [pulse(0.1 * torch.randn(10 * RATE, generator=torch.Generator().manual_seed(i)), RATE) for i in range(8)]
    far = float(np.mean([tempo_drift(source, one) for one in noise]))
    assert 10 < far < 30, "by chance it is 19"


def test_short_clips_are_measured_too():
    source, other = (pulse(drums(120, seed)[: 2 * RATE], RATE) for seed in (1, 2))
    assert tempo_drift(source, source) == 0 and tempo_drift(source, other) < WORST
    assert len(pulse(torch.zeros(10), RATE)) == 1 and math.isnan(tempo_drift(np.zeros(3), source))
