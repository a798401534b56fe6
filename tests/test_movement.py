"""The equaliser for the movement of decoded spectra."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from vampnet.checkpoints import load_codec_of
from vampnet.codec import SpectralCodec, SpectralCodecConfig, spectral
from vampnet.codec.bands import over_frequency
from vampnet.codec.movement import FAST_HZ, SIDE, SLOW_HZ, Movement, added, taps

TINY = SpectralCodecConfig(dim=16, encoder_layers=1, decoder_layers=1, kernel=3, rounds=3)
ONE_LONG = dataclasses.replace(TINY, window=4096, frames=1, short_frames=3)
RATE = 44_100 / 768


def gain_at(filtered: tuple[float, ...], hz: float) -> float:
    """Of a wave that moves so fast, by the filter's sums."""
    omega = 2 * math.pi * hz / RATE
    return filtered[0] + 2 * sum(weight * math.cos(away * omega) for away, weight in enumerate(filtered[1:], 1))


def test_gains_are_those_that_were_asked_for():
    filtered = taps(RATE, 1.2, 0.2)
    assert len(filtered) == SIDE + 1 and gain_at(filtered, 0) == pytest.approx(1, abs=1e-9)
    assert gain_at(filtered, SLOW_HZ / 4) == pytest.approx(1, abs=0.06)
    for hz in (2 * SLOW_HZ, 0.8 * FAST_HZ):
        assert gain_at(filtered, hz) == pytest.approx(1.2, abs=0.12)
    for hz in (1.5 * FAST_HZ, 2 * FAST_HZ):
        assert gain_at(filtered, hz) == pytest.approx(0.2, abs=0.08)
    assert taps(RATE, 1, 1) == pytest.approx((1, *SIDE * [0]), abs=1e-9)


@pytest.mark.parametrize("loop", [False, True])
def test_what_is_added_makes_waves_larger_or_smaller(loop):
    steps, filtered = 96, taps(RATE, 1.2, 0.2)
    turns = torch.tensor([0, 12, 36])  # in all: 0, 7.2 and 21.5 Hz
    waves = torch.cos(2 * math.pi * torch.arange(steps)[:, None] * turns / steps)[None]
    made = waves + added(waves, 0, steps, loop, filtered)
    inside = slice(None) if loop else slice(SIDE, -SIDE)
    wanted = waves * torch.tensor([gain_at(filtered, float(n) / steps * RATE) for n in turns])
    assert torch.allclose(made[:, inside], wanted[:, inside], atol=1e-5)
    assert torch.allclose(made[..., 0], waves[..., 0], atol=1e-6)
    assert made[:, inside, 2].abs().max() < 0.3 < 1.05 < made[:, inside, 1].abs().max()


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("steps", [5, 40])
def test_pieces_are_those_of_the_whole(steps, loop):
    x = torch.randn(2, steps, 3, generator=torch.Generator().manual_seed(1))
    filtered = taps(RATE, 1.1, 0.3)
    whole = added(x, 0, steps, loop, filtered)
    parts = [added(x, start, min(start + 3, steps), loop, filtered) for start in range(0, steps, 3)]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    if loop:
        assert torch.allclose(added(x.roll(2, 1), 0, steps, True, filtered), whole.roll(2, 1), atol=1e-6)
    else:
        same = x[:, :1].expand(-1, steps, -1)
        assert added(same, 0, steps, False, filtered).abs().max() < 1e-5


@pytest.mark.parametrize("config", [TINY, ONE_LONG], ids=["two spectra", "one long, three short"])
def test_fine_structure_alone_is_moved(config):
    torch.manual_seed(0)
    codec = SpectralCodec(dataclasses.replace(config, movement=1.3, flutter=0.1)).eval().requires_grad_(False)
    c, heard = codec.config, torch.randn(2, 30, config.dim)
    moved = Movement(codec.project_out.weight, c)
    more = moved(heard, 0, 30, False).unflatten(2, (c.frames, c.features))
    assert moved.rows == c.frames * c.features and more[..., c.fine_bins :].abs().max() == 0
    spectra = codec.project_out(heard)[..., : moved.rows].unflatten(2, (c.frames, c.features))[..., : c.fine_bins]
    fine = (spectra - over_frequency(spectra.flatten(1, 2)).view_as(spectra)).flatten(2)
    wanted = added(fine, 0, 30, False, taps(c.sample_rate / c.hop, 1.3, 0.1)).view_as(spectra)
    assert torch.allclose(more[..., : c.fine_bins], wanted, atol=1e-4) and wanted.abs().max() > 0.1


@pytest.mark.parametrize("loop", [False, True])
def test_long_clips_are_moved_in_pieces_as_at_once(monkeypatch, loop):
    torch.manual_seed(0)
    codec = SpectralCodec(dataclasses.replace(ONE_LONG, movement=1.5, flutter=0.0)).eval()
    steps = 200
    codes, seen = torch.randint(0, 1024, (1, 14, steps)), []
    plain = codec.heard_magnitudes
    monkeypatch.setattr(codec, "heard_magnitudes", lambda features: seen.append(features) or plain(features))
    codec.decode(codes, loop)
    whole = seen.pop()
    monkeypatch.setattr(spectral, "PIECE", 24)
    codec.decode(codes, loop)
    assert len(seen) > 1
    places = [whole.roll(-shift, 1) for shift in range(steps)] if loop else [whole[:, shift:] for shift in range(steps)]
    for part in seen:
        n = part.shape[1]
        assert min(float((place[:, :n] - part).abs().max()) for place in places if place.shape[1] >= n) < 1e-4


def test_a_ring_has_no_ends(monkeypatch):
    torch.manual_seed(0)
    codec = SpectralCodec(dataclasses.replace(ONE_LONG, movement=1.5, flutter=0.0)).eval()
    codes, seen = torch.randint(0, 1024, (1, 14, 30)), []
    plain = codec.heard_magnitudes
    monkeypatch.setattr(codec, "heard_magnitudes", lambda features: seen.append(features) or plain(features))
    for loop in (True, False):
        codec.decode(codes, loop)
        codec.decode(codes.roll(11, 2), loop)
        turned, straight = seen.pop(), seen.pop()
        assert torch.allclose(turned, straight.roll(11, 1), atol=1e-5) == loop


def test_the_bundled_codec_flutters_less_and_moves_more():
    codec = load_codec_of("mini").requires_grad_(False)
    c = codec.config
    assert c.movement > 1 > c.flutter
    seconds = torch.arange(4 * c.sample_rate) / c.sample_rate
    partials = sum(torch.sin(2 * math.pi * 110 * n * seconds) / n for n in range(1, 30))
    audio = 0.03 * partials * (1 + 0.8 * torch.sin(2 * math.pi * 6 * seconds)) + 0.01 * torch.randn(
        len(seconds), generator=torch.Generator().manual_seed(1)
    )
    codes = codec.encode(audio[None, None])

    def powers(features: torch.Tensor) -> tuple[float, float]:
        """Of the movement of the fine structure at 5 to 8 Hz, and above 16 Hz."""
        fine = features[..., : c.fine_bins] - over_frequency(features[..., : c.fine_bins])
        spectrum = torch.fft.rfft(fine - fine.mean(dim=1, keepdim=True), dim=1).abs().square().mean(dim=(0, 2))
        hz = torch.fft.rfftfreq(fine.shape[1], 1 / RATE)
        return float(spectrum[(hz > 5) & (hz < 8)].sum()), float(spectrum[hz > 16].sum())

    given, plain = [], codec.heard_magnitudes
    codec.heard_magnitudes = lambda features: given.append(powers(features)) or plain(features)

    def heard(movement: float, flutter: float) -> tuple[float, float]:
        codec.config = dataclasses.replace(c, movement=movement, flutter=flutter)
        return powers(codec.features(codec.decode(codes)[:, 0]))

    before, after = heard(1, 1), heard(c.movement, c.flutter)
    assert given[-1][0] > 1.1 * given[0][0] and given[-1][1] < 0.3 * given[0][1]
    # Of what flutters in sound the search for phases has made the most.
    assert after[0] > 1.1 * before[0] and after[1] < before[1]


@pytest.mark.parametrize("field", ["movement", "flutter"])
def test_factors_that_make_no_sense_are_refused(field):
    for value in (-0.1, 4.5, math.nan):
        with pytest.raises(ValueError, match="movement and flutter must lie between 0 and 4"):
            dataclasses.replace(TINY, **{field: value})
