"""Videos, the model, the whole way of a step, and the demonstrations."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from sklearn.datasets import load_digits

from crosstask.errors import DataError
from crosstask.job import load_run, run_recipe
from crosstask.points.balancer import Balancer
from crosstask.recipe import load_recipe
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask_gradnorm import GradNorm
from crosstask_losses import LossAggregator, ObjectiveTrainer, VectorQuantizer, linear, parameter_groups
from crosstask_moving_digits import VideoModel, aggregation_demo, flow_demo, moving_digits, video_model
from crosstask_moving_digits.cli import aggregation, flow
from crosstask_moving_digits.demo import _said
from crosstask_rgb import RGB
from crosstask_weighting import Equal

ALL = ["elbo", "perceiver", "predictive", "adversarial"]


def small(**given: Any) -> VideoModel:
    torch.manual_seed(0)
    return VideoModel((1, 16, 16), width=16, **given)


# --- Videos


def test_frames_hold_the_real_image_and_move_as_the_actions_say() -> None:
    made = moving_digits(5, 6, 16, first=3, seed=4)
    images = torch.tensor(load_digits().images / 16.0, dtype=torch.float32)
    assert made.observations.shape == (5, 6, 1, 16, 16)
    assert made.labels.tolist() == load_digits().target[3:8].tolist()
    for number in range(5):
        image = images[3 + number]
        places = [
            {(row, column) for row in range(9) for column in range(9)
             if torch.equal(frame[row : row + 8, column : column + 8], image) and frame.sum() == image.sum()}
            for frame in made.observations[number, :, 0]
        ]  # fmt: skip
        assert all(places)
        for step in range(5):
            x, y = made.actions[number, step].int().tolist()
            assert any((row + y, column + x) in places[step + 1] for row, column in places[step])
            assert (x, y) != (0, 0)


def test_videos_follow_from_the_seed() -> None:
    one, same, other = (moving_digits(3, 4, seed=seed).observations for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert moving_digits(2, 3, 8).observations.shape == (2, 3, 1, 8, 8)  # nowhere to go


def test_several_digits_overlap_by_the_brighter_pixel() -> None:
    made = moving_digits(3, 2, 16, digits=2)
    images = torch.tensor(load_digits().images / 16.0, dtype=torch.float32).view(-1, 64)
    most = images[:6].sum(1).view(3, 2)
    total = made.observations[:, 0].sum((1, 2, 3))
    assert bool((total <= most.sum(1) + 1e-4).all())
    assert bool((total >= most.amax(1) - 1e-4).all())


@pytest.mark.parametrize("wrong", [{"count": 0}, {"size": 7}, {"first": 1797}, {"steps": 0}, {"digits": 0}])
def test_videos_that_cannot_be_made_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match="moving_digits: count, steps and digits must be at least 1, size at least 8"):
        moving_digits(**{"count": 2, "steps": 2, **wrong})


# --- The model


def test_the_model_gives_what_all_objectives_read() -> None:
    torch.manual_seed(0)
    videos = moving_digits(4, 3)
    outputs = small()(videos.observations)
    losses, task_losses = LossAggregator(ALL).compute_losses(outputs, videos.observations)
    assert task_losses.names == tuple(ALL)
    assert {"total_vae_loss", "perceiver_loss", "attention_loss", "adversarial_loss", "codebook_perplexity"} < set(
        losses
    )


def test_straight_through_gradients_reach_the_encoder_and_only_the_codes_the_codebook() -> None:
    videos, model = moving_digits(4, 3), small()
    outputs = model(videos.observations)
    found, _ = LossAggregator(["perceiver"]).compute_losses(outputs, videos.observations)
    first, quantizer = next(model.encoder.parameters()), model.perceiver["quantizer"]
    assert isinstance(quantizer, VectorQuantizer)
    both = [first, quantizer.codebook]

    def reached(name: str) -> list[bool]:
        grads = torch.autograd.grad(found[name], both, allow_unused=True, retain_graph=True)
        return [grad is not None and bool(grad.any()) for grad in grads]

    assert reached("perceiver_recon_loss") == [True, False]
    assert reached("vq_codebook_loss") == [False, True]
    assert reached("vq_commitment_loss") == [True, False]


def test_actions_are_taken_by_a_model_that_was_made_for_them() -> None:
    videos = moving_digits(4, 3)
    torch.manual_seed(0)
    model = video_model({"observations": (3, 1, 16, 16), "actions": (3, 2)}, width=16)
    found = []
    for actions in (videos.actions, 0 * videos.actions):
        torch.manual_seed(1)
        found.append(model(videos.observations, actions)["z_mean"])
    assert torch.equal(found[0][0], found[1][0])  # before the first action has done anything
    assert not torch.equal(found[0][1], found[1][1])


def test_sides_must_be_multiples_of_four() -> None:
    with pytest.raises(DataError, match="multiples of four, got 16 and 10"):
        video_model((3, 1, 16, 10))


# --- The whole way


@pytest.mark.parametrize("balancer", [RGB, Equal])
def test_pipeline_trains_end_to_end(balancer: type[Balancer]) -> None:
    """observations → outputs → compute_losses → backward → step: the losses fall, and every weight has moved."""
    videos, model, made = moving_digits(32, 3, seed=1), small(), balancer()
    before = [p.detach().clone() for p in model.parameters()]
    aggregator = LossAggregator(
        [{"use": "elbo", "likelihood": "bernoulli"}, "perceiver", "predictive"], weights={"beta": linear(0, 1, 10)}
    )
    optimizer = torch.optim.Adam(parameter_groups(model, 5e-3, perceiver_lr_multiplier=1.5))
    seen: list[dict[str, float]] = []
    for step in range(15):
        outputs = model(videos.observations)
        losses, task_losses = aggregator.compute_losses(outputs=outputs, observations=videos.observations, step=step)
        optimizer.zero_grad()
        made.backward(task_losses)
        optimizer.step()
        seen.append({name: value.item() for name, value in losses.items()})
    assert seen[-1]["recon_loss"] < 0.92 * seen[0]["recon_loss"]
    assert seen[-1]["perceiver_recon_loss"] < 0.9 * seen[0]["perceiver_recon_loss"]
    assert made.last.names == ("elbo", "perceiver", "predictive")
    still = [name for (name, p), old in zip(model.named_parameters(), before, strict=True) if torch.equal(p, old)]
    assert still == []


def test_gradnorm_needs_losses_above_zero() -> None:
    """`attention_loss` has a bonus and may be negative: without the bonus GradNorm goes along."""
    videos, model = moving_digits(8, 3), small()
    for off, works in (((), False), (("attention_diversity",), True)):
        made = LossAggregator(ALL[:3], off=off)
        _, task_losses = made.compute_losses(model(videos.observations), videos.observations)
        balancer = GradNorm()
        if works:
            balancer.backward(task_losses)
            assert set(balancer.weights) == {"elbo", "perceiver", "predictive"}
        else:
            with pytest.raises(RuntimeError, match="the first losses must be positive"):
                balancer.backward(task_losses)


def test_a_discriminator_is_trained_beside_the_model_and_by_no_balancer() -> None:
    videos, model, made = moving_digits(16, 3), small(), LossAggregator(["elbo", "adversarial"])
    trainer = ObjectiveTrainer(model, made, videos.observations, RGB(), Budget(steps=4, batch_size=8, evaluate_every=2))
    trainer.step(1)
    start = [p.detach().clone() for p in made.parameters()]
    trainer.fit()
    assert not any(torch.equal(p, old) for p, old in zip(made.parameters(), start, strict=True))
    assert trainer.balancer.last.names == ("elbo", "adversarial")
    assert len(trainer.curves["terms"]["discriminator_loss"]) == 2


def test_recipe_runs_on_real_digits(tmp_path: Path) -> None:
    registry = Registry.installed()
    short = [
        "source.train=40",
        "source.test=20",
        "source.steps=3",
        "losses.budget.steps=4",
        "losses.budget.batch_size=8",
    ]
    recipe = load_recipe("objectives", registry, [*short, "losses.budget.evaluate_every=2"]).recipe
    run_recipe(recipe, tmp_path / "out", registry=registry)
    found = load_run(tmp_path / "out").result("losses", registry)
    assert found.objectives.keys() == {"elbo", "perceiver", "predictive"}
    assert found.after["recon_loss"] < found.before["recon_loss"]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Terms of predictive" in page


# --- Demonstrations


def test_flow_demo_tells_what_happened() -> None:
    lines: list[str] = []
    found = flow_demo(3, batch_size=4, echo=lines.append)
    assert found["trained"]["recon_loss"] < found["untrained"]["recon_loss"]
    assert set(found["cosines"]) == {"elbo, perceiver", "elbo, predictive", "perceiver, predictive"}
    assert found["training"]["beta"] == 1
    assert any("the mean frame" in line for line in lines)
    assert lines[0].startswith("step 1: elbo")


def test_aggregation_demo_agrees_with_sums_that_are_added_by_hand() -> None:
    lines: list[str] = []
    found = aggregation_demo(echo=lines.append)
    assert "for the balancer: elbo, perceiver, predictive, adversarial" in lines
    assert found["difference"] < 1e-3
    assert list(found["task_losses"]) == ALL
    assert found["without"] == ["elbo", "predictive", "adversarial"]
    assert "term 'kl_z' needs outputs['z_mean']" in found["errors"]["missing"]
    assert "'vq_codebook_loss' is nan" in found["errors"]["not finite"]
    assert "did you mean 'lambda_recon'" in found["errors"]["unknown weight"]
    with pytest.raises(AssertionError, match="accepted"):
        _said(lambda: None)


def test_commands() -> None:
    shown = CliRunner().invoke(flow, ["--steps", "2", "--json"])
    assert json.loads(shown.output)["training"]["steps"] == 2
    assert json.loads(CliRunner().invoke(aggregation, ["--json"]).output)["without"]
