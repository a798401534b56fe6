"""What makes the first vamp and the first beat tracking slow, done before anybody asks for them."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import numpy as np

from vampnet import beats
from vampnet.config import SAMPLE_RATE, Prompt, Sampling

if TYPE_CHECKING:
    from vampnet.pipeline import VampNet
    from vampnet.studio.shelf import ModelShelf

CLIP_SECONDS = 0.5
POLL_SECONDS = 0.5

log = logging.getLogger(__name__)


def warm_up(shelf: ModelShelf) -> None:
    """Once there is a model, makes a vamp of half a second with it, and then, when nobody vamps, readies the beat tracker.

    Call it in a thread of its own. It never raises: what fails here is reported where it is needed.
    """
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


def rehearse(model: VampNet) -> None:
    """The shortest vamp that goes through all stages: imports what they need and has the models precompute what they keep.

    A model that computes elsewhere would ask for a GPU, and its process keeps nothing of it.
    """
    if getattr(model, "elsewhere", False):
        return
    noise = 0.1 * np.random.default_rng(0).standard_normal((round(CLIP_SECONDS * SAMPLE_RATE), 2))
    model.vamp((SAMPLE_RATE, noise.astype(np.float32)), Prompt(), Sampling(steps=1, fine_steps=1), takes=1, loop=True)
