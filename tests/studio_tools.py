"""What the studio's tests share: values of the controls, a short clip, beats that need no tracking, small models.

The fixtures here are taken over by name (`handlers = studio_tools.handlers`): an import would be shadowed by the arguments.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_vampnet

from vampnet import beats
from vampnet.beats import make_grid
from vampnet.codec import SpectralCodec, SpectralCodecConfig, save_codec
from vampnet.config import HOP, N_COARSE, N_CODEBOOKS, SAMPLE_RATE, TransformerConfig
from vampnet.model.files import save_transformer
from vampnet.model.transformer import TokenTransformer
from vampnet.pipeline import VampNet
from vampnet.studio.controls import DEFAULTS, NAMES
from vampnet.studio.handlers import Handlers
from vampnet.studio.session import Session

BEATS = make_grid([0.02, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5], [0.02, 2.0], "librosa", "as in the music")


def values(**changes: Any) -> list[Any]:
    """The values of all controls, as a browser sends them, with a quick vamp as the plain one."""
    return [{**DEFAULTS, "steps": 2, "fine_steps": 1, "takes": 1, **changes}[name] for name in NAMES]


@pytest.fixture(autouse=True)
def known_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracking is tested elsewhere; with this it is instant."""
    monkeypatch.setattr(beats, "track", lambda signal, **options: BEATS)


@pytest.fixture(scope="module")
def handlers(tmp_path_factory: pytest.TempPathFactory) -> Handlers:
    """Handlers with the tiny model, and a folder of examples with one sound and one text in it."""
    folder = tmp_path_factory.mktemp("examples")
    soundfile.write(folder / "slow_waltz.wav", 0.3 * np.sin(np.arange(44100) / 20), SAMPLE_RATE)
    (folder / "readme.txt").write_text("not a sound")
    return Handlers(tiny_vampnet(), folder)


@pytest.fixture
def session(handlers: Handlers) -> Iterator[Session]:
    """A visitor of `handlers`."""
    made = Session(handlers.files)
    yield made
    made.close()


def event(**given: Any) -> SimpleNamespace:
    """What Gradio tells a handler of an event with these details."""
    return SimpleNamespace(**given)


def short_clip(path: Path, seconds: float = 0.5) -> Path:
    """Stereo noise at `path`."""
    noise = np.random.default_rng(1).normal(size=(round(seconds * SAMPLE_RATE), 2))
    soundfile.write(path, 0.1 * noise, SAMPLE_RATE, subtype="PCM_16")
    return path


@pytest.fixture
def source(handlers: Handlers, session: Session, tmp_path: Path) -> Session:
    """The visitor, with half a second of noise as the source."""
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    return session


def run_vamp(handlers: Handlers, session: Session, **changes: Any) -> list[tuple]:
    """Presses Vamp and waits: what the page was told."""
    handlers.begin(session, *values(**changes))
    return list(handlers.vamp(session))


class Part(torch.nn.Module):
    """The least that the page asks of a codec or a transformer, with a weight of its own."""

    sample_rate, hop, n_codebooks = SAMPLE_RATE, HOP, N_CODEBOOKS
    config = SimpleNamespace(n_codebooks=N_COARSE)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))


def light_vampnet(name: str = "light") -> VampNet:
    """A `VampNet` that cannot vamp. Nobody else has its weights, so that they can be seen to go."""
    return VampNet(Part(), Part(), Part(), name=name)


def other_vampnet(name: str = "other", levels: int = 9, hop: int = 512, sample_rate: int = 44_100) -> VampNet:
    """A `VampNet` of another shape: fewer codebook levels, and more of them a second."""
    small = {"dim": 32, "layers": 1, "heads": 2, "context": 64}
    codec = SpectralCodec(
        SpectralCodecConfig(
            sample_rate,
            hop,
            dim=16,
            encoder_layers=1,
            decoder_layers=1,
            rounds=2,
            n_codebooks=levels,
            fine_hz=min(11_025.0, sample_rate / 4),
        )  # fmt: skip
    )
    vectors = codec.codebook_vectors()
    models = (
        codec, TokenTransformer(TransformerConfig(4, 0, **small), vectors),
        TokenTransformer(TransformerConfig(levels, 4, **small), vectors),
    )  # fmt: skip
    return VampNet(*(model.eval().requires_grad_(False) for model in models), name=name)


def other_checkpoint(folder: Path) -> Path:
    """Writes such a model as a checkpoint into `folder` and returns it."""
    model = other_vampnet()
    save_codec(model.codec, folder)
    save_transformer(model.coarse, folder, "coarse")
    save_transformer(model.fine, folder, "fine")
    return folder


def entry(name: str, size: int | None = 33_000_000, on_disk: bool = True, source: str = "bundled", **changes: Any) -> Any:
    """An entry of a catalogue."""
    given = {"name": name, "size_bytes": size, "on_disk": on_disk, "source": source, "licence": "MIT", "about": "For tests."}
    return SimpleNamespace(**given, **changes)


class Loader:
    """Stands in for `VampNet.from_pretrained`: gives a `light_vampnet`, and does what a test wants before.

    Attributes:
        asked: the names that were asked for, in order.
        before: {name: called with `on_download` before that model is given}.
    """

    def __init__(self, **before: Callable[[Callable[[str, int, int], None]], None]) -> None:
        self.asked: list[str] = []
        self.before = before

    def __call__(self, name: str, on_download: Callable[[str, int, int], None]) -> VampNet:
        self.asked.append(name)
        self.before.get(name, lambda report: None)(on_download)
        return light_vampnet(name)


def call(address: str, name: str, data: list[Any]) -> list[tuple[str, Any]]:
    """Calls an endpoint as plainly as HTTP can: (event, data) of each answer."""
    event = httpx.post(f"{address}gradio_api/call/{name}", json={"data": data}).json()["event_id"]
    with httpx.stream("GET", f"{address}gradio_api/call/{name}/{event}", timeout=60) as answer:
        lines = [line.partition(": ")[2] for line in answer.iter_lines() if line]
    return [(kind, json.loads(text)) for kind, text in zip(lines[::2], lines[1::2], strict=True)]
