"""The loop deck without a browser: what it is told, what its buttons do, what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import studio_tools
from studio_tools import BEATS, run_vamp, short_clip

from vampnet.bundle import read_bundle, read_settings
from vampnet.config import SAMPLE_RATE
from vampnet.studio import deck as deck_module
from vampnet.studio import session as session_module
from vampnet.studio.deck import SCRIPTS, STYLES, Deck
from vampnet.studio.handlers import Handlers
from vampnet.studio.players import deck_data
from vampnet.studio.session import Session
from vampnet.studio.text import LANGUAGES

handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats


@pytest.fixture(scope="module")
def deck(handlers: Handlers) -> Deck:
    return Deck(handlers)


@pytest.fixture
def vamped(handlers: Handlers, session: Session, tmp_path: Path) -> dict[str, Any]:
    """A vamp of two takes of half a second, as the deck shows it."""
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    session.source.track()
    run_vamp(handlers, session, takes=2, seed=7)
    return session.vamps[0]


def press(deck: Deck, session: Session, action: Any, **details: Any) -> list[Any]:
    """What a button does, as Gradio would tell of it: [message, takes, uses, agains]."""
    return deck.act(session, 3, 5, SimpleNamespace(action=action, **details))


def is_skip(part: Any) -> bool:
    return isinstance(part, dict) and "value" not in part


def test_the_deck_is_told_all_about_a_vamp(vamped: dict[str, Any]) -> None:
    rows = [vamped["source_track"], *vamped["takes"]]
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert {row["seconds"] for row in rows} == {0.5} and all(Path(row["sound"]).is_file() and row["wave"] for row in rows)
    assert vamped["tempo"] == BEATS.tempo and vamped["beats"] == list(BEATS.beats) and vamped["downbeats"] == [0.02, 2.0]
    assert vamped["settings"]["seed"] == 7 and vamped["settings"] == read_settings(vamped["folder"])
    assert [Path(extra["sound"]).name for extra in vamped["files"]] == ["vamp.json", "tokens.safetensors"]
    assert all(Path(extra["sound"]).is_file() for extra in vamped["files"])


def test_beats_that_are_found_after_the_takes_come_to_the_deck(
    deck: Deck, handlers: Handlers, session: Session, tmp_path: Path
) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    run_vamp(handlers, session)
    assert session.vamps[0]["beats"] == [] and session.vamps[0]["tempo"] == 0 and is_skip(deck.late_beats(session))
    session.source.track()
    turn = session.vamps[0]["turn"]
    assert deck.late_beats(session)[0]["beats"] == list(BEATS.beats) and is_skip(deck.late_beats(session))
    assert session.vamps[0]["turn"] > turn


def test_what_changes_last_bears_the_highest_turn(deck: Deck, session: Session, vamped: dict[str, Any]) -> None:
    turns = [vamped["turn"]]
    assert press(deck, session, "favourite", vamp=vamped["id"], take=1, on=True)[1][0]["turn"] > turns[-1]
    turns.append(vamped["turn"])
    session.add_vamp(after := {**vamped, "id": "after", "turn": 0}, None)
    assert after["turn"] > turns[-1] and vamped["turn"] == turns[-1]
    # With more takes it keeps its place, and is the one that changed last nevertheless.
    session.add_vamp(more := {**vamped, "coming": 0}, before=vamped)
    assert session.vamps == [after, more] and more["turn"] > after["turn"]


def test_beats_that_are_found_while_takes_are_written_are_not_lost(
    handlers: Handlers, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    plain = Session.add_vamp

    def add_vamp(session: Session, *given: Any) -> None:
        session.source.track()
        plain(session, *given)

    monkeypatch.setattr(Session, "add_vamp", add_vamp)
    run_vamp(handlers, session)
    assert session.vamps[0]["beats"] == list(BEATS.beats)


def test_a_stored_vamp_shows_the_same_and_keeps_a_private_source_to_itself(vamped: dict[str, Any]) -> None:
    folder = Path(vamped["folder"])
    kept = read_bundle(folder)
    told = deck_data(read_settings(folder), kept.source, kept.takes, "abc", "/files/abc")
    assert told["id"] == "abc" and told["title"] == vamped["title"] and told["source"] == "noise"
    assert [take["wave"] for take in told["takes"]] == [take["wave"] for take in vamped["takes"]]
    assert told["takes"][1]["sound"] == "/files/abc/noise-take2-seed7.wav"
    hidden = deck_data(read_settings(folder), None, kept.takes, "abc", "/files/abc")
    assert hidden["source_track"] is None and len(hidden["takes"]) == 2


def test_a_take_or_the_source_of_a_vamp_becomes_the_source(deck: Deck, session: Session, vamped: dict[str, Any]) -> None:
    message, takes, uses, agains = press(deck, session, "use", vamp=vamped["id"], take=2)
    assert "noise-take2-seed7" in message and is_skip(takes) and (uses, agains) == (4, 5)
    assert session.source.name == "noise-take2-seed7" and session.source.samples == SAMPLE_RATE // 2
    press(deck, session, "use", vamp=vamped["id"], take=0)
    assert session.source.name == "noise"


def test_vamp_again_goes_on_only_when_nothing_runs(deck: Deck, session: Session, vamped: dict[str, Any]) -> None:
    assert press(deck, session, "again", vamp=vamped["id"], take=1)[2:] == [4, 6]
    session.request = object()
    before = session.source
    message, *others = press(deck, session, "again", vamp=vamped["id"], take=2)
    assert 'role="alert"' in message and "being made" in message and all(map(is_skip, others))
    assert session.source is before
    session.request = None


def test_what_nobody_made_is_refused_and_what_others_mean_is_let_be(
    deck: Deck, handlers: Handlers, session: Session, vamped: dict[str, Any]
) -> None:
    stranger = Session(handlers.files)
    for own, vamp, take in (
        (stranger, vamped["id"], 1), (session, vamped["id"], 9), (session, "../..", 1), (session, None, None),
        (session, vamped["id"], True), (session, ["x"], {"a": 1}),
    ):  # fmt: skip
        before = own.source
        assert "no longer here" in press(deck, own, "use", vamp=vamp, take=take)[0] and own.source is before
    for action in ("share", "choose", "no such thing", None, 7):
        assert all(map(is_skip, press(deck, session, action, vamp=vamped["id"], take=1)))


def test_favourites_stay_when_later_vamps_push_others_out(
    deck: Deck, handlers: Handlers, session: Session, vamped: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_VAMPS", 2)
    told = press(deck, session, "favourite", vamp=vamped["id"], take=2, on=True)
    assert [take["favourite"] for take in told[1][0]["takes"]] == [False, True]
    for seed in range(3):
        run_vamp(handlers, session, seed=seed)
    folders = [Path(vamp["folder"]) for vamp in session.vamps]
    assert [vamp["settings"]["seed"] for vamp in session.vamps] == [2, 1, 7] and all(folder.is_dir() for folder in folders)
    assert len([path for path in folders[0].parent.iterdir() if (path / "vamp.json").is_file()]) == 3
    monkeypatch.setattr(deck_module, "MAX_FAVOURITES", 1)
    told = press(deck, session, "favourite", vamp=session.vamps[0]["id"], take=1, on=True)
    assert "favourites already" in told[0] and not session.vamps[0]["takes"][0]["favourite"]
    before = json.dumps(told[1])
    told = press(deck, session, "favourite", vamp=session.vamps[0]["id"], take=1, on=True)
    assert json.dumps(told[1]) != before, "the browser, which shows the star, listens only to what is new"
    press(deck, session, "favourite", vamp=vamped["id"], take=2, on=False)
    run_vamp(handlers, session, seed=9)
    assert [vamp["settings"]["seed"] for vamp in session.vamps] == [9, 2] and not Path(vamped["folder"]).exists()


def test_the_decks_files_are_there_and_its_sentences_in_every_language() -> None:
    web = Path(deck_module.__file__).parent / "web"
    assert all((web / name).is_file() for name in (*SCRIPTS, *STYLES))
    keys = [{key for key in sentences if key.startswith("deck.")} for sentences in LANGUAGES.values()]
    assert len(keys) > 1 and all(found == keys[0] for found in keys) and np.all([len(found) > 40 for found in keys])
