"""Every check of the contract, and the papers' forms computed anew each time as twins."""

import functools

import numpy as np

from crosstask.testing import conformance, reference_registry
from crosstask_linucb import DiscountedLinUCB, LinUCB
from crosstask_routing.testing import REFERENCE, ReferenceRouter

REGISTRY = reference_registry(REFERENCE)


def naive(contexts: np.ndarray, rewards: np.ndarray, tools: tuple[str, ...], **options: float) -> list[str]:
    made, found = ReferenceRouter(**options), []
    for context, row in zip(contexts, rewards, strict=True):
        found.append(made.choose(context, tools).tool)
        made.update(context, found[-1], float(row[tools.index(found[-1])]))
    return found


test_linucb = conformance(LinUCB, registry=REGISTRY, twin=naive)
test_discounted = conformance(
    DiscountedLinUCB, options={"gamma": 0.99}, registry=REGISTRY, twin=functools.partial(naive, gamma=0.99, alpha=0.8)
)
