"""Training beside a term: which samples take part, what is left alone, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import evaluate, fit
from crosstask.options import component
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask.testing import small_portfolio
from crosstask_alignment import Alignment, Features, fit_aligned
from crosstask_alignment.testing import ReferenceAlignment, ReferenceCritic, digits

BUDGET = Budget(steps=5, batch_size=8, learning_rate=0.01)


@component
class Notes(ReferenceAlignment):
    """Notes what it is given."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        self.seen.append({"domain": domain, "outputs": outputs, "progress": progress, "features": features})
        return super().misalignment(features, domain, outputs, progress)


def task(name: str = "moons") -> Task:
    return small_portfolio(models=False)[name]


def network(seed: int = 0) -> nn.Module:
    return ModelSpec(hidden=(16, 5)).build(task().descriptor, seed)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def learned(
    alignment: Alignment, domains: Sequence[Any] = (), model: nn.Module | None = None, **given: Any
) -> nn.Module:
    made = model or network()
    fit_aligned(made, task(), alignment, domains or [task("turned").data().inputs], BUDGET, generator(), **given)
    return made


def test_each_domain_gives_a_batch_and_progress_runs_from_zero_to_one() -> None:
    Notes.seen.clear()
    learned(Notes(), [task("turned").data().inputs, task("halves").data().inputs[:3]])
    assert [step["progress"] for step in Notes.seen] == [0, 0.25, 0.5, 0.75, 1]
    for step in Notes.seen:
        assert torch.bincount(step["domain"]).tolist() == [8, 8, 3]  # a domain with fewer gives all
        assert step["features"].shape == (19, 5)
        assert step["outputs"].shape == (19, 2)


def test_whole_takes_the_domains_from_what_is_given_alone() -> None:
    Notes.seen.clear()
    both = [task("turned").data().inputs, task("halves").data().inputs]
    learned(Notes(), both, whole=True)
    assert all(torch.bincount(step["domain"]).tolist() == [8, 8] for step in Notes.seen)
    with pytest.raises(DataError, match="two domains or more, got 1"):
        learned(Notes(), both[:1], whole=True)
    with pytest.raises(DataError, match="two domains or more, got 1"):
        fit_aligned(network(), task(), Notes(), [], BUDGET, generator())


def test_without_weight_it_is_plain_training() -> None:
    plain, aligned = network(), learned(ReferenceCritic(), weight=0.0)
    fit(plain, task(), BUDGET, generator())
    for one, other in zip(plain.parameters(), aligned.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_term_moves_the_trunk_and_the_critic() -> None:
    critic = ReferenceCritic().prepare(5, 2, 2)
    before = [p.detach().clone() for p in critic.parameters()]
    plain, aligned = learned(ReferenceCritic(), weight=0.0), learned(critic)
    moved = [not torch.equal(a, b) for a, b in zip(plain.parameters(), aligned.parameters(), strict=True)]
    assert all(moved)
    trained = critic.parameters()
    assert all(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))


def test_features_of_a_compiled_model_are_those_of_the_model() -> None:
    inputs, plain = task().data().inputs[:6], network()
    compiled: Any = torch.compile(copy.deepcopy(plain), backend="eager")
    try:
        compiled(inputs)  # compiled before hooks are on it
        with Features(plain) as ours, Features(compiled) as theirs:
            torch.testing.assert_close(theirs.of(inputs), ours.of(inputs))
    finally:
        torch.compiler.reset()


def test_labels_of_other_domains_and_the_mode_of_the_model_are_left_alone() -> None:
    made = network().eval()
    learned(ReferenceAlignment(), model=made)
    assert not made.training
    assert not made.get_submodule("head")._forward_pre_hooks


def test_a_batchnorm_sees_in_training_the_mixture_that_it_uses_later() -> None:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2, momentum=None), nn.Linear(2, 2))
    source, target = task(), task("turned").data().inputs + 10
    fit_aligned(
        made, source, ReferenceAlignment(), [target], attrs.evolve(BUDGET, steps=60), generator(), curve_split=None
    )
    norm: Any = made[1]
    wanted = (source.data().inputs.mean(0) + target.mean(0)) / 2
    assert torch.allclose(norm.running_mean, wanted, atol=0.2)


def test_options_of_the_budget_hold() -> None:
    budget = Budget(steps=6, batch_size=8, accumulate=2, patience=1, evaluate_every=2, precision="bfloat16")
    inputs = task("turned").data().inputs
    history, terms = fit_aligned(network(), task(), ReferenceCritic(), [inputs], budget, generator())
    assert history.steps[:2] == [0, 2]
    assert len(terms.values) == 2 * len(history.losses)


def test_long_trainings_keep_every_term() -> None:
    budget = attrs.evolve(BUDGET, steps=120)
    _, terms = fit_aligned(network(), task(), ReferenceAlignment(), [task("turned").data().inputs], budget, generator())
    assert len(terms.values) == 120


def test_inputs_of_another_kind_are_refused() -> None:
    with pytest.raises(DataError, match="inputs of all domains must be of one kind"):
        learned(ReferenceAlignment(), [task("turned").data().inputs, torch.zeros(9, 2).long()])


class ByHand(nn.Module):
    """A head that is no module."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.weight = nn.Linear(2, 5), nn.Parameter(torch.randn(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x).relu() @ self.weight  # type: ignore[no-any-return]


def test_a_head_that_is_no_module_is_refused() -> None:
    own = Task(descriptor=task().descriptor, train=task().train, model=ByHand())
    from crosstask.learning.own_models import prepare_model

    prepare_model(own)
    assert own.model is not None
    with pytest.raises(DataError, match="the head of ByHand is no module"):
        Features(own.model)


class Loose(nn.Module):
    """Its head sees one row for all."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean(0, keepdim=True)).expand(len(x), 2)  # type: ignore[no-any-return]


def test_a_head_without_a_row_for_each_sample_is_refused() -> None:
    with Features(Loose()) as features, pytest.raises(DataError, match="Loose does not receive one row for each"):
        features.of(torch.ones(3, 2))


def test_several_inputs_go_side_by_side() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.head(self.trunk(torch.cat([a, b], 1)).relu())  # type: ignore[no-any-return]

    def inputs(seed: int) -> MultiInput:
        random = torch.Generator().manual_seed(seed)
        return MultiInput({"a": torch.randn(20, 1, generator=random), "b": torch.randn(20, 2, generator=random)})

    parts = {name: value.numpy() for name, value in inputs(0).parts.items()}
    source = Task(descriptor=TaskDescriptor(task_id="two", output_dim=2), train=(parts, torch.arange(20) % 2))
    made = Two()
    before = copy.deepcopy(made.state_dict())
    _, terms = fit_aligned(made, source, ReferenceAlignment(), [inputs(1)], BUDGET, generator())
    assert len(terms.values) == 5
    assert any(not torch.equal(before[k], v) for k, v in made.state_dict().items())


def test_features_of_a_moved_domain_come_nearer_and_its_digits_are_known() -> None:
    source = digits()
    moved = source.data("test").inputs * 0.4 + 0.5
    target = Task(
        descriptor=attrs.evolve(source.descriptor, task_id="faint"),
        train=(source.data().inputs.flip(0) * 0.4 + 0.5, source.data().targets.flip(0)),
        test=(moved, source.data("test").targets),
    )
    budget = Budget(steps=150, batch_size=64, learning_rate=3e-3)
    scores = []
    for weight in (0.0, 3.0):
        made = ModelSpec(hidden=(64,)).build(source.descriptor, 0)
        fit_aligned(
            made, source, ReferenceAlignment(), [target.data().inputs], budget, generator(), weight=weight,
            curve_split=None,
        )  # fmt: skip
        scores.append(evaluate(made, target))
    assert scores[1] > scores[0] + 0.1
