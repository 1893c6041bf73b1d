"""What the head of a model receives: for estimates of transfer, and for heads that are trained on it alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import Headless, evaluating, forward, head_found
from crosstask.learning.training import device_of


@torch.no_grad()
def received(model: nn.Module, inputs: Tensor | MultiInput, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch what the head receives and what the model answers, in evaluation mode, on the inputs' device;
    modes are restored. DataError where the head does not receive one row for each sample.
    """
    device, found = device_of(model), head_found(model)
    trunk = Headless(model).eval() if found.module is None else None
    given: list[Tensor] = []

    def note(_: nn.Module, placed: tuple[Any, ...], named: dict[str, Any]) -> None:
        given.extend([value for value in (*placed, *named.values()) if isinstance(value, Tensor)][:1])

    head = None if found.module is None else model.get_submodule(found.module)
    handle = None if head is None else head.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with evaluating(model):
            for part in inputs.split(batch_size):
                given.clear()
                own = part.to(device)
                outputs = forward(model, own)
                if trunk is not None:
                    given.append(forward(trunk, own))
                if not given or not given[-1].ndim or len(given[-1]) != len(part):
                    raise DataError(f"the head of {type(model).__name__} does not receive one row for each sample")
                yield given[-1].to(inputs.device), outputs.to(inputs.device)
    finally:
        if handle is not None:
            handle.remove()


def inseparable(model: nn.Module, inputs: Tensor | MultiInput) -> str | None:
    """Why the head cannot learn from features that were computed once; None if it can.

    By a pass over four samples: the answer must be what the head makes of them, with no weight of the trunk's, and the
    features of a sample must not depend on the others of its batch, nor on chance.
    """
    who, found = type(model).__name__, head_found(model)
    if found.module is None:
        return f"the head of {who} is no module of its own"
    head = model.get_submodule(found.module)
    own = {id(p) for p in head.parameters()}
    if any(
        id(p) in own and not name.startswith(f"{found.module}.")
        for name, p in model.named_parameters(remove_duplicate=False)
    ):
        return f"the head of {who} shares weights with its trunk"
    calls: list[int] = []
    counting = head.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        features, outputs = next(received(model, inputs[:4], 4))
        if len(calls) != 1:
            return f"{who} calls its head {len(calls)} times"
        fewer, _ = next(received(model, inputs[:2], 2))
        with torch.no_grad(), evaluating(head):
            made = head(features.to(device_of(model))).to(outputs.device)
    except Exception as error:  # of the user's own class
        return f"the head of {who} cannot be called with features: {error}"
    finally:
        counting.remove()
    if not isinstance(made, Tensor) or made.shape != outputs.shape or not torch.equal(made, outputs):
        return f"what {who} answers is not what its head makes of the features"
    if fewer.shape[1:] != features.shape[1:] or not torch.allclose(fewer, features[:2], rtol=1e-4, atol=1e-5):
        return f"the features of {who} depend on the other samples of a batch, or on chance"
    return None
