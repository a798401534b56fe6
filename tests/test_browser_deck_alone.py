"""The loop deck in Chromium on a page of its own, without Gradio."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_browser_deck import WEB, state, wait_heard

from vampnet.config import SAMPLE_RATE
from vampnet.studio.deck import SCRIPTS, STYLES
from vampnet.studio.text import script

pytestmark = pytest.mark.browser


@contextmanager
def alone(browser: Any, folder: Path, sounds: list[np.ndarray], more: tuple[str, ...] = (), **options: Any) -> Iterator[Any]:
    """A page without Gradio, with the deck's scripts and `more`, and a vamp on a deck that is made with `options`.

    Args:
        browser: opens it.
        folder: the sounds are written into it; a page may ask for them by any path that ends in "0.wav" and so on.
        sounds: of the source and the takes, one channel each.
        more: names of other scripts.
        options: of the deck. `window.vamp` and `window.made` are the vamp and the deck.
    """
    rows = []
    for number, sound in enumerate(sounds):
        soundfile.write(folder / f"{number}.wav", sound, SAMPLE_RATE)
        wave = base64.b64encode(np.array([[-90], [90]], dtype=np.int8).repeat(50, axis=1).tobytes()).decode()
        rows.append({"number": number, "name": f"<b>{number}</b>", "file": f"{number}.wav", "sound": f"{number}.wav",
                     "seconds": len(sound) / SAMPLE_RATE, "wave": wave, "favourite": False})  # fmt: skip
    settings = {"kept_share": 0.12, "kept_kbps": 0.9, "sampling": {"steps": 24}, "seed": 3, "model": "mini"}
    shown = {"id": "x", "title": "Vary", "source": "<i>loop</i>", "settings": settings, "seconds": 1.0, "tempo": 0, "beats": [],
             "downbeats": [], "source_track": rows[0], "takes": rows[1:], "files": [], "turn": 0}  # fmt: skip
    scripts = "".join(
        f"<script>{text}</script>" for text in (script(), *((WEB / one).read_text() for one in (*SCRIPTS, *more)))
    )
    styles = "".join(f"<style>{(WEB / name).read_text()}</style>" for name in STYLES)
    page, errors = browser.new_page(viewport={"width": 390, "height": 800}), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.route("http://deck.test/**/*.wav", lambda route: route.fulfill(path=folder / route.request.url.rsplit("/", 1)[1]))
    html = f"<!doctype html><meta charset=utf-8><link rel=icon href=data:,>{styles}{scripts}<main></main>"
    page.route("http://deck.test/", lambda route: route.fulfill(body=html, content_type="text/html"))
    page.goto("http://deck.test/")
    page.evaluate(
        """([vamp, options]) => {
          const address = (path) => '/' + path;
          window.vamp = vamp;
          window.made = VampStudio.deck.mount(document.querySelector('main'), {vamp, address, ...options});
        }""",
        [shown, options],
    )
    yield page
    page.close()
    assert not errors


@pytest.fixture
def shared(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The deck as on the page of a shared vamp: a source of 1 s and takes of 1, 1.5 and 1 s."""
    rng = np.random.default_rng(0)
    sounds = [0.1 * rng.standard_normal(round(seconds * SAMPLE_RATE)) for seconds in (1.0, 1.0, 1.5, 1.0)]
    with alone(browser, tmp_path, sounds, readOnly=True) as page:
        yield page


def test_a_page_without_gradio_shows_the_same_deck(shared: Any) -> None:
    page = shared
    assert page.locator(".vs-take").count() == 3 and page.locator(".vs-deck h2").inner_text() == "Vary of <i>loop</i>"
    for action in ("Use as source", "Vamp again from this", "Favourite Take 1"):
        assert page.get_by_role("button", name=action).count() == 0
    assert page.locator(".vs-switch input[value=bar]").is_disabled()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    # Only so much is decoded as may be held: what is heard, and what was heard last.
    page.evaluate("VampStudio.player.hold(2.6)")
    page.keyboard.press("1")
    wait_heard(page, 1)
    page.wait_for_timeout(150)
    assert page.evaluate("VampStudio.player.output().run.keys()") == ["1.wav|0|0"]
    # A file that is broken is said, and what plays goes on.
    broken = "http://deck.test/0.wav"
    page.route(broken, lambda route: route.fulfill(body="no sound", content_type="audio/wav"))
    page.keyboard.press("0")
    page.wait_for_selector(".vs-deck-note:has-text('could not be loaded')")
    assert state(page)["playing"] and state(page)["heard"] == 1 and page.locator(".vs-front.vs-take").count() == 1
    page.unroute(broken)
    page.keyboard.press("2")
    wait_heard(page, 2)
    assert page.evaluate("VampStudio.player.output().run.keys()") == ["1.wav|0|0", "2.wav|0|0"]
    page.keyboard.press("3")
    wait_heard(page, 3)
    assert page.evaluate("VampStudio.player.output().run.keys()") == ["2.wav|0|0", "3.wav|0|0"]
    # With room for all, all run, each on its own length from the one moment at which they began.
    page.evaluate("VampStudio.player.hold(60)")
    page.keyboard.press("r")
    page.wait_for_function("VampStudio.player.output().run?.keys().length === 4")
    lengths = page.evaluate("VampStudio.player.output().run.keys().map((key) => VampStudio.player.output().run.frames(key))")
    assert sorted(lengths) == [44_100, 44_100, 44_100, 66_150]
    page.wait_for_timeout(1100)
    one, longer = page.evaluate("[VampStudio.player.position(1), VampStudio.player.position(2)]")
    assert (longer * 1.5) % 1 == pytest.approx(one, abs=0.02) or (longer * 1.5 - one) % 1 > 0.97
    page.locator(".vs-take canvas").nth(2).locator("..").click(position={"x": 30, "y": 10})
    wait_heard(page, 3)


def test_what_was_asked_for_is_heard_though_the_tracks_change_places_meanwhile(shared: Any) -> None:
    page = shared
    page.evaluate("VampStudio.player.hold(2.6)")  # so that the last one is not decoded yet
    page.keyboard.press("1")
    wait_heard(page, 1)
    page.evaluate(
        """async () => {
          const {player} = VampStudio, {tracks, owner} = player.state();
          const going = player.hear(3);
          await Promise.resolve().then(() => {});
          await player.load([tracks[3], tracks[1], tracks[0], tracks[2]], {owner});
          await going;
        }"""
    )
    wait_heard(page, 0)
    assert [track["sound"] for track in state(page)["tracks"]][0] == "3.wav"
    assert "3.wav|0|0" in page.evaluate("VampStudio.player.output().run.keys()")


def test_tracks_that_are_loaded_twice_in_a_row_go_on_at_the_same_place(shared: Any) -> None:
    """As the takes of a vamp that come one soon after the other, on a computer that is slow to decode them."""
    shared.evaluate("VampStudio.player.hold(2.6)")  # so that no other is decoded yet
    shared.keyboard.press("1")
    wait_heard(shared, 1)
    origins = shared.evaluate(
        """async () => {
          const {player} = VampStudio, {tracks, owner} = player.state();
          const first = player.output().run.origin;
          const going = player.load([tracks[0]], {owner});
          await player.load([tracks[3], tracks[0]], {owner});
          await going;
          return [first, player.output().run.origin, player.output().run.keys().includes(tracks[0].key)];
        }"""
    )
    assert origins[0] == origins[1] and origins[2] and state(shared)["heard"] == 1
