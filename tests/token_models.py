"""Small models with behaviour that tests can foretell, and what fills tokens with them."""

import threading
from functools import partial

import torch
from torch import nn

from vampnet import decoding as g
from vampnet.config import MASK, Sampling, TransformerConfig
from vampnet.sampling import take_generator
from vampnet.windows import reach as most_steps

POISON = 777
"""A code that the models here never predict: where it shows up, something was taken from the masked source."""

plain = partial(Sampling, guidance=0.0, palette=0.0, recall=0.0)
"""Options under which a model is asked once a step, and nothing is seen of what is masked."""
GREEDY = plain(temperature=0, mask_temperature=0)


class LocalModel(nn.Module):
    """Sees `reach` steps to each side, alike everywhere, and records what it is called with."""

    def __init__(self, levels=4, conditioning=0, context=40, reach=2, seed=0):
        super().__init__()
        self.config = TransformerConfig(levels, conditioning, dim=16, heads=2, layers=1, context=context)
        generator = torch.Generator().manual_seed(seed)
        self.vectors = nn.Parameter(torch.randn(levels, MASK + 1, 12, generator=generator))
        self.kernel = nn.Parameter(torch.randn(12, 12, 2 * reach + 1, generator=generator) / 6)
        self.head = nn.Parameter(torch.randn(self.config.n_predicted, 12, 1024, generator=generator))
        self.seen, self.asked, self.rings = [], [], []
        self.eval()

    def forward(self, tokens, where=None, ring=False):
        batch, levels, steps = tokens.shape
        assert levels == self.config.n_codebooks and steps <= most_steps(self.config.context)
        assert tokens.min() >= 0 and tokens.max() <= MASK
        self.seen.append(tokens.clone())
        self.asked.append(where.clone())
        self.rings.append(ring)
        hidden = sum(self.vectors[k][tokens[:, k]] for k in range(levels)).transpose(1, 2)
        side = self.kernel.shape[-1] // 2
        if ring:
            hidden = hidden[..., torch.arange(-side, steps + side) % steps]
        else:
            hidden = nn.functional.pad(hidden, (side, side))
        hidden = torch.tanh(nn.functional.conv1d(hidden, self.kernel))
        item, level, step = where.nonzero(as_tuple=True)
        logits = torch.einsum("md,kdv->mkv", hidden[item, :, step], self.head)[torch.arange(len(level)), level]
        logits[:, POISON] = -1e9
        return logits


class TinyTransformer(nn.Module):
    """Every step sees every other one: real attention, whose rounding depends on the shape of the batch."""

    def __init__(self, levels, conditioning, context):
        super().__init__()
        self.config = TransformerConfig(levels, conditioning, dim=32, heads=2, layers=1, context=context)
        torch.manual_seed(0)
        self.vectors = nn.ModuleList(nn.Embedding(MASK + 1, 32) for _ in range(levels))
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.head = nn.Linear(32, 1024 * self.config.n_predicted)
        self.eval()

    def forward(self, tokens, where=None, ring=False):
        hidden = self.layer(sum(vectors(tokens[:, k]) for k, vectors in enumerate(self.vectors)))
        logits = self.head(hidden).unflatten(-1, (-1, 1024)).transpose(1, 2)
        return logits if where is None else logits[where]


class FlatModel(LocalModel):
    """Every token is as likely as every other: what comes out is the noise."""

    def forward(self, tokens, where=None, ring=False):
        return torch.zeros_like(super().forward(tokens, where, ring))


def source(batch=1, levels=4, steps=40, seed=0):
    return torch.randint(0, 700, (batch, levels, steps), generator=torch.Generator().manual_seed(seed))


def random_mask(batch=1, levels=4, steps=40, share=0.7, seed=0):
    return torch.rand(batch, levels, steps, generator=torch.Generator().manual_seed(seed)) < share


def poisoned(tokens, mask):
    return tokens.masked_fill(mask, POISON)


def generators(n, seed=0):
    return [take_generator(seed, i) for i in range(n)]


def fill(model, tokens, mask, steps=6, sampling=None, seed=0, **kwargs):
    return g.fill(model, tokens, mask, steps, sampling or plain(), generators(len(tokens), seed), **kwargs)


def assert_filled(before, after, mask):
    mask = mask.expand_as(before)
    assert after.dtype == torch.int64 and after.shape == before.shape
    assert torch.equal(after[~mask], before[~mask]), "kept tokens must not change"
    assert after.min() >= 0 and after.max() < 1024, "no MASK may be left"
    assert not (after[mask] == POISON).any(), "every masked token must be made anew"


class Held(nn.Module):
    """A transformer that waits in its next call once `armed`, until `go`."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config
        self.armed, self.waits, self.go = threading.Event(), threading.Event(), threading.Event()
        self.eval()

    def forward(self, tokens, where=None, ring=False):
        if self.armed.is_set():
            self.waits.set()
            assert self.go.wait(30)
        return self.model(tokens, where=where, ring=ring)
