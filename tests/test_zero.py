"""ZeroGPU, with a stand-in for the package `spaces` that forks and pickles as the real one does."""

from __future__ import annotations

import contextvars
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import gradio as gr
import pytest
import torch
from conftest import synthesise_music
from studio_tools import known_beats, values  # noqa: F401
from tiny import tiny_vampnet

from vampnet import audio, tokens_file
from vampnet.config import SAMPLE_RATE, CancelledError, Prompt, Sampling
from vampnet.studio import zero
from vampnet.studio.handlers import Handlers
from vampnet.studio.session import Session, read_source

PAYER = contextvars.ContextVar("payer", default="nobody")
QUICK = Sampling(steps=2, fine_steps=1)
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.skipif(sys.platform == "win32", reason="ZeroGPU forks")]


class Spaces(ModuleType):
    """`GPU` runs a call in a forked process, in a thread of it, and everything goes there and back by pickle.

    Attributes:
        calls: (name of the method, seconds asked for, who pays) of each.
        refusal: raised instead of a call.
    """

    def __init__(self) -> None:
        super().__init__("spaces")
        self.calls: list[tuple[str, int, str]] = []
        self.refusal: Exception | None = None

    def GPU(self, task: Callable[..., Any], *, duration: Callable[..., int]) -> Callable[..., Any]:  # noqa: N802
        def call(*args: Any) -> Any:
            self.calls.append((args[0], duration(*args), PAYER.get()))
            if self.refusal is not None:
                raise self.refusal
            fork = multiprocessing.get_context("fork")
            here, there = fork.Pipe(duplex=False)
            worker = fork.Process(target=run, args=(task, args, there))
            worker.start()
            there.close()
            try:
                well, value = here.recv()
            finally:
                worker.join()
            if not well:
                raise gr.Error(f"ZeroGPU worker error: {value}")
            return value

        def run(task: Callable[..., Any], args: tuple[Any, ...], there: Any) -> None:
            try:
                with ThreadPoolExecutor(1) as pool:
                    there.send((True, pool.submit(task, *args).result()))
            except Exception as error:
                there.send((False, type(error).__name__))

        return call


@pytest.fixture
def spaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spaces]:
    stand_in = Spaces()
    monkeypatch.setitem(sys.modules, "spaces", stand_in)
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: name == "spaces")
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    yield stand_in
    monkeypatch.setattr(zero, "_model", None)
    monkeypatch.setattr(zero, "_on_gpu", None)


@pytest.fixture
def shelf(spaces: Spaces) -> Any:
    return zero.shelf("tiny", lambda name, device: tiny_vampnet(name))


@pytest.fixture
def clip() -> Any:
    return audio.make_signal(torch.from_numpy(synthesise_music(1.0))[None], SAMPLE_RATE)


def test_it_is_used_only_on_zero_gpu_and_with_the_package(monkeypatch):
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    assert not zero.active()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert zero.active()
    monkeypatch.setattr(zero.importlib.util, "find_spec", lambda name: None)
    assert not zero.active()


def test_every_step_gives_what_it_gives_here(shelf, spaces, clip):
    here = tiny_vampnet()

    def both(work: Callable[[Any], Any]) -> tuple[Any, Any]:
        return work(here), shelf.use(work)

    steps: list[tuple[str, int, int]] = []
    plain, lent = both(lambda model: model.vamp(clip, Prompt(), QUICK, 2, 5, loop=True, on_step=lambda *s: steps.append(s)))
    assert torch.equal(plain.tokens, lent.tokens) and torch.equal(plain.mask, lent.mask)
    for ours, theirs in zip(plain.takes, lent.takes, strict=True):
        assert torch.equal(ours.audio_data, theirs.audio_data)
    assert lent.settings() == plain.settings()
    assert steps[-1] == ("decode", 2, 2)
    plain, lent = both(lambda model: model.encode(clip))
    assert torch.equal(plain, lent)
    plain, lent = both(lambda model: model.render(model.listen(clip), model.encode(clip)).audio_data)
    assert torch.equal(plain, lent)
    mask = here.mask(plain_tokens := here.encode(clip), Prompt())
    plain, lent = both(lambda model: model.generate(plain_tokens, mask, QUICK, [1, (2, 3)]))
    assert torch.equal(plain, lent)
    plain, lent = both(lambda model: tokens_file.expand(model, tokens_file.compress(model, clip)).audio_data)
    assert torch.equal(plain, lent)
    assert {name for name, _, _ in spaces.calls} == {"vamp", "encode", "render", "listen", "generate", "decode"}


def test_the_page_works_with_it_and_the_visitor_pays(shelf, spaces, tmp_path):
    handlers = Handlers(shelf, tmp_path)
    assert shelf.title == "tiny on ZeroGPU" and shelf.loaded
    session = Session(handlers.files)
    session.source = read_source(session, (SAMPLE_RATE, synthesise_music(0.5).T))
    PAYER.set("a visitor")
    handlers.begin(session, *values(takes=1))
    told = list(handlers.vamp(session))
    PAYER.set("nobody")
    assert "vs-ready" in told[-1][0] and len(session.vamps) == 1
    assert [(name, payer) for name, _, payer in spaces.calls] == [("vamp", "a visitor")]
    session.close()


def test_stopping_reaches_the_other_process(shelf, clip):
    def cancelled() -> bool:
        return time.monotonic() - start > 0.3

    start = time.monotonic()
    with pytest.raises(CancelledError, match="Stopped in the coarse stage"):
        shelf.use(lambda model: model.vamp(clip, sampling=Sampling(steps=5000), takes=1, cancelled=cancelled))
    assert time.monotonic() - start < 20


def test_sentences_come_through_and_refusals_are_sentences(shelf, spaces, clip):
    with pytest.raises(ValueError, match="The region starts at 9 s"):
        shelf.use(lambda model: model.vamp(clip, Prompt(region=(9, 10)), QUICK))
    spaces.refusal = gr.Error('You have exceeded your quota. <a href="x">Sign up</a>')
    with pytest.raises(ValueError, match="^You have exceeded your quota. Sign up$"):
        shelf.use(lambda model: model.encode(clip))


def test_the_time_asked_for_follows_the_request(shelf, spaces, clip):
    few, many = zero.gpu_seconds(10, Sampling(steps=12), 1), zero.gpu_seconds(10, Sampling(steps=36), 8)
    assert zero.LEAST_SECONDS < few < many < zero.MOST_SECONDS
    assert zero.gpu_seconds(600, Sampling(steps=36), 8) == zero.MOST_SECONDS
    assert zero.gpu_seconds(30, None, 1) < zero.gpu_seconds(30, Sampling(), 1) < zero.gpu_seconds(60, Sampling(), 1)
    assert zero.gpu_seconds(30, Sampling(), 1) < zero.gpu_seconds(30, Sampling(feedback=4), 1)
    shelf.use(lambda model: model.encode(clip))
    assert spaces.calls[-1][1] == zero.gpu_seconds(1.0, None, 1, 0)

    def asked(model):
        model._size, model.sampling = 1.0, Sampling(steps=72)  # of its own
        return model._seconds("generate", {"tokens": torch.zeros(1, 14, 1723, dtype=torch.int64)})

    assert shelf.use(asked) == zero.gpu_seconds(1723 * 768 / 44_100, Sampling(steps=72), 1)
