"""A vamp on its way to the gallery and back: the wave forms and the picture that its page shows, and what the deck is given."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vampnet.bundle import SETTINGS, TOKENS
from vampnet.gallery import Gallery, Shared
from vampnet.studio.mask_picture import pack_wave
from vampnet.studio.session import envelope, plain_name, shrink
from vampnet.studio.text import say
from vampnet.studio.titles import NAMED, Title, shared_title
from vampnet.vamp import Vamp

if TYPE_CHECKING:
    from collections.abc import Callable

PICTURE = "picture.png"
PICTURE_SIZE = (1200, 630)
WAVE_COLUMNS = 600
MOST_ROWS = 4
GROUND, ACCENT, QUIET = (0x15, 0x16, 0x1A), (0xF0, 0xA9, 0x3C), (0x76, 0x79, 0x84)


def publish(
    gallery: Gallery, vamp: Vamp, *, title: str = "", note: str = "", private: bool = False, parent: str | None = None,
    owner: str = "", source_name: str = "", named: Title | None = None,
) -> tuple[Shared, str]:  # fmt: skip
    """Shares a vamp with all that its page needs; arguments, result and errors as `Gallery.add`.

    Args:
        named: the title, if it is the studio's own.
    """
    waves = [envelope(take) for take in vamp.takes]
    source = None if private else envelope(vamp.source)
    seconds = vamp.source.audio_data.shape[-1] / vamp.source.sample_rate
    page = {
        "seconds": seconds, "takes": [pack_wave(wave, WAVE_COLUMNS) for wave in waves],
        "source": None if source is None else pack_wave(source, WAVE_COLUMNS), **({} if named is None else {NAMED: named}),
    }  # fmt: skip
    return gallery.add(
        vamp, title=title, note=note, private=private, parent=parent, owner=owner, source_name=source_name, page=page,
        files={PICTURE: draw_picture([*waves, *([] if source is None else [source])][:MOST_ROWS], source is not None)},
    )  # fmt: skip


def page_vamp(shared: Shared, settings: dict[str, Any], language: str, place: Callable[[str], str] = str) -> dict[str, Any]:
    """A shared vamp as the deck shows one (`players.deck_data`).

    Args:
        settings: what stands in its `vamp.json`.
        place: where a file lies, by its name.
    """
    seconds = float(shared.page.get("seconds") or settings["seconds"])
    waves = shared.page.get("takes") or []
    title = shared_title(shared, language)
    source = str(settings["extra"].get("source_name") or "") or say(
        "share.source_private" if shared.private else "share.source_unnamed", language
    )
    stem, beats = plain_name(title), settings["beats"] or {}

    def track(number: int, file: str, wave: str) -> dict[str, Any]:
        name = f"{stem}-take{number}-seed{settings['seed']}" if number else f"{stem}-source"
        return {
            "number": number, "name": name, "file": f"{name}{Path(file).suffix}", "sound": place(file), "seconds": seconds,
            "wave": wave, "favourite": False,
        }  # fmt: skip

    files = settings["files"]
    found: dict[str, Any] = {
        "id": shared.id, "folder": shared.id, "title": title, "source": source,
        "settings": {name: settings[name] for name in ("kept_share", "kept_kbps", "sampling", "seed", "model")},
        "takes": [track(number, file, wave) for number, (file, wave) in enumerate(zip(files, waves, strict=False), start=1)],
        "files": [{"file": name, "sound": place(name)} for name in (SETTINGS, TOKENS) if name in shared.files],
        "seconds": seconds, "source_track": None,
        "beats": beats.get("beats", []), "downbeats": beats.get("downbeats", []), "tempo": beats.get("tempo", 0),
    }  # fmt: skip
    if settings["source_file"] is not None:
        found["source_track"] = track(0, settings["source_file"], shared.page.get("source") or "")
    return found


def draw_picture(waves: list[np.ndarray], last_is_source: bool = False) -> bytes:
    """The wave forms (each (2, n) int8) below each other as a PNG of 1200 x 630, for those who preview a link.

    Args:
        last_is_source: that one is drawn in grey.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = PICTURE_SIZE
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = GROUND
    left, top, bottom = 60, 120, 590
    row = (bottom - top) / max(len(waves), 1)
    across = np.arange(width - 2 * left)
    for place, wave in enumerate(waves):
        columns = shrink(wave, len(across)).astype(np.float32) / 127
        low, high = columns[:, across * columns.shape[1] // len(across)]
        middle, half = top + row * (place + 0.5), row * 0.42
        rows = np.arange(height)[:, None]
        drawn = (rows >= middle - np.maximum(high * half, 1)) & (rows <= middle + np.maximum(-low * half, 1))
        pixels[:, left : width - left][drawn] = QUIET if last_is_source and place == len(waves) - 1 else ACCENT
    picture = Image.fromarray(pixels)
    # Without the title: the font that comes with Pillow knows Latin letters only.
    ImageDraw.Draw(picture).text((left, 48), "VampNet Studio", (0xE8, 0xE6, 0xE1), ImageFont.load_default(44))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
