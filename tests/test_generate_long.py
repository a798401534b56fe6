import pytest
import torch
from token_models import (
    GREEDY,
    POISON,
    FlatModel,
    LocalModel,
    TinyTransformer,
    assert_filled,
    plain,
    poisoned,
    random_mask,
    source,
)

from vampnet import generate as g
from vampnet.config import MASK, CancelledError
from vampnet.windows import plan_windows, reach

pytestmark = pytest.mark.usefixtures("one_thread")


# long audio


def test_long_clips_are_filled_in_windows_that_fit_and_see_no_masked_source():
    for steps in (51, 60, 100, 133):
        model = LocalModel(context=40)
        mask = random_mask(2, steps=steps, share=0.9, seed=steps)
        tokens = poisoned(source(2, steps=steps), mask)
        after = g.fill_windows(model, tokens, mask, 3, plain(), 0, [0, 1])
        assert_filled(tokens, after, mask)
        (shape,) = {seen.shape for seen in model.seen}
        assert shape[:2] == (1, 4) and 40 <= shape[2] <= reach(40)
        assert not any((seen == POISON).any() for seen in model.seen)


def test_windows_see_what_the_ones_before_decided_and_no_padding():
    model = LocalModel(context=40)
    mask = torch.ones(1, 4, 133, dtype=torch.bool)
    after = g.fill_windows(model, source(steps=133), mask, 3, plain(), 0, [0])
    plan = plan_windows(133, 40)
    firsts = model.seen[::3]
    assert len(firsts) == len(plan) >= 3
    for window, seen in zip(plan, firsts, strict=True):
        left = window.core[0] - window.start
        assert torch.equal(seen[..., :left], after[..., window.start : window.core[0]])
        assert (seen[..., left:] == MASK).all()


def test_only_the_windows_around_a_gap_are_computed():
    model = LocalModel(context=40)
    mask = torch.zeros(1, 4, 1_000, dtype=torch.bool)
    mask[..., 495:510] = True
    tokens = source(steps=1_000)
    after = g.fill_windows(model, tokens, mask, 3, plain(), 0, [0])
    assert_filled(tokens, after, mask)
    assert len(model.seen) == 3
    start = (model.seen[0][0, 0] == MASK).nonzero()[0, 0]
    assert torch.equal(model.seen[0][..., :start], tokens[..., 495 - start : 495])


def test_items_with_different_masks_do_not_change_each_other():
    masks = torch.zeros(3, 4, 300, dtype=torch.bool)
    masks[0, :, 100:110] = True
    masks[1, :, 50:250:3] = True
    tokens = source(3, steps=300)
    together = g.fill_windows(LocalModel(), tokens, masks, 3, plain(), 5, [0, 1, 2])
    assert_filled(tokens, together, masks)
    for i in range(3):
        alone = g.fill_windows(LocalModel(), tokens[i : i + 1], masks[i : i + 1], 3, plain(), 5, [i])
        assert torch.equal(together[i : i + 1], alone)


def test_every_window_stage_round_take_and_seed_has_its_own_noise():
    mask = torch.ones(1, 4, 100, dtype=torch.bool)

    def noise(seed=0, take=0, **kwargs):
        return g.fill_windows(FlatModel(), source(steps=100), mask, 1, plain(), seed, [take], **kwargs)

    base = noise()
    plan = plan_windows(100, 40)
    pieces = [base[..., window.core[0] : window.core[0] + 20] for window in plan[1:3]]
    assert (pieces[0] == pieces[1]).float().mean() < 0.1
    for other in (noise(seed=1), noise(take=1), noise(stage="fine"), noise(rounds=2)):
        assert (base == other).float().mean() < 0.2
    assert torch.equal(base, noise())


def test_feedback_builds_on_the_round_before_and_keeps_the_prompt():
    model = LocalModel(context=64)
    mask = torch.ones(1, 4, 64, dtype=torch.bool)
    mask[..., ::8] = False
    tokens = poisoned(source(steps=64), mask)
    one = g.fill_windows(LocalModel(context=64), tokens, mask, 4, plain(), 0, [0])
    two = g.fill_windows(model, tokens, mask, 4, plain(), 0, [0], rounds=2)
    assert_filled(tokens, two, mask)
    assert len(model.seen) == 8
    seen = model.seen[4][0]
    stayed = (seen != MASK).all(dim=0)
    assert int(stayed.sum()) == 8 + 7
    assert torch.equal(seen[:, stayed], one[0][:, stayed])
    assert not torch.equal(one, two)


def test_progress_counts_over_all_windows_and_rounds_and_cancel_works_between_them():
    calls = []
    mask = torch.ones(1, 4, 133, dtype=torch.bool)
    g.fill_windows(
        LocalModel(),
        source(steps=133),
        mask,
        3,
        plain(),
        0,
        [0],
        rounds=2,
        stage="coarse",
        on_step=lambda *a: calls.append(a),
    )
    total = len(plan_windows(133, 40)) * 3 * 2
    assert calls == [("coarse", i + 1, total) for i in range(total)]
    seen = []
    with pytest.raises(CancelledError):
        g.fill_windows(
            LocalModel(),
            source(steps=133),
            mask,
            3,
            plain(),
            0,
            [0],
            on_step=lambda *a: seen.append(a),
            cancelled=lambda: len(seen) == 7,
        )
    assert len(seen) == 7


# rings


def test_a_ring_has_no_beginning():
    """Rolling the source rolls the result, for a model that treats all steps alike; a clip that is no ring has edges."""
    for steps in (5, 17, 30):
        mask = random_mask(steps=steps, share=0.8)
        tokens = source(steps=steps)
        for shift in (1, steps // 2, steps - 1):
            rolled = {}
            for loop in (True, False):
                models = LocalModel(context=40), LocalModel(context=40)
                plain = g.fill_windows(models[0], tokens, mask, 4, GREEDY, 0, [0], loop=loop)
                turned = g.fill_windows(models[1], tokens.roll(shift, -1), mask.roll(shift, -1), 4, GREEDY, 0, [0], loop=loop)
                rolled[loop] = torch.equal(plain.roll(shift, -1), turned)
            assert rolled[True]
            assert steps < 30 or not rolled[False]


@pytest.mark.parametrize(("steps", "windows"), [(1, 1), (28, 1), (50, 1), (51, 2)])
def test_a_ring_that_fits_is_shown_once_and_as_a_ring(steps, windows):
    model = LocalModel(context=40)
    mask = random_mask(steps=steps, share=0.9)
    tokens = poisoned(source(steps=steps), mask)
    after = g.fill_windows(model, tokens, mask, 5, plain(), 0, [0], loop=True)
    assert_filled(tokens, after, mask)
    assert set(model.rings) == {windows == 1} and {seen.shape[-1] for seen in model.seen} == {steps if windows == 1 else 40}
    model.rings.clear()
    g.fill_windows(model, tokens, mask, 5, plain(), 0, [0])
    assert not any(model.rings)


@pytest.mark.parametrize("steps", [51, 55, 60, 90, 133])
def test_the_ends_of_a_long_ring_see_each_other(steps):
    model = LocalModel(context=40)
    mask = torch.ones(1, 4, steps, dtype=torch.bool)
    tokens = source(steps=steps)
    mask[..., -1] = False
    tokens[..., -1] = 999
    after = g.fill_windows(model, poisoned(tokens, mask), mask, 3, plain(), 0, [0], loop=True)
    assert_filled(poisoned(tokens, mask), after, mask)
    plan = plan_windows(steps, 40, loop=True)
    assert len(model.seen) == 3 * len(plan) >= 6
    assert {seen.shape[-1] for seen in model.seen} == {plan[0].length}
    # the first window sees the end of the clip on its left ...
    left = -plan[0].start
    assert left >= 4 and (model.seen[0][..., left - 1] == 999).all()
    assert (model.seen[0][..., left:] != 999).all()
    # ... and the last one sees on its right what the first has decided
    right = plan[-1].start + plan[-1].length - steps
    assert right >= 4
    assert torch.equal(model.seen[-3][..., -right:], after[..., :right])


# both stages


def stages(context=40, levels=6):
    return LocalModel(3, 0, context), LocalModel(levels, 3, context // 2, seed=1)


def test_generate_fills_both_stages_and_keeps_what_the_prompt_keeps():
    for i in range(8):
        mask = random_mask(levels=6, steps=70, share=0.6, seed=i)
        tokens = poisoned(source(levels=6, steps=70, seed=i), mask)
        after = g.generate(*stages(), tokens, mask, plain(steps=3, fine_steps=2), i, [0, 1], loop=i % 2 == 1)
        assert_filled(tokens.expand(2, -1, -1), after, mask)
        assert not torch.equal(after[0], after[1])


def test_the_fine_stage_is_conditioned_on_what_the_coarse_one_made():
    coarse, fine = stages()
    mask = torch.ones(1, 6, 20, dtype=torch.bool)
    after = g.generate(coarse, fine, source(levels=6, steps=20), mask, plain(steps=3, fine_steps=2), 0, [0])
    assert all(torch.equal(seen[:, :3], after[:, :3]) for seen in fine.seen)


def test_the_fine_stage_heeds_seed_and_temperature():
    mask = torch.ones(1, 6, 30, dtype=torch.bool)
    mask[:, :3] = False
    tokens = source(levels=6, steps=30)

    def made(seed, **options):
        return g.generate(*stages(), tokens, mask, plain(fine_steps=2, mask_temperature=0, **options), seed, [0])

    assert not torch.equal(made(0), made(1))
    assert torch.equal(made(0, temperature=0), made(1, temperature=0))
    assert not torch.equal(made(0), made(0, temperature=0.1))
    # Typical tokens are for the coarse stage: it is the fine one that is drawn from here.
    assert torch.equal(made(0, typical_mass=0.1), made(0, typical_mass=1.0))
    assert not torch.equal(made(0, top_k=1), made(0))


def test_take_i_depends_on_seed_and_i_alone():
    coarse, fine = TinyTransformer(4, 0, 50), TinyTransformer(14, 4, 20)
    mask = random_mask(levels=14, steps=80, share=0.85)
    tokens = source(levels=14, steps=80)

    def made(takes, loop=False):
        return g.generate(coarse, fine, tokens, mask, plain(steps=4, fine_steps=2, feedback=2), 3, takes, loop=loop)

    for loop in (False, True):
        eight = made(range(8), loop)
        assert len({take.numpy().tobytes() for take in eight}) == 8
        assert torch.equal(eight[:4], made([0, 1, 2, 3], loop))
        for i in (0, 5):
            assert torch.equal(eight[i : i + 1], made([i], loop))
        torch.manual_seed(1)
        assert torch.equal(eight[[6, 2]], made([6, 2], loop))


def test_batches_for_a_gpu_fill_as_correctly():
    mask = random_mask(levels=6, steps=70)
    tokens = poisoned(source(levels=6, steps=70), mask)
    coarse, fine = stages()
    after = g.generate(coarse, fine, tokens, mask, plain(steps=3, fine_steps=2), 0, range(5), batch=2)
    assert_filled(tokens.expand(5, -1, -1), after, mask)
    # In the first step nothing tells the takes apart yet, and one is asked for all.
    assert [len(seen) for seen in coarse.seen[:7]] == [1, 2, 2, 1, 2, 2, 1]


def test_stages_are_named_in_the_progress():
    calls = []
    mask = torch.ones(1, 6, 30, dtype=torch.bool)
    g.generate(
        *stages(),
        source(levels=6, steps=30),
        mask,
        plain(steps=3, fine_steps=2, feedback=2),
        0,
        [0],
        on_step=lambda *a: calls.append(a),
    )
    assert [call for call in calls if call[0] == "coarse"] == [("coarse", i + 1, 6) for i in range(6)]
    fine = [call for call in calls if call[0] == "fine"]
    assert calls[-1] == fine[-1] and fine[-1][1] == fine[-1][2] == 2 * len(plan_windows(30, 20))


def test_generate_refuses_what_does_not_fit():
    coarse, fine = stages()
    tokens, mask = source(levels=6, steps=30), random_mask(levels=6, steps=30)
    with pytest.raises(ValueError, match="at least one take"):
        g.generate(coarse, fine, tokens, mask, plain(), 0, [])
    with pytest.raises(ValueError, match="conditioned on 3"):
        g.generate(LocalModel(4), fine, tokens, mask, plain(), 0, [0])
    with pytest.raises(ValueError, match="int64"):
        g.generate(coarse, fine, tokens[0], mask, plain(), 0, [0])
    with pytest.raises(ValueError, match="take numbers"):
        g.generate(coarse, fine, tokens.expand(2, -1, -1), mask, plain(), 0, [0, 1, 2])
    bad = tokens.clone()
    bad[0, 5, 29] = 1_024
    with pytest.raises(ValueError, match="0..1023"):
        g.generate(coarse, fine, bad, mask & False, plain(), 0, [0])
    assert coarse.seen == []
