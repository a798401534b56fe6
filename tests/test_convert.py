"""Published files -> our format -> published files: nothing is lost, and what does not fit is refused."""

import argparse
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_checkpoint

from vampnet import checkpoints
from vampnet.convert import add_parser, run, to_folder, to_published
from vampnet.model.files import load_transformer
from vampnet.model.published import transformer_from_published
from vampnet.published import Published, read_published, write_published

GOLDEN = Path(__file__).parent / "golden"
FILES = ("codec.pth", "coarse.pth", "c2f.pth")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return to_folder(*(GOLDEN / name for name in FILES), tmp_path_factory.mktemp("converted") / "golden")


def _same(one: Published, other: Published) -> None:
    assert one.metadata == other.metadata and repr(one.metadata) == repr(other.metadata)
    assert type(one.state) is type(other.state) and list(one.state) == list(other.state)
    assert getattr(one.state, "_metadata", None) == getattr(other.state, "_metadata", None)
    for name, tensor in one.state.items():
        mine = other.state[name]
        assert (mine.dtype, mine.shape) == (tensor.dtype, tensor.shape)
        bits = (t.contiguous().reshape(-1).view(torch.uint8) for t in (mine, tensor))
        assert torch.equal(*bits)


def test_there_and_back_bit_for_bit(converted, tmp_path):
    assert to_published(converted, tmp_path) == [tmp_path / name for name in FILES]
    for name in FILES:
        _same(read_published(GOLDEN / name), read_published(tmp_path / name))


def test_other_dtypes_and_values_survive(tmp_path):
    """Half precision, negative zero, NaN, tensors that share memory or are not contiguous, and their order."""
    files = {name: read_published(GOLDEN / name) for name in FILES}
    for name, dtype in (("coarse.pth", torch.float16), ("c2f.pth", torch.bfloat16)):
        state = {key: tensor.to(dtype) for key, tensor in reversed(files[name].state.items())}
        fc, other = (f"transformer.layers.{i}.self_attn.fc.weight" for i in range(2))
        state[fc] = state[fc].t().contiguous().t()
        state[fc][0, :3] = torch.tensor([-0.0, float("nan"), float("inf")])
        state[other] = state[fc].t()
        metadata = {**files[name].metadata, "note": "öä", "numbers": [0.1, 1e-30, True, None]}
        files[name] = Published(state, metadata)
    for name, published in files.items():
        write_published(tmp_path / "in" / name, published)
    to_folder(*(tmp_path / "in" / name for name in FILES), tmp_path / "ours")
    assert load_file(tmp_path / "ours" / "fine.safetensors")[fc].dtype == torch.bfloat16
    to_published(tmp_path / "ours", tmp_path / "out")
    for name in FILES:
        _same(files[name], read_published(tmp_path / "out" / name))


def test_what_is_in_the_folder(converted):
    config = json.loads((converted / "config.json").read_text(encoding="utf-8"))
    assert {name: config[name]["type"] for name in ("codec", "coarse", "fine")} == {
        "codec": "lac",
        "coarse": "published",
        "fine": "published",
    }
    assert config["fine"]["metadata"] == read_published(GOLDEN / "c2f.pth").metadata
    assert checkpoints.is_checkpoint(converted) and sorted(config["sha256"]) == sorted(checkpoints.WEIGHTS)
    assert sorted(path.name for path in converted.iterdir()) == sorted(["config.json", *checkpoints.WEIGHTS])
    checkpoints.verify_checksums(converted)


@pytest.mark.parametrize(("which", "name"), [("coarse", "coarse.pth"), ("fine", "c2f.pth")])
def test_converted_transformers_are_those_of_the_files(which, name, converted):
    published = read_published(GOLDEN / name)
    codebooks = torch.randn(14, 1024, 8)
    loaded = load_transformer(converted, which, codebooks)
    direct = transformer_from_published(published.state, published.kwargs, codebooks)
    assert loaded.config == direct.config and not loaded.training
    assert loaded.state_dict().keys() == direct.state_dict().keys()
    assert all(torch.equal(tensor, direct.state_dict()[key]) for key, tensor in loaded.state_dict().items())
    assert torch.equal(loaded.codebooks, direct.codebooks)


def test_a_converted_checkpoint_loads(converted):
    models = checkpoints.load(converted)
    assert (models.codec.n_codebooks, models.coarse.config.n_codebooks, models.fine.config.n_conditioning) == (14, 4, 4)
    codebook = read_published(GOLDEN / "codec.pth").state["quantizer.quantizers.3.codebook.weight"]
    assert torch.equal(models.fine.codebooks[3], codebook)


def test_a_section_without_its_options_is_refused(converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["coarse"] = {"type": "published"}
    config["fine"]["metadata"]["kwargs"]["n_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="coarse.safetensors"):
        load_transformer(folder, "coarse", torch.zeros(14, 1024, 8))
    with pytest.raises(ValueError, match="missing: transformer.layers.2"):
        load_transformer(folder, "fine", torch.zeros(14, 1024, 8))
    with pytest.raises(ValueError, match="coarse model of .* has no published form"):
        to_published(folder, tmp_path / "out")


# --------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (("coarse.pth", "coarse.pth", "c2f.pth"), "no codec known here"),
        (("codec.pth", "codec.pth", "c2f.pth"), "options that are not known here"),
        (("codec.pth", "c2f.pth", "coarse.pth"), "do not fit together"),
    ],
)
def test_files_in_the_wrong_places_are_refused(order, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        to_folder(*(GOLDEN / name for name in order), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_metadata_that_json_would_change_is_refused(tmp_path):
    coarse = read_published(GOLDEN / "coarse.pth")
    for odd in ((1, 2), {1: 2}, float("nan"), float("inf")):
        write_published(tmp_path / "coarse.pth", Published(coarse.state, {**coarse.metadata, "odd": [odd]}))
        with pytest.raises(ValueError, match="metadata of the coarse file cannot be written as JSON without loss"):
            to_folder(GOLDEN / "codec.pth", tmp_path / "coarse.pth", GOLDEN / "c2f.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(converted, tmp_path):
    with pytest.raises(FileExistsError, match="config.json"):
        to_folder(*(GOLDEN / name for name in FILES), converted)
    (tmp_path / "c2f.pth").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="c2f.pth"):
        to_published(converted, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["c2f.pth"]


def test_only_what_was_published_goes_back(converted, tmp_path):
    with pytest.raises(ValueError, match="codec model of .* has no published form"):
        to_published(tiny_checkpoint(tmp_path / "tiny"), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="is not a checkpoint: config.json"):
        to_published(tmp_path / "none", tmp_path / "out")
    folder = shutil.copytree(converted, tmp_path / "copy")
    (folder / "fine.safetensors").write_bytes((folder / "fine.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match="does not have the checksum"):
        to_published(folder, tmp_path / "out")
    checkpoints.write_checksums(folder)
    with pytest.raises(ValueError, match="fine.safetensors is damaged"):
        to_published(folder, tmp_path / "out")


# ----------------------------------------------------------------------------------------------------------- command line


def _options(*arguments):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(dest="command"))
    return parser.parse_args(["convert", *map(str, arguments)])


def test_command_both_ways(tmp_path, capsys):
    assert run(_options(GOLDEN, tmp_path / "ours", "--fine", GOLDEN / "c2f.pth")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'ours'}\n"
    assert run(_options(tmp_path / "ours", tmp_path / "back")) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "back" / name) for name in FILES]
    _same(read_published(GOLDEN / "codec.pth"), read_published(tmp_path / "back" / "codec.pth"))


def test_command_refuses_what_makes_no_sense(converted, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        run(_options(tmp_path / "none", tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="codec.pth"):
        run(_options(tmp_path, tmp_path / "out"))
    with pytest.raises(ValueError, match="are for published files"):
        run(_options(converted, tmp_path / "out", "--coarse", GOLDEN / "coarse.pth"))
