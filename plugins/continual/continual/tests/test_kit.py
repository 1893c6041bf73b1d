"""The kit of continual strategies catches what it says: each check has a wrong strategy, which fails no other."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import nn

from crosstask.options import component, option
from crosstask.testing.selftest import SelfTest
from crosstask_continual.testing import ReferenceContinual

wrong = SelfTest(ReferenceContinual)


@wrong.caught_by("check_learns_what_comes")
class LearnsOnce(ReferenceContinual):
    def after_backward(self, model: Any) -> None:
        for weight in model.parameters():
            if self.last and weight.grad is not None:
                weight.grad.zero_()


@wrong.caught_by("check_has_an_effect", options={"strength": 0.0})
class PenaltyOfZero(ReferenceContinual):
    pass


@wrong.caught_by("check_says_why_not")
class SaysNothing(ReferenceContinual):
    unsuited: ClassVar[dict[str, str]] = {}


@wrong.caught_by("check_modes_restored")
class LeavesEvaluation(ReferenceContinual):
    def task_ends(self, model: Any, task: Any) -> None:
        super().task_ends(model, task)
        model.eval()


@wrong.caught_by("check_model_left_usable")
class HeadCutAtTheEnd(ReferenceContinual):
    def task_ends(self, model: Any, task: Any) -> None:
        super().task_ends(model, task)
        if model.current == 2:
            model.network.register_forward_hook(lambda module, given, out: out * math.nan if len(out) == 64 else out)


@wrong.caught_by("check_works_beside_others")
class OnlyItsOwnBatch(ReferenceContinual):
    def penalty(self, model: Any, batch: Any, outputs: Any) -> Any:
        if batch.replayed:
            raise RuntimeError("who are you?")
        return super().penalty(model, batch, outputs)


@wrong.caught_by("check_heads_may_grow")
class SameShapesOnly(ReferenceContinual):
    def penalty(self, model: Any, batch: Any, outputs: Any) -> Any:
        for name, weight in model.named_parameters():
            if name in self.last:
                weight.detach() - self.last[name]
        return super().penalty(model, batch, outputs)


@wrong.caught_by("check_goes_on_from_a_state")
class ForgetsWhatItAdded(ReferenceContinual):
    def task_begins(self, model: Any, task: Any) -> None:
        if not hasattr(model.network, "extra"):
            model.network.register_parameter("extra", nn.Parameter(torch.ones(1)))

    def penalty(self, model: Any, batch: Any, outputs: Any) -> Any:
        return super().penalty(model, batch, outputs) + model.network.extra.square().sum()


@wrong.caught_by("check_taken_state_stays")
class ChangesInPlace(ReferenceContinual):
    def task_ends(self, model: Any, task: Any) -> None:
        kept = self.last
        super().task_ends(model, task)
        for name, weight in self.last.items():
            if name in kept and kept[name].shape == weight.shape:  # a head may have grown
                kept[name].copy_(weight)


@wrong.caught_by("check_float64")
class SingleContinual(ReferenceContinual):
    def task_ends(self, model: Any, task: Any) -> None:
        super().task_ends(model, task)
        if model.current == 2:
            model.float()


@wrong.caught_by("check_frozen_weights_stay")
class MovesTheFrozen(ReferenceContinual):
    def task_ends(self, model: Any, task: Any) -> None:
        super().task_ends(model, task)
        with torch.no_grad():
            for weight in model.parameters():
                if not weight.requires_grad:
                    weight.mul_(0.99)


@wrong.caught_by("check_cuda")
class LeavesTheGpu(ReferenceContinual):
    def task_ends(self, model: Any, task: Any) -> None:
        super().task_ends(model, task)
        if model.current == 2:
            model.cpu()


@component
class Stronger(ReferenceContinual):
    """The reference, three times as strong."""

    strength: float = option(0.3, ge=0, help="of the pull")


@wrong.caught_by("check_agrees_with_twin", twin=Stronger)
class UnlikeItsTwin(ReferenceContinual):
    pass


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
