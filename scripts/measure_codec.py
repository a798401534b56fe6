"""Times a waveform codec in float32 and in bfloat16, in turn, and says how far apart the two are.

    python scripts/measure_codec.py [--file codec.pth] [--seconds 10] [--repeats 5] [--gain 0.5]

Without a file the codec has random weights in the published shape, scaled by `--gain` a convolution: at 1 they amplify every
rounding, as no trained codec does, and at 0.5 they do not. The ratio is the median of the rounds' ratios, so that whatever else
the machine does falls on both sides.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vampnet.bench.published import CODEC, codec_state
from vampnet.codec import codec_from_published
from vampnet.codec.convolutional import ConvolutionalCodec

SIDES = ("float32", "bfloat16")


def make_codec(file: Path | None, gain: float) -> ConvolutionalCodec:
    """The file's codec, or one of random weights, in float32."""
    if file is not None:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        return codec_from_published(saved["state_dict"], saved["metadata"])
    torch.manual_seed(0)
    state = {n: t * gain if n.endswith("weight_g") else t for n, t in codec_state(CODEC).items()}
    codec = codec_from_published(state, {"kwargs": CODEC})
    with torch.no_grad():  # latents as large as codes, or all levels but the first would follow from the first
        codec.encoder.block[-1].weight.div_(codec.encoder(noise(1.0, codec)).std())
    return codec


def noise(seconds: float, codec: ConvolutionalCodec) -> torch.Tensor:
    """(1, 1, N) samples."""
    return 0.1 * torch.randn(1, 1, round(seconds * codec.sample_rate))


def decibels(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Signal to noise, without what is constant in time."""
    wanted = wanted - wanted.mean(-1, keepdim=True)
    noise = found - found.mean(-1, keepdim=True) - wanted
    return float(10 * torch.log10(wanted.square().mean() / noise.square().mean()))


def main() -> None:
    """Prints a line for encoding and one for decoding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, help="a codec in the published format")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio (10)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, after one to warm up (5)")
    parser.add_argument("--gain", type=float, default=0.5, help="of random weights (0.5)")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    plain = make_codec(options.file, options.gain)
    codecs = {side: copy.copy(plain) for side in SIDES}
    codecs["bfloat16"].precision = "bfloat16"
    audio = noise(options.seconds, plain)
    codes = torch.randint(0, plain.codebook_size, (1, plain.n_codebooks, -(-audio.shape[-1] // plain.hop)))
    stages = {"encode": lambda codec: codec.encode(audio), "decode": lambda codec: codec.decode(codes)}
    for stage, run in stages.items():
        results, seconds = {side: run(codec) for side, codec in codecs.items()}, {side: [] for side in SIDES}
        for _ in range(options.repeats):
            for side, codec in codecs.items():
                start = time.perf_counter()
                run(codec)
                seconds[side].append(time.perf_counter() - start)
        times = ", ".join(f"{side} {statistics.median(s):.2f} s ({min(s):.2f} to {max(s):.2f})" for side, s in seconds.items())
        ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
        if stage == "decode":
            apart = f"{decibels(results['bfloat16'], results['float32']):.1f} dB of signal over noise"
        else:
            same = (results["bfloat16"] == results["float32"]).float().mean(-1)[0]
            apart = "% of codes the same, by level: " + " ".join(f"{100 * float(share):.1f}" for share in same)
        print(f"{stage}: {times}, ratio {ratio:.2f}; {apart}", flush=True)


if __name__ == "__main__":
    main()
