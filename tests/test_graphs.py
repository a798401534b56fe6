"""Recordings, where there is nothing to record; what a GPU does with them is tested with what uses them."""

from __future__ import annotations

import copy

import torch

from vampnet import graphs


def test_elsewhere_work_is_done_at_once() -> None:
    recordings, seen = graphs.Recordings(), []

    def work(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x + 1

    x = torch.zeros(3)
    for _ in range(3):
        assert torch.equal(recordings("more", work, x), x + 1)
    assert len(seen) == 3 and all(given is x for given in seen)
    assert not recordings.forget() and not graphs.forget_recordings()


def test_a_copy_has_recordings_of_its_own() -> None:
    recordings = graphs.Recordings()
    recordings._kept["key"] = graphs._Entry()
    assert not copy.deepcopy(recordings)._kept and recordings._kept


def test_what_cannot_be_recorded_is_told_once(monkeypatch, caplog) -> None:
    def refuse(work, device):
        raise RuntimeError("no graphs here")

    monkeypatch.setattr(graphs, "Recording", refuse)
    monkeypatch.setattr(graphs, "_refused", False)
    for _ in range(2):
        assert graphs.recorded(lambda: None, torch.device("cpu")) is None
    assert graphs.refused() and caplog.text.count("no graphs here") == 1
