"""What a Space and a container need: the head of the README, the Dockerfile, and the script that uploads."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gradio
import pytest
from huggingface_hub import RepoCard, SpaceCardData, SpaceHardware

import app
from vampnet.studio import page

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deploy_space", ROOT / "scripts" / "deploy_space.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --------------------------------------------------------------------------------------------------------------- the README


def test_the_head_of_the_readme_is_what_a_space_takes():
    data = RepoCard.load(ROOT / "README.md").data.to_dict()
    SpaceCardData(**data)
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert data["sdk"] == "gradio" and {data["colorFrom"], data["colorTo"]} <= colours
    assert re.fullmatch(r"6\.\d+\.\d+", data["sdk_version"])
    assert tuple(map(int, data["sdk_version"].split("."))) <= tuple(map(int, gradio.__version__.split(".")[:3]))
    assert (ROOT / data["app_file"]).is_file() and data["license"] == "mit"
    assert data["suggested_hardware"] in [item.value for item in SpaceHardware]
    # What ZeroGPU runs, and what pyproject.toml allows.
    assert data["python_version"] in ("3.10.13", "3.12.12")
    assert len(data["short_description"]) <= 60
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", name) for name in data["models"])


# ------------------------------------------------------------------------------------------------------------ the container


def instructions(text: str) -> list[tuple[str, str]]:
    """(NAME, rest) of each instruction of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)]


def test_the_dockerfile_names_what_there_is():
    found = instructions(DOCKERFILE)
    names = [name for name, _ in found]
    values = dict(found)
    assert names[0] == "FROM" and re.fullmatch(r"python:3\.1[0-3]-slim", values["FROM"])
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = set()
    for name, rest in found:
        if name == "COPY":
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            copied.update(sources)
    assert copied == kept and "*" in ignored
    assert all((ROOT / name).exists() for name in copied)
    # Nothing runs as root but the installation.
    assert values["USER"] != "root"
    assert [rest for name, rest in found[names.index("USER") :] if name == "RUN"] == ["python -m vampnet compile"]
    command = json.loads(values["CMD"])
    assert command[:2] == ["python", "app.py"]
    options = app.read_options(command[2:])
    assert options.host == "0.0.0.0" and str(options.port) == values["EXPOSE"] == "7860" and not options.models
    check = json.loads(values["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[2], "healthcheck", "exec")
    assert f":{options.port}/" in check[2]
    environment = dict(part.split("=", 1) for part in values["ENV"].split())
    for name in ("VAMPNET_GALLERY", "HF_HOME"):
        assert environment[name].startswith(values["VOLUME"] + "/")


def test_the_readme_starts_the_container_as_the_dockerfile_means_it():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    build, run = re.search(r"docker build .*", readme)[0], re.search(r"docker run .*", readme)[0]
    values = dict(instructions(DOCKERFILE))
    assert f"-p {values['EXPOSE']}:{values['EXPOSE']} " in run and f":{values['VOLUME']} " in run
    assert run.split()[-1] == build.split()[-2] and f"{build} && {run}" in DOCKERFILE


# --------------------------------------------------------------------------------------------------------------- the upload


def test_a_space_gets_all_it_needs_and_nothing_else(script, tmp_path):
    files = dict(script.files_of())
    assert files["checkpoints/mini/coarse.safetensors"] == (ROOT / "checkpoints/mini/coarse.safetensors").stat().st_size
    assert {"app.py", "README.md", "LICENSE", "requirements.txt", "vampnet/studio/web/style.css"} < files.keys()
    assert not [path for path in files if path.startswith(("tests/", "scripts/", ".")) or "__pycache__" in path]
    assert all(path.endswith(".png") for path in files if path.startswith("docs/"))
    # Nothing that is uploaded imports what is not, but for commands that a Space does not give.
    here = {path for path in files if path.endswith(".py")}
    for path in here - {"vampnet/cli.py"}:
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                place = name.replace(".", "/")
                if place.startswith("vampnet/"):
                    assert {f"{place}.py", f"{place}/__init__.py"} & here, f"{path} imports {name}"
    for name in ("vampnet/a.py", "vampnet/secret.key", "vampnet/.env", "vampnet/__pycache__/a.pyc", "vampnet/train/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "vampnet" / "link.py").symlink_to(ROOT / "LICENSE")
    assert script.files_of(tmp_path) == [("vampnet/a.py", 1)]


class Api:
    """Stands in for `huggingface_hub.HfApi`: remembers what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **given: Any) -> str:
            self.calls.append((name, {**given, "args": args}))
            return "the address"

        return call


def test_a_dry_run_says_what_would_be_done(script, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("a dry run needs no hub"))
    assert script.main(["me/studio", "--dry-run", "--hardware", "zero-a10g", "--variable", "A=b=c"]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = script.files_of()
    assert lines[: len(files)] == [f"{size:>12,}  {path}" for path, size in files]
    assert lines[len(files)] == f"{sum(size for _, size in files):>12,}  bytes in {len(files)} files"
    assert lines[-3:-1] == ["variable A=b=c", "hardware zero-a10g"] and lines[-1].startswith("Nothing was uploaded")


def test_the_space_is_made_and_set_up_before_it_is_filled(script, capsys):
    api = Api()
    assert script.main(["me/studio", "--hardware", "cpu-basic", "--private", "--variable", "A=b"], api) == 0
    assert [name for name, _ in api.calls] == [
        "create_repo", "add_space_variable", "request_space_hardware", "upload_folder"
    ]  # fmt: skip
    made, variable, hardware, upload = (given for _, given in api.calls)
    assert made["exist_ok"] and made["space_sdk"] == "gradio" and made["private"] is True and made["repo_type"] == "space"
    assert variable["args"] == ("me/studio", "A", "b") and hardware["args"] == ("me/studio", "cpu-basic")
    paths = [path for path, _ in script.files_of()]
    everything = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert sorted(p for p in everything if any(fnmatch.fnmatch(p, one) for one in upload["allow_patterns"])) == paths
    assert "the address" in capsys.readouterr().out
    api.upload_folder = lambda **given: (_ for _ in ()).throw(OSError("401\nlog in first"))
    assert script.main(["me/studio"], api) == 1
    assert capsys.readouterr().err == "error: 401 log in first\n"


@pytest.mark.parametrize(
    "wrong", [["studio"], ["a/b/c"], ["a/"], ["a/b", "--hardware", "fast"], ["a/b", "--variable", "x"]], ids=" ".join
)
def test_bad_options_of_the_upload_are_refused(script, wrong, capsys):
    with pytest.raises(SystemExit):
        script.main([*wrong, "--dry-run"])
    assert "error: " in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------------ the app


def test_mcp_says_what_it_needs_and_is_offered_when_it_is_there(monkeypatch, capsys):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    assert not app.read_options([]).mcp
    with pytest.raises(SystemExit):
        app.read_options(["--mcp"])
    assert 'python -m pip install "gradio[mcp]"' in capsys.readouterr().err
    monkeypatch.setattr(app, "find_spec", lambda name: object())
    launched: dict[str, Any] = {}
    blocks = SimpleNamespace(launch=lambda **options: launched.update(options), block_thread=lambda: None)
    monkeypatch.setattr(page, "build", lambda *given, **options: (blocks, {}))
    monkeypatch.setattr("vampnet.studio.warm_up.warm_up", lambda shelf: None)
    monkeypatch.setattr("vampnet.studio.shelf.ModelShelf.start", lambda self, name: None)
    app.main(["--mcp"])
    assert launched["mcp_server"] is True


def test_on_zero_gpu_the_app_has_the_model_before_the_page(monkeypatch):
    monkeypatch.setattr("vampnet.studio.zero.active", lambda: True)
    monkeypatch.setattr("vampnet.studio.warm_up.warm_up", lambda shelf: None)
    order: list[str] = []
    held = SimpleNamespace(loaded=True, wait=lambda: False)
    monkeypatch.setattr("vampnet.studio.zero.shelf", lambda name: order.append(f"model {name}") or held)
    blocks = SimpleNamespace(launch=lambda **options: order.append("page"), block_thread=lambda: None)
    monkeypatch.setattr(page, "build", lambda shelf, **options: (blocks, {}) if shelf is held else pytest.fail("another shelf"))
    app.main([])
    assert order == ["model mini", "page"] and "torch" in sys.modules


def test_pictures_of_the_texts_go_there_too(script):
    there = {path for path, _ in script.files_of()}
    for text in ("README.md", "checkpoints/mini/MODEL_CARD.md"):
        for place in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / text).read_text(encoding="utf-8")):
            path = (ROOT / text).parent.joinpath(place).resolve().relative_to(ROOT).as_posix()
            assert place.startswith("https://") or path in there, f"{text} shows {place}"
