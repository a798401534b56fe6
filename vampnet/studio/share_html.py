"""The pages of shared vamps as HTML. All that visitors wrote is escaped, and nothing on a page is script but our own files."""

from __future__ import annotations

import hashlib
import html
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from vampnet.gallery import Shared
from vampnet.studio import deck
from vampnet.studio.share_data import PICTURE, PICTURE_SIZE, page_vamp
from vampnet.studio.share_words import describe_settings
from vampnet.studio.text import say, script
from vampnet.studio.titles import shared_title

SCRIPTS = ("sentences.js", *deck.SCRIPTS, "page.js")
STYLES = (*deck.STYLES, "page.css")
EMBED_SIZE = (640, 560)
TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
escape = html.escape


@lru_cache(maxsize=1)
def static_files() -> dict[str, bytes]:
    """The scripts and styles that the pages may ask for, by name; nothing else is given out."""
    package = files("vampnet.studio")
    found = {
        path.name: path.read_bytes()
        for folder in ("web", "pages") for path in (package / folder).iterdir() if path.name.endswith(tuple(TYPES))
    }  # fmt: skip
    return {**found, "sentences.js": script().encode()}


@lru_cache(maxsize=64)
def stamp_of(name: str) -> str:
    return hashlib.sha256(static_files()[name]).hexdigest()[:12]


@dataclass(frozen=True)
class Visit:
    """Who asks, from where.

    Attributes:
        language: to answer in.
        base: absolute address of the studio, without a slash at its end.
        up: from the page that is asked for to the folder `v/`, "" or "../".
    """

    language: str
    base: str
    up: str = ""

    def say(self, key: str, **values: Any) -> str:
        return escape(say(key, self.language, **values))

    def title(self, shared: Shared) -> str:
        """The vamp's title or what stands in for it, not escaped."""
        return shared_title(shared, self.language)

    def link(self, shared: Shared) -> str:
        """The absolute address of a vamp's page, not escaped."""
        return f"{self.base}/v/{shared.id}"


def vamp_page(visit: Visit, shared: Shared, settings: dict[str, Any], parent: Shared | None, children: list[Shared]) -> str:
    """The page of a vamp."""
    words = describe_settings(settings, visit.language)
    rows = "".join(
        f'<div><dt title="{escape(hint)}">{escape(term)}</dt><dd>{escape(value)}</dd></div>' for term, value, hint in words
    )  # fmt: skip
    note = f'<p class="vp-note">{escape(shared.note)}</p>' if shared.note else ""
    private = f'<p class="vp-quiet">{visit.say("share.page.private")}</p>' if shared.private else ""
    day = datetime.fromtimestamp(shared.created, timezone.utc).date().isoformat()
    body = f"""
<main class="vp-page">
<header class="vp-head">
  <a class="vp-brand" href="{visit.up}../">{visit.say("page.title")}</a>
  <h1>{escape(visit.title(shared))}</h1>
  <p class="vp-quiet"><time datetime="{day}">{day}</time></p>
  {note}
  <p class="vp-actions">
    <a class="vp-button vp-first" href="{visit.up}../?vamp={shared.id}">{visit.say("share.page.open")}</a>
  </p>
</header>
{_deck(visit, shared, settings)}
{private}
<section class="vp-card"><h2>{visit.say("share.page.settings")}</h2><dl>{rows}</dl></section>
{_lineage(visit, parent, children)}
<footer class="vp-quiet"><a href="{visit.up}{shared.id}/delete">{visit.say("share.page.delete")}</a></footer>
</main>"""
    return _document(visit, visit.title(shared), body, _cards(visit, shared, words[0][1]), player=True)


def embed_page(visit: Visit, shared: Shared, settings: dict[str, Any]) -> str:
    """A small page for frames in other pages."""
    aside = 'target="_blank" rel="noopener"'
    body = f"""
<main class="vp-page vp-embed">
<header class="vp-head">
  <h1><a href="{visit.up}{shared.id}" {aside}>{escape(visit.title(shared))}</a></h1>
  <a class="vp-brand" href="{visit.up}../?vamp={shared.id}" {aside}>{visit.say("share.page.open")}</a>
</header>
{_deck(visit, shared, settings)}
</main>"""
    return _document(visit, visit.title(shared), body, player=True)


def delete_page(visit: Visit, shared: Shared, token: str, problem: str = "") -> str:
    """Asks whether to delete, and for the secret of the delete link from who has no owner's cookie (`token` is then "")."""
    secret = (
        ""
        if token
        else f"""
<label for="secret">{visit.say("share.delete.key")}</label>
<input id="secret" name="secret" type="text" autocomplete="off" spellcheck="false" maxlength="100" required>"""
    )
    alert = f'<p class="vp-alert" role="alert">{visit.say(problem)}</p>' if problem else ""
    body = f"""
<main class="vp-page vp-narrow">
<h1>{visit.say("share.delete.title", title=visit.title(shared))}</h1>
<p>{visit.say("share.delete.sentence")}</p>{alert}
<form method="post" class="vp-card">{secret}
<input type="hidden" name="token" value="{escape(token)}">
<p class="vp-actions"><button class="vp-button vp-danger" type="submit">{visit.say("share.delete.do")}</button>
<a class="vp-button" href="{visit.up}{shared.id}">{visit.say("share.delete.keep")}</a></p>
</form></main>"""
    return _document(visit, say("share.delete.do", visit.language), body, scripts=("delete.js",))


def message_page(visit: Visit, key: str) -> str:
    """A page that says one thing: `share.<key>.title` and `share.<key>.sentence`, and where the studio is."""
    body = f"""
<main class="vp-page vp-narrow"><h1>{visit.say(f"share.{key}.title")}</h1><p>{visit.say(f"share.{key}.sentence")}</p>
<p class="vp-actions"><a class="vp-button vp-first" href="{visit.up}../">{visit.say("share.page.studio")}</a></p></main>"""
    return _document(visit, say(f"share.{key}.title", visit.language), body)


def embed_code(visit: Visit, shared: Shared, width: int = EMBED_SIZE[0], height: int = EMBED_SIZE[1]) -> str:
    """What to paste into another page to show the vamp there."""
    return (
        f'<iframe src="{escape(visit.link(shared))}/embed" width="{width}" height="{height}" '
        f'title="{escape(visit.title(shared))}" loading="lazy" style="border:0" allow="autoplay"></iframe>'
    )


# ----------------------------------------------------------------------------------------------------------------- parts


def _deck(visit: Visit, shared: Shared, settings: dict[str, Any]) -> str:
    """The deck's data, and plain players for browsers in which its script does not run."""
    shown = page_vamp(shared, settings, visit.language)
    data = json.dumps({"vamp": shown, "files": f"{visit.up}{shared.id}/files/"}, ensure_ascii=False).replace("<", "\\u003c")
    tracks = [*([shown["source_track"]] if shown["source_track"] else []), *shown["takes"]]
    players = ""
    for track in tracks:
        name = visit.say("share.page.take", n=track["number"]) if track["number"] else visit.say("share.page.source")
        address = f"{visit.up}{shared.id}/files/{quote(track['sound'])}"
        players += f'<li><span>{name}</span><audio controls loop preload="none" src="{address}"></audio></li>'
    return (
        f'<div id="deck"><ul class="vp-players">{players}</ul></div>'
        f'<script type="application/json" id="deck-data">{data}</script>'
    )


def _lineage(visit: Visit, parent: Shared | None, children: list[Shared]) -> str:
    def entry(shared: Shared) -> str:
        return f'<li><a href="{visit.up}{shared.id}">{escape(visit.title(shared))}</a></li>'

    parts = ""
    if parent is not None:
        parts += f"<h2>{visit.say('share.page.parent')}</h2><ul>{entry(parent)}</ul>"
    if children:
        parts += f"<h2>{visit.say('share.page.children')}</h2><ul>{''.join(entry(child) for child in children)}</ul>"
    return f'<nav class="vp-card" aria-label="{visit.say("share.page.lineage")}">{parts}</nav>' if parts else ""


def _cards(visit: Visit, shared: Shared, words: str) -> str:
    """What previews of the link are made of: Open Graph, the same for Twitter, oEmbed."""
    title, link = visit.title(shared), visit.link(shared)
    about = shared.note or say("share.page.about", visit.language, words=words)
    tags = [
        ("property", "og:type", "website"), ("property", "og:site_name", say("page.title", visit.language)),
        ("property", "og:title", title), ("property", "og:description", about), ("property", "og:url", link),
        ("name", "description", about), ("name", "twitter:title", title), ("name", "twitter:description", about),
        ("name", "twitter:card", "summary_large_image" if PICTURE in shared.files else "summary"),
    ]  # fmt: skip
    if PICTURE in shared.files:
        picture, alt = f"{link}/files/{PICTURE}", say("share.page.picture", visit.language)
        tags += [
            ("property", "og:image", picture), ("property", "og:image:type", "image/png"),
            ("property", "og:image:width", str(PICTURE_SIZE[0])), ("property", "og:image:height", str(PICTURE_SIZE[1])),
            ("property", "og:image:alt", alt), ("name", "twitter:image", picture), ("name", "twitter:image:alt", alt),
        ]  # fmt: skip
    oembed = f"{visit.base}/oembed?format=json&url={quote(link, safe='')}"
    return "".join(f'<meta {kind}="{name}" content="{escape(value)}">\n' for kind, name, value in tags) + (
        f'<link rel="alternate" type="application/json+oembed" href="{escape(oembed)}" title="{escape(title)}">\n'
    )


def _document(visit: Visit, title: str, body: str, head: str = "", player: bool = False, scripts: tuple[str, ...] = ()) -> str:
    wanted = (*(SCRIPTS if player else ()), *scripts)
    address = f"{visit.up}static/{{name}}?h={{stamp}}"
    styles = "".join(f'<link rel="stylesheet" href="{address.format(name=name, stamp=stamp_of(name))}">\n' for name in STYLES)
    loaded = "".join(f'<script defer src="{address.format(name=name, stamp=stamp_of(name))}"></script>\n' for name in wanted)
    theme = f'<script src="{address.format(name="theme.js", stamp=stamp_of("theme.js"))}"></script>\n'
    return f"""<!doctype html>
<html lang="{visit.language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · {visit.say("page.title")}</title>
{head}{theme}{styles}{loaded}</head>
<body>{body}
</body>
</html>
"""
