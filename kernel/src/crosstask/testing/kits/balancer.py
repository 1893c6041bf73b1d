"""Checks of gradient balancers; those of numbers are in `crosstask.testing.balancers`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.errors import CrosstaskError
from crosstask.learning.gradients import MatrixGradients
from crosstask.points.balancer import Direction, parts
from crosstask.testing import balancers
from crosstask.testing.balancers import fresh, losses_for, problems_of, update
from crosstask.testing.compare import plain
from crosstask.testing.kit import Call, CheckFailure, Kit, NotApplicableError, claims, expect

STEPS = 3


class BalancerKit(Kit):
    """Updates have the right shape and the properties that are claimed. A `twin(gradients)` gives the update [D]."""

    point = "balancer"
    capabilities: ClassVar[frozenset[str]] = frozenset({*balancers.CLAIMS, "needs_losses"})

    def inputs(self) -> dict[str, Any]:
        # As many columns as `_problem` has shared parameters: a balancer may remember a direction.
        tasks = self.tasks
        gradients = torch.randn(tasks, 15, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        losses = torch.tensor([0.3, 2.0, 1.1] * tasks, dtype=torch.float64)[:tasks]
        return {"gradients": gradients, "losses": losses}

    @property
    def tasks(self) -> int:
        """How many tasks the ordinary problem has: three, or as many as the balancer needs."""
        least: int = self.subject.component.least_tasks  # type: ignore[attr-defined]
        return max(3, least)

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        # Several answers, so that what a balancer remembers between them shows; and backward, as training calls it.
        answers = []
        for step in range(STEPS):
            lazy = MatrixGradients(inputs["gradients"])
            answers.append(plain(call("balance", losses=inputs["losses"] * (1 + 0.2 * step), gradients=lazy)))
        losses, shared, heads = _problem(torch.float64, self.tasks)
        weights = component.backward(losses, shared, heads)
        return [answers, weights, [p.grad for p in [*shared, *heads]]]

    @property
    def factory(self) -> Callable[[], Any]:
        """Makes balancers; says where those that are made of others find them."""
        made = functools.partial(self.make)
        made.registry = self.subject.registry  # type: ignore[attr-defined]
        return made

    def holds(self, check: Callable[[Any], None]) -> None:
        """One of the checks of numbers, with the name of the balancer in its failure."""
        try:
            check(self.factory)
        except CheckFailure as failure:
            raise CheckFailure(f"{self.name}: {failure}") from None

    def check_answers_weights_or_a_direction(self) -> None:
        """`balance` returns finite weights [T] without a graph, or a `Direction` with a vector [D]."""
        for matrix in problems_of(self.factory):
            answer = fresh(self.factory).balance(losses_for(matrix), MatrixGradients(matrix))
            weights, vector = parts(answer, len(matrix), self.name)
            expect(isinstance(answer, Tensor | Direction), f"{self.name}.balance returned a {type(answer).__name__}")
            for what, value, shape in (("weights", weights, matrix.shape[:1]), ("vector", vector, matrix.shape[1:])):
                if value is not None:
                    got = tuple(value.shape)
                    expect(
                        got == tuple(shape), f"{self.name}: {what} of shape {got} for gradients {tuple(matrix.shape)}"
                    )
                    expect(not value.requires_grad, f"{self.name}: the {what} have a graph; detach them")
                    expect(torch.isfinite(value).all(), f"{self.name}: {what} that are not finite")

    def check_updates_are_finite(self) -> None:
        """Updates in a row are finite, [D] for gradients [T, D]."""
        self.holds(balancers.check_shapes)

    def check_keeps_dtype_and_device(self) -> None:
        """The update has the dtype and device of the gradients."""
        self.holds(balancers.check_keeps_dtype_and_device)

    def check_single_precision_agrees(self) -> None:
        """In float32 the update is that of float64, up to rounding."""
        if "stochastic" in self.subject.component.capabilities:
            raise NotApplicableError("stochastic: what is drawn may depend on the dtype")
        self.holds(balancers.check_single_precision_agrees)

    def check_zero_gradients(self) -> None:
        """Only zeros give zero; one zero gradient among others leaves the update finite."""
        self.holds(balancers.check_zero_gradients)

    def check_one_task(self) -> None:
        """A single task's update is its gradient times a positive number."""
        self.holds(balancers.check_one_task)

    def check_backward_agrees_with_combine(self) -> None:
        """`backward` through a graph writes what `combine` says of the gradient matrix."""
        self.holds(balancers.check_backward_agrees_with_combine)

    def check_state_by_name(self) -> None:
        """What it keeps for a task belongs to the task's name, in whatever order and with whichever others it comes."""
        self.holds(balancers.check_state_by_name)

    def check_absent_tasks_keep_their_state(self) -> None:
        """What its state holds under a task's name stays while the task is not in a step."""
        self.holds(balancers.check_absent_tasks_keep_their_state)

    def check_backward_leaves_other_gradients(self) -> None:
        """`backward` adds to `.grad`; a task's own parameter gets its loss's gradient, weighted only if declared."""
        losses, shared, heads = _problem(torch.float64, self.tasks)
        pairs = zip(losses, heads, strict=True)
        own = [torch.autograd.grad(loss, head, retain_graph=True)[0] for loss, head in pairs]
        first, second = (torch.zeros_like(shared[0]), torch.ones_like(shared[0]))
        found = []
        for start in (first, second):
            losses, shared, heads = _problem(torch.float64, self.tasks)
            shared[0].grad = start.clone()
            balancer = fresh(self.factory)
            weights = balancer.backward(losses, shared, heads)
            assert shared[0].grad is not None
            found.append(shared[0].grad - start)
        gap = float((found[0] - found[1]).abs().max())
        expect(gap < 1e-9, f"{self.name}.backward does not add to what is in .grad already")
        for head, gradient, weight in zip(heads, own, weights, strict=True):
            got = torch.zeros_like(head) if head.grad is None else head.grad
            wanted = gradient * weight if balancer.weighs_losses else gradient
            close = torch.allclose(got, wanted, rtol=1e-5, atol=1e-9)
            what = "times its weight (weighs_losses)" if balancer.weighs_losses else "of its own loss"
            expect(close, f"{self.name}.backward: a task's own parameter does not get the gradient {what}")

    def check_number_of_tasks_may_change(self) -> None:
        """After a step with some tasks it answers one with others, or says why not."""
        balancer = fresh(self.factory)
        generator = torch.Generator().manual_seed(3)
        for tasks in (self.tasks + 1, self.tasks, self.tasks + 2, self.tasks + 1):
            matrix = torch.randn(tasks, 6, generator=generator, dtype=torch.float64)
            try:
                found = update(balancer, matrix, losses_for(matrix))
            except CrosstaskError as error:
                expect(str(error).strip(), f"{self.name}: an error without a message")
                return
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                raise CheckFailure(f"{self.name} when the number of tasks changes: {told}") from error
            expect(torch.isfinite(found).all(), f"{self.name}: not finite after the number of tasks changed")

    def check_nan_is_not_hidden(self) -> None:
        """A gradient that is not finite is refused, or the update is not finite either; it is never passed over."""
        matrix = torch.randn(self.tasks, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        matrix[1, 2] = torch.nan
        try:
            found = update(fresh(self.factory), matrix, losses_for(matrix))
        except (CrosstaskError, ValueError) as error:
            expect(str(error).strip(), f"{self.name}: an error without a message")
        except Exception as error:
            raise CheckFailure(f"{self.name} for a gradient with NaN: {type(error).__name__}: {error}") from error
        else:
            expect(not torch.isfinite(found).all(), f"{self.name}: a finite update although a gradient holds NaN")

    def check_cuda(self) -> None:
        """Gradients on the GPU give an update there, the same as on the CPU."""
        if not torch.cuda.is_available():
            raise NotApplicableError("no CUDA device")
        for matrix in problems_of(self.factory):
            on_gpu = matrix.to("cuda")
            found = update(fresh(self.factory), on_gpu, losses_for(on_gpu))
            expect(found.device.type == "cuda", f"{self.name}: an update on {found.device} for gradients on cuda")
            here = update(fresh(self.factory), matrix, losses_for(matrix))
            _close(f"{self.name} on cuda", found.cpu(), here, "the CPU")

    @claims("permutation_invariant")
    def check_permutation_invariant(self) -> None:
        """It claims `permutation_invariant`: the update does not depend on the order of the tasks."""
        self.holds(balancers.check_permutation_invariant)

    @claims("scale_equivariant")
    def check_scale_equivariant(self) -> None:
        """It claims `scale_equivariant`: gradients of another length give an update of that length."""
        self.holds(balancers.check_scale_equivariant)

    @claims("linear_under_scaling")
    def check_linear_under_scaling(self) -> None:
        """It claims `linear_under_scaling`: the update is linear in positive factors of the task gradients."""
        self.holds(balancers.check_linear_under_scaling)

    @claims("non_conflicting")
    def check_non_conflicting(self) -> None:
        """It claims `non_conflicting`: the update has no negative inner product with a task's gradient."""
        self.holds(balancers.check_non_conflicting)

    @claims("convex_weights")
    def check_convex_weights(self) -> None:
        """It claims `convex_weights`: weights only, none negative, with sum one."""
        self.holds(balancers.check_convex_weights)

    def check_seed_matters_only_if_claimed(self) -> None:
        """The seed changes the updates if it claims `stochastic`, and does not if it does not."""
        claimed = "stochastic" in self.subject.component.capabilities
        self.holds(balancers.check_stochastic if claimed else balancers.check_not_stochastic)

    def check_losses_matter_only_if_claimed(self) -> None:
        """The values of losses change nothing unless it claims `needs_losses`."""
        if "needs_losses" in self.subject.component.capabilities:
            raise NotApplicableError("needs_losses is claimed")
        self.holds(balancers.check_ignores_losses)

    def check_agrees_with_twin(self) -> None:
        """Its first update is the twin's."""
        assert self.subject.twin is not None
        for matrix in problems_of(self.factory):
            found = update(fresh(self.factory), matrix, losses_for(matrix))
            _close(f"{self.name} for gradients {tuple(matrix.shape)}", found, self.subject.twin(matrix), "its twin")


def _problem(dtype: torch.dtype, tasks: int) -> tuple[list[Tensor], list[nn.Parameter], list[nn.Parameter]]:
    """(a loss for each task, shared parameters, one parameter per task): a linear trunk, and a linear head per task."""
    generator = torch.Generator().manual_seed(13)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    weight, bias = nn.Parameter(normal(4, 3)), nn.Parameter(normal(3))
    heads = [nn.Parameter(normal(3)) for _ in range(tasks)]
    features = torch.tanh(normal(20, 4) @ weight + bias)
    scales = [(1.0, 3.0, 0.5)[number % 3] for number in range(tasks)]
    losses = [((features @ head - normal(20)) ** 2).mean() * c for head, c in zip(heads, scales, strict=True)]
    return losses, [weight, bias], heads


def _close(who: str, got: Tensor, wanted: Tensor, what: str) -> None:
    gap, size = float((got - wanted).norm()), float(wanted.norm())
    expect(gap <= 1e-5 * size + 1e-9, f"{who}: the update differs from that of {what} by {gap:.3g} (of {size:.3g})")


KIT = BalancerKit
