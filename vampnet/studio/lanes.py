"""The lines in which events wait for the model: how many of each kind are under way at once, for all visitors together."""

from __future__ import annotations

from typing import Any

AT_ONCE = 4
"""Vamps under way at once. They take turns with the model step by step (`vampnet.serving`); what this bounds is memory, and how
slow each of them becomes."""

MODEL_LANE: dict[str, Any] = {"concurrency_limit": AT_ONCE, "concurrency_id": "model"}
"""Whatever takes long on the page: vamps, rounds and comps."""
PROGRAM_LANE: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "programs"}
"""What programs ask for: however much that is, visitors of the page do not stand behind it."""
LONGEST_QUEUE = 256
"""Events that may wait; what comes beyond them is told so."""
PREVIEW_LANE: dict[str, Any] = {"concurrency_limit": 2, "concurrency_id": "preview"}
"""What is short and waited for, such as hearing what is kept: it stands behind no vamp."""
