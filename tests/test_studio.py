"""The studio without a browser: controls, presets, the picture of the mask, sessions, and every handler."""

from __future__ import annotations

import asyncio
import base64
import re
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_checkpoint, tiny_vampnet

import app
from vampnet import beats
from vampnet.beats import BeatGrid, make_grid
from vampnet.config import SAMPLE_RATE, Prompt, Sampling, TokenGrid
from vampnet.pipeline import VampNet
from vampnet.studio import mask_picture, players, presets
from vampnet.studio.controls import CONTROLS, DEFAULTS, MAX_TAKES, NAMES, Request, read_request
from vampnet.studio.handlers import Handlers
from vampnet.studio.page import build
from vampnet.studio.session import MAX_VAMPS, Files, Session, envelope, plain_name, read_source, shrink

BEATS = make_grid([0.02, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], [0.02, 2.0], "librosa", "as in the music")


def values(**changes: Any) -> list[Any]:
    """The values of all controls, as a browser sends them, with a quick vamp as the plain one."""
    return [{**DEFAULTS, "steps": 2, "fine_steps": 1, "takes": 1, **changes}[name] for name in NAMES]


@pytest.fixture(autouse=True)
def _known_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracking is tested elsewhere; here it is instant."""
    monkeypatch.setattr(beats, "track", lambda signal, **options: BEATS)


@pytest.fixture(scope="module")
def handlers(tmp_path_factory: pytest.TempPathFactory) -> Handlers:
    folder = tmp_path_factory.mktemp("examples")
    soundfile.write(folder / "slow_waltz.wav", 0.3 * np.sin(np.arange(44100) / 20), SAMPLE_RATE)
    (folder / "readme.txt").write_text("not a sound")
    return Handlers(tiny_vampnet(), folder)


@pytest.fixture
def session(handlers: Handlers) -> Iterator[Session]:
    made = Session(handlers.files)
    yield made
    made.close()


def short_clip(path: Path, seconds: float = 0.5) -> Path:
    noise = np.random.default_rng(1).normal(size=(round(seconds * SAMPLE_RATE), 2))
    soundfile.write(path, 0.1 * noise, SAMPLE_RATE, subtype="PCM_16")
    return path


# --------------------------------------------------------------------------------------------------------------- controls


def test_untouched_controls_are_the_defaults_of_the_package() -> None:
    request = read_request([DEFAULTS[name] for name in NAMES])
    assert request.prompt == Prompt() and request.sampling == Sampling()
    assert (request.takes, request.seed, request.bars) == (4, 0, None)


def test_every_control_reaches_the_request() -> None:
    plain = read_request(values())
    for control in CONTROLS:
        other = {"loop": not DEFAULTS["loop"], "bars": "2", "seed": 9}.get(control.name)
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
        1 - mask_picture.mask_of(read_request(values(**presets.find(name).values)), None, TokenGrid())[0].float().mean().item()
        for name in ("Tighten", "Vary", "Loosen", "Dream")
    ]
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.03 < shares[0]


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ValueError, match="'Sleep'"):
        presets.find("Sleep")


# ---------------------------------------------------------------------------------------------------------------- picture


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"loop": False}, {"periodic": 0, "beat_width_ms": 75}, {"beat_width_ms": 60, "loop": False}, {"bars": "1"},
        {"bars": "1", "beat_width_ms": 90, "periodic": 0}, {"onset_width_ms": 50, "periodic": 0, "bars": "1"},
        {"dropout": 0.5, "seed": 5}, {"prefix_seconds": 0.5, "suffix_seconds": 0.3, "periodic": 0}, {"kept_codebooks": 2},
    ],
)  # fmt: skip
def test_the_picture_is_the_mask_of_the_vamp(
    changes: dict, handlers: Handlers, session: Session, music_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the mask is looked at, so nothing is made.
    monkeypatch.setattr(VampNet, "generate", lambda self, tokens, *rest, **options: tokens)
    monkeypatch.setattr(VampNet, "_render", lambda self, tokens, *rest: None)
    source = session.source = read_source(session, music_file)
    source.track()
    request = read_request(values(**changes))
    vamp = handlers.model.result().vamp(
        source.path, request.prompt, request.sampling, 1, request.seed, loop=request.loop, bars=request.bars, beats=source.grid
    )
    drawn = handlers.draw(session, *values(**changes))
    kept = np.frombuffer(base64.b64decode(drawn["kept"]), np.uint8).reshape(drawn["levels"], drawn["columns"])
    assert np.array_equal(kept == 255, ~vamp.mask[0].numpy())
    assert set(np.unique(kept)) <= {0, 255}
    assert abs(drawn["seconds"] - vamp.source.audio_data.shape[-1] / SAMPLE_RATE) < 1e-9
    assert drawn["sentence"] == f"Keeps {100 * vamp.kept_share:.0f} % of the tokens, {vamp.kept_kbps:.1f} of 8.0 kbps."


def test_a_long_clip_is_drawn_by_shares() -> None:
    mask = torch.ones(1, 14, 5000, dtype=torch.bool)
    mask[..., ::2] = False
    columns = mask_picture.columns_of(mask)
    assert columns.shape == (14, mask_picture.MAX_COLUMNS)
    assert abs(columns.mean() / 255 - 0.5) < 0.01 and columns.min() > 80 and columns.max() < 175


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
    assert "whole bars" in drawn["problem"] and "kept" not in drawn


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


def test_a_source_is_kept_as_it_was_brought(handlers: Handlers, session: Session, music: np.ndarray, music_file: Path) -> None:
    message = handlers.choose(session, str(music_file))
    assert "<b>music</b>, 4.0 s" in message
    kept, rate = soundfile.read(session.source.path, dtype="float32")
    assert rate == SAMPLE_RATE and np.abs(kept.T - music).max() < 1e-4
    assert session.source.path.is_relative_to(session.folder)


def test_names_of_visitors_are_harmless(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    assert plain_name("../../etc/<b>pass</b>") == "etc_b_pass_b"
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
    message = handlers.track(session)
    assert "120 bpm, 8 beats" in message and "by librosa" in message and "as in the music" in message


def test_beats_that_cannot_be_tracked_are_none(
    handlers: Handlers, session: Session, music_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(signal: Any, **options: Any) -> BeatGrid:
        raise RuntimeError("broken")

    monkeypatch.setattr(beats, "track", fail)
    handlers.choose(session, str(music_file))
    assert "could not be tracked" in handlers.track(session)
    assert handlers.draw(session, *values(beat_width_ms=75))["sentence"]


# --------------------------------------------------------------------------------------------------------------- sessions


def test_two_sessions_share_nothing_and_leave_nothing(handlers: Handlers, tmp_path: Path) -> None:
    first = Session(handlers.files)
    handlers.choose(first, str(short_clip(tmp_path / "mine.wav")))
    second = deepcopy(first)
    assert second.source is None and second.vamps == [] and second.folder != first.folder
    assert len(first.folder.name) == 32 and first.folder.parent == second.folder.parent
    first.close()
    assert not first.source and len(list(second.folder.parent.glob(second.folder.name))) == 1
    second.close()
    assert not second.folder.parent.joinpath("mine.wav").exists()


def test_old_vamps_go_with_their_files_but_not_the_source(session: Session) -> None:
    folders = [session.new_folder() for _ in range(MAX_VAMPS + 3)]
    session.source = SimpleNamespace(path=folders[0] / "take.wav")
    for folder in folders:
        session.add_vamp({"folder": str(folder), "takes": []})
    assert [Path(vamp["folder"]) for vamp in session.vamps] == folders[:2:-1]
    assert folders[0].is_dir() and not folders[1].is_dir() and folders[-1].is_dir()


def test_files_lie_in_folders_that_nobody_can_guess() -> None:
    files = Files()
    made = {files.new_folder().name for _ in range(20)}
    assert len(made) == 20 and all(len(name) == 32 for name in made)


# ------------------------------------------------------------------------------------------------------------------- vamp


def run(handlers: Handlers, session: Session, **changes: Any) -> list[tuple]:
    """Presses Vamp and waits: what the page was told."""
    handlers.begin(session, *values(**changes))
    return list(handlers.vamp(session))


def test_a_vamp_gives_takes_as_long_as_the_source(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    told = run(handlers, session, takes=2, seed=7)
    lines = [step[0] for step in told]
    assert "2 takes are ready" in lines[-1] and all('role="status"' in line for line in lines)
    (vamp,) = told[-1][1]
    assert [take["file"] for take in vamp["takes"]] == ["noise-take1-seed7.wav", "noise-take2-seed7.wav"]
    sounds = [soundfile.read(take["sound"])[0] for take in vamp["takes"]]
    assert all(sound.shape == (SAMPLE_RATE // 2, 2) and np.abs(sound).max() > 0.001 for sound in sounds)
    assert not np.array_equal(*sounds)
    assert vamp["title"] == "Vary" and "seed 7" in vamp["sentence"]
    assert told[-1][2]["interactive"] and not told[-1][3]["interactive"]
    assert session.request is None and not session.running


def test_progress_counts_the_steps(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 2.0)))
    lines = [step[0] for step in run(handlers, session, steps=24)]
    counted = [re.search(r"coarse (\d+) of (\d+).*value=\"(\d+)\" max=\"(\d+)\"", line) for line in lines]
    found = [tuple(map(int, match.groups())) for match in counted if match]
    assert found and all(done == value <= of == most for done, of, value, most in found)
    assert [row[0] for row in found] == sorted(row[0] for row in found) and found[0][1] % 24 == 0


def test_a_new_vamp_comes_before_the_earlier_ones(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    run(handlers, session)
    run(handlers, session, periodic=5, seed=1)
    assert [vamp["title"] for vamp in session.vamps] == ["P 5", "Vary"]


def test_a_take_becomes_the_source(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    run(handlers, session)
    take = session.vamps[0]["takes"][0]
    assert "noise-take1-seed0" in handlers.use_take(session, SimpleNamespace(sound=take["sound"]))
    assert session.source.name == "noise-take1-seed0" and session.source.samples == SAMPLE_RATE // 2


def test_nobody_gets_at_another_ones_take_or_file(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    run(handlers, session)
    stranger = Session(handlers.files)
    for path in (session.vamps[0]["takes"][0]["sound"], str(short_clip(tmp_path / "secret.wav")), None):
        assert "no longer here" in handlers.use_take(stranger, SimpleNamespace(sound=path))
    assert stranger.source is None


def test_without_a_source_vamp_says_so_and_changes_nothing(handlers: Handlers, session: Session) -> None:
    line, vamp, stop = handlers.begin(session, *values())
    assert "no audio yet" in line and vamp["interactive"] and not stop["interactive"]
    assert session.request is None
    (told,) = handlers.vamp(session)
    assert all("value" not in part for part in told)


def test_a_bad_control_is_said_before_anything_starts(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    assert "Seed is empty" in handlers.begin(session, *values(seed=None))[0] and session.request is None


def test_options_that_do_not_fit_are_said_and_takes_stay(handlers: Handlers, session: Session, music_file: Path) -> None:
    handlers.choose(session, str(music_file))
    run(handlers, session, bars="1")
    told = run(handlers, session, bars="8")
    assert "whole bars" in told[-1][0] and 'role="alert"' in told[-1][0]
    assert len(session.vamps) == 1 and "value" not in told[-1][1]


def test_stop_ends_a_vamp_between_two_steps(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 3.0)))
    handlers.begin(session, *values(steps=72, takes=8))
    told = []
    for step in handlers.vamp(session):
        told.append(step[0])
        if "coarse" in step[0] and not session.stop.is_set():
            handlers.stop(session)
    assert "Stopped" in told[-1] and not any("coarse" in line for line in told[-2:])
    assert session.vamps == [] and session.request is None


def test_stop_before_its_turn_leaves_nothing_to_do(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    handlers.begin(session, *values())
    line, vamp, stop = handlers.stop(session)
    assert "Stopped" in line and vamp["interactive"] and not stop["interactive"]
    assert len(list(handlers.vamp(session))) == 1 and session.vamps == []


def test_a_visitor_who_leaves_stops_the_vamp(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 3.0)))
    handlers.begin(session, *values(steps=72, takes=8))
    going = handlers.vamp(session)
    next(going)
    going.close()
    for thread in threading.enumerate():
        if thread.name.startswith("vamp-"):
            thread.join(30)
    assert session.stop.is_set() and session.request is None and session.vamps == []


def test_a_second_press_does_not_start_a_second_vamp(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    handlers.begin(session, *values())
    first = session.request
    handlers.begin(session, *values(takes=3))
    assert session.request is first
    handlers.stop(session)


# ------------------------------------------------------------------------------------------------------------------ model


def test_a_vamp_waits_for_the_model(tmp_path: Path) -> None:
    future: Future = Future()
    handlers = Handlers(future, tmp_path)
    session = Session(handlers.files)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    assert "Loading the model" in handlers.begin(session, *values())[0]
    told = []
    for step in handlers.vamp(session):
        told.append(step[0])
        if not future.done():
            assert "Loading the model" in step[0]
            future.set_result(tiny_vampnet())
    assert "1 take is ready" in told[-1]
    session.close()


def test_a_model_that_cannot_be_loaded_is_said_in_one_sentence(tmp_path: Path) -> None:
    future: Future = Future()
    app.load_in_background(future, str(tmp_path / "nothing here"), "cpu")
    assert isinstance(future.exception(timeout=120), FileNotFoundError)
    handlers = Handlers(future, tmp_path)
    session = Session(handlers.files)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))

    async def status() -> list[str]:
        return [line async for line in handlers.model_status()]

    line = asyncio.run(status())[-1]
    assert "No model could be loaded" in line and 'role="alert"' in line
    assert "No model could be loaded" in handlers.begin(session, *values())[0] and session.request is None
    assert handlers.draw(session, *values())["sentence"]
    session.close()


def test_the_app_loads_a_checkpoint_by_its_folder(tmp_path: Path) -> None:
    future: Future = Future()
    app.load_in_background(future, str(tiny_checkpoint(tmp_path / "tiny")), "cpu")
    assert future.result(timeout=120).name == "tiny"


def test_options_of_the_app() -> None:
    options = app.read_options(["--model", "m", "--device", "cpu", "--port", "8000", "--host", "0.0.0.0"])
    assert (options.model, options.device, options.port, options.host, options.share) == ("m", "cpu", 8000, "0.0.0.0", False)
    assert app.read_options([]).model == "mini" and not app.read_options([]).share


def test_the_page_builds_with_and_without_examples(tmp_path: Path) -> None:
    page, options = build(tiny_vampnet(), tmp_path / "none")
    assert len(page.blocks) > len(CONTROLS) and not any("gradio.live" in str(value) for value in options.values())
    assert "VampStudio" in options["head"] and all(Path(path).is_dir() for path in options["allowed_paths"])


def test_titles_say_what_was_kept() -> None:
    def title(**changes: Any) -> str:
        return players._title(Request(Prompt(**changes), Sampling()))

    assert title(periodic=7) == "Vary" and title(periodic=0) == "Nothing kept"
    assert title(periodic=5, kept_codebooks=1) == "P 5, N_k 1"
    assert title(periodic=0, prefix_seconds=1.0, beat_width_ms=60.0) == "context 1 s and 0 s, beats 60 ms"
