"""What is worked out in pieces is what librosa makes of the whole, in less memory."""

from __future__ import annotations

import tracemalloc

import librosa
import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from vampnet import attacks, flux
from vampnet.attacks import at_attacks

RATE = 44_100
LEAD = 11_025


def hits(seconds: float, bpm: float = 117) -> np.ndarray:
    """(N,) float32: decaying noise on every beat, over a little noise; not a whole number of frames."""
    generator = np.random.default_rng(0)
    x = 1e-3 * generator.normal(size=round(seconds * RATE) + 77)
    for start in range(5_000, len(x) - 9_000, round(60 / bpm * RATE)):
        x[start : start + 9_000] += np.exp(-np.arange(9_000) / 900) * generator.normal(size=9_000)
    return x.astype(np.float32)


@pytest.fixture(params=[37, flux.FRAMES])
def frames(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(flux, "FRAMES", request.param)
    return request.param


@pytest.mark.parametrize("seconds", [0.01, 3.3, 14.0])
def test_flux_and_tempo_are_librosas(frames: int, seconds: float) -> None:
    samples = hits(seconds)
    padded = np.concatenate([np.zeros(LEAD, np.float32), samples])
    whole = librosa.onset.onset_strength(y=padded, sr=RATE, hop_length=flux.HOP, n_fft=flux.N_FFT, aggregate=np.median)
    strength = flux.onset_strength(samples, RATE, LEAD)
    assert strength.shape == whole.shape and np.allclose(strength, whole, atol=1e-3)
    if seconds > 1:
        wanted = librosa.feature.tempo(onset_envelope=whole, sr=RATE, hop_length=flux.HOP)
        assert flux.tempo(whole, RATE) == pytest.approx(wanted) and abs(float(wanted[0]) - 117) < 3


@pytest.mark.parametrize("block", [1_000, 1 << 19])
def test_bass_is_summed_across_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(flux, "_BLOCK", block)
    samples, length = hits(2.0), 3_528
    starts = [0, 500, 999, 1_000, 20_000, 20_100, len(samples) - 100, len(samples) + 50]
    low = np.square(sosfilt(butter(2, flux.BASS_HZ, "lowpass", fs=RATE, output="sos"), samples))
    wanted = [low[start : start + length].sum() for start in starts]
    assert np.allclose(flux.bass_power(samples, RATE, starts, length), wanted, rtol=1e-6)


def test_attacks_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = hits(2.0)
    times = [(5_000 + i * round(60 / 117 * RATE)) / RATE + 0.009 for i in range(3)]
    found = at_attacks(samples, RATE, times)
    assert max(abs(time - 0.009 - at) for time, at in zip(times, found, strict=True)) < 0.0015
    monkeypatch.setattr(flux, "_BLOCK", 500)
    assert at_attacks(samples, RATE, times) == found
    assert attacks.at_attacks(samples[:3], RATE, [0.0]) == [0.0]


def test_memory_is_that_of_pieces() -> None:
    """All spectra and tempograms of these four minutes would take 700 MB."""
    samples = hits(240.0)
    flux.tempo(flux.onset_strength(samples[:RATE], RATE, LEAD), RATE)
    tracemalloc.start()
    try:
        strength = flux.onset_strength(samples, RATE, LEAD)
        flux.tempo(strength, RATE)
        flux.bass_power(samples, RATE, [0, RATE], 3_528)
        at_attacks(samples, RATE, [1.0, 200.0])
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 80e6
