"""Ratings in a domain with the help of another: every fault that the common form of this network has."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crosstask.errors import DataError, OptionError
from crosstask.points.balancer import Balancer
from crosstask.registry import Registry
from crosstask_cross_domain import CrossDomainTransferNetwork
from crosstask_cross_domain.plugin import PLUGIN


def network(seed: int = 0, **more: object) -> CrossDomainTransferNetwork:
    torch.manual_seed(seed)
    given = {"embedding_dim": 8, "hidden_dims": [12, 6], "shared_dims": [5], "dropout_rate": 0.0} | more
    return CrossDomainTransferNetwork({"novels": 10}, {"romance": (10, 7)}, **given)  # type: ignore[arg-type]


def ids(*given: int) -> Tensor:
    return torch.tensor(given)


def outputs_of(net: CrossDomainTransferNetwork, alpha: float = 1.0) -> dict[str, Tensor]:
    return net("novels", "romance", ids(1, 2, 3), ids(4, 5, 9), ids(1, 0), ids(6, 0), alpha)


def test_the_manifest_offers_no_component() -> None:
    assert not PLUGIN.extensions


def test_the_defaults_and_the_shapes() -> None:
    net = CrossDomainTransferNetwork({"a": 5}, {"b": 6, "c": 4})
    found = net("a", "c", ids(1, 2, 3), ids(4, 0, 1), ids(3), ids(2))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "source_predictions": (3, 1), "target_predictions": (1, 1), "source_shared": (3, 32),
        "target_shared": (1, 32), "source_domain_pred": (3, 3), "target_domain_pred": (1, 3), "domain": (2,),
    }  # fmt: skip
    assert found["domain"].tolist() == [0, 2]
    assert net.encode_domain("b", ids(1), ids(2)).shape == (1, 64)
    widths = [layer.out_features for layer in net.encoders["domain a"] if isinstance(layer, torch.nn.Linear)]
    assert widths == [128, 64]
    rates = {m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.2}


def test_given_lists_are_not_kept() -> None:
    widths = [12, 6]
    net = network(hidden_dims=widths)
    widths.append(3)
    assert outputs_of(net)["source_shared"].shape == (3, 5)


def test_users_and_items_have_tables_of_their_own() -> None:
    """In the common form user 3 is item 3, and (3, 7) is (7, 3)."""
    net = network()
    assert not torch.allclose(net.predict("novels", ids(3), ids(7)), net.predict("novels", ids(7), ids(3)))
    net.predict("novels", ids(3), ids(7)).sum().backward()
    users, items = net.users["domain novels"].weight.grad, net.items["domain novels"].weight.grad
    assert isinstance(users, Tensor)
    assert isinstance(items, Tensor)
    assert users.abs().sum(dim=1).nonzero()[:, 0].tolist() == [3]
    assert items.abs().sum(dim=1).nonzero()[:, 0].tolist() == [7]


def test_the_source_is_predicted_and_learns() -> None:
    """In the common form nothing is predicted in the source: no gradient reaches its embeddings."""
    net = network()
    losses = net.losses(outputs_of(net), torch.tensor([1.0, 2.0, 3.0]), None, lambda_alignment=0, lambda_domain=0)
    assert list(losses) == ["source"]
    losses["source"].backward()
    gradient = net.users["domain novels"].weight.grad
    assert isinstance(gradient, Tensor)
    assert gradient[[1, 2, 3]].abs().sum(dim=1).min() > 0
    assert net.users["domain romance"].weight.grad is None


def test_the_critic_sees_a_reversed_gradient() -> None:
    """In the common form it is not: the encoders learn to help it. The critic itself learns as ever."""
    net = network()
    found = outputs_of(net, alpha=0.3)
    (loss,) = net.losses(found, None, None, lambda_alignment=0, lambda_domain=2.0).values()
    ends = [found["source_shared"], found["target_shared"]]
    weights = list(net.critic.parameters())
    reversed_, own = (torch.autograd.grad(loss, some, retain_graph=True) for some in (ends, weights))
    plain = [end.detach().requires_grad_() for end in ends]
    each = [functional.cross_entropy(net.critic.layers(end), torch.full((len(end),), n)) for n, end in enumerate(plain)]
    twin = 2.0 * (each[0] + each[1]) / 2
    torch.testing.assert_close(loss, twin)
    for got, wanted in zip(reversed_, torch.autograd.grad(twin, plain, retain_graph=True), strict=True):
        torch.testing.assert_close(got, -0.3 * wanted)
    for got, wanted in zip(own, torch.autograd.grad(twin, weights), strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_name_that_is_source_and_target_is_refused() -> None:
    """In the common form it uses the source's table and one encoder for both."""
    with pytest.raises(OptionError, match="domain 'books' is both a source and a target"):
        CrossDomainTransferNetwork({"books": 5}, {"books": 5})
    with pytest.raises(DataError, match="are both 'novels'"):
        network()("novels", "novels", ids(1), ids(1), ids(1), ids(1))


def by_hand(x: Tensor, y: Tensor, unbiased: bool) -> float:
    """MMD² by loops, in double precision: equations 3 and 5 of Gretton et al. (2012)."""
    rows = [*x.double(), *y.double()]
    apart = sorted(float((a - b).norm()) for a in rows for b in rows if float((a - b).norm()) > 0)
    median = apart[(len(apart) - 1) // 2]

    def kernel(a: Tensor, b: Tensor) -> float:
        square = float((a - b).square().sum())
        each = [torch.exp(torch.tensor(-square / (2 * (m * median) ** 2))).item() for m in (0.25, 0.5, 1, 2, 4)]
        return sum(each) / len(each)

    def within(some: list[Tensor]) -> float:
        pairs = [kernel(a, b) for (i, a), (j, b) in itertools.product(enumerate(some), repeat=2) if i != j]
        return sum(pairs) / (len(some) * (len(some) - 1)) if unbiased else (sum(pairs) + len(some)) / len(some) ** 2

    first, second = rows[: len(x)], rows[len(x) :]
    between = [kernel(a, b) for a in first for b in second]
    return within(first) + within(second) - 2 * sum(between) / len(between)


@pytest.mark.parametrize("unbiased", [False, True])
def test_alignment_is_the_mmd_over_several_bandwidths(unbiased: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(n, 4, generator=generator) for n in (6, 9))
    found = network().compute_domain_alignment_loss(x, y, unbiased=unbiased)
    assert float(found) == pytest.approx(by_hand(x, y, unbiased), abs=1e-5)


def test_alignment_tells_far_from_equal_and_has_a_gradient() -> None:
    """With one bandwidth of 1, on 32 dimensions: no gradient at all, and .10 for equal as .099 for far ones."""
    generator = torch.Generator().manual_seed(0)
    x, y = (5 * torch.randn(40, 32, generator=generator) for _ in range(2))
    far = (y + 20).requires_grad_()
    net = network()
    equal = float(net.compute_domain_alignment_loss(x, y, unbiased=True))
    apart = net.compute_domain_alignment_loss(x, far, unbiased=True)
    assert abs(equal) < 0.02
    assert float(apart.detach()) > 0.3
    apart.backward()
    assert isinstance(far.grad, Tensor)
    assert float(far.grad.abs().sum()) > 1e-3


def test_no_kernel_value_is_above_one() -> None:
    """|x|² + |y|² - 2xy cancels to 1.064 in the common form: then the loss of equal samples is below 0."""
    x = 1000 + torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * 1e-3
    assert float(network().compute_domain_alignment_loss(x, x.clone())) == pytest.approx(0, abs=1e-6)


def test_losses_have_names_and_weights() -> None:
    net = network()
    found = outputs_of(net)
    ratings = torch.tensor([1.0, float("nan"), 3.0]), torch.tensor([2.0, 4.0])
    one = net.losses(found, *ratings)
    two = net.losses(found, *ratings, lambda_alignment=0.5, lambda_domain=0.1)
    assert list(one) == ["source", "target", "alignment", "domain"]
    known = found["source_predictions"][[0, 2], 0]
    torch.testing.assert_close(one["source"], ((known - torch.tensor([1.0, 3.0])) ** 2).mean())
    torch.testing.assert_close(two["alignment"], 0.5 * one["alignment"])
    torch.testing.assert_close(two["domain"], 0.1 * one["domain"])
    assert list(net.losses(found, torch.full((3,), float("nan")), ratings[1], lambda_domain=0)) == [
        "target",
        "alignment",
    ]


def test_it_is_trained_by_a_balancer() -> None:
    """On ratings by a closed form, the same in both domains for users that they share: what the target's few ratings
    do not say, the source's do.
    """
    generator = torch.Generator().manual_seed(0)
    users, items = torch.randn(30, generator=generator), torch.randn(2, 20, generator=generator)
    net = CrossDomainTransferNetwork(
        {"source": (30, 20)}, {"target": (30, 20)}, 8, [16], [8], dropout_rate=0.0, shared_users=True
    )
    assert len(net.users) == 1
    balancer = Registry.installed().create("balancer", "rgb")
    assert isinstance(balancer, Balancer)
    optimizer = torch.optim.Adam(net.parameters(), 0.03)
    source = torch.cartesian_prod(torch.arange(30), torch.arange(20))[::2].T
    few = torch.randint(30, (40,), generator=generator), torch.randint(20, (40,), generator=generator)
    values = [users[pairs[0]] + items[n][pairs[1]] for n, pairs in enumerate((source, few))]
    first: dict[str, Tensor] = {}
    for _ in range(60):
        optimizer.zero_grad()
        found = net("source", "target", *source, *few)
        losses = net.losses(found, *values, lambda_alignment=0.01, lambda_domain=0.01)
        first = first or {name: loss.detach() for name, loss in losses.items()}
        balancer.backward(losses)
        optimizer.step()
    assert float(losses["source"].detach()) < 0.3 * float(first["source"])
    assert float(losses["target"].detach()) < 0.3 * float(first["target"])


def test_what_cannot_be_is_said() -> None:
    net = network()
    for wrong, told in (
        ((ids(10), ids(1)), r"user_ids of domain 'romance': there is no id 10: they run from 0 to 9"),
        ((ids(1), ids(-1)), r"item_ids of domain 'romance': there is no id -1: they run from 0 to 6"),
        ((ids(1, 2), ids(1)), "2 user_ids and 1 item_ids"),
        ((torch.ones(2), ids(1, 1)), r"whole numbers \[B\], got torch.float32 of shape \(2,\)"),
        (([1], ids(1)), "must be a Tensor, got a list"),
    ):
        with pytest.raises(DataError, match=told):
            net.encode_domain("romance", *wrong)
    with pytest.raises(DataError, match="no domain 'romanse'; did you mean 'romance'"):
        net.predict("romanse", ids(1), ids(1))
    with pytest.raises(DataError, match="target_ratings: 3 for 2 predictions"):
        net.losses(outputs_of(net), None, torch.ones(3))
    with pytest.raises(OptionError, match="lambda_domain must be at least 0"):
        net.losses(outputs_of(net), None, None, lambda_domain=-1)
    for wrong_sizes, told in (
        (({}, {"b": 1}), "source_vocab_sizes must give the size of at least one domain"),
        (({"a": 0}, {"b": 1}), "size of domain 'a' must be at least 1"),
        (({"a": (1, 2, 3)}, {"b": 1}), r"must be \(users, items\) or one number"),
    ):
        with pytest.raises(OptionError, match=told):
            CrossDomainTransferNetwork(*wrong_sizes)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="same number of users, got a 3, b 4"):
        CrossDomainTransferNetwork({"a": 3}, {"b": 4}, shared_users=True)
    with pytest.raises(OptionError, match="hidden_dims must name at least one layer"):
        network(hidden_dims=[])
    with pytest.raises(OptionError, match="dropout_rate must be at least 0 and less than 1"):
        network(dropout_rate=1.0)


def test_weights_that_are_no_numbers_are_refused() -> None:
    net = CrossDomainTransferNetwork({"a": 3}, {"b": 3}, 4, [4], [4])
    ids = torch.tensor([0, 1])
    outputs = net("a", "b", ids, ids, ids, ids)
    with pytest.raises(OptionError, match="lambda_domain must be at least 0, got nan"):
        net.losses(outputs, None, None, lambda_domain=float("nan"))
