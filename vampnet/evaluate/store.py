"""Results on disk, one small file for each recipe and clip, written whole or not at all: a run that was stopped goes on."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..whole_file import whole_file


@dataclass(frozen=True, eq=False)
class Result:
    """What was measured of one recipe on one clip.

    Attributes:
        figures: by name, see `musical.FIGURES`.
        embeddings: {key of the embedding (`embeddings.key_of`), in what `runner.run` returns its name: (frames, D) float32}.
        tokens: (takes, K, T) int16, what was made: another embedding needs no more than to hear it. None where nobody needs it.
        hearing: version of what the figures were measured by, see `runner.HEARING`.
    """

    figures: dict[str, float]
    embeddings: dict[str, np.ndarray]
    tokens: np.ndarray | None = None
    hearing: int = 0


def write(path: Path, content: str) -> None:
    """Writes a text file whole or not at all."""
    with whole_file(path) as part:
        part.write_text(content, encoding="utf-8")


class Store:
    """A folder of results, `<folder>/<run>/<recipe>/<clip>.npz`; git is told to leave it alone.

    Args:
        folder: made if missing.
        run: names all that results depend on beside recipe and clip, see `origin.Origin.id`, so that another model never finds
            those of this one.
    """

    def __init__(self, folder: str | Path, run: str) -> None:
        self.folder = Path(folder) / run
        self.folder.mkdir(parents=True, exist_ok=True)
        (Path(folder) / ".gitignore").write_text("*\n", encoding="utf-8")

    def path(self, recipe: str, clip: str) -> Path:
        """Of the result of a recipe and a clip, by their ids."""
        return self.folder / recipe / f"{clip}.npz"

    def read(self, recipe: str, clip: str) -> Result | None:
        """The result, or None where there is none or its file is damaged."""
        try:
            # Without pickle: arrays of numbers and of text are all that is read.
            with np.load(self.path(recipe, clip), allow_pickle=False) as file:
                figures = {name: float(value) for name, value in json.loads(str(file["figures"])).items()}
                embeddings = {name[4:]: file[name] for name in file.files if name.startswith("emb_")}
                tokens = file["tokens"] if "tokens" in file.files else None
                return Result(figures, embeddings, tokens, int(file["hearing"]) if "hearing" in file.files else 0)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
            return None

    def write(self, recipe: str, clip: str, result: Result) -> None:
        """Keeps a result."""
        path = self.path(recipe, clip)
        path.parent.mkdir(exist_ok=True)
        arrays = {f"emb_{name}": values.astype(np.float32) for name, values in result.embeddings.items()}
        if result.tokens is not None:
            arrays["tokens"] = result.tokens.astype(np.int16)
        with whole_file(path) as part, open(part, "wb") as file:
            figures = np.array(json.dumps(result.figures))
            np.savez_compressed(file, figures=figures, hearing=np.array(result.hearing), **arrays)

    def read_values(self, name: str) -> Any:
        """Plain values that `write_values` kept; None where there are none or their file is damaged."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_values(self, name: str, values: Any) -> None:
        """Keeps plain values."""
        write(self.folder / f"{name}.json", json.dumps(values))
