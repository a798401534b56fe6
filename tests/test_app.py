"""The options of the app, and what it opens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_checkpoint

import app
from vampnet.program import prepare
from vampnet.studio import page
from vampnet.studio.shelf import ModelShelf

SECONDS = 60


def test_options_of_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACE_ID", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    options = app.read_options(["--model", "m", "--device", "cpu", "--port", "8000", "--host", "0.0.0.0"])
    assert (options.model, options.device, options.port, options.host, options.share) == ("m", "cpu", 8000, "0.0.0.0", False)
    assert app.read_options([]).model == "mini" and not app.read_options([]).share


def test_models_can_be_chosen_only_where_nobody_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACE_ID", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    for arguments, chosen in (
        ([], True), (["--host", "127.0.0.1"], True), (["--host", "0.0.0.0"], False), (["--share"], False),
        (["--no-models"], False), (["--share", "--models"], True),
    ):  # fmt: skip
        assert app.read_options(arguments).models == chosen, arguments
    monkeypatch.setenv("SPACE_ID", "somebody/studio")
    assert not app.read_options([]).models and app.read_options(["--models"]).models


def test_a_browser_is_opened_where_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACE_ID", "GRADIO_SERVER_NAME", "SSH_CONNECTION", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for system, named, opens in (
        ("linux", None, False), ("linux", "DISPLAY", True), ("linux", "WAYLAND_DISPLAY", True), ("darwin", None, True),
        ("win32", None, True), ("darwin", "SSH_CONNECTION", False),
    ):  # fmt: skip
        with monkeypatch.context() as there:
            there.setattr(sys, "platform", system)
            if named:
                there.setenv(named, ":0")
            assert app.read_options([]).browser == opens
            assert app.read_options(["--browser"]).browser and not app.read_options(["--no-browser"]).browser
            assert not any(app.read_options(one).browser for one in (["--host", "0.0.0.0"], ["--share"]))


@pytest.mark.parametrize("browser", [False, True])
def test_the_app_loads_a_checkpoint_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser: bool) -> None:
    made: list[ModelShelf] = []
    told: dict[str, Any] = {}
    blocks = SimpleNamespace(launch=lambda **options: told.update(options), block_thread=lambda: made[0].wait(SECONDS))
    monkeypatch.setattr(page, "build", lambda held, gallery: made.append(held) or (blocks, {}))
    monkeypatch.setattr("vampnet.studio.warm_up.warm_up", lambda shelf: None)
    app.main(
        ["--model", str(tiny_checkpoint(tmp_path / "tiny")), "--device", "cpu", "--no-share-links", *["--browser"] * browser]
    )
    assert made[0].title == "tiny on cpu" and told["inbrowser"] == browser


def test_headers_of_this_computer_are_not_believed_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, wanted in ((None, ""), ("10.0.0.1", "10.0.0.1")):
        monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
        if given:
            monkeypatch.setenv("FORWARDED_ALLOW_IPS", given)
        prepare()
        assert os.environ["FORWARDED_ALLOW_IPS"] == wanted


FIRST_IMPORT_OF_GRADIO = """
import os, sys, app

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "gradio":
            folder = os.environ["GRADIO_TEMP_DIR"]
            print(folder, oct(os.stat(folder).st_mode), os.environ["TMPDIR"] if os.path.isdir(folder) else "missing")
            sys.exit()

sys.meta_path.insert(0, Finder)
app.main(["--no-share-links"])
"""


@pytest.mark.parametrize("given", ["", "mine"])
def test_what_visitors_bring_lies_in_a_folder_of_the_program(tmp_path: Path, given: str) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path), "GRADIO_TEMP_DIR": ""}
    if given:
        (tmp_path / given).mkdir()
        env["GRADIO_TEMP_DIR"] = str(tmp_path / given)
    command = [sys.executable, "-c", FIRST_IMPORT_OF_GRADIO]
    done = subprocess.run(
        command, cwd=app.__file__.rpartition("/")[0], env=env, capture_output=True, text=True, timeout=SECONDS
    )
    folder, mode, there = done.stdout.split()
    assert there == str(tmp_path) and Path(folder).parent == tmp_path, done.stderr
    if given:
        assert Path(folder).name == given and Path(folder).is_dir()  # the user's own, and theirs to keep
    else:
        assert Path(folder).name.startswith("vampnet-uploads-") and mode == "0o40700"
        assert not list(tmp_path.iterdir())  # gone with the program
