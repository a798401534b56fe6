import time

import pytest
import torch

from vampnet import masks
from vampnet.config import TokenGrid

GRID = TokenGrid()


def kept_steps(mask):
    """Time steps at which every level stays; fails if a step is kept in part."""
    assert torch.equal((~mask).any(dim=-2), (~mask).all(dim=-2))
    return (~mask).all(dim=-2)


def indices(mask):
    return kept_steps(mask).nonzero()[:, 0].tolist()


def test_periodic_is_exactly_as_wide_as_asked_for_every_length():
    for steps in (*range(1, 40), 574, 1_001):
        for period in (1, 2, 3, 5, 7, 16):
            for width in range(1, period + 2):
                for offset in (0, 1, period - 1, period + 2, -1):
                    expected = [t for t in range(steps) if (t - offset) % period < width]
                    assert indices(masks.periodic((3, steps), period, width, offset)) == expected


def test_width_two_is_not_width_three():
    counts = [len(indices(masks.periodic((14, 700), 7, width))) for width in (1, 2, 3, 4)]
    assert counts == [100, 200, 300, 400]


def test_periodic_ends():
    assert masks.periodic((2, 9), 0).all()
    assert not masks.periodic((2, 9), 1).any()
    assert torch.equal(masks.periodic((2, 50), 7, 2, 3), masks.periodic((2, 50), 7, 2, 10))
    with pytest.raises(ValueError, match="period"):
        masks.periodic((2, 9), -1)
    with pytest.raises(ValueError, match="width"):
        masks.periodic((2, 9), 3, 0)


def test_jitter_moves_each_kept_stretch_a_little_and_the_first_one_not_at_all():
    for period, width, offset, jitter in ((7, 1, 0, 2), (7, 2, 3, 9), (16, 4, -5, 6), (5, 1, 2, 1), (48, 1, 0, 24)):
        most = min(jitter, (period - width) // 2)
        kept = indices(masks.periodic((3, 900), period, width, offset, jitter=jitter))
        first = offset % period
        assert kept == indices(masks.periodic((3, 900), period, width, offset + 3 * period, jitter=jitter))
        assert set(range(first, first + width)) <= set(kept)
        inner = [t for t in kept if first + period - most <= t < 900 - period - width]
        starts = inner[::width]
        assert inner == [t + i for t in starts for i in range(width)]
        moves = [t - first - period * (n + 1) for n, t in enumerate(starts)]
        assert set(moves) <= set(range(-most, most + 1)) and (period > 7 or {-most, most} <= set(moves))
    assert torch.equal(masks.periodic((2, 50), 2, jitter=2), masks.periodic((2, 50), 2))
    assert not masks.periodic((2, 9), 1, jitter=2).any() and masks.periodic((2, 9), 0, jitter=2).all()
    with pytest.raises(ValueError, match="jitter"):
        masks.periodic((2, 9), 3, jitter=-1)


def test_with_jitter_a_rhythm_of_nearly_the_same_period_is_not_missed_for_seconds():
    def steadiness(jitter: int) -> list[float]:
        """How much the kept steps of two seconds keep to one place in a rhythm, 0..1, for some rhythms."""
        kept = torch.tensor(indices(masks.periodic((1, 1200), 7, jitter=jitter))).double()
        found = []
        for gap in (3.45, 6.9, 7.2):
            windows = [kept[(kept >= start) & (kept < start + 115)] for start in range(0, 1000, 50)]
            found.append(max(float(torch.polar(torch.ones_like(w), 2 * torch.pi * w / gap).mean().abs()) for w in windows))
        return found

    even, uneven = steadiness(0), steadiness(2)
    assert min(even) > 0.65 and all(with_jitter < 0.8 * without for with_jitter, without in zip(uneven, even, strict=True))


def test_prefix_and_suffix():
    for steps in (1, 2, 10, 57):
        for prefix in (0, 1, 5, 100):
            for suffix in (0, 1, 5, 100):
                expected = [t for t in range(steps) if t < prefix or t >= steps - suffix]
                assert indices(masks.prefix_suffix((4, steps), prefix, suffix)) == expected
    with pytest.raises(ValueError, match="negative"):
        masks.prefix_suffix((4, 9), -1, 0)


def test_codebooks_and_depth():
    for n in range(0, 16):
        mask = masks.codebooks((2, 14, 6), n)
        assert mask.shape == (2, 14, 6)
        assert not mask[:, :n].any() and mask[:, n:].all()
        shallow = masks.prompt_depth(masks.periodic((14, 20), 5), n)
        assert shallow[n:].all()
        assert torch.equal(shallow[:n], masks.periodic((14, 20), 5)[:n])
    with pytest.raises(ValueError, match="negative"):
        masks.codebooks((14, 6), -1)
    with pytest.raises(ValueError, match="negative"):
        masks.prompt_depth(masks.everything((14, 6)), -1)


def test_depth_leaves_its_argument_alone():
    mask = masks.periodic((14, 20), 2)
    before = mask.clone()
    masks.prompt_depth(mask, 3)
    assert torch.equal(mask, before)


def test_beats_start_at_their_own_token_for_every_position():
    steps = 600
    for t in range(steps):
        start = GRID.tokens_to_seconds(t)
        expected = list(range(t, min(t + 4, steps)))
        assert indices(masks.around_times((1, steps), [start], 75, GRID)) == expected
        # and so does a beat at the last sample of the same token
        late = GRID.samples_to_seconds(GRID.tokens_to_samples(t + 1) - 1)
        assert indices(masks.around_times((1, steps), [late], 75, GRID)) == expected


def test_steps_before_a_beat():
    at = GRID.tokens_to_seconds(50)
    assert indices(masks.around_times((1, 100), [at], 75, GRID, lead=2)) == list(range(48, 54))
    assert indices(masks.around_times((1, 100), [0.0], 75, GRID, lead=2)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="fewer than none"):
        masks.around_times((1, 100), [at], 75, GRID, lead=-1)


def test_beats_at_the_edges():
    around = lambda times, width=75: indices(masks.around_times((2, 100), times, width, GRID))  # noqa: E731
    end = GRID.tokens_to_seconds(100)
    assert around([end]) == []
    assert around([end - 0.001]) == [99]
    assert around([end + 5]) == []
    assert around([-10.0]) == []
    assert around([]) == []
    assert around([0.0], 0.1) == [0]
    assert around([0.0, 0.01], 75) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="positive"):
        around([0.0], 0)
    with pytest.raises(ValueError, match="numbers"):
        around([float("nan")])


def test_region_keeps_all_but_itself():
    assert indices(masks.region((3, 10), 2, 5)) == [0, 1, 5, 6, 7, 8, 9]
    assert masks.region((3, 10), 0, 10).all()
    for start, stop in ((5, 5), (-1, 4), (3, 11), (6, 2)):
        with pytest.raises(ValueError, match="region"):
            masks.region((3, 10), start, stop)


def test_dropout_frees_exactly_its_share_without_replacement():
    for steps in (1, 7, 50, 574):
        for period in (1, 2, 7):
            mask = masks.periodic((14, steps), period)
            kept = int(kept_steps(mask).sum())
            for share in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
                freed = masks.dropout(mask, share, torch.Generator().manual_seed(steps))
                assert int(kept_steps(freed).sum()) == kept - round(share * kept)
                assert (freed >= mask).all(), "dropout must only free tokens"


def test_dropout_depends_on_the_generator_alone_and_is_nested():
    mask = masks.periodic((14, 574), 2)
    low, again, other = (masks.dropout(mask, 0.3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    high = masks.dropout(mask, 0.6, torch.Generator().manual_seed(1))
    assert torch.equal(low, again)
    assert not torch.equal(low, other)
    assert (high >= low).all()


def test_dropout_counts_steps_that_are_kept_in_part_and_treats_items_apart():
    mask = masks.prompt_depth(masks.periodic((14, 70), 7), 3).expand(2, 14, 70).clone()
    freed = masks.dropout(mask, 0.5, torch.Generator().manual_seed(0))
    left = (~freed).any(dim=1)
    assert left.sum(dim=1).tolist() == [5, 5]
    assert not torch.equal(left[0], left[1])
    assert not mask[0, 0, 0], "the argument must not change"
    with pytest.raises(ValueError, match="share"):
        masks.dropout(mask, 1.1, torch.Generator())


def test_union_keeps_what_any_mask_keeps():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        parts = [torch.rand((3, 8), generator=generator) < 0.5 for _ in range(3)]
        union = masks.keep_union(*parts)
        assert torch.equal(~union, ~parts[0] | ~parts[1] | ~parts[2])
    alone = masks.keep_union(parts[0])
    alone[:] = True
    assert not parts[0].all()
    assert masks.keep_union(parts[0], torch.ones(2, 3, 8, dtype=torch.bool)).shape == (2, 3, 8)
    with pytest.raises(ValueError, match="at least one"):
        masks.keep_union()
    with pytest.raises(ValueError, match="bool"):
        masks.keep_union(torch.ones(3, 8))


def test_masks_of_one_shape_do_not_share_memory():
    mask = masks.periodic((2, 3, 10), 2)
    mask[0, 0, 0] = True
    assert not mask[0, 1, 0] and not mask[1, 0, 0]


@pytest.mark.parametrize("shape", [(5,), (0, 5), (3, 0), (1, 2, 3, 4)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match="shape"):
        masks.periodic(shape, 2)


@pytest.mark.parametrize("loop", [False, True])
def test_a_width_without_end_costs_no_more_than_the_clip(loop):
    start = time.monotonic()
    mask = masks.around_times((14, 575), [0.5 * beat for beat in range(20)], 2e9, TokenGrid(), lead=10**9, loop=loop)
    assert not mask.any() and time.monotonic() - start < 5, "all of it stays"


def test_a_period_without_end_costs_no_more_than_the_clip():
    """Kept stretches of two thousand million time steps, of which the clip sees the beginning of one and the end of another."""
    mask = masks.periodic((14, 575), 2**31 - 1, 2**31 - 100, jitter=2)
    assert not mask.any()
    kept = indices(masks.periodic((14, 575), 2**31 - 1, 2**31 - 100, 300, jitter=2))
    end = kept.index(300)
    assert kept == [*range(end), *range(300, 575)] and abs(end - 201) <= 2
