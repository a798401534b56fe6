"""Endpoints that HARP calls, a program that hands a track from a music workstation to a model and takes its answer back.

HARP (https://github.com/TEAMuP-dev/HARP, versions 2 and 3) needs three endpoints of a Gradio app: `/controls` describes the
model, its tracks and its controls, `/process` gets their values in the same order and answers with files, `/cancel` ends it. No
package of HARP's is needed for that; what is called `pyharp` in the package index is another project.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio import FileData

from vampnet import audio
from vampnet.pipeline import VampNet
from vampnet.studio.controls import CONTROLS, DEFAULTS, NAMES, Control, info_of
from vampnet.studio.endpoints import add_endpoint, check_work, file_of, plain_errors, read_options
from vampnet.studio.lanes import PROGRAM_LANE
from vampnet.studio.programs import Programs
from vampnet.studio.running import Running
from vampnet.studio.text import say

ASKED = ("periodic", "kept_codebooks", "beat_width_ms", "steps", "temperature", "mask_temperature", "seed", "loop")
"""The controls that HARP shows, in its order: a workstation has little room."""
HIDDEN: dict[str, Any] = {"api_visibility": "undocumented"}


class Harp:
    """HARP's endpoints. `add` puts them into the `gr.Blocks` that it is called in.

    Args:
        programs: whose folder and model are used.
    """

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.controls_asked = [CONTROLS[NAMES.index(name)] for name in ASKED]
        self._running: dict[str, Running] = {}

    def add(self) -> None:
        """Adds the endpoints."""
        add_endpoint(self.controls, "controls", concurrency_limit=None, **HIDDEN)
        add_endpoint(self.process, "process", controls=self.controls_asked, **PROGRAM_LANE, **HIDDEN)
        add_endpoint(self.cancel, "cancel", queue=False, **HIDDEN)

    def controls(self) -> dict[str, Any]:
        """What HARP shows of the model.

        Returns:
            controls: card, inputs and outputs.
        """
        card = {
            "name": say("page.title"), "author": "VampNet Studio", "description": say("page.subtitle"),
            "tags": ["category:generation", "subcategory:infilling", "input:audio", "output:audio", "sample-rate:44100"],
        }  # fmt: skip
        track = {"type": "audio_track", "required": True}
        return {
            "card": card,
            "inputs": [
                {**track, "label": say("harp.input"), "info": say("harp.input_info")},
                *(widget(control) for control in self.controls_asked),
            ],
            "outputs": [{**track, "label": say("harp.output"), "info": say("harp.output_info")}],
        }

    def process(self, source: FileData | None, request: gr.Request, **values: Any) -> Iterator[FileData | None]:
        """One take of a track.

        Args:
            source: the track.

        Returns:
            take: the sound file.
        """
        who, programs = _sender(request), self.programs
        with plain_errors(source), programs.source(source) as (_, clip):
            asked = read_options({**values, "takes": 1}, programs.shape)
            check_work(asked, clip.seconds)

            def work(model: VampNet, on_step: Any, stopped: Any) -> Any:
                beats = clip.track() if asked.prompt.needs_beats else None
                return model.vamp(
                    clip.path, asked.prompt, asked.sampling, 1, asked.seed, loop=asked.loop, beats=beats, on_step=on_step,
                    cancelled=stopped,
                )  # fmt: skip

            running = self._running[who] = Running(programs.handlers, work)
            try:
                for _ in running:
                    yield None
            finally:
                if self._running.get(who) is running:
                    del self._running[who]
            take = running.outcome.result().takes[0]
            _, folder = programs.results.new()
            yield file_of(audio.save(take, folder / f"{clip.name}-take1-seed{asked.seed}.wav"))

    def cancel(self, request: gr.Request) -> None:
        """Ends what the same sender has asked for last; HARP does not say which of its calls it means."""
        running = self._running.get(_sender(request))
        if running is not None:
            running.stop()


def widget(control: Control) -> dict[str, Any]:
    """A control of the page as HARP describes one."""
    shared = {"label": control.label, "info": info_of(control.name), "value": DEFAULTS[control.name]}
    if isinstance(shared["value"], bool):
        return {**shared, "type": "toggle"}
    kind = "slider" if control.step else "number_box"
    return {**shared, "type": kind, "minimum": control.low, "maximum": control.high, "step": control.step or 1}


def _sender(request: gr.Request) -> str:
    """Who sends a request, as far as it shows: the address, behind a proxy that which it names, and the access token."""
    address = request.client.host if request.client else ""
    return "\n".join((address, *(request.headers.get(name) or "" for name in ("x-forwarded-for", "authorization"))))
