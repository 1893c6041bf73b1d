"""Data as users have them: pandas, Hugging Face's form, PIL, loaders with workers; a table of several tasks that are
trained together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits, load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from crosstask import Budget, DataError, Portfolio, Task, TaskDescriptor, TransferEngine

PIXELS, DIGITS = load_digits(return_X_y=True)


def test_a_data_frame_with_texts_and_gaps_in_its_target() -> None:
    pytest.importorskip("pandas")
    frame = load_wine(as_frame=True).frame
    frame["target"] = frame["target"].map({0: "barolo", 1: "grignolino", 2: "barbera"}).astype(object)
    frame.loc[::10, "target"] = None
    task = Task(descriptor="wine", train=frame, target="target")
    assert len(task.data()) == int(frame["target"].notna().sum())
    assert task.descriptor.classes == ("barbera", "barolo", "grignolino")
    names = np.array(task.descriptor.classes)[task.data().targets.numpy()]
    assert (names == frame["target"].dropna().to_numpy()).all()
    with pytest.raises(DataError, match="samples have no field 'hue_'; did you mean 'hue'"):
        Task(descriptor="wine", train=frame, target="target", inputs=["hue_"]).data()


def test_a_pair_of_frame_and_series() -> None:
    pytest.importorskip("pandas")
    frame = load_diabetes(as_frame=True)
    descriptor = TaskDescriptor(task_id="diabetes", task_type="regression")
    task = Task(descriptor=descriptor, train=(frame.data, frame.target))
    assert task.data().inputs.shape == (442, 10)
    assert task.descriptor.output_dim == 1


def test_columns_of_a_test_table_in_another_order() -> None:
    pytest.importorskip("pandas")
    frame = load_wine(as_frame=True).frame.sample(frac=1.0, random_state=0)
    task = Task(descriptor="wine", train=frame[:100], test=frame[100:][frame.columns[::-1]], target="target")
    expected = torch.tensor(frame[100:].drop(columns="target").to_numpy()).float()
    torch.testing.assert_close(task.data("test").inputs, expected)
    renamed = frame[100:].rename(columns={"alcohol": "alcohl"})
    with pytest.raises(DataError, match=r"the column 'alcohl' is none of those of the training data.*'alcohol'"):
        Task(descriptor="wine", train=frame[:100], test=renamed, target="target").data("test")


def test_a_table_of_arrow_goes_by_its_names_too() -> None:
    arrow = pytest.importorskip("pyarrow")
    frame = load_wine(as_frame=True).frame
    names = [name for name in frame if name != "target"]
    train, test = (arrow.table({n: frame[n].to_numpy() for n in order}) for order in (names, names[::-1]))
    labels = frame["target"].to_numpy()
    expected = torch.tensor(frame[names].to_numpy()).float()
    task = Task(descriptor="wine", train=(train, labels), test=(test, labels))
    torch.testing.assert_close(task.data("test").inputs, expected)
    whole = arrow.table({"target": labels, **{n: frame[n].to_numpy() for n in names}})
    torch.testing.assert_close(Task(descriptor="wine", train=whole).data("train").inputs, expected)


def test_pictures_of_pil() -> None:
    image = pytest.importorskip("PIL.Image")

    class Pictures(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, number: int) -> dict[str, Any]:
            grey = (PIXELS[number].reshape(8, 8) * 15).astype("uint8")
            return {"image": image.fromarray(np.stack([grey] * 3, -1)), "label": int(DIGITS[number])}

    data = Task(descriptor="pictures", train=Pictures()).data()
    assert data.inputs.shape == (20, 3, 8, 8)
    torch.testing.assert_close(data.inputs[:, 0].reshape(20, 64), torch.tensor(PIXELS[:20] * 15 // 1 / 255).float())


class HubFeature:
    """As much of a feature of `datasets` as says the classes' names."""

    names = ("even", "odd")


class HubDataset:
    """A data set in the form of Hugging Face's `datasets`, which is heavy to install: columns, features, samples."""

    column_names = ("pixels", "label", "idx")
    features = {"pixels": None, "label": HubFeature(), "idx": None}

    def __len__(self) -> int:
        return 30

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"pixels": PIXELS[number].tolist(), "label": int(DIGITS[number] % 2), "idx": number}


def test_a_data_set_of_the_hub() -> None:
    task = Task(descriptor="hub", train=HubDataset(), inputs="pixels")
    assert task.data().inputs.shape == (30, 64)
    assert task.descriptor.classes == ("even", "odd")


def test_a_loader_with_workers_reads_the_same() -> None:
    data = TensorDataset(torch.tensor(PIXELS[:40]).float(), torch.tensor(DIGITS[:40]))
    alone, helped = (
        Task(descriptor="t", train=DataLoader(data, batch_size=7, num_workers=workers)).data() for workers in (0, 1)
    )
    torch.testing.assert_close(alone.inputs, helped.inputs)
    assert torch.equal(alone.targets, helped.targets)


def test_tasks_of_one_table_train_together_and_learn() -> None:
    """Half of the labels of one task are missing; each row goes through the trunk once."""
    known = np.stack([np.arange(1200) % 2 == 0, np.ones(1200, bool)], axis=1)
    portfolio = Portfolio.from_table(
        (PIXELS[:1200] / 16).astype("float32"),
        {"odd": DIGITS[:1200] % 2, "large": (DIGITS[:1200] > 4).astype(int)},
        mask=known,
        splits={"train": range(800), "test": range(800, 1200)},
    )
    with TransferEngine(seeds=1, discoverers=[], auto_discover=False) as engine:
        engine.register(portfolio)
        budget = Budget(steps=200, learning_rate=5e-3)
        found = engine.run_stage("multitask", tasks=["odd", "large"], balancer="pcgrad", budget=budget).record
    assert min(found.scores.values()) > 0.8


def test_one_logit_for_two_classes_goes_through_everything() -> None:
    """Transfer, adapters, joint training: the same architecture with one output and with two come to the same."""
    x = (PIXELS / 16).astype("float32")
    scores = {}
    for outputs in (1, 2):
        with TransferEngine(
            seeds=2, budget=Budget(steps=60, samples=100), discoverers=[], auto_discover=False
        ) as engine:
            torch.manual_seed(0)
            for name, labels in (("odd", DIGITS % 2), ("large", (DIGITS > 4).astype(int))):
                engine.register_task(
                    Task(
                        descriptor=TaskDescriptor(task_id=name, output_dim=outputs), train=(x[:1000], labels[:1000]),
                        test=(x[1000:], labels[1000:]), build=lambda n=outputs: nn.Sequential(  # type: ignore[misc]
                            nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, n)),
                    )
                )  # fmt: skip
            scores[outputs] = engine.transfer_knowledge("odd", "large").score.mean
            assert engine.adapt("odd", "large", "adapter").model(torch.as_tensor(x[:3])).shape == (3, outputs)
    assert scores[1] == pytest.approx(scores[2], abs=0.1)
    assert min(scores.values()) > 0.6
