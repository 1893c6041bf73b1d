"""`DomainAdversarialNetwork`, with each fault of its usual form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from crosstask.errors import CrosstaskError, DataError, OptionError
from crosstask.testing.references import ReferenceBalancer
from crosstask_alignment import reversal_strength
from crosstask_alignment.testing import digits
from crosstask_dann import DomainAdversarialNetwork, DomainNorm

TASKS: dict[str, dict[str, Any]] = {
    "kind": {"output_dim": 3, "task_type": "classification"},
    "click": {"output_dim": 1, "task_type": "classification"},
    "value": {"output_dim": 2, "task_type": "regression"},
}
X = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
DOMAIN = torch.arange(10) % 2


def network(**given: Any) -> DomainAdversarialNetwork:
    torch.manual_seed(0)
    return DomainAdversarialNetwork(
        **{"feature_dim": 6, "hidden_dims": [8, 4], "n_domains": 2, "task_configs": TASKS, **given}
    )


def test_shapes_and_layers_are_those_of_the_specification() -> None:
    made = network()
    assert (made.lambda_domain, made.dropout_rate) == (1.0, 0.2)
    outputs, told = made(X, "kind")
    assert (outputs.shape, told.shape) == ((10, 3), (10, 2))
    assert [type(layer) for layer in made.layers[0]] == [nn.Linear, nn.ReLU, nn.Dropout]  # type: ignore[arg-type]
    heads = [[tuple(p.shape) for p in head.parameters()] for head in (*made.heads, made.critic)]
    assert heads[0] == [(2, 4), (2,), (3, 2), (3,)]
    assert heads[3] == [(2, 4), (2,), (2, 2), (2,)]
    assert network(task_configs={"value": {"hidden_dims": [5]}}).heads[0][0].out_features == 5  # type: ignore[index]


def test_heads_give_logits_so_that_a_perfect_answer_costs_nothing() -> None:
    made = network(hidden_dims=[8], dropout_rate=0.0).eval()
    head: Any = made.heads[0]
    nn.init.zeros_(head[-1].weight)
    with torch.no_grad():
        head[-1].bias.copy_(torch.tensor([60.0, -60.0, -60.0]))
    with torch.no_grad():
        outputs, told = made(X, "kind")
    assert float(functional.cross_entropy(outputs, torch.zeros(10).long())) < 1e-6  # 0.551 for probabilities
    assert not torch.allclose(told.sum(1), torch.ones(10), atol=1e-3)


def test_without_a_task_name_there_are_domain_logits_only_so_that_unlabelled_rows_need_no_head() -> None:
    made = network().eval()
    told = made(X)
    assert isinstance(told, torch.Tensor)
    assert torch.equal(told, made(X, "kind")[1])
    made.train()
    functional.cross_entropy(made(X), DOMAIN).backward()
    assert all(p.grad is None for p in made.heads.parameters())


def test_alpha_reverses_the_domains_gradient_only() -> None:
    made = network(dropout_rate=0.0).eval()
    gradients = []
    for alpha in (1.0, 0.25, 0.0):
        made.zero_grad()
        functional.cross_entropy(made(X, alpha=alpha), DOMAIN).backward()
        first: Any = made.layers[0][0]  # type: ignore[index]
        critic: Any = made.critic.layers[0]
        gradients.append((first.weight.grad.clone(), critic.weight.grad.clone()))
    assert torch.allclose(0.25 * gradients[0][0], gradients[1][0], atol=1e-8)
    assert not gradients[2][0].any()
    assert torch.equal(gradients[0][1], gradients[2][1])


def test_lambda_is_used_and_losses_are_of_the_labelled_rows() -> None:
    made = network(lambda_domain=0.5, dropout_rate=0.0).eval()
    y = torch.tensor([0, 1, 2, -1, -1, -100, 1, -1, -1, -1])
    values = torch.full((10, 2), float("nan"))
    values[:3] = torch.tensor([1.0, 2.0])
    click = torch.tensor([1, 0, -1, -1, -1, -1, -1, -1, -1, -1])
    found = made.losses(X, {"kind": y, "value": values, "click": click}, DOMAIN, progress=0.3)
    losses = {name: loss.detach() for name, loss in found.items()}
    made.requires_grad_(False)
    alpha = reversal_strength(0.3)
    outputs, told = made(X, "kind", alpha, DOMAIN)
    assert set(losses) == {"kind", "value", "click", "domain"}
    assert float(losses["domain"]) == pytest.approx(0.5 * float(functional.cross_entropy(told, DOMAIN)))
    assert float(losses["kind"]) == pytest.approx(float(functional.cross_entropy(outputs[y >= 0], y[y >= 0])))
    wanted = (made(X, "value", alpha, DOMAIN)[0][:3] - values[:3]).square().mean()
    assert float(losses["value"]) == pytest.approx(float(wanted))
    binary = functional.binary_cross_entropy_with_logits(
        made(X, "click", alpha, DOMAIN)[0][:2, 0], torch.tensor([1.0, 0.0])
    )
    assert float(losses["click"]) == pytest.approx(float(binary))
    assert set(made.losses(X, None, DOMAIN)) == {"domain"}


def test_losses_of_the_only_task_need_no_name_and_go_into_a_balancer() -> None:
    made = network(task_configs={"kind": TASKS["kind"]})
    losses = made.losses(X, torch.arange(10) % 3, DOMAIN)
    ReferenceBalancer().backward(losses)
    assert all(p.grad is not None for p in made.parameters())
    with pytest.raises(DataError, match=r"y must be labels by task \(kind, click, value\), got a tensor"):
        network().losses(X, torch.arange(10) % 3, DOMAIN)


def test_d_of_one_has_heads_of_width_one() -> None:
    made = network(hidden_dims=[1])
    assert made(X, "kind")[0].shape == (10, 3)
    assert made.critic.layers[0].out_features == 1


def test_a_training_batch_of_one_row_works() -> None:
    made = network()
    assert bool(torch.isfinite(made(X[:1], "kind")[0]).all())
    assert bool(torch.isfinite(made(X[:1], "kind", 1.0, DOMAIN[:1])[0]).all())


def test_domains_have_statistics_of_their_own() -> None:
    norm = DomainNorm(3, 2)
    x = torch.cat([torch.randn(200, 3) * 2 + 5, torch.randn(200, 3) - 5])
    domain = torch.arange(400) // 200
    for _ in range(80):
        made = norm(x, domain)
    for number in (0, 1):
        assert torch.allclose(made[domain == number].mean(0), torch.zeros(3), atol=1e-5)
        assert torch.allclose(made[domain == number].std(0), torch.ones(3), atol=1e-2)
    assert torch.allclose(norm.means[:2], torch.stack([x[:200].mean(0), x[200:].mean(0)]), atol=0.01)
    norm.eval()
    assert torch.allclose(norm(x, domain), made, atol=0.02)
    assert torch.allclose(norm.means[2], x.mean(0), atol=0.01)  # of rows whose domain is not said
    assert torch.allclose(norm(x), (x - x.mean(0)) / x.std(0), atol=0.02)


def test_rows_of_one_domain_do_not_change_those_of_another_in_training() -> None:
    made = network(dropout_rate=0.0)
    one = made(X, "kind", 1.0, DOMAIN)[0]
    moved = torch.where(DOMAIN[:, None] == 1, 10 * X + 3, X)
    other = made(moved, "kind", 1.0, DOMAIN)[0]
    assert torch.equal(one[DOMAIN == 0], other[DOMAIN == 0])


def test_lists_that_were_given_are_not_kept() -> None:
    hidden, configs = [8], {"kind": {"output_dim": 3, "task_type": "classification"}}
    made = network(hidden_dims=hidden, task_configs=configs)
    hidden.append(3)
    configs["more"] = {}
    configs["kind"]["output_dim"] = 9
    assert made.tasks == ["kind"]
    assert made(X, "kind")[0].shape == (10, 3)


def test_real_digits_inverted_without_labels_fill_both_domains() -> None:
    source, target = digits().data(), digits("inverted").data()
    torch.manual_seed(0)
    config = {"digit": {"output_dim": 10, "task_type": "classification"}}
    made = DomainAdversarialNetwork(64, [64], 2, config, lambda_domain=0.1)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    x = torch.cat([source.inputs.flatten(1), target.inputs.flatten(1)])
    y = torch.cat([source.targets, torch.full((len(target),), -1)])
    domain = torch.arange(len(x)) // len(source)
    first = None
    for step in range(60):
        rows = torch.randperm(len(x))[:128]
        losses = made.losses(x[rows], {"digit": y[rows]}, domain[rows], step / 59)
        first = first or {name: float(value.detach()) for name, value in losses.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert first is not None
    assert float(losses["digit"].detach()) < first["digit"] / 2
    assert 0.02 < float(losses["domain"].detach()) < 0.2  # near 0.1 log 2: the critic knows little


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"feature_dim": 0}, "feature_dim must be at least 1, got 0"),
        ({"hidden_dims": [4, 0]}, "hidden_dims must be at least 1"),
        ({"hidden_dims": []}, "hidden_dims must name at least one width"),
        ({"n_domains": 1}, "n_domains must be at least 2, got 1"),
        ({"lambda_domain": -1.0}, "lambda_domain must be at least 0"),
        ({"dropout_rate": 1.0}, "dropout_rate must be from 0 to below 1"),
        ({"task_configs": {"domain": {}}}, "a task cannot be called 'domain'"),
        ({"task_configs": {"a": {"outputdim": 1}}}, "no setting 'outputdim'; did you mean 'output_dim'"),
        ({"task_configs": {"a": {"task_type": "clasification"}}}, "did you mean 'classification'"),
        ({"task_configs": {"a": {"output_dim": 0}}}, "output_dim and hidden_dims must be at least 1"),
    ],
)
def test_what_cannot_be_built(given: dict[str, Any], message: str) -> None:
    with pytest.raises(CrosstaskError, match=message):
        network(**given)


Y = torch.arange(10) % 3


@pytest.mark.parametrize(
    ("x", "y", "domain", "message"),
    [
        (X, {"kinds": Y}, DOMAIN, "no task 'kinds'; did you mean 'kind'"),
        (X, {"kind": Y}, torch.zeros(10).long(), "10 rows of domain 0 only; a batch needs rows of each domain"),
        (X[:1], {"kind": Y[:1]}, DOMAIN[:1], "a row of domain 0 only"),
        (X, {"kind": Y}, DOMAIN + 1, r"domain 2 is none: they are numbered from 0 to 1, there are 2 \(n_domains\)"),
        (X, {"kind": Y}, DOMAIN[:9], "one for each of the 10 rows"),
        (X, {"kind": Y - 5}, DOMAIN, "task 'kind' has no label in this batch: leave it out of y"),
        (X, {"kind": Y + 1}, DOMAIN, "label 3, its classes are 0 to 2"),
        (X, {"kind": Y.float()}, DOMAIN, "labels must be whole numbers"),
        (X, {"kind": Y[:9]}, DOMAIN, "9 labels for 10 rows"),
        (X, {"value": Y.float()}, DOMAIN, "1 values for 2 outputs"),
        (X[:, :5], {"kind": Y}, DOMAIN, r"x must be rows \[B, 6\], got shape \(10, 5\)"),
    ],
)
def test_batches_that_are_refused(x: Any, y: Any, domain: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        network().losses(x, y, domain)


def test_forward_refuses_an_unknown_task_and_domains_that_are_none() -> None:
    made = network()
    with pytest.raises(DataError, match="no task 'valu'; did you mean 'value'"):
        made(X, "valu")
    with pytest.raises(DataError, match="domain must be a number from 0 to 1 for each of 10 rows"):
        made(X, "value", 1.0, DOMAIN + 1)
    with pytest.raises(OptionError, match="feature_dim must be an integer"):
        network(feature_dim="6")


def test_rows_of_another_precision_are_taken() -> None:
    net = DomainAdversarialNetwork(4, [8], 2, {"a": {}})
    assert net(torch.randn(3, 4, dtype=torch.float64), "a")[0].dtype == torch.float32
    with pytest.raises(OptionError, match="dropout_rate"):
        DomainAdversarialNetwork(4, [8], 2, {"a": {}}, dropout_rate="much")  # type: ignore[arg-type]
