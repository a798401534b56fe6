"""Stage 2: schedules, masks, where beats are, token shards."""

import math
import os
import signal

import numpy as np
import pytest
import soundfile
import torch
import train_tools
from conftest import unspeakable
from safetensors.torch import save_file
from train_tools import SIZE, generator, settings

from vampnet import Prompt, masks
from vampnet.train import masking
from vampnet.train.masking import _beats, prompt_mask, training_masks
from vampnet.train.schedule import cooldown, mask_shares, noam
from vampnet.train.settings import TrainConfig
from vampnet.train.shards import TokenData, write_shard
from vampnet.train.tempo import beat_comment, beat_of
from vampnet.train.tokens import encode_folders, main, versions_of
from vampnet.train.transformer import Trainer

shards = train_tools.shards
pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------------------------------------------------------- schedules


def test_noam_rises_then_falls_as_the_inverse_square_root():
    rates = [noam(step, 2e-3, 10) for step in range(1, 200)]
    assert rates[9] == pytest.approx(2e-3) and max(rates) == rates[9]
    assert rates[4] == pytest.approx(1e-3)
    assert rates[39] == pytest.approx(1e-3)
    assert [noam(step, 2e-3, 10, hold=True) for step in (5, 10, 40, 4000)] == pytest.approx([1e-3, 2e-3, 2e-3, 2e-3])
    with pytest.raises(ValueError):
        noam(0, 1.0, 10)


def test_cooldown_is_linear_over_the_last_share():
    assert [cooldown(p, 0.2) for p in (0, 0.5, 0.8)] == pytest.approx([1, 1, 1])
    assert cooldown(0.9, 0.2) == pytest.approx(0.5) and cooldown(1.0, 0.2) == 0 and cooldown(1.0, 0) == 1


def test_mask_shares_follow_the_cosine_and_cover_it_in_every_batch():
    batches = torch.stack([mask_shares(16, generator(seed)) for seed in range(300)])
    assert batches.mean().item() == pytest.approx(2 / math.pi, abs=0.01)
    # One r lies in every sixteenth of [0, 1).
    r = torch.acos(batches) / (math.pi / 2)
    counts = torch.stack([torch.bincount((row * 16 - 1e-4).floor().clamp(0, 15).long(), minlength=16) for row in r])
    assert (counts - 1).abs().float().mean() < 0.05
    assert batches[:, 0].std() > 0.2  # no place in the batch is always easy


def test_training_masks_hide_the_drawn_share_and_never_the_conditioning():
    masks = torch.cat([training_masks(8, 6, 100, 2, 0.0, generator(seed)) for seed in range(40)])
    assert not masks[:, :2].any()
    hidden = masks[:, 2:].float()
    assert hidden.mean().item() == pytest.approx(2 / math.pi, abs=0.02)
    shares = hidden.mean(dim=(1, 2))
    assert shares.min() < 0.15 and shares.max() > 0.95
    # Random over levels and time alike: no level and no step is preferred.
    assert hidden.mean(dim=(0, 2)).std() < 0.02 and hidden.mean(dim=(0, 1)).std() < 0.05


def test_training_masks_always_hide_something():
    masks = torch.cat([training_masks(64, 3, 2, 1, 0.9, generator(seed)) for seed in range(20)])
    assert masks.flatten(1).any(dim=1).all()


def test_prompt_masks_keep_some_and_leave_some():
    shares = torch.stack([prompt_mask(4, 100, generator(seed)).float().mean() for seed in range(200)])
    assert (shares > 0).all() and (shares < 1).float().mean() > 0.9 and shares.std() > 0.1
    plain, prompted = (
        torch.stack([training_masks(8, 4, 50, 0, p, generator(s)) for s in range(20)]).float().mean() for p in (0, 1)
    )
    assert prompted < plain - 0.1


def test_periodic_prompts_come_early_or_late_as_those_of_vamps_do(monkeypatch):
    asked = []
    true = masks.periodic
    monkeypatch.setattr(masks, "periodic", lambda *given, jitter: asked.append(jitter) or true(*given, jitter=jitter))
    for seed in range(60):
        prompt_mask(4, 200, generator(seed))
    assert set(asked) == {0, 1, 2, 3} and Prompt(periodic=7).periodic_jitter in asked


def test_some_examples_show_nothing():
    masks = torch.cat([training_masks(8, 6, 50, 2, 1.0, generator(s), 0.25) for s in range(40)])
    assert masks[:, 2:].flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.07)
    assert not masks[:, :2].any()


def test_prompts_around_beats_are_steady():
    widths = set()
    for seed in range(60):
        beat = (5.3, 31.7) if seed % 2 else (math.nan, math.nan)
        kept = ~_beats((4, 300), generator(seed), beat)
        assert torch.equal(kept, kept[:1].expand_as(kept))
        starts = (kept[0, 1:] & ~kept[0, :-1]).nonzero()[:, 0] + 1
        gaps = starts.diff()
        assert 18 <= gaps.min() and gaps.max() <= 58 and gaps.max() - gaps.min() <= 1
        if seed % 2:  # known beats, up to a step early or late
            off = (starts - 5.3 + 16) % 31.7 - 16
            assert off.min() >= -2 and off.max() <= 1
        widths.add(round(float(kept.float().mean() * gaps.float().mean())))
    assert min(widths) <= 2 and max(widths) >= 9


def test_only_comments_of_the_composer_say_where_beats_are(tmp_path):
    for number, (comment, beat) in enumerate([
        (beat_comment(0.0, 0.5123456), (0.0, 0.5123456)), ("made by me", None), ("", None), (beat_comment(1.0, 0.001), None),
        ("vampnet beats: first 1.2.3 s, every . s", None),
    ]):  # fmt: skip
        path = tmp_path / f"{number}.flac"
        with soundfile.SoundFile(path, "w", 8000, 1) as file:
            if comment:
                file.comment = comment
            file.write(np.zeros(800))
        assert beat_of(path) == beat
    (tmp_path / "text.wav").write_text("no audio")
    assert beat_of(tmp_path / "text.wav") is None and beat_of(tmp_path / "none.wav") is None


def test_beats_are_those_of_the_crop(tmp_path):
    rows = [torch.arange(4 * 200).view(4, 200).remainder(1024).short() for _ in range(3)]
    write_shard(tmp_path, rows, ["a", "b", "c"], [(7.5, 20.0), None, (0.0, 33.0)])
    save_file({"vectors": torch.zeros(4, 1024, 2)}, tmp_path / "codebooks.safetensors")
    data = TokenData(tmp_path)
    places = [(0, 0), (0, 10), (0, 8), (1, 3), (2, 34)]
    beats = data.beats_at(places)
    assert beats[[0, 1, 2, 4]].tolist() == [[7.5, 20.0], [17.5, 20.0], [19.5, 20.0], [32.0, 33.0]] and beats[3].isnan().all()
    assert torch.equal(data.at(places, 50)[1], rows[0][:, 10:60].long())


def test_prompts_are_made_of_the_beats_of_their_crops(shards, tmp_path, monkeypatch):
    asked = []

    def beats(shape, generator, beat):
        asked.append(beat)
        return _beats(shape, generator, beat)

    monkeypatch.setattr(masking, "_beats", beats)
    own = torch.tensor([[float(row), 100.0 + row] for row in range(6)])
    for seed in range(20):
        training_masks(6, 4, 60, 0, 1.0, generator(seed), 0.0, own)
    assert set(asked) == {tuple(row) for row in own.tolist()}
    asked.clear()
    trainer = Trainer(TrainConfig.from_dict(settings(shards, tmp_path / "run", prompt_share=1.0)))
    trainer.data.beats = torch.full((len(trainer.data), 2), 1000.0)
    for seed in range(20):
        trainer.draw(generator(seed))
    assert asked and all(gap == 1000.0 and 0 <= first <= 1000 for first, gap in asked)


# -------------------------------------------------------------------------------------------------------------- token files


def test_crops_are_pieces_of_rows_and_reach_every_place(shards):
    data = TokenData(shards)
    assert len(data) == 8 and data.steps == sum(range(40, 48))
    crops = data.crops(600, 40, generator())
    assert crops.shape == (600, 4, 40) and crops.dtype == torch.int64
    rows = [data.codes[:, a:b].long() for a, b in zip(data.starts[:-1], data.starts[1:], strict=True)]
    possible = {tuple(row[:, a : a + 40].flatten().tolist()) for row in rows for a in range(row.shape[1] - 39)}
    assert {tuple(crop.flatten().tolist()) for crop in crops} == possible
    with pytest.raises(ValueError, match="48 time steps"):
        data.crops(1, 48, generator())
    assert data.counts(SIZE).sum(dim=1).tolist() == [data.steps] * 4


def test_a_folder_without_tokens_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no tokens"):
        TokenData(tmp_path)


class LoudCodec:
    """Codes that tell the loudness of each hop, so that a test can see what was encoded."""

    sample_rate, hop = 8000, 80

    def encode(self, audio: torch.Tensor) -> torch.Tensor:
        audio = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % self.hop))
        level = (audio.view(1, -1, self.hop).pow(2).mean(-1).sqrt() * 1000).long()
        return level[:, None].expand(1, 4, -1).clamp(max=SIZE - 1)

    def codebook_vectors(self) -> torch.Tensor:
        return torch.ones(4, SIZE, 4)


def test_what_is_encoded_is_written_when_it_is_stopped(tmp_path, monkeypatch, capsys):
    (tmp_path / "audio").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    for name in "abc":
        soundfile.write(tmp_path / "audio" / f"{name}.wav", noise, 8000)
    codec, asked = LoudCodec(), []

    def encode(audio):
        if not asked:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C in the midst of the first file
        return asked.append(1) or LoudCodec.encode(codec, audio)

    codec.encode = encode
    monkeypatch.setattr("vampnet.codec.load_codec", lambda folder: codec)
    line = ["--codec", str(tmp_path), "--audio", str(tmp_path / "audio"), "--out", str(tmp_path / "out")]
    assert main(line) == 130 and "goes on from here" in capsys.readouterr().err
    assert TokenData(tmp_path / "out").lengths.tolist() == [200]
    assert main(line) == 0 and len(TokenData(tmp_path / "out")) == 3
    (tmp_path / "none").mkdir()
    assert main([*line[:3], str(tmp_path / "none"), *line[4:]]) == 2
    assert "can be used: name folders of audio" in capsys.readouterr().err


def test_folders_are_encoded_once_and_gone_on_with(tmp_path, caplog):
    audio, out = tmp_path / "audio", tmp_path / "out"
    (audio / "deep").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (8000 * 31, 2))
    soundfile.write(audio / "long.wav", noise, 8000)
    soundfile.write(audio / "deep" / "quiet.flac", noise[: 8000 * 2, 0] * 0.01, 8000)
    (audio / "text.wav").write_text("no audio")
    first = encode_folders(LoudCodec(), [audio], out, "all", progress=False)
    assert first == {"files": 2, "skipped": 0, "failed": 1, "rows": 7, "steps": 3 * (3000 + 100) + 200, "left": 0}
    assert "text.wav" in caplog.text
    data = TokenData(out)
    assert sorted(data.lengths.tolist()) == [100, 100, 100, 200, 3000, 3000, 3000]
    # Both files were at -24 LUFS when they were encoded, although one is 40 dB softer.
    quiet = data.codes[0, data.starts[0] : data.starts[1]].float().mean()
    loud = data.codes[0, data.starts[1] : data.starts[2]].float().mean()
    assert len(data.codes[0, data.starts[0] : data.starts[1]]) == 200 and abs(quiet - loud) < 0.15 * loud
    soundfile.write(audio / "new.wav", noise[:16000, 0], 8000)
    assert encode_folders(LoudCodec(), [audio], out, progress=False) == {
        "files": 1, "skipped": 2, "failed": 1, "rows": 1, "steps": 200, "left": 0,
    }  # fmt: skip
    data = TokenData(out)
    assert len(data) == 8 and data.beats.isnan().all()
    with soundfile.SoundFile(audio / "steady.wav", "w", 8000, 1) as file:
        file.comment = beat_comment(0.25, 0.5)
        file.write(noise[:16000, 0])
    encode_folders(LoudCodec(), [audio], out, progress=False)
    assert TokenData(out).beats[-1].tolist() == [25.0, 50.0]
    with soundfile.SoundFile(audio / "zz long and wide.flac", "w", 8000, 2) as file:
        file.comment = beat_comment(0.25, 0.7)
        file.write(noise[: 8000 * 31])
        file.write(noise[: 8000 * 10])
    encode_folders(LoudCodec(), [audio], out, "all", progress=False)
    beats = TokenData(out).beats[-6:]  # two pieces of each of three views
    assert beats[::2].tolist() == [pytest.approx([25.0, 70.0], abs=1e-3)] * 3
    assert beats[1::2].tolist() == [pytest.approx([(25.0 - 3000) % 70, 70.0], abs=1e-2)] * 3
    other = LoudCodec()
    for shape in ((4, SIZE, 4), (5, SIZE, 3)):
        other.codebook_vectors = lambda shape=shape: torch.zeros(shape)
        with pytest.raises(ValueError, match="another codec"):
            encode_folders(other, [audio], out, progress=False)


def test_versions_of_a_piece_are_in_other_keys_and_tempos_and_so_are_their_beats(tmp_path):
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 8000)
    versions = versions_of(tone, "a", 4)
    assert torch.equal(versions[0][0], tone) and versions[0][1] == 1.0
    assert sorted(round(12 * math.log2(speed)) for _, speed in versions) == [-2, -1, 0, 1, 2]
    for version, speed in versions:
        assert len(version) == pytest.approx(16000 / speed, abs=1)
        spectrum = torch.fft.rfft(version[500:-500] * torch.hann_window(len(version) - 1000), 1 << 16).abs()
        assert int(spectrum.argmax()) * 8000 / (1 << 16) == pytest.approx(440 * speed, rel=1e-3)
    assert [speed for _, speed in versions_of(tone, "a", 2)] == [speed for _, speed in versions[:3]]
    assert len({tuple(speed for _, speed in versions_of(tone[:50], str(name), 2)) for name in range(20)}) > 5
    (tmp_path / "audio").mkdir()
    with soundfile.SoundFile(tmp_path / "audio" / "steady.wav", "w", 8000, 1) as file:
        file.comment = beat_comment(0.25, 0.5)
        file.write(0.1 * tone.numpy())
    encode_folders(LoudCodec(), [tmp_path / "audio"], tmp_path / "out", progress=False, transposed=2)
    data = TokenData(tmp_path / "out")
    assert len(data) == 3 and data.beats[0].tolist() == [25.0, 50.0]
    for (first, gap), length in zip(data.beats.tolist(), data.lengths.tolist(), strict=True):
        speed = data.lengths[0] / length
        assert (first, gap) == (pytest.approx(25 / speed, rel=0.01), pytest.approx(50 / speed, rel=0.01))


@pytest.mark.parametrize("transposed", [0, 1])
def test_names_that_are_no_text_are_encoded_with_their_beats(tmp_path, transposed):
    path = unspeakable(tmp_path)
    with soundfile.SoundFile(tmp_path / "plain.wav", "w", 8000, 1) as file:
        file.comment = beat_comment(0.25, 0.5)
        file.write(np.random.default_rng(0).normal(0, 0.1, 16_000))
    os.rename(tmp_path / "plain.wav", path)
    first, again = (
        encode_folders(LoudCodec(), [tmp_path], tmp_path / "out", progress=False, transposed=transposed) for _ in range(2)
    )
    assert first["files"] == again["skipped"] == 1 and first["rows"] == 1 + transposed
    assert TokenData(tmp_path / "out").beats[0].tolist() == [25.0, 50.0]


def test_files_read_by_others_and_encoded_together_give_the_same_tokens(tmp_path, caplog):
    audio = tmp_path / "audio"
    audio.mkdir()
    random = np.random.default_rng(0)
    for number, seconds in enumerate((2.0, 1.5, 2.0, 31.5, 2.0)):
        soundfile.write(audio / f"{number}.wav", random.normal(0, 0.1, (round(8000 * seconds), 1)), 8000)
    (audio / "3 no sound.wav").write_text("no audio")
    sizes = []

    class Counting(LoudCodec):
        def encode(self, sound):
            sizes.append(len(sound))
            return torch.cat([super(Counting, self).encode(one[None]) for one in sound])

    plain = encode_folders(Counting(), [audio], tmp_path / "plain", progress=False)
    assert sizes == [1] * 6
    sizes.clear()
    ahead = encode_folders(Counting(), [audio], tmp_path / "ahead", progress=False, workers=2, batch=3)
    assert ahead == plain == {"files": 5, "skipped": 0, "failed": 1, "rows": 6, "steps": 3900, "left": 0}
    assert sorted(sizes) == [1, 1, 1, 1, 2] and caplog.text.count("3 no sound.wav is left out") == 2
    first, second = (TokenData(tmp_path / name) for name in ("plain", "ahead"))
    assert torch.equal(first.codes, second.codes) and first.lengths.tolist() == second.lengths.tolist()
    # What nobody has asked for when there is no time left is not waited for.
    late = encode_folders(Counting(), [audio], tmp_path / "late", progress=False, minutes=0, workers=2)
    assert late["left"] == 6 and late["files"] == 0
