"""Putting gradients where optimisers look for them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def accumulate(
    gradients: Iterable[tuple[nn.Parameter, Tensor]], factor: float = 1.0, *, exclusive: bool = False
) -> None:
    """Add each gradient times `factor` to `.grad`, as autograd does: in place, in the parameter's type.

    `.grad` never shares memory that somebody else may hold; `exclusive` promises that nobody does. Hooks of
    `register_post_accumulate_grad_hook` are called as in a backward pass: once, when the parameter's gradient is there.
    """
    taken: set[int] = set()
    with torch.no_grad():
        for parameter, found in gradients:
            gradient = found.to(parameter.dtype)
            if factor != 1.0:
                gradient = gradient * factor
            old = parameter.grad
            if old is None:
                if not exclusive and not gradient.is_sparse:
                    storage = gradient.untyped_storage()
                    whole = storage.nbytes() == gradient.numel() * gradient.element_size()
                    if storage.data_ptr() in taken or not whole or not gradient.is_contiguous():
                        gradient = gradient.clone(memory_format=torch.contiguous_format)
                    taken.add(storage.data_ptr())
                parameter.grad = gradient
            elif old.is_sparse:
                parameter.grad = gradient + old
            else:
                old += gradient
            for hook in tuple((parameter._post_accumulate_grad_hooks or {}).values()):
                hook(parameter)


def only_rows(gradient: Tensor, rows: Tensor) -> Tensor:
    """The dense gradient of an embedding as the sparse one that its optimiser expects."""
    values = gradient[rows]
    return torch.sparse_coo_tensor(rows[None], values, gradient.shape, check_invariants=False, is_coalesced=True)


def weighted_sum(terms: list[tuple[float, Tensor]]) -> Tensor | None:
    """The weighted sum of gradients, dense or sparse; None of none."""
    total: Tensor | None = None
    for weight, gradient in terms:
        term = gradient if weight == 1.0 else gradient * weight
        total = term if total is None else total + term
    return total
