"""What is known of a task (`TaskDescriptor`), and a split of its data in memory (`TensorData`)."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from crosstask.errors import DataError
from crosstask.options import option, record, structure, unstructure

if TYPE_CHECKING:
    import torch


@record
class Performance:
    """One measured value of a task's metric."""

    metric: str
    value: float
    when: datetime.datetime = attrs.field(factory=lambda: datetime.datetime.now(datetime.UTC))


@record
class TaskDescriptor:
    """What is known of a task without its data. Immutable; `with_performance` and `attrs.evolve` return changed copies.

    `classes` names the labels 0, 1, … of a classification task: tasks that share class names share knowledge of them.
    `input_shapes` takes the place of `input_shape` where a sample has several inputs. Shapes, classes and dimensions
    that are not given are found in the training data. `task_type`: see `crosstask.learning.objectives.TASK_TYPES`.
    """

    task_id: str
    task_name: str = attrs.field(default=attrs.Factory(lambda self: self.task_id, takes_self=True))
    task_type: str = "classification"
    domain: str = "general"
    input_shape: tuple[int, ...] = option((), ge=1, help="shape of one input, without the batch")
    input_shapes: dict[str, tuple[int, ...]] = attrs.field(factory=dict)
    output_dim: int | None = option(
        None, ge=1, help="classes (1: a single logit for two), labels, or regression targets"
    )
    sample_count: int | None = option(None, ge=0, help="training samples")
    complexity: float = option(0.5, ge=0, le=1, help="0 easy to 1 hard")
    required_skills: tuple[str, ...] = ()
    domain_knowledge: tuple[str, ...] = ()
    prerequisites: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    performance_history: tuple[Performance, ...] = ()
    transfer_efficiency: dict[str, float] = attrs.field(factory=dict)
    embedding: tuple[float, ...] | None = None

    def __attrs_post_init__(self) -> None:
        if not self.task_id:
            raise DataError("TaskDescriptor: task_id must not be empty")
        if self.task_id in self.prerequisites:
            raise DataError(f"task {self.task_id!r} names itself as a prerequisite")
        if self.input_shape and self.input_shapes:
            raise DataError(f"task {self.task_id!r}: input_shape is for a single input, input_shapes for several")
        single = self.output_dim == 1 and len(self.classes) == 2  # one logit for two classes
        if self.classes and self.output_dim not in (None, len(self.classes)) and not single:
            raise DataError(f"task {self.task_id!r}: {len(self.classes)} class names for output_dim {self.output_dim}")

    @property
    def input_dim(self) -> int | None:
        """Numbers in one input (in all of them, where there are several); None if the shape is unknown."""
        if self.input_shapes:
            return sum(math.prod(shape) for shape in self.input_shapes.values())
        return math.prod(self.input_shape) if self.input_shape else None

    def with_performance(self, metric: str, value: float) -> TaskDescriptor:
        """A copy with one more measurement at the end of the history."""
        return attrs.evolve(
            self, performance_history=(*self.performance_history, Performance(metric=metric, value=value))
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back."""
        return dict(unstructure(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TaskDescriptor:
        """Checked; OptionError names the field that is wrong."""
        made: TaskDescriptor = structure(data, cls, "task descriptor")
        return made


class MultiInput:
    """Several inputs of each sample: tensors [N, …], given to a model by keyword, or by place if they have no names.

    It stands in for a single tensor of inputs where samples are chosen, moved or counted.
    """

    def __init__(self, parts: Mapping[str, torch.Tensor], *, named: bool = True) -> None:
        self.parts = dict(parts)
        self.named = named
        """Whether a model takes them by keyword."""
        if not self.parts:
            raise DataError("a sample without any input")
        counts = {name: len(part) for name, part in self.parts.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"inputs of different lengths: {counts}")

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> MultiInput:
        return MultiInput({name: change(part) for name, part in self.parts.items()}, named=self.named)

    def __repr__(self) -> str:
        return f"MultiInput({', '.join(f'{name} {tuple(part.shape)}' for name, part in self.parts.items())})"

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, index: Any) -> MultiInput:
        return self._each(lambda part: part[index])

    def __iter__(self) -> Iterator[MultiInput]:
        return (self[number : number + 1] for number in range(len(self)))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one sample, by name."""
        return {name: tuple(part.shape[1:]) for name, part in self.parts.items()}

    @property
    def shape(self) -> tuple[int, ...]:
        """(N,): how many samples; each input has its own shape beyond that."""
        return (len(self),)

    @property
    def device(self) -> torch.device:
        """Where the first of them lies."""
        return next(iter(self.parts.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the first of them."""
        return next(iter(self.parts.values())).dtype

    def is_floating_point(self) -> bool:
        """Whether all of them hold floating-point numbers."""
        return all(part.is_floating_point() for part in self.parts.values())

    def to(self, *args: Any, **kwargs: Any) -> MultiInput:
        """Each moved; a floating-point dtype leaves integers (ids of tokens) as they are."""
        wanted = [a for a in (*args, *kwargs.values()) if getattr(a, "is_floating_point", False)]
        if not wanted:
            return self._each(lambda part: part.to(*args, **kwargs))
        device = kwargs.get("device", next((a for a in args if a not in wanted), None))
        return self._each(lambda p: p.to(device=device, dtype=wanted[0] if p.is_floating_point() else p.dtype))

    def cpu(self) -> MultiInput:
        """Each on the CPU."""
        return self._each(lambda part: part.cpu())

    def clone(self) -> MultiInput:
        """A copy of each."""
        return self._each(lambda part: part.clone())

    def detach(self) -> MultiInput:
        """Each without its graph."""
        return self._each(lambda part: part.detach())

    def split(self, size: int) -> Iterator[MultiInput]:
        """Parts of at most `size` samples."""
        return (self[start : start + size] for start in range(0, len(self), size))

    def flatten(self, start_dim: int = 0) -> torch.Tensor:
        """The numbers of each sample side by side [N, F], for what looks at raw inputs."""
        import torch  # deferred: a descriptor needs none

        kind = torch.get_default_dtype()
        rows = [part.flatten(1) if part.ndim > 1 else part[:, None] for part in self.parts.values()]  # also of none
        return torch.cat([row.to(kind) for row in rows], dim=1)


@attrs.frozen(eq=False)
class TensorData:
    """One split in memory: `inputs` [N, …] (a `MultiInput` where a sample has several) and `targets`.

    `targets` [N] are labels; [N, K] values or, for several labels at once, 0 and 1 (NaN: not known); [N, …] the labels
    of every place of a dense prediction (-100: not known). A sample without any label is left out. `table` and `rows`
    [N] are of a task that shares its inputs with others (`Portfolio.from_table`): which rows of the table these are.
    `columns` are the names of the inputs' columns, where they came from a table that had some.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    table: Any = attrs.field(default=None, repr=False)
    rows: torch.Tensor | None = attrs.field(default=None, repr=False)
    columns: tuple[str, ...] = attrs.field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: torch.Tensor | slice) -> TensorData:
        """These samples, in this order; `index` lies on the CPU, or is a slice."""
        if isinstance(index, slice):
            chosen: Any = (index, index)
        else:
            chosen = (index.to(self.inputs.device), index.to(self.targets.device))
        rows = None if self.rows is None else self.rows[index]
        return TensorData(self.inputs[chosen[0]], self.targets[chosen[1]], self.table, rows, self.columns)

    def to(self, device: torch.device | str) -> TensorData:
        """On another device."""
        return attrs.evolve(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def head(self, count: int | None) -> TensorData:
        """The first `count` samples (all if None): splits are shuffled when they are made."""
        return self if count is None or count >= len(self) else self.take(slice(count))
