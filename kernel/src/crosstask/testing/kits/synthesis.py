"""Checks of synthesizers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.records import Provenance
from crosstask.tasks import Task
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, CheckFailure, Kit, NotApplicableError, expect, refused
from crosstask.testing.tasks import small_graph, small_portfolio


class SynthesisKit(Kit):
    """The module maps inputs to the new task's outputs, and says from what it was made.

    A `twin(new_task, sources, graph, inputs)` returns a module with the same outputs.
    """

    point = "synthesis"

    def inputs(self) -> dict[str, Any]:
        portfolio = (self.subject.portfolio or small_portfolio)()
        if not portfolio.unseen:
            raise CheckFailure("the portfolio to check a synthesizer with needs an unseen task")
        task = portfolio.unseen[0]
        return {
            "new_task": task.descriptor,
            "sources": list(portfolio),
            "graph": small_graph(portfolio),
            "inputs": task.data("test").inputs,
        }

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        module = call("synthesize", **inputs)
        with torch.no_grad():
            return [module.eval()(inputs["inputs"]), plain(getattr(module, "provenance", None))]

    def made(self, device: str = "cpu", **changes: Any) -> tuple[dict[str, Any], nn.Module]:
        """(inputs, module) of a new component in a run."""
        inputs, component = self.inputs() | changes, self.make()
        with self.run(component, device=device) as run:
            module = run.call(component, "synthesize", **inputs)
        expect(
            isinstance(module, nn.Module), f"{self.name}.synthesize returned a {type(module).__name__}, not a module"
        )
        return inputs, module

    @torch.no_grad()
    def check_outputs_of_the_new_task(self) -> None:
        """Outputs are finite, [N, output_dim], for one input and for many."""
        inputs, module = self.made()
        for count in (1, 7):
            outputs: Tensor = module.eval()(inputs["inputs"][:count])
            wanted = (count, inputs["new_task"].output_dim)
            expect(tuple(outputs.shape) == wanted, f"{self.name}: outputs {tuple(outputs.shape)}, expected {wanted}")
            expect(bool(torch.isfinite(outputs).all()), f"{self.name}: outputs that are not finite")

    @torch.no_grad()
    def check_each_input_on_its_own(self) -> None:
        """In evaluation mode an input's output does not depend on the others of its batch."""
        inputs, module = self.made()
        batch = inputs["inputs"][:6]
        whole, parts = module.eval()(batch), torch.cat([module(row) for row in batch.split(1)])
        close = whole.shape == parts.shape and torch.allclose(whole, parts, rtol=1e-4, atol=1e-5)
        expect(close, f"{self.name}: the output for an input depends on the rest of its batch")

    def check_provenance(self) -> None:
        """`provenance` names the new task, and source tasks with finite weights, not all zero."""
        inputs, module = self.made()
        told = getattr(module, "provenance", None)
        expect(isinstance(told, Provenance), f"{self.name}: module.provenance is {told!r}, not a crosstask.Provenance")
        assert isinstance(told, Provenance)
        wanted = inputs["new_task"].task_id
        expect(told.new_task == wanted, f"{self.name}: provenance says {told.new_task!r}, the new task is {wanted!r}")
        strange = set(told.sources) - {task.task_id for task in inputs["sources"]}
        expect(not strange, f"{self.name}: provenance names {strange}, not among the sources")
        weights = list(told.sources.values())
        expect(any(weights) and all(map(math.isfinite, weights)), f"{self.name}: provenance has weights {told.sources}")

    def check_works_without_inputs(self) -> None:
        """Without unlabelled inputs it makes a module, or says in a DataError that it needs them."""
        try:
            inputs, module = self.made(inputs=None)
        except DataError as error:
            expect("input" in str(error), f"{self.name} without inputs: the message does not say so: {error}")
        else:
            outputs = module.eval()(self.inputs()["inputs"][:2])
            wanted = (2, inputs["new_task"].output_dim)
            expect(tuple(outputs.shape) == wanted, f"{self.name} without inputs: outputs {tuple(outputs.shape)}")

    def check_no_sources_refused(self) -> None:
        """Without any source a DataError says so."""
        with refused(f"{self.name} without sources", DataError):
            self.made(sources=[])

    def check_untrained_sources_refused(self) -> None:
        """When no source has a trained model a DataError says so."""
        bare = [Task(descriptor=task.descriptor) for task in self.inputs()["sources"]]
        with refused(f"{self.name} with sources without models", DataError):
            self.made(sources=bare)

    def check_float64(self) -> None:
        """Sources in double precision give a module in double precision."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            given = self.inputs()
            for task in given["sources"]:
                task.model.double()
            inputs, module = self.made(sources=given["sources"])
            outputs = module.eval()(inputs["inputs"])
        finally:
            torch.set_default_dtype(before)
        expect(outputs.dtype == torch.float64, f"{self.name}: {outputs.dtype} outputs for float64 inputs")

    def check_cuda(self) -> None:
        """Sources on the GPU give a module there."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        given = self.inputs()
        for task in given["sources"]:
            task.model.to("cuda")
        inputs, module = self.made("cuda", sources=given["sources"], inputs=given["inputs"].to("cuda"))
        place = module.eval()(inputs["inputs"]).device.type
        expect(place == "cuda", f"{self.name}: outputs on {place} for inputs on cuda")

    @torch.no_grad()
    def check_agrees_with_twin(self) -> None:
        """Its outputs are those of the twin's module."""
        assert self.subject.twin is not None
        inputs, module = self.made()
        other = self.subject.twin(**self.inputs())
        found = difference(plain(module.eval()(inputs["inputs"])), plain(other.eval()(inputs["inputs"])), "outputs")
        expect(found is None, f"{self.name} and its twin: {found}")


KIT = SynthesisKit
