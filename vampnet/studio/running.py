"""Work with the model for a program: in a thread of its own, so that it can be watched and stopped."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from vampnet.pipeline import VampNet
from vampnet.progress import told_by
from vampnet.studio.handlers import Handlers

AGAIN_SECONDS = 1.0
"""After so long the same is said once more."""

log = logging.getLogger(__name__)


class Running:
    """Work with the model in a thread of its own; iterating gives how far it is, and ends with the work.

    Args:
        handlers: whose model it is, used in turns with others.
        work: called with the model, `on_step` and `stopped`.
    """

    def __init__(self, handlers: Handlers, work: Callable[..., Any]) -> None:
        self.handlers, self.work = handlers, work
        self.outcome: Future[Any] = Future()
        self._stop, self._steps = threading.Event(), queue.SimpleQueue()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # With the visitor's context: who pays for a GPU is found in it.
        worker = threading.Thread(target=contextvars.copy_context().run, args=(self._run,), daemon=True, name="program")
        worker.start()
        try:
            newest, told = None, time.monotonic()
            while worker.is_alive():
                worker.join(0.05)
                fresh = not self._steps.empty()
                while not self._steps.empty():
                    newest = self._steps.get()
                # Gradio can only let go where something is given: whoever cancels must not wait for a long step's end.
                if newest is not None and (fresh or time.monotonic() - told > AGAIN_SECONDS):
                    told = time.monotonic()
                    yield dict(zip(("stage", "step", "of"), newest, strict=True))
        finally:
            # Also reached when the visitor has left and Gradio lets go of this generator.
            self._stop.set()

    def stop(self) -> None:
        """Ends the work before its next step."""
        self._stop.set()

    def _run(self) -> None:
        stopped = self._stop.is_set

        def work(model: VampNet) -> Any:
            return self.work(model, lambda *step: self._steps.put(step), stopped)

        try:
            with told_by(lambda kind: self._steps.put((f"memory.{kind}", 0, 0))):
                self.outcome.set_result(self.handlers.use_model(work, stopped, lambda: self._steps.put(("model", 0, 0))))
        except BaseException as error:  # for whoever waits; without the frames, which hold on to the model
            log.debug("A program's work failed", exc_info=error)
            self.outcome.set_exception(error.with_traceback(None))
