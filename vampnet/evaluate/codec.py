"""`python -m vampnet evaluate codec`: how much of the music survives the way through the tokens."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from ..codec import Codec
from ..config import CODEBOOK_SIZE
from ..train.audio_pool import MAX_FILE_SECONDS, find_audio
from .metrics import mel_distance, partials, perplexity

SHORTEST = 4410
"""Samples; `partials` needs nearly as many."""


def middle(audio: Tensor, samples: int) -> Tensor:
    """(N,) -> the middle (min(N, samples),)."""
    start = max(0, (audio.shape[-1] - samples) // 2)
    return audio[start : start + samples]


def evaluate_clip(codec: Codec, audio: Tensor) -> tuple[dict[str, float], Tensor]:
    """(N,) float mono at any level -> figures of one clip and its codes (1, K, T) on the CPU.

    The clip is brought to -24 LUFS first, as the models hear it, and compared there.
    """
    from ..audio import make_signal, to_codec_level

    audio = to_codec_level(make_signal(audio[None, None], codec.sample_rate))[0].audio_data[0]
    device = codec.codebook_vectors().device
    start = time.perf_counter()
    # On the CPU, since a GPU is only done when something has come back from it.
    codes = codec.encode(audio[None].to(device)).cpu()
    middle_time = time.perf_counter()
    back = codec.decode(codes.to(device))[0, :, : audio.shape[-1]].cpu()
    end = time.perf_counter()
    seconds = audio.shape[-1] / codec.sample_rate
    figures = {
        "mel": mel_distance(audio, back, codec.sample_rate),
        "partials": partials(audio[0], back[0]),
        "encode_x_real_time": seconds / (middle_time - start),
        "decode_x_real_time": seconds / (end - middle_time),
    }
    return figures, codes


def evaluate_folder(codec: Codec, folder: str | Path, seconds: float = 10.0, limit: int | None = None) -> dict:
    """Figures for the middle `seconds` of up to `limit` audio files of a folder; what cannot be used, such as silence or less
    than a tenth of a second, is passed over for the next.

    Returns:
        {"clips": {name below the folder: figures}, "left_out": [names], "seconds": [shortest, longest], "median": figures,
        "mean": figures, "perplexity": [K floats]}.

    Raises:
        ValueError: no file can be used.
    """
    from ..audio import AudioError, load

    clips, codes, left_out, lengths = {}, [], [], []
    for path in find_audio(folder):
        if len(clips) == limit:
            break
        # With its folders: two that are called the same are two.
        name = path.relative_to(folder).as_posix()
        try:
            audio = middle(
                load(path, codec.sample_rate, MAX_FILE_SECONDS).audio_data[0].mean(0), round(seconds * codec.sample_rate)
            )
            if len(audio) < SHORTEST:
                raise AudioError("It is too short.")
            figures, clip_codes = evaluate_clip(codec, audio)
            lengths.append(len(audio) / codec.sample_rate)
        except AudioError:
            left_out.append(name)
            continue
        clips[name] = {k: round(v, 4) for k, v in figures.items()}
        codes.append(clip_codes[0])
    if not clips:
        raise ValueError(f"No file below {folder} can be used: name a folder of music that can be heard.")
    names = next(iter(clips.values()))
    use = perplexity(torch.cat(codes, dim=1)[None], CODEBOOK_SIZE)
    return {
        "clips": clips,
        "left_out": left_out,
        "seconds": [round(min(lengths), 2), round(max(lengths), 2)],
        "median": {k: round(statistics.median(c[k] for c in clips.values()), 4) for k in names},
        "mean": {k: round(statistics.fmean(c[k] for c in clips.values()), 4) for k in names},
        "perplexity": [round(p, 1) for p in use],
    }


def main(argv: list[str] | None = None) -> int:
    """Prints a table to read, and with --json writes every figure."""
    parser = argparse.ArgumentParser(
        prog="vampnet evaluate codec",
        description="Audio to tokens and back: mel distance (0 = same), partials (1 = same, 0 = noise) and codebook use.",
    )
    parser.add_argument("audio", nargs="+", help="folders of audio")
    parser.add_argument("--model", default="mini", help="any model; see 'vampnet models' (default: mini)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of every file, from its middle (default: 10)")
    parser.add_argument("--limit", type=int, help="at most so many files of a folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    args = parser.parse_args(argv)
    from ..checkpoints import load_codec_of

    try:
        if args.limit is not None and args.limit < 1:
            raise ValueError(f"--limit must be at least 1, not {args.limit}.")
        if not 0.1 <= args.seconds <= 600:
            raise ValueError(f"--seconds must lie between 0.1 and 600, not {args.seconds:g}.")
        codec = load_codec_of(args.model, args.device)
        results = {folder: evaluate_folder(codec, folder, args.seconds, args.limit) for folder in args.audio}
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for folder, result in results.items():
        shortest, longest = (f"{seconds:g}" for seconds in result["seconds"])
        span = longest if shortest == longest else f"{shortest} to {longest}"
        print(f"\n{folder}: {len(result['clips'])} clip{'s' * (len(result['clips']) > 1)} of {span} s")
        if result["left_out"]:
            print(f"  cannot be used: {', '.join(result['left_out'])}")
        if len(result["clips"]) <= 12:
            for name, figures in result["clips"].items():
                print(f"  mel {figures['mel']:.3f}  partials {figures['partials']:.3f}  {name}")
        for kind in ("median", "mean"):
            print(f"  {kind}: " + ", ".join(f"{k} {v}" for k, v in result[kind].items()))
        print("  perplexity by level: " + " ".join(f"{p:.0f}" for p in result["perplexity"]))
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
