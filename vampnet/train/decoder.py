"""Stage 4: the decoder of a spectral codec learns to sound like music where its tokens leave open how.

What minimises a squared error is the mean of all that may be: half of the power of the fine structure of spectra, in which
partials stand out from what lies between them, is missing there. Here a discriminator tells it from music
(`SpectrumDiscriminator`), and the decoder learns to be taken for music. What it makes at first has to be a mean, as it is after
the codec's training. Encoder and codes stay as they are, and with them all tokens, and all that transformers know of them.
A run is a folder with `last.pt` and `log.jsonl`; starting it again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vampnet import checkpoints, fingerprint
from vampnet.codec import SpectralCodec, save_codec
from vampnet.codec.bands import over_frequency
from vampnet.codec.quantize import residual_codes
from vampnet.device import usable_device
from vampnet.train.audio_pool import AudioPool
from vampnet.train.codec import equalise, measure
from vampnet.train.codec_loss import CodecLoss
from vampnet.train.discriminator import SpectrumDiscriminator, matching
from vampnet.train.levelling import level
from vampnet.train.loop import WeightAverage, atomic_save, load_checkpoint, step_seed
from vampnet.train.schedule import cooldown, noam
from vampnet.train.session import COMMON, add_numbers, session
from vampnet.train.settings import CodecTraining

log = logging.getLogger(__name__)

BETAS = (0.8, 0.98)
"""Of AdamW: what the other one does changes from step to step, so less is remembered than elsewhere."""
ERROR = {"fine_weight": 4.0, "levels_weight": 4.0}
"""Of the squared error, as in `CodecTraining`: nothing but this error holds levels and high bands where they are."""
PROBE_STEPS = 344
"""Of a clip that is measured: six seconds."""
LEVEL_CLIPS, LEVEL_HOURS = 48, 0.4
"""Of the music that levels are set by, of the first of the training audio."""


@dataclass(frozen=True)
class DecoderTraining:
    """Settings of a run.

    Attributes:
        model: name or folder of a model with a spectral codec.
        audio: folder of training audio; `held_out` of audio that is only measured, or "" for no measurement.
        run: the run folder.
        batch, crop_tokens: crops a step, and their time steps.
        peak, discriminator_peak: learning rates of decoder and discriminator.
        alone: steps that the discriminator learns by itself at first.
        mel_weight: of the mel distance beside the squared error, as in `CodecTraining`: the outline must not drift.
        adversarial, matching: weights of the two losses that come from the discriminator, beside these. Each has a gradient as
            large as theirs, by the spectra, times its weight.
        width: of the discriminator.
        equalise_db: spread of the random equalisation of crops.
        average: decay of the moving average of the decoder that is exported.
        cooldown_share, clip: of the learning rates and the decoder's gradient.
        minutes, session_minutes, steps: when the run, and this session of it, end; None = never.
        save_minutes, valid_minutes: how often.
        limit_hours: of audio in memory.
        seed: of everything random.
        device: "cpu", "cuda" or "auto".

    Raises:
        ValueError: a value is out of its range.
    """

    model: str = checkpoints.DEFAULT
    audio: str = ""
    held_out: str = ""
    run: str = ""
    batch: int = 8
    crop_tokens: int = 96
    peak: float = 1e-4
    discriminator_peak: float = 2e-4
    alone: int = 80
    mel_weight: float = 1.0
    adversarial: float = 1.0
    matching: float = 1.0
    width: int = 32
    equalise_db: float = 2.0
    average: float = 0.995
    cooldown_share: float = 0.3
    clip: float = 1.0
    minutes: float | None = None
    session_minutes: float | None = None
    steps: int | None = None
    save_minutes: float = 2.0
    valid_minutes: float = 10.0
    limit_hours: float = 24.0
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not (self.audio and self.run):
            raise ValueError("A decoder is trained on a folder of audio, in a run folder: name them with --audio and --run.")
        for name in ("batch", "crop_tokens", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("mel_weight", "adversarial", "matching", "alone", "equalise_db"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}.")
        for name in ("peak", "discriminator_peak", "clip", "limit_hours"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must lie above 0, not {getattr(self, name)}.")


class DecoderTrainer:
    """One run: the codec whose decoder learns, its mean, and the discriminator; `step` counts the finished steps."""

    def __init__(self, config: DecoderTraining) -> None:
        self.config = config
        wanted = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
        self.device = torch.device(usable_device(wanted))
        codec = checkpoints.load_codec_of(config.model)
        if not isinstance(codec, SpectralCodec):
            raise ValueError(f"The codec of '{config.model}' decodes no spectra: only a spectral one can be trained so.")
        codec.tiles = None
        _as_it_began(codec, load_checkpoint(self.checkpoint))
        self.name = fingerprint.of_tensors(codec)
        self.codec = codec.to(self.device)
        self.bins = codec.config.fine_bins
        self.loss = CodecLoss(codec, CodecTraining(config.audio, config.held_out, **ERROR), self.device)
        self.mean = copy.deepcopy(nn.ModuleList([codec.decoder, codec.project_out]))
        self.learning = nn.ModuleList([codec.decoder, codec.project_out]).requires_grad_(True)
        torch.manual_seed(step_seed(config.seed, 0))
        self.discriminator = SpectrumDiscriminator(self.bins, config.width).to(self.device)
        self.average = WeightAverage(self.learning, config.average)
        self.optimizers = [
            torch.optim.AdamW(part.parameters(), lr=rate, betas=BETAS, weight_decay=0.0)
            for part, rate in ((self.learning, config.peak), (self.discriminator, config.discriminator_peak))
        ]
        self.length = config.crop_tokens * codec.hop
        self.pool = AudioPool(config.audio, codec.sample_rate, config.limit_hours)
        self.probe: Tensor | None = None
        if config.held_out:
            held_out, probe = AudioPool(config.held_out, codec.sample_rate, 0.2), PROBE_STEPS * codec.hop
            self.probe = held_out.crops(12, probe, torch.Generator().manual_seed(1)).to(self.device)
        self.step, self.elapsed = 0, 0.0

    @property
    def checkpoint(self) -> Path:
        """Where the run is saved."""
        return Path(self.config.run) / "last.pt"

    def save(self, elapsed: float) -> None:
        """Write `last.pt`; `elapsed` is the seconds of training so far."""
        self.elapsed = elapsed
        state = {
            "decoder": self.learning.state_dict(), "average": self.average.state_dict(), "step": self.step, "elapsed": elapsed,
            "discriminator": self.discriminator.state_dict(), "optimizers": [one.state_dict() for one in self.optimizers],
            "model": self.name, "began": self.mean.state_dict(), "config": asdict(self.config),
        }  # fmt: skip
        atomic_save(state, self.checkpoint)

    def resume(self) -> bool:
        """Go on from `last.pt`; False if there is none. ValueError if it is of another codec or width."""
        state = load_checkpoint(self.checkpoint, self.device)
        if state is None:
            return False
        if state["model"] != self.name or state["config"]["width"] != self.config.width:
            raise ValueError(f"{self.checkpoint} is of another codec, or of another width: choose another run folder.")
        self.learning.load_state_dict(state["decoder"])
        self.average.load_state_dict(state["average"])
        self.discriminator.load_state_dict(state["discriminator"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed = int(state["step"]), float(state["elapsed"])
        return True

    @torch.no_grad()
    def _examples(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, T, dim) of the tokens of music, its features (B, T, inputs), and their mean (B, T, inputs)."""
        crops = self.pool.crops(self.config.batch, self.length, generator).to(self.device)
        codec, features = self.codec, self.codec.features(equalise(crops, self.config.equalise_db, generator))
        latents = codec.latents(residual_codes(codec.quantizer, codec.encode_latents(features).transpose(1, 2)))
        mean, (blocks, out) = latents, self.mean
        for block in blocks:
            mean = block(mean)
        return latents, features, out(mean)

    def _spectra(self, features: Tensor) -> Tensor:
        """(B, T, inputs) -> (B, T * frames, bins): what is coded bin by bin."""
        c = self.codec.config
        return features[..., : c.frames * c.features].unflatten(2, (c.frames, c.features)).flatten(1, 2)[..., : self.bins]

    def _fine(self, features: Tensor) -> Tensor:
        """(B, T, inputs) -> (B, T * frames, bins): the fine structure of the spectra."""
        spectra = self._spectra(features)
        return spectra - over_frequency(spectra)

    def _judged(self, features: Tensor, mean: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.discriminator(self._spectra(features), self._spectra(mean))

    def _error(self, made: Tensor, true: Tensor) -> Tensor:
        """How far features (B, T, inputs) are from the true ones."""
        square, mel = self.loss.distances(made, true)
        return square + self.config.mel_weight * mel

    def _learn(self, optimizer: torch.optim.Optimizer, rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def train_step(self, progress: float) -> dict[str, float]:
        """One update; everything random in it depends on the seed and the step's number alone.

        Args:
            progress: 0..1 of the whole training, for the cooldown.

        Returns:
            "music", "decoded": what the discriminator says of either on average; "power", "square": of the decoded fine
            structure and of its error, in units of the power of the true one; and from the first step of the decoder on
            "adversarial", "matching", "grad_norm".
        """
        config, self.step = self.config, self.step + 1
        generator = torch.Generator().manual_seed(step_seed(config.seed, self.step))
        latents, true, mean = self._examples(generator)
        blocks, out = self.learning
        made = latents
        for block in blocks:
            made = block(made)
        made = out(made)
        given = made.detach().requires_grad_(True)
        (music, wanted), (decoded, heard) = self._judged(true, mean), self._judged(given, mean)
        values = {"music": float(music.detach().mean()), "decoded": float(decoded.detach().mean())}
        cool = cooldown(progress, config.cooldown_share)
        if self.step > config.alone:
            losses = {"adversarial": (decoded - 1).square().mean(), "matching": matching(heard, wanted)}
            made.backward(self._gradient(given, true, losses))
            norm = torch.nn.utils.clip_grad_norm_(self.learning.parameters(), config.clip)
            if not torch.isfinite(norm):
                raise FloatingPointError(
                    f"The gradient of step {self.step} is not finite: lower --peak and start again from last.pt."
                )
            values |= {name: float(loss.detach()) for name, loss in losses.items()} | {"grad_norm": float(norm)}
        # Least squares (Mao et al., 2017), as in the codec of the paper. Both learn from what one discriminator says.
        told = (music - 1).square().mean() + decoded.square().mean()
        told.backward(inputs=list(self.discriminator.parameters()))
        self._learn(self.optimizers[1], config.discriminator_peak * cool)
        if self.step > config.alone:
            self._learn(self.optimizers[0], noam(self.step - config.alone, config.peak, 50, hold=True) * cool)
            self.average.update(self.learning)
        return values | self._power(made.detach(), true)

    def _gradient(self, made: Tensor, true: Tensor, losses: dict[str, Tensor]) -> Tensor:
        """The gradient of the error and of the losses by the features `made` (B, T, inputs), which these go back to."""
        (total,) = torch.autograd.grad(self._error(made, true), made)
        # Of one size, whatever the discriminator's scale, as for vector-quantized images (Esser et al., 2021).
        size = self._spectra(total).norm()
        for name, loss in losses.items():
            (part,) = torch.autograd.grad(loss, made, retain_graph=True)
            total = total + part * (getattr(self.config, name) * size / part.norm().clamp_min(1e-12))
        return total

    @torch.no_grad()
    def _power(self, made: Tensor, true: Tensor) -> dict[str, float]:
        made, true = self._fine(made), self._fine(true)
        whole = true.square().mean()
        return {"power": float(made.square().mean() / whole), "square": float((made - true).square().mean() / whole)}

    def validate(self) -> dict[str, float] | None:
        """`vampnet.train.codec.measure` of the averaged decoder on held-out clips; None without any."""
        if self.probe is None:
            return None
        with self.average.applied(self.learning):
            return measure(self.codec, self.probe)


def train(config: DecoderTraining) -> dict[str, object]:
    """Train, or go on training, until a budget or a signal ends the session; then save.

    Returns:
        As `session`.

    Raises:
        ValueError: the settings, the audio or the run folder cannot be used.
        FloatingPointError: the training diverged; `last.pt` holds the last saved state.
    """
    run = DecoderTrainer(config)
    return session(run, config, {"resumed": run.resume(), "hours": run.pool.hours})


def _as_it_began(codec: nn.Module, state: Mapping[str, Any] | None) -> None:
    """Gives a codec the decoder that a run began with: what it learned may have been written into the same folder since.

    A codec of another kind or size stays as it is, or gets a part: whoever compares it with the run's finds another one.
    """
    if isinstance(codec, SpectralCodec) and state is not None and "began" in state:
        with contextlib.suppress(RuntimeError):
            nn.ModuleList([codec.decoder, codec.project_out]).load_state_dict(state["began"])


def export(
    run: str | os.PathLike,
    out: str | os.PathLike,
    share: float = 1.0,
    sharpen: float | None = None,
    music: Tensor | None = None,
) -> Path:
    """Write the averaged decoder of a run into the folder of the model that it belongs to. To do it again changes nothing.

    Args:
        run: the run folder.
        out: folder of the model.
        share: how far from the decoder that the run began with to the one that it learned, weight by weight (Wortsman et al.,
            2022): less of it is nearer to each source, and less like music.
        sharpen: of `SpectralCodecConfig` from now on: a decoder that has learned to sound like music wants less of it. None =
            as it is.
        music: (clips, T * hop) float on the CPU, by which its levels are set at last (`level`); None = they stay.

    Returns:
        The path of the weights.

    Raises:
        ValueError: the run folder has no `last.pt`, the folder's codec is not the one that the run began with, or the share
            lies outside of 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"The share of what was learned lies between 0 and 1, not {share}.")
    state = load_checkpoint(Path(run) / "last.pt")
    if state is None or "discriminator" not in state:
        raise ValueError(f"{run} has no last.pt of a decoder's training: train first.")
    codec = checkpoints.load_codec_of(out)
    _as_it_began(codec, state)
    if not isinstance(codec, SpectralCodec) or fingerprint.of_tensors(codec) != state["model"]:
        raise ValueError(f"The codec in {out} is not the one that {run} began with.")
    learning = nn.ModuleList([codec.decoder, codec.project_out])
    average = WeightAverage(learning)
    average.load_state_dict(state["average"])
    with torch.no_grad():
        for p, learned in zip(learning.parameters(), average.values, strict=True):
            p.lerp_(learned, share)
    if sharpen is not None:
        codec.config = replace(codec.config, sharpen=sharpen)
    if music is not None:
        log.info("bands off by %s dB", ", ".join(f"{off:.2f}" for off in level(codec, music)))
    save_codec(codec, out)
    return Path(out) / "codec.safetensors"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m vampnet.train.decoder ...`. Returns the exit status; 3 = go on with another session."""
    parser = argparse.ArgumentParser(
        prog="vampnet train decoder",
        description="Teach the decoder of a codec to sound like music where its tokens leave open how. The tokens stay.",
    )
    parser.add_argument("--model", default=checkpoints.DEFAULT, help="name or folder of the model (default: %(default)s)")
    parser.add_argument("--audio", required=True, metavar="FOLDER", help="music to learn from")
    parser.add_argument("--held-out", default="", metavar="FOLDER", help="music that is only measured")
    parser.add_argument("--run", required=True, metavar="FOLDER", help="the run folder; run again to go on")
    parser.add_argument("--export", metavar="FOLDER", help="at the end, write it into this folder of the same model")
    about = "of what was learned that is written, weight by weight (default: %(default)g)"
    parser.add_argument("--share", type=float, default=1.0, metavar="S", help=about)
    parser.add_argument("--sharpen", type=float, metavar="S", help="of the codec that is written (default: as it was)")
    about = {
        "batch": "crops a step", "crop_tokens": "time steps of a crop", "peak": "the highest learning rate of the decoder",
        "discriminator_peak": "that of the discriminator", "alone": "steps that the discriminator learns by itself at first",
        "mel_weight": "weight of the mel distance, beside the squared error",
        "adversarial": "weight of being taken for music, beside these", "matching": "weight of what the discriminator hears",
        "width": "channels of the discriminator", "cooldown_share": "of the training, in which the rates fall to 0",
        "limit_hours": "of music at most",
    }  # fmt: skip
    add_numbers(parser, DecoderTraining, {**about, **COMMON})
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    args = vars(parser.parse_args(argv))
    out, how = args.pop("export"), {name: args.pop(name) for name in ("share", "sharpen")}
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        result = train(DecoderTraining(**args))
        if out and result["done"]:
            codec = checkpoints.load_codec_of(out)
            pool = AudioPool(args["audio"], codec.sample_rate, LEVEL_HOURS)
            music = pool.crops(LEVEL_CLIPS, PROBE_STEPS * codec.hop, torch.Generator().manual_seed(5))
            sys.stderr.write(f"{export(args['run'], out, **how, music=music)}\n")
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write(json.dumps(result) + "\n")
    return 0 if result["done"] else 3


if __name__ == "__main__":
    raise SystemExit(main())
