"""The stages of a vamp, one at a time: audio -> tokens, prompt -> mask, masked tokens -> new ones, tokens -> audio."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vampnet import audio, beats, checkpoints, fingerprint, scratch, stereo
from vampnet.balance import Balance
from vampnet.beats import BeatGrid
from vampnet.config import Prompt, Sampling, TokenGrid
from vampnet.fallback import within_memory
from vampnet.generate import generate
from vampnet.model.fast import codec_in_precision, in_precision, items_at_a_time
from vampnet.offset import without_offset
from vampnet.progress import Cancelled, OnStep
from vampnet.prompt import build_mask
from vampnet.ring import ring_resample, whole_steps
from vampnet.sentences import Sentence

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.codec import Codec


class Stages:
    """A codec and the two transformers that fill its tokens; `pipeline.VampNet` makes whole vamps with them.

    Args:
        codec: in eval mode.
        coarse: transformer of the coarse levels, in eval mode, such as `model.transformer.TokenTransformer`.
        fine: transformer of all levels that is given the coarse ones, in eval mode.
        name: of the checkpoint, for people.
        device: all three are moved there.
        precision: of the arithmetic: see `model.fast.in_precision` and `codec_in_precision`.
        sampling: how takes are drawn where nobody says otherwise; None = the defaults of `Sampling`.

    Raises:
        ValueError: a precision that there is not, or not on this device.
    """

    def __init__(
        self, codec: Codec, coarse: nn.Module, fine: nn.Module, name: str = "model", device: str | torch.device = "cpu",
        precision: str = "float32", sampling: Sampling | None = None,
    ) -> None:  # fmt: skip
        self.coarse, self.fine = (in_precision(model, precision, device) for model in (coarse, fine))
        self.precision = getattr(self.coarse, "precision", "float32")
        self.codec = codec_in_precision(codec.to(device), self.precision, device)
        self.name, self.sampling = name, sampling or Sampling()
        self.device = torch.device(device)
        self.paths: dict[str, Path] = {}

    @property
    def grid(self) -> TokenGrid:
        """Seconds, samples and time steps of the codec."""
        return TokenGrid(self.codec.sample_rate, self.codec.hop)

    @property
    def codec_id(self) -> str:
        """16 hex digits that name the codec: tokens mean something to this codec alone. Of its codebooks' SHA-256."""
        vectors = self.codec.codebook_vectors().detach().to("cpu", torch.float32).contiguous()
        return hashlib.sha256(vectors.numpy().astype("<f4").tobytes()).hexdigest()[:16]

    @property
    def weights_id(self) -> str:
        """16 hex digits that name the weights: where they were loaded from files, see `checkpoints.weights_id`; elsewhere by
        the tensors as they are, which differ by precision."""
        if self.paths:
            return checkpoints.weights_id(self.paths)
        return fingerprint.of_tensors(self.codec, self.coarse, self.fine)[:16]

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

    def balance(self, tokens: Tensor, loop: bool = False, share: float = 1.0) -> Balance | None:
        """What `decode` is given to bring the tonal balance of other tokens to that of these.

        Args:
            tokens: (1, K, T) int64 codes.
            loop: the clip is a ring.
            share: how much of the way, 0..1.

        Returns:
            None for codecs of waveforms, which know of no balance.
        """
        found = self._code(lambda codec, device: codec.tonal_balance(tokens.to(device), loop=loop))
        return None if found is None else found.to("cpu", share)

    def decode(
        self, tokens: Tensor, loop: bool = False, length: int | None = None, balance: Balance | None = None
    ) -> AudioSignal:  # fmt: skip
        """Tokens to audio of one channel, at the codec's level of about -24 LUFS.

        Args:
            tokens: (B, K, T) int64 codes.
            loop: the clip is a ring: its end flows into its beginning.
            length: samples N wanted, at most T * hop; a ring is stretched to it, in either direction. None = T * hop.
            balance: of `balance`: what their tonal balance is brought to, by at most 3 dB; None = they keep their own.

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
        how = {} if balance is None else {"balance": balance}  # which codecs of waveforms do not take
        scratch.tidy(4 * made)
        wave = self._code(lambda codec, device: codec.decode(tokens.to(device), loop=loop, **how).float().cpu())
        scratch.tidy(4 * made)
        if not all(bool(part.isfinite().all()) for part in scratch.parts(wave)):
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
        loop: bool = False,
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
            loop: the clip is a ring.

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
        return build_mask(prompt, (tokens.shape[1], tokens.shape[2]), self.grid, times, onsets, seed, loop=loop)

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
        pairs = [(int(seed), 0) if isinstance(seed, numbers.Integral) else tuple(seed) for seed in seeds]
        if not pairs:
            raise ValueError("Generating needs at least one seed.")
        for name, x in (("tokens", tokens), ("masks", mask)):
            if x.shape[0] not in (1, len(pairs)):
                raise ValueError(f"{len(pairs)} seeds need one item of {name} for all or one for each, not {x.shape[0]}.")
        out: dict[int, Tensor] = {}
        for seed in dict.fromkeys(seed for seed, _ in pairs):
            rows = [row for row, pair in enumerate(pairs) if pair[0] == seed]
            given, todo = (x if x.shape[0] == 1 else x[rows] for x in (tokens, mask))
            who = seed, [pairs[row][1] for row in rows]
            rest = {"batch": batch, "loop": loop, "on_step": on_step, "cancelled": cancelled}
            out.update(zip(rows, self._generate(given, todo, sampling or self.sampling, *who, **rest), strict=True))
        return torch.stack([out[row] for row in range(len(pairs))])

    # ---- parts of these -----------------------------------------------------------------------------------------------

    def _generate(self, tokens: Tensor, mask: Tensor, sampling: Sampling, *who: Any, batch: int | None, **rest: Any) -> Tensor:
        """The takes of one seed; `who` is the seed and the numbers of the takes."""

        def work(models: Sequence[nn.Module], device: torch.device, batch: int) -> Tensor:
            return generate(*models, tokens.to(device), mask.to(device), sampling, *who, batch=batch, **rest).cpu()

        batch = items_at_a_time(self.precision, self.device) if batch is None else batch
        return within_memory(work, (self.coarse, self.fine), self.device, min(batch, len(who[1])))

    def _encode(self, mono: AudioSignal, loop: bool) -> Tensor:
        """Tokens of what `stereo.split` gave, which is written over."""
        wave = audio.to_codec_level(without_offset(mono), in_place=True)[0].audio_data
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
