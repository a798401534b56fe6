"""The studio without a browser: controls, presets, the picture of the mask, sources."""

from __future__ import annotations

import base64
import copy
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
import studio_tools
import torch
from studio_tools import BEATS, other_vampnet, short_clip, values
from tiny import tiny_vampnet

from vampnet import beats
from vampnet.beats import BeatGrid
from vampnet.config import PUBLISHED, SAMPLE_RATE, TUNED, Prompt, Sampling, TokenGrid
from vampnet.pipeline import VampNet
from vampnet.studio import handlers as studio_handlers
from vampnet.studio import mask_picture, presets
from vampnet.studio.controls import CONTROLS, DEFAULTS, FOLLOWERS, MAX_TAKES, NAMES, READ, follow, read_request
from vampnet.studio.handlers import Handlers
from vampnet.studio.notices import is_error
from vampnet.studio.session import Session, envelope, plain_name, read_source, shrink
from vampnet.studio.shelf import Shape

handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats


# --------------------------------------------------------------------------------------------------------------- controls


def test_untouched_controls_are_the_defaults_of_the_package() -> None:
    request = read_request([DEFAULTS[name] for name in NAMES])
    assert request.prompt == Prompt() and request.sampling == Sampling()
    assert (request.takes, request.seed, request.bars) == (4, 0, None)


def test_every_control_reaches_the_request() -> None:
    plain = read_request(values())
    for control in CONTROLS:
        drawn = {"region": [0.5, 1], "paint": {"levels": 14, "steps": 9, "keep": [[0, 1, 2]], "make": []}}
        ticked = {name: not value for name, value in DEFAULTS.items() if isinstance(value, bool)}
        other = {"bars": "2", "seed": 9, **ticked, **drawn}.get(control.name)
        if other is None:
            other = control.high if DEFAULTS[control.name] != control.high else control.low
        assert read_request(values(**{control.name: other})) != plain, control.name


def test_defaults_lie_in_the_ranges_of_their_sliders() -> None:
    for control in CONTROLS:
        if control.step is not None:
            assert control.low <= DEFAULTS[control.name] <= control.high
            steps = (DEFAULTS[control.name] - control.low) / control.step
            assert abs(steps - round(steps)) < 1e-9, control.name
            read_request(values(**{control.name: control.low})), read_request(values(**{control.name: control.high}))


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("periodic", None, "empty"), ("steps", 2.5, "whole"), ("takes", MAX_TAKES + 1, "Takes"), ("seed", -1, "seed"),
        ("seed", None, "Seed"), ("dropout", 1.5, "dropout"), ("bars", "3", "bars"), ("kept_codebooks", 15, "kept_codebooks"),
        ("original_sound", 1, "original_sound"),
    ],
)  # fmt: skip
def test_a_bad_value_gets_one_sentence(name: str, value: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word) as caught:
        read_request(values(**{name: value}))
    assert str(caught.value).count(". ") == 0


def test_whole_numbers_arrive_as_floats() -> None:
    request = read_request(values(periodic=5.0, seed=3.0, takes=2.0))
    assert (request.prompt.periodic, request.seed, request.takes) == (5, 3, 2)


# ---------------------------------------------------------------------------------------------------------------- presets


def test_presets_set_everything_that_they_may_and_are_recognised() -> None:
    assert len({preset.name for preset in presets.PRESETS}) == len(presets.PRESETS)
    for preset in presets.PRESETS:
        assert tuple(preset.values) == presets.TOUCHED
        assert set(preset.changes) <= set(presets.TOUCHED)
        assert presets.matching({**DEFAULTS, **preset.values}) == preset.name
        read_request(values(**preset.values))
    assert presets.matching({**DEFAULTS, "periodic": 8}) is None


def test_presets_from_vary_on_keep_ever_less_and_dream_hardly_anything() -> None:
    shares = [
        1 - mask_picture.mask_of(read_request(values(**presets.find(name).values)), None, Shape())[0].float().mean().item()
        for name in ("Tighten", "Vary", "Transform", "Dream")
    ]
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.03 < shares[0]


def test_presets_stay_within_the_sliders_of_a_model_with_fewer_levels(tmp_path: Path) -> None:
    page = Handlers(other_vampnet(), tmp_path)
    visitor = Session(page.files)
    page.follow_model(visitor, *(DEFAULTS[name] for name in READ))
    for preset in presets.PRESETS:
        given = dict(zip(presets.TOUCHED, page.use_preset(visitor, SimpleNamespace(name=preset.name)), strict=True))
        assert given["prompt_codebooks"] == 9 and given["kept_codebooks"] <= 9
        # All of nine levels is what is called all of fourteen elsewhere: the preset is still known by its name.
        assert page.draw(visitor, *values(**given))["preset"] == preset.name


def test_sliders_that_nobody_has_moved_follow_the_defaults_of_a_model(tmp_path: Path) -> None:
    page = Handlers(tiny_vampnet(), tmp_path)
    visitor = Session(page.files)
    mine, theirs = Shape(), Shape(sampling=PUBLISHED)
    for name in TUNED:
        own, other = (getattr(shape.sampling, name) for shape in (mine, theirs))
        assert follow(name, theirs, mine, own) == {"value": other} and follow(name, mine, theirs, other) == {"value": own}
        assert follow(name, theirs, mine, other) == follow(name, mine, mine, own) == follow(name, theirs, mine, 0.123) == {}
    page.shelf.shape = theirs
    read = {name: DEFAULTS[name] for name in READ} | {"guidance": 1.0}
    changes = dict(zip(FOLLOWERS, page.follow_model(visitor, *read.values()), strict=True))
    assert changes["steps"]["value"] == 24 and changes["palette"]["value"] == 0 and "value" not in changes["guidance"]
    read.update(steps=24, palette=0.0)
    changes = dict(zip(FOLLOWERS, page.follow_model(visitor, *read.values()), strict=True))
    assert all("value" not in changes[name] for name in TUNED)


def test_sliders_follow_the_levels_of_a_model() -> None:
    nine, fourteen = Shape(TokenGrid(hop=512), 9, 4), Shape()
    assert follow("prompt_codebooks", nine, fourteen, 14) == {"maximum": 9, "value": 9}
    assert follow("prompt_codebooks", nine, fourteen, 3) == {"maximum": 9}
    assert follow("prompt_codebooks", fourteen, nine, 9) == {"maximum": 14, "value": 14}
    assert follow("kept_codebooks", nine, fourteen, 12) == {"maximum": 9, "value": 9}
    assert follow("kept_codebooks", fourteen, nine, 9) == {"maximum": 14}
    assert "12 ms" in follow("periodic", nine, fourteen)["info"] and "17 ms" in follow("periodic", fourteen, nine)["info"]
    assert "the 5 fine levels" in follow("fine_steps", nine, fourteen)["info"]


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match="'Sleep'"):
        presets.find("Sleep")


# ---------------------------------------------------------------------------------------------------------------- picture


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"loop": False}, {"periodic": 0, "beat_width_ms": 75}, {"beat_width_ms": 60, "loop": False}, {"bars": "1"},
        {"bars": "1", "beat_width_ms": 90, "periodic": 0}, {"onset_width_ms": 50, "periodic": 0, "bars": "1"},
        {"dropout": 0.5, "seed": 5}, {"extend_before": 0.7, "extend_after": 1.3},
        {"extend_after": 1.0, "loop": False, "bars": "1"}, {"region": [0.5, 1.2]},
        {"prefix_seconds": 0.5, "suffix_seconds": 0.3, "periodic": 0}, {"kept_codebooks": 2},
    ],
)  # fmt: skip
def test_the_picture_is_the_mask_of_the_vamp(
    changes: dict, handlers: Handlers, session: Session, music_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the mask is looked at, so nothing is made.
    monkeypatch.setattr(VampNet, "generate", lambda self, tokens, *rest, **options: tokens)
    monkeypatch.setattr(VampNet, "render", lambda self, clip, *rest: clip.signal)
    source = session.source = read_source(session, music_file)
    source.track()
    request = read_request(values(**changes))
    options = {"loop": request.loop, "bars": request.bars, "beats": source.grid, "extend": request.extend}
    vamp = handlers.shelf.use(
        lambda model: model.vamp(source.path, request.prompt, request.sampling, 1, request.seed, **options)
    )
    drawn = handlers.draw(session, *values(**changes))
    assert torch.equal(mask_picture.unpack(drawn), vamp.mask)
    assert abs(drawn["seconds"] - vamp.source.audio_data.shape[-1] / SAMPLE_RATE) < 1e-9
    assert drawn["sentence"] == f"Keeps {100 * vamp.kept_share:.0f} % of the tokens, {vamp.kept_kbps:.1f} of 8.0 kbps."


def test_small_shares_are_not_rounded_away() -> None:
    mask = torch.ones(1, 14, 1000, dtype=torch.bool)
    assert mask_picture.describe(mask, TokenGrid()).startswith("Keeps 0 %")
    mask[..., :4] = False
    assert mask_picture.describe(mask, TokenGrid()).startswith("Keeps 0.4 %")


def test_the_picture_has_beats_wave_and_preset(handlers: Handlers, session: Session, music_file: Path) -> None:
    handlers.choose(session, str(music_file))
    drawn = handlers.draw(session, *values(beat_width_ms=75))
    assert drawn["waiting"] and drawn["beats"] == [] and drawn["preset"] is None
    handlers.track(session)
    drawn = handlers.draw(session, *values(beat_width_ms=75))
    assert not drawn["waiting"] and drawn["beats"] == list(BEATS.beats) and drawn["downbeats"] == list(BEATS.downbeats)
    wave = np.frombuffer(base64.b64decode(drawn["wave"]), np.int8).reshape(2, -1)
    assert wave.max() == 127 or wave.min() == -127
    assert handlers.draw(session, *values())["preset"] == "Vary"


def test_too_many_bars_are_said_and_not_drawn(handlers: Handlers, session: Session, music_file: Path) -> None:
    handlers.choose(session, str(music_file))
    handlers.track(session)
    drawn = handlers.draw(session, *values(bars="8"))
    assert "whole bars" in drawn["problem"]
    # The clip is shown all the same, with nothing kept, for a map that had another one.
    assert drawn["track"]["sound"] == str(session.source.path) and not base64.b64decode(drawn["kept"]).strip(b"\0")


def test_without_a_source_the_prompt_is_shown_on_an_example(handlers: Handlers, session: Session) -> None:
    drawn = handlers.draw(session, *values(beat_width_ms=75, onset_width_ms=20, periodic=0))
    assert drawn["seconds"] == pytest.approx(8, abs=0.01) and drawn["track"] is None and len(drawn["beats"]) == 16


def test_an_envelope_holds_the_extremes() -> None:
    wave = torch.zeros(1, 2, 1000)
    wave[0, 0, 10], wave[0, 1, 700] = 0.5, -0.25
    found = envelope(SimpleNamespace(audio_data=wave), hop=100)
    assert found.shape == (2, 10) and found[1, 0] == 127 and found[0, 7] == -64 and np.count_nonzero(found) == 2
    assert shrink(found, 3).shape == (2, 3) and shrink(found, 3).max() == 127 and shrink(found, 3).min() == -64


# ----------------------------------------------------------------------------------------------------------------- source


def two_hours(path: Path) -> Path:
    """Only its header and a hole on the disk: two hours of 8 bits at 8 kHz."""
    count = 2 * 3600 * 8000
    form = (16, 1, 1, 8000, 8000, 1, 8)
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + count, b"WAVE", b"fmt ", *form, b"data", count)
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + count)
    return path


def bad_file(kind: str, folder: Path) -> str | None:
    path = folder / "bad clip.wav"
    if kind == "text":
        path.write_text("This is no sound at all.\n" * 50)
    elif kind == "silence":
        soundfile.write(path, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    elif kind == "3 ms":
        soundfile.write(path, 0.5 * np.ones(132), SAMPLE_RATE)
    elif kind == "2 hours":
        two_hours(path)
    elif kind == "empty":
        path.touch()
    else:
        return None
    return str(path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("text", "cannot be read"), ("silence", "silent"), ("3 ms", "3 ms"), ("2 hours", "2 h 0 min"), ("empty", "empty file"),
        ("nothing", "no audio"),
    ],
)  # fmt: skip
def test_bad_audio_gets_one_sentence_and_nothing_is_lost(
    kind: str, words: str, handlers: Handlers, session: Session, tmp_path: Path
) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "good.wav")))
    before = session.source
    message = handlers.choose(session, bad_file(kind, tmp_path))
    assert words in message and 'role="alert"' in message and str(tmp_path) not in message
    assert session.source is before and before.path.is_file()
    handlers.track(session)
    assert handlers.tell_source(session, message) == gr.skip()  # the sentence goes on standing


@pytest.mark.parametrize("later", ["good", "bad"])
@pytest.mark.parametrize("first", [False, True])
def test_the_source_is_what_was_chosen_last_and_not_what_was_read_last(
    handlers: Handlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool, later: str
) -> None:
    slow, quick, old = (str(short_clip(tmp_path / f"{name}.wav")) for name in ("slow", "quick", "old"))
    if later == "bad":
        Path(quick).write_text("no audio")
    if not first:
        handlers.choose(session, old)
    told = []

    def read(own: Session, given: str, name: str | None, origin: str | None) -> Any:
        if given == slow:
            told.append(handlers.choose(own, quick))
        return read_source(own, given, name, origin)

    monkeypatch.setattr(studio_handlers, "read_source", read)
    message = handlers.choose(session, slow)
    if later == "good":
        assert message == gr.skip() and session.source.name == "quick" and "<b>quick</b>" in told[0]
    else:  # it takes nothing from the one before it
        assert "<b>slow</b>" in message and session.source.name == "slow" and is_error(told[0])


def test_a_source_is_kept_as_it_was_brought(handlers: Handlers, session: Session, music: np.ndarray, music_file: Path) -> None:
    message = handlers.choose(session, str(music_file))
    assert "<b>music</b>, 4.0 s" in message
    kept, rate = soundfile.read(session.source.path, dtype="float32")
    assert rate == SAMPLE_RATE and np.abs(kept.T - music).max() < 1e-4
    assert session.source.path.is_relative_to(session.folder)


def test_names_of_visitors_are_harmless(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    assert plain_name("../../etc/<b>pass</b>") == "etc_b_pass_b"
    assert plain_name("𝓐" * 90) == "𝓐" * 45, "a disk takes 255 bytes, and 'take1-seed…' comes behind it"
    assert plain_name("...") == "clip" and len(plain_name("x" * 500)) == 60
    message = handlers.choose(session, str(short_clip(tmp_path / "<img src=x>.wav")))
    assert "<img" not in message


def test_examples_are_sound_files_and_no_other(handlers: Handlers, session: Session) -> None:
    assert [path.name for path in handlers.examples] == ["slow_waltz.wav"]
    assert "slow_waltz" in handlers.choose_example(session, SimpleNamespace(index=0))
    for index in (1, -1, "0", None):
        assert "no such example" in handlers.choose_example(session, SimpleNamespace(index=index))
    assert Handlers(tiny_vampnet(), Path("there is no such folder")).examples == []


def test_tracking_says_which_engine(handlers: Handlers, session: Session, music_file: Path) -> None:
    handlers.choose(session, str(music_file))
    handlers.track(session)
    message = handlers.tell_source(session, handlers.tell_source(session, ""))
    assert "120 bpm, 8 beats" in message and "by librosa" in message and "as in the music" in message


def test_beats_that_cannot_be_tracked_are_none(
    handlers: Handlers, session: Session, music_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(signal: Any, **options: Any) -> BeatGrid:
        raise RuntimeError("broken")

    monkeypatch.setattr(beats, "track", fail)
    handlers.choose(session, str(music_file))
    handlers.track(session)
    assert "could not be tracked" in handlers.tell_source(session, "")
    assert handlers.draw(session, *values(beat_width_ms=75))["sentence"]


# -------------------------------------------------------------------------------------------------------------- visits


def opened(handlers: Handlers, visit: Any) -> Session:
    """The session of a page that opens, as Gradio makes it: a copy of what the page was built with."""
    request = SimpleNamespace(headers={"accept-language": "en"})
    return handlers.open_page(copy.deepcopy(Session(handlers.files)), visit, request)


def test_a_tab_finds_its_session_again(handlers: Handlers, music_file: Path) -> None:
    name = "0123456789abcdef" * 2
    first = opened(handlers, name)
    handlers.choose(first, str(music_file))
    drawn = handlers.draw(first, *values(periodic=3))
    again = opened(handlers, name)
    assert again is first and opened(handlers, "f" * 32) is not first
    message, takes, pending, *told = handlers.resume(again)
    assert "music" in message or music_file.stem in message
    assert [one["value"] for one in told] == list(values(periodic=3))
    assert handlers.draw(again, *values())["turn"] > drawn["turn"]
    # Pages are let go of one by one, and the files go with the last.
    folder = first.folder
    first.let_go()
    assert folder.is_dir() and first.source is not None
    first.let_go()
    assert not folder.is_dir() and first.source is None
    fresh = opened(handlers, name)
    assert fresh is not first and fresh.opened and handlers.resume(fresh)[0] == gr.skip()


@pytest.mark.parametrize("name", ["", None, 5, "0" * 31, "0" * 33, "G" * 32, "../" * 11, ["0" * 32]])
def test_names_that_no_tab_has_open_a_session_of_their_own(handlers: Handlers, name: Any) -> None:
    assert opened(handlers, name) is not opened(handlers, name)
    assert not handlers.visits


def test_a_page_whose_session_has_ended_says_so(handlers: Handlers, music_file: Path) -> None:
    session = copy.deepcopy(Session(handlers.files))
    assert "has ended" in handlers.draw(session, *values())["problem"]
    assert "has ended" in handlers.begin(session, *values())[0] and session.request is None
