"""What numba and the models work out once: done before anybody waits for it. And the command `vampnet compile`."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from vampnet import first_import
from vampnet.config import SAMPLE_RATE, Prompt, Sampling

if TYPE_CHECKING:
    from vampnet.pipeline import VampNet

CLIP_SECONDS = 0.5


def rehearse(model: VampNet) -> None:
    """The shortest vamp that goes through all stages: imports what they need and has the models precompute what they keep.

    A model that computes elsewhere would ask for a GPU, and its process keeps nothing of it.
    """
    if getattr(model, "elsewhere", False):
        return
    import numpy as np

    noise = 0.1 * np.random.default_rng(0).standard_normal((round(CLIP_SECONDS * SAMPLE_RATE), 2))
    model.vamp((SAMPLE_RATE, noise.astype(np.float32)), Prompt(), Sampling(steps=1, fine_steps=1), takes=1, loop=True)


def add_parser(commands: Any) -> None:
    """Adds `compile` to the subparsers of the command line."""
    compiling = commands.add_parser(
        "compile",
        help="compile now what the first vamp would wait for",
        description="Compiles for this computer what the first vamp and the first beats would wait for, and keeps it on the "
        "disk: for what installs the program or builds an image of it. Where that has been done it takes seconds.",
    )
    compiling.add_argument("--model", default="mini", help="the model to compile for (default: mini)")
    compiling.add_argument("--device", help="cuda, mps or cpu (default: the best there is)")


def run(options: argparse.Namespace) -> None:
    """Compiles in this process what vamps need, and beside it in others what librosa does.

    Raises:
        ValueError: there is nowhere to keep what is compiled; the model cannot be loaded; librosa crashes
            (`vampnet.first_import`).
    """
    from vampnet.pipeline import VampNet

    if first_import.find_cache() is None:
        raise ValueError("What is compiled can be kept nowhere: set NUMBA_CACHE_DIR to a folder that you may write to.")
    sys.stderr.write("Compiling for this computer: that takes up to a minute, once.\n")
    start = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        beats = pool.submit(first_import.prove)
        rehearse(VampNet.from_pretrained(options.model, options.device))
        beats.result()
    sys.stderr.write(f"Compiled, in {time.monotonic() - start:.0f} s.\n")
