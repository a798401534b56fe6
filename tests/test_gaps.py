"""What of the sampling is left out where gaps are not short, or long."""

from __future__ import annotations

import pytest
import torch
from tiny import transformer
from token_models import LocalModel, source

from vampnet import generate, masks
from vampnet.config import Sampling, TokenGrid
from vampnet.gaps import alike, fitting, near
from vampnet.windows import plan_for_mask

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (4, 575)
EVERYTHING = masks.everything(SHAPE)
GUIDED = Sampling(guidance=0.5)


def beats(gap: float) -> torch.Tensor:
    return masks.around_times(SHAPE, [gap * beat for beat in range(int(10 / gap) + 1)], 75.0, TokenGrid())


def hole(first: int, last: int) -> torch.Tensor:
    mask = ~EVERYTHING
    mask[:, first:last] = True
    return mask


PROMPTS = {
    **{f"P = {p}": (masks.periodic(SHAPE, p), p <= 12, True) for p in (2, 7, 12, 13, 16, 48, 60)},
    "beats, 120 a minute": (beats(0.5), False, True),
    "beats, 60 a minute": (beats(1.0), False, True),
    "beats and P = 7": (masks.keep_union(beats(0.5), masks.periodic(SHAPE, 7)), True, True),
    "one codebook": (masks.codebooks(SHAPE, 1), True, True),
    "an eighth of a second": (hole(300, 307), True, True),
    "half a second": (hole(300, 329), False, True),
    "two seconds": (hole(300, 415), False, False),
    "two seconds at either end": (masks.prefix_suffix(SHAPE, 115, 115), False, False),
    "what follows": (hole(400, 575), False, False),
    "nothing": (EVERYTHING, False, False),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_guidance_is_for_short_gaps_and_typical_draws_are_for_all_but_long_ones(name: str) -> None:
    mask, short, not_long = PROMPTS[name]
    wanted = Sampling(guidance=0.5 if short else 0.0, typical_mass=0.6 if not_long else 1.0)
    assert fitting(GUIDED, mask) == wanted
    plain = Sampling(guidance=0.0, typical_mass=1.0, steps=3)
    assert fitting(plain, mask) is plain


def test_how_much_lies_near_what_stays() -> None:
    mask = hole(10, 20)
    assert [near(mask, steps) for steps in (0, 1, 4, 5, 9)] == [0, 0.2, 0.8, 1, 1]
    assert near(~EVERYTHING, 3) == 1 and near(EVERYTHING, 500) == 0
    mask[:3, 25] = True  # a level stays there
    assert near(mask, 0) == 1 / 11


@pytest.mark.parametrize(("period", "steps"), [(12, 57), (12, 115), (40, 130)])
def test_a_ring_has_the_same_gaps_wherever_it_begins(period: int, steps: int) -> None:
    mask = masks.periodic((4, steps), period)
    mask[:, : steps // 2 : 2] = False
    ways = {tuple(near(mask.roll(by, 1), reach, True) for reach in (0, 5, 30, 10 * steps)) for by in range(steps)}
    assert len(ways) == 1
    twice, line = near(mask.repeat(1, 3), 30), near(mask, 30)
    assert near(mask, 5, True) == pytest.approx(near(mask.repeat(1, 40), 5), abs=0.02) and twice >= line
    plan = alike(mask[None], steps, True, GUIDED)
    assert len(plan) == 1 and plan.keys() == alike(mask.roll(steps // 3, 1)[None], steps, True, GUIDED).keys()


@pytest.mark.parametrize("loop", [False, True])
def test_a_model_is_asked_twice_only_where_gaps_are_short(loop: bool) -> None:
    for period, calls in ((7, 2), (16, 1)):
        model, mask = LocalModel(context=40), masks.periodic((4, 40), period)
        generate.fill_windows(model, source(steps=40), mask[None], 3, GUIDED, 0, [0], loop=loop)
        assert len(model.seen) == 3 * calls


def test_long_gaps_are_drawn_from_all_tokens() -> None:
    model, tokens, mask = transformer(3, context=80), source(steps=100), torch.zeros(1, 4, 100, dtype=torch.bool)
    mask[..., 4:96] = True
    typical, every = (generate.fill_windows(model, tokens, mask, 3, Sampling(typical_mass=m), 0, [0]) for m in (0.6, 1.0))
    assert torch.equal(typical, every)
    mask[..., 20::20] = False
    typical, every = (generate.fill_windows(model, tokens, mask, 3, Sampling(typical_mass=m), 0, [0]) for m in (0.6, 1.0))
    assert not torch.equal(typical, every)


def test_each_window_and_each_take_goes_by_its_own_gaps() -> None:
    model, counting, tokens = transformer(3), LocalModel(context=40), source(2, steps=133)
    mask = torch.ones(2, 4, 133, dtype=torch.bool)
    mask[0, :, ::7] = False
    mask[1, :, :60:7] = False
    generate.fill_windows(counting, tokens[1:], mask[1:], 3, GUIDED, 0, [1])
    windows = len(plan_for_mask(mask[1], 40))
    assert 3 * windows < len(counting.seen) < 2 * 3 * windows
    together = generate.fill_windows(model, tokens, mask, 3, GUIDED, 0, [0, 1])
    for item in (0, 1):
        alone = generate.fill_windows(model, tokens[item : item + 1], mask[item : item + 1], 3, GUIDED, 0, [item])
        assert torch.equal(together[item : item + 1], alone)
