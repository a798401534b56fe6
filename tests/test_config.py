import dataclasses

import pytest

from vampnet.config import HOP, SAMPLE_RATE, Prompt, Sampling, TokenGrid, TransformerConfig

GRIDS = [TokenGrid(), TokenGrid(48_000, 320), TokenGrid(44_100, 441), TokenGrid(16_000, 1_000)]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_token_finds_itself_by_its_time(grid):
    for t in range(1, 20_001):
        start = grid.tokens_to_seconds(t)
        assert grid.token_at(start) == t
        # the last sample of the step before belongs to the step before
        assert grid.token_at(grid.samples_to_seconds(grid.tokens_to_samples(t) - 1)) == t - 1


@pytest.mark.parametrize("grid", GRIDS)
def test_samples_and_tokens_are_exact_for_every_length(grid):
    for t in range(1, 20_001):
        samples = grid.tokens_to_samples(t)
        assert samples == t * grid.hop
        assert grid.samples_to_tokens(samples) == t
        assert grid.samples_to_tokens(samples - 1) == t
        assert grid.samples_to_tokens(samples + 1) == t + 1
        assert grid.seconds_to_tokens(grid.tokens_to_seconds(t)) == t


def test_samples_survive_the_way_through_seconds():
    grid = TokenGrid()
    for samples in [*range(0, 5_000), *range(10**7, 10**7 + 5_000)]:
        assert grid.seconds_to_samples(grid.samples_to_seconds(samples)) == samples


def test_grid_of_the_paper():
    grid = TokenGrid()
    assert (grid.sample_rate, grid.hop) == (SAMPLE_RATE, HOP) == (44_100, 768)
    assert grid.tokens_per_second == pytest.approx(57.42, abs=0.005)
    assert [grid.seconds_to_tokens(s) for s in (1.0, 2.0, 10.0)] == [57, 115, 574]
    assert grid.seconds_to_tokens(0.075) == 4


@pytest.mark.parametrize("rate, hop", [(0, 768), (44_100, 0), (-1, 768)])
def test_a_grid_needs_positive_sizes(rate, hop):
    with pytest.raises(ValueError, match="positive"):
        TokenGrid(rate, hop)


@pytest.mark.parametrize(
    "field, value",
    [
        ("periodic", -1),
        ("periodic", 7.0),
        ("periodic", True),
        ("periodic_width", 0),
        ("periodic_offset", 0.5),
        ("periodic_jitter", 0.5),
        ("periodic_jitter", -1),
        ("kept_codebooks", -1),
        ("kept_codebooks", 15),
        ("prompt_codebooks", 0),
        ("prompt_codebooks", 15),
        ("prefix_seconds", -0.1),
        ("prefix_seconds", 1e305),
        ("prefix_seconds", 10**400),
        ("periodic", 2**31),
        ("periodic_offset", -(2**31)),
        ("suffix_seconds", float("nan")),
        ("beat_width_ms", -75.0),
        ("onset_width_ms", float("inf")),
        ("dropout", 1.01),
        ("dropout", -0.1),
        ("region", (1.0,)),
        ("region", (2.0, 1.0)),
        ("region", (1.0, 1.0)),
        ("region", (-1.0, 1.0)),
    ],
)
def test_a_prompt_names_the_field_that_is_wrong(field, value):
    with pytest.raises(ValueError, match=field):
        Prompt(**{field: value})


@pytest.mark.parametrize(
    "field, value",
    [
        ("steps", 0),
        ("steps", 12.0),
        ("temperature", -0.1),
        ("temperature", 1e-40),
        ("typical_min_tokens", 10**20),
        ("temperature", "hot"),
        ("mask_temperature", -1.0),
        ("mask_temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("typical_mass", 0.0),
        ("typical_min_tokens", 0),
        ("sample_cutoff", 1.5),
        ("sample_cutoff", -0.5),
        ("balance", 1.1),
        ("balance", -0.1),
        ("balance", float("nan")),
        ("balance", True),
        ("fine_steps", 0),
        ("feedback", 0),
    ],
)
def test_sampling_names_the_field_that_is_wrong(field, value):
    with pytest.raises(ValueError, match=field):
        Sampling(**{field: value})


def test_the_ends_of_every_range_are_allowed():
    Prompt(periodic=0, kept_codebooks=14, prompt_codebooks=1, dropout=1.0, region=(0.0, 0.01), periodic_offset=-3)
    Prompt(periodic=1, kept_codebooks=0, prompt_codebooks=14, dropout=0.0, region=None)
    Sampling(steps=1, temperature=0, mask_temperature=0, top_p=1.0, typical_mass=1.0, sample_cutoff=0.0, fine_steps=1)
    Sampling(top_p=0.01, typical_mass=0.01, sample_cutoff=1.0)


def test_prompts_know_what_they_need():
    assert not Prompt().needs_beats and not Prompt().needs_onsets
    assert Prompt(beat_width_ms=75).needs_beats and not Prompt(beat_width_ms=75).needs_onsets
    assert Prompt(onset_width_ms=30).needs_onsets and not Prompt(onset_width_ms=30).needs_beats


def test_options_cannot_be_changed_in_place():
    for options in (Prompt(), Sampling(), TokenGrid(), TransformerConfig()):
        name = dataclasses.fields(options)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, name, 1)


def test_transformer_config():
    assert TransformerConfig(n_codebooks=14, n_conditioning=4).n_predicted == 10
    assert TransformerConfig(**TransformerConfig(dim=64, heads=4).to_dict()) == TransformerConfig(dim=64, heads=4)
    with pytest.raises(ValueError, match="heads"):
        TransformerConfig(dim=65, heads=4)
    with pytest.raises(ValueError, match="predict"):
        TransformerConfig(n_codebooks=4, n_conditioning=4)
    with pytest.raises(ValueError, match="up to 1024 codes"):
        TransformerConfig(codebook_size=2048)
