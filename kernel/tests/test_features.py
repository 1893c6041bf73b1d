"""What a head receives, and when it may learn from that alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.features import inseparable, received
from crosstask.learning.modules import know, locate_head


class Net(nn.Module):
    """A trunk and a head; `how` says what is odd about it."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.body, self.norm, self.head = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        if how == "tied":
            self.body.weight = self.head.weight
        if how == "batch":
            self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.body(inputs))
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
