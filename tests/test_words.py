"""What visitors read is in their language: all that the core says has its Korean, and what they can provoke comes out so."""

from __future__ import annotations

import ast
import copy
import errno
import pickle
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import studio_tools
from studio_tools import entry, run_vamp, short_clip, values
from tiny import tiny_vampnet

import vampnet
from vampnet import audio, checkpoints, hub, hub_errors, loops
from vampnet.beats import BeatGrid
from vampnet.catalogue import catalogue
from vampnet.config import CancelledError, Prompt, Sampling
from vampnet.gallery import Gallery
from vampnet.gallery_index import Limits
from vampnet.sentences import Sentence, sentence_of
from vampnet.studio import tempo
from vampnet.studio.chooser import Chooser
from vampnet.studio.comp_room import comp_title
from vampnet.studio.controls import CONTROLS, Request, info_of
from vampnet.studio.handlers import Handlers, about_source
from vampnet.studio.paint import read_paint
from vampnet.studio.prompts import Prompts
from vampnet.studio.restoring import Restoring
from vampnet.studio.session import Session
from vampnet.studio.share_data import publish
from vampnet.studio.share_html import Visit, vamp_page
from vampnet.studio.share_words import describe_settings
from vampnet.studio.sharing import Sharing
from vampnet.studio.shelf import ModelShelf
from vampnet.studio.text import core_ko, en, ko, tell, worded
from vampnet.studio.titles import say_title, title_of

handlers, known_beats = studio_tools.handlers, studio_tools.known_beats
PACKAGE = Path(vampnet.__file__).parent

SAME = set(
    "wav flac ogg mp3 json khz dbfs kbps bpm ms mb gb cpu gpu mit vampnet gradio librosa beat this mini tiny hop zip top "
    "huggingface hf hub home auth login offline token endpoint https http config codec coarse fine safetensors pth state dict "
    "torch package save audiotools model path false kwargs sha tree main space pkl csv off inf numba cache dir".split()
)
"""Words that are written like this in Korean too: formats, units, names of programs, files and variables."""


def english_in(text: str, *own: str) -> list[str]:
    """The English words of a text; tags, `own` and what is the same in every language are none."""
    plain = re.sub(r"<[^>]*>", " ", text)
    for name in own:
        plain = plain.replace(name, " ")
    return [word for word in re.findall(r"[A-Za-z]{3,}", plain) if word.lower() not in SAME]


def assert_korean(text: str, *own: str) -> None:
    assert re.search("[가-힣]", text) and not english_in(text, *own), (text, english_in(text, *own))


def fields(pattern: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(pattern) if name}


@pytest.fixture
def session(handlers: Handlers) -> Iterator[Session]:
    """A visitor of `handlers` who speaks Korean."""
    made = Session(handlers.files)
    made.language = "ko"
    yield made
    made.close()


# ------------------------------------------------------------------------------------------------------------- mechanism


def test_a_sentence_is_english_and_remembers_what_it_was_made_of() -> None:
    inner = Sentence("only {room} whole bars", room=3)
    said = Sentence("The audio holds {held}, and {wanted} wanted: use a longer clip.", held=inner, wanted="{0} {x}")
    assert said == "The audio holds only 3 whole bars, and {0} {x} wanted: use a longer clip."
    for error in (ValueError(said), FileNotFoundError(said), audio.AudioError(said), CancelledError(said)):
        assert str(error) == said and sentence_of(error) is said and "온전한 마디가 3개만" in tell(error, "ko")
        assert tell(error) == said and tell(error, "xx") == said
        # As it comes from another process, and from a thread that has kept a copy.
        for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert tell(other, "ko") == tell(error, "ko")
    assert tell(ValueError("plain"), "ko") == "plain" and tell(OSError(errno.ENOSPC, "full"), "ko") == "[Errno 28] full"
    # The page has its own names for options.
    with pytest.raises(ValueError, match="^steps must be at least 1, not 0"):
        Sampling(steps=0)
    known = Sentence("{field} must be at least 1, not {value}.", field="steps", value=0)
    assert tell(known, "ko").startswith("샘플링 단계 수:") and tell(known).startswith("Sampling steps must")


def patterns() -> Iterator[tuple[str, str]]:
    """(file, pattern) of every `Sentence` in the core, and that each is written out."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "studio" in path.parts or path.name == "sentences.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Sentence", "_require"):
                given = node.args[3 if node.func.id == "_require" else 0]
                if isinstance(given, ast.Constant):
                    yield path.name, given.value
                else:
                    assert ast.unparse(given) == "pattern" and path.name == "config.py", (path, node.lineno)


def test_every_sentence_of_the_core_has_its_korean_and_none_is_left_over() -> None:
    found = dict((pattern, file) for file, pattern in patterns())
    assert len(found) > 100 and set(found) == set(core_ko.TEXT)
    for pattern, said in core_ko.TEXT.items():
        assert fields(pattern) == fields(said) and not english_in(re.sub("{.*?}", "", said)), pattern
        assert re.search("[가-힣]", said), pattern
    # One English sentence has one translation.
    keys = {key for path in PACKAGE.rglob("*.py") for key in re.findall(r'worded\(\s*"([^"]+)"', path.read_text("utf-8"))}
    assert len(keys) > 25
    for key in keys:
        assert {ko.TEXT[other] for other, text in en.TEXT.items() if text == en.TEXT[key]} == {ko.TEXT[key]}, key


# ------------------------------------------------------------------------------------------------------- what is provoked


def bad_files(folder: Path) -> Iterator[Path]:
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("not a sound")
    for name, samples, rate in (
        ("short", np.ones(100), 44_100), ("silent", np.zeros(44_100), 44_100), ("long", np.ones((601 * 8000, 1)) * 0.1, 8000),
        ("many", np.ones((9000, 20)) * 0.1, 44_100), ("slow", np.ones(9000) * 0.1, 300),
    ):  # fmt: skip
        soundfile.write(folder / f"{name}.wav", samples, rate, subtype="PCM_U8" if name == "long" else None)
    yield from sorted(folder.glob("*.wav"))


def test_files_that_cannot_be_used(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    files = [*bad_files(tmp_path), tmp_path, tmp_path / "none.wav"]
    told = [handlers.choose(session, str(path)) for path in files]
    for message in (*told, handlers.choose(session, None)):
        assert "vs-error" in message
        assert_korean(message, str(tmp_path), *(path.name for path in files))
    assert len(set(told)) == 9 and session.source is None
    assert_korean(Restoring.choose_dropped(SimpleNamespace(handlers=handlers), session, SimpleNamespace(path="/etc/passwd")))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": None}, {"seed": 1.5}, {"seed": -1}, {"takes": 9}, {"bars": "3"}, {"steps": 0}, {"temperature": -1},
        {"top_p": 0}, {"dropout": 2}, {"region": [2, 1]}, {"region": [1]}, {"region": [50, 60]}, {"extend_after": -1},
        {"extend_after": 900}, {"bars": "8"}, {"kept_codebooks": 99}, {"periodic_width": 0}, {"sample_cutoff": 2},
        {"paint": "x"}, {"periodic": -1}, {"prefix_seconds": float("inf")}, {"periodic": 2.5},
        {"paint": {"levels": 14, "steps": 7, "keep": [[0, 0, 7]], "make": []}},
    ],
)  # fmt: skip
def test_settings_that_cannot_be(handlers: Handlers, session: Session, tmp_path: Path, changes: dict[str, Any]) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "clip.wav", 1.0)))
    handlers.track(session)
    given = values(**changes)
    drawn = handlers.draw(session, *given)
    problem = drawn.get("problem") or drawn["dropped"]
    assert_korean(problem)
    told = run_vamp(handlers, session, **changes) if "vs-error" not in handlers.begin(session, *given)[0] else None
    said = handlers.begin(session, *given)[0] if told is None else told[-1][0]
    assert "vs-error" in said
    assert_korean(said)
    session.request = None


def test_what_else_the_page_says_no_to(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    assert_korean(handlers.begin(session, *values())[0])
    assert_korean(handlers.hear(session, *values())["problem"])
    handlers.choose(session, str(short_clip(tmp_path / "clip.wav", 1.0)))
    assert_korean(handlers.hear(session, *values(periodic=0))["problem"])
    session.source.grid = BeatGrid()
    assert_korean(handlers.draw(session, *values(bars="1"))["problem"])
    assert_korean(handlers.set_tempo(session, SimpleNamespace(act="sideways")), "sideways", *tempo.ACTS)
    for taps in ([1], [1, 1, 1, 1], [0, 9, 18, 27], list("abcd")):
        assert_korean(handlers.set_tempo(session, SimpleNamespace(act="tap", taps=taps, at=None)))
    with pytest.raises(ValueError) as many:
        read_paint({"levels": 1, "steps": 9, "keep": [[0, 0, 1]] * 500_001, "make": []})
    assert_korean(tell(many.value, "ko"))


NOTES: tuple[Callable[[], BeatGrid], ...] = (
    lambda: BeatGrid((0.1, 0.6), (0.1,), 120, "librosa", Sentence("librosa found no beat in the audio.")),
    lambda: BeatGrid((0.1, 0.6), (0.1,), 120, "librosa", "an English note out of a file"),
    lambda: tempo.regular(120, 0, 2),
    lambda: BeatGrid(engine="librosa", note=worded("map.beats.failed", error="OSError")),
)  # fmt: skip


@pytest.mark.parametrize("grid", NOTES)
def test_beats_and_who_found_them(handlers: Handlers, session: Session, tmp_path: Path, grid: Any) -> None:
    handlers.choose(session, str(short_clip(tmp_path / "clip.wav", 1.0)))
    session.source.grid = grid()
    assert_korean(about_source(session), "OSError", "clip")


def test_bars_that_a_clip_does_not_have() -> None:
    clip = audio.load(tiny_clip(3.0))
    for bars, at in ((9, None), (1, None), (2, 2.5), (3, 1.0)):
        try:
            loops.bars(clip, BeatGrid(tuple(np.arange(0, 3, 0.5)), (0.0, 2.0), 120), bars, at)
        except ValueError as error:
            assert_korean(tell(error, "ko"))
    assert "온전한 마디가 하나만" in tell(loops._too_few(2, 1, None), "ko")
    assert_korean(tell(loops._too_few(1, 0, 2.0), "ko"))


def tiny_clip(seconds: float) -> Any:
    return 44_100, (0.1 * np.random.default_rng(0).normal(size=round(44_100 * seconds))).astype(np.float32)


def test_lines_of_controls_are_every_visitors_own_at_once() -> None:
    import gradio as gr

    with gr.Blocks():
        prompts = Prompts()
    for name, control in prompts.controls.items():
        assert ("{" in en.TEXT[f"map.{name}.info"]) == (control.info == info_of(name)), name


# ----------------------------------------------------------------------------------------------------------------- models


def loading(name: str, on_download: Any = None) -> Any:
    raise {"memory": MemoryError(), "odd": RuntimeError("x")}.get(name) or ValueError(worded("map.wrong.settings"))


def test_the_chooser_and_the_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gradio as gr

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    unknown = entry("new", None, False)
    unknown.licence = ""
    shelf = ModelShelf(tiny_vampnet(), catalogue=lambda online: [*catalogue(False), unknown], choice=True)
    held = Handlers(shelf, tmp_path)
    visitor = Session(held.files)
    visitor.language = "ko"
    with gr.Blocks():
        chooser = Chooser(held)
    for shown in chooser.show(visitor, "mini"):
        assert_korean(shown, "hugggof/vampnet", "CC BY-NC-SA", "CC0", "For tests.", "new", *(e.licence for e in shelf.known))
    (tmp_path / "half").mkdir()
    names = ("", "nothing here", "some/repo", "some/repo@x y", str(tmp_path / "half"), "mini:choir", "memory", "odd", "bad")
    for name in names:
        if name in ("memory", "odd", "bad"):
            shelf._load = loading
            shelf._fetch = lambda name, on_download: checkpoints.Located(name, {})
        assert_korean(chooser.begin(visitor, name)[0], name or "-", "half")
        assert shelf.wait(30)
        own = (name or "-", str(tmp_path), "half", "choir", "RuntimeError", str(checkpoints.bundled_folder()))
        if name:
            assert shelf.problem and "." in shelf.problem
            assert_korean(held.model_problem("ko"), *own)
    for task in (shelf._watcher("x"),):
        task("coarse.pth", 1, 2_000_000)
        assert_korean(tell(shelf.task.words, "ko"))


def refusals() -> Iterator[BaseException]:
    """What the hub's doings can end in, as `hub_errors` explains it."""
    import httpx
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    def answer(status: int, kind: type = HfHubHTTPError) -> BaseException:
        return kind("no", response=httpx.Response(status, request=httpx.Request("GET", "https://hub.example")))

    given = [answer(401), answer(404), answer(500), answer(403, GatedRepoError), OfflineModeIsEnabled("x"), ValueError("x"),
             LocalEntryNotFoundError("x"), OSError(errno.ENOSPC, "x"), OSError(errno.EACCES, "거부됨")]  # fmt: skip
    for error in given:
        try:
            with hub_errors.explained("some/repo", "main", "config.json"):
                raise error
        except hub_errors.ModelUnavailable as explained:
            yield explained
    for work in (lambda: hub.check_revision(".."), lambda: checkpoints.find("none")):
        with pytest.raises((ValueError, OSError)) as caught:
            work()
        yield caught.value


def test_what_the_hub_refuses() -> None:
    from huggingface_hub import constants

    told = list(refusals())
    assert len({str(error) for error in told}) == len(told) == 11
    for error in told:
        assert_korean(tell(error, "ko"), "some/repo", constants.ENDPOINT, constants.HF_HUB_CACHE, "none",
                      str(checkpoints.bundled_folder()))  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- sharing


def test_sharing_says_no_in_korean_and_knows_its_limit(handlers: Handlers, session: Session, tmp_path: Path) -> None:
    import gradio as gr

    with gr.Blocks():
        sharing = Sharing(handlers, Gallery(tmp_path / "gallery", Limits(hourly=1)))
    asked = SimpleNamespace(cookies={}, query_params={"vamp": "x"}, headers={}, client=SimpleNamespace(host="203.0.113.7"))
    handlers.choose(session, str(short_clip(tmp_path / "clip.wav")))
    run_vamp(handlers, session)
    vamp = session.vamps[0]["id"]

    def act(**data: Any) -> dict[str, Any]:
        return sharing.act(session, asked, SimpleNamespace(action="share", **data))

    assert_korean(sharing.restore(session, asked)[0])
    for told in (act(vamp="none"), act(vamp=vamp, title="x" * 99), act(vamp=vamp, note="x" * 999)):
        assert_korean(told["problem"])
    shared = [act(vamp=vamp, title=session.vamps[0]["title"]) for _ in range(6)]
    assert [told["stage"] for told in shared] == ["done"] * 5 + ["again"] and "분 뒤에" in shared[-1]["problem"]
    assert_korean(shared[-1]["problem"])


def test_titles_and_settings_are_told_to_everybody_in_their_language(tmp_path: Path) -> None:
    from shared_vamps import make_vamp

    gallery = Gallery(tmp_path)
    prompt = Prompt(periodic=0, beat_width_ms=75, onset_width_ms=10, suffix_seconds=1)
    plain = Request(prompt, Sampling())
    titles = [title_of(Request(Prompt(), Sampling())), title_of(plain), comp_title(title_of(plain)), comp_title("Für Elise")]
    for title in titles:
        named, _ = publish(gallery, make_vamp(1, 0.1), title=say_title(title), named=title, source_name="Piano")
        settings = gallery.settings(named.id)
        page = vamp_page(Visit("ko", "https://studio.example"), named, settings, named, [named])
        assert_korean(page.split("<script type=")[0], "Piano", "Für Elise", named.id)
        assert f"<h1>{say_title(title, 'en')}</h1>" in vamp_page(Visit("en", "x"), named, settings, None, [])
    for term, value, hint in describe_settings({**settings, "extend": [1, 2], "painted": True, "bars": 2}, "ko"):
        assert not english_in(f"{term} {value} {hint}")
    many = [["map.preset.vary", {}]] * 99
    for damaged in (
        "x", 7, [], [[]], many, [["page.title", {}]], [["map.preset.vary"]], [[1, 2]], [["deck.title.periodic", {}]],
    ):  # fmt: skip
        assert say_title(damaged) == ""


def test_the_names_of_all_controls_are_korean() -> None:
    assert all(re.search("[가-힣]", ko.TEXT[f"map.{control.name}"]) for control in CONTROLS)
