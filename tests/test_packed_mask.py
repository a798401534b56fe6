"""A painted mask inside sound files: small, there and back, nothing from a hostile one, and back on the page's map."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import studio_tools
import torch
from studio_tools import run_vamp, short_clip, values

from vampnet import audio, metadata, packed_mask
from vampnet.bundle import read_bundle
from vampnet.config import Prompt, Sampling
from vampnet.metadata import Origin
from vampnet.packed_mask import MAX_TEXT, PackedMask
from vampnet.studio.controls import NAMES, read_request
from vampnet.studio.handlers import Handlers
from vampnet.studio.mask_picture import mask_of
from vampnet.studio.paint import paint_of
from vampnet.studio.restoring import Restoring
from vampnet.studio.session import Session

handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats
BEST = zlib.compress(bytes(2), 9)


def random_mask(levels: int = 14, steps: int = 37) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).random((1, levels, steps)) < 0.5)


def told(**changes: Any) -> dict[str, Any]:
    """A mask of 3 levels and 5 time steps as it travels, changed."""
    return {"levels": 3, "steps": 5, "bits": base64.b64encode(BEST).decode(), **changes}


@pytest.mark.parametrize("shape", [(14, 37), (1, 1), (9, 8), (14, 1000)])
def test_a_mask_comes_back(shape: tuple[int, int]) -> None:
    mask = random_mask(*shape)
    written = json.loads(json.dumps(PackedMask.of(mask).write()))
    back = packed_mask.read(written)
    assert back == PackedMask.of(mask) and torch.equal(back.mask(), mask)


def test_ten_minutes_painted_by_bars_are_small_and_noise_stays_away() -> None:
    steps = 34_453
    bars = (torch.arange(steps) // 115 % 3 == 0).expand(1, 14, steps).clone()
    bars[:, 4:, ::7] = True
    assert len(PackedMask.of(bars).write()["bits"]) < 4000
    noise = PackedMask.of(random_mask(14, steps))
    assert noise.write() is None
    # What cannot travel is left out, and the rest arrives.
    back = metadata.parse(metadata.write(Origin(Prompt(), Sampling(), painted=True, mask=noise)).encode())
    assert back is not None and back.painted and back.mask is None


@pytest.mark.parametrize(
    "value",
    [
        None, 7, "x", [], {}, told(levels=0), told(steps=-5), told(levels=True), told(levels=3.0), told(steps="5"),
        told(levels=65), told(levels=14, steps=10**9), told(steps=10**40), told(levels=3, steps=6), told(levels=1, steps=8),
        told(bits=None), told(bits="?"), told(bits="é"), told(bits="QUJD"), told(bits="A" * (MAX_TEXT + 4)),
        told(bits=base64.b64encode(BEST[:-3]).decode()), told(bits=base64.b64encode(BEST + b"more").decode()),
        # A bomb: 30 kB that would become 30 MB.
        told(bits=base64.b64encode(zlib.compress(bytes(30_000_000), 9)).decode()),
    ],
)  # fmt: skip
def test_what_is_no_mask_is_nothing_and_the_settings_still_come_back(value: Any) -> None:
    assert packed_mask.read(value) is None
    plain = Origin(Prompt(), Sampling(), painted=True)
    comment = json.dumps({**json.loads(metadata.write(plain)), "mask": value})
    assert metadata.parse(comment.encode()) == plain
    assert packed_mask.read(told()) == PackedMask(3, 5, bytes(2))


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_the_largest_mask_travels_in_every_format(ending: str, tmp_path: Path) -> None:
    origin = Origin(Prompt(), Sampling(), painted=True, mask=PackedMask.of(random_mask(14, 20_000)))
    assert MAX_TEXT * 0.9 < len(metadata.write(origin)) < metadata.MAX_BYTES
    sound = audio.make_signal(0.1 * torch.randn(1, 2, 9000), 44_100)
    assert metadata.read(audio.save(sound, tmp_path / f"x.{ending}", comment=metadata.write(origin))) == origin


@pytest.mark.parametrize("changes", [{}, {"extend_after": 0.2}, {"loop": False, "bars": "1"}], ids=["plain", "longer", "bars"])
def test_a_dropped_file_brings_the_paint_back(
    handlers: Handlers, session: Session, tmp_path: Path, changes: dict[str, Any]
) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "clip.wav", 2.5 if "bars" in changes else 0.5)))
    handlers.track(session)
    shape = handlers.shelf.shape
    plain = mask_of(read_request(values(**changes)), session.source, shape)[0]
    paint = paint_of(torch.from_numpy(np.random.default_rng(5).random(tuple(plain.shape)) < 0.5)).value()
    run_vamp(handlers, session, paint=paint, **changes)
    vamp = read_bundle(session.vamps[0]["folder"])
    exported = Path(session.vamps[0]["takes"][0]["sound"])

    restoring = SimpleNamespace(handlers=handlers)
    for visitor in (session, Session(handlers.files)):
        # Here with the source that it was made from, there as the source itself.
        visitor.language = "ko"
        Restoring.choose(restoring, visitor, str(exported))
        line, *back = Restoring.restore(restoring, visitor)
        assert back[NAMES.index("paint")] is not None and "기본값" not in line["sentence"]
        assert torch.equal(mask_of(read_request(back), visitor.source, shape)[0], vamp.mask)


def test_paint_of_another_length_is_told_of(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    origin = Origin(Prompt(), Sampling(), painted=True, mask=PackedMask.of(random_mask(14, 500)))
    sound = audio.make_signal(0.1 * torch.randn(1, 1, 20_000), 44_100)
    restoring = SimpleNamespace(handlers=handlers)
    for given in (origin, dataclasses.replace(origin, mask=None)):
        path = audio.save(sound, tmp_path / "cut.flac", comment=metadata.write(given))
        Restoring.choose(restoring, session, str(path))
        line, *back = Restoring.restore(restoring, session)
        assert back[NAMES.index("paint")] is None and "Paint" in line["sentence"] and read_request(back).paint is None
