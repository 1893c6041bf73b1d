"""Checks of sharing architectures."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.errors import DataError
from crosstask.learning.modules import Headless
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, expect, refused
from crosstask.testing.tasks import small_portfolio, trained
from crosstask_multitask.sharing import MultiTaskModule, SharingMatrix


class SharingKit(Kit):
    """Outputs by task, and parameters that are either shared or of one task.

    A `twin(tasks, trunk)` returns a module which, with the same weights, gives the same outputs.
    """

    point = "sharing"

    def inputs(self) -> dict[str, Any]:
        with torch.enable_grad():  # some checks need no gradient, but the tasks' models are trained when first needed
            tasks = list((self.subject.portfolio or small_portfolio)())
        model = tasks[0].model or trained(tasks[0]).model
        assert model is not None
        return {"tasks": tasks, "trunk": Headless(model)}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        module = call("build", **inputs)
        with torch.no_grad():
            # A copy, because switching the module to evaluation would switch the trunk that was given.
            return [plain(module), copy.deepcopy(module).eval()(_batches(inputs["tasks"]))]

    def built(self, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> tuple[list[Any], Any]:
        """(tasks, module) of a new component in a run."""
        inputs, component = self.inputs(), self.make()
        trunk = inputs["trunk"].to(device=device, dtype=dtype)
        with self.run(component, seed=seed, device=device) as run:
            module = run.call(component, "build", tasks=inputs["tasks"], trunk=trunk)
        expect(isinstance(module, MultiTaskModule), f"{self.name}.build returned a {type(module).__name__}")
        return inputs["tasks"], module

    @torch.no_grad()
    def check_outputs_of_each_task(self) -> None:
        """For each task given in: finite outputs [N, output_dim], under its name."""
        tasks, module = self.built()
        outputs = module.eval()(_batches(tasks))
        _shapes(self.name, tasks, outputs)

    @torch.no_grad()
    def check_subset_of_tasks(self) -> None:
        """Some of the tasks may be given in, in evaluation with the outputs that they have beside the others."""
        tasks, module = self.built()
        module.eval()
        whole = module(_batches(tasks))
        for some in (tasks[:1], tasks[1:3]):
            outputs = module(_batches(some))
            _shapes(f"{self.name} given some tasks", some, outputs)
            for task in some:
                same = torch.allclose(outputs[task.task_id], whole[task.task_id], rtol=1e-4, atol=1e-5)
                expect(same, f"{self.name}: the outputs for {task.task_id!r} depend on which other tasks are given")

    @torch.no_grad()
    def check_outputs_are_logits(self) -> None:
        """Outputs are logits, not probabilities."""
        tasks, module = self.built()
        outputs = module.eval()(_batches(tasks))
        every = [outputs[t.task_id] for t in tasks if t.descriptor.task_type == "classification"]
        inside = all(bool(((o >= 0) & (o <= 1)).all()) for o in every)
        expect(not inside or not every, f"{self.name}: all outputs lie in [0, 1]: give logits, not probabilities")

    def check_parameters_are_shared_or_of_one_task(self) -> None:
        """Every trainable parameter is a shared one or belongs to exactly one task."""
        tasks, module = self.built()
        groups = {"shared": list(module.shared_parameters())}
        groups |= {f"task {t.task_id!r}": list(module.task_parameters(t.task_id)) for t in tasks}
        owner: dict[int, str] = {}
        for group, parameters in groups.items():
            for parameter in parameters:
                other = owner.setdefault(id(parameter), group)
                expect(other == group, f"{self.name}: a parameter of {group} is also one of {other}")
        names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
        left = [name for key, name in names.items() if key not in owner]
        expect(not left, f"{self.name}: {', '.join(left[:3])} is neither shared nor of one task")
        strange = owner.keys() - {id(p) for p in module.parameters()}
        expect(not strange, f"{self.name}: {len(strange)} parameters are not those of the module")

    def check_gradients_reach_their_parameters(self) -> None:
        """A task's loss reaches its own parameters and shared ones, and no other task's."""
        tasks, module = self.built()
        for task in tasks[:3]:
            module.zero_grad(set_to_none=True)
            module.train()(_batches([task]))[task.task_id].square().sum().backward()
            reached = {id(p) for p in module.parameters() if p.grad is not None and bool((p.grad != 0).any())}
            for other in tasks:
                own = {id(p) for p in module.task_parameters(other.task_id)}
                if other is task:
                    expect(
                        not own or own & reached, f"{self.name}: the loss of {task.task_id!r} misses its own parameters"
                    )
                else:
                    expect(not own & reached, f"{self.name}: {task.task_id!r} trains parameters of {other.task_id!r}")
            shared = {id(p) for p in module.shared_parameters()}
            expect(shared & reached, f"{self.name}: the loss of {task.task_id!r} reaches no shared parameter")

    def check_frozen_weights_stay_frozen(self) -> None:
        """What is frozen in the trunk, as under an adapter, is neither trainable nor written; the rest is shared."""
        inputs, component = self.inputs(), self.make()
        *first, last = inputs["trunk"].parameters()
        for parameter in first:
            parameter.requires_grad_(False)
        before = [parameter.detach().clone() for parameter in first]
        with self.run(component) as run:
            module = run.call(component, "build", tasks=inputs["tasks"], trunk=inputs["trunk"])
        loose = sum(any(torch.equal(p, old) for old in before) for p in module.parameters() if p.requires_grad)
        expect(not loose, f"{self.name}.build makes {loose} frozen weights of the trunk trainable")
        written = sum(not torch.equal(p, old) for p, old in zip(first, before, strict=True))
        expect(not written, f"{self.name}.build changes {written} frozen weights of the trunk")
        open_ones = [p for p in module.shared_parameters() if p.requires_grad]
        expect(
            any(torch.equal(p, last) for p in open_ones),
            f"{self.name}: the trunk's only trainable weight is not among the shared parameters",
        )

    @torch.no_grad()
    def check_module_state_round_trip(self) -> None:
        """The weights of a module fit into another that is built the same way, which then gives the same outputs."""
        tasks, module = self.built()
        for parameter in module.parameters():
            parameter.add_(0.01)
        _, again = self.built(seed=1)
        again.load_state_dict(module.state_dict())
        found = difference(plain(module.eval()(_batches(tasks))), plain(again.eval()(_batches(tasks))), "outputs")
        expect(found is None, f"{self.name}: a module with the weights of another differs: {found}")

    def check_unknown_task_refused(self) -> None:
        """Inputs for a task that the module was not built for are refused with an error that names it."""
        tasks, module = self.built()
        batch = next(iter(_batches(tasks[:1]).values()))
        with refused(f"{self.name}: inputs for an unknown task", DataError, KeyError, naming="no such task"):
            module({"no such task": batch})

    @torch.no_grad()
    def check_rows_of_a_batch(self) -> None:
        """For rows of a batch that tasks share, its answers are those rows of its answers for the whole."""
        tasks, module = self.built()
        batch = next(iter(_batches(tasks[:1]).values()))
        inputs = {task.task_id: batch for task in tasks}
        rows = {tasks[0].task_id: torch.tensor([0, 2]), tasks[-1].task_id: torch.tensor([3])}
        whole, some = module.eval()(inputs), module.on_rows(inputs, rows)
        for task_id, outputs in whole.items():
            wanted = outputs[rows[task_id]] if task_id in rows else outputs
            same = some[task_id].shape == wanted.shape and torch.allclose(some[task_id], wanted, rtol=1e-4, atol=1e-5)
            expect(same, f"{self.name}: on_rows gives {task_id!r} other answers than those of its rows of the batch")

    @torch.no_grad()
    def check_adds_a_task(self) -> None:
        """A task can be added, which leaves the others' answers bit for bit as they were, or it says why not."""
        inputs, component = self.inputs(), self.make()
        *tasks, more = inputs["tasks"]
        with self.run(component) as run:
            module = run.call(component, "build", tasks=tasks, trunk=inputs["trunk"])
        before = plain(module.eval()(_batches(tasks)))
        try:
            module.add_task(more)
        except DataError as error:
            expect(more.task_id in str(error), f"{self.name}: add_task is refused without naming the task: {error}")
            return
        found = difference(before, plain(module.eval()(_batches(tasks))), "outputs")
        expect(found is None, f"{self.name}: a task that was added changes the answers of the others: {found}")
        _shapes(f"{self.name} with a task that was added", [more], module(_batches([more])))
        expect(any(True for _ in module.task_parameters(more.task_id)) or any(True for _ in module.shared_parameters()),
               f"{self.name}: the task that was added has no parameters")  # fmt: skip

    @torch.no_grad()
    def check_a_task_is_added_once(self) -> None:
        """A task that the module has is refused where it should be added again, with an error that names it."""
        tasks, module = self.built()
        with refused(f"{self.name}: a task that is added twice", DataError, naming=tasks[0].task_id):
            module.add_task(tasks[0])

    @torch.no_grad()
    def check_samples_stand_alone(self) -> None:
        """In evaluation the answer for a sample does not depend on the other samples, be they of another task."""
        tasks, module = self.built()
        module.eval()
        whole, inputs = module(_batches(tasks)), _batches(tasks)
        first, other = tasks[0].task_id, tasks[1].task_id
        some = module({**inputs, first: inputs[first][:2]})[first]
        same = torch.allclose(some, whole[first][:2], rtol=1e-4, atol=1e-5)
        expect(same, f"{self.name}: the answer for a sample of {first!r} depends on the other samples of its batch")
        moved = module({**inputs, other: tasks[1].data("train").inputs[-5:]})[first]
        same = torch.allclose(moved, whole[first], rtol=1e-4, atol=1e-5)
        expect(same, f"{self.name}: the answers for {first!r} depend on the samples of {other!r}")

    @torch.no_grad()
    def check_learned(self) -> None:
        """What it has learned of sharing are finite matrices, and asking for them changes nothing. Those that tell of
        "each task" have the tasks that are asked about as rows, in their order.
        """
        tasks, module = self.built()
        some = tasks[::-1][:3]
        before, modes = plain(module.state_dict()), [each.training for each in module.eval().modules()]
        found = module.learned(_batches(some))
        expect(
            isinstance(found, list) and all(isinstance(each, SharingMatrix) for each in found),
            f"{self.name}: learned must return a list of SharingMatrix, got {found!r:.80}",
        )
        for matrix in found:
            expect(matrix.finite, f"{self.name}: {matrix.name!r} has values that are not finite")
            if "each task" in matrix.name.lower():
                rows = tuple(task.task_id for task in some)
                expect(matrix.rows == rows, f"{self.name}: {matrix.name!r} has the rows {matrix.rows}, not {rows}")
        names = [matrix.name for matrix in found]
        expect(len(set(names)) == len(names), f"{self.name}: two matrices have one name: {names}")
        moved = difference(before, plain(module.state_dict()), "weights")
        expect(moved is None, f"{self.name}: learned changes the module: {moved}")
        expect(modes == [each.training for each in module.modules()], f"{self.name}: learned leaves another mode")

    def check_no_tasks_refused(self) -> None:
        """Without tasks there is nothing to build."""
        inputs, component = self.inputs(), self.make()
        with self.run(component) as run, refused(f"{self.name} without tasks", DataError):
            run.call(component, "build", tasks=[], trunk=inputs["trunk"])

    def check_float64(self) -> None:
        """A trunk in double precision gives a module in double precision."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            tasks, module = self.built(torch.float64)
            kinds = {output.dtype for output in module.eval()(_batches(tasks)).values()}
        finally:
            torch.set_default_dtype(before)
        expect(kinds == {torch.float64}, f"{self.name}: outputs {kinds} for a trunk and inputs in float64")

    def check_cuda(self) -> None:
        """A trunk on the GPU gives a module there."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        tasks, module = self.built(device="cuda")
        outputs = module.eval()({name: batch.to("cuda") for name, batch in _batches(tasks).items()})
        places = {output.device.type for output in outputs.values()} | {p.device.type for p in module.parameters()}
        expect(places == {"cuda"}, f"{self.name}: outputs and weights on {places} for a trunk on cuda")

    @torch.no_grad()
    def check_agrees_with_twin(self) -> None:
        """With the same weights its outputs are those of the twin's module."""
        assert self.subject.twin is not None
        tasks, module = self.built()
        other: nn.Module = self.subject.twin(**self.inputs())
        other.load_state_dict(module.state_dict())
        found = difference(plain(module.eval()(_batches(tasks))), plain(other.eval()(_batches(tasks))), "outputs")
        expect(found is None, f"{self.name} and its twin: {found}")


def _batches(tasks: list[Any]) -> dict[str, Any]:
    return {task.task_id: task.data("train").inputs[: _count(task)] for task in tasks}


def _count(task: Any) -> int:
    """Batches of unlike sizes; a task's own is the same whichever others there are."""
    return 4 + len(task.task_id) % 3


def _shapes(who: str, tasks: list[Any], outputs: dict[str, Tensor]) -> None:
    wanted = [task.task_id for task in tasks]
    expect(sorted(outputs) == sorted(wanted), f"{who}: outputs for {sorted(outputs)}, inputs were for {sorted(wanted)}")
    for task in tasks:
        output, shape = outputs[task.task_id], (_count(task), task.descriptor.output_dim)
        expect(
            tuple(output.shape) == shape, f"{who}: {task.task_id!r} has outputs {tuple(output.shape)}, expected {shape}"
        )
        expect(bool(torch.isfinite(output).all()), f"{who}: outputs of {task.task_id!r} are not finite")
