"""Moments of per-sample gradients: each rule against a backward pass for every sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, OptionError
from crosstask.learning.fisher import fisher_diagonal, gradient_moments


class Tokens(nn.Module):
    """Words to classes; the same word may come several times."""

    def __init__(self, padding: int | None = None, sparse: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 5, padding_idx=padding, sparse=sparse)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.embed(inputs)).mean(1))
        return out


class Attention(nn.Module):
    """Torch's attention uses its weights without calling the layers that own them."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.own = nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head((self.attend(inputs, inputs, inputs)[0] * self.own).flatten(1)[:, :4])
        return out


class Tied(nn.Module):
    """One layer twice, and a weight shared by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.a, self.b, self.head = (nn.Linear(4, size) for size in (4, 4, 4, 3))
        self.b.weight = self.a.weight

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.b(self.a(self.twice(self.twice(inputs).tanh())).tanh()))
        return out


def words() -> Tensor:
    return torch.randint(6, (7, 4))


def values(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(7, *shape)


def normed() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.randn(4), torch.rand(4) + 0.5
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), norm, nn.ReLU(inplace=True), nn.GroupNorm(2, 4), nn.Flatten(), nn.LazyLinear(3)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3, bias=False)), values(6)),
    "alone": (lambda: nn.Linear(6, 3), values(6)),
    "sequence": (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3)), values(3, 6)),
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
            nn.Flatten(),
            nn.LazyLinear(3),
        ),
        values(2, 7, 8),
    ),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3, padding=2), nn.Flatten(), nn.LazyLinear(3)), values(2, 9)),
    "same": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten(), nn.LazyLinear(3)),
        values(1, 4, 4),
    ),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(3)), values(1, 4, 4)),
    "norms": (normed, values(2, 6, 6)),
    "words": (Tokens, words),
    "padded": (lambda: Tokens(padding=0), words),
    "sparse": (lambda: Tokens(sparse=True), words),
    "attention": (Attention, values(3, 4)),
    "tied": (Tied, values(4)),
    "dropout": (lambda: nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.5), nn.BatchNorm1d(9), nn.Linear(9, 3)), values(6)),
}


def made(kind: str, seed: int = 0) -> tuple[Any, Tensor, Tensor]:
    build, draw = MODELS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inputs = draw()
        model = build()
        model.eval()(inputs)  # lazy layers learn their sizes
        model = model.double()
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        return model, inputs, torch.randint(3, (7,))


def loop(
    model: nn.Module, inputs: Tensor, objective: Callable[[Tensor, int], list[Tensor]], power: int
) -> dict[str, Tensor]:
    """A backward pass for each sample and objective."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for number in range(len(inputs)):
        for value in objective(model(inputs[number : number + 1])[0], number):
            model.zero_grad()
            value.backward(retain_graph=True)
            for name, p in model.named_parameters():
                if p.grad is not None:
                    total[name] += p.grad.to_dense().abs() ** power / len(inputs)
    model.zero_grad()
    return total


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("labels", ["data", "expected"])
def test_fisher_is_what_a_loop_over_samples_gives(kind: str, labels: str) -> None:
    model, inputs, targets = made(kind)

    def objective(output: Tensor, number: int) -> list[Tensor]:
        logs = functional.log_softmax(output, 0)
        if labels == "data":
            return [-logs[targets[number]]]
        return [logs[k] * logs[k].exp().detach().sqrt() for k in range(3)]

    expected = loop(model, inputs, objective, 2)
    found = fisher_diagonal(model, inputs, targets, labels=labels, batch_size=3)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("kind", MODELS)
def test_mean_of_absolute_gradients(kind: str) -> None:
    """What memory-aware synapses need: the squared norm of the outputs."""
    model, inputs, _ = made(kind)
    expected = loop(model, inputs, lambda output, _: [output.square().sum()], 1)
    found = gradient_moments(model, inputs, lambda outputs, _: [outputs.square().sum(1)], power=1, batch_size=4)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 9),
    width=st.integers(1, 6),
    size=st.integers(1, 10),
    power=st.sampled_from([1, 2]),
)
def test_any_batch_size_gives_the_same(seed: int, count: int, width: int, size: int, power: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2)).double()
    inputs = torch.randn(count, 3, generator=rng, dtype=torch.float64)

    def objectives(outputs: Tensor, index: Tensor) -> list[Tensor]:
        return [outputs.sin().sum(1)]

    expected = loop(model, inputs, lambda output, _: [output.sin().sum()], power)
    found = gradient_moments(model, inputs, objectives, power=power, batch_size=size)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_values_have_the_fisher_of_a_unit_gaussian() -> None:
    model, inputs, _ = made("mlp")
    expected = loop(model, inputs, lambda output, _: list(output), 2)
    values = torch.randn(7, 3, dtype=torch.float64)
    found = fisher_diagonal(model, inputs, values, labels="expected")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    expected = loop(model, inputs, lambda output, n: [(output - values[n]).square().sum() / 2], 2)
    found = fisher_diagonal(model, inputs, values)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("targets", [None, torch.zeros(7, 3, dtype=torch.float64)], ids=["classes", "values"])
def test_sampled_labels_have_the_expected_fisher_as_their_mean(targets: Tensor | None) -> None:
    model, inputs, _ = made("alone")
    expected = fisher_diagonal(model, inputs, targets, labels="expected")
    rng = torch.Generator().manual_seed(3)
    drawn = [fisher_diagonal(model, inputs, targets, labels="sampled", generator=rng)["weight"] for _ in range(400)]
    error = (torch.stack(drawn).mean(0) - expected["weight"]).norm() / expected["weight"].norm()
    assert error < 0.1


def test_it_is_not_the_square_of_the_gradient_of_the_batch() -> None:
    model, inputs, targets = made("mlp")
    mean = functional.cross_entropy(model(inputs), targets)
    (gradient,) = torch.autograd.grad(mean, [model[0].weight])
    found = fisher_diagonal(model, inputs, targets)["0.weight"]
    assert float(found.sum() / gradient.square().sum()) > 1.5


def test_the_model_is_left_as_it_was() -> None:
    model, inputs, targets = made("dropout")
    model.train()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    noise = torch.get_rng_state()
    fisher_diagonal(model, inputs, targets)
    assert [m.training for m in model] == [True, False, True, True]
    assert model.training
    assert bool((model[0].weight.grad == 1).all())
    assert model[3].weight.grad is None
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(noise, torch.get_rng_state())
    assert not any(m._forward_hooks for m in model.modules())
    with torch.no_grad():
        again = fisher_diagonal(model, inputs, targets)
    assert bool(again["0.weight"].any())


def test_frozen_parameters_are_left_out_and_names_choose() -> None:
    model, inputs, targets = made("mlp")
    model[0].requires_grad_(False)
    assert set(fisher_diagonal(model, inputs, targets)) == {"2.weight"}
    model[0].requires_grad_(True)
    assert set(fisher_diagonal(model, inputs, targets, parameters=["0.bias"])) == {"0.bias"}


def test_select_picks_the_outputs_of_a_task() -> None:
    model, inputs, targets = made("mlp")
    found = fisher_diagonal(model, inputs, targets.clamp(max=1), select=lambda outputs: outputs[:, :2])
    assert not found["2.weight"][2].any()
    assert found["2.weight"][:2].all()


def test_a_layer_that_only_some_samples_use() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.high = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            out: Tensor = (self.high if bool(inputs.mean() > 0) else self.low)(inputs)
            return out

    model = Routed().double()
    inputs = torch.cat([-torch.ones(8, 2), torch.ones(8, 2)]).double()
    expected = loop(model, inputs, lambda output, _: [output.sum()], 2)
    found = gradient_moments(model, inputs, lambda outputs, _: [outputs.sum(1)], batch_size=4)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def no(**changes: Any) -> dict[str, Any]:
    model, inputs, targets = made("mlp")
    return {"model": model, "inputs": inputs, "targets": targets, **changes}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"labels": "dat"}, OptionError, "did you mean 'data'"),
        ({"labels": "sampled"}, OptionError, "needs a generator"),
        ({"targets": None}, DataError, "needs targets"),
        ({"targets": torch.zeros(3, dtype=torch.long)}, DataError, "7 inputs but 3 targets"),
        ({"targets": torch.full((7,), 3)}, DataError, "label 3 in the targets, the model has 3 outputs"),
        ({"inputs": torch.zeros(0, 6), "targets": torch.zeros(0).long()}, DataError, "without samples"),
        ({"parameters": ["0.wait"]}, OptionError, "did you mean '0.weight'"),
    ],
    ids=lambda value: "" if isinstance(value, type | dict) else value,
)
def test_bad_input(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        fisher_diagonal(**no(**changes))


# --- Other kinds of targets and inputs


def by_hand(model: nn.Module, losses: Callable[[int], Tensor], count: int) -> dict[str, Tensor]:
    """The mean over samples of the squared gradient of each one's loss."""
    totals = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for number in range(count):
        found = torch.autograd.grad(losses(number), list(model.parameters()))
        for total, gradient in zip(totals.values(), found, strict=True):
            total += gradient.square() / count
    return totals


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-7)


def test_a_single_logit_is_of_two_classes() -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(4, 1), nn.Linear(4, 2)
    with torch.no_grad():  # logits 0 and z: the same probabilities
        two.weight.zero_(), two.bias.zero_()
        two.weight[1], two.bias[1] = one.weight[0], one.bias[0]
    inputs, labels = torch.randn(9, 4), torch.arange(9) % 2
    for how, targets in (("data", labels), ("expected", None)):
        single, double = (fisher_diagonal(model, inputs, targets, labels=how) for model in (one, two))
        torch.testing.assert_close(single["weight"][0], double["weight"][1], rtol=1e-4, atol=1e-8)
    chance = one(inputs).sigmoid()[:, 0].detach()
    wanted = ((chance * (1 - chance))[:, None] * inputs.square()).mean(0)
    torch.testing.assert_close(single["weight"][0], wanted, rtol=1e-4, atol=1e-8)


def test_several_labels_at_once_and_those_that_are_not_known() -> None:
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 3), torch.randn(6, 4)
    targets = (torch.rand(6, 3) > 0.5).float()
    targets[0, 1] = float("nan")
    known = ~torch.isnan(targets)

    def loss(n: int) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            model(inputs[n])[known[n]], targets[n][known[n]], reduction="sum"
        )

    assert_same(fisher_diagonal(model, inputs, targets, multilabel=True), by_hand(model, loss, 6))
    expected = fisher_diagonal(model, inputs, labels="expected", multilabel=True)
    chance = model(inputs).sigmoid().detach()
    torch.testing.assert_close(expected["bias"], (chance * (1 - chance)).mean(0))
    drawn = [
        fisher_diagonal(model, inputs, labels="sampled", multilabel=True, generator=torch.Generator().manual_seed(n))
        for n in range(300)
    ]
    torch.testing.assert_close(torch.stack([d["bias"] for d in drawn]).mean(0), expected["bias"], rtol=0.1, atol=0.01)


def test_values_that_are_not_known_do_not_count() -> None:
    torch.manual_seed(0)
    model, inputs, targets = nn.Linear(4, 2), torch.randn(5, 4), torch.randn(5, 2)
    targets[2, 0] = float("nan")

    def loss(n: int) -> Tensor:
        missed = (model(inputs[n]) - targets[n])[~torch.isnan(targets[n])]
        return missed.square().sum() / 2

    assert_same(fisher_diagonal(model, inputs, targets), by_hand(model, loss, 5))


@pytest.mark.parametrize("form", ["pixels", "tokens"])
def test_a_class_for_every_place(form: str) -> None:
    torch.manual_seed(0)
    model: nn.Module
    if form == "pixels":
        model, inputs = nn.Conv2d(2, 3, 3, padding=1), torch.randn(5, 2, 4, 4)
        targets = torch.randint(0, 3, (5, 4, 4))
    else:
        model, inputs = nn.Linear(4, 3), torch.randn(5, 6, 4)
        targets = torch.randint(0, 3, (5, 6))
    targets[0, 0] = -100

    def loss(n: int) -> Tensor:
        outputs = model(inputs[n : n + 1])
        outputs = outputs if form == "pixels" else outputs.transpose(1, 2)
        return functional.cross_entropy(outputs, targets[n : n + 1], reduction="sum")

    assert_same(fisher_diagonal(model, inputs, targets), by_hand(model, loss, 5))
    sampled = fisher_diagonal(model, inputs, targets, labels="sampled", generator=torch.Generator().manual_seed(0))
    assert all(bool((value > 0).all()) for value in sampled.values())
    with pytest.raises(OptionError, match="take 'sampled'"):
        fisher_diagonal(model, inputs, targets, labels="expected")


class TwoInputs(nn.Module):
    """The same as a linear layer on both inputs side by side, answered as a mapping."""

    def __init__(self, whole: nn.Linear) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"logits": self.whole(torch.cat([left, right], dim=1))}


def test_several_inputs_and_an_answer_that_is_a_mapping() -> None:
    torch.manual_seed(0)
    whole, inputs, targets = nn.Linear(5, 3), torch.randn(7, 5), torch.arange(7) % 3
    parts = MultiInput({"left": inputs[:, :2], "right": inputs[:, 2:]})
    ours = fisher_diagonal(TwoInputs(whole), parts, targets)
    assert_same({n.removeprefix("whole."): v for n, v in ours.items()}, fisher_diagonal(whole, inputs, targets))


@pytest.mark.parametrize("power", [1, 2])
def test_complex_weights_have_real_moments(power: int) -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 4, dtype=torch.complex64)
            self.head = nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.head(self.first(inputs.to(torch.complex64)).abs().mean(1))
            return found

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = Waves(), torch.randn(6, 2, 3)

    def objectives(outputs: Tensor, index: Tensor) -> list[Tensor]:
        return [outputs.square().sum(1)]

    found = gradient_moments(model, inputs, objectives, power=power)
    expected = {name: torch.zeros(p.shape) for name, p in model.named_parameters()}
    for row in inputs:
        value = model(row[None]).square().sum()
        for (name, _), gradient in zip(
            model.named_parameters(), torch.autograd.grad(value, list(model.parameters())), strict=True
        ):
            sizes = torch.view_as_real(gradient).square().sum(-1) if gradient.is_complex() else gradient.square()
            expected[name] += sizes ** (power / 2) / len(inputs)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch's own quantisation
def test_a_model_in_which_nothing_learns_says_so() -> None:
    frozen = nn.Sequential(nn.Linear(2, 3)).requires_grad_(False)
    inputs = torch.randn(4, 2)
    with pytest.raises(DataError, match=r"weights of Sequential matter: none needs a gradient; model\.requires_grad_"):
        fisher_diagonal(frozen, inputs, labels="expected")
    assert fisher_diagonal(frozen, inputs, labels="expected", parameters=[]) == {}
    small = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 3)), {nn.Linear})
    with pytest.raises(DataError, match=r"matter: the layer '0' is quantised: .* give the model as it was before"):
        fisher_diagonal(small, inputs, labels="expected")
