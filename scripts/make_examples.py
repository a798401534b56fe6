"""Makes the loops in assets/: composed by our own composer, cut to whole bars.

    python scripts/make_examples.py assets --soundfont A.sf3 --soundfont B.sf3 --samples DIR

The seeds belong to the held-out range, so that no example was ever trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

# Of a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vampnet.audio import make_signal, restore_loudness
from vampnet.loudness import Loudness
from vampnet.train.corpus import HELD_OUT_SEEDS, SAMPLE_RATE, Corpus, CorpusConfig
from vampnet.train.score import Piece

EXAMPLES = {"funk": (338, 4), "waltz": (375, 4), "bossa-duo": (360, 4), "techno": (364, 4), "blues": (347, 4)}
"""Name -> (offset into the held-out seeds, whole bars)."""


CRUSHED_LUFS, LUFS = -9.0, -14.0
"""A mix that its drive made this loud, as some music to train on is, is mixed again without it, to the second figure."""


def make(corpus: Corpus, offset: int, bars: int) -> np.ndarray:
    """(N, 2) float32: the first `bars` whole bars that are heard, from a bar line to a bar line."""
    piece = corpus.compose(HELD_OUT_SEEDS[offset], 24.0)
    audio = cut(corpus, piece, bars)
    if Loudness(audio.T, SAMPLE_RATE).measure() <= CRUSHED_LUFS:
        return audio
    audio = cut(corpus, dataclasses.replace(piece, mix=dataclasses.replace(piece.mix, drive=0.0)), bars)
    signal = restore_loudness(make_signal(torch.from_numpy(audio.T.copy())[None], SAMPLE_RATE), LUFS)
    return signal.audio_data[0].numpy().T


def cut(corpus: Corpus, piece: Piece, bars: int) -> np.ndarray:
    """The bars of `make` of a piece."""
    beats, unit = piece.metre
    bar = beats * 4 / unit * 60 / piece.tempo
    first = math.ceil(piece.lead_in / bar) * bar - piece.lead_in
    audio = corpus.render_piece(piece).T
    start = round(first * SAMPLE_RATE)
    return audio[start : start + round(bars * bar * SAMPLE_RATE)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--soundfont", action="append", default=[])
    parser.add_argument("--samples")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(CorpusConfig(soundfonts=tuple(args.soundfont), samples=args.samples))
    for name, (offset, bars) in EXAMPLES.items():
        audio = make(corpus, offset, bars)
        sf.write(args.out / f"{name}.flac", audio, SAMPLE_RATE, subtype="PCM_16")
        print(f"{name}: {len(audio) / SAMPLE_RATE:.2f} s, peak {np.abs(audio).max():.2f}")


if __name__ == "__main__":
    main()
