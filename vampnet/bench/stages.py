"""What is timed for each stage: the calls that the program itself makes, on made-up music and tokens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vampnet.bench import work
from vampnet.bench.cases import Case
from vampnet.bench.work import Demand, Work
from vampnet.config import MASK, Prompt, Sampling
from vampnet.device import answers_late
from vampnet.guidance import asks_weaker
from vampnet.windows import reach

BEAT_SECONDS = 0.5
LOOP_SECONDS = 8.0
COMMAND = """\
import sys
from vampnet import cli
status = cli.main(sys.argv[1:])
from vampnet.bench.memory import resident
print("peak", resident("VmHWM") or 0)
sys.exit(status)
"""


@dataclass(frozen=True)
class Prepared:
    """A case that is ready to be timed.

    Attributes:
        run: what to time.
        demand: what it cannot do without; empty where nothing is counted (beats).
        tokens: that it makes or reads; 0 where it has to do with none.
        note: what a reader should know, such as the beat tracker.
        peaks: where the work is done in other processes: the bytes that each of them took at most.
    """

    run: Callable[[], object]
    demand: Demand = ()
    tokens: int = 0
    note: str = ""
    peaks: list[int | None] | None = None


def make_music(seconds: float, rate: int) -> np.ndarray:
    """Chords and drums at 120 beats a minute, (2, N) float32: audible, with beats, and different on both sides."""
    total, beat = round(seconds * rate), round(BEAT_SECONDS * rate)
    period = min(total, round(LOOP_SECONDS * rate))
    rng, time_of = np.random.default_rng(0), np.arange(beat) / rate
    out = np.zeros((2, period + beat), np.float32)
    for number, start in enumerate(range(0, period, beat)):
        root = 110.0 * 2 ** ((0, 9, 5, 7)[number // 4 % 4] / 12)
        tones = [np.sin(2 * np.pi * root * step * time_of) * np.exp(-3 * time_of) for step in (1, 2, 3, 4)]
        hit = rng.standard_normal(beat) * np.exp(-40 * time_of)
        for side, order in enumerate(((0.3, 0.2, 0.1, 0.05), (0.3, 0.1, 0.2, 0.05))):
            out[side, start : start + beat] += sum(g * t for g, t in zip(order, tones, strict=True)) + 0.2 * hit
    return np.tile(out[:, :period], -(-total // period))[:, :total].copy()


def load_model(name: str | Path, device: str | torch.device | None, precision: str) -> Any:
    """The model of a name or folder in a precision.

    Raises:
        FileNotFoundError, ValueError: as `VampNet.from_pretrained`, or the precision cannot be had.
    """
    from vampnet.pipeline import VampNet

    return VampNet.from_pretrained(name, device, precision=precision)


class Parts:
    """Adds up the seconds of the parts of a vamp from its progress; give it as `on_step`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, stage: str, step: int, of: int) -> None:
        """What has passed since the last call belongs to the stage that has got on; before its first step, to "rest"."""
        self.add(stage if step else "rest")

    def add(self, name: str) -> None:
        """Counts what has passed since the last call to a part."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now


class Stages:
    """Prepares the cases of one model.

    Args:
        model: `VampNet`, loaded.
        source: name or folder that it was loaded from.
        precision: that it was loaded in.
        folder: for sound files; made if missing.
    """

    def __init__(self, model: Any, source: str | Path, precision: str, folder: Path) -> None:
        self.model, self.source, self.precision, self.folder = model, source, precision, folder
        self.tracker = ""
        self.folder.mkdir(parents=True, exist_ok=True)

    def prepare(self, case: Case) -> Prepared:
        """What to run for a case (all but "load", which comes before there is a model)."""
        return getattr(self, f"_{case.stage.replace(' ', '_')}")(case)

    def _steps(self, case: Case) -> int:
        grid = self.model.grid
        return grid.samples_to_tokens(grid.seconds_to_samples(case.seconds))

    def _codes(self, case: Case, takes: int = 1) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        codec = self.model.codec
        return torch.randint(codec.codebook_size, (takes, codec.n_codebooks, self._steps(case)), generator=generator)

    def _signal(self, case: Case) -> Any:
        from vampnet import audio

        rate = self.model.grid.sample_rate
        return audio.load((rate, make_music(case.seconds, rate).T), rate)

    def _file(self, case: Case) -> Path:
        path = self.folder / f"{case.seconds:g}.wav"
        if not path.exists():
            import soundfile

            rate = self.model.grid.sample_rate
            soundfile.write(path, make_music(case.seconds, rate).T, rate)
        return path

    def _beats(self, case: Case) -> Prepared:
        from vampnet import beats

        signal = self._signal(case)
        device = self.model.device if self.model.device.type == "cuda" else "cpu"

        def run() -> None:
            beats.track(signal, download=False, device=device)

        self.tracker = self.tracker or beats.track(signal, download=False, device=device).engine
        return Prepared(run, note=self.tracker)

    def _mask(self, case: Case) -> Prepared:
        codes = self._codes(case)
        return Prepared(lambda: self.model.mask(codes, Prompt()), (Work(moved=codes.numel()),), codes.numel())

    def _encode(self, case: Case) -> Prepared:
        codec, grid = self.model.codec, self.model.grid
        samples = make_music(case.seconds, grid.sample_rate).mean(0, keepdims=True)
        wave = torch.from_numpy(samples)[None].to(self.model.device)
        steps = self._steps(case)
        return Prepared(lambda: codec.encode(wave), work.encode(codec, steps), codec.n_codebooks * steps)

    def _decode(self, case: Case) -> Prepared:
        codec, codes = self.model.codec, self._codes(case, case.takes).to(self.model.device)

        def run() -> None:
            # As `VampNet.vamp` does it: one take after the other.
            for take in codes.split(1):
                codec.decode(take)

        return Prepared(run, work.decode(codec, codes.shape[-1], case.takes), codes.numel())

    def _coarse_step(self, case: Case) -> Prepared:
        return self._step(self.model.coarse, case)

    def _fine_step(self, case: Case) -> Prepared:
        return self._step(self.model.fine, case)

    def _step(self, transformer: Any, case: Case) -> Prepared:
        config = transformer.config
        codes = self._codes(case, case.takes)[:, : config.n_codebooks, : reach(config.context)]
        codes[:, config.n_conditioning :] = MASK
        codes = codes.to(self.model.device)
        where = codes[:, config.n_conditioning :] == MASK
        demand = work.step(config, case.takes, codes.shape[-1], where.numel(), self.precision)
        if answers_late(codes.device):  # where all positions are computed whatever is masked
            return Prepared(lambda: transformer(codes), (demand,), where.numel())
        return Prepared(lambda: transformer(codes, where=where), (demand,), where.numel())

    def _coarse(self, case: Case) -> Prepared:
        return self._decoding(case, self.model.coarse.config, fine=False)

    def _fine(self, case: Case) -> Prepared:
        return self._decoding(case, self.model.fine.config, fine=True)

    def _decoding(self, case: Case, config: Any, fine: bool) -> Prepared:
        sampling = Sampling(steps=case.steps) if case.steps else Sampling()
        codes = self._codes(case)
        mask = self.model.mask(codes, Prompt())
        # Where a stage has nothing to do it has no windows either, so one door leads to either stage.
        first = self.model.fine.config.n_conditioning
        mask[:, :first] &= not fine
        mask[:, first:] &= fine
        seeds = [(0, take) for take in range(case.takes)]
        steps = sampling.fine_steps if fine else sampling.steps
        guided = asks_weaker(self.model.coarse, sampling.guidance) and not fine
        own = mask[0, : config.n_codebooks]
        recalls = bool(sampling.recall) and not fine
        demand = work.decoding(config, own, case.takes, steps, self.precision, guided, True, recalls)
        return Prepared(
            lambda: self.model.generate(codes, mask, sampling, seeds), (demand,), case.takes * int(mask.sum())
        )  # fmt: skip

    def _vamp(self, case: Case) -> Prepared:
        path, out = self._file(case), self.folder / "out"
        sampling = Sampling(steps=case.steps)

        def run() -> dict[str, float]:
            parts = Parts()
            vamp = self.model.vamp(path, Prompt(), sampling, takes=case.takes, seed=0, on_step=parts)
            parts.add("rest")
            vamp.save(out)
            parts.add("save")
            return parts.seconds

        mask = self.model.mask(self._codes(case), Prompt())
        demand = work.vamp(self.model, mask[0], case.takes, sampling, self.precision)
        return Prepared(run, demand, case.takes * int(mask.sum()))

    def _command(self, case: Case) -> Prepared:
        words = [
            "vamp", self._file(case), "-o", self.folder / "out", "--takes", case.takes, "--steps", case.steps,
            "--model", self.source, "--device", self.model.device, "--quiet",
        ]  # fmt: skip
        words += ["--precision", self.precision]
        peaks: list[int | None] = []

        def run() -> None:
            peaks.append(run_command([str(word) for word in words]))

        vamp = self._vamp(case)
        return Prepared(run, vamp.demand, vamp.tokens, peaks=peaks)


def run_command(words: list[str]) -> int | None:
    """Runs `vampnet WORDS` in a new process with as many threads as this one.

    Returns:
        Bytes of that process at most; None where the system does not say.

    Raises:
        ValueError: it failed; the sentence is its own.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise ValueError(f"'vampnet vamp' failed: {reason[-1] if reason else done.returncode}")
    return int(done.stdout.split()[-1]) or None
