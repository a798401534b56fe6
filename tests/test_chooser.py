"""The chooser of the studio's models: what its cards say, loading, and what a page that opens meanwhile is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from studio_tools import Loader, entry
from test_studio_models import VISIT, exchange, make_shelf, raiser, released, room, told
from tiny import tiny_vampnet

from vampnet.studio import page, shelf
from vampnet.studio.chooser import Chooser
from vampnet.studio.handlers import Handlers
from vampnet.studio.session import Session
from vampnet.studio.shelf import ModelShelf

__all__ = ["released", "room"]  # fixtures


@pytest.fixture
def chooser(tmp_path: Path, room: Any) -> Chooser:
    import gradio as gr

    room(10**12)
    stock = entry("hugggof/vampnet", 3_030_000_000, False, "hub")
    stock.licence, stock.about = "CC BY-NC-SA 4.0", "<b>The paper's</b> model."
    with gr.Blocks(analytics_enabled=False):
        return Chooser(Handlers(make_shelf(Loader(bad=raiser(ValueError("It is bad."))), stock), tmp_path))


def test_cards_show_size_licence_and_whether_it_is_on_disk(chooser: Chooser) -> None:
    first, second = chooser.show(Session(chooser.handlers.files), "new")
    assert "Looking on the hub" in first and "Looking" not in second
    assert "3.0 GB · CC BY-NC-SA 4.0 · will be downloaded" in second and "33 MB · MIT · in use" in second
    assert "100 MB · MIT · on disk" in second and second.count('aria-pressed="true"') == 1
    assert "&lt;b&gt;The paper&#x27;s" in second and "<b>The" not in second
    assert chooser.choose(SimpleNamespace(name="new")) == "new"


def test_a_press_on_load_ends_with_the_new_model(chooser: Chooser) -> None:
    session = Session(chooser.handlers.files)
    assert len(list(chooser.show(Session(chooser.handlers.files), "new"))) == 2
    line, load, cancel = chooser.begin(session, " new ")
    assert "Loading new" in line and not load["interactive"] and cancel["visible"]
    steps = told(chooser.watch(session, "new"))
    line, load, cancel, cards = steps[-1]
    assert "new on cpu is loaded" in line and load["interactive"] and not cancel["visible"] and "in use" in cards
    assert told(chooser.watch(session, "new")) == [(gr.skip(),) * 4], "a generator without a value would empty its outputs"


def test_what_cannot_be_loaded_is_said_and_the_page_goes_on(chooser: Chooser) -> None:
    session = Session(chooser.handlers.files)
    for name, words in (("  ", "type its name"), (None, "type its name"), ("old", "loaded already")):
        assert words in chooser.begin(session, name)[0] and told(chooser.watch(session, "")) == [(gr.skip(),) * 4]
    chooser.begin(session, "bad")
    line = told(chooser.watch(session, "bad"))[-1][0]
    assert "It is bad. The page goes on with old on cpu." in line and 'role="alert"' in line
    # The line of the model says only what there is: the chooser has said the rest.
    assert "Model old on cpu" in told(chooser.handlers.model_status(Session(chooser.handlers.files)))[-1]


def test_a_page_that_opens_during_a_download_shows_it(chooser: Chooser) -> None:
    chooser.shelf.task = shelf.Task("Downloading coarse.pth: 1 of 2 MB", 1, 2)
    steps = chooser.watch_quietly(VISIT)

    async def look() -> tuple[Any, Any]:
        first = await anext(steps)
        chooser.shelf.task = None
        return first, await anext(steps)

    first, last = asyncio.run(look())
    assert "1 of 2 MB" in first[0] and 'value="1" max="2"' in first[0] and first[2]["visible"]
    assert last[0] == "" and not last[2]["visible"]


def test_a_page_that_opens_after_a_failure_hears_of_it_only_where_there_is_no_model(chooser: Chooser) -> None:
    exchange(chooser.shelf, "bad")
    assert told(chooser.watch_quietly(VISIT))[-1][0] == "", "whoever asked for it was told"
    chooser.shelf.stopped, chooser.shelf.problem = True, "Stopped: new was not loaded."
    assert told(chooser.watch_quietly(VISIT))[-1][0] == ""


def test_a_page_without_a_model_says_why(chooser: Chooser, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange(chooser.shelf, "bad")
    monkeypatch.setattr(type(chooser.shelf), "loaded", property(lambda self: None))
    assert "It is bad." in told(chooser.watch_quietly(VISIT))[-1][0]


def test_only_a_shelf_with_a_choice_gets_a_chooser(tmp_path: Path) -> None:
    def ids(choice: bool) -> set[str]:
        blocks, _ = page.build(ModelShelf(tiny_vampnet(), choice=choice), tmp_path)
        return {getattr(block, "elem_id", None) for block in blocks.blocks.values()}

    assert "models" not in ids(False) and "model-load" in ids(True)
