"""Audio -> beats, downbeats and onsets in seconds: beat-this where its weights can be had, librosa where not.

beat-this (Foscarin, Schlueter and Widmer, ISMIR 2024) tracks beats and downbeats with a transformer; librosa's tracker (Ellis,
2007) finds beats alone, and the downbeats are then a guess that is called one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vampnet import flux
from vampnet.attacks import at_attacks
from vampnet.first_import import import_librosa
from vampnet.sentences import Sentence

if TYPE_CHECKING:
    from audiotools import AudioSignal

ENGINES = ("auto", "beat-this", "librosa")
CHECKPOINT = "final0"
LEAD_IN_SECONDS = 0.25
"""Silence put before the audio, so that a hit on its very first sample is a rise like any other."""
LATENCY_FRAMES = 1.8
"""How long after an attack begins the spectral flux peaks in music: 21 ms at 44.1 kHz (median of 513 beats; 11 ms for clicks).
Around that moment its attack is looked for."""
SILENCE = 10 ** (-70 / 20)
EDGE_SECONDS = 0.04
"""A beat this close to the end of the clip belongs to what would come next; one this little before its start is put there."""
CONNECT_SECONDS = 3.0
STALL_SECONDS = 3.0
WAIT_SECONDS = 20.0
"""How long `track` waits for a download that has begun; it then goes on with librosa and the download in the background."""
DOWNLOAD_SECONDS = 900.0


@dataclass(frozen=True)
class BeatGrid:
    """Beats of a clip.

    Attributes:
        beats: seconds, rising; empty where there is no beat.
        downbeats: seconds, rising; those of the beats that begin a bar.
        tempo: beats a minute, from the median distance of beats; 0 with fewer than two.
        engine: "beat-this" or "librosa": which one tracked them; "metronome": nobody had to.
        note: a sentence for the user: which engine, and why.
    """

    beats: tuple[float, ...] = ()
    downbeats: tuple[float, ...] = ()
    tempo: float = 0.0
    engine: str = "librosa"
    note: str = ""

    @property
    def beats_per_bar(self) -> int:
        """The usual number of beats from one downbeat to the next; 4 where there are fewer than two downbeats."""
        if len(self.downbeats) < 2 or len(self.beats) < 2:
            return 4
        # By time and not by count, since a tracker misses beats.
        return max(1, round(float(np.median(np.diff(self.downbeats)) / np.median(np.diff(self.beats)))))

    def cut(self, start: float, end: float) -> BeatGrid:
        """The grid of the clip from `start` to `end` seconds, counted from `start`."""

        def inside(times: Sequence[float]) -> tuple[float, ...]:
            # Cuts follow the line through many beats, and single beats lie to both sides of it.
            return tuple(max(0.0, t - start) for t in times if start - EDGE_SECONDS <= t < end - EDGE_SECONDS)

        return BeatGrid(inside(self.beats), inside(self.downbeats), self.tempo, self.engine, self.note)


def make_grid(beats: Sequence[float], downbeats: Sequence[float], engine: str, note: str) -> BeatGrid:
    """A BeatGrid from times in seconds in any order, with its tempo."""
    beats = tuple(sorted({float(t) for t in beats}))
    tempo = 60.0 / float(np.median(np.diff(beats))) if len(beats) > 1 else 0.0
    return BeatGrid(beats, tuple(sorted(float(t) for t in downbeats)), tempo, engine, note)


# --------------------------------------------------------------------------------------------------------------- tracking


def track(
    signal: AudioSignal,
    *,
    engine: str = "auto",
    checkpoint: str | Path | None = None,
    download: bool = True,
    device: str | torch.device = "cpu",
) -> BeatGrid:
    """Beats and downbeats of a clip.

    Args:
        signal: (1, C, N) float at any sample rate.
        engine: "beat-this", "librosa", or "auto": beat-this where its checkpoint can be had, librosa where not.
        checkpoint: path of a beat-this checkpoint; by default the one in torch hub's cache, or a download into it (80 MB).
        download: whether it may be downloaded. HF_HUB_OFFLINE=1 forbids it too; a server that does not answer within 3 s is
            not asked again by this process, and one that is slow is not waited for (the download goes on meanwhile).
        device: where beat-this runs.

    Returns:
        BeatGrid; its `note` says which engine tracked and why. Silence, or audio without beats, has an empty grid.

    Raises:
        ValueError: unknown engine; beat-this was asked for and its checkpoint cannot be had or read; librosa is needed and
            crashes (`vampnet.first_import`).
    """
    if engine not in ENGINES:
        raise ValueError(f"The beat tracker is one of {', '.join(ENGINES)}, not '{engine}'.")
    if checkpoint is not None and not Path(checkpoint).is_file():
        raise ValueError(f"There is no beat-this checkpoint at '{checkpoint}': check the path or leave it out.")
    samples, rate = _mono(signal)
    if engine == "librosa":
        return _track_librosa(samples, rate, Sentence("librosa tracked the beats, as asked; the downbeats are a guess."))
    path, reason = (Path(checkpoint), "") if checkpoint is not None else find_checkpoint(download)
    if path is None and engine == "beat-this":
        raise ValueError(f"beat-this cannot track the beats because {reason}: give a checkpoint or use librosa.")
    if path is None:
        return _track_librosa(samples, rate, _instead(reason))
    try:
        model = _beat_this(str(path), path.stat().st_mtime_ns, str(device))
    except Exception as error:  # a checkpoint can be broken in any way, and whatever it is, librosa still works
        kind = type(error).__name__
        if engine == "beat-this" or checkpoint is not None:
            raise ValueError(
                f"The beat-this checkpoint '{path}' cannot be loaded ({kind}): delete it or give another."
            ) from error
        problem = Sentence("the beat-this checkpoint '{path}' cannot be loaded ({kind})", path=path, kind=kind)
        return _track_librosa(samples, rate, _instead(problem))
    note = Sentence("beat-this tracked beats and downbeats with {file}.", file=path.name)
    return _track_beat_this(model, samples, rate, note)


def _instead(reason: str) -> Sentence:
    return Sentence("librosa tracked the beats because {reason}; the downbeats are a guess.", reason=reason)


def onsets(signal: AudioSignal) -> tuple[float, ...]:
    """Onsets of a clip in seconds, rising, by librosa's spectral flux; empty for silence.

    Args:
        signal: (1, C, N) float at any sample rate.

    Raises:
        ValueError: librosa crashes (`vampnet.first_import`).
    """
    return _onsets_librosa(*_mono(signal))


def _onsets_librosa(samples: np.ndarray, rate: int) -> tuple[float, ...]:
    if not _audible(samples):
        return ()
    strength = _onset_strength(samples, rate)
    frames = import_librosa().onset.onset_detect(onset_envelope=strength, sr=rate, hop_length=flux.HOP)
    return _to_seconds(strength, frames, rate, samples)


def warm_up(background: bool = True, download: bool = True) -> threading.Thread:
    """Does now what would make the first beat tracking slow: compiles librosa's numba code and fetches beat-this' checkpoint.

    Starts one thread per process, however often it is called, and returns it; with `background=False` it waits for its end.
    It never raises: what fails here is reported by `track` when it is needed.
    """
    thread = _warm_up_thread(download)
    if not background:
        thread.join()
    return thread


_starting = threading.Lock()
_threads: dict[str, threading.Thread] = {}


def _warm_up_thread(download: bool) -> threading.Thread:
    with _starting:
        if "warm_up" not in _threads:
            _threads["warm_up"] = threading.Thread(target=_warm_up, args=(download,), name="beats-warm-up", daemon=True)
            _threads["warm_up"].start()
        return _threads["warm_up"]


def _warm_up(download: bool) -> None:
    try:
        rehearse()
        find_checkpoint(download)
    except Exception:  # a thread has nobody to report to; the same error meets the caller of track() again
        return


def rehearse() -> None:
    """Has librosa track the beats and find the onsets of two seconds, which are nobody's."""
    rate = 44_100
    noise = np.random.default_rng(0).normal(size=2 * rate).astype(np.float32)
    noise[:: rate // 2] += 20.0
    _track_librosa(noise, rate, "")
    _onsets_librosa(noise, rate)


def _mono(signal: AudioSignal) -> tuple[np.ndarray, int]:
    """(N,) float32: both channels, so that nothing in antiphase is lost to the tracker, as the louder of sum and difference."""
    audio = signal.audio_data[0].detach().float().cpu()
    if audio.shape[0] == 2 and float(torch.dot(audio[0], audio[1])) < 0:
        return torch.sub(audio[0], audio[1]).mul_(0.5).numpy(), int(signal.sample_rate)
    return audio.mean(0).numpy(), int(signal.sample_rate)


def _audible(samples: np.ndarray) -> bool:
    return len(samples) > 0 and max(float(samples.max()), -float(samples.min())) > SILENCE


# ---------------------------------------------------------------------------------------------------------------- librosa


def _onset_strength(samples: np.ndarray, rate: int) -> np.ndarray:
    """Spectral flux every `flux.HOP` samples, of the audio with LEAD_IN_SECONDS of silence before it."""
    return flux.onset_strength(samples, rate, round(LEAD_IN_SECONDS * rate))


def _to_seconds(strength: np.ndarray, frames: np.ndarray, rate: int, samples: np.ndarray) -> tuple[float, ...]:
    """Frames -> seconds of the audio (N,) without its lead-in, between the frames by a parabola through the peak nearby, and
    then where the attack begins."""
    times = []
    for frame in np.asarray(frames, int):
        low = max(1, frame - 2)
        near = strength[low : min(len(strength) - 1, frame + 3)]
        peak = low + int(np.argmax(near)) if len(near) else frame
        place = float(frame)
        if 0 < peak < len(strength) - 1:
            before, at, after = strength[peak - 1 : peak + 2]
            if at > before and at >= after:
                place = peak + 0.5 * float(before - after) / float(before - 2 * at + after)
        times.append((place - LATENCY_FRAMES) * flux.HOP / rate - LEAD_IN_SECONDS)
    times = at_attacks(samples, rate, times)
    end = len(samples) / rate - EDGE_SECONDS
    return tuple(sorted({max(0.0, t) for t in times if -EDGE_SECONDS < t < end}))


def _track_librosa(samples: np.ndarray, rate: int, note: str) -> BeatGrid:
    if not _audible(samples):
        return BeatGrid(engine="librosa", note=Sentence("The audio is silent, so there are no beats in it."))
    strength = _onset_strength(samples, rate)
    if not strength.any():
        return BeatGrid(engine="librosa", note=Sentence("librosa found no beat in the audio."))
    bpm = flux.tempo(strength, rate)
    track = import_librosa().beat.beat_track
    _, frames = track(onset_envelope=strength, sr=rate, hop_length=flux.HOP, bpm=bpm, trim=False)
    beats = _to_seconds(strength, frames, rate, samples)
    if not beats:
        return BeatGrid(engine="librosa", note=Sentence("librosa found no beat in the audio."))
    return make_grid(beats, _guess_downbeats(samples, rate, beats), "librosa", note)


def _guess_downbeats(samples: np.ndarray, rate: int, beats: Sequence[float]) -> tuple[float, ...]:
    """Every fourth beat, from the one of the first four whose beats have the most sound below 150 Hz in their first 80 ms.

    A bass drum or a bass note marks the one in most music in 4/4; where there is no bass the first beat is taken.
    """
    power = flux.bass_power(samples, rate, [round(t * rate) for t in beats], round(0.08 * rate))
    strength = np.sqrt(power / max(float(power.max()), 1e-20))
    phases = [float(strength[phase::4].mean()) for phase in range(min(4, len(beats)))]
    # A later phase must be clearly stronger: a clip mostly begins where a bar does.
    best = max(range(len(phases)), key=lambda phase: phases[phase] * (1.1 if phase == 0 else 1.0))
    return tuple(beats[best::4])


# -------------------------------------------------------------------------------------------------------------- beat-this


@lru_cache(maxsize=2)
def _beat_this(path: str, modified: int, device: str) -> Any:
    """The loaded tracker; `modified` only tells a replaced file from the one that was read before."""
    from beat_this.inference import Audio2Beats

    # Proves that the file is tensors and plain data. beat-this then finds a local file and reads it the same way.
    torch.load(path, map_location="cpu", weights_only=True)
    return Audio2Beats(checkpoint_path=path, device=device)


def _track_beat_this(model: Any, samples: np.ndarray, rate: int, note: str) -> BeatGrid:
    if not _audible(samples):
        return BeatGrid(engine="beat-this", note=Sentence("The audio is silent, so there are no beats in it."))
    beats, downbeats = model(samples.astype(np.float64), rate)
    end = len(samples) / rate - EDGE_SECONDS
    return make_grid([t for t in beats if t < end], [t for t in downbeats if t < end], "beat-this", note)


def find_checkpoint(download: bool = True) -> tuple[Path | None, str]:
    """Path of a beat-this checkpoint, or None and the reason why there is none ("... because <reason>").

    Looks into torch hub's cache, where beat-this itself keeps it, and downloads it there if that is allowed.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in (CHECKPOINT, "final1", "final2", "small0"):
        if (folder / f"beat_this-{name}.ckpt").is_file():
            return folder / f"beat_this-{name}.ckpt", ""
    if not download:
        return None, Sentence("the weights of beat-this are not on this machine")
    if os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}:
        return None, Sentence("the weights of beat-this are not on this machine and HF_HUB_OFFLINE forbids a download")
    from beat_this.inference import CHECKPOINT_URL

    return _fetch(f"{CHECKPOINT_URL}/{CHECKPOINT}.ckpt", folder / f"beat_this-{CHECKPOINT}.ckpt")


class _Download:
    """One download in a thread of its own, since a name server that does not answer cannot be timed out otherwise."""

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path, self.problem = url, path, ""
        self.answered, self.done = threading.Event(), threading.Event()
        self.deadline = time.monotonic() + DOWNLOAD_SECONDS
        threading.Thread(target=self._run, name="beat-this-download", daemon=True).start()

    def _run(self) -> None:
        part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}.part")
        try:
            with urllib.request.urlopen(self.url, timeout=STALL_SECONDS) as response:
                self.answered.set()
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with open(part, "wb") as file:
                    while block := response.read(1 << 20):
                        file.write(block)
                        if time.monotonic() > self.deadline:
                            raise TimeoutError("the download is too slow")
            torch.load(part, map_location="cpu", weights_only=True)
            os.replace(part, self.path)
        except Exception as error:  # whatever goes wrong with a network, the answer is librosa
            self.problem = Sentence("the weights of beat-this could not be downloaded ({kind})", kind=type(error).__name__)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            self.answered.set()
            self.done.set()


_downloads: dict[str, _Download] = {}


def _fetch(url: str, path: Path) -> tuple[Path | None, str]:
    """Downloads once per process; whoever comes while it runs, or finds no answer in CONNECT_SECONDS, goes on without."""
    with _starting:
        first = url not in _downloads
        if first:
            _downloads[url] = _Download(url, path)
    job = _downloads[url]
    if first and job.answered.wait(CONNECT_SECONDS):
        job.done.wait(WAIT_SECONDS)
    if not job.done.is_set():
        if job.answered.is_set():
            return None, Sentence("the weights of beat-this are still being downloaded")
        return None, Sentence("the weights of beat-this could not be downloaded (no answer)")
    return (path, "") if not job.problem else (None, job.problem)
