"""Every method of the package, also with other options, does what the contract and its capabilities say."""

import pytest

import crosstask_jacobian
from crosstask.points.balancer import Balancer
from crosstask.testing import conformance
from crosstask.testing.balancers import Check, checks_of
from crosstask_jacobian.plugin import PLUGIN

METHODS = [getattr(crosstask_jacobian, name) for name in crosstask_jacobian.__all__]
for _method in METHODS:
    globals()[f"test_{_method.__name__}"] = conformance(_method)

CASES: list[tuple[type[Balancer], dict[str, object]]] = [
    (crosstask_jacobian.DBMTL, {"beta": 0.0}),
    (crosstask_jacobian.NashMTL, {"max_norm": 0.0, "update_interval": 2}),
    (crosstask_jacobian.AlignedMTL, {"scale": "median"}),
    (crosstask_jacobian.GradDrop, {"leak": 0.3}),
    (crosstask_jacobian.CAGrad, {"c": 1.5, "rescale": 1}),
    (crosstask_jacobian.FairGrad, {"alpha": 1.0}),
    (crosstask_jacobian.ExcessMTL, {"warmup": 2, "rate": 1.0}),
]
EVERY = [
    pytest.param(method, options, check, id=f"{method.__name__}{options or ''}-{check.__name__}")
    for method, options in CASES
    for check in checks_of(lambda method=method, options=options: method(**options))
]


@pytest.mark.parametrize(("method", "options", "check"), EVERY)
def test_contract(method: type[Balancer], options: dict[str, object], check: Check) -> None:
    check(lambda: method(**options))


def test_the_manifest_names_every_method() -> None:
    targets = {extension.target for extension in PLUGIN.extensions}
    modules = {method.__module__: method.__name__ for method in METHODS}
    assert targets == {f"{module}:{name}" for module, name in modules.items()}
    assert all(extension.target.split(":")[0].endswith(f".{extension.name}") for extension in PLUGIN.extensions)
