"""The page's lines of text as HTML: notices, progress."""

from __future__ import annotations

import html

from vampnet.sentences import Sentence
from vampnet.studio.text import worded


def notice(text: str, kind: str, raw: bool = False) -> str:
    """One line; kinds are "ready", "busy" and "error". With `raw` the text is HTML already."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="vs-notice vs-{kind}" role="{role}">{text if raw else html.escape(text)}</div>'


def is_error(line: object) -> bool:
    """Whether something is a line of `notice`, of the kind "error"."""
    return isinstance(line, str) and line.startswith('<div class="vs-notice vs-error"')


def progress(text: str, done: int = 0, of: int = 0) -> str:
    """Words and a bar; without `of`, one that only shows that something goes on."""
    share = f' value="{done}" max="{of}"' if of > 1 else ""
    return f'<div class="vs-progress" role="status"><span>{html.escape(text)}</span><progress{share}></progress></div>'


def megabytes(done: int, of: int) -> Sentence:
    """Progress of a download: "340 of 1,330 MB"; where the whole is not known, "340 MB"."""
    return worded("models.megabytes" if of else "models.megabytes.unknown", done=done / 1e6, of=of / 1e6)
