"""A zoo of saved models: which of them fits my data."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.advising import left_one_out, paragraph
from crosstask.engine import TransferEngine
from crosstask.errors import CrosstaskError, DataError, PluginError, nearest, told
from crosstask.graph import TransferGraph
from crosstask.learning.objectives import metric_of
from crosstask.learning.training import predict
from crosstask.learning.transferring import drawn
from crosstask.points.discovery import Discoverer
from crosstask.points.store import Store
from crosstask.registry import Registry
from crosstask.store import open_store
from crosstask.tasks import Portfolio, Task
from crosstask_zoo.cache import FeatureCache
from crosstask_zoo.ranking import Ranked, Ranking, advised, ranked
from crosstask_zoo.saved import Saved, SavedModels, inside, opened, task_of
from crosstask_zoo.trunk import Given, Trunk, ZooModel

LOOKED_AT = ("classification", "multilabel", "regression")
"""Types of tasks for which ridge regression on features can be scored."""


class Zoo:
    """Saved models by name, and modules of your own; a model is loaded when something is asked of it, and forgotten
    when nobody has it any more.

    `models` is a folder in which each has its own folder, or a mapping of names to such folders or to modules. Who can
    read what is found among the installed sources: `crosstask-zoo` reads what transformers has saved, `crosstask-timm`
    what timm has. Features of samples are computed once (`FeatureCache`): at most `memory` bytes are held, and with a
    `store` (or its URL) at most `disk` bytes are kept there, for later runs.
    """

    def __init__(
        self,
        models: str | Path | Mapping[str, Any] | None = None,
        *,
        store: Store | str | Path | None = None,
        memory: int = 1 << 28,
        disk: int = 1 << 31,
        registry: Registry | None = None,
    ) -> None:
        self.registry = Registry.installed() if registry is None else registry
        kept = open_store(str(store), registry=self.registry) if isinstance(store, str | Path) else store
        self.cache = FeatureCache(kept, memory=memory, disk=disk)
        self._saved: dict[str, tuple[Saved, type[SavedModels] | None]] = {}
        self._given: dict[str, ZooModel] = {}
        self._loaded: weakref.WeakValueDictionary[str, ZooModel] = weakref.WeakValueDictionary()
        if isinstance(models, Mapping):
            for name, model in models.items():
                self.add(name, model)
        elif models is not None:
            self.add_folder(models)

    # What there is ----------------------------------------------------------------------------------------------------

    def add(self, name: str, model: Any) -> Saved:
        """Add one: a folder with a saved model, a `Trunk`, or any torch module with a head. What is known of it."""
        if name in self._saved:
            raise DataError(f"the zoo already has a model {name!r}")
        if isinstance(model, str | Path):
            return self._add_saved(Path(model), name)
        if not isinstance(model, nn.Module):
            raise DataError(f"model {name!r} must be a folder or a torch module, got a {type(model).__name__}")
        body: Any = getattr(model, "body", model)
        made = _with_head(model)
        saved = Saved(name, "given", type(body).__name__, None, sum(p.numel() for p in model.parameters()))
        made.eval().trunk.remember_in(self.cache)
        self._given[name], self._saved[name] = made, (saved, None)
        return saved

    def add_folder(self, folder: str | Path) -> list[Saved]:
        """Add every saved model in a folder, each under the name of its own. DataError if there is none."""
        found = [each for place in inside(Path(folder)) if (each := self._recognised(place)) is not None]
        if not found:
            names = ", ".join(sorted(reader.library for reader in self.readers)) or "no library"
            raise DataError(f"no folder in {folder} holds a saved model (models of {names} can be read)")
        taken = next((saved.name for saved, _ in found if saved.name in self._saved), None)
        if taken is not None:
            raise DataError(f"the zoo already has a model {taken!r}: add the folder under another name")
        self._saved |= {saved.name: (saved, reader) for saved, reader in found}
        return [saved for saved, _ in found]

    @property
    def readers(self) -> list[type[SavedModels]]:
        """Those of the installed sources that read saved models."""
        found = []
        for name in self.registry.names("source"):
            try:
                made = self.registry.component_class("source", name)
            except PluginError:  # `crosstask plugins` says what is wrong with it
                continue
            if issubclass(made, SavedModels):
                found.append(made)
        return found

    def _recognised(self, place: Path) -> tuple[Saved, type[SavedModels]] | None:
        for reader in self.readers:
            if (saved := reader.recognise(place)) is not None:
                return saved, reader
        return None

    def _add_saved(self, place: Path, name: str) -> Saved:
        found = self._recognised(place)
        if found is None:
            names = ", ".join(sorted(reader.library for reader in self.readers)) or "no library"
            raise DataError(f"{place} holds no saved model (models of {names} can be read)")
        saved = Saved(name, found[0].library, found[0].architecture, place, found[0].parameters)
        self._saved[name] = (saved, found[1])
        return saved

    def __len__(self) -> int:
        return len(self._saved)

    def __iter__(self) -> Iterator[Saved]:
        return iter([saved for saved, _ in self._saved.values()])

    def __contains__(self, name: object) -> bool:
        return name in self._saved

    def __getitem__(self, name: str) -> Saved:
        """What is known of a model. DataError for a name that is not here."""
        if name not in self._saved:
            raise DataError(f"the zoo has no model {name!r}{nearest(name, self._saved)}")
        return self._saved[name][0]

    # Models -----------------------------------------------------------------------------------------------------------

    def load(self, name: str) -> ZooModel:
        """A model: the same one as long as somebody has it."""
        saved = self[name]
        reader = self._saved[name][1]
        model = self._given.get(name) or self._loaded.get(name)
        if model is None:
            assert reader is not None
            model = opened(reader, saved, self.cache)
            self._loaded[name] = model
        return model

    def task(self, name: str) -> Task:
        """A model as a task to learn from, without data: what an engine registers."""
        return task_of(self[name], self.load(name))

    def portfolio(self, *tasks: Task, names: Iterable[str] | None = None) -> Portfolio:
        """All models (or those `names`) as tasks, beside tasks of your own."""
        chosen = list(self._saved) if names is None else list(names)
        return Portfolio([*(self.task(name) for name in chosen), *tasks], name="zoo")

    def features(self, name: str, task: Task, split: str = "train", *, batch_size: int = 256) -> Tensor:
        """Features [N, F] of a task's samples by one model; each sample goes through it once, whoever asks."""
        return predict(self.load(name).trunk, task.data(split).inputs, batch_size)

    # Ranking ----------------------------------------------------------------------------------------------------------

    def rank(
        self, task: Task, by: Iterable[str | Discoverer] = (), *, samples: int | None = 250, seed: int = 0
    ) -> Ranking:
        """Every model looked at, without training, on `samples` of the task's training samples (all, if none), drawn
        by `seed`; models that are not in use are loaded one at a time.

        Of each: the task's metric of ridge regression on its features, each sample by the others. `by` names estimators
        of transfer (`logme`, `hscore`, `nce`, …: `crosstask plugins list discovery`), of whose raw values the mean
        z-score then ranks. A model that does not fit the samples is last, with the reason.
        """
        asked: list[Discoverer] = [self._estimator(each) for each in by]
        some = drawn(task, samples, seed)
        alone = some.over(train=some.data("train"))
        return ranked(task.task_id, metric_of(task).told, [self._looked(name, alone, asked) for name in self._saved])

    def advise(
        self,
        engine: TransferEngine,
        target: str,
        by: Iterable[str | Discoverer] = (),
        *,
        finalists: int = 4,
        samples: int | None = 250,
        strategy: Any = None,
        share: float = 0.25,
    ) -> Ranking:
        """Every model ranked for a task of an engine (see `rank`), the best `finalists` registered there and their
        order decided by `TransferEngine.advise`, which tries some on folds of the task's own samples. `share` is of the
        cost of learning from every model of the zoo. `.advice` is what the engine says, `.advice.source` its choice.
        """
        if finalists < 1:
            raise DataError(f"advice is given on at least 1 finalist, got {finalists}")
        found = self.rank(engine.portfolio[target], by, samples=samples, seed=engine.seed)
        rows = list(found.rows)
        for n, name in enumerate(found.names[:finalists]):
            if name in engine.portfolio:
                continue
            try:
                engine.register_task(self.task(name))
            except DataError as error:
                rows[n] = attrs.evolve(rows[n], unfit=str(error), score=None)
        rows.sort(key=lambda row: bool(row.unfit))
        sources = max(1, len(engine.portfolio) - 1)
        whole = min(1.0, share * max(len(self), sources) / sources)
        said = engine.advise(target, strategy, share=whole)
        of_all = attrs.evolve(said, spent=said.spent * sources / max(len(self), sources))
        text = said.text.replace(paragraph(said), paragraph(of_all), 1)
        return advised(attrs.evolve(found, rows=tuple(rows)), attrs.evolve(of_all, text=text))

    def _estimator(self, chosen: str | Discoverer) -> Discoverer:
        made: Any = self.registry.create("discovery", chosen) if isinstance(chosen, str) else chosen
        if not isinstance(made, Discoverer):
            raise DataError(f"a ranking is by names of discoverers or by discoverers, got a {type(made).__name__}")
        return made

    def _looked(self, name: str, task: Task, asked: list[Discoverer]) -> Ranked:
        saved = self[name]
        row = (saved.name, saved.library, saved.architecture, saved.parameters)
        try:
            source = self.task(name)
            features = self.features(name, task)
        except Exception as error:  # of foreign files and code, too
            return Ranked(*row, unfit=str(error) if isinstance(error, CrosstaskError) else told(error))
        if not torch.isfinite(features).all():
            return Ranked(*row, unfit="its features of these samples are not finite")
        estimates: dict[str, float] = {}
        for each in asked:
            estimates |= _estimated(each, source, task)
        return Ranked(*row, looked=_score(features, task), estimates=estimates)


def _with_head(model: nn.Module) -> ZooModel:
    if isinstance(model, ZooModel):
        return model
    if isinstance(model, Trunk):
        return ZooModel(model)
    trunk = Given(model)
    return ZooModel(trunk, trunk.own_head)


def _score(features: Tensor, task: Task) -> float | None:
    if task.descriptor.task_type not in LOOKED_AT:
        return None
    data = task.data("train")
    return float(metric_of(task)(left_one_out(features.flatten(1), data.targets, task), data.targets))


def _estimated(discoverer: Discoverer, source: Task, target: Task) -> dict[str, float]:
    """Raw values of an estimator for one pair; nothing where it says that it cannot."""
    both = Portfolio([source, target], name="zoo")
    graph = TransferGraph([source.descriptor, target.descriptor])
    try:
        edges = discoverer.discover(both.restricted([(source.task_id, target.task_id)]), graph)
    except DataError:
        return {}
    return {name: value for edge in edges for name, value in edge.estimates.items()}
