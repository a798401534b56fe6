"""The loops of `vampnet.stereo` over spectra, compiled by numba: each frame in one pass, which stays in the nearest caches.

Spectra are (n, 2 F) float32, real and imaginary parts in turn. Between `starts[b]` and `starts[b + 1]` numbers lie between the
bands b and b + 1, by `share` (2 F,) nearer to the latter.
"""

from __future__ import annotations

import numpy as np

from vampnet.numba_kernels import compiled

F = np.float32
MADE_WITH = "8b0a626786db"
"""What is compiled in here from other files: see `tests/test_passes.py`."""


@compiled
def energies(x, y, share, starts, out, first, stop):
    """Of frames `first` to `stop` the sums of x x, x y and y y over each band, into (3, bands, n) float64."""
    for i in range(first, stop):
        row, other = x[i], y[i]
        above = above_both = above_other = F(0)  # what the band has of the numbers below it
        for band in range(starts.shape[0]):
            whole = both = others = F(0)
            upper = upper_both = upper_other = F(0)
            if band + 1 < starts.shape[0]:
                for j in range(starts[band], starts[band + 1]):
                    part = share[j]
                    p, q, r = row[j] * row[j], row[j] * other[j], other[j] * other[j]
                    whole += p
                    both += q
                    others += r
                    upper += part * p
                    upper_both += part * q
                    upper_other += part * r
            out[0, band, i] = above + whole - upper
            out[1, band, i] = above_both + both - upper_both
            out[2, band, i] = above_other + others - upper_other
            above, above_both, above_other = upper, upper_both, upper_other


@compiled
def painted(x, y, on_x, on_y, share, starts, a, b, left, right, first, stop):
    """Frames `first` to `stop` along an axis a, b (2 F,) and, by gains (bands, n) on both signals, across it: two channels."""
    across = np.empty(x.shape[1], F)
    # One array is written in each loop: with two among seven LLVM gives up telling whether they overlap, and makes no vectors.
    for i in range(first, stop):
        row, other, one, two = x[i], y[i], left[i], right[i]
        for band in range(starts.shape[0] - 1):
            near, far = on_x[band, i], on_y[band, i]
            near_more, far_more = on_x[band + 1, i] - near, on_y[band + 1, i] - far
            for j in range(starts[band], starts[band + 1]):
                across[j] = (near + share[j] * near_more) * row[j] + (far + share[j] * far_more) * other[j]
        for j in range(across.shape[0]):
            one[j] = a[j] * row[j] - b[j] * across[j]
        for j in range(across.shape[0]):
            two[j] = b[j] * row[j] + a[j] * across[j]
