"""Decoding steps (paper section 3.3) for a GPU, which the computer never has to wait for.

`decoding` looks at what is masked to choose what to compute, which on a CPU saves most of the work. On a GPU each such look
makes the computer wait until all that was asked for before is done, and only then can it ask for more. Here every shape is
fixed, what is masked and what is damaged stays on the device, and the schedule is known from the counts of the first
moment. So a step can be recorded once as a CUDA graph and replayed: one call instead of some hundred.

Random numbers come from the CPU as everywhere, so that a take is the same on any device up to rounding; they are drawn while
the device computes the step before.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vampnet import graphs, kernels
from vampnet.config import Sampling
from vampnet.guidance import hidden, logits_of, weaker
from vampnet.palette import bias, heard
from vampnet.recall import PLACES, Recalled
from vampnet.sampling import (
    confidence,
    gumbel,
    least_confident,
    mask_count,
    mask_temperature,
    numbers_for,
    typical_levels,
    uniform,
)

KEPT_GRAPHS = 4
"""Recorded steps that a model keeps. All of a device's share the memory of the largest: that of all results of one step."""

WORTH_RECORDING = 8
"""Steps from which on a step is recorded at once; recording takes as long as three. A shorter one is when it is met again."""

STEPS_AHEAD = 2
"""How many steps may be asked for before the first of them is done: enough to keep the device busy, and progress stays true."""


class DeviceStep:
    """One step of decoding for B items, in place, on tensors of fixed shape.

    Args:
        model: in eval mode; `model(tokens, ring=bool)` gives logits (B, n_predicted, T, V).
        sampling: the filters, the guidance, the palette, the recall and the temperature; 0 = the likeliest token.
        shape: (B, K, T) of the tokens.
        ring: the last time step is followed by the first.
        device: of the model.

    Attributes:
        sampling: as given.
        busy: taken while somebody uses the step.
        tokens: (B, K, T) int64, MASK where masked.
        masked: (B, n_predicted, T) bool.
        u: (B, n_predicted, T) float32, or (B, n_predicted, T, n): uniform numbers for the draws, see `numbers_for`.
        noise: (B, n_predicted, T) float32, Gumbel numbers for the confidence.
        weight: () float32, of the noise.
        left: (B,) int64: how many tokens are masked after the step.
        hidden: (T,) bool: what the weaker model does not see, where there is guidance.
        shares: (B, n_predicted, V) float32 of the palette, where there is one.
        memory: what is recalled, where something is.
        damaged: () bool: some logits were not finite, in this step or before it.
    """

    def __init__(
        self, model: nn.Module, sampling: Sampling, shape: tuple[int, int, int], ring: bool, device: torch.device
    ) -> None:
        batch, levels, steps = shape
        self.first = model.config.n_conditioning
        self.sampling = sampling
        self._model, self._ring = weakref.ref(model), ring
        predicted = (batch, levels - self.first, steps)
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=device)
        self.masked = torch.zeros(predicted, dtype=torch.bool, device=device)
        self.u = torch.zeros(numbers_for(predicted, sampling), device=device)
        self.typical = typical_levels(predicted, self.first, device)
        self.noise = torch.zeros(predicted, device=device)
        self.weight = torch.zeros((), device=device)
        self.left = torch.zeros(batch, dtype=torch.int64, device=device)
        self.hidden = torch.zeros(steps, dtype=torch.bool, device=device)
        self.shares = torch.zeros(*predicted[:2], model.config.codebook_size if sampling.palette else 0, device=device)
        found = *predicted, min(PLACES, steps) if sampling.recall else 0
        self.memory = Recalled(
            torch.zeros(found, dtype=torch.int64, device=device),
            torch.zeros(found, device=device),
            torch.zeros(*predicted[:2], model.config.codebook_size if sampling.recall else 0, device=device),
        )
        self.heard = heard(steps).to(device)
        self.damaged = torch.zeros((), dtype=torch.bool, device=device)
        self.busy = threading.Lock()
        self._ahead: deque[torch.cuda.Event] = deque()
        self._run: Callable[[], None] = self._step
        self._read: list[Tensor] = []  # what a recorded step reads must not be freed when the model lets go of it

    @torch.no_grad()
    def _step(self) -> None:
        model = self._model()
        assert model is not None, "the step is kept by its model"
        logits = logits_of(model, self.tokens, self.hidden, self.first, self.sampling.guidance, ring=self._ring)
        # Levels last, as a model lays them out: in another order all of them would be copied first.
        logits = logits.transpose(1, 2).float().contiguous()
        if self.sampling.recall:
            codes, more = (of.transpose(1, 2) for of in self.memory[:2])
            logits = (logits - self.memory.less[:, None]).scatter_add_(-1, codes, more)
        if self.sampling.palette:
            logits = logits + self._palette(logits)
        u, typical = self.u.transpose(1, 2).contiguous(), self.typical.transpose(1, 2)
        chosen, log_p = kernels.chosen(logits, u, self.sampling, model.config.label_smoothing, typical)
        chosen, log_p = chosen.transpose(1, 2), log_p.transpose(1, 2)
        self.damaged |= (~log_p.isfinite() & self.masked).any()
        again = least_confident(confidence(log_p, self.noise, self.weight), self.masked, self.left)
        own = self.tokens[:, self.first :]
        own.copy_(torch.where(self.masked & ~again, chosen, own))
        self.masked.copy_(again)

    def _palette(self, logits: Tensor) -> Tensor:
        """(B, T, n_predicted, V) float32 -> (B, 1, n_predicted, V) to be added, as `palette.keep_to` does, of all tokens."""
        some = self.masked & self.heard
        p = logits.softmax(dim=-1).mul_(some.transpose(1, 2)[..., None]).sum(dim=1)
        own = self.tokens[:, self.first :]
        return bias(p, some.sum(dim=-1), own, self.masked, self.shares, self.sampling.palette)[:, None]

    def run(self) -> None:
        """Does the step, or asks the device for it."""
        self._run()
        if self.tokens.is_cuda:
            self._ahead.append(torch.cuda.current_stream(self.tokens.device).record_event())
            if len(self._ahead) > STEPS_AHEAD:
                self._ahead.popleft().synchronize()

    @property
    def recorded(self) -> bool:
        """Whether `run` replays a recording."""
        return self._run != self._step

    def record(self) -> None:
        """Records the step as a CUDA graph, which `run` replays from then on; what the tensors hold is lost. Where it cannot
        be recorded, `run` does it as before.

        Raises:
            Exception: `is_shortage` of memory.
        """
        recording = graphs.recorded(self._step, self.tokens.device)
        if recording is not None:
            self._run, model = recording.replay, self._model()
            self._read = [tensor for one in (model, weaker(model)) if hasattr(one, "constants") for tensor in one.constants()]

    def take_over(
        self, tokens: Tensor, masked: Tensor, shares: Tensor | None = None, memory: Recalled | None = None,
        before: DeviceStep | None = None,
    ) -> None:  # fmt: skip
        """Begins with tokens and a mask, or where another step has left off; that one is free then."""
        self._ahead.clear()
        if shares is not None:
            self.shares.copy_(shares)
        if memory is not None:
            for own, given in zip(self.memory, memory, strict=True):
                own.copy_(given)
        if before is None:
            self.tokens.copy_(tokens)
            self.masked.copy_(masked)
            self.damaged.fill_(False)
            return
        try:
            for name in ("tokens", "masked", "damaged"):
                getattr(self, name).copy_(getattr(before, name))
        finally:
            before.busy.release()

    def give(self, number: int, u: Tensor, noise: Tensor, weight: float, left: Tensor) -> None:
        """Takes the numbers of step `number`: of the shapes of the attributes, and (B,) int64, on the CPU."""
        pairs = [(self.u, u), (self.noise, noise), (self.left, left)]
        if self.sampling.guidance:
            pairs.append((self.hidden, hidden(len(self.hidden), number)))
        for own, given in pairs:
            given = given.to(own.dtype)
            # From pinned memory the copy waits its turn on the device, and nobody waits for it.
            own.copy_(given.pin_memory() if own.is_cuda else given, non_blocking=True)
        self.weight.fill_(weight)


_kept: weakref.WeakKeyDictionary[nn.Module, OrderedDict[Hashable, DeviceStep]] = weakref.WeakKeyDictionary()
_keeping = threading.Lock()


def _places(model: nn.Module) -> int:
    """Where a model's weights lie, and in which state: a graph reads them where they were when it was recorded."""
    tensors = (*model.parameters(), *model.buffers())
    return hash(tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors))


def _step_for(
    model: nn.Module, sampling: Sampling, shape: tuple[int, int, int], ring: bool, device: torch.device, steps: int
) -> DeviceStep:
    """A step that nobody else uses, its lock `busy` taken; on CUDA a recorded one, where `steps` of them are worth it."""
    # What does not change a step must not make it another one.
    same = replace(sampling, steps=1, fine_steps=1, feedback=1, mask_temperature=0.0, sample_cutoff=1.0)
    if same.temperature == 0:
        same = Sampling(temperature=0.0, guidance=same.guidance, palette=same.palette, recall=same.recall)
    same = replace(same, recall=float(same.recall > 0))  # how far is in what is recalled
    key = (same, shape, ring, device, _places(model))
    with _keeping:
        kept = _kept.setdefault(model, OrderedDict())
        found = kept.get(key)
        if found is not None and not found.busy.acquire(blocking=False):
            found = None
    step = found
    if step is None:
        step = DeviceStep(model, sampling, shape, ring, device)
        step.busy.acquire()
    worth = found is not None or steps >= WORTH_RECORDING
    if device.type == "cuda" and worth and not step.recorded and not graphs.refused():
        try:
            step.record()
        except Exception:
            step.busy.release()
            raise
    with _keeping:
        kept[key] = step
        kept.move_to_end(key)
        while len(kept) > KEPT_GRAPHS:
            kept.popitem(last=False)
    return step


def forget() -> bool:
    """Lets go of all that is kept, steps and other recordings, and of their memory. Returns whether there was any."""
    with _keeping:
        any_kept = any(kept for kept in _kept.values())
        _kept.clear()
    return graphs.forget_recordings() or any_kept


@torch.no_grad()
def fill_on_device(
    model: nn.Module,
    tokens: Tensor,
    masked: Tensor,
    steps: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    ring: bool,
    before: Callable[[], None],
    after: Callable[[], None],
    shares: Tensor | None = None,
    memory: Recalled | None = None,
) -> Tensor:
    """All steps of some items, which the model sees together, without waiting for the device in between.

    Args:
        model: in eval mode; `model(tokens, ring=bool)` gives logits (B, n_predicted, T, V). Or what stands in for one: its
            `part` is the model, and what its `turn` is given computes when it is its turn.
        tokens: (B, K, T) int64, MASK where masked, on the model's device.
        masked: (B, n_predicted, T) bool there.
        steps, sampling, generators, ring: as in `decoding.fill`.
        before, after: called before and after each of the `steps`.
        shares: (B, n_predicted, V) float32 of the palette, if there is one.
        memory: what is recalled, if something is.

    Returns:
        (B, K, T) int64 on the device, all of it decided; the same as `decoding.fill` gives, up to rounding.

    Raises:
        ValueError: the model's logits are not finite.
    """
    turn = getattr(model, "turn", lambda work: work())
    model = getattr(model, "part", model)
    total = masked.sum(dim=(1, 2)).cpu()
    left, step, likeliest = total, None, replace(sampling, temperature=0.0)
    shape = masked.shape[1:]
    try:
        for number in range(steps):
            if left.any():
                before()
                now = sampling if number < sampling.sample_cutoff * steps else likeliest
                if step is None or now.temperature != step.sampling.temperature:
                    wanted = model, now, tuple(tokens.shape), ring, tokens.device, steps - number
                    before_it, step = step, turn(lambda wanted=wanted: _step_for(*wanted))
                    step.take_over(tokens, masked, shares, memory, before_it)
                u, noise = uniform(numbers_for(shape, sampling), generators), gumbel(shape, generators)
                if u.dim() != step.u.dim():  # the likeliest tokens are not drawn
                    u = u[..., 0]
                left = mask_count(number, steps, total)
                step.give(number, u, noise, mask_temperature(number, steps, sampling.mask_temperature), left)
                turn(step.run)
            after()
        if step is None:
            return tokens
        if bool(step.damaged):
            raise ValueError("The model's logits are not finite: its weights are damaged, or its precision is too low.")
        return step.tokens.clone()
    finally:
        if step is not None:
            step.busy.release()
