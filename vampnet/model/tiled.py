"""A transformer by tiles, for CPUs that have instructions for them: the same model as `FastTransformer`, in fewer passes."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from vampnet import tile_passes
from vampnet.model.fast import FastTransformer
from vampnet.model.half import Matrices
from vampnet.model.transformer import TokenTransformer
from vampnet.tile_passes import Parts, TileMatrix


class TiledTransformer(FastTransformer):
    """A `FastTransformer`, in "int8" or "bfloat16", of a shape that `tile_passes.can_be_tiled`. It stays on the CPU."""

    def _take(self, model: TokenTransformer) -> None:
        matrix = partial(TileMatrix, precision=self.precision)
        self.layers = nn.ModuleList(Matrices(layer, matrix) for layer in model.layers)
        classifiers = [matrix(weight, None, model.norm.eps, model.norm.weight) for weight, _ in model.heads()]
        self.last = classifiers[0]  # for the norm before all of them
        self.packed = nn.Parameter(torch.stack([classifier.packed for classifier in classifiers]), requires_grad=False)
        for name in ("start", "scale"):
            self.register_buffer(name, torch.stack([getattr(classifier, name) for classifier in classifiers]))
        self.register_buffer("classifier_bias", model.classifier_bias.detach().float().clone())

    def _parts(self, items: int, steps: int) -> Parts:
        return Parts.empty(items, self.config.heads, steps, narrow=self.packed.dtype == torch.int16)

    def _through(self, x: Tensor, steps: int, ring: bool) -> tuple[Tensor, ...]:
        """(B * T, dim) float32 through all layers but what follows the last attention -> what this gives, and x."""
        line, parts, first = self._bias(steps, ring), self._parts(len(x) // steps, steps), self.layers[0]
        tile_passes.by_rows(None, x, first.out, first.into, first.down, first.qkv, parts)
        for layer, following in pairwise(self.layers):
            mixed = tile_passes.mixed(parts, line)
            tile_passes.by_rows(mixed, x, layer.out, layer.into, layer.down, following.qkv, parts)
        return tile_passes.mixed(parts, line), x

    def _everywhere(self, prepared: tuple[Tensor, ...], batch: int, steps: int) -> Tensor:
        where = torch.ones(batch, self.config.n_predicted, steps, dtype=torch.bool)
        return self._classify(prepared, where).view(*where.shape, -1)

    def _classify(self, prepared: tuple[Tensor, ...], where: Tensor) -> Tensor:
        mixed, x = prepared
        asked = where.any(dim=1).flatten()
        if not asked.all():  # nobody looks at what the last layer makes of the other time steps
            mixed, x = mixed[asked], x[asked]
        left = self._left(mixed, x)
        items, levels, steps = where.nonzero().unbind(1)
        places = (asked.cumsum(0) - 1)[items * where.shape[2] + steps]
        matrices = (self.packed, self.start, self.scale, self.classifier_bias)
        return tile_passes.classified(*left, places, levels.contiguous(), *matrices)

    def _left(self, mixed: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.layers[-1]
        return tile_passes.by_rows(mixed, x, layer.out, layer.into, layer.down, self.last, self._parts(0, 0), leaves=True)

    def _read(self, mixed: Tensor, x: Tensor) -> Tensor:
        rows, factors = self._left(mixed, x)
        if rows.dtype == torch.int8:  # the bits of x + 128
            rows = rows.view(torch.uint8).float() - 128
        return rows.float() * factors[:, None]

    def _bias(self, steps: int, ring: bool) -> Tensor:
        key = (steps, ring, self.table.device)
        if key not in self._biases:
            self._biases = {key: tile_passes.line_of(self.bias.line(steps, ring), steps)}
        return self._biases[key]
