"""Recall: which places of a clip are alike, what logits become by it, and that takes find what is masked elsewhere."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_vampnet, transformer
from token_models import FlatModel, LocalModel, fill, generators, plain, random_mask, source
from torch import Tensor

from vampnet import decoding, device_steps, generate, recall
from vampnet.config import MASK, PUBLISHED, Sampling
from vampnet.model.fast import FastTransformer, in_precision
from vampnet.serving import Turns

pytestmark = pytest.mark.usefixtures("one_thread")

RECALLS = plain(recall=1.0)
PERIOD = 50


class Rhythm(FlatModel):
    """Knows nothing of tokens, but that every `PERIOD`-th time step is alike."""

    def hidden(self, tokens: Tensor, ring: bool = False) -> Tensor:
        self.asked_for = tokens
        wheel = torch.randn(PERIOD, 32, generator=torch.Generator().manual_seed(1))
        return wheel[torch.arange(tokens.shape[-1]) % PERIOD].expand(len(tokens), -1, -1)


def repeating(steps: int = 150) -> Tensor:
    return source(1, 4, PERIOD).repeat(1, 1, -(-steps // PERIOD))[..., :steps]


def features(steps: int = 150) -> Tensor:
    return Rhythm().hidden(torch.zeros(1, 4, steps))[0]


def test_places_that_come_again_are_alike_and_near_ones_are_not_looked_at() -> None:
    made, known = torch.ones(2, 150, dtype=torch.bool)
    made[70], known[90:] = False, False
    like = recall.likeness(features(), made, known, ring=False)
    assert like.shape == (150, 150) and like.dtype == torch.float32
    at = torch.arange(150)
    away = (at - at[:, None]).abs()
    assert like[away <= recall.NEAR].isneginf().all() and like[:, 90:].isneginf().all()
    assert like[70].isneginf().all() and like[:, 70].isneginf().all()
    looked = (away > recall.NEAR) & (made[:, None] & made & known)
    assert looked.any() and not like[looked].isinf().any() and like[looked].abs().max() <= 1 + 1e-5
    again = looked & (away == PERIOD)
    assert like[again].min() > 0.99 and like[looked & ~again & (away % PERIOD != 0)].mean() < 0.2


def test_likeness_is_the_mean_over_what_lies_around() -> None:
    numbers, made = torch.randn(90, 8), torch.rand(90) < 0.8
    centred = torch.nn.functional.normalize(numbers - numbers[made].mean(dim=0), dim=-1)
    for ring in (False, True):
        like = recall.likeness(numbers, made, torch.ones(90, dtype=torch.bool), ring)
        for t, s in ((t, s) for t in (0, 2, 10, 45, 88) for s in range(90)):
            pairs = [(t + k, s + k) for k in range(-recall.AROUND, recall.AROUND + 1)]
            if ring:
                pairs = [(a % 90, b % 90) for a, b in pairs]
            pairs = [(a, b) for a, b in pairs if 0 <= a < 90 and 0 <= b < 90 and made[a] and made[b]]
            far = min(abs(t - s), 90 - abs(t - s)) if ring else abs(t - s)
            if made[t] and made[s] and far > recall.NEAR:
                wanted = sum(float(centred[a] @ centred[b]) for a, b in pairs) / len(pairs)
                assert float(like[t, s]) == pytest.approx(wanted, abs=1e-5)
            else:
                assert like[t, s].isneginf()


def test_a_ring_has_no_beginning() -> None:
    numbers, made = torch.randn(90, 8), torch.rand(90) < 0.8
    known = torch.rand(90) < 0.9
    like = recall.likeness(numbers, made, known, ring=True)
    turned = recall.likeness(numbers.roll(17, 0), made.roll(17), known.roll(17), ring=True)
    torch.testing.assert_close(turned, like.roll((17, 17), (0, 1)))


def test_a_liking_is_for_how_far_away_a_place_is() -> None:
    like = torch.zeros(80, 80)
    like[5, 6] = -torch.inf
    liking = torch.zeros(2 * 80 - 1)
    liking[79 + 33], liking[79 - 20] = 50.0, 40.0
    place, share = recall.places(like, liking)
    assert place.shape == share.shape == (80, recall.PLACES)
    for step in range(80):
        wanted = step + 33 if step + 33 < 80 else step - 20
        assert place[step, 0] == wanted and share[step, 0] > 0.99
    nowhere, none = recall.places(torch.full((80, 80), -torch.inf), liking)
    assert not none.any() and none.isfinite().all() and nowhere.max() < 80
    assert recall.places(torch.zeros(3, 3), torch.zeros(5))[0].shape == (3, 3)


def test_what_is_added_is_that_of_the_formula() -> None:
    tokens, masked = repeating(150).repeat(2, 1, 1) % 7, random_mask(2, 4, 150)
    tokens[0, :, 100:120] = MASK
    masked[1, :, 30:40] = False
    liking = recall.likings(150, generators(2))
    assert liking.shape == (2, 299) and not torch.equal(liking[0], liking[1])
    assert torch.equal(liking, recall.likings(150, generators(2)))
    held = features()[None]
    found = recall.recalled(held, tokens, masked, liking, 8, 0.7)
    logits = torch.randn(int(masked.sum()), 8)
    changed, after = logits.clone(), torch.zeros(2, 4, 150, 8)
    recall.lean(changed, masked, found)
    after[masked] = changed - logits
    for item in range(2):
        known = (tokens[item] < 8).all(dim=0)
        like = recall.likeness(held[0], masked[item].any(dim=0), known, ring=False)
        place, share = recall.places(like, liking[item])
        for level in range(4):
            said = torch.zeros(150, 8)
            for step in masked[item, level].nonzero()[:, 0].tolist():
                for where, weight in zip(place[step].tolist(), share[step].tolist(), strict=True):
                    if weight:
                        assert known[where]
                        said[step, tokens[item, level, where]] += weight
            everywhere = said.sum(dim=0) / masked[item, level].sum()
            wanted = 0.7 * ((1 + 8 * said).log() - (1 + 8 * everywhere).log())
            here = masked[item, level]
            torch.testing.assert_close(after[item, level][here], wanted[here], atol=1e-4, rtol=1e-4)


def test_clips_that_look_alike_recall_each_what_it_has() -> None:
    tokens, masked = repeating().repeat(2, 1, 1), torch.ones(2, 4, 150, dtype=torch.bool)
    liking, some = recall.likings(150, generators(2)), masked.clone()
    tokens[0, :, 50:] = MASK
    some[0, :, 70:] = False
    for pair, made in ((tokens, masked), (tokens.flip(0), masked), (repeating().repeat(2, 1, 1), some)):
        both = recall.recalled(features()[None], pair, made, liking, 1024, 1.0)
        for item in range(2):
            one = slice(item, item + 1)
            alone = recall.recalled(features()[None], pair[one], made[one], liking[one], 1024, 1.0)
            assert all(torch.equal(own[one], other) for own, other in zip(both, alone, strict=True))


def test_takes_find_what_is_masked_where_it_comes_again() -> None:
    tokens = repeating(150)
    mask = random_mask(1, 4, 150, share=0.9)
    model = Rhythm(context=150)
    made = fill(model, tokens, mask, sampling=plain(recall=2.0))
    found = (made == tokens)[mask].float().mean()
    assert found > 0.5 and (fill(model, tokens, mask) == tokens)[mask].float().mean() < 0.02
    assert (model.asked_for[mask] == MASK).all() and torch.equal(model.asked_for[~mask], tokens[~mask])


def test_levels_that_only_condition_are_seen_and_not_recalled() -> None:
    tokens, mask = source(1, 6, PERIOD).repeat(1, 1, 3), random_mask(1, 6, 150, share=0.9)
    mask[:, :2] = False
    model = Rhythm(6, 2, context=150)
    made = fill(model, tokens, mask, sampling=plain(recall=2.0))
    assert (made == tokens)[mask].float().mean() > 0.5 and torch.equal(model.asked_for[:, :2], tokens[:, :2])


def test_where_all_stays_nobody_is_asked() -> None:
    model, tokens = Rhythm(), source()
    assert torch.equal(fill(model, tokens, torch.zeros_like(tokens, dtype=torch.bool), sampling=RECALLS), tokens)
    assert not hasattr(model, "asked_for")


def test_nothing_is_known_of_what_is_masked_at_the_place_itself_and_near_it() -> None:
    model, tokens, mask = Rhythm(context=150), repeating(150), torch.zeros(1, 4, 150, dtype=torch.bool)
    mask[..., 60 : 60 + recall.NEAR] = True
    other = torch.where(mask, (tokens + 333) % 700, tokens)
    assert torch.equal(fill(model, tokens, mask, sampling=RECALLS), fill(model, other, mask, sampling=RECALLS))


@pytest.mark.parametrize("ring", [False, True])
def test_takes_depend_on_nothing_beside_them(ring: bool) -> None:
    model, tokens, mask = transformer(3, context=90), source(1, steps=90).repeat(3, 1, 1), random_mask(1, steps=90)
    sampling = Sampling(steps=3)
    together = fill(model, tokens, mask, sampling=sampling, ring=ring)
    assert torch.equal(together[:, ~mask[0]], tokens[:, ~mask[0]]) and together.max() < MASK
    assert not torch.equal(together[0], together[1])
    for item in range(3):
        alone = decoding.fill(model, tokens[:1], mask, 6, sampling, [generators(3)[item]], ring=ring)
        assert torch.equal(alone[0], together[item])
    assert not torch.equal(together, fill(model, tokens, mask, sampling=dataclasses.replace(sampling, recall=0.0), ring=ring))
    # Of clips that are not alike each recalls its own.
    mixed, masks = torch.cat([tokens[:1], source(1, steps=90, seed=5)]), torch.cat([mask, random_mask(1, steps=90, seed=3)])
    both = fill(model, mixed, masks, sampling=sampling, ring=ring)
    for item in range(2):
        one = slice(item, item + 1)
        alone = decoding.fill(model, mixed[one], masks[one], 6, sampling, [generators(2)[item]], ring=ring)
        assert torch.equal(alone[0], both[item])


@pytest.mark.parametrize("sampling", [RECALLS, Sampling(), Sampling(temperature=0), Sampling(sample_cutoff=0.5)])
def test_a_device_that_answers_late_makes_the_same_of_it(sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, mask = transformer(4, context=90), source(2, steps=90), random_mask(2, steps=90)
    wanted = fill(model, tokens, mask, sampling=sampling, batch=2)
    monkeypatch.setattr(decoding, "answers_late", lambda device: True)
    assert torch.equal(fill(model, tokens, mask, sampling=sampling, batch=2), wanted)
    # A step is kept for the next, whatever its weight, and what it recalled is not.
    ways = [dataclasses.replace(sampling, recall=weight) for weight in (0.5, 0.0, 1.0)]
    kept = len(device_steps._kept[model])
    late = [fill(model, tokens, mask, sampling=way, batch=2) for way in ways]
    assert len(device_steps._kept[model]) == 2 * kept, "one for all weights, and one without"
    monkeypatch.undo()
    for way, made in zip(ways, late, strict=True):
        assert torch.equal(made, fill(model, tokens, mask, sampling=way, batch=2))


def test_windows_recall_their_part_of_the_source_and_rounds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noticed(self, source, mask, drawn, ring=False):
        seen.append((source.clone(), mask.clone()))

    monkeypatch.setattr(decoding.Decoder, "recalled", noticed)
    tokens, mask = source(1, 4, 130), random_mask(1, 4, 130)
    generate.fill_windows(LocalModel(), tokens, mask, 2, RECALLS, 0, [0], rounds=2)
    assert len(seen) >= 6 and len(seen) % 2 == 0
    for number, (own, todo) in enumerate(seen):
        (at,) = [at for at in range(131 - own.shape[-1]) if torch.equal(own, tokens[..., at : at + own.shape[-1]])]
        # As the clip was masked, whatever windows before have decided; but what a round has kept stays kept.
        same = torch.equal(todo, mask[..., at : at + own.shape[-1]])
        assert same == (number < len(seen) // 2) and not (todo & ~mask[..., at : at + own.shape[-1]]).any()


def test_the_fine_levels_recall_nothing() -> None:
    coarse, fine = Rhythm(context=150), Rhythm(14, 4, context=150)
    generate.generate(coarse, fine, source(levels=14, steps=150), random_mask(levels=14, steps=150), Sampling(steps=2), 0, [0])
    assert hasattr(coarse, "asked_for") and not hasattr(fine, "asked_for")


def test_a_model_without_features_recalls_nothing() -> None:
    model, tokens, mask = LocalModel(), source(), random_mask()
    assert torch.equal(fill(model, tokens, mask, sampling=RECALLS), fill(model, tokens, mask))


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("tiled", [False, True])
def test_features_are_the_same_in_every_precision(precision: str, tiled: bool) -> None:
    model, tokens = transformer(3, dim=128), source(2).masked_fill(random_mask(2), MASK)
    with torch.no_grad():
        model.norm.weight.mul_(torch.linspace(0.2, 3, 128))
        fast = in_precision(model, precision, "cpu") if tiled else FastTransformer(model, precision)
        for ring in (False, True):
            wanted, own = model.hidden(tokens, ring), fast.hidden(tokens, ring)
            assert own.shape == wanted.shape == (2, 40, 128) and own.dtype == torch.float32
            assert float((own - wanted).norm() / wanted.norm()) < 0.05
    with pytest.raises(ValueError, match=r"reads tokens of shape"):
        fast.hidden(tokens[:, :2])


def test_who_asks_for_features_waits_for_a_turn() -> None:
    class Model:
        device = torch.device("cpu")
        codec = None
        coarse = fine = transformer(2)

    turns, asked = Turns(), []
    take = turns.take
    turns.take = lambda call: (asked.append(call), take(call))[1]
    tokens = source()
    with turns.join(Model) as view:
        own = recall.features_of(view.coarse, tokens, random_mask(), False)
    assert len(asked) == 1 and torch.equal(own, recall.features_of(Model.coarse, tokens, random_mask(), False))


def test_silence_that_was_added_is_not_recalled() -> None:
    model, tokens = tiny_vampnet(), source(1, 14, 120)
    tokens[..., 80:] = MASK
    made = model.generate(tokens, tokens == MASK, Sampling(steps=2), seeds=[0])
    assert made.max() < MASK and torch.equal(made[..., :80], tokens[..., :80])


@pytest.mark.parametrize("value", [-0.1, 2.1, float("nan"), "much"])
def test_a_weight_that_cannot_be_is_told(value: object) -> None:
    with pytest.raises(ValueError, match="recall"):
        Sampling(recall=value)
    assert Sampling.of({}).recall == PUBLISHED.recall == 0
