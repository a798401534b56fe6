"""The journeys of a visitor: which there are, where each stands, how the page is told of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from vampnet.journey import SOURCE, Journey, Round
from vampnet.studio.controls import Request
from vampnet.studio.session import Session, Source
from vampnet.studio.text import worded

MAX_JOURNEYS = 2
MAX_ROUNDS = 64
MAX_SECONDS = 600.0
"""Of all rounds of a journey together; with `MAX_JOURNEYS` this bounds what a session holds on the disk to some 300 MB."""


@dataclass(eq=False)
class Travel:
    """A journey of a visitor.

    Attributes:
        current: number of the round that the next one is made from.
        waves: {number: waveform of that round, for the page}.
        file: the last export, for the page; None before the first.
    """

    journey: Journey
    source: Source
    request: Request
    current: int = SOURCE
    waves: dict[int, str] = field(default_factory=dict)
    file: dict[str, Any] | None = None

    @property
    def clip(self) -> Source:
        """The source with the journey's own beats, as soon as it has some: those of its first round, whatever is set later."""
        return self.source.with_beats(self.journey.beats)

    @property
    def bounds(self) -> tuple[float, float]:
        """(start, end) in seconds of what of the source is vamped; all of it where it has too few bars, as a round will say."""
        try:
            start, end = self.clip.bounds(self.request.bars)
        except ValueError:
            start, end = 0, self.source.samples
        return start / self.source.rate, end / self.source.rate

    @property
    def most(self) -> int:
        """How many rounds this journey may have."""
        start, end = self.bounds
        return max(2, min(MAX_ROUNDS, int(MAX_SECONDS / (end - start))))


@dataclass(eq=False)
class Travels:
    """All journeys of a visitor, the newest first.

    Attributes:
        running: whether one goes on.
        ask: counts what the browser is asked to start: a round for each new number.
    """

    all: list[Travel] = field(default_factory=list)
    running: bool = False
    ask: int = 0

    @property
    def sources(self) -> list[Source]:
        """What their rounds are made from: as `Session.use` asks."""
        return [travel.source for travel in self.all]


def travels_of(session: Session) -> Travels:
    """The journeys of a visitor."""
    return session.kept.setdefault("journeys", Travels())


def ground_of(request: Request) -> tuple[Any, ...]:
    """What a journey cannot change on its way."""
    return request.seed, request.loop, request.bars


def on_ground(request: Request, travel: Travel, session: Session) -> Request:
    """A request of the same journey. What is painted on another clip is not its."""
    seed, loop, bars = ground_of(travel.request)
    paint = request.paint if travel.source is session.source else None
    return dataclasses.replace(request, seed=seed, loop=loop, bars=bars, paint=paint)


def known_round(journey: Journey, number: Any, source: bool = True) -> Round | None:
    """Round `number`, None for the source. ValueError if there is none."""
    if number == SOURCE and source and not isinstance(number, bool):
        return None
    if isinstance(number, bool) or not isinstance(number, int) or number not in journey.rounds:
        raise ValueError(worded("journey.no_round"))
    return journey.rounds[number]


def way_of(journey: Journey, number: int) -> set[int]:
    """The numbers of the rounds from the first to that one."""
    return {found.number for found in journey.path(number)}


def strip_value(session: Session) -> dict[str, Any] | None:
    """The journeys for the page, as plain data; None before the first.

    Returns:
        dict: `running`, `ask`, and `journeys`: each `id`, `name`, `seed`, `current`, `seconds`, `most`, `source` (a track:
        sound, start and end in seconds), `file` and `rounds`: each `number`, `parent`, `depth`, `here` (on the way to the
        current one), `sound`, `file`, `wave`.
    """
    travels = travels_of(session)
    if not travels.all:
        return None
    found = []
    for travel in travels.all:
        journey, (start, end) = travel.journey, travel.bounds
        way = way_of(journey, travel.current)
        rounds = [
            {
                "number": one.number, "parent": one.parent, "depth": len(one.path), "here": one.number in way,
                "sound": str(one.sound), "file": one.sound.name, "wave": travel.waves.get(one.number, ""),
            }
            for one in journey.rounds.values()
        ]  # fmt: skip
        found.append(
            {
                "id": journey.folder.name,
                "name": travel.source.name,
                "seed": journey.seed,
                "current": travel.current,
                "seconds": end - start,
                "most": travel.most,
                "rounds": rounds,
                "file": travel.file,
                "source": {"sound": str(travel.source.path), "start": start, "end": end},
            }  # fmt: skip
        )
    return {"running": travels.running, "ask": travels.ask, "journeys": found}
