"""Any folder of audio as training data: every file decoded once, kept as 16-bit mono in memory, cropped at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from torch import Tensor

EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")
TARGET_LUFS = -24.0


def find_audio(folder: str | Path) -> list[Path]:
    """All audio files below a folder, sorted.

    Raises:
        ValueError: the folder holds none.
    """
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in EXTENSIONS)
    if not files:
        raise ValueError(f"No audio ({', '.join(EXTENSIONS)}) lies below {folder}: name a folder that holds some.")
    return files


def loudness_gain(audio: np.ndarray, sample_rate: int) -> float:
    """Factor that brings (N, C) float samples to -24 LUFS (ITU-R BS.1770); 1 where nothing can be measured."""
    import pyloudnorm

    if len(audio) < 0.4 * sample_rate:
        return 1.0
    lufs = pyloudnorm.Meter(sample_rate).integrated_loudness(audio)
    return float(10 ** ((TARGET_LUFS - lufs) / 20)) if np.isfinite(lufs) else 1.0


class AudioPool:
    """Mono audio at -24 LUFS in memory (16 bit: an hour takes 318 MB), and random crops of it."""

    def __init__(self, folder: str | Path, sample_rate: int, limit_hours: float = 24.0) -> None:
        """Decodes the folder's files, in name order, up to `limit_hours`."""
        self.sample_rate = sample_rate
        clips: list[np.ndarray] = []
        room = limit_hours * 3600 * sample_rate
        for path in find_audio(folder):
            if room <= 0:
                break
            clips.append(self._load(path))
            room -= len(clips[-1])
        self.samples = torch.from_numpy(np.concatenate(clips))
        self.ends = torch.tensor([len(c) for c in clips]).cumsum(0)
        self.starts = torch.cat([torch.zeros(1, dtype=torch.long), self.ends[:-1]])

    def _load(self, path: Path) -> np.ndarray:
        audio, rate = sf.read(path, dtype="float32", always_2d=True)
        if rate != self.sample_rate:
            import librosa

            audio = librosa.resample(audio.T, orig_sr=rate, target_sr=self.sample_rate).T
        mono = audio.mean(axis=1)
        mono = mono * loudness_gain(mono[:, None], self.sample_rate)
        return (np.clip(mono, -1, 1) * 32767).astype(np.int16)

    @property
    def hours(self) -> float:
        return len(self.samples) / self.sample_rate / 3600

    def crops(self, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """(batch, length) float samples from random places; clips that are too short are followed by silence."""
        clip = torch.randint(len(self.starts), (batch,), generator=generator)
        out = torch.zeros(batch, length)
        for i, c in enumerate(clip.tolist()):
            start, end = int(self.starts[c]), int(self.ends[c])
            offset = int(torch.randint(max(1, end - start - length + 1), (1,), generator=generator))
            piece = self.samples[start + offset : min(end, start + offset + length)]
            out[i, : len(piece)] = piece.float() / 32767
        return out
