"""Folders of images as tasks."""

import numpy as np
import pytest
from PIL import Image

from crosstask.errors import DataError
from crosstask_timm import ImageFolders


def write(place, count, level, size=(10, 14)):
    place.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(np.full((*size, 3), level + number, "uint8")).save(place / f"{number}.png")


def test_a_folder_of_classes_is_a_task_of_which_some_are_held_out(tmp_path):
    write(tmp_path / "pets" / "cat", 10, 0)
    write(tmp_path / "pets" / "dog", 20, 100)
    task = ImageFolders(folder=tmp_path / "pets", size=8).load()["pets"]
    assert task.descriptor.classes == ("cat", "dog")
    assert task.descriptor.input_shape == (3, 8, 8)
    counts = {split: np.bincount(task.data(split).targets).tolist() for split in ("train", "validation", "test")}
    assert counts == {"train": [6, 12], "validation": [2, 4], "test": [2, 4]}
    levels = [round(float(x.mean()) * 255) for s in counts for x in task.data(s).inputs]
    assert sorted(levels) == [*range(10), *range(100, 120)]  # each image once
    train = task.data("train")
    assert all((level >= 100) == label for level, label in zip(levels, train.targets.tolist(), strict=False))


def test_splits_of_ones_own_and_several_tasks(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        write(tmp_path / "pets" / split / "cat", count, 0)
        write(tmp_path / "pets" / split / "dog", count, 100)
    write(tmp_path / "cars" / "old", 5, 0)
    write(tmp_path / "cars" / "new", 5, 50)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image", "utf-8")
    found = ImageFolders(folder=tmp_path, size=4).load()
    assert found.ids == ["cars", "pets"]
    assert [len(found["pets"].data(split)) for split in ("train", "validation", "test")] == [6, 4, 2]


def test_the_middle_square_is_kept(tmp_path):
    wide = np.zeros((8, 16, 3), "uint8")
    wide[:, 4:12] = 200
    for kind in ("a", "b"):
        (tmp_path / "t" / "train" / kind).mkdir(parents=True)
        Image.fromarray(wide).save(tmp_path / "t" / "train" / kind / "x.png")
    write(tmp_path / "t" / "test" / "a", 1, 0)
    image = ImageFolders(folder=tmp_path / "t", size=8).load()["t"].data("train").inputs[0]
    assert float(image.min()) == pytest.approx(200 / 255)


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(DataError, match="nowhere is no folder"):
        ImageFolders(folder=tmp_path / "nowhere").load()
    with pytest.raises(DataError, match="holds no folder of images for each of two classes or more"):
        ImageFolders(folder=tmp_path).load()
    write(tmp_path / "t" / "test" / "a", 1, 0)
    write(tmp_path / "t" / "test" / "b", 1, 0)
    with pytest.raises(DataError, match="has no images to train on"):
        ImageFolders(folder=tmp_path / "t").load()
    write(tmp_path / "t" / "train" / "a", 1, 0)
    (tmp_path / "t" / "train" / "a" / "bad.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"bad\.png cannot be read as an image"):
        ImageFolders(folder=tmp_path / "t").load()
