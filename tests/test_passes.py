"""The fused passes of a CPU beside the plain formulas."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vampnet import passes
from vampnet.config import Sampling
from vampnet.model.half import attend
from vampnet.sampling import TRIES, choose, draw_typical, filter_logits, numbers_for, unsmoothed

ROWS, DIM = 301, 128


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def product(*shape: int) -> Tensor:
    return torch.randint(-90_000, 90_000, shape, dtype=torch.int32)


def near(whole: tuple[Tensor, Tensor], wanted: Tensor) -> bool:
    """Whether whole numbers and factors stand for what is wanted, as exactly as 255 numbers a row can."""
    rows, factors = whole
    assert rows.dtype == torch.int8 and factors.dtype == torch.float32 and rows.shape == wanted.shape
    off = (rows * factors[:, None] - wanted).abs().amax(dim=1)
    size = wanted.abs().amax(dim=1)
    return bool((off <= 0.502 / 127 * size + 1e-12).all()) and int(rows.abs().max()) == 127


def normed(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x * gain / (x.square().mean(dim=1, keepdim=True) + eps).sqrt()


def test_rows_become_whole_numbers(threads: None) -> None:
    x, gain = torch.randn(ROWS, DIM) * torch.logspace(-6, 6, ROWS)[:, None], torch.randn(DIM)
    assert near(passes.quantised(x), x)
    assert near(passes.normed(x, gain, 1e-6), normed(x, gain, 1e-6))
    rows, factors = passes.quantised(torch.zeros(2, 5))
    assert not rows.any() and bool(torch.isfinite(factors).all())


def test_a_product_is_added_before_the_norm(threads: None) -> None:
    x, what, scale, gain, factors = (
        torch.randn(ROWS, DIM),
        product(ROWS, DIM),
        torch.rand(DIM),
        torch.randn(DIM),
        torch.rand(ROWS),
    )
    wanted = x + what * factors[:, None] * 1e-4 * scale
    rows = torch.zeros(ROWS, DIM, dtype=torch.int8)
    given = passes.added(x, what, 1e-4 * scale, gain, 1e-6, rows, factors)
    assert given[0] is rows and given[1] is factors
    assert torch.allclose(x, wanted, rtol=1e-5, atol=1e-5)
    assert near(given, normed(wanted, gain, 1e-6))


def test_the_gate_is_gelu(threads: None) -> None:
    what, scale, factors = product(ROWS, 2 * DIM), 1e-4 * torch.rand(2 * DIM), torch.rand(ROWS)
    value, gate = (what * factors[:, None] * scale).chunk(2, dim=1)
    assert gate.abs().max() > 8  # where tanh has long been 1
    assert near(passes.gated(what, scale, factors), value * F.gelu(gate, approximate="tanh"))


def test_scales_and_bias(threads: None) -> None:
    what, factors, scale, bias = product(ROWS, DIM), torch.rand(ROWS), torch.rand(DIM), torch.randn(DIM)
    wanted = what * factors[:, None] * scale + bias
    assert torch.allclose(passes.scaled(what, factors, scale, bias), wanted, rtol=1e-5, atol=1e-2)
    # Into a part of something larger, whose rows do not follow each other.
    larger = torch.zeros(ROWS, 2, DIM)
    passes.scaled(what, factors, scale, bias, into=larger[:, 1])
    assert torch.allclose(larger[:, 1], wanted, rtol=1e-5, atol=1e-2) and not larger[:, 0].any()


def test_heads_are_split_and_merged(threads: None) -> None:
    items, steps, heads = 3, 70, 4
    what, factors, scale = product(items * steps, 3 * DIM), torch.rand(items * steps), 1e-4 * torch.rand(3 * DIM)
    wanted = (what * factors[:, None] * scale).view(items, steps, 3, heads, DIM // heads).permute(2, 0, 3, 1, 4)
    made = passes.split(what, factors, scale, heads, steps)
    assert made.dtype == torch.bfloat16 and made.is_contiguous() and made.shape == wanted.shape
    assert bool(((made - wanted).abs() <= wanted.abs() / 256).all())
    sums = 1 + torch.rand(items, heads, steps)
    mixed = made[0].float() / sums[..., None]
    assert near(passes.merged(made[0], sums), mixed.transpose(1, 2).reshape(items * steps, DIM))


def test_attention_is_as_exact_as_bfloat16(threads: None) -> None:
    items, heads, steps = 2, 3, 90
    q, k, v = torch.randn(3, items, heads, steps, 16).bfloat16()
    bias = (10 * torch.randn(1, heads, steps, steps)).bfloat16()
    bias[..., 7] = -60_000  # what is as good as hidden weighs nothing
    mixed, sums = passes.attend(q, k, v, bias)
    found = mixed / sums[..., None]
    exact = attend(*(x.double() for x in (q, k, v, bias)))
    assert (found - exact).norm() / exact.norm() < 0.012
    # Rows of one size, however large, are no overflow.
    mixed, sums = passes.attend(torch.zeros_like(q), k, v, torch.full_like(bias, 30_000))
    assert torch.allclose(mixed / sums[..., None], v.float().mean(dim=2, keepdim=True).expand_as(v), atol=1e-2)


def test_threads_change_nothing() -> None:
    x, before = torch.randn(ROWS, DIM), torch.get_num_threads()
    made = []
    for count in (1, 2, 7):
        torch.set_num_threads(count)
        made.append(passes.quantised(x))
    torch.set_num_threads(before)
    assert all(torch.equal(rows, made[0][0]) and torch.equal(factors, made[0][1]) for rows, factors in made[1:])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    code = (
        "import os, torch; from vampnet import passes; torch.set_num_threads(2); x = torch.randn(300, 300);"
        "passes.quantised(x); child = os.fork();"
        "child or (passes.quantised(x), os._exit(7)); print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    root = Path(passes.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "7", done.stderr


def test_without_a_place_for_compiled_code_it_is_compiled_anew(tmp_path: Path) -> None:
    package = tmp_path / "vampnet"
    package.mkdir()
    source = Path(passes.__file__).parent
    for name in ("passes.py", "numba_kernels.py"):
        shutil.copy(source / name, package / name)
    (package / "__init__.py").touch()
    # A file lies where each folder of numba's would be made.
    (package / "__pycache__").touch()
    (tmp_path / "home").touch()
    code = (
        "import torch; from vampnet import numba_kernels, passes; x = torch.ones(2, 3);"
        "print(passes.quantised(x)[0].tolist(), type(numba_kernels.quantised._cache).__name__, passes.__file__)"
    )
    home = str(tmp_path / "home")
    environment = {**os.environ, "HOME": home, "XDG_CACHE_HOME": home, "PYTHONPATH": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    rows, kept, where = done.stdout.rsplit(maxsplit=2)
    assert (rows, kept) == ("[[127, 127, 127], [127, 127, 127]]", "NullCache"), done.stderr
    assert where == str(package / "passes.py")


def test_kernels_are_compiled_anew_when_what_they_call_has_changed() -> None:
    folder = Path(passes.__file__).parent
    for kernels in (
        "codec/search_kernels.py",
        "codec/phase_kernels.py",
        "draw_kernels.py",
        "tile_kernels.py",
        "block_kernels.py",
        "loudness_kernels.py",
        "stereo_kernels.py",
    ):
        text = (folder / kernels).read_text(encoding="utf-8")
        names = re.findall(r"^from vampnet\.(\w+) import", text, re.M)
        parts = b"".join((folder / f"{name}.py").read_bytes() for name in sorted(names))
        now = hashlib.sha256(parts).hexdigest()[:12]
        assert names and f'\nMADE_WITH = "{now}"\n' in text, f'{kernels} needs MADE_WITH = "{now}", as {names} have changed'


def logits_of(rows: int, codes: int = 1024) -> Tensor:
    return torch.randn(rows, codes) * torch.logspace(-1, 1, rows)[:, None]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "options", [{}, {"typical_mass": 1.0}, {"temperature": 0.7}, {"typical_mass": 1.0, "temperature": 1.4}]
)
def test_tokens_are_drawn_in_one_pass_as_in_many(options: dict[str, float], smoothing: float, threads: None) -> None:
    logits, sampling = logits_of(500), Sampling(**options)
    u = torch.rand(numbers_for((500,), sampling), dtype=torch.float64).float()
    wanted, sure = choose(logits, u, sampling, smoothing)
    tokens, log_p = passes.chosen(logits, u, sampling.temperature, sampling.typical_mass, smoothing)
    same = tokens == wanted
    assert tokens.dtype == torch.int64 and log_p.dtype == torch.float32
    assert same.float().mean() > 0.99  # the border between two tokens may be rounded to either side
    assert torch.allclose(log_p[same], sure[same], atol=1e-5)
    assert torch.allclose(log_p, logits.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0], atol=1e-5)


def test_what_the_typical_mass_is_not_for_is_drawn_from_all() -> None:
    logits, sampling, free = logits_of(400), Sampling(typical_mass=0.5), Sampling(typical_mass=1.0)
    u, typical = torch.rand(400, TRIES), torch.rand(400) < 0.5
    wanted = torch.where(
        typical,
        passes.chosen(logits, u, 1.0, 0.5, 0.1)[0],
        passes.chosen(logits, u[:, 0].contiguous(), 1.0, 1.0, 0.1)[0],
    )
    assert torch.equal(passes.chosen(logits, u, 1.0, 0.5, 0.1, typical)[0], wanted)
    many = torch.where(typical, choose(logits, u, sampling, 0.1)[0], choose(logits, u[:, 0], free, 0.1)[0])
    for look in (True, False):
        p = unsmoothed(logits.softmax(dim=-1), 0.1)
        assert torch.equal(draw_typical(p / p.sum(dim=-1, keepdim=True), u, 0.5, look, typical), many)
    assert torch.equal(choose(logits, u, sampling, 0.1, typical)[0], many)
    sorted_out = Sampling(typical_mass=0.3)
    both = [choose(logits, u[:, 0], one, 0.1)[0] for one in (sorted_out, free)]
    assert torch.equal(choose(logits, u[:, 0], sorted_out, 0.1, typical)[0], torch.where(typical, *both))


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    p = torch.tensor([0.5, 0.0, 0.3, 0.15, 0.05] + 12 * [0.0])
    logits = p.clamp_min(1e-30).log().expand(20_000, -1).contiguous()
    tokens, _ = passes.chosen(logits, torch.rand(20_000), 1.0, 1.0, 0.0)
    assert torch.allclose(tokens.bincount(minlength=17) / 20_000, p, atol=0.02)
    tokens, _ = passes.chosen(logits, torch.rand(20_000, 8), 1.0, 0.6, 0.0)
    typical = filter_logits(logits[:1], Sampling(typical_mass=0.6)).softmax(dim=-1)[0]
    assert torch.allclose(tokens.bincount(minlength=17) / 20_000, typical, atol=0.02)
    # The ends of what uniform numbers can be.
    for u, token in ((0.0, 0), (1.0, 4)):
        assert int(passes.chosen(logits[:1], torch.tensor([u]), 1.0, 1.0, 0.0)[0]) == token


@pytest.mark.parametrize("damage", [torch.nan, torch.inf, -torch.inf])
def test_damaged_logits_show(damage: float) -> None:
    logits = logits_of(3)
    logits[1, 700] = damage
    tokens, log_p = passes.chosen(logits, torch.rand(3, 8), 1.0, 0.6, 0.1)
    assert log_p.isfinite().tolist() == [True, False, True] and int(tokens.max()) < 1024


def test_a_thread_that_comes_late_is_not_waited_for() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    logits, u = logits_of(400), torch.rand(400)
    wanted = passes.chosen(logits, u, 1.0, 1.0, 0.0)
    busy = passes._helpers(1).submit(time.sleep, 3.0)
    began = time.perf_counter()
    made = passes.chosen(logits, u, 1.0, 1.0, 0.0)
    took = time.perf_counter() - began
    busy.result()
    torch.set_num_threads(before)
    assert took < 2.0 and all(map(torch.equal, made, wanted))
