"""CLAP (Wu et al., 2023), a model of sounds and their descriptions: its audio half, as the library transformers has it.

Gui et al. (2024) found its distances closer to what people hear of music than VGGish's. The library is an extra of its own
(`requirements/clap.txt`), and the weights (some 0.8 GB) come from a folder or from the hub.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import hub
from ..fingerprint import of_tensors
from ..hub_errors import FileMissing, HubUnreachable, NotCached
from .extras import need

REPO = "laion/larger_clap_music"
"""Trained on music; "laion/clap-htsat-fused" and "laion/clap-htsat-unfused" are for all sounds and load as well."""
CONFIGS = ("config.json", "preprocessor_config.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""One of them is needed; the first is taken where both are there."""
SHORTEST_SECONDS = 1.0
"""A rest of a clip that is shorter is not heard on its own."""


def find_clap(name: str | Path | None = None, on_download: hub.OnDownload | None = None) -> Path:
    """The folder that holds a CLAP model: a folder, what the hub's cache holds, or a download into that.

    Args:
        name: a folder, or a repository of the hub, "owner/repo" or "owner/repo@revision"; None = `REPO`.
        on_download: see `hub.OnDownload`.

    Raises:
        ValueError: there is no such model, or it cannot be downloaded; the sentence says what to do.
        ModelUnavailable: the hub says no for another reason, such as a repository that is not there.
        CancelledError: raised by `on_download`.
    """
    text = str(REPO if name is None else name)
    if Path(text).is_dir():
        if chosen := _choose(path.name for path in Path(text).iterdir()):
            return Path(text)
        raise ValueError(f"'{text}' holds no CLAP model: it needs {' and '.join(CONFIGS)}, and {' or '.join(WEIGHTS)}.")
    repo, at, revision = text.partition("@")
    if not hub.is_repo(repo):
        raise ValueError(f"There is no CLAP model '{text}': name a folder, or a repository of the hub such as {REPO}.")
    revision = hub.check_revision(revision) if at else "main"
    folder = hub.snapshot(repo, revision)
    if folder is not None and _choose(path.name for path in folder.iterdir()):
        return folder
    why = "HF_HUB_OFFLINE forbids a download"
    if not hub.is_offline():
        try:
            listed = hub.listing(repo, revision)
            if not (chosen := _choose(listed.sizes)):
                raise FileMissing(f"'{text}' is no CLAP model that can be loaded: it has no {' or '.join(WEIGHTS)}.")
            return hub.fetch(listed, chosen, on_download)
        except (HubUnreachable, NotCached):
            why = "the hub cannot be reached"
    raise ValueError(
        f"The CLAP model '{text}' is not on this machine and {why}: give a folder that holds it with --clap, or leave clap out."
    )


def _choose(names: Iterable[str]) -> list[str]:
    """The files to be loaded; none if any is missing."""
    there = set(names)
    weights = [name for name in WEIGHTS if name in there][:1]
    return [*CONFIGS, *weights] if weights and there.issuperset(CONFIGS) else []


def load_clap(folder: str | Path) -> tuple[Any, nn.Module]:
    """The feature extractor and the audio half of a CLAP model, float32 and in eval mode; nothing in the files can run.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: the folder holds no CLAP model.
    """
    transformers = need("transformers", "clap")
    wrong = f"'{folder}' does not hold a CLAP model"
    own = {"local_files_only": True, "trust_remote_code": False}
    talk = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it would list all tensors of the other half
    try:
        extractor = transformers.ClapFeatureExtractor.from_pretrained(str(folder), **own)
        model, info = transformers.ClapAudioModelWithProjection.from_pretrained(
            str(folder), **own, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # a damaged file makes the library raise almost anything
        raise ValueError(f"{wrong} that can be read ({type(error).__name__}): get it again, or another one.") from error
    finally:
        transformers.logging.set_verbosity(talk)
    # The library fills what it does not find with random numbers and only warns.
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"{wrong}: {len(missing)} of its tensors are missing, such as {missing[0]}.")
    return extractor, model.eval().requires_grad_(False)


def windows(samples: int, length: int) -> list[tuple[int, int]]:
    """(start, stop) of what is heard at once of a clip: `length` samples every half of it, and what is left at the end with as
    much before it as fits. A clip that is shorter is one window."""
    starts = list(range(0, max(1, samples - length + 1), length // 2))
    rest = samples - (starts[-1] + length)
    if rest >= SHORTEST_SECONDS / 10 * length:
        starts.append(samples - length)
    return [(start, min(samples, start + length)) for start in starts]


class ClapEmbedding:
    """CLAP as an `embeddings.Embedding`: (frames, 512) of length 1, one frame each 5 s; a clip of 10 s is a single one."""

    name = "clap"
    own = False

    def __init__(self, extractor: Any, model: nn.Module, title: str = REPO, device: str | torch.device = "cpu") -> None:
        self.extractor, self.model, self.device = extractor, model.to(device), device
        self.identity = f"clap {of_tensors(model)}"
        self.about = (
            f"the audio half of CLAP ({title}), trained on sounds and their descriptions; one point for each 10 s, so that it "
            "takes hundreds of clips to fill its 512 dimensions"
        )

    @classmethod
    def load(
        cls, name: str | Path | None = None, device: str | torch.device = "cpu", on_download: hub.OnDownload | None = None
    ) -> ClapEmbedding:
        """See `find_clap` and `load_clap`."""
        need("transformers", "clap")  # before a download that would be for nothing
        title = REPO if name is None else Path(name).name if Path(name).is_dir() else str(name)
        return cls(*load_clap(find_clap(name, on_download)), title, device)

    @torch.no_grad()
    def __call__(self, audio: Tensor, sample_rate: int) -> np.ndarray:
        """(N,) float at any rate -> (frames, 512) float32."""
        import soxr

        rate, length = self.extractor.sampling_rate, self.extractor.nb_max_samples
        wave = audio.detach().float().cpu().numpy()
        if sample_rate != rate:
            wave = soxr.resample(wave, sample_rate, rate, quality="HQ")
        parts = [np.ascontiguousarray(wave[start:stop]) for start, stop in windows(len(wave), length)]
        features = self.extractor(parts, sampling_rate=rate, return_tensors="pt")["input_features"]
        # The extractor calls one window in each batch too long, by chance, where none is: that was for training.
        whole = torch.zeros(len(parts), 1, dtype=torch.bool)
        heard = self.model(input_features=features.float().to(self.device), is_longer=whole.to(self.device)).audio_embeds
        return nn.functional.normalize(heard.float(), dim=-1).cpu().numpy()
