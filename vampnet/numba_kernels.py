"""The loops of `vampnet.passes`, compiled by numba: rows `first` to `stop` of what they are given, without the interpreter.

numba comes with librosa, brings its own compiler, and keeps on the disk what it compiled. Numbers of 16 bits are bfloat16,
which numpy lacks: these bits are the upper half of a float32's.

Loops over a row are many short ones, each of which becomes vector instructions; a row stays in the nearest cache in between.

numba compiles a function anew when the file that it stands in has changed, and no other. So files of kernels that call what
stands in another one say by `MADE_WITH` what that one was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

F, S, U = np.float32, np.int32, np.uint32
HALF, NONE, MOST = U(16), np.int8(0), F(127)
"""Bits of a bfloat16; no bits to be flipped, and the largest of int8."""
LOG2_E = F(1.4426950408889634)
LEAST = F(-120.0)
"""Of an exponent to base 2: what is smaller is nothing beside a row's largest."""


ANY_ORDER = ("contract", "nnan", "ninf", "nsz", "arcp", "reassoc")
"""What a compiler may do with sums and products of floats."""
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False, "fastmath": set(ANY_ORDER)}


def compiled(function: Callable[..., None]) -> Any:
    """The function, compiled when it is first called; from the disk where numba finds a folder that it may write to."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:
        return numba.njit(**_OPTIONS)(function)


inline = numba.njit(inline="always")
shared = numba.njit(**_OPTIONS)
"""For what several kernels call, or one several times: compiled once, where `inline` writes it out each time."""


@intrinsic
def bits(context, x):
    """float32 -> int32 of the same bits."""
    return types.int32(types.float32), lambda context, builder, signature, given: builder.bitcast(given[0], ir.IntType(32))


@intrinsic
def number(context, bits):
    """The lowest 32 bits of a whole number -> float32 of the same bits."""
    return types.float32(types.int32), lambda context, builder, signature, given: builder.bitcast(given[0], ir.FloatType())


@intrinsic
def taken(typing, counter, count):
    """Adds to the only number of an int64 array, for all threads at once; what it was before."""

    def make(context, builder, signature, arguments):
        counter = context.make_array(signature.args[0])(context, builder, arguments[0])
        count = context.cast(builder, arguments[1], signature.args[1], types.int64)
        return builder.atomic_rmw("add", counter.data, count, "seq_cst")

    return types.int64(counter, count), make


@inline
def widened(half):
    return number(U(half) << HALF)


@inline
def narrowed(x):
    """The nearest bfloat16; the larger one where two are."""
    return np.uint16(U(U(bits(x)) + U(0x8000)) >> HALF)


@inline
def ordered(x):
    """Whole numbers that compare as the given ones do: only the largest of whole numbers is found by vector instructions."""
    same = bits(x)
    return same ^ ((same >> S(31)) & S(0x7FFFFFFF))


@inline
def of_order(place):
    """The float32 that `ordered` made a whole number of."""
    return number(place ^ ((place >> S(31)) & S(0x7FFFFFFF)))


@inline
def whole(y, rows, flip, most):
    """(n,) float32 -> (n,) whole numbers up to `most`, of the type of `flip`, whose bits are flipped in them; their factor."""
    largest = S(0)
    for j in range(y.shape[0]):
        largest = max(largest, bits(abs(y[j])))
    size = max(number(largest), F(1e-12))
    scale = most / size
    for j in range(y.shape[0]):
        rows[j] = type(flip)(np.rint(y[j] * scale)) ^ flip
    return size / most


@inline
def root(squares, n, eps):
    return F(1) / F(math.sqrt(squares / F(n) + eps))


@inline
def gelu(x):
    """The tanh approximation of GELU; tanh itself as a quotient of polynomials, exact to the last bits of a float32."""
    u = F(0.7978845608) * (x + F(0.044715) * x * x * x)
    u = min(max(u, F(-7.99881172)), F(7.99881172))
    s = u * u
    p = F(-2.76076847742355e-16)
    p = p * s + F(2.00018790482477e-13)
    p = p * s + F(-8.60467152213735e-11)
    p = p * s + F(5.12229709037114e-08)
    p = p * s + F(1.48572235717979e-05)
    p = p * s + F(6.37261928875436e-04)
    p = p * s + F(4.89352455891786e-03)
    q = F(1.19825839466702e-06)
    q = q * s + F(1.18534705686654e-04)
    q = q * s + F(2.26843463243900e-03)
    q = q * s + F(4.89352518554385e-03)
    return F(0.5) * x * (F(1) + u * p / q)


@inline
def exp(x):
    """Exact to 2e-7 of the result; x between -80 and 80."""
    power = x * LOG2_E
    nearest = np.rint(power)
    rest = power - nearest
    p = F(1.5461445e-4) * rest + F(1.3400428e-3)
    p = p * rest + F(9.6180569e-3)
    p = p * rest + F(5.5503272e-2)
    p = p * rest + F(2.4022651e-1)
    p = p * rest + F(6.9314718e-1)
    return number(bits(p * rest + F(1)) + (S(nearest) << S(23)))


@compiled
def normed(x, gain, eps, rows, factors, first, stop):
    y = np.empty(x.shape[1], F)
    for i in range(first, stop):
        squares = F(0)
        for j in range(x.shape[1]):
            squares += x[i, j] * x[i, j]
            y[j] = x[i, j] * gain[j]
        factors[i] = whole(y, rows[i], NONE, MOST) * root(squares, x.shape[1], eps)


@compiled
def quantised(x, rows, factors, first, stop):
    for i in range(first, stop):
        factors[i] = whole(x[i], rows[i], NONE, MOST)


@compiled
def added(x, product, scale, gain, eps, rows, factors, first, stop):
    y = np.empty(x.shape[1], F)
    for i in range(first, stop):
        squares, factor = F(0), factors[i]
        for j in range(x.shape[1]):
            value = x[i, j] + F(product[i, j]) * factor * scale[j]
            x[i, j] = value
            squares += value * value
            y[j] = value * gain[j]
        factors[i] = whole(y, rows[i], NONE, MOST) * root(squares, x.shape[1], eps)


@compiled
def gated(product, scale, rows, factors, first, stop):
    n = rows.shape[1]
    y = np.empty(n, F)
    for i in range(first, stop):
        factor = factors[i]
        for j in range(n):
            value = F(product[i, j]) * factor * scale[j]
            y[j] = value * gelu(F(product[i, n + j]) * factor * scale[n + j])
        factors[i] = whole(y, rows[i], NONE, MOST)


@compiled
def scaled(product, factors, scale, bias, out, first, stop):
    for i in range(first, stop):
        factor = factors[i]
        for j in range(out.shape[1]):
            out[i, j] = bias[j] + F(product[i, j]) * factor * scale[j]


@compiled
def split(product, factors, scale, out, first, stop):
    _, _, heads, steps, size = out.shape
    row = np.empty(product.shape[1], np.uint16)
    for i in range(first, stop):
        factor, item, step = factors[i], i // steps, i % steps
        for j in range(product.shape[1]):
            row[j] = narrowed(F(product[i, j]) * factor * scale[j])
        for part in range(3):
            for head in range(heads):
                at = (part * heads + head) * size
                for j in range(size):
                    out[part, item, head, step, j] = row[at + j]


@compiled
def raised(scores, bias, sums, first, stop):
    y = np.empty(scores.shape[1], F)
    for i in range(first, stop):
        top = S(-0x7FFFFFFF)
        for j in range(scores.shape[1]):
            y[j] = (widened(scores[i, j]) + widened(bias[i, j])) * LOG2_E
            top = max(top, ordered(y[j]))
        most = of_order(top)
        total = F(0)
        for j in range(scores.shape[1]):
            power = max(y[j] - most, LEAST)
            nearest = np.rint(power)
            rest = power - nearest
            p = F(0.05500721) * rest + F(0.24220727)
            p = p * rest + F(0.69328271)
            p = number(bits(p * rest + F(1)) + (S(nearest) << S(23)))
            total += p
            scores[i, j] = narrowed(p)
        sums[i] = total


@compiled
def merged(mixed, sums, rows, factors, first, stop):
    _, heads, steps, size = mixed.shape
    y = np.empty(heads * size, F)
    for i in range(first, stop):
        item, step = i // steps, i % steps
        for head in range(heads):
            inverse = F(1) / sums[item, head, step]
            for j in range(size):
                y[head * size + j] = widened(mixed[item, head, step, j]) * inverse
        factors[i] = whole(y, rows[i], NONE, MOST)


# ---- of the bundled codec ----------------------------------------------------------------------------------------------------


@shared
def _averaged(x, spans, total):
    """The moving average of `codec.bands.over_frequency`: (n,) into `total`; `spans` is for twice 40 more."""
    n = x.shape[0]
    side = min(20, n - 1)
    width = 2 * side + 1
    now, doubled = spans[0], spans[1]
    before, middle, after = now[:side], now[side : side + n], now[side + n :]
    for j in range(side):
        before[j], after[j] = x[side - j], x[n - 2 - j]
    for j in range(n):
        middle[j], total[j] = x[j], F(0)
    left, reach, length = width, 0, 1
    while left:
        if left & 1:
            part = now[reach:]
            for j in range(n):
                total[j] += part[j]
            reach += length
        left >>= 1
        if left:
            later = now[length:]
            for j in range(n + width - 2 * length):
                doubled[j] = now[j] + later[j]
            now, doubled = doubled, now
            length *= 2
    share = F(1) / F(width)
    for j in range(n):
        total[j] *= share


@compiled
def sharpened(fine, high, floor, sharpen, out, first, stop):
    n = fine.shape[1]
    least = F(math.log(floor))
    logs, smooth, before, after = np.empty(n, F), np.empty(n, F), np.empty(n, F), np.empty(n, F)
    powers, spans = np.empty(n, F), np.empty((2, n + 40), F)
    for i in range(first, stop):
        row, rest, some, others = out[i], out[i, n:], fine[i], high[i]
        for j in range(n):
            logs[j] = min(max(some[j], least), F(8))
            powers[j] = exp(F(2) * logs[j])
        _averaged(logs, spans, smooth)
        _averaged(powers, spans, before)
        for j in range(n):
            above = logs[j] - smooth[j]
            powers[j] = exp(F(2) * min(smooth[j] + max(above, F(0)) + sharpen * min(above, F(0)), F(30)))
        _averaged(powers, spans, after)
        for j in range(n):
            size = F(math.sqrt(powers[j] * ((before[j] + F(1e-9)) / (after[j] + F(1e-9)))))
            row[j] = max(min(size, F(math.exp(9.0))) - floor, F(0))
        for j in range(others.shape[0]):
            rest[j] = max(exp(min(max(others[j], least), F(8))) - floor, F(0))
