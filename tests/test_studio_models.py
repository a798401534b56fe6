"""The studio's models without a browser: waiting for one, exchanging it, failures, the chooser."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import studio_tools
import torch
from studio_tools import Loader, entry, light_vampnet, other_vampnet, run_vamp, short_clip, values
from tiny import tiny_checkpoint, tiny_vampnet

from vampnet import checkpoints, fallback
from vampnet.config import CancelledError
from vampnet.pipeline import VampNet
from vampnet.studio import shelf
from vampnet.studio.controls import FOLLOWERS
from vampnet.studio.handlers import Handlers
from vampnet.studio.session import Files, Session
from vampnet.studio.shelf import ModelShelf, Shape

known_beats = studio_tools.known_beats
SECONDS = 60
VISIT = SimpleNamespace(headers={})
"""A visitor without a language."""
MB = 10**6


class Large(type(Path())):
    """The path of a file of 100 MB that is not there."""

    def is_dir(self) -> bool:
        return False

    def stat(self, **options: Any) -> Any:
        return SimpleNamespace(st_size=100 * MB)


def located(name: str, on_download: Any = None) -> Any:
    """Stands in for `checkpoints.locate`: every model is one large file."""
    return SimpleNamespace(name=name, paths={"codec": Large("model.pth")})


@pytest.fixture(autouse=True)
def released(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each time that memory was given back, which would take a while in a process as large as that of tests."""
    calls: list[None] = []
    monkeypatch.setattr(shelf, "release", lambda: calls.append(None))
    return calls


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Sets how many bytes are free."""
    return lambda count: monkeypatch.setattr(shelf, "free_bytes", lambda device: count)


def make_shelf(loader: Loader, *entries: Any, **options: Any) -> ModelShelf:
    """A shelf that holds "old" already, and knows of "new" and whatever else is given, all of them 100 MB large."""
    known = [entry("old"), entry("new", 100 * MB), *entries]
    given = {"load": loader, "fetch": located, "catalogue": lambda online: known, "choice": True}
    return ModelShelf(light_vampnet("old"), "old", **{**given, **options})


def name_of(held: ModelShelf) -> str:
    return held.use(lambda model: model.name)


def exchange(held: ModelShelf, name: str) -> None:
    assert held.start(name) and held.wait(SECONDS)


def told(words: Any) -> list[Any]:
    """All that an asynchronous generator yields."""

    async def gather() -> list[Any]:
        return [each async for each in words]

    return asyncio.run(gather())


def raiser(error: BaseException) -> Callable[..., None]:
    def fail(report: Any) -> None:
        raise error

    return fail


# --------------------------------------------------------------------------------------------------------------- waiting


def test_a_vamp_waits_for_the_model(tmp_path: Path) -> None:
    go = threading.Event()
    handlers = Handlers(ModelShelf(load=lambda name, on_download: go.wait(SECONDS) and tiny_vampnet(), fetch=located), tmp_path)
    session = Session(handlers.files)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    assert "Loading the model" in handlers.begin(session, *values())[0]
    handlers.shelf.start("first")
    lines = []
    for step in handlers.vamp(session):
        lines.append(step[0])
        if not go.is_set():
            assert "Loading the model" in step[0]
            go.set()
    assert "1 take is ready" in lines[-1]
    session.close()


def test_stop_ends_a_vamp_that_waits_for_the_model() -> None:
    with pytest.raises(CancelledError):
        ModelShelf().use(lambda model: model, stopped=lambda: True)


def test_a_model_that_cannot_be_loaded_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checkpoints.FOLDER_VARIABLE, str(tmp_path / "none bundled"))
    held = ModelShelf()
    exchange(held, str(tmp_path / "nothing here"))
    handlers = Handlers(held, tmp_path)
    session = Session(handlers.files)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    line = told(handlers.model_status(Session(handlers.files)))[-1]
    assert "No model could be loaded" in line and "nothing here" in line and 'role="alert"' in line
    assert "No model could be loaded" in handlers.begin(session, *values())[0] and session.request is None
    with pytest.raises(ValueError, match="nothing here"):
        held.use(lambda model: model)
    assert handlers.draw(session, *values())["sentence"]
    session.close()


def test_without_the_model_asked_for_the_bundled_one_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(checkpoints.FOLDER_VARIABLE, str(tiny_checkpoint(tmp_path / "bundled" / "mini").parent))
    held = ModelShelf(load=lambda name, on_download: VampNet.from_pretrained(name, "cpu"))
    exchange(held, str(tmp_path / "nothing here"))
    assert held.title == "mini on cpu" and "nothing here" in held.problem
    line = told(Handlers(held, tmp_path).model_status(Session(Files())))[-1]
    assert "nothing here" in line and "goes on with mini on cpu" in line and 'role="alert"' in line


# -------------------------------------------------------------------------------------------------------------- exchange


def test_the_model_before_is_gone_from_memory(room: Any, released: list[None]) -> None:
    room(10**12)
    held = make_shelf(Loader())
    before = held.use(weakref.ref)
    weights = held.use(lambda model: weakref.ref(next(model.coarse.parameters())))
    del released[:]
    exchange(held, "new")
    assert (name_of(held), held.name, held.problem, held.version) == ("new", "new", "", 2) and released
    fallback.release()
    assert before() is None and weights() is None


def test_published_weights_come_and_go(tmp_path: Path) -> None:
    golden = str(Path(__file__).parent / "golden")
    held = ModelShelf(load=lambda name, on_download: VampNet.from_pretrained(name, "cpu"))
    for folder in (golden, str(tiny_checkpoint(tmp_path / "tiny")), golden):
        exchange(held, folder)
        assert (held.title, held.problem) == (f"{Path(folder).name} on cpu", "")


@pytest.mark.parametrize("bytes_free", [10**12, 150 * MB, None])
def test_where_two_do_not_fit_the_model_before_goes_first(bytes_free: int | None, room: Any) -> None:
    room(bytes_free)
    there: list[bool] = []
    held = make_shelf(Loader(new=lambda report: there.append(before() is not None)))
    before = held.use(weakref.ref)
    exchange(held, "new")
    assert name_of(held) == "new" and there == [bytes_free == 10**12]


def test_the_size_of_a_model_is_that_of_its_weights(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "folder")
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    (folder / "song.wav").write_bytes(bytes(1000))
    assert shelf.bytes_of(checkpoints.locate(folder)) == weights
    (tmp_path / "c2f.pth").write_bytes(bytes(50))
    mixed = {"codec": folder, "coarse": folder, "fine": tmp_path / "c2f.pth"}
    assert shelf.bytes_of(SimpleNamespace(paths=mixed)) == weights + 50


def test_a_model_that_cannot_be_loaded_again_is_never_let_go_of_in_advance(room: Any) -> None:
    room(0)
    held = ModelShelf(light_vampnet("given"), load=Loader(bad=raiser(ValueError("It is bad."))), fetch=located)
    before = held.use(weakref.ref)
    exchange(held, "bad")
    assert name_of(held) == "given" and before() is not None and held.problem == "It is bad."


@pytest.mark.parametrize("bytes_free", [10**12, 0])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("coarse.pth is damaged: get it again."), "coarse.pth is damaged: get it again."),
        (FileNotFoundError("There is no model 'new'."), "There is no model 'new'."),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "There is not enough memory for new"),
        (MemoryError(), "There is not enough memory for new"),
        (KeyError("codec"), "new could not be loaded (KeyError"),
    ],
)  # fmt: skip
def test_after_a_failure_the_model_before_works(error: Exception, words: str, bytes_free: int, room: Any) -> None:
    room(bytes_free)
    loader = Loader(new=raiser(error))
    held = make_shelf(loader)
    exchange(held, "new")
    assert held.problem.startswith(words) and (name_of(held), held.name, held.task) == ("old", "old", None)
    # It stayed, or was loaded again; too little memory beside it was tried again without it.
    tried = 2 if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) and bytes_free else 1
    assert loader.asked == ["new"] * tried + (["old"] if tried == 2 or not bytes_free else [])


def test_a_vamp_ends_with_the_model_that_it_began_with(room: Any) -> None:
    room(10**12)
    held = make_shelf(Loader())
    began, go, seen = threading.Event(), threading.Event(), []

    def work(model: VampNet) -> None:
        began.set()
        assert go.wait(SECONDS)
        seen.append(model.name)

    worker = threading.Thread(target=held.use, args=(work,))
    worker.start()
    assert began.wait(SECONDS)
    exchange(held, "new")
    assert name_of(held) == "new"
    go.set()
    worker.join(SECONDS)
    assert seen == ["old"]


def test_what_needs_the_memory_waits_for_the_vamp(room: Any) -> None:
    room(0)
    loader = Loader()
    held = make_shelf(loader)
    began, go = threading.Event(), threading.Event()
    worker = threading.Thread(target=held.use, args=(lambda model: began.set() or go.wait(SECONDS),))
    worker.start()
    assert began.wait(SECONDS) and held.start("new")
    assert not held.wait(0.5) and "Waiting for a vamp" in held.words and loader.asked == []
    go.set()
    assert held.wait(SECONDS) and name_of(held) == "new"
    worker.join(SECONDS)


@pytest.mark.parametrize("bytes_free", [10**12, 0])
def test_a_download_can_be_cancelled(bytes_free: int, room: Any) -> None:
    room(bytes_free)
    half, go = threading.Event(), threading.Event()

    def download(report: Callable[[str, int, int], None]) -> None:
        report("coarse.pth", 340 * MB, 1330 * MB)
        half.set()
        assert go.wait(SECONDS)
        report("coarse.pth", 350 * MB, 1330 * MB)
        raise AssertionError("The download went on.")

    held = make_shelf(Loader(new=download))
    assert held.start("new") and half.wait(SECONDS)
    assert held.task == shelf.Task("Downloading coarse.pth: 340 of 1,330 MB", 340 * MB, 1330 * MB)
    assert not held.start("another")
    held.cancel()
    go.set()
    assert held.wait(SECONDS) and held.stopped and "Stopped" in held.problem and name_of(held) == "old"
    exchange(held, "another")
    assert name_of(held) == "another" and not held.problem and not held.stopped


def test_files_are_fetched_while_the_model_before_works(room: Any) -> None:
    room(0)
    seen: list[str] = []
    held = make_shelf(Loader(), fetch=lambda name, on_download: seen.append(name_of(held)) or located(name))
    exchange(held, "new")
    assert seen == ["old"] and name_of(held) == "new"
    held = make_shelf(Loader(), fetch=lambda name, on_download: raiser(OSError("No network."))(None))
    before = held.use(weakref.ref)
    exchange(held, "new")
    assert held.problem == "No network." and before() is not None and held.version == 1


def test_hub_models_stay_in_the_list_when_the_disk_is_looked_at_again() -> None:
    stock = entry("hugggof/vampnet", 3 * 10**9, False, "hub")
    style = entry("hugggof/vampnet:choir", 3 * 10**9, False, "hub")
    found = {True: [entry("mini"), stock, style], False: [entry("mini")]}
    held = ModelShelf(tiny_vampnet(), catalogue=lambda online: found[online])
    assert [each.name for each in held.entries(online=False)] == ["mini"]
    assert [each.name for each in held.entries()] == ["mini", "hugggof/vampnet", "hugggof/vampnet:choir"]
    found[False] = [entry("mini"), entry("hugggof/vampnet", source="cached")]
    assert [(each.name, each.on_disk) for each in held.entries(online=False)] == [
        ("mini", True), ("hugggof/vampnet", True), ("hugggof/vampnet:choir", False),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ page


def test_picture_sliders_and_vamps_follow_a_model_of_another_shape(tmp_path: Path, room: Any) -> None:
    room(10**12)
    held = ModelShelf(tiny_vampnet(), "tiny", load=lambda name, on_download: other_vampnet(name), fetch=located)
    handlers = Handlers(held, tmp_path)
    session = Session(handlers.files)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav")))
    before = handlers.draw(session, *values())
    assert (before["levels"], before["steps"]) == (14, 29)
    exchange(held, "other")
    # The page that has not heard of it yet sends what its sliders allow.
    assert "1 take is ready" in run_vamp(handlers, session, kept_codebooks=3)[-1][0]
    line, *changes, drawn = handlers.catch_up(session, *values())
    assert "Model other on cpu" in line and (drawn["levels"], drawn["steps"], drawn["preset"]) == (9, 43, "Vary")
    assert dict(zip(FOLLOWERS, changes, strict=True))["prompt_codebooks"]["value"] == 9 and session.shape == held.shape
    assert all("value" not in part for part in handlers.catch_up(session, *values()))
    session.close()


def test_the_picture_counts_in_the_time_of_the_codec(tmp_path: Path) -> None:
    handlers = Handlers(tiny_vampnet(), tmp_path)
    handlers.shelf.shape = Shape(type(Shape().grid)(22_050, 512), 14, 4)
    session = Session(handlers.files)
    handlers.choose(session, str(short_clip(tmp_path / "noise.wav", 1.0)))
    drawn = handlers.draw(session, *values())
    assert drawn["steps"] == 43 and drawn["seconds"] == pytest.approx(1.0)
    session.close()
