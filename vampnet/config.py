"""Frozen, validated options: the only home of defaults in the package.

Seconds, milliseconds and semitones are for people; tokens are for the models. `TokenGrid` is the one place where the two meet.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vampnet.sentences import Sentence

MASK = 1024
"""Token id of a position that is still to be generated; real codes are 0..1023."""

PRECISIONS = ("float32", "bfloat16", "int8")
"""Of the transformers' arithmetic: see `model.fast.in_precision`."""

SAMPLE_RATE = 44_100
"""Samples a second of every codec here."""

HOP = 768
"""Samples a time step of the paper's codec (section 3.1 of the paper: 44.1 kHz, downsampling 768)."""

N_CODEBOOKS = 14
N_COARSE = 4
CODEBOOK_SIZE = 1024
BITS_PER_TOKEN = 10

MOST = 2**31 - 1
"""No number of an option may be larger, and no seed: files, browsers and arithmetic hold these exactly."""
LEAST_TEMPERATURE = 1e-3
MOST_GUIDANCE = 10
MOST_PALETTE = 2
MOST_RECALL = 2
BEFORE: dict[str, dict[str, Any]] = {
    "prompt": {"periodic_jitter": 0, "original_sound": False},
    "sampling": {"guidance": 0.0, "palette": 0.0, "recall": 0.0, "balance": 0.0},
}  # fmt: skip
"""What prompts and sampling were before there were options for it: older settings say nothing of them."""


class CancelledError(RuntimeError):
    """Raised between two sampling steps after the caller asked to stop; nothing is left half written."""


@dataclass(frozen=True)
class TokenGrid:
    """The arithmetic between seconds, samples and time steps of tokens.

    One time step covers `hop` samples; step t covers samples [t * hop, (t + 1) * hop).
    """

    sample_rate: int = SAMPLE_RATE
    hop: int = HOP

    def __post_init__(self) -> None:
        if self.sample_rate <= 0 or self.hop <= 0:
            raise ValueError(f"A token grid needs a positive sample rate and hop, not {self.sample_rate} and {self.hop}.")

    @property
    def tokens_per_second(self) -> float:
        """Time steps a second (57.42 for the paper's codec)."""
        return self.sample_rate / self.hop

    def samples_to_tokens(self, samples: int) -> int:
        """Time steps needed to cover `samples` (rounded up, so that no sample is lost)."""
        return -(-int(samples) // self.hop)

    def tokens_to_samples(self, tokens: int) -> int:
        """Samples that `tokens` time steps cover."""
        return int(tokens) * self.hop

    def seconds_to_samples(self, seconds: float) -> int:
        """The sample nearest to `seconds`."""
        return round(seconds * self.sample_rate)

    def samples_to_seconds(self, samples: int) -> float:
        """Seconds at the start of sample `samples`."""
        return samples / self.sample_rate

    def tokens_to_seconds(self, tokens: int) -> float:
        """Seconds at the start of time step `tokens`."""
        return self.tokens_to_samples(tokens) / self.sample_rate

    def token_at(self, seconds: float) -> int:
        """The time step that holds the moment `seconds`; `token_at(tokens_to_seconds(t)) == t` for every t.

        The moment is rounded to a sample first: without that, t * hop / rate * rate falls one ulp short for some t
        and a mask comes out one step early.
        """
        return self.seconds_to_samples(seconds) // self.hop

    def seconds_to_tokens(self, seconds: float) -> int:
        """Time steps nearest to a duration in seconds (1 s = 57 and 2 s = 115 on the paper's grid)."""
        return round(seconds * self.sample_rate / self.hop)


def _require(ok: bool, field: str, value: Any, pattern: str, **values: Any) -> None:
    """ValueError if something is not `ok`: the pattern with the name of an option, {field}, and its {value}."""
    if not ok:
        raise ValueError(Sentence(pattern, field=field, value=value, **values))


def _finite(value: float, name: str) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    _require(ok, name, value, "{field} must be a number, not {value!r}.")
    _at_most(value, name)


def _whole(value: int, name: str) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool)
    _require(ok, name, value, "{field} must be a whole number, not {value!r}.")
    _at_most(value, name)


def _at_most(value: float, name: str) -> None:
    _require(abs(value) <= MOST, name, value, "{field} must be a number up to {most}, and this is far from it.", most=MOST)


def whole_seed(seed: Any) -> int:
    """A seed as a plain int; ValueError if it is no whole number in 0..MOST."""
    ok = isinstance(seed, numbers.Integral) and not isinstance(seed, bool) and 0 <= seed <= MOST
    _require(ok, "seed", seed, "{field} must be a whole number from 0 to {most}, not {value!r}.", most=MOST)
    return int(seed)


@dataclass(frozen=True)
class Prompt:
    """What stays of the source (paper section 4). Everything that no field keeps is regenerated.

    The fields combine by union of what they keep; `dropout` then frees a share of the kept time steps and `region`, when
    given, keeps everything outside of it.

    Attributes:
        periodic: keep every P-th time step, up to `periodic_jitter` early or late; 0 = off, 1 = keep every step.
        periodic_width: how many steps in a row are kept at every period.
        periodic_offset: time steps by which the periodic pattern is shifted to the right.
        kept_codebooks: N_k of the compression prompt: the N_k coarsest levels stay everywhere, 0..14.
        prompt_codebooks: how many of the coarsest levels of a kept time step are kept, 1..14 (14 = all).
        prefix_seconds: seconds at the start that stay.
        suffix_seconds: seconds at the end that stay.
        beat_width_ms: milliseconds that stay from each beat on (the paper: about 75), and the time step before it, in which its
            attack can be heard already; 0 = off.
        onset_width_ms: the same from each onset on; 0 = off.
        dropout: share of the kept time steps that is freed again, 0..1, drawn without replacement.
        region: (start, end) in seconds: only inside of it anything is regenerated.
        periodic_jitter: time steps by which each step that the period keeps may come early or late; see `masks.periodic`. The
            paper keeps even distances (0); with uneven ones takes keep more of fast rhythms (docs/log.md).
        original_sound: what stays in one piece of half a second or more, in all levels, is the source's own sound and not what
            the codec makes of it; where all of it stays, all is decoded. False = everything is decoded, as in the paper.

    Raises:
        ValueError: a field is out of its range; the sentence says which and what is allowed.
    """

    periodic: int = 7
    periodic_width: int = 1
    periodic_offset: int = 0
    kept_codebooks: int = 0
    prompt_codebooks: int = N_CODEBOOKS
    prefix_seconds: float = 0.0
    suffix_seconds: float = 0.0
    beat_width_ms: float = 0.0
    onset_width_ms: float = 0.0
    dropout: float = 0.0
    region: tuple[float, float] | None = None
    periodic_jitter: int = 2
    original_sound: bool = True

    def __post_init__(self) -> None:
        for name in ("periodic", "periodic_width", "periodic_offset", "periodic_jitter", "kept_codebooks", "prompt_codebooks"):
            _whole(getattr(self, name), name)
        for name in ("prefix_seconds", "suffix_seconds", "beat_width_ms", "onset_width_ms", "dropout"):
            _finite(getattr(self, name), name)
            value = getattr(self, name)
            _require(value >= 0, name, value, "{field} must not be negative, and it is {value}.")
        _require(
            self.periodic >= 0, "periodic", self.periodic, "{field} must be 0 (off) or a period in time steps, not {value}."
        )
        _require(self.periodic_width >= 1, "periodic_width", self.periodic_width, "{field} must be at least 1, not {value}.")
        for name, least in (("kept_codebooks", 0), ("prompt_codebooks", 1)):
            value, limits = getattr(self, name), {"least": least, "most": N_CODEBOOKS}
            _require(least <= value <= N_CODEBOOKS, name, value, "{field} must lie in {least}..{most}, not {value}.", **limits)
        value = self.periodic_jitter
        _require(value >= 0, "periodic_jitter", value, "{field} must not be negative, and it is {value}.")
        value = self.original_sound
        _require(isinstance(value, bool), "original_sound", value, "{field} must be true or false, not {value!r}.")
        _require(self.dropout <= 1, "dropout", self.dropout, "{field} is a share from 0 to 1, not {value}.")
        if self.region is not None:
            _require(len(self.region) == 2, "region", self.region, "{field} must be (start, end) in seconds, not {value!r}.")
            start, end = self.region
            _finite(start, "region start")
            _finite(end, "region end")
            _require(
                0 <= start < end,
                "region",
                self.region,
                "{field} must start at 0 or later and end after its start, not {value!r}.",
            )

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Prompt:
        """The prompt that was written down with a vamp; options that there were not yet are off.

        Raises:
            TypeError, ValueError: fields that there are not, or values that cannot be.
        """
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        return cls(**{**BEFORE["prompt"], **given})

    @property
    def needs_beats(self) -> bool:
        """True if the mask depends on beats in the audio."""
        return self.beat_width_ms > 0

    @property
    def needs_onsets(self) -> bool:
        """True if the mask depends on onsets in the audio."""
        return self.onset_width_ms > 0


@dataclass(frozen=True)
class Sampling:
    """How masked tokens are filled (paper section 3.3).

    Attributes:
        steps: parallel decoding steps of the coarse model (the paper: 36 best, 12 nearly as good, 24 a good trade). The
            bundled model gains nothing from more than 8 that 220 clips could tell, but where nothing stays (docs/log.md).
        temperature: of the categorical distribution that tokens are drawn from; 0 = always the likeliest, else at
            least `LEAST_TEMPERATURE`.
        mask_temperature: starting weight of the Gumbel noise on the confidence, annealed linearly to 0 (paper: over 6).
        top_p: nucleus filtering: the likeliest tokens up to this probability mass; 1 = off.
        top_k: only the k likeliest tokens; 0 = off.
        typical_mass: locally typical filtering of the coarsest level (Meister et al. 2022): probability mass of the typical
            ones; 1 = off. With 0.6 the bundled model's takes keep attacks and beats better (docs/log.md). Where gaps
            are long (`vampnet.gaps`) all tokens are drawn from.
        typical_min_tokens: how many tokens typical filtering always leaves.
        sample_cutoff: share of the steps, from the start, in which tokens are drawn; after it the likeliest is taken; 1 = all.
        fine_steps: parallel decoding steps of the coarse-to-fine model; one to four make no difference that could be told.
        feedback: rounds; every round after the first vamps the result of the one before.
        guidance: how much further than the model takes go towards what stays and is settled already, in the coarse levels
            (`vampnet.guidance`), where gaps are short (`vampnet.gaps`); 0 = off, as in the paper. A step takes nearly twice as
            long with it, unless the model has been taught this weight (`vampnet.model.distilled`). The default was chosen with
            the bundled model (docs/log.md), which has been.
        palette: how far the coarse levels keep to the codes that the source is made of (`vampnet.palette`): 1 = they come about
            as often as there, 0 = off, as in the paper.
        recall: how far the coarse levels lean on what the source plays at other places that are like the one that is filled
            (`vampnet.recall`): 1 = as far as tokens stand there more often than everywhere, 0 = off, as in the paper.
        balance: how far the tonal balance of a take is brought to its source's when it is decoded (`vampnet.balance`): 1 = all
            of the way, by at most 3 dB in a band and a quarter of how much it moves, 0 = off, as in the paper. Not where
            something stays in one piece, and not with codecs of waveforms.

    Raises:
        ValueError: a field is out of its range; the sentence says which and what is allowed.
    """

    steps: int = 8
    temperature: float = 1.0
    mask_temperature: float = 10.5
    top_p: float = 1.0
    top_k: int = 0
    typical_mass: float = 0.6
    typical_min_tokens: int = 1
    sample_cutoff: float = 1.0
    fine_steps: int = 2
    feedback: int = 1
    guidance: float = 0.5
    palette: float = 1.0
    recall: float = 1.0
    balance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "top_k", "typical_min_tokens", "fine_steps", "feedback"):
            _whole(getattr(self, name), name)
        for field in dataclasses.fields(self):
            if isinstance(field.default, float):
                _finite(getattr(self, field.name), field.name)
        for name in ("steps", "typical_min_tokens", "fine_steps", "feedback"):
            value = getattr(self, name)
            _require(value >= 1, name, value, "{field} must be at least 1, not {value}.")
        for name in ("temperature", "mask_temperature", "top_k"):
            value = getattr(self, name)
            _require(value >= 0, name, value, "{field} must not be negative, and it is {value}.")
        _require(
            self.temperature == 0 or self.temperature >= LEAST_TEMPERATURE,
            "temperature",
            self.temperature,
            "{field} must be 0 (always the likeliest) or at least {least}, not {value}.",
            least=LEAST_TEMPERATURE,
        )
        for name in ("top_p", "typical_mass"):
            value = getattr(self, name)
            _require(0 < value <= 1, name, value, "{field} must lie above 0 and at most at 1, not {value}.")
        for name, most in (("guidance", MOST_GUIDANCE), ("palette", MOST_PALETTE), ("recall", MOST_RECALL)):
            value = getattr(self, name)
            _require(0 <= value <= most, name, value, "{field} must lie between 0 and {most}, not {value}.", most=most)
        for name in ("sample_cutoff", "balance"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, value, "{field} is a share from 0 to 1, not {value}.")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Sampling:
        """The options that were written down with a vamp; those that there were not yet are off.

        Raises:
            TypeError, ValueError: fields that there are not, or values that cannot be.
        """
        return cls(**{**BEFORE["sampling"], **settings})

    @property
    def coarse_runs(self) -> int:
        """How often the coarse model is run over a window in a round, at most: once a step, twice with guidance that it has
        not been taught, and once for what is recalled."""
        return self.steps * (2 if self.guidance else 1) + (self.recall > 0)

    @property
    def filters(self) -> bool:
        """Whether some tokens are not drawn, however the model likes them."""
        return self.top_k > 0 or self.top_p < 1 or self.typical_mass < 1


PUBLISHED = Sampling(steps=24, typical_mass=1.0, guidance=0.0, palette=0.0, recall=0.0, balance=0.0)
"""How the published weights are sampled where nobody says otherwise: as the paper does it, in the steps that it calls a good
trade. The defaults of `Sampling` were chosen with the bundled model, and nothing says that they suit others."""
TUNED = tuple(one.name for one in dataclasses.fields(Sampling) if getattr(PUBLISHED, one.name) != one.default)
"""The fields of `Sampling` that a model may have defaults of its own for."""


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a masked token transformer (paper section 3.2).

    Attributes:
        n_codebooks: levels that the model sees (4 for coarse, 14 for coarse-to-fine).
        n_conditioning: coarsest levels that are given, never predicted (0 for coarse, 4 for coarse-to-fine).
        codebook_size: codes of a level.
        codebook_dim: size of the codec's codebook vectors that the input is made of.
        dim: width; must be a multiple of `heads`.
        layers: transformer layers.
        heads: attention heads.
        ff_mult: the feed-forward expands `dim` to `ff_mult * dim` before its gate halves it (published: 4).
        context: time steps seen at a time, as trained (10 s for coarse, 3 s for fine).
        dropout: in training.
        label_smoothing: of the training, undone where tokens are drawn (`sampling.unsmoothed`); 0 = draw what the model says.
    """

    n_codebooks: int = N_COARSE
    n_conditioning: int = 0
    codebook_size: int = CODEBOOK_SIZE
    codebook_dim: int = 8
    dim: int = 1280
    layers: int = 20
    heads: int = 20
    ff_mult: int = 4
    context: int = 574
    dropout: float = 0.1
    position_buckets: int = 32
    position_max_distance: int = 128
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share from 0 to below 1, not {self.label_smoothing}.")
        if not 1 <= self.codebook_size <= CODEBOOK_SIZE:
            raise ValueError(f"Codebooks of up to {CODEBOOK_SIZE} codes can be used, not of {self.codebook_size}.")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}.")
        if not 0 <= self.n_conditioning < self.n_codebooks:
            raise ValueError("A model must predict at least one codebook level.")

    @property
    def n_predicted(self) -> int:
        """Levels that the model predicts."""
        return self.n_codebooks - self.n_conditioning

    def to_dict(self) -> dict:
        """Plain fields, for config.json."""
        return dataclasses.asdict(self)
