"""Checks of continual strategies."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.tasks import Task
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, claims, expect, plain_state
from crosstask.testing.tasks import MODEL, small_portfolio
from crosstask_continual.contract import ContinualStrategy
from crosstask_continual.learner import ContinualLearner, ScenarioWarning, writes
from crosstask_continual.model import SCENARIOS, ContinualModel
from crosstask_continual.testing import ReferenceReplay

EPOCHS = 2


class Modes(ContinualStrategy):
    """Notes whether each module trains, when a task ends and in every step."""

    capabilities: ClassVar[frozenset[str]] = frozenset(SCENARIOS)

    def __init__(self) -> None:
        self.ended: list[bool] = []
        self.stepped: list[list[bool]] = []

    def after_step(self, model: ContinualModel) -> None:
        self.stepped.append(_modes(model.network))

    def task_ends(self, model: ContinualModel, task: Task) -> None:
        self.ended = _modes(model.network)


class ContinualKit(Kit):
    """Strategies are used by a `ContinualLearner` on small tasks, in the scenarios that they claim.

    A `twin()` makes another strategy, slow and obviously right, with which learning leaves the same weights.
    """

    point = "continual"
    capabilities: ClassVar[frozenset[str]] = frozenset(SCENARIOS)

    def inputs(self) -> dict[str, Any]:
        portfolio = (self.subject.portfolio or small_portfolio)()
        tasks = [task for task in portfolio if task.descriptor.output_dim == 2][:3]
        return {"tasks": tasks, "scenario": self.scenarios()[0]}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        learner = self.learner([component], inputs["tasks"], inputs["scenario"], component.context)
        for task in inputs["tasks"]:
            learner.train_task(task, num_epochs=2)
        return {"matrix": learner.matrix, "weights": _weights(learner)}

    def scenarios(self) -> list[str]:
        """Those that the component claims (`task`, if it claims none)."""
        return [s for s in SCENARIOS if s in self.subject.component.capabilities] or ["task"]

    def learner(
        self,
        strategies: list[Any],
        tasks: list[Task],
        scenario: str,
        context: Context | None = None,
        **given: Any,
    ) -> ContinualLearner:
        """A learner with a small network for these tasks."""
        dtype, device = given.pop("dtype", torch.get_default_dtype()), given.pop("device", "cpu")
        network = _network(tasks, scenario, given.get("grow", False)).to(device=device, dtype=dtype)
        settings = {"learning_rate": 0.02, "batch_size": 16, "split": "validation", **given}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScenarioWarning)
            return ContinualLearner(network, strategies, scenario=scenario, context=context, **settings)

    def learned(
        self, strategies: list[Any], scenario: str, *, count: int = 3, epochs: int = EPOCHS, **given: Any
    ) -> ContinualLearner:
        """A learner that has learned the first `count` tasks in a run."""
        tasks = self.inputs()["tasks"][:count]
        with self.run(*(s for s in strategies if s.__class__ is not Modes), device=given.get("device", "cpu")) as run:
            learner = self.learner(strategies, tasks, scenario, run, **given)
            for task in tasks:
                learner.train_task(task, num_epochs=epochs)
        return learner

    def check_learns_what_comes(self) -> None:
        """With it a task is still learned: accuracy on the first and the last of three is well above chance."""
        learner = self.learned([self.make()], self.scenarios()[0], epochs=12)
        for place in (0, 2):
            score = learner.matrix[place][place]
            expect(
                score is not None and score > 0.7,
                f"{self.name}: accuracy {score} on task {place + 1} of 3 just after learning it; plain training has "
                "more than 0.8",
            )

    @claims("task", "domain", "class")
    def check_has_an_effect(self) -> None:
        """In every scenario that it claims, a second task is learned otherwise than without it."""
        for scenario in self.scenarios():
            ours, plainly = self.learned([self.make()], scenario, count=2), self.learned([], scenario, count=2)
            found = difference(plain(_weights(plainly)), plain(_weights(ours)), "weights")
            expect(found is not None, f"{self.name} claims {scenario!r}, but leaves the same weights as no strategy")

    def check_says_why_not(self) -> None:
        """For every scenario that it does not claim, `unsuited` says why."""
        cls = self.subject.component
        for scenario in SCENARIOS:
            if scenario not in cls.capabilities:
                reason = getattr(cls, "unsuited", {}).get(scenario, "")
                expect(
                    str(reason).strip(), f"{self.name} does not claim {scenario!r}: unsuited[{scenario!r}] must say why"
                )

    def check_modes_restored(self) -> None:
        """Modules that learn are in training mode after a task's end and in every step."""
        noting = Modes()
        self.learned([self.make(), noting], self.scenarios()[0])
        expect(all(noting.ended), f"{self.name} leaves modules in evaluation mode at the end of a task")
        expect(all(map(all, noting.stepped)), f"{self.name} puts modules into evaluation mode while a task is learned")

    def check_model_left_usable(self) -> None:
        """Afterwards the model has finite outputs, one row for each sample."""
        learner = self.learned([self.make()], self.scenarios()[0])
        task = self.inputs()["tasks"][0]
        batch = learner.model.data(task)
        with torch.no_grad():
            outputs = learner.model(batch.inputs, batch.task_ids)
        wanted = (len(batch), learner.model.outputs)
        expect(
            tuple(outputs.shape) == wanted, f"{self.name}: outputs of shape {tuple(outputs.shape)}, expected {wanted}"
        )
        expect(bool(torch.isfinite(outputs).all()), f"{self.name}: outputs that are not finite")

    def check_works_beside_others(self) -> None:
        """It works after and before another strategy that replays samples."""
        for strategies in (
            [ReferenceReplay(buffer_size=8), self.make()],
            [self.make(), ReferenceReplay(buffer_size=8)],
        ):
            learner = self.learned(strategies, self.scenarios()[0])
            expect(len(learner.matrix) == 3, f"{self.name} did not learn every task beside another strategy")

    @claims("task", "class")
    def check_heads_may_grow(self) -> None:
        """A head that gains outputs from task to task changes nothing else, whether it is learned or frozen."""
        scenario = next(s for s in self.scenarios() if s != "domain")
        learner = self.learned([self.make()], scenario, grow=True)
        expect(learner.model.outputs == learner.model.seen, f"{self.name}: the head did not grow with the tasks")
        if writes(self.make(), "resumes"):
            return  # it gives the model a network of its own
        component, tasks = self.make(), self.inputs()["tasks"]
        with self.run(component) as run:
            learner = self.learner([component], tasks, scenario, run, grow=True)
            learner.model.network.get_submodule("head").requires_grad_(False)
            for task in tasks:
                learner.train_task(task, num_epochs=1)
        grown = learner.model.outputs == learner.model.seen
        expect(grown, f"{self.name}: a frozen head did not grow with the tasks")

    def check_frozen_weights_stay(self) -> None:
        """Weights that need no gradient, such as those of a network under an adapter, are left bit for bit."""
        component, tasks, scenario = self.make(), self.inputs()["tasks"], self.scenarios()[0]
        if writes(component, "resumes"):
            raise NotApplicableError("it gives the model a network of its own")
        with self.run(component) as run:
            learner = self.learner([component], tasks, scenario, run)
            frozen = learner.model.network.get_submodule("trunk").requires_grad_(False)
            before = {name: weight.clone() for name, weight in frozen.state_dict().items()}
            for task in tasks:
                learner.train_task(task, num_epochs=1)
        for name, weight in frozen.state_dict().items():
            expect(torch.equal(weight, before[name]), f"{self.name} changes {name!r}, which needs no gradient")

    # A strategy belongs to one learner: it is not used again by another one, as these of every component do.
    check_state_round_trip = None  # type: ignore[assignment]
    check_state_is_a_snapshot = None  # type: ignore[assignment]

    def check_goes_on_from_a_state(self) -> None:
        """A learner restored between two tasks learns the next as the one that was not interrupted."""
        tasks, scenario = self.inputs()["tasks"], self.scenarios()[0]
        component, again = self.make(), self.make()
        with self.run(component) as run:
            through = self.learner([component], tasks, scenario, run)
            for task in tasks[:2]:
                through.train_task(task, num_epochs=1)
            taken = plain_state(through.state_dict(), self.name)
            through.train_task(tasks[2], num_epochs=1)
        with self.run(again) as run:
            restored = self.learner([again], tasks, scenario, run)
            restored.load_state_dict(taken)
            for task in tasks:
                restored.train_task(task, num_epochs=1)
        found = difference(plain(_weights(through)), plain(_weights(restored)), "weights")
        expect(found is None, f"{self.name}: a run restored after two tasks learns the third otherwise: {found}")

    def check_taken_state_stays(self) -> None:
        """A state that was taken between two tasks does not change while the next is learned."""
        tasks, component = self.inputs()["tasks"], self.make()
        with self.run(component) as run:
            learner = self.learner([component], tasks, self.scenarios()[0], run)
            learner.train_task(tasks[0], num_epochs=1)
            taken = component.state_dict()
            before = plain(taken)
            learner.train_task(tasks[1], num_epochs=1)
        found = difference(before, plain(taken), "state")
        expect(found is None, f"{self.name}: a state changed after it was taken: {found}")

    def check_float64(self) -> None:
        """It works in double precision, and the model stays there."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            learner = self.learned([self.make()], self.scenarios()[0], dtype=torch.float64)
        finally:
            torch.set_default_dtype(before)
        kinds = {p.dtype for p in learner.model.parameters()}
        expect(kinds == {torch.float64}, f"{self.name}: weights are {kinds} after learning in float64")

    def check_cuda(self) -> None:
        """It works with a model that is on the GPU, and leaves it there."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        learner = self.learned([self.make()], self.scenarios()[0], device="cuda")
        places = {p.device.type for p in learner.model.parameters()}
        expect(places == {"cuda"}, f"{self.name}: weights on {places} after learning on cuda")

    def check_agrees_with_twin(self) -> None:
        """Learning with it and with the twin leaves the same weights, in every scenario that it claims."""
        assert self.subject.twin is not None
        for scenario in self.scenarios():
            ours, theirs = self.learned([self.make()], scenario), self.learned([self.subject.twin()], scenario)
            found = difference(plain(_weights(ours)), plain(_weights(theirs)), "weights")
            expect(found is None, f"{self.name} and its twin, scenario {scenario!r}: {found}")


def _network(tasks: list[Task], scenario: str, grow: bool) -> nn.Module:
    layout = ContinualModel(MODEL.build(tasks[0].descriptor, 0), scenario, grow=True)
    for task in tasks[: 1 if grow else None]:
        layout.add(task, 0)
    return layout.network


def _weights(learner: ContinualLearner) -> dict[str, Tensor]:
    return learner.model.network.state_dict()


def _modes(network: nn.Module) -> list[bool]:
    """Of modules with something to learn: what a strategy has frozen may stay in evaluation mode."""
    return [module.training for module in network.modules() if any(p.requires_grad for p in module.parameters())]
