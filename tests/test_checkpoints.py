import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_checkpoint, tiny_models, tiny_vampnet

from vampnet import checkpoints
from vampnet.codec import save_codec
from vampnet.config import PUBLISHED, Sampling
from vampnet.convert import to_folder
from vampnet.layout import PUBLISHED_FILES
from vampnet.model.files import save_transformer
from vampnet.pipeline import VampNet

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A folder of checkpoints that holds one, "tiny", with checksums."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")
    checkpoints.write_checksums(folder)
    return folder


@pytest.fixture
def copy(sealed, tmp_path):
    return shutil.copytree(sealed, tmp_path / "copy")


def test_loads_what_was_saved(sealed):
    models = checkpoints.load(sealed)
    codec, coarse, fine = tiny_models()
    assert models.name == "tiny"
    for loaded, made in ((models.codec, codec), (models.coarse, coarse), (models.fine, fine)):
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        state = made.state_dict()
        assert loaded.state_dict().keys() == state.keys()
        # stored as float16, codebooks exactly
        assert all(torch.allclose(v, state[k], rtol=1e-3, atol=1e-6) for k, v in loaded.state_dict().items())
    assert torch.equal(models.codec.codebook_vectors(), codec.codebook_vectors())
    assert torch.equal(models.fine.codebooks, codec.codebook_vectors())


def test_bundled_models_are_found_by_name(sealed, monkeypatch, tmp_path):
    monkeypatch.setenv("VAMPNET_CHECKPOINTS", str(sealed.parent))
    (sealed.parent / "unfinished").mkdir(exist_ok=True)
    assert checkpoints.bundled_models() == ["tiny"]
    assert checkpoints.find("tiny") == sealed
    with pytest.raises(FileNotFoundError, match="unfinished is not complete: config.json, codec.safetensors"):
        checkpoints.find("unfinished")
    monkeypatch.setenv("VAMPNET_CHECKPOINTS", str(tmp_path / "none"))
    assert checkpoints.bundled_models() == []


def test_without_the_variable_they_lie_beside_the_package(monkeypatch):
    monkeypatch.delenv("VAMPNET_CHECKPOINTS", raising=False)
    assert checkpoints.bundled_folder().name == "checkpoints"
    assert (checkpoints.bundled_folder().parent / "vampnet" / "config.py").is_file()


@pytest.mark.parametrize("name", ["nothing", "", "..", "/nowhere/at/all", "a/b/c", "https://hub/a/b", "a/.b", "a--b/c"])
def test_other_names_are_refused_in_one_sentence(name, sealed, monkeypatch, tmp_path):
    monkeypatch.setenv("VAMPNET_CHECKPOINTS", str(sealed.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        checkpoints.load(name)
    assert "\n" not in str(error.value) and str(error.value).endswith(("missing.", "fine.safetensors."))


@pytest.mark.parametrize("style", ["../..", "a/b", "/etc", "", ".hidden", "..", "a\\b", "x:y/z", "two..dots"])
@pytest.mark.parametrize("base", ["tiny", "owner/repo", "folder"])
def test_a_fine_tune_is_a_plain_name(base, style, sealed, monkeypatch, tmp_path):
    monkeypatch.setenv("VAMPNET_CHECKPOINTS", str(sealed.parent))
    shutil.copytree(GOLDEN, tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="cannot be the name of a fine-tune"):
        checkpoints.locate(f"{base}:{style}")


@pytest.mark.parametrize("revision", ["..", "../x", "a/../../b", "/etc", "-f", "", "a b", "x.lock", "a//b"])
def test_a_revision_is_one(revision):
    for name, given in (("owner/repo", revision), (f"owner/repo@{revision}", None)):
        with pytest.raises(ValueError, match="cannot be a revision"):
            checkpoints.locate(name, revision=given)
    with pytest.raises(ValueError, match="another revision than 'b'"):
        checkpoints.locate("owner/repo@a", revision="b")


def test_one_model_can_be_asked_for(copy):
    (copy / "coarse.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="not complete: coarse.safetensors missing"):
        checkpoints.find(copy)
    assert checkpoints.find(copy, ["codec.safetensors"]) == copy


def test_checksums_are_verified(copy):
    sums = json.loads((copy / "config.json").read_text())["sha256"]
    assert sorted(sums) == sorted(checkpoints.WEIGHTS) and all(len(v) == 64 for v in sums.values())
    data = bytearray((copy / "fine.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "fine.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="fine.safetensors does not have the checksum"):
        checkpoints.load(copy)
    assert checkpoints.write_checksums(copy) != sums
    checkpoints.load(copy)


def _without_checksums(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["sha256"]
    (folder / "config.json").write_text(json.dumps(config))


def test_loading_is_strict(copy):
    _without_checksums(copy)
    checkpoints.load(copy)
    tensors = load_file(copy / "coarse.safetensors")
    save_file({**tensors, "more": torch.zeros(1)}, copy / "coarse.safetensors")
    with pytest.raises(ValueError, match="left over.*more"):
        checkpoints.load(copy)


@pytest.mark.parametrize("name", ["config.json", *checkpoints.WEIGHTS])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_files_give_one_sentence(copy, name, damage):
    _without_checksums(copy)
    path = copy / name
    path.write_bytes({"cut": path.read_bytes()[:-100], "text": b"\xff\xfe not this", "empty": b""}[damage])
    with pytest.raises(ValueError) as error:
        checkpoints.load(copy)
    assert "\n" not in str(error.value) and str(copy) in str(error.value)


def test_tensors_of_another_shape_are_refused(copy):
    _without_checksums(copy)
    tensors = load_file(copy / "codec.safetensors")
    tensors["mean"] = tensors["mean"][:-1].clone()
    save_file(tensors, copy / "codec.safetensors")
    with pytest.raises(ValueError, match="cannot be loaded|fit"):
        checkpoints.load(copy)


@pytest.mark.parametrize(("part", "change"), [("coarse", {"heads": 0}), ("codec", {"frames": 0}), ("fine", {"layers": None})])
def test_a_config_that_makes_no_sense_gives_one_sentence(copy, part, change):
    config = json.loads((copy / "config.json").read_text())
    config[part].update(change)
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=str(copy)):
        checkpoints.load(copy)
    (copy / "config.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match="not readable JSON"):
        checkpoints.load(copy)


def test_what_is_exported_into_a_finished_model_can_be_loaded(copy):
    models = checkpoints.load(copy)
    for which in ("coarse", "fine"):
        model = getattr(models, which)
        weights = {name: value * 1.5 if value.is_floating_point() else value for name, value in model.state_dict().items()}
        save_transformer(model, copy, which, weights)
        checkpoints.load(copy)
    with torch.no_grad():
        models.codec.project_out.bias += 1
    save_codec(models.codec, copy)
    changed = checkpoints.load(copy)
    assert torch.allclose(changed.codec.project_out.bias, models.codec.project_out.bias, atol=1e-2)


def test_a_home_of_nobody_is_no_folder():
    with pytest.raises(FileNotFoundError, match="There is no model"):
        checkpoints.load("~nobody-by-this-name/model")


def test_models_must_fit_together(copy):
    shutil.copy(copy / "coarse.safetensors", copy / "fine.safetensors")
    config = json.loads((copy / "config.json").read_text())
    del config["sha256"]
    config["fine"] = config["coarse"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit together"):
        checkpoints.load(copy)


# ----------------------------------------------------------------------------------------------------- the published format


@pytest.fixture
def published(tmp_path):
    """A folder in the published layout with the fine-tune "choir", whose coarse model differs from the stock one."""
    folder = tmp_path / "published"
    (folder / "loras" / "choir").mkdir(parents=True)
    for name in ("codec.pth", "coarse.pth", "c2f.pth"):
        shutil.copy(GOLDEN / name, folder / name)
    shutil.copy(GOLDEN / "c2f.pth", folder / "loras" / "choir" / "c2f.pth")
    louder = torch.load(GOLDEN / "coarse.pth", weights_only=True)
    louder["state_dict"]["embedding.special.MASK"] *= 2
    torch.save(louder, folder / "loras" / "choir" / "coarse.pth")
    return folder


def test_a_published_folder_computes_what_the_original_does(published):
    models = checkpoints.load(published)
    expected = load_file(GOLDEN / "expected.safetensors")
    assert models.name == "published"
    assert torch.equal(models.codec.encode(expected["audio_in"]), expected["codes"].long())
    for model in (models.coarse, models.fine):
        assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert (models.coarse.config.layers, models.fine.config.layers) == (3, 2)


def test_published_weights_are_sampled_as_the_paper_does_it(published, sealed, tmp_path):
    assert checkpoints.load(sealed).sampling == Sampling() == VampNet.from_pretrained(sealed, "cpu").sampling
    ours = to_folder(*(published / name for name in PUBLISHED_FILES.values()), tmp_path / "ours")
    for name in (published, f"{published}:choir", ours):
        assert VampNet.from_pretrained(name, "cpu", precision="float32").sampling == PUBLISHED
    # It goes by the coarse model, whose steps they are.
    assert checkpoints.load(published, coarse=published / "coarse.pth").sampling == PUBLISHED
    path = tmp_path / "ours" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "sampling": {"steps": 5}}))
    assert checkpoints.load(tmp_path / "ours").sampling == Sampling(steps=5)
    for given in ({"steps": 0}, {"speed": 1}, 3):
        path.write_text(json.dumps({**config, "sampling": given}))
        with pytest.raises(ValueError, match="cannot be loaded"):
            checkpoints.load(tmp_path / "ours")


def test_a_take_is_drawn_as_its_model_says(music_file):
    vampnet = tiny_vampnet()
    vampnet.sampling = Sampling(steps=3, temperature=0.5)
    assert vampnet.vamp(music_file, takes=1).sampling == vampnet.sampling
    assert vampnet.vamp(music_file, sampling=Sampling(steps=1), takes=1).sampling == Sampling(steps=1)
    tokens = vampnet.encode(music_file)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    same, other = (vampnet.generate(tokens, mask, sampling) for sampling in (vampnet.sampling, Sampling()))
    assert torch.equal(vampnet.generate(tokens, mask), same) and not torch.equal(same, other)


def test_a_fine_tune_takes_the_place_of_the_transformers(published):
    stock, choir = checkpoints.load(published), checkpoints.load(f"{published}:choir")
    assert choir.name == "published:choir"
    assert torch.equal(choir.coarse.mask_vectors, 2 * stock.coarse.mask_vectors)
    assert torch.equal(choir.codec.codebook_vectors(), stock.codec.codebook_vectors())
    with pytest.raises(checkpoints.ModelUnavailable, match="no fine-tune 'opera': it has choir"):
        checkpoints.load(f"{published}:opera")
    (published / "loras" / "choir" / "c2f.pth").unlink()
    with pytest.raises(FileNotFoundError, match="not complete: loras/choir/c2f.pth missing"):
        checkpoints.load(f"{published}:choir")
    (published / "c2f.pth").unlink()
    with pytest.raises(FileNotFoundError, match="not complete: c2f.pth missing"):
        checkpoints.load(published)


def test_single_files_replace_those_of_a_name(published):
    coarse = published / "loras" / "choir" / "coarse.pth"
    models = checkpoints.load(published, coarse=coarse)
    assert models.name == "published + coarse.pth"
    assert torch.equal(models.coarse.mask_vectors, checkpoints.load(f"{published}:choir").coarse.mask_vectors)
    alone = checkpoints.load("no such model", codec=GOLDEN / "codec.pth", coarse=GOLDEN / "coarse.pth", fine=GOLDEN / "c2f.pth")
    assert alone.name == "codec.pth + coarse.pth + c2f.pth" and alone.codec.n_codebooks == 14
    with pytest.raises(FileNotFoundError, match="no file .*none.pth: name the c2f.pth"):
        checkpoints.load(published, fine=published / "none.pth")


def test_single_files_replace_those_of_our_format_too(sealed):
    models = checkpoints.load(sealed, codec=GOLDEN / "codec.pth")
    assert torch.equal(models.fine.codebooks, models.codec.codebook_vectors())


@pytest.mark.parametrize("name", ["codec.pth", "coarse.pth", "c2f.pth"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty", "other"])
def test_damaged_published_files_give_one_sentence(published, name, damage):
    path = published / name
    if damage == "other":
        shutil.copy(published / {"codec.pth": "coarse.pth"}.get(name, "codec.pth"), path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:-1000], "text": b"not this", "empty": b""}[damage])
    with pytest.raises(ValueError) as error:
        checkpoints.load(published)
    assert "\n" not in str(error.value) and str(path) in str(error.value) and path.exists()


def test_folders_have_no_revisions(published):
    with pytest.raises(ValueError, match="leave the revision out"):
        checkpoints.load(published, revision="main")
