"""The palette: how often codes occur in a clip, what logits become by it, and that takes keep to it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import tiny_vampnet, transformer
from token_models import FlatModel, LocalModel, fill, generators, plain, random_mask, source
from torch import Tensor

from vampnet import decoding, generate, palette
from vampnet.config import MASK, Prompt, Sampling

pytestmark = pytest.mark.usefixtures("one_thread")

KEEPS = plain(palette=1.0)


def of_few(batch: int = 1, steps: int = 40) -> Tensor:
    """Tokens of twenty codes a level, others in each level."""
    return source(batch, 4, steps) % 20 + 40 * torch.arange(4)[:, None]


def test_shares_are_how_often_codes_occur() -> None:
    tokens = torch.tensor([[5] * 30 + [7] * 10, [1] * 15 + [MASK] * 25, [1] * 16 + [MASK] * 24])[None]
    shares = palette.shares_of(tokens, 1024)
    assert shares.shape == (1, 3, 1024) and shares.dtype == torch.float32
    assert torch.equal(shares[0, 0, :8], torch.tensor([0, 0, 0, 0, 0, 0.75, 0, 0.25])) and not shares[0, 0, 8:].any()
    assert not shares[0, 1].any()  # too few
    assert shares[0, 2, 1] == 1


def test_a_window_of_which_little_is_known_has_the_palette_of_the_clip() -> None:
    clip = torch.cat([torch.full((1, 2, 300), 3), torch.full((1, 2, 100), 4)], dim=-1)
    window = clip[..., 200:].clone()
    window[:, 0, 50:] = MASK
    shares = palette.shares_of(window, 8, clip)
    assert shares[0, 0, 3] == 0.75 and shares[0, 1, 3] == 0.5


def test_what_is_added_is_that_of_the_formula() -> None:
    tokens, where = of_few(2, 60), random_mask(2, 4, 60)
    where[1, 2] = False
    where[1, 3] = False
    where[1, 3, 1] = True  # of which nobody is asked
    assert not palette.heard(60)[1]
    shares = palette.shares_of(of_few(2, 90), 1024)
    shares[0, 1] = 0
    logits = 3 * torch.randn(int(where.sum()), 1024)
    changed = logits.clone()
    palette.keep_to(changed, tokens, where, shares, 0.7)
    everywhere, after = torch.zeros(2, 2, 4, 60, 1024)
    everywhere[where], after[where] = logits, changed
    for item in range(2):
        for level in range(4):
            todo = where[item, level]
            asked = todo & palette.heard(60)
            settled = torch.bincount(tokens[item, level][~todo], minlength=1024) / 60
            expected = settled + todo.float().mean() * everywhere[item, level, asked].softmax(dim=-1).mean(dim=0)
            wanted = (0.5 * shares[item, level] + 0.5 * expected) / expected
            added = 0.7 * wanted.log().clamp(-4, 4) if shares[item, level].any() and asked.any() else torch.zeros(1024)
            torch.testing.assert_close(after[item, level, todo], everywhere[item, level, todo] + added, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ring", [False, True])
def test_takes_keep_to_the_codes_of_the_source(ring: bool) -> None:
    model, tokens, mask = FlatModel(), of_few(4), torch.ones(4, 4, 40, dtype=torch.bool)

    def share(weight: float) -> float:
        made = fill(model, tokens, mask, sampling=plain(palette=weight), ring=ring)
        own = (made >= 40 * torch.arange(4)[:, None]) & (made < 40 * torch.arange(4)[:, None] + 20)
        return float(own.float().mean())

    assert share(0.0) < 0.06 and share(1.0) > 0.4
    assert share(0.0) < share(0.3) < share(1.0) < share(2.0)


def test_of_what_is_masked_only_the_counts_are_seen() -> None:
    model, tokens, mask = transformer(3), of_few(2), random_mask(2)
    made = fill(model, tokens, mask, sampling=KEEPS)
    other = tokens.clone()
    for item, level in ((0, 0), (0, 1), (1, 3)):
        own = mask[item, level]
        other[item, level, own] = other[item, level, own].flip(0)
    assert not torch.equal(other, tokens) and torch.equal(fill(model, other, mask, sampling=KEEPS), made)
    assert not torch.equal(fill(model, tokens, mask), made)
    unseen = fill(model, tokens.masked_fill(mask, MASK), mask)
    assert torch.equal(fill(model, tokens, mask), unseen)  # nothing without a palette


def test_takes_depend_on_nothing_beside_them() -> None:
    model, tokens, mask = transformer(3), of_few(3), random_mask(3)
    together = fill(model, tokens, mask, sampling=KEEPS, batch=2)
    alone = decoding.fill(model, tokens[2:], mask[2:], 6, KEEPS, generators(3)[2:])
    assert torch.equal(alone, together[2:]) and torch.equal(together[~mask], tokens[~mask])


@pytest.mark.parametrize("sampling", [KEEPS, plain(palette=1.5, temperature=0), Sampling(sample_cutoff=0.5)])
def test_a_device_that_answers_late_makes_the_same_of_it(sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, mask = transformer(4), of_few(2, 40), random_mask(2)
    without = dataclasses.replace(sampling, palette=0)
    wanted, plainly = (fill(model, tokens, mask, sampling=way, batch=2) for way in (sampling, without))
    assert not torch.equal(wanted, plainly)
    monkeypatch.setattr(decoding, "answers_late", lambda device: True)
    assert torch.equal(fill(model, tokens, mask, sampling=sampling, batch=2), wanted)
    assert torch.equal(fill(model, tokens, mask, sampling=without, batch=2), plainly)


def test_windows_and_rounds_have_the_palette_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, fine = LocalModel(), LocalModel(14, 4, seed=1)
    tokens, mask = source(levels=14, steps=150), torch.ones(1, 14, 150, dtype=torch.bool)
    seen: list[Tensor] = []
    counted = palette.shares_of

    def count(tokens: Tensor, codes: int, clip: Tensor | None = None) -> Tensor:
        if clip is not None:
            seen.append(tokens)
            assert torch.equal(clip, source(levels=14, steps=150)[:, :4])
        return counted(tokens, codes, clip)

    monkeypatch.setattr(decoding, "shares_of", count)
    sampling = plain(steps=2, fine_steps=2, feedback=2, palette=1.0)
    generate.generate(coarse, fine, tokens, mask, sampling, 0, [0])
    # The coarse levels of all windows, twice; none for the fine levels.
    assert len(seen) > 4 and all(part.shape[1] == 4 for part in seen)
    half = len(seen) // 2
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    assert all((part[..., None, :] == tokens[:, :4].unfold(-1, part.shape[-1], 1)).all(-1).any() for part in seen)


def test_silence_that_was_added_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = tiny_vampnet(), []

    def note(tokens: Tensor, *rest: object, **more: object) -> Tensor:
        given.append(tokens)
        return plainly(tokens, *rest, **more)

    plainly = model.generate
    monkeypatch.setattr(model, "generate", note)
    vamp = model.vamp((torch.randn(1, 44_100) / 10, 44_100), Prompt(), plain(steps=1), 1, extend=(0.5, 0.5))
    made = (given[0] == MASK).all(dim=1)[0]
    assert made[:29].all() and made[-29:].all() and not made[40:-40].any()
    assert torch.equal(given[0][..., ~made], vamp.source_tokens[..., ~made]) and vamp.source_tokens.max() < MASK


@pytest.mark.parametrize("value", [-0.1, 2.5, float("nan"), "1", True])
def test_a_weight_that_cannot_be_is_told(value: object) -> None:
    with pytest.raises(ValueError, match="palette"):
        Sampling(palette=value)
