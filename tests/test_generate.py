import pytest
import torch
from torch import nn

from vampnet import generate as g
from vampnet.config import MASK, CancelledError, Sampling, TransformerConfig
from vampnet.sampling import mask_count, take_generator
from vampnet.windows import plan_windows

POISON = 777
"""A code that the models here never predict: where it shows up, something was taken from the masked source."""

GREEDY = Sampling(temperature=0, mask_temperature=0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small gain nothing from threads, and on a busy machine these wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class LocalModel(nn.Module):
    """Sees `reach` steps to each side, alike everywhere, and records what it is called with."""

    def __init__(self, levels=4, conditioning=0, context=40, reach=2, seed=0):
        super().__init__()
        self.config = TransformerConfig(levels, conditioning, dim=16, heads=2, layers=1, context=context)
        generator = torch.Generator().manual_seed(seed)
        self.vectors = nn.Parameter(torch.randn(levels, MASK + 1, 12, generator=generator))
        self.kernel = nn.Parameter(torch.randn(12, 12, 2 * reach + 1, generator=generator) / 6)
        self.head = nn.Parameter(torch.randn(self.config.n_predicted, 12, 1024, generator=generator))
        self.seen, self.asked = [], []
        self.eval()

    def forward(self, tokens, where=None):
        batch, levels, steps = tokens.shape
        assert levels == self.config.n_codebooks and steps <= self.config.context
        assert tokens.min() >= 0 and tokens.max() <= MASK
        self.seen.append(tokens.clone())
        self.asked.append(where.clone())
        hidden = sum(self.vectors[k][tokens[:, k]] for k in range(levels)).transpose(1, 2)
        hidden = torch.tanh(nn.functional.conv1d(hidden, self.kernel, padding="same"))
        item, level, step = where.nonzero(as_tuple=True)
        logits = torch.einsum("md,kdv->mkv", hidden[item, :, step], self.head)[torch.arange(len(level)), level]
        logits[:, POISON] = -1e9
        return logits


class TinyTransformer(nn.Module):
    """Every step sees every other one: real attention, whose rounding depends on the shape of the batch."""

    def __init__(self, levels, conditioning, context):
        super().__init__()
        self.config = TransformerConfig(levels, conditioning, dim=32, heads=2, layers=1, context=context)
        torch.manual_seed(0)
        self.vectors = nn.ModuleList(nn.Embedding(MASK + 1, 32) for _ in range(levels))
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.head = nn.Linear(32, 1024 * self.config.n_predicted)
        self.eval()

    def forward(self, tokens, where=None):
        hidden = self.layer(sum(vectors(tokens[:, k]) for k, vectors in enumerate(self.vectors)))
        logits = self.head(hidden).unflatten(-1, (-1, 1024)).transpose(1, 2)
        return logits if where is None else logits[where]


class FlatModel(LocalModel):
    """Every token is as likely as every other: what comes out is the noise."""

    def forward(self, tokens, where=None):
        return torch.zeros_like(super().forward(tokens, where))


def source(batch=1, levels=4, steps=40, seed=0):
    return torch.randint(0, 700, (batch, levels, steps), generator=torch.Generator().manual_seed(seed))


def random_mask(batch=1, levels=4, steps=40, share=0.7, seed=0):
    return torch.rand(batch, levels, steps, generator=torch.Generator().manual_seed(seed)) < share


def poisoned(tokens, mask):
    return tokens.masked_fill(mask, POISON)


def generators(n, seed=0):
    return [take_generator(seed, i) for i in range(n)]


def fill(model, tokens, mask, steps=6, sampling=None, seed=0, **kwargs):
    return g.fill(model, tokens, mask, steps, sampling or Sampling(), generators(len(tokens), seed), **kwargs)


def assert_filled(before, after, mask):
    mask = mask.expand_as(before)
    assert after.dtype == torch.int64 and after.shape == before.shape
    assert torch.equal(after[~mask], before[~mask]), "kept tokens must not change"
    assert after.min() >= 0 and after.max() < 1024, "no MASK may be left"
    assert not (after[mask] == POISON).any(), "every masked token must be made anew"


# one window


def test_kept_tokens_stay_and_no_mask_is_left_for_any_mask_and_setting():
    options = [Sampling(), GREEDY, Sampling(top_k=3), Sampling(top_p=0.5, typical_mass=0.5), Sampling(sample_cutoff=0.5)]
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
    cut = fill(LocalModel(), source(2), mask, sampling=Sampling(mask_temperature=0, sample_cutoff=0.0))
    assert torch.equal(a, cut)
    c, d = (fill(LocalModel(), source(2), mask, sampling=Sampling(mask_temperature=0), seed=seed) for seed in (0, 1))
    assert not torch.equal(c, d) and not torch.equal(a, c)
    late = fill(LocalModel(), source(2), mask, sampling=Sampling(mask_temperature=0, sample_cutoff=0.5))
    assert not torch.equal(late, c) and not torch.equal(late, a)


def test_mask_temperature_changes_the_order_alone():
    mask = torch.ones(1, 4, 40, dtype=torch.bool)
    orders = []
    for weight in (0, 10):
        model = LocalModel()
        fill(model, source(), mask, steps=2, sampling=Sampling(mask_temperature=weight, temperature=0))
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
        (dict(wrap=1), "context"),
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
        g.fill(LocalModel(), source(2), random_mask(), 2, Sampling(), generators(1))


def test_cancelling_stops_between_two_steps():
    model, answers = LocalModel(), iter([False, False, False, True])
    with pytest.raises(CancelledError, match="3 of 12"):
        fill(model, source(), random_mask(), steps=12, cancelled=lambda: next(answers))
    assert len(model.seen) == 3


# long audio


def test_long_clips_are_filled_in_windows_that_fit_and_see_no_masked_source():
    for steps in (41, 60, 100, 133):
        model = LocalModel(context=40)
        mask = random_mask(2, steps=steps, share=0.9, seed=steps)
        tokens = poisoned(source(2, steps=steps), mask)
        after = g.fill_windows(model, tokens, mask, 3, Sampling(), 0, [0, 1])
        assert_filled(tokens, after, mask)
        assert {seen.shape for seen in model.seen} == {(1, 4, 40)}
        assert not any((seen == POISON).any() for seen in model.seen)


def test_windows_see_what_the_ones_before_decided_and_no_padding():
    model = LocalModel(context=40)
    mask = torch.ones(1, 4, 133, dtype=torch.bool)
    after = g.fill_windows(model, source(steps=133), mask, 3, Sampling(), 0, [0])
    plan = plan_windows(133, 40)
    firsts = model.seen[::3]
    assert len(firsts) == len(plan) > 3
    for window, seen in zip(plan, firsts, strict=True):
        left = window.core[0] - window.start
        assert torch.equal(seen[..., :left], after[..., window.start : window.core[0]])
        assert (seen[..., left:] == MASK).all()


def test_only_the_windows_around_a_gap_are_computed():
    model = LocalModel(context=40)
    mask = torch.zeros(1, 4, 1_000, dtype=torch.bool)
    mask[..., 495:510] = True
    tokens = source(steps=1_000)
    after = g.fill_windows(model, tokens, mask, 3, Sampling(), 0, [0])
    assert_filled(tokens, after, mask)
    assert len(model.seen) == 3
    start = (model.seen[0][0, 0] == MASK).nonzero()[0, 0]
    assert torch.equal(model.seen[0][..., :start], tokens[..., 495 - start : 495])


def test_items_with_different_masks_do_not_change_each_other():
    masks = torch.zeros(3, 4, 300, dtype=torch.bool)
    masks[0, :, 100:110] = True
    masks[1, :, 50:250:3] = True
    tokens = source(3, steps=300)
    together = g.fill_windows(LocalModel(), tokens, masks, 3, Sampling(), 5, [0, 1, 2])
    assert_filled(tokens, together, masks)
    for i in range(3):
        alone = g.fill_windows(LocalModel(), tokens[i : i + 1], masks[i : i + 1], 3, Sampling(), 5, [i])
        assert torch.equal(together[i : i + 1], alone)


def test_every_window_stage_round_take_and_seed_has_its_own_noise():
    mask = torch.ones(1, 4, 100, dtype=torch.bool)

    def noise(seed=0, take=0, **kwargs):
        return g.fill_windows(FlatModel(), source(steps=100), mask, 1, Sampling(), seed, [take], **kwargs)

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
    one = g.fill_windows(LocalModel(context=64), tokens, mask, 4, Sampling(), 0, [0])
    two = g.fill_windows(model, tokens, mask, 4, Sampling(), 0, [0], rounds=2)
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
        Sampling(),
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
            Sampling(),
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


def test_copies_beyond_the_ends_of_a_ring_are_tied_to_their_originals():
    model = LocalModel(context=40)
    mask = random_mask(steps=28, share=0.9)
    tokens = poisoned(source(steps=28), mask)
    after = g.fill_windows(model, tokens, mask, 5, Sampling(), 0, [0], loop=True)
    assert_filled(tokens, after, mask)
    for seen, asked in zip(model.seen, model.asked, strict=True):
        assert seen.shape[-1] == 28 + 2 * 5
        assert torch.equal(seen[..., :5], seen[..., 28:33])
        assert torch.equal(seen[..., -5:], seen[..., 5:10])
        assert not asked[..., :5].any() and not asked[..., -5:].any()


@pytest.mark.parametrize("steps", [36, 40, 41, 90, 133])
def test_the_ends_of_a_long_ring_see_each_other(steps):
    model = LocalModel(context=40)
    mask = torch.ones(1, 4, steps, dtype=torch.bool)
    tokens = source(steps=steps)
    mask[..., -1] = False
    tokens[..., -1] = 999
    after = g.fill_windows(model, poisoned(tokens, mask), mask, 3, Sampling(), 0, [0], loop=True)
    assert_filled(poisoned(tokens, mask), after, mask)
    plan = plan_windows(steps, 40, loop=True)
    assert len(model.seen) == 3 * len(plan) >= 6
    assert {seen.shape[-1] for seen in model.seen} == {min(steps, 40)}
    # the first window sees the end of the clip on its left ...
    left = -plan[0].start
    assert left >= 5 and (model.seen[0][..., left - 1] == 999).all()
    assert (model.seen[0][..., left:] != 999).all()
    # ... and the last one sees on its right what the first has decided
    right = plan[-1].start + plan[-1].length - steps
    assert right >= 5
    assert torch.equal(model.seen[-3][..., -right:], after[..., :right])


# both stages


def stages(context=40, levels=6):
    return LocalModel(3, 0, context), LocalModel(levels, 3, context // 2, seed=1)


def test_generate_fills_both_stages_and_keeps_what_the_prompt_keeps():
    for i in range(8):
        mask = random_mask(levels=6, steps=70, share=0.6, seed=i)
        tokens = poisoned(source(levels=6, steps=70, seed=i), mask)
        after = g.generate(*stages(), tokens, mask, Sampling(steps=3, fine_steps=2), i, [0, 1], loop=i % 2 == 1)
        assert_filled(tokens.expand(2, -1, -1), after, mask)
        assert not torch.equal(after[0], after[1])


def test_the_fine_stage_is_conditioned_on_what_the_coarse_one_made():
    coarse, fine = stages()
    mask = torch.ones(1, 6, 20, dtype=torch.bool)
    after = g.generate(coarse, fine, source(levels=6, steps=20), mask, Sampling(steps=3, fine_steps=2), 0, [0])
    assert all(torch.equal(seen[:, :3], after[:, :3]) for seen in fine.seen)


def test_the_fine_stage_heeds_seed_and_temperature():
    mask = torch.ones(1, 6, 30, dtype=torch.bool)
    mask[:, :3] = False
    tokens = source(levels=6, steps=30)

    def made(seed, **options):
        return g.generate(*stages(), tokens, mask, Sampling(fine_steps=2, mask_temperature=0, **options), seed, [0])

    assert not torch.equal(made(0), made(1))
    assert torch.equal(made(0, temperature=0), made(1, temperature=0))
    assert not torch.equal(made(0), made(0, temperature=0.1))


def test_take_i_depends_on_seed_and_i_alone():
    coarse, fine = TinyTransformer(4, 0, 50), TinyTransformer(14, 4, 20)
    mask = random_mask(levels=14, steps=80, share=0.85)
    tokens = source(levels=14, steps=80)

    def made(takes, loop=False):
        return g.generate(coarse, fine, tokens, mask, Sampling(steps=4, fine_steps=2, feedback=2), 3, takes, loop=loop)

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
    after = g.generate(coarse, fine, tokens, mask, Sampling(steps=3, fine_steps=2), 0, range(5), batch=2)
    assert_filled(tokens.expand(5, -1, -1), after, mask)
    assert [len(seen) for seen in coarse.seen[:3]] == [2, 2, 1]


def test_stages_are_named_in_the_progress():
    calls = []
    mask = torch.ones(1, 6, 30, dtype=torch.bool)
    g.generate(
        *stages(),
        source(levels=6, steps=30),
        mask,
        Sampling(steps=3, fine_steps=2, feedback=2),
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
        g.generate(coarse, fine, tokens, mask, Sampling(), 0, [])
    with pytest.raises(ValueError, match="conditioned on 3"):
        g.generate(LocalModel(4), fine, tokens, mask, Sampling(), 0, [0])
    with pytest.raises(ValueError, match="int64"):
        g.generate(coarse, fine, tokens[0], mask, Sampling(), 0, [0])
    with pytest.raises(ValueError, match="take numbers"):
        g.generate(coarse, fine, tokens.expand(2, -1, -1), mask, Sampling(), 0, [0, 1, 2])
    bad = tokens.clone()
    bad[0, 5, 29] = 1_024
    with pytest.raises(ValueError, match="0..1023"):
        g.generate(coarse, fine, bad, mask & False, Sampling(), 0, [0])
    assert coarse.seen == []
