"""The model that the page works with: used by many, exchanged while the page is open, one at a time in memory."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from vampnet import checkpoints
from vampnet.config import N_COARSE, N_CODEBOOKS, CancelledError, Sampling, TokenGrid
from vampnet.device import is_shortage
from vampnet.fallback import release
from vampnet.pipeline import OnDownload, VampNet
from vampnet.sentences import sentence_of
from vampnet.studio.memory import free_bytes
from vampnet.studio.notices import megabytes
from vampnet.studio.text import worded

if TYPE_CHECKING:
    from vampnet.checkpoints import Entry, Located

POLL_SECONDS = 0.2
ROOM = 2
"""Free memory that a second model needs beside the first, in sizes of its files: they are read, and become tensors."""

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """What the page must know of a model to draw its masks and to offer its defaults.

    Attributes:
        grid: seconds, samples and time steps of its codec.
        levels: K of its codec.
        coarse: how many of these its coarse model makes.
        sampling: how its takes are drawn where nobody says otherwise.
    """

    grid: TokenGrid = TokenGrid()
    levels: int = N_CODEBOOKS
    coarse: int = N_COARSE
    sampling: Sampling = Sampling()

    @classmethod
    def of(cls, model: VampNet) -> Shape:
        return cls(model.grid, model.codec.n_codebooks, model.coarse.config.n_codebooks, model.sampling)


@dataclass(frozen=True)
class Task:
    """What the shelf is doing: words, for `text.tell`, and for a download the bytes done and of how many (0 = not known)."""

    words: str
    done: int = 0
    of: int = 0


class ModelShelf:
    """Holds the model that all visitors of a page share, and exchanges it for another.

    A vamp ends with the model that it began with. The model before is let go of, and its memory with it, as soon as nothing
    uses it; where there is not enough memory for two it goes before the new one is read, and comes back if that fails.

    Args:
        model: one that is loaded already, if any. Unless `name` says how to load it again, it is never let go of in advance.
        name: what `load` knows this model by.
        load: `load(name, on_download=...)` gives a model; `VampNet.from_pretrained` by default.
        catalogue: `catalogue(online)` gives the models to choose from; `checkpoints.catalogue` by default.
        fetch: `fetch(name, on_download=...)` brings the files of a model onto the disk and says where its parts are (`paths`);
            `checkpoints.locate` by default. The model before is used until they are there.
        choice: whether visitors may exchange the model.

    Attributes:
        name: what the present model is known by; "" if there is none.
        shape: of the present model, or of the last one; before the first that of the paper's.
        version: counts the exchanges.
        problem: the sentence about the last exchange that failed or was stopped; "" if it went well.
        stopped: whether it was stopped.
        known: the models to choose from, as `entries` found them last.
        task: what is being done, or waited for as long as there is no model and `start` was not called; None if nothing is.
    """

    def __init__(
        self,
        model: VampNet | None = None,
        name: str = "",
        *,
        load: Callable[..., VampNet] | None = None,
        catalogue: Callable[..., list[Entry]] | None = None,
        fetch: Callable[..., Located] | None = None,
        choice: bool = False,
    ) -> None:
        self._load, self._fetch = load or VampNet.from_pretrained, fetch or checkpoints.locate
        self._catalogue = catalogue or checkpoints.catalogue
        self.choice = choice
        self._changed = threading.Condition()
        self._cancelled = threading.Event()
        self._users, self._busy, self._need = 0, False, 0
        self._leaving = False
        self.known: list[Entry] = []
        self._model: VampNet | None = None
        self.name, self.shape, self.version, self.problem, self.stopped = "", Shape(), 0, "", False
        self.task: Task | None = Task(worded("models.loading.any")) if model is None else None
        if model is not None:
            self._put(model, name)

    # ---- the present model --------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> bool:
        """Whether there is a model."""
        return self._model is not None

    @property
    def idle(self) -> bool:
        """Whether nobody uses the model at the moment."""
        return self._users == 0

    @property
    def title(self) -> str:
        """ "mini on cpu"; "" while there is no model."""
        model = self._model
        return "" if model is None else worded("models.title", name=model.name, device=model.device.type)

    @property
    def words(self) -> str:
        """What is being done; "" if nothing is."""
        task = self.task
        return "" if task is None else task.words

    def use(
        self,
        work: Callable[[VampNet], Result],
        stopped: Callable[[], bool] = lambda: False,
        on_wait: Callable[[], None] = lambda: None,
    ) -> Result:
        """Runs `work(model)` with the present model, once there is one. It must not keep the model.

        Args:
            work: what to do.
            stopped: asked while there is no model yet.
            on_wait: called while there is no model yet.

        Raises:
            CancelledError: `stopped()` was True.
            ValueError: there is no model, and none is being loaded.
        """
        with self._changed:
            while self._model is None or self._leaving:
                if self.task is None:
                    raise ValueError(self.problem or worded("models.none"))
                on_wait()
                self._changed.wait(POLL_SECONDS)
                if stopped():
                    raise CancelledError("Stopped while the model was loading.")
            model, version = self._model, self.version
            self._users += 1
        try:
            return work(model)
        finally:
            del model
            with self._changed:
                self._users -= 1
                self._changed.notify_all()
                late = version != self.version
            if late:
                release()

    # ---- exchange -----------------------------------------------------------------------------------------------------

    def entries(self, online: bool = True) -> list[Entry]:
        """The models to choose from; without `online` those on the disk are looked up, and what was found before is kept."""
        found = list(self._catalogue(online))
        if not online:
            names = {entry.name for entry in found}
            found += [entry for entry in self.known if entry.name not in names and entry.source == "hub"]
        self.known = found
        return found

    def start(self, name: str) -> bool:
        """Begins to exchange the model in a thread of its own; False if one is being exchanged already."""
        with self._changed:
            if self._busy:
                return False
            self._cancelled.clear()
            self._busy, self.task, self.problem, self.stopped = True, Task(_loading(name)), "", False
        threading.Thread(target=self._run, args=(name,), name="load-model", daemon=True).start()
        return True

    def cancel(self) -> None:
        """Ends the exchange that is going on; the model before stays, or comes back."""
        self._cancelled.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until nothing is being exchanged; False if that takes longer than `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: self.task is None, seconds)

    def _run(self, name: str) -> None:
        problem, before = "", self.name
        try:
            problem = self._exchange(name)
            self.stopped = bool(problem) and self._cancelled.is_set()
            if self._model is None:
                self._bring_back(before, name)
        except Exception as error:  # whoever waits must not wait for ever
            log.exception("Exchanging the model failed")
            problem = _failed(name, error)
        finally:
            with self._changed:
                self._busy, self.task, self.problem = False, None, problem
                self._changed.notify_all()

    def _exchange(self, name: str) -> str:
        """Loads a model and puts it in the place of the present one; "" or the sentence why that could not be."""
        problem = self._attempt(name, self._bring)
        if problem:
            return problem[0]
        if self._fits_beside(self._need):
            problem = self._attempt(name, self._read)
            if problem is None or not (problem[1] and self.name):
                return problem[0] if problem else ""
        # Too little memory for both. The other attempt's frames are gone by now, and what it had read with them.
        problem = self._attempt(name, self._put_away) or self._attempt(name, self._read)
        return problem[0] if problem else ""

    def _attempt(self, name: str, work: Callable[[str], None]) -> tuple[str, bool] | None:
        """Runs `work(name)`. None if it went well, else the sentence, and whether memory was short.

        The error and all that its frames hold on to is gone when this returns.
        """
        try:
            work(name)
        except CancelledError:
            return worded("models.stopped", name=_short(name)), False
        except Exception as error:
            short = is_shortage(error)
            if not isinstance(error, (OSError, ValueError)):
                log.warning("Loading %s failed", name, exc_info=error)
            return explain(name, error), short
        return None

    def _bring(self, name: str) -> None:
        located = self._fetch(name, on_download=self._watcher(_loading(name)))
        self._need = bytes_of(located)
        self._check()

    def _read(self, name: str) -> None:
        self._say(Task(_loading(name)))
        model = self._load(name, on_download=self._watcher(_loading(name)))
        self._check()
        self._put(model, name)

    def _put(self, model: VampNet, name: str) -> None:
        with self._changed:
            self._model, self.name, self.shape = model, name, Shape.of(model)
            self.version += 1
            self._changed.notify_all()
        del model
        release()

    def _put_away(self, name: str) -> None:
        """Lets go of the present model, if it can be loaded again, once no vamp uses it."""
        if not self.name:
            return
        self._say(Task(worded("models.waiting", name=_short(name))) if self._users else self.task)
        with self._changed:
            # Or one vamp after the other would put the exchange off for ever.
            self._leaving = True
            try:
                while self._users:
                    self._changed.wait(POLL_SECONDS)
                    self._check()
                self._model, self.name = None, ""
            finally:
                self._leaving = False
            self.version += 1
        release()

    def _bring_back(self, before: str, failed: str) -> None:
        """After a failure that left no model: loads the one before, or the bundled one."""
        self._cancelled.clear()
        for name in dict.fromkeys((before, checkpoints.DEFAULT)):
            if name not in ("", failed) and self._attempt(name, self._read) is None:
                return

    def _fits_beside(self, need: int) -> bool:
        """Whether there is room for a model of `need` bytes beside the present one, or none that could make room for it."""
        if not self.name or self._model is None:
            return True
        free = free_bytes(self._model.device)
        return free is not None and ROOM * need < free

    # ---- progress -----------------------------------------------------------------------------------------------------

    def _say(self, task: Task | None) -> None:
        with self._changed:
            self.task = task

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError("The exchange of the model was stopped.")

    def _watcher(self, then: str) -> OnDownload:
        def watch(file: str, done: int, total: int) -> None:
            self._check()
            here = Task(worded("models.downloading", file=file, size=megabytes(done, total)), done, total)
            self._say(Task(then) if total and done >= total else here)

        return watch


def bytes_of(located: Located) -> int:
    """Bytes of the weight files of a model: a part is a file, or lies in a folder in the package's own format."""
    files: set[Path] = set()
    for path in located.paths.values():
        files |= set(path.glob("*.safetensors")) if path.is_dir() else {path}
    return sum(file.stat().st_size for file in files)


def explain(name: str, error: BaseException) -> str:
    """One sentence about a model that could not be loaded."""
    if is_shortage(error):
        return worded("models.memory", name=_short(name))
    if isinstance(error, (OSError, ValueError)) and str(error):
        return sentence_of(error)
    return _failed(name, error)


def _failed(name: str, error: BaseException) -> str:
    return worded("models.failed", name=_short(name), error=f"{type(error).__name__}: {error}")


def _loading(name: str) -> str:
    return worded("models.loading", name=_short(name))


def _short(name: str) -> str:
    """The name of a model as it fits into a line: of a folder the last part."""
    path = Path(os.path.expanduser(name))
    return path.name if path.is_absolute() else name
