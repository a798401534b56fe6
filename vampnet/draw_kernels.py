"""Draws of tokens, compiled by numba: each row of logits becomes a token in one pass, without leaving the nearest cache."""

from __future__ import annotations

import math

import numpy as np

from vampnet.numba_kernels import bits, compiled, exp, number, of_order, ordered, shared, taken

MADE_WITH = "8b0a626786db"
"""What is compiled in here from other files: see `tests/test_passes.py`."""
F, S = np.float32, np.int32
GROUP = 16
"""Probabilities that are added up together: the sums up to each of 1,024 would wait for each other."""
TINY = F(np.finfo(np.float32).tiny)
ROOT_2 = F(math.sqrt(2))
LN_2 = F(math.log(2))
NO_NUMBER, INFINITE = S(0x7FC00000), S(0x7F800000)
"""The bits of a float32 that is no number, and of infinity."""


@shared
def _logs(x, out):
    """(n,) float32 from 0 on -> their natural logarithms, exact to 2e-7 (Cephes' polynomial); 0 counts as TINY."""
    for j in range(x.shape[0]):
        same = bits(max(x[j], TINY))
        power = (same >> S(23)) - S(127)
        part = number((same & S(0x7FFFFF)) | S(0x3F800000))
        large = part > ROOT_2
        part = part * F(0.5) if large else part
        power = power + S(1) if large else power
        z = part - F(1)
        p = F(7.0376836292e-2)
        p = p * z + F(-1.1514610310e-1)
        p = p * z + F(1.1676998740e-1)
        p = p * z + F(-1.2420140846e-1)
        p = p * z + F(1.4249322787e-1)
        p = p * z + F(-1.6668057665e-1)
        p = p * z + F(2.0000714765e-1)
        p = p * z + F(-2.4999993993e-1)
        p = p * z + F(3.3333331174e-1)
        out[j] = z - F(0.5) * z * z + z * z * z * p + F(power) * LN_2


@shared
def _softmax(logits, factor, p):
    """exp(factor * logits) over their sum; False if one of the logits is no number, or infinite."""
    size, most = S(0), S(-0x7FFFFFFF)
    for j in range(logits.shape[0]):
        size = max(size, bits(logits[j]) & S(0x7FFFFFFF))
        most = max(most, ordered(logits[j]))
    if size >= INFINITE:
        return False
    largest, total = of_order(most), F(0)
    for j in range(logits.shape[0]):
        p[j] = exp(max(factor * (logits[j] - largest), F(-80)))
        total += p[j]
    share = F(1) / total
    for j in range(logits.shape[0]):
        p[j] *= share
    return True


@shared
def _unsmoothed(p, smoothing, weights):
    """See `sampling.unsmoothed`; they add up to 1."""
    total, even = F(0), smoothing / F(p.shape[0])
    for j in range(p.shape[0]):
        weights[j] = max(p[j] - even, F(0))
        total += weights[j]
    share = F(1) / total
    for j in range(p.shape[0]):
        weights[j] *= share


@shared
def _sums(weights, sums):
    """Sums of groups, up to and with each."""
    total = F(0)
    for group in range(sums.shape[0]):
        part = F(0)
        for j in range(group * GROUP, min((group + 1) * GROUP, weights.shape[0])):
            part += weights[j]
        total += part
        sums[group] = total


@shared
def _at(weights, sums, u):
    """The token on which u falls: the first whose sum is above u times all; one that weighs something."""
    point = min(u, F(1) - F(2**-23)) * sums[-1]
    group = 0
    while group < sums.shape[0] - 1 and sums[group] <= point:
        group += 1
    total = sums[group - 1] if group else F(0)
    token = group * GROUP
    for j in range(group * GROUP, min((group + 1) * GROUP, weights.shape[0])):
        total += weights[j]
        if weights[j] > F(0):
            token = j
            if total > point:
                break
    return token


@shared
def _nearer(weights, off, limit):
    """The mass of the tokens that are nearer to the entropy."""
    mass = F(0)
    for j in range(weights.shape[0]):
        mass += weights[j] if off[j] < limit else F(0)
    return mass


@shared
def _typical(weights, sums, u, mass, off):
    """See `sampling.draw_typical`."""
    n, entropy = weights.shape[0], F(0)
    _logs(weights, off)
    for j in range(n):
        entropy -= weights[j] * off[j]
    for j in range(n):
        off[j] = abs(off[j] + entropy)
    for draw in range(u.shape[0]):
        token = _at(weights, sums, u[draw])
        if _nearer(weights, off, off[token]) < mass:
            return token
    token = 0
    for j in range(n):
        token = j if off[j] < off[token] else token
    return token


@compiled
def chosen(logits, u, typical, temperature, smoothing, mass, tokens, log_p, block, counter):
    rows, n = logits.shape
    p, weights, off = np.empty(n, F), np.empty(n, F), np.empty(n, F)
    sums = np.empty(-(-n // GROUP), F)
    begin = taken(counter, block)
    while begin < rows:
        for i in range(begin, min(begin + block, rows)):
            if not _softmax(logits[i], F(1), p):
                tokens[i], log_p[i] = 0, NO_NUMBER
                continue
            if smoothing > F(0):
                _unsmoothed(p, smoothing, weights)
            else:
                for j in range(n):
                    weights[j] = p[j]
            if temperature != F(1):
                _logs(weights, off)
                for j in range(n):
                    off[j] = off[j] if weights[j] > F(0) else F(-1e30)
                _softmax(off, F(1) / temperature, weights)
            _sums(weights, sums)
            some = mass < F(1) and typical[i]
            token = _typical(weights, sums, u[i], mass, off) if some else _at(weights, sums, u[i, 0])
            tokens[i] = token
            log_p[i] = bits(F(math.log(p[token])))
        begin = taken(counter, block)
