"""A clip is heard once: for several vamps from Python, and for several presses of the button."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import pytest
import studio_tools
import torch
from tiny import tiny_vampnet

from vampnet import VampNet, metadata
from vampnet.config import CancelledError, Prompt, Sampling
from vampnet.studio.controls import read_request
from vampnet.studio.handlers import Handlers
from vampnet.studio.heard import HeardClips
from vampnet.studio.session import Session, read_source

RATE = 44_100
QUICK = Sampling(steps=1, fine_steps=1)
handlers, session, values = studio_tools.handlers, studio_tools.session, studio_tools.values

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vn() -> VampNet:
    return tiny_vampnet()


@pytest.fixture
def listens(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What `VampNet.listen` is asked for."""
    asked: list[dict] = []
    listen = VampNet.listen
    monkeypatch.setattr(
        VampNet, "listen", lambda self, source, **options: asked.append(options) or listen(self, source, **options)
    )
    return asked


# -------------------------------------------------------------------------------------------------------------- from Python


@pytest.mark.parametrize("options", [{}, {"loop": True}, {"extend": (0.5, 0.2)}, {"bars": 1}])
def test_a_vamp_of_a_clip_that_was_heard_is_the_vamp_of_its_source(vn: VampNet, make_music, listens, options: dict) -> None:
    source = 0.3 * torch.from_numpy(make_music(4.0)), RATE
    prompt = Prompt(periodic=0, region=(0.1, 0.4), beat_width_ms=50)
    plain = vn.vamp(source, prompt, QUICK, 2, **options)
    heard = {name: options[name] for name in ("loop", "bars") if name in options}
    clip = vn.listen(source, **heard)
    before = metadata.hash_of(clip.signal), clip.tokens.clone()
    asked = len(listens)
    rest = {"extend": options["extend"]} if "extend" in options else {}
    for _ in range(2):
        again = vn.vamp(clip, prompt, QUICK, 2, **rest)
        assert torch.equal(again.tokens, plain.tokens) and torch.equal(again.mask, plain.mask)
        assert (again.loop, again.bars, again.extend, again.beats) == (plain.loop, plain.bars, plain.extend, plain.beats)
        for one, other in zip(again.takes, plain.takes, strict=True):
            assert torch.equal(one.audio_data, other.audio_data)
    assert len(listens) == asked
    assert metadata.hash_of(clip.signal) == before[0] and torch.equal(clip.tokens, before[1]), "it stays as it was"


def test_a_clip_that_was_made_longer_is_none_to_begin_with(vn: VampNet, make_music) -> None:
    clip = vn.listen((torch.from_numpy(make_music(1.0)), RATE), extend=(0.0, 0.5))
    with pytest.raises(ValueError, match="made longer already"):
        vn.vamp(clip, Prompt(), QUICK)


# ------------------------------------------------------------------------------------------------------------ in the studio


def test_a_second_press_does_not_hear_the_source_again(
    handlers: Handlers, session: Session, music_file: Path, listens: list[dict]
) -> None:
    source = session.source = read_source(session, music_file)

    def press(**changes: object) -> dict:
        handlers.begin(session, *values(takes=1, steps=1, fine_steps=1, **changes))
        said = list(handlers.vamp(session))
        assert session.vamps and "class" in said[-1][0]
        return session.vamps[0]

    first = press(seed=1)
    assert len(listens) == 1
    assert press(seed=2)["id"] != first["id"] and len(listens) == 1
    handlers.hear(session, *values(periodic=7))
    handlers.hear(session, *values(periodic=7, extend_after=0.5))
    assert len(listens) == 1
    press(loop=False)
    assert len(listens) == 2, "another clip, by its tokens"
    source.grid = dataclasses.replace(source.track(), tempo=77.0)
    assert press(loop=False)["tempo"] == 77.0 and len(listens) == 2, "beats set by hand are no other sound"
    press(loop=False, bars="1")
    press(loop=False, bars="1")
    assert len(listens) == 3
    source.grid = dataclasses.replace(source.grid, beats=tuple(time + 0.05 for time in source.grid.beats))
    press(loop=False, bars="1")
    assert len(listens) == 4, "bars elsewhere are"
    session.source = read_source(session, music_file)
    press(loop=False)
    assert len(listens) == 5


def test_what_is_kept_has_an_end(vn: VampNet, handlers: Handlers, session: Session, music_file: Path, listens: list) -> None:
    request = read_request(values())
    sources = [read_source(session, music_file) for _ in range(3)]
    size = vn.listen(sources[0].path, loop=True).signal.audio_data.numel() * 4
    heard = HeardClips(2 * size)
    listens.clear()
    clips = [heard.listen(vn, source, request, None) for source in sources[:2]]
    assert heard.listen(vn, sources[0], request, None).tokens is clips[0].tokens and len(listens) == 2
    heard.listen(vn, sources[2], request, None)
    assert heard.listen(vn, sources[0], request, None).tokens is clips[0].tokens and len(listens) == 3
    assert heard.listen(vn, sources[1], request, None).tokens is not clips[1].tokens and len(listens) == 4, "it was the oldest"
    small = HeardClips(size - 1)
    small.listen(vn, sources[0], request, None)
    small.listen(vn, sources[0], request, None)
    assert len(listens) == 6 and len(small._kept) == 0
    with pytest.raises(CancelledError):
        HeardClips().listen(vn, sources[0], request, None, cancelled=lambda: True)
    del clips, sources
    gc.collect()
    assert len(heard._kept) == 0, "a source that is gone takes its sound along"
