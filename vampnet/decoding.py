"""Iterative parallel decoding of one window (paper section 3.3): estimate, draw, rank, keep the surest, again.

Tokens are (B, K, T) int64 and masks (B, K, T) bool, True = regenerate. Every item is decoded on its own schedule from its own
random numbers, and the model is called with `batch` items at a time: with 1 (the default) an item's tokens cannot depend on
the others at all, with more they do so only by the rounding of batched arithmetic, which in rare cases flips a draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vampnet import passes
from vampnet.config import MASK, CancelledError, Sampling
from vampnet.device import answers_late
from vampnet.device_steps import fill_on_device
from vampnet.guidance import asks_weaker, hidden, logits_of
from vampnet.palette import keep_to, shares_of
from vampnet.progress import Cancelled, OnStep
from vampnet.recall import Recalled, features_of, lean, likings, recalled
from vampnet.sampling import (
    choose,
    confidence,
    gumbel,
    in_one_pass,
    least_confident,
    mask_count,
    mask_temperature,
    numbers_for,
    typical_levels,
    uniform,
)
from vampnet.windows import reach

ROWS = 1024
"""Tokens that are drawn at a time on a CPU: their distributions stay in its cache."""


@dataclass
class Progress:
    """Counts the steps of a stage, tells of them, and stops where that is asked for (CancelledError)."""

    stage: str
    of: int
    on_step: OnStep | None
    cancelled: Cancelled | None
    done: int = 0

    def check(self) -> None:
        """Asked before each step."""
        if self.cancelled is not None and self.cancelled():
            raise CancelledError(f"Stopped in the {self.stage} stage after {self.done} of {self.of} steps.")

    def advance(self, steps: int = 1) -> None:
        """So many steps more are done."""
        if steps:
            self.done += steps
            if self.on_step is not None:
                self.on_step(self.stage, self.done, self.of)


def check_tokens(tokens: Tensor, mask: Tensor, levels: int, codebook_size: int) -> None:
    """Raise a ValueError that says what is wrong with tokens (B, levels, T) or their mask (B or 1, levels, T)."""
    if tokens.dtype != torch.int64 or tokens.dim() != 3 or tokens.shape[1] != levels or 0 in tokens.shape:
        raise ValueError(f"Tokens must be int64 (batch, {levels}, steps), not {tokens.dtype} of shape {tuple(tokens.shape)}.")
    fits = mask.dim() == 3 and mask.shape[1:] == tokens.shape[1:] and mask.shape[0] in (1, tokens.shape[0])
    if mask.dtype != torch.bool or not fits:
        raise ValueError(
            f"The mask must be bool of the tokens' shape {tuple(tokens.shape)} (or of batch 1), "
            f"not {mask.dtype} of shape {tuple(mask.shape)}."
        )
    valid = (tokens >= 0) & (tokens < codebook_size)
    if not (valid | (mask.to(tokens.device) & (tokens == MASK))).all():
        raise ValueError(f"Tokens must lie in 0..{codebook_size - 1}; only masked positions may hold MASK ({MASK}).")


def prepared(model: nn.Module, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Checked copies of tokens and mask, of the same shape, on the model's device."""
    config = model.config
    if model.training:
        raise ValueError("The model is in training mode, where dropout falsifies what it predicts: call model.eval() first.")
    check_tokens(tokens, mask, config.n_codebooks, config.codebook_size)
    if mask[:, : config.n_conditioning].any():
        raise ValueError(f"The first {config.n_conditioning} levels only condition this model and must not be masked.")
    device = next(model.parameters(), tokens).device
    return tokens.to(device, copy=True), mask.to(device).expand_as(tokens).clone()


@dataclass
class Decoder:
    """What stays the same over all windows and rounds of a stage."""

    model: nn.Module
    steps: int
    sampling: Sampling
    batch: int
    progress: Progress
    first: int = field(init=False)
    quick: bool = field(init=False)
    """Draw in one pass, where the arithmetic is rounded anyway; else every number is what torch makes of it."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"Decoding needs at least 1 step and 1 item at a time, not {self.steps} and {self.batch}.")
        self.first = self.model.config.n_conditioning
        self.quick = getattr(self.model, "precision", "float32") != "float32" and in_one_pass(self.sampling)

    def shares_of(self, tokens: Tensor, clip: Tensor | None = None) -> Tensor | None:
        """Shares (B, n_predicted, V) of the palette of tokens (B, K, T), or of the clip's (B, K, T'); None without one."""
        if not self.sampling.palette:
            return None
        window, whole = (None if of is None else of[:, self.first :] for of in (tokens, clip))
        return shares_of(window, self.model.config.codebook_size, whole)

    def recalled(
        self, source: Tensor, mask: Tensor, generators: Sequence[torch.Generator], ring: bool = False
    ) -> Recalled | None:
        """What takes recall of a window (B, K, T) of their source, of which `mask` is made anew; None without that.

        The generators are advanced where there is.
        """
        weight = self.sampling.recall
        features = features_of(self.model, source, mask, ring) if weight and mask.any() else None
        if features is None:
            return None
        liking = likings(source.shape[-1], generators).to(source.device)
        own, masked = (of[:, self.first :] for of in (source, mask))
        return recalled(features, own, masked, liking, self.model.config.codebook_size, weight, ring)

    def fill(
        self,
        tokens: Tensor,
        mask: Tensor,
        generators: Sequence[torch.Generator],
        ring: bool = False,
        shares: Tensor | None = None,
        memory: Recalled | None = None,
    ) -> Tensor:
        """Tokens (B, K, T) with everything masked decided; arguments as in `fill`, checked already.

        `shares` (B, n_predicted, V) are those of the palette, `memory` what is recalled, if there is any.
        """
        tokens = tokens.masked_fill(mask, MASK)
        masked = mask[:, self.first :]
        # What several requests ask for at once is better computed together, call by call.
        if answers_late(tokens.device) and getattr(self.model, "alone", True):
            return self._fill_on_device(tokens, masked, generators, ring, shares, memory)
        total = masked.sum(dim=(1, 2))
        shape = numbers_for(masked.shape[1:], self.sampling)
        for step in range(self.steps):
            if not masked.any():
                self.progress.advance(self.steps - step)
                break
            self.progress.check()
            chosen, log_p = self._propose(tokens, masked, step, uniform(shape, generators), ring, shares, memory)
            noise = gumbel(masked.shape[1:], generators)
            weight = mask_temperature(step, self.steps, self.sampling.mask_temperature)
            left = mask_count(step, self.steps, total)
            again = least_confident(confidence(log_p, noise, weight), masked, left)
            tokens[:, self.first :] = torch.where(masked & ~again, chosen, tokens[:, self.first :])
            masked = again
            self.progress.advance()
        return tokens

    def _fill_on_device(
        self, tokens: Tensor, masked: Tensor, generators: Sequence[torch.Generator], ring: bool, shares: Tensor | None,
        memory: Recalled | None,
    ) -> Tensor:  # fmt: skip
        """As `fill`, part by part: where all steps of `batch` items are asked for at once, there is nothing to wait for."""
        starts, done = range(0, len(tokens), self.batch), 0

        def after() -> None:
            nonlocal done
            done += 1
            self.progress.advance(done // len(starts) - (done - 1) // len(starts))

        for start in starts:
            items = slice(start, start + self.batch)
            tokens[items] = fill_on_device(
                self.model, tokens[items], masked[items], self.steps, self.sampling, generators[items], ring,
                self.progress.check, after, None if shares is None else shares[items],
                None if memory is None else memory.part(items),
            )  # fmt: skip
        return tokens

    def _propose(
        self, tokens: Tensor, masked: Tensor, step: int, u: Tensor, ring: bool, shares: Tensor | None, memory: Recalled | None
    ) -> tuple[Tensor, Tensor]:
        """A token (B, n_predicted, T) for each masked position and its log probability, both 0 elsewhere."""
        chosen = torch.zeros_like(tokens[:, self.first :])
        log_p = torch.zeros(chosen.shape, device=tokens.device)
        u = u.to(tokens.device, torch.float32)
        typical = typical_levels(masked.shape, self.first, tokens.device)
        greedy = self.sampling.temperature == 0 or step >= self.sampling.sample_cutoff * self.steps
        for items, logits in self._said(tokens, masked, step, ring):
            where = masked[items]
            if memory is not None or shares is not None:
                logits = logits.float()
            if memory is not None:
                lean(logits, where, memory.part(items))
            if shares is not None:
                keep_to(logits, tokens[items, self.first :], where, shares[items], self.sampling.palette)
            quick = self.quick and not greedy and logits.device.type == "cpu"
            size = len(logits) if quick or logits.device.type != "cpu" else ROWS
            rows = logits, u[items][where], typical[items][where]
            parts = zip(*(of.split(size) for of in rows), strict=True)
            tokens_of, log_p_of = zip(
                *(self._decide(part.float(), None if greedy else at, which, quick) for part, at, which in parts), strict=True
            )
            chosen[items][where], log_p[items][where] = torch.cat(tokens_of), torch.cat(log_p_of)
        return chosen, log_p

    def _said(self, tokens: Tensor, masked: Tensor, step: int, ring: bool) -> Iterator[tuple[slice, Tensor]]:
        """Items with something masked, `batch` at a time, and what the model says of it: logits (M, V), free to be changed."""
        guidance = self.sampling.guidance
        unseen = hidden(tokens.shape[-1], step).to(tokens.device) if asks_weaker(self.model, guidance) else None
        # Takes of one clip begin alike, so the model is asked once for all of them.
        alike = len(tokens) > 1 and bool((tokens == tokens[0]).all())  # and so MASK at the same places
        for start in range(0, len(tokens), self.batch):
            items = slice(start, start + self.batch)
            if not masked[items].any():
                continue
            if not (alike and start):
                asked = slice(0, 1) if alike else items
                logits = logits_of(self.model, tokens[asked], unseen, self.first, guidance, where=masked[asked], ring=ring)
            yield items, logits.repeat(len(tokens[items]), 1) if alike else logits

    def _decide(self, logits: Tensor, u: Tensor | None, typical: Tensor, quick: bool) -> tuple[Tensor, Tensor]:
        """(M, V) logits and (M,) or (M, n) uniform numbers, None = the likeliest -> (M,) tokens and their log probabilities.

        `typical` (M,) bool says which of them the typical mass is for.
        """
        sampling, smoothing = self.sampling, self.model.config.label_smoothing
        if quick:
            token, log_p = passes.chosen(logits, u, sampling.temperature, sampling.typical_mass, smoothing, typical)
        else:
            token, log_p = choose(logits, u, sampling, smoothing, typical)
        if not log_p.isfinite().all():
            raise ValueError("The model's logits are not finite: its weights are damaged, or its precision is too low.")
        return token, log_p


@torch.no_grad()
def fill(
    model: nn.Module,
    tokens: Tensor,
    mask: Tensor,
    steps: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    *,
    ring: bool = False,
    batch: int = 1,
    stage: str = "tokens",
    on_step: OnStep | None = None,
    cancelled: Cancelled | None = None,
) -> Tensor:
    """Fill the masked tokens of one window by iterative parallel decoding (paper section 3.3).

    In each step all masked tokens are predicted and drawn, and the least confident of them are masked again, by a cosine
    schedule that is counted per item.

    Args:
        model: in eval mode, with `config` (TransformerConfig); `model(tokens, where=(B, n_predicted, T) bool, ring=bool)` gives
            the logits (M, V) at the M True positions, in the order of `where.nonzero()`.
        tokens: (B, n_codebooks, T) int64 in 0..1023. Of what they hold at masked positions nothing is seen (MASK is fine there)
            but how often each code occurs, for the palette (`vampnet.palette`), and what stands at places far from where it
            is filled (`vampnet.recall`).
        mask: (B or 1, n_codebooks, T) bool, True = regenerate; False in the conditioning levels.
        steps: decoding steps; an item with fewer masked tokens is finished earlier.
        sampling: `temperature`, `mask_temperature`, `sample_cutoff`, `guidance`, `palette`, `recall` and the filters.
            (`steps` and `fine_steps` are not read.)
        generators: one CPU generator for each item, see `sampling.take_generator`. They are advanced.
        ring: the last time step is followed by the first.
        batch: items that the model sees at a time; more than 1 is faster on a GPU, but see the head of this module.
        stage: the word that `on_step` gets.
        on_step: progress, `on_step(stage, step, of)`.
        cancelled: asked before every step.

    Returns:
        (B, n_codebooks, T) int64 on the device of `tokens`: kept tokens unchanged, no MASK.

    Raises:
        ValueError: tokens, mask, sizes or the model's mode are not as above, or its logits are not finite.
        CancelledError: `cancelled()` was True.
    """
    work, mask = prepared(model, tokens, mask)
    if work.shape[-1] > reach(model.config.context):
        raise ValueError(
            f"{work.shape[-1]} time steps are more than a model with a context of {model.config.context} is shown at once: use "
            "fill_windows."
        )
    if len(generators) != len(work):
        raise ValueError(f"{len(work)} items need as many generators, not {len(generators)}.")
    decoder = Decoder(model, steps, sampling, batch, Progress(stage, steps, on_step, cancelled))
    memory = decoder.recalled(work, mask, generators, ring)
    return decoder.fill(work, mask, generators, ring, decoder.shares_of(work), memory).to(tokens.device)
