"""A query domain attends over all: every fault that the common form of this network has."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crosstask.errors import DataError, OptionError
from crosstask_cross_domain import MultiDomainAttentionNetwork

SIZES = {"novels": 3, "romance": 2, "crime": 4}


def network(**more: object) -> MultiDomainAttentionNetwork:
    torch.manual_seed(0)
    given = {"embedding_dim": 8, "attention_dim": 4, "hidden_dims": [10, 6], "dropout_rate": 0.0} | more
    return MultiDomainAttentionNetwork(SIZES, **given)  # type: ignore[arg-type]


def features(rows: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, size, generator=generator) for name, size in SIZES.items()}


def test_the_defaults_and_the_shapes() -> None:
    net = MultiDomainAttentionNetwork(SIZES)
    found = net("romance", features())
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "predictions": (5, 1), "attention_weights": (5, 3), "shared_representation": (5, 64),
    }  # fmt: skip
    attended, weights = net.compute_cross_domain_attention("crime", features())
    assert attended.shape == (5, 64)
    assert weights.shape == (5, 3)
    assert net.query.out_features == 32
    assert {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)} == {0.2}


def test_predictions_are_no_probabilities() -> None:
    net = network()
    with torch.no_grad():
        net.heads["domain romance"].bias.fill_(7.0)  # type: ignore[union-attr]
    assert float(net("romance", features())["predictions"].detach().min()) > 1


def test_it_is_scaled_dot_product_attention_with_the_query_added() -> None:
    net, given = network(), features()
    attended, weights = net.compute_cross_domain_attention("romance", given)
    encoded = torch.stack([net.encoders[f"domain {name}"](given[name]) for name in SIZES], dim=1)
    own = encoded[:, 1:2]
    twin = functional.scaled_dot_product_attention(net.query(own), net.key(encoded), net.value(encoded))
    torch.testing.assert_close(attended, (own + twin)[:, 0])
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(5))


def test_the_order_of_the_dict_does_not_matter() -> None:
    """In the common form the weights' columns are in the order of whatever dict was given."""
    net, given = network(), features()
    turned = {name: given[name] for name in reversed(given)}
    for one, other in zip(net("crime", given).values(), net("crime", turned).values(), strict=True):
        assert torch.equal(one, other)


def test_where_a_user_is_not_known_the_weight_is_zero_exactly() -> None:
    """And what stands there reaches nothing, not even as NaN."""
    net, given = network(), features()
    mask = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 1], [1, 0, 1], [0, 0, 0]])
    found = net("romance", given, mask)
    assert torch.equal(found["attention_weights"] == 0, mask == 0)
    torch.testing.assert_close(found["attention_weights"].sum(dim=1), torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]))
    other = {name: x.where(mask[:, place, None] > 0, float("nan")) for place, (name, x) in enumerate(given.items())}
    again = net("romance", other, mask)
    for name, value in found.items():
        assert torch.equal(value, again[name])
    again["predictions"].sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)


def test_a_user_known_in_the_query_alone_keeps_what_it_says() -> None:
    net, given = network(), features()
    attended, _ = net.compute_cross_domain_attention("romance", given, torch.tensor([[0, 1, 0]] * 5))
    own = net.encoders["domain romance"](given["romance"])
    torch.testing.assert_close(attended, own + net.value(own))


def test_a_domain_that_nobody_is_known_in_may_be_absent() -> None:
    net, given = network(), features()
    mask = torch.tensor([[True, True, False]] * 5)
    whole = net("romance", given, mask)
    without = net("romance", {name: given[name] for name in ("novels", "romance")}, mask)
    for one, other in zip(whole.values(), without.values(), strict=True):
        torch.testing.assert_close(one, other)


def test_what_cannot_be_is_said() -> None:
    """The common form: a bare KeyError, and a failure in torch.stack."""
    net, given = network(), features()
    with pytest.raises(DataError, match="the query domain 'crime' is absent: features are of novels"):
        net("crime", {"novels": given["novels"]})
    with pytest.raises(DataError, match="domain 'crime' is absent: give its features, or a mask whose column 2"):
        net("romance", {name: given[name] for name in ("novels", "romance")})
    with pytest.raises(DataError, match=r"other numbers of rows \(novels 5, romance 3, crime 5\)"):
        net("novels", given | {"romance": given["romance"][:3]})
    with pytest.raises(DataError, match="no domain 'romanse'; did you mean 'romance'"):
        net("romanse", given)
    with pytest.raises(DataError, match="domain_features: there is no domain 'films'"):
        net("romance", given | {"films": torch.ones(5, 2)})
    with pytest.raises(DataError, match=r"domain 'crime': features must be \[B, 4\], got \(5, 3\)"):
        net("crime", given | {"crime": given["novels"]})
    with pytest.raises(DataError, match=r"mask must be \[5, 3\] \(columns novels, romance, crime\), got \(5, 2\)"):
        net("crime", given, torch.ones(5, 2))
    with pytest.raises(DataError, match="3 ratings for 5 predictions"):
        net.losses(net("crime", given), torch.ones(3))
    with pytest.raises(OptionError, match="must give the number of features of each domain"):
        MultiDomainAttentionNetwork({})
    with pytest.raises(OptionError, match="attention_dim must be at least 1, got 0"):
        network(attention_dim=0)


def test_it_learns_what_only_another_domain_knows() -> None:
    """Ratings that the features of the query say nothing of; who is not known in the other domain stays at the mean."""
    generator = torch.Generator().manual_seed(0)
    given, net = features(200), network()
    mask = torch.ones(200, 3, dtype=torch.bool)
    mask[:, 0] = torch.rand(200, generator=generator) < 0.7
    ratings = given["novels"][:, 0].where(mask[:, 0], 0.0)
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        losses = net.losses(net("romance", given, mask), ratings, "romance")
        losses["romance"].backward()
        optimizer.step()
    assert float(losses["romance"].detach()) < 0.2 * float(ratings.var())


def test_a_batch_without_any_rating_is_no_loss() -> None:
    net = MultiDomainAttentionNetwork({"a": 2}, 8, 4, [8])
    outputs = net("a", {"a": torch.randn(3, 2)})
    with pytest.raises(DataError, match="no rating is known in this batch"):
        net.losses(outputs, torch.full((3,), float("nan")))
