"""MAML and its relatives."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_maml.anil import ANIL
    from crosstask_maml.maml import MAML
    from crosstask_maml.maml_first_order import MAMLFirstOrder
    from crosstask_maml.meta_sgd import MetaSGD

__all__ = ["ANIL", "MAML", "MAMLFirstOrder", "MetaSGD"]

__getattr__ = lazily(
    __name__, {"MAML": "maml", "MAMLFirstOrder": "maml_first_order", "ANIL": "anil", "MetaSGD": "meta_sgd"}
)
