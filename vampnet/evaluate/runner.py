"""Makes what recipes say of every clip and measures it: the one loop behind `evaluate model` and `evaluate paper`."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..pipeline import VampNet
from ..sampling import take_generator
from .clips import Clip
from .embeddings import Embedding
from .musical import Heard, compare, hear, seam, takes_differ
from .recipes import Recipe
from .store import Result, Store

VERSION = 1
"""Of the measuring: a change of it makes results on disk those of another run."""
SOURCE = "source"

Results = dict[str, list[Result]]
"""{id of the recipe: one result a clip, in the order of the clips}; "source" are the clips themselves."""


@dataclass(frozen=True)
class Judge:
    """What measures: embeddings, the beat tracker, and the seed of all that is drawn."""

    embeddings: Sequence[Embedding]
    engine: str = "librosa"
    seed: int = 0

    def embed(self, audio: Tensor, rate: int) -> dict[str, np.ndarray]:
        """{name: (frames, D)} of (N,) samples."""
        return {embedding.name: embedding(audio, rate) for embedding in self.embeddings}

    def fingerprint(self, model: VampNet) -> str:
        """16 hex digits of all that a result depends on beside its recipe and its clip."""
        names = sorted(getattr(embedding, "identity", embedding.name) for embedding in self.embeddings)
        digest = hashlib.sha256(json.dumps([VERSION, self.engine, self.seed, names]).encode())
        for part in (model.codec, model.coarse, model.fine):
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Source:
    """A clip with what is known of it before anything is made: how it sounds, and its tokens (1, K, T)."""

    clip: Clip
    heard: Heard
    tokens: Tensor
    loop: bool


def listen(model: VampNet, clip: Clip, judge: Judge, loop: bool = False) -> Source:
    """Analyses and encodes a clip."""
    from ..audio import make_signal

    tokens = model.encode(make_signal(clip.audio[None, None], clip.rate), loop)
    return Source(clip, hear(clip.audio, clip.rate, judge.engine), tokens, loop)


def make(model: VampNet, source: Source, recipe: Recipe, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Audio from a clip: as the codec gives it, neither its loudness nor its peaks corrected, since these are measured.

    Returns:
        takes, each (N,) float32 as long as the clip; their tokens (takes, K, T); the mask (1, K, T), True = was made.
    """
    tokens, mask = source.tokens, torch.zeros_like(source.tokens, dtype=torch.bool)
    length = len(source.clip.audio)
    if recipe.prompt is not None:
        # The tokens of a ring are whole steps that it is stretched to.
        stretch = model.grid.tokens_to_samples(tokens.shape[-1]) / length if source.loop else 1.0
        times = [[time * stretch for time in found] for found in (source.heard.beats, source.heard.onsets)]
        mask = model.mask(tokens, recipe.prompt, None, *times, seed)
    # Another clip has other random numbers: otherwise the chance of one draw would be in all of them.
    own = int.from_bytes(hashlib.sha256(f"{seed} {source.clip.id}".encode()).digest()[:6], "little")
    if recipe.kind == "vamp":
        pairs = [(own, take) for take in range(recipe.takes)]
        made = model.generate(tokens, mask, recipe.sampling, pairs, loop=source.loop)
    elif recipe.kind == "noise":
        shape = (recipe.takes, *tokens.shape[1:])
        chance = torch.randint(model.codec.codebook_size, shape, generator=take_generator(own, 0, "noise"))
        made = torch.where(mask, chance, tokens)
    else:
        made = tokens
    takes = [model.decode(made[i : i + 1], source.loop, length).audio_data[0, 0] for i in range(len(made))]
    return takes, made, mask


def measure(model: VampNet, source: Source, recipe: Recipe, judge: Judge) -> Result:
    """Makes and measures: figures are means over the takes, embeddings of all of them."""
    from ..prompt import kept_kbps

    start = time.perf_counter()
    takes, tokens, mask = make(model, source, recipe, judge.seed)
    spent = time.perf_counter() - start
    rate = source.clip.rate
    each = [compare(source.heard, hear(take, rate, judge.engine)) for take in takes]
    if source.loop:
        each = [figures | seam(take, rate) for figures, take in zip(each, takes, strict=True)]
    figures = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    figures |= takes_differ(takes, tokens, mask, rate)
    figures |= {"kbps": kept_kbps(mask, model.grid), "seconds": spent / len(takes)}
    embedded = [judge.embed(take, rate) for take in takes]
    return Result(figures, {name: np.concatenate([one[name] for one in embedded]) for name in embedded[0]} if embedded else {})


class Progress:
    """One line on stderr with the time left, in place where somebody watches and every half minute where not."""

    def __init__(self, show: bool = True, every: float = 30.0) -> None:
        self.show, self.every = show, every
        self.live = show and sys.stderr.isatty()
        self.started, self.said, self.worked, self.spent = time.monotonic(), 0.0, 0.0, 0.0

    def __call__(self, text: str, cost: float, seconds: float, left: float) -> None:
        """A piece of work of a guessed `cost` took `seconds`; pieces that cost `left` are still to come."""
        self.worked, self.spent = self.worked + cost, self.spent + seconds
        now = time.monotonic()
        if not self.show or (not self.live and now - self.said < self.every and left > 0):
            return
        self.said = now
        rest = left * self.spent / max(self.worked, 1e-9)
        line = f"{text}, {spell(rest)} left" if left > 0 else f"{text}, done in {spell(now - self.started)}"
        sys.stderr.write(f"\r\033[K{line}" + ("" if left > 0 else "\n") if self.live else f"{line}\n")
        sys.stderr.flush()


def spell(seconds: float) -> str:
    """40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def run(
    model: VampNet,
    clips: Iterable[Clip],
    count: int,
    recipes: Sequence[Recipe],
    judge: Judge,
    store: Store | None = None,
    progress: Progress | None = None,
    keep: Callable[[Source], None] | None = None,
) -> Results:
    """Every recipe of every clip, clip by clip, so that what is there when it is stopped is whole clips.

    Args:
        model: to be judged.
        clips: at the codec's rate.
        count: how many there are at most, for the progress.
        recipes: what to make; the same one twice is made once.
        judge: what measures.
        store: results that are there are taken from it, and each new one is put there as soon as it is done.
        progress: told of every piece of work.
        keep: called with each clip, such as to collect tokens; it then is always encoded, even where all results are there.

    Returns:
        `Results` of all clips.
    """
    recipes = list({recipe.id: recipe for recipe in recipes}.values())
    names = [recipe.id for recipe in recipes]
    results: Results = {name: [] for name in (SOURCE, *names)}
    per_clip = sum(recipe.cost for recipe in recipes)
    loop = any(recipe.loop for recipe in recipes)
    number = 0
    for number, clip in enumerate(clips, start=1):
        found = {name: store.read(name, clip.id) if store is not None else None for name in results}
        source = None
        if keep is not None or any(result is None for result in found.values()):
            source = listen(model, clip, judge, loop)
        if keep is not None:
            keep(source)
        if found[SOURCE] is None:
            found[SOURCE] = _kept(store, SOURCE, clip, Result({}, judge.embed(clip.audio, clip.rate)))
        left = (count - number + 1) * per_clip
        for recipe in recipes:
            left -= recipe.cost
            if found[recipe.id] is not None:
                continue
            start = time.monotonic()
            found[recipe.id] = _kept(store, recipe.id, clip, measure(model, source, recipe, judge))
            if progress is not None:
                progress(f"clip {number}/{count}, {recipe.kind}", recipe.cost, time.monotonic() - start, max(left, 1e-6))
        for name, result in found.items():
            results[name].append(result)
    if progress is not None:
        progress(f"{number} clips, {len(recipes)} settings", 0.0, 0.0, 0.0)
    return results


def _kept(store: Store | None, recipe: str, clip: Clip, result: Result) -> Result:
    if store is not None:
        store.write(recipe, clip.id, result)
    return result
