"""A ConvNeXt block of a codec by tiles (`vampnet.tiles`), compiled by numba: a block of rows goes through all of it at once."""

from __future__ import annotations

import numpy as np

from vampnet.numba_kernels import compiled, gelu, root, shared, taken
from vampnet.tile_kernels import as_row, product

F = np.float32
MADE_WITH = "9e0127ddb94b"
"""What is compiled in here from other files: see `tests/test_passes.py`."""


@shared
def _convolved(x, first, place, steps, ring, weight, bias, y):
    """The depthwise convolution at a time step of the clip that begins at row `first`: zeros beyond ends, or around a ring."""
    size, side = weight.shape[0], weight.shape[0] // 2
    for j in range(y.shape[0]):
        y[j] = bias[j]
    for k in range(size):
        at = place + k - side
        if ring:
            at = (at + size * steps) % steps
        if 0 <= at < steps:
            row, factor = x[first + at], weight[k]
            for j in range(y.shape[0]):
                y[j] += factor[j] * row[j]


@shared
def _normed(y, gain, eps, row):
    """(n,) float32 through a layer norm without its bias into a row; its factor."""
    n, total, squares = y.shape[0], F(0), F(0)
    for j in range(n):
        total += y[j]
    mean = total / F(n)
    for j in range(n):
        y[j] -= mean
        squares += y[j] * y[j]
    share = root(squares, n, eps)
    for j in range(n):
        y[j] *= gain[j] * share
    return as_row(y, row)


@shared
def _bent(sums, factor, scale, bias, y, row):
    for j in range(y.shape[0]):
        y[j] = gelu(F(sums[j]) * factor * scale[j] + bias[j])
    return as_row(y, row)


@compiled
def blocked(x, out, steps, ring, weight, shift, up, above, down, below, block, counter):
    packed, start, scale, gain, eps = up
    dim, width = x.shape[1], scale.shape[0]
    own, hidden = np.empty((block, dim), packed.dtype), np.empty((block, width), packed.dtype)
    sums, y, factors = np.empty((block, width), start.dtype), np.empty(width, F), np.empty(block, F)
    begin = taken(counter, block)
    while begin < x.shape[0]:
        count = min(block, x.shape[0] - begin)
        for r in range(count):
            place = (begin + r) % steps
            _convolved(x, begin + r - place, place, steps, ring, weight, shift, y[:dim])
            factors[r] = _normed(y[:dim], gain, eps, own[r])
        product(own, count, packed, start, sums)
        for r in range(count):
            factors[r] = _bent(sums[r], factors[r], scale, above, y, hidden[r])
        product(hidden, count, down[0], down[1], sums)
        for r in range(count):
            for j in range(dim):
                out[begin + r, j] = x[begin + r, j] + F(sums[r, j]) * factors[r] * down[2][j] + below[j]
        begin = taken(counter, block)
