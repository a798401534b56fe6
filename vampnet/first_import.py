"""librosa, imported by one process at a time, and tried in another one before it is trusted.

librosa has numba compile ufuncs when it is imported. numba keeps each in two files, of which one calls what the other one holds
by a name with a number in it: how many functions that process had compiled. Two processes that compile at once can leave a file
of each; then no later process finds that name, and it dies of a segmentation fault when it calls the function.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from vampnet.own_folder import make_own_folder
from vampnet.sentences import Sentence

MODULES = ("librosa.beat", "librosa.feature.rhythm", "librosa.feature.spectral", "librosa.filters", "librosa.onset")
"""All that is used of librosa: what they compile is compiled as they are imported."""
COMPILE_SECONDS = 300.0
CRASHES = tuple(-getattr(signal, name, 0) for name in ("SIGSEGV", "SIGILL", "SIGBUS", "SIGABRT", "SIGFPE"))
CRASH_OF_WINDOWS = 0xC0000000
"""Exit codes from here on are of a process that Windows ended for what it did, and no program's own."""
REHEARSAL = """
import os, sys
getattr(os, "nice", int)(10)
sys.path.insert(0, sys.argv[1])
from vampnet import beats, first_import
with first_import.alone():
    first_import.import_all()
    beats.rehearse()
"""
"""In a process of its own: compiling takes half a minute, in which a thread of this one would keep the interpreter from all
others. It has the lock itself, since it outlives a process that is ended meanwhile."""

_one_thread = threading.Lock()
_problems: list[ValueError] = []


def import_librosa() -> ModuleType:
    """librosa with its MODULES: for everybody who uses it, in place of `import librosa`.

    The first call in an environment has another process compile it, which takes half a minute, and try what it finds on the
    disk; compiled functions that make it crash are deleted and made anew. Later calls take as long as an import.

    Raises:
        ValueError: what was made anew makes it crash again.
        ImportError: librosa is missing or cannot be imported.
    """
    prove()
    with _one_thread:
        if not _is_imported():
            with alone():
                if find_cache() is None:
                    _keep_for_now()
                import_all()
    return sys.modules["librosa"]


def prove() -> None:
    """What the first `import_librosa` in an environment does before it imports anything; then it takes no time.

    Raises:
        ValueError: as `import_librosa`.
    """
    with _one_thread:
        if _is_imported():
            return
        if _problems:
            raise _problems[0]
        home = find_cache()
        if home is not None:
            _prove(home)


def _is_imported() -> bool:
    return all(name in sys.modules for name in MODULES)


def import_all() -> None:
    """Imports MODULES, and compiles what is not on the disk."""
    for name in MODULES:
        importlib.import_module(name)


def find_cache() -> Path | None:
    """The folder that numba keeps librosa's compiled functions in or below; None where none can be written to.

    As numba does it takes the first that it can write to: NUMBA_CACHE_DIR, beside librosa, the user's own.
    """
    found = importlib.util.find_spec("librosa")
    if found is None or found.origin is None:
        return None
    given = os.environ.get("NUMBA_CACHE_DIR")
    for place in (lambda: given and Path(given), lambda: Path(found.origin).parent / "__pycache__", _cache_of_user):
        with contextlib.suppress(OSError):
            if not (folder := place()):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
    return None


def _keep_for_now() -> None:
    """Has numba keep what it compiles as long as this process runs: where it can keep nothing, librosa cannot be imported."""
    from numba.core import config

    config.CACHE_DIR = str(make_own_folder("vampnet-compiled-"))


def _cache_of_user() -> Path:
    from numba.misc.appdirs import AppDirs

    return Path(AppDirs(appname="numba", appauthor=False).user_cache_dir)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """While no other process is in it. Who has waited for COMPILE_SECONDS goes on, as does who cannot lock a file."""
    from filelock import FileLock, Timeout

    home = find_cache()
    with contextlib.ExitStack() as stack:
        if home is not None:
            with contextlib.suppress(Timeout, OSError, NotImplementedError):
                stack.enter_context(FileLock(home / "vampnet-librosa.lock", timeout=COMPILE_SECONDS))
        yield


def _prove(home: Path) -> None:
    """Has a process compile what is missing, and another one use what it left; a mark in `home` says that this went well.

    Where they fail without a crash nothing is known, and nothing deleted: whoever uses librosa will be told why.
    """
    mark = home / f"vampnet-librosa-{version('librosa')}-{version('numba')}-{sys.implementation.cache_tag}.tried"
    if mark.exists():
        return
    for _ in range(2):
        # The first one has in memory what it compiled, and says little about the disk.
        code = _rehearse() or _rehearse()
        if code == 0:
            with contextlib.suppress(OSError):
                mark.touch()
            return
        if code not in CRASHES and code < CRASH_OF_WINDOWS:
            return
        with alone():
            _forget(home)
    _problems.append(
        ValueError(
            Sentence(
                "librosa's compiled functions crash, and did so again when they were made anew: "
                "set NUMBA_CACHE_DIR to an empty folder, or install librosa and numba again."
            )
        )
    )
    raise _problems[0]


def _rehearse() -> int:
    """Exit code of REHEARSAL; 1 where it could not be started or took too long."""
    root = str(Path(__file__).resolve().parent.parent)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.run([sys.executable, "-c", REHEARSAL, root], timeout=COMPILE_SECONDS, check=False, **quiet).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 1


def _forget(home: Path) -> None:
    """Deletes librosa's compiled functions: beside its modules, or in folders like `core_<hash>` of one that is for all."""
    root = Path(importlib.util.find_spec("librosa").origin).parent
    packages = {root, *(file.parent for file in root.rglob("__init__.py"))}
    patterns = [f"{package.name}_*/*.nb[ic]" for package in packages]
    kept = [file for package in packages for file in (package / "__pycache__").glob("*.nb[ic]")]
    kept += [file for pattern in patterns for file in home.glob(pattern)]
    for file in kept:
        with contextlib.suppress(OSError):
            file.unlink()
