"""Stage 1: the start in closed form, the steps, resuming."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import soundfile as sf
import torch

from vampnet.codec import SpectralCodec, SpectralCodecConfig, load_codec, save_codec
from vampnet.train import audio_pool
from vampnet.train import codec as stage
from vampnet.train.audio_pool import AudioPool, loudness_gain
from vampnet.train.codec_init import initialise, principal_axes, set_weight, spherical_kmeans
from vampnet.train.settings import read_fields

MODEL = SpectralCodecConfig(dim=48, encoder_layers=1, decoder_layers=1, kernel=3, codebook_size=64, rounds=2)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three files of notes: mono, stereo and another rate."""
    out = tmp_path_factory.mktemp("audio")
    rng = np.random.default_rng(0)
    for name, rate, channels in (("a.wav", 44_100, 1), ("b.flac", 44_100, 2), ("c.wav", 22_050, 1)):
        t = np.arange(4 * rate) / rate
        notes = sum(np.sin(2 * np.pi * f * t) * ((t * 4).astype(int) % 5 == i) for i, f in enumerate(rng.uniform(100, 3000, 5)))
        sf.write(out / name, np.repeat(0.3 * notes[:, None] + 1e-3 * rng.standard_normal((len(t), 1)), channels, 1), rate)
    return out


def settings(folder, **changes) -> stage.CodecTraining:
    values = {"audio": str(folder), "held_out": str(folder), "batch": 2, "crop_tokens": 16, "init_tokens": 400, "warmup": 5}
    return stage.CodecTraining(**values | changes)


def test_pool_is_at_one_loudness_and_crops_stay_in_their_clip(folder):
    pool = AudioPool(folder, 44_100)
    assert pool.hours == pytest.approx(12 / 3600, rel=0.01)
    crops = pool.crops(8, 20_000, torch.Generator().manual_seed(0))
    assert crops.shape == (8, 20_000) and crops.abs().max() < 1
    loud = 0.5 * np.sin(np.arange(88_200) / 10)[:, None]
    assert loudness_gain(loud, 44_100) == pytest.approx(loudness_gain(loud / 4, 44_100) / 4, rel=1e-3)
    long = pool.crops(2, 44_100 * 5, torch.Generator().manual_seed(0))
    assert (long[:, -1000:] == 0).all()
    with pytest.raises(ValueError, match="No audio"):
        AudioPool(folder / "nothing", 44_100)


def test_pool_names_what_it_cannot_use_and_goes_on(folder, tmp_path, caplog):
    good = sf.read(folder / "a.wav", dtype="float32")[0]
    sf.write(tmp_path / "good.wav", good, 44_100)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "._good.wav").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "words.mp3").write_text("not a sound")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "lost.wav").symlink_to(tmp_path / "nowhere.wav")
    sf.write(tmp_path / "silent.wav", np.zeros(44_100), 44_100)
    broken = good.copy()
    broken[7] = np.nan
    sf.write(tmp_path / "broken.wav", broken, 44_100, "FLOAT")
    sf.write(tmp_path / "more.aiff", good, 44_100)
    pool = AudioPool(tmp_path, 44_100)
    assert len(pool.starts) == 2 and pool.hours == pytest.approx(8 / 3600, rel=0.01)
    for name in ("empty.wav", "._good.wav", "words.mp3", "silent.wav", "broken.wav"):
        assert f"{name} is left out" in caplog.text
    for name in ("good.wav", "more.aiff"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="can be used"):
        AudioPool(tmp_path, 44_100)


def test_a_pool_that_others_read_is_the_same(folder, monkeypatch):
    plain = AudioPool(folder, 44_100)
    monkeypatch.setattr(audio_pool, "FILES_A_PROCESS", 1)
    monkeypatch.setattr(audio_pool.os, "cpu_count", lambda: 2)
    ahead = AudioPool(folder, 44_100)
    assert torch.equal(plain.samples, ahead.samples) and torch.equal(plain.ends, ahead.ends)
    short = AudioPool(folder, 44_100, limit_hours=plain.hours / 10)
    assert len(short.starts) == 1 and torch.equal(short.samples, plain.samples[: len(short.samples)])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"peak": "1e-3", "batch": "2", "minutes": 1}, ""),
        ({"batch": 0}, "batch must be at least 1"),
        ({"batch": "two"}, "training.batch must be a number"),
        ({"batch": 2.5}, "whole number"),
        ({"minutes": "abc"}, "training.minutes must be a number"),
        ({"average": 2}, "share"),
        ({"revive_every": 0}, "revive_every"),
        ({"bfloat16": "maybe"}, "true, false or auto"),
        ({"compile": "yes"}, "true or false"),
        ({"audio": 3}, "must be text"),
        ({"colour": 1}, "no setting training.colour"),
    ],
)
def test_settings_are_what_they_are_meant_to_be_or_named(values, sentence):
    given = {"audio": "a", "held_out": "b", **values}
    if not sentence:
        made = stage.CodecTraining(**read_fields(stage.CodecTraining, given, "training."))
        assert made.peak == 1e-3 and made.batch == 2 and made.minutes == 1.0
        return
    with pytest.raises(ValueError, match=sentence):
        stage.CodecTraining(**read_fields(stage.CodecTraining, given, "training."))


def test_a_resumed_run_knows_which_codes_were_used(folder, tmp_path):
    """Else it would take all that were not used since for dead, and put others in their place."""
    trainer = stage.CodecTrainer(MODEL, settings(folder), tmp_path)
    for _ in range(3):
        trainer.update(0.0)
    trainer.save(1.0)
    again = stage.CodecTrainer(MODEL, settings(folder), tmp_path)
    assert torch.equal(again.dead.counts, trainer.dead.counts) and again.dead.counts.sum() > 0
    with pytest.raises(ValueError, match="another shape"):
        stage.CodecTrainer(dataclasses.replace(MODEL, dim=32), settings(folder), tmp_path)
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="cannot be read"):
        stage.CodecTrainer(MODEL, settings(folder), tmp_path)


def test_principal_axes_and_kmeans_find_what_is_there():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 2, generator=generator) @ torch.tensor([[3.0, 0, 0], [0, 1.0, 0]]) + 5
    mean, axes = principal_axes(x, 2)
    assert torch.allclose(mean, torch.full((3,), 5.0), atol=0.5)
    assert axes[0, 0].abs() > 0.99 and axes[1, 1].abs() > 0.99
    rays = torch.eye(4)[torch.arange(400) % 4] * torch.rand(400, 1, generator=generator).add(0.5)
    codes, nearest = spherical_kmeans(rays, 4, generator)
    assert len({int(n) for n in nearest}) == 4
    assert torch.allclose(codes[nearest].argmax(1), rays.argmax(1))


def test_set_weight_makes_the_convolution_that_was_asked_for():
    q = SpectralCodec(MODEL).quantizer.quantizers[0]
    weight, bias = torch.randn(8, 48), torch.randn(8)
    weight[-1] = 0
    set_weight(q.in_proj, weight, bias)
    x = torch.randn(1, 48, 5)
    assert torch.allclose(q.in_proj(x)[0], weight @ x[0] + bias[:, None], atol=0.01)


def test_closed_form_start_is_a_working_codec(folder):
    pool = AudioPool(folder, 44_100)
    crops = pool.crops(26, 16 * 768, torch.Generator().manual_seed(0))
    before, after = SpectralCodec(MODEL), SpectralCodec(MODEL)
    initialise(after, crops)

    assert reconstruction_error(after, crops) < 0.35 * reconstruction_error(before, crops)
    with pytest.raises(ValueError, match="time steps"):
        initialise(SpectralCodec(MODEL), crops[:2])


def test_every_level_adds_to_what_the_levels_before_it_say(folder):
    crops = AudioPool(folder, 44_100).crops(26, 16 * 768, torch.Generator().manual_seed(0))
    codec = SpectralCodec(MODEL)
    initialise(codec, crops)
    codec.eval()  # in training mode the quantizer ignores how many levels are asked for
    latents = codec.encode_latents(codec.features(crops))
    errors = [float((codec.quantizer(latents, n_quantizers=n)[0] - latents).square().mean()) for n in (1, 4, 14)]
    assert errors[0] > errors[1] > errors[2]


def test_equaliser_changes_colour_not_length(folder):
    audio = torch.randn(3, 4096)
    out = stage.equalise(audio, 6.0, torch.Generator().manual_seed(0))
    assert out.shape == audio.shape and not torch.allclose(out, audio, atol=0.1)
    assert torch.allclose(stage.equalise(audio, 0.0, torch.Generator().manual_seed(0)), audio, atol=1e-4)


def test_dead_codes_come_back(folder):
    trainer = stage.CodecTrainer(MODEL, settings(folder), folder / "unused-run")
    q = trainer.codec.quantizer.quantizers[0]
    q.codebook.weight.data[7] = 1e6
    trainer.dead.counts[:] = 1
    trainer.dead.counts[0, 7] = 0
    assert trainer.dead.revive(trainer.pool.crops(2, trainer.length, torch.Generator()), torch.Generator()) == 1
    assert q.codebook.weight[7].abs().max() < 1e5 and (trainer.dead.counts == 0).all()


def test_codes_are_counted_by_level(folder):
    trainer = stage.CodecTrainer(MODEL, settings(folder), folder / "counted-run")
    size = trainer.codec.codebook_size
    codes = torch.randint(0, size, (3, trainer.codec.n_codebooks, 50))
    trainer.dead.count(codes)
    trainer.dead.count(codes)
    for level, row in enumerate(codes.transpose(0, 1).flatten(1)):
        assert torch.equal(trainer.dead.counts[level], 2.0 * torch.bincount(row, minlength=size))


def reconstruction_error(codec: SpectralCodec, audio: torch.Tensor) -> float:
    with torch.no_grad():
        target = codec.features(audio)
        return float((codec.decode_latents(codec.quantizer(codec.encode_latents(target))[0]) - target).square().mean())


def test_training_betters_the_start(folder, tmp_path):
    trainer = stage.CodecTrainer(MODEL, settings(folder, peak=2e-3, equalise_db=0.0, quantizer_dropout=0.0), tmp_path)
    audio = trainer.pool.crops(16, trainer.length, torch.Generator().manual_seed(3))
    before = reconstruction_error(trainer.codec, audio)
    for _ in range(80):
        trainer.update(0.0)
    assert reconstruction_error(trainer.codec, audio) < 0.9 * before


def test_a_resumed_run_is_the_uninterrupted_one(folder, tmp_path):
    def run(path, steps):
        trainer = stage.CodecTrainer(MODEL, settings(folder), path)
        for _ in range(steps):
            trainer.update(0.0)
        trainer.save(1.0)
        return trainer

    whole = run(tmp_path / "whole", 12)
    run(tmp_path / "parts", 5)
    parts = run(tmp_path / "parts", 7)
    assert parts.step == whole.step == 12
    for a, b in zip(whole.codec.state_dict().values(), parts.codec.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_command_line_trains_exports_and_says_when_it_is_done(folder, tmp_path):
    config = tmp_path / "codec.yaml"
    config.write_text(
        f"model: {{dim: 16, encoder_layers: 1, decoder_layers: 1, kernel: 3, codebook_size: 64, rounds: 1}}\n"
        f"training: {{audio: {folder}, held_out: {folder}, batch: 1, crop_tokens: 8, init_tokens: 400, minutes: 60}}\n"
    )
    arguments = ["--config", str(config), "--run", str(tmp_path / "run"), "--export", str(tmp_path / "out")]
    # A budget that no machine is slow enough to use up, and then one that is used up already.
    assert stage.main([*arguments, "--session-minutes", "0.001"]) == 3
    assert stage.main([*arguments, "--set", "training.minutes=0.001"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"mel", "partials"} <= set(lines[-1])
    assert load_codec(tmp_path / "out").encode(torch.zeros(1, 1, 7680)).shape == (1, 14, 10)
    with pytest.raises(SystemExit):
        stage.main([*arguments, "--set", "training.nonsense=1"])


def test_a_run_begins_with_a_codec_that_is_there_and_grows(folder, tmp_path):
    first = stage.CodecTrainer(MODEL, settings(folder), tmp_path / "first")
    save_codec(first.codec, tmp_path / "codec")
    known = load_codec(tmp_path / "codec")
    larger = dataclasses.replace(MODEL, encoder_layers=3, decoder_layers=2, rounds=4)
    grown = stage.CodecTrainer(larger, settings(folder, start=str(tmp_path / "codec")), tmp_path / "grown")
    assert torch.equal(grown.codec.encode(grown.probe[:, None]), known.encode(grown.probe[:, None]))
    codes = known.encode(grown.probe[:1, None])
    latents = known.quantizer.from_codes(codes)[0]
    with torch.no_grad():
        assert torch.equal(grown.codec.decode_latents(latents), known.decode_latents(latents))
    before = [block.scale.clone() for block in grown.codec.encoder[1:]]
    for _ in range(3):
        grown.update(0.0)
    assert all(not torch.equal(block.scale, old) for block, old in zip(grown.codec.encoder[1:], before, strict=True))
    for change, name in (({"dim": 32}, "dim"), ({"encoder_layers": 0}, "encoder_layers")):
        with pytest.raises(ValueError, match=name):
            other = dataclasses.replace(MODEL, **change)
            stage.CodecTrainer(other, settings(folder, start=str(tmp_path / "codec")), tmp_path / "other")


def test_a_gradient_that_is_no_number_reaches_no_file(folder, tmp_path, monkeypatch):
    trainer = stage.CodecTrainer(MODEL, settings(folder), tmp_path)
    trainer.update(0.0)
    trainer.save(1.0)
    good = (tmp_path / "last.pt").read_bytes()
    monkeypatch.setattr(stage, "equalise", lambda audio, *_: audio * float("nan"))
    trainer.update(0.0)
    for work in (trainer.check, lambda: trainer.save(2.0)):
        with pytest.raises(ValueError, match="no number"):
            work()
    assert (tmp_path / "last.pt").read_bytes() == good


def test_a_code_that_is_replaced_begins_anew_in_every_respect(folder, tmp_path):
    trainer = stage.CodecTrainer(MODEL, settings(folder), tmp_path)
    for _ in range(3):
        trainer.update(0.0)
    weight = trainer.codec.quantizer.quantizers[0].codebook.weight
    trainer.dead.counts[:] = 1
    trainer.dead.counts[0, 7] = 0
    trainer.dead.revive(trainer.pool.crops(2, trainer.length, torch.Generator()), torch.Generator(), trainer._forget)
    average = trainer.average.weights()["quantizer.quantizers.0.codebook.weight"]
    state = trainer.optimiser.state[weight]
    assert torch.equal(average[7], weight[7]) and not torch.equal(average[6], weight[6])
    assert not state["exp_avg"][7].any() and not state["exp_avg_sq"][7].any() and state["exp_avg_sq"].any()


def test_the_rate_is_held_where_that_is_asked_for(folder, tmp_path):
    held = stage.CodecTrainer(MODEL, settings(folder, hold=True, peak=1e-3, warmup=2), tmp_path / "held")
    falls = stage.CodecTrainer(MODEL, settings(folder, peak=1e-3, warmup=2), tmp_path / "falls")
    for trainer in (held, falls):
        for _ in range(8):
            trainer.update(0.0)
    rates = [trainer.optimiser.param_groups[2]["lr"] for trainer in (held, falls)]
    assert rates == pytest.approx([1e-3, 5e-4])
    names = {id(p): name for name, p in held.codec.named_parameters()}
    decayed = [names[id(p)] for group in held.optimiser.param_groups if group["weight_decay"] for p in group["params"]]
    assert decayed and not any(name.endswith(("_g", "bias")) for name in decayed)


def test_where_the_compiler_fails_training_goes_on_without_it(folder, tmp_path, caplog):
    trainer = stage.CodecTrainer(MODEL, settings(folder), tmp_path)

    def fails(*given):
        raise RuntimeError("no compiler")

    trainer.loss._encode, trainer.loss._unproven = fails, True
    assert np.isfinite(float(trainer.update(0.0)["loss"])) and "no compiler" in caplog.text
    trainer.loss._encode = fails
    with pytest.raises(RuntimeError, match="no compiler"):  # later it is a fault like any other
        trainer.update(0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")
def test_on_a_gpu_it_is_compiled_revives_measures_and_resumes(folder, tmp_path):
    options = {"compile": True, "bfloat16": "auto", "revive_every": 2, "crop_tokens": 32}
    trainer = stage.CodecTrainer(MODEL, settings(folder, **options), tmp_path, "cuda")
    losses = [float(trainer.update(0.0)["loss"]) for _ in range(4)]
    assert np.isfinite(losses).all() and np.isfinite(list(trainer.measured().values())).all()
    trainer.save(1.0)
    again = stage.CodecTrainer(MODEL, settings(folder, **options), tmp_path, "cuda")
    assert again.step == 4 and np.isfinite(float(again.update(0.0)["loss"]))
