"""What happens when somebody does something on the page. No layout, and nothing that needs a browser."""

from __future__ import annotations

import asyncio
import html
import logging
import re
import secrets
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr

from vampnet import audio
from vampnet.audio import AudioError
from vampnet.config import CancelledError, Prompt, Sampling
from vampnet.extend import longer
from vampnet.pipeline import VampNet
from vampnet.sentences import Sentence
from vampnet.serving import Turns, batch_for
from vampnet.studio import presets, tempo
from vampnet.studio.controls import FOLLOWERS, MAX_SEED, NAMES, READ, Request, capped, follow, read_request, whole_depth
from vampnet.studio.ground import ground
from vampnet.studio.heard import HeardClips
from vampnet.studio.mask_picture import given_mask, mask_of, picture
from vampnet.studio.notices import is_error, notice, progress
from vampnet.studio.players import keep_vamp
from vampnet.studio.session import Files, Session, Source, read_source
from vampnet.studio.shelf import POLL_SECONDS, ModelShelf, Shape
from vampnet.studio.text import DEFAULT, language_of, say, tell
from vampnet.studio.work import Work
from vampnet.vamp import Clip, Vamp

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.pipeline import Cancelled, OnStep

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Handlers:
    """The handlers of one page, shared by all visitors; what belongs to one of them is in their `Session`.

    Args:
        model: the model, or a shelf that holds one or is about to.
        examples: folder of example clips; it may be missing or empty.
    """

    def __init__(self, model: VampNet | ModelShelf, examples: Path) -> None:
        self.files = Files()
        self.turns = Turns()
        self.heard = HeardClips()
        self.visits: weakref.WeakValueDictionary[str, Session] = weakref.WeakValueDictionary()
        self.shelf = model if isinstance(model, ModelShelf) else ModelShelf(model)
        found = sorted(examples.iterdir()) if examples.is_dir() else []
        self.examples = [path for path in found if path.suffix.lower() in audio.SUFFIXES]

    # ---- model --------------------------------------------------------------------------------------------------------

    def open_page(self, session: Session, visit: str, request: gr.Request) -> Session:
        """The session of a page, which makes Gradio keep track of its age and delete it when it is old.

        Args:
            session: a fresh one.
            visit: 32 hexadecimal digits that name the browser's tab: the one that it had before it was loaded anew goes on.
        """
        if isinstance(visit, str) and re.fullmatch("[0-9a-f]{32}", visit):
            before = self.visits.get(visit)
            if before is not None and before is not session and before.hold():
                session = before
            self.visits[visit] = session
        session.opened, session.language = True, language_of(request.headers.get("accept-language"))
        return session

    def resume(self, session: Session) -> list[Any]:
        """[message, takes, pending, value of each control] as they were when the page was there before.

        `pending` changes if something was under way, which `go_on` is for.
        """
        message = gr.skip() if session.source is None else about_source(session)
        session.resumed = list(session.vamps)
        takes = list(session.vamps) if session.vamps else gr.skip()
        values = [gr.update(value=value) for value in session.values] or [gr.skip()] * len(NAMES)
        under_way = session.work is not None or (session.request is not None and not session.running)
        return [message, takes, secrets.token_hex(4) if under_way else gr.skip(), *values]

    async def model_status(self, session: Session) -> AsyncIterator[str]:
        """A line about the model: what is being done as long as something is, and then what there is."""
        while self.shelf.task is not None:
            yield notice(tell(self.shelf.task.words, session.language), "busy")
            await asyncio.sleep(POLL_SECONDS)
        yield self._model_line(session.language)

    def follow_model(self, session: Session, *read: Any) -> list[Any]:
        """A change of each control in `FOLLOWERS` to fit the model; `read` are the values of those in `READ`."""
        before, session.shape, session.model_version = session.shape, self.shelf.shape, self.shelf.version
        values = dict(zip(READ, read, strict=True))
        changes = (follow(name, session.shape, before, values.get(name), session.language) for name in FOLLOWERS)
        return [gr.update(**change) for change in changes]

    def catch_up(self, session: Session, *values: Any) -> list[Any]:
        """The line about the model, `follow_model` and the picture, if another page has exchanged the model meanwhile."""
        if session.model_version == self.shelf.version:
            return [gr.skip()] * (2 + len(FOLLOWERS))
        read = [values[NAMES.index(name)] for name in READ]
        return [self._model_line(session.language), *self.follow_model(session, *read), self.draw(session, *values)]

    def _model_line(self, language: str) -> str:
        # Where there is a chooser, it says what went wrong.
        problem = "" if self.shelf.choice and self.shelf.loaded else self.model_problem(language)
        ready = say("page.model", language, name=tell(self.shelf.title, language))
        return notice(problem, "error") if problem else notice(ready, "ready")

    def use_model(
        self, work: Callable[[VampNet], Result], stopped: Callable[[], bool], on_wait: Callable[[], None] = lambda: None,
        urgent: bool = False,
    ) -> Result:  # fmt: skip
        """`ModelShelf.use`, in turns with the work of all other visitors; `urgent` for what is short and waited for."""
        return self.shelf.use(lambda model: self.turns.serve(model, work, urgent, stopped), stopped, on_wait)

    def model_problem(self, language: str = DEFAULT) -> str:
        """A sentence or two about a model that could not be loaded; empty if it was or still may be."""
        shelf = self.shelf
        if shelf.task is not None or (shelf.loaded and not shelf.problem):
            return ""
        told = {"problem": tell(shelf.problem, language), "title": tell(shelf.title, language)}
        return say("models.goes_on" if shelf.loaded else "models.not_one", language, **told)

    # ---- source -------------------------------------------------------------------------------------------------------

    def choose(self, session: Session, given: str | None, name: str | None = None, origin: str | None = None) -> Any:
        """A new source from a file; a bad one leaves everything as it was. `origin` as in `read_source`.

        Returns:
            The message to show, or `gr.skip()` if another file, chosen later, is the source already.
        """
        ticket = session.ticket()
        try:
            source = read_source(session, given, name, origin)
        except AudioError as error:
            return notice(_with_name(tell(error, session.language), given), "error")
        return about_source(session) if session.use(source, ticket) else gr.skip()

    def choose_example(self, session: Session, event: gr.EventData) -> Any:
        """An example by its number in `examples`."""
        index = event.index
        if not isinstance(index, int) or not 0 <= index < len(self.examples):
            return notice(say("map.source.example", session.language), "error")
        return self.choose(session, str(self.examples[index]))

    def try_example(self, session: Session) -> Any:
        """Any of the examples, for somebody who wants to hear something at once."""
        return self.choose(session, str(secrets.choice(self.examples)))

    def track(self, session: Session) -> None:
        """Tracks the beats of the source, which may take a while."""
        if session.source is not None:
            session.source.track()

    def tell_source(self, session: Session, shown: Any) -> Any:
        """What was found in the source; `shown` is the message that stands there: why a file was refused goes on standing."""
        source = session.source
        # While the beats of one are tracked another one may be chosen, or refused.
        return gr.skip() if source is None or source.grid is None or is_error(shown) else about_source(session)

    def set_tempo(self, session: Session, event: gr.EventData) -> Any:
        """The beats of the source by hand: an act of `tempo.ACTS`, or "tap" with the taps. Returns the message to show."""
        source = session.source
        if source is None:
            return notice(say("map.tempo.source", session.language), "error")
        try:
            if event.act == "tap":
                source.grid = tempo.tapped(source.grid, source.seconds, event.taps, event.at)
            else:
                source.grid = tempo.edit(source.grid, source.seconds, event.act)
        except (ValueError, TypeError) as error:
            return notice(tell(error, session.language), "error")
        return about_source(session)

    # ---- prompt -------------------------------------------------------------------------------------------------------

    def draw(self, session: Session, *values: Any) -> dict[str, Any]:
        """The picture of the mask for the values of all controls; with a `problem`, why there is none, of the clip alone."""
        source, turn = session.source, time.time_ns() // 1000
        if not session.opened:
            return {"problem": say("work.ended", session.language), "turn": turn}
        session.values = values
        try:
            values = whole_depth(values, self.shelf.shape.levels)
            request = read_request(values)
            drawn = picture(request, source, self.shelf.shape, session.language)
        except ValueError as error:
            # With nothing kept of it, for where another clip was drawn before: what is seen is what is played.
            plain = picture(Request(Prompt(periodic=0), Sampling()), source, self.shelf.shape, session.language)
            return {**plain, "turn": turn, "problem": tell(error, session.language)}
        # Answers may come in another order than they were asked for.
        drawn["turn"] = turn
        needed = request.prompt.needs_beats or request.bars is not None
        drawn["waiting"] = bool(needed and source is not None and source.grid is None)
        drawn["preset"] = presets.matching(dict(zip(NAMES, values, strict=True)))
        return drawn

    def ground(self, session: Session) -> Any:
        """The spectrogram under the map, and of which sound it is."""
        source = session.source
        return gr.skip() if source is None else {**ground(source), "sound": str(source.path)}

    def hear(self, session: Session, *values: Any) -> dict[str, Any]:
        """The kept tokens as sound: what to play, or the sentence why there is nothing."""
        source = session.source
        if source is None or not self.shelf.loaded:
            wanted = "map.hear.source" if source is None else "map.hear.model"
            problem = self.model_problem(session.language) or say(wanted, session.language)
            return {"problem": problem, "at": secrets.token_hex(4)}
        try:
            request = read_request(whole_depth(values, self.shelf.shape.levels))
            if request.prompt.needs_beats or request.bars is not None:
                source.track()
            sound = self.use_model(lambda model: self._kept(model, request, source), lambda: False, urgent=True)
        except (ValueError, CancelledError) as error:
            return {"problem": tell(error, session.language), "at": secrets.token_hex(4)}
        except Exception:
            log.exception("What is kept could not be decoded")
            return {"problem": say("map.hear.failed", session.language), "at": secrets.token_hex(4)}
        path = audio.save(sound, session.folder / f"kept-{secrets.token_hex(8)}.wav")
        for old in session.folder.glob("kept-*.wav"):
            if old != path:
                old.unlink(missing_ok=True)
        return {"sound": str(path), "start": 0, "end": sound.audio_data.shape[-1] / sound.sample_rate}

    def _kept(self, model: VampNet, request: Request, source: Source) -> AudioSignal:
        """What `VampNet.hear_kept` makes of a request's mask."""
        still = source.with_beats(source.grid)
        mask, clip = mask_of(request, still, Shape.of(model))[0], self.heard.listen(model, source, request, still.grid)
        if not isinstance(clip, Clip):
            options = {"loop": request.loop, "bars": request.bars, "beats": still.grid, "extend": request.extend}
            clip = model.listen(clip, **options)
        elif any(request.extend):
            clip = longer(clip, request.extend, model.codec)
        return model.hear_kept(clip, mask, request.prompt.original_sound)

    def use_preset(self, session: Session, event: gr.EventData) -> list[Any]:
        """The values of the controls in `presets.TOUCHED`."""
        return [capped(name, value, session.shape) for name, value in presets.find(event.name).values.items()]

    def new_seed(self) -> int:
        return secrets.randbelow(min(MAX_SEED, 1_000_000))

    # ---- vamp ---------------------------------------------------------------------------------------------------------

    def begin(self, session: Session, *values: Any, room: str = "vamp") -> tuple[Any, Any, Any]:
        """Checks what is asked for before it waits in line: (progress line, Vamp button, Stop button). `room`: whose it is."""
        if session.request is not None:
            return gr.skip(), gr.skip(), gr.skip()
        problem = "" if self.shelf.loaded else self.model_problem(session.language)
        problem = problem if session.opened else say("work.ended", session.language)
        try:
            if not problem and session.source is None:
                raise AudioError(say("work.no_source", session.language))
            request = read_request(whole_depth(values, self.shelf.shape.levels))
        except ValueError as error:
            problem = problem or tell(error, session.language)
        if problem:
            return notice(problem, "error"), *buttons_of(running=False)
        session.stop.clear()
        session.request, session.room = (request, session.source), room
        waiting = say("work.waiting" if self.shelf.loaded else "work.model", session.language)
        return progress(f"{waiting} …"), *buttons_of(running=True)

    def stop(self, session: Session) -> tuple[Any, Any, Any]:
        """Ends the session's vamp before its next step: (progress line, Vamp button, Stop button)."""
        if session.request is None:
            return gr.skip(), gr.skip(), gr.skip()
        session.stop.set()
        if session.running:
            # `vamp` says so: an answer from here could arrive after its last word.
            return gr.skip(), gr.skip(), gr.skip()
        session.request = None  # it still waits in line, and will find that there is nothing to do
        return notice(say("work.stopped", session.language), "ready"), *buttons_of(running=False)

    def vamp(self, session: Session) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Makes the takes that `begin` was asked for: (progress line, takes, Vamp button, Stop button), again and again.

        It takes turns with those of other visitors. If the visitor leaves and does not come back soon, the vamp is stopped.
        """
        # Stopped while it waited in line, it may find the request of another room when its turn comes.
        if session.request is None or session.running or session.room != "vamp":
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        request, source = session.request
        kept: dict[str, Any] | None = None  # of the takes that are ready

        def prepare(on_step: OnStep) -> None:
            if source.grid is None and (request.prompt.needs_beats or request.bars is not None):
                on_step("beats", 0, 1)
                source.track()

        def work(model: VampNet, on_step: OnStep, cancelled: Cancelled) -> None:
            # Beats that are known go along, needed or not: players show them. Others set meanwhile are for the next vamp.
            clip = source.with_beats(source.grid)
            heard = self.heard.listen(model, source, request, clip.grid, on_step=on_step, cancelled=cancelled)

            def ready(vamp: Vamp) -> None:
                keep(vamp, clip)
                on_step("decode", len(vamp.takes), request.takes)  # the page looks for takes where it is told of steps

            # On a GPU all takes are made as soon as one.
            one_first = {"on_take": ready} if model.device.type == "cpu" else {}
            vamp = model.vamp(
                heard, request.prompt, request.sampling, request.takes, request.seed, loop=request.loop,
                bars=request.bars, beats=clip.grid, mask=given_mask(request, clip, Shape.of(model)), extend=request.extend,
                batch=batch_for(model), on_step=on_step, cancelled=cancelled, **one_first,
            )  # fmt: skip
            keep(vamp, clip)

        def keep(vamp: Vamp, clip: Source) -> None:
            nonlocal kept
            kept = keep_vamp(session, vamp, request, clip, before=kept, coming=request.takes - len(vamp.takes))

        def ended(well: bool) -> None:
            session.request = None
            if not well and kept is not None:  # no more are coming; a session that is closed has none
                session.vamps = [session.changed({**one, "coming": 0}) if one is kept else one for one in session.vamps]

        done = say("work.done.one" if request.takes == 1 else "work.done", session.language, count=request.takes)
        yield from watched(Work(self, session, work, ended, prepare=prepare, done=done), session)

    def go_on(self, session: Session) -> Iterator[tuple[Any, Any, Any, Any]]:
        """What the page that was there before was waiting for: as `vamp`."""
        work = session.work  # which may end any moment
        if work is not None:
            yield from watched(work, session)
        elif session.request is not None and not session.running:
            session.request = None  # nobody comes for it any more
            yield notice(say("work.again", session.language), "ready"), gr.skip(), *buttons_of(running=False)
        else:
            # It may have ended between the two questions of the new page.
            ended = session.vamps != session.resumed
            yield gr.skip(), list(session.vamps) if ended else gr.skip(), gr.skip(), gr.skip()


def watched(work: Work, session: Session) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Work that ends with takes, until it is over: (progress line, takes, Vamp button, Stop button), again and again."""
    shown = session.vamps
    for line in work.watch():
        takes, shown = gr.skip() if session.vamps is shown else list(session.vamps), session.vamps
        yield line, takes, *buttons_while(session)
    takes = gr.skip() if work.problem() and session.vamps is shown else list(session.vamps)
    yield work.last_word(), takes, *buttons_of(running=False)


def about_source(session: Session) -> str:
    """The line about the source and its beats."""
    source, language = session.source, session.language
    grid, seconds = source.grid, f"{source.seconds:.1f}"
    if grid is None:
        facts = say("map.source.reading", language, seconds=seconds)
    elif len(grid.beats) > 1:
        facts = say("map.source.found", language, seconds=seconds, bpm=f"{grid.tempo:.0f}", count=len(grid.beats))
    else:
        facts = say("map.source.none", language, seconds=seconds)
    line = f"<b>{html.escape(source.name)}</b>, {facts}"
    if grid is None:
        return notice(line, "busy", raw=True)
    by = say("map.source.hand", language) if grid.engine == tempo.ENGINE else say("map.source.by", language, engine=grid.engine)
    # What was read from a file is no `Sentence` any more, but English.
    known = language == DEFAULT or isinstance(grid.note, Sentence)
    note = tell(grid.note, language) if known else by
    return notice(f"{line} <details><summary>{by}</summary>{html.escape(note)}</details>", "ready", raw=True)


def buttons_of(running: bool) -> tuple[Any, Any]:
    """The Vamp and the Stop button while a vamp runs, or while none does."""
    return gr.update(interactive=not running), gr.update(interactive=running)


def buttons_while(session: Session) -> tuple[Any, Any]:
    """The same while one runs, again and again: on a slow line the last word of the one before may come late."""
    return (gr.skip(), gr.update(interactive=False)) if session.stop.is_set() else buttons_of(running=True)


def _with_name(text: str, given: str | None) -> str:
    """The sentence with the file's name for people and not the place where the server has put it."""
    return text.replace(str(given), Path(str(given)).name) if given else text
