"""The three games against their formulas, and who is trained by what."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.errors import DataError, PluginError
from crosstask_adversarial import Adversarial
from crosstask_adversarial.network import Discriminator
from crosstask_losses import LossAggregator


class Judge(nn.Module):
    """The mean of a frame times a weight, and the frame as its feature."""

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.weight * frames.mean((1, 2, 3)), [frames, self.weight * frames]


def videos(seed: int = 0) -> tuple[dict[str, list[Tensor]], Tensor]:
    rng = torch.Generator().manual_seed(seed)
    fakes = [torch.randn(5, 1, 4, 4, generator=rng).requires_grad_() for _ in range(3)]
    return {"fakes": fakes}, torch.randn(5, 3, 1, 4, 4, generator=rng)


def logits(observations: Tensor, outputs: dict[str, list[Tensor]]) -> tuple[Tensor, Tensor]:
    return 2 * observations.mean((2, 3, 4)), 2 * torch.stack(outputs["fakes"], 1).mean((2, 3, 4))


def reached(loss: Tensor, leaves: list[Tensor]) -> list[bool]:
    """On which of these it has a gradient."""
    return [grad is not None for grad in torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)]


def test_it_is_off_unless_it_is_named() -> None:
    assert list(LossAggregator().objectives) == ["elbo", "perceiver", "predictive"]


def test_default_weight_is_that_of_the_specification() -> None:
    assert Adversarial().weights() == {"lambda_gan": 0.1}


@pytest.mark.parametrize("form", ["non_saturating", "hinge", "least_squares"])
def test_forms_are_those_of_the_papers(form: str) -> None:
    outputs, observations = videos()
    made = LossAggregator([Adversarial(form=form, discriminator=Judge())])
    losses, task_losses = made.compute_losses(outputs, observations)
    real, fake = logits(observations, outputs)
    one, zero = torch.ones_like(real), torch.zeros_like(real)
    if form == "non_saturating":
        generator = functional.binary_cross_entropy_with_logits(fake, one)
        discriminator = functional.binary_cross_entropy_with_logits(
            real, one
        ) + functional.binary_cross_entropy_with_logits(fake, zero)
    elif form == "hinge":
        generator = -fake.mean()
        discriminator = (1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean()
    else:
        generator = 0.5 * functional.mse_loss(fake, one)
        discriminator = 0.5 * functional.mse_loss(real, one) + 0.5 * functional.mse_loss(fake, zero)
    frames, fakes = observations.transpose(0, 1), torch.stack(outputs["fakes"])
    matching = (functional.l1_loss(fakes, frames) + functional.l1_loss(2 * fakes, 2 * frames)) / 2
    torch.testing.assert_close(losses["generator_loss"], generator)
    torch.testing.assert_close(losses["discriminator_loss"], discriminator)
    torch.testing.assert_close(losses["feature_matching_loss"], matching)
    torch.testing.assert_close(losses["adversarial_loss"], 0.1 * (generator + matching))
    assert task_losses.names == ("adversarial",)


def test_discriminator_loss_is_not_given_to_the_balancer_and_does_not_reach_the_generator() -> None:
    """The fakes are detached for it, and the generator's terms leave the discriminator alone."""
    outputs, observations = videos()
    made = LossAggregator([Adversarial()])
    losses, task_losses = made.compute_losses(outputs, observations)
    own = made.parameters()
    assert len(own) == 8
    assert made.apart() == ["discriminator_loss"]
    assert not any(loss is losses["discriminator_loss"] for loss in task_losses)
    assert set(
        torch.autograd.grad(losses["discriminator_loss"], outputs["fakes"], allow_unused=True, retain_graph=True)
    ) == {None}
    assert all(g is not None for g in torch.autograd.grad(losses["discriminator_loss"], own, allow_unused=True))
    total = sum(task_losses)
    assert set(torch.autograd.grad(total, own, allow_unused=True, retain_graph=True)) == {None}
    assert all(g is not None for g in torch.autograd.grad(total, outputs["fakes"], allow_unused=True))


@pytest.mark.parametrize("form", ["non_saturating", "hinge", "least_squares"])
def test_the_game_is_learned(form: str) -> None:
    """Fakes that are a learned number come to the brightness of what is observed."""
    torch.manual_seed(0)
    level = nn.Parameter(torch.tensor(-1.0))
    made = LossAggregator(
        [{"use": "adversarial", "form": form}], off=["feature_matching_loss"], weights={"lambda_gan": 1.0}
    )
    generator, judge_step = torch.optim.Adam([level], 0.05), None
    for _ in range(40):
        observations = 1 + 0.3 * torch.randn(16, 1, 1, 4, 4)
        fakes = [level + 0.3 * torch.randn(16, 1, 4, 4)]
        losses, task_losses = made.compute_losses({"fakes": fakes}, observations)
        judge_step = judge_step or torch.optim.Adam(made.parameters(), 0.01)
        judge_step.zero_grad()
        generator.zero_grad()
        losses["discriminator_loss"].backward()
        task_losses[0].backward()
        judge_step.step()
        generator.step()
    assert level > 0


def test_observed_features_are_targets() -> None:
    outputs, observations = videos()
    observations.requires_grad_()
    made = LossAggregator([Adversarial(discriminator=Judge())])
    losses, _ = made.compute_losses(outputs, observations)
    assert torch.autograd.grad(losses["feature_matching_loss"], observations, allow_unused=True) == (None,)


def test_discriminator_without_features_is_refused_unless_matching_is_off() -> None:
    class Bare(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            return frames.mean((1, 2, 3))

    outputs, observations = videos()
    with pytest.raises(DataError, match=r"gives \(logits, a list of features\); or off=\['feature_matching_loss'\]"):
        LossAggregator([Adversarial(discriminator=Bare())]).compute_losses(outputs, observations)
    made = LossAggregator([Adversarial(discriminator=Bare())], off=["feature_matching_loss", "discriminator_loss"])
    assert set(made.compute_losses(outputs, observations)[0]) == {"generator_loss", "adversarial_loss"}


def test_what_is_no_discriminator_is_refused() -> None:
    outputs, observations = videos()
    cases: list[tuple[str | nn.Module, str]] = [
        (nn.Linear(7, 1), r"cannot take frames \(1, 4, 4\)"),
        (nn.Flatten(0), "must give logits, a row for each of 15 frames"),
        ("math:sqrt", r"math:sqrt fails for frames \(1, 4, 4\): TypeError"),
    ]
    for wrong, said in cases:
        with pytest.raises(DataError, match=said):
            LossAggregator([Adversarial(discriminator=wrong)]).compute_losses(outputs, observations)
    with pytest.raises(DataError, match="made a str, not a torch module"):
        LossAggregator([Adversarial(discriminator="builtins:str")]).compute_losses(outputs, observations)
    with pytest.raises(PluginError, match="nowhere"):
        LossAggregator([Adversarial(discriminator="nowhere:x")]).compute_losses(outputs, observations)


def test_discriminator_is_drawn_from_the_seed_and_restored_from_a_state() -> None:
    outputs, observations = videos()
    one, two, other = (LossAggregator(["adversarial"], seed=seed) for seed in (1, 1, 2))
    first, again, another = (
        a.compute_losses(outputs, observations)[0]["discriminator_loss"] for a in (one, two, other)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, another)
    late = LossAggregator([Adversarial()], seed=5)
    late.load_state_dict(one.state_dict())  # before it has one
    assert (
        late.state_dict()["adversarial"]["discriminator"].keys()
        == one.state_dict()["adversarial"]["discriminator"].keys()
    )
    assert torch.equal(late.compute_losses(outputs, observations)[0]["discriminator_loss"], first)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.compute_losses(outputs, observations)[0]["discriminator_loss"], first)
    with pytest.raises(DataError, match="expected"):
        other.objectives["adversarial"].load_state_dict({"judge": {}})


def test_networks_of_any_size() -> None:
    for shape in ((1, 4, 4), (3, 7, 9)):
        found, features = Discriminator(shape[0])(torch.zeros(2, *shape))
        assert found.shape == (2,)
        assert [feature.shape[1] for feature in features] == [16, 32, 64]


def test_measuring_moves_no_statistics_of_the_discriminator() -> None:
    judge = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 1))
    aggregator = LossAggregator([Adversarial(discriminator=judge)], off=["feature_matching_loss"])
    outputs, observations = videos()
    with torch.no_grad():
        first, again = (aggregator.compute_losses(outputs, observations)[0] for _ in range(2))
    assert int(judge[0].num_batches_tracked) == 0
    assert first == again
    aggregator.compute_losses(outputs, observations)
    assert int(judge[0].num_batches_tracked) > 0
