"""The token map in Chromium: paint by mouse, finger and keyboard, region, what is kept as sound, tempo by taps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import soundfile
import torch
from conftest import synthesise_music
from test_browser import bring, bundled_model, nameless, overhang, serve, slide, vamp, visit

from vampnet import beats, bundle
from vampnet.beats import BeatGrid, make_grid
from vampnet.config import SAMPLE_RATE

pytestmark = pytest.mark.browser

KEPT = """() => {
  const {kept, data} = document.querySelector('.vs-picture').tokenMap;
  return [Array.from(kept), data.levels, data.steps];
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a studio with the bundled model, where beats are known at once: tracking is tested elsewhere."""

    def track(signal: Any, **options: Any) -> BeatGrid:
        times = np.arange(0, signal.audio_data.shape[-1] / signal.sample_rate, 0.5)
        return make_grid(times, times[::4], "librosa", "as in the music")

    with pytest.MonkeyPatch.context() as patch, serve(bundled_model(), tmp_path_factory.mktemp("no examples")) as url:
        patch.setattr(beats, "track", track)
        yield url


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Two, four and ten seconds of music."""
    folder = tmp_path_factory.mktemp("clips")
    made = {2: folder / "Two.wav", 4: folder / "Four.wav", 10: folder / "Ten.wav"}
    for seconds, path in made.items():
        soundfile.write(path, synthesise_music(seconds).T, SAMPLE_RATE, subtype="PCM_16")
    return made


def kept(page: Any) -> np.ndarray:
    """What the map shows as staying: (K, T) bool."""
    cells, levels, steps = page.evaluate(KEPT)
    return np.array(cells, bool).reshape(levels, steps)


def until(page: Any, sentence: str) -> None:
    page.wait_for_function("words => document.querySelector('.vs-sentence').textContent !== words", arg=sentence)


def settle(page: Any) -> None:
    """Waits until the server has answered to all that was changed."""
    drawn = "document.querySelector('.vs-picture').dataset.drawn"
    seen = None
    while seen != (seen := page.evaluate(drawn)):
        page.wait_for_timeout(250)


def finger(page: Any, points: list[tuple[float, float]], second: tuple[float, float] | None = None) -> None:
    """A finger goes down at the first point, over the others, and up; halfway a second one taps somewhere."""
    touch = page.context.new_cdp_session(page)

    def tell(kind: str, fingers: dict[int, tuple[float, float]]) -> None:
        places = [{"x": x, "y": y, "id": number} for number, (x, y) in fingers.items()]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})
        page.wait_for_timeout(16)

    for index, point in enumerate(points):
        tell("touchMove" if index else "touchStart", {0: point})
        if second and index == len(points) // 2:
            tell("touchStart", {0: point, 1: second})
            tell("touchEnd", {1: second})
    tell("touchEnd", {})


def test_the_map_is_painted_on_and_is_the_mask_of_the_vamp(browser: Any, address: str, clips: dict[int, Path]) -> None:
    with visit(browser, address) as page:
        bring(page, clips[10])
        page.wait_for_function("document.querySelector('.vs-picture').tokenMap.ground !== null")
        times = [slide(page, "periodic", value) for value in (14, 2, 9, 5, 12, 3) * 2]
        print(f"mask preview of 10 s: median {np.median(times):.0f} ms, worst of {len(times)} {max(times):.0f} ms")
        # 150 ms is what is wanted; a machine that is busy with other things gets five times as long.
        assert np.median(times) < 750

        bring(page, clips[4])
        slide(page, "periodic", 7)
        before, cells = kept(page), page.locator(".vs-cells")
        levels, steps = before.shape
        box = cells.bounding_box()
        # By mouse: a bar is kept, a stroke over steps is freed, and no step between two reports is left out.
        page.click("[data-tool=keep]")
        page.click("[data-brush=bar]")
        page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 90)
        bars = kept(page)
        assert bars.sum() > before.sum() and not bars.all() and (bars.all(0) | (bars == before).all(0)).all()
        page.click("[data-tool=make]")
        page.click("[data-brush=step]")
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 25)
        page.mouse.up()
        freed = kept(page)
        assert not freed[:, round(0.5 * steps) : round(0.8 * steps) - 1].any() and freed[:, : round(0.45 * steps)].any()
        # By keyboard: three steps of two levels.
        cells.focus()
        page.click("[data-brush=cell]")
        cells.focus()
        for key in ("Home", "ArrowUp", "ArrowUp", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowDown", "m"):
            page.keyboard.press(key)
        assert "Levels 1 to 2, time steps 1 to 3" in page.inner_text(".vs-cursor-words")
        last = kept(page)
        assert not last[1:3, :3].any() and (np.delete(last, [1, 2], 0) == np.delete(freed, [1, 2], 0)).all()
        cells.dispatch_event("keydown", {"key": "л", "code": "KeyK", "bubbles": True})  # K on a Russian keyboard
        assert kept(page)[1:3, :3].all()
        page.keyboard.press("Control+z")
        assert (kept(page) == last).all()
        vamp(page)
        page.wait_for_selector("#progress :text('1 take is ready')")
        sound = page.get_by_role("link", name="Download Take 1").get_attribute("href")
        path = Path(unquote(urlparse(sound).path.split("file=", 1)[1]))
        made = bundle.read_bundle(path.parent)
        assert torch.equal(~made.mask[0], torch.from_numpy(last)) and made.painted
        # Sliders move beneath, and the paint stays; another length drops it, with a sentence.
        slide(page, "periodic", 2)
        moved = kept(page)
        assert moved.sum() > last.sum() and not moved[:, round(0.5 * steps) : round(0.8 * steps) - 1].any()
        page.fill("#control-extend_after input[type=range]", "1")
        page.wait_for_selector(".vs-map-note:has-text('the paint was cleared')")
        longer = kept(page)
        assert longer.shape[1] > steps and not longer[:, steps:].any() and page.locator(".vs-clear").is_disabled()
        page.wait_for_selector(".vs-sentence:has-text('Keeps')")
        assert nameless(page) == []


def test_the_map_shows_the_clip_that_is_the_source_whatever_is_asked_for(
    browser: Any, address: str, clips: dict[int, Path]
) -> None:
    with visit(browser, address) as page:
        bring(page, clips[10])
        page.evaluate("document.querySelector('#control-bars input[value=\"4\"]').click()")
        settle(page)
        assert "Ten" in page.get_attribute(".vs-picture canvas", "aria-label")
        page.set_input_files("#upload input[type=file]", str(clips[2]))
        page.wait_for_selector("#message .vs-ready:has-text('Two')")
        page.wait_for_selector(".vs-picture.vs-problem")
        settle(page)
        assert "only 1 whole bar" in page.inner_text(".vs-sentence")
        assert "Two, 2.0 s" in page.get_attribute(".vs-picture canvas", "aria-label")
        assert "Two" in unquote(page.evaluate("document.querySelector('.vs-picture').tokenMap.data.track.sound"))


def test_region_kept_sound_and_tempo(browser: Any, address: str, clips: dict[int, Path]) -> None:
    with visit(browser, address) as page:
        assert page.locator(".vs-hear").is_disabled() and page.locator("[data-act=half]").is_disabled()
        bring(page, clips[2])
        # By mouse, again and again: a handle that was selected with the first drag would be dragged by the browser itself.
        strip = page.locator(".vs-strip").bounding_box()
        for start, end in ((0.2, 0.5), (0.6, 0.9), (0.1, 0.3)):
            x = [strip["x"] + share * strip["width"] for share in (start, end)]
            y = strip["y"] + strip["height"] / 2
            page.mouse.move(x[0], y)
            page.mouse.down()
            page.mouse.move((x[0] + x[1]) / 2, y, steps=3)
            page.mouse.move(x[1], y, steps=3)
            page.mouse.up()
            region = page.evaluate("document.querySelector('.vs-picture').tokenMap.region.value")
            seconds = page.evaluate("document.querySelector('.vs-picture').tokenMap.data.seconds")
            assert region is not None and abs(region[0] / seconds - start) < 0.02 and abs(region[1] / seconds - end) < 0.02
        page.click(".vs-clear-region")
        page.wait_for_function("document.querySelector('.vs-picture').tokenMap.region.value === null")
        settle(page)  # else an answer to one of these drags would pass for one to what follows
        # Two handles by keyboard; outside of the region all stays.
        handle = page.locator(".vs-handle-start")
        handle.focus()
        words = page.inner_text(".vs-sentence")
        page.keyboard.press("Shift+ArrowRight")
        until(page, words)
        page.locator(".vs-handle-end").focus()
        words = page.inner_text(".vs-sentence")
        page.keyboard.press("Shift+ArrowLeft")
        until(page, words)
        start, end = (float(page.get_attribute(f".vs-handle-{side}", "aria-valuenow")) for side in ("start", "end"))
        assert 0.4 < start < 0.6 < 1.4 < end < 1.6
        settle(page)
        shown = kept(page)
        outside = np.arange(shown.shape[1]) * 768 / SAMPLE_RATE
        assert shown[:, (outside + 0.02 < start) | (outside > end)].all() and not shown.all()
        # By mouse, dragged over the wave.
        strip = page.locator(".vs-strip").bounding_box()
        page.mouse.move(strip["x"] + 0.7 * strip["width"], strip["y"] + 20)
        page.mouse.down()
        page.mouse.move(strip["x"] + 0.9 * strip["width"], strip["y"] + 25, steps=3)
        page.mouse.up()
        page.wait_for_selector(".vs-cursor-words:has-text('Only 1.4')")
        page.click(".vs-clear-region")
        page.wait_for_function("document.querySelector('.vs-picture').tokenMap.region.value === null")
        settle(page)
        # What is kept is heard, as a loop, and stops with the next change.
        page.click(".vs-hear")
        page.wait_for_selector(".vs-hear:has-text('Stop')")
        page.wait_for_selector("#picture .vs-head:not([hidden])")
        slide(page, "periodic", 3)
        page.wait_for_selector("#picture .vs-head", state="hidden")
        slide(page, "periodic", 0)
        page.click(".vs-hear")
        page.wait_for_selector(".vs-map-note:has-text('Nothing that sounds')")
        # Tempo: a button, then taps on a key, a bit slower than the tracker's.
        before = float(page.inner_text(".vs-bpm").split()[0])
        page.click("[data-act=half]")
        page.wait_for_selector("#message :text('set by hand')")
        # The message may come first, and taps on a busy machine are too slow to be half as fast again as the tempo before.
        page.wait_for_function("bpm => parseFloat(document.querySelector('.vs-bpm').textContent) < 0.6 * bpm", arg=before)
        half = float(page.inner_text(".vs-bpm").split()[0])
        page.locator("#presets button").first.focus()
        for _ in range(6):
            page.keyboard.press("t")
            page.wait_for_timeout(300)
        page.wait_for_function("half => parseFloat(document.querySelector('.vs-bpm').textContent) > 1.5 * half", arg=half)
        page.fill("#control-seed input", "7")
        page.locator("#control-seed input").press("t")  # in a field T is a letter
        assert page.inner_text("[data-act=tap]") != "1 of 4"


def test_a_finger_scrolls_without_a_tool_and_paints_with_one(browser: Any, address: str, clips: dict[int, Path]) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, locale="ko-KR")
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("#status .vs-ready")
    # What Gradio gives no name, or one in English.
    page.wait_for_function("document.getElementById('control-bars').getAttribute('aria-label') === '온전한 마디'")
    assert page.title() == "VampNet 스튜디오"
    bring(page, clips[2])
    page.evaluate("document.getElementById('picture').scrollIntoView()")
    cells = page.locator(".vs-cells")

    def drag(across: float, down: float, second: bool = False) -> float:
        box, before = cells.bounding_box(), page.evaluate("scrollY")
        points = [(box["x"] + 60 + across * i, box["y"] + 150 + down * i) for i in range(12)]
        finger(page, points, (box["x"] + 20, box["y"] + 200) if second else None)
        page.wait_for_timeout(200)
        return page.evaluate("scrollY") - before

    before = kept(page)
    assert drag(0, -10) > 40 and (kept(page) == before).all()
    page.evaluate("document.getElementById('picture').scrollIntoView()")
    page.tap("[data-tool=keep]")
    page.tap("[data-brush=step]")
    assert drag(8, -6) == 0
    after = kept(page)
    assert after.all(0).sum() > before.all(0).sum() + 15
    # A second finger ends no stroke, and a page is not enlarged by going into a field.
    page.tap("[data-tool=make]")
    drag(8, -6, second=True)
    assert not kept(page)[:, after.all(0) & ~before.all(0)].any()
    small = "(fields) => fields.filter((one) => parseFloat(getComputedStyle(one).fontSize) < 16).map((one) => one.outerHTML)"
    assert page.locator("input, select, textarea").evaluate_all(small) == []
    strip = page.locator(".vs-strip").bounding_box()
    finger(page, [(strip["x"] + 50 + 9 * i, strip["y"] + 30) for i in range(12)])
    page.wait_for_function("document.querySelector('.vs-picture').tokenMap.region.value !== null")
    assert page.inner_text("[data-tool=keep]") == "남기기" and overhang(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()
