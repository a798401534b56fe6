"""What lies between the whole-number matrix products of a CPU, each in one pass over the memory, by all of torch's threads.

torch does the same in many steps, each of which reads and writes all of it: there they took half of a transformer's time. The
loops are numba's (`vampnet.numba_kernels`), imported with the first pass. Where a CPU has instructions for `tile_passes`, these
take their place.

Rows of whole numbers have a factor each: row i stands for `factors[i] * rows[i]`. A product of such rows with a matrix of whole
numbers has one scale a column more. What a row becomes depends on nothing but the row.

`chosen` draws tokens, and `sharpened` is a pass of the bundled codec, by the same means.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL = 1 << 14
"""Numbers that one thread is through with before another would have begun."""


def begin(*modules: str) -> threading.Thread:
    """Starts to import numba, which takes most of a second, and modules of kernels, beside what is done meanwhile.

    Args:
        modules: their names.

    Returns:
        The thread that does it.
    """

    def work() -> None:
        chosen(torch.zeros(1, 16), torch.zeros(1), 1.0, 1.0, 0.0)  # the first call of a kernel takes as long as the import
        for module in modules:
            importlib.import_module(module)

    thread = threading.Thread(target=work, name="import-numba", daemon=True)
    thread.start()
    return thread


def normed(x: Tensor, gain: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x * gain / rms(x) by rows, as whole numbers.

    Args:
        x: (N, dim) float32 contiguous.
        gain: (dim,) float32.
        eps: added to the mean square.

    Returns:
        (N, dim) int8 and (N,) float32 factors.
    """
    rows, factors = torch.empty_like(x, dtype=torch.int8), x.new_empty(len(x))
    _run("normed", x.numel(), len(x), x, gain, np.float32(eps), rows, factors)
    return rows, factors


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, dim) float32 contiguous -> the nearest (N, dim) int8 and their (N,) float32 factors."""
    rows, factors = torch.empty_like(x, dtype=torch.int8), x.new_empty(len(x))
    _run("quantised", x.numel(), len(x), x, rows, factors)
    return rows, factors


def added(
    x: Tensor, product: Tensor, scale: Tensor, gain: Tensor, eps: float, rows: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor]:
    """Adds a product to x in place; what `normed` makes of that.

    Args:
        x: (N, dim) float32 contiguous, changed.
        product: (N, dim) int32 contiguous.
        scale: (dim,) float32 of its columns.
        gain, eps: of the norm.
        rows: (N, dim) int8, written.
        factors: (N,) float32 of the product's rows, overwritten by those of `rows`.

    Returns:
        `rows` and `factors`.
    """
    _run("added", x.numel(), len(x), x, product, scale, gain, np.float32(eps), rows, factors)
    return rows, factors


def gated(product: Tensor, scale: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """value * gelu(gate), tanh form, as whole numbers.

    Args:
        product: (N, 2 width) int32 contiguous, halves value and gate.
        scale: (2 width,) float32 of its columns.
        factors: (N,) float32 of its rows, overwritten by those of the result.

    Returns:
        (N, width) int8, and `factors`.
    """
    rows = torch.empty(len(product), product.shape[1] // 2, dtype=torch.int8)
    _run("gated", product.numel(), len(product), product, scale, rows, factors)
    return rows, factors


def scaled(product: Tensor, factors: Tensor, scale: Tensor, bias: Tensor, into: Tensor | None = None) -> Tensor:
    """(N, dim) int32 contiguous, its (N,) and (dim,) float32 factors, (dim,) float32 -> factor * product * scale + bias.

    (N, dim) float32, written `into` a tensor with contiguous rows if there is one.
    """
    out = torch.empty_like(product, dtype=torch.float32) if into is None else into
    _run("scaled", product.numel(), len(product), product, factors, scale, bias, out)
    return out


def split(product: Tensor, factors: Tensor, scale: Tensor, heads: int, steps: int) -> Tensor:
    """(B * T, 3 dim) int32 contiguous with its factors -> (3, B, heads, T, dim / heads) bfloat16: queries, keys, values."""
    items, size = len(product) // steps, product.shape[1] // 3 // heads
    out = torch.empty(3, items, heads, steps, size, dtype=torch.bfloat16)
    _run("split", product.numel(), len(product), product, factors, scale, out)
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k^T + bias) v, not yet divided by the sums of the softmax, with q scaled already.

    Args:
        q, k, v: (B, heads, T, d) bfloat16 contiguous.
        bias: (1, heads, T, T) bfloat16 contiguous.

    Returns:
        (B, heads, T, d) bfloat16, and the (B, heads, T) float32 sums.
    """
    batch, heads, steps, _ = q.shape
    mixed, sums = torch.empty_like(v), torch.empty(batch, heads * steps)
    # One item at a time, so that the scores stay near the cache.
    scores, flat = torch.empty(heads, steps, steps, dtype=q.dtype), bias.view(-1, steps)
    for item in range(batch):
        torch.bmm(q[item], k[item].mT, out=scores)
        _run("raised", scores.numel(), len(flat), scores.view(-1, steps), flat, sums[item])
        torch.bmm(scores, v[item], out=mixed[item])
    return mixed, sums.view(batch, heads, steps)


def merged(mixed: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """What `attend` gave -> (B * T, heads * d) int8 and (B * T,) float32 factors."""
    batch, heads, steps, size = mixed.shape
    rows, factors = torch.empty(batch * steps, heads * size, dtype=torch.int8), sums.new_empty(batch * steps)
    _run("merged", mixed.numel(), len(rows), mixed, sums, rows, factors)
    return rows, factors


def sharpened(fine: Tensor, high: Tensor, floor: float, sharpen: float) -> Tensor:
    """What `SpectralCodec.magnitudes` and `SpectralCodec.sharpened` make of log magnitudes.

    Args:
        fine: (N, f) float32 contiguous, of the bins that are coded one by one.
        high: (N, F - f) float32 contiguous, of those above.
        floor, sharpen: of the codec.

    Returns:
        (N, F) float32 magnitudes.
    """
    out = fine.new_empty(len(fine), fine.shape[1] + high.shape[1])
    _run("sharpened", out.numel(), len(out), fine, high, np.float32(floor), np.float32(sharpen), out)
    return out


def chosen(
    logits: Tensor, u: Tensor, temperature: float, mass: float, smoothing: float, typical: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`sampling.choose` in one pass, without top-k and top-p: tokens of the same distribution, the same ones but for rounding.

    Args:
        logits: (M, V) float32 contiguous.
        u: (M,) float32 uniform in [0, 1); (M, n) with a typical mass.
        temperature: above 0.
        mass: of the locally typical tokens; 1 = all.
        smoothing: of the model's training.
        typical: (M,) bool, which tokens the typical mass is for; None = all.

    Returns:
        (M,) int64 tokens and (M,) float32 log probabilities, which are no numbers where a logit is none.
    """
    from vampnet import draw_kernels

    tokens, log_p = logits.new_empty(len(logits), dtype=torch.int64), logits.new_empty(len(logits), dtype=torch.int32)
    options = (np.float32(temperature), np.float32(smoothing), np.float32(mass))
    which = torch.ones(len(logits), dtype=torch.bool) if typical is None else typical
    in_turns(draw_kernels.chosen, logits.numel(), logits, u.reshape(len(logits), -1), which, *options, tokens, log_p, 32)
    return tokens, log_p.view(torch.float32)


def at_once(kernel: Callable[..., None], given: Sequence[Sequence[Any]]) -> None:
    """Calls a kernel once with each of what is given, in threads of their own but for one."""
    others = [_helpers(len(given) - 1).submit(kernel, *arguments) for arguments in given[1:]]
    kernel(*given[0])
    for other in others:
        other.result()


def in_turns(kernel: Callable[..., None], numbers: int, *arguments: Any) -> None:
    """A kernel in as many threads as torch has, which take pieces of the work in turns: one that comes late does less.

    Args:
        kernel: called with the arguments, and with a counter of what was taken.
        numbers: that it writes, more or less; few are left to one thread.
        arguments: tensors on a CPU become arrays, of bits where they are bfloat16; so do those in tuples.
    """
    given = (*map(_given, arguments), np.zeros(1, np.int64))
    count = torch.get_num_threads() - 1 if numbers > SMALL else 0
    others = [_helpers(count).submit(kernel, *given) for _ in range(count)]
    kernel(*given)
    for other in others:
        if not other.cancel():  # one that has not begun finds nothing to do
            other.result()


def by_rows(kernel: Callable[..., None], numbers: int, rows: int, *arguments: Any) -> None:
    """A kernel on all rows, in as many parts as torch has threads.

    Args:
        kernel: called with the arguments, and with the first row of a part and the one behind its last.
        numbers: that it writes, more or less; few are left to one thread.
        rows: how many there are.
        arguments: as of `in_turns`.
    """
    given = [_given(x) for x in arguments]
    parts = min(torch.get_num_threads(), rows) if numbers > SMALL else 1
    ends = [rows * part // parts for part in range(parts + 1)]
    at_once(kernel, [(*given, *ends[part : part + 2]) for part in range(parts)])


def _run(name: str, numbers: int, rows: int, *arguments: Any) -> None:
    """A kernel of `numba_kernels`, by its name."""
    from vampnet import numba_kernels

    by_rows(getattr(numba_kernels, name), numbers, rows, *arguments)


def _given(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(_given(part) for part in x)
    if not isinstance(x, Tensor):
        return x
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


@lru_cache(maxsize=1)
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "vampnet-pass")


if hasattr(os, "register_at_fork"):  # a process that was forked has none of its parent's threads
    os.register_at_fork(after_in_child=_helpers.cache_clear)
