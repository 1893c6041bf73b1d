"""What a bundle is refused with."""

from __future__ import annotations

from crosstask.errors import CrosstaskError


class BundleError(CrosstaskError, ValueError):
    """A bundle cannot be made, or is not what it says it is."""
