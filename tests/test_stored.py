"""Transformers in whole numbers of 8 bits on a disk: what is lost, what is not, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import added_to, tiny_models, transformer
from token_models import random_mask, source

from vampnet.model.fast import in_precision
from vampnet.model.files import add_distilled, load_transformer, read_weights, save_transformer
from vampnet.model.stored import rounded, whole

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = {"layers": 2, "dim": 128}


def vectors() -> torch.Tensor:
    return tiny_models()[0].codebook_vectors()


def test_a_row_is_rounded_by_its_largest_number_and_short_sides_are_not() -> None:
    tensors = {
        "m": torch.randn(3, 70, 80) * torch.logspace(-6, 3, 70)[:, None],
        "thin": torch.randn(500, 64),
        "v": torch.randn(200),
    }
    made = rounded(tensors)
    assert made.keys() == {"m.int8", "m.scale", "thin", "v"} and made["m.scale"].shape == (210,)
    assert made["m.int8"].dtype == torch.int8 and (made["m.int8"].abs().amax(-1) == 127).all()
    back = whole(made)
    off = (back["m"] - tensors["m"]).abs().amax(-1) / tensors["m"].abs().amax(-1)
    assert back["m"].shape == (3, 70, 80) and 0.002 < off.max() <= 0.5 / 127 * 1.01
    assert back["thin"] is tensors["thin"] and back["v"] is tensors["v"]
    # Once rounded it is not rounded any more.
    again = rounded(back)
    assert torch.equal(again["m.int8"], made["m.int8"])
    torch.testing.assert_close(again["m.scale"], made["m.scale"], rtol=1e-6, atol=0)
    assert torch.equal(whole(rounded({"zeros": torch.zeros(70, 80)}))["zeros"], torch.zeros(70, 80))


def test_a_model_in_half_of_the_room_computes_in_int8_what_it_did(tmp_path: Path) -> None:
    before = save_transformer(transformer(**SHAPE), tmp_path / "before", "coarse")
    halves = load_transformer(before.parent, "coarse", vectors())
    after = save_transformer(halves, tmp_path / "after", "coarse", int8=True)
    assert after.stat().st_size < 0.55 * before.stat().st_size
    numbers = load_transformer(after.parent, "coarse", vectors())
    tokens, where = source(2), random_mask(2)
    exact, near = halves(tokens, where=where), numbers(tokens, where=where)
    assert 0 < (exact - near).abs().mean() < 0.02 * exact.std()
    whole_numbers = [in_precision(one, "int8", "cpu")(tokens, where=where) for one in (halves, numbers)]
    assert (whole_numbers[0] - whole_numbers[1]).abs().mean() < 0.1 * (exact - near).abs().mean()


def test_the_input_is_not_rounded(tmp_path: Path) -> None:
    # As wide as the fine model's, whose levels have vectors of very different size.
    model = transformer(1, dim=128, n_codebooks=14, n_conditioning=4)
    found = load_file(save_transformer(model, tmp_path, "fine", int8=True))
    assert found["input.weight"].shape == (128, 14 * 8) and found["input.weight"].dtype == torch.float16
    assert {name.split(".")[0] for name in found if name.endswith(".int8")} == {"layers", "classifier"}


def test_a_distilled_model_is_kept_beside_whole_numbers(tmp_path: Path) -> None:
    model = transformer(**SHAPE)
    added = added_to(model)
    save_transformer(model, tmp_path, "coarse", int8=True)
    found = read_weights(add_distilled(tmp_path, added))
    assert all(torch.equal(found[name].float(), tensor) for name, tensor in added.items())
    loaded = load_transformer(tmp_path, "coarse", vectors())
    name = "layers.1.attention.qkv.weight"
    product = added[f"distilled.{name}.out"] @ added[f"distilled.{name}.in"]
    torch.testing.assert_close(loaded.distilled.state_dict()[name], loaded.state_dict()[name] + product)


@pytest.mark.parametrize("fault", ["no factors", "no numbers", "too few factors", "twice", "other numbers"])
def test_whole_numbers_need_their_factors(fault: str, tmp_path: Path) -> None:
    path = save_transformer(transformer(**SHAPE), tmp_path, "coarse", int8=True)
    tensors, name = load_file(path), "layers.0.attention.out.weight"
    if fault == "no factors":
        del tensors[f"{name}.scale"]
    elif fault == "no numbers":
        del tensors[f"{name}.int8"]
    elif fault == "too few factors":
        tensors[f"{name}.scale"] = tensors[f"{name}.scale"][:-1].clone()
    elif fault == "twice":
        tensors[name] = torch.zeros(128, 128)
    else:
        tensors[f"{name}.int8"] = tensors[f"{name}.int8"].float()
    save_file(tensors, path)
    with pytest.raises(ValueError, match=name):
        load_transformer(tmp_path, "coarse", vectors())
