"""Published weights: reading without running code, strict loading, and the golden outputs of the original implementation."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vampnet.config import MASK, Sampling, TokenGrid
from vampnet.decoding import fill
from vampnet.generate import generate
from vampnet.model.published import (
    LORA_WEIGHTS,
    check_published,
    published_config,
    transformer_from_published,
)
from vampnet.published import Published, read_published, write_published
from vampnet.sampling import take_generator

GOLDEN = Path(__file__).parent / "golden"
GREEDY = Sampling(
    temperature=0, mask_temperature=0, steps=8, fine_steps=4, guidance=0.0, palette=0.0, recall=0.0
)  # the original has neither


@pytest.fixture(scope="module")
def files():
    return {name: read_published(GOLDEN / f"{name}.pth") for name in ("codec", "coarse", "c2f")}


@pytest.fixture(scope="module")
def codebooks(files):
    return torch.stack([files["codec"].state[f"quantizer.quantizers.{level}.codebook.weight"] for level in range(14)])


@pytest.fixture(scope="module")
def expected():
    return load_file(GOLDEN / "expected.safetensors")


@pytest.fixture(scope="module")
def models(files, codebooks):
    return {name: transformer_from_published(files[name].state, files[name].kwargs, codebooks) for name in ("coarse", "c2f")}


# ------------------------------------------------------------------------------------------------------ the golden outputs


def _golden_input(expected, name):
    levels, given = {"coarse": (4, 0), "c2f": (14, 4)}[name]
    masked = expected["mask"].bool()
    masked[:, :given] = False
    return expected["z"].masked_fill(masked, MASK)[:, :levels], levels - given


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["coarse", "c2f"])
def test_golden_logits(name, grad, models, expected):
    tokens, predicted = _golden_input(expected, name)
    with torch.set_grad_enabled(grad):
        logits = models[name](tokens).detach()
    # the last axis of the golden logits is (time, level), the level fastest
    golden = expected[f"{name}_logits"].unflatten(2, (-1, predicted)).permute(0, 3, 2, 1)
    assert logits.shape == golden.shape
    assert (logits - golden).abs().max() <= 1e-5 * golden.abs().max()


def test_golden_greedy_coarse_tokens(models, expected):
    mask = expected["coarse_generate_mask"].bool()
    start = expected["z"][:, :4]
    tokens = fill(models["coarse"], start, mask, GREEDY.steps, GREEDY, [take_generator(0, 0, "coarse")])
    assert torch.equal(tokens, expected["coarse_generate"])
    assert not torch.equal(tokens, start)


def test_golden_greedy_fine_tokens(models, expected):
    tokens = torch.zeros_like(expected["z"])
    tokens[:, :4] = expected["coarse_generate"]
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, :4] = False
    tokens = fill(models["c2f"], tokens, mask, GREEDY.fine_steps, GREEDY, [take_generator(0, 0, "fine")])
    assert torch.equal(tokens, expected["c2f_generate"])


def test_golden_tokens_by_the_whole_path(models, expected):
    mask = torch.ones_like(expected["z"], dtype=torch.bool)
    mask[:, :4] = expected["coarse_generate_mask"].bool()
    tokens = generate(models["coarse"], models["c2f"], expected["z"], mask, GREEDY, seed=3, takes=[0, 7])
    assert torch.equal(tokens, expected["c2f_generate"].expand(2, -1, -1))


# --------------------------------------------------------------------------------------------------------- strict loading


def test_models_are_ready_to_use(models):
    for model in models.values():
        assert not model.training
        assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
    assert models["coarse"].config.context == 574 and models["c2f"].config.context == 172


def test_context_follows_the_codec(files):
    assert published_config(files["coarse"].kwargs, TokenGrid(44_100, 512)).context == 861
    assert published_config(files["c2f"].kwargs, TokenGrid(16_000, 320)).context == 150


def test_lora_is_merged_at_one_eighth(files, models, codebooks):
    state, kwargs = files["c2f"].state, files["c2f"].kwargs
    merged = {name: tensor.clone() for name, tensor in state.items() if "lora" not in name}
    stem = "transformer.layers.1.feed_forward.w_2."
    merged[f"{stem}weight"] += state[f"{stem}lora_B"] @ state[f"{stem}lora_A"] / 8
    plain = transformer_from_published(merged, kwargs, codebooks)
    mine = models["c2f"].layers[1]
    torch.testing.assert_close(plain.layers[1].feed_forward.out.weight, mine.feed_forward.out.weight)
    for part in (mine.feed_forward.into, mine.attention.out, mine.attention.qkv):
        other = dict(zip(map(id, mine.modules()), plain.layers[1].modules(), strict=True))[id(part)]
        assert not torch.allclose(other.weight, part.weight)
    queries, keys, values = (mine.attention.qkv.weight - plain.layers[1].attention.qkv.weight).abs().amax(1).view(3, -1)
    assert queries.min() > 0 and values.min() > 0 and keys.max() == 0


def test_half_precision_is_widened(files, models, codebooks):
    state = {name: tensor.half() for name, tensor in files["c2f"].state.items()}
    model = transformer_from_published(state, files["c2f"].kwargs, codebooks)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, models["c2f"].state_dict()[name], rtol=2e-2, atol=2e-3)


def test_the_model_has_memory_of_its_own(files, codebooks):
    state = {name: tensor.clone() for name, tensor in files["c2f"].state.items()}
    model = transformer_from_published(state, files["c2f"].kwargs, codebooks)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    untouched = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert all(torch.equal(state[name], tensor) for name, tensor in untouched.items())
    changed = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not any(torch.equal(changed[name], tensor) for name, tensor in before.items())
    for tensor in state.values():
        tensor.zero_()
    assert all(torch.equal(changed[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["coarse", "c2f"])
def test_every_tensor_is_needed(name, files, codebooks):
    state, kwargs = files[name].state, files[name].kwargs
    for gone in state:
        rest = {key: tensor for key, tensor in state.items() if key != gone}
        with pytest.raises(ValueError, match="missing: ") as error:
            check_published(rest, kwargs)
        assert gone in str(error.value) and "left over" not in str(error.value)


@pytest.mark.parametrize(
    "extra",
    [
        "transformer.layers.0.self_attn.w_ks.lora_A",
        "transformer.layers.1.self_attn.relative_attention_bias.weight",
        "transformer.layers.3.norm_1.weight",
        "transformer.layers.0.film_1.gamma.weight",
        "embedding.special.PAD",
        "num_batches_tracked",
    ],
)
def test_nothing_may_be_left_over(extra, files, codebooks):
    state = {**files["coarse"].state, extra: torch.zeros(8, 32)}
    with pytest.raises(ValueError, match=f"left over: {extra}") as error:
        transformer_from_published(state, files["coarse"].kwargs, codebooks)
    assert "missing" not in str(error.value)


def test_shapes_are_checked_and_named(files, codebooks):
    state = dict(files["c2f"].state)
    state["transformer.norm.weight"] = torch.zeros(33)
    state["transformer.layers.0.self_attn.fc.lora_A"] = torch.zeros(4, 32)
    with pytest.raises(ValueError, match="of another shape") as error:
        transformer_from_published(state, files["c2f"].kwargs, codebooks)
    assert "transformer.norm.weight (33,) instead of (32,)" in str(error.value)
    assert "fc.lora_A (4, 32) instead of (8, 32)" in str(error.value)


def test_whole_numbers_are_no_weights(files, codebooks):
    state = {**files["coarse"].state, "transformer.norm.weight": torch.ones(32, dtype=torch.int64)}
    with pytest.raises(ValueError, match="not floating point numbers: transformer.norm.weight"):
        transformer_from_published(state, files["coarse"].kwargs, codebooks)


def test_long_lists_are_cut_short(files):
    with pytest.raises(ValueError, match=r"and \d+ more") as error:
        check_published(files["codec"].state, files["coarse"].kwargs)
    assert len(str(error.value)) < 3000


def test_codebooks_must_fit(files, codebooks):
    with pytest.raises(ValueError, match="use the codec that it was trained with"):
        transformer_from_published(files["c2f"].state, files["c2f"].kwargs, codebooks[:9])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"r_cond_dim": 64}, "r_cond_dim = 64"),
        ({"noise_mode": "random"}, "noise_mode = 'random'"),
        ({"ctrl_dims": {"rms": 8}}, "ctrl_dims = "),
        ({"cond_dim": 16}, "cond_dim = 16"),
        ({"is_decoder": True}, "not known here: is_decoder"),
        ({"n_heads": 0}, "n_heads .* whole number"),
        ({"n_layers": "3"}, "n_layers .* whole number"),
        ({"n_heads": 5}, "32 is not a multiple of heads 5"),
        ({"n_conditioning_codebooks": 4}, "at least one codebook level"),
        ({"vocab_size": 2048}, "2048 codes a level"),
    ],
)
def test_options_that_change_the_function_are_checked(change, words, files, codebooks):
    with pytest.raises(ValueError, match=words):
        transformer_from_published(files["coarse"].state, {**files["coarse"].kwargs, **change}, codebooks)


def test_options_that_are_absent_or_of_training_only(files):
    wanted = published_config(files["coarse"].kwargs)
    shape = ("n_heads", "n_layers", "n_codebooks", "latent_dim", "embedding_dim", "vocab_size")
    few = {name: files["coarse"].kwargs[name] for name in shape}
    assert published_config({**few, "flash_attn": True, "seq_len": 313, "cfg_dropout_prob": 0.5}) == wanted
    with pytest.raises(ValueError, match="lacks the options n_heads"):
        published_config({name: value for name, value in few.items() if name != "n_heads"})


def test_lora_may_be_of_some_weights_only(files, codebooks):
    kept = "transformer.layers.0.self_attn.fc.lora_"
    state = {name: tensor for name, tensor in files["c2f"].state.items() if "lora" not in name or name.startswith(kept)}
    bare = {name: tensor for name, tensor in state.items() if "lora" not in name}
    one, none = (transformer_from_published(s, files["c2f"].kwargs, codebooks).state_dict() for s in (state, bare))
    assert [name for name in one if not torch.equal(one[name], none[name])] == ["layers.0.attention.out.weight"]
    assert len(LORA_WEIGHTS) == 5


# ---------------------------------------------------------------------------------------------------------- reading files


def test_golden_files_are_read_and_written_as_they_are(files, tmp_path):
    for name, published in files.items():
        path = write_published(tmp_path / "new" / f"{name}.pth", published)
        again = read_published(path)
        assert again.metadata == published.metadata and again.kwargs is again.metadata["kwargs"]
        assert list(again.state) == list(published.state)
        assert all(torch.equal(again.state[key], tensor) for key, tensor in published.state.items())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["c2f.pth", "coarse.pth", "codec.pth"]


class _Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def _evil_zip(path, marker):
    torch.save({"state_dict": {"w": torch.zeros(1)}, "metadata": {"kwargs": {"x": _Evil(marker)}}}, path)


def _evil_old_format(path, marker):
    content = {"state_dict": {"w": torch.zeros(1)}, "metadata": {"kwargs": {"x": _Evil(marker)}}}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _evil_pickle(path, marker):
    path.write_bytes(pickle.dumps(_Evil(marker), protocol=2))


@pytest.mark.parametrize("make", [_evil_zip, _evil_old_format, _evil_pickle])
def test_no_code_is_run(make, tmp_path):
    path, marker = tmp_path / "evil.pth", tmp_path / "it_ran"
    make(path, marker)
    with pytest.raises(ValueError, match=r"could be read only by running code that it names \((posix|nt)\.system\)"):
        read_published(path)
    assert not marker.exists()


def test_no_code_is_run_in_newer_pickles_either(tmp_path):
    path, marker = tmp_path / "evil.pth", tmp_path / "it_ran"
    path.write_bytes(pickle.dumps(_Evil(marker), protocol=4))
    with pytest.raises(ValueError, match="nothing in it was run"):
        read_published(path)
    assert not marker.exists()


def test_the_trap_is_one(tmp_path):
    _evil_pickle(tmp_path / "evil.pth", tmp_path / "it_ran")
    pickle.loads((tmp_path / "evil.pth").read_bytes())
    assert (tmp_path / "it_ran").exists()


def test_a_torch_package_is_refused(tmp_path):
    from torch.package import PackageExporter

    path = tmp_path / "packaged.pth"
    with PackageExporter(path) as exporter:
        exporter.save_pickle("model", "model.pkl", {"state_dict": {"w": torch.zeros(1)}})
    with pytest.raises(ValueError, match=r"torch.package archive.*package=False"):
        read_published(path)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    whole = (GOLDEN / "coarse.pth").read_bytes()
    path = tmp_path / "file.pth"
    for content, words in (
        (whole[: len(whole) // 2], "not complete or damaged"),
        (whole[:-1000], "not complete or damaged"),
        (b"", "does not hold weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "does not hold weights"),
        (b"\x80\x02}q\x00", "damaged"),
        (b"\x80" * 64, "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=words) as error:
            read_published(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no weights")
    with pytest.raises(ValueError, match="zip file without weights"):
        read_published(path)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_published(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(1)], "no 'state_dict'"),
        ({"w": torch.zeros(1)}, "no 'state_dict'"),
        ({"state_dict": {}, "metadata": {"kwargs": {}}}, "no tensors"),
        ({"state_dict": {"w": torch.zeros(1), "n": 3}, "metadata": {"kwargs": {}}}, "not tensors: n"),
        ({"state_dict": {"w": torch.zeros(1)}}, "no metadata"),
        ({"state_dict": {"w": torch.zeros(1)}, "metadata": {}}, "no metadata"),
        ({"state_dict": {"w": torch.zeros(1)}, "metadata": {"kwargs": {}}, "optimizer": {}}, "lost here: optimizer"),
    ],
)
def test_other_contents_are_refused(content, words, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=words):
        read_published(tmp_path / "file.pth")


def test_the_old_file_format_of_torch_is_read(tmp_path):
    content = {"state_dict": {"w": torch.arange(3.0)}, "metadata": {"kwargs": {"a": 1}}}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    published = read_published(tmp_path / "old.pth")
    assert torch.equal(published.state["w"], torch.arange(3.0)) and published.kwargs == {"a": 1}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(b"before")
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        write_published(path, Published({"w": torch.zeros(1)}, {"kwargs": {"f": lambda: 0}}))
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["file.pth"]
