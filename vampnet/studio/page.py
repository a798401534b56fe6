"""The layout of the page, and which handler answers to what."""

from __future__ import annotations

import html
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from vampnet.pipeline import VampNet
from vampnet.studio.chooser import Chooser
from vampnet.studio.comp_room import Comping
from vampnet.studio.controls import BARS, CONTROLS, DEFAULTS, FOLLOWERS, LEVELS, MAX_SEED, Control, info_of
from vampnet.studio.deck import Deck
from vampnet.studio.handlers import AUDIO_ENDINGS, Handlers
from vampnet.studio.journey_room import JourneyRoom
from vampnet.studio.presets import PRESETS, TOUCHED
from vampnet.studio.recorder import Recorder
from vampnet.studio.restoring import Restoring
from vampnet.studio.session import Session
from vampnet.studio.shelf import ModelShelf
from vampnet.studio.text import say, script, translations
from vampnet.studio.theme import make_theme

TITLE = say("page.title")
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "assets"
MAX_UPLOAD = "500mb"
HOUR = 3600

PICTURE_HTML = """
<figure class="vs-picture">
  <div class="vs-stage"><canvas role="img"></canvas><div class="vs-head" hidden></div></div>
  <figcaption>
    <button type="button" class="vs-play" disabled aria-label="Play the source">Play source</button>
    <span class="vs-sentence" aria-live="polite"></span>
    <span class="vs-legend"><i class="vs-kept"></i>stays <i class="vs-made"></i>made anew</span>
  </figcaption>
</figure>
"""


def build(model: VampNet | ModelShelf, examples: Path = EXAMPLES) -> tuple[gr.Blocks, dict[str, Any]]:
    """The studio's page.

    Args:
        model: the model, or the shelf that holds one or is about to: the page opens at once, and a vamp waits for it. If the
            shelf gives visitors the choice, the page has a chooser.
        examples: folder of example clips; it may be missing or empty.

    Returns:
        The page, and the arguments that its `launch` needs (style, scripts, the folder it may give files out of).
    """
    handlers = Handlers(model, examples)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(HOUR, HOUR)) as page:
        session = gr.State(Session(handlers.files), delete_callback=Session.close)
        with gr.Column(elem_id="studio"):
            status = _header()
            chooser = Chooser(handlers) if handlers.shelf.choice else None
            source = _source(handlers)
            picture = gr.HTML(
                {}, html_template=PICTURE_HTML, js_on_load="VampStudio.picture(element, props, watch)", elem_id="picture",
                apply_default_css=False,
            )  # fmt: skip
            with gr.Column(elem_id="controls"):
                chosen_preset = _presets()
                controls, dice = _controls()
            with gr.Column(elem_id="action"):
                with gr.Row(elem_id="buttons"):
                    vamp = gr.Button("Vamp", variant="primary", elem_id="vamp", scale=3)
                    journeys = JourneyRoom(handlers)
                    stop = gr.Button("Stop", elem_id="stop", interactive=False, scale=1, min_width=80)
                progress = gr.HTML("", elem_id="progress", apply_default_css=False)
            with gr.Column(elem_id="decks"):
                journeys.strip.render()
                deck = Deck(handlers)
                comping = Comping(handlers)
        tell_of_model = _wire(
            page, handlers, session, status, source, picture, chosen_preset, controls, dice, vamp, stop, progress, deck,
            journeys, comping,
        )
        if chooser is not None:
            chooser.wire(page, session, tell_of_model)
    page.queue(default_concurrency_limit=4)
    return page, launch_options(handlers)


def launch_options(handlers: Handlers) -> dict[str, Any]:
    """What `Blocks.launch` must be given for the page to look and work as it should."""
    scripts = "".join(f"<script>{text}</script>" for text in (script(), *_web(".js")))
    return {
        "theme": make_theme(), "css": "\n".join(_web(".css")), "head": scripts, "i18n": translations(),
        "allowed_paths": [str(handlers.files.root)], "max_file_size": MAX_UPLOAD, "footer_links": [], "run_history": False,
        "ssr_mode": False,
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
            with gr.Tab("Upload"):
                types = ["audio", *AUDIO_ENDINGS]
                found["upload"] = gr.File(
                    label="Sound file", show_label=False, container=False, file_types=types, height=148, elem_id="upload"
                )
            with gr.Tab("Record"):
                found["recorder"] = Recorder(handlers)
            with gr.Tab("Examples", visible=bool(handlers.examples)):
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


def _presets() -> gr.HTML:
    cards = "".join(
        f'<button type="button" data-name="{html.escape(preset.name)}" aria-pressed="false">'
        f"<b>{html.escape(preset.name)}</b><span>{html.escape(preset.sentence)}</span></button>"
        for preset in PRESETS
    )
    template = f'<div class="vs-scale" aria-hidden="true"><span>faithful</span><i></i><span>free</span></div>\
<div class="vs-presets" role="group" aria-label="Presets from faithful to free">{cards}</div>'
    return gr.HTML(
        html_template=template, elem_id="presets", apply_default_css=False,
        js_on_load="VampStudio.choices(element, trigger, (data) => ({name: data.name}))",
    )  # fmt: skip


def _controls() -> tuple[dict[str, Any], gr.Button]:
    """All controls by name, in the order of `CONTROLS`, and the dice."""
    made: dict[str, Any] = {}
    groups = {name: [control for control in CONTROLS if control.group == name] for name in ("stays", "filled", "takes", "more")}
    for name, heading in (("stays", "What stays"), ("filled", "How the rest is filled")):
        gr.HTML(f"<h2>{heading}</h2>", apply_default_css=False, elem_classes="vs-heading")
        with gr.Row(elem_classes="vs-grid"):
            made.update({control.name: _widget(control) for control in groups[name]})
    gr.HTML("<h2>Takes</h2>", apply_default_css=False, elem_classes="vs-heading")
    with gr.Row(elem_classes="vs-grid"):
        for control in groups["takes"]:
            if control.name == "seed":
                with gr.Row(elem_classes="vs-seed"):
                    made["seed"] = _widget(control)
                    dice = gr.Button("New seed", elem_id="dice", size="sm", min_width=60, scale=0)
            else:
                made[control.name] = _widget(control)
    with gr.Accordion("More controls", open=False, elem_id="more"):
        with gr.Row(elem_classes="vs-grid"):
            made.update({control.name: _widget(control) for control in groups["more"]})
    return {control.name: made[control.name] for control in CONTROLS}, dice


def _widget(control: Control) -> Any:
    shared = {"label": control.label, "info": info_of(control), "elem_id": f"control-{control.name}", "min_width": 200}
    value = DEFAULTS[control.name]
    if control.name == "loop":
        return gr.Checkbox(value, **shared)
    if control.name == "bars":
        return gr.Radio(list(BARS), value=value, **shared)
    if control.name == "seed":
        return gr.Number(value, precision=0, minimum=0, maximum=MAX_SEED, **shared)
    # Without a reset button: presets are the way back.
    return gr.Slider(control.low, control.high, value, step=control.step, buttons=[], **shared)


# ----------------------------------------------------------------------------------------------------------------- wiring


def _wire(
    page: gr.Blocks, handlers: Handlers, session: gr.State, status: gr.HTML, source: dict[str, Any], picture: gr.HTML,
    chosen_preset: gr.HTML, controls: dict[str, Any], dice: gr.Button, vamp: gr.Button, stop: gr.Button, progress: gr.HTML,
    deck: Deck, journeys: JourneyRoom, comping: Comping,
) -> Callable[[Callable[..., Any]], None]:  # fmt: skip
    """Connects all but the chooser; returns what makes the page follow an exchange of the model."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    # Not in the queue: it would cost the picture its speed, and Stop its meaning.
    at_once = {**quiet, "queue": False}
    everything, message = list(controls.values()), source["message"]
    drawing: dict[str, Any] = {"fn": handlers.draw, "inputs": [session, *everything], "outputs": picture, **at_once}

    levels, followers = ([controls[name] for name in names] for names in (LEVELS, FOLLOWERS))

    def tell_of_model(on: Callable[..., Any]) -> None:
        told = on(handlers.model_status, None, status, concurrency_limit=None, **quiet)
        told.then(handlers.follow_model, [session, *levels], followers, **at_once).then(**drawing)

    page.load(handlers.open_page, session, session, **at_once).then(**drawing)
    tell_of_model(page.load)
    gr.on([control.change for control in everything], trigger_mode="always_last", **drawing)

    # A file that was read leaves its field, so that the next one can be dropped there, the same one too.
    read: dict[str, Any] = {"outputs": [message, source["upload"]], **quiet, "concurrency_limit": 4}
    restoring, recorder = source["restoring"], source["recorder"]
    uploaded = source["upload"].upload(
        lambda own, given: (restoring.choose(own, given), None), [session, source["upload"]], **read
    )
    dropped = restoring.drop.upload(restoring.choose_dropped, session, message, **quiet, concurrency_limit=4)
    itself = restoring.line.select(restoring.choose_itself, session, message, **quiet)
    recorded = recorder.html.upload(recorder.take, session, message, **quiet)
    picked = source["examples"].select(handlers.choose_example, session, message, **quiet)
    reused, again = deck.wire(session, message)
    gone_on = journeys.wire(session, everything, message, progress, vamp, stop)
    comping.wire(session, progress, vamp, stop, deck.takes)
    for brought in (uploaded, dropped):
        brought.then(restoring.restore, session, [restoring.line, *everything], **at_once)
    for other in (itself, recorded, picked, reused, gone_on):
        other.then(restoring.clear, session, restoring.line, **at_once)
    for chosen in (uploaded, dropped, itself, recorded, picked, reused, gone_on):
        tracked = chosen.then(**drawing).then(handlers.track, session, message, concurrency_limit=4, **quiet)
        tracked.then(**drawing).then(recorder.tell, session, recorder.html, **at_once)
        tracked.then(deck.late_beats, session, deck.takes, **quiet)

    chosen_preset.select(handlers.use_preset, session, [controls[name] for name in TOUCHED], **at_once)
    dice.click(handlers.new_seed, None, controls["seed"], **at_once)

    buttons = [vamp, stop]
    for pressed in (vamp.click, again.then):
        pressed(handlers.begin, [session, *everything], [progress, *buttons], **at_once).then(
            handlers.vamp, session, [progress, deck.takes, *buttons], concurrency_limit=1, concurrency_id="model", **quiet
        ).then(handlers.catch_up, [session, *everything], [status, *followers, picture], **at_once)
    return tell_of_model
