"""Seams and bars, with grids written by hand; the tracked ones are in test_beats.py."""

import math

import numpy as np
import pytest
import torch

from vampnet.audio import make_signal
from vampnet.beats import BeatGrid, make_grid
from vampnet.loops import bars, close_seam, fit_ring, roll, seam_step, trim_to_bars

RATE = 44_100


def noise(samples=RATE, channels=2, seed=0):
    return torch.randn(1, channels, samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def ring(samples=RATE, periods=100):
    """A wave that fits its ring exactly."""
    t = torch.arange(samples, dtype=torch.float64) / samples
    return torch.sin(2 * math.pi * periods * t).float()[None, None] * 0.5


def grid(bpm, seconds, first=0.0, downbeat=0, jitter=0.0, seed=0, missing=()):
    period = 60 / bpm
    generator = np.random.default_rng(seed)
    times = first + period * np.arange(int((seconds - first) / period + 1e-6) + 1)
    times = [t + jitter * generator.uniform(-1, 1) for t in times[times < seconds - 1e-6]]
    beats = [t for i, t in enumerate(times) if i not in missing]
    return make_grid(beats, times[downbeat::4], "librosa", "")


def clip(seconds):
    return make_signal(torch.zeros(1, 1, round(seconds * RATE)), RATE)


@pytest.mark.parametrize("samples", [0, 1, -7, 500, RATE, 3 * RATE + 5])
def test_roll_turns_and_turns_back(samples):
    x = make_signal(noise(), RATE)
    turned = roll(x, samples)
    assert torch.equal(turned.audio_data[..., 0], x.audio_data[..., samples % RATE])
    assert torch.equal(roll(turned, -samples).audio_data, x.audio_data)


def test_seam_step():
    assert seam_step(make_signal(torch.tensor([[[0.0, 0.1, 0.4, 0.9]]]), RATE)) == pytest.approx((0.9, 0.5))
    across, inside = seam_step(make_signal(ring(), RATE))
    assert across <= inside * 1.001
    assert seam_step(make_signal(torch.zeros(1, 1, 1), RATE)) == (0.0, 0.0)


def test_a_good_seam_is_left_alone():
    for audio in (ring(), torch.zeros(1, 2, 1000)):
        assert torch.equal(close_seam(make_signal(audio, RATE)).audio_data, audio)


@pytest.mark.parametrize("samples", [101, 4410, 44_100, 44_477])
@pytest.mark.parametrize("frequency", [55.0, 441.3])
def test_a_click_at_the_seam_goes(samples, frequency):
    t = torch.arange(samples) / RATE
    audio = torch.stack([torch.cos(2 * math.pi * frequency * t), torch.sin(2 * math.pi * frequency * t + 2)])[None] * 0.5
    audio = audio * torch.linspace(1, -0.5, samples)
    before = make_signal(audio, RATE)
    assert seam_step(before)[0] > seam_step(before)[1]
    after = close_seam(before)
    across, inside = seam_step(after)
    assert after.audio_data.shape == audio.shape and across <= inside
    assert float(after.audio_data.abs().max()) <= 0.72
    untouched = samples - min(441, samples // 2)
    assert torch.equal(after.audio_data[..., :untouched], audio[..., :untouched])


def test_a_small_click_in_a_loud_clip_is_a_click():
    audio = ring(RATE, 50) * 0.01
    audio[..., 20_000:24_000] = noise(4000, 1) * 5
    audio[..., -300:] += torch.linspace(0, 0.2, 300)
    closed = close_seam(make_signal(audio, RATE))
    assert float((closed.audio_data[..., 0] - closed.audio_data[..., -1]).abs().max()) < 0.01


@pytest.mark.parametrize("cut", [0, 1, 5, 300, 767])
def test_a_ring_cut_short_is_a_ring_again(cut):
    whole = make_signal(ring(RATE, 99) + 0.1 * ring(RATE, 5000), RATE)
    out = fit_ring(whole, RATE - cut)
    assert out.audio_data.shape[-1] == RATE - cut
    across, inside = seam_step(out)
    assert across <= max(inside, seam_step(whole)[1]) * 1.001
    assert torch.equal(out.audio_data[..., : RATE // 2], whole.audio_data[..., : RATE // 2])
    # Like material is not swelled by the crossfade.
    assert float(out.audio_data.abs().max()) <= float(whole.audio_data.abs().max()) * 1.05


def test_fit_ring_refuses_to_stretch():
    for samples in (0, RATE + 1):
        with pytest.raises(ValueError, match="cannot be cut"):
            fit_ring(make_signal(ring(), RATE), samples)


@pytest.mark.parametrize("bpm", [60, 87.3, 100, 120, 128, 140, 174])
@pytest.mark.parametrize("first", [0.0, 0.31, 1.7])
def test_bars_have_the_length_of_the_beat(bpm, first):
    bar = 240 / bpm
    seconds = first + 6.4 * bar
    start, end = bars(clip(seconds), grid(bpm, seconds, first, jitter=0.006), 4)
    assert abs((end - start) / RATE - 4 * bar) < 0.010
    # It starts where a bar starts.
    off = (start / RATE - first) / bar
    assert abs(off - round(off)) * bar < 0.010


@pytest.mark.parametrize("bpm", [90, 120, 133.7])
@pytest.mark.parametrize("count, error", [(1, 1.015), (2, 0.99), (4, 0.99), (4, 1.01), (8, 0.995), (8, 1.0), (32, 1.001)])
def test_a_clip_of_whole_bars_is_its_own_length(bpm, count, error):
    """Beats that start late and a tempo that is a little off change nothing."""
    seconds = count * 240 / bpm
    tracked = grid(bpm * error, seconds, first=0.03, missing=(0, 5))
    assert bars(clip(seconds), tracked) == (0, round(seconds * RATE))
    assert bars(clip(seconds), tracked, count) == (0, round(seconds * RATE))
    if count > 1:
        start, end = bars(clip(seconds), tracked, count // 2)
        if count <= 8:
            assert start == 0 and abs(end - round(seconds * RATE / 2)) <= 1


def test_part_of_a_whole_clip_starts_at_the_asked_bar():
    tracked = grid(120, 8.0)
    assert bars(clip(8.0), tracked, 2, at=3.0) == (4 * RATE, 8 * RATE)
    assert bars(clip(8.0), tracked, 1, at=2.0) == (2 * RATE, 4 * RATE)


def test_a_pickup_is_not_the_first_bar():
    seconds = 0.5 * 2 + 9 * 2.0 + 0.7
    start, end = bars(clip(seconds), grid(120, seconds, first=0.0, downbeat=2), 4)
    assert abs(start / RATE - 1.0) < 0.005 and abs(end - start - 8 * RATE) < 50


def test_beats_that_set_in_late_leave_the_bars_before_them():
    """Nine bars, beats heard in the last two only: four bars can still be had, and end inside the clip."""
    seconds = 9.4 * 2.0
    late = grid(120, seconds, first=14.0)
    start, end = bars(clip(seconds), late, 4)
    assert 0 <= start < end <= round(seconds * RATE) and abs(end - start - 8 * RATE) < 100


def test_missed_beats_and_one_stray_do_not_bend_the_bar():
    seconds = 20.7
    tracked = grid(120, seconds, 0.2, jitter=0.004, missing=(3, 4, 9))
    tracked = BeatGrid(tuple(sorted([*tracked.beats, 5.47])), tracked.downbeats, tracked.tempo)
    start, end = bars(clip(seconds), tracked, 4)
    assert abs(end - start - 8 * RATE) < 0.010 * RATE


def test_three_four():
    times = 0.25 + 0.5 * np.arange(40)
    waltz = make_grid(times, times[::3], "beat-this", "")
    assert waltz.beats_per_bar == 3
    start, end = bars(clip(20.6), waltz, 4)
    assert abs(end - start - 6 * RATE) < 50


def test_too_few_bars_get_a_sentence_that_counts():
    with pytest.raises(ValueError, match="only 2 whole bars, and 4 were wanted: ask for at most 2"):
        bars(clip(4.0), grid(120, 4.0), 4)
    with pytest.raises(ValueError, match="only 1 whole bar from 5 s on"):
        bars(clip(8.0), grid(120, 8.0), 2, at=5.0)
    with pytest.raises(ValueError, match="no whole bar"):
        bars(clip(1.2), grid(120, 1.2), 1)
    with pytest.raises(ValueError, match="no whole bar"):
        bars(clip(8.0), grid(120, 8.0), 1, at=99.0)
    for empty in (BeatGrid(), make_grid([1.0], [], "librosa", "")):
        with pytest.raises(ValueError, match="No steady beat"):
            bars(clip(4.0), empty, 1)
    with pytest.raises(ValueError, match="at least 1"):
        bars(clip(4.0), grid(120, 4.0), 0)


def test_trim_shifts_the_beats():
    seconds = 12.9
    tracked = grid(120, seconds, first=0.4)
    out, cut = trim_to_bars(make_signal(noise(round(seconds * RATE)), RATE), tracked, 2, at=2.0)
    assert out.audio_data.shape == (1, 2, 4 * RATE)
    assert len(cut.beats) == 8 and cut.beats[0] == pytest.approx(0.0, abs=0.002) and cut.downbeats == cut.beats[::4]
    assert cut.beats[-1] == pytest.approx(3.5, abs=0.002) and cut.tempo == tracked.tempo
