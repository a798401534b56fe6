"""Stage 4: a decoder learns to be taken for music, and all tokens stay what they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_checkpoint

from vampnet import checkpoints
from vampnet.codec import SpectralCodec, SpectralCodecConfig, save_codec
from vampnet.train.decoder import DecoderTrainer, DecoderTraining, export, main, train
from vampnet.train.discriminator import SpectrumDiscriminator, matching
from vampnet.train.levelling import level
from vampnet.train.loop import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")
RATE = 44_100


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model")


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of notes with a little noise."""
    folder, chance = tmp_path_factory.mktemp("audio"), np.random.default_rng(0)
    seconds = np.arange(4 * RATE) / RATE
    for name in ("a.wav", "b.wav"):
        notes = sum(np.sin(2 * np.pi * pitch * seconds) for pitch in chance.uniform(100, 3000, 5))
        soundfile.write(folder / name, 0.1 * notes + 1e-3 * chance.standard_normal(len(seconds)), RATE)
    return folder


def settings(model: Path, audio: Path, run: Path, **changes: object) -> DecoderTraining:
    base = {"batch": 2, "crop_tokens": 16, "width": 4, "alone": 2, "device": "cpu"}
    return DecoderTraining(str(model), str(audio), run=str(run), **{**base, **changes})


def test_a_discriminator_learns_what_is_missing_in_a_mean() -> None:
    """Spectra with half of their power taken away are told from whole ones, and patches are judged one by one."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = SpectrumDiscriminator(64, 8)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    for _ in range(60):
        mean = torch.randn(4, 12, 64, generator=generator)
        music, decoded = judge(mean + torch.randn(mean.shape, generator=generator), mean)[0], judge(mean, mean)[0]
        optimizer.zero_grad()
        ((music - 1).square().mean() + decoded.square().mean()).backward()
        optimizer.step()
    mean = torch.randn(4, 12, 64, generator=generator)
    whole = mean + torch.randn(mean.shape, generator=generator)
    music, heard = judge(whole, mean)
    decoded, missed = judge(mean, mean)
    assert music.shape == (4, 1, 6, 4) and len(heard) == 4
    assert music.mean().item() > 0.7 and decoded.mean().item() < 0.3
    assert not torch.allclose(judge(whole, mean.flip(0))[0], music, atol=0.05)  # it is about this mean
    assert matching(heard, heard).item() == 0 and matching(missed, heard).item() > 0.1


def test_the_decoder_learns_alone_and_only_after_the_discriminator(model: Path, audio: Path, tmp_path: Path) -> None:
    run = DecoderTrainer(settings(model, audio, tmp_path / "run"))
    before = {name: tensor.clone() for name, tensor in run.codec.state_dict().items()}

    def changed() -> set[str]:
        return {name.split(".")[0] for name, tensor in run.codec.state_dict().items() if not torch.equal(tensor, before[name])}

    judges = {name: tensor.clone() for name, tensor in run.discriminator.state_dict().items()}
    for number in range(2):
        assert "adversarial" not in run.train_step(number / 10)
        assert changed() == set()
    learned = {name for name, tensor in run.discriminator.state_dict().items() if not torch.equal(tensor, judges[name])}
    assert learned == {name for name, _ in run.discriminator.named_parameters()}
    values = run.train_step(0.2)
    assert changed() == {"decoder", "project_out"}
    assert values["adversarial"] > 0 and values["matching"] > 0 and values["grad_norm"] > 0 and values["square"] > 0


def test_the_losses_push_as_hard_as_their_weights_say(model: Path, audio: Path, tmp_path: Path) -> None:
    run = DecoderTrainer(settings(model, audio, tmp_path / "run"))
    _, true, mean = run._examples(torch.Generator().manual_seed(0))

    def gradient(**weights: float) -> torch.Tensor:
        run.config = settings(model, audio, tmp_path / "run", **{"adversarial": 0, "matching": 0, **weights})
        made = mean.clone().requires_grad_(True)
        judged, heard = run._judged(made, mean)
        losses = {"adversarial": (judged - 1).square().mean(), "matching": matching(heard, run._judged(true, mean)[1])}
        return run._gradient(made, true, losses)

    alone = gradient()
    made = mean.clone().requires_grad_(True)
    assert torch.equal(alone, torch.autograd.grad(run._error(made, true), made)[0])
    spectra = run._spectra(alone).norm()
    for weights, share in (({"adversarial": 0.5}, 0.5), ({"matching": 2.0}, 2.0)):
        assert float(run._spectra(gradient(**weights) - alone).norm() / spectra) == pytest.approx(share, rel=1e-3)
    # A step that way it is rather taken for music.
    away = gradient(adversarial=0.5) - alone
    far, near = ((run._judged(mean - by * away, mean)[0] - 1).square().mean().item() for by in (0.0, 0.1))
    assert near < far
    assert not torch.equal(gradient(mel_weight=5.0), alone)


def test_the_mean_that_it_is_judged_by_stays_the_first_one(model: Path, audio: Path, tmp_path: Path) -> None:
    run = DecoderTrainer(settings(model, audio, tmp_path / "run", peak=0.01))
    _, _, first = run._examples(torch.Generator().manual_seed(0))
    for number in range(6):
        run.train_step(number / 10)
    latents, _, later = run._examples(torch.Generator().manual_seed(0))
    assert torch.equal(first, later)
    made = run.codec.decode_latents(latents.transpose(1, 2))
    assert float((made - first).abs().mean()) > 1e-3


def test_a_resumed_run_is_the_uninterrupted_run(model: Path, audio: Path, tmp_path: Path) -> None:
    train(settings(model, audio, tmp_path / "whole", steps=6))
    run = DecoderTrainer(settings(model, audio, tmp_path / "parts", steps=6))
    for number in range(4):
        run.train_step(number / 6)
    run.save(1.0)
    run.train_step(4 / 6)  # lost, as after a kill
    result = train(settings(model, audio, tmp_path / "parts", steps=6))
    assert result["step"] == 6 and result["done"] and result["elapsed"] > 1.0
    a, b = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    for part in ("decoder", "discriminator"):
        assert all(torch.equal(tensor, b[part][name]) for name, tensor in a[part].items())
    assert all(torch.equal(tensor, b["average"]["values"][name]) for name, tensor in a["average"]["values"].items())


def test_what_is_written_decodes_otherwise_and_encodes_the_same(model: Path, audio: Path, tmp_path: Path) -> None:
    checkpoints.write_checksums(model)
    result = train(settings(model, audio, tmp_path / "run", steps=8, peak=0.01, average=0.0, held_out=str(audio)))
    assert set(result["valid"]) >= {"mel", "partials"}
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert kinds == ["start", *["train"] * 8, "valid"]
    before = checkpoints.load_codec_of(model)
    shutil.copytree(model, tmp_path / "half")
    export(tmp_path / "run", model, sharpen=1.25)
    after = checkpoints.load(model).codec  # whose checksums fit
    assert after.config.sharpen == 1.25 and before.config.sharpen == 1.0
    sound = torch.randn(1, 1, 20 * before.hop, generator=torch.Generator().manual_seed(0))
    codes = before.encode(sound)
    assert torch.equal(after.encode(sound), codes)
    average = load_checkpoint(tmp_path / "run" / "last.pt")["average"]["values"]
    learned = {f"0.{name}": p for name, p in after.decoder.named_parameters()}
    assert all(torch.allclose(p, average[name], atol=2e-3, rtol=2e-3) for name, p in learned.items())
    assert float((after.decode(codes) - before.decode(codes)).abs().max()) > 1e-3
    export(tmp_path / "run", tmp_path / "half", share=0.5)
    half = checkpoints.load(tmp_path / "half").codec
    for name, p in half.project_out.named_parameters():
        first, last = before.project_out.get_parameter(name), after.project_out.get_parameter(name)
        assert float((p - first).norm() / (last - first).norm()) == pytest.approx(0.5, abs=0.05)
        assert float((p - last).norm() / (last - first).norm()) == pytest.approx(0.5, abs=0.05)
    assert half.config.sharpen == 1.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        export(tmp_path / "run", model, share=1.5)


def test_what_is_measured_is_the_averaged_decoder(model: Path, audio: Path, tmp_path: Path) -> None:
    run = DecoderTrainer(settings(model, audio, tmp_path / "run", held_out=str(audio)))
    before = run.validate()
    with torch.no_grad():
        run.codec.project_out.bias += 1
    assert run.validate() == before
    run.average.values[-1] += 1
    assert run.validate() != before


def test_a_run_is_of_one_codec(model: Path, audio: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train first"):
        export(tmp_path / "nothing", model)
    train(settings(model, audio, tmp_path / "run", steps=3))
    with pytest.raises(ValueError, match="another width"):
        train(settings(model, audio, tmp_path / "run", steps=4, width=5))
    other = Path(shutil.copytree(model, tmp_path / "other"))
    codec = checkpoints.load_codec_of(other)
    with torch.no_grad():
        next(codec.encoder.parameters()).add_(1)
    save_codec(codec, other)
    for call in (lambda: export(tmp_path / "run", other), lambda: train(settings(other, audio, tmp_path / "run", steps=4))):
        with pytest.raises(ValueError, match="not the one that|another codec"):
            call()


def test_a_run_goes_on_when_its_model_has_got_what_it_learned(model: Path, audio: Path, tmp_path: Path) -> None:
    """Also one that was killed between writing that and saying so."""
    first = Path(shutil.copytree(model, tmp_path / "first"))
    train(settings(model, audio, tmp_path / "run", steps=4, peak=0.01))
    shutil.copytree(tmp_path / "run", tmp_path / "straight")
    export(tmp_path / "run", model, share=0.5)
    written = (model / "codec.safetensors").read_bytes()
    assert written != (first / "codec.safetensors").read_bytes()
    export(tmp_path / "run", model, share=0.5)
    assert (model / "codec.safetensors").read_bytes() == written
    assert train(settings(model, audio, tmp_path / "run", steps=6, peak=0.01))["step"] == 6
    train(settings(first, audio, tmp_path / "straight", steps=6, peak=0.01))
    a, b = (load_checkpoint(tmp_path / name / "last.pt") for name in ("run", "straight"))
    for part in ("decoder", "discriminator", "began"):
        assert all(torch.equal(tensor, b[part][name]) for name, tensor in a[part].items()), part


def test_levels_are_set_to_those_of_music() -> None:
    """A codec whose decoder is off in two places of the spectrum is told so by its sound, and what it codes stays."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        codec = SpectralCodec(SpectralCodecConfig(dim=16, encoder_layers=1, decoder_layers=1, rounds=2, short_frames=3))
    codec.eval().requires_grad_(False)
    music = 0.1 * torch.randn(2, 30 * codec.hop, generator=torch.Generator().manual_seed(0))
    before, codes = codec.project_out.bias.clone(), codec.encode(music[:, None])
    off = level(codec, music, bands=32, rounds=4)
    assert len(off) == 5 and off[-1] < 0.3 * off[0]
    assert torch.equal(codec.encode(music[:, None]), codes)
    assert not torch.equal(codec.project_out.bias, before)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"batch": 0}, "batch"), ({"matching": -1}, "matching"), ({"peak": 0}, "peak"), ({"run": ""}, "--run")],
)
def test_settings_out_of_range_are_named(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DecoderTraining(**{"audio": "a", "run": "b", **changes})


def test_the_command_goes_on_until_it_is_done_and_then_writes(
    model: Path,
    audio: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "vampnet.train.decoder")
    small = ["--crop-tokens", "16", "--batch", "1", "--width", "4", "--alone", "1", "--device", "cpu"]
    command = ["--model", str(model), "--audio", str(audio), "--run", str(tmp_path / "run"), *small]
    before = (model / "codec.safetensors").read_bytes()
    assert main([*command, "--steps", "3", "--session-minutes", "0", "--export", str(model)]) == 3
    assert (model / "codec.safetensors").read_bytes() == before
    assert main([*command, "--steps", "3", "--export", str(model), "--sharpen", "1.5"]) == 0
    assert (model / "codec.safetensors").read_bytes() != before and "bands off by" in caplog.text
    assert json.loads((model / "config.json").read_text())["codec"]["sharpen"] == 1.5
    assert main([*command[:2], "--audio", str(tmp_path / "no"), *command[4:], "--steps", "1"]) == 2
    assert "No audio" in capsys.readouterr().err
