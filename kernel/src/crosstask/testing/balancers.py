"""What every balancer must do, and what its capabilities promise, as asserts on a factory.

`check_x(factory)` makes fresh balancers with `factory()` and fails with an AssertionError that says what was expected:

    @pytest.mark.parametrize("check", ALWAYS, ids=lambda check: check.__name__)
    def test_contract(check): check(RGB)

`ALWAYS` holds for each balancer, `CLAIMS` maps a capability to the check of its claim, and `checks_of(factory)` is
all that apply. Gradients are float64 matrices with conflict, without, of very different length, and dependent ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.learning.gradients import MatrixGradients
from crosstask.points.balancer import Balancer, parts
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import NotApplicableError, expect

Factory = Callable[[], Balancer]
Check = Callable[[Factory], None]


def problems(dtype: torch.dtype = torch.float64, least: int = 1) -> Iterator[Tensor]:
    """Gradient matrices [T, D] of at least `least` tasks that between them have every difficulty but zeros."""
    for seed, (count, size) in enumerate([(2, 3), (3, 8), (5, 20), (9, 30)]):
        tasks = max(count, least)
        matrix = torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        yield matrix.to(dtype)
        yield matrix.abs().to(dtype)  # without conflict
        yield (matrix * torch.logspace(-2, 2, tasks, dtype=torch.float64)[:, None]).to(dtype)
    same = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [2.0, -1.0, 0.5]], dtype=dtype)  # two the same
    further = torch.randn(max(0, least - 3), 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    yield torch.cat([same, further.to(dtype)])


def problems_of(factory: Factory, dtype: torch.dtype = torch.float64) -> Iterator[Tensor]:
    """The problems with as many tasks as the balancer says it needs."""
    return problems(dtype, type(factory()).least_tasks)


def losses_for(matrix: Tensor, step: int = 0) -> Tensor:
    """Positive losses [T] that fall from step to step, each at its own rate."""
    tasks = torch.arange(1, len(matrix) + 1, dtype=matrix.dtype, device=matrix.device)
    return (0.5 + tasks / 3) / (1 + 0.1 * tasks) ** step


def fresh(factory: Factory, seed: int = 0) -> Balancer:
    """A new balancer, bound to a context with this seed."""
    balancer = factory()
    # A factory may say where a balancer made of others finds them.
    balancer.bind(LocalContext(seed=seed, registry=getattr(factory, "registry", None)))
    return balancer


def update(balancer: Balancer, matrix: Tensor, losses: Tensor, names: Sequence[str] = ()) -> Tensor:
    """The update [D] of one step."""
    lazy = MatrixGradients(matrix, names)
    return lazy.assemble(*parts(balancer.balance(losses, lazy), len(matrix), balancer.origin))


def updates(balancer: Balancer, matrix: Tensor, steps: int, start: int = 0) -> Tensor:
    """The updates [steps, D] of several steps, whose gradients turn a little from one to the next."""
    found = []
    for step in range(start, start + steps):
        noise = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        turned = matrix + 0.1 * noise.to(matrix) * matrix.norm(dim=1, keepdim=True)
        found.append(update(balancer, turned, losses_for(matrix, step)))
    return torch.stack(found)


def _told(values: Tensor) -> str:
    """A tensor for a message: three digits, and no more than a few numbers."""
    if values.dim() > 1:
        return f"[{', '.join(map(_told, values[:3]))}{', …' if len(values) > 3 else ''}]"
    return f"[{', '.join(f'{x:.3g}' for x in values[:4].tolist())}{', …' if len(values) > 4 else ''}]"


def _same(one: Tensor, other: Tensor, message: str, tolerance: float = 1e-6) -> None:
    scale = max(float(other.abs().max()), 1e-30)
    expect(float((one - other).abs().max()) <= tolerance * scale, message)


def check_shapes(factory: Factory) -> None:
    """[T, D] gives a finite [D]."""
    for matrix in problems_of(factory):
        found = updates(fresh(factory), matrix, 3)
        expect(found.shape == (3, matrix.shape[1]), f"an update of shape {tuple(found.shape[1:])} for {matrix.shape}")
        expect(torch.isfinite(found).all(), f"an update that is not finite for gradients {matrix.tolist()}")


def check_keeps_dtype_and_device(factory: Factory) -> None:
    """The update has the dtype and device of the gradients."""
    for dtype in (torch.float32, torch.float64):
        for matrix in problems_of(factory, dtype):
            found = update(fresh(factory), matrix, losses_for(matrix))
            expect(found.dtype == dtype, f"an update in {found.dtype} for gradients in {dtype}")
            expect(found.device == matrix.device, f"an update on {found.device} for gradients on {matrix.device}")


def check_single_precision_agrees(factory: Factory) -> None:
    """In float32 the update is that of float64, up to rounding."""
    for matrix in problems_of(factory):
        if len(torch.linalg.svdvals(matrix)) < len(matrix) or torch.linalg.cond(matrix) > 1e3:
            continue
        exact = update(fresh(factory), matrix, losses_for(matrix))
        single = matrix.float()
        rounded = update(fresh(factory), single, losses_for(single)).double()
        _same(rounded, exact, "float32 and float64 give different updates", 2e-3)


def check_inputs_untouched(factory: Factory) -> None:
    """Neither losses nor gradients change."""
    for matrix in problems_of(factory):
        losses = losses_for(matrix)
        before = matrix.clone(), losses.clone()
        balancer = fresh(factory)
        for _ in range(3):
            update(balancer, matrix, losses)
        expect(torch.equal(matrix, before[0]), "the gradients were changed")
        expect(torch.equal(losses, before[1]), "the losses were changed")


def check_zero_gradients(factory: Factory) -> None:
    """Only zeros give zero; one zero gradient among others leaves the update finite."""
    for matrix in problems_of(factory):
        balancer = fresh(factory)
        for _ in range(2):
            nothing = update(balancer, torch.zeros_like(matrix), losses_for(matrix))
            expect(not nothing.any(), "zero gradients must give a zero update")
        some = matrix.clone()
        some[0] = 0
        found = updates(fresh(factory), some, 1)
        exact = update(fresh(factory), some, losses_for(some))
        expect(torch.isfinite(found).all() and torch.isfinite(exact).all(), "one zero gradient spoils the update")


def check_one_task(factory: Factory) -> None:
    """A single task's update is its gradient times a positive number."""
    gradient = torch.tensor([[3.0, -4.0, 12.0]], dtype=torch.float64)
    balancer = fresh(factory)
    if balancer.least_tasks > 1:
        raise NotApplicableError(f"it needs at least {balancer.least_tasks} tasks")
    for step in range(3):
        found = update(balancer, gradient, losses_for(gradient, step))
        length = found.norm()
        expect(length > 0, "one task must give an update")
        _same(found / length, gradient[0] / 13, "one task's update must point along its gradient")


def check_same_seed_same_answer(factory: Factory) -> None:
    """The seed of the context decides all random numbers."""
    for matrix in problems_of(factory):
        one, two = (updates(fresh(factory, seed=7), matrix, 3) for _ in range(2))
        expect(torch.equal(one, two), "two balancers with the same seed give different updates")


def check_global_generator_untouched(factory: Factory) -> None:
    """torch's global generator is neither used nor moved."""
    matrix = next(problems_of(factory))
    before = torch.random.get_rng_state()
    one = updates(fresh(factory), matrix, 2)
    expect(torch.equal(before, torch.random.get_rng_state()), "the global generator was used")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        two = updates(fresh(factory), matrix, 2)
    expect(torch.equal(one, two), "the global seed changes the update")


def check_state_round_trip(factory: Factory) -> None:
    """A new balancer with the state of an old one goes on exactly as it does."""
    for matrix in problems_of(factory):
        old, new = fresh(factory), fresh(factory)
        updates(old, matrix, 3)
        new.load_state_dict(old.state_dict())
        expect(
            torch.equal(updates(old, matrix, 3, 3), updates(new, matrix, 3, 3)), "the state does not hold everything"
        )


def check_state_is_a_snapshot(factory: Factory) -> None:
    """A state that was taken does not change when training goes on."""
    for matrix in problems_of(factory):
        balancer = fresh(factory)
        updates(balancer, matrix, 2)
        state = balancer.state_dict()
        before = plain(state)
        updates(balancer, matrix, 3, 2)
        found = difference(before, plain(state), "state")
        expect(found is None, f"a state changed after it was taken: {found}")


def check_backward_agrees_with_combine(factory: Factory) -> None:
    """`backward` through a graph writes what `combine` says of the gradient matrix."""
    for matrix in problems_of(factory):
        parameter = nn.Parameter(torch.zeros(matrix.shape[1], dtype=matrix.dtype))
        fresh_one = fresh(factory)
        fresh_one.backward([1 + gradient @ parameter for gradient in matrix], shared=[parameter], task_specific=[])
        assert parameter.grad is not None
        _same(parameter.grad, fresh(factory).combine(matrix), "backward and combine give different updates")


def check_permutation_invariant(factory: Factory) -> None:
    """Reordering the tasks changes nothing."""
    for matrix in problems_of(factory):
        order = torch.randperm(len(matrix), generator=torch.Generator().manual_seed(1))
        one, two = fresh(factory), fresh(factory)
        for step in range(3):
            losses = losses_for(matrix, step)
            expected = update(one, matrix, losses)
            found = update(two, matrix[order], losses[order])
            told = (
                f"reordering the tasks changes the update: with losses {_told(losses)} and gradients {_told(matrix)} "
                f"it is {_told(expected)}, with the tasks in the order {order.tolist()} it is {_told(found)} "
                f"(step {step + 1})"
            )
            _same(found, expected, told, 1e-5)


def _named_steps(least: int) -> Iterator[tuple[list[str], Tensor, Tensor]]:
    """(names, gradients, losses) of steps that have two of four named tasks each (or as many as there must be), each
    task with gradients and losses of its own kind.
    """
    count = max(2, least)
    every = [f"task {number}" for number in range(2 * count)]
    generator = torch.Generator().manual_seed(6)
    kinds = torch.randn(len(every), 6, generator=generator, dtype=torch.float64)
    scales = torch.logspace(-1, 1, len(every), dtype=torch.float64)
    for step in range(8):
        places = [(2 * step + number + step // 2) % len(every) for number in range(count)]
        matrix = kinds[places] + 0.3 * torch.randn(count, 6, generator=generator, dtype=torch.float64)
        losses = scales[places] * (1 + torch.rand(count, generator=generator, dtype=torch.float64))
        yield [every[place] for place in places], matrix * scales[places][:, None], losses


def check_state_by_name(factory: Factory) -> None:
    """What it keeps for a task is the task's, whichever tasks are in a step and in whichever order they come: steps
    whose tasks came in another order leave it with the same state.
    """
    one, two = fresh(factory), fresh(factory)
    steps = list(_named_steps(one.least_tasks))
    for names, matrix, losses in steps[:-2]:
        update(one, matrix, losses, names)
        update(two, matrix.flip(0), losses.flip(0), names[::-1])
    for names, matrix, losses in steps[-2:]:
        found, expected = update(two, matrix, losses, names), update(one, matrix, losses, names)
        told = (
            f"the order of the tasks in earlier steps changes the update of {names}: what is kept for a task must be "
            "kept by its name (gradients.names), not by its place"
        )
        _same(found, expected, told, 1e-5)


def check_absent_tasks_keep_their_state(factory: Factory) -> None:
    """Whatever the state holds under the name of a task that is not in a step is the same after it."""
    balancer = fresh(factory)
    for names, matrix, losses in _named_steps(balancer.least_tasks):
        before = _under_names(plain(balancer.state_dict()))
        update(balancer, matrix, losses, names)
        after = _under_names(plain(balancer.state_dict()))
        for path, value in before.items():
            if path[-1] not in names:
                expect(path in after, f"the state forgot {path[-1]!r} in a step with {names}")
                found = difference(value, after[path], "it")
                expect(found is None, f"the state of {path[-1]!r} changed in a step with {names}: {found}")


def _under_names(state: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """What a state holds under names of tasks, by the keys that lead there."""
    found: dict[tuple[str, ...], Any] = {}
    pairs = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list) else ()
    for key, value in pairs:
        if str(key).startswith("task "):
            found[(*path, str(key))] = value
        else:
            found |= _under_names(value, (*path, str(key)))
    return found


def check_scale_equivariant(factory: Factory) -> None:
    """Gradients times c give the update times c, for the same losses."""
    for matrix in problems_of(factory):
        expected = updates(fresh(factory), matrix, 3)
        for factor in (1e-3, 1e3):
            found = updates(fresh(factory), matrix * factor, 3)
            _same(found / factor, expected, f"{factor:g} x the gradients is not {factor:g} x the update", 1e-5)


def check_non_conflicting(factory: Factory) -> None:
    """The update has no negative inner product with any task's gradient."""
    for matrix in problems_of(factory):
        found = update(fresh(factory), matrix, losses_for(matrix))
        cosines = matrix @ found / (matrix.norm(dim=1) * found.norm().clamp_min(1e-30))
        expect(float(cosines.min()) >= -1e-6, f"the update conflicts: cosine {float(cosines.min()):.3g}")


def check_linear_under_scaling(factory: Factory) -> None:
    """Multiplying task i's gradient by c_i > 0 gives an update that is linear in c."""
    for matrix in problems_of(factory):
        draws = torch.rand(2, len(matrix), generator=torch.Generator().manual_seed(2), dtype=matrix.dtype) + 0.1
        losses = losses_for(matrix)
        first, second = (update(fresh(factory), c[:, None] * matrix, losses) for c in draws)
        both = update(fresh(factory), (draws[0] + 2 * draws[1])[:, None] * matrix, losses)
        _same(both, first + 2 * second, "the update is not linear in the scales of the gradients", 1e-5)


def check_convex_weights(factory: Factory) -> None:
    """The answer is weights that are not negative and sum to one."""
    for matrix in problems_of(factory):
        balancer = fresh(factory)
        for step in range(3):
            answer = balancer.balance(losses_for(matrix, step), MatrixGradients(matrix))
            weights, vector = parts(answer, len(matrix), balancer.origin)
            expect(weights is not None and vector is None, "convex weights are claimed, but the answer is a direction")
            assert weights is not None
            expect(float(weights.min()) >= 0, f"a negative weight: {weights.tolist()}")
            expect(abs(float(weights.sum()) - 1) <= 1e-6, f"weights with sum {float(weights.sum()):.6g}")


def check_stochastic(factory: Factory) -> None:
    """Another seed gives other updates."""
    runs = [torch.cat([updates(fresh(factory, s), m, 4).flatten() for m in problems_of(factory)]) for s in (1, 2)]
    expect(not torch.equal(*runs), "random numbers are claimed, but another seed gives the same updates")


def check_not_stochastic(factory: Factory) -> None:
    """Without the claim `stochastic`, the seed does not matter."""
    for matrix in problems_of(factory):
        one, two = (updates(fresh(factory, seed), matrix, 3) for seed in (1, 2))
        expect(torch.equal(one, two), "the seed changes the update, but `stochastic` is not claimed")


def check_ignores_losses(factory: Factory) -> None:
    """Without the claim `needs_losses`, the values of the losses do not matter."""
    for matrix in problems_of(factory):
        one, two = fresh(factory), fresh(factory)
        for step in range(3):
            losses = losses_for(matrix, step)
            same = torch.equal(update(one, matrix, losses), update(two, matrix, losses**2 + 1))
            expect(same, "the losses change the update, but `needs_losses` is not claimed")


ALWAYS: tuple[Check, ...] = (
    check_shapes,
    check_keeps_dtype_and_device,
    check_single_precision_agrees,
    check_inputs_untouched,
    check_zero_gradients,
    check_one_task,
    check_same_seed_same_answer,
    check_global_generator_untouched,
    check_state_round_trip,
    check_state_is_a_snapshot,
    check_backward_agrees_with_combine,
    check_state_by_name,
    check_absent_tasks_keep_their_state,
)
CLAIMS: dict[str, Check] = {
    "permutation_invariant": check_permutation_invariant,
    "scale_equivariant": check_scale_equivariant,
    "non_conflicting": check_non_conflicting,
    "linear_under_scaling": check_linear_under_scaling,
    "convex_weights": check_convex_weights,
    "stochastic": check_stochastic,
}
WITHOUT: dict[str, Check] = {"stochastic": check_not_stochastic, "needs_losses": check_ignores_losses}
"""What must hold where a capability is not claimed."""


def checks_of(factory: Factory) -> list[Check]:
    """Every check that applies to the balancers that `factory` makes."""
    claimed = factory().capabilities
    return [
        *ALWAYS,
        *(check for name, check in CLAIMS.items() if name in claimed),
        *(check for name, check in WITHOUT.items() if name not in claimed),
    ]
