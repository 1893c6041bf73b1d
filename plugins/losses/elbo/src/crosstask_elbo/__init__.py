"""The negative evidence lower bound of a video model with a mixture prior."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_elbo.elbo import Elbo

__all__ = ["Elbo"]

__getattr__ = lazily(__name__, {"Elbo": "elbo"})
