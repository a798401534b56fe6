"""Which device computes."""

from __future__ import annotations

import torch

from vampnet.sentences import Sentence


def best_device() -> str:
    """ "cuda" if there is such a device, else "mps", else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_device(device: str | torch.device | None) -> str | torch.device:
    """`device`, or the best there is for None; ValueError if it cannot be used here."""
    chosen = best_device() if device is None else device
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            Sentence("The device '{chosen}' cannot be used here: leave it out, or use cpu.", chosen=chosen)
        ) from error
    return chosen
