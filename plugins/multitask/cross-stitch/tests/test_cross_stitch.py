"""Cross-stitch: the paper's equation, where it starts, how fast it learns, another task."""

import copy

import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask.tasks import Task
from crosstask_cross_stitch import CrossStitch, StitchedNetworks


def task(name: str, outputs: int = 3, shape: tuple[int, ...] = (4,)) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs))


def trunk() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh())


def built(names: str = "ab", seed: int = 0, **options: object) -> StitchedNetworks:
    sharing = CrossStitch(**options)  # type: ignore[arg-type]
    sharing.bind(LocalContext(seed=seed))
    made = sharing.build([task(name) for name in names], trunk())
    assert isinstance(made, StitchedNetworks)
    return made


def alphas(module: StitchedNetworks) -> list[Tensor]:
    return [torch.stack([stitch.of(name)() for name in module.tasks]) for stitch in module.stitches]  # type: ignore[operator]


@pytest.mark.parametrize("per_channel", [False, True])
def test_activations_are_combined_as_in_the_papers_equation(per_channel: bool) -> None:
    """Written out for two tasks of two stages: x_i <- Σ_j α_ij x_j after each of them."""
    module = built(per_channel=per_channel).eval()
    with torch.no_grad():
        for parameter in module.stitches.parameters():
            parameter.copy_(torch.randn_like(parameter) / 20)
    first, second = alphas(module)
    assert first.shape == ((2, 2, 6) if per_channel else (2, 2))
    x = torch.randn(7, 4)
    nets = [list(net) for net in module.trunks.values()]  # type: ignore[call-overload]
    hidden = torch.stack([net[1](net[0](x)) for net in nets])
    how = "ijd,jnd->ind" if per_channel else "ij,jnd->ind"
    mixed = torch.einsum(how, first, hidden)
    last = torch.einsum(how, second, torch.stack([net[3](net[2](part)) for net, part in zip(nets, mixed, strict=True)]))
    found = module({"a": x, "b": x})
    for number, (name, head) in enumerate(zip("ab", module.heads.values(), strict=True)):
        torch.testing.assert_close(found[name], head(last[number]))


def test_alpha_starts_near_the_identity_and_sums_to_one() -> None:
    for module, count in ((built("abc"), 3), (built("a"), 1), (built("abc", own=0.4), 3)):
        own = 1.0 if count == 1 else 0.4 if module.stitches[0].own == 0.4 else 0.9
        for alpha in alphas(module):
            wanted = torch.full((count, count), (1 - own) / max(1, count - 1)).fill_diagonal_(own)
            torch.testing.assert_close(alpha, wanted)


@pytest.mark.parametrize(("optimizer", "factor"), [(torch.optim.Adam, 10.0), (torch.optim.SGD, 100.0)])
def test_alpha_learns_faster_by_the_scale(optimizer: type[torch.optim.Optimizer], factor: float) -> None:
    """The first step of Adam moves any number by the learning rate, that of SGD by it times the gradient."""
    moved = {}
    for scale in (1.0, 10.0):
        module = built(scale=scale)
        before = alphas(module)
        x = torch.linspace(-1, 1, 20).view(5, 4)
        sum(each.square().sum() for each in module({"a": x, "b": x}).values()).backward()  # type: ignore[union-attr]
        optimizer(module.stitches.parameters(), lr=1e-4).step()  # type: ignore[call-arg]
        moved[scale] = torch.cat([(a - b).flatten() for a, b in zip(alphas(module), before, strict=True)])
    torch.testing.assert_close(moved[10.0], factor * moved[1.0], rtol=2e-3, atol=2e-5)


def test_the_last_row_of_alpha_is_the_tasks_own_and_the_rest_is_shared() -> None:
    module = built()
    own = {name: {id(p) for p in module.task_parameters(name)} for name in "ab"}
    assert {name: len(each) for name, each in own.items()} == {"a": 3, "b": 3}
    shared = {id(p) for p in module.shared_parameters()}
    assert len(shared) == 2 * 4 + 2
    x = torch.randn(5, 4)
    module({"a": x})["a"].sum().backward()
    assert {id(p) for p in module.parameters() if p.grad is not None} == own["a"] | shared


def test_networks_depend_on_the_seed_and_the_task_alone() -> None:
    def network(module: StitchedNetworks, name: str) -> Tensor:
        return module.trunks[f"task {name}"][0].weight  # type: ignore[index, no-any-return, union-attr]

    one, longer, other = built("abc", seed=1), built("acb", seed=1), built("abc", seed=2)
    assert torch.equal(network(one, "b"), network(longer, "b"))
    assert not torch.equal(network(one, "b"), network(other, "b"))
    assert not torch.equal(network(one, "b"), network(one, "c"))
    assert torch.equal(network(one, "a"), trunk()[0].weight)  # type: ignore[index]


def test_copies_may_start_as_the_trunk() -> None:
    module = built(fresh=False)
    first, second = module.trunks.values()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first is not second


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_task_that_is_added_takes_nothing_from_the_others_answers(per_channel: bool) -> None:
    module = built("ab", per_channel=per_channel).eval()
    with torch.no_grad():
        for parameter in module.stitches.parameters():
            parameter.add_(0.01)
    x = torch.randn(9, 4)
    before = module({"a": x, "b": x})
    module.add_task(task("c", 4))
    after = module({"a": x, "b": x, "c": x})
    assert all(torch.equal(after[name], before[name]) for name in "ab")
    assert after["c"].shape == (9, 4)
    assert module.learned(dict.fromkeys("abc", x))[0].values[2] == pytest.approx((0.05, 0.05, 0.9))
    assert [row[2] for row in module.learned({"a": x, "b": x})[0].values] == [0, 0]
    with pytest.raises(DataError, match="has a task 'a' already"):
        module.add_task(task("a"))


def test_a_network_of_the_kernel_is_cut_in_its_layers_and_takes_several_inputs() -> None:
    shapes = {"left": (2,), "right": (3,)}
    described = [Task(descriptor=TaskDescriptor(task_id=n, input_shapes=shapes, output_dim=2)) for n in "ab"]
    whole = Headless(ModelSpec(hidden=(6, 5)).build(described[0].descriptor, 0))
    module = CrossStitch().build(described, copy.deepcopy(whole))
    assert isinstance(module, StitchedNetworks)
    assert len(module.stitches) == 2
    batch = MultiInput({"left": torch.randn(4, 2), "right": torch.randn(4, 3)})
    assert module({"b": batch})["b"].shape == (4, 2)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("network", "shape", "widths"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3)), (1, 8, 8), [4, 6]),
        (nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 7), nn.Flatten()), (3,), [5, 21]),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten()), (2, 6), [16]),
    ],
)
def test_channels_are_those_of_maps_and_of_places(
    network: nn.Module, shape: tuple[int, ...], widths: list[int], per_channel: bool
) -> None:
    """A stage ends with the flattening that follows it."""
    tasks = [task(name, shape=shape) for name in "ab"]
    embeds = isinstance(network[0], nn.Embedding)  # type: ignore[index]
    for each in tasks if embeds else ():
        each.train = (torch.zeros(2, *shape, dtype=torch.long), torch.zeros(2, dtype=torch.long))  # type: ignore[assignment]
    module = CrossStitch(per_channel=per_channel).build(tasks, network)
    assert isinstance(module, StitchedNetworks)
    batch = torch.zeros(3, *shape, dtype=torch.long) if embeds else torch.randn(3, *shape)
    assert module({"a": batch, "b": batch})["b"].shape == (3, 3)
    if per_channel:
        assert [alpha.shape[-1] for alpha in alphas(module)] == widths


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(DataError, match="cross-stitch: no tasks"):
        CrossStitch().build([], trunk())
    with pytest.raises(DataError, match="'a': a head needs output_dim"):
        CrossStitch().build([Task(descriptor=TaskDescriptor(task_id="a", input_shape=(4,)))], trunk())
