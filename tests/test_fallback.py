"""Too little memory: fewer items at a time, then the CPU, a word about it, and the same takes."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

import pytest
import torch
from tiny import tiny_models, tiny_vampnet
from torch import nn

from vampnet import fallback
from vampnet.cli import main
from vampnet.config import Prompt, Sampling
from vampnet.fallback import MemoryShortage, on_cpu, within_memory
from vampnet.model.fast import in_precision
from vampnet.model.half import HalfLinear
from vampnet.pipeline import VampNet
from vampnet.progress import SENTENCES, MemoryWarning, told_by

QUICK = Sampling(steps=2, fine_steps=1)
CPU_WORDS = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB"
pytestmark = pytest.mark.usefixtures("one_thread")


class Small(nn.Module):
    """A model on a device that holds `most` items; its copy on the CPU holds any number."""

    def __init__(self, model: nn.Module, most: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.model, self.most, self.error = model, most, error
        self.sizes: list[int] = []
        self.eval()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def _checked(self, items: int) -> None:
        self.sizes.append(items)
        if items > self.most:
            raise self.error(CPU_WORDS if self.error is RuntimeError else "CUDA out of memory. Tried to allocate 9 GiB")

    def forward(self, tokens: torch.Tensor, where: torch.Tensor, ring: bool = False) -> torch.Tensor:
        self._checked(len(tokens))
        return self.model(tokens, where=where, ring=ring)

    def decode(self, codes: torch.Tensor, **how: Any) -> torch.Tensor:
        self._checked(len(codes))
        return self.model.decode(codes, **how)

    def encode(self, audio: torch.Tensor, loop: bool = False) -> torch.Tensor:
        self._checked(len(audio))
        return self.model.encode(audio, loop=loop)


def small_vampnet(codec: int, coarse: int, fine: int, error: type[Exception] = torch.OutOfMemoryError) -> VampNet:
    parts = (Small(model, most, error) for model, most in zip(tiny_models(), (codec, coarse, fine), strict=True))
    return VampNet(*parts, name="small")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process as large as that of tests, collecting garbage takes a while."""
    monkeypatch.setattr(fallback, "release", lambda: None)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Small` models count as being on another device, and their copies on the CPU are what is in them."""
    plain = fallback.within_memory

    def pretend(work: Any, models: Any, device: Any, batch: int = 1) -> Any:
        return plain(lambda models, device, batch: work(models, torch.device("cpu"), batch), models, "meta", batch)

    monkeypatch.setattr("vampnet.stages.within_memory", pretend)
    monkeypatch.setattr(fallback, "on_cpu", lambda model: model.model)


@pytest.fixture
def clip(make_music):
    return torch.from_numpy(make_music(0.5)), 44_100


def test_the_batch_is_halved_until_it_fits():
    seen, told = [], []

    def work(models, device, batch):
        seen.append(batch)
        if batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return models, device, batch

    with told_by(told.append):
        assert within_memory(work, ("model",), "cpu", 9) == (("model",), torch.device("cpu"), 2)
    assert seen == [9, 4, 2] and told == ["batch", "batch"]


def test_what_is_kept_for_later_goes_first_and_nobody_is_told(monkeypatch):
    kept = [True, True, False]  # whether there was something
    monkeypatch.setattr(fallback, "release", lambda: kept.pop(0))
    sizes, told = [], []

    def work(models, device, batch):
        sizes.append(batch)
        if len(sizes) < 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    with told_by(told.append):
        assert within_memory(work, (), "cpu", 8) == "done"
    # Only once: what is kept anew in the next attempt is no reason for a third one alike.
    assert sizes == [8, 8, 4, 2] and told == ["batch", "batch"]


def test_a_copy_on_a_cpu_that_is_slow_in_bfloat16_computes_in_float32(monkeypatch):
    model = in_precision(tiny_models()[1], "bfloat16", "cpu")
    tokens = torch.randint(0, 1024, (1, 4, 20), generator=torch.Generator().manual_seed(0))
    for fast in (True, False):
        monkeypatch.setattr(fallback, "fast_bfloat16", lambda fast=fast: fast)
        moved = on_cpu(model)
        types = {part.weight.dtype for part in moved.modules() if isinstance(part, HalfLinear)}
        assert types == {torch.bfloat16 if fast else torch.float32}
        torch.testing.assert_close(moved(tokens), model(tokens), rtol=0.05, atol=0.05)


def test_a_copy_leaves_behind_what_was_computed_in_advance():
    """It would be copied where it lies: on the device that has no memory left."""
    model = in_precision(tiny_models()[1], "bfloat16", torch.device("cpu"))
    model(torch.zeros(1, model.config.n_codebooks, 20, dtype=torch.int64))
    assert model.constants()
    assert not on_cpu(model).constants() and not model.constants()


def test_then_the_cpu_computes_and_then_it_is_a_sentence():
    model, told, seen = nn.Linear(2, 2, device="cpu"), [], []

    def work(models, device, batch):
        seen.append((device.type, batch, models[0] is model))
        raise RuntimeError(CPU_WORDS)

    with told_by(told.append), pytest.raises(MemoryShortage, match="close other programs, or use a shorter clip"):
        within_memory(work, (model,), "meta", 2)
    assert seen == [("meta", 2, True), ("meta", 1, True), ("cpu", 1, False)] and told == ["batch", "cpu"]


def test_other_errors_are_not_taken_for_it():
    calls = []

    def work(models, device, batch):
        calls.append(batch)
        raise RuntimeError("size mismatch")

    with warnings.catch_warnings(), pytest.raises(RuntimeError, match="size mismatch"):
        warnings.simplefilter("error")
        within_memory(work, (), "cpu", 8)
    assert calls == [8]


def test_what_a_failed_attempt_held_is_gone_before_the_next():
    refs = []

    def work(models, device, batch):
        if batch == 2:
            held = torch.zeros(3)
            refs.append(weakref.ref(held))
            raise MemoryError
        return refs[0]()

    with told_by(lambda kind: None):
        assert within_memory(work, (), "cpu", 2) is None


def test_a_copy_on_the_cpu_is_of_the_same_weights_and_the_model_stays():
    _, coarse, _ = tiny_models()
    copied = on_cpu(coarse)
    tokens = torch.randint(0, 1024, (1, 4, 20))
    with torch.no_grad():
        assert torch.equal(copied(tokens), coarse(tokens))
    ours = dict(coarse.named_parameters())
    assert all(p is not ours[name] and p.data_ptr() != ours[name].data_ptr() for name, p in copied.named_parameters())
    assert copied.config == coarse.config and not copied.training


def test_takes_are_the_same_with_a_smaller_batch(clip):
    wanted = tiny_vampnet().vamp(clip, Prompt(), QUICK, 4, 3)
    tight = small_vampnet(1, 2, 1)
    with pytest.warns(MemoryWarning, match="fewer takes at a time"):
        made = tight.vamp(clip, Prompt(), QUICK, 4, 3, batch=4)
    assert torch.equal(made.tokens, wanted.tokens)
    # Four did not fit, two did not fit into the fine model, one does; in the first step one is asked for all takes.
    together = [items for items in tight.coarse.sizes if items > 1]
    assert together[0] == 4 and 2 in together and tight.fine.sizes[:1] == [2] and tight.fine.sizes[-1] == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_every_stage_falls_back_to_the_cpu(clip, elsewhere, error):
    wanted = tiny_vampnet().vamp(clip, Prompt(), QUICK, 2, 3)
    tight, told = small_vampnet(0, 0, 0, error), []
    with told_by(told.append):
        made = tight.vamp(clip, Prompt(), QUICK, 2, 3, batch=2)
    assert torch.equal(made.tokens, wanted.tokens)
    assert all(torch.equal(a.audio_data, b.audio_data) for a, b in zip(made.takes, wanted.takes, strict=True))
    assert told == ["cpu", "batch", "cpu", "cpu", "cpu"]  # listening, generating, and two takes to render


def test_the_command_line_says_so_and_writes_the_takes(clip, elsewhere, monkeypatch, music_file, tmp_path, capsys):
    monkeypatch.setattr(VampNet, "from_pretrained", lambda *args, **options: small_vampnet(1, 0, 1))
    line = ["vamp", str(music_file), "-o", str(tmp_path), "--takes", "1", "--steps", "1", "--fine-steps", "1"]
    assert main([*line, "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == f"warning: {SENTENCES['cpu']}\n" and len(said.out.splitlines()) == 1
