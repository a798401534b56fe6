"""Recording with the microphone to a metronome: whole bars, to the sample, with their beats known."""

from __future__ import annotations

import math
from typing import Any

import gradio as gr
import torch

from vampnet import audio
from vampnet.audio import AudioError
from vampnet.beats import BeatGrid, make_grid
from vampnet.config import SAMPLE_RATE
from vampnet.studio.handlers import Handlers
from vampnet.studio.notices import notice
from vampnet.studio.session import Session, read_source
from vampnet.studio.text import say, tell, worded
from vampnet.studio.uploads import uploaded

MIN_BPM, MAX_BPM = 30.0, 300.0
METRES = tuple(range(2, 8))
MAX_BARS = 600
MOST_OFF = 0.05
"""Seconds that a recording may be shorter or longer than its bars: more is not rounding, and its bars would be a fiction."""

ENGINE = "metronome"


class Recorder:
    """Lays itself out where it is made (inside a `gr.Blocks`); the script is `web/record.js`.

    Attributes:
        html: fires `upload` when a recording has arrived; its value is {"tempo": of the source, or 0}.
    """

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        limits = {"low": MIN_BPM, "high": MAX_BPM, "metres": METRES, "seconds": audio.MAX_SECONDS}
        self.html = gr.HTML(
            {"tempo": 0}, html_template='<div class="vs-recorder"></div>', elem_id="recorder", apply_default_css=False,
            js_on_load="VampStudio.recorder(element, props, watch, trigger, upload)", limits=limits,
        )  # fmt: skip

    def take(self, session: Session, event: gr.EventData) -> Any:
        """A recording that has arrived becomes the source, with its beats. Returns the message to show."""
        ticket = session.ticket()
        try:
            bpm, metre, bars = _checked(event.bpm, event.metre, event.bars)
            signal = whole_bars(audio.load(uploaded(event.path), SAMPLE_RATE), bpm, metre, bars)
            source = read_source(session, signal, say("record.name", session.language, tempo=f"{bpm:g}"))
            note = worded("record.beats")
            source.grid = metronome(bpm, metre, bars, note)
            if not session.use(source, ticket):
                return gr.skip()
        except AudioError as error:
            return notice(tell(error, session.language), "error")
        except (ValueError, AttributeError):
            return notice(say("record.lost", session.language), "error")
        return notice(f"{source.name}, {source.seconds:.2f} s", "busy")

    def tell(self, session: Session) -> dict[str, Any]:
        """The tempo of the source, for the button that takes it over."""
        grid = None if session.source is None else session.source.grid
        known = grid is not None and MIN_BPM <= grid.tempo <= MAX_BPM
        return {"tempo": round(grid.tempo, 1) if known else 0, "metre": grid.beats_per_bar if known else 0}


def _checked(bpm: Any, metre: Any, bars: Any) -> tuple[float, int, int]:
    """ValueError for what the page does not send."""
    for value in (bpm, metre, bars):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError("Tempo, metre and bars are numbers.")
    if not MIN_BPM <= bpm <= MAX_BPM or metre not in METRES or not 1 <= bars <= MAX_BARS or bars != int(bars):
        raise ValueError("Tempo, metre or bars out of range.")
    return float(bpm), int(metre), int(bars)


def samples_of(bpm: float, metre: int, bars: int) -> int:
    """Exact length of so many bars at `SAMPLE_RATE`."""
    return round(bars * metre * 60 / bpm * SAMPLE_RATE)


def whole_bars(signal: Any, bpm: float, metre: int, bars: int) -> Any:
    """A recording of `bars` bars as long as these are: what a browser at another sample rate has rounded off is put right.

    Args:
        signal: AudioSignal (1, C, N) at `SAMPLE_RATE`.

    Raises:
        ValueError: it is not as long as its bars.
    """
    wanted, length = samples_of(bpm, metre, bars), signal.audio_data.shape[-1]
    if abs(wanted - length) > MOST_OFF * SAMPLE_RATE:
        raise ValueError(f"{length} samples are not {bars} bars.")
    samples = torch.nn.functional.pad(signal.audio_data, (0, max(0, wanted - length)))[..., :wanted]
    return audio.make_signal(samples.contiguous(), SAMPLE_RATE)


def metronome(bpm: float, metre: int, bars: int, note: str = "") -> BeatGrid:
    """The beats of a recording that was played to a metronome."""
    beats = [beat * 60 / bpm for beat in range(metre * bars)]
    return make_grid(beats, beats[::metre], ENGINE, note)
