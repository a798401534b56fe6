"""What happens where memory is short: the same work with fewer items at a time, then on the CPU, and somebody is told.

A stage that fails for lack of memory is begun again from its start. Every item has its own random numbers, so what comes of it
is what would have come of it at once, up to the rounding of another batch or device.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from vampnet.device import is_shortage
from vampnet.device_steps import forget
from vampnet.kept_memory import give_back
from vampnet.model.fast import FastTransformer, fast_bfloat16
from vampnet.progress import tell_of_shortage
from vampnet.sentences import Sentence

Result = TypeVar("Result")


class MemoryShortage(ValueError):
    """Even the least that the work needs is not there; its message is one sentence for people."""


def within_memory(
    work: Callable[[Sequence[Any], torch.device, int], Result],
    models: Sequence[Any],
    device: str | torch.device,
    batch: int = 1,
) -> Result:
    """`work(models, device, batch)`; where memory is short, again with half as many items at a time, and at last on the CPU.

    First of all what was kept for later is let go of, where there is any; of that nobody is told.

    Args:
        work: may be called several times, and does all of it each time. It takes its inputs to the device that it is given.
        models: what it computes with, on `device`; on the CPU it is given copies, and these stay as they are.
        device: where to compute.
        batch: items at a time.

    Raises:
        MemoryShortage: there is too little of it for one item at a time on the CPU.
        Exception: what `work` raises for any other reason.
    """
    device, spared = torch.device(device), False
    while True:
        try:
            return work(models, device, batch)
        except Exception as error:
            if not is_shortage(error):
                raise
        # Here the error is gone, with the frames that it came through and what they held.
        if release() and not spared:
            spared = True
        elif batch > 1:
            batch //= 2
            tell_of_shortage("batch")
        elif device.type != "cpu":
            models, device = tuple(on_cpu(model) for model in models), torch.device("cpu")
            tell_of_shortage("cpu")
        else:
            raise MemoryShortage(Sentence("There is not enough memory for this: close other programs, or use a shorter clip."))


def on_cpu(model: Any) -> Any:
    """A copy of a model on the CPU, made without any more memory on its device.

    Args:
        model: a module, or anything with a method `on_cpu` that gives such a copy.
    """
    if not isinstance(model, nn.Module):
        return model.on_cpu()
    model.eval()  # lets go of what was computed in advance
    copies: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        here = tensor.detach().to("cpu", copy=True)
        copies[id(tensor)] = nn.Parameter(here, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else here
    # What is in `copies` is taken from there and not copied.
    moved = copy.deepcopy(model, copies).to("cpu")
    if isinstance(moved, FastTransformer) and not fast_bfloat16():
        moved.widen()
    return moved


def release() -> bool:
    """Gives the memory of what nobody refers to any more back to the system and to the device.

    Returns:
        Whether there was anything that was kept for later, and is not any more.
    """
    kept = forget()
    gc.collect()
    give_back()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
    return kept
