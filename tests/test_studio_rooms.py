"""Comps, recordings and restored settings without a browser: what the handlers do, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import soundfile
import studio_tools
import torch
from gradio.utils import get_upload_folder
from studio_tools import event, run_vamp, short_clip, values

from vampnet import audio, metadata
from vampnet.bundle import read_bundle
from vampnet.config import SAMPLE_RATE, Prompt, Sampling
from vampnet.studio.comp_room import Comping
from vampnet.studio.controls import NAMES, read_request
from vampnet.studio.handlers import Handlers
from vampnet.studio.recorder import Recorder, metronome, samples_of, whole_bars
from vampnet.studio.restoring import Restoring, control_values
from vampnet.studio.session import Session
from vampnet.studio.shelf import Shape
from vampnet.studio.uploads import uploaded

handlers, session, known_beats = studio_tools.handlers, studio_tools.session, studio_tools.known_beats
source = studio_tools.source
pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------------------------------------------- comp


def test_a_comp_is_made_of_the_chosen_takes(handlers: Handlers, source: Session) -> None:
    comping = Comping(handlers)
    run_vamp(handlers, source, takes=2, periodic=0, seed=4)
    name = source.vamps[0]["id"]
    opened = comping.open(source, event(vamp=name))
    assert opened["rows"] == [0, 1, 2] and opened["kind"] == "parts" and len(opened["times"]) == 9
    choice = [1, 1, 2, 2, 2, 0, 0, 0]
    told = [*comping.begin(source, event(vamp=name, choice=choice))]
    assert source.request is not None and not told[1]["interactive"]
    last = list(comping.make(source))[-1]
    assert "on the deck" in last[0] and source.request is None and last[1]["interactive"]
    made, base = (read_bundle(shown["folder"]) for shown in last[3])
    assert source.vamps[0]["title"] == "Comp of Nothing kept" and source.vamps[0]["takes"][0]["file"] == "noise-comp1-seed4.wav"
    known = torch.cat([base.source_tokens, base.tokens])
    steps = known.shape[-1]
    for part, number in enumerate(choice):
        at = round((part + 0.5) * steps / 8)
        assert not made.mask[..., at].any() and torch.equal(made.tokens[0, :, at], known[number, :, at])
    assert made.mask.any()
    told = metadata.read(source.vamps[0]["takes"][0]["sound"])
    assert (told.kind, told.seed, told.takes) == ("comp", 4, 2)
    assert told.source_hash == metadata.hash_of(audio.load(source.source.path))


def test_a_comp_is_made_of_what_was_seen(handlers: Handlers, source: Session) -> None:
    """Beats that are found while it is open would count other parts."""
    comping = Comping(handlers)
    source.source.origin = "0123456789abcdef"
    run_vamp(handlers, source, takes=2, periodic=0)
    shown = source.vamps[0]
    parts = len(comping.open(source, event(vamp=shown["id"]))["times"]) - 1
    shown.update(beats=[0.0, 0.1, 0.2, 0.3, 0.4], downbeats=[0.0, 0.4], tempo=600.0)
    choice = [1] * (parts // 2) + [2] * (parts - parts // 2)
    assert "Choose" not in comping.begin(source, event(vamp=shown["id"], choice=choice))[0]
    assert "on the deck" in list(comping.make(source))[-1][0]
    made = read_bundle(source.vamps[0]["folder"]).mask[0, 0].nonzero()[:, 0].float().mean()
    assert abs(float(made) - shown["settings"]["seconds"] * 44_100 / 768 / 2) < 2, "the one join lies amid the eight parts"
    assert source.vamps[0]["origin"] == "0123456789abcdef"
    assert len(comping.open(source, event(vamp=shown["id"]))["times"]) - 1 != parts, "who opens it again sees the beats"


def test_what_cannot_be_comped_gets_a_sentence(handlers: Handlers, source: Session) -> None:
    comping = Comping(handlers)
    run_vamp(handlers, source)
    name = source.vamps[0]["id"]
    good = [1] * 8
    for given in (good[1:], [2] * 8, ["1"] * 8, [True] * 8, "1" * 8, None):
        assert "Choose a take" in comping.begin(source, event(vamp=name, choice=given))[0]
    for other in ("nothing", None, 5):
        assert "no longer here" in comping.begin(source, event(vamp=other, choice=good))[0]
        assert comping.open(source, event(vamp=other)) is None
    stranger = Session(handlers.files)
    assert comping.open(stranger, event(vamp=name)) is None and stranger.request is None
    source.vamps[0]["settings"]["model"] = "another"
    comping.begin(source, event(vamp=name, choice=good))
    assert "made by the model another" in list(comping.make(source))[-1][0] and len(source.vamps) == 1
    # A generator without a value would empty the deck and the buttons.
    assert list(comping.make(source)) == [[gr.skip()] * 4]
    # As where it waits in line and a vamp was begun meanwhile, or its vamp is gone.
    handlers.begin(source, *values())
    assert list(comping.make(source)) == [[gr.skip()] * 4] and source.request is not None


# -------------------------------------------------------------------------------------------------------------- recording


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bars in 3/4 at 150 beats a minute, as a browser at 48 kHz has uploaded them."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    folder = Path(get_upload_folder()) / "hash"
    folder.mkdir(parents=True)
    sound = 0.3 * np.sin(np.arange(round(2.4 * 48_000)) / 30)
    soundfile.write(folder / "recording.wav", sound, 48_000, subtype="FLOAT")
    return folder / "recording.wav"


def test_a_recording_becomes_the_source_with_its_beats(handlers: Handlers, session: Session, recording: Path) -> None:
    recorder = Recorder(handlers)
    told = recorder.take(session, event(path=str(recording), bpm=150, metre=3, bars=2))
    assert "Recording at 150 bpm" in told and session.source.samples == round(2.4 * SAMPLE_RATE)
    grid = session.source.grid
    assert grid.engine == "metronome" and grid.beats_per_bar == 3 and grid.tempo == pytest.approx(150)
    assert grid.downbeats == pytest.approx((0, 1.2)) and len(grid.beats) == 6
    handlers.track(session)
    assert "150 bpm, 6 beats" in handlers.tell_source(session, told) and session.source.bounds(2) == (0, session.source.samples)
    assert recorder.tell(session) == {"tempo": 150.0, "metre": 3}
    before = session.source
    wrong = ({"bpm": 5}, {"bpm": "x"}, {"bpm": float("nan")}, {"metre": 40}, {"bars": 3}, {"bars": 0}, {"bars": True})
    for more in (*wrong, {"path": "/etc/passwd"}, {"path": None}, {"path": str(recording.parent / ".." / ".." / "x.wav")}):
        given = {"path": str(recording), "bpm": 150, "metre": 3, "bars": 2, **more}
        assert "record it once more" in recorder.take(session, event(**given)), more
    recording.write_bytes(b"no sound")
    assert "cannot be read" in recorder.take(session, event(path=str(recording), bpm=150, metre=3, bars=2))
    assert session.source is before


@pytest.mark.parametrize(("bpm", "metre", "bars"), [(120, 4, 2), (173, 3, 5), (91.3, 7, 1), (300, 2, 600)])
def test_bars_are_exact_to_the_sample(bpm: float, metre: int, bars: int) -> None:
    wanted = samples_of(bpm, metre, bars)
    assert abs(wanted - bars * metre * 60 / bpm * SAMPLE_RATE) <= 0.5
    for off in (-3, 0, 2):
        given = audio.make_signal(torch.ones(1, 1, wanted + off), SAMPLE_RATE)
        assert whole_bars(given, bpm, metre, bars).audio_data.shape[-1] == wanted
    with pytest.raises(ValueError):
        whole_bars(audio.make_signal(torch.ones(1, 1, wanted + 4000), SAMPLE_RATE), bpm, metre, bars)
    grid = metronome(bpm, metre, bars)
    assert len(grid.beats) == metre * bars and len(grid.downbeats) == bars


def test_only_uploads_are_taken_as_uploads(recording: Path, tmp_path: Path) -> None:
    assert uploaded(str(recording)) == recording.resolve()
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"x")
    (recording.parent / "link.wav").symlink_to(secret)
    outside = ("link.wav", "../../secret.wav", "nothing.wav", ".")
    for path in (*(str(recording.parent / name) for name in outside), str(secret), "", "a\x00b", None, 7, ["x"]):
        with pytest.raises(ValueError):
            uploaded(path)


# -------------------------------------------------------------------------------------------------------------- restoring


def test_a_take_brings_its_settings_and_its_source_back(handlers: Handlers, source: Session, tmp_path: Path) -> None:
    restoring = Restoring(handlers)
    handlers.choose(source, str(short_clip(tmp_path / "noise.wav", 2.2)))
    run_vamp(handlers, source, takes=2, seed=31, periodic=4, bars="1")
    exported = source.vamps[0]["takes"][1]["sound"]
    own = source.source
    # The source is in use: it stays the very same.
    assert "noise" in restoring.choose(source, exported) and source.source is own
    line, *restored = restoring.restore(source)
    asked = read_request(restored)
    assert (asked.seed, asked.takes, asked.prompt.periodic, asked.bars) == (31, 2, 4, 1) and line["itself"]
    assert "Take 2 of noise" in line["sentence"]
    # Another one is in use: it comes out of the vamp's folder, with its beats.
    handlers.choose(source, str(short_clip(tmp_path / "other.wav", 0.7)))
    restoring.choose(source, exported)
    assert source.source is not own and source.source.name == "noise" and source.source.seconds == source.vamps[0]["seconds"]
    restoring.choose_itself(source)
    assert source.source.name == Path(exported).stem and restoring.restore(source)[0] is None
    # In another session nothing of it is there but the file.
    stranger = Session(handlers.files)
    restoring.choose(stranger, exported)
    line, *restored = restoring.restore(stranger)
    assert stranger.source.name == Path(exported).stem and not line["itself"] and read_request(restored).seed == 31
    # Any other file has nothing to tell.
    restoring.choose(stranger, str(short_clip(tmp_path / "plain.wav")))
    assert restoring.restore(stranger)[0] is None
    stranger.close()


@pytest.mark.parametrize("loop", [True, False])
def test_a_longer_take_brings_the_clip_itself_back(handlers: Handlers, source: Session, tmp_path: Path, loop: bool) -> None:
    restoring = Restoring(handlers)
    handlers.choose(source, str(short_clip(tmp_path / "noise.wav", 1.3)))
    own = audio.load(source.source.path)
    run_vamp(handlers, source, seed=5, loop=loop, extend_before=0.2, extend_after=0.5)
    made = source.vamps[0]
    before = source.source
    restoring.choose(source, made["takes"][0]["sound"])
    assert source.source is before, "it is in use: with what was added it is what was vamped"
    handlers.choose(source, str(short_clip(tmp_path / "other.wav", 0.7)))
    restoring.choose(source, made["takes"][0]["sound"])
    assert source.source is not before and source.source.samples == before.samples
    assert torch.equal(audio.load(source.source.path).audio_data, own.audio_data)
    _, *restored = restoring.restore(source)
    given = dict(zip(NAMES, restored, strict=True))
    assert (given["extend_before"], given["extend_after"]) == (0.2, 0.5)
    run_vamp(handlers, source, **{name: given[name] for name in ("seed", "loop", "extend_before", "extend_after")})
    again, first = (read_bundle(vamp["folder"]) for vamp in source.vamps[:2])
    assert torch.equal(again.tokens, first.tokens)


def test_only_what_the_page_accepts_comes_back() -> None:
    prompt, sampling = Prompt(periodic=100, region=(0.1, 0.2), kept_codebooks=12), Sampling(steps=500, top_k=3)
    origin = metadata.Origin(prompt, sampling, 5, 40, extend=(0.0, 2.5), painted=True)
    restored, missing = control_values(origin, Shape(levels=9))
    found = dict(zip(NAMES, restored, strict=True))
    read_request(restored)
    assert (
        found["periodic"] == 7 and found["steps"] == Sampling().steps and found["takes"] == 8 and found["kept_codebooks"] == 9
    )
    assert set(missing) == {"periodic", "steps", "takes"} and found["seed"] == 5
    assert found["region"] == [0.1, 0.2] and found["top_k"] == 3 and found["extend_after"] == 2.5
    assert control_values(metadata.Origin(Prompt(), Sampling(), 5, 4, True, "all"), Shape())[1] == ["bars"]
