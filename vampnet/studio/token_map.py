"""The token map: what stays and what is made anew over the source's spectrogram, to look at, to paint on, to listen to."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vampnet.studio.handlers import Handlers
from vampnet.studio.lanes import PREVIEW_LANE
from vampnet.studio.session import Session

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {**QUIET, "queue": False}

TOOLS = ("look", "keep", "make", "erase")
BRUSHES = ("cell", "step", "level", "bar")


def _buttons(kind: str, names: tuple[str, ...]) -> str:
    return "".join(
        f'<button type="button" data-{kind}="{name}" aria-pressed="false" data-say="map.{kind}.{name}"'
        f' data-say-title="map.{kind}.{name}.title"></button>'
        for name in names
    )


def _handle(side: str) -> str:
    return f'<div class="vs-handle vs-handle-{side}" role="slider" tabindex="0" data-say-label="map.region.{side}"></div>'


FIGURE = f"""
<figure class="vs-picture">
  <div class="vs-map-tools" role="toolbar" data-say-label="map.tools">
    <span class="vs-segment" role="group" data-say-label="map.tools">{_buttons("tool", TOOLS)}</span>
    <span class="vs-segment vs-brushes" role="group" data-say-label="map.brush">{_buttons("brush", BRUSHES)}</span>
    <button type="button" class="vs-undo" disabled data-say="map.undo" data-say-title="map.undo.title"></button>
    <button type="button" class="vs-clear" disabled data-say="map.clear" data-say-title="map.clear.title"></button>
  </div>
  <div class="vs-stage">
    <canvas role="img"></canvas>
    <div class="vs-strip" data-say-title="map.region.title">{_handle("start")}{_handle("end")}</div>
    <div class="vs-cells" tabindex="0" role="application" data-say-label="map.cells.label"><div class="vs-cursor" hidden></div></div>
    <div class="vs-head" hidden></div>
  </div>
  <figcaption>
    <button type="button" class="vs-play" disabled></button>
    <button type="button" class="vs-hear" disabled data-say-title="map.hear.title"></button>
    <span class="vs-sentence" aria-live="polite" data-say-title="map.keeps.title"></span>
    <button type="button" class="vs-clear-region" disabled data-say="map.region.clear" data-say-title="map.region.clear.title"></button>
    <span class="vs-legend"><i class="vs-kept"></i><span data-say="map.legend.kept"></span>
      <i class="vs-made"></i><span data-say="map.legend.made"></span></span>
  </figcaption>
  <p class="vs-map-note" role="status"></p>
  <p class="vs-cursor-words" aria-live="polite"></p>
</figure>
"""  # noqa: E501


class TokenMap:
    """Lays itself out where it is made (inside a `gr.Blocks`); `wire` connects it.

    Attributes:
        picture: shows `mask_picture.picture`.
        controls: the components "region" and "paint", which hold what was drawn on the map.
    """

    def __init__(self) -> None:
        self.picture = gr.HTML(
            {}, html_template=FIGURE, js_on_load="VampStudio.picture(element, props, watch)", elem_id="picture",
            apply_default_css=False,
        )  # fmt: skip
        self.controls = {name: self._held(name, "map") for name in ("region", "paint")}
        self.ground = self._held("ground", "map", "select")
        self.heard = self._held("heard", "map", "select")

    @staticmethod
    def _held(name: str, room: str, event: str = "") -> gr.HTML:
        """A component that shows nothing: it carries a value between the page's scripts and the handlers."""
        return gr.HTML(
            None, html_template="", elem_id=f"{room}-{name}", elem_classes="vs-held", apply_default_css=False,
            js_on_load=f"VampStudio.held('{name}', props, watch, trigger, '{event}')",
        )  # fmt: skip

    def wire(self, handlers: Handlers, session: gr.State, everything: list[Any]) -> None:
        """Connects the parts.

        Args:
            session: the visitor's `Session`.
            everything: all controls in the order of `CONTROLS`.
        """
        # The map asks for the ground that it lacks, whatever way a source came.
        self.ground.select(handlers.ground, session, self.ground, trigger_mode="multiple", **AT_ONCE)

        def hear(session: Session, event: gr.EventData, *values: Any) -> dict[str, Any]:
            # Which question it answers: by then another may have been asked.
            return {**handlers.hear(session, *values), "number": getattr(event, "number", None)}

        given = [session, *everything]
        self.heard.select(hear, given, self.heard, trigger_mode="multiple", **PREVIEW_LANE, **QUIET)
