"""The page's lines of text as HTML: notices, progress, sizes."""

from __future__ import annotations

import html


def notice(text: str, kind: str, raw: bool = False) -> str:
    """One line; kinds are "ready", "busy" and "error". With `raw` the text is HTML already."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="vs-notice vs-{kind}" role="{role}">{text if raw else html.escape(text)}</div>'


def progress(text: str, done: int = 0, of: int = 0) -> str:
    """Words and a bar; without `of`, one that only shows that something goes on."""
    share = f' value="{done}" max="{of}"' if of > 1 else ""
    return f'<div class="vs-progress" role="status"><span>{html.escape(text)}</span><progress{share}></progress></div>'


def size(count: int | None) -> str:
    """Bytes for people, in powers of ten: "33 MB", "1.3 GB"; None is "size unknown"."""
    if count is None:
        return "size unknown"
    if count >= 999_500_000:
        return f"{count / 1e9:.1f} GB"
    return f"{max(count, 1) / 1e6:.0f} MB" if count >= 950_000 else f"{max(count / 1e6, 0.1):.1f} MB"


def megabytes(done: int, of: int) -> str:
    """Progress of a download: "340 of 1,330 MB"; where the whole is not known, "340 MB"."""
    return f"{done / 1e6:,.0f} of {of / 1e6:,.0f} MB" if of else f"{done / 1e6:,.0f} MB"
