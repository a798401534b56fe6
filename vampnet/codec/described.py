"""What every codec tells about itself, read from its `config`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..balance import Balance
from ..config import TokenGrid


class DescribedCodec(nn.Module):
    """A module whose `config` has `sample_rate` (Hz), `hop` (samples a time step), `n_codebooks` and `codebook_size`."""

    config: Any
    precision: str = "float32"
    """Of the arithmetic: "float32", or "bfloat16" in the parts that stand it."""

    def arithmetic(self, device: torch.device) -> AbstractContextManager:
        """The context in which products on a device are made in `precision`."""
        # Not `enabled=False`: even then autocast refuses devices that it does not know.
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    @property
    def sample_rate(self) -> int:
        return self.config.sample_rate

    @property
    def hop(self) -> int:
        return self.config.hop

    @property
    def n_codebooks(self) -> int:
        return self.config.n_codebooks

    @property
    def codebook_size(self) -> int:
        return self.config.codebook_size

    @property
    def grid(self) -> TokenGrid:
        """Seconds, samples and time steps of this codec."""
        return TokenGrid(self.sample_rate, self.hop)

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def tonal_balance(self, codes: Tensor, loop: bool = False) -> Balance | None:
        """The tonal balance of tokens, if the codec codes levels of bands: one of waveforms does not."""
        return None
