"""A folder of JSON and safetensors files."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_example_store.example_store import ExampleStore

__all__ = ["ExampleStore"]

__getattr__ = lazily(__name__, {"ExampleStore": "example_store"})
