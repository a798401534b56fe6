import pytest
import torch
from token_models import GREEDY, POISON, LocalModel, assert_filled, fill, generators, plain, poisoned, random_mask, source

from vampnet import decoding as g
from vampnet.config import MASK, CancelledError
from vampnet.sampling import mask_count

pytestmark = pytest.mark.usefixtures("one_thread")


# one window


def test_kept_tokens_stay_and_no_mask_is_left_for_any_mask_and_setting():
    options = [plain(), GREEDY, plain(top_k=3), plain(top_p=0.5, typical_mass=0.5), plain(sample_cutoff=0.5)]
    for i in range(20):
        model = LocalModel(conditioning=i % 2, context=40)
        steps = (1, 2, 5, 12)[i % 4]
        mask = random_mask(3, share=(0.0, 0.02, 0.5, 1.0)[i % 4 if i % 3 else 3], seed=i)
        mask[:, : i % 2] = False
        tokens = poisoned(source(3, seed=i), mask)
        before = tokens.clone()
        after = fill(model, tokens, mask, steps, options[i % 5], seed=i, batch=1 + i % 3)
        assert_filled(tokens, after, mask)
        assert torch.equal(tokens, before), "the argument must not change"


def test_the_model_never_sees_what_was_masked():
    mask = random_mask(2)
    model = LocalModel()
    after = fill(model, poisoned(source(2), mask), mask)
    assert not any((seen == POISON).any() for seen in model.seen)
    assert torch.equal(after, fill(LocalModel(), source(2).masked_fill(mask, MASK), mask))


def test_the_schedule_is_counted_per_item():
    model = LocalModel()
    mask = torch.zeros(3, 4, 40, dtype=torch.bool)
    mask[0] = True
    mask[1, 0, :7] = True
    mask[2, :, ::5] = True
    fill(model, source(3), mask, steps=8, batch=3)
    totals = mask.sum(dim=(1, 2))
    assert len(model.asked) == 8
    for step, (seen, asked) in enumerate(zip(model.seen, model.asked, strict=True)):
        left = totals if step == 0 else mask_count(step - 1, 8, totals)
        assert torch.equal(asked.sum(dim=(1, 2)), left)
        assert torch.equal(seen == MASK, asked)


def test_what_is_decided_stays_decided():
    model = LocalModel()
    after = fill(model, source(), torch.ones(1, 4, 40, dtype=torch.bool), steps=9)
    for earlier, later in zip(model.seen, [*model.seen[1:], after], strict=True):
        known = earlier != MASK
        assert torch.equal(earlier[known], later[known])


def test_without_noise_the_likeliest_tokens_are_decided_first():
    model = LocalModel()
    mask = torch.ones(1, 4, 40, dtype=torch.bool)
    fill(model, source(), mask, steps=2, sampling=GREEDY)
    first, second = model.seen
    sure = LocalModel()(first, where=mask).log_softmax(dim=-1).amax(dim=-1).view(1, 4, 40)
    assert sure[second != MASK].min() >= sure[second == MASK].max()


def test_conditioning_levels_are_seen_and_never_predicted():
    model = LocalModel(levels=6, conditioning=2)
    tokens = source(levels=6)
    mask = torch.ones(1, 6, 40, dtype=torch.bool)
    mask[:, :2] = False
    fill(model, tokens, mask)
    assert all(torch.equal(seen[:, :2], tokens[:, :2]) for seen in model.seen)
    assert all(asked.shape == (1, 4, 40) for asked in model.asked)
    with pytest.raises(ValueError, match="condition"):
        fill(model, tokens, torch.ones(1, 6, 40, dtype=torch.bool))


def test_an_empty_mask_costs_nothing():
    model = LocalModel()
    tokens = source(2)
    assert torch.equal(fill(model, tokens, torch.zeros(1, 4, 40, dtype=torch.bool)), tokens)
    assert model.seen == []


def test_fewer_tokens_than_steps_end_early_and_progress_still_arrives():
    model, steps = LocalModel(), []
    mask = torch.zeros(1, 4, 40, dtype=torch.bool)
    mask[0, 0, :3] = True
    fill(model, source(), mask, steps=20, on_step=lambda *args: steps.append(args))
    assert len(model.seen) == 3
    assert steps == [("tokens", 1, 20), ("tokens", 2, 20), ("tokens", 3, 20), ("tokens", 20, 20)]


def test_greedy_decoding_needs_no_luck_and_cutoff_zero_is_greedy():
    mask = random_mask(2)
    a, b = (fill(LocalModel(), source(2), mask, sampling=GREEDY, seed=seed) for seed in (0, 1))
    assert torch.equal(a, b)
    cut = fill(LocalModel(), source(2), mask, sampling=plain(mask_temperature=0, sample_cutoff=0.0))
    assert torch.equal(a, cut)
    c, d = (fill(LocalModel(), source(2), mask, sampling=plain(mask_temperature=0), seed=seed) for seed in (0, 1))
    assert not torch.equal(c, d) and not torch.equal(a, c)
    late = fill(LocalModel(), source(2), mask, sampling=plain(mask_temperature=0, sample_cutoff=0.5))
    assert not torch.equal(late, c) and not torch.equal(late, a)


def test_mask_temperature_changes_the_order_alone():
    mask = torch.ones(1, 4, 40, dtype=torch.bool)
    orders = []
    for weight in (0, 10):
        model = LocalModel()
        fill(model, source(), mask, steps=2, sampling=plain(mask_temperature=weight, temperature=0))
        orders.append(model.seen[1] == MASK)
    assert not torch.equal(*orders)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(tokens=source().float()), "int64"),
        (dict(tokens=source(levels=5)), "int64"),
        (dict(tokens=source()[..., :0]), "int64"),
        (dict(tokens=source()[0]), "int64"),
        (dict(tokens=source() + 1024), "0..1023"),
        (dict(tokens=source() - 701), "0..1023"),
        (dict(tokens=torch.full((1, 4, 40), MASK)), "MASK"),
        (dict(mask=torch.ones(1, 4, 40)), "bool"),
        (dict(mask=random_mask(steps=39)), "shape"),
        (dict(mask=random_mask(batch=2)), "shape"),
        (dict(steps=0), "at least 1"),
        (dict(batch=0), "at least 1"),
        (dict(tokens=source(steps=52), mask=random_mask(steps=52)), "context"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(change, message):
    arguments = dict(model=LocalModel(context=41), tokens=source(), mask=random_mask(), steps=2) | change
    with pytest.raises(ValueError, match=message):
        fill(**arguments)


def test_bad_tokens_raise_even_where_they_are_masked():
    tokens = source()
    tokens[0, 0, 0] = 2_000
    with pytest.raises(ValueError, match="0..1023"):
        fill(LocalModel(), tokens, torch.ones(1, 4, 40, dtype=torch.bool))


def test_models_in_training_mode_and_broken_models_are_refused():
    with pytest.raises(ValueError, match="eval"):
        fill(LocalModel().train(), source(), random_mask())
    model = LocalModel()
    with torch.no_grad():
        model.head[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        fill(model, source(), random_mask())
    with pytest.raises(ValueError, match="generators"):
        g.fill(LocalModel(), source(2), random_mask(), 2, plain(), generators(1))


def test_cancelling_stops_between_two_steps():
    model, answers = LocalModel(), iter([False, False, False, True])
    with pytest.raises(CancelledError, match="3 of 12"):
        fill(model, source(), random_mask(), steps=12, cancelled=lambda: next(answers))
    assert len(model.seen) == 3
