"""Two demonstrations on real digits: the whole way of a step, and what an aggregator makes of a model's outputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crosstask.context import LocalContext
from crosstask.errors import CrosstaskError
from crosstask.learning.modules import seeded
from crosstask_losses import LossAggregator, linear, parameter_groups
from crosstask_losses.trainer import cosines_of
from crosstask_moving_digits.model import VideoModel, video_model
from crosstask_moving_digits.videos import Videos, moving_digits

ELBO = {"use": "elbo", "likelihood": "bernoulli", "sharing": 400}

Figures = dict[str, dict[str, float]]


def flow_demo(
    steps: int = 100,
    *,
    balancer: str = "rgb",
    batch_size: int = 32,
    seed: int = 0,
    echo: Callable[[str], None] | None = print,
) -> Figures:
    """observations → outputs → compute_losses → backward of a balancer → step, for `steps` steps: figures, also
    printed.

    400 sequences of five frames to learn from, 100 of other digits to be judged on. `untrained` and `trained`: every
    term on the latter; `mean_frame`: the reconstruction loss of always showing the mean of the training frames, which a
    model that has learned something is below; `cosines`: between the gradients of two objectives, the mean over the
    steps; `training`: seconds, and the last weight of beta, which rises to one.
    """
    tell = echo or (lambda line: None)
    train, test = moving_digits(400, 5, seed=seed), moving_digits(100, 5, first=1200, seed=seed + 1)
    with seeded(seed):
        model = video_model(train.observations.shape[1:])
        aggregator = LossAggregator([ELBO, "perceiver", "predictive"], weights={"beta": linear(0, 1, steps)})
        made: Any = LocalContext(seed=seed).component("balancer", balancer)
        optimizer = torch.optim.Adam(parameter_groups(model, 3e-3, perceiver_lr_multiplier=1.5))
        found: Figures = {"untrained": judged(model, aggregator, test, steps)}
        found["mean_frame"] = {"recon_loss": _mean_frame(train.observations, test.observations)}
        cosines: dict[str, list[float]] = {}
        begun = time.perf_counter()
        for step in range(steps):
            observations = train.observations[torch.randint(len(train.observations), (batch_size,))]
            outputs = model(observations)
            _, task_losses = aggregator.compute_losses(outputs=outputs, observations=observations, step=step)
            optimizer.zero_grad()
            made.backward(task_losses)
            optimizer.step()
            if made.last.gramian is not None:
                for pair, value in cosines_of(made.last.gramian, task_losses.names).items():
                    cosines.setdefault(pair, []).append(value)
            if step in {0, steps // 2, steps - 1}:
                told = ", ".join(f"{name} {loss.item():.3f}" for name, loss in task_losses.items())
                tell(f"step {step + 1}: {told}")
        found["training"] = {
            "steps": float(steps),
            "seconds": time.perf_counter() - begun,
            "beta": aggregator.weights_at(steps)["beta"],
        }
        found["trained"] = judged(model, aggregator, test, steps)
    found["cosines"] = {pair: sum(values) / len(values) for pair, values in cosines.items()}
    for name, value in found["trained"].items():
        beside = f"   the mean frame {found['mean_frame'][name]:.3f}" if name in found["mean_frame"] else ""
        tell(f"{name:26}{found['untrained'][name]:>10.3f} -> {value:>9.3f}{beside}")
    for pair, value in found["cosines"].items():
        tell(f"mean cosine between the gradients of {pair}: {value:+.3f}")
    tell(f"{steps} steps in {found['training']['seconds']:.1f} s")
    return found


def aggregation_demo(*, seed: int = 0, echo: Callable[[str], None] | None = print) -> dict[str, Any]:
    """What four objectives make of a model's outputs for 32 real sequences: figures, also printed.

    `losses`: all terms, sums, metrics and losses apart; `task_losses`: those for a balancer; `without`: the same with
    `perceiver` switched off; `difference`: the largest between a sum and its terms times their weights, added here;
    `errors`: what is said of a missing output, one that is not finite, an unknown weight, and observations of another
    shape.
    """
    tell = echo or (lambda line: None)
    videos = moving_digits(32, 5, seed=seed)
    with seeded(seed):
        model = video_model(videos.observations.shape[1:])
        outputs = model(videos.observations)
    aggregator = LossAggregator([ELBO, "perceiver", "predictive", "adversarial"], seed=seed)
    losses, task_losses = aggregator.compute_losses(outputs, videos.observations, beta=0.5)
    weights = aggregator.weights_at(0) | {"beta": 0.5}
    gaps = []
    for name, terms in aggregator.terms().items():
        total = aggregator.objectives[name].total
        tell(f"{name}: {total} = {losses[total].item():.4f}")
        added = 0.0
        for term, weight in terms.items():
            factor = weights[weight.lstrip("-")] * (-1 if weight.startswith("-") else 1)
            added += factor * losses[term].item()
            tell(f"  {factor:+7.3f} x {term} {losses[term].item():.4f}")
        gaps.append(abs(added - losses[total].item()))
        for name_of_rest in (*aggregator.objectives[name].metrics, *aggregator.objectives[name].apart):
            tell(f"          {name_of_rest} {losses[name_of_rest].item():.4f} (not for the balancer)")
    tell(f"for the balancer: {', '.join(task_losses.names)}")
    aggregator.switch("perceiver", False)
    _, fewer = aggregator.compute_losses(outputs, videos.observations)
    aggregator.switch("perceiver", True)
    tell(f"without perceiver: {', '.join(fewer.names)}")
    wrong: dict[str, Callable[[], object]] = {
        "missing": lambda: aggregator.compute_losses(_without(outputs, "z_mean"), videos.observations),
        "not finite": lambda: aggregator.compute_losses(_spoilt(outputs, "vq_inputs"), videos.observations),
        "unknown weight": lambda: aggregator.compute_losses(outputs, videos.observations, lamda_recon=2.0),
        "shape": lambda: aggregator.compute_losses(outputs, videos.observations[0]),
    }
    errors = {name: _said(act) for name, act in wrong.items()}
    for name, text in errors.items():
        tell(f"{name}: {text}")
    return {
        "losses": {name: value.item() for name, value in losses.items()},
        "task_losses": {name: value.item() for name, value in task_losses.items()},
        "without": list(fewer.names),
        "difference": max(gaps),
        "errors": errors,
    }


@torch.no_grad()
def judged(model: VideoModel, aggregator: LossAggregator, videos: Videos, step: int) -> dict[str, float]:
    """Every term on these videos."""
    with seeded(0):
        losses, _ = aggregator.compute_losses(model(videos.observations), videos.observations, step=step)
    return {name: value.item() for name, value in losses.items()}


def _mean_frame(train: Tensor, test: Tensor) -> float:
    """The Bernoulli loss of a frame for one that is always the mean of the training frames."""
    mean = train.flatten(0, 1).mean(0).clamp(1e-6, 1 - 1e-6)
    cost = functional.binary_cross_entropy(mean.expand_as(test), test, reduction="none")
    return float(cost.sum((2, 3, 4)).mean())


def _without(outputs: Mapping[str, list[Tensor]], key: str) -> dict[str, list[Tensor]]:
    return {name: value for name, value in outputs.items() if name != key}


def _spoilt(outputs: Mapping[str, list[Tensor]], key: str) -> dict[str, list[Tensor]]:
    return {**outputs, key: [value * float("nan") for value in outputs[key]]}


def _said(act: Callable[[], object]) -> str:
    """What the error says that this must raise."""
    try:
        act()
    except CrosstaskError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("what is wrong was accepted")
