"""Real huggingface_hub code against a hub on 127.0.0.1, with models in the very format of the published weights."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from hub_server import FILES, GOLDEN, STOCK, Repo, hash_git, hash_lfs, is_lfs
from huggingface_hub import constants
from tiny import tiny_checkpoint

from vampnet import checkpoints, hub, hub_errors
from vampnet.config import CancelledError

pytest_plugins = ["hub_fixtures"]


def cache_files(pattern="*"):
    """Names of the blobs in the cache."""
    return sorted(path.name for path in Path(constants.HF_HUB_CACHE).glob(f"models--*/blobs/{pattern}"))


def refused(kind, name=STOCK, **options):
    """Loads a model, which must fail with exactly this class and one sentence; returns the sentence."""
    with pytest.raises(checkpoints.ModelUnavailable) as error:
        checkpoints.locate(name, **options)
    text = str(error.value)
    assert type(error.value) is kind, text
    assert "\n" not in text and text.endswith(".") and len(text) < 400
    return text


# --------------------------------------------------------------------------------------------------------------- download


def test_fresh_download(server, published):
    calls = []
    models = checkpoints.load(STOCK, on_download=lambda *call: calls.append(call))
    assert models.name == STOCK and models.codec.n_codebooks == 14 and models.coarse.config.layers == 3
    assert cache_files() == sorted(hash_lfs(published[name]) for name in FILES), "nothing else is fetched"
    for name in FILES:
        mine = [call[1:] for call in calls if call[0] == name]
        total = len(published[name])
        assert mine[0] == (0, total) and mine[-1] == (total, total) and mine == sorted(mine)
    # other programs find the files where the hub caches, under the branch that was asked for
    found = huggingface_hub.try_to_load_from_cache(STOCK, "coarse.pth")
    assert Path(found).read_bytes() == published["coarse.pth"]
    assert [one.host for name in FILES for one in server.downloads(name)] == ["localhost"] * 3


def test_the_second_load_needs_no_network(server, unreachable):
    first = checkpoints.locate(STOCK)
    asked = len(server.asked)
    unreachable()
    calls = []
    assert checkpoints.locate(STOCK, on_download=lambda *call: calls.append(call)) == first
    assert len(server.asked) == asked and not calls
    assert checkpoints.load(STOCK).name == STOCK


def test_a_fine_tune_fetches_only_its_own_files(server, published):
    stock = checkpoints.load(STOCK)
    server.asked.clear()
    choir = checkpoints.load(f"{STOCK}:choir")
    assert choir.name == f"{STOCK}:choir"
    assert torch.equal(choir.coarse.mask_vectors, 2 * stock.coarse.mask_vectors)
    assert torch.equal(choir.fine.mask_vectors, 2 * stock.fine.mask_vectors)
    assert not any(server.downloads(name) for name in FILES)
    assert sum(one.sent for one in server.downloads("loras/choir/c2f.pth")) == len(published["loras/choir/c2f.pth"])
    assert "no fine-tune 'opera': it has choir" in refused(hub_errors.FileMissing, f"{STOCK}:opera")


def test_a_replaced_part_is_not_fetched(server):
    models = checkpoints.load(STOCK, codec=GOLDEN / "codec.pth")
    assert models.name == f"{STOCK} + codec.pth" and not server.downloads("codec.pth")


def test_our_format_on_the_hub(server, tmp_path):
    folder = tiny_checkpoint(tmp_path / "tiny")
    checkpoints.write_checksums(folder)
    server.repos["someone/tiny"] = Repo({path.name: path.read_bytes() for path in folder.iterdir()} | {"README.md": b"hello"})
    models = checkpoints.load("someone/tiny")
    assert models.name == "someone/tiny" and models.codec.n_codebooks == 14
    assert not any(one.path.endswith("README.md") for one in server.asked)
    assert checkpoints.load("someone/tiny").name == "someone/tiny"


# ---------------------------------------------------------------------------------------------------------- broken half-way


def test_a_broken_connection_goes_on_where_it_stopped(server, published):
    size_, half = len(published["codec.pth"]), 700_000
    server.breaks["codec.pth"] = [half, 300_000]
    checkpoints.locate(STOCK)
    asked = server.downloads("codec.pth")
    assert [one.range for one in asked] == [None, f"bytes={half}-", f"bytes={half + 300_000}-"]
    assert sum(one.sent for one in asked) == size_, "no byte is sent twice"


def test_a_download_that_failed_goes_on_in_another_run(server, published, monkeypatch):
    monkeypatch.setattr(hub, "RETRIES", 2)
    server.breaks["c2f.pth"] = [500_000, 0, 0, 0]
    text = refused(hub_errors.HubUnreachable)
    assert "500,000 of" in text and "try again" in text
    assert cache_files("*.incomplete") == [f"{hash_lfs(published['c2f.pth'])}.incomplete"]
    assert [one.range for one in server.downloads("c2f.pth")][1:] == ["bytes=500000-"] * 3
    server.asked.clear()
    calls = []
    assert checkpoints.locate(STOCK, on_download=lambda *call: calls.append(call)).name == STOCK
    assert [(one.range, one.sent) for one in server.downloads("c2f.pth")] == [
        ("bytes=500000-", len(published["c2f.pth"]) - 500_000)
    ]
    assert calls[0] == ("c2f.pth", 500_000, len(published["c2f.pth"])) and {call[0] for call in calls} == {"c2f.pth"}
    assert not cache_files("*.incomplete")


def test_a_hub_without_ranges_starts_again(server, published):
    server.ranges = False
    server.breaks["coarse.pth"] = [100_000]
    checkpoints.locate(STOCK)
    assert [one.sent for one in server.downloads("coarse.pth")] == [100_000, len(published["coarse.pth"])]


def test_cancelled_from_on_download(server, published, monkeypatch):
    monkeypatch.setattr(hub, "REPORT_SECONDS", 0.0)

    def stop(name, done, total):
        if name == "codec.pth" and done > total // 3:
            raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        checkpoints.locate(STOCK, on_download=stop)
    part = Path(constants.HF_HUB_CACHE, f"models--{STOCK.replace('/', '--')}/blobs", cache_files("*.incomplete")[0])
    there = part.stat().st_size
    assert len(published["codec.pth"]) // 3 < there < len(published["codec.pth"])
    assert not server.downloads("coarse.pth") and refused_offline_only(monkeypatch)
    server.asked.clear()
    checkpoints.locate(STOCK)
    assert [one.range for one in server.downloads("codec.pth")] == [f"bytes={there}-"]


def refused_offline_only(monkeypatch):
    """Whether the unfinished download does not pass for a model."""
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        return bool(refused(hub_errors.NotCached))


# --------------------------------------------------------------------------------------------------------------- corrupted


@pytest.mark.parametrize("name", ["coarse.pth", "config.json"])
def test_corrupted_is_refused_and_deleted(server, tmp_path, name):
    repo = STOCK
    if name == "config.json":
        folder, repo = tiny_checkpoint(tmp_path / "tiny"), "someone/tiny"
        server.repos[repo] = Repo({path.name: path.read_bytes() for path in folder.iterdir()})
    server.wrong.add(name)
    assert f"{name} of '{repo}' arrived damaged and was deleted" in refused(hub_errors.Damaged, repo)
    digest = (hash_lfs if is_lfs(name) else hash_git)(server.repos[repo].files[name])
    assert not cache_files(f"{digest}*") and not cache_files("*.incomplete")
    assert not list(Path(constants.HF_HUB_CACHE).rglob(name))
    server.wrong.clear()
    assert checkpoints.locate(repo).name == repo


def test_a_file_that_went_bad_in_the_cache_is_deleted(server):
    checkpoints.load(STOCK)
    path = Path(huggingface_hub.try_to_load_from_cache(STOCK, "c2f.pth"))
    path.resolve().write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(hub_errors.Damaged, match="c2f.pth of 'hugggof/vampnet' was damaged on the disk and has been deleted"):
        checkpoints.load(STOCK)
    assert not path.exists() and len(cache_files()) == 2
    server.asked.clear()
    assert checkpoints.load(STOCK).name == STOCK
    assert server.downloads("c2f.pth") and not server.downloads("codec.pth")


def test_a_full_disk(server, monkeypatch):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "is full: make room there" in refused(hub_errors.CacheUnwritable)
    assert not server.downloads("codec.pth")


def test_a_cache_that_cannot_be_written(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert "cannot be used" in refused(hub_errors.CacheUnwritable)


# ----------------------------------------------------------------------------------------------------- what is not there


def test_repository_missing(server):
    assert "no repository 'no/such' that can be read without a token" in refused(hub_errors.AccessDenied, "no/such")


def test_repository_missing_with_a_token(server, monkeypatch):
    server.tokens.add("good")
    monkeypatch.setenv("HF_TOKEN", "good")
    assert "no model repository 'no/such'" in refused(hub_errors.RepoMissing, "no/such")


def test_file_missing(server, published):
    server.repos["a/half"] = Repo({"codec.pth": published["codec.pth"], "coarse.pth": published["coarse.pth"]})
    assert refused(hub_errors.FileMissing, "a/half") == "'a/half' is not complete: c2f.pth missing."
    server.repos["a/other"] = Repo({"README.md": b"hello"})
    assert "config.json, codec.safetensors" in refused(hub_errors.FileMissing, "a/other")
    assert not cache_files(), "it is known before anything is fetched"


def test_file_gone_between_listing_and_download(server):
    listed = hub.listing(STOCK)
    with pytest.raises(hub_errors.FileMissing, match="has no file other.pth"):
        hub.fetch(listed, ["other.pth"])


def test_revisions(server, published):
    assert "has no revision 'v9'" in refused(hub_errors.RevisionMissing, STOCK, revision="v9")
    server.repos[STOCK].refs = ("main", "v1", "refs/pr/1")
    commit = server.repos[STOCK].commit
    names = {}
    for revision in ("v1", "refs/pr/1", commit):
        located = checkpoints.locate(f"{STOCK}@{revision}")
        assert located == checkpoints.locate(STOCK, revision=revision)
        names[revision] = located.name
    assert names == {revision: f"{STOCK}@{revision}" for revision in names}
    assert len(server.downloads("codec.pth")) == 1, "the same bytes are not fetched again"
    # a branch that moved on the hub: what was asked for by commit stays
    server.repos[STOCK].files["coarse.pth"] = published["loras/choir/coarse.pth"]
    assert checkpoints.locate(f"{STOCK}@{commit}").paths["coarse"].read_bytes() == published["coarse.pth"]


def test_private_without_token_and_with_one(server, published, monkeypatch):
    server.repos["me/secret"] = Repo({name: published[name] for name in FILES}, private=True)
    server.tokens.add("good")
    assert "set HF_TOKEN" in refused(hub_errors.AccessDenied, "me/secret")
    monkeypatch.setenv("HF_TOKEN", "bad")
    assert "log in again" in refused(hub_errors.AccessDenied, "me/secret")
    monkeypatch.setenv("HF_TOKEN", "good")
    server.asked.clear()
    assert checkpoints.locate("me/secret").name == "me/secret"
    seen = {one.host: {other.token for other in server.asked if other.host == one.host} for one in server.asked}
    assert seen == {"127.0.0.1": {"Bearer good"}, "localhost": {None}}, "the token goes to the hub alone"


def test_gated_without_token(server, published):
    server.repos["me/gated"] = Repo({name: published[name] for name in FILES}, gated=True)
    text = refused(hub_errors.AccessDenied, "me/gated")
    assert f"must be accepted first: do so at {server.url}/me/gated" in text


# ---------------------------------------------------------------------------------------------------------------- offline


def test_no_network(server, unreachable):
    unreachable()
    text = refused(hub_errors.HubUnreachable)
    assert "cannot be reached" in text and "'mini' needs no network" in text
    assert checkpoints.load("mini").name == "mini"


@pytest.mark.parametrize("status", [200, 500, 503])
def test_a_hub_that_is_down_or_is_none(server, status):
    server.fail = status
    assert ("log-in page" if status == 200 else f"error {status}") in refused(hub_errors.HubUnreachable)


def test_offline_with_and_without_cache(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refused(hub_errors.NotCached)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    first = checkpoints.locate(STOCK)
    asked = len(server.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert checkpoints.locate(STOCK) == first
    assert f"'{STOCK}:choir' is not on this computer" in refused(hub_errors.NotCached, f"{STOCK}:choir")
    assert len(server.asked) == asked


def test_the_variables_are_honoured(server, tmp_path):
    """In a process of its own, since huggingface_hub reads them when it is imported."""
    code = "import sys; from vampnet import checkpoints; print(checkpoints.locate(sys.argv[1]).paths['codec'])"
    base = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    base |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost"}

    def go(**more):
        root = Path(__file__).parent.parent
        return subprocess.run(
            [sys.executable, "-c", code, STOCK], cwd=root, env=base | more, capture_output=True, text=True, timeout=120
        )  # fmt: skip

    empty = go(HF_HUB_OFFLINE="1")
    assert empty.returncode == 1 and "NotCached" in empty.stderr and not server.asked
    online = go()
    path = Path(online.stdout.strip())
    assert path.is_relative_to(tmp_path / "home" / "hub") and path.read_bytes() == (GOLDEN / "codec.pth").read_bytes()
    asked = len(server.asked)
    assert go(HF_HUB_OFFLINE="1").stdout == online.stdout and len(server.asked) == asked


def test_what_a_hub_says_never_leads_out_of_the_cache(server, tmp_path):
    located = checkpoints.locate(STOCK)
    storage = located.paths["codec"].parent.parent.parent
    (storage / "refs" / "main").write_text("../../../..")
    assert hub.snapshot(STOCK) is None
    server.repos["evil/repo"] = Repo(dict(server.repos[STOCK].files), etag="../../../../../evil")
    assert "does not answer as a hub does" in refused(hub_errors.HubUnreachable, "evil/repo")
    assert not list(tmp_path.parent.glob("evil*"))
