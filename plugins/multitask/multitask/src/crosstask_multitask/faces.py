"""Networks of several tasks, constructed with their sizes in hand, under the names of the papers' classes.

    from crosstask_multitask import SoftParameterSharing

    net = SoftParameterSharing(20, {"price": {}, "kind": {"output_dim": 5, "task_type": "classification"}})
    logits = net(x)  # {"price": [B, 1], "kind": [B, 5]}

Each is a `MultiTaskBase` around the architecture that it names, found in the registry when it is constructed; the
architecture itself (`crosstask_cross_stitch.CrossStitch`) knows no sizes and is what recipes and runs use. A face is a
`MultiTaskModule`: `MultiTaskTrainer` trains it, with any balancer. Answers are logits, never probabilities; there is no
normalisation over the batch, so a training batch may be a single sample. What is random comes from torch's global
generator, as in any network of torch's.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, UnknownComponentError, nearest
from crosstask.options import structure
from crosstask.tasks import Task
from crosstask_multitask.headed import HeadedModule, key
from crosstask_multitask.sharing import Inputs, MultiTaskModule, Sharing, SharingMatrix
from crosstask_multitask.task_configs import TaskConfig, config_of, configs_of, name_of, table_of

Mask = Tensor | Mapping[str, Tensor]
"""Which samples have a label for which task: bool [B, T], columns in the order of the tasks, or bool [B] by task (all
samples, for one that is not there).
"""


class MultiTaskBase(MultiTaskModule):
    """A network of shared layers and layers of each task, for vectors [B, input_dim].

        class Mine(MultiTaskBase):
            def _build_shared_layers(self):
                return nn.Sequential(nn.Linear(self.input_dim, 32), nn.ReLU())

            def _build_task_specific_layers(self, config):
                return nn.Linear(32, config["output_dim"])

    `task_configs`: by task `output_dim` (1), `task_type` ("regression", "classification", "multilabel") and
    `hidden_dims`. They are checked and copied. The layers are built while `super().__init__` runs: whatever the two
    methods need is set before. `architecture` names what is shared how; what is not said otherwise is a trunk for all.
    """

    architecture: ClassVar[str] = "hard_parameter_sharing"
    """The component of the point `sharing` that joins the layers."""
    own_dims: ClassVar[tuple[int, ...]] = (64, 32)
    """`hidden_dims` of a task that names none."""

    def __init__(self, input_dim: int, task_configs: Mapping[str, Any], **options: Any) -> None:
        super().__init__()
        self.input_dim = _size("input_dim", input_dim)
        configs = configs_of(task_configs)
        self.task_configs = {name: config.table(self.own_dims) for name, config in configs.items()}
        sharing = self._component({**options, **self._options()})
        trunk = _module(self, "_build_shared_layers", self._build_shared_layers)
        tasks = [configs[name].task(name, self.input_dim) for name in self._order()]
        made = sharing.build(tasks, trunk)
        if not isinstance(made, HeadedModule):
            raise OptionError(f"{type(self).__name__}: {sharing.origin} has no head for each task to be given")
        self.module: HeadedModule = made
        for name in self._order():
            self._put_head(name, self._head(name))

    @abstractmethod
    def _build_shared_layers(self) -> nn.Module:
        """What all tasks share: [B, input_dim] to features [B, F]."""

    @abstractmethod
    def _build_task_specific_layers(self, config: dict[str, Any]) -> nn.Module | None:
        """What a task has of its own: features to logits [B, output_dim]; None to leave it to the architecture.
        `config` has its `output_dim`, `task_type` and `hidden_dims`.
        """

    def _options(self) -> dict[str, Any]:
        """Options of the architecture."""
        return {}

    def _order(self) -> list[str]:
        """The tasks as the architecture is given them."""
        return list(self.task_configs)

    def _component(self, options: Mapping[str, Any]) -> Sharing:
        seed = int(torch.randint(2**31 - 1, ()))
        try:
            made = LocalContext(seed).component("sharing", self.architecture, options)
        except UnknownComponentError as error:
            raise UnknownComponentError(f"{type(self).__name__}: {error}") from None
        assert isinstance(made, Sharing)
        return made

    def _head(self, name: str) -> nn.Module | None:
        config = dict(self.task_configs[name])
        made: nn.Module | None = _module(
            self, "_build_task_specific_layers", lambda: self._build_task_specific_layers(config)
        )
        return made

    def _put_head(self, name: str, made: nn.Module | None) -> None:
        if made is not None:
            like = next(self.module.parameters())
            self.module.heads[key(name)] = made.to(like).train(self.training)

    # --- What it answers

    def forward(self, x: Tensor | Inputs, task_mask: Mask | None = None) -> dict[str, Tensor]:
        """Logits [B, output_dim] of each task for samples [B, input_dim].

        With a `task_mask` a task answers for the samples that it has a label for; the others cost it nothing, and are
        zeros through which no gradient goes. A sample without any label passes through nothing. Inputs by task are
        answered by task, as every `MultiTaskModule` does.
        """
        if isinstance(x, Mapping):
            answers: dict[str, Tensor] = self.module({name: self._checked(batch) for name, batch in x.items()})
            return answers
        batch = self._checked(x)
        if task_mask is None:
            answers = self.module(dict.fromkeys(self.task_configs, batch))
            return {name: answers[name] for name in self.task_configs}
        known = self._known(task_mask, batch)
        places = {name: rows.nonzero()[:, 0] for name, rows in known.items()}
        labelled = torch.stack(list(known.values())).any(dim=0)
        asked = [name for name, each in places.items() if len(each)]
        found: dict[str, Tensor] = {}
        if asked:
            renumbered = labelled.long().cumsum(dim=0) - 1
            rows = {name: renumbered[places[name]] for name in asked}
            found = self.module.on_rows(dict.fromkeys(asked, batch[labelled]), rows)
        kind = next(iter(found.values()), next(self.parameters()))
        full = {}
        for name, config in self.task_configs.items():
            full[name] = torch.zeros(len(batch), config["output_dim"], dtype=kind.dtype, device=batch.device)
            if name in found:
                full[name] = full[name].index_copy(0, places[name], found[name])
        return full

    def _checked(self, batch: Any) -> Tensor:
        if not isinstance(batch, Tensor) or batch.ndim != 2 or batch.shape[1] != self.input_dim:
            shape = tuple(batch.shape) if isinstance(batch, Tensor) else type(batch).__name__
            raise DataError(f"{type(self).__name__}: inputs must have the shape [B, {self.input_dim}], got {shape}")
        return batch

    def _known(self, mask: Mask, batch: Tensor) -> dict[str, Tensor]:
        names, count = list(self.task_configs), len(batch)
        if isinstance(mask, Tensor):
            if mask.shape != (count, len(names)):
                raise DataError(f"task_mask must have the shape [{count}, {len(names)}], got {tuple(mask.shape)}")
            columns = dict(zip(names, mask.unbind(dim=1), strict=True))
        elif isinstance(mask, Mapping):
            columns = dict(mask)
        else:
            raise DataError(f"task_mask must be a tensor, or tensors by task, got a {type(mask).__name__}")
        for name, column in columns.items():
            self._check_task(name, "task_mask")
            if not isinstance(column, Tensor) or column.shape != (count,):
                shape = tuple(column.shape) if isinstance(column, Tensor) else type(column).__name__
                raise DataError(f"task_mask: {name!r} must have the shape [{count}], got {shape}")
            if column.dtype != torch.bool and not bool(((column == 0) | (column == 1)).all()):
                raise DataError(f"task_mask: {name!r} must be true or false (1 or 0) for each sample")
        all_of_them = torch.ones(count, dtype=torch.bool, device=batch.device)
        return {name: columns[name].to(all_of_them) if name in columns else all_of_them for name in names}

    def _check_task(self, name: Any, where: str) -> None:
        if not isinstance(name, str) or name not in self.task_configs:
            raise DataError(f"{where}: no task {name!r}{nearest(name, self.task_configs)}")

    # --- What is shared

    def on_rows(self, inputs: Inputs, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.module.on_rows(inputs, rows)

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        return self.module.shared_parameters()

    def task_parameters(self, task_id: str) -> Iterator[nn.Parameter]:
        self._check_task(task_id, type(self).__name__)
        return self.module.task_parameters(task_id)

    def learned(self, inputs: Inputs) -> list[SharingMatrix]:
        return self.module.learned(inputs)

    def add_task(self, task: Task | str, config: Mapping[str, Any] | None = None) -> None:
        """Give it another task, by its name and what its table in `task_configs` would be; the others' answers stay as
        they are. DataError for one that it has.
        """
        if isinstance(task, Task):
            described = task.descriptor
            name, told = task.task_id, {"output_dim": described.output_dim or 1, "task_type": described.task_type}
            told |= table_of(name, config)
        else:
            name, told = name_of(task), table_of(name_of(task), config)
        if name in self.task_configs:
            raise DataError(f"{type(self).__name__} has a task {name!r} already")
        made = config_of(name, told)
        self.task_configs[name] = made.table(self.own_dims)
        try:
            self._add(name, made)
        except BaseException:
            del self.task_configs[name]
            raise

    def _add(self, name: str, config: TaskConfig) -> None:
        made = self._head(name)  # somebody's own code, which may fail: nothing has changed so far
        self.module.add_task(config.task(name, self.input_dim))
        self._put_head(name, made)


class _Layered(MultiTaskBase):
    """Layers with ReLU and dropout, shared and of each task."""

    def __init__(
        self, input_dim: int, told: str, dims: Sequence[int], task_configs: Mapping[str, Any], dropout_rate: float
    ) -> None:
        self._dims = _widths(told, dims)
        self.dropout_rate = _rate(dropout_rate)
        super().__init__(input_dim, task_configs)

    def _build_shared_layers(self) -> nn.Module:
        return _layers((self.input_dim, *self._dims), self.dropout_rate)

    def _build_task_specific_layers(self, config: dict[str, Any]) -> nn.Module | None:
        dims = (self._dims[-1], *config["hidden_dims"])
        return nn.Sequential(*_layers(dims, self.dropout_rate), nn.Linear(dims[-1], config["output_dim"]))


class HardParameterSharing(_Layered):
    """One trunk for all tasks (Caruana 1997); each has layers of its own, 64 and 32 wide unless it says otherwise."""

    def __init__(
        self,
        input_dim: int,
        shared_dims: Sequence[int],
        task_configs: Mapping[str, Any],
        dropout_rate: float = 0.2,
    ) -> None:
        super().__init__(input_dim, "shared_dims", shared_dims, task_configs, dropout_rate)
        self.shared_dims = list(self._dims)


class SoftParameterSharing(_Layered):
    """A network for each task, which after every layer takes of the others' (cross-stitch, Misra et al. 2016).

    `learned` gives how much. Each task has layers of its own after them, one of 32 unless it says otherwise.
    """

    architecture: ClassVar[str] = "cross_stitch"
    own_dims: ClassVar[tuple[int, ...]] = (32,)

    def __init__(
        self,
        input_dim: int,
        task_configs: Mapping[str, Any],
        shared_dims: Sequence[int] = (128, 64),
        dropout_rate: float = 0.2,
    ) -> None:
        super().__init__(input_dim, "shared_dims", shared_dims, task_configs, dropout_rate)
        self.shared_dims = list(self._dims)


class ProgressiveMultiTask(_Layered):
    """A column for each task, which takes something of the columns before it and changes nothing in them (Rusu et al.
    2016). The tasks of `task_sequence` come in this order; the base is the first one's.

        for name in net.task_sequence:
            net.learn(name)  # its column only, with the base for the first; all else is frozen
            ...

    Without `learn` all columns are trained at once, each by its own task, and the base by the first. Laterals go from
    the input of an earlier column's last layer to that of a later one's, and are always there, whichever tasks are
    asked for.
    """

    architecture: ClassVar[str] = "progressive"

    def __init__(
        self,
        input_dim: int,
        base_dims: Sequence[int],
        task_sequence: Sequence[str],
        task_configs: Mapping[str, Any],
        dropout_rate: float = 0.2,
    ) -> None:
        configs = configs_of(task_configs)
        self.task_sequence: list[str] = structure(task_sequence, list[str], "task_sequence")
        for name in self.task_sequence:
            if name not in configs:
                raise OptionError(f"task_sequence: no task {name!r} in task_configs{nearest(name, configs)}")
            if self.task_sequence.count(name) > 1:
                raise OptionError(f"task_sequence: {name!r} comes twice")
        if left := [name for name in configs if name not in self.task_sequence]:
            raise OptionError(f"task_sequence: task {left[0]!r} of task_configs has no place in it")
        super().__init__(input_dim, "base_dims", base_dims, configs, dropout_rate)
        self.base_dims = list(self._dims)

    def _order(self) -> list[str]:
        return self.task_sequence

    def _options(self) -> dict[str, Any]:
        dims = {name: tuple(config["hidden_dims"]) for name, config in self.task_configs.items()}
        return {"base": "first", "hidden_dims": self.own_dims, "hidden_dims_of": dims, "dropout": self.dropout_rate}

    def _build_task_specific_layers(self, config: dict[str, Any]) -> nn.Module | None:
        return None

    def forward(  # type: ignore[override]
        self, x: Tensor | Inputs, target_tasks: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Logits [B, output_dim] of these tasks (all by default) for samples [B, input_dim]."""
        if isinstance(x, Mapping):
            return super().forward(x)
        names = [target_tasks] if isinstance(target_tasks, str) else target_tasks
        if not (names is None or isinstance(names, Iterable)):
            raise DataError(f"target_tasks must be names of tasks, got a {type(names).__name__}")
        names = self.task_sequence if names is None else list(names)
        for name in names:
            self._check_task(name, "target_tasks")
        return super().forward(dict.fromkeys(names, self._checked(x)))

    def learn(self, task_name: str) -> None:
        """From now on this task is learned: its column, and the base if it is the first. All else is frozen."""
        self._check_task(task_name, "learn")
        self.module.learn(task_name)  # type: ignore[operator]

    def _add(self, name: str, config: TaskConfig) -> None:
        self.module.add_task(config.task(name, self.input_dim), self.task_configs[name]["hidden_dims"])  # type: ignore[call-arg]
        self.task_sequence.append(name)


class MetaLearningMultiTask(_Layered):
    """A hyper-network makes the last layer of each task from the task's embedding (Ha et al. 2016): rows of `meta_dim`
    numbers, one for each of its logits.

    A task that is added is new rows, all else is frozen. `hidden_dims` in `task_configs` are not used: there is nothing
    between the base network and what is generated.
    """

    architecture: ClassVar[str] = "hyper_heads"
    own_dims: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self,
        input_dim: int,
        meta_dim: int,
        task_configs: Mapping[str, Any],
        base_network_dims: Sequence[int] = (128, 64),
        meta_network_dims: Sequence[int] = (64, 32),
    ) -> None:
        self.meta_dim = _size("meta_dim", meta_dim)
        self.meta_network_dims = list(_widths("meta_network_dims", meta_network_dims))
        super().__init__(input_dim, "base_network_dims", base_network_dims, task_configs, 0.2)
        self.base_network_dims = list(self._dims)

    def _options(self) -> dict[str, Any]:
        return {"meta_dim": self.meta_dim, "meta_network_dims": tuple(self.meta_network_dims)}

    def _build_task_specific_layers(self, config: dict[str, Any]) -> nn.Module | None:
        return None

    def generate_task_parameters(self, task: str) -> tuple[Tensor, Tensor]:
        """The weights [output_dim, base_network_dims[-1]] and biases [output_dim] of a task's last layer."""
        self._check_task(task, "generate_task_parameters")
        made: tuple[Tensor, Tensor] = self.module.generated(task)  # type: ignore[operator]
        return made

    def forward(self, x: Tensor | Inputs, task_name: str | None = None) -> Any:  # type: ignore[override]
        """Logits [B, output_dim] of one task for samples [B, input_dim]; inputs by task are answered by task."""
        if isinstance(x, Mapping):
            return super().forward(x)
        self._check_task(task_name, "task_name")
        assert task_name is not None
        return super().forward({task_name: x})[task_name]

    def forward_all_tasks(self, x: Tensor) -> dict[str, Tensor]:
        """Logits [B, output_dim] of every task."""
        return super().forward(x)


def _layers(dims: Sequence[int], dropout: float) -> nn.Sequential:
    made: list[nn.Module] = []
    for before, after in itertools.pairwise(dims):
        made += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*made)


def _module(face: MultiTaskBase, method: str, build: Any) -> Any:
    try:
        made = build()
    except AttributeError as error:
        raise OptionError(
            f"{type(face).__name__}.{method}: {error}: it is called while super().__init__ runs, so set what it needs "
            "before that"
        ) from error
    optional = method == "_build_task_specific_layers"
    if not isinstance(made, nn.Module) and not (optional and made is None):
        raise OptionError(f"{type(face).__name__}.{method} must return a torch module, got a {type(made).__name__}")
    return made


def _size(told: str, value: Any) -> int:
    found: int = structure(value, int, told)
    if found < 1:
        raise OptionError(f"{told} must be at least 1, got {found}")
    return found


def _widths(told: str, dims: Any) -> tuple[int, ...]:
    found: tuple[int, ...] = structure(dims, tuple[int, ...], told)
    if not found:
        raise OptionError(f"{told} must name at least one layer")
    return tuple(_size(told, each) for each in found)


def _rate(value: Any) -> float:
    found: float = structure(value, float, "dropout_rate")
    if not 0 <= found < 1:
        raise OptionError(f"dropout_rate must be at least 0 and less than 1, got {found}")
    return found
