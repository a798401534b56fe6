"""The tonal balance: what it is of tokens, what decoding does with it, and which takes have their source's."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from test_pipeline import clip as made_clip
from tiny import tiny_models, tiny_vampnet
from torch import Tensor

from vampnet import audio, stereo
from vampnet.balance import MOST, MOST_MOVEMENT, Balance
from vampnet.codec import SpectralCodec, SpectralCodecConfig
from vampnet.codec.convolutional import ConvolutionalCodec
from vampnet.comping import comp
from vampnet.config import Prompt, Sampling
from vampnet.evaluate import runner
from vampnet.evaluate.clips import make_clip
from vampnet.evaluate.recipes import Recipe, paper_experiments
from vampnet.journey import Journey
from vampnet.pipeline import VampNet
from vampnet.serving import Turns

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 44_100 / 768
QUICK = Sampling(steps=1, fine_steps=1)
NATS_TO_DB = 20 / math.log(10)


def codec(**changes: int) -> SpectralCodec:
    """One that has everything: two spectra a time step, a short view, and means and a spread that are not 0 and 1."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        shape = {"dim": 16, "encoder_layers": 1, "decoder_layers": 2, "rounds": 8, "short_frames": 3, **changes}
        made = SpectralCodec(SpectralCodecConfig(**shape)).eval().requires_grad_(False)
        made.mean.uniform_(0.5, 1.5)
        made.short_mean.uniform_(-1.0, 0.0)
        made.spread.fill_(0.7)
    return made


def codes(batch: int = 1, steps: int = 30, seed: int = 0) -> Tensor:
    return torch.randint(1024, (batch, 14, steps), generator=torch.Generator().manual_seed(seed))


def tiny_with_bands() -> VampNet:
    return VampNet(codec(), *tiny_models()[1:])


def mean_levels(model: SpectralCodec, features: Tensor) -> Tensor:
    """(B, T, inputs) features -> (B, bands), frame by frame, as the definition has it."""
    return model.short_levels(features).mean(dim=1)


@pytest.mark.parametrize("loop", [False, True])
def test_it_is_the_mean_of_what_is_decoded(loop: bool) -> None:
    model, tokens = codec(), codes(2)
    found = model.tonal_balance(tokens, loop)
    assert found.levels.shape == (2, 32) and found.movement.shape == (2, 6, 8) and found.share == 1
    for item, own in zip(tokens, found.levels, strict=True):
        features = model.decode_latents(model.latents(item[None]).transpose(1, 2), loop)
        torch.testing.assert_close(mean_levels(model, features)[0], own, atol=1e-5, rtol=1e-4)
    steps = model.short_levels(model.decode_latents(model.latents(tokens).transpose(1, 2), loop)).unflatten(1, (30, 3)).mean(2)
    torch.testing.assert_close(found.movement, Balance.of(steps, RATE, loop).movement, atol=1e-7, rtol=1e-3)
    assert not torch.allclose(found.movement, Balance.of(steps, RATE, not loop).movement, rtol=0.01)


def test_gains_are_a_share_of_the_way_and_at_most_3_db() -> None:
    still = torch.zeros(2, 40, 8)
    wanted = dataclasses.replace(
        Balance.of(torch.tensor([0.2, -0.1, 4.0]).repeat_interleave(8).view(1, 1, 24), RATE), share=0.5
    )
    own = torch.tensor([[0.0, 0.1, 0.0], [0.2, -0.1, 9.0]]).repeat_interleave(8, dim=1)
    gains = wanted.gains(own[:, None].expand(-1, still.shape[1], -1), RATE)
    expected = torch.tensor([[0.1, -0.1, MOST], [0.0, 0.0, -MOST]]).repeat_interleave(8, dim=1)
    torch.testing.assert_close(gains, expected[:, None].expand_as(gains))
    assert MOST * NATS_TO_DB == pytest.approx(3, abs=0.01)


def waves(hz: float, size: float, seconds: float = 10.0, phase: float = 0.0) -> Tensor:
    """Levels (1, T, 8) of bands that rise and fall so often by so much."""
    at = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return (1.5 + size * torch.cos(2 * math.pi * hz * at + phase)).float()[None, :, None].repeat(1, 1, 8)


def moved(levels: Tensor, wanted: Tensor, loop: bool, share: float = 1.0) -> Tensor:
    return levels + dataclasses.replace(Balance.of(wanted, RATE, loop), share=share).gains(levels, RATE, loop)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("hz", [0.5, 1.4, 2.6, 5.0, 9.0, 17.0])
def test_levels_move_as_much_as_those_of_the_source(hz: float, loop: bool) -> None:
    """At any rate, of a source of any length, and by a quarter at most; the mean stays."""
    own = waves(hz, 0.4, phase=1.0)
    for size, share, factor in ((0.46, 1, 1.15), (0.34, 1, 0.85), (0.8, 1, 1.284), (0.1, 1, 1 / 1.284), (0.46, 0.5, 1.15**0.5)):
        found = moved(own, waves(hz, size, 8.0, 1.0), loop, share)
        expected = own.mean() + factor * (own - own.mean())
        inner = slice(None) if loop else slice(60, -60)
        torch.testing.assert_close(found[:, inner], expected[:, inner], atol=0.03, rtol=0)
    assert math.exp(MOST_MOVEMENT) == pytest.approx(1.284, abs=1e-3)


def test_movement_of_one_rate_or_of_some_bands_leaves_the_others_alone() -> None:
    own, slow, fast = waves(1.4, 0.4) + waves(9.0, 0.3) - 1.5, waves(1.4, 0.4), waves(9.0, 0.36)
    found = moved(own, slow + fast - 1.5, True)
    torch.testing.assert_close(found, slow + 1.2 * (waves(9.0, 0.3) - 1.5), atol=0.02, rtol=0)
    wanted = own.clone()
    wanted[..., 4:] = 1.5 + 1.2 * (own[..., 4:] - 1.5)
    found = moved(own, wanted, True)
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)


def test_a_clip_that_ends_elsewhere_than_it_begins_has_no_jump_there() -> None:
    ramp = torch.linspace(0, 2, round(10 * RATE))[None, :, None].expand(-1, -1, 8)
    own, wanted = (ramp + waves(5.0, size) - 1.5 for size in (0.03, 0.0345))
    torch.testing.assert_close(moved(own, wanted, False)[:, 60:-60], wanted[:, 60:-60], atol=1e-3, rtol=0)


@pytest.mark.parametrize("loop", [False, True])
def test_decoding_knows_whether_it_is_a_ring(loop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told, gains = codec(), [], Balance.gains
    monkeypatch.setattr(Balance, "gains", lambda self, *given: told.append(given[1:]) or gains(self, *given))
    model.decode(codes(), loop, model.tonal_balance(codes(seed=1), loop))
    assert told == [(RATE, loop)]


def test_silence_between_hits_makes_no_hit_louder_by_more_than_3_db() -> None:
    hits = torch.full((1, 600, 8), -6.9)  # as deep as levels go
    hits[:, ::50] = 1.0
    source = hits.clamp_min(-3.0)
    for own, wanted in ((hits, source), (source, hits)):
        gains = Balance.of(wanted, RATE, True).gains(own, RATE, True)
        assert float((gains[:, ::50] - gains.mean(dim=1)).abs().max()) <= 2 * MOST + 1e-6
        assert float(gains.abs().max()) <= 2 * MOST + 1e-6


def test_what_moves_as_it_should_and_what_is_too_short_to_tell_stays() -> None:
    noise = torch.randn(2, 300, 32, generator=torch.Generator().manual_seed(3))
    for loop in (False, True):
        assert float((moved(noise, noise, loop) - noise).abs().max()) < 1e-5
        for steps in (1, 2, 3):
            assert torch.isfinite(moved(noise[:, :steps], noise[:, 50 : 50 + steps], loop)).all()
    form = waves(0.05, 0.5, 60.0)  # of a song
    torch.testing.assert_close(moved(form, waves(0.05, 0.6, 60.0), True), form, atol=1e-3, rtol=0)


def test_a_gain_of_all_bands_is_one_of_all_that_is_coded() -> None:
    model, features = codec(), torch.randn(3, 20, codec().config.inputs, generator=torch.Generator().manual_seed(1))
    gains = torch.tensor([0.2, -0.1, 0.3])[:, None]
    moved = features + model._shift(gains[:, None].expand(-1, 20, 32))
    torch.testing.assert_close(mean_levels(model, moved), mean_levels(model, features) + gains, atol=1e-5, rtol=1e-4)
    before, after = (model.magnitudes(x) + model.config.floor for x in (features, moved))
    torch.testing.assert_close(after, before * gains.exp()[..., None], atol=1e-4, rtol=1e-3)


def test_bands_that_are_too_soft_are_made_louder_where_they_are() -> None:
    model, tokens = codec(), codes(steps=60)
    own = model.tonal_balance(tokens)
    wanted = dataclasses.replace(own, levels=own.levels.clone())
    wanted.levels[:, 24:] += 0.3  # from some 6 kHz on
    heard = [model.decode(tokens, balance=way)[0, 0] for way in (None, own, wanted)]
    torch.testing.assert_close(heard[1], heard[0], atol=1e-4, rtol=1e-3)

    def levels(wave: Tensor) -> tuple[float, float]:
        power = torch.stft(wave, 2048, window=torch.hann_window(2048), return_complex=True).abs().square().mean(dim=-1)
        at = torch.linspace(0, 22_050, len(power))
        return tuple(float(10 * power[(at > low) & (at < high)].mean().log10()) for low, high in ((200, 2500), (9000, 16_000)))

    (low, high), (low_after, high_after) = levels(heard[0]), levels(heard[2])
    assert high_after - high == pytest.approx(0.3 * NATS_TO_DB, abs=0.5)
    assert abs(low_after - low) < 0.3


def test_a_long_clip_has_the_balance_of_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded in pieces, each is moved as it is in the whole."""
    from vampnet.codec import spectral

    model, tokens = codec(), codes(steps=70)
    wanted = model.tonal_balance(codes(steps=40, seed=1))
    whole = model._shift(wanted.gains(model._levels(model._heard(tokens, False)), RATE))
    seen, project = [], model.project_out

    class Seen(torch.nn.Module):
        weight, bias = project.weight, project.bias

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.shape[1])
            return torch.zeros(len(x), x.shape[1], model.config.inputs)

    made = []
    monkeypatch.setattr(spectral, "PIECE", 16)
    monkeypatch.setitem(model._modules, "project_out", Seen())
    heard = model.heard_magnitudes
    monkeypatch.setattr(model, "heard_magnitudes", lambda features: made.append(features) or heard(features))
    model.decode(tokens, balance=wanted)
    assert max(seen) < 70 and len(made) > 3
    starts = set()
    for part in made:
        off = (whole.unfold(1, part.shape[1], 1).mT - part[:, None]).abs().amax(dim=(2, 3))[0]
        assert float(off.min()) < 1e-4
        starts |= {int(off.argmin()), int(off.argmin()) + part.shape[1]}
    assert min(starts) == 0 and max(starts) == 70 and len(starts) > 4


# ------------------------------------------------------------------------------------------------------------------ takes


def distance(model: SpectralCodec, a: Tensor, b: Tensor) -> float:
    """How far two waves (1, 1, N) are apart in balance, in nepers."""
    first, second = (mean_levels(model, model.features(x[:, 0]))[0] for x in (a, b))
    return float((first - second).abs().mean())


@pytest.mark.parametrize("loop", [False, True])
def test_takes_have_the_balance_of_their_source(make_music, loop: bool) -> None:
    vn = tiny_with_bands()
    source = vn.listen(made_clip(make_music, 30 * 768), loop=loop)
    own = vn.codec.decode(source.tokens, loop=loop)
    apart = []
    for share in (0.0, 1.0):
        sampling = dataclasses.replace(QUICK, balance=share)
        made = vn.vamp(source, Prompt(periodic=7), sampling, takes=2, seed=1)
        wanted = vn.balance(source.tokens, loop) if share else None
        decoded = [vn.decode(t[None], loop, None, wanted).audio_data for t in made.tokens]
        apart.append(sum(distance(vn.codec, wave, own) for wave in decoded))
        again = vn.render(source, made.tokens[:1], balance=share)
        assert torch.equal(again.audio_data, made.takes[0].audio_data)
        given = stereo.apply(vn.decode(made.tokens[:1], loop, source.image.length, wanted), source.image, loop)
        levelled = audio.restore_loudness(given, source.lufs, loop=loop)
        torch.testing.assert_close(
            levelled.audio_data[..., 4000:-4000], again.audio_data[..., 4000:-4000], atol=1e-3, rtol=0.05
        )
    assert apart[1] < 0.75 * apart[0]


def test_it_is_left_alone_where_something_stays_in_one_piece_or_sound_was_added(make_music) -> None:
    vn, asked = tiny_with_bands(), []
    sound = made_clip(make_music, 90 * 768)
    clip = vn.listen(sound)
    vn.balance = lambda *given: asked.append(given)
    ends = Prompt(periodic=0, prefix_seconds=0.6)
    for original_sound in (False, True):
        vn.vamp(clip, dataclasses.replace(ends, original_sound=original_sound), QUICK, takes=1)
    for how in ({}, {"gain_db": 0.0, "balance": 1.0}):
        vn.render(clip, clip.tokens, **how)
    vn.vamp(clip, Prompt(), dataclasses.replace(QUICK, balance=0.0), takes=1)
    vn.vamp(sound, Prompt(original_sound=False), QUICK, takes=1, extend=(0.0, 0.4))
    assert not asked
    vn.vamp(clip, Prompt(), QUICK, takes=2)
    assert len(asked) == 1 and torch.equal(asked[0][0], clip.tokens), "once for all takes"


def test_a_comp_of_tokens_has_it_too(make_music, monkeypatch: pytest.MonkeyPatch) -> None:
    vn = tiny_with_bands()
    clip = vn.listen(made_clip(make_music, 40 * 768))
    tokens = vn.vamp(clip, Prompt(periodic=0), QUICK, takes=2).tokens
    made = comp(vn, clip, tokens, [0, 0], [0, 20, 40])[0]
    wanted = vn.render(clip, tokens[:1], balance=1.0)
    assert torch.equal(made.audio_data, wanted.audio_data)
    assert not torch.equal(made.audio_data, vn.render(clip, tokens[:1]).audio_data)


def test_half_of_the_way_is_half_of_it(make_music) -> None:
    vn = tiny_with_bands()
    clip = vn.listen(made_clip(make_music, 40 * 768, 1))
    tokens = vn.vamp(clip, Prompt(periodic=7), QUICK, takes=1).tokens
    for share in (0.5, 1.0, 0.25):
        wanted = vn.decode(tokens, False, None, vn.balance(clip.tokens, share=share)).audio_data[..., 4000:-4000]
        found = vn.render(clip, tokens, balance=share).audio_data[..., 4000:-4000]
        gain = (found * wanted).sum() / wanted.square().sum()
        torch.testing.assert_close(found, gain * wanted, atol=1e-3, rtol=0.05)


def test_a_round_of_a_journey_has_it_too(make_music, tmp_path: Path) -> None:
    vn, given = tiny_with_bands(), []
    heard = vn.balance
    vn.balance = lambda *which: given.append(which[0]) or heard(*which)
    journey = Journey(tmp_path, made_clip(make_music, 40 * 768), seed=3, name="loop")
    for parent in (0, 1):
        journey.make(vn, parent, Prompt(periodic=7), QUICK)
    # What was first, and not what became of it: or each round would go on from the one before.
    assert len(given) == 2 and torch.equal(given[0], given[1])
    journey.make(vn, 0, Prompt(periodic=7), dataclasses.replace(QUICK, balance=0.0))
    assert len(given) == 2


def test_a_codec_without_levels_of_bands_knows_of_none(make_music, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny_vampnet()
    assert plain.codec.short is None and plain.balance(codes()) is None
    vn = tiny_with_bands()
    clip = vn.listen(made_clip(make_music, 20 * 768))
    monkeypatch.setattr(type(vn.codec), "tonal_balance", ConvolutionalCodec.tonal_balance)
    assert vn.balance(clip.tokens) is None
    given = []
    monkeypatch.setattr(type(vn.codec), "decode", lambda self, codes, loop: given.append(codes) or torch.ones(1, 1, 20 * 768))
    vn.vamp(clip, Prompt(), QUICK, takes=1)
    assert given


def test_the_studio_asks_for_it_in_turns(make_music) -> None:
    vn = tiny_with_bands()
    clip = vn.listen(made_clip(make_music, 20 * 768))

    def work(model: VampNet) -> Tensor:
        return model.vamp(clip, Prompt(), QUICK, takes=1).takes[0].audio_data

    here = work(vn)
    clip = dataclasses.replace(clip)  # of which nothing is known yet
    assert torch.equal(Turns().serve(vn, work), here)


# ---------------------------------------------------------------------------------------------------------------- measured


def test_takes_are_measured_in_it_and_the_papers_are_not(make_music, monkeypatch: pytest.MonkeyPatch) -> None:
    vn = tiny_with_bands()
    source = runner.Source(vn, make_clip(torch.from_numpy(make_music(seconds=1.0)), 44_100, "music"), runner.Judge([]))
    recipe, judge = Recipe("vamp", Prompt(periodic=7), QUICK), runner.Judge([])
    ((tokens, _),) = runner.make(source, [recipe])
    wanted = runner.balance_of(source, recipe, 0)
    assert torch.equal(wanted.levels, vn.balance(source.tokens).levels) and wanted.share == 1
    length = len(source.clip.audio)
    heard = [vn.decode(tokens, False, length, way).audio_data[0, 0] for way in (wanted, None)]
    for way, wave in zip((wanted, None), heard, strict=True):
        assert torch.equal(runner.sound(source, tokens, way)[0], wave)
    assert not torch.equal(*heard)
    measured, given = [], vn.decode
    monkeypatch.setattr(vn, "decode", lambda *how: measured.append(how[3]) or given(*how))
    result = runner.measure(source, recipe, judge, runner.make(source, [recipe])[0])
    runner.measure_again(source, recipe, judge, result)
    assert [balance.share for balance in measured] == [1, 1]
    without = dataclasses.replace(recipe, sampling=dataclasses.replace(QUICK, balance=0.0))
    start = dataclasses.replace(recipe, prompt=Prompt(periodic=7, prefix_seconds=0.6))
    assert all(runner.balance_of(source, other, 0) is None for other in (without, Recipe("codec"), start))
    recipes = [setting.recipe for experiment in paper_experiments() for setting in experiment.settings]
    assert not any(recipe.sampling.balance for recipe in recipes if recipe.sampling is not None)
