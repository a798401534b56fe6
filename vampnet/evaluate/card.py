"""`python -m vampnet evaluate card`: small plots of a model for its card, and the figures that they show."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import CODEBOOK_SIZE, Prompt
from .codec import evaluate_clip
from .embeddings import log_mel
from .extras import need
from .metrics import perplexity
from .options import COMPOSED, add_model, choose_clips, load_model
from .plots import COLOURS, INK, MARKERS, STYLE
from .runner import Progress
from .token_figures import token_figures

FIGURES = "card.json"
MOST_BYTES = 100_000
COLOURS_OF_A_PLOT = 64
SHOWN_SECONDS = 4.0
PERIOD = 7
"""Of the take that is shown, as in a vamp with the defaults."""


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="vampnet evaluate card",
        description="Draws what a model card shows: the codec by clip, how well hidden tokens are predicted by level and by "
        "how much is hidden, codebook use, and a source beside what codec and model make of it. PNG files of less than 100 kB.",
        epilog="example: vampnet evaluate card out/card --model mini --audio held-out/ --audio songs/ --clips 50",
    )
    made.add_argument("out", metavar="FOLDER", help="where the plots and card.json go")
    add_model(made)
    made.add_argument(
        "--audio",
        action="append",
        metavar="FOLDER",
        help="of music, or 'composed'; several are drawn side by side, and tokens and codes are those of the first (default "
        "composed music that no training has heard)",
    )
    made.add_argument("--clips", type=int, default=20, metavar="N", help="of each folder at most (default 20)")
    made.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of a clip (default 10)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn by chance (default 0)")
    made.add_argument("--redraw", action="store_true", help="measure nothing: draw the figures of FOLDER/card.json again")
    made.add_argument("--quiet", action="store_true", help="no progress")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; exit status 0, or 2 for input that cannot be used."""
    args = parser().parse_args(argv)
    try:
        if args.clips < 1:
            raise ValueError(f"--clips must be at least 1, not {args.clips}.")
        if not 1 <= args.seconds <= 60:
            raise ValueError(f"--seconds must lie between 1 and 60, not {args.seconds:g}.")
        for name in ("matplotlib.figure", "PIL.Image"):
            need(name)
        out = Path(args.out)
        if args.redraw:
            figures = read(out / FIGURES)
        else:
            out.mkdir(parents=True, exist_ok=True)
            figures = gather(args)
            (out / FIGURES).write_text(json.dumps(figures) + "\n", encoding="utf-8")
        for path in draw(figures, out):
            sys.stdout.write(f"{path}\n")
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    return 0


def read(path: Path) -> dict[str, Any]:
    """The figures that a run has written.

    Raises:
        ValueError: there are none.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        if {"model", "sets", "tokens", "perplexity", "codes", "sound"} <= set(figures):
            return figures
    except (OSError, ValueError, TypeError):
        pass
    raise ValueError(f"{path} holds no figures of a card: run the command without --redraw first.")


# --------------------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def gather(args: argparse.Namespace) -> dict[str, Any]:
    """All that is drawn, as plain values.

    Returns:
        {"model": its name; "seconds"; "sets": {name of a folder: {name of a clip: {"mel", "partials"}}};
        "tokens": of `token_figures`;
        "perplexity": a figure for each level, of "codes" tokens; "sound": {"source", "codec", "take": (bands, frames) dB}}.
    """
    model = load_model(args)
    progress = Progress(not args.quiet)
    sets: dict[str, dict[str, dict[str, float]]] = {}
    tokens: list[Tensor] = []
    heard: list[Tensor] = []
    for place, folder in enumerate(args.audio or [COMPOSED]):
        clips, count = choose_clips(folder, args, model, whole=False, full=False)
        name = folder if folder == COMPOSED else Path(folder).resolve().name
        found = sets.setdefault(name if name not in sets else f"{name} {place + 1}", {})
        for number, clip in enumerate(clips, start=1):
            figures, codes = evaluate_clip(model.codec, clip.audio)
            found[clip.name] = {key: round(figures[key], 4) for key in ("mel", "partials")}
            if place == 0:
                tokens.append(codes[0])
                heard.append(clip.audio)
            progress(f"{name} {number}/{count}", 1.0, progress.lap(), float(count - number) + 1e-6)
        if not found:
            raise ValueError(f"No clip in {folder} can be used: name a folder of music that can be heard.")
    # The clip that is shown is neither the best nor the worst.
    order = np.argsort([figures["partials"] for figures in next(iter(sets.values())).values()])
    return {
        "model": model.name,
        "seconds": args.seconds,
        "sets": sets,
        "tokens": token_figures(model, tokens, args.seed),
        "perplexity": [round(value, 1) for value in perplexity(torch.cat(tokens, dim=1)[None], CODEBOOK_SIZE)],
        "codes": sum(clip.shape[1] for clip in tokens),
        "sound": _sound(model, heard[order[len(order) // 2]], args.seed),
    }


def _sound(model: Any, audio: Tensor, seed: int) -> dict[str, list[list[int]]]:
    """Spectrograms of a clip, of it through the codec, and of a take, in dB."""
    grid = model.grid
    audio = audio[: min(len(audio), grid.seconds_to_samples(SHOWN_SECONDS))]
    tokens = model.codec.encode(audio[None, None].to(model.device)).cpu()
    made = model.generate(tokens, model.mask(tokens, Prompt(periodic=PERIOD)), seeds=[(seed, 0)])
    waves = {"source": audio} | {
        name: model.decode(codes, length=len(audio)).audio_data[0, 0] for name, codes in (("codec", tokens), ("take", made))
    }
    return {name: log_mel(wave, grid.sample_rate).T.round().int().tolist() for name, wave in waves.items()}


# ----------------------------------------------------------------------------------------------------------------- drawing


def draw(figures: dict[str, Any], out: Path) -> list[Path]:
    """Draws card-codec.png, card-tokens.png, card-codes.png and card-sound.png; returns their paths."""
    drawings = {"codec": plot_codec, "tokens": plot_tokens, "codes": plot_codes, "sound": plot_sound}
    with need("matplotlib").rc_context(STYLE):
        return [_save(plot(figures), out / f"card-{name}.png") for name, plot in drawings.items()]


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    figure = need("matplotlib.figure").Figure(figsize=(width, height), layout="constrained", dpi=100)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> Path:
    """Writes a plot in few colours, which makes it a third as large; coarser if it is too large all the same."""
    image = need("PIL.Image")
    for dpi in (100, 80, 60, 45):
        plain = io.BytesIO()
        figure.savefig(plain, dpi=dpi, format="png")
        small = io.BytesIO()
        image.open(plain).convert("RGB").quantize(COLOURS_OF_A_PLOT).save(small, "PNG", optimize=True)
        if small.tell() < MOST_BYTES:
            break
    path.write_bytes(small.getvalue())
    return path


def plot_codec(figures: dict[str, Any]) -> Any:
    """Mel distance and partials of the codec alone: a dot for each clip, a line at the median of each folder."""
    sets = figures["sets"]
    figure, axes = _figure(1, 2, 8, 1.5 + 0.6 * len(sets))
    for one, (key, title) in zip(
        axes[0], (("mel", "mel distance, 0 = the same"), ("partials", "partials, 1 = the same")), strict=True
    ):
        for row, (number, clips) in enumerate(enumerate(sets.values())):
            values = np.array([clip[key] for clip in clips.values()])
            # Apart, so that clips that are alike are all seen: by their order, not by chance.
            apart = 0.25 * (2 * ((np.arange(len(values)) * 0.618) % 1) - 1)
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            one.scatter(values, row + apart, s=18, alpha=0.75, linewidths=0, **style)
            one.plot([np.median(values)] * 2, [row - 0.38, row + 0.38], color=INK, linewidth=1.5)
        one.set_yticks(range(len(sets)), [f"{name} ({len(clips)})" for name, clips in sets.items()] if key == "mel" else [])
        # Worse than noise is below 0.
        least = min(0.0, *(clip[key] for clips in sets.values() for clip in clips.values()))
        one.set(xlabel=title, xlim=(least, None if key == "mel" else 1), ylim=(len(sets) - 0.4, -0.6))
    figure.suptitle(f"{figures['model']}: the codec alone, clip by clip (line: median)")
    return figure


def plot_tokens(figures: dict[str, Any]) -> Any:
    """Accuracy and cross-entropy of hidden tokens by level, a curve for each share that is hidden."""
    parts = [figures["tokens"][name] for name in ("coarse", "fine")]
    masks = list(parts[0]["by_mask"])
    split = len(parts[0]["unigram"]["accuracy"])
    figure, axes = _figure(1, 2, 9, 3.6)
    shades = need("matplotlib").colormaps["viridis"]
    for one, key in zip(axes[0], ("accuracy", "cross_entropy"), strict=True):
        factor = 100 if key == "accuracy" else 1
        for number, mask in enumerate([*masks, None]):
            values = [[factor * v for v in (part["unigram"] if mask is None else part["by_mask"][mask])[key]] for part in parts]
            style = {"color": INK, "linestyle": "--", "linewidth": 1} if mask is None else {
                "color": shades(0.9 * number / max(1, len(masks) - 1)), "marker": (*MARKERS, "v")[number % 5], "markersize": 4,
                "linewidth": 1.4,
            }  # fmt: skip
            label = (
                "by frequency" if mask is None else f"{mask} hidden" if mask.endswith("%") else f"all but every {mask[1:]}th"
            )
            levels = np.split(np.arange(sum(map(len, values))), [split])
            for part, (x, y) in enumerate(zip(levels, values, strict=True)):
                one.plot(x, y, label=label if part == 0 else None, **style)
        one.axvline(split - 0.5, color=INK, linewidth=0.6)
        one.set(xlabel="codebook level: coarse | fine, given the coarse", ylim=(0, None))
        one.set_ylabel("hidden tokens predicted, %" if key == "accuracy" else "cross-entropy, nats")
        one.set_xticks(range(split + len(parts[1]["unigram"]["accuracy"])))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.suptitle(f"{figures['model']}: how well hidden tokens are predicted")
    return figure


def plot_codes(figures: dict[str, Any]) -> Any:
    """How many codes of each level are in use."""
    values = figures["perplexity"]
    figure, axes = _figure(1, 1, 5.5, 2.8)
    axes[0, 0].bar(range(len(values)), values, color=COLOURS[0])
    axes[0, 0].axhline(CODEBOOK_SIZE, color=INK, linestyle="--", linewidth=1)
    axes[0, 0].set(xlabel="codebook level", ylabel=f"codes in use, of {CODEBOOK_SIZE}")
    axes[0, 0].set_xticks(range(len(values)))
    axes[0, 0].grid(False, axis="x")
    figure.suptitle(f"{figures['model']}: perplexity of {figures['codes']:,} codes a level")
    return figure


def plot_sound(figures: dict[str, Any]) -> Any:
    """Log-mel spectrograms of a source, of it through the codec, and of a take, on one scale."""
    figure, axes = _figure(1, 3, 9, 2.8)
    titles = {"source": "source", "codec": "through the codec", "take": f"take, every {PERIOD}th step kept"}
    top = max(map(max, figures["sound"]["source"]))
    for one, (name, title) in zip(axes[0], titles.items(), strict=True):
        cells = np.array(figures["sound"][name])
        one.imshow(
            cells, origin="lower", aspect="auto", cmap="magma", vmin=top - 70, vmax=top, interpolation="nearest",
            extent=(0, cells.shape[1] / 100, 0, cells.shape[0]),
        )  # fmt: skip
        one.grid(False)
        one.set_yticks([])
        one.set(title=title, xlabel="seconds")
    axes[0, 0].set_ylabel("30 Hz to 16 kHz")
    return figure
