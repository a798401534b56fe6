"""The distilled model: what is stored of it, and where it is asked instead of two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import added_to, distilled_transformer, tiny_models, transformer
from token_models import fill, random_mask, source

from vampnet import decoding
from vampnet.bench import work
from vampnet.config import MASK, Sampling
from vampnet.fallback import on_cpu
from vampnet.guidance import asks_weaker, guided, hidden, logits_of, weaker, without
from vampnet.masks import periodic
from vampnet.model import distilled
from vampnet.model.fast import in_precision
from vampnet.model.files import add_distilled, load_transformer, save_transformer
from vampnet.model.transformer import TokenTransformer
from vampnet.pipeline import VampNet
from vampnet.serving import Turns

pytestmark = pytest.mark.usefixtures("one_thread")

GUIDED = Sampling(guidance=0.5, steps=4)
EXAMPLES = Path(__file__).parents[1] / "assets"
OTHERWISE = Sampling(guidance=0.75, steps=4)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[TokenTransformer]:
    """The models that are asked from now on, in order."""
    asked: list[TokenTransformer] = []
    forward = TokenTransformer.forward

    def count(self: TokenTransformer, *args: object, **how: object) -> torch.Tensor:
        asked.append(self)
        return forward(self, *args, **how)

    monkeypatch.setattr(TokenTransformer, "forward", count)
    return asked


def saved(folder: Path, model: TokenTransformer, added: dict[str, torch.Tensor] | None = None) -> TokenTransformer:
    """What is loaded of a model that was written into a folder."""
    save_transformer(model, folder, "coarse")
    if added:
        add_distilled(folder, added)
    return load_transformer(folder, "coarse", tiny_models()[0].codebook_vectors())


def test_its_weights_are_the_models_and_products_of_thin_matrices() -> None:
    model = transformer(2, dim=128)
    added = added_to(model)
    with_one = distilled.with_distilled(model, added)
    own, twin = model.state_dict(), with_one.distilled.state_dict()
    name = "layers.1.feed_forward.into.weight"
    product = added[f"distilled.{name}.out"] @ added[f"distilled.{name}.in"]
    assert product.shape == (512, 128) and torch.equal(twin[name], own[name] + product)
    assert torch.equal(twin["norm.weight"], own["norm.weight"] + added["distilled.norm.weight"])
    # The classifier of all levels is one tall matrix to it; what has a short side is added to as it is.
    assert added["distilled.classifier.out"].shape == (4 * 1024, 3) and "distilled.mask_vectors" in added
    sizes = [sum(map(torch.Tensor.numel, of.values())) for of in (added, twin)]
    assert sizes[0] < sizes[1] / 8


def test_it_comes_back_from_a_file_and_the_model_is_what_it_was(tmp_path: Path) -> None:
    model = saved(tmp_path / "plain", transformer(3, dim=128))
    added = added_to(model)
    found = saved(tmp_path / "both", model, added)
    assert model.distilled is None and found.distilled_guidance == 0.5
    tokens, where = source(2), random_mask(2)
    assert torch.equal(found(tokens, where=where), model(tokens, where=where))
    wanted = distilled.with_distilled(model, added).distilled(tokens, where=where)
    assert torch.equal(found.distilled(tokens, where=where), wanted)
    assert not torch.allclose(wanted, model(tokens, where=where), atol=0.1)
    # It belongs to these weights, so others are written without it.
    assert saved(tmp_path / "again", found).distilled is None


@pytest.mark.parametrize("fault", ["missing", "shape", "left over"])
def test_a_file_that_lacks_a_part_of_it_is_not_loaded(fault: str, tmp_path: Path) -> None:
    model = transformer(1, dim=128)
    save_transformer(model, tmp_path, "coarse")
    path = add_distilled(tmp_path, added_to(model))
    tensors = load_file(path)
    name = "distilled.layers.0.attention.out.weight.out"
    if fault == "left over":
        tensors["distilled.layers.7.attention.out.weight.out"] = tensors[name].clone()
    elif fault == "shape":
        tensors[name] = tensors[name][:, :2].clone()
    else:
        del tensors[name]
    save_file(tensors, path)
    with pytest.raises(ValueError, match="attention.out.weight.out"):
        load_transformer(tmp_path, "coarse", tiny_models()[0].codebook_vectors())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_it_is_asked_at_its_weight_and_two_models_at_any_other(precision: str) -> None:
    # A shape that a CPU with the instructions for it computes by tiles.
    model = in_precision(distilled_transformer(dim=128), precision, "cpu")
    tokens, where, unseen = source(2), random_mask(2), hidden(40, 1)
    plain, less = model(tokens, where=where), weaker(model)(without(tokens, unseen, 0), where=where)
    at = {g: logits_of(model, tokens, unseen, 0, g, where=where) for g in (0.0, 0.5, 0.75)}
    assert torch.equal(at[0.0], plain) and torch.equal(at[0.75], guided(plain, less, 0.75))
    assert torch.equal(at[0.5], model.distilled(tokens, where=where)) and not torch.equal(at[0.5], guided(plain, less, 0.5))
    assert [asks_weaker(model, g) for g in (0.0, 0.5, 0.75)] == [False, False, True]
    exact = distilled_transformer(dim=128).distilled(tokens, where=where)
    assert (at[0.5] - exact).abs().max() < 0.2 * exact.std()


def test_a_guided_decoding_asks_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, mask = distilled_transformer(), source(2), random_mask(2)
    asked = counting(monkeypatch)
    fill(model, tokens, mask, 4, GUIDED, batch=2)
    assert asked == [model.distilled] * 4
    asked.clear()
    fill(model, tokens, mask, 4, OTHERWISE, batch=2)
    assert asked == [model, weaker(model)] * 4


@pytest.mark.parametrize("ring", [False, True])
def test_a_device_that_answers_late_makes_the_same_of_it(ring: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, mask = distilled_transformer(), source(2), random_mask(2)
    # So many tokens are few enough to be told apart by the last bit of a sum.
    sampling = Sampling(guidance=0.5, typical_mass=1.0)
    wanted = fill(model, tokens, mask, 4, sampling, ring=ring, batch=2)
    monkeypatch.setattr(decoding, "answers_late", lambda device: True)
    assert torch.equal(fill(model, tokens, mask, 4, sampling, ring=ring, batch=2), wanted)


def test_it_goes_where_the_model_goes() -> None:
    model = distilled_transformer()
    there = on_cpu(in_precision(distilled_transformer(dim=128), "bfloat16", "cpu"))
    assert there.distilled is not None and there.distilled_guidance == 0.5
    tokens, where = source(), random_mask()
    with torch.no_grad():
        assert model.double().distilled(tokens, where=where).dtype == torch.float64
    assert len(model.constants()) == len(model.distilled.constants()) > 0, "recorded steps read what it has kept"


def test_it_takes_turns_with_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, _, fine = tiny_models()
    vn, turns = VampNet(codec, distilled_transformer(), fine), Turns(together=False)
    taken: list[object] = []
    take: Callable[..., object] = turns.take
    monkeypatch.setattr(turns, "take", lambda call: (taken.append(call), take(call))[1])
    tokens, mask = source(levels=14), random_mask(levels=14)
    with turns.join(vn) as view:
        made = view.generate(tokens, mask, Sampling(steps=5, fine_steps=2), [(0, 0)])
        assert len(taken) == 1 + 5 + 2  # the first for what is recalled
        assert logits_of(view.coarse, tokens[:, :4], None, 0, 0.5, where=mask[:, :4]) is not None and len(taken) == 9
    assert torch.equal(made, vn.generate(tokens, mask, Sampling(steps=5, fine_steps=2), [(0, 0)]))


def test_the_bench_counts_one_model_where_one_is_asked() -> None:
    codec, _, fine = tiny_models()
    vn = VampNet(codec, distilled_transformer(dim=32), fine)
    mask = torch.ones(14, 40, dtype=torch.bool)
    mask[:, ::5] = False
    place = len(work.encode(codec, 40))
    costs = [work.vamp(vn, mask, 1, Sampling(guidance=g, recall=0.0), "float32")[place].matrix for g in (0.0, 0.5, 0.75)]
    coarse = work.decoding(vn.coarse.config, mask[:4], 1, Sampling.steps, "float32").matrix
    assert costs[0] == costs[1] == coarse < costs[2]


def test_the_bundled_one_is_far_nearer_to_guidance_than_the_model_is() -> None:
    vn = VampNet.from_pretrained("mini", precision="float32")
    model, example = vn.coarse, sorted(EXAMPLES.glob("*.flac"))[0]
    assert model.distilled is not None and model.distilled_guidance == Sampling.guidance
    tokens = vn.encode(example)[:, :4, :287]
    mask = periodic(tokens.shape, 7, jitter=2)
    given = tokens.masked_fill(mask, MASK)
    with torch.no_grad():
        plain = model(given, where=mask)
        # What is hidden from the weaker model differs from step to step, which the distilled one is not told of.
        less = [weaker(model)(without(given, hidden(287, number), 0), where=mask) for number in range(12)]
        wanted = torch.stack([guided(plain, one, 0.5) for one in less]).log_softmax(-1).mean(0).log_softmax(-1)
        far = [
            (wanted.exp() * (wanted - said.log_softmax(-1))).sum(-1).mean()
            for said in (plain, model.distilled(given, where=mask))
        ]
    assert far[1] < far[0] / 3
