"""How far what is masked lies from what stays, and what of the sampling is good for that (docs/log.md; the paper has neither).

Where gaps are short, guidance brings takes nearer to music; in longer ones it leads away. Typical draws keep beats and attacks
in gaps of up to a second; in longer ones nobody hears which, and they leave out too much.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from vampnet.config import Sampling
from vampnet.windows import Window, plan_for_mask

SHORT = 5
"""Time steps: gaps are short if what is masked has something that stays within so many, as with P up to 12 (11 with the default
jitter)."""
LONG = 30
"""Time steps, half a second: gaps are long if what is masked has nothing that stays within so many."""
ENOUGH = 0.9
"""Share of the masked time steps that must lie so near. What stays at either end of a long gap does not make it a short one."""


def near(mask: Tensor, steps: int, ring: bool = False) -> float:
    """Share of the time steps with something masked that have something that stays within so many steps.

    Args:
        mask: (K, T) bool, True = regenerate.
        steps: at least 0.
        ring: the last time step is followed by the first.

    Returns:
        0..1; 1 if nothing is masked.
    """
    stays, masked = (~mask).any(dim=0), mask.any(dim=0)
    reach = min(steps, mask.shape[1])
    wide = F.pad(stays.float()[None], (reach, reach), mode="circular" if ring else "constant")
    around = F.max_pool1d(wide, 2 * reach + 1, stride=1)[0] > 0
    return 1.0 if not masked.any() else int((masked & around).sum()) / int(masked.sum())


def fitting(sampling: Sampling, mask: Tensor, ring: bool = False) -> Sampling:
    """The sampling for one window of one item: what is not good for its gaps is left out.

    Args:
        sampling: as asked for.
        mask: (K, T) bool, True = regenerate: the levels that the model predicts, in the window.
        ring: the window is a whole ring.
    """
    if sampling.guidance and near(mask, SHORT, ring) < ENOUGH:
        sampling = replace(sampling, guidance=0.0)
    if sampling.typical_mass < 1 and near(mask, LONG, ring) < ENOUGH:
        sampling = replace(sampling, typical_mass=1.0)
    return sampling


def alike(mask: Tensor, context: int, loop: bool, sampling: Sampling) -> dict[tuple[tuple[Window, Sampling], ...], list[int]]:
    """The items of masks (B, K, T) that have the same windows, and how each of these is filled.

    Items whose masks span different stretches get different windows, whatever else is in the batch.

    Args:
        mask: bool, True = regenerate: the levels that the model predicts.
        context: time steps that the model can see.
        loop: the clips are rings.
        sampling: as asked for.

    Returns:
        The numbers of the items for each row of windows, in order, with the sampling that fits them.
    """
    groups: dict[tuple[tuple[Window, Sampling], ...], list[int]] = {}
    for item, own in enumerate(mask.cpu()):
        plan = plan_for_mask(own, context, loop)
        ways = (fitting(sampling, own[:, window.places(own.shape[-1])], window.ring) for window in plan)
        groups.setdefault(tuple(zip(plan, ways, strict=True)), []).append(item)
    return groups
