"""The layout of the page, and which handler answers to what."""

from __future__ import annotations

import html
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from vampnet.audio import SUFFIXES
from vampnet.gallery import Gallery
from vampnet.pipeline import VampNet
from vampnet.studio.chooser import Chooser
from vampnet.studio.comp_room import Comping
from vampnet.studio.controls import FOLLOWERS, NAMES, READ
from vampnet.studio.deck import Deck
from vampnet.studio.handlers import Handlers
from vampnet.studio.harp import Harp
from vampnet.studio.journey_room import JourneyRoom
from vampnet.studio.lanes import LONGEST_QUEUE, MODEL_LANE
from vampnet.studio.programs import Programs
from vampnet.studio.prompts import Prompts
from vampnet.studio.recorder import Recorder
from vampnet.studio.restoring import Restoring
from vampnet.studio.results import keep_tidy
from vampnet.studio.session import Session
from vampnet.studio.share_limit import ShareLimit
from vampnet.studio.sharing import Sharing
from vampnet.studio.shelf import ModelShelf
from vampnet.studio.text import label, say, script, translations
from vampnet.studio.theme import make_theme
from vampnet.studio.token_map import TokenMap

TITLE = say("page.title")
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "assets"
MAX_UPLOAD = "500mb"
MOST_SESSIONS = 2000
"""That Gradio remembers, some 0.2 MB each whatever was done in it; an open page is among those used last."""
HOUR = 3600
AGAIN_SECONDS = 600


def build(
    model: VampNet | ModelShelf, examples: Path = EXAMPLES, gallery: Gallery | None = None
) -> tuple[gr.Blocks, dict[str, Any]]:
    """The studio's page.

    Args:
        model: the model, or the shelf that holds one or is about to: the page opens at once, and a vamp waits for it. If the
            shelf gives visitors the choice, the page has a chooser.
        examples: folder of example clips; it may be missing or empty.
        gallery: where visitors may share vamps by link; None = they cannot.

    Returns:
        The page, and the arguments that its `launch` needs (style, scripts, the folder it may give files out of).
    """
    handlers = Handlers(model, examples)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(HOUR, HOUR)) as page:
        session = gr.State(Session(handlers.files), delete_callback=Session.let_go)
        with gr.Column(elem_id="studio"):
            status = _header()
            chooser = Chooser(handlers) if handlers.shelf.choice else None
            source = _source(handlers)
            token_map, prompts = TokenMap(), Prompts()
            with gr.Column(elem_id="action"):
                with gr.Row(elem_id="buttons"):
                    vamp = gr.Button(label("page.vamp"), variant="primary", elem_id="vamp", scale=3)
                    journeys = JourneyRoom(handlers)
                    stop = gr.Button(label("page.stop"), elem_id="stop", interactive=False, scale=1, min_width=80)
                progress = gr.HTML("", elem_id="progress", apply_default_css=False)
            with gr.Column(elem_id="decks"):
                journeys.strip.render()
                deck = Deck(handlers)
                comping = Comping(handlers)
            # One for people and programs.
            limit = ShareLimit.of(gallery.limits) if gallery is not None else None
            sharing = Sharing(handlers, gallery, limit) if gallery is not None else None
        # Before the page's own events, which would take the names of the endpoints.
        programs = Programs(handlers, gallery, limit)
        programs.add()
        Harp(programs).add()
        tell_of_model = _wire(
            page, handlers, session, status, source, token_map, prompts, vamp, stop, progress, deck, sharing, journeys, comping
        )
        if chooser is not None:
            chooser.wire(page, session, tell_of_model)
        # Pressed by web/answers.js, for the stream that an event opens.
        answers = gr.Button(visible="hidden", elem_id="answers")
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        answers.click(lambda: None, None, None, concurrency_limit=None, trigger_mode="multiple", **quiet)
        # Gradio counts the age of a session from when it was given out last, once it believes that its page is gone.
        gr.Timer(AGAIN_SECONDS).tick(lambda session: session, session, session, queue=False, **quiet)
    page.queue(default_concurrency_limit=4, max_size=LONGEST_QUEUE)
    keep_tidy(page)
    return page, {**launch_options(handlers), **(sharing.launch_options() if sharing is not None else {})}


def launch_options(handlers: Handlers) -> dict[str, Any]:
    """What `Blocks.launch` must be given for the page to look and work as it should."""
    scripts = "".join(f"<script>{text}</script>" for text in (script(), *_web(".js")))
    return {
        "theme": make_theme(), "css": "\n".join(_web(".css")), "head": scripts, "i18n": translations(),
        "allowed_paths": [str(handlers.files.root)], "max_file_size": MAX_UPLOAD, "footer_links": ["api"], "run_history": False,
        "ssr_mode": False, "state_session_capacity": MOST_SESSIONS,
    }  # fmt: skip


def _web(ending: str) -> list[str]:
    """The texts of all files in `web/` with this ending, in the order of their names."""
    found = sorted((path for path in files("vampnet.studio.web").iterdir() if path.name.endswith(ending)), key=lambda p: p.name)
    return [path.read_text(encoding="utf-8") for path in found]


# ----------------------------------------------------------------------------------------------------------------- layout


def _header() -> gr.HTML:
    with gr.Row(elem_id="header"):
        gr.HTML(
            '<h1 data-say="page.title"></h1><p data-say="page.subtitle"></p>', elem_id="title", apply_default_css=False,
            js_on_load="VampStudio.fill(element)",
        )  # fmt: skip
        return gr.HTML("", elem_id="status", apply_default_css=False, min_width=160)


def _source(handlers: Handlers) -> dict[str, Any]:
    """Three ways to bring a clip, and the line that says what came of it."""
    found: dict[str, Any] = {}
    with gr.Column(elem_id="source"):
        with gr.Tabs(elem_id="ways"):
            with gr.Tab(label("page.upload")):
                types = ["audio", *SUFFIXES]
                found["upload"] = gr.File(
                    label=label("page.file"), show_label=False, container=False, file_types=types, height=148, elem_id="upload"
                )
                found["try"] = gr.Button(label("page.try"), elem_id="try", size="sm", visible=bool(handlers.examples))
            with gr.Tab(label("page.record")):
                found["recorder"] = Recorder(handlers)
            with gr.Tab(label("page.examples"), visible=bool(handlers.examples)):
                chips = "".join(
                    f'<button type="button" data-index="{i}">{html.escape(_words(path.stem))}</button>'
                    for i, path in enumerate(handlers.examples)
                )
                found["examples"] = gr.HTML(
                    html_template=f'<div class="vs-chips">{chips}</div>', elem_id="examples", apply_default_css=False,
                    js_on_load="VampStudio.choices(element, trigger, (data) => ({index: Number(data.index)}))",
                )  # fmt: skip
        found["message"] = gr.HTML("", elem_id="message", apply_default_css=False)
        found["restoring"] = Restoring(handlers)
    return found


def _words(name: str) -> str:
    """The name of an example file for people."""
    words = name.replace("_", " ").replace("-", " ")
    return words[:1].upper() + words[1:]


# ----------------------------------------------------------------------------------------------------------------- wiring


def _wire(
    page: gr.Blocks, handlers: Handlers, session: gr.State, status: gr.HTML, source: dict[str, Any], token_map: TokenMap,
    prompts: Prompts, vamp: gr.Button, stop: gr.Button, progress: gr.HTML, deck: Deck, sharing: Sharing | None,
    journeys: JourneyRoom, comping: Comping,
) -> Callable[[Callable[..., Any]], None]:  # fmt: skip
    """Connects all but the chooser; returns what makes the page follow an exchange of the model."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    # Not in the queue: it would cost the picture its speed, and Stop its meaning.
    at_once = {**quiet, "queue": False}
    made, picture, message = {**prompts.controls, **token_map.controls}, token_map.picture, source["message"]
    controls = {name: made[name] for name in NAMES}
    everything = list(controls.values())
    drawing: dict[str, Any] = {"fn": handlers.draw, "inputs": [session, *everything], "outputs": picture, **at_once}

    told, followers = ([controls[name] for name in names] for names in (READ, FOLLOWERS))

    def tell_of_model(on: Callable[..., Any]) -> None:
        known = on(handlers.model_status, session, status, concurrency_limit=None, **quiet)
        known.then(handlers.follow_model, [session, *told], followers, **at_once).then(**drawing)

    visit = gr.Textbox(visible="hidden", elem_id="visit")
    name_of_tab = "async (session, visit) => [session, await VampStudio.visit()]"
    opened = page.load(handlers.open_page, [session, visit], session, js=name_of_tab, **at_once)
    pending = gr.Textbox(visible="hidden", elem_id="pending")
    there = opened.then(handlers.resume, session, [message, deck.takes, pending, *everything], **at_once)
    there = there.then(journeys.resume, session, journeys.strip, **at_once)
    # Only where something was under way: each question in the queue is a stream more, and browsers have few.
    pending.change(handlers.go_on, session, [progress, deck.takes, vamp, stop], concurrency_limit=None, **quiet)
    if sharing is None:
        there.then(**drawing)
    else:
        sharing.wire(there, session, deck, message, controls, drawing)
    tell_of_model(there.then)  # only then the visitor's language is known
    gr.on([control.change for control in everything], trigger_mode="always_last", **drawing)

    # A file that was read leaves its field, so that the next one can be dropped there, the same one too. While one is read
    # the next one may come.
    each = {**quiet, "trigger_mode": "multiple"}
    read: dict[str, Any] = {"outputs": [message, source["upload"]], **each, "concurrency_limit": 4}
    restoring, recorder = source["restoring"], source["recorder"]
    uploaded = source["upload"].upload(
        lambda own, given: (restoring.choose(own, given), None), [session, source["upload"]], **read
    )
    dropped = restoring.drop.upload(restoring.choose_dropped, session, message, **each, concurrency_limit=4)
    itself = restoring.line.select(restoring.choose_itself, session, message, **quiet)
    recorded = recorder.html.upload(recorder.take, session, message, **quiet)
    picked = source["examples"].select(handlers.choose_example, session, message, **each, concurrency_limit=4)
    tried = source["try"].click(handlers.try_example, session, message, **quiet)
    reused, again = deck.wire(session, message)
    gone_on = journeys.wire(session, everything, message, progress, vamp, stop)
    comping.wire(session, progress, vamp, stop, deck.takes)
    for brought in (uploaded, dropped):
        brought.then(restoring.restore, session, [restoring.line, *everything], **at_once)
    for other in (itself, recorded, picked, tried, reused, gone_on):
        other.then(restoring.clear, session, restoring.line, **at_once)
    for chosen in (uploaded, dropped, itself, recorded, picked, tried, reused, gone_on):
        # What follows one clip must not keep back what follows the next, as "once" would.
        drawn = chosen.then(**drawing, trigger_mode="multiple")
        tracked = drawn.then(handlers.track, session, None, concurrency_limit=4, **each).then(
            handlers.tell_source, [session, message], message, queue=False, **each
        )
        tracked.then(**drawing).then(recorder.tell, session, recorder.html, **at_once)
        tracked.then(deck.late_beats, session, deck.takes, **quiet)

    prompts.wire(handlers, session, message, drawing)
    token_map.wire(handlers, session, everything)

    buttons = [vamp, stop]
    for pressed in (vamp.click, again.then, tried.then):
        pressed(handlers.begin, [session, *everything], [progress, *buttons], **at_once).then(
            handlers.vamp, session, [progress, deck.takes, *buttons], **MODEL_LANE, **quiet
        ).then(handlers.catch_up, [session, *everything], [status, *followers, picture], **at_once)
    return tell_of_model
