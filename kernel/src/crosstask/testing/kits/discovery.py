"""Checks of discoverers."""

from __future__ import annotations

from typing import Any, ClassVar

from crosstask.errors import CrosstaskError
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.tasks import Portfolio, Task
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, CheckFailure, Kit, claims, expect
from crosstask.testing.tasks import small_graph, small_portfolio


class DiscoveryKit(Kit):
    """Edges are of the portfolio's pairs, and no more. A `twin(portfolio, graph)` returns edges too."""

    point = "discovery"
    capabilities: ClassVar[frozenset[str]] = frozenset({"descriptors_only"})

    def inputs(self) -> dict[str, Any]:
        portfolio = (self.subject.portfolio or small_portfolio)()
        return {"portfolio": portfolio, "graph": small_graph(portfolio)}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return call("discover", portfolio=inputs["portfolio"], graph=inputs["graph"])

    def edges(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        """What a new component finds, in a run."""
        component = self.make()
        with self.run(component) as run:
            found: list[TransferEdge] = run.call(component, "discover", portfolio=portfolio, graph=graph)
        return found

    def check_returns_edges(self) -> None:
        """The answer is a list of `TransferEdge`, between tasks of the portfolio, none of them unseen."""
        inputs = self.inputs()
        edges = self.edges(**inputs)
        expect(isinstance(edges, list), f"{self.name}.discover must return a list, got {type(edges).__name__}")
        for edge in edges:
            expect(isinstance(edge, TransferEdge), f"{self.name} returned a {type(edge).__name__}, not a TransferEdge")
        _only_pairs(self.name, edges, inputs["portfolio"])

    def check_says_who_found_it(self) -> None:
        """Every edge has `found_by`, and no pair has two edges of the same evidence and finder."""
        seen = set()
        for edge in self.edges(**self.inputs()):
            where = f"edge {edge.source!r} -> {edge.target!r}"
            expect(edge.found_by, f"{self.name}: {where} does not say who found it (found_by)")
            key = (edge.source, edge.target, edge.evidence, edge.found_by)
            expect(key not in seen, f"{self.name}: {where} is returned twice with evidence {edge.evidence.value}")
            seen.add(key)

    def check_interval_holds_the_coefficient(self) -> None:
        """Where an edge has an interval, its coefficient lies in it."""
        for edge in self.edges(**self.inputs()):
            low, high = edge.low, edge.high
            value = edge.transfer_coefficient
            expect(
                (low is None or low <= value + 1e-9) and (high is None or high >= value - 1e-9),
                f"{self.name}: edge {edge.source!r} -> {edge.target!r}: {value} is not in [{low}, {high}]",
            )

    def check_focus_honoured(self) -> None:
        """With a focus only the pairs of that task are returned; an unseen one may be refused, by name."""
        whole = self.inputs()["portfolio"]
        for task in [next(iter(whole)), *whole.unseen[:1]]:
            view = self.inputs()["portfolio"].focused(task.task_id)
            try:
                edges = self.edges(view, small_graph(view))
            except CrosstaskError as error:
                if task.task_id in view or task.task_id not in str(error):
                    raise
            else:
                _only_pairs(f"{self.name} with focus {task.task_id!r}", edges, view)

    def check_one_task_has_no_edges(self) -> None:
        """A portfolio of one task has no pairs, and no edges."""
        task = next(iter(self.inputs()["portfolio"]))
        alone = Portfolio([task])
        edges = self.edges(alone, TransferGraph([task.descriptor]))
        expect(not edges, f"{self.name} finds {len(edges or ())} edges among one task")

    def check_empty_graph(self) -> None:
        """It works, or says what it needs, when no discoverer came before it."""
        portfolio = self.inputs()["portfolio"]
        graph = TransferGraph(task.descriptor for task in [*portfolio, *portfolio.unseen])
        try:
            edges = self.edges(portfolio, graph)
        except CrosstaskError as error:
            expect(str(error).strip(), f"{self.name} with an empty graph: an error without a message")
        else:
            _only_pairs(f"{self.name} with an empty graph", edges, portfolio)

    def check_missing_data_said(self) -> None:
        """Without data and models it answers or raises an error of crosstask's that names a task."""
        portfolio = _bare(self.inputs()["portfolio"])
        try:
            edges = self.edges(portfolio, small_graph(portfolio))
        except CrosstaskError as error:
            named = any(task.task_id in str(error) for task in portfolio)
            expect(named, f"{self.name} without data: the message names no task: {error}")
        except Exception as error:
            raise CheckFailure(f"{self.name} without data: {type(error).__name__}: {error}") from error
        else:
            _only_pairs(f"{self.name} without data", edges, portfolio)

    @claims("descriptors_only")
    def check_descriptors_only(self) -> None:
        """It claims `descriptors_only`: no data is read, and the answer is the same without data and models."""
        whole = self.inputs()
        traps = [_trapped(task) for task in whole["portfolio"]]
        portfolio = Portfolio(traps, unseen=[_trapped(task) for task in whole["portfolio"].unseen])
        found = difference(
            plain(self.edges(whole["portfolio"], whole["graph"])), plain(self.edges(portfolio, whole["graph"])), "edges"
        )
        expect(found is None, f"{self.name} claims descriptors_only, but without data: {found}")

    def check_agrees_with_twin(self) -> None:
        """Its coefficients are those of the twin."""
        assert self.subject.twin is not None
        portfolio, graph = self.inputs().values()
        for view in (portfolio, portfolio.focused(portfolio.ids[0])):
            ours, theirs = _coefficients(self.edges(view, graph)), _coefficients(self.subject.twin(view, graph))
            found = difference(ours, theirs, "coefficients")
            expect(found is None, f"{self.name} and its twin: {found}")


def _only_pairs(who: str, edges: list[TransferEdge], portfolio: Portfolio) -> None:
    pairs = {(source.task_id, target.task_id) for source, target in portfolio.pairs()}
    for edge in edges:
        expect(
            (edge.source, edge.target) in pairs,
            f"{who}: {edge.source!r} -> {edge.target!r} is not one of portfolio.pairs()",
        )


def _coefficients(edges: list[TransferEdge]) -> dict[str, float]:
    return {f"{edge.source} -> {edge.target}": edge.transfer_coefficient for edge in edges}


def _bare(portfolio: Portfolio) -> Portfolio:
    return Portfolio(
        [Task(descriptor=task.descriptor) for task in portfolio],
        unseen=[Task(descriptor=task.descriptor) for task in portfolio.unseen],
    )


def _trapped(task: Task) -> Task:
    def trap() -> Any:
        raise CheckFailure(f"it claims descriptors_only, but reads the data of task {task.task_id!r}")

    return Task(descriptor=task.descriptor, train=trap, validation=trap, test=trap)


KIT = DiscoveryKit
