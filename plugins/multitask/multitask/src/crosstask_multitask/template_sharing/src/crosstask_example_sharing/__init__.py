"""A shared trunk and a small network per task."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_sharing.example_sharing import ExampleSharing

__all__ = ["ExampleSharing"]

__getattr__ = lazily(__name__, {"ExampleSharing": "example_sharing"})
