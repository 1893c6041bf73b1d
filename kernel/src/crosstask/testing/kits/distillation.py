"""Checks of distillers."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import CrosstaskError, DataError
from crosstask.options import structure, unstructure
from crosstask.points.distillation import Distilled
from crosstask.records import MetaKnowledge
from crosstask.tasks import Task
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, expect, refused
from crosstask.testing.tasks import small_portfolio


class DistillationKit(Kit):
    """Knowledge says where it comes from and can be stored; applying it changes a copy, as far as `rate` says.

    A `twin(tasks, samples)` returns `Distilled` with the same tensors.
    """

    point = "distillation"

    def inputs(self) -> dict[str, Any]:
        tasks = list((self.subject.portfolio or small_portfolio)())
        return {"tasks": tasks, "samples": tasks[0].data("test").inputs, "model": copy.deepcopy(tasks[-1].model)}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        found = call("distill", tasks=inputs["tasks"], samples=inputs["samples"])
        changed = call("apply", model=inputs["model"], knowledge=found, rate=0.5)
        with torch.no_grad():
            return [plain(found), changed.eval()(inputs["samples"])]

    def distilled(self, device: str = "cpu", **changes: Any) -> Distilled:
        """What a new component distils, in a run."""
        inputs, component = self.inputs() | changes, self.make()
        with self.run(component, device=device) as run:
            found: Distilled = run.call(component, "distill", tasks=inputs["tasks"], samples=inputs["samples"])
        expect(isinstance(found, Distilled), f"{self.name}.distill returned a {type(found).__name__}, not Distilled")
        return found

    def applied(self, rate: float) -> tuple[nn.Module, nn.Module, Tensor]:
        """(model, changed model, samples)."""
        inputs, component = self.inputs(), self.make()
        with self.run(component) as run:
            found = run.call(component, "distill", tasks=inputs["tasks"], samples=inputs["samples"])
            changed = run.call(component, "apply", model=inputs["model"], knowledge=found, rate=rate)
        expect(isinstance(changed, nn.Module), f"{self.name}.apply returned a {type(changed).__name__}, not a module")
        return inputs["model"], changed, inputs["samples"]

    def check_knowledge_says_where_it_comes_from(self) -> None:
        """The knowledge names its source tasks, all of them given."""
        known = {task.task_id for task in self.inputs()["tasks"]}
        named = set(self.distilled().knowledge.source_tasks)
        expect(named, f"{self.name}: the knowledge names no source tasks")
        expect(named <= known, f"{self.name}: the knowledge names {named - known}, which were not given")

    def check_knowledge_can_be_stored(self) -> None:
        """The record survives JSON, and the tensors, finite ones by name, survive safetensors."""
        from safetensors.torch import load, save

        found = self.distilled()
        copied = structure(json.loads(json.dumps(unstructure(found.knowledge))), MetaKnowledge, "knowledge")
        told = difference(plain(found.knowledge), plain(copied), "knowledge")
        expect(told is None, f"{self.name}: the knowledge does not survive JSON: {told}")
        for name, tensor in found.tensors.items():
            expect(isinstance(tensor, Tensor), f"{self.name}: tensor {name!r} is a {type(tensor).__name__}")
            finite = not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
            expect(finite, f"{self.name}: tensor {name!r} is not finite")
        data = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in found.tensors.items()})
        told = difference(plain(found.tensors), plain(load(data)), "tensors")
        expect(told is None, f"{self.name}: the tensors do not survive safetensors: {told}")

    def check_applies_what_was_stored(self) -> None:
        """Knowledge read back from a store is applied like that which was just distilled, by a new component too."""
        inputs, found, fresh = self.inputs(), self.distilled(), self.make()
        copied = structure(json.loads(json.dumps(unstructure(found.knowledge))), MetaKnowledge, "knowledge")
        stored = Distilled(knowledge=copied, tensors={name: t.clone() for name, t in found.tensors.items()})
        with self.run(fresh) as run:
            changed = run.call(fresh, "apply", model=inputs["model"], knowledge=stored, rate=0.5)
        _, expected, samples = self.applied(0.5)
        told = difference(plain(expected.eval()(samples)), plain(changed.eval()(samples)), "outputs")
        expect(told is None, f"{self.name}: stored knowledge is applied otherwise: {told}")

    def check_rate_zero_changes_nothing(self) -> None:
        """With rate 0 the outputs are those of the model."""
        model, changed, samples = self.applied(0.0)
        with torch.no_grad():
            told = difference(plain(model.eval()(samples)), plain(changed.eval()(samples)), "outputs")
        expect(told is None, f"{self.name}.apply with rate 0 changes the model: {told}")

    def check_apply_makes_a_copy(self) -> None:
        """The answer is another module, and training it does not change the one given."""
        model, changed, _ = self.applied(1.0)
        expect(changed is not model, f"{self.name}.apply returned the model that it was given")
        before = plain(model)
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter.add_(1.0)
        told = difference(before, plain(model), "model")
        expect(told is None, f"{self.name}.apply returned a module that shares weights with the model: {told}")

    def check_outputs_keep_their_shape(self) -> None:
        """The changed model gives finite outputs of the model's shape, at every rate."""
        for rate in (0.0, 0.3, 1.0):
            model, changed, samples = self.applied(rate)
            with torch.no_grad():
                one, two = model.eval()(samples), changed.eval()(samples)
            expect(
                one.shape == two.shape,
                f"{self.name} at rate {rate}: outputs {tuple(two.shape)}, not {tuple(one.shape)}",
            )
            expect(bool(torch.isfinite(two).all()), f"{self.name} at rate {rate}: outputs that are not finite")

    def check_rate_checked(self) -> None:
        """A rate outside [0, 1] is refused."""
        for rate in (-0.1, 1.5, math.nan):
            with refused(f"{self.name}.apply with rate {rate}", CrosstaskError, ValueError):
                self.applied(rate)

    def check_no_tasks_refused(self) -> None:
        """Without tasks, and without a trained model among them, a DataError says so."""
        with refused(f"{self.name}.distill without tasks", DataError):
            self.distilled(tasks=[])
        bare = [Task(descriptor=task.descriptor) for task in self.inputs()["tasks"]]
        with refused(f"{self.name}.distill without trained models", DataError):
            self.distilled(tasks=bare)

    def check_cuda(self) -> None:
        """Models on the GPU are distilled there."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        inputs = self.inputs()
        for task in inputs["tasks"]:
            task.model.to("cuda")
        self.distilled("cuda", tasks=inputs["tasks"], samples=inputs["samples"].to("cuda"))

    def check_agrees_with_twin(self) -> None:
        """Its tensors are the twin's."""
        assert self.subject.twin is not None
        inputs = self.inputs()
        theirs = self.subject.twin(inputs["tasks"], inputs["samples"])
        told = difference(plain(self.distilled().tensors), plain(theirs.tensors), "tensors")
        expect(told is None, f"{self.name} and its twin: {told}")


KIT = DistillationKit
