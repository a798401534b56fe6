"""Endless composed music for training: from a seed to a clip at 44.1 kHz, the same bits for the same seed.

`python -m vampnet.train.corpus --help` writes clips to a folder. Seeds for training and for evaluation never meet.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vampnet.train import composer, mixing, orchestration
from vampnet.train.player import SoundFontPlayer
from vampnet.train.sampler import HELD_OUT_SAMPLES, Sampler, find_samples
from vampnet.train.score import Mix, Piece, Track
from vampnet.train.tempo import beat_comment
from vampnet.train.tones import render_tones
from vampnet.whole_file import whole_sound

__all__ = ["HELD_OUT_SAMPLES", "HELD_OUT_SEEDS", "TRAIN_SEEDS", "Corpus", "CorpusConfig", "write"]

SAMPLE_RATE = 44_100
TRAIN_SEEDS = range(0, 2**30)
HELD_OUT_SEEDS = range(2**30, 2**30 + 2**20)


@dataclass(frozen=True)
class CorpusConfig:
    """What clips are made with.

    soundfonts: General MIDI SoundFont files, one is drawn for each clip; none: the built-in synthesizer plays everything.
    samples: folder of one-shots and loops named by kind (bd_*, sn_*, hat_*, loop_*, ...), or None.
    seconds: length of a clip, 1 to 600.

    Raises FileNotFoundError for a SoundFont or folder that is not there and ValueError for bad values.
    """

    soundfonts: tuple[str, ...] = ()
    samples: str | None = None
    seconds: float = 20.0

    def __post_init__(self) -> None:
        if isinstance(self.soundfonts, str):
            raise ValueError("Give soundfonts as a tuple of paths, for example ('FluidR3Mono_GM.sf3',).")
        for path in self.soundfonts:
            if not Path(path).is_file():
                raise FileNotFoundError(
                    f"There is no SoundFont at {path}; install one "
                    "(Debian: fluidr3mono-gm-soundfont or musescore-general-soundfont) or give another with --soundfont."
                )
        if self.samples is not None:
            if not Path(self.samples).is_dir():
                raise FileNotFoundError(
                    f"There is no folder of samples at {self.samples}; give another with --samples or leave it out."
                )
            if not find_samples(self.samples):
                raise ValueError(
                    f"The folder {self.samples} has no audio samples (.flac, .wav, .ogg, .aiff); give another with --samples."
                )
            names = {kind: [path.stem for path in paths] for kind, paths in find_samples(self.samples).items()}
            if not orchestration.known(names):
                raise ValueError(
                    f"No sample in {self.samples} says by its name what it is: let names begin with bd_, sn_, hat_, drum_, "
                    "perc_, bass_, loop_, ambi_ or elec_, or leave --samples out."
                )
        if not 1.0 <= self.seconds <= 600.0:
            raise ValueError(f"A clip must last 1 to 600 seconds, not {self.seconds:g}.")


class Corpus:
    """Composes and renders clips. SoundFonts and samples are read at first use and kept."""

    def __init__(self, config: CorpusConfig) -> None:
        """config: what to render with."""
        self.config = config
        self.sampler = Sampler(config.samples) if config.samples else None
        self._players: dict[int, SoundFontPlayer] = {}

    def load(self) -> None:
        """Load all SoundFonts now (before worker processes are forked, they share the memory)."""
        for index in range(len(self.config.soundfonts)):
            self._player(index)

    def compose(self, seed: int, seconds: float | None = None) -> Piece:
        """Compose the piece of a seed (0 to 2**62); no SoundFont is needed. seconds: length, the configured one if None."""
        if not 0 <= seed < 2**62:
            raise ValueError(f"A seed must be between 0 and 2**62, not {seed}.")
        names = self.sampler.names if self.sampler else {}
        return composer.compose(seed, self.config.seconds if seconds is None else seconds, len(self.config.soundfonts), names)

    def render(self, seed: int, seconds: float | None = None) -> np.ndarray:
        """Render the clip of a seed: float32 (2, round(seconds * 44100)), peak at most 0.99, the same bits every time."""
        return self.render_piece(self.compose(seed, seconds))

    def render_piece(self, piece: Piece) -> np.ndarray:
        """Render any piece: float32 (2, round(piece.seconds * 44100)), peak at most 0.99."""
        wanted = round(piece.seconds * SAMPLE_RATE)
        skip = round(piece.lead_in * SAMPLE_RATE)
        samples = wanted + skip
        rng = np.random.default_rng([piece.seed, 0xA0D10])
        dry = np.zeros((2, samples), np.float32)
        send = np.zeros(samples, np.float32)
        for track, child in zip(piece.tracks, rng.spawn(len(piece.tracks)), strict=True):
            audio = self._track(piece, track, samples, child)
            level = mixing.active_rms(audio)
            if level <= 1e-7:
                continue
            audio = mixing.pan(audio, track.pan) * np.float32(10 ** (track.level / 20) / level)
            dry += audio
            if track.send and piece.mix.reverb_seconds:
                send += audio.sum(0) * np.float32(0.5 * track.send)
        if piece.mix.reverb_seconds:
            mix = piece.mix
            dry += np.float32(1.2) * mixing.reverb(send, mix.reverb_seconds, mix.reverb_bright, mix.predelay, rng)
        return self._master(dry[:, skip:], piece.mix, rng)

    def _player(self, index: int) -> SoundFontPlayer:
        if index not in self._players:
            self._players[index] = SoundFontPlayer(self.config.soundfonts[index])
        return self._players[index]

    def _track(self, piece: Piece, track: Track, samples: int, rng: np.random.Generator) -> np.ndarray:
        """One track with its own effects, before level and pan: float32 (2, samples)."""
        audio = None
        if track.source in ("kit", "pitched", "loop", "bed") and self.sampler:
            audio = self.sampler.render(track, samples, piece.tuning, rng)
        elif track.source == "soundfont" and self.config.soundfonts:
            # Kits are tuned by the drummer, not with the orchestra.
            tuning = float(rng.normal(0, 120)) if track.drums and rng.random() < 0.4 else 0.0 if track.drums else piece.tuning
            audio = self._player(piece.soundfont).render(track, samples, tuning, rng)
        if audio is None:
            audio = render_tones(track, samples, piece.tuning, rng)
        if track.drive:
            audio = mixing.drive(audio, track.drive)
        if track.chorus:
            audio = mixing.chorus(audio, track.chorus, rng)
        return mixing.equalise(audio, track.tilt, track.lowpass)

    @staticmethod
    def _master(audio: np.ndarray, mix: Mix, rng: np.random.Generator) -> np.ndarray:
        """Equaliser, width, drive, noise and peak of the whole mix."""
        audio = mixing.equalise(audio, mix.tilt, mix.lowpass, mix.highpass, mix.bell_hz, mix.bell_db)
        middle, side = audio.mean(0), (audio[0] - audio[1]) * np.float32(0.5 * mix.width)
        audio = np.stack([middle + side, middle - side])
        if mix.drive:
            audio = mixing.drive(audio, mix.drive * 0.6)
        if mix.noise_db:
            loud = max(mixing.active_rms(audio), 1e-4)
            audio = audio + mixing.noise_floor(audio.shape[1], rng) * np.float32(loud * 10 ** (-mix.noise_db / 20))
        peak = float(np.abs(audio).max())
        return (audio * np.float32(mix.peak / peak if peak > 1e-5 else 1.0)).astype(np.float32)


_corpus: Corpus | None = None


def _path(folder: str | Path, seed: int, suffix: str) -> Path:
    return Path(folder) / f"{seed:010d}.{suffix}"


def _write_one(task: tuple[str, int, str, float]) -> float:
    """Write one clip unless it exists or it is too late; seconds of audio written. Runs in a worker."""
    folder, seed, suffix, end = task
    path = _path(folder, seed, suffix)
    if path.exists() or time.time() > end:
        return 0.0
    piece = _corpus.compose(seed)
    audio = _corpus.render_piece(piece)
    # The name of an unfinished file does not end like a clip, so that nobody reads half a clip.
    options = {"compression_level": 0.3} if suffix == "flac" else {}
    with whole_sound(path, SAMPLE_RATE, 2, "PCM_16", suffix.upper(), **options) as file:
        if piece.beat is not None:
            file.comment = beat_comment(*piece.beat)
        file.write(audio.T)
    return audio.shape[1] / SAMPLE_RATE


def _start_worker(config: CorpusConfig) -> None:
    global _corpus
    if _corpus is None or _corpus.config != config:
        _corpus = Corpus(config)
        _corpus.load()


def write(
    config: CorpusConfig,
    out_dir: str | Path,
    seeds: Iterable[int],
    format: str = "flac",
    workers: int = 1,
    progress: Callable[[int, float], None] | None = None,
    minutes: float | None = None,
) -> int:
    """Write one file for each seed, named by its seed (16 bit, 44.1 kHz, stereo); files that exist are left alone.

    A comment in each says where its beats are (`tempo.beat_comment`), unless its metre is an odd one of eighths.

    format: "flac" or "wav". workers: processes. minutes: begin no clip later than this. progress(clips done, seconds of audio
    made) after each clip. Several calls may fill one folder at once. Returns how many clips were made. Raises ValueError for
    another format or less than 1 worker."""
    if format not in ("flac", "wav"):
        raise ValueError(f"Clips can be written as flac or wav, not {format}.")
    if workers < 1:
        raise ValueError(f"At least one worker is needed, not {workers}.")
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    end = math.inf if minutes is None else time.time() + 60 * minutes
    tasks = [(str(folder), int(seed), format, end) for seed in seeds]
    _start_worker(config)
    made, seconds = 0, 0.0

    def count(results: Iterable[float]) -> None:
        nonlocal made, seconds
        for done, result in enumerate(results, 1):
            made += result > 0
            seconds += result
            if progress:
                progress(done, seconds)

    if workers == 1:
        count(map(_write_one, tasks))
    else:
        method = "fork" if sys.platform == "linux" else "spawn"
        with multiprocessing.get_context(method).Pool(workers, _start_worker, (config,)) as pool:
            count(pool.imap_unordered(_write_one, tasks))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(prog="vampnet corpus", description="Compose and render clips of music to train on.")
    parser.add_argument(
        "--out", required=True, help="folder for the clips; clips that exist are kept, so a stopped run can go on"
    )
    parser.add_argument(
        "--soundfont", action="append", default=[], help="a General MIDI SoundFont (.sf2, .sf3); may be given several times"
    )
    parser.add_argument("--samples", help="folder of one-shots and loops")
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes of audio in all (default 60)")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a clip (default 20)")
    parser.add_argument("--held-out", action="store_true", help="draw from the seeds that training never uses")
    parser.add_argument("--first-seed", type=int, default=0, help="start this far into the seeds (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--stop-after", type=float, metavar="MINUTES", help="begin no clip later than this, and exit with 3")
    parser.add_argument("--format", choices=("flac", "wav"), default="flac")
    options = parser.parse_args(arguments)
    pool = HELD_OUT_SEEDS if options.held_out else TRAIN_SEEDS
    clips = max(1, round(min(max(options.minutes, 0), 1e7) * 60 / max(options.seconds, 1.0)))
    started = time.monotonic()

    def show(done: int, seconds: float) -> None:
        spent = max(time.monotonic() - started, 1e-6)
        rest = spent / done * (clips - done)
        print(
            f"\r{done}/{clips} clips, {seconds / spent:.0f} s of audio a second, {rest / 60:.1f} min left ",
            end="",
            file=sys.stderr,
            flush=True,
        )

    try:
        if not 0 < options.minutes < math.inf:
            raise ValueError(f"--minutes must be above 0, not {options.minutes:g}.")
        if not 0 <= options.first_seed <= len(pool) - clips:
            raise ValueError(f"With {clips} clips, --first-seed must be between 0 and {len(pool) - clips}.")
        config = CorpusConfig(tuple(options.soundfont), options.samples, options.seconds)
        seeds = pool[options.first_seed : options.first_seed + clips]
        write(config, options.out, seeds, options.format, options.workers, show, options.stop_after)
        unmade = sum(not _path(options.out, seed, options.format).is_file() for seed in seeds)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(file=sys.stderr)
    return 3 if unmade else 0


if __name__ == "__main__":
    sys.exit(main())
