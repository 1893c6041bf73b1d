"""A controller that picks which of several tasks' controllers acts."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"Hierarchical": "agent", "HierarchicalMultiTaskRL": "network", "semi_markov_advantages": "returns"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_hierarchical.agent import Hierarchical
    from crosstask_hierarchical.network import HierarchicalMultiTaskRL
    from crosstask_hierarchical.returns import semi_markov_advantages
