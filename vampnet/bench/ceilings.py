"""What the machine can do at best: the rate of a large matrix product and of a large copy, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vampnet.tile_passes import TileMatrix, has_tiles, multiplied

PROBE = 512
SIZES = (1024, 2048, 4096, 8192)
PRODUCT_SECONDS = 0.3
"""The largest of SIZES is multiplied that is expected to take no longer than this."""
COPY_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}
REPEATS = 7


@dataclass(frozen=True)
class Rate:
    """A rate a second: the median of several measurements, and the lowest and the highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Rate:
        """Of several measurements."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Ceilings:
    """The limits of a machine.

    Attributes:
        products: {dtype: operations a second of a large matrix product}.
        copy: bytes a second, read and written, of a large copy.
    """

    products: Mapping[str, Rate]
    copy: Rate

    def matmul(self, dtype: str) -> float:
        """Operations a second in a dtype; KeyError if it was not measured."""
        return self.products[dtype].median

    @property
    def copied(self) -> float:
        """Bytes a second."""
        return self.copy.median

    def or_better(self, other: Ceilings) -> Ceilings:
        """Of two measurements the better medians: what the machine can do, whatever else ran during the other one."""

        def best(a: Rate, b: Rate) -> Rate:
            return max(a, b, key=lambda rate: rate.median)

        products = {name: best(rate, other.products.get(name, rate)) for name, rate in self.products.items()}
        return Ceilings(products, best(self.copy, other.copy))


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - start


def _product(size: int, dtype: str, device: torch.device, tiles: bool = False) -> Callable[[], Tensor]:
    if tiles:
        matrix = TileMatrix(torch.randn(size, size), precision=dtype)
        rows = torch.randn(size, size).to(matrix.packed.dtype)
        return lambda: multiplied(rows, matrix)
    if dtype == "int8":
        a, b = (torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device) for _ in range(2))
        return lambda: torch._int_mm(a, b)
    a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    return lambda: a @ b


def _rate(dtype: str, device: torch.device, repeats: int, sizes: Sequence[int], tiles: bool) -> Rate:
    """Of one of the two ways, with the largest size that does not take too long."""
    probe = _product(PROBE, dtype, device, tiles)
    probe()
    seconds = min(_seconds(probe, device) for _ in range(3))
    fitting = [size for size in sizes if seconds * (size / PROBE) ** 3 <= PRODUCT_SECONDS]
    size = fitting[-1] if fitting else sizes[0]
    run = _product(size, dtype, device, tiles)
    run()
    return Rate.of([2 * size**3 / _seconds(run, device) for _ in range(repeats)])


def measure_product(dtype: str, device: torch.device, repeats: int = REPEATS, sizes: Sequence[int] = SIZES) -> Rate:
    """Operations a second of a large square matrix product, the fastest that there is: torch's, or by tiles.

    Args:
        dtype: "float32", "bfloat16", "float16", or "int8" (summed up in int32).
        device: where.
        repeats: measurements.
        sizes: of the matrix, rising; the largest that does not take too long is used.

    Raises:
        ValueError: this machine cannot multiply in that dtype.
    """
    tiled = device.type == "cpu" and dtype in ("int8", "bfloat16") and has_tiles(dtype)
    try:
        rates = [_rate(dtype, device, repeats, sizes, tiles) for tiles in ((False, True) if tiled else (False,))]
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        raise ValueError(f"This machine cannot multiply matrices in {dtype} on {device}: choose another precision.") from error
    return max(rates, key=lambda rate: rate.median)


def measure_copy(device: torch.device, repeats: int = REPEATS, size: int | None = None) -> Rate:
    """Bytes a second, read and written, of a copy of `size` bytes (larger than caches) within the device's memory."""
    size = size or COPY_BYTES.get(device.type, COPY_BYTES["cpu"])
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    target.copy_(source)
    return Rate.of([2 * size / _seconds(lambda: target.copy_(source), device) for _ in range(repeats)])


def measure_ceilings(device: torch.device, dtypes: Sequence[str], repeats: int = REPEATS) -> Ceilings:
    """Both rates of a device, the first one in each of `dtypes`; ValueError as `measure_product`."""
    return Ceilings({dtype: measure_product(dtype, device, repeats) for dtype in dtypes}, measure_copy(device, repeats))
