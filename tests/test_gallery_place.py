"""Where the gallery lies: folders, options, and its copy on the hub, with a stand-in for the hub."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shared_vamps import make_vamp

from vampnet import gallery_place
from vampnet.gallery import Gallery, Limits, NotShared, new_id
from vampnet.gallery_place import HubCopy, add_options, default_folder, open_gallery


class Hub:
    """What `HubCopy` asks of `huggingface_hub.HfApi`, with a folder as the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made, self.squashed, self.private = folder, [], 0, True
        folder.mkdir()

    def create_repo(self, *, repo_id: str, repo_type: str, private: bool, exist_ok: bool) -> None:
        self.made.append((repo_id, repo_type, private, exist_ok))

    def repo_info(self, *, repo_id: str, repo_type: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def list_repo_files(self, *, repo_id: str, repo_type: str) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]

    def snapshot_download(self, *, repo_id: str, repo_type: str, local_dir: Path, allow_patterns: list[str]) -> None:
        for pattern in allow_patterns:
            for path in self.folder.glob(pattern):
                there = Path(local_dir) / path.relative_to(self.folder)
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, there)

    def delete_folder(self, *, path_in_repo: str, repo_id: str, repo_type: str) -> None:
        shutil.rmtree(self.folder / path_in_repo)

    def super_squash_history(self, *, repo_id: str, repo_type: str) -> None:
        self.squashed += 1

    def run_as_future(self, work: Callable[..., Any], *given: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(work(*given))
        return future


class Scheduler:
    """Stands in for `huggingface_hub.CommitScheduler`."""

    def __init__(self, **options: Any) -> None:
        self.options, self.hub = options, options["hf_api"]

    def push(self) -> None:
        shutil.copytree(self.options["folder_path"], self.hub.folder / self.options["path_in_repo"], dirs_exist_ok=True)


def started(gallery: Gallery, hub: Hub) -> HubCopy:
    copy = HubCopy(gallery, "me/vamps", scheduler=Scheduler, api=hub)
    copy.start()
    return copy


def test_the_hubs_copy_fills_a_new_disk(tmp_path: Path) -> None:
    hub, gallery = Hub(tmp_path / "hub"), Gallery(tmp_path / "one")
    copy = started(gallery, hub)
    assert hub.made == [("me/vamps", "dataset", True, True)]
    options = copy.scheduler.options
    assert options["private"] and options["repo_type"] == "dataset" and options["folder_path"] == gallery.vamps
    first, second = (gallery.add(make_vamp(1, 0.1), owner="me")[0] for _ in range(2))
    copy.scheduler.push()
    broken = hub.folder / "vamps" / new_id()
    broken.mkdir()
    (broken / "vamp.json").write_text("{}")
    (hub.folder / "vamps" / "..evil").mkdir()
    (hub.folder / "vamps" / "..evil" / "share.json").write_text("{}")
    again = Gallery(tmp_path / "two")
    started(again, hub)
    assert {path.name for path in again.vamps.iterdir()} == {first.id, second.id}
    assert again.get(first.id) == first and again.read(second.id).seed == 7
    assert {shared.id for shared in again.of_owner("me")} == {first.id, second.id}
    # What is deleted goes from the copy and its history too, whoever deletes it.
    again.delete(first.id, owner="me")
    assert not (hub.folder / "vamps" / first.id).exists() and hub.squashed == 1
    assert started(Gallery(tmp_path / "three"), hub).fetch() == 0
    with pytest.raises(NotShared):
        Gallery(tmp_path / "three").get(first.id)
    # One that was never copied is deleted all the same.
    third = again.add(make_vamp(1, 0.1), owner="me")[0]
    again.delete(third.id, owner="me")
    assert {path.name for path in again.vamps.iterdir()} == {second.id}


def test_a_hub_that_cannot_be_reached_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gallery_place._copy_quietly(HubCopy(Gallery(tmp_path), "me/vamps"))  # offline: tests have no network
    assert "no copy in me/vamps" in caplog.text


@pytest.mark.parametrize("private", [False, None])
def test_a_repository_that_others_read_gets_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, private: bool | None
) -> None:
    hub, gallery = Hub(tmp_path / "hub"), Gallery(tmp_path / "one")
    gallery.add(make_vamp(1, 0.1))
    hub.private = private
    copy = HubCopy(gallery, "me/vamps", scheduler=Scheduler, api=hub)
    gallery_place._copy_quietly(copy)
    assert copy.scheduler is Scheduler, "no commit was ever scheduled"
    assert "no copy in me/vamps" in caplog.text and "make it private in its settings" in caplog.text


def test_what_was_deleted_never_comes_back_from_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, gallery = Hub(tmp_path / "hub"), Gallery(tmp_path / "one")
    copy = started(gallery, hub)
    ids = [gallery.add(make_vamp(1, 0.1), owner="me")[0].id for _ in range(3)]
    copy.scheduler.push()
    # The hub fails while one is deleted.
    with monkeypatch.context() as patch:
        patch.setattr(hub, "delete_folder", lambda **_: (_ for _ in ()).throw(OSError("no network")))
        gallery.delete(ids[0], owner="me")
    assert (hub.folder / "vamps" / ids[0]).exists()
    # Another is deleted before the copy has begun, or where it never begins.
    later = Gallery(tmp_path / "one")
    unstarted = HubCopy(later, "me/vamps", scheduler=Scheduler, api=hub)
    later.delete(ids[1], owner="me")
    assert (hub.folder / "vamps" / ids[1]).exists()
    unstarted.start()
    assert {path.name for path in later.vamps.iterdir()} == {ids[2]}
    assert {path.name for path in (hub.folder / "vamps").iterdir()} == {ids[2]}
    assert not list(unstarted.forgotten.iterdir()), "both were confirmed"


@pytest.mark.parametrize("name", ["rename", "rmtree"])
def test_a_kill_while_it_is_deleted_brings_nothing_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hub, gallery = Hub(tmp_path / "hub"), Gallery(tmp_path / "one")
    copy = started(gallery, hub)
    gone, kept = (gallery.add(make_vamp(1, 0.1), owner="me")[0].id for _ in range(2))
    copy.scheduler.push()
    with monkeypatch.context() as patch:
        patch.setattr(os if name == "rename" else shutil, name, lambda *_, **more: sys.exit("killed"))
        with pytest.raises(SystemExit):
            gallery.delete(gone, owner="me")
    again = Gallery(tmp_path / "one")
    copy = started(again, hub)
    assert [path.name for path in again.vamps.iterdir()] == [path.name for path in (hub.folder / "vamps").iterdir()] == [kept]
    assert not list(copy.forgotten.iterdir()) and not list((again.root / ".gone").iterdir())


def test_the_copy_forgets_what_is_gone_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, gallery = Hub(tmp_path / "hub"), Gallery(tmp_path / "one")
    copy = started(gallery, hub)
    id = gallery.add(make_vamp(1, 0.1), owner="me")[0].id
    copy.scheduler.push()
    # The next commit would bring back what is still there.
    monkeypatch.setattr(hub, "run_as_future", lambda work, *given: (work(*given), copy.scheduler.push()))
    gallery.delete(id, owner="me")
    assert not (hub.folder / "vamps" / id).exists()


@pytest.mark.parametrize("limit", ["days", "vamps", "bytes"])
@pytest.mark.parametrize("disk", ["same", "new"])
def test_what_is_beyond_the_limits_leaves_the_copy_too(tmp_path: Path, limit: str, disk: str) -> None:
    now = 1_700_000_000.0
    hub, gallery = Hub(tmp_path / "hub"), Gallery(tmp_path / "same", clock=lambda: now)
    copy = started(gallery, hub)
    made = []
    for _ in range(4):
        now += 20 * 86_400
        made.append(gallery.add(make_vamp(1, 0.1))[0])
    copy.scheduler.push()
    most = {"days": 30, "vamps": 2, "bytes": made[2].bytes + made[3].bytes}[limit]
    again = Gallery(tmp_path / disk, Limits(**{limit: most}), clock=lambda: now)
    copy = started(again, hub)
    left = {shared.id for shared in made[2:]}
    assert {path.name for path in again.vamps.iterdir()} == {path.name for path in (hub.folder / "vamps").iterdir()} == left
    assert not list(copy.forgotten.iterdir())
    copy.scheduler.push()
    assert {path.name for path in (hub.folder / "vamps").iterdir()} == left


def read(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser.parse_args(arguments)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACE_ID", "VAMPNET_GALLERY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gallery_place.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_folder() == tmp_path / "data" / "vampnet" / "gallery"
    monkeypatch.setattr(gallery_place, "SPACE_DISK", tmp_path)
    assert default_folder().parent.parent == tmp_path / "data"
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert default_folder() == tmp_path / "vampnet" / "gallery"
    monkeypatch.setattr(gallery_place, "SPACE_DISK", tmp_path / "none")
    assert default_folder().parent.parent == tmp_path / "data"
    monkeypatch.setenv("VAMPNET_GALLERY", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine"


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VAMPNET_GALLERY", str(tmp_path / "mine"))
    monkeypatch.setenv("VAMPNET_GALLERY_DAYS", "30")
    gallery = open_gallery(read("--gallery-vamps", "7", "--gallery-gb", "0.5"))
    assert gallery is not None and gallery.root == (tmp_path / "mine").resolve()
    assert gallery.limits == Limits(7, 500_000_000, days=30, hourly=20, proxies=0)
    monkeypatch.setenv("VAMPNET_GALLERY_HOURLY", "5")
    monkeypatch.setenv("SPACE_ID", "me/space")
    given = read("--gallery-proxies", "2"), read()
    assert [(one.gallery_hourly, one.gallery_proxies) for one in given] == [(5, 2), (5, 1)]
    assert open_gallery(read("--no-share-links")) is None
    (tmp_path / "file").write_text("in the way")
    assert open_gallery(read("--gallery", str(tmp_path / "file" / "gallery"))) is None
    for bad in ("-1", "many", "nan"):
        with pytest.raises(SystemExit):
            read("--gallery-days", bad)
    monkeypatch.setenv("VAMPNET_GALLERY_DAYS", "soon")
    with pytest.raises(SystemExit):
        read()
    assert "--gallery-days" in capsys.readouterr().err
