"""CLAP for the Fréchet distance. The library is an extra: what needs it is skipped where it is not installed."""

from __future__ import annotations

import importlib.util
import os
import sys

import numpy as np
import pytest
import torch

from vampnet import hub
from vampnet.evaluate import clap, embeddings
from vampnet.hub_errors import HubUnreachable

pytestmark = pytest.mark.usefixtures("one_thread")
has_library = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is an extra: requirements/clap.txt"
)
RATE = 44_100


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match="'transformers', which is not installed: .* -r requirements/clap.txt"):
        embeddings.make_embeddings(["clap"])


def test_weights_that_cannot_be_had_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"HF_HUB_OFFLINE forbids a download: give a folder .* --clap, or leave clap out"):
        clap.find_clap()
    with pytest.raises(ValueError, match="name a folder, or a repository"):
        clap.find_clap("no/such/thing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="it needs config.json and preprocessor_config.json, and model.safetensors or"):
        clap.find_clap(tmp_path)

    def away(*_):
        raise HubUnreachable("no answer")

    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(hub, "listing", away)
    with pytest.raises(ValueError, match="the hub cannot be reached: give a folder"):
        clap.find_clap("laion/clap-htsat-fused")


def test_of_a_repository_only_what_is_needed_is_fetched(tmp_path, monkeypatch):
    asked = []
    sizes = dict.fromkeys(("README.md", "config.json", "preprocessor_config.json", "pytorch_model.bin", "vocab.json"), 1)
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(hub, "snapshot", lambda *_: None)
    monkeypatch.setattr(hub, "listing", lambda repo, revision: hub.Listing(repo, revision, "0" * 40, sizes, {}))
    monkeypatch.setattr(hub, "fetch", lambda listed, names, told: asked.append(list(names)) or tmp_path)
    assert clap.find_clap("laion/clap-htsat-fused@main") == tmp_path
    sizes["model.safetensors"] = 1
    clap.find_clap()
    assert [names[-1] for names in asked] == ["pytorch_model.bin", "model.safetensors"]
    assert all(names[:2] == ["config.json", "preprocessor_config.json"] and len(names) == 3 for names in asked)


def test_windows_cover_a_clip():
    assert clap.windows(300, 480) == [(0, 300)] and clap.windows(480, 480) == [(0, 480)]
    assert clap.windows(500, 480) == [(0, 480)], "a rest of less than a second says nothing"
    assert clap.windows(560, 480) == [(0, 480), (80, 560)]
    assert clap.windows(1000, 480) == [(0, 480), (240, 720), (480, 960)]


# ------------------------------------------------------------------------------------------------- with the library


def tiny_clap(folder, fusion: bool, seed: int = 0):
    """Writes a whole CLAP model, both halves, with tiny random weights; returns it."""
    import transformers

    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [1, 2]}
    audio |= {"enable_fusion": fusion, "num_hidden_layers": 2}
    audio |= {"aff_block_r": 2}
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
    torch.manual_seed(seed)
    config = transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=12)
    model = transformers.ClapModel(config).eval()
    model.save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="fusion" if fusion else "rand_trunc").save_pretrained(folder)
    return model


def music(seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


@has_library
@pytest.mark.parametrize("fusion", [False, True])
def test_the_audio_half_is_that_of_the_whole_model(tmp_path, fusion):
    import soxr
    import transformers

    whole = tiny_clap(tmp_path, fusion)
    (embed,) = embeddings.make_embeddings(["clap"], clap=tmp_path)
    assert embed.name == "clap" and not embed.own and str(tmp_path.parent) not in embed.about
    assert not embed.model.training and {p.dtype for p in embed.model.parameters()} == {torch.float32}
    audio = music(20.5)
    points = embed(audio, RATE)
    assert points.shape == (3, 12) and points.dtype == np.float32 and np.allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    # The library's own way with 10 s at 48 kHz, by both halves; it also draws which clip is "longer", which changes nothing
    # without fusion.
    first = soxr.resample(audio.numpy(), RATE, 48_000, quality="HQ")[:480_000]
    inputs = transformers.ClapFeatureExtractor.from_pretrained(tmp_path)(first, sampling_rate=48_000, return_tensors="pt")
    longer = torch.tensor([[False]]) if fusion else inputs["is_longer"]
    with torch.no_grad():
        wanted = whole.get_audio_features(input_features=inputs["input_features"].float(), is_longer=longer).pooler_output
    assert np.allclose(points[0], wanted[0].numpy(), atol=1e-5)
    # Nothing is drawn: the same clip has the same points, alone or not.
    assert np.array_equal(points, embed(audio, RATE))
    assert np.allclose(embed(audio[: 10 * RATE], RATE)[0], points[0], atol=2e-3)
    assert embed(music(1.5), RATE).shape == (1, 12)


@has_library
def test_other_weights_are_another_embedding(tmp_path):
    found = []
    for seed in (0, 1):
        tiny_clap(tmp_path / str(seed), False, seed)
        found += embeddings.make_embeddings(["clap"], clap=tmp_path / str(seed))
    assert len({embeddings.key_of(one) for one in found}) == 2


@has_library
def test_what_is_no_clap_model_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    tiny_clap(tmp_path, False)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if not k.startswith("audio_projection")}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="tensors are missing, such as audio_projection"):
        clap.load_clap(tmp_path)
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="does not hold a CLAP model that can be read"):
        clap.load_clap(tmp_path)
    path.unlink()
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save({"audio_model": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="does not hold a CLAP model that can be read"):
        clap.load_clap(tmp_path)
    assert not marker.exists(), "code in a file was run"
