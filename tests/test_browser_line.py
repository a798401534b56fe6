"""A bad line, a page that is loaded anew, presses that come before the answers to those before: nothing is lost."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_browser import WAIT, bring, serve, vamp, visit
from test_browser import clip as clip
from tiny import tiny_vampnet

from vampnet.studio.deck import Deck
from vampnet.studio.session import Session

pytestmark = pytest.mark.browser

LINE = """(() => {
  const plain = window.fetch;
  window.line = {cut: 0, delay: {}, asked: []};
  window.fetch = async (input, init) => {
    const url = String(input.url ?? input).split('?')[0];
    if (!/queue\\/(join|data)$|\\/run\\//.test(url)) return plain(input, init);
    if (!url.endsWith('/data')) line.asked.push(url);
    if (line.cut > 0 && !url.endsWith('/data')) {
      line.cut -= 1;
      throw new TypeError('Failed to fetch');
    }
    const delay = line.delays?.shift() || 0;
    const response = await plain(input, init);
    if (delay) await new Promise((then) => setTimeout(then, delay));
    if (!url.endsWith('/data') || !line.breaks) return response;
    const reader = response.body.getReader();
    let parts = 0;
    const body = new ReadableStream({
      // An end without the last word, as of a proxy that has waited long enough. A stream that ends before is none.
      pull: async (to) => {
        const part = await reader.read(), ends = ++parts > 4 && line.breaks && !part.done;
        if (ends) line.breaks = false;
        ends || part.done ? to.close() : to.enqueue(part.value);
      },
    });
    return new Response(body, {status: response.status, headers: response.headers});
  };
})()"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with serve(tiny_vampnet("mini"), tmp_path / "none") as url:
        yield url


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.add_init_script(LINE)
    page.goto(address)
    page.wait_for_selector(".vs-picture[data-drawn]")
    page.wait_for_selector("#status .vs-ready")
    yield page
    context.close()


def slider(page: Any, name: str) -> Any:
    return page.locator(f"#control-{name} input[type=range]")


def test_a_question_that_cannot_be_sent_is_sent_again(page: Any, clip: Path) -> None:
    bring(page, clip)
    page.evaluate("line.cut = 2; window.here = true")
    page.fill("#control-periodic input[type=range]", "1")
    page.wait_for_selector(".vs-sentence:has-text('100 %')")
    assert page.evaluate("window.here") and page.evaluate("line.cut") == 0
    assert page.locator(f"#message :text('{clip.stem}')").count() == 1


def test_what_was_there_is_there_when_the_page_is_loaded_anew(page: Any, clip: Path, browser: Any, address: str) -> None:
    bring(page, clip)
    vamp(page, takes=2)
    page.wait_for_selector("#progress :text('2 takes are ready')")
    page.fill("#control-periodic input[type=range]", "3")
    page.wait_for_selector(".vs-sentence:has-text('33 %')")
    for _ in range(2):
        page.reload()
        page.wait_for_selector("#message :text('My loop')")
        page.wait_for_function("document.querySelectorAll('.vs-take').length === 2")
        page.wait_for_selector(".vs-sentence:has-text('33 %')")
        assert slider(page, "periodic").input_value() == "3" and slider(page, "takes").input_value() == "2"
        # What is heard is really there, and the work goes on.
        assert page.request.get(page.locator("a[download]").first.evaluate("link => link.href")).ok
    vamp(page, takes=1)
    page.wait_for_selector("#progress :text('1 take is ready')")
    # A tab that was duplicated has the name of the other, and is a visitor of its own.
    name = page.evaluate("sessionStorage.getItem('vampnet-visit')")
    other = page.context.new_page()
    other.add_init_script(f"if (!sessionStorage.getItem('vampnet-visit')) sessionStorage.setItem('vampnet-visit', '{name}')")
    other.goto(address)
    other.wait_for_selector("#status .vs-ready")
    assert other.locator(".vs-take").count() == 0
    assert other.evaluate("sessionStorage.getItem('vampnet-visit')") not in (name, None)
    other.close()


def test_a_stream_that_ends_too_early_leaves_a_page_that_works(page: Any, clip: Path) -> None:
    bring(page, clip)
    vamp(page, takes=1)
    page.wait_for_selector("#progress :text('1 take is ready')")
    page.evaluate("line.breaks = true; window.here = true")
    vamp(page, takes=3, steps=60)
    # Gradio loads the page anew; what was made before is there, and what was under way goes on.
    page.wait_for_function("!window.here")
    page.wait_for_function("document.querySelectorAll('.vs-take').length > 0")
    page.wait_for_selector("#message :text('My loop')")
    page.wait_for_function("document.querySelectorAll('.vs-take').length === 3")
    vamp(page, takes=2)
    page.wait_for_selector("#progress :text('2 takes are ready')")


def test_a_vamp_goes_on_while_its_page_is_loaded_anew(page: Any, clip: Path) -> None:
    bring(page, clip)
    vamp(page, takes=8, steps=72)
    page.wait_for_selector("#progress progress[value]")
    page.reload()
    page.wait_for_selector("#stop:not([disabled])")
    assert page.locator("#vamp").is_disabled()
    page.wait_for_selector("#progress :text('8 takes are ready')")
    page.wait_for_function("document.querySelectorAll('.vs-take').length === 8")
    page.wait_for_selector("#vamp:not([disabled])")


def test_the_first_take_is_heard_while_the_others_are_made(page: Any, clip: Path) -> None:
    bring(page, clip)
    vamp(page, takes=4, steps=72)
    page.wait_for_selector(".vs-deck-head:has-text('Still being made')")
    assert page.locator("#stop").is_enabled()
    # The files of all takes, sharing and comping come with the last one.
    assert page.locator(".vs-deck-head .vs-actions button").count() == 0
    made = page.locator(".vs-take").count()
    assert 1 <= made < 4
    page.keyboard.press("1")
    page.wait_for_function("VampStudio.player.state().heard === 1 && VampStudio.player.output().run !== null")
    began = page.evaluate("VampStudio.player.output().run.origin")
    page.wait_for_selector("#progress :text('4 takes are ready')")
    page.wait_for_function("document.querySelectorAll('.vs-take').length === 4")
    assert "Still being made" not in page.locator(".vs-deck-head").inner_text()
    assert page.get_by_role("button", name="Download all (zip)").is_visible()
    # It has gone on meanwhile, and so has the place.
    page.wait_for_function("VampStudio.player.output().run?.keys().length === 5")
    assert page.evaluate("VampStudio.player.state().playing && VampStudio.player.state().heard === 1")
    assert page.evaluate("VampStudio.player.output().run.origin") == began
    # Stop leaves what is ready: a vamp with fewer takes.
    vamp(page, takes=8, steps=72)  # of four the last may be there before this page is clicked
    page.wait_for_selector(".vs-deck-head:has-text('Still being made')")
    page.click("#stop")
    page.wait_for_selector("#progress :text('what was ready is kept')")
    page.wait_for_selector(".vs-deck-head:not(:has-text('Still being made'))")
    assert page.get_by_role("button", name="Download all (zip)").is_visible() and 1 <= page.locator(".vs-take").count() < 8


def test_an_answer_that_comes_late_takes_no_takes_away(browser: Any, clip: Path, tmp_path: Path, monkeypatch: Any) -> None:
    # What the beats of the source bring to the deck was read when there was one take, and is sent when there are three.
    read, ready, plain = [], threading.Event(), Session.add_vamp

    def add_vamp(session: Session, vamp: dict[str, Any], before: dict[str, Any] | None = None) -> None:
        plain(session, vamp, before)
        read.append(copy.deepcopy(session.vamps))

    def late_beats(deck: Deck, session: Session) -> Any:
        assert ready.wait(WAIT / 1000)
        return read[0]

    monkeypatch.setattr(Session, "add_vamp", add_vamp)
    monkeypatch.setattr(Deck, "late_beats", late_beats)
    with serve(tiny_vampnet("mini"), tmp_path / "none") as address, visit(browser, address) as page:
        bring(page, clip)
        vamp(page, takes=3)
        page.wait_for_selector("#progress :text('3 takes are ready')")
        page.wait_for_function("document.querySelectorAll('.vs-take').length === 3")
        ready.set()
        page.wait_for_timeout(1500)
        assert len(read[0][0]["takes"]) < 3 and page.locator(".vs-take").count() == 3
        # A star is newer than all of that.
        page.locator(".vs-take .vs-star").last.click()
        page.wait_for_selector(".vs-shelf-list:has-text('Take 3')")


def test_the_picture_is_that_of_the_last_question(page: Any, clip: Path) -> None:
    bring(page, clip)
    # The picture with the new tempo is late, and that of the slider is faster.
    page.evaluate("line.delays = [0, 1500]")
    page.click("[data-act=faster]")
    page.wait_for_function("line.delays.length === 0")
    page.fill("#control-periodic input[type=range]", "1")
    page.wait_for_selector(".vs-sentence:has-text('100 %')")
    page.wait_for_timeout(2500)
    assert "100 %" in page.inner_text(".vs-sentence")


def test_no_press_is_lost_on_a_slow_line(page: Any, clip: Path) -> None:
    bring(page, clip)
    page.wait_for_selector("#message:has-text('bpm')")
    before = page.evaluate("line.asked.length")
    page.evaluate("line.delays = Array(5).fill(600)")
    for _ in range(4):
        page.click("[data-act=faster]")
    page.wait_for_timeout(3000)
    asked = page.evaluate(f"line.asked.slice({before})")
    counts = [asked.count(url) for url in set(asked)]
    assert max(counts) >= 4 and len(asked) >= 8  # each press, and each drawing after it


def test_hearing_what_is_kept_while_a_slider_moves(page: Any, clip: Path) -> None:
    bring(page, clip)
    page.evaluate("line.delays = [800, 800, 800]")
    page.click(".vs-hear")
    page.fill("#control-periodic input[type=range]", "2")
    # It asks once more, for what the sliders show now, and then plays that.
    page.wait_for_selector(".vs-hear:has-text('Stop')", timeout=20_000)
