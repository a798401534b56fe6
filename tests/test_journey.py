"""Rounds that feed on each other: what each depends on, and how they are joined."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from studio_tools import other_vampnet
from tiny import tiny_models, tiny_vampnet

from vampnet import audio, metadata
from vampnet.beats import make_grid
from vampnet.config import CancelledError, Prompt, Sampling
from vampnet.journey import JOINT_SECONDS, SOURCE, Journey, drifted, round_seed
from vampnet.pipeline import VampNet

pytestmark = pytest.mark.usefixtures("one_thread")

RATE, SAMPLES = 44_100, 66_001
QUICK = Sampling(steps=2, fine_steps=1)
PROMPT = Prompt(periodic=5)


@pytest.fixture(scope="module")
def vn() -> VampNet:
    return tiny_vampnet()


@pytest.fixture(scope="module")
def clip(make_music) -> tuple[torch.Tensor, int]:
    return 0.5 * torch.from_numpy(make_music(2.0))[:, :SAMPLES], RATE


def travel(vn: VampNet, clip: object, folder: Path, parents: tuple[int, ...] = (0, 1), **options: object) -> Journey:
    journey = Journey(folder, clip, **{"seed": 3, "name": "loop", **options})
    for parent in parents:
        journey.make(vn, parent, PROMPT, QUICK)
    return journey


@pytest.fixture(scope="module")
def there(vn: VampNet, clip: object, tmp_path_factory: pytest.TempPathFactory) -> Journey:
    """Source - 1 - 2 and a branch source - 1 - 3."""
    return travel(vn, clip, tmp_path_factory.mktemp("journey"), (0, 1, 1))


def test_each_round_is_made_from_the_take_before(vn: VampNet, there: Journey) -> None:
    one, two, three = (there.read(number) for number in (1, 2, 3))
    for before, after in ((one, two), (one, three)):
        assert torch.equal(before.tokens, after.source_tokens)
        assert torch.equal(after.tokens[~after.mask], before.tokens[~after.mask])
        assert not torch.equal(before.tokens, after.tokens)
        assert after.takes[0].audio_data.shape == (1, 2, SAMPLES)
    assert torch.equal(one.source_tokens, vn.encode(one.source, loop=True))
    assert not torch.equal(two.tokens, three.tokens), "a branch is another take"
    assert [r.number for r in there.path(3)] == [1, 3] and [r.number for r in there.children(1)] == [2, 3]
    assert [r.path for r in there.rounds.values()] == [(0,), (0, 0), (0, 1)]
    for number in (0, 1):
        lufs = audio.measure_loudness(one.source), audio.measure_loudness(there.read(number + 1).takes[0])
        assert abs(lufs[0] - lufs[1]) < 1.0


def test_a_round_depends_on_its_way_alone(vn: VampNet, clip: object, there: Journey, tmp_path: Path) -> None:
    # Made in another order, with the clip heard anew, and with another branch that is gone again.
    other = Journey(tmp_path, clip, seed=3, name="loop")
    other.make(vn, SOURCE, PROMPT, QUICK)
    other.rest()
    other.make(vn, SOURCE, PROMPT, Sampling(steps=1, fine_steps=1))
    other.make(vn, 1, PROMPT, QUICK)
    assert torch.equal(other.read(3).tokens, there.read(2).tokens)
    assert other.rounds[3].seed == there.rounds[2].seed != there.rounds[3].seed
    other.remove(1)
    assert list(other.rounds) == [2] and not (tmp_path / "round-3").exists()
    with pytest.raises(ValueError, match="no round 3"):
        other.path(3)
    assert other.make(vn, 2, PROMPT, QUICK).number == 4, "numbers are not given twice"


def test_rounds_are_drawn_as_their_model_says(clip: object, tmp_path: Path) -> None:
    own = tiny_vampnet()
    own.sampling = Sampling(steps=3, temperature=0.5)
    made = Journey(tmp_path, clip).make(own)
    assert made.sampling == own.sampling


def test_seeds_and_prompts_of_rounds() -> None:
    paths = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (10,), (1, 0, 0)]
    assert len({round_seed(seed, path) for path in paths for seed in (0, 1)}) == 2 * len(paths)
    assert all(0 <= round_seed(s, (s,)) < 2**31 for s in range(50)) and round_seed(7, (0, 0)) == round_seed(7, [0, 0])
    offsets = [drifted(Prompt(periodic=7, periodic_offset=2), depth).periodic_offset for depth in range(7)]
    assert offsets[0] == 2 and sorted(offsets) == list(range(7)), "every time step is let go of in time"
    assert drifted(Prompt(periodic=0, kept_codebooks=2), 5) == Prompt(periodic=0, kept_codebooks=2)


def test_a_stopped_round_leaves_the_journey_as_it_was(vn: VampNet, clip: object, tmp_path: Path) -> None:
    journey = travel(vn, clip, tmp_path, (0,))
    with pytest.raises(CancelledError):
        journey.make(vn, 1, PROMPT, QUICK, cancelled=lambda: True)
    assert list(journey.rounds) == [1] and [p.name for p in tmp_path.iterdir()] == ["round-1"]


def test_another_codec_hears_the_round_anew(vn: VampNet, clip: object, tmp_path: Path) -> None:
    journey = travel(vn, clip, tmp_path, (0,))
    codec, coarse, fine = tiny_models()
    other = VampNet(_Shifted(codec), coarse, fine, "other")
    journey.make(other, 1, PROMPT, QUICK)
    assert torch.equal(journey.read(2).source_tokens, other.encode(journey.read(1).takes[0], loop=True))


def test_a_model_of_another_sample_rate_goes_on(vn: VampNet, clip: object, tmp_path: Path) -> None:
    journey = travel(vn, clip, tmp_path, (0,))
    other = other_vampnet(sample_rate=16_000, hop=320)
    made = journey.make(other, 1, PROMPT, QUICK)
    there = journey.read(made.number)
    assert int(there.source.sample_rate) == int(there.takes[0].sample_rate) == 16_000
    assert there.source.audio_data.shape == there.takes[0].audio_data.shape


class _Shifted:
    """A codec whose tokens are those of another, moved by one."""

    def __init__(self, codec: object) -> None:
        self._codec = codec

    def __getattr__(self, name: str) -> object:
        return getattr(self._codec, name)

    def to(self, device: object) -> _Shifted:
        return self

    def codebook_vectors(self) -> torch.Tensor:
        return self._codec.codebook_vectors().roll(1, 1)

    def encode(self, *given: object, **more: object) -> torch.Tensor:
        return (self._codec.encode(*given, **more) + 1) % 1024

    def decode(self, tokens: torch.Tensor, **more: object) -> torch.Tensor:
        return self._codec.decode((tokens - 1) % 1024, **more)


# ----------------------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize(("source", "repeats"), [(False, 1), (True, 2)])
def test_the_export_is_whole_rounds_that_begin_on_the_grid(there: Journey, source: bool, repeats: int) -> None:
    joined = there.export(2, source=source, repeats=repeats)
    sounds = [there.read(number).takes[0].audio_data for number in (1, 2)]
    sounds = [there.read(1).source.audio_data, *sounds] if source else sounds
    assert joined.audio_data.shape == (1, 2, SAMPLES * len(sounds) * repeats) and joined.sample_rate == RATE
    assert float(joined.audio_data.abs().max()) <= 10 ** (audio.CEILING_DBTP / 20) + 1e-6
    fade = round(JOINT_SECONDS * RATE)
    for place in range(len(sounds) * repeats):
        piece = joined.audio_data[..., place * SAMPLES : (place + 1) * SAMPLES - fade]
        sound = sounds[place // repeats][..., : SAMPLES - fade]
        # The same but for a gain, which evens out the rounds and holds the peaks.
        likeness = torch.nn.functional.cosine_similarity(piece.flatten(), sound.flatten(), dim=0)
        assert likeness > 0.98
        if place % repeats:
            assert torch.equal(piece[..., :100], joined.audio_data[..., (place - 1) * SAMPLES :][..., :100])


def test_nothing_clicks_where_rounds_meet(there: Journey) -> None:
    wave = there.export(2).audio_data
    inside = wave.diff(dim=-1).abs().amax()
    for seam in (SAMPLES, 2 * SAMPLES):
        jump = (wave[..., seam % (2 * SAMPLES)] - wave[..., seam - 1]).abs().max()
        assert jump <= inside


def test_nothing_clicks_where_a_clip_that_is_no_loop_repeats(vn: VampNet, tmp_path: Path) -> None:
    t = torch.arange(SAMPLES) / RATE
    journey = Journey(tmp_path, (0.5 * torch.sin(2 * torch.pi * 55.3 * t)[None], RATE), seed=3, loop=False)
    journey.make(vn, SOURCE, Prompt(periodic=1), QUICK)
    # The random model makes noise of it, in which no step would stand out: the round is to sound like the source.
    audio.save(journey.read(1).source, journey.rounds[1].sound)
    wave = journey.export(1, repeats=3).audio_data
    inside = wave[..., 2000 : SAMPLES - 2000].diff(dim=-1).abs().amax()
    for seam in (SAMPLES, 2 * SAMPLES):
        assert wave[..., seam - 100 : seam + 100].diff(dim=-1).abs().amax() <= 1.5 * inside


def test_bars_are_led_into_by_what_is_really_before_them(vn: VampNet, make_music, tmp_path: Path) -> None:
    samples = torch.from_numpy(make_music(2.6))
    beats = make_grid(np.arange(0.3, 2.6, 0.5), (0.3, 2.3), "metronome", "as played")
    journey = travel(vn, (samples, RATE), tmp_path, (0, 1), loop=False, beats=beats)
    start = round(0.3 * RATE)
    wave, fade = journey.export(2).audio_data, round(JOINT_SECONDS * RATE)
    seam = wave.shape[-1] // 2
    after = journey.read(2).takes[0].audio_data
    near = fade // 4
    joint, before = wave[..., seam - near : seam], after[..., start - near : start]
    mirrored = after[..., start : start + near].flip(-1)

    def likeness(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))

    assert likeness(joint, before) > 0.9 > likeness(joint, mirrored)


def test_a_journey_leaves_what_lies_in_its_folder(vn: VampNet, clip: object, tmp_path: Path) -> None:
    first = travel(vn, clip, tmp_path, (0, 1), name="AC/DC")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    second = travel(vn, clip, tmp_path, (0,), seed=4)
    assert list(first.rounds) == [1, 2] and list(second.rounds) == [3]
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert first.rounds[1].sound.parent == tmp_path / "round-1" and first.read(2).takes
    second.remove(3)
    second.make(vn, SOURCE, PROMPT, QUICK)
    assert list(second.rounds) == [4], "no number is given twice"


def test_loudness_is_evened_out(there: Journey, tmp_path: Path) -> None:
    copy = Journey(tmp_path, there.source, seed=3, name="loop")
    for number in (1, 2):
        found = there.rounds[number]
        folder = shutil.copytree(found.folder, tmp_path / found.folder.name)
        copy.rounds[number] = type(found)(**{**vars(found), "folder": folder, "sound": folder / found.sound.name})
    take = audio.load(copy.rounds[2].sound)
    audio.save(audio.make_signal(take.audio_data * 0.6, RATE), copy.rounds[2].sound)
    wave = copy.export(2).audio_data
    first, second = (audio.measure_loudness(audio.make_signal(part, RATE)) for part in wave.split(SAMPLES, dim=-1))
    assert abs(first - second) < 0.7


def test_a_clip_that_is_no_loop_is_joined_by_its_bars(vn: VampNet, make_music, tmp_path: Path) -> None:
    samples = torch.from_numpy(make_music(2.6))
    beats = make_grid(np.arange(0, 2.6, 0.5), (0.0, 2.0), "metronome", "as played")
    journey = travel(vn, (samples, RATE), tmp_path, (0, 1), loop=False, beats=beats)
    assert journey.read(2).takes[0].audio_data.shape[-1] == samples.shape[-1]
    assert journey.export(2).audio_data.shape[-1] == 2 * 2 * RATE


def test_what_cannot_be_exported_gets_a_sentence(there: Journey) -> None:
    with pytest.raises(ValueError, match="no round to export"):
        there.export(SOURCE)
    with pytest.raises(ValueError, match="at most 10 minutes"):
        there.export(2, repeats=1000)


def test_the_export_tells_what_made_it(there: Journey, tmp_path: Path) -> None:
    path = audio.save(there.export(2), tmp_path / "all.flac", comment=there.comment(2))
    told = metadata.read(path)
    assert (told.kind, told.take, told.seed, told.source) == ("journey", 2, 3, "loop")
    assert (told.prompt, told.sampling) == (PROMPT, QUICK)
    assert told.loop and told.source_hash == metadata.hash_of(audio.load(there.source))


def test_what_stays_in_every_round_stays_at_its_level(vn: VampNet, clip: tuple[torch.Tensor, int], tmp_path: Path) -> None:
    sound = clip[0].clone()
    sound[:, SAMPLES // 2 :] *= 0.15
    journey = Journey(tmp_path, (sound, RATE), loop=False)
    parent, levels = SOURCE, []
    for end in (0.7, 0.3, 0.5):
        parent = journey.make(vn, parent, Prompt(periodic=0, region=(0.0, end)), QUICK).number
        kept = journey.read(parent).takes[0].audio_data[..., round(0.9 * RATE) : round(1.4 * RATE)]
        levels.append(10 * float(kept.square().mean().log10()))
    assert max(levels) - min(levels) < 0.5, "they jumped by up to 16 dB"


def test_rounds_that_are_not_there_get_a_sentence(there: Journey) -> None:
    for number in (SOURCE, 77):
        for work in (there.remove, there.read, there.comment):
            with pytest.raises(ValueError, match="There is no round"):
                work(number)
    assert len(there.rounds) == 3


def test_a_name_that_is_too_long_is_cut_and_what_fails_leaves_no_folder(
    vn: VampNet, clip: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey = travel(vn, clip, tmp_path, (0,), name="\uac00" * 85)
    assert journey.rounds[1].sound.is_file() and journey.rounds[1].sound.name.startswith("\uac00" * 60)
    monkeypatch.setattr("vampnet.bundle.write_bundle", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        journey.make(vn, 1, PROMPT, QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["round-1"] and list(journey.rounds) == [1]


def test_bars_that_begin_at_once_are_joined_without_a_click(vn: VampNet, tmp_path: Path) -> None:
    t = torch.arange(2 * RATE) / RATE
    sine = (0.3 * torch.sin(2 * torch.pi * 97 * t)).repeat(2, 1)
    for first in (5, 44):
        beats = make_grid([first / RATE + 0.25 * beat for beat in range(7)], [first / RATE], "metronome", "")
        journey = Journey(tmp_path / str(first), (sine, RATE), loop=False, beats=beats)
        journey.make(vn, SOURCE, Prompt(periodic=1), QUICK)
        # The tiny model's sound has clicks of its own.
        round = dataclasses.replace(journey.read(1), takes=[audio.make_signal(sine[None], RATE)])
        journey.read = lambda number, round=round: round
        step = journey.export(1, repeats=2).audio_data.diff(dim=-1).abs().max()
        assert step < 0.02, "a fade over five samples is a click"
