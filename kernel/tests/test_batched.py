"""Many parameter sets at once give what one after the other gives; batch normalisation twice differentiable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import register_parametrization

from crosstask.errors import OptionError
from crosstask.learning.batched import Batched, batch_statistics
from crosstask.learning.normalisation import batch_normalised


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of this seed."""
    return torch.Generator().manual_seed(seed)


class Recurrent(nn.Module):
    """Something that vmap cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.body(inputs)
        return found * (2.0 if float(found.detach().sum()) > 0 else 1.0)


class Residual(nn.Module):
    """A block, with batch normalisation inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = inputs + self.body(inputs)
        return found


class Plus(nn.Module):
    """A parametrisation with a weight of its own, as adapters are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(()))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.shift


def parametrised() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    register_parametrization(module[0], "weight", Plus())
    return module


def convolutions() -> nn.Module:
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 4, 3, stride=2, groups=2, bias=False), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3))


def row(*layers: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 3))


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), (4,), "layers"),
    "nested": (lambda: row(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), nn.GELU(), width=5), (4,), "layers"),
    "conv2d": (convolutions, (2, 9, 9), "layers"),
    "conv1d": (lambda: row(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), width=12), (2, 6), "layers"),
    "conv3d": (lambda: row(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), width=16), (1, 3, 3, 3), "layers"),
    "pool over rows": (lambda: nn.Sequential(nn.Linear(4, 6), nn.MaxPool1d(3, 2, 1), nn.Linear(3, 3)), (4,), "layers"),
    "means of rows": (lambda: nn.Sequential(nn.Linear(4, 6), nn.AdaptiveAvgPool1d(2), nn.Linear(2, 3)), (4,), "layers"),
    "pool over images": (lambda: row(nn.AvgPool2d(3, 2, 1), width=4), (4, 4), "layers"),
    "other layers": (lambda: row(nn.Linear(4, 6), nn.LayerNorm(6), nn.PReLU(), nn.GLU(), width=3), (4,), "layers"),
    "padding": (lambda: row(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), width=32), (1, 4, 4), "layers"),
    "blocks": (lambda: row(Residual(), nn.Sequential(Residual(), nn.BatchNorm1d(4)), width=4), (4,), "layers"),
    "parametrised": (parametrised, (4,), "layers"),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), (3, 4), "vmap"),
    "branches on values": (Recurrent, (4,), "loop"),
    "branches in a row": (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), Recurrent()), (4,), "loop"),
}


@pytest.mark.parametrize("name", MODULES)
def test_each_task_has_weights_of_its_own(name: str) -> None:
    """Outputs, first and second derivatives are those of plain calls with each task's weights."""
    make, shape, path = MODULES[name]
    torch.manual_seed(0)
    module = make().double()
    inputs = torch.randn(3, 5, *shape, generator=seeded(), dtype=torch.float64)
    base = {n: p.detach() for n, p in module.named_parameters()}
    spread = {
        n: torch.randn(3, *p.shape, generator=seeded(k), dtype=torch.float64) / 5
        for k, (n, p) in enumerate(base.items())
    }

    def own() -> dict[str, Tensor]:
        return {n: (p + spread[n]).requires_grad_() for n, p in base.items()}

    def derived(outputs: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        first = torch.autograd.grad(outputs.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((g.square().sum() for g in first), torch.zeros(())), leaves)
        return [outputs, *first, *second]

    together, apart = own(), own()
    net = Batched(module)
    found = derived(net(together, inputs), list(together.values()))
    assert net.path(together, inputs) == path
    with batch_statistics(module), sdpa_kernel(SDPBackend.MATH):  # the quick ones have no second derivative
        rows = [functional_call(module, {n: t[k] for n, t in apart.items()}, (inputs[k],)) for k in range(3)]
        wanted = derived(torch.stack(rows), list(apart.values()))
    for one, two in zip(found, wanted, strict=True):
        assert torch.allclose(one, two, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("given", [None, "bias", "weight"])
def test_filled_up_once_is_filled_up_at_every_call(given: str | None) -> None:
    """The same numbers bit for bit, and what fills up has no gradient; whichever parameters are each task's own."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(20, 33), nn.Tanh(), nn.Linear(33, 5), nn.Tanh(), nn.Linear(5, 16, bias=False))
    inputs = torch.randn(3, 7, 20, generator=seeded())
    named = [(name, p) for name, p in module.named_parameters() if given is None or name.endswith(given)]
    own = {name: p.detach() + torch.randn(3, *p.shape, generator=seeded(1)) / 5 for name, p in named}
    plain = {name: tensor.requires_grad_() for name, tensor in own.items()}
    net = Batched(module, apart=True)
    filled = net.filled(plain)
    assert all(tensor.requires_grad and tensor.is_leaf for tensor in filled.values())
    assert {name: max(t.shape[1:]) % 16 for name, t in filled.items()} == dict.fromkeys(filled, 0)
    outputs = [net(each, inputs) for each in (plain, filled)]
    assert torch.equal(*outputs)
    slopes = [
        torch.autograd.grad(found.square().sum(), list(each.values()))
        for found, each in zip(outputs, (plain, filled), strict=True)
    ]
    for one, other in zip(*slopes, strict=True):
        part = tuple(slice(size) for size in one.shape)
        assert torch.equal(one, other[part])
        other[part] = 0
        assert not other.any()
    assert all(torch.equal(a, b) for a, b in zip(Batched(module).filled(plain).values(), own.values(), strict=True))


def test_parameters_that_are_not_given_are_shared() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    inputs = torch.randn(4, 5, 1, 4, 4, generator=seeded())
    weight = torch.randn(4, 2, 12, generator=seeded(1))
    net = Batched(module)
    start, (features,) = net.head_start({"4.weight": weight}, inputs)
    assert start == 4
    for found in (net({"4.weight": weight}, inputs), net({"4.weight": weight}, features, start)):
        with batch_statistics(module):
            for k in range(4):
                alone = functional_call(module, {"4.weight": weight[k]}, (inputs[k],))
                assert torch.allclose(found[k], alone, atol=1e-5)


@pytest.mark.parametrize("name", ["blocks", "branches in a row"])
def test_batch_normalisation_in_a_block_leaves_no_trace(name: str) -> None:
    make, shape, _ = MODULES[name]
    module = make().train()
    before = {n: b.clone() for n, b in module.named_buffers()}
    net = Batched(module)
    net({n: p.detach()[None] for n, p in module.named_parameters()}, torch.randn(1, 5, *shape, generator=seeded()))
    assert all(torch.equal(b, before[n]) for n, b in module.named_buffers())


def test_what_cannot_be_batched_has_no_head_start() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Recurrent())
    inputs = torch.randn(2, 5, 4, generator=seeded())
    own = {n: p.detach().expand(2, *p.shape) for n, p in module.named_parameters() if n.startswith("1.")}
    start, (found,) = Batched(module).head_start(own, inputs)
    assert (start, found is inputs) == (0, True)


def test_hooks_and_repeated_layers_are_not_passed_over() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)
    twice = nn.Sequential(layer, nn.Tanh(), layer)
    assert Batched(twice, "auto").path({n: p[None] for n, p in twice.named_parameters()}, torch.ones(1, 2, 3)) == "vmap"
    hooked = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    hooked[0].register_forward_hook(lambda module, given, made: 2 * made)
    inputs = torch.randn(2, 4, 3, generator=seeded())
    own = {n: torch.stack([p.detach()] * 2) for n, p in hooked.named_parameters()}
    assert torch.allclose(Batched(hooked)(own, inputs), hooked(inputs), atol=1e-6)


def test_paths_that_cannot_be_taken() -> None:
    with pytest.raises(OptionError, match="path cannot be 'layer'; did you mean 'layers'"):
        Batched(nn.Identity(), "layer")
    with pytest.raises(OptionError, match=r"path 'layers' needs a module made of layers in a row .*, not Recurrent"):
        Batched(Recurrent(), "layers")


def test_tasks_at_once() -> None:
    """All of a network without convolutions, few of one with many images, one of what cannot be batched."""
    images, vectors = torch.zeros(16, 5, 1, 8, 8), torch.zeros(32, 10, 4)
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 2))
    for module, inputs, wanted in (
        (nn.Sequential(nn.Linear(4, 2)), vectors, 32),
        (conv, images, 4),
        (conv, torch.zeros(16, 100, 1, 8, 8), 1),
        (Recurrent(), vectors, 1),
    ):
        own = {n: p.detach().expand(len(inputs), *p.shape) for n, p in module.named_parameters()}
        assert Batched(module).tasks_at_once(own, inputs, first_order=True) == wanted


def test_running_statistics_come_back_after_an_error() -> None:
    layer = nn.BatchNorm1d(3)
    before = layer.running_mean
    with pytest.raises(ValueError, match="more than 1 value per channel"), batch_statistics(layer):
        layer(torch.randn(1, 3))
    assert layer.running_mean is before
    assert layer.track_running_stats
    assert int(layer.num_batches_tracked or 0) == 0


# Batch normalisation


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 6), (4, 3, 2, 3), (2, 3, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
def test_both_derivatives_are_torchs(shape: tuple[int, ...], affine: bool) -> None:
    x = torch.randn(*shape, generator=seeded(), dtype=torch.float64, requires_grad=True)
    weight, bias = (
        torch.randn(3, generator=seeded(k), dtype=torch.float64, requires_grad=True) if affine else None for k in (1, 2)
    )
    leaves = [t for t in (x, weight, bias) if t is not None]

    def normalised(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        return batch_normalised(x, weight, bias, 1e-5)

    assert torch.autograd.gradcheck(normalised, leaves)
    assert torch.autograd.gradgradcheck(normalised, leaves)
    found = batch_normalised(x, weight, bias, 1e-5)
    assert torch.allclose(found, functional.batch_norm(x, None, None, weight, bias, True, eps=1e-5))


def test_one_value_per_channel_cannot_be_normalised() -> None:
    with pytest.raises(ValueError, match=r"more than one value per channel, got \[1, 3\]"):
        batch_normalised(torch.ones(1, 3), None, None, 1e-5)


# Layers that are met twice, keep a state, or look at values


def twice() -> nn.Sequential:
    torch.manual_seed(3)
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(4, 3))


class Tied(nn.Module):
    """Words in, words out, by one matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.outer.weight = self.inner.weight

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.outer(torch.tanh(self.inner(inputs)))
        return found


@pytest.mark.parametrize("path", ["auto", "vmap", "loop"])
@pytest.mark.parametrize("make", [twice, Tied], ids=["a layer used twice", "tied weights"])
def test_a_parameter_in_two_places_is_exchanged_in_both(make: Callable[[], nn.Module], path: str) -> None:
    module = make()
    before = dict(module.named_parameters(remove_duplicate=False))
    inputs = torch.randn(2, 5, 4, generator=seeded())
    own = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in module.named_parameters()}
    found = Batched(module, path)(own, inputs)
    other = make()
    with torch.no_grad():
        assert torch.allclose(found[0], other(inputs[0]), atol=1e-6)
        for parameter in other.parameters():
            parameter.mul_(2)
        assert torch.allclose(found[1], other(inputs[1]), atol=1e-6)
    after = dict(module.named_parameters(remove_duplicate=False))
    assert set(after) == set(before)
    assert all(after[name] is before[name] for name in before)


class Counting(nn.Module):
    """Keeps a state in any mode: one buffer is changed, the other replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.body(inputs)
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * found.detach().mean(0)
        return found


def normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3))


def instances() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 2, 3), nn.InstanceNorm1d(2, affine=True, track_running_stats=True), nn.Flatten())


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.EmbeddingBag(9, 6), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.words(inputs))
        return found


class Text(nn.Module):
    """Words, of which number 2 is none."""

    def __init__(self, **more: bool) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 6, padding_idx=2, **more), nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.words(inputs).mean(1))
        return found


class Squares(nn.Flatten):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).square()


def rebound() -> nn.Module:
    """A layer whose forward pass is another one than its class has."""
    made = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    first = made[0]
    first.forward = lambda inputs: functional.linear(inputs, first.weight, first.bias).relu()  # type: ignore[method-assign]
    return made


STATES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "buffers": (Counting, torch.randn(3, 5, 4, generator=seeded())),
    "spectral norm": (normed, torch.randn(3, 5, 4, generator=seeded())),
    "instance norm": (instances, torch.randn(3, 5, 1, 6, generator=seeded())),
    "bag": (Bag, torch.randint(0, 9, (3, 5, 4), generator=seeded())),
    "bag in a row": (lambda: nn.Sequential(nn.EmbeddingBag(9, 6), nn.Linear(6, 3)), torch.randint(0, 9, (3, 5, 4))),
    "padding": (Text, torch.randint(0, 9, (3, 5, 4), generator=seeded())),
    "padding in a row": (
        lambda: nn.Sequential(nn.Embedding(9, 6, padding_idx=-7), nn.Linear(6, 3)),
        torch.randint(0, 9, (3, 5, 4), generator=seeded()),
    ),
    "by frequency": (lambda: Text(scale_grad_by_freq=True), torch.randint(0, 9, (3, 5, 4), generator=seeded())),
    "another forward": (rebound, torch.randn(3, 5, 4, generator=seeded())),
    "flat and more": (lambda: nn.Sequential(Squares(), nn.Linear(4, 3)), torch.randn(3, 5, 2, 2, generator=seeded())),
    "looks at values": (lambda: nn.Sequential(nn.Linear(4, 4), Recurrent()), torch.randn(3, 5, 4, generator=seeded())),
    "recurrent": (lambda: nn.RNN(4, 3, batch_first=True), torch.randn(3, 5, 2, 4, generator=seeded())),
}


@pytest.mark.parametrize("name", STATES)
def test_auto_takes_a_path_that_is_right(name: str) -> None:
    """Outputs and gradients of one after the other; finding the path leaves no trace in buffers or random numbers."""
    make, inputs = STATES[name]
    found = []
    for path in ("auto", "loop"):
        torch.manual_seed(0)
        module = make()
        own = {n: p.detach().repeat(3, *(1,) * p.ndim).requires_grad_() for n, p in module.named_parameters()}
        net = Batched(module, path)
        buffers, state = {n: b.clone() for n, b in module.named_buffers()}, torch.random.get_rng_state()
        net.path(own, inputs)
        assert all(torch.equal(b, buffers[n]) for n, b in module.named_buffers())
        assert torch.equal(state, torch.random.get_rng_state())
        outputs = net(own, inputs)
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), list(own.values()))])
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-5)


def test_which_modules_treat_each_sample_by_itself() -> None:
    row = [nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Dropout(0.1), nn.Sequential(nn.Linear(4, 4), nn.Flatten())]
    assert Batched(nn.Sequential(*row)).separate
    assert Batched(nn.Sequential(*row), "loop").separate
    for other in (nn.BatchNorm1d(4), Residual(), nn.Flatten(0), nn.Softmax(0)):
        assert not Batched(nn.Sequential(*row, other)).separate
    hooked = nn.Sequential(*row)
    hooked[2].register_forward_hook(lambda module, given, made: made - made.mean(0))
    assert not Batched(hooked).separate
    assert not Batched(Residual()).separate


def test_a_shared_embedding_counts_each_tasks_words() -> None:
    """Gradients by frequency are those of one task after the other, though all learn the same rows."""
    inputs = torch.randint(0, 9, (3, 5, 4), generator=seeded())
    found = []
    for path in ("auto", "loop"):
        torch.manual_seed(0)
        module = Text(scale_grad_by_freq=True)
        own = {n: p.detach().repeat(3, *(1,) * p.ndim) for n, p in module.head.named_parameters(prefix="head")}
        Batched(module, path)(own, inputs).square().sum().backward()
        found.append(module.words.weight.grad)
    torch.testing.assert_close(*found)
    assert not found[0][2].any()  # type: ignore[index]
