"""Networks that carry what is known of users from one domain to another."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_cross_domain.attention import MultiDomainAttentionNetwork
    from crosstask_cross_domain.transfer import CrossDomainTransferNetwork

_PUBLIC = {"CrossDomainTransferNetwork": "transfer", "MultiDomainAttentionNetwork": "attention"}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)
