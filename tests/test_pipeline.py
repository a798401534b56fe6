import dataclasses
import json
import math

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_models, tiny_vampnet

from vampnet import VampNet, audio, device, loops, metadata
from vampnet.beats import make_grid
from vampnet.config import CancelledError, Prompt, Sampling
from vampnet.ring import whole_steps

RATE, HOP = 44_100, 768
QUICK = Sampling(steps=2, fine_steps=1)
CEILING = 10 ** (audio.CEILING_DBTP / 20)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vn():
    return tiny_vampnet()


def clip(make_music, samples, channels=2, level=0.3):
    """(tensor (channels, samples), rate), soft enough that nothing is limited but for the noise that the tiny model makes."""
    x = torch.from_numpy(make_music(seconds=samples / RATE + 0.01))[:channels, :samples]
    return level * x, RATE


def one_take(vn, source, **more):
    more = {"takes": 1, "sampling": QUICK, **more}
    return vn.vamp(source, **more)


# ---------------------------------------------------------------------------------------------------------- what comes out


def test_the_first_take_is_ready_before_the_others(vn, make_music):
    source, told, steps = clip(make_music, 30 * HOP), [], []
    vamp = vn.vamp(source, sampling=QUICK, takes=3, on_take=told.append, on_step=lambda *step: steps.append(step))
    assert [len(part.takes) for part in told] == [1, 2] and len(vamp.takes) == 3
    plain = vn.vamp(source, sampling=QUICK, takes=3)
    assert torch.equal(vamp.tokens, plain.tokens)
    for part in (*told, vamp):
        assert torch.equal(part.tokens, plain.tokens[: len(part.takes)])
        assert all(torch.equal(a.audio_data, b.audio_data) for a, b in zip(part.takes, plain.takes, strict=False))
        assert part.settings()["takes"] == len(part.takes)
    for stage in ("coarse", "fine", "decode"):
        done = [step for name, step, _ in steps if name == stage]
        (of,) = {of for name, _, of in steps if name == stage}
        assert done == sorted(done) and done[-1] == of
    told.clear()
    vn.vamp(source, sampling=QUICK, takes=1, on_take=told.append)
    assert not told


def test_takes_come_as_many_as_are_computed_at_a_time(vn, make_music, monkeypatch):
    given, told, plain = [], [], vn.generate

    def generate(tokens, mask, sampling, seeds, **rest):
        given.append(seeds)
        return plain(tokens, mask, sampling, seeds, **rest)

    monkeypatch.setattr(vn, "generate", generate)
    vn.vamp(clip(make_music, 10 * HOP), sampling=QUICK, takes=8, seed=5, batch=4, on_take=told.append)
    assert given == [[(5, 0)], [(5, 1), (5, 2), (5, 3), (5, 4)], [(5, 5), (5, 6), (5, 7)]]
    assert [len(part.takes) for part in told] == [1, 5]


@pytest.mark.parametrize("samples", [4_410, 20 * HOP, 20 * HOP + 1, 30 * HOP - 1, 70_001])
@pytest.mark.parametrize("loop", [False, True])
def test_takes_are_exactly_as_long_and_as_loud_as_the_source(vn, make_music, samples, loop):
    channels = 1 + samples % 2
    vamp = one_take(vn, clip(make_music, samples, channels), loop=loop)
    take = vamp.takes[0].audio_data
    assert take.shape == (1, channels, samples) == vamp.source.audio_data.shape
    assert bool(take.isfinite().all()) and float(take.abs().max()) <= CEILING
    assert abs(audio.measure_loudness(vamp.takes[0]) - audio.measure_loudness(vamp.source)) < 1
    steps = whole_steps(samples, HOP) // HOP if loop else -(-samples // HOP)
    assert vamp.tokens.shape == (1, 14, steps) and vamp.source_tokens.shape == vamp.mask.shape == (1, 14, steps)
    assert vamp.tokens.dtype == torch.int64 and vamp.mask.dtype == torch.bool
    assert torch.equal(vamp.tokens[~vamp.mask], vamp.source_tokens[~vamp.mask])
    assert not torch.equal(vamp.tokens, vamp.source_tokens)


@pytest.mark.parametrize("samples", [30 * HOP, 23_251])
def test_a_loop_has_no_step_at_its_seam(vn, make_music, samples):
    vamp = one_take(vn, clip(make_music, samples), loop=True, takes=2)
    for take in vamp.takes:
        across, inside = loops.seam_step(take)
        assert across <= inside


@pytest.mark.parametrize("samples", [30 * HOP, 30 * HOP + 300, 30 * HOP - 380])
def test_the_way_from_the_codec_to_the_take_goes_around_the_ring(make_music, samples):
    """A codec's smooth ring stays one through resampling, stereo image, loudness and limiter; a cut to length would step."""
    vn = VampNet(*tiny_models())
    vn.codec = _Ring(vn.codec)
    take = one_take(vn, clip(make_music, samples, level=1.0), loop=True).takes[0]
    across, inside = loops.seam_step(take)
    assert across < 0.5 * inside
    # the codec's ring itself, cut to another length, does step
    cut = audio.make_signal(vn.decode(torch.zeros(1, 14, 30, dtype=torch.int64)).audio_data[..., :-300], RATE)
    assert loops.seam_step(cut)[0] > loops.seam_step(cut)[1]


def test_a_ring_is_the_same_wherever_its_file_begins(vn, make_music):
    """The codec sees no edge: whole time steps rolled around the ring give the same tokens, rolled."""
    x, rate = clip(make_music, 24 * HOP, 1)
    here = vn.encode((x, rate), loop=True)
    there = vn.encode((torch.roll(x, 5 * HOP, -1), rate), loop=True)
    assert (torch.roll(here, 5, -1) == there).float().mean() > 0.97
    wave = vn.decode(here, loop=True, length=24 * HOP + 100)
    assert wave.audio_data.shape == (1, 1, 24 * HOP + 100)


def test_full_scale_sources_are_not_clipped(vn, make_music):
    vamp = one_take(vn, clip(make_music, 20_000, level=1.4))
    assert audio.measure_loudness(vamp.source) > -16
    assert float(vamp.takes[0].audio_data.abs().max()) <= CEILING


@pytest.mark.parametrize("rate", [22_050, 48_000])
def test_any_sample_rate(vn, make_music, rate):
    x = 0.3 * make_music(seconds=0.5)[:, : rate // 2]
    vamp = one_take(vn, (rate, x))
    assert vamp.takes[0].sample_rate == RATE and vamp.takes[0].audio_data.shape == (1, 2, round(x.shape[1] * RATE / rate))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_a_source_stays_the_callers(vn, make_music, channels, offset):
    """Encoding and loudness write over what they are given, which is their own."""
    x, rate = clip(make_music, 30_000, channels)
    given = audio.make_signal((x + offset)[None], rate)
    before = given.audio_data.clone()
    vamp = one_take(vn, given)
    vn.encode(given)
    assert torch.equal(given.audio_data, before) and torch.equal(vamp.source.audio_data, before)
    assert vamp.takes[0].audio_data.shape == before.shape


def test_a_codec_that_makes_silence_or_nan(vn, make_music, monkeypatch):
    quiet = VampNet(*tiny_models())
    source = clip(make_music, 10_000)
    monkeypatch.setattr(quiet, "codec", _Outcome(quiet.codec, 0.0))
    assert one_take(quiet, source).takes[0].audio_data.shape == (1, 2, 10_000)
    monkeypatch.setattr(quiet, "codec", _Outcome(vn.codec, float("nan")))
    with pytest.raises(ValueError, match="not finite"):
        one_take(quiet, source)


class _Outcome:
    """A codec whose samples are all `value`."""

    def __init__(self, codec, value):
        self._codec, self._value = codec, value

    def __getattr__(self, name):
        return getattr(self._codec, name)

    def decode(self, codes, loop=False, balance=None):
        return torch.full((len(codes), 1, codes.shape[-1] * HOP), self._value)


class _Ring(_Outcome):
    """A codec that decodes everything to forty turns of a cosine: nearly level at the seam."""

    def __init__(self, codec):
        super().__init__(codec, 1.0)

    def decode(self, codes, loop=False, balance=None):
        n = codes.shape[-1] * HOP
        return super().decode(codes) * torch.cos(2 * torch.pi * torch.arange(n) * 40 / n)


# ------------------------------------------------------------------------------------------------------- seeds and prompts


def test_a_take_is_the_same_whatever_is_drawn_with_it(vn, make_music):
    source = clip(make_music, 12_000)
    four = vn.vamp(source, sampling=QUICK, takes=4, seed=3)
    one = vn.vamp(source, sampling=QUICK, takes=1, seed=3)
    assert torch.equal(one.tokens[0], four.tokens[0])
    assert torch.equal(one.takes[0].audio_data, four.takes[0].audio_data)
    assert len({tuple(t.flatten().tolist()) for t in four.tokens}) == 4
    assert not torch.equal(vn.vamp(source, sampling=QUICK, takes=1, seed=4).tokens, one.tokens)
    # the steps one at a time give the same
    tokens = vn.encode(source)
    mask = vn.mask(tokens, Prompt())
    assert torch.equal(tokens, four.source_tokens) and torch.equal(mask, four.mask)
    alone = vn.generate(tokens, mask, QUICK, seeds=[(3, 2), 3, (8, 1), (3, 3)])
    assert torch.equal(alone[[0, 1, 3]], four.tokens[[2, 0, 3]])
    assert torch.equal(vn.generate(tokens, mask, QUICK, seeds=[(8, 1)])[0], alone[2])


def test_nothing_to_regenerate_is_the_codec_alone(vn, make_music):
    vamp = one_take(vn, clip(make_music, 9_000), prompt=Prompt(periodic=1), takes=2)
    assert vamp.kept_share == 1 and vamp.kept_kbps == pytest.approx(14 * 10 * RATE / HOP / 1000)
    assert torch.equal(vamp.tokens[0], vamp.source_tokens[0])
    assert torch.equal(vamp.takes[0].audio_data, vamp.takes[1].audio_data)


def test_given_beats_are_used_and_cut_to_bars(vn, make_music):
    """120 beats a minute from 0.1 s on: one bar of four is 2 s."""
    source = clip(make_music, round(2.8 * RATE))
    beats = make_grid([0.1 + i / 2 for i in range(6)], [0.1, 2.1], "librosa", "given")
    vamp = one_take(vn, source, prompt=Prompt(periodic=0, beat_width_ms=75), bars=1, loop=True, beats=beats)
    assert vamp.takes[0].audio_data.shape[-1] == 2 * RATE
    assert vamp.beats.beats == pytest.approx((0, 0.5, 1, 1.5), abs=1e-3) and vamp.bars == 1
    kept = (~vamp.mask[0]).all(dim=0)
    for time in vamp.beats.beats:
        assert kept[vn.grid.token_at(time + 0.01)]
    assert 0.05 < vamp.kept_share < 0.25
    with pytest.raises(ValueError, match="whole bar"):
        one_take(vn, source, bars=9, beats=beats)


@pytest.mark.slow
def test_beats_and_onsets_are_tracked_where_they_are_needed(vn, make_music):
    seen = []
    prompt = Prompt(periodic=0, beat_width_ms=50, onset_width_ms=30)
    vamp = one_take(vn, clip(make_music, 4 * RATE), prompt=prompt, bars="all", on_step=lambda *step: seen.append(step))
    assert seen[:2] == [("beats", 0, 1), ("beats", 1, 1)]
    assert vamp.beats.engine in vamp.beats.note and len(vamp.beats.beats) >= 6
    assert abs(vamp.takes[0].audio_data.shape[-1] - 4 * RATE) < 0.1 * RATE
    assert 0 < vamp.kept_share < 0.6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"takes": 0}, "takes must be"),
        ({"takes": True}, "takes must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**31}, "seed must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"bars": 0}, "bars must be"),
        ({"bars": "four"}, "bars must be"),
        ({"prompt": Prompt(region=(5.0, 6.0))}, "region starts at 5 s"),
    ],
)
def test_bad_options_get_one_sentence(vn, make_music, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        one_take(vn, clip(make_music, 9_000), **options)


@pytest.mark.parametrize("loop", [1, np.True_, 0, None])
def test_what_stands_for_yes_or_no_is_written_as_that(vn, make_music, tmp_path, loop):
    vamp = one_take(vn, clip(make_music, 9_000), loop=loop)
    told = metadata.read(vamp.save(tmp_path)[0])
    assert vamp.loop is bool(loop) and told is not None and told.loop is bool(loop)


def test_takes_are_written_into_their_folder_alone(vn, make_music, tmp_path):
    vamp = one_take(vn, clip(make_music, 9_000))
    for name in ("../x", "a/b", str(tmp_path / "x")):
        with pytest.raises(ValueError, match="has no place in it"):
            vamp.save(tmp_path / "out", name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_region_in_the_last_half_step_of_a_ring_lies_in_it(vn, make_music):
    # 6.48 steps, and the tokens are six.
    vamp = one_take(vn, clip(make_music, 4_980), prompt=Prompt(periodic=0, region=(0.1065, 0.113)), loop=True)
    assert vamp.mask.all(1)[0].tolist() == [False] * 5 + [True]


def test_bad_sources_get_one_sentence(vn):
    for source in (None, (torch.zeros(1, 9_000), RATE), (torch.ones(1, 100), RATE), "nothing.wav"):
        with pytest.raises(audio.AudioError):
            vn.vamp(source)


def test_bad_tokens_get_one_sentence(vn):
    for tokens, sentence in (
        (torch.zeros(1, 4, 9, dtype=torch.int64), "Tokens must be int64"),
        (torch.full((1, 14, 9), 1024), "Tokens must lie in"),
        (torch.zeros(1, 14, 9), "Tokens must be int64"),
    ):
        with pytest.raises(ValueError, match=sentence):
            vn.decode(tokens)
    with pytest.raises(ValueError, match="9 time steps are 6912 samples"):
        vn.decode(torch.zeros(1, 14, 9, dtype=torch.int64), length=6913)
    with pytest.raises(ValueError, match="at least one seed"):
        vn.generate(torch.zeros(1, 14, 9, dtype=torch.int64), torch.ones(1, 14, 9, dtype=torch.bool), seeds=[])
    three, masks = torch.zeros(3, 14, 9, dtype=torch.int64), torch.ones(1, 14, 9, dtype=torch.bool)
    for given in ({"seeds": [0, 1]}, {"seeds": [0, 1, 2, 3]}):
        with pytest.raises(ValueError, match="one item of tokens"):
            vn.generate(three, masks, **given)
    with pytest.raises(ValueError, match="one item of masks"):
        vn.generate(three, masks.repeat(2, 1, 1), seeds=[0, 1, 2])
    assert len(vn.generate(three, masks, Sampling(steps=1, fine_steps=1), seeds=list(np.arange(3)))) == 3
    with pytest.raises(ValueError, match="pass the beats"):
        vn.mask(torch.zeros(1, 14, 9, dtype=torch.int64), Prompt(beat_width_ms=75))


# -------------------------------------------------------------------------------------------------- progress, cancellation


def test_progress_goes_through_every_stage(vn, make_music):
    seen = []
    one_take(vn, clip(make_music, 90_000), takes=2, on_step=lambda *step: seen.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["encode", "coarse", "fine", "decode"]
    for stage in stages:
        steps = [(step, of) for s, step, of in seen if s == stage]
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1] and len({of for _, of in steps}) == 1
    assert seen[-1] == ("decode", 2, 2)


@pytest.mark.parametrize("stage", ["encode", "coarse", "fine", "decode"])
def test_cancelling_stops_in_any_stage(vn, make_music, stage):
    seen = []
    with pytest.raises(CancelledError):
        one_take(
            vn,
            clip(make_music, 90_000),
            takes=2,
            on_step=lambda *step: seen.append(step[0]),
            cancelled=lambda: bool(seen) and seen[-1] == stage,
        )
    assert seen[-1] == stage


# ---------------------------------------------------------------------------------------------------------- vamp and model


def test_what_stays_in_one_piece_keeps_its_level(vn, make_music, monkeypatch):
    source, heard = clip(make_music, 2 * RATE), []
    render = VampNet.render
    monkeypatch.setattr(VampNet, "render", lambda self, *given: heard.append(given[2]) or render(self, *given))
    one_take(vn, source, prompt=Prompt(periodic=7))
    one_take(vn, source, prompt=Prompt(periodic=0, region=(1.0, 1.5)))
    part = one_take(vn, source, prompt=Prompt(periodic=0, region=(1.0, 1.5), original_sound=False)).takes[0]
    whole = one_take(vn, source, prompt=Prompt(periodic=1)).takes[0]
    assert heard[0] is None is heard[3] and abs(heard[1] - heard[2]) < 0.05
    levels = [take.audio_data[..., : RATE // 2].square().mean().sqrt() for take in (part, whole)]
    assert abs(20 * math.log10(levels[0] / levels[1])) < 0.1


def test_a_piece_around_the_seam_of_a_ring_is_one(vn, make_music):
    heard = vn.listen(clip(make_music, 2 * RATE), loop=True)
    steps = heard.tokens.shape[-1]
    mask = torch.ones_like(heard.tokens, dtype=torch.bool)
    mask[..., :20] = mask[..., -20:] = False
    there = torch.roll(mask, 20, dims=-1)
    assert steps > 80 and vn.kept_gain(heard, heard.tokens, mask) == vn.kept_gain(heard, heard.tokens, there) is not None
    flat = dataclasses.replace(heard, loop=False)
    assert vn.kept_gain(flat, heard.tokens, mask) is None


@pytest.mark.parametrize("takes", [0, 1001, True, 2.0])
def test_so_many_takes_are_not_made(vn, make_music, takes):
    with pytest.raises(ValueError, match="from 1 to 1000"):
        vn.vamp(clip(make_music, RATE), takes=takes)


def test_a_vamp_is_saved_with_its_settings(vn, make_music, tmp_path):
    x, _ = clip(make_music, 12_345)
    soundfile.write(tmp_path / "my loop.wav", x.T.numpy(), RATE)
    prompt, sampling = Prompt(periodic=5, region=(0.0, 0.2)), Sampling(steps=3, fine_steps=1)
    vamp = vn.vamp(tmp_path / "my loop.wav", prompt, sampling, takes=2, seed=9, loop=True)
    assert vamp.settings() == json.loads(json.dumps({**vamp.settings()})) | {"prompt": vamp.settings()["prompt"]}
    paths = vamp.save(tmp_path / "new" / "out", "flac", "x")
    assert [path.name for path in paths] == ["x-take-1.flac", "x-take-2.flac"]
    for path, take in zip(paths, vamp.takes, strict=True):
        read, rate = soundfile.read(path, always_2d=True)
        assert rate == RATE and np.allclose(read.T, take.audio_data[0].numpy(), atol=1e-6)
    saved = json.loads((tmp_path / "new" / "out" / "x-vamp.json").read_text())
    assert saved["files"] == [path.name for path in paths]
    assert (saved["seed"], saved["loop"], saved["takes"], saved["model"]) == (9, True, 2, "tiny")
    assert saved["precision"] == vamp.precision == "float32"
    assert saved["source"] == "my loop.wav" and saved["kept_kbps"] == pytest.approx(vamp.kept_kbps, abs=1e-5)
    assert Prompt(**{**saved["prompt"], "region": tuple(saved["prompt"]["region"])}) == prompt
    assert Sampling(**saved["sampling"]) == sampling
    with pytest.raises(ValueError, match="wav, flac, ogg"):
        vamp.save(tmp_path, "mp3")


def test_from_pretrained(tmp_path, make_music, vn):
    from tiny import tiny_checkpoint

    loaded = VampNet.from_pretrained(tiny_checkpoint(tmp_path / "mine"), device="cpu")
    assert loaded.name == "mine" and loaded.grid == vn.grid and loaded.codec_id == vn.codec_id
    assert one_take(loaded, clip(make_music, 9_000)).model == "mine"
    for name in ("nonsense", "meta"):
        with pytest.raises(ValueError, match=f"device '{name}'"):
            VampNet.from_pretrained(tmp_path / "mine", device=name)
    assert device.best_device() in ("cuda", "mps", "cpu")
