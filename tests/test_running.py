"""A program's work is let go of while a step takes long."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

from vampnet.studio import running
from vampnet.studio.running import Running


def test_how_far_it_is_is_said_again_in_a_long_step(monkeypatch):
    """Gradio ends a generator only where it gives something."""
    monkeypatch.setattr(running, "AGAIN_SECONDS", 0.1)
    ended = threading.Event()

    def work(model, on_step, stopped):
        on_step("coarse", 3, 12)
        while not stopped():
            time.sleep(0.01)
        ended.set()

    handlers = SimpleNamespace(use_model=lambda work, stopped, on_wait: work(None))
    steps = iter(Running(handlers, work))
    told = [next(steps) for _ in range(3)]
    assert told == [{"stage": "coarse", "step": 3, "of": 12}] * 3
    steps.close()
    assert ended.wait(5)
