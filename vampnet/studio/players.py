"""Takes as the page shows them: sound files with good names, and plain data for the players in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vampnet.beats import BeatGrid
from vampnet.bundle import SETTINGS, TOKENS, write_bundle
from vampnet.studio.controls import Request
from vampnet.studio.mask_picture import pack_wave
from vampnet.studio.session import Session, Source, envelope
from vampnet.studio.text import say
from vampnet.studio.titles import NAMED, Title, say_title, title_of
from vampnet.vamp import Vamp

if TYPE_CHECKING:
    from audiotools import AudioSignal

WAVE_COLUMNS = 600


def keep_vamp(
    session: Session, vamp: Vamp, request: Request, source: Source, title: Title | None = None, kind: str = "take",
    comments: Sequence[str] | None = None, before: dict[str, Any] | None = None, coming: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Writes a vamp into a folder of the session and puts it before the earlier ones.

    Args:
        kind: of the takes, in the names of their files.
        title: by default `titles.title_of` the request.
        comments: as in `bundle.write_bundle`.
        before: what this gave when it had fewer takes: it takes that one's place.
        coming: how many takes more are being made.

    Returns:
        What the deck shows, as `deck_data`, and `coming`.
    """
    folder = session.new_folder() if before is None else Path(before["folder"])
    names = [f"{source.name}-{kind}{index + 1}-seed{request.seed}" for index in range(len(vamp.takes))]
    title = title or title_of(request)
    extra = {"title": say_title(title, session.language), "source_name": source.name}
    settings = write_bundle(vamp, folder, "wav", names, extra, comments=comments)
    start, end = source.bounds(request.bars)
    shown = {
        **deck_data(settings, vamp.source, vamp.takes, folder.name, folder, source.beats_between(start, end)),
        "folder": str(folder), "origin": source.origin, NAMED: title, "coming": coming,
    }  # fmt: skip
    # So that the picture of the source and the deck know that they play the same music.
    shown["source_track"]["alias"] = {"sound": str(source.path), "start": start / source.rate, "end": end / source.rate}
    session.add_vamp(shown, before)
    if not shown["beats"]:  # which may have been found meanwhile, when the deck did not have this vamp yet
        shown.update(told_beats(source.beats_between(start, end)))
    return shown


def deck_data(
    settings: dict[str, Any], source: AudioSignal | None, takes: Sequence[AudioSignal], name: str, folder: str | Path,
    found: BeatGrid | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What `web/deck.js` needs to know of a vamp that lies in a folder as `bundle.write_bundle` writes it.

    Args:
        settings: as `write_bundle` returned them.
        source, takes: (1, C, N) each, for their waveforms; without a source the deck has takes alone, as where it is private.
        name: of the vamp, which tells it from others.
        folder: put before the names of the files: a folder's path, or part of an address.
        found: beats, if they are known and the settings have none.

    Returns:
        dict of plain data: `id`, `title`, `source` (its name), `settings`, `seconds`, `tempo` (0: unknown), `beats`,
        `downbeats` (seconds), `source_track` (or None) and `takes`: each `number` (0: the source), `name`, `file` (the name to
        download it under), `sound` (where it is), `seconds`, `wave` (as `mask_picture.pack_wave`) and `favourite`; and `files`:
        `file` and `sound` of what else belongs to the vamp.
    """
    given = settings["beats"]
    extra = settings["extra"]
    source_name = extra.get("source_name") or settings["source"] or "clip"

    def place(file: str) -> str:
        return f"{folder}/{file}"

    def track(number: int, file: str, title: str, signal: AudioSignal) -> dict[str, Any]:
        return {
            "number": number, "name": title, "file": file, "sound": place(file),
            "seconds": signal.audio_data.shape[-1] / signal.sample_rate, "wave": pack_wave(envelope(signal), WAVE_COLUMNS),
            "favourite": False,
        }  # fmt: skip

    rows = [
        track(number, file, Path(file).stem, take)
        for number, (file, take) in enumerate(zip(settings["files"], takes, strict=True), start=1)
    ]
    return {
        "id": name, "title": extra.get("title", ""), "source": source_name, "settings": settings,
        "seconds": settings["seconds"], **told_beats(found if given is None else BeatGrid(**given)),
        "source_track": None if source is None else track(0, settings["source_file"], source_name, source),
        "takes": rows, "files": [{"file": file, "sound": place(file)} for file in (SETTINGS, TOKENS)],
    }  # fmt: skip


def told_beats(grid: BeatGrid | None) -> dict[str, Any]:
    """`tempo`, `beats` and `downbeats` as `deck_data` tells them."""
    grid = grid or BeatGrid()
    return {
        "tempo": grid.tempo, "beats": [round(time, 4) for time in grid.beats],
        "downbeats": [round(time, 4) for time in grid.downbeats],
    }  # fmt: skip


def find_take(session: Session, vamp: Any, number: Any) -> dict[str, Any]:
    """Take `number` of the session's vamp with that id; 0 is its source.

    Raises:
        ValueError: there is none: the page is older than the session, or it is somebody's invention.
    """
    for kept in session.vamps:
        if kept["id"] == vamp:
            for take in (kept["source_track"], *kept["takes"]):
                if take is not None and take["number"] == number and not isinstance(number, bool):
                    return take
    raise ValueError(say("deck.no_take", session.language))
