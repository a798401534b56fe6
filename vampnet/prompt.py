"""From a `Prompt`, beats and onsets to a mask, and what the kept tokens of a mask cost in bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vampnet import masks
from vampnet.config import BITS_PER_TOKEN, N_CODEBOOKS, Prompt, TokenGrid
from vampnet.sampling import take_generator
from vampnet.sentences import Sentence

LEAD_STEPS = 1
"""Time steps that stay before a beat or an onset: a codec hears an attack in the step before it already, and without that step
half of the attack is made anew (docs/log.md)."""


def build_mask(
    prompt: Prompt,
    shape: tuple[int, int],
    grid: TokenGrid,
    beats: Sequence[float] | None = None,
    onsets: Sequence[float] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    loop: bool = False,
) -> Tensor:
    """The mask of a prompt (paper section 4), exactly reproducible from its arguments.

    In this order: periodic, prefix, suffix, beats and onsets give the kept time steps (their union); `dropout` frees a share
    of all of them; `prompt_codebooks` limits how deep they are kept; then the `kept_codebooks` coarsest levels stay everywhere,
    and everything outside of `region` stays. Dropout never touches the last two.

    Args:
        prompt: what stays.
        shape: (K, T), codebook levels and time steps.
        grid: seconds <-> tokens.
        beats: seconds, needed only if `prompt.needs_beats`; an empty sequence means that there are none.
        onsets: seconds, needed only if `prompt.needs_onsets`.
        seed: of the dropout.
        device: where the mask lies; the draw itself does not depend on it.
        loop: the clip is a ring: what is kept around a beat near one of its ends goes on at the other.

    Returns:
        (1, K, T) bool, True = regenerate.

    Raises:
        ValueError: beats or onsets are needed and None, or the region starts behind the end of the clip. (A region that only
            ends behind the clip is cut off there.)
    """
    mask = _kept_steps(prompt, shape, grid, beats, onsets, loop)
    if prompt.dropout > 0:
        mask = masks.dropout(mask, prompt.dropout, take_generator(seed, 0, "prompt dropout"))
    if prompt.prompt_codebooks < N_CODEBOOKS:  # else all that a codec has
        mask = masks.prompt_depth(mask, prompt.prompt_codebooks)
    mask = masks.keep_union(mask, masks.codebooks(shape, prompt.kept_codebooks))
    if prompt.region is not None:
        mask = masks.keep_union(mask, masks.region(shape, *_region_tokens(prompt.region, shape[-1], grid)))
    return mask[None].to(device)


def _kept_steps(
    prompt: Prompt,
    shape: tuple[int, int],
    grid: TokenGrid,
    beats: Sequence[float] | None,
    onsets: Sequence[float] | None,
    loop: bool,
) -> Tensor:
    """(K, T) bool: the union of all fields that keep whole time steps."""
    width, offset, jitter = prompt.periodic_width, prompt.periodic_offset, prompt.periodic_jitter
    found = [masks.periodic(shape, prompt.periodic, width, offset, jitter=jitter)]
    prefix, suffix = (grid.seconds_to_tokens(seconds) for seconds in (prompt.prefix_seconds, prompt.suffix_seconds))
    found.append(masks.prefix_suffix(shape, prefix, suffix))
    for name, times, width in (("beat", beats, prompt.beat_width_ms), ("onset", onsets, prompt.onset_width_ms)):
        if width == 0:
            continue
        if times is None:
            raise ValueError(Sentence(
                "This prompt keeps what follows each {name}: pass the {name}s in seconds or set {name}_width_ms to 0.",
                name=name,
            ))  # fmt: skip
        found.append(masks.around_times(shape, times, width, grid, lead=LEAD_STEPS, loop=loop))
    return masks.keep_union(*found)


def _region_tokens(region: tuple[float, float], steps: int, grid: TokenGrid) -> tuple[int, int]:
    """The time steps [start, stop) that the seconds of a region touch, within a clip of `steps`."""
    start = grid.token_at(region[0])
    if start >= steps:
        clip = grid.tokens_to_seconds(steps)
        raise ValueError(Sentence(
            "The region starts at {start:g} s, but the clip ends at {clip:.2f} s: move the region into the clip.",
            start=region[0], clip=clip,
        ))  # fmt: skip
    stop = grid.samples_to_tokens(grid.seconds_to_samples(region[1]))
    return start, min(steps, max(stop, start + 1))


def kept_share(mask: Tensor) -> float:
    """Share of the tokens that stay, 0..1, over a mask (K, T) or (B, K, T) bool."""
    return 1 - mask.sum().item() / mask.numel()


def kept_kbps(mask: Tensor, grid: TokenGrid) -> float:
    """What the kept tokens cost, in kilobits a second: kept tokens x 10 bits / seconds / 1000, the mean over a batch.

    The paper (section 4) prints B/P(N - N_k); this counts the tokens that really stay.

    Args:
        mask: (K, T) or (B, K, T) bool, True = regenerate.
        grid: seconds <-> tokens.
    """
    return kept_share(mask) * full_kbps(grid, mask.shape[-2])


def full_kbps(grid: TokenGrid, n_codebooks: int = N_CODEBOOKS) -> float:
    """Kilobits a second of all tokens of `n_codebooks` levels (8.04 for the paper's codec)."""
    return n_codebooks * BITS_PER_TOKEN * grid.tokens_per_second / 1000
