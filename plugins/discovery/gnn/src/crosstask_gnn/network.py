"""The networks: message passing over tasks along the evidence on their pairs, and a decoder of pairs."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.graph import RelationType

DROPOUT = 0.2

TYPES = len(RelationType)


@attrs.frozen(eq=False)
class Sight:
    """What networks may look at, B of them or one for all: `nodes` [n, d]; per pair `estimates` [s, n, n]; `residual`
    [B, n, n], measured minus base in units of the noise, 0 where not visible; `visible` [B, n, n], 0 to 1 by how sure
    the measurement is; `base` [B, n, n].
    """

    nodes: Tensor
    estimates: Tensor
    residual: Tensor
    visible: Tensor
    base: Tensor


class Batched(nn.Module):
    """B linear maps at once: [B, N, in] to [B, N, out]."""

    def __init__(self, copies: int, inputs: int, outputs: int, generator: torch.Generator, gain: float = 1.0) -> None:
        super().__init__()
        drawn = torch.randn(copies, inputs, outputs, generator=generator)
        self.weight = nn.Parameter(drawn * (gain / math.sqrt(max(1, inputs))))
        self.bias = nn.Parameter(torch.zeros(copies, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.expand(len(self.weight), *x.shape[-2:]), self.weight)


class Layer(nn.Module):
    """One round of messages: every relation has a strength per pair and a message per task, both ways along it."""

    def __init__(self, copies: int, width: int, relations: int, generator: torch.Generator) -> None:
        super().__init__()
        self.relations, self.size = relations, max(4, width // (2 * relations))
        both = 2 * relations * self.size
        self.message = Batched(copies, width, both, generator)
        self.update = Batched(copies, both + width, width, generator)

    def forward(self, h: Tensor, strength: Tensor) -> Tensor:
        """h [B, n, width], strength [B, R, source, target] to h."""
        b, n, _ = h.shape
        z = functional.layer_norm(h, h.shape[-1:])
        sent = self.message(z).reshape(b, n, 2, self.relations, self.size).permute(2, 0, 3, 1, 4)
        arrived = torch.cat([strength.transpose(2, 3) @ sent[0], strength @ sent[1]], dim=1)  # [B, 2R, n, size]
        inbox = arrived.permute(0, 2, 1, 3).reshape(b, n, -1)
        return h + torch.relu(self.update(torch.cat([inbox, z], dim=2)))


class Networks(nn.Module):
    """B independent networks with the same shape, run as one: members of an ensemble, and of folds.

    Relations are learned mixtures of the kinds of evidence on a pair (each estimator, what was measured and how far it
    was from the base, the base itself), so their strengths are signed and differ with the direction. Layers pass
    messages along every pair, weighed by these strengths; what was measured counts by one over the root of how much of
    it reaches a task. The decoder sees both tasks and the evidence of the pair, and answers with what to add to the
    base, in units of the noise (0 before training), logits of the relation type, and the difficulty of tasks.
    Schlichtkrull et al. (2018), equation 2, with continuous evidence in place of edge types, and residuals.
    """

    def __init__(
        self, copies: int, tasks: int, features: int, estimates: int, *, width: int, hidden: int, relations: int,
        layers: int, generator: torch.Generator,
    ) -> None:  # fmt: skip
        super().__init__()
        self.relations = relations
        self.enter = Batched(copies, features, width, generator, gain=0.5)
        self.own = nn.Parameter(0.1 * torch.randn(copies, tasks, width, generator=generator))
        self.guessed = nn.Parameter(torch.randn(copies, relations, estimates + 1, generator=generator) * 0.5)
        self.measured = nn.Parameter(torch.randn(copies, relations, 2, generator=generator))
        self.layers = nn.ModuleList(Layer(copies, width, relations, generator) for _ in range(layers))
        self.source = Batched(copies, width, hidden, generator, gain=0.7)
        self.target = Batched(copies, width, hidden, generator, gain=0.7)
        self.pair = Batched(copies, estimates + 1, hidden, generator, gain=0.7)
        rank = max(8, width // 4)
        self.left, self.right = Batched(copies, width, rank, generator), Batched(copies, width, rank, generator)
        self.gate = nn.Parameter(torch.zeros(copies, rank))
        self.out = Batched(copies, hidden, 1 + TYPES, generator, gain=0.0)
        self.difficulty = Batched(copies, width, 1, generator, gain=0.0)

    def tasks(self, sight: Sight) -> Tensor:
        """Embeddings [B, n, width]."""
        n = sight.nodes.shape[0]
        h = self.enter(sight.nodes[None]) + self.own
        if self.layers:
            strength = self._strength(sight) / math.sqrt(n)
            for layer in self.layers:
                h = layer(h, strength)
        return functional.layer_norm(h, h.shape[-1:])

    def _strength(self, sight: Sight) -> Tensor:
        n, copies = sight.nodes.shape[0], len(self.own)
        static = (self.guessed[..., :-1].reshape(-1, sight.estimates.shape[0]) @ sight.estimates.flatten(1)).reshape(
            copies, self.relations, n, n
        )
        degree = sight.visible.sum(1, keepdim=True) + sight.visible.sum(2, keepdim=True)  # of sources and of targets
        tried = math.sqrt(n) / (1 + degree.clamp_min(1)).sqrt()
        strength = static + self.guessed[..., -1, None, None] * sight.base[:, None]
        strength = strength + self.measured[..., 0, None, None] * (sight.residual * tried)[:, None]
        return strength + self.measured[..., 1, None, None] * (sight.visible * tried)[:, None]

    def pairs(self, h: Tensor, sight: Sight, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(residual [B, m], relation type logits [B, m, 7]) of pairs given by their ends, [B, m] or [1, m]."""
        copies = len(self.own)
        source, target = source.expand(copies, -1), target.expand(copies, -1)
        batch = torch.arange(copies, device=h.device)[:, None]
        evidence = sight.estimates[:, source, target].permute(1, 2, 0)
        base = sight.base.expand(copies, -1, -1)[batch, source, target]
        x = self.pair(torch.cat([evidence, base[..., None]], dim=2))
        x = torch.relu(x + self.source(h)[batch, source] + self.target(h)[batch, target])
        x = functional.dropout(x, DROPOUT, self.training)
        out = self.out(x)
        bilinear = (self.left(h)[batch, source] * self.right(h)[batch, target] * self.gate[:, None]).sum(2)
        return out[..., 0] + bilinear / math.sqrt(self.gate.shape[1]), out[..., 1:]

    def grid(self, h: Tensor, sight: Sight, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(residual [B, r, n], relation type logits [B, r, n, 7]) of all pairs from the sources `rows`: as `pairs`,
        without gathering both ends of each.
        """
        copies, n = h.shape[:2]
        evidence = sight.estimates[:, rows].permute(1, 2, 0).expand(copies, -1, -1, -1)
        x = torch.cat([evidence, sight.base[:, rows, :, None].expand(copies, -1, -1, -1)], dim=3)
        x = self.pair(x.reshape(copies, len(rows) * n, -1)).reshape(copies, len(rows), n, -1)
        x = torch.relu(x + self.source(h)[:, rows, None] + self.target(h)[:, None])
        x = functional.dropout(x, DROPOUT, self.training)
        out = self.out(x.reshape(copies, len(rows) * n, -1)).reshape(copies, len(rows), n, -1)
        bilinear = (self.left(h)[:, rows] * self.gate[:, None]) @ self.right(h).transpose(1, 2)
        return out[..., 0] + bilinear / math.sqrt(self.gate.shape[1]), out[..., 1:]

    def hardness(self, h: Tensor) -> Tensor:
        """Logits of the tasks' difficulty [B, n]."""
        return self.difficulty(h)[..., 0]
