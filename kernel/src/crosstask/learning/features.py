"""What the head of a model receives: for estimates of transfer, and for heads that are trained on it alone."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.architecture import architecture
from crosstask.learning.batched import Batched
from crosstask.learning.functional import kept_buffers
from crosstask.learning.modules import Headless, evaluating, forward, head_found, uncompiled
from crosstask.learning.training import device_of

TOGETHER = 8
"""Models that go through one pass: with more of them little is gained."""
ACTIVATIONS = 2**20
"""Numbers in the largest layer's answers to a batch of all of them: beyond it they leave the cache."""
WEIGHTS = 2**24
"""Numbers in the weights of all of them."""
FEATURES = 2**25
"""Numbers that all of them answer with."""
LANE = 16
"""Samples come in multiples of it, and weights begin there: what is left of a lane is rounded by other instructions, so
that what a model answers would depend on its place among the others.
"""


@torch.no_grad()
def received(
    model: nn.Module, inputs: Tensor | MultiInput, batch_size: int
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Batch by batch what the head receives and what the model answers, in evaluation mode, on the inputs' device;
    modes and buffers are restored. DataError where the head does not receive one row for each sample.
    """
    device, found = device_of(model), head_found(model)
    trunk = Headless(model).eval() if found.module is None else None
    given: list[Tensor] = []

    def note(_: nn.Module, placed: tuple[Any, ...], named: dict[str, Any]) -> None:
        given.extend([value for value in (*placed, *named.values()) if isinstance(value, Tensor)][:1])

    head = None if found.module is None else model.get_submodule(found.module)
    handle = None if head is None else head.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with evaluating(model), kept_buffers(model):
            for part in inputs.split(batch_size):
                given.clear()
                own = part.to(device)
                with uncompiled():
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

    By a pass over four samples: the answer must be what the head makes of them, with no weight of the trunk's, the
    features of a sample must not depend on the others of its batch, nor on chance, and the model stays as it was.
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
        before = [buffer.clone() for buffer in model.buffers()]
        passing = received(model, inputs[:4], 4)
        features, outputs = next(passing)
        after = list(model.buffers())
        moved = len(before) != len(after) or not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        passing.close()  # which gives it the buffers back
        if moved:
            return f"{who} changes its buffers whenever it is called"
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


@attrs.frozen(eq=False)
class _Kin:
    """Models that can go through one pass: how the trunk of one is computed with the weights of each, the most numbers
    that a layer answers a sample with, those of features and outputs, and those of the weights.
    """

    trunk: Batched
    head: str
    names: tuple[str, ...]
    largest: int
    features: int
    weights: int

    @torch.no_grad()
    def received(self, models: Sequence[nn.Module], inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(features, outputs) of each model."""
        # torch works a single set of weights by other means, slower ones for images, and rounds otherwise
        placed = [models[0], *models] if len(models) == 1 else models
        weights, buffers = [dict(m.named_parameters()) for m in placed], [dict(m.named_buffers()) for m in placed]
        state = {name: _aligned([own[name].detach() for own in weights]) for name in self.names if name in weights[0]}
        state |= {name: torch.stack([own[name] for own in buffers]) for name in self.names if name in buffers[0]}
        step, device, parts = max(1, ACTIVATIONS // (TOGETHER * self.largest * LANE)) * LANE, device_of(models[0]), []
        for part in torch.split(inputs, step):
            own = torch.cat([part, part.new_zeros(-len(part) % LANE, *part.shape[1:])]).to(device)
            made = self.trunk(state, own.expand(len(placed), *own.shape))[-len(models) :, : len(part)]
            parts.append(made.to(inputs.device))
        features, found = torch.cat(parts, dim=1), []
        for model, given in zip(models, features, strict=True):
            head, own = model.get_submodule(self.head), given.clone()
            with evaluating(head):
                found.append((own, head(own.to(device)).to(inputs.device)))
        return found


class Passes:
    """What the heads of many models receive of the same samples, and what the models answer: models of one architecture
    in one pass (`crosstask.learning.batched`), all others as in `received`.

    The numbers are those of `received` to rounding, and do not depend on which models went together. What is found out
    about a model is remembered: it must not be rebuilt, and is kept alive.
    """

    def __init__(self) -> None:
        self._kin: dict[Hashable, _Kin | None] = {}
        self._known: dict[tuple[int, Any], tuple[nn.Module, _Kin | None]] = {}

    def room(self, model: nn.Module, inputs: Tensor | MultiInput) -> int:
        """How many models may go with this one, itself counted; 1 where it goes alone."""
        kin = self._kin_of(model, inputs)
        if kin is None:
            return 1
        size = min(TOGETHER, WEIGHTS // max(1, kin.weights), FEATURES // max(1, len(inputs) * kin.features))
        return max(1, size)

    def alike(self, one: nn.Module, other: nn.Module, inputs: Tensor | MultiInput) -> bool:
        """Whether two models can go together."""
        kin = self._kin_of(one, inputs)
        return kin is not None and kin is self._kin_of(other, inputs)

    def received(self, models: Sequence[nn.Module], inputs: Tensor | MultiInput) -> list[tuple[Tensor, Tensor]]:
        """(features, outputs) of each of some models that are all `alike`, or of one, on the inputs' device."""
        kin = self._kin_of(models[0], inputs)
        if kin is None or not isinstance(inputs, Tensor):
            return [_joined(received(model, inputs, 1024)) for model in models]
        return kin.received(models, inputs)

    def _kin_of(self, model: nn.Module, inputs: Tensor | MultiInput) -> _Kin | None:
        """What it has in common with others; None where it goes alone. A few samples go through it, once."""
        kind = (tuple(inputs.shape[1:]), inputs.dtype) if isinstance(inputs, Tensor) else None
        if (id(model), kind) not in self._known:
            try:
                found = None if kind is None else self._found(model, inputs, kind)
            except Exception:  # of the user's own class, or it has no head: alone, it will say so
                found = None
            self._known[id(model), kind] = model, found
        return self._known[id(model), kind][1]

    def _found(self, model: nn.Module, inputs: Any, kind: Any) -> _Kin | None:
        if any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules()):
            return None
        if inseparable(model, inputs):
            return None
        head = head_found(model).module
        assert head is not None
        held = (*model.named_parameters(), *model.named_buffers())
        own = [(n, tuple(t.shape), t.dtype) for n, t in held if not n.startswith(f"{head}.")]
        key = (architecture(model), head, tuple(own), device_of(model), kind)
        if key not in self._kin:
            trunk, names = Batched(Headless(model).model.eval()), tuple(name for name, *_ in own)
            weights = sum(t.numel() for _, t in held)
            # Only layers in a row: the forward pass of a class of one's own may do more than answer (a cache, say)
            fits = trunk.path(names, inputs[None, :2].to(device_of(model))) == "layers" and weights <= WEIGHTS // 2
            self._kin[key] = _Kin(trunk, head, names, *_sizes(model, inputs[:2]), weights) if fits else None
        kin = self._kin[key]
        if kin is None:
            return None
        few = inputs[:2]
        alone, together = _joined(received(model, few, len(few))), kin.received([model], few)[0]
        near = (torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(alone, together, strict=True))
        same = all(one.shape == other.shape for one, other in zip(alone, together, strict=True))
        return kin if same and all(near) else None


def _aligned(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors, one above the other, of which each begins at a multiple of `LANE` numbers."""
    first = tensors[0]
    rows = first.new_zeros(len(tensors), -(-first.numel() // LANE) * LANE)
    for row, tensor in zip(rows, tensors, strict=True):
        row[: first.numel()] = tensor.flatten()
    return rows[:, : first.numel()].reshape(len(tensors), *first.shape)


def _joined(parts: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    features, outputs = zip(*parts, strict=True)
    return torch.cat(features), torch.cat(outputs)


def _sizes(model: nn.Module, inputs: Tensor) -> tuple[int, int]:
    """(how many numbers the largest answer of a layer to a sample has, how many the head receives and answers)."""
    sizes: list[int] = [1]

    def note(_: nn.Module, __: Any, answer: Any) -> None:
        sizes.append(answer.numel() // len(inputs) if isinstance(answer, Tensor) else 0)

    handles = [layer.register_forward_hook(note) for layer in model.modules()]
    try:
        features, outputs = _joined(received(model, inputs, len(inputs)))
    finally:
        for handle in handles:
            handle.remove()
    return max(sizes), (features.numel() + outputs.numel()) // len(inputs)
