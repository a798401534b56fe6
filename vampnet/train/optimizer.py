"""The optimiser of the transformers: AdamW (the paper), or Muon for the matrices of the layers with AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from vampnet.train.loop import parameter_groups

NAMES = ("adamw", "muon")


class Optimizer:
    """One or two of torch's optimisers as one.

    Args:
        name: "adamw", or "muon": the matrices inside the layers are moved by the orthogonal part of their momentum, scaled to
            the size of AdamW's steps, so that one learning rate serves both.
        model: a `TokenTransformer`; what it has under `layers` are its layers.
        rate, weight_decay: of both.

    Raises:
        ValueError: an unknown name.
    """

    def __init__(self, name: str, model: nn.Module, rate: float, weight_decay: float) -> None:
        if name not in NAMES:
            raise ValueError(f"There is no optimizer {name!r}: choose one of {', '.join(NAMES)}.")
        matrices = [p for n, p in model.named_parameters() if n.startswith("layers.") and p.ndim == 2] if name == "muon" else []
        groups = parameter_groups(model, weight_decay)
        for group in groups:
            group["params"] = [p for p in group["params"] if all(p is not matrix for matrix in matrices)]
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-9, fused=True)]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self.parts.append(muon)

    def step(self, rate: float) -> None:
        """Moves the weights with this learning rate, and forgets the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError if the state is of another kind of optimiser."""
        parts = state.get("parts", [state])  # runs of earlier versions have the state of AdamW itself
        if len(parts) != len(self.parts):
            raise ValueError("The run was begun with another optimizer: choose that one, or another run folder.")
        for part, own in zip(self.parts, parts, strict=True):
            part.load_state_dict(own)
