"""The shape of the bundled codec, and how it decodes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..config import CODEBOOK_SIZE, HOP, N_CODEBOOKS, SAMPLE_RATE


@dataclass(frozen=True)
class SpectralCodecConfig:
    """Shape of a spectral codec.

    Attributes:
        sample_rate: Hz.
        hop: samples a time step.
        window: samples of the analysis window (Hann).
        frames: spectra a time step.
        fine_hz: below it every bin is coded, above it `bands` bands.
        bands: bands above `fine_hz`.
        floor: added to a magnitude before its logarithm (the audio is at -24 LUFS, a full-scale sine has window / 4).
        dim: width of the latent and of the blocks.
        encoder_layers, decoder_layers: ConvNeXt blocks.
        kernel: time steps of a block's depthwise convolution (odd).
        expansion: hidden width of a block, in units of `dim`.
        n_codebooks, codebook_size, codebook_dim: of the quantizer.
        rounds: of Griffin-Lim when decoding.
        wide_rounds: so many rounds after these on the whole band, and the former on its lower half alone, at half the sample
            rate and half the price; 0 = all on the whole band.
        momentum: of Griffin-Lim.
        track: it begins with phases that go on from frame to frame; see `phases.track`.
        sharpen: factor on the depth of valleys between partials when decoding; see `SpectralCodec.sharpened`.
        movement, flutter: factors on how much the fine structure of spectra moves, and flutters, when decoding; see `movement`.
        short_frames: levels of broad bands are coded so many times a time step beside the spectra (see `envelope.ShortView`);
            0 = not at all.
        short_bands, short_window: of these.
        short_weight: how much they weigh beside the spectra, as a factor on their features.
        short_slack: see `envelope.ShortView`.
    """

    sample_rate: int = SAMPLE_RATE
    hop: int = HOP
    window: int = 2048
    frames: int = 2
    fine_hz: float = 11_025.0
    bands: int = 64
    floor: float = 1e-3
    dim: int = 320
    encoder_layers: int = 2
    decoder_layers: int = 4
    kernel: int = 9
    expansion: int = 3
    n_codebooks: int = N_CODEBOOKS
    codebook_size: int = CODEBOOK_SIZE
    codebook_dim: int = 8
    rounds: int = 32
    wide_rounds: int = 0
    momentum: float = 0.99
    track: bool = False
    sharpen: float = 1.0
    movement: float = 1.0
    flutter: float = 1.0
    short_frames: int = 0
    short_bands: int = 32
    short_window: int = 768
    short_weight: float = 1.5
    short_slack: float = 0.4

    def __post_init__(self) -> None:
        if self.hop % self.frames:
            raise ValueError(f"hop {self.hop} must be a multiple of frames {self.frames}.")
        if self.short_frames and self.hop % self.short_frames:
            raise ValueError(f"hop {self.hop} must be a multiple of short_frames {self.short_frames}.")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {self.kernel}.")
        if not 0 < self.sharpen <= 4:
            raise ValueError(f"sharpen must lie between 0 and 4, not {self.sharpen}.")
        if not (0 <= self.movement <= 4 and 0 <= self.flutter <= 4):
            raise ValueError(f"movement and flutter must lie between 0 and 4, not {self.movement} and {self.flutter}.")
        if not 0 < self.fine_hz < self.sample_rate / 2:
            raise ValueError(f"fine_hz must lie between 0 and {self.sample_rate / 2:.0f}, not {self.fine_hz}.")

    @property
    def fine_bins(self) -> int:
        """Bins from 0 Hz that are coded one by one."""
        return round(self.fine_hz * self.window / self.sample_rate)

    @property
    def features(self) -> int:
        """Log magnitudes of one spectrum."""
        return self.fine_bins + self.bands

    @property
    def inputs(self) -> int:
        """Features of a time step: those of its spectra, then the levels of its short frames."""
        return self.frames * self.features + self.short_frames * self.short_bands

    def to_dict(self) -> dict:
        """Plain fields, for config.json."""
        return dataclasses.asdict(self)
