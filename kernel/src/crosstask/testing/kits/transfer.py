"""Checks of transfer methods."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import attrs
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from crosstask.adapting import of_transfer
from crosstask.errors import DataError
from crosstask.learning.training import History, evaluate
from crosstask.learning.transferring import receive
from crosstask.records import SeveralResult, TransferResult
from crosstask.tasks import Task
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, claims, expect, refused
from crosstask.testing.tasks import BUDGET, small_graph, small_portfolio


class TransferKit(Kit):
    """`learn` trains the receiver within its budget; `transfer` measures it.

    A `twin(model, source, task, budget, generator)` is another `learn`, which leaves the same weights.
    """

    point = "transfer"
    capabilities = frozenset({"several"})

    def inputs(self) -> dict[str, Any]:
        portfolio = (self.subject.portfolio or small_portfolio)()
        tasks = list(portfolio)
        source = tasks[0]
        alike = [t for t in tasks[1:] if t.descriptor.classes == source.descriptor.classes]
        other = [t for t in tasks[1:] if t.descriptor.output_dim != source.descriptor.output_dim]
        return {"source": source, "targets": [*alike[:1], *other[:1]] or tasks[1:2], "budget": BUDGET}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        given = {"source": inputs["source"], "budget": inputs["budget"], "seeds": 1, "split": "validation"}
        return call("transfer", target=inputs["targets"][-1], **given)

    def learned(
        self, learn: Any = None, dtype: torch.dtype = torch.float32, device: str = "cpu", **changes: Any
    ) -> tuple[Task, nn.Module, nn.Module, History]:
        """(task, receiver before, receiver after, history) of one `learn` in a run, for the last target."""
        inputs = self.inputs()
        source, task = inputs["source"], inputs["targets"][-1]
        assert source.model is not None
        model = source.model.to(device=device, dtype=dtype)
        receiver, _, _ = receive(model, task, 0, keep_head=False)
        before = copy.deepcopy(receiver)
        component = self.make()
        budget = attrs.evolve(BUDGET, **changes)
        with self.run(component, device=device):
            function = component.learn if learn is None else learn
            history = function(receiver, model, task, budget, torch.Generator().manual_seed(0))
        return task, before, receiver, history

    def check_result_says_what_was_done(self) -> None:
        """`transfer` returns a `TransferResult` with its source, target, split, budget and number of seeds."""
        inputs, component = self.inputs(), self.make()
        target = inputs["targets"][0]
        given = {"source": inputs["source"], "target": target, "budget": BUDGET, "seeds": 2, "split": "test"}
        with self.run(component) as run:
            result = run.call(component, "transfer", **given)
        expect(isinstance(result, TransferResult), f"{self.name}.transfer returned a {type(result).__name__}")
        wanted = (inputs["source"].task_id, target.task_id, "test", BUDGET, 2)
        got = (result.source, result.target, result.split, result.budget, result.seeds)
        expect(got == wanted, f"{self.name}.transfer says {got}, it was {wanted}")
        expect(-1 <= result.coefficient.mean <= 1, f"{self.name}: coefficient {result.coefficient.mean} not in [-1, 1]")

    def check_adapted_is_what_was_measured(self) -> None:
        """The model that `adapt` gives scores what was measured of the first seed: it is made in the way that was."""
        inputs, component = self.inputs(), self.make()
        for target in inputs["targets"]:
            given = {"source": inputs["source"], "target": target, "budget": BUDGET}
            with self.run(component) as run:
                result = run.call(component, "transfer", **given, seeds=2, split="test")
                model = of_transfer(run, component, inputs["source"], target, BUDGET, result).model
            score, measured = evaluate(model, target, "test"), result.score.values[0]
            expect(
                abs(score - measured) < 1e-6,
                f"{self.name}: the adapted model scores {score}, what was measured {measured}; where `transfer` learns "
                "in another way than `learn`, say it in a method `between` (`crosstask.Transfer`)",
            )

    def check_budget_kept(self) -> None:
        """No more optimiser steps than `budget.steps` are taken, for small budgets too."""
        for steps in (1, 2, 8):
            counted: list[int] = []
            hook = register_optimizer_step_post_hook(lambda *_, c=counted: c.append(1))
            try:
                self.learned(steps=steps)
            finally:
                hook.remove()
            expect(len(counted) <= steps, f"{self.name}: {len(counted)} optimiser steps, the budget is {steps}")

    def check_history_is_consistent(self) -> None:
        """The history has finite losses, at most one per step, and values at rising step numbers within the budget."""
        _, _, _, history = self.learned()
        expect(isinstance(history, History), f"{self.name}.learn returned a {type(history).__name__}, not a History")
        expect(
            len(history.losses) <= BUDGET.steps, f"{self.name}: {len(history.losses)} losses in {BUDGET.steps} steps"
        )
        expect(all(map(math.isfinite, history.losses)), f"{self.name}: losses that are not finite")
        steps, values = history.steps, history.values
        expect(len(steps) == len(values), f"{self.name}: {len(steps)} step numbers for {len(values)} values")
        expect(steps, f"{self.name}: no learning curve (steps and values), though the task has validation data")
        rising = all(a < b for a, b in itertools.pairwise(steps))
        expect(rising and steps[0] >= 0, f"{self.name}: step numbers do not rise: {steps}")
        expect(steps[-1] <= BUDGET.steps, f"{self.name}: a value at step {steps[-1]}, the budget is {BUDGET.steps}")

    def check_trains_the_receiver(self) -> None:
        """`learn` changes the model that it is given, in place."""
        _, before, after, _ = self.learned()
        expect(difference(plain(before), plain(after)) is not None, f"{self.name}.learn left the model as it was")

    def check_receiver_left_usable(self) -> None:
        """Afterwards the model gives logits of the target's shape, and what was trainable is trainable."""
        task, before, after, _ = self.learned()
        score = evaluate(after, task, "validation")
        expect(math.isfinite(score), f"{self.name}: the trained model gives no finite score")
        shape = tuple(after.eval()(task.data("validation").inputs[:3]).shape)
        wanted = (3, task.descriptor.output_dim)
        expect(shape == wanted, f"{self.name}: outputs of shape {shape}, expected {wanted}")
        frozen = [
            name
            for name, parameter in after.named_parameters()
            if not parameter.requires_grad and dict(before.named_parameters())[name].requires_grad
        ]
        expect(not frozen, f"{self.name} leaves {', '.join(frozen[:3])} frozen; undo what you set")

    def check_needs_a_trained_source(self) -> None:
        """A source without a model is refused with a DataError that names it."""
        inputs, component = self.inputs(), self.make()
        bare = Task(descriptor=inputs["source"].descriptor, train=inputs["source"].train)
        with self.run(component) as run, refused(f"{self.name} without a model", DataError, naming=bare.task_id):
            run.call(
                component,
                "transfer",
                source=bare,
                target=inputs["targets"][0],
                budget=BUDGET,
                seeds=1,
                split="validation",
            )

    def check_float64(self) -> None:
        """It works in double precision, and the model stays there."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            _, _, after, _ = self.learned(dtype=torch.float64)
        finally:
            torch.set_default_dtype(before)
        kinds = {p.dtype for p in after.parameters()}
        expect(kinds == {torch.float64}, f"{self.name}: weights are {kinds} after training in float64")

    def check_cuda(self) -> None:
        """It trains a model that is on the GPU, there."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        _, _, after, _ = self.learned(device="cuda")
        places = {p.device.type for p in after.parameters()}
        expect(places == {"cuda"}, f"{self.name}: weights on {places} after training on cuda")

    def several(self, target: Task, graph: Any) -> SeveralResult:
        """`transfer_several` to this target from all others that have models."""
        component = self.make()
        sources = [t for t in (self.subject.portfolio or small_portfolio)() if t.model and t.task_id != target.task_id]
        with self.run(component) as run:
            done = run.call(
                component, "transfer_several", sources=sources, target=target, graph=graph, train=BUDGET,
                budget=BUDGET, seeds=2, split="test",
            )  # fmt: skip
        assert isinstance(done, SeveralResult)
        return done

    @claims("several")
    def check_several_sources(self) -> None:
        """It claims `several`: `transfer_several` says what was done, with the sources named or found in the graph, and
        its result holds a model for the target.
        """
        target = self.inputs()["targets"][-1]
        for graph in (None, small_graph((self.subject.portfolio or small_portfolio)())):
            done = self.several(target, graph)
            wanted, got = (target.task_id, "test", BUDGET, 2), (done.target, done.split, done.budget, done.seeds)
            expect(got == wanted, f"{self.name}.transfer_several says {got}, it was {wanted}")
            expect(done.sources and target.task_id not in done.sources, f"{self.name}: sources are {done.sources}")
            expect(done.cost.steps > 0 and done.cost.parameters > 0, f"{self.name}: the cost is {done.cost}")
            expect(isinstance(done.model, nn.Module), f"{self.name}: the result holds no model")
            score = evaluate(done.model, target, "test")
            expect(abs(score - done.score.values[0]) < 1e-6, f"{self.name}: its model scores {score}, not {done.score}")

    @claims("several")
    def check_several_never_look_at_the_test(self) -> None:
        """It claims `several`: with other labels in the split that it is judged on it learns and chooses the same."""
        target = self.inputs()["targets"][-1]
        data = target.data("test")
        other = attrs.evolve(data, targets=data.targets.flip(0))
        changed = target.over(train=target.data("train"), validation=target.data("validation"), test=other)
        found = difference(plain(self.several(target, None).model), plain(self.several(changed, None).model), "model")
        expect(found is None, f"{self.name} looks at the data that it is judged on: {found}")

    def check_agrees_with_twin(self) -> None:
        """It leaves the weights that the twin leaves."""
        _, _, ours, _ = self.learned()
        _, _, theirs, _ = self.learned(self.subject.twin)
        found = difference(plain(ours), plain(theirs), "model")
        expect(found is None, f"{self.name} and its twin: {found}")


KIT = TransferKit
