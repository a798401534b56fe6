"""Transformers in bfloat16 and int8 beside float32."""

import pytest
import torch
from test_transformer import tiny_model, tiny_tokens
from tiny import tiny_models

from vampnet.config import MASK, Sampling
from vampnet.generate import generate
from vampnet.model import fast
from vampnet.model.fast import FastTransformer, in_precision
from vampnet.model.half import HalfLinear
from vampnet.model.int8 import Int8Linear
from vampnet.pipeline import VampNet

DISTANCES = {"bfloat16": 0.02, "int8": 0.04}
"""Of the logits to those in float32, relative: what these types can hold."""


def holes(tokens, first=0, seed=1):
    where = torch.rand(tokens[:, first:].shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    tokens = tokens.clone()
    tokens[:, first:][where] = MASK
    return tokens, where


def distance(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("precision", DISTANCES)
@pytest.mark.parametrize("conditioning", [0, 1])
def test_logits_are_near_those_in_float32(precision, conditioning):
    model = tiny_model(n_conditioning=conditioning, layers=2).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that are not trivial
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    tokens, where = holes(tiny_tokens(batch=3), conditioning)
    with torch.no_grad():
        wanted = model(tokens, where=where)
        quick = in_precision(model, precision, "cpu")
        found, everywhere = quick(tokens, where=where), quick(tokens)
        assert found.dtype == torch.float32 and found.shape == wanted.shape
        assert 0 < distance(found, wanted) < DISTANCES[precision]
        assert everywhere.shape == model(tokens).shape
        assert torch.allclose(everywhere[where], found, atol=1e-4)
        ring = model(tokens, where=where, ring=True)
        assert distance(quick(tokens, where=where, ring=True), ring) < DISTANCES[precision] < distance(ring, wanted)
        assert torch.equal(quick(tokens, where=where), found)


@pytest.mark.parametrize("precision", DISTANCES)
def test_what_an_item_gets_does_not_depend_on_the_others(precision):
    quick = in_precision(tiny_model(layers=2).eval(), precision, "cpu")
    tokens, where = holes(tiny_tokens(batch=4))
    together = quick(tokens, where=where)
    alone = torch.cat([quick(tokens[i : i + 1], where=where[i : i + 1]) for i in range(4)])
    assert torch.equal(together, alone) if precision == "int8" else torch.allclose(together, alone, atol=2e-2)


@pytest.mark.parametrize("kind", [HalfLinear, Int8Linear])
@pytest.mark.parametrize("eps", [None, 1e-6])
def test_a_matrix_with_the_norm_before_it(kind, eps):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(24, 32, generator=generator), torch.randn(24, generator=generator)
    x = torch.randn(7, 32, generator=generator) * torch.logspace(-3, 3, 7)[:, None]
    normed = x if eps is None else x / (x.square().mean(1, keepdim=True) + eps).sqrt()
    wanted = normed @ weight.T
    found = kind(weight, eps=eps)(x).float()
    # Row by row: a row of small numbers is as exact as one of large ones.
    assert ((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max() < 0.02
    assert distance(kind(weight, bias, eps)(x), wanted + bias) < 0.02


def test_rows_of_zeros_stay_zeros():
    assert Int8Linear(torch.randn(4, 8), eps=1e-6)(torch.zeros(2, 8)).abs().max() == 0


def test_a_whole_clip_is_filled_and_kept_tokens_stay():
    _, coarse, fine = tiny_models()
    coarse, fine = (in_precision(model, "int8", "cpu") for model in (coarse, fine))
    tokens = torch.randint(0, 1024, (1, 14, 60), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 14, 60, dtype=torch.bool)
    mask[..., ::5] = False
    made = generate(coarse, fine, tokens, mask, Sampling(steps=3, fine_steps=1), 0, [0, 1])
    assert torch.equal(made[..., ::5], tokens[..., ::5].expand(2, -1, -1))
    assert int(made.max()) < 1024 and not torch.equal(made[0], made[1])


def test_which_precision_is_taken(monkeypatch):
    model = tiny_model().eval()
    assert in_precision(model, "float32", "cpu") is model
    monkeypatch.setattr(fast, "fast_int8", lambda: True)
    assert in_precision(model, "auto", "cpu").precision == "int8"
    for has, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert fast.best_precision("cuda:0") == precision
    assert fast.best_precision("mps") == "float32"
    monkeypatch.setattr(fast, "fast_int8", lambda: False)
    assert in_precision(model, "auto", "cpu") is model
    with pytest.raises(ValueError, match="int8 is for CPUs"):
        in_precision(model, "int8", "cuda")
    with pytest.raises(ValueError, match="precision must be"):
        in_precision(model, "float64", "cpu")
    other = torch.nn.Linear(2, 2)  # what stands in for a model
    assert in_precision(other, "int8", "cpu") is other


def test_shapes_that_do_not_fit_are_refused():
    quick = FastTransformer(tiny_model().eval(), "int8")
    with pytest.raises(ValueError, match="reads tokens of shape"):
        quick(tiny_tokens(levels=5))
    with pytest.raises(ValueError, match="`where` must have"):
        quick(tiny_tokens(), where=torch.ones(2, 4, 3, dtype=torch.bool))


def test_the_codec_goes_with_the_transformers(monkeypatch):
    codec = tiny_models()[0]
    monkeypatch.setattr(fast, "fast_bfloat16", lambda: True)
    assert fast.codec_in_precision(codec, "float32", "cpu") is codec
    twin = fast.codec_in_precision(codec, "int8", "cpu")
    assert (codec.precision, twin.precision) == ("float32", "bfloat16")
    assert all(a is b for a, b in zip(codec.parameters(), twin.parameters(), strict=True))
    monkeypatch.setattr(fast, "fast_bfloat16", lambda: False)
    assert fast.codec_in_precision(codec, "int8", "cpu") is codec


@pytest.mark.parametrize("precision", DISTANCES)
def test_the_bundled_model_predicts_the_same_in_every_precision(precision, make_music):
    model = VampNet.from_pretrained("mini", "cpu", precision="float32")
    codes = model.encode((44_100, make_music(3.0, 0)))
    for part in (model.coarse, model.fine):
        tokens, where = holes(codes[:, : part.config.n_codebooks], part.config.n_conditioning)
        with torch.no_grad():
            wanted = part(tokens, where=where).log_softmax(dim=-1)
        found = in_precision(part, precision, "cpu")(tokens, where=where).log_softmax(dim=-1)
        # Nats by which the distribution is off; the models themselves are off by four or five.
        assert (wanted.exp() * (wanted - found)).sum(dim=-1).mean() < 0.005
