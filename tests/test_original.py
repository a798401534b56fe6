"""The source's own sound where all of it stays."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny import tiny_vampnet

from vampnet import VampNet, audio, limiter, stereo
from vampnet.comping import comp
from vampnet.config import Prompt, Sampling, TokenGrid
from vampnet.journey import SOURCE, Journey
from vampnet.original import FADE_SECONDS, MARGIN, around, pieces, put_back, stretches
from vampnet.ring import between, ring_resample

RATE, HOP = 44_100, 768
GRID = TokenGrid()
QUICK = Sampling(steps=1, fine_steps=1)
REACH = (FADE_SECONDS * RATE + HOP) / RATE
"""Seconds beside an edge in which the two fade into each other."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vn() -> VampNet:
    return tiny_vampnet()


def soft(make_music, seconds: float, channels: int = 2) -> tuple[torch.Tensor, int]:
    return 0.3 * torch.from_numpy(make_music(seconds))[:channels], RATE


def same(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """(N,) bool: which samples of two clips (1, C, N) are the same in all channels, to the last bit."""
    return (a == b).all(dim=1)[0].numpy()


def part(seconds: float, until: float, reach: float = REACH) -> slice:
    return slice(math.ceil((seconds + reach) * RATE), math.floor((until - reach) * RATE))


# --------------------------------------------------------------------------------------------------------------- stretches


def test_stretches_go_on_around_a_ring_and_nowhere_else() -> None:
    owners = [0, 0, -1, 1, 1, 0, -1, -1, 0]
    assert stretches(owners) == [(0, 2, 0), (3, 5, 1), (5, 6, 0), (8, 9, 0)]
    assert stretches(owners, loop=True) == [(3, 5, 1), (5, 6, 0), (8, 11, 0)]
    assert stretches([0, 0, 1], loop=True) == [(0, 2, 0), (2, 3, 1)]
    for loop in (False, True):
        assert stretches([2, 2, 2], loop) == [(0, 3, 2)] and stretches([-1, -1], loop) == [] == stretches([], loop)


def test_a_piece_is_long_and_whole() -> None:
    mask = torch.zeros(1, 3, 100, dtype=torch.bool)
    assert pieces(mask, GRID) == [], "who keeps all wants to hear the tokens"
    mask[:, 2, 29] = mask[:, 0, 60] = mask[:, :, 61:90] = True
    assert GRID.seconds_to_tokens(0.5) == 29
    assert pieces(mask, GRID) == [(0, 29, 0), (30, 60, 0)]
    mask[:, 1, 10] = True
    assert pieces(mask, GRID) == [(30, 60, 0)]
    assert pieces(mask, GRID, loop=True) == [(30, 60, 0)], "10 steps on either side of the seam are too short"
    mask[:, 1, 10] = False
    assert pieces(mask, GRID, loop=True) == [(30, 60, 0), (90, 129, 0)]


def test_what_is_decoded_is_what_was_made_anew_and_what_it_depends_on() -> None:
    assert around([(0, 400, 0), (430, 1000, 0)], 1000) == [(400 - MARGIN, 430 + MARGIN, 0)]
    assert around([(20, 500, 0), (510, 980, 0)], 1000) == [
        (0, 20 + MARGIN, 0), (500 - MARGIN, 510 + MARGIN, 0), (980 - MARGIN, 1000, 0)
    ]  # fmt: skip
    ring = [(500 - MARGIN, 510 + MARGIN, 0), (980 - MARGIN, 1020 + MARGIN, 0)]
    assert around([(20, 500, 0), (510, 980, 0)], 1000, loop=True) == ring
    assert around([(510, 1500, 0)], 1000, loop=True) == ring[:1]
    close = around([(0, 400, 0), (420, 470, 0), (480, 1000, 0)], 1000)
    assert close == [(400 - MARGIN, 480 + MARGIN, 0)], "stretches that meet are one"
    assert around([(0, 100, 0)], 400) == [(0, 400, 0)] == around([], 400), "all of it is done sooner"
    assert around([(0, 30, 0)], 31, loop=True) == [(0, 31, 0)] and around([(0, 400, 0)], 400) == []


@pytest.mark.parametrize(("length", "samples"), [(40_000, 40_111), (40_000, 39_890), (40_000, 40_000)])
def test_a_stretch_of_a_ring_is_what_the_whole_ring_has_there(length: int, samples: int) -> None:
    chance = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft(torch.randn(2, length, generator=chance))
    spectrum[:, round(0.4 * length) :] = 0  # a codec's sound has next to nothing above 17.6 kHz
    ring = torch.fft.irfft(spectrum, length)
    whole, stride = ring_resample(ring, samples), samples / length
    first = math.ceil(10_000 * stride)
    found = between(ring[:, 10_000:30_000], first / stride - 10_000, 1 / stride, 15_000)
    assert found.shape == (2, 15_000) and found.dtype == torch.float32
    error = (found - whole[:, first : first + 15_000])[:, 50:]
    assert float(error.square().mean() / whole.square().mean()) < 1e-5


# ---------------------------------------------------------------------------------------------------------------- put back


def waves(*samples: torch.Tensor) -> list[audio.AudioSignal]:
    return [audio.make_signal(x[None].clone(), RATE) for x in samples]


@pytest.mark.parametrize("channels", [1, 2])
def test_what_lies_between_is_as_it_was_and_the_fades_are_short(channels: int) -> None:
    chance = torch.Generator().manual_seed(0)
    made, own = (0.1 * torch.randn(channels, 100 * HOP - 5, generator=chance) for _ in range(2))
    take, sound = waves(made, own)
    put_back(take, [sound], [(0, 30, 0), (50, 80, 0), (99, 100, 0)], 100, HOP)
    plain, out = made[None], take.audio_data
    ours, theirs = same(out, own[None]), same(out, plain)
    step = HOP / RATE
    assert ours[: part(0, 30 * step).stop].all() and ours[part(50 * step, 80 * step)].all()
    assert theirs[part(30 * step, 50 * step)].all() and theirs[part(80 * step, 100 * step).start :].all()
    # The last sample of a fade may be that of what it goes over into.
    assert 0 <= 3 * round(FADE_SECONDS * RATE) - (~ours & ~theirs).sum() <= 3, "three fades, and a piece of a step is none"


def test_the_fade_lies_where_they_are_most_alike_and_is_as_loud_as_they_are() -> None:
    t = torch.arange(100 * HOP) / RATE
    own, made = (torch.sin(2 * torch.pi * 220 * t + phase)[None] for phase in (0.0, 2.5))
    noise = 0.02 * torch.randn(1, len(t), generator=torch.Generator().manual_seed(1))
    take, sound = waves(0.4 * made + noise, 0.4 * own)
    heard = put_back(take, [sound], [(40, 100, 0)], 100, HOP).audio_data[0, 0]
    level = heard.unfold(0, 441, 100).square().mean(dim=1).sqrt() / (0.4 * math.sqrt(0.5))
    # Of two tones that are 143 degrees apart there is no better place than another, and it may fall to what is left of both.
    assert float(level.max()) < 1.15
    alike = torch.sin(2 * torch.pi * 227 * t + 2.5)[None]  # which comes and goes beside 220 Hz, 7 times a second
    take, sound = waves(0.4 * alike, 0.4 * own)
    heard = put_back(take, [sound], [(40, 100, 0)], 100, HOP).audio_data[0, 0]
    level = heard.unfold(0, 441, 100).square().mean(dim=1).sqrt() / (0.4 * math.sqrt(0.5))
    edge = slice((38 * HOP) // 100, (44 * HOP) // 100)
    blind = 0.4 * torch.where(t < 40 * HOP / RATE, alike[0], own[0])
    assert float(heard.diff().abs().max()) < float(blind.diff().abs().max()) + 1e-3
    assert 0.75 < float(level[edge].min()) and float(level[edge].max()) < 1.15


@pytest.mark.parametrize("samples", [60 * HOP, 60 * HOP - 300, 60 * HOP + 290])
def test_around_the_seam_of_a_ring(samples: int) -> None:
    chance = torch.Generator().manual_seed(0)
    made, own = (0.2 * torch.randn(2, samples, generator=chance) for _ in range(2))
    take, sound = waves(made, own)
    put_back(take, [sound], [(40, 80, 0)], 60, HOP, loop=True)
    ours = same(take.audio_data, own[None])
    first, last, reach = 40 * samples / 60, 20 * samples / 60, REACH * RATE
    assert ours[math.ceil(first + reach) :].all() and ours[: math.floor(last - reach)].all()
    turned = waves(made.roll(samples // 2, -1), own.roll(samples // 2, -1))
    put_back(turned[0], turned[1:], [(10, 50, 0)], 60, HOP, loop=True)
    if samples % 60 == 0:  # else steps do not begin at whole samples
        assert torch.equal(turned[0].audio_data.roll(-(samples // 2), -1), take.audio_data), "a ring has no first sample"


def test_peaks_are_the_sources_or_none() -> None:
    ceiling = 10 ** (audio.CEILING_DBTP / 20)
    made = torch.full((1, 100 * HOP), 0.5)
    made[:, 80 * HOP] = 0.97
    own = 0.5 * torch.randn(1, 100 * HOP, generator=torch.Generator().manual_seed(0)).clamp(-1.9, 1.9)

    def laid(level: float) -> tuple[torch.Tensor, torch.Tensor]:
        sound = level * own / own.abs().max()
        take = put_back(*waves(made), waves(sound), [(0, 50, 0)], 100, HOP)
        return take.audio_data, sound[None]

    def peak(x: torch.Tensor) -> float:
        return float(limiter.true_peaks(x[0].numpy()).max())

    for level in (0.5, 0.99):
        out, sound = laid(level)
        assert same(out, sound)[part(0, 50 * HOP / RATE).start : part(0, 50 * HOP / RATE).stop].all()
        assert peak(out) <= max(ceiling, peak(sound)) * (1 + 1e-5)
    assert float(laid(0.5)[0][..., 60 * HOP :].max()) <= ceiling * (1 + 1e-5) < 0.97
    out, sound = laid(1.5)
    assert float(out.abs().max()) <= 1.0, "a file could not hold it"
    assert torch.equal(waves(made)[0].audio_data, made[None])


# ------------------------------------------------------------------------------------------------------------ with a model


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_only_the_region_is_made_anew(vn: VampNet, make_music, loop: bool, channels: int) -> None:
    prompt = Prompt(periodic=0, region=(0.8, 1.2))
    vamp = vn.vamp(soft(make_music, 2.0, channels), prompt, QUICK, 1, loop=loop)
    ours = same(vamp.takes[0].audio_data, vamp.source.audio_data)
    assert ours[: part(0, 0.8).stop].all() and ours[part(1.2, 2.0).start :].all()
    assert not ours[part(0.8, 1.2)].any() and torch.equal(vamp.tokens[~vamp.mask], vamp.source_tokens[~vamp.mask])
    plain = vn.vamp(vamp.source, Prompt(periodic=0, region=(0.8, 1.2), original_sound=False), QUICK, 1, loop=loop)
    assert torch.equal(plain.tokens, vamp.tokens) and same(plain.takes[0].audio_data, vamp.source.audio_data).mean() < 0.01
    inside = part(0.8, 1.2)
    # Their gains differ by what is faded at the ends of a clip.
    assert torch.allclose(plain.takes[0].audio_data[..., inside], vamp.takes[0].audio_data[..., inside], atol=1e-3)


@pytest.mark.parametrize("region", [(4.0, 4.3), (0.0, 0.2), (7.9, 8.1)])
@pytest.mark.parametrize("loop", [False, True])
def test_a_take_that_is_decoded_in_parts_is_as_one_that_is_decoded_whole(
    vn: VampNet, make_music, monkeypatch: pytest.MonkeyPatch, loop: bool, region: tuple[float, float]
) -> None:
    """By the level of its parts; what the search for phases finds depends on where it begins."""
    clip = vn.listen(soft(make_music, 8.1), loop=loop)
    prompt = Prompt(periodic=0, region=region)
    mask = vn.mask_of_clip(clip, prompt, 0)
    made = vn.generate(clip.tokens, mask, QUICK, [(0, 0)], loop=loop)
    shown: list[int] = []
    decode = VampNet.decode
    monkeypatch.setattr(
        VampNet, "decode", lambda self, tokens, *rest: shown.append(tokens.shape[-1]) or decode(self, tokens, *rest)
    )

    def take() -> torch.Tensor:
        return vn.render(clip, made, vn.kept_gain(clip, clip.tokens, mask, original_sound=True), mask).audio_data

    parts, steps = take(), clip.tokens.shape[-1]
    assert len(shown) == 2 and max(shown) < 0.5 * steps
    monkeypatch.setattr("vampnet.original.MOST", 0.0)
    whole = take()
    assert shown[2:] == [steps] * 2
    assert parts.shape == whole.shape and same(parts, whole).mean() > 0.9
    at = slice(round(region[0] * RATE) + 1, round(region[1] * RATE))
    levels = [x[..., at].square().mean().log10() * 10 for x in (parts, whole)]
    assert abs(float(levels[0] - levels[1])) < 1.0
    step = parts.roll(1, -1)[..., at] - parts[..., at]
    assert float(step.abs().max()) < 1.5 * float(whole.diff(dim=-1).abs().max())


@pytest.mark.parametrize("seconds", [2.0, 8.0])
def test_an_offset_makes_no_step(vn: VampNet, make_music, seconds: float) -> None:
    sound = soft(make_music, seconds)[0] + torch.tensor([[0.2], [-0.1]])
    prompt = Prompt(periodic=0, region=(0.4 * seconds, 0.6 * seconds))
    take = vn.vamp((sound, RATE), prompt, QUICK, 1).takes[0].audio_data
    made = take[..., part(0.4 * seconds, 0.6 * seconds)]
    assert torch.allclose(made.mean(dim=-1), torch.tensor([[0.2, -0.1]]), atol=0.03)


def test_an_offset_makes_no_step_where_a_clip_was_made_longer(vn: VampNet, make_music) -> None:
    """The silence that was added is longer than the clip, and has no offset."""
    sound = soft(make_music, 2.0)[0] + torch.tensor([[0.2], [-0.1]])
    take = vn.vamp((sound, RATE), Prompt(periodic=1), QUICK, 1, extend=(0.0, 3.0)).takes[0].audio_data
    assert torch.allclose(take[..., part(2.2, 4.8)].mean(dim=-1), torch.tensor([[0.2, -0.1]]), atol=0.03)


def test_an_offset_makes_no_step_where_a_comp_is_joined(vn: VampNet, make_music) -> None:
    sound, offset = soft(make_music, 3.0)[0], torch.tensor([[0.2], [-0.1]])
    vamp = vn.vamp((sound + offset, RATE), Prompt(periodic=0, region=(0.1, 0.6)), QUICK, 2)
    clip, steps = vn.listen(vamp.source), vamp.tokens.shape[-1]
    bounds = [0, steps // 2, steps]
    found, _, mask = comp(vn, clip, vamp.tokens, [0, 1], bounds, QUICK, takes=vamp.takes)
    first, last = mask[0, 0].nonzero()[[0, -1], 0].tolist()
    joined = found.audio_data[..., (first + 2) * 768 : (last - 1) * 768]
    # Both sides of the join are the clip's own sound, whose level without the offset is that of the join.
    assert torch.allclose(joined.mean(dim=-1), offset.T, atol=0.03)
    level, own = ((x - offset).square().mean() for x in (joined, vamp.source.audio_data))
    assert 0.1 < float(level / own) < 10


def test_without_a_gain_a_take_is_as_loud_as_what_stays(vn: VampNet, make_music) -> None:
    """And not as the whole clip, whose middle it is here."""
    sound = soft(make_music, 8.0)[0]
    sound[:, 3 * RATE : 5 * RATE] *= 0.05
    clip = vn.listen((sound, RATE))
    mask = vn.mask_of_clip(clip, Prompt(periodic=0, region=(3.9, 4.1)), 0)
    made = vn.generate(clip.tokens, mask, QUICK, [(0, 0)])
    gain = vn.kept_gain(clip, clip.tokens, mask, original_sound=True)
    given, plain = vn.render(clip, made, gain, mask), vn.render(clip, made, mask=mask)
    assert torch.equal(given.audio_data, plain.audio_data)


def test_a_part_of_the_image_is_the_image_there(make_music) -> None:
    sound = soft(make_music, 3.0)[0]
    sound[0, :RATE] *= 0.1
    for loop in (False, True):
        mid, image = stereo.split(audio.make_signal(sound[None], RATE), loop)
        whole = stereo.apply(mid, image, loop).audio_data
        for first, samples in (
            ((20_000, 60_000), (100_000, 60_000)) if loop else ((20_000, 60_000), (70_000, len(sound[0]) - 70_000))
        ):
            at = (first + torch.arange(samples)) % sound.shape[-1]
            one = audio.make_signal(mid.audio_data[..., at], RATE)
            part_of = stereo.apply(one, stereo.part(image, first, samples)).audio_data
            inside = slice(8192, -8192)
            error = (part_of - whole[..., at])[..., inside].square().mean() / whole.square().mean()
            assert float(error) < 1e-2, (loop, first)
    alone = stereo.part(stereo.split(audio.make_signal(sound[None, :1], RATE))[1], 5, 100)
    assert alone.channels == 1 and alone.length == 100


def test_what_is_added_begins_where_the_clip_ends(vn: VampNet, make_music) -> None:
    vamp = vn.vamp(soft(make_music, 1.5), Prompt(periodic=1), QUICK, 1, extend=(1.0, 1.0))
    first = vn.grid.tokens_to_samples(vn.grid.seconds_to_tokens(1.0)) / RATE
    two = 2 * HOP / RATE  # of the clip, that are made anew beside what is added
    ours = same(vamp.takes[0].audio_data, vamp.source.audio_data)
    assert ours[part(first + two, first + 1.5 - two)].all()
    assert float(vamp.takes[0].audio_data[..., part(0.2, first)].abs().max()) > 1e-3


def test_short_pieces_and_a_clip_that_stays_as_a_whole_are_decoded(vn: VampNet, make_music) -> None:
    clip = soft(make_music, 1.5)
    for prompt in (Prompt(periodic=1), Prompt(periodic=7), Prompt(periodic=0, prefix_seconds=0.4), Prompt(kept_codebooks=14)):
        vamp = vn.vamp(clip, prompt, QUICK, 1)
        assert same(vamp.takes[0].audio_data, vamp.source.audio_data).mean() < 0.01, prompt


def test_what_is_heard_of_what_is_kept_is_what_a_take_has_of_it(vn: VampNet, make_music) -> None:
    clip = vn.listen(soft(make_music, 2.0))
    mask = vn.mask_of_clip(clip, Prompt(periodic=0, region=(0.0, 1.0)), 0)
    heard, plain = vn.hear_kept(clip, mask).audio_data, vn.hear_kept(clip, mask, original_sound=False).audio_data
    assert same(heard, clip.signal.audio_data)[part(1.0, 2.0).start :].all()
    assert not same(plain, clip.signal.audio_data)[part(1.0, 2.0)].any()
    assert torch.equal(heard[..., : part(0, 0.9).stop], plain[..., : part(0, 0.9).stop])


@pytest.mark.parametrize("loop", [False, True])
def test_of_a_long_clip_no_more_is_decoded_to_hear_what_is_kept(
    vn: VampNet, make_music, monkeypatch: pytest.MonkeyPatch, loop: bool
) -> None:
    clip = vn.listen(soft(make_music, 8.0), loop=loop)
    mask = vn.mask_of_clip(clip, Prompt(periodic=4, region=(4.0, 4.5)), 0)
    mask[:, 4:, 232:234] = True  # a step of which some levels stay
    shown: list[int] = []
    decode = type(vn.codec).decode
    monkeypatch.setattr(
        type(vn.codec), "decode", lambda self, tokens, **rest: shown.append(tokens.shape[-1]) or decode(self, tokens, **rest)
    )
    parts = vn.hear_kept(clip, mask).audio_data
    assert shown and sum(shown) < 0.7 * clip.tokens.shape[-1]
    monkeypatch.setattr("vampnet.original.MOST", 0.0)
    whole = vn.hear_kept(clip, mask).audio_data
    assert same(parts, whole).mean() > 0.9
    levels = [x[..., 4 * RATE : round(4.5 * RATE)].square().mean().log10() * 10 for x in (parts, whole)]
    assert abs(float(levels[0] - levels[1])) < 1.0, "phases depend on where their search begins, levels do not"


def test_a_round_keeps_the_sound_of_the_one_before(vn: VampNet, make_music, tmp_path) -> None:
    journey = Journey(tmp_path, soft(make_music, 2.0), seed=3)
    first = journey.make(vn, SOURCE, Prompt(periodic=0, region=(0.2, 0.8)), QUICK)
    second = journey.make(vn, first.number, Prompt(periodic=0, region=(1.2, 1.8)), QUICK)
    one, two = (journey.read(made.number).takes[0].audio_data for made in (first, second))
    assert same(one, two)[: part(0, 1.2).stop].all() and not same(one, two)[part(1.2, 1.8)].any()


@pytest.mark.parametrize("loop", [False, True])
def test_a_comp_has_the_sound_of_its_takes(vn: VampNet, make_music, loop: bool) -> None:
    vamp = vn.vamp(soft(make_music, 2.0), Prompt(periodic=0), QUICK, 2, loop=loop)
    clip, steps = vn.listen(vamp.source, loop=loop), vamp.tokens.shape[-1]
    sounds, tokens = [vamp.source, *vamp.takes], torch.cat([vamp.source_tokens, vamp.tokens])
    bounds = [0, steps // 4, steps // 2, steps]
    made, _, mask = comp(vn, clip, tokens, [0, 2, 0], bounds, QUICK, takes=sounds)
    reach = REACH + 0.125 + 2 * HOP / RATE  # half a join, and bounds are whole time steps
    of_source, of_take = (same(made.audio_data, sounds[number].audio_data) for number in (0, 2))
    assert of_source[: part(0, 0.5, reach).stop].all() and of_source[part(1.0, 2.0, reach).start :].all()
    assert of_take[part(0.5, 1.0, reach)].all()
    assert mask.any() and not same(made.audio_data, vamp.source.audio_data).all()
    alone = comp(vn, clip, tokens, [1, 1, 1], bounds, QUICK, takes=sounds)[0]
    assert same(alone.audio_data, vamp.takes[0].audio_data).all()
    with pytest.raises(ValueError, match="as the clip is"):
        comp(vn, clip, tokens, [1, 1, 1], bounds, QUICK, takes=[sounds[0], vn.decode(tokens[:1], loop)])


@pytest.mark.parametrize("loop", [False, True])
def test_a_long_comp_is_decoded_around_its_joins(vn: VampNet, make_music, monkeypatch: pytest.MonkeyPatch, loop: bool) -> None:
    vamp = vn.vamp(soft(make_music, 9.0), Prompt(periodic=0), QUICK, 2, loop=loop)
    clip, steps = vn.listen(vamp.source, loop=loop), vamp.tokens.shape[-1]
    shown: list[int] = []
    decode = VampNet.decode
    monkeypatch.setattr(
        VampNet, "decode", lambda self, tokens, *rest: shown.append(tokens.shape[-1]) or decode(self, tokens, *rest)
    )

    def made(gain: float) -> torch.Tensor:
        """The comp where the second take is softer than it was."""
        sounds = [vamp.takes[0], audio.make_signal(gain * vamp.takes[1].audio_data, RATE)]
        return comp(vn, clip, vamp.tokens, [0, 1], [0, steps // 2, steps], QUICK, takes=sounds)[0].audio_data

    plain, softer = made(1.0), made(0.25)
    assert len(shown) == 2 * (1 + loop) and sum(shown) < 1.4 * steps
    # The join lies from 4.375 to 4.625 s, and its level goes over from that of the one to that of the other.
    for time, wanted in ((4.4, -1.2), (4.5, -6.0), (4.6, -10.8)):
        at = slice(round((time - 0.01) * RATE), round((time + 0.01) * RATE))
        found = [10 * float(x[..., at].square().mean().log10()) for x in (softer, plain)]
        assert abs(found[0] - found[1] - wanted) < 1.5, time
