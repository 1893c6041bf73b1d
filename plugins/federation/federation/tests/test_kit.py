"""The kit of federations catches what it says: each check has a wrong federation, which fails no other."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch

from crosstask.testing import reference_registry, run_checks
from crosstask.testing.selftest import SelfTest
from crosstask_federation import Gathered, Local, State
from crosstask_federation.testing import REFERENCE, ReferenceFederation, ReferencePersonal

# With a registry of its own, so that the manifests of all that is installed are not read for every check
wrong = SelfTest(ReferenceFederation, ReferencePersonal, registry=reference_registry(REFERENCE))


@wrong.caught_by("check_only_what_it_says_leaves")
class SaysMore(ReferenceFederation):
    shares: ClassVar[tuple[str, ...]] = ("weights", "buffers", "gradients")


def also(answer: Local, more: Any) -> Local:
    return attrs.evolve(answer, shared=answer.shared | {"buffers/more": more})


class TakesMore(ReferenceFederation):
    """The server takes no notice of what is sent beside the weights."""

    def merge(self, state: Any, gathered: Any) -> State:
        total = {name: gathered.total[name] for name in state.shared}
        return super().merge(state, Gathered(gathered.sites, gathered.weights, total))


@wrong.caught_by("check_answer_does_not_grow_with_the_data")
class SendsOrder(TakesMore):
    def local(self, site: Any, sent: Any) -> Local:
        count = 12 if len(site.task.data("train")) < 36 else 24  # the kit's sites for other checks are smaller
        return also(super().local(site, sent), torch.full((count,), 0.5).to(torch.get_default_dtype()))


@wrong.caught_by("check_no_sample_leaves")
class SendsASample(TakesMore):
    def local(self, site: Any, sent: Any) -> Local:
        return also(super().local(site, sent), site.task.data("train").inputs[0].to(torch.get_default_dtype()))


@wrong.caught_by("check_local_keeps_nothing")
class Remembers(ReferenceFederation):
    def local(self, site: Any, sent: Any) -> Local:
        before = vars(self).get("_before")
        found = super().local(site, sent)
        vars(self)["_before"] = None if before is not None else 1
        return found if before is None else attrs.evolve(found, shared={n: 0.9 * t for n, t in found.shared.items()})


@wrong.caught_by("check_order_of_sites")
class LastAddsNoise(ReferenceFederation):
    def merge(self, state: Any, gathered: Any) -> State:
        made = super().merge(state, gathered)
        return State({n: t + 0.01 * float(gathered.weights[-1]) for n, t in made.shared.items()})


@wrong.caught_by("check_learns")
class NeverMoves(ReferenceFederation):
    def merge(self, state: Any, gathered: Any) -> State:
        return state


@wrong.caught_by("check_double")
class SinglePrecision(ReferenceFederation):
    def merge(self, state: Any, gathered: Any) -> State:
        return State({n: t.float() for n, t in super().merge(state, gathered).shared.items()})

    def local(self, site: Any, sent: Any) -> Local:
        found = super().local(site, sent)
        return attrs.evolve(found, shared={n: t.float() for n, t in found.shared.items()})


@wrong.caught_by("check_what_stays_is_not_sent")
class ForgetsItsHead(ReferencePersonal):
    def local(self, site: Any, sent: Any) -> Local:
        return attrs.evolve(super().local(site, sent), kept={})


@wrong.caught_by("check_data_are_looked_at_only_if_it_says_so")
class ShiftsByTheData(ReferenceFederation):
    def model_for(self, site: Any, sent: Any) -> Any:
        model = super().model_for(site, sent)
        with torch.no_grad():
            if site.task.has_data("train"):  # a round judges such a site without them
                next(model.parameters()).add_(1e-3 * site.task.data("train").inputs.mean())
        return model


@wrong.caught_by("check_personal")
class OnlySaysPersonal(ReferencePersonal):
    def model_for(self, site: Any, sent: Any) -> Any:
        return site.received(sent)


@wrong.caught_by("check_cuda")
class StaysOnTheGpu(ReferenceFederation):
    def merge(self, state: Any, gathered: Any) -> State:
        made = super().merge(state, gathered)
        return State({n: t.to(self.context.device) for n, t in made.shared.items()})


def mean(state: State, answers: list[Any], weights: list[float]) -> dict[str, Any]:
    return {n: sum(w * each[n] for w, each in zip(weights, answers, strict=True)) for n in state.shared}


def first(state: State, answers: list[Any], weights: list[float]) -> dict[str, Any]:
    return dict(answers[0])


@wrong.caught_by("check_agrees_with_twin", twin=first)
class UnlikeItsTwin(ReferenceFederation):
    pass


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()


def test_a_twin_that_agrees() -> None:
    found = run_checks(ReferenceFederation, twin=mean, registry=reference_registry(REFERENCE))
    assert [o.status for o in found if o.name == "check_agrees_with_twin"] == ["passed"]
