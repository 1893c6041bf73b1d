"""Training on several objectives: what a step is, what is recorded, going on, and the stage around it."""

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from crosstask import MultiInput, Observer, TaskDescriptor, TransferEngine, component
from crosstask.errors import DataError, OptionError, RecipeError
from crosstask.options import structure, unstructure
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.run import Run
from crosstask.tasks import Portfolio, Task
from crosstask.testing import reference_registry
from crosstask_losses import LossAggregator, LossesResult, ObjectiveTrainer, balancing_demo, linear, parameter_groups
from crosstask_losses.cli import balancing
from crosstask_losses.demo import made_up
from crosstask_losses.given import Given
from crosstask_losses.report import section
from crosstask_losses.testing import REFERENCE, Autoencoder, ReferenceApart, ReferenceObjective
from crosstask_rgb import RGB
from crosstask_weighting import Equal, Uncertainty

VIDEOS = torch.rand(20, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
SMALL = Budget(steps=6, batch_size=8, learning_rate=0.01, evaluate_every=2)


def model() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(16)


def both(**given: Any) -> LossAggregator:
    return LossAggregator({"reference": ReferenceObjective(), "judged": ReferenceApart()}, **given)


def trainer(
    network: nn.Module | None = None,
    aggregator: LossAggregator | None = None,
    balancer: Balancer | None = None,
    budget: Budget = SMALL,
    **given: Any,
) -> ObjectiveTrainer:
    return ObjectiveTrainer(network or model(), aggregator or both(), VIDEOS, balancer or RGB(), budget, **given)


@component
class Other(ReferenceApart):
    """One more of them, by other names."""

    total = "other_loss"
    weighting: ClassVar[dict[str, str]] = {"other": "judged_weight"}
    apart: ClassVar[tuple[str, ...]] = ("other_judge_loss",)

    def term(self, name: str, given: Given) -> Tensor:
        return super().term({"other": "judged"}.get(name, name), given)


class Picky(nn.Module):
    """Says itself what is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, observations: Tensor) -> Tensor:
        raise DataError("these frames are too dark")


def picky(shape: tuple[int, ...]) -> nn.Module:
    raise DataError("these frames are too dark")


def weights(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_a_step_is_that_of_a_loop_written_out() -> None:
    """Equal weights, plain SGD-like Adam: the same weights as a loop of torch alone, the judge's included."""
    made, network = trainer(balancer=Equal(), lr_multipliers={"encoder": 2.0}), model()
    aggregator = both()
    stream = made.context.generator("losses", "batches")
    order = torch.randperm(20, generator=stream)
    optimizer = torch.optim.Adam(parameter_groups(network, 0.01, encoder_lr_multiplier=2.0))
    own = None
    for step in range(2):
        batch = VIDEOS[order[8 * step : 8 * step + 8]]
        losses, task_losses = aggregator.compute_losses(network(batch), batch)
        own = own or torch.optim.Adam(aggregator.parameters(), 0.01)
        optimizer.zero_grad()
        own.zero_grad()
        sum(task_losses).backward()
        losses["judge_loss"].backward()
        optimizer.step()
        own.step()
        made.step(step + 1)
    torch.testing.assert_close(weights(made.model), weights(network))
    torch.testing.assert_close(made.aggregator.parameters(), aggregator.parameters())


def test_what_is_recorded() -> None:
    made = trainer(aggregator=both(weights={"error_weight": linear(0, 1, 4)}))
    made.fit()
    assert made.steps == [1, 2, 4, 6]
    assert {kind: set(curves) for kind, curves in made.curves.items()} == {
        "losses": {"reference", "judged"},
        "terms": {"error", "size", "largest", "reference_loss", "judged", "judged_loss", "judge_loss"},
        "weights": {"error_weight", "size_weight", "judged_weight"},
        "balance": {"reference", "judged"},
        "cosines": {"reference, judged"},
        "conflicts": {"mean_cosine", "conflict_share", "magnitude_similarity"},
    }
    assert made.curves["weights"]["error_weight"] == [0, 0.25, 0.75, 1]
    cosines = made.curves["cosines"]["reference, judged"]
    assert cosines == pytest.approx(made.curves["conflicts"]["mean_cosine"])
    terms = made.curves["terms"]
    for place in range(4):
        added = made.curves["weights"]["error_weight"][place] * terms["error"][place] - 0.1 * terms["size"][place]
        assert terms["reference_loss"][place] == pytest.approx(added, abs=1e-6)


def test_conflicts_are_recorded_with_a_balancer_that_looks_at_no_gradient() -> None:
    """The cosine between the gradients on what both reach, as autograd gives them."""
    made, network = trainer(balancer=Equal()), model()
    made.step(1, record=True)
    batch = VIDEOS[torch.randperm(20, generator=made.context.generator("losses", "batches"))[:8]]
    _, found = both().compute_losses(network(batch), batch)
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(x, network.parameters(), retain_graph=True)]) for x in found
    ]
    wanted = float(torch.cosine_similarity(rows[0], rows[1], dim=0))
    assert made.curves["cosines"]["reference, judged"] == [pytest.approx(wanted, abs=1e-5)]


def test_an_objective_that_comes_later_has_gaps_in_its_curves() -> None:
    made = trainer(aggregator=both(off=["judged"]))
    made.step(1, record=True)
    assert made.curves["cosines"] == {}
    made.aggregator.switch("judged")
    made.step(2, record=True)
    made.aggregator.switch("reference", False)
    made.step(3, record=True)
    losses = made.curves["losses"]
    assert [value is None for value in losses["judged"]] == [True, False, False]
    assert [value is None for value in losses["reference"]] == [False, False, True]


def test_an_objective_that_is_off_keeps_its_own_parameters_and_trains_them_when_it_is_back() -> None:
    made = trainer()
    made.step(1)
    for name in ("judged", "judge_loss"):
        before = [p.detach().clone() for p in made.aggregator.objectives["judged"].parameters()]
        made.aggregator.switch(name, False)
        made.step(2)
        torch.testing.assert_close(made.aggregator.objectives["judged"].parameters(), before, rtol=0, atol=0)
        made.aggregator.switch(name)
        made.step(3)
        assert not torch.equal(made.aggregator.objectives["judged"].parameters()[0], before[0])


def test_parameters_of_an_objective_that_comes_later_are_trained() -> None:
    judges = {"one": ReferenceApart(), "two": Other()}
    made = trainer(aggregator=LossAggregator(judges, off=["two"]))
    made.step(1)
    made.aggregator.switch("two")
    made.step(2)
    before = [p.detach().clone() for p in made.aggregator.parameters()]
    made.step(3)
    after = made.aggregator.parameters()
    assert len(after) == 2
    assert not any(torch.equal(x, y) for x, y in zip(after, before, strict=True))


def test_what_is_off_is_part_of_the_state_and_an_earlier_one_can_be_loaded_again() -> None:
    through = trainer()
    through.step(1)
    through.aggregator.switch("judged", False)
    state = copy.deepcopy(through.state_dict())
    later = trainer()
    later.load_state_dict(state)
    assert later.aggregator.off == ["judged"]
    found = []
    for each in (through, later, through):  # the last has gone on meanwhile
        each.load_state_dict(state)
        each.step(2)
        each.aggregator.switch("judged")
        each.step(3)
        found.append([*weights(each.model), *(p.detach().clone() for p in each.aggregator.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=0)


@pytest.mark.parametrize("balancer", [RGB, Uncertainty])
def test_a_trainer_goes_on_from_a_file_as_if_nothing_had_happened(balancer: type[Balancer], tmp_path: Path) -> None:
    budget = Budget(steps=6, batch_size=8, learning_rate=0.01, evaluate_every=2, schedule="cosine", clip=1.0)
    through, half = (trainer(balancer=balancer(), budget=budget) for _ in range(2))
    through.fit()
    for number in (1, 2, 3):
        half.step(number, record=number != 3)
    half.save(tmp_path / "state")
    torch.manual_seed(9)
    later = trainer(Autoencoder(16), balancer=balancer(), budget=budget)
    later.load(tmp_path / "state")
    later.fit()
    torch.testing.assert_close(weights(later.model), weights(through.model))
    assert later.steps == through.steps
    for kind, curves in through.curves.items():
        for name, values in curves.items():
            assert later.curves[kind][name] == pytest.approx(values, rel=1e-5, abs=1e-5)


def test_batches_that_are_accumulated_make_the_mean_of_their_gradients() -> None:
    """With equal weights two batches of eight are as one of sixteen."""
    parts = trainer(balancer=Equal(), budget=Budget(steps=1, batch_size=8, accumulate=2, optimizer="sgd"))
    whole = trainer(balancer=Equal(), budget=Budget(steps=1, batch_size=16, optimizer="sgd"))
    parts.fit()
    whole.fit()
    torch.testing.assert_close(weights(parts.model), weights(whole.model))
    torch.testing.assert_close(parts.aggregator.parameters(), whole.aggregator.parameters())


def test_bfloat16_passes_are_near_full_ones() -> None:
    half, whole = (trainer(budget=Budget(steps=1, batch_size=8, precision=each)) for each in ("bfloat16", "float32"))
    losses = [each.step(1) for each in (half, whole)]
    assert losses[0]["reference"] == pytest.approx(losses[1]["reference"], rel=0.02)
    assert losses[0] != losses[1]


def test_actions_reach_the_model() -> None:
    data = MultiInput({"observations": VIDEOS, "actions": torch.ones(20, 3, 2)})
    made = ObjectiveTrainer(model(), both(), data, RGB(), SMALL)
    made.fit()
    moved, still = made.evaluate(data), made.evaluate(VIDEOS)
    assert moved["size"] != still["size"]


def test_evaluation_is_the_mean_over_all_and_changes_nothing() -> None:
    made = trainer()
    before = weights(made.model)
    found, parts = made.evaluate(VIDEOS), made.evaluate(VIDEOS, batch_size=8)
    assert found["error"] == pytest.approx(parts["error"], rel=1e-5)
    assert torch.equal(weights(made.model), before)
    assert made.model.training


def test_observers_hear_every_step_and_may_end_it() -> None:
    heard: list[tuple[int, dict[str, Any]]] = []

    @component
    class Hearing(Observer):
        """Ends it after three."""

        def training_step(self, stage: str, step: int, metrics: dict[str, Any]) -> bool | None:
            heard.append((step, metrics))
            return step == 3 or None

    with Run(reference_registry(REFERENCE)) as run:
        run.add(Hearing())
        made = trainer(context=run)
        made.fit()
    assert [step for step, _ in heard] == [1, 2, 3]
    assert made.stopped == "an observer asked for it at step 3"
    assert set(heard[0][1]["losses"]) == set(heard[0][1]["weights"]) == {"reference", "judged"}
    assert set(heard[0][1]["term_weights"]) == {"error_weight", "size_weight", "judged_weight"}
    assert set(heard[0][1]["cosines"]) == {"reference, judged"}


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Picky(), "these frames are too dark"),
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), "Sequential must give a mapping .* got a Tensor"),
        (nn.Linear(7, 7), r"Linear cannot take observations \[8, 3, 1, 4, 4\]: RuntimeError"),
    ],
)
def test_models_that_do_not_fit_are_told(network: nn.Module, said: str) -> None:
    with pytest.raises(DataError, match=said):
        trainer(network).fit()


def test_wrong_inputs_and_budgets_are_refused() -> None:
    with pytest.raises(DataError, match=r"observations must be a tensor \[N, T, C, H, W\].*got \[20, 3\]"):
        ObjectiveTrainer(model(), both(), VIDEOS[..., 0, 0, 0], RGB(), SMALL)
    with pytest.raises(DataError, match="must be called observations and actions, got video"):
        ObjectiveTrainer(model(), both(), MultiInput({"video": VIDEOS}), RGB(), SMALL)
    with pytest.raises(OptionError, match="patience needs a metric"):
        trainer(budget=Budget(patience=2))


# --- The stage


def portfolio(**descriptor: Any) -> Portfolio:
    known = {"task_id": "videos", "input_shape": (3, 1, 4, 4), "output_dim": 2, **descriptor}
    data = VIDEOS, torch.zeros(20, dtype=torch.long)
    return Portfolio([Task(descriptor=TaskDescriptor(**known), train=data)])


OPTIONS: dict[str, Any] = {
    "model": "crosstask_losses.testing:autoencoder",
    "objectives": ["reference", "judged"],
    "budget": SMALL,
}


def engine() -> TransferEngine:
    made = TransferEngine(registry=reference_registry(REFERENCE), discoverers=[], seed=3)
    made.register(portfolio())
    return made


def test_stage_gives_the_model_the_curves_and_a_section() -> None:
    with engine() as made:
        weights = {"error_weight": {"kind": "linear", "steps": 4}}
        outcome = made.run_stage("losses", **OPTIONS, weights=weights, lr_multipliers={"decoder": 0.5})
    found = outcome.record
    assert isinstance(outcome.artifacts["model"], Autoencoder)
    assert (found.task, found.seed, found.parameters) == ("videos", 3, 148)
    assert found.objectives == {"reference": ("error", "size"), "judged": ("judged",)}
    assert found.after["error"] != found.before["error"]
    assert structure(unstructure(found), LossesResult) == found
    html = section(found).html
    for part in ("Loss of each objective", "Terms of reference", "Conflicts between objectives", "reference, judged"):
        assert part in html
    assert list(found.to_frame().columns) == ["term", "objective", "before", "after"]
    assert "Trained on reference, judged" in found._repr_html_()


def test_section_of_one_objective_that_ended_early() -> None:
    with engine() as made:
        found = made.run_stage("losses", **{**OPTIONS, "objectives": ["reference"]}).record
    html = section(structure({**unstructure(found), "stopped": "asked <b>"}, LossesResult)).html
    assert "There is one objective: nothing conflicts." in html
    assert "ended early: asked &lt;b&gt;" in html


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "autoencoder"}, "model must look like 'module:function'"),
        ({"weights": {"eror_weight": 1.0}}, "no weight 'eror_weight'; did you mean 'error_weight'"),
        ({"off": ["eror"]}, "no objective or term 'eror'"),
        ({"task": "vidoes"}, "task: .*vidoes"),
        ({"budget": Budget(patience=3)}, "patience needs a metric"),
        ({"model": "crosstask_losses.testing:nothing"}, "model: .*nothing"),
    ],
)
def test_stage_refuses_what_is_wrong(changes: dict[str, Any], said: str) -> None:
    with engine() as made, pytest.raises(RecipeError, match=said):
        made.run_stage("losses", **{**OPTIONS, **changes})


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("builtins:len", "made a int, not a torch module"),
        (f"{__name__}:picky", "these frames are too dark"),
        ("math:sqrt", r"math:sqrt fails for inputs \(3, 1, 4, 4\)"),
    ],
)
def test_stage_refuses_a_function_that_makes_no_model(function: str, said: str) -> None:
    with engine() as made, pytest.raises(DataError, match=said):
        made.run_stage("losses", **{**OPTIONS, "model": function})


def test_stage_refuses_tasks_that_are_no_videos() -> None:
    with TransferEngine(registry=reference_registry(REFERENCE), discoverers=[]) as made:
        flat = TaskDescriptor(task_id="flat", input_shape=(4,), output_dim=2)
        labels = torch.zeros(20, dtype=torch.long)
        made.register(Portfolio([Task(descriptor=flat, train=(torch.rand(20, 4), labels))]))
        with pytest.raises(RecipeError, match=r"'flat' must be sequences of frames \(T, C, H, W\), they are \(4,\)"):
            made.run_stage("losses", **OPTIONS)
        parts = {"video": VIDEOS, "more": torch.rand(20, 2)}
        several = TaskDescriptor(task_id="several", output_dim=2)
        made.register(Portfolio([Task(descriptor=several, train=(MultiInput(parts), labels))]))
        with pytest.raises(RecipeError, match=r"name the one whose inputs are the .*; there are flat, several"):
            made.run_stage("losses", **OPTIONS)
        with pytest.raises(RecipeError, match="must have inputs observations and actions, it has video, more"):
            made.run_stage("losses", **OPTIONS, task="several")
        made.register(Portfolio([Task(descriptor=TaskDescriptor(task_id="bare", input_shape=(3, 1, 4, 4)))]))
        with pytest.raises(RecipeError, match="'bare' has no train data"):
            made.run_stage("losses", **OPTIONS, task="bare")


# --- Balancing, shown


def test_made_up_gradients_conflict_as_they_should() -> None:
    matrix, common = made_up(4, 0.9, 30.0, torch.Generator().manual_seed(1))
    lengths = matrix.norm(dim=1)
    assert lengths[-1] / lengths[0] == pytest.approx(30)
    unit = matrix / lengths[:, None]
    assert (unit @ unit.T).triu(1).sum() < 0
    assert bool((unit @ common > 0).all())


def test_balancing_demo_shows_who_is_hurt() -> None:
    lines: list[str] = []
    found = balancing_demo(("equal", "upgrad", "nothing"), trials=5, echo=lines.append)
    assert found["equal"]["against"] > 0.5
    assert found["upgrad"]["against"] == 0
    assert found["upgrad"]["worst"] > -1e-6
    assert found["equal"]["largest"] > 0.9
    assert lines[-1] == "nothing       is not installed"
    with pytest.raises(OptionError, match="tasks must be at least 2"):
        balancing_demo(tasks=1)


def test_balancing_command() -> None:
    data = CliRunner().invoke(balancing, ["--tasks", "3", "--json"])
    assert data.exit_code == 0
    assert '"conflicting"' in data.output
