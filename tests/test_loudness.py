"""Loudness, the codec's level, the limiter, on audio that the tests make themselves."""

import math

import numpy as np
import pyloudnorm
import pytest
import torch
from scipy.signal import resample_poly

from vampnet import audio
from vampnet.audio import limit, load, make_signal, measure_loudness, restore_loudness, to_codec_level
from vampnet.limiter import true_peaks, with_gain
from vampnet.loudness import POINT, Loudness

RATE = 44_100


def tone(seconds=1.0, rate=RATE, channels=2, frequency=440.0, level=0.3):
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([level * np.sin(2 * np.pi * frequency * t + c) for c in range(channels)], axis=1).astype(np.float32)


def hits(seconds=2.0, level=1.0, floor=0.02, rate=RATE):
    """(1, 2, N): quiet noise with a loud, short hit every 250 ms; sharp peaks above a low average."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, round(seconds * rate))) * floor
    for start in range(0, x.shape[1] - 2000, rate // 4):
        x[:, start : start + 2000] += level * np.exp(-np.arange(2000) / 150) * np.sin(np.arange(2000) * 0.3)
    return torch.from_numpy(x).float()[None]


def test_loudness_of_a_known_tone():
    # BS.1770: a 997 Hz full-scale sine in one channel reads -3.01 LUFS; in both, 3.01 dB more.
    one = make_signal(torch.from_numpy(tone(3.0, channels=1, frequency=997.0, level=1.0).T.copy())[None], RATE)
    assert abs(measure_loudness(one) + 3.01) < 0.1
    both = make_signal(one.audio_data.repeat(1, 2, 1), RATE)
    assert abs(measure_loudness(both) - measure_loudness(one) - 3.01) < 0.01


@pytest.mark.parametrize("seconds", [0.1, 0.25, 0.4, 0.7])
def test_short_clips_are_measured_as_loops(seconds):
    x = torch.from_numpy(tone(3.0, channels=1, frequency=1000.0).T.copy())[None]
    short = make_signal(x[..., : round(seconds * RATE)], RATE)
    assert abs(measure_loudness(short) - measure_loudness(make_signal(x, RATE))) < 0.3


@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050, 32_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_loudness_is_that_of_a_meter(rate, channels):
    x = hits(3.37, level=0.2, floor=0.01)[0, :channels, : round(3.37 * rate)].numpy()
    x[:, rate : 2 * rate] *= 0.01  # the gates have something to leave out
    meter = pyloudnorm.Meter(rate).integrated_loudness(x.T.astype(np.float64))
    assert abs(Loudness(x, rate).measure() - meter) < (1e-6 if rate % 300 == 0 else 2e-3)


@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_loudness_under_a_gain_is_told_in_advance(seconds):
    x = hits(seconds, level=0.2, floor=0.01)[0].numpy()
    loudness = Loudness(x, RATE)
    assert abs(loudness.measure(0.5) - loudness.measure() + 6.0206) < 1e-3
    points = x.shape[-1] // POINT
    gain = 0.6 + 0.4 * np.sin(np.arange(points) * 4 * np.pi / points)
    under = with_gain(x, gain, 1.0, loop=True)
    assert abs(loudness.measure(gain) - Loudness(under, RATE).measure()) < 0.03


def test_peaks_between_the_samples_are_those_of_a_resampler():
    x = hits(1.0, level=0.5)[0].numpy()
    fine = np.abs(resample_poly(x, 4, 1, axis=-1)).max(axis=0)
    expected = np.array([part.max() for part in np.split(fine, np.arange(4 * POINT, len(fine), 4 * POINT))])
    assert np.allclose(true_peaks(x), expected, rtol=1e-3, atol=1e-5)  # its own samples come out 0.05 % larger there
    for loop in (False, True):
        whole = true_peaks(x, loop)
        for above in (0.02, 0.1, 0.3, 2.0):
            found = true_peaks(x, loop, above)
            assert np.array_equal(found[whole > above], whole[whole > above]) and (found <= whole).all()
            assert (found < whole).any() or above < 0.3  # where nobody looked
    ring = true_peaks(np.roll(x, 50 * POINT, axis=-1), loop=True)
    assert np.allclose(np.roll(true_peaks(x, loop=True), 50), ring, atol=1e-6)


def test_loudness_never_fails():
    assert measure_loudness(make_signal(torch.zeros(1, 2, RATE), RATE)) == -math.inf
    faint = measure_loudness(make_signal(torch.full((1, 1, RATE), 1e-6), RATE))
    assert math.isfinite(faint) and faint < -100


def test_codec_level():
    signal = load((RATE, tone(2.0)))
    level, gain = to_codec_level(signal)
    assert abs(measure_loudness(level) + 24) < 0.05
    assert torch.allclose(level.audio_data, signal.audio_data * gain)
    silent, gain = to_codec_level(make_signal(torch.zeros(1, 1, RATE), RATE))
    assert gain == 1.0 and not silent.audio_data.any()


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("samples", [4410, 44_111, 88_200])
def test_limiter_holds_the_ceiling_and_only_turns_peaks_down(samples, loop):
    x = hits(2.0, level=3.0)[..., :samples]
    out = limit(make_signal(x, RATE), -1.0, loop)
    y = out.audio_data
    ceiling = 10 ** (-1 / 20)
    assert y.shape == x.shape and float(y.abs().max()) <= ceiling + 1e-7
    assert true_peaks(y[0].numpy(), loop).max() < ceiling * 1.02
    gain = (y / x)[0]
    assert torch.allclose(gain[0], gain[1], atol=1e-3), "both channels are turned down together"
    quiet = gain[0, 8500:10_000] if samples > 10_000 else gain[0, -200:]
    assert float(gain.max()) < 1.0001 and (loop or samples < 10_000 or float(quiet.min()) > 0.95)
    # No clicks: the gain moves by little from one sample to the next, across the seam too.
    steps = (gain[0].roll(-1) - gain[0]).abs() if loop else gain[0].diff().abs()
    assert float(steps.max()) < 0.02


def test_limiter_sees_peaks_between_the_samples():
    n = torch.arange(RATE)
    x = torch.sin(math.pi / 2 * n + math.pi / 4)[None, None] * 1.3  # samples at 0.92, the wave itself at 1.3
    y = limit(make_signal(x, RATE), -0.3).audio_data
    assert float(y.abs().max()) < 0.7


def test_limiter_leaves_what_is_below_the_ceiling():
    x = torch.from_numpy(tone(1.0).T.copy())[None]
    assert torch.equal(limit(make_signal(x, RATE)).audio_data, x)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("target", [-30.0, -14.0, -9.0])
def test_loudness_comes_back_without_clipping(target, loop):
    take = make_signal(hits(3.0, level=0.2, floor=0.01), RATE)
    out = restore_loudness(take, target, loop=loop)
    assert out.audio_data.shape == take.audio_data.shape
    assert float(out.audio_data.abs().max()) <= 10 ** (audio.CEILING_DBTP / 20) + 1e-6
    assert abs(measure_loudness(out) - target) < 0.3


def test_restoring_is_bounded():
    silent = make_signal(torch.zeros(1, 1, RATE), RATE)
    assert not restore_loudness(silent, -14.0).audio_data.any()
    faint = make_signal(hits(1.0) * 1e-4, RATE)
    turned_up = restore_loudness(faint, -10.0).audio_data
    assert float((turned_up.abs().max() / faint.audio_data.abs().max()).log10() * 20) < audio.MAX_GAIN_DB + 0.1
