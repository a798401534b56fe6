"""Measures the cases of a run, between two measurements of the machine's ceilings."""

from __future__ import annotations

import dataclasses
import gc
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vampnet.bench import published
from vampnet.bench.cases import Case
from vampnet.bench.ceilings import Ceilings, measure_ceilings
from vampnet.bench.stages import Prepared, Stages, load_model
from vampnet.bench.timing import Stopwatch, Timing
from vampnet.bench.work import Demand, Work, floor_seconds
from vampnet.fallback import release
from vampnet.model import distilled
from vampnet.model.fast import fast_bfloat16

LIKE = {"coarse": "coarse step", "fine": "fine step", "vamp": "coarse", "command": "vamp"}
"""Stage -> the one whose share of the limit is expected of it until it has been measured itself."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Figure:
    """What was measured of a case, and what it cannot do without."""

    case: Case
    timing: Timing
    demand: Demand = ()
    tokens: int = 0
    note: str = ""

    @property
    def tokens_per_second(self) -> float | None:
        """None where the stage has to do with no tokens."""
        return self.tokens / self.timing.median if self.tokens else None

    def floor(self, ceilings: Ceilings) -> float | None:
        """Seconds that the machine needs at least; None where nothing is counted."""
        return floor_seconds(self.demand, ceilings) if self.demand else None

    def share(self, ceilings: Ceilings) -> float | None:
        """Floor / measured: 1 = nothing is left to gain."""
        floor = self.floor(ceilings)
        return None if floor is None else floor / self.timing.median


@dataclass
class Run:
    """All that a run measured.

    Attributes:
        machine: what it ran on, for people.
        precision: of the transformers' weights.
        repeats: of each figure.
        before, after: the machine's ceilings; the second ones are None if the run was stopped.
        figures: in the order in which they were measured.
        skipped: (case, expected seconds of one repetition) that would have taken too long.
        stopped: it was interrupted.
    """

    machine: dict[str, Any]
    precision: str
    repeats: int
    before: Ceilings
    after: Ceilings | None = None
    figures: list[Figure] = field(default_factory=list)
    skipped: list[tuple[Case, float]] = field(default_factory=list)
    stopped: bool = False

    @property
    def ceilings(self) -> Ceilings:
        """The better ones of before and after."""
        return self.before if self.after is None else self.before.or_better(self.after)


def machine(device: torch.device) -> dict[str, Any]:
    """What a run's figures depend on beside the program, without anything that tells whose machine it is."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0] if models else name
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else name,
        "processor": name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


class _Begun:
    """A case of which some repetitions have been measured."""

    def __init__(self, device: torch.device, prepared: Prepared) -> None:
        self.watch = Stopwatch(device)
        self.about = dataclasses.replace(prepared, run=lambda: None)  # without what is to run, which holds a clip
        self.peaks: list[int] = []
        self.time(prepared)

    def time(self, prepared: Prepared) -> None:
        """One more of them, made ready anew."""
        self.watch.time(prepared.run)
        self.peaks += [peak for peak in prepared.peaks or () if peak]

    def figure(self, case: Case) -> Figure:
        """What they came to so far."""
        timing = self.watch.timing()
        if self.about.peaks is not None:
            timing = dataclasses.replace(timing, before=None, peak=max(self.peaks, default=None), device_peak=None)
        return Figure(case, timing, self.about.demand, self.about.tokens, self.about.note)


class Runner:
    """Measures case after case.

    Args:
        device: where the models are.
        precision: "float32", or what `VampNet.from_pretrained` takes as `precision`.
        repeats: repetitions of each figure.
        limit: a case of which one repetition is expected to take more seconds than this is skipped.
        weights: folder for the files of the model "paper"; None = a temporary one.
        say: gets a line for each case.
    """

    def __init__(
        self, device: torch.device, precision: str, repeats: int, limit: float, weights: Path | None, say: Say
    ) -> None:
        self.device, self.limit, self.weights, self.say = device, limit, weights, say
        # Codecs are in bfloat16 where that is fast (`codec_in_precision`).
        half = precision != "float32" and (device.type != "cpu" or fast_bfloat16())
        self.dtypes = list(dict.fromkeys(("float32", *(["bfloat16"] if half else []), precision)))
        say("ceilings of the machine")
        self.run = Run(machine(device), precision, repeats, measure_ceilings(device, self.dtypes))

    def measure(self, plans: Mapping[str, Sequence[Case]]) -> Run:
        """Measures {name or folder of a model: its cases}; KeyboardInterrupt ends it with what is there."""
        # What is there now stays: to look through all of it before each case would take longer than many a case.
        gc.collect()
        gc.freeze()
        try:
            with tempfile.TemporaryDirectory(prefix="vampnet-bench-") as folder:
                for name, cases in plans.items():
                    self._model(name, cases, Path(folder))
            self.say("ceilings of the machine, again")
            self.run.after = measure_ceilings(self.device, self.dtypes)
        except KeyboardInterrupt:
            self.run.stopped = True
        finally:
            gc.unfreeze()
        return self.run

    def _model(self, name: str, cases: Sequence[Case], folder: Path) -> None:
        source: str | Path = name
        if name == published.PAPER:
            source = self.weights or folder / "paper"
            self.say("random weights in the published shapes")
            published.write_files(source)

        def load() -> Any:
            return load_model(source, self.device, self.run.precision)

        model = None
        for case in cases:
            if case.stage == "load":
                model = load()
                prepared = Prepared(_dropping(load), (Work(moved=_loaded_bytes(model)),))
                model = None
                self._stage([case], lambda _, prepared=prepared: prepared)
        release()
        model = load()
        stages = Stages(model, source, self.run.precision, folder / "sound")
        for stage in dict.fromkeys(case.stage for case in cases if case.stage != "load"):
            self._stage([case for case in cases if case.stage == stage], stages.prepare)

    def _stage(self, cases: Sequence[Case], prepare: Callable[[Case], Prepared]) -> None:
        """The cases of a stage in rounds, there and back: a machine that gets slower does so for all of them, and how their
        cost grows is told from what was measured at the same time. What is prepared is not kept: a long clip is memory."""
        begun: dict[Case, _Begun] = {}
        try:
            for case in cases:
                self._begin(case, prepare(case), begun)
            for number in range(1, self.run.repeats):
                self.say(f"{cases[0].model}, {cases[0].stage}, round {number + 1} of {self.run.repeats}")
                for case in list(begun)[:: -1 if number % 2 else 1]:
                    begun[case].time(prepare(case))
        finally:
            self.run.figures += [one.figure(case) for case, one in begun.items()]

    def _begin(self, case: Case, prepared: Prepared, begun: dict[Case, _Begun]) -> None:
        expected = self._expected(case, prepared.demand, begun)
        if expected is not None and expected > self.limit:
            self.run.skipped.append((case, expected))
            self.say(f"{case.stage}, {case.words}: skipped, a repetition would take some {expected:.0f} s")
            return
        self.say(", ".join(filter(None, (case.model, case.stage, case.words))))
        begun[case] = _Begun(self.device, prepared)

    def _expected(self, case: Case, demand: Demand, begun: Mapping[Case, _Begun]) -> float | None:
        """Seconds of a repetition, if the case comes as near to the limit as the last one of its kind; None = no idea."""
        if not demand:
            return None
        known = self.run.figures + [one.figure(case) for case, one in begun.items()]
        for stage in (case.stage, LIKE.get(case.stage)):
            shares = [
                figure.share(self.run.before)
                for figure in known
                if figure.case.model == case.model and figure.case.stage == stage and figure.demand
            ]
            if shares and shares[-1]:
                return floor_seconds(demand, self.run.before) / shares[-1]
        return None


def _dropping(load: Callable[[], Any]) -> Callable[[], None]:
    """`load`, without its result: whoever kept it would hold two models at once."""

    def run() -> None:
        load()

    return run


def _loaded_bytes(model: Any) -> int:
    """Bytes that loading writes, and those that it reads at least: files hold one byte or more for each number, and next to
    none of a distilled model."""
    named = [named for part in (model.codec, model.coarse, model.fine) for named in part.named_parameters()]
    read = sum(p.numel() for name, p in named if not name.startswith(distilled.PREFIX))
    return read + sum(p.numel() * p.element_size() for _, p in named)
