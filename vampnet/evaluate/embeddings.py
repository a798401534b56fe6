"""What the Fréchet distance sees of audio: embeddings behind one small interface.

`logmel` needs no download and knows nothing of any model. `codec` are the latents of a codec: those of the judged model's own
say more about that codec than about the music, and reports say so. `musicnn`, `vggish` (the paper's) and `clap` need weights
that are not ours: from a file or folder, a package, or a download.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from ..fingerprint import of_tensors

if TYPE_CHECKING:
    from vampnet.codec import Codec
    from vampnet.hub import OnDownload

PATCH_SECONDS = 0.96
PATCH_FRAMES = 96
BANDS = 96
LOW_HZ, HIGH_HZ = 30.0, 16_000.0
WINDOW, N_FFT = 2048, 4096
FLOOR = 1e-4
"""-80 dB, of the mean magnitude of a band: what is quieter is silence."""
FINE = 16
"""Cepstral coefficients of a patch's mean spectrum that keep their sign."""
QUEFRENCY = ((16, 32), (32, 64), (64, 96))
MODULATION = ((1, 3), (3, 7), (7, 15), (15, 31), (31, 96))
"""Half cycles a patch: 0.5 to 1 Hz, 1.5 to 3, 3.5 to 7, 8 to 16, and above."""
MODULATED = ((0, 1), (1, 3), (3, 7), (7, 16), *QUEFRENCY)


class Embedding(Protocol):
    """Audio to points.

    name: short, as on the command line. about: a sentence for the report. own: it comes from the model that is judged.
    One that has an `identity` is told by it from another of the same name.
    """

    name: str
    about: str
    own: bool

    def __call__(self, audio: Tensor, sample_rate: int) -> np.ndarray:
        """(N,) float samples at -24 LUFS -> (frames, D) float32, at least one frame."""


def mel_matrix(n_fft: int, sample_rate: int, bands: int, low: float, high: float) -> Tensor:
    """(n_fft / 2 + 1, bands) float32: triangles on the mel scale 1127 ln(1 + f / 700), of height 1, straight in mel."""
    bins = 1127 * torch.log1p(torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64) / 700)
    ends = 1127 * torch.log1p(torch.tensor([low, high], dtype=torch.float64) / 700)
    edges = torch.linspace(float(ends[0]), float(ends[1]), bands + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    matrix = torch.minimum(rising, falling).clamp_min(0)
    matrix[0] = 0
    return matrix.float()


@lru_cache(maxsize=8)
def _bands(sample_rate: int) -> Tensor:
    matrix = mel_matrix(N_FFT, sample_rate, BANDS, LOW_HZ, min(HIGH_HZ, sample_rate / 2))
    return matrix / matrix.sum(dim=0).clamp_min(1e-9)


@lru_cache(maxsize=4)
def _dct(size: int) -> Tensor:
    """(size, size) orthonormal DCT-II; row k is the k-th basis vector."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(torch.pi * k * (n + 0.5) / size) * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix.float()


def log_mel(audio: Tensor, sample_rate: int) -> Tensor:
    """(N,) -> (frames, BANDS) mean magnitudes of the bands in dB, 100 frames a second.

    A sine at full scale is about -1.5 at 100 Hz, where a band is a bin or two, and -18 at 8 kHz, where it is one of many.
    """
    window = torch.hann_window(WINDOW)
    hop = round(sample_rate / 100)
    if len(audio) < WINDOW:
        audio = torch.nn.functional.pad(audio, (0, WINDOW - len(audio)))
    frames = audio.float().unfold(0, WINDOW, hop) * window
    magnitudes = torch.fft.rfft(frames, N_FFT).abs() * (2 / float(window.sum()))
    return 20 * torch.log10(magnitudes @ _bands(sample_rate) + FLOOR)


def patches(frames: Tensor, length: int = PATCH_FRAMES, hop: int = PATCH_FRAMES // 2) -> Tensor:
    """(frames, bands) -> (patches, length, bands), at least one: a clip that is too short is repeated until it fills one."""
    if len(frames) < length:
        frames = frames.repeat(-(-length // len(frames)), 1)
    return frames.unfold(0, length, hop).transpose(1, 2)


class LogMel:
    """Patches of 0.96 s of the log-mel spectrogram, seen through a two-dimensional cosine transform.

    Of its mean spectrum: the outline with its sign (16 numbers), and how much fine structure there is (3). Of its movement: how
    much there is by rate (5 bands of modulation) and by coarseness in frequency (7), 35 numbers. The transform is orthonormal,
    so the square of the embedding's length is the mean square of the patch in dB, and distances are in dB squared.
    """

    name = "logmel"
    about = "log-mel statistics of 0.96 s (outline, fine structure and movement of the spectrum), no trained model"
    own = False

    def __call__(self, audio: Tensor, sample_rate: int) -> np.ndarray:
        """(N,) float -> (frames, 54) float32, two frames a second."""
        cells = _dct(PATCH_FRAMES) @ patches(log_mel(audio, sample_rate)) @ _dct(BANDS).T / (PATCH_FRAMES * BANDS) ** 0.5

        def amount(times: tuple[int, int], bands: tuple[int, int]) -> Tensor:
            return cells[:, times[0] : times[1], bands[0] : bands[1]].square().sum(dim=(1, 2)).sqrt()

        still = [amount((0, 1), group) for group in QUEFRENCY]
        moving = [amount(times, group) for times in MODULATION for group in MODULATED]
        return torch.cat([cells[:, 0, :FINE], torch.stack(still + moving, dim=1)], dim=1).numpy()


class CodecLatents:
    """Mean and spread over about a second of the codebook vectors of a codec's four coarsest levels."""

    LEVELS = 4

    def __init__(self, codec: Codec, name: str, own: bool) -> None:
        self.codec, self.name, self.own = codec, name, own
        # All of it: an encoder that goes on learning finds other tokens in the same codebooks.
        self.identity = f"{name} {of_tensors(codec)}"
        whose = "the judged model's own codec, so it sees only what that codec can tell apart" if own else "another codec"
        self.about = f"codebook vectors of {whose}"

    def __call__(self, audio: Tensor, sample_rate: int) -> np.ndarray:
        """(N,) float -> (frames, 2 * levels * codebook dimensions) float32, two frames a second."""
        if sample_rate != self.codec.sample_rate:
            raise ValueError(f"This codec hears {self.codec.sample_rate} Hz, and the audio has {sample_rate} Hz.")
        vectors = self.codec.codebook_vectors()[: self.LEVELS]
        codes = self.codec.encode(audio[None, None].float().to(vectors.device))[0, : self.LEVELS]
        steps = torch.cat([table[row] for table, row in zip(vectors, codes, strict=True)], dim=1).float().cpu()
        length = round(PATCH_SECONDS * self.codec.grid.tokens_per_second)
        parts = patches(steps, length, length // 2)
        return torch.cat([parts.mean(dim=1), parts.std(dim=1)], dim=1).numpy()


def key_of(embedding: Embedding) -> str:
    """12 hex digits that tell an embedding from every other, also from one of the same name with other weights."""
    return hashlib.sha256(getattr(embedding, "identity", embedding.name).encode()).hexdigest()[:12]


def make_embeddings(
    names: Sequence[str],
    own_codec: Codec | None = None,
    vggish: str | Path | None = None,
    device: str | torch.device = "cpu",
    clap: str | Path | None = None,
    on_download: OnDownload | None = None,
    musicnn: str | Path | None = None,
) -> list[Embedding]:
    """Embeddings by name.

    Args:
        names: "logmel"; "musicnn"; "vggish"; "clap"; "codec" (the judged model's own) or "codec:MODEL" (that of another model).
        own_codec: of the judged model, for "codec".
        vggish: path of VGGish's weights; None = torch hub's cache, or a download into it.
        device: for those that compute.
        clap: folder or repository of a CLAP model; None = the usual one of the hub.
        on_download: progress of downloads.
        musicnn: wheel or folder of the package musicnn; None = the installed one.

    Raises:
        ValueError: an unknown name, or weights that cannot be had or used; the sentence says why.
        ModuleNotFoundError: the library of an embedding is not installed; the sentence says how to install it.
    """
    made: list[Embedding] = []
    for name in dict.fromkeys(names):
        if name == "logmel":
            made.append(LogMel())
        elif name == "musicnn":
            from .musicnn import MusicnnEmbedding

            made.append(MusicnnEmbedding.load(musicnn, device))
        elif name == "vggish":
            from .vggish import VGGishEmbedding

            made.append(VGGishEmbedding.load(vggish, device))
        elif name == "clap":
            from .clap import ClapEmbedding

            made.append(ClapEmbedding.load(clap, device, on_download))
        elif name == "codec" and own_codec is not None:
            made.append(CodecLatents(own_codec, name, own=True))
        elif name.startswith("codec:"):
            from ..checkpoints import load_codec_of

            made.append(CodecLatents(load_codec_of(name.partition(":")[2], device), name, own=False))
        else:
            raise ValueError(f"There is no embedding '{name}': use logmel, musicnn, vggish, clap, codec or codec:MODEL.")
    return made
