"""The command `bench`: what is fitted is what was put in, slow shows as slow; `test_bench_work` is about what is counted."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint

from vampnet import beats, cli
from vampnet.bench import command, compare, growth, published, report, runner, stages
from vampnet.bench.cases import AXES, Case, plan
from vampnet.bench.ceilings import Ceilings, Rate
from vampnet.bench.fits import fit
from vampnet.bench.memory import resident
from vampnet.bench.timing import Stopwatch, Timing
from vampnet.bench.work import Work
from vampnet.codec import LAC
from vampnet.pipeline import VampNet

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
FAKE = Ceilings(dict.fromkeys(("float32", "bfloat16", "int8"), Rate(1e12, 1e12, 1e12)), Rate(1e11, 1e11, 1e11))


# --------------------------------------------------------------------------------------------------------------- measuring


def test_fits_find_what_was_put_in():
    x = [5, 10, 30, 60, 300, 600]
    line = fit(x, [0.5 + 0.25 * value for value in x])
    assert (line.fixed, line.slope) == pytest.approx((0.5, 0.25)) and line.worst < 1e-9
    power = fit(x, [3 * value**1.7 for value in x])
    assert (power.scale, power.exponent) == pytest.approx((3, 1.7)) and power.worst > 0.1
    bent = fit([1, 2, 3, 4], [1, 2, 3, 6])
    assert bent.off[3] > 0 > bent.off[2]
    for bad in ([1], [1, 1], [0, 1]):
        with pytest.raises(ValueError, match="two different"):
            fit(bad, [1] * len(bad))


def figure(stage: str, seconds: float, timing: Timing, takes: int = 0) -> runner.Figure:
    return runner.Figure(Case("fake", stage, seconds, takes), timing, (Work(matrix=10**6),), 100)


def run_of(*figures: runner.Figure, **more) -> runner.Run:
    machine = {"device": "cpu", "device_name": "fake", "cores": 1, "threads": 1, "torch": "2"}
    return runner.Run(machine, "float32", 3, FAKE, FAKE, list(figures), **more)


def measure(run, repeats: int) -> Timing:
    watch = Stopwatch()
    for _ in range(repeats):
        watch.time(run)
    return watch.timing()


def test_a_slower_stage_is_reported_as_slower(tmp_path):
    fast, slow = (measure(lambda s=s: time.sleep(s), 3) for s in (0.01, 0.06))
    assert 0.01 <= fast.median < 0.03 < slow.median
    before, now = (run_of(figure("encode", 10, timing)) for timing in (fast, slow))
    assert 0 < now.figures[0].share(FAKE) < before.figures[0].share(FAKE) / 2
    assert now.figures[0].tokens_per_second < before.figures[0].tokens_per_second / 2
    text = compare.compare(report.to_json(before), report.to_json(now))
    ratio = next(word for word in text.splitlines()[1].split() if word.endswith("x"))
    assert 0.1 < float(ratio[:-1]) < 0.6 and "~" not in text
    content = report.to_json(now)
    content["figures"][0]["times"] = ["soon"]
    (tmp_path / "bent.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not the bench.json"):
        compare.read(tmp_path / "bent.json")
    same = compare.compare(report.to_json(now), report.to_json(now))
    assert "~ 1.00x" in same and "may be chance" in same


def test_parts_and_short_runs():
    assert measure(lambda: {"a": 1.0, "b": 2.0}, 2).parts == {"a": 1.0, "b": 2.0}
    calls = []
    timing = measure(lambda: calls.append(0), 4)
    assert len(timing.times) == 4 and len(calls) > 100 and timing.median < 0.001


@pytest.mark.skipif(resident("VmHWM") is None, reason="the system does not tell the high-water mark")
def test_memory_is_that_of_the_stage_and_not_of_one_before():
    large = measure(lambda: torch.ones(24 << 20).sum(), 1)
    small = measure(lambda: torch.ones(1 << 20).sum(), 1)
    assert large.peak - large.before > 80 << 20 > 40 << 20 > small.peak - small.before


def test_one_thing_at_a_time_is_varied():
    cases = plan("m", list(AXES), [600, 5, 10], [1, 4, 8], [4, 8, 24])
    assert len(cases) == len(set(cases)) and {case.stage for case in cases} == set(AXES)
    assert [c.seconds for c in cases if c.stage == "encode"] == [5, 10, 600]
    assert [c.takes for c in cases if c.stage == "coarse step"] == [1, 4, 8]
    vamps = {(c.seconds, c.takes, c.steps) for c in cases if c.stage == "vamp"}
    assert vamps == {(5, 1, 8), (10, 1, 8), (600, 1, 8), (10, 4, 8), (10, 8, 8), (10, 4, 4), (10, 4, 24)}
    assert Case("m", "vamp", 2.5, 1, 24).words == "2.5 s, 1 take, 24 steps"


def test_growth_says_what_became_of_five_minutes():
    def one(seconds: float, factor: float = 1.0, peak: int = 10**9) -> runner.Figure:
        return figure("vamp", seconds, Timing((factor * 0.1 * seconds,), peak=peak), 1)

    even = growth.find_series([one(10), one(60), one(300)])
    assert len(even) == 1 and even[0].time.slope == pytest.approx(0.1)
    lines = growth.describe(even[0])
    assert "exponent 1.00" in lines[0] and "flat within 10%" in lines[1] and "costs 1.00 times" in lines[2]
    grown = growth.describe(growth.find_series([one(10), one(60), one(300, 1.5, 2 * 10**9)])[0])
    assert "not flat" in grown[1] and "costs 1.50 times" in grown[2] and "memory +100%" in grown[2]
    assert growth.find_series([one(10), one(300)]) == []


# ------------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def model(tmp_path):
    return str(tiny_checkpoint(tmp_path / "tiny"))


@pytest.fixture
def quick(monkeypatch):
    """Ceilings that were not measured, no beat tracker, and no new process; returns the command lines that it would run."""
    lines: list[list[str]] = []
    monkeypatch.setattr(runner, "measure_ceilings", lambda device, dtypes: FAKE)
    monkeypatch.setattr(beats, "track", lambda signal, **more: beats.BeatGrid(engine="metronome"))
    monkeypatch.setattr(stages, "run_command", lambda words: lines.append(words) or 123_000_000)
    return lines


SMALL = ["--lengths", "0.5,0.6,0.7", "--takes", "1", "--steps", "2", "--repeats", "2", "--device", "cpu"]


def test_the_command_prints_a_table_and_writes_it(model, quick, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["bench", "--model", model, *SMALL, "--out", str(out)]) == 0
    said = capsys.readouterr()
    content = json.loads((out / "bench.json").read_text())
    assert {one["stage"] for one in content["figures"]} == set(AXES)
    for stage in AXES:
        assert any(line.startswith(f"tiny   {stage} ") for line in said.out.splitlines()), stage
    by_stage = {one["stage"]: one for one in content["figures"]}
    assert by_stage["command"]["peak"] == 123_000_000 and by_stage["beats"]["note"] == "metronome"
    assert by_stage["beats"]["share"] is None and 0 < by_stage["vamp"]["share"]
    assert {"encode", "coarse", "fine", "decode", "save"} <= set(by_stage["vamp"]["parts"])
    assert sum(by_stage["vamp"]["parts"].values()) == pytest.approx(by_stage["vamp"]["median"], rel=0.2)
    assert "How cost grows" in said.out and "| tiny | encode |" in (out / "bench.md").read_text()
    assert (out / "bench-1.png").stat().st_size > 10_000 and model not in (out / "bench.json").read_text()
    assert cli.build_parser().parse_args(quick[0]).takes == 1
    earlier = str(out / "bench.json")
    assert cli.main(["bench", "--compare", earlier, earlier]) == 0
    assert capsys.readouterr().out.count("1.00x") == len(content["figures"])


def test_cases_of_a_stage_are_measured_in_rounds_there_and_back(model, quick, monkeypatch, capsys):
    order, real = [], stages.Stages.prepare
    monkeypatch.setattr(stages.Stages, "prepare", lambda self, case: order.append(case.seconds) or real(self, case))
    line = ["bench", "--model", model, *SMALL[:-4], "--repeats", "3", "--device", "cpu", "--stages", "encode"]
    assert cli.main(line) == 0
    assert order == [0.5, 0.6, 0.7, 0.7, 0.6, 0.5, 0.5, 0.6, 0.7]
    said = capsys.readouterr()
    assert "medians of 3" in said.out and "[5/7] tiny, encode, round 2 of 3\n" in said.err and "[7/7] ceilings" in said.err


def test_a_machine_that_gets_slower_does_not_bend_the_line(quick, monkeypatch, tmp_path):
    clock = [0.0]

    def run(seconds: float) -> None:
        clock[0] += seconds * (1 + clock[0] / 1000)  # half again as slow after 500 s

    monkeypatch.setattr("vampnet.bench.timing.time.perf_counter", lambda: clock[0])
    cases = [Case("m", "encode", seconds) for seconds in (11.0, 20.0, 40.0, 60.0)]
    bench = runner.Runner(CPU, "float32", 5, 1e9, None, lambda text: None)
    bench._stage(cases, lambda case: stages.Prepared(lambda: run(case.seconds)))
    (series,) = growth.find_series(bench.run.figures)
    assert clock[0] > 700 and max(map(abs, series.time.off)) < 0.03 and abs(series.time.exponent - 1) < 0.05
    # One case after the other, as a bench might be thought to be done, bends it.
    clock[0], bench.run.figures = 0.0, []
    for case in cases:
        bench._stage([case], lambda case: stages.Prepared(lambda: run(case.seconds)))
    assert growth.find_series(bench.run.figures)[0].time.exponent > 1.1


def test_a_run_that_is_stopped_writes_what_it_has(model, quick, monkeypatch, tmp_path, capsys):
    real, done = Stopwatch.time, []

    def time_one(self, run):
        done.append(run)
        if len(done) == stop:
            raise KeyboardInterrupt
        real(self, run)

    stop = 3
    monkeypatch.setattr(Stopwatch, "time", time_one)
    line = ["bench", "--model", model, *SMALL, "--stages", "mask", "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main(line) == 130
    content = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert content["stopped"] and len(content["figures"]) == 2 and "was stopped" in capsys.readouterr().out
    # In a later round all of them have been measured, some less often.
    stop = len(done) + 5
    assert cli.main(line) == 130
    content = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert sorted(len(one["times"]) for one in content["figures"]) == [1, 1, 2]
    # It takes the place of another stopped one, but not that of a whole one.
    stop = 0
    assert cli.main(line) == 0
    whole = (tmp_path / "out" / "bench.json").read_bytes()
    stop = len(done) + 3
    assert cli.main(line) == 130 and (tmp_path / "out" / "bench.json").read_bytes() == whole
    assert json.loads((tmp_path / "out" / "stopped" / "bench.json").read_text())["stopped"]


def test_what_would_take_too_long_is_left_out_and_named(model, quick, capsys):
    line = ["bench", "--model", model, *SMALL, "--stages", "coarse-step,coarse", "--limit", "1e-6", "--quiet"]
    assert cli.main(line) == 0
    said = capsys.readouterr().out
    assert "Left out" in said and "tiny   coarse step" in said and "tiny   coarse  " not in said


def test_without_matplotlib_there_are_no_pictures_but_all_else(model, quick, monkeypatch, tmp_path, capsys):
    def need(name):
        raise ModuleNotFoundError("Measuring needs 'matplotlib'.", name="matplotlib")

    monkeypatch.setattr("vampnet.bench.plot.need", need)
    line = ["bench", "--model", model, *SMALL, "--stages", "mask", "--out", str(tmp_path / "out")]
    assert cli.main(line) == 0
    assert "No pictures. Measuring needs 'matplotlib'." in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.json", "bench.md"]


def test_precision_is_handed_on(monkeypatch):
    given = []
    monkeypatch.setattr(VampNet, "from_pretrained", lambda name, device, precision: given.append(precision))
    stages.load_model("mini", "cpu", "bfloat16")
    stages.load_model("mini", "cpu", "float32")
    assert given == ["bfloat16", "float32"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lengths", "0"], "must be seconds from 0.5 to 600"),
        (["--takes", "two"], "must be whole numbers"),
        (["--stages", "encode,dance"], "'dance' is none of load, beats"),
        (["--limit", "0"], "--limit is a number of seconds above 0"),
        (["--model", "nothing-here", "--device", "cpu"], "There is no model 'nothing-here'"),
        (["--device", "abacus"], "The device 'abacus' cannot be used here"),
        (["--compare", "no.json"], "There is no file no.json"),
        (["--compare", __file__], "is not the bench.json of a run"),
    ],
)
def test_bad_options_give_one_sentence(options, sentence, quick, capsys):
    try:
        status = cli.main(["bench", "--quick", "--quiet", *options])
    except SystemExit as end:
        status = end.code
    assert status == 2 and sentence in capsys.readouterr().err


def test_defaults_and_help(capsys):
    args = command.build_parser().parse_args(["--quick", "--takes", "3"])
    command._settings(args)
    assert args.takes == (3,) and args.lengths == command.QUICK["lengths"] and "beats" not in args.stages
    with pytest.raises(SystemExit):
        cli.main(["bench", "--help"])
    assert "command: the command" in " ".join(capsys.readouterr().out.split())


# ---------------------------------------------------------------------------------------------------- published shapes


def test_random_weights_in_the_published_format_can_be_loaded(tmp_path):
    folder = published.write_files(tmp_path, "tiny")
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(times) == {"codec.pth", "coarse.pth", "c2f.pth"}
    model = stages.load_model(folder, "cpu", "float32")
    assert isinstance(model.codec, LAC) and model.coarse.config.dim == 64 and model.fine.config.n_conditioning == 4
    # nothing but noise, but finite: a vamp goes through
    assert model.decode(torch.randint(1024, (1, 14, 3))).audio_data.isfinite().all()
    published.write_files(tmp_path, "tiny")
    assert times == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_comparison_runs_both_sides_in_turn():
    spec = importlib.util.spec_from_file_location("measure_paper_size", ROOT / "scripts" / "measure_paper_size.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    order = []

    class Side:
        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def run(self, stage: str) -> dict:
            order.append(self.name)
            return {"seconds": self.seconds * len(order), "peak": 10**9, "device_peak": None}

    results = script.rounds({"ours": Side("ours", 0.1), "original": Side("original", 0.3)}, "decode", 4)
    there, back = ["ours", "original"], ["original", "ours"]
    assert order == [*there, *back, *there, *back, *there]  # the first round only warms up
    assert [len(answers) for answers in results.values()] == [4, 4]
    table = script.summary(results)
    # Each round is slower than the one before it, which the ratios by rounds don't see.
    assert 2 < table["ratio"]["low"] < table["ratio"]["median"] < table["ratio"]["high"] < 5
    options = type("Options", (), {"precision": "bfloat16"})
    text = script.markdown({"decode": table}, options).splitlines()
    assert text[0] == "| stage | ours (bfloat16) | original | ratio | memory so far |" and text[2].startswith("| decode | ")
