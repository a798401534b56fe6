import pytest
import torch

from vampnet.windows import LENGTH_SHARE, MARGIN_SHARE, plan_for_mask, plan_windows, reach

SIZES = [
    (steps, context)
    for context in (1, 2, 3, 8, 20, 57, 172)
    for steps in (*range(1, 3 * context + 2, max(1, context // 9)), 500)
]


def steps_of(window, total):
    return [(window.start + i) % total for i in range(window.length)]


@pytest.mark.parametrize("loop", [False, True])
def test_cores_partition_the_clip_and_windows_fit_the_model(loop):
    for steps, context in SIZES:
        plan = plan_windows(steps, context, loop)
        assert [t for window in plan for t in range(*window.core)] == list(range(steps))
        assert len({(window.length, window.ring) for window in plan}) == 1
        for window in plan:
            assert window.core[0] < window.core[1]
            assert window.length <= reach(context)
            assert len(plan) == 1 or window.length >= context
            seen = steps_of(window, steps)
            assert len(set(seen)) == len(seen)
            assert set(range(*window.core)) <= set(seen)


def test_windows_of_a_clip_stay_inside_it_and_keep_their_margins():
    for steps, context in SIZES:
        margin = context // MARGIN_SHARE
        plan = plan_windows(steps, context)
        for window in plan:
            assert window.start >= 0 and window.start + window.length <= steps
            assert window.length == steps if len(plan) == 1 else window.length >= context
            assert window.core[0] == 0 or window.core[0] - window.start >= margin
            assert window.core[1] == steps or window.start + window.length - window.core[1] >= margin


def test_windows_of_a_ring_have_margins_on_both_sides():
    for steps, context in SIZES:
        margin = context // MARGIN_SHARE
        if context < 8:
            continue
        plan = plan_windows(steps, context, loop=True)
        for window in plan:
            if len(plan) == 1:
                assert window.ring and window.length == steps
            else:
                assert not window.ring and window.core[0] - window.start >= margin
                assert window.start + window.length - window.core[1] >= margin


def test_long_clips_take_no_more_windows_than_they_must():
    assert len(plan_windows(575, 574)) == len(plan_windows(575, 574, loop=True)) == 1  # 10 s
    for loop in (False, True):
        assert len(plan_windows(717, 574, loop)) == 1
        assert len(plan_windows(718, 574, loop)) == 2
    for context in (172, 574):
        margin, most = context // MARGIN_SHARE, reach(context)
        for steps in (1_500, 5_000, 17_227):
            assert len(plan_windows(steps, context)) == 1 + -(-(steps - most) // (most - 2 * margin))
            assert len(plan_windows(steps, context, loop=True)) == -(-steps // (most - 2 * margin))


def test_ten_seconds_are_three_windows_of_the_fine_model():
    plan = plan_windows(575, 172)
    assert [window.length for window in plan] == [215] * 3
    assert [window.core for window in plan] == [(0, 198), (198, 378), (378, 575)]


@pytest.mark.parametrize("loop", [False, True])
def test_windows_have_few_lengths_and_are_hardly_longer_than_they_must_be(loop):
    context, margin = 172, 172 // MARGIN_SHARE
    lengths = set()
    for steps in range(reach(context) + 1, 3_000):
        plan = plan_windows(steps, context, loop)
        lengths.add(plan[0].length)
        joints = len(plan) if loop else len(plan) - 1
        needed = -(-steps // len(plan)) + 2 * margin if loop else -(-(steps + 2 * margin * joints) // len(plan))
        assert plan[0].length - max(needed, context) < context // LENGTH_SHARE
    assert len(lengths) <= 6


@pytest.mark.parametrize("loop", [False, True])
def test_plans_for_a_mask_decide_every_masked_step_once(loop):
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        steps, context = (int(torch.randint(1, high, (), generator=generator)) for high in (400, 90))
        first, last = sorted(int(x) for x in torch.randint(0, steps, (2,), generator=generator))
        mask = torch.zeros(3, steps, dtype=torch.bool)
        mask[:, first : last + 1] = torch.rand(3, last + 1 - first, generator=generator) < 0.3
        plan = plan_for_mask(mask, context, loop)
        decided = [t for window in plan for t in range(*window.core)]
        assert len(set(decided)) == len(decided)
        assert set(mask.any(dim=0).nonzero()[:, 0].tolist()) <= set(decided)
        for window in plan:
            assert mask[:, window.core[0] : window.core[1]].any()
            assert window.length <= reach(context)
            assert loop or (window.start >= 0 and window.start + window.length <= steps)
            assert loop or window.length >= min(steps, context)


def test_a_gap_that_fits_is_decided_in_one_window_with_both_sides_in_view():
    for first in range(0, 901, 13):
        mask = torch.zeros(2, 1_000, dtype=torch.bool)
        mask[:, first : first + 100] = True
        (window,) = plan_for_mask(mask, 200)
        assert window.length == 200
        assert first - window.start >= min(first, 50)
        assert window.start + 200 - (first + 100) >= min(1_000 - first - 100, 50)


def test_no_windows_for_nothing():
    assert plan_for_mask(torch.zeros(2, 50, dtype=torch.bool), 20) == []
    assert plan_for_mask(torch.zeros(2, 50, dtype=torch.bool), 20, loop=True) == []


@pytest.mark.parametrize("steps, context", [(0, 5), (5, 0)])
def test_windows_need_sizes(steps, context):
    with pytest.raises(ValueError, match="at least 1"):
        plan_windows(steps, context)
