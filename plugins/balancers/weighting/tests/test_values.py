"""Weights against autograd through the objective that they are meant to minimise, and against TorchJD."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from crosstask import OptionError, RunError
from crosstask.learning.gradients import MatrixGradients
from crosstask.points.balancer import Balancer
from crosstask_weighting import COSMOS, DWA, FAMO, GLS, IMTLL, PBI, RLW, STCH, Fixed, ScaleInvariant, Uncertainty

NONE = MatrixGradients(torch.zeros(3, 1, dtype=torch.float64))
some_losses = st.lists(st.floats(0.01, 50), min_size=3, max_size=3).map(lambda v: torch.tensor(v, dtype=torch.float64))


def slope(objective: Callable[[Tensor], Tensor], losses: Tensor) -> Tensor:
    """∂objective/∂losses: the weights that a loss weighting should return."""
    losses = losses.clone().requires_grad_()
    return torch.autograd.grad(objective(losses), losses)[0]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(some_losses)
def test_weights_are_the_gradient_of_the_objective(losses: Tensor) -> None:
    close(GLS().balance(losses, NONE), slope(lambda v: v.prod() ** (1 / 3), losses))
    close(ScaleInvariant().balance(losses, NONE), slope(lambda v: v.log().sum(), losses))
    p, ideal = torch.tensor([0.2, 0.3, 0.5]).double(), torch.tensor([0.0, 1.0, -1.0]).double()
    smooth = STCH(mu=0.7, preferences=(0.2, 0.3, 0.5), ideal=(0.0, 1.0, -1.0))
    close(smooth.balance(losses, NONE), slope(lambda v: 0.7 * (p * (v - ideal) / 0.7).logsumexp(0), losses))


@settings(max_examples=30, deadline=None)
@given(some_losses)
def test_cosmos_and_pbi_are_the_gradients_of_their_objectives(losses: Tensor) -> None:
    r = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    ideal = torch.tensor([0.0, -1.0, -2.0], dtype=torch.float64)
    cosine = lambda v: r @ v / (r.norm() * v.norm())  # noqa: E731
    cosmos = COSMOS(lambd=2.0, preferences=(0.2, 0.3, 0.5))
    close(cosmos.balance(losses, NONE), slope(lambda v: r @ v - 2.0 * cosine(v), losses))
    p = r / r.norm()
    along = lambda v: (v - ideal) @ p  # noqa: E731
    pbi = PBI(preferences={"0": 0.2, "1": 0.3, "2": 0.5}, ideal=(0.0, -1.0, -2.0))
    expected = slope(lambda v: along(v) + 5.0 * (v - ideal - along(v) * p).norm(), losses)
    close(pbi.balance(losses, NONE), expected)


def test_cosmos_and_pbi_of_torchjd() -> None:
    jd, thirds = pytest.importorskip("torchjd.scalarization"), torch.full((3,), 1 / 3, dtype=torch.float64)
    losses = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    close(COSMOS(lambd=0.7).balance(losses, NONE), slope(jd.COSMOS(0.7, thirds), losses))
    close(PBI(theta=0.3).balance(losses, NONE), slope(jd.PBI(0.3, thirds), losses))


def test_cosmos_and_pbi_where_there_is_no_direction() -> None:
    even, none = torch.full((3,), 2.0).double(), torch.zeros(3).double()
    close(COSMOS().balance(even, NONE), torch.full((3,), 1 / 3).double())  # the cosine is at its largest
    close(COSMOS().balance(none, NONE), torch.full((3,), 1 / 3).double())
    for losses in (even, none):
        close(PBI().balance(losses, NONE), torch.full((3,), 3**-0.5).double())


@pytest.mark.parametrize(("method", "sign"), [(Uncertainty, 1), (IMTLL, -1)])
def test_weighted_losses_and_penalty_are_the_objective(method: type[Any], sign: int) -> None:
    balancer, losses = method(initial=0.3), torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    weights = balancer.balance(losses, NONE)
    s = 0.3 * torch.ones(3).double()
    expected = float(((-sign * s).exp() * losses + sign * s).sum())
    assert float(weights @ losses) + balancer.penalty(["0", "1", "2"]) == pytest.approx(expected)


def test_stch_with_warmup() -> None:
    balancer = STCH(mu=0.5, warmup=2)
    first, second, third = (torch.tensor(v).double() for v in ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 1.0, 4.0]))
    close(balancer.balance(first, NONE), 1 / first)
    close(balancer.balance(second, NONE), 1 / second)
    objective = lambda v: 3 * 0.5 * ((v / 2).log() / 0.5).logsumexp(0)  # noqa: E731 -- the reference is 2 for each
    close(balancer.balance(third, NONE), slope(objective, third))


@pytest.mark.parametrize(("method", "sign"), [(Uncertainty, -1), (IMTLL, 1)])
def test_learned_scales_reach_their_optimum(method: type[Any], sign: int) -> None:
    """At the optimum the weights are 1/L; the optimiser is made before the number of tasks is known."""
    balancer = method()
    optimizer = torch.optim.SGD(balancer.parameters(), lr=0.2)
    losses = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    for _ in range(300):
        optimizer.zero_grad()
        weights = balancer.balance(losses, NONE)
        optimizer.step()
    close(weights, 1 / losses)
    (scales,) = balancer.state_dict().values()
    torch.testing.assert_close(torch.cat(list(scales.values())), sign * (1 / losses).log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [Uncertainty, IMTLL])
def test_learned_scales_are_trained_as_autograd_would(method: type[Any]) -> None:
    balancer = method(initial=0.3)
    losses = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    s = torch.full((3,), 0.3, dtype=torch.float64, requires_grad=True)
    objective = (-s).exp() * losses + s if method is Uncertainty else s.exp() * losses - s
    balancer.balance(losses, NONE)
    found = torch.cat([p.grad for p in balancer.parameters() if p.grad is not None])
    close(found, torch.autograd.grad(objective.sum(), s)[0])


@pytest.mark.parametrize("method", [Uncertainty, IMTLL])
def test_learned_scales_survive_with_the_optimiser(method: type[Any]) -> None:
    """A resumed run trains the same parameter object that its optimiser holds, even where that was made first."""
    losses = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)

    def start() -> tuple[Any, torch.optim.Optimizer]:
        balancer = method()
        return balancer, torch.optim.Adam(balancer.parameters(), lr=0.1)

    def train(balancer: Any, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
        for _ in range(steps):
            optimizer.zero_grad()
            weights = balancer.balance(losses, NONE)
            optimizer.step()
        return weights

    one, optimizer = start()
    train(one, optimizer, 5)
    saved, saved_optimizer = copy.deepcopy(one.state_dict()), copy.deepcopy(optimizer.state_dict())
    two, other = start()
    two.load_state_dict(saved)
    two.balance(losses, NONE)
    other.load_state_dict(saved_optimizer)
    assert torch.equal(train(one, optimizer, 5), train(two, other, 5))


def test_learned_scales_in_a_training_loop() -> None:
    trunk, heads = nn.Linear(3, 4), [nn.Linear(4, 1) for _ in range(2)]
    balancer = Uncertainty()
    parameters = [*trunk.parameters(), *(p for h in heads for p in h.parameters()), *balancer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    inputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        optimizer.zero_grad()
        hidden = trunk(inputs).relu()
        balancer.backward([head(hidden).square().mean() * 10**i for i, head in enumerate(heads)])
        optimizer.step()
    (scales,) = balancer.state_dict().values()
    assert list(scales) == ["0", "1"]
    assert all(scale != 0 for scale in scales.values())


def test_learned_scales_are_trained_alike_with_a_gradient_scaler() -> None:
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        shared = nn.Parameter(torch.tensor([1.0, 2.0]))
        balancer = Uncertainty()
        optimizer = torch.optim.SGD([shared, *balancer.parameters()], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(2):  # gradients of two batches accumulate
                balancer.backward([shared.square().sum(), shared.sum() + 3], [shared], [], scaler=scaler)
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        found.append(torch.cat([shared.detach(), *balancer.state_dict()["scales"].values()]))
    torch.testing.assert_close(found[0], found[1])


def test_fixed_and_its_errors() -> None:
    close(Fixed(weights=(1.0, 2.0, 0.0)).balance(torch.ones(3).double(), NONE), torch.tensor([1.0, 2.0, 0.0]).double())
    with pytest.raises(RunError, match="weights has 2 numbers for 3 tasks"):
        Fixed(weights=(1.0, 2.0)).balance(torch.ones(3), NONE)
    with pytest.raises(TypeError, match="weights"):
        Fixed()


def test_dwa_by_hand() -> None:
    balancer = DWA(interval=2)
    steps = [[4.0, 4.0, 4.0], [2.0, 4.0, 6.0], [1.0, 4.0, 8.0], [2.0, 2.0, 7.0]]  # means 3, 4, 5 then 1.5, 3, 7.5
    for losses in steps:
        weights = balancer.balance(torch.tensor(losses).double(), NONE)
        close(weights, torch.ones(3).double())
    rates = [math.exp(r / 2) for r in (0.5, 0.75, 1.5)]
    weights = balancer.balance(torch.ones(3).double(), NONE)
    close(weights, torch.tensor([3 * r / sum(rates) for r in rates]).double())


@pytest.mark.parametrize(
    ("distribution", "spread"), [("normal", 0.22), ("uniform", 0.06), ("dirichlet", 0.24), ("bernoulli", 0.3)]
)
def test_random_weights_are_uniform_on_average(distribution: str, spread: float) -> None:
    balancer = RLW(distribution=distribution)
    drawn = torch.stack([balancer.balance(torch.ones(3).double(), NONE) for _ in range(3000)])
    torch.testing.assert_close(drawn.mean(dim=0), torch.full((3,), 1 / 3).double(), rtol=0, atol=0.02)
    assert float(drawn.std()) == pytest.approx(spread, rel=0.3)


def test_famo_moves_to_the_loss_that_falls_slowest() -> None:
    balancer = FAMO()
    for step in range(200):
        weights = balancer.balance(torch.tensor([1.0, 0.99**step, 0.97**step]).double(), NONE)
        relative = weights * torch.tensor([1.0, 0.99**step, 0.97**step]).double()  # ∝ z
    assert relative[0] > relative[1] > relative[2]


def test_famo_with_an_explicit_update_counts_each_step_once() -> None:
    before, after = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.9, 1.9, 2.0]).double()
    told, implied = FAMO(), FAMO()
    told.balance(before, NONE)
    told.update(after)
    implied.balance(before, NONE)
    close(told.balance(after, NONE), implied.balance(after, NONE))
    assert told.updates == implied.updates == {"0": 1, "1": 1, "2": 1}
    with pytest.raises(RunError, match="before the first step"):
        FAMO().update(after)


def test_famo_of_torchjd() -> None:
    peer, ours = pytest.importorskip("torchjd.scalarization").FAMO(3).double(), FAMO()
    for step in range(5):
        losses = torch.tensor([1.0, 0.9**step, 0.5**step]).double()
        close(ours.balance(losses, NONE), slope(peer, losses))
        after = losses * torch.tensor([0.99, 0.95, 0.8]).double()
        ours.update(after)
        peer.update(after)


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        (RLW, {"distribution": "gamma"}, "distribution"),
        (STCH, {"mu": 0.0}, "mu must be > 0"),
        (DWA, {"temperature": -1.0}, "temperature"),
        (FAMO, {"learning_rate": 0}, "learning_rate"),
        (Fixed, {"weights": (-1.0,)}, "weights"),
        (COSMOS, {"lambd": -1.0}, "lambd"),
        (PBI, {"preferences": (0.0, 1.0)}, "preferences"),
        (Uncertainty, {"initial": "low"}, "initial"),
    ],
)
def test_wrong_options(method: type[Balancer], options: dict[str, object], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        method(**options)


def test_wrong_use() -> None:
    negative = torch.tensor([1.0, -1.0, 2.0])
    for balancer in (GLS(), ScaleInvariant(), STCH(warmup=1)):
        with pytest.raises(RunError, match="losses must be positive"):
            balancer.balance(negative, NONE)
    with pytest.raises(RunError, match="above their minimum"):
        FAMO().balance(negative, NONE)
    with pytest.raises(RunError, match="preferences has 2 numbers for 3 tasks"):
        STCH(preferences=(1.0, 1.0)).balance(torch.ones(3), NONE)
    for method in (Uncertainty, IMTLL, DWA, FAMO):
        balancer = method()
        balancer.balance(torch.ones(3), NONE)
        with pytest.raises(RunError, match="remembers 3 tasks, was given 2"):
            balancer.balance(torch.ones(2), MatrixGradients(torch.zeros(2, 1)))
