"""Progressive columns: what they are made of, what reaches what, and what stays as it is."""

import pytest
import torch
from torch import nn

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, OptionError
from crosstask.tasks import Task
from crosstask_progressive_columns import Columns, Progressive


def task(name: str, outputs: int = 3, kind: str = "classification", shape: tuple[int, ...] = (4,)) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, task_type=kind, input_shape=shape, output_dim=outputs))


def built(names: str = "abc", **options: object) -> Columns:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
    sharing = Progressive(**options)  # type: ignore[arg-type]
    sharing.bind(LocalContext(seed=1))
    made = sharing.build([task(name) for name in names], trunk)
    assert isinstance(made, Columns)
    return made


def test_a_columns_features_are_its_own_and_what_the_laterals_bring() -> None:
    """Written out for three columns: h_k = f_k(base) + Σ_j<k V_kj relu(U_kj h_j)."""
    module = built(hidden_dims=(8, 5), hidden_dims_of={"b": (7,)}).eval()
    x = torch.randn(9, 4)
    base, features = module.trunk(x), []
    for name, column in zip("abc", module.columns.values(), strict=True):
        made = column.layers(base)  # type: ignore[operator]
        for earlier, lateral in zip(features, column.laterals.values(), strict=False):  # type: ignore[operator, union-attr]
            made = made + lateral[2](torch.relu(lateral[0](earlier)))
        features.append(made)
        torch.testing.assert_close(module({name: x})[name], module.heads[f"task {name}"](made))
    assert [each.shape[1] for each in features] == [5, 7, 5]


@pytest.mark.parametrize("base", ["all", "first"])
def test_a_tasks_gradient_stays_in_its_column_and_reaches_the_base_as_it_is_said(base: str) -> None:
    module = built(base=base)
    for number, name in enumerate("abc"):
        module.zero_grad(set_to_none=True)
        batches = {each: torch.randn(5, 4) for each in "abc"}
        module(batches)[name].square().sum().backward()
        reached = {id(p) for p in module.parameters() if p.grad is not None and bool((p.grad != 0).any())}
        own = {id(p) for p in module.task_parameters(name)}
        base_weights = {id(p) for p in module.shared_parameters()}
        assert reached <= own | base_weights
        assert bool(reached & base_weights) == (base == "all" or number == 0)
        assert len(reached & own) >= 4


def test_learning_one_task_freezes_the_others_and_thawing_ends_it() -> None:
    module = built(dropout=0.5).train()
    module.learn("b")
    open_ones = {id(p) for p in module.parameters() if p.requires_grad}
    assert open_ones == {id(p) for p in module.task_parameters("b")}
    assert not module.trunk.training
    assert [column.training for column in module.columns.values()] == [False, True, False]
    module.eval().train()
    assert [column.training for column in module.columns.values()] == [False, True, False]
    module.learn("a")
    assert all(p.requires_grad for p in module.shared_parameters())
    assert module.trunk.training
    module.thaw()
    assert all(p.requires_grad for p in module.parameters())
    assert all(each.training for each in module.modules())


def test_what_was_frozen_before_stays_frozen_when_it_thaws() -> None:
    module = built()
    module.trunk[0].weight.requires_grad_(False)  # type: ignore[index, union-attr, operator]
    module.learn("c")
    module.thaw()
    assert [p.requires_grad for p in module.trunk.parameters()] == [False, True, True, True]


def test_a_column_that_is_added_learns_alone_and_moves_no_bit_of_the_others() -> None:
    """Statistics of the batch in the base included."""
    module = built(dropout=0.3)
    x = torch.randn(20, 4)
    module.train()(dict.fromkeys("abc", x))
    before = module.eval()(dict.fromkeys("abc", x))
    module.train().add_task(task("d", 2), hidden_dims=(9,))
    assert module.columns["task d"].width == 9
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        module.train()({"d": x})["d"].square().sum().backward()
        optimizer.step()
    after = module.eval()(dict.fromkeys("abc", x))
    assert all(torch.equal(after[name], before[name]) for name in "abc")
    with pytest.raises(DataError, match="has a task 'd' already"):
        module.add_task(task("d"), hidden_dims=(3,))
    assert module.dims_of["d"] == (9,)


def test_what_each_task_takes_of_the_columns_is_told() -> None:
    module = built().eval()
    x = torch.randn(9, 4)
    (told,) = module.learned({"c": x, "a": x})
    assert (told.rows, told.columns) == (("c", "a"), ("a", "b", "c"))
    assert sum(told.values[0]) == pytest.approx(1)
    assert told.values[1] == (1.0, 0.0, 0.0)
    column = module.columns["task c"]
    parts = [column.layers(module.trunk(x))]  # type: ignore[operator]
    earlier = module.columns["task a"].layers(module.trunk(x))  # type: ignore[operator]
    parts.append(column.laterals["task a"](earlier))  # type: ignore[index, operator, union-attr]
    own, of_a = (float(part.norm(dim=1).mean().detach()) for part in parts)
    assert told.values[0][0] / told.values[0][2] == pytest.approx(of_a / own, rel=1e-4)


@pytest.mark.parametrize(
    ("trunk", "shape", "wanted"),
    [
        (nn.Conv2d(1, 4, 3, padding=1), (1, 6, 6), {"classes": (2, 3), "pixels": (2, 2, 6, 6)}),
        (nn.Linear(5, 4), (7, 5), {"words": (2, 7, 4)}),
    ],
)
def test_columns_on_maps_and_on_places(
    trunk: nn.Module, shape: tuple[int, ...], wanted: dict[str, tuple[int, ...]]
) -> None:
    known = {
        "classes": task("classes", 3, shape=shape),
        "pixels": task("pixels", 2, "segmentation", shape),
        "words": task("words", 4, "token_classification", shape),
    }
    module = Progressive(hidden_dims=(8,)).build([known[name] for name in wanted], trunk)
    found = module({name: torch.randn(2, *shape) for name in wanted})
    assert {name: tuple(each.shape) for name, each in found.items()} == wanted


def test_what_cannot_be_built_is_said() -> None:
    plain = nn.Linear(4, 3)
    with pytest.raises(DataError, match="progressive: no tasks"):
        Progressive().build([], plain)
    with pytest.raises(DataError, match="hidden_dims_of: no task 'aa'; did you mean 'a'"):
        Progressive(hidden_dims_of={"aa": (3,)}).build([task("a")], plain)
    with pytest.raises(DataError, match="no column for task 'd'"):
        built().learn("d")
    with pytest.raises(DataError, match="'p': the trunk must give maps"):
        Progressive().build([task("p", kind="segmentation")], plain)
    with pytest.raises(OptionError, match="base cannot be 'none'"):
        Progressive(base="none")  # type: ignore[arg-type]
