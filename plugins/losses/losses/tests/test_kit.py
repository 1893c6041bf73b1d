"""The kit of objectives proves itself: for each of its checks a wrong objective that fails it, and no other."""

from typing import ClassVar

from torch import Tensor

from crosstask.options import component
from crosstask.testing import reference_registry
from crosstask.testing.selftest import SelfTest
from crosstask_losses.given import Given, Output
from crosstask_losses.testing import REFERENCE, ReferenceApart, ReferenceObjective

wrong = SelfTest(ReferenceObjective, ReferenceApart, registry=reference_registry(REFERENCE))


@wrong.caught_by("check_terms_are_scalars")
class Vectors(ReferenceObjective):
    def term(self, name: str, given: Given) -> Tensor:
        value = super().term(name, given)
        return value[None] if name == "error" else value


@wrong.caught_by("check_terms_train")
class Detached(ReferenceObjective):
    def term(self, name: str, given: Given) -> Tensor:
        value = super().term(name, given)
        return value.detach() if name == "size" else value


@component
class Misnamed(ReferenceObjective):
    """A weight that is no option."""

    weighting: ClassVar[dict[str, str]] = {"error": "error_weight", "size": "-sise_weight"}


wrong.add("check_weights_are_options", Misnamed)


@wrong.caught_by("check_reads_what_it_declares")
class Unread(ReferenceObjective):
    reads: ClassVar[dict[str, Output]] = {**ReferenceObjective.reads, "more": Output("B Z", "nobody reads it")}


@wrong.caught_by("check_terms_read_their_own")
class Prying(ReferenceObjective):
    def term(self, name: str, given: Given) -> Tensor:
        return super().term(name, given) + 0.0 * given.steps("state").sum()


@wrong.caught_by("check_mean_over_the_batch")
class Sums(ReferenceObjective):
    def term(self, name: str, given: Given) -> Tensor:
        return super().term(name, given) * given.frames.shape[1]


@wrong.caught_by("check_order_of_the_batch")
class FirstOnly(ReferenceObjective):
    def term(self, name: str, given: Given) -> Tensor:
        state = given.steps("state") if name == "size" else None
        return super().term(name, given) if state is None else state[:, 0].square().mean()


@wrong.caught_by("check_double_precision")
class Single(ReferenceObjective):
    def term(self, name: str, given: Given) -> Tensor:
        return super().term(name, given).float()


@wrong.caught_by("check_apart_trains_its_own")
class Leaking(ReferenceApart):
    """The fakes keep their graph: the judge's loss would train the model."""

    def _judge_loss(self, made: Tensor, frames: Tensor, judge: Tensor) -> Tensor:
        return (made @ judge).square().mean() + (frames @ judge - 1).square().mean()


def _off(name: str, given: Given) -> Tensor:
    return ReferenceObjective().term(name, given) * 1.01


wrong.add("check_agrees_with_twin", ReferenceObjective, twin=_off)

test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
