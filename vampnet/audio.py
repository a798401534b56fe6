"""Files and arrays <-> `audiotools.AudioSignal`: limits on length and size, loudness, and a peak limiter.

Everything here keeps the number of samples exactly. Sound files go through libsndfile (`soundfile`) alone: no external program
is started and nothing is unpickled. Gains are linear factors, levels are dB.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vampnet import scratch
from vampnet.config import SAMPLE_RATE
from vampnet.limiter import limit_peaks, limiting_gain, true_peaks, with_gain
from vampnet.loudness import Loudness
from vampnet.samples import MAX_CHANNELS, MAX_FILE_RATE, MIN_FILE_RATE, AudioError, read_memory
from vampnet.sentences import Sentence
from vampnet.whole_file import whole_sound

if TYPE_CHECKING:
    from audiotools import AudioSignal

MIN_SECONDS = 0.1
MAX_SECONDS = 600.0
MAX_DECODED_SAMPLES = 10 * 60 * 192_000 * 2
"""Samples over all channels that a file may decode to: ten minutes of 192 kHz stereo."""
SILENCE_DBFS = -70.0
LOUDEST = 1e6
"""Of full scale: what is louder is no sound but a damaged file, and its energies would soon be infinite."""

CODEC_LUFS = -24.0
"""Loudness that the codec is trained at and fed with (the paper trains on audio at -24)."""
MAX_GAIN_DB = 30.0
"""The most that a take is turned up: beyond it there is only its noise to hear."""
CEILING_DBTP = -1.0

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".opus")
"""Of the files that are looked for in folders; what a file holds decides whether it can be read."""
SUBTYPES = {"WAV": "PCM_24", "FLAC": "PCM_24", "OGG": "VORBIS"}
_BLOCK_FRAMES = 1 << 16
UNKNOWN_FRAMES = 1 << 62
"""libsndfile says that a file has more where its header does not tell: encoders that write to a pipe leave it open."""


def make_signal(audio: torch.Tensor, sample_rate: int) -> AudioSignal:
    """A fresh AudioSignal, without the cached loudness and spectra that a cloned one would carry along.

    Args:
        audio: (N,), (C, N) or (B, C, N) float.
        sample_rate: Hz.
    """
    from audiotools import AudioSignal

    return AudioSignal(audio, int(sample_rate))


# ---------------------------------------------------------------------------------------------------------------- loading


def load(source: Any, sample_rate: int = SAMPLE_RATE, max_seconds: float = MAX_SECONDS, *, own: bool = False) -> AudioSignal:
    """Any audio -> AudioSignal (1, C, N) float32 at `sample_rate`, C = 1 or 2, checked to be worth vamping.

    Args:
        source: a path (WAV, FLAC, OGG, MP3, AIFF ... whatever libsndfile reads); an AudioSignal (1, C, N); `(rate, array)` as
            Gradio gives it, array (N,) or (N, C), integer or float (a 2-D array with at most 8 rows and more columns than
            rows is read as (C, N)); or `(tensor, rate)` with a tensor (N,), (C, N) or (1, C, N).
        sample_rate: Hz of the result; N = round(samples * sample_rate / rate).
        max_seconds: refuse what is longer. A file's header is looked at first, so that nothing is decoded in vain.
        own: a file that this program wrote: a take of a very soft or short clip is read too.

    More than two channels are mixed to stereo (centre and surrounds at -3 dB, the low-frequency channel left out). Float
    samples beyond full scale are kept.

    Raises:
        AudioError: no audio, no such file, not a sound file, damaged, too short (`MIN_SECONDS`), too long, silent (peak below
            `SILENCE_DBFS`), NaN or infinite samples.
    """
    path = None
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        kept = _read_file(path, max_seconds, sample_rate, 0.0 if own else MIN_SECONDS)
    else:
        samples, rate = read_memory(source)
        _check_length(len(samples), rate, max_seconds)
        kept = _Kept(rate, sample_rate, min(samples.shape[1], 2), len(samples))
        for start in range(0, len(samples), _BLOCK_FRAMES):
            kept.add(samples[start : start + _BLOCK_FRAMES])
    _check_length(kept.frames, kept.rate, max_seconds, 0.0 if own else MIN_SECONDS)
    if kept.peak < 10 ** (SILENCE_DBFS / 20) and not own:
        raise AudioError(Sentence(
            "The audio is silent (its peak lies below {floor:.0f} dBFS): use a clip with sound in it.", floor=SILENCE_DBFS,
        ))  # fmt: skip
    signal = make_signal(kept.finish().unsqueeze(0), sample_rate)
    signal.path_to_file = path
    return signal


def _read_file(path: Path, max_seconds: float, sample_rate: int, least: float) -> _Kept:
    """What is kept of a file at `sample_rate`."""
    import soundfile

    if not path.exists():
        raise AudioError(Sentence("There is no file '{path}': check the path.", path=path))
    if path.is_dir():
        raise AudioError(Sentence("'{path}' is a folder: choose one sound file in it.", path=path))
    if path.stat().st_size == 0:
        raise AudioError(Sentence("'{file}' is an empty file: choose one that holds audio.", file=path.name))
    try:
        # A handle without a name: the content decides what the file is, and not how its name ends.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as handle, soundfile.SoundFile(handle) as file:
            _check_header(file, path.name, max_seconds, least)
            return _decode(file, path.name, max_seconds, sample_rate)
    except (soundfile.SoundFileError, TypeError) as error:
        raise AudioError(
            Sentence("'{file}' cannot be read as audio: use a sound WAV, FLAC, OGG or MP3 file.", file=path.name)
        ) from error
    except OSError as error:
        raise AudioError(
            Sentence("'{file}' cannot be opened ({reason}): check that you may read it.", file=path.name, reason=error.strerror)
        ) from error


def _check_header(file: Any, name: str, max_seconds: float, least: float) -> None:
    if not MIN_FILE_RATE <= file.samplerate <= MAX_FILE_RATE:
        raise AudioError(Sentence(
            "'{name}' has a sample rate of {rate} Hz, and {low} to {high} Hz can be read: convert it first.", name=name,
            rate=file.samplerate, low=MIN_FILE_RATE, high=MAX_FILE_RATE,
        ))  # fmt: skip
    if file.channels > MAX_CHANNELS:
        raise AudioError(Sentence(
            "'{name}' has {channels} channels, and at most {most} can be read: mix it to stereo.", name=name,
            channels=file.channels, most=MAX_CHANNELS,
        ))  # fmt: skip
    if 0 < file.frames < UNKNOWN_FRAMES:
        _check_size(file, name, file.frames, max_seconds, least)


def _check_size(file: Any, name: str, frames: int, max_seconds: float, least: float = 0.0) -> None:
    _check_length(frames, file.samplerate, max_seconds, least)
    if frames * file.channels > MAX_DECODED_SAMPLES * max(1.0, max_seconds / MAX_SECONDS):
        raise AudioError(Sentence(
            "'{name}' is too large ({samples:,} samples): convert it to stereo at 44.1 kHz or cut it first.", name=name,
            samples=frames * file.channels,
        ))  # fmt: skip


def _decode(file: Any, name: str, max_seconds: float, sample_rate: int) -> _Kept:
    """Reads block by block, and believes no header: what there really is counts."""
    told = file.frames if 0 < file.frames < UNKNOWN_FRAMES else 0
    kept = _Kept(file.samplerate, sample_rate, min(file.channels, 2), told)
    if file.frames >= UNKNOWN_FRAMES:
        file.seekable = lambda: False  # else soundfile asks where it is, which libsndfile cannot say of such a file
    while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        _check_size(file, name, kept.frames + len(block), max_seconds)
        kept.add(block)
    return kept


class _Kept:
    """Samples as they come, block by block: mixed and resampled at once, so that memory follows what is kept.

    Args:
        rate, target: Hz of what comes and of what is kept.
        channels: 1 or 2, that are kept.
        frames: that are expected; there may be more or fewer.
    """

    def __init__(self, rate: int, target: int, channels: int, frames: int) -> None:
        self.rate, self.target, self.channels = rate, target, channels
        self.frames, self.peak = 0, 0.0
        self._out, self._at = scratch.empty(channels, self._wanted(frames or _BLOCK_FRAMES)), 0
        self.resampler = None
        if rate != target:
            import soxr

            self.resampler = soxr.ResampleStream(rate, target, channels, dtype="float32", quality="HQ")

    def add(self, block: np.ndarray) -> None:
        """(n, C) float32, n > 0. AudioError for samples that are no numbers."""
        block = _at_most_stereo(block)
        peak = float(np.abs(block).max())
        if not math.isfinite(peak):
            raise AudioError(
                Sentence("The audio holds NaN or infinite samples: export it again from the program that made it.")
            )
        if peak > LOUDEST:
            raise AudioError(
                Sentence("The audio holds samples far beyond full scale: export it again from the program that made it.")
            )
        self.frames, self.peak = self.frames + len(block), max(self.peak, peak)
        block = block if self.resampler is None else self.resampler.resample_chunk(np.ascontiguousarray(block))
        if self._at + len(block) > self._out.shape[1]:
            self._resize(2 * (self._at + len(block)))
        self._put(block)

    def finish(self) -> torch.Tensor:
        """(C, round(frames * target / rate)) float32: all that came."""
        wanted = self._wanted(self.frames)
        if wanted != self._out.shape[1]:
            self._resize(wanted)
        if self.resampler is not None:
            rest = self.resampler.resample_chunk(np.zeros((0, self.channels), np.float32), last=True)
            self._put(rest[: wanted - self._at])
            self._out[:, self._at :] = 0
        return self._out

    def _wanted(self, frames: int) -> int:
        return frames if self.rate == self.target else max(1, round(frames * self.target / self.rate))

    def _resize(self, samples: int) -> None:
        self._at = min(self._at, samples)
        larger = scratch.empty(self.channels, samples)
        scratch.write(larger[:, : self._at], self._out[:, : self._at])
        self._out = larger

    def _put(self, block: np.ndarray) -> None:
        self._out.numpy()[:, self._at : self._at + len(block)] = block.T
        self._at += len(block)


def _check_length(samples: int, rate: int, max_seconds: float, least: float = MIN_SECONDS) -> None:
    seconds = samples / rate
    if samples == 0:
        raise AudioError(Sentence("The audio is empty (0 samples): use a clip with sound in it."))
    if seconds < least:
        raise AudioError(Sentence(
            "The audio lasts {ms:g} ms, and at least {least:.0f} ms are needed: use a longer clip.",
            ms=min(round(seconds * 1000, 1), MIN_SECONDS * 1000 - 0.1),
            least=MIN_SECONDS * 1000,
        ))  # fmt: skip
    if seconds > max_seconds:
        length, most = _spell(seconds), _spell(max_seconds)
        if length == most:  # as rounded as this
            length = Sentence("{seconds:.1f} s", seconds=math.ceil(seconds * 10) / 10)
        raise AudioError(Sentence(
            "The audio lasts {seconds}, and at most {most} can be used: cut out the part you want.", seconds=length, most=most,
        ))  # fmt: skip


def _spell(seconds: float) -> Sentence:
    if seconds < 120:
        return Sentence("{seconds:.3g} s", seconds=seconds)
    minutes = round(seconds / 60)
    if minutes < 120:
        return Sentence("{minutes} min", minutes=minutes)
    return Sentence("{hours} h {minutes} min", hours=minutes // 60, minutes=minutes % 60)


def _at_most_stereo(samples: np.ndarray) -> np.ndarray:
    """(N, C) -> (N, min(C, 2)), by the common channel orders (L R C LFE Ls Rs ...) and ITU-R BS.775's -3 dB."""
    channels = samples.shape[1]
    if channels <= 2:
        return samples
    half = math.sqrt(0.5)
    gains = {"C": (half, half), "L": (half, 0.0), "R": (0.0, half), "-": (0.0, 0.0)}
    rest = {3: "C", 4: "LR", 5: "CLR", 6: "C-LR", 7: "C-CLR", 8: "C-LRLR"}[channels]
    return samples @ np.array([(1.0, 0.0), (0.0, 1.0), *(gains[role] for role in rest)], np.float32)


# ----------------------------------------------------------------------------------------------------------------- saving


def save(
    signal: AudioSignal, path: str | Path, format: str | None = None, subtype: str | None = None, comment: str = ""
) -> Path:
    """Writes the first item of `signal` (B, C, N) to `path`, whole or not at all; returns the path.

    Args:
        format: "WAV", "FLAC" or "OGG"; by default from the path's ending.
        subtype: as libsndfile names it; by default 24 bit for WAV and FLAC and Vorbis for OGG. "FLOAT" keeps what lies beyond
            full scale in a WAV file; the others clip it.
        comment: text that travels in the file, such as `metadata.write` gives.

    Raises:
        AudioError: a format or subtype that cannot be written, or one that cannot hold this audio.
        OSError: the folder is missing or not writable, the disk is full, or `path` is there and no plain file.
    """
    import soundfile

    path = Path(path)
    format = (format or path.suffix.lstrip(".")).upper()
    if format not in SUBTYPES:
        raise AudioError(f"Audio is written as WAV, FLAC or OGG, not as '{format}': name the file *.wav, *.flac or *.ogg.")
    subtype = subtype or SUBTYPES[format]
    if not soundfile.check_format(format, subtype):
        known = ", ".join(sorted(soundfile.available_subtypes(format)))
        raise AudioError(f"{format} files cannot hold {subtype}: use one of {known}.")
    frames = signal.audio_data[0].detach().float().cpu().numpy().T
    try:
        with whole_sound(path, int(signal.sample_rate), frames.shape[1], subtype, format) as file:
            if comment:
                file.comment, file.software = comment, "VampNet"
            # libsndfile's Vorbis encoder keeps a whole write on its stack, so long audio goes in pieces.
            for start in range(0, len(frames), _BLOCK_FRAMES):
                block = np.ascontiguousarray(frames[start : start + _BLOCK_FRAMES])
                file.write(_on_grid(block) if subtype == "PCM_24" else block)
    except (soundfile.SoundFileError, AssertionError) as error:
        raise AudioError(f"This audio cannot be written as {format} ({error}).") from error
    return path


def _on_grid(samples: np.ndarray) -> np.ndarray:
    """Float samples as 24 bits in the upper part of int32, a full scale of 2^23: what `load` gives of a file is written as it
    was. libsndfile writes with 2^23 - 1 and reads with 2^23, so that all became a little softer with every file."""
    return np.rint(samples * 2.0**23).clip(-(2**23), 2**23 - 1).astype(np.int32) << 8


def in_24_bits(signal: AudioSignal) -> AudioSignal:
    """The signal (B, C, N) as a file of 24 bits would give it back, but for what lies beyond full scale."""
    return make_signal((signal.audio_data * 2.0**23).round() / 2.0**23, signal.sample_rate)


# --------------------------------------------------------------------------------------------------------------- loudness


def measure_loudness(signal: AudioSignal) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4) of the first item of `signal` (B, C, N); -inf for digital silence.

    A clip shorter than two gating blocks is repeated until it fills them, as it would be heard in a loop. What lies wholly
    below the absolute gate of -70 LUFS gets its plain level (mean square of all channels) instead.
    """
    samples = signal.audio_data[0].detach().float().cpu().numpy()
    return Loudness(samples, signal.sample_rate).measure() if samples.shape[-1] else -math.inf


def to_codec_level(signal: AudioSignal, in_place: bool = False) -> tuple[AudioSignal, float]:
    """The signal (B, C, N) at `CODEC_LUFS`, written over what was given with `in_place`; and the linear gain that took it
    there (1 for silence)."""
    lufs = measure_loudness(signal)
    gain = 10 ** ((CODEC_LUFS - lufs) / 20) if math.isfinite(lufs) else 1.0
    samples = signal.audio_data if in_place else scratch.copy(signal.audio_data)
    for part in scratch.parts(samples):
        part.mul_(gain)
    return make_signal(samples, signal.sample_rate), gain


def restore_loudness(
    take: AudioSignal,
    target_lufs: float,
    ceiling_db: float = CEILING_DBTP,
    loop: bool = False,
    gain_db: float | None = None,
    in_place: bool = False,
) -> AudioSignal:
    """The take (1, C, N) at `target_lufs`, its peaks held below `ceiling_db` by `limit`.

    What the limiter takes away is made up for by up to 6 dB more drive, so that a take with sharper peaks than its source is
    still as loud. No take is turned up by more than `MAX_GAIN_DB`. Silence, or a target of -inf, comes back as it is.

    Args:
        gain_db: what the take is to be turned up by instead, before the limiter, whatever loudness it then has.
        in_place: the result may be written over the take: nobody else wants that, and five minutes take 100 MB.
    """
    samples, ceiling = take.audio_data[0].detach().float().cpu().numpy(), 10 ** (ceiling_db / 20)
    loudness = Loudness(samples, take.sample_rate)
    lufs = loudness.measure()
    if not (math.isfinite(lufs) and math.isfinite(target_lufs)):
        return take if in_place else make_signal(take.audio_data.clone(), take.sample_rate)
    first = min(target_lufs - lufs if gain_db is None else gain_db, MAX_GAIN_DB)
    drive = first
    # Only peaks that the drive takes above the ceiling matter: those of the first drive, and of the hardest if that is not it.
    above = ceiling / 10 ** (first / 20)
    peaks = true_peaks(samples, loop, above)
    for _ in range(4):
        gain = 10 ** (drive / 20)
        if ceiling / gain < above:
            above = ceiling / 10 ** ((first + 6) / 20)
            peaks = true_peaks(samples, loop, above)
        envelope = limiting_gain(peaks * gain, take.sample_rate, ceiling, loop)
        missing = lufs + first - loudness.measure(gain * envelope)
        if missing < 0.1 or drive >= first + 6:
            break
        # Driven harder, a limiter gives back less than it is given: aim a little further.
        drive = min(drive + 1.3 * missing, first + 6)
    out = with_gain(samples, envelope, ceiling, loop, gain, out=samples if in_place else None)
    return make_signal(torch.from_numpy(out)[None].to(take.audio_data.device), take.sample_rate)


def limit(signal: AudioSignal, ceiling_db: float = CEILING_DBTP, loop: bool = False) -> AudioSignal:
    """Holds the true peak of `signal` (1, C, N) below `ceiling_db` with a smooth look-ahead gain (`vampnet.limiter`).

    Where nothing exceeds the ceiling the samples come back as they are. With `loop` the clip is a ring: a peak at its start
    pulls the gain down at its end.

    Returns:
        AudioSignal (1, C, N); no sample exceeds 10 ** (ceiling_db / 20).
    """
    samples = signal.audio_data[0].detach().float().cpu().numpy()
    out = limit_peaks(samples, signal.sample_rate, 10 ** (ceiling_db / 20), loop)
    return make_signal(torch.from_numpy(out).unsqueeze(0).to(signal.audio_data.device), signal.sample_rate)
