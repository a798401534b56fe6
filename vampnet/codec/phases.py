"""Phases for magnitudes, as steady tones would have them: where a search for the sound begins.

From white phases Griffin-Lim finds a sound whose partials flutter: neighbouring frames disagree about their phases. Here each
peak of a spectrum is taken for a tone, whose phase goes on by its frequency from the frame before, and the bins about it follow
the peak ("phase locking"; Laroche and Dolson, 1999).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vampnet import passes


def track(magnitudes: Tensor, hop: int, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Phases to start from.

    Args:
        magnitudes: (B, J, F) float32, of frames of 2 (F - 1) samples under a symmetrical window.
        hop: samples from frame to frame.
        known: (B, j, F) complex, the spectra of the first j < J frames, if they are known: their phases are taken.

    Returns:
        (B, J, F) float32 on the same device each: real and imaginary parts of numbers of length 1, the same for the same
        arguments.
    """
    from . import phase_kernels

    batch, frames, bins = magnitudes.shape
    generator = torch.Generator().manual_seed(hop * 31 + bins)
    first = (torch.rand(bins, generator=generator, dtype=torch.float64) * (2 * math.pi)).numpy()
    out, given = torch.empty(2, batch, frames, bins), 0
    if known is not None:
        given = known.shape[1]
        out[:, :, :given] = torch.view_as_real(torch.sgn(known)).movedim(-1, 0)
    sizes = magnitudes.to("cpu", torch.float32).contiguous().numpy()
    real, imaginary = out.numpy()
    advance = math.pi * hop / (bins - 1)
    passes.at_once(phase_kernels.tracked, [(sizes[i], first, advance, given, real[i], imaginary[i]) for i in range(batch)])
    return out[0].to(magnitudes.device), out[1].to(magnitudes.device)
