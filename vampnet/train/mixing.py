"""Effects on float32 (2, N) audio at 44.1 kHz, all vectorised: filters, drive, chorus, reverb, noise, levels."""

from __future__ import annotations

import numpy as np
from scipy import signal

SAMPLE_RATE = 44_100


def _shelf(hertz: float, db: float) -> np.ndarray:
    """Second-order section of a first-order tilt: -db/2 below and +db/2 above a frequency."""
    gain = 10 ** (db / 40)
    w = 2 * SAMPLE_RATE * np.tan(np.pi * hertz / SAMPLE_RATE)
    b, a = signal.bilinear([gain, w / gain], [1 / gain, w * gain], fs=SAMPLE_RATE)
    return np.array([[b[0], b[1], 0.0, a[0], a[1], 0.0]])


def _bell(hertz: float, db: float, q: float = 0.9) -> np.ndarray:
    amp, w = 10 ** (db / 40), 2 * np.pi * hertz / SAMPLE_RATE
    alpha = np.sin(w) / (2 * q)
    b = np.array([1 + alpha * amp, -2 * np.cos(w), 1 - alpha * amp])
    a = np.array([1 + alpha / amp, -2 * np.cos(w), 1 - alpha / amp])
    return np.concatenate([b, a])[None] / a[0]


def equalise(
    audio: np.ndarray,
    tilt: float = 0.0,
    lowpass: float = 0.0,
    highpass: float = 0.0,
    bell_hz: float = 0.0,
    bell_db: float = 0.0,
) -> np.ndarray:
    """Tilt in dB around 900 Hz, low-pass and high-pass corners and a bell in Hz; 0 switches a part off."""
    sections = []
    if abs(tilt) > 0.25:
        sections.append(_shelf(900.0, tilt))
    if lowpass:
        sections.append(signal.butter(2, lowpass, "lowpass", fs=SAMPLE_RATE, output="sos"))
    if highpass:
        sections.append(signal.butter(2, highpass, "highpass", fs=SAMPLE_RATE, output="sos"))
    if bell_hz:
        sections.append(_bell(bell_hz, bell_db))
    if not sections:
        return audio
    return signal.sosfilt(np.concatenate(sections).astype(np.float32), audio, axis=1).astype(np.float32)


def drive(audio: np.ndarray, amount: float) -> np.ndarray:
    """Soft saturation, amount 0..1, relative to the loud parts of the signal."""
    loud = float(np.sqrt(np.mean(audio**2))) * 3 + 1e-9
    gain = np.float32(10 ** (amount * 24 / 20) / loud * 0.5)
    return np.tanh(audio * gain) / gain


def chorus(audio: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Mix in a copy through a slowly moving delay, amount 0..1; right and left move apart."""
    samples = audio.shape[1]
    rate, depth, base = rng.uniform(0.15, 1.2), rng.uniform(20, 110), rng.uniform(400, 1100)
    time = np.arange(samples, dtype=np.float32)
    out = audio.copy()
    for channel, phase in enumerate(rng.uniform(0, 2 * np.pi, 2)):
        places = (
            time
            - np.float32(base)
            - np.float32(depth) * np.sin(np.float32(2 * np.pi * rate / SAMPLE_RATE) * time + np.float32(phase))
        )
        whole = np.floor(places).astype(np.int32)
        part = places - whole
        whole = np.clip(whole, 0, samples - 2)
        source = audio[channel]
        out[channel] += np.float32(amount) * (source[whole] * (1 - part) + source[whole + 1] * part)
    return out


def active_rms(audio: np.ndarray) -> float:
    """Root mean square over the parts that sound (blocks within 40 dB of the loudest)."""
    blocks = audio.shape[1] // 4096
    if not blocks:
        return float(np.sqrt(np.mean(audio**2)))
    energy = np.mean(audio[:, : blocks * 4096].reshape(2, blocks, 4096) ** 2, axis=(0, 2))
    loud = energy[energy > energy.max() * 1e-4]
    return float(np.sqrt(loud.mean())) if len(loud) else 0.0


def pan(audio: np.ndarray, position: float) -> np.ndarray:
    """Constant-power balance, position -1 (left) to 1 (right)."""
    angle = (position + 1) * np.pi / 4
    return audio * np.array([[np.cos(angle)], [np.sin(angle)]], np.float32) * np.float32(np.sqrt(2))


def reverb(send: np.ndarray, seconds: float, bright: float, predelay: float, rng: np.random.Generator) -> np.ndarray:
    """Reverberation of a mono send (N,) as float32 (2, N): exponentially decaying noise, darker as `bright` (Hz) is lower."""
    length = int(min(seconds, 2.5) * SAMPLE_RATE)
    time = np.arange(length) / SAMPLE_RATE
    noise = rng.standard_normal((2, length)) * 10 ** (-3 * time / seconds)
    response = signal.sosfilt(signal.butter(1, [120, bright], "bandpass", fs=SAMPLE_RATE, output="sos"), noise, axis=1)
    for _ in range(6):
        response[rng.integers(2), int(rng.uniform(0.002, 0.05) * SAMPLE_RATE) % length] += rng.normal(0, 2.0)
    response = (response / np.sqrt(np.sum(response**2, axis=1, keepdims=True))).astype(np.float32)
    delay = int(predelay * SAMPLE_RATE)
    wet = signal.oaconvolve(send[None].astype(np.float32), response, axes=1)[:, : len(send) - delay]
    return np.pad(wet, ((0, 0), (delay, 0))).astype(np.float32)


def noise_floor(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Hiss, sometimes with mains hum, float32 (2, samples) with RMS about 1."""
    hiss = rng.standard_normal((2, samples), dtype=np.float32)
    hiss = signal.lfilter([np.float32(1 - 0.85)], [np.float32(1), np.float32(-rng.uniform(0.0, 0.95))], hiss, axis=1)
    hiss = hiss / np.sqrt(np.mean(hiss**2))
    if rng.random() < 0.3:
        time = np.arange(samples) / SAMPLE_RATE
        hum = sum(np.sin(2 * np.pi * rng.choice([50, 60]) * k * time) / k for k in (1, 2, 3))
        hiss = hiss + rng.uniform(0.2, 1.0) * hum
    return hiss.astype(np.float32)
