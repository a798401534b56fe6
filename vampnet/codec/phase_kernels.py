"""Phases that go on from frame to frame, compiled by numba; `vampnet.codec.phases` says what for."""

from __future__ import annotations

import math

import numpy as np

from vampnet.numba_kernels import compiled

MADE_WITH = "8b0a626786db"
"""What is compiled in here from other files: see `tests/test_passes.py`."""
FAINT = 1e-6
"""Added to magnitudes before their logarithm."""
NEAR = 1.5
"""Bins by which a partial may move from a frame to the next; beyond that it is another one."""


@compiled
def tracked(sizes, first, advance, known, real, imaginary):
    """Writes rows `known` and later of real and imaginary parts (J, F); the rows before them are given.

    sizes (J, F) magnitudes; first (F,) angles for what has nothing before it; advance: radians a bin and hop.
    """
    frames, bins = sizes.shape
    peaks, ends = np.empty(bins, np.int64), np.empty(bins, np.int64)
    places, angles = np.empty(bins), np.empty(bins)
    ends_before, places_before, angles_before = np.empty(bins, np.int64), np.empty(bins), np.empty(bins)
    before = 0  # how many partials the last frame had
    for t in range(max(known - 1, 0), frames):
        row, count, j = sizes[t], 0, 0
        for k in range(2, bins - 2):
            size = row[k]
            if size > row[k - 1] and size >= row[k + 1] and size > row[k - 2] and size >= row[k + 2]:
                # The top of the parabola through the logarithms of three bins.
                left, top, right = math.log(row[k - 1] + FAINT), math.log(size + FAINT), math.log(row[k + 1] + FAINT)
                place = k + min(max(0.5 * (left - right) / (left - 2 * top + right - 1e-9), -0.5), 0.5)
                if t < known:
                    angle = math.atan2(imaginary[t, k], real[t, k]) + math.pi * k
                elif before == 0:
                    angle = first[k]
                else:
                    while j < before - 1 and k >= ends_before[j]:
                        j += 1
                    on_the_way = place
                    if abs(places_before[j] - place) < NEAR:
                        on_the_way = 0.5 * (places_before[j] + place)
                    angle = angles_before[j] + advance * on_the_way
                peaks[count], places[count] = k, place
                angles[count] = angle - 2 * math.pi * math.floor(angle / (2 * math.pi))
                if count:
                    ends[count - 1] = (peaks[count - 1] + k + 1) // 2
                count += 1
        if t >= known:
            if count == 0:
                for k in range(bins):
                    real[t, k], imaginary[t, k] = math.cos(first[k]), math.sin(first[k])
            start = 0
            for i in range(count):
                stop = ends[i] if i + 1 < count else bins
                # An angle is that in the middle of the frame, from where the transform counts half a circle more with each bin.
                cos, sin = math.cos(angles[i]), math.sin(angles[i])
                for k in range(start, stop):
                    sign = 1.0 - 2.0 * (k & 1)
                    real[t, k], imaginary[t, k] = sign * cos, sign * sin
                start = stop
        before = count
        ends, ends_before = ends_before, ends
        places, places_before = places_before, places
        angles, angles_before = angles_before, angles
