"""What the page says, in the visitor's language: one file of sentences a language, `en.py` the one that all others follow.

A sentence has a key and places for values in braces: `say("deck.take", number=2)`. The browser gets the same sentences
(`VampStudio.say` in `web/text.js`), Gradio's own components by `label(key)`.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from vampnet.studio.text import en, ko

LANGUAGES: dict[str, dict[str, str]] = {"en": en.TEXT, "ko": ko.TEXT}
DEFAULT = "en"


def say(key: str, language: str = DEFAULT, **values: Any) -> str:
    """The sentence of a key with its values; in English where a language lacks it.

    Raises:
        KeyError: there is no such key, or a value is missing.
    """
    sentence = LANGUAGES.get(language, en.TEXT).get(key) or en.TEXT[key]
    return sentence.format(**values)


def language_of(accepted: str | None) -> str:
    """The language to speak with a browser that sends this Accept-Language header, such as "ko-KR,ko;q=0.9,en;q=0.8"."""
    wanted = []
    for place, part in enumerate((accepted or "").split(",")):
        tag, _, weight = part.strip().partition(";q=")
        try:
            wanted.append((-float(weight or 1), place, tag.split("-")[0].lower()))
        except ValueError:
            continue  # what cannot be read is not wished for
    return next((name for _, _, name in sorted(wanted) if name in LANGUAGES), DEFAULT)


def label(key: str) -> Any:
    """A text for a Gradio component, which the browser replaces by the sentence in its language.

    Raises:
        KeyError: there is no such key.
    """
    en.TEXT[key]
    return _I18N(key)


def translations() -> gr.I18n:
    """For `Blocks.launch(i18n=...)`: all sentences of all languages."""
    return _I18N


def script() -> str:
    """JavaScript that gives the browser all sentences as `VampStudio.sentences`."""
    found = json.dumps(LANGUAGES, ensure_ascii=False).replace("<", "\\u003c")
    return f"(window.VampStudio = window.VampStudio || {{}}).sentences = {found};"


_I18N = gr.I18n(**{name: {**en.TEXT, **sentences} for name, sentences in LANGUAGES.items()})
