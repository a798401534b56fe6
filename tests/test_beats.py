"""Beats, downbeats and onsets of clicks at known times, and where beat-this' weights come from."""

import http.server
import pickle
import threading
import time

import numpy as np
import pytest
import torch

from vampnet import beats
from vampnet.audio import make_signal
from vampnet.beats import BeatGrid, make_grid, onsets, track, warm_up
from vampnet.loops import bars, roll, seam_step, trim_to_bars

RATE = 44_100


@pytest.fixture(scope="module", autouse=True)
def _warm():
    warm_up(background=False, download=False)


def drums(bpm, count, first=0.0, seconds=None, accent=4):
    """(1, 1, N), times: noisy hits, a bass drum on every `accent`-th."""
    generator = np.random.default_rng(0)
    samples = round((seconds or first + count * 60 / bpm) * RATE)
    x = generator.normal(size=samples) * 1e-4
    times = [first + i * 60 / bpm for i in range(count)]
    for i, t in enumerate(times):
        start = round(t * RATE)
        n = np.arange(min(4000, samples - start))
        hit = 0.3 * generator.normal(size=len(n)) + (0.6 * np.sin(2 * np.pi * 60 * n / RATE) if i % accent == 0 else 0)
        x[start : start + len(n)] += np.exp(-n / 500) * hit
    return make_signal(torch.from_numpy(x).float()[None, None], RATE), np.array(times)


def farthest(found, true):
    """Seconds from the found time that is farthest off to its nearest true one."""
    return float(np.abs(np.asarray(found)[:, None] - np.asarray(true)[None]).min(1).max())


@pytest.mark.parametrize("bpm", [87, 100, 120, 140])
def test_beats_of_clicks(bpm):
    signal, true = drums(bpm, 16)
    grid = track(signal, engine="librosa")
    assert isinstance(grid, BeatGrid) and grid.engine == "librosa" and grid.beats == tuple(sorted(grid.beats))
    assert len(grid.beats) >= 15 and farthest(grid.beats, true) < 0.015
    assert abs(grid.tempo / bpm - 1) < 0.02
    assert farthest(true[1:], grid.beats) < 0.015, "no beat but the first may be missed"
    assert farthest(grid.downbeats, true[::4]) < 0.015 and grid.beats_per_bar == 4
    assert "guess" in grid.note and grid.note.endswith(".")


def test_beats_lie_a_little_before_attacks_that_take_their_time():
    """What is kept from a beat on, or cut there, is to have the whole attack."""
    signal, true = drums(120, 16)
    samples = signal.audio_data[0, 0].numpy().copy()
    rise = round(0.008 * RATE)
    for at in true:
        start = round(at * RATE)
        samples[start : start + rise] *= np.linspace(0, 1, rise)
    off = np.array(track(make_signal(torch.from_numpy(samples)[None, None], RATE), engine="librosa").beats) - true
    assert -0.012 < np.median(off[1:]) < 0.002


def test_downbeats_follow_the_bass_drum():
    signal, true = drums(120, 18)
    turned = roll(signal, round(true[2] * RATE))
    grid = track(turned, engine="librosa")
    assert farthest(grid.downbeats, true[4::4] - true[2]) < 0.02


@pytest.mark.parametrize("bpm", [96, 120, 150])
def test_four_bars_of_a_tracked_song(bpm):
    signal, _ = drums(bpm, 26, first=0.37)
    start, end = bars(signal, track(signal, engine="librosa"), 4)
    assert abs((end - start) / RATE - 4 * 240 / bpm) < 0.010
    loop, grid = trim_to_bars(signal, track(signal, engine="librosa"), 4)
    across, inside = seam_step(loop)
    assert across <= inside and len(grid.beats) == 16


@pytest.mark.parametrize("late", [0.1, 0.25, 0.4, 0.6])
def test_bars_of_a_clip_that_begins_between_two_beats(late):
    signal, true = drums(120, 26)
    cut = make_signal(signal.audio_data[..., round(late * 0.5 * RATE) :].clone(), RATE)
    start, _ = bars(cut, track(cut, engine="librosa"), 2)
    assert farthest([start / RATE], true - late * 0.5) < 0.004, "a cut lies at the attack"


def test_a_tracked_loop_keeps_its_length():
    signal, _ = drums(120, 16)
    grid = track(signal, engine="librosa")
    assert bars(signal, grid) == (0, 8 * RATE) and bars(signal, grid, 2)[1] - bars(signal, grid, 2)[0] == 4 * RATE


def test_onsets_of_uneven_hits():
    true = np.array([0.0, 0.31, 0.52, 1.13, 1.9, 2.2])
    x = np.random.default_rng(0).normal(size=3 * RATE) * 1e-4
    for t in true:
        start = round(t * RATE)
        x[start : start + 4000] += np.exp(-np.arange(4000) / 500) * np.random.default_rng(1).normal(size=4000) * 0.3
    found = onsets(make_signal(torch.from_numpy(x).float()[None, None].repeat(1, 2, 1), RATE))
    assert len(found) == len(true) and farthest(found, true) < 0.012 and farthest(true, found) < 0.012


def test_antiphase_is_heard():
    signal, true = drums(120, 12)
    wide = make_signal(torch.cat([signal.audio_data, -signal.audio_data], 1), RATE)
    assert farthest(track(wide, engine="librosa").beats, true) < 0.015


@pytest.mark.parametrize("audio", [torch.zeros(1, 2, RATE), torch.zeros(1, 1, 10), torch.full((1, 1, 5000), 1e-6)])
def test_no_beats_are_no_error(audio):
    grid = track(make_signal(audio, RATE), download=False)
    assert grid.beats == () and grid.downbeats == () and grid.tempo == 0.0 and "silent" in grid.note
    assert onsets(make_signal(audio, RATE)) == ()


@pytest.mark.parametrize("samples", [4410, 20_000])
def test_short_noise_and_a_steady_tone(samples):
    noise = torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0)) * 0.1
    tone = torch.sin(torch.arange(samples) * 0.06)[None, None] * 0.3
    for audio in (noise, tone):
        for times in (track(make_signal(audio, RATE), engine="librosa").beats, onsets(make_signal(audio, RATE))):
            assert all(0 <= t < samples / RATE for t in times) and list(times) == sorted(times)


def test_grid_arithmetic():
    grid = make_grid([1.5, 0.5, 1.0, 2.0], [0.5], "librosa", "note")
    assert grid.beats == (0.5, 1.0, 1.5, 2.0) and grid.tempo == pytest.approx(120) and grid.beats_per_bar == 4
    assert grid.cut(1.0, 2.0).beats == (0.0, 0.5) and grid.cut(1.0, 2.0).downbeats == ()
    assert grid.cut(1.0005, 2.0).beats == pytest.approx((0.0, 0.4995))


def test_warm_up_runs_once():
    assert warm_up() is warm_up() and not warm_up(background=False).is_alive()


# -------------------------------------------------------------------------------------------------------------- beat-this


@pytest.fixture(scope="module")
def weights():
    """A beat-this checkpoint with the real layout and next to no layers."""
    from beat_this.model.beat_tracker import BeatThis

    torch.manual_seed(0)
    shape = {"spect_dim": 128, "transformer_dim": 32, "n_layers": 1, "head_dim": 8, "stem_dim": 8}
    model = BeatThis(**shape)
    for name, parameter in model.named_parameters():
        if name.startswith("task_heads") and name.endswith("bias"):
            parameter.data += 5.0  # so that it does find beats
    return {"hyper_parameters": shape, "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty torch hub cache, a fresh memory of downloads, and no ban on them."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(beats, "_downloads", {})
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "hub" / "checkpoints"


def test_beat_this_from_a_path_and_from_the_cache(weights, hub, tmp_path):
    signal, _ = drums(120, 8)
    torch.save(weights, tmp_path / "mine.ckpt")
    grid = track(signal, checkpoint=tmp_path / "mine.ckpt")
    assert grid.engine == "beat-this" and "mine.ckpt" in grid.note
    assert all(0 <= t < 4.0 for t in grid.beats) and set(grid.downbeats) <= set(grid.beats)
    hub.mkdir(parents=True)
    torch.save(weights, hub / "beat_this-final0.ckpt")
    assert track(signal).engine == "beat-this" and track(signal, engine="librosa").engine == "librosa"
    assert track(make_signal(torch.zeros(1, 1, RATE), RATE)).beats == ()


class _Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a checkpoint ran')",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_cannot_run_code(hub, tmp_path):
    (tmp_path / "bomb.ckpt").write_bytes(pickle.dumps(_Bomb()))
    torch.save({"hyper_parameters": _Bomb(), "state_dict": {}}, tmp_path / "bomb2.ckpt")
    signal, _ = drums(120, 8)
    for name in ("bomb.ckpt", "bomb2.ckpt"):
        with pytest.raises(ValueError, match="cannot be loaded"):
            track(signal, checkpoint=tmp_path / name)
    hub.mkdir(parents=True)
    (hub / "beat_this-final0.ckpt").write_bytes((tmp_path / "bomb2.ckpt").read_bytes())
    grid = track(signal)
    assert grid.engine == "librosa" and "cannot be loaded" in grid.note and len(grid.beats) > 4


def test_without_weights_librosa_says_why(hub, monkeypatch):
    signal, _ = drums(120, 8)
    assert "not on this machine;" in track(signal, download=False).note
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in track(signal).note
    with pytest.raises(ValueError, match="beat-this cannot track the beats because"):
        track(signal, engine="beat-this")
    with pytest.raises(ValueError, match="no beat-this checkpoint at"):
        track(signal, checkpoint="nowhere.ckpt")
    with pytest.raises(ValueError, match="one of"):
        track(signal, engine="ears")


class _Handler(http.server.BaseHTTPRequestHandler):
    body, delay, asked = b"", 0.0, 0

    def do_GET(self):
        type(self).asked += 1
        time.sleep(self.delay)
        self.send_response(200 if self.body else 404)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_):
        """Tests are quiet."""


@pytest.fixture
def server(monkeypatch):
    handler = type("Handler", (_Handler,), {})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr("beat_this.inference.CHECKPOINT_URL", f"http://127.0.0.1:{running.server_port}")
        yield handler
        running.shutdown()


def test_weights_are_downloaded_once(weights, hub, server, tmp_path):
    torch.save(weights, tmp_path / "a.ckpt")
    server.body = (tmp_path / "a.ckpt").read_bytes()
    signal, _ = drums(120, 8)
    assert track(signal).engine == "beat-this" and track(signal).engine == "beat-this" and server.asked == 1
    assert [p.name for p in hub.iterdir()] == ["beat_this-final0.ckpt"]


@pytest.mark.parametrize("body", [b"", b"this is no checkpoint"])
def test_a_failed_download_is_remembered(body, hub, server):
    server.body = body
    signal, _ = drums(120, 8)
    for _ in range(2):
        grid = track(signal)
        assert grid.engine == "librosa" and "could not be downloaded" in grid.note
    assert server.asked == 1 and not list(hub.glob("*"))


def test_a_server_that_does_not_answer_is_not_waited_for(hub, server, monkeypatch):
    server.delay = 1.5
    monkeypatch.setattr(beats, "CONNECT_SECONDS", 0.2)
    begin = time.perf_counter()
    for _ in range(3):
        path, reason = beats.find_checkpoint()
        assert path is None and "could not be downloaded" in reason
    assert time.perf_counter() - begin < 1.2 and server.asked <= 1
