"""Large arrays lie in files: what they hold stays, what the process holds in memory does not grow with them."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from vampnet import scratch
from vampnet.bench.memory import resident

N = scratch.LEAST // 4
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="files get their room beforehand on Linux alone")


def files() -> int:
    gc.collect()
    return len(scratch._sweeper.maps)


def within(seconds: float, holds) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


@linux
def test_large_arrays_lie_in_files_and_small_ones_in_memory():
    before = files()
    small, large = scratch.empty(2, N // 2 - 1), scratch.empty(2, N // 2)
    assert files() == before + 1
    assert small.shape == (2, N // 2 - 1) and large.shape == (2, N // 2)
    assert large.dtype == torch.float32 and large.is_contiguous()
    wide = scratch.zeros(3, N // 2, dtype=torch.float64)
    assert files() == before + 2 and wide.dtype == torch.float64 and not wide.any()
    del large, wide
    assert files() == before


@linux
def test_what_was_written_stays_when_its_pages_are_taken_out():
    x = scratch.empty(20, N)
    want = torch.arange(20 * N, dtype=torch.float32).view(20, N)
    x.copy_(want)
    for _ in range(3):
        scratch.sweep()
        assert torch.equal(x, want)
        x += 1
        want += 1


@linux
def test_memory_does_not_grow_by_them():
    before = resident()
    x = scratch.empty(64, N).fill_(1.0)  # 256 MB
    assert within(10, lambda: resident() < before + 32e6), (before, resident())
    assert float(x.sum()) == 64 * N
    y = scratch.copy(x)
    assert within(10, lambda: resident() < before + 32e6) and torch.equal(x[:, -1], y[:, -1])


@linux
def test_parts_are_taken_out_at_once(monkeypatch):
    monkeypatch.setattr(scratch._Sweeper, "_run", lambda self: None)
    monkeypatch.setattr(scratch, "_sweeper", scratch._Sweeper())
    x, before, most = scratch.empty(2, 32 * N), resident(), 0
    for part in scratch.parts(x):
        part.fill_(2.0)
        most = max(most, resident())
    assert most < before + 16 * scratch.PART and float(x.min()) == 2.0
    x.fill_(1.0)
    assert resident() > before + 0.9 * x.nbytes  # nobody has looked after it
    scratch.sweep()
    assert resident() < before + 16 * scratch.PART


@pytest.mark.parametrize(
    "x", [torch.rand(3, 2_000_000), torch.rand(1_000_001), torch.rand(1, 2, 5), torch.rand(500_000, 3).T, torch.rand(2, 0)]
)
def test_parts_are_all_of_a_tensor_in_order(x):
    assert torch.equal(torch.cat(list(scratch.parts(x)), dim=-1), x)
    made = scratch.copy(x)
    assert torch.equal(made, x) and made.is_contiguous() and (x.numel() == 0 or made.data_ptr() != x.data_ptr())


@linux
@pytest.mark.parametrize(
    "how", ["a full disk", "a disk that has no room after all", "no folder", "a folder that cannot be written to", "no mmap"]
)
def test_without_room_they_lie_in_plain_memory(how, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    if how == "a full disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=scratch.SPARE + 4 * N - 1))
    elif how == "a disk that has no room after all":
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    elif how == "no folder":
        monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    elif how == "a folder that cannot be written to":
        monkeypatch.setattr(scratch.tempfile, "TemporaryFile", refuse)
    else:
        monkeypatch.setattr(scratch.mmap, "mmap", refuse)
    before = files()
    assert not scratch.zeros(N).any() and scratch.empty(N).fill_(3.0).sum() == 3.0 * N
    assert files() == before


@linux
def test_files_have_no_names(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    x = scratch.empty(N).fill_(1.0)
    assert list(tmp_path.iterdir()) == [] and float(x[5]) == 1.0
    with open("/proc/self/maps") as maps:
        assert any(str(tmp_path) in line for line in maps)  # it does lie there


@linux
def test_the_thread_goes_with_the_last_array_and_comes_with_the_next():
    held = scratch.empty(N)
    first = scratch._sweeper.thread
    assert first is not None and first.is_alive()
    del held
    assert files() > 0 or within(5, lambda: scratch._sweeper.thread is None)
    held = scratch.empty(N)
    assert held.numel() == N and scratch._sweeper.thread is not None and scratch._sweeper.thread.is_alive()


@linux
def test_it_sleeps_where_nothing_is_done(monkeypatch):
    sweeps, sweeper = [], scratch._Sweeper()
    monkeypatch.setattr(scratch, "_sweeper", sweeper)
    monkeypatch.setattr(sweeper, "sweep", lambda: sweeps.append(time.process_time()))
    held = scratch.empty(N)
    time.sleep(1.5)
    idle = len(sweeps)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        held[:100].sum()
    assert idle < 40 < 2 * 40 < len(sweeps) - idle
    sweeper.stop()
    assert not any(thread.name == "scratch" and thread is sweeper.thread for thread in scratch.threading.enumerate())


FORKED = """
import os, torch
torch.set_num_threads(1)  # those of others do not come along
from vampnet import scratch
x = scratch.empty(1 << 22).fill_(0.5)
pid = os.fork()
if pid == 0:
    scratch.sweep()
    y = scratch.copy(x)
    os._exit(7 if float(y.sum()) == 1 << 21 and scratch._sweeper.thread.is_alive() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7 and float(x.sum()) == 1 << 21
"""


@linux
def test_a_forked_process_goes_on_with_them():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""


@linux
@pytest.mark.parametrize("end", ["pass", "raise SystemExit(0)", "import os; os.kill(os.getpid(), 15)"])
def test_a_program_ends_as_it_would_without_them(end):
    code = f"from vampnet import scratch\nx = scratch.empty(1 << 22).fill_(1.0)\n{end}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == (-15 if "kill" in end else 0) and done.stderr == ""
