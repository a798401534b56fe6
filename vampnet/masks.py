"""Pure mask algebra on token masks.

A mask is a bool tensor (K, T) or (B, K, T): K codebook levels, level 0 the coarsest, T time steps; True = regenerate,
False = stays. Masks combine by the union of what stays (`keep_union`). Units are tokens, except where seconds are named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vampnet.config import TokenGrid
from vampnet.sentences import Sentence

Shape = Sequence[int]
Device = torch.device | str | None


def _checked_shape(shape: Shape) -> tuple[int, ...]:
    shape = tuple(int(size) for size in shape)
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"A mask has the shape (levels, steps) or (batch, levels, steps), each at least 1, not {shape}.")
    return shape


def _checked_mask(mask: Tensor) -> Tensor:
    if mask.dtype != torch.bool or mask.dim() not in (2, 3):
        raise ValueError(f"A mask is a bool tensor (K, T) or (B, K, T), not {mask.dtype} of shape {tuple(mask.shape)}.")
    return mask


def everything(shape: Shape, device: Device = None) -> Tensor:
    """The mask that keeps nothing: bool, all True, of `shape` (K, T) or (B, K, T)."""
    return torch.ones(_checked_shape(shape), dtype=torch.bool, device=device)


def keep_steps(shape: Shape, kept: Tensor) -> Tensor:
    """Keep whole time steps, in all levels.

    Args:
        shape: (K, T) or (B, K, T).
        kept: (T,) bool, True = this time step stays.

    Returns:
        Mask of `shape`, bool, on the device of `kept`.

    Raises:
        ValueError: `kept` is not bool of shape (T,).
    """
    shape = _checked_shape(shape)
    if kept.dtype != torch.bool or tuple(kept.shape) != shape[-1:]:
        raise ValueError(f"Kept steps are a bool tensor ({shape[-1]},), not {kept.dtype} of shape {tuple(kept.shape)}.")
    return (~kept).expand(shape).clone()


def periodic(shape: Shape, period: int, width: int = 1, offset: int = 0, device: Device = None, jitter: int = 0) -> Tensor:
    """Keep `width` steps in a row at every `period`-th step (periodic prompt, paper section 4), or about there.

    Step t stays if (t - offset) mod period < width, so `offset` shifts the pattern to the right and wraps. What is kept at
    even distances is a stroboscope to music of nearly the same period: for seconds it lies on hits, then between them. With
    `jitter` (not in the paper) each kept stretch comes early or late by up to so many time steps, always by the same ones.
    That at `offset` stays where it is: a clip may begin with an attack.

    Args:
        shape: (K, T) or (B, K, T).
        period: in time steps; 0 = nothing stays, 1 = everything stays.
        width: kept steps of each period; `width >= period` keeps everything.
        offset: in time steps, any sign.
        jitter: in time steps; less where stretches would touch.

    Returns:
        Mask of `shape`, bool.

    Raises:
        ValueError: `period` or `jitter` is negative, or `width` below 1.
    """
    shape = _checked_shape(shape)
    if period < 0 or width < 1 or jitter < 0:
        raise ValueError(
            "A periodic mask needs a period of at least 0, a width of at least 1 and a jitter of at least 0, "
            f"not {period}, {width} and {jitter}."
        )
    if period == 0:
        return everything(shape, device)
    most = min(jitter, (period - width) // 2)
    if most <= 0:
        return keep_steps(shape, (torch.arange(shape[-1], device=device) - offset).remainder(period) < width)
    starts = torch.arange(offset % period - period, shape[-1] + period, period)
    moves = _moves(len(starts), most)
    moves[1] = 0
    begins, changes = starts + moves, torch.zeros(shape[-1] + 1, dtype=torch.int64)
    for edges, change in ((begins, 1), (begins + width, -1)):  # what this takes does not grow with `width`
        changes.index_add_(0, edges.clamp(0, shape[-1]), torch.full_like(edges, change))
    return keep_steps(shape, (changes.cumsum(0)[:-1] > 0).to(device))


def _moves(count: int, most: int) -> Tensor:
    """(count,) int64 numbers in -most..most without a pattern, always the same: a hash of 0, 1, 2, ... (murmur's finalizer)."""
    word = 2**32 - 1
    x = torch.arange(1, count + 1) * 0x9E3779B1 & word
    for shift, factor in ((15, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * factor & word
    return (x ^ (x >> 16)) % (2 * most + 1) - most


def prefix_suffix(shape: Shape, prefix: int = 0, suffix: int = 0, device: Device = None) -> Tensor:
    """Keep the first `prefix` and the last `suffix` time steps (inpainting prompt, paper section 4).

    Returns:
        Mask of `shape`, bool; lengths beyond the clip keep all of it.

    Raises:
        ValueError: a length is negative.
    """
    shape = _checked_shape(shape)
    if prefix < 0 or suffix < 0:
        raise ValueError(f"Prefix and suffix must not be negative, and they are {prefix} and {suffix} time steps.")
    steps = torch.arange(shape[-1], device=device)
    return keep_steps(shape, (steps < prefix) | (steps >= shape[-1] - suffix))


def codebooks(shape: Shape, n_kept: int, device: Device = None) -> Tensor:
    """Keep the `n_kept` coarsest levels everywhere (compression prompt, N_k of paper section 4).

    Returns:
        Mask of `shape`, bool; `n_kept` beyond K keeps all levels.

    Raises:
        ValueError: `n_kept` is negative.
    """
    if n_kept < 0:
        raise ValueError(f"The number of kept codebook levels must not be negative, and it is {n_kept}.")
    mask = everything(shape, device)
    mask[..., :n_kept, :] = False
    return mask


def prompt_depth(mask: Tensor, depth: int) -> Tensor:
    """Let only the `depth` coarsest levels of `mask` stay: levels from `depth` on are regenerated.

    Returns:
        A new mask of the shape of `mask`, bool.

    Raises:
        ValueError: `depth` is negative, or `mask` is no mask.
    """
    if depth < 0:
        raise ValueError(f"The depth of a prompt must not be negative, and it is {depth}.")
    deep = _checked_mask(mask).clone()
    deep[..., depth:, :] = True
    return deep


def around_times(
    shape: Shape, times: Sequence[float], width_ms: float, grid: TokenGrid, device: Device = None, lead: int = 0,
    loop: bool = False,
) -> Tensor:  # fmt: skip
    """Keep the steps from each moment on (beat-driven prompt, paper section 4: about 75 ms, 4 tokens, to the right of a beat).

    The first kept step is the one that holds the moment; max(1, round(width in tokens)) steps stay, and `lead` before these,
    cut off at the clip's ends; on a ring they go on at its other end.

    Args:
        shape: (K, T) or (B, K, T).
        times: seconds; moments outside of the clip keep nothing (unless their width reaches into it).
        width_ms: milliseconds, positive.
        grid: seconds <-> tokens.
        lead: time steps before each moment that stay too.
        loop: the clip is a ring.

    Returns:
        Mask of `shape`, bool.

    Raises:
        ValueError: `width_ms` is not positive, `lead` is negative, or a time is not finite.
    """
    shape = _checked_shape(shape)
    if not width_ms > 0:
        raise ValueError(f"The width around beats or onsets must be positive, not {width_ms} ms.")
    if lead < 0:
        raise ValueError(f"The steps before a moment must not be fewer than none, and they are {lead}.")
    # No more of it than there is: around a ring it would go, as often as it can.
    width, lead = (min(steps, shape[-1]) for steps in (max(1, grid.seconds_to_tokens(width_ms / 1000)), lead))
    kept = torch.zeros(shape[-1], dtype=torch.bool, device=device)
    for time in times:
        if not math.isfinite(time):
            raise ValueError(f"Times of beats and onsets must be numbers in seconds, not {time!r}.")
        start = grid.token_at(float(time))
        if loop and 0 <= start < len(kept):
            kept[torch.arange(start - lead, start + width, device=device) % len(kept)] = True
        else:
            kept[max(0, start - lead) : max(0, start + width)] = True
    return keep_steps(shape, kept)


def region(shape: Shape, start: int, stop: int, device: Device = None) -> Tensor:
    """Keep everything outside of the time steps [start, stop).

    Returns:
        Mask of `shape`, bool.

    Raises:
        ValueError: the region is empty or does not lie within the clip.
    """
    shape = _checked_shape(shape)
    if not 0 <= start < stop <= shape[-1]:
        raise ValueError(Sentence(
            "A region must hold at least one of the clip's {steps} time steps, and {start} to {stop} does not.",
            steps=shape[-1], start=start, stop=stop,
        ))  # fmt: skip
    steps = torch.arange(shape[-1], device=device)
    return keep_steps(shape, (steps < start) | (steps >= stop))


def dropout(mask: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Free exactly round(share * n) of the n kept time steps of each item, drawn without replacement.

    A time step counts as kept if any of its levels stays; freed, it is regenerated in all levels. With the same generator
    state a larger share frees the same steps and more.

    Args:
        mask: (K, T) or (B, K, T) bool.
        share: 0..1.
        generator: CPU generator; B permutations are drawn from it.

    Returns:
        A new mask of the shape of `mask`, bool.

    Raises:
        ValueError: `share` is not in 0..1, or `mask` is no mask.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"Dropout is a share from 0 to 1, not {share}.")
    freed = _checked_mask(mask).clone()
    for item in freed.view(-1, *freed.shape[-2:]):
        kept = (~item).any(dim=0).nonzero()[:, 0]
        order = torch.randperm(len(kept), generator=generator).to(kept.device)
        item[:, kept[order[: round(share * len(kept))]]] = True
    return freed


def keep_union(*masks: Tensor) -> Tensor:
    """Keep what any of the masks keeps: their logical AND, since True = regenerate. Shapes broadcast.

    Raises:
        ValueError: no mask is given, or one of them is no mask.
    """
    if not masks:
        raise ValueError("A union of masks needs at least one mask.")
    union = _checked_mask(masks[0])
    for mask in masks[1:]:
        union = union & _checked_mask(mask)
    return union.clone()
