"""How well a transformer predicts hidden tokens, beside what the tokens' mere frequencies would give."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vampnet import masks
from vampnet.config import MASK
from vampnet.model.transformer import TokenTransformer
from vampnet.train.loop import step_seed
from vampnet.train.shards import TokenData

SHARES = (0.25, 0.5, 0.75, 1.0)
PERIOD = 7


def validation_masks(tokens: Tensor, conditioning: int, seed: int = 0) -> dict[str, Tensor]:
    """The masks that a validation looks at, each (B, K, T) bool with the conditioning levels False.

    "25%" .. "100%" hide that share of the predicted levels at random; "p7" is the periodic prompt with P = 7.
    """
    batch, levels, steps = tokens.shape
    draw = torch.rand(batch, levels, steps, generator=torch.Generator().manual_seed(step_seed(seed, 0)))
    found = {f"{round(100 * share)}%": draw < share for share in SHARES}
    found[f"p{PERIOD}"] = masks.periodic((batch, levels, steps), PERIOD)
    for mask in found.values():
        mask[:, :conditioning] = False
    return found


def unigram(counts: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The baseline that knows only how often each code occurs in its level.

    Args:
        counts: (K, size) int64 of the training data.
        tokens: (B, K, T) int64, held out.

    Returns:
        accuracy of the most frequent code and cross-entropy in nats (one added to each count), both (K,) float.
    """
    log_p = torch.log((counts + 1).double() / (counts + 1).sum(dim=1, keepdim=True))
    by_level = tokens.transpose(0, 1).flatten(1)
    accuracy = (by_level == counts.argmax(dim=1, keepdim=True)).double().mean(dim=1)
    return accuracy, -log_p.gather(1, by_level).mean(dim=1)


@torch.no_grad()
def validate(
    model: TokenTransformer, data: TokenData, counts: Tensor, crop: int, crops: int = 16, seed: int = 0, batch: int = 4
) -> dict[str, Any]:
    """Masked accuracy and cross-entropy on held-out crops, which are always the same ones for the same arguments.

    Args:
        model: is put in eval mode, and back.
        data: held out.
        counts: (all levels, size) int64, code counts of the training data.
        crop: time steps of a crop.
        crops: how many.
        seed: of the crops and masks.
        batch: crops at a time.

    Returns:
        {"accuracy", "cross_entropy"}: means over all masks and predicted levels; {"unigram_accuracy", "unigram_cross_entropy"};
        "by_mask": {"25%": {"accuracy": [by level], "cross_entropy": [by level]}, ..., "p7": ...}; "unigram": the same by level.
        Cross-entropies in nats, without label smoothing.
    """
    config, device, was_training = model.config, next(model.parameters()).device, model.training
    first = config.n_conditioning
    tokens = data.crops(crops, crop, torch.Generator().manual_seed(step_seed(seed, 1)))[:, : config.n_codebooks]
    model.eval()
    by_mask = {}
    for name, mask in validation_masks(tokens, first, seed).items():
        totals = torch.zeros(3, config.n_predicted, dtype=torch.float64)
        for begin in range(0, crops, batch):
            part, hidden = tokens[begin : begin + batch], mask[begin : begin + batch]
            where = hidden[:, first:]
            logits = model(part.masked_fill(hidden, MASK).to(device), where.to(device)).float()
            truth = part[:, first:][where].to(device)
            level = torch.arange(config.n_predicted)[None, :, None].expand(where.shape)[where]
            losses = F.cross_entropy(logits, truth, reduction="none")
            for row, values in enumerate((torch.ones_like(losses), logits.argmax(-1) == truth, losses)):
                totals[row].index_add_(0, level, values.double().cpu())
        totals[1:] /= totals[0].clamp(min=1)
        by_mask[name] = {"accuracy": totals[1].tolist(), "cross_entropy": totals[2].tolist()}
    model.train(was_training)
    accuracy, entropy = unigram(counts[: config.n_codebooks], tokens)
    mean = {
        key: sum(sum(m[key]) for m in by_mask.values()) / len(by_mask) / config.n_predicted
        for key in ("accuracy", "cross_entropy")
    }
    return {
        **mean,
        "unigram_accuracy": float(accuracy[first:].mean()),
        "unigram_cross_entropy": float(entropy[first:].mean()),
        "by_mask": by_mask,
        "unigram": {"accuracy": accuracy[first:].tolist(), "cross_entropy": entropy[first:].tolist()},
    }
