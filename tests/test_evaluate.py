"""The measures themselves, against values that are known: distances of Gaussians, made beats, transposed chords."""

from __future__ import annotations

import ast
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import unspeakable, without_length
from tiny import tiny_vampnet

from vampnet.evaluate import clips, embeddings, extras, frechet, musical, vggish
from vampnet.evaluate.estimates import mean_estimate
from vampnet.evaluate.store import Result, Store
from vampnet.evaluate.token_figures import token_figures

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 44_100


# ------------------------------------------------------------------------------------------------------ Fréchet distance


def drawn(clips: int, mean: np.ndarray, root: np.ndarray, seed: int, frames: int = 8) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(frames, len(mean))) @ root + mean for _ in range(clips)]


def test_distance_of_gaussians_with_known_moments():
    one = frechet.Gaussian(9, np.array([0.0, 0.0]), np.diag([1.0, 4.0]))
    two = frechet.Gaussian(9, np.array([3.0, 4.0]), np.diag([9.0, 4.0]))
    assert frechet.frechet_distance(one, two) == pytest.approx(25 + (1 - 3) ** 2)
    assert frechet.frechet_distance(two, one) == pytest.approx(29)
    # Where the two do not commute: against the closed form for 2 x 2, tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)).
    a, b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 5.0]])
    root = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))
    got = frechet.frechet_distance(frechet.Gaussian(9, np.zeros(2), a), frechet.Gaussian(9, np.zeros(2), b))
    assert got == pytest.approx(10 - 2 * root)
    # Without full rank, where a root of the product by eigenvalues goes complex.
    flat = frechet.Gaussian(9, np.zeros(3), np.diag([1.0, 0.0, 0.0]))
    assert frechet.frechet_distance(flat, frechet.Gaussian(9, np.zeros(3), np.diag([0.0, 1.0, 0.0]))) == pytest.approx(2)
    with pytest.raises(ValueError, match="one embedding"):
        frechet.frechet_distance(one, flat)


def test_equal_sets_lie_at_zero_and_a_shift_at_its_square():
    far_away = drawn(12, np.full(5, 1e4), np.eye(5), 0)
    same = frechet.Sets.of(far_away, far_away, paired=True)
    assert frechet.fad(same) == pytest.approx(0, abs=1e-9) and frechet.fad_infinity(same) == pytest.approx(0, abs=1e-9)
    moved = frechet.Sets.of(far_away, [clip + 2.0 for clip in far_away], paired=True)
    assert frechet.fad(moved) == pytest.approx(5 * 4) and frechet.fad_infinity(moved) == pytest.approx(20)
    estimate = frechet.fad_estimate(moved, draws=20)
    assert estimate.low == pytest.approx(20) and estimate.high == pytest.approx(20)
    with pytest.raises(ValueError, match="equally many"):
        frechet.Sets.of(far_away, far_away[:3], paired=True)
    with pytest.raises(ValueError, match="not finite"):
        frechet.moments([np.full((3, 2), np.nan)])


@pytest.mark.parametrize("paired", [False, True])
def test_the_bias_of_a_small_sample_goes(paired):
    """The plain distance is far too high with 14 clips, the extrapolated one is right, and the interval holds the truth."""
    size, noise = 12, 0.5
    root = np.diag(np.linspace(0.2, 1.5, size))
    truth_of = [frechet.Gaussian(9, np.zeros(size), root**2 + extra * noise**2 * np.eye(size)) for extra in (0, 1)]
    truth = frechet.frechet_distance(*truth_of)
    plain, infinite, held = [], [], 0
    for seed in range(12):
        reference = drawn(14, np.zeros(size), root, seed)
        ours = reference if paired else drawn(14, np.zeros(size), root, 100 + seed)
        made = [a + b for a, b in zip(ours, drawn(14, np.zeros(size), noise * np.eye(size), 200 + seed), strict=True)]
        sets = frechet.Sets.of(reference, made, paired)
        estimate = frechet.fad_estimate(sets, draws=60, seed=seed)
        plain.append(frechet.fad(sets))
        infinite.append(estimate.value)
        held += estimate.low <= truth <= estimate.high
    assert np.mean(plain) > 1.2 * truth
    assert abs(np.mean(infinite) - truth) < 0.5 * (np.mean(plain) - truth)
    assert held >= 8


def test_fewer_frames_than_dimensions_change_no_distance():
    rng = np.random.default_rng(0)
    reference = [rng.normal(size=(2, 64)) + 100 for _ in range(6)]
    made = [clip + 0.3 * rng.normal(size=(2, 64)) for clip in reference]
    thin = frechet.Sets.of(reference, made, True)
    assert thin.made.sums.shape[1] == 24
    gaussians = [
        frechet.Gaussian(12, np.mean(x, axis=0), np.cov(x.T)) for x in (np.concatenate(reference), np.concatenate(made))
    ]
    assert frechet.fad(thin) == pytest.approx(frechet.frechet_distance(*gaussians), rel=1e-6) and frechet.fad(thin) > 1
    full = frechet.Sets.of([np.repeat(clip, 6, axis=0) for clip in reference], made, True)
    assert full.made.sums.shape[1] == 64


def test_too_few_clips_give_no_figure():
    two = drawn(2, np.zeros(3), np.eye(3), 0)
    assert math.isnan(frechet.fad_estimate(frechet.Sets.of(two, two, True), 20).value)
    assert math.isnan(frechet.fad(frechet.Sets.of([two[0][:1]], [two[0][:1]], True)))


# ------------------------------------------------------------------------------------------------------------ intervals


def test_means_have_intervals_and_share_their_draws():
    rng = np.random.default_rng(0)
    clip = rng.normal(0, 5, 200)
    a, b = mean_estimate(clip), mean_estimate(clip + 1 + rng.normal(0, 0.1, 200))
    assert a.low < a.value < a.high and a.high - a.low == pytest.approx(2 * 1.96 * 5 / math.sqrt(200), rel=0.2)
    # Clip by clip the difference is certain, though the means are not.
    assert 0.9 < (b - a).low < (b - a).high < 1.1
    holes = mean_estimate([1.0, math.nan, 3.0])
    assert holes.value == 2 and 1 <= holes.low <= holes.high <= 3
    assert math.isnan(mean_estimate([math.nan]).value) and math.isnan(mean_estimate([]).low)


# ----------------------------------------------------------------------------------------------------------- embeddings


def tone(hertz: float, seconds: float = 2.0, level: float = 0.3) -> torch.Tensor:
    return level * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)


def test_logmel_keeps_all_of_the_patch_and_tells_what_changes():
    embed = embeddings.LogMel()
    noise = torch.randn(3 * RATE) * 0.1
    pulsing = noise * (torch.sin(2 * torch.pi * 4 * torch.arange(3 * RATE) / RATE) > 0)
    points, pulses = embed(noise, RATE), embed(pulsing, RATE)
    assert points.shape == pulses.shape == (5, 54) and points.dtype == np.float32
    patch = embeddings.patches(embeddings.log_mel(noise, RATE))
    assert np.allclose(np.square(points).sum(axis=1), patch.square().mean(dim=(1, 2)), rtol=1e-3)
    # Four pulses a second are about 8 half cycles a patch: the fourth band of modulation, of the flattest quefrency.
    moving = (pulses - points).mean(axis=0)[19:].reshape(5, 7)
    assert np.unravel_index(moving.argmax(), moving.shape) in ((2, 0), (3, 0))
    # 6 dB are 6 dB: the first number is the level.
    assert embed(noise * 2, RATE)[:, 0] - points[:, 0] == pytest.approx(6.02, abs=0.15)
    assert embed(noise[: RATE // 4], RATE).shape == (1, 54)


def test_codec_latents_say_whose_they_are(tmp_path):
    from tiny import tiny_checkpoint, tiny_models

    codec = tiny_models()[0]
    (own,) = embeddings.make_embeddings(["codec"], codec)
    assert own.own and "judged model's own" in own.about
    assert own(tone(220), RATE).shape == (3, 2 * 4 * 8)
    with pytest.raises(ValueError, match="Hz"):
        own(tone(220), 16_000)
    (other,) = embeddings.make_embeddings([f"codec:{tiny_checkpoint(tmp_path)}"])
    assert not other.own and "another codec" in other.about and np.array_equal(other(tone(220), RATE), own(tone(220), RATE))
    for name in ("encodec", "codec"):
        with pytest.raises(ValueError, match="no embedding"):
            embeddings.make_embeddings([name])


def test_vggish_sees_what_its_description_says():
    """Google's description of the input, in words: 25 ms with a periodic Hann window every 10 ms, magnitudes of 512 bins,
    64 triangles that are straight in mel from 125 to 7500 Hz, the logarithm of that and 0.01, frames in groups of 96."""
    wave = 0.1 * np.random.default_rng(0).normal(size=16_000 * 2)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([wave[i : i + 400] * window for i in range(0, len(wave) - 399, 160)])
    mel = lambda hertz: 1127 * np.log1p(hertz / 700)  # noqa: E731
    bins, edges = mel(np.linspace(0, 8000, 257)), np.linspace(mel(125.0), mel(7500.0), 66)
    triangles = [np.interp(bins, edges[i : i + 3], (0, 1, 0)) * (bins > 0) for i in range(64)]
    wanted = np.log(np.abs(np.fft.rfft(frames, 512)) @ np.stack(triangles, axis=1) + 0.01)[: 2 * 96].reshape(2, 1, 96, 64)
    got = vggish.examples(torch.from_numpy(wave).float(), 16_000)
    assert np.allclose(got.numpy(), wanted, atol=2e-4)
    # TensorFlow flattens time, frequency, channel.
    model = vggish.VGGish.__new__(vggish.VGGish)
    torch.nn.Module.__init__(model)
    model.features, model.embeddings = torch.nn.Identity(), torch.nn.Identity()
    assert model(torch.arange(24.0).reshape(1, 2, 3, 4))[0, :4].tolist() == [0, 12, 1, 13]


def test_vggish_has_the_published_shape_and_reads_nothing_else(tmp_path, monkeypatch):
    """Names and shapes are those of the published state dict (torchvggish, v0.1), which holds no principal components."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in vggish.VGGish().state_dict().items()}
    convolutions = {0: (64, 1), 3: (128, 64), 6: (256, 128), 8: (256, 256), 11: (512, 256), 13: (512, 512)}
    linear = {0: (4096, 12288), 2: (4096, 4096), 4: (128, 4096)}
    assert {k: v for k, v in shapes.items() if k.endswith("weight")} == {
        **{f"features.{i}.weight": (*size, 3, 3) for i, size in convolutions.items()},
        **{f"embeddings.{i}.weight": size for i, size in linear.items()},
    }
    seen = vggish.examples(tone(1000), RATE)
    assert seen.shape == (2, 1, 96, 64) and vggish.examples(tone(1000, 0.2), RATE).shape == (1, 1, 96, 64)
    # 1 kHz lies in band 65 * (mel(1000) - mel(125)) / (mel(7500) - mel(125)) - 1 = 19.5.
    assert int(seen[0, 0, 50].argmax()) in (19, 20)
    # Of this format the published file is: torch.save of 2019, tensors by these names and nothing else. All numbers of a
    # tensor are one in memory here, so that 288 MB are 20 kB.
    sizes = {f"features.{i}": (*size, 3, 3) for i, size in convolutions.items()}
    sizes |= {f"embeddings.{i}": size for i, size in linear.items()}
    state = {f"{k}.weight": torch.full((1,), 2 / math.prod(v[1:])).expand(v) for k, v in sizes.items()}
    state |= {f"{k}.bias": torch.zeros(v[0]) for k, v in sizes.items()}
    path = tmp_path / "vggish-10086976.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    embed = vggish.VGGishEmbedding.load(path)
    assert not embed.model.training and embed.model.state_dict().keys() == state.keys()
    # Layers that average and double: what comes out is about 2 ** 9 times the mean, where that is not below 0.
    loud = embed(10 * torch.randn(2 * RATE, generator=torch.Generator().manual_seed(0)), RATE)
    assert loud.shape == (2, 128) and loud.dtype == np.float32 and np.ptp(loud) < 0.2 * loud.mean() and 200 < loud.mean() < 3000
    state["embeddings.4.weight"] = state["embeddings.4.weight"][:64]
    torch.save(state, path)
    with pytest.raises(ValueError, match="size mismatch for embeddings.4.weight"):
        vggish.load_vggish(path)
    wrong = tmp_path / "wrong.pth"
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, wrong)
    with pytest.raises(ValueError, match="does not hold the published weights"):
        vggish.load_vggish(wrong)
    torch.save({"model": vggish.VGGishEmbedding}, wrong)
    with pytest.raises(ValueError, match="cannot be read"):
        vggish.load_vggish(wrong)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE forbids"):
        vggish.find_weights()
    with pytest.raises(ValueError, match="check the path"):
        vggish.find_weights(tmp_path / "none.pth")


# ---------------------------------------------------------------------------------------------------------- what is heard


def test_beats_against_made_beats():
    even = np.arange(0.5, 10, 0.5)
    assert musical.beat_f(even, even) == 1
    assert musical.beat_f(even, even + 0.05) == 1 and musical.beat_f(even, even + 0.2) == 0
    # Half of the beats: all of them right, half of the source's found.
    assert musical.beat_f(even, even[::2]) == pytest.approx(2 * 1 * 10 / 19 / (1 + 10 / 19))
    assert musical.beat_f(even, ()) == 0 and math.isnan(musical.beat_f((), even))
    assert musical.onset_f((1.0, 2.0), (1.02, 3.0)) == pytest.approx(0.5) and musical.onset_f((1.0,), ()) == 0


def heard(audio: torch.Tensor) -> musical.Heard:
    """Without beats and onsets, which take time."""
    chroma, energy, bands = musical._spectrum(audio, RATE)
    return musical.Heard(audio, RATE, (), (), np.zeros(1), chroma, energy, bands, 0.0)


def test_harmony_knows_neither_level_nor_octave_and_balance_no_level():
    def chord(*semitones: float) -> torch.Tensor:
        return sum(tone(261.63 * 2 ** (s / 12)) for s in semitones)

    major = heard(chord(0, 4, 7))
    assert musical.chroma_similarity(major, major) == pytest.approx(1)
    assert musical.chroma_similarity(major, heard(0.1 * chord(0, 4, 7))) == pytest.approx(1, abs=1e-3)
    assert musical.chroma_similarity(major, heard(chord(12, 16, 19))) > 0.95
    assert musical.chroma_similarity(major, heard(chord(1, 5, 8))) < 0
    assert 0.3 < musical.chroma_similarity(major, heard(chord(0, 3, 7))) < 0.9
    noise = torch.randn(RATE)
    white, bright = heard(noise), heard(torch.cat([noise[:1], noise.diff()]))
    assert musical.balance(white.bands, heard(noise * 0.1).bands) == pytest.approx(0, abs=1e-3)
    assert musical.balance(white.bands, bright.bands) > 6
    assert int(heard(tone(1000)).bands.argmax()) == int(np.argmin(np.abs(musical.BANDS_HZ - 1000)))


def test_a_seam_that_clicks_is_told_from_one_that_does_not():
    ring = tone(100, 1.0) + torch.sin(2 * torch.pi * torch.arange(RATE) / RATE) * 0.1
    smooth, cut = musical.seam(ring, RATE), musical.seam(ring[:-110], RATE)
    assert smooth["seam_step"] < 1.1 and smooth["seam_flux"] < 1.5
    assert cut["seam_step"] > 5 and cut["seam_flux"] > 5


def test_takes_are_told_apart():
    tokens, mask = torch.zeros(2, 3, 10, dtype=torch.long), torch.zeros(1, 3, 10, dtype=torch.bool)
    mask[:, :, 5:] = True
    tokens[1, 0, 5:] = 1
    found = musical.takes_differ([tone(220), 2 * tone(220)], tokens, mask, RATE)
    assert found["takes_tokens"] == pytest.approx(1 / 3) and 0.1 < found["takes_mel"] < 0.61
    assert musical.takes_differ([tone(220)], tokens[:1], mask, RATE) == {}


# ------------------------------------------------------------------------------------------------------ clips and results


def test_clips_of_a_folder_are_nested_level_and_fresh_files_first(tmp_path, make_music):
    for name, seconds in (("long", 5.2), ("short", 1.2)):
        soundfile.write(tmp_path / f"{name}.wav", make_music(seconds).T, RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(2 * RATE), RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    found = clips.excerpts(tmp_path, 1.5)
    assert [e.name for e in found if e.name.startswith("long")] == [f"long.wav at {s:.1f} s" for s in (1.9, 3.4, 0.3)]
    assert {e.path.stem for e in found[:3]} == {"long", "short", "silent"}
    two, four = (list(clips.folder_clips(tmp_path, n, 1.5, RATE)) for n in (2, 4))
    assert [c.name for c in four[:2]] == [c.name for c in two] and len(four) == 4
    assert all("silent" not in clip.name for clip in four) and len({clip.id for clip in four}) == 4
    level = [10 * math.log10(float(clip.audio.square().mean())) for clip in four]
    assert max(level) - min(level) < 3 and all(len(clip.audio) <= 1.5 * RATE for clip in four)
    assert [c.name[:4] for c in clips.folder_clips(tmp_path, 9, 1.5, RATE, full=True)] == ["long"] * 3
    (whole,) = (c for c in clips.folder_clips(tmp_path, 9, 30, RATE, whole=True) if c.name == "long.wav")
    assert len(whole.audio) == round(5.2 * RATE)
    with pytest.raises(ValueError, match="No audio"):
        clips.excerpts(tmp_path / "nothing", 1.5)


def test_a_name_that_is_no_text_is_one_of_the_clips(tmp_path, make_music):
    path = unspeakable(tmp_path)
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, make_music(1.2).T, RATE)
    os.rename(tmp_path / "b.wav", path)
    found = list(clips.folder_clips(tmp_path, 9, 1.0, RATE))
    assert {clip.name for clip in found} == {"a.wav", os.path.basename(path)}


def test_a_file_that_does_not_tell_its_length_is_left_out(tmp_path):
    samples = 0.3 * np.sin(np.arange(4 * 44_100) / 20)
    for name in ("good.flac", "streamed.flac"):
        soundfile.write(tmp_path / name, samples, 44_100)
    path = tmp_path / "streamed.flac"
    path.write_bytes(without_length(path.read_bytes()))
    assert {excerpt.path.name for excerpt in clips.excerpts(tmp_path, 2.0)} == {"good.flac"}


def test_one_short_clip_does_not_shorten_what_all_are_judged_by():
    model, generator = tiny_vampnet(), torch.Generator().manual_seed(0)
    made = [torch.randint(model.codec.codebook_size, (14, steps), generator=generator) for steps in (60, 60, 60, 5)]
    whole, with_short = token_figures(model, made[:3]), token_figures(model, made)
    assert whole["coarse"]["by_mask"] == with_short["coarse"]["by_mask"]


def test_results_are_kept_whole_and_damage_is_seen(tmp_path):
    store = Store(tmp_path, "run")
    tokens = np.arange(1024).reshape(1, 2, 512)
    result = Result({"mel": 0.5, "beat_f": math.nan}, {"codec:a": np.ones((3, 2), np.float32)}, tokens)
    store.write("recipe", "clip", result)
    got = store.read("recipe", "clip")
    assert got.figures["mel"] == 0.5 and math.isnan(got.figures["beat_f"])
    assert np.array_equal(got.embeddings["codec:a"], np.ones((3, 2))) and got.embeddings["codec:a"].dtype == np.float32
    assert np.array_equal(got.tokens, tokens) and got.tokens.dtype == np.int16
    path = store.path("recipe", "clip")
    path.write_bytes(path.read_bytes()[:-40])
    assert store.read("recipe", "clip") is None and store.read("recipe", "other") is None
    np.savez(path, figures=np.array([object()], dtype=object))
    assert store.read("recipe", "clip") is None, "nothing is unpickled"
    assert (tmp_path / ".gitignore").read_text() == "*\n"
    store.write_values("tokens", {"a": [1.5]})
    assert store.read_values("tokens") == {"a": [1.5]} and store.read_values("none") is None


# ------------------------------------------------------------------------------------------------------------------- extras


def test_nothing_extra_is_imported_until_it_is_used(monkeypatch):
    """Only `need` imports them, by name."""
    for path in (Path(__file__).resolve().parent.parent / "vampnet" / "evaluate").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"matplotlib", "mir_eval", "transformers"} & {name.split(".")[0] for name in names}, path
    monkeypatch.setitem(sys.modules, "mir_eval", None)
    monkeypatch.setitem(sys.modules, "mir_eval.beat", None)
    with pytest.raises(ModuleNotFoundError, match="'mir_eval', which is not installed: python -m pip install -r requirements"):
        extras.need("mir_eval.beat")
    with pytest.raises(ModuleNotFoundError, match="'mir_eval'"):
        musical.beat_f((1.0,), (1.0,))
