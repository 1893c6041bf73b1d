"""Answers that are probabilities already, and values far from standardised: said with figures, and of nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from crosstask import Budget, ModelSpec, Registry, Task, TaskDescriptor, TensorData, TransferEngine
from crosstask.learning.doubts import A_FEW, NUMBERS, probabilities, raw_values
from crosstask.learning.own_models import doubted, prepare_model
from crosstask.learning.training import evaluate, fit

IMAGES, LABELS = (torch.as_tensor(each) for each in load_digits(return_X_y=True))
IMAGES = (IMAGES / 16).float()
ROWS, PROGRESSION = (torch.as_tensor(each).float() for each in load_diabetes(return_X_y=True))
ROWS = ROWS / ROWS.std(0)


def net(outputs: int, *ends: nn.Module, seed: int = 0, inputs: int = 64) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs), *ends)


def task(model: nn.Module | None, labels: Tensor = LABELS, inputs: Tensor = IMAGES, **told: Any) -> Task:
    """The first thousand samples to learn from, the others as a test; `told` are a task's fields and a descriptor's."""
    fields = {name: told.pop(name) for name in ("loss", "metric", "build", "head") if name in told}
    made = Task(
        descriptor=TaskDescriptor(task_id="t", **told),
        train=(inputs[:1000], labels[:1000]),
        test=(inputs[1000:], labels[1000:]),
        model=model,
        **fields,
    )
    prepare_model(made)
    return made


class Ends(nn.Module):
    """The networks of `net` in any type, their answers made into others."""

    def __init__(self, outputs: int, end: Any, kind: torch.dtype = torch.float32, seed: int = 0) -> None:
        super().__init__()
        self.layers, self.end = net(outputs, seed=seed).to(kind), end

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.end(self.layers(images.to(self.layers[0].weight.dtype)))
        return found


def said(made: Task) -> str | None:
    assert made.model is not None
    made.data()
    few, many = (probabilities(made, made.model, made.data("test").take(slice(count))) for count in (16, 256))
    assert (few is None) == (many is None)
    return many


class Loose(nn.Module):
    """A head of parameters, and what comes after it."""

    def __init__(self, end: Any) -> None:
        super().__init__()
        self.trunk, self.end = nn.Linear(64, 32), end
        self.weight = nn.Parameter(torch.randn(32, 10, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.end(self.trunk(images).relu() @ self.weight)
        return found


class ByMode(nn.Module):
    """Probabilities for whoever asks, logits for the training."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.drop(images))
        return found if self.training else found.softmax(1)


# --- Probabilities


@pytest.mark.parametrize("kind", ["layer", "function of parameters", "cooled", "half", "compiled"])
def test_a_softmax_before_cross_entropy_is_said(kind: str) -> None:
    made: dict[str, Any] = {
        "layer": lambda: net(10, nn.Softmax(dim=1)),
        "function of parameters": lambda: Loose(lambda logits: logits.softmax(1)),
        "cooled": lambda: Loose(lambda logits: (logits / 7).softmax(1)),
        "half": lambda: Loose(lambda logits: logits.bfloat16().softmax(1)),
        "compiled": lambda: torch.compile(net(10, nn.Softmax(dim=1)), backend="eager"),
    }
    told = said(task(made[kind]()))
    torch.compiler.reset()
    assert told is not None
    assert told.startswith("its model answers through a softmax (each of its rows sums to 1, on 256 samples)")
    assert "Leave the softmax out of the model" in told


def test_what_it_costs_and_that_the_advice_is_right() -> None:
    """Two hundred steps on the digits: with a softmax too many, without it, and with a loss of probabilities."""

    def nll(chances: Tensor, labels: Tensor) -> Tensor:
        return functional.nll_loss(chances.clamp_min(1e-12).log(), labels)

    def score(model: nn.Module, **told: Any) -> float:
        made = task(model, **told)
        fit(model, made, Budget(steps=200), torch.Generator().manual_seed(0))
        return evaluate(model, made)

    twice, plain = score(net(10, nn.Softmax(dim=1))), score(net(10))
    assert plain - twice > 0.1
    assert score(net(10, nn.Softmax(dim=1)), loss=nll) == pytest.approx(plain, abs=0.01)
    assert score(net(10, nn.LogSoftmax(dim=1))) == pytest.approx(plain, abs=0.005)


def test_sigmoids_are_said_of_classes_and_of_labels() -> None:
    odd = LABELS % 2
    several = torch.stack([odd, (LABELS > 4).long()], 1).float()
    told = said(task(net(10, nn.Sigmoid())))
    assert told is not None
    assert "answers through a sigmoid (all are between 0 and 1" in told
    assert "cross-entropy takes logits" in told
    for ends, answer in (((nn.Sigmoid(),), "yes"), ((nn.LogSigmoid(),), "no")):
        for made in (
            task(net(1, *ends), odd, output_dim=1),
            task(net(2, *ends), several, task_type="multilabel"),
            task(net(1, *ends), odd, output_dim=1, loss="bce_with_logits"),
            task(net(1, *ends), odd, output_dim=1, loss=nn.BCELoss(), metric="accuracy"),
        ):
            told = said(made)
            assert told is not None, made
            assert f"here every answer is {answer}" in told
            assert (made.model(IMAGES) > 0).all() == (answer == "yes")  # type: ignore[misc]
    for end, name in ((nn.Softmax(1), "softmax"), (nn.LogSoftmax(1), "log-softmax")):
        told = said(task(net(2, end), several, task_type="multilabel"))
        assert told is not None
        assert f"through a {name} " in told


def test_places_have_their_classes_in_their_own_dimension() -> None:
    images, pixels = IMAGES.reshape(-1, 1, 8, 8), (IMAGES.reshape(-1, 8, 8) > 0.5).long()
    for end, wrong in ((nn.Softmax(dim=1), True), (nn.Identity(), False), (nn.Softmax(dim=3), False)):
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1), end)
        assert (said(task(model, pixels, images, task_type="segmentation", output_dim=2)) is not None) == wrong
    tokens = IMAGES.reshape(-1, 8, 8)
    for dim, wrong in ((2, True), (1, False)):
        model = nn.Sequential(nn.Linear(8, 2), nn.Softmax(dim=dim))
        made = task(model, pixels[:, 0], tokens, task_type="token_classification", output_dim=2)
        assert (said(made) is not None) == wrong


def test_ordinary_heads_are_left_alone() -> None:
    """Drawn, zero, trained, trained on one-hot targets to sum to 1, with small answers above 0; logarithms of a softmax
    for classes; a softmax for answers only; a loss of the user's own; scores that are no probabilities.
    """
    for outputs, labels in ((10, LABELS), (2, LABELS % 2)):
        for seed in range(30):
            model = net(outputs, seed=seed)
            assert said(task(model, labels)) is None
            with torch.no_grad():  # all within 0 and 1
                model[2].weight.mul_(0.01)  # type: ignore[operator]
                model[2].bias.fill_(1 / outputs)  # type: ignore[operator, arg-type]
            assert said(task(model, labels)) is None
    for seed in range(5):
        model = net(10, seed=seed)
        fit(model, task(model), Budget(steps=100), torch.Generator().manual_seed(seed))
        assert said(task(model)) is None
    assert all(said(task(net(1, seed=seed), LABELS % 2, output_dim=1)) is None for seed in range(30))
    zero = net(10)
    nn.init.zeros_(zero[2].weight)  # type: ignore[arg-type]
    nn.init.constant_(zero[2].bias, 0.1)  # type: ignore[arg-type]
    assert said(task(zero)) is None
    known = np.linalg.lstsq(np.c_[IMAGES.numpy(), np.ones(len(IMAGES))], np.eye(10)[LABELS.numpy()], rcond=None)[0]
    squares = nn.Sequential(nn.Linear(64, 10))
    squares[0].load_state_dict({"weight": torch.tensor(known[:-1].T).float(), "bias": torch.tensor(known[-1]).float()})
    assert said(task(squares)) is None
    assert said(task(net(10, nn.LogSoftmax(dim=1)))) is None
    assert said(task(ByMode())) is None
    assert said(task(net(10, nn.Softmax(dim=1)), loss=lambda chances, labels: chances.sum())) is None
    assert said(task(net(10, nn.Tanh()))) is None
    assert said(task(Loose(lambda logits: logits))) is None
    assert said(task(net(1, nn.Sigmoid()), IMAGES.mean(1, keepdim=True), task_type="regression")) is None
    odd = LABELS % 2
    assert said(task(net(1, nn.Sigmoid()), odd, output_dim=1, loss=nn.BCELoss(), metric="auroc")) is None


HALVES = (torch.bfloat16, torch.float16)


def test_in_half_precision_what_only_comes_near_probabilities_is_left_alone() -> None:
    ends = {
        "softplus": functional.softplus,
        "exp": torch.exp,
        "moved by 1": lambda logits: logits - 1,
        "moved by 0.7": lambda logits: logits - 0.7,
        "of length 1": lambda logits: functional.normalize(logits, dim=-1),
        "negative": lambda logits: logits.clamp_max(0),
        "as it is": lambda logits: logits,
        "wider": lambda logits: logits.float(),
    }
    several = torch.stack([LABELS % 2, (LABELS > 4).long()], 1).float()
    for kind in HALVES:
        for name, end in ends.items():
            for seed in range(3):
                one = [Ends(1, end, kind, seed) for _ in range(3)]
                for shift, model in zip((0.0, 3.0, -6.0), one, strict=True):
                    with torch.no_grad():
                        model.layers[2].bias.add_(shift)  # type: ignore[operator, union-attr]
                    assert said(task(model, LABELS % 2, output_dim=1)) is None, (kind, name, seed, shift)
                assert said(task(Ends(10, end, kind, seed))) is None, (kind, name, seed)
                assert said(task(Ends(2, end, kind, seed), several, task_type="multilabel")) is None, (kind, name)


def test_probabilities_of_half_precision_are_known_in_any_type() -> None:
    several = functional.one_hot(LABELS, 10).float()
    for kind in HALVES:
        for wider in (torch.float32, torch.float64, kind):
            for name, end in (("sigmoid", torch.sigmoid), ("log-sigmoid", functional.logsigmoid)):
                model = Ends(10, lambda logits, end=end, wider=wider: end(logits).to(wider), kind)
                assert f"through a {name} " in str(said(task(model, several, task_type="multilabel"))), (kind, wider)
            for end in (torch.softmax, lambda logits, dim: logits.exp() / logits.exp().sum(dim, keepdim=True)):
                model = Ends(10, lambda logits, end=end, wider=wider: end(logits, 1).to(wider), kind)
                assert "through a softmax " in str(said(task(model))), (kind, wider)
        assert "through a softmax " in str(said(task(Ends(10, lambda logits: logits.float().softmax(1), kind))))


def test_it_is_said_as_the_model_is_registered_or_first_made(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = LABELS % 2
    with TransferEngine(registry=registry, discoverers=[], budget=Budget(steps=2)) as engine:
        made = task(None, build=lambda: net(10, nn.Softmax(dim=1)))
        engine.register_task(made)
        assert not engine.notes
        engine.train()
        engine.train()
        assert capsys.readouterr().err.count("task 't': its model answers through a softmax") == 1
        single = Task(descriptor=TaskDescriptor(task_id="odd", output_dim=1), train=(IMAGES, odd))
        engine.register_task(single, net(1, nn.Sigmoid()))
        (note,) = engine.notes
        assert note.startswith(
            "task 'odd': its model answers through a sigmoid (all are between 0 and 1, on 16 samples)"
        )
        assert "chance" not in note  # whatever it has learned, each answer is yes
        assert note in capsys.readouterr().err
        engine.register_task(Task(descriptor="both", train=(IMAGES, LABELS)), net(10, nn.Softmax(dim=1)))
        assert "through a softmax" in engine.notes[1]
        assert "; its model is hardly better than chance" in engine.notes[1]
    assert doubted(made) is None or "softmax" not in str(doubted(made)), "made here: has it learned?"


def test_a_look_leaves_nothing_behind_in_either_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10), nn.Softmax(dim=1)).eval()
    model[1].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers, made = torch.get_rng_state(), task(model)
    assert said(made) is not None
    assert torch.equal(numbers, torch.get_rng_state())
    assert [part.training for part in model] == [False, True, False, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- Values


def values(targets: Tensor, model: nn.Module | None = None, **told: Any) -> Task:
    made = Task(
        descriptor=TaskDescriptor(task_id="diabetes", task_type="regression"),
        train=(ROWS[:300], targets[:300]),
        test=(ROWS[300:], targets[300:]),
        model=model,
        **told,
    )
    made.data()
    return made


def learned(targets: Tensor, seed: int = 0) -> float:
    made, model = values(targets), net(1, inputs=10, seed=seed)
    fit(model, made, Budget(), torch.Generator().manual_seed(seed))
    return evaluate(model, made)


def test_raw_values_are_said_and_what_is_told_instead_learns() -> None:
    told = raw_values(values(PROGRESSION))
    mean, spread = float(PROGRESSION[:300].mean()), float(PROGRESSION[:300].std())
    assert told is not None
    assert told.startswith(f"its targets have mean {mean:.3g} and standard deviation {spread:.3g}, and")
    assert f"y = (y - {mean:.3g}) / {spread:.3g} " in told
    better = (PROGRESSION - float(f"{mean:.3g}")) / float(f"{spread:.3g}")
    assert raw_values(values(better)) is None
    for seed in range(3):
        assert learned(PROGRESSION, seed) < 0.02
        assert learned(better, seed) > 0.4


def test_what_is_said_is_what_hardly_learns() -> None:
    """R² of the diabetes' progression in 200 steps, standardised and brought to other means and spreads."""
    standard = (PROGRESSION - PROGRESSION[:300].mean()) / PROGRESSION[:300].std()
    usual = learned(standard)
    for mean, spread in ((0, 1), (1, 1), (0, 0.3), (0, 3), (-1, 2), (0, 5)):
        assert raw_values(values(standard * spread + mean)) is None
        assert learned(standard * spread + mean) > 0.75 * usual
    for mean, spread in ((4, 1), (-5, 1), (0, 30), (0, 0.03), (0.5, 0.1), (150, 77), (0, 1e-3)):
        told = raw_values(values(standard * spread + mean))
        assert told is not None, (mean, spread)
        assert f"standard deviation {spread:.3g}, and" in told
        assert ("(y + " in told) == (mean < 0)
        assert learned(standard * spread + mean) < 0.75 * usual


def test_columns_and_gaps_and_losses_of_ones_own() -> None:
    standard = (PROGRESSION - PROGRESSION.mean()) / PROGRESSION.std()
    gaps = PROGRESSION.clone()
    gaps[::3] = float("nan")
    assert "(column 1 of 3)" in str(raw_values(values(torch.stack([standard, gaps, standard * 20], 1))))
    assert f"mean {float(gaps[:300].nanmean()):.3g} " in str(raw_values(values(gaps)))
    assert raw_values(values(torch.full_like(PROGRESSION, 7.0))) is None, "there is nothing to learn"
    assert raw_values(values(PROGRESSION, loss=nn.SmoothL1Loss())) is not None
    assert raw_values(values(PROGRESSION, loss="huber")) is not None
    assert raw_values(values(PROGRESSION, loss=lambda made, wanted: (made * 77 + 150 - wanted).square().mean())) is None
    assert raw_values(Task(descriptor=TaskDescriptor(task_id="t", task_type="regression"))) is None


def pixels(targets: Tensor, **told: Any) -> Task:
    """The digits' images with other targets, a column for each of 64."""
    made = Task(
        descriptor=TaskDescriptor(task_id="pixels", task_type="regression"),
        train=(IMAGES[:1000], targets[:1000]),
        test=(IMAGES[1000:], targets[1000:]),
        **told,
    )
    made.data()
    return made


def rebuilt(targets: Tensor) -> float:
    made, model = pixels(targets), net(targets.shape[1])
    fit(model, made, Budget(), torch.Generator().manual_seed(0))
    return evaluate(model, made)


def test_columns_are_judged_together_by_what_they_have_of_what_is_to_be_learned() -> None:
    """The digits from themselves: pixels at the border hardly vary, which is hardly anything of what is to be learned.
    R² of 200 steps as they are, and brought to other spreads and means.
    """
    assert IMAGES[:1000].std(0)[IMAGES[:1000].std(0) > 0].min() < 0.01
    assert doubted(pixels(IMAGES)) is None
    vary = IMAGES[:1000].var(0)
    order = vary.argsort()
    half = float(vary[order[int((vary[order].cumsum(0) < vary.sum() / 2).sum())]].sqrt())
    each = float((vary.sum() / 64).sqrt())
    standard = (IMAGES - IMAGES[:1000].mean(0)) / half
    usual = rebuilt(standard)
    assert rebuilt(IMAGES) > 0.75 * usual
    corner = torch.eye(64)[16]
    for spread, moved in ((1, 0 * corner), (0.2, 0 * corner), (1, corner * each / half * 4)):
        assert raw_values(pixels(standard * spread + moved)) is None
        assert rebuilt(standard * spread + moved) > 0.75 * usual
    for spread, moved in (
        (20, 0 * corner),
        (0.02, 0 * corner),
        (1, each / half * torch.full((64,), 4.0)),
        (1, each / half * 40 * corner),
    ):
        targets = standard * spread + moved
        told = raw_values(pixels(targets))
        assert told is not None
        assert rebuilt(targets) < 0.75 * usual
        figure = float(told.split("mean of its column) / ")[1].split()[0])
        assert figure == pytest.approx(spread, rel=0.01)
        better = (targets - targets[:1000].mean(0)) / figure
        assert raw_values(pixels(better)) is None
        assert rebuilt(better) == pytest.approx(usual, abs=0.02)
    assert "(column 16 of 64)" in str(told)


class Scaled(nn.Module):
    def forward(self, answers: Tensor) -> Tensor:
        return answers * 77 + 150


def test_of_a_network_of_its_own_counts_where_it_begins() -> None:
    """A factory, or a model as it was drawn, that ends in the targets' own figures, in a layer or in its weights."""

    def drawn_so() -> nn.Module:
        made = net(1, inputs=10)
        with torch.no_grad():
            made[2].weight.mul_(100)  # type: ignore[operator, union-attr]
            made[2].bias.fill_(150)  # type: ignore[operator, arg-type, union-attr]
        return made

    def ends_so() -> nn.Module:
        return net(1, Scaled(), inputs=10)

    standard = (PROGRESSION - PROGRESSION[:300].mean()) / PROGRESSION[:300].std()
    usual = learned(standard)
    for build in (drawn_so, ends_so):
        made, model = values(PROGRESSION, build=build), build()
        assert raw_values(made) is not None, "of a usual network it would be said"
        assert doubted(made) is None
        fit(model, made, Budget(), torch.Generator().manual_seed(0))
        assert evaluate(model, made) > 0.75 * usual
    assert "standardised targets" in str(doubted(values(PROGRESSION, build=lambda: net(1, inputs=10))))
    told = str(doubted(values(PROGRESSION * 100, build=ends_so)))
    assert "its own network begins with answers of about 77 around 1" in told
    assert told.endswith(
        f"Let the network come to answers of about {float(PROGRESSION[:300].std() * 100):.3g} around "
        f"{float(PROGRESSION[:300].mean() * 100):.3g}"
    )
    for model, wrong in ((ends_so(), False), (net(1, inputs=10), True)):
        made = values(PROGRESSION, model)
        prepare_model(made)
        assert "hardly better than chance" in str(doubted(made))
        assert ("standardised targets" in str(doubted(made))) == wrong
    plain: list[nn.Module] = []

    def once() -> nn.Module:
        plain.append(net(1, inputs=10))
        return plain[-1]

    assert doubted(values(standard, build=once)) is None
    assert plain == [], "where nothing would be said nothing is made"
    assert doubted(values(PROGRESSION, build=lambda: 1 / 0)) is None, "the training says that a factory fails"  # type: ignore[arg-type, return-value]


def test_many_columns_are_looked_at_at_once_and_of_many_numbers_a_part() -> None:
    seen: list[int] = []

    class Counts(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and found.dtype == torch.float64:
                seen.append(found.numel())
            return found

    for count, wide in ((64, 3 * 128 * 128), (3000, 1000), (40_000, 1)):
        targets = torch.rand(count, wide, generator=torch.Generator().manual_seed(0)) * 300
        made = Task(
            descriptor=TaskDescriptor(task_id="t", task_type="regression"), train=(torch.zeros(count, 1), targets)
        )
        made.data()
        seen.clear()
        with Counts():
            told = raw_values(made)
        assert "standard deviation" in str(told)
        assert len(seen) < 60
        assert max(seen) == min(targets.numel(), max(A_FEW * wide, NUMBERS // wide * wide))


def test_a_model_that_has_learned_them_is_not_doubted(registry: Registry) -> None:
    """scikit-learn's diabetes as it comes: without a model, with one of the right weights, with one as it was drawn."""
    weights = np.linalg.lstsq(np.c_[ROWS.numpy(), np.ones(len(ROWS))], PROGRESSION.numpy(), rcond=None)[0]
    good = nn.Sequential(nn.Linear(10, 1))
    good[0].load_state_dict({"weight": torch.tensor(weights[None, :-1]), "bias": torch.tensor(weights[-1:])})
    with TransferEngine(registry=registry, discoverers=[], model=ModelSpec(hidden=(8,))) as engine:
        for number, model in enumerate((None, good, net(1, inputs=10))):
            made = values(PROGRESSION)
            made = Task(
                descriptor=TaskDescriptor(task_id=f"t{number}", task_type="regression"),
                train=made.train,
                test=made.test,
            )
            engine.register_task(made, model)
        assert [note.split(":")[0] for note in engine.notes] == ["task 't0'", "task 't2'"]
        assert all("mean 149 and standard deviation 77.7" in note for note in engine.notes)
        assert "hardly better than chance" in engine.notes[1]


def test_held_back_and_described_tasks_say_nothing(registry: Registry) -> None:
    with TransferEngine(registry=registry, discoverers=[]) as engine:
        engine.register_task(values(PROGRESSION), unseen=True)
        engine.register_task(
            TaskDescriptor(task_id="described", task_type="regression", input_shape=(3,), output_dim=1)
        )
        assert engine.notes == []
    assert isinstance(values(PROGRESSION).data(), TensorData)
