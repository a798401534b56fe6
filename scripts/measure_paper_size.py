"""Runs and times the paper-size path with random weights in the published shapes: memory and seconds of every stage.

    python scripts/measure_paper_size.py FOLDER [--original VAMPNET LAC] [--device cuda] [--json FILE]

FOLDER receives the three files in the published format (3 GB; made once). With --original, the checkouts of the original
vampnet and lac repositories are timed on the same files, stage by stage in turn with ours.
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
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent.parent
SECONDS = 10.0
C2F_STEPS = 173  # 3 s, what the original's fine model sees at once


# ---- random files in the published format -------------------------------------------------------------------------------


def transformer_state(layers: int, dim: int, heads: int, levels: int, given: int, latent: int = 8) -> dict[str, Tensor]:
    """Random tensors under the published names (no LoRA)."""

    def linear(out: int, into: int, *more: int) -> Tensor:
        return torch.randn(out, into, *more) * into**-0.5

    predicted = 1024 * (levels - given)
    state = {
        "embedding.special.MASK": torch.randn(levels, latent),
        "embedding.out_proj.weight": linear(dim, levels * latent, 1),
        "embedding.out_proj.bias": torch.zeros(dim),
        "transformer.norm.weight": torch.ones(dim),
        "classifier.layers.0.weight_g": torch.ones(predicted, 1, 1),
        "classifier.layers.0.weight_v": linear(predicted, dim, 1),
        "classifier.layers.0.bias": torch.zeros(predicted),
        "transformer.layers.0.self_attn.relative_attention_bias.weight": torch.randn(32, heads),
    }
    for layer in range(layers):
        name = f"transformer.layers.{layer}."
        state |= {f"{name}norm_{i}.weight": torch.ones(dim) for i in (1, 3)}
        state |= {f"{name}self_attn.{w}.weight": linear(dim, dim) for w in ("w_qs", "w_ks", "w_vs", "fc")}
        state[f"{name}feed_forward.w_1.weight"] = linear(4 * dim, dim)
        state[f"{name}feed_forward.w_2.weight"] = linear(dim, 2 * dim)
    return state


def codec_state(encoder_dim: int, encoder_rates: list[int], decoder_dim: int, decoder_rates: list[int]) -> dict[str, Tensor]:
    """Random tensors of the LAC codec under the published names."""
    state: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, kernel: int, transposed: bool = False) -> None:
        shape = (into, out, kernel) if transposed else (out, into, kernel)
        state[f"{name}.bias"] = torch.zeros(out)
        state[f"{name}.weight_v"] = torch.randn(shape)
        state[f"{name}.weight_g"] = torch.ones(shape[0], 1, 1)

    def snake(name: str, dim: int) -> None:
        state[f"{name}.alpha"] = torch.ones(1, dim, 1)

    dim = encoder_dim
    conv("encoder.block.0", dim, 1, 7)
    for i, rate in enumerate(encoder_rates, 1):
        for unit in range(3):
            name = f"encoder.block.{i}.block.{unit}.block"
            snake(f"{name}.0", dim)
            conv(f"{name}.1", dim, dim, 7)
            snake(f"{name}.2", dim)
            conv(f"{name}.3", dim, dim, 1)
        snake(f"encoder.block.{i}.block.3", dim)
        conv(f"encoder.block.{i}.block.4", 2 * dim, dim, 2 * rate)
        dim *= 2
    last = len(encoder_rates) + 1
    snake(f"encoder.block.{last}", dim)
    conv(f"encoder.block.{last + 1}", dim, dim, 3)
    for level in range(14):
        name = f"quantizer.quantizers.{level}"
        conv(f"{name}.in_proj", 8, dim, 1)
        conv(f"{name}.out_proj", dim, 8, 1)
        state[f"{name}.codebook.weight"] = torch.randn(1024, 8)
    conv("decoder.model.0", decoder_dim, dim, 7)
    dim = decoder_dim
    for i, rate in enumerate(decoder_rates, 1):
        name = f"decoder.model.{i}.block"
        snake(f"{name}.0", dim)
        conv(f"{name}.1", dim // 2, dim, 2 * rate, transposed=True)
        dim //= 2
        for branch, kernel in enumerate((3, 7, 11)):
            for unit in range(3):
                part = f"{name}.2.mrf_blocks.{branch}.block.{unit}.layer"
                snake(f"{part}.0", dim)
                conv(f"{part}.1", dim, dim, kernel)
                snake(f"{part}.2", dim)
                conv(f"{part}.3", dim, dim, kernel)
    last = len(decoder_rates) + 1
    snake(f"decoder.model.{last}", dim)
    conv(f"decoder.model.{last + 1}", 1, dim, 7)
    return state


def make_files(folder: Path) -> None:
    """Writes codec.pth, coarse.pth and c2f.pth in the published shapes, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    transformer = {
        "n_heads": 20, "r_cond_dim": 0, "latent_dim": 8, "embedding_dim": 1280, "vocab_size": 1024, "flash_attn": False,
        "noise_mode": "mask", "dropout": 0.1, "ctrl_dims": None, "cfg_dropout_prob": 0.2, "cond_dim": 0,
    }  # fmt: skip
    codec = {"encoder_dim": 64, "encoder_rates": [2, 6, 8, 8], "decoder_dim": 1536, "decoder_rates": [6, 4, 4, 2, 2, 2]}
    more = {
        "n_codebooks": 14, "codebook_size": 1024, "codebook_dim": 8, "quantizer_dropout": False, "sample_rate": 44100,
    }  # fmt: skip
    plan: dict[str, tuple[Callable[[], dict[str, Tensor]], dict]] = {
        "coarse": (
            lambda: transformer_state(20, 1280, 20, 4, 0),
            transformer | {"n_layers": 20, "n_codebooks": 4, "n_conditioning_codebooks": 0},
        ),
        "c2f": (
            lambda: transformer_state(16, 1280, 20, 14, 4),
            transformer | {"n_layers": 16, "n_codebooks": 14, "n_conditioning_codebooks": 4},
        ),
        "codec": (lambda: codec_state(**codec), codec | more),
    }
    for name, (state, kwargs) in plan.items():
        path = folder / f"{name}.pth"
        if not path.exists():
            torch.save({"state_dict": state(), "metadata": {"kwargs": kwargs}}, path.with_suffix(".part"))
            path.with_suffix(".part").rename(path)


# ---- the stages -----------------------------------------------------------------------------------------------------------


def ours(folder: Path, device: str) -> dict[str, Callable[[], object]]:
    """Stage -> what to time, with our code."""
    from vampnet import VampNet
    from vampnet.config import MASK

    model = VampNet.from_pretrained(folder, device)
    audio = torch.randn(1, 1, round(SECONDS * model.codec.sample_rate), device=device) * 0.05
    steps = model.grid.samples_to_tokens(audio.shape[-1])
    codes = torch.randint(0, 1024, (1, model.codec.n_codebooks, steps), device=device)
    hidden = torch.full((4, 4, steps), MASK, device=device)
    everywhere = torch.ones_like(hidden, dtype=torch.bool)
    fine = codes[..., :C2F_STEPS].clone()
    fine[:, 4:] = MASK
    return {
        "encode": lambda: model.codec.encode(audio),
        "coarse step": lambda: model.coarse(hidden[:1], where=everywhere[:1]),
        "coarse step, 4 takes": lambda: model.coarse(hidden, where=everywhere),
        "fine step, 3 s": lambda: model.fine(fine, where=torch.ones_like(fine[:, 4:], dtype=torch.bool)),
        "decode": lambda: model.codec.decode(codes),
    }


def original(folder: Path, device: str) -> dict[str, Callable[[], object]]:
    """The same with the original's modules, which must be on the path."""
    from lac.model.lac import LAC
    from vampnet.modules.transformer import VampNet

    codec = LAC.load(folder / "codec.pth").eval().to(device)
    coarse, c2f = (VampNet.load(folder / f"{n}.pth", map_location="cpu", strict=False).eval() for n in ("coarse", "c2f"))
    coarse, c2f = coarse.to(device), c2f.to(device)
    audio = torch.randn(1, 1, round(SECONDS * codec.sample_rate), device=device) * 0.05
    padded = codec.preprocess(audio, codec.sample_rate)[0]
    steps = -(-audio.shape[-1] // codec.hop_length)
    codes = torch.randint(0, 1024, (1, 14, steps), device=device)
    hidden = torch.full((4, 4, steps), 1024, device=device)
    fine = codes[..., :C2F_STEPS].clone()
    fine[:, 4:] = 1024
    return {
        "encode": lambda: codec.encode(padded, codec.sample_rate)["codes"],
        "coarse step": lambda: coarse(coarse.embedding.from_codes(hidden[:1], codec)),
        "coarse step, 4 takes": lambda: coarse(coarse.embedding.from_codes(hidden, codec)),
        "fine step, 3 s": lambda: c2f(c2f.embedding.from_codes(fine, codec)),
        "decode": lambda: codec.decode(codec.quantizer.from_codes(codes)[0]),
    }


def serve(which: str, folder: Path, device: str) -> None:
    """Loads one side and runs the stages it is asked for on stdin; answers with JSON lines. A process of its own, so that
    memory is that side's alone."""
    start = time.perf_counter()
    stages = {"ours": ours, "original": original}[which](folder, device)

    def answer(seconds: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        gpu = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
        sys.stdout.write(json.dumps({"seconds": seconds, "peak_gib": peak, "gpu_peak_gib": gpu}) + "\n")
        sys.stdout.flush()

    answer(time.perf_counter() - start)
    for line in sys.stdin:
        with torch.inference_mode():
            start = time.perf_counter()
            stages[line.strip()]()
            if device == "cuda":
                torch.cuda.synchronize()
        answer(time.perf_counter() - start)


class Side:
    """A process that runs the stages of one side."""

    def __init__(self, which: str, folder: Path, device: str, paths: list[Path]) -> None:
        command = [sys.executable, "-W", "ignore", __file__, str(folder), "--device", device, "--serve", which]
        path = os.pathsep.join(str(p.resolve()) for p in paths)
        environment = {**os.environ, "PYTHONPATH": path + os.pathsep + os.environ.get("PYTHONPATH", "")}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )  # fmt: skip
        self.results: dict[str, list[dict]] = {"load": [self._read()]}

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("A side ended before it answered; its message is above.")
        return json.loads(line)

    def run(self, stage: str) -> None:
        """Runs a stage once."""
        self.process.stdin.write(stage + "\n")
        self.process.stdin.flush()
        self.results.setdefault(stage, []).append(self._read())

    def table(self) -> dict[str, dict]:
        """Stage -> median seconds, and the peak memory up to its end."""
        return {
            stage: {**results[-1], "seconds": statistics.median(r["seconds"] for r in results)}
            for stage, results in self.results.items()
        }


def main() -> None:
    """Makes the files, times both sides in turn, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the three files")
    parser.add_argument("--original", nargs=2, type=Path, metavar=("VAMPNET", "LAC"), help="checkouts to measure beside")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each stage, of which the median counts (3)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--serve", choices=("ours", "original"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.folder, options.device)
    make_files(options.folder)
    sides = {"ours": Side("ours", options.folder, options.device, [HERE])}
    if options.original:
        sides["original"] = Side("original", options.folder, options.device, options.original)
    for stage in ("encode", "coarse step", "coarse step, 4 takes", "fine step, 3 s", "decode"):
        for _ in range(options.repeats):
            for side in sides.values():
                side.run(stage)
    tables = {name: side.table() for name, side in sides.items()}
    for stage, row in tables["ours"].items():
        other = tables.get("original", {}).get(stage)
        beside = ""
        if other:
            ratio = other["seconds"] / row["seconds"]
            beside = f"   original {other['seconds']:8.2f} s  {other['peak_gib']:5.1f} GiB   ratio {ratio:.2f}"
        print(f"{stage:22} {row['seconds']:8.2f} s  {row['peak_gib']:5.1f} GiB{beside}")
    if options.json:
        options.json.write_text(json.dumps(tables, indent=2) + "\n")


if __name__ == "__main__":
    main()
