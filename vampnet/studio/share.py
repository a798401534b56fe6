"""The addresses of shared vamps, beside Gradio's own: pages that open without the model and without Gradio's scripts.

/v/<id>               the page            /v/<id>/files/<name>   its sounds and picture
/v/<id>/embed         for frames          /v/<id>/delete         asks, and deletes
/v/owner              gives the owner's cookie                   /v/static/<name>   scripts and styles
/oembed?url=...       for who embeds links
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from gradio.route_utils import get_root_url
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from vampnet.gallery import ID, Gallery, GalleryError, NotShared, Shared
from vampnet.studio import share_html
from vampnet.studio.share_data import PICTURE, PICTURE_SIZE
from vampnet.studio.share_html import EMBED_SIZE, TYPES, Visit, static_files
from vampnet.studio.text import language_of, say

COOKIE = "vampnet-owner"
COOKIE_VALUE = re.compile(r"[A-Za-z0-9_-]{22,64}", re.ASCII)
YEAR = 365 * 86_400
OWN_HEADER = "X-VampNet"
"""Sent by our own script alone: a form on another site cannot."""
PLACE = re.compile(r".*/v/([a-z2-7]{26})(?:/embed)?/?", re.ASCII | re.DOTALL)
LONGEST_FORM = 4096
FILE_TYPES = {
    ".flac": "audio/flac", ".wav": "audio/wav", ".ogg": "audio/ogg", ".png": "image/png", ".json": "application/json",
    ".safetensors": "application/octet-stream",
}  # fmt: skip
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors {frames}"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex",
    "Cross-Origin-Opener-Policy": "same-origin",
}  # fmt: skip


def owner_of(cookies: Any) -> str:
    """The owner's cookie among the cookies of a request; "" if there is none."""
    value = (cookies or {}).get(COOKIE) or ""
    return value if COOKIE_VALUE.fullmatch(value) else ""


class _Anything(Convertor[str]):
    """As "path", which ends at a line break."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", _Anything())


class SharePages:
    """What answers at the addresses of shared vamps.

    Args:
        gallery: where they are.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery

    def routes(self) -> list[Route]:
        """For `Blocks.launch(app_kwargs={"routes": ...})`: they come before Gradio's own."""
        return [
            Route("/oembed", self._safely(self.oembed)),
            Route("/v/owner", self._safely(self.owner), methods=["POST"]),
            Route("/v/static/{name}", self._safely(self.static, 1)),
            Route("/v/{id}", self._safely(self.page)),
            Route("/v/{id}/embed", self._safely(self.embed, 1)),
            Route("/v/{id}/delete", self._safely(self.ask, 1), methods=["GET"]),
            Route("/v/{id}/delete", self.delete, methods=["POST"]),
            Route("/v/{id}/files/{name}", self._safely(self.file, 2)),
            Route("/v/{rest:anything}", self._safely(self.elsewhere)),
        ]

    def _safely(self, answer: Callable[[Request], Response], depth: int = 0) -> Callable[..., Any]:
        """In a thread, since disks are slow; what is not there gets the friendly page, `depth` folders below `v/`."""

        async def run(request: Request) -> Response:
            try:
                return await run_in_threadpool(answer, request)
            except NotShared:
                # As the browser sees the address, to which a coded slash is none.
                rest = request.path_params.get("rest", "").count("/") - request.scope.get("raw_path", b"").lower().count(b"%2f")
                # Nothing absolute is made of an address that is as strange as it likes.
                visit = Visit(_language(request), "", "../" * (depth if depth else min(max(rest, 0), 40)))
                return _html(share_html.message_page(visit, "missing"), 404)

        return run

    # ---- pages --------------------------------------------------------------------------------------------------------

    def page(self, request: Request) -> Response:
        shared = self.gallery.get(request.path_params["id"])
        parent = None
        if shared.parent:
            try:
                parent = self.gallery.get(shared.parent)
            except NotShared:
                pass  # it was deleted; this one lives on
        children = self.gallery.children(shared.id)
        visit = _visit(request, f"/v/{shared.id}")
        text = share_html.vamp_page(visit, shared, self.gallery.settings(shared.id), parent, children)
        return _html(text, frames="'self'")

    def embed(self, request: Request) -> Response:
        shared = self.gallery.get(request.path_params["id"])
        visit = _visit(request, f"/v/{shared.id}/embed", up="../")
        return _html(share_html.embed_page(visit, shared, self.gallery.settings(shared.id)), frames="*")

    def elsewhere(self, request: Request) -> Response:
        rest = request.path_params["rest"]
        if ID.fullmatch(rest.removesuffix("/")):
            return RedirectResponse(f"../{rest.removesuffix('/')}", 301, HEADERS)
        raise NotShared(rest)

    # ---- files --------------------------------------------------------------------------------------------------------

    def file(self, request: Request) -> Response:
        path = self.gallery.path_of(request.path_params["id"], request.path_params["name"])
        if not path.is_file() or path.is_symlink():
            raise NotShared(path.name)
        headers = {**HEADERS, "Cache-Control": f"private, max-age={YEAR}, immutable"}
        if path.name == PICTURE:
            # Shown by other sites in their previews of the link.
            headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        return FileResponse(path, headers=headers, media_type=FILE_TYPES.get(path.suffix, "application/octet-stream"))

    def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        content = static_files().get(name)
        if content is None:
            raise NotShared(name)
        stamped = request.query_params.get("h") == share_html.stamp_of(name)
        age = f"public, max-age={YEAR}, immutable" if stamped else "no-cache"
        return Response(content, headers={**HEADERS, "Cache-Control": age}, media_type=TYPES[name[name.rindex(".") :]])

    # ---- for other programs -------------------------------------------------------------------------------------------

    def oembed(self, request: Request) -> Response:
        """See oembed.com; of type "rich"."""
        query = request.query_params
        if query.get("format", "json") != "json":
            return JSONResponse({"error": "Only format=json is given."}, 501, HEADERS)
        try:
            place = PLACE.fullmatch(urlsplit(query.get("url", "")[:2000]).path)
            shared = self.gallery.get(place[1] if place else "")
        except (NotShared, ValueError):
            return JSONResponse({"error": "There is no such vamp."}, 404, HEADERS)
        visit = _visit(request, "/oembed")
        width, height = (_at_most(query.get(f"max{name}"), EMBED_SIZE[place]) for place, name in enumerate(("width", "height")))
        found = {
            "version": "1.0", "type": "rich", "title": visit.title(shared), "width": width, "height": height,
            "provider_name": say("page.title", visit.language), "provider_url": f"{visit.base}/",
            "html": share_html.embed_code(visit, shared, width, height),
        }  # fmt: skip
        if PICTURE in shared.files:
            found |= {
                "thumbnail_url": f"{visit.link(shared)}/files/{PICTURE}", "thumbnail_width": PICTURE_SIZE[0],
                "thumbnail_height": PICTURE_SIZE[1],
            }  # fmt: skip
        return JSONResponse(found, headers={**HEADERS, "Access-Control-Allow-Origin": "*", "Vary": "Accept-Language"})

    # ---- owners -------------------------------------------------------------------------------------------------------

    def owner(self, request: Request) -> Response:
        """Makes sure that the visitor has an owner's cookie. Scripts cannot read it, and other sites cannot send it."""
        if OWN_HEADER not in request.headers:
            return Response(status_code=403, headers=HEADERS)
        answer = Response(status_code=204, headers={**HEADERS, "Cache-Control": "no-store"})
        value = owner_of(request.cookies) or secrets.token_urlsafe(16)
        secure = _visit(request, "/v/owner").base.startswith("https:")
        answer.set_cookie(COOKIE, value, max_age=YEAR, path="/", httponly=True, samesite="lax", secure=secure)
        return answer

    def ask(self, request: Request) -> Response:
        return self._ask(request, self.gallery.get(request.path_params["id"]))

    def _ask(self, request: Request, shared: Shared, problem: str = "", status: int = 200) -> Response:
        owner = owner_of(request.cookies)
        token = _token(owner, shared.id) if self.gallery.is_owner(shared, owner) else ""
        visit = _visit(request, f"/v/{shared.id}/delete", up="../")
        return _html(share_html.delete_page(visit, shared, token, problem), status)

    async def delete(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LONGEST_FORM:
                break
        try:
            form = parse_qs(body[:LONGEST_FORM].decode("utf-8", "replace"), max_num_fields=10)
        except ValueError:  # more fields than any form of ours has
            form = {}
        return await self._safely(lambda asked: self._delete(asked, form), 1)(request)

    def _delete(self, request: Request, form: dict[str, list[str]]) -> Response:
        shared = self.gallery.get(request.path_params["id"])
        secret, token = (form.get(name, [""])[0].strip() for name in ("secret", "token"))
        owner = owner_of(request.cookies)
        # A form on another site does not know the token, which only who knows the cookie can make.
        if not (token and hmac.compare_digest(token.encode(), _token(owner, shared.id).encode())):
            owner = ""
        try:
            self.gallery.delete(shared.id, secret=secret, owner=owner)
        except GalleryError:
            return self._ask(request, shared, "share.delete.wrong", 403)
        visit = _visit(request, f"/v/{shared.id}/delete", up="../")
        return _html(share_html.message_page(visit, "deleted"))


def _language(request: Request) -> str:
    return language_of(request.headers.get("accept-language"))


def _visit(request: Request, path: str, up: str = "") -> Visit:
    """A visit of `path`, with the studio's address as Gradio itself finds it: from the proxy's headers or the request's."""
    root = getattr(request.app, "root_path", "") or request.scope.get("root_path", "")
    try:
        base = get_root_url(request, path, root)
    except (ValueError, httpx.InvalidURL):  # somebody's invention of a host
        base = root.rstrip("/")
    return Visit(_language(request), base, up)


def _html(text: str, status: int = 200, frames: str = "'none'") -> HTMLResponse:
    headers = {
        **HEADERS, "Content-Security-Policy": POLICY.format(frames=frames), "Cache-Control": "no-cache, private",
        "Vary": "Accept-Language, Cookie",
    }  # fmt: skip
    return HTMLResponse(text, status, headers)


def _token(owner: str, id: str) -> str:
    return hmac.new(owner.encode(), f"delete {id}".encode(), hashlib.sha256).hexdigest()


def _at_most(given: str | None, size: int) -> int:
    return max(min(int(given), size), 200) if given and given.isascii() and given.isdigit() and len(given) < 6 else size
