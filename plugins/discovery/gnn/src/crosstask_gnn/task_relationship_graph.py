"""The `gnn` discoverer."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from crosstask.errors import DataError, nearest
from crosstask.graph import Evidence, RelationType, TransferEdge, TransferGraph, relation_type
from crosstask.learning.training import evaluate
from crosstask.logs import logger
from crosstask.options import component, option, state
from crosstask.points.discovery import Discoverer
from crosstask.records import Interval
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.pairs import edge_between, interval
from crosstask_gnn.choice import Prediction, predict
from crosstask_gnn.features import task_features
from crosstask_gnn.pairs import Array, Pairs
from crosstask_gnn.training import Labels, Shape

TYPES = list(RelationType)


@component
class TaskRelationshipGraph(Discoverer):
    """Predicts every pair that was not measured, from the pairs that were and from the estimates of all of them.

    Evidence are the raw `estimates` on the graph's edges, the coefficients of estimated edges that hold none, and the
    measured coefficients with their standard errors; tasks are described by what they are, their data and their models
    (`crosstask_gnn.features`). A mixed model of it all is the base; networks that pass messages along the evidence
    learn what to add to it (`crosstask_gnn.network`). They, their like without messages and five simple predictors are
    cross-validated on the measured pairs, and the mixture that did best there answers (`crosstask_gnn.choice`):
    `chosen` and `chosen_cold` (for targets with nothing measured into them) hold its weights, `errors` what each was
    off by. Where the networks lower no error they have no part in it: `found_by` is then `gnn fallback`, and `note`
    and the log say which predictor answered. With too few measurements to choose by, or none, they say so too.

    Edges have a standard error and a 95 % interval for what would be measured, calibrated by the cross-validation.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    task_embedding_dim: int = option(128, ge=8, help="numbers that stand for a task")
    hidden_dim: int = option(256, ge=8, help="width of the decoder of pairs")
    num_relation_types: int = option(7, ge=1, help="kinds of messages, each a mixture of the evidence on a pair")
    num_layers: int = option(3, ge=1, help="rounds of messages")
    members: int = option(1, ge=1, help="networks per fold; all of them predict")
    folds: int = option(5, ge=2, help="parts of the measurements that are left out in turn")
    steps: int = option(100, ge=1, help="optimiser steps")
    learning_rate: float = option(3e-3, gt=0, help="of AdamW, at its highest")
    tasks: list[str] = state(factory=list)
    mean: Tensor | None = state(None)
    std: Tensor | None = state(None)
    relations: Tensor | None = state(None)
    difficulty: Tensor | None = state(None)
    chosen: dict[str, float] = state(factory=dict)
    chosen_cold: dict[str, float] = state(factory=dict)
    errors: dict[str, float] = state(factory=dict)
    note: str = state("")

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        tasks = list(portfolio)
        if portfolio.focus is not None and portfolio.focus not in portfolio:
            tasks.append(portfolio[portfolio.focus])
        pairs, stated = evidence(tasks, portfolio, graph, self.context.seed_for("gnn", "features"))
        if not pairs.measured.any():
            return self._from_estimates(portfolio, graph, tasks, stated)
        shape = Shape(
            width=self.task_embedding_dim,
            hidden=self.hidden_dim,
            relations=self.num_relation_types,
            layers=self.num_layers,
            members=self.members,
            steps=self.steps,
            learning_rate=self.learning_rate,
        )
        labels = Labels(_relations(tasks, pairs), np.array([_difficulty(task, portfolio) for task in tasks]))
        seed = self.context.seed_for("gnn") % 2**31
        found = predict(pairs, labels, shape, folds=self.folds, seed=seed, device=self.context.device)
        self._keep(tasks, found)
        place = {task.task_id: number for number, task in enumerate(tasks)}
        measured = pairs.measured
        cold = np.logical_not(measured.any(axis=0)).tolist()
        edges = []
        for source, target in portfolio.pairs():
            at = place[source.task_id], place[target.task_id]
            if not measured[at]:
                mean, std = float(found.mean[at]), float(found.std[at])
                edges.append(self._edge(source, target, mean, std, found, cold[at[1]]))
        return edges

    def predict_transfer_efficiency(self, source: str, target: str) -> Interval:
        """The coefficient that would be measured from `source` to `target`, with its 95 % interval.

        DataError before `discover`, or for a task that was not in the portfolio then.
        """
        at = self._place(source), self._place(target)
        if at[0] == at[1]:
            raise DataError(f"task {source!r} is both source and target")
        assert self.mean is not None
        assert self.std is not None
        return interval(float(self.mean[at]), float(self.std[at]))

    def predict_relation(self, source: str, target: str) -> dict[RelationType, float]:
        """Probability of each relation type of a pair, by the networks. DataError where none were trained."""
        at = self._place(source), self._place(target)
        if self.relations is None:
            raise DataError(f"no network was trained ({self.note or 'nothing was discovered'})")
        return dict(zip(TYPES, self.relations[at].tolist(), strict=True))

    def predict_difficulty(self, task: str) -> float:
        """How hard a task is, 0 to 1, by the networks. DataError where none were trained."""
        at = self._place(task)
        if self.difficulty is None:
            raise DataError(f"no network was trained ({self.note or 'nothing was discovered'})")
        return float(self.difficulty[at])

    def generate_curriculum_order(
        self, target: str, portfolio: Portfolio | None = None, max_tasks: int | None = None, minimum: float = 0.0
    ) -> list[str]:
        """Tasks to learn on the way to `target`, which comes last: those predicted to help it by more than `minimum`,
        at most `max_tasks` with the target (the ones that help most), the easiest first by predicted difficulty; where
        that is not known, those that help least. With a `portfolio`, prerequisites come before what needs them, and
        are added where they were left out.
        """
        goal = self._place(target)
        assert self.mean is not None
        gain = {name: float(self.mean[number, goal]) for number, name in enumerate(self.tasks) if name != target}
        helping = sorted((name for name in gain if gain[name] > minimum), key=lambda name: (-gain[name], name))
        chosen = helping if max_tasks is None else helping[: max(0, max_tasks - 1)]
        easy = gain if self.difficulty is None else dict(zip(self.tasks, self.difficulty.tolist(), strict=True))
        if portfolio is None:
            return [*sorted(chosen, key=lambda name: (easy[name], name)), target]
        needs = portfolio.prerequisite_graph()
        wanted = {target, *chosen}
        for name in [target, *chosen]:
            wanted |= nx.ancestors(needs, name) if name in needs else set()
        order = nx.lexicographical_topological_sort(
            needs.subgraph(wanted - {target}), key=lambda name: (easy.get(name, 0.0), name)
        )
        after = nx.descendants(needs, target) if target in needs else set()  # what needs the target cannot come first
        return [*(name for name in order if name not in after), target]

    def _place(self, task: str) -> int:
        if self.mean is None:
            raise DataError("nothing is predicted yet: call discover first")
        if task not in self.tasks:
            raise DataError(f"no task {task!r} among those predicted{nearest(task, self.tasks)}")
        return self.tasks.index(task)

    def _keep(self, tasks: list[Task], found: Prediction) -> None:
        def tensor(array: Array | None) -> Tensor | None:
            return None if array is None else torch.tensor(array, dtype=torch.float32)

        self.tasks = [task.task_id for task in tasks]
        self.mean, self.std = tensor(found.mean), tensor(found.std)
        self.relations, self.difficulty = tensor(found.relations), tensor(found.difficulty)
        self.chosen, self.errors = dict(found.warm.weights), dict(found.warm.errors)
        self.chosen_cold = dict(found.cold.weights) if found.cold is not None else {}
        self.note = found.note
        if found.fallback and not found.note:
            self.note = f"the network lowers no error on the measured pairs; predicted by {found.warm}"
        told = {"chosen": str(found.warm), "errors": {k: round(v, 4) for k, v in self.errors.items()}}
        logger().info(self.note or "predicted", discoverer=self.origin, **told)

    def _from_estimates(
        self, portfolio: Portfolio, graph: TransferGraph, tasks: list[Task], stated: dict[tuple[int, int], list[Any]]
    ) -> list[TransferEdge]:
        """With nothing measured there is nothing to learn from: the mean of what the estimators themselves state."""
        n = len(tasks)
        mean, std = np.zeros((n, n)), np.ones((n, n))
        for at, edges in stated.items():
            weights = np.array([1 / max(e.uncertainty or 1.0, 0.05) ** 2 for e in edges])
            mean[at] = float(weights @ [e.transfer_coefficient for e in edges] / weights.sum())
            std[at] = min(e.uncertainty or 1.0 for e in edges)  # they look at the same data: not independent
        self.tasks = [task.task_id for task in tasks]
        self.mean, self.std = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        self.relations = self.difficulty = None
        self.chosen, self.chosen_cold, self.errors = {"stated estimates": 1.0}, {}, {}
        self.note = "nothing was measured: the mean of what the estimators state, and nothing where there is none"
        logger().info(self.note, discoverer=self.origin)
        place = {task.task_id: number for number, task in enumerate(tasks)}
        found = []
        for source, target in portfolio.pairs():
            at = place[source.task_id], place[target.task_id]
            if at in stated:
                found.append(self._edge(source, target, float(mean[at]), float(std[at]), None, cold=False))
        return found

    def _edge(
        self, source: Task, target: Task, mean: float, std: float, found: Prediction | None, cold: bool
    ) -> TransferEdge:
        vote = None if found is None else found.cold if cold and found.cold is not None else found.warm
        by = "gnn fallback" if vote is None or vote.fallback else "gnn"
        return edge_between(source.descriptor, target.descriptor, mean, std, evidence=Evidence.PREDICTED, found_by=by)


def evidence(
    tasks: list[Task], portfolio: Portfolio, graph: TransferGraph, seed: int = 0
) -> tuple[Pairs, dict[tuple[int, int], list[TransferEdge]]]:
    """(what is known of the pairs of `tasks`, the estimated edges of each pair)."""
    place = {task.task_id: number for number, task in enumerate(tasks)}
    n = len(tasks)
    known, error = np.full((n, n), np.nan), np.full((n, n), np.nan)
    values: dict[str, Array] = {}
    stated: dict[tuple[int, int], list[TransferEdge]] = {}
    for edge in graph.all_edges():
        if edge.source not in place or edge.target not in place:
            continue
        at = place[edge.source], place[edge.target]
        if edge.evidence is Evidence.MEASURED:
            known[at] = edge.transfer_coefficient  # the newest comes last
            error[at] = np.nan if edge.uncertainty is None else edge.uncertainty
        elif edge.evidence is Evidence.ESTIMATED:
            stated.setdefault(at, []).append(edge)
            # A coefficient beside raw estimates was calibrated with the measurements: they would be seen through it.
            for name, value in (edge.estimates or {f"by {edge.found_by}": edge.transfer_coefficient}).items():
                if name not in values:
                    values[name] = np.full((n, n), np.nan)
                values[name][at] = value
    values.pop("mean_z", None)  # made of the others
    estimates = np.stack(list(values.values())) if values else None
    nodes = task_features(tasks, portfolio, seed) if tasks else None
    return Pairs.of(known, error, estimates, nodes), stated


def _relations(tasks: list[Task], pairs: Pairs) -> Array:
    found = np.full(pairs.known.shape, -1)
    for i, j in np.argwhere(pairs.measured):
        kind = relation_type(float(pairs.known[i, j]), tasks[i].descriptor, tasks[j].descriptor)
        found[i, j] = TYPES.index(kind)
    return found


def _difficulty(task: Task, portfolio: Portfolio) -> float:
    """1 - what the task's own model reaches on its validation data, where its metric is a share; else the descriptor's
    complexity; NaN for a task held back.
    """
    if task.task_id not in portfolio:
        return math.nan
    classification = task.descriptor.task_type == "classification" and task.metric in (None, "accuracy")
    if classification and task.model is not None and task.has_data("validation"):
        return 1.0 - min(1.0, max(0.0, evaluate(task.model, task, "validation")))
    return task.descriptor.complexity
