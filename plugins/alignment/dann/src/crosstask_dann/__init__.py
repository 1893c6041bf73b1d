"""A critic of the domains, its gradient reversed."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {"DANN": "dann", "DomainAdversarialNetwork": "network", "DomainNorm": "norm"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_dann.dann import DANN
    from crosstask_dann.network import DomainAdversarialNetwork
    from crosstask_dann.norm import DomainNorm
