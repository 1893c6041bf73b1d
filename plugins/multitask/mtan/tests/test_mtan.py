"""MTAN: one trunk, and what each task attends to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, OptionError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_mtan import MTAN
from crosstask_mtan.blocks import cut
from crosstask_mtan.plugin import PLUGIN
from crosstask_multitask import MultiTaskTrainer
from crosstask_multitask.headed import key


def task(name: str, outputs: int = 3, shape: tuple[int, ...] = (4,), **splits: Any) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs), **splits)


def mlp() -> Any:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())


def conv() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16, 5), nn.Tanh(),
    )  # fmt: skip


def made(base: nn.Module, names: Sequence[str] = "ab", seed: int = 0, **options: Any) -> Any:
    sharing = MTAN(**options)
    sharing.bind(LocalContext(seed=seed))
    shape = (1, 8, 8) if isinstance(next(base.modules()), nn.Sequential) and isinstance(base[0], nn.Conv2d) else (4,)  # type: ignore[index]
    return sharing.build([task(name, 2 + n, shape) for n, name in enumerate(names)], base)


def stirred(module: Any) -> Any:
    """With statistics and scales of normalisation that are not those of the start."""
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            for tensor in each.state_dict().values():
                if tensor.is_floating_point():
                    tensor.uniform_(0.3, 1.7)
    return module


def normal(layer: Any, features: Tensor, training: bool, norm: Any = None) -> Tensor:
    """A layer of attention with its normalisation, written out."""
    made, norm = layer.layer(features), norm or layer.norm
    if made.ndim == 2:  # of each vector
        mean, spread = made.mean(1, keepdim=True), made.var(1, unbiased=False, keepdim=True)
    elif training:
        mean, spread = made.mean((0, 2, 3), keepdim=True), made.var((0, 2, 3), unbiased=False, keepdim=True)
    else:
        mean, spread = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    form = [-1, *[1] * (made.ndim - 2)]
    return (made - mean) / (spread + norm.eps).sqrt() * norm.weight.view(form) + norm.bias.view(form)


def mask(attention: Any, seen: Tensor, training: bool) -> Tensor:
    return torch.sigmoid(normal(attention.h, normal(attention.g, seen, training).clamp_min(0), training))


def test_vectors_are_attended_to_as_in_the_papers_equations() -> None:
    base, training = mlp(), True
    module = stirred(made(base))
    x, z = torch.randn(6, 4), torch.randn(3, 4)
    outputs = module({"a": x, "b": z})
    for name, batch in (("a", x), ("b", z)):
        own = module.attentions[key(name)]
        first = torch.tanh(base[0](batch))
        second = torch.tanh(base[2](first))
        attended = mask(own[0], first, training) * first
        onward = normal(module.onward[0].layer, attended, training, module.norms[key(name)][0]).clamp_min(0)
        features = mask(own[1], torch.cat([second, onward], 1), training) * second
        torch.testing.assert_close(outputs[name], module.heads[key(name)](features))


@pytest.mark.parametrize("training", [False, True])
def test_maps_are_attended_to_before_they_are_pooled(training: bool) -> None:
    base = conv()
    module = stirred(made(base)).train(training)
    x = torch.randn(3, 1, 8, 8)
    own = module.attentions[key("b")]
    one = F.relu(base[1](base[0](x)))  # [3, 3, 8, 8]
    two = F.relu(base[4](F.max_pool2d(one, 2)))  # [3, 4, 4, 4]
    three = torch.tanh(base[8](F.max_pool2d(two, 2).flatten(1)))
    attended = mask(own[0], one, training) * one
    onward = F.max_pool2d(F.relu(normal(module.onward[0].layer, attended, training, module.norms[key("b")][0])), 2)
    assert module.onward[0].layer.layer.kernel_size == (3, 3)
    attended = mask(own[1], torch.cat([two, onward], 1), training) * two
    onward = F.relu(
        normal(module.onward[1].layer, F.max_pool2d(attended, 2).flatten(1), training, module.norms[key("b")][1])
    )
    features = mask(own[2], torch.cat([three, onward], 1), training) * three
    found = module({"b": x})
    torch.testing.assert_close(found["b"], module.heads[key("b")](features))
    found = module.eval()({"a": x, "b": x})
    rows = module.on_rows({"a": x, "b": x}, {"b": torch.tensor([2])})
    torch.testing.assert_close(rows["b"], found["b"][[2]])


def test_what_comes_out_of_maps_is_pooled_as_the_trunk_does() -> None:
    base = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    module = made(base).eval()
    x = torch.randn(3, 1, 8, 8)
    maps = F.relu(base[0](x))
    features = (mask(module.attentions[key("a")][0], maps, False) * maps).mean((2, 3))
    torch.testing.assert_close(module({"a": x})["a"], module.heads[key("a")](features))


def test_a_block_of_two_stages_looks_at_the_first_and_attends_to_the_last() -> None:
    base = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())  # fmt: skip
    module = made(base, block=2).eval()
    x = torch.randn(3, 1, 8, 8)
    looked_at = base[0](x)
    last = F.relu(base[3](F.relu(F.max_pool2d(looked_at, 2))))
    weights = F.max_pool2d(mask(module.attentions[key("a")][0], looked_at, False), 2)
    torch.testing.assert_close(module({"a": x})["a"], module.heads[key("a")]((weights * last).mean((2, 3))))


def test_the_trunk_and_what_leads_onward_are_shared() -> None:
    base = conv()
    module = made(base)
    shared = {id(p) for p in module.shared_parameters()}
    assert {id(p) for p in base.parameters()} < shared
    assert shared == {id(p) for part in (module.blocks, module.onward) for p in part.parameters()}
    own = [{id(p) for p in module.task_parameters(name)} for name in "ab"]
    assert not own[0] & own[1]
    assert shared | own[0] | own[1] == {id(p) for p in module.parameters()}
    images = torch.randn(4, 1, 8, 8)
    module({"a": images, "b": images})["a"].sum().backward()
    reached = {id(p) for p in module.parameters() if p.grad is not None}
    assert reached == shared | own[0]


def test_a_training_batch_of_one_is_taken() -> None:
    """BatchNorm1d refuses it."""
    for base, x in ((mlp(), torch.randn(1, 4)), (conv(), torch.randn(1, 1, 8, 8))):
        module = made(base).train()
        module({"a": x})["a"].sum().backward()
        assert all(p.grad is not None for p in module.task_parameters("a"))
    base = nn.Sequential(nn.Conv2d(1, 3, 8), nn.ReLU(), nn.Flatten())  # maps of a single place
    module = stirred(made(base)).train()
    norm = module.attentions[key("a")][0].h.norm
    before = norm.running_mean.clone()
    found = module({"a": x})["a"]
    torch.testing.assert_close(found, module.eval()({"a": x})["a"])
    assert torch.equal(norm.running_mean, before)


def test_a_task_that_is_added_attends_as_it_would_have() -> None:
    base = mlp()
    module, every = (made(base, names, 3).eval() for names in ("ab", "abc"))
    x = torch.randn(5, 4)
    before = module({"a": x, "b": x})
    module.add_task(task("c", 4))
    after = module({"a": x, "b": x, "c": x})
    assert all(torch.equal(after[name], before[name]) for name in "ab")
    assert torch.equal(every({"c": x})["c"], after["c"])
    with pytest.raises(DataError, match="has a task 'a' already"):
        module.add_task(task("a"))


def test_what_was_learned_is_the_mean_of_the_masks() -> None:
    base = mlp()
    module, x = made(base).eval(), torch.randn(6, 4)
    (found,) = module.learned({"b": x, "a": x})
    assert (found.rows, found.columns) == (("b", "a"), ("block 1", "block 2"))
    first = mask(module.attentions[key("b")][0], torch.tanh(base[0](x)), False)
    assert found.values[0][0] == pytest.approx(float(first.detach().mean()))


class Sequence_(nn.Module):
    """Places [N, L, F], from a trunk whose order of layers is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh()


def test_features_of_places_are_attended_to_place_by_place() -> None:
    described = TaskDescriptor(task_id="a", task_type="token_classification", input_shape=(7, 4), output_dim=3)
    base = Sequence_()
    module: Any = stirred(MTAN().build([Task(descriptor=described)], base)).eval()
    x = torch.randn(2, 7, 4)
    places = base(x)
    flat = places.reshape(14, 6)
    weights = mask(module.attentions[key("a")][0], flat, False).view(2, 7, 6)
    torch.testing.assert_close(module({"a": x})["a"], module.heads[key("a")](weights * places))


def test_maps_of_one_dimension_and_several_inputs() -> None:
    base = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten())
    module: Any = MTAN().build([task(n, 3, (2, 9)) for n in "ab"], base)
    assert module({"a": torch.randn(4, 2, 9)})["a"].shape == (4, 3)
    assert isinstance(module.attentions[key("a")][0].g.layer, nn.Conv1d)
    shapes: dict[str, tuple[int, ...]] = {"left": (2,), "right": (1, 3)}
    tasks = [Task(descriptor=TaskDescriptor(task_id=n, input_shapes=shapes, output_dim=2)) for n in "ab"]
    module = MTAN().build(tasks, Headless(ModelSpec(hidden=(6, 5)).build(tasks[0].descriptor, 0)))
    batch = MultiInput({"left": torch.randn(3, 2), "right": torch.randn(3, 1, 3)})
    assert module({"a": batch, "b": batch})["a"].shape == (3, 2)


def test_stages_are_cut_where_they_pool() -> None:
    layers = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout()]
    assert cut(nn.Sequential(*layers)) == (layers[:2], layers[2:])
    body, tail = cut(nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.ReLU()))
    assert len(body) == 1
    assert not tail  # what has weights is passed once


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(DataError, match="MTAN: no tasks"):
        MTAN().build([], mlp())
    with pytest.raises(DataError, match=r"block 1 of the trunk begins and ends .* \(2, 3, 8, 8\) and \(2, 5\)"):
        made(conv(), block=3)
    with pytest.raises(OptionError, match="block"):
        MTAN(block=0)
    with pytest.raises(DataError, match="did you mean 'digits'"):
        made(mlp(), ["digits", "odd"])({"digit": torch.randn(2, 4)})
    assert [(e.point, e.name) for e in PLUGIN.extensions] == [("sharing", "mtan")]


def test_what_was_learned_holds_in_evaluation() -> None:
    """With batch normalisation of a trunk's vectors running statistics lag: by the statistics of the batch .90 of the
    digits are right here, in evaluation .76.
    """
    from crosstask_weighting import Equal

    pixels, labels = load_digits(return_X_y=True)
    images, digit = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    tasks = [
        task(name, int(t.max()) + 1, (64,), train=(images[:1200], t[:1200]), test=(images[1200:], t[1200:]))
        for name, t in (("digit", digit), ("odd", digit % 2))
    ]
    context, sharing, balancer = LocalContext(seed=0), MTAN(), Equal()
    for each in (sharing, balancer):
        each.bind(context)
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    budget = Budget(steps=120, batch_size=128, learning_rate=0.01)
    trainer = MultiTaskTrainer(sharing.build(tasks, base), tasks, balancer, budget, context)
    trainer.fit()
    assert min(trainer.scores("test").values()) > 0.88
