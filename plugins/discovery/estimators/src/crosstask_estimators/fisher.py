"""Fisher: whether the same weights of the source's network matter for both tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from crosstask.errors import CrosstaskError, DataError
from crosstask.learning.fisher import fisher_diagonal
from crosstask.learning.modules import Head, copy_of, head_found, head_keys, know, seeded, trainable
from crosstask.learning.training import device_of
from crosstask.learning.transferring import key_of
from crosstask.options import component, option
from crosstask_discovery.arrays import Matrix, centred, matrix, targets
from crosstask_discovery.estimator import Estimator, Seen
from crosstask_discovery.pairs import model_failed


def fisher_similarity(one: Any, other: Any) -> float:
    """1 - the cosine distance of two embeddings f and g after normalising to f / (f + g) and g / (f + g) (Achille et
    al. 2019, section 3.2): entries of very different size count alike. Between 0 and 1; embeddings are at least 0.

    Entries that are 0 in both say nothing and are left out; 0 if that are all, or one embedding is 0.
    """
    ours, theirs = matrix(one, "embedding").ravel(), matrix(other, "embedding").ravel()
    if ours.shape != theirs.shape or (ours < 0).any() or (theirs < 0).any():
        raise DataError(f"two embeddings of one length, at least 0, are needed, got {ours.shape} and {theirs.shape}")
    largest = max(ours.max(), theirs.max())
    if largest == 0:
        return 0.0
    ours, theirs = ours / largest, theirs / largest
    both = ours + theirs
    used = both > 0
    ours, theirs = ours[used] / both[used], theirs[used] / both[used]
    lengths = np.sqrt((ours**2).sum() * (theirs**2).sum())
    return float(ours @ theirs / lengths) if lengths > 0 else 0.0


def embedding(moments: Mapping[str, Tensor]) -> Matrix:
    """One number per output unit of every layer: the mean over the weights that lead to it (Achille et al. 2019: over
    each filter), the whole divided by its sum, because the size of the Fisher says how well the head fits, not which
    weights matter.
    """
    parts = [matrix(moment.reshape(len(moment), -1)).mean(axis=1) for moment in moments.values() if moment.ndim > 0]
    whole = np.concatenate(parts) if parts else np.zeros(1)
    return whole / whole.sum() if whole.sum() > 0 else whole


def fitted_head(features: Tensor, labels: Tensor, penalty: float = 0.1) -> nn.Linear:
    """A linear head [D -> C] by ridge regression on one column per class, the penalty relative to the features' mean
    squared length; its outputs are scaled to twice their deviation, as logits.
    """
    rows, wanted = matrix(features), targets(labels, len(features))[0]
    moved, level = centred(rows), rows.mean(axis=0)
    kernel = moved @ moved.T
    kernel[np.diag_indices(len(kernel))] += penalty * max(np.trace(kernel) / len(kernel), 1e-300)
    weights = moved.T @ np.linalg.solve(kernel, wanted - wanted.mean(axis=0))
    spread = (moved @ weights).std()
    weights = weights * (2 / spread if spread > 0 else 1.0)
    with seeded(0):  # what is drawn is not used
        head = nn.Linear(rows.shape[1], wanted.shape[1]).to(features)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights.T))
        head.bias.copy_(torch.from_numpy(np.log(wanted.mean(axis=0)) - level @ weights))
    return head


def with_head(model: nn.Module, head: nn.Linear) -> nn.Module:
    """A copy of the model with a linear head [D -> C] in place of its own, which may be several layers, or parameters
    that its forward uses. DataError where those are no matrix with a bias.
    """
    made, found = copy_of(model), head_found(model)
    head = head.to(device_of(model))
    if found.module is not None:
        parent, _, child = found.module.rpartition(".")
        setattr(made.get_submodule(parent), child, head)
        know(made, head=Head(found.module))
        return made
    known = dict(made.named_parameters(remove_duplicate=False))
    for name, dim in found.weights:
        old = known[name]
        if old.ndim > 2 or (old.ndim == 2 and old.shape[1 - dim] != head.in_features):
            raise DataError(f"the head {name!r} of {type(model).__name__} is no matrix over its features")
        new = head.bias if old.ndim == 1 else head.weight if dim == 0 else head.weight.T
        parent, _, child = name.rpartition(".")
        made.get_submodule(parent)._parameters[child] = nn.Parameter(new.detach().clone().reshape(new.shape))
    return made


@component
class Fisher(Estimator):
    """Estimates transfer by `fisher_similarity` of two task embeddings in the source's network: the diagonal of the
    Fisher information of its trunk on the target's samples, with a head fitted to them in closed form, and on samples
    of the source, likewise. Needs a backward pass, too, and the source's training data.

    The embedding of a source on itself is computed once.
    """

    known_as: ClassVar[str] = "fisher"
    places: ClassVar[bool] = False

    source_samples: int | None = option(None, ge=2, help="training samples of the source (default: as of the target)")
    _own: dict[tuple[str, str, str], Matrix] = attrs.field(factory=dict, init=False, repr=False)

    def estimate(self, seen: Seen) -> float:
        if not seen.source.has_data("train"):
            raise DataError(f"task {seen.source.task_id!r} has no train data to embed it by")
        ours = self._embedded(seen)
        key = (seen.source.task_id, seen.weights, seen.source.fingerprint())
        if key not in self._own:
            self._own[key] = self._embedded(self.see(seen.source, seen.source, self.source_samples))
        return fisher_similarity(ours, self._own[key])

    def _embedded(self, seen: Seen) -> Matrix:
        model = seen.source.model
        assert model is not None
        seed = self.context.seed_for("fisher", seen.source.task_id, seen.target.task_id)
        key = key_of("fisher", seen.weights, seen.target.fingerprint(), len(seen.inputs), seed)
        known = self.context.recall("features", key) if self.keep else None
        if known is not None:
            return matrix(known.tensors["embedding"]).ravel()
        probe = with_head(model, fitted_head(seen.features, seen.targets))
        head = head_keys(probe)
        trunk = [p for p, _ in trainable(probe).named_parameters() if p not in head]
        if not trunk:
            raise DataError(f"the model of {seen.source.task_id!r} is a head only: it has no weights to compare")
        try:
            moments = fisher_diagonal(
                probe,
                seen.inputs,
                labels="sampled",
                parameters=trunk,
                generator=torch.Generator().manual_seed(seed),
            )
        except CrosstaskError:
            raise
        except Exception as error:  # the user's own code, or its head was no linear layer on what it receives
            raise DataError(f"with a linear head {model_failed(seen.source, seen.target, error)}") from error
        found = embedding(moments)
        if self.keep:
            made = {"source": seen.source.task_id, "target": seen.target.task_id, "what": "fisher"}
            self.context.remember("features", key, made, {"embedding": torch.from_numpy(found)})
        return found
