"""Work with the model for one visitor: in a thread of its own, so that progress is shown meanwhile and Stop is heard."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from vampnet.config import CancelledError
from vampnet.fallback import MemoryShortage
from vampnet.progress import Shortage, told_by
from vampnet.studio.notices import notice, progress
from vampnet.studio.session import Session
from vampnet.studio.text import say, tell

if TYPE_CHECKING:
    from vampnet.pipeline import Cancelled, OnStep, VampNet
    from vampnet.studio.handlers import Handlers

Do = Callable[["VampNet", "OnStep", "Cancelled"], Any]
"""What is to be done: with the model, a function that is told of progress, and one that says whether to stop."""

GRACE_SECONDS = 60.0
"""So long what nobody watches goes on: a page that is loaded anew, or whose line broke, is back by then."""

log = logging.getLogger(__name__)


class Work:
    """One piece of work of a visitor whose `session.request` is set already; `watch` does it.

    Args:
        handlers: of the page: their model, in turns with other visitors.
        session: the visitor's.
        do: the work.
        ended: called at the end, in the thread of the work, whether it went well or not and also if the visitor has left:
            `ended(went_well)`.
        words: before the words of the progress line, such as "Round 3".
        prepare: done before, told of progress, and without the model: others can use it meanwhile.
        done: the sentence that it went well. With one, the page may come back to it: it is the session's `work` meanwhile.
    """

    def __init__(
        self, handlers: Handlers, session: Session, do: Do, ended: Callable[[bool], None], words: str = "",
        prepare: Callable[[OnStep], Any] = lambda on_step: None, done: str = "",
    ) -> None:  # fmt: skip
        self._handlers, self._session, self._do, self._ended = handlers, session, do, ended
        self._prepare = prepare
        self._words = f"{words} · " if words else ""
        self._steps: queue.Queue[tuple[str, int, int]] = queue.Queue()
        self._outcome: Future[Any] = Future()
        self._short, self._done, self._line = "", done, ""
        self._worker: threading.Thread | None = None
        self._watchers, self._counting = 0, threading.Lock()

    def watch(self) -> Iterator[str]:
        """Does the work, or looks on where it is done already; lines of progress, as HTML, until it is over.

        If the visitor leaves meanwhile it is stopped: at once, or, where the page may come back to it, if it does not.
        """
        worker = self._begun()
        try:
            stopping = False
            if self._line:
                yield self._line
            while worker.is_alive():
                worker.join(0.05)
                line = latest(self._steps, self._session.language)
                if self._session.stop.is_set() and not stopping:
                    stopping = True
                    yield progress(say("work.stopping", self._session.language))
                elif line is not None and not stopping:
                    self._line = progress(self._words + line[0], *line[1:])
                    yield self._line
        finally:
            with self._counting:
                self._watchers -= 1
            if self._done and worker.is_alive():
                timer = threading.Timer(GRACE_SECONDS, self._stop_unwatched)
                timer.daemon = True
                timer.start()
            else:
                self._stop_unwatched()

    def _begun(self) -> threading.Thread:
        """The thread that does it, which somebody watches from now on."""
        with self._counting:
            self._watchers += 1
            if self._worker is None:
                self._session.running = True
                self._session.work = self if self._done else None
                # With the visitor's context: who pays for a GPU is found in it.
                run = contextvars.copy_context().run
                self._worker = threading.Thread(target=run, args=(self._run,), daemon=True, name="studio-work")
                self._worker.start()
            return self._worker

    def _stop_unwatched(self) -> None:
        with self._counting:
            if not self._watchers and self._worker is not None and self._worker.is_alive():
                self._session.stop.set()

    def last_word(self) -> str:
        """The line that stands there in the end, as HTML. Only after `watch` has ended."""
        return self.problem() or notice(f"{self._done} {self.aside}".strip(), "ready")

    @property
    def stopped(self) -> bool:
        """Whether Stop has ended it. Only after `watch` has ended."""
        return isinstance(self._outcome.exception(), CancelledError)

    def problem(self) -> str:
        """The sentence why it did not go well, as HTML; "" if it did. Only after `watch` has ended."""
        error = self._outcome.exception()
        if error is None:
            return ""
        if isinstance(error, CancelledError):
            return notice(say("work.stopped", self._session.language), "ready")
        if isinstance(error, MemoryShortage):
            return notice(say("work.memory.none", self._session.language), "error")
        if isinstance(error, ValueError):
            return notice(tell(error, self._session.language), "error")
        log.error("Work failed", exc_info=error)
        return notice(say("work.failed", self._session.language, error=f"{type(error).__name__}: {error}"), "error")

    @property
    def aside(self) -> str:
        """A sentence for behind the one that it went well: how it went on where memory was short; "" if it was not."""
        return say(f"work.memory.{self._short}.done", self._session.language) if self._short else ""

    def _run(self) -> None:
        session, well = self._session, False

        def on_step(*step: Any) -> None:
            self._steps.put(step)

        def on_shortage(kind: Shortage) -> None:
            self._short = kind if self._short != "cpu" else self._short
            on_step(f"memory.{kind}", 0, 0)

        try:
            self._prepare(on_step)
            with told_by(on_shortage):
                found = self._handlers.use_model(
                    lambda model: self._do(model, on_step, session.stop.is_set), session.stop.is_set,
                    lambda: on_step("model", 0, 0),
                )  # fmt: skip
            self._outcome.set_result(found)
            well = True
        except (CancelledError, ValueError) as error:
            # Without the frames that it came through: they hold on to the model.
            self._outcome.set_exception(error.with_traceback(None))
        except BaseException as error:  # it is shown on the page
            self._outcome.set_exception(error)
        finally:
            session.running, session.work = False, None
            self._ended(well)
            session.clear_if_closed()


def latest(steps: queue.Queue[tuple[str, int, int]], language: str) -> tuple[str, int, int] | None:
    """What the newest of the waiting reports says: (words, steps done, of how many); None if there is none."""
    newest = None
    while not steps.empty():
        newest = steps.get()
    if newest is None:
        return None
    stage, done, of = newest
    words = say(f"work.{stage}", language)
    if stage.startswith(("model", "memory")):
        return f"{words} …", 0, 0
    return (say("work.count", language, words=words, done=done, of=of) if of > 1 else f"{words} …"), done, of
