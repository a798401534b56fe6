"""Stage 2: train a coarse or a coarse-to-fine transformer on token shards (paper sections 3.2 and 4).

A run is a folder with `last.pt` (all that is needed to go on), `log.jsonl` and TensorBoard files. Starting it again goes on
where it stopped, whether it ended, was interrupted or was killed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vampnet.config import TransformerConfig
from vampnet.device import usable_device
from vampnet.model import distilled
from vampnet.model.files import read_weights, save_transformer
from vampnet.model.transformer import TokenTransformer
from vampnet.train.loop import (
    Budget,
    RunLog,
    StopRequest,
    WeightAverage,
    atomic_save,
    in_bfloat16,
    load_checkpoint,
    read_config,
    step_seed,
)
from vampnet.train.masking import training_masks
from vampnet.train.optimizer import Optimizer
from vampnet.train.schedule import cooldown, noam
from vampnet.train.settings import TrainConfig
from vampnet.train.shards import TokenData, common_crop, same_codec
from vampnet.train.validation import validate

log = logging.getLogger(__name__)


class Trainer:
    """One run: model, optimiser, weight average and data; `step` counts the finished steps."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        shape = TransformerConfig(**config.model)
        wanted = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
        self.device = torch.device(usable_device(wanted))
        if config.threads:
            torch.set_num_threads(config.threads)
        self.data = TokenData(config.train)
        self.valid = TokenData(config.valid) if config.valid else None
        if self.valid is not None and not same_codec(self.valid.codebooks, self.data.codebooks):
            raise ValueError(f"{config.valid} holds tokens of another codec than {config.train}: make both with the same one.")
        self.counts = self.data.counts(shape.codebook_size)
        self._codebooks = hashlib.sha256(self.data.codebooks.numpy().tobytes()).hexdigest()
        self._whole_context = int(self.data.lengths.max()) >= shape.context
        if config.context_share and not self._whole_context:
            log.info("No piece has %d time steps: all is trained on crops of %d.", shape.context, config.crop)
        torch.manual_seed(step_seed(config.seed, 0))
        self.model = TokenTransformer(shape, self.data.codebooks)
        self.model.add_guide()
        self._start_from_frequencies()
        if config.start:
            self._start_from(Path(config.start))
        self.model.to(self.device).train()
        compiled = config.compile and self.device.type == "cuda"
        self.loss = torch.compile(self.model.loss, dynamic=False) if compiled else self.model.loss
        self.optimizer = Optimizer(config.optimizer, self.model, config.peak, config.weight_decay)
        self.average = WeightAverage(self.model, config.average)
        self.step = 0
        self.elapsed = 0.0
        # The next step's examples are drawn while this one is computed: on a GPU that takes hardly longer than drawing.
        self._drawing = ThreadPoolExecutor(1, "draw")
        self._ahead: Future | None = None

    @torch.no_grad()
    def _start_from_frequencies(self) -> None:
        """The classifier's biases start at the codes' log frequencies, so that no step is spent on learning those."""
        shape = self.model.config
        counts = self.counts[shape.n_conditioning : shape.n_codebooks].float() + 1
        log_p = torch.log(counts / counts.sum(dim=1, keepdim=True))
        self.model.classifier_bias.copy_(log_p - log_p.mean(dim=1, keepdim=True))

    @torch.no_grad()
    def _start_from(self, folder: Path) -> None:
        """Takes the layers of another model, and with `start_codes` all of it.

        How music goes on in time is much of what layers know, and it does not depend on the numbers of the codes. What reads
        and names codes is of use only where the codec is the same. Layers that the other model does not have add nothing at
        first: their branches end in zeros.
        """
        which = "fine" if self.model.config.n_conditioning else "coarse"
        path = folder / f"{which}.safetensors"
        if not path.is_file():
            raise ValueError(f"There is no {path} to start from: name the folder of a model, or leave `start` out.")
        given, _ = distilled.split(read_weights(path))
        depth = len({name.split(".")[1] for name in given if name.startswith("layers.")})
        for layer in self.model.layers[depth:] if depth else ():
            layer.attention.out.weight.zero_()
            layer.feed_forward.out.weight.zero_()
        added = tuple(f"layers.{number}." for number in range(depth, len(self.model.layers))) if depth else ()
        parts = ("",) if self.config.start_codes else ("layers.", "bias.", "norm.")
        state = self.model.state_dict()
        missing = [name for name in given if name.startswith(parts) and name not in state]
        for name, tensor in state.items():
            if name.startswith(parts) and not name.startswith(("guide.", *added)):  # saved models have it in their classifier
                if name not in given or given[name].shape != tensor.shape:
                    missing.append(name)
                else:
                    tensor.copy_(given[name])
        if missing:
            raise ValueError(f"{path} is of another shape of model (at {missing[0]}): choose another one to start from.")

    @property
    def checkpoint(self) -> Path:
        """Where the run is saved."""
        return Path(self.config.run) / "last.pt"

    def save(self, elapsed: float) -> None:
        """Write `last.pt`; `elapsed` is the seconds of training so far."""
        self.elapsed = elapsed
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "step": self.step,
            "elapsed": elapsed,
            "config": dataclasses.asdict(self.config),
            "codebooks": self._codebooks,
        }
        atomic_save(state, self.checkpoint)

    def resume(self) -> bool:
        """Go on from `last.pt`; False if there is none. ValueError if it is of another shape of model."""
        state = load_checkpoint(self.checkpoint, self.device)
        if state is None:
            return False
        if state.get("codebooks", self._codebooks) != self._codebooks:
            raise ValueError(f"{self.checkpoint} was trained on the tokens of another codec: choose another run folder.")
        before = TransformerConfig(**state["config"]["model"])
        if before != self.model.config:
            raise ValueError(f"{self.checkpoint} is of another model shape ({before}): choose another run folder.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.step, self.elapsed, self._ahead = int(state["step"]), float(state["elapsed"]), None
        return True

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The tokens (B, K, T) int64 and masks (B, K, T) bool of one step, on the CPU."""
        config, shape = self.config, self.model.config
        crop, batch = config.crop or shape.context, config.batch
        wide = bool(torch.rand((), generator=generator) < config.context_share)
        if wide and crop < shape.context and self._whole_context:
            crop, batch = shape.context, max(1, round(batch * crop / shape.context))
        places = self.data.places(batch, crop, generator)
        tokens = self.data.at(places, crop)[:, : shape.n_codebooks].contiguous()
        return tokens, training_masks(
            batch,
            shape.n_codebooks,
            crop,
            shape.n_conditioning,
            config.prompt_share,
            generator,
            config.hidden_share,
            self.data.beats_at(places),
        )

    def _draw(self, number: int) -> tuple[torch.Generator, Tensor, Tensor]:
        """The generator of step `number`, and what `draw` gives with it."""
        generator = torch.Generator().manual_seed(step_seed(self.config.seed, number))
        if self.config.grow_every and number % self.config.grow_every == 0:
            self.data.grow()
        return generator, *self.draw(generator)

    def train_step(self, progress: float) -> dict[str, float]:
        """One update of the weights; everything random in it depends on the seed and the step's number alone (and on the
        shards that there are, where they are looked for again).

        Args:
            progress: 0..1 of the whole training, for the cooldown.

        Returns:
            {"loss", "grad_norm", "lr", "steps"}: steps are time steps of tokens seen.
        """
        config, number = self.config, self.step + 1
        generator, tokens, mask = (self._ahead or self._drawing.submit(self._draw, number)).result()
        self._ahead = self._drawing.submit(self._draw, number + 1)
        torch.manual_seed(step_seed(config.seed, number))  # dropout
        lr = noam(number, config.peak, config.warmup, config.hold) * cooldown(progress, config.cooldown_share)
        on_gpu = self.device.type == "cuda"
        size = config.micro_batch or (len(tokens) if on_gpu else max(1, round(640 / tokens.shape[2])))
        hidden = mask.sum(dim=(1, 2)).double()
        total = 0.0
        for begin in range(0, len(tokens), size):
            part = slice(begin, begin + size)
            # Each masked token of the batch weighs the same, whichever part it falls into.
            weight = float(hidden[part].sum() / hidden.sum())
            with torch.autocast(self.device.type, torch.bfloat16, enabled=in_bfloat16(config.bfloat16, self.device)):
                loss = self.loss(
                    tokens[part].to(self.device, non_blocking=True),
                    mask[part].to(self.device, non_blocking=True),
                    config.label_smoothing,
                    config.predict_share,
                    generator,
                )
            (loss * weight).backward()
            total = total + loss.detach() * weight
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"The gradient of step {number} is not finite: lower `peak` and start again from last.pt.")
        self.optimizer.step(lr)
        self.average.update(self.model)
        self.step = number
        return {"loss": float(total), "grad_norm": float(norm), "lr": lr, "steps": tokens.shape[0] * tokens.shape[2]}

    def validate(self) -> dict[str, Any]:
        """Validation of the averaged weights on the model's context; see `vampnet.train.validation.validate`."""
        assert self.valid is not None
        with self.average.applied(self.model):
            crop = common_crop(self.valid.lengths, self.model.config.context)
            return validate(self.model, self.valid, self.counts, crop, self.config.valid_crops)


def train(config: dict[str, Any] | TrainConfig, progress: bool = True) -> dict[str, Any]:
    """Train, or go on training, until a budget of the configuration or a signal ends the session; then save.

    Args:
        config: a `TrainConfig`, or its fields.
        progress: show a progress bar with the time left on stderr.

    Returns:
        {"step", "elapsed", "done", "loss", "valid"}: `done` is False if the run is to be gone on with, `valid` the last
        validation of this session or None.

    Raises:
        ValueError: the configuration, the data or the run folder cannot be used.
        FloatingPointError: the training diverged; `last.pt` holds the last saved state.
    """
    config = config if isinstance(config, TrainConfig) else TrainConfig.from_dict(config)
    trainer = Trainer(config)
    resumed = trainer.resume()
    budget = Budget(config.minutes, config.session_minutes, config.steps, trainer.elapsed)
    if budget.done(trainer.step):
        log.info("The budget of this run is used up: raise `minutes` or `steps` to go on.")
    run_log = RunLog(config.run, config.tensorboard)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    run_log.write(
        trainer.step,
        "start",
        {"resumed": resumed, "parameters": parameters, "rows": len(trainer.data), "device": str(trainer.device)},
    )
    try:
        with StopRequest.listening() as stop:
            loss, valid = _train_session(trainer, budget, run_log, stop, progress)
        trainer.save(budget.elapsed)
    finally:
        run_log.close()
    return {"step": trainer.step, "elapsed": budget.elapsed, "done": budget.done(trainer.step), "loss": loss, "valid": valid}


def _train_session(
    trainer: Trainer, budget: Budget, run_log: RunLog, stop: StopRequest, progress: bool
) -> tuple[float, dict | None]:
    config = trainer.config
    saved = validated = budget.session
    averaged, valid, seen, since = 0.0, None, 0, budget.session
    first = trainer.step
    with _progress_bar(trainer.step, config, budget, progress) as bar:
        while not (budget.done(trainer.step) or budget.session_over() or stop):
            values = trainer.train_step(budget.progress(trainer.step))
            share = max(0.02, 1 / (trainer.step - first))
            averaged += share * (values["loss"] - averaged)
            seen += values["steps"]
            _advance(bar, config, budget, averaged, values["lr"])
            if trainer.step % config.log_every == 0:
                values["steps_per_second"] = seen / max(budget.session - since, 1e-9)
                run_log.write(trainer.step, "train", {**values, "elapsed": budget.elapsed})
                seen, since = 0, budget.session
            if budget.session - saved >= 60 * config.save_minutes:
                trainer.save(budget.elapsed)
                saved = budget.session
            if trainer.valid is not None and budget.session - validated >= 60 * config.valid_minutes:
                valid = _log_validation(trainer, run_log)
                validated = budget.session
    # Only a finished run ends with a validation: a session that ends in time, or is told to stop, has none left.
    if trainer.valid is not None and budget.done(trainer.step):
        trainer.save(budget.elapsed)
        valid = _log_validation(trainer, run_log)
    return averaged, valid


def _log_validation(trainer: Trainer, run_log: RunLog) -> dict[str, Any]:
    result = trainer.validate()
    flat = {f"{name}_{key}": sum(v) / len(v) for name, m in result["by_mask"].items() for key, v in m.items()}
    run_log.write(trainer.step, "valid", {**result, **flat})
    log.info(
        "step %d: held-out accuracy %.3f (by frequency %.3f), cross-entropy %.3f (%.3f)",
        trainer.step, result["accuracy"], result["unigram_accuracy"], result["cross_entropy"], result["unigram_cross_entropy"],
    )  # fmt: skip
    return result


def _progress_bar(step: int, config: TrainConfig, budget: Budget, show: bool):
    from tqdm import tqdm

    if config.minutes is not None:
        return tqdm(
            total=round(60 * config.minutes), initial=round(budget.elapsed), unit="s", disable=not show, file=sys.stderr
        )
    return tqdm(total=config.steps, initial=step, unit="step", disable=not show, file=sys.stderr)


def _advance(bar, config: TrainConfig, budget: Budget, loss: float, lr: float) -> None:
    done = min(round(budget.elapsed), bar.total) if config.minutes is not None else bar.n + 1
    bar.set_postfix(loss=f"{loss:.3f}", lr=f"{lr:.1e}", refresh=False)
    bar.update(done - bar.n)


def export(run: str | os.PathLike, out: str | os.PathLike, int8: bool = False) -> Path:
    """Write the averaged weights of a run as `coarse.safetensors` or `fine.safetensors` (float16) into a model's folder.

    Its section of `config.json` is written too, the others stay. A model with conditioning levels is the fine one.

    Args:
        run: the run folder.
        out: the model's folder.
        int8: matrices in whole numbers of 8 bits, see `vampnet.model.stored`.

    Returns:
        The path of the weights.

    Raises:
        ValueError: the run folder has no `last.pt`.
    """
    state = load_checkpoint(Path(run) / "last.pt")
    if state is None:
        raise ValueError(f"{run} has no last.pt: train first.")
    if "label_smoothing" not in state["config"]:
        raise ValueError(f"{run} is no run of a transformer: a codec is exported by 'train codec --export'.")
    shape = {"label_smoothing": state["config"]["label_smoothing"], **state["config"]["model"]}
    model = TokenTransformer(TransformerConfig(**shape))
    which = "fine" if model.config.n_conditioning else "coarse"
    return save_transformer(model, out, which, {**state["model"], **state["average"]["values"]}, int8=int8)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m vampnet.train.transformer coarse|fine|export ...`. Returns the exit status; 3 = go on with another session."""
    parser = argparse.ArgumentParser(prog="vampnet train", description="Train a transformer on token shards.")
    commands = parser.add_subparsers(dest="command", required=True)
    for which in ("coarse", "fine"):
        about = f"train the {which} model; run again to go on"
        sub = commands.add_parser(which, help=about, description=f"{about[:1].upper()}{about[1:]}.")
        sub.add_argument("--config", required=True, metavar="FILE", help="a YAML file of settings")
        sub.add_argument(
            "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change settings, e.g. batch=4"
        )
        sub.add_argument("--minutes", type=float, help="minutes of training in all, over all sessions")
        sub.add_argument("--session-minutes", type=float, help="end this session after so many minutes")
        sub.add_argument("--steps", type=int, help="steps in all")
        sub.add_argument("--run", help="the run folder")
    about = "write a run's weights into a model's folder"
    sub = commands.add_parser("export", help=about, description=f"{about[:1].upper()}{about[1:]}.")
    sub.add_argument("--run", required=True, metavar="FOLDER")
    sub.add_argument("--out", required=True, metavar="FOLDER")
    sub.add_argument("--int8", action="store_true", help="in half of the room, with matrices rounded as a CPU rounds them")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if args.command == "export":
            sys.stderr.write(f"{export(args.run, args.out, args.int8)}\n")
            return 0
        settings = read_config(args.config, args.set)
        given = {"minutes": args.minutes, "session_minutes": args.session_minutes, "steps": args.steps, "run": args.run}
        config = TrainConfig.from_dict({**settings, **{key: value for key, value in given.items() if value is not None}})
        fine = TransformerConfig(**config.model).n_conditioning > 0
        if fine != (args.command == "fine"):
            raise ValueError(f"{args.config} describes a {'fine' if fine else 'coarse'} model: use the other command or file.")
        result = train(config)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write(json.dumps({key: value for key, value in result.items() if key != "valid"}) + "\n")
    return 0 if result["done"] else 3


if __name__ == "__main__":
    raise SystemExit(main())
