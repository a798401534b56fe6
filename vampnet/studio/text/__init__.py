"""What the page says, in the visitor's language: one file of sentences a language, `en.py` the one that all others follow.

A sentence has a key and places for values in braces: `say("deck.take", number=2)`. The browser gets the same sentences
(`VampStudio.say` in `web/text.js`), Gradio's own components by `label(key)`. What is not yet known to be for whom is a
`worded(key)`, and becomes a visitor's by `tell`, which also knows what the package beneath the studio says: its `Sentence`s
stand in English where they are made, and in other languages in files such as `core_ko.py`.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from vampnet.sentences import Sentence, sentence_of
from vampnet.studio.text import core_ko, en, ko

LANGUAGES: dict[str, dict[str, str]] = {"en": en.TEXT, "ko": ko.TEXT}
CORE: dict[str, dict[str, str]] = {"ko": core_ko.TEXT}
DEFAULT = "en"


def say(key: str, language: str = DEFAULT, **values: Any) -> str:
    """The sentence of a key with its values; in English where a language lacks it.

    Raises:
        KeyError: there is no such key, or a value is missing.
    """
    sentence = LANGUAGES.get(language, en.TEXT).get(key) or en.TEXT[key]
    return sentence.format(**values)


def worded(key: str, **values: Any) -> Sentence:
    """The sentence of a key for `tell`: what a problem says where the visitor is not known.

    Raises:
        KeyError: there is no such key, or a value is missing.
    """
    return Sentence(en.TEXT[key], **values)


def tell(what: str | BaseException, language: str = DEFAULT) -> str:
    """What an error or a sentence says, in the visitor's language; as it stands where it has no translation.

    Sentences among its values are told in that language too, and a value `field` by the name that the page has for it.
    """
    sentence = sentence_of(what) if isinstance(what, BaseException) else what
    if not isinstance(sentence, Sentence):
        return str(sentence)
    values = {name: tell(value, language) if isinstance(value, str) else value for name, value in sentence.values.items()}
    if f"map.{values.get('field')}" in en.TEXT:
        values["field"] = say(f"map.{values['field']}", language)
    return _PATTERNS.get(language, {}).get(sentence.pattern, sentence.pattern).format(**values)


def language_of(accepted: str | None) -> str:
    """The language to speak with a browser that sends this Accept-Language header, such as "ko-KR,ko;q=0.9,en;q=0.8".

    The one that is wished for most decides, as it does for Gradio's own components: else one page would speak two.
    """
    wanted = []
    for place, part in enumerate((accepted or "").split(",")):
        tag, _, weight = part.strip().partition(";q=")
        try:
            wanted.append((-float(weight or 1), place, tag.split("-")[0].lower()))
        except ValueError:
            continue  # what cannot be read is not wished for
    first = min(wanted)[2] if wanted else DEFAULT
    return first if first in LANGUAGES else DEFAULT


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


_PATTERNS = {
    name: {**{en.TEXT[key]: sentence for key, sentence in LANGUAGES[name].items()}, **told} for name, told in CORE.items()
}
_I18N = gr.I18n(**{name: {**en.TEXT, **sentences} for name, sentences in LANGUAGES.items()})
