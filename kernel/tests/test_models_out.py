"""Models come out: adapted, by curricula, from several sources; engines are saved and opened; the public faces."""

from __future__ import annotations

import asyncio
import copy
import math
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask import (
    Budget,
    CrossTaskTransferEngine,
    Curriculum,
    CurriculumStep,
    DataError,
    Extension,
    ModelSpec,
    Plugin,
    Registry,
    StoreError,
    Task,
    TaskDescriptor,
    TransferEdge,
    TransferEngine,
    component,
    state,
)
from crosstask.adapting import held_back, of_several
from crosstask.learning.model_files import load_model, save_model
from crosstask.learning.modules import forward, head_found, head_keys, know, locate_head, replace_head
from crosstask.learning.training import evaluate
from crosstask.records import Cost, SeveralResult
from crosstask.testing import blobs
from crosstask_fakes.components import FakePlanner, FakeTransfer
from crosstask_fakes.registry import with_fakes

FEW = Budget(steps=20, batch_size=8)


class Own(nn.Module):
    """A user's network: its last layer is declared first, its answer is a dictionary."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.answer, self.one = nn.Linear(8, outputs), nn.Linear(2, 8)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"logits": self.answer(self.scale * self.one(inputs).relu())}


def build() -> nn.Module:
    return Own()


def engine(**options: Any) -> TransferEngine:
    told = {"registry": with_fakes(), "discoverers": [], "model": ModelSpec(hidden=(8,)), "train": FEW, "budget": FEW,
            "seeds": 2}  # fmt: skip
    return TransferEngine(**{**told, **options})


def test_adapt_gives_a_module_of_the_sources_class() -> None:
    torch.manual_seed(0)
    model = Own()
    with engine() as made:
        made.register_task(blobs("a"), model)
        made.register_task(blobs("b", seed=1))
        found = made.adapt("a", "b", "fake")
        again = made.adapt("a", "b", "fake")
        assert type(found.model) is Own
        assert not found.model.training
        assert evaluate(found.model, made.portfolio["b"]) == pytest.approx(found.score.values[0])
        assert found.result["performance_gain"] == found.result.performance_gain.mean
        for one, other in zip(found.model.parameters(), again.model.parameters(), strict=True):
            torch.testing.assert_close(one, other)
        assert (found.sources, found.target, found.metric) == (("a",), "b", "accuracy")
        with pytest.raises(KeyError, match="did you mean 'performance_gain'"):
            found.result["performance_gian"]


def test_adapt_from_several_takes_no_worse_than_the_best(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with engine() as made:
        for number in range(3):
            made.register_task(blobs(f"t{number}", seed=number))
        target = made.portfolio["t2"]
        single = [evaluate(made.adapt(f"t{n}", "t2", "fake").model, target, "validation") for n in range(2)]
        both = made.adapt(["t0", "t1"], "t2", "fake")
        assert evaluate(both.model, target, "validation") >= max(single)
        made.register_task(TaskDescriptor(task_id="bare"))
        noted = made.adapt(["t0", "t1", "bare", "t0"], "t2", "fake")
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "source left out" in line]
        assert "source=bare" in line
        assert noted.notes[-1] in line
        assert noted.sources == both.sources
        assert noted.notes[:-1] == both.notes
        assert noted.notes[-1].startswith("task 'bare' has neither a trained model nor training data")
        trained: list[Any] = []
        monkeypatch.setattr(made, "transfer_knowledge", lambda *given: trained.append(given))
        for wrong, told in (("t9", "no task 't9'"), ("t2", "'t2' is both source and target")):
            with pytest.raises(DataError, match=told):
                made.adapt(["t0", wrong], "t2", "fake")
        assert not trained, "before any is learned"
        with pytest.raises(DataError, match="at least one source"):
            made.adapt([], "t2")


def test_what_the_score_of_an_adapted_model_is_of_is_said() -> None:
    with engine() as made:
        for number in range(3):
            made.register_task(blobs(f"t{number}", seed=number))
        target = made.portfolio["t2"]
        single = made.adapt("t0", "t2", "fake")
        other = attrs.evolve(single, sources=("t1",), score=single.score)
        mean = of_several([single, other], target)  # the same weights: as good, so that both are averaged
        assert mean.sources == ("t0", "t1")
        assert mean.notes[-1] == (
            "mean of the weights from t0, t1, chosen by the validation data; the score is its own, of one model: "
            f"from t0 alone it was {single.score}"
        )
        assert mean.score.values == (evaluate(mean.model, target, "test"),)
        assert f"from t0 and t1 by {mean.strategy}: accuracy {mean.score.mean:.3f}, " in repr(mean), "no interval"
        few = target.over(validation=target.data("validation").head(29), test=target.data("test"))
        assert of_several([single, other], few).sources == ("t0",), "too few to decide"
        assert of_several([single], target).notes[-1] == "best on the validation data: t0"
        bare = target.over(train=target.data("train"), test=target.data("test"))
        assert of_several([single, other], bare).notes[-1].endswith("on the test data, too good by this choice")
        assert of_several([single], bare).notes[-1] == "no validation data"


def test_how_many_of_its_samples_a_model_has_learned_from_is_said() -> None:
    told = "learned from 7 of its 60 training samples, as the budget says: for more TransferEngine(budget=Budget("
    with engine(budget=attrs.evolve(FEW, samples=7)) as made:
        for number in range(3):
            made.register_task(blobs(f"t{number}", seed=number))
        several = made.adapt(["t0", "t1"], "t2", "fake")
        path = made.adapt(made.generate_curriculum("t2", "fake", 2), strategy="fake")
        for found in (made.adapt("t0", "t2", "fake"), several, path, made.adapt("t2", strategy=FakeSeveral())):
            assert found.samples == (7, 60)
            assert [note.startswith(told) for note in found.notes] == [True] + [False] * (len(found.notes) - 1)
            assert "; learned from 7 of 60 training samples)" in repr(found)
    with engine() as made:
        made.register_task(blobs("t0"))
        made.register_task(blobs("t1", seed=1))
        found = made.adapt("t0", "t1", "fake")
        assert found.samples == (60, 60)
        assert "samples" not in repr(found) + " ".join(found.notes)


def test_what_is_printed_is_a_line_that_can_be_read() -> None:
    with engine() as made:
        assert (
            repr(made)
            == "TransferEngine(0 tasks, 0 of them with a model; TransferGraph(0 tasks, 0 edges, 0 of them measured))"
        )
        assert repr(made.portfolio) == "Portfolio('portfolio': 0 tasks)"
        for number in range(10):
            made.register_task(blobs(f"t{number}", seed=number), unseen=number == 9)
        made.train(["t0"])
        made.graph.add(TransferEdge(source="t0", target="t1", transfer_coefficient=0.1, evidence="measured"))
        made.graph.add(TransferEdge(source="t0", target="t1", transfer_coefficient=0.1, evidence="estimated"))
        assert repr(made.graph) == "TransferGraph(10 tasks, 2 edges, 1 of them measured)"
        assert repr(made) == f"TransferEngine(10 tasks, 1 of them with a model; {made.graph!r})"
        assert repr(CrossTaskTransferEngine(engine=made)) == f"CrossTaskTransferEngine({made!r})"
        assert repr(made.portfolio) == "Portfolio('portfolio': 9 tasks: t0, t1, t2, t3, t4, t5, t6, t7, ...; 1 unseen)"
        done = made.transfer_knowledge("t0", "t1", "fake")
        gained = f"gain {done.performance_gain:+}, coefficient {done.coefficient:+}"
        assert str(done) == (
            f"TransferResult('t0' to 't1' by {done.strategy}: accuracy {done.score} on test data, "
            f"{done.scratch_score.mean:.3f} from scratch, {gained})"
        )


def opposed(count: int = 40, **fields: Any) -> tuple[Task, dict[str, nn.Module]]:
    """A target without validation data whose test labels are the opposite of what its training data say, and two
    models: one that is right about the training data, and one that is wrong about all of them.
    """
    inputs = torch.randn(count, 2, generator=torch.Generator().manual_seed(3))
    labels = (inputs[:, 0] > 0).long()
    descriptor = TaskDescriptor(task_id="target", output_dim=2, classes=("left", "right"), **fields)
    models = {}
    for name, sign in (("right", 1.0), ("wrong", -1.0)):
        models[name] = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        with torch.no_grad():
            for parameter in models[name].parameters():
                parameter.zero_()
            models[name][0].weight.copy_(torch.eye(2))
            models[name][1].weight[:, 0] = torch.tensor([-sign, sign])
    return Task(descriptor=descriptor, train=(inputs, labels), test=(inputs, 1 - labels)), models


def from_opposed(target: Task, models: dict[str, nn.Module], **options: Any) -> TransferEngine:
    made = engine(budget=Budget(steps=1, batch_size=8, learning_rate=1e-6), **options)
    for name, model in models.items():
        task = Task(descriptor=attrs.evolve(target.descriptor, task_id=name), train=target.train, test=target.train)
        made.register_task(task, model)
    made.register_task(target)
    return made


def test_without_validation_data_what_is_held_back_decides_among_sources(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    target, models = opposed()
    with from_opposed(target, models, store=store) as made:
        found = made.adapt(["wrong", "right"], "target", "fake")
        assert found.sources == ("right",), "though the other scores better on the test data"
        assert found.score.mean == 0.0
        assert found.notes[-1] == "best on a 5th of the training samples, held back for the choice: right"
        whole = made.adapt("right", "target", "fake")
        for name, tensor in whole.model.state_dict().items():
            assert torch.equal(found.model.state_dict()[name], tensor), "it has learned from all samples"
    with pytest.MonkeyPatch.context() as patch, from_opposed(*opposed(), store=store) as made:
        patch.setattr("crosstask_fakes.components.fit", lambda *_, **__: pytest.fail("learned again"))
        patch.setattr("crosstask.learning.together.train_fleet", lambda *_, **__: pytest.fail("learned again"))
        assert made.adapt(["wrong", "right"], "target", "fake").notes == found.notes


def test_what_is_held_back_is_held_back_from_all_sources_alike_and_for_every_seed() -> None:
    target, models = opposed()
    with from_opposed(target, models) as made:
        made.train()
        method, sources = made.method("fake"), [made.portfolio[name] for name in models]
        trials = held_back(made.run, method, sources, target, made.budget, 2)
        assert not isinstance(trials, str)
        assert [len(own) for own, _ in trials] == [2, 2]
        rows = []
        for own, task in trials:
            assert (len(task.data("train")), len(task.data("validation"))) == (32, 8)
            kept, out = ({tuple(row) for row in task.data(split).inputs.tolist()} for split in ("train", "validation"))
            assert not kept & out
            rows.append(out)
            assert [evaluate(model, task, "validation") for model in own] == [1.0, 0.0]
        assert rows[0] != rows[1]
        drawn = held_back(made.run, method, sources, target, attrs.evolve(made.budget, samples=10), 1)
        assert not isinstance(drawn, str)
        assert (len(drawn[0][1].data("train")), len(drawn[0][1].data("validation"))) == (8, 2)


def test_where_nothing_can_be_held_back_the_choice_by_test_data_is_said() -> None:
    def chosen(target: Task, models: dict[str, nn.Module], names: list[str]) -> tuple[tuple[str, ...], str]:
        with from_opposed(target, models) as made:
            found = made.adapt(names, "target", "fake")
            return found.sources, found.notes[-1]

    sources, note = chosen(*opposed(9), ["right", "wrong"])
    assert sources == ("wrong",)
    assert note == (
        "no validation data, and 9 training samples, too few to hold some back: of the sources the one that scored "
        "best on the test data, too good by this choice"
    )
    target, models = opposed()

    def of_many(outputs: Tensor, targets: Tensor) -> Tensor:
        if len(targets) < 20:
            raise ValueError("too few")
        return (outputs.argmax(1) == targets).float().mean()

    target.metric = of_many
    sources, note = chosen(target, models, ["right", "wrong"])
    assert sources == ("wrong",)
    assert "held back decide nothing (task 'target'" in note
    assert "too few" in note
    assert note.endswith("on the test data, too good by this choice")
    assert chosen(*opposed(9), ["right", "right"]) == (("right",), "no validation data")


def test_models_that_did_not_begin_as_one_are_not_averaged() -> None:
    """However well the mean does on the data that decide."""
    with engine() as made:
        torch.manual_seed(1)
        for name in ("t0", "t1"):
            made.register_task(blobs(name), Own())
        made.register_task(blobs("t2"))
        one, apart = (made.adapt(name, "t2", "fake") for name in ("t0", "t1"))
        target = made.portfolio["t2"]
        target.metric = lambda outputs, targets: torch.tensor(0.5)
        assert len(of_several([one, apart], target).sources) == 1
        assert len(of_several([one, attrs.evolve(apart, model=one.model)], target).sources) == 2


def test_a_mean_that_what_is_held_back_speaks_for_says_so() -> None:
    target, models = opposed(75)
    models = {"one": models["right"], "two": copy.deepcopy(models["right"])}
    with from_opposed(target, models) as made:
        found = made.adapt(["one", "two"], "target", "fake")
        assert found.sources == ("one", "two")
        assert found.notes[-1] == (
            "mean of the weights from one, two, chosen by a 5th of the training samples, held back for the choice; the "
            "score is its own, of one model: from one alone it was 0.000 [0.000, 0.000]"
        )
    with from_opposed(*opposed(70)[:1], models) as made:
        assert made.adapt(["one", "two"], "target", "fake").sources == ("one",), "14 samples, for two seeds: too few"


@component
class FakeSeveral(FakeTransfer):
    """Learns from the first source that it is given, and notes what it was given."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"several"})
    given: list[dict[str, Any]] = state(factory=list)

    def transfer_several(self, sources, target, graph, train, budget, seeds, split):  # type: ignore[no-untyped-def]
        self.given.append({"sources": [t.task_id for t in sources], "graph": graph, "split": split, "train": train})
        result = self.transfer(sources[0], target, budget, seeds, split)
        return SeveralResult(
            sources=(sources[0].task_id,), target=target.task_id, strategy=self.origin, metric=result.metric,
            split=split, score=result.score, single_score=result.score, scratch_score=result.scratch_score,
            cost=Cost(steps=1), single_cost=Cost(steps=1), notes=("the first",), seeds=seeds,
        ).with_model(sources[0].model)  # fmt: skip


def test_adapt_from_several_at_once_finds_the_sources_or_takes_those_that_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    method = FakeSeveral()
    with engine() as made:
        for number in range(3):
            made.register_task(blobs(f"t{number}", seed=number))
        wide, labels = torch.randn(40, 3), torch.arange(40) % 3
        made.register_task(Task(descriptor=TaskDescriptor(task_id="wide"), train=(wide, labels)))
        made.register_task(TaskDescriptor(task_id="bare"))
        found = made.adapt("t2", strategy=method)
        assert method.given[-1]["sources"] == ["t0", "t1"], "without the target, without what does not fit"
        assert method.given[-1]["graph"] is made.graph
        assert (method.given[-1]["split"], method.given[-1]["train"]) == ("test", FEW)
        assert (found.sources, found.target, found.score) == (("t0",), "t2", found.result.score)
        assert found.model is made.portfolio["t0"].model
        assert found.notes[:2] == ("of 2 measured models the first", "the first")
        assert [note.partition(" ")[0] for note in found.notes[2:]] == ["wide", "bare"], "why these do not fit"
        assert "left out" not in capsys.readouterr().err, "nobody named them"
        made.adapt(["t1", "t0", "wide", "t1"], "t2", method)
        assert "source=wide" in capsys.readouterr().err
        assert (method.given[-1]["sources"], method.given[-1]["graph"]) == (["t1", "t0"], None)
        made.adapt("t1", "t2", method)
        made.adapt(["t1"], "t2", method)
        assert len(method.given) == 2, "one source: `learn` is asked"
        for sources, target, words in (
            (["t0", "t9"], "t2", "no task 't9'"),
            (["t0", "t2"], "t2", "both source and target"),
            (["wide", "bare"], "t2", "no source fits 't2': the model of 'wide'"),
        ):
            with pytest.raises(DataError, match=words):
                made.adapt(sources, target, method)
        with pytest.raises(DataError, match="or a strategy that learns from several sources"):
            made.adapt("t2", strategy="fake")
        with pytest.raises(DataError, match="learns from one source: a method with the capability 'several' is needed"):
            made.run.call(made.method("fake"), "transfer_several", sources=[], target=made.portfolio["t2"], graph=None,
                          train=FEW, budget=FEW, seeds=1, split="test")  # fmt: skip
    with engine() as alone:
        alone.register_task(blobs("a"))
        with pytest.raises(DataError, match="no source fits 'a': there is no other task"):
            alone.adapt("a", strategy=method)


def test_the_best_strategy_of_a_pair_is_one_that_learns_from_a_pair() -> None:
    registry = with_fakes()
    registry.register(Plugin("several", [Extension("transfer", "both", f"{__name__}:FakeSeveral")], api=(2, 0)))
    with engine(registry=registry) as made:
        for number in range(2):
            made.register_task(blobs(f"t{number}", seed=number))
        assert set(registry.names("transfer")) == {"fake", "both"}
        assert made.get_best_transfer_strategy("t0", "t1") == "fake"
        assert len(made.transfer_history) == 1


def test_a_curriculum_goes_on_with_the_users_own_model_and_gives_it_back() -> None:
    torch.manual_seed(0)
    model = Own()
    with engine() as made:
        made.register_task(blobs("a"), model)
        before = {name: t.clone() for name, t in model.state_dict().items()}
        made.register_task(blobs("b", seed=1))
        plan = made.generate_curriculum("b", "fake", 2)
        done = made.run_curriculum(plan, "fake")
        assert type(done.model) is Own
        assert done.total_steps == FEW.steps, "a trained model is not trained again"
        assert done.steps[0].score.values == (evaluate(model, made.portfolio["a"]),) * 2
        assert evaluate(done.model, made.portfolio["b"]) == pytest.approx(done.steps[-1].score.values[0])
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, before[name])
        assert made.adapt(plan, strategy="fake").score == done.steps[-1].score
        assert plan.expected_performance is not None
        assert plan.expected_interval is not None
        assert plan.expected_interval.low <= plan.expected_performance <= plan.expected_interval.high
        assert made.curricula == [plan]


def test_the_architecture_of_a_path_is_the_targets_own() -> None:
    with engine() as made:
        made.register_task(blobs("a"))
        made.register_task(blobs("b", seed=1), Own())
        done = made.run_curriculum(made.generate_curriculum("b", "fake", 2), "fake")
        assert type(done.model) is Own
        assert done.total_steps == 2 * FEW.steps


def test_a_factory_makes_the_tasks_network() -> None:
    with engine() as made:
        task = blobs("a")
        task.build = build
        made.register_task(task)
        made.train()
        assert type(made.portfolio["a"].model) is Own
        bad = blobs("c")
        bad.build = lambda: nn.Linear(2, 7)
        made.register_task(bad)
        with pytest.raises(DataError, match=r"task 'c': Linear gives outputs of shape \(2, 7\) .*\[N, 3\].* is needed"):
            made.train(["c"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (object(), "its model must be a torch module, got a object"),
        (nn.Linear(5, 3), r"Linear cannot take inputs of shape \(2,\) .*mat1 and mat2"),
        (nn.Linear(2, 7), r"Linear gives outputs of shape \(2, 7\) for two samples: \[N, 3\], or output_dim=7"),
        (nn.Linear(2, 1), r".*\[N, 3\] is needed"),
        (nn.Embedding(3, 3), "Embedding cannot take inputs"),
        (nn.LSTM(2, 3), None),
        (nn.LSTM(2, 4), r".*gives outputs of shape \(2, 4\)"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_and_nothing_is_registered(model: Any, message: str | None) -> None:
    with engine() as made:
        if message is None:
            made.register_task(blobs("a"), model)
            return
        task = blobs("a")
        with pytest.raises(DataError, match=f"task 'a': {message}"):
            made.register_task(task, model)
        assert len(made.portfolio) == 0
        assert task.model is None
        assert made.graph.task_ids == []
        made.register_task(task)


def test_a_discoverer_that_fails_leaves_nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(discoverers=["fake"]) as made:
        made.register_task(blobs("a"))

        def fail(*_: object) -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(made, "_discover_with", fail)
        monkeypatch.setattr(type(made.discoverers[0]), "capabilities", frozenset({"descriptors_only"}))
        with pytest.raises(RuntimeError, match="broken"):
            made.register_task(blobs("b", seed=1))
        assert made.portfolio.ids == made.graph.task_ids == ["a"]


def test_a_single_task_type_or_loss_decides_what_a_model_must_give() -> None:
    with engine() as made:
        task = Task(descriptor=TaskDescriptor(task_id="s", task_type="segmentation"),
                    train=(torch.rand(6, 1, 4, 4), torch.randint(0, 2, (6, 4, 4))))  # fmt: skip
        with pytest.raises(DataError, match=r"\[N, 2, H, W\] is needed"):
            made.register_task(task, nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
        made.register_task(task, nn.Conv2d(1, 2, 1))


# Scores that are not between 0 and 1 ----------------------------------------------------------------------------------


def test_intervals_lie_where_the_metric_does() -> None:
    def task(name: str, seed: int) -> Task:
        x = torch.randn(40, 2, generator=torch.Generator().manual_seed(seed))
        y = 30 * x[:, :1] + seed
        return Task(descriptor=TaskDescriptor(task_id=name, task_type="regression"), train=(x, y), test=(x, y),
                    metric="rmse")  # fmt: skip

    with engine(seeds=3) as made:
        made.register_task(task("a", 0))
        made.register_task(task("b", 1))
        found = made.transfer_knowledge("a", "b", "fake")
        assert found.metric == "neg_rmse"
        assert found.score.low <= found.score.mean <= found.score.high <= 0
        gains = [a - b for a, b in zip(found.score.values, found.scratch_score.values, strict=True)]
        assert found.performance_gain.mean == pytest.approx(sum(gains) / 3)
        shares = [gain / -score for gain, score in zip(gains, found.scratch_score.values, strict=True)]
        assert found.coefficient.mean == pytest.approx(sum(shares) / 3, rel=1e-5), "the share of the way to 0 error"


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [3, 5])
def test_a_model_file_gives_back_the_same_answers(tmp_path: Path, outputs: int) -> None:
    inputs = torch.randn(4, 2)
    task = TaskDescriptor(task_id="a", input_shape=(2,), output_dim=3)
    model = ModelSpec(hidden=(8,)).build(task, 0)
    replace_head(model, outputs, 1)
    path = save_model(model, tmp_path / "a.safetensors")
    torch.testing.assert_close(forward(load_model(path), inputs), forward(model, inputs))


def test_a_class_of_ones_own_comes_back_only_where_it_is_trusted(tmp_path: Path) -> None:
    model, inputs = Own(), torch.randn(4, 2)
    know(model, build=build)
    locate_head(model, inputs)
    path = save_model(model, tmp_path / "own.safetensors")
    with pytest.raises(DataError, match=r"made by .*:build, whose code is imported only with trust=True; or .* into="):
        load_model(path)
    for found in (load_model(path, trust=True), load_model(path, into=Own()), load_model(path, into=Own(7))):
        torch.testing.assert_close(forward(found, inputs), forward(model, inputs))
    with pytest.raises(DataError, match="the weights are not those of this Linear"):
        load_model(path, into=nn.Linear(2, 3))
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(StoreError, match="cannot read model"):
        load_model(tmp_path / "bad.safetensors")


class Bare(nn.Module):
    """A head that is parameters of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 6)
        self.weight, self.bias = nn.Parameter(torch.randn(3, 6)), nn.Parameter(torch.zeros(3))

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(self.body(inputs).relu(), self.weight, self.bias)


def test_a_head_of_parameters_comes_back_with_its_outputs(tmp_path: Path) -> None:
    model, inputs = Bare(), torch.randn(4, 2)
    locate_head(model, inputs)
    replace_head(model, 5, 1)
    path = save_model(model, tmp_path / "bare.safetensors")
    again = load_model(path, trust=True)
    assert forward(again, inputs).shape == (4, 5)
    torch.testing.assert_close(forward(again, inputs), forward(model, inputs))
    assert head_keys(again) == {"weight", "bias"}


def test_an_engine_is_opened_as_it_was(tmp_path: Path) -> None:
    own = Own()
    with engine(seed=5) as made:
        made.register_task(blobs("a/../../b"), own)
        made.register_task(blobs("b", seed=1))
        made.register_task(blobs("c", seed=2), unseen=True)
        made.train()
        made.discover(["fake"])
        made.save(tmp_path / "e", data=True)
        made.save(tmp_path / "e", data=True)
        edges = made.transfer_edges
        expected = {t: forward(made.portfolio[t].model, blobs("x").data("test").inputs) for t in ("a/../../b", "b")}  # type: ignore[arg-type]
    opened = TransferEngine.open(tmp_path / "e", models={"a/../../b": Own()}, registry=with_fakes(), discoverers=[])
    with opened:
        assert (opened.seed, opened.portfolio.ids) == (5, ["a/../../b", "b"])
        assert [t.task_id for t in opened.portfolio.unseen] == ["c"]
        assert {(e.source, e.target, e.transfer_coefficient, e.found_by) for e in opened.transfer_edges} == {
            (e.source, e.target, e.transfer_coefficient, e.found_by) for e in edges
        }
        for task_id, answer in expected.items():
            torch.testing.assert_close(forward(opened.portfolio[task_id].model, blobs("x").data("test").inputs), answer)  # type: ignore[arg-type]
        assert head_found(opened.portfolio["a/../../b"].model).module == "answer"  # type: ignore[arg-type]
        assert opened.adapt("b", "a/../../b", "fake").score.mean <= 1
    with TransferEngine.open(tmp_path / "e", registry=with_fakes(), discoverers=[]) as without:
        assert without.portfolio["a/../../b"].model is None, "its class is not trusted"
    with pytest.raises(StoreError, match=r"is no engine that was saved: it has no engine\.json"):
        TransferEngine.open(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds something else"):
        made.save(tmp_path / "other")
    with pytest.raises(DataError, match="has no task 'd'"):
        TransferEngine.open(tmp_path / "e", models={"d": own}, registry=with_fakes())


# The coroutine engine -------------------------------------------------------------------------------------------------


def test_the_public_face_of_the_engine(registry: Registry, tmp_path: Path) -> None:
    made = CrossTaskTransferEngine(
        task_embedding_dim=16, hidden_dim=32, registry=registry, model=ModelSpec(hidden=(8,)), train=FEW, budget=FEW,
        seeds=1, discoverers=["fake"],
    )  # fmt: skip

    async def work() -> None:
        made.register_task(blobs("a"), Own())
        made.register_task(blobs("b", seed=1))
        made.register_task(TaskDescriptor(task_id="only told", input_shape=(2,), output_dim=3))
        await made.discover()
        curriculum = await made.generate_curriculum(target_task="b", strategy="fake", max_tasks=2)
        results = await made.transfer_knowledge(source_task="a", target_task="b", transfer_strategy="fake")
        assert isinstance(results["performance_gain"], float)
        assert made.transfer_history == [results]
        assert made.curricula == [curriculum]
        assert isinstance(curriculum.expected_performance, float)
        model = await made.synthesize_zero_shot_model(
            TaskDescriptor(task_id="new", input_shape=(2,), output_dim=3), synthesis_strategy="fake"
        )
        assert model.provenance.new_task == "new"
        assert type((await made.adapt("a", "b", "fake")).model) is Own
        await made.close()

    try:
        asyncio.run(work())
    finally:
        made.engine.close()
    assert set(made.tasks) == {"a", "b", "only told", "new"}
    edge = made.transfer_edges[0]
    assert {edge.source_task, edge.target_task} <= set(made.tasks)
    assert math.isfinite(edge.transfer_coefficient)


def test_a_synthesis_that_fails_registers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> nn.Module:
        raise DataError("no source has these classes")

    with engine() as made:
        made.register_task(blobs("a"))
        monkeypatch.setattr(made, "_synthesized", fail)
        new = TaskDescriptor(task_id="new", task_type="segmentation", output_dim=7)
        with pytest.raises(DataError, match="no source has these classes"):
            made.synthesize_zero_shot_model(new, "fake")
        assert [t.task_id for t in made.portfolio.unseen] == []
        assert made.graph.task_ids == ["a"]


@component
class Watching(FakePlanner):
    """Remembers what it is told of the steps so far."""

    seen: list[Any] = state(factory=list)

    def next_task(self, curriculum: Curriculum, history: list[CurriculumStep]) -> str | None:
        self.seen[:] = history
        done = {step.task_id for step in history}
        return next((t for t in curriculum.task_sequence if t not in done), None)


def test_a_planner_that_adapts_sees_validation_data_only() -> None:
    planner = Watching()
    with engine() as made:
        for number in range(2):
            made.register_task(blobs(f"t{number}", seed=number))
        done = made.run_curriculum(made.generate_curriculum("t1", "fake", 2), "fake", planner=planner)
        assert len(planner.seen) == 2
        for shown, kept in zip(planner.seen, done.steps, strict=True):
            assert shown.score.mean == pytest.approx(kept.curve.final)
            assert shown.scratch_score.mean == pytest.approx(kept.scratch_curve.final)
