"""What the deck and a journey do in Chromium when hands are quick: while something waits, while something else plays, while
rounds, takes and beats come. On a page without Gradio, where nothing has to be made first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_browser_deck import state, wait_heard
from test_browser_deck_alone import alone

from vampnet.config import SAMPLE_RATE

pytestmark = pytest.mark.browser
BEATS, BARS = [0.0, 0.5, 1.0, 1.5], [0.0, 1.0]

# Helpers on the page: a journey over the deck, what is heard and when that changes, and the levels that are planned for later.
HELPERS = """([beats, downbeats]) => {
  const {player} = VampStudio, {made} = window, vamp = (window.vamp = {...window.vamp, beats, downbeats});
  window.show = (...vamps) => made.show(vamps.map((one, i) => (i ? one : {...one, turn: made.turn + 1})));
  const takes = vamp.takes.map((one) => ({...one, sound: `y/${one.sound}`}));
  window.another = (changes) => ({...vamp, id: 'y', takes, ...changes});
  show(vamp);
  const root = document.body.appendChild(document.createElement('div'));
  root.innerHTML = '<div class=vs-journeys></div>';
  document.body.append(root);
  const rounds = vamp.takes.map(({sound, wave}, i) => ({number: i + 1, parent: i, here: true, sound: `j/${sound}`, wave}));
  const journey = {id: 7, name: 'loop', seed: 3, most: 99, source: vamp.source_track, seconds: 2, file: null};
  const props = {repeats: [1, 2], value: null};
  window.journey = (count, more = {}) => {
    props.value = {journeys: [{...journey, rounds: rounds.slice(0, count), current: count, ...more}], running: false, ask: 0};
    window.draw();
  };
  VampStudio.journeys(root, props, (_, draw) => (window.draw = draw), () => {});
  window.heard = [];
  player.onChange(document.body, () => {
    const {heard, running} = player.state();
    if (running && window.heard.at(-1)?.[0] !== heard) window.heard.push([heard, player.position(0)]);
  });
  window.planned = 0;
  const makeRun = VampStudio.makeRun;
  VampStudio.makeRun = (context, output) => {
    const run = makeRun(context, output), {level} = run;
    run.level = (key, value, frame) => {
      if (frame / 44100 > context.currentTime + 0.1) window.planned += 1;
      level(key, value, frame);
    };
    return run;
  };
}"""
LOUD = """() => {
  const {context, node} = VampStudio.player.output(), analyser = context.createAnalyser();
  node.connect(analyser);
  window.loud = () => {
    const samples = new Float32Array(2048);
    analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, one) => sum + one * one, 0) / samples.length);
  };
}"""


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A source and three takes of 2 s, two bars: tones, each louder than the one before. Journeys are below."""
    tone = np.sin(2 * np.pi * 441 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    with alone(browser, tmp_path, [0.1 * (1 + i) * tone for i in range(4)], ("journey.js",)) as made:
        made.set_default_timeout(5_000)
        made.evaluate(HELPERS, [BEATS, BARS])
        yield made


def begin(page: Any, press: str) -> None:
    """All tracks run, and a key's or a button's is heard."""
    page.locator(press).click() if len(press) > 1 else page.keyboard.press(press)
    page.wait_for_function("(() => { const {run} = VampStudio.player.output(); return run?.keys().length === 4; })()")
    page.evaluate(LOUD)


def early(page: Any, bars: int = 2) -> None:
    """Waits until it is away from all bar lines, and much of the bar is still to come."""
    page.wait_for_function("(n) => Math.abs((VampStudio.player.position(0) * n) % 1 - 0.35) < 0.1", arg=bars)


def wait_for_bar(page: Any, key: str) -> None:
    """Another take is to be heard with the next bar, and its level is planned."""
    early(page)
    page.evaluate("window.planned = 0")
    page.keyboard.press(key)
    page.wait_for_function("window.planned > 0")


def is_loud(page: Any, amplitude: float) -> None:
    page.wait_for_function("(wanted) => Math.abs(loud() - wanted) < 0.005", arg=amplitude / np.sqrt(2), timeout=3000)


def on_bars(page: Any) -> None:
    page.locator(".vs-switch input[value=bar]").check()


@pytest.mark.parametrize("key", ["Space", "r"])
def test_what_stands_in_front_plays_though_another_was_heard_last(page: Any, key: str) -> None:
    begin(page, "0")
    page.keyboard.press("Space")
    page.evaluate("show(another({}), vamp)")
    assert page.evaluate("VampStudio.deck.current().take.number") == 1
    page.keyboard.press(key)
    wait_heard(page, 1)
    assert page.locator(".vs-front .vs-name").get_attribute("aria-label") == "Hear Take 1"


@pytest.mark.parametrize("what", ["muted", "made quieter"])
def test_what_is_changed_while_it_waits_for_the_bar_is_so_then(page: Any, what: str) -> None:
    begin(page, "1")
    on_bars(page)
    wait_for_bar(page, "2")
    if what == "muted":
        page.keyboard.press("m")
        assert page.get_by_label("Mute Take 2").get_attribute("aria-pressed") == "true"
    else:
        page.get_by_label("Volume of Take 2").fill("50")
    is_loud(page, 0.2)
    wait_heard(page, 2)
    is_loud(page, 0 if what == "muted" else 0.3 / 4)


@pytest.mark.parametrize("how", ["restart", "wave", "pause"])
def test_what_waits_for_the_bar_is_what_is_begun_anew(page: Any, how: str) -> None:
    begin(page, "1")
    on_bars(page)
    wait_for_bar(page, "2")
    if how == "wave":
        page.locator(".vs-take canvas").nth(1).locator("..").click(position={"x": 5, "y": 5})
    else:
        page.keyboard.press("r" if how == "restart" else "Space")
    if how == "pause":
        assert not state(page)["playing"] and page.locator(".vs-front .vs-name").get_attribute("aria-label") == "Hear Take 2"
        page.keyboard.press("Space")
    wait_heard(page, 2)
    is_loud(page, 0.3)
    assert [heard for heard, _ in page.evaluate("window.heard")] == [1, 2]


def test_a_round_that_waits_does_not_begin_in_the_middle_of_the_loop(page: Any) -> None:
    page.evaluate("journey(3)")
    begin(page, "[aria-label='Play Round 1']")
    early(page, bars=1)
    page.evaluate("window.planned = 0")
    page.get_by_label("Play Round 2").click()
    page.wait_for_function("window.planned > 0")
    page.get_by_label("Play Round 3").click()
    page.wait_for_function("VampStudio.player.state().wanted === 3")
    wait_heard(page, 3)
    (first, _), (last, place) = page.evaluate("window.heard")
    assert (first, last) == (1, 3) and min(place, 1 - place) < 0.2


def test_a_take_that_waits_for_the_bar_goes_on_waiting_while_others_come(page: Any) -> None:
    page.evaluate("show({...vamp, takes: vamp.takes.slice(0, 2), coming: 1})")
    page.keyboard.press("1")
    page.wait_for_function("VampStudio.player.output().run?.keys().length === 3")
    on_bars(page)
    wait_for_bar(page, "2")
    page.evaluate("show(vamp)")
    page.wait_for_function("VampStudio.player.output().run?.keys().length === 4")
    wait_heard(page, 2)
    (first, _), (last, place) = page.evaluate("window.heard")
    assert (first, last) == (1, 2) and min(2 * place % 1, 1 - 2 * place % 1) < 0.2


def test_space_pauses_what_is_heard_whosever_it_is(page: Any) -> None:
    page.evaluate("journey(3)")
    begin(page, "[aria-label='Play Round 2']")
    for key in "ms":
        page.keyboard.press(key)
        assert state(page)["owner"] == "journey-7" and not any(one["muted"] or one["solo"] for one in state(page)["tracks"])
    page.keyboard.press("Space")
    assert not state(page)["playing"] and state(page)["owner"] == "journey-7"
    page.keyboard.press("Space")
    wait_heard(page, 2)
    assert state(page)["owner"] == "journey-7"
    page.keyboard.press("3")
    page.wait_for_function("VampStudio.player.state().owner === 'x'")


@pytest.mark.parametrize("what", ["beats", "takes"])
def test_what_comes_late_leaves_alone_what_plays(page: Any, what: str) -> None:
    early = {"beats": "{beats: [], downbeats: []}", "takes": "{takes: vamp.takes.slice(0, 2), coming: 1}"}[what]
    page.evaluate(f"show({{...vamp, id: 'z', ...{early}}})")
    page.evaluate("journey(3)")
    begin(page, "[aria-label='Play Round 2']")
    page.evaluate("show({...vamp, id: 'z'})")
    assert page.locator(".vs-take").count() == 3 and page.locator(".vs-switch input[value=bar]").is_enabled()
    assert state(page)["owner"] == "journey-7" and state(page)["playing"] and state(page)["heard"] == 2


def test_a_vamp_without_beats_does_not_change_what_switching_waits_for(page: Any) -> None:
    begin(page, "1")
    on_bars(page)
    page.evaluate("window.late = another({beats: [], downbeats: []}); show(late, vamp)")
    assert page.locator(".vs-switch input[value=now]").is_checked()
    page.wait_for_function("VampStudio.player.output().run?.keys().length === 4")
    page.evaluate("window.planned = 0")
    page.keyboard.press("2")
    wait_heard(page, 2)
    assert page.evaluate("window.planned") == 0
    page.evaluate("show({...late, beats: vamp.beats, downbeats: vamp.downbeats}, vamp)")
    assert page.locator(".vs-switch input[value=bar]").is_checked()
    wait_for_bar(page, "3")
    wait_heard(page, 3)


def focused(page: Any) -> str:
    """The name of what has the focus."""
    return page.evaluate("(({activeElement: one}) => one.getAttribute('aria-label') || one.textContent)(document)")


def test_buttons_and_chips_that_are_drawn_anew_keep_the_focus(page: Any) -> None:
    page.evaluate("show(another({title: 'Dream'}), vamp)")
    begin(page, "1")
    for key, action in (("2", "again"), ("0", "download")):
        page.focus(f".vs-take-actions [data-action={action}]")
        page.keyboard.press(key)
        wait_heard(page, int(key))
        assert page.evaluate("document.activeElement.dataset.action") == action
    chip = page.locator(".vs-vamp[aria-pressed=false]")
    name = chip.inner_text()
    chip.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("VampStudio.deck.current().vamp.id === 'x'")
    assert focused(page) == name


def test_rounds_that_come_leave_the_focus_where_it_is(page: Any) -> None:
    """Fields are not even made anew: a list may be open."""
    page.evaluate("journey(1)")
    for field in ("[name=journey-limit]", "[name=journey-source]", "text=Export the way"):
        page.focus(field)
        page.evaluate("window.field = document.activeElement; journey(2); journey(1)")
        assert page.evaluate("document.activeElement === window.field")
    for name in ("Play Source", "Remove: Round 1"):
        page.get_by_label(name).focus()
        page.evaluate("journey(2)")
        assert focused(page) == name
        page.evaluate("journey(1)")
    # What has gone leaves it to its card: nobody goes back to where they are.
    page.evaluate("journey(2)")
    page.get_by_label("Go back: Round 1").focus()
    page.evaluate("journey(2, {current: 1})")
    assert focused(page) == "Play Round 1"


def test_shortcuts_are_keys_whatever_letters_are_on_them(page: Any) -> None:
    begin(page, "1")
    page.dispatch_event("body", "keydown", {"key": "é", "code": "Digit2", "bubbles": True})
    wait_heard(page, 2)
    page.dispatch_event("body", "keydown", {"key": "ь", "code": "KeyM", "bubbles": True})
    page.wait_for_selector("[aria-label='Mute Take 2'][aria-pressed=true]")
    # A comma, where M is on a French keyboard, is none; nor is what an input method says.
    keys = {"ы KeyS": "s", "ㄹ KeyF": "f", "& Digit1": "1", ", KeyM": ",", "S Semicolon": "s", "ArrowUp ArrowUp": "ArrowUp",
            "Process KeyM": "Process"}  # fmt: skip
    found = page.evaluate("(keys) => keys.map(([key, code]) => VampStudio.keyOf({key, code}))", [one.split() for one in keys])
    assert found == list(keys.values())


def test_sound_is_opened_by_the_first_hand_and_after_an_interruption(page: Any) -> None:
    assert page.evaluate("VampStudio.player.output().context") is None
    page.evaluate("""() => {
      const {suspend} = AudioContext.prototype;
      AudioContext.prototype.suspend = function () { return suspend.call(this).then(() => (window.rests = true)); };
    }""")
    page.mouse.click(380, 790)
    page.wait_for_function("window.rests && VampStudio.player.output().context.state === 'suspended'")  # made, and at rest
    begin(page, "1")
    page.evaluate("VampStudio.player.output().context.suspend()")
    page.keyboard.press("2")
    wait_heard(page, 2)
    page.wait_for_function("VampStudio.player.output().context.state === 'running'")


def test_an_iphone_is_told_that_music_plays_and_when_the_microphone_is_asked_for(page: Any) -> None:
    page.add_script_tag(path=str(Path(__file__).parents[1] / "vampnet" / "studio" / "web" / "recording.js"))
    page.evaluate("""() => {
      const session = {type: 'auto'}, mediaDevices = {getUserMedia: async () => {
        window.asked = session.type;
        throw new DOMException('', 'NotAllowedError');
      }};
      for (const [name, value] of Object.entries({audioSession: session, mediaDevices})) {
        Object.defineProperty(navigator, name, {value, configurable: true});
      }
    }""")
    begin(page, "1")
    assert page.evaluate("navigator.audioSession.type") == "playback"
    assert page.evaluate("VampStudio.tape.open().catch((error) => error.name)") == "NotAllowedError"
    assert page.evaluate("[window.asked, navigator.audioSession.type]") == ["play-and-record", "playback"]
