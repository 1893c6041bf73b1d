"""One model from several: soups, task vectors, RegMean, and merging of files without loading them whole."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_merging.dare import DARE
    from crosstask_merging.evolutionary import Evolutionary
    from crosstask_merging.files import merge, merge_modules
    from crosstask_merging.fisher_merge import FisherMerge
    from crosstask_merging.grams import grams_of
    from crosstask_merging.greedy_soup import GreedySoup
    from crosstask_merging.lora import merge_lora
    from crosstask_merging.merger import Merger
    from crosstask_merging.regmean import RegMean
    from crosstask_merging.slerp import Slerp
    from crosstask_merging.task_arithmetic import TaskArithmetic
    from crosstask_merging.ties import TIES
    from crosstask_merging.uniform_soup import UniformSoup

__all__ = [
    "DARE",
    "TIES",
    "Evolutionary",
    "FisherMerge",
    "GreedySoup",
    "Merger",
    "RegMean",
    "Slerp",
    "TaskArithmetic",
    "UniformSoup",
    "grams_of",
    "merge",
    "merge_lora",
    "merge_modules",
]

__getattr__ = lazily(
    __name__,
    {
        "DARE": "dare",
        "TIES": "ties",
        "Evolutionary": "evolutionary",
        "FisherMerge": "fisher_merge",
        "GreedySoup": "greedy_soup",
        "Merger": "merger",
        "RegMean": "regmean",
        "Slerp": "slerp",
        "TaskArithmetic": "task_arithmetic",
        "UniformSoup": "uniform_soup",
        "grams_of": "grams",
        "merge": "files",
        "merge_lora": "lora",
        "merge_modules": "files",
    },
)
