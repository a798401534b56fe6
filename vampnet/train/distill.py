"""Stage 3: teach a coarse transformer to say at once what guidance makes of it and a weaker one (`vampnet.guidance`).

What is learned is stored beside the model's own weights, which stay as they are: see `vampnet.model.distilled`. A run is a
folder with `last.pt` and `log.jsonl`; starting it again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from vampnet import checkpoints, fingerprint, masks
from vampnet.config import MASK, Prompt, Sampling
from vampnet.device import usable_device
from vampnet.gaps import ENOUGH, SHORT, near
from vampnet.guidance import hidden, logits_of
from vampnet.model import distilled
from vampnet.model.fast import in_precision
from vampnet.model.files import add_distilled
from vampnet.model.transformer import TokenTransformer, transformer_of
from vampnet.train.loop import atomic_save, load_checkpoint, step_seed
from vampnet.train.masking import prompt_mask
from vampnet.train.schedule import cooldown, mask_shares, noam
from vampnet.train.session import COMMON, add_numbers, session
from vampnet.train.shards import TokenData, common_crop, same_codec

log = logging.getLogger(__name__)

PERIODS = (4, 10)
"""Periods of the periodic prompts: those with which a vamp is guided, jitter included."""
PERIODIC_SHARE = 0.6
"""Share of the examples that have one; the others have any prompt whose gaps are short."""
MOST_STEPS = 36
"""Of a decoding: what the weaker model does not see changes from step to step, and the examples have any of them."""
AT_ONCE = 2
"""Examples that a CPU sees at a time, so that the work stays in its cache."""


@dataclass(frozen=True)
class Distillation:
    """Settings of a run.

    Attributes:
        model: name or folder of the model.
        tokens: folder of token shards of its codec; `valid` of held-out ones, or "" for no validation.
        run: the run folder.
        guidance: the weight that is taught.
        rank: of the thin matrices.
        batch, crop: examples a step, and their time steps (0 = the model's context, or what half of the rows are
            long enough for).
        peak, warmup, cooldown_share, clip: of the learning rate and the gradient's norm.
        minutes, session_minutes, steps: when the run, and this session of it, end; None = never.
        save_minutes, valid_minutes, valid_crops: how often, and what a validation looks at.
        seed: of everything random.
        device: "cpu", "cuda" or "auto".

    Raises:
        ValueError: a value is out of its range.
    """

    model: str = checkpoints.DEFAULT
    tokens: str = ""
    valid: str = ""
    run: str = ""
    guidance: float = Sampling.guidance
    rank: int = 8
    batch: int = 4
    crop: int = 0
    peak: float = 2e-3
    warmup: int = 50
    cooldown_share: float = 0.5
    clip: float = 1.0
    minutes: float | None = None
    session_minutes: float | None = None
    steps: int | None = None
    save_minutes: float = 2.0
    valid_minutes: float = 10.0
    valid_crops: int = 32
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not (self.tokens and self.run):
            raise ValueError("Distilling needs a folder of tokens and a run folder: name them with --tokens and --run.")
        for name in ("rank", "batch", "warmup", "valid_crops"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not 0 < self.guidance <= 2 or not self.peak > 0:
            raise ValueError(f"The guidance must lie above 0 and be at most 2, and the rate above 0: not {self.guidance}.")


def states(levels: int, steps: int, count: int, generator: torch.Generator, beats: Tensor | None = None) -> Tensor:
    """Masks as a vamp meets them that is guided: a prompt whose gaps are short, and some of what it leaves open settled.

    Args:
        levels, steps: of the tokens.
        count: of masks, B.
        generator: on the CPU.
        beats: (B, 2), as in `vampnet.train.masking.training_masks`.

    Returns:
        (B, levels, steps) bool on the CPU, True = masked; at least one token of each.
    """
    made = torch.empty(count, levels, steps, dtype=torch.bool)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    for item, share in enumerate(mask_shares(count, generator).tolist()):
        beat = (math.nan, math.nan) if beats is None else tuple(beats[item].tolist())
        if float(torch.rand((), generator=generator)) < PERIODIC_SHARE:
            period = number(*PERIODS)
            jitter = number(0, Prompt.periodic_jitter)
            prompt = masks.periodic((levels, steps), period, 1, number(0, period - 1), jitter=jitter)
        else:
            prompt = prompt_mask(levels, steps, generator, beat)
            while not prompt.any() or near(prompt, SHORT) < ENOUGH:
                prompt = prompt_mask(levels, steps, generator, beat)
        settled = torch.rand(levels, steps, generator=generator) >= share
        open_ = prompt & ~settled
        made[item] = open_ if open_.any() else prompt
    return made


class Distiller:
    """One run: the model, what guides it, and what is learned; `step` counts the finished steps."""

    def __init__(self, config: Distillation) -> None:
        self.config = config
        wanted = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
        self.device = torch.device(usable_device(wanted))
        self.data, self.valid = TokenData(config.tokens), TokenData(config.valid) if config.valid else None
        found = checkpoints.load(config.model, "cpu").coarse
        if not isinstance(found, TokenTransformer):
            raise ValueError(f"The coarse model of '{config.model}' is of a kind that cannot be distilled.")
        for data in filter(None, (self.data, self.valid)):
            if not same_codec(data.codebooks[: found.config.n_codebooks], found.codebooks):
                raise ValueError(
                    f"{data.folder} holds tokens of another codec than that of '{config.model}': make them anew with its own."
                )
        found.distilled = None
        self.name = fingerprint.of_tensors(found)
        self.model = found.to(self.device)
        self.teacher = in_precision(found, "auto", self.device)
        self.own = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        generator = torch.Generator().manual_seed(step_seed(config.seed, 0))
        self.added = {
            name: self._start(name, shape, generator).to(self.device).requires_grad_(name != distilled.GUIDANCE)
            for name, shape in distilled.expected(self.own, config.rank).items()
        }
        self.learned = [tensor for tensor in self.added.values() if tensor.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learned, lr=config.peak, betas=(0.9, 0.98), weight_decay=0.0)
        self.crop = config.crop or common_crop(self.data.lengths, found.config.context)
        if short := int((self.data.lengths < self.crop).sum()):
            log.info("%d of %d rows are shorter than %d time steps and left out.", short, len(self.data), self.crop)
        self.step, self.elapsed = 0, 0.0

    def _start(self, name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """At first nothing is added: one of two thin matrices is zero."""
        if name == distilled.GUIDANCE:
            return torch.tensor(self.config.guidance)
        if name.endswith(".in"):
            return torch.randn(shape, generator=generator) * shape[-1] ** -0.5
        return torch.zeros(shape)

    @property
    def checkpoint(self) -> Path:
        """Where the run is saved."""
        return Path(self.config.run) / "last.pt"

    def save(self, elapsed: float) -> None:
        """Write `last.pt`; `elapsed` is the seconds of training so far."""
        self.elapsed = elapsed
        state = {
            "added": {name: tensor.detach() for name, tensor in self.added.items()},
            "optimizer": self.optimizer.state_dict(), "step": self.step, "elapsed": elapsed, "model": self.name,
            "config": asdict(self.config),
        }  # fmt: skip
        atomic_save(state, self.checkpoint)

    def resume(self) -> bool:
        """Go on from `last.pt`; False if there is none. ValueError if it is of another model, weight or rank."""
        state = load_checkpoint(self.checkpoint, self.device)
        if state is None:
            return False
        for name in ("guidance", "rank"):
            if state["config"][name] != getattr(self.config, name):
                raise ValueError(f"{self.checkpoint} is of {name} {state['config'][name]}: choose another run folder.")
        if state["model"] != self.name:
            raise ValueError(f"{self.checkpoint} is of a model with other weights: choose another run folder.")
        with torch.no_grad():
            for name, tensor in self.added.items():
                tensor.copy_(state["added"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed = int(state["step"]), float(state["elapsed"])
        return True

    def _taught(self, tokens: Tensor, mask: Tensor, number: int) -> Tensor:
        """Log probabilities (M, V) of what guidance makes of the model in decoding step `number`."""
        with torch.no_grad():
            unseen = hidden(tokens.shape[-1], number).to(self.device)
            logits = logits_of(self.teacher, tokens, unseen, 0, self.config.guidance, where=mask)
            return logits.float().log_softmax(-1)

    def train_step(self, progress: float) -> dict[str, float]:
        """One update; everything random in it depends on the seed and the step's number alone.

        Args:
            progress: 0..1 of the whole training, for the cooldown.

        Returns:
            {"loss", "grad_norm", "lr", "steps"}: the loss is the KL divergence in nats from guided to distilled.
        """
        config, number = self.config, self.step + 1
        generator = torch.Generator().manual_seed(step_seed(config.seed, number))
        places = self.data.places(config.batch, self.crop, generator)
        levels = self.model.config.n_codebooks
        tokens = self.data.at(places, self.crop)[:, :levels]
        mask = states(levels, self.crop, config.batch, generator, self.data.beats_at(places))
        size, total = AT_ONCE if self.device.type == "cpu" else config.batch, 0.0
        for begin in range(0, config.batch, size):
            part = mask[begin : begin + size].to(self.device)
            given = tokens[begin : begin + size].to(self.device).masked_fill(part, MASK)
            target = self._taught(given, part, int(torch.randint(MOST_STEPS, (), generator=generator)))
            weights = distilled.applied(self.own, self.added)
            said = functional_call(self.model, weights, (given,), {"where": part}).float().log_softmax(-1)
            # Each masked token of the batch weighs the same, whichever part it falls into.
            loss = F.kl_div(said, target, log_target=True, reduction="sum") / int(mask.sum())
            loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.learned, config.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"The gradient of step {number} is not finite: lower --peak and start again from last.pt.")
        lr = noam(number, config.peak, config.warmup, True) * cooldown(progress, config.cooldown_share)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step = number
        return {"loss": float(total), "grad_norm": float(norm), "lr": lr, "steps": tokens.shape[0] * tokens.shape[2]}

    @torch.no_grad()
    def validate(self) -> dict[str, float] | None:
        """{"distilled", "model"}: KL divergence in nats a masked token from what guidance says, of the distilled model and of
        the model itself, on the same held-out crops each time; None without held-out tokens."""
        if self.valid is None:
            return None
        weights = {name: tensor.detach() for name, tensor in distilled.applied(self.own, self.added).items()}
        student = transformer_of(self.model.config, weights, self.model.codebooks).to(self.device)
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, 0))
        crop, levels = common_crop(self.valid.lengths, self.crop), self.model.config.n_codebooks
        sums, asked = {"distilled": 0.0, "model": 0.0}, 0
        for number in range(self.config.valid_crops):
            mask = states(levels, crop, 1, generator).to(self.device)
            tokens = self.valid.crops(1, crop, generator)[:, :levels].to(self.device).masked_fill(mask, MASK)
            target = self._taught(tokens, mask, number % MOST_STEPS)
            for name, one in (("distilled", student), ("model", self.teacher)):
                said = one(tokens, where=mask).float().log_softmax(-1)
                sums[name] += float(F.kl_div(said, target, log_target=True, reduction="sum"))
            asked += int(mask.sum())
        return {name: value / asked for name, value in sums.items()}


def distill(config: Distillation) -> dict[str, object]:
    """Train, or go on training, until a budget or a signal ends the session; then save.

    Returns:
        {"step", "elapsed", "done", "loss", "valid"}: `done` is False if the run is to be gone on with, `valid` the last
        validation of this session or None.

    Raises:
        ValueError: the settings, the data or the run folder cannot be used.
        FloatingPointError: the training diverged; `last.pt` holds the last saved state.
    """
    run = Distiller(config)
    found = session(run, config, {"resumed": run.resume(), "parameters": sum(map(Tensor.numel, run.learned))})
    return {**found, "loss": found.pop("last").get("loss", math.nan)}


def export(run: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Write what a run has learned into `coarse.safetensors` of the folder of the model that it belongs to.

    Returns:
        The path of the weights.

    Raises:
        ValueError: the run folder has no `last.pt`, or the folder's coarse model has other weights.
    """
    state = load_checkpoint(Path(run) / "last.pt")
    if state is None or "added" not in state:
        raise ValueError(f"{run} has no last.pt of a distillation: train first.")
    model = checkpoints.load(out, "cpu").coarse
    model.distilled = None
    if fingerprint.of_tensors(model) != state["model"]:
        raise ValueError(f"The coarse model in {out} has other weights than the one that {run} belongs to.")
    return add_distilled(checkpoints.find(out, ()), state["added"])


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m vampnet.train.distill ...`. Returns the exit status; 3 = go on with another session."""
    parser = argparse.ArgumentParser(
        prog="vampnet train distill",
        description="Teach a coarse model to say at once what guidance makes of two, so that steps take half of the time.",
    )
    parser.add_argument("--model", default=checkpoints.DEFAULT, help="name or folder of the model (default: %(default)s)")
    parser.add_argument("--tokens", required=True, metavar="FOLDER", help="tokens of its codec, as of 'train tokens'")
    parser.add_argument("--valid", default="", metavar="FOLDER", help="tokens that are only measured")
    parser.add_argument("--run", required=True, metavar="FOLDER", help="the run folder; run again to go on")
    parser.add_argument("--export", metavar="FOLDER", help="at the end, write it into this folder of the same model")
    about = {
        "guidance": "the weight of guidance that is taught", "rank": "rank of what is added to each matrix",
        "batch": "examples a step", "crop": "time steps of an example; 0 = the model's context, or less where rows are shorter",
        "peak": "the highest learning rate", "valid_crops": "crops that a measurement looks at",
    }  # fmt: skip
    add_numbers(parser, Distillation, {**about, **COMMON})
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    args = vars(parser.parse_args(argv))
    out = args.pop("export")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        result = distill(Distillation(**args))
        if out and result["done"]:
            sys.stderr.write(f"{export(args['run'], out)}\n")
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write(json.dumps(result) + "\n")
    return 0 if result["done"] else 3


if __name__ == "__main__":
    raise SystemExit(main())
