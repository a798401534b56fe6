"""The loop deck: the takes of a vamp beside its source, and what its buttons do. What plays is in `web/deck.js`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vampnet.studio.handlers import Handlers
from vampnet.studio.notices import is_error, notice
from vampnet.studio.players import find_take, told_beats
from vampnet.studio.session import MAX_FAVOURITES, Session, has_favourite
from vampnet.studio.text import say, tell

SCRIPTS = ("text.js", "run.js", "player.js", "parts.js", "track.js", "shelf.js", "deck.js")
STYLES = ("colours.css", "deck.css")
"""The files in `web/` with which the deck works on a page without Gradio, after `text.script()`; the page itself gives the
colours that `style.css` names --vs-*, and a class "dark" where it is dark."""
TAKES_HTML = '<div class="vs-takes"></div>'


class Deck:
    """The deck of one page, laid out where it is made.

    Attributes:
        takes: shows `session.vamps`, the newest on the deck. Its "select" event has an `action`: "use" and "again" (with
            `vamp`, an id, and `take`, a number: 0 is the source), "favourite" (also `on`), "choose" (a vamp was put on the
            deck) and what other rooms add; what it does not know it ignores.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers
        self.takes = gr.HTML(
            [], html_template=TAKES_HTML, js_on_load="VampStudio.deck.connect(element, props, watch, trigger)", elem_id="takes",
            apply_default_css=False,
        )  # fmt: skip
        # They count, so that what follows on a button follows on no other.
        self._uses, self._agains = gr.State(0), gr.State(0)

    def wire(self, session: gr.State, message: gr.HTML) -> tuple[Any, Any]:
        """Connects the buttons.

        Returns:
            Two events: a take became the source; and it is to be vamped at once.
        """
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        outputs = [message, self.takes, self._uses, self._agains]
        # "multiple": what is pressed while an earlier press is still on its way must not be lost.
        self.takes.select(self.act, [session, self._uses, self._agains], outputs, trigger_mode="multiple", **quiet)
        return self._uses.change(lambda: None, **quiet), self._agains.change(lambda: None, queue=False, **quiet)

    def act(self, session: Session, uses: int, agains: int, event: gr.EventData) -> list[Any]:
        """Does what a button of the deck asks for: [message, takes, uses, agains]."""
        action, given = getattr(event, "action", None), (getattr(event, "vamp", None), getattr(event, "take", None))
        nothing = [gr.skip()] * 4
        try:
            if action == "favourite":
                return self._favour(session, *given, bool(getattr(event, "on", False)))
            if action not in ("use", "again"):
                return nothing
            take = find_take(session, *given)
        except ValueError as error:
            return [notice(tell(error, session.language), "error"), list(session.vamps), gr.skip(), gr.skip()]
        if action == "again" and session.request is not None:
            return [notice(say("deck.busy", session.language), "error"), *nothing[1:]]
        told = self._handlers.choose(session, take["sound"], take["name"])
        if is_error(told) or not isinstance(told, str):  # it could not be read, or another was chosen after it
            return [told, *nothing[1:]]
        return [told, gr.skip(), uses + 1, agains + (action == "again")]

    def late_beats(self, session: Session) -> Any:
        """The takes, if the beats of their source were found after them; to be called when a source was tracked."""
        source, found = session.source, False
        if source is None or source.grid is None or not source.grid.beats:
            return gr.skip()
        for vamp in session.vamps:
            alias = (vamp["source_track"] or {}).get("alias")
            if alias and not vamp["beats"] and alias["sound"] == str(source.path):
                start, end = (round(alias[edge] * source.rate) for edge in ("start", "end"))
                vamp.update(told_beats(source.beats_between(start, end)))
                session.changed(vamp)
                found = True
        return list(session.vamps) if found else gr.skip()

    def _favour(self, session: Session, vamp: Any, number: Any, on: bool) -> list[Any]:
        """Puts a star on a take or takes it off."""
        take = find_take(session, vamp, number)
        starred = [kept for kept in session.vamps if has_favourite(kept)]
        shown = next(kept for kept in session.vamps if kept["id"] == vamp)
        if on and len(starred) >= MAX_FAVOURITES and all(kept["id"] != vamp for kept in starred):
            told = notice(say("deck.full", session.language, most=MAX_FAVOURITES), "error")
            # The page has put the star on already, and listens only to what is new.
            take["refused"] = take.get("refused", 0) + 1
        else:
            take["favourite"], told = on, gr.skip()
        session.changed(shown)
        return [told, list(session.vamps), gr.skip(), gr.skip()]
