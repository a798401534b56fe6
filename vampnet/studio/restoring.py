"""Bringing a file by dropping it anywhere on the page, and what travels inside it: settings and seed come back with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import torch.nn.functional as F

from vampnet import audio, metadata
from vampnet.beats import BeatGrid
from vampnet.bundle import read_settings
from vampnet.config import SAMPLE_RATE, TokenGrid
from vampnet.extend import plan
from vampnet.studio.controls import BARS, CONTROLS, DEFAULTS, MAX_TAKES, NAMES, capped, read_request, whole_depth
from vampnet.studio.handlers import Handlers
from vampnet.studio.mask_picture import lay_out
from vampnet.studio.notices import is_error, notice
from vampnet.studio.paint import paint_of
from vampnet.studio.session import Session, Source, read_source
from vampnet.studio.text import say
from vampnet.studio.uploads import uploaded

if TYPE_CHECKING:
    from vampnet.metadata import Origin
    from vampnet.studio.shelf import Shape

LINE_HTML = '<div class="vs-restored"></div>'


class Restoring:
    """Lays itself out where it is made (inside a `gr.Blocks`); the script is `web/drop.js`.

    Attributes:
        drop: covers the page while a file is dragged over it; fires `upload` when one that was dropped has arrived.
        line: says what came back with a file; fires `select` when the file itself is wanted as the source.
    """

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        self.line = gr.HTML(
            None, html_template=LINE_HTML, elem_id="restored", apply_default_css=False,
            js_on_load="VampStudio.restored(element, props, watch, trigger)",
        )  # fmt: skip
        self.drop = gr.HTML(
            html_template='<div class="vs-drop"></div>', elem_id="drop", apply_default_css=False,
            js_on_load="VampStudio.dropping(element, trigger, upload)",
        )  # fmt: skip

    def choose(self, session: Session, given: str | None) -> Any:
        """A file becomes the source, or, if it is a take whose source is here, that does. Returns what
        `Handlers.choose` does."""
        session.kept.pop("restored", None)
        origin = metadata.read(given) if given else None
        if origin is None:
            return self.handlers.choose(session, given)
        found = find_source(session, origin)
        if found is None:
            message = self.handlers.choose(session, given)
            if is_error(message) or not isinstance(message, str):
                return message
        else:
            session.use(found)
            message = notice(f"{found.name}, {found.seconds:.1f} s", "busy")
        session.kept["restored"] = origin, given if found is not None else None
        return message

    def choose_dropped(self, session: Session, event: gr.EventData) -> Any:
        """The same for a file that was dropped on the page."""
        try:
            return self.choose(session, str(uploaded(event.path)))
        except (ValueError, AttributeError):
            return notice(say("restore.lost", session.language), "error")

    def choose_itself(self, session: Session) -> Any:
        """The file itself becomes the source, after all."""
        origin, given = session.kept.pop("restored", (None, None))
        if given is None:
            return gr.skip()
        return self.handlers.choose(session, given)

    def restore(self, session: Session) -> list[Any]:
        """[line, *all controls]: what came back with the file that was chosen last, if anything did."""
        if "restored" not in session.kept:
            return [None, *[gr.skip()] * len(NAMES)]
        origin, given = session.kept["restored"]
        values, missing = control_values(origin, session.shape)
        if values is None:
            return [None, *[gr.skip()] * len(NAMES)]
        if origin.painted:
            values, missing = with_paint(values, missing, origin, session, itself=given is None)
        language = session.language
        labels = {control.name: say(f"map.{control.name}", language) for control in CONTROLS}
        source = origin.source or say("restore.unnamed", language)
        what = say(f"restore.{origin.kind}", language, number=origin.take, source=source)
        known = "restore.known" if given is not None else "restore.unknown"
        sentence = f"{what} {say(known, language, seed=origin.seed)}"
        if missing:
            sentence += " " + say("restore.missing", language, names=", ".join(labels.get(name, name) for name in missing))
        return [{"sentence": sentence, "itself": given is not None}, *values]

    def clear(self, session: Session) -> None:
        """The source has come from elsewhere: the line (the value that is returned) goes."""
        session.kept.pop("restored", None)


def control_values(origin: Origin, shape: Shape) -> tuple[list[Any] | None, list[str]]:
    """The values of all controls, in their order, as `read_request` accepts them.

    Args:
        origin: what a file says.
        shape: of the model, since sliders of levels end at its levels.

    Returns:
        The values, None if they do not go together; and the names of what this page has no place for: these stay at their
        defaults.
    """
    given = {**vars(origin.prompt), **vars(origin.sampling), "seed": origin.seed, "takes": origin.takes, "loop": origin.loop}
    given["bars"] = "off" if origin.bars is None else str(origin.bars)
    given |= {"extend_before": origin.extend[0], "extend_after": origin.extend[1]}
    given["region"] = None if origin.prompt.region is None else list(origin.prompt.region)
    missing = [name for name, value in given.items() if name not in NAMES and value != _default(name)]
    values = []
    for control in CONTROLS:
        value = capped(control.name, given.get(control.name, DEFAULTS[control.name]), shape)
        if control.name in ("region", "paint"):
            fits = True
        else:
            fits = value in BARS if control.name == "bars" else control.low <= value <= control.high
        if not fits:
            missing.append(control.name)
            value = min(value, MAX_TAKES) if control.name == "takes" else DEFAULTS[control.name]
        values.append(value)
    try:
        read_request(values)
    except ValueError:
        return None, missing
    return values, missing


def with_paint(
    values: list[Any], missing: list[str], origin: Origin, session: Session, itself: bool
) -> tuple[list[Any], list[str]]:
    """The values and the missing names of `control_values` with what was painted, if the source is as long as that was.

    Args:
        origin: says that its mask was painted, and mostly which.
        session: whose source it is painted on.
        itself: the file is the source: it is cut to whole bars and made longer already, and neither is done again.
    """
    plain = dict(zip(NAMES, values, strict=True))
    done = {**plain, "bars": "off", "extend_before": 0.0, "extend_after": 0.0}
    for given in (done, plain) if itself else (plain, done):
        if origin.mask is None:
            break
        given["paint"] = paint_of(origin.mask.mask()).value()
        wanted = [given[name] for name in NAMES]
        try:
            request = read_request(whole_depth(wanted, session.shape.levels))
            if request.paint.fits(lay_out(request, session.source, session.shape).mask):
                return wanted, missing
        except ValueError:
            continue  # bars that the source does not have
    return values, [*missing, "paint"]


def _default(name: str) -> Any:
    """Of a field of `Prompt` or `Sampling` that the page has no control for."""
    return DEFAULTS.get(name)


def find_source(session: Session, origin: Origin) -> Source | None:
    """The source that a file's takes were made of, if this session still has it: in use, or kept with its takes."""
    if not origin.source_hash:
        return None
    current = session.source
    if current is not None and _hash_of_source(current, origin, session.shape.grid) == origin.source_hash:
        return current
    for vamp in session.vamps:
        folder = Path(vamp["folder"])
        try:
            settings = read_settings(folder)
            told = metadata.read(folder / settings["files"][0])
            if told is None or told.source_hash != origin.source_hash:
                continue
            sound = audio.load(folder / settings["source_file"], SAMPLE_RATE)
            start, end = _inner(sound.audio_data.shape[-1], settings, vamp)
            clip = audio.make_signal(sound.audio_data[..., start:end], SAMPLE_RATE)
            found = read_source(session, clip, vamp["source"], session.origin_of(folder / settings["source_file"]))
            beats = settings.get("beats") or {}
            beats = {name: tuple(value) if isinstance(value, list) else value for name, value in beats.items()}
            found.grid = BeatGrid(**beats).cut(start / SAMPLE_RATE, end / SAMPLE_RATE) if beats else None
            return found
        except (ValueError, OSError, KeyError, IndexError, TypeError):
            continue  # a vamp whose files are gone
    return None


def _inner(samples: int, settings: dict[str, Any], vamp: dict[str, Any]) -> tuple[int, int]:
    """Where the clip itself lies in the source of a kept vamp, of so many samples: without what was added to it.

    Raises:
        ValueError: that is not known, as where a link brought it as a whole.
    """
    if not any(settings["extend"]):
        return 0, samples
    alias = vamp["source_track"]["alias"]
    clip = round((alias["end"] - alias["start"]) * SAMPLE_RATE)
    added = plan(clip, tuple(settings["extend"]), TokenGrid(**settings["grid"]), bool(settings["loop"]))
    if added.length != samples:
        raise ValueError("This source was made longer elsewhere.")
    return added.offset, added.offset + clip


def _hash_of_source(source: Source, origin: Origin, grid: TokenGrid) -> str:
    """Of what a vamp of the current source would be made of, with the bars of the file and what it added."""
    try:
        start, end = source.bounds(origin.bars if isinstance(origin.bars, int) else None)
        samples = audio.load(source.path, SAMPLE_RATE).audio_data[..., start:end]
        # What was added is part of what was vamped.
        added = plan(samples.shape[-1], origin.extend, grid, origin.loop)
        samples = F.pad(samples, (added.offset, added.length - added.offset - samples.shape[-1]))
        return metadata.hash_of(audio.make_signal(samples, SAMPLE_RATE))
    except ValueError:
        return ""
