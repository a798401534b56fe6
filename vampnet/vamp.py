"""`Vamp`: a source, what was asked for, and the takes that came of it; and how they are written to a folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from vampnet import audio, metadata
from vampnet.beats import BeatGrid
from vampnet.config import Prompt, Sampling, TokenGrid
from vampnet.prompt import kept_kbps, kept_share
from vampnet.whole_file import fitting, write_json

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.extend import Extension
    from vampnet.stereo import StereoImage

FORMATS = ("wav", "flac", "ogg")


@dataclass(frozen=True, eq=False)
class Clip:
    """A source as the models hear it.

    Attributes:
        signal: (1, C, N) at the codec's sample rate, C = 1 or 2, cut to whole bars if that was asked for.
        tokens: (1, K, T) int64.
        image: what one channel of it lacks, and its exact length.
        lufs: its loudness.
        loop: it is a ring.
        bars: as asked for: a number, "all" or None.
        beats: of `signal`; None where nobody needed them.
        extension: what was added to it, if anything was: then all that stands above is that of the whole, silence and all.
    """

    signal: AudioSignal
    tokens: Tensor
    image: StereoImage
    lufs: float
    loop: bool
    bars: int | str | None = None
    beats: BeatGrid | None = None
    extension: Extension | None = None

    @property
    def own(self) -> slice:
        """The samples of `signal` that were not added to it."""
        return slice(None) if self.extension is None else self.extension.own


@dataclass(frozen=True, eq=False)
class Vamp:
    """A source, what was asked for, and the takes that came of it.

    Attributes:
        source: (1, C, N) at the codec's sample rate, C = 1 or 2, as it was vamped: cut to whole bars if that was asked for.
        takes: each (1, C, N), as long and as loud as the source, its true peak at most at `audio.CEILING_DBTP`, or at the
            source's own where sound of it stays (`Prompt.original_sound`).
        tokens: (takes, K, T) int64, of the takes.
        source_tokens: (1, K, T) int64.
        mask: (1, K, T) bool, True = was regenerated.
        prompt, sampling, seed, loop: as asked for; take i depends on them, the source, the model and i alone.
        model: name of the checkpoint.
        grid: seconds <-> tokens.
        bars: as asked for: a number, "all" or None.
        beats: of `source`; None where nobody needed them.
        painted: the mask was given and did not come from the prompt.
        extend: seconds (before, after) that were added to the source, as asked for; `source` is silent there, and the
            prompt's seconds count from where it begins to sound.
        precision: of the transformers' arithmetic; in another one the same seed gives other takes.
    """

    source: AudioSignal
    takes: list[AudioSignal]
    tokens: Tensor
    source_tokens: Tensor
    mask: Tensor
    prompt: Prompt
    sampling: Sampling
    seed: int
    loop: bool
    model: str
    grid: TokenGrid = field(default_factory=TokenGrid)
    bars: int | str | None = None
    beats: BeatGrid | None = None
    painted: bool = False
    extend: tuple[float, float] = (0.0, 0.0)
    precision: str = "float32"

    @property
    def kept_share(self) -> float:
        """Share of the source's tokens that stayed, 0..1."""
        return kept_share(self.mask)

    @property
    def kept_kbps(self) -> float:
        """What the tokens that stayed cost, in kilobits a second."""
        return kept_kbps(self.mask, self.grid)

    def settings(self) -> dict[str, Any]:
        """All that made the vamp, and what it kept, as plain values for JSON.

        `Prompt.of(settings["prompt"])` and `Sampling.of(settings["sampling"])` give the options back.
        """
        path = self.source.path_to_file
        return {
            "source": Path(path).name if path else None,
            "model": self.model,
            "precision": self.precision,
            "prompt": dataclasses.asdict(self.prompt),
            "sampling": dataclasses.asdict(self.sampling),
            "seed": self.seed,
            "takes": len(self.takes),
            "loop": self.loop,
            "bars": self.bars,
            "painted": self.painted,
            "extend": list(self.extend),
            "seconds": self.source.audio_data.shape[-1] / self.source.sample_rate,
            "sample_rate": int(self.source.sample_rate),
            "kept_share": round(self.kept_share, 6),
            "kept_kbps": round(self.kept_kbps, 6),
            "beats": None if self.beats is None else dataclasses.asdict(self.beats),
        }

    def comments(self, source: str = "") -> list[str]:
        """What travels in the file of each take: all that made it (`vampnet.metadata`).

        Args:
            source: name of the source; by default that of its file.
        """
        found = metadata.hash_of(self.source)
        numbers = range(1, len(self.takes) + 1)
        return [metadata.write(metadata.origin_of(self, number, source, found)) for number in numbers]

    def save(self, folder: str | Path, format: str = "wav", name: str = "") -> list[Path]:
        """Writes the takes as take-1, take-2, ... and the settings as vamp.json.

        Args:
            folder: made if missing; files of the same names are replaced.
            format: "wav", "flac" (both 24 bit) or "ogg".
            name: put before the names, with a hyphen: "choir" gives choir-take-1.wav and choir-vamp.json. It is cut to what a
                disk takes.

        Returns:
            The paths of the takes, in order.

        Raises:
            ValueError: a format that cannot be written, or a name with a folder.
            OSError: the folder cannot be made or written to.
        """
        format = format.lower().lstrip(".")
        if format not in FORMATS:
            raise ValueError(f"Takes are written as {', '.join(FORMATS)}, not as '{format}'.")
        if Path(name).name != name:
            raise ValueError(f"'{name}' cannot be put before a file's name: a folder's name has no place in it.")
        folder, prefix = Path(folder), f"{fitting(name)}-" if name else ""
        folder.mkdir(parents=True, exist_ok=True)
        comments = self.comments()
        paths = [
            audio.save(take, folder / f"{prefix}take-{number}.{format}", comment=comments[number - 1])
            for number, take in enumerate(self.takes, start=1)
        ]
        write_json({**self.settings(), "files": [path.name for path in paths]}, folder / f"{prefix}vamp.json")
        return paths
