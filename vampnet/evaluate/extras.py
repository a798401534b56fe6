"""The packages of `requirements/evaluate.txt`, imported when they are used, with one sentence where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(name: str) -> ModuleType:
    """The module `name`, such as "mir_eval.beat".

    Raises:
        ModuleNotFoundError: it is not installed; the sentence says what to do.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.split(".")[0]
        raise ModuleNotFoundError(
            f"Measuring needs '{package}', which is not installed: python -m pip install -r requirements/evaluate.txt",
            name=package,
        ) from error
