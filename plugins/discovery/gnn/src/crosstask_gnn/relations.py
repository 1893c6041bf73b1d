"""The network that can be called on features, an adjacency matrix and relation types: what `TaskRelationshipGraph` is
beneath when it is trained in a loop of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.graph import Evidence, RelationType, TransferGraph, relation_type
from crosstask.tasks import Task
from crosstask_gnn.pairs import Array, standardised

Answer = tuple[Tensor, Tensor, Tensor]
"""(embeddings [n, E], transfer [n, n] in -1 to 1, difficulties [n] in 0 to 1)."""


class RelationalLayer(nn.Module):
    """One round of messages along typed, weighted, directed edges (Schlichtkrull et al. 2018, equation 2).

    Every relation has a weight matrix for each way along it; what arrives over a relation is a weighted mean. Residual,
    on normalised input.
    """

    def __init__(self, width: int, hidden: int, relations: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.messages = nn.Parameter(torch.empty(2, relations, width, width))
        self.own = nn.Linear(width, width)
        self.update = nn.Sequential(nn.ReLU(), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the messages' weights anew."""
        nn.init.normal_(self.messages, std=1 / math.sqrt(self.messages.shape[-1]))

    def forward(self, h: Tensor, arriving: Tensor) -> Tensor:
        """h [n, width], arriving [2, R, receiver, sender] to h."""
        z = self.norm(h)
        inbox = (arriving @ (z @ self.messages)).sum((0, 1))
        updated: Tensor = h + self.update(self.own(z) + inbox)
        return updated


class RelationshipNetwork(nn.Module):
    """Embeds tasks by what they are and how they relate, and says of every ordered pair how much transfer helps.

    Renumbering the tasks renumbers the answers; nothing belongs to a task but its features and edges, so it can be
    trained on one graph and asked about another. Features of up to `embedding` numbers are padded with zeros; longer
    ones are projected to so many by a fixed random matrix with orthonormal columns, which roughly keeps distances
    (Johnson and Lindenstrauss 1984): the parameters' shapes depend on the arguments here only, so that an optimiser can
    be made before the first call. Transfer is decoded from the two embeddings alone.
    """

    def __init__(self, embedding: int = 128, hidden: int = 256, relations: int = 7, layers: int = 3) -> None:
        super().__init__()
        self.embedding, self.relations = embedding, relations
        self.enter = nn.Linear(embedding, embedding)
        self.layers = nn.ModuleList(RelationalLayer(embedding, hidden, relations) for _ in range(layers))
        self.leave = nn.LayerNorm(embedding)
        self.source, self.target = nn.Linear(embedding, hidden), nn.Linear(embedding, hidden, bias=False)
        self.coefficient = nn.Sequential(nn.ReLU(), nn.Linear(hidden, 1))
        rank = max(8, embedding // 4)
        self.left, self.right = nn.Linear(embedding, rank, bias=False), nn.Linear(embedding, rank, bias=False)
        self.hardness = nn.Sequential(nn.Linear(embedding, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, task_features: Tensor, adjacency_matrix: Tensor, relation_types: Tensor) -> Answer:
        """features [n, d], adjacency [source, target] (0: no edge; the size is how much an edge counts, its sign says
        whether it is against), relation types [source, target] in 0 to R - 1 (where there is no edge they are not
        looked at). The diagonal of the adjacency counts for nothing, that of the answer means nothing.

        DataError for shapes that do not fit, types out of range or values that are not finite.
        """
        h = self.embed(task_features, adjacency_matrix, relation_types)
        return h, self.transfer(h), self.difficulty(h)

    def embed(self, task_features: Tensor, adjacency_matrix: Tensor, relation_types: Tensor) -> Tensor:
        """Embeddings [n, E]."""
        weights, types = self._checked(task_features, adjacency_matrix, relation_types)
        h = self.enter(_resized(task_features.to(self.enter.weight.dtype), self.embedding))
        if self.layers:
            arriving = self._arriving(weights.to(h.dtype), types)
            for layer in self.layers:
                h = layer(h, arriving)
        embedded: Tensor = self.leave(h)
        return embedded

    def transfer(self, embeddings: Tensor) -> Tensor:
        """[source, target] of all pairs of embeddings [n, E]."""
        return self.pairs(embeddings[:, None], embeddings[None])

    def pairs(self, source: Tensor, target: Tensor) -> Tensor:
        """How much each source helps its target, [...] in -1 to 1, from embeddings [..., E]."""
        deep = self.coefficient(self.source(source) + self.target(target))[..., 0]
        left, right = self.left(source), self.right(target)
        return torch.tanh(deep + (left * right).sum(-1) / left.shape[-1])

    def difficulty(self, embeddings: Tensor) -> Tensor:
        """[...] in 0 to 1, from embeddings [..., E]."""
        return torch.sigmoid(self.hardness(embeddings)[..., 0])

    def _checked(self, features: Tensor, adjacency: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        """(adjacency without its diagonal, types that are 0 where there is no edge)."""
        if features.ndim != 2 or not features.is_floating_point():
            raise DataError(f"task_features must be floats [n, d], got {features.dtype} {tuple(features.shape)}")
        n = len(features)
        for name, matrix in (("adjacency_matrix", adjacency), ("relation_types", types)):
            if matrix.shape != (n, n):
                raise DataError(f"{name} has shape {tuple(matrix.shape)}; {n} tasks need ({n}, {n})")
        for name, values in (("task_features", features), ("adjacency_matrix", adjacency)):
            if not values.isfinite().all():
                raise DataError(f"{name} holds NaN or infinite values")
        if types.is_floating_point() or types.is_complex() or types.dtype == torch.bool:
            raise DataError(f"relation_types must be integers, got {types.dtype}")
        own = torch.eye(n, dtype=torch.bool, device=adjacency.device)
        weights = adjacency.masked_fill(own, 0)
        there = weights.detach() != 0
        wrong = there & ((types < 0) | (types >= self.relations))
        if wrong.any():
            i, j = wrong.nonzero()[0].tolist()
            told = f"relation_types[{i}, {j}] is {int(types[i, j])}"
            raise DataError(f"{told}; there are {self.relations} types, 0 to {self.relations - 1}")
        return weights, types.masked_fill(~there, 0)

    def _arriving(self, weights: Tensor, types: Tensor) -> Tensor:
        """[2, R, receiver, sender]: with which weight a task's message arrives over each relation, along and against
        it. Of what arrives over all relations of one way, the sizes add up to at most one.
        """
        typed = functional.one_hot(types, self.relations).permute(2, 0, 1) * weights
        arriving = torch.stack([typed.transpose(1, 2), typed])
        return arriving / arriving.abs().sum((1, 3), keepdim=True).clamp_min(1e-6)


def _resized(features: Tensor, width: int) -> Tensor:
    """[n, width] of features [n, d]: padded with zeros, or projected."""
    size = features.shape[1]
    if size <= width:
        return functional.pad(features, (0, width - size))
    drawn = torch.randn(size, width, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    basis = torch.linalg.qr(drawn)[0] * math.sqrt(size / width)
    return features @ basis.to(device=features.device, dtype=features.dtype)


def relations_of(tasks: Sequence[Task], graph: TransferGraph, types: int = len(RelationType)) -> tuple[Tensor, Tensor]:
    """(adjacency, relation types), [source, target], of what was measured or else estimated: the coefficient of each
    pair's strongest such edge, and its relation's place in `RelationType`. With fewer `types`, some share a number.
    """
    place, kinds = {task.task_id: number for number, task in enumerate(tasks)}, list(RelationType)
    adjacency = torch.zeros(len(tasks), len(tasks))
    found = torch.zeros(len(tasks), len(tasks), dtype=torch.long)
    for edge in graph.all_edges():  # the newest comes last
        i, j = place.get(edge.source), place.get(edge.target)
        strongest = graph.edge(edge.source, edge.target)
        if i is None or j is None or strongest is None or edge.evidence is Evidence.PREDICTED:
            continue
        if edge.measured or not strongest.measured:
            kind = relation_type(edge.transfer_coefficient, tasks[i].descriptor, tasks[j].descriptor)
            adjacency[i, j], found[i, j] = edge.transfer_coefficient, kinds.index(kind) % types
    return adjacency, found


def teach(
    network: RelationshipNetwork, evidence: tuple[Tensor, Tensor], features: Array, transfer: Array,
    difficulty: Array, learning_rate: float, seed: int, steps: int = 150, at_once: int = 4096,
) -> Tensor:  # fmt: skip
    """Train `network` to say `transfer` [source, target] and `difficulty` [n] (NaN where unknown) of n tasks, from
    their features [n, d] and the evidence of `relations_of`; the tasks' embeddings [n, E] on the CPU.

    Of more than `at_once` pairs each step looks at a sample; of more than 150 tasks fewer steps are made.
    """
    n, device = len(features), network.enter.weight.device
    steps = steps if n <= 150 else steps // 3 if n <= 400 else steps // 6
    nodes = torch.tensor(standardised(features, axis=0), dtype=torch.float32, device=device)
    adjacency, types = (x.to(device) for x in evidence)
    wanted = torch.tensor(np.nan_to_num(transfer), dtype=torch.float32, device=device)
    known = torch.tensor(np.flatnonzero(~np.isnan(difficulty)), device=device)
    hard = torch.tensor(np.nan_to_num(difficulty), dtype=torch.float32, device=device)
    ends = torch.cartesian_prod(torch.arange(n), torch.arange(n)) if n else torch.zeros(0, 2, dtype=torch.long)
    ends = ends[ends[:, 0] != ends[:, 1]].to(device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    for step in range(steps if len(ends) else 0):
        for group in optimizer.param_groups:  # warm up, then down to nothing
            group["lr"] = learning_rate * min(1.0, (step + 1) / 10) * (1 - step / steps)
        chosen = ends if len(ends) <= at_once else ends[torch.randint(len(ends), (at_once,), generator=generator)]
        h = network.embed(nodes, adjacency, types)
        source, target = chosen.T
        loss = functional.mse_loss(network.pairs(h[source], h[target]), wanted[source, target])
        if len(known):
            loss = loss + 0.1 * functional.mse_loss(network.difficulty(h[known]), hard[known])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        return network.embed(nodes, adjacency, types).cpu()
