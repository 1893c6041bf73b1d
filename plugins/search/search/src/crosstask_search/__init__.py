"""Search: architectures and hyper-parameters, spaces and their driver."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "ModelSpace": "models",
    "NetworkSearch": "stage",
    "Parameter": "parameter",
    "Point": "space",
    "Search": "contract",
    "SearchResult": "records",
    "SearchSpace": "space",
    "Trial": "records",
    "WarmStart": "records",
    "run_model_search": "networks",
    "run_search": "driver",
    "space_of": "space",
    "warm_starts_for": "warm_starts",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_search.contract import Search
    from crosstask_search.driver import run_search
    from crosstask_search.models import ModelSpace
    from crosstask_search.networks import run_model_search
    from crosstask_search.parameter import Parameter
    from crosstask_search.records import SearchResult, Trial, WarmStart
    from crosstask_search.space import Point, SearchSpace, space_of
    from crosstask_search.stage import NetworkSearch
    from crosstask_search.warm_starts import warm_starts_for
