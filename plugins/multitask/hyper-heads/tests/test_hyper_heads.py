"""Heads by a hyper-network: how they are made, at what scale, and a task that is added."""

import copy

import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.tasks import Task
from crosstask_hyper_heads import GeneratedHeads, Generator, HyperHeads


def task(name: str, outputs: int = 3, kind: str = "classification", shape: tuple[int, ...] = (4,)) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, task_type=kind, input_shape=shape, output_dim=outputs))


def built(**options: object) -> GeneratedHeads:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
    sharing = HyperHeads(**options)  # type: ignore[arg-type]
    sharing.bind(LocalContext(seed=1))
    made = sharing.build([task("a"), task("b.c", 5), task("d", 1)], trunk)
    assert isinstance(made, GeneratedHeads)
    return made


@pytest.mark.parametrize("dims", [(64, 32), ()])
def test_answers_are_those_of_the_weights_that_are_made(dims: tuple[int, ...]) -> None:
    module = built(meta_network_dims=dims).eval()
    x = torch.randn(7, 4)
    found = module(dict.fromkeys(module.tasks, x))
    for name, answer in found.items():
        weight, bias = module.generated(name)
        torch.testing.assert_close(answer, module.trunk(x) @ weight.T + bias)
    assert {name: tuple(answer.shape) for name, answer in found.items()} == {"a": (7, 3), "b.c": (7, 5), "d": (7, 1)}


@pytest.mark.parametrize("width", [8, 256, 4096])
def test_generated_weights_have_the_scale_of_their_fan_in(width: int) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        weight, bias = Generator(32, (64, 32), width)(torch.randn(200, 32))
    assert 0.6 < float(weight.square().mean()) * width < 1.6
    assert 0.3 < float(bias.square().mean()) * width < 3


def test_a_task_has_an_embedding_of_its_own_and_nothing_else() -> None:
    module = built(meta_dim=9)
    assert {name: [tuple(p.shape) for p in module.task_parameters(name)] for name in module.tasks} == {
        "a": [(3, 9)], "b.c": [(5, 9)], "d": [(1, 9)],
    }  # fmt: skip
    shared = {id(p) for p in module.shared_parameters()}
    assert {id(p) for p in module.generator.parameters()} < shared
    module({"a": torch.randn(5, 4)})["a"].sum().backward()
    assert all(p.grad is not None for p in module.shared_parameters())
    assert all(p.grad is None for p in module.task_parameters("d"))


def test_a_copy_has_a_hyper_network_of_its_own() -> None:
    module = built()
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.generator.weight.bias.add_(1)
    assert not torch.equal(twin.generated("a")[0], module.generated("a")[0])
    assert torch.equal(module.generated("a")[0], built().generated("a")[0])


def test_an_added_task_learns_its_embedding_alone_and_moves_no_bit_of_the_others() -> None:
    module = built()
    x = torch.randn(20, 4)
    old = list(module.tasks)
    module.train()(dict.fromkeys(old, x))
    before = module.eval()(dict.fromkeys(old, x))
    module.train().add_task(task("new", 2))
    assert {id(p) for p in module.parameters() if p.requires_grad} == {id(p) for p in module.task_parameters("new")}
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    first = None
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module.train()({"new": x})["new"], (x[:, 0] > 0).long())
        first = first or float(loss.detach())
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first  # type: ignore[operator]
    after = module.eval()(dict.fromkeys(old, x))
    assert all(torch.equal(after[name], before[name]) for name in old)
    with pytest.raises(DataError, match="has a task 'new' already"):
        module.add_task(task("new"))
    module.add_task(task("newer"))
    assert not any(p.requires_grad for p in module.task_parameters("new"))
    module.thaw()
    assert all(p.requires_grad for p in module.parameters())


def test_what_heads_look_at_is_told() -> None:
    """Of planes by hand: equal, one within the other, at right angles, at 45 degrees."""
    module = built(meta_dim=4, meta_network_dims=())
    axes = torch.eye(6)
    planes = {"a": axes[[0, 1, 1]], "b.c": axes[[0, 1, 2, 2, 0]], "d": (axes[0] + axes[3])[None]}
    module.generated = lambda name: (planes[name], torch.zeros(1))  # type: ignore[method-assign, assignment]
    (told,) = module.learned({"d": torch.ones(1, 4), "a": torch.ones(1, 4), "b.c": torch.ones(1, 4)})
    assert (told.rows, told.columns) == (("d", "a", "b.c"), ("a", "b.c", "d"))
    wanted = [[0.5, 0.5, 1.0], [1.0, 1.0, 0.25], [2 / 3, 1.0, 1 / 6]]
    torch.testing.assert_close(torch.tensor(told.values), torch.tensor(wanted))


def test_heads_on_maps_and_on_places() -> None:
    maps = [task("classes", 3, shape=(1, 6, 6)), task("pixels", 2, "segmentation", (1, 6, 6))]
    module = HyperHeads().build(maps, nn.Conv2d(1, 4, 3, padding=1))
    found = module({name: torch.randn(2, 1, 6, 6) for name in ("classes", "pixels")})
    assert {name: tuple(each.shape) for name, each in found.items()} == {"classes": (2, 3), "pixels": (2, 2, 6, 6)}
    assert isinstance(module, GeneratedHeads)
    weight, bias = module.generated("pixels")
    features = module.trunk(torch.ones(1, 1, 6, 6))
    torch.testing.assert_close(
        module({"pixels": torch.ones(1, 1, 6, 6)})["pixels"],
        nn.functional.conv2d(features, weight[:, :, None, None], bias),
    )
    words = task("words", 5, "token_classification", (7, 4))
    assert HyperHeads().build([words], nn.Linear(4, 3))({"words": torch.ones(2, 7, 4)})["words"].shape == (2, 7, 5)


def test_segmentations_of_another_size_are_interpolated() -> None:
    labels = torch.zeros(2, 6, 6, dtype=torch.long)
    pixels = Task(
        descriptor=TaskDescriptor(task_id="pixels", task_type="segmentation", output_dim=2),
        train=(torch.zeros(2, 1, 6, 6), labels),  # type: ignore[arg-type]
    )
    module = HyperHeads().build([pixels], nn.Conv2d(1, 4, 3, stride=2, padding=1))
    assert module({"pixels": torch.ones(2, 1, 6, 6)})["pixels"].shape == (2, 2, 6, 6)


def test_what_cannot_be_built_is_said() -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(DataError, match="hyper-heads: no tasks"):
        HyperHeads().build([], nn.Linear(4, 3))
    with pytest.raises(DataError, match="'b': the trunk gives 5 features, the heads are made for 4"):
        HyperHeads().build([task("a"), task("b", shape=(5,))], Wide())
