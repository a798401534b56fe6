"""The bundled codec: audio <-> 14 tokens every 768 samples, working at the token rate.

Audio becomes log magnitudes, two short-time spectra a time step (all bins up to `fine_hz`, bands of bins above it, where
the ear hears no pitch). A ConvNeXt encoder turns them into a latent, `dac`'s residual vector quantizer into tokens, and a
ConvNeXt decoder back into log magnitudes, whose phases fast Griffin-Lim finds.

A waveform codec of the published kind needs days of a GPU; this one trains on two cores and decodes faster than real time.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from dac.nn.quantize import ResidualVectorQuantize
from torch import Tensor, nn

from vampnet import passes, scratch
from vampnet.balance import Balance

from .bands import band_matrices, over_frequency
from .convnext import Block, ring_pad
from .described import DescribedCodec
from .envelope import ShortView, broad_bands
from .griffin_lim import frames_between, griffin_lim_pieces, spectrum
from .movement import Movement
from .quantize import residual_codes, weight_of
from .spectral_config import SpectralCodecConfig
from .tiled import TiledBlocks, can_be_tiled

PIECE = 1024
"""Time steps that are worked on at a time: what a clip takes beside its own samples does not grow with its length."""

FRAMES = 256
"""Spectra that are made at a time: beside each its samples, complex numbers and power are there."""


class SpectralCodec(DescribedCodec):
    """Audio <-> tokens. See the module's first lines and `SpectralCodecConfig`."""

    tiles: TiledBlocks | None = None
    """The decoder's blocks in int8, for a CPU."""

    def __init__(self, config: SpectralCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.project_in = nn.Linear(config.inputs, config.dim)
        self.project_out = nn.Linear(config.dim, config.inputs)

        def blocks(layers: int) -> nn.ModuleList:
            return nn.ModuleList(Block(config.dim, config.kernel, config.expansion, 0.1) for _ in range(layers))

        self.encoder = blocks(config.encoder_layers)
        self.decoder = blocks(config.decoder_layers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # dac still uses the former interface of weight_norm
            self.quantizer = ResidualVectorQuantize(
                input_dim=config.dim,
                n_codebooks=config.n_codebooks,
                codebook_size=config.codebook_size,
                codebook_dim=config.codebook_dim,
            )
        self.register_buffer("mean", torch.zeros(config.features))
        self.register_buffer("spread", torch.ones(()))
        self.short: ShortView | None = None
        if config.short_frames:
            hop = config.hop // config.short_frames
            self.short = ShortView(
                config.sample_rate, config.short_window, hop, config.short_bands, config.floor, config.short_slack,
                config.fine_hz,
            )  # fmt: skip
            self.register_buffer("short_mean", torch.zeros(config.short_bands))
        self.register_buffer("window", torch.hann_window(config.window), persistent=False)
        pool, spreader = band_matrices(config.window // 2 + 1 - config.fine_bins, config.bands)
        self.register_buffer("pool", pool, persistent=False)
        self.register_buffer("spreader", spreader, persistent=False)
        over_bins = broad_bands(config.sample_rate, config.window, config.short_bands)[1]
        over_bins = torch.cat([over_bins[:, : config.fine_bins], over_bins[:, config.fine_bins :] @ pool], dim=1)
        self.register_buffer("over_bins", over_bins, persistent=False)

    # ---- audio <-> features -----------------------------------------------------------------------------------------

    def features(self, audio: Tensor, loop: bool = False) -> Tensor:
        """(B, T * hop) float samples at -24 LUFS -> (B, T, inputs): normalised log magnitudes, then levels of short frames."""
        return torch.cat(list(self._features(audio, loop)), dim=1)

    def _features(self, audio: Tensor, loop: bool) -> Iterator[Tensor]:
        """`features`, PIECE time steps after PIECE time steps."""
        c = self.config
        steps = audio.shape[-1] // c.hop
        for start in range(0, steps, PIECE):
            stop = min(start + PIECE, steps)
            frames = frames_between(audio, c.window, c.hop // c.frames, loop, start * c.frames, stop * c.frames)
            made = torch.cat([self._log_magnitudes(some) for some in frames.split(FRAMES, dim=1)], dim=1)
            made = made.unflatten(1, (-1, c.frames)).flatten(2)
            if self.short is not None:
                levels = self.short.levels(self.short.frames(audio, loop, start * c.short_frames, stop * c.short_frames))
                levels = (levels - self.short_mean) * (c.short_weight / self.spread)
                made = torch.cat([made, levels.unflatten(1, (-1, c.short_frames)).flatten(2)], dim=2)
            yield made

    def _log_magnitudes(self, frames: Tensor) -> Tensor:
        """(B, J, window) samples -> (B, J, features)."""
        c = self.config
        power = torch.view_as_real(torch.fft.rfft(frames * self.window, dim=-1)).square().sum(-1)
        high = (power[..., c.fine_bins :] @ self.pool).sqrt()
        magnitudes = torch.cat([power[..., : c.fine_bins].sqrt(), high], dim=-1)
        return (torch.log(magnitudes + c.floor) - self.mean) / self.spread

    def magnitudes(self, features: Tensor) -> Tensor:
        """(B, T, inputs) features -> (B, T * frames, window / 2 + 1) magnitudes."""
        c = self.config
        logs = features[..., : c.frames * c.features].unflatten(2, (c.frames, c.features)).flatten(1, 2)
        logs = logs * self.spread + self.mean
        logs = torch.cat([logs[..., : c.fine_bins], logs[..., c.fine_bins :] @ self.spreader], dim=-1)
        return (torch.exp(logs.clamp(max=8.0)) - c.floor).clamp_min(0.0)

    def sharpened(self, magnitudes: Tensor) -> Tensor:
        """(B, J, window / 2 + 1) magnitudes with deeper valleys between partials, each neighbourhood with the power it had.

        A decoder that has learned the mean of all that may be makes spectra flatter than they are; the noise that Griffin-Lim
        adds, since no sound has just these magnitudes, fills what lies between partials. To raise the peaks too would take
        their power from all else.
        """
        c = self.config
        if c.sharpen == 1:
            return magnitudes
        fine, rest = magnitudes[..., : c.fine_bins], magnitudes[..., c.fine_bins :]
        logs = torch.log(fine + c.floor)
        smooth = over_frequency(logs)
        sharp = smooth + torch.where(logs < smooth, c.sharpen, 1.0) * (logs - smooth)
        before, after = (over_frequency(torch.exp(2 * x)) for x in (logs, sharp))
        sharp = torch.exp((sharp + 0.5 * torch.log((before + 1e-9) / (after + 1e-9))).clamp(max=9.0))
        return torch.cat([(sharp - c.floor).clamp_min(0.0), rest], dim=-1)

    def heard_magnitudes(self, features: Tensor) -> Tensor:
        """(B, T, inputs) features -> (B, T * frames, window / 2 + 1) magnitudes, sharpened: in one pass on a CPU."""
        c = self.config
        if features.device.type != "cpu":
            return self.sharpened(self.magnitudes(features))
        logs = features[..., : c.frames * c.features].reshape(-1, c.features)
        fine = torch.addcmul(self.mean[: c.fine_bins], logs[:, : c.fine_bins], self.spread)
        high = torch.addcmul(self.mean[c.fine_bins :], logs[:, c.fine_bins :], self.spread) @ self.spreader
        return passes.sharpened(fine, high, c.floor, c.sharpen).unflatten(0, (len(features), -1))

    def short_levels(self, features: Tensor) -> Tensor:
        """(B, T, inputs) features -> (B, T * short_frames, short_bands) levels, as of `ShortView.levels`."""
        c = self.config
        levels = features[..., c.frames * c.features :].unflatten(2, (c.short_frames, c.short_bands)).flatten(1, 2)
        return levels * (self.spread / c.short_weight) + self.short_mean

    # ---- features <-> latents <-> tokens -----------------------------------------------------------------------------

    def encode_latents(self, features: Tensor, loop: bool = False) -> Tensor:
        """(B, T, inputs) -> (B, dim, T), what the quantizer codes."""
        return self._through(self.encoder, self.project_in(features), loop).transpose(1, 2)

    def decode_latents(self, latents: Tensor, loop: bool = False) -> Tensor:
        """(B, dim, T) -> (B, T, inputs)."""
        return self.project_out(self._through(self.decoder, latents.transpose(1, 2), loop))

    def _through(self, blocks: nn.ModuleList, x: Tensor, loop: bool) -> Tensor:
        """(B, T, dim) through all blocks. A long clip goes in pieces, each with as much around it as the blocks hear."""
        reach, steps = sum(block.kernel // 2 for block in blocks), x.shape[1]
        if steps <= PIECE:
            for block in blocks:
                x = block(x, loop)
            return x
        around, out = ring_pad(x, reach) if loop else x, scratch.new_empty(x, *x.shape)
        for start in range(0, steps, PIECE):
            stop = min(start + PIECE, steps)
            # Beyond the ends of a clip every block hears zeros, not what the one before makes of them: no piece holds these.
            left, right = (reach, reach) if loop else (min(reach, start), min(reach, steps - stop))
            first = start if loop else start - left
            part = around[:, first : first + left + stop - start + right]
            for block in blocks:
                part = block(part)
            out[:, start:stop] = part[:, left : left + stop - start]
        return out

    def latents(self, codes: Tensor) -> Tensor:
        """(B, n, T) int64 codes of the n coarsest levels -> (B, T, dim), their sum as the decoder reads it.

        One product for all levels: the quantizer makes one each, and turns every one around.
        """
        levels = self.quantizer.quantizers[: codes.shape[1]]
        weight = torch.cat([weight_of(level.out_proj) for level in levels], dim=1)
        bias = sum(level.out_proj.bias for level in levels)
        out = scratch.new_empty(weight, len(codes), codes.shape[-1], len(weight))
        for start in range(0, codes.shape[-1], PIECE):
            piece = slice(start, start + PIECE)
            vectors = [level.codebook(codes[:, i, piece]) for i, level in enumerate(levels)]
            out[:, piece] = F.linear(torch.cat(vectors, dim=2), weight, bias)
        return out

    def with_tiles(self) -> None:
        """From now on the decoder's blocks are computed in int8 where the CPU has tiles for that (`TiledBlocks`)."""
        if can_be_tiled(self.decoder):
            self.tiles = TiledBlocks(self.decoder)

    def codebook_vectors(self) -> Tensor:
        """(n_codebooks, codebook_size, codebook_dim) float: the vectors that transformers read tokens with."""
        return torch.stack([q.codebook.weight.detach() for q in self.quantizer.quantizers])

    @torch.no_grad()
    def encode(self, audio: Tensor, loop: bool = False) -> Tensor:
        """Samples to tokens.

        Args:
            audio: (B, 1, N) float samples, about -24 LUFS; N is padded with silence to whole time steps.
            loop: the clip is a ring (N must then be whole time steps, or silence enters the ring).

        Returns:
            (B, n_codebooks, ceil(N / hop)) int64 in 0..codebook_size - 1.

        Raises:
            ValueError: the shape is not (B, 1, N) with N > 0.
        """
        if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[2] == 0:
            raise ValueError(f"The codec takes audio of shape (batch, 1, samples), not {tuple(audio.shape)}.")
        audio, missing = audio[:, 0], -audio.shape[-1] % self.hop
        if missing:
            given, audio = audio, scratch.new_empty(audio, len(audio), audio.shape[-1] + missing)
            audio[:, given.shape[-1] :] = 0
            scratch.write(audio[:, : given.shape[-1]], given)
        x = scratch.new_empty(audio, len(audio), audio.shape[-1] // self.hop, self.config.dim)
        for piece, made in zip(x.split(PIECE, dim=1), self._features(audio, loop), strict=True):
            piece.copy_(self.project_in(made))
        del audio
        return residual_codes(self.quantizer, self._through(self.encoder, x, loop))

    def _heard(self, codes: Tensor, loop: bool) -> Tensor:
        """(B, n, T) int64 codes of the n coarsest levels -> (B, T, dim), of which `project_out` makes features."""
        latents = self.latents(codes)
        if self.tiles is not None and codes.device.type == "cpu":
            return self.tiles(latents, loop)
        with self.arithmetic(codes.device):
            return self._through(self.decoder, latents, loop)

    def _levels(self, heard: Tensor) -> Tensor:
        """(B, T, dim) of `_heard` -> (B, T, short_bands): the levels of its bands in nepers, means over each time step."""
        c, given = self.config, self.project_out

        def over_step(x: Tensor) -> Tensor:
            # Of all that makes features of it nothing bends, so the mean over a step's frames goes first.
            return x[c.frames * c.features :].unflatten(0, (c.short_frames, c.short_bands)).mean(dim=0)

        weight, bias = over_step(given.weight), over_step(given.bias)
        made = torch.cat([F.linear(part.float(), weight, bias) for part in heard.split(PIECE, dim=1)], dim=1)
        return made.mul_(self.spread / c.short_weight).add_(self.short_mean)

    @torch.no_grad()
    def tonal_balance(self, codes: Tensor, loop: bool = False) -> Balance | None:
        """(B, n, T) int64 codes, as in `decode` -> their balance as decoded; None without a short view."""
        return None if self.short is None else Balance.of(self._levels(self._heard(codes, loop)), self._rate, loop)

    @property
    def _rate(self) -> float:
        return self.config.sample_rate / self.config.hop

    def _shift(self, gains: Tensor) -> Tensor:
        """(B, T, short_bands) gains in nepers -> (B, T, inputs), what they are in features."""
        c = self.config
        parts = [gains @ self.over_bins] * c.frames + [gains * c.short_weight] * c.short_frames
        return torch.cat(parts, dim=2).div_(self.spread)

    @torch.no_grad()
    def decode(self, codes: Tensor, loop: bool = False, balance: Balance | None = None) -> Tensor:
        """Tokens to samples.

        Args:
            codes: (B, n, T) int64 codes of the n coarsest levels, 1 <= n <= n_codebooks.
            loop: the clip is a ring; its end flows into its beginning.
            balance: what their tonal balance is brought to, by at most 3 dB; None = they keep their own.

        Returns:
            (B, 1, T * hop) float samples.
        """
        c = self.config
        heard = self._heard(codes, loop)
        gains = None if balance is None else balance.gains(self._levels(heard), self._rate, loop)
        frames, hop = codes.shape[-1] * c.frames, c.hop // c.frames
        moved = None if c.movement == c.flutter == 1 else Movement(self.project_out.weight, c)

        @functools.lru_cache(maxsize=1)  # a clip of one piece is asked for more than once
        def features(start: int, stop: int) -> Tensor:
            span = start // c.frames, stop // c.frames
            with self.arithmetic(codes.device):
                made = self.project_out(heard[:, slice(*span)]).float()
                if moved is not None:
                    made[..., : moved.rows] += moved(heard, *span, loop)
            return made if gains is None else made.add_(self._shift(gains[:, slice(*span)]))

        @functools.lru_cache(maxsize=1)
        def magnitudes(start: int, stop: int) -> Tensor:
            return self.heard_magnitudes(features(start, stop))

        def correct(audio: Tensor, spans: list[tuple[int, int]], loop: bool) -> Tensor:
            parts = [self.short_levels(features(*span)) for span in spans]
            return self.short.correct(audio, torch.cat(parts, dim=1), loop)

        search = functools.partial(
            griffin_lim_pieces, frames=frames, loop=loop, piece=PIECE * c.frames, context=48 // c.frames * c.frames,
            momentum=c.momentum,
        )  # fmt: skip
        final = {} if self.short is None else {"correct": correct}
        if not c.wide_rounds:
            return search(magnitudes, window=self.window, hop=hop, rounds=c.rounds, track=c.track, **final)[:, None]
        half = self.window[::2].contiguous()
        bins = c.window // 4

        def lower(start: int, stop: int) -> Tensor:
            # Half the samples, half the sum over a window. The bin at the new limit belongs to the other half.
            return F.pad(magnitudes(start, stop)[..., :bins] / 2, (0, 1))

        audio = search(lower, window=half, hop=hop // 2, rounds=c.rounds, track=c.track)
        scratch.tidy(4 * frames * hop)

        def phases(spans: list[tuple[int, int]], loop: bool) -> Tensor:
            parts = [audio[:, a * hop // 2 : b * hop // 2] for a, b in spans]
            return spectrum(torch.cat(parts, dim=1), half, hop // 2, loop)[..., :bins]

        return search(magnitudes, window=self.window, hop=hop, rounds=c.wide_rounds, start=phases, **final)[:, None]
