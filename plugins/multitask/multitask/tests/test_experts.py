"""Experts side by side, what gates look at, and parts of a trunk."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless
from crosstask_multitask.experts import (
    Apart,
    Chain,
    GateInput,
    Stacked,
    check_gate_input,
    divided,
    experts_of,
    looked_at,
    mixed,
    parts_of,
)
from crosstask_multitask.stages import copies_of


def whole(trunk: nn.Module) -> Chain:
    return parts_of(trunk, divided(trunk, 0, 1, "test"))[1]


@pytest.mark.parametrize(
    "trunk",
    [
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3, bias=False), nn.Tanh()),
        nn.Sequential(nn.Flatten(), nn.Linear(5, 4, bias=False), nn.GELU(), nn.Dropout(0.5), nn.Linear(4, 6)),
        nn.Linear(5, 3),
    ],
)
def test_mlps_are_stacked_and_give_what_they_give_apart(trunk: nn.Module) -> None:
    batch = torch.randn(7, 5)
    part = whole(trunk)
    stacked = experts_of(part, 3, 11, batch).eval()
    separate = [copy.eval() for copy in copies_of(part, 3, 11)]
    assert isinstance(stacked, Stacked)
    assert {len(p) for p in stacked.parameters()} == {3}
    assert not {id(p) for p in stacked.parameters()} & {id(p) for p in trunk.parameters()}
    torch.testing.assert_close(stacked(batch), torch.stack([copy(batch) for copy in separate]))
    torch.testing.assert_close(stacked(batch, [2, 0]), torch.stack([separate[2](batch), separate[0](batch)]))
    assert not torch.equal(separate[0](batch), separate[1](batch))


def test_each_expert_drops_numbers_of_its_own() -> None:
    trunk: Any = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5))
    nn.init.zeros_(trunk[0].weight)
    nn.init.ones_(trunk[0].bias)
    found = experts_of(whole(trunk), 2, 0, torch.zeros(3, 5)).train()
    for p in found.parameters():
        p.data = p.data[:1].expand_as(p).clone()  # the same experts
    first, second = found(torch.zeros(3, 5)) != 0
    assert not torch.equal(first, second)


def _hooked() -> nn.Module:
    made = nn.Sequential(nn.Linear(5, 3))
    made[0].register_forward_hook(lambda _, __, out: out + 1)
    return made


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, batch: Tensor) -> Tensor:
        return self.layer(batch).relu()


@pytest.mark.parametrize(
    ("trunk", "shape"),
    [
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (5,)),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), (1, 4, 4)),
        (nn.Sequential(nn.Linear(5, 4), nn.Flatten()), (6, 5)),
        (nn.Sequential(nn.Linear(5, 4)), (6, 5)),
        (nn.Sequential(nn.Flatten(2), nn.Linear(5, 4)), (6, 5)),
        (_hooked(), (5,)),
        (Own(), (5,)),
        (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3).requires_grad_(False)), (5,)),
    ],
)
def test_others_are_computed_one_after_another(trunk: nn.Module, shape: tuple[int, ...]) -> None:
    batch = torch.randn(3, *shape)
    part = whole(trunk)
    made = experts_of(part, 2, 0, batch).eval()
    assert isinstance(made, Apart)
    separate = [copy.eval() for copy in copies_of(part, 2, 0)]
    torch.testing.assert_close(made(batch), torch.stack([copy(batch) for copy in separate]))
    torch.testing.assert_close(made(batch, [1])[0], separate[1](batch))
    frozen = [p for p in trunk.parameters() if not p.requires_grad]
    assert all(any(torch.equal(p, q) and not q.requires_grad for q in made.parameters()) for p in frozen)


def test_without_the_given_one_all_are_drawn_anew() -> None:
    trunk: Any = nn.Sequential(nn.Linear(5, 4))
    batch = torch.zeros(1, 5)
    with_it: Any = experts_of(whole(trunk), 2, 3, batch)
    without: Any = experts_of(whole(trunk), 2, 3, batch, given=False)
    assert torch.equal(with_it.layers[0].weight[0], trunk[0].weight)
    assert torch.equal(without.layers[0].weight[0], with_it.layers[0].weight[1])
    assert not any(torch.equal(each, trunk[0].weight) for each in without.layers[0].weight)


def test_several_inputs_and_whole_numbers_enter_as_they_enter_the_trunk() -> None:
    shapes: dict[str, tuple[int, ...]] = {"left": (2,), "right": (3,)}
    network = ModelSpec(hidden=(4, 3)).build(TaskDescriptor(task_id="a", input_shapes=shapes, output_dim=2), 0)
    trunk, batch = Headless(network), MultiInput({"left": torch.randn(6, 2), "right": torch.randn(6, 3)})
    first, second = parts_of(trunk, divided(trunk, 1, 1, "test"))
    torch.testing.assert_close(second(first(batch)), trunk(batch))
    found = experts_of(whole(trunk), 2, 0, batch)
    torch.testing.assert_close(found(batch)[0], trunk(batch))
    numbers = torch.arange(10).view(2, 5)
    torch.testing.assert_close(found(numbers)[0], trunk(numbers))


def test_a_trunk_is_divided_as_evenly_as_can_be() -> None:
    trunk = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)))
    assert divided(trunk, 0, 2, "X") == [0, 3, 2]
    assert divided(trunk, 1, 3, "X") == [1, 2, 1, 1]
    with pytest.raises(DataError, match="X: the trunk has 5 stages, 4 levels need as many beside 2 that all experts"):
        divided(trunk, 2, 4, "X")
    with pytest.raises(DataError, match=r"has 1 stage, 2 levels need as many \(a trunk that is no nn.Sequential"):
        divided(Own(), 0, 2, "X")


def test_what_gates_look_at() -> None:
    maps, places, vectors = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 3), torch.randn(2, 3)
    assert looked_at("inputs", maps, None).shape == (2, 48)
    torch.testing.assert_close(looked_at("pooled", maps, None), maps.mean((2, 3)))
    torch.testing.assert_close(looked_at("pooled", places, None), places.mean(1))
    assert torch.equal(looked_at("pooled", vectors, None), vectors)
    several = MultiInput({"a": vectors, "b": places})
    torch.testing.assert_close(looked_at("inputs", several, None), torch.cat([vectors, places.flatten(1)], 1))
    experts = torch.randn(4, 2, 3, 6, 6)
    torch.testing.assert_close(looked_at("features", maps, experts), experts.mean((0, 3, 4)))


def test_experts_are_mixed_by_the_weights() -> None:
    weights, experts = torch.rand(2, 4), torch.randn(4, 2, 3, 5, 5)
    torch.testing.assert_close(mixed(weights, experts), torch.einsum("ne,enchw->nchw", weights, experts))
    assert F.cosine_similarity(mixed(weights, experts).flatten(), experts.sum(0).flatten(), dim=0) < 1


def test_gates_do_not_take_ids_for_numbers() -> None:
    words, ids = nn.Sequential(nn.Embedding(9, 2), nn.Flatten()), torch.ones(2, 3).long()
    kinds: tuple[GateInput, ...] = ("inputs", "pooled")
    for kind in kinds:
        for batch in (ids, MultiInput({"a": ids})):
            with pytest.raises(DataError, match=r"X: gates would take the ids .* shared_stages = 1 .* 'features'"):
                check_gate_input(kind, words, batch, "X")
    check_gate_input("features", words, ids, "X")
    check_gate_input("inputs", words, torch.rand(2, 3), "X")
    check_gate_input("inputs", nn.Linear(3, 2), ids, "X")  # pixels, say
