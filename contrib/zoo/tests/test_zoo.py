"""Which of these models fits: loaded on use, ranked, advised, in Python and by a recipe."""

import gc

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_score
from torch import nn
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification

from crosstask import Budget, DataError, Task, TransferEngine
from crosstask.manifest import Extension, Plugin
from crosstask.registry import Registry
from crosstask_zoo import Given, Zoo, ZooModel, ZooSource

PIXELS, LABELS = load_digits(return_X_y=True)
IMAGES = torch.as_tensor(PIXELS / 16).float().reshape(-1, 1, 8, 8)
DIGITS = torch.as_tensor(LABELS)


def vit(seed, steps):
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=8, patch_size=4,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(steps):
        rows = torch.randint(0, 900, (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IMAGES[rows]).logits, DIGITS[rows]).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        vit(seed, 0).save_pretrained(place / f"random-{seed}")
        vit(seed, 300).save_pretrained(place / f"trained-{seed}")
    torch.manual_seed(0)
    small = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, pad_token_id=None
    )
    BertModel(small).save_pretrained(place / "text")
    (place / "notes").mkdir()
    (place / "readme.txt").write_text("no model", "utf-8")
    return place


def task(count=100):
    rows = slice(900, 900 + count)
    return Task(
        descriptor="mod5", train=(IMAGES[rows], DIGITS[rows] % 5), test=(IMAGES[1100:1300], DIGITS[1100:1300] % 5)
    )


def test_models_are_known_before_they_are_loaded_and_forgotten_after(folder):
    zoo = Zoo(folder)
    assert [saved.name for saved in zoo] == ["random-0", "random-1", "text", "trained-0", "trained-1"]
    assert len(zoo) == 5
    assert "text" in zoo
    assert not zoo._loaded
    model = zoo.load("trained-0")
    assert zoo.load("trained-0") is model
    assert not model.training
    del model
    gc.collect()
    assert not zoo._loaded
    with pytest.raises(DataError, match="the zoo has no model 'trained'; did you mean 'trained-"):
        zoo.load("trained")


def test_trained_models_are_ranked_above_random_ones_and_what_does_not_fit_last(folder):
    zoo, target = Zoo(folder), task()
    ranking = zoo.rank(target, by=["logme"])
    assert {name.partition("-")[0] for name in ranking.names[:2]} == {"trained"}
    assert set(ranking.names[2:]) == {"random-0", "random-1"}
    assert ranking.rows[-1].name == "text"
    assert ranking.rows[-1].unfit
    assert not zoo._loaded
    assert zoo.cache.computed == 400  # 4 models, 100 samples: the estimator and ridge regression see the same
    again = zoo.rank(target, by=["logme", "hscore"])
    assert zoo.cache.computed == 400
    assert [row.estimates["logme"] for row in again.rows[:-1]] != []
    shown = str(again)
    assert "ViTForImageClassification" in shown
    assert "hscore" in shown
    assert len(again.to_frame()) == 5
    assert "Models for mod5" in again._repr_html_()
    by_looks = zoo.rank(target)
    assert not by_looks.rows[0].estimates
    assert by_looks.names[0].startswith("trained")


def test_what_is_seen_is_ridge_regression_left_one_out(folder):
    zoo, target = Zoo(folder), task(60)
    row = next(row for row in zoo.rank(target, samples=None).rows if row.name == "trained-0")
    features = zoo.features("trained-0", target).numpy().astype(float)
    assert features.shape == (60, 32)
    z = (features - features.mean(0)) / features.std(0, ddof=1)
    scores = [
        cross_val_score(RidgeClassifier(alpha=a * z.shape[1]), z, target.data("train").targets, cv=LeaveOneOut()).mean()
        for a in (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    ]
    assert min(scores) - 0.05 <= row.looked <= max(scores) + 0.05


def test_features_survive_the_process(folder, tmp_path):
    for computed in (100, 0):
        zoo = Zoo({"a": folder / "trained-0"}, store=tmp_path / "zoo.db")
        zoo.rank(task(), by=["logme"])
        assert zoo.cache.computed == computed
        zoo.cache.store.close()


def test_the_best_are_tried_by_the_engine(folder):
    zoo = Zoo(folder)
    with TransferEngine(seeds=1, budget=Budget(steps=10), discoverers=[], auto_discover=False) as engine:
        engine.register_task(task())
        found = zoo.advise(engine, "mod5", ["logme"], finalists=2, share=0.5)
        assert set(engine.portfolio.ids) == {"mod5", "trained-0", "trained-1"}
        assert found.advice.source == found.names[0]
        assert found.rows[0].evidence.startswith("tried on")
        assert found.rows[0].expected is not None
        assert found.names[2:] != []
        assert "expected" in str(found)
        zoo.advise(engine, "mod5", ["logme"], finalists=2)  # they are registered already
        better = engine.adapt(found.names[0], "mod5", "lp_ft")
        assert type(better.model) is ZooModel
        with pytest.raises(DataError, match="at least 1 finalist, got 0"):
            zoo.advise(engine, "mod5", finalists=0)


def test_a_finalist_that_cannot_be_registered_is_told_and_stops_nothing(folder, monkeypatch):
    zoo = Zoo(folder)
    with TransferEngine(seeds=1, budget=Budget(steps=10), discoverers=[], auto_discover=False) as engine:
        engine.register_task(task())
        first = zoo.rank(engine.portfolio["mod5"], ["logme"], seed=engine.seed).names[0]
        register = engine.register_task

        def refuse(given):
            if given.task_id == first:
                raise DataError("not this one")
            register(given)

        monkeypatch.setattr(engine, "register_task", refuse)
        found = zoo.advise(engine, "mod5", ["logme"], finalists=2)
        assert first not in found.names
        assert next(row for row in found.rows if row.name == first).unfit == "not this one"


def test_all_models_are_tasks_of_an_engine(folder):
    zoo = Zoo(folder)
    with TransferEngine(seeds=1, budget=Budget(steps=10), discoverers=["mean_z"], auto_discover=False) as engine:
        engine.register(zoo.portfolio(task(), names=("trained-0", "trained-1", "random-0", "random-1")))
        graph = engine.discover()
        told = {n: graph.edge(n, "mod5").transfer_coefficient for n in zoo.portfolio().ids if n != "text"}
        assert min(told["trained-0"], told["trained-1"]) > max(told["random-0"], told["random-1"])
        before = zoo.cache.computed
        advice = engine.advise("mod5")
        assert zoo.cache.computed == before == 400
        assert advice.source.startswith("trained")


def test_modules_of_ones_own(folder):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    zoo = Zoo({"net": net, "trunk": Given(net), "ready": ZooModel(Given(net)), "saved": folder / "trained-0"})
    assert (zoo["net"].library, zoo["net"].architecture, zoo["net"].parameters) == ("given", "Sequential", 910)
    assert zoo.load("net") is zoo.load("net")
    assert zoo.task("net").descriptor.task_type == "classification"
    assert zoo.task("trunk").descriptor.task_type == "representation"
    ranking = zoo.rank(task(), by=["nce"])
    rows = {row.name: row for row in ranking.rows}
    assert "nce" in rows["net"].estimates
    assert not rows["trunk"].estimates  # it has no classes of its own
    assert np.isclose(rows["net"].looked, rows["trunk"].looked)
    for name, wrong, match in [
        ("net", net, "already has a model 'net'"),
        ("odd", 3, "must be a folder or a torch module, got a int"),
        ("none", folder / "notes", "holds no saved model"),
    ]:
        with pytest.raises(DataError, match=match):
            zoo.add(name, wrong)
    zoo.add("text", folder / "text")
    with pytest.raises(DataError, match="already has a model 'text'"):
        zoo.add_folder(folder)
    assert len(zoo) == 5  # none of the folder's was added
    with pytest.raises(DataError, match="holds a saved model"):
        zoo.add_folder(folder / "notes")
    assert [saved.name for saved in Zoo(folder / "text")] == ["text"]
    assert len(Zoo()) == 0


def test_a_model_whose_code_fails_is_last_with_the_reason():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 2)

        def forward(self, x):
            raise RuntimeError("no such luck")

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    zoo = Zoo({"broken": Broken(), "net": net})
    ranking = zoo.rank(task(), by=["logme"])
    assert [row.name for row in ranking.rows] == ["net", "broken"]
    assert "no such luck" in ranking.rows[1].unfit

    def fail(name):
        raise OSError("the disk is gone")

    zoo.load = fail
    assert "OSError: the disk is gone" in next(row.unfit for row in zoo.rank(task()).rows if row.name == "net")
    with pytest.raises(DataError, match="by names of discoverers or by discoverers, got a int"):
        zoo.rank(task(), by=[3])


def test_a_type_of_task_that_cannot_be_scored_is_ranked_by_estimates():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    some = Task(descriptor=task().descriptor, train=(IMAGES[:20], DIGITS[:20] % 2), metric=lambda outputs, targets: 1.0)
    assert Zoo({"net": net}).rank(some).rows[0].looked == 1.0
    from crosstask import TaskDescriptor
    from crosstask_zoo.zoo import _score

    places = Task(descriptor=TaskDescriptor(task_id="p", task_type="segmentation"))
    assert _score(torch.zeros(2, 3), places) is None


def test_a_source_that_cannot_be_loaded_does_not_hide_the_others():
    registry = Registry.installed()
    broken = Plugin(name="odd", extensions=[Extension("source", "odd", "nowhere.at_all:Odd")], api=(2, 0))
    registry.register(broken)
    assert "transformers" in [reader.library for reader in Zoo(registry=registry).readers]


def test_a_recipe_names_a_folder(folder):
    loaded = ZooSource(
        folder=folder, data={"use": "digits", "tasks": ["loop", "low", "mix"]}, models=("trained-0", "random-0")
    ).load()
    assert loaded.ids == ["trained-0", "random-0", "low", "loop"]
    assert [task.task_id for task in loaded.unseen] == ["mix"]
    assert loaded["trained-0"].model.trunk._cache is not None


def test_names_that_are_taken_are_said(tmp_path):
    vit(0, 0).save_pretrained(tmp_path / "loop")
    with pytest.raises(DataError, match=r"'loop' is a model in .* and a task of `data`"):
        ZooSource(folder=tmp_path, data={"use": "digits", "tasks": ["loop", "low"]}).load()


def test_where_no_model_fits_nothing_is_registered_and_that_is_said(folder):
    zoo = Zoo({"text": folder / "text"})
    with TransferEngine(seeds=1, budget=Budget(steps=10), discoverers=[], auto_discover=False) as engine:
        engine.register_task(task())
        found = zoo.advise(engine, "mod5", ["logme"])
        assert found.names == []
        assert engine.portfolio.ids == ["mod5"]
        assert found.advice.source is None
        assert "No source fits" in found.advice.text
        assert "text" in str(found)
        with pytest.raises(DataError, match=r"no task 'mod6'.*did you mean 'mod5'"):
            zoo.advise(engine, "mod6")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_features_are_not_finite_is_last_with_the_reason(value):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(64, 4), nn.Linear(4, 2)

        def forward(self, images):
            return self.head(self.body(images.flatten(1)) * value)

    found = Zoo({"broken": Broken(), "plain": nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 2))}).rank(
        task()
    )
    assert found.names == ["plain"]
    assert found.rows[-1].unfit == "its features of these samples are not finite"


def test_a_deep_config_is_no_model(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="holds a saved model"):
        Zoo(tmp_path)
