"""A clip's tokens from its windows, rounds and stages: windows for long audio, rings for loops.

Each window is filled by `decoding`, whose head says what an item's tokens depend on. Kept tokens are never changed, and no MASK
is left at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vampnet.config import Sampling
from vampnet.decoding import Decoder, Progress, check_tokens, prepared
from vampnet.gaps import alike
from vampnet.progress import Cancelled, OnStep
from vampnet.sampling import take_generator
from vampnet.windows import Window

FEEDBACK_SHARE = 8
"""One in so many regenerated time steps stays for the next feedback round: as dense as a periodic prompt of P = 8."""


def _feedback_mask(mask: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """`mask` (B, K, T) less one in FEEDBACK_SHARE of each item's masked time steps, drawn at random."""
    mask = mask.clone()
    for item, generator in zip(mask, generators, strict=True):
        steps = item.any(dim=0).nonzero()[:, 0].cpu()
        kept = min(len(steps) - 1, max(1, round(len(steps) / FEEDBACK_SHARE)))
        if kept > 0:
            item[:, steps[torch.randperm(len(steps), generator=generator)[:kept]].to(item.device)] = False
    return mask


def _fill_round(
    decoders: Sequence[Decoder],
    tokens: Tensor,
    mask: Tensor,
    source: Tensor,
    plan: Sequence[Window],
    generators: Callable[[int], list[torch.Generator]],
) -> Tensor:
    """One pass over the windows of `plan`, in order, each with its decoder: it decides its core, which those after it see.

    `source` are the tokens that the palette is of, and what is recalled.
    """
    tokens, masked = tokens.clone(), mask.clone()
    for number, (window, decoder) in enumerate(zip(plan, decoders, strict=True)):
        at = window.places(tokens.shape[-1]).to(tokens.device)
        inside = (at >= window.core[0]) & (at < window.core[1])
        seen, todo = tokens[..., at], masked[..., at]
        commit = todo & inside
        if not commit.any():
            decoder.progress.advance(decoder.steps)
            continue
        # the still masked context on the right is decided too, as a draft for the core to agree with, and then forgotten
        own, drawn = source[..., at], generators(number)
        # What windows before this one have decided is each take's own: as it was masked, places are alike for all takes.
        memory = decoder.recalled(own, mask[..., at], drawn, window.ring)
        filled = decoder.fill(seen, todo, drawn, window.ring, decoder.shares_of(own, source), memory)
        tokens[..., at] = torch.where(commit, filled, seen)
        masked[..., at] = todo & ~inside
    return tokens


@torch.no_grad()
def fill_windows(
    model: nn.Module,
    tokens: Tensor,
    mask: Tensor,
    steps: int,
    sampling: Sampling,
    seed: int,
    takes: Sequence[int],
    *,
    rounds: int = 1,
    loop: bool = False,
    batch: int = 1,
    stage: str = "tokens",
    on_step: OnStep | None = None,
    cancelled: Cancelled | None = None,
) -> Tensor:
    """Fill the masked tokens of a clip of any length, window by window.

    The windows are those of `windows.plan_for_mask`. The model sees one window at a time, so its memory does not grow with the
    clip. Every window of every round and stage has its own random numbers, and the palette of its own part of the source, which
    is also all that it recalls. Those whose gaps are not short are filled without guidance, and those whose gaps are long from
    all tokens (`gaps.fitting`).

    Feedback: the mask alone would make the rounds independent draws, since all that the model sees is what stays. So in every
    round after the first, one in 8 of the regenerated time steps, drawn anew, also stays as the round before made it.

    Args:
        model, tokens, mask, steps, sampling, batch, stage, cancelled: as in `fill`, with T of any length.
        seed: of the vamp.
        takes: the number of the take of each of the B items; item i depends on (seed, takes[i]) alone.
        rounds: feedback rounds, at least 1.
        loop: the clip is a ring, its end flows into its beginning.
        on_step: progress over all windows and rounds, `on_step(stage, step, of)`.

    Returns:
        (B, n_codebooks, T) int64 on the device of `tokens`: kept tokens unchanged, no MASK.

    Raises:
        ValueError: as `fill`, or the takes are not B.
        CancelledError: `cancelled()` was True.
    """
    work, mask = prepared(model, tokens, mask)
    source, takes = work.clone(), list(takes)
    if len(takes) != len(work) or rounds < 1:
        raise ValueError(f"{len(work)} items need as many take numbers and at least 1 round, not {len(takes)} and {rounds}.")
    groups = alike(mask[:, model.config.n_conditioning :], model.config.context, loop, sampling)
    progress = Progress(stage, steps * rounds * sum(map(len, groups)), on_step, cancelled)
    for group, items in groups.items():
        plan = [window for window, _ in group]
        decoders = [Decoder(model, steps, way, batch, progress) for _, way in group]
        for turn in range(rounds):

            def generators(window: int | str, items: list[int] = items, turn: int = turn) -> list[torch.Generator]:
                return [take_generator(seed, takes[item], stage, turn, window) for item in items]

            todo = mask[items] if turn == 0 else _feedback_mask(mask[items], generators("feedback"))
            work[items] = _fill_round(decoders, work[items], todo, source[items], plan, generators)
    return work.to(tokens.device)


def generate(
    coarse: nn.Module,
    fine: nn.Module,
    tokens: Tensor,
    mask: Tensor,
    sampling: Sampling,
    seed: int,
    takes: Sequence[int],
    *,
    loop: bool = False,
    batch: int = 1,
    on_step: OnStep | None = None,
    cancelled: Cancelled | None = None,
) -> Tensor:
    """Regenerate the masked tokens of a clip: the coarse levels first, then the fine ones given these (paper section 3).

    The coarse stage takes `sampling.steps` a window and `sampling.feedback` rounds, the fine stage `sampling.fine_steps` and
    one round, since the fine levels of earlier rounds are seen by nobody, and draws from all tokens without guidance
    palette and recall (`typical_mass`, `guidance`, `palette` and `recall` are for the coarse ones).

    Args:
        coarse: model of the coarsest levels, in eval mode; `coarse.config.n_codebooks` is `fine.config.n_conditioning`.
        fine: model of all levels, in eval mode.
        tokens: (1 or len(takes), K, T) int64 in 0..1023, K = `fine.config.n_codebooks`; T of any length.
        mask: (1 or len(takes), K, T) bool, True = regenerate.
        sampling: all of it is used.
        seed: of the vamp.
        takes: numbers of the takes to draw; take i depends on (seed, i) alone.
        loop, batch, on_step, cancelled: as in `fill_windows`; the stages are "coarse" and "fine".

    Returns:
        (len(takes), K, T) int64 on the device of `tokens`: kept tokens unchanged, no MASK.

    Raises:
        ValueError: as `fill_windows`, no takes, or two models that do not fit together.
        CancelledError: `cancelled()` was True; nothing was written anywhere.
    """
    takes = list(takes)
    levels = coarse.config.n_codebooks
    if not takes:
        raise ValueError("Generating needs at least one take.")
    if fine.config.n_conditioning != levels:
        raise ValueError(
            f"The coarse model makes {levels} levels, but the fine model is conditioned on {fine.config.n_conditioning}: "
            "use two models of one checkpoint."
        )
    if tokens.dim() == 3 and tokens.shape[0] == 1:
        tokens = tokens.expand(len(takes), -1, -1)
    # all of it now, so that nobody waits for the coarse stage to hear of a bad fine token
    check_tokens(tokens, mask, fine.config.n_codebooks, fine.config.codebook_size)
    out = tokens.clone()
    fine_mask = mask.clone()
    fine_mask[:, :levels] = False
    rest = {"seed": seed, "takes": takes, "loop": loop, "batch": batch, "on_step": on_step, "cancelled": cancelled}
    given, todo = out[:, :levels], mask[:, :levels]
    out[:, :levels] = fill_windows(
        coarse, given, todo, sampling.steps, sampling, rounds=sampling.feedback, stage="coarse", **rest
    )
    # Fine levels say how, not what: with typical tokens alone they are no better (docs/log.md), and later.
    drawn = replace(sampling, typical_mass=1.0, guidance=0.0, palette=0.0, recall=0.0)
    return fill_windows(fine, out, fine_mask, drawn.fine_steps, drawn, stage="fine", **rest)
