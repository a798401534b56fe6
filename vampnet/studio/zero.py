"""ZeroGPU, the GPUs that Hugging Face lends to a Space for single calls: a model whose heavy work goes through one of them.

How it works there (package `spaces`): a function decorated with `spaces.GPU` runs in a process that is forked when it is first
called and used again later; arguments and results travel by pickle. So
- the model is loaded and moved to "cuda" before the page is served; in this process that is a pretence, nobody computes here;
- the forked process finds it in a global of this module, never in an argument or behind a lock that a fork may copy held;
- it cannot be exchanged, and nothing is compiled: every forked process would compile again;
- progress and stopping go through a folder, since callbacks do not travel, and the work itself starts no thread;
- who pays is found in the context of Gradio's call: a thread that calls the model must run in `contextvars.copy_context()`.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import os
import pickle
import re
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import soundfile

from vampnet import audio
from vampnet.config import CancelledError, Sampling
from vampnet.model import distilled
from vampnet.pipeline import VampNet
from vampnet.sentences import sentence_of
from vampnet.studio.shelf import ModelShelf

POLL_SECONDS = 0.1
LEAST_SECONDS, MOST_SECONDS = 15, 120
"""What may be asked for at once: the time to bring the weights there, and what a visitor with an account may use by default."""
PAPER_PARAMETERS = 330e6
"""Of the published coarse model, to which the costs belong."""
STEP_SECONDS, CODEC_SECONDS = 0.15, 0.5
"""Costs of a step of one take of 10 s, and of encoding or decoding 10 s: twice what the operations of the published models take
at a third of the speed of the GPU slices that are lent. Calculated, not measured."""

_model: VampNet | None = None
"""In the forked process what it was in this one."""
_on_gpu: Callable[[str, bytes, str, int], bytes] | None = None


def active() -> bool:
    """Whether this is a Space on ZeroGPU with the package `spaces`."""
    wanted = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
    return wanted and importlib.util.find_spec("spaces") is not None


def open_shelf(name: str, device: str | None, choice: bool) -> ModelShelf:
    """The shelf of the app: on ZeroGPU with its model, elsewhere one that loads it once it is told to (`ModelShelf.start`).

    Args:
        name: as in `VampNet.from_pretrained`.
        device: None = the best there is.
        choice: whether visitors may exchange the model.
    """
    if active():
        return shelf(name)
    return ModelShelf(load=functools.partial(VampNet.from_pretrained, device=device), choice=choice)


def shelf(name: str, load: Callable[..., VampNet] | None = None) -> ModelShelf:
    """A shelf with a model whose work goes through ZeroGPU. Call it before the page is served, and once.

    Args:
        name: as in `VampNet.from_pretrained`.
        load: `load(name, device)`; None = `VampNet.from_pretrained`, in float32: it is loaded on a CPU and used on a GPU.
    """
    global _model, _on_gpu
    import spaces  # before anything asks for CUDA

    model = (load or functools.partial(VampNet.from_pretrained, precision="float32"))(name, "cpu")
    front = ZeroVampNet(model)
    _model = VampNet(model.codec, model.coarse, model.fine, model.name, "cuda" if _has_cuda() else "cpu")
    _on_gpu = spaces.GPU(_work, duration=_duration)
    return ModelShelf(front, name)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _duration(method: str, packed: bytes, folder: str, seconds: int) -> int:
    """`spaces` asks for it with the arguments of the call."""
    return seconds


def _work(method: str, packed: bytes, folder: str, seconds: int) -> bytes:
    """In the forked process: one method of the model. Errors that people are to read come back as values, others are raised."""
    args, kwargs = pickle.loads(packed)
    if method in WATCHED:
        wire = Wire(Path(folder))
        kwargs.update(on_step=wire.report, cancelled=wire.stopped)
    try:
        return pickle.dumps((True, getattr(_model, method)(*args, **kwargs)))
    except CancelledError as error:
        return pickle.dumps((False, CancelledError(sentence_of(error))))
    except ValueError as error:
        return pickle.dumps((False, ValueError(sentence_of(error))))


@dataclass(frozen=True)
class Device:
    """Not a device of torch: nothing can be computed on it in this process."""

    type: str = "ZeroGPU"


class Wire:
    """Progress in one direction and "stop" in the other, between two processes that share a folder."""

    def __init__(self, folder: Path) -> None:
        self._step, self._stop = folder / "step.json", folder / "stop"

    def report(self, stage: str, step: int, of: int) -> None:
        """Says how far it is; the other side sees the newest report."""
        part = self._step.with_suffix(".part")
        part.write_text(json.dumps([stage, step, of]))
        os.replace(part, self._step)

    def latest(self) -> tuple[str, int, int] | None:
        """The newest report; None before the first."""
        try:
            return tuple(json.loads(self._step.read_text()))
        except FileNotFoundError:
            return None

    def stop(self) -> None:
        """Asks the other side to stop."""
        self._stop.touch()

    def stopped(self) -> bool:
        """Whether this side was asked to stop."""
        return self._stop.exists()


def seconds_of(source: Any) -> float:
    """Length of anything that `audio.load` takes, in seconds; the longest that is allowed where it cannot be told cheaply."""
    try:
        if isinstance(source, (str, os.PathLike)):
            return soundfile.info(str(source)).duration
        return source.audio_data.shape[-1] / source.sample_rate
    except (AttributeError, RuntimeError, OSError):
        return audio.MAX_SECONDS


def gpu_seconds(seconds: float, sampling: Sampling | None, takes: int, size: float = 1.0) -> int:
    """For how long a GPU is asked for.

    Args:
        seconds: of audio.
        sampling: None = nothing is generated.
        takes: results.
        size: parameters of the coarse model, 1 = the published one.
    """
    tens, work = max(seconds, 1.0) / 10, CODEC_SECONDS * (1 + takes)
    if sampling is not None:
        # A fine step, over three seconds at a time, costs about what a coarse one does.
        work += STEP_SECONDS * takes * sampling.feedback * (sampling.coarse_runs + sampling.fine_steps)
    return round(min(MOST_SECONDS, LEAST_SECONDS + tens * work * max(size, 0.1)))


def _remote(name: str) -> Callable[..., Any]:
    """A method that does the work of `VampNet`'s method of that name on a GPU."""
    original = getattr(VampNet, name)
    signature = inspect.signature(original)

    @functools.wraps(original)
    def method(self: ZeroVampNet, *args: Any, on_step: Any = None, cancelled: Any = None, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs).arguments
        return self._call(name, {key: value for key, value in given.items() if key != "self"}, on_step, cancelled)

    return method


WATCHED = ("vamp", "listen", "generate")


class ZeroVampNet(VampNet):
    """A `VampNet` that knows the shape of its models and lets a GPU elsewhere do the work, a call of a method at a time.

    Args:
        model: on the CPU; only looked at.
    """

    elsewhere = True

    def __init__(self, model: VampNet) -> None:
        codec = model.codec
        self.codec = SimpleNamespace(
            sample_rate=codec.sample_rate, hop=codec.hop, n_codebooks=codec.n_codebooks, codebook_size=codec.codebook_size
        )
        self.coarse, self.fine = (SimpleNamespace(config=part.config) for part in (model.coarse, model.fine))
        self.name, self.device, self.precision, self.sampling = model.name, Device(), model.precision, model.sampling
        self._codec_id = model.codec_id
        named = model.coarse.named_parameters()  # of which the distilled ones are asked in place of the others
        self._size = sum(p.numel() for name, p in named if not name.startswith(distilled.PREFIX)) / PAPER_PARAMETERS

    @property
    def codec_id(self) -> str:
        """As `VampNet.codec_id`, which would need the weights."""
        return self._codec_id

    encode, decode, generate = _remote("encode"), _remote("decode"), _remote("generate")
    vamp, listen, render, hear_kept = _remote("vamp"), _remote("listen"), _remote("render"), _remote("hear_kept")

    def _seconds(self, name: str, given: dict[str, Any]) -> int:
        sampling, takes, tokens = None, 1, given.get("tokens", given.get("mask") if name == "hear_kept" else None)
        if name in ("vamp", "generate"):
            sampling = given.get("sampling") or self.sampling
            takes = given.get("takes", 4) if name == "vamp" else len(given.get("seeds", (0,)))
        if tokens is not None:
            return gpu_seconds(self.grid.tokens_to_seconds(tokens.shape[-1]), sampling, takes, self._size)
        return gpu_seconds(seconds_of(given.get("source", given.get("signal"))), sampling, takes, self._size)

    def _call(self, name: str, given: dict[str, Any], on_step: Any, cancelled: Any) -> Any:
        with tempfile.TemporaryDirectory(prefix="vampnet-zero-") as folder:
            wire, done, failed = Wire(Path(folder)), threading.Event(), []
            watcher = threading.Thread(target=_watch, args=(wire, done, on_step, cancelled, failed), daemon=True)
            watcher.start()
            try:
                well, value = pickle.loads(_on_gpu(name, pickle.dumps(((), given)), folder, self._seconds(name, given)))
            except gr.Error as error:  # no GPU to be had, or not so long: the sentence is for the visitor
                raise ValueError(re.sub(r"<[^>]*>", "", str(error.message))) from error
            finally:
                done.set()
                watcher.join()
        if failed:
            raise failed[0]
        if not well:
            raise value
        return value


def _watch(wire: Wire, done: threading.Event, on_step: Any, cancelled: Any, failed: list[BaseException]) -> None:
    """Passes progress on, and "stop" the other way, until the work is done."""
    seen, last = None, False
    while not last:
        last = done.wait(POLL_SECONDS)
        try:
            newest = wire.latest()
            if on_step is not None and newest is not None and newest != seen:
                on_step(*newest)
            seen = newest
            if cancelled is not None and not wire.stopped() and cancelled():
                wire.stop()
        except BaseException as error:  # somebody's callback wants no more: raised where it was given
            failed.append(error)
            wire.stop()
            return
