"""Checks of objectives."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from crosstask.context import LocalContext
from crosstask.errors import DataError
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, expect, refused
from crosstask_losses.contract import Objective
from crosstask_losses.given import Given
from crosstask_losses.testing import example_outputs

Outputs = dict[str, list[Tensor]]


class ObjectiveKit(Kit):
    """Terms are computed from random outputs of the kinds and shapes that `reads` declares, J being K - 1.

    A `twin(name, given)` gives the same values.
    """

    point = "loss"
    capabilities: ClassVar[frozenset[str]] = frozenset()

    @property
    def objective(self) -> type[Objective]:
        """The class that is checked."""
        return self.subject.component  # type: ignore[return-value]

    def inputs(self) -> dict[str, Any]:
        outputs, observations = example_outputs(self.objective.reads)
        return {"outputs": outputs, "observations": observations}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return {name: call("term", name=name, given=given_to(component, **inputs)) for name in names_of(self.objective)}

    def values(self, component: Any = None, names: list[str] | None = None, **inputs: Any) -> dict[str, Tensor]:
        """Terms by name, with their graphs. Outside a run, whose answers are the same, as other checks find out."""
        made, given = component or self.make(), {**self.inputs(), **inputs}
        made.bind(LocalContext(registry=self.subject.registry))
        wanted = names_of(self.objective) if names is None else names
        return {name: made.term(name=name, given=given_to(made, name, **given)) for name in wanted}

    def check_terms_are_scalars(self) -> None:
        """Each term, metric and loss apart is one floating-point number, and finite."""
        for name, value in self.values().items():
            expect(
                value.ndim == 0 and value.is_floating_point(),
                f"{self.name}: {name!r} must be a scalar, got shape {tuple(value.shape)}, {value.dtype}",
            )
            expect(bool(torch.isfinite(value).all()), f"{self.name}: {name!r} is {value} for ordinary outputs")

    def check_terms_train(self) -> None:
        """Each term has a gradient on at least one of the outputs."""
        inputs = self.inputs()
        leaves = leaves_of(inputs["outputs"])
        for name, value in self.values(names=list(self.objective.weighting), **inputs).items():
            expect(moves(value, leaves), f"{self.name}: {name!r} has no gradient on any output, and trains nothing")

    def check_weights_are_options(self) -> None:
        """Each weight that `weighting` names is an option, which refuses a negative number."""
        fields = {f.name for f in attrs.fields(self.objective) if f.init}  # type: ignore[arg-type]
        for weight in self.objective.weight_names():
            expect(weight in fields, f"{self.name}: weighting names {weight!r}, which is no option")
            self._refuses(weight, -1.0, "-1.0")

    def check_reads_what_it_declares(self) -> None:
        """Without an output that `reads` declares a term says so, naming it; without the optional ones all go on."""
        inputs = self.inputs()
        for key, declared in self.objective.reads.items():
            left = {name: value for name, value in inputs["outputs"].items() if name != key}
            if declared.optional:
                self.values(outputs=left)
                continue
            with refused(f"{self.name} without outputs[{key!r}]", DataError, naming=key):
                self.values(outputs=left)

    def check_terms_read_their_own(self) -> None:
        """A term needs only the outputs that are declared for it: those of a term that is off may be missing."""
        inputs = self.inputs()
        for name in names_of(self.objective):
            own = {
                key: inputs["outputs"][key]
                for key, declared in self.objective.reads.items()
                if not declared.terms or name in declared.terms
            }
            try:
                self.values(names=[name], outputs=own)
            except DataError as error:
                expect(False, f"{self.name}: {name!r} needs an output that `reads` declares for other terms: {error}")

    def check_mean_over_the_batch(self) -> None:
        """A batch in which every sequence comes twice gives the same values."""
        self._same(
            {key: torch.cat([value, value]) for key, value in self._batched().items()}, "of every sequence twice"
        )

    def check_order_of_the_batch(self) -> None:
        """The order of the sequences in a batch does not matter."""
        self._same({key: value.flip(0) for key, value in self._batched().items()}, "in another order")

    def check_double_precision(self) -> None:
        """Outputs and observations in double precision give terms in double precision."""
        inputs = self.inputs()
        outputs = {key: [double(x) for x in values] for key, values in inputs["outputs"].items()}
        for name, value in self.values(outputs=outputs, observations=double(inputs["observations"])).items():
            expect(value.dtype == torch.float64, f"{self.name}: {name!r} is {value.dtype} for outputs in float64")

    def check_apart_trains_its_own(self) -> None:
        """A loss apart has a gradient on the objective's own parameters and on no output; terms have none on those."""
        if not self.objective.apart:
            raise NotApplicableError("it has no losses apart")
        component, inputs = self.make(), self.inputs()
        values, leaves = self.values(component, **inputs), leaves_of(inputs["outputs"])
        own = component.parameters()
        expect(own, f"{self.name}: losses apart, and no parameters that they train")
        for name in self.objective.apart:
            expect(moves(values[name], own), f"{self.name}: {name!r} has no gradient on the objective's parameters")
            expect(not moves(values[name], leaves), f"{self.name}: {name!r} has a gradient on outputs: detach them")
        for name in self.objective.weighting:
            expect(not moves(values[name], own), f"{self.name}: {name!r} has a gradient on the objective's parameters")

    def check_agrees_with_twin(self) -> None:
        """Every value is the twin's."""
        assert self.subject.twin is not None
        inputs = self.inputs()
        component = self.make()
        theirs = {n: self.subject.twin(n, given_to(component, n, **inputs)) for n in names_of(self.objective)}
        found = difference(plain(theirs), plain(self.values(component, **inputs)), "terms")
        expect(found is None, f"{self.name} and its twin: {found}")

    def _batched(self) -> dict[str, Tensor]:
        """What has a batch, by `key/step`."""
        inputs = self.inputs()
        found = {
            f"{key}/{step}": value
            for key, values in inputs["outputs"].items()
            for step, value in enumerate(values)
            if not self.objective.reads[key].constant
        }
        return {"": inputs["observations"], **found}

    def _same(self, changed: dict[str, Tensor], how: str) -> None:
        inputs = self.inputs()
        outputs = {
            key: [changed.get(f"{key}/{step}", value) for step, value in enumerate(values)]
            for key, values in inputs["outputs"].items()
        }
        before, after = self.values(), self.values(outputs=outputs, observations=changed[""])
        for name, value in before.items():
            near = (
                torch.allclose(value, after[name], rtol=1e-4, atol=1e-5) if value.shape == after[name].shape else True
            )
            expect(near, f"{self.name}: {name!r} is {after[name]} for a batch {how}, and was {value}")


def given_to(component: Any, term: str = "", *, outputs: Outputs, observations: Tensor) -> Given:
    """As an aggregator gives it."""
    made = Given(outputs, observations, None, component.reads, component.origin)
    made.term = term
    return made


def names_of(objective: type[Objective]) -> list[str]:
    """Everything that it computes."""
    return [*objective.weighting, *objective.metrics, *objective.apart]


def leaves_of(outputs: Outputs) -> list[Tensor]:
    """The outputs that may have gradients."""
    return [value for values in outputs.values() for value in values if value.requires_grad]


def moves(value: Tensor, leaves: Any) -> bool:
    """Whether a value has a gradient that is not zero on one of these."""
    if not value.requires_grad:
        return False
    grads = torch.autograd.grad(value.sum(), list(leaves), retain_graph=True, allow_unused=True)
    return any(grad is not None and bool((grad != 0).any()) for grad in grads)


def double(tensor: Tensor) -> Tensor:
    """Floating-point numbers in double precision."""
    return tensor.double() if tensor.is_floating_point() else tensor
