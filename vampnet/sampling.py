"""Pure functions from logits to tokens: filters, draws, confidence and the cosine schedule (paper section 3.3).

Noise is drawn per item, on the CPU, from that item's own generator, and handed to the functions that use it. So what an item
gets depends neither on the other items of a batch nor on the device of the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np
import torch
from torch import Tensor

from vampnet.config import Sampling


def take_generator(seed: int, take: int, *stream: int | str) -> torch.Generator:
    """The CPU generator of one take and one stream of its random numbers.

    Args:
        seed: of the vamp, any whole number.
        take: number of the take.
        stream: what the numbers are for, such as ("coarse", round, window); another stream is another sequence.

    Returns:
        A new `torch.Generator` that depends on the arguments alone.
    """
    # hashed, not added up: seed 0 / take 1 and seed 1 / take 0 must not share their numbers, nor window 1 and round 1
    name = repr((int(seed), int(take), *stream)).encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def uniform(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """One uniform number in [0, 1) for every position of every item.

    Args:
        shape: of one item.
        generators: one for each of the B items.

    Returns:
        (B, *shape) float64 on the CPU.
    """
    return torch.stack([torch.rand(tuple(shape), generator=generator, dtype=torch.float64) for generator in generators])


def gumbel(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """I.i.d. Gumbel(0, 1) numbers: -log(-log u), always finite. Arguments and result as of `uniform`."""
    u = uniform(shape, generators).clamp_min(torch.finfo(torch.float64).tiny)
    return -torch.log(-torch.log(u))


TYPICAL_LEVELS = 1
"""The coarsest levels, of which typical tokens alone are drawn: they hold the rhythm, and need it (docs/log.md)."""


def typical_levels(shape: Sequence[int], first: int, device: torch.device) -> Tensor:
    """Which tokens are drawn from the typical ones alone, where there is a typical mass.

    Args:
        shape: (B, n_predicted, T).
        first: the level that the first of these is.

    Returns:
        (B, n_predicted, T) bool; a view, not to be written to.
    """
    levels = torch.arange(first, first + shape[1], device=device) < TYPICAL_LEVELS
    return levels[:, None].expand(tuple(shape))


def filter_logits(logits: Tensor, sampling: Sampling, typical: Tensor | None = None) -> Tensor:
    """Apply temperature, top-k, top-p and locally typical filtering, in this order.

    Args:
        logits: (..., V) float.
        sampling: uses `temperature` (0 leaves the logits as they are: take the argmax), `top_k`, `top_p`, `typical_mass`,
            `typical_min_tokens`.
        typical: (...) bool, where typical filtering is applied; None = everywhere.

    Returns:
        (..., V) float32; tokens that were filtered out have -inf, at least one token stays.
    """
    logits = logits.float()
    if sampling.temperature not in (0, 1):
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = _only(logits, logits.topk(sampling.top_k, dim=-1).indices)
    if sampling.top_p < 1:
        logits = _nucleus(logits, sampling.top_p)
    if sampling.typical_mass < 1:
        filtered = _typical(logits, sampling.typical_mass, sampling.typical_min_tokens)
        logits = filtered if typical is None else torch.where(typical[..., None], filtered, logits)
    return logits


def _only(logits: Tensor, indices: Tensor) -> Tensor:
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, indices, True)
    return logits.masked_fill(~kept, -torch.inf)


def _ascending(x: Tensor) -> Tensor:
    """The values of each row in order. Which is which is not asked for: on a CPU that makes it four times as fast."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.sort(x.detach().numpy(), axis=-1))
    return x.sort(dim=-1).values


def _nucleus(logits: Tensor, mass: float) -> Tensor:
    """Only the likeliest tokens, until their probabilities reach `mass`; equally likely ones stay together."""
    p = logits.softmax(dim=-1)
    ordered = _ascending(p)
    reached = ordered.cumsum(dim=-1)
    likelier = reached[..., -1:] - reached
    least = ordered.masked_fill(likelier >= mass, torch.inf).amin(dim=-1, keepdim=True)
    return logits.masked_fill(p < least, -torch.inf)


def _typical(logits: Tensor, mass: float, at_least: int) -> Tensor:
    """Only the most typical tokens, until their probabilities reach `mass`, and never fewer than `at_least`.

    Meister et al. 2022: a token is typical if its information -log p lies near the entropy.
    """
    information = -logits.log_softmax(dim=-1)
    entropy = torch.special.entr((-information).exp()).sum(dim=-1, keepdim=True)
    off = information - entropy
    # A distance and, in its last bit, on which side of the entropy: positive floats are in the order of their bits, so one
    # sort of whole numbers orders the distances and keeps the probabilities.
    bits = (off.abs().view(torch.int32) & ~1) | (off > 0)
    ordered = _ascending(bits)
    distance = (ordered & ~1).view(torch.float32)
    p = torch.exp(-entropy - torch.where((ordered & 1).bool(), distance, -distance))
    kept = (p.cumsum(dim=-1) - p < mass).sum(dim=-1, keepdim=True).clamp(at_least, logits.shape[-1])
    return logits.masked_fill(bits > ordered.gather(-1, kept - 1), -torch.inf)


def draw(weights: Tensor, u: Tensor) -> Tensor:
    """Draw from the plain categorical distribution (paper section 3.3, step 2), by inverting its distribution function.

    One number a token instead of the V of the Gumbel-max trick: a thousand times less noise to draw and to move to a GPU.

    Args:
        weights: (..., V) float, which need not add up to 1; 0 = never drawn. They are used up.
        u: (...) uniform in [0, 1).

    Returns:
        (...) int64 tokens on the device of `weights`.
    """
    return _at(torch.cumsum(weights, dim=-1, out=weights), u[..., None])[..., 0]


def _at(cdf: Tensor, u: Tensor) -> Tensor:
    """(..., V) sums of weights up to each token and (..., n) uniform numbers -> (..., n) int64 tokens that they fall on."""
    total = cdf[..., -1:]
    # u can round up to 1 in float32; anything below the total still finds a token that has a probability
    point = (u.to(cdf) * total).minimum(total * (1 - 2**-23))
    # Where numbers are damaged no token is found; it must not be looked up before that can be told.
    return torch.searchsorted(cdf, point, right=True).clamp_max_(cdf.shape[-1] - 1)


TRIES = 8
"""Draws that a token has until it is a typical one: with 60 % of the mass all but one in 1,500 are by then."""
LEAST_TRIED = 0.5
"""Share of the mass from which on this is what is done; where fewer tokens are typical, they are sorted out."""


def numbers_a_token(sampling: Sampling) -> int:
    """How many uniform numbers `choose` takes for a token: 1, or TRIES where it tries whether a token is typical."""
    alone = sampling.typical_min_tokens == 1 and not sampling.top_k and sampling.top_p == 1
    return TRIES if alone and LEAST_TRIED <= sampling.typical_mass < 1 and sampling.temperature > 0 else 1


def in_one_pass(sampling: Sampling) -> bool:
    """Whether tokens are drawn of all, or tried, so that nothing has to be sorted: what `passes.chosen` is for."""
    plain = not sampling.top_k and sampling.top_p == 1 and sampling.temperature > 0
    return plain and (sampling.typical_mass == 1 or numbers_a_token(sampling) > 1)


def numbers_for(shape: Sequence[int], sampling: Sampling) -> tuple[int, ...]:
    """The shape of the uniform numbers that tokens of a shape take: (*shape,), or (*shape, n) with n numbers a token."""
    numbers = numbers_a_token(sampling)
    return tuple(shape) if numbers == 1 else (*shape, numbers)


def draw_typical(p: Tensor, u: Tensor, mass: float, look: bool | None = None, rows: Tensor | None = None) -> Tensor:
    """Draw from the locally typical tokens (see `filter_logits`) without sorting: a sixth of the time, and less on a GPU.

    Whatever is drawn of all tokens counts if it is a typical one: if the tokens nearer to the entropy than it have less than
    `mass` together. Whether it is takes one sum, and 1 / mass draws are needed on average. If the last of them does not count
    either, the most typical token is taken.

    Args:
        p: (M, V) float32, each row adds up to 1.
        u: (M, n) uniform in [0, 1): n draws.
        mass: above 0 and below 1.
        look: ask which rows are left after each draw, and go on with them; otherwise all are drawn to the end, for a GPU that
            must not be asked. None = on a CPU. Both give the same tokens.
        rows: (M,) bool, which rows are to be typical; the others are drawn from all tokens. None = all.

    Returns:
        (M,) int64 tokens on the device of `p`.
    """
    look = p.device.type == "cpu" if look is None else look
    information = p.clamp_min(torch.finfo(p.dtype).tiny).log_().neg_()
    off = information.sub_((p * information).sum(dim=-1, keepdim=True)).abs_()
    tried = _at(p.cumsum(dim=-1), u)
    token = torch.empty_like(tried[:, 0]) if look else off.argmin(dim=-1)
    limit, scratch = off.gather(-1, tried), torch.empty_like(p)
    left, waiting = torch.arange(len(p), device=p.device), torch.ones(len(p), dtype=torch.bool, device=p.device)
    free = torch.zeros_like(waiting) if rows is None else ~rows
    for number in range(u.shape[-1]):
        # Into numbers at once: to choose between two of them takes a CPU ten times as long.
        nearer = torch.lt(off, limit[left, number, None] if look else limit[:, number, None], out=scratch[: len(p)])
        typical = (nearer.mul_(p).sum(dim=-1) < mass) | free
        if look:
            token[left[typical]] = tried[left[typical], number]
            again = ~typical
            left, p, off, free = left[again], p[again], off[again], free[again]
            if not len(left):
                return token
        else:
            token = torch.where(waiting & typical, tried[:, number], token)
            waiting &= ~typical
    return token.index_copy(0, left, off.argmin(dim=-1)) if look else token


def unsmoothed(p: Tensor, smoothing: float) -> Tensor:
    """What a model that was trained with label smoothing takes for likely, without the share that it gives to every token.

    Trained on targets of which a share e is spread over all V tokens, a model that is right says (1 - e) p + e / V where p is
    true: one in 1 / e of the tokens drawn from that are any of all. Here that is taken back; for a model that errs too, since
    what it gives less than e / V has no evidence in the music.

    Args:
        p: (..., V) float, what the model says: adds up to 1.
        smoothing: e, 0 to below 1.

    Returns:
        (..., V) float: proportional to the true p, at least one above 0.
    """
    return (p - smoothing / p.shape[-1]).clamp_min_(0)


def choose(
    logits: Tensor, u: Tensor | None, sampling: Sampling, smoothing: float = 0.0, typical: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A token for each position, and how sure the model is of it (paper section 3.3, steps 1 to 3).

    Args:
        logits: (..., V) float32, finite.
        u: uniform in [0, 1), of the shape that `numbers_for` tells; None = the likeliest tokens.
        sampling: its temperature and filters.
        smoothing: of the model's training, see `unsmoothed`.
        typical: (...) bool, which tokens the typical mass is for; None = all.

    Returns:
        (...) int64 tokens and (...) float32, their log probabilities, not finite where the logits are not. These are of the
        model's own distribution: filters change what may be drawn, not how sure the model is of it.

    Raises:
        ValueError: other numbers `u` than these options take.
    """
    if u is None or sampling.temperature == 0:
        token = logits.argmax(dim=-1)
        return token, _log_p(logits, token)
    shape, trying = logits.shape[:-1], numbers_a_token(sampling) > 1
    if u.shape != numbers_for(shape, sampling):
        raise ValueError(f"These tokens take uniform numbers {numbers_for(shape, sampling)}, not {tuple(u.shape)}.")
    p = logits.softmax(dim=-1)
    weights = unsmoothed(p, smoothing)
    filters = replace(sampling, typical_mass=1.0) if trying else sampling
    if filters.temperature != 1 or filters.filters:
        weights = filter_logits(weights.log() if smoothing else logits, filters, typical).softmax(dim=-1)
    elif trying:
        weights /= weights.sum(dim=-1, keepdim=True)
    if trying:
        rows = weights.reshape(-1, weights.shape[-1]), u.reshape(-1, u.shape[-1])
        which = None if typical is None else typical.reshape(-1)
        token = draw_typical(*rows, sampling.typical_mass, rows=which).view(shape)
    else:
        token = draw(weights, u)
    # With smoothing nothing is drawn that is less likely than the share given to every token: then no logarithm is of 0.
    return token, p.gather(-1, token[..., None])[..., 0].log() if smoothing else _log_p(logits, token)


def _log_p(logits: Tensor, token: Tensor) -> Tensor:
    return logits.log_softmax(dim=-1).gather(-1, token[..., None])[..., 0]


@overload
def mask_count(step: int, steps: int, n: int) -> int: ...
@overload
def mask_count(step: int, steps: int, n: Tensor) -> Tensor: ...
def mask_count(step: int, steps: int, n: int | Tensor) -> int | Tensor:
    """How many of an item's n tokens are still masked after step `step` (0-based) of `steps`: the cosine schedule.

    floor(n cos(pi/2 (step + 1) / steps)) (paper section 3.3), but at least one token is decided in every step while any is
    left, and none is left after the last.

    Args:
        step: 0..steps - 1.
        steps: of the whole decoding.
        n: masked tokens before the first step, of one item (int) or of each item ((B,) int64).

    Returns:
        As `n`.

    Raises:
        ValueError: `step` is not one of the steps.
    """
    if not 0 <= step < steps:
        raise ValueError(f"Step {step} is not one of {steps} steps.")
    if not isinstance(n, Tensor):
        return int(mask_count(step, steps, torch.tensor(n)))
    if step == steps - 1:
        return torch.zeros_like(n)
    share = math.cos(math.pi / 2 * (step + 1) / steps)
    # the cosine falls ever faster, so below the line "one token a step" it never becomes slower than it again
    scheduled = (n.cpu().double() * share).floor().long().to(n.device)
    return scheduled.minimum(n - (step + 1)).clamp_min(0)


def mask_temperature(step: int, steps: int, start: float) -> float:
    """Weight of the Gumbel noise on the confidence in step `step` (0-based): linear from `start` to 0 in the last step."""
    return start * (1 - (step + 1) / steps)


def confidence(log_p: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """log p(sample) + temperature * Gumbel noise (paper section 3.3, step 3).

    Args:
        log_p: (...) float, log probability of each drawn token.
        noise: (...) from `gumbel`.
        temperature: from `mask_temperature`.

    Returns:
        (...) float32.
    """
    return log_p.float() + temperature * noise.to(log_p.device, torch.float32)


def least_confident(confidence: Tensor, masked: Tensor, n: Tensor) -> Tensor:
    """Choose each item's `n` least confident positions among its masked ones (paper section 3.3, step 4).

    Args:
        confidence: (B, ...) float; only its values at masked positions count.
        masked: (B, ...) bool.
        n: (B,) int64, at most the masked positions of the item.

    Returns:
        (B, ...) bool, True = masked again. Among equals, the first ones.
    """
    flat = confidence.masked_fill(~masked, torch.inf).flatten(1)
    rank = flat.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < n.to(rank)[:, None]).view(masked.shape) & masked
