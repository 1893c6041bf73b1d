"""Hard parameter sharing: one trunk, its own head for each task."""

import copy
import pickle

import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError
from crosstask.tasks import Task
from crosstask_hard_parameter_sharing import HardParameterSharing
from crosstask_hard_parameter_sharing.plugin import PLUGIN


def task(name: str, outputs: int = 3, shape: tuple[int, ...] = (4,)) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, input_shape=shape, output_dim=outputs))


def trunk() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())


def test_the_manifest_names_the_component() -> None:
    assert [(e.point, e.name) for e in PLUGIN.extensions] == [("sharing", "hard_parameter_sharing")]


def test_outputs_are_the_heads_on_the_trunks_features() -> None:
    shared = trunk().eval()
    module = HardParameterSharing().build([task("a"), task("b.c", 5), task("keys", 2)], shared)
    inputs = {name: torch.randn(n, 4) for name, n in [("a", 3), ("b.c", 2), ("keys", 7)]}
    outputs = module(inputs)
    for number, (name, batch) in enumerate(inputs.items()):
        torch.testing.assert_close(outputs[name], list(module.heads.values())[number](shared(batch)))
    assert {n: tuple(o.shape) for n, o in outputs.items()} == {"a": (3, 3), "b.c": (2, 5), "keys": (7, 2)}


def test_one_pass_through_the_trunk_for_one_input_and_for_all_inputs_of_one_shape() -> None:
    passes = []
    shared = trunk()
    module = HardParameterSharing(hidden=8).build([task("a"), task("b")], shared)
    shared.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    batch = torch.randn(5, 4)
    module({"a": batch, "b": batch})
    module({"a": batch, "b": batch.clone()})
    module({"b": batch})
    assert passes == [5, 10, 5]


def test_parameters_are_either_shared_or_of_one_task() -> None:
    module = HardParameterSharing().build([task("a"), task("b")], trunk())
    own = [list(module.task_parameters(name)) for name in ("a", "b")]
    parts = [list(module.shared_parameters()), *own]
    ids = [id(p) for part in parts for p in part]
    assert sorted(ids) == sorted(id(p) for p in module.parameters())
    assert len(ids) == len(set(ids))
    module({"a": torch.randn(4, 4)})["a"].sum().backward()
    assert all(p.grad is not None for p in [*parts[0], *parts[1]])
    assert all(p.grad is None for p in parts[2])


def test_heads_depend_on_the_seed_and_the_task_only() -> None:
    def head(seed: int, names: list[str]) -> torch.Tensor:
        sharing = HardParameterSharing()
        sharing.bind(LocalContext(seed=seed))
        return next(sharing.build([task(n) for n in names], trunk()).task_parameters("b"))

    torch.testing.assert_close(head(1, ["a", "b"]), head(1, ["b"]), rtol=0, atol=0)
    assert not torch.equal(head(1, ["b"]), head(2, ["b"]))


def test_building_changes_nothing_in_the_trunk() -> None:
    shared = trunk()
    shared[1].eval()
    before = {k: v.clone() for k, v in shared.state_dict().items()}
    HardParameterSharing().build([task("a")], shared)
    assert all(torch.equal(v, before[k]) for k, v in shared.state_dict().items())
    assert [m.training for m in shared] == [True, False, True]


def test_what_cannot_be_built_is_said() -> None:
    sharing = HardParameterSharing()
    with pytest.raises(DataError, match="no tasks"):
        sharing.build([], trunk())
    with pytest.raises(DataError, match="'a': a head needs output_dim"):
        sharing.build([Task(descriptor=TaskDescriptor(task_id="a", input_shape=(4,)))], trunk())
    with pytest.raises(DataError, match=r"features of shape \(2, F\), got \(2, 4, 1\)"):
        sharing.build([task("a")], nn.Unflatten(1, (4, 1)))
    module = sharing.build([task("digits")], trunk())
    with pytest.raises(DataError, match="did you mean 'digits'"):
        module({"digit": torch.randn(2, 4)})


@pytest.mark.parametrize("hidden", [0, 5])
def test_a_task_that_is_added_has_the_head_it_would_have_had(hidden: int) -> None:
    """And the others answer bit for bit as before."""
    shared = trunk().eval()
    sharing = HardParameterSharing(hidden=hidden)
    sharing.bind(LocalContext(seed=3))
    module, whole = (sharing.build([task(n) for n in names], shared).eval() for names in ("ab", "abc"))
    inputs = {name: torch.randn(5, 4) for name in "ab"}
    before = module(inputs)
    module.add_task(task("c"))
    after = module(inputs)
    assert all(torch.equal(after[name], before[name]) for name in "ab")
    batch = torch.randn(5, 4)
    assert torch.equal(module({"c": batch})["c"], whole({"c": batch})["c"])
    assert sum(p.numel() for p in module.task_parameters("c")) > 0
    with pytest.raises(DataError, match="has a task 'a' already"):
        module.add_task(task("a"))
    with pytest.raises(DataError, match="'d': a head needs output_dim"):
        module.add_task(Task(descriptor=TaskDescriptor(task_id="d", input_shape=(4,))))


def test_heads_answer_only_for_the_rows_they_are_asked_about() -> None:
    module = HardParameterSharing().build([task("a"), task("b")], trunk()).eval()
    seen: list[int] = []
    for head in module.heads.values():
        head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    batch = torch.randn(6, 4)
    found = module.on_rows({"a": batch, "b": batch}, {"a": torch.tensor([1, 4]), "b": torch.tensor([0, 2, 5])})
    assert seen == [2, 3]
    whole = module({"a": batch})["a"]
    torch.testing.assert_close(found["a"], whole[[1, 4]])


def test_several_inputs_go_through_the_trunk_as_one() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.passes = nn.Linear(5, 3), 0

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, None]:
            self.passes += 1
            return self.layer(torch.cat([left, right], dim=1)), None

    shared = Two()
    tasks = [
        Task(descriptor=TaskDescriptor(task_id=n, input_shapes={"left": (2,), "right": (3,)}, output_dim=2))
        for n in "ab"
    ]
    module = HardParameterSharing().build(tasks, shared)
    inputs = {n: MultiInput({"left": torch.randn(c, 2), "right": torch.randn(c, 3)}) for n, c in (("a", 3), ("b", 4))}
    shared.passes = 0
    outputs = module(inputs)
    assert shared.passes == 1
    alone = module({"b": inputs["b"]})["b"]
    torch.testing.assert_close(outputs["b"], alone)
    assert outputs["a"].shape == (3, 2)


def test_it_can_be_copied_after_a_pass() -> None:
    module, batch = HardParameterSharing().build([task("a")], nn.Linear(4, 3)), torch.randn(5, 4)
    found = module({"a": batch})["a"]
    for made in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert made.features == []
        assert torch.equal(made({"a": batch})["a"], found)
    found.sum().backward()  # the graph of the module itself is untouched
