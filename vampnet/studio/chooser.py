"""The chooser of models: a list with size, licence and whether it is on the disk, a field for any other, and progress."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from vampnet.catalogue import size
from vampnet.studio.handlers import Handlers
from vampnet.studio.notices import notice, progress
from vampnet.studio.session import Session
from vampnet.studio.shelf import POLL_SECONDS
from vampnet.studio.text import label, language_of, say, tell

if TYPE_CHECKING:
    from vampnet.checkpoints import Entry

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}


class Chooser:
    """Lays itself out where it is made (inside a `gr.Blocks`); `wire` connects it.

    Args:
        handlers: of the page; their shelf is what is chosen for.
    """

    def __init__(self, handlers: Handlers) -> None:
        self.handlers, self.shelf = handlers, handlers.shelf
        with gr.Column(elem_id="models"):
            with gr.Accordion(label("models.panel"), open=False, elem_id="models-panel") as self.panel:
                self.list = gr.HTML(
                    "", elem_id="models-list", apply_default_css=False,
                    js_on_load="VampStudio.choices(element, trigger, (data) => ({name: data.name}))",
                )  # fmt: skip
                with gr.Row(elem_id="models-own"):
                    self.name = gr.Textbox(
                        label=label("models.name"), info=label("models.name.info"), placeholder=label("models.name.form"),
                        max_lines=1, elem_id="model-name", scale=4, max_length=1000,
                    )  # fmt: skip
                    self.load = gr.Button(label("models.load"), elem_id="model-load", scale=0, min_width=90)
            with gr.Row(elem_id="models-line"):
                self.line = gr.HTML("", elem_id="model-line", apply_default_css=False)
                self.cancel = gr.Button(
                    label("models.cancel"), elem_id="model-cancel", size="sm", visible=False, scale=0, min_width=80
                )

    def wire(self, page: gr.Blocks, session: gr.State, tell_of_model: Callable[[Callable[..., Any]], None]) -> None:
        """Connects the parts.

        Args:
            page: the page, for what happens when it opens.
            session: the visitor's `Session`.
            tell_of_model: makes the page's line about the model, its controls and its picture follow an event, of which it is
                given the method that listens (`page.load`, `event.then`).
        """
        shown = [self.line, self.load, self.cancel]
        page.load(self.watch_quietly, None, [*shown, self.list], concurrency_limit=None, **QUIET)
        self.panel.expand(self.show, [session, self.name], self.list, concurrency_limit=None, **QUIET)
        self.list.select(self.choose, None, self.name, **AT_ONCE)
        self.name.change(self.cards, [session, self.name], self.list, trigger_mode="always_last", **AT_ONCE)
        began = gr.on([self.load.click, self.name.submit], self.begin, [session, self.name], shown, **AT_ONCE)
        began.then(self.watch, [session, self.name], [*shown, self.list], concurrency_limit=None, **QUIET)
        tell_of_model(began.then)
        self.cancel.click(self.shelf.cancel, None, None, **AT_ONCE)

    # ---- list ---------------------------------------------------------------------------------------------------------

    def show(self, session: Session, name: str) -> Iterator[str]:
        """The list: first of what is on the disk, and then, which may take a while, with what the hub has."""
        self.shelf.entries(online=False)
        yield self.cards(session, name, say("models.looking", session.language))
        self.shelf.entries(online=True)
        yield self.cards(session, name)

    def cards(self, session: Session, name: str, note: str = "") -> str:
        """The list as it was looked up last, with the card called `name` pressed, as HTML."""
        return self._cards(session.language, name, note)

    def _cards(self, language: str, name: str, note: str = "") -> str:
        entries, used = self.shelf.known, self.shelf.name
        found = "".join(_card(entry, entry.name == used, entry.name == name, language) for entry in entries)
        below = f'<p class="vs-aside" role="status">{html.escape(note)}</p>' if note else ""
        group = html.escape(say("models.list", language))
        return f'<div class="vs-models" role="group" aria-label="{group}">{found}</div>{below}'

    def choose(self, event: gr.EventData) -> str:
        """A card was pressed: its name goes into the field."""
        return str(event.name)

    # ---- loading ------------------------------------------------------------------------------------------------------

    def begin(self, session: Session, name: str | None) -> tuple[Any, Any, Any]:
        """Starts to load a model: (line, Load button, Cancel button)."""
        name, language = (name or "").strip(), session.language
        if not name:
            return notice(say("models.choose", language), "error"), *_buttons(busy=False)
        if name == self.shelf.name:
            return notice(say("models.already", language, name=name), "ready"), *_buttons(busy=False)
        # Where another page was faster, this one watches that model come.
        self.shelf.start(name)
        session.awaits_model = True
        # What loads at once has no words any more.
        return progress(tell(self.shelf.words, language) or say("models.loading", language, name=name)), *_buttons(busy=True)

    async def watch(self, session: Session, name: str) -> AsyncIterator[tuple[Any, ...]]:
        """(line, Load button, Cancel button, list), again and again until the model that `begin` started is there or not."""
        if session.awaits_model:
            session.awaits_model = False
            async for told in self._progress(session.language):
                yield told
            yield self._outcome(name, session.language)
        else:
            yield (gr.skip(),) * 4  # Gradio empties what a generator that yields nothing should have filled

    async def watch_quietly(self, request: gr.Request) -> AsyncIterator[tuple[Any, ...]]:
        """The same for a page that opens while something goes on. The model that the program starts with comes silently."""
        language = language_of(request.headers.get("accept-language"))  # the session may not know it yet
        async for told in self._progress(language):
            yield told
        yield self._outcome("", language, quiet=True)

    async def _progress(self, language: str) -> AsyncIterator[tuple[Any, ...]]:
        while (task := self.shelf.task) is not None:
            if task.of or self.shelf.version:
                yield progress(tell(task.words, language), task.done, task.of), *_buttons(busy=True), gr.skip()
            await asyncio.sleep(POLL_SECONDS)

    def _outcome(self, name: str, language: str, quiet: bool = False) -> tuple[Any, ...]:
        stopped = self.shelf.stopped
        well = "" if quiet else say("models.loaded", language, title=tell(self.shelf.title, language))
        # Whoever asked for it was told; a page that opens later need not hear of it, as long as there is a model.
        problem = "" if quiet and (stopped or self.shelf.loaded) else self.handlers.model_problem(language)
        line = notice(problem, "ready" if stopped else "error") if problem else notice(well, "ready") if well else ""
        if self.shelf.known:
            self.shelf.entries(online=False)
        return line, *_buttons(busy=False), self._cards(language, name)


def _card(entry: Entry, used: bool, chosen: bool, language: str) -> str:
    """One model as a button, in which the names are text and never markup."""
    where = say(f"models.{'used' if used else 'here' if entry.on_disk else 'there'}", language)
    licence = tell(entry.licence, language) or say("models.licence", language)
    about, facts = tell(entry.about, language), " · ".join((tell(size(entry.size_bytes), language), licence, where))
    return (
        f'<button type="button" data-name="{html.escape(entry.name)}" aria-pressed="{str(chosen).lower()}">'
        f"<b>{html.escape(entry.name)}</b><span>{html.escape(about)}</span><em>{html.escape(facts)}</em></button>"
    )


def _buttons(busy: bool) -> tuple[Any, Any]:
    return gr.update(interactive=not busy), gr.update(visible=busy)
