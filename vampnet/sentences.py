"""Sentences for people: English as they stand, and open to being said in another language.

What is told of a problem is made of a `Sentence` where somebody may want to hear it in another language:
`raise ValueError(Sentence("bars must be at least 1, not {bars}.", bars=bars))`. `str(error)` is the English sentence; whoever
has translations finds theirs by the pattern (`vampnet.studio.text.tell`).
"""

from __future__ import annotations

from typing import Any


class Sentence(str):
    """An English sentence that remembers what it was made of.

    Args:
        pattern: English, with places for values in braces as `str.format` has them. Always written out where it is used,
            never put together: it is what translations are found by.
        values: for these places: numbers, names, other sentences.

    Attributes:
        pattern, values: as given.

    Raises:
        KeyError: a place has no value.
    """

    pattern: str
    values: dict[str, Any]

    def __new__(cls, pattern: str, /, **values: Any) -> Sentence:
        made = super().__new__(cls, pattern.format(**values))
        made.pattern, made.values = pattern, values
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        """For pickle and copies: the finished text is no pattern."""
        return (self.pattern,), self.values


def sentence_of(error: BaseException) -> str:
    """What an error says, as the `Sentence` that it was made of if it was made of one."""
    first = error.args[0] if len(error.args) == 1 else None
    return first if isinstance(first, Sentence) else str(error)
