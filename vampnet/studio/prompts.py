"""The right side of the page: presets with plain names, the sliders beneath, tempo and bar line, an advanced fold."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from vampnet.studio.controls import BARS, CONTROLS, DEFAULTS, FOLLOWERS, MAX_SEED, READ, Control, info_of
from vampnet.studio.handlers import Handlers
from vampnet.studio.presets import PRESETS, TOUCHED
from vampnet.studio.text import label

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}

TEMPO_ROWS = (("half", "double", "slower", "faster"), ("earlier", "later", "left", "right"))


class Prompts:
    """Lays itself out where it is made (inside a `gr.Blocks`); `wire` connects it.

    Attributes:
        controls: components by the names of `CONTROLS`, all but those of the group "map".
    """

    def __init__(self) -> None:
        made: dict[str, Any] = {}
        with gr.Column(elem_id="controls"):
            self.presets = gr.HTML(
                html_template=_cards(), elem_id="presets", apply_default_css=False,
                js_on_load="VampStudio.presets(element, trigger)",
            )  # fmt: skip
            for group in ("stays", "filled"):
                _heading(group)
                with gr.Row(elem_classes="vs-grid"):
                    made.update(_widgets(group))
            _heading("length")
            with gr.Row(elem_classes="vs-grid"):
                made.update(_widgets("length"))
            self.tempo = gr.HTML(
                html_template=_tempo_tools(), elem_id="tempo", apply_default_css=False,
                js_on_load="VampStudio.tempo(element, trigger)",
            )  # fmt: skip
            _heading("takes")
            with gr.Row(elem_classes="vs-grid"):
                made["takes"] = _widget(_named("takes"))
                with gr.Row(elem_classes="vs-seed"):
                    made["seed"] = _widget(_named("seed"))
                    self.dice = gr.Button(label("map.seed.new"), elem_id="dice", size="sm", min_width=60, scale=0)
            with gr.Accordion(label("map.heading.more"), open=False, elem_id="more"):
                with gr.Row(elem_classes="vs-grid"):
                    made.update(_widgets("more"))
        self.controls = made

    def wire(self, handlers: Handlers, session: gr.State, message: gr.HTML, drawing: dict[str, Any]) -> None:
        """Connects the parts.

        Args:
            session: the visitor's `Session`.
            message: the line about the source.
            drawing: arguments of an event that draws the map anew.
        """
        # "multiple": on a slow line the next press comes before the answer to this one.
        each = {**AT_ONCE, "trigger_mode": "multiple"}
        touched = [self.controls[name] for name in TOUCHED]
        self.presets.select(handlers.use_preset, session, touched, **each)
        self.dice.click(handlers.new_seed, None, self.controls["seed"], **AT_ONCE)
        self.tempo.select(handlers.set_tempo, session, message, **each).then(**{**drawing, "trigger_mode": "multiple"})


def _named(name: str) -> Control:
    return next(control for control in CONTROLS if control.name == name)


def _heading(group: str) -> None:
    gr.HTML(
        f'<h2 data-say="map.heading.{group}"></h2>', apply_default_css=False, elem_classes="vs-heading",
        js_on_load="VampStudio.fill(element)",
    )  # fmt: skip


def _cards() -> str:
    cards = "".join(
        f'<button type="button" data-name="{html.escape(preset.name)}" aria-pressed="false">'
        f'<b data-say="map.preset.{preset.key}"></b><span data-say="map.preset.{preset.key}.info"></span></button>'
        for preset in PRESETS
    )
    return f'<div class="vs-presets" role="group" data-say-label="map.presets">{cards}</div>'


def _tempo_tools() -> str:
    def button(act: str) -> str:
        says = f'data-say="map.tempo.{act}" data-say-title="map.tempo.{act}.title"'
        return f'<button type="button" data-act="{act}" {says}></button>'

    rows = "".join(f'<div class="vs-tempo-row">{"".join(button(act) for act in row)}</div>' for row in TEMPO_ROWS)
    return f"""<div class="vs-tempo" role="group" data-say-label="map.tempo">
  <div class="vs-tempo-head"><span data-say="map.tempo" data-say-title="map.tempo.title"></span>
    <b class="vs-bpm" aria-live="polite"></b>{button("tap")}</div>{rows}</div>"""


def _widgets(group: str) -> dict[str, Any]:
    return {control.name: _widget(control) for control in CONTROLS if control.group == group}


TOLD = tuple(name for name in FOLLOWERS if name not in READ)
"""The controls whose line says something about the model."""


def _widget(control: Control) -> Any:
    key = f"map.{control.name}"
    # What says something about the model gets its words once the page knows of the model.
    info = info_of(control.name) if control.name in TOLD else label(f"{key}.info")
    shared = {"label": label(key), "info": info, "elem_id": f"control-{control.name}", "min_width": 200}
    value = DEFAULTS[control.name]
    if isinstance(value, bool):
        return gr.Checkbox(value, **shared)
    if control.name == "bars":
        return gr.Radio([(label("map.bars.off") if bars == "off" else bars, bars) for bars in BARS], value=value, **shared)
    if control.name == "seed":
        return gr.Number(value, precision=0, minimum=0, maximum=MAX_SEED, **shared)
    # Without a reset button: presets are the way back.
    return gr.Slider(control.low, control.high, value, step=control.step, buttons=[], **shared)
