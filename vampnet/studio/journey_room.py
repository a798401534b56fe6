"""Vamp on: an endless run of rounds that feed on each other, heard as they come, with a way back and branches.

Every round is an event of its own in the page's queue, started by the browser when it has heard of the one before: so the model
is given back between rounds and others have their turn, and a journey ends by itself when its page is closed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from vampnet import audio
from vampnet.journey import Journey
from vampnet.studio.controls import Request, read_request, whole_depth
from vampnet.studio.handlers import Handlers, buttons_of, buttons_while
from vampnet.studio.lanes import MODEL_LANE
from vampnet.studio.mask_picture import given_mask, pack_wave
from vampnet.studio.notices import notice, progress
from vampnet.studio.session import Session, Source, envelope, plain_name
from vampnet.studio.shelf import Shape
from vampnet.studio.text import label, say, tell
from vampnet.studio.travels import (
    MAX_JOURNEYS,
    Travel,
    Travels,
    ground_of,
    known_round,
    on_ground,
    strip_value,
    travels_of,
    way_of,
)
from vampnet.studio.work import Work

ROOM = "journey"
REPEATS = (1, 2, 4, 8)
WAVE_COLUMNS = 160


class JourneyRoom:
    """Lays itself out where it is made (inside a `gr.Blocks`); `wire` connects it. The script is `web/journey.js`.

    Attributes:
        button: Vamp on.
        strip: the journeys as the page shows them; fires `submit` for the next round, `select` for what its buttons do at once
            (`do`: "on", "back", "branch", "end", "remove"; `journey`, an id; `round`), `download` for an export and `apply` to
            use a round as the source.
    """

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        self.strip = gr.HTML(
            None, html_template='<div class="vs-journeys"></div>', elem_id="journeys", apply_default_css=False, repeats=REPEATS,
            js_on_load="VampStudio.journeys(element, props, watch, trigger)", render=False,
        )  # fmt: skip
        self.button = gr.Button(label("journey.on"), elem_id="vamp-on", scale=2, min_width=110)

    def wire(
        self, session: gr.State, controls: list[Any], message: gr.HTML, progress_line: gr.HTML, vamp: gr.Button, stop: gr.Button
    ) -> Any:
        """Connects the parts; returns the event that a round became the source."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        shown, given = [progress_line, vamp, stop, self.button, self.strip], [session, *controls]
        self.button.click(self.begin, given, shown, queue=False, **quiet)
        self.strip.select(self.act, given, shown, queue=False, trigger_mode="multiple", **quiet)
        self.strip.submit(self.round, given, shown, trigger_mode="multiple", **MODEL_LANE, **quiet)
        stop.click(self.stop, session, shown, queue=False, **quiet)
        self.strip.download(self.export, session, [progress_line, self.strip], concurrency_limit=2, **quiet)
        return self.strip.apply(self.use, session, message, **quiet)

    # ---- beginning and ending -----------------------------------------------------------------------------------------

    def begin(self, session: Session, *values: Any, at: tuple[str, int] | None = None) -> list[Any]:
        """Checks what is asked for and asks the browser for the first round: [progress, Vamp, Stop, Vamp on, strip].

        Args:
            at: id of a journey and number of the round to go on from; by default where the journey of this source stands.
        """
        if session.request is not None:
            return [notice(say("comp.busy", session.language), "error"), *[gr.skip()] * 4]
        told = self.handlers.begin(session, *values, room=ROOM)
        if session.request is None:
            return [*told, gr.skip(), gr.skip()]
        request, source = session.request
        if sum(request.extend) > 0:
            session.request = None
            return [notice(say("journey.extend", session.language), "error"), *buttons_of(False), *_off(session)]
        travels = travels_of(session)
        travel = self._find(session, at[0]) if at is not None else self._same(travels, request, source)
        if travel is None:
            try:
                source.bounds(request.bars)
            except ValueError as error:
                session.request = None
                return [notice(tell(error, session.language), "error"), *buttons_of(False), *_off(session)]
            travel = self._new(session, request, source)
        if at is not None:
            travel.current = at[1]
            # Of the journey's own clip, whatever has become the source meanwhile.
            request = on_ground(request, travel, session)
            session.request = request, travel.source
        travels.all.remove(travel)
        travels.all.insert(0, travel)
        travel.request = request
        if len(travel.journey.rounds) >= travel.most:
            session.request = None
            full = notice(say("journey.full", session.language, most=travel.most), "error")
            return [full, *buttons_of(False), *_off(session)]
        travels.running, travels.ask = True, travels.ask + 1
        return [*told, gr.update(interactive=False), strip_value(session)]

    def _same(self, travels: Travels, request: Request, source: Source) -> Travel | None:
        """The journey that goes on if these are asked for: other settings are taken along, another loop is another journey."""
        for travel in travels.all:
            if travel.source is source and ground_of(travel.request) == ground_of(request):
                return travel
        return None

    def _new(self, session: Session, request: Request, source: Source) -> Travel:
        travels = travels_of(session)
        journey = Journey(
            session.new_folder(), source.path, seed=request.seed, loop=request.loop, bars=request.bars, beats=source.grid,
            name=source.name,
        )  # fmt: skip
        travels.all.insert(0, Travel(journey, source, request))
        for old in travels.all[MAX_JOURNEYS:]:
            # A round that is the source now is still needed.
            if session.source is None or old.journey.folder not in session.source.path.parents:
                shutil.rmtree(old.journey.folder, ignore_errors=True)
        del travels.all[MAX_JOURNEYS:]
        return travels.all[0]

    def resume(self, session: Session) -> Any:
        """The strip of a page that is there again; what went on has ended with the one before."""
        travels = travels_of(session)
        if not travels.all:
            return gr.skip()
        if travels.running:
            travels.running = False
            if session.running:
                session.stop.set()  # a round, which nobody will tell this page of: it ends the rest itself
            else:
                session.request = None
        return strip_value(session)

    def stop(self, session: Session) -> list[Any]:
        """Stop was pressed: [progress, Vamp, Stop, Vamp on, strip]. A round that runs says by itself when it has ended."""
        travels = travels_of(session)
        between = travels.running and not session.running
        told = self.handlers.stop(session)
        if not between:
            return [*told, gr.skip(), gr.skip()]
        travels.running = False
        travels.all[0].journey.rest()
        return [self._end(session), *told[1:], *_off(session)]

    def act(self, session: Session, event: gr.EventData, *values: Any) -> list[Any]:
        """What a button of the strip asks for: as `begin`."""
        nothing = [gr.skip()] * 5
        do, number = getattr(event, "do", None), getattr(event, "round", None)
        travels = travels_of(session)
        if do == "end":
            # The limit is reached: the browser asks for no more.
            if travels.running and not session.running:
                travels.running, session.request = False, None
                return [self._end(session), *buttons_of(False), *_off(session)]
            return nothing
        try:
            travel = self._find(session, getattr(event, "journey", None))
            known_round(travel.journey, number, source=do != "remove")
        except ValueError as error:
            return [notice(tell(error, session.language), "error"), *nothing[1:]]
        if do == "back":
            travel.current = number
            return [*nothing[:4], strip_value(session)]
        if do == "branch" and not travels.running:
            return self.begin(session, *values, at=(travel.journey.folder.name, number))
        if do == "branch":
            travel.current = number
            return [*nothing[:4], strip_value(session)]
        if do == "remove":
            return [*nothing[:4], self._remove(session, travel, number)]
        return nothing

    def _remove(self, session: Session, travel: Travel, number: int) -> Any:
        """Takes a round away, with what was made from it; not while the journey goes on."""
        if travels_of(session).running:
            return gr.skip()
        parent = travel.journey.rounds[number].parent
        gone = {found.number for found in travel.journey.rounds.values() if number in way_of(travel.journey, found.number)}
        if session.source is not None and any(travel.journey.rounds[n].folder in session.source.path.parents for n in gone):
            return gr.skip()
        travel.journey.remove(number)
        travel.current = parent if travel.current in gone else travel.current
        for lost in gone:
            travel.waves.pop(lost, None)
        return strip_value(session)

    # ---- a round ------------------------------------------------------------------------------------------------------

    def round(self, session: Session, event: gr.EventData, *values: Any) -> Iterator[list[Any]]:
        """Makes the round number `event.ask` of those asked for: [progress, Vamp, Stop, Vamp on, strip], again and again.

        The controls are read for every round, so that a journey can be steered while it goes on.
        """
        travels = travels_of(session)
        if session.request is None and not travels.running and travels.all:
            # It was stopped while this waited in line. What Stop has said may have been overtaken by the round before.
            yield [self._end(session), *buttons_of(False), *_off(session)]
            return
        if session.running or not travels.running or getattr(event, "ask", None) != travels.ask:
            yield [gr.skip()] * 5  # Gradio empties what a generator that yields nothing should have filled
            return
        travel = travels.all[0]
        travel.request = self._steered(session, travel, values)
        number, parent = len(travel.journey.path(travel.current)) + 1, travel.current
        words = say("journey.round", session.language, number=number)
        work = Work(self.handlers, session, self._work(travel, parent), lambda well: self._ended(session, travel, well), words)
        for line in work.watch():
            yield [line, *buttons_while(session), gr.skip(), gr.skip()]
        problem = work.problem()
        if travels.running:
            line = progress(say("journey.next", session.language, number=number + 1))
            yield [line, gr.skip(), gr.skip(), gr.skip(), strip_value(session)]
        else:
            full = len(travel.journey.rounds) >= travel.most
            well = notice(say("journey.full", session.language, most=travel.most), "ready") if full else self._end(session)
            stopped = problem if problem and not work.stopped else well
            yield [stopped, *buttons_of(False), *_off(session)]

    def _work(self, travel: Travel, parent: int) -> Any:
        def work(model: Any, on_step: Any, cancelled: Any) -> None:
            journey, request = travel.journey, travel.request
            if journey.beats is None and (request.prompt.needs_beats or request.bars is not None or not request.loop):
                on_step("beats", 0, 1)
                journey.beats = travel.source.track()
            made = journey.make(
                model, parent, request.prompt, request.sampling, mask=given_mask(request, travel.clip, Shape.of(model)),
                on_step=on_step, cancelled=cancelled,
            )  # fmt: skip
            travel.waves[made.number] = pack_wave(envelope(audio.load(made.sound, model.grid.sample_rate)), WAVE_COLUMNS)
            if travel.current == parent:  # nobody has gone back meanwhile
                travel.current = made.number

        return work

    def _ended(self, session: Session, travel: Travel, well: bool) -> None:
        travels = travels_of(session)
        travels.running = well and not session.stop.is_set() and len(travel.journey.rounds) < travel.most
        travels.ask += travels.running
        if not travels.running:
            session.request = None
            travel.journey.rest()

    def _steered(self, session: Session, travel: Travel, values: tuple[Any, ...]) -> Request:
        """What the controls ask for now; what they asked for before, if that cannot be."""
        shape = self.handlers.shelf.shape
        try:
            # Seed, loop and bars are those that it began with, whatever has been touched.
            asked = on_ground(read_request(whole_depth(values, shape.levels)), travel, session)
            given_mask(asked, travel.clip, shape)
        except ValueError:
            return travel.request
        return travel.request if sum(asked.extend) > 0 else asked

    def _end(self, session: Session) -> str:
        travel = travels_of(session).all[0]
        count = len(travel.journey.path(travel.current))
        if not count:
            return notice(say("work.stopped", session.language), "ready")
        return notice(say("journey.stopped.one" if count == 1 else "journey.stopped", session.language, count=count), "ready")

    # ---- what comes of it ---------------------------------------------------------------------------------------------

    def export(self, session: Session, event: gr.EventData) -> list[Any]:
        """One FLAC file of the rounds up to one of them: [progress, strip]."""
        try:
            travel = self._find(session, getattr(event, "journey", None))
            journey, number = travel.journey, getattr(event, "round", None)
            known_round(journey, number)
            repeats = getattr(event, "repeats", 1)
            if isinstance(repeats, bool) or repeats not in REPEATS:
                raise ValueError(say("journey.lost", session.language))
            joined = journey.export(number, source=getattr(event, "source", False) is True, repeats=repeats)
            folder = session.new_folder()
            name = f"{plain_name(travel.source.name)}-journey-{len(journey.path(number))}-rounds-seed{journey.seed}.flac"
            path = audio.save(joined, folder / name, comment=journey.comment(number))
        except ValueError as error:
            return [notice(tell(error, session.language), "error"), gr.skip()]
        if travel.file is not None:
            shutil.rmtree(Path(travel.file["sound"]).parent, ignore_errors=True)
        seconds = joined.audio_data.shape[-1] / joined.sample_rate
        count = (travel.file or {}).get("count", 0) + 1
        travel.file = {"sound": str(path), "file": name, "seconds": seconds, "count": count}
        return [notice(say("journey.exported", session.language, seconds=f"{seconds:.1f}"), "ready"), strip_value(session)]

    def use(self, session: Session, event: gr.EventData) -> Any:
        """A round becomes the source. Returns the message to show."""
        try:
            travel = self._find(session, getattr(event, "journey", None))
            found = known_round(travel.journey, getattr(event, "round", None), source=False)
        except ValueError as error:
            return notice(tell(error, session.language), "error")
        return self.handlers.choose(session, str(found.sound), found.sound.stem, travel.source.origin)

    def _find(self, session: Session, name: Any) -> Travel:
        for travel in travels_of(session).all:
            if travel.journey.folder.name == name:
                return travel
        raise ValueError(say("journey.lost", session.language))


def _off(session: Session) -> list[Any]:
    return [gr.update(interactive=True), strip_value(session)]
