"""The ground the other tests stand on: this checkout is the one imported, versions fit together, the browser works."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import vampnet
from vampnet.config import SAMPLE_RATE

ROOT = Path(__file__).resolve().parent.parent


def _imports(path: Path) -> set[str]:
    """Top-level names of the packages that a source file imports, at any depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_this_checkout_is_imported():
    assert Path(vampnet.__file__).resolve().is_relative_to(ROOT)


def test_torch_and_torchaudio_are_the_pinned_pair():
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    for name in ("torch", "torchaudio"):
        assert importlib.metadata.version(name).split("+")[0] == pins[name]


def test_gradio_stays_in_the_studio():
    users = {path.relative_to(ROOT).parts[1] for path in (ROOT / "vampnet").rglob("*.py") if "gradio" in _imports(path)}
    assert users <= {"studio"}


def test_importing_the_package_does_no_heavy_work():
    code = "import sys, vampnet; print(sorted({'gradio', 'librosa', 'audiotools', 'dac', 'beat_this'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_music_is_deterministic_stereo(make_music):
    music = make_music(seconds=1.5)
    assert music.shape == (2, round(1.5 * SAMPLE_RATE)) and music.dtype == np.float32
    assert np.abs(music).max() == pytest.approx(0.7) and not np.allclose(music[0], music[1])
    assert np.array_equal(music, make_music(seconds=1.5)) and not np.array_equal(music, make_music(seconds=1.5, seed=1))


@pytest.mark.browser
def test_browser_runs_scripts(browser):
    page = browser.new_page()
    page.set_content("<p id='x'></p><script>document.getElementById('x').textContent = 6 * 7</script>")
    assert page.inner_text("#x") == "42"
