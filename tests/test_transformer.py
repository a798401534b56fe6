"""The masked token transformer: position buckets, both input paths, logits at chosen places, the loss, saving and loading."""

import json
import math
import time

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from vampnet.config import MASK, TransformerConfig
from vampnet.model.attention import RelativeBias, attend, relative_buckets
from vampnet.model.files import load_transformer, save_transformer
from vampnet.model.transformer import TokenTransformer

SIZE = 32


def tiny_config(**changes) -> TransformerConfig:
    shape = {"n_codebooks": 4, "codebook_size": SIZE, "codebook_dim": 3, "dim": 16, "layers": 2, "heads": 2, "context": 24}
    return TransformerConfig(**{**shape, **changes})


def tiny_model(seed: int = 0, **changes) -> TokenTransformer:
    """A model whose every part matters: the classifier and the biases are far from zero."""
    torch.manual_seed(seed)
    model = TokenTransformer(tiny_config(**changes), torch.randn(14, SIZE, 3))
    with torch.no_grad():
        model.classifier.normal_()
        model.classifier_bias.normal_()
        model.input.bias.normal_()
        model.bias.weight.normal_()
    return model.eval()


def tiny_tokens(batch: int = 2, levels: int = 4, steps: int = 17, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, SIZE, (batch, levels, steps), generator=generator)
    return tokens.masked_fill(torch.rand(tokens.shape, generator=generator) < 0.5, MASK)


def formula_bucket(distance: int) -> int:
    """T5's formula for 32 buckets and a maximum distance of 128, one number at a time."""
    size = abs(distance)
    if size < 8:
        bucket = size
    else:
        # The tiny addition settles 16, 32 and 64, where the logarithm is a whole number up to rounding.
        bucket = min(15, 8 + int(math.log(size / 8) / math.log(16) * 8 + 1e-6))
    return bucket + (16 if distance > 0 else 0)


def test_buckets_follow_the_formula():
    distances = torch.arange(-700, 701)
    assert relative_buckets(distances).tolist() == [formula_bucket(d) for d in distances.tolist()]


def test_bias_of_every_pair():
    bias = RelativeBias(3)
    torch.nn.init.normal_(bias.weight)
    found = bias(20)
    assert found.shape == (1, 3, 20, 20)
    for q in range(20):
        for k in range(20):
            assert torch.equal(found[0, :, q, k], bias.weight[formula_bucket(k - q)])


@pytest.mark.parametrize("steps", [1, 2, 16, 17])
def test_on_a_ring_keys_lie_the_shorter_way_around(steps):
    bias = RelativeBias(heads=2)
    with torch.no_grad():
        bias.weight.normal_()
        found = bias(steps, ring=True)[0]
    for q in range(steps):
        for k in range(steps):
            ways = sorted(((k - q) % steps, (k - q) % steps - steps), key=abs)
            if abs(ways[0]) < abs(ways[1]):
                assert torch.equal(found[:, q, k], bias.weight[formula_bucket(ways[0])])
    assert torch.equal(found, found.roll((1, 1), (1, 2)))  # no query is at an end


@pytest.mark.parametrize("steps", [2, 16, 17])
def test_a_ring_has_no_beginning(steps):
    model, tokens = tiny_model(), tiny_tokens(steps=steps)
    turned = tokens.roll(5, -1)
    for context in (torch.no_grad, torch.enable_grad):
        with context():
            assert torch.allclose(model(turned, ring=True), model(tokens, ring=True).roll(5, 2), atol=1e-4)
            assert steps == 2 or not torch.allclose(model(turned), model(tokens).roll(5, 2), atol=1e-2)


def test_bias_gradient_counts_pairs():
    bias = RelativeBias(2)
    bias(9).sum().backward()
    expected = torch.zeros(32)
    for q in range(9):
        for k in range(9):
            expected[formula_bucket(k - q)] += 1
    assert torch.equal(bias.weight.grad, expected[:, None].expand(32, 2))


def test_new_biases_have_heads_of_different_reach():
    bias = RelativeBias(4)
    bias.reset()
    near, far = bias.weight[formula_bucket(1)], bias.weight[formula_bucket(200)]
    assert torch.all((near - far).diff() > 0.5) and near[0] == far[0]


@pytest.mark.parametrize("grad", [True, False])
def test_attention_is_the_scaled_dot_product(grad):
    q, k, v = torch.randn(3, 2, 3, 11, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    bias = torch.randn(1, 3, 11, 11, generator=torch.Generator().manual_seed(1))
    with torch.set_grad_enabled(grad):
        found = attend(q, k, v, bias)
    assert torch.allclose(found, F.scaled_dot_product_attention(q, k, v, attn_mask=bias), atol=1e-5)


@pytest.mark.parametrize("conditioning", [0, 1])
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_at_chosen_places_are_the_full_logits_there(conditioning, batch):
    model = tiny_model(n_conditioning=conditioning)
    tokens = tiny_tokens(batch)
    where = torch.rand(batch, 4 - conditioning, 17, generator=torch.Generator().manual_seed(5)) < 0.4
    with torch.no_grad():
        full, chosen = model(tokens), model(tokens, where)
    assert full.shape == (batch, 4 - conditioning, 17, SIZE)
    assert chosen.shape == (int(where.sum()), SIZE)
    assert torch.allclose(chosen, full[where], atol=1e-5)
    with torch.no_grad():
        assert model(tokens, torch.zeros_like(where)).shape == (0, SIZE)


def test_inference_tables_equal_the_training_path():
    model = tiny_model()
    tokens = tiny_tokens()
    with_gradient = model(tokens)  # gradients are on: no tables
    with torch.no_grad():
        by_table = model(tokens)
    assert with_gradient.requires_grad and not by_table.requires_grad
    assert torch.allclose(with_gradient, by_table, atol=1e-5)


def test_inference_tables_follow_the_weights():
    model, tokens = tiny_model(), tiny_tokens()

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            return model(tokens), model.train().eval()(tokens)  # the second starts with empty tables

    before, _ = both()
    for change in (
        lambda: model.mask_vectors.add_(1.0),
        lambda: model.load_state_dict(tiny_model(seed=1).state_dict()),
        lambda: model.set_codebooks(torch.ones(4, SIZE, 3)),
        lambda: model.bias.weight.add_(torch.randn(32, 2)),
    ):
        with torch.no_grad():
            change()
        found, fresh = both()
        assert torch.equal(found, fresh)
        assert not torch.allclose(found, before, atol=1e-3)
        before = found
    assert model.double()(tokens).dtype == torch.float64


def test_every_token_and_the_mask_reach_every_place():
    model = tiny_model()
    tokens = tiny_tokens(1)
    with torch.no_grad():
        before = model(tokens)
        for level, step in ((0, 0), (3, 16), (1, 8)):
            changed = tokens.clone()
            changed[0, level, step] = MASK if tokens[0, level, step] != MASK else 5
            difference = (model(changed) - before).abs().amax(dim=(0, 1, 3))
            assert torch.all(difference > 0)


@pytest.mark.parametrize("conditioning", [0, 2])
def test_loss_is_smoothed_cross_entropy_on_masked_tokens_only(conditioning):
    model = tiny_model(n_conditioning=conditioning)
    tokens = torch.randint(0, SIZE, (3, 4, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    mask[:, :conditioning] = False
    logits = model(tokens.masked_fill(mask, MASK)).log_softmax(-1)
    total, count = 0.0, 0
    for item, level, step in mask.nonzero().tolist():
        scores = logits[item, level - conditioning, step]
        total += -0.9 * scores[tokens[item, level, step]] - 0.1 * scores.mean()
        count += 1
    assert torch.allclose(model.loss(tokens, mask), total / count, atol=1e-4)
    assert torch.allclose(
        model.loss(tokens, mask, label_smoothing=0.0),
        F.nll_loss(logits[mask[:, conditioning:]], tokens[:, conditioning:][mask[:, conditioning:]]),
        atol=1e-4,
    )
    assert model.loss(tokens, torch.zeros_like(mask)).item() == 0.0


def test_loss_of_a_share_is_right_on_average():
    model = tiny_model()
    tokens = torch.randint(0, SIZE, (2, 4, 16), generator=torch.Generator().manual_seed(1))
    mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.7
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        full = model.loss(tokens, mask)
        parts = torch.stack([model.loss(tokens, mask, share=0.5, generator=generator) for _ in range(60)])
    assert abs(parts.mean() - full) < 4 * parts.std() / 60**0.5 + 1e-3
    assert parts.std() > 0


def test_gradients_reach_every_weight_and_no_codebook():
    model = tiny_model().train()
    tokens = torch.randint(0, SIZE, (2, 4, 140), generator=torch.Generator().manual_seed(1))
    model.loss(tokens, torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.5).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert not model.codebooks.requires_grad and "codebooks" not in model.state_dict()


def test_levels_of_unlike_size_enter_alike():
    torch.manual_seed(0)
    sizes = torch.tensor([10.0, 1.0, 0.1, 0.01])
    model = TokenTransformer(tiny_config(dim=256), torch.randn(4, SIZE, 3) * sizes[:, None, None]).eval()
    with torch.no_grad():
        table = model.projected_vectors().view(4, SIZE + 1, 256)
    spread = table.std(dim=(1, 2))
    assert spread.max() / spread.min() < 2
    assert 0.3 < spread.pow(2).sum().sqrt() < 3


def test_builds_in_no_time():
    start = time.perf_counter()
    TokenTransformer(tiny_config(), torch.zeros(4, SIZE, 3))
    assert time.perf_counter() - start < 0.5


def test_shapes_that_do_not_fit_are_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"\(B, 4, T\)"):
        model(torch.zeros(1, 3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="where"):
        model(tiny_tokens(), torch.ones(2, 3, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="codec that it was trained with"):
        TokenTransformer(tiny_config(), torch.zeros(4, SIZE, 8))
    with pytest.raises(ValueError, match="set_codebooks"):
        TokenTransformer(tiny_config())(tiny_tokens())


def test_saved_and_loaded(tmp_path):
    model = tiny_model(n_conditioning=1)
    (tmp_path / "config.json").write_text(json.dumps({"codec": {"kept": True}}))
    save_transformer(model, tmp_path, "fine")
    assert json.loads((tmp_path / "config.json").read_text())["codec"] == {"kept": True}
    stored = load_file(str(tmp_path / "fine.safetensors"))
    assert {t.dtype for t in stored.values()} == {torch.float16} and "codebooks" not in stored
    loaded = load_transformer(tmp_path, "fine", model.codebooks)
    assert loaded.config == model.config and not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    with torch.no_grad():
        assert torch.allclose(loaded(tiny_tokens()), model(tiny_tokens()), atol=0.05)


def test_loading_accounts_for_every_tensor(tmp_path):
    model = tiny_model()
    path = save_transformer(model, tmp_path, "coarse")
    good = load_file(str(path))

    def refuse(tensors: dict, sentence: str) -> None:
        save_file(tensors, str(path))
        with pytest.raises(ValueError, match=sentence):
            load_transformer(tmp_path, "coarse", model.codebooks)

    refuse({n: t for n, t in good.items() if n != "norm.weight"}, r"missing \['norm.weight'\]")
    refuse({**good, "surplus": torch.zeros(1)}, r"left over \['surplus'\]")
    refuse({**good, "norm.weight": torch.zeros(3)}, r"another shape \['norm.weight'\]")
    with pytest.raises(FileNotFoundError, match="fine.safetensors"):
        load_transformer(tmp_path, "fine", model.codebooks)
    save_file(good, str(tmp_path / "fine.safetensors"))
    with pytest.raises(ValueError, match="no section 'fine'"):
        load_transformer(tmp_path, "fine", model.codebooks)


def test_guide_teaches_alike_codes_alike_and_goes_into_the_classifier(tmp_path):
    config = TransformerConfig(n_codebooks=2, dim=16, layers=1, heads=2, codebook_size=32, context=16)
    vectors = torch.randn(2, 32, 8)
    vectors[:, 1] = vectors[:, 0] + 1e-3
    model = TokenTransformer(config, vectors).eval()
    tokens = torch.randint(32, (1, 2, 9))
    with torch.no_grad():
        plain = model(tokens)
        model.add_guide()
        assert torch.equal(model(tokens), plain)
        model.guide.weight.normal_()
        guided = model(tokens)
    shift = guided - plain
    assert shift.abs().max() > 1
    assert (shift[..., 1] - shift[..., 0]).abs().max() < 0.1 * (shift[..., 2] - shift[..., 0]).abs().max()
    save_transformer(model, tmp_path, "coarse")
    loaded = load_transformer(tmp_path, "coarse", vectors)
    assert loaded.guide is None
    with torch.no_grad():
        assert torch.allclose(loaded(tokens), guided, atol=0.1, rtol=0.01)
    with pytest.raises(ValueError, match="set_codebooks"):
        TokenTransformer(config).add_guide()
