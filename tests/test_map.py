"""The token map without a browser: paint, beats by hand, the ground, what is kept as sound, values that come back."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import studio_tools
import torch
from studio_tools import BEATS, run_vamp, short_clip, values

from vampnet import bundle
from vampnet.beats import BeatGrid, make_grid
from vampnet.config import SAMPLE_RATE, Prompt, Sampling
from vampnet.studio import tempo
from vampnet.studio.controls import CONTROLS, COSTLY, DEFAULTS, NAMES, read_request, restore, values_of
from vampnet.studio.ground import BANDS, ground
from vampnet.studio.handlers import Handlers
from vampnet.studio.mask_picture import describe, mask_of, unpack
from vampnet.studio.paint import Paint, paint_of, read_paint
from vampnet.studio.session import Session, read_source
from vampnet.studio.shelf import Shape
from vampnet.studio.text import LANGUAGES

handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats

pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------------------------------------------ paint


def painted(steps: int, keep: list = (), make: list = (), levels: int = 14) -> dict[str, Any]:
    return {"levels": levels, "steps": steps, "keep": list(keep), "make": list(make)}


def test_paint_lies_over_a_mask_and_comes_back() -> None:
    mask = torch.rand(1, 14, 50, generator=torch.Generator().manual_seed(1)) < 0.5
    paint = read_paint(painted(50, [[0, 0, 50], [3, 7, 9.0]], [[3, 8, 10], [13, 49, 50]]))
    out = paint.over(mask)
    assert not out[0, 0].any() and not out[0, 3, 7] and out[0, 3, 8:10].all() and out[0, 13, 49]
    untouched = torch.ones_like(mask)
    untouched[0, 0], untouched[0, 3, 7:10], untouched[0, 13, 49] = False, False, False
    assert torch.equal(out[untouched], mask[untouched])
    assert read_paint(paint.value()) == paint
    assert torch.equal(paint_of(mask).over(~mask), mask)
    with pytest.raises(ValueError, match="another length"):
        paint.over(mask[..., :-1])


@pytest.mark.parametrize(
    "value",
    [
        painted(50, [[0, 0, 51]]), painted(50, [[14, 0, 1]]), painted(50, [[0, 5, 5]]), painted(50, [[-1, 0, 1]]),
        painted(50, [[0, 0.5, 1]]), painted(50, [["0", 0, 1]]), painted(50, [[0, 0]]), {"levels": 14}, "paint", [1], 7,
        painted(50, [[0, float("nan"), 1]]), painted(50, make=[None]),
    ],
)  # fmt: skip
def test_what_is_no_paint_gets_a_sentence(value: Any) -> None:
    with pytest.raises(ValueError, match="clear the paint"):
        read_paint(value)


def test_nothing_painted_is_none() -> None:
    assert read_paint(None) is read_paint("") is read_paint(painted(50)) is None


@pytest.mark.parametrize("changes", [{}, {"loop": False, "extend_after": 0.2}])
def test_a_painted_vamp_is_the_picture_and_is_kept_whole(
    changes: dict, handlers: Handlers, session: Session, tmp_path: Path
) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    steps = handlers.draw(session, *values(**changes))["steps"]
    paint = painted(steps, [[0, 0, steps], [5, 3, 9]], [[0, 10, 14], [13, 0, 4]])
    drawn = handlers.draw(session, *values(paint=paint, **changes))
    assert not drawn["dropped"]
    expected = read_paint(paint).over(unpack(drawn))
    if changes:
        assert expected[0, 0, -1].item() is False  # what is added is made all the same
        expected[..., drawn["open"][1] :] = True
    run_vamp(handlers, session, paint=paint, **changes)
    folder = Path(session.vamps[0]["folder"])
    vamp = bundle.read_bundle(folder)
    assert torch.equal(vamp.mask, expected) and vamp.painted
    assert drawn["sentence"] == describe(vamp.mask, vamp.grid)
    # The same request gives the same tokens, and so do the values that are read back from the folder.
    back = restore(bundle.read_settings(folder), vamp.mask)
    run_vamp(handlers, session, **{name: value for name, value in back.items()})
    again = bundle.read_bundle(Path(session.vamps[0]["folder"]))
    assert torch.equal(again.tokens, vamp.tokens) and torch.equal(again.mask, vamp.mask)


def test_paint_of_another_length_is_dropped_with_a_sentence(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    steps = handlers.draw(session, *values())["steps"]
    paint = painted(steps, [[0, 0, 5]])
    longer, plain = (handlers.draw(session, *values(paint=given, extend_after=1.0)) for given in (paint, None))
    assert "cleared" in longer["dropped"] and longer["sentence"] == plain["sentence"]
    told = run_vamp(handlers, session, paint=paint, extend_after=1.0)
    assert "another length" in told[-1][0] and session.vamps == []


# ----------------------------------------------------------------------------------------------------------------- values


def test_values_make_the_request_that_they_are_read_from() -> None:
    given = dict(zip(NAMES, values(region=[0.5, 2], bars="2", extend_before=1.5, paint=painted(9, [[0, 1, 2]])), strict=True))
    request = read_request([given[name] for name in NAMES])
    assert read_request(list(values_of(request).values())) == request
    assert request.prompt.region == (0.5, 2.0) and request.extend == (1.5, 0.0) and request.paint.keep == ((0, 1, 2),)
    assert list(values_of(request)) == list(NAMES)


@pytest.mark.parametrize("name", COSTLY)
def test_nobody_holds_the_models_longer_than_the_page_offers(name: str) -> None:
    most = next(control.high for control in CONTROLS if control.name == name)
    given = {**DEFAULTS, name: most}
    assert getattr(read_request([given.get(each) for each in NAMES]).sampling, name) == most
    for value in (most + 1, 10**9, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="must lie in|is empty"):
            read_request([{**given, name: value}.get(each) for each in NAMES])
    # A file of the command line may say more; the page then takes the most that it has.
    settings = {"prompt": vars(Prompt()), "sampling": {**vars(Sampling()), name: 500}, "takes": 4, "seed": 0, "loop": True}
    assert restore(settings)[name] == most


@pytest.mark.parametrize("settings", [{}, {"prompt": 3}, {"prompt": {}, "sampling": {}, "takes": "x", "seed": 0, "loop": True}])
def test_settings_of_another_kind_get_a_sentence(settings: dict) -> None:
    with pytest.raises(ValueError):
        restore(settings)


@pytest.mark.parametrize("region", [[1], [1, "2"], [True, 2], [2, 1], "x"])
def test_a_region_must_be_two_times(region: Any) -> None:
    with pytest.raises(ValueError, match="region"):
        read_request(values(region=region))


def test_both_languages_have_the_same_sentences_of_the_map() -> None:
    english, korean = ({key for key in LANGUAGES[name] if key.startswith("map.")} for name in ("en", "ko"))
    assert english == korean and len(english) > 100


# ------------------------------------------------------------------------------------------------------------------ tempo

EVEN = make_grid(np.arange(0.25, 8, 0.5), np.arange(0.75, 8, 2.0), "librosa", "")


def bars_of(grid: BeatGrid) -> list[float]:
    return [round(time, 4) for time in grid.downbeats]


def test_half_and_double_keep_the_bar_line() -> None:
    half, double = tempo.edit(EVEN, 8, "half"), tempo.edit(EVEN, 8, "double")
    assert half.tempo == pytest.approx(60) and double.tempo == pytest.approx(240)
    assert bars_of(half) == [0.75, 4.75] and bars_of(double)[:2] == [0.75, 1.75] and half.engine == tempo.ENGINE
    assert set(half.beats) <= set(EVEN.beats) <= set(double.beats)
    assert tempo.edit(double, 8, "half").beats == EVEN.beats


def test_a_beat_a_minute_more_or_less_turns_about_the_bar_line() -> None:
    faster = tempo.edit(EVEN, 8, "faster")
    assert faster.tempo == pytest.approx(121) and min(abs(t - 0.75) for t in faster.downbeats) < 1e-9
    assert tempo.edit(faster, 8, "slower").tempo == pytest.approx(120)
    with pytest.raises(ValueError, match="between 30 and 300"):
        tempo.edit(tempo.edit(EVEN, 8, "double"), 8, "double")


def test_the_bar_line_moves_by_beats_and_all_by_milliseconds() -> None:
    assert bars_of(tempo.edit(EVEN, 8, "later"))[0] == 1.25 and bars_of(tempo.edit(EVEN, 8, "earlier"))[0] == 0.25
    left = tempo.edit(EVEN, 8, "left")
    assert np.allclose(left.beats, np.array(EVEN.beats) - 0.01) and bars_of(left)[0] == 0.74
    # Far enough to the left, a beat goes at the start and one comes at the end; the bars stay four beats long.
    grid = EVEN
    for _ in range(30):
        grid = tempo.edit(grid, 8, "left")
    assert min(grid.beats) >= 0 and len(grid.beats) == 16 and np.allclose(np.diff(grid.downbeats), 2.0)


@pytest.mark.parametrize("nothing", [None, BeatGrid(note="none"), make_grid([1.0], [], "librosa", "")])
def test_without_beats_one_begins_at_120(nothing: BeatGrid | None) -> None:
    assert tempo.edit(nothing, 8, "faster").tempo == pytest.approx(121)
    assert tempo.edit(nothing, 8, "half").tempo == pytest.approx(60)
    assert tempo.tapped(nothing, 8, [0, 500, 1000, 1500], [2.1, 2.6, 3.1, 3.6]).beats[0] == pytest.approx(0.1)


@pytest.mark.parametrize("act", tempo.ACTS)
@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.5, 0.7])
def test_a_clip_of_less_than_two_beats_can_be_set_too(act: str, seconds: float) -> None:
    found = tempo.edit(BeatGrid(), seconds, act)
    assert all(0 <= beat < seconds for beat in found.beats)


def test_a_region_of_another_clip_is_dropped_with_a_sentence(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 2.0)))
    drawn = handlers.draw(session, *values(region=[3, 6]))
    assert drawn["lost"] == ["region"] and "region" in drawn["dropped"] and "problem" not in drawn
    assert drawn["kept"] == handlers.draw(session, *values())["kept"]


def test_taps_give_tempo_and_while_it_plays_the_place() -> None:
    taps = [10_000, 10_610, 11_190, 11_800, 12_400, 14_900]
    found = tempo.tapped(EVEN, 8, taps)
    assert found.tempo == pytest.approx(100, abs=0.5) and min(abs(t - 0.75) for t in found.downbeats) < 1e-9
    at = [3.0 + 0.6 * i for i in range(5)]
    placed = tempo.tapped(EVEN, 8, [0, 600, 1200, 1800, 2400], at)
    assert placed.tempo == pytest.approx(100) and all(min(abs(t - b) for b in placed.beats) < 1e-6 for t in at)
    for bad in ([0, 500, 1000], [0, 0, 0, 0], [0, 1, 2, float("nan")], [0, 500, 1000, "x"], [0, 10, 20, 30]):
        with pytest.raises(ValueError):
            tempo.tapped(EVEN, 8, bad)


def test_doubled_beats_go_on_to_the_end_and_taps_that_are_none_get_a_sentence() -> None:
    assert len(tempo.edit(tempo.regular(60, 0, 8), 8, "double").beats) == 16
    for taps, at in ((None, None), (5, None), ([1e308] * 4, 0), ("abcd", None), ([0, 500, 1000, 1500], 7)):
        with pytest.raises(ValueError, match="[a-z]") as found:
            tempo.tapped(EVEN, 8, taps, at)
        assert "object" not in str(found.value)


def test_the_page_sets_the_beats_of_its_source(handlers: Handlers, session: Session, music_file: Path) -> None:
    assert "no clip yet" in handlers.set_tempo(session, SimpleNamespace(act="half"))
    handlers.choose(session, str(music_file))
    handlers.track(session)
    assert "60 bpm" in (line := handlers.set_tempo(session, SimpleNamespace(act="half"))) and "set by hand" in line
    drawn = handlers.draw(session, *values(bars="1"))
    assert drawn["tempo"] == pytest.approx(60, abs=0.5) and drawn["seconds"] == pytest.approx(4.0, abs=0.05)
    for event in (SimpleNamespace(act="x"), SimpleNamespace(act=None), SimpleNamespace(act="tap", taps=None, at=None)):
        assert 'role="alert"' in handlers.set_tempo(session, event)
    # Tracking that ends later does not take it back.
    assert session.source.track().tempo == pytest.approx(60, abs=0.5) and BEATS.tempo == 120


# ---------------------------------------------------------------------------------------------------------- ground, sound


def test_the_ground_shows_a_tone_where_it_sounds(session: Session, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE)
    tone[: SAMPLE_RATE // 2] = 0
    soundfile.write(tmp_path / "tone.wav", tone, SAMPLE_RATE)
    found = ground(read_source(session, str(tmp_path / "tone.wav")))
    image = np.frombuffer(base64.b64decode(found["image"]), np.uint8).reshape(found["rows"], found["columns"])
    assert found["rows"] == BANDS and found["seconds"] == pytest.approx(2, abs=0.02) and len(found["image"]) < 110_000
    sounding = image[:, found["columns"] // 2 :].mean(1)
    assert image[:, : found["columns"] // 5].mean() < 20 and sounding.max() > 250
    # 1000 Hz lies a bit below the middle of the mel scale to 16 kHz, and row 0 is the highest band.
    assert 0.6 < int(sounding.argmax()) / BANDS < 0.8


def test_a_long_source_has_a_small_ground(session: Session, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(size=60 * SAMPLE_RATE) * 0.1, SAMPLE_RATE)
    found = ground(read_source(session, str(tmp_path / "long.wav")))
    assert found["columns"] <= 1200 and len(found["image"]) < 110_000


def test_what_is_kept_is_heard(handlers: Handlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no clip yet" in handlers.hear(session, *values())["problem"]
    with monkeypatch.context() as loading:
        loading.setattr(type(handlers.shelf), "loaded", False)
        loading.setattr(handlers.shelf, "task", SimpleNamespace(words="Loading"))
        assert "no clip yet" in handlers.hear(session, *values())["problem"]
        session.source = SimpleNamespace()
        assert "being loaded" in handlers.hear(session, *values())["problem"]
        session.source = None
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    heard = handlers.hear(session, *values(extend_after=0.5))
    sound, _ = soundfile.read(heard["sound"])
    assert heard["end"] == pytest.approx(1.0, abs=0.02) and len(sound) == round(heard["end"] * SAMPLE_RATE)
    # What sounds at the very end leads into the kept first step.
    assert np.abs(sound[SAMPLE_RATE * 2 // 3 : -2500]).max() < 1e-2 < np.abs(sound[: SAMPLE_RATE // 2]).max()
    again = handlers.hear(session, *values(periodic=2))
    assert not Path(heard["sound"]).exists() and Path(again["sound"]).is_relative_to(session.folder)
    assert "Nothing that sounds" in handlers.hear(session, *values(periodic=0))["problem"]


def test_a_painted_request_is_the_mask_that_is_asked_for() -> None:
    shape = Shape()
    steps = mask_of(read_request(values()), None, shape)[0].shape[-1]
    request = read_request(values(periodic=0, paint=Paint(14, steps, keep=((2, 5, 9),)).value()))
    mask = mask_of(request, None, shape)[0]
    assert int((~mask).sum()) == 4 and not mask[0, 2, 5:9].any()
