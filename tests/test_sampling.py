import math
from functools import partial

import pytest
import torch

from vampnet import sampling as s
from vampnet.config import Sampling

unfiltered = partial(Sampling, typical_mass=1.0)


def logits_of(rows=64, size=50, seed=0, spread=2.0):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * spread


def survivors(logits):
    return logits.isfinite()


def stratified(n):
    """n numbers spread evenly over [0, 1): drawing with them counts out a distribution almost exactly."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def test_generators_depend_on_every_part_of_their_name_and_on_nothing_else():
    def first(*name):
        return torch.rand(4, generator=s.take_generator(*name)).tolist()

    names = [(0, 0), (0, 1), (1, 0), (-1, 0), (0, 0, "coarse"), (0, 0, "fine"), (0, 0, "coarse", 0, 1), (0, 0, "coarse", 1, 0)]
    drawn = [tuple(first(*name)) for name in names]
    assert len(set(drawn)) == len(names)
    torch.manual_seed(99)
    assert [tuple(first(*name)) for name in names] == drawn


def test_noise_of_an_item_is_its_own():
    for noise in (s.uniform, s.gumbel):
        four = noise((3, 5), [s.take_generator(7, i) for i in range(4)])
        assert four.shape == (4, 3, 5)
        assert torch.equal(four[2:3], noise((3, 5), [s.take_generator(7, 2)]))
        assert not torch.equal(four[0], four[1])


def test_gumbel_noise_has_its_mean_and_variance_and_is_finite():
    noise = s.gumbel((200_000,), [s.take_generator(0, 0)])
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)
    assert noise.isfinite().all()


def test_no_filter_leaves_the_logits_alone():
    logits = logits_of()
    assert torch.equal(s.filter_logits(logits, unfiltered()), logits)
    assert torch.equal(s.filter_logits(logits, unfiltered(temperature=0)), logits)
    assert torch.equal(s.filter_logits(logits, unfiltered(top_k=50)), logits)
    assert s.filter_logits(logits.bfloat16(), unfiltered()).dtype == torch.float32


def test_temperature_divides():
    logits = logits_of()
    assert torch.allclose(s.filter_logits(logits, unfiltered(temperature=2.0)), logits / 2)


def test_top_k_keeps_exactly_the_k_likeliest():
    logits = logits_of()
    logits[0] = 0  # k of them even if all are equal
    for k in (1, 3, 49):
        kept = survivors(s.filter_logits(logits, unfiltered(top_k=k)))
        assert (kept.sum(dim=-1) == k).all()
        lowest_kept = logits.masked_fill(~kept, torch.inf).amin(dim=-1)
        assert (lowest_kept >= logits.masked_fill(kept, -torch.inf).amax(dim=-1)).all()


@pytest.mark.parametrize("mass", [0.05, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_smallest_likeliest_set_of_that_mass(mass):
    logits = logits_of()
    kept = survivors(s.filter_logits(logits, unfiltered(top_p=mass)))
    for row, keep in zip(logits.double().softmax(dim=-1), kept, strict=True):
        ordered = row.sort(descending=True).values
        n = int(keep.sum())
        assert n >= 1
        assert torch.equal(row[keep].sort(descending=True).values, ordered[:n])
        assert ordered[:n].sum() >= mass - 1e-6
        assert ordered[: n - 1].sum() < mass + 1e-6


@pytest.mark.parametrize("mass", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("at_least", [1, 4, 100])
def test_typical_filtering_keeps_the_most_typical_tokens_of_that_mass(mass, at_least):
    logits = logits_of()
    kept = survivors(s.filter_logits(logits, Sampling(typical_mass=mass, typical_min_tokens=at_least)))
    for row, keep in zip(logits.double().softmax(dim=-1), kept, strict=True):
        entropy = -(row * row.log()).sum()
        distance = (-row.log() - entropy).abs()
        order = distance.argsort()
        needed = int((row[order].cumsum(0) < mass).sum()) + 1
        n = min(max(needed, at_least), len(row))
        assert set(keep.nonzero()[:, 0].tolist()) == set(order[:n].tolist())


def test_typical_filtering_can_drop_the_likeliest_token_and_changes_draws():
    p = torch.tensor([[0.4] + [0.05] * 12])
    filtered = s.filter_logits(p.log(), Sampling(typical_mass=0.3))
    assert not survivors(filtered)[0, 0]
    u = stratified(1_000)
    plain = s.draw(p.log().expand(1_000, -1).softmax(-1), u)
    typical = s.draw(filtered.expand(1_000, -1).softmax(-1), u)
    assert (plain == 0).sum() == 400
    assert (typical == 0).sum() == 0


def test_filters_in_a_row_leave_at_least_one_token_and_never_bring_one_back():
    logits = logits_of(spread=8.0)
    strict = Sampling(temperature=0.7, top_k=5, top_p=0.8, typical_mass=0.1, typical_min_tokens=10)
    kept = survivors(s.filter_logits(logits, strict))
    assert (kept.sum(dim=-1) >= 1).all() and (kept.sum(dim=-1) <= 5).all()
    assert not s.filter_logits(logits, strict).isnan().any()


def test_label_smoothing_is_taken_back():
    p = logits_of().softmax(dim=-1)
    p[:, 7:20] = 0
    p /= p.sum(dim=-1, keepdim=True)
    said = 0.9 * p + 0.1 / p.shape[-1]
    found = s.unsmoothed(said, 0.1)
    torch.testing.assert_close(found / found.sum(dim=-1, keepdim=True), p, rtol=1e-4, atol=1e-6)
    # A model that gives every token the same still has something to draw.
    assert (s.unsmoothed(torch.full((1, 4), 0.25), 0.9) > 0).all()


@pytest.mark.parametrize("look", [True, False])
def test_typical_tokens_are_drawn_as_often_as_where_they_are_sorted_out(look):
    n, mass = 40_000, 0.5
    p = (torch.randn(2, 64, generator=torch.Generator().manual_seed(0)) * 2).softmax(-1)
    u = s.uniform((n, 20), [torch.Generator().manual_seed(i) for i in (1, 2)]).float()
    rows, u = p.repeat_interleave(n, dim=0), u.flatten(0, 1)
    found = s.draw_typical(rows, u, mass, look)
    wanted = s.filter_logits(p.log(), Sampling(typical_mass=mass)).softmax(-1)
    for tokens, expected in zip(found.view(2, n), wanted, strict=True):
        counts = torch.bincount(tokens, minlength=64)
        assert not counts[expected == 0].any()
        assert torch.allclose(counts / n, expected, atol=4 * 0.5 / n**0.5)
    assert torch.equal(found, s.draw_typical(rows, u, mass))
    # Who never draws a typical one gets the most typical.
    assert torch.equal(s.draw_typical(rows, u, 1e-9, look), wanted_most(rows))


def test_typical_tokens_are_for_the_coarsest_level_alone():
    coarse, fine = (s.typical_levels((2, 4, 5), first, torch.device("cpu")) for first in (0, 4))
    assert coarse.shape == (2, 4, 5) and coarse[:, :1].all() and not coarse[:, 1:].any() and not fine.any()


def wanted_most(p):
    return (p.log() + torch.special.entr(p).sum(-1, keepdim=True)).abs().argmin(-1)


def test_only_typical_filtering_alone_takes_more_numbers():
    assert s.numbers_a_token(Sampling(typical_mass=0.5)) == s.TRIES
    for other in ({}, {"top_p": 0.9}, {"top_k": 9}, {"typical_min_tokens": 2}, {"temperature": 0.0}, {"typical_mass": 0.4}):
        options = other if not other else {"typical_mass": 0.5, **other}
        sampling = Sampling(**{"typical_mass": 1.0, **options})
        assert s.numbers_a_token(sampling) == 1
        s.choose(torch.randn(3, 16), torch.rand(3), sampling, 0.1)
    broken = torch.full((3, 16), torch.nan)
    token, log_p = s.choose(broken, torch.rand(3, s.TRIES), Sampling(typical_mass=0.5), 0.1)
    assert (token < 16).all() and not log_p.isfinite().any()


def test_what_smoothing_alone_makes_possible_is_never_chosen():
    p = torch.tensor([0.5, 0.3, 0.2, *[0.0] * 97])
    logits = (0.9 * p + 0.001).log()
    n = 2_000
    plain, undone = (s.choose(logits.expand(n, -1), stratified(n), unfiltered(), e)[0] for e in (0.0, 0.1))
    assert (plain > 2).sum() == pytest.approx(0.097 * n, abs=3)
    assert torch.bincount(undone, minlength=3).tolist() == pytest.approx([1000, 600, 400], abs=3)
    token, log_p = s.choose(logits.expand(n, -1), stratified(n), unfiltered(), 0.1)
    assert torch.allclose(log_p, logits.log_softmax(dim=-1)[token], atol=1e-5)  # how sure the model is, is what it says


def test_temperature_and_filters_come_after_smoothing_is_taken_back():
    p = torch.tensor([0.5, 0.3, 0.2, *[0.0] * 97])
    logits, n = (0.9 * p + 0.001).log(), 3_000
    hot = s.choose(logits.expand(n, -1), stratified(n), unfiltered(temperature=2.0), 0.1)[0]
    wanted = (p.sqrt() / p.sqrt().sum() * n)[:3]
    assert torch.bincount(hot, minlength=3).tolist() == pytest.approx(wanted.tolist(), abs=5)
    two = s.choose(logits.expand(n, -1), stratified(n), unfiltered(top_k=2), 0.1)[0]
    assert set(two.tolist()) == {0, 1}
    for u, sampling in ((None, unfiltered()), (stratified(1), unfiltered(temperature=0))):
        assert s.choose(logits[None], u, sampling, 0.1)[0].tolist() == [0]


def test_damaged_logits_choose_a_token_that_there_is_and_say_so():
    logits = torch.full((2, 9), torch.nan)
    for sampling in (Sampling(), Sampling(temperature=0.5), Sampling(top_p=0.5), Sampling(typical_mass=0.5)):
        for smoothing in (0.0, 0.1):
            numbers = s.numbers_a_token(sampling)
            u = torch.tensor([0.2, 0.9]) if numbers == 1 else torch.rand(2, numbers)
            token, log_p = s.choose(logits, u, sampling, smoothing)
            assert (token < 9).all() and not log_p.isfinite().any()


def test_draws_follow_the_categorical_distribution():
    logits = logits_of(rows=1, size=20)
    n = 20_000
    counts = torch.bincount(s.draw(logits.expand(n, -1).softmax(-1), stratified(n)), minlength=20)
    expected = logits[0].double().softmax(dim=-1) * n
    assert ((counts - expected).abs() <= 1.5).all()
    random = s.draw(logits.expand(n, -1).softmax(-1), s.uniform((n,), [s.take_generator(0, 0)])[0])
    shares = torch.bincount(random, minlength=20) / n
    assert (shares - expected / n).abs().max() < 0.02


def test_tokens_without_probability_are_never_drawn_even_at_the_ends():
    logits = torch.zeros(1, 30)
    logits[:, :3] = logits[:, 10:20] = logits[:, -3:] = -torch.inf
    u = torch.tensor(
        [0.0, 1e-300, 1 - 2**-53, 1 - 2**-24, 0.5, *torch.rand(500, dtype=torch.float64).tolist()], dtype=torch.float64
    )
    drawn = s.draw(logits.expand(len(u), -1).softmax(-1), u)
    assert logits[0, drawn].isfinite().all()
    assert drawn[0] == 3 and drawn[2] == 26


def test_draw_keeps_leading_shapes():
    logits = logits_of(rows=24).view(2, 3, 4, 50)
    u = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(s.draw(logits.softmax(-1), u).flatten(), s.draw(logits.view(24, 50).softmax(-1), u.flatten()))


def test_schedule_is_the_cosine_of_the_paper():
    n, steps = 2_296, 24
    for i in range(steps - 1):
        assert s.mask_count(i, steps, n) == math.floor(n * math.cos(math.pi / 2 * (i + 1) / steps))
    assert s.mask_count(steps - 1, steps, n) == 0


def test_schedule_decides_something_in_every_step_until_nothing_is_left():
    for n in (*range(0, 60), 574, 2_296):
        for steps in (1, 2, 3, 7, 12, 36, 72):
            left = n
            for i in range(steps):
                now = s.mask_count(i, steps, n)
                assert 0 <= now < left or now == left == 0
                left = now
            assert left == 0


def test_schedule_counts_each_item_on_its_own():
    n = torch.tensor([2_296, 100, 5, 1, 0])
    for i in range(12):
        assert s.mask_count(i, 12, n).tolist() == [s.mask_count(i, 12, int(one)) for one in n]


def test_schedule_refuses_steps_that_do_not_exist():
    for step in (-1, 4):
        with pytest.raises(ValueError, match="steps"):
            s.mask_count(step, 4, 10)


def test_confidence_and_its_temperature():
    assert [s.mask_temperature(i, 4, 8.0) for i in range(4)] == [6.0, 4.0, 2.0, 0.0]
    log_p, noise = torch.randn(5), torch.randn(5, dtype=torch.float64)
    assert torch.equal(s.confidence(log_p, noise, 0.0), log_p)
    assert torch.allclose(s.confidence(log_p, noise, 3.0), log_p + 3 * noise.float())


def test_least_confident_are_chosen_among_the_masked_of_each_item():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        sure = torch.randn(3, 4, 10, generator=generator)
        masked = torch.rand(3, 4, 10, generator=generator) < 0.6
        n = (masked.sum(dim=(1, 2)) * torch.rand(3, generator=generator)).long()
        again = s.least_confident(sure, masked, n)
        assert torch.equal(again.sum(dim=(1, 2)), n)
        assert (again <= masked).all()
        for i in range(3):
            decided = masked[i] & ~again[i]
            if again[i].any() and decided.any():
                assert sure[i][again[i]].max() <= sure[i][decided].min()


def test_least_confident_breaks_ties_without_losing_count():
    again = s.least_confident(torch.zeros(2, 6), torch.tensor([[1, 0, 1, 1, 0, 1]] * 2).bool(), torch.tensor([2, 3]))
    assert again.tolist() == [[True, False, True, False, False, False], [True, False, True, True, False, False]]
