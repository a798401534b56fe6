"""The composer and the renderer of the training corpus. No SoundFont and no samples folder is needed."""

import dataclasses
import itertools

import numpy as np
import pytest
import soundfile

from vampnet.train import arranger, composer, corpus, drums, mixing, theory
from vampnet.train import instruments as gm
from vampnet.train.corpus import HELD_OUT_SAMPLES, HELD_OUT_SEEDS, TRAIN_SEEDS, Corpus, CorpusConfig, write
from vampnet.train.player import SAMPLE_RATE, note_events, pitch_curve
from vampnet.train.sampler import find_samples, speed_change
from vampnet.train.score import Note, Track
from vampnet.train.tempo import beat_of
from vampnet.train.tones import render_tones


@pytest.fixture(scope="module")
def pieces():
    return [composer.compose(seed, 12.0, 2, {}) for seed in range(150)]


@pytest.fixture
def folder(tmp_path):
    """A samples folder with a few made sounds, one of them held out."""
    rng = np.random.default_rng(0)
    path = tmp_path / "samples"
    path.mkdir()
    names = (
        "bd_a",
        "sn_a",
        "hat_a",
        "drum_tom_hi_hard",
        "bass_x_c",
        "loop_x",
        "loop_mika",
        "ambi_x",
        "elec_wood",
        "perc_x",
        "tabla_x",
        "ride_x",
    )
    for name in names:
        soundfile.write(
            path / f"{name}.wav", 0.3 * rng.standard_normal((4410 if "loop" not in name else 44100, 2)), SAMPLE_RATE
        )
    return path


def test_seed_ranges_never_meet():
    assert TRAIN_SEEDS.stop <= HELD_OUT_SEEDS.start and len(HELD_OUT_SEEDS) >= 2**20
    assert not any(seed in TRAIN_SEEDS for seed in (HELD_OUT_SEEDS[0], HELD_OUT_SEEDS[-1]))


def test_same_seed_same_piece_and_other_seed_another(pieces):
    assert composer.compose(7, 12.0, 2, {}) == pieces[7]
    assert len({(p.style, p.tempo, p.key) for p in pieces}) > 140


def test_notes_are_playable(pieces):
    for piece in pieces:
        assert piece.tracks
        for track in piece.tracks:
            assert track.notes and -1 <= track.pan <= 1 and 0 <= track.send <= 1
            for note in track.notes:
                assert 0 <= note.start < piece.seconds + piece.lead_in and note.length > 0
                assert 0 <= note.pitch <= 127 and 1 <= note.velocity <= 127


def test_the_corpus_is_varied(pieces):
    assert {p.metre for p in pieces} == set(theory.METRES)
    assert {p.key for p in pieces} == set(range(12))
    assert len({p.style for p in pieces}) >= 18 and len({p.scale for p in pieces}) >= 8
    tempos = [p.tempo for p in pieces]
    assert min(tempos) < 75 and max(tempos) > 165 and all(60 <= t <= 180 for t in tempos)
    assert len({t.program for p in pieces for t in p.tracks if not t.drums}) >= 60
    detuned = np.mean([p.tuning != 0 for p in pieces])
    assert 0.35 < detuned < 0.65 and max(abs(p.tuning) for p in pieces) <= 50
    assert 0.2 < np.mean([p.ensemble != "band" for p in pieces]) < 0.45
    assert {p.soundfont for p in pieces} == {0, 1}


def test_sections_cover_the_piece_without_gaps(pieces):
    for piece in pieces:
        ends = [first + bars for _, first, bars in piece.sections]
        assert [first for _, first, _ in piece.sections] == [0, *ends[:-1]]
        assert ends[-1] * sum(theory.METRES[piece.metre][0]) * 15 / piece.tempo >= piece.seconds + piece.lead_in


def test_melodies_stay_in_the_scale_and_range(pieces):
    checked = 0
    for piece in pieces:
        allowed = {(piece.key + s) % 12 for s in theory.SCALES[piece.scale]} | {(piece.key + 6) % 12}
        for track in piece.tracks:
            if track.role == "lead" and piece.ensemble != "strings":
                low, high = gm.pitch_range(track.program)
                assert all(n.pitch % 12 in allowed and low <= n.pitch <= high for n in track.notes)
                checked += 1
    assert checked > 60


def test_swing_delays_the_offbeat_and_keeps_the_beat():
    rng = np.random.default_rng(0)
    plan = dataclasses.replace(composer.draw_plan(rng, 10.0, True)[-1], step=0.1, swing=(2, 1.0))
    assert plan.at(2) == pytest.approx(0.8 / 3) and plan.at(4) == pytest.approx(0.4) and plan.at(8) == pytest.approx(0.8)
    times = [plan.at(s / 4) for s in range(64)]
    assert all(b > a for a, b in itertools.pairwise(times))


def test_voice_leading_moves_little():
    scale = theory.SCALES["major"]
    chords = [theory.build_chord(0, scale, d, 3) for d in (0, 3, 4, 5, 1, 4, 0)]
    voiced = theory.lead_voices(chords, 3, 48, 72)
    for chord, voicing in zip(chords, voiced, strict=True):
        assert {p % 12 for p in voicing} == set(chord.tones) and 48 <= voicing[0] < voicing[-1] <= 72
    moves = [abs(a - b) for one, two in itertools.pairwise(voiced) for a, b in zip(one, two, strict=True)]
    assert np.mean(moves) <= 3


@pytest.mark.parametrize("metre", list(theory.METRES))
def test_every_groove_fits_every_metre(metre):
    rng = np.random.default_rng(1)
    for groups in theory.METRES[metre]:
        for name in (*drums.GROOVES, "generic", "hand"):
            notes = drums.drum_part(rng, name, groups, [("intro", 0, 2), ("full", 2, 2), ("silent", 4, 1)])
            assert notes and all(0 <= at < 4 * sum(groups) for at, *_ in notes)


def test_every_line_of_every_style_can_be_played():
    rng = np.random.default_rng(2)
    for style in composer.STYLES.values():
        for metre in style.metres:
            groups = theory.METRES[metre][0]
            chords = theory.progression(rng, style.harmony[0], 3, theory.SCALES[style.scales[0]], 4)
            end = len(chords) * sum(groups)
            for line in style.bass_lines:
                part = arranger.bass_part(rng, line, chords, groups, [0, 6], [0, 2, 4, 5, 7, 9, 11])
                assert part and all(0 <= at < end and pitch >= 28 for at, _, pitch, _ in part)
            for line in style.comp_lines:
                assert all(0 <= at < end + 2 for at, *_ in arranger.comp_part(rng, line, chords, groups, 48, 84))
            assert set(style.grooves) <= {*drums.GROOVES, "generic", "hand"}
            assert {*style.bass, *style.comp, *style.leads, *style.pads} <= set(gm.FAMILIES)


def test_a_note_ends_before_its_pitch_is_struck_again():
    events = note_events((Note(0.0, 2.0, 60, 90), Note(1.0, 2.0, 60, 80), Note(5.0, 1.0, 60, 80)), 4 * SAMPLE_RATE)
    second = SAMPLE_RATE
    assert events == [(0, 1, 60, 90), (second, 0, 60, 0), (second, 1, 60, 80), (3 * second, 0, 60, 0)]


def test_vibrato_moves_the_pitch_and_its_depth_is_bounded():
    track = Track("lead", "tones", 40, False, (Note(0.0, 3.0, 69, 90),), vibrato_cents=30.0, vibrato_hz=5.0)
    curve = pitch_curve(track, 3 * SAMPLE_RATE, np.random.default_rng(0))
    assert 20 < np.abs(curve).max() <= 30
    assert pitch_curve(dataclasses.replace(track, vibrato_cents=0.0), SAMPLE_RATE, np.random.default_rng(0)) is None


@pytest.mark.parametrize("tuning", [-50.0, 0.0, 37.0])
def test_built_in_tones_have_the_pitch_and_tuning_asked_for(tuning):
    track = Track("lead", "tones", 19, False, (Note(0.0, 1.0, 69, 100),))
    audio = render_tones(track, SAMPLE_RATE, tuning, np.random.default_rng(4))
    spectrum = np.abs(np.fft.rfft(audio[0] * np.hanning(SAMPLE_RATE), 4 * SAMPLE_RATE))
    wanted = 440 * 2 ** (tuning / 1200)
    region = spectrum[4 * 400 : 4 * 480]
    assert abs((400 + np.argmax(region) / 4) - wanted) < 3


def test_render_is_deterministic_and_of_exact_length():
    one, two = Corpus(CorpusConfig(seconds=2.0)), Corpus(CorpusConfig(seconds=2.0))
    first = {seed: one.render(seed) for seed in range(6)}
    for seed in reversed(range(6)):
        audio = two.render(seed)
        assert audio.dtype == np.float32 and audio.shape == (2, 2 * SAMPLE_RATE)
        assert np.array_equal(audio, first[seed])
        assert np.isfinite(audio).all() and np.abs(audio).max() <= 0.99
    assert one.render(0, seconds=1.2345).shape == (2, round(1.2345 * SAMPLE_RATE))
    assert sum(np.sqrt(np.mean(a**2)) > 0.01 for a in first.values()) >= 5


def test_samples_are_used_and_held_out_loops_never(folder):
    config = CorpusConfig(samples=str(folder), seconds=2.0)
    made = Corpus(config)
    assert "loop_mika" in HELD_OUT_SAMPLES and (folder / "loop_mika.wav").exists()
    pieces = [made.compose(seed) for seed in range(120)]
    used = {name for piece in pieces for t in piece.tracks for _, name in t.samples}
    assert {"bd_a", "sn_a", "loop_x", "ambi_x"} <= used and not used & HELD_OUT_SAMPLES
    assert not {p.stem for paths in find_samples(folder).values() for p in paths} & HELD_OUT_SAMPLES
    sources = {}
    for piece in pieces:
        for track in piece.tracks:
            sources.setdefault(track.source, piece.seed)
    for source in ("kit", "loop", "bed"):
        assert np.abs(made.render(sources[source])).max() > 0.01


def test_a_loop_is_stretched_to_whole_beats(folder):
    made = Corpus(CorpusConfig(samples=str(folder)))
    track = Track("loop", "loop", 0, False, (Note(0.0, 4.0, 60, 100),), ((480_000, "loop_x"),))
    audio = made.sampler.render(track, 4 * SAMPLE_RATE, 0.0, np.random.default_rng(0))
    cycle = round(2 * 0.48 * SAMPLE_RATE)
    errors = [np.abs(audio[0, c:-100] - audio[0, : -c - 100]).max() for c in range(cycle - 2, cycle + 3)]
    assert min(errors) == 0.0


def test_speed_change_shortens_by_the_ratio():
    tone = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)[None].repeat(2, 0).astype(np.float32)
    fast = speed_change(tone, 1.5)
    assert abs(fast.shape[1] - SAMPLE_RATE / 1.5) < 2
    assert abs(np.argmax(np.abs(np.fft.rfft(fast[0]))) * SAMPLE_RATE / fast.shape[1] - 660) < 2


def test_effects_do_what_they_say():
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((2, SAMPLE_RATE)).astype(np.float32)

    def tilt_of(x):
        power = np.abs(np.fft.rfft(x[0])) ** 2
        return 10 * np.log10(power[6000:10000].mean() / power[100:300].mean())

    assert tilt_of(mixing.equalise(noise, tilt=6.0)) - tilt_of(noise) > 3
    assert tilt_of(mixing.equalise(noise, lowpass=2000.0)) < -15
    assert tilt_of(mixing.equalise(noise, highpass=1000.0)) > 8
    assert mixing.equalise(noise) is noise
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[0] = 1.0
    wet = mixing.reverb(click, 0.5, 6000.0, 0.01, rng)
    energy = np.square(wet).sum(0)
    assert wet.shape == (2, SAMPLE_RATE) and not energy[:400].any()
    assert energy[441:5000].sum() > 100 * energy[15000:19559].sum()
    assert np.abs(mixing.drive(noise, 1.0)).max() < np.abs(noise).max()
    assert mixing.chorus(noise, 0.5, rng).shape == noise.shape


def test_write_makes_names_skips_and_resumes(tmp_path):
    config = CorpusConfig(seconds=1.0)
    out = tmp_path / "clips"
    seen = []
    assert write(config, out, range(3), progress=lambda done, seconds: seen.append((done, seconds))) == 3
    assert sorted(p.name for p in out.iterdir()) == [f"{s:010d}.flac" for s in range(3)] and seen[-1] == (3, 3.0)
    before = (out / "0000000001.flac").stat().st_mtime_ns
    (out / "0000000002.flac").unlink()
    assert write(config, out, range(3)) == 1
    assert (out / "0000000001.flac").stat().st_mtime_ns == before
    data, rate = soundfile.read(out / "0000000002.flac", always_2d=True)
    assert rate == SAMPLE_RATE and data.shape == (SAMPLE_RATE, 2)
    assert np.abs(data.T - Corpus(config).render(2)).max() < 1e-4
    for seed in range(3):
        beat = Corpus(config).compose(seed).beat
        found = beat_of(out / f"{seed:010d}.flac")
        assert (found is None) == (beat is None) and (beat is None or found == pytest.approx(beat, abs=1e-4))


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_clip_that_does_not_fit_on_the_disk_is_none(tmp_path, capsys, suffix):
    resource = pytest.importorskip("resource")
    line = ["--out", str(tmp_path), "--minutes", "0.01", "--seconds", "1", "--format", suffix]
    assert corpus.main(line) == 0
    (clip,) = tmp_path.iterdir()
    size, before = clip.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    for missing in (1, size // 2):
        clip.unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, before[1]))
        try:
            assert corpus.main(line) == 2 and "File too large" in capsys.readouterr().err
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list(tmp_path.iterdir())
        assert corpus.main(line) == 0


def test_beats_lie_where_drums_strike():
    """Of many pieces: notes of drums lie on the eighths of the beat, but for swing, fills and how loosely one plays."""
    near = []
    for seed in range(60):
        piece = Corpus(CorpusConfig(seconds=10.0)).compose(seed)
        strikes = [note.start - piece.lead_in for track in piece.tracks if track.drums for note in track.notes]
        if piece.beat is None or not strikes:
            continue
        first, gap = piece.beat
        assert 0 <= first < gap and 0.2 < gap < 2.1
        off = (np.array(strikes) - first) / gap % 1
        near.append(float((np.minimum(off, 1 - off) < 0.08).mean()))
    assert len(near) > 20 and np.median(near) > 0.3


def test_command_line(tmp_path, capsys):
    out = tmp_path / "clips"
    assert corpus.main(["--out", str(out), "--minutes", "0.05", "--seconds", "1.5", "--held-out", "--first-seed", "5"]) == 0
    assert sorted(int(p.stem) for p in out.iterdir()) == [HELD_OUT_SEEDS[5], HELD_OUT_SEEDS[6]]
    assert "2/2 clips" in capsys.readouterr().err
    assert corpus.main(["--out", str(out), "--soundfont", "/none.sf2"]) == 2
    error = capsys.readouterr().err
    assert "fluidr3mono-gm-soundfont" in error and error.count("\n") == 1
    assert corpus.main(["--out", str(out), "--first-seed", "-1"]) == 2
    assert corpus.main(["--out", str(out), "--minutes", "-1"]) == 2 and "--minutes must be" in capsys.readouterr().err


def test_bad_settings_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="--samples"):
        CorpusConfig(samples=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no audio samples"):
        CorpusConfig(samples=str(tmp_path))
    (tmp_path / "my sound.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="names begin with"):
        CorpusConfig(samples=str(tmp_path))
    (tmp_path / "bd_my sound.wav").write_bytes(b"")
    assert CorpusConfig(samples=str(tmp_path)).samples == str(tmp_path)
    with pytest.raises(ValueError, match="1 to 600"):
        CorpusConfig(seconds=0.0)
    with pytest.raises(ValueError, match="tuple"):
        CorpusConfig(soundfonts="a.sf2")
    with pytest.raises(ValueError, match="seed"):
        Corpus(CorpusConfig()).compose(-1)
    with pytest.raises(ValueError, match="flac or wav"):
        write(CorpusConfig(), tmp_path, [0], format="mp3")
    with pytest.raises(ValueError, match="worker"):
        write(CorpusConfig(), tmp_path, [0], workers=0)
