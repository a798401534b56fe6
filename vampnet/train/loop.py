"""What every training here shares: run folders, checkpoints that survive a kill, time budgets, logs, weight averages."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..model.fast import fast_bfloat16
from ..whole_file import whole_file

log = logging.getLogger(__name__)


def atomic_save(state: Mapping[str, Any], path: str | os.PathLike) -> None:
    """`torch.save` that a kill at any moment cannot leave half written: the old file stays until the new one is complete.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, alone=True) as part, open(part, "wb") as handle:
        try:
            torch.save(dict(state), handle)
        except RuntimeError as error:
            full = error.__context__
            if isinstance(full, OSError):  # of which torch's own words say nothing
                raise OSError(full.errno, full.strerror) from error
            raise
        handle.flush()
        os.fsync(handle.fileno())


def load_checkpoint(path: str | os.PathLike, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The state that `atomic_save` wrote, or None if there is no such file yet. ValueError if it is damaged."""
    path = Path(path)
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except (OSError, MemoryError, torch.cuda.OutOfMemoryError):
        raise  # no fault of the file
    except Exception as error:  # a damaged file may fail in any way
        kind = type(error).__name__
        raise ValueError(f"{path} cannot be read ({kind}): delete it to begin anew, or put a good copy there.") from error


def in_bfloat16(wanted: bool | str, device: torch.device) -> bool:
    """Whether matrix products are to run in bfloat16: as wanted, or with "auto" where that is fast.

    On a GPU it is; on a CPU only with instructions for it (AVX512_BF16, AMX): elsewhere it is far slower than float32.

    Raises:
        ValueError: `wanted` is neither true, false nor "auto".
    """
    if wanted == "auto":
        return device.type != "cpu" or fast_bfloat16()
    if not isinstance(wanted, bool):
        raise ValueError(f"bfloat16 must be true, false or auto, not {wanted!r}.")
    return wanted


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A small tensor from the CPU, without a GPU's having to be waited for."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def step_seed(seed: int, step: int) -> int:
    """A seed in 0..2**63-1 that depends on (seed, step) alone.

    When all randomness of a step comes from it, a resumed run draws exactly what an uninterrupted one would have drawn, and
    no generator's state has to be saved.
    """
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1


class Budget:
    """How long a run lasts: all sessions together, and this one.

    Args:
        minutes: of training over all sessions; None = no limit.
        session_minutes: of this session; None = no limit.
        steps: in all; None = no limit.
        elapsed: seconds that earlier sessions trained.
    """

    def __init__(
        self, minutes: float | None = None, session_minutes: float | None = None, steps: int | None = None, elapsed: float = 0.0
    ) -> None:
        self.minutes, self.session_minutes, self.steps, self.earlier = minutes, session_minutes, steps, elapsed
        self.start = time.monotonic()

    @property
    def session(self) -> float:
        """Seconds of this session."""
        return time.monotonic() - self.start

    @property
    def elapsed(self) -> float:
        """Seconds of all sessions."""
        return self.earlier + self.session

    def progress(self, step: int) -> float:
        """0..1: how much of the whole training is over after `step` steps; 0 if it has no known end."""
        parts = [0.0]
        if self.minutes is not None:
            parts.append(self.elapsed / max(60 * self.minutes, 1e-9))
        if self.steps is not None:
            parts.append(step / max(self.steps, 1))
        return min(1.0, max(parts))

    def done(self, step: int) -> bool:
        """True if the whole training is over."""
        return self.progress(step) >= 1.0

    def session_over(self) -> bool:
        """True if this session's time is used up."""
        return self.session_minutes is not None and self.session >= 60 * self.session_minutes


class StopRequest:
    """Becomes true on Ctrl-C or SIGTERM, so that the step in progress ends and the run is saved. A second Ctrl-C kills."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested

    @classmethod
    @contextmanager
    def listening(cls) -> Iterator[StopRequest]:
        """Listen while the block runs (only in the main thread; elsewhere it never becomes true)."""
        stop = cls()
        if threading.current_thread() is not threading.main_thread():
            yield stop
            return

        def handle(number: int, frame: object) -> None:
            if stop.requested:
                raise KeyboardInterrupt
            stop.requested = True

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class RunLog:
    """`log.jsonl` in the run folder, and TensorBoard event files beside it where TensorBoard is installed."""

    def __init__(self, folder: str | os.PathLike, tensorboard: bool = True) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self.folder / "log.jsonl", "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._board = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self.folder / "tensorboard"))
            except ImportError:
                log.warning(
                    "TensorBoard is not installed, so only log.jsonl is written: pip install tensorboard adds its curves."
                )

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """One line {"step", "kind", "time", **values}; numbers among the values also go to TensorBoard as kind/name."""
        self._file.write(json.dumps({"step": step, "kind": kind, "time": round(time.time(), 1), **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class WeightAverage:
    """Exponential moving average of a model's parameters, warmed up: decay min(`decay`, (1 + n) / (10 + n)) at update n."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.updates = 0
        self.names = [name for name, _ in model.named_parameters()]
        self.values = [p.detach().clone().float() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present parameters."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, [p.detach().float() for p in model.parameters()], 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Parameter name -> averaged float32 tensor (not copies)."""
        return dict(zip(self.names, self.values, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"updates": self.updates, "values": self.weights()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint of the same model; KeyError names a parameter that it lacks."""
        self.updates = int(state["updates"])
        with torch.no_grad():
            for name, value in zip(self.names, self.values, strict=True):
                value.copy_(state["values"][name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model has the averaged parameters."""
        with torch.no_grad():
            parameters = list(model.parameters())
            before = [p.detach().clone() for p in parameters]
            for p, value in zip(parameters, self.values, strict=True):
                p.copy_(value)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(parameters, before, strict=True):
                    p.copy_(value)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for AdamW: matrices with weight decay, gains, biases and other vectors without."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    # Those of several levels or heads lie in one matrix that is none.
    plain = {
        name for name, p in named if p.ndim < 2 or name.startswith("bias.") or name.endswith(("bias", "_g", "mask_vectors"))
    }
    matrices, vectors = ([p for name, p in named if (name in plain) == alone] for alone in (False, True))
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def read_config(path: str | os.PathLike, changes: Iterable[str] = ()) -> dict[str, Any]:
    """A YAML file as a dict, with changes like "model.dim=256" (dots reach into sections, values are YAML) applied.

    Raises:
        ValueError: no such file, not a mapping, or a change that is not `key=value`.
    """
    import yaml

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no configuration {path}: check the path given with --config.")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path} does not hold a list of `key: value` settings.")
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise ValueError(f"A setting is changed with key=value, not {change!r}.")
        section = config
        *parents, last = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ValueError(f"{parent!r} in {change!r} is not a section of the configuration.")
        section[last] = yaml.safe_load(value)
    return config
