"""Every method, also with other options, does what the contract and its capabilities say, from losses alone."""

import pytest
import torch

import crosstask_weighting
from crosstask.learning.gradients import TaskGradients
from crosstask.points.balancer import Balancer
from crosstask.testing import conformance
from crosstask.testing.balancers import Check, checks_of
from crosstask_weighting.plugin import PLUGIN

METHODS = [getattr(crosstask_weighting, name) for name in crosstask_weighting.__all__ if name != "Fixed"]
for _method in METHODS:  # `Fixed` has weights for one number of tasks only: see test_values.py
    globals()[f"test_{_method.__name__}"] = conformance(_method)

CASES: list[tuple[type[Balancer], dict[str, object]]] = [
    (crosstask_weighting.DWA, {"interval": 1}),
    (crosstask_weighting.STCH, {"warmup": 2}),
    *((crosstask_weighting.RLW, {"distribution": name}) for name in ("uniform", "dirichlet", "bernoulli")),
]
EVERY = [
    pytest.param(method, options, check, id=f"{method.__name__}{options or ''}-{check.__name__}")
    for method, options in CASES
    for check in checks_of(lambda method=method, options=options: method(**options))
]


@pytest.mark.parametrize(("method", "options", "check"), EVERY)
def test_contract(method: type[Balancer], options: dict[str, object], check: Check) -> None:
    check(lambda: method(**options))


class Untouchable(TaskGradients):
    """Gradients that nobody may ask for."""

    tasks = 3

    @property
    def matrix(self) -> torch.Tensor:
        raise AssertionError("a loss weighting asked for the gradients")

    gramian = matrix

    def dot(self, vector: torch.Tensor) -> torch.Tensor:
        return self.matrix

    def assemble(self, weights: torch.Tensor | None, vector: torch.Tensor | None) -> torch.Tensor:
        return self.matrix


@pytest.mark.parametrize(("method", "options"), [*((method, {}) for method in METHODS), *CASES])
def test_losses_are_enough(method: type[Balancer], options: dict[str, object]) -> None:
    balancer = method(**options)
    assert balancer.weighs_losses
    for _ in range(3):
        weights = balancer.balance(torch.tensor([1.0, 2.0, 0.5]), Untouchable())
        assert weights.shape == (3,)
        assert not weights.requires_grad


def test_the_manifest_names_every_method() -> None:
    names = {extension.target.split(":")[1] for extension in PLUGIN.extensions}
    assert names == set(crosstask_weighting.__all__)
    assert all(e.target.split(":")[0] == f"crosstask_weighting.{e.name}" for e in PLUGIN.extensions)
