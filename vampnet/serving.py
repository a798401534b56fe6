"""One model for several requests at once: they take turns, and calls of a transformer that fit together become one.

Every request runs in a thread of its own with a view of the model (`Turns.join`) that does nothing but ask for a turn before it
computes. A turn is one call of the codec or of a transformer, so a step of decoding; progress, stopping and sampling remain
each request's own. Who came first is next until it has had some seconds (`QUANTUM`), then it is the next one's turn to have as
many: short requests come one after the other, which is sooner for all of them than all at once, and none is kept waiting by a
long one. Previews go before all others.

On a GPU, calls of one transformer over equally many time steps are put together into one batch, whatever the requests' steps,
seeds and options: all of these live outside the call. Every item draws from its own random numbers, so its tokens depend on its
(seed, take) alone, up to the rounding of a larger batch. Who is alone there takes whole steps instead (`device_steps`). On a
CPU a batch gains nothing, and the calls stay apart: there an item's tokens are exactly what they are without company.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from vampnet.config import CancelledError
from vampnet.device import is_shortage
from vampnet.fallback import on_cpu, release
from vampnet.guidance import weaker
from vampnet.model.fast import GPU_ITEMS, items_at_a_time

if TYPE_CHECKING:
    from vampnet.balance import Balance
    from vampnet.pipeline import VampNet

MOST_ITEMS = GPU_ITEMS
"""Items of a call of a transformer, of all requests together."""
PATIENCE = 0.004
"""Seconds that a call waits for those of others that are about to come: some of what they need between two steps on a GPU."""
QUANTUM = 5.0
"""Seconds of computing that a request has before others of its kind: most are done by then."""
GRACE = 0.1
"""Seconds that others wait on a CPU for one whose turn it still is, while it draws between two steps: two at once on the same
cores would only be in each other's way."""
POLL_SECONDS = 0.05

Result = TypeVar("Result")


def batch_for(model: VampNet) -> int:
    """Takes that one request computes at a time."""
    # A device elsewhere is none of torch's.
    return items_at_a_time(model.precision) if model.device.type == "cpu" else GPU_ITEMS


@dataclass(eq=False)
class _Guest:
    """A request.

    Attributes:
        number: counts the requests.
        urgent: it goes before all that are not.
        together: whether its calls are put together with others'.
        stopped: whether it no longer wants its turn.
        used: seconds of computing that it has had; one that comes later begins with no less than the others.
        last: when it had its last turn (of `time.monotonic`).
        key: what its last call can be put together with; None = with nothing.
    """

    number: int
    urgent: bool
    together: bool
    stopped: Callable[[], bool]
    used: float
    last: float = -math.inf
    key: tuple[int, int] | None = None


@dataclass(eq=False)
class _Call:
    """What a guest waits for: `compute(*given)`. With a key, `given` are the tokens and the mask of a transformer's call."""

    guest: _Guest
    compute: Callable[..., Any]
    given: tuple[Any, ...]
    key: tuple[int, int] | None = None
    outcome: Future[Any] = field(default_factory=Future)

    @property
    def items(self) -> int:
        return len(self.given[0])

    def run(self) -> None:
        try:
            self.outcome.set_result(self.compute(*self.given))
        except BaseException as error:  # it belongs to who waits for it
            self.outcome.set_exception(error)


class Turns:
    """Whose turn it is to compute. There is one for each device; it holds no model.

    Args:
        most: items that are put into one call.
        patience, quantum, grace: seconds, see `PATIENCE`, `QUANTUM` and `GRACE`.
        together: whether calls are put together; None = unless the model is on a CPU.
    """

    def __init__(
        self, most: int = MOST_ITEMS, patience: float = PATIENCE, quantum: float = QUANTUM, grace: float = GRACE,
        together: bool | None = None,
    ) -> None:  # fmt: skip
        self.most, self.together = most, together
        self.patience, self.quantum, self.grace = patience, quantum, grace
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._guests: list[_Guest] = []
        self._waiting: list[_Call] = []
        self._busy = False
        self._elsewhere = threading.Lock()

    def serve(
        self, model: VampNet, work: Callable[[VampNet], Result], urgent: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Result:  # fmt: skip
        """`work(view of model)`, see `join`; with a model that says that it computes `elsewhere`, one at a time.

        Raises:
            CancelledError: `stopped()` was True while it waited.
        """
        if not getattr(model, "elsewhere", False):
            with self.join(model, urgent, stopped) as view:
                return work(view)
        while not self._elsewhere.acquire(timeout=POLL_SECONDS):
            _check(stopped)
        try:
            return work(model)
        finally:
            self._elsewhere.release()

    @contextmanager
    def join(self, model: VampNet, urgent: bool = False, stopped: Callable[[], bool] = lambda: False) -> Iterator[VampNet]:
        """A view of `model` that takes its turn with the other requests'; for one thread.

        Args:
            urgent: for what is short and waited for: it goes before all that are not.
            stopped: asked while it waits for its turn, which then ends with a CancelledError.
        """
        together = model.device.type != "cpu" if self.together is None else self.together
        with self._changed:
            least = min((other.used for other in self._guests), default=0.0)
            guest = _Guest(next(self._numbers), urgent, together, stopped, least)
            self._guests.append(guest)
        view = copy.copy(model)
        view.codec = _Codec(model.codec, self, guest)
        view.coarse, view.fine = (_Transformer(part, self, guest) for part in (model.coarse, model.fine))
        try:
            yield view
        finally:
            with self._changed:
                self._guests.remove(guest)
                self._changed.notify_all()

    @property
    def guests(self) -> int:
        """Requests that there are now."""
        return len(self._guests)

    def take(self, call: _Call) -> Any:
        """Waits for the guest's turn and computes; somebody else may do it along with theirs."""
        with self._changed:
            self._waiting.append(call)
            call.guest.key = call.key
            self._changed.notify_all()
            while not self._changed.wait_for(lambda: call.outcome.done() or self._next() is call, POLL_SECONDS):
                if call in self._waiting:
                    self._leave(call)
            if call.outcome.done():
                return call.outcome.result()
            self._busy = True
            calls = self._gather(call)
        start = time.monotonic()
        try:
            self._compute(calls)
        finally:
            with self._changed:
                self._busy = False
                end = time.monotonic()
                for one in calls:
                    one.guest.used += (end - start) / len(calls)
                    one.guest.last = end
                self._changed.notify_all()
        return call.outcome.result()

    def _leave(self, call: _Call) -> None:
        """Waits no longer if the guest does not want to. The lock is held."""
        try:
            _check(call.guest.stopped)
        except CancelledError:
            self._waiting.remove(call)
            raise

    def _next(self) -> _Call | None:
        """Whose turn it is now; None while it is that of one who does not wait for it yet. The lock is held."""
        if self._busy or not self._waiting:
            return None
        first = min(self._waiting, key=lambda call: self._rank(call.guest))
        soon = time.monotonic() - self.grace
        between = (guest for guest in self._guests if guest.last > soon and not guest.together)
        return None if any(self._rank(guest) < self._rank(first.guest) for guest in between) else first

    def _rank(self, guest: _Guest) -> tuple[bool, int, int]:
        return not guest.urgent, int(guest.used / self.quantum), guest.number

    def _gather(self, first: _Call) -> list[_Call]:
        """`first` and the calls that are put together with it, which wait no longer. The lock is held."""
        calls = [first]
        if first.key is not None:

            def fitting() -> list[_Call]:
                return [call for call in self._waiting if call.key == first.key]

            # Who has just computed such a call will soon bring the next.
            self._changed.wait_for(
                lambda: len(fitting()) >= sum(guest.key == first.key for guest in self._guests), self.patience
            )
            for call in fitting():
                if call is not first and sum(one.items for one in calls) + call.items <= self.most:
                    calls.append(call)
        for call in calls:
            self._waiting.remove(call)
        return calls

    @torch.no_grad()
    def _compute(self, calls: list[_Call]) -> None:
        """Computes calls of one key at once, and each for itself where that does not go well."""
        if len(calls) > 1:
            try:
                tokens, where = (torch.cat([call.given[i] for call in calls]) for i in (0, 1))
                logits = calls[0].compute(tokens, where)
                parts = logits.split([int(call.given[1].sum()) for call in calls])
            except Exception as error:
                short = is_shortage(error)
            else:
                for call, part in zip(calls, parts, strict=True):
                    call.outcome.set_result(part)
                return
            tokens = where = None
            if short:
                self.most = max(1, sum(call.items for call in calls) // 2)
                release()
        for call in calls:
            call.run()


def _check(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise CancelledError("Stopped while it waited for its turn.")


class _View:
    """Stands in for a part of the model: all that it is asked for is the part's, but what computes waits for its turn."""

    def __init__(self, part: Any, turns: Turns, guest: _Guest) -> None:
        self._part, self._turns, self._guest = part, turns, guest

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._part, name)

    def on_cpu(self) -> Any:
        """A copy of the part on the CPU, which needs no turns; made in one, since nobody may use the part meanwhile."""
        return self._turns.take(_Call(self._guest, lambda: on_cpu(self._part), ()))


class _Codec(_View):
    def encode(self, audio: Tensor, loop: bool = False) -> Tensor:
        return self._turns.take(_Call(self._guest, lambda: self._part.encode(audio, loop=loop), ()))

    def decode(self, codes: Tensor, loop: bool = False, **how: Any) -> Tensor:
        return self._turns.take(_Call(self._guest, lambda: self._part.decode(codes, loop=loop, **how), ()))

    def tonal_balance(self, codes: Tensor, loop: bool = False) -> Balance | None:
        return self._turns.take(_Call(self._guest, lambda: self._part.tonal_balance(codes, loop=loop), ()))


class _Transformer(_View):
    @property
    def alone(self) -> bool:
        """Whether no other request is there at all."""
        return self._turns.guests == 1

    @property
    def part(self) -> Any:
        """The transformer itself."""
        return self._part

    @property
    def weaker(self) -> _Transformer:
        """The view of the transformer that it is guided away from."""
        return _Transformer(weaker(self._part), self._turns, self._guest)

    @property
    def distilled(self) -> _Transformer | None:
        """The view of the transformer that is asked instead of both, where there is one."""
        instead = getattr(self._part, "distilled", None)
        return None if instead is None else _Transformer(instead, self._turns, self._guest)

    def turn(self, work: Callable[[], Result]) -> Result:
        """`work()`, when it is the request's turn."""
        return self._turns.take(_Call(self._guest, work, ()))

    def hidden(self, tokens: Tensor, ring: bool = False) -> Tensor:
        return self._turns.take(_Call(self._guest, lambda: self._part.hidden(tokens, ring), ()))

    def __call__(self, tokens: Tensor, where: Tensor | None = None, ring: bool = False) -> Tensor:
        key = (id(self._part), tokens.shape[-1], ring) if self._guest.together and where is not None else None
        part = self._part
        return self._turns.take(_Call(self._guest, lambda t, w: part(t, where=w, ring=ring), (tokens, where), key))
