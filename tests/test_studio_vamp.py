"""The studio without a browser: sessions, vamps with progress and Stop, takes."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tempfile
import threading
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
import soundfile
import studio_tools
from studio_tools import run_vamp, short_clip, values
from tiny import tiny_vampnet

from vampnet.bundle import read_bundle
from vampnet.config import SAMPLE_RATE, Prompt, Sampling
from vampnet.own_folder import LOCK
from vampnet.studio import players, work
from vampnet.studio.controls import CONTROLS, Request
from vampnet.studio.handlers import Handlers
from vampnet.studio.page import build
from vampnet.studio.session import MAX_VAMPS, Files, Session
from vampnet.studio.titles import say_title, title_of

ROOT = Path(__file__).resolve().parent.parent
handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats


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


def test_a_session_that_is_forgotten_leaves_no_files(handlers: Handlers) -> None:
    """Gradio lets the oldest of too many go without saying so."""
    session = Session(handlers.files)
    folder = session.folder
    del session
    gc.collect()
    assert not folder.exists()


def test_old_vamps_go_with_their_files_but_not_the_source(session: Session) -> None:
    folders = [session.new_folder() for _ in range(MAX_VAMPS + 3)]
    session.source = SimpleNamespace(path=folders[0] / "take.wav")
    for folder in folders:
        session.add_vamp({"folder": str(folder), "takes": []})
    assert [Path(vamp["folder"]) for vamp in session.vamps] == folders[:2:-1]
    assert folders[0].is_dir() and not folders[1].is_dir() and folders[-1].is_dir()


def test_sources_go_when_nothing_needs_them(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    """One visit may bring any number of clips; ten minutes of sound are 200 MB."""
    clip, seen = str(short_clip(tmp_path / "noise.wav")), []
    for _ in range(5):
        handlers.choose(session, clip)
        seen.append(session.source)
        if len(seen) == 1:
            handlers.begin(session, *values())  # it waits in line with this one
        if len(seen) == 2:
            session.kept["room"] = SimpleNamespace(sources=[session.source])
    assert [source.path.is_file() for source in seen] == [True, True, False, True, True]
    handlers.stop(session)
    del session.kept["room"]
    handlers.choose(session, clip)
    assert [source.path.is_file() for source in seen] == [False, False, False, False, True] and session.source.path.is_file()


def test_what_a_killed_program_left_goes_when_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stranger = tmp_path / "vampnet-studio-of-somebody"
    stranger.mkdir()
    code = "import os; from vampnet.studio.session import Files; print((kept := Files()).root, flush=True); os._exit(9)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    left = Path(done.stdout.strip())
    assert left.is_dir() and left.parent == tmp_path and done.returncode == 9
    assert Files().root != left and left.is_dir(), "its program may be about to take its lock"
    os.utime(left / LOCK, (0, 0))
    living = Files()
    os.utime(living.root / LOCK, (0, 0))
    assert not left.exists() and stranger.is_dir()
    Files()
    assert living.root.is_dir(), "the lock says that its program lives"


def test_files_lie_in_folders_that_nobody_can_guess() -> None:
    files = Files()
    made = {files.new_folder().name for _ in range(20)}
    assert len(made) == 20 and all(len(name) == 32 for name in made)


# ------------------------------------------------------------------------------------------------------------------- vamp


def test_a_vamp_gives_takes_as_long_as_the_source(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    told = run_vamp(handlers, session, takes=2, seed=7)
    lines = [step[0] for step in told]
    assert "2 takes are ready" in lines[-1] and all('role="status"' in line for line in lines)
    (vamp,) = told[-1][1]
    assert [take["file"] for take in vamp["takes"]] == ["noise-take1-seed7.wav", "noise-take2-seed7.wav"]
    sounds = [soundfile.read(take["sound"])[0] for take in vamp["takes"]]
    assert all(sound.shape == (SAMPLE_RATE // 2, 2) and np.abs(sound).max() > 0.001 for sound in sounds)
    assert not np.array_equal(*sounds)
    assert vamp["title"] == "Vary"
    assert told[-1][2]["interactive"] and not told[-1][3]["interactive"]
    assert session.request is None and not session.running


def test_progress_counts_the_steps(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 2.0)))
    lines = [step[0] for step in run_vamp(handlers, session, steps=24)]
    counted = [re.search(r"coarse (\d+) of (\d+).*value=\"(\d+)\" max=\"(\d+)\"", line) for line in lines]
    found = [tuple(map(int, match.groups())) for match in counted if match]
    assert found and all(done == value <= of == most for done, of, value, most in found)
    assert [row[0] for row in found] == sorted(row[0] for row in found) and found[0][1] % 24 == 0


def test_a_new_vamp_comes_before_the_earlier_ones(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    run_vamp(handlers, session)
    run_vamp(handlers, session, periodic=5, seed=1)
    assert [vamp["title"] for vamp in session.vamps] == ["P 5", "Vary"]


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
    run_vamp(handlers, session, bars="1")
    told = run_vamp(handlers, session, bars="8")
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


def test_a_visitor_who_leaves_stops_the_vamp(
    handlers: Handlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "GRACE_SECONDS", 0.1)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 3.0)))
    handlers.begin(session, *values(steps=72, takes=8))
    going = handlers.vamp(session)
    next(going)
    going.close()
    for thread in threading.enumerate():
        if thread.name == "studio-work":
            thread.join(30)
    assert session.stop.is_set() and session.request is None
    # Unless it was so fast that some were ready.
    assert all(len(vamp["takes"]) < 8 and not vamp["coming"] for vamp in session.vamps)


def test_a_take_can_be_heard_while_the_others_are_made(
    handlers: Handlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    heard, add = threading.Event(), session.add_vamp

    def after_it_was_heard(vamp: dict[str, Any], before: dict[str, Any] | None = None) -> None:
        if before is not None:
            assert heard.wait(30)
            heard.clear()
        add(vamp, before)

    monkeypatch.setattr(session, "add_vamp", after_it_was_heard)
    handlers.begin(session, *values(takes=3, seed=7))
    told = []
    for _, takes, *_ in handlers.vamp(session):
        if isinstance(takes, list):
            told.append(takes[0])
            assert len(takes) == 1
            assert all(soundfile.info(take["sound"]).frames == SAMPLE_RATE // 2 for take in takes[0]["takes"])
            if len(told) == 1:
                session.vamps[0]["takes"][0]["favourite"] = True
            heard.set()
    counts = [(len(vamp["takes"]), vamp["coming"]) for vamp in told]
    assert list(dict.fromkeys(counts)) == [(1, 2), (2, 1), (3, 0)] and len({vamp["id"] for vamp in told}) == 1
    assert [take["favourite"] for take in told[-1]["takes"]] == [True, False, False], "a star stays"
    # They are those that nobody listens to meanwhile.
    monkeypatch.setattr(session, "add_vamp", add)
    run_vamp(handlers, session, takes=3, seed=7)
    sounds = [[soundfile.read(take["sound"])[0] for take in vamp["takes"]] for vamp in session.vamps]
    assert all(np.array_equal(a, b) for a, b in zip(*sounds, strict=True))


def test_beats_that_are_set_while_takes_are_made_are_for_the_next_vamp(
    handlers: Handlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At half the tempo the clip has one bar, and two are being vamped."""
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 4.0)))
    session.source.track()
    before, listen = session.source.grid, handlers.heard.listen

    def and_meanwhile(*given: Any, **options: Any) -> Any:
        handlers.set_tempo(session, SimpleNamespace(act="half"))
        return listen(*given, **options)

    monkeypatch.setattr(handlers.heard, "listen", and_meanwhile)
    told = run_vamp(handlers, session, bars="2", loop=True, takes=2)
    assert "2 takes are ready" in told[-1][0] and session.source.grid.tempo == before.tempo / 2
    (made,) = session.vamps
    assert made["tempo"] == before.tempo and made["source_track"]["alias"]["end"] == 4.0
    assert "2 were wanted" in run_vamp(handlers, session, bars="2", loop=True)[-1][0] and session.vamps == [made]


def test_stop_keeps_the_takes_that_are_ready(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 3.0)))
    handlers.begin(session, *values(steps=72, takes=8))
    told, lines = [], []
    for line, takes, *_ in handlers.vamp(session):
        lines.append(line)
        if isinstance(takes, list):
            told += takes
            handlers.stop(session)
    assert "Stopped; what was ready is kept" in lines[-1] and told[0]["coming"] == 7
    (kept,) = session.vamps
    assert told[-1] == kept and kept["turn"] > told[-2]["turn"] and kept["coming"] == 0 and 1 <= len(kept["takes"]) < 8
    assert len(read_bundle(kept["folder"]).takes) == len(kept["takes"]) == kept["settings"]["takes"]


def test_a_session_that_is_closed_while_takes_are_made_stays_empty(
    handlers: Handlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "GRACE_SECONDS", 0.0)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 3.0)))
    handlers.begin(session, *values(steps=72, takes=8))
    going = handlers.vamp(session)
    while not isinstance(next(going)[1], list):
        pass
    folder = session.folder
    session.close()
    going.close()
    for thread in threading.enumerate():
        if thread.name == "studio-work":
            thread.join(30)
    assert session.vamps == [] and not folder.exists()


def test_a_take_that_is_written_while_the_session_is_closed_goes_too(
    handlers: Handlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = players.write_bundle, []

    def leave(vamp: Any, folder: Path, *rest: object, **options: object) -> dict:
        session.close()
        written.append(folder)
        return write(vamp, folder, *rest, **options)

    monkeypatch.setattr(players, "write_bundle", leave)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 3.0)))
    handlers.begin(session, *values(takes=1))
    list(handlers.vamp(session))
    assert written and not written[0].exists() and not written[0].parent.exists()
    assert session.vamps == [] and session.closed


def test_a_vamp_goes_on_for_who_comes_back(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 3.0)))
    handlers.begin(session, *values(steps=72, takes=4))
    going = handlers.vamp(session)
    seen = [next(going)[0] for _ in range(3)]
    going.close()
    assert isinstance(handlers.resume(session)[2], str), "the new page asks what was under way"
    told = list(handlers.go_on(session))
    # What was seen last, progress, the end; the buttons are those of a vamp that runs, then of none.
    assert told[0][0] == seen[-1] and not told[0][2]["interactive"] and told[0][3]["interactive"]
    assert "4 takes are ready" in told[-1][0] and len(told[-1][1][0]["takes"]) == 4 and told[-1][2]["interactive"]
    assert not session.stop.is_set() and session.request is session.work is None
    # A second time there is nothing to go on with but takes that were not there when the page asked for them.
    assert next(iter(handlers.go_on(session)))[1] == session.vamps
    assert handlers.resume(session)[2] == gr.skip()
    assert all("value" not in part for part in next(iter(handlers.go_on(session))))


def test_two_may_look_on(handlers: Handlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "GRACE_SECONDS", 0.0)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 3.0)))
    handlers.begin(session, *values(steps=72, takes=4))
    first = handlers.vamp(session)
    next(first)
    second = handlers.go_on(session)
    next(second)
    first.close()  # a page that is slow to go
    assert "4 takes are ready" in list(second)[-1][0] and len(session.vamps) == 1


def test_what_waits_in_line_is_not_waited_for_by_a_new_page(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    handlers.begin(session, *values())
    (told,) = handlers.go_on(session)
    assert "ask for it again" in told[0] and told[2]["interactive"] and session.request is None
    assert len(list(handlers.vamp(session))) == 1 and session.vamps == []
    assert "1 take is ready" in run_vamp(handlers, session)[-1][0]


def test_a_second_press_does_not_start_a_second_vamp(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    handlers.begin(session, *values())
    first = session.request
    handlers.begin(session, *values(takes=3))
    assert session.request is first
    handlers.stop(session)


# ------------------------------------------------------------------------------------------------------------------- page


def test_the_page_builds_with_and_without_examples(tmp_path: Path) -> None:
    page, options = build(tiny_vampnet(), tmp_path / "none")
    assert len(page.blocks) > len(CONTROLS) and not any("gradio.live" in str(value) for value in options.values())
    assert "VampStudio" in options["head"] and all(Path(path).is_dir() for path in options["allowed_paths"])


def test_titles_say_what_was_kept() -> None:
    def title(**changes: Any) -> str:
        return say_title(title_of(Request(Prompt(**changes), Sampling())))

    assert title(periodic=7) == "Vary" and title(periodic=0) == "Nothing kept"
    assert title(periodic=5, kept_codebooks=1) == "P 5, N_k 1"
    assert title(periodic=0, prefix_seconds=1.0, beat_width_ms=60.0) == "context 1 s and 0 s, beats 60 ms"
