"""librosa's import: by one process at a time, and what numba left broken on the disk is found and made anew.

A package of the same name stands in for librosa here: real ufuncs, compiled by numba and kept on the disk, but small ones.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vampnet import beats, first_import
from vampnet.studio.session import Source
from vampnet.studio.text import tell

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120
UFUNC = """
import numpy as np
from numba import guvectorize

@guvectorize(["void(float32[:], float32[:])", "void(float64[:], float64[:])"], "(n)->(n)", nopython=True, cache=True)
def doubled(x, out):
    for i in range(len(x)):
        out[i] = 2 * x[i]
"""
LOGGED = """
import os, time
with open(os.environ["LOG"], "a") as file:
    file.write("in ")
    file.flush()
    time.sleep(0.5)
    file.write("out ")
"""
USE = "import numpy as np, librosa.beat; print(librosa.beat.doubled(np.ones(2, np.float32)))"
OTHERS_FIRST = "import numba; [numba.njit(lambda x, n=n: x + n)(1.0) for n in range(3)]; " + USE
"""Its functions have other numbers than those of a process that compiles nothing before."""
OURS = """
from vampnet import first_import
first_import.REHEARSAL = '''
import sys
sys.path.insert(0, sys.argv[1])
from vampnet import first_import
with first_import.alone():
    first_import.import_all()
    import librosa, numpy as np
    hasattr(librosa.beat, "doubled") and librosa.beat.doubled(np.ones(2, np.float32))
'''
first_import.import_librosa()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Folder of a package `librosa` that subprocesses import; a test writes its module `beat`."""
    package = tmp_path / "librosa"
    (package / "feature").mkdir(parents=True)
    for name in ("__init__", "beat", "filters", "onset", "feature/__init__", "feature/rhythm", "feature/spectral"):
        (package / f"{name}.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    monkeypatch.setenv("LOG", str(tmp_path / "log.txt"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return package


def start(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def run(code: str) -> tuple[int, str, str]:
    process = start(code)
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out.strip(), err


def compiled(folder: Path, pattern: str = "*.nb[ic]") -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.rglob(pattern))}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_compiled_functions_of_two_processes_crash_and_are_made_anew(stand_in, tmp_path, monkeypatch, elsewhere):
    home = stand_in / "__pycache__"
    if elsewhere:
        home = tmp_path / "compiled"
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(home))
    (stand_in / "beat.py").write_text(UFUNC)
    assert run(OTHERS_FIRST)[:2] == (0, "[2. 2.]")
    of_one = compiled(home, "guf-*")
    for file in home.rglob("*.nb[ic]"):
        file.unlink()
    others = home / "others_0" / "beat.doubled.1.nbc"
    others.parent.mkdir()
    others.touch()
    assert run(USE)[:2] == (0, "[2. 2.]")
    assert len(of_one) == 3 and of_one.keys() == compiled(home, "guf-*").keys() and of_one != compiled(home, "guf-*")
    for file in home.rglob("guf-*"):
        file.write_bytes(of_one[file.name])
    assert run(USE)[0] == -signal.SIGSEGV  # what a studio died of

    code, out, err = run(OURS + USE)
    assert (code, out) == (0, "[2. 2.]"), err
    assert run(USE)[:2] == (0, "[2. 2.]") and others.exists()
    assert len(list(home.glob("vampnet-librosa-*.tried"))) == 1


def test_one_process_imports_at_a_time_and_tries_only_once(stand_in):
    (stand_in / "beat.py").write_text(LOGGED)
    log = Path(os.environ["LOG"])
    both = [start(OURS), start(OURS)]
    for process in both:
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    words = log.read_text().split()
    assert words == ["in", "out"] * (len(words) // 2) and len(words) >= 8
    assert run(OURS)[0] == 0
    assert log.read_text().split() == [*words, "in", "out"]  # no other process is asked any more


def test_what_an_ended_process_has_begun_is_waited_for(stand_in):
    (stand_in / "beat.py").write_text(LOGGED)
    log, process = Path(os.environ["LOG"]), start(OURS)
    end = time.monotonic() + SECONDS
    while not log.exists() or not log.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=SECONDS)
    assert log.read_text() == "in "
    assert run(OURS)[0] == 0
    assert log.read_text().split() == ["in", "out"] * 4


def test_an_import_that_fails_is_told_as_it_is_and_nothing_is_deleted(stand_in):
    (stand_in / "beat.py").write_text(UFUNC)
    assert run(USE)[0] == 0
    before = compiled(stand_in)
    (stand_in / "onset.py").write_text("raise ImportError('no onsets today')")
    code, _, err = run(OURS)
    assert code == 1 and "no onsets today" in err
    assert compiled(stand_in) == before and not list(stand_in.rglob("*.tried"))


@pytest.fixture
def crashing(monkeypatch, tmp_path):
    """An environment whose librosa crashes however often it is compiled; what is done about it."""
    done: list[str] = []
    monkeypatch.setattr(first_import, "MODULES", ("a_module_that_is_not_there",))
    monkeypatch.setattr(first_import, "_problems", [])
    monkeypatch.setattr(first_import, "find_cache", lambda: tmp_path)
    monkeypatch.setattr(first_import, "_forget", lambda home: done.append("forget"))
    monkeypatch.setattr(first_import, "_rehearse", lambda: done.append("rehearse") or -signal.SIGSEGV)
    return done


def test_what_cannot_be_mended_is_said_and_not_tried_again(crashing, tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="set NUMBA_CACHE_DIR to an empty folder"):
            first_import.import_librosa()
    assert crashing == ["rehearse", "forget"] * 2 and not list(tmp_path.glob("*.tried"))


def test_the_page_goes_on_without_beats_and_says_why(crashing, tmp_path, monkeypatch):
    monkeypatch.setattr(beats, "find_checkpoint", lambda download: (None, ""))
    soundfile.write(tmp_path / "noise.wav", 0.1 * np.random.default_rng(0).standard_normal((9_000, 2)), 44_100)
    source = Source(tmp_path / "noise.wav", "noise", 9_000, 44_100, np.zeros((2, 1), np.int8))
    note = source.track().note
    assert source.grid.beats == () and "NUMBA_CACHE_DIR to an empty folder" in note
    assert "빈 폴더" in tell(note, "ko")


def test_where_nothing_can_be_kept_nothing_is_tried(crashing, monkeypatch):
    monkeypatch.setattr(first_import, "find_cache", lambda: None)
    monkeypatch.setattr(first_import, "MODULES", ("a_module_that_is_not_there",))
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        first_import.import_librosa()
    assert crashing == []


def test_the_cache_is_where_numba_has_it(stand_in, tmp_path, monkeypatch):
    code = "from vampnet import first_import; print(first_import.find_cache())"
    assert run(code)[1] == str(stand_in / "__pycache__")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "given"))
    assert run(code)[1] == str(tmp_path / "given")
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert run(code)[1] == str(stand_in / "__pycache__")
    nowhere = "import pathlib; pathlib.Path.mkdir = lambda self, **options: (_ for _ in ()).throw(PermissionError()); "
    assert run(nowhere + code)[1] == "None"


def test_where_nothing_can_be_kept_it_is_kept_as_long_as_the_program_runs(stand_in, tmp_path, monkeypatch):
    (stand_in / "beat.py").write_text(UFUNC)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    own = "import numba, pathlib; print(len(list(pathlib.Path(numba.config.CACHE_DIR).rglob('*.nbc'))))"
    code, out, err = run(
        OURS.replace("first_import.import", "first_import.find_cache = lambda: None\nfirst_import.import") + own
    )
    assert (code, out) == (0, "4"), err
    assert not compiled(stand_in) and not list((tmp_path / "tmp").iterdir())


def test_nobody_imports_librosa_in_another_way():
    files = [ROOT / "app.py", *(ROOT / "vampnet").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    found = [str(file) for file in files if re.search(r"^\s*(import|from) librosa\b", file.read_text("utf-8"), re.MULTILINE)]
    assert len(files) > 100 and found == []
