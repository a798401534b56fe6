"""A transformer by tiles (`vampnet.tiles`), compiled by numba.

Between two attentions everything goes by rows: the matrix behind attention, the feed-forward, and the queries, keys and values
of the next layer. So a thread takes a block of rows through all of that, and none of it leaves the caches. Threads take blocks
in turns, by a counter.

Rows are whole numbers of 8 bits with a factor each, held as int8 for wide tiles and as int16 for narrow ones; or bfloat16 ones,
whose factor is 1. A matrix is a tuple: its weights as tiles read them, what the sums begin with, a scale for each column, and
the weight and the epsilon of the norm before it, if there is one.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload
from numba.types import int8, int16

from vampnet.numba_kernels import MOST, bits, compiled, gelu, narrowed, number, root, shared, taken, whole
from vampnet.tiles import (
    COLUMNS,
    NARROW_COLUMNS,
    NARROW_TILE,
    TILE,
    four_short,
    halved,
    one_half,
    one_scores,
    one_short,
    one_whole,
    six_half,
    six_scores,
    six_whole,
    weighed,
    weighed_whole,
)

F, S = np.float32, np.int32
MOST_SCORE, MOST_VALUE, MOST_WEIGHT, MOST_SUM = F(2**12 - 1), F(2**8 - 1), F(2**15 - 2**6), 2**23
"""The largest whole numbers of narrow attention, so that sums stay below 2^31: of queries and keys, of whose products there are
64; of values; of weights, which are too large by 1e-4 at times; and of a row of these."""
NO_BITS = np.int16(0)
"""Rows of narrow tiles have none that are flipped."""
MADE_WITH = "960663eeb58d"
"""What is compiled in here from other files: see `tests/test_passes.py`."""


# ---- for either kind of numbers ----------------------------------------------------------------------------------------------


def as_row(y, row):
    """(n,) float32 -> the nearest (n,) whole numbers, int8 as the bits of them + 128, or bfloat16; their factor."""


def product(rows, count, packed, start, sums):
    """`count` rows times a matrix, into the first rows of `sums`."""


def parted(sums, factors, scale, begin, count, queries, keys, values, sizes):
    """Sums of a block -> queries, keys and values of attention, in the order in which tiles read them, and their factors."""


def attended(query, key, value, sizes, step, line, scores, levels, weights, sums, shares, nothing):
    """Attention of as many time steps as `sums` has rows, which have yet to be multiplied by their shares."""


def highest(key):
    """How many rows a tile has for such keys."""


@overload(as_row, inline="always")
def _as_row(y, row):
    if row.dtype == int8:

        def kept(y, row):
            return whole(y, row, np.int8(-128), MOST)
    elif row.dtype == int16:

        def kept(y, row):
            return whole(y, row, NO_BITS, MOST)
    else:

        def kept(y, row):
            for j in range(y.shape[0]):
                row[j] = narrowed(y[j])
            return F(1)

    return kept


@overload(product)
def _product(rows, count, packed, start, sums):
    tile, columns, several, one = TILE, COLUMNS, six_half, one_half
    if packed.dtype == int8:
        several, one = six_whole, one_whole
    elif packed.dtype == int16:
        tile, columns, several, one = NARROW_TILE, NARROW_COLUMNS, four_short, one_short

    def multiplied(rows, count, packed, start, sums):
        for panel in range(packed.shape[0]):
            row = 0
            while row + tile <= count:
                several(rows, row, packed, panel, start, panel * columns, sums, row, panel * columns)
                row += tile
            while row < count:
                one(rows, row, packed, panel, start, panel * columns, sums, row, panel * columns)
                row += 1

    return multiplied


@overload(parted)
def _parted(sums, factors, scale, begin, count, queries, keys, values, sizes):
    if queries.dtype == int16:
        return lambda sums, factors, scale, begin, count, queries, keys, values, sizes: _in_shorts(
            sums, factors, scale, begin, count, queries, keys, values, sizes
        )
    return lambda sums, factors, scale, begin, count, queries, keys, values, sizes: _in_halves(
        sums, factors, scale, begin, count, queries, keys, values
    )


@overload(highest)
def _highest(key):
    tile = NARROW_TILE if key.dtype == int16 else TILE
    return lambda key: tile


@compiled
def multiplied(rows, packed, start, sums, block, counter):
    begin = taken(counter, block)
    while begin < rows.shape[0]:
        product(rows[begin:], min(block, rows.shape[0] - begin), packed, start, sums[begin:])
        begin = taken(counter, block)


# ---- blocks of rows ----------------------------------------------------------------------------------------------------------


@shared
def _normed(x, gain, eps, y, row):
    """(n,) float32 through a norm into a row; its factor."""
    squares = F(0)
    for j in range(x.shape[0]):
        squares += x[j] * x[j]
    share = root(squares, x.shape[0], eps)
    for j in range(x.shape[0]):
        y[j] = x[j] * gain[j] * share
    return as_row(y, row)


@shared
def _added(sums, factor, scale, x):
    for j in range(x.shape[0]):
        x[j] += F(sums[j]) * factor * scale[j]


@shared
def _gated(sums, factor, scale, y, row):
    n = y.shape[0]
    for j in range(n):
        y[j] = F(sums[j]) * factor * scale[j] * gelu(F(sums[n + j]) * factor * scale[n + j])
    return as_row(y, row)


@shared
def _in_halves(sums, factors, scale, begin, count, queries, keys, values):
    _, heads, steps, size = queries.shape
    row = np.empty(size, np.uint16)
    for head in range(heads):
        for r in range(count):
            item, step = (begin + r) // steps, (begin + r) % steps
            at, own = head * size, item * heads + head
            halved(sums, r, at, factors[r], scale, queries, (own * steps + step) * size)
            halved(sums, r, heads * size + at, factors[r], scale, row, 0)
            panel, place = keys[item, head, step // COLUMNS], step % COLUMNS
            for j in range(size // 2):
                panel[j, place, 0] = row[2 * j]
                panel[j, place, 1] = row[2 * j + 1]
            halved(sums, r, 2 * heads * size + at, factors[r], scale, row, 0)
            pair, side = values[item, head, 0, step // 2], step % 2
            for j in range(size):
                pair[j, side] = row[j]


@shared
def _shortened(sums, factor, scale, most, y, row):
    """A head's part of a row, as whole numbers up to `most`; their factor."""
    for j in range(y.shape[0]):
        y[j] = F(sums[j]) * factor * scale[j]
    return whole(y, row, NO_BITS, most)


@shared
def _in_shorts(sums, factors, scale, begin, count, queries, keys, values, sizes):
    _, heads, steps, size = queries.shape
    y, row = np.empty(size, F), np.empty(size, np.int16)
    for head in range(heads):
        for r in range(count):
            item, step, factor = (begin + r) // steps, (begin + r) % steps, factors[r]
            own, at, ahead = sizes[:, item, head, step], head * size, heads * size
            query, panel, place = queries[item, head, step], keys[item, head, step // NARROW_COLUMNS], step % NARROW_COLUMNS
            own[0] = _shortened(sums[r, at:], factor, scale[at:], MOST_SCORE, y, query)
            at += ahead
            own[1] = _shortened(sums[r, at:], factor, scale[at:], MOST_SCORE, y, row)
            for j in range(size // 2):
                panel[j, place, 0] = row[2 * j]
                panel[j, place, 1] = row[2 * j + 1]
            at += ahead
            own[2] = _shortened(sums[r, at:], factor, scale[at:], MOST_VALUE, y, row)
            for part in range(size // NARROW_COLUMNS):
                pair, side, first = values[item, head, part, step // 2], step % 2, part * NARROW_COLUMNS
                for j in range(NARROW_COLUMNS):
                    pair[j, side] = row[first + j]


@shared
def _through(mixed, x, begin, count, out, into, down, rows, hidden, sums, y, factors):
    """What follows attention in a layer, added to x."""
    for r in range(count):
        factors[r] = as_row(mixed[begin + r], rows[r])
    product(rows, count, out[0], out[1], sums)
    for r in range(count):
        _added(sums[r], factors[r], out[2], x[begin + r])
        factors[r] = _normed(x[begin + r], into[3], into[4], y[: x.shape[1]], rows[r])
    product(rows, count, into[0], into[1], sums)
    for r in range(count):
        factors[r] = _gated(sums[r], factors[r], into[2], y, hidden[r])
    product(hidden, count, down[0], down[1], sums)
    for r in range(count):
        _added(sums[r], factors[r], down[2], x[begin + r])


@compiled
def by_rows(mixed, x, out, into, down, following, queries, keys, values, shares, rows, factors, block, counter):
    packed, start, scale, gain, eps = following
    dim, width, wide = x.shape[1], into[2].shape[0] // 2, max(into[2].shape[0], scale.shape[0])
    attended, leaves = mixed.shape[0] > 0, rows.shape[0] > 0
    own, hidden = np.empty((block, dim), packed.dtype), np.empty((block, width), packed.dtype)
    sums, y, sizes = np.empty((block, wide), start.dtype), np.empty(max(dim, width), F), np.empty(block, F)
    begin = taken(counter, block)
    while begin < x.shape[0]:
        count = min(block, x.shape[0] - begin)
        if attended:
            _through(mixed, x, begin, count, out, into, down, own, hidden, sums, y[:width], sizes)
        for r in range(count):
            row = rows[begin + r] if leaves else own[r]
            sizes[r] = _normed(x[begin + r], gain, eps, y[:dim], row)
            if leaves:
                factors[begin + r] = sizes[r]
        if not leaves:
            product(own, count, packed, start, sums)
            parted(sums, sizes, scale, begin, count, queries, keys, values, shares)
        begin = taken(counter, block)


@compiled
def classified(rows, factors, places, levels, packed, start, scale, bias, out, block, counter):
    dim, codes = rows.shape[1], out.shape[1]
    given, sums = np.empty((block, dim), rows.dtype), np.empty((block, codes), start.dtype)
    begin = taken(counter, block)
    while begin < out.shape[0]:
        stop = min(begin + block, out.shape[0])
        while begin < stop:
            level, count = levels[begin], 0
            while begin + count < stop and levels[begin + count] == level:
                for j in range(dim):
                    given[count, j] = rows[places[begin + count], j]
                count += 1
            product(given, count, packed[level], start[level], sums)
            for r in range(count):
                factor, line = factors[places[begin + r]], out[begin + r]
                for j in range(codes):
                    line[j] = bias[level, j] + F(sums[r, j]) * factor * scale[level, j]
            begin += count
        begin = taken(counter, block)


# ---- attention ---------------------------------------------------------------------------------------------------------------


@shared
def _of_halves(query, key, value, step, line, scores, weights, sums, shares, nothing):
    """By wide tiles of bfloat16: scores begin with their bias."""
    tile, steps, columns = sums.shape[0], query.shape[0], key.shape[2]
    for panel in range(key.shape[0]):
        begin = panel * columns - step + steps - 1
        if tile == TILE:
            six_scores(query, step, key, panel, line, begin, scores, 0, panel * columns)
        else:
            one_scores(query, step, key, panel, line, begin, scores, 0, panel * columns)
    for r in range(tile):
        for j in range(steps, scores.shape[1]):
            scores[r, j] = F(-1e30)
        shares[r] = F(1) / weighed(scores, weights, r)
    product(weights, tile, value, nothing, sums)


@shared
def _of_shorts(query, key, value, sizes, step, line, scores, levels, weights, sums, shares, nothing):
    """By narrow tiles of int16: scores get their factors and bias afterwards, and weights the factors of the values."""
    tile, steps = sums.shape[0], query.shape[0]
    product(query[step:], tile, key, nothing, scores)
    largest = S(0)
    for j in range(steps):
        largest = max(largest, bits(sizes[2, j]))
    scale = min(MOST_WEIGHT, F(MOST_SUM) / F(scores.shape[1])) / number(largest)
    for r in range(tile):
        begin = steps - 1 - step - r
        total = weighed_whole(
            scores, r, sizes[0, step + r], sizes[1], line, begin, steps, levels, sizes[2], scale, weights
        )  # fmt: skip
        shares[r] = F(1) / (total * scale)
    product(weights, tile, value, nothing, sums)


@overload(attended)
def _attended(query, key, value, sizes, step, line, scores, levels, weights, sums, shares, nothing):
    if key.dtype == int16:
        return lambda query, key, value, sizes, step, line, scores, levels, weights, sums, shares, nothing: _of_shorts(
            query, key, value, sizes, step, line, scores, levels, weights, sums, shares, nothing
        )
    return lambda query, key, value, sizes, step, line, scores, levels, weights, sums, shares, nothing: _of_halves(
        query, key, value, step, line, scores, weights, sums, shares, nothing
    )


@compiled
def mixed(queries, keys, values, sizes, line, kind, out, block, counter):
    items, heads, steps, size = queries.shape
    padded, tile = keys.shape[2] * keys.shape[4], highest(keys)
    tile = tile if steps >= tile else 1
    pieces = -(-steps // tile)
    jobs = items * heads * pieces
    scores, levels, weights = np.empty((tile, padded), kind.dtype), np.empty(padded, F), np.empty((tile, padded), queries.dtype)
    sums, shares, nothing = np.empty((tile, size), kind.dtype), np.empty(tile, F), np.zeros(max(padded, size), kind.dtype)
    begin = taken(counter, block)
    while begin < jobs:
        for job in range(begin, min(begin + block, jobs)):
            item, head = job // pieces // heads, job // pieces % heads
            step = min(job % pieces * tile, steps - tile)  # the last tile is whole, and does some rows twice
            query, key, value = queries[item, head], keys[item, head], values[item, head]
            attended(
                query, key, value, sizes[:, item, head], step, line[head], scores, levels, weights, sums, shares, nothing
            )  # fmt: skip
            # Another thread may do a row of this tile as well: each writes it once, and the same.
            row, column = item * steps + step, head * size
            for r in range(tile):
                for j in range(size):
                    out[row + r, column + j] = F(sums[r, j]) * shares[r]
        begin = taken(counter, block)
