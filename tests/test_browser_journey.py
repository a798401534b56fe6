"""Chromium in the rooms where music goes on: a journey of rounds, a comp, a recording, files that bring their settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import find_chromium, synthesise_music
from test_browser import address, bring, overhang, page, slide, vamp, visit

import vampnet
from vampnet import metadata
from vampnet.config import SAMPLE_RATE

pytestmark = pytest.mark.browser
address, page = address, page  # fixtures, taken over by name
SAMPLES = 44_101


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of music."""
    path = tmp_path_factory.mktemp("clip") / "My loop.wav"
    soundfile.write(path, synthesise_music(1.1).T[:SAMPLES], SAMPLE_RATE, subtype="PCM_16")
    return path


DROP = """async ([bytes, name]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], name));
  const fire = (kind) => document.querySelector('#title').dispatchEvent(
    new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
  fire('dragover');
  const covered = getComputedStyle(document.querySelector('.vs-drop-cover')).display;
  fire('drop');
  return covered;
}"""


def quick(page: Any) -> None:
    for name, value in (("steps", 2), ("fine_steps", 1), ("takes", 2)):
        page.fill(f"#control-{name} input[type=range]", str(value))


def unnamed(page: Any, where: str) -> int:
    """How many fields and buttons there have no name for those who do not see them."""
    return page.locator(f"{where} :is(input, select, button, a)").evaluate_all(
        "(found) => found.filter((e) => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).length"
    )


def rounds(page: Any) -> list[str]:
    return page.locator(".vs-round header b").all_inner_texts()


def drop(page: Any, path: Path) -> None:
    assert page.evaluate(DROP, [list(path.read_bytes()), path.name]) == "grid", "the page shows where to drop"


def test_a_journey_of_rounds_is_heard_gone_back_in_and_exported(page: Any, clip: Path, tmp_path: Path) -> None:
    bring(page, clip)
    page.get_by_role("button", name="More controls").click()
    quick(page)
    page.click("#vamp-on")
    page.wait_for_selector(".vs-round[data-round='2']")
    # The newest round is what is heard or waited for, on the clock of the loop.
    page.wait_for_function("() => { const s = VampStudio.player.state(); return s.playing && (s.wanted ?? s.heard) >= 1; }")
    assert page.evaluate("VampStudio.player.state().owner").startswith("journey-")
    assert page.locator("#vamp").is_disabled() and page.locator("#vamp-on").is_disabled()
    page.click("#stop")
    page.wait_for_selector("#progress :text('Stopped after')")
    made = rounds(page)
    assert made[:3] == ["Source", "Round 1", "Round 2"] and page.locator("#vamp").is_enabled()
    page.evaluate("VampStudio.player.stop()")
    # Back to the first round, and from there another way, of one round.
    page.select_option("[name=journey-limit]", "1")
    page.get_by_role("button", name="Branch: Round 1").click()
    page.wait_for_selector(f".vs-round[data-round='{len(made)}'].vs-current:has-text('from round 1')")
    page.wait_for_selector("#progress :text('Stopped after 2 rounds')")
    assert page.locator(".vs-round.vs-aside-way").count() == len(made) - 2
    page.select_option("[name=journey-repeats]", "2")
    page.check("[name=journey-source]")
    page.get_by_role("button", name="Export the way").click()
    with page.expect_download() as got:
        page.locator(".vs-journey-file").click()
    got.value.save_as(tmp_path / "way.flac")
    sound, rate = soundfile.read(tmp_path / "way.flac")
    assert rate == SAMPLE_RATE and sound.shape == (3 * 2 * SAMPLES, 2)
    told = metadata.read(tmp_path / "way.flac")
    assert told.kind == "journey" and told.take == 2 and told.sampling.steps == 2
    # What is taken away while it is heard does not play on without a button that stops it.
    if not page.evaluate("VampStudio.player.state().playing"):
        page.get_by_role("button", name=f"Play: Round {len(made)}").click()
    page.wait_for_function("VampStudio.player.state().playing && VampStudio.player.state().owner.startsWith('journey-')")
    page.get_by_role("button", name=f"Remove: Round {len(made)}").click()
    page.wait_for_selector(f".vs-round[data-round='{len(made)}']", state="detached")
    page.wait_for_function("!VampStudio.player.state().playing")
    page.get_by_role("button", name="Use as source: Round 1").click()
    page.wait_for_selector("#message .vs-ready:has-text('My loop-round1-seed0')")
    assert unnamed(page, "#journeys") == 0
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # The cards scroll inside their strip; nothing else reaches beyond the edge.
        page.add_style_tag(content=".vs-round { display: none !important }")
        assert overhang(page) == []


def test_a_comp_over_takes_and_settings_that_come_back(page: Any, clip: Path, tmp_path: Path) -> None:
    bring(page, clip)
    slide(page, "periodic", 11)
    page.fill("#control-seed input", "4711")
    vamp(page, takes=2)
    page.wait_for_selector("#progress :text('2 takes are ready')")
    page.click("[data-action=comp]")
    first = page.locator(".vs-comp-part").first
    first.get_by_role("radio", name="Take 1").wait_for()
    page.keyboard.press("ArrowDown")
    assert page.locator(".vs-comp-part").first.locator("[aria-checked=true]").get_attribute("aria-label") == "Take 2"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Take 2"
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Take 1"
    page.wait_for_selector(".vs-comp :text('2 joins')")
    page.get_by_role("button", name="Make comp").click()
    page.wait_for_selector("#progress :text('The comp is on the deck')")
    page.wait_for_selector(".vs-deck h2:has-text('Comp of')")
    with page.expect_download() as got:
        page.locator(".vs-take-actions a[download]").click()
    got.value.save_as(tmp_path / "comp.wav")
    told = metadata.read(tmp_path / "comp.wav")
    assert told.kind == "comp" and told.seed == 4711 and soundfile.info(tmp_path / "comp.wav").frames == SAMPLES
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        assert overhang(page) == [] and page.evaluate("document.documentElement.scrollWidth") <= width
    # Everything is moved, and the file brings it back, with the source that is still here.
    slide(page, "periodic", 3)
    page.fill("#control-seed input", "1")
    drop(page, tmp_path / "comp.wav")
    page.wait_for_selector("#restored :text('A comp of takes of My loop')")
    assert page.input_value("#control-seed input") == "4711"
    assert page.input_value("#control-periodic input[type=range]") == "11"
    page.wait_for_selector("#message .vs-ready:has-text('My loop, 1.0 s')")
    page.get_by_role("button", name="Use the file itself as source").click()
    page.wait_for_selector("#message .vs-ready:has-text('comp')")
    assert page.locator("#restored button").count() == 0


def test_a_dropped_file_of_somebody_else_and_one_that_is_none(browser: Any, address: str, tmp_path: Path) -> None:
    prompt, sampling = metadata.Prompt(periodic=9), metadata.Sampling(steps=5)
    origin = metadata.Origin(prompt, sampling, 99, 3, False, 2, "take", 2, "x", "<b>Song")
    path = tmp_path / "foreign.flac"
    tone = 0.3 * np.sin(np.arange(30_000) / 20)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, format="FLAC") as file:
        file.comment = metadata.write(origin)
        file.write(tone)
    with visit(browser, address) as page:
        drop(page, path)
        page.wait_for_selector("#restored :text('Take 2 of <b>Song: its settings and its seed 99')")
        page.wait_for_selector("#message .vs-ready:has-text('foreign')")
        assert page.input_value("#control-steps input[type=range]") == "5"
        assert page.input_value("#control-seed input") == "99" and page.locator("#restored button").count() == 0
        path.write_text("words")
        drop(page, path)
        page.wait_for_selector("#message [role=alert]:has-text('cannot be read as audio')")
        page.wait_for_selector("#restored span", state="detached")


# -------------------------------------------------------------------------------------------------------------- recording

FAKES = ("use-fake-ui-for-media-stream", "use-fake-device-for-media-stream")


@pytest.fixture(scope="module")
def with_microphone(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Another Chromium, whose microphone plays a tone without end."""
    path = tmp_path_factory.mktemp("microphone") / "tone.wav"
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * 441 * np.arange(44_100) / 44_100), 44_100, subtype="PCM_16")
    flags = ("no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync")
    more = ("no-first-run", "autoplay-policy=no-user-gesture-required", f"use-file-for-fake-audio-capture={path}", *FAKES)
    found = browser.browser_type.launch(executable_path=find_chromium(), args=[f"--{flag}" for flag in (*flags, *more)])
    yield found
    found.close()


def test_a_recording_is_whole_bars_to_the_sample(with_microphone: Any, address: str, tmp_path: Path) -> None:
    with visit(with_microphone, address) as page:
        page.get_by_role("tab", name="Record").click()
        page.fill("[name=record-tempo]", "10")
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_selector(".vs-rec-line[role=alert]:has-text('between 30 and 300')")
        page.fill("[name=record-tempo]", "287")
        page.select_option("[name=record-metre]", "3")
        page.select_option("[name=record-length]", "2")
        assert unnamed(page, "#recorder") == 0
        page.get_by_role("button", name="Record", exact=True).click()
        page.wait_for_selector(".vs-rec-line:has-text('Counting in')")
        page.wait_for_selector(".vs-rec-line:has-text('2 bars at 287 bpm')")
        page.wait_for_selector("#message .vs-ready:has-text('287 bpm, 6 beats')")
        sound, rate = fetch_source(page, tmp_path)
        assert rate == SAMPLE_RATE and len(sound) == round(6 * 60 / 287 * SAMPLE_RATE)
        # A tone all through: nothing was lost, nothing is silence that was put there.
        parts = np.abs(sound[: len(sound) // 50 * 50]).reshape(50, -1).max(axis=1)
        assert parts.min() > 0.1
        # Until Stop: it ends on a bar line.
        page.select_option("[name=record-length]", "0")
        page.get_by_role("button", name="Record again").click()
        page.wait_for_selector(".vs-rec-line:has-text('Recording bar 1')")
        page.get_by_role("button", name="Stop", exact=True).first.click()
        page.wait_for_selector(".vs-rec-line:has-text('1 bar at 287 bpm')")
        page.wait_for_selector("#message .vs-ready:has-text('287 bpm, 3 beats')")
        page.wait_for_selector("#recorder :text('From the source (287)')")
        assert len(fetch_source(page, tmp_path)[0]) == round(3 * 60 / 287 * SAMPLE_RATE)
        page.set_viewport_size({"width": 390, "height": 844})
        assert overhang(page) == [] and page.evaluate("document.documentElement.scrollWidth") <= 390


# The tape's processor without an audio thread: what it sends for inputs of 128 frames, told by their first one (below 0: none).
FEED = """(frames) => {
  const sent = [];
  class AudioWorkletProcessor { constructor() { this.port = {postMessage: (block) => sent.push(block)}; } }
  let tape = null;
  new Function('AudioWorkletProcessor', 'registerProcessor', VampStudio.tape.worklet)(AudioWorkletProcessor, (_, kind) => {
    tape = new kind();
  });
  for (const frame of frames) {
    window.currentFrame = Math.abs(frame);
    tape.process([frame < 0 ? [] : [Float32Array.from({length: 128}, (_, i) => frame + i)]]);
  }
  const kept = VampStudio.tape.cut(sent, 0, 4096)[0];
  return {blocks: sent.map(({frame, channels}) => [frame, channels[0].length]), kept: [...kept]};
}"""


def test_a_tape_keeps_what_came_before_a_gap(browser: Any) -> None:
    """A browser that is late may count blocks that it never hands over, or hand over none for a while."""
    page = browser.new_page()
    page.set_content("<p>nothing</p>")
    page.add_script_tag(path=str(Path(vampnet.__file__).parent / "studio" / "web" / "recording.js"))
    through = list(range(0, 1024 + 384, 128))
    given = [*through, 2304, 2432, -2560, *range(2688, 4096, 128), 4096]
    found = page.evaluate(FEED, given)
    page.close()
    assert found["blocks"] == [[0, 1024], [1024, 384], [2304, 256], [2688, 1024]]
    there = np.array([any(start <= i < start + 128 for start in given if start >= 0) for i in range(3712)])
    assert np.array_equal(np.array(found["kept"])[:3712], np.where(there, np.arange(3712), 0))


def fetch_source(page: Any, folder: Path) -> tuple[np.ndarray, int]:
    """The source as the picture plays it."""
    body = page.evaluate("""async () => {
      VampStudio.player.stop();
      document.querySelector('#picture .vs-play').click();
      for (let i = 0; i < 200 && !VampStudio.player.state().playing; i++) await new Promise((done) => setTimeout(done, 20));
      const {sound} = VampStudio.player.state().tracks[0];
      VampStudio.player.stop();
      return [...new Uint8Array(await (await fetch(VampStudio.player.address(sound))).arrayBuffer())];
    }""")
    path = folder / "source.wav"
    path.write_bytes(bytes(body))
    sound, rate = soundfile.read(path, always_2d=True)
    return sound[:, 0], rate


def test_a_microphone_that_is_refused_gets_a_sentence(page: Any) -> None:
    page.evaluate("""() => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'));
    }""")
    page.get_by_role("tab", name="Record").click()
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_selector(".vs-rec-line[role=alert]:has-text('may not use the microphone')")
    assert page.get_by_role("button", name="Record", exact=True).is_enabled()
