"""The loop deck in Chromium: switching is measured sample by sample, and the deck is played as a visitor would."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import synthesise_music
from studio_tools import BEATS
from test_browser import bring, bundled_model, serve, vamp, visit

from vampnet import beats
from vampnet.bundle import read_bundle
from vampnet.config import SAMPLE_RATE
from vampnet.studio import page as studio_page

pytestmark = pytest.mark.browser
WEB = Path(studio_page.__file__).parent / "web"
SETTLED = round(16 * 0.006 * SAMPLE_RATE)
"""Samples after which a switch has ended."""

# Sound travels as base64 of float32.
PACK = """window.pack = (samples) => {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = '';
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
};
window.unpack = (text) => new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
'ready';"""

# Tracks of seamless loops through the deck's own graph, in an offline context; `plan` is a list of [frame, index].
OFFLINE = """async ({tracks, frames, origin, begin, plan, joins}) => {
  const context = new OfflineAudioContext(1, frames, 44100);
  const run = VampStudio.makeRun(context, context.destination);
  run.open(origin, begin);
  tracks.map(unpack).forEach((samples, i) => {
    const buffer = context.createBuffer(1, samples.length, 44100);
    buffer.copyToChannel(samples, 0);
    run.add(i, buffer);
    run.start(i, i ? 0 : 1, joins[i]);
  });
  for (const [frame, index] of plan) tracks.forEach((_, i) => run.level(i, i === index ? 1 : 0, frame));
  return pack((await context.startRendering()).getChannelData(0));
}"""

# Keeps what comes out of the deck's master volume: [first frame, samples of the left channel].
RECORD = """async () => {
  const {context, node} = VampStudio.player.output();
  const code = `registerProcessor('tap', class extends AudioWorkletProcessor {
    process([input]) {
      if (input[0]) this.port.postMessage([currentFrame, input[0].slice()]);
      return true;
    }
  })`;
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([code], {type: 'text/javascript'})));
  const tap = new AudioWorkletNode(context, 'tap', {numberOfOutputs: 1});
  window.tapped = [];
  tap.port.onmessage = (event) => window.tapped.push(event.data);
  node.connect(tap).connect(context.destination);
}"""
RECORDED = """() => {
  const found = window.tapped.splice(0);
  const samples = new Float32Array(found.length * 128);
  found.forEach(([, part], i) => samples.set(part, i * 128));
  return [found.length ? found[0][0] : 0, pack(samples), VampStudio.player.output().run.origin];
}"""


def loop_of(seconds_in_samples: int, seed: int) -> np.ndarray:
    """A seamless loop: partials with a whole number of periods."""
    rng, n = np.random.default_rng(seed), seconds_in_samples
    time = np.arange(n) / n
    partials = [rng.uniform(0.02, 0.08) * np.sin(2 * np.pi * (rng.integers(40, 900) * time + rng.random())) for _ in range(8)]
    return np.sum(partials, axis=0).astype(np.float32)


def packed(samples: np.ndarray) -> str:
    return base64.b64encode(samples.astype("<f4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def longest_silence(sound: np.ndarray, below: float = 1e-3) -> int:
    """Samples of the longest run below a level."""
    edges = np.flatnonzero(np.concatenate([[True], np.abs(sound) >= below, [True]]))
    return int(np.diff(edges).max() - 1)


def largest_step(sound: np.ndarray) -> float:
    return float(np.abs(np.diff(sound)).max())


@pytest.fixture(scope="module")
def bare(browser: Any) -> Iterator[Any]:
    """A page with nothing but the player's voices."""
    page = browser.new_page()
    page.set_content("<p>nothing</p>")
    page.add_script_tag(path=str(WEB / "run.js"))
    page.evaluate(PACK)
    yield page
    page.close()


def render(page: Any, tracks: list[np.ndarray], seconds: float, plan: list, joins: list, origin: int, begin: int) -> np.ndarray:
    given = {
        "tracks": [packed(track) for track in tracks], "frames": round(seconds * SAMPLE_RATE), "plan": plan, "joins": joins,
        "origin": origin, "begin": begin,
    }  # fmt: skip
    return unpacked(page.evaluate(OFFLINE, given))


def test_switching_has_no_gap_no_step_and_keeps_the_phase(bare: Any) -> None:
    n, origin, begin = 44_177, -12_345, 777
    tracks = [loop_of(n, seed) for seed in range(4)]
    # Late ones join at odd moments, two at frames whose seconds times the rate are not whole numbers again.
    joins = [begin, begin, 9_001, next(i for i in range(20_000, 30_000) if (i / 44100) * 44100 < i)]
    plan = [[40_000 + 11_111 * i, (1, 3, 2, 0, 3, 1)[i % 6]] for i in range(14)]
    out = render(bare, tracks, 4.5, plan, joins, origin, begin)
    heard = out[begin + 2000 :]
    places = np.arange(len(out)) - origin
    worst = 0.0
    for (frame, index), (end, _) in zip(plan, [*plan[1:], [len(out), 0]], strict=True):
        part = slice(frame + SETTLED, end)
        worst = max(worst, float(np.abs(out[part] - tracks[index][places[part] % n]).max()))
    inside = max(largest_step(np.append(track, track[:1])) for track in tracks)
    gap, step = longest_silence(heard), largest_step(heard)
    quiet = max(longest_silence(track) for track in tracks)
    print(f"gap {gap} samples (inside the tracks {quiet}), step {step:.4f} (inside {inside:.4f}), off phase by {worst:.1e}")
    assert worst < 1e-5  # sample by sample the track itself, at its own place: all are in phase, at every wrap too
    assert step <= inside and gap <= quiet + 1


def test_a_storm_of_switches_leaves_what_is_common_untouched(bare: Any) -> None:
    track = loop_of(30_011, 1)
    plan = [[30_000 + 97 * i, i % 3] for i in range(600)]
    out = render(bare, [track] * 3, 3, plan, [500, 500, 4_000], 500, 500)
    assert np.abs(out[4_000:] - track[(np.arange(4_000, len(out)) - 500) % len(track)]).max() < 1e-4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of music: eight beats, two bars."""
    path = tmp_path_factory.mktemp("deck") / "Groove.wav"
    soundfile.write(path, synthesise_music(4.0).T, SAMPLE_RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def studio(browser: Any, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A visitor with three takes on the deck, who has heard the source and whose sound is recorded from here on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beats, "track", lambda signal, **options: BEATS)  # tracking is tested elsewhere
        with serve(bundled_model(), tmp_path_factory.mktemp("no examples")) as url, visit(browser, url) as page:
            bring(page, clip)
            vamp(page, takes=3)
            page.wait_for_selector(".vs-take:nth-child(4)")
            page.keyboard.press("0")
            page.wait_for_function("VampStudio.player.output().run !== null")
            page.evaluate(PACK)
            page.evaluate(RECORD)
            page.wait_for_function("window.tapped.length > 0")
            # Chromium moves to another audio thread for the first worklet of a context, and may count blocks meanwhile that it
            # never asks for: what played before lies late for the recorder. The loops that are looked at begin after that.
            page.keyboard.press("Space")
            page.keyboard.press("Space")
            page.wait_for_function("VampStudio.player.output().run?.keys().length === 4")
            yield page


def state(page: Any) -> dict[str, Any]:
    return page.evaluate("VampStudio.player.state()")


def wait_heard(page: Any, index: int) -> None:
    page.wait_for_function(
        "(i) => { const s = VampStudio.player.state(); return s.running && s.heard === i && s.wanted === null; }", arg=index
    )


def left_of(take: dict[str, Any]) -> np.ndarray:
    return soundfile.read(take["sound"], dtype="float32", always_2d=True)[0][:, 0]


def test_what_is_heard_while_keys_are_pressed(studio: Any) -> None:
    page = studio
    shown = page.evaluate("VampStudio.deck.current().vamp")
    tracks = [left_of(track) for track in (shown["source_track"], *shown["takes"])]
    n = len(tracks[0])
    assert {len(track) for track in tracks} == {n}
    page.keyboard.press("0")
    wait_heard(page, 0)
    page.wait_for_timeout(200)
    page.evaluate("window.tapped = []")
    for key in "1230213":
        page.wait_for_timeout(330)
        page.keyboard.press(key)
        wait_heard(page, int(key))
    page.wait_for_timeout(300)
    first, samples, origin = page.evaluate(RECORDED)
    out = unpacked(samples)
    places = np.arange(first, first + len(out)) - origin
    # At every moment some track sounds by itself, at the very sample where it should be.
    apart = np.stack([np.abs(out - track[places % n]) for track in tracks])
    settled = apart.min(axis=0) < 1e-4
    order = [int(i) for i in apart.argmin(axis=0)[settled]]
    heard = [order[0]]
    for i in range(0, len(order) - 256, 64):
        if len(set(order[i : i + 256])) == 1 and order[i] != heard[-1]:
            heard.append(order[i])
    inside = max(largest_step(np.append(track, track[:1])) for track in tracks)
    gap, step = longest_silence(out), largest_step(out)
    quiet = max(longest_silence(track) for track in tracks)
    # And while one gives way to another, it lies between them: nothing is missing and nothing is added.
    here = np.stack([track[places % n] for track in tracks])
    beyond = float(np.maximum(out - here.max(axis=0), here.min(axis=0) - out).max())
    print(f"gap {gap} samples (inside the tracks {quiet}), step {step:.3f} (inside {inside:.3f}), beyond {beyond:.1e}, {heard}")
    assert heard == [0, 1, 2, 3, 0, 2, 1, 3] and beyond < 1e-4
    # What is missed is at least a block of the audio thread (128 samples); where two tracks cross is as quiet for a few more.
    assert settled.mean() > 0.6 and step <= inside and gap <= quiet + 32


# The audio thread takes over connections and tells of ends when it comes to it: here, a fifth of a second later.
LATE = """() => {
  const {connect} = AudioNode.prototype, nodes = AudioScheduledSourceNode.prototype;
  const ended = Object.getOwnPropertyDescriptor(nodes, 'onended');
  AudioNode.prototype.connect = function (...given) {
    setTimeout(() => connect.apply(this, given), 200);
    return given[0];
  };
  Object.defineProperty(nodes, 'onended', {...ended, set(run) { ended.set.call(this, () => setTimeout(run, 200)); }});
  window.inTime = () => {
    AudioNode.prototype.connect = connect;
    Object.defineProperty(nodes, 'onended', ended);
  };
}"""
JOIN_AGAIN = """async () => {
  const {player, deck} = VampStudio, {tracks, owner} = player.state(), {beats, downbeats} = deck.current().vamp;
  await player.load(tracks.slice(0, 1), {owner});
  await player.load(tracks, {owner, beats, downbeats});
}"""


@pytest.mark.parametrize("way", ["begun anew", "joined"])
def test_loops_are_in_phase_though_connections_come_late(studio: Any, way: str) -> None:
    page = studio
    shown = page.evaluate("VampStudio.deck.current().vamp")
    tracks = [left_of(track) for track in (shown["source_track"], *shown["takes"])]
    page.keyboard.press("0")
    wait_heard(page, 0)
    page.evaluate(LATE)
    if way == "joined":
        page.evaluate(JOIN_AGAIN)
    else:
        page.keyboard.press("Space")
        page.keyboard.press("Space")
    page.wait_for_function("VampStudio.player.output().run?.keys().length === 4")
    page.evaluate("window.inTime()")
    page.wait_for_timeout(300)
    for number, track in enumerate(tracks):
        page.keyboard.press(str(number))
        wait_heard(page, number)
        page.wait_for_timeout(250)
        page.evaluate("window.tapped = []")
        # On a busy machine a quarter of a second of sound takes longer than that to come.
        page.wait_for_function("window.tapped.length > 80")
        first, samples, origin = page.evaluate(RECORDED)
        out = unpacked(samples)
        assert np.abs(out - track[(np.arange(first, first + len(out)) - origin) % len(track)]).max() < 1e-4, number


def test_switching_waits_for_the_beat_and_the_bar(studio: Any) -> None:
    page = studio
    page.keyboard.press("1")
    wait_heard(page, 1)
    shown = page.evaluate("VampStudio.deck.current().vamp")
    assert (shown["beats"], shown["downbeats"]) == (list(BEATS.beats), list(BEATS.downbeats)) and shown["tempo"] == BEATS.tempo
    tracks = [left_of(track) for track in (shown["source_track"], *shown["takes"])]
    for name, times, before, after in (("beat", shown["beats"], 1, 2), ("bar", shown["downbeats"], 2, 3)):
        page.locator(f".vs-switch input[value={name}]").check()
        page.wait_for_timeout(100)
        page.evaluate("window.tapped = []")
        page.keyboard.press(str(after))
        assert page.locator(".vs-waits").count() == 1 or state(page)["heard"] == after
        wait_heard(page, after)
        page.wait_for_timeout(100)
        first, samples, origin = page.evaluate(RECORDED)
        out, n = unpacked(samples), len(tracks[0])
        places = (np.arange(first, first + len(out)) - origin) % n
        left = int(np.argmax(np.abs(out - tracks[before][places]) > 1e-4))
        late = min((int(places[left]) - round(time * SAMPLE_RATE)) % n for time in times)
        print(f"switched {late} samples after the {name}")
        assert late <= 8 and np.abs(out[-256:] - tracks[after][places[-256:]]).max() < 1e-4
    page.locator(".vs-switch input[value=now]").check()


def test_mute_solo_volume_and_keys_in_fields(studio: Any) -> None:
    page = studio

    def level(seconds: float = 0.6) -> float:  # longer than a beat: takes rest where the clip does
        page.wait_for_timeout(150)
        page.evaluate("window.tapped = []")
        page.wait_for_timeout(round(seconds * 1000))
        return float(np.sqrt(np.mean(np.square(unpacked(page.evaluate(RECORDED)[1])))))

    page.keyboard.press("2")
    wait_heard(page, 2)
    row = page.locator(".vs-track").nth(2)
    full = level(4.0)  # once around
    row.get_by_label("Volume of Take 2").fill("50")
    half = level(4.0)
    assert half == pytest.approx(full / 4, rel=0.2) and half > 1e-4
    page.keyboard.press("m")
    assert level() == 0 and row.get_by_label("Mute Take 2").get_attribute("aria-pressed") == "true"
    page.keyboard.press("m")
    page.get_by_label("Solo Take 1").click()
    page.get_by_label("Solo Take 3").click()
    page.wait_for_timeout(150)
    assert page.locator(".vs-track.vs-on").count() == 2 and level() > 1e-4
    page.keyboard.press("3")
    wait_heard(page, 3)
    assert page.locator(".vs-track.vs-on").count() == 1
    assert page.get_by_label("Solo Take 1").get_attribute("aria-pressed") == "false"
    # In a field a key is a letter.
    page.locator("#control-seed input").focus()
    page.keyboard.press("1")
    page.wait_for_timeout(60)
    assert state(page)["heard"] == 3
    page.locator("#control-seed input").fill("0")
    page.locator("#control-seed input").blur()
    # Space pauses even after a click on a row, and the place is kept.
    page.locator(".vs-track .vs-name").nth(1).click()
    wait_heard(page, 1)
    page.keyboard.press("Space")
    assert not state(page)["playing"] and state(page)["heard"] == 1
    page.keyboard.press("Space")
    wait_heard(page, 1)
    page.locator(".vs-master input").fill("0")
    assert level() == 0
    page.locator(".vs-master input").fill("100")
    # The picture's source is the deck's track 0.
    page.locator("#picture .vs-play").click()
    wait_heard(page, 0)
    assert state(page)["owner"] is not None
    page.keyboard.press("1")


def test_favourites_zip_other_rooms_buttons_and_the_next_vamps(studio: Any, tmp_path: Path) -> None:
    page = studio
    page.keyboard.press("2")
    wait_heard(page, 2)
    with page.expect_download() as got:
        page.get_by_role("button", name="Download all (zip)").click()
    assert got.value.suggested_filename == "Groove-vamp-seed0.zip"
    got.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "all")
        assert json.loads(archive.read("vamp.json"))["takes"] == 3 and len(archive.namelist()) == 6
    assert len(read_bundle(tmp_path / "all").takes) == 3
    page.evaluate("""() => {
      const {deck} = VampStudio;
      const run = (vamp, take) => (window.probed = [vamp.id, take.number]);
      deck.addAction({name: 'probe', label: (vamp, take) => `Probe ${take.number}`, run});
      deck.addVampAction({name: 'whole', label: 'Whole', run: (vamp) => deck.fire('nobody knows this', {vamp: vamp.id})});
    }""")
    page.get_by_role("button", name="Probe 2").click()
    page.get_by_role("button", name="Whole").click()
    first = page.evaluate("VampStudio.deck.current().vamp.id")
    assert page.evaluate("window.probed") == [first, 2]
    page.keyboard.press("f")
    page.wait_for_selector(".vs-chip:has-text('★ Take 2')")
    # A new vamp comes on the deck while the old one plays, and goes on at the same place.
    before = page.evaluate("VampStudio.player.output().run.origin")
    page.evaluate("VampStudio.deck.current().take.number === 2 && (window.started = true)")
    page.get_by_role("button", name="Vamp again from this").click()
    page.wait_for_selector("#message :text('Groove-take2-seed0')")
    page.wait_for_function("(id) => VampStudio.deck.current().vamp.id !== id", arg=first)
    page.wait_for_function("VampStudio.deck.current().vamp.coming === 0")  # the first take was there before the others
    page.wait_for_function("VampStudio.player.output().run?.keys().length === 4")
    now = page.evaluate("VampStudio.deck.current().vamp")
    assert now["source"] == "Groove-take2-seed0" and len(now["takes"]) == 3
    assert page.evaluate("VampStudio.player.output().run.origin") == before and state(page)["playing"]
    assert page.locator(".vs-vamp").count() == 2
    page.locator(".vs-chip:has-text('★ Take 2')").click()
    wait_heard(page, 2)
    assert page.evaluate("[VampStudio.deck.current().vamp.id, VampStudio.deck.current().take.number]") == [first, 2]
    page.get_by_role("button", name="Use as source").click()
    page.wait_for_selector("#message .vs-ready:has-text('Groove-take2-seed0')")
    page.keyboard.press("Space")
