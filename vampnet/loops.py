"""Rings and bars: a clip whose end flows into its beginning, and clips of whole bars.

A ring has no first sample; where its file begins is a choice. Everything here keeps lengths exact to the sample.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from vampnet import scratch
from vampnet.audio import make_signal
from vampnet.sentences import Sentence

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.beats import BeatGrid

CROSSFADE_SECONDS = 0.01
SETTLE_SECONDS = 0.002
NEIGHBOURHOOD_SECONDS = 0.05
"""How far from the seam the steps are looked at that a step across it is compared with."""
WHOLE_TOLERANCE = 0.02
"""How far, as a share, the tracked tempo may lie from one at which the whole clip is whole bars."""
WHOLE_TOLERANCE_BARS = 0.06
"""... and how far the clip from whole bars, in bars: in a long clip two per cent are a bar and more and mean nothing."""
LOOP_BARS = 8
"""Up to this many bars a clip of whole bars also says how long a part of it is; in a longer one the beats there know better."""
START_TOLERANCE_SECONDS = 0.05
BEFORE_SECONDS = 0.015


# ------------------------------------------------------------------------------------------------------------------ seams


def roll(signal: AudioSignal, samples: int) -> AudioSignal:
    """The ring (B, C, N) with its file beginning `samples` later; negative begins earlier. `roll(roll(x, n), -n)` is x."""
    return make_signal(torch.roll(signal.audio_data, -int(samples), dims=-1), signal.sample_rate)


def seam_step(signal: AudioSignal) -> tuple[float, float]:
    """How far the wave jumps from the last sample to the first, and the farthest it jumps between neighbours inside.

    Args:
        signal: (B, C, N) float.

    Returns:
        (step across the seam, largest step inside), both the largest over batch and channels, linear.
    """
    audio = signal.audio_data
    if audio.shape[-1] < 2:
        return 0.0, 0.0
    across = float((audio[..., 0] - audio[..., -1]).abs().max())
    pairs = zip(scratch.parts(audio[..., 1:]), scratch.parts(audio[..., :-1]), strict=True)
    return across, max(float((later - earlier).abs().max()) for later, earlier in pairs)


def close_seam(
    signal: AudioSignal, lead_in: torch.Tensor | None = None, seconds: float = CROSSFADE_SECONDS, always: bool = False
) -> AudioSignal:
    """Makes the end of a clip flow into its start with an equal-power crossfade; the length stays.

    Args:
        signal: (B, C, N) float.
        lead_in: (B, C, n) what would sound just before the first sample, if that is known: the end is faded into it. By default
            the start played backwards, which meets the first sample.
        seconds: length of the crossfade; at most half of the clip, and at most what `lead_in` holds.
        always: fade even where there is no step to be heard.

    Returns:
        AudioSignal (B, C, N); the samples as they are where the seam needs nothing: the step across it is no larger than the
        steps near it.
    """
    audio = signal.audio_data
    fade = min(round(seconds * signal.sample_rate), audio.shape[-1] // 2)
    if lead_in is not None:
        fade = min(fade, lead_in.shape[-1])
    if fade < 1 or not (always or _has_step(signal)):
        return make_signal(audio.clone(), signal.sample_rate)
    before = audio[..., :fade].flip(-1) if lead_in is None else lead_in[..., -fade:].to(audio)
    closed = crossfade(audio[..., -fade:], before)
    return make_signal(torch.cat([audio[..., :-fade], closed], dim=-1), signal.sample_rate)


def crossfade(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(..., n) that begins as `first` (..., n) and ends as `second` (..., n), as loud all the way."""
    angle = torch.linspace(0, math.pi / 2, first.shape[-1] + 1, dtype=first.dtype, device=first.device)[1:]
    # Equal power assumes that the two are unlike; where they are alike the sum would swell, so the gain follows the likeness.
    norms = (first.norm(dim=-1, keepdim=True) * second.norm(dim=-1, keepdim=True)).clamp_min(1e-12)
    likeness = ((first * second).sum(-1, keepdim=True) / norms).clamp(0, 1)
    swell = (1 + likeness * torch.sin(2 * angle)).sqrt()
    return (first * torch.cos(angle) + second * torch.sin(angle)) / swell


def _has_step(signal: AudioSignal) -> bool:
    """Whether the wave jumps farther across the seam than anywhere near it: a click, however loud the rest of the clip is."""
    audio = signal.audio_data
    reach = min(max(2, round(NEIGHBOURHOOD_SECONDS * signal.sample_rate)), audio.shape[-1])
    across = float((audio[..., 0] - audio[..., -1]).abs().max())
    near = max(float(part.diff(dim=-1).abs().max()) for part in (audio[..., :reach], audio[..., -reach:]))
    return across > near


def settle_ends(take: AudioSignal, source: AudioSignal) -> AudioSignal:
    """The take (1, C, N), changed in place, faded in and out over `SETTLE_SECONDS` where its source (1, C, N) is soft there.

    Nothing makes a decoded wave begin at zero, and a step there is a click. Where the source itself begins or ends in the midst
    of a sound there is no fade.
    """
    out = take.audio_data  # a copy for the sake of some milliseconds would be as large as the clip
    fade = min(round(SETTLE_SECONDS * take.sample_rate), out.shape[-1] // 2)
    near = max(1, round(5 * SETTLE_SECONDS * source.sample_rate))
    rising = 0.5 - 0.5 * torch.cos(torch.linspace(0, math.pi, fade + 2, dtype=out.dtype, device=out.device)[1:-1])
    start, end = (source.audio_data[..., part].abs() for part in (slice(near), slice(-near, None)))
    if fade and start[..., 0].max() <= 0.1 * start.max():
        out[..., :fade] *= rising
    if fade and end[..., -1].max() <= 0.1 * end.max():
        out[..., -fade:] *= rising.flip(0)
    return take


def fit_ring(ring: AudioSignal, samples: int, seconds: float = CROSSFADE_SECONDS) -> AudioSignal:
    """A ring (B, C, M) cut to its first `samples` <= M, and closed again.

    A codec decodes whole time steps, so its ring may be up to a step longer than the source. What is cut off is what led into
    the start: the new end fades into it, so that the seam is that of the ring.

    Raises:
        ValueError: the ring is shorter than `samples`.
    """
    length = ring.audio_data.shape[-1]
    if not 0 < samples <= length:
        raise ValueError(f"A ring of {length} samples cannot be cut to {samples}: ask for 1 to {length}.")
    cut = make_signal(ring.audio_data[..., :samples], ring.sample_rate)
    if samples == length:
        return cut
    return close_seam(cut, ring.audio_data, seconds, always=True)


# ------------------------------------------------------------------------------------------------------------------- bars


def bars(signal: AudioSignal, grid: BeatGrid, bars: int | None = None, at: float | None = None) -> tuple[int, int]:
    """Where a number of whole bars begins and ends.

    A clip that is whole bars as it stands, at the tracked tempo give or take 2 %, is taken at its word: its length decides how
    long a bar is, whatever the tracker missed at its edges. Otherwise a straight line through the beats of the wanted bars
    gives their start and length, which is finer than any single beat.

    Args:
        signal: (B, C, N).
        grid: its beats.
        bars: how many; None = as many as there are.
        at: seconds; the bars begin at the first downbeat from there on. By default at the first downbeat that leaves room.

    Returns:
        (start, end) in samples, 0 <= start < end <= N.

    Raises:
        ValueError: no beats, or fewer bars than wanted; the sentence says how many there are.
    """
    if bars is not None and bars < 1:
        raise ValueError(Sentence("bars must be at least 1, not {bars}.", bars=bars))
    samples, rate = signal.audio_data.shape[-1], signal.sample_rate
    seconds = samples / rate
    if len(grid.beats) < 2:
        raise ValueError(
            Sentence("No steady beat was found in the audio, so it has no bars: leave bars out to use its whole length.")
        )
    first, bar = bar_line(grid)
    whole = whole_bars(seconds, bar)
    if whole and at is None and bars in (None, whole):
        return 0, samples
    if whole > LOOP_BARS or not _starts_on_beat(grid, bar):
        whole = 0  # by chance, perhaps: for a part of the clip its beats are the better witness
    if whole:
        bar = seconds / whole
        offset = first % bar
        # The first downbeat of a clip that is whole bars is its start, unless the beats clearly say otherwise.
        first = 0.0 if min(offset, bar - offset) < max(START_TOLERANCE_SECONDS, 0.1 * bar) else offset
    else:
        # Beats that set in late: the bars before them are counted too.
        first -= bar * math.floor((first + START_TOLERANCE_SECONDS) / bar)
    starts = [first + i * bar for i in range(max(1, math.ceil(seconds / bar) + 1))]
    starts = [t for t in starts if at is None or t >= at - START_TOLERANCE_SECONDS]
    room = int((seconds - starts[0] + START_TOLERANCE_SECONDS) / bar) if starts else 0
    wanted = max(1, room) if bars is None else bars
    if room < wanted:
        raise ValueError(_too_few(wanted, room, at))
    if not whole:
        # A tracked first bar is a better start than one that was only counted back to, if enough is left after it.
        tracked = [t for t in starts if t >= grid.beats[0] - START_TOLERANCE_SECONDS]
        found = [t for t in tracked if t + wanted * bar <= seconds + START_TOLERANCE_SECONDS] or starts[:1]
        lines = (_refine(grid, start, wanted, bar) for start in found)
        # A line that begins before the clip is that of a false beat at its very start: there the cut would be off the beat.
        line = next((line for line in lines if line[0] >= -BEFORE_SECONDS), None)
        first, bar = line or _refine(grid, found[0], wanted, bar)
    else:
        first = starts[0]
    length = min(round(wanted * bar * rate), samples)
    start = min(max(0, round(first * rate)), samples - length)
    return start, start + length


def trim_to_bars(
    signal: AudioSignal, grid: BeatGrid, bars_wanted: int | None = None, at: float | None = None
) -> tuple[AudioSignal, BeatGrid]:
    """The clip (B, C, N) cut to whole bars as `bars` finds them, and its beats counted from the new start.

    Raises:
        ValueError: as `bars`.
    """
    start, end = bars(signal, grid, bars_wanted, at)
    rate = signal.sample_rate
    return make_signal(signal.audio_data[..., start:end].clone(), rate), grid.cut(start / rate, end / rate)


def cut_to_bars(signal: AudioSignal, grid: BeatGrid | None, wanted: int | str | None) -> tuple[AudioSignal, BeatGrid | None]:
    """The clip and its beats, cut to whole bars if that is asked for: a number of them, or "all".

    Raises:
        ValueError: as `bars`.
    """
    if wanted is None or grid is None:
        return signal, grid
    cut, grid = trim_to_bars(signal, grid, None if wanted == "all" else wanted)
    cut.path_to_file = signal.path_to_file
    return cut, grid


def _too_few(wanted: int, room: int, at: float | None) -> Sentence:
    held = Sentence("no whole bar") if room < 1 else Sentence("only 1 whole bar")
    held = held if room < 2 else Sentence("only {room} whole bars", room=room)
    held = held if at is None else Sentence("{held} from {at:g} s on", held=held, at=at)
    if room < 1:
        return Sentence("The audio holds {held}, and {wanted} wanted: use a longer clip.", held=held, wanted=_were(wanted))
    return Sentence(
        "The audio holds {held}, and {wanted} wanted: ask for at most {room} or use a longer clip.", held=held, room=room,
        wanted=_were(wanted),
    )  # fmt: skip


def _were(count: int) -> Sentence:
    return Sentence("1 was") if count == 1 else Sentence("{count} were", count=count)


def bar_line(grid: BeatGrid) -> tuple[float, float]:
    """Seconds of the first downbeat and of a bar, over the whole clip."""
    beats = np.asarray(grid.beats)
    usual = float(np.median(np.diff(beats)))
    period = _fit(beats, usual)[1]
    # In live music that drifts no single line fits.
    period = period if abs(period / usual - 1) < 0.03 else usual
    first = grid.downbeats[0] if grid.downbeats else grid.beats[0]
    return float(first), period * grid.beats_per_bar


def whole_bars(seconds: float, bar: float) -> int:
    """How many bars the clip is if it is whole bars within the tolerances, 0 if it is not."""
    count = round(seconds / bar)
    off = abs(seconds / bar - count)
    return count if count >= 1 and off <= min(WHOLE_TOLERANCE * count, WHOLE_TOLERANCE_BARS) else 0


def _starts_on_beat(grid: BeatGrid, bar: float) -> bool:
    """Whether the start of the clip lies on the grid of its beats."""
    beat = bar / grid.beats_per_bar
    off = grid.beats[0] % beat
    return min(off, beat - off) < 0.15 * beat


def _refine(grid: BeatGrid, start: float, wanted: int, bar: float) -> tuple[float, float]:
    """Start and length of a bar from the beats of the wanted bars alone: live music does not keep one tempo."""
    beat = bar / grid.beats_per_bar
    beats = np.asarray(grid.beats)
    inside = beats[(beats > start - beat / 2) & (beats < start + wanted * bar + beat / 2)]
    if len(inside) < 4:
        return start, bar
    phase, period = _fit(inside, beat)
    if abs(period / beat - 1) > 0.1:
        return start, bar
    # The line counts from its first beat; the start is the whole number of beats before it that lies nearest.
    return phase + period * round((start - phase) / period), period * grid.beats_per_bar


def _fit(beats: np.ndarray, period: float) -> tuple[float, float]:
    """(phase, period) in seconds of the line through the beats; phase is where the line has its first beat.

    A beat counts if it lies a whole number of periods, give or take a quarter, after the last one that counts: missed beats
    stay gaps and strays stay out.
    """
    gaps = np.abs(np.diff(beats) / period - 1)
    first = int(np.argmax(gaps < 0.25)) if (gaps < 0.25).any() else 0
    index, times = [0], [float(beats[first])]
    for time in beats[first + 1 :]:
        passed = (time - times[-1]) / period
        if round(passed) >= 1 and abs(passed - round(passed)) < 0.25:
            index.append(index[-1] + round(passed))
            times.append(float(time))
    if len(times) < 2:
        return times[0], period
    slope, phase = (float(v) for v in np.polyfit(index, times, 1))
    error = np.abs(np.array(times) - phase - slope * np.array(index))
    use = error <= max(3 * float(np.median(error)), 0.002)
    if use.sum() >= 4:
        slope, phase = (float(v) for v in np.polyfit(np.array(index)[use], np.array(times)[use], 1))
    return phase, slope
