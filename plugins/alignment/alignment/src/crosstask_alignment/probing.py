"""How well domains can still be told apart by features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from crosstask.errors import DataError
from crosstask.learning.modules import seeded
from crosstask_alignment.critics import Critic
from crosstask_alignment.discrepancies import rows_of

HIDDEN, STEPS, RATE, DECAY = 64, 150, 1e-2, 1e-3


def domain_accuracy(features: Sequence[Tensor], generator: torch.Generator) -> float:
    """The accuracy with which a new critic tells the domains of features apart, one tensor [N, F] for each domain.

    It is trained on one half of the rows and judged on the other; each domain counts with as many rows, so that chance
    is 1 / len(features), and features that are aligned are at chance. Unlike a critic that was trained together with
    the features it was not fooled by them. DataError for fewer than two domains, fewer than four rows of one, other
    widths, or features that are not finite.
    """
    parts = [rows_of(f"of domain {number}", part).detach().cpu().float() for number, part in enumerate(features)]
    if len(parts) < 2:
        raise DataError(f"domain accuracy is of two domains or more, got {len(parts)}")
    if len({part.shape[1] for part in parts}) > 1:
        raise DataError(f"domain accuracy: domains have other numbers of features, {[part.shape[1] for part in parts]}")
    for number, part in enumerate(parts):
        if not bool(torch.isfinite(part).all()):
            raise DataError(f"domain accuracy: features of domain {number} are not finite")  # not: at chance
    count = min(map(len, parts))
    if count < 4:
        raise DataError(f"domain accuracy needs at least 4 rows of each domain, got {list(map(len, parts))}")
    drawn = [part[torch.randperm(len(part), generator=generator)[:count]] for part in parts]
    half, domains = count // 2, torch.arange(len(parts))
    learned = torch.cat([part[:half] for part in drawn])
    judged = torch.cat([part[half:] for part in drawn])
    mean, spread = learned.mean(0), learned.std(0).clamp_min(1e-6)
    learned, judged = (learned - mean) / spread, (judged - mean) / spread
    with seeded(int(torch.randint(2**31, (), generator=generator))), torch.enable_grad():
        critic = Critic(learned.shape[1], (HIDDEN,), len(parts)).float()
        optimizer = torch.optim.AdamW(critic.parameters(), lr=RATE, weight_decay=DECAY)
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(critic(learned), domains.repeat_interleave(half)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        right = critic(judged).argmax(1) == domains.repeat_interleave(count - half)
    return float(right.double().mean())
