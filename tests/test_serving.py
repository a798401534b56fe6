"""Several requests at one model: turns, calls that become one, and visitors who do not stand behind each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import studio_tools
import torch
from studio_tools import Part
from tiny import tiny_models, tiny_vampnet
from token_models import Held, LocalModel

from vampnet import decoding, serving
from vampnet.config import CancelledError, Prompt, Sampling
from vampnet.pipeline import VampNet
from vampnet.progress import told_by
from vampnet.serving import Turns, batch_for

handlers, known_beats = studio_tools.handlers, studio_tools.known_beats
pytestmark = pytest.mark.usefixtures("one_thread")
SECONDS = 30
LONG = 5.0
"""A patience that no call ever has to make full use of."""


class Counting(LocalModel):
    """A `LocalModel` with memory for `most` items at a time, which calls `gate` before its first call."""

    most = 99
    gate: Callable[[], None] | None = None

    def forward(self, tokens, where=None, ring=False):
        gate, self.gate = self.gate, None
        if gate is not None:
            gate()
        if len(tokens) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(tokens, where, ring)

    @property
    def sizes(self) -> list[int]:
        return [len(tokens) for tokens in self.seen]


@pytest.fixture
def vn() -> VampNet:
    """Models that record their calls, whose logits do not depend on what else is in a batch."""
    return VampNet(Part(), Counting(), Counting(14, 4, seed=1), name="local")


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def tokens_of(steps: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (1, 14, steps) and a mask that keeps every fifth step."""
    tokens = torch.randint(0, 700, (1, 14, steps), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(1, 14, steps, dtype=torch.bool)
    mask[..., ::5] = False
    return tokens, mask


REQUESTS: list[dict[str, Any]] = [
    {"steps": 20, "sampling": Sampling(steps=4, fine_steps=2, guidance=0.0), "seeds": [(7, 0), (7, 1)], "batch": 2},
    {"steps": 20, "sampling": Sampling(steps=9, fine_steps=3, temperature=0.7, top_p=0.9, guidance=0.0), "seeds": [(8, 3)]},
    {"steps": 20, "sampling": Sampling(steps=6, fine_steps=2, guidance=0.0), "seeds": [(7, 0)]},
    {"steps": 33, "sampling": Sampling(steps=5, fine_steps=2, guidance=0.0), "seeds": [(1, 0)]},
    {"steps": 20, "sampling": Sampling(steps=3, fine_steps=2, guidance=0.7), "seeds": [(7, 2)]},
]


def make(model: VampNet, request: dict[str, Any], **more: Any) -> torch.Tensor:
    rest = {name: value for name, value in request.items() if name != "steps"}
    return model.generate(*tokens_of(request["steps"]), **rest, **more)


def all_at_once(crowd: ThreadPoolExecutor, turns: Turns, vn: VampNet, requests: list[dict[str, Any]]) -> list[torch.Tensor]:
    """What requests get that begin together: the first call ends when all have asked for theirs."""

    def all_have_come() -> bool:
        guests = turns._guests
        return len(guests) == len(requests) and (
            len(turns._waiting) == len(requests) - 1 or all(guest.key is not None for guest in guests)
        )

    vn.coarse.gate = lambda: until(all_have_come)

    def one(request: dict[str, Any]) -> torch.Tensor:
        with turns.join(vn) as view:
            return make(view, request)

    return [job.result(SECONDS) for job in [crowd.submit(one, request) for request in requests]]


# ------------------------------------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize("together", [True, False])
def test_everybody_gets_what_they_would_get_alone(crowd, vn, together):
    alone = [make(vn, request) for request in REQUESTS]
    vn.coarse.seen.clear()
    found = all_at_once(crowd, Turns(together=together), vn, REQUESTS)
    assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))
    assert together or max(vn.coarse.sizes) == 2


def test_calls_that_fit_become_one(crowd, vn):
    all_at_once(crowd, Turns(together=True, patience=LONG), vn, REQUESTS[:3])
    # Apart it would be 4 + 9 + 6 calls; the first two to come may go without the others. Two takes are one in their first step.
    assert max(vn.coarse.sizes) == 4 and sum(vn.coarse.sizes) == 2 * 4 - 1 + 9 + 6 and len(vn.coarse.sizes) <= 9 + 2
    assert sum(vn.fine.sizes) == 2 * 2 + 3 + 2


def test_another_length_is_another_call(crowd, vn):
    all_at_once(crowd, Turns(together=True, patience=LONG), vn, [REQUESTS[2], REQUESTS[3]])
    assert set(vn.coarse.sizes) == {1} and len(vn.coarse.sizes) == 6 + 5


def test_no_call_has_more_items_than_are_allowed(crowd, vn):
    all_at_once(crowd, Turns(most=3, together=True, patience=LONG), vn, REQUESTS[:3])
    assert max(vn.coarse.sizes) == 3


def test_what_does_not_fit_into_memory_together_is_computed_apart(crowd, vn):
    alone = [make(vn, request) for request in REQUESTS[:3]]
    vn.coarse.seen.clear()
    vn.coarse.most = 2
    turns, told = Turns(together=True, patience=LONG), []
    with told_by(told.append):
        found = all_at_once(crowd, turns, vn, REQUESTS[:3])
    assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))
    assert turns.most <= 2 and max(vn.coarse.sizes) == 2 and told == []


def test_an_error_is_that_of_who_caused_it(crowd):
    turns, begin = Turns(together=True, patience=LONG), threading.Barrier(2)

    class Picky(LocalModel):
        def forward(self, tokens, where=None, ring=False):
            if (tokens == 666).any():
                raise RuntimeError("These tokens do not suit me.")
            return super().forward(tokens, where, ring)

    model = VampNet(Part(), Picky(), LocalModel(14, 4))

    def one(token: int) -> torch.Tensor:
        with turns.join(model) as view:
            begin.wait(SECONDS)
            return view.coarse(torch.full((1, 4, 9), token), where=torch.ones(1, 4, 9, dtype=torch.bool))

    good, bad = crowd.submit(one, 5), crowd.submit(one, 666)
    assert good.result(SECONDS).shape == (36, 1024)
    with pytest.raises(RuntimeError, match="do not suit me"):
        bad.result(SECONDS)


def test_one_who_stops_leaves_the_others_as_they_are(crowd, vn):
    wanted = make(vn, REQUESTS[1])
    turns, begin = Turns(together=True, patience=LONG), threading.Barrier(2)
    steps: list[tuple[str, int, int]] = []

    def stopping() -> None:
        with turns.join(vn) as view:
            begin.wait(SECONDS)
            make(view, REQUESTS[0], on_step=lambda *step: steps.append(step), cancelled=lambda: len(steps) >= 2)

    def staying() -> torch.Tensor:
        with turns.join(vn) as view:
            begin.wait(SECONDS)
            return make(view, REQUESTS[1])

    stopped, stayed = crowd.submit(stopping), crowd.submit(staying)
    assert torch.equal(stayed.result(SECONDS), wanted)
    with pytest.raises(CancelledError, match="after 2 of 4 steps"):
        stopped.result(SECONDS)
    assert steps == [("coarse", 1, 4), ("coarse", 2, 4)]


def test_a_whole_vamp_goes_through_it():
    model, clip = tiny_vampnet(), (44_100, 0.1 * torch.randn(22_050, 2).numpy())
    quick = Sampling(steps=2, fine_steps=1, guidance=0.0)
    wanted = model.vamp(clip, Prompt(), quick, 2, 5, loop=True, extend=(0, 0.2))
    found = Turns().serve(model, lambda view: view.vamp(clip, Prompt(), quick, 2, 5, loop=True, extend=(0, 0.2)))
    assert torch.equal(found.tokens, wanted.tokens)
    assert all(torch.equal(a.audio_data, b.audio_data) for a, b in zip(found.takes, wanted.takes, strict=True))
    assert Turns().serve(model, lambda view: (view.codec_id, view.grid, view.name)) == (model.codec_id, model.grid, "tiny")
    assert model.coarse is tiny_models()[1]


@pytest.mark.parametrize("company", [0, 1])
def test_who_is_alone_on_a_gpu_takes_whole_steps(company, monkeypatch):
    """The CPU is taken for a device that answers late; a guest that asks for nothing is company."""
    monkeypatch.setattr(decoding, "answers_late", lambda device: True)
    model, turns = tiny_vampnet(), Turns(together=True)
    calls = []
    taken = turns.take
    monkeypatch.setattr(turns, "take", lambda call: calls.append(len(call.given)) or taken(call))
    request = {"steps": 20, "sampling": Sampling(steps=4, fine_steps=2, guidance=0.0), "seeds": [(7, 0), (7, 1)], "batch": 2}
    wanted = make(model, request)
    with ExitStack() as guests:
        for _ in range(company):
            guests.enter_context(turns.join(model))
        view = guests.enter_context(turns.join(model))
        assert torch.equal(make(view, request), wanted)
    # What is recalled, and the steps of both stages: alone with one more turn each, in which the step is made ready.
    assert calls == [0] + [2] * 6 if company else calls == [0] * (1 + 5 + 3)


def test_a_view_falls_back_to_a_copy_of_the_model_and_not_of_the_view(vn):
    with Turns().join(vn) as view:
        copied = view.coarse.on_cpu()
    assert isinstance(copied, Counting) and copied is not vn.coarse and torch.equal(copied.head, vn.coarse.head)


def test_takes_are_computed_one_by_one_on_a_cpu_only():
    assert batch_for(tiny_vampnet()) == 1
    for device, precision, items in (("cpu", "int8", 4), ("cpu", "bfloat16", 1), ("cuda", "bfloat16", serving.MOST_ITEMS)):
        assert batch_for(SimpleNamespace(device=torch.device(device), precision=precision)) == items


# ------------------------------------------------------------------------------------------------------------------- turns


def test_a_short_request_does_not_wait_for_the_end_of_a_long_one(crowd, vn):
    turns, under_way = Turns(quantum=0.02), threading.Event()
    long_steps: list[int] = []

    def long() -> None:
        def on_step(stage: str, step: int, of: int) -> None:
            long_steps.append(step)
            under_way.set()

        turns.serve(
            vn, lambda view: make(view, {**REQUESTS[3], "sampling": Sampling(steps=400, guidance=0.0)}, on_step=on_step)
        )

    def short() -> int:
        assert under_way.wait(SECONDS)
        turns.serve(vn, lambda view: make(view, REQUESTS[2]))
        return len(long_steps)

    running, done = crowd.submit(long), crowd.submit(short)
    assert done.result(SECONDS) < 200
    running.result(SECONDS)


def test_short_requests_come_one_after_the_other(crowd, vn):
    all_at_once(crowd, Turns(grace=LONG), vn, [{**REQUESTS[3], "steps": steps} for steps in (31, 32, 33)])
    lengths = [tokens.shape[-1] for tokens in vn.coarse.seen]
    changes = sum(length != before for length, before in zip(lengths, lengths[1:], strict=False))
    # Taking turns at every step it would be 14; but the first call of one may come before its elder's.
    assert len(lengths) == 3 * 5 and changes <= 2 + 2


def test_what_is_urgent_is_next(crowd, vn):
    turns, held = Turns(), Held(vn.coarse)
    held.armed.set()

    def one(number: int, model: VampNet, urgent: bool) -> None:
        given = torch.full((1, 4, 9), number), torch.ones(1, 4, 9, dtype=torch.bool)
        turns.serve(model, lambda view: view.coarse(*given), urgent)

    jobs = [crowd.submit(one, 0, VampNet(Part(), held, vn.fine), False)]
    assert held.waits.wait(SECONDS)
    for number, urgent in ((1, False), (2, False), (3, True)):
        jobs.append(crowd.submit(one, number, vn, urgent))
        until(lambda number=number: len(turns._waiting) == number)
    held.go.set()
    for job in jobs:
        job.result(SECONDS)
    assert [int(tokens[0, 0, 0]) for tokens in vn.coarse.seen] == [0, 3, 1, 2]


def test_who_stops_while_waiting_waits_no_longer(crowd, vn):
    turns, held, stop = Turns(), Held(vn.coarse), threading.Event()
    held.armed.set()
    running = crowd.submit(turns.serve, VampNet(Part(), held, vn.fine), lambda view: make(view, REQUESTS[2]))
    assert held.waits.wait(SECONDS)
    waiting = crowd.submit(turns.serve, vn, lambda view: make(view, REQUESTS[2]), False, stop.is_set)
    until(lambda: len(turns._waiting) == 1)
    stop.set()
    with pytest.raises(CancelledError, match="waited for its turn"):
        waiting.result(SECONDS)
    assert not running.done() and turns._waiting == []
    held.go.set()
    running.result(SECONDS)
    assert turns._guests == []


def test_what_is_computed_elsewhere_is_one_at_a_time_and_can_be_stopped(crowd):
    turns, go, begun = Turns(), threading.Event(), threading.Event()
    model = SimpleNamespace(elsewhere=True)
    running = crowd.submit(turns.serve, model, lambda same: begun.set() or go.wait(SECONDS) and same)
    assert begun.wait(SECONDS)
    with pytest.raises(CancelledError, match="waited for its turn"):
        turns.serve(model, lambda same: same, stopped=lambda: True)
    go.set()
    assert running.result(SECONDS) is model and turns.serve(model, lambda same: same) is model


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)
