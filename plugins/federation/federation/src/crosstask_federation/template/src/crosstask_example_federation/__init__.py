"""Sites send which way each weight went, and vote."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_federation.example_federation import ExampleFederation

__all__ = ["ExampleFederation"]

__getattr__ = lazily(__name__, {"ExampleFederation": "example_federation"})
