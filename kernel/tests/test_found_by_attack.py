"""What a day of attacks on users' own models and data found, each with the right answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask import DataError, ModelSpec, Portfolio, StoreError, Task, TaskDescriptor, TransferEngine
from crosstask.identity import identity_of
from crosstask.learning.architecture import architecture
from crosstask.learning.model_files import load_model, save_model
from crosstask.learning.modules import Headless, forward, head_found, head_keys, know, locate_head, redraw, replace_head
from crosstask.learning.objectives import METRICS, Metric
from crosstask.learning.own_models import own_network
from crosstask.learning.transferring import weights_digest
from crosstask.testing import blobs
from crosstask_fakes.registry import with_fakes

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Aliased(nn.Module):
    """Its last layer has two names, and the pass goes through the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.head = self.net[2]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def test_a_head_with_two_names_is_replaced_under_both() -> None:
    model = Aliased()
    locate_head(model, X)
    assert head_keys(model) == {"net.2.weight", "net.2.bias", "head.weight", "head.bias"}
    torch.testing.assert_close(model.head(Headless(model)(X)), model(X))
    replace_head(model, 5, 0)
    assert model(X).shape == (6, 5)
    assert model.head is model.net[2]


class Late(nn.Module):
    """A layer that is not the last thing its forward uses."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.one, self.two = kind, nn.Linear(4, 3), nn.Bilinear(3, 3, 3)
        self.points, self.words = nn.Parameter(torch.randn(3, 3)), nn.Embedding(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.one(x).relu()
        if self.kind == "bilinear":
            return self.two(z, z)  # type: ignore[no-any-return]
        if self.kind == "distances":
            return -torch.cdist(z, self.points)
        if self.kind == "slice":
            return nn.functional.linear(z, self.points[:3])
        if self.kind == "sum":
            return (z[:, None] * self.points).sum(-1)
        return nn.functional.linear(z, self.words.weight)


@pytest.mark.parametrize("kind", ["bilinear", "distances", "slice", "sum", "embedding"])
def test_no_earlier_layer_is_taken_for_a_head_that_is_not_understood(kind: str) -> None:
    model = Late(kind)
    locate_head(model, X)
    with pytest.raises(DataError, match=r"the head cannot be found: .*name it with Task\(head=\.\.\.\)"):
        head_found(model)
    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        task = Task(descriptor="t", train=(X, torch.arange(6) % 3))
        engine.register_task(task, model)
        engine.register_task(Task(descriptor="u", train=(X, torch.arange(6) % 2), test=(X, torch.arange(6) % 2)))
        with pytest.raises(DataError, match=r"no transfer from 't' to 'u': .*the head cannot be found"):
            engine.transfer_knowledge("t", "u", "fake")


class Bent(nn.Module):
    """The same weights, another function."""

    def __init__(self, bend: Any, scale: float = 1.0) -> None:
        super().__init__()
        self.bend, self.scale, self.one, self.head = bend, scale, nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bend(self.scale * self.one(x)))  # type: ignore[no-any-return]


def test_models_are_told_apart_by_what_they_compute() -> None:
    models = [Bent(torch.relu), Bent(torch.sin), Bent(torch.relu, 3.0)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    assert len({weights_digest(model) for model in models}) == 3
    assert len({architecture(model) for model in models}) == 3
    assert weights_digest(models[0]) == weights_digest(models[0])


def test_a_factory_that_gives_what_is_there_is_refused() -> None:
    model = Bent(torch.relu)
    know(model, build=lambda: model)
    with pytest.raises(DataError, match="returns the weights that the model has: it must make fresh ones"):
        redraw(model, 0)
    task = Task(descriptor="t", train=(X, torch.arange(6) % 3), build=lambda: model)
    own_network(ModelSpec(), task, 0)
    with pytest.raises(DataError, match="task 't': build returned a module that is in use"):
        own_network(ModelSpec(), task, 0)


def test_what_cannot_be_drawn_anew_is_said() -> None:
    class Gained(Bent):
        def __init__(self) -> None:
            super().__init__(torch.relu)
            self.gain = nn.Parameter(torch.tensor([3.2]))
            self.register_buffer("mask", torch.tensor([0.0, 1.0, 1.0]))

    assert "as they are gain, mask" in redraw(Gained(), 0)


def test_large_labels_stay_apart() -> None:
    labels = torch.tensor([2**60, 2**60 + 1, 2**60 + 2] * 2)
    task = Task(descriptor="t", train=(X, labels))
    assert task.data().targets.tolist() == [0, 1, 2, 0, 1, 2]


def test_labels_of_places_are_whole_numbers() -> None:
    task = Task(descriptor=TaskDescriptor(task_id="t", task_type="segmentation"),
                train=(torch.rand(2, 1, 2, 2), torch.full((2, 2, 2), 7 / 255)))  # fmt: skip
    with pytest.raises(DataError, match="labels of places must be whole numbers"):
        task.data()


def test_two_fields_that_could_be_the_target() -> None:
    with pytest.raises(DataError, match="the fields 'label' and 'y' could each be the target: say which with target="):
        Task(descriptor="t", train={"x": X, "label": torch.arange(6), "y": torch.arange(6)}).data()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([-1], "names row -1 of a table of 6"),
        ([True, False], "says True or False for 2 rows of a table of 6"),
        ([1, 0, 1, 0, 1, 0], "names a row twice"),
    ],
)
def test_splits_of_a_table(rows: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Portfolio.from_table(X, {"a": torch.arange(6) % 2}, splits={"train": rows})


def test_metrics_where_the_targets_lack_a_class() -> None:
    outputs = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [2.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    targets = torch.tensor([0, 1, 0, 1])
    assert float(METRICS["balanced_accuracy"](outputs, targets)) == 0.75, "two of two, one of two"
    assert float(METRICS["auroc"](torch.tensor([[2.0, 1, 0], [0, 2, 1]]), torch.tensor([0, 1]))) == 1.0
    yes = torch.ones(4, 2)
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, math.nan]])
    assert float(METRICS["balanced_accuracy"](yes, truth)) == 0.5, "always yes knows nothing"
    with pytest.raises(DataError, match="auroc needs samples of two classes"):
        METRICS["auroc"](torch.rand(4, 1), torch.zeros(4).long())


def test_a_metric_is_known_by_what_it_is() -> None:
    def share(outputs: Tensor, targets: Tensor) -> float:
        return 0.5

    one, same, other = Metric(share, low=0, high=1), Metric(share, low=0, high=1), Metric(share, low=0)
    assert identity_of(one) == identity_of(same) != identity_of(other)


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_class_that_takes_arguments_is_not_called_without_them(tmp_path: Path) -> None:
    model = Bent(torch.sin, 3.0)
    locate_head(model, X)
    path = save_model(model, tmp_path / "m.safetensors")
    with pytest.raises(DataError, match=r"its constructor takes arguments, which are not in the file.*into="):
        load_model(path, trust=True)
    torch.testing.assert_close(forward(load_model(path, into=Bent(torch.sin, 3.0)), X), model(X))


class Counting(nn.Linear):
    """Has state that is no tensor."""

    factor: Any = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * super().forward(x)

    def get_extra_state(self) -> Any:
        return {"factor": self.factor}

    def set_extra_state(self, state: Any) -> None:
        self.factor = state["factor"]


def test_extra_state_is_kept_or_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Counting(4, 3))
    model[1].factor = 5.0
    path = save_model(model, tmp_path / "m.safetensors")
    found = load_model(path, into=nn.Sequential(nn.Linear(4, 4), Counting(4, 3)))
    torch.testing.assert_close(found(X), model(X))
    model[1].factor = object()
    with pytest.raises(StoreError, match="is no plain data: it cannot be written"):
        save_model(model, tmp_path / "n.safetensors")


def test_what_else_is_in_a_folder_stays(tmp_path: Path) -> None:
    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        engine.register_task(blobs("a"), nn.Linear(2, 3))
        folder = engine.save(tmp_path / "e")
        (folder / "notes.txt").write_text("mine")
        (folder / "models" / "other.bin").write_text("mine")
        engine.save(folder)
        assert (folder / "notes.txt").read_text() == (folder / "models" / "other.bin").read_text() == "mine"
        (tmp_path / "f").mkdir()
        (tmp_path / "f" / "engine.json").write_text('{"rpm": 3000}')
        with pytest.raises(StoreError, match="holds something else"):
            engine.save(tmp_path / "f")


def test_an_engine_that_names_code_is_opened_with_trust_only(tmp_path: Path) -> None:
    with TransferEngine(registry=with_fakes(), discoverers=[], model=ModelSpec(kind="json:loads")) as engine:
        engine.save(tmp_path / "e")
    with pytest.raises(DataError, match="made by json:loads, whose code is imported only with trust=True"):
        TransferEngine.open(tmp_path / "e", registry=with_fakes(), discoverers=[])
    TransferEngine.open(tmp_path / "e", registry=with_fakes(), discoverers=[], model=ModelSpec()).close()


def test_other_class_names_than_the_model_knows(tmp_path: Path) -> None:
    names, others = ["cat", "dog", "eel"] * 2, ["dog", "eel", "zebra"] * 2
    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        engine.register_task(Task(descriptor="t", train=(X, names)), nn.Linear(4, 3))
        engine.save(tmp_path / "e")
    opened = TransferEngine.open(
        tmp_path / "e", tasks={"t": Task(descriptor="t", train=(X[:2], ["eel", "cat"]))}, models={"t": nn.Linear(4, 3)},
        registry=with_fakes(), discoverers=[],
    )  # fmt: skip
    with opened:
        assert opened.portfolio["t"].data().targets.tolist() == [2, 0]
    with pytest.raises(DataError, match="zebra"):
        TransferEngine.open(
            tmp_path / "e", tasks={"t": Task(descriptor="t", train=(X, others))}, registry=with_fakes(), discoverers=[]
        )


def test_names_of_losses_are_said_at_registration() -> None:
    with TransferEngine(registry=with_fakes(), discoverers=[]) as engine:
        with pytest.raises(DataError, match="unknown loss 'mes'; did you mean 'mse'"):
            engine.register_task(Task(descriptor="t", train=(X, torch.arange(6) % 2), loss="mes"))
        assert len(engine.portfolio) == 0
