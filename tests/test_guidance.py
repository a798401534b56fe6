"""Guidance: a weaker model, what it does not see, and what comes of the difference; options that are younger than settings."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from tiny import transformer
from token_models import LocalModel, fill, plain, random_mask, source

from vampnet import decoding, generate, metadata
from vampnet.config import MASK, Prompt, Sampling
from vampnet.gaps import SHORT, near
from vampnet.guidance import guided, hidden, weaker, without
from vampnet.model.fast import in_precision
from vampnet.sampling import take_generator
from vampnet.studio import controls
from vampnet.studio.share_words import describe_settings

pytestmark = pytest.mark.usefixtures("one_thread")

GUIDED = Sampling(guidance=0.5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_weaker_model_is_the_same_without_the_fifth_of_six_layers(precision: str) -> None:
    # A shape that a CPU with the instructions for it computes by tiles.
    model = transformer(dim=128)
    cut = copy.deepcopy(model)
    del cut.layers[4]
    model, cut = (in_precision(one, precision, "cpu") for one in (model, cut))
    tokens, where = source(2), random_mask(2)
    wanted, whole = cut(tokens, where=where, ring=True), model(tokens, where=where)
    assert torch.equal(weaker(model)(tokens, where=where, ring=True), wanted)
    assert not torch.equal(whole, weaker(model)(tokens, where=where))
    assert torch.equal(model(tokens, where=where), whole) and len(model.layers) == 6
    assert weaker(model) is weaker(model)


def test_the_weaker_model_shares_the_weights_wherever_they_go() -> None:
    model = transformer(3)
    less = weaker(model)
    own = {id(parameter) for parameter in model.parameters()}
    assert len(less.layers) == 2 and all(id(parameter) in own for parameter in less.parameters())
    assert list(model.state_dict()) == list(transformer(3).state_dict())
    tokens, where = source(), random_mask()
    before = less(tokens, where=where)
    with torch.no_grad():
        model.classifier.mul_(2)
    model.to(torch.float64)
    assert weaker(model) is less and less(tokens, where=where).dtype == torch.float64
    assert not torch.allclose(less(tokens, where=where).float(), before)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_of_few_layers_goes_without_none(layers: int) -> None:
    model = transformer(layers)
    assert weaker(model) is model


@pytest.mark.parametrize("steps", [40, 172, 575])
def test_half_is_hidden_of_every_window_and_of_every_periodic_prompt(steps: int) -> None:
    for number in range(40):
        where = hidden(steps, number)
        assert where.shape == (steps,) and abs(where.float().mean() - 0.5) < 2 / steps**0.5
    for period in range(1, 17):
        kept = torch.stack([hidden(575, number)[::period] for number in range(24)]).float()
        assert abs(kept.mean() - 0.5) < 0.05 and (kept.mean(dim=1) - 0.5).abs().max() < 0.2
    assert not torch.equal(hidden(steps, 0), hidden(steps, 1))


def test_guided_logits_lie_beyond_those_of_the_model() -> None:
    logits, less = torch.randn(2, 5, 7)
    assert torch.equal(guided(logits, less, 0.0), logits)
    torch.testing.assert_close(guided(logits, less, 0.5), logits + 0.5 * (logits - less))


def test_what_is_hidden_is_not_seen_and_what_only_conditions_is() -> None:
    model, tokens, mask = LocalModel(6, 2), source(levels=6), random_mask(levels=6)
    mask[:, :2] = False
    fill(model, tokens, mask, sampling=GUIDED)
    assert len(model.seen) == 2 * 6
    for number, (all_of_it, less) in enumerate(zip(model.seen[::2], model.seen[1::2], strict=True)):
        where = hidden(40, number)
        assert torch.equal(less, without(all_of_it, where, 2))
        assert torch.equal(less[:, :2], all_of_it[:, :2]) and (less[:, 2:, where] == MASK).all()
        assert torch.equal(less[..., ~where], all_of_it[..., ~where])


def test_guided_takes_are_filled_and_depend_on_nothing_beside_them() -> None:
    model, tokens, mask = transformer(3), source(3), random_mask(3)
    together = fill(model, tokens, mask, sampling=GUIDED)
    assert torch.equal(together[~mask], tokens[~mask]) and together.max() < MASK
    alone = decoding.fill(model, tokens[2:], mask[2:], 6, GUIDED, [take_generator(0, 2)])
    assert torch.equal(alone, together[2:])
    assert not torch.equal(together, fill(model, tokens, mask))
    far = fill(model, tokens, mask, sampling=dataclasses.replace(GUIDED, guidance=2.0))
    assert not torch.equal(together, far)


def test_the_fine_levels_are_drawn_without_guidance() -> None:
    coarse, fine = LocalModel(), LocalModel(14, 4, seed=1)
    tokens, mask = source(levels=14), random_mask(levels=14)
    assert near(mask[0, :4], SHORT) == 1
    generate.generate(coarse, fine, tokens, mask, dataclasses.replace(GUIDED, steps=3, fine_steps=2), 0, [0])
    assert len(coarse.seen) == 2 * 3 and len(fine.seen) == 2


@pytest.mark.parametrize("ring", [False, True])
def test_a_device_that_answers_late_makes_the_same_of_it(ring: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, mask = transformer(4), source(2), random_mask(2)
    for sampling in (Sampling(guidance=1.0, typical_mass=1.0), Sampling(guidance=0.5, temperature=0)):
        with monkeypatch.context() as patch:
            wanted = fill(model, tokens, mask, sampling=sampling, ring=ring, batch=2)
            patch.setattr(decoding, "answers_late", lambda device: True)
            assert torch.equal(fill(model, tokens, mask, sampling=sampling, ring=ring, batch=2), wanted)


@pytest.mark.parametrize(
    ("name", "value", "english", "korean"),
    [
        ("guidance", 1.5, "guidance", "이끌기"),
        ("palette", 1.5, "palette", "팔레트"),
        ("recall", 0.5, "recall", "되살리기"),
        ("balance", 0.5, "tonal balance", "음색 균형"),
    ],
)
def test_settings_come_back_and_those_of_before_are_off(name: str, value: float, english: str, korean: str) -> None:
    written = dataclasses.asdict(Sampling(steps=7, **{name: value}))
    settings = {
        "prompt": dataclasses.asdict(Prompt()), "sampling": written, "seed": 3, "takes": 1, "loop": False, "bars": None,
        "seconds": 4.0, "kept_share": 0.2, "kept_kbps": 1.0, "model": "mini", "grid": {"sample_rate": 44100, "hop": 768},
    }  # fmt: skip

    def told(language: str) -> str:
        return " ".join(row[1] for row in describe_settings(settings, language))

    def read() -> Sampling:
        values = {"vampnet": 1, "prompt": settings["prompt"], "sampling": written, "seed": 3}
        return metadata.parse(json.dumps(values).encode()).sampling

    assert getattr(read(), name) == controls.restore(settings)[name] == value
    assert f"{english} {value}" in told("en") and f"{korean} {value}" in told("ko")
    del written[name]  # as before there was any
    assert read() == Sampling(steps=7, **{name: 0}) and controls.restore(settings)[name] == 0
    assert f"{name} 0" in told("en") and f"{korean} 0" in told("ko")
    written[name] = getattr(Sampling, name)
    assert name not in told("en") and korean not in told("ko")


def test_guidance_costs_as_many_steps_again() -> None:
    assert plain(steps=9).coarse_runs == 9 and plain(steps=9, guidance=0.1).coarse_runs == 18
    assert plain(steps=9, recall=0.1).coarse_runs == 10
