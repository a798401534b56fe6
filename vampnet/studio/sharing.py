"""Sharing on the studio's page: the dialog behind the deck's "Share", the list of what one has shared, and opening a link."""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from vampnet.beats import BeatGrid
from vampnet.bundle import read_bundle
from vampnet.gallery import LONGEST_NOTE, LONGEST_TITLE, Gallery, GalleryError, NotShared, Shared
from vampnet.studio.controls import CONTROLS, NAMES, Request, capped, restore
from vampnet.studio.deck import Deck
from vampnet.studio.handlers import Handlers
from vampnet.studio.notices import notice
from vampnet.studio.players import keep_vamp
from vampnet.studio.session import Session, read_source
from vampnet.studio.share import SharePages, owner_of
from vampnet.studio.share_data import page_vamp, publish
from vampnet.studio.share_limit import ShareLimit
from vampnet.studio.text import say
from vampnet.studio.titles import NAMED, say_title, shared_title

PARAMETER = "vamp"
OPENING: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "links"}
"""Links that are opened at once: each copies a whole vamp."""
ROOM = 1 << 30
"""Bytes of the disk that opening links leaves free."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
log = logging.getLogger(__name__)


class Sharing:
    """Lays its dialog out where it is made (inside a `gr.Blocks`); `wire` connects it.

    Args:
        handlers: of the page.
        gallery: where shared vamps go.
        limit: how often; by default what the gallery's limits say.
    """

    def __init__(self, handlers: Handlers, gallery: Gallery, limit: ShareLimit | None = None) -> None:
        self.handlers, self.gallery = handlers, gallery
        self.limit = limit or ShareLimit.of(gallery.limits)
        self.dialog = gr.HTML(
            {}, html_template='<div class="vs-share"></div>', js_on_load="VampStudio.share(element, props, watch, trigger)",
            elem_id="share", apply_default_css=False,
        )  # fmt: skip

    def launch_options(self) -> dict[str, Any]:
        """What `Blocks.launch` must be given for links to open."""
        return {"app_kwargs": {"routes": SharePages(self.gallery).routes()}}

    def wire(
        self, opened: Any, session: gr.State, deck: Deck, message: gr.HTML, controls: dict[str, Any], drawing: dict[str, Any]
    ) -> None:
        """Connects the dialog, and what a link opens.

        Args:
            opened: the event of a page that has its session.
            session: the visitor's `Session`.
            deck: whose vamps are shared, and which shows those of a link.
            message: the line about the source.
            controls: by name, in the order of `CONTROLS`.
            drawing: the event that draws the picture anew.
        """
        each = {**QUIET, "trigger_mode": "multiple"}
        deck.takes.select(self.ask, session, self.dialog, concurrency_limit=None, **each)
        self.dialog.select(self.act, session, self.dialog, concurrency_limit=2, **each)
        brought = opened.then(self.restore, session, [message, deck.takes, *controls.values()], **OPENING, **QUIET)
        brought.then(**drawing).then(self.track, session, None, concurrency_limit=4, **QUIET).then(**drawing)

    # ---- dialog -------------------------------------------------------------------------------------------------------

    def ask(self, session: Session, request: gr.Request, event: gr.EventData) -> Any:
        """The deck's button was pressed: what the dialog shows."""
        if getattr(event, "action", None) != "share":
            return gr.skip()
        vamp = _find(session, getattr(event, "vamp", None))
        if vamp is None:
            return self._shown(session, request, stage="sorry", problem=say("share.gone", session.language))
        if vamp.get("coming"):
            return self._shown(session, request, stage="sorry", problem=say("share.coming", session.language))
        return self._shown(
            session, request, stage="ask", vamp=vamp["id"], title=vamp["title"], parent=bool(self._parent_of(vamp)),
            longest=[LONGEST_TITLE, LONGEST_NOTE],
        )  # fmt: skip

    def act(self, session: Session, request: gr.Request, event: gr.EventData) -> Any:
        """A button of the dialog was pressed."""
        action = getattr(event, "action", None)
        try:
            if action == "share":
                return self._share(session, request, event)
            if action == "delete":
                self.gallery.delete(str(getattr(event, "id", "")), owner=owner_of(request.cookies))
        except GalleryError as error:
            return self._shown(
                session, request, stage="again", problem=say(f"share.{error.reason}", session.language, **error.values)
            )
        except NotShared:
            pass  # deleted already, perhaps by its link: the list will tell
        return self._shown(session, request, stage="list")

    def _share(self, session: Session, request: gr.Request, event: gr.EventData) -> dict[str, Any]:
        shown = _find(session, getattr(event, "vamp", None))
        if shown is None or shown.get("coming"):
            key = "share.gone" if shown is None else "share.coming"
            return self._shown(session, request, stage="sorry", problem=say(key, session.language))
        try:
            vamp = read_bundle(shown["folder"])
        except ValueError:
            key = "share.gone" if shown["source_track"] else "share.no_source"
            return self._shown(session, request, stage="sorry", problem=say(key, session.language))
        if vamp.beats is None and shown["beats"]:
            # Tracked for the page and not for the vamp: whoever opens the link wants them too.
            found = BeatGrid(tuple(shown["beats"]), tuple(shown["downbeats"]), shown["tempo"])
            vamp = dataclasses.replace(vamp, beats=found)
        title, note, private = (getattr(event, name, "") for name in ("title", "note", "private"))
        # Left as the studio has put it there, it is told to everybody in their own language.
        named = shown.get(NAMED) if title == shown["title"] else None
        owner = owner_of(request.cookies)
        with self.limit.counted(request, owner) as weigh:
            shared, secret = publish(
                self.gallery, vamp, title=str(title), note=str(note), private=private is True, parent=self._parent_of(shown),
                owner=owner, source_name=shown["source"], named=named,
            )  # fmt: skip
            weigh(shared.bytes)
        shown["shared"] = shared.id
        return self._shown(session, request, stage="done", id=shared.id, secret=secret, title=shared.title, known=bool(owner))

    def _parent_of(self, shown: dict[str, Any]) -> str:
        """Id of the shared vamp that a vamp of the session came from, if that is still there."""
        try:
            return self.gallery.get(shown.get("origin") or "").id
        except NotShared:
            return ""

    def _shown(self, session: Session, request: gr.Request, **values: Any) -> dict[str, Any]:
        """The dialog's value, with the list of what the visitor has shared."""
        mine = self.gallery.of_owner(owner_of(request.cookies))
        named = [(one, shared_title(one, session.language)) for one in mine]
        # `at`: a value like the one before is no news for the browser, and the dialog would not open a second time.
        shown = [{"id": one.id, "title": title, "created": one.created} for one, title in named]
        return {**values, "mine": shown, "at": secrets.token_hex(4)}

    # ---- a link opens in the studio -----------------------------------------------------------------------------------

    def restore(self, session: Session, request: gr.Request) -> list[Any]:
        """[message, takes, value of each control] of the vamp in the page's address, if it names one."""
        id = request.query_params.get(PARAMETER) or ""
        nothing = [gr.skip()] * (2 + len(CONTROLS))
        if not id or session.brought == id:  # the page was loaded anew
            return nothing
        try:
            shared = self.gallery.get(id)
            if shutil.disk_usage(self.handlers.files.root).free < ROOM + shared.bytes:
                return [notice(say("share.full", session.language), "error"), *nothing[1:]]
            settings = self.gallery.settings(id)
            bring = self._bring_takes if shared.private else self._bring_all
            values = self._values(settings, bring(session, shared, settings))
        except (NotShared, ValueError, OSError) as error:
            log.info("A link was not opened: %s", error)
            words = f"{say('share.missing.title', session.language)}. {say('share.missing.sentence', session.language)}"
            return [notice(words, "error"), *nothing[1:]]
        key = "share.restored.private" if shared.private else "share.restored"
        title, session.brought = shared_title(shared, session.language), id
        told = notice(say(key, session.language, title=title), "ready")
        return [told, list(session.vamps), *(gr.update(value=value) for value in values)]

    def track(self, session: Session) -> None:
        """Finds the beats of what a link brought, where they were not stored with it."""
        if session.source is not None and session.source.origin:
            session.source.track()

    def _values(self, settings: dict[str, Any], mask: Tensor | None) -> list[Any]:
        """The value of each control, within its slider. What is stored is cut to whole bars and made longer already: neither is
        done again, and what was made anew in a longer clip is painted."""
        given = {**settings, "bars": None, "extend": None}
        if any(settings.get("extend") or ()):
            given["painted"] = True
        values = restore(given, mask)
        for control in CONTROLS:
            if control.step is not None:
                values[control.name] = min(max(values[control.name], control.low), control.high)
        return [capped(name, values[name], self.handlers.shelf.shape) for name in NAMES]

    def _bring_all(self, session: Session, shared: Shared, settings: dict[str, Any]) -> Tensor:
        """Source and takes; returns the mask."""
        vamp = self.gallery.read(shared.id)
        name = str(settings["extra"].get("source_name") or "") or say("share.source_unnamed", session.language)
        source = read_source(session, self.gallery.path_of(shared.id, settings["source_file"]), name)
        source.grid, source.origin = vamp.beats, shared.id
        request = Request(vamp.prompt, vamp.sampling, len(vamp.takes), vamp.seed, vamp.loop)
        shown = keep_vamp(session, vamp, request, source)
        shown["shared"] = shared.id
        _name(shown, shared, session)
        session.use(source)
        return vamp.mask

    def _bring_takes(self, session: Session, shared: Shared, settings: dict[str, Any]) -> None:
        """The takes alone."""
        folder = session.new_folder()
        shown = page_vamp(shared, settings, session.language, lambda name: str(folder / name))
        for name in (*settings["files"], *(one["file"] for one in shown["files"])):
            bring_file(self.gallery.path_of(shared.id, name), folder / name)
        shown |= {"id": folder.name, "folder": str(folder), "shared": shared.id}
        _name(shown, shared, session)
        session.add_vamp(shown)


def bring_file(path: Path, place: Path) -> None:
    """A file of the gallery in a session's folder: one more name of it where the disk can do that, which stays when the first
    is deleted, and a copy elsewhere."""
    try:
        os.link(path, place)
    except OSError:
        shutil.copyfile(path, place)


def _name(shown: dict[str, Any], shared: Shared, session: Session) -> None:
    """Gives what a link brought the title that it was shared under."""
    named = shared.page.get(NAMED)
    if say_title(named, session.language) or shared.title:
        shown["title"] = shared_title(shared, session.language)
        shown[NAMED] = named if say_title(named) else None


def _find(session: Session, vamp: Any) -> dict[str, Any] | None:
    """The vamp of this session with that id: nobody shares another's."""
    return next((kept for kept in session.vamps if kept["id"] == vamp), None)
