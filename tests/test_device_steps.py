"""Decoding steps that ask nothing back from the device: the same tokens as the steps of a CPU."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from tiny import distilled_transformer, tiny_vampnet
from token_models import TinyTransformer, random_mask, source
from torch.utils._python_dispatch import TorchDispatchMode

from vampnet import decoding, device_steps, graphs, kernels
from vampnet import sampling as sampling_module
from vampnet.config import CancelledError, Sampling
from vampnet.model.fast import in_precision
from vampnet.sampling import take_generator


def cuda(test):
    """For tests that need a GPU, and are then run by `-m gpu`."""
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")(test))


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
    monkeypatch.setattr(decoding, "answers_late", lambda device: True)


def draw_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling_module, "draw_typical", partial(sampling_module.draw_typical, look=False))


@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(), Sampling(temperature=0), Sampling(sample_cutoff=0.5), Sampling(top_k=5, mask_temperature=1.0),
        Sampling(top_p=0.7, temperature=0.8), Sampling(typical_mass=0.4), Sampling(typical_mass=0.5),
        Sampling(sample_cutoff=0.0),
    ],
)  # fmt: skip
def test_the_tokens_are_those_of_the_cpu(sampling: Sampling, ring: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, mask = transformer(), source(4), masks(4)
    wanted = decoding.fill(model, tokens, mask, 3, sampling, generators(4), ring=ring, batch=4)
    monkeypatch.setattr(decoding, "answers_late", lambda device: True)
    draw_as_on_a_gpu(monkeypatch)
    for batch in (4, 3):
        given = decoding.fill(model, tokens, mask, 3, sampling, generators(4), ring=ring, batch=batch)
        assert (given == wanted).float().mean() > 0.995 and torch.equal(given[~mask], tokens[~mask])
        if batch == 4:
            assert torch.equal(given, wanted)


def test_conditioning_levels_stay(late: None) -> None:
    model, tokens, mask = transformer(6, 2), source(2, 6), masks(2, 6, 2)
    filled = decoding.fill(model, tokens, mask, 3, Sampling(), generators(2), batch=2)
    assert torch.equal(filled[:, :2], tokens[:, :2]) and filled.max() < 1024


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(guidance=0.5), Sampling(temperature=0), Sampling(top_p=0.5, top_k=9, typical_mass=0.5)]
)
def test_a_step_waits_for_nothing(sampling: Sampling, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_as_on_a_gpu(monkeypatch)
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
        decoding.fill(model, source(), random_mask(), 3, Sampling(), generators(1))


def test_progress_is_counted_once_and_one_can_stop(late: None) -> None:
    model, tokens, mask = transformer(), source(3), masks(3)
    told: list[int] = []
    decoding.fill(model, tokens, mask, 4, Sampling(), generators(3), batch=2, on_step=lambda *given: told.append(given[1]))
    assert told == [1, 2, 3, 4]
    with pytest.raises(CancelledError):
        decoding.fill(model, tokens, mask, 4, Sampling(), generators(3), cancelled=lambda: True)


def test_a_whole_vamp_is_the_same(late: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_vampnet()
    tokens = source(1, model.fine.config.n_codebooks, 60)
    mask = random_mask(1, model.fine.config.n_codebooks, 60)
    sampling, takes = Sampling(steps=3, fine_steps=2, feedback=2), [(0, 0), (0, 1)]
    late_tokens = model.generate(tokens, mask, sampling, takes, batch=2)
    monkeypatch.setattr(decoding, "answers_late", lambda device: False)
    assert torch.equal(late_tokens, model.generate(tokens, mask, sampling, takes, batch=2))


def test_a_step_is_kept_until_the_weights_change_or_memory_is_wanted(late: None) -> None:
    device_steps.forget()
    model, tokens, mask = transformer(), source(), random_mask()

    def fill(**changes: float) -> None:
        decoding.fill(model, tokens, mask, 3, Sampling(**changes), generators(1))

    def kept() -> int:
        return len(device_steps._kept.get(model, ()))

    fill()
    fill(mask_temperature=3.0)  # the same step
    assert kept() == 1 and not any(step.busy.locked() for step in device_steps._kept[model].values())
    fill(temperature=0.5)
    fill(temperature=0.0, top_k=3)
    fill(temperature=0.0)  # filters change nothing there
    assert kept() == 3
    with torch.no_grad():
        model.head.weight.mul_(1.0)
    fill()
    assert kept() == 4
    fill(top_k=7)
    assert kept() == device_steps.KEPT_GRAPHS
    assert device_steps.forget() and not device_steps.forget()
    with pytest.raises(CancelledError):
        decoding.fill(model, tokens, mask, 3, Sampling(), generators(1), cancelled=iter([False, True, True]).__next__)
    assert not any(step.busy.locked() for step in device_steps._kept[model].values())
    device_steps.forget()


@cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(), Sampling(guidance=0.75), Sampling(temperature=0),
        Sampling(top_k=9, top_p=0.9, typical_mass=0.5, sample_cutoff=0.5),
    ],
)  # fmt: skip
def test_on_a_gpu_steps_are_recorded_and_give_the_tokens_of_the_cpu(
    sampling: Sampling, taught: bool, ring: bool, precision: str
) -> None:
    tokens, mask, steps = source(2, 4, 20), masks(2)[..., :20], device_steps.WORTH_RECORDING
    coarse = distilled_transformer(1) if taught else tiny_vampnet().coarse
    models = in_precision(coarse, precision, "cpu"), in_precision(coarse, precision, "cpu")
    wanted = decoding.fill(copy.deepcopy(models[0]), tokens, mask, steps, sampling, generators(2), ring=ring, batch=2)
    model = copy.deepcopy(models[1]).to("cuda")
    for _ in range(2):
        given = decoding.fill(model, tokens, mask, steps, sampling, generators(2), ring=ring, batch=2)
        assert (given == wanted).float().mean() > (0.98 if precision == "float32" else 0.8)
    kept = device_steps._kept[model]
    assert any(step.recorded for step in kept.values()) and not graphs.refused()
    step = next(iter(kept.values()))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step._step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    device_steps.forget()


@cuda
def test_a_step_that_cannot_be_recorded_is_done_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, mask = transformer().to("cuda"), source(), random_mask()
    wanted = decoding.fill(model, tokens, mask, 9, Sampling(), generators(1))
    device_steps.forget()
    monkeypatch.setattr(graphs, "_refused", False)
    chosen = kernels.chosen

    def waits(logits: torch.Tensor, *rest: Any) -> Any:
        if torch.cuda.is_current_stream_capturing():
            float(logits.sum())
        return chosen(logits, *rest)

    monkeypatch.setattr(kernels, "chosen", waits)
    assert torch.equal(decoding.fill(model, tokens, mask, 9, Sampling(), generators(1)), wanted)
    assert graphs.refused() and torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.randn(3, device="cuda").isfinite().all()  # its generator is free again
    device_steps.forget()
    before = torch.cuda.memory_reserved()
    large = torch.empty(64 << 20, device="cuda")
    del large
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before
