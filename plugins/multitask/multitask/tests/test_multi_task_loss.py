"""MultiTaskLoss: each fault of the classic form, and figures by hand or by autograd."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, distributed, nn
from torch.nn import functional

from crosstask import DataError, OptionError, Registry, RunError, UnknownComponentError
from crosstask_multitask import MultiTaskLoss
from crosstask_multitask import losses as module

TASKS = ["rating", "click", "kind"]
TYPES = {"rating": "mse", "click": "bce", "kind": "ce"}


@pytest.fixture(autouse=True, scope="module")
def registry() -> Iterator[None]:
    """Entry points are read once."""
    found = Registry.installed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "installed", lambda: found)
        yield


def batch(seed: int = 0, count: int = 8) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(seed)
    shapes = {"rating": (count, 1), "click": (count, 1), "kind": (count, 3)}
    predictions = {name: torch.randn(shape, generator=draws) for name, shape in shapes.items()}
    targets = {
        "rating": torch.randn(count, generator=draws),
        "click": torch.randint(2, (count,), generator=draws),
        "kind": torch.randint(3, (count,), generator=draws),
    }
    return predictions, targets


def by_hand(predictions: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "rating": ((predictions["rating"][:, 0] - targets["rating"]) ** 2).mean(),
        "click": functional.binary_cross_entropy_with_logits(predictions["click"][:, 0], targets["click"].float()),
        "kind": functional.cross_entropy(predictions["kind"], targets["kind"]),
    }


class Model(nn.Module):
    """A trunk and a head for each task."""

    def __init__(self, sizes: dict[str, int], width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(width, 16)
        self.heads = nn.ModuleDict({name: nn.Linear(16, size) for name, size in sizes.items()})

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.trunk(inputs).tanh()
        return {name: head(hidden) for name, head in self.heads.items()}


# --- what it is ---------------------------------------------------------------------------------------------------


def test_equal_is_the_sum_and_names_are_kept() -> None:
    predictions, targets = batch()
    total, losses = MultiTaskLoss(TASKS, TYPES, "equal")(predictions, targets)
    expected = by_hand(predictions, targets)
    assert list(losses) == TASKS
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss)
    torch.testing.assert_close(total, sum(expected.values()))


def test_uncertainty_is_its_objective_whatever_the_order_of_the_loop() -> None:
    """Value and slopes are those of Σ exp(-s) L + s by autograd; a `zero_grad` after the forward pass takes nothing."""
    predictions, targets = batch()
    loss = MultiTaskLoss(TASKS, TYPES)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    assert len(list(loss.parameters())) == 3
    s = torch.zeros(3, requires_grad=True)
    expected = torch.optim.Adam([s], lr=0.1)
    plain = torch.stack(list(by_hand(predictions, targets).values()))
    for _ in range(5):
        total, _ = loss(predictions, targets)
        objective = ((-s).exp() * plain + s).sum()
        torch.testing.assert_close(total, objective)
        for each, value in ((optimizer, total), (expected, objective)):
            each.zero_grad()
            value.backward()
            each.step()
    torch.testing.assert_close(torch.cat(list(loss.parameters())), s)


def test_a_gradient_scaler_scales_what_is_learned_too() -> None:
    predictions, targets = batch()
    grads = []
    for factor in (1.0, 1024.0):
        loss = MultiTaskLoss(TASKS, TYPES)
        (loss(predictions, targets)[0] * factor).backward()
        grads.append(torch.cat([p.grad for p in loss.parameters()]) / factor)  # type: ignore[misc]
    torch.testing.assert_close(*grads)


def test_mae_and_half_precision() -> None:
    loss = MultiTaskLoss(["a"], {"a": "mae"}, "equal")
    total, _ = loss({"a": torch.tensor([[1.0], [4.0]]).half()}, {"a": torch.tensor([2.0, 2.0])})
    assert total.dtype == torch.float32
    assert float(total) == 1.5


def test_other_balancers_that_weigh_losses() -> None:
    predictions, targets = batch()
    plain = by_hand(predictions, targets)
    total, _ = MultiTaskLoss(TASKS, TYPES, "scale_invariant")(predictions, targets)
    assert float(total) == pytest.approx(3.0)  # Σ L/L
    again = [float(MultiTaskLoss(TASKS, TYPES, "rlw", seed=seed)(predictions, targets)[0]) for seed in (1, 1, 2)]
    assert again[0] == again[1] != again[2]
    loss = MultiTaskLoss(TASKS, TYPES, "stch", mu=0.5)
    expected = torch.softmax(torch.stack(list(plain.values())) / 3 / 0.5, 0) / 3
    loss(predictions, targets)
    assert list(loss.task_weights.values()) == pytest.approx(expected.tolist())


# --- the faults of the classic form ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mse", "mae", "bce"])
def test_a_column_against_a_row_is_not_the_mean_over_all_pairs(kind: str) -> None:
    """[N, 1] against [N]: a perfect prediction cost 16.5, and BCE refused."""
    values = torch.arange(12.0)
    targets = values if kind != "bce" else (values > 5).float()
    perfect = targets if kind != "bce" else 40 * targets - 20
    loss = MultiTaskLoss(["a"], {"a": kind}, "equal")
    for outputs, wanted in ((perfect[:, None], targets), (perfect, targets[:, None]), (perfect, targets)):
        assert float(loss({"a": outputs}, {"a": wanted})[0]) == pytest.approx(0.0, abs=1e-6)


def test_fixed_weights_are_not_trained() -> None:
    """They were parameters, and went to .53, .06, .41."""
    predictions, targets = batch()
    plain = by_hand(predictions, targets)
    for weights in ({"rating": 0.5, "click": 2.0, "kind": 1.5}, [0.5, 2.0, 1.5]):
        loss = MultiTaskLoss(TASKS, TYPES, "weights", weights=weights)
        assert not list(loss.parameters())
        for _ in range(3):
            total, _ = loss(predictions, targets)
            torch.testing.assert_close(total, 0.5 * plain["rating"] + 2 * plain["click"] + 1.5 * plain["kind"])
    torch.testing.assert_close(MultiTaskLoss(TASKS, TYPES, "weights")(predictions, targets)[0], sum(plain.values()))


def test_an_unknown_method_is_refused_at_once_with_the_nearest_name() -> None:
    """It was accepted until the first step."""
    with pytest.raises(OptionError, match="unknown balancing_method 'uncertanty'; did you mean 'uncertainty'"):
        MultiTaskLoss(TASKS, TYPES, "uncertanty")
    with pytest.raises(OptionError, match="unknown balancing_method 7"):
        MultiTaskLoss(TASKS, TYPES, 7)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"'upgrad' makes an update of the tasks' gradients.*UPGrad\(\).backward"):
        MultiTaskLoss(TASKS, TYPES, "upgrad")


def test_equal_with_nothing_is_nothing() -> None:
    """It was a ZeroDivisionError."""
    loss = MultiTaskLoss(TASKS, TYPES, "equal")
    predictions, targets = batch()
    for given in (({}, {}), (predictions, {}), ({"rating": predictions["rating"]}, {"click": targets["click"]})):
        total, losses = loss(*given)
        assert total.item() == 0.0
        assert losses == {}
        total.backward()  # a loop need not ask


def gradnorm(steps: int, alpha: float = 0.0) -> tuple[MultiTaskLoss, nn.Parameter]:
    """Two losses on one parameter, the second with gradients three times as long."""
    shared = nn.Parameter(torch.zeros(2))
    loss = MultiTaskLoss(["a", "b"], {"a": "mse", "b": "mse"}, "gradnorm", alpha=alpha, learning_rate=0.03)
    for _ in range(steps):
        predictions = {"a": shared[:1].clone(), "b": 3 * shared[1:] - 2}
        loss(predictions, {"a": torch.ones(1), "b": torch.ones(1)}, [shared])
    return loss, shared


def test_gradnorm_weights_follow_its_own_loss() -> None:
    """Its norms were those of the unweighted losses, whose slope on the weights is nothing (7e-9); the weights fell
    with the weighted sum, to .03 for the hard task. Those that make w n equal are reached: n is 2 and 18.
    """
    loss, _ = gradnorm(120)
    weights = loss.task_weights
    assert sum(weights.values()) == pytest.approx(2.0)
    assert weights["a"] * 2 == pytest.approx(weights["b"] * 18, rel=0.1)


def test_gradnorm_does_not_train_the_model() -> None:
    """By `create_graph` its loss did: here `.grad` is that of the weighted sum, and nothing else."""
    torch.manual_seed(0)
    model, inputs = Model({"a": 1, "b": 1}), torch.randn(16, 6)
    targets = {"a": torch.randn(16), "b": 5 * torch.randn(16)}
    loss = MultiTaskLoss(["a", "b"], {"a": "mse", "b": "mae"}, "gradnorm", alpha=1.5)
    for _ in range(3):
        total, losses = loss(model(inputs), targets, model.trunk.parameters())
        assert all(p.grad is None for p in model.parameters())
    weighed = sum(loss.task_weights[name] * each for name, each in losses.items())
    torch.testing.assert_close(total, weighed)
    expected = torch.autograd.grad(weighed, list(model.parameters()), retain_graph=True)
    total.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert loss.balancer.alpha == 1.5  # type: ignore[attr-defined]
    assert MultiTaskLoss(["a"], {"a": "mse"}, "gradnorm").balancer.alpha == 0.12  # type: ignore[attr-defined]


def test_gradnorm_finds_what_is_shared() -> None:
    torch.manual_seed(0)
    model, inputs = Model({"a": 1, "b": 1}), torch.randn(16, 6)
    targets = {"a": torch.randn(16), "b": 5 * torch.randn(16)}
    found = []
    for given in (None, model.trunk, model.trunk.parameters()):
        loss = MultiTaskLoss(["a", "b"], {"a": "mse", "b": "mse"}, "gradnorm")
        for _ in range(3):
            loss(model(inputs), targets, list(given.parameters()) if given is model.trunk else given)
            given = model.trunk if given is not None else None
        found.append(loss.task_weights)
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(found[2])
    assert found[0]["a"] > 1 > found[0]["b"]
    apart = {name: nn.Parameter(torch.zeros(4)) for name in "ab"}
    with pytest.raises(DataError, match=r"gradnorm: no shared parameters .*see `model_parameters`"):
        loss({name: 1 * value for name, value in apart.items()}, {"a": torch.ones(4), "b": torch.ones(4)})


@pytest.mark.parametrize("method", ["uncertainty", "equal", "weights", "gradnorm", "dwa", "famo"])
def test_a_task_absent_from_the_first_batch_comes_later(method: str) -> None:
    """Of GradNorm's L(0) it was a KeyError. The weights of those that are away stay."""
    torch.manual_seed(0)
    model, loss = Model({"rating": 1, "click": 1, "kind": 3}), MultiTaskLoss(TASKS, TYPES, method)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    for step, drawn in enumerate((["rating"], ["rating", "kind"], TASKS, ["click"], ["kind", "click"])):
        _, targets = batch(step)
        before = dict(loss.task_weights)
        total, losses = loss(
            model(torch.randn(8, 6)), {name: targets[name] for name in drawn}, model.trunk.parameters()
        )
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        assert set(losses) == set(drawn)
        assert {n: w for n, w in loss.task_weights.items() if n not in drawn} == {
            n: w for n, w in before.items() if n not in drawn
        }
    assert set(loss.task_weights) == set(TASKS)


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm", "dwa", "famo"])
def test_everything_is_in_the_state(method: str, tmp_path: Any) -> None:
    """L(0) was not: a run that goes on makes the same steps, through a file that holds no code."""

    def start() -> tuple[Model, MultiTaskLoss, torch.optim.Optimizer]:
        model, loss = Model({"rating": 1, "click": 1, "kind": 3}), MultiTaskLoss(TASKS, TYPES, method)
        return model, loss, torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=0.05)

    def train(model: Model, loss: MultiTaskLoss, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
        totals = []
        for step in steps:
            predictions, targets = model(batch(step)[0]["kind"].repeat(1, 2)), batch(step)[1]
            total, _ = loss(predictions, targets)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(total.item())
        return totals

    first, second = start(), start()
    train(*first, range(4))
    torch.save([each.state_dict() for each in first], tmp_path / "state.pt")
    for each, saved in zip(second, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        each.load_state_dict(saved)
    assert second[1].task_weights == first[1].task_weights
    assert train(*first, range(4, 8)) == train(*second, range(4, 8))
    with pytest.raises(DataError, match=f"the state is of '{method}', this is 'equal'"):
        MultiTaskLoss(TASKS, TYPES, "equal").load_state_dict(first[1].state_dict(), strict=False)


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm"])
def test_a_copy_learns_on_its_own(method: str) -> None:
    model, first = Model({"rating": 1, "click": 1, "kind": 3}), MultiTaskLoss(TASKS, TYPES, method)
    first(model(torch.ones(8, 6)), batch()[1])
    for second in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        before = str(first.state_dict())
        optimizer = torch.optim.SGD([*second.parameters(), nn.Parameter(torch.zeros(1))], lr=0.5)
        for step in range(3):
            optimizer.zero_grad()
            second(model(torch.ones(8, 6)), batch(step)[1])[0].backward()
            optimizer.step()
        assert str(first.state_dict()) == before
        assert second.task_weights != first.task_weights


@pytest.mark.parametrize("method", ["uncertainty", "gradnorm", "famo", "rlw"])
def test_evaluation_learns_nothing(method: str) -> None:
    predictions, targets = batch()
    model = Model({"rating": 1, "click": 1, "kind": 3})
    loss = MultiTaskLoss(TASKS, TYPES, method)
    for step in range(3):
        loss(model(torch.ones(8, 6) * step), targets)
    before = copy.deepcopy(loss.balancer.state_dict())
    loss.eval()
    total, losses = loss(model(torch.ones(8, 6)), targets)
    total.backward()
    loss.train()
    with torch.no_grad():
        again, _ = loss(model(torch.ones(8, 6)), targets)
    assert str(loss.balancer.state_dict()) == str(before)
    assert torch.equal(total.detach(), again)
    assert all(p.grad is None for p in loss.parameters())
    assert set(losses) == set(predictions)


def test_on_digits_uncertainty_learns_weights_of_losses_of_other_sizes() -> None:
    """Two tasks of scikit-learn's digits, the one with a loss of another unit: both are learned, the weights tell."""
    pixels, digits = load_digits(return_X_y=True)
    inputs = torch.tensor(pixels / 16, dtype=torch.float32)
    ink = torch.tensor(pixels.mean(1), dtype=torch.float32)
    targets = {"digit": torch.tensor(digits), "ink": 3 * (ink - ink.mean()) / ink.std()}
    torch.manual_seed(0)
    model = Model({"digit": 10, "ink": 1}, width=64)
    loss = MultiTaskLoss(["digit", "ink"], {"digit": "ce", "ink": "mse"})
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=0.02)
    order = np.random.default_rng(0)
    for _ in range(200):
        rows = torch.tensor(order.integers(1200, size=64))
        total, _ = loss(model(inputs[rows]), {name: values[rows] for name, values in targets.items()})
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    with torch.no_grad():
        found = model(inputs[1200:])
    assert float((found["digit"].argmax(1) == targets["digit"][1200:]).double().mean()) > 0.8
    spread = targets["ink"].var()
    assert float(functional.mse_loss(found["ink"][:, 0], targets["ink"][1200:]) / spread) < 0.5
    assert loss.task_weights["digit"] > 1 > loss.task_weights["ink"]


# --- labels that are not known, and what does not fit ---------------------------------------------------------------


def test_targets_that_are_not_known_do_not_count() -> None:
    loss = MultiTaskLoss(["a", "b", "c"], {"a": "mse", "b": "ce", "c": "ce"}, "equal")
    predictions = {"a": torch.tensor([[1.0], [2.0]]), "b": torch.zeros(2, 4), "c": torch.zeros(2, 1)}
    some = {"a": torch.tensor([math.nan, 4.0]), "b": torch.tensor([-100, 1]), "c": torch.tensor([1.0, math.nan])}
    _, losses = loss(predictions, some)
    assert [float(each) for each in losses.values()] == pytest.approx([4.0, math.log(4), math.log(2)])
    none = {"a": torch.tensor([math.nan, math.nan]), "b": torch.tensor([-100, -100]), "c": torch.tensor([1.0, 0.0])}
    assert list(loss(predictions, none)[1]) == ["c"]
    empty = {"a": torch.zeros(0, 1), "b": torch.zeros(0, 4)}
    assert loss(empty, {"a": torch.zeros(0), "b": torch.zeros(0, dtype=torch.long)})[1] == {}


def test_probabilities_of_a_sample_that_are_not_known_do_not_count() -> None:
    loss = MultiTaskLoss(["a"], {"a": "ce"}, "equal")
    outputs, targets = torch.randn(4, 3), torch.full((4, 3), math.nan)
    assert loss({"a": outputs}, {"a": targets})[1] == {}
    targets[1:3] = torch.tensor([0.2, 0.3, 0.5])
    expected = functional.cross_entropy(outputs[1:3], targets[1:3])
    torch.testing.assert_close(loss({"a": outputs}, {"a": targets})[0], expected)


def test_labels_in_every_form() -> None:
    loss = MultiTaskLoss(["a"], {"a": "cross_entropy"}, "equal")
    outputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2, 1, 1])
    expected = functional.cross_entropy(outputs, labels)
    for given in (labels, labels[:, None], labels.float(), labels.int(), functional.one_hot(labels, 3).float()):
        torch.testing.assert_close(loss({"a": outputs}, {"a": given})[0], expected)
    two = functional.binary_cross_entropy_with_logits(outputs[:, 0], labels.clamp(max=1).float())
    for logits in (outputs[:, 0], outputs[:, :1]):
        torch.testing.assert_close(loss({"a": logits}, {"a": labels.clamp(max=1)})[0], two)
    sequences, tokens = torch.randn(2, 5, 3), torch.randint(3, (2, 5))
    expected = functional.cross_entropy(sequences.flatten(0, 1), tokens.flatten())
    torch.testing.assert_close(loss({"a": sequences}, {"a": tokens})[0], expected)


@pytest.mark.parametrize(
    ("kind", "outputs", "targets", "told"),
    [
        ("mse", torch.zeros(4, 1), torch.zeros(5), r"predictions \(4, 1\) and targets \(5,\) are not of one"),
        ("mse", torch.zeros(2, 3), torch.zeros(3, 2), "are not of one shape"),
        ("bce", torch.zeros(3), torch.tensor([0, 1, 2]), "targets of 'bce' are from 0 to 1, got 0 to 2"),
        ("ce", torch.zeros(3, 4), torch.tensor([0, 1, 4]), "label 4, but there are the classes 0 to 3"),
        ("ce", torch.zeros(3, 1), torch.tensor([0, 1, 2]), "label 2, but there are the classes 0 to 1"),
        ("ce", torch.zeros(3, 4), torch.tensor([0.5, 1, 2]), "targets of 'ce' are labels, whole numbers"),
        ("ce", torch.zeros(3, 4), torch.zeros(2), "3 predictions for 2 targets"),
        ("ce", torch.zeros(3), torch.tensor(1), "got a single number"),
        ("ce", torch.zeros(3, 4), torch.eye(4)[:3].long(), "probabilities are floating-point numbers"),
        ("ce", torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 5).long(), r"\(2, 3, 4, 4\) and targets \(2, 5, 5\)"),
        ("ce", torch.zeros(2, 3, 5), torch.zeros(2, 5).long(), r"of sequences \[N, L\] with \[N, L, C\]"),
        ("mse", torch.zeros(3).long(), torch.zeros(3), "predictions must be floating-point numbers"),
        ("mse", [1.0], torch.zeros(1), "predictions must be a Tensor, got a list"),
        ("mse", torch.zeros(1), 1.0, "targets must be a Tensor, got a float"),
    ],
)
def test_targets_that_do_not_fit(kind: str, outputs: Any, targets: Any, told: str) -> None:
    with pytest.raises(DataError, match=f"task 'a'.*{told}"):
        MultiTaskLoss(["a"], {"a": kind}, "equal")({"a": outputs}, {"a": targets})


def test_what_is_given_wrongly() -> None:
    loss = MultiTaskLoss(TASKS, TYPES, "equal")
    predictions, targets = batch()
    with pytest.raises(DataError, match="no task among the targets, which have 'ratings'; did you mean 'rating'"):
        loss(predictions, {"ratings": targets["rating"]})
    with pytest.raises(DataError, match="predictions must be a Mapping, got a list"):
        loss(list(predictions.values()), targets)
    with pytest.raises(RunError, match="task 'rating': the loss is inf; it cannot be weighed"):
        loss(predictions, targets | {"rating": torch.full((8,), math.inf)})
    wrong: Any
    for wrong, told in (
        (["a", "a"], "has 'a' twice"),
        ([], "is empty"),
        ("ab", "must be a list of names"),
        (None, "must be a list of names"),
    ):
        with pytest.raises(OptionError, match=told):
            MultiTaskLoss(wrong, {"a": "mse"})
    wrong = ["mse"]
    with pytest.raises(OptionError, match="unknown loss"):
        MultiTaskLoss(["a"], {"a": wrong})
    with pytest.raises(OptionError, match="unknown balancing_method"):
        MultiTaskLoss(["a"], {"a": "mse"}, wrong)
    with pytest.raises(OptionError, match="device 'gpu' cannot be used"):
        MultiTaskLoss(TASKS, TYPES, device="gpu")
    with pytest.raises(DataError, match="loss_types must be a Mapping, got a list"):
        MultiTaskLoss(TASKS, ["mse"])  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="loss_types has none for task 'kind'"):
        MultiTaskLoss(TASKS, {"rating": "mse", "click": "bce"})
    with pytest.raises(OptionError, match="unknown loss 'bcee' of task 'click'; did you mean 'bce'"):
        MultiTaskLoss(TASKS, TYPES | {"click": "bcee"})
    with pytest.raises(OptionError, match="loss_types: no task 'clicks'; did you mean 'click'"):
        MultiTaskLoss(TASKS, TYPES | {"clicks": "bce"})
    with pytest.raises(OptionError, match="alpha"):
        MultiTaskLoss(TASKS, TYPES, "gradnorm", alpha=-1.0)
    with pytest.raises(OptionError, match="2 weights for 3 tasks"):
        MultiTaskLoss(TASKS, TYPES, "weights", weights=[1.0, 2.0])
    with pytest.raises(OptionError, match="weights has none for task 'click'; did you mean 'clicks'"):
        MultiTaskLoss(TASKS, TYPES, "weights", weights={"rating": 1.0, "kind": 1.0, "clicks": 1.0})
    with pytest.raises(OptionError, match="weights: no task 'more'"):
        MultiTaskLoss(TASKS, TYPES, "weights", weights=dict.fromkeys([*TASKS, "more"], 1.0))
    loss.balancer = pytest.importorskip("crosstask_robust").Krum(byzantine=2)
    with pytest.raises(DataError, match="it needs at least 5 tasks, got 3"):
        loss(predictions, targets)
    loss.balancer = pytest.importorskip("crosstask_jacobian").GradDrop()
    with pytest.raises(RunError, match="GradDrop answers with a direction"):
        loss(predictions, targets)


def test_a_method_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the registry, which says what to install, not that there is no such method."""
    monkeypatch.setitem(module.METHODS, "gradnorm", "of nobody")
    with pytest.raises(UnknownComponentError, match="of nobody"):
        MultiTaskLoss(TASKS, TYPES, "gradnorm")


# --- on two ranks -----------------------------------------------------------------------------------------------------


def weights_on(rank: int, ranks: int) -> dict[str, list[float]]:
    """The weights of three steps on this rank's part of each batch, and what uncertainty learns of them."""
    found = {}
    for method in ("uncertainty", "gradnorm"):
        model, loss = Model({"rating": 1, "click": 1, "kind": 3}), MultiTaskLoss(TASKS, TYPES, method)
        learned = torch.optim.SGD([*loss.parameters(), nn.Parameter(torch.zeros(1))], lr=0.5)
        for step in range(3):
            inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).chunk(ranks)[rank]
            targets = {name: values.chunk(ranks)[rank] for name, values in batch(step)[1].items()}
            total, _ = loss(model(inputs), targets, model.trunk)
            learned.zero_grad()
            total.backward()
            learned.step()
        found[method] = list(loss.task_weights.values())
    return found


def one(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=2)
    (folder / f"{rank}.json").write_text(json.dumps(weights_on(rank, 2)))
    distributed.destroy_process_group()


def test_two_ranks_weigh_as_one_process(tmp_path: Path) -> None:
    """By the means over the ranks, so that all have the same weights."""
    processes = [multiprocessing.get_context("fork").Process(target=one, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for method, expected in weights_on(0, 1).items():
        for rank in range(2):
            assert json.loads((tmp_path / f"{rank}.json").read_text())[method] == pytest.approx(expected, rel=1e-5)
        assert expected != [1.0, 1.0, 1.0]
