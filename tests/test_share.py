"""The addresses of shared vamps, without a browser: what they give out, to whom, and under which headers."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
import studio_tools
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from shared_vamps import SECRET_NAME, make_vamp
from starlette.applications import Starlette
from starlette.testclient import TestClient

from vampnet import audio
from vampnet.bundle import read_bundle
from vampnet.gallery import Gallery, GalleryError, Limits, NotShared, Shared
from vampnet.studio.controls import read_request
from vampnet.studio.mask_picture import given_mask, mask_of
from vampnet.studio.paint import paint_of
from vampnet.studio.session import Session, read_source
from vampnet.studio.share import COOKIE, SharePages
from vampnet.studio.share_data import draw_picture, publish
from vampnet.studio.share_words import describe_settings
from vampnet.studio.sharing import Sharing
from vampnet.studio.text import en, ko

handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats
OWNER = "o" * 22
NASTY = "\"><script>alert(1)</script>&'"


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "gallery")


@pytest.fixture
def client(gallery: Gallery) -> TestClient:
    return client_of(gallery)


def client_of(gallery: Gallery, **options: Any) -> TestClient:
    return TestClient(Starlette(routes=SharePages(gallery).routes()), base_url="https://studio.example", **options)


def add(gallery: Gallery, **options: Any) -> tuple[Shared, str]:
    return publish(gallery, make_vamp(1, 0.1), **{"title": "Rain", "owner": OWNER, "source_name": SECRET_NAME, **options})


def test_a_page_says_what_there_is(client: TestClient, gallery: Gallery) -> None:
    parent, _ = add(gallery, title="First")
    shared, _ = add(gallery, title=NASTY, note=NASTY, parent=parent.id)
    answer = client.get(f"/v/{shared.id}")
    text = answer.text
    assert answer.status_code == 200 and "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert "one moment in 2 (17 ms each)" in text and "5 passes" in text and f'href="{parent.id}"' in text
    assert f'href="../?vamp={shared.id}"' in text and f'src="{shared.id}/files/take-1.flac"' in text
    meta = dict(re.findall(r'<meta (?:property|name)="([^"]+)" content="([^"]*)">', text))
    assert meta["og:url"] == f"https://studio.example/v/{shared.id}" and meta["twitter:card"] == "summary_large_image"
    assert meta["og:image"] == f"{meta['og:url']}/files/picture.png" and meta["robots"] == "noindex"
    data = json.loads(re.search(r'id="deck-data">(.*?)</script>', text)[1])
    assert data["vamp"]["title"] == NASTY.strip() and data["vamp"]["source_track"]["sound"] == "source.flac"
    assert f'href="{shared.id}"' in client.get(f"/v/{parent.id}").text
    headers = answer.headers
    assert "script-src 'self';" in headers["content-security-policy"] and "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["x-robots-tag"] == "noindex"
    # No script stands in the page, but for the deck's data, which is none.
    assert re.findall(r"<script(?![^>]* src=)([^>]*)>", text) == [' type="application/json" id="deck-data"']
    assert not re.search(r"\son\w+=|\sstyle=", re.sub(r'id="deck-data">.*?</script>', "", text))
    for name in re.findall(r'(?:src|href)="(static/[^"]+)"', text):
        got = client.get(f"/v/{name}")
        assert got.status_code == 200 and "immutable" in got.headers["cache-control"], name


def test_a_private_source_is_nowhere(client: TestClient, gallery: Gallery) -> None:
    parent, _ = add(gallery)
    shared, _ = add(gallery, private=True, parent=parent.id)
    page, embed = (client.get(f"/v/{shared.id}{ending}").text for ending in ("", "/embed"))
    for text in (page, embed, client.get(f"/v/{shared.id}/files/vamp.json").text):
        assert SECRET_NAME not in text and "0.1234" not in text and parent.id not in text and "source.flac" not in text
    assert "keeps the source private" in page
    for name in ("source.flac", "tokens.safetensors", "share.json"):
        assert client.get(f"/v/{shared.id}/files/{name}").status_code == 404
        assert name == "share.json" or client.get(f"/v/{parent.id}/files/{name}").status_code == 200
    # Its picture has one row: that of the take.
    with_source, without = (rows_of(client.get(f"/v/{one.id}/files/picture.png").content) for one in (parent, shared))
    assert (with_source, without) == (2, 1)


def rows_of(png: bytes) -> int:
    """How many wave forms a picture shows."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert picture.shape == (630, 1200, 3)
    drawn = (np.abs(picture[110:] - picture[0, 0]).sum(axis=2) > 40).any(axis=1)
    return int((np.diff(drawn.astype(int)) == 1).sum())


def test_files_come_whole_and_in_parts(client: TestClient, gallery: Gallery) -> None:
    shared, _ = add(gallery)
    address = f"/v/{shared.id}/files/take-1.flac"
    whole = client.get(address)
    assert whole.headers["content-type"] == "audio/flac" and whole.headers["cache-control"].endswith("immutable")
    assert whole.headers["accept-ranges"] == "bytes" and whole.headers["x-content-type-options"] == "nosniff"
    assert soundfile.read(io.BytesIO(whole.content))[0].shape == (4410, 2)
    part = client.get(address, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == whole.content[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
    assert client.get(address, headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416
    assert client.head(address).headers["content-length"] == str(len(whole.content))


def test_oembed_and_the_form_for_frames(client: TestClient, gallery: Gallery) -> None:
    shared, _ = add(gallery, title=NASTY)
    page = client.get(f"/v/{shared.id}").text
    discovered = re.search(r'type="application/json\+oembed" href="([^"]+)"', page)[1].replace("&amp;", "&")
    found = client.get(discovered).json()
    assert found["type"] == "rich" and found["version"] == "1.0" and found["title"] == NASTY
    assert found["thumbnail_url"] == f"https://studio.example/v/{shared.id}/files/picture.png"
    assert f'src="https://studio.example/v/{shared.id}/embed"' in found["html"] and "<script" not in found["html"]
    wishes = {"url": f"https://evil.example/v/{shared.id}", "maxwidth": "300", "maxheight": "x"}
    small = client.get("/oembed", params=wishes).json()
    assert (small["width"], small["height"]) == (300, 560) and "evil" not in json.dumps(small)
    assert client.get("/oembed", params={"url": "https://studio.example/v/nothing"}).status_code == 404
    assert client.get("/oembed").status_code == 404
    assert client.get(discovered.replace("json&", "xml&")).status_code == 501
    embed, framed = client.get(f"/v/{shared.id}/embed"), client.get(f"/v/{shared.id}")
    assert "frame-ancestors *" in embed.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in framed.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="\.\./([^"?]+)[^"]*"', embed.text):
        assert name == "" or name.startswith("../") or client.get(f"/v/{name}").status_code == 200, name


def test_deleting_wants_the_secret_or_the_owner_and_a_token(client: TestClient, gallery: Gallery) -> None:
    shared, secret = add(gallery)
    other, _ = add(gallery, owner="p" * 22)
    address = f"/v/{shared.id}/delete"
    assert "frame-ancestors 'none'" in client.get(address).headers["content-security-policy"]
    assert 'name="secret"' in client.get(address).text
    for form in ({}, {"secret": "wrong"}, {"token": "wrong"}, {"secret": shared.secret}):
        answer = client.post(address, data=form)
        assert answer.status_code == 403 and "not the key" in answer.text
    mine = client_of(gallery, cookies={COOKIE: OWNER})
    page = mine.get(address).text
    token = re.search(r'name="token" value="([0-9a-f]{64})"', page)[1]
    assert 'name="secret"' not in page and OWNER not in page
    # Another site can send the cookie at best, never the token; and one vamp's token is no other's.
    assert mine.post(address).status_code == 403
    assert mine.post(f"/v/{other.id}/delete", data={"token": token}).status_code == 403
    assert client.post(address, data={"token": token}).status_code == 403
    assert mine.post(address, content=b"token=" + b"x" * 100_000).status_code == 403
    assert "is gone" in mine.post(address, data={"token": token}).text or gallery
    with pytest.raises(NotShared):
        gallery.get(shared.id)
    assert mine.post(address, data={"token": token}).status_code == 404
    again, secret = add(gallery)
    assert client.post(f"/v/{again.id}/delete", content="a=1&" * 11).status_code == 403, "more fields than any form has"
    assert client.post(f"/v/{again.id}/delete", data={"secret": secret}).status_code == 200
    assert client.get(f"/v/{again.id}").status_code == 404 and gallery.get(other.id)


def test_the_owners_cookie(client: TestClient) -> None:
    assert client.post("/v/owner").status_code == 403 and not client.cookies
    first = client.post("/v/owner", headers={"X-VampNet": "1"})
    cookie = first.headers["set-cookie"].lower()
    assert first.status_code == 204 and all(word in cookie for word in ("httponly", "samesite=lax", "secure", "path=/"))
    value = client.cookies[COOKIE]
    assert len(value) >= 22
    client.post("/v/owner", headers={"X-VampNet": "1"})
    assert client.cookies[COOKIE] == value
    plain = TestClient(client.app, base_url="http://127.0.0.1")
    assert "secure" not in plain.post("/v/owner", headers={"X-VampNet": "1"}).headers["set-cookie"].lower()


@pytest.mark.parametrize("root", ["", "/spaces/vamp", "https://public.example/vamp"])
def test_it_works_below_a_path_and_behind_a_proxy(gallery: Gallery, root: str) -> None:
    import gradio as gr
    from gradio.routes import App

    shared, _ = add(gallery)
    with gr.Blocks() as page:
        gr.HTML("the studio")
    page.root_path = root
    client = TestClient(
        App.create_app(page, app_kwargs={"routes": SharePages(gallery).routes()}), base_url="http://inside:7860"
    )
    headers = {"X-Forwarded-Host": "studio.example", "X-Forwarded-Proto": "https"}
    wanted = root if root.startswith("http") else f"https://studio.example{root}"
    # A proxy may cut its path off or leave it there.
    for prefix in ("", root if root.startswith("/") else ""):
        answer = client.get(f"{prefix}/v/{shared.id}", headers=headers)
        assert answer.status_code == 200 and f'content="{wanted}/v/{shared.id}"' in answer.text, prefix
        assert client.get(f"{prefix}/v/{shared.id}/files/take-1.flac").content[:4] == b"fLaC"
        assert client.get(f"{prefix}/v/nothing").status_code == 404
    assert client.get("/gradio_api/app_id").json()["app_id"] == page.app_id


HOSTILE = [
    "..", "%0A0", "x%0A", "../share.json", "%E2%80%AE", "static/../page.css", "%EB%B1%80%ED%94%84", "%FF%FE",
    "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd", "a" * 5000,
    "static/%2e%2e%2fsharing.py", "static/sharing.py", "x/files/../../index.sqlite", "%00", "<script>", "{0}/files/share.json",
    "{0}/files/..%2fshare.json", "{0}/files/%2e%2e%2f{0}%2fshare.json", "{0}/files/.", "{0}/", "{0}/nothing", "{0}x", "{1}",
]  # fmt: skip


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40).map(lambda text: quote(text, errors="replace"))))
def test_what_is_not_there_is_said_kindly(client: TestClient, gallery: Gallery, place: str) -> None:
    id = next((path.name for path in gallery.vamps.iterdir()), None) or add(gallery)[0].id
    path = place.replace("{0}", id).replace("{1}", id.upper())
    for language, words in (("en", "There is no vamp here"), ("ko-KR,ko;q=0.9", "여기에는 뱀프가 없습니다")):
        answer = client.get(f"/v/{path}", headers={"Accept-Language": language})
        if path == f"{id}/":
            assert answer.status_code == 200
        elif "/v/" in str(answer.request.url.path):
            assert answer.status_code == 404 and words in answer.text
            assert answer.headers["x-content-type-options"] == "nosniff" and "Traceback" not in answer.text


def test_settings_in_words(gallery: Gallery) -> None:
    shared, _ = add(gallery)
    plain = gallery.settings(shared.id)
    full = {
        **plain, "bars": 2,
        "prompt": plain["prompt"]
        | {"periodic": 0, "kept_codebooks": 1, "beat_width_ms": 75.0, "dropout": 0.25, "region": [1, 2]},
        "sampling": {**plain["sampling"], "feedback": 3, "top_p": 0.9},
    }  # fmt: skip
    words = {term: value for term, value, _ in describe_settings(full, "en")}
    assert words["What stayed"].startswith(
        "the 1 coarsest levels throughout; 75 ms at each beat; everything outside 1 s to 2 s; less a random 25 % of it · "
    )
    assert "top-p 0.9" in words["How the rest was filled"] and "3 rounds" in words["How the rest was filled"]
    assert "cut to whole bars (2)" in words["Length"]
    free = {**plain, "prompt": {**plain["prompt"], "periodic": 0}}
    assert describe_settings(free, "ko")[0][1].startswith("없음")
    # The same sentences with the same values in all languages.
    ours = [key for key in en.TEXT if key.startswith("share.")]
    for key in ours:
        assert set(re.findall(r"{\w+}", en.TEXT[key])) == set(re.findall(r"{\w+}", ko.TEXT[key])), key


def test_a_picture_of_nothing_and_of_a_long_clip() -> None:
    assert rows_of(draw_picture([np.zeros((2, 3), np.int8)])) == 1
    loud = np.stack([np.full(50_000, -127), np.full(50_000, 127)]).astype(np.int8)
    assert rows_of(draw_picture([loud] * 4, True)) == 4


# ----------------------------------------------------------------------------------------------------- in the studio


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
    sharing.gallery._remove(shared.id)
    assert names and [Path(name).read_bytes() for name in names] == before
