"""Decoding steps that ask nothing back from the device: the same tokens as the steps of a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_vampnet
from token_models import TinyTransformer, random_mask, source
from torch.utils._python_dispatch import TorchDispatchMode

from vampnet import device_steps, generate
from vampnet.config import CancelledError, Sampling
from vampnet.model.fast import in_precision
from vampnet.sampling import take_generator

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "unique", "bincount")
"""Operations that a GPU cannot do without the computer waiting for it."""


class NothingWaits(TorchDispatchMode):
    """Refuses operations whose shapes or results the computer has to wait for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indexed = name in ("index", "index_put", "index_put_") and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        assert name not in WAITING and not indexed, name
        return func(*args, **(kwargs or {}))


def transformer(levels: int = 4, conditioning: int = 0) -> TinyTransformer:
    return TinyTransformer(levels, conditioning, 40)


def generators(count: int) -> list[torch.Generator]:
    return [take_generator(5, take) for take in range(count)]


def masks(count: int, levels: int = 4, conditioning: int = 0) -> torch.Tensor:
    """One mask an item, of different sizes, one of them of a single token and one of none."""
    made = torch.cat([random_mask(levels=levels, share=0.2 + 0.15 * item, seed=item) for item in range(count)])
    made[1] = False
    made[1, -1, 3] = True
    if count > 2:
        made[2] = False
    made[:, :conditioning] = False
    return made


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a device that answers late."""
    monkeypatch.setattr(generate, "answers_late", lambda device: True)


@pytest.mark.parametrize("wrap", [0, 4])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(), Sampling(temperature=0), Sampling(sample_cutoff=0.5), Sampling(top_k=5, mask_temperature=1.0),
        Sampling(top_p=0.7, temperature=0.8), Sampling(typical_mass=0.4), Sampling(sample_cutoff=0.0),
    ],
)  # fmt: skip
def test_the_tokens_are_those_of_the_cpu(sampling: Sampling, wrap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, mask = transformer(), source(4), masks(4)
    wanted = generate.fill(model, tokens, mask, 3, sampling, generators(4), wrap=wrap, batch=4)
    monkeypatch.setattr(generate, "answers_late", lambda device: True)
    for batch in (4, 3):
        given = generate.fill(model, tokens, mask, 3, sampling, generators(4), wrap=wrap, batch=batch)
        assert (given == wanted).float().mean() > 0.995 and torch.equal(given[~mask], tokens[~mask])
        if batch == 4:
            assert torch.equal(given, wanted)


def test_conditioning_levels_stay(late: None) -> None:
    model, tokens, mask = transformer(6, 2), source(2, 6), masks(2, 6, 2)
    filled = generate.fill(model, tokens, mask, 3, Sampling(), generators(2), batch=2)
    assert torch.equal(filled[:, :2], tokens[:, :2]) and filled.max() < 1024


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0), Sampling(top_p=0.5, top_k=9, typical_mass=0.5)])
def test_a_step_waits_for_nothing(sampling: Sampling, precision: str) -> None:
    model = in_precision(tiny_vampnet().coarse, precision, "cpu")
    step = device_steps.DeviceStep(model, sampling, (2, 4, 20), 3, torch.device("cpu"))
    step.take_over(torch.full((2, 4, 20), 1024), torch.ones(2, 4, 20, dtype=torch.bool))
    step.run()  # what is computed in advance may be looked at once
    with NothingWaits():
        step.run()
    with pytest.raises(AssertionError, match="nonzero|index"), NothingWaits():
        model(step.tokens, where=step.masked)


def test_logits_everywhere_are_those_that_are_asked_for() -> None:
    for precision in ("float32", "bfloat16"):
        model = in_precision(tiny_vampnet().coarse, precision, "cpu")
        tokens, where = source(2, 4, 20), torch.ones(2, 4, 20, dtype=torch.bool)
        torch.testing.assert_close(model(tokens)[where], model(tokens, where=where), rtol=1e-2, atol=1e-2)


def test_damaged_weights_are_told(late: None) -> None:
    model = transformer()
    model.head.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        generate.fill(model, source(), random_mask(), 3, Sampling(), generators(1))


def test_progress_is_counted_once_and_one_can_stop(late: None) -> None:
    model, tokens, mask = transformer(), source(3), masks(3)
    told: list[int] = []
    generate.fill(model, tokens, mask, 4, Sampling(), generators(3), batch=2, on_step=lambda *given: told.append(given[1]))
    assert told == [1, 2, 3, 4]
    with pytest.raises(CancelledError):
        generate.fill(model, tokens, mask, 4, Sampling(), generators(3), cancelled=lambda: True)


def test_a_whole_vamp_is_the_same(late: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_vampnet()
    tokens = source(1, model.fine.config.n_codebooks, 60)
    mask = random_mask(1, model.fine.config.n_codebooks, 60)
    sampling, takes = Sampling(steps=3, fine_steps=2, feedback=2), [(0, 0), (0, 1)]
    late_tokens = model.generate(tokens, mask, sampling, takes, batch=2)
    monkeypatch.setattr(generate, "answers_late", lambda device: False)
    assert torch.equal(late_tokens, model.generate(tokens, mask, sampling, takes, batch=2))


@cuda
def test_on_a_gpu_steps_are_recorded_once_and_give_the_tokens_of_the_cpu() -> None:
    model = tiny_vampnet().coarse
    tokens, mask, sampling = source(2, 4, 20), masks(2)[..., :20], Sampling(steps=6)
    wanted = generate.fill(model, tokens, mask, 6, sampling, generators(2), batch=2)
    on_gpu = model.to("cuda")
    device_steps.forget()
    for _ in range(2):
        given = generate.fill(on_gpu, tokens, mask, 6, sampling, generators(2), batch=2)
        assert (given == wanted).float().mean() > 0.98
    kept = device_steps._kept[on_gpu]
    assert len(kept) == 1 and next(iter(kept.values()))._run.__name__ == "replay"
    step = device_steps._step_for(on_gpu, replace(sampling, mask_temperature=0.0), (2, 4, 20), 0, torch.device("cuda:0"))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step._step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        step.busy.release()
    device_steps.forget()
    model.to("cpu")
