"""What a program that vamps settles first, for all that runs in its process. A library must not."""

from __future__ import annotations

import os
import sys
import warnings

from vampnet.kept_memory import keep_freed_memory

SPINS = 3000
"""Rounds of a waiting loop. On two idle cores 3,000 lose nothing against libgomp's 300,000; beside a program that keeps one of
them busy a vamp takes two thirds of the time, since nobody spins while the other thread waits for its core."""


def prepare() -> None:
    """Call it before anything imports torch."""
    wait_shortly()
    keep_freed_memory()
    # The server's own default believes what anybody on this computer writes of who asks; `--gallery-proxies` says whom.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
    # dac makes its layers by an interface that torch calls deprecated. To catch that where they are made is not enough: while
    # one thread does, another that has done it puts the filters back.
    warnings.filterwarnings("ignore", message=r"`torch\.nn\.utils\.weight_norm`", category=FutureWarning)


def wait_shortly() -> bool:
    """Makes torch's threads go to sleep soon when one of them is late.

    Returns:
        Whether it can have an effect: not once torch is there, nor where the user has said how threads are to wait.
    """
    if "torch" in sys.modules or {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        return False
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    return True
