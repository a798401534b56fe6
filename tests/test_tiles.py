"""A transformer by tiles beside the plain formulas; all of it wants a CPU that has tiles, be it narrow ones alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vampnet import tile_passes
from vampnet.config import MASK, TransformerConfig
from vampnet.model import fast
from vampnet.model.fast import FastTransformer, in_precision
from vampnet.model.tiled import TiledTransformer
from vampnet.model.transformer import TokenTransformer
from vampnet.tile_passes import Parts, TileMatrix, can_be_tiled, line_of

pytestmark = pytest.mark.skipif(not tile_passes.has_tiles(), reason="this CPU has no instructions for tiles")

WIDE = pytest.mark.skipif(not tile_passes.has_wide_tiles(), reason="this CPU has no instructions for wide tiles")
PRECISIONS = ("int8", pytest.param("bfloat16", marks=WIDE))
KINDS = (pytest.param(False, id="wide", marks=WIDE), pytest.param(True, id="narrow"))
DISTANCES = {"int8": 0.04, "bfloat16": 0.02}


def shape(**changes: int) -> TransformerConfig:
    of = {"n_codebooks": 4, "codebook_size": 128, "codebook_dim": 3, "dim": 128, "layers": 3, "heads": 2, "context": 90}
    return TransformerConfig(**{**of, **changes})


def model_of(**changes: int) -> TokenTransformer:
    """A model whose every part matters."""
    model = TokenTransformer(shape(**changes), torch.randn(4, 128, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        model.bias.weight.normal_()
    return model


def tokens_of(items: int, steps: int) -> Tensor:
    return torch.randint(0, 128, (items, 4, steps)).masked_fill(torch.rand(items, 4, steps) < 0.6, MASK)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(params=KINDS)
def narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Either kind of tiles, as if this CPU had no other."""
    monkeypatch.setattr(tile_passes, "has_wide_tiles", lambda: not request.param)
    monkeypatch.setattr(tile_passes, "has_narrow_tiles", lambda: request.param)
    return request.param


@pytest.mark.parametrize("count", [1, 3, 4, 5, 6, 7, 95, 103, 700])
def test_products_of_whole_numbers_are_exact(count: int, narrow: bool, threads: None) -> None:
    weight, rows = (torch.randint(-127, 128, size, dtype=torch.int8) for size in ((192, 136), (count, 136)))
    weight[:, 0], rows[0], weight[7] = 127, -127, -127  # the largest sums, of either sign
    matrix = TileMatrix(weight.float())
    assert torch.equal(matrix.scale, torch.ones(192)) and matrix.packed.dtype == (torch.int16 if narrow else torch.int8)
    given = rows.to(torch.int16) if narrow else rows ^ -128
    assert torch.equal(tile_passes.multiplied(given, matrix), rows.int() @ weight.T.int())


@WIDE
@pytest.mark.parametrize("count", [1, 8])
def test_products_of_bfloat16_add_up_in_float32(count: int) -> None:
    weight, rows = torch.randn(64, 72), torch.randn(count, 72).bfloat16()
    sums = tile_passes.multiplied(rows, TileMatrix(weight, precision="bfloat16"))
    assert distance(sums, rows.float() @ weight.bfloat16().float().T) < 1e-6


def whole_numbers(x: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """(..., 64) float -> int16 up to `most`, and the factors of rows."""
    factors = x.abs().amax(dim=-1) / most
    return (x / factors[..., None]).round().to(torch.int16), factors


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 6, 7, 15, 16, 17, 63, 64, 65, 100, 717])
@pytest.mark.parametrize("size", [0.3, 6.0])
def test_attention(steps: int, size: float, narrow: bool, threads: None) -> None:
    items, heads, columns = 2, 3, 16 if narrow else 64
    parts, whole = Parts.empty(items, heads, steps, narrow), -(-steps // columns) * columns
    given = [scale * torch.randn(items, heads, steps, 64) for scale in (size, 1, 1)]
    given[2] *= torch.rand(items, heads, steps, 1)  # values of rows that are far softer than others
    values = 3 * torch.randn(heads, 2 * steps - 1)
    held = [x.bfloat16() for x in given]
    true = [x.double() for x in held]
    if narrow:
        found = [whole_numbers(x, most) for x, most in zip(given, (4095, 4095, 255), strict=True)]
        held, sizes = [x for x, _ in found], torch.stack([x for _, x in found])
        true = [x.double() * of[..., None] for x, of in found]
        parts.sizes.fill_(torch.nan)[..., :steps] = sizes
    parts.queries.copy_(held[0])
    # What is not there, but for values: these are 0.
    missing = torch.full((items, heads, whole - steps, 64), -32768.0 if narrow else torch.nan).to(held[1].dtype)
    keys = torch.cat([held[1], missing], dim=2)
    parts.keys.copy_(keys.view(items, heads, -1, columns, 32, 2).transpose(3, 4))
    of_steps = torch.nn.functional.pad(held[2], (0, 0, 0, whole - steps)).view(items, heads, -1, 2, 64 // columns, columns)
    parts.values.copy_(of_steps.permute(0, 1, 4, 2, 5, 3))
    bias = torch.stack([values[:, steps - 1 - i : 2 * steps - 1 - i] for i in range(steps)], dim=1)
    weights = (true[0] @ true[1].mT + bias).softmax(dim=-1)
    wanted = (weights @ true[2]).transpose(1, 2).reshape(items * steps, -1)
    assert distance(tile_passes.mixed(parts, line_of(values, steps)), wanted) < (1e-3 if narrow else 0.006)


def test_sums_of_weights_that_are_all_the_same_have_room() -> None:
    steps = 717
    parts = Parts.empty(1, 1, steps, True)
    for part, number in zip(parts.tensors, (0, 0, 255, 1.0), strict=True):
        part.fill_(number)
    assert torch.allclose(
        tile_passes.mixed(parts, line_of(torch.zeros(1, 2 * steps - 1), steps)), torch.tensor(255.0), rtol=1e-3
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("steps", [1, 5, 70])
def test_logits_are_near_those_in_float32(precision: str, steps: int, threads: None) -> None:
    for changes in ({}, {"n_conditioning": 1, "layers": 1}):
        model = model_of(**changes)
        quick, tokens = in_precision(model, precision, "cpu"), tokens_of(3, steps)
        assert type(quick) is TiledTransformer
        where = torch.rand(3, model.config.n_predicted, steps) < 0.5
        where[0] = False
        with torch.no_grad():
            wanted, everywhere = model(tokens, where=where), model(tokens)
        found = quick(tokens, where=where)
        assert found.dtype == torch.float32 and found.shape == wanted.shape
        if len(wanted):
            assert 0 < distance(found, wanted) < DISTANCES[precision]
        assert distance(quick(tokens), everywhere) < DISTANCES[precision]
        assert torch.equal(quick(tokens)[where], found)
        assert quick(tokens, where=where & False).shape == (0, 128)
        if steps > 2:
            with torch.no_grad():
                ring = model(tokens, where=where, ring=True)
            assert distance(quick(tokens, where=where, ring=True), ring) < DISTANCES[precision] < distance(ring, wanted)
            assert torch.equal(quick(tokens, where=where), found)
        # As exact as without tiles.
        assert distance(found, wanted) < 1.3 * distance(FastTransformer(model, precision)(tokens, where=where), wanted) + 1e-3


@WIDE
@pytest.mark.parametrize("steps", [5, 70])
def test_narrow_tiles_are_as_near(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = model_of(), tokens_of(3, steps)
    wide = in_precision(model, "int8", "cpu")
    monkeypatch.setattr(tile_passes, "has_wide_tiles", lambda: False)
    monkeypatch.setattr(tile_passes, "has_narrow_tiles", lambda: True)
    narrow = in_precision(model, "int8", "cpu")
    assert (wide.packed.dtype, narrow.packed.dtype) == (torch.int8, torch.int16)
    with torch.no_grad():
        wanted = model(tokens)
    assert 0 < distance(narrow(tokens), wanted) < DISTANCES["int8"]
    assert distance(narrow(tokens), wide(tokens)) < DISTANCES["int8"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_last_layer_is_computed_where_somebody_looks_at_it(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, tokens, by_rows, done = in_precision(model_of(), precision, "cpu"), tokens_of(2, 30), tile_passes.by_rows, []

    def counted(given: torch.Tensor | None, x: torch.Tensor, *rest: Any, **how: Any) -> Any:
        done.append((len(x), bool(how.get("leaves"))))
        return by_rows(given, x, *rest, **how)

    monkeypatch.setattr(tile_passes, "by_rows", counted)
    where = torch.zeros(2, 4, 30, dtype=torch.bool)
    where[0, 1, 3:8] = where[1, :, 29] = where[1, 2, 29] = True
    everywhere = quick(tokens)
    assert done[-1] == (60, True) and not any(leaves for _, leaves in done[:-1])
    done.clear()
    assert torch.equal(quick(tokens, where=where), everywhere[where])
    assert [count for count, _ in done] == [60] * len(quick.layers) + [6]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_neither_the_other_items_nor_threads_change_anything(precision: str) -> None:
    quick, tokens, before = in_precision(model_of(), precision, "cpu"), tokens_of(5, 67), torch.get_num_threads()
    made = []
    for count in (1, 2, 7):
        torch.set_num_threads(count)
        made += [quick(tokens), torch.cat([quick(item) for item in tokens.split(1)])]
    torch.set_num_threads(before)
    assert all(torch.equal(logits, made[0]) for logits in made)


def test_what_is_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_be_tiled(shape())
    assert not can_be_tiled(shape(heads=4)) and not can_be_tiled(shape(codebook_size=100))
    assert type(in_precision(model_of(heads=4), "int8", "cpu")) is FastTransformer
    with monkeypatch.context() as patch:
        patch.setenv("NUMBA_CPU_NAME", "generic")
        assert not can_be_tiled(shape())
    monkeypatch.setattr(tile_passes, "cpu_has", lambda *names: True)  # one that multiplies whole matrices
    assert not can_be_tiled(shape()) and type(in_precision(model_of(), "int8", "cpu")) is FastTransformer
    assert fast.in_precision(model_of(), "float32", "cpu").__class__ is TokenTransformer


@pytest.mark.parametrize(
    ("instructions", "wide", "narrow"),
    [
        (("avx2", "avx512", "vnni", "avx512_bf16"), True, False),
        (("avx2", "avx512", "vnni", "avx512_bf16", "amx_tile"), False, False),
        (("avx2", "avx512", "vnni"), False, False),  # torch's products of int8 are fast there
        (("avx2", "avx512"), False, True),
        (("avx2",), False, True),
        ((), False, False),
    ],
)
def test_which_tiles_a_cpu_has(
    instructions: tuple[str, ...], wide: bool, narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_passes, "cpu_has", lambda *names: any(name in instructions for name in names))
    assert (tile_passes.has_wide_tiles(), tile_passes.has_narrow_tiles()) == (wide, narrow)
    assert (tile_passes.has_tiles(), tile_passes.has_tiles("bfloat16")) == (wide or narrow, wide)


def test_a_cpu_with_narrow_tiles_computes_in_int8_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "fast_int8", lambda: False)
    monkeypatch.setattr(tile_passes, "has_wide_tiles", lambda: False)
    monkeypatch.setattr(tile_passes, "has_narrow_tiles", lambda: True)
    quick = in_precision(model_of(), "auto", "cpu")
    assert type(quick) is TiledTransformer and quick.precision == fast.best_precision("cpu") == "int8"
    assert type(in_precision(model_of(heads=4), "auto", "cpu")) is TokenTransformer
    assert type(in_precision(model_of(), "bfloat16", "cpu")) is FastTransformer


def test_the_bundled_model_is_tiled() -> None:
    from vampnet.pipeline import VampNet

    model = VampNet.from_pretrained("mini", "cpu", precision="int8")
    assert type(model.coarse) is type(model.fine) is TiledTransformer
