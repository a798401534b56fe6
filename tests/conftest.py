"""Fixtures for all tests: small deterministic music, and Chromium for the browser tests."""

from __future__ import annotations

import os

# Read at import by huggingface_hub and gradio, so they are set before anything is imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# One of several workers (pytest-xdist) has one core, and so have the processes that its tests start. It inherits the variable
# of the process that starts the workers, which has loaded this file too.
os.environ["OMP_NUM_THREADS"] = "1" if "PYTEST_XDIST_WORKER" in os.environ else os.environ.get("OMP_NUM_THREADS", "2")

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vampnet.config import SAMPLE_RATE
from vampnet.own_folder import keep_uploads_apart

keep_uploads_apart()  # before a test imports gradio
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

BPM = 120.0
CHORDS = ((0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14))
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def one_thread():
    """Models and clips this small gain nothing from threads, and on a busy machine these wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test with one thread and with several, on enough numbers for these to be used."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that several workers end together; skip tests marked `gpu` where there is no CUDA device."""
    items.sort(key=lambda item: (item.path.name != "test_scripts.py", not item.path.name.startswith("test_browser")))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Models that a test builds have the same random weights in every run and in any order of tests."""
    torch.manual_seed(0)


def _note(semitones: float, count: int, decay: float) -> np.ndarray:
    """A plucked note of four harmonics: (count,) float64; `semitones` above C4, `decay` in 1/s."""
    seconds = np.arange(count) / SAMPLE_RATE
    frequency = 261.63 * 2 ** (semitones / 12)
    wave = sum(np.sin(2 * np.pi * frequency * h * seconds) / h**1.5 for h in range(1, 5))
    return wave * np.exp(-decay * seconds) * np.minimum(1.0, seconds / 0.003)


def synthesise_music(seconds: float = 4.0, seed: int = 0) -> np.ndarray:
    """Chords, bass and drums at 120 beats a minute, a different chord every second.

    Args:
        seconds: length; the result has round(seconds * 44100) samples.
        seed: of the drums' noise and the melody.

    Returns:
        (2, samples) float32 at 44.1 kHz, peak 0.7; left and right differ.
    """
    rng = np.random.default_rng(seed)
    total = round(seconds * SAMPLE_RATE)
    beat = round(60 / BPM * SAMPLE_RATE)
    out = np.zeros((2, total + 2 * beat))

    def add(start: int, wave: np.ndarray, left: float, right: float) -> None:
        out[:, start : start + len(wave)] += np.outer((left, right), wave)

    for index, start in enumerate(range(0, total, beat)):
        chord = CHORDS[(index // 2) % len(CHORDS)]
        add(start, _note(chord[0] - 24, beat, 4.0), 0.5, 0.5)
        for place, semitones in enumerate(chord):
            add(start, _note(semitones, beat, 3.0), 0.3 - 0.1 * place, 0.1 + 0.1 * place)
        add(start + beat // 2, _note(rng.choice(chord) + 12, beat // 2, 6.0), 0.1, 0.3)
        decay = np.exp(-np.arange(beat // 4) / (0.02 * SAMPLE_RATE))
        add(start, rng.standard_normal(beat // 4) * decay, 0.25, 0.2)
    out = out[:, :total]
    return (0.7 * out / max(np.abs(out).max(), 1e-9)).astype(np.float32)


def without_length(flac: bytes) -> bytes:
    """A FLAC file as an encoder leaves it that writes to a pipe: its header does not tell how long it is."""
    data = bytearray(flac)
    data[8 + 13] &= 0xF0  # STREAMINFO: the total of 36 bits, 0 = unknown
    data[8 + 14 : 8 + 18] = bytes(4)
    return bytes(data)


def unspeakable(folder: Path) -> str:
    """The path of a file whose name is bytes and no text; skips the test where the disk itself takes no such name."""
    name = os.fsdecode(os.path.join(os.fsencode(folder), b"caf\xe9.wav"))
    try:
        open(name, "wb").close()
    except OSError:
        pytest.skip("this disk takes UTF-8 alone")
    os.remove(name)
    return name


@pytest.fixture(scope="session")
def make_music() -> Callable[..., np.ndarray]:
    """`make_music(seconds=4.0, seed=0)` -> (2, samples) float32 at 44.1 kHz; see `synthesise_music`."""
    return synthesise_music


@pytest.fixture
def music() -> np.ndarray:
    """Four seconds of `synthesise_music`: (2, 176400) float32 at 44.1 kHz."""
    return synthesise_music()


@pytest.fixture
def tone() -> np.ndarray:
    """One second of a 440 Hz sine, amplitude 0.5, on both channels: (2, 44100) float32 at 44.1 kHz."""
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    return np.stack([wave, wave]).astype(np.float32)


@pytest.fixture
def music_file(music: np.ndarray, tmp_path: Path) -> Path:
    """The `music` fixture as a 16-bit stereo wav file."""
    path = tmp_path / "music.wav"
    soundfile.write(path, music.T, SAMPLE_RATE, subtype="PCM_16")
    return path


def find_chromium() -> str | None:
    """Path of an installed Chromium, None if there is none."""
    return next((path for path in map(shutil.which, CHROMIUM_NAMES) if path), None)


# A module's scope: while Playwright is open its event loop runs in this thread, where other tests may need their own.
@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A headless Chromium (`playwright.sync_api.Browser`); `browser.new_page()` gives a page.

    Without a Chromium the test is skipped, and in CI (environment variable CI) it fails.
    """
    path = find_chromium()
    if path is None:
        reason = "no Chromium on the PATH (Debian: apt-get install chromium)"
        pytest.fail(reason, pytrace=False) if os.environ.get("CI") else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    flags = ("no-sandbox", "disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync")
    arguments = [f"--{flag}" for flag in (*flags, "no-first-run", "autoplay-policy=no-user-gesture-required")]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()
