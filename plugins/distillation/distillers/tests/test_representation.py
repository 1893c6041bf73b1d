"""The losses against their formulas, domains that cannot be told apart, and what it is worth on real digits."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask.learning.training import evaluate, fit, predict
from crosstask.learning.transferring import drawn, fresh_model
from crosstask.points.distillation import Distilled
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask.testing import small_portfolio
from crosstask_distillation.testing import check_encoder
from crosstask_distillers import MetaKnowledgeDistiller, Representation
from crosstask_distillers.representation import Teacher, _standard, relation_loss
from crosstask_distillers.universal import DomainEncoder, Reversed


def test_relation_loss_is_of_distances_relative_to_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(9, k, generator=generator, dtype=torch.float64) for k in (3, 5))
    a, b = (torch.tensor(pdist(x.numpy())) for x in (one, other))
    expected = nn.functional.smooth_l1_loss(a / a.mean(), b / b.mean())
    torch.testing.assert_close(relation_loss(one, other), expected)
    turned = 7 * one @ torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0] + 2
    assert float(relation_loss(turned, one)) < 1e-20, "turned, moved and scaled it is the same relation"


def test_the_gradient_is_turned_round() -> None:
    features = torch.ones(3, requires_grad=True)
    (Reversed.apply(features, 0.25) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad, -0.25 * torch.tensor([1.0, 2.0, 3.0]))


def test_a_domain_encoder_starts_as_the_identity_and_takes_other_shapes() -> None:
    inputs = torch.randn(4, 1, 3, 3)
    torch.testing.assert_close(DomainEncoder((1, 3, 3), (1, 3, 3), 2)(inputs), inputs)
    assert DomainEncoder((7,), (1, 3, 3), 2)(torch.randn(4, 7)).shape == inputs.shape


@functools.cache
def digits() -> dict[str, Task]:
    names = ["digits", "low", "high", "parity", "loop", "prime", "blurred", "inverted"]
    tasks = {t.task_id: t for t in Registry.installed().create("source", "digits", {"tasks": names}).load()}
    for task in tasks.values():
        task.model = ModelSpec().build(task.descriptor, seed=len(task.task_id))
        fit(task.model, task, Budget(steps=150, learning_rate=3e-3), torch.Generator().manual_seed(0), curve_split=None)
    return tasks


def few_samples(task: Task, knowledge: Distilled | None, seed: int) -> float:
    """Test accuracy after training a new model on 40 samples, with the knowledge and without."""
    model = fresh_model(task.model, task, seed)
    if knowledge is not None:
        model = Representation().apply(model, knowledge, 1.0)
    fit(model, drawn(task, 40, seed), Budget(steps=60), torch.Generator().manual_seed(seed), curve_split=None)
    return evaluate(model, task)


@pytest.mark.parametrize(("held_out", "hidden", "gain"), [("prime", ("parity",), 0.01), ("blurred", (), 0.05)])
def test_a_held_out_task_with_few_samples_is_learned_better(
    held_out: str, hidden: tuple[str, ...], gain: float
) -> None:
    others = [t for name, t in digits().items() if name not in (held_out, *hidden)]
    knowledge = Representation(steps=200, held_out=0).distill(others, None)
    task = digits()[held_out]
    gains = [few_samples(task, knowledge, s) - few_samples(task, None, s) for s in range(4)]
    assert sum(gains) / 4 > gain


def test_the_score_is_measured_on_tasks_left_out() -> None:
    tasks = [digits()[n] for n in ("low", "parity", "loop", "prime")]
    found = Representation(steps=100, held_out=1).distill(tasks, None).knowledge
    assert found.generalization_score is not None
    assert 0 < found.generalization_score < 1
    assert Representation(steps=2, held_out=0).distill(tasks, None).knowledge.generalization_score is None
    assert Representation(steps=2).distill(tasks[:2], None).knowledge.generalization_score is None, (
        "nobody to leave out"
    )


@pytest.mark.slow
def test_the_adversary_makes_domains_harder_to_tell_apart() -> None:
    """A critic that is fitted afterwards, on features of images that were not trained on; the digits stay legible."""
    tasks = [digits()[n] for n in ("digits", "blurred", "inverted")]
    apart, legible = [], []
    for adversary in (0.0, 0.1):
        maker = Representation(adversary=adversary, held_out=0)
        universal = maker._trained(tasks[0], [teacher(t) for t in tasks], 0)
        seen = [universal(t.data("validation").inputs, t.descriptor.domain).detach() for t in tasks]
        apart.append(probe(torch.cat(seen), torch.arange(3).repeat_interleave(400)))
        legible.append(probe(seen[1], tasks[0].data("validation").targets))
    assert apart[0] > 0.95
    assert apart[1] < 0.85
    assert legible[1] > legible[0] - 0.05


def teacher(task: Task) -> Teacher:
    inputs = task.data("train").inputs
    assert task.model is not None
    return Teacher(task, inputs, _standard(predict(Headless(task.model), inputs)))


def probe(features: Tensor, labels: Tensor) -> float:
    """Accuracy of a logistic regression fitted on every other sample, on the rest."""
    scaled = StandardScaler().fit_transform(features)
    fitted = LogisticRegression(max_iter=2000, C=0.1).fit(scaled[::2], labels[::2])
    return float(fitted.score(scaled[1::2], labels[1::2]))


def test_applying_moves_the_trunk_and_leaves_the_head() -> None:
    tasks = list(small_portfolio())
    knowledge = Representation(steps=5, held_out=0).distill(tasks, None)
    model = fresh_model(tasks[0].model, tasks[0], 1)
    half = Representation().apply(model, knowledge, 0.5)
    name = "trunk.1.weight"
    expected = (model.state_dict()[name] + knowledge.tensors[f"universal.{name}"]) / 2
    torch.testing.assert_close(half.state_dict()[name], expected)
    assert torch.equal(half.state_dict()["head.weight"], model.state_dict()["head.weight"])
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(DataError, match=r"no weight of the Sequential fits the universal encoder.*trunk"):
        Representation().apply(other, knowledge, 0.5)


def facade(samples: Any) -> Distilled:
    tasks = list(small_portfolio())[:3]
    models: dict[str, nn.Module] = {t.task_id: t.model for t in tasks if t.model is not None}
    maker = MetaKnowledgeDistiller("representation", steps=5, budget=Budget(steps=5))
    return maker.distill_from_tasks(models, [t.descriptor for t in tasks], samples(tasks))


def test_from_models_descriptors_and_samples() -> None:
    def labelled(tasks: list[Task]) -> dict[str, tuple[Tensor, Tensor]]:
        return {t.task_id: (t.data("train").inputs, t.data("train").targets) for t in tasks}

    knowledge = facade(labelled)
    assert knowledge.knowledge.source_tasks == ("moons", "halves", "turned")
    assert knowledge.knowledge.domains == ("plane/plain", "plane/turned")
    assert knowledge.knowledge.generalization_score is not None
    for unlabelled in (
        lambda tasks: {t.task_id: t.data("train").inputs for t in tasks},
        lambda tasks: tasks[0].data("train").inputs,
    ):
        assert facade(unlabelled).knowledge.generalization_score is None, "there is nothing to measure it on"
    model = small_portfolio()["quarters"].model
    assert model is not None
    changed = MetaKnowledgeDistiller().apply_meta_knowledge(model, knowledge)
    assert changed.knowledge == attrs.evolve(knowledge.knowledge, applicability_count=1)
    moved = changed.state_dict()["trunk.1.weight"] - model.state_dict()["trunk.1.weight"]
    whole = knowledge.tensors["universal.trunk.1.weight"] - model.state_dict()["trunk.1.weight"]
    torch.testing.assert_close(moved, 0.1 * whole)


def test_bad_requests() -> None:
    with pytest.raises(DataError, match="needs inputs"):
        facade(lambda tasks: None)
    with pytest.raises(DataError, match=r"no descriptor of task 'x'"):
        MetaKnowledgeDistiller().distill_from_tasks({"x": nn.Linear(1, 1)}, [])
    with pytest.raises(ValueError, match="did you mean 'prior'"):
        MetaKnowledgeDistiller("priors")
    with pytest.raises(ValueError, match="unknown option 'step'"):
        MetaKnowledgeDistiller("representation", step=3)


def test_the_encoder_is_the_universal_one() -> None:
    maker = Representation(steps=5, held_out=0)
    check_encoder(maker)
    tasks = list(small_portfolio())
    found = maker.distill(tasks, None)
    model = fresh_model(tasks[0].model, tasks[0], 1)
    inputs = tasks[0].data("test").inputs
    applied = Headless(maker.apply(model, found, 1.0))
    torch.testing.assert_close(maker.encoder(found, tasks)(inputs), applied(inputs))
    other = Task(descriptor=tasks[0].descriptor, model=ModelSpec(hidden=(7,)).build(tasks[0].descriptor, 0))
    with pytest.raises(DataError, match="no task has a model with the layers of the universal encoder"):
        maker.encoder(found, [other])
