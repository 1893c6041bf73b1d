"""Training a model with an alignment term beside its task's loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import attrs
import torch
from torch import Tensor, nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.data import batches
from crosstask.learning.inputs import joined, kind_of
from crosstask.learning.modules import evaluating, forward, head_found, uncompiled
from crosstask.learning.training import History, device_of, fit
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask_alignment.contract import Alignment

Inputs = Tensor | MultiInput


class Features:
    """Inside, `last` are the features [N, F] with which the model's head was last called (flattened, if they have more
    dimensions). DataError if the head is no module, or was not called with one row for each sample.
    """

    def __init__(self, model: nn.Module) -> None:
        found = head_found(model)
        if found.module is None:
            raise DataError(
                f"the head of {type(model).__name__} is no module, so the features that go into it cannot be had: "
                "let the head be a layer of its own"
            )
        self.model, self._head = model, model.get_submodule(found.module)
        self._seen: Tensor | None = None

    def __enter__(self) -> Self:
        self._handle = self._head.register_forward_pre_hook(self._note, with_kwargs=True)
        self._eager = uncompiled()
        self._eager.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self._eager.__exit__(None, None, None)
        self._handle.remove()

    def _note(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._seen = next((value for value in (*given, *named.values()) if isinstance(value, Tensor)), None)

    def last(self, rows: int) -> Tensor:
        """Those of the last pass, of so many rows."""
        seen, self._seen = self._seen, None
        if seen is None or seen.ndim < 2 or len(seen) != rows:
            raise DataError(f"the head of {type(self.model).__name__} does not receive one row for each sample")
        return seen.flatten(1)

    def of(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """(features [N, F], outputs) for inputs."""
        outputs = forward(self.model, inputs)
        return self.last(len(inputs)), outputs

    @torch.no_grad()
    def all_of(self, inputs: Inputs, batch_size: int = 4096) -> Tensor:
        """Features of all inputs in evaluation mode, on the CPU."""
        device = device_of(self.model)
        with evaluating(self.model):
            return torch.cat([self.of(part.to(device))[0].cpu() for part in inputs.split(batch_size)])


@attrs.define
class Terms:
    """The values of an alignment's term, one for each batch of a training."""

    values: list[float] = attrs.field(factory=list)
    _waiting: list[Tensor] = attrs.field(factory=list)

    def note(self, value: Tensor) -> None:
        """Keep one; it is read later, so that a GPU is not waited for."""
        self._waiting.append(value.detach())
        if len(self._waiting) >= 100:
            self.read()

    def read(self) -> list[float]:
        """All of them."""
        if self._waiting:
            self.values += torch.stack(self._waiting).tolist()
            self._waiting = []
        return self.values


class _Together(nn.Module):
    """A model whose training pass takes rows of other domains along: what is kept of them is for the term, the outputs
    are those of the rows that were given. One pass for all, so that a BatchNorm sees in training the mixture whose
    statistics it uses in evaluation.
    """

    whole_inputs = True

    def __init__(self, model: nn.Module, features: Features, draw: Callable[[], list[Inputs]]) -> None:
        super().__init__()
        self.model = model
        self._features, self._draw = features, draw
        self.rows: list[Tensor] = []
        """Features of the last training pass: of the rows that were given, and of each domain drawn."""
        self.outputs: list[Tensor] = []

    def forward(self, inputs: Inputs) -> Tensor:
        if not self.training:
            return forward(self.model, inputs)
        parts = [inputs, *self._draw()]
        if any(kind_of(part) != kind_of(inputs) for part in parts):
            raise DataError(f"inputs of all domains must be of one kind, got {[kind_of(part) for part in parts]}")
        sizes = [len(part) for part in parts]
        rows, outputs = self._features.of(joined(parts))
        self.rows, self.outputs = list(rows.split(sizes)), list(outputs.split(sizes))  # type: ignore[no-untyped-call]
        return self.outputs[0]


def check_conditional(alignment: Alignment, task: Task) -> None:
    """DataError where an alignment would take values for logits of classes."""
    kind = task.descriptor.task_type
    if "conditional" in alignment.capabilities and kind != "classification":
        raise DataError(
            f"{alignment.origin} looks at the probabilities of classes, and task {task.task_id!r} is a {kind}: take an "
            "alignment of the features alone"
        )


def fit_aligned(
    model: nn.Module,
    task: Task,
    alignment: Alignment,
    domains: Sequence[Inputs],
    budget: Budget,
    generator: torch.Generator,
    *,
    weight: float = 1.0,
    steps: int | None = None,
    whole: bool = False,
    curve_split: str | None = "validation",
) -> tuple[History, Terms]:
    """Train in place on the task's labelled data (`crosstask.learning.fit`, all of whose options hold), with `weight`
    times the alignment of its inputs (domain 0) with those of `domains` (1, 2, …), which need no labels.

    In each step as many rows are drawn from each domain as a batch has (all, if a domain has fewer), and all go through
    the model together. The features are what the model's head receives. The alignment is prepared afresh for their
    width, the number of domains and the model's outputs, and its own weights are trained with the model's. With `whole`
    all domains are those in `domains` (0, 1, …), and the task is only what is learned: that of several domains' labels
    together.

    DataError as of `fit`, if the head is no module, if inputs of the domains are not of one kind, or for a conditional
    alignment of a task that is no classification.
    """
    check_conditional(alignment, task)
    count, device = budget.steps if steps is None else steps, device_of(model)
    own = 0 if whole else 1
    if len(domains) + own < 2:
        raise DataError(f"an alignment is of two domains or more, got {len(domains) + own}")
    held = [inputs.to(device) for inputs in domains]
    apart = generator.clone_state()  # the task's own batches are those of a training without the term
    streams = [batches(len(inputs), budget.batch_size, _drawn(apart)) for inputs in held]
    done, terms = 0, Terms()

    def draw() -> list[Inputs]:
        return [part[next(stream).to(device)] for part, stream in zip(held, streams, strict=True)]

    with Features(model) as features:
        with torch.no_grad(), evaluating(model):
            seen, outputs = features.of(held[0][:2])
        alignment.prepare(seen, len(held) + own, outputs.shape[1] if outputs.ndim == 2 else None)
        together = _Together(model, features, draw)

        def term(inputs: Inputs, outputs: Tensor) -> Tensor:
            nonlocal done
            rows, logits = together.rows[1 - own :], together.outputs[1 - own :]
            domain = torch.repeat_interleave(torch.tensor([len(part) for part in rows]))
            progress = min(1.0, done / max(1, count * budget.accumulate - 1))
            known = torch.cat(logits) if outputs.ndim == 2 else None
            found = alignment.loss(torch.cat(rows), domain.to(device), known, progress)
            done += 1
            terms.note(found)
            return weight * found

        trained = [*model.parameters(), *alignment.parameters()]
        mode = model.training
        try:
            history = fit(
                together, task, budget, generator, steps=count, parameters=trained, penalty=term,
                curve_split=curve_split,
            )  # fmt: skip
        finally:
            model.train(mode)
    terms.read()
    return history, terms


def _drawn(generator: torch.Generator) -> torch.Generator:
    """A generator of its own: how many random numbers one domain needs changes nothing in the others."""
    return torch.Generator().manual_seed(int(torch.randint(2**31, (), generator=generator)))
