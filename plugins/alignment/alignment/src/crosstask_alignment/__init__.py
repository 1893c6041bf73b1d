"""Domain alignment: features that do not tell which domain they come from."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "Align": "stage",
    "Alignment": "contract",
    "AlignmentResult": "records",
    "Critic": "critics",
    "Features": "training",
    "GradientReversalLayer": "reversal",
    "check_domains": "domains",
    "domain_accuracy": "probing",
    "domain_losses": "critics",
    "fit_aligned": "training",
    "mean_over_pairs": "domains",
    "mmd": "discrepancies",
    "reversal_strength": "reversal",
    "squared_distances": "discrepancies",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_alignment.contract import Alignment
    from crosstask_alignment.critics import Critic, domain_losses
    from crosstask_alignment.discrepancies import mmd, squared_distances
    from crosstask_alignment.domains import check_domains, mean_over_pairs
    from crosstask_alignment.probing import domain_accuracy
    from crosstask_alignment.records import AlignmentResult
    from crosstask_alignment.reversal import GradientReversalLayer, reversal_strength
    from crosstask_alignment.stage import Align
    from crosstask_alignment.training import Features, fit_aligned
