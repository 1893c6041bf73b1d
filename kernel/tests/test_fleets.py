"""Members of a fleet learn what they would learn alone, whoever is with them."""

from __future__ import annotations

import copy
import re
from typing import Any

import attrs
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.learning.fleets import Member, Phase, Trained, muster, phases_of, train_fleet
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import frozen, trunk_parameters
from crosstask.learning.training import History, evaluate, fit
from crosstask.learning.transferring import drawn, fresh_model
from crosstask.records import Budget
from crosstask.steps import heard_by
from crosstask.tasks import Task

BUDGET = Budget(steps=12, batch_size=25, learning_rate=3e-3, samples=50, evaluate_every=5)
WHOLE = (Phase(12),)
LP_FT = (Phase(6, head=True, rate=10.0), Phase(6))


def digit_task(name: str, labels: Any, kind: str = "classification", **more: Any) -> Task:
    """A task over scikit-learn's digits."""
    raw = load_digits()
    images = torch.tensor(raw.images).unsqueeze(1) / 16
    targets = labels(torch.tensor(raw.target))
    outputs = {"classification": int(targets.max()) + 1, "regression": 1}.get(kind, targets.shape[-1])
    descriptor = TaskDescriptor(task_id=name, task_type=kind, input_shape=(1, 8, 8), output_dim=outputs)
    splits = {"train": slice(200), "validation": slice(200, 290), "test": slice(300, 350)}
    return Task(descriptor=descriptor, **{s: (images[part], targets[part]) for s, part in splits.items()}, **more)


def tasks() -> list[Task]:
    return [
        digit_task("ten", lambda t: t),
        digit_task("parity", lambda t: t % 2),
        digit_task("thirds", lambda t: t % 3),
        digit_task("low", lambda t: (t < 5).long()),
    ]


class Doubled(nn.Module):
    """Data are kept in single precision: here they become double."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double()


def in_double(model: nn.Module) -> nn.Module:
    """The same model in double precision, to compare to 1e-9."""
    model.trunk.insert(0, Doubled())  # type: ignore[operator,union-attr]
    return model.double()


def member(task: Task, seed: int, budget: Budget = BUDGET, spec: Any = None, phases: Any = WHOLE) -> Member:
    model = spec if isinstance(spec, nn.Module) else in_double((spec or ModelSpec()).build(task.descriptor, 0))
    task = drawn(task, budget.samples, seed)
    return Member(fresh_model(model, task, seed), task, budget, phases, seed)


def by_the_loop(given: Member, curve: str | None = "validation") -> tuple[History, float, nn.Module]:
    """What `fit` makes of a copy: the reference."""
    model, generator, history = copy.deepcopy(given.model), torch.Generator().manual_seed(given.seed), History()
    for phase in given.phases:
        budget = attrs.evolve(given.budget, learning_rate=phase.rate * given.budget.learning_rate)
        with frozen(trunk_parameters(model) if phase.head else []):
            history.extend(fit(model, given.task, budget, generator, steps=phase.steps, curve_split=curve))
    return history, evaluate(model, given.task, "validation"), model


def assert_same(members: list[Member]) -> None:
    expected = [by_the_loop(each) for each in members]
    found = train_fleet(members, curve_split="validation", score_split="validation")
    for each, (history, score, model), result in zip(members, expected, found, strict=True):
        assert isinstance(result, Trained), result
        assert result.history.steps == history.steps
        torch.testing.assert_close(result.history.losses, history.losses, rtol=0, atol=1e-9)
        assert result.history.values == pytest.approx(history.values, abs=1e-9)
        assert result.score == pytest.approx(score, abs=1e-9)
        for (name, one), other in zip(each.model.state_dict().items(), model.state_dict().values(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=name)


CONV = ModelSpec(kind="conv", hidden=(8, 16))


@pytest.mark.parametrize("phases", [WHOLE, LP_FT], ids=["whole", "lp_ft"])
@pytest.mark.parametrize("spec", [ModelSpec(), CONV], ids=["mlp", "conv"])
def test_a_fleet_learns_what_the_loop_does(spec: ModelSpec, phases: Any) -> None:
    """Tasks with 10, 2, 3 and 2 classes in one fleet, two seeds each, in double precision: to 1e-9."""
    assert_same([member(task, seed, spec=spec, phases=phases) for task in tasks() for seed in (3, 8)])


@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "sgd", "weight_decay": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warmup": 3},
        {"weight_decay": 0.01, "schedule": "linear", "clip": 0.05},
        {"samples": None, "batch_size": 300},
    ],
    ids=["sgd", "adamw", "clip", "whole batches"],
)
def test_what_a_budget_can_ask_for(more: dict[str, Any]) -> None:
    budget = attrs.evolve(BUDGET, **more)
    assert_same([member(task, seed, budget, phases=LP_FT) for task in tasks()[:3] for seed in (1, 2)])


def test_losses_of_other_kinds_and_heads_of_other_kinds() -> None:
    """A single logit, values, several labels, a loss of the user's own: each as `fit` would have it."""

    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.logsumexp(1) - outputs.gather(1, targets[:, None])[:, 0]).mean()

    single = digit_task("single", lambda t: t % 2)
    single.descriptor = attrs.evolve(single.descriptor, output_dim=1)
    several = [
        single,
        digit_task("value", lambda t: t[:, None] / 9.0, "regression"),
        digit_task("labels", lambda t: torch.stack([t % 2, t // 5], 1).double(), "multilabel", metric="accuracy"),
        digit_task("own", lambda t: t, loss=own),
    ]
    assert_same([member(task, seed, phases=LP_FT) for task in several for seed in (1, 2)])


class Block(nn.Module):
    """A residual block with a normalisation of its own, which torch.func.vmap follows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width, bias=False)  # a bias before a normalisation has no gradient but rounding
        self.norm = nn.BatchNorm1d(width, momentum=0.3)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + torch.relu(self.norm(self.layer(inputs)))


def noisy(kind: str) -> nn.Module:
    """Networks with statistics of the batch, or with chance in them."""
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten()]
    rows: dict[str, list[nn.Module]] = {
        "norm": [nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.ReLU()],
        "dropout": [nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 12), nn.ReLU(), nn.Dropout(0.5), nn.Dropout(0.0)],
        "all dropped": [nn.Flatten(), nn.Linear(64, 12), nn.Dropout(1.0), nn.Dropout(0.3)],
        "both": [*first, nn.Linear(54, 12), nn.BatchNorm1d(12, affine=False), nn.Tanh()],
        "blocks": [nn.Flatten(), nn.Linear(64, 12), Block(12), Block(12)],
        "instance": [nn.Conv2d(1, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.Flatten(), nn.Linear(216, 12)],
    }
    return nn.Sequential(Doubled(), *rows[kind], nn.Linear(12, 10)).double()


@pytest.mark.parametrize("kind", ["norm", "dropout", "all dropped", "both", "blocks", "instance"])
@pytest.mark.parametrize("phases", [WHOLE, LP_FT], ids=["whole", "lp_ft"])
def test_normalisation_and_dropout_are_each_members_own(kind: str, phases: Any) -> None:
    """Running statistics and what is dropped are those of training alone, whoever is with them."""
    made = [member(task, seed, spec=noisy(kind), phases=phases) for task in tasks()[:3] for seed in (1, 2)]
    assert muster(made) == ([list(range(6))], {})
    if phases is LP_FT:  # the head learns over a trunk in evaluation mode
        expected = [by_parts(each) for each in made]
        for each, (score, model), found in zip(made, expected, train_fleet(made, score_split="test"), strict=True):
            assert isinstance(found, Trained), found
            assert found.score == pytest.approx(score, abs=1e-9)
            for (name, one), other in zip(each.model.state_dict().items(), model.state_dict().values(), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=name)
    else:
        assert_same(made)


class Still(nn.Module):
    """A model of which only the head is ever in training mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> Still:
        self.model.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.model(inputs)
        return found


def by_parts(given: Member) -> tuple[float, nn.Module]:
    model, generator = copy.deepcopy(given.model), torch.Generator().manual_seed(given.seed)
    for phase in given.phases:
        budget = attrs.evolve(given.budget, learning_rate=phase.rate * given.budget.learning_rate)
        with frozen(trunk_parameters(model) if phase.head else []):
            learner = Still(model) if phase.head else model
            fit(learner, given.task, budget, generator, steps=phase.steps, curve_split=None)
    return evaluate(model, given.task, "test"), model


def test_what_a_training_draws_is_its_own() -> None:
    """Dropout follows from the generator, not from what the process drew before; and the process goes on unmoved."""
    task, found = tasks()[0], []
    for before in (1, 2):
        torch.manual_seed(before)
        model = fresh_model(noisy("dropout"), task, 0)
        torch.manual_seed(before)
        fit(model, task, BUDGET, torch.Generator().manual_seed(5), curve_split=None)
        found.append(model.state_dict())
        after = torch.rand(())
        torch.manual_seed(before)
        assert torch.rand(()) == after
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=0, atol=0)
    other = fresh_model(noisy("dropout"), task, 0)
    fit(other, task, BUDGET, torch.Generator().manual_seed(6), curve_split=None)
    assert not torch.equal(other.state_dict()["7.weight"], found[0]["7.weight"])


class Residual(nn.Module):
    """A network of one's own, which torch.func.vmap can follow; its buffer differs between members."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first, self.body, self.norm = nn.Linear(64, 16), nn.Linear(16, 16), nn.LayerNorm(16)
        self.register_buffer("shift", torch.zeros(()))
        self.head = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs.flatten(1).double()) + self.shift
        found: Tensor = self.head(self.norm(hidden + self.body(hidden).relu()))
        return found


def test_a_network_of_ones_own_goes_through_vmap() -> None:
    members = [member(task, seed, spec=Residual(10).double(), phases=LP_FT) for task in tasks()[:2] for seed in (1, 2)]
    for number, each in enumerate(members):
        each.model.shift.fill_(number / 10)
    assert muster(members) == ([[0, 1, 2, 3]], {})
    assert_same(members)


@pytest.mark.parametrize("spec", [ModelSpec(), CONV], ids=["mlp", "conv"])
def test_a_member_does_not_depend_on_its_neighbours(spec: ModelSpec) -> None:
    """Bit for bit, in single precision, alone or in company, so that what is resumed comes out the same."""

    def trained(chosen: list[int]) -> dict[int, Any]:
        every = [(task, seed) for task in tasks() for seed in (3, 8)]
        own = []
        for number in chosen:
            task, seed = every[number]
            drawn_task = drawn(task, 50, seed)
            fresh = fresh_model(spec.build(task.descriptor, 0), drawn_task, seed)
            own.append(Member(fresh, drawn_task, BUDGET, LP_FT, seed))
        found = train_fleet(own, score_split="validation")
        return {n: (r, m.model.state_dict()) for n, r, m in zip(chosen, found, own, strict=True)}

    whole = trained(list(range(8)))
    for chosen in ([3], [2, 6], [0, 1, 5], [7, 2, 4, 3, 0]):
        for number, (result, state) in trained(chosen).items():
            assert result == whole[number][0]
            assert all(torch.equal(tensor, whole[number][1][name]) for name, tensor in state.items())


def test_a_member_that_fails_leaves_the_others_as_they_are() -> None:
    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean() * float("nan")

    def metric(outputs: Tensor, targets: Tensor) -> float:
        return float("inf")

    good, bad = tasks()[0], digit_task("bad", lambda t: t, loss=broken)
    unjudged = digit_task("unjudged", lambda t: t, metric=metric)
    members = [member(task, 1) for task in (good, bad, unjudged)]
    expected = by_the_loop(members[0])
    first, second, third = train_fleet(members, curve_split="validation", score_split="validation")
    assert isinstance(first, Trained)
    assert first.score == pytest.approx(expected[1], abs=1e-9)
    assert "task 'bad': the training loss is nan at step 1;" in str(second)
    assert "task 'unjudged': the metric metric on the validation data is inf" in str(third)


def test_a_state_in_place_of_the_models_weights() -> None:
    """Members share a model that is left as it is."""
    given, other = (member(tasks()[0], seed) for seed in (1, 2))
    states = [{name: t.detach().clone() for name, t in m.model.state_dict().items()} for m in (given, other)]
    expected = [by_the_loop(m)[1] for m in (given, other)]
    before = copy.deepcopy(given.model.state_dict())
    sharing = [attrs.evolve(m, model=given.model, state=s) for m, s in zip((given, other), states, strict=True)]
    found = train_fleet(sharing, score_split="validation")
    assert [r.score for r in found if isinstance(r, Trained)] == pytest.approx(expected, abs=1e-9)
    assert all(torch.equal(t, before[name]) for name, t in given.model.state_dict().items())


def test_a_split_without_data_gives_neither_curve_nor_score() -> None:
    given = member(tasks()[0], 1)
    bare = attrs.evolve(given, task=given.task.over(train=given.task.data("train")))
    (found,) = train_fleet([bare], curve_split="validation", score_split="validation")
    assert isinstance(found, Trained)
    assert (found.history.values, found.score, len(found.history.losses)) == ([], None, 12)


# Who goes together ----------------------------------------------------------------------------------------------------


def test_those_of_one_architecture_and_budget_go_together() -> None:
    first, second = tasks()[:2]
    other = attrs.evolve(BUDGET, learning_rate=0.1)
    members = [
        member(first, 1), member(first, 1, spec=CONV), member(second, 2), member(first, 2, other),
        member(second, 1, spec=CONV), member(second, 2, other), member(second, 3),
    ]  # fmt: skip
    assert muster(members) == ([[0, 2, 6], [1, 4], [3, 5]], {})
    fleets, reasons = muster(members, workers=3)
    assert fleets == []
    assert set(reasons) == set(range(7))
    assert muster(members, workers=3, each=3)[0] == [[0], [2], [6], [1], [4], [3], [5]]


def dropout() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Unflatten(1, (2, 4)), nn.Dropout1d(0.5), nn.Flatten(),
                         nn.Linear(8, 10))  # fmt: skip


def normalised() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 10))


def alone_in_its_batch() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))


def channels_last() -> nn.Module:
    """Its masks are drawn pixel by pixel, those of the fleet channel by channel."""
    made = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10))
    return made.to(memory_format=torch.channels_last)


def hooked() -> nn.Module:
    made = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    made[1].register_forward_hook(lambda *_: None)
    return made


class Scaled(nn.Module):
    """Its answer is not what its head makes of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = 2 * self.head(self.body(inputs.flatten(1)))
        return found


class Branching(Scaled):
    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs.flatten(1))
        found: Tensor = self.head(hidden if float(self.body.weight.detach().sum()) > 0 else -hidden)
        return found


def wide() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 40_000), nn.ReLU(), nn.Linear(40_000, 10))


@pytest.mark.parametrize(
    ("build", "more", "reason"),
    [
        (dropout, {}, "Dropout1d draws at random"),
        (normalised, {}, "BatchNorm1d keeps a mean over all batches"),
        (alone_in_its_batch, {"batch_size": 1}, "BatchNorm1d may have nothing to go by in a batch of one"),
        (channels_last, {}, "in the order of a memory format"),
        (hooked, {}, "a Linear has hooks"),
        (Scaled, {}, "is not what its head makes of the features"),
        (Branching, {}, "vmap cannot follow Branching"),
        (wide, {}, "too large"),
        (None, {"patience": 2}, "patience"),
        (None, {"precision": "bfloat16"}, "another precision"),
        (None, {"accumulate": 2}, "gradients of several batches"),
    ],
    ids=[
        "dropout",
        "norm",
        "batch of one",
        "channels last",
        "hooks",
        "scaled",
        "branching",
        "wide",
        "patience",
        "precision",
        "accumulate",
    ],
)
def test_why_a_training_goes_alone(build: Any, more: dict[str, Any], reason: str) -> None:
    task, budget = tasks()[0], attrs.evolve(BUDGET, **more)
    torch.manual_seed(0)
    model = ModelSpec().build(task.descriptor, 0) if build is None else build()
    fleets, reasons = muster([Member(model, drawn(task, 50, seed), budget, WHOLE, seed) for seed in (1, 2)])
    assert fleets == []
    assert re.search(reason, reasons[0])
    assert reasons[1] == reasons[0]


def test_an_observer_that_hears_steps_hears_them() -> None:
    with heard_by(lambda step, metrics: False):
        fleets, reasons = muster([member(tasks()[0], seed) for seed in (1, 2)])
    assert (fleets, set(reasons.values())) == ([], {"an observer listens to every step"})


def test_several_inputs_and_models_without_a_head_go_alone() -> None:
    task = tasks()[0]
    images = task.data("train").inputs
    parts = MultiInput({"top": images[:, :, :4], "bottom": images[:, :, 4:]})
    both = Task(
        descriptor=attrs.evolve(task.descriptor, input_shape=(), input_shapes={"top": (1, 4, 8), "bottom": (1, 4, 8)}),
        train=(parts, task.data("train").targets),
    )
    model = ModelSpec().build(task.descriptor, 0)
    assert muster([Member(model, both, BUDGET, WHOLE)] * 2)[1][0] == "its samples have several inputs"
    _, reasons = muster([Member(nn.Flatten(), task, BUDGET, WHOLE)] * 2)
    assert "its head cannot be found" in reasons[0]


def test_phases_hold_only_for_the_learn_that_they_describe() -> None:
    class Said:
        def learn(self) -> None: ...

        def phases(self, budget: Budget) -> tuple[Phase, ...]:
            return (Phase(budget.steps),)

    class Other(Said):
        def learn(self) -> None: ...

    assert phases_of(Said(), BUDGET) == WHOLE
    assert phases_of(Other(), BUDGET) is None
    assert phases_of(object(), BUDGET) is None
