"""What each method leaves alone, what it changes, what it spends, and what it gains on real digits."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.descriptors import TaskDescriptor
from crosstask.engine import TransferEngine
from crosstask.errors import DataError
from crosstask.learning import training
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import head_of, trunk_parameters
from crosstask.learning.training import fit
from crosstask.points.transfer import Transfer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask.testing import blobs
from crosstask_finetuning import (
    L2SP,
    LPFT,
    Distillation,
    FeatureExtraction,
    FineTuning,
    GradualUnfreezing,
    partial,
)
from crosstask_finetuning.distillation import soft_label_loss
from crosstask_finetuning.partial import Partial, features_for, fit_head, fit_part
from crosstask_finetuning.plugin import PLUGIN
from crosstask_transfer.testing import digits
from crosstask_transfer.testing import trained_digits as trained

METHODS = [Distillation, FeatureExtraction, FineTuning, GradualUnfreezing, L2SP, LPFT]
each_method = pytest.mark.parametrize("method", METHODS)


class Normed(nn.Module):
    """A network with BatchNorm and dropout in the trunk."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        low, high = nn.Linear(64, 32), nn.Linear(32, 32)
        self.trunk = nn.Sequential(nn.Flatten(), low, nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), high, nn.ReLU())
        self.head = nn.Linear(32, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk(inputs))
        return out


def normed(outputs: int = 10) -> nn.Module:
    model = Normed(outputs)
    with torch.no_grad():
        model.trunk[2].running_mean.uniform_(-1, 1)
    return model


def learn(method: Transfer, model: nn.Module, source: nn.Module, task: Task, **budget: Any) -> training.History:
    budget = {"steps": 20, "samples": 50, "learning_rate": 3e-3, "evaluate_every": 5} | budget
    return method.learn(model, source, task, Budget(**budget), torch.Generator().manual_seed(1))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("build", [normed, lambda: copy.deepcopy(trained().model)], ids=["batch norm", "mlp"])
def test_feature_extraction_leaves_the_trunk_bit_for_bit(build: Any) -> None:
    model = build()
    trunk, head = state(model.trunk), state(model.head)
    learn(FeatureExtraction(), model, copy.deepcopy(model), digits())
    assert same(trunk, state(model.trunk)), "weights and running statistics"
    assert not same(head, state(model.head))
    assert all(p.requires_grad for p in model.parameters()), "nothing stays frozen afterwards"
    assert model.trunk.training


def test_feature_extraction_equals_a_linear_model_on_the_features() -> None:
    """An independent twin: compute the features once, then train a linear layer on them."""
    model, source = copy.deepcopy(trained().model), trained().model
    assert model is not None
    assert source is not None
    head = copy.deepcopy(head_of(model))
    learn(FeatureExtraction(rate=2.0), model, source, digits("dim"), steps=15)
    task = digits("dim")
    with torch.no_grad():
        features = source.trunk(task.data("train").inputs)
    descriptor = TaskDescriptor(task_id="features", output_dim=10)
    flat = Task(descriptor=descriptor, train=(features, task.data("train").targets))
    budget = Budget(steps=15, samples=50, learning_rate=6e-3)
    fit(head, flat, budget, torch.Generator().manual_seed(1))
    torch.testing.assert_close(head.weight, head_of(model).weight)


@each_method
def test_no_method_exceeds_its_budget(method: type[Transfer], monkeypatch: pytest.MonkeyPatch) -> None:
    source = trained().model  # its own steps are not counted
    for steps in (1, 2, 7, 20):
        spent: list[int] = []
        for kind in (torch.optim.Adam, torch.optim.SGD):
            monkeypatch.setattr(kind, "step", _counting(kind.step, spent))
        model = copy.deepcopy(source)
        history = learn(method(), model, source, digits("dim"), steps=steps)
        monkeypatch.undo()
        assert len(spent) == len(history.losses) == history.steps[-1] == steps
        assert history.steps == sorted(set(history.steps))


def _counting(real: Any, spent: list[int]) -> Any:
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        spent.append(1)
        return real(self, *args, **kwargs)

    return step


@each_method
def test_only_the_samples_of_the_budget_are_seen(method: type[Transfer]) -> None:
    task = digits("dim")
    poisoned = Task(
        descriptor=task.descriptor,
        train=(task.data("train").inputs.clone(), task.data("train").targets.flip(0)),
        validation=task.validation,
    )
    poisoned.data("train").inputs[:30] = task.data("train").inputs[:30]
    poisoned.data("train").targets[:30] = task.data("train").targets[:30]
    models = [copy.deepcopy(trained().model) for _ in range(2)]
    for model, data in zip(models, (task, poisoned), strict=True):
        learn(method(), model, trained().model, data, samples=30)
    assert same(state(models[0]), state(models[1]))


@each_method
def test_same_seed_same_answer_and_the_source_is_untouched(method: type[Transfer]) -> None:
    source = trained()
    before = state(source.model)
    results = [method().transfer(source, digits("dim"), Budget(steps=10, samples=40), 2, "validation") for _ in "ab"]
    assert results[0] == results[1]
    assert same(before, state(source.model))
    assert all(p.requires_grad for p in source.model.parameters())


@each_method
@pytest.mark.parametrize("outputs", [10, 5])
def test_models_with_batch_norm_work(method: type[Transfer], outputs: int) -> None:
    source = copy.copy(digits())
    source.model = normed()
    target = digits("dim", tuple(range(outputs)))
    result = method().transfer(source, target, Budget(steps=12, samples=40, batch_size=8), 2, "validation")
    assert 0 <= result.score.mean <= 1


@each_method
def test_other_optimisers_and_dtypes(method: type[Transfer]) -> None:
    model = copy.deepcopy(trained().model).double()
    task = digits("dim")
    double = Task(
        descriptor=task.descriptor,
        train=(task.data("train").inputs, task.data("train").targets),
        validation=task.validation,
    )
    torch.set_default_dtype(torch.float64)
    try:
        learn(method(), model, copy.deepcopy(model), double, optimizer="sgd", steps=5)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(p.dtype is torch.float64 for p in model.parameters())


def test_lp_ft_beats_scratch_with_forty_samples() -> None:
    budget = Budget(steps=60, samples=40, learning_rate=3e-3, batch_size=20)
    result = LPFT().transfer(trained(), digits("dim"), budget, 5, "test")
    assert result.coefficient.low > 0.1
    assert result.score.low > result.scratch_score.high
    assert not result.negative
    assert result.convergence_speed_gain is not None
    assert result.convergence_speed_gain > 1


def test_negative_transfer_is_flagged() -> None:
    """Frozen features of digits are worse for permuted pixels than learning from scratch."""
    budget = Budget(steps=60, samples=50, learning_rate=3e-3, batch_size=25)
    result = FeatureExtraction().transfer(trained(), digits("permuted"), budget, 4, "test")
    assert result.negative
    assert result.coefficient.mean < -0.1


def test_lp_ft_fits_the_head_first() -> None:
    model = copy.deepcopy(trained().model)
    seen = []
    before = state(model.trunk)
    head_of(model).register_forward_pre_hook(
        lambda m, args: seen.append(same(before, state(model.trunk))) if torch.is_grad_enabled() else None
    )
    learn(LPFT(head_share=0.25), model, trained().model, digits("dim"), steps=20)
    assert seen == [True] * 6 + [False] * 14, "five steps of the head, and the sixth starts from there"


def test_gradual_unfreezing_goes_from_the_top_down() -> None:
    model = nn.Sequential()
    for name, module in [
        ("flat", nn.Flatten()),
        ("low", nn.Linear(64, 16)),
        ("middle", nn.Linear(16, 16)),
        ("high", nn.Linear(16, 16)),
        ("head", nn.Linear(16, 10)),
    ]:
        model.add_module(name, module)
    start = {name: p.clone() for name, p in model.named_parameters() if name.endswith("weight")}
    moved = []

    def look(module: nn.Module, args: Any) -> None:
        if torch.is_grad_enabled():
            now = dict(model.named_parameters())
            moved.append([n.split(".")[0] for n, p in start.items() if not torch.equal(p, now[n])])

    model.register_forward_pre_hook(look)
    learn(GradualUnfreezing(stages=4), model, copy.deepcopy(model), digits(), steps=8)
    assert moved[1:3] == [["head"]] * 2
    assert moved[3:5] == [["high", "head"]] * 2
    assert moved[5:7] == [["middle", "high", "head"]] * 2
    assert moved[7] == ["low", "middle", "high", "head"]


class Line(nn.Module):
    """y = w x, with the weight where a trunk has it; the head is an identity that is never trained."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 1, bias=False)
        self.head = nn.Linear(1, 1, bias=False).requires_grad_(False)
        with torch.no_grad():
            self.trunk.weight.copy_(weight)
            self.head.weight.fill_(1.0)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk(inputs))
        return out


@pytest.mark.parametrize("alpha", [0.0, 0.5, 10.0])
def test_l2_sp_reaches_the_closed_form(alpha: float) -> None:
    """Least squares with a pull to w0: w = (2/n XᵀX + alpha)⁻¹ (2/n Xᵀy + alpha w0)."""
    rng = torch.Generator().manual_seed(0)
    x, w0 = torch.randn(40, 3, generator=rng), torch.tensor([[1.0, -2.0, 0.5]])
    y = x @ torch.tensor([[2.0], [0.0], [-1.0]])
    task = Task(descriptor=TaskDescriptor(task_id="line", task_type="regression", output_dim=1), train=(x, y))
    model, source = Line(w0), Line(w0)
    method = L2SP(alpha=alpha, beta=0.0, head_share=0.0)
    learn(method, model, source, task, steps=600, batch_size=40, samples=None, optimizer="sgd", learning_rate=0.02)
    gram = 2 / 40 * x.T @ x + alpha * torch.eye(3)
    expected = torch.linalg.solve(gram, 2 / 40 * x.T @ y + alpha * w0.T)
    torch.testing.assert_close(model.trunk.weight.T, expected, atol=1e-4, rtol=1e-4)


def test_l2_sp_decays_new_weights_to_zero_and_pulls_old_ones_to_the_source() -> None:
    source = trained().model
    ends = {}
    for alpha, beta in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        model = copy.deepcopy(source)
        nn.init.normal_(model.head.weight)
        method = L2SP(alpha=alpha, beta=beta, head_share=0.0)
        learn(method, model, source, digits("dim"), steps=60, optimizer="sgd", learning_rate=0.01)
        pairs = zip(trunk_parameters(model), trunk_parameters(source), strict=True)
        away = sum(float((a - b).detach().square().sum()) for a, b in pairs)
        ends[alpha, beta] = away, float(model.head.weight.detach().square().sum())
    assert ends[1.0, 0.0][0] < 0.5 * ends[0.0, 0.0][0]
    assert ends[0.0, 1.0][1] < 0.8 * ends[0.0, 0.0][1]


def test_soft_label_loss_by_its_definition() -> None:
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 4, generator=rng), torch.randn(6, 4, generator=rng)
    for temperature in (1.0, 4.0):
        p, q = functional.softmax(teacher / temperature, 1), functional.softmax(student / temperature, 1)
        expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
        torch.testing.assert_close(soft_label_loss(student, teacher, temperature), expected)
    assert soft_label_loss(teacher, teacher, 4.0).abs() < 1e-6


def test_soft_label_gradients_keep_their_size_as_the_temperature_grows() -> None:
    """For large T the gradient tends to that of half the squared difference of centred logits, over C."""
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(1, 5, generator=rng, requires_grad=True), torch.randn(1, 5, generator=rng)
    (gradient,) = torch.autograd.grad(soft_label_loss(student, teacher, 1000.0), student)
    difference = (student - student.mean()) - (teacher - teacher.mean())
    torch.testing.assert_close(gradient, difference.detach() / 5, atol=1e-3, rtol=1e-2)


def test_distillation_keeps_the_student_near_the_teacher() -> None:
    teacher = trained().model
    shift = digits("dim").data("validation").inputs
    gaps = {}
    for weight in (0.0, 10.0):
        student = copy.deepcopy(teacher)
        learn(Distillation(weight=weight), student, teacher, digits("dim"), steps=60)
        with torch.no_grad():
            gaps[weight] = float(soft_label_loss(student(shift), teacher(shift), 1.0))
    assert gaps[10.0] < 0.7 * gaps[0.0]


def test_distillation_between_label_spaces_keeps_to_the_features() -> None:
    teacher, task = trained().model, digits("dim", (0, 1, 2))
    inputs = task.data("validation").inputs
    gaps = {}
    for weight in (0.0, 10.0):
        student = copy.deepcopy(teacher)
        student.head = nn.Linear(64, 3)
        learn(Distillation(weight=weight), student, teacher, task, steps=60)
        with torch.no_grad():
            gaps[weight] = float(functional.mse_loss(student.trunk(inputs), teacher.trunk(inputs)))
    assert gaps[10.0] < 0.7 * gaps[0.0]


def test_distillation_sees_the_features_of_compiled_models() -> None:
    teacher, task = trained().model, digits("dim", (0, 1, 2))
    students: list[Any] = []
    try:
        for compiled in (False, True):
            student, given = copy.deepcopy(teacher), copy.deepcopy(teacher)
            student.head = nn.Linear(64, 3)
            with torch.no_grad():
                student.head.weight.fill_(0.1)
                student.head.bias.zero_()
            if compiled:
                student, given = torch.compile(student, backend="eager"), torch.compile(given, backend="eager")
                for model in (student, given):
                    model(task.data().inputs[:32])  # compiled before hooks are on it
            learn(Distillation(weight=10.0), student, given, task, steps=6)
            students.append(student)
    finally:
        torch.compiler.reset()
    plain, other = (list(each.parameters()) for each in students)
    torch.testing.assert_close(other, plain)


def test_distillation_from_features_of_another_shape_is_refused() -> None:
    teacher, student = Normed(10), Normed(3)
    student.trunk.append(nn.Linear(32, 16))
    student.head = nn.Linear(16, 3)
    with pytest.raises(DataError, match=r"teacher and student have features of shape \(32,\) and \(16,\)"):
        learn(Distillation(head_share=0.0), student, teacher, digits("dim", (0, 1, 2)))


def test_regression_works_and_distils_outputs() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=rng)
    y = x[:, :1] - 2 * x[:, 1:2]
    descriptor = TaskDescriptor(task_id="values", task_type="regression", input_shape=(5,), output_dim=1)
    task = Task(descriptor=descriptor, train=(x, y), validation=(x, y))
    task.model = ModelSpec(hidden=(16,)).build(descriptor, seed=0)
    fit(task.model, task, Budget(steps=200, learning_rate=1e-2), torch.Generator().manual_seed(0))
    for method in METHODS:
        result = method().transfer(task, task, Budget(steps=10), 2, "validation")
        assert result.metric == "r2"
        assert result.score.mean > result.scratch_score.mean


def test_a_part_trains_alone() -> None:
    model = normed()
    part = Partial(model, [model.head])
    part.train()
    assert (model.head.training, model.trunk.training, model.trunk[2].training) == (True, False, False)
    part.eval()
    assert not model.head.training


def test_found_by_name() -> None:
    registry = Registry()
    registry.register(PLUGIN)
    assert len(registry.names("transfer")) == 6
    assert registry.create("transfer", "lp_ft", {"head_share": 0.2}).head_share == 0.2


def test_the_engine_finds_the_best_of_the_methods() -> None:
    registry = Registry()
    registry.register(PLUGIN)
    budget = Budget(steps=30, samples=40, learning_rate=3e-3, evaluate_every=30)
    with TransferEngine(
        registry=registry, discoverers=(), auto_discover=False, train=Budget(steps=100), budget=budget, seeds=2
    ) as engine:
        source, target = (
            Task(descriptor=t.descriptor, train=t.data("train"), validation=t.data("validation"), test=t.data("test"))
            for t in (digits(), digits("dim"))
        )
        engine.register_task(source)
        engine.register_task(target)
        best = engine.get_best_transfer_strategy(source.task_id, target.task_id)
        measured = {
            name: engine.transfer_knowledge(source.task_id, target.task_id, name).coefficient.mean
            for name in registry.names("transfer")
        }
    assert len(measured) == len(METHODS)
    assert measured[best] == max(measured.values())
    assert len(set(measured.values())) > 1, "else any would do"


@pytest.mark.parametrize("more", [{}, {"optimizer": "sgd", "weight_decay": 0.1, "schedule": "cosine"}, {"patience": 1}])
def test_a_head_on_features_learns_what_it_learns_on_the_whole_model(more: dict[str, Any]) -> None:
    """Batch normalisation and dropout stand in the trunk: both are in evaluation mode."""
    task, budget = digits("dim"), Budget(**{"steps": 30, "samples": 50, "evaluate_every": 5, **more})
    torch.manual_seed(0)
    first = normed()
    second = copy.deepcopy(first)
    assert features_for(first, task, budget, 30) is not None
    found = fit_head(first, task, budget, torch.Generator().manual_seed(1), 30, 10.0)
    expected = fit_part(second, [head_of(second)], task, budget, torch.Generator().manual_seed(1), 30, 10.0)
    torch.testing.assert_close(found.losses, expected.losses, rtol=1e-4, atol=1e-6)
    assert (found.steps, found.values, found.stopped) == (expected.steps, expected.values, expected.stopped)
    torch.testing.assert_close(first.head.weight, second.head.weight, rtol=1e-4, atol=1e-6)
    assert same(state(first.trunk), state(second.trunk))


class Cast(nn.Module):
    """A network of another precision than the data."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind, self.trunk, self.head = kind, nn.Linear(64, 12, dtype=kind), nn.Linear(12, 10, dtype=kind)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk(inputs.flatten(1).to(self.kind)).relu())
        return out.float()


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16], ids=str)
def test_a_head_of_another_precision_than_the_datas(kind: torch.dtype) -> None:
    """It learns over its own features, not over those that data in single precision would be."""
    task, budget = digits("dim"), Budget(steps=30, samples=50, evaluate_every=30)
    torch.manual_seed(0)
    first = Cast(kind)
    second, trunk = copy.deepcopy(first), state(first.trunk)
    found = fit_head(first, task, budget, torch.Generator().manual_seed(1), 30)
    expected = fit_part(second, [second.head], task, budget, torch.Generator().manual_seed(1), 30)
    assert found.losses == expected.losses
    assert found.losses[-1] < found.losses[0]
    assert same(trunk, state(first.trunk))


def test_when_features_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    task, budget = digits("dim"), Budget(steps=30, samples=50, evaluate_every=30)
    model = normed()
    assert features_for(nn.Sequential(model, nn.Softmax(1)), task, budget, 30) is None, "what follows is not the head's"
    broken = normed()
    with torch.no_grad():
        broken.trunk[5].weight.fill_(torch.inf)
    assert features_for(broken, task, budget, 30) is None, "not finite: the training itself says so"
    monkeypatch.setattr(partial, "MOST", 1000)
    assert features_for(model, task, budget, 30) is None, "too many to keep"
    bare = task.over(train=task.data("train"))
    monkeypatch.undo()
    assert features_for(model, bare, budget, 30) is not None
    assert features_for(model, bare, budget, 1) is None, "one step looks at fewer samples"


def test_l2_sp_pulls_complex_weights_as_pairs_of_real_ones() -> None:
    class Waves(nn.Module):
        def __init__(self, pairs: bool) -> None:
            super().__init__()
            drawn = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(0))
            self.wave = nn.Parameter(drawn if pairs else torch.view_as_complex(drawn))
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.head = nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            wave = self.wave if self.wave.is_complex() else torch.view_as_complex(self.wave)
            found: Tensor = self.head((inputs.to(wave.dtype) @ wave.T).abs())
            return found

    def learned(pairs: bool, alpha: float) -> Tensor:
        model, source = Waves(pairs), Waves(pairs)
        method = L2SP(alpha=alpha, beta=0.1, head_share=0.0)
        method.learn(model, source, blobs("a"), Budget(steps=20), torch.Generator().manual_seed(0))
        wave = model.wave.detach()
        return torch.view_as_real(wave) if wave.is_complex() else wave

    torch.testing.assert_close(learned(False, 5.0), learned(True, 5.0), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(learned(False, 5.0), learned(False, 0.0), atol=1e-3)
