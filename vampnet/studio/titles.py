"""Titles that the studio gives to vamps by itself: as plain data, so that everybody reads them in their own language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vampnet.studio.controls import Request, values_of
from vampnet.studio.presets import matching_preset
from vampnet.studio.text import DEFAULT, en, say

if TYPE_CHECKING:
    from vampnet.gallery import Shared

Title = list[list[Any]]
"""[key of a sentence, {its values}] for each part of a title; a value `title` may be a title itself. As JSON has it."""
ROOMS = ("map.preset.", "deck.title.", "comp.title")
"""What the keys of a title begin with."""
MOST_PARTS, DEEPEST = 12, 3
NAMED = "named"
"""Where a shared vamp's plain data (`Shared.page`) has the title, if it is still the studio's own."""


def title_of(request: Request) -> Title:
    """The preset that was asked for, or the prompt in a few words."""
    preset = matching_preset(values_of(request))
    parts: Title = [] if preset is None else [[f"map.preset.{preset.key}", {}]]
    prompt = request.prompt
    if preset is None:
        context = prompt.prefix_seconds or prompt.suffix_seconds
        for name in ("periodic", "kept_codebooks", "context", "beat_width_ms", "onset_width_ms"):
            if name == "context" and context:
                seconds = {"before": f"{prompt.prefix_seconds:g}", "after": f"{prompt.suffix_seconds:g}"}
                parts.append(["deck.title.context", seconds])
            elif getattr(prompt, name, 0):
                parts.append([f"deck.title.{name}", {"n": f"{getattr(prompt, name):g}"}])
    if request.paint is not None:
        parts.append(["deck.title.painted", {}])
    return parts or [["deck.title.nothing", {}]]


def say_title(title: Any, language: str = DEFAULT, depth: int = 0) -> str:
    """A title in a language; "" for what is none, since it may come from a file."""
    if not isinstance(title, list) or not 1 <= len(title) <= MOST_PARTS or depth > DEEPEST:
        return ""
    try:
        return ", ".join(_say_part(*part, language=language, depth=depth) for part in title)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError):
        return ""


def _say_part(key: str, values: dict[str, Any], language: str, depth: int) -> str:
    if key not in en.TEXT or not key.startswith(ROOMS):
        raise KeyError(key)
    told = {name: say_title(value, language, depth + 1) if isinstance(value, list) else value for name, value in values.items()}
    return say(key, language, **told)


def comp_title(title: Any) -> Title:
    """Of a comp of takes of a vamp with that title: a `Title`, or what somebody has called it."""
    return [["comp.title", {"title": title}]]


def shared_title(shared: Shared, language: str) -> str:
    """What a shared vamp is called: by who shared it, or by the studio, in the reader's language."""
    return say_title(shared.page.get(NAMED), language) or shared.title or say("share.untitled", language)
