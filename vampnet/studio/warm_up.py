"""What makes the first vamp and the first beat tracking slow, done before anybody asks for them."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from vampnet import beats, first_import
from vampnet.compiling import rehearse

if TYPE_CHECKING:
    from vampnet.studio.shelf import ModelShelf

POLL_SECONDS = 0.5

log = logging.getLogger(__name__)


def warm_up(shelf: ModelShelf) -> None:
    """Once there is a model, makes a vamp of half a second with it, and then, when nobody vamps, readies the beat tracker.

    Call it in a thread of its own. It never raises: what fails here is reported where it is needed.
    """
    # Other processes compile librosa meanwhile, if nobody has; whoever wants beats then waits for them or finds them done.
    threading.Thread(target=_prove, name="first-import", daemon=True).start()
    shelf.wait()
    if not shelf.loaded:
        return
    try:
        shelf.use(rehearse)
    except Exception:  # whoever vamps next is told
        log.debug("The rehearsal failed", exc_info=True)
    # Importing and compiling keep the interpreter to themselves, and a vamp would wait for it at every step.
    while not shelf.idle:
        time.sleep(POLL_SECONDS)
    beats.warm_up()


def _prove() -> None:
    try:
        first_import.prove()
    except ValueError:  # whoever tracks beats is told
        log.debug("librosa crashes", exc_info=True)
