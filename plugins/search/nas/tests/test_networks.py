"""Architectures become the modules that they describe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crosstask.errors import DataError, OptionError
from crosstask.learning.modules import head_of
from crosstask_nas import create_nas_search_space, network
from crosstask_nas.networks import CONVOLUTIONS, LINEAR, halvings, operation


@given(st.sampled_from([(5,), (2, 3), (1, 8, 8), (3, 5, 7)]), st.integers(1, 4), st.integers(2, 6), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_every_architecture_is_a_network_for_its_shapes(
    shape: tuple[int, ...], layers: int, classes: int, seed: int
) -> None:
    space = create_nas_search_space(shape, classes, layers, widths=(3, 6))
    (architecture,) = space.space.sample(np.random.default_rng(seed))
    model = space.build(architecture, seed)
    outputs = model(torch.randn(4, *shape))
    assert outputs.shape == (4, classes)
    outputs.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    head = head_of(model)
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (architecture[f"width{architecture['layers']}"], classes)
    again = space.build(architecture, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_layers_and_widths_are_those_asked_for() -> None:
    model = network((6,), 3, layers=2, operation1="relu", width1=5, operation2="tanh", width2=4)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(6, 5), (5, 4), (4, 3)]
    assert sum(p.numel() for p in model.parameters()) == 6 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3


@pytest.mark.parametrize("name", [*LINEAR, *CONVOLUTIONS, "plain3"])
def test_operations_keep_images_and_change_widths(name: str) -> None:
    given = torch.randn(2, 3) if name in LINEAR else torch.randn(2, 3, 6, 5)
    assert operation(name, 3, 7)(given).shape == (2, 7, *given.shape[2:])


def test_residual_layer_is_its_formula() -> None:
    x = torch.randn(4, 3)
    layer = operation("residual", 3, 3)
    weight, bias = layer.layer[0].weight, layer.layer[0].bias  # type: ignore[index, union-attr]
    assert torch.allclose(layer(x), x + (x @ weight.T + bias).clamp_min(0))
    assert sum(p.numel() for p in operation("residual", 3, 5).parameters()) == 3 * 5 + 5 + 3 * 5


def test_images_are_halved_while_four_pixels_are_left() -> None:
    assert halvings((1, 8, 8), 4) == [True, True, False, False]
    assert halvings((3, 17, 5), 3) == [True, False, False]
    assert halvings((1, 3, 3), 1) == [False]


def test_space_counts_its_architectures() -> None:
    space = create_nas_search_space((1, 8, 8), 10, 3, operations=("conv3", "pool"), widths=(4, 8))
    assert space.space.count() == 4 + 4**2 + 4**3
    assert create_nas_search_space((64,), 10).space.parameters["operation1"].choices == LINEAR
    assert create_nas_search_space((1, 8, 8), 10).space.parameters["operation4"].choices == CONVOLUTIONS


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_nas_search_space((4,), 2, operations=("relo",)), "no operation 'relo'; did you mean 'relu'"),
        (lambda: create_nas_search_space((4,), 2, operations=("relu", "conv3")), "all linear or all convolutional"),
        (lambda: create_nas_search_space((4,), 2, 0), "max_layers must be at least 1, got 0"),
        (lambda: create_nas_search_space((4,), 2, widths=(0,)).build({"layers": 1}), "'operation1' is missing"),
        (lambda: network((4,), 2, layers=2, operation1="relu", width1=3), "'operation2' is missing"),
        (lambda: network((4,), 2, layers=1, operation1="relu", width1=3, width2=3), "'width2' is not used"),
        (lambda: operation("conv33", 2, 2), "did you mean 'conv3'"),
    ],
)
def test_what_cannot_be_built_is_refused(call: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        call()


def test_convolutions_need_images() -> None:
    with pytest.raises(DataError, match="'conv3' needs inputs of shape"):
        network((4,), 2, layers=1, operation1="conv3", width1=3)
