"""The whole run of the bundled model, in its smoke mode: every stage from nothing to a model that vamps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vampnet import Sampling, VampNet

ROOT = Path(__file__).resolve().parent.parent
unix = pytest.mark.skipif(os.name == "nt", reason="the scripts are for a Unix shell")


@unix
def test_the_run_for_a_gpu_makes_a_model(tmp_path, music_file):
    smoke = {"SMOKE": "1", "PYTHON": sys.executable, "WORKERS": "1", "DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    environment = os.environ | smoke
    command = [str(ROOT / "scripts" / "train_mini_gpu.sh"), str(tmp_path / "run")]
    # A first session that is over before it trains, and a second one that goes on.
    first = subprocess.run(command, env=environment | {"SESSION_MINUTES": "0.26"}, capture_output=True, text=True, timeout=230)
    assert first.returncode == 3, first.stderr[-2000:]
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=230)
    assert second.returncode == 0, second.stderr[-2000:]
    model = VampNet.from_pretrained(tmp_path / "run" / "mini", "cpu")
    vamp = model.vamp(music_file, sampling=Sampling(steps=2, fine_steps=1), takes=1)
    assert vamp.takes[0].audio_data.shape == vamp.source.audio_data.shape
    assert np.isfinite(vamp.takes[0].audio_data.numpy()).all()


def test_without_a_gpu_the_gpu_run_says_which_script_to_use(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "DEVICE": "cpu"}
    command = [str(ROOT / "scripts" / "train_mini_gpu.sh"), str(tmp_path)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and "scripts/train_mini.sh" in run.stderr


@unix
def test_the_run_says_what_is_missing_before_it_begins(tmp_path):
    plain = {name: value for name, value in os.environ.items() if name != "SOUNDFONTS"}
    environment = plain | {"PYTHON": sys.executable, "FONT_FOLDER": str(tmp_path)}
    command = [str(ROOT / "scripts" / "train_mini.sh"), "run"]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and "SoundFonts" in run.stderr
    assert (tmp_path / "run").is_dir(), "OUT is a path from where one stands"


MODULES = re.compile(r"-m vampnet\.train\.(\w+)")


def play(tmp_path: Path, done: str, acts: str, **settings: str) -> tuple[int, list[str], Path]:
    """The run with a stand-in for Python: its exit status, the modules that were called, and its folder.

    `done` names the stages that are over, `acts` says in the shell's words what modules do: "corpus) exit 3;;".
    """
    run, log, python = tmp_path / "run", tmp_path / "calls", tmp_path / "python"
    for name in done.split():
        (run / f"{name}.done").parent.mkdir(parents=True, exist_ok=True)
        (run / f"{name}.done").touch()
    shard = run / "tokens" / "train" / "tokens-00000.safetensors"
    shard.parent.mkdir(parents=True)
    python.write_text(
        f'#!/usr/bin/env bash\necho "$*" >>"{log}"\nmake() {{ touch "{shard}"; }}\ncase "${{2##*.}}" in\n{acts}\nesac\nexit 0\n'
    )
    python.chmod(0o755)
    environment = os.environ | {"PYTHON": str(python), "SOUNDFONTS": "", "CODEC_AFTER": "", **settings}
    command = [str(ROOT / "scripts" / "train_mini.sh"), str(run)]
    status = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30
    ).returncode
    return status, MODULES.findall(log.read_text()), run


BEFORE = "audio/held-out codec tokens-held-out"


@unix
def test_music_that_could_not_be_tokenised_is_not_taken_for_done(tmp_path):
    # Something was, so that training begins, and then there is no room.
    acts = "tokens) make; exit 2;;\ntransformer) sleep 1;;"
    status, called, run = play(tmp_path, f"{BEFORE} audio/train", acts, GROW="1")
    assert status == 2 and called.count("transformer") == 2 and "distill" not in called
    assert not (run / "tokens-train.done").exists() and (run / "fine.done").exists()


@unix
def test_music_that_could_not_be_composed_ends_the_run(tmp_path):
    acts = "corpus) exit 2;;\ntokens) make;;\ntransformer) sleep 1;;"
    status, called, run = play(tmp_path, BEFORE, acts, GROW="1", AT_ONCE="1")
    assert status == 2 and "distill" not in called and not (run / "audio" / "train.done").exists()


@unix
@pytest.mark.parametrize(("minutes", "status"), [("60", 3), ("5", 0)])
def test_composing_is_over_by_its_own_time_and_not_by_the_session_s(tmp_path, minutes, status):
    settings = {"SESSION_MINUTES": "9", "CORPUS_MINUTES": minutes}
    found, called, run = play(tmp_path, BEFORE, "corpus) exit 3;;", **settings)
    assert found == status and ("transformer" in called) == (status == 0)
    assert (run / "audio" / "train.done").exists() == (status == 0)


@unix
@pytest.mark.parametrize("begun", ["codec.done", "codec/last.pt"])
def test_the_codec_waits_for_music_but_once(tmp_path, begun):
    (tmp_path / "run" / begun).parent.mkdir(parents=True)
    (tmp_path / "run" / begun).touch()
    acts = "corpus) sleep 20; exit 2;;\ntokens) make;;"
    status, called, _ = play(tmp_path, BEFORE.replace("codec ", ""), acts, GROW="1", CODEC_AFTER="10")
    assert status == 0 and "decoder" in called


@unix
@pytest.mark.parametrize("grow", ["0", "1"])
def test_a_run_that_has_learned_composes_no_more(tmp_path, grow):
    status, called, _ = play(tmp_path, f"{BEFORE} tokens-train coarse fine", "corpus) exit 2;;", GROW=grow)
    assert status == 0 and set(called) == {"transformer", "distill", "decoder"}
    assert called.count("transformer") == 2  # whose weights are exported


def test_composing_and_encoding_stop_in_time_and_go_on(tmp_path):
    from tiny import tiny_checkpoint

    from vampnet.train import corpus, tokens

    compose = ["--out", str(tmp_path / "audio"), "--minutes", "0.04", "--seconds", "1.2"]
    assert corpus.main([*compose, "--stop-after", "0"]) == 3 and not list((tmp_path / "audio").glob("*.flac"))
    assert corpus.main(compose) == 0
    encode = ["--codec", str(tiny_checkpoint(tmp_path / "tiny")), "--audio", str(tmp_path / "audio")]
    encode += ["--out", str(tmp_path / "tokens"), "--device", "cpu"]
    assert tokens.main([*encode, "--stop-after", "0"]) == 3 and not list((tmp_path / "tokens").glob("tokens-*"))
    assert tokens.main(encode) == 0 and list((tmp_path / "tokens").glob("tokens-*"))
