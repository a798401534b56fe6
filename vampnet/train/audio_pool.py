"""Any folder of audio as training data: every file decoded once, kept as 16-bit mono in memory, cropped at random."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..audio import SUFFIXES, AudioError, load
from ..loudness import ABSOLUTE_GATE, Loudness
from .ahead import read_ahead
from .loop import to_device

TARGET_LUFS = -24.0
MAX_FILE_SECONDS = 4 * 3600.0
FILES_A_PROCESS = 32
"""With fewer of them a process is not worth its start."""
log = logging.getLogger(__name__)


def find_audio(folder: str | Path) -> list[Path]:
    """All audio files below a folder, sorted.

    Raises:
        ValueError: the folder holds none.
    """
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"No audio ({', '.join(SUFFIXES)}) lies below {folder}: name a folder that holds some.")
    return files


def loudness_gain(audio: np.ndarray, sample_rate: int) -> float:
    """Factor that brings (N, C) float samples to -24 LUFS (ITU-R BS.1770); 1 where nothing can be measured."""
    if len(audio) < 0.4 * sample_rate:
        return 1.0
    lufs = Loudness(audio.T, sample_rate).measure()
    return float(10 ** ((TARGET_LUFS - lufs) / 20)) if lufs >= ABSOLUTE_GATE else 1.0


class AudioPool:
    """Mono audio at -24 LUFS in memory (16 bit: an hour takes 318 MB), and random crops of it.

    Attributes:
        samples: (N,) int16, of all clips one after the other; `to` puts them where crops are wanted.
        starts, ends: (clips,) int64 on the CPU.
    """

    def __init__(self, folder: str | Path, sample_rate: int, limit_hours: float = 24.0) -> None:
        """Decodes the folder's files, in name order, up to `limit_hours`; what cannot be used is named and left out.

        Raises:
            ValueError: the folder holds no audio, or none that can be used.
        """
        self.sample_rate = sample_rate
        clips: list[Tensor] = []
        room = limit_hours * 3600 * sample_rate
        files = find_audio(folder)
        workers = min(os.cpu_count() or 1, len(files) // FILES_A_PROCESS)
        for clip in read_ahead(self._load, files, workers):
            if clip is not None:
                clips.append(clip.clone())  # out of the memory that it came in
                room -= len(clip)
            if room <= 0:
                break
        if not clips:
            raise ValueError(f"No file below {folder} can be used: name a folder of music that can be heard.")
        self.samples = torch.cat(clips)
        self.ends = torch.tensor([len(c) for c in clips]).cumsum(0)
        self.starts = torch.cat([torch.zeros(1, dtype=torch.long), self.ends[:-1]])

    def _load(self, path: Path) -> Tensor | None:
        """(N,) int16 of a file, or None."""
        try:
            signal = load(path, self.sample_rate, MAX_FILE_SECONDS)
        except (AudioError, OSError) as error:
            log.warning("%s is left out: %s", path, error)
            return None
        mono = signal.audio_data[0].numpy().mean(axis=0)
        mono = mono * loudness_gain(mono[:, None], self.sample_rate)
        return torch.from_numpy((np.clip(mono, -1, 1) * 32767).astype(np.int16))

    @property
    def hours(self) -> float:
        return len(self.samples) / self.sample_rate / 3600

    def to(self, device: str | torch.device) -> AudioPool:
        """Moves the samples to a device; returns the pool itself."""
        self.samples = self.samples.to(device)
        return self

    def crops(self, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """(batch, length) float samples from random places, on the device of `samples`; clips that are too short are followed
        by silence."""
        clip = torch.randint(len(self.starts), (batch,), generator=generator)
        first = []
        for c in clip.tolist():
            room = int(self.ends[c] - self.starts[c]) - length + 1
            first.append(int(self.starts[c]) + int(torch.randint(max(1, room), (1,), generator=generator)))
        # At once: on a GPU a copy for each crop would take as long as the step.
        device = self.samples.device
        places = to_device(torch.tensor([first, self.ends[clip].tolist()]), device)
        at = places[0][:, None] + torch.arange(length, device=device)
        inside = at < places[1][:, None]
        return self.samples[at.clamp_(max=len(self.samples) - 1)] * inside / 32767
