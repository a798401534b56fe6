"""Journeys without a browser: what the handlers do, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import soundfile
import studio_tools
from studio_tools import event, run_vamp, short_clip, values

from vampnet import metadata
from vampnet.config import SAMPLE_RATE
from vampnet.studio import travels
from vampnet.studio.comp_room import Comping
from vampnet.studio.handlers import Handlers
from vampnet.studio.journey_room import JourneyRoom
from vampnet.studio.session import Session
from vampnet.studio.travels import strip_value, travels_of

handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats
source = studio_tools.source
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def room(handlers: Handlers) -> JourneyRoom:
    return JourneyRoom(handlers)


def travel(room: JourneyRoom, session: Session, rounds: int, **changes: Any) -> list[Any]:
    """Vamps on for some rounds, as the browser does, and stops: what the page was told last."""
    told = room.begin(session, *values(**changes))
    for _ in range(rounds):
        assert told[4]["running"]
        told = list(room.round(session, event(ask=told[4]["ask"]), *values(**changes)))[-1]
    return room.act(session, event(do="end"), *values()) if told[4]["running"] else told


def test_rounds_follow_each_other_and_go_on_where_they_stopped(room: JourneyRoom, source: Session) -> None:
    told = travel(room, source, 2)
    assert "Stopped after 2 rounds" in told[0] and told[1]["interactive"] and not told[2]["interactive"]
    (shown,) = told[4]["journeys"]
    assert [(one["number"], one["parent"], one["here"]) for one in shown["rounds"]] == [(1, 0, True), (2, 1, True)]
    assert shown["current"] == 2 and shown["seconds"] == 0.5 and all(one["wave"] for one in shown["rounds"])
    assert json.loads(json.dumps(told[4])) == told[4] and source.request is None
    # Other settings are taken along; another seed is another journey.
    assert [one["parent"] for one in travel(room, source, 1, periodic=3)[4]["journeys"][0]["rounds"]] == [0, 1, 2]
    journeys = travel(room, source, 1, seed=5)[4]["journeys"]
    assert [len(one["rounds"]) for one in journeys] == [1, 3] and [one["seed"] for one in journeys] == [5, 0]
    before = travels_of(source).all[1].journey.folder
    travel(room, source, 1, seed=6)
    assert not before.exists() and len(travels_of(source).all) == travels.MAX_JOURNEYS


def test_the_model_is_free_between_rounds(room: JourneyRoom, source: Session, handlers: Handlers, tmp_path: Path) -> None:
    room.begin(source, *values())
    assert list(room.round(source, event(ask=7), *values())) == [[gr.skip()] * 5], "nobody has asked for that one"
    told = list(room.round(source, event(ask=1), *values()))[-1]
    assert told[4]["running"] and told[4]["ask"] == 2 and not source.running
    stranger = Session(handlers.files)
    handlers.choose(stranger, str(short_clip(tmp_path / "other.wav")))
    assert "1 take is ready" in run_vamp(handlers, stranger)[-1][0] and strip_value(stranger) is None
    # Meanwhile this visitor cannot begin a vamp, and a second page cannot begin a round.
    assert all("value" not in part for part in handlers.begin(source, *values()))
    told = room.stop(source)
    assert "Stopped after one round" in told[0] and told[1]["interactive"] and told[4]["running"] is False
    (late,) = room.round(source, event(ask=2), *values())
    assert "Stopped after one round" in late[0] and late[1]["interactive"] and late[4]["running"] is False
    assert source.request is None
    stranger.close()


def test_stop_ends_a_round_and_keeps_those_before(room: JourneyRoom, source: Session) -> None:
    travel(room, source, 1)
    ask = room.begin(source, *values(steps=60))[4]["ask"]
    told = []
    for step in room.round(source, event(ask=ask), *values(steps=60)):
        told.append(step)
        source.stop.set()
    assert any("Stopping" in str(step[0]) for step in told)
    assert told[-1][4]["running"] is False and len(told[-1][4]["journeys"][0]["rounds"]) == 1
    assert "Stopped after one round" in told[-1][0] and source.request is None
    assert "Stopped after 2" in travel(room, source, 1)[0]


def test_bars_that_the_clip_has_not_are_said_and_leave_nothing(room: JourneyRoom, source: Session, tmp_path: Path) -> None:
    """Whether its beats are known when Vamp on is pressed or found by the first round."""
    asked = {"bars": "8", "loop": True}
    ask = room.begin(source, *values(**asked))[4]["ask"]
    told = list(room.round(source, event(ask=ask), *values(**asked)))[-1]
    assert "and 8 were wanted" in told[0] and told[4]["running"] is False and source.request is None
    room.handlers.choose(source, str(short_clip(tmp_path / "again.wav")))
    source.source.track()
    told = room.begin(source, *values(**asked))
    assert "and 8 were wanted" in told[0] and told[1]["interactive"] and source.request is None
    assert "Stopped after one round" in travel(room, source, 1)[0]


def test_a_journey_keeps_the_beats_that_it_began_with(room: JourneyRoom, session: Session, tmp_path: Path) -> None:
    """Half the tempo, set between two rounds, would make their bar twice as long."""
    room.handlers.choose(session, str(short_clip(tmp_path / "long.wav", 4.0)))
    session.source.track()
    asked = {"bars": "1", "loop": True}
    before = travel(room, session, 1, **asked)[4]["journeys"][0]
    room.handlers.set_tempo(session, event(act="half"))
    after = travel(room, session, 1, **asked)[4]["journeys"][0]
    assert len(after["rounds"]) == 2 and (after["seconds"], after["most"]) == (before["seconds"], before["most"]) == (2.0, 64)
    assert room.resume(session)["journeys"][0]["source"] == before["source"]


def test_a_page_that_comes_back_amid_a_round_can_go_on(room: JourneyRoom, source: Session) -> None:
    ask = room.begin(source, *values(steps=60))[4]["ask"]
    steps = room.round(source, event(ask=ask), *values(steps=60))
    next(steps)
    assert source.running and room.resume(source)["running"] is False
    told = list(steps)[-1]
    assert source.request is None and not travels_of(source).running and told[4]["running"] is False
    assert "Stopped after one round" in travel(room, source, 1)[0]


def test_a_round_comes_from_where_its_source_came_from(room: JourneyRoom, source: Session) -> None:
    source.source.origin = "0123456789abcdef"
    travel(room, source, 1)
    journey = travels_of(source).all[0].journey.folder.name
    room.use(source, event(journey=journey, round=1))
    assert source.source.name.endswith("round1") or source.source.path.name != "noise.wav"
    assert source.source.origin == "0123456789abcdef"


def test_going_back_branching_and_taking_away(room: JourneyRoom, source: Session) -> None:
    name = travel(room, source, 2)[4]["journeys"][0]["id"]
    (shown,) = room.act(source, event(do="back", journey=name, round=1), *values())[4]["journeys"]
    assert shown["current"] == 1 and [one["here"] for one in shown["rounds"]] == [True, False]
    told = room.act(source, event(do="branch", journey=name, round=0), *values())
    assert told[4]["running"] and source.request is not None
    list(room.round(source, event(ask=told[4]["ask"]), *values()))
    room.act(source, event(do="end"), *values())
    (shown,) = strip_value(source)["journeys"]
    assert shown["current"] == 3 and shown["rounds"][2]["parent"] == 0
    told = room.act(source, event(do="remove", journey=name, round=1), *values())
    assert [one["number"] for one in told[4]["journeys"][0]["rounds"]] == [3]
    for wrong in ({"round": 1}, {"round": 99}, {"round": "3"}, {"round": True}, {"journey": "../x"}, {"journey": None}):
        refused = room.act(source, event(**{"do": "back", "journey": name, "round": 3, **wrong}), *values())
        assert "no longer here" in refused[0]


def test_a_journey_steers_by_the_controls_and_ends_when_it_is_full(
    room: JourneyRoom, source: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(travels, "MAX_ROUNDS", 2)
    room.begin(source, *values())
    list(room.round(source, event(ask=1), *values(periodic=3)))
    told = list(room.round(source, event(ask=2), *values(seed=None)))[-1]  # an emptied field: as before
    assert "room for 2 rounds" in told[0] and told[4]["running"] is False
    assert [one.prompt.periodic for one in travels_of(source).all[0].journey.rounds.values()] == [3, 3]
    assert "room for 2 rounds" in room.begin(source, *values())[0] and source.request is None


def test_a_journey_takes_other_settings_but_its_own_ground(room: JourneyRoom, source: Session) -> None:
    room.begin(source, *values(seed=3))
    list(room.round(source, event(ask=1), *values(seed=99, loop=False, periodic=3)))
    made = travels_of(source).all[0]
    assert made.journey.rounds[1].prompt.periodic == 3 and made.request.seed == 3 and made.request.loop


def test_vamp_on_makes_what_is_painted_and_nothing_longer(room: JourneyRoom, source: Session, handlers: Handlers) -> None:
    steps = handlers.draw(source, *values())["steps"]
    everything = {"levels": 14, "steps": steps, "keep": [], "make": [[level, 0, steps] for level in range(14)]}
    travel(room, source, 1, periodic=1, paint=everything)
    made = travels_of(source).all[0].journey.read(1)
    assert made.mask.all() and made.painted
    told = room.begin(source, *values(extend_after=1.0))
    assert "does not make a clip longer" in told[0] and source.request is None and told[3]["interactive"]


def test_a_branch_leaves_the_source_alone(room: JourneyRoom, source: Session, handlers: Handlers, tmp_path: Path) -> None:
    travel(room, source, 1)
    first, name = source.source, strip_value(source)["journeys"][0]["id"]
    handlers.choose(source, str(short_clip(tmp_path / "other.wav", 0.8)))
    other = source.source
    told = room.act(source, event(do="branch", journey=name, round=1), *values(seed=7))
    assert source.source is other and source.request[1] is first
    told = list(room.round(source, event(ask=told[4]["ask"]), *values(seed=7)))[-1]
    room.act(source, event(do="end"), *values())
    assert [one["parent"] for one in told[4]["journeys"][0]["rounds"]] == [0, 1] and source.source is other


@pytest.mark.parametrize("later", ["journey", "comp"])
def test_what_was_stopped_in_line_takes_no_other_request(
    handlers: Handlers, room: JourneyRoom, source: Session, monkeypatch: pytest.MonkeyPatch, later: str
) -> None:
    monkeypatch.setattr(Comping, "__init__", lambda self, handlers: setattr(self, "handlers", handlers))
    run_vamp(handlers, source, takes=2)
    comping, kept = Comping(handlers), source.vamps[0]
    handlers.begin(source, *values())
    waiting = handlers.vamp(source)
    handlers.stop(source)
    if later == "journey":
        told = room.begin(source, *values())
        assert len(list(waiting)) == 1 and source.request is not None, "it does nothing"
        assert list(room.round(source, event(ask=told[4]["ask"]), *values()))[-1][4]["journeys"][0]["rounds"]
        room.act(source, event(do="end"), *values())
    else:
        parts = len(comping.open(source, event(vamp=kept["id"]))["times"]) - 1
        comping.begin(source, event(vamp=kept["id"], choice=[1] * parts))
        assert len(list(waiting)) == 1 and source.request is not None
        list(comping.make(source))
        assert len(source.vamps) == 2 and source.request is None
        # And the other way round: a comp that was stopped leaves a vamp alone.
        comping.begin(source, event(vamp=kept["id"], choice=[1] * parts))
        handlers.stop(source)
        handlers.begin(source, *values())
        assert list(comping.make(source)) == [[gr.skip()] * 4] and source.request is not None
        list(handlers.vamp(source))
    assert source.request is None


def test_an_export_is_one_file_of_the_way(room: JourneyRoom, source: Session) -> None:
    name = travel(room, source, 2)[4]["journeys"][0]["id"]
    for source_too, repeats, parts in ((False, 1, 2), (True, 4, 12)):
        asked = event(journey=name, round=2, source=source_too, repeats=repeats)
        told, strip = room.export(source, asked)
        file = strip["journeys"][0]["file"]
        sound = soundfile.info(file["sound"])
        assert sound.frames == parts * SAMPLE_RATE // 2 and sound.format == "FLAC" and f"{parts / 2:.1f} s" in told
        assert metadata.read(file["sound"]).take == 2 and file["file"] == "noise-journey-2-rounds-seed0.flac"
    assert len(list(source.folder.glob("*/*journey*.flac"))) == 1, "the export before is gone"
    for wrong in ({"repeats": 3}, {"repeats": 1e9}, {"round": 0}, {"round": 7}, {"journey": 1}):
        assert "alert" in room.export(source, event(**{"journey": name, "round": 2, "source": False, "repeats": 1, **wrong}))[0]


def test_a_stranger_gets_at_no_round(room: JourneyRoom, source: Session, handlers: Handlers) -> None:
    name = travel(room, source, 1)[4]["journeys"][0]["id"]
    stranger = Session(handlers.files)
    assert "no longer here" in room.use(stranger, event(journey=name, round=1)) and stranger.source is None
    assert "no longer here" in room.export(stranger, event(journey=name, round=1))[0]
    assert "noise-round1-seed0" in room.use(source, event(journey=name, round=1))
    assert source.source.samples == SAMPLE_RATE // 2
