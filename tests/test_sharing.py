"""Sharing in the studio: whose vamps, from what, and what a link brings back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shared_vamps
import soundfile
import studio_tools
import torch
from shared_vamps import OWNER, make_vamp
from test_share import client_of

from vampnet import audio
from vampnet.bundle import read_bundle
from vampnet.gallery import Gallery, GalleryError, Limits
from vampnet.studio.controls import read_request
from vampnet.studio.mask_picture import given_mask, mask_of
from vampnet.studio.paint import paint_of
from vampnet.studio.session import Session, read_source
from vampnet.studio.share import COOKIE
from vampnet.studio.share_data import publish
from vampnet.studio.sharing import Sharing

handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats
gallery = shared_vamps.gallery


@pytest.fixture
def sharing(handlers: Any, gallery: Gallery) -> Iterator[Sharing]:
    import gradio as gr

    with gr.Blocks():
        yield Sharing(handlers, gallery)


def asked(owner: str = OWNER, **query: str) -> Any:
    return SimpleNamespace(cookies={COOKIE: owner}, query_params=query, headers={})


def event(**data: Any) -> Any:
    return SimpleNamespace(**data)


def test_nobody_shares_what_is_not_theirs(sharing: Sharing, session: Session, handlers: Any, tmp_path: Path) -> None:
    session.source = studio_tools_source(session, tmp_path)
    handlers.track(session)
    studio_tools.run_vamp(handlers, session)
    vamp = session.vamps[0]["id"]
    stranger = Session(handlers.files)
    for found in (vamp, "../x", None, ["x"], 7):
        told = sharing.act(stranger, asked(), event(action="share", vamp=found, title="Mine now"))
        assert told["stage"] == "sorry" and "no longer here" in told["problem"] and told["mine"] == []
    assert sharing.ask(session, asked(), event(action="use", vamp=vamp)).get("__type__") == "update"
    assert sharing.ask(session, asked(), event(action="share", vamp=vamp))["stage"] == "ask"
    session.vamps[0]["coming"] = 3
    for does in (sharing.ask, sharing.act):
        told = does(session, asked(), event(action="share", vamp=vamp, title="Some of it"))
        assert told["stage"] == "sorry" and "still being made" in told["problem"] and told["mine"] == []
    session.vamps[0]["coming"] = 0
    told = sharing.act(session, asked(), event(action="share", vamp=vamp, title="x" * 200, note="", private=False))
    assert told["stage"] == "again" and "at most 80" in told["problem"]
    told = sharing.act(session, asked(), event(action="share", vamp=vamp, title="Ours"))
    assert told["stage"] == "done" and [one["title"] for one in told["mine"]] == ["Ours"]
    # Beats that the page has found go with it, but not with a private one.
    assert sharing.gallery.settings(told["id"])["beats"]["beats"][:2] == [0.02, 0.5]
    private = sharing.act(session, asked(""), event(action="share", vamp=vamp, private=True))["id"]
    assert sharing.gallery.settings(private)["beats"] is None and "Roof" not in page_text(sharing.gallery, private)
    # Whoever has no cookie, as in a frame of another site, is told that nothing but the delete link is theirs.
    assert told["known"] is True
    told = sharing.act(session, asked(""), event(action="share", vamp=vamp, title="Nobody's"))
    assert told["stage"] == "done" and told["known"] is False and told["mine"] == []
    with pytest.raises(GalleryError):
        sharing.gallery.delete(told["id"], owner="")
    sharing.gallery.delete(told["id"], secret=told["secret"])
    told = sharing.ask(session, asked(), event(action="share", vamp=vamp))
    assert [one["title"] for one in told["mine"]] == ["Ours"]
    told = {"id": told["mine"][0]["id"]}
    # The list is the owner's, and so is deleting from it.
    stolen = sharing.act(stranger, asked("s" * 22), event(action="delete", id=told["id"]))
    assert stolen["mine"] == [] and "Only who shared" in stolen["problem"] and sharing.gallery.get(told["id"])
    once, twice = (sharing.act(session, asked(), event(action="delete", id=told["id"])) for _ in range(2))
    for left in (once, twice):
        assert left["stage"] == "list" and left["mine"] == []
    assert once != twice, "the browser listens only to what is new"
    sharing.gallery.limits = Limits(one=1000)
    session.language = "ko"
    assert "더 짧은 클립" in sharing.act(session, asked(), event(action="share", vamp=vamp))["problem"]


def page_text(gallery: Gallery, id: str) -> str:
    return client_of(gallery).get(f"/v/{id}").text


def studio_tools_source(session: Session, folder: Path) -> Any:
    from vampnet.studio.session import read_source

    return read_source(session, studio_tools.short_clip(folder / "Roof.wav"))


def test_lineage_goes_from_source_to_vamp_to_take(sharing: Sharing, session: Session, handlers: Any, tmp_path: Path) -> None:
    session.source = studio_tools_source(session, tmp_path)
    studio_tools.run_vamp(handlers, session)
    first = sharing.act(session, asked(), event(action="share", vamp=session.vamps[0]["id"], title="First"))["id"]
    # A take of it becomes the source, is vamped twice over, and what comes out is shared by somebody else.
    visitor = Session(handlers.files)
    message, takes, *values = sharing.restore(visitor, asked("", vamp=first))
    assert "Opened" in message and len(takes) == 1 and visitor.source.origin == first and len(values) == len(studio_tools.NAMES)
    given = {name: value["value"] for name, value in zip(studio_tools.NAMES, values, strict=True)}
    wanted = {**studio_tools.DEFAULTS, "steps": 2, "fine_steps": 1, "takes": 1}
    assert given == {name: wanted[name] for name in studio_tools.NAMES}
    for _ in range(2):
        take = visitor.vamps[0]["takes"][0]
        handlers.choose(visitor, take["sound"], take["name"])
        studio_tools.run_vamp(handlers, visitor)
    child = sharing.act(visitor, asked(""), event(action="share", vamp=visitor.vamps[0]["id"], title="Third"))["id"]
    assert sharing.gallery.get(child).parent == first
    assert [one.id for one in sharing.gallery.children(first)] == [child]
    # A clip of one's own has no parent.
    visitor.source = studio_tools_source(visitor, tmp_path)
    studio_tools.run_vamp(handlers, visitor)
    own = sharing.act(visitor, asked(""), event(action="share", vamp=visitor.vamps[0]["id"]))["id"]
    assert sharing.gallery.get(own).parent == ""
    visitor.close()


def test_the_same_takes_come_out_of_a_link(sharing: Sharing, session: Session, handlers: Any, tmp_path: Path) -> None:
    # As an MP3 is decoded, to samples that no file of 24 bits has.
    noise = 0.1 * np.random.default_rng(3).normal(size=(22_050, 2))
    soundfile.write(tmp_path / "float.wav", noise, 44_100, subtype="FLOAT")
    session.source = read_source(session, str(tmp_path / "float.wav"))
    heard = audio.load(session.source.path).audio_data
    studio_tools.run_vamp(handlers, session, takes=2, seed=5, loop=True)
    before = [soundfile.read(take["sound"])[0] for take in session.vamps[0]["takes"]]
    id = sharing.act(session, asked(), event(action="share", vamp=session.vamps[0]["id"]))["id"]
    _, takes, *values = sharing.restore(session, asked(vamp=id))
    assert torch.equal(audio.load(session.source.path).audio_data, heard)
    handlers.begin(session, *(value["value"] for value in values))
    list(handlers.vamp(session))
    for old, take, again in zip(before, takes[0]["takes"], session.vamps[0]["takes"], strict=True):
        kept = soundfile.read(take["sound"])[0]
        assert np.abs(kept - old).max() < 1e-6
        assert np.abs(soundfile.read(again["sound"])[0] - old).max() < 1e-3


@pytest.mark.parametrize("changes", [{"extend_after": 0.3, "loop": False}, {"region": [0.1, 0.3]}, {"paint": True}])
def test_a_link_brings_back_what_was_made_anew(
    changes: dict[str, Any], sharing: Sharing, session: Session, handlers: Any, tmp_path: Path
) -> None:
    session.source = studio_tools_source(session, tmp_path)
    if "paint" in changes:
        painted = torch.zeros(1, 14, handlers.shelf.shape.grid.samples_to_tokens(session.source.samples), dtype=torch.bool)
        painted[:, 3:, 5:9] = True
        changes = {"paint": paint_of(painted).value(), "loop": False}
    studio_tools.run_vamp(handlers, session, **changes)
    before = read_bundle(session.vamps[0]["folder"]).mask
    id = sharing.act(session, asked(), event(action="share", vamp=session.vamps[0]["id"]))["id"]
    _, _, *values = sharing.restore(session, asked(vamp=id))
    request = read_request([value["value"] for value in values])
    now = given_mask(request, session.source, handlers.shelf.shape)
    now = mask_of(request, session.source, handlers.shelf.shape)[0] if now is None else now
    assert now.any() and torch.equal(now, before)


@pytest.mark.parametrize("id", ["nothing", "a" * 26, "../x", "a" * 10_000])
def test_a_link_that_is_dead_leaves_the_studio_as_it_is(sharing: Sharing, session: Session, id: str) -> None:
    message, *others = sharing.restore(session, asked(vamp=id))
    assert "There is no vamp here" in message and all(other.get("__type__") == "update" for other in others)
    assert session.source is None and session.vamps == []
    assert all(other.get("__type__") == "update" for other in sharing.restore(session, asked()))


def test_opening_links_leaves_room_on_the_disk(
    sharing: Sharing, session: Session, handlers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, _ = publish(sharing.gallery, make_vamp(), title="", note="", private=True, source_name="x", owner=OWNER)
    request = SimpleNamespace(query_params={"vamp": shared.id}, cookies={}, headers={})
    usage = shutil.disk_usage(handlers.files.root)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=10_000))
        assert "disk is full" in sharing.restore(session, request)[0] and not session.vamps
    assert "disk" not in sharing.restore(session, request)[0]
    names = [one["sound"] for one in session.vamps[0]["takes"]]
    # Another name of the gallery's file, which stays when that is deleted.
    before = [Path(name).read_bytes() for name in names]
    sharing.gallery.remove(shared.id)
    assert names and [Path(name).read_bytes() for name in names] == before
