"""The gallery: whole or not at all, an index that is only a copy, limits, private sources, deleting, hostile ids."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from shared_vamps import SECRET_NAME, make_vamp

from vampnet import audio
from vampnet.gallery import ID, Gallery, GalleryError, Limits, NotShared, Shared, new_id

HOSTILE = ["..", ".", "", "../vamps", "\0", "a" * 26, "a" * 100_000, "/etc", "ａ" * 26]


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gallery(tmp_path: Path, clock: Clock) -> Gallery:
    return Gallery(tmp_path / "gallery", clock=clock)


def test_a_vamp_comes_back_after_a_restart(gallery: Gallery) -> None:
    vamp = make_vamp()
    shared, secret = gallery.add(
        vamp, title="  Rain \u202e on\x00 tin ", note="one\n two", owner="me", source_name="Roof", page={"a": [1]},
        files={"picture.png": b"png"},
    )  # fmt: skip
    again = Gallery(gallery.root)
    found = again.get(shared.id)
    assert found == shared and found.title == "Rain on tin" and found.note == "one\ntwo" and found.page == {"a": [1]}
    back = again.read(shared.id)
    assert torch.equal(back.tokens, vamp.tokens) and torch.equal(back.mask, vamp.mask) and back.prompt == vamp.prompt
    assert torch.allclose(back.source.audio_data, vamp.source.audio_data, atol=2e-7)
    assert again.settings(shared.id)["extra"] == {"title": "Rain on tin", "source_name": "Roof"}
    assert set(found.files) == {"take-1.flac", "take-2.flac", "source.flac", "tokens.safetensors", "vamp.json", "picture.png"}
    assert found.bytes == sum(path.stat().st_size for path in (again.vamps / shared.id).iterdir())
    stored = (again.vamps / shared.id / "share.json").read_text()
    assert secret not in stored and '"me"' not in stored


def test_a_private_source_leaks_nothing(gallery: Gallery) -> None:
    vamp, parent = make_vamp(), gallery.add(make_vamp())[0]
    shared, _ = gallery.add(vamp, private=True, source_name=SECRET_NAME, parent=parent.id)
    folder = gallery.vamps / shared.id
    assert {path.name for path in folder.iterdir()} == {"take-1.flac", "take-2.flac", "vamp.json", "share.json"}
    everything = b"".join(path.read_bytes() for path in folder.iterdir())
    for telltale in (SECRET_NAME, "somewhere", "0.1234", parent.id):
        assert telltale.encode() not in everything
    heard = [audio.load(folder / name).audio_data[0].numpy().ravel() for name in ("take-1.flac", "take-2.flac")]
    source = vamp.source.audio_data[0].numpy().ravel()
    assert all(abs(np.corrcoef(source, take)[0, 1]) < 0.05 for take in heard)
    with pytest.raises(NotShared, match="private"):
        gallery.read(shared.id)
    assert gallery.children(parent.id) == []
    # The one with its source has all of these, so that they would have been found.
    assert "source_tokens" in load_file(gallery.path_of(parent.id, "tokens.safetensors"))
    assert b"0.1234" in (gallery.vamps / parent.id / "vamp.json").read_bytes()


def killed(left: int, work: Callable[[], object]) -> int:
    """Does `work` in a process that is killed before its (left + 1)-th fsync, rename or replace; its exit code, 9 if it was."""
    child = os.fork()
    if child == 0:
        try:
            for name in ("fsync", "rename", "replace"):
                real = getattr(os, name)

                def counted(*arguments: object, real: Callable[..., object] = real) -> object:
                    nonlocal left
                    if left == 0:
                        os._exit(9)
                    left -= 1
                    return real(*arguments)

                setattr(os, name, counted)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_kill_at_any_time_leaves_it_whole_or_not_at_all(gallery: Gallery, one_thread) -> None:
    vamp, seen = make_vamp(1, 0.1), []
    gallery.index.close()  # a connection must not be carried across a fork
    for left in range(100):
        code = killed(left, lambda: gallery.add(vamp))
        seen.append((code, len(list(gallery.vamps.iterdir()))))
        assert code in (0, 9)
        if code == 0:
            break
    # Before the rename nothing is seen; a kill after it has lost nothing.
    assert seen[0] == (9, 0) and seen[-1][0] == 0 and len(seen) > 8
    assert [count for _, count in seen[:5]] == [0] * 5
    again = Gallery(gallery.root)
    assert all(again.read(path.name).seed == 7 for path in again.vamps.iterdir())
    assert again.index.totals()[0] == seen[-1][1]
    for path in (gallery.root / ".new").iterdir():
        os.utime(path, (0, 0))
    again.sweep()
    assert list((gallery.root / ".new").iterdir()) == []
    # The same for deleting: gone from sight or still whole, and what is left behind is swept away.
    first = next(gallery.vamps.iterdir()).name
    again.index.close()
    for left in range(2):
        killed(left, lambda: Gallery(gallery.root).remove(first))
    third = Gallery(gallery.root)
    assert list((gallery.root / ".gone").iterdir()) == []
    assert third.index.totals()[0] == len(list(gallery.vamps.iterdir())) == seen[-1][1] - 1


@pytest.mark.parametrize("damage", ["lost", "corrupt", "empty", "stale", "other version", "lost while open"])
def test_the_index_makes_itself_anew(gallery: Gallery, damage: str) -> None:
    first, second = (gallery.add(make_vamp(1, 0.1), owner="me")[0] for _ in range(2))
    child = gallery.add(make_vamp(1, 0.1), parent=first.id)[0]
    index = gallery.root / "index.sqlite"
    if damage == "lost while open":
        index.unlink()
    else:
        gallery.index.close()
    if damage == "lost":
        index.unlink()
    elif damage == "corrupt":
        index.write_bytes(b"SQLite format 3\0" + os.urandom(4096))
    elif damage == "empty":
        index.write_bytes(b"")
    elif damage == "other version":
        with sqlite3.connect(index) as db:
            db.execute("PRAGMA user_version = 99")
    elif damage == "stale":
        # Somebody has cleaned up by hand, and an old index was put back.
        with sqlite3.connect(index) as db:
            db.execute("DELETE FROM vamps WHERE id = ?", (first.id,))
            db.execute("INSERT INTO vamps VALUES (?, 1, 1, 1, '', '')", (new_id(),))
        os.utime(gallery.vamps)
    again = gallery if damage == "lost while open" else Gallery(gallery.root)
    assert {shared.id for shared in again.of_owner("me")} == {first.id, second.id}
    assert [shared.id for shared in again.children(first.id)] == [child.id]
    assert again.index.totals() == (3, sum(shared.bytes for shared in (first, second, child)))


def test_folders_that_come_and_go_beside_it_are_noticed(gallery: Gallery, tmp_path: Path) -> None:
    mine = gallery.add(make_vamp(1, 0.1), owner="me")[0]
    other = Gallery(gallery.root)
    theirs = other.add(make_vamp(1, 0.1), owner="me")[0]
    assert {shared.id for shared in gallery.of_owner("me")} == {mine.id, theirs.id}
    (gallery.vamps / new_id()).mkdir()
    (gallery.vamps / mine.id / "share.json").write_text("{")
    assert [shared.id for shared in gallery.of_owner("me")] == [theirs.id]
    other.delete(theirs.id, owner="me")
    assert gallery.of_owner("me") == []


def test_the_oldest_go_first(tmp_path: Path, clock: Clock) -> None:
    gallery = Gallery(tmp_path, Limits(vamps=3), clock)
    ids = [gallery.add(make_vamp(1, 0.1))[0].id for _ in range(5)]
    assert {path.name for path in gallery.vamps.iterdir()} == set(ids[2:])
    one = gallery.get(ids[-1]).bytes
    gallery = Gallery(tmp_path, Limits(vamps=3, bytes=2 * one + one // 2), clock)
    new = gallery.add(make_vamp(1, 0.1))[0].id
    assert {path.name for path in gallery.vamps.iterdir()} == {ids[-1], new}
    with pytest.raises(GalleryError, match=r"takes .* MB and at most .* MB can be shared") as error:
        gallery.add(make_vamp(4, 0.2))
    assert error.value.reason == "too_large"
    assert {path.name for path in gallery.vamps.iterdir()} == {ids[-1], new}
    assert not list((tmp_path / ".new").iterdir()) and not list((tmp_path / ".gone").iterdir())


def test_the_old_are_gone(tmp_path: Path, clock: Clock) -> None:
    gone: list[str] = []
    gallery = Gallery(tmp_path, Limits(days=30), clock, gone.append)
    shared, _ = gallery.add(make_vamp(1, 0.1))
    clock.now += 29 * 86_400
    assert gallery.get(shared.id)
    clock.now += 2 * 86_400
    with pytest.raises(NotShared):
        gallery.get(shared.id)
    gallery.sweep()
    assert gone == [shared.id] and not list(gallery.vamps.iterdir())


def test_who_may_delete(gallery: Gallery) -> None:
    shared, secret = gallery.add(make_vamp(1, 0.1), owner="mine")
    other, other_secret = gallery.add(make_vamp(1, 0.1))
    for keys in ({}, {"secret": other_secret}, {"owner": "yours"}, {"secret": shared.secret}, {"owner": shared.owner}):
        with pytest.raises(GalleryError, match="Only who shared"):
            gallery.delete(shared.id, **keys)
    gallery.delete(shared.id, owner="mine")
    # Without a cookie nobody is its owner, not even somebody without one.
    with pytest.raises(GalleryError):
        gallery.delete(other.id, owner="")
    gallery.delete(other.id, secret=other_secret)
    for id in (shared.id, other.id):
        with pytest.raises(NotShared):
            gallery.delete(id, secret=secret, owner="mine")
    assert list(gallery.vamps.iterdir()) == []


def test_texts_that_are_too_long_are_refused(gallery: Gallery) -> None:
    for texts, words in (({"title": "x" * 81}, "title has 81"), ({"note": "x" * 601}, "note has 601")):
        with pytest.raises(GalleryError, match=words):
            gallery.add(make_vamp(1, 0.1), **texts)
    with pytest.raises(ValueError):
        gallery.add(make_vamp(1, 0.1), files={"../x": b""})
    assert not list(gallery.vamps.iterdir()) and not list((gallery.root / ".new").iterdir())


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Gallery, Shared]:
    gallery = Gallery(tmp_path_factory.mktemp("one") / "gallery")
    (gallery.root / "vamp.json").write_text("{}")
    return gallery, gallery.add(make_vamp(1, 0.1))[0]


@settings(max_examples=60, deadline=None, database=None)
@given(st.one_of(st.text(max_size=60), st.sampled_from(HOSTILE)))
def test_hostile_ids_and_names_find_nothing(one: tuple[Gallery, Shared], text: str) -> None:
    gallery, shared = one
    with pytest.raises(NotShared):
        gallery.get(text)
    for name in (text, f"../{shared.id}/{text}", "share.json", "../../vamp.json", "take-1.flac/", "TAKE-1.FLAC"):
        with pytest.raises(NotShared):
            gallery.path_of(shared.id, name)
    for id in (f"{shared.id}{text}" if text else "", shared.id.upper(), f"../vamps/{shared.id}", f"{shared.id}/"):
        with pytest.raises(NotShared):
            gallery.get(id)


def test_ids_cannot_be_guessed() -> None:
    ids = {new_id() for _ in range(2000)}
    assert len(ids) == 2000 and all(ID.fullmatch(id) for id in ids)
    # All 26 places vary: 25 of 32 characters and one of 8 are 128 bits.
    assert [len({id[place] for id in ids}) for place in range(26)] == [32] * 25 + [8]


def test_many_threads_at_once(tmp_path: Path) -> None:
    gallery, vamp, errors = Gallery(tmp_path, Limits(vamps=5)), make_vamp(1, 0.1), []

    def work(number: int) -> None:
        try:
            for _ in range(3):
                shared, secret = gallery.add(vamp, owner=f"owner {number}")
                try:
                    assert gallery.read(shared.id).seed == 7
                    if number % 2:
                        gallery.delete(shared.id, secret=secret)
                except NotShared:
                    pass  # others have taken its place
                gallery.of_owner(f"owner {number}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    there = {path.name for path in gallery.vamps.iterdir()}
    assert not errors and len(there) <= 5
    gallery.index.close()
    assert gallery.index.totals() == (len(there), sum(gallery.get(id).bytes for id in there))
    assert not list((tmp_path / ".gone").iterdir()) and not list((tmp_path / ".new").iterdir())


@pytest.mark.skipif(os.name == "nt", reason="folders have no such modes there")
def test_nobody_else_on_the_computer_reads_the_ids(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir(mode=0o755)
    for name in ("old", "new/gallery"):
        gallery = Gallery(tmp_path / name)
        assert gallery.root.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("when", ["totals", "add"])
def test_a_disk_that_is_full_for_the_index_is_a_sentence_or_nothing(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def full(*given: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(gallery.index, when, full)
    if when == "totals":
        with pytest.raises(GalleryError, match="could not be stored"):
            gallery.add(make_vamp())
        assert not list(gallery.vamps.iterdir())
        return
    shared, secret = gallery.add(make_vamp())
    monkeypatch.undo()
    assert gallery.index.totals()[0] == 1, "the index finds the folder later"
    gallery.delete(shared.id, secret=secret)


@pytest.mark.parametrize("trouble", ["index", "file"])
def test_a_full_disk_keeps_nobody_from_deleting(gallery: Gallery, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    gone: list[str] = []
    gallery.on_delete = gone.append
    (first, secret), (second, _) = (gallery.add(make_vamp(1, 0.1), owner="me") for _ in range(2))

    def full(*given: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    real = sqlite3.connect
    if trouble == "index":
        monkeypatch.setattr(gallery.index, "remove", full)
    else:  # nothing that is opened on the disk can be written to
        gallery.index.close()
        monkeypatch.setattr(sqlite3, "connect", lambda path, **more: real(path, **more) if path == ":memory:" else full())
    gallery.delete(first.id, secret=secret)
    assert gone == [first.id] and not list((gallery.root / ".gone").iterdir())
    assert gallery.of_owner("me") == [second] and gallery.index.totals() == (1, second.bytes)
    # What comes and goes is noticed there too, and the next start has an index on the disk again.
    third = gallery.add(make_vamp(1, 0.1), parent=second.id)[0]
    assert gallery.children(second.id) == [third]
    gallery.delete(second.id, owner="me")
    assert gallery.of_owner("me") == [] and gallery.index.totals() == (1, third.bytes)
    monkeypatch.undo()
    again = Gallery(gallery.root)
    assert again.index.totals() == (1, third.bytes) and (gallery.root / "index.sqlite").exists()


def test_a_full_disk_has_room_as_soon_as_something_is_deleted(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, secret = gallery.add(make_vamp(1, 0.1))
    left: list[list[Path]] = []
    monkeypatch.setattr(gallery.index, "remove", lambda id: left.append(list((gallery.root / ".gone").iterdir())))
    gallery.delete(shared.id, secret=secret)
    assert left == [[]], "the sounds go before the index is written to"
