"""What the codec's training minimises: the squared error of log magnitudes, the mel distance, the quantizer's losses."""

from __future__ import annotations

import logging
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codec import SpectralCodec
from ..first_import import import_librosa
from .loop import in_bfloat16
from .settings import CodecTraining

log = logging.getLogger(__name__)


class CodecLoss:
    """Squared error of log magnitudes, mel distance of magnitudes, and the quantizer's losses."""

    def __init__(self, codec: SpectralCodec, settings: CodecTraining, device: torch.device | str = "cpu") -> None:
        mel, c = import_librosa().filters.mel, codec.config
        self.codec, self.settings = codec, settings
        self.mels = [
            torch.from_numpy(mel(sr=c.sample_rate, n_fft=c.window, n_mels=n)).T.contiguous().to(device) for n in (150, 80)
        ]
        weight = torch.ones(c.features)
        weight[c.fine_bins :] = 0.5 * settings.levels_weight
        short = torch.full((c.short_frames * c.short_bands,), settings.levels_weight)
        self.weight = torch.cat([weight.repeat(c.frames), short]).to(device)
        # The quantizer too: level after level its many small steps leave half of a GPU's time to whoever starts them.
        self._encode, self._quantize, self._decode, self._compare = self._plain = (
            codec.encode_latents, codec.quantizer.forward, codec.decode_latents, self.distances
        )  # fmt: skip
        self._unproven = settings.compile and torch.device(device).type == "cuda"
        if self._unproven:
            compiled = (torch.compile(part, dynamic=False) for part in self._plain)
            self._encode, self._quantize, self._decode, self._compare = compiled

    def backward(self, audio: Tensor) -> dict[str, Tensor]:
        """The parts of the loss, with the gradients of the codec. Goes on uncompiled where the compiler fails."""
        try:
            loss, parts = self(audio)
            loss.backward()
        except Exception as error:
            if not self._unproven:
                raise
            log.warning("Going on without torch.compile, which fails here (%s: %s).", type(error).__name__, str(error)[:200])
            self._encode, self._quantize, self._decode, self._compare = self._plain
            self.codec.zero_grad(set_to_none=True)
            loss, parts = self(audio)
            loss.backward()
        self._unproven = False
        return parts

    def __call__(self, audio: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(B, T * hop) float -> the loss and its parts, which nobody has to wait for yet."""
        codec, s = self.codec, self.settings
        half = in_bfloat16(s.bfloat16, audio.device)
        with torch.no_grad():
            target = codec.features(audio)
        with torch.autocast(audio.device.type, torch.bfloat16, enabled=half):
            z = self._encode(target).float()
        # In float32: codes lie closer together than bfloat16 can tell apart.
        z_q, codes, _, commitment, codebook = self._quantize(z)
        with torch.autocast(audio.device.type, torch.bfloat16, enabled=half):
            out = self._decode(z_q).float()
        square, mel = self._compare(out, target)
        loss = square + s.mel_weight * mel + s.commitment_weight * commitment.mean() + s.codebook_weight * codebook.mean()
        self.codes = codes
        parts = {"square": square, "mel": mel, "commitment": commitment.mean(), "loss": loss}
        return loss, {name: part.detach() for name, part in parts.items()}

    def distances(self, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, inputs) each -> the squared error and the mel distance."""
        difference = out - target
        square = (difference.square() * self.weight).mean()
        if self.settings.fine_weight:
            square = square + self.settings.fine_weight * self._fine(difference)
        return square, self._mel(out, target)

    def _fine(self, difference: Tensor) -> Tensor:
        """Mean square of what a moving average over 41 bins of frequency leaves of a difference: where partials lie."""
        c = self.codec.config
        spectra = difference[..., : c.frames * c.features].reshape(-1, 1, c.features)[..., : c.fine_bins]
        return (spectra - F.avg_pool1d(F.pad(spectra, (20, 20), mode="reflect"), 41, stride=1)).square().mean()

    def _mel(self, out: Tensor, target: Tensor) -> Tensor:
        c = self.codec.config
        a, b = self.codec.magnitudes(out), self.codec.magnitudes(target)
        logs = [[(x @ m).clamp_min(1e-5).log10() for x in (a, b)] for m in self.mels]
        found = sum((x - y).abs().mean() for x, y in logs)
        if self.codec.short is None:
            return found
        first = c.frames * c.features
        # In log10, as the others.
        scale = self.codec.spread / (c.short_weight * math.log(10))
        return found + (out[..., first:] - target[..., first:]).abs().mean() * scale
