"""Times the paper-size path with random weights in the published shapes, beside the original implementation.

    python scripts/measure_paper_size.py FOLDER --original VAMPNET LAC [--precision bfloat16] [--markdown FILE] [--json FILE]
    python scripts/measure_paper_size.py FOLDER --original VAMPNET LAC --device cuda --precision bfloat16 --stages all

FOLDER receives the three files in the published format (3 GB; made once). VAMPNET and LAC are checkouts of the original's two
repositories, which need einops, loralib and audiotools. Both sides load the same files, each in a process of its own, and
run each stage in turn, so that whatever else the machine does falls on both; the ratio is the median of the rounds' ratios.
Whole vamps (codec, 36 coarse and 2 fine steps) take a CPU many minutes and are left out unless they are asked for.
Without --original ours alone is timed. `--shape tiny` tries everything out in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent.parent
SECONDS = 10.0
C2F_STEPS = 173
"""3 s: what the original's fine model is given at a time. The last piece of a clip is filled up to it."""
STAGES = ("encode", "coarse step", "coarse step, 4 takes", "fine, 10 s", "decode")
VAMPS = {"vamp": 1, "vamp, 16 takes": 16}
"""Takes of whole vamps, from samples to samples."""
STEPS, FINE_STEPS, PERIOD = 36, 2, 7
LONG_SECONDS = 10.0
"""A first run this long counts; a shorter one only warms up."""


# ---- the stages -----------------------------------------------------------------------------------------------------------


def ours(folder: Path, device: str, precision: str) -> dict[str, Callable[[], object]]:
    """Stage -> what to time, with our code. The fine stage is the program's own, one step with sampling and all."""
    from vampnet import Prompt, Sampling
    from vampnet.bench.stages import load_model
    from vampnet.config import MASK
    from vampnet.kept_memory import keep_freed_memory

    keep_freed_memory()  # as the program does
    model = load_model(folder, device, precision)
    audio = torch.randn(1, 1, round(SECONDS * model.codec.sample_rate), device=device) * 0.05
    steps = model.grid.samples_to_tokens(audio.shape[-1])
    codes = torch.randint(0, 1024, (1, model.codec.n_codebooks, steps), device=device)
    hidden = torch.full((4, 4, steps), MASK, device=device)
    fine = torch.ones_like(codes, dtype=torch.bool)
    fine[:, : model.fine.config.n_conditioning] = False
    sampling = Sampling(steps=STEPS, fine_steps=FINE_STEPS, guidance=0.0, palette=0.0, recall=0.0)  # which the original has not

    def step(tokens: torch.Tensor) -> torch.Tensor:
        # As decoding asks for them: on a GPU the logits of all positions, whatever is masked.
        where = None if device == "cuda" else torch.ones_like(tokens, dtype=torch.bool)
        return model.coarse(tokens, where=where)

    def vamp(takes: int) -> None:
        heard = model.codec.encode(audio).cpu()
        mask = model.mask(heard, Prompt(periodic=PERIOD))
        made = model.generate(heard, mask, sampling, [(0, take) for take in range(takes)])
        model.codec.decode(made.to(device))

    return {
        "encode": lambda: model.codec.encode(audio),
        "coarse step": lambda: step(hidden[:1]),
        "coarse step, 4 takes": lambda: step(hidden),
        "fine, 10 s": lambda: model.generate(codes, fine, Sampling(fine_steps=1)),
        "decode": lambda: model.codec.decode(codes),
        **{name: partial(vamp, takes) for name, takes in VAMPS.items()},
    }


def original(folder: Path, device: str, precision: str) -> dict[str, Callable[[], object]]:
    """The same with the original's modules, which must be on the path; but for whole vamps the transformers alone, without its
    sampling.

    On a GPU its own interface runs the transformers under autocast to bfloat16, and so does this.
    """
    bare_package("vampnet")
    from lac.model.lac import LAC
    from vampnet.modules.transformer import VampNet

    codec = LAC.load(folder / "codec.pth").eval().to(device)
    coarse, c2f = (VampNet.load(folder / f"{n}.pth", map_location="cpu", strict=False).eval() for n in ("coarse", "c2f"))
    coarse, c2f = coarse.to(device), c2f.to(device)
    audio = torch.randn(1, 1, round(SECONDS * codec.sample_rate), device=device) * 0.05
    padded = codec.preprocess(audio, codec.sample_rate)[0]
    steps = -(-audio.shape[-1] // int(codec.hop_length))
    codes = torch.randint(0, 1024, (1, 14, steps), device=device)
    hidden = torch.full((4, 4, steps), 1024, device=device)
    fine = torch.nn.functional.pad(codes, (0, -steps % C2F_STEPS))
    fine[:, 4:] = 1024

    def run(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device == "cuda"):
            return model(model.embedding.from_codes(tokens, codec))

    def generate(model: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor, steps: int) -> torch.Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device == "cuda"):
            return model.generate(
                codec=codec, time_steps=tokens.shape[-1], start_tokens=tokens, mask=mask, _sampling_steps=steps,
                typical_filtering=False, return_signal=False,
            )  # fmt: skip

    def vamp(takes: int) -> None:
        heard = codec.encode(padded, codec.sample_rate)["codes"].expand(takes, -1, -1)
        mask = torch.ones_like(heard)
        mask[..., ::PERIOD] = 0
        made = torch.cat([generate(coarse, heard[:, :4], mask[:, :4], STEPS), heard[:, 4:]], dim=1)
        mask[:, :4] = 0
        beyond = -made.shape[-1] % C2F_STEPS
        pieces = (torch.nn.functional.pad(x, (0, beyond)).split(C2F_STEPS, dim=-1) for x in (made, mask))
        made = torch.cat([generate(c2f, *piece, FINE_STEPS) for piece in zip(*pieces, strict=True)], dim=-1)
        codec.decode(codec.quantizer.from_codes(made[..., : heard.shape[-1]])[0])

    return {
        "encode": lambda: codec.encode(padded, codec.sample_rate)["codes"],
        "coarse step": lambda: run(coarse, hidden[:1]),
        "coarse step, 4 takes": lambda: run(coarse, hidden),
        "fine, 10 s": lambda: [run(c2f, piece) for piece in fine.split(C2F_STEPS, dim=-1)],
        "decode": lambda: codec.decode(codec.quantizer.from_codes(codes)[0]),
        **{name: partial(vamp, takes) for name, takes in VAMPS.items()},
    }


def bare_package(name: str) -> None:
    """Makes a package of the path importable without what its `__init__` would import (beat trackers, hub clients)."""
    folder = next((Path(entry) / name for entry in sys.path if (Path(entry) / name / "modules").is_dir()), None)
    if folder is None:
        raise SystemExit("The original's checkout has no folder vampnet/modules: name its root.")
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(folder)]


# ---- two processes in turn ------------------------------------------------------------------------------------------------


def peak_bytes() -> int:
    """The most that this process has taken so far; what the system says of children would include their parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(which: str, folder: Path, device: str, precision: str) -> None:
    """Loads one side and runs the stages it is asked for on stdin; answers with JSON lines."""
    start = time.perf_counter()
    stages = {"ours": ours, "original": original}[which](folder, device, precision)

    def answer(seconds: float) -> None:
        gpu = torch.cuda.max_memory_allocated() if device == "cuda" else None
        sys.stdout.write(json.dumps({"seconds": seconds, "peak": peak_bytes(), "device_peak": gpu}) + "\n")
        sys.stdout.flush()

    answer(time.perf_counter() - start)
    for line in sys.stdin:
        with torch.inference_mode() if which == "original" else torch.no_grad():
            start = time.perf_counter()
            stages[line.strip()]()
            if device == "cuda":
                torch.cuda.synchronize()
        answer(time.perf_counter() - start)


class Side:
    """A process that runs the stages of one side."""

    def __init__(self, which: str, options: argparse.Namespace, paths: list[Path]) -> None:
        command = [sys.executable, "-W", "ignore", __file__, str(options.folder), "--device", options.device]
        command += ["--precision", options.precision, "--serve", which]
        path = os.pathsep.join(str(p.resolve()) for p in paths)
        environment = {**os.environ, "PYTHONPATH": path + os.pathsep + os.environ.get("PYTHONPATH", "")}
        if options.threads:
            environment["OMP_NUM_THREADS"] = str(options.threads)
        self.which = which
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        self.loaded = self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The side '{self.which}' ended before it answered; its message is above.")
        return json.loads(line)

    def run(self, stage: str) -> dict:
        """Runs a stage once: {"seconds", "peak", "device_peak"}."""
        self.process.stdin.write(stage + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def rounds(sides: dict[str, Side], stage: str, repeats: int) -> dict[str, list[dict]]:
    """{side: answers}, `repeats` rounds in which the sides run in turn, every second one in the other order."""
    results: dict[str, list[dict]] = {name: [] for name in sides}
    first = {name: side.run(stage) for name, side in sides.items()}
    if min(answer["seconds"] for answer in first.values()) >= LONG_SECONDS:
        for name, answer in first.items():
            results[name].append(answer)
    while len(results["ours"]) < repeats:
        order = list(sides) if len(results["ours"]) % 2 else list(sides)[::-1]
        for name in order:
            results[name].append(sides[name].run(stage))
    return results


# ---- tables ---------------------------------------------------------------------------------------------------------------


def summary(results: dict[str, list[dict]]) -> dict[str, dict]:
    """Of one stage: {side: median, low and high of the seconds, peaks}, and "ratio": the same of original / ours by rounds."""

    def of(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "low": min(values), "high": max(values)}

    table = {
        name: {**of([answer["seconds"] for answer in answers]), "peak": answers[-1]["peak"],
               "device_peak": answers[-1]["device_peak"]}
        for name, answers in results.items()
    }  # fmt: skip
    if "original" in results:
        pairs = zip(results["original"], results["ours"], strict=True)
        table["ratio"] = of([theirs["seconds"] / mine["seconds"] for theirs, mine in pairs])
    return table


def markdown(tables: dict[str, dict], options: argparse.Namespace) -> str:
    """The whole comparison as a Markdown table."""
    both = any("original" in table for table in tables.values())
    titles = ["stage", f"ours ({options.precision})", *(["original", "ratio"] if both else []), "memory so far"]

    def cell(values: dict[str, float], unit: str) -> str:
        return f"{values['median']:.3g}{unit} ({values['low']:.3g} to {values['high']:.3g})"

    rows = []
    for stage, table in tables.items():
        memory = [f"{table[name]['peak'] / 1e9:.1f} GB" for name in ("ours", "original") if name in table]
        times = [cell(table[name], " s") for name in ("ours", "original") if name in table]
        rows.append([stage, *times, *([cell(table["ratio"], "")] if both else []), " / ".join(memory)])
    rule = ["---"] * len(titles)
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rule, *rows))


def main() -> None:
    """Makes the files, times both sides in turn, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the three files")
    parser.add_argument("--original", nargs=2, type=Path, metavar=("VAMPNET", "LAC"), help="checkouts to measure beside")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "int8"), default="float32", help="of our side")
    parser.add_argument("--threads", type=int, help="of both sides (default: torch's own choice)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, of which the median counts (5)")
    known = (*STAGES, *VAMPS)
    parser.add_argument("--stages", nargs="+", choices=(*known, "all"), default=STAGES, metavar="STAGE",
                        help=f"of {', '.join(repr(name) for name in known)}, or all; default: all but the vamps")  # fmt: skip
    parser.add_argument("--shape", choices=("paper", "tiny"), default="paper", help="of the random weights")
    parser.add_argument("--markdown", type=Path, help="also write the table there")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--serve", choices=("ours", "original"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.folder, options.device, options.precision)
    if "all" in options.stages:
        options.stages = known
    sys.path.insert(0, str(HERE))
    from vampnet.bench.published import write_files

    write_files(options.folder, options.shape)
    sides = {"ours": Side("ours", options, [HERE])}
    if options.original:
        sides["original"] = Side("original", options, options.original)
    tables = {"load": summary({name: [side.loaded] for name, side in sides.items()})}
    for stage in options.stages:
        tables[stage] = summary(rounds(sides, stage, options.repeats))
        sys.stderr.write(f"{stage}: {tables[stage]['ours']['median']:.3g} s\n")
    for side in sides.values():
        side.close()
    text = markdown(tables, options)
    sys.stdout.write(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        settings = {"device": options.device, "precision": options.precision, "shape": options.shape}
        options.json.write_text(json.dumps({**settings, "stages": tables}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
