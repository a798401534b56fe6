"""A round of Griffin-Lim, compiled by numba: 16 frames at a time, from samples to samples, without leaving the nearest caches.

16 frames lie side by side: number j of all of them, then number j + 1. So every step of a transform is the same for 16 numbers
that follow each other in memory, and nothing has to be turned around. For that samples are kept by their place within a hop:
sample r * hop + i at i * rows + r, so that those of 16 frames that begin a hop apart follow each other too.

LLVM makes vector instructions of a loop only where it can tell that what is written is not read again, and the butterflies of a
transform read and write at eight places. So there are vectors here that are left as they are, whatever width a CPU has.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from vampnet.numba_kernels import ANY_ORDER, compiled, shared

F = np.float32
MADE_WITH = "8b0a626786db"
"""What is compiled in here from other files: see `tests/test_passes.py`."""
TINY = F(1e-18)
LANES = 16
"""Frames that are worked on at once, as in `search`."""
_VECTOR = ir.VectorType(ir.FloatType(), LANES)


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name="Lanes")


_lanes = _Lanes()


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, _VECTOR)


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    at = context.cast(builder, arguments[1], signature.args[1], types.intp)
    return builder.bitcast(builder.gep(array.data, [at]), _VECTOR.as_pointer())


@intrinsic
def load(typing, array, at):
    """16 numbers of a contiguous float32 array from a place on; nothing looks whether they are there."""

    def make(context, builder, signature, arguments):
        return builder.load(_place(context, builder, signature, arguments), align=4)

    return _lanes(array, at), make


@intrinsic
def store(typing, array, at, value):
    """Writes 16 numbers into a contiguous float32 array from a place on."""

    def make(context, builder, signature, arguments):
        builder.store(arguments[2], _place(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.none(array, at, value), make


@intrinsic
def root(typing, x):
    """The square roots of 16 numbers."""

    def make(context, builder, signature, arguments):
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{LANES}f32"), arguments)

    return _lanes(x), make


def _all(context: Any, builder: Any, kind: types.Type, x: Any) -> Any:
    """A number 16 times; what has 16 numbers stays as it is."""
    if isinstance(kind, _Lanes):
        return x
    undefined, first = ir.Constant(_VECTOR, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    one = builder.insert_element(undefined, context.cast(builder, x, kind, types.float32), first)
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _teach(operation: Callable[[Any, Any], Any], instruction: str) -> None:
    @intrinsic
    def both(typing, a, b):
        def make(context, builder, signature, arguments):
            given = [_all(context, builder, kind, x) for kind, x in zip(signature.args, arguments, strict=True)]
            return getattr(builder, instruction)(*given, flags=ANY_ORDER)

        return _lanes(a, b), make

    @overload(operation)
    def chosen(a, b):
        if isinstance(a, _Lanes) or isinstance(b, _Lanes):
            return lambda a, b: both(a, b)
        return None


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _teach(_operation, _instruction)


@shared
def _transform(real, imaginary, other_real, other_imaginary, cos, sin):
    """Stockham's transform of n complex numbers, in fours and perhaps a last time in twos; n a power of two.

    Args:
        real, imaginary: (n * LANES,).
        other_real, other_imaginary: the same, for what lies in between.
        cos, sin: (n,) of the roots of unity, exp(-2 pi i j / n).

    Returns:
        The pair that holds the result, then the other one.
    """
    n, s = real.shape[0] // LANES, 1
    while n >= 4:
        quarter = n // 4
        step, out = s * quarter * LANES, s * LANES
        for p in range(quarter):
            j = p * s
            cos1, sin1, cos2, sin2, cos3, sin3 = cos[j], sin[j], cos[2 * j], sin[2 * j], cos[3 * j], sin[3 * j]
            for q in range(s):
                i, o = (q + j) * LANES, (q + 4 * j) * LANES
                x0, y0, x2, y2 = load(real, i), load(imaginary, i), load(real, i + 2 * step), load(imaginary, i + 2 * step)
                x1, y1 = load(real, i + step), load(imaginary, i + step)
                x3, y3 = load(real, i + 3 * step), load(imaginary, i + 3 * step)
                ax, ay, bx, by = x0 + x2, y0 + y2, x0 - x2, y0 - y2
                cx, cy, dx, dy = x1 + x3, y1 + y3, x1 - x3, y1 - y3
                store(other_real, o, ax + cx)
                store(other_imaginary, o, ay + cy)
                ex, ey = bx + dy, by - dx
                store(other_real, o + out, ex * cos1 - ey * sin1)
                store(other_imaginary, o + out, ex * sin1 + ey * cos1)
                ex, ey = ax - cx, ay - cy
                store(other_real, o + 2 * out, ex * cos2 - ey * sin2)
                store(other_imaginary, o + 2 * out, ex * sin2 + ey * cos2)
                ex, ey = bx - dy, by + dx
                store(other_real, o + 3 * out, ex * cos3 - ey * sin3)
                store(other_imaginary, o + 3 * out, ex * sin3 + ey * cos3)
        real, imaginary, other_real, other_imaginary = other_real, other_imaginary, real, imaginary
        n //= 4
        s *= 4
    if n == 2:
        for q in range(s):
            i, o = q * LANES, (q + s) * LANES
            x0, y0, x1, y1 = load(real, i), load(imaginary, i), load(real, o), load(imaginary, o)
            store(other_real, i, x0 + x1)
            store(other_imaginary, i, y0 + y1)
            store(other_real, o, x0 - x1)
            store(other_imaginary, o, y0 - y1)
        real, imaginary, other_real, other_imaginary = other_real, other_imaginary, real, imaginary
    return real, imaginary, other_real, other_imaginary


@shared
def _aimed(x, y, before_real, before_imaginary, sizes, at, ahead, scale):
    """A bin of 16 frames: what it is, taken further from what it was, with the size that it should have, times `scale`."""
    real = x + (x - load(before_real, at)) * ahead
    imaginary = y + (y - load(before_imaginary, at)) * ahead
    gain = load(sizes, at) * scale / root(real * real + imaginary * imaginary + TINY)
    return real * gain, imaginary * gain


@shared
def _remember(before_real, before_imaginary, at, x, y):
    store(before_real, at, x)
    store(before_imaginary, at, y)


@shared
def _aim(real, imaginary, before_real, before_imaginary, sizes, cos, sin, base, ahead, scale):
    """From the transform of the even (real) and odd (imaginary) samples to that of the samples aimed at, in place.

    Bins k and n - k of the spectra of real samples are worked out together, twice as large as they are.
    """
    n = real.shape[0] // LANES
    x, y = load(real, 0), load(imaginary, 0)
    first, last, end, none = (x + y) * F(2), (x - y) * F(2), base + n * LANES, x - x
    a, _ = _aimed(first, none, before_real, before_imaginary, sizes, base, ahead, scale)
    b, _ = _aimed(last, none, before_real, before_imaginary, sizes, end, ahead, scale)
    _remember(before_real, before_imaginary, base, first, none)
    _remember(before_real, before_imaginary, end, last, none)
    store(real, 0, a + b)
    store(imaginary, 0, a - b)
    for k in range(1, n // 2 + 1):
        here, there = k * LANES, (n - k) * LANES
        x, y, u, v = load(real, here), load(imaginary, here), load(real, there), load(imaginary, there)
        even_x, even_y, odd_x, odd_y = x + u, y - v, y + v, u - x
        turn_x, turn_y = odd_x * cos[k] - odd_y * sin[k], odd_x * sin[k] + odd_y * cos[k]
        x, y, u, v = even_x + turn_x, even_y + turn_y, even_x - turn_x, turn_y - even_y
        ax, ay = _aimed(x, y, before_real, before_imaginary, sizes, base + here, ahead, scale)
        bx, by = _aimed(u, v, before_real, before_imaginary, sizes, base + there, ahead, scale)
        _remember(before_real, before_imaginary, base + here, x, y)
        _remember(before_real, before_imaginary, base + there, u, v)
        _fold(real, imaginary, here, there, ax, ay, bx, by, cos[k], sin[k])


@shared
def _start(real, imaginary, spectra_real, spectra_imaginary, cos, sin, base, scale):
    """The transform that `_aim` leaves, of the spectra to start from."""
    n = real.shape[0] // LANES
    a, b = load(spectra_real, base) * scale, load(spectra_real, base + n * LANES) * scale
    store(real, 0, a + b)
    store(imaginary, 0, a - b)
    for k in range(1, n // 2 + 1):
        here, there = k * LANES, (n - k) * LANES
        ax, ay = load(spectra_real, base + here) * scale, load(spectra_imaginary, base + here) * scale
        bx, by = load(spectra_real, base + there) * scale, load(spectra_imaginary, base + there) * scale
        _fold(real, imaginary, here, there, ax, ay, bx, by, cos[k], sin[k])


@shared
def _fold(real, imaginary, here, there, ax, ay, bx, by, cos, sin):
    """Bins k (a) and n - k (b) of real samples -> those of the transform of even and odd samples."""
    even_x, even_y, turn_x, turn_y = ax + bx, ay - by, ax - bx, ay + by
    odd_x, odd_y = turn_x * cos + turn_y * sin, turn_y * cos - turn_x * sin
    store(real, here, even_x - odd_y)
    store(imaginary, here, even_y + odd_x)
    store(real, there, even_x + odd_y)
    store(imaginary, there, odd_x - even_y)


@compiled
def search(audio, out, window, cos, sin, half_cos, half_sin, sizes, real, imaginary, hop, ahead, number, first, stop):
    size, rows = window.shape[0], audio.shape[0] // hop
    n = size // 2
    scale, shifts = F(0.5) / F(n), (size + hop - 1) // hop
    reached = stop * LANES + shifts - 1
    for i in range(hop):
        out[i * rows + first * LANES : i * rows + reached] = F(0)
    xs, ys, us, vs = np.empty(n * LANES, F), np.empty(n * LANES, F), np.empty(n * LANES, F), np.empty(n * LANES, F)
    for block in range(first, stop):
        base, frame = block * (n + 1) * LANES, block * LANES
        if number == 0:
            _start(xs, ys, real, imaginary, half_cos, half_sin, base, scale)
        else:
            for i in range(0, hop, 2):
                for shift in range(shifts):
                    at = shift * hop + i
                    if at < size:
                        from_ = i * rows + frame + shift
                        store(xs, at // 2 * LANES, load(audio, from_) * window[at])
                        store(ys, at // 2 * LANES, load(audio, from_ + rows) * window[at + 1])
            xs, ys, us, vs = _transform(xs, ys, us, vs, cos, sin)
            _aim(xs, ys, real, imaginary, sizes, half_cos, half_sin, base, ahead, scale)
        # The inverse transform is the transform with real and imaginary parts exchanged, before and after.
        ys, xs, vs, us = _transform(ys, xs, vs, us, cos, sin)
        for i in range(0, hop, 2):
            for shift in range(shifts):
                at = shift * hop + i
                if at < size:
                    to = i * rows + frame + shift
                    store(out, to, load(out, to) + load(xs, at // 2 * LANES) * window[at])
                    to += rows
                    store(out, to, load(out, to) + load(ys, at // 2 * LANES) * window[at + 1])


@compiled
def close(outs, bounds, inverse, audio, hop, side, n, loop, head, tail):
    rows = audio.shape[0] // hop
    for i in range(hop):
        sound = audio[i * rows : (i + 1) * rows]
        sound[:] = F(0)
        for number in range(outs.shape[0]):
            first, stop = bounds[number], bounds[number + 1] + rows - bounds[-1]
            heard, given = sound[first:stop], outs[number, i * rows + first : i * rows + stop]
            for j in range(heard.shape[0]):
                heard[j] += given[j]
    if loop:
        for at in range(side):
            _at(audio, hop, at + n, _of(audio, hop, at + n) + _of(audio, hop, at))
        for at in range(side, 2 * side):
            _at(audio, hop, at, _of(audio, hop, at) + _of(audio, hop, at + n))
    for j in range(audio.shape[0]):
        audio[j] *= inverse[j]
    for j in range(head.shape[0]):
        _at(audio, hop, side + j, head[j])
    for j in range(tail.shape[0]):
        _at(audio, hop, side + n - tail.shape[0] + j, tail[j])
    for j in range(side):
        _at(audio, hop, side - 1 - j, _of(audio, hop, side + (n - 1 - j if loop else 1 + j)))
        _at(audio, hop, side + n + j, _of(audio, hop, side + (j if loop else n - 2 - j)))


@shared
def _of(audio, hop, at):
    return audio[at % hop * (audio.shape[0] // hop) + at // hop]


@shared
def _at(audio, hop, at, value):
    audio[at % hop * (audio.shape[0] // hop) + at // hop] = value
