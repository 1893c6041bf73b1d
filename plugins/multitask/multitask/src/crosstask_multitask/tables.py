"""Tasks over one table: one draw of rows for all of them, and for each the labels that it has of these."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from crosstask.descriptors import MultiInput, TensorData


@attrs.frozen(eq=False)
class Table:
    """The rows of a table of which some tasks have a label: `inputs` [N, …] and for each task the `places` [N] of the
    rows in its own data, -1 where it has no label.
    """

    inputs: Tensor | MultiInput
    places: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.inputs)


def tables_of(data: Mapping[str, TensorData]) -> list[Table]:
    """The tables that two or more of these tasks share."""
    groups: dict[object, list[str]] = {}
    for task_id, own in data.items():
        if own.table is not None and own.rows is not None:
            groups.setdefault(own.table, []).append(task_id)
    return [_table({t: data[t] for t in members}) for members in groups.values() if len(members) > 1]


def _table(data: Mapping[str, TensorData]) -> Table:
    rows = torch.tensor(sorted({row for own in data.values() for row in _rows(own).tolist()}))
    whole: Tensor | MultiInput | None = None
    places, filled = {}, torch.zeros(len(rows), dtype=torch.bool)
    for task_id, own in data.items():
        at = torch.searchsorted(rows, _rows(own))
        place = torch.full((len(rows),), -1)
        place[at] = torch.arange(len(own))
        places[task_id] = place
        new = (place >= 0) & ~filled
        whole = _put(whole, own.inputs, new, place[new], len(rows))
        filled |= new
    assert whole is not None
    return Table(whole, places)


def _rows(data: TensorData) -> Tensor:
    assert data.rows is not None
    return data.rows.cpu()


def _put(
    whole: Tensor | MultiInput | None, inputs: Tensor | MultiInput, where: Tensor, places: Tensor, count: int
) -> Tensor | MultiInput:
    """Write the inputs at `places` to the rows `where`; `whole` is made when there is none yet."""
    if isinstance(inputs, MultiInput):
        parts = {} if whole is None else whole.parts  # type: ignore[union-attr]
        made = {n: _put(parts.get(n), part, where, places, count) for n, part in inputs.parts.items()}
        return MultiInput(made, named=inputs.named)  # type: ignore[arg-type]
    made_of = inputs.new_empty(count, *inputs.shape[1:]) if whole is None else whole
    assert isinstance(made_of, Tensor)
    made_of[where.to(inputs.device)] = inputs[places.to(inputs.device)]
    return made_of
