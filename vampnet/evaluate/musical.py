"""What a musician would notice: pulse, harmony, attacks, loudness, balance, the seam of a loop, and how unlike the takes are.

`hear` analyses a clip once; `compare` sets a take beside its source. All times in seconds, levels in dB.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..first_import import import_librosa
from .extras import need
from .metrics import mel_distance, partials
from .tempo import pulse, tempo_drift

ONSET_WINDOW = 0.05
BEAT_WINDOW = 0.07
"""Seconds that a beat may lie beside one of the source, the usual tolerance of mir_eval."""
BANDS_HZ = 1000 * 2.0 ** (np.arange(-13, 13) / 3)
"""Centres of the third octaves from 50 Hz to 16 kHz (IEC 61260, base 2)."""
AUDIBLE_DB = 60.0
CHROMA_FFT = 8192

FIGURES = {
    "mel": "multi-scale mel distance, 0 = the same",
    "partials": "the same partials, 1 = all, 0 = noise in their place",
    "beat_f": "beats on those of the source, 1 = all (F-measure, 70 ms)",
    "tempo_drift": "local tempo off the source's, percent; 19 = another rhythm",
    "onset_f": "attacks on those of the source, 1 = all (F-measure, 50 ms)",
    "chroma": "likeness of the harmony, 1 = the same, 0 = unrelated",
    "loudness": "louder than the source, dB",
    "balance": "spectral balance off the source's, dB (third octaves)",
    "takes_mel": "mel distance of the takes among themselves",
    "takes_tokens": "share of the made tokens in which two takes differ",
    "seam_step": "jump at the seam, 1 = the largest inside",
    "seam_flux": "change of the spectrum at the seam, 1 = the largest hundredth inside",
    "kbps": "kilobits a second that stayed",
    "seconds": "seconds of computing a take",
}
"""Figures that a result may hold, with what they say."""


@dataclass(frozen=True, eq=False)
class Heard:
    """A clip as a musician hears it.

    Attributes:
        audio: (N,) float32 at `rate` Hz.
        beats, onsets: seconds, rising.
        pulse: (frames,) see `tempo.pulse`.
        chroma: (12, frames), each less its mean over the twelve.
        energy: (frames,) of the same frames.
        bands: (26,) level of the third octaves in dB, relative to their sum.
        lufs: loudness.
    """

    audio: Tensor
    rate: int
    beats: tuple[float, ...]
    onsets: tuple[float, ...]
    pulse: np.ndarray
    chroma: np.ndarray
    energy: np.ndarray
    bands: np.ndarray
    lufs: float


def hear(audio: Tensor, rate: int, engine: str = "auto") -> Heard:
    """Analyses (N,) float samples; `engine` tracks the beats, see `vampnet.beats.track`."""
    from .. import beats
    from ..audio import make_signal, measure_loudness

    audio = audio.detach().float().cpu()
    signal = make_signal(audio[None, None], rate)
    chroma, energy, bands = _spectrum(audio, rate)
    grid = beats.track(signal, engine=engine)
    attacks, loudness = beats.onsets(signal), measure_loudness(signal)
    return Heard(audio, rate, grid.beats, attacks, pulse(audio, rate), chroma, energy, bands, loudness)


def compare(source: Heard, take: Heard) -> dict[str, float]:
    """The figures of a take, by their names in `FIGURES`; nan where one does not apply, such as beats where there are none.

    Raises:
        ValueError: the clips are not equally long.
    """
    return {
        "mel": mel_distance(source.audio[None], take.audio[None], source.rate),
        "partials": partials(source.audio, take.audio) if len(take.audio) >= 4096 else math.nan,
        "beat_f": beat_f(source.beats, take.beats),
        "tempo_drift": tempo_drift(source.pulse, take.pulse),
        "onset_f": onset_f(source.onsets, take.onsets),
        "chroma": chroma_similarity(source, take),
        "loudness": take.lufs - source.lufs if math.isfinite(take.lufs - source.lufs) else math.nan,
        "balance": balance(source.bands, take.bands),
    }


# ----------------------------------------------------------------------------------------------------------------- pulse


def beat_f(reference: Sequence[float], estimate: Sequence[float]) -> float:
    """F-measure of beats (mir_eval); nan if the reference has none. The first seconds count as well, since clips are short."""
    if not len(reference):
        return math.nan
    if not len(estimate):
        return 0.0
    return float(need("mir_eval.beat").f_measure(np.array(reference), np.array(estimate), BEAT_WINDOW))


def onset_f(reference: Sequence[float], estimate: Sequence[float]) -> float:
    """F-measure of onsets (mir_eval); nan if the reference has none."""
    if not len(reference):
        return math.nan
    if not len(estimate):
        return 0.0
    return float(need("mir_eval.onset").f_measure(np.array(reference), np.array(estimate), window=ONSET_WINDOW)[0])


# ---------------------------------------------------------------------------------------------------- harmony and balance


@lru_cache(maxsize=4)
def _pitch_classes(rate: int) -> np.ndarray:
    """(12, CHROMA_FFT / 2 + 1): what each bin gives to each pitch class, most around the middle of the keyboard."""
    return import_librosa().filters.chroma(sr=rate, n_fft=CHROMA_FFT, tuning=0.0, norm=None).astype(np.float64)


def _spectrum(audio: Tensor, rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chroma (12, frames), energy (frames,) and third octaves (26,) of one spectrogram."""
    padded = torch.nn.functional.pad(audio, (0, max(0, CHROMA_FFT - len(audio))))
    frames = padded.unfold(0, CHROMA_FFT, CHROMA_FFT // 4) * torch.hann_window(CHROMA_FFT)
    magnitudes = torch.fft.rfft(frames).abs().T.numpy().astype(np.float64)
    # Magnitudes and not powers: otherwise the loudest note of a chord is all that counts.
    folded = _pitch_classes(rate) @ magnitudes
    power = np.square(magnitudes)
    hertz = np.arange(CHROMA_FFT // 2 + 1) * rate / CHROMA_FFT
    band = np.round(3 * np.log2(np.maximum(hertz, 1.0) / 1000)).astype(int) + 13
    total = np.array([power[band == index].sum() for index in range(len(BANDS_HZ))])
    levels = 10 * np.log10(total / max(total.sum(), 1e-20) + 1e-12)
    return folded - folded.mean(axis=0), power.sum(axis=0), levels


def chroma_similarity(source: Heard, take: Heard) -> float:
    """Correlation of the twelve pitch classes, frame by frame, the mean weighted by the source's energy (square root).

    Neither level nor octave counts; 0 is what unrelated harmony gives on the average. nan for silence.
    """
    frames = min(source.chroma.shape[1], take.chroma.shape[1])
    a, b = source.chroma[:, :frames], take.chroma[:, :frames]
    weight = np.sqrt(source.energy[:frames])
    norm = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    likeness = np.divide((a * b).sum(axis=0), norm, out=np.zeros(frames), where=norm > 1e-12)
    return float((likeness * weight).sum() / weight.sum()) if weight.sum() > 0 else math.nan


def balance(source: np.ndarray, take: np.ndarray) -> float:
    """Mean difference in dB of the third octaves (26,) that the source has within 60 dB of its loudest, whatever the level."""
    heard = source > source.max() - AUDIBLE_DB
    return float(np.abs(source - take)[heard].mean())


# ---------------------------------------------------------------------------------------------------------- loops and takes


def seam(audio: Tensor, rate: int) -> dict[str, float]:
    """Is the seam of a ring to be heard? Both figures are at most about 1 where it is not.

    Args:
        audio: (N,) float, whose end flows into its start.

    Returns:
        "seam_step": the jump from the last sample to the first, in units of the largest jump inside. "seam_flux": the largest
        change of the log spectrum from frame to frame at the seam, in units of what one change in a hundred exceeds elsewhere.
    """
    from ..audio import make_signal
    from ..loops import seam_step

    window, hop = 1024, 256
    across, inside = seam_step(make_signal(audio[None, None], rate))
    ring = torch.cat([audio[-window:], audio, audio[:window]]).float()
    spectra = torch.fft.rfft(ring.unfold(0, window, hop) * torch.hann_window(window)).abs()
    change = torch.log10(spectra + 1e-3).diff(dim=0).abs().mean(dim=1)
    at_seam = window // hop + 1
    inner = change[at_seam:-at_seam]
    limit = float(inner.quantile(0.99)) if len(inner) else 0.0
    flux = max(float(change[:at_seam].max()), float(change[-at_seam:].max())) / max(limit, 1e-6)
    return {"seam_step": across / max(inside, 1e-9), "seam_flux": flux}


def takes_differ(takes: Sequence[Tensor], tokens: Tensor, mask: Tensor, rate: int) -> dict[str, float]:
    """How unlike the takes of one clip are, the mean over their pairs; nothing for a single take.

    Args:
        takes: each (N,) float.
        tokens: (takes, K, T) int64.
        mask: (1, K, T) bool, True = was made: only there tokens are compared.
    """
    pairs = list(itertools.combinations(range(len(takes)), 2))
    if not pairs:
        return {}
    mel = [mel_distance(takes[i][None], takes[j][None], rate) for i, j in pairs]
    differ = [float((tokens[i] != tokens[j])[mask[0]].float().mean()) if mask.any() else 0.0 for i, j in pairs]
    return {"takes_mel": float(np.mean(mel)), "takes_tokens": float(np.mean(differ))}
