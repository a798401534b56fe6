"""VGGish (Hershey et al., 2017), the embedding of the first Fréchet audio distance, in the shape its weights are published in.

The published state dict (torchvggish, 288 MB, Apache 2.0) has the layers `features.N` and `embeddings.N`. The last ReLU and the
principal components that YouTube-8M puts behind it are left out, as is usual for the distance.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import urllib.error
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .embeddings import mel_matrix

URL = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"
FILE = "vggish-10086976.pth"
HASH_PREFIX = "10086976"
"""First digits of the file's SHA-256, as torch hub puts them into names."""
RATE = 16_000
WINDOW, HOP, N_FFT = 400, 160, 512
BANDS, LOW_HZ, HIGH_HZ = 64, 125.0, 7_500.0
OFFSET = 0.01
FRAMES = 96
"""Frames of an example: 0.96 s."""


class VGGish(nn.Module):
    """Log-mel examples (B, 1, 96, 64) -> embeddings (B, 128)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for block in ((64,), (128,), (256, 256), (512, 512)):
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 6 * 4, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 128)
        )

    def forward(self, examples: Tensor) -> Tensor:
        """(B, 1, 96, 64) -> (B, 128)."""
        # TensorFlow's order, in which the weights were trained: time, frequency, channel.
        return self.embeddings(self.features(examples).permute(0, 2, 3, 1).flatten(1))


def examples(audio: Tensor, sample_rate: int) -> Tensor:
    """(N,) float at any rate -> (B, 1, 96, 64) log-mel examples of 0.96 s each; a shorter clip is filled with silence."""
    import soxr

    wave = audio.detach().float().cpu()
    if sample_rate != RATE:
        wave = torch.from_numpy(np.ascontiguousarray(soxr.resample(wave.numpy(), sample_rate, RATE, quality="HQ")))
    missing = WINDOW + (FRAMES - 1) * HOP - len(wave)
    wave = torch.nn.functional.pad(wave, (0, max(0, missing)))
    frames = wave.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)
    magnitudes = torch.fft.rfft(frames, N_FFT).abs()
    logs = torch.log(magnitudes @ mel_matrix(N_FFT, RATE, BANDS, LOW_HZ, HIGH_HZ) + OFFSET)
    return logs.unfold(0, FRAMES, FRAMES).transpose(1, 2)[:, None]


def find_weights(path: str | Path | None = None) -> Path:
    """The file of weights: `path`, torch hub's cache, or a download into that, checked by its hash.

    Raises:
        ValueError: there is no such file, or it cannot be downloaded.
    """
    if path is not None:
        if not Path(path).is_file():
            raise ValueError(f"There are no VGGish weights at '{path}': check the path.")
        return Path(path)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if cached.is_file():
        return cached
    why = "HF_HUB_OFFLINE forbids a download"
    if os.environ.get("HF_HUB_OFFLINE", "").strip().upper() not in {"1", "ON", "YES", "TRUE"}:
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(cached), hash_prefix=HASH_PREFIX, progress=False)
            return cached
        except (OSError, RuntimeError, urllib.error.URLError) as error:
            why = f"they cannot be downloaded ({type(error).__name__})"
    raise ValueError(
        f"The weights of VGGish are not on this machine and {why}: give {FILE} with --vggish, or leave vggish out."
    )


def load_vggish(path: str | Path) -> VGGish:
    """VGGish in eval mode from a published state dict; nothing in the file can run.

    Raises:
        ValueError: the file is no state dict of VGGish.
    """
    wrong = f"'{path}' does not hold the published weights of VGGish"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ValueError(f"{wrong}: it cannot be read ({type(error).__name__}).") from error
    with torch.device("meta"):
        model = VGGish()
    if not isinstance(state, dict) or any(not isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{wrong}: it is no dictionary of tensors.")
    try:
        model.load_state_dict({name: value.float() for name, value in state.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{wrong}: {' '.join(str(error).split())[:200]}") from error
    return model.eval().requires_grad_(False)


class VGGishEmbedding:
    """VGGish as an `embeddings.Embedding`: (frames, 128), one frame each 0.96 s."""

    name = "vggish"
    about = "VGGish, trained on the sound of YouTube videos; the paper's"
    own = False

    def __init__(self, model: VGGish, device: str | torch.device = "cpu") -> None:
        # Weights that are not the published ones make other points.
        last = model.embeddings[-1].weight.detach().float().cpu().contiguous()
        self.identity = f"vggish {hashlib.sha256(last.numpy().tobytes()).hexdigest()}"
        self.model, self.device = model.to(device), device

    @classmethod
    def load(cls, path: str | Path | None = None, device: str | torch.device = "cpu") -> VGGishEmbedding:
        """See `find_weights` and `load_vggish`."""
        return cls(load_vggish(find_weights(path)), device)

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int) -> np.ndarray:
        """(N,) float -> (frames, 128) float32."""
        return self.model(examples(audio, sample_rate).to(self.device)).float().cpu().numpy()
