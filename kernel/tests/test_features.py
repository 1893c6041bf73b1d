"""What a head receives, and when it may learn from that alone."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning import features as module
from crosstask.learning.features import Passes, inseparable, received
from crosstask.learning.modules import know, locate_head


class Net(nn.Module):
    """A trunk and a head; `how` says what is odd about it."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.body, self.norm, self.head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        if how == "tied":
            self.body.weight = self.head.weight
        if how == "batch":
            self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.body(inputs))
        if self.how == "counting":
            self.calls += len(inputs)
        if self.how == "chance":
            hidden = hidden + torch.rand_like(hidden)
        if self.how == "twice":
            hidden = self.head(hidden)
        if self.how == "joined":
            hidden = torch.cat([hidden, hidden])
        found: Tensor = self.head(hidden)
        if self.how == "joined":
            found = found[: len(inputs)]
        return found.softmax(1) if self.how == "after" else found


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("", None),
        ("tied", "shares weights with its trunk"),
        ("batch", "depend on the other samples of a batch"),
        ("chance", "depend on the other samples of a batch, or on chance"),
        ("twice", "calls its head 2 times"),
        ("after", "is not what its head makes of the features"),
        ("counting", "Net changes its buffers whenever it is called"),
        ("joined", "cannot be called with features: the head of Net does not receive one row for each sample"),
    ],
)
def test_when_features_can_be_computed_once(how: str, reason: str | None) -> None:
    torch.manual_seed(0)
    model = Net(how)
    found = inseparable(model, torch.randn(5, 4))
    assert found is None if reason is None else found is not None and reason in found
    assert model.training
    assert not model.head._forward_pre_hooks
    assert not model.calls


def test_buffers_are_as_they_were() -> None:
    model, buffer = Net("counting"), None
    for _ in received(model, torch.randn(5, 4), 2):
        buffer = model.calls
        assert buffer
    assert model.calls is buffer
    assert not buffer


class Loose(nn.Module):
    """Its last layer is a parameter that `forward` uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.weight = nn.Linear(4, 3), nn.Parameter(torch.randn(2, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.body(inputs) @ self.weight.T
        return found


@pytest.mark.parametrize("build", [Net, Loose])
def test_what_the_head_receives_and_answers(build: Any) -> None:
    torch.manual_seed(0)
    model, inputs = build(), torch.randn(5, 4)
    if build is Loose:
        locate_head(model, inputs[:2])
        assert inseparable(model, inputs) == "the head of Loose is no module of its own"
    model.eval()
    with torch.no_grad():
        hidden = model.body(inputs) if build is Loose else model.norm(model.body(inputs))
        expected = model(inputs)
    model.train()
    parts = list(received(model, inputs, 2))
    assert [len(features) for features, _ in parts] == [2, 2, 1]
    torch.testing.assert_close(torch.cat([features for features, _ in parts]), hidden)
    torch.testing.assert_close(torch.cat([outputs for _, outputs in parts]), expected)
    assert model.training
    know(model, head=None)


def test_a_head_that_gets_no_row_for_each_sample() -> None:
    with pytest.raises(DataError, match="does not receive one row for each sample"):
        next(received(Net("joined"), torch.randn(5, 4), 2))


class Part(nn.Module):
    """Calls a compiled trunk, or all of its layers in a compiled function."""

    made: Any

    def __init__(self, model: nn.Sequential, whole: bool) -> None:
        super().__init__()
        self.whole, self.trunk, self.head = whole, model[:-1], model[-1]
        self.__dict__["made"] = torch.compile(self._answer if whole else self.trunk, backend="eager")

    def _answer(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.trunk(inputs))
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.made(inputs) if self.whole else self.head(self.made(inputs))
        return found


@pytest.fixture
def compiler() -> Iterator[None]:
    """What it learns here of shapes that change would count for the next test that compiles."""
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("how", ["all", "in place", "part", "function"])
def test_a_compiled_model_gives_what_the_model_gives(how: str) -> None:
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(5, 4)
    compiled: Any = model
    if how == "all":
        compiled = torch.compile(model, backend="eager")
    elif how == "in place":
        compiled = copy.deepcopy(model)
        compiled.compile(backend="eager")
    else:
        compiled = Part(model, how == "function")
    with torch.no_grad():
        expected, hidden = model(inputs), model[:2](inputs)
        torch.testing.assert_close(compiled(inputs), expected)  # compiled before its features are asked for
    (found,) = received(compiled, inputs, 5)
    torch.testing.assert_close(found, (hidden, expected))
    assert inseparable(compiled, inputs) is None
    torch.testing.assert_close(Passes().received([compiled], inputs)[0], (hidden, expected))


# --- Many models at once


def rows(seed: int, classes: int) -> nn.Module:
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Flatten(), nn.Linear(36, 7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 5))
    return nn.Sequential(OrderedDict(trunk=trunk, head=nn.Linear(5, classes)))


def images(seed: int, classes: int) -> nn.Module:
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    model = nn.Sequential(OrderedDict(trunk=trunk, head=nn.Linear(16, classes)))
    with torch.no_grad():  # running statistics of its own
        model(torch.randn(9, 1, 6, 6) + seed)
    return model


class Residual(nn.Module):
    """No layers in a row: its forward pass may do anything."""

    def __init__(self, seed: int, classes: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Linear(36, 36), nn.Linear(36, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        found: Tensor = self.head(flat + self.body(flat).relu())
        return found


def alone(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The trunk and the whole model, plainly."""
    given: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda _, args: given.append(args[0]))  # type: ignore[union-attr]
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
    model.train()
    handle.remove()
    return given[0].flatten(1), outputs


@pytest.mark.parametrize("build", [rows, images])
def test_models_of_one_architecture_at_once(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In double as each alone; in float32 the same for a model, whoever goes with it, and in however small parts."""
    monkeypatch.setattr(module, "ACTIVATIONS", 8 * 100 * 7)  # fewer than the 30 samples at once
    for kind in (torch.float64, torch.float32):
        models = [build(seed, 2 + seed).to(kind) for seed in range(5)]
        inputs = torch.randn(30, 1, 6, 6, generator=torch.Generator().manual_seed(0)).to(kind)
        passes = Passes()
        assert passes.room(models[0], inputs) == 8
        assert all(passes.alike(models[0], each, inputs) for each in models)
        found = passes.received(models, inputs)
        near = 1e-12 if kind is torch.float64 else 1e-5
        for model, (features, outputs) in zip(models, found, strict=True):
            expected = alone(model, inputs)
            torch.testing.assert_close(features.flatten(1), expected[0], rtol=near, atol=near)
            torch.testing.assert_close(outputs, expected[1], rtol=near, atol=near)
            assert model.training
            assert not features.requires_grad
            for others in ([model], [model, models[2], models[0]]):
                again = passes.received(others, inputs)[0]
                assert torch.equal(again[0], features)
                assert torch.equal(again[1], outputs)


def test_who_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.randn(6, 1, 6, 6)
    one, other, wide = rows(0, 2), rows(1, 2), nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    passes = Passes()
    assert not passes.alike(one, images(0, 2), inputs)
    assert not passes.alike(one, rows(0, 2).double(), inputs)
    hooked = rows(2, 2)
    hooked.register_forward_hook(lambda *_: None)
    for strange in (hooked, Residual(0, 2), nn.Sequential(nn.Flatten()), Net("chance"), Loose()):
        assert passes.room(strange, torch.randn(6, 4) if isinstance(strange, Net | Loose) else inputs) == 1
    features, outputs = passes.received([hooked], inputs)[0]
    torch.testing.assert_close((features, outputs), alone(hooked, inputs))
    several = MultiInput({"x": inputs})
    assert passes.room(wide, several) == 1
    assert not passes.alike(one, other, several)
    # Memory: of the features of all, and of their weights.
    monkeypatch.setattr(module, "FEATURES", 3 * 6 * 7 + 1)
    assert passes.room(one, inputs) == 3
    weights = sum(p.numel() for p in one.parameters())
    monkeypatch.setattr(module, "WEIGHTS", 2 * weights)
    assert passes.room(one, inputs) == 2
    monkeypatch.setattr(module, "WEIGHTS", weights)
    assert Passes().room(one, inputs) == 1


class Squeezed(nn.Module):
    """Without its head it answers with other shapes than the head receives."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 1), nn.Linear(1, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(inputs)).squeeze(1)
        return found


class Fragile(nn.Module):
    """Its own code refuses what torch.func makes of it, and other numbers of samples than it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 2), nn.Linear(2, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(
            self.body(inputs) * float(inputs.shape[0] > 0) * (1 if self.body.bias.sum() < 9 else 2)
        )
        return found


@pytest.mark.parametrize("build", [Squeezed, Fragile])
def test_a_pass_that_would_not_be_that_of_the_model(build: Any) -> None:
    """Each is looked at before: who answers otherwise without its head, or cannot be followed, goes alone."""
    model, inputs = build(), torch.randn(5, 4)
    passes = Passes()
    assert inseparable(model, inputs) is None
    assert passes.room(model, inputs) == 1
    torch.testing.assert_close(passes.received([model], inputs)[0], alone(model, inputs))
