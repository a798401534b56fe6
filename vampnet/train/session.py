"""A session of a stage that is set up on the command line: it trains until a budget or a signal ends it, and is then saved."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from typing import Any, Protocol

from vampnet.train.loop import Budget, RunLog, StopRequest

log = logging.getLogger(__name__)


class Settings(Protocol):
    """What a session asks of the settings of a run: its folder, when it ends, and how often what is done (minutes)."""

    run: str
    minutes: float | None
    session_minutes: float | None
    steps: int | None
    save_minutes: float
    valid_minutes: float


class Run(Protocol):
    """A run: `step` counts the finished steps, `elapsed` the seconds of all sessions before this one."""

    step: int
    elapsed: float

    def train_step(self, progress: float) -> dict[str, float]:
        """One step at 0..1 of the whole training; what there is to log of it."""

    def save(self, elapsed: float) -> None:
        """Writes all that the next session needs."""

    def validate(self) -> dict[str, float] | None:
        """What is measured on held-out music; None if there is none."""


def session(run: Run, settings: Settings, start: Mapping[str, Any]) -> dict[str, Any]:
    """Trains until the whole budget or that of this session is used up, or until a signal; always ends saved.

    Args:
        run: as it was resumed.
        settings: of it.
        start: what the log says of the session's beginning.

    Returns:
        {"step", "elapsed", "done", "last", "valid"}: `done` is False if the run is to be gone on with, `last` what the last
        step of this session said ({} without one), `valid` the last measurement of this session or None.
    """
    budget = Budget(settings.minutes, settings.session_minutes, settings.steps, run.elapsed)
    run_log, last, valid = RunLog(settings.run, tensorboard=False), {}, None

    def check() -> dict[str, float] | None:
        if (found := run.validate()) is not None:
            run_log.write(run.step, "valid", found)
            log.info("step %d: %s", run.step, ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        return found

    try:
        run_log.write(run.step, "start", start)
        saved = validated = budget.session
        with StopRequest.listening() as stop:
            while not (budget.done(run.step) or budget.session_over() or stop):
                last = run.train_step(budget.progress(run.step))
                run_log.write(run.step, "train", {**last, "elapsed": budget.elapsed})
                if budget.session - saved >= 60 * settings.save_minutes:
                    run.save(budget.elapsed)
                    saved = budget.session
                if budget.session - validated >= 60 * settings.valid_minutes:
                    valid, validated = check(), budget.session
        run.save(budget.elapsed)
        if budget.done(run.step):
            valid = check()
    finally:
        run_log.close()
    return {"step": run.step, "elapsed": budget.elapsed, "done": budget.done(run.step), "last": last, "valid": valid}


def add_numbers(parser: argparse.ArgumentParser, settings: type, about: Mapping[str, str]) -> None:
    """An option for each of some settings that are numbers, with its default in the help.

    Args:
        parser: gets them.
        settings: the dataclass that has them.
        about: {its attribute: what it is}.
    """
    for name, text in about.items():
        default = getattr(settings, name)
        kind = type(default) if default is not None else int if name == "steps" else float
        shown = text if default is None else f"{text} (default: {default:g})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, metavar="N", help=shown)


COMMON = {
    "minutes": "of training in all, over all sessions",
    "session_minutes": "end this session after so many minutes",
    "steps": "in all",
    "valid_minutes": "between measurements",
    "seed": "of all that is random",
}
"""For `add_numbers`: what every stage has."""
