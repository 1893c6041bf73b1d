"""When features are kept, and when a model is really asked."""

import copy

import pytest
import torch
from torch import nn

from crosstask.errors import DataError
from crosstask.learning.transferring import fresh_model
from crosstask.tasks import Task, TaskDescriptor
from crosstask_zoo import FeatureCache, Given, Trunk, ZooModel

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.head, self.calls = nn.Linear(4, 6), nn.Linear(6, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.head(torch.relu(self.one(x)))


class Mine(Trunk):
    _crosstask_aside = ("_calls",)

    def __init__(self, width=6):
        super().__init__()
        self.one, self.drop, self.width, self._calls = nn.Linear(4, width), nn.Dropout(0.5), width, 0

    def features(self, inputs):
        self._calls += 1
        return self.drop(torch.relu(self.one(inputs)))


class OfTheBatch(Mine):
    def features(self, inputs):
        self._calls += 1
        return self.one(inputs) - self.one(inputs).mean(0)


def kept(trunk=None):
    model = ZooModel(trunk or Mine(), nn.Linear(6, 3)).eval()
    model.trunk.remember_in(FeatureCache())
    return model


def look(model, x=X):
    with torch.no_grad():
        return model(x)


def test_a_look_computes_features_once():
    model = kept()
    first = look(model)
    calls = model.trunk._calls
    assert torch.equal(look(model), first)
    assert model.trunk._calls == calls
    assert torch.allclose(first, model.head(torch.relu(model.trunk.one(X))))
    assert torch.equal(look(copy.deepcopy(model)), first)
    assert model.trunk._cache.computed == 20


@pytest.mark.parametrize("change", ["weights", "data", "dtype", "fresh"])
def test_other_weights_are_asked_anew(change):
    model = kept()
    first = look(model)
    if change == "weights":
        with torch.no_grad():
            model.trunk.one.weight.mul_(2)
    elif change == "data":
        model.trunk.one.weight.data.mul_(2)  # past torch's own count of versions
    elif change == "dtype":
        model.double()
    else:
        task = Task(descriptor=TaskDescriptor(task_id="t", output_dim=3))
        model = fresh_model(model, task, 1).eval()
    computed = model.trunk._cache.computed
    x = X.double() if change == "dtype" else X
    expected = model.head(torch.relu(model.trunk.one(x)))
    assert torch.allclose(look(model, x), expected)
    if change != "dtype":
        assert not torch.allclose(expected, first)
    assert model.trunk._cache.computed == computed  # what is trained is not kept


def asked(model, x=X):
    before = model.trunk._calls
    look(model, x)
    return model.trunk._calls > before


def test_who_looks_inside_is_let_in():
    model = kept()
    look(model)
    assert not asked(model)
    seen = []
    handle = model.trunk.one.register_forward_hook(lambda *_: seen.append(1))
    assert asked(model)
    assert seen
    handle.remove()
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        assert asked(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert asked(model)
    assert asked(model, X[:7])  # a look at shapes
    before = model.trunk._calls
    model(X).sum().backward()  # with a gradient
    assert model.trunk._calls > before
    assert model.trunk.one.weight.grad is not None
    model.train()
    assert asked(model)
    model.eval()
    model.trunk.drop.train()
    assert asked(model)
    model.eval()
    with torch.no_grad():
        torch.func.vmap(lambda x: model(x))(X.expand(2, 20, 4))
    assert not asked(model)
    model.trunk.remember_in(None)
    assert asked(model)


def test_features_that_depend_on_the_batch_are_not_kept():
    model = kept(OfTheBatch())
    look(model)
    assert asked(model)
    assert model.trunk._cache.computed == 0


def test_any_module_has_a_trunk_and_its_own_head():
    torch.manual_seed(0)
    body = Body().eval()
    trunk = Given(body)
    model = ZooModel(trunk, trunk.own_head).eval()
    assert trunk.width == 6
    assert torch.allclose(look(model), body(X))
    assert torch.allclose(trunk(X), torch.relu(body.one(X)))
    conv = Given(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 1)), nn.Conv1d(4, 2, 1)))
    assert conv.own_head is None
    assert conv.width == 4


def test_a_head_without_weights_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential()

        def forward(self, x):
            return x

    with pytest.raises(DataError, match="the head of Odd has no weights"):
        Given(Odd())
