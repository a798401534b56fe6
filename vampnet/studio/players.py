"""Takes as the page shows them: sound files with good names, and plain data for the players in the browser."""

from __future__ import annotations

from typing import Any

from vampnet.bundle import write_bundle
from vampnet.studio.controls import Request, values_of
from vampnet.studio.mask_picture import describe, pack_wave
from vampnet.studio.presets import matching
from vampnet.studio.session import Session, Source, envelope
from vampnet.vamp import Vamp

WAVE_COLUMNS = 600


def keep_vamp(session: Session, vamp: Vamp, request: Request, source: Source) -> dict[str, Any]:
    """Writes the takes of a vamp into the session's folder and puts them before the earlier ones.

    Returns:
        dict of plain data: `title`, `source`, `sentence`, `folder`, and `takes`: each `number`, `name`, `file` (the name to
        download it under), `sound` (its path), `seconds` and `wave` (as `mask_picture.pack_wave`).
    """
    folder = session.new_folder()
    takes, names = [], [f"{source.name}-take{index + 1}-seed{request.seed}" for index in range(len(vamp.takes))]
    title = _title(request)
    settings = write_bundle(vamp, folder, "wav", names, {"title": title, "source_name": source.name})
    for index, (take, name) in enumerate(zip(vamp.takes, names, strict=True)):
        path = folder / settings["files"][index]
        takes.append(
            {
                "number": index + 1,
                "name": name,
                "file": path.name,
                "sound": str(path),
                "seconds": take.audio_data.shape[-1] / take.sample_rate,
                "wave": pack_wave(envelope(take), WAVE_COLUMNS),
            }  # fmt: skip
        )
    shown = {
        "title": title, "source": source.name, "folder": str(folder), "takes": takes,
        "sentence": f"{describe(vamp.mask, vamp.grid)[:-1]} · {request.sampling.steps} steps · seed {request.seed}",
    }  # fmt: skip
    session.add_vamp(shown)
    return shown


def _title(request: Request) -> str:
    """The preset that was asked for, or the prompt in a few words."""
    name = matching(values_of(request))
    if name is not None:
        return name
    prompt, parts = request.prompt, []
    if prompt.periodic:
        parts.append(f"P {prompt.periodic}")
    if prompt.kept_codebooks:
        parts.append(f"N_k {prompt.kept_codebooks}")
    if prompt.prefix_seconds or prompt.suffix_seconds:
        parts.append(f"context {prompt.prefix_seconds:g} s and {prompt.suffix_seconds:g} s")
    if prompt.beat_width_ms:
        parts.append(f"beats {prompt.beat_width_ms:g} ms")
    if prompt.onset_width_ms:
        parts.append(f"onsets {prompt.onset_width_ms:g} ms")
    return ", ".join(parts) or "Nothing kept"


def find_take(session: Session, sound: str) -> dict[str, Any]:
    """The take of this session that lies at `sound`.

    Raises:
        ValueError: there is none: the page is older than the session, or the path is somebody's invention.
    """
    for vamp in session.vamps:
        for take in vamp["takes"]:
            if take["sound"] == sound:
                return take
    raise ValueError("That take is no longer here: vamp again to get new ones.")
