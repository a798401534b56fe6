"""What codecs are judged by."""

from __future__ import annotations

import pytest
import torch

from vampnet.evaluate.metrics import mel_distance, partials, perplexity

RATE = 44_100


@pytest.fixture(scope="module")
def note() -> torch.Tensor:
    t = torch.arange(2 * RATE) / RATE
    return sum(torch.sin(2 * torch.pi * 220 * k * t) / k for k in range(1, 20)) * 0.2 + torch.randn(len(t)) * 1e-3


def filtered_noise(audio: torch.Tensor) -> torch.Tensor:
    """Noise with the envelope of the audio's spectrum, without its partials."""
    spec = torch.fft.rfft(audio)
    level = torch.nn.functional.avg_pool1d(spec.abs()[None, None], 2001, 1, 1000, count_include_pad=False)[0, 0]
    return torch.fft.irfft(torch.polar(level, torch.rand_like(level) * 6.28), n=len(audio))


def test_mel_distance_is_a_distance_in_decades_at_two_scales(note):
    assert mel_distance(note[None], note[None], RATE) == 0
    # 6 dB are 0.301 decades at each of the two scales.
    assert mel_distance(note[None], 2 * note[None], RATE) == pytest.approx(0.602, abs=0.01)
    with pytest.raises(ValueError, match="equal shape"):
        mel_distance(note[None], note[None, 1:], RATE)


def test_partials_tell_notes_from_noise(note):
    assert partials(note, note) == pytest.approx(1, abs=1e-4)
    assert partials(note, 0.1 * note) > 0.95
    assert abs(partials(note, filtered_noise(note))) < 0.15
    assert partials(note, torch.roll(note, 30_000)) > 0.6
    with pytest.raises(ValueError, match="4096"):
        partials(note[:4000], note[:4000])


def test_perplexity_counts_codes_in_use():
    codes = torch.zeros(2, 2, 512, dtype=torch.long)
    codes[:, 1] = torch.arange(1024).view(2, 512)
    assert perplexity(codes, 1024) == pytest.approx([1.0, 1024.0])
