"""`DomainAdversarialNetwork`: features, heads of tasks and a critic of the domains in one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from crosstask.errors import DataError, nearest, of_kind
from crosstask.learning.objectives import cross_entropy, mse
from crosstask.options import structure
from crosstask_alignment.critics import Critic, domain_losses
from crosstask_alignment.domains import check_domains
from crosstask_alignment.reversal import reversal_strength
from crosstask_dann.norm import DomainNorm

_TYPES = ("classification", "regression")
_Both = tuple[Tensor, Tensor]
_KEYS = ("output_dim", "task_type", "hidden_dims")


class DomainAdversarialNetwork(nn.Module):
    """A network for tasks on rows [B, feature_dim] whose features do not tell the domains apart (Ganin et al. 2016).

    The extractor is Linear, ReLU, Dropout, normalisation for each of `hidden_dims`, the last of which is the width d of
    the features; the heads of tasks and of domains are Linear(d, d // 2), ReLU, Dropout, Linear (half of it at least
    1). All heads give logits. The normalisation keeps the statistics of each domain by itself (`DomainNorm`).

    `task_configs`: task -> {"output_dim": 1, "task_type": "regression" or "classification", "hidden_dims": [d // 2]};
    a classification with one output is of two classes.
    """

    def __init__(
        self,
        feature_dim: int,
        hidden_dims: Sequence[int],
        n_domains: int,
        task_configs: Mapping[str, Mapping[str, Any]],
        lambda_domain: float = 1.0,
        dropout_rate: float = 0.2,
    ) -> None:
        super().__init__()
        widths = structure(hidden_dims, tuple[int, ...], "hidden_dims")
        for name, value, least in (
            ("feature_dim", feature_dim, 1),
            *(("hidden_dims", width, 1) for width in widths),
            ("n_domains", n_domains, 2),
            ("lambda_domain", lambda_domain, 0),
        ):
            kind = float if name == "lambda_domain" else int
            if not structure(value, kind, name) >= least:
                raise DataError(f"DomainAdversarialNetwork: {name} must be at least {least}, got {value}")
        if not 0 <= structure(dropout_rate, float, "dropout_rate") < 1:
            raise DataError(f"DomainAdversarialNetwork: dropout_rate must be from 0 to below 1, got {dropout_rate}")
        if not widths:
            raise DataError("DomainAdversarialNetwork: hidden_dims must name at least one width, that of the features")
        of_kind(task_configs, Mapping, "task_configs")  # type: ignore[type-abstract]
        self.feature_dim, self.n_domains = feature_dim, n_domains
        self.lambda_domain, self.dropout_rate = float(lambda_domain), dropout_rate
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        before = feature_dim
        for width in widths:
            self.layers.append(nn.Sequential(nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout_rate)))
            self.norms.append(DomainNorm(width, n_domains))
            before = width
        self._configs: dict[str, dict[str, Any]] = {}
        self.heads = nn.ModuleList()
        for task_name, config in task_configs.items():
            self._configs[task_name] = made = _config(task_name, config, max(1, before // 2))
            self.heads.append(Critic(before, made["hidden_dims"], made["output_dim"], dropout_rate).layers)
        self.critic = Critic(before, (max(1, before // 2),), n_domains, dropout_rate)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return list(self._configs)

    def features(self, x: Tensor, domain: Tensor | None = None) -> Tensor:
        """The features [B, d] of rows [B, feature_dim], normalised by domain where it is said."""
        of_kind(x, Tensor, "x")
        if x.ndim != 2 or x.shape[1] != self.feature_dim:
            raise DataError(f"x must be rows [B, {self.feature_dim}], got shape {tuple(x.shape)}")
        if domain is not None:
            domain = self._domains(domain, len(x))
        x = x.to(self.norms[0].weight.dtype)  # type: ignore[arg-type]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x), domain)
        return x

    @overload
    def forward(
        self, x: Tensor, task_name: str, alpha: float = 1.0, domain: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self, x: Tensor, task_name: None = None, alpha: float = 1.0, domain: Tensor | None = None
    ) -> Tensor: ...

    def forward(
        self, x: Tensor, task_name: str | None = None, alpha: float = 1.0, domain: Tensor | None = None
    ) -> _Both | Tensor:
        """Logits of the task [B, out] and of the domain [B, n_domains]; without a task name those of the domain alone,
        for rows that have no labels. `alpha` is how strongly the domain's gradient comes back reversed; `domain` [B]
        says where rows come from, for the normalisation.
        """
        if task_name is not None:
            self._head(task_name)
        found = self.features(x, domain)
        told: Tensor = self.critic(found, alpha)
        return told if task_name is None else (self._head(task_name)(found), told)

    def losses(
        self, x: Tensor, y: Mapping[str, Tensor] | Tensor | None, domain: Tensor, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """The loss of each task on its labelled rows, by its name, and `domain`: `lambda_domain` times the cross
        entropy of the domains of all rows. Their sum is what is minimised; they can go into a balancer as they are.

        `y`: task -> labels [B]; a row without a label has a negative one, or NaN for a regression [B] or [B, out].
        A tensor is of the only task; None is a batch without labels. `progress`, the part of the training that is done,
        sets the strength of the reversed gradient, 2 / (1 + exp(-10 p)) - 1. DataError for an unknown task, one without
        any label in the batch, other rows, or a domain that is absent.
        """
        if isinstance(y, Tensor):
            if len(self._configs) != 1:
                raise DataError(f"y must be labels by task ({', '.join(self.tasks)}), got a tensor")
            y = {self.tasks[0]: y}
        for task_name in y or {}:
            self._head(task_name)
        checked = check_domains(domain, len(x), self.n_domains, type(self).__name__).to(x.device)
        found = self.features(x, checked)
        made = {name: self._loss(name, found, labels) for name, labels in (y or {}).items()}
        told = self.critic(found, reversal_strength(progress))
        return {**made, "domain": self.lambda_domain * domain_losses(told, checked).mean()}

    def _loss(self, name: str, features: Tensor, labels: Tensor) -> Tensor:
        config = self._configs[name]
        of_kind(labels, Tensor, f"task {name!r}: labels")
        if len(labels) != len(features):
            raise DataError(f"task {name!r}: {len(labels)} labels for {len(features)} rows")
        labels = labels.to(features.device)
        classes = config["task_type"] == "classification"
        if classes:
            if labels.ndim != 1 or labels.is_floating_point():
                raise DataError(
                    f"task {name!r}: labels must be whole numbers [B], got {labels.dtype} {tuple(labels.shape)}"
                )
            known, highest = labels >= 0, max(2, config["output_dim"]) - 1
            if len(labels) and int(labels.max()) > highest:
                raise DataError(f"task {name!r}: label {int(labels.max())}, its classes are 0 to {highest}")
        else:
            labels = labels.reshape(len(labels), -1)
            if labels.shape[1] != config["output_dim"]:
                raise DataError(f"task {name!r}: {labels.shape[1]} values for {config['output_dim']} outputs")
            known = ~torch.isnan(labels).any(dim=1)
        if not bool(known.any()):
            raise DataError(f"task {name!r} has no label in this batch: leave it out of y")
        outputs = self._head(name)(features[known])
        return cross_entropy(outputs, labels[known].long()) if classes else mse(outputs, labels[known])

    def _head(self, task_name: str) -> nn.Module:
        if task_name not in self._configs:
            raise DataError(f"no task {task_name!r}{nearest(task_name, self.tasks)}")
        return self.heads[self.tasks.index(task_name)]

    def _domains(self, domain: Tensor, rows: int) -> Tensor:
        """Numbers of domains for the normalisation: any of them may be absent."""
        made = of_kind(domain, Tensor, "domain").long()
        if made.shape != (rows,) or (rows and not 0 <= int(made.min()) <= int(made.max()) < self.n_domains):
            raise DataError(
                f"domain must be a number from 0 to {self.n_domains - 1} for each of {rows} rows, got "
                f"{made.tolist() if made.numel() < 9 else tuple(made.shape)}"
            )
        return made


def _config(task_name: str, config: Mapping[str, Any], half: int) -> dict[str, Any]:
    where = f"task {task_name!r}"
    of_kind(config, Mapping, where)  # type: ignore[type-abstract]
    if task_name == "domain":
        raise DataError("a task cannot be called 'domain': that is the name of the domains' own loss")
    for key in config:
        if key not in _KEYS:
            raise DataError(f"{where} has no setting {key!r}{nearest(key, _KEYS)}")
    made = {
        "output_dim": structure(config.get("output_dim", 1), int, f"{where}: output_dim"),
        "task_type": config.get("task_type", "regression"),
        "hidden_dims": structure(config.get("hidden_dims", (half,)), tuple[int, ...], f"{where}: hidden_dims"),
    }
    if made["task_type"] not in _TYPES:
        raise DataError(f"{where}: task_type cannot be {made['task_type']!r}{nearest(made['task_type'], _TYPES)}")
    if min((made["output_dim"], *made["hidden_dims"])) < 1:
        raise DataError(f"{where}: output_dim and hidden_dims must be at least 1, got {dict(config)}")
    return made
