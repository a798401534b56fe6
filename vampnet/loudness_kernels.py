"""The loops of `vampnet.loudness` and `vampnet.limiter` over samples, compiled by numba: one channel at a time.

Arrays are one channel's; `POINT` samples share an energy, a peak and a gain.
"""

from __future__ import annotations

import numpy as np

from vampnet.numba_kernels import bits, compiled, number

F, S = np.float32, np.int32
MADE_WITH = "8b0a626786db"
"""What is compiled in here from other files: see `tests/test_passes.py`."""
POINT = 30
"""As in `loudness`."""
BLOCK = 32
"""Points whose peaks are looked for at a time: their samples stay in the nearest cache."""
TINY = 1e-30
"""What a filter remembers of long silence is set to nothing here, before it becomes numbers that a CPU is slow with."""
SIGN = np.int32(0x7FFFFFFF)
"""All bits of a float but its sign: the largest of numbers without one is found among whole numbers by vector instructions."""


@compiled
def energies(samples, sections, plain, weighted):
    """Sums of squares over points, as they are and behind two sections (2, 6) of a filter."""
    a0, a1, a2, a3, a4 = sections[0, 0], sections[0, 1], sections[0, 2], sections[0, 4], sections[0, 5]
    b0, b1, b2, b3, b4 = sections[1, 0], sections[1, 1], sections[1, 2], sections[1, 4], sections[1, 5]
    p = q = r = s = 0.0
    n = samples.shape[0]
    for i in range(plain.shape[0]):
        total = behind = 0.0
        for j in range(i * POINT, min(n, (i + 1) * POINT)):
            x = np.float64(samples[j])
            total += x * x
            y = a0 * x + p
            p = a1 * x - a3 * y + q
            q = a2 * x - a4 * y
            z = b0 * y + r
            r = b1 * y - b3 * z + s
            s = b2 * y - b4 * z
            behind += z * z
        if abs(p) + abs(q) + abs(r) + abs(s) < TINY:
            p = q = r = s = 0.0
        plain[i], weighted[i] = total, behind


@compiled
def peaks(samples, whole, filters, above, most, loop, out, first, stop):
    """The largest magnitude of points `first` to `stop`, also between samples where it may exceed `above`.

    `filters` (3, taps), a multiple of 4, are for what lies between samples, and no wave is higher than `most` times the largest
    sample that they reach. `whole` are the samples' bits.
    """
    n, taps = samples.shape[0], filters.shape[1]
    around, made = np.empty(BLOCK * POINT + taps, F), np.empty(BLOCK * POINT, F)
    largest = np.empty(BLOCK + 2, S)  # samples of each point and of one more to either side, as bits
    for start in range(first, stop, BLOCK):
        count = min(BLOCK, stop - start)
        reached = S(0)
        for i in range(count + 2):
            begin, high = (start + i - 1) * POINT, S(0)
            if begin >= 0 and begin + POINT <= n:
                for j in range(begin, begin + POINT):
                    high = max(high, whole[j] & SIGN)
            else:
                for j in range(begin, begin + POINT):
                    if loop or 0 <= j < n:
                        high = max(high, whole[j % n] & SIGN)
            largest[i] = high
            reached = max(reached, high)
        if number(reached) * most <= above:
            for i in range(count):
                out[start + i] = number(largest[i + 1])
            continue
        begin, size = start * POINT - taps // 2, count * POINT
        for j in range(size + taps):
            at = begin + j
            if at < 0 or at >= n:
                around[j] = samples[at % n] if loop else F(0)
            else:
                around[j] = samples[at]
        for i in range(count):
            out[start + i] = number(largest[i + 1])
        for quarter in range(3):
            for j in range(size):
                made[j] = F(0)
            for tap in range(0, taps, 4):  # four at a time, so that sums are read and written less often
                a, b, c, d = (
                    filters[quarter, tap],
                    filters[quarter, tap + 1],
                    filters[quarter, tap + 2],
                    filters[quarter, tap + 3],
                )
                part = around[tap + 1 :]
                for j in range(size):
                    made[j] += a * part[j] + b * part[j + 1] + c * part[j + 2] + d * part[j + 3]
            for i in range(count):
                if number(max(largest[i], largest[i + 1], largest[i + 2])) * most > above:
                    high = S(0)
                    for j in range(i * POINT, (i + 1) * POINT):
                        high = max(high, bits(made[j]) & SIGN)
                    out[start + i] = max(out[start + i], number(high))
