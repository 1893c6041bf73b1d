"""An engine in a folder: its tasks, graph and models, to be opened again. Weights are safetensors, the rest JSON."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import CrosstaskError, DataError, StoreError, nearest, of_kind
from crosstask.graph import TransferGraph
from crosstask.learning.checkpoint import load_state, save_state
from crosstask.learning.model_files import load_model, save_model
from crosstask.learning.models import ModelSpec
from crosstask.options import structure, unstructure
from crosstask.records import Budget
from crosstask.tasks import SPLITS, Portfolio, Task
from crosstask.writing import check_path, size_of, unwritten


class Held(Protocol):
    """What an engine has that is written into a folder."""

    portfolio: Portfolio
    graph: TransferGraph
    model: ModelSpec
    train_budget: Budget
    budget: Budget
    seed: int
    seeds: int
    given_models: dict[str, str]
    brought: dict[str, str | None]
    run: Any

    def register_task(
        self, task_or_descriptor: Task, trained_model: nn.Module | None = None, *, unseen: bool = False
    ) -> None: ...


H = TypeVar("H", bound=Held)

FORMAT = 1
HEAD = "engine.json"
"""The file of a saved engine that says what the others are; it is written last."""


def save_engine(engine: Held, folder: str | Path, *, data: bool = False) -> Path:
    """Write the engine into a new folder, or over one that an engine was written into, whose other files stay."""
    target = Path(structure(folder, Path, "where an engine is saved"))
    check_path(target, "engine")
    try:
        before = _written(target)
    except OSError as error:  # such as a name that is too long
        raise StoreError(unwritten(error, target, "engine")) from None
    if before is None:
        raise StoreError(f"{target} holds something else: name a new folder")
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tasks = []
        unseen = {t.task_id for t in engine.portfolio.unseen}
        for number, task in enumerate((*engine.portfolio, *engine.portfolio.unseen)):
            told: dict[str, Any] = {"descriptor": task.descriptor.to_json(), "unseen": task.task_id in unseen}
            for name in ("loss", "metric", "head"):
                value = getattr(task, name)
                told[name] = value if value is None or isinstance(value, str) else None
                if value is not None and told[name] is None:
                    engine.run.log.warning("not saved: name it again on opening", task=task.task_id, what=name)
            if task.model is not None:
                told["model"] = f"models/{number}.safetensors"
                told["given"] = task.task_id in engine.given_models
                save_model(task.model, part / told["model"])
            if data and any(task.has_data(split) for split in SPLITS):
                told["data"] = f"data/{number}.safetensors"
                (part / "data").mkdir(exist_ok=True)
                save_state(part / told["data"], _data_of(task))
            tasks.append(told)
        head = {
            "format": FORMAT,
            "name": engine.portfolio.name,
            "tasks": tasks,
            "model": unstructure(engine.model),
            "train": unstructure(engine.train_budget),
            "budget": unstructure(engine.budget),
            "seed": engine.seed,
            "seeds": engine.seeds,
        }
        (part / HEAD).write_text(json.dumps(head, indent=1), encoding="utf-8")
        engine.graph.export(part / "graph.json")
        written = sorted((f.relative_to(part) for f in part.rglob("*") if f.is_file()), key=lambda f: f.name == HEAD)
        for file in written:  # the head, which names the others, last
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            (part / file).replace(target / file)
        for file in before - set(written):
            (target / file).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(unwritten(error, target, "engine", written=size_of(part))) from None
    except StoreError as error:  # of a file in it
        raise StoreError(str(error).replace(str(part), str(target))) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _written(folder: Path) -> set[Path] | None:
    """The files that an engine was written into; none for a new or empty folder; None for anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return set()
    try:
        head = json.loads((folder / HEAD).read_text(encoding="utf-8"))
        if head["format"] != FORMAT or not isinstance(head["tasks"], list):
            return None
        named = [told.get(kind) for told in head["tasks"] for kind in ("model", "data")]
        files = {_inside(folder, name).relative_to(folder.resolve()) for name in named if name}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, StoreError):
        return None
    return files | {Path("graph.json"), Path(HEAD)}


def _data_of(task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split in SPLITS:
        if task.has_data(split):
            data = task.data(split)
            parts = getattr(data.inputs, "parts", None)
            found[split] = {"inputs": data.inputs if parts is None else parts, "targets": data.targets,
                            "named": getattr(data.inputs, "named", True)}  # fmt: skip
    return found


def open_engine(
    make: Callable[..., H],
    folder: str | Path,
    *,
    tasks: Mapping[str, Task] | None = None,
    models: Mapping[str, nn.Module] | None = None,
    trust: bool = False,
    **options: Any,
) -> H:
    """An engine as it was saved; see `TransferEngine.open`."""
    root = Path(structure(folder, Path, "where an engine was saved"))
    tasks = structure(tasks, dict[str, Any], "tasks") if tasks is not None else {}
    models = structure(models, dict[str, Any], "models") if models is not None else {}
    for task in tasks.values():
        of_kind(task, Task, "each of tasks")
    for model in models.values():
        of_kind(model, nn.Module, "each of models")
    try:
        head = json.loads((root / HEAD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{root} is no engine that was saved: it has no {HEAD}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"cannot read engine {root}: {error}") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT or not isinstance(head.get("tasks"), list):
        raise StoreError(f"{root}: an engine of another format; this crosstask reads {FORMAT}")
    for told in head["tasks"]:
        if not isinstance(told, dict) or not isinstance(told.get("descriptor"), dict):
            raise StoreError(f"{root}: {HEAD} is damaged: a task without a descriptor")
    known = [str(told["descriptor"].get("task_id")) for told in head["tasks"]]
    for given in (tasks, models):
        for task_id in given:
            if task_id not in known:
                raise DataError(f"{root} has no task {task_id!r}{nearest(task_id, known)}")
    if missing := [key for key in ("model", "train", "budget", "seed", "seeds") if key not in head]:
        raise StoreError(f"{root}: {HEAD} is damaged: it has no {missing[0]!r}")
    spec = structure(head["model"], ModelSpec, "model")
    if ":" in spec.kind and not trust and "model" not in options:
        raise DataError(
            f"{root}: its networks are made by {spec.kind}, whose code is imported only with trust=True; or give model="
        )
    train = structure(head["train"], Budget, "train")
    options = {
        "model": spec,
        "train": train,
        "budget": structure(head["budget"], Budget, "budget"),
        "seed": head["seed"],
        "seeds": head["seeds"],
        "auto_discover": False,  # the graph is there already
    } | options
    engine = make(**options)
    engine.portfolio.name = str(head.get("name", root.name))
    for told in head["tasks"]:
        _reopen(engine, root, told, tasks, models, trust)
        if not told.get("given"):
            task_id = told["descriptor"]["task_id"]
            engine.given_models.pop(task_id, None)
            if (engine.model, engine.train_budget, engine.seed) == (spec, train, head["seed"]):
                engine.brought.pop(task_id, None)  # it would train this very model
    engine.graph = TransferGraph.load(root / "graph.json")
    return engine


def _reopen(
    engine: Held, root: Path, told: dict[str, Any], tasks: dict[str, Task], models: dict[str, nn.Module],
    trust: bool,
) -> None:  # fmt: skip
    descriptor = TaskDescriptor.from_json(told["descriptor"])
    task = tasks.get(descriptor.task_id)
    if task is not None and descriptor.classes:
        if not task.descriptor.classes and descriptor.task_type == task.descriptor.task_type:
            task.descriptor = descriptor  # labels that are names mean the classes that the model knows
        if task.descriptor.classes != descriptor.classes:
            raise DataError(
                f"task {task.task_id!r} was saved with the classes {list(descriptor.classes)}, and has "
                f"{list(task.descriptor.classes)}: its model knows the former"
            )
    if task is None:
        splits = _read_data(root, told["data"]) if told.get("data") else {}
        task = Task(descriptor=descriptor, loss=told.get("loss"), metric=told.get("metric"), head=told.get("head"),
                    **splits)  # fmt: skip
    if told.get("model") and task.model is None:
        try:
            own = models.get(descriptor.task_id)
            task.model = load_model(_inside(root, told["model"]), into=own, trust=trust).to(engine.run.device)
        except CrosstaskError as error:
            how = f"or open the engine with models={{{task.task_id!r}: module}}"
            engine.run.log.warning("model left out", task=task.task_id, reason=str(error), hint=how)
    engine.register_task(task, unseen=bool(told.get("unseen")))


def _inside(root: Path, name: Any) -> Path:
    """A file of the folder; StoreError for a name that leads out of it."""
    path = (root / str(name)).resolve()
    if not path.is_relative_to(root.resolve()):
        raise StoreError(f"{root}: {name!r} lies outside the folder")
    return path


def _read_data(root: Path, name: Any) -> dict[str, Any]:
    found = load_state(_inside(root, name))
    splits: dict[str, Any] = {}
    for split, held in found.items():
        inputs = held["inputs"]
        if isinstance(inputs, dict) and not held["named"]:
            inputs = tuple(inputs.values())
        splits[split] = (inputs, held["targets"])
    return splits
