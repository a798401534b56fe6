"""The studio's models in Chromium: they are exchanged while the page is open, and a download shows its progress."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from studio_tools import other_checkpoint
from test_browser import bring, nameless, overhang, serve, vamp, visit
from test_browser import clip as clip
from tiny import tiny_checkpoint, tiny_vampnet

from vampnet import checkpoints
from vampnet.pipeline import VampNet
from vampnet.studio.shelf import ModelShelf

pytestmark = pytest.mark.browser


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a studio with two bundled models, "mini" and "second", and a chooser."""
    for name in ("mini", "second"):
        folder = tiny_checkpoint(tmp_path / "bundled" / name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sampling": {"steps": 30}}))  # its own default
    monkeypatch.setenv(checkpoints.FOLDER_VARIABLE, str(tmp_path / "bundled"))
    shelf = ModelShelf(load=partial(VampNet.from_pretrained, device="cpu"), choice=True)
    with serve(shelf, tmp_path / "none") as url:
        shelf.start("mini")
        yield url


@pytest.fixture
def downloading(tmp_path: Path) -> Iterator[str]:
    """The address of a studio in which the download of any model stops half-way until it is cancelled."""
    stopped = threading.Event()

    def fetch(name: str, on_download: Callable[[str, int, int], None]) -> None:
        while not stopped.wait(0.1):
            on_download("coarse.pth", 665_000_000, 1_330_000_000)

    shelf = ModelShelf(tiny_vampnet("mini"), "mini", fetch=fetch, choice=True)
    with serve(shelf, tmp_path / "none") as url:
        yield url
    stopped.set()


def load_model(page: Any, name: str) -> None:
    page.fill("#model-name textarea, #model-name input", name)
    page.click("#model-load")


def test_models_are_exchanged_while_the_page_is_open(browser: Any, models: str, clip: Path, tmp_path: Path) -> None:
    with visit(browser, models) as page:
        page.wait_for_selector("#status :text('Model mini on cpu')")
        bring(page, clip)
        page.get_by_role("button", name="Models").click()
        card = page.locator(".vs-models button[data-name=second]")
        card.get_by_text("on disk").wait_for()
        assert "MB" in card.inner_text() and page.locator(".vs-models button[data-name=mini]:has-text('in use')").count() == 1
        card.click()
        page.wait_for_selector(".vs-models button[data-name=second][aria-pressed=true]")
        page.click("#model-load")
        page.wait_for_selector("#model-line :text('second on cpu is loaded')")
        page.wait_for_selector("#status :text('Model second on cpu')")
        page.wait_for_selector(".vs-models button[data-name=second]:has-text('in use')")
        page.wait_for_function("document.querySelector('#control-steps input[type=range]').value === '30'")
        vamp(page)
        page.wait_for_selector("#progress :text('1 take is ready')")
        # A folder of somebody's own, with a codec of nine levels: controls and picture follow.
        load_model(page, str(other_checkpoint(tmp_path / "nine levels")))
        page.wait_for_selector("#status :text('Model nine levels on cpu')")
        page.wait_for_selector("#control-kept_codebooks input[type=range][max='9']")
        page.wait_for_selector("#control-periodic :text('12 ms')")
        page.wait_for_selector(".vs-sentence:has-text('of 7.8 kbps')")
        assert page.input_value("#control-steps input[type=range]") == "2"  # which somebody has chosen
        vamp(page, takes=2)
        page.wait_for_selector("#progress :text('2 takes are ready')")
        load_model(page, "there/is no such")
        page.wait_for_selector("#model-line [role=alert]:has-text('The page goes on with nine levels on cpu')")
        assert page.locator("#model-load").is_enabled() and page.locator("#model-cancel").count() == 0
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert overhang(page) == [] and page.evaluate("document.documentElement.scrollWidth") <= width
        assert nameless(page) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_download_shows_its_progress_and_can_be_cancelled(browser: Any, downloading: str, width: int) -> None:
    with visit(browser, downloading) as page:
        page.set_viewport_size({"width": width, "height": 844})
        assert page.locator("#model-cancel").count() == 0
        page.get_by_role("button", name="Models").click()
        load_model(page, "somebody/model")
        page.wait_for_selector("#model-line :text('Downloading coarse.pth: 665 of 1,330 MB')")
        bar = page.wait_for_selector("#model-line progress[value='665000000'][max='1330000000']")
        assert bar.bounding_box()["width"] > 100 and overhang(page) == []
        # Another visitor sees it too, and may stop it.
        with visit(browser, downloading, wait="#model-cancel") as other:
            other.wait_for_selector("#model-line progress[value]")
        page.click("#model-cancel")
        page.wait_for_selector("#model-line :text('Stopped: somebody/model was not loaded. The page goes on with mini')")
        page.wait_for_selector("#status :text('Model mini on cpu')")
        page.wait_for_selector("#model-cancel", state="detached")
        assert page.locator("#model-load").is_enabled()
