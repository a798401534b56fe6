"""A codec's blocks by tiles beside the plain ones; all of it wants a CPU that has tiles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vampnet import tile_passes
from vampnet.codec import SpectralCodec, SpectralCodecConfig
from vampnet.codec.tiled import TiledBlocks, can_be_tiled
from vampnet.model.fast import codec_in_precision

pytestmark = pytest.mark.skipif(not tile_passes.has_tiles(), reason="this CPU has no instructions for tiles")

SHAPE = SpectralCodecConfig(dim=128, encoder_layers=1, decoder_layers=3, kernel=5, expansion=2, rounds=2)
NEAR = 0.03
"""Of what blocks add, relative: what whole numbers of 8 bits can hold."""


@pytest.fixture(scope="module")
def codec() -> SpectralCodec:
    """A codec in whose blocks every part matters."""
    torch.manual_seed(0)
    made = SpectralCodec(SHAPE).eval()
    with torch.no_grad():
        for parameter in made.decoder.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made


def plain(codec: SpectralCodec, x: Tensor, loop: bool) -> Tensor:
    for block in codec.decoder:
        x = block(x, loop)
    return x


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(("items", "steps"), [(1, 1), (1, 3), (2, 7), (3, 48), (2, 131), (1, 700)])
@torch.no_grad()
def test_blocks_are_the_plain_ones(codec: SpectralCodec, items: int, steps: int, loop: bool, threads: None) -> None:
    x, tiles = torch.randn(items, steps, 128), TiledBlocks(codec.decoder)
    before, wanted = x.clone(), plain(codec, x, loop)
    made = tiles(x, loop)
    assert torch.equal(x, before) and made.dtype == torch.float32 and made.shape == x.shape
    assert (made - wanted).norm() < NEAR * (wanted - x).norm()
    # What becomes of an item depends on no other one, nor on how it lies in memory.
    assert torch.equal(made, torch.cat([tiles(item.mT.contiguous().mT, loop) for item in x.split(1)]))


@torch.no_grad()
def test_each_part_of_a_block_counts(codec: SpectralCodec) -> None:
    x, tiles = torch.randn(1, 20, 128), TiledBlocks(codec.decoder)
    for name, _ in codec.decoder[1].named_parameters():
        other = SpectralCodec(SHAPE).eval()
        other.load_state_dict(codec.state_dict())
        changed = other.decoder[1].get_parameter(name)
        changed.add_(0.5 * torch.randn(changed.shape))
        made, wanted = TiledBlocks(other.decoder)(x), plain(other, x, False)
        assert (made - wanted).norm() < NEAR * (wanted - x).norm() < (wanted - tiles(x)).norm(), name


@pytest.mark.parametrize("loop", [False, True])
def test_a_codec_beside_int8_decodes_by_tiles(codec: SpectralCodec, loop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(0, 1024, (2, 14, 40))
    twin, half = codec_in_precision(codec, "int8", "cpu"), codec_in_precision(codec, "bfloat16", "cpu")
    assert twin.tiles is not None and codec.tiles is None and half.tiles is None
    calls: list[bool] = []
    call = TiledBlocks.__call__
    monkeypatch.setattr(TiledBlocks, "__call__", lambda self, x, loop: calls.append(loop) or call(self, x, loop))
    sound = twin.decode(codes, loop)
    assert calls == [loop] and sound.shape == (2, 1, 40 * 768)
    # Its tokens are those of the codec that it was made of.
    audio = torch.randn(1, 1, 40 * 768) * 0.05
    assert torch.equal(twin.encode(audio, loop), codec.encode(audio, loop))
    assert codec.decode(codes, loop).shape == sound.shape and len(calls) == 1


def test_what_is_tiled(codec: SpectralCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = SpectralCodec(SpectralCodecConfig(dim=96, encoder_layers=1, decoder_layers=1, kernel=3, rounds=2))
    none = SpectralCodec(SpectralCodecConfig(dim=64, encoder_layers=1, decoder_layers=0, kernel=3, rounds=2))
    assert can_be_tiled(codec.decoder) and not can_be_tiled(odd.decoder) and not can_be_tiled(none.decoder)
    assert codec_in_precision(odd, "int8", "cpu").tiles is None
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert codec_in_precision(codec, "int8", "cpu").tiles is None
