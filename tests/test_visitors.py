"""Several visitors of one studio: nobody stands behind another's vamp, and who meets short memory is told."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import studio_tools
import torch
from gradio_client import Client, handle_file
from studio_tools import call, run_vamp, short_clip, values
from tiny import tiny_models, tiny_vampnet
from token_models import Held

from vampnet.config import Sampling
from vampnet.gallery import Gallery
from vampnet.pipeline import VampNet
from vampnet.studio import page
from vampnet.studio.session import Session

handlers, known_beats = studio_tools.handlers, studio_tools.known_beats
pytestmark = pytest.mark.usefixtures("one_thread")
SECONDS = 30


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_a_preview_is_heard_while_a_vamp_is_under_way(crowd, handlers, tmp_path):
    sessions = [Session(handlers.files) for _ in range(2)]
    for number, session in enumerate(sessions):
        handlers.choose(session, str(short_clip(tmp_path / f"noise{number}.wav")))
    begun, go = threading.Event(), threading.Event()

    def work(model: VampNet) -> None:
        def on_step(*step: Any) -> None:
            begun.set()
            assert go.wait(SECONDS)

        model.vamp(sessions[0].source.path, sampling=Sampling(steps=3), takes=1, on_step=on_step)

    vamp = crowd.submit(handlers.use_model, work, lambda: False)
    assert begun.wait(SECONDS)
    heard = crowd.submit(handlers.hear, sessions[1], *values()).result(SECONDS)
    other = crowd.submit(run_vamp, handlers, sessions[1]).result(SECONDS)
    assert Path(heard["sound"]).is_file() and "ready" in other[-1][0] and not vamp.done()
    go.set()
    vamp.result(SECONDS)
    for session in sessions:
        session.close()


def test_a_visitor_is_told_where_memory_was_short(handlers, tmp_path, monkeypatch):
    session = Session(handlers.files)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    model, coarse = tiny_vampnet(), Held(tiny_models()[1])
    short = [torch.OutOfMemoryError("CUDA out of memory")]

    def once(tokens: torch.Tensor, where: torch.Tensor, ring: bool = False) -> torch.Tensor:
        # The first take is made alone, and then there are to be two at a time.
        if len(tokens) == 2 and short:
            raise short.pop()
        return coarse.model(tokens, where=where, ring=ring)

    coarse.forward, model.coarse = once, coarse
    monkeypatch.setattr("vampnet.fallback.release", lambda: None)
    monkeypatch.setattr("vampnet.studio.handlers.batch_for", lambda model: 2)
    monkeypatch.setattr(handlers.shelf, "_model", model)
    told = run_vamp(handlers, session, takes=3)
    assert not short and "3 takes are ready. Memory was short" in told[-1][0] and "vs-ready" in told[-1][0]
    session.close()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A studio whose coarse model can be held: its address, the model, a clip, and the number of the event that draws."""
    folder = tmp_path_factory.mktemp("visitors")
    codec, coarse, fine = tiny_models()
    held = Held(coarse)
    blocks, options = page.build(VampNet(codec, held, fine, "held"), folder / "none", gallery=Gallery(folder / "gallery"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, address, _ = blocks.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **options)
    numbers = {getattr(fn.fn, "__name__", ""): number for number, fn in blocks.fns.items()}
    draw, opened = numbers["draw"], numbers["open_page"]
    yield SimpleNamespace(
        address=address, held=held, clip=short_clip(folder / "clip.wav"), draw=draw, opened=opened, folder=folder
    )
    held.go.set()
    blocks.close(verbose=False)


def test_a_held_vamp_holds_up_nobody_else(studio):
    first = Client(studio.address, verbose=False, download_files=studio.folder / "downloads")
    plain = [None, *values(periodic=5)]

    def ask_for(data: list[Any], number: int) -> Any:
        told = {"data": data, "fn_index": number, "session_hash": "visitor"}
        return httpx.post(f"{studio.address}gradio_api/run/predict", json=told).json()["data"][0]

    def draw() -> dict[str, Any]:
        return ask_for(plain, studio.draw)

    # A page that goes on after its session has ended, as when the studio was started anew, is told so.
    assert "has ended" in draw()["problem"]
    ask_for([None, ""], studio.opened)
    draw()  # what is slow the first time is not what is measured
    studio.held.armed.set()
    job = first.submit(handle_file(studio.clip), takes=1, steps=4, api_name="/vamp")
    assert studio.held.waits.wait(SECONDS)
    times = {}
    for name, ask in {
        "page": lambda: httpx.get(studio.address),
        "preview": draw,
        "mask": lambda: call(studio.address, "mask", [None, 2.0]),
        "shared": lambda: httpx.get(f"{studio.address}v/nothing-here"),
    }.items():
        start = time.monotonic()
        answer = ask()
        times[name] = time.monotonic() - start
        assert name != "preview" or "Keeps" in str(answer["sentence"] if "sentence" in answer else answer)
        assert name != "page" or answer.status_code == 200
    assert max(times.values()) < 1, times
    assert not job.done()
    studio.held.armed.clear()
    studio.held.go.set()
    takes, _ = job.result(SECONDS)
    assert len(takes) == 1
