"""Which of very many sources could help a task."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_hub.hub import Hub
    from crosstask_hub.index import Found, HubIndex
    from crosstask_hub.kept import keep_edges, kept_edges
    from crosstask_hub.vectors import Card, Weights

__all__ = ["Card", "Found", "Hub", "HubIndex", "Weights", "keep_edges", "kept_edges"]

__getattr__ = lazily(
    __name__,
    {
        "Card": "vectors",
        "Found": "index",
        "Hub": "hub",
        "HubIndex": "index",
        "Weights": "vectors",
        "keep_edges": "kept",
        "kept_edges": "kept",
    },
)
