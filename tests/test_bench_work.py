"""What the bench counts is what torch counts, and the floor is what the machine cannot go below."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_models
from torch.utils.flop_counter import FlopCounterMode

from vampnet.bench import published, work
from vampnet.bench.ceilings import Ceilings, Rate, measure_copy, measure_product
from vampnet.bench.work import Work
from vampnet.codec import LAC, DacCodec, SpectralCodec, SpectralCodecConfig
from vampnet.codec.convolutional import ConvolutionalShape
from vampnet.config import Sampling, TransformerConfig
from vampnet.generate import fill_windows
from vampnet.model.transformer import TokenTransformer

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def counted(run) -> int:
    """What torch counts in the second run: the first one fills caches."""
    with torch.no_grad():
        run()
        with FlopCounterMode(display=False) as counter:
            run()
    return counter.get_total_flops()


def bundled(which: str) -> dict:
    return dict(json.loads((ROOT / "checkpoints" / "mini" / "config.json").read_text())[which])


def bundled_codec() -> SpectralCodec:
    fields = bundled("codec")
    assert fields.pop("type") == "spectral"
    return SpectralCodec(SpectralCodecConfig(**fields)).eval()


def transformers() -> list[TokenTransformer]:
    vectors = torch.randn(14, 1024, 16)
    made = [TokenTransformer(TransformerConfig(**bundled(which)), vectors).eval() for which in ("coarse", "fine")]
    return [*tiny_models()[1:], *made]


def matrix(demand: work.Demand) -> int:
    return sum(part.matrix for part in demand)


def test_the_operations_of_a_step_are_those_that_torch_counts():
    for model in transformers():
        config = model.config
        tokens = torch.randint(1025, (2, config.n_codebooks, 10))
        where = torch.rand(2, config.n_predicted, 10) < 0.4
        expected = work.step(config, 2, 10, int(where.sum()))
        assert expected.matrix == counted(lambda: model(tokens, where=where))  # noqa: B023
        numbers = sum(p.numel() for p in model.parameters()) + model.codebooks.numel()
        assert work.parameters(config) == numbers
        assert expected.moved == 4 * numbers + 8 * tokens.numel() + 4 * 1024 * int(where.sum())
        assert work.step(config, 2, 24, 5, "int8").moved < expected.moved / 3


def test_the_operations_of_the_published_transformers_are_those_that_torch_counts():
    for name, levels in (("coarse", 4), ("c2f", 14)):
        kwargs = published.SHAPES[published.PAPER][name]
        given = kwargs["n_conditioning_codebooks"]
        config = TransformerConfig(levels, given, layers=kwargs["n_layers"], dim=1280, heads=20)
        with torch.device("meta"):
            model = TokenTransformer(config).eval()
            model.set_codebooks(torch.empty(levels, 1024, 8))
            tokens = torch.zeros(4, levels, 574, dtype=torch.int64)
        assert counted(lambda: model(tokens)) == work.step(config, 4, 574, 4 * 574 * (levels - given)).matrix  # noqa: B023


@pytest.mark.parametrize("codec", [tiny_models()[0], bundled_codec()], ids=["tiny", "bundled"])
def test_the_operations_of_a_spectral_codec_are_those_that_torch_counts(codec):
    audio, codes = torch.randn(2, 1, 12 * 768), torch.randint(1024, (2, 14, 12))
    listening, rendering = work.encode(codec, 12, 2), work.decode(codec, 12, 2)
    assert matrix(listening) == counted(lambda: codec.encode(audio))
    assert matrix(rendering) == counted(lambda: codec.decode(codes))
    assert rendering[-1].fourier > listening[-1].fourier > 0
    assert {part.dtype for part in (*listening, *rendering)} == {"float32"}
    # Each part is measured by the ceiling of its own arithmetic.
    twin = copy.copy(codec)
    twin.precision, twin.tiles = "bfloat16", object()
    assert [part.dtype for part in work.decode(twin, 12, 2)] == ["int8", "bfloat16", "float32"]
    assert [part.dtype for part in work.encode(twin, 12, 2)] == ["float32"]
    assert matrix(work.decode(twin, 12, 2)) == matrix(rendering)
    assert work.decode(twin, 12, 2)[0].moved * 4 == rendering[0].moved


@pytest.mark.parametrize(("kind", "rates"), [(LAC, None), (DacCodec, [2, 4, 5, 8])], ids=["published LAC", "odd DAC"])
def test_the_operations_of_a_waveform_codec_are_those_that_torch_counts(kind, rates):
    more = {"encoder_rates": rates, "decoder_rates": rates[::-1]} if rates else {}
    with torch.device("meta"):
        codec = kind(ConvolutionalShape.from_kwargs(published.CODEC | more)).to("meta")
        audio, codes = torch.empty(1, 1, 9 * codec.hop), torch.empty(1, 14, 9, dtype=torch.int64)
    assert matrix(work.encode(codec, 9)) == counted(lambda: codec.encode(audio))
    assert matrix(work.decode(codec, 9)) == counted(lambda: codec.decoder(codec.quantizer.from_codes(codes)[0]))


def test_the_operations_of_decoding_are_those_of_all_windows_and_steps():
    model = tiny_models()[2]
    tokens, mask = torch.randint(1024, (2, 14, 130)), torch.rand(14, 130) < 0.6
    mask[:4] = False
    for guidance, recall in ((0.0, 0.0), (0.5, 0.0), (0.0, 1.0)):
        many = []
        for given, alike in ((tokens, False), (tokens[:1].expand(2, -1, -1), True)):
            needed = work.decoding(model.config, mask, 2, 3, guided=guidance > 0, alike=alike, recalls=recall > 0)
            how = (3, Sampling(guidance=guidance, recall=recall), 0, [0, 1])
            many.append(counted(lambda given=given, how=how: fill_windows(model, given, mask[None], *how)))
            assert needed.matrix == many[-1]
        assert many[0] > many[1] > 0
    assert work.decoding(model.config, torch.zeros_like(mask), 2, 3) == Work()


def test_the_floor_of_a_part_is_its_slower_limit_and_parts_add_up():
    ceilings = Ceilings({"float32": Rate(50, 1, 99), "int8": Rate(200, 1, 999)}, Rate(2, 1, 9))
    assert work.floor_seconds([Work(90, 10, 6)], ceilings) == 3  # 100 / 50 < 6 / 2
    assert work.floor_seconds([Work(90, 10, 6), Work(400, 0, 1, "int8")], ceilings) == 3 + 2
    better = ceilings.or_better(Ceilings({"float32": Rate(60, 1, 99)}, Rate(1, 1, 9)))
    assert (better.matmul("float32"), better.matmul("int8"), better.copied) == (60, 200, 2)


def test_ceilings_are_rates_of_this_machine():
    for dtype in ("float32", "bfloat16"):
        rate = measure_product(dtype, CPU, repeats=2, sizes=(64,))
        assert 1e6 < rate.low <= rate.median <= rate.high < 1e15
    assert 1e7 < measure_copy(CPU, 2, 1 << 22).median < 1e13
    with pytest.raises(ValueError, match="cannot multiply"):
        measure_product("complex_nonsense", CPU)
