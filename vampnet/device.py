"""Which device computes, and what it is like: whether it answers late, how it says that its memory is full."""

from __future__ import annotations

import torch

from vampnet.sentences import Sentence


def best_device() -> str:
    """ "cuda" if there is such a device, else "mps", else "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_device(device: str | torch.device | None) -> str | torch.device:
    """`device`, or the best there is for None; ValueError if it cannot be used here."""
    chosen = best_device() if device is None else device
    try:
        torch.empty(1, device=chosen).cpu()  # which one without memory cannot
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            Sentence("The device '{chosen}' cannot be used here: leave it out, or use cpu.", chosen=chosen)
        ) from error
    return chosen


def cpu_has(*instructions: str) -> bool:
    """Whether torch finds one of some sets of instructions in this CPU: "vnni" (of AVX-512), "avx512_bf16", "amx_tile"."""
    # Torch may stop to tell: then the CPU is taken for one without them.
    return any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in instructions)


def answers_late(device: torch.device) -> bool:
    """Whether what is asked of a device is done while the computer goes on, so that looking at a result means waiting."""
    return device.type == "cuda"


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there was too little memory, of the computer or of the device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
