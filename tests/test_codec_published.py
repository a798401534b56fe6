"""The codecs of published files: LAC (golden vectors of the original) and `dac.DAC` (beside the package itself)."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import dac
import pytest
import torch
from safetensors.torch import load_file, save_file

from vampnet.codec import LAC, Codec, DacCodec, codec_from_published, convolutional, load_codec
from vampnet.codec.published import fold_weight_norm
from vampnet.config import TokenGrid

GOLDEN = Path(__file__).parent / "golden"
Published = tuple[dict[str, torch.Tensor], dict]

SHAPES = {
    "44khz": dict(encoder_rates=[2, 4, 8, 8], decoder_rates=[8, 8, 4, 2], n_codebooks=9, sample_rate=44_100),
    "24khz": dict(encoder_rates=[2, 4, 5, 8], decoder_rates=[8, 5, 4, 2], n_codebooks=32, sample_rate=24_000),
    "16khz": dict(encoder_rates=[2, 4, 5, 8], decoder_rates=[8, 5, 4, 2], n_codebooks=12, sample_rate=16_000),
    "own": dict(encoder_rates=[3, 5], decoder_rates=[5, 3], n_codebooks=2, sample_rate=8_000, latent_dim=24, codebook_dim=4),
}


def read(path: Path) -> Published:
    file = torch.load(path, map_location="cpu", weights_only=True)
    return file["state_dict"], file["metadata"]


@pytest.fixture(scope="module")
def published() -> Published:
    return read(GOLDEN / "codec.pth")


@pytest.fixture(scope="module")
def lac(published: Published) -> LAC:
    return codec_from_published(*published)


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "expected.safetensors")


def tiny_dac(shape: str) -> dac.DAC:
    """A `dac.DAC` with weights large enough that its audio is far from silence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = dac.DAC(**{"encoder_dim": 2, "decoder_dim": 16, "codebook_size": 32, **SHAPES[shape]}).eval()
    for parameter in model.parameters():
        parameter.data.uniform_(0.2, 1.0) if parameter.ndim == 3 and parameter.shape[1:] == (1, 1) else None
    return model


@pytest.fixture(scope="module")
def odd() -> DacCodec:
    """A `dac.DAC` with odd rates, whose decoder leaves the end short."""
    torch.manual_seed(0)
    model = tiny_dac("own")
    return codec_from_published(
        model.state_dict(), {"kwargs": SHAPES["own"] | dict(encoder_dim=2, decoder_dim=16, codebook_size=32)}
    )


def same_tokens(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for near ties, which rounding may turn elsewhere on another CPU."""
    return a.shape == b.shape and float((a != b).float().mean()) < 0.01


# ---------------------------------------------------------------------------------------------------------- golden vectors


def test_lac_gives_the_very_codes_of_the_original(lac, expected):
    assert torch.equal(lac.encode(expected["audio_in"]), expected["codes"])


def test_lac_gives_the_audio_of_the_original(lac, expected):
    audio = lac.decode(expected["codes"])
    assert audio.shape == expected["audio_out"].shape == (1, 1, 29 * 768)
    assert (audio - expected["audio_out"]).abs().max() < 1e-4
    assert expected["audio_out"].abs().max() > 0.1


def test_lac_says_what_it_is(lac, published):
    assert isinstance(lac, LAC) and isinstance(lac, Codec)
    assert (lac.sample_rate, lac.hop, lac.n_codebooks, lac.codebook_size) == (44_100, 768, 14, 1024)
    assert lac.grid == TokenGrid(44_100, 768)
    vectors = lac.codebook_vectors()
    assert vectors.shape == (14, 1024, 8)
    assert torch.equal(vectors[3], published[0]["quantizer.quantizers.3.codebook.weight"])
    assert not lac.training and not any(p.requires_grad for p in lac.parameters())


def test_fewer_levels_decode_too(lac, expected):
    assert lac.decode(expected["codes"][:, :4]).shape == (1, 1, 29 * 768)


# ---------------------------------------------------------------------------------------------------------- receptive field


def test_the_published_shape_needs_eight_and_eighteen_steps_of_context():
    kwargs = dict(
        encoder_dim=64, encoder_rates=[2, 6, 8, 8], decoder_dim=1536, decoder_rates=[6, 4, 4, 2, 2, 2], n_codebooks=14
    )
    kwargs |= dict(codebook_size=1024, codebook_dim=8, sample_rate=44_100)
    with torch.device("meta"):
        codec = LAC(convolutional.ConvolutionalShape.from_kwargs(kwargs))
    assert (codec.encoder_context, codec.decoder_context) == (8, 18)
    assert codec.config.latent_dim == 1024


@pytest.mark.parametrize("name", ["lac", "odd"])
def test_context_is_the_receptive_field(name, request):
    """What a disturbance reaches, measured: the next step beyond the context is untouched, the last one within is not."""
    codec = request.getfixturevalue(name)
    torch.manual_seed(1)
    steps, at = 2 * codec.decoder_context + 5, codec.decoder_context + 2
    latents = torch.randn(1, codec.config.latent_dim, steps)
    other = latents.clone()
    other[..., at] += 10
    moved = (codec.decoder(latents) != codec.decoder(other))[0, 0].nonzero() // codec.hop - at
    assert max(-int(moved.min()), int(moved.max())) == codec.decoder_context

    steps, at = 2 * codec.encoder_context + 5, codec.encoder_context + 2
    audio = torch.randn(1, 1, steps * codec.hop)
    other = audio.clone()
    other[..., at * codec.hop : (at + 1) * codec.hop] += 10
    moved = (codec.encoder(audio) != codec.encoder(other)).any(1)[0].nonzero() - at
    assert max(-int(moved.min()), int(moved.max())) == codec.encoder_context


# --------------------------------------------------------------------------------------------------- pieces, rings, batches


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("name", ["lac", "odd"])
def test_pieces_are_the_whole(name, loop, request, monkeypatch):
    codec = request.getfixturevalue(name)
    torch.manual_seed(2)
    audio = 0.3 * torch.randn(2, 1, 50 * codec.hop)
    codes = codec.encode(audio, loop)
    whole = codec.decode(codes, loop)
    monkeypatch.setattr(convolutional, "PIECE_SAMPLES", 13 * codec.hop)
    assert same_tokens(codec.encode(audio, loop), codes)
    pieces = codec.decode(codes, loop)
    assert pieces.shape == whole.shape == (2, 1, 50 * codec.hop)
    assert torch.allclose(pieces, whole, atol=1e-5)


@pytest.mark.parametrize("steps", [3, 40])
@pytest.mark.parametrize("name", ["lac", "odd"])
def test_a_ring_has_no_beginning(name, steps, request):
    codec = request.getfixturevalue(name)
    torch.manual_seed(3)
    audio = 0.3 * torch.randn(1, 1, steps * codec.hop)
    codes = codec.encode(audio, loop=True)
    assert same_tokens(codec.encode(audio.roll(2 * codec.hop, -1), loop=True), codes.roll(2, -1))
    decoded = codec.decode(codes, loop=True)
    assert torch.allclose(codec.decode(codes.roll(2, -1), loop=True), decoded.roll(2 * codec.hop, -1), atol=1e-5)
    assert not torch.allclose(codec.decode(codes), decoded, atol=1e-5)


def test_a_clip_does_not_depend_on_its_batch(lac, monkeypatch):
    audio = 0.3 * torch.randn(5, 1, 4 * 768)
    alone = torch.cat([lac.encode(clip) for clip in audio.split(1)])
    assert same_tokens(lac.encode(audio), alone)
    monkeypatch.setattr(convolutional, "PIECE_SAMPLES", 8 * 768)
    assert same_tokens(lac.encode(audio), alone)


def test_no_pass_is_longer_than_a_piece_with_its_context(lac, monkeypatch):
    monkeypatch.setattr(convolutional, "PIECE_SAMPLES", 30 * 768)
    seen = []
    with monkeypatch.context() as patch:
        run = lac.decoder.forward
        patch.setattr(lac.decoder, "forward", lambda x: seen.append(tuple(x.shape)) or run(x))
        lac.decode(torch.zeros(3, 14, 45, dtype=torch.long))
    assert max(shape[0] * shape[2] for shape in seen) <= 30 + 2 * lac.decoder_context
    assert len(seen) == 3 * 2


# ---------------------------------------------------------------------------------------------------------------- dac.DAC


@pytest.mark.parametrize("shape", SHAPES)
def test_a_saved_dac_computes_what_the_package_computes(shape, tmp_path):
    model = tiny_dac(shape)
    model.save(str(tmp_path / "weights.pth"), package=False)
    codec = codec_from_published(*read(tmp_path / "weights.pth"))
    assert isinstance(codec, DacCodec) and isinstance(codec, Codec)
    assert (codec.hop, codec.sample_rate) == (model.hop_length, model.sample_rate)
    assert (codec.n_codebooks, codec.codebook_size) == (model.n_codebooks, 32)
    assert codec.codebook_vectors().shape == (model.n_codebooks, 32, model.codebook_dim)

    audio = 0.3 * torch.randn(2, 1, 11 * codec.hop - 5)
    with torch.no_grad():
        codes = model.encode(model.preprocess(audio, None))[1]
        decoded = model.decode(model.quantizer.from_codes(codes)[0])
    assert codes.float().std() > 1 and decoded.std() > 0
    assert same_tokens(codec.encode(audio), codes)
    ours = codec.decode(codes)
    assert ours.shape == (2, 1, 11 * codec.hop)
    given = decoded.shape[-1]
    assert torch.allclose(ours[..., :given], decoded, atol=1e-5 * float(decoded.abs().max()))
    assert (ours[..., given:] == ours[..., given - 1 : given]).all()
    assert (ours.shape[-1] - given > 0) == any(rate % 2 for rate in SHAPES[shape]["decoder_rates"])


def test_codebooks_of_different_widths_are_refused_for_transformers():
    shape = dict(encoder_dim=2, decoder_dim=16, codebook_size=32, **SHAPES["own"]) | {"codebook_dim": [4, 6]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        codec = codec_from_published(dac.DAC(**shape).state_dict(), {"kwargs": shape})
    assert codec.decode(codec.encode(torch.randn(1, 1, 30))).shape == (1, 1, 30)
    with pytest.raises(ValueError, match=r"different widths \[4, 6\]"):
        codec.codebook_vectors()


@pytest.mark.parametrize("transposed", [False, True])
def test_folded_weight_norm_is_the_unfolded(transposed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        kind = torch.nn.ConvTranspose1d if transposed else torch.nn.Conv1d
        unfolded = torch.nn.Sequential(torch.nn.utils.weight_norm(kind(6, 4, 3)))
    unfolded[0].weight_g.data.uniform_(0.1, 3)
    folded = torch.nn.Sequential(kind(6, 4, 3))
    folded.load_state_dict(fold_weight_norm(unfolded.state_dict()))
    x = torch.randn(2, 6, 10)
    assert torch.allclose(folded(x), unfolded(x), atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- strict loading


def test_a_missing_tensor_is_named(published):
    state = {k: v for k, v in published[0].items() if k != "decoder.model.0.weight_g"}
    with pytest.raises(ValueError, match=r"missing: decoder\.model\.0\.weight_g"):
        codec_from_published(state, published[1])


def test_a_left_over_tensor_is_named(published):
    with pytest.raises(ValueError, match=r"left over: discriminator\.bias"):
        codec_from_published(published[0] | {"discriminator.bias": torch.zeros(1)}, published[1])


def test_a_tensor_of_another_shape_is_named(published):
    with pytest.raises(ValueError, match=r"of another shape: encoder\.block\.0\.bias \(5,\) instead of \(4,\)"):
        codec_from_published(published[0] | {"encoder.block.0.bias": torch.zeros(5)}, published[1])


def test_many_faults_are_counted(published):
    metadata = {"kwargs": published[1]["kwargs"] | {"n_codebooks": 16}}
    with pytest.raises(ValueError, match=r"missing: quantizer\.quantizers\.14\..* and 6 more"):
        codec_from_published(published[0], metadata)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sample_rate": None}, "sample_rate = None"),
        ({"encoder_rates": "2688"}, "encoder_rates = '2688'"),
        ({"encoder_rates": [2, 0]}, "encoder_rates = 0"),
        ({"decoder_rates": [6, 4]}, "do not multiply to its hop of 768"),
        ({"decoder_dim": 65}, "cannot be halved"),
        ({"codebook_dim": [8, 8]}, "2 widths for 14 codebooks"),
    ],
)
def test_nonsense_in_the_metadata_is_refused(published, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        codec_from_published(published[0], {"kwargs": published[1]["kwargs"] | change})


def test_incomplete_metadata_is_refused(published):
    kwargs = {k: v for k, v in published[1]["kwargs"].items() if k != "sample_rate"}
    with pytest.raises(ValueError, match="lacks 'sample_rate'"):
        codec_from_published(published[0], {"kwargs": kwargs})
    with pytest.raises(ValueError, match="no 'kwargs'"):
        codec_from_published(published[0], {})


def test_tensors_of_something_else_are_refused():
    with pytest.raises(ValueError, match="no codec known here"):
        codec_from_published({"transformer.norm.weight": torch.ones(3)}, {"kwargs": {}})


def test_the_state_is_neither_changed_nor_held(published):
    state = {k: v.clone() for k, v in published[0].items()}
    codec = codec_from_published(state, published[1])
    assert all(torch.equal(v, published[0][k]) for k, v in state.items())
    held = {p.data_ptr() for p in codec.parameters()}
    assert held.isdisjoint(v.data_ptr() for v in state.values())


# -------------------------------------------------------------------------------------------------------- folders, bad input


def write_folder(folder: Path, published: Published, kind: str) -> Path:
    save_file(published[0], folder / "codec.safetensors")
    (folder / "config.json").write_text(json.dumps({"codec": {"type": kind, "metadata": published[1]}}))
    return folder


def test_a_folder_loads_as_the_file_does(published, lac, tmp_path):
    codec = load_codec(write_folder(tmp_path, published, "lac"))
    assert isinstance(codec, LAC)
    of_the_file = lac.state_dict()
    assert all(torch.equal(v, of_the_file[k]) for k, v in codec.state_dict().items())


def test_a_dac_folder_loads(tmp_path):
    model = tiny_dac("24khz")
    kwargs = dict(encoder_dim=2, decoder_dim=16, codebook_size=32, codebook_dim=8, **SHAPES["24khz"])
    codec = load_codec(write_folder(tmp_path, (model.state_dict(), {"kwargs": kwargs}), "dac"))
    assert isinstance(codec, DacCodec) and codec.hop == 320


def test_a_folder_that_says_another_type_is_refused(published, tmp_path):
    with pytest.raises(ValueError, match="holds a codec of type 'lac', and config.json says 'dac'"):
        load_codec(write_folder(tmp_path, published, "dac"))
    with pytest.raises(ValueError, match="'spectral', 'lac' or 'dac'"):
        load_codec(write_folder(tmp_path, published, "encodec"))
    (tmp_path / "config.json").write_text(json.dumps({"codec": {"type": "lac"}}))
    with pytest.raises(ValueError, match="no metadata"):
        load_codec(tmp_path)


@pytest.mark.parametrize("shape", [(1, 768), (1, 2, 768), (1, 1, 0), (0, 1, 768)])
def test_audio_of_another_shape_is_refused(lac, shape):
    with pytest.raises(ValueError, match="audio of shape"):
        lac.encode(torch.zeros(shape))


def test_tokens_that_cannot_be_decoded_are_refused(lac):
    for shape in [(14, 5), (1, 15, 5), (1, 14, 0)]:
        with pytest.raises(ValueError, match="tokens of shape"):
            lac.decode(torch.zeros(shape, dtype=torch.long))
    for token in (-1, 1024):
        with pytest.raises(ValueError, match=r"lie in 0\.\.1023"):
            lac.decode(torch.full((1, 14, 5), token))


def test_audio_is_padded_on_the_right_to_whole_steps(lac):
    audio = 0.3 * torch.randn(1, 1, 1000)
    padded = torch.nn.functional.pad(audio, (0, 2 * 768 - 1000))
    assert lac.encode(audio).shape[-1] == math.ceil(1000 / 768)
    assert torch.equal(lac.encode(audio), lac.encode(padded))
