"""Tasks from data modules, and what is said where Lightning is missing."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from crosstask.errors import DataError, PluginError
from crosstask_lightning import tasks_from_datamodules
from crosstask_lightning.library import lightning

PIXELS, DIGIT = (torch.from_numpy(part) for part in load_digits(return_X_y=True))


class Digits(LightningDataModule):
    """Splits that are made when they are asked for, as Lightning's own order of calls has it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare")

    def setup(self, stage: str) -> None:
        self.calls.append(stage)
        part = slice(0, 200) if stage == "fit" else slice(200, 260)
        self.data = TensorDataset((PIXELS[part] / 16).float(), DIGIT[part])

    def train_dataloader(self) -> Any:
        return DataLoader(torch.utils.data.Subset(self.data, range(150)), batch_size=32)

    def val_dataloader(self) -> Any:
        return [DataLoader(torch.utils.data.Subset(self.data, range(150, 200)), batch_size=32)]

    def test_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=32)


def test_splits_are_the_modules_loaders() -> None:
    module = Digits()
    portfolio = tasks_from_datamodules({"digits": module})
    assert module.calls == ["prepare", "fit", "test"]
    for split, rows in (("train", slice(0, 150)), ("validation", slice(150, 200)), ("test", slice(200, 260))):
        found = portfolio["digits"].data(split)
        torch.testing.assert_close(found.inputs, (PIXELS[rows] / 16).float())
        assert torch.equal(found.targets, DIGIT[rows])
    assert portfolio["digits"].descriptor.output_dim == 10


def test_modules_that_make_no_task_are_refused() -> None:
    class Two(Digits):
        def val_dataloader(self) -> Any:
            return [*super().val_dataloader(), *super().val_dataloader()]

    with pytest.raises(DataError, match="val_dataloader of 'a' gives 2 loaders: make a module of each task"):
        tasks_from_datamodules({"a": Two()})
    with pytest.raises(DataError, match="the data module of 'a' has no train_dataloader"):
        tasks_from_datamodules({"a": LightningDataModule()})


def test_a_missing_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(PluginError, match="crosstask-lightning needs lightning for this: pip install lightning"):
        lightning()

    def broken(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'torchmetrics'", name="torchmetrics")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="torchmetrics"):
        lightning()
