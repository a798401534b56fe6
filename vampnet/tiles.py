"""Tiles of matrix products, some rows and columns whose sums stay in a CPU's registers, written out for numba's kernels.

Wide ones, of 6 rows and 64 columns, are for two instructions that do the work of 64 multiplications of int8 (AVX512-VNNI) and
of 32 of bfloat16 (AVX512-BF16), and add up 4 or 2 of them. No loop that LLVM is given becomes them. One of the two factors of
the former has no sign: rows of int8 numbers x are held as the bits of x + 128, and the sums of a column begin with -128 times
the sum of its weights.

Narrow ones, of 4 rows and 16 columns, are for CPUs that have no more than AVX2. An instruction does 16 multiplications of int16
there and adds up 2 of them. What these hold between two matrices are whole numbers of 8 bits, so that sums are those of wide
tiles; in attention they are larger ones.

Of numpy's types, which tell kernels what is meant, uint16 stands for bfloat16, which numpy lacks: these bits are the upper half
of a float32's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vampnet.numba_kernels import ANY_ORDER, LEAST, LOG2_E

TILE, COLUMNS, LANES = 6, 64, 16
"""Rows and columns of a wide tile: 24 of the 32 registers, of 16 numbers each, hold its sums."""
NARROW_TILE, NARROW_COLUMNS, NARROW_LANES = 4, 16, 8
"""Of a narrow one: 8 of the 16 registers, of 8 numbers each. With 6 rows those of int16 lack one for what they make."""

llvmlite.binding.initialize_native_asmparser()  # the two instructions are written as such

_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_INTS, _FLOATS = ir.VectorType(_I32, LANES), ir.VectorType(_F32, LANES)
_FEW_INTS = ir.VectorType(_I32, NARROW_LANES)


class Arithmetic(NamedTuple):
    """What a tile is made of.

    Attributes:
        lanes: numbers that a register holds.
        columns: of a tile.
        sums: a register's type.
        dot: (builder, sums, x, weights) -> the sums and the products of what is in 32 bits of either factor, in registers.
        at_once: how often that is written out in a round of the loop over what is in the middle.
    """

    lanes: int
    columns: int
    sums: Any
    dot: Callable[..., Any]
    at_once: int


def _by_name(instruction: str, kind: Any) -> Arithmetic:
    dot = ir.InlineAsm(ir.FunctionType(kind, [kind, _INTS, _INTS]), f"{instruction} $3, $2, $0", "=v,0,v,v")
    return Arithmetic(LANES, COLUMNS, kind, lambda builder, *given: builder.call(dot, given), 2)


def _called(builder: Any, name: str, result: Any, *given: Any) -> Any:
    kind = ir.FunctionType(result, [x.type for x in given])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), given)


def _pairs(builder: Any, sums: Any, x: Any, weights: Any) -> Any:
    pairs = (builder.bitcast(part, ir.VectorType(_I16, 2 * NARROW_LANES)) for part in (x, weights))
    return builder.add(sums, _called(builder, "llvm.x86.avx2.pmadd.wd", _FEW_INTS, *pairs))


WHOLE, HALF = _by_name("vpdpbusd", _INTS), _by_name("vdpbf16ps", _FLOATS)
SHORT = Arithmetic(NARROW_LANES, NARROW_COLUMNS, _FEW_INTS, _pairs, 1)


def _at(builder: Any, array: Any, place: Any, kind: Any) -> Any:
    """A pointer to what begins `place` elements into an array."""
    return builder.bitcast(builder.gep(array.data, [place]), kind.as_pointer())


def _all(builder: Any, x: Any, lanes: int = LANES) -> Any:
    """A number so many times."""
    undefined = ir.Constant(ir.VectorType(x.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, x, _I32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _loop(builder: Any, count: Any, carried: list[Any], body: Any) -> list[Any]:
    """Emits body(i, carried) -> carried for i = 0 .. count - 1, at least once; what is carried in the end."""
    before, again, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(again)
    builder.position_at_end(again)
    i = builder.phi(_I64)
    i.add_incoming(_I64(0), before)
    held = [builder.phi(x.type) for x in carried]
    for phi, x in zip(held, carried, strict=True):
        phi.add_incoming(x, before)
    made = body(i, held)
    following = builder.add(i, _I64(1))
    for phi, x in zip((i, *held), (following, *made), strict=True):
        phi.add_incoming(x, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, count), again, after)
    builder.position_at_end(after)
    return made


def _narrowed(builder: Any, bits: Any) -> Any:
    """The bits of 16 float32 -> those of the nearest bfloat16; of the larger one where two are."""
    rounded = builder.add(bits, ir.Constant(_INTS, [0x8000] * LANES))
    return builder.trunc(builder.lshr(rounded, ir.Constant(_INTS, [16] * LANES)), ir.VectorType(_I16, LANES))


def _tile(rows: int, kind: Arithmetic, slope: int = 0) -> Any:
    """A function that multiplies some rows with a tile's columns: (given, row, packed, panel, start, begin, out, to, column).

    Args of that function:
        given: (N, K) numbers contiguous, of which `rows` from `row` on are read.
        packed: (panels, K / n, columns, n), n of them in 32 bits; K / n even in wide tiles.
        start: numbers of the sums' type. Those of the columns begin at `begin`, for each further row `slope` farther on.
        out: contiguous rows of sums; those from `to` on are written, from `column` on. Nothing looks whether they are there.
    """
    lanes, vectors = kind.lanes, kind.columns // kind.lanes
    numbers = ir.VectorType(_I32, lanes)

    @intrinsic
    def tile(typing, given, row, packed, panel, start, begin, out, to, column):
        signature = types.none(given, row, packed, panel, start, begin, out, to, column)

        def make(context, builder, signature, arguments):
            def array(index):
                return context.make_array(signature.args[index])(context, builder, arguments[index])

            def whole(index):
                return context.cast(builder, arguments[index], signature.args[index], types.intp)

            given, packed, start, out = (array(index) for index in (0, 2, 4, 6))
            row, panel, begin, to, column = (whole(index) for index in (1, 3, 5, 7, 8))
            width = cgutils.unpack_tuple(builder, given.shape)[1]
            length = cgutils.unpack_tuple(builder, packed.shape)[1]
            stride = cgutils.unpack_tuple(builder, out.shape)[1]
            each = 32 // signature.args[0].dtype.bitwidth
            line = _I64(kind.columns * each)
            places = [builder.mul(builder.add(row, _I64(r)), width) for r in range(rows)]
            firsts = [builder.add(begin, _I64(slope * r)) for r in range(rows)]
            sums = [
                builder.load(_at(builder, start, builder.add(at, _I64(lanes * v)), kind.sums), align=4)
                for at in firsts
                for v in range(vectors)
            ]
            panel = builder.mul(builder.mul(panel, length), line)

            def body(i, sums):
                for part in range(kind.at_once):
                    k = builder.add(builder.mul(i, _I64(kind.at_once)), _I64(part))
                    begin = builder.add(panel, builder.mul(k, line))
                    weights = [
                        builder.load(_at(builder, packed, builder.add(begin, _I64(lanes * each * v)), numbers), align=4)
                        for v in range(vectors)
                    ]
                    for r, place in enumerate(places):
                        at = builder.add(place, builder.mul(k, _I64(each)))
                        x = _all(builder, builder.load(_at(builder, given, at, _I32), align=1), lanes)
                        for v, weight in enumerate(weights, r * vectors):
                            sums = [*sums[:v], kind.dot(builder, sums[v], x, weight), *sums[v + 1 :]]
                return sums

            sums = _loop(builder, builder.sdiv(length, _I64(kind.at_once)), sums, body)
            for r in range(rows):
                begin = builder.add(builder.mul(builder.add(to, _I64(r)), stride), column)
                for v in range(vectors):
                    at = _at(builder, out, builder.add(begin, _I64(lanes * v)), kind.sums)
                    builder.store(sums[r * vectors + v], at, align=4)
            return context.get_dummy_value()

        return signature, make

    return tile


six_whole, one_whole = (_tile(rows, WHOLE) for rows in (TILE, 1))
six_half, one_half = (_tile(rows, HALF) for rows in (TILE, 1))
six_scores, one_scores = (_tile(rows, HALF, slope=-1) for rows in (TILE, 1))
four_short, one_short = (_tile(rows, SHORT) for rows in (NARROW_TILE, 1))


def _constant(x: float, kind: Any = _FLOATS) -> Any:
    """A number 16 times."""
    return ir.Constant(kind, [float(np.float32(x)) if kind is _FLOATS else x] * LANES)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b, flags=ANY_ORDER), a, b)


def _by(builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(a, b, flags=ANY_ORDER)


def _reduced(builder: Any, name: str, *given: Any) -> Any:
    """The largest number of a vector, or its sum."""
    kind = ir.FunctionType(_F32, [x.type for x in given])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.{name}.v{LANES}f32")
    return builder.call(function, given, fastmath=ANY_ORDER)


def _raised(builder: Any, x: Any, largest: Any) -> Any:
    """exp(x - largest), as the bits of 16 float32; exact to 1e-4."""
    power = _larger(builder, _by(builder, builder.fsub(x, largest, flags=ANY_ORDER), _constant(LOG2_E)), _constant(LEAST))
    rint = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOATS, [_FLOATS]), f"llvm.rint.v{LANES}f32")
    nearest = builder.call(rint, [power], fastmath=ANY_ORDER)
    rest = builder.fsub(power, nearest, flags=ANY_ORDER)
    p = _constant(0.05500721)
    for factor in (0.24220727, 0.69328271, 1.0):
        p = builder.fadd(_by(builder, p, rest), _constant(factor), flags=ANY_ORDER)
    raised = builder.shl(builder.fptosi(nearest, _INTS), _constant(23, _INTS))
    return builder.add(builder.bitcast(p, _INTS), raised)


@intrinsic
def weighed(typing, scores, weights, row):
    """exp(x - the largest x) of a row of scores, as bfloat16 into the same row of weights; their sum.

    Both contiguous, with rows of a multiple of 16 numbers. Exact to 1e-4 before it is rounded.
    """

    def make(context, builder, signature, arguments):
        scores, weights = (context.make_array(signature.args[i])(context, builder, arguments[i]) for i in range(2))
        row = context.cast(builder, arguments[2], signature.args[2], types.intp)
        width = cgutils.unpack_tuple(builder, scores.shape)[1]
        begin, count = builder.mul(row, width), builder.sdiv(width, _I64(LANES))

        def place(i):
            return builder.add(begin, builder.mul(i, _I64(LANES)))

        def read(i):
            return builder.load(_at(builder, scores, place(i), _FLOATS), align=4)

        def powers(i, carried):
            found = _raised(builder, read(i), largest)
            kept = _narrowed(builder, found)
            builder.store(kept, _at(builder, weights, place(i), kept.type), align=2)
            return [builder.fadd(carried[0], builder.bitcast(found, _FLOATS), flags=ANY_ORDER)]

        (most,) = _loop(builder, count, [_constant(-3e38)], lambda i, carried: [_larger(builder, carried[0], read(i))])
        largest = _all(builder, _reduced(builder, "fmax", most))
        (total,) = _loop(builder, count, [_constant(0.0)], powers)
        return _reduced(builder, "fadd", _F32(0.0), total)

    return types.float32(scores, weights, row), make


@intrinsic
def weighed_whole(typing, sums, row, factor, keys, line, begin, steps, levels, values, scale, weights):
    """The same of whole numbers: exp(x - the largest x) for each x = factor * key * sum + bias; their sum.

    Args:
        sums: (N, W) int32 contiguous, W a multiple of 16, of which `row` is read.
        factor: float32.
        keys: (at least W,) float32 contiguous, a factor for each.
        line: float32 contiguous, the bias, of which W from `begin` on are read.
        steps: how many of the W there are; the others weigh nothing.
        levels: (at least W,) float32 contiguous, written to.
        values: (at least W,) float32 contiguous, by which each weight is multiplied,
        scale: and all of them.
        weights: (N, W) int16 contiguous, the same row of which is written.
    """
    signature = types.float32(sums, row, factor, keys, line, begin, steps, levels, values, scale, weights)

    def make(context, builder, signature, arguments):
        def array(index):
            return context.make_array(signature.args[index])(context, builder, arguments[index])

        def cast(index, kind):
            return context.cast(builder, arguments[index], signature.args[index], kind)

        sums, keys, line, levels, values, weights = map(array, (0, 3, 4, 7, 8, 10))
        row, begin, steps = (cast(index, types.intp) for index in (1, 5, 6))
        factor, scale = (_all(builder, cast(index, types.float32)) for index in (2, 9))
        width = cgutils.unpack_tuple(builder, sums.shape)[1]
        first, count = builder.mul(row, width), builder.sdiv(width, _I64(LANES))
        places = ir.Constant(_INTS, list(range(LANES)))

        def read(array, at, kind=_FLOATS):
            return builder.load(_at(builder, array, at, kind), align=4)

        def levelled(i, carried):
            at = builder.mul(i, _I64(LANES))
            x = builder.sitofp(read(sums, builder.add(first, at), _INTS), _FLOATS)
            x = _by(builder, x, _by(builder, factor, read(keys, at)))
            x = builder.fadd(x, read(line, builder.add(begin, at)), flags=ANY_ORDER)
            left = _all(builder, builder.trunc(builder.sub(steps, at), _I32))
            x = builder.select(builder.icmp_signed("<", places, left), x, _constant(-1e30))
            builder.store(x, _at(builder, levels, at, _FLOATS), align=4)
            return [_larger(builder, carried[0], x)]

        def powers(i, carried):
            at = builder.mul(i, _I64(LANES))
            found = builder.bitcast(_raised(builder, read(levels, at), largest), _FLOATS)
            weight = _by(builder, found, _by(builder, scale, read(values, at)))
            weight = builder.fptosi(builder.fadd(weight, _constant(0.5), flags=ANY_ORDER), _INTS)
            kept = builder.trunc(weight, ir.VectorType(_I16, LANES))
            builder.store(kept, _at(builder, weights, builder.add(first, at), kept.type), align=2)
            return [builder.fadd(carried[0], found, flags=ANY_ORDER)]

        (most,) = _loop(builder, count, [_constant(-3e38)], levelled)
        largest = _all(builder, _reduced(builder, "fmax", most))
        (total,) = _loop(builder, count, [_constant(0.0)], powers)
        return _reduced(builder, "fadd", _F32(0.0), total)

    return signature, make


@intrinsic
def halved(typing, sums, row, column, factor, scale, out, place):
    """64 sums of a row, each times the factor and the scale of its column, as bfloat16.

    Args:
        sums: (N, columns) int32 or float32 contiguous, of which those from `column` on in `row` are read.
        factor: float32.
        scale: (columns,) float32 contiguous.
        out: contiguous array of 16 bits a number, written from `place` on, whatever its shape.
    """
    signature = types.none(sums, row, column, factor, scale, out, place)

    def make(context, builder, signature, arguments):
        sums, scale, out = (context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 4, 5))
        row, column, place = (context.cast(builder, arguments[i], signature.args[i], types.intp) for i in (1, 2, 6))
        factor = _all(builder, context.cast(builder, arguments[3], signature.args[3], types.float32))
        begin = builder.add(builder.mul(row, cgutils.unpack_tuple(builder, sums.shape)[1]), column)
        whole = signature.args[0].dtype == types.int32
        for v in range(COLUMNS // LANES):
            ahead = _I64(LANES * v)
            x = builder.load(_at(builder, sums, builder.add(begin, ahead), _INTS if whole else _FLOATS), align=4)
            x = builder.sitofp(x, _FLOATS) if whole else x
            by = builder.load(_at(builder, scale, builder.add(column, ahead), _FLOATS), align=4)
            x = builder.fmul(builder.fmul(x, factor, flags=ANY_ORDER), by, flags=ANY_ORDER)
            half = _narrowed(builder, builder.bitcast(x, _INTS))
            builder.store(half, _at(builder, out, builder.add(place, ahead), half.type), align=2)
        return context.get_dummy_value()

    return signature, make
