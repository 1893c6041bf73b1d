"""What every alignment refuses and keeps, whatever its term."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import CrosstaskError, DataError, OptionError, PluginError
from crosstask.options import component
from crosstask_alignment import Alignment, domain_accuracy
from crosstask_alignment.testing import ReferenceAlignment, ReferenceCritic

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TWO = torch.arange(6) % 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"domain": torch.zeros(6).long()}, "6 rows of domain 0 only; a batch needs rows of each domain"),
        ({"features": X[:1], "domain": TWO[:1]}, "a row of domain 0 only"),
        ({"domain": torch.tensor([0, 2, 0, 2, 0, 2])}, "no row of domain 1 in the batch; it needs rows of each domain"),
        ({"domain": TWO - 1}, "domain -1 is none: they are numbered from 0 on"),
        ({"domain": TWO[:5]}, r"one for each of the 6 rows, got torch.int64 of shape \(5,\)"),
        ({"domain": TWO.float()}, "whole numbers .* got torch.float32"),
        ({"features": X[:0], "domain": TWO[:0]}, "the batch has no rows"),
        ({"features": X[:, 0]}, r"features must be floating-point rows \[N, F\], got torch.float32 of shape \(6,\)"),
        ({"features": X.long()}, "got torch.int64"),
        ({"outputs": X[:5]}, r"outputs must be logits \[N, C\] of the 6 rows, got \(5, 4\)"),
        ({"progress": 2.0}, "progress is the part of the training that is done"),
    ],
)
def test_batches_that_cannot_be_aligned(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"alignment ReferenceAlignment: .*{message}|{message}"):
        ReferenceAlignment().loss(**{"features": X, "domain": TWO, **given})


def test_sizes_are_those_prepared_for() -> None:
    made = ReferenceAlignment().prepare(4, 3, 5)
    with pytest.raises(DataError, match="domain 3 is none: they are numbered from 0 to 2, there are 3"):
        made.loss(X, torch.tensor([0, 1, 2, 3, 0, 1]))
    with pytest.raises(DataError, match="no row of domain 2 in the batch"):
        made.loss(X, TWO)
    with pytest.raises(DataError, match="prepared for 4 features, got 3"):
        made.loss(X[:, :3], TWO)
    with pytest.raises(DataError, match="prepared for 5 outputs, got 4"):
        made.loss(X, TWO, X)
    for sizes in ({"features": 0}, {"features": 4, "n_domains": 1}, {"features": 4, "n_classes": 0}):
        with pytest.raises(DataError, match="must be at least"):
            made.prepare(**sizes)
    with pytest.raises(OptionError, match="n_domains must be an integer"):
        made.prepare(4, 2.5)  # type: ignore[arg-type]
    with pytest.raises(CrosstaskError, match="features"):
        made.loss([[1.0]], TWO)  # type: ignore[arg-type]


@component
class InPairs(ReferenceAlignment):
    """Needs two rows of each domain."""

    least_rows = 2


def test_too_few_rows_of_a_domain() -> None:
    with pytest.raises(DataError, match="1 row of domain 1 in the batch; it needs at least 2 rows of each domain"):
        InPairs().loss(X, torch.tensor([0, 0, 0, 0, 0, 1]))


def test_a_term_must_be_a_scalar() -> None:
    @component
    class Rowwise(ReferenceAlignment):
        """Wrong."""

        def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
            return features.sum(1)

    with pytest.raises(PluginError, match=r"term must return a scalar, got shape \(6,\)"):
        Rowwise().loss(X, TWO)


def test_a_critic_is_not_trained_by_accident_it_must_be_prepared() -> None:
    made = ReferenceCritic()
    assert not made.prepared
    with pytest.raises(DataError, match=r"has weights of its own, .* call prepare\(features=4"):
        made.loss(X, TWO, X)
    with pytest.raises(DataError, match="no weights before it knows sizes"):
        made.parameters()
    with pytest.raises(DataError, match="looks at the model's outputs, too: say how many with n_classes"):
        made.prepare(4)
    made.prepare(X, 2, 4)
    with pytest.raises(DataError, match="give its logits"):
        made.loss(X, TWO)
    assert len(made.parameters()) == 4


def test_a_critic_is_the_same_for_the_same_seed_and_moves_no_global_random_numbers() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, other = (ReferenceCritic().prepare(4, 2, 4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_features_shown_say_the_precision() -> None:
    assert ReferenceCritic().prepare(X.double(), 2, 4).parameters()[0].dtype == torch.float64
    assert ReferenceCritic().prepare(X.bfloat16(), 2, 4).parameters()[0].dtype == torch.float32


def test_images_of_features_are_flattened() -> None:
    maps = X.reshape(6, 1, 2, 2)
    assert float(ReferenceAlignment().loss(maps, TWO)) == float(ReferenceAlignment().loss(X, TWO))


def test_state_goes_into_another_and_keeps_the_parameters_objects() -> None:
    made = ReferenceCritic().prepare(X.double(), 2, 4)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    other = ReferenceCritic()
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    outputs = X.double()
    assert torch.equal(made.loss(X.double(), TWO, outputs), other.loss(X.double(), TWO, outputs))
    held = other.parameters()
    other.load_state_dict(made.state_dict())
    assert all(a is b for a, b in zip(held, other.parameters(), strict=True))
    other.load_state_dict(ReferenceCritic().state_dict())
    assert not other.prepared
    with pytest.raises(PluginError, match="expected sizes and network"):
        other.load_state_dict({})


def test_several_domains_are_the_mean_over_pairs() -> None:
    three, made = torch.arange(6) % 3, ReferenceAlignment()
    pairs = [made.loss(X[three != out], (three[three != out] == keep).long()) for out, keep in ((0, 1), (1, 0), (2, 0))]
    assert float(made.loss(X, three)) == pytest.approx(float(torch.stack(pairs).mean()), rel=1e-6)


def test_domain_accuracy_is_chance_for_one_distribution_and_one_for_two() -> None:
    generator = torch.Generator().manual_seed(0)
    same = [torch.randn(300, 5, generator=generator) for _ in range(3)]
    assert domain_accuracy(same, generator) == pytest.approx(1 / 3, abs=0.1)
    assert domain_accuracy([same[0], same[1][:100] + 4], generator) > 0.98
    ring = torch.nn.functional.normalize(same[0]) * 4  # which no line tells from what is inside
    assert domain_accuracy([same[1], ring], generator) > 0.9


def test_domain_accuracy_needs_rows_of_two_domains() -> None:
    generator = torch.Generator()
    with pytest.raises(DataError, match="two domains or more, got 1"):
        domain_accuracy([X], generator)
    with pytest.raises(DataError, match=r"at least 4 rows of each domain, got \[6, 3\]"):
        domain_accuracy([X, X[:3]], generator)


def test_the_contract_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Alignment()  # type: ignore[abstract]


def test_features_that_are_not_finite_are_not_at_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(DataError, match="features of domain 1 are not finite"):
        domain_accuracy([torch.randn(9, 3), torch.full((9, 3), float("nan"))], generator)
    with pytest.raises(DataError, match=r"other numbers of features, \[3, 4\]"):
        domain_accuracy([torch.randn(9, 3), torch.randn(9, 4)], generator)
