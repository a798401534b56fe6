"""Loading, saving, loudness and the limiter, on audio that the tests make themselves."""

import math
import os
import pickle
import time
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
import torch
from conftest import unspeakable, without_length

from vampnet import audio, loops
from vampnet.audio import AudioError, load, make_signal, measure_loudness, restore_loudness, save
from vampnet.config import SAMPLE_RATE
from vampnet.offset import without_offset

RATE = 44_100


def tone(seconds=1.0, rate=RATE, channels=2, frequency=440.0, level=0.3):
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([level * np.sin(2 * np.pi * frequency * t + c) for c in range(channels)], axis=1).astype(np.float32)


KINDS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"), ("FLAC", "PCM_24"), ("OGG", "VORBIS")]


@pytest.mark.parametrize("format, subtype", KINDS)
@pytest.mark.parametrize("rate", [22_050, 44_100, 48_000, 96_000])
def test_files_keep_their_length_channels_and_sound(tmp_path, format, subtype, rate):
    if format == "OGG" and rate == 96_000:
        rate = 32_000
    samples = tone(0.7, rate)
    path = tmp_path / f"a.{format.lower()}"
    soundfile.write(path, samples, rate, subtype, format=format)
    signal = load(path)
    assert signal.sample_rate == RATE and signal.audio_data.dtype == torch.float32
    assert tuple(signal.audio_data.shape) == (1, 2, round(len(samples) * RATE / rate))
    wanted = tone(0.7, RATE).T[:, : signal.audio_data.shape[-1]]
    middle = slice(2000, -2000)
    assert np.abs(signal.audio_data[0].numpy()[:, middle] - wanted[:, middle]).max() < 0.03


def test_mp3_loads(tmp_path):
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    soundfile.write(tmp_path / "a.mp3", tone(1.0), RATE, format="MP3")
    signal = load(str(tmp_path / "a.mp3"))
    assert signal.audio_data.shape[:2] == (1, 2) and abs(signal.audio_data.shape[-1] - RATE) < 3000
    assert 0.25 < float(signal.audio_data.abs().max()) < 0.35


def test_the_content_decides_not_the_name(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.5), RATE)
    for name in ("song.raw", "song.mp3", "song"):
        os.link(tmp_path / "a.wav", tmp_path / name)
        assert load(tmp_path / name).audio_data.shape == (1, 2, RATE // 2)


@pytest.mark.parametrize("channels", range(1, 9))
def test_more_channels_are_mixed_to_stereo(tmp_path, channels):
    soundfile.write(tmp_path / "a.wav", tone(0.3, channels=channels), RATE, "FLOAT")
    signal = load(tmp_path / "a.wav")
    assert signal.audio_data.shape == (1, min(channels, 2), round(0.3 * RATE))
    assert float(signal.audio_data.abs().max()) > 0.2


def test_centre_goes_to_both_sides_and_lfe_to_none():
    x = np.zeros((RATE, 6), np.float32)
    x[:, 2] = tone(1.0, channels=1)[:, 0]
    mixed = load((RATE, x)).audio_data[0].numpy()
    assert np.allclose(mixed[0], x[:, 2] * math.sqrt(0.5), atol=1e-6) and np.array_equal(mixed[0], mixed[1])
    x[:, 3], x[:, 2] = x[:, 2], 0
    with pytest.raises(AudioError, match="silent"):
        load((RATE, x))


def test_arrays_tensors_and_signals_agree():
    x = tone(0.5)
    wanted = load((RATE, x)).audio_data
    tensor = torch.from_numpy(x.T.copy())
    signal = make_signal(tensor[None], RATE)
    for source in [(RATE, x.T.copy()), (tensor, RATE), (tensor[None], RATE), (np.int64(RATE), x), signal]:
        assert torch.equal(load(source).audio_data, wanted)
    assert load((RATE, x[:, 0])).audio_data.shape == (1, 1, len(x))
    for kind, scale in ((np.int16, 2**15), (np.int32, 2**31)):
        assert torch.allclose(load((RATE, (x.astype(np.float64) * scale).astype(kind))).audio_data, wanted, atol=1e-4)
    assert torch.allclose(load((RATE, (x * 127 + 128).astype(np.uint8))).audio_data, wanted, atol=0.02)


@pytest.mark.parametrize(
    "source, words",
    [
        (None, "no audio"),
        (np.zeros(RATE), "sample rate"),
        ((RATE, np.zeros(0, np.float32)), "empty"),
        ((RATE, tone(0.003)), "lasts 3 ms"),
        ((RATE, np.zeros((RATE, 2), np.float32)), "silent"),
        ((RATE, np.full(RATE, 1e-5, np.float32)), "silent"),
        ((RATE, np.where(np.arange(RATE) == 7, np.nan, 0.1).astype(np.float32)), "NaN"),
        ((RATE, np.where(np.arange(RATE) == 7, np.inf, 0.1).astype(np.float32)), "infinite"),
        ((RATE, np.where(np.arange(RATE) == 7, 1e30, 0.1).astype(np.float32)), "far beyond full scale"),
        ((RATE, np.zeros((0, 2), np.float32)), "empty"),
        ((RATE, tone(0.09996)), "lasts 99.9 ms"),
        ((RATE, np.zeros(600 * RATE + 1, np.float32)), "lasts 600.1 s, and at most 10 min"),
        ((RATE, np.zeros(RATE, bool)), "integers or floats"),
        ((RATE, np.array(["a", "b"])), "integers or floats"),
        ((RATE, np.zeros((RATE, 9), np.float32)), "9 channels"),
        ((0, tone()), "sample rate"),
        ((float("nan"), tone()), "sample rate"),
        ((torch.zeros(2, 1, RATE), RATE), "one by one"),
        (make_signal(torch.zeros(3, 1, RATE), RATE), "one by one"),
        ("nowhere/at/all.wav", "no file"),
        (".", "folder"),
    ],
)
def test_bad_input_gets_one_sentence(source, words):
    with pytest.raises(AudioError, match=words) as caught:
        load(source)
    message = str(caught.value)
    assert isinstance(caught.value, ValueError) and message.endswith(".") and "\n" not in message and len(message) < 250


def test_bad_files_get_one_sentence(tmp_path):
    (tmp_path / "text.wav").write_text("this is no sound at all\n" * 50)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "pickle.wav").write_bytes(pickle.dumps({"a": np.zeros(9)}))
    soundfile.write(tmp_path / "a.flac", tone(3.0), RATE)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "a.flac").read_bytes()[:60])
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), RATE)
    expected = {"text": "cannot be read", "empty": "empty file", "pickle": "cannot be read", "none": "0 samples"}
    for name, words in expected.items():
        with pytest.raises(AudioError, match=words):
            load(tmp_path / f"{name}.wav")
    with pytest.raises(AudioError):
        load(tmp_path / "cut.flac")


def test_two_hours_are_refused_from_the_header(tmp_path):
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16", format="FLAC") as file:
        for _ in range(120):
            file.write(np.zeros(8000 * 60, np.int16))
    start = time.perf_counter()
    with pytest.raises(AudioError, match="2 h 0 min, and at most 10 min"):
        load(path)
    assert time.perf_counter() - start < 0.5
    with pytest.raises(AudioError, match="at most 1 s"):
        load((RATE, tone(1.5)), max_seconds=1)


@pytest.mark.parametrize(
    "name, subtype, error", [("a.wav", None, 2e-7), ("a.flac", None, 2e-7), ("a.wav", "FLOAT", 0.0), ("a.ogg", None, 0.05)]
)
def test_save_is_exact_to_the_sample(tmp_path, name, subtype, error):
    for samples in (4410, 100_003):
        x = torch.from_numpy(tone(samples / RATE).T.copy())[None]
        path = save(make_signal(x, RATE), tmp_path / name, subtype=subtype)
        back, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert rate == RATE and back.shape == (samples, 2)
        assert np.abs(back.T - x[0].numpy()).max() <= error
        assert [p.name for p in tmp_path.iterdir()] == [name]


def test_save_is_all_or_nothing(tmp_path):
    signal = make_signal(torch.from_numpy(tone(0.2).T.copy())[None], RATE)
    save(signal, tmp_path / "a.wav")
    before = (tmp_path / "a.wav").read_bytes()
    with pytest.raises(AudioError, match="WAV, FLAC or OGG"):
        save(signal, tmp_path / "a.xyz")
    with pytest.raises(AudioError, match="cannot hold"):
        save(signal, tmp_path / "a.flac", subtype="FLOAT")
    broken = make_signal(torch.zeros(1, 2000, 10), RATE)
    with pytest.raises(AudioError, match="cannot be written as WAV"):
        save(broken, tmp_path / "a.wav")
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"] and (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_disk_that_is_full_at_the_very_end_is_heard_of(tmp_path, name):
    resource = pytest.importorskip("resource")
    signal, path = make_signal(torch.from_numpy(tone(1.0).T.copy())[None], RATE), tmp_path / name
    whole = save(signal, path).read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for missing in (1, 200, 5000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - missing, before[1]))
        try:
            with pytest.raises(OSError, match="File too large") as found:
                save(signal, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert found.value.filename == str(path)
        assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]


def test_what_is_no_place_for_a_file_is_said(tmp_path):
    signal = make_signal(torch.from_numpy(tone(0.2).T.copy())[None], RATE)
    with pytest.raises(FileNotFoundError) as found:
        save(signal, tmp_path / "nowhere" / "a.wav")
    assert found.value.filename == str(tmp_path / "nowhere" / "a.wav")
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(IsADirectoryError):
        save(signal, tmp_path / "folder.wav")
    if not hasattr(os, "mkfifo"):
        return
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(OSError, match="no file"):
        save(signal, tmp_path / "pipe.wav")
    assert (tmp_path / "pipe.wav").is_fifo()


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_any_name_that_the_disk_takes(tmp_path):
    path = unspeakable(tmp_path)
    signal = make_signal(torch.from_numpy(tone(0.2).T.copy())[None], RATE)
    save(signal, path)
    assert load(path).audio_data.shape == signal.audio_data.shape


def test_a_flac_whose_header_does_not_tell_its_length(tmp_path):
    """As an encoder leaves it that writes to a pipe."""
    samples = tone(1.0)
    soundfile.write(tmp_path / "a.flac", samples, RATE, "PCM_24")
    (tmp_path / "b.flac").write_bytes(without_length((tmp_path / "a.flac").read_bytes()))
    wanted = load(tmp_path / "a.flac").audio_data
    assert torch.equal(load(tmp_path / "b.flac").audio_data, wanted)
    with pytest.raises(AudioError, match="at most 500 ms|at most 0.5 s"):
        load(tmp_path / "b.flac", max_seconds=0.5)


def test_what_a_header_hides_is_counted_too(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.flac", tone(3.0), RATE, "PCM_24")
    (tmp_path / "b.flac").write_bytes(without_length((tmp_path / "a.flac").read_bytes()))
    monkeypatch.setattr(audio, "MAX_DECODED_SAMPLES", 2 * 2 * RATE)
    for name in ("a.flac", "b.flac"):
        with pytest.raises(AudioError, match="too large"):
            load(tmp_path / name)


def test_memory_follows_what_is_kept_and_not_the_rate_of_the_file(tmp_path):
    rate, seconds = 384_000, 20
    soundfile.write(tmp_path / "a.flac", np.full((rate * seconds, 2), 0.25, np.float32), rate, "PCM_16")
    load(tmp_path / "a.flac")
    tracemalloc.start()
    signal = load(tmp_path / "a.flac")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert signal.audio_data.shape == (1, 2, seconds * RATE)
    assert peak < 4 * signal.audio_data.numel() * 4, "the file itself has nine times as many samples"


def test_what_is_given_stays_the_callers(tmp_path):
    given = torch.from_numpy(tone(0.5).T.copy())
    one = np.ascontiguousarray(tone(0.5, channels=1)[:, 0])
    for source, memory in (((given, RATE), given), (make_signal(given[None], RATE), given), ((RATE, one), one)):
        signal = load(source)
        before = signal.audio_data.clone()
        memory[...] = 0.5
        assert torch.equal(signal.audio_data, before)


def test_own_files_are_read_however_soft_or_short(tmp_path):
    for name, samples in (("soft", 1e-5 * tone(0.5)), ("short", tone(0.003))):
        save(make_signal(torch.from_numpy(samples.T.copy())[None], RATE), tmp_path / f"{name}.wav", subtype="FLOAT")
        with pytest.raises(AudioError):
            load(tmp_path / f"{name}.wav")
        assert load(tmp_path / f"{name}.wav", own=True).audio_data.shape[-1] == len(samples)


def test_ends_are_faded_only_where_the_source_is_soft_there():
    t = torch.arange(RATE) / RATE
    take = make_signal(0.5 * torch.cos(2 * torch.pi * 100 * t)[None, None], RATE)
    soft = make_signal((0.5 * torch.sin(2 * torch.pi * 100 * t) * torch.sin(torch.pi * t))[None, None], RATE)
    before = take.audio_data.clone()
    assert torch.equal(loops.settle_ends(take, make_signal(before, RATE)).audio_data, before), (
        "it begins in the midst of a sound"
    )
    settled = loops.settle_ends(take, soft).audio_data
    fade = round(loops.SETTLE_SECONDS * RATE)
    assert settled[..., 0].abs() < 0.01 and settled[..., -1].abs() < 0.01
    assert torch.equal(settled[..., fade:-fade], before[..., fade:-fade]) and not torch.equal(settled, before)
    for samples in (1, 2, 7):
        short = make_signal(torch.ones(1, 2, samples), RATE)
        assert loops.settle_ends(short, make_signal(torch.zeros(1, 2, samples), RATE)).audio_data.shape == (1, 2, samples)


def test_a_constant_offset_goes_and_a_drum_stays():
    t = torch.arange(RATE) / RATE
    tune = make_signal((0.1 * torch.sin(2 * torch.pi * 300 * t))[None, None], RATE)
    shifted = make_signal(tune.audio_data + 0.05, RATE)
    assert without_offset(tune) is tune
    assert float((without_offset(shifted).audio_data - tune.audio_data).abs().max()) < 0.002
    reed = make_signal(0.05 * sum(torch.cos(2 * torch.pi * 110 * n * t) for n in range(1, 6))[None, None], RATE)
    assert without_offset(reed) is reed, "it swings farther to one side, and back for longer"
    drum = make_signal((torch.sin(2 * torch.pi * 50 * t).abs() * torch.exp(-30 * t) * (t < 0.4))[None, None], RATE)
    assert without_offset(drum) is drum


def test_a_given_gain_is_kept():
    signal = make_signal(torch.from_numpy(tone(1.0, level=0.02).T.copy())[None], RATE)
    louder = restore_loudness(signal, -60.0, gain_db=12.0)
    assert abs(measure_loudness(louder) - measure_loudness(signal) - 12) < 0.1


def test_the_library_writes_sane_files_too(tmp_path):
    signal = load((RATE, tone(0.3)))
    signal.write(tmp_path / "a.wav")
    info = soundfile.info(tmp_path / "a.wav")
    assert info.frames == round(0.3 * RATE) and info.channels == 2 and info.subtype in ("PCM_16", "PCM_24", "FLOAT")


def test_what_is_read_is_written_as_it_was(tmp_path):
    samples = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (1, 2, 5000)).astype(np.float32))
    signal = audio.in_24_bits(make_signal(samples, RATE))
    assert torch.allclose(signal.audio_data, samples, atol=2**-23)
    for name in ("a.flac", "b.wav", "c.flac"):
        save(signal, tmp_path / name)
        signal, before = load(tmp_path / name), signal
        assert torch.equal(signal.audio_data, before.audio_data.clamp(-1, 1 - 2**-23)), "a little softer with every file"
    save(make_signal(torch.full((1, 1, 5000), 1.5), RATE), tmp_path / "loud.wav")
    assert load(tmp_path / "loud.wav").audio_data.max() == 1 - 2**-23


@pytest.mark.parametrize("told", [0, 1000, 150_000, 150_001, 400_000])
@pytest.mark.parametrize("rate", [44100, 48000, 22050])
def test_all_that_comes_is_kept_whatever_was_told(told, rate):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (150_000, 2)).astype(np.float32)
    kept = audio._Kept(rate, 44100, 2, told)
    for start in range(0, len(samples), 1 << 16):
        kept.add(samples[start : start + (1 << 16)])
    want = samples.T if rate == 44100 else soxr.resample(samples, rate, 44100).T
    found = kept.finish().numpy()
    assert found.shape == (2, round(150_000 * 44100 / rate)) and found.flags.c_contiguous
    assert np.allclose(found, want[:, : found.shape[1]], atol=1e-5)


@pytest.mark.parametrize("in_place", [False, True])
def test_the_codec_hears_all_clips_equally_loud(music, in_place):
    given = audio.make_signal(torch.from_numpy(0.3 * music)[None], SAMPLE_RATE)
    before = given.audio_data.clone()
    found, gain = audio.to_codec_level(given, in_place)
    assert audio.measure_loudness(found) == pytest.approx(audio.CODEC_LUFS, abs=0.01) and gain != 1
    assert torch.allclose(found.audio_data, before * gain)
    assert torch.equal(given.audio_data, before) != in_place
