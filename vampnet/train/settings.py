"""Settings of the two stages of training, with their checks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vampnet.config import TransformerConfig


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a stage-2 run.

    Attributes:
        model: fields of `TransformerConfig`.
        train, valid: folders of token shards; `valid` may be empty (no validation).
        grow_every: steps after which the training folder is looked at for shards that have come into it; 0 = never. What a run
            draws then depends on when they came.
        run: the run folder.
        start: folder of a model whose layers a new run begins with, also where its codec was another one; "" = from nothing. It
            may have fewer layers: those that are added change nothing before the first step.
        start_codes: the codec was the same one, so the new run begins with all weights of that model.
        crop: time steps of a training example; 0 = the model's context.
        context_share: share of the steps that train on the model's whole context instead (with fewer, longer examples).
        batch: examples of `crop` a step.
        micro_batch: examples at a time; 0 = a few on a CPU, where the work then stays in the cache, and all on a GPU.
        predict_share: share of the masked tokens that the loss looks at.
        prompt_share: share of the examples that are masked the way prompts are; 0 in the paper.
        hidden_share: share of the examples of which nothing is seen, as where a vamp has no prompt; 0 in the paper.
        optimizer: "adamw" (the paper), or "muon" for the layers' matrices; see `optimizer.Optimizer`.
        peak, warmup: of the Noam learning rate.
        hold: it stays at its peak instead until it cools down, as for a GPU whose many steps would be made at a tenth of it.
        cooldown_share: last part of a run with a known end in which the learning rate falls to 0.
        weight_decay, label_smoothing, clip, average: of AdamW, the loss, the gradient's norm and the weight average.
        minutes, session_minutes, steps: when the run, and this session of it, end; None = never.
        save_minutes, valid_minutes: how often; valid_crops: how many crops a validation looks at.
        log_every: steps.
        seed: of everything random.
        device: "cpu", "cuda" or "auto".
        threads: of torch on the CPU; 0 = torch's choice.
        bfloat16: matrix products in bfloat16: true, false, or "auto" as in `loop.in_bfloat16`.
        compile: use torch.compile on a GPU of CUDA; elsewhere it changes nothing.
        tensorboard: write TensorBoard files.

    Raises:
        ValueError: a value is out of its range.
    """

    model: dict[str, Any] = field(default_factory=dict)
    train: str = ""
    valid: str = ""
    grow_every: int = 0
    run: str = ""
    start: str = ""
    start_codes: bool = False
    crop: int = 0
    context_share: float = 0.0
    batch: int = 8
    micro_batch: int = 0
    predict_share: float = 1.0
    prompt_share: float = 0.0
    hidden_share: float = 0.0
    optimizer: str = "adamw"
    peak: float = 1e-3
    warmup: int = 500
    hold: bool = False
    cooldown_share: float = 0.2
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    clip: float = 1.0
    average: float = 0.999
    minutes: float | None = None
    session_minutes: float | None = None
    steps: int | None = None
    save_minutes: float = 2.0
    valid_minutes: float = 10.0
    valid_crops: int = 16
    log_every: int = 10
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    bfloat16: bool | str = "auto"
    compile: bool = False
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("train", "run"):
            if not getattr(self, name):
                raise ValueError(f"The configuration must name the folder {name!r}.")
        _check_ranges(
            self,
            counts=("batch", "warmup", "log_every"),
            shares=(
                "context_share",
                "prompt_share",
                "hidden_share",
                "cooldown_share",
                "label_smoothing",
                "predict_share",
                "average",
            ),
            positive=("peak", "clip", "save_minutes", "valid_minutes"),
            least_zero=("crop", "micro_batch", "weight_decay", "valid_crops", "threads", "grow_every"),
        )
        for name in ("minutes", "session_minutes", "steps"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be at least 0, not {value}.")
        _check_bfloat16(self.bfloat16)
        if self.predict_share == 0:
            raise ValueError("predict_share must lie above 0: the loss needs tokens to look at.")

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> TrainConfig:
        """From a configuration file's content; ValueError names what does not exist or is of another kind."""
        values = read_fields(cls, config)
        return cls(**{**values, "model": read_fields(TransformerConfig, values.get("model") or {}, "model.")})


@dataclass(frozen=True)
class CodecTraining:
    """Settings of a codec training.

    Attributes:
        audio: folder of training audio.
        held_out: folder of audio that is only measured.
        minutes: budget of training time, over all resumed runs; the learning rate cools down over its last part.
        batch: crops a step.
        crop_tokens: time steps of a crop.
        peak: learning rate after `warmup` steps; then it falls with the inverse square root (paper section 4).
        hold: it stays instead until it cools down, as for a GPU whose many steps would be made at a tenth of it.
        start: folder of a codec to begin with instead of the start in closed form. It may have fewer blocks, but must be of the
            same shape otherwise; what is added changes nothing before the first step.
        average: decay of the moving average of the weights that is exported.
        codebook_rate, projection_rate: factors on the learning rate of the codebooks and of the outer projections. Adam's steps
            are as large as the rate whatever they move: codes as long as principal components would trail behind the encoder,
            and a thousand inputs that move together make the projections' outputs jump.
        cooldown_share: last share of the budget, over which the rate falls to zero.
        mel_weight, commitment_weight, codebook_weight: of the losses beside the squared error. The latents have the scale of
            principal components, a thousand times that of the mean squared error: with the usual 0.25 and 1 the quantizer's
            losses would be all that the encoder hears.
        fine_weight: of the squared error of the fine structure over frequency, beside that of everything.
        levels_weight: factor on the loss of what is no fine structure, levels of short frames and of high bands, which cost
            more of a token's bits than they are worth to partials.
        quantizer_dropout: share of crops that are trained with fewer levels, until `dropout_share` of the training is over.
        equalise_db: spread of the random equalisation of crops.
        revive_every: steps between replacements of codes that nothing uses.
        init_tokens: time steps that the start in closed form sees.
        save_minutes: between checkpoints.
        eval_minutes: between measurements on `held_out`.
        bfloat16: matrix products of the blocks in bfloat16: true, false, or "auto" as in `loop.in_bfloat16`.
        compile: compile encoder, decoder and the distances, where the device is a GPU of CUDA: half a minute, once.

    Raises:
        ValueError: a value is out of its range.
    """

    audio: str
    held_out: str
    minutes: float = 45.0
    batch: int = 8
    crop_tokens: int = 96
    peak: float = 1e-3
    warmup: int = 200
    hold: bool = False
    start: str = ""
    cooldown_share: float = 0.25
    codebook_rate: float = 20.0
    projection_rate: float = 0.2
    weight_decay: float = 0.01
    average: float = 0.999
    mel_weight: float = 0.3
    fine_weight: float = 0.0
    commitment_weight: float = 0.004
    codebook_weight: float = 0.02
    levels_weight: float = 1.0
    quantizer_dropout: float = 0.2
    dropout_share: float = 1.0
    equalise_db: float = 4.0
    revive_every: int = 200
    init_tokens: int = 24_000
    save_minutes: float = 3.0
    eval_minutes: float = 6.0
    limit_hours: float = 24.0
    bfloat16: bool | str = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check_ranges(
            self,
            counts=("batch", "crop_tokens", "warmup", "revive_every", "init_tokens"),
            shares=("cooldown_share", "average", "quantizer_dropout", "dropout_share"),
            positive=("minutes", "peak", "save_minutes", "eval_minutes", "limit_hours", "codebook_rate", "projection_rate"),
            least_zero=(
                "weight_decay",
                "mel_weight",
                "fine_weight",
                "commitment_weight",
                "codebook_weight",
                "equalise_db",
                "levels_weight",
            ),  # fmt: skip
        )
        _check_bfloat16(self.bfloat16)


def _check_bfloat16(value: Any) -> None:
    if value not in (True, False, "auto"):
        raise ValueError(f"bfloat16 must be true, false or auto, not {value!r}.")


def _check_ranges(
    settings: Any, counts: Sequence[str], shares: Sequence[str], positive: Sequence[str], least_zero: Sequence[str]
) -> None:
    """ValueError for a count below 1, a share outside of 0..1, and numbers that are not above 0, or not at least 0 and finite,
    among some attributes; it is named."""
    for name in positive:
        if not getattr(settings, name) > 0:
            raise ValueError(f"{name} must lie above 0, not {getattr(settings, name)}.")
    for name in least_zero:
        if not 0 <= getattr(settings, name) < math.inf:
            raise ValueError(f"{name} must be at least 0, not {getattr(settings, name)}.")
    for name in counts:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(settings, name)}.")
    for name in shares:
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{name} is a share from 0 to 1, not {getattr(settings, name)}.")


def read_fields(kind: type, given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The settings of a section of a configuration file as the fields of a dataclass: 1e-3 and 7.0 as what is meant by them.

    Args:
        kind: the dataclass.
        given: what the file says.
        where: put before a setting's name where it is told.

    Raises:
        ValueError: a setting that does not exist, or one of another kind; it is named.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where.rstrip('.') or 'The configuration'} must be a list of `key: value` settings, not {given!r}.")
    known = {field.name: str(field.type) for field in dataclasses.fields(kind)}
    unknown = sorted(map(str, set(given) - set(known)))
    if unknown:
        raise ValueError(f"There is no setting {where}{unknown[0]}; see the attributes of {kind.__name__}.")
    for one in dataclasses.fields(kind):
        if one.name not in given and one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise ValueError(f"The configuration must say {where}{one.name}.")
    return {name: _of_kind(value, known[name], where + name) for name, value in given.items()}


def _of_kind(value: Any, kinds: str, name: str) -> Any:
    """A setting as one of the kinds that its field may have, such as "float | None"."""
    wanted = kinds.split(" | ")
    if (value is None and "None" in wanted) or (isinstance(value, bool) and "bool" in wanted):
        return value
    if "float" in wanted or "int" in wanted:
        try:
            # YAML reads 1e-3, without a point, as text.
            number = float("" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name} must be a number, not {value!r}.") from None
        if "float" in wanted:
            return number
        if not number.is_integer():
            raise ValueError(f"{name} must be a whole number, not {value!r}.")
        return int(number)
    if "str" in wanted and not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {value!r}.")
    if wanted == ["bool"]:
        raise ValueError(f"{name} must be true or false, not {value!r}.")
    return value
