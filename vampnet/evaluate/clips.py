"""The clips that a model is measured on: excerpts of the files of a folder, or composed music that no training has heard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..audio import UNKNOWN_FRAMES
from ..train.audio_pool import find_audio

SHORTEST_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip as the models hear it.

    Attributes:
        name: tells it from the others of its folder.
        audio: (N,) float32 at -24 LUFS.
        rate: Hz.
    """

    name: str
    audio: Tensor
    rate: int

    @property
    def id(self) -> str:
        """20 letters and digits at most, a hyphen and 8 hex digits of its samples: safe as a file's name."""
        plain = "".join(letter for letter in self.name if letter.isascii() and letter.isalnum())[-20:]
        return f"{plain}-{hashlib.sha256(self.audio.numpy().tobytes()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Excerpt:
    """Where a clip lies: `start` and `length` in frames of the file at its own rate."""

    path: Path
    name: str
    start: int
    length: int


def excerpts(folder: str | Path, seconds: float, whole: bool = False) -> list[Excerpt]:
    """All excerpts of a folder's files that do not overlap.

    In an order that is mixed by the names but always the same, the middle of each file before a second one of any, so that the
    first 50 are among the first 100 and no file counts more than it must.

    Args:
        folder: searched with its folders.
        seconds: of an excerpt. A file that is shorter (but no shorter than `SHORTEST_SECONDS`) is one excerpt.
        whole: every file is one excerpt from its start, for loops; `seconds` is then the most of it that is used.

    Raises:
        ValueError: the folder holds no audio.
    """
    import soundfile

    folder = Path(folder)
    found: list[tuple[int, str, Excerpt]] = []
    for path in find_audio(folder):
        try:
            # By a handle: soundfile takes no name that is not UTF-8.
            with open(path, "rb") as handle, soundfile.SoundFile(handle) as file:
                frames, rate = file.frames, file.samplerate
        except (soundfile.SoundFileError, OSError):
            continue
        if frames >= UNKNOWN_FRAMES:
            continue  # a file that does not tell its length has no middle
        length = min(round(seconds * rate), frames)
        if length < SHORTEST_SECONDS * rate:
            continue
        name = path.relative_to(folder).as_posix()
        mixed = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()
        count = 1 if whole else max(1, frames // length)
        first = 0 if whole else (frames - count * length) // 2
        # From the middle outwards: 2, 3, 1, 4, 0 of five.
        places = sorted(range(count), key=lambda place, count=count: (abs(place - (count - 1) / 2), -place))
        for turn, place in enumerate(places):
            start = first + place * length
            label = name if count == 1 else f"{name} at {start / rate:.1f} s"
            found.append((turn, mixed, Excerpt(path, label, start, length)))
    if not found:
        raise ValueError(f"No audio of at least {SHORTEST_SECONDS:g} s lies below {folder}: name a folder that holds some.")
    return [excerpt for _, _, excerpt in sorted(found, key=lambda item: item[:2])]


def make_clip(audio: Tensor, rate: int, name: str) -> Clip:
    """A clip from (C, N) float samples at any level.

    Raises:
        AudioError: silence or anything else that cannot be vamped.
    """
    from .. import audio as files

    signal = files.load((audio.mean(dim=0), rate), rate)
    return Clip(name, files.to_codec_level(signal)[0].audio_data[0, 0].clone(), rate)


def folder_clips(
    folder: str | Path, count: int, seconds: float, rate: int, whole: bool = False, full: bool = False
) -> Iterator[Clip]:
    """Up to `count` clips of a folder at `rate` Hz; what cannot be used, such as silence, is passed over for the next.

    Args:
        folder, seconds, whole: as of `excerpts`.
        full: only clips that last `seconds`.

    Raises:
        ValueError: the folder holds no audio.
    """
    import soundfile

    from .. import audio as files

    left = count
    for excerpt in excerpts(folder, seconds, whole):
        if left == 0:
            return
        try:
            with open(excerpt.path, "rb") as handle, soundfile.SoundFile(handle) as file:
                if full and excerpt.length < round(seconds * file.samplerate):
                    continue
                file.seek(excerpt.start)
                samples, own_rate = file.read(excerpt.length, dtype="float32", always_2d=True), file.samplerate
            signal = files.load((torch.from_numpy(samples.T.copy()), own_rate), rate)
            yield make_clip(signal.audio_data[0], rate, excerpt.name)
        except (files.AudioError, soundfile.SoundFileError, OSError):
            continue
        left -= 1


def composed_clips(count: int, seconds: float, rate: int) -> Iterator[Clip]:
    """`count` clips of composed music with seeds that no training uses, played by the built-in synthesizer alone."""
    from .. import audio as files
    from ..train.corpus import HELD_OUT_SEEDS, SAMPLE_RATE, Corpus, CorpusConfig

    corpus = Corpus(CorpusConfig(seconds=max(1.0, seconds)))
    for seed in HELD_OUT_SEEDS[:count]:
        signal = files.load((torch.from_numpy(corpus.render(seed)), SAMPLE_RATE), rate)
        yield make_clip(signal.audio_data[0], rate, f"composed {seed}")
