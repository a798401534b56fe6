"""`VampNet`: audio -> tokens -> prompt -> coarse sampler -> fine sampler -> audio, N takes of it.

A model hears one channel at -24 LUFS in whole time steps. What a source has beyond that (its stereo image, its loudness, its
exact length) is taken off before the codec and given to every take after it.
"""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vampnet import audio, checkpoints, loops, original, scratch, stereo
from vampnet.balance import Balance
from vampnet.beats import BeatGrid
from vampnet.config import MASK, Prompt, Sampling, whole_seed
from vampnet.device import usable_device
from vampnet.extend import added_seconds, longer
from vampnet.kept import kept_sound
from vampnet.model.fast import get_ready, items_at_a_time
from vampnet.offset import offset_of
from vampnet.progress import Cancelled, OnDownload, OnStep, Watch, part_of
from vampnet.ring import between, may_be_ring
from vampnet.sentences import Sentence
from vampnet.stages import Stages
from vampnet.vamp import Clip, Vamp

if TYPE_CHECKING:
    from audiotools import AudioSignal

MOST_TAKES = 1000
_balances: weakref.WeakKeyDictionary[Clip, Balance | None] = weakref.WeakKeyDictionary()


def _one_first(takes: int, at_a_time: int) -> list[range]:
    """The first of so many takes, and then the others, some at a time."""
    return [range(1), *(range(i, min(i + at_a_time, takes)) for i in range(1, takes, at_a_time))]


class VampNet(Stages):
    """A codec and the two transformers that fill its tokens (DESIGN, section 1): `Stages`, and all of them at once.

    Its arguments are those of `Stages`; `from_pretrained` loads them.
    """

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = checkpoints.DEFAULT,
        device: str | torch.device | None = None,
        *,
        revision: str | None = None,
        codec: str | Path | None = None,
        coarse: str | Path | None = None,
        fine: str | Path | None = None,
        on_download: OnDownload | None = None,
        precision: str = "auto",
    ) -> VampNet:
        """Loads a model: "mini" (bundled), a folder, or a repository of the hub such as "hugggof/vampnet".

        Args:
            name: see `checkpoints.find`; with ":choir" behind it the fine-tune of that name in `loras/`.
            device: "cuda", "mps", "cpu", ...; None = the best there is.
            revision: branch, tag or commit of a repository.
            codec, coarse, fine: single files in the published format that take the place of those of `name`.
            on_download: called with the file's name, the bytes done and of how many; CancelledError from it stops.
            precision: "float32", "bfloat16" or "int8" arithmetic in the transformers; "auto" = int8 on CPUs and bfloat16 on
                GPUs that have instructions for it, else float32. The same seed gives other takes in another precision, as
                good as these.

        Raises:
            FileNotFoundError: no such checkpoint, or it cannot be had without a network.
            ValueError: a damaged checkpoint, or a device that cannot be used.
        """
        chosen = usable_device(device)
        get_ready(precision, chosen)
        models = checkpoints.load(
            name, chosen, revision=revision, codec=codec, coarse=coarse, fine=fine, on_download=on_download
        )
        made = cls(models.codec, models.coarse, models.fine, models.name, chosen, precision, models.sampling)
        made.paths = models.paths
        return made

    def vamp(
        self,
        source: Any,
        prompt: Prompt | None = None,
        sampling: Sampling | None = None,
        takes: int = 4,
        seed: int = 0,
        *,
        loop: bool = False,
        bars: int | str | None = None,
        beats: BeatGrid | None = None,
        mask: Tensor | None = None,
        extend: tuple[float, float] = (0.0, 0.0),
        batch: int | None = None,
        on_step: OnStep | None = None,
        cancelled: Cancelled | None = None,
        on_take: Callable[[Vamp], None] | None = None,
    ) -> Vamp:
        """Takes of a clip: the prompt's part of it stays, the models make the rest anew.

        Args:
            source: anything that `audio.load` takes: a path, an AudioSignal, (rate, array), (tensor, rate); or a `Clip` of
                `listen`, for several vamps of one source: then `loop` and `bars` are the clip's, and its beats if it has any.
            prompt: what stays; None = the defaults. Its seconds count from the start of what is vamped.
            sampling: how the rest is filled; None = the model's defaults, `self.sampling`.
            takes: how many, at least 1.
            seed: 0..2**31 - 1; take i depends on (seed, i), not on how many there are.
            loop: the clip is a ring: its end flows into its beginning, in what the models see and in what they make.
            bars: cut the clip to so many whole bars first; "all" = as many as it holds, None = leave it as it is.
            beats: of the whole source, if they are known already; None = tracked if they are needed.
            mask: (1, K, T) bool, True = regenerate: used instead of that of the prompt, for instance one that somebody painted;
                of the longer clip if `extend` makes it longer, where what is added is made anew whatever the mask says.
            extend: seconds to add (before, after): see `extend.plan`. The takes are longer than the source by them, and
                `Vamp.source` is silent there.
            batch: as in `generate`.
            on_step: progress, `on_step(stage, step, of)`; stages as in `OnStep`, "beats" only where they are tracked.
            cancelled: asked between steps.
            on_take: what is ready while the rest is being made, the first take alone and then as many as are computed at a
                time: called with a `Vamp` of these takes, each time but the last. On a CPU it is a tenth longer in all.

        Returns:
            A `Vamp`.

        Raises:
            AudioError: audio that cannot be used (a ValueError).
            ValueError: options that do not fit the clip: fewer bars than asked for, a region behind its end, a mask of another
                shape than the clip's tokens.
            CancelledError: `cancelled()` was True.
        """
        prompt, sampling, watch = prompt or Prompt(), sampling or self.sampling, Watch(on_step, cancelled)
        if isinstance(takes, bool) or not isinstance(takes, int) or not 1 <= takes <= MOST_TAKES:
            raise ValueError(
                Sentence("takes must be a whole number from 1 to {most}, not {takes!r}.", takes=takes, most=MOST_TAKES)
            )
        seed = whole_seed(seed)
        loop, extend = bool(loop), added_seconds(extend)
        track = prompt.needs_beats and mask is None
        if isinstance(source, Clip):
            clip = self._heard(source, beats, track)
            loop, bars = clip.loop, clip.bars
        else:
            clip = self.listen(source, loop=loop, bars=bars, beats=beats, track=track, on_step=on_step, cancelled=cancelled)
        painted = mask is not None
        mask = mask if painted else self.mask_of_clip(clip, prompt, seed)
        if any(extend):
            clip = longer(clip, extend, self.codec)
            mask = mask if painted else clip.extension.mask(mask)
        if mask.shape != clip.tokens.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"The mask must be bool {tuple(clip.tokens.shape)} for this clip, not {mask.dtype} {tuple(mask.shape)}."
            )
        tokens = clip.tokens
        if clip.extension is not None:
            mask = mask | clip.extension.made()
            tokens = tokens.masked_fill(clip.extension.made(), MASK)  # silence is none of the clip's palette
        vamp = Vamp(
            clip.signal, [], clip.tokens[:0], clip.tokens, mask, prompt, sampling, seed, loop, self.name, self.grid, bars,
            clip.beats, painted, extend, self.precision,
        )  # fmt: skip
        stays, gain = mask if prompt.original_sound else None, None
        groups = [range(takes)] if on_take is None else _one_first(takes, batch or items_at_a_time(self.precision, self.device))
        for part, group in enumerate(groups):
            made = self.generate(
                tokens, mask, sampling, [(seed, i) for i in group],
                loop=loop, batch=batch, on_step=part_of(on_step, part, len(groups)), cancelled=cancelled,
            )  # fmt: skip
            watch("decode", group.start, takes)
            gain = self.kept_gain(clip, clip.tokens, mask, prompt.original_sound) if part == 0 else gain
            rendered = list(vamp.takes)
            for item in made.split(1):
                watch("decode", len(rendered), takes)
                rendered.append(self.render(clip, item, gain, stays, sampling.balance))
            vamp = dataclasses.replace(vamp, takes=rendered, tokens=torch.cat([vamp.tokens, made]))
            if group.stop < takes:
                on_take(vamp)
        watch("decode", takes, takes)
        return vamp

    def listen(
        self,
        source: Any,
        *,
        loop: bool = False,
        bars: int | str | None = None,
        beats: BeatGrid | None = None,
        track: bool = False,
        extend: tuple[float, float] = (0.0, 0.0),
        on_step: OnStep | None = None,
        cancelled: Cancelled | None = None,
    ) -> Clip:
        """The first half of `vamp`: a source as the models hear it, ready for a mask, `generate` and `render`.

        Args:
            source, loop, bars, beats: as in `vamp`.
            track: track the beats if they are not given; whole bars need them anyway.
            extend: as in `vamp`; a mask of the clip itself becomes that of the whole by `clip.extension.mask`.
            on_step, cancelled: as in `vamp`; stages "beats" and "encode".

        Raises:
            AudioError, ValueError, CancelledError: as `vamp`.
        """
        watch, loop, extend = Watch(on_step, cancelled), bool(loop), added_seconds(extend)
        if bars not in (None, "all") and (isinstance(bars, bool) or not isinstance(bars, int) or bars < 1):
            raise ValueError(f"bars must be a whole number of at least 1, 'all' or None, not {bars!r}.")
        loaded = audio.load(source, self.grid.sample_rate)
        if beats is None and (bars is not None or track):
            watch("beats", 0, 1)
            beats = self._track(loaded)
            watch("beats", 1, 1)
        signal, beats = loops.cut_to_bars(loaded, beats, bars)
        del loaded  # of which the bars are a copy
        watch("encode", 0, 1)
        mono, image = stereo.split(signal, loop)
        clip = Clip(signal, self._encode(mono, loop), image, audio.measure_loudness(signal), loop, bars, beats)
        watch("encode", 1, 1)
        return longer(clip, extend, self.codec) if any(extend) else clip

    def _heard(self, clip: Clip, beats: BeatGrid | None, track: bool) -> Clip:
        """A clip that was heard before, with its beats if they are needed."""
        if clip.extension is not None:
            raise ValueError(Sentence("This clip was made longer already: begin with the clip itself."))
        if clip.beats is None and (track or beats is not None):
            clip = dataclasses.replace(clip, beats=beats or self._track(clip.signal))
        return clip

    def render(
        self,
        clip: Clip,
        tokens: Tensor,
        gain_db: float | None = None,
        mask: Tensor | None = None,
        balance: float = 0.0,
    ) -> AudioSignal:
        """The last step of `vamp`: tokens made for a clip, with its stereo image, its loudness and its exact length.

        Args:
            clip: of `listen`.
            tokens: (1, K, T) int64, as many time steps as the clip's.
            gain_db: what brings the decoded tokens to their level; by default what gives them the clip's loudness, or between
                pieces of the clip the level of these (`kept_gain`).
            mask: (1, K, T) bool, True = was made anew: then what stays in one piece is the clip's own sound
                (`original.pieces`). None = all is decoded.
            balance: as of `Sampling`: how far a take that is as loud as the clip is made as bright as it, too.

        Returns:
            AudioSignal (1, C, N) on the CPU, its true peak at most at `audio.CEILING_DBTP`, or where sound of the clip stays,
            at the clip's own if that is higher (`original.put_back`).

        Raises:
            ValueError: as `decode`.
        """
        found = [] if mask is None else original.pieces(mask, self.grid, clip.loop)
        if not found:
            as_a_whole = gain_db is None and clip.extension is None
            take = self.unlevelled(clip, tokens, self._balance_of(clip, balance) if as_a_whole else None)
            return audio.restore_loudness(take, clip.lufs, loop=clip.loop, gain_db=gain_db, in_place=True)
        gain_db = self.kept_gain(clip, clip.tokens, mask, original_sound=True) if gain_db is None else gain_db
        # Without the clip's offset there would be a thump where it ends. What was added to it has none.
        out, offset = scratch.copy(clip.signal.audio_data), offset_of(clip.signal.audio_data[..., clip.own])
        for first, sound in self.decode_around(clip, tokens, found):
            around = clip.loop and sound.audio_data.shape[-1] == out.shape[-1]
            sound = audio.restore_loudness(sound, clip.lufs, loop=around, gain_db=gain_db, in_place=True)
            original.lay(out, sound.audio_data + offset, first)
        return self._with_original(audio.make_signal(out, clip.signal.sample_rate), clip, found)

    def _balance_of(self, clip: Clip, share: float) -> Balance | None:
        """`balance` of a clip's tokens, which several takes ask for."""
        if not share:
            return None
        if clip not in _balances:
            _balances[clip] = self.balance(clip.tokens, clip.loop)
        found = _balances[clip]
        return None if found is None else dataclasses.replace(found, share=share)

    def decode_around(
        self, clip: Clip, tokens: Tensor, found: Sequence[original.Stretch]
    ) -> Iterator[tuple[int, AudioSignal]]:  # fmt: skip
        """What is heard of tokens (1, K, T) where these stretches of a clip are not, and somewhat more (`original.around`).

        Yields:
            The first sample, and (1, C, n) as `unlevelled` gives it; on a ring it may go on behind its end.
        """
        steps = tokens.shape[-1]
        for part in original.around(found, steps, clip.loop):
            whole = part[1] - part[0] == steps
            yield (0, self.unlevelled(clip, tokens)) if whole else self._stretch(clip, tokens, part)

    def unlevelled(self, clip: Clip, tokens: Tensor, balance: Balance | None = None) -> AudioSignal:
        """`render` without its last step: with its ends, its seam and its stereo image, at the codec's level."""
        take = self._in_image(clip, tokens, balance)
        if clip.loop:
            # All steps are made around the ring, so this is for a chance in ten thousand: no larger step may lie at the seam.
            across, inside = loops.seam_step(take)
            if across > inside:
                take = loops.close_seam(take, always=True)
        else:
            take = loops.settle_ends(take, clip.signal)
        return take

    def _in_image(self, clip: Clip, tokens: Tensor, balance: Balance | None = None) -> AudioSignal:
        steps, length = tokens.shape[-1], clip.image.length
        if clip.loop and not may_be_ring(steps, length, self.grid.hop):
            raise ValueError(f"{steps} time steps are not the tokens of this ring, which has {length} samples.")
        return stereo.apply(self.decode(tokens, clip.loop, clip.image.length, balance), clip.image, clip.loop)

    def kept_gain(self, clip: Clip, tokens: Tensor, mask: Tensor, original_sound: bool = False) -> float | None:
        """The gain for `render` under which what stays sounds as loud as it was; None where that is
        the clip's own loudness: nothing stays in one piece, or everything.

        A take as a whole is as loud as its source. Where a second of it stays and the rest gets louder, that second would get
        softer, which is heard at once where the take is put in the place of its source.

        Args:
            clip: of `listen`.
            tokens: (1, K, T) int64, as loud as the clip, of which the mask keeps some.
            mask: (1, K, T) bool, True = was made anew.
            original_sound: for a take that is decoded only around that.
        """
        found = original.pieces(mask, self.grid, clip.loop)
        if not found:
            return None
        if original_sound:
            return self._gain_around(clip, tokens, found)
        own = self._in_image(clip, tokens)
        if clip.extension is not None:
            # The clip's loudness is that of the clip alone.
            first = clip.extension.offset
            own = audio.make_signal(own.audio_data[..., first : first + clip.extension.samples], own.sample_rate)
        gain = clip.lufs - audio.measure_loudness(own)
        return gain if math.isfinite(gain) else None

    def _gain_around(self, clip: Clip, tokens: Tensor, found: Sequence[original.Stretch]) -> float | None:
        """What brings the clip's own tokens around these pieces to the level that the clip has there."""
        length, own, theirs = clip.signal.audio_data.shape[-1], [], []
        for first, sound in self.decode_around(clip, tokens, found):
            own.append(sound.audio_data)
            theirs.append(clip.signal.audio_data[..., torch.arange(first, first + sound.audio_data.shape[-1]) % length])
        lufs = (audio.measure_loudness(audio.make_signal(torch.cat(x, dim=-1), self.grid.sample_rate)) for x in (theirs, own))
        gain = next(lufs) - next(lufs)
        # In silence there is nothing to compare: what was taken off before the codec.
        gain = gain if math.isfinite(gain) else clip.lufs - audio.CODEC_LUFS
        return gain if math.isfinite(gain) else None

    def hear_kept(self, clip: Clip, mask: Tensor, original_sound: bool = True) -> AudioSignal:
        """What a mask (1, K, T) bool keeps of a clip, as sound; see `kept.kept_sound`. With `original_sound`, pieces are the
        clip's own, as in a take."""
        found = original.pieces(mask, self.grid, clip.loop) if original_sound else []
        parts = original.around(found, mask.shape[-1], clip.loop) if found else None
        sound = self._code(lambda codec, _: kept_sound(codec, clip, mask, parts))
        return self._with_original(sound, clip, found)

    def _with_original(self, take: AudioSignal, clip: Clip, found: Sequence[original.Stretch]) -> AudioSignal:
        """The take (1, C, N), written over, with the clip's own sound in these pieces."""
        steps = clip.tokens.shape[-1]
        return original.put_back(take, [clip.signal], found, steps, self.grid.hop, clip.loop) if found else take

    def _stretch(self, clip: Clip, tokens: Tensor, part: original.Stretch) -> tuple[int, AudioSignal]:
        """The first sample of a stretch of time steps, which on a ring may go on behind its end, and how it sounds there,
        (1, C, n) in the clip's image, at the codec's level."""
        start, end, _ = part
        steps, length, hop = tokens.shape[-1], clip.image.length, self.grid.hop
        sound = self.decode(tokens[..., torch.arange(start, end) % steps])
        first, last = start * hop, end * hop if clip.loop else min(length, end * hop)
        if clip.loop and length != steps * hop:
            stride = length / steps
            first, last = math.ceil(start * stride), math.floor(end * stride)
            wave = between(sound.audio_data, (first / stride - start) * hop, hop / stride, last - first)
        else:
            wave = sound.audio_data[..., : last - first]
        sound = audio.make_signal(wave, self.grid.sample_rate)
        sound = stereo.apply(sound, stereo.part(clip.image, first, last - first))
        # Where a stretch ends within the clip this is fades in what is thrown away.
        return first, sound if clip.loop else loops.settle_ends(sound, clip.signal)

    def mask_of_clip(self, clip: Clip, prompt: Prompt, seed: int) -> Tensor:
        """`mask` for a clip of `listen`: the times of a ring are turned into those of its whole time steps.

        Raises:
            ValueError: as `mask`.
        """
        length = clip.signal.audio_data.shape[-1]
        stretch = self.grid.tokens_to_samples(clip.tokens.shape[-1]) / length if clip.loop else 1.0
        if clip.loop and prompt.region is not None:
            # What lies in the ring lies in its tokens, be these a little shorter.
            start, end = prompt.region
            last = (clip.tokens.shape[-1] - 0.5) / self.grid.tokens_per_second
            if last < start < length / self.grid.sample_rate:
                prompt = dataclasses.replace(prompt, region=(last, max(end, last + 1e-6)))
        onsets = [time * stretch for time in self._onsets(clip.signal)] if prompt.needs_onsets else None
        times = None if clip.beats is None else [time * stretch for time in clip.beats.beats]
        return self.mask(clip.tokens, prompt, None, times, onsets, seed, clip.loop)
