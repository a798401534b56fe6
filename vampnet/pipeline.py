"""`VampNet`: audio -> tokens -> prompt -> coarse sampler -> fine sampler -> audio, N takes of it.

A model hears one channel at -24 LUFS in whole time steps. What a source has beyond that (its stereo image, its loudness, its
exact length) is taken off before the codec and given to every take after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vampnet import audio, beats, checkpoints, loops, stereo
from vampnet.beats import BeatGrid
from vampnet.config import Prompt, Sampling, TokenGrid
from vampnet.device import usable_device
from vampnet.extend import longer
from vampnet.fallback import within_memory
from vampnet.generate import generate
from vampnet.kept import kept_sound
from vampnet.model.fast import codec_in_precision, in_precision, items_at_a_time
from vampnet.progress import Cancelled, OnDownload, OnStep, Watch
from vampnet.prompt import build_mask
from vampnet.ring import ring_resample, whole_steps
from vampnet.sentences import Sentence
from vampnet.vamp import Clip, Vamp

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.codec import Codec


class VampNet:
    """A codec and the two transformers that fill its tokens (DESIGN, section 1).

    Args:
        codec: in eval mode.
        coarse: transformer of the coarse levels, in eval mode, such as `model.transformer.TokenTransformer`.
        fine: transformer of all levels that is given the coarse ones, in eval mode.
        name: of the checkpoint, for people.
        device: all three are moved there.
        precision: of the arithmetic: see `model.fast.in_precision` and `codec_in_precision`.

    Raises:
        ValueError: a precision that there is not, or not on this device.
    """

    def __init__(
        self, codec: Codec, coarse: nn.Module, fine: nn.Module, name: str = "model", device: str | torch.device = "cpu",
        precision: str = "float32",
    ) -> None:  # fmt: skip
        self.coarse, self.fine = (in_precision(model, precision, device) for model in (coarse, fine))
        self.precision = getattr(self.coarse, "precision", "float32")
        self.codec = codec_in_precision(codec.to(device), self.precision, device)
        self.name = name
        self.device = torch.device(device)

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
            precision: "float32", "bfloat16" or "int8" arithmetic in the transformers; "auto" = int8 on CPUs that have
                instructions for it, else float32. The same seed gives other takes in another precision, as good as these.

        Raises:
            FileNotFoundError: no such checkpoint, or it cannot be had without a network.
            ValueError: a damaged checkpoint, or a device that cannot be used.
        """
        chosen = usable_device(device)
        models = checkpoints.load(
            name, chosen, revision=revision, codec=codec, coarse=coarse, fine=fine, on_download=on_download
        )
        return cls(models.codec, models.coarse, models.fine, models.name, chosen, precision)

    @property
    def grid(self) -> TokenGrid:
        """Seconds, samples and time steps of the codec."""
        return TokenGrid(self.codec.sample_rate, self.codec.hop)

    @property
    def codec_id(self) -> str:
        """16 hex digits that name the codec: tokens mean something to this codec alone. Of its codebooks' SHA-256."""
        vectors = self.codec.codebook_vectors().detach().to("cpu", torch.float32).contiguous()
        return hashlib.sha256(vectors.numpy().astype("<f4").tobytes()).hexdigest()[:16]

    # ---- the steps, one at a time -------------------------------------------------------------------------------------

    def encode(self, signal: Any, loop: bool = False) -> Tensor:
        """Audio to tokens; level and stereo image are taken off.

        Args:
            signal: anything that `audio.load` takes.
            loop: the clip is a ring, of the nearest number of whole time steps.

        Returns:
            (1, K, T) int64 on the CPU; T = ceil(N / hop), for a ring the whole number nearest to N / hop.

        Raises:
            AudioError: audio that cannot be used (a ValueError).
        """
        return self._encode(stereo.split(audio.load(signal, self.grid.sample_rate), loop)[0], loop)

    def decode(self, tokens: Tensor, loop: bool = False, length: int | None = None) -> AudioSignal:
        """Tokens to audio of one channel, at the codec's level of about -24 LUFS.

        Args:
            tokens: (B, K, T) int64 codes.
            loop: the clip is a ring: its end flows into its beginning.
            length: samples N wanted, at most T * hop; a ring is stretched to it, in either direction. None = T * hop.

        Returns:
            AudioSignal (B, 1, N) on the CPU.

        Raises:
            ValueError: tokens that the codec does not know, a length that they do not have, or a codec that makes no sound of
                them because its weights are damaged.
        """
        levels, codes = self.codec.n_codebooks, self.codec.codebook_size
        if tokens.dtype != torch.int64 or tokens.dim() != 3 or tokens.shape[1] != levels or 0 in tokens.shape:
            raise ValueError(
                f"Tokens must be int64 (batch, {levels}, steps), not {tokens.dtype} of shape {tuple(tokens.shape)}."
            )
        if int(tokens.min()) < 0 or int(tokens.max()) >= codes:
            raise ValueError(f"Tokens must lie in 0..{codes - 1}: generate what is masked before decoding.")
        made = self.grid.tokens_to_samples(tokens.shape[-1])
        length = made if length is None else length
        if length < 1 or (length > made and not loop):
            raise ValueError(f"{tokens.shape[-1]} time steps are {made} samples: ask for 1 to {made}, not {length}.")
        wave = self._code(lambda codec, device: codec.decode(tokens.to(device), loop=loop).float().cpu())
        if not bool(wave.isfinite().all()):
            raise ValueError(Sentence("The codec's samples are not finite: its weights are damaged, get them again."))
        return audio.make_signal(ring_resample(wave, length) if loop else wave[..., :length], self.grid.sample_rate)

    def mask(
        self,
        tokens: Tensor,
        prompt: Prompt,
        signal: AudioSignal | None = None,
        beats: BeatGrid | Sequence[float] | None = None,
        onsets: Sequence[float] | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The mask of a prompt for a clip.

        Args:
            tokens: (B, K, T), of which the shape is looked at.
            prompt: what stays.
            signal: (1, C, N), the clip itself: beats and onsets are tracked in it if the prompt needs them and they are not
                given.
            beats: in seconds.
            onsets: in seconds.
            seed: of the dropout.

        Returns:
            (1, K, T) bool on the CPU, True = regenerate.

        Raises:
            ValueError: the prompt needs beats or onsets and there is nothing to find them in; its region lies behind the end.
        """
        if prompt.needs_beats and beats is None and signal is not None:
            beats = self._track(signal)
        if prompt.needs_onsets and onsets is None and signal is not None:
            onsets = self._onsets(signal)
        times = beats.beats if isinstance(beats, BeatGrid) else beats
        return build_mask(prompt, (tokens.shape[1], tokens.shape[2]), self.grid, times, onsets, seed)

    def generate(
        self,
        tokens: Tensor,
        mask: Tensor,
        sampling: Sampling | None = None,
        seeds: Sequence[int | tuple[int, int]] = (0,),
        *,
        loop: bool = False,
        batch: int | None = None,
        on_step: OnStep | None = None,
        cancelled: Cancelled | None = None,
    ) -> Tensor:
        """Regenerates the masked tokens, once for each of `seeds`.

        Args:
            tokens: (1 or len(seeds), K, T) int64 codes.
            mask: (1 or len(seeds), K, T) bool, True = regenerate.
            sampling: how; None = the defaults.
            seeds: for each result a pair (seed, i), which gives what take i (from 0) of a vamp with that seed gets, or a whole
                number s, short for (s, 0). A result depends on its own pair alone.
            loop: the clip is a ring.
            batch: results that the models see at a time: more is faster on a GPU, and in rare cases rounding then makes a
                result depend on the ones beside it. None = `fast.items_at_a_time`.
            on_step: progress of the stages "coarse" and "fine"; with several seeds once for each of them.
            cancelled: asked before every step.

        Returns:
            (len(seeds), K, T) int64 on the CPU: kept tokens unchanged, no MASK.

        Raises:
            ValueError: no seeds, or tokens and masks that do not fit the models.
            CancelledError: `cancelled()` was True.
            MemoryShortage: too little of it even for a smaller `batch` on the CPU (a ValueError).
        """
        pairs = [(seed, 0) if isinstance(seed, int) else tuple(seed) for seed in seeds]
        if not pairs:
            raise ValueError("Generating needs at least one seed.")
        out: dict[int, Tensor] = {}
        for seed in dict.fromkeys(seed for seed, _ in pairs):
            rows = [row for row, pair in enumerate(pairs) if pair[0] == seed]
            given, todo = (x if x.shape[0] == 1 else x[rows] for x in (tokens, mask))
            who = seed, [pairs[row][1] for row in rows]
            rest = {"batch": batch, "loop": loop, "on_step": on_step, "cancelled": cancelled}
            out.update(zip(rows, self._generate(given, todo, sampling or Sampling(), *who, **rest), strict=True))
        return torch.stack([out[row] for row in range(len(pairs))])

    # ---- all of it ----------------------------------------------------------------------------------------------------

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
    ) -> Vamp:
        """Takes of a clip: the prompt's part of it stays, the models make the rest anew.

        Args:
            source: anything that `audio.load` takes: a path, an AudioSignal, (rate, array), (tensor, rate).
            prompt: what stays; None = the defaults. Its seconds count from the start of what is vamped.
            sampling: how the rest is filled; None = the defaults.
            takes: how many, at least 1.
            seed: take i depends on (seed, i), not on how many there are.
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

        Returns:
            A `Vamp`.

        Raises:
            AudioError: audio that cannot be used (a ValueError).
            ValueError: options that do not fit the clip: fewer bars than asked for, a region behind its end, a mask of another
                shape than the clip's tokens.
            CancelledError: `cancelled()` was True.
        """
        prompt, sampling, watch = prompt or Prompt(), sampling or Sampling(), Watch(on_step, cancelled)
        if isinstance(takes, bool) or not isinstance(takes, int) or takes < 1:
            raise ValueError(Sentence("takes must be a whole number of at least 1, not {takes!r}.", takes=takes))
        track = prompt.needs_beats and mask is None
        clip = self.listen(source, loop=loop, bars=bars, beats=beats, track=track, on_step=on_step, cancelled=cancelled)
        painted, extend = mask is not None, tuple(float(value) for value in extend)
        mask = mask if painted else self.mask_of_clip(clip, prompt, seed)
        if any(extend):
            clip = longer(clip, extend, self.codec)
            mask = mask if painted else clip.extension.mask(mask)
        if mask.shape != clip.tokens.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"The mask must be bool {tuple(clip.tokens.shape)} for this clip, not {mask.dtype} {tuple(mask.shape)}."
            )
        if clip.extension is not None:
            mask = mask | clip.extension.made()
        made = self.generate(
            clip.tokens, mask, sampling, [(seed, i) for i in range(takes)],
            loop=loop, batch=batch, on_step=on_step, cancelled=cancelled,
        )  # fmt: skip
        rendered = []
        for i in range(takes):
            watch("decode", i, takes)
            rendered.append(self.render(clip, made[i : i + 1]))
        watch("decode", takes, takes)
        return Vamp(
            clip.signal, rendered, made, clip.tokens, mask, prompt, sampling, seed, loop, self.name, self.grid, bars,
            clip.beats, painted, extend, self.precision,
        )  # fmt: skip

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
        watch = Watch(on_step, cancelled)
        if bars not in (None, "all") and (isinstance(bars, bool) or not isinstance(bars, int) or bars < 1):
            raise ValueError(f"bars must be a whole number of at least 1, 'all' or None, not {bars!r}.")
        loaded = audio.load(source, self.grid.sample_rate)
        if beats is None and (bars is not None or track):
            watch("beats", 0, 1)
            beats = self._track(loaded)
            watch("beats", 1, 1)
        signal, beats = loops.cut_to_bars(loaded, beats, bars)
        watch("encode", 0, 1)
        mono, image = stereo.split(signal, loop)
        clip = Clip(signal, self._encode(mono, loop), image, audio.measure_loudness(signal), loop, bars, beats)
        watch("encode", 1, 1)
        return longer(clip, extend, self.codec) if any(extend) else clip

    def render(self, clip: Clip, tokens: Tensor) -> AudioSignal:
        """The last step of `vamp`: tokens made for a clip, with its stereo image, its loudness and its exact length.

        Args:
            clip: of `listen`.
            tokens: (1, K, T) int64, as many time steps as the clip's.

        Returns:
            AudioSignal (1, C, N) on the CPU, its true peak at most at `audio.CEILING_DBTP`.

        Raises:
            ValueError: as `decode`.
        """
        take = stereo.apply(self.decode(tokens, clip.loop, clip.image.length), clip.image, clip.loop)
        if clip.loop:
            # All steps are made around the ring, so this is for a chance in ten thousand: no larger step may lie at the seam.
            across, inside = loops.seam_step(take)
            if across > inside:
                take = loops.close_seam(take, always=True)
        return audio.restore_loudness(take, clip.lufs, loop=clip.loop)

    def hear_kept(self, clip: Clip, mask: Tensor) -> AudioSignal:
        """What a mask (1, K, T) bool keeps of a clip, as sound; see `kept.kept_sound`."""
        return self._code(lambda codec, _: kept_sound(codec, clip, mask))

    def mask_of_clip(self, clip: Clip, prompt: Prompt, seed: int) -> Tensor:
        """`mask` for a clip of `listen`: the times of a ring are turned into those of its whole time steps.

        Raises:
            ValueError: as `mask`.
        """
        length = clip.signal.audio_data.shape[-1]
        stretch = self.grid.tokens_to_samples(clip.tokens.shape[-1]) / length if clip.loop else 1.0
        onsets = [time * stretch for time in self._onsets(clip.signal)] if prompt.needs_onsets else None
        times = None if clip.beats is None else [time * stretch for time in clip.beats.beats]
        return self.mask(clip.tokens, prompt, None, times, onsets, seed)

    # ---- parts of these -----------------------------------------------------------------------------------------------

    def _generate(self, tokens: Tensor, mask: Tensor, sampling: Sampling, *who: Any, batch: int | None, **rest: Any) -> Tensor:
        """The takes of one seed; `who` is the seed and the numbers of the takes."""

        def work(models: Sequence[nn.Module], device: torch.device, batch: int) -> Tensor:
            return generate(*models, tokens.to(device), mask.to(device), sampling, *who, batch=batch, **rest).cpu()

        batch = items_at_a_time(self.precision) if batch is None else batch
        return within_memory(work, (self.coarse, self.fine), self.device, min(batch, len(who[1])))

    def _encode(self, mono: AudioSignal, loop: bool) -> Tensor:
        wave = audio.to_codec_level(mono)[0].audio_data
        if loop:
            wave = ring_resample(wave, whole_steps(wave.shape[-1], self.grid.hop))
        return self._code(lambda codec, device: codec.encode(wave.to(device), loop=loop).cpu())

    def _code(self, work: Callable[[Codec, torch.device], Any]) -> Any:
        """`work(codec, device)`, where memory is short on the CPU."""
        return within_memory(lambda models, device, _: work(models[0], device), (self.codec,), self.device)

    def _track(self, signal: AudioSignal) -> BeatGrid:
        return beats.track(signal, device=self.device if self.device.type == "cuda" else "cpu")

    def _onsets(self, signal: AudioSignal) -> tuple[float, ...]:
        return beats.onsets(signal)
