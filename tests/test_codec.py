"""The bundled codec and its way from magnitudes to samples."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from dac.nn.quantize import ResidualVectorQuantize
from safetensors.torch import load_file, save_file

from vampnet.codec import Codec, SpectralCodec, SpectralCodecConfig, load_codec, save_codec, search, spectral
from vampnet.codec import griffin_lim as griffin_lim_module
from vampnet.codec.bands import over_frequency
from vampnet.codec.envelope import ShortView
from vampnet.codec.griffin_lim import griffin_lim, griffin_lim_pieces, spectrum, synthesize
from vampnet.codec.quantize import residual_codes
from vampnet.codec.spectral import ring_pad

TINY = SpectralCodecConfig(dim=16, encoder_layers=1, decoder_layers=1, kernel=3, rounds=3)
HOP = 384


LONG_AND_SHORT = dataclasses.replace(TINY, window=4096, frames=1, short_frames=3)


@pytest.fixture(scope="module", params=[TINY, LONG_AND_SHORT], ids=["two spectra", "one long, three short"])
def codec(request) -> SpectralCodec:
    torch.manual_seed(0)
    return SpectralCodec(request.param).eval()


@pytest.fixture(scope="module")
def window() -> torch.Tensor:
    return torch.hann_window(2048)


def chord(samples: int, cycles: bool = False) -> torch.Tensor:
    """(1, N) three partials; with `cycles` whole numbers of periods, so that it is a ring."""
    t = torch.arange(samples) / 44_100
    step = 44_100 / samples
    tones = [round(f / step) * step if cycles else f for f in (220.0, 331.0, 1250.0)]
    return sum(0.2 * torch.sin(2 * math.pi * f * t) for f in tones)[None]


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("frames", [2, 7, 64])
def test_synthesis_inverts_the_spectrum(window, loop, frames):
    audio = torch.randn(2, frames * HOP)
    assert torch.allclose(synthesize(spectrum(audio, window, HOP, loop), window, HOP, loop), audio, atol=1e-4)


def test_spectrum_of_a_rolled_ring_is_the_rolled_spectrum(window):
    audio = torch.randn(1, 20 * HOP)
    rolled = spectrum(audio.roll(5 * HOP, dims=1), window, HOP, loop=True)
    assert torch.allclose(rolled, spectrum(audio, window, HOP, loop=True).roll(5, dims=1), atol=1e-4)


def inconsistency(audio: torch.Tensor, magnitudes: torch.Tensor, window: torch.Tensor, loop: bool) -> float:
    return float((spectrum(audio, window, HOP, loop).abs() - magnitudes).norm() / magnitudes.norm())


@pytest.mark.parametrize("loop", [False, True])
def test_griffin_lim_comes_near_to_the_magnitudes(window, loop):
    magnitudes = spectrum(chord(60 * HOP, cycles=loop), window, HOP, loop).abs()
    few, many = (inconsistency(griffin_lim(magnitudes, window, HOP, n, loop=loop), magnitudes, window, loop) for n in (1, 60))
    assert many < 0.12 and many < few / 3


def test_a_ring_has_no_seam(window):
    magnitudes = spectrum(chord(60 * HOP, cycles=True), window, HOP, True).abs()
    audio = griffin_lim(magnitudes, window, HOP, 40, loop=True)[0]
    assert (audio[0] - audio[-1]).abs() <= audio.diff().abs().max()


@pytest.mark.parametrize("loop", [False, True])
def test_pieces_are_as_good_as_the_whole_and_join(window, loop):
    magnitudes = spectrum(chord(200 * HOP, cycles=loop), window, HOP, loop).abs()
    whole = griffin_lim(magnitudes, window, HOP, 40, loop=loop)
    pieces = griffin_lim_pieces(lambda a, b: magnitudes[:, a:b], 200, window, HOP, 40, loop, piece=64, context=16)
    assert pieces.shape == whole.shape
    assert inconsistency(pieces, magnitudes, window, loop) < inconsistency(whole, magnitudes, window, loop) + 0.1
    steps = pieces[0].diff().abs()
    assert max(steps[64 * HOP * k - 1] for k in (1, 2, 3)) <= steps.max()
    inside = whole[0].diff().abs().max() * 2
    assert steps.max() < inside
    if loop:
        assert (pieces[0, 0] - pieces[0, -1]).abs() < inside


def test_phases_that_are_known_are_where_the_search_starts(window):
    audio = chord(60 * HOP)
    spectra = spectrum(audio, window, HOP)
    found = griffin_lim(spectra.abs(), window, HOP, 1, start=spectra[..., :200])
    assert (found - audio).norm() < 0.02 * audio.norm()
    assert (griffin_lim(spectra.abs(), window, HOP, 1) - audio).norm() > audio.norm()


@pytest.mark.parametrize("loop", [False, True])
def test_items_of_a_batch_are_searched_on_their_own(window, loop):
    magnitudes = torch.rand(3, 10, 1025)
    together = griffin_lim(magnitudes, window, HOP, 3, loop=loop)
    assert torch.equal(together[1:2], griffin_lim(magnitudes[1:2], window, HOP, 3, loop=loop))


@pytest.mark.parametrize("frames", [1, 16, 35])
def test_white_phases_drawn_block_by_block_are_the_same(frames):
    whole = griffin_lim_module._draw_phases(frames, 33, 8, 64).unbind(-1)
    for part, want in zip(griffin_lim_module._draw_blocks(frames, 33, 8, 64), whole, strict=True):
        assert np.array_equal(part, search.in_blocks(want))


@pytest.mark.parametrize("track", [False, True])
def test_phases_that_are_kept_are_not_written_over(window, track):
    magnitudes = torch.rand(1, 40, 1025)
    start = spectrum(torch.randn(1, 40 * HOP), window, HOP)[..., :500]
    first = griffin_lim(magnitudes, window, HOP, 2, start=start, track=track)
    griffin_lim(2 * magnitudes, window, HOP, 2, track=track)
    assert torch.equal(griffin_lim(magnitudes, window, HOP, 2, start=start, track=track), first)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("frames", [2, 3, 40, 64])
@pytest.mark.parametrize("given", ["nothing", "ends", "phases"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_compiled_search_finds_what_the_plain_one_does(window, monkeypatch, loop, frames, given, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    magnitudes = 5 + 5 * torch.rand(2, frames, 1025)  # phases of bins that are nearly empty would be those of rounding errors
    ends = {"head": torch.randn(2, 300), "tail": torch.randn(2, 200)} if given == "ends" else {}
    start = spectrum(torch.randn(2, frames * HOP), window, HOP, loop)[..., :500] if given == "phases" else None
    assert search.fits(window, HOP, frames) == (frames > 2)
    compiled = griffin_lim(magnitudes, window, HOP, 3, loop=loop, start=start, **ends)
    monkeypatch.setattr(search, "fits", lambda *given: False)
    plain = griffin_lim(magnitudes, window, HOP, 3, loop=loop, start=start, **ends)
    assert plain.std() > 0.1 and (compiled - plain).norm() < 1e-4 * plain.norm()


def test_known_samples_stay(window):
    magnitudes = spectrum(chord(40 * HOP), window, HOP).abs()
    head, tail = torch.randn(1, 1000), torch.randn(1, 500)
    audio = griffin_lim(magnitudes, window, HOP, 2, head=head, tail=tail)
    assert torch.equal(audio[:, :1000], head) and torch.equal(audio[:, -500:], tail)


@pytest.mark.parametrize("samples", [1, 767, 768, 769, 20_000])
def test_token_count_and_length(codec, samples):
    codes = codec.encode(torch.randn(2, 1, samples) * 0.1)
    assert codes.shape == (2, 14, -(-samples // 768)) and codes.dtype == torch.int64
    assert 0 <= codes.min() and codes.max() < 1024
    audio = codec.decode(codes)
    assert audio.shape == (2, 1, codes.shape[-1] * 768) and torch.isfinite(audio).all()


def test_it_is_a_codec_and_says_bad_shapes(codec):
    assert isinstance(codec, Codec)
    assert codec.codebook_vectors().shape == (14, 1024, 8)
    with pytest.raises(ValueError, match="batch, 1, samples"):
        codec.encode(torch.zeros(1, 2, 1000))


def test_ring_encoding_wraps_around(codec):
    audio = torch.randn(1, 1, 40 * 768) * 0.1
    rolled = codec.encode(audio.roll(7 * 768, dims=2), loop=True)
    assert torch.equal(rolled, codec.encode(audio, loop=True).roll(7, dims=2))
    assert not torch.equal(codec.encode(audio, loop=True), codec.encode(audio))
    x = torch.arange(5.0)[None, :, None]
    assert ring_pad(x, 2).flatten().tolist() == [3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_features_in_pieces_are_those_of_the_whole(codec, monkeypatch):
    audio = torch.randn(1, 6000 * HOP) * 0.1
    frames = codec.features(audio)
    cut = codec.features(audio[:, : 100 * HOP])
    assert frames.shape == (1, 3000, codec.config.inputs)
    assert torch.allclose(frames[:, :45], cut[:, :45], atol=1e-5)


@pytest.mark.parametrize("loop", [False, True])
def test_a_long_clip_is_coded_in_pieces_as_it_would_be_as_one(loop, monkeypatch):
    codec = SpectralCodec(dataclasses.replace(LONG_AND_SHORT, rounds=2)).eval()
    audio = chord(100 * 768, cycles=loop)[None]
    whole = codec.encode(audio, loop)
    latents = codec.quantizer.from_codes(whole)[0]
    heard = codec.decode_latents(latents, loop)
    monkeypatch.setattr(spectral, "PIECE", 24)
    assert torch.equal(codec.encode(audio, loop), whole)
    assert torch.allclose(codec.decode_latents(latents, loop), heard, atol=1e-5)
    assert codec.decode(whole, loop).shape == audio.shape


def test_magnitudes_invert_the_features_below_the_bands(codec):
    audio = torch.randn(1, 30 * 768) * 0.1
    truth = spectrum(audio, codec.window, 768 // codec.config.frames).abs()
    back = codec.magnitudes(codec.features(audio))
    fine = codec.config.fine_bins
    assert torch.allclose(back[..., :fine], truth[..., :fine], atol=1e-3, rtol=1e-3)
    # Above, only the level of a band is coded.
    assert back[..., fine:].square().mean() == pytest.approx(float(truth[..., fine:].square().mean()), rel=0.3)


def test_sharpening_makes_valleys_deeper_at_the_power_that_there_was():
    plain, sharp = (SpectralCodec(dataclasses.replace(TINY, sharpen=factor)) for factor in (1.0, 1.5))
    fine = plain.config.fine_bins
    bins = torch.arange(plain.config.window // 2 + 1)
    magnitudes = (1 + 0.8 * torch.cos(2 * math.pi * bins / 10)).expand(1, 3, -1)
    assert torch.equal(plain.sharpened(magnitudes), magnitudes)
    made = sharp.sharpened(magnitudes)
    assert torch.equal(made[..., fine:], magnitudes[..., fine:])
    inside = slice(50, fine - 50)
    before, after = (x[0, 0, inside].log() for x in (magnitudes, made))
    mean = before.mean()
    low, high = before < mean - 0.1, before > mean + 0.1
    lowered, raised = (float(((after - mean) / (before - mean))[which].mean()) for which in (low, high))
    assert lowered == pytest.approx(1.5, rel=0.1) and raised == pytest.approx(1, rel=0.1)
    assert made[..., inside].square().mean() == pytest.approx(float(magnitudes[..., inside].square().mean()), rel=0.05)
    silence = sharp.sharpened(torch.zeros(1, 3, len(bins)))
    assert silence.abs().max() < 1e-6


def test_in_one_pass_magnitudes_are_sharpened_as_in_many(codec):
    config = dataclasses.replace(codec.config, sharpen=1.3)
    sharp = SpectralCodec(config).eval()
    sharp.mean.normal_(-2, 2)
    features = 3 * torch.randn(2, 9, config.inputs)
    features[0, :3] -= 9  # below the floor
    features[1, :2] += 9  # beyond what is let through
    many, one = sharp.sharpened(sharp.magnitudes(features)), sharp.heard_magnitudes(features)
    assert many.max() > 1000 and (many == 0).float().mean() > 0.05
    assert torch.allclose(one, many, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 4, 14])
def test_latents_are_the_sum_of_what_all_levels_say(codec, n):
    codes = torch.randint(0, 1024, (2, n, 30))
    assert torch.allclose(codec.latents(codes), codec.quantizer.from_codes(codes)[0].mT, atol=1e-5)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("width", "levels"), [(8, 14), ([4, 9, 16], 3)])
def test_codes_are_those_of_dacs_quantizer(width, levels, normed):
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantize(48, levels, 64, width).eval()
    for level in quantizer.quantizers:
        for layer in (level.in_proj, level.out_proj):
            torch.nn.init.normal_(layer.bias, std=0.1)
            if not normed:
                torch.nn.utils.remove_weight_norm(layer)
    latents = torch.randn(2, 700, 48)
    latents[0, 5] = 0.0
    codes = residual_codes(quantizer, latents)
    wanted = quantizer(latents.transpose(1, 2))[1]
    assert codes.dtype == torch.int64 and codes.shape == wanted.shape == (2, levels, 700)
    # Two codes may be as near, and every level after them then differs.
    assert float((codes != wanted).any(dim=1).float().mean()) < 2e-3
    assert codes.unique().numel() > 32


@pytest.mark.parametrize("bins", [1024, 41, 7, 2])
def test_the_average_over_frequency_is_that_of_its_neighbours(bins):
    x = torch.randn(2, 3, bins)
    side = min(20, bins - 1)
    padded = torch.nn.functional.pad(x, (side, side), mode="reflect")
    assert torch.allclose(over_frequency(x), padded.unfold(-1, 2 * side + 1, 1).mean(-1), atol=1e-6)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("steps", [30, 150])
def test_rounds_on_the_lower_half_find_it_as_well(steps, loop, monkeypatch):
    """The same partials come back where half of the band is searched at half the rate, in one piece and in several."""
    config = dataclasses.replace(LONG_AND_SHORT, short_frames=0, rounds=24)
    wide, halved = SpectralCodec(config).eval(), SpectralCodec(dataclasses.replace(config, wide_rounds=1)).eval()
    audio = chord(steps * 768, cycles=loop)
    features = wide.features(audio, loop)
    monkeypatch.setattr(SpectralCodec, "_through", lambda *rest: features)
    wide.project_out = halved.project_out = torch.nn.Identity()
    pieces = griffin_lim_pieces
    monkeypatch.setattr(spectral, "griffin_lim_pieces", lambda *a, **k: pieces(*a, **k | {"piece": 64, "context": 16}))
    codes = torch.zeros(1, 14, steps, dtype=torch.int64)
    wanted = torch.log(spectrum(audio, wide.window, 768, loop).abs() + 0.1)

    def error(codec: SpectralCodec) -> float:
        found = codec.decode(codes, loop)[:, 0]
        assert found.shape == audio.shape
        return float((torch.log(spectrum(found, codec.window, 768, loop).abs() + 0.1) - wanted).abs().mean())

    assert error(halved) < min(0.05, 1.5 * error(wide))


def test_decoding_in_bfloat16_is_near_to_float32(codec, monkeypatch):
    codes = torch.randint(0, 1024, (1, 14, 20))
    seen = []
    monkeypatch.setattr(
        codec,
        "heard_magnitudes",
        lambda features: seen.append(features) or torch.ones(1, 20 * codec.config.frames, codec.config.window // 2 + 1),
    )
    codec.decode(codes)
    twin = copy.copy(codec)
    twin.precision = "bfloat16"
    twin.decode(codes)
    assert [x.dtype for x in seen] == [torch.float32] * 2
    assert 0 < (seen[1] - seen[0]).norm() < 0.02 * seen[0].norm()


def test_saved_and_loaded_it_is_the_same(codec, tmp_path):
    save_codec(codec, tmp_path, dtype=torch.float32)
    loaded = load_codec(tmp_path)
    codes = torch.randint(1024, (1, 14, 20))
    assert torch.equal(loaded.decode(codes), codec.decode(codes))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_loading_is_strict(codec, tmp_path):
    save_codec(codec, tmp_path)
    tensors = load_file(tmp_path / "codec.safetensors")
    gone = tensors.pop("mean")
    save_file(tensors | {"extra": gone}, tmp_path / "codec.safetensors")
    with pytest.raises(ValueError, match="mean.*extra"):
        load_codec(tmp_path)
    (tmp_path / "codec.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="codec.safetensors"):
        load_codec(tmp_path)


def test_impossible_shapes_are_refused():
    for wrong in ({"hop": 767}, {"kernel": 4}, {"fine_hz": 30_000.0}, {"short_frames": 5}):
        with pytest.raises(ValueError):
            SpectralCodecConfig(**wrong)


def test_a_short_view_moves_an_attack_to_its_place():
    view = ShortView(44_100, 768, 256, 32)
    assert SpectralCodec(dataclasses.replace(LONG_AND_SHORT, short_slack=0.7)).short.slack == 0.7 != view.slack
    steady = torch.randn(1, 120 * 256) * 0.05
    struck = steady.clone()
    struck[:, 60 * 256 :] *= 8.0
    smeared = steady * torch.linspace(1, 8, 120 * 256)
    levels = view.levels(view.frames(struck))
    assert levels.shape == (1, 120, 32)
    before, after = ((view.levels(view.frames(x)) - levels).abs().mean() for x in (smeared, view.correct(smeared, levels)))
    assert after < before / 3
    assert torch.allclose(view.correct(struck, levels), struck, atol=1e-3)
    # Out of a rest nothing is heard before the attack that the long window has put there.
    rest = struck * (torch.arange(120 * 256) >= 60 * 256)
    made = view.correct(smeared, view.levels(view.frames(rest)))
    assert made[:, : 55 * 256].norm() < 10 ** (-35 / 20) * smeared[:, : 55 * 256].norm()
    # Where there are no tones, levels are followed without slack.
    strict = ShortView(44_100, 768, 256, 32, tones_hz=11_025.0)
    errors = [(v.levels(v.frames(v.correct(smeared, levels))) - levels).abs().mean(dim=(0, 1)) for v in (view, strict)]
    tonal = strict.tonal.bool()
    assert 20 < tonal.sum() < 30 and torch.allclose(errors[0][tonal][:-1], errors[1][tonal][:-1], atol=0.01)
    assert (errors[1][~tonal] < 0.7 * errors[0][~tonal]).all()
    # On a ring nothing happens at the seam that does not happen elsewhere.
    turned = view.correct(smeared.roll(30 * 256, 1), levels.roll(30, 1), loop=True)
    assert torch.allclose(turned, view.correct(smeared, levels, loop=True).roll(30 * 256, 1), atol=1e-4)
