"""Stage 1: the codec's training. Resumable, with a budget in minutes; see `configs/mini-codec.yaml`.

The loss is the squared error of log magnitudes (its optimum is the conditional mean, which is also what correlates best with
the true fine structure, so that partials survive), a multi-scale mel distance on the magnitudes (which keeps the levels right
where only noise is left), and the two losses of `dac`'s quantizer.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codec import SpectralCodec, SpectralCodecConfig, save_codec
from ..device import usable_device
from ..evaluate.metrics import mel_distance, partials, perplexity
from .audio_pool import AudioPool
from .codec_init import begin_with, initialise
from .codec_loss import CodecLoss
from .loop import (
    Budget,
    RunLog,
    StopRequest,
    WeightAverage,
    atomic_save,
    load_checkpoint,
    read_config,
    step_seed,
    to_device,
)
from .schedule import cooldown, noam
from .settings import CodecTraining, read_fields

log = logging.getLogger(__name__)


def equalise(audio: Tensor, spread_db: float, generator: torch.Generator) -> Tensor:
    """(B, N) float through a random smooth equaliser (zero phase, six bands) and gain each, so that no one mix is learned."""
    bands = to_device(torch.randn(audio.shape[0], 1, 7, generator=generator) * spread_db, audio.device)
    spec = torch.fft.rfft(audio)
    curve = F.interpolate(bands, 512, mode="linear", align_corners=True)[:, 0]
    # A curve over log frequency: an octave at the bottom matters as much as one at the top.
    bins = spec.shape[-1]
    place = (torch.log2(torch.arange(1, bins + 1, device=audio.device).float()) / math.log2(bins) * 511).long()
    return torch.fft.irfft(spec * 10 ** (curve[:, place] / 20), n=audio.shape[-1])


class DeadCodes:
    """Counts the use of codes and gives unused ones the place of an encoding of the present batch."""

    def __init__(self, codec: SpectralCodec) -> None:
        self.codec = codec
        self.counts = torch.zeros(codec.n_codebooks, codec.codebook_size, device=codec.codebook_vectors().device)

    def count(self, codes: Tensor) -> None:
        rows = codes.transpose(0, 1).flatten(1)
        self.counts.scatter_add_(1, rows, torch.ones((), device=rows.device).expand_as(rows))

    @torch.no_grad()
    def revive(
        self, audio: Tensor, generator: torch.Generator, moved: Callable[[Tensor, Tensor], None] = lambda weight, rows: None
    ) -> int:
        """Replaces codes that were not used since the last call; returns how many.

        Args:
            moved: told of each codebook and of its rows that were replaced: what else is known of these is of no use any more.
        """
        codec, total = self.codec, 0
        residual = codec.encode_latents(codec.features(audio))
        for level, q in enumerate(codec.quantizer.quantizers):
            z_e = q.in_proj(residual)
            dead = (self.counts[level] == 0).nonzero()[:, 0]
            pool = z_e.mT.flatten(0, 1)
            if len(dead):
                q.codebook.weight[dead] = pool[torch.randint(len(pool), (len(dead),), generator=generator).to(pool.device)]
                moved(q.codebook.weight, dead)
                total += len(dead)
            residual = residual - q.out_proj(q.decode_latents(z_e)[0])
        self.counts.zero_()
        return total


@torch.no_grad()
def measure(codec: SpectralCodec, audio: Tensor) -> dict[str, float]:
    """Mel distance, partials (medians) and perplexities on (B, N) float clips, through tokens and back."""
    was_training = codec.training
    codec.eval()
    codes = codec.encode(audio[:, None])
    back = codec.decode(codes)[:, 0, : audio.shape[1]]
    mel = [mel_distance(a[None], b[None], codec.sample_rate) for a, b in zip(audio, back, strict=True)]
    fine = [partials(a, b) for a, b in zip(audio, back, strict=True)]
    codec.train(was_training)
    use = perplexity(codes, codec.codebook_size)
    return {
        "mel": statistics.median(mel),
        "partials": statistics.median(fine),
        "perplexity_coarse": min(use[:4]),
        "perplexity_all": min(use),
    }


class CodecTrainer:
    """One run of stage 1 in one folder: `last.pt` (everything), `log.jsonl`, TensorBoard files."""

    def __init__(self, config: SpectralCodecConfig, settings: CodecTraining, run: str | Path, device: str = "cpu") -> None:
        self.settings, self.run, self.device = settings, Path(run), torch.device(device)
        self.length = settings.crop_tokens * config.hop
        self.pool = AudioPool(settings.audio, config.sample_rate, settings.limit_hours)
        held_out = AudioPool(settings.held_out, config.sample_rate, 0.2)
        self.probe = held_out.crops(12, 344 * config.hop, torch.Generator().manual_seed(1)).to(self.device)
        torch.manual_seed(settings.seed)
        self.codec = SpectralCodec(config)
        self.codec.quantizer.quantizer_dropout = settings.quantizer_dropout
        self.step, self.elapsed = 0, 0.0
        state = load_checkpoint(self.run / "last.pt", self.device)
        if state is not None and state.get("config", config.to_dict()) != config.to_dict():
            raise ValueError(f"{self.run / 'last.pt'} is of a codec of another shape: choose another run folder.")
        if state is None and settings.start:
            begin_with(self.codec, settings.start)
        elif state is None:
            crops = -(-settings.init_tokens // settings.crop_tokens)
            initialise(
                self.codec, self.pool.crops(crops, self.length, torch.Generator().manual_seed(settings.seed)), settings.seed
            )
        # On a GPU with room for it the music lies there too: crops of it are then no traffic.
        if self.device.type == "cuda" and torch.cuda.mem_get_info(self.device)[0] > 4 * self.pool.samples.nbytes:
            self.pool.to(self.device)
        self.codec.to(self.device).train()
        self.optimiser = torch.optim.AdamW(self._groups(), lr=0.0, betas=(0.9, 0.98), fused=True)
        self.average = WeightAverage(self.codec, settings.average)
        if state is not None:
            self.codec.load_state_dict(state["codec"])
            asked = [{name: group[name] for name in ("factor", "weight_decay")} for group in self.optimiser.param_groups]
            self.optimiser.load_state_dict(state["optimiser"])
            for group, wanted in zip(self.optimiser.param_groups, asked, strict=True):
                group.update(wanted)  # what is asked for now, not what it was then
            self.average.load_state_dict(state["average"])
            self.step, self.elapsed = state["step"], state["elapsed"]
        self.loss = CodecLoss(self.codec, settings, self.device)
        self.broken = torch.zeros((), dtype=torch.long, device=self.device)
        self.dead = DeadCodes(self.codec)
        if state is not None and "counts" in state:
            self.dead.counts.copy_(state["counts"])

    def _groups(self) -> list[dict]:
        """Parameter groups with the factors of their learning rates."""
        s, codec = self.settings, self.codec
        codebooks = [q.codebook.weight for q in codec.quantizer.quantizers]
        projections = [codec.project_in.weight, codec.project_out.weight]
        apart = {id(p) for p in codebooks + projections}
        rest = [(name, p) for name, p in codec.named_parameters() if id(p) not in apart]
        # The gains of weight norm are no matrices, whatever their shape.
        matrices, vectors = (
            [p for name, p in rest if (p.ndim >= 2 and not name.endswith("_g")) == wanted] for wanted in (True, False)
        )
        return [
            {"params": codebooks, "weight_decay": 0.0, "factor": s.codebook_rate},
            {"params": projections, "weight_decay": 0.0, "factor": s.projection_rate},
            {"params": matrices, "weight_decay": s.weight_decay, "factor": 1.0},
            {"params": vectors, "weight_decay": 0.0, "factor": 1.0},
        ]

    def save(self, elapsed: float) -> None:
        """Writes `last.pt`; a kill at any moment leaves the one before. ValueError as `check`."""
        self.check()
        state = {
            "codec": self.codec.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.state_dict(),
            "counts": self.dead.counts,
            "config": self.codec.config.to_dict(),
        }
        atomic_save(state | {"step": self.step, "elapsed": elapsed}, self.run / "last.pt")

    def update(self, progress: float) -> dict[str, Tensor | int]:
        """One step of gradient descent; returns the parts of the loss."""
        s = self.settings
        self.codec.quantizer.quantizer_dropout = s.quantizer_dropout if progress < s.dropout_share else 0.0
        generator = torch.Generator().manual_seed(step_seed(s.seed, self.step))
        torch.manual_seed(step_seed(s.seed + 1, self.step))  # the quantizer's dropout draws from the global generator
        crops = self.pool.crops(s.batch, self.length, generator).to(self.device)
        audio = equalise(crops, s.equalise_db, generator)
        self.step += 1
        for group in self.optimiser.param_groups:
            rate = noam(self.step, s.peak, s.warmup, s.hold)
            group["lr"] = group["factor"] * rate * cooldown(progress, s.cooldown_share)
        self.optimiser.zero_grad(set_to_none=True)
        parts = self.loss.backward(audio)
        norm = torch.nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
        self.broken += ~norm.isfinite()
        self.optimiser.step()
        self.average.update(self.codec)
        self.dead.count(self.loss.codes)
        # Not while the rate cools down: a code that is replaced then has no time left to settle.
        if self.step % s.revive_every == 0 and progress < 1 - s.cooldown_share:
            parts["revived"] = self.dead.revive(audio, generator, self._forget)
        return parts

    def _forget(self, weight: Tensor, rows: Tensor) -> None:
        """Codes were replaced: neither their average nor Adam's moments are about the new ones."""
        at = next(index for index, p in enumerate(self.codec.parameters()) if p is weight)
        self.average.values[at][rows] = weight.detach()[rows].float()
        for name in ("exp_avg", "exp_avg_sq"):
            if name in self.optimiser.state[weight]:
                self.optimiser.state[weight][name][rows] = 0

    def check(self) -> None:
        """ValueError if a gradient was no number: what is on the disk is then better than what is here."""
        if int(self.broken):
            raise ValueError(
                f"A gradient was no number by step {self.step}: go on from {self.run / 'last.pt'} with a lower peak."
            )

    def measured(self) -> dict[str, float]:
        """`measure` of the averaged weights on held-out clips."""
        with self.average.applied(self.codec):
            return measure(self.codec, self.probe)

    def train(self, session_minutes: float | None = None) -> bool:
        """Trains until the budget, or this session's part of it, is used up, or until Ctrl-C; always ends saved.

        Returns:
            True if the whole budget is used up.
        """
        from tqdm import tqdm

        s = self.settings
        budget = Budget(s.minutes, session_minutes, None, self.elapsed)
        logs, first, running = RunLog(self.run), self.step, {}
        if self.step == 0:
            logs.write(0, "held_out", self.measured())
        saved = evaluated = budget.elapsed
        with StopRequest.listening() as stop, tqdm(total=round(s.minutes, 1), unit="min", file=sys.stderr) as bar:
            while not (stop or budget.done(self.step) or budget.session_over()):
                parts = self.update(budget.progress(self.step))
                running = {k: running.get(k, v) * 0.98 + v * 0.02 for k, v in parts.items()}
                bar.n = round(budget.elapsed / 60, 1)
                if self.step % 50 == 0:
                    speed = (self.step - first) * s.batch * self.length / self.codec.sample_rate / budget.session
                    self.check()
                    running = {name: float(value) for name, value in running.items()}
                    logs.write(self.step, "train", running | {"audio_per_second": speed, "minutes": budget.elapsed / 60})
                    bar.set_postfix(step=self.step, square=f"{running['square']:.4f}", mel=f"{running['mel']:.3f}")
                if budget.elapsed - saved > 60 * s.save_minutes:
                    self.save(budget.elapsed)
                    saved = budget.elapsed
                if budget.elapsed - evaluated > 60 * s.eval_minutes:
                    logs.write(self.step, "held_out", self.measured() | {"minutes": budget.elapsed / 60})
                    evaluated = budget.elapsed
        self.elapsed, done = budget.elapsed, budget.done(self.step)
        self.save(self.elapsed)
        logs.write(self.step, "held_out", self.measured() | {"minutes": self.elapsed / 60})
        logs.close()
        return done


def export(trainer: CodecTrainer, folder: str | Path) -> None:
    """Writes the averaged weights as `codec.safetensors` and the "codec" section of `config.json`."""
    with trainer.average.applied(trainer.codec):
        save_codec(trainer.codec, folder)


def main(argv: list[str] | None = None) -> int:
    """`python -m vampnet train codec`: see --help. Returns 0 when the budget is used up, 3 when another call goes on."""
    parser = argparse.ArgumentParser(prog="vampnet train codec", description="Train a codec on a folder of audio (stage 1).")
    parser.add_argument("--config", required=True, help="YAML file, such as configs/mini-codec.yaml")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="change settings: training.minutes=5"
    )
    parser.add_argument("--run", help="folder of the run (default: the configuration's)")
    parser.add_argument("--session-minutes", type=float, help="stop after this many minutes; the next call resumes")
    parser.add_argument("--export", metavar="FOLDER", help="write codec.safetensors and config.json there at the end")
    parser.add_argument("--device", default="auto", help="cpu, cuda or mps (default: the fastest there is)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        config = read_config(args.config, args.set)
        settings = CodecTraining(**read_fields(CodecTraining, config.get("training") or {}, "training."))
        model = SpectralCodecConfig(**read_fields(SpectralCodecConfig, config.get("model") or {}, "model."))
        run = str(args.run or config.get("run", "runs/mini-codec"))
        trainer = CodecTrainer(model, settings, run, str(usable_device(None if args.device == "auto" else args.device)))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    log.info(
        "%.1f hours of audio, %.2f million parameters, %s",
        trainer.pool.hours,
        trainer.codec.parameter_count / 1e6,
        dataclasses.asdict(settings),
    )
    try:
        done = trainer.train(args.session_minutes)
    except ValueError as error:
        parser.error(str(error))
    if args.export:
        export(trainer, args.export)
    return 0 if done else 3


if __name__ == "__main__":
    sys.exit(main())
