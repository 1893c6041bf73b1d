"""Models for unseen tasks: who owns which output, what to expect, the synthesis stage."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_synthesis.batchnorm import has_statistics, is_statistic, reestimate
    from crosstask_synthesis.expectation import expected_score
    from crosstask_synthesis.judging import judged
    from crosstask_synthesis.known import known_samples
    from crosstask_synthesis.owners import ByOutputs, Owners, lacks_outputs, owners_of, unfit
    from crosstask_synthesis.records import SynthesisResult
    from crosstask_synthesis.stage import Synthesis

__all__ = [
    "ByOutputs",
    "Owners",
    "Synthesis",
    "SynthesisResult",
    "expected_score",
    "has_statistics",
    "is_statistic",
    "judged",
    "known_samples",
    "lacks_outputs",
    "owners_of",
    "reestimate",
    "unfit",
]

__getattr__ = lazily(
    __name__,
    {
        "Owners": "owners",
        "Synthesis": "stage",
        "SynthesisResult": "records",
        "expected_score": "expectation",
        "has_statistics": "batchnorm",
        "is_statistic": "batchnorm",
        "judged": "judging",
        "known_samples": "known",
        "lacks_outputs": "owners",
        "ByOutputs": "owners",
        "owners_of": "owners",
        "reestimate": "batchnorm",
        "unfit": "owners",
    },
)
