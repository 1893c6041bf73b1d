"""Alignment: a loss that is small where the features of several domains cannot be told apart."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from crosstask.components import Component, hook
from crosstask.errors import DataError, PluginError, of_kind
from crosstask.learning.modules import seeded
from crosstask.options import structure
from crosstask_alignment.domains import check_domains, progress_of


class Alignment(Component):
    """A term for any model's features, in any loop, beside any other losses: `loss` is what users call.

    Write `misalignment`. One that has weights of its own (a critic of the domains) writes `critic`, too, and finds it
    in `self.network`: users then call `prepare` with the sizes and give `parameters()` to their optimiser. A term that
    is lower for features that are *easier* to tell apart, as the loss of a critic is, reverses the gradient of the
    features (`GradientReversalLayer`), so that all of it is minimised by one optimiser.

        dann = DANN().prepare(features=64, n_domains=2)
        optimizer = torch.optim.Adam([*model.parameters(), *dann.parameters()])
        ...
        loss = cross_entropy(model.head(features[labelled]), y) + dann.loss(features, domain, progress=step / steps)

    Capabilities: `conditional` (it needs the model's outputs), `scheduled` (the features feel nothing of it at progress
    0).
    """

    point: ClassVar[str] = "alignment"

    least_rows: ClassVar[int] = 1
    """The fewest rows of a domain that it can do with."""

    _sizes: tuple[int, int, int | None] | None = None  # of features, domains, classes
    network: nn.Module | None = None
    """What `critic` has made for these sizes."""

    @abstractmethod
    @hook(first=True, returns=Tensor)
    def misalignment(self, features: Tensor, domain: Tensor, outputs: Tensor | None, progress: float) -> Tensor:
        """A scalar with a graph for rows [N, F] of domains [N] (0, 1, …; each is there, with `least_rows`), the model's
        logits [N, C] for them if they are known, and the part of the training that is done.

        Nothing random: rows in another order give the same.
        """

    def critic(self, features: int, n_domains: int, n_classes: int | None) -> nn.Module | None:
        """A new network of its own for features of this width; None for none. Draw its weights from torch's global
        random numbers, which are seeded here. What is fixed in it is a buffer.
        """
        return None

    # --- What users call

    @final
    def prepare(self, features: int | Tensor, n_domains: int = 2, n_classes: int | None = None) -> Self:
        """Say how wide features are (or show some, [N, F]), of how many domains, and how many outputs the model has for
        them; makes the critic, if there is one, where and as precise as the features shown. Returns itself.

        Call it before `parameters()`; again, it begins afresh. DataError for sizes that cannot be.
        """
        if isinstance(features, Tensor):
            width = self._rows(features).shape[1]
        else:
            width = structure(features, int, f"{self.origin}: features")
        for name, value, least in (("features", width, 1), ("n_domains", n_domains, 2), ("n_classes", n_classes, 1)):
            if value is not None and structure(value, int, f"{self.origin}: {name}") < least:
                raise DataError(f"{self.origin}: {name} must be at least {least}, got {value}")
        if "conditional" in self.capabilities and n_classes is None:
            raise DataError(f"{self.origin} looks at the model's outputs, too: say how many with n_classes")
        self._make(width, n_domains, n_classes)
        if self.network is not None and isinstance(features, Tensor):
            self.network.to(features.device, features.dtype if features.dtype == torch.float64 else torch.float32)
        return self

    @property
    def prepared(self) -> bool:
        """Whether sizes are known."""
        return self._sizes is not None

    @final
    def loss(self, features: Tensor, domain: Tensor, outputs: Tensor | None = None, progress: float = 1.0) -> Tensor:
        """The term for features [N, …] of rows from domains [N] (whole numbers from 0), a scalar with a graph to them.

        `outputs` are the model's logits [N, C] for the same rows, which some components look at. `progress` is the part
        of the training that is done, from 0 to 1. Without `prepare` as many domains are expected as the largest number
        says. DataError for a domain that is absent from the batch, or has too few rows, for a number that is none of
        the domains, and for sizes that are not those prepared for.
        """
        features = self._rows(features)
        if "conditional" in self.capabilities and outputs is None:
            raise DataError(f"{self.origin} looks at the model's outputs, too: give its logits [N, C] with outputs=")
        if outputs is not None and (outputs.ndim != 2 or len(outputs) != len(features)):
            raise DataError(
                f"{self.origin}: outputs must be logits [N, C] of the {len(features)} rows, got {tuple(outputs.shape)}"
            )
        made = self._sizes
        if made is None and type(self).critic is not Alignment.critic:
            raise DataError(
                f"{self.origin} has weights of its own, and does not know for which sizes: call prepare(features="
                f"{features.shape[1]}, n_domains=…) and give parameters() to the optimiser"
            )
        width, n_domains, n_classes = made or (features.shape[1], None, None)
        if width != features.shape[1]:
            raise DataError(f"{self.origin} was prepared for {width} features, got {features.shape[1]}")
        if n_classes is not None and outputs is not None and outputs.shape[1] != n_classes:
            raise DataError(f"{self.origin} was prepared for {n_classes} outputs, got {outputs.shape[1]}")
        domain = check_domains(domain, len(features), n_domains, self.origin, least=self.least_rows)
        if self.network is not None:
            self.network.to(features.device)  # in place: the optimiser's parameters stay the same objects
        answer = self.context.call(
            self,
            "misalignment",
            features=features,
            domain=domain.to(features.device),
            outputs=outputs,
            progress=progress_of(progress),
        )
        if answer.ndim:
            raise PluginError(f"{self.origin}: term must return a scalar, got shape {tuple(answer.shape)}")
        found: Tensor = answer
        return found

    def parameters(self) -> list[nn.Parameter]:
        """Weights of its own, for the optimiser that trains the model. DataError before `prepare`, if it has any."""
        if self._sizes is None and type(self).critic is not Alignment.critic:
            raise DataError(f"{self.origin} has no weights before it knows sizes: call prepare(features=…) first")
        return [] if self.network is None else [p for p in self.network.parameters() if p.requires_grad]

    def _rows(self, features: Tensor) -> Tensor:
        of_kind(features, Tensor, f"{self.origin}: features")
        if features.ndim < 2 or not features.is_floating_point():
            raise DataError(
                f"{self.origin}: features must be floating-point rows [N, F], got {features.dtype} of shape "
                f"{tuple(features.shape)}"
            )
        return features.flatten(1)

    # --- What survives

    def state_dict(self) -> dict[str, Any]:
        """Sizes and weights beside what other components keep."""
        weights = {} if self.network is None else self.network.state_dict()
        kept = {name: value.detach().clone() for name, value in weights.items()}
        return super().state_dict() | {"sizes": None if self._sizes is None else list(self._sizes), "network": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The critic is made again where the sizes are others; else its parameters stay the same objects."""
        if not {"sizes", "network"} <= set(state):
            raise PluginError(f"{self.origin}: state has {sorted(state)}, expected sizes and network, too")
        super().load_state_dict({k: v for k, v in state.items() if k not in ("sizes", "network")})
        sizes = state["sizes"]
        if sizes is None:
            self._sizes = self.network = None
            return
        if self._sizes != tuple(sizes):
            self._make(*sizes)
        if self.network is not None:
            kind = next((value for value in state["network"].values() if value.is_floating_point()), None)
            self.network.to(dtype=None if kind is None else kind.dtype).load_state_dict(state["network"])

    def _make(self, features: int, n_domains: int, n_classes: int | None) -> None:
        self._sizes = (features, n_domains, n_classes)
        with seeded(self.context.seed_for("alignment", self.name, *self._sizes)):
            self.network = self.critic(features, n_domains, n_classes)
