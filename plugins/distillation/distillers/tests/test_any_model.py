"""Distillation of models in hand: by the engine, of any architecture, inputs and metric."""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask import Budget, DataError, ModelSpec, Task, TaskDescriptor, TransferEngine
from crosstask.descriptors import MultiInput
from crosstask.learning.own_models import prepare_model
from crosstask.learning.training import predict
from crosstask_distillation.given import conditions
from crosstask_distillers import MetaKnowledgeDistiller, Representation, Strategy, WeightPrior
from crosstask_distillers.alignment import align

FEW = Budget(steps=4, batch_size=16, samples=30)


@cache
def images() -> tuple[Tensor, Tensor]:
    pixels, digits = load_digits(return_X_y=True)
    return torch.tensor(pixels[:300] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(digits[:300])


def task(name: str, outputs: int = 2, model: nn.Module | None = None, change: Any = None, **more: Any) -> Task:
    inputs, digits = images()
    given = inputs if change is None else change(inputs)
    about = {"task_id": name, "domain": "digits", "output_dim": outputs} | more
    labels = digits % outputs
    found = Task(
        descriptor=TaskDescriptor(**about),
        train=(given[:200], labels[:200]),
        validation=(given[200:], labels[200:]),
        model=model,
    )
    prepare_model(found)
    return found


def mlp(outputs: int = 2, seed: int = 0) -> nn.Module:
    return ModelSpec(hidden=(12,)).build(TaskDescriptor(task_id="x", input_shape=(1, 8, 8), output_dim=outputs), seed)


class Convolved(nn.Module):
    """Its head is declared first, its answer is a tuple."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.answer, self.see = nn.Linear(6, outputs), nn.Conv2d(1, 6, 3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        return self.answer(self.see(inputs).relu().mean((2, 3))), None


class Parts(nn.Module):
    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, upper: Tensor, lower: Tensor) -> dict[str, Tensor]:
        return {"logits": self.whole(torch.cat([upper, lower], dim=2))}


def halves(inputs: Tensor) -> MultiInput:
    return MultiInput({"upper": inputs[:, :, :4], "lower": inputs[:, :, 4:]})


def flat(inputs: Tensor) -> Tensor:
    return inputs.flatten(1)


def described(name: str, **more: Any) -> TaskDescriptor:
    return TaskDescriptor(**{"task_id": name, "input_shape": (1, 8, 8), "output_dim": 2} | more)


KINDS = {
    "representation": {"steps": 4, "held_out": 0},
    "strategy": {"rates": [1e-2], "budget": {"steps": 3, "samples": 30}},
    "prior": {"held_out": 0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_distils_models_in_hand_and_applies_what_it_found(kind: str) -> None:
    models = {"a": mlp(seed=0), "b": mlp(seed=1), "c": Convolved(2)}
    with TransferEngine(auto_discover=False, discoverers=[]) as engine:
        for name in models:
            engine.register_task(task(name))
        own = engine.component(object, "distillation", kind, KINDS[kind])
        distiller = engine.knowledge_distiller
        found = distiller.distill_from_tasks(models, {n: described(n) for n in models}, strategy=own)
        assert found.knowledge.kind == kind
        assert set(found.knowledge.source_tasks) >= {"a", "b"}
        assert engine.meta_knowledge == [found]
        again = distiller.distill_from_tasks(list(models.values()), [described(n) for n in models], strategy=own)
        for name, tensor in found.tensors.items():
            torch.testing.assert_close(again.tensors[name], tensor)
        target, seen = mlp(seed=5), images()[0][:9]
        before = copy.deepcopy(target.state_dict())
        changed = distiller.apply_meta_knowledge(target, found)  # its kind says who applies it
        assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())
        assert changed is not target
        same = distiller.apply_meta_knowledge(target, found, adaptation_rate=0.0)
        assert torch.equal(predict(same, seen), predict(target, seen))
        if kind != "strategy":
            whole = distiller.apply_meta_knowledge(target, found, adaptation_rate=1.0)
            for key, value in before.items():
                tenth, end = changed.state_dict()[key], whole.state_dict()[key]
                torch.testing.assert_close(tenth, value + 0.1 * (end - value), rtol=1e-4, atol=1e-6)
        with pytest.raises(DataError, match="between 0 and 1"):
            distiller.apply_meta_knowledge(target, found, adaptation_rate=1.5)
        with pytest.raises(DataError, match="2 models for 3 descriptors"):
            distiller.distill_from_tasks([mlp(), mlp()], [described(n) for n in models], strategy=own)


def test_without_data_the_samples_are_what_is_seen() -> None:
    with TransferEngine(auto_discover=False, discoverers=[]) as engine:
        own = engine.component(object, "distillation", "representation", KINDS["representation"])
        given = [mlp(seed=0), mlp(seed=1)], [described("a"), described("b", output_dim=2)]
        found = engine.knowledge_distiller.distill_from_tasks(*given, images()[0][:50], strategy=own)
        assert found.knowledge.source_tasks == ("a", "b")
        with pytest.raises(DataError, match="needs inputs"):
            engine.knowledge_distiller.distill_from_tasks(*given, strategy=own)
        with pytest.raises(DataError, match="needs inputs"):  # of another shape
            engine.knowledge_distiller.distill_from_tasks(*given, torch.zeros(9, 5), strategy=own)


def test_a_representation_of_the_same_inputs_in_parts() -> None:
    """Two inputs of each sample are no other knowledge than one."""
    maker = Representation(steps=5, held_out=0)
    plain = [task(n, model=mlp(seed=k)) for k, n in enumerate("ab")]
    several = [task(n, model=Parts(mlp(seed=k)), change=halves, domain="digits") for k, n in enumerate("ab")]
    one, other = maker.distill(plain, None), maker.distill(several, None)
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(other.tensors[name.replace("universal.", "universal.whole.")], tensor)
    assert one.knowledge.embedding == pytest.approx(other.knowledge.embedding, rel=1e-3)
    encoder = maker.encoder(other, several)
    features = encoder(halves(images()[0][:5]))
    torch.testing.assert_close(features, maker.encoder(one, plain)(images()[0][:5]))
    assert other.knowledge.applicability_conditions["input_shapes"] == [{"upper": (1, 4, 8), "lower": (1, 4, 8)}]


def test_shapes_and_architectures_that_differ_in_one_domain() -> None:
    tasks = [
        task("a", model=mlp(seed=0)), task("b", 3, model=mlp(3, seed=1)), task("c", model=Convolved(2)),
        task("flat", model=nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 2)), change=flat),
        task("parts", model=Parts(mlp(seed=2)), change=halves),
    ]  # fmt: skip
    maker = Representation(steps=4, held_out=3, budget=FEW)
    found = maker.distill(tasks, None)
    assert found.knowledge.source_tasks == ("a", "b", "c", "flat")
    reason = found.knowledge.applicability_conditions["left_out"]["parts"]
    assert reason == "its inputs are of another kind than those of 'a'"
    assert any(name.startswith("domain.digits (64,).") for name in found.tensors)
    assert found.knowledge.generalization_score is not None
    seen = images()[0][:4]
    assert maker.encoder(found, tasks)(seen).shape == (4, 12)


def test_token_ids_are_not_mapped() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 6), nn.Linear(6, 2)

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(self.embed(ids).mean(1))
            return out

    def words(name: str, length: int) -> Task:
        ids = torch.randint(0, 20, (60, length), generator=torch.Generator().manual_seed(length))
        labels = ids[:, 0] % 2
        made = Task(
            descriptor=TaskDescriptor(task_id=name), train=(ids, labels), validation=(ids, labels), model=Words()
        )
        made.data()
        return made

    tasks = [words("one", 5), words("two", 5), words("long", 7), task("a", model=mlp())]
    found = Representation(steps=3, held_out=0).distill(tasks, None)
    assert found.knowledge.source_tasks == ("one", "two")
    assert set(found.knowledge.applicability_conditions["left_out"]) == {"long", "a"}
    assert "universal.embed.weight" in found.tensors


class Moody(nn.Module):
    """Takes two samples at most."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > 2:
            raise RuntimeError("too many")
        out: Tensor = self.head(inputs.flatten(1))
        return out


@pytest.mark.parametrize("maker", [Representation(steps=3, held_out=0), Strategy(rates=(1e-2,), budget=FEW)])
def test_a_model_that_raises_is_left_out(maker: Any) -> None:
    tasks = [task("a", model=mlp(seed=0)), task("b", model=mlp(seed=1)), task("odd", model=Moody())]
    found = maker.distill(tasks, None)
    assert found.knowledge.source_tasks == ("a", "b")
    assert "too many" in found.knowledge.applicability_conditions["left_out"]["odd"]


def test_a_prior_says_who_took_no_part() -> None:
    tasks = [task("a", model=mlp(seed=0)), task("b", model=mlp(seed=1)), task("c", model=Convolved(2))]
    found = WeightPrior(held_out=0).distill(tasks, None)
    assert found.knowledge.source_tasks == ("a", "b")
    assert found.knowledge.applicability_conditions["left_out"] == {"c": "its model has another architecture"}


def test_units_of_models_with_other_answers_and_inputs() -> None:
    """What gives a mapping is aligned like what gives a tensor; several inputs are not shown, and nothing is moved."""

    class Named(nn.Module):
        def __init__(self, whole: nn.Module) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {"logits": self.whole(inputs)}

    torch.manual_seed(0)
    one, other = (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)) for _ in range(2))
    plain, aligned = align(one, other)
    assert aligned
    named, aligned = align(Named(one), Named(other))
    assert aligned
    for ours, theirs in zip(named.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    first, second = Parts(mlp(seed=0)), Parts(mlp(seed=1))
    same, aligned = align(first, second)
    assert not aligned
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), first.parameters(), strict=True))


def test_a_strategy_from_a_metric_below_zero_and_from_trainings_that_diverge() -> None:
    """With a negated error the better rate is chosen all the same, and a rate with which it diverges is the worst."""
    inputs, _ = images()
    values = inputs.flatten(1).sum(1, keepdim=True)
    tasks = []
    for name in ("ink", "more"):
        made = Task(
            descriptor=TaskDescriptor(task_id=name, task_type="regression"),
            train=(flat(inputs[:200]), values[:200]), validation=(flat(inputs[200:]), values[200:]), metric="rmse",
            model=nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1)),
        )  # fmt: skip
        made.data()
        tasks.append(made)
    maker = Strategy(rates=(1e-6, 1e-2, 1e30), budget=Budget(steps=40, samples=100, learning_rate=1e-6), sharpness=50.0)
    found = maker.distill(tasks, None)
    scores = found.tensors["scores"]
    assert bool((scores < 0).all())
    assert bool((scores[:, :, 1] > scores[:, :, 0]).all())
    assert 5e-3 < found.knowledge.applicability_conditions["learning_rate"] < 2e-2
    assert found.knowledge.generalization_score is not None
    assert found.knowledge.generalization_score > 0


def test_without_an_engine_too() -> None:
    inputs, digits = images()
    made = MetaKnowledgeDistiller("representation", steps=3, held_out=0)
    models = {"a": Parts(mlp(seed=0)), "b": Parts(mlp(seed=1))}
    about = [TaskDescriptor(task_id=n, domain="d", output_dim=2) for n in models]
    shared = made.distill_from_tasks(models, about, halves(inputs[:40]))
    own = made.distill_from_tasks(models, about, {n: (halves(inputs[:50]), digits[:50] % 2) for n in models})
    assert shared.knowledge.source_tasks == own.knowledge.source_tasks == ("a", "b")
    changed = made.apply_meta_knowledge(models["a"], own, 0.5)
    assert math.isfinite(float(predict(changed, halves(inputs[:3])).sum()))
    unlabelled = made.distill_from_tasks(models, about, {n: halves(inputs[:30]) for n in models})
    assert unlabelled.knowledge.source_tasks == ("a", "b")


def test_where_knowledge_applies() -> None:
    several = TaskDescriptor(task_id="x", input_shapes={"ids": (4,)})
    tasks = [Task(descriptor=d) for d in (described("a"), several, described("b"))]
    told = conditions(tasks, {})
    assert told == {"input_shapes": [(1, 8, 8), {"ids": (4,)}], "task_types": ["classification"]}
