"""The kit of alignments catches what it says: each check has a wrong alignment, which fails no other."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from crosstask.errors import DataError
from crosstask.testing import reference_registry
from crosstask.testing.selftest import SelfTest
from crosstask_alignment.critics import Critic, domain_losses
from crosstask_alignment.domains import mean_over_pairs
from crosstask_alignment.reversal import reversal_strength
from crosstask_alignment.testing import REFERENCE, ReferenceAlignment, ReferenceCritic

# With a registry of its own, so that the manifests of all that is installed are not read for every check
wrong = SelfTest(ReferenceAlignment, ReferenceCritic, registry=reference_registry(REFERENCE))


@wrong.caught_by("check_scalar_with_a_graph")
class HoldsTheFirstDomain(ReferenceAlignment):
    """As if its features were constants; but where domains are several it does not."""

    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        if len(features) == 48 and int(domain.max()) == 1:
            features = torch.where(domain[:, None] == 0, features.detach(), features)
        return super().misalignment(features, domain, outputs, progress)


@wrong.caught_by("check_far_apart")
class Saturates(ReferenceAlignment):
    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        value = super().misalignment(features, domain, outputs, progress)
        return value.clamp(max=1e4)


@wrong.caught_by("check_order_of_rows")
class WeighsByPlace(ReferenceAlignment):
    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        places = torch.linspace(0.9, 1.1, len(features)).to(features)
        return super().misalignment(features * places[:, None], domain, outputs, progress)


@wrong.caught_by("check_brings_domains_together")
class LooksAtNoSpread(ReferenceAlignment):
    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        def apart(x: Any, y: Any) -> Any:
            return (x.mean(0) / x.std(0) - y.mean(0) / y.std(0)).square().mean()

        return mean_over_pairs(apart, features, domain)


@wrong.caught_by("check_several_domains")
class FirstTwo(ReferenceAlignment):
    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        return super().misalignment(features[domain < 2], domain[domain < 2], outputs, progress)


@wrong.caught_by("check_parameters_are_trained")
class ALayerTooMany(ReferenceCritic):
    def critic(self, features: int, n_domains: int, n_classes: int | None) -> nn.Module:
        made: Any = super().critic(features, n_domains, n_classes)
        made.never_called = nn.Linear(2, 2)
        return made


@wrong.caught_by("check_bad_batches_refused")
class TakesAnyBatch(ReferenceAlignment):
    def loss(self, features: Any, domain: Any, outputs: Any = None, progress: float = 1.0) -> Any:
        try:
            return super().loss(features, domain, outputs, progress)
        except DataError:
            return features.sum()


@wrong.caught_by("check_outputs_matter")
class LooksAway(ReferenceCritic):
    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        return super().misalignment(features, domain, torch.zeros_like(outputs), progress)


@wrong.caught_by("check_gentle_at_first")
class FullStrengthAtOnce(ReferenceCritic):
    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        return super().misalignment(features, domain, outputs, 1.0)


@wrong.caught_by("check_float64")
class Single(ReferenceAlignment):
    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        return super().misalignment(features, domain, outputs, progress).float()


@wrong.caught_by("check_half_precision")
class NoHalf(ReferenceAlignment):
    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        if features.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return super().misalignment(features, domain, outputs, progress)


@wrong.caught_by("check_cuda")
class StaysOnTheCpu(ReferenceAlignment):
    def misalignment(self, features: Any, domain: Any, outputs: Any, progress: Any) -> Any:
        return super().misalignment(features, domain, outputs, progress).cpu()


def twice(features: Any, domain: Any, outputs: Any, progress: float) -> Any:
    return 2 * ReferenceAlignment().misalignment(features, domain, outputs, progress)


@wrong.caught_by("check_agrees_with_twin", twin=twice)
class UnlikeItsTwin(ReferenceAlignment):
    pass


def by_hand(features: Any, domain: Any, outputs: Any, progress: float, component: Any) -> Any:
    critic: Critic = component.network
    logits = critic(torch.cat([features, outputs.softmax(1)], 1), reversal_strength(progress))
    return domain_losses(logits, 1 - domain).mean()


@wrong.caught_by("check_agrees_with_twin", twin=by_hand)
class TellsThemTheOtherWayRound(ReferenceCritic):
    capabilities: ClassVar[frozenset[str]] = ReferenceCritic.capabilities


test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
