"""Stage 1, second part: the codec's decoder learns by the sound that its spectra become. Tokens stay what they are.

The first part fits spectra. No sound has just these spectra, so Griffin-Lim changes them, and what is weak drowns in that.
Here the loss is of the spectra of the sound itself: with the phases that Griffin-Lim found held fixed, the way from magnitudes
to sound and back is linear, and a gradient passes through it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..codec import SpectralCodec, load_codec, save_codec
from ..codec.griffin_lim import griffin_lim, spectrum, synthesize
from ..codec.spectral import over_frequency
from .audio_pool import AudioPool
from .codec import CodecLoss, CodecTraining, equalise, measure
from .loop import Budget, RunLog, StopRequest, WeightAverage, in_bfloat16, step_seed

EDGE = 3
"""Frames at both ends of a crop that are not judged: the sound beyond them is missing."""


@dataclass(frozen=True)
class SoundTraining:
    """Settings.

    Attributes:
        audio, held_out: folders; the second is only measured.
        minutes: of training.
        batch, crop_tokens: crops a step, and their time steps.
        peak: learning rate after `warmup` steps; over the last `cooldown_share` of the time it falls to 0.
        partials_weight, mel_weight: of 1 - the correlation of fine structure, and of the mel distance, both of the sound.
        short_weight, spectrum_weight: of the squared errors of the short view and of the spectra before they become sound.
        rounds: of Griffin-Lim, at least and at most, drawn for every step.
        average: decay of the moving average of the weights that is kept.
        bfloat16: as in `codec.CodecTraining`.
    """

    audio: str
    held_out: str
    minutes: float = 20.0
    batch: int = 6
    crop_tokens: int = 96
    peak: float = 4e-4
    warmup: int = 100
    cooldown_share: float = 0.35
    partials_weight: float = 12.0
    mel_weight: float = 0.4
    short_weight: float = 0.5
    spectrum_weight: float = 0.2
    rounds: tuple[int, int] = (6, 19)
    average: float = 0.995
    limit_hours: float = 24.0
    bfloat16: bool | str = "auto"
    seed: int = 0


class SoundLoss:
    """What the spectra of the decoded sound lack. Levels as in `codec.CodecLoss`."""

    def __init__(self, codec: SpectralCodec, settings: SoundTraining) -> None:
        self.codec, self.settings = codec, settings
        self.mels = CodecLoss(codec, CodecTraining(audio="", held_out="")).mels

    def __call__(self, audio: Tensor, rounds: int) -> tuple[Tensor, dict[str, float]]:
        """(B, T * hop) float -> the loss and its parts."""
        codec, c, s = self.codec, self.codec.config, self.settings
        with torch.no_grad():
            target = codec.features(audio)
            latents = codec.quantizer(codec.encode_latents(target))[0]
        with torch.autocast(audio.device.type, torch.bfloat16, enabled=in_bfloat16(s.bfloat16, audio.device)):
            out = codec.decode_latents(latents)
        out = out.float()
        heard = self._of_sound(codec.sharpened(codec.magnitudes(out)), rounds)[:, EDGE:-EDGE]
        meant = codec.magnitudes(target)[:, EDGE:-EDGE]
        same = _correlation(*(self._fine(x).flatten(1) for x in (meant, heard))).mean()
        mels = ([(x @ m.to(x.device)).clamp_min(1e-5).log10() for x in (heard, meant)] for m in self.mels)
        mel = sum((a - b).abs().mean() for a, b in mels)
        square = (out - target).square()
        first = c.frames * c.features
        loss = s.partials_weight * (1 - same) + s.mel_weight * mel + s.spectrum_weight * square[..., :first].mean()
        if codec.short is not None:
            loss = loss + s.short_weight * square[..., first:].mean()
        return loss, {"partials": same.item(), "mel": mel.item(), "square": square.mean().item()}

    def _of_sound(self, magnitudes: Tensor, rounds: int) -> Tensor:
        """(B, J, F) magnitudes -> those of the sound that they become, with a gradient, phases held fixed."""
        window, hop = self.codec.window, self.codec.config.hop // self.codec.config.frames
        with torch.no_grad():
            found = spectrum(griffin_lim(magnitudes, window, hop, rounds=rounds), window, hop)
            phases = found / (found.abs() + 1e-9)
        sound = synthesize(magnitudes * phases, window, hop)
        return (torch.view_as_real(spectrum(sound, window, hop)).square().sum(-1) + 1e-12).sqrt()

    def _fine(self, magnitudes: Tensor) -> Tensor:
        logs = torch.log(magnitudes[..., : self.codec.config.fine_bins] + self.codec.config.floor)
        return logs - over_frequency(logs)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """(B, N), (B, N) -> (B,)."""
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (a, b))
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)


class SoundTrainer:
    """One run: the decoder of a codec, in place. Everything random in a step depends on the seed and its number."""

    def __init__(self, codec: SpectralCodec, settings: SoundTraining, run: str | Path) -> None:
        self.codec, self.settings, self.run = codec, settings, Path(run)
        self.device = codec.window.device
        self.pool = AudioPool(settings.audio, codec.sample_rate, settings.limit_hours)
        held_out = AudioPool(settings.held_out, codec.sample_rate, 0.2)
        self.probe = held_out.crops(12, 344 * codec.hop, torch.Generator().manual_seed(1)).to(self.device)
        codec.requires_grad_(False)
        blocks, outer = list(codec.decoder.parameters()), list(codec.project_out.parameters())
        self.parameters = [p.requires_grad_(True) for p in blocks + outer]
        # The outer projection at a fifth of the rate, as in the first part: a thousand outputs move together.
        self.optimiser = torch.optim.AdamW(
            [{"params": blocks, "factor": 1.0}, {"params": outer, "factor": 0.2, "weight_decay": 0.0}],
            lr=0.0,
            betas=(0.9, 0.98),
        )
        self.average = WeightAverage(codec, settings.average)
        self.loss = SoundLoss(codec, settings)
        self.step = 0

    def update(self, progress: float) -> dict[str, float]:
        """One step of gradient descent, `progress` 0..1 of the way; returns the parts of the loss."""
        s = self.settings
        generator = torch.Generator().manual_seed(step_seed(s.seed, self.step))
        crops = self.pool.crops(s.batch, s.crop_tokens * self.codec.hop, generator).to(self.device)
        rounds = int(torch.randint(s.rounds[0], s.rounds[1] + 1, (), generator=generator))
        self.step += 1
        rate = s.peak * min(1.0, self.step / s.warmup) * min(1.0, (1 - progress) / s.cooldown_share)
        for group in self.optimiser.param_groups:
            group["lr"] = group["factor"] * rate
        loss, parts = self.loss(equalise(crops, 4.0, generator), rounds)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.average.update(self.codec)
        return parts

    def measured(self) -> dict[str, float]:
        """`codec.measure` of the averaged weights on held-out clips."""
        with self.average.applied(self.codec):
            return measure(self.codec, self.probe)

    def train(self) -> None:
        """Trains for the minutes of the settings, or until Ctrl-C."""
        budget, logs, running = Budget(self.settings.minutes, None, None, 0.0), RunLog(self.run), {}
        logs.write(0, "held_out", self.measured())
        with StopRequest.listening() as stop:
            while not (stop or budget.done(self.step)):
                parts = self.update(budget.progress(self.step))
                running = {k: running.get(k, v) * 0.98 + v * 0.02 for k, v in parts.items()}
                if self.step % 50 == 0:
                    logs.write(self.step, "train", running | {"minutes": budget.elapsed / 60})
                    print(self.step, " ".join(f"{k} {v:.4f}" for k, v in running.items()), file=sys.stderr)
        logs.write(self.step, "held_out", self.measured() | {"minutes": budget.elapsed / 60})
        logs.close()

    def export(self, folder: str | Path) -> None:
        """Writes the codec with the averaged weights."""
        with self.average.applied(self.codec):
            save_codec(self.codec, folder)


def main(argv: list[str] | None = None) -> int:
    """`python -m vampnet train sound`: see --help."""
    parser = argparse.ArgumentParser(prog="vampnet train sound", description="Train a codec's decoder by its sound (stage 1b).")
    parser.add_argument("--codec", required=True, metavar="FOLDER", help="a trained codec, as `train codec --export` wrote it")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the better one goes; its tokens are the same")
    parser.add_argument("--audio", required=True, metavar="FOLDER", help="to train on")
    parser.add_argument("--held-out", required=True, metavar="FOLDER", help="to measure on")
    parser.add_argument("--run", metavar="FOLDER", help="of the log (default: OUT-run)")
    parser.add_argument("--minutes", type=float, default=SoundTraining.minutes, help="of training (default 20)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        codec = load_codec(args.codec).to(args.device)
        if not isinstance(codec, SpectralCodec):
            raise ValueError(f"{args.codec} holds another kind of codec: this stage is for those of `train codec`.")
        settings = SoundTraining(args.audio, args.held_out, minutes=args.minutes)
        trainer = SoundTrainer(codec, settings, args.run or f"{args.out}-run")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(dataclasses.asdict(settings), file=sys.stderr)
    trainer.train()
    trainer.export(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
