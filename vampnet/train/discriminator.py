"""What tells spectra of music from decoded ones, to train a decoder with (Goodfellow et al., 2014; Isola et al., 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class SpectrumDiscriminator(nn.Module):
    """Judges patches of the spectra of a codec, each beside what the codec's mean says of it and its place in frequency.

    The mean is what all that has the same tokens has in common, so a spectrum is judged by how it goes with its tokens, and
    not by whether some music might sound like it.

    Args:
        bins: of a spectrum.
        width: channels of the first convolution; the later ones have two and three times as many.
    """

    def __init__(self, bins: int, width: int = 32) -> None:
        super().__init__()
        shapes = [(3, width, (3, 9), (1, 4)), (width, 2 * width, (3, 5), (1, 2)), (2 * width, 3 * width, (3, 5), (2, 2)),
                  (3 * width, 3 * width, (3, 3), (1, 1)), (3 * width, 1, (3, 3), (1, 1))]  # fmt: skip
        layers = [nn.Conv2d(a, b, size, by, tuple(n // 2 for n in size)) for a, b, size, by in shapes]
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers).to(memory_format=torch.channels_last)
        self.register_buffer("place", torch.linspace(-1, 1, bins), persistent=False)

    def forward(self, spectra: Tensor, mean: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judges spectra.

        Args:
            spectra, mean: (B, T, bins) float.

        Returns:
            (B, 1, ceil(T / 2), ceil(bins / 16)) float, 1 = music and 0 = decoded, and the outputs of the layers before.
        """
        place = self.place.expand_as(mean)
        x = torch.stack([spectra, mean, place], dim=1).contiguous(memory_format=torch.channels_last)
        heard = []
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.1)
            heard.append(x)
        return self.layers[-1](x), heard


def matching(made: list[Tensor], true: list[Tensor]) -> Tensor:
    """Mean difference of what a discriminator hears in two spectra, in units of what it hears in the true one (feature
    matching; Kumar et al., 2019)."""
    pairs = [(a, b.detach()) for a, b in zip(made, true, strict=True)]
    apart = [(a - b).abs().mean() / b.abs().mean().clamp_min(1e-4) for a, b in pairs]
    return torch.stack(apart).mean()
