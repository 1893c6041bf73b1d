"""A batch in which each sample is answered with an adapter of its own."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.points.adapter import AdapterHandle
from crosstask_adapters.attached import Attached
from crosstask_adapters.switches import NotPerSampleError


def answer_by_sample(
    base: nn.Module,
    chosen: Sequence[Attached],
    every: Sequence[Attached],
    choice: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The answer of `base` with `chosen[choice[i]]` alone for sample i, and without any of `every` where choice [N] is
    -1: in one pass where all of them can, else in one pass for each.
    """
    device = next((p.device for p in base.parameters()), None)
    with contextlib.ExitStack() as stack:
        if chosen and all(stack.enter_context(c) is None for c in _mixers(chosen, choice.to(device))):
            with contextlib.suppress(NotPerSampleError):
                return base(*args, **kwargs)
    return _apart(base, chosen, every, choice, args, kwargs)


def _mixers(chosen: Sequence[Attached], choice: Tensor) -> list[contextlib.AbstractContextManager[Any]]:
    """The contexts in which the base answers a mixed batch at once; one that answers False if it cannot."""
    groups: list[Sequence[AdapterHandle]] = [
        [each.handle for each in chosen],
        [each.saved for each in chosen if each.saved is not None],
    ]
    made: list[contextlib.AbstractContextManager[Any]] = []
    for handles in groups:
        if not handles:
            continue
        if len(handles) != len(chosen):  # some have heads of their own, some do not
            return [contextlib.nullcontext(False)]
        mixer = handles[0].mix(handles, choice)
        if mixer is None:
            return [contextlib.nullcontext(False)]
        made.append(mixer)
    return made


def _apart(
    base: nn.Module,
    chosen: Sequence[Attached],
    every: Sequence[Attached],
    choice: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The samples of each adapter in a pass of their own."""
    rows, answers = [], []
    for k in sorted(set(choice.tolist())):
        mine = (choice == k).nonzero().squeeze(1)

        def part(value: Any, mine: Tensor = mine) -> Any:
            by_row = isinstance(value, Tensor) and value.dim() and len(value) == len(choice)
            return value[mine.to(value.device)] if by_row else value

        with _only(chosen[k] if k >= 0 else None, every):
            answers.append(base(*map(part, args), **{name: part(v) for name, v in kwargs.items()}))
        rows.append(mine)
    return _joined(answers, torch.argsort(torch.cat(rows)))


@contextlib.contextmanager
def _only(wanted: Attached | None, every: Sequence[Attached]) -> Iterator[None]:
    """Inside, this adapter acts alone."""
    before = [(each, each.enabled) for each in every]
    try:
        for each, _ in before:
            each.enable(each is wanted)
        yield
    finally:
        for each, enabled in before:
            each.enable(enabled)


def _joined(answers: list[Any], order: Tensor) -> Any:
    first = answers[0]
    if isinstance(first, Tensor):
        return torch.cat(answers)[order.to(first.device)]
    if isinstance(first, Mapping):
        made: Any = copy.copy(first)
        for key in first:
            made[key] = _joined([answer[key] for answer in answers], order)
        return made
    if isinstance(first, tuple | list):
        return type(first)(_joined(list(parts), order) for parts in zip(*answers, strict=True))
    raise DataError(f"adapters chosen by sample need answers made of tensors, got a {type(first).__name__}")
