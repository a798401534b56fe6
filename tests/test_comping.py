"""The best take for each bar: what stays of the chosen takes, and what is made anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_vampnet

from vampnet.beats import make_grid
from vampnet.bundle import read_bundle, write_bundle
from vampnet.comping import assemble, comp, joins, part_steps, part_times
from vampnet.config import Prompt, Sampling, TokenGrid
from vampnet.pipeline import VampNet

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 44_100
GRID = TokenGrid()
QUICK = Sampling(steps=2, fine_steps=1)


def grid_of(bpm: float, seconds: float, bar: int = 4, start: float = 0.0):
    beats = np.arange(start, seconds, 60 / bpm)
    return make_grid(beats, beats[::bar], "metronome", "")


# ------------------------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize(
    ("seconds", "grid", "parts"),
    [
        (8.0, grid_of(120, 8), [0, 2, 4, 6, 8]),
        (6.0, grid_of(120, 6, 3), [0, 1.5, 3, 4.5, 6]),
        (2.0, grid_of(120, 2), [0, 0.5, 1, 1.5, 2]),
        (4.0, grid_of(120, 4), [i / 2 for i in range(9)]),
        (8.0, grid_of(120, 8, start=0.5), [0, 0.5, 2.5, 4.5, 6.5, 8]),
        (8.0, None, [i / 1 for i in range(9)]),
        (4.0, make_grid([1.0], [], "librosa", ""), [i / 2 for i in range(9)]),
    ],
)
def test_parts_are_bars_or_beats_or_equal(seconds, grid, parts):
    found = part_times(round(seconds * RATE), RATE, grid)
    assert found[0] == 0 and found[-1] == pytest.approx(seconds)
    if grid is not None and grid.beats[0] == 0.5:  # half a second before the first bar line is no part of its own
        parts = [0, *parts[2:]]
    assert found == pytest.approx(parts, abs=0.02)


def test_a_long_clip_has_no_more_parts_than_fit_on_a_page():
    found = part_times(600 * RATE, RATE, grid_of(174, 600))
    assert 20 < len(found) - 1 <= 64 and all(b > a for a, b in zip(found[:-1], found[1:], strict=True))


def test_parts_in_time_steps_of_a_ring():
    samples = 88_773
    times = [i * samples / RATE / 4 for i in range(5)]
    assert part_steps(times, samples, GRID, RATE, True) == [0, 29, 58, 87, 116]
    assert part_steps(times, samples, GRID, RATE, False) == [0, 29, 58, 87, 116]
    assert part_steps([0, 1, 2.001], round(2.001 * 48_000), GRID, 48_000, False)[-1] == GRID.samples_to_tokens(88_244)


# -------------------------------------------------------------------------------------------------------- tokens and joins


def test_the_chosen_takes_lie_side_by_side():
    tokens = torch.arange(3)[:, None, None].expand(3, 2, 10)
    assert assemble(tokens, [2, 0, 1], [0, 4, 5, 10])[0, 0].tolist() == [2] * 4 + [0] + [1] * 5
    halves = [0, 5, 10]
    for choice, bounds in (([0, 3], halves), ([0], halves), ([0, 1], [0, 5, 9]), ([-1, 0], halves), ([0, True], halves)):
        with pytest.raises(ValueError):
            assemble(tokens, choice, bounds)


def test_joins_lie_where_the_take_changes():
    def steps(choice, loop=False):
        return joins(choice, [0, 20, 40, 60], 3, GRID, 0.1, loop)[0, 0].nonzero()[:, 0].tolist()

    assert steps([1, 1, 1], True) == []
    assert steps([0, 1, 1]) == [17, 18, 19, 20, 21, 22]
    assert steps([0, 1, 1], True) == [0, 1, 2, 17, 18, 19, 20, 21, 22, 57, 58, 59]
    assert steps([0, 1, 0], True) == [17, 18, 19, 20, 21, 22, 37, 38, 39, 40, 41, 42]
    wide = joins([0, 1], [0, 5, 10], 3, GRID, 5.0)
    assert wide.shape == (1, 3, 10) and wide[0, 2].nonzero()[:, 0].tolist() == [4, 5]
    assert joins([0, 1], [0, 5, 10], 1, GRID, 0.0).sum() == 2


# ------------------------------------------------------------------------------------------------------------ with a model


@pytest.fixture(scope="module")
def vn() -> VampNet:
    return tiny_vampnet()


@pytest.fixture(scope="module")
def made(vn, make_music):
    source = (torch.from_numpy(make_music(2.0))[:, :88_001], RATE)
    vamp = vn.vamp(source, Prompt(periodic=0), QUICK, 2, 5, loop=True)
    return vamp, vn.listen(vamp.source, loop=True)


def test_only_the_joins_are_made_anew(vn, made):
    vamp, clip = made
    bounds = part_steps([0, 0.5, 1.0, 1.5, 2.0], 88_001, vn.grid, RATE, True)
    said = []
    sound, tokens, mask = comp(vn, clip, vamp.tokens, [0, 1, 1, 0], bounds, QUICK, 1, on_step=lambda *s: said.append(s[0]))
    laid = assemble(vamp.tokens, [0, 1, 1, 0], bounds)
    assert torch.equal(tokens[~mask], laid[~mask]) and not torch.equal(tokens, laid)
    assert 0 < mask.float().mean() < 0.3 and sound.audio_data.shape == vamp.source.audio_data.shape
    assert set(said) == {"coarse", "fine", "decode"}
    again = comp(vn, clip, vamp.tokens, [0, 1, 1, 0], bounds, QUICK, 1)
    assert torch.equal(again[1], tokens)
    assert not torch.equal(comp(vn, clip, vamp.tokens, [0, 1, 1, 0], bounds, QUICK, 2)[1], tokens)


def test_without_a_word_it_sounds_as_the_model_says(made, monkeypatch):
    (vamp, clip), own, said = made, tiny_vampnet(), []
    own.sampling = Sampling(balance=0.25)
    monkeypatch.setattr(own, "render", lambda *given, balance: said.append(balance))
    for given in (None, Sampling(balance=0.5)):
        comp(own, clip, vamp.tokens[1:], [0], [0, vamp.tokens.shape[-1]], given)
    assert said == [0.25, 0.5]


def test_one_take_throughout_comes_out_as_it_was(vn, made):
    vamp, clip = made
    sound, tokens, mask = comp(vn, clip, vamp.tokens, [1, 1], [0, 50, vamp.tokens.shape[-1]], QUICK)
    assert not mask.any() and torch.equal(tokens, vamp.tokens[1:])
    assert torch.allclose(sound.audio_data, vamp.takes[1].audio_data, atol=1e-5)
    with pytest.raises(ValueError, match="do not fit the clip"):
        comp(vn, clip, vamp.tokens[..., :-20], [1], [0, 10])


def test_every_part_is_as_loud_as_in_its_take(vn, make_music):
    """Where half of a soft clip is made anew, its takes keep their level and are not as loud as the clip."""
    source = 0.5 * torch.from_numpy(make_music(2.0))[:, :88_200]
    source[:, 44_100:] *= 0.2
    vamp = vn.vamp((source, RATE), Prompt(periodic=0, region=(0.0, 1.0)), QUICK, 2, 5)
    clip, steps = vn.listen((source, RATE)), vamp.tokens.shape[-1]

    def level(sound, start: float, end: float) -> float:
        return 10 * float(sound.audio_data[..., round(start * RATE) : round(end * RATE)].square().mean().log10())

    alone = comp(vn, clip, vamp.tokens, [0, 0], [0, steps // 2, steps], QUICK, takes=vamp.takes)[0]
    assert torch.allclose(alone.audio_data, vamp.takes[0].audio_data, atol=2e-3)
    mixed = comp(vn, clip, vamp.tokens, [0, 1], [0, steps // 2, steps], QUICK, takes=vamp.takes)[0]
    assert abs(level(mixed, 1.3, 1.9) - level(vamp.takes[1], 1.3, 1.9)) < 0.3
    assert abs(level(mixed, 0.1, 0.7) - level(vamp.takes[0], 0.1, 0.7)) < 0.3


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("choice", [[0, 1] * 4, [0] * 4 + [1] * 4])
def test_parts_too_short_to_be_faded_are_heard_all_the_same(vn, make_music, choice, loop):
    """A clip of a fifth of a second in as many parts as a page offers: nothing of it is silent."""
    vamp = vn.vamp((torch.from_numpy(make_music(1.0))[:, :8_820], RATE), Prompt(periodic=0), QUICK, 2, 5, loop=loop)
    clip, steps = vn.listen(vamp.source, loop=loop), vamp.tokens.shape[-1]
    bounds = [round(part * steps / 8) for part in range(9)]
    sound = comp(vn, clip, vamp.tokens, choice, bounds, QUICK, takes=vamp.takes)[0].audio_data
    power = sound.square().unfold(-1, 441, 441).mean(dim=(1, 3))
    least = min(float(take.audio_data.square().unfold(-1, 441, 441).mean(dim=(1, 3)).min()) for take in vamp.takes)
    assert float(power.min()) > 0.1 * least > 0


@pytest.mark.parametrize("samples", [44_100, 61_234, 100_000])
def test_takes_of_a_ring_that_was_made_longer(vn, make_music, samples, tmp_path):
    """It keeps the stretch of what it was made of, and so lies in another number of time steps than the nearest one."""
    music = torch.from_numpy(make_music(seconds=3.0))[:, :samples]
    vamp = vn.vamp((music, RATE), Prompt(periodic=4), QUICK, takes=2, loop=True, extend=(0.0, 4.0))
    write_bundle(vamp, tmp_path / "vamp")
    again = read_bundle(tmp_path / "vamp")
    assert torch.equal(again.tokens, vamp.tokens)
    length, steps = vamp.source.audio_data.shape[-1], vamp.tokens.shape[-1]
    times = part_times(length, RATE, None)
    bounds = part_steps(times, length, GRID, RATE, True, steps)
    assert bounds[-1] == steps and bounds == sorted(bounds)
    clip = vn.listen(vamp.source, loop=True)
    sound, tokens, mask = comp(vn, clip, vamp.tokens, [0, 1] * 4, bounds, QUICK, takes=vamp.takes)
    assert sound.audio_data.shape[-1] == length and tokens.shape[-1] == mask.shape[-1] == steps
    with pytest.raises(ValueError, match="use the model that made them"):
        comp(vn, clip, vamp.tokens[..., : steps // 2], [0, 1], [0, 5, steps // 2], QUICK)
    with pytest.raises(ValueError, match="are not the tokens of this ring"):
        vn.render(clip, vamp.tokens[:1, :, : steps // 2])
