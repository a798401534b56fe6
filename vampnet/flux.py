"""What librosa's tracker hears, worked out in pieces: beside the samples its memory does not grow with the clip.

Spectra and tempograms of a whole song take several times the memory of its samples, and all that is wanted of them is small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vampnet.first_import import import_librosa

HOP = 512
N_FFT = 2048
FRAMES = 1024
"""At a time, of spectra (12 s at 44.1 kHz) and of tempograms."""
BASS_HZ = 150.0
_BLOCK = 1 << 19


def onset_strength(samples: np.ndarray, rate: int, lead: int) -> np.ndarray:
    """Spectral flux (`librosa.onset.onset_strength`, the median over mel bands of how much louder they got).

    Args:
        samples: (N,) float32.
        rate: Hz.
        lead: samples of silence before them.

    Returns:
        ((lead + N) // HOP + 1,) float32: one value every HOP samples.
    """
    librosa = import_librosa()
    count = 1 + (lead + len(samples)) // HOP
    bands = []
    for first in range(0, count, FRAMES):
        start = first * HOP - N_FFT // 2 - lead
        heard = _between(samples, start, start + N_FFT + (min(FRAMES, count - first) - 1) * HOP)
        bands.append(
            librosa.feature.melspectrogram(y=heard, sr=rate, n_fft=N_FFT, hop_length=HOP, center=False, fmax=0.5 * rate)
        )
    levels = librosa.power_to_db(np.concatenate(bands, axis=1))
    return librosa.onset.onset_strength(S=levels, sr=rate, hop_length=HOP, n_fft=N_FFT, aggregate=np.median)


def tempo(strength: np.ndarray, rate: int) -> np.ndarray:
    """(F,) flux of `onset_strength` -> (1,) beats a minute, as `librosa.feature.tempo` has them."""
    librosa = import_librosa()
    window = int(librosa.time_to_frames(8.0, sr=rate, hop_length=HOP))
    padded = np.pad(strength, window // 2, mode="linear_ramp", end_values=0)
    total = np.zeros(window)
    for first in range(0, len(strength), FRAMES):
        heard = padded[first : first + min(FRAMES, len(strength) - first) + window - 1]
        total += librosa.feature.tempogram(onset_envelope=heard, sr=rate, hop_length=HOP, win_length=window, center=False).sum(
            axis=1
        )
    return librosa.feature.tempo(tg=(total / len(strength))[:, None], sr=rate, hop_length=HOP)


def bass_power(samples: np.ndarray, rate: int, starts: Sequence[int], length: int) -> np.ndarray:
    """How much sound below BASS_HZ there is in stretches of a clip.

    Args:
        samples: (N,) float32.
        rate: Hz.
        starts: the first sample of each stretch, rising.
        length: of each, in samples.

    Returns:
        (len(starts),) float64: sums of squares.
    """
    from scipy.signal import butter, sosfilt

    sections = butter(2, BASS_HZ, "lowpass", fs=rate, output="sos")
    starts = np.asarray(starts, int)
    state, power = np.zeros((len(sections), 2)), np.zeros(len(starts))
    for begin, block in blocks(samples):
        low, state = sosfilt(sections, block, zi=state)
        low = np.square(low)
        for i in range(*np.searchsorted(starts, [begin - length + 1, begin + len(block)])):
            first = starts[i] - begin
            power[i] += low[max(0, first) : max(0, first + length)].sum()
    return power


def blocks(samples: np.ndarray, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """(N,) in views of moderate length, a multiple of `multiple` but for the last one: where each begins, and its samples."""
    size = max(1, _BLOCK // multiple) * multiple
    for begin in range(0, len(samples), size):
        yield begin, samples[begin : begin + size]


def _between(samples: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Samples `start` to `stop` (N,), silence where there are none."""
    inside = samples[max(0, start) : max(0, stop)]
    before = min(max(0, -start), stop - start)
    return np.pad(inside, (before, stop - start - before - len(inside)))
