"""Recall: what is made anew at a place leans on what the source plays at other places that are like it.

Music comes again, so what is masked at one place may be played at another, which is masked too. Which places are alike is
judged by what the model's last layer makes of what stays around them with all else masked. There the source's own tokens are
looked up: those of the likest places become likelier, by how much more often they stand there than everywhere (nearest
neighbours of a language model's states: Khandelwal et al., 2020; the paper has nothing of the kind). Of what is masked at the
place itself nothing is seen, nor of the half second around it.

Each take has likings of its own for how far away it looks. They are the same for all time steps and levels: so takes differ,
and what one finds in a row stood in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vampnet.config import MASK
from vampnet.sampling import gumbel

NEAR = 30
"""Time steps to either side of a place that are not looked at."""
PLACES = 8
"""Places that a time step leans on."""
SHARPNESS = 64.0
"""By how much a place of likeness 1 is preferred to one of likeness 0, in nats; likings are Gumbel numbers beside that."""
AROUND = 2
"""Likeness is the mean over so many time steps to either side, so that neighbours find neighbours."""


class Recalled(NamedTuple):
    """What is added to logits.

    Attributes:
        codes: (B, K, T, n) int64 that become likelier.
        more: (B, K, T, n) float32, by how much, in nats; 0 for those that stand in a row of codes for the second time.
        less: (B, K, V) float32, by how much each code becomes less likely wherever it is.
    """

    codes: Tensor
    more: Tensor
    less: Tensor

    def part(self, items: slice) -> Recalled:
        """That of some items."""
        return Recalled(*(of[items] for of in self))


def features_of(model: Any, tokens: Tensor, mask: Tensor, ring: bool) -> Tensor | None:
    """What a model makes of what stays of tokens (B, K, T): (B or 1, T, D) float32, one item where all are alike; None where
    the model has no `hidden`.

    Args:
        model: a transformer, or what stands in for one and says with `part` whose it is.
        tokens: int64.
        mask: (B, K, T) bool, True = not to be seen.
        ring: the last time step is followed by the first.
    """
    if not hasattr(getattr(model, "part", model), "hidden"):
        return None
    seen = tokens.masked_fill(mask, MASK)
    return model.hidden(seen[:1] if (seen == seen[0]).all() else seen, ring).float()


def likings(steps: int, generators: Sequence[torch.Generator]) -> Tensor:
    """(B, 2 T - 1) float32: how much each take likes to look so many time steps away, -(T - 1) first."""
    return gumbel((2 * steps - 1,), generators).float()


def likeness(features: Tensor, made: Tensor, known: Tensor, ring: bool) -> Tensor:
    """How like the places of one clip are, as what stays around them tells.

    Args:
        features: (T, D) float32.
        made: (T,) bool, the time steps that something is made anew at; the others' features tell of themselves.
        known: (T,) bool, the time steps of which the source is known.
        ring: the last time step is followed by the first.

    Returns:
        (T, T) float32 from -1 to 1; -inf where a place is not to be looked at.
    """
    steps = len(features)
    own = features[made]
    centred = F.normalize(features - own.mean(dim=0), dim=-1) * made[:, None]
    pairs, both = centred @ centred.T, made[:, None] & made
    total, count = torch.zeros_like(pairs), torch.zeros_like(pairs)
    for step in range(-AROUND, AROUND + 1):
        if ring:
            total += pairs.roll((step, step), (0, 1))
            count += both.roll((step, step), (0, 1))
        elif abs(step) < steps:
            to, of = slice(max(0, -step), steps - max(0, step)), slice(max(0, step), steps - max(0, -step))
            total[to, to] += pairs[of, of]
            count[to, to] += both[of, of]
    at = torch.arange(steps, device=features.device)
    away = (at - at[:, None]).abs()
    away = torch.minimum(away, steps - away) if ring else away
    return (total / count.clamp_min(1)).masked_fill(~(both & known) | (away <= NEAR), -torch.inf)


def places(like: Tensor, liking: Tensor) -> tuple[Tensor, Tensor]:
    """What each time step of one take leans on.

    Args:
        like: (T, T) float32 of `likeness`.
        liking: (2 T - 1,) float32 of `likings`.

    Returns:
        (T, n) int64 time steps and (T, n) float32 weights, which add up to 1, or to 0 where there is no place.
    """
    steps = len(like)
    # Row t of this view is what lies -t .. T - 1 - t time steps away.
    noise = liking.flip(0).unfold(0, steps, 1).flip(1)
    score, place = (SHARPNESS * like + noise).topk(min(PLACES, steps), dim=-1)
    return place, score.softmax(dim=-1).nan_to_num(0.0)


def recalled(
    features: Tensor, tokens: Tensor, masked: Tensor, liking: Tensor, codes: int, weight: float, ring: bool = False
) -> Recalled:
    """What takes recall of their source.

    Args:
        features: (B or 1, T, D) float32 of `features_of`.
        tokens: (B, K, T) int64 of the source, of the levels that are predicted; MASK or any higher number than a code where
            there is none: of a time step where one level has none, nothing is recalled.
        masked: (B, K, T) bool, what is made anew.
        liking: (B, 2 T - 1) float32 of `likings`, on the device of the rest.
        codes: of a level, V.
        weight: 0 = nothing, 1 = as much likelier as a token stands there more often than everywhere.
        ring: the last time step is followed by the first.
    """
    made, known = masked.any(dim=1), (tokens < codes).all(dim=1)
    alike = len(features) == 1 and bool((made == made[0]).all() & (known == known[0]).all())
    given = zip(features.expand(len(made), -1, -1), made, known, strict=True)
    likes = [likeness(*of, ring) for of in islice(given, 1 if alike else None)]
    found = [places(likes[0 if alike else item], own) for item, own in enumerate(liking)]
    place, share = (torch.stack(of)[:, None].expand(-1, tokens.shape[1], -1, -1) for of in zip(*found, strict=True))
    there = tokens[..., None].expand(-1, -1, -1, place.shape[-1]).gather(2, place)
    share = share * masked[..., None]
    there = there.clamp(max=codes - 1)
    same = there[..., None] == there[..., None, :]
    first = ~same.tril(-1).any(dim=-1)
    together = (same * share[..., None, :]).sum(dim=-1)
    everywhere = torch.zeros(*tokens.shape[:2], codes, device=tokens.device)
    everywhere.scatter_add_(-1, there.flatten(2), share.flatten(2)).div_(masked.sum(dim=-1, keepdim=True).clamp_min(1))
    more, less = ((codes * of).log1p() * weight for of in (together, everywhere))
    return Recalled(there, more * first, less)


def lean(logits: Tensor, where: Tensor, of: Recalled) -> None:
    """Weighs what a model says by what is recalled.

    Args:
        logits: (M, V) float32 of the M True positions of `where`, in the order of `where.nonzero()`; changed.
        where: (B, K, T) bool, what is still masked.
        of: of these items.
    """
    logits.scatter_add_(-1, of.codes[where], of.more[where])
    for less, rows in zip(of.less.flatten(0, 1), logits.split(where.sum(dim=-1).flatten().tolist()), strict=True):
        rows -= less
