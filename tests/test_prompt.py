import dataclasses
import json

import pytest
import torch

from vampnet import masks, metadata
from vampnet.config import Prompt, Sampling, TokenGrid
from vampnet.prompt import build_mask, full_kbps, kept_kbps, kept_share
from vampnet.studio import controls
from vampnet.studio.share_words import describe_settings

GRID = TokenGrid()
SHAPE = (14, 574)


def kept(prompt, **kwargs):
    mask = build_mask(prompt, SHAPE, GRID, **kwargs)
    assert mask.shape == (1, *SHAPE) and mask.dtype == torch.bool
    return ~mask[0]


def test_fields_combine_by_union():
    beats = [1.0, 2.0, 9.99]
    parts = [
        Prompt(periodic=7, periodic_width=2, periodic_offset=3),
        Prompt(periodic=0, prefix_seconds=1.0),
        Prompt(periodic=0, suffix_seconds=0.5),
        Prompt(periodic=0, beat_width_ms=75),
        Prompt(periodic=0, onset_width_ms=30),
    ]
    together = Prompt(
        periodic=7,
        periodic_width=2,
        periodic_offset=3,
        prefix_seconds=1.0,
        suffix_seconds=0.5,
        beat_width_ms=75,
        onset_width_ms=30,
    )
    each = [kept(part, beats=beats, onsets=[3.3]) for part in parts]
    assert all(part.any() for part in each)
    union = torch.stack(each).any(dim=0)
    assert torch.equal(kept(together, beats=beats, onsets=[3.3]), union)


def test_jitter_and_what_was_before_there_was_any():
    even, uneven = Prompt(periodic=7, periodic_jitter=0), Prompt(periodic=7)
    assert torch.equal(~kept(even), masks.periodic(SHAPE, 7))
    assert torch.equal(~kept(uneven), masks.periodic(SHAPE, 7, jitter=2)) and not torch.equal(kept(even), kept(uneven))
    written = dataclasses.asdict(Prompt(periodic=5, region=(1.0, 2.0)))
    assert Prompt.of({**written, "region": [1.0, 2.0]}) == Prompt(periodic=5, region=(1.0, 2.0))
    del written["periodic_jitter"], written["original_sound"]
    assert Prompt.of(written).periodic_jitter == 0 and not Prompt.of(written).original_sound


def test_settings_with_jitter_come_back_and_those_without_have_none():
    written = dataclasses.asdict(Prompt(periodic_jitter=3))
    settings = {
        "prompt": written, "sampling": dataclasses.asdict(Sampling()), "seed": 3, "takes": 1, "loop": False, "bars": None,
        "seconds": 4.0, "kept_share": 0.2, "kept_kbps": 1.0, "model": "mini", "grid": {"sample_rate": 44100, "hop": 768},
    }  # fmt: skip

    def told(language: str) -> str:
        return describe_settings(settings, language)[0][1]

    def read() -> Prompt:
        values = {"vampnet": 1, "prompt": written, "sampling": settings["sampling"], "seed": 3}
        return metadata.parse(json.dumps(values).encode()).prompt

    assert read().periodic_jitter == controls.restore(settings)["periodic_jitter"] == 3
    assert "each early or late by up to 3" in told("en") and "3개까지" in told("ko")
    del written["periodic_jitter"]  # as before there was any
    assert read() == Prompt(periodic_jitter=0) and controls.restore(settings)["periodic_jitter"] == 0
    assert "at even distances" in told("en") and "고른 간격으로" in told("ko")
    assert read().original_sound and controls.restore(settings)["original_sound"]
    del written["original_sound"]  # everything was decoded then
    assert not read().original_sound and controls.restore(settings)["original_sound"] is False
    written["original_sound"] = 1
    assert metadata.parse(json.dumps({"vampnet": 1, "prompt": written, "sampling": {}, "seed": 3}).encode()) is None
    written.update(periodic_jitter=Prompt.periodic_jitter, original_sound=True)
    assert "distances" not in told("en") and "early" not in told("en")


def test_inpainting_of_the_paper():
    stays = kept(Prompt(periodic=0, prefix_seconds=1.0, suffix_seconds=2.0))
    assert stays[:, :57].all() and stays[:, -115:].all() and not stays[:, 57:-115].any()


def test_nothing_stays_without_a_prompt_and_all_with_period_one():
    assert not kept(Prompt(periodic=0)).any()
    assert kept(Prompt(periodic=1)).all()
    # Of a codec with more levels than the paper's, too.
    assert not build_mask(Prompt(periodic=1), (18, 40), TokenGrid()).any()


def test_compression_and_depth():
    stays = kept(Prompt(periodic=8, kept_codebooks=2, prompt_codebooks=5, periodic_jitter=0))
    steps = torch.arange(574) % 8 == 0
    assert stays[:2].all()
    assert torch.equal(stays[2:5], steps.expand(3, -1))
    assert not stays[5:].any()


def test_dropout_frees_steps_but_never_levels_or_what_is_outside_of_the_region():
    prompt = Prompt(periodic=2, kept_codebooks=1, dropout=1.0, region=(2.0, 4.0))
    stays = kept(prompt)
    first, stop = GRID.token_at(2.0), GRID.samples_to_tokens(GRID.seconds_to_samples(4.0))
    assert stays[0].all()
    assert not stays[1:, first:stop].any()
    assert stays[:, :first].all() and stays[:, stop:].all()


def test_dropout_takes_a_share_of_everything_that_keeps_steps():
    prompt = Prompt(periodic=7, prefix_seconds=1.0, beat_width_ms=75, dropout=0.5)
    full = kept(Prompt(periodic=7, prefix_seconds=1.0, beat_width_ms=75), beats=[5.0])[0]
    half = kept(prompt, beats=[5.0])[0]
    assert int(half.sum()) == int(full.sum()) - round(0.5 * int(full.sum()))
    assert (half <= full).all()


def test_a_mask_is_reproducible_from_settings_and_seed():
    prompt = Prompt(periodic=3, dropout=0.4)
    first, again, other = (build_mask(prompt, SHAPE, GRID, seed=seed) for seed in (5, 5, 6))
    torch.manual_seed(123)
    assert torch.equal(first, again)
    assert torch.equal(first, build_mask(prompt, SHAPE, GRID, seed=5))
    assert not torch.equal(first, other)


def test_regions_touch_every_step_they_reach_into():
    for start, end in ((0.0, 0.001), (1.0, 1.0001), (0.5, 3.7), (9.99, 9.995)):
        free = (~kept(Prompt(periodic=0, region=(start, end)))).all(dim=0).nonzero()[:, 0]
        assert free[0] == GRID.token_at(start)
        assert free[-1] == max(free[0], GRID.samples_to_tokens(GRID.seconds_to_samples(end)) - 1)
        assert len(free) == free[-1] - free[0] + 1


def test_regions_and_the_end_of_the_clip():
    assert (~kept(Prompt(periodic=0, region=(8.0, 60.0))))[:, GRID.token_at(8.0) :].all()
    with pytest.raises(ValueError, match="region starts at 10"):
        kept(Prompt(region=(10.0, 11.0)))


def test_beats_and_onsets_must_be_given_if_needed():
    with pytest.raises(ValueError, match="beat"):
        kept(Prompt(beat_width_ms=75))
    with pytest.raises(ValueError, match="onset"):
        kept(Prompt(onset_width_ms=75), beats=[1.0])
    assert torch.equal(kept(Prompt(beat_width_ms=75), beats=[]), kept(Prompt()))


@pytest.mark.parametrize("name", ["beat", "onset"])
def test_an_attack_is_kept_with_the_step_in_which_it_is_heard_coming(name):
    mask = kept(Prompt(periodic=0, **{f"{name}_width_ms": 75}), **{f"{name}s": [1.0]})
    at = GRID.token_at(1.0)
    assert mask[0].nonzero()[:, 0].tolist() == list(range(at - 1, at + 4))


def test_an_attack_at_the_downbeat_of_a_ring_is_heard_coming_at_its_end():
    prompt = Prompt(periodic=0, beat_width_ms=75)
    ring, line = (build_mask(prompt, SHAPE, GRID, beats=[0.0], loop=loop) for loop in (True, False))
    last = SHAPE[1] - 1
    assert (~ring)[0, 0].nonzero()[:, 0].tolist() == [0, 1, 2, 3, last]
    assert (~line)[0, 0].nonzero()[:, 0].tolist() == [0, 1, 2, 3]


def test_works_for_every_length():
    for steps in range(1, 80):
        prompt = Prompt(periodic=7, prefix_seconds=0.5, suffix_seconds=0.5, beat_width_ms=75, dropout=0.3)
        mask = build_mask(prompt, (14, steps), GRID, beats=[0.0, 0.4, 0.9])
        assert mask.shape == (1, 14, steps)


def test_bit_rate_counts_what_really_stays():
    assert full_kbps(GRID) == pytest.approx(8.04, abs=0.005)
    nothing, everything = build_mask(Prompt(periodic=0), SHAPE, GRID), build_mask(Prompt(periodic=1), SHAPE, GRID)
    assert (kept_kbps(nothing, GRID), kept_share(nothing)) == (0, 0)
    assert (kept_kbps(everything, GRID), kept_share(everything)) == (pytest.approx(full_kbps(GRID)), 1)
    mask = build_mask(Prompt(periodic=7, kept_codebooks=1, periodic_jitter=0), SHAPE, GRID)
    tokens = int((~mask).sum())
    assert tokens == 82 * 14 + (574 - 82)
    seconds = GRID.tokens_to_seconds(574)
    assert kept_kbps(mask, GRID) == pytest.approx(tokens * 10 / seconds / 1000)
    assert kept_share(mask) == pytest.approx(tokens / (14 * 574))


def test_bit_rate_of_a_batch_is_its_mean_and_takes_masks_without_batch():
    a, b = masks.periodic(SHAPE, 2), masks.periodic(SHAPE, 14)
    both = kept_kbps(torch.stack([a, b]), GRID)
    assert both == pytest.approx((kept_kbps(a, GRID) + kept_kbps(b, GRID)) / 2)
