"""Makes what recipes say of every clip and measures it: the one loop behind `evaluate model` and `evaluate paper`."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..balance import Balance
from ..original import pieces
from ..pipeline import VampNet
from ..sampling import take_generator
from .clips import Clip
from .embeddings import Embedding, key_of
from .musical import Heard, compare, hear, seam, takes_differ
from .origin import Origin
from .recipes import Recipe
from .store import Result, Store

VERSION = 2
"""Of the making: a change of it makes results on disk those of another run."""
HEARING = 4
"""Of the figures: results that were measured by another version are decoded and measured again, not made again."""
SOURCE = "source"
HEARING_COST = 2.0
"""As `Recipe.cost`, of a take that is there and only heard again."""

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

    def lacking(self, result: Result) -> list[Embedding]:
        """The embeddings that a result does not hold yet."""
        return [embedding for embedding in self.embeddings if key_of(embedding) not in result.embeddings]

    def whole(self, result: Result) -> bool:
        """Whether nothing of a result has to be measured any more; of a source there are no figures."""
        return not self.lacking(result) and (result.hearing == HEARING or not result.figures)

    def named(self, result: Result) -> Result:
        """A whole result, with the embeddings of this judge by their names, and without tokens."""
        return Result(result.figures, {one.name: result.embeddings[key_of(one)] for one in self.embeddings})

    def origin(self, model: VampNet) -> Origin:
        """All that what is made and measured depends on beside its recipe and its clip."""
        codec = getattr(model.codec, "precision", "float32")
        return Origin(model.weights_id, model.precision, codec, self.engine, self.seed, VERSION)


class Source:
    """A clip, and what is known of it before anything is made, found out when it is asked for.

    Args:
        model, clip, judge: as of `run`.
        loop: the clip is a ring.
        tokens: (1, K, T) int64, if they are known.
    """

    def __init__(self, model: VampNet, clip: Clip, judge: Judge, loop: bool = False, tokens: Tensor | None = None) -> None:
        self.model, self.clip, self.loop, self.engine = model, clip, loop, judge.engine
        if tokens is not None:
            self.tokens = tokens

    @cached_property
    def tokens(self) -> Tensor:
        """(1, K, T) int64."""
        from ..audio import make_signal

        return self.model.encode(make_signal(self.clip.audio[None, None], self.clip.rate), self.loop)

    @cached_property
    def heard(self) -> Heard:
        """How it sounds."""
        return hear(self.clip.audio, self.clip.rate, self.engine)


def mask_of(source: Source, recipe: Recipe, seed: int) -> Tensor:
    """(1, K, T) bool, True = is made."""
    model, prompt, tokens = source.model, recipe.prompt, source.tokens
    if prompt is None:
        return torch.zeros_like(tokens, dtype=torch.bool)
    # The tokens of a ring are whole steps that it is stretched to.
    stretch = model.grid.tokens_to_samples(tokens.shape[-1]) / len(source.clip.audio) if source.loop else 1.0
    times = [
        [time * stretch for time in getattr(source.heard, name)] if needed else None
        for name, needed in (("beats", prompt.needs_beats), ("onsets", prompt.needs_onsets))
    ]
    return model.mask(tokens, prompt, None, *times, seed)


def own_seed(source: Source, seed: int) -> int:
    """A clip's own: otherwise the chance of one draw would be in all of them."""
    return int.from_bytes(hashlib.sha256(f"{seed} {source.clip.id}".encode()).digest()[:6], "little")


def make(source: Source, recipes: Sequence[Recipe], seed: int = 0, batch: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Tokens (takes, K, T) int64 and the mask (1, K, T) bool, True = was made, for each of some recipes.

    Args:
        recipes: one, or several for vamps with the same sampling.
        seed: of all that is drawn.
        batch: takes that the models see at a time; see `VampNet.generate`.
    """
    own = own_seed(source, seed)
    model, first, masks = source.model, recipes[0], [mask_of(source, recipe, own) for recipe in recipes]
    if first.kind == "vamp":
        takes = [recipe.takes for recipe in recipes]
        todo = torch.cat([mask.expand(count, -1, -1) for mask, count in zip(masks, takes, strict=True)])
        pairs = [(own, take) for count in takes for take in range(count)]
        made = model.generate(source.tokens, todo, first.sampling, pairs, loop=source.loop, batch=batch)
        return list(zip(made.split(takes), masks, strict=True))
    if first.kind == "noise":
        shape = (first.takes, *source.tokens.shape[1:])
        chance = torch.randint(model.codec.codebook_size, shape, generator=take_generator(own, 0, "noise"))
        return [(torch.where(masks[0], chance, source.tokens), masks[0])]
    return [(source.tokens, masks[0])]


def balance_of(source: Source, recipe: Recipe, seed: int) -> Balance | None:
    """The tonal balance that a vamp's takes are brought to, as in `VampNet.render`."""
    model, sampling = source.model, recipe.sampling
    if sampling is None or not sampling.balance or pieces(mask_of(source, recipe, seed), model.grid, source.loop):
        return None
    return model.balance(source.tokens, source.loop, sampling.balance)


def sound(source: Source, tokens: Tensor, balance: Balance | None = None) -> list[Tensor]:
    """Takes (N,) float32, as long as the clip, of tokens (takes, K, T): as the codec gives them, in a balance that is not their
    own if there is one, neither loudness nor peaks corrected, since these are measured."""
    model, length = source.model, len(source.clip.audio)
    return [model.decode(item[None], source.loop, length, balance).audio_data[0, 0] for item in tokens]


def measure(source: Source, recipe: Recipe, judge: Judge, made: tuple[Tensor, Tensor], seconds: float = 0.0) -> Result:
    """Hears what was made: figures are means over the takes, embeddings of all of them.

    Args:
        made: of `make`.
        seconds: that it took to make it.
    """
    (tokens, mask), start, rate = made, time.perf_counter(), source.clip.rate
    takes = sound(source, tokens, balance_of(source, recipe, own_seed(source, judge.seed)))
    spent = seconds + time.perf_counter() - start
    figures = figures_of(source, judge, takes, tokens, mask) | {"seconds": spent / len(takes)}
    return with_embeddings(Result(figures, {}, tokens.numpy().astype(np.int16), HEARING), judge, takes, rate)


def measure_again(source: Source, recipe: Recipe, judge: Judge, result: Result) -> Result:
    """A result with what it lacks: embeddings, and figures where they were measured by another version."""
    tokens = torch.from_numpy(result.tokens.astype(np.int64))
    seed = own_seed(source, judge.seed)
    takes = sound(source, tokens, balance_of(source, recipe, seed))
    if result.hearing != HEARING:
        figures = figures_of(source, judge, takes, tokens, mask_of(source, recipe, seed))
        kept = {name: result.figures[name] for name in ("seconds",) if name in result.figures}
        result = Result(figures | kept, result.embeddings, result.tokens, HEARING)
    return with_embeddings(result, judge, takes, source.clip.rate)


def figures_of(source: Source, judge: Judge, takes: Sequence[Tensor], tokens: Tensor, mask: Tensor) -> dict[str, float]:
    """All figures but the seconds: means over takes (N,) of tokens (takes, K, T), with a mask (1, K, T), True = was made."""
    from ..prompt import kept_kbps

    rate = source.clip.rate
    each = [compare(source.heard, hear(take, rate, judge.engine)) for take in takes]
    if source.loop:
        each = [figures | seam(take, rate) for figures, take in zip(each, takes, strict=True)]
    figures = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
    figures |= takes_differ(takes, tokens, mask, rate)
    return figures | {"kbps": kept_kbps(mask, source.model.grid)}


def with_embeddings(result: Result, judge: Judge, takes: Sequence[Tensor], rate: int) -> Result:
    """A result with those embeddings of its takes that it lacks."""
    more = {key_of(one): np.concatenate([one(take, rate) for take in takes]) for one in judge.lacking(result)}
    return Result(result.figures, {**result.embeddings, **more}, result.tokens, result.hearing)


def groups(recipes: Sequence[Recipe], batch: int) -> list[list[Recipe]]:
    """Recipes in their order, together what the models can make at once: vamps with the same sampling, up to `batch` takes."""
    found: list[list[Recipe]] = []
    for recipe in recipes:
        for group in found:
            alike = recipe.kind == group[0].kind == "vamp" and recipe.sampling == group[0].sampling
            if alike and sum(one.takes for one in group) + recipe.takes <= batch:
                group.append(recipe)
                break
        else:
            found.append([recipe])
    return found


class Progress:
    """One line on stderr with the time left, in place where somebody watches and every half minute where not."""

    def __init__(self, show: bool = True, every: float = 30.0, name: str = "") -> None:
        self.show, self.every, self.name = show, every, name
        self.live = show and sys.stderr.isatty()
        self.started, self.said, self.worked, self.spent = time.monotonic(), 0.0, 0.0, 0.0
        self.last = self.started

    def lap(self) -> float:
        """Seconds since it was last asked, or since the start."""
        before, self.last = self.last, time.monotonic()
        return self.last - before

    def __call__(self, text: str, cost: float, seconds: float, left: float) -> None:
        """A piece of work of a guessed `cost` took `seconds`; pieces that cost `left` are still to come."""
        self.worked, self.spent = self.worked + cost, self.spent + seconds
        now = time.monotonic()
        if not self.show or (not self.live and now - self.said < self.every and left > 0):
            return
        self.said = now
        rest = left * self.spent / max(self.worked, 1e-9)
        line = self.name + (f"{text}, {spell(rest)} left" if left > 0 else f"{text}, done in {spell(now - self.started)}")
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
    batch: int = 1,
    compute: bool = True,
) -> Results:
    """Every recipe of every clip, clip by clip, so that what is there when it is stopped is whole clips.

    Args:
        model: to be judged.
        clips: at the codec's rate.
        count: how many there are at most, for the progress.
        recipes: what to make; the same one twice is made once.
        judge: what measures.
        store: results that are there are taken from it, and each new one is put there as soon as it is done. One that lacks
            an embedding, or was measured by another version, is decoded and heard, not made again.
        progress: told of every piece of work.
        keep: called with each clip, such as to collect tokens.
        batch: takes that the models see at a time.
        compute: False = make nothing, and pass over clips of which anything is missing.

    Returns:
        `Results` of all clips.
    """
    recipes = list({recipe.id: recipe for recipe in recipes}.values())
    results: Results = {name: [] for name in (SOURCE, *(recipe.id for recipe in recipes))}
    per_clip, loop = sum(recipe.cost for recipe in recipes), any(recipe.loop for recipe in recipes)
    number = done = 0
    for number, clip in enumerate(clips, start=1):
        found = {name: store.read(_place(name, loop), clip.id) if store is not None else None for name in results}
        if not compute and any(result is None or not judge.whole(result) for result in found.values()):
            continue
        done += 1
        source = _source(model, clip, judge, loop, found[SOURCE])
        after = (count - number) * per_clip
        for kind, cost, seconds, left in _finish(source, recipes, judge, found, store, batch) if compute else ():
            if progress is not None:
                progress(f"clip {number}/{count}, {kind}", cost, seconds, max(after + left, 1e-6))
        if keep is not None:
            keep(source)
        for name, result in found.items():
            results[name].append(judge.named(result))
    if progress is not None:
        progress(f"{done} clip{'s' * (done != 1)}, {len(recipes)} settings", 0.0, 0.0, 0.0)
    return results


def _place(name: str, loop: bool) -> str:
    """Where the store has it: a recipe says whether it is for rings, a clip does not."""
    return f"{name}-loop" if loop and name == SOURCE else name


def _source(model: VampNet, clip: Clip, judge: Judge, loop: bool, known: Result | None) -> Source:
    tokens = None if known is None or known.tokens is None else torch.from_numpy(known.tokens.astype(np.int64))
    return Source(model, clip, judge, loop, tokens)


def _finish(
    source: Source,
    recipes: Sequence[Recipe],
    judge: Judge,
    found: dict[str, Result | None],
    store: Store | None,
    batch: int,
) -> Iterator[tuple[str, float, float, float]]:
    """Makes and measures what is missing of a clip, in `found` and in the store.

    Yields:
        after each piece of work: what it was, its guessed cost, the seconds that it took, and the cost of what is left.
    """

    def put(name: str, result: Result) -> None:
        found[name] = result
        if store is not None:
            store.write(_place(name, source.loop), source.clip.id, result)

    clip, first = source.clip, found[SOURCE]
    if first is None or first.tokens is None or judge.lacking(first):
        known = Result({}, {} if first is None else first.embeddings, source.tokens.numpy().astype(np.int16))
        put(SOURCE, with_embeddings(known, judge, [clip.audio], clip.rate))
    unmade = [recipe for recipe in recipes if found[recipe.id] is None or found[recipe.id].tokens is None]
    unheard = [recipe for recipe in recipes if recipe not in unmade and not judge.whole(found[recipe.id])]
    left = sum(recipe.cost for recipe in unmade) + HEARING_COST * sum(recipe.takes for recipe in unheard)
    for group in groups(unmade, batch):
        start = time.perf_counter()
        made = make(source, group, judge.seed, batch)
        each = (time.perf_counter() - start) / len(group)
        for recipe, one in zip(group, made, strict=True):
            start = time.perf_counter()
            put(recipe.id, measure(source, recipe, judge, one, each))
            left -= recipe.cost
            yield recipe.kind, recipe.cost, each + time.perf_counter() - start, left
    for recipe in unheard:
        start = time.perf_counter()
        put(recipe.id, measure_again(source, recipe, judge, found[recipe.id]))
        left -= HEARING_COST * recipe.takes
        yield "heard again", HEARING_COST * recipe.takes, time.perf_counter() - start, left


def stored(store: Store, judge: Judge, recipes: Sequence[Recipe], clips: Sequence[str]) -> Results | None:
    """The results of recipes for all clips, by their ids, from the store alone; None if any is missing."""
    results: Results = {}
    for recipe in recipes:
        found = [store.read(recipe.id, clip) for clip in clips]
        if any(result is None or not judge.whole(result) for result in found):
            return None
        results[recipe.id] = [judge.named(result) for result in found]
    return results
