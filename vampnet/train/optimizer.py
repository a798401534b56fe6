"""The optimiser of the transformers: AdamW (the paper), or Muon for the matrices of the layers with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vampnet.train.loop import parameter_groups

NAMES = ("adamw", "muon")


class Muon(torch.optim.Muon):
    """torch's Muon, with the matrices of one shape orthogonalised together: a GPU has hardly more to do than for one of them.

    Args:
        matrices: float parameters of two dimensions.
        rate, weight_decay: as in `Optimizer`.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], rate: float, weight_decay: float) -> None:
        super().__init__(matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Moves the weights once, all of which must have gradients. No closure is called."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                for parameter in parameters:
                    if "momentum_buffer" not in self.state[parameter]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter.grad)
                momenta, gradients = zip(*((self.state[p]["momentum_buffer"], p.grad) for p in parameters), strict=True)
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                moves = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
                moved = orthogonal(torch.stack(moves), group["ns_coefficients"], group["ns_steps"], group["eps"])
                # As large as a step of AdamW (Liu et al. 2025, section 2.2).
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(moved.to(parameters[0].dtype).unbind()), alpha=-size)


def orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Nearly orthogonal matrices next to given ones, by a polynomial of their singular values (Jordan et al. 2024).

    Args:
        x: (n, rows, columns) float.
        coefficients: of x, x^3 and x^5.
        steps: how often it is applied.
        eps: least norm that is divided by.

    Returns:
        (n, rows, columns) bfloat16.
    """
    a, b, c = coefficients
    x, tall = x.bfloat16(), x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
            self.parts.append(Muon(matrices, rate, weight_decay))

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
