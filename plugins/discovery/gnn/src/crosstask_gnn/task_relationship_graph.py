"""The `gnn` discoverer."""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self, overload

import attrs
import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn

from crosstask.errors import DataError, nearest
from crosstask.graph import Evidence, RelationType, TransferEdge, TransferGraph, relation_type
from crosstask.learning.modules import seeded
from crosstask.learning.objectives import metric_of
from crosstask.learning.training import evaluate
from crosstask.logs import logger
from crosstask.options import component, option, state
from crosstask.points.discovery import Discoverer
from crosstask.records import Interval
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.pairs import edge_between, interval
from crosstask_gnn.choice import Prediction, predict
from crosstask_gnn.features import task_features
from crosstask_gnn.ordering import novelty, ordered
from crosstask_gnn.pairs import Array, Pairs
from crosstask_gnn.relations import Answer, RelationshipNetwork, relations_of, teach
from crosstask_gnn.training import Labels, Shape

TYPES = list(RelationType)


@component
class TaskRelationshipGraph(Discoverer):
    """Predicts every pair that was not measured, from the pairs that were and from the estimates of all of them.

    Evidence are the raw `estimates` on the graph's edges, the coefficients of estimated edges that hold none, and the
    measured coefficients with their standard errors; tasks are described by what they are, their data and their models
    (`crosstask_gnn.features`). A mixed model of it all, completed by one of low rank, is the base; networks that pass
    messages along the evidence learn what to add to it (`crosstask_gnn.network`). They, their like without messages and
    the simpler predictors are cross-validated on the measured pairs, and the one, or the mixture, that did best there
    answers (`crosstask_gnn.choice`): `chosen` and `chosen_cold` (for targets with nothing measured into them) hold its
    weights, `errors` what each was off by. Where messages lower no error they have no part in it: `found_by` is then
    `gnn: ` and the names of those that answered, and `note` and the log say so. With too few measurements to choose by,
    or none, they say that too.

    Edges have a standard error and a 95 % interval for what would be measured, calibrated by the cross-validation.

    It can be called, too, and trained in a loop of one's own: `graph(task_features, adjacency_matrix, relation_types)`
    asks the `network` (`crosstask_gnn.relations`), whose `parameters` are those of the graph. `discover` draws that
    network anew and teaches it what was found, so that the tasks' embeddings, which the run writes into their
    descriptors, say to `predict_transfer_efficiency` nearly what the tasks' ids say: of few tasks; among more than a
    hundred it remembers the coarse picture only, and ids should be asked.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    results_version: ClassVar[int] = 2

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
    _network: RelationshipNetwork | None = attrs.field(default=None, init=False, repr=False)
    _embeddings: Tensor | None = attrs.field(default=None, init=False, repr=False)
    _lesson: tuple[Any, ...] | None = attrs.field(default=None, init=False, repr=False)

    # A torch module ---------------------------------------------------------------------------------------------------

    @property
    def embeddings(self) -> Tensor | None:
        """Of the tasks of the last `discover` [n, task_embedding_dim], in the order of `tasks`."""
        with _TEACHING:  # who asks meanwhile waits, and does not get those of the `discover` before
            while (asked := self._lesson) is not None:  # who discovers again and again, as `active`, asks for the last
                drawn, *lesson = asked
                network = self._untaught(drawn).to(self.context.device)
                self._network, self._embeddings = network, teach(network, *lesson)
                if self._lesson is asked:
                    self._lesson = None
        return self._embeddings

    @property
    def network(self) -> RelationshipNetwork:
        """The network that a call asks. Its first weights depend on the seed of the run (0 outside of one) alone; the
        last `discover` taught it.
        """
        _ = self.embeddings
        if self._network is None:
            self._network = self._untaught(self.context.seed_for("gnn", "network") % 2**31)
        return self._network

    def _untaught(self, seed: int) -> RelationshipNetwork:
        with seeded(seed):
            return RelationshipNetwork(
                self.task_embedding_dim, self.hidden_dim, self.num_relation_types, self.num_layers
            )

    def __call__(self, task_features: Tensor, adjacency_matrix: Tensor, relation_types: Tensor) -> Answer:
        """(embeddings [n, task_embedding_dim], transfer [source, target] in -1 to 1, difficulties [n] in 0 to 1) of
        features [n, d], weights of edges [source, target] (0: none) and their types [source, target], integers below
        `num_relation_types`. Differentiable. See `RelationshipNetwork.forward`.
        """
        answer: Answer = self.network(task_features, adjacency_matrix, relation_types)
        return answer

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the network."""
        return self.network.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Of the network."""
        return self.network.named_parameters()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        self.network.zero_grad(set_to_none)

    def train(self, mode: bool = True) -> Self:
        """As torch's; the network does the same in both modes."""
        self.network.train(mode)
        return self

    def eval(self) -> Self:
        """As torch's."""
        return self.train(False)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the network, as torch's."""
        self.network.to(*args, **kwargs)
        return self

    def state_dict(self) -> dict[str, Any]:
        """What was predicted, and the network's tensors under `network.…`, once there is a network."""
        made = {"embeddings": self.embeddings}  # first: it may be now that the network is taught
        tensors = {} if self._network is None else self._network.state_dict()
        return super().state_dict() | made | {f"{_PREFIX}{name}": tensor for name, tensor in tensors.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; refuses a dict of another shape."""
        tensors = {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}
        self._lesson = None  # what is loaded stands
        if tensors:
            try:
                self.network.load_state_dict(tensors)
            except RuntimeError as error:
                raise DataError(f"{self.origin}: the network's state does not fit its options: {error}") from None
        own = {name: value for name, value in state.items() if not name.startswith(_PREFIX)}
        embeddings = own.pop("embeddings", None)
        super().load_state_dict(own)
        self._embeddings = embeddings

    # Discovery --------------------------------------------------------------------------------------------------------

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        tasks = list(portfolio)
        if portfolio.focus is not None and portfolio.focus not in portfolio:
            tasks.append(portfolio[portfolio.focus])
        pairs, stated = evidence(tasks, portfolio, graph, self.context.seed_for("gnn", "features"))
        if not pairs.measured.any():
            return self._from_estimates(portfolio, graph, tasks, stated, pairs)
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
        self._embed(tasks, pairs, graph, labels.difficulty if found.difficulty is None else found.difficulty)
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

    @overload
    def predict_transfer_efficiency(self, source_embedding: str, target_embedding: str) -> Interval: ...

    @overload
    def predict_transfer_efficiency(
        self, source_embedding: Tensor | Sequence[float], target_embedding: Tensor | Sequence[float]
    ) -> float: ...

    def predict_transfer_efficiency(
        self, source_embedding: str | Tensor | Sequence[float], target_embedding: str | Tensor | Sequence[float]
    ) -> Interval | float:
        """How much a source helps a target, -1 to 1. From two embeddings [task_embedding_dim] what the network says of
        them; from two ids the coefficient that would be measured, with its 95 % interval.

        DataError for ids before `discover`, or that were not in the portfolio then, and for embeddings of another size.
        """
        if isinstance(source_embedding, str) and isinstance(target_embedding, str):
            at = self._place(source_embedding), self._place(target_embedding)
            if at[0] == at[1]:
                raise DataError(f"task {source_embedding!r} is both source and target")
            assert self.mean is not None
            assert self.std is not None
            return interval(float(self.mean[at]), float(self.std[at]))
        if isinstance(source_embedding, str) or isinstance(target_embedding, str):
            raise DataError("give two ids of tasks or two embeddings, not one of each")
        with torch.no_grad():
            ends = [self._embedded(x, 1)[0] for x in (source_embedding, target_embedding)]
            return float(self.network.pairs(*ends))

    def _embedded(self, embeddings: Any, rows: int | None = None) -> Tensor:
        """[n, E] on the network's device; DataError for another shape."""
        like = self.network.enter.weight
        try:
            given = torch.as_tensor(embeddings, dtype=like.dtype, device=like.device).detach()
        except (TypeError, ValueError):
            told = f"{type(embeddings).__name__} is none (a task that was not discovered has no embedding)"
            raise DataError(f"embeddings must be a tensor or a list of numbers; a {told}") from None
        matrix = given[None] if given.ndim == 1 else given
        if matrix.ndim != 2 or matrix.shape[1] != self.task_embedding_dim or rows not in (None, len(matrix)):
            shape = f"[{'n' if rows is None else rows}, {self.task_embedding_dim}]"
            raise DataError(f"embeddings must have shape {shape}, got {tuple(given.shape)}")
        if not matrix.isfinite().all():
            raise DataError("embeddings hold NaN or infinite values")
        return matrix

    def task_embeddings(self) -> dict[str, tuple[float, ...]]:
        """What the last `discover` made of each task [task_embedding_dim], by its id; the run keeps it in the task's
        descriptor (`TaskDescriptor.embedding`).
        """
        rows = [] if self.embeddings is None else self.embeddings.tolist()
        return {task: tuple(round(x, 6) for x in row) for task, row in zip(self.tasks, rows, strict=False)}

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

    @overload
    def generate_curriculum_order(
        self,
        task_embeddings: str,
        target_task_idx: None = None,
        strategy: str | enum.Enum | None = None,
        *,
        portfolio: Portfolio | None = None,
        max_tasks: int | None = None,
        minimum: float | None = None,
    ) -> list[str]: ...

    @overload
    def generate_curriculum_order(
        self,
        task_embeddings: Tensor,
        target_task_idx: int,
        strategy: str | enum.Enum | None = None,
        *,
        portfolio: None = None,
        max_tasks: int | None = None,
        minimum: float | None = None,
    ) -> list[int]: ...

    def generate_curriculum_order(
        self,
        task_embeddings: Tensor | str,
        target_task_idx: int | None = None,
        strategy: str | enum.Enum | None = None,
        *,
        portfolio: Portfolio | None = None,
        max_tasks: int | None = None,
        minimum: float | None = None,
    ) -> list[str] | list[int]:
        """Tasks to learn on the way to a target, which comes last, in the order of a strategy (a name or a member of
        `CurriculumStrategy`; see `crosstask_gnn.ordering`).

        From embeddings [n, task_embedding_dim] and the target's row: rows, all unless `minimum` leaves out those
        whose predicted coefficient is no more. By the target's id after `discover`: ids of the tasks predicted to help
        it by more than `minimum` (0); where no difficulty is known, those that help least are the easiest. At most
        `max_tasks` with the target (the ones that help most). With a `portfolio`, prerequisites come before what needs
        them, and are added where they were left out.
        """
        if isinstance(task_embeddings, str):
            least = 0.0 if minimum is None else minimum
            return self._order_by_id(task_embeddings, strategy, portfolio, max_tasks, least)
        with torch.no_grad():
            embeddings = self._embedded(task_embeddings)
            mean = self.network.transfer(embeddings).cpu().double().numpy()
            difficulty = self.network.difficulty(embeddings).cpu().double().numpy()
        goal = -1 if target_task_idx is None else int(target_task_idx)
        if not 0 <= goal < len(mean):
            raise DataError(f"target_task_idx is {target_task_idx}; there are {len(mean)} tasks, 0 to {len(mean) - 1}")
        spread = novelty(embeddings.cpu().double().numpy())
        least = -math.inf if minimum is None else minimum
        chosen = _helping(mean, goal, max_tasks, least)
        return [*ordered(strategy, mean, spread, difficulty, goal, chosen), goal]

    def _order_by_id(
        self, target: str, strategy: str | enum.Enum | None, portfolio: Portfolio | None, max_tasks: int | None,
        minimum: float,
    ) -> list[str]:  # fmt: skip
        goal = self._place(target)
        assert self.mean is not None
        assert self.std is not None
        mean, std = self.mean.double().numpy(), self.std.double().numpy()
        easy = mean[:, goal] if self.difficulty is None else self.difficulty.double().numpy()
        wanted = {self.tasks[number] for number in _helping(mean, goal, max_tasks, minimum)}
        if portfolio is None:
            return [*self._names(ordered(strategy, mean, std, easy, goal, self._numbers(wanted))), target]
        needs = portfolio.prerequisite_graph()
        for name in [target, *wanted]:
            wanted |= nx.ancestors(needs, name) if name in needs else set()
        wanted -= {target} | (nx.descendants(needs, target) if target in needs else set())  # what needs it comes later
        names = self._names(ordered(strategy, mean, std, easy, goal, self._numbers(wanted)))
        place = {name: number for number, name in enumerate(names)}
        order = nx.lexicographical_topological_sort(
            needs.subgraph(wanted), key=lambda name: (place.get(name, -1), name)
        )
        return [*order, target]

    def _names(self, numbers: list[int]) -> list[str]:
        return [self.tasks[number] for number in numbers]

    def _numbers(self, names: set[str]) -> list[int]:
        return [number for number, name in enumerate(self.tasks) if name in names]

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

    def _embed(self, tasks: list[Task], pairs: Pairs, graph: TransferGraph, difficulty: Array) -> None:
        """What a new network will be taught: what was found. The tasks' embeddings are what it makes of them."""
        assert self.mean is not None
        seed = self.context.seed_for("gnn", "embeddings") % 2**31
        evidence = relations_of(tasks, graph, self.num_relation_types)  # as it stands now
        drawn = self.context.seed_for("gnn", "network") % 2**31  # of this run: a copy may be asked outside of it
        self._lesson = drawn, evidence, pairs.nodes, self.mean.numpy(), difficulty, self.learning_rate, seed

    def _from_estimates(
        self, portfolio: Portfolio, graph: TransferGraph, tasks: list[Task],
        stated: dict[tuple[int, int], list[Any]], pairs: Pairs,
    ) -> list[TransferEdge]:  # fmt: skip
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
        self._embed(tasks, pairs, graph, np.array([_difficulty(task, portfolio) for task in tasks]))
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
        others = "stated estimates" if vote is None else " + ".join(vote.weights)
        by = "gnn" if vote is not None and not vote.fallback else f"gnn: {others}"
        return edge_between(source.descriptor, target.descriptor, mean, std, evidence=Evidence.PREDICTED, found_by=by)


_PREFIX = "network."
_TEACHING = threading.RLock()


def _helping(mean: Array, goal: int, max_tasks: int | None, minimum: float) -> list[int]:
    """The tasks whose coefficient for the goal is above `minimum`, at most `max_tasks` - 1: the ones that help most."""
    gain = mean[:, goal]
    found = sorted((n for n in range(len(gain)) if n != goal and gain[n] > minimum), key=lambda n: (-gain[n], n))
    return found if max_tasks is None else found[: max(0, max_tasks - 1)]


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
    """1 - what the task's own model reaches on its validation data, where its metric runs from 0 to 1 and the model
    does not raise; else the descriptor's complexity; NaN for a task held back.
    """
    if task.task_id not in portfolio:
        return math.nan
    if task.model is not None and task.has_data("validation"):
        try:
            if metric_of(task).range == (0.0, 1.0):
                return 1.0 - min(1.0, max(0.0, evaluate(task.model, task, "validation")))
        except Exception as error:  # the user's own code, or no metric
            logger().info("model left out", discoverer="gnn", task=task.task_id, reason=str(error))
    return task.descriptor.complexity
