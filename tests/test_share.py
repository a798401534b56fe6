"""The addresses of shared vamps, without a browser: what they give out, to whom, and under which headers."""

from __future__ import annotations

import io
import json
import re
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import shared_vamps
import soundfile
import studio_tools
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from shared_vamps import OWNER, SECRET_NAME, make_vamp
from starlette.applications import Starlette
from starlette.testclient import TestClient

from vampnet.gallery import Gallery, NotShared, Shared
from vampnet.studio.share import COOKIE, SharePages
from vampnet.studio.share_data import draw_picture, publish
from vampnet.studio.share_words import describe_settings
from vampnet.studio.text import en, ko

handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats
gallery = shared_vamps.gallery
NASTY = "\"><script>alert(1)</script>&'"


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
