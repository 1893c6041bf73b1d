"""Architecture search."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_nas.bayesian import Bayesian
    from crosstask_nas.benchmark import benchmark_nas_algorithms
    from crosstask_nas.darts import Darts
    from crosstask_nas.evolutionary import Evolutionary
    from crosstask_nas.nas import NeuralArchitectureSearch
    from crosstask_nas.networks import ArchitectureSpace, create_nas_search_space, network
    from crosstask_nas.proxies import PROXIES, rank_by_proxy
    from crosstask_nas.random_search import RandomSearch

_PUBLIC = {
    "ArchitectureSpace": "networks",
    "Bayesian": "bayesian",
    "Darts": "darts",
    "Evolutionary": "evolutionary",
    "NeuralArchitectureSearch": "nas",
    "PROXIES": "proxies",
    "RandomSearch": "random_search",
    "benchmark_nas_algorithms": "benchmark",
    "create_nas_search_space": "networks",
    "network": "networks",
    "rank_by_proxy": "proxies",
}

__all__ = [*_PUBLIC]

__getattr__ = lazily(__name__, _PUBLIC)
