"""Comping: the best take for each bar, chosen in a grid under the deck; the model remakes only the joins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import torch

from vampnet import metadata
from vampnet.beats import BeatGrid
from vampnet.bundle import read_bundle, read_settings
from vampnet.comping import comp, part_steps, part_times
from vampnet.config import Prompt, Sampling
from vampnet.studio.controls import Request
from vampnet.studio.handlers import Handlers, buttons_of, watched
from vampnet.studio.lanes import MODEL_LANE
from vampnet.studio.notices import notice, progress
from vampnet.studio.players import keep_vamp
from vampnet.studio.session import Session, Source, envelope, shared_origin
from vampnet.studio.text import say
from vampnet.studio.titles import NAMED, comp_title
from vampnet.studio.work import Work
from vampnet.vamp import Vamp

if TYPE_CHECKING:
    from vampnet.pipeline import Cancelled, OnStep, VampNet


ROOM = "comp"


class Comping:
    """Lays itself out where it is made (inside a `gr.Blocks`); `wire` connects it. The script is `web/comp.js`.

    Attributes:
        html: the grid; fires `select` to open it for a vamp (`vamp`, its id; None closes it) and `submit` to make the comp
            (`vamp`, and `choice`: for each part the number of a take, 0 is the source).
    """

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        self.html = gr.HTML(
            None, html_template='<div class="vs-comp"></div>', elem_id="comp", apply_default_css=False,
            js_on_load="VampStudio.comp(element, props, watch, trigger)",
        )  # fmt: skip

    def wire(self, session: gr.State, progress_line: gr.HTML, vamp: gr.Button, stop: gr.Button, takes: gr.HTML) -> None:
        """Connects the parts; `takes` is the deck's."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.html.select(self.open, session, self.html, queue=False, **quiet)
        self.html.submit(self.begin, session, [progress_line, vamp, stop], queue=False, **quiet).then(
            self.make, session, [progress_line, vamp, stop, takes], **MODEL_LANE, **quiet
        )  # fmt: skip

    def open(self, session: Session, event: gr.EventData) -> dict[str, Any] | None:
        """The grid of a vamp for the page: `vamp` (its id), `rows` (numbers of the takes, 0 the source), `times` (seconds, one
        more than there are parts), `kind` ("bars", "beats" or "parts") and `loop`; None closes it."""
        shown = _vamp_of(session, getattr(event, "vamp", None))
        if shown is None:
            return None
        # Beats that are found while it is open change neither what is seen of it nor what is made.
        session.kept["comp_beats"] = shown["id"], _beats_of(shown)
        return self._grid(shown, _beats_of(shown))

    def _grid(self, shown: dict[str, Any], grid: BeatGrid | None) -> dict[str, Any]:
        rate, seconds = shown["settings"]["sample_rate"], shown["seconds"]
        times = part_times(round(seconds * rate), rate, grid)
        kind = "parts" if grid is None else "bars"
        if grid is not None and len(times) > 2 and (times[2] - times[1]) < 0.75 * grid.beats_per_bar * 60 / grid.tempo:
            kind = "beats"
        rows = [0, *(take["number"] for take in shown["takes"])]
        return {
            "vamp": shown["id"], "rows": rows, "times": [round(time, 3) for time in times], "kind": kind,
            "loop": bool(shown["settings"]["loop"]),
        }  # fmt: skip

    def begin(self, session: Session, event: gr.EventData) -> list[Any]:
        """Checks what is asked for before it waits in line: [progress, Vamp, Stop]."""
        language, nothing = session.language, [gr.skip()] * 3
        if session.request is not None:
            return [notice(say("comp.busy", language), "error"), *nothing[1:]]
        shown, choice = _vamp_of(session, getattr(event, "vamp", None)), getattr(event, "choice", None)
        if shown is None:
            return [notice(say("comp.gone", language), "error"), *nothing[1:]]
        name, beats = session.kept.get("comp_beats", ("", None))
        beats = beats if name == shown["id"] else _beats_of(shown)
        opened = self._grid(shown, beats)
        fits = isinstance(choice, list) and len(choice) == len(opened["times"]) - 1
        if not fits or any(isinstance(number, bool) or number not in opened["rows"] for number in choice):
            return [notice(say("comp.choose", language), "error"), *nothing[1:]]
        problem = "" if self.handlers.shelf.loaded else self.handlers.model_problem(language)
        if problem:
            return [notice(problem, "error"), *nothing[1:]]
        session.stop.clear()
        session.request, session.room = (_request_of(shown), session.source), ROOM
        session.kept["comp"] = shown, [int(number) for number in choice], beats
        return [progress(say("comp.waiting", language)), *buttons_of(True)]

    def make(self, session: Session) -> Iterator[list[Any]]:
        """Makes the comp that `begin` was asked for: [progress, Vamp, Stop, takes], again and again."""
        if session.request is None or session.running or session.room != ROOM or "comp" not in session.kept:
            yield [gr.skip()] * 4  # Gradio empties what a generator that yields nothing should have filled
            return
        shown, choice, beats = session.kept.pop("comp")
        request = session.request[0]

        def work(model: VampNet, on_step: OnStep, cancelled: Cancelled) -> None:
            if shown["settings"]["model"] != model.name:
                raise ValueError(say("comp.model", session.language, model=shown["settings"]["model"]))
            self._comp(session, model, shown, request, choice, beats, on_step, cancelled)

        def ended(well: bool) -> None:
            session.request = None

        working = Work(self.handlers, session, work, ended, done=say("comp.done", session.language))
        for line, takes, *buttons in watched(working, session):
            yield [line, *buttons, takes]

    def _comp(
        self, session: Session, model: VampNet, shown: dict[str, Any], request: Request, choice: list[int],
        beats: BeatGrid | None, on_step: OnStep, cancelled: Cancelled,
    ) -> None:  # fmt: skip
        folder = Path(shown["folder"])
        vamp, settings = read_bundle(folder), read_settings(folder)
        samples, rate = vamp.source.audio_data.shape[-1], int(vamp.source.sample_rate)
        on_step("encode", 0, 1)
        clip = model.listen(vamp.source, loop=vamp.loop, beats=_beats_of(shown))
        tokens = torch.cat([vamp.source_tokens, vamp.tokens])
        times = part_times(samples, rate, beats)
        bounds = part_steps(times, samples, model.grid, rate, vamp.loop, tokens.shape[-1])
        sound, made, mask = comp(
            model, clip, tokens, choice, bounds, request.sampling, request.seed, takes=[vamp.source, *vamp.takes],
            on_step=on_step, cancelled=cancelled,
        )  # fmt: skip
        result = Vamp(
            vamp.source, [sound], made, vamp.source_tokens, mask, vamp.prompt, vamp.sampling, vamp.seed, vamp.loop, model.name,
            model.grid, vamp.bars, vamp.beats, precision=model.precision,
        )  # fmt: skip
        told = metadata.read(folder / settings["files"][0])
        origin = metadata.origin_of(result, 1, shown["source"], None if told is None else told.source_hash)
        comment = metadata.write(dataclasses.replace(origin, kind="comp", takes=len(vamp.takes)))
        path = folder / settings["source_file"]
        source = Source(path, shown["source"], samples, rate, envelope(vamp.source), _beats_of(shown), shared_origin(shown))
        title = comp_title(shown.get(NAMED) or shown["title"])
        kept = keep_vamp(session, result, request, source, title, "comp", [comment])
        kept["source_track"]["alias"] = shown["source_track"].get("alias")


def _vamp_of(session: Session, name: Any) -> dict[str, Any] | None:
    return next((shown for shown in session.vamps if shown["id"] == name and shown["source_track"] is not None), None)


def _beats_of(shown: dict[str, Any]) -> BeatGrid | None:
    """The beats that the deck shows; None where there are none."""
    if len(shown["beats"]) < 2 or not shown["tempo"]:
        return None
    return BeatGrid(tuple(shown["beats"]), tuple(shown["downbeats"]), shown["tempo"])


def _request_of(shown: dict[str, Any]) -> Request:
    """What the vamp was asked for, for one take of the clip as it lies in its folder."""
    settings = shown["settings"]
    sampling = Sampling.of({**settings["sampling"], "feedback": 1})
    return Request(Prompt.of(settings["prompt"]), sampling, 1, settings["seed"], settings["loop"], None)
