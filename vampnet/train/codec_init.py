"""A codec that works before its first step: principal components and k-means in closed form.

Gradient descent from random weights spends its first half hour on finding what linear algebra gives at once: the projections
start as the principal components of the features, every quantizer as those of what the levels before it left over, its
codebook as the spherical k-means of its inputs.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec import load_codec
from ..codec.spectral import SpectralCodec


def principal_axes(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the `count` strongest principal axes (D, count) of (N, D) float."""
    mean = x.mean(0)
    centred = x - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    return mean, vectors.flip(1)[:, :count]


def spherical_kmeans(x: Tensor, count: int, generator: torch.Generator, rounds: int = 12) -> tuple[Tensor, Tensor]:
    """Codes (count, D) of (N, D) vectors told apart by their direction, as `dac`'s quantizer does, and (N,) assignments.

    A code is the mean of its members (not normalised): the direction says which, the length is what is decoded.
    """
    codes = x[torch.randperm(len(x), generator=generator)[:count]].clone()
    directions = F.normalize(x)
    for _ in range(rounds):
        nearest = (directions @ F.normalize(codes).T).argmax(1)
        counts = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(codes).index_add_(0, nearest, x)
        codes = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], codes)
        empty = (counts == 0).nonzero()[:, 0]
        codes[empty] = x[torch.randint(len(x), (len(empty),), generator=generator)]
    return codes, (directions @ F.normalize(codes).T).argmax(1)


def set_weight(conv: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Sets a weight-normed 1x1 convolution to weight (out, in) and bias (out,).

    A row of zeros keeps a tiny direction, since weight norm divides by its length.
    """
    tiny = 1e-4 * torch.eye(*weight.shape, dtype=weight.dtype)
    direction = torch.where(weight.norm(dim=1, keepdim=True) > 0, weight, tiny + 1e-6)
    conv.weight_v.data.copy_(direction[..., None])
    conv.weight_g.data.copy_(weight.norm(dim=1).clamp_min(1e-4)[:, None, None])
    conv.bias.data.copy_(bias)


@torch.no_grad()
def initialise(codec: SpectralCodec, audio: Tensor, seed: int = 0) -> None:
    """Sets the statistics, projections and quantizers of a codec from data.

    Args:
        codec: changed in place.
        audio: (B, T * hop) float crops at -24 LUFS, some 20,000 time steps or more.
        seed: of the k-means.

    Raises:
        ValueError: fewer time steps than four a code.
    """
    c = codec.config
    if audio.shape[0] * audio.shape[1] // c.hop < 4 * c.codebook_size:
        raise ValueError(f"The codec's start needs at least {4 * c.codebook_size} time steps of audio: give it more.")
    codec.mean.zero_()
    codec.spread.fill_(1.0)
    if codec.short is not None:
        codec.short_mean.zero_()
    logs = torch.cat([codec.features(a) for a in audio.split(16)])
    frames = logs[..., : c.frames * c.features].reshape(-1, c.features)
    codec.mean.copy_(frames.mean(0))
    codec.spread.copy_((frames - codec.mean).std())
    if codec.short is not None:
        codec.short_mean.copy_(codec.short_levels(logs / codec.spread).mean((0, 1)))
    features = torch.cat([codec.features(a).flatten(0, 1) for a in audio.split(16)])

    mean, axes = principal_axes(features, c.dim)
    codec.project_in.weight.copy_(axes.T)
    codec.project_in.bias.copy_(-(axes.T @ mean))
    codec.project_out.weight.copy_(axes)
    codec.project_out.bias.copy_(mean)
    initialise_quantizer(
        codec, torch.cat([codec.encode_latents(codec.features(a)).mT.flatten(0, 1) for a in audio.split(16)]), seed
    )


DECODING = ("encoder_layers", "decoder_layers", "rounds", "wide_rounds", "momentum", "track", "sharpen", "movement",
            "flutter", "short_slack")  # fmt: skip
"""Fields of a codec's shape in which the one that it begins with may differ."""


@torch.no_grad()
def begin_with(codec: SpectralCodec, folder: str | Path) -> None:
    """Gives a codec the weights of another one. Blocks that it has beyond that one's let everything pass as it is.

    Args:
        codec: changed in place.
        folder: as of `load_codec`.

    Raises:
        FileNotFoundError, ValueError: as `load_codec`, or the codec there is of another shape or has more blocks.
    """
    other = load_codec(folder)
    if not isinstance(other, SpectralCodec):
        raise ValueError(f"{folder} holds a codec of another kind: it cannot be trained further here.")
    mine, theirs = codec.config.to_dict(), other.config.to_dict()
    unlike = [name for name in mine if name not in DECODING and mine[name] != theirs[name]]
    fewer = [name for name in ("encoder_layers", "decoder_layers") if mine[name] < theirs[name]]
    if unlike or fewer:
        name = (unlike or fewer)[0]
        raise ValueError(f"The codec in {folder} has {name} {theirs[name]}, this one {mine[name]}: begin with another.")
    codec.load_state_dict(other.state_dict(), strict=False)
    for blocks, known in ((codec.encoder, other.encoder), (codec.decoder, other.decoder)):
        for block in blocks[len(known) :]:
            block.scale.zero_()


@torch.no_grad()
def initialise_quantizer(codec: SpectralCodec, latents: Tensor, seed: int = 0) -> None:
    """Sets the quantizers of a codec for (N, dim) latents.

    `dac`'s lookup compares directions alone, so one of the codebook's dimensions is a constant: a vector's length then shows
    in its direction too.
    """
    generator = torch.Generator().manual_seed(seed)
    residual = latents.clone()
    for q in codec.quantizer.quantizers:
        kept = q.codebook_dim - 1
        mean, axes = principal_axes(residual, kept)
        inner = (residual - mean) @ axes
        lift = 1.5 * inner.norm(dim=1).mean()
        inner = torch.cat([inner, lift.expand(len(inner), 1)], dim=1)
        codes, nearest = spherical_kmeans(inner, q.codebook_size, generator)
        set_weight(q.in_proj, F.pad(axes.T, (0, 0, 0, 1)), torch.cat([-(axes.T @ mean), lift[None]]))
        set_weight(q.out_proj, F.pad(axes, (0, 1)), mean)
        q.codebook.weight.copy_(codes)
        residual = residual - (codes[nearest][:, :kept] @ axes.T + mean)
