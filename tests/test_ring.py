"""Rings of other lengths: resampled around, exactly."""

from __future__ import annotations

import pytest
import torch

from vampnet.ring import ring_resample, whole_steps

HOP = 768


@pytest.mark.parametrize(("length", "samples"), [(88_773, 89_088), (88_773, 88_320), (4_410, 4_608), (1000, 999), (7, 12)])
def test_a_ring_is_resampled_exactly(length, samples):
    """Against the same trigonometric polynomial sampled at the other points."""
    generator = torch.Generator().manual_seed(0)
    harmonics = torch.arange(1, min(length, samples, 400) // 2)
    weight, phase = torch.randn(2, len(harmonics), generator=generator, dtype=torch.float64)

    def ring(n):
        turn = torch.arange(0, n, max(1, n // 500), dtype=torch.float64) / n
        return (weight * torch.cos(2 * torch.pi * turn[:, None] * harmonics + phase)).sum(1)

    n = torch.arange(length, dtype=torch.float64) / length
    x = sum(w * torch.cos(2 * torch.pi * n * h + p) for w, h, p in zip(weight, harmonics, phase, strict=True))
    y = ring_resample(x[None].float(), samples)
    assert y.shape == (1, samples) and y.dtype == torch.float32
    assert torch.allclose(y[0, :: max(1, samples // 500)].double(), ring(samples), atol=1e-4 * float(x.abs().max()))
    assert torch.allclose(ring_resample(y, length)[0].double(), x, atol=1e-4 * float(x.abs().max()))


@pytest.mark.parametrize(("length", "samples"), [(10, 14), (10, 15), (9, 14), (9, 15)])
def test_longer_rings_lose_nothing_and_shorter_ones_keep_what_fits(length, samples):
    x = torch.randn(2, 3, length, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.allclose(ring_resample(ring_resample(x, samples), length), x)
    down = ring_resample(torch.ones(1, samples, dtype=torch.float64), length)
    assert torch.allclose(down, torch.ones_like(down))
    fits = ring_resample(x, samples)
    assert torch.allclose(ring_resample(ring_resample(fits, length), samples), fits)


def test_whole_steps_is_the_nearest_multiple():
    for samples in range(1, 4000, 7):
        found = whole_steps(samples, HOP)
        assert found % HOP == 0 and found >= HOP
        assert abs(found - samples) <= HOP / 2 or found == HOP
    with pytest.raises(ValueError, match="at least 1 sample"):
        ring_resample(torch.zeros(1, 0), 5)
