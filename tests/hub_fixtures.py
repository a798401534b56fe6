"""A pytest plugin, for `pytest_plugins = ["hub_fixtures"]`: huggingface_hub asks the hub of `hub_server`."""

import io
import socket

import huggingface_hub
import pytest
import torch
from hub_server import FILES, GOLDEN, STOCK, Repo, serve
from huggingface_hub import constants

from vampnet import hub


@pytest.fixture(scope="module")
def published():
    """{file name: content} of a repository in the published layout, with the fine-tune "choir"."""
    files = {name: (GOLDEN / name).read_bytes() for name in FILES}
    for name in ("coarse.pth", "c2f.pth"):
        other = torch.load(GOLDEN / name, weights_only=True)
        other["state_dict"]["embedding.special.MASK"] *= 2
        buffer = io.BytesIO()
        torch.save(other, buffer)
        files[f"loras/choir/{name}"] = buffer.getvalue()
    return files | {"config.json": b"{}", "wavebeat.pth": b"not needed"}


@pytest.fixture
def server(published, monkeypatch, tmp_path):
    """A hub with the published layout under its published name, that huggingface_hub is set to, and an empty cache."""
    with serve() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(hub, "RETRY_SECONDS", 0.01)
        huggingface_hub.close_session()
        served.repos[STOCK] = Repo(dict(published))
        yield served
        huggingface_hub.close_session()


@pytest.fixture
def unreachable(server, monkeypatch):
    """`unreachable()`: from now on nothing listens where the hub was."""

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    def unplug():
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")

    return unplug
