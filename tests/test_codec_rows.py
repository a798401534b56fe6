"""Waveform codecs in bfloat16: what they compute on rows beside the layers in float32."""

from __future__ import annotations

import copy

import pytest
import torch
from test_codec_published import GOLDEN, SHAPES, read, tiny_dac
from torch import nn

from vampnet import graphs
from vampnet.bench.published import CODEC, codec_state
from vampnet.codec import codec_from_published, convolutional, images, rows

DECODED_DB, ENCODED_DB = 30, 34
"""Signal over the noise of bfloat16 at least; 34 to 40 are usual."""


@pytest.fixture(scope="module", params=["lac", "dac", "odd"])
def codec(request):
    """Random weights that do not amplify what goes in, unlike most of the golden ones; `odd` has odd rates."""
    torch.manual_seed(0)
    if request.param == "lac":
        kwargs = CODEC | {"encoder_dim": 8, "decoder_dim": 64}
        state = codec_state(kwargs)
        state = {name: tensor / 2 if name.endswith("weight_g") else tensor for name, tensor in state.items()}
        return codec_from_published(state, {"kwargs": kwargs})
    name = {"dac": "44khz", "odd": "own"}[request.param]
    kwargs = dict(encoder_dim=2, decoder_dim=16, codebook_size=32, codebook_dim=8) | SHAPES[name]
    return codec_from_published(tiny_dac(name).state_dict(), {"kwargs": kwargs})


def halved(codec):
    twin = copy.copy(codec)
    twin.precision = "bfloat16"
    return twin


def decibels(found, wanted):
    wanted = wanted - wanted.mean(-1, keepdim=True)
    noise = found - found.mean(-1, keepdim=True) - wanted
    return float(10 * torch.log10(wanted.square().mean() / noise.square().mean()))


@torch.no_grad()
@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize(("taps", "dilation", "steps"), [(1, 1, 5), (3, 1, 17), (7, 3, 50), (11, 5, 101), (3, 9, 4)])
def test_a_halved_convolution_is_the_convolution(taps, dilation, steps, levels):
    layer = nn.Conv1d(6, 6, taps, dilation=dilation, padding=(taps - 1) * dilation // 2)
    x = torch.randn(1, 6, steps)
    run = rows.convolution(layer.weight, layer.bias, dilation, torch.float32, levels)
    assert torch.allclose(run(x[0].T, layer.padding[0]), layer(x)[0].T, atol=1e-5)


@torch.no_grad()
def test_on_rows_the_layers_compute_the_same(codec, monkeypatch):
    """In float32, where only the order of sums differs, with short stretches and every convolution halved."""
    for name, value in {"STRETCH": 1, "STRETCH_ROWS": 900, "HALVED_FROM": 1}.items():
        monkeypatch.setattr(rows, name, value)
    latents, audio = torch.randn(1, codec.config.latent_dim, 5), 0.3 * torch.randn(1, 1, 5 * codec.hop)
    codec = copy.deepcopy(codec)
    codec.decoder.model[1].block[0].alpha.data[0, 0] = 0
    decoded, encoded = codec.decoder(latents), codec.encoder(audio)
    on_rows = rows.Decoder(codec.decoder.model, torch.float32)(latents)
    assert torch.allclose(on_rows, decoded, atol=1e-4 * float(decoded.std()))
    on_rows = rows.Encoder(codec.encoder.block, torch.float32)(audio)
    assert torch.allclose(on_rows, encoded, atol=1e-4 * float(encoded.std()))


@torch.no_grad()
@pytest.mark.parametrize("exact", [True, False])
def test_on_images_the_layers_compute_the_same(codec, exact, monkeypatch):
    """As a GPU does it: in float32 the same, in bfloat16 nearly."""
    if exact:
        monkeypatch.setattr(images, "HALF", torch.float32)
    torch.manual_seed(1)
    latents, audio = codec.quantizer(torch.randn(2, codec.config.latent_dim, 9))[0], 0.3 * torch.randn(2, 1, 9 * codec.hop)
    for module, x, least in ((codec.decoder, latents, DECODED_DB), (codec.encoder, audio, ENCODED_DB)):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        wanted, found = module(x), images.OnImages(module)(x)
        assert found.shape == wanted.shape and found.dtype == torch.float32
        assert (100 if exact else least) < decibels(found, wanted) < (200 if exact else 60)
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA")
@pytest.mark.parametrize("loop", [False, True])
def test_a_gpu_gives_the_same_at_once_and_recorded(codec, loop):
    twin = halved(copy.deepcopy(codec).to("cuda"))
    codes = torch.randint(0, codec.codebook_size, (2, codec.n_codebooks, 30))
    wanted = codec.decode(codes, loop)
    at_once, recorded, again = (twin.decode(codes.to("cuda"), loop) for _ in range(3))
    assert decibels(at_once.cpu(), wanted) > DECODED_DB and torch.equal(recorded, again)
    assert decibels(recorded.cpu(), wanted) > DECODED_DB
    assert not graphs.refused() and graphs.forget_recordings() and not graphs.forget_recordings()
    audio = 0.3 * torch.randn(1, 1, 25 * codec.hop)
    for _ in range(3):
        assert float((twin.encode(audio.to("cuda"), loop).cpu() == codec.encode(audio, loop))[:, 0].float().mean()) > 0.9


@torch.no_grad()
def test_the_noise_of_bfloat16_is_bounded(codec):
    torch.manual_seed(1)
    twin = halved(codec)
    audio = 0.3 * torch.randn(2, 1, 25 * codec.hop)
    codes = codec.encode(audio)
    wanted, found = codec.decode(codes), twin.decode(codes)
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert DECODED_DB < decibels(found, wanted) < 60
    assert decibels(twin._computed("encoder", audio), codec.encoder(audio)) > ENCODED_DB
    assert float((twin.encode(audio) == codes)[:, 0].float().mean()) > 0.93
    assert torch.equal(codec.decode(codes), wanted) and torch.equal(codec.encode(audio), codes)


@pytest.mark.parametrize("loop", [False, True])
def test_pieces_are_the_whole_in_bfloat16_too(codec, loop, monkeypatch):
    twin = halved(codec)
    codes = torch.randint(0, codec.codebook_size, (2, codec.n_codebooks, 30))
    whole = twin.decode(codes, loop)
    monkeypatch.setattr(convolutional, "PIECE_SAMPLES", 10 * codec.hop)
    pieces = twin.decode(codes, loop)
    assert pieces.shape == whole.shape
    assert decibels(pieces, whole) > DECODED_DB  # roundings fall otherwise, and the rest follows them


def test_the_golden_codes_hardly_change():
    codec = codec_from_published(*read(GOLDEN / "codec.pth"))
    audio = 0.3 * torch.randn(1, 1, 100 * 768, generator=torch.Generator().manual_seed(0))
    same = (halved(codec).encode(audio) == codec.encode(audio)).float().mean(dim=-1)[0]
    assert same[:4].min() > 0.85 and same[0] > 0.93, same


def test_weights_that_change_are_read_anew(codec):
    twin = halved(codec)
    codes = torch.zeros(1, codec.n_codebooks, 3, dtype=torch.long)
    before = twin.decode(codes)
    twin.double().float()  # what `to` does: the tensors are others
    assert not twin._on_rows
    assert torch.equal(twin.decode(codes), before)


def test_a_copy_takes_along_nothing_that_was_made_of_the_weights(codec):
    twin = halved(codec)
    twin.decode(torch.zeros(1, codec.n_codebooks, 3, dtype=torch.long))
    twin._on_images["decoder"] = images.OnImages(twin.decoder)
    twin.eval()  # what is done before a copy
    assert not twin._on_rows and not twin._on_images
