"""Transfer from several sources at once."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "BestOf": "best_of",
    "Candidate": "records",
    "Concat": "methods",
    "ConcatJoint": "methods",
    "Ensemble": "methods",
    "Joint": "methods",
    "MultiSource": "methods",
    "MultiSourceResult": "records",
    "SideBySide": "networks",
    "Soup": "methods",
    "train_jointly": "joint",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_multi_source.best_of import BestOf
    from crosstask_multi_source.joint import train_jointly
    from crosstask_multi_source.methods import Concat, ConcatJoint, Ensemble, Joint, MultiSource, Soup
    from crosstask_multi_source.networks import SideBySide
    from crosstask_multi_source.records import Candidate, MultiSourceResult
