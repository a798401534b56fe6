"""Clips made longer: lengths to the sample, what is made and what stays, beats, image, settings."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_checkpoint, tiny_vampnet

from vampnet import bundle, cli, stereo
from vampnet.beats import make_grid
from vampnet.config import Prompt, Sampling, TokenGrid
from vampnet.extend import JOIN_STEPS, longer_beats, plan

RATE, HOP = 44_100, 768
GRID = TokenGrid()
QUICK = Sampling(steps=1, fine_steps=1)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vn():
    return tiny_vampnet()


def clip(make_music, samples, channels=2):
    return 0.3 * torch.from_numpy(make_music(seconds=samples / RATE + 0.01))[:channels, :samples], RATE


@pytest.mark.parametrize("samples", [44_100, 44_101, 50_000, 76_800, 9_001])
@pytest.mark.parametrize("seconds", [(0.0, 1.0), (0.5, 0.0), (0.3, 0.77), (0.0, 0.001), (0.0, 0.0)])
def test_a_clip_grows_by_what_was_asked_for(samples, seconds):
    added = plan(samples, seconds, GRID)
    assert added.offset == round(seconds[0] * RATE / HOP) * HOP
    assert added.length == added.offset + samples + round(seconds[1] * RATE)
    assert added.total == -(-added.length // HOP) and added.steps == -(-samples // HOP)
    ring = plan(samples, seconds, GRID, loop=True)
    step = samples / ring.steps
    assert abs(ring.length - samples - sum(seconds) * RATE) <= step + 1
    # A turn of the longer ring is as many samples a step as one of the clip itself, so that the clip stays in time.
    assert abs(ring.length / ring.total - step) <= 0.5 / ring.total and abs(ring.offset - ring.before * step) <= 0.5


def test_what_is_added_is_made_whatever_stays_of_the_clip():
    added = plan(100 * HOP, (0.5, 1.0), GRID)
    mask = added.mask(torch.zeros(1, 14, 100, dtype=torch.bool))
    made = added.made()
    assert mask.shape == (1, 14, added.total) and torch.equal(mask.all(1)[0], made) and torch.equal(mask.any(1)[0], made)
    kept = (~made).nonzero()[:, 0]
    assert int(kept[0]) == added.before + JOIN_STEPS and int(kept[-1]) == added.before + 99 - JOIN_STEPS
    assert plan(100 * HOP, (0, 1.0), GRID).made()[0].item() is False


@pytest.mark.parametrize(("seconds", "words"), [((-1, 0), "at least 0"), ((0, float("nan")), "at least 0"), ((0, 700), "less")])
def test_what_cannot_be_added_is_said(seconds, words):
    with pytest.raises(ValueError, match=words):
        plan(44_100, seconds, GRID)


@pytest.mark.parametrize("seconds", [4, None, ("a", 1), (0, 0, 0), (1,)])
def test_what_is_no_pair_of_seconds_is_said_before_anything_is_done(seconds):
    model = tiny_vampnet()
    model._encode = None
    for work in (model.vamp, model.listen):
        with pytest.raises(ValueError, match="two numbers of seconds"):
            work((torch.full((1, 9_000), 0.1), RATE), extend=seconds)


@pytest.mark.parametrize("before", [0.0, 0.3, 0.5])
def test_a_ring_loses_no_sample_to_rounding(before):
    for samples in range(4_410, 6_000, 7):
        added = plan(samples, (before, 0.0), GRID, loop=True)
        assert added.length >= added.offset + samples


@pytest.mark.parametrize("loop", [False, True])
def test_takes_are_longer_and_what_is_kept_stays_in_its_place(vn, make_music, loop, tmp_path):
    source = clip(make_music, 40_003)
    vamp = vn.vamp(source, Prompt(periodic=1), QUICK, 1, loop=loop, extend=(0.2, 0.5))
    plain = vn.vamp(source, Prompt(periodic=1), QUICK, 1, loop=loop)
    added = plan(40_003, (0.2, 0.5), vn.grid, loop)
    assert vamp.takes[0].audio_data.shape == vamp.source.audio_data.shape == (1, 2, added.length)
    inside = vamp.source.audio_data[..., added.offset : added.offset + 40_003]
    assert torch.equal(inside, plain.source.audio_data)
    assert float(vamp.source.audio_data.abs().sum()) == pytest.approx(float(inside.abs().sum()), rel=1e-6)
    assert vamp.tokens.shape[-1] == added.total and torch.equal(vamp.mask.all(1)[0], added.made())
    inner = slice(added.before + JOIN_STEPS, added.before + added.steps - JOIN_STEPS)
    assert torch.equal(vamp.tokens[..., inner], plain.source_tokens[..., JOIN_STEPS:-JOIN_STEPS])
    assert (vamp.extend, vamp.painted, plain.extend) == ((0.2, 0.5), False, (0.0, 0.0))
    bundle.write_bundle(vamp, tmp_path / "it")
    again = bundle.read_bundle(tmp_path / "it")
    assert again.extend == (0.2, 0.5) and torch.equal(again.mask, vamp.mask) and again.settings()["extend"] == [0.2, 0.5]


def test_a_painted_mask_is_used_and_kept_and_cannot_keep_what_is_not_there(vn, make_music, tmp_path):
    source = clip(make_music, 30_000, 1)
    added = plan(30_000, (0.0, 0.3), vn.grid)
    mask = torch.ones(1, 14, added.total, dtype=torch.bool)
    mask[:, :3] = False
    mask[:, :, 5] = False
    vamp = vn.vamp(source, Prompt(), QUICK, 1, mask=mask, extend=(0.0, 0.3))
    assert torch.equal(vamp.mask, mask | added.made()) and vamp.painted and vamp.settings()["painted"]
    bundle.write_bundle(vamp, tmp_path / "it")
    assert bundle.read_bundle(tmp_path / "it").painted and torch.equal(bundle.read_bundle(tmp_path / "it").mask, vamp.mask)
    with pytest.raises(ValueError, match="must be bool"):
        vn.vamp(source, Prompt(), QUICK, 1, mask=mask)


def test_beats_go_on_at_their_tempo():
    grid = make_grid([0.5, 1.0, 1.5, 2.0, 2.5], [1.0, 2.5], "librosa", "a waltz")
    assert grid.beats_per_bar == 3
    found = longer_beats(grid, 2.0, 7.0)
    assert np.allclose(found.beats, np.arange(0, 7.0, 0.5)) and np.allclose(found.downbeats, [0.0, 1.5, 3.0, 4.5, 6.0])
    lonely = longer_beats(make_grid([0.5], [], "librosa", ""), 1.0, 4.0)
    assert lonely.beats == (1.5,) and lonely.downbeats == ()


@pytest.mark.parametrize("loop", [False, True])
def test_the_image_is_held(make_music, loop):
    x, rate = clip(make_music, 30_000)
    from vampnet.audio import make_signal

    _, image = stereo.split(make_signal(x[None], rate), loop)
    held = stereo.longer(image, 20_000, 80_000)
    assert held.length == 80_000 and held.predicted.shape == held.remainder.shape
    frames = held.predicted.shape[1]
    before, after = int(frames * 0.15), int(frames * 0.85)
    assert torch.equal(held.predicted[:, 0], held.predicted[:, before])
    assert torch.allclose(held.predicted[:, after], held.predicted[:, -1])
    assert not torch.equal(held.predicted[:, 0], held.predicted[:, after])
    take = make_signal(torch.randn(1, 1, 80_000) * 0.1, rate)
    assert stereo.apply(take, held, loop).audio_data.shape == (1, 2, 80_000)
    assert dataclasses.replace(held, length=image.length).channels == 2


def test_the_command_line_extends(tmp_path, make_music):
    model = tiny_checkpoint(tmp_path / "tiny")
    soundfile.write(tmp_path / "in.wav", make_music(0.6).T, RATE)
    options = ["--steps", "1", "--fine-steps", "1", "--takes", "1", "--quiet", "--device", "cpu", "--extend", "0.1", "0.25"]
    assert cli.main(["vamp", str(tmp_path / "in.wav"), "-o", str(tmp_path), "--model", str(model), *options]) == 0
    made = soundfile.info(tmp_path / "in-take-1.wav")
    assert made.frames == round(0.1 * RATE / HOP) * HOP + round(0.6 * RATE) + round(0.25 * RATE)


def test_what_is_rounded_counts_too():
    with pytest.raises(ValueError, match="longer than 10 minutes"):
        plan(round(599.5 * 44_100), (0.5, 0), TokenGrid())
    none = plan(88_200, (0.005, 0.0), TokenGrid())
    assert none.before == 0 and none.samples == 88_200 and not none.made().any(), "nothing is added, so nothing joins it"
    for given in (2.0, (1,), (1, 2, 3), None, "ab"):
        with pytest.raises(ValueError, match="two numbers of seconds"):
            plan(88_200, given, TokenGrid())


def test_what_stays_is_as_loud_as_it_was_beside_what_is_added(vn, make_music):
    source = torch.from_numpy(make_music(2.0))[:, : round(0.7 * 44_100)], 44_100
    alone, decoded = vn.vamp(source, Prompt(periodic=1), QUICK), Prompt(periodic=1, original_sound=False)
    for extend in ((0, 3), (2, 3)):
        take = vn.vamp(source, decoded, QUICK, extend=extend).takes[0].audio_data
        first = vn.grid.tokens_to_samples(vn.grid.seconds_to_tokens(extend[0]))
        heard, wanted = take[..., first : first + 22_050], alone.takes[0].audio_data[..., :22_050]
        levels = [float(x[..., 4410:-4410].square().mean().log10()) * 10 for x in (heard, wanted)]
        assert abs(levels[0] - levels[1]) < 1.0, "it was 2 dB louder"
