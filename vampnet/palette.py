"""The palette: a take uses the codes of the coarse levels about as often as its source does.

What stays may say little of how a clip sounds: around beats it is a tenth of it. How often each code occurs in the whole clip
says nothing of when, but which sounds there are. So what the model says of a token is weighed by how often its code should
occur over how often it would (Kneser, Peters and Klakow, 1997, who adapt models of language to a topic that way; the paper has
nothing of the kind).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 16
"""Tokens of a level that make a palette; fewer make none."""
ENOUGH = 115
"""Tokens of a level, two seconds, that are enough for a palette of a window's own; where fewer are known it is the clip's."""
OWN_SHARE = 0.5
"""Of what should occur, how much is the clip's; the rest is what would occur anyway. A clip does not use all codes that fit."""
EVERY = 4
"""Of the time steps, one in so many is asked how often codes would occur."""
MOST = 4.0
"""No code is made more or less likely than by a factor of exp(MOST)."""
LITTLE = 1e-9


def shares_of(tokens: Tensor, codes: int, clip: Tensor | None = None) -> Tensor:
    """How often codes occur, level by level.

    Args:
        tokens: (B, K, T) int64, MASK or any higher number than a code where one is unknown.
        codes: of a level, V.
        clip: (B, K, T') int64, counted instead where fewer than `ENOUGH` of `tokens` are known.

    Returns:
        (B, K, V) float32 that add up to 1, or to 0 where too few are known.
    """
    known = tokens < codes
    counts = torch.zeros(*tokens.shape[:2], codes, device=tokens.device)
    counts.scatter_add_(-1, tokens.clamp(max=codes - 1), known.float())
    found = known.sum(dim=-1, keepdim=True)
    own = (counts / found.clamp_min(1)).masked_fill(found < LEAST, 0)
    return own if clip is None else torch.where(found < ENOUGH, shares_of(clip, codes), own)


def heard(steps: int) -> Tensor:
    """(T,) bool: the time steps, one in `EVERY`, at which it is asked how often codes would occur; no period fits them."""
    return torch.arange(steps, dtype=torch.float64) * ((math.sqrt(5) - 1) / 2) % 1 < 1 / EVERY


def bias(p: Tensor, asked: Tensor, tokens: Tensor, masked: Tensor, shares: Tensor, weight: float) -> Tensor:
    """What is added to logits so that codes occur as often as they should.

    Args:
        p: (B, K, V) float, the sum of what the model says of some of the masked tokens.
        asked: (B, K) whole numbers: of how many.
        tokens: (B, K, T) int64, of the levels that are predicted.
        masked: (B, K, T) bool.
        shares: (B, K, V) float32 of `shares_of`.
        weight: 0 = not at all, 1 = so that they occur as they should.

    Returns:
        (B, K, V) float32, 0 where there is no palette, or nobody was asked.
    """
    count, asked = masked.sum(dim=-1, keepdim=True), asked[..., None]
    there = torch.zeros_like(shares).scatter_add_(-1, tokens.clamp(max=shares.shape[-1] - 1), (~masked).float())
    expected = (there + p * (count / asked.clamp_min(1))) / tokens.shape[-1]
    wanted = torch.lerp(expected, shares, OWN_SHARE).clamp_min(LITTLE)
    found = (wanted / expected.clamp_min(LITTLE)).log().clamp(-MOST, MOST) * weight
    return found * ((shares.sum(dim=-1, keepdim=True) > 0) & (asked > 0))


def keep_to(logits: Tensor, tokens: Tensor, where: Tensor, shares: Tensor, weight: float) -> None:
    """Weighs what a model says by a palette.

    Args:
        logits: (M, V) float32 of the M True positions of `where`, in the order of `where.nonzero()`; changed.
        tokens: (B, K, T) int64, of the levels that are predicted.
        where: (B, K, T) bool, what is still masked.
        shares: (B, K, V) float32 of `shares_of`.
        weight: as of `bias`.
    """
    some = where & heard(where.shape[-1]).to(where.device)
    asked, p = some.sum(dim=-1), torch.zeros_like(shares)
    said = logits[some[where]].softmax(dim=-1)
    for total, part in zip(p.flatten(0, 1), said.split(asked.flatten().tolist()), strict=True):
        torch.sum(part, dim=0, out=total)
    added = bias(p, asked, tokens, where, shares, weight)
    for more, rows in zip(added.flatten(0, 1), logits.split(where.sum(dim=-1).flatten().tolist()), strict=True):
        rows += more
