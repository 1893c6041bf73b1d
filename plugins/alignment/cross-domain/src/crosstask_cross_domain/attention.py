"""What a user is in one domain, looked up in what the same user is in others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, OptionError, of_kind
from crosstask.learning.objectives import mse
from crosstask_cross_domain.checks import key, known, layers, rate_of, size_of, widths_of


class MultiDomainAttentionNetwork(nn.Module):
    """Attention of a query domain over all domains, itself among them (Vaswani et al. 2017, section 3.2).

        net = MultiDomainAttentionNetwork({"novels": 12, "romance": 8})
        outputs = net("romance", {"novels": x_novels, "romance": x_romance}, mask)
        net.losses(outputs, ratings)["rating"].backward()

    Row i of every domain's features [B, F_d] is the same user. `mask` [B, n_domains], with columns in the order of
    `domains`, says where a user is known: elsewhere the weight is 0 exactly, whatever the features are. What the query
    itself says is added to what it looks up, so that a user who is known nowhere else loses nothing; one who is not
    known in the query domain either is predicted from nothing, alike for all.
    """

    def __init__(
        self,
        domain_features: Mapping[str, int],
        embedding_dim: int = 64,
        attention_dim: int = 32,
        hidden_dims: Sequence[int] = (128, 64),
        dropout_rate: float = 0.2,
    ) -> None:
        super().__init__()
        if not isinstance(domain_features, Mapping) or not domain_features:
            raise OptionError(
                f"domain_features must give the number of features of each domain by its name, got {domain_features!r}"
            )
        width, dropout = size_of("embedding_dim", embedding_dim), rate_of(dropout_rate)
        hidden = widths_of("hidden_dims", hidden_dims)
        self.domain_features = {n: size_of(f"the features of domain {n!r}", f) for n, f in domain_features.items()}
        self.domains = tuple(self.domain_features)
        """Their names, in the order of the columns of masks and weights."""
        inner = size_of("attention_dim", attention_dim)
        self.encoders = nn.ModuleDict({key(n): layers(f, [width], dropout) for n, f in self.domain_features.items()})
        self.query, self.key = nn.Linear(width, inner), nn.Linear(width, inner)
        self.value = nn.Linear(width, width)
        self.trunk = layers(width, hidden, dropout)
        self.heads = nn.ModuleDict({key(name): nn.Linear(hidden[-1], 1) for name in self.domains})

    def compute_cross_domain_attention(
        self, query_domain: str, domain_features: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the query finds, added to it, [B, embedding_dim], and the weights [B, n_domains]: they sum to 1 over the
        domains in which a user is known.

        DataError if a domain is absent (unless the mask says that it is known of nobody; the query never may be), or
        domains have other rows or numbers of features.
        """
        name = known(query_domain, self.domains, "query_domain")
        rows, present = self._checked(name, domain_features, mask)
        encoded = []
        for place, domain in enumerate(self.domains):
            if domain not in domain_features:
                encoded.append(self.value.weight.new_zeros(rows, self.value.in_features))
                continue
            there = present[:, place, None]
            # Whatever stands for what is not known, NaN too, must reach neither the answer nor a gradient.
            features = domain_features[domain].to(self.value.weight).where(there, 0.0)
            encoded.append(self.encoders[key(domain)](features).where(there, 0.0))
        stacked = torch.stack(encoded, dim=1)
        own = stacked[:, self.domains.index(name)]
        scores = (self.key(stacked) @ self.query(own)[:, :, None])[:, :, 0] / math.sqrt(self.query.out_features)
        hidden = scores.masked_fill(~present, torch.finfo(scores.dtype).min)
        weights = hidden.softmax(dim=1) * present  # a row that is known nowhere has no weight at all
        return own + (weights[:, None] @ self.value(stacked))[:, 0], weights

    def forward(
        self, query_domain: str, domain_features: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`predictions` [B, 1] in the query domain, `attention_weights` [B, n_domains] (columns in the order of
        `domains`) and `shared_representation` [B, hidden_dims[-1]].
        """
        attended, weights = self.compute_cross_domain_attention(query_domain, domain_features, mask)
        shared = self.trunk(attended)
        predictions = self.heads[key(query_domain)](shared)
        return {"predictions": predictions, "attention_weights": weights, "shared_representation": shared}

    def losses(self, outputs: Mapping[str, Tensor], ratings: Tensor, name: str = "rating") -> dict[str, Tensor]:
        """The mean squared error of ratings [B] (NaN: not known), under a name of your choice: several query domains
        give a balancer one each. DataError where none is known.
        """
        predicted = outputs["predictions"]
        of_kind(ratings, Tensor, "ratings")
        if ratings.numel() != len(predicted):
            raise DataError(f"{ratings.numel()} ratings for {len(predicted)} predictions")
        if bool(torch.isnan(ratings).all()):
            raise DataError(f"no {name} is known in this batch: leave it out")
        return {name: mse(predicted, ratings)}

    def _checked(self, query: str, given: Mapping[str, Tensor], mask: Tensor | None) -> tuple[int, Tensor]:
        """The number of rows, and which are known in which domain, bool [B, n_domains]."""
        of_kind(given, Mapping, "domain_features")  # type: ignore[type-abstract]
        for domain, features in given.items():
            known(domain, self.domains, "domain_features")
            of_kind(features, Tensor, f"the features of domain {domain!r}")
            width = self.domain_features[domain]
            if features.ndim != 2 or features.shape[1] != width:
                raise DataError(f"domain {domain!r}: features must be [B, {width}], got {tuple(features.shape)}")
        if query not in given:
            raise DataError(f"the query domain {query!r} is absent: features are of {', '.join(given) or 'none'}")
        rows = len(given[query])
        if any(len(features) != rows for features in given.values()):
            told = ", ".join(f"{domain} {len(features)}" for domain, features in given.items())
            raise DataError(
                f"domains have other numbers of rows ({told}): row i is the same user in all; the mask says who is "
                "not known in which"
            )
        device = self.value.weight.device
        if mask is None:
            present = torch.ones(rows, len(self.domains), dtype=torch.bool, device=device)
        else:
            of_kind(mask, Tensor, "mask")
            if mask.shape != (rows, len(self.domains)):
                told = f"[{rows}, {len(self.domains)}] (columns {', '.join(self.domains)})"
                raise DataError(f"mask must be {told}, got {tuple(mask.shape)}")
            present = mask.to(device).bool()
        for place, domain in enumerate(self.domains):
            if domain not in given and bool(present[:, place].any()):
                raise DataError(
                    f"domain {domain!r} is absent: give its features, or a mask whose column {place} is False"
                )
        return rows, present
