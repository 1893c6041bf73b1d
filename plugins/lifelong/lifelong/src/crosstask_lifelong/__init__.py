"""Tasks that arrive one by one: few sources are measured for each, and what is known grows."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_lifelong.records import Arrival, LifelongResult
    from crosstask_lifelong.stage import Lifelong

__all__ = ["Arrival", "Lifelong", "LifelongResult"]

__getattr__ = lazily(__name__, {"Arrival": "records", "Lifelong": "stage", "LifelongResult": "records"})
