"""Each composition against the same thing done by hand, through a run, from Python and from TOML."""

import attrs
import pytest
import torch

from crosstask import OptionError, PluginError, Registry, RelationType, component, option, state
from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.learning.gradients import MatrixGradients
from crosstask.manifest import Extension, Plugin
from crosstask.points.balancer import Balancer, Direction
from crosstask.points.curriculum import CurriculumPlanner
from crosstask.points.discovery import Discoverer
from crosstask.run import Run
from crosstask.tasks import Portfolio, Task
from crosstask_composition import balancers, curricula, discovery, samplers, wrappers
from crosstask_composition.plugin import PLUGIN
from crosstask_multitask import Sampler
from crosstask_multitask.plugin import PLUGIN as MULTITASK

IDS = ("a", "b", "c")


def portfolio() -> Portfolio:
    return Portfolio(Task(descriptor=TaskDescriptor(task_id=t)) for t in IDS)


def graph() -> TransferGraph:
    return TransferGraph(task.descriptor for task in portfolio())


@component
class Says(Discoverer):
    """One coefficient for every pair into one of `targets`; `edges_seen` is what the graph held when it was asked."""

    coefficient: float = option(0.4, help="for every pair")
    targets: tuple[str, ...] = option(IDS, help="of these tasks")
    by: str = option("says", help="found_by")
    uncertainty: float | None = option(None, help="of each edge")
    evidence: Evidence = option(Evidence.ESTIMATED, help="of each edge")
    edges_seen: int = state(0)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        self.edges_seen = len(list(graph.all_edges()))
        return [
            TransferEdge(
                source=s.task_id, target=t.task_id, transfer_coefficient=self.coefficient,
                found_by=self.by, uncertainty=self.uncertainty, evidence=self.evidence,
            )
            for s, t in portfolio.pairs()
            if t.task_id in self.targets
        ]  # fmt: skip


@component
class Refuses(Discoverer):
    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        raise DataError("no models")


@component
class Ranks(CurriculumPlanner):
    order: tuple[str, ...] = option((), help="this order")

    def rank(self, portfolio: Portfolio, graph: TransferGraph, target: str, candidates: list[str]) -> list[str]:
        return [t for t in self.order if t in candidates]


@component
class Picks(Sampler):
    task: str = option("a", help="this one")
    asked: int = state(0)

    def sample(self, tasks: list[str], history: dict[str, list[float]], rng: torch.Generator) -> list[str]:
        self.asked += 1
        return [self.task]


@component
class Weighs(Balancer):
    weights: tuple[float, ...] = option(help="these weights")
    calls: int = state(0)

    def balance(self, losses: torch.Tensor, gradients: object) -> torch.Tensor:
        self.calls += 1
        return torch.tensor(self.weights, dtype=losses.dtype)


@component
class Longest(Balancer):
    """The gradient with the largest norm, as a direction: needs the matrix."""

    def combine(self, gradients: torch.Tensor) -> torch.Tensor:
        return gradients[gradients.norm(dim=1).argmax()].clone()


def registry() -> Registry:
    made = Registry()
    made.register(MULTITASK)  # which brings the point `sampler`
    made.register(PLUGIN, distribution="crosstask-composition", version="0.1.0")
    here = [
        Extension(c.point, c.__name__.lower(), f"{__name__}:{c.__name__}")
        for c in (Says, Refuses, Ranks, Picks, Weighs, Longest)
    ]
    made.register(Plugin("here", here, api=(2, 0)))
    return made


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest's importlib mode does not put this module where the registry looks for it."""
    import sys
    from types import ModuleType

    module = ModuleType(__name__)
    module.__dict__.update(globals())
    monkeypatch.setitem(sys.modules, __name__, module)


def test_every_target_of_the_manifest_is_of_its_point() -> None:
    made = registry()
    for extension in PLUGIN.extensions:
        if extension.point == "recipe":
            assert made.recipe_path(extension.name).is_file()
        else:
            assert made.component_class(extension.point, extension.name).point == extension.point


# Discovery


def test_chain_shows_each_what_the_ones_before_found_and_leaves_the_graph_alone() -> None:
    first, second = Says(by="first"), Says(by="second")
    seen = graph()
    edges = discovery.Chain(parts=[first, second]).discover(portfolio(), seen)
    assert (first.edges_seen, second.edges_seen) == (0, 6)
    assert [e.found_by for e in edges] == ["first"] * 6 + ["second"] * 6
    assert not list(seen.all_edges())


def test_blend_is_the_weighted_mean_with_its_error_and_the_weakest_evidence() -> None:
    blend = discovery.Blend(
        parts=[
            Says(coefficient=0.8, uncertainty=0.1, evidence=Evidence.MEASURED),
            Says(coefficient=0.0, uncertainty=0.2),
        ],
        weights=[3, 1],
    )
    edge = blend.discover(portfolio(), graph())[0]
    assert edge.transfer_coefficient == pytest.approx(0.6)
    assert edge.uncertainty == pytest.approx(((3 * 0.1) ** 2 + 0.2**2) ** 0.5 / 4)
    assert edge.low == pytest.approx(0.6 - 1.96 * edge.uncertainty)
    assert edge.evidence is Evidence.ESTIMATED
    assert edge.relation is RelationType.MODERATELY_SIMILAR
    for error, relation in ((0.4, RelationType.INDEPENDENT), (0.01, RelationType.ANTAGONISTIC)):
        parts = [Says(coefficient=-0.05, uncertainty=error), Says(coefficient=-0.06, uncertainty=error)]
        edge = discovery.Blend(parts=parts).discover(portfolio(), graph())[0]
        assert (edge.relation, edge.hurts) == (relation, relation is RelationType.ANTAGONISTIC)


def test_blend_leaves_out_what_too_few_say_and_gives_no_error_where_one_is_missing() -> None:
    parts = [Says(uncertainty=0.1), Says(targets=("a",))]
    edges = discovery.Blend(parts=parts, at_least=2).discover(portfolio(), graph())
    assert {e.target for e in edges} == {"a"}
    assert all(e.uncertainty is None and e.low is None for e in edges)


def test_fallback_asks_further_only_for_missing_pairs() -> None:
    last = Says(by="never")
    fallback = discovery.Fallback(parts=[Refuses(), Says(targets=("a",), by="one"), Says(by="two"), last])
    edges = fallback.discover(portfolio(), graph())
    assert {(e.target, e.found_by) for e in edges} == {("a", "one"), ("b", "two"), ("c", "two")}
    assert fallback.skipped == ["discovery Refuses: no models"]
    with pytest.raises(DataError, match="every discoverer refused: discovery Refuses: no models"):
        discovery.Fallback(parts=[Refuses()]).discover(portfolio(), graph())


# Curricula


def test_curricula() -> None:
    tasks = portfolio()
    fallback = curricula.Fallback(parts=[Ranks(), Ranks(order=("b", "a"))])
    plan = fallback.plan(tasks, graph(), "c", 3)
    assert plan.task_sequence == ("b", "a", "c")
    assert fallback.next_task(plan, []) == "b"
    assert fallback.state_dict()["chosen"] == 1
    assert curricula.Fallback(parts=[Ranks()]).rank(tasks, graph(), "c", ["a", "b"]) == []
    merged = curricula.Interleave(parts=[Ranks(order=("a", "b")), Ranks(order=("b", "a", "c"))])
    assert merged.rank(tasks, graph(), "z", ["a", "b", "c"]) == ["a", "c", "b"]


# Balancers


GRADIENTS = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]])


def test_normalise_gives_equal_norms_and_keeps_zero() -> None:
    for to, norm in (("one", 1.0), ("mean", 2.0)):
        weights = balancers.Normalise(to=to).balance(torch.ones(3), MatrixGradients(GRADIENTS))
        torch.testing.assert_close((weights[:, None] * GRADIENTS).norm(dim=1), torch.tensor([norm, norm, 0.0]))


def test_weighted_gradients_agree_with_the_weighted_matrix() -> None:
    torch.manual_seed(0)
    plain, weights = torch.randn(4, 6), torch.rand(4)
    lazy, literal = (
        balancers.WeightedGradients(MatrixGradients(plain), weights),
        MatrixGradients(weights[:, None] * plain),
    )
    vector, mix = torch.randn(6), torch.randn(4)
    torch.testing.assert_close(lazy.matrix, literal.matrix)
    torch.testing.assert_close(lazy.gramian, literal.gramian)
    torch.testing.assert_close(lazy.dot(vector), literal.dot(vector))
    torch.testing.assert_close(lazy.assemble(mix, vector.clone()), literal.assemble(mix, vector.clone()))


def test_sequence_and_blend_do_what_they_say() -> None:
    gradients = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    product = balancers.Sequence(parts=[Weighs(weights=(3, 1)), Weighs(weights=(1, 2)), Weighs(weights=(1, 1))])
    torch.testing.assert_close(product.combine(gradients), torch.tensor([6.0, 10.0]))
    torch.testing.assert_close(product.balance(torch.ones(2), MatrixGradients(gradients)), torch.tensor([3.0, 2.0]))
    chosen = balancers.Sequence(parts=[Weighs(weights=(3, 1)), Longest()])
    torch.testing.assert_close(chosen.combine(gradients), torch.tensor([6.0, 0.0]))
    torch.testing.assert_close(balancers.Sequence(parts=[Longest()]).combine(gradients), torch.tensor([0.0, 5.0]))
    mean = balancers.Blend(parts=[Weighs(weights=(1, 0)), Longest()], weights=[1, 3])
    torch.testing.assert_close(mean.combine(gradients), torch.tensor([0.5, 3.75]))
    with pytest.raises(PluginError, match="balancer Longest answers with a direction"):
        balancers.Sequence(parts=[Longest(), Weighs(weights=(1, 1))]).combine(gradients)


def test_normalise_then_project_agrees_with_projecting_normalised_gradients() -> None:
    pcgrad = pytest.importorskip("crosstask_pcgrad").PCGrad
    torch.manual_seed(1)
    gradients = torch.randn(4, 8) * torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None]
    normal = gradients / gradients.norm(dim=1, keepdim=True)
    found = balancers.Sequence(parts=[balancers.Normalise(to="one"), pcgrad()]).combine(gradients)
    torch.testing.assert_close(found, pcgrad().combine(normal))


# Samplers


def test_samplers_take_turns() -> None:
    turns = samplers.Interleave(parts=[Picks(task="a"), Picks(task="b")], steps=[2, 1])
    rng = torch.Generator()
    assert [turns.sample(list(IDS), {}, rng) for _ in range(7)] == [["a"], ["a"], ["b"], ["a"], ["a"], ["b"], ["a"]]


# What all of them share: options, state, TOML, runs


def test_wrong_options_are_refused() -> None:
    with pytest.raises(OptionError, match=r"Chain: parts must name at least 1, got 0"):
        discovery.Chain(parts=[])
    with pytest.raises(OptionError, match=r"Blend: weights must be one per part \(1\), got 2"):
        discovery.Blend(parts=["says"], weights=[1, 2])
    with pytest.raises(OptionError, match=r"Blend: weights must not all be zero"):
        balancers.Blend(parts=["weighs"], weights=[0])
    with pytest.raises(OptionError, match=r"Chain: parts\[0\] must be a component of 'discovery', got sampler Picks"):
        discovery.Chain(parts=[Picks()])
    with pytest.raises(OptionError, match=r"Chain: parts\[0\] must be a name, or a table with use"):
        discovery.Chain(parts=[3])
    lost = discovery.Chain(parts=["sayz"])
    lost.bind(LocalContext(registry=registry()))
    with pytest.raises(PluginError, match=r"discovery Chain: parts: no discovery named 'sayz'; did you mean 'says'\?"):
        lost.discover(portfolio(), graph())


def test_state_of_the_parts_survives() -> None:
    one = balancers.Sequence(parts=[Weighs(weights=(1, 1)), Weighs(weights=(2, 2))])
    one.combine(torch.eye(2))
    saved = one.state_dict()
    assert saved == {"parts": [{"calls": 1}, {"calls": 1}]}
    other = balancers.Sequence(parts=[Weighs(weights=(1, 1)), Weighs(weights=(2, 2))])
    other.load_state_dict(saved)
    assert other.state_dict() == saved
    with pytest.raises(PluginError, match="state has 1 parts, expected 2"):
        other.load_state_dict({"parts": [{"calls": 1}]})


def test_options_name_the_parts_whichever_way_they_were_given() -> None:
    given = discovery.Chain(parts=["says", {"use": "says", "coefficient": 0.1}, Refuses()])
    assert given.options()["parts"] == [
        {"use": "says", "options": {}},
        {"use": "says", "options": {"coefficient": 0.1}},
        {"use": f"{__name__}:Refuses", "options": {}},
    ]


def test_nested_in_toml() -> None:
    import tomllib

    tables = tomllib.loads(
        """
        [[discovery.discoverers]]
        use = "fallback"
        parts = ["refuses", { use = "blend", parts = ["says", { use = "says", coefficient = 0.8 }] }]
        [[wrappers]]
        use = "cautious"
        factor = 0.25
        """
    )
    with Run(registry()) as run:
        made = run.resolve("discovery", tables["discovery"]["discoverers"][0])
        edges = run.call(made, "discover", portfolio=portfolio(), graph=graph())
        assert [e.transfer_coefficient for e in edges] == [pytest.approx(0.6)] * 6
        run.resolve("wrapper", tables["wrappers"][0])
        edges = run.call(made, "discover", portfolio=portfolio(), graph=graph())
        assert [e.transfer_coefficient for e in edges] == [pytest.approx(0.15)] * 6  # once, not once for each part


# Wrappers


def test_cautious_leaves_measured_edges_alone() -> None:
    says = Says(coefficient=-0.4, uncertainty=0.2)
    measured = Says(evidence=Evidence.MEASURED)
    with Run(registry(), observers=[wrappers.Cautious(factor=0.5)]) as run:
        (edge, *_) = run.call(says, "discover", portfolio=portfolio(), graph=graph())
        assert (edge.transfer_coefficient, edge.uncertainty) == (-0.2, 0.1)
        assert edge.relation is RelationType.ANTAGONISTIC
        (edge, *_) = run.call(measured, "discover", portfolio=portfolio(), graph=graph())
        assert edge.transfer_coefficient == 0.4
    edge = attrs.evolve(edge, evidence=Evidence.PREDICTED, low=-0.2, high=1.0)
    assert (wrappers.Cautious()._shrunk(edge).low, wrappers.Cautious()._shrunk(edge).high) == (-0.1, 0.5)
    unsure = wrappers.Cautious()._shrunk(attrs.evolve(edge, transfer_coefficient=-0.1))
    assert unsure.relation is RelationType.INDEPENDENT, "its interval holds zero"


def test_smooth_acts_on_training_through_backward() -> None:
    shared = torch.nn.Parameter(torch.tensor([1.0, 1.0]))

    def gradient(run: Run, weights: tuple[float, float]) -> torch.Tensor:
        balancer = Weighs(weights=weights)
        balancer.bind(run)
        shared.grad = None
        balancer.backward([shared[0], shared[1]], [shared])
        assert shared.grad is not None
        return shared.grad

    with Run(registry(), observers=[wrappers.Smooth(momentum=0.5)]) as run:
        torch.testing.assert_close(gradient(run, (1, 0)), torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(gradient(run, (0, 1)), torch.tensor([0.5, 0.5]))
        torch.testing.assert_close(gradient(run, (0, 1)), torch.tensor([0.25, 0.75]))
        direction = Direction(vector=torch.ones(2))
        smooth = wrappers.Smooth().balance(MatrixGradients(torch.ones(2, 2)))
        next(smooth)
        with pytest.raises(StopIteration) as stopped:
            smooth.send(direction)
        assert stopped.value.value is direction
