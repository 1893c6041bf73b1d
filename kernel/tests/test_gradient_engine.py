"""The gradient engine against one naive backward pass per task, in double precision."""

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from crosstask.errors import OptionError, RunError
from crosstask.learning.gradients import (
    ConflictMonitor,
    MatrixGradients,
    Mode,
    TaskGradients,
    conflict_metrics,
    gradients_of,
    shared_leaves,
)
from crosstask.options import component
from crosstask.points.balancer import Balancer, Direction

MODES = ("auto", "layers", "matrix", "batched")


def naive(losses: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
    rows = []
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g.to_dense()).flatten()
                    for p, g in zip(parameters, found, strict=True)
                ]
            )
        )
    return torch.stack(rows)


def check_engine(losses: Sequence[Tensor], shared: Sequence[nn.Parameter], modes: Sequence[str] = MODES) -> None:
    """Everything that can be asked, in every order that matters, equals the naive matrix's answer."""
    expected = naive(losses, shared)
    tasks, size = expected.shape
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(size, generator=generator, dtype=expected.dtype)
    weights = torch.randn(tasks, generator=generator, dtype=expected.dtype)
    for mode in modes:
        for first in ("gramian", "dot", "matrix", "assemble"):
            gradients = gradients_of(losses, shared, mode=mode)
            getattr(gradients, first) if first in ("gramian", "matrix") else None
            torch.testing.assert_close(gradients.dot(vector), expected @ vector)
            torch.testing.assert_close(gradients.assemble(weights, vector), weights @ expected + vector)
            torch.testing.assert_close(gradients.assemble(weights, None), weights @ expected)
            torch.testing.assert_close(gradients.gramian, expected @ expected.T)
            torch.testing.assert_close(gradients.matrix, expected)
            torch.testing.assert_close(gradients.gramian, expected @ expected.T)
            torch.testing.assert_close(gradients.dot(vector), expected @ vector)


@component
class Asking(Balancer):
    """Weights 1, 2, 3, … after asking for what the test names."""

    asks: str = "nothing"
    pull: float = 0.0

    def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor | Direction:
        if self.asks != "nothing":
            getattr(gradients, self.asks)
        weights = torch.arange(1.0, len(losses) + 1).to(losses)
        if not self.pull:
            return weights
        total = gradients.assemble(torch.ones_like(weights), None)
        return Direction(weights=weights, vector=self.pull * total)


class Weighing(Asking):
    weighs_losses = True


def double_trunk(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).double()


def heads_of(width: int, tasks: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width, 1 + t % 3) for t in range(tasks)).double()


def losses_on(features: Tensor, heads: nn.ModuleList) -> list[Tensor]:
    return [(head(features) ** 2).mean() * (1 + number) for number, head in enumerate(heads)]


# --- Random graphs


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), tasks=st.integers(1, 5), data=st.data())
def test_random_graphs(seed: int, tasks: int, data: st.DataObject) -> None:
    """Layers in random order, reused, of three dimensions, with tied, partial and task-wise use."""
    torch.manual_seed(seed)
    draw = data.draw
    width, batch = draw(st.integers(2, 5)), draw(st.integers(1, 6))
    pool = nn.ModuleList(
        [
            nn.Linear(width, width),
            nn.Linear(width, width, bias=False),
            nn.LayerNorm(width),
            nn.Linear(width, width),
        ]
    ).double()
    gain = nn.Parameter(torch.randn(width, dtype=torch.double))
    parameters = [*pool.parameters(), gain]

    def run(x: Tensor) -> Tensor:
        for step in draw(st.lists(st.integers(0, 8), min_size=1, max_size=5)):
            if step < 4:
                x = pool[step](x).tanh()
            elif step == 4:
                x = x * gain
            elif step == 5:
                x = x @ pool[0].weight  # the same weight, not transposed
            elif step == 6:
                x = nn.functional.linear(x, pool[1].weight, pool[0].bias)  # another layer's bias
            elif step == 7:
                x = x + pool[3](x).relu()
            else:
                x = torch.addmm(gain, x.reshape(-1, width), pool[3].weight.T, alpha=2.0).view_as(x)
        return x

    shape = (batch, draw(st.integers(1, 3)), width) if draw(st.booleans()) else (batch, width)
    common = run(torch.randn(shape, dtype=torch.double))
    losses = []
    for _ in range(tasks):
        own = torch.randn(shape, dtype=torch.double)
        kind = draw(st.integers(0, 2))
        out = common if kind == 0 else run(own) if kind == 1 else run(common)
        losses.append((out * torch.randn(width, dtype=torch.double)).sin().sum() + 0 * gain.sum())
    check_engine(losses, parameters, ("auto", "layers", "matrix"))
    for asks in ("nothing", "gramian", "matrix"):
        for p in parameters:
            p.grad = torch.ones_like(p)
        Asking(asks=asks).backward(losses, parameters, retain_graph=True)
        update = torch.arange(1.0, tasks + 1).double() @ naive(losses, parameters)
        torch.testing.assert_close(torch.cat([p.grad.flatten() for p in parameters]), update + 1)


# --- Architectures that people train


def mlp() -> tuple[list[Tensor], list[nn.Parameter]]:
    trunk = double_trunk(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.Tanh())
    return losses_on(trunk(torch.randn(4, 6).double()), heads_of(5, 11)), list(trunk.parameters())


def convolution_with_batch_norm_and_dropout() -> tuple[list[Tensor], list[nn.Parameter]]:
    trunk = double_trunk(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 5)
    )
    return losses_on(trunk(torch.randn(3, 2, 4, 4).double()), heads_of(5, 4)), list(trunk.parameters())


def transformer() -> tuple[list[Tensor], list[nn.Parameter]]:
    trunk = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double()
    return losses_on(trunk(torch.randn(3, 5, 8).double()).mean(1), heads_of(8, 3)), list(trunk.parameters())


def recurrent() -> tuple[list[Tensor], list[nn.Parameter]]:
    """Complex control flow: one cell, used as often as the data says, and heads that leave the loop early."""
    cell = double_trunk(nn.Linear(5, 5), nn.Tanh())
    state, losses = torch.randn(2, 5).double(), []
    for step in range(6):
        if state.norm() > 0.1 * step:
            state = cell(state)
        if step % 2:
            losses.append((state**2).sum() * (1 + step))
    return losses, list(cell.parameters())


def tied_embedding() -> tuple[list[Tensor], list[nn.Parameter]]:
    """The output layer is the embedding."""
    embedding, layer = nn.Embedding(7, 4).double(), nn.Linear(4, 4).double()
    hidden = layer(embedding(torch.tensor([[0, 1, 1], [2, 5, 6]])))
    logits = hidden @ embedding.weight.T
    again = nn.functional.linear(hidden, embedding.weight)
    losses = [logits[..., :4].logsumexp(-1).sum(), (hidden**2).sum(), again.cos().sum()]
    return losses, [embedding.weight, *layer.parameters()]


def tied_layers() -> tuple[list[Tensor], list[nn.Parameter]]:
    one, two = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    two.weight = one.weight
    hidden = two(one(torch.randn(3, 4).double()).relu())
    return losses_on(hidden, heads_of(4, 3)), [one.weight, one.bias, two.bias]


def own_batches() -> tuple[list[Tensor], list[nn.Parameter]]:
    """Each task's batch goes through the trunk by itself, and they differ in length."""
    trunk = double_trunk(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 3))
    heads = heads_of(3, 4)
    return [losses_on(trunk(torch.randn(2 + n, 4).double()), heads)[n] for n in range(4)], list(trunk.parameters())


def split_batches() -> tuple[list[Tensor], list[nn.Parameter]]:
    """All batches go through the trunk together and part below the heads."""
    trunk = double_trunk(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
    heads = heads_of(6, 3)
    parts = trunk(torch.randn(9, 4).double()).split([2, 3, 4])
    return [losses_on(part, heads)[n] for n, part in enumerate(parts)], list(trunk.parameters())


def partial_reach() -> tuple[list[Tensor], list[nn.Parameter]]:
    """Tasks that leave the trunk half way, one that reaches a part of it, one that reaches nothing shared."""
    one, two = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    alone = nn.Parameter(torch.randn(3).double())
    hidden = one(torch.randn(5, 4).double()).tanh()
    losses = [two(hidden).pow(2).sum(), hidden.sum(), two(torch.randn(2, 4).double()).cos().sum(), alone.exp().sum()]
    return losses, [*one.parameters(), *two.parameters()]


def checkpointed() -> tuple[list[Tensor], list[nn.Parameter]]:
    trunk = double_trunk(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    features = checkpoint(trunk, torch.randn(3, 4).double(), use_reentrant=False)
    return losses_on(features, heads_of(4, 3)), list(trunk.parameters())


def weight_normed() -> tuple[list[Tensor], list[nn.Parameter]]:
    trunk = double_trunk(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 4))
    return losses_on(trunk(torch.randn(3, 4).double()), heads_of(4, 3)), list(trunk.parameters())


def hooked() -> tuple[list[Tensor], list[nn.Parameter]]:
    """A hook on a weight changes its gradient, as pruning does."""
    trunk = double_trunk(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
    trunk[0].weight.register_hook(lambda gradient: gradient * 0.5)
    return losses_on(trunk(torch.randn(3, 4).double()), heads_of(4, 3)), list(trunk.parameters())


def frozen_parts() -> tuple[list[Tensor], list[nn.Parameter]]:
    trunk = double_trunk(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4))
    trunk[2].requires_grad_(False)
    trunk[4].bias.requires_grad_(False)
    losses = losses_on(trunk(torch.randn(3, 4).double()), heads_of(4, 3))
    return losses, [p for p in trunk.parameters() if p.requires_grad]


def low_rank(scale: float, frozen: bool = True) -> tuple[list[Tensor], list[nn.Parameter]]:
    """Layers with low-rank adapters that add to what the layer gave in place: nodes that look like a plain layer's."""
    trunk = double_trunk(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 6)).requires_grad_(not frozen)
    factors = []
    for layer in (trunk[0], trunk[2]):
        down = nn.Parameter(torch.randn(2, layer.in_features).double())
        up = nn.Parameter(torch.randn(layer.out_features, 2).double())
        factors += [down, up]

        def add(_: nn.Module, args: tuple[Tensor], out: Tensor, down: Tensor = down, up: Tensor = up) -> Tensor:
            return out.addmm_(torch.mm(down, args[0].t()).t(), up.t(), alpha=scale)

        layer.register_forward_hook(add)
    losses = losses_on(trunk(torch.randn(5, 4).double()), heads_of(6, 3))
    return losses, [*factors, *(p for p in trunk.parameters() if p.requires_grad)]


def low_rank_of_its_own_size() -> tuple[list[Tensor], list[nn.Parameter]]:
    return low_rank(1.0)


def low_rank_and_scaled() -> tuple[list[Tensor], list[nn.Parameter]]:
    return low_rank(2.0)


def low_rank_on_layers_that_are_trained_too() -> tuple[list[Tensor], list[nn.Parameter]]:
    return low_rank(1.0, frozen=False)


def changed_weights() -> tuple[list[Tensor], list[nn.Parameter]]:
    """Adapters whose layers read a changed weight and bias: W + B A, and a shift of b; one whose weight is scaled."""
    layer, other = nn.Linear(4, 6).double().requires_grad_(False), nn.Linear(6, 6).double().requires_grad_(False)
    up, down, shift, gain = (nn.Parameter(torch.randn(shape).double()) for shape in ((6, 2), (2, 4), 6, 6))
    weight = torch.addmm(layer.weight, up, down, alpha=0.5)
    hidden = nn.functional.linear(torch.randn(5, 4).double(), weight, layer.bias + shift).relu()
    features = nn.functional.linear(hidden, other.weight * gain[:, None], shift)
    return losses_on(features, heads_of(6, 3)), [up, down, shift, gain]


def a_weight_of_its_own() -> tuple[list[Tensor], list[nn.Parameter]]:
    """An adapter that puts its own weights in the layer's place, whose bias stays frozen."""
    layer, own = nn.Linear(4, 30).double().requires_grad_(False), nn.Parameter(torch.randn(30, 4).double())
    features = nn.functional.linear(torch.randn(3, 4).double(), own, layer.bias).relu()
    return losses_on(features, heads_of(30, 3)), [own]


ARCHITECTURES = [
    mlp,
    convolution_with_batch_norm_and_dropout,
    transformer,
    recurrent,
    tied_embedding,
    tied_layers,
    own_batches,
    split_batches,
    partial_reach,
    checkpointed,
    weight_normed,
    hooked,
    frozen_parts,
    low_rank_of_its_own_size,
    low_rank_and_scaled,
    low_rank_on_layers_that_are_trained_too,
    changed_weights,
    a_weight_of_its_own,
]


@pytest.mark.parametrize("build", ARCHITECTURES)
def test_architectures(build: Callable[[], tuple[list[Tensor], list[nn.Parameter]]]) -> None:
    torch.manual_seed(0)
    losses, shared = build()
    modes = [m for m in MODES if m != "batched" or build not in (transformer, checkpointed)]
    check_engine(losses, shared, modes)


@pytest.mark.parametrize("build", ARCHITECTURES)
@pytest.mark.parametrize("asks", ["nothing", "gramian", "matrix"])
@pytest.mark.parametrize("kind", [Asking, Weighing])
def test_everything_gets_its_gradient(build: Callable[..., object], asks: str, kind: type[Asking]) -> None:
    """Twice (gradients accumulate), without naming the shared parameters; heads get what the contract says."""
    torch.manual_seed(0)
    losses, _ = build()
    shared, specific = shared_leaves(losses)
    weights = torch.arange(1.0, len(losses) + 1).double()
    on_shared = 2 * weights @ naive(losses, shared)
    own = weights if kind is Weighing else torch.ones_like(weights)
    on_specific = 2 * own @ naive(losses, specific) if specific else None
    for _ in range(2):
        returned = kind(asks=asks).backward(losses, retain_graph=True)
    torch.testing.assert_close(returned, weights)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in shared]), on_shared)
    if specific:
        torch.testing.assert_close(torch.cat([p.grad.flatten() for p in specific]), on_specific)


def test_a_compiled_trunk() -> None:
    """One node of the graph is then all there is to see; how it was compiled (here: not to machine code) is alike."""
    torch.manual_seed(0)
    trunk = double_trunk(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 3))
    features = torch.compile(trunk, backend="aot_eager")(torch.randn(5, 4).double())
    check_engine(losses_on(features, heads_of(3, 3)), list(trunk.parameters()), ("auto", "layers", "matrix"))


def test_a_loop_of_three_lines_trains_heads_too() -> None:
    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 3), heads_of(3, 2).float()
    losses = losses_on(trunk(torch.randn(5, 4)), heads)
    Asking(asks="gramian").backward(losses, shared=trunk.parameters())
    assert all(p.grad is not None for p in [*trunk.parameters(), *heads.parameters()])


def hooked(parameters: Sequence[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """What hooks of these parameters see: filled by them."""
    seen: list[tuple[nn.Parameter, Tensor]] = []

    def note(parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        assert not torch.is_grad_enabled()
        assert parameter.grad is not None
        seen.append((parameter, parameter.grad.to_dense().clone()))

    for parameter in parameters:
        parameter.register_post_accumulate_grad_hook(note)
    return seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asks", ["nothing", "gramian", "matrix"])
@pytest.mark.parametrize("kind", [Asking, Weighing])
def test_hooks_are_called_once_when_the_gradient_is_there(mode: Mode, asks: str, kind: type[Asking]) -> None:
    torch.manual_seed(0)
    trunk = double_trunk(nn.Linear(4, 40), nn.LayerNorm(40), nn.ReLU(), nn.Linear(40, 3))
    heads, unused = heads_of(3, 2), nn.Linear(2, 2)
    everyone = [*trunk.parameters(), *heads.parameters()]
    seen = hooked([*everyone, *unused.parameters()])
    for turn in (1, 2):  # gradients accumulate: the hook sees the sum
        seen.clear()
        kind(asks=asks).backward(losses_on(trunk(torch.ones(5, 4).double()), heads), mode=mode)
        assert len(seen) == len(everyone)
        found = dict(seen)
        for parameter in everyone:
            assert torch.equal(found[parameter], parameter.grad), turn


@pytest.mark.parametrize("pull", [0.0, 0.5])
def test_hooks_with_features_and_directions(pull: float) -> None:
    torch.manual_seed(0)
    trunk, heads = double_trunk(nn.Linear(4, 3)), heads_of(3, 2)
    everyone = [*trunk.parameters(), *heads.parameters()]
    for features in (True, False):
        seen = hooked(everyone)
        Asking(asks="gramian", pull=pull).backward(
            losses_on(trunk(torch.ones(5, 4).double()), heads), features=features
        )
        assert sorted(map(id, dict(seen))) == sorted(map(id, everyone))
        assert len(seen) == len(everyone)
        assert all(torch.equal(gradient, parameter.grad) for parameter, gradient in seen)


def test_hooks_with_sparse_gradients() -> None:
    table, heads = nn.Embedding(9, 3, sparse=True).double(), heads_of(3, 2)
    for _ in range(2):
        seen = hooked(list(table.parameters()))
        Asking(asks="gramian").backward(losses_on(table(torch.tensor([1, 4, 4])), heads))
        ((parameter, gradient),) = seen
        assert torch.equal(gradient, parameter.grad.to_dense())
        table.weight._post_accumulate_grad_hooks.clear()  # type: ignore[union-attr]


@pytest.mark.parametrize("asks", ["nothing", "gramian", "matrix"])
@pytest.mark.parametrize("features", [True, False])
def test_an_optimiser_step_in_the_hooks_is_that_after_the_pass(asks: str, features: bool) -> None:
    """The known way to save memory: each parameter is updated, and its gradient freed, as soon as that is there."""

    def learned(in_hooks: bool) -> list[Tensor]:
        torch.manual_seed(0)
        trunk, heads = double_trunk(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 3)), heads_of(3, 2)
        everyone = [*trunk.parameters(), *heads.parameters()]
        own = {p: torch.optim.Adam([p], lr=0.1) for p in everyone}

        def update(parameter: Tensor) -> None:
            own[parameter].step()  # type: ignore[index]
            own[parameter].zero_grad()  # type: ignore[index]

        if in_hooks:
            for parameter in everyone:
                parameter.register_post_accumulate_grad_hook(update)
        for step in range(3):
            losses = losses_on(trunk(torch.linspace(-1, 1, 20).view(5, 4).double() + step), heads)
            Asking(asks=asks).backward(losses, features=features)
            if not in_hooks:
                for parameter in everyone:
                    update(parameter)
        return [p.detach() for p in everyone]

    for found, expected in zip(learned(True), learned(False), strict=True):
        assert torch.equal(found, expected)


def test_a_hook_may_remove_itself() -> None:
    trunk, heads = double_trunk(nn.Linear(4, 3)), heads_of(3, 2)
    handles: list[RemovableHandle] = []
    calls: list[int] = []

    def once(_: Tensor) -> None:
        calls.append(1)
        handles[0].remove()

    handles.append(trunk[0].weight.register_post_accumulate_grad_hook(once))
    trunk[0].weight.register_post_accumulate_grad_hook(lambda _: calls.append(2))
    for _ in range(2):
        Asking(asks="gramian").backward(losses_on(trunk(torch.ones(5, 4).double()), heads))
    assert calls == [1, 2, 2]


def test_task_specific_parameters_can_be_left_out() -> None:
    trunk, heads = nn.Linear(4, 3), heads_of(3, 2).float()
    Asking().backward(losses_on(trunk(torch.randn(5, 4)), heads), trunk.parameters(), [])
    assert all(p.grad is None for p in heads.parameters())


def test_weights_of_zero_leave_the_heads_their_gradient() -> None:
    @component
    class Zero(Balancer):
        def balance(self, losses: Tensor, gradients: TaskGradients) -> Tensor:
            return torch.tensor([0.0, 1e-9, -2.0]).to(losses)

    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 3).double(), heads_of(3, 3)
    losses = losses_on(trunk(torch.randn(5, 4).double()), heads)
    expected = torch.autograd.grad(sum(losses), list(heads.parameters()), retain_graph=True)
    Zero().backward(losses, trunk.parameters())
    for parameter, gradient in zip(heads.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("asks", ["nothing", "gramian"])
def test_a_direction(asks: str) -> None:
    torch.manual_seed(0)
    losses, shared = mlp()
    expected = (torch.arange(1.0, 12).double() + 0.5) @ naive(losses, shared)
    Asking(asks=asks, pull=0.5).backward(losses, shared)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in shared]), expected)


def test_a_direction_from_losses_alone_takes_no_pass_over_the_trunk() -> None:
    @component
    class Blind(Balancer):
        def balance(self, losses: Tensor, gradients: TaskGradients) -> Direction:
            return Direction(vector=torch.ones(15))

    trunk, heads = nn.Linear(4, 3), heads_of(3, 2).float()
    losses = losses_on(trunk(torch.randn(5, 4)), heads)
    expected = torch.autograd.grad(sum(losses), list(heads.parameters()), retain_graph=True)
    assert torch.equal(Blind().backward(losses, trunk.parameters()), torch.ones(2))
    assert all(bool((p.grad == 1).all()) for p in trunk.parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(heads.parameters(), expected, strict=True))


# --- Which way is taken


def wide(tasks: int = 8, batch: int = 16) -> tuple[list[Tensor], list[nn.Parameter]]:
    trunk = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128))
    features = trunk(torch.randn(batch, 128))
    return [(features * torch.randn(128)).sin().sum() for _ in range(tasks)], list(trunk.parameters())


def test_wide_layers_are_not_formed_and_narrow_ones_are() -> None:
    losses, shared = wide()
    gradients = gradients_of(losses, shared)
    assert gradients.chosen == "nothing yet"
    _ = gradients.gramian
    assert "2 linear layers unformed, 0 of" in gradients.chosen
    losses, shared = wide(batch=2000)
    gradients = gradients_of(losses, shared)
    _ = gradients.gramian
    assert "0 linear layers unformed" in gradients.chosen


def test_loss_weighting_is_one_backward_pass() -> None:
    losses, shared = wide()
    passes = []
    shared[0].register_hook(lambda g: passes.append(1))
    balancer = Asking()
    balancer.backward(losses, shared)
    assert len(passes) == 1
    assert balancer.last is not None
    assert balancer.last.chosen == "one backward pass over the weighted losses"
    assert balancer.last.conflicts == {}


def test_batched_passes_in_chunks_are_bounded_by_memory() -> None:
    torch.manual_seed(0)
    losses, shared = mlp()
    expected = naive(losses, shared)
    for memory in (1, 5000, None):
        torch.testing.assert_close(gradients_of(losses, shared, mode="batched", memory=memory).matrix, expected)


def test_the_graph_is_freed_unless_it_is_to_be_kept() -> None:
    losses, shared = wide()
    Asking(asks="gramian").backward(losses, shared, retain_graph=True)
    Asking(asks="gramian").backward(losses, shared)
    with pytest.raises(RunError, match="retain_graph"):
        Asking(asks="gramian").backward(losses, shared)


def test_inner_products_of_long_rows() -> None:
    matrix = torch.randn(3, 200_001, dtype=torch.double)
    torch.testing.assert_close(MatrixGradients(matrix).gramian, matrix @ matrix.T)


# --- Features


def test_gradients_on_features() -> None:
    torch.manual_seed(0)
    trunk, heads = double_trunk(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), heads_of(3, 4)
    features = trunk(torch.randn(5, 4).double())
    losses = losses_on(features, heads)
    rows = torch.stack([torch.autograd.grad(x, features, retain_graph=True)[0].flatten() for x in losses])
    gradients = gradients_of(losses, trunk.parameters(), features=features)
    torch.testing.assert_close(gradients.gramian, rows @ rows.T)
    torch.testing.assert_close(gradients.matrix, rows)
    torch.testing.assert_close(gradients.dot(rows[1]), rows @ rows[1])
    expected = torch.arange(1.0, 5).double() @ naive(losses, list(trunk.parameters()))
    on_heads = torch.autograd.grad(sum(losses), list(heads.parameters()), retain_graph=True)
    for given_features in (features, [features], True):
        for parameter in [*trunk.parameters(), *heads.parameters()]:
            parameter.grad = None
        balancer = Asking(asks="gramian")
        balancer.backward(losses, trunk.parameters(), features=given_features, retain_graph=True)
        torch.testing.assert_close(torch.cat([p.grad.flatten() for p in trunk.parameters()]), expected)
        for parameter, gradient in zip(heads.parameters(), on_heads, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        assert balancer.last is not None
        assert "15 shared features" in balancer.last.chosen


def test_a_direction_on_features_from_losses_alone() -> None:
    @component
    class Blind(Balancer):
        def balance(self, losses: Tensor, gradients: TaskGradients) -> Direction:
            return Direction(vector=torch.ones(15).double())

    trunk, heads = double_trunk(nn.Linear(4, 3)), heads_of(3, 2)
    features = trunk(torch.randn(5, 4).double())
    expected = torch.autograd.grad(features.sum(), list(trunk.parameters()), retain_graph=True)
    Blind().backward(losses_on(features, heads), trunk.parameters(), features=features)
    for parameter, gradient in zip(trunk.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert all(p.grad is not None for p in heads.parameters())


def test_loss_weighting_reads_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, shared = wide()
    monkeypatch.setattr("crosstask.learning.gradients.engine.Graph", None)
    Weighing().backward(losses, shared)
    assert all(p.grad is not None for p in shared)


def test_features_are_found_where_batches_part() -> None:
    losses, shared = split_batches()
    gradients = gradients_of(losses, shared, features=True)
    assert gradients.matrix.shape == (3, 9 * 6)
    off = gradients.gramian - gradients.gramian.diagonal().diag()
    assert float(off.abs().max()) == 0.0  # other samples: nothing in common


def test_features_used_twice_by_a_task_and_by_two_tasks_together() -> None:
    torch.manual_seed(0)
    trunk = double_trunk(nn.Linear(4, 6), nn.Tanh())
    features = trunk(torch.randn(5, 4).double())
    own = [(features * features).sum(), (features.sin() + features.relu()).sum(), features[:2].sum()]
    joint = features.exp()
    for losses, passes in ((own, "one backward pass"), ([*own, joint.sum(), joint.pow(2).sum()], "5 backward")):
        rows = torch.stack([torch.autograd.grad(x, features, retain_graph=True)[0].flatten() for x in losses])
        gradients = gradients_of(losses, trunk.parameters(), features=features)
        torch.testing.assert_close(gradients.matrix, rows)
        assert passes in gradients.chosen


def test_a_hook_on_the_features_counts_once() -> None:
    trunk = double_trunk(nn.Linear(4, 6), nn.Tanh())
    features = trunk(torch.randn(5, 4).double())
    features.register_hook(lambda gradient: 3 * gradient)
    losses = [features.sum(), features.pow(2).sum()]
    expected = torch.tensor([1.0, 2.0]).double() @ naive(losses, list(trunk.parameters()))
    Asking(asks="gramian").backward(losses, trunk.parameters(), features=features, retain_graph=True)
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in trunk.parameters()]), expected)
    joint = features.exp()
    with pytest.raises(RunError, match="applied twice"):
        Asking(asks="gramian").backward([joint.sum(), joint.pow(2).sum()], trunk.parameters(), features=features)


def test_features_that_do_not_carry_everything_are_refused() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    hidden = one(torch.randn(3, 4))
    features = two(hidden)
    losses = [features.sum(), (features + hidden).pow(2).sum()]
    shared = [*one.parameters(), *two.parameters()]
    with pytest.raises(RunError, match="past the features"):
        _ = gradients_of(losses, shared, features=features).gramian
    with pytest.raises(RunError, match="no single tensor"):
        _ = gradients_of(losses, shared, features=True).gramian
    with pytest.raises(RunError, match="with a graph"):
        _ = gradients_of(losses, shared, features=torch.ones(3)).gramian


# --- Types, sparse gradients, mixed precision


@pytest.mark.parametrize("asks", ["nothing", "gramian", "matrix"])
def test_sparse_embeddings_keep_sparse_gradients(asks: str) -> None:
    torch.manual_seed(0)
    embedding, layer = nn.Embedding(50, 4, sparse=True).double(), nn.Linear(4, 4).double()
    shared = [embedding.weight, *layer.parameters()]
    optimizer = torch.optim.SparseAdam([embedding.weight])
    for _ in range(2):
        hidden = layer(embedding(torch.tensor([3, 7, 7, 49])).relu())
        losses = losses_on(hidden, heads_of(4, 3))
        expected = torch.tensor([1.0, 2.0, 3.0]).double() @ naive(losses, shared)
        for parameter in shared:
            parameter.grad = None
        Asking(asks=asks).backward(losses, shared)
        assert embedding.weight.grad.is_sparse
        torch.testing.assert_close(torch.cat([p.grad.to_dense().flatten() for p in shared]), expected)
        optimizer.step()
    losses = losses_on(layer(embedding(torch.tensor([1]))), heads_of(4, 3))
    Asking(asks=asks).backward(losses, shared)
    assert sorted(embedding.weight.grad.coalesce().indices()[0].tolist()) == [1, 3, 7, 49]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("asks", ["nothing", "gramian", "matrix"])
def test_low_precision_parameters(dtype: torch.dtype, asks: str) -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)).to(dtype)
    twin = copy.deepcopy(trunk).double()
    inputs, directions = torch.randn(5, 6).to(dtype), torch.randn(3, 4).to(dtype)
    losses = [(trunk(inputs) * d).float().sum() for d in directions]
    exact = [(twin(inputs.double()) * d.double()).sum() for d in directions]
    expected = torch.tensor([1.0, 2.0, 3.0]).double() @ naive(exact, list(twin.parameters()))
    Asking(asks=asks).backward(losses, trunk.parameters())
    found = torch.cat([p.grad.flatten() for p in trunk.parameters()])
    assert found.dtype == dtype
    assert float((found.double() - expected).norm() / expected.norm()) < 0.02
    assert gradients_of([(trunk(inputs)).float().sum()], trunk.parameters()).gramian.dtype == torch.float32


def test_parameters_of_several_types() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4).double()
    hidden = two(one(torch.randn(3, 4)).double())
    losses = [hidden.sum(), hidden.pow(2).sum()]
    Asking(asks="gramian").backward(losses, [*one.parameters(), *two.parameters()])
    assert [p.grad.dtype for p in (one.weight, two.weight)] == [torch.float32, torch.float64]


@pytest.mark.parametrize("asks", ["nothing", "gramian", "matrix"])
def test_autocast_and_scaler(asks: str) -> None:
    """bfloat16 activations, float32 parameters, scaled losses: the same step as in float32 but for rounding."""
    torch.manual_seed(0)
    trunk, heads = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 4)), heads_of(4, 3).float()
    twin = copy.deepcopy(nn.ModuleList([trunk, heads])).double()
    inputs = torch.randn(5, 6)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [x.float() for x in losses_on(trunk(inputs), heads)]
    balancer = Asking(asks=asks)
    balancer.backward(losses, trunk.parameters(), scaler=scaler)
    scaler.unscale_(optimizer)
    exact = losses_on(twin[0](inputs.double()), twin[1])
    expected = torch.tensor([1.0, 2.0, 3.0]).double() @ naive(exact, list(twin[0].parameters()))
    found = torch.cat([p.grad.flatten() for p in trunk.parameters()]).double()
    assert float((found - expected).norm() / expected.norm()) < 0.03
    on_heads = torch.autograd.grad(sum(exact), list(twin[1].parameters()))
    for parameter, gradient in zip(heads.parameters(), on_heads, strict=True):
        assert float((parameter.grad - gradient).norm() / gradient.norm()) < 0.03
    if asks == "gramian":
        assert balancer.last is not None
        rows = naive(losses_on(twin[0](inputs.double()), twin[1]), list(twin[0].parameters()))
        assert float((balancer.last.gramian - rows @ rows.T).norm() / (rows @ rows.T).norm()) < 0.05
    before = trunk[0].weight.clone()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, trunk[0].weight)


@pytest.mark.parametrize("asks", ["nothing", "gramian", "matrix"])
def test_the_scaler_skips_a_step_whose_gradients_overflow(asks: str) -> None:
    trunk = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 4))
    scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1)
    features = trunk(torch.randn(5, 6)) * 1e3
    Asking(asks=asks).backward([features.pow(2).sum(), features.sum()], trunk.parameters(), scaler=scaler)
    before = copy.deepcopy(trunk.state_dict())
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(before[name], value) for name, value in trunk.state_dict().items())
    assert scaler.get_scale() < 1e38


@pytest.mark.parametrize("asks", ["nothing", "gramian", "matrix"])
def test_losses_in_one_tensor(asks: str) -> None:
    torch.manual_seed(0)
    trunk, heads = double_trunk(nn.Linear(4, 3), nn.Tanh()), heads_of(3, 3)
    losses = losses_on(trunk(torch.randn(5, 4).double()), heads)
    on_heads = torch.autograd.grad(sum(losses), list(heads.parameters()), retain_graph=True)
    expected = torch.tensor([1.0, 2.0, 3.0]).double() @ naive(losses, list(trunk.parameters()))
    stacked = torch.stack(losses)
    with pytest.raises(RunError, match="stacked into one tensor"):
        Asking(asks=asks).backward(stacked)
    with pytest.raises(RunError, match="stacked into one tensor"):
        Asking(asks=asks).backward([stacked[0], stacked[1]])
    Asking(asks=asks).backward(stacked, trunk.parameters())
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in trunk.parameters()]), expected)
    for parameter, gradient in zip(heads.parameters(), on_heads, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


# --- Errors


def test_what_cannot_be_balanced_is_said() -> None:
    layer = nn.Linear(3, 2)
    out = layer(torch.randn(4, 3))
    balancer = Asking(asks="gramian")
    with pytest.raises(ValueError, match="no losses"):
        balancer.backward([], layer.parameters())
    with pytest.raises(ValueError, match="loss 1 must be a scalar"):
        balancer.backward([out.sum(), out], layer.parameters())
    with pytest.raises(RunError, match="loss 1 has no graph"):
        balancer.backward([out.sum(), torch.tensor(1.0)], layer.parameters())
    with pytest.raises(RunError, match="loss 1 is inf"):
        balancer.backward([out.sum(), out.sum() / 0], layer.parameters())
    with pytest.raises(RunError, match="gradient of loss 1 is not finite"):
        balancer.backward([out.sum(), (out * 0).sum().sqrt()], layer.parameters(), retain_graph=True)
    with pytest.raises(ValueError, match="no shared parameters"):
        balancer.backward([out.sum(), out.sum()], nn.Linear(3, 2).requires_grad_(False).parameters())
    with pytest.raises(ValueError, match="must be leaves"):
        balancer.backward([out.sum(), out.sum()], [out])
    with pytest.raises(ValueError, match="both shared and task-specific"):
        balancer.backward([out.sum(), out.sum()], layer.parameters(), [layer.weight])
    with pytest.raises(OptionError, match="did you mean 'layers'"):
        balancer.backward([out.sum()], layer.parameters(), mode="layer")
    phase = nn.Parameter(torch.ones(2, dtype=torch.cfloat))
    with pytest.raises(ValueError, match="complex"):
        balancer.backward([phase.abs().sum(), phase.real.sum()], [phase])
    trunk = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    features = checkpoint(trunk, torch.randn(2, 3, requires_grad=True), use_reentrant=True)
    with pytest.raises(RunError, match="use_reentrant=False"):
        balancer.backward([features.sum(), features.pow(2).sum()], trunk.parameters())


def test_changing_an_activation_in_place_is_an_error_not_a_wrong_gradient() -> None:
    layer = nn.Linear(3, 2)
    inputs = torch.randn(4, 3)
    out = layer(inputs)
    inputs.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Asking(asks="gramian").backward([out.sum(), out.pow(2).sum()], layer.parameters(), mode="layers")


# --- Conflicts


def test_conflict_metrics_by_hand() -> None:
    gradients = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    metrics = conflict_metrics(gradients @ gradients.T)
    assert metrics["mean_cosine"] == pytest.approx(-1 / 3)
    assert metrics["conflict_share"] == pytest.approx(1 / 3)
    assert metrics["magnitude_similarity"] == pytest.approx((0.8 + 1.0 + 0.8) / 3)
    nothing = conflict_metrics(torch.zeros(2, 2))
    assert nothing["conflict_share"] == 0.0
    assert all(math.isfinite(v) for v in nothing.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-16, 1.0, 1e16, 1e20, 1e30])
@pytest.mark.parametrize("features", [True, False])
def test_inner_products_beyond_single_precision(scale: float, mode: Mode, features: bool) -> None:
    """A finite gradient is not called infinite, nor a small one zero, because its square is."""
    torch.manual_seed(0)
    trunk, heads = nn.Sequential(nn.Linear(4, 40), nn.Tanh(), nn.Linear(40, 3)), heads_of(3, 3).float()
    losses = losses_on(trunk(torch.randn(5, 4)), heads)
    shared = list(trunk.parameters())
    rows = naive(losses, shared).double().numpy()
    scaled = [loss * scale for loss in losses]
    if features:
        found = gradients_of(scaled, shared, features=True, mode=mode).gramian
        expected = gradients_of(losses, shared, features=True, mode=mode).gramian.double().numpy()
    else:
        found, expected = gradients_of(scaled, shared, mode=mode).gramian, rows @ rows.T
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found.double().numpy() / scale / scale, expected, rtol=1e-4, atol=1e-6 * largest)
    assert scale != 1.0 or found.dtype == torch.float32
    direct = MatrixGradients(torch.tensor(rows * scale, dtype=torch.float32)).gramian
    np.testing.assert_allclose(direct.double().numpy() / scale / scale, rows @ rows.T, rtol=1e-4, atol=1e-6 * largest)


def test_gradients_that_are_zero_or_infinite_stay_so() -> None:
    for rows in (torch.zeros(2, 3), torch.tensor([[0.0, 0.0], [1.0, 2.0]])):
        gramian = MatrixGradients(rows).gramian
        assert gramian.dtype == torch.float32
        assert torch.equal(gramian, rows @ rows.T)
    trunk = nn.Linear(4, 3)
    out = trunk(torch.randn(5, 4))
    assert gradients_of([out.sum() * 0, out.sum()], list(trunk.parameters())).gramian.dtype == torch.float32
    with pytest.raises(RunError, match="loss 1 is not finite"):
        _ = gradients_of([out.sum(), (out - out.detach()).sum().sqrt()], list(trunk.parameters())).gramian


@pytest.mark.parametrize("scale", [1e-18, 1e-12, 1.0, 1e9, 1e18])
def test_conflict_metrics_of_gradients_far_from_one(scale: float) -> None:
    """Scales change no angle: products of squared lengths leave single precision, cosines do not."""
    matrix = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    found = conflict_metrics(MatrixGradients(matrix * scale).gramian)
    rows = matrix.double().numpy()
    lengths = np.linalg.norm(rows, axis=1)
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosines = [rows[i] @ rows[j] / lengths[i] / lengths[j] for i, j in pairs]
    similar = [2 * lengths[i] * lengths[j] / (lengths[i] ** 2 + lengths[j] ** 2) for i, j in pairs]
    assert found["mean_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert found["conflict_share"] == pytest.approx(np.mean(np.array(cosines) < 0))
    assert found["magnitude_similarity"] == pytest.approx(np.mean(similar), abs=1e-5)


def test_the_monitor_needs_no_balancer_and_leaves_the_graph() -> None:
    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 3), heads_of(3, 3).float()
    monitor = ConflictMonitor(every=2)
    for step in range(5):
        losses = losses_on(trunk(torch.randn(5, 4)), heads)
        rows = naive(losses, list(trunk.parameters()))
        found = monitor.measure(losses, trunk.parameters())
        assert (found is None) == bool(step % 2)
        if found is not None:
            assert found == pytest.approx(conflict_metrics(rows @ rows.T), abs=1e-5)
        sum(losses).backward()
    assert monitor.steps == [1, 3, 5]
    assert len(monitor.history["mean_cosine"]) == 3
    assert monitor.pairs.shape == (3, 3)
    torch.testing.assert_close(monitor.pairs.diagonal(), torch.ones(3))


def test_conflicts_cost_no_extra_pass() -> None:
    losses, shared = wide()
    expected = naive(losses, shared)
    balancer = Asking(asks="gramian")
    balancer.backward(losses, shared)
    assert balancer.last is not None
    assert balancer.last.conflicts == pytest.approx(conflict_metrics(expected @ expected.T), abs=1e-5)


def test_a_loss_that_is_not_finite_is_called_by_its_name() -> None:
    from crosstask.testing.references import ReferenceBalancer

    weight = torch.ones(2, requires_grad=True)
    losses = {"elbo": weight.sum(), "perceiver": weight.sum() * torch.nan}
    with pytest.raises(RunError, match="loss 'perceiver' is nan; gradients cannot be balanced"):
        ReferenceBalancer().backward(losses)
    with pytest.raises(RunError, match="loss 1 is nan"):
        ReferenceBalancer().backward(list(losses.values()))
    endless = {"elbo": weight.sum(), "perceiver": (weight - 1).abs().sqrt().sum()}  # finite, its gradient is not
    with pytest.raises(RunError, match="the gradient of loss 'perceiver' is not finite"):
        gradients_of(endless, [weight]).gramian  # noqa: B018 -- asked for, so that it is computed
