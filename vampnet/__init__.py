"""VampNet: masked acoustic token modeling of music. A loop goes in, seamless variations come out.

`VampNet` and `Vamp` are loaded when they are first asked for, so that importing the package is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vampnet.config import MASK, CancelledError, Prompt, Sampling, TokenGrid

if TYPE_CHECKING:
    from vampnet.pipeline import Vamp, VampNet

__all__ = ["MASK", "CancelledError", "Prompt", "Sampling", "TokenGrid", "Vamp", "VampNet", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("Vamp", "VampNet"):
        from vampnet import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module 'vampnet' has no attribute {name!r}")
