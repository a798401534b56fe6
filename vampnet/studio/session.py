"""What belongs to one visitor: the source, the takes, the files. Nothing in here is seen by another."""

from __future__ import annotations

import dataclasses
import re
import secrets
import shutil
import threading
import time
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vampnet import audio, beats, loops
from vampnet.beats import BeatGrid
from vampnet.own_folder import make_own_folder
from vampnet.sentences import Sentence, sentence_of
from vampnet.studio import text
from vampnet.studio.controls import Request
from vampnet.studio.shelf import Shape
from vampnet.whole_file import fitting

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.studio.work import Work

PREFIX = "vampnet-studio-"
ENVELOPE_HOP = 256
"""Samples per column of a stored envelope."""
KEPT_SOURCES = 2
"""Sources whose files a session keeps: the one that is vamped and the one before; others go when nothing needs them."""
MAX_VAMPS = 8
"""Vamps whose takes a session keeps; the files of older ones are deleted."""
MAX_FAVOURITES = 16
"""Vamps with a favourite among their takes that it keeps beside those."""


class Files:
    """A folder for the files of all sessions, each in a folder of its own with a random name of 128 bits.

    The web server gives out whatever lies below `root` to who knows its path; nobody can guess one. All of it is deleted when
    the program ends; what one left behind that was killed, when the next one begins.
    """

    def __init__(self) -> None:
        self.root = make_own_folder(PREFIX)

    def new_folder(self) -> Path:
        folder = self.root / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder


@dataclass(eq=False)
class Source:
    """A clip to vamp, as it lies on disk.

    Attributes:
        path: sound file at `rate` Hz in the session's folder.
        name: for people, from the name of the file that was brought.
        samples: N.
        rate: Hz.
        envelope: (2, n) int8: lowest and highest sample of every `ENVELOPE_HOP`, over both channels, 127 = the clip's peak.
        grid: its beats; None until they are tracked.
        origin: id of the shared vamp that it came from; "" if it came from none.
    """

    path: Path
    name: str
    samples: int
    rate: int
    envelope: np.ndarray
    grid: BeatGrid | None = None
    origin: str = ""
    _tracking: threading.Lock = field(default_factory=threading.Lock)
    _finding: threading.Lock = field(default_factory=threading.Lock)
    _onsets: dict[tuple[int, int], tuple[float, ...]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def track(self) -> BeatGrid:
        """Tracks the beats, once; whoever comes second waits for them. Where tracking fails there are none, and a note why."""
        with self._tracking:
            if self.grid is None:
                try:
                    found = beats.track(audio.load(self.path, self.rate))
                except Exception as error:  # any of two trackers' errors: the page goes on without beats and says so
                    said = sentence_of(error)
                    reason = said if isinstance(said, Sentence) else type(error).__name__
                    found = BeatGrid(note=text.worded("map.beats.failed", error=reason))
                if self.grid is None:  # somebody may have set them by hand meanwhile
                    self.grid = found
        return self.grid

    def with_beats(self, grid: BeatGrid | None) -> Source:
        """The same clip with these beats, whatever becomes of its own: for work that others may set them under."""
        return self if grid is None else dataclasses.replace(self, grid=grid)

    def bounds(self, bars: int | None) -> tuple[int, int]:
        """(start, end) in samples of what is vamped: the clip, or whole bars of it.

        Raises:
            ValueError: the clip has fewer bars; the sentence says how many.
        """
        if bars is None or self.grid is None:
            return 0, self.samples
        shape = SimpleNamespace(audio_data=torch.empty(1, 1, self.samples, device="meta"), sample_rate=self.rate)
        return loops.bars(shape, self.grid, bars)

    def beats_between(self, start: int, end: int) -> BeatGrid | None:
        """The tracked beats of a part, counted from its start in seconds."""
        if self.grid is None or (start, end) == (0, self.samples):
            return self.grid
        return self.grid.cut(start / self.rate, end / self.rate)

    def onsets_between(self, start: int, end: int) -> tuple[float, ...]:
        """Onsets of a part in seconds from its start; found when they are first asked for."""
        with self._finding:
            if (start, end) not in self._onsets:
                part = audio.load(self.path, self.rate).audio_data[..., start:end].clone()
                self._onsets[start, end] = beats.onsets(audio.make_signal(part, self.rate))
            return self._onsets[start, end]


class Session:
    """One visitor's work. A deep copy is a new, empty session: that is how Gradio makes one for each visitor.

    Attributes:
        source: what is vamped; None before the first. It is set by `use`.
        vamps: newest first, as the page shows them (plain data), each with the `turn` in which it changed last (`changed`).
        request: what the vamp that waits or runs was asked for; None if there is none.
        room: where it was asked for: "vamp", "comp" or "journey".
        running: whether the vamp runs already.
        work: what runs, if a page that is loaded anew can go on with it.
        stop: set to end that vamp.
        model_version, shape: of the model that the visitor's page knows of, as in `ModelShelf`.
        awaits_model: whether the visitor has asked for another and was not told yet what came of it.
        language: of the visitor's browser, as in `text.LANGUAGES`.
        kept: what rooms of the page keep for the visitor, by their names; what has `sources` keeps these from being deleted.
        opened: whether a page was opened with it.
        brought: id of the shared vamp that a link has brought.
        values: of all controls, as they were drawn last.
        resumed: the takes that a page found when it was loaded anew.
        closed: whether the last page is gone.
    """

    def __init__(self, files: Files) -> None:
        self._files, self._folder = files, None
        self._folders: list[Path] = []
        # Gradio forgets the oldest of too many sessions without a word.
        weakref.finalize(self, _remove, self._folders)
        self.source: Source | None = None
        self._tickets = self._used = 0
        self._sources: list[Source] = []
        self.vamps: list[dict[str, Any]] = []
        self._turn = 0
        self.request: tuple[Request, Source] | None = None
        self.room = ""
        self.running = False
        self.work: Work | None = None
        self.stop = threading.Event()
        self.model_version, self.shape, self.awaits_model = 0, Shape(), False
        self.language = text.DEFAULT
        self.kept: dict[str, Any] = {}
        self.opened, self.brought, self.values = True, "", ()
        self.resumed: list[dict[str, Any]] = []
        self._pages, self._counting, self.closed = 1, threading.Lock(), False

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        fresh = Session(self._files)
        # Gradio also makes one where a page goes on whose session is gone.
        fresh.opened = False
        return fresh

    def hold(self) -> bool:
        """Another page goes on with this session; False if it is closed already."""
        with self._counting:
            self._pages += self._pages > 0
            return self._pages > 0

    def let_go(self) -> None:
        """A page is gone; with the last one the session is closed."""
        with self._counting:
            self._pages -= 1
            last = self._pages == 0
        if last:
            self.close()

    @property
    def folder(self) -> Path:
        if self._folder is None or not self._folder.is_dir():
            self._folder = self._files.new_folder()
            self._folders.append(self._folder)
        return self._folder

    def ticket(self) -> int:
        """A number for a source that is about to be read: of several the one that was chosen last is used, not that which was
        read last."""
        self._tickets += 1
        return self._tickets

    def use(self, source: Source, ticket: int | None = None) -> bool:
        """Makes a source the one that is vamped, unless one with a later ticket is that already; False then.

        Args:
            ticket: what `ticket` gave when it was chosen; None = it is chosen now.
        """
        ticket = self.ticket() if ticket is None else ticket
        self._sources.append(source)
        if ticket < self._used:
            return False
        self.source, self._used = source, ticket
        self._tidy()
        return True

    def _tidy(self) -> None:
        """Deletes the sources of before that nothing needs: neither what waits or runs nor, by its `sources`, a room."""
        needed = [self.source, self.request and self.request[1]]
        needed += [source for room in self.kept.values() for source in getattr(room, "sources", ())]
        # The page may still play the last one, until it has drawn this one.
        sources = list({id(source): source for source in self._sources}.values())
        before, self._sources = sources[:-KEPT_SOURCES], sources[-KEPT_SOURCES:]
        for old in before:
            if any(old is source for source in needed):
                self._sources.insert(0, old)
            elif self._folder in old.path.parent.parents:
                shutil.rmtree(old.path.parent, ignore_errors=True)

    def new_folder(self) -> Path:
        """A fresh folder inside the session's, so that two files may have the same name."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir()
        return folder

    def origin_of(self, path: Any) -> str:
        """Id of the shared vamp that a file came from: that of its vamp, or of the source of this; "" if it came from none."""
        folder = Path(str(path)).parent
        return next((shared_origin(vamp) for vamp in self.vamps if Path(vamp["folder"]) == folder), "")

    def changed(self, vamp: dict[str, Any]) -> dict[str, Any]:
        """The vamp, marked as the one that changed last; to be called when it has.

        Several answers may carry the vamps to the page at once, in another order than they were read here: it leaves alone
        what is older than what it shows. Microseconds, so that a session that begins anew goes on from there.
        """
        with self._counting:
            self._turn = vamp["turn"] = max(self._turn + 1, time.time_ns() // 1000)
        return vamp

    def add_vamp(self, vamp: dict[str, Any], before: dict[str, Any] | None = None) -> None:
        """Puts a vamp before the others; the oldest without a favourite go, with their files, when there are too many.

        Args:
            before: what it was with fewer takes: it takes the place of that, and the stars stay.
        """
        self.changed(vamp)
        if before is not None and any(old is before for old in self.vamps):
            starred = {take["number"] for take in before["takes"] if take.get("favourite")}
            for take in vamp["takes"]:
                take["favourite"] = take["number"] in starred
            self.vamps = [vamp if old is before else old for old in self.vamps]
            return
        plain = [old for old in self.vamps if not has_favourite(old)]
        for old in plain[MAX_VAMPS - 1 :]:
            folder = Path(old["folder"])
            # A take that is the source now is still needed.
            if self.source is None or folder not in self.source.path.parents:
                shutil.rmtree(folder, ignore_errors=True)
        gone = [id(old) for old in plain[MAX_VAMPS - 1 :]]
        self.vamps = [vamp, *(old for old in self.vamps if id(old) not in gone)]

    def close(self) -> None:
        """Stops what runs and deletes all files; what is written after that, where work ends (`clear_if_closed`)."""
        self.closed = True
        self.stop.set()
        _remove(self._folders)
        self._folder, self.source, self.vamps, self.kept, self._sources = None, None, [], {}, []

    def clear_if_closed(self) -> None:
        """Deletes what was written after the session was closed: a take may just have been ready."""
        if self.closed:
            self.close()


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def shared_origin(vamp: dict[str, Any]) -> str:
    """Id of the shared vamp that one of a session is, or came from; "" if neither."""
    return vamp.get("shared") or vamp.get("origin") or ""


def has_favourite(vamp: dict[str, Any]) -> bool:
    """Whether a visitor has put a star on one of a vamp's takes."""
    return any(take.get("favourite") for take in vamp["takes"])


def read_source(session: Session, given: Any, name: str | None = None, origin: str | None = None) -> Source:
    """Reads any audio, checks it, and keeps it as a WAV file of the session.

    Args:
        given: anything that `audio.load` takes; a path in practice.
        name: for people; by default the name of the file.
        origin: as of `Source`; by default that of the file.

    Raises:
        AudioError: audio that cannot be vamped; its sentence is for the visitor.
    """
    # As it will come back from a bundle or a shared link: the same seed then gives the same takes.
    signal = audio.in_24_bits(audio.load(given))
    name = plain_name(name or Path(str(given)).stem)
    path = audio.save(signal, session.new_folder() / f"{name}.wav", subtype="FLOAT")
    samples, rate = signal.audio_data.shape[-1], int(signal.sample_rate)
    return Source(path, name, samples, rate, envelope(signal), origin=session.origin_of(given) if origin is None else origin)


def plain_name(name: str) -> str:
    """A name that every file system takes and nobody stumbles over, at most 60 characters and 180 bytes long."""
    return fitting(re.sub(r"[^\w\- ]+", "_", name).strip("_ ")[:60], 180) or "clip"


def envelope(signal: AudioSignal, hop: int = ENVELOPE_HOP) -> np.ndarray:
    """Lowest and highest sample of every `hop`: (1, C, N) -> (2, ceil(N / hop)) int8, 127 = the peak of the clip."""
    samples = signal.audio_data[0].detach().float().cpu().numpy()
    padded = np.pad(samples, ((0, 0), (0, -samples.shape[-1] % hop)))
    blocks = padded.reshape(len(samples), -1, hop)
    found = np.stack([blocks.min(axis=(0, 2)), blocks.max(axis=(0, 2))])
    return np.round(found * (127 / max(float(np.abs(found).max()), 1e-9))).astype(np.int8)


def shrink(columns: np.ndarray, most: int) -> np.ndarray:
    """An envelope (2, n) with at most `most` columns, by the extremes of equal parts."""
    n = columns.shape[1]
    if n <= most:
        return columns
    starts = np.arange(most) * n // most
    return np.stack([np.minimum.reduceat(columns[0], starts), np.maximum.reduceat(columns[1], starts)])
