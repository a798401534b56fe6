"""Sharing in Chromium: a vamp becomes a link, which opens elsewhere after a restart, plays, and goes back into the studio."""

from __future__ import annotations

import http.server
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLE_RATE, synthesise_music
from studio_tools import BEATS
from test_browser import WAIT, bring, bundled_model, nameless, slide, vamp

from vampnet import beats
from vampnet.bundle import read_bundle
from vampnet.gallery import Gallery, GalleryError
from vampnet.studio.page import build
from vampnet.studio.share_limit import ShareLimit

pytestmark = pytest.mark.browser
NAMELESS = """() => [...document.querySelectorAll('.vp-page :is(input, button, a), dialog :is(input, button, a)')]
  .filter((e) => e.type !== 'hidden' && !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim()))
  .map((e) => e.outerHTML)"""


@pytest.fixture(autouse=True)
def known_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracking is tested elsewhere; with this it is instant."""
    monkeypatch.setattr(beats, "track", lambda signal, **options: BEATS)


@contextmanager
def serve(folder: Path, root_path: str = "") -> Iterator[str]:
    """A running studio with a gallery: its address."""
    page, options = build(bundled_model(), folder / "none", Gallery(folder / "gallery"))
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, root_path=root_path, **options)
    yield url
    page.close(verbose=False)


@contextmanager
def visit(browser: Any, address: str, missing: bool = False, **options: Any) -> Iterator[Any]:
    """A visitor with a page open; afterwards the console must hold no error, but the one about a page that is `missing`."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page, errors = context.new_page(), []
    page.set_default_timeout(WAIT)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    assert len(errors) == missing, errors


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import soundfile

    path = tmp_path_factory.mktemp("clip") / "Kitchen loop.wav"
    soundfile.write(path, synthesise_music(2.1).T[:92_345], SAMPLE_RATE, subtype="PCM_16")
    return path


def make(page: Any, clip: Path) -> None:
    page.wait_for_selector("#status .vs-ready")
    bring(page, clip)
    slide(page, "periodic", 5)
    page.fill("#control-seed input", "41")
    vamp(page, takes=2, steps=3)
    page.wait_for_selector("#progress :text('2 takes are ready')")


def share(page: Any, title: str, private: bool = False) -> tuple[str, str]:
    """(link, delete link) of the vamp on the deck."""
    page.click("[data-action=share]")
    page.wait_for_selector(".vs-dialog[open] .vs-share-form")
    page.fill(".vs-share-form input[type=text]", title)
    if private:
        page.check(".vs-share-check input")
    page.click(".vs-share-go")
    page.wait_for_selector(".vs-share-done")
    fields = page.locator(".vs-share-done input")
    return fields.nth(0).input_value(), fields.nth(2).input_value()


def hangs_over(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > innerWidth")


def check_layout(page: Any) -> None:
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert not hangs_over(page), width
    assert page.evaluate(NAMELESS) == []


def wait_until(page: Any, condition: str) -> None:
    """As `wait_for_function`, which the policy of a share page forbids."""
    page.evaluate(f"async () => {{ while (!({condition})) await new Promise(requestAnimationFrame); }}")


def test_a_link_outlives_the_server_and_brings_everything_back(browser: Any, clip: Path, tmp_path: Path) -> None:
    with serve(tmp_path) as address, visit(browser, address) as page:
        make(page, clip)
        link, _ = share(page, "Rain <b>on</b> tin")
        check_layout(page)
        assert nameless(page) == []
        assert page.locator(".vs-share-mine li").count() == 1
        name = link.rpartition("/")[2]
        assert re.fullmatch("[a-z2-7]{26}", name)
        page.click(".vs-dialog > .vs-flat")
        secret, _ = share(page, "Secret", private=True)
        assert page.locator(".vs-share-mine li").count() == 2
        [cookie] = [found for found in page.context.cookies() if found["name"] == "vampnet-owner"]
        assert cookie["httpOnly"] and cookie["sameSite"] == "Lax"
        state = page.context.storage_state()

    with serve(tmp_path) as address:
        with visit(browser, f"{address}v/{name}") as page:
            assert page.locator("h1").inner_text() == "Rain <b>on</b> tin"
            assert page.locator(".vs-track").count() == 3 and page.locator(".vp-players").count() == 0
            assert page.evaluate("typeof window.gradio_config") == "undefined"
            page.keyboard.press("2")
            wait_until(page, "VampStudio.player.state().playing && VampStudio.player.state().heard === 2")
            wait_until(page, "VampStudio.player.position() > 0.1")
            check_layout(page)
            page.get_by_role("link", name="Open in the studio").click()
            page.wait_for_selector("#message :text('Opened “Rain <b>on</b> tin”')")
            page.wait_for_selector(".vs-sentence:has-text('Keeps 2')")
            controls = {one: page.input_value(f"#control-{one} input[type=range]") for one in ("periodic", "steps", "takes")}
            assert controls == {"periodic": "5", "steps": "3", "takes": "2"}
            assert page.input_value("#control-seed input") == "41"
            assert page.locator(".vs-take").count() == 2 and page.locator("#picture .vs-play").is_enabled()
            assert page.locator(".vs-deck h2").inner_text() == "Rain <b>on</b> tin of Kitchen loop"
            with visit(browser, address) as other:
                other.wait_for_selector(".vs-picture[data-drawn]")
                assert other.locator(".vs-take").count() == 0 and "Rain" not in other.content()
            # Made from it: its page names the one that it came from, and the other way round.
            vamp(page)
            page.wait_for_selector("#progress :text('1 take is ready')")
            child, delete = share(page, "Daughter")
            assert page.locator(".vs-share-mine li").count() == 1  # another visitor has shared the other one
            page.goto(child)
            page.locator("nav a", has_text="Rain").click()
            page.locator("nav a", has_text="Daughter").wait_for()
            page.goto(delete)
            page.get_by_role("button", name="Delete").click()
            page.wait_for_selector("h1:has-text('Deleted')")
            page.goto(f"{address}v/{name}")
            assert page.locator("nav a").count() == 0
        with visit(browser, f"{address}v/{secret.rpartition('/')[2]}", storage_state=state) as page:
            assert page.locator(".vs-track").count() == 2 and "Kitchen" not in page.content()
            page.get_by_role("link", name="Open in the studio").click()
            page.wait_for_selector("#message :text('Its source is private')")
            assert page.locator(".vs-take").count() == 2 and page.locator("#picture .vs-play").is_disabled()
            page.click("[data-action=share]")
            page.click(".vs-share-go")
            page.wait_for_selector(".vs-dialog [role=alert]:has-text('cannot be shared again')")
            rows = page.locator(".vs-share-mine li")
            assert rows.all_inner_texts()[0].startswith("Secret") and rows.count() == 2
            rows.nth(1).get_by_role("button").click()
            rows.nth(1).get_by_role("button").click()
            page.wait_for_selector(".vs-share-mine li >> nth=1", state="detached")
        with visit(browser, f"{address}v/{name}", missing=True, locale="ko-KR") as page:
            assert page.locator("h1").inner_text() == "여기에는 뱀프가 없습니다"
            check_layout(page)


def test_the_dialog_opens_again_and_says_why_each_time(
    browser: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(tmp_path) as address, visit(browser, address) as page:
        make(page, clip)
        page.click("[data-action=share]")
        page.wait_for_selector(".vs-dialog[open] .vs-share-form")
        page.keyboard.press("Escape")
        page.wait_for_selector(".vs-dialog:not([open])", state="attached")
        link, _ = share(page, "First")
        monkeypatch.setattr(ShareLimit, "counted", refuse)
        page.click(".vs-dialog > .vs-flat")
        page.click("[data-action=share]")
        for _ in range(2):
            page.click(".vs-share-go:enabled")
            page.wait_for_selector(".vs-dialog [role=alert]:has-text('60 minutes')")
            page.wait_for_selector(".vs-share-go:enabled")
        monkeypatch.undo()
        page.click(".vs-dialog > .vs-flat")
        link, _ = share(page, "Second")
        # The link that the dialog shows goes with the vamp behind it.
        # What a button has become is read aloud too.
        copy = page.get_by_role("button", name="Copy: Link")
        copy.click()
        page.get_by_role("button", name="Copied: Link").wait_for()
        row = page.locator(".vs-share-mine li", has_text="Second").get_by_role("button")
        row.click()
        assert row.get_attribute("aria-label") == "Really delete? Delete the shared vamp “Second”"
        row.click()
        page.wait_for_selector(".vs-share-done", state="detached")
        assert page.evaluate("document.activeElement.textContent") == "Close"

        first = page.locator(".vs-share-mine li a").get_attribute("href")
        # In a page of its own: where the studio is left while an answer is under way, Gradio's client calls that an error.
        shared = page.context.new_page()
        shared.goto(first)
        with shared.expect_download() as got:
            shared.get_by_role("button", name="Download all").click()
        got.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as packed:
        packed.extractall(tmp_path / "all")
    vamp = read_bundle(tmp_path / "all")
    assert len(vamp.takes) == 2 and vamp.seed == 41


@contextmanager
def refuse(*given: Any) -> Iterator[None]:
    raise GalleryError("too_often", "Not now.", most=1, minutes=60)
    yield


@contextmanager
def other_site(address: str) -> Iterator[str]:
    """The address of a page on another site that shows `address` in a frame."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            frame = f'<link rel="icon" href="data:,"><iframe src="{address}" style="width:1200px;height:800px"></iframe>'
            self.wfile.write(b"<!doctype html><title>A blog</title>" + frame.encode())

        def log_message(self, *given: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_in_a_frame_of_another_site_the_delete_link_is_handed_over(browser: Any, clip: Path, tmp_path: Path) -> None:
    with serve(tmp_path) as address, other_site(address) as blog, visit(browser, blog, locale="ko-KR") as page:
        frame = page.frame_locator("iframe")
        frame.locator("#status .vs-ready").wait_for()
        [inner] = [found for found in page.frames if found.url.startswith(address)]
        bring(inner, clip)
        vamp(inner, takes=1, steps=2)
        inner.wait_for_selector("#progress :text('테이크 1개가 준비되었습니다')")
        _, delete = share(inner, "From a blog")
        assert "삭제 링크를 꼭 보관하세요" in inner.inner_text(".vs-share-keep")
        assert inner.locator(".vs-share-mine li").count() == 0 and page.context.cookies() == []
        # And it does what it says, with no cookie and no frame.
        page.goto(delete)
        page.get_by_role("button", name="삭제").click()
        page.wait_for_selector("h1:has-text('삭제')")
        assert not list((tmp_path / "gallery" / "vamps").iterdir())
