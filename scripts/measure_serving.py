"""Measures what visitors wait for: the cold start, stage by stage, and several vamps at once beside the same one by one.

python scripts/measure_serving.py start [--model mini] [--device cpu]
python scripts/measure_serving.py crowd [--model mini] [--device cuda] [--visitors 4] [--seconds 10] [--takes 1] ...
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
HEAVY = (
    "torch", "gradio", "pandas", "torchaudio", "audiotools", "dac", "scipy.signal", "scipy.stats", "tensorboard", "sympy",
    "torch._dynamo", "librosa", "numba", "sklearn", "matplotlib",
)  # fmt: skip


class Stages:
    """Prints for each stage the processor's seconds, what was imported, and the peak of memory so far."""

    def __init__(self) -> None:
        self._seconds, self._modules = self._now(), set(sys.modules)

    @staticmethod
    def _now() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def done(self, name: str) -> None:
        """Ends the stage that has begun with the one before."""
        seconds, new = self._now() - self._seconds, set(sys.modules) - self._modules
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        heavy = ", ".join(module for module in HEAVY if module in new)
        print(f"{name:<24}{seconds:7.2f} s{len(new):6} modules{peak:7.0f} MB   {heavy}", flush=True)
        self._seconds, self._modules = self._now(), set(sys.modules)


def noise(seconds: float) -> Any:
    """Stereo noise as (rate, array)."""
    import numpy as np

    return 44_100, 0.1 * np.random.default_rng(0).standard_normal((round(44_100 * seconds), 2)).astype(np.float32)


def python(options: argparse.Namespace) -> None:
    """The package: import, load, first and second vamp."""
    stages = Stages()
    import vampnet

    stages.done("import vampnet")
    model_class = vampnet.VampNet
    stages.done("import VampNet")
    model = model_class.from_pretrained(options.model, options.device)
    stages.done("load the model")
    quick = vampnet.Sampling(steps=2, fine_steps=1)
    clip = noise(1)
    for name in ("first vamp of 1 s", "second vamp of 1 s"):
        model.vamp(clip, vampnet.Prompt(), quick, takes=1, loop=True)
        stages.done(name)
    from vampnet import audio, beats

    for name in ("first beats", "second beats"):
        beats.track(audio.load(clip), engine="librosa")
        stages.done(name)


def page(options: argparse.Namespace) -> None:
    """The studio: until its page answers, and until the model is there."""
    stages = Stages()
    import app  # noqa: F401
    from vampnet.studio.page import build
    from vampnet.studio.zero import open_shelf

    stages.done("import the studio")
    shelf = open_shelf(options.model, options.device, True)
    blocks, settings = build(shelf)
    stages.done("build the page")
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **settings)
    import httpx

    httpx.get(address).raise_for_status()
    stages.done("serve the page")
    shelf.start(options.model)
    shelf.wait()
    stages.done("load the model")
    blocks.close(verbose=False)


def start(options: argparse.Namespace) -> None:
    """Each kind of start in a process of its own."""
    for kind in ("help", "python", "page"):
        print(f"{kind}:", flush=True)
        if kind == "help":
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            subprocess.run([sys.executable, "-m", "vampnet", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
            print(f"{'all of it':<24}{resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before:7.2f} s", flush=True)
        else:
            device = ["--device", options.device] if options.device else []
            subprocess.run([sys.executable, __file__, kind, "--model", options.model, *device], cwd=ROOT, check=True)


def crowd(options: argparse.Namespace) -> None:
    """The same vamps one by one and at once."""
    from vampnet import Prompt, Sampling, VampNet
    from vampnet.serving import Turns, batch_for

    model = VampNet.from_pretrained(options.model, options.device)
    sampling, clip, turns, ends = Sampling(steps=options.steps), noise(options.seconds), Turns(), []

    def one(seed: int) -> None:
        turns.serve(
            model, lambda view: view.vamp(clip, Prompt(), sampling, options.takes, seed, loop=True, batch=batch_for(model))
        )  # fmt: skip
        ends.append(time.perf_counter())

    one(0)  # what is slow the first time is not what is measured
    found = {}
    for kind in ("one by one", "at once"):
        begin = time.perf_counter()
        ends.clear()
        visitors = [threading.Thread(target=one, args=(seed,)) for seed in range(options.visitors)]
        for visitor in visitors:
            visitor.start()
            if kind == "one by one":
                visitor.join()
        for visitor in visitors:
            visitor.join()
        found[kind] = ends[-1] - begin
        waits = ", ".join(f"{end - begin:.2f}" for end in sorted(ends))
        print(f"{kind:<12}{found[kind]:8.2f} s in all; done after {waits} s", flush=True)
    print(f"{found['one by one'] / found['at once']:.2f} times as fast at once, on {model.device}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "crowd", "python", "page"))
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device")
    parser.add_argument("--visitors", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--takes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=24)
    options = parser.parse_args()
    {"start": start, "crowd": crowd, "python": python, "page": page}[options.what](options)


if __name__ == "__main__":
    main()
