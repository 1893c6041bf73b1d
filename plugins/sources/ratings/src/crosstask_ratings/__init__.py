"""Tables of ratings: read, checked, split, and as tasks."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_ratings.loading import load_ratings
    from crosstask_ratings.ratings import Ratings

__all__ = ["Ratings", "load_ratings"]

__getattr__ = lazily(__name__, {"load_ratings": "loading", "Ratings": "ratings"})
