"""What a codec is judged by: mel distance, partials, codebook use."""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from ..first_import import import_librosa


def mel_distance(reference: Tensor, estimate: Tensor, sample_rate: int) -> float:
    """Multi-scale mel distance of the paper (section 5.2): the L1 distance of log10 mel spectrograms, summed over two scales.

    Windows 2048 and 512 with 150 and 80 mel bands, as `audiotools.metrics.spectral.MelSpectrogramLoss` computes them
    (magnitudes, floor 1e-5), without the term on magnitudes that are not logarithms.

    Args:
        reference, estimate: (C, N) float samples of equal shape.
        sample_rate: Hz.

    Returns:
        the distance; 0 = the same spectrogram, 0.4 = 4 dB on the average at both scales.

    Raises:
        ValueError: the shapes differ.
    """
    from audiotools import AudioSignal
    from audiotools.metrics.spectral import MelSpectrogramLoss

    _same_shape(reference, estimate)
    import_librosa()  # whose mel bands audiotools takes
    loss = MelSpectrogramLoss(
        n_mels=[150, 80], window_lengths=[2048, 512], mel_fmin=[0.0, 0.0], mel_fmax=[None, None], pow=1.0, mag_weight=0.0
    )
    signals = [AudioSignal(x[None].float().cpu(), sample_rate) for x in (reference, estimate)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # audiotools says of every second scale that it is another one
        return float(loss(*signals))


def partials(reference: Tensor, estimate: Tensor) -> float:
    """Do the same partials sound? Correlation of the fine structure of two log spectra.

    |STFT| with a Hann window of 4096 and a hop of 1024, bins 0 to 1023, log(x + 1e-3), less its moving average over 41 bins of
    frequency, both signals at equal RMS and the reference at a peak of 0.7. Mel distance alone does not hear the difference
    between a note and noise filtered to its envelope; this does.

    Args:
        reference, estimate: (N,) float samples of equal length, at least 4096.

    Returns:
        1 = the same partials, 0 = noise in their place.

    Raises:
        ValueError: the shapes differ or the signals are too short.
    """
    _same_shape(reference, estimate)
    if reference.ndim != 1 or reference.shape[0] < 4096:
        raise ValueError(
            f"partials() compares two signals of shape (samples,) with at least 4096 samples, not {tuple(reference.shape)}."
        )
    reference = reference.float() * (0.7 / reference.abs().max().clamp_min(1e-9))
    estimate = estimate.float() * (reference.square().mean() / estimate.square().mean().clamp_min(1e-12)).sqrt()
    a, b = (_fine_structure(x) for x in (reference, estimate))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-9))


def _fine_structure(audio: Tensor) -> Tensor:
    """(N,) -> (frames, 1024) log magnitudes without their moving average over frequency."""
    window = torch.hann_window(4096, device=audio.device)
    logs = torch.log(torch.stft(audio, 4096, 1024, window=window, return_complex=True).abs()[:1024] + 1e-3).T
    smooth = F.avg_pool1d(F.pad(logs[:, None], (20, 20), mode="reflect"), 41, stride=1)[:, 0]
    return logs - smooth


def perplexity(codes: Tensor, codebook_size: int) -> list[float]:
    """Effective number of codes in use at every level.

    Args:
        codes: (B, K, T) int64.
        codebook_size: codes of a level.

    Returns:
        K floats: 2 to the entropy in bits; `codebook_size` = all codes equally often.
    """
    out = []
    for level in range(codes.shape[1]):
        share = torch.bincount(codes[:, level].flatten(), minlength=codebook_size).double()
        share = share[share > 0] / share.sum()
        out.append(math.exp(float(-(share * share.log()).sum())))
    return out


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"Two signals of equal shape are compared, not {tuple(a.shape)} and {tuple(b.shape)}.")
