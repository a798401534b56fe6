"""musicnn (Pons and Serra, 2019): a network that names the genres, moods and instruments of songs, as an embedding.

Its weights come with the package of that name (29 MB, ISC licence), which is read and never run: TensorFlow is not needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..first_import import import_librosa
from .embeddings import patches
from .tensor_bundle import read_bundle

PACKAGE = "musicnn"
INSTALL = "python -m pip install --no-deps musicnn==0.1.0"
WEIGHTS = "MSD_musicnn"
"""Of the models in the package, the one that has learned the tags of the Million Song Dataset."""
INDEX, DATA = f"{WEIGHTS}/.index", f"{WEIGHTS}/.data-00000-of-00001"
RATE, N_FFT, HOP, BANDS = 16_000, 512, 256, 96
SCALE = 10_000.0
"""Of the power of a band before the logarithm of it and one."""
GAIN_DB = 10.0
"""Clips are measured at -24 LUFS; the songs that it has learned from were about so much louder."""
FRAMES, STEP = 187, 94
"""Frames of an example, 3 s as when it learned, and from one to the next."""


class Convolution(nn.Module):
    """Convolution, ReLU, then a norm by what was measured when it learned: (B, C, T, ...) -> (B, D, T', ...)."""

    def __init__(self, channels: int, width: int, *size: int) -> None:
        super().__init__()
        make, norm = (nn.Conv2d, nn.BatchNorm2d) if len(size) == 2 else (nn.Conv1d, nn.BatchNorm1d)
        self.conv, self.norm = make(channels, width, size), norm(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.relu(self.conv(x)))


class MusiCNN(nn.Module):
    """Logarithms of mel bands (B, T, 96) -> (B, 200), of which a last layer would make tags."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, eps=1e-3)
        self.timbral = nn.ModuleList(Convolution(1, 204, 7, height) for height in (38, 67))
        self.temporal = nn.ModuleList(Convolution(1, 51, length, 1) for length in (128, 64, 32))
        self.middle = nn.ModuleList(Convolution(width, 64, 7) for width in (561, 64, 64))
        self.pooled = nn.BatchNorm1d(1506, eps=1e-3)
        self.dense = nn.Linear(1506, 200)
        self.last = nn.BatchNorm1d(200, eps=1e-3)

    def forward(self, bands: Tensor) -> Tensor:
        """(B, T, 96) -> (B, 200)."""
        x = self.norm(bands[:, None])
        timbral = [block(F.pad(x, (0, 0, 3, 3))).amax(dim=3) for block in self.timbral]
        # TensorFlow pads an even kernel by one more behind than before.
        halves = [block.conv.kernel_size[0] // 2 for block in self.temporal]
        temporal = [
            block(F.pad(x, (0, 0, half - 1, half))).amax(dim=3) for block, half in zip(self.temporal, halves, strict=True)
        ]
        levels = [torch.cat(timbral + temporal, dim=1)]
        for block in self.middle:
            made = block(F.pad(levels[-1], (3, 3)))
            levels.append(made if len(levels) == 1 else made + levels[-1])
        every = torch.cat(levels, dim=1)
        pooled = torch.stack([every.amax(dim=2), every.mean(dim=2)], dim=2).flatten(1)
        return self.last(F.relu(self.dense(self.pooled(pooled))))


@lru_cache(maxsize=1)
def _bands() -> Tensor:
    return torch.from_numpy(import_librosa().filters.mel(sr=RATE, n_fft=N_FFT, n_mels=BANDS).T.copy())


def log_bands(audio: Tensor, sample_rate: int) -> Tensor:
    """(N,) float at any rate, -24 LUFS -> (frames, 96), 62.5 a second."""
    import soxr

    wave = audio.detach().float().cpu()
    if sample_rate != RATE:
        wave = torch.from_numpy(np.ascontiguousarray(soxr.resample(wave.numpy(), sample_rate, RATE, quality="HQ")))
    window = torch.hann_window(N_FFT)
    wave = wave * 10 ** (GAIN_DB / 20)
    found = torch.stft(wave, N_FFT, HOP, window=window, center=True, pad_mode="constant", return_complex=True)
    return torch.log10(SCALE * (torch.view_as_real(found).square().sum(-1).T @ _bands()) + 1)


def find_weights(path: str | Path | None = None) -> tuple[bytes, bytes]:
    """Contents of the index and of the numbers: of a wheel or a folder of the package, without one of what is installed.

    Raises:
        ValueError: they are not there; the sentence says how to get them.
    """
    if path is None:
        spec = importlib.util.find_spec(PACKAGE)  # finds it and runs nothing
        if spec is None or spec.origin is None:
            raise ValueError(f"The weights of musicnn are not on this machine: {INSTALL}, or give its wheel with --musicnn.")
        path = Path(spec.origin).parent
    path = Path(path)
    try:
        if path.is_dir():
            inside = path / PACKAGE if (path / PACKAGE / INDEX).is_file() else path
            return (inside / INDEX).read_bytes(), (inside / DATA).read_bytes()
        with zipfile.ZipFile(path) as wheel:
            index, data = (wheel.read(str(PurePosixPath(PACKAGE) / name)) for name in (INDEX, DATA))
            return index, data
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        why = f"There are no weights of musicnn in '{path}' ({type(error).__name__})"
        raise ValueError(f"{why}: give the wheel of the package or its folder.") from error


def published_names(model: MusiCNN) -> dict[str, str]:
    """Of each of our tensors, the name it has in the published checkpoint, where layers are numbered as they were made."""
    found: dict[str, str] = {}
    counts: dict[str, int] = {}
    for ours, layer in model.named_modules():
        if any(layer.children()):
            continue
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            kind, parts = "dense" if isinstance(layer, nn.Linear) else "conv2d", {"weight": "kernel", "bias": "bias"}
        else:
            kind = "batch_normalization"
            parts = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        number = counts[kind] = counts.get(kind, -1) + 1
        theirs = f"{kind}_{number}" if number else kind
        found |= {f"{ours}.{part}": f"{theirs}/{name}" for part, name in parts.items()}
    return found


def load_musicnn(tensors: Mapping[str, np.ndarray]) -> MusiCNN:
    """The network in eval mode, from the tensors of the published checkpoint by name.

    Raises:
        ValueError: these are not its tensors.
    """
    model, state = MusiCNN(), {}
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    for ours, theirs in published_names(model).items():
        if theirs not in tensors:
            raise ValueError(f"'{theirs}' is missing")
        value = torch.from_numpy(np.array(tensors[theirs], dtype=np.float32))
        # Theirs go (time, frequency, inputs, outputs).
        if ours.startswith("middle") and value.ndim == 4:
            value = value[:, :, 0].permute(2, 1, 0)
        elif value.ndim == 4:
            value = value.permute(3, 2, 0, 1)
        elif value.ndim == 2:
            value = value.T
        if value.shape != wanted[ours]:
            raise ValueError(f"'{theirs}' has another shape than the published one")
        state[ours] = value
    model.load_state_dict(state, strict=False)  # all but the counters of batches
    return model.eval().requires_grad_(False)


class MusicnnEmbedding:
    """musicnn as an `embeddings.Embedding`: (examples, 200), one each 1.5 s."""

    name = "musicnn"
    about = "musicnn, trained to name the genres, moods and instruments of songs"
    own = False

    def __init__(self, model: MusiCNN, device: str | torch.device = "cpu") -> None:
        weight = model.dense.weight.detach().cpu().contiguous()
        self.identity = f"musicnn {hashlib.sha256(weight.numpy().tobytes()).hexdigest()}"
        self.model, self.device = model.to(device), device

    @classmethod
    def load(cls, path: str | Path | None = None, device: str | torch.device = "cpu") -> MusicnnEmbedding:
        """See `find_weights` and `load_musicnn`. ValueError: the weights are not there, or cannot be used."""
        index, data = find_weights(path)
        try:
            return cls(load_musicnn(read_bundle(index, data)), device)
        except ValueError as error:
            raise ValueError(f"The weights of musicnn cannot be used: {error}.") from error

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int) -> np.ndarray:
        """(N,) float -> (examples, 200) float32."""
        parts = patches(log_bands(audio, sample_rate), FRAMES, STEP)
        return self.model(parts.to(self.device)).float().cpu().numpy()
