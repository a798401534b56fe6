"""Passes over memory between matrix products: torch's steps beside the formulas, and Triton's kernels beside torch's steps."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_vampnet

from vampnet import kernels
from vampnet.config import Sampling
from vampnet.model import fast
from vampnet.model.fast import in_precision
from vampnet.sampling import TRIES, choose


def cuda(test):
    """For tests that need a GPU, and are then run by `-m gpu`."""
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")(test))


BESIDE = """
import torch
from vampnet import kernels, triton_kernels
from vampnet.config import Sampling
from vampnet.sampling import choose, numbers_a_token

torch.manual_seed(0)
for rows, width in ((5, 1280), (3, 20), (1, 256)):
    x, more = torch.randn(rows, width), torch.randn(rows, width).bfloat16()
    for add in (None, more):
        ours, theirs, out = x.clone(), x.clone(), torch.full_like(x, torch.nan)
        triton_kernels.norm(ours, add, out, 1e-6)
        torch.testing.assert_close(out, kernels.normed(theirs, add, 1e-6, torch.float32))
        assert torch.equal(ours, theirs)
    x, out = 3 * torch.randn(rows, 2 * width), torch.full((rows, width), torch.nan)
    triton_kernels.gate(x, out)
    torch.testing.assert_close(out, kernels.gated(x))
    x = torch.randn(2, width, 1, 7).to(memory_format=torch.channels_last)
    alpha, bias = 3 * torch.rand(1, width, 1, 1), torch.randn(width)
    for add in (None, bias):
        out = torch.full_like(x, torch.nan)
        triton_kernels.snake(x, alpha, 1 / alpha, add, out)
        torch.testing.assert_close(out, kernels.snake(x, alpha, 1 / alpha, add))
    out, more = torch.full_like(x, torch.nan), torch.randn_like(x)
    triton_kernels.joined(x, bias, more, out)
    torch.testing.assert_close(out, kernels.joined(x, bias, more))
    x, alpha = x[:, :, 0].contiguous(), alpha[..., 0]
    out = torch.full_like(x, torch.nan)
    triton_kernels.snake(x, alpha, 1 / alpha, None, out)
    torch.testing.assert_close(out, kernels.snake(x, alpha, 1 / alpha))

for smoothing in (0.0, 0.1):
    for mass in (1.0, 0.6):
        for width in (1024, 40):
            sampling = Sampling(typical_mass=mass)
            numbers = numbers_a_token(sampling)
            u = torch.rand(3, 50) if numbers == 1 else torch.rand(3, 50, numbers)
            logits = 2 * torch.randn(3, 50, width)
            for typical in (None, (torch.rand(3, 1) < 0.5).expand(3, 50)):
                token, log_p = triton_kernels.draw(logits, u, smoothing, mass, typical)
                wanted, how_sure = choose(logits, u, sampling, smoothing, typical)
                same = token == wanted
                assert same.float().mean() > 0.98, (smoothing, mass, width, same.float().mean())
                torch.testing.assert_close(log_p[same], how_sure[same], atol=1e-5, rtol=1e-5)
token, log_p = triton_kernels.draw(torch.full((2, 40), torch.nan), torch.rand(2, 8), 0.1, 0.6)
assert (token < 40).all() and not log_p.isfinite().any()
"""


def test_the_steps_are_the_formulas() -> None:
    x, add = torch.randn(3, 8), torch.randn(3, 8).bfloat16()
    before = x.clone()
    out = kernels.normed(x, add, 0.1, torch.float32)
    assert torch.equal(x, before + add)
    torch.testing.assert_close(out, torch.nn.functional.rms_norm(before + add, (8,), eps=0.1))
    gate = torch.nn.functional.gelu(before[:, 4:], approximate="tanh")
    torch.testing.assert_close(kernels.gated(before), before[:, :4] * gate)
    image, alpha = torch.randn(2, 3, 1, 5), torch.tensor([0.5, 1.0, 2.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(kernels.snake(image, alpha, 1 / alpha), image + torch.sin(alpha * image) ** 2 / alpha)
    assert kernels.snake(image.bfloat16(), alpha, 1 / alpha).dtype == torch.bfloat16
    bias, more = torch.randn(3), torch.randn(2, 3, 1, 5)
    shifted = image + bias.view(3, 1, 1)
    torch.testing.assert_close(kernels.snake(image, alpha, 1 / alpha, bias), kernels.snake(shifted, alpha, 1 / alpha))
    torch.testing.assert_close(kernels.joined(image, bias, more), shifted + more)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_fused_passes_are_the_steps() -> None:
    """By Triton's interpreter, which must be asked for before anything is compiled: in a process of its own."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run([sys.executable, "-c", BESIDE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@cuda
def test_fused_passes_are_the_steps_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    assert kernels._fused(torch.empty(0, device="cuda").device) is not None
    x, add = torch.randn(7, 1280, device=device), torch.randn(7, 1280, device=device).bfloat16()
    image = torch.randn(2, 24, 1, 1000, device=device).to(memory_format=torch.channels_last)
    alpha = 3 * torch.rand(1, 24, 1, 1, device=device)
    bias, more = torch.randn(24, device=device), torch.randn_like(image)

    def passes(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        return (
            kernels.normed(x.clone(), add, 1e-6, dtype),
            kernels.gated(x.to(dtype)),
            kernels.snake(image.to(dtype), alpha, 1 / alpha, bias),
            kernels.joined(image.to(dtype), bias, more.to(dtype)),
        )

    for dtype in (torch.float32, torch.bfloat16):
        fused = passes(dtype)
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "_fused", lambda device: None)
            plain = passes(dtype)
        for ours, theirs in zip(fused, plain, strict=True):
            torch.testing.assert_close(ours, theirs)
    logits, u = 2 * torch.randn(500, 1024, device=device), torch.rand(500, TRIES, device=device)
    some, first = (torch.rand(500, 1, device=device) < 0.5)[:, 0], u[:, 0].contiguous()
    for numbers, sampling, typical in ((u, Sampling(), None), (u, Sampling(), some), (first, Sampling(typical_mass=1.0), None)):
        token, log_p = kernels.chosen(logits, numbers, sampling, 0.1, typical)
        wanted, how_sure = choose(logits, numbers, sampling, 0.1, typical)
        same = token == wanted
        assert same.float().mean() > 0.98
        torch.testing.assert_close(log_p[same], how_sure[same], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", ["coarse", "fine"])
def test_layers_in_passes_are_the_layers(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "fast_bfloat16", lambda: True)  # as a GPU is, whatever this CPU can do
    model = in_precision(getattr(tiny_vampnet(), which), "bfloat16", "cpu")
    tokens = torch.randint(0, 1025, (2, model.config.n_codebooks, 20))
    wanted = model(tokens)
    monkeypatch.setattr(fast, "answers_late", lambda device: True)
    given = model(tokens)
    assert given.shape == wanted.shape and not torch.equal(given, torch.zeros_like(given))
    torch.testing.assert_close(given, wanted, rtol=2e-2, atol=2e-2)
