"""Phases that go on from frame to frame, and the search that begins with them."""

import math

import pytest
import torch

from vampnet.codec import search
from vampnet.codec.griffin_lim import griffin_lim, griffin_lim_pieces, spectrum
from vampnet.codec.phases import track

HOP, WINDOW = 384, torch.hann_window(2048)
RATE = 22_050


def tones(frames: int, frequencies: tuple[float, ...] = (220.0, 347.3, 1251.7), bend: float = 0.0) -> torch.Tensor:
    """(1, frames * HOP), each with a phase of its own; `bend` is by how much they rise over the clip, as a share."""
    time = torch.arange(frames * HOP, dtype=torch.float64) / RATE
    turns = time + bend * time.square() / (2 * time[-1])
    return sum(0.2 * torch.sin(2 * math.pi * f * turns + i) for i, f in enumerate(frequencies))[None].float()


@pytest.mark.parametrize("bend", [0.0, 0.05])
def test_the_phases_of_tones_are_right_but_for_one_number_each(bend):
    truth = spectrum(tones(60, bend=bend), WINDOW, HOP)
    made = torch.view_as_complex(torch.stack(track(truth.abs(), HOP), dim=-1))
    assert made.abs().sub(1).abs().max() < 1e-5
    off = torch.angle(made * truth.conj())[0, 3:-3]
    for frequency in (220.0, 347.3, 1251.7):
        about = round(frequency * (1 + bend / 2) * 2048 / RATE)
        # Around the peak all bins are off by the same angle, which hardly changes from frame to frame.
        here = torch.view_as_real(torch.polar(torch.ones(3), off[27, about - 1 : about + 2])).mean(0)
        assert here.norm() > 0.99
        near = off[22:33, about]  # later and before, a tone that rises has another bin
        steps = torch.angle(torch.polar(torch.ones(10), near.diff()))
        assert steps.abs().median() < 0.1  # of 0.4 to 2.4 radians by which they go on


def test_what_is_known_is_gone_on_from():
    truth = spectrum(tones(60), WINDOW, HOP)
    made = torch.view_as_complex(torch.stack(track(truth.abs(), HOP, truth[:, :20]), dim=-1))
    assert torch.allclose(made[:, :20], torch.sgn(truth[:, :20]), atol=1e-5)
    peaks = [round(f * 2048 / RATE) for f in (220.0, 347.3, 1251.7)]
    assert torch.angle(made * truth.conj())[0, 20:30, peaks].abs().max() < 0.2
    assert (
        torch.angle(torch.view_as_complex(torch.stack(track(truth.abs(), HOP), dim=-1)) * truth.conj())[0, 20:30, peaks]
        .abs()
        .max()
        > 0.2
    )


def test_they_are_the_same_each_time_for_each_item_and_for_silence():
    magnitudes = torch.rand(3, 12, 1025)
    magnitudes[1, 4:7] = 0
    one, again = track(magnitudes, HOP), track(magnitudes, HOP)
    assert all(map(torch.equal, one, again)) and torch.equal(one[0][2:], track(magnitudes[2:], HOP)[0])
    assert all(torch.isfinite(part).all() for part in one)
    assert (one[0].square() + one[1].square()).sub(1).abs().max() < 1e-5


@pytest.mark.parametrize("compiled", [True, False])
def test_a_search_that_begins_there_is_nearer(monkeypatch, compiled):
    if not compiled:
        monkeypatch.setattr(search, "fits", lambda *given: False)
    sizes = spectrum(tones(80, bend=0.02), WINDOW, HOP).abs()
    found = (griffin_lim(sizes, WINDOW, HOP, 2, 0.5, track=way) for way in (False, True))
    white, tracked = (float((spectrum(audio, WINDOW, HOP).abs() - sizes).norm()) for audio in found)
    assert tracked < 0.3 * white


@pytest.mark.parametrize("loop", [False, True])
def test_pieces_join_without_a_step(loop):
    sizes = spectrum(tones(200), WINDOW, HOP, loop).abs()
    whole = griffin_lim(sizes, WINDOW, HOP, 16, 0.5, loop=loop, track=True)
    given = {"rounds": 16, "loop": loop, "piece": 64, "context": 16, "momentum": 0.5, "track": True}
    pieces = griffin_lim_pieces(lambda a, b: sizes[:, a:b], 200, WINDOW, HOP, **given)
    assert pieces.shape == whole.shape and pieces[0].diff().abs().max() < 1.5 * whole[0].diff().abs().max()
    off = [float((spectrum(x, WINDOW, HOP, loop).abs() - sizes).norm() / sizes.norm()) for x in (whole, pieces)]
    assert off[1] < off[0] + 0.1
