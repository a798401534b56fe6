"""What is imported before the first answer, and what is readied in idle moments."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from studio_tools import Loader, run_vamp, short_clip
from tiny import tiny_checkpoint, tiny_vampnet

from vampnet import beats, cli, first_import
from vampnet.pipeline import VampNet
from vampnet.studio import warm_up as warm
from vampnet.studio.handlers import Handlers
from vampnet.studio.session import Session
from vampnet.studio.shelf import ModelShelf

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 30
CODE = """
import sys
import numpy as np

def found(*names):
    print(*sorted(set(names) & set(sys.modules)), sep=",")

import app, vampnet.studio.page, vampnet.studio.zero, vampnet.studio.warm_up
never = "librosa", "sklearn", "matplotlib", "torch._dynamo", "sympy", "beat_this"
found(*never, "numba", "scipy", "audiotools", "torchaudio", "dac", "tensorboard", "pyloudnorm", "mcp")
from vampnet import Prompt, Sampling, VampNet
model = VampNet.from_pretrained(sys.argv[1], "cpu")
noise = 0.1 * np.random.default_rng(0).standard_normal((9_000, 2)).astype(np.float32)
model.vamp((44_100, noise), Prompt(), Sampling(steps=1, fine_steps=1), takes=1, loop=True)
found(*never)
"""


def test_neither_the_page_nor_a_vamp_imports_what_it_does_not_need(tmp_path):
    command = [sys.executable, "-c", CODE, str(tiny_checkpoint(tmp_path / "tiny"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", ""]


def test_a_program_does_not_tell_of_how_dac_makes_its_layers():
    code = """
import threading, warnings
from vampnet.program import prepare
prepare()
import torch
from torch.nn.utils import weight_norm
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
thread = threading.Thread(target=lambda: weight_norm(torch.nn.Linear(2, 2)))
thread.start(), thread.join()
warnings.warn("something else", FutureWarning)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "weight_norm" not in done.stderr and "something else" in done.stderr


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "passive"}, {"GOMP_SPINCOUNT": "7"}])
@pytest.mark.parametrize("start", ["import app as program", "import vampnet.cli as program"])
def test_how_threads_wait_is_settled_before_torch_is_there(start, given):
    code = f"""
import os, sys
{start}
assert "torch" not in sys.modules
from vampnet.program import wait_shortly
print(wait_shortly(), os.environ.get("GOMP_SPINCOUNT"))
import torch
print(wait_shortly())
"""
    before = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env={**before, **given}
    )
    told = "False " + str(given.get("GOMP_SPINCOUNT")) if given else "True 3000"
    assert done.stdout.split("\n")[:2] == [told, "False"]


# ----------------------------------------------------------------------------------------------------------------- warm-up


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was readied, in order."""
    found: list[str] = []
    monkeypatch.setattr(warm, "rehearse", lambda model: found.append(f"rehearse {model.name}"))
    monkeypatch.setattr(beats, "warm_up", lambda: found.append("beats"))
    monkeypatch.setattr(first_import, "prove", lambda: None)
    monkeypatch.setattr(warm, "POLL_SECONDS", 0.01)
    return found


def test_first_the_vamp_then_the_beats(order):
    shelf = ModelShelf(load=Loader())
    ready = threading.Thread(target=warm.warm_up, args=(shelf,), daemon=True)  # else a failure would never end
    ready.start()
    assert order == []  # there is no model yet
    shelf.start(str(ROOT / "checkpoints" / "mini"))
    ready.join(SECONDS)
    assert [words.split()[0] for words in order] == ["rehearse", "beats"]


def test_the_tracker_is_readied_when_nobody_vamps(order):
    shelf, go = ModelShelf(tiny_vampnet()), threading.Event()
    visitor = threading.Thread(target=shelf.use, args=(lambda model: go.wait(SECONDS),))
    visitor.start()
    ready = threading.Thread(target=warm.warm_up, args=(shelf,), daemon=True)  # else a failure would never end
    ready.start()
    ready.join(0.2)
    assert order == ["rehearse tiny"] and ready.is_alive() and not shelf.idle
    go.set()
    ready.join(SECONDS)
    visitor.join(SECONDS)
    assert order == ["rehearse tiny", "beats"] and shelf.idle


def test_without_a_model_or_with_a_broken_one_nothing_is_raised(order, monkeypatch):
    empty = ModelShelf()
    empty.task = None
    warm.warm_up(empty)
    assert order == []
    monkeypatch.setattr(warm, "rehearse", lambda model: 1 / 0)
    warm.warm_up(ModelShelf(tiny_vampnet()))
    assert order == ["beats"]


@pytest.mark.usefixtures("one_thread")
def test_the_rehearsal_is_a_vamp_and_leaves_the_next_as_it_is(tmp_path):
    handlers = Handlers(tiny_vampnet(), tmp_path)
    session = Session(handlers.files)
    handlers.shelf.use(warm.rehearse)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    assert "1 take is ready" in run_vamp(handlers, session)[-1][0]
    session.close()
    warm.rehearse(SimpleNamespace(elsewhere=True))  # nothing is asked of it


@pytest.mark.parametrize("crashes", [False, True])
def test_librosa_is_compiled_while_the_model_loads(order, monkeypatch, crashes):
    proved = threading.Event()

    def prove():
        proved.set()
        if crashes:
            raise ValueError("librosa crashes")

    monkeypatch.setattr(first_import, "prove", prove)
    shelf = ModelShelf(load=Loader())
    ready = threading.Thread(target=warm.warm_up, args=(shelf,), daemon=True)  # else a failure would never end
    ready.start()
    assert proved.wait(SECONDS) and order == [] and ready.is_alive()
    shelf.start(str(ROOT / "checkpoints" / "mini"))
    ready.join(SECONDS)
    assert len(order) == 2


@pytest.mark.parametrize("crashes", [False, True])
def test_the_command_compiles_vamps_and_beats(tmp_path, monkeypatch, capsys, crashes):
    done: list[str] = []

    def prove():
        done.append("beats")
        if crashes:
            raise ValueError("librosa crashes")

    monkeypatch.setattr(first_import, "prove", prove)
    monkeypatch.setattr(VampNet, "vamp", lambda model, *given, **options: done.append(f"vamp {model.device.type}"))
    status = cli.main(["compile", "--model", str(tiny_checkpoint(tmp_path / "tiny")), "--device", "cpu"])
    assert sorted(done) == ["beats", "vamp cpu"] and status == (2 if crashes else 0)
    said = capsys.readouterr().err
    assert ("error: librosa crashes" in said) == crashes and ("Compiled, in" in said) != crashes


def test_nothing_is_compiled_that_cannot_be_kept(monkeypatch, capsys):
    monkeypatch.setattr(first_import, "find_cache", lambda: None)
    assert cli.main(["compile"]) == 2
    assert "set NUMBA_CACHE_DIR to a folder that you may write to" in capsys.readouterr().err


@pytest.mark.parametrize("fails", ["rehearse", "find_checkpoint", ""])
def test_readying_the_tracker_imports_and_asks_for_weights_and_never_raises(monkeypatch, fails):
    done: list[str] = []

    def act(name):
        def do(*given):
            done.append(name)
            return 1 / 0 if name == fails else (None, "")

        monkeypatch.setattr(beats, name, do)

    act("rehearse")
    act("find_checkpoint")
    beats._warm_up(False)
    assert done == (["rehearse"] if fails == "rehearse" else ["rehearse", "find_checkpoint"])


def test_the_rehearsal_tracks_beats_and_finds_onsets(monkeypatch):
    done: list[str] = []
    monkeypatch.setattr(beats, "import_librosa", lambda: done.append("librosa") or pytest.importorskip("librosa"))
    beats.rehearse()
    assert done == ["librosa", "librosa"]
