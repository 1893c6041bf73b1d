"""The stages: what they refuse before any work, what they measure, what is shown."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch

from crosstask import TransferEngine
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, RecipeError, RunError
from crosstask.graph import TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.manifest import Plugin
from crosstask.options import build, structure, unstructure
from crosstask.records import Budget
from crosstask.tasks import Portfolio, Task
from crosstask.testing import reference_registry
from crosstask_federation import Federated, FederatedResult, Lost, PlainSum, SharedEdges, SharedEdgesResult
from crosstask_federation.plugin import PLUGIN
from crosstask_federation.testing import REFERENCE, ReferenceFederation, digits, two_sites

REGISTRY = reference_registry(
    PLUGIN, Plugin("federations", [e for e in REFERENCE.extensions if e.point == "federation"], api=(2, 0))
)
STEP = Budget(steps=5, batch_size=32, learning_rate=0.1, optimizer="sgd")
QUICK = Budget(steps=20, batch_size=32, learning_rate=5e-3, evaluate_every=20)


def engine(*tasks: Task, **given: Any) -> TransferEngine:
    made = TransferEngine(
        **{
            "registry": REGISTRY, "model": ModelSpec(hidden=(16,)), "seeds": 1, "discoverers": (), "train": QUICK,
            "budget": QUICK, **given,
        }
    )  # fmt: skip
    made.register(Portfolio(tasks) if tasks else two_sites())
    return made


def federated(made: TransferEngine, **options: Any) -> tuple[FederatedResult, Any]:
    outcome = made.run_stage("federated", **{"budget": STEP, "rounds": 4, "evaluate_every": 4, **options})
    return outcome.record, outcome.artifacts.get("model")


def small(name: str, outputs: int = 10, shape: tuple[int, ...] = (1, 8, 8), **more: Any) -> Task:
    whole = digits()
    descriptor = TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs, **more)
    parts = {"train": whole.data("train").take(slice(40)), "test": whole.data("test").take(slice(20))}
    return Task(descriptor=descriptor, **parts)


class Sums(ReferenceFederation):
    """What sites have, summed."""

    weighted: ClassVar[bool] = False


def few(name: str) -> Task:
    """Four of the digits."""
    task, chosen = small(name), {}
    for split in ("train", "test"):
        data = task.data(split)
        rows = (data.targets < 4).nonzero().flatten()
        chosen[split] = data.take(rows.repeat(20)[:20])
    return Task(descriptor=TaskDescriptor(task_id=name, input_shape=(1, 8, 8), output_dim=4), **chosen)


def test_sites_learn_together_and_the_yardsticks_stand_beside() -> None:
    with engine() as made:
        result, model = federated(made, rounds=8)
        again, _ = federated(made, rounds=8, secure_sum=PlainSum())
        known, _ = federated(made, rounds=8, save_every=3)  # what it would do is remembered
    assert result.score.mean > 0.5 > result.curve[0]
    assert result.rounds == (0, 4, 8)
    assert result.sites == ("small", "large")
    assert (result.samples, result.tested) == ({"small": 120, "large": 400}, {"small": 400, "large": 400})
    assert result.pooled is not None
    assert result.alone is not None
    assert result.score.mean == pytest.approx((result.scores["small"].mean + result.scores["large"].mean) / 2)
    assert again.score == result.score
    assert known == result
    with torch.no_grad():
        test = digits().data("test")
        right = (model(test.inputs).argmax(1) == test.targets).double().mean()
    assert float(right) == pytest.approx(result.score.mean)


def test_a_published_model_is_where_sites_begin() -> None:
    with engine(digits("published"), *two_sites(), train=attrs.evolve(QUICK, steps=150)) as made:
        result, _ = federated(made, source="published", rounds=1, yardsticks=False)
        other, _ = federated(made, tasks=["small", "large"], rounds=1, yardsticks=False)
        assert result.sites == ("small", "large")
        assert result.curve[0] > 0.85 > 0.3 > other.curve[0]
        assert result.source == "published"
        assert "published model of published" in Federated.sections(result, TransferGraph())[0].html
    with engine(digits("published"), few("a"), few("b")) as made:
        found, _ = federated(made, source="published", rounds=1, yardsticks=False)
        assert found.samples == {"a": 20, "b": 20}


def test_heads_that_stay_answer_other_classes() -> None:
    with engine(small("a", 10), small("b", 12)) as made:
        result, model = federated(made, federation="personal", rounds=2)
    assert model is None
    assert result.pooled is None
    assert set(result.alone_scores) == {"a", "b"}
    assert result.stays == ("head",)
    assert "head stays there" in Federated.sections(result, TransferGraph())[0].html


def test_one_task_becomes_sites() -> None:
    with engine(digits()) as made:
        result, _ = federated(made, split={"by": "label", "sites": 4}, share=0.5, sampling="by_size", rounds=2)
    assert result.sites == ("digits/0", "digits/1", "digits/2", "digits/3")
    assert sum(result.samples.values()) == 800


def test_a_resumed_run_has_the_same(tmp_path: Path) -> None:
    found = []
    for rounds in (2, 2):
        with engine(store=f"{tmp_path}/store.db") as made:
            found.append(federated(made, rounds=rounds))
    assert found[0][0] == found[1][0]
    pairs = zip(found[0][1].parameters(), found[1][1].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with engine(digits("published"), *two_sites(), store=f"{tmp_path}/store.db") as made:
        one = federated(made, source="published", rounds=1)
    with engine(digits("published"), *two_sites(), store=f"{tmp_path}/store.db") as made:
        assert federated(made, source="published", rounds=1)[0] == one[0]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"tasks": ["smal"]}, "tasks: no task 'smal'; did you mean 'small'"),
        ({"source": "pooled"}, "source: no task 'pooled'"),
        ({"source": "small", "tasks": ["small", "large"]}, "'small' is the source"),
        ({"tasks": ["small", "small"]}, "'small' is named twice"),
        ({"tasks": ["small"]}, "sites are two or more, got small"),
        ({"split": {"by": "iid"}}, "split makes sites of one task"),
        ({"federation": Sums(), "sampling": "by_size"}, "sums what sites have; by_size would count some twice"),
        ({"secure_sum": 3}, "must be an object with methods hide and total, got a int"),
        ({"secure_sum": PlainSum(), "federation": "personal"}, "needs what each site sends"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(options: Any, told: str) -> None:
    with engine() as made, pytest.raises(RecipeError, match=told):
        federated(made, **options)


def test_sites_that_cannot_learn_together_are_told() -> None:
    flat = Task(
        descriptor=TaskDescriptor(task_id="flat", input_shape=(64,), output_dim=10),
        train=([[0.0] * 64] * 4, [0, 1, 2, 3]),
    )
    shape = TaskDescriptor(task_id="other", input_shape=(64,), output_dim=10)
    other = Task(
        descriptor=shape,
        **{s: (digits().data(s).inputs[:20].flatten(1), digits().data(s).targets[:20]) for s in ("train", "test")},
    )
    named = [small(name, classes=tuple(names)) for name, names in (("c", "abcdefghij"), ("d", "jihgfedcba"))]
    cases: list[tuple[tuple[Task, ...], str]] = [
        ((small("a"), small("b", 12)), "one head answers at all sites, but outputs of 'a' and 'b'"),
        (tuple(named), "outputs of 'c' and 'd' mean other things"),
        ((small("a"), flat), "task 'flat' has no test data"),
        ((small("a"), other), r"inputs of 'a' and 'other' are \(1, 8, 8\) and \(64,\)"),
    ]
    for others, told in cases:
        with engine(*others) as made, pytest.raises(RecipeError, match=told):
            federated(made)


def test_inputs_of_another_kind_are_told() -> None:
    numbers = {s: ((16 * small("b").data(s).inputs).long(), small("b").data(s).targets) for s in ("train", "test")}
    whole = Task(descriptor=TaskDescriptor(task_id="b", input_shape=(1, 8, 8), output_dim=10), **numbers)
    with engine(small("a"), whole) as made, pytest.raises(DataError, match="inputs of all sites must be of one kind"):
        federated(made)


def test_a_stage_that_takes_the_model_is_told_that_there_is_none() -> None:
    stage = Federated(federation="personal")
    stage.taken = frozenset({"model"})
    with engine() as made:
        made.run.add(stage)
        with pytest.raises(RecipeError, match="head of it stays at the sites"):
            stage.check(made.portfolio)


def test_what_is_shown() -> None:
    with engine() as made:
        result, _ = federated(made, rounds=2, evaluate_every=1)
    rows = Federated.summary(result)
    assert rows["federated_score"] == result.score
    assert rows["megabytes_sent"] == result.sent / 1e6
    lost = Lost(round=2, site="small", reason="<no power>")
    worse = attrs.evolve(result, lost=(lost,), notes=("nothing <was> gained",))
    read = structure(unstructure(worse), FederatedResult, "result")
    (section,) = Federated.sections(read, TransferGraph())
    for text in (
        "all data in one place",
        "Bytes of tensors sent",
        "&lt;no power&gt;",
        "nothing &lt;was&gt; gained",
        "weights",
    ):
        assert text in section.html
    assert Federated.summary(read)["answers_lost"] == 1
    bare = attrs.evolve(result, pooled=None, pooled_scores={}, alone=None, alone_scores={}, up=(2_000_000,))
    assert "all data in one place" not in Federated.sections(bare, TransferGraph())[0].html.partition("<table>")[0]
    assert "MB" in Federated.sections(bare, TransferGraph())[0].html
    assert "keep their data" in result._headline()
    assert result._rows()[0]["federated"] == result.scores["small"].mean
    assert bare._rows()[0]["pooled"] is None


def test_losses_and_no_gain_are_noted() -> None:
    class Odd(PlainSum):
        def hide(self, tensors: Any, site: str, sites: Any, round: int) -> Any:
            if site == "small":
                raise OSError("no power")
            return {name: 0 * tensor for name, tensor in tensors.items()}

    with engine() as made:
        result, _ = federated(made, secure_sum=Odd(), rounds=2)
    assert result.notes[0] == "2 answers were lost in 2 rounds; the others went on"
    assert "nothing was gained by learning together" in result.notes[1]
    assert result.lost[0].reason == "OSError: no power"


# --- Edges


def edges(made: TransferEngine, **options: Any) -> SharedEdgesResult:
    record: SharedEdgesResult = made.run_stage("shared_edges", **options).record
    return record


def test_sites_share_what_they_measured_and_it_is_pooled() -> None:
    budget = attrs.evolve(QUICK, samples=60)
    with engine(
        digits("published"), digits("own"), seeds=2, train=attrs.evolve(QUICK, steps=100), budget=budget
    ) as made:
        result = edges(made, sources=["published"], tasks=["own"], split={"sites": 3})
        known = made.graph.edge("published", "own")
    assert [edge.site for edge in result.edges] == ["own/0", "own/1", "own/2"]
    assert result.bytes < 3000
    assert list(result.merged) == ["published -> own"]
    means = [edge.coefficient.mean for edge in result.edges]
    assert min(means) <= result.merged["published -> own"] <= max(means)
    assert known is not None
    assert known.measured
    assert {each.origin for each in known.measurements} == {"own/0", "own/1", "own/2"}
    assert {each.site for each in known.measurements} == {"own/0", "own/1", "own/2"}, (
        "told apart where figures are alike"
    )
    assert known.transfer_coefficient == result.merged["published -> own"]
    read = structure(unstructure(result), SharedEdgesResult, "result")
    (section,) = SharedEdges.sections(attrs.evolve(read, lost={"x": "<y>"}), TransferGraph())
    assert "merged edges" in section.html
    assert "&lt;y&gt;" in section.html
    assert "merged" in result._headline()
    assert len(result._rows()) == 3
    assert SharedEdges.summary(attrs.evolve(result, lost={"x": "y"}))["sites_lost"] == 1


def test_a_second_stage_adds_to_what_the_first_measured() -> None:
    """One of two sites and one of three give the edge that DerSimonian & Laird (1986) have of all five."""
    budget = attrs.evolve(QUICK, samples=40)
    with engine(digits("published"), digits("own"), seeds=2, budget=budget) as made:
        stated = {"sources": ["published"], "tasks": ["own"]}
        parts = [edges(made, **stated, split={"sites": count}) for count in (2, 3)]
        known = made.graph.edge("published", "own")
        again = edges(made, **stated, split={"sites": 2})
        after = made.graph.edge("published", "own")
    assert known is not None
    assert known.found_by == "shared_edges"
    found = [edge.coefficient.mean for part in parts for edge in part.edges]
    assert sorted(each.transfer_coefficient for each in known.measurements) == sorted(found)
    values = [each.transfer_coefficient for each in known.measurements]
    weights = [each.standard_error**-2 for each in known.measurements]
    centre = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    q = sum(w * (v - centre) ** 2 for w, v in zip(weights, values, strict=True))
    between = max(0.0, (q - 4) / (sum(weights) - sum(w**2 for w in weights) / sum(weights)))
    wide = [1 / (1 / w + between) for w in weights]
    pooled = sum(w * v for w, v in zip(wide, values, strict=True)) / sum(wide)
    assert known.transfer_coefficient == pytest.approx(pooled, rel=1e-9)
    assert again.merged == parts[0].merged, "each stage's own record says what it measured"
    assert after is not None
    assert len(after.measurements) == 5, "the same figures count once"
    assert after.transfer_coefficient == pytest.approx(pooled, rel=1e-9)


def test_a_site_that_cannot_measure_is_told_and_all_of_them_end_the_run() -> None:
    odd = Task(
        descriptor=TaskDescriptor(task_id="odd", input_shape=(3,), output_dim=2),
        train=(torch.zeros(8, 3), torch.arange(8) % 2), test=(torch.zeros(4, 3), torch.arange(4) % 2),
    )  # fmt: skip
    with engine(digits("published"), small("own"), odd) as made:
        result = edges(made, sources=["published"])
        assert list(result.lost) == ["odd"]
        assert len(result.edges) == 1
        with pytest.raises(RunError, match="no site could measure a transfer; 'odd'"):
            edges(made, sources=["published"], tasks=["odd"], method="reference")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sources": []}, "name at least one task"),
        ({"sources": ["larg"]}, "sources: no task 'larg'; did you mean 'large'"),
        ({"sources": ["small"], "tasks": ["small"]}, "'small' is a source"),
        ({"sources": ["small", "large", "bare"]}, "at least one site is needed, got none"),
        ({"sources": ["small"], "tasks": ["large", "bare"], "split": {"by": "iid"}}, "one task to split is needed"),
        ({"sources": ["small"], "tasks": ["bare"]}, "'bare' has no train data"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: Any, told: str) -> None:
    with engine(*two_sites(), Task(descriptor="bare")) as made, pytest.raises(RecipeError, match=told):
        edges(made, **options)


def test_the_recipe_names_what_is_installed() -> None:
    recipe = tomllib.loads(files("crosstask_federation").joinpath("recipes/federation.toml").read_text("utf-8"))
    made = build(Federated, recipe["federated"], "federated")
    assert made.rounds <= 50
    assert set(recipe["requires"]) == {"crosstask-digits", "crosstask-fedavg"}
