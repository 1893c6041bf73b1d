"""Values: closed forms for two tasks, the defining equations, slow twins, and those of TorchJD."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crosstask import OptionError, RunError
from crosstask.learning.gradients import MatrixGradients
from crosstask.points.balancer import Balancer
from crosstask.testing.balancers import problems
from crosstask_jacobian import (
    CRMOGM,
    DBMTL,
    IMTLG,
    MGDA,
    PCD,
    AlignedMTL,
    CAGrad,
    ConFIG,
    DualProj,
    ExcessMTL,
    FairGrad,
    GradDrop,
    GradVac,
    MoCo,
    MoDo,
    NashMTL,
    SDMGrad,
    UPGrad,
)
from crosstask_jacobian.graddrop import drop
from crosstask_jacobian.gradvac import vaccinate

seeds = st.integers(0, 10**6)


def draw(tasks: int, size: int, seed: int) -> Tensor:
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(balancer: Balancer, matrix: Tensor, losses: Tensor | None = None) -> Tensor:
    answer = balancer.balance(torch.ones(len(matrix)).to(matrix) if losses is None else losses, MatrixGradients(matrix))
    assert isinstance(answer, Tensor)
    return answer


def close(one: Tensor, other: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# --- cones -----------------------------------------------------------------------------------------------------------


def test_projections_of_two_conflicting_gradients() -> None:
    first, second = gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    # Onto {g1·d >= 0, g2·d >= 0}: g1 becomes (1/2, 1/2), g2 becomes (0, 1), their mean (0, 1/2) stays
    close(UPGrad().combine(gradients), torch.tensor([0.25, 0.75], dtype=torch.float64))
    close(DualProj().combine(gradients), (first + second) / 2)
    # (2 g1 + g2) / 3 = (1/3, 1/3) has no conflict
    close(DualProj(preferences=(2.0, 1.0)).combine(gradients), torch.tensor([1 / 3, 1 / 3], dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), seeds)
def test_dualproj_is_the_nearest_update_without_conflict(tasks: int, seed: int) -> None:
    matrix = draw(tasks, 9, seed)
    found, mean = DualProj().combine(matrix), matrix.mean(dim=0)
    assert (matrix @ found).min() >= -1e-8
    # A projection onto a cone: the residual is orthogonal to the answer, and makes an obtuse angle with all of the cone
    assert float((mean - found) @ found) == pytest.approx(0, abs=1e-7)
    for other in range(20):
        inside = UPGrad().combine(draw(tasks, 9, other) * 0 + matrix * (1 + other))
        assert float((mean - found) @ inside) <= 1e-7


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), seeds)
def test_upgrad_without_conflict_is_the_mean(tasks: int, seed: int) -> None:
    matrix = draw(tasks, 5, seed).abs()
    close(UPGrad().combine(matrix), matrix.mean(dim=0))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), seeds, st.floats(0.05, 0.95))
def test_cagrad_solves_its_dual(tasks: int, seed: int, c: float) -> None:
    """Its update is feasible, and its worst gain is the paper's dual objective at its w: no gap remains."""
    matrix = draw(tasks, 12, seed)
    mean = matrix.mean(dim=0)
    radius = c * mean.norm()
    found = CAGrad(c=c).combine(matrix)
    assert float((found - mean).norm()) <= float(radius) * (1 + 1e-6)
    extra = weights_of(CAGrad(c=c), matrix) - 1 / tasks
    w = extra / extra.sum()
    combined = w @ matrix
    dual = combined @ mean + radius * combined.norm()
    assert float((matrix @ found).min()) == pytest.approx(float(dual), rel=1e-5, abs=1e-7)


def test_cagrad_without_radius_is_the_mean_and_rescales() -> None:
    matrix = draw(4, 9, 0)
    close(CAGrad(c=0.0).combine(matrix), matrix.mean(dim=0))
    plain = CAGrad(c=0.5).combine(matrix)
    close(CAGrad(c=0.5, rescale=1).combine(matrix) * 1.25, plain)
    close(CAGrad(c=0.5, rescale=2).combine(matrix) * 1.5, plain)


def test_cagrad_and_mgda_stop_where_nothing_helps_all() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    assert MGDA().combine(opposite).norm() < 1e-8
    assert CAGrad(c=1.5).combine(opposite).norm() < 1e-8
    # With a small radius around -1/2 the least harm is done at its end
    close(CAGrad(c=0.5).combine(opposite), torch.tensor([-0.25, 0.0], dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_mgda_of_two_gradients(seed: int) -> None:
    first, second = matrix = draw(2, 4, seed)
    share = ((second - first) @ second / (first - second).square().sum()).clamp(0, 1)
    close(MGDA().combine(matrix), share * first + (1 - share) * second)


def test_mgda_normalised() -> None:
    matrix = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    losses = torch.tensor([1.0, 10.0], dtype=torch.float64)
    # Orthogonal gradients: weights ∝ 1/|g|², of what they are divided by
    close(weights_of(MGDA(), matrix, losses), torch.tensor([100 / 101, 1 / 101], dtype=torch.float64))
    for normalize in ("l2", "loss"):
        close(weights_of(MGDA(normalize=normalize), matrix, losses), torch.tensor([0.5, 0.5], dtype=torch.float64))
    twice = weights_of(MGDA(normalize="loss+"), matrix, losses)
    close(twice, torch.tensor([1 / 101, 100 / 101], dtype=torch.float64))


# --- equations -------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(1e-4, 1e4))
def test_nash_of_two_gradients(seed: int, scale: float) -> None:
    """The unit bisector's direction: α_i |g_i| = 1/√(1 + cos), an update of length √2 however long the gradients."""
    matrix = draw(2, 5, seed) * scale
    unit = matrix / matrix.norm(dim=1, keepdim=True)
    expected = unit.sum(dim=0) / torch.sqrt(1 + unit[0] @ unit[1])
    close(NashMTL(max_norm=0.0).combine(matrix), expected, 1e-5)
    close(NashMTL(max_norm=0.5).combine(matrix).norm(), torch.tensor(0.5, dtype=torch.float64))


@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_nash_update_has_the_papers_length(tasks: int, scale: float) -> None:
    """G α = 1/α, so that |Σ α g|² = α·Gα = T: the claim of the paper, and what its authors say of their code."""
    matrix = draw(tasks, 20, tasks) * scale
    weights = weights_of(NashMTL(max_norm=0.0), matrix)
    close(matrix @ matrix.T @ weights * weights, torch.ones(tasks, dtype=torch.float64))
    update = NashMTL(max_norm=0.0).combine(matrix)
    close(update.norm(), torch.tensor(tasks**0.5, dtype=torch.float64))
    close(NashMTL().combine(matrix), update / tasks**0.5)  # cut back to a length of 1
    orthogonal = torch.diag(torch.linspace(0.5, 3.0, tasks, dtype=torch.float64)) * scale
    close(weights_of(NashMTL(max_norm=0.0), orthogonal), 1 / orthogonal.diagonal())


@pytest.mark.filterwarnings("ignore")
def test_nash_of_torchjd() -> None:
    """Where its conic programs have converged: they stop after so many, and where their solver fails."""
    pytest.importorskip("ecos")
    compared = 0
    for tasks in (2, 3, 5):
        for seed in range(2):
            matrix = draw(tasks, 20, seed)
            found = jd().NashMTL(n_tasks=tasks, max_norm=0.0, optim_niter=100)(matrix)
            gains = matrix @ found
            if torch.linalg.lstsq(matrix.T, found).solution.mul(gains).sub(1).abs().max() < 1e-3:
                close(NashMTL(max_norm=0.0).combine(matrix), found, 1e-3)
                compared += 1
    assert compared


def test_nash_keeps_its_weights_between_intervals() -> None:
    balancer = NashMTL(update_interval=2)
    one, two, three = (weights_of(balancer, draw(3, 6, seed)) for seed in range(3))
    assert torch.equal(one, two)
    assert not torch.equal(two, three)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 10.0])
def test_fairgrad_solves_its_equation(alpha: float) -> None:
    matrix = draw(6, 20, 1) * torch.logspace(-1, 1, 6, dtype=torch.float64)[:, None]
    w = weights_of(FairGrad(alpha=alpha), matrix)
    close(matrix @ matrix.T @ w * w ** (1 / alpha), torch.ones(6, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), seeds)
def test_equal_projections(tasks: int, seed: int) -> None:
    matrix = draw(tasks, 10, seed)
    unit = matrix / matrix.norm(dim=1, keepdim=True)
    for balancer in (IMTLG(), ConFIG()):
        gains = unit @ balancer.combine(matrix)
        close(gains / gains[0], torch.ones(tasks, dtype=torch.float64), 1e-5)
    assert float(weights_of(IMTLG(), matrix).sum()) == pytest.approx(1)
    found = ConFIG().combine(matrix)
    direction = found / found.norm()
    close(found, (matrix @ direction).sum() * direction)


def test_config_with_preferences() -> None:
    matrix = draw(3, 10, 4)
    unit = matrix / matrix.norm(dim=1, keepdim=True)
    gains = unit @ ConFIG(preferences=(1.0, 2.0, 4.0)).combine(matrix)
    close(gains / gains[0], torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), 1e-5)


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_aligned_rows_are_orthogonal_and_equally_long(scale: str) -> None:
    matrix = draw(4, 10, 2)
    chosen = [torch.eye(4, dtype=torch.float64)[i] for i in range(4)]
    rows = []
    for one in chosen:
        # One-hot preferences are not allowed: rows from two that differ in one place
        first = weights_of(AlignedMTL(scale=scale, preferences=tuple((torch.ones(4) + one).tolist())), matrix) * 5
        rows.append(first - weights_of(AlignedMTL(scale=scale), matrix) * 4)
    aligned = torch.stack(rows) @ matrix
    values = torch.linalg.eigvalsh(matrix @ matrix.T)
    size = {"min": values[0], "median": values[1], "rmse": values.mean()}[scale]
    close(aligned @ aligned.T, size * torch.eye(4, dtype=torch.float64))


# --- slow twins ------------------------------------------------------------------------------------------------------


def test_gradvac_word_for_word() -> None:
    count = 5
    target = torch.zeros(count, count, dtype=torch.float64)
    ours = target.numpy().copy()
    for step in range(4):
        matrix = draw(count, 7, step)
        order = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(i)) for i in range(count)])
        rows = []
        for i in range(count):
            v = matrix[i].clone()
            for j in order[i].tolist():
                if j == i:
                    continue
                phi = v @ matrix[j] / (v.norm() * matrix[j].norm())
                goal = target[i, j].clone()
                if phi < goal:
                    top = v.norm() * (goal * (1 - phi**2).sqrt() - phi * (1 - goal**2).sqrt())
                    v = v + top / (matrix[j].norm() * (1 - goal**2).sqrt()) * matrix[j]
                    close(v @ matrix[j] / (v.norm() * matrix[j].norm()), goal)
                target[i, j] = 0.7 * goal + 0.3 * phi
            rows.append(v)
        made, ours = vaccinate((matrix @ matrix.T).numpy(), order.numpy(), ours, 0.3)
        close(torch.from_numpy(made) @ matrix, torch.stack(rows))
        close(torch.from_numpy(ours), target)


def test_graddrop_keeps_one_sign_with_the_right_frequency() -> None:
    matrix = torch.tensor([[3.0, 1.0, 0.0, -1.0], [-1.0, 2.0, 0.0, -1.0]], dtype=torch.float64)
    balancer = GradDrop()
    drawn = torch.stack([balancer.combine(matrix) for _ in range(2000)])
    assert set(drawn[:, 0].tolist()) == {3.0, -1.0}
    assert float((drawn[:, 0] == 3.0).double().mean()) == pytest.approx(0.75, abs=0.04)  # (1 + 2/4) / 2
    close(drawn[0, 1:], torch.tensor([3.0, 0.0, -2.0], dtype=torch.float64))  # pure signs are always kept
    close(GradDrop(leak=1.0).combine(matrix), matrix.sum(dim=0))


def test_graddrop_word_for_word() -> None:
    matrix = draw(3, 100_000, 0)  # several blocks, and a part of one
    matrix[:, :3] = torch.tensor([1.0, -1.0, 0.0])
    uniform = torch.rand(matrix.shape[1], generator=torch.Generator().manual_seed(1))
    uniform[:3] = 0.0  # the least that can be drawn: pure signs are kept all the same
    purity = (1 + matrix.sum(0) / matrix.abs().sum(0)) / 2
    positive, negative = matrix.clamp_min(0).sum(0), matrix.clamp_max(0).sum(0)
    expected = torch.where(purity > uniform, positive, negative)
    close(drop(matrix, uniform, 0.0), expected)
    close(drop(matrix, uniform, 0.3), 0.7 * expected + 0.3 * matrix.sum(0))


def test_moco_word_for_word() -> None:
    balancer = MoCo(beta=0.4, gamma=0.05, rho=0.1)
    followed, w = None, torch.full((4,), 0.25, dtype=torch.float64)
    for step in range(1, 6):
        matrix = draw(4, 6, step)
        followed = matrix if followed is None else followed - 0.4 / step**0.5 * (followed - matrix)
        point = w - 0.05 / step**0.5 * (followed @ followed.T @ w + 0.1 * w)
        # Projection onto the simplex by bisection on the shift
        low, high = float(point.min()) - 1, float(point.max())
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if (point - middle).clamp_min(0).sum() > 1 else (low, middle)
        w = (point - low).clamp_min(0)
        close(balancer.combine(matrix), w @ followed)


def test_db_mtl_word_for_word() -> None:
    balancer, losses = DBMTL(beta=0.8, beta_decay=0.7), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    average = None
    for step in range(1, 5):
        matrix = draw(3, 6, step)
        logs = matrix / losses[:, None]
        average = logs if average is None else logs + 0.8 / step**0.7 * (average - logs)
        norms = average.norm(dim=1)
        answer = balancer.balance(losses, MatrixGradients(matrix))
        close(answer.vector, (norms.max() / norms) @ average)
        alone = weights_of(DBMTL(beta=0.0), matrix, losses)
        close((alone[:, None] * matrix).norm(dim=1), logs.norm(dim=1).max().expand(3))


def test_excess_mtl_favours_what_still_has_to_gain() -> None:
    """Task 0's gradient stays, task 1's shrinks to nothing: the weight moves to task 0."""
    balancer = ExcessMTL(rate=0.5)
    for step in range(30):
        weights = weights_of(balancer, torch.tensor([[1.0, 0.0], [0.0, 0.5**step]], dtype=torch.float64))
    assert weights[0] > 0.8


# --- TorchJD ---------------------------------------------------------------------------------------------------------


def jd() -> Any:
    return pytest.importorskip("torchjd.aggregation")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (IMTLG, lambda a: a.IMTLG()),
        (ConFIG, lambda a: a.ConFIG()),
        (AlignedMTL, lambda a: a.AlignedMTL()),
        (lambda: AlignedMTL(scale="median"), lambda a: a.AlignedMTL(scale_mode="median")),
        (lambda: AlignedMTL(scale="rmse"), lambda a: a.AlignedMTL(scale_mode="rmse")),
        (lambda: FairGrad(alpha=2.0), lambda a: a.FairGrad(2.0)),
        (lambda: FairGrad(alpha=0.5), lambda a: a.FairGrad(0.5)),  # its least squares stop at 1e-8 of the cost
        (lambda: CAGrad(c=0.4), lambda a: a.CAGrad(0.4, norm_eps=0.0)),
        (UPGrad, lambda a: a.UPGrad(projector=projector())),
        (DualProj, lambda a: a.DualProj(projector=projector())),
        (
            lambda: UPGrad(preferences=(0.2, 0.3, 0.1, 0.4)),
            lambda a: a.UPGrad(torch.tensor([0.2, 0.3, 0.1, 0.4], dtype=torch.float64), projector=projector()),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_values_of_torchjd(ours: Callable[[], Balancer], theirs: Callable[[Any], Any]) -> None:
    """TorchJD regularises its quadratic programs by 1e-4 if not told otherwise, which moves its UPGrad by up to 2 %."""
    try:
        peer = theirs(jd())
    except ImportError as error:
        pytest.skip(str(error))
    for seed in range(4):
        matrix = draw(4, 20, seed) * torch.tensor([1.0, 2.0, 0.3, 5.0], dtype=torch.float64)[:, None]
        close(ours().combine(matrix), peer(matrix), 2e-3)


def projector() -> Any:
    return pytest.importorskip("torchjd.linalg").QuadprogProjector(norm_eps=0.0, reg_eps=1e-11)


def test_mgda_is_no_longer_than_torchjds() -> None:
    peer = jd().MGDA(1e-4, 1000)
    for matrix in problems():
        assert MGDA().combine(matrix).norm() <= peer(matrix).norm() + 1e-9


def test_sdmgrad_of_torchjd() -> None:
    peer, ours = jd().SDMGradWeighting(), SDMGrad()
    for seed in range(3):
        matrix = draw(4, 20, seed)
        close(weights_of(ours, matrix), peer(matrix @ matrix.T))


def test_modo_of_torchjd() -> None:
    peer, ours = jd().MoDoWeighting(gamma=0.02, rho=0.3), MoDo(gamma=0.02, rho=0.3)
    for seed in range(5):
        matrix = draw(4, 20, seed)
        close(weights_of(ours, matrix), peer(matrix @ matrix.T))


def test_excess_mtl_of_torchjd() -> None:
    peer, ours = jd().ExcessMTLWeighting(robust_step_size=0.5, n_warmup_steps=1), ExcessMTL(rate=0.5)
    for seed in range(4):
        matrix = draw(4, 20, seed)
        close(weights_of(ours, matrix), peer(matrix))


# --- errors and pinned values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        (CAGrad, {"c": -0.1}, "c must be >= 0"),
        (CAGrad, {"rescale": 3}, "rescale"),
        (MGDA, {"normalize": "l1"}, "normalize"),
        (AlignedMTL, {"scale": "max"}, "scale"),
        (UPGrad, {"preferences": (1.0, -1.0)}, "preferences"),
        (GradVac, {"beta": 2.0}, "beta"),
        (GradDrop, {"leak": "half"}, "leak"),
        (FairGrad, {"alpha": 0.0}, "alpha"),
        (NashMTL, {"update_interval": 0}, "update_interval"),
        (MoCo, {"beta": 0.0}, "beta"),
        (SDMGrad, {"steps": 0}, "steps"),
        (ExcessMTL, {"warmup": 0}, "warmup"),
        (DBMTL, {"beta": 1.0}, "beta"),
        (PCD, {"tau": 1.1}, "tau"),
        (PCD, {"tau": {"a": -0.1}}, "tau"),
        (PCD, {"beta": 1.0}, "beta"),
        (CRMOGM, {"alpha": 1.1}, "alpha"),
    ],
)
def test_wrong_options(method: type[Balancer], options: dict[str, object], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        method(**options)


def test_wrong_use() -> None:
    with pytest.raises(RunError, match="preferences has 2 numbers for 3 tasks"):
        UPGrad(preferences=(1.0, 2.0)).combine(draw(3, 4, 0))
    with pytest.raises(RunError, match="losses must be positive"):
        DBMTL().balance(torch.tensor([1.0, 0.0]), MatrixGradients(torch.eye(2)))
    for method in (GradVac, MoCo, MoDo, SDMGrad, ExcessMTL, DBMTL):
        balancer = method()
        balancer.combine(draw(3, 4, 0))
        with pytest.raises(RunError, match="remembers 3 tasks, was given 2"):
            balancer.combine(draw(2, 4, 0))


@pytest.mark.parametrize("method", [MoCo, DBMTL, ExcessMTL])
def test_what_remembers_gradients_refuses_features(method: type[Balancer]) -> None:
    weight, inputs = torch.nn.Parameter(torch.ones(3, 2)), draw(4, 3, 0).float()
    features = inputs @ weight
    losses = [features[:, 0].square().mean(), features[:, 1].square().mean()]
    with pytest.raises(RunError, match="balance parameters, not features"):
        method().backward(losses, [weight], [], features=features)


PINNED = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0], [1.0, 2.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (DBMTL, [2.704746, 7.486189, -0.063645]),
        (IMTLG, [0.077551, 0.977728, 1.044544]),
        (MGDA, [-0.0, 1.2, 0.6]),
        (AlignedMTL, [0.179886, 0.923678, 0.327119]),
        (CAGrad, [0.198766, 1.533642, 0.533642]),
        (ConFIG, [0.195974, 2.470757, 2.639604]),
        (DualProj, [0.481481, 1.462963, 0.462963]),
        (ExcessMTL, [1.0, 1.333333, 0.333333]),
        (FairGrad, [0.044993, 1.210831, 0.463323]),
        (GradDrop, [7.0, 4.0, -1.0]),
        (GradVac, [0.918129, 5.967836, 2.967836]),
        (MoCo, [-2.916667, 1.216667, 0.566667]),
        (MoDo, [-2.916667, 1.216667, 0.566667]),
        (NashMTL, [0.067327, 0.942544, 0.327229]),
        (SDMGrad, [4.846154, 1.076923, 0.846154]),
        (UPGrad, [0.306043, 1.989279, 0.989279]),
        (CRMOGM, [-0.0, 1.2, 0.6]),
        (PCD, [-0.820033, 2.943429, 2.943429]),
    ],
)
def test_pinned(method: type[Balancer], expected: list[float]) -> None:
    close(method().combine(PINNED), torch.tensor(expected, dtype=torch.float64), 1e-5)


def test_defaults_are_the_papers() -> None:
    assert CAGrad().c == 0.5
    assert NashMTL().max_norm == 1.0
    assert FairGrad().alpha == 2.0
    assert GradVac().beta == 0.01
    assert math.isclose(SDMGrad().lambd, 0.3)
