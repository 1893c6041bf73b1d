"""Reads a split of a task into memory, checked: whatever a torch user has, as tensors."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from crosstask.descriptors import MultiInput, TaskDescriptor, TensorData
from crosstask.errors import CrosstaskError, DataError, nearest, told

TARGETS = ("label", "labels", "target", "targets", "y")
"""What the field with the target is called where samples are mappings and nobody says."""

UNKNOWN = -100
"""The label of a place that has none, in dense predictions (torch's `ignore_index`)."""

MANY = 20
"""Different labels above which they may be values, if nobody said what they are."""

DENSE = ("segmentation", "token_classification")
"""Task types that give a label to every place of an input."""


REAL = ("classification", "regression", "multilabel", *DENSE)
"""Task types whose targets are real numbers."""


@attrs.frozen
class Fields:
    """Which fields of samples that are mappings (dicts, tables, Hugging Face data sets) are inputs and target."""

    inputs: str | tuple[str, ...] | None = None
    target: str | None = None
    named: bool = False
    """Whether labels that are numbers are the classes' names: the training data have been read so."""
    columns: tuple[str, ...] = ()
    """Names of the columns of the training table: those of another split are taken in this order."""


def read_split(raw: Any, descriptor: TaskDescriptor, split: str) -> TensorData:
    """`read_described` without what was found out."""
    return read_described(raw, descriptor, split)[0]


def read_described(
    raw: Any, descriptor: TaskDescriptor, split: str, fields: Fields | None = None
) -> tuple[TensorData, TaskDescriptor]:
    """`raw` as tensors, checked against the descriptor, and the descriptor with what it left open.

    `raw` is a pair `(inputs, targets)` or a triple with a mask of known labels (tensors, arrays, lists, data frames); a
    Dataset, a Hugging Face data set, a DataLoader, or a function that returns an iterable of batches, whose samples are
    tuples (what stands behind the target is passed over) or mappings; a data frame (of pandas, polars or Arrow) or a
    mapping of columns. Inputs are one tensor or array, or a tuple or mapping of them. What has names goes by them:
    columns may stand in another order than `fields.columns`, those of the training data, and must be the same. So do
    rows of pandas by their index: targets or a mask with the same labels in another order are brought into that of the
    inputs, and refused with other labels (a default index, 0 to N - 1, is labels, too).

    Floating-point numbers become torch's default dtype; bytes (uint8) become numbers, those of images divided by 255;
    integers stay as they are (a network without embeddings takes them as numbers). DataError for no samples, other
    lengths or shapes, values that are not finite, labels that are no class, no label at all.
    """
    where = f"task {descriptor.task_id!r}, {split} data"
    try:
        found, targets, mask, names, columns = _gathered(raw, fields or Fields())
        inputs = _in_order(_inputs(found), descriptor)
        if targets.ndim == 0:
            raise DataError("targets are a single number: the first dimension is that of the samples")
        if isinstance(targets, Tensor) and targets.is_complex() and descriptor.task_type in REAL:
            raise DataError(f"targets of a {descriptor.task_type} task are no complex numbers")
        if len(targets) and not np.prod(targets.shape):
            raise DataError(f"targets of shape {tuple(targets.shape[1:])} hold nothing")
        if len(inputs) != len(targets):
            raise DataError(f"{len(inputs)} inputs but {len(targets)} targets")
        if len(inputs) == 0:
            raise DataError("no samples")
        _fits(inputs, descriptor)
        if names and not descriptor.classes and descriptor.output_dim in (None, len(names)):
            descriptor = attrs.evolve(descriptor, classes=names)
        targets, descriptor = _targets(targets, mask, descriptor, fields is not None and fields.named)
        known = _known(targets)
        if not bool(known.any()):
            raise DataError("no sample has a label" if mask is None else "the mask leaves no sample a label")
        rows = None if bool(known.all()) else known.nonzero()[:, 0]
        if rows is not None:
            inputs, targets = inputs[rows], targets[rows]
        targets = _settled(targets, descriptor)
        for name, part in _parts(inputs).items():
            _finite(f"inputs {name!r}" if name else "inputs", part)
        descriptor = _completed(descriptor, inputs, targets)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    data = TensorData(inputs, targets, columns=columns)  # type: ignore[arg-type]
    if isinstance(raw, TensorData) and raw.table is not None:
        own = raw.rows if rows is None or raw.rows is None else raw.rows[rows]
        data = attrs.evolve(data, table=raw.table, rows=own if own is not None else rows)
    return data, descriptor


# What the user has ----------------------------------------------------------------------------------------------------


def _gathered(raw: Any, fields: Fields) -> tuple[Any, Any, Tensor | None, tuple[str, ...], tuple[str, ...]]:
    """(inputs, targets, mask, names of the classes where the data say them, names of the columns of a table)."""
    if isinstance(raw, TensorData):
        return raw.inputs, _column(raw.targets), None, (), raw.columns
    if isinstance(raw, Tensor):
        raise DataError("expected (inputs, targets), got a single tensor")
    if isinstance(raw, tuple | list) and len(raw) in (2, 3) and not isinstance(raw[0], str):
        index = _index_of(raw[0])
        given, labels, *masks = (_aligned(part, index, what) for part, what in zip(raw, _PAIR, strict=False))
        found, columns = _framed(given, fields.columns)
        return found, _column(labels), _mask(masks[0]) if masks else None, (), columns
    if (frame := _columns_of(raw)) is not None:
        raw = frame
    if isinstance(raw, Mapping):
        raw = _aligned(raw, _index_of(raw), "the column")
        inputs, target = _chosen(list(raw), fields)
        found, columns = _one_or_table({name: raw[name] for name in inputs}, fields.columns)
        return found, _column(raw[target]), None, (), columns
    names: tuple[str, ...] = ()
    if hasattr(raw, "features") and hasattr(raw, "column_names"):  # a Hugging Face data set
        target = _chosen(list(raw.column_names), fields)[1]
        names = tuple(getattr(raw.features[target], "names", None) or ())
    if callable(raw) and (isinstance(raw, type) or not hasattr(raw, "__getitem__")):
        try:
            made = raw()
        except CrosstaskError:
            raise
        except Exception as error:  # the user's own code
            raise DataError(f"the function that is to return batches fails: {told(error)}") from error
        if not isinstance(made, Iterable):
            raise DataError(f"the function is to return batches that can be iterated over, got {type(made).__name__}")
        inputs, targets = _batches(made, fields)
    elif hasattr(raw, "__getitem__") and hasattr(raw, "__len__"):
        inputs, targets = _samples(raw, fields)
    elif isinstance(raw, Iterable):
        inputs, targets = _batches(raw, fields)
    else:
        raise DataError(
            f"expected (inputs, targets), a Dataset, a DataLoader, a table or a function returning batches, got "
            f"{type(raw).__name__}"
        )
    return inputs, targets, None, names, ()


def _chosen(names: Sequence[str], fields: Fields) -> tuple[tuple[str, ...], str]:
    """Names of the inputs and of the target among those of a mapping."""
    meant = [name for name in TARGETS if name in names]
    if fields.target is None and len(meant) > 1:
        raise DataError(f"the fields {' and '.join(map(repr, meant))} could each be the target: say which with target=")
    target = fields.target or next(iter(meant), None)
    if target is None:
        told = ", ".join(map(repr, names))
        raise DataError(f"none of the fields {told} is a target by its name: say which with Task(target=...)")
    wanted = (fields.inputs,) if isinstance(fields.inputs, str) else fields.inputs
    inputs = wanted or tuple(name for name in names if name != target)
    for name in (*inputs, target):
        if name not in names:
            raise DataError(f"samples have no field {name!r}{nearest(name, names)}")
    if not inputs:
        raise DataError(f"besides the target {target!r} there is no field")
    return inputs, target


def _columns_of(value: Any) -> dict[str, Any] | None:
    """The columns of a data frame (of pandas, polars or Arrow) by name; None of anything else."""
    if hasattr(value, "columns") and (hasattr(value, "iloc") or hasattr(value, "get_column")):
        names = value.columns
    elif hasattr(value, "column_names") and hasattr(value, "combine_chunks"):
        names = value.column_names
    else:
        return None
    return {str(name): value[name] for name in names}


_PAIR = ("the input", "the targets", "the mask")


def _index_of(value: Any) -> Any:
    """The index of a frame or series of pandas, or of the first of several; None where there is none."""
    if isinstance(value, Mapping):
        return next((index for part in value.values() if (index := _index_of(part)) is not None), None)
    return getattr(value, "index", None) if hasattr(value, "iloc") else None


def _aligned(value: Any, index: Any, what: str) -> Any:
    """A frame or series of pandas, or a mapping of them, with its rows in the order of an index of others that it goes
    with. What has no index goes by position, and so does what is not as long: who counts says so. DataError where the
    labels of the rows are not the same.
    """
    if isinstance(value, Mapping):
        return {name: _aligned(part, index, f"{what} {name!r}") for name, part in value.items()}
    own = _index_of(value)
    if index is None or own is None or len(own) != len(index) or own.equals(index):
        return value
    if own.is_unique and index.is_unique and bool(index.isin(own).all()):
        return value.reindex(index)
    odd = [str(label) for label in own[~own.isin(index)][:1]]
    raise DataError(
        f"the rows of {what} have another index than those of the inputs: "
        + (f"only the one has {odd[0]!r}" if odd else "labels that come several times stand in another order")
        + ". Rows go by their labels: give both the same index, or .to_numpy() where they go by position"
    )


def _framed(value: Any, trained: tuple[str, ...] = ()) -> tuple[Any, tuple[str, ...]]:
    """A data frame as its columns, with their names; anything else as it is."""
    frame = _columns_of(value)
    return (value, ()) if frame is None else _one_or_table(frame, trained)


def _one_or_table(named: dict[str, Any], trained: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """Columns of single numbers are one input [N, F], with their names; anything else several inputs (a single one:
    itself). DataError where they are not the columns `trained`, if there are such.
    """
    if not named:
        raise DataError("a table without columns has no inputs")
    parts = {name: _tensor(value, name) for name, value in named.items()}
    if all(part.ndim == 1 for part in parts.values()):
        kind = torch.get_default_dtype()
        columns = _as_trained(tuple(parts), trained)
        return torch.stack([parts[name].to(kind) for name in columns], dim=1), columns
    return (next(iter(parts.values())) if len(parts) == 1 else MultiInput(parts)), ()


def _as_trained(names: tuple[str, ...], trained: tuple[str, ...]) -> tuple[str, ...]:
    """The names of columns in the order of the training table. DataError where they are not the same."""
    if not trained:
        return names
    missing = [name for name in trained if name not in names]
    if other := [name for name in names if name not in trained]:
        raise DataError(
            f"the column {other[0]!r} is none of those of the training data (only arrays go by position)"
            f"{nearest(other[0], missing or trained)}"
        )
    if missing:
        raise DataError(f"the column {missing[0]!r} of the training data is missing")
    return trained


def _sample(item: Any, fields: Fields, number: int) -> tuple[Any, Any]:
    """(inputs, target) of one sample, or of one batch."""
    if isinstance(item, Mapping):
        inputs, target = _chosen(list(item), fields)
        return ({n: item[n] for n in inputs} if len(inputs) > 1 else item[inputs[0]]), item[target]
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    raise DataError(f"sample {number}: expected (inputs, target) or a mapping, got {type(item).__name__}")


def _samples(raw: Any, fields: Fields) -> tuple[Any, Any]:
    """All samples of a Dataset, one after another, into memory that is taken once."""
    try:
        count = len(raw)
    except (TypeError, ValueError) as error:  # a single number; a length below zero
        raise DataError(f"a {type(raw).__name__} that has no length holds no samples: {error}") from None
    if count == 0:
        raise DataError("no samples")
    room: dict[str, Tensor] = {}
    targets = []
    named, single = True, True
    for number in range(count):
        try:
            given, target = _sample(raw[number], fields, number)
        except IndexError:
            raise DataError(f"it says that it has {count} samples, and ended after {number}") from None
        parts, named, single = _split_input(given)
        if not number:
            room = {name: torch.empty(count, *part.shape, dtype=part.dtype) for name, part in parts.items()}
        if parts.keys() != room.keys():
            raise DataError(f"sample {number} has inputs {sorted(parts)}, the first had {sorted(room)}")
        for name, part in parts.items():
            if part.shape != room[name].shape[1:]:
                raise DataError(
                    f"sample {number} has inputs of shape {tuple(part.shape)}, the first had "
                    f"{tuple(room[name].shape[1:])}: bring all to one size (pad, crop or resize)"
                )
            kind = torch.promote_types(part.dtype, room[name].dtype)
            if kind != room[name].dtype:
                room[name] = room[name].to(kind)
            room[name][number] = part
        targets.append(_plain(target))
    return _joined(room, named, single), _column(_stacked(targets))


def _batches(raw: Any, fields: Fields) -> tuple[Any, Any]:
    """All batches of a loader."""
    collected: list[dict[str, Tensor]] = []
    targets = []
    named, single = True, True
    for number, item in enumerate(raw):
        given, target = _sample(item, fields, number)
        parts, named, single = _split_input(given)
        if not parts:
            raise DataError(f"batch {number} has no inputs")
        if collected and parts.keys() != collected[0].keys():
            raise DataError(f"batch {number} has inputs {sorted(parts)}, the first had {sorted(collected[0])}")
        for name, part in parts.items() if collected else ():
            if part.shape[1:] != collected[0][name].shape[1:]:
                raise DataError(
                    f"batch {number} has inputs of shape {tuple(part.shape[1:])}, the first had "
                    f"{tuple(collected[0][name].shape[1:])}: bring all to one size (pad, crop or resize)"
                )
        collected.append(parts)
        targets.append(_column(target))
        if any(part.ndim == 0 for part in (*parts.values(), targets[-1])):
            raise DataError(f"batch {number} is a single number: a batch has a dimension for its samples")
        if len(targets[-1]) != len(next(iter(parts.values()))):
            raise DataError(
                f"batch {number} has {len(next(iter(parts.values())))} inputs but {len(targets[-1])} targets"
            )
    if not collected:
        raise DataError("no samples")
    have, promised = sum(map(len, targets)), _promised(raw)
    if promised is not None and have < promised:
        raise DataError(f"the loader ended after {have} of {promised} samples")
    room = {name: torch.cat([parts[name] for parts in collected]) for name in collected[0]}
    joined: Any = np.concatenate(targets) if isinstance(targets[0], np.ndarray) else torch.cat(targets)  # type: ignore[arg-type]
    return _joined(room, named, single), joined


def _promised(raw: Any) -> int | None:
    """How many samples a DataLoader is to give, where that can be said."""
    if getattr(raw, "drop_last", False):
        return None
    for each in ("sampler", "dataset"):  # a data set that is iterated over has no sampler that knows
        try:
            return len(getattr(raw, each))
        except (TypeError, AttributeError):
            continue
    return None


def _split_input(given: Any) -> tuple[dict[str, Tensor], bool, bool]:
    """(tensors by name, whether they are named, whether there is but one) of what a sample or batch gives as input."""
    mapping = isinstance(given, Mapping) or (hasattr(given, "keys") and hasattr(given, "__getitem__"))
    if mapping and not hasattr(given, "to_numpy"):  # pandas' are arrays here
        return {str(name): _tensor(given[name], name) for name in given}, True, False
    if isinstance(given, MultiInput):
        return {name: _tensor(part, name) for name, part in given.parts.items()}, given.named, False
    if isinstance(given, tuple) and any(_is_array(part) for part in given):
        return {str(n): _tensor(part, n) for n, part in enumerate(given)}, False, False
    return {"": _tensor(given)}, False, True


def _joined(parts: dict[str, Tensor], named: bool, single: bool) -> Any:
    return parts[""] if single else MultiInput(parts, named=named)


def _inputs(found: Any) -> Tensor | MultiInput:
    """What was gathered as tensors of the right kinds."""
    parts, named, single = _split_input(found)
    for name, part in parts.items():
        if part.ndim == 0:
            what = f"input {name!r} is" if name else "inputs are"
            raise DataError(f"{what} a single number: the first dimension is that of the samples")
        if len(part) and not part.numel():
            raise DataError(f"inputs of shape {tuple(part.shape[1:])} hold no numbers")
    return _joined({name: _numbers(part) for name, part in parts.items()}, named, single)  # type: ignore[no-any-return]


def _numbers(part: Tensor) -> Tensor:
    if part.dtype == torch.uint8:
        whole = part.to(torch.get_default_dtype())
        return whole / 255 if part.ndim > 2 else whole
    if part.is_floating_point() or part.dtype == torch.bool:
        return part.to(torch.get_default_dtype())
    return part


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) or hasattr(value, "__array__")


def _plain(value: Any) -> Any:
    """A target as numpy has it."""
    if isinstance(value, Tensor):
        dense = _dense(value).cpu()
        return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()
    return value


def _dense(value: Tensor, what: str = "it ") -> Tensor:
    """A tensor as plain numbers. DataError where it has none of its own, or not as many for each sample."""
    if value.is_nested:
        raise DataError(f"{what}is a nested tensor, of samples of different sizes: bring all to one size")
    if value.is_meta:
        raise DataError(f"{what}is a tensor on the meta device, which has no values")
    value = value.detach()
    if value.is_quantized:
        value = value.dequantize()
    if value.layout != torch.strided:
        value = value.to_dense()
    if value.dtype == torch.complex32:
        return value.to(torch.complex64)
    return value.float() if value.is_floating_point() and value.dtype.itemsize == 1 else value


def _stacked(values: list[Any]) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise DataError("targets of different shapes: bring all to one size") from None


def _tensor(value: Any, name: object = "") -> Tensor:
    what = f"input {name!r} " if name != "" else ""
    hint = ": name the fields that are inputs with Task(inputs=...), or encode it as numbers"
    if isinstance(value, Tensor):
        return _dense(value, what or "it ")
    image = hasattr(value, "getbands") and hasattr(value, "size")  # PIL: rows, columns, channels
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    try:
        array = np.asarray(value)
        if array.dtype == object:
            inner = {type(item).__name__ for item in array.reshape(-1)[:100]}
            if inner <= {"int", "float", "bool", "NoneType", "int64", "float64"}:
                array = array.astype(np.float64)
        if array.dtype.kind in "USO":
            raise TypeError(
                f"it holds {'text' if array.dtype.kind in 'US' else 'objects'}, not numbers{hint if name != '' else ''}"
            )
        if not array.flags.writeable:
            array = array.copy()
        tensor = torch.as_tensor(array)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{what}cannot be made a tensor: {error}") from None
    return tensor.movedim(-1, 0) if image and tensor.ndim == 3 else tensor


def _column(value: Any) -> Tensor | np.ndarray:
    """Targets as a tensor, or as an array of texts where they are names."""
    if isinstance(value, Tensor):
        return _dense(value)
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(f"targets cannot be made a tensor: {error}") from None
    if array.dtype == object:
        flat = array.reshape(-1)
        missing = np.array([_missing(item) for item in flat], dtype=bool)
        if all(isinstance(item, str) for item in flat[~missing]):
            return array
    if array.dtype.kind in "US":
        return array.astype(object)
    return _tensor(array if array.ndim else array[None])


def _missing(item: Any) -> bool:
    try:
        return item is None or bool(item != item)  # NaN is not itself
    except (TypeError, ValueError):
        return type(item).__name__ == "NAType"  # of pandas; an array is not missing


def _mask(value: Any) -> Tensor:
    mask = _tensor(value)
    if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
        raise DataError("the third of (inputs, targets, mask) says which labels are known: True or False")
    return mask.bool()


# A table of several tasks ---------------------------------------------------------------------------------------------


def rows_of_table(
    inputs: Any, targets: Mapping[str, Any], mask: Any, splits: Mapping[str, Any] | None
) -> dict[str, dict[str, TensorData]]:
    """For every task its splits, whose inputs are the same tensors; see `Portfolio.from_table`."""
    index = _index_of(inputs)
    inputs, mask = _aligned(inputs, index, "the input"), _aligned(mask, index, "the mask")
    columns_of_mask = _columns_of(mask)
    if columns_of_mask is not None and columns_of_mask.keys() == targets.keys():  # by their names, in any order
        mask = torch.stack([_mask(columns_of_mask[task_id]) for task_id in targets], dim=1)
    known = None if mask is None else _mask(mask)
    if known is not None and (known.ndim != 2 or known.shape[1] != len(targets)):
        raise DataError(f"the mask has shape {tuple(known.shape)}: {len(targets)} tasks need [N, {len(targets)}]")
    table = uuid.uuid4().hex
    found_inputs, columns = _framed(inputs)
    whole = _inputs(found_inputs)
    count = len(whole)
    found: dict[str, dict[str, TensorData]] = {task_id: {} for task_id in targets}
    of_split: dict[str, Tensor] = {}
    if named := [task_id for task_id, column in targets.items() if isinstance(column, str)]:
        raise DataError(
            f"task {named[0]!r}: its targets are a label for every row, such as table[{targets[named[0]]!r}], and no "
            "column of the inputs"
        )
    for split, given in (splits or {"train": range(count)}).items():
        if str(getattr(given, "dtype", "")) in (
            "bool",
            "boolean",
        ):  # of pandas: True or False for each row by its label
            given = _aligned(given, index, f"the split {split!r}")
        rows = _tensor(given, f"rows of the split {split}").reshape(-1)
        if (rows.is_floating_point() and len(rows)) or rows.is_complex():
            raise DataError(f"split {split!r} is numbers of rows, or True and False for every row, got {rows.dtype}")
        if rows.dtype == torch.bool and len(rows) != count:
            raise DataError(f"split {split!r} says True or False for {len(rows)} rows of a table of {count}")
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows.long()
        outside = rows[(rows < 0) | (rows >= count)]
        if len(outside):
            raise DataError(f"split {split!r} names row {int(outside[0])} of a table of {count}")
        if len(torch.unique(rows)) < len(rows):
            raise DataError(
                f"split {split!r} names a row twice (True and False for every row are booleans, not numbers)"
            )
        for other, theirs in of_split.items():
            both = rows[torch.isin(rows, theirs)]
            if len(both) and "train" in (split, other):
                raise DataError(
                    f"splits {other!r} and {split!r} share {len(both)} rows (the first is {int(both[0])}): nothing is "
                    "judged on what it was trained on"
                )
        of_split[split] = rows
        part = whole[rows]
        for place, (task_id, column) in enumerate(targets.items()):
            own = _column(_aligned(column, index, f"the targets of task {task_id!r}"))
            if own.ndim == 0 or len(own) != count or (known is not None and len(known) != count):
                raise DataError(f"task {task_id!r}: {len(own) if own.ndim else 1} targets for a table of {count} rows")
            own = own[rows.numpy()] if isinstance(own, np.ndarray) else own[rows]
            if known is not None:
                own = _hidden(own, known[rows, place])
            found[task_id][split] = TensorData(part, own, (table, split), rows, columns)  # type: ignore[arg-type]
    return found


def _hidden(targets: Tensor | np.ndarray, known: Tensor) -> Tensor | np.ndarray:
    """Targets of which those that are not known say so."""
    if isinstance(targets, np.ndarray):
        shown = targets.copy()
        shown[~known.numpy()] = None
        return shown
    spread = known.reshape(-1, *[1] * (targets.ndim - 1)).expand_as(targets)
    exact = targets if targets.is_floating_point() else targets.double()
    return torch.where(spread, exact, torch.full_like(exact, float("nan")))


# Targets --------------------------------------------------------------------------------------------------------------


def _targets(
    targets: Tensor | np.ndarray, mask: Tensor | None, descriptor: TaskDescriptor, named: bool
) -> tuple[Tensor, TaskDescriptor]:
    """Targets as numbers, those not known as NaN (or `UNKNOWN`), and the descriptor with the classes that they name."""
    kind = descriptor.task_type
    if isinstance(targets, np.ndarray):  # names
        if kind != "classification":
            raise DataError(f"targets of a {kind} task must be numbers, got texts such as {_first(targets)!r}")
        targets, descriptor = _named(targets, descriptor)
    elif kind == "classification" and named:
        targets, descriptor = _named(_as_names(targets), descriptor)
    elif kind == "classification" and descriptor.output_dim is None and not descriptor.classes:
        targets, descriptor = _numbered(targets, descriptor)
    if mask is not None:
        whole = tuple(mask.shape) == tuple(targets.shape)
        if not whole and (mask.ndim != 1 or len(mask) != len(targets)):
            raise DataError(f"the mask has shape {tuple(mask.shape)}, the targets {tuple(targets.shape)}")
        spread = mask if whole else mask.reshape(-1, *[1] * (targets.ndim - 1)).expand_as(targets)
        blank: float = UNKNOWN if kind in DENSE else float("nan")
        exact = targets if kind in DENSE or targets.is_floating_point() else targets.double()
        targets = torch.where(spread, exact, torch.full_like(exact, blank))
    return targets, descriptor


def _first(names: np.ndarray) -> str:
    return next((str(name) for name in names.reshape(-1) if isinstance(name, str)), "")


def _named(names: np.ndarray, descriptor: TaskDescriptor) -> tuple[Tensor, TaskDescriptor]:
    """Labels of classes that are given by name; a name that is missing (None, NaN) is no label."""
    flat = names.reshape(len(names), -1)
    if flat.shape[1] != 1:
        raise DataError(f"one label per sample is needed, got shape {names.shape}")
    column = flat[:, 0]
    if not descriptor.classes:
        classes = tuple(sorted({str(name) for name in column if isinstance(name, str)}))
        if descriptor.output_dim not in (None, len(classes)) and not (descriptor.output_dim == 1 and len(classes) == 2):
            raise DataError(f"{len(classes)} class names for output_dim {descriptor.output_dim}")
        descriptor = attrs.evolve(descriptor, classes=classes)
    place = {name: number for number, name in enumerate(descriptor.classes)}
    labels = torch.full((len(column),), float("nan"), dtype=torch.float64)
    for row, name in enumerate(column):
        if isinstance(name, str):
            if name not in place:
                raise DataError(f"sample {row} has label {name!r}, which is no class{nearest(name, place)}")
            labels[row] = place[name]
    return labels, descriptor


def _numbered(targets: Tensor, descriptor: TaskDescriptor) -> tuple[Tensor, TaskDescriptor]:
    """Whole numbers that do not run from 0 on are names: -1 and 1, or 3 and 9. Others are labels as they are."""
    known = targets[torch.isfinite(targets)] if targets.is_floating_point() else targets.reshape(-1)
    if not known.numel() or bool((known != known.round()).any() if known.is_floating_point() else False):
        return targets, descriptor
    found = torch.unique(known)
    if found[0].item() >= 0 and len(found) > (int(found[-1].item()) + 1) // 2:
        return targets, descriptor
    given = attrs.evolve(descriptor, classes=tuple(str(int(value.item())) for value in found))
    return _named(_as_names(targets), given)


def _as_names(targets: Tensor) -> np.ndarray:
    """Whole numbers as texts; what is not finite as None."""
    values = targets.reshape(-1).tolist()
    names = np.array([f"{v:.0f}" if isinstance(v, float) and np.isfinite(v) else None if isinstance(v, float) else
                      str(int(v)) for v in values], dtype=object)  # fmt: skip
    return names.reshape(tuple(targets.shape))


def _known(targets: Tensor) -> Tensor:
    """Which samples [N] have a label at all."""
    rows = targets.reshape(len(targets), -1)
    if rows.is_floating_point():
        return ~torch.isnan(rows).all(1)
    return ~(rows == UNKNOWN).all(1)


def _settled(targets: Tensor, descriptor: TaskDescriptor) -> Tensor:
    """Targets of samples that have a label, checked and in the form that losses and metrics of their type take."""
    kind = descriptor.task_type
    if kind == "classification":
        return _labels(targets, descriptor)
    if kind in DENSE:
        if targets.ndim < 2:
            raise DataError(f"a {kind} task needs a label for every place, got targets of shape {tuple(targets.shape)}")
        return _places(targets, descriptor)
    if kind == "multilabel":
        known = targets[~torch.isnan(targets)] if targets.is_floating_point() else targets
        if targets.ndim != 2 or not bool(((known == 0) | (known == 1)).all()):
            raise DataError(f"a multilabel task needs targets [N, K] of 0 and 1, got shape {tuple(targets.shape)}")
        return targets.to(torch.get_default_dtype())
    if kind == "regression" or targets.is_floating_point() or targets.dtype == torch.bool:
        if kind == "regression" and targets.dtype.is_complex:
            raise DataError("targets of a regression task must be real numbers")
        if targets.is_floating_point() and bool(torch.isinf(targets).any()):
            row = int(torch.isinf(targets.reshape(len(targets), -1)).any(1).nonzero()[0])
            raise DataError(f"targets hold NaN or infinite values (first in sample {row})")
        return targets.to(torch.get_default_dtype())
    return targets


def _labels(targets: Tensor, descriptor: TaskDescriptor) -> Tensor:
    if targets.is_floating_point() and not bool((targets == targets.round()).all()):
        if bool(torch.isfinite(targets).all()):
            raise DataError("classification labels must be integers (for values say task_type='regression')")
        row = int((~torch.isfinite(targets.reshape(len(targets), -1)).all(1)).nonzero()[0])
        raise DataError(f"targets hold NaN or infinite values (first in sample {row})")
    labels = targets.reshape(len(targets), -1)
    if labels.shape[1] != 1:
        raise DataError(
            f"one label per sample is needed, got shape {tuple(targets.shape)} (several labels at once: "
            "task_type='multilabel'; one for every place: task_type='segmentation')"
        )
    labels = labels[:, 0].long()
    _in_range(labels, descriptor)
    return labels


def _places(targets: Tensor, descriptor: TaskDescriptor) -> Tensor:
    if targets.is_floating_point() and not bool((targets == targets.round()).all()):
        raise DataError("the labels of places must be whole numbers (a mask of 0 and 255 that was scaled is none)")
    labels = targets.long()
    known = labels[labels != UNKNOWN]
    if known.numel():
        _in_range(known, descriptor)
    return labels


def _in_range(labels: Tensor, descriptor: TaskDescriptor) -> None:
    low, high = int(labels.min()), int(labels.max())
    count = descriptor.output_dim if descriptor.output_dim != 1 else 2  # a single logit tells two classes apart
    if count is None and descriptor.classes:
        count = len(descriptor.classes)
    if low < 0 or (count is not None and high >= count):
        classes = f"0 to {count - 1}" if count else "0 and up"
        values = " (for values say task_type='regression')" if high - low > MANY else ""
        raise DataError(f"labels run from {low} to {high}, the classes are {classes}{values}")


def odd_labels(labels: Tensor) -> str | None:
    """What is strange about labels [N] of classes that nobody described: numbers that may be values, or that do not
    begin at 0. None: nothing.
    """
    known = labels[labels != UNKNOWN]
    found = len(torch.unique(known))
    if found > MANY and 3 * found > len(known):
        return (
            f"its {len(known)} samples have {found} different labels, which are taken for classes: for values say "
            "task_type='regression'"
        )
    if len(known) and int(known.min()) > 0:
        return f"its labels run from {int(known.min())} to {int(known.max())}: class 0 has no sample; count from 0"
    return None


# Checks and what follows from the data --------------------------------------------------------------------------------


def _parts(inputs: Tensor | MultiInput) -> dict[str, Tensor]:
    return inputs.parts if isinstance(inputs, MultiInput) else {"": inputs}


def _in_order(inputs: Tensor | MultiInput, descriptor: TaskDescriptor) -> Tensor | MultiInput:
    """Several inputs by name in the order that the descriptor has: a network made here joins them by place."""
    told = descriptor.input_shapes or {}
    if not isinstance(inputs, MultiInput) or not inputs.named or inputs.parts.keys() != told.keys():
        return inputs
    return MultiInput({name: inputs.parts[name] for name in told})


def _fits(inputs: Tensor | MultiInput, descriptor: TaskDescriptor) -> None:
    if isinstance(inputs, MultiInput):
        if descriptor.input_shape:
            raise DataError(f"samples have the inputs {sorted(inputs.parts)}, the descriptor says a single one")
        if descriptor.input_shapes and descriptor.input_shapes != inputs.shapes:
            raise DataError(f"inputs have shapes {inputs.shapes}, the descriptor says {descriptor.input_shapes}")
    elif descriptor.input_shapes:
        raise DataError(f"samples have a single input, the descriptor says {sorted(descriptor.input_shapes)}")
    elif descriptor.input_shape and tuple(inputs.shape[1:]) != descriptor.input_shape:
        raise DataError(f"inputs have shape {tuple(inputs.shape[1:])}, the descriptor says {descriptor.input_shape}")


def _finite(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        row = int((~torch.isfinite(tensor.reshape(len(tensor), -1)).all(1)).nonzero()[0])
        raise DataError(f"{name} hold NaN or infinite values (first in sample {row})")


def _completed(descriptor: TaskDescriptor, inputs: Tensor | MultiInput, targets: Tensor) -> TaskDescriptor:
    """The descriptor with the shapes and the number of outputs that it left open."""
    told: dict[str, Any] = {}
    if isinstance(inputs, MultiInput):
        told["input_shapes"] = inputs.shapes
    elif not descriptor.input_shape and inputs.ndim > 1:
        told["input_shape"] = tuple(inputs.shape[1:])
    if descriptor.output_dim is None:
        kind = descriptor.task_type
        if descriptor.classes:
            told["output_dim"] = len(descriptor.classes)
        elif kind == "classification" or kind in DENSE:
            told["output_dim"] = max(2, int(targets.max()) + 1)
        elif kind in ("regression", "multilabel"):
            told["output_dim"] = 1 if targets.ndim == 1 else int(targets[0].numel())
    return attrs.evolve(descriptor, **told) if told else descriptor
