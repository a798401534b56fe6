"""The packages of `requirements/evaluate.txt` and `clap.txt`, imported when they are used; where one is missing, a sentence."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(name: str, extra: str = "evaluate") -> ModuleType:
    """The module `name`, such as "mir_eval.beat", of the packages of `requirements/<extra>.txt`.

    Raises:
        ModuleNotFoundError: it is not installed; the sentence says what to do.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.split(".")[0]
        raise ModuleNotFoundError(
            f"Measuring needs '{package}', which is not installed: python -m pip install -r requirements/{extra}.txt",
            name=package,
        ) from error
