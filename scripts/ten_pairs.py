"""Makes ten pairs to listen to: a source and a take of it, with ten different prompts, in a folder that any browser opens.

    python scripts/ten_pairs.py out/pairs                                # composed music that no training has heard
    python scripts/ten_pairs.py out/pairs --audio music/ --model mini    # excerpts of a folder of music

The folder holds FLAC files with the settings inside (dropped into the studio, they come back), index.html with players and
spectrograms, and index.md. Nothing is downloaded for the bundled model, and the same seed gives the same pairs.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import html
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

# Of a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vampnet import Prompt, Sampling, VampNet, audio, metadata
from vampnet.evaluate import musical, pictures
from vampnet.evaluate.metrics import mel_distance, partials

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.vamp import Vamp

PAIRS = 10
MIXES = (
    ("Vary on the beat", "The hits on the beat stay, and a hint of all between them.", {"periodic": 16, "beat_width_ms": 75.0}),
    ("Transform, attacks stay", "The rough course and every attack stay.", {"kept_codebooks": 1, "onset_width_ms": 50.0}),
)
"""Name, one sentence and what they set, of prompts that are no presets of the studio."""
FIRST = ("periodic", "steps")
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Ten pairs by {model}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #8881; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }}
article {{ border-top: 1px solid var(--line); padding: 1rem 0; }}
h2 {{ margin: 0; font-size: 1.15rem; }}
p {{ margin: .25rem 0 .75rem; }}
.pair {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }}
figure {{ margin: 0; padding: .75rem; background: var(--soft); border-radius: .5rem; }}
img {{ display: block; width: 100%; height: 9rem; border-radius: .25rem; }}
img.kept {{ height: 2.5rem; margin-top: .5rem; image-rendering: pixelated; }}
audio {{ width: 100%; margin-top: .5rem; }}
code {{ overflow-wrap: anywhere; }}
</style>
<h1>Ten pairs by {model}</h1>
<p>{about} Spectrograms: 30 Hz to 16 kHz, both of a pair on one scale. Below a take: its tokens, the coarsest level at the
bottom; what is violet was kept of the source. Mel distance: 0 = the same. Partials: 1 = the same notes, 0 = noise. Chroma:
likeness of the harmony, 1 = the same. Even the codec alone gives some of each away.</p>
{articles}
</html>
"""
ARTICLE = """<article>
<h2>{number}. {name}</h2>
<p>{sentence} <strong>{kept}</strong> stays. Mel distance {mel}, partials {partials}, chroma {chroma}.<br>
<code>{settings}</code></p>
<div class="pair">
<figure><figcaption>Source: {source}, {source_seconds} s</figcaption>
<img src="{source_picture}" alt="Spectrogram of the source">
<audio controls preload="metadata" src="{source_file}"></audio></figure>
<figure><figcaption>Take, {take_seconds} s</figcaption>
<img src="{take_picture}" alt="Spectrogram of the take"><img class="kept" src="{mask_picture}" alt="Tokens that stay">
<audio controls preload="metadata" src="{take_file}"></audio></figure>
</div></article>
"""


@dataclass(frozen=True)
class Way:
    """A way to vamp: its name and sentence for people, and what it is made with."""

    name: str
    sentence: str
    prompt: Prompt
    sampling: Sampling
    extend: tuple[float, float] = (0.0, 0.0)


def ways(steps: int) -> list[Way]:
    """The studio's eight presets, and two mixes."""
    from vampnet.studio.presets import PRESETS
    from vampnet.studio.text import say

    made = [(preset.name, say(f"map.preset.{preset.key}.info"), preset.values) for preset in PRESETS]
    found = []
    for name, sentence, values in [*made, *((name, text, {"periodic": 0, **values}) for name, text, values in MIXES)]:
        prompt, sampling = (
            {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values}
            for kind in (Prompt, Sampling)
        )
        extend = values.get("extend_before", 0.0), values.get("extend_after", 0.0)
        found.append(Way(name, sentence, Prompt(**prompt), Sampling(**{**sampling, "steps": steps}), extend))
    return found


def composed(args: argparse.Namespace) -> Iterator[tuple[str, AudioSignal]]:
    """Ten clips with seeds that no training uses, for people by their place among these."""
    from vampnet.train.corpus import HELD_OUT_SEEDS, SAMPLE_RATE, Corpus, CorpusConfig

    corpus = Corpus(CorpusConfig(tuple(args.soundfont), args.samples, args.seconds))
    for place in range(PAIRS * args.seed, PAIRS * (args.seed + 1)):
        seed = HELD_OUT_SEEDS[place % len(HELD_OUT_SEEDS)]
        yield f"composed {place}", audio.load((torch.from_numpy(corpus.render(seed)), SAMPLE_RATE))


def excerpts(folder: str, seconds: float) -> Iterator[tuple[str, AudioSignal]]:
    """Excerpts of a folder's files, a new file each time while there are some, and all again where there are too few."""
    import soundfile

    from vampnet.evaluate import clips

    if not Path(folder).is_dir():
        raise ValueError(f"There is no folder '{folder}': name one that holds audio.")
    heard = 0
    for turn in itertools.count():
        for found in clips.excerpts(folder, seconds):
            try:
                with open(found.path, "rb") as handle, soundfile.SoundFile(handle) as file:
                    file.seek(found.start)
                    samples, rate = file.read(found.length, dtype="float32", always_2d=True), file.samplerate
                yield found.name, audio.load((torch.from_numpy(samples.T.copy()), rate))
                heard += 1
            except (audio.AudioError, soundfile.SoundFileError, OSError):
                continue
        if turn == 0 and heard == 0:
            raise ValueError(f"Nothing below {folder} can be heard: name a folder of music.")


def likeness(source: AudioSignal, take: AudioSignal) -> dict[str, float]:
    """Figures of a take beside its source, both of one channel and at the codec's level, as far as the source goes."""
    rate, length = int(source.sample_rate), source.audio_data.shape[-1]
    one, two = (
        audio.to_codec_level(audio.make_signal(x.audio_data[..., :length].mean(1, keepdim=True), rate))[0].audio_data[0]
        for x in (source, take)
    )
    harmony = [musical.hear(x[0], rate, "librosa") for x in (one, two)]
    return {
        "mel": mel_distance(one, two, rate),
        "partials": partials(one[0], two[0]),
        "chroma": musical.chroma_similarity(*harmony),
    }


def settings_text(way: Way, seed: int) -> str:
    """What differs from the defaults of `Prompt` and `Sampling`, and the first of each, as one would write it in Python."""

    def told(options: Any) -> str:
        plain = type(options)()
        given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
        return ", ".join(f"{name}={value!r}" for name, value in given.items() if value != getattr(plain, name) or name in FIRST)

    more = f", extend={way.extend}" if any(way.extend) else ""
    return f"Prompt({told(way.prompt)}), Sampling({told(way.sampling)}){more}, seed={seed}"


def write_pair(out: Path, number: int, name: str, way: Way, vamp: Vamp) -> dict[str, Any]:
    """Writes the two files of a pair; returns what the pages say of it, as plain text."""
    rate = int(vamp.source.sample_rate)
    length = vamp.source.audio_data.shape[-1] - round(sum(way.extend) * rate)
    source = audio.make_signal(vamp.source.audio_data[..., :length], rate)
    stem = f"{number:02d}-{re.sub('[^a-z]+', '-', way.name.lower()).strip('-')}"
    files = [f"{stem}-source.flac", f"{stem}-take.flac"]
    audio.save(source, out / files[0])
    audio.save(vamp.takes[0], out / files[1], comment=metadata.write(metadata.origin_of(vamp, 1, name)))
    shown, top = pictures.spectrogram(source.audio_data[0].mean(0), rate)
    seen = [shown, pictures.spectrogram(vamp.takes[0].audio_data[0].mean(0), rate, top)[0], pictures.mask_picture(vamp.mask[0])]
    links = ["data:image/png;base64," + base64.b64encode(data).decode("ascii") for data in seen]
    figures = {key: f"{value:.2f}" for key, value in likeness(source, vamp.takes[0]).items()}
    kept = f"{100 * vamp.kept_share:.0f} % of the tokens, {vamp.kept_kbps:.1f} kbps"
    return {
        "number": number, "name": way.name, "sentence": way.sentence, "source": name, **figures, "kept": kept,
        "settings": settings_text(way, vamp.seed), "source_seconds": f"{length / rate:.1f}",
        "take_seconds": f"{vamp.takes[0].audio_data.shape[-1] / rate:.1f}",
        "source_file": files[0], "take_file": files[1],
        "source_picture": links[0], "take_picture": links[1], "mask_picture": links[2],
    }  # fmt: skip


def write_pages(out: Path, model: str, about: str, pairs: Sequence[dict[str, Any]]) -> None:
    """index.html and index.md."""
    safe = [{key: html.escape(str(value)) for key, value in pair.items()} for pair in pairs]
    articles = "".join(ARTICLE.format(**pair) for pair in safe)
    page = PAGE.format(model=html.escape(model), about=html.escape(about), articles=articles)
    (out / "index.html").write_text(page, encoding="utf-8")
    head = ["", "prompt", "source", "stays", "mel distance", "partials", "chroma", "settings", "files"]
    lines = [f"# Ten pairs by {model}\n", f"{about}\n", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for pair in pairs:
        files = f"[source]({pair['source_file']}), [take]({pair['take_file']})"
        cells = [pair[key] for key in ("number", "name", "source", "kept", "mel", "partials", "chroma")]
        row = [str(cell).replace("|", "\\|") for cell in cells] + [f"`{pair['settings']}`", files]
        lines.append(f"| {' | '.join(row)} |")
    lines.append("\nMel distance: 0 = the same. Partials: 1 = the same notes, 0 = noise. Chroma: 1 = the same harmony.")
    (out / "index.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("out", type=Path, help="the folder; made if missing, files of the same names are replaced")
    made.add_argument("--model", default="mini", metavar="NAME", help="any model; see 'vampnet models' (default mini)")
    made.add_argument("--device", metavar="NAME", help="cpu, cuda or mps (default: the fastest there is)")
    made.add_argument("--audio", metavar="FOLDER", help="of music (default: composed music that no training has heard)")
    made.add_argument("--soundfont", action="append", default=[], metavar="FILE", help="plays the composed music; several may")
    made.add_argument("--samples", metavar="FOLDER", help="of one-shots and loops for the composed music")
    made.add_argument("--seconds", type=float, default=8.0, metavar="S", help="of a source, 2 to 60 (default 8)")
    made.add_argument("--steps", type=int, default=24, metavar="N", help="of sampling (default 24)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the music and of the takes (default 0)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the folder; exit status 0, or 2 for input that cannot be used."""
    args = parser().parse_args(argv)
    pairs: list[dict] = []
    where = "Composed music that no training has heard." if args.audio is None else f"Excerpts of {Path(args.audio).name}."
    try:
        if not 2 <= args.seconds <= 60:
            raise ValueError(f"--seconds must lie between 2 and 60, not {args.seconds:g}.")
        if args.seed < 0:
            raise ValueError(f"--seed must be at least 0, not {args.seed}.")
        chosen = ways(args.steps)
        sources = composed(args) if args.audio is None else excerpts(args.audio, args.seconds)
        model = VampNet.from_pretrained(args.model, args.device)
        args.out.mkdir(parents=True, exist_ok=True)
        for number, (way, (name, signal)) in enumerate(zip(chosen, sources, strict=False), start=1):
            sys.stderr.write(f"{number}/{PAIRS} {way.name}: {name}\n")
            vamp = model.vamp(signal, way.prompt, way.sampling, takes=1, seed=args.seed + number - 1, extend=way.extend)
            pairs.append(write_pair(args.out, number, name, way, vamp))
        write_pages(args.out, model.name, where, pairs)
    except KeyboardInterrupt:
        if pairs:
            write_pages(args.out, model.name, where, pairs)
        sys.stderr.write(f"Stopped after {len(pairs)} of {PAIRS} pairs.\n")
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    sys.stdout.write(f"{args.out / 'index.html'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
