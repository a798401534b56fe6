"""The settings of a vamp in plain words, for somebody who has never seen a slider."""

from __future__ import annotations

from typing import Any

from vampnet.config import BEFORE, N_CODEBOOKS, Prompt, Sampling, TokenGrid
from vampnet.studio.text import say

Row = tuple[str, str, str]
"""A term, what it is, and what the term means."""
ALWAYS_TOLD = ("temperature", "mask_temperature")
TOLD = (*ALWAYS_TOLD, "top_p", "typical_mass", "feedback", "guidance", "palette", "recall", "balance")
"""What is said of how gaps are filled, beside the steps; all but the first two only where they are not the default."""


def describe_settings(settings: dict[str, Any], language: str) -> list[Row]:
    """What stands in `vamp.json`, as terms with their values and explanations, in the order in which they matter."""
    prompt, sampling = ({**BEFORE[part], **settings[part]} for part in ("prompt", "sampling"))
    kept = say(
        "share.words.kept", language, share=f"{100 * settings['kept_share']:.0f}", kbps=f"{settings['kept_kbps']:.1f}"
    )  # fmt: skip
    filled = [
        say("share.words.steps", language, n=sampling["steps"]),
        *(
            say(f"share.words.{name}", language, n=f"{sampling[name]:g}")
            for name in TOLD
            if name in ALWAYS_TOLD or sampling[name] != getattr(Sampling(), name)
        ),
    ]
    length = [say("share.words.seconds", language, n=f"{settings['seconds']:.1f}")]
    before, after = settings.get("extend") or (0, 0)
    if before or after:
        length.append(say("share.words.added", language, before=f"{before:g}", after=f"{after:g}"))
    if settings["bars"] is not None:
        length.append(say("share.words.bars", language, n=settings["bars"]))
    if settings["loop"]:
        length.append(say("share.words.loop", language))
    stays = _stays(prompt, settings["grid"], language, bool(settings.get("painted")))
    found = [
        ("stays", f"{'; '.join(stays)} · {kept}"),
        ("filled", ", ".join(filled)),
        ("length", ", ".join(length)),
        ("seed", str(settings["seed"])),
        ("model", str(settings["model"])),
    ]
    return [(say(f"share.term.{key}", language), words, say(f"share.hint.{key}", language)) for key, words in found]


def _stays(prompt: dict[str, Any], grid: dict[str, int], language: str, painted: bool = False) -> list[str]:
    """What the prompt keeps, one part after the other."""

    def part(key: str, **values: Any) -> None:
        parts.append(say(f"share.words.{key}", language, **values))

    parts: list[str] = []
    ms = round(1000 / TokenGrid(**grid).tokens_per_second)
    if prompt["kept_codebooks"]:
        part("kept_codebooks", n=prompt["kept_codebooks"])
    if prompt["periodic"] == 1:
        part("everything")
    elif prompt["periodic"]:
        part("periodic", n=prompt["periodic"], ms=ms)
        if prompt["periodic_width"] > 1:
            part("periodic_width", n=prompt["periodic_width"])
        jitter = prompt["periodic_jitter"]
        if jitter != Prompt.periodic_jitter:
            part("periodic_jitter" if jitter else "periodic_even", n=jitter)
    for name in ("beat_width_ms", "onset_width_ms", "prefix_seconds", "suffix_seconds"):
        if prompt[name]:
            part(name, n=f"{prompt[name]:g}")
    if prompt["region"] is not None:
        part("region", start=f"{prompt['region'][0]:g}", end=f"{prompt['region'][1]:g}")
    if painted:
        part("painted")
    if not parts:
        part("nothing")
    if prompt["prompt_codebooks"] != Prompt().prompt_codebooks and prompt["prompt_codebooks"] < N_CODEBOOKS:
        part("prompt_codebooks", n=prompt["prompt_codebooks"])
    if prompt["dropout"]:
        part("dropout", n=f"{100 * prompt['dropout']:.0f}")
    return parts
