"""The masked token transformer (paper section 3.2): tokens with holes -> a distribution for every hole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vampnet.config import MASK, TransformerConfig
from vampnet.model.attention import Layer, RelativeBias, RMSNorm


class CodeGuide(nn.Module):
    """In training, a second way to a classifier's rows: as a linear function of what the codec's vectors look like.

    A free classifier learns each of its rows from the examples of that code alone. Through the guide one example teaches all
    codes that sound alike. It is linear in the features, so it is added to the classifier when the model is saved and
    costs nothing afterwards.

    Args:
        vectors: (n_predicted, codebook_size, D) float, the codec's.
        dim: width of what the classifier reads.
    """

    def __init__(self, vectors: Tensor, dim: int) -> None:
        super().__init__()

        def whitened(x: Tensor) -> Tensor:
            return ((x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True).clamp(min=1e-3)).clamp(-4, 4)

        # With squares, the rows can say how near a code is to what is expected, not only in which direction.
        features = torch.cat([whitened(vectors), whitened(whitened(vectors).square())], dim=2)
        self.register_buffer("features", features)
        self.weight = nn.Parameter(torch.zeros(vectors.shape[0], features.shape[2], dim))

    def rows(self) -> Tensor:
        """(n_predicted, codebook_size, dim), to be added to the classifier."""
        return torch.bmm(self.features, self.weight)


class TokenTransformer(nn.Module):
    """Bidirectional transformer over time steps; each step's input is the codec's vectors of all of its tokens.

    A token's vector is the codec's own codebook vector (a buffer, not trained and not saved: it belongs to the codec), a
    masked token's is a learned vector of its level. They are concatenated over the levels and projected to `config.dim`. The
    output has one classifier of `codebook_size` classes for each predicted level.

    Args:
        config: the shape.
        codebooks: (at least n_codebooks, codebook_size, codebook_dim) float, the codec's vectors, of which the coarsest
            `n_codebooks` levels are used; None = to be given later with `set_codebooks`.

    Attributes:
        distilled: a model of the same shape that says by itself what guidance at the weight `distilled_guidance` would make of
            this one (`vampnet.model.distilled`), where there is one.

    Raises:
        ValueError: the codebooks do not fit the configuration.
    """

    def __init__(self, config: TransformerConfig, codebooks: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        vectors = (config.n_codebooks, config.codebook_size, config.codebook_dim)
        self.register_buffer("codebooks", torch.zeros(vectors), persistent=False)
        self.mask_vectors = nn.Parameter(torch.empty(config.n_codebooks, config.codebook_dim))
        self.input = nn.Linear(config.n_codebooks * config.codebook_dim, config.dim)
        self.bias = RelativeBias(config.heads, config.position_buckets, config.position_max_distance)
        self.layers = nn.ModuleList(
            Layer(config.dim, config.heads, config.ff_mult, config.dropout) for _ in range(config.layers)
        )
        self.norm = RMSNorm(config.dim)
        self.classifier = nn.Parameter(torch.empty(config.n_predicted, config.codebook_size, config.dim))
        self.classifier_bias = nn.Parameter(torch.zeros(config.n_predicted, config.codebook_size))
        self._cache: dict[str, tuple[object, Tensor]] = {}
        self._has_codebooks = False
        self.guide: CodeGuide | None = None
        self.distilled: TokenTransformer | None = None
        self.distilled_guidance = 0.0
        if codebooks is not None:
            self.set_codebooks(codebooks)
        self.reset()

    def set_codebooks(self, codebooks: Tensor) -> None:
        """Take the codec's vectors, (at least n_codebooks, codebook_size, codebook_dim) float; ValueError if they don't fit."""
        wanted = tuple(self.codebooks.shape)
        if codebooks.ndim != 3 or codebooks.shape[0] < wanted[0] or tuple(codebooks.shape[1:]) != wanted[1:]:
            raise ValueError(
                f"This transformer needs codebook vectors of shape {wanted}, and the codec's are {tuple(codebooks.shape)}: "
                "use the codec that it was trained with."
            )
        self.codebooks = codebooks[: wanted[0]].detach().to(self.mask_vectors, copy=True)
        self._cache.clear()
        self._has_codebooks = True

    def add_guide(self) -> None:
        """Adds a `CodeGuide` for training; ValueError without codebook vectors."""
        if not self._has_codebooks:
            raise ValueError("A guide is made of the codec's vectors: give them first with set_codebooks.")
        self.guide = CodeGuide(self.codebooks[self.config.n_conditioning :], self.config.dim).to(self.codebooks.device)

    @torch.no_grad()
    def reset(self) -> None:
        """Draw new weights: unit-variance input, residual branches scaled down by the depth, a nearly flat classifier."""
        config = self.config
        if self.classifier.is_meta:
            return  # nothing to draw, and for the mere shape of a draw torch imports its compiler, which takes a second
        if self._has_codebooks:
            centre, spread = self.codebooks.mean(dim=1), self.codebooks.std(dim=1).clamp(min=1e-3)
        else:
            centre = torch.zeros_like(self.mask_vectors)
            spread = torch.ones_like(centre)
        self.mask_vectors.normal_().mul_(spread).add_(centre)
        # Every dimension of every level enters centred and with the same power, whatever the size of the codec's vectors:
        # the fine levels' are far smaller, and within a level a dimension may be hundreds of times smaller than another.
        fan_in = config.n_codebooks * config.codebook_dim
        self.input.weight.normal_(std=fan_in**-0.5).div_(spread.flatten())
        self.input.bias.copy_(-(self.input.weight @ centre.flatten()))
        self.bias.reset()
        depth = (2 * config.layers) ** -0.5
        for layer in self.layers:
            for linear, scale in (
                (layer.attention.qkv, 1.0),
                (layer.attention.out, depth),
                (layer.feed_forward.into, 1.0),
                (layer.feed_forward.out, depth),
            ):
                linear.weight.normal_(std=scale * linear.in_features**-0.5)
        self.classifier.normal_(std=0.02)
        self.classifier_bias.zero_()

    def forward(self, tokens: Tensor, where: Tensor | None = None, ring: bool = False) -> Tensor:
        """Logits of the predicted levels (n_conditioning .. n_codebooks - 1).

        Args:
            tokens: (B, n_codebooks, T) int64, codes 0..codebook_size-1 and MASK (or any higher number) where unknown.
            where: (B, n_predicted, T) bool; None = everywhere.
            ring: the last time step is followed by the first.

        Returns:
            (B, n_predicted, T, codebook_size) float; with `where` (M, codebook_size), in the order of `x[where]`.

        Raises:
            ValueError: a shape does not fit.
        """
        hidden = self.hidden(tokens, ring)
        if where is None:
            batch, steps, _ = hidden.shape
            logits = F.linear(hidden, self._classifier().flatten(0, 1), self.classifier_bias.flatten())
            return logits.view(batch, steps, self.config.n_predicted, -1).transpose(1, 2)
        expected = (tokens.shape[0], self.config.n_predicted, tokens.shape[2])
        if tuple(where.shape) != expected:
            raise ValueError(f"`where` must have the shape {expected}, and it is {tuple(where.shape)}.")
        return by_item([F.linear(hidden[where[:, level]], *head) for level, head in enumerate(self.heads())], where)

    def loss(
        self,
        tokens: Tensor,
        mask: Tensor,
        label_smoothing: float = 0.1,
        share: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean cross-entropy in nats of the masked tokens given the others (paper section 3.2: on masked tokens only).

        Args:
            tokens: (B, n_codebooks, T) int64, the true codes.
            mask: (B, n_codebooks, T) bool, True = hidden from the model; the conditioning levels should be False.
            label_smoothing: share of the target spread evenly over all classes (0.1).
            share: of the masked tokens, the share that the loss is computed for (drawn at random); less than 1 saves time
                where the classifier is as dear as the rest of the model. The expected gradient is the same.
            generator: for that draw, on the CPU.

        Returns:
            A scalar; 0 if nothing is masked.
        """
        hidden = self.hidden(tokens.masked_fill(mask, MASK))
        first = self.config.n_conditioning
        where, target = mask[:, first:], tokens[:, first:]
        if share < 1:
            where = where & (torch.rand(where.shape, generator=generator).to(where.device) < share)
        count = where.sum().clamp(min=1)
        if hidden.device.type != "cpu":
            # Fixed shapes: no wait for the number of masked tokens, and one graph for torch.compile.
            logits = F.linear(hidden, self._classifier().flatten(0, 1), self.classifier_bias.flatten())
            labels = target.masked_fill(~where, -100).transpose(1, 2)
            size = self.config.codebook_size
            total = F.cross_entropy(
                logits.view(-1, size).float(),
                labels.reshape(-1),
                ignore_index=-100,
                reduction="sum",
                label_smoothing=label_smoothing,
            )
            return total / count
        total = hidden.new_zeros(())
        for level, head in enumerate(self.heads()):
            here = where[:, level]
            logits = F.linear(hidden[here], *head).float()
            total = total + F.cross_entropy(logits, target[:, level][here], reduction="sum", label_smoothing=label_smoothing)
        return total / count

    def hidden(self, tokens: Tensor, ring: bool = False) -> Tensor:
        """(B, n_codebooks, T) int64 with MASK -> (B, T, dim) float, what the classifiers read; ValueError for a wrong shape."""
        if tokens.ndim != 3 or tokens.shape[1] != self.config.n_codebooks:
            raise ValueError(
                f"This model reads tokens of shape (B, {self.config.n_codebooks}, T), and these are {tuple(tokens.shape)}."
            )
        if not self._has_codebooks:
            raise ValueError("This model has no codebook vectors yet: give it the codec's with set_codebooks.")
        fixed = not self.training and not torch.is_grad_enabled()
        x = self._embed_by_table(tokens) if fixed else self._embed(tokens)
        steps = tokens.shape[2]
        if fixed:
            bias = self._cached("bias", (steps, ring), self.bias.parameters(), lambda: self.bias(steps, ring))
        else:
            bias = self.bias(steps, ring)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)

    def heads(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of each level's classifier.

        Unbound at once: indexed one by one, each would get a gradient of the size of all levels.
        """
        return list(zip(self._classifier().unbind(0), self.classifier_bias.unbind(0), strict=True))

    def _classifier(self) -> Tensor:
        return self.classifier if self.guide is None else self.classifier + self.guide.rows()

    def _vectors(self) -> Tensor:
        """(n_codebooks, codebook_size + 1, codebook_dim): the codec's vectors, the MASK vector as the last of each level."""
        return torch.cat([self.codebooks, self.mask_vectors[:, None]], dim=1)

    def _rows(self, tokens: Tensor) -> Tensor:
        """(B, n_codebooks, T) -> (B, T, n_codebooks) int64 rows of a table of all levels' tokens below one another."""
        offsets = torch.arange(self.config.n_codebooks, device=tokens.device) * (self.config.codebook_size + 1)
        return tokens.clamp(max=self.config.codebook_size).transpose(1, 2) + offsets

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.input(F.embedding(self._rows(tokens), self._vectors().flatten(0, 1)).flatten(2))

    def _embed_by_table(self, tokens: Tensor) -> Tensor:
        """The same as `_embed`: concatenate-then-project is linear, so it is a sum of one projected row per level."""
        table = self._cached("table", None, (self.mask_vectors, self.input.weight, self.codebooks), self.projected_vectors)
        rows = self._rows(tokens)
        batch, steps, levels = rows.shape
        x = F.embedding_bag(rows.reshape(-1, levels), table, mode="sum")
        return (x + self.input.bias).view(batch, steps, -1)

    def projected_vectors(self) -> Tensor:
        """(n_codebooks * (codebook_size + 1), dim): what each token of each level adds to the input, MASK as a level's last."""
        weight = self.input.weight.view(self.config.dim, self.config.n_codebooks, self.config.codebook_dim)
        return torch.einsum("kvd,ekd->kve", self._vectors(), weight).flatten(0, 1)

    def _cached(self, name: str, extra: object, sources, make) -> Tensor:
        """`make()`, or the last result of it while the tensors in `sources` are the same and unchanged."""
        key = (extra, *((t.data_ptr(), 0 if t.is_inference() else t._version, t.dtype, t.device) for t in sources))
        entry = self._cache.get(name)
        if entry is None or entry[0] != key:
            entry = self._cache[name] = (key, make())
        return entry[1]

    def constants(self) -> list[Tensor]:
        """What was computed in advance and is still kept."""
        kept = [tensor for _, tensor in self._cache.values()]
        return kept if self.distilled is None else kept + self.distilled.constants()

    def _apply(self, fn, recurse: bool = True):
        self._cache.clear()  # the weights move to another device or type
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> TokenTransformer:
        """As in torch; drops what was precomputed for inference."""
        self._cache.clear()
        return super().train(mode)


def by_item(rows: list[Tensor], where: Tensor) -> Tensor:
    """Rows that were made level by level in the order of their positions.

    Args:
        rows: for each level l the (m_l, V) rows of its True positions, in the order of `x[where[:, l]]`.
        where: (B, levels, T) bool.

    Returns:
        (M, V), in the order of `x[where]`: by item first.
    """
    together = torch.cat(rows)
    if where.shape[0] == 1 or where.shape[1] == 1:
        return together
    place = torch.empty(where.shape, dtype=torch.int64, device=where.device)
    place.transpose(0, 1)[where.transpose(0, 1)] = torch.arange(len(together), device=where.device)
    return together[place[where]]


def without_guide(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a model with a `CodeGuide` as that of the same model without one: its rows are added to the classifier."""
    state = dict(state)
    features, weight = state.pop("guide.features", None), state.pop("guide.weight", None)
    if weight is not None:
        state["classifier"] = state["classifier"].float() + torch.bmm(features.float(), weight.float())
    return state


def transformer_of(config: TransformerConfig, weights: dict[str, Tensor], codebooks: Tensor) -> TokenTransformer:
    """A transformer in eval mode that has `weights` themselves as its parameters: nothing is drawn or copied.

    Args:
        config: the shape.
        weights: name -> float tensor, exactly those of the state of a model of that shape, all on one device.
        codebooks: as in `TokenTransformer`; copied.

    Raises:
        RuntimeError: a tensor is missing, left over or of another shape; check before.
        ValueError: the codebooks do not fit the configuration.
    """
    with torch.device("meta"):
        model = TokenTransformer(config)
    model.load_state_dict(weights, assign=True)
    model.set_codebooks(codebooks)
    return model.eval()
