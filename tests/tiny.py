"""A whole checkpoint with tiny random weights, for tests: it makes noise, but it goes through every step as a real one does."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from vampnet.codec import SpectralCodec, SpectralCodecConfig, save_codec
from vampnet.config import TransformerConfig
from vampnet.model import distilled
from vampnet.model.files import save_transformer
from vampnet.model.transformer import TokenTransformer
from vampnet.pipeline import VampNet

COARSE_CONTEXT = 64
FINE_CONTEXT = 48


@lru_cache(maxsize=1)
def tiny_models() -> tuple[SpectralCodec, TokenTransformer, TokenTransformer]:
    """Codec, coarse and fine model on the CPU, in eval mode, the same in every run. They are shared: don't change them."""
    with torch.random.fork_rng():
        torch.manual_seed(2023)
        codec = SpectralCodec(SpectralCodecConfig(dim=16, encoder_layers=1, decoder_layers=1, rounds=4))
        vectors = codec.codebook_vectors()
        small = {"dim": 32, "layers": 1, "heads": 2}
        coarse = TokenTransformer(TransformerConfig(4, 0, context=COARSE_CONTEXT, **small), vectors)
        fine = TokenTransformer(TransformerConfig(14, 4, context=FINE_CONTEXT, **small), vectors)
    return tuple(model.eval().requires_grad_(False) for model in (codec, coarse, fine))


def tiny_vampnet(name: str = "tiny") -> VampNet:
    """A `VampNet` of `tiny_models`."""
    return VampNet(*tiny_models(), name=name)


def tiny_checkpoint(folder: str | Path) -> Path:
    """Writes `tiny_models` as a checkpoint into `folder` (made if missing, 2 MB) and returns its path."""
    codec, coarse, fine = tiny_models()
    save_codec(codec, folder)
    save_transformer(coarse, folder, "coarse")
    save_transformer(fine, folder, "fine")
    return Path(folder)


def transformer(layers: int = 6, **shape: int) -> TokenTransformer:
    """A coarse transformer of some layers, untrained, that has nothing of the other tiny models but their codec."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = TransformerConfig(
            **{"n_codebooks": 4, "n_conditioning": 0, "dim": 32, "heads": 2, "context": 40, **shape}, layers=layers
        )
        return TokenTransformer(config, tiny_models()[0].codebook_vectors()).eval().requires_grad_(False)


def added_to(model: TokenTransformer, guidance: float = 0.5, rank: int = 3) -> dict[str, torch.Tensor]:
    """Tensors of a distilled model that differs from `model` by chance alone, in numbers that float16 holds exactly."""
    generator = torch.Generator().manual_seed(2)
    shapes = distilled.expected(model.state_dict(), rank)
    made = {name: torch.randn(shape, generator=generator).mul(0.05).half().float() for name, shape in shapes.items()}
    return {**made, distilled.GUIDANCE: torch.tensor(guidance)}


def distilled_transformer(layers: int = 3, **shape: int) -> TokenTransformer:
    """A `transformer` that has a distilled one, for guidance 0.5."""
    model = transformer(layers, **shape)
    return distilled.with_distilled(model, added_to(model))
