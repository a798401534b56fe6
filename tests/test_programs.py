"""The endpoints for other programs, called over HTTP as they do it."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import studio_tools
from conftest import synthesise_music
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from studio_tools import call
from tiny import tiny_vampnet

from vampnet import stages, tokens_file
from vampnet.config import PUBLISHED, SAMPLE_RATE, TUNED, Prompt, Sampling
from vampnet.gallery import Gallery
from vampnet.studio import page
from vampnet.studio.endpoints import read_options
from vampnet.studio.lanes import AT_ONCE
from vampnet.studio.programs import Programs
from vampnet.studio.results import Results
from vampnet.studio.session import Files
from vampnet.studio.shelf import Shape

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("one_thread")
known_beats = studio_tools.known_beats
QUICK = {"steps": 2, "fine_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("programs")
    soundfile.write(made / "loop.wav", synthesise_music(2.1).T[:92_345], SAMPLE_RATE, subtype="PCM_16")
    (made / "not sound.wav").write_text("words")
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    blocks, options = page.build(tiny_vampnet(), folder / "no examples", gallery=Gallery(folder / "gallery"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    _, url, _ = blocks.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **options)
    yield url
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def client(address: str, folder: Path) -> Client:
    return Client(address, verbose=False, download_files=folder / "downloads")


@pytest.fixture
def clip(folder: Path) -> Any:
    return handle_file(folder / "loop.wav")


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of sampling takes a while: time to cancel a vamp that is no larger than visitors may ask for."""

    def generate(*given: Any, on_step: Any = None, **options: Any) -> Any:
        def step(*told: Any) -> None:
            time.sleep(0.05)
            if on_step is not None:
                on_step(*told)

        return stages_generate(*given, on_step=step, **options)

    stages_generate = stages.generate
    monkeypatch.setattr(stages, "generate", generate)


def upload(address: str, path: Path) -> dict[str, Any]:
    """A file as an endpoint takes it."""
    there = httpx.post(f"{address}gradio_api/upload", files={"files": (path.name, path.read_bytes())}).json()[0]
    return {"path": there, "meta": {"_type": "gradio.FileData"}}


# ------------------------------------------------------------------------------------------------------------ what is given


def test_the_example_of_the_readme(address: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## From other programs")[2].partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert "http://127.0.0.1:7860" in code and "steps=24" in code
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:7860", address).replace("steps=24", "steps=2"), names)
    assert len(names["takes"]) == 2 and names["settings"]["loop"] and names["settings"]["prompt"]["periodic"] == 7
    for sound in (*names["takes"], names["again"]):
        assert soundfile.info(sound).frames == 92_345
    assert "Keeps" in capsys.readouterr().out
    # The link opens without the studio's page, and the other one lets its owner delete it.
    assert "From a program" in httpx.get(names["links"]["link"]).text
    place, _, secret = names["links"]["delete"].partition("#")
    assert httpx.post(place, data={"secret": secret}).status_code == 200
    assert httpx.get(names["links"]["link"]).status_code == 404


def test_every_parameter_is_described_and_has_its_default(client: Client) -> None:
    found = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(found) == {"/vamp", "/mask", "/encode", "/decode", "/share"}
    for name, endpoint in found.items():
        assert len(endpoint["description"]) > 40, name
        for part in (*endpoint["parameters"], *endpoint["returns"]):
            assert part["python_type"]["description"] and part["python_type"]["type"] != "Any", (name, part["label"])
    given = {part["parameter_name"]: part for part in found["/vamp"]["parameters"]}
    assert given.keys() >= {"source", "takes", "seed", "loop", "bars"} and not given["source"]["parameter_has_default"]
    assert given["source"]["python_type"]["type"] == "filepath" and given["source"]["example_input"]["path"] == "loop.wav"
    for options in (Prompt(), Sampling()):
        for field in fields(options):
            own = isinstance(options, Sampling) and field.name in TUNED
            default = None if own else getattr(options, field.name)
            assert given[field.name]["parameter_default"] == default, field.name
            said = f"null: the model's default; {getattr(options, field.name):g} for the bundled one." if own else ""
            assert given[field.name]["python_type"]["description"].endswith(said), field.name
            assert given[field.name]["parameter_has_default"]
    masked = {part["parameter_name"] for part in found["/mask"]["parameters"]}
    assert masked >= {field.name for field in fields(Prompt)} and "steps" not in masked


def test_what_is_not_given_is_the_models_own_default() -> None:
    shape = Shape(sampling=PUBLISHED)
    assert read_options({}, shape).sampling == PUBLISHED and read_options({}, Shape()).sampling == Sampling()
    asked = read_options({"steps": 4, "guidance": None, "fine_steps": 3}, shape)
    assert asked.sampling == replace(PUBLISHED, steps=4, fine_steps=3)


def test_a_vamp_is_that_of_the_pipeline(client: Client, clip: Any, folder: Path) -> None:
    asked = {"periodic": 5, "region": [0.5, 1.5], "beat_width_ms": 75, "top_k": 50}
    takes, settings = client.predict(clip, **asked, **QUICK, takes=2, seed=3, loop=True, format="flac", api_name="/vamp")
    prompt, sampling = Prompt(5, region=(0.5, 1.5), beat_width_ms=75), Sampling(**QUICK, top_k=50)
    vamp = tiny_vampnet().vamp(folder / "loop.wav", prompt, sampling, 2, 3, loop=True)
    for path, take in zip(takes, vamp.takes, strict=True):
        sound, rate = soundfile.read(path, dtype="float32")
        assert rate == SAMPLE_RATE and Path(path).suffix == ".flac"
        assert np.abs(sound.T - take.audio_data[0].numpy()).max() < 1e-6
    assert [Path(path).name for path in takes] == ["loop-take1-seed3.flac", "loop-take2-seed3.flac"]
    plain = json.loads(json.dumps(vamp.settings()))
    assert {name: settings[name] for name in plain} == plain
    assert re.fullmatch("[0-9a-f]{32}", settings["id"])
    mask = client.predict(clip, **{name: asked[name] for name in asked if name != "top_k"}, seed=3, loop=True, api_name="/mask")
    bits = np.unpackbits(np.frombuffer(base64.b64decode(mask["mask"]), np.uint8))[: mask["levels"] * mask["steps"]]
    assert np.array_equal(bits.reshape(mask["levels"], mask["steps"]), vamp.mask[0].numpy())
    assert mask["kept_share"] == pytest.approx(vamp.kept_share, abs=1e-5)


def test_a_mask_of_a_length_and_tokens_there_and_back(client: Client, clip: Any, folder: Path) -> None:
    mask = client.predict(seconds=3, periodic=7.0, api_name="/mask")
    assert mask["steps"] == 173 and mask["sentence"].startswith("Keeps 14 %")
    tokens, facts = client.predict(clip, loop=True, api_name="/encode")
    file, wanted = tokens_file.read(tokens), tokens_file.compress(tiny_vampnet(), folder / "loop.wav", loop=True)
    assert file.tokens.equal(wanted.tokens) and file.loop and facts["bytes"] == Path(tokens).stat().st_size
    sound, _ = soundfile.read(client.predict(handle_file(tokens), api_name="/decode"), dtype="float32")
    wave = tokens_file.expand(tiny_vampnet(), file).audio_data[0, 0].numpy()
    assert np.abs(sound - wave).max() < 1e-6


# ------------------------------------------------------------------------------------------------------------- bad requests


def test_bad_input_gets_the_sentences_of_the_page(client: Client, clip: Any, folder: Path, capfd: Any) -> None:
    for given, sentence in (
        ({"takes": 99}, "Takes must lie in 1..8, not 99."),
        ({"steps": 0}, "steps must be at least 1, not 0."),
        ({"dropout": 2}, "dropout is a share from 0 to 1"),
        ({"top_k": -1}, "top_k must not be negative"),
        ({"periodic": "seven"}, "Periodic prompt P"),
        ({"bars": "3"}, "Whole bars must be one of off, 1, 2, 4, 8"),
        ({"bars": "8"}, "ask for at most"),
        ({"loop": "yes"}, "loop must be true or false"),
        ({"format": "exe"}, "format must be one of wav, flac, ogg"),
        ({"region": [5, 6]}, "The region starts at 5 s"),
        ({"region": [1]}, "The region must be a start and an end in seconds"),
        ({"region": {"a": 1}}, "region"),
        ({"source": handle_file(folder / "not sound.wav")}, "'not sound.wav' cannot be read as audio"),
    ):
        with pytest.raises(AppError) as caught:
            client.predict(**{"source": clip, **QUICK, **given}, api_name="/vamp")
        assert sentence in str(caught.value), given
    for given, name, sentence in (
        ({"seconds": 1e9}, "/mask", "seconds must lie in 0.1 to 600"),
        ({"seconds": 3, "beat_width_ms": 75}, "/mask", "keeps what follows each beat"),
        ({"seconds": 3, "bars": "2"}, "/mask", "Whole bars are cut from a sound"),
        ({"tokens": clip}, "/decode", "This is not a file of tokens"),
        ({"id": "0" * 32}, "/share", "There is no vamp of this id"),
        ({"id": "../../etc"}, "/share", "There is no vamp of this id"),
        ({"id": "0" * 32, "private": "no"}, "/share", "private is true or false"),
    ):
        with pytest.raises(AppError, match=re.escape(sentence)):
            client.predict(**given, api_name=name)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err


def test_only_uploaded_files_are_read(address: str, folder: Path) -> None:
    outside = str(folder / "loop.wav")
    meta = {"_type": "gradio.FileData"}
    inside = upload(address, folder / "loop.wav")["path"]
    for given in (
        outside, {"path": outside}, {"path": outside, "meta": meta}, {"path": outside, "meta": {"_type": "x"}}, [outside], None,
        {"path": f"{inside}/../../../../../../../..{outside}", "meta": meta}, {"path": inside}, {"path": "", "meta": meta},
        {"path": str(Path(inside).parent), "meta": meta}, {"path": f"{inside}.gone", "meta": meta},
    ):  # fmt: skip
        answer = call(address, "encode", [given, False])
        assert [kind for kind, _ in answer] == ["error"], given
        assert outside not in json.dumps(answer)
    assert call(address, "encode", [{"path": inside, "meta": meta}, False])[-1][0] == "complete"


def test_a_private_source_stays_private(client: Client, clip: Any, folder: Path) -> None:
    _, settings = client.predict(clip, **QUICK, takes=1, api_name="/vamp")
    links = client.predict(settings["id"], title="<b>&", private=True, api_name="/share")
    shown = httpx.get(links["link"]).text
    assert "loop.wav" not in shown and "<b>&" not in shown and "&lt;b&gt;&amp;" in shown
    (kept,) = (folder / "gallery" / "vamps").iterdir()
    assert kept.name in links["link"] and not list(kept.glob("source*"))


# ------------------------------------------------------------------------------------------------- one at a time, stopping


def test_progress_is_told_and_cancelling_ends_a_vamp(client: Client, clip: Any, slowly: None) -> None:
    job = client.submit(clip, steps=72, fine_steps=24, feedback=8, takes=8, api_name="/vamp")
    deadline = time.monotonic() + 30
    while not any(answer[1]["progress"]["stage"] == "coarse" for answer in job.outputs()):
        assert time.monotonic() < deadline and not job.done()
        time.sleep(0.02)
    assert all(answer[0] == [] for answer in job.outputs())
    start = time.monotonic()
    assert job.cancel()
    takes, _ = client.predict(clip, **QUICK, takes=1, api_name="/vamp")
    assert len(takes) == 1 and time.monotonic() - start < 20


def test_one_call_asks_for_no_more_than_some_minutes(client: Client, clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vampnet.studio.endpoints.MOST_WORK", 100)
    with pytest.raises(Exception, match="as much work as one call may ask for"):
        client.predict(clip, steps=72, takes=8, api_name="/vamp")
    assert client.predict(clip, **QUICK, takes=1, api_name="/vamp")[0]


def test_programs_wait_in_a_line_of_their_own(tmp_path: Path) -> None:
    blocks, _ = page.build(tiny_vampnet(), tmp_path)
    programs, people = ([fn for fn in blocks.fns.values() if fn.concurrency_id == name] for name in ("programs", "model"))
    assert {fn.api_name for fn in programs} == {"vamp", "encode", "decode", "process"} and len(people) >= 3
    assert {fn.concurrency_limit for fn in people} == {AT_ONCE} and {fn.concurrency_limit for fn in programs} == {2}
    public = {fn.api_name for fn in blocks.fns.values() if fn.api_visibility == "public"}
    assert public == {"vamp", "mask", "encode", "decode"}


def test_a_folder_in_the_place_of_a_file_does_not_end_the_deletion(tmp_path: Path) -> None:
    blocks, _ = page.build(tiny_vampnet(), tmp_path)
    file, folder = tmp_path / "take.wav", tmp_path / "folder"
    file.write_bytes(b"x")
    folder.mkdir()
    for block in blocks.blocks.values():
        block.temp_files.add(str(folder))
    # A timer, for one, has files that Gradio never looks at, and never any.
    kept = next(one for one in blocks.blocks.values() if any(one.temp_files is files for files in blocks.temp_file_sets))
    kept.temp_files.add(str(file))
    delete_files_created_by_app(blocks, age=None)
    assert not file.exists()


def test_what_was_made_goes_after_its_time(handlers: Any) -> None:
    results = Results(handlers.files, max_age=0.3)
    name, folder = results.new()
    (folder / "take.wav").write_bytes(b"x")
    other, _ = Results(Files()).new()
    assert results.find(name) == folder
    for wrong in (other, "..", "../" + name, name.upper() + "x", "", None, 7):
        assert results.find(wrong) is None
    deadline = time.monotonic() + 10
    while folder.exists():  # also when nobody asks
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert results.find(name) is None
    assert Programs(handlers).results.find(name) is None


handlers = studio_tools.handlers


# --------------------------------------------------------------------------------------------------------------------- HARP


def test_harp_finds_what_it_needs(address: str, folder: Path) -> None:
    (kind, (described,)), *_ = call(address, "controls", [])
    assert kind == "complete" and set(described) == {"card", "inputs", "outputs"}
    assert set(described["card"]) == {"name", "description", "author", "tags"}
    track, *controls = described["inputs"]
    assert track["type"] == "audio_track" and track["required"] and described["outputs"][0]["type"] == "audio_track"
    for control in controls:
        assert control["type"] in ("slider", "number_box", "toggle") and control["label"] and control["info"]
        if control["type"] != "toggle":
            assert control["minimum"] <= control["value"] <= control["maximum"] and control["step"] > 0
    # All numbers come as floats.
    values = [c["value"] if c["type"] == "toggle" else float(c["value"]) for c in controls]
    values[[c["label"].startswith("Sampling steps") for c in controls].index(True)] = 2.0
    sound = upload(address, folder / "loop.wav")
    kind, (take,) = call(address, "process", [sound, *values])[-1]
    assert kind == "complete" and take["meta"] == {"_type": "gradio.FileData"}
    (folder / "take.wav").write_bytes(httpx.get(take["url"]).content)
    assert soundfile.info(folder / "take.wav").frames == 92_345
    kind, error = call(address, "process", [sound, -1.0, *values[1:]])[-1]
    assert kind == "error" and error["error"].startswith("periodic must be 0")


def test_harp_can_cancel(address: str, folder: Path, slowly: None) -> None:
    values = [upload(address, folder / "loop.wav"), 7.0, 0.0, 0.0, 72.0, 1.0, 10.5, 0.0, True]
    post = f"{address}gradio_api/call/process"
    event, seen = httpx.post(post, json={"data": values}).json()["event_id"], []
    with httpx.stream("GET", f"{post}/{event}", timeout=60) as answer:
        for line in answer.iter_lines():
            if line == "event: generating" and line not in seen:
                assert call(address, "cancel", []) == [("complete", [])]
            seen.append(line)
    assert "event: error" in seen and "Stopped; nothing was made." in seen[-2]
