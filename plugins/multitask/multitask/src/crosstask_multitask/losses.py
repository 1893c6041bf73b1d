"""The losses of several tasks as one number, with the balancers that weigh losses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.errors import (
    CrosstaskError,
    DataError,
    OptionError,
    RunError,
    UnknownComponentError,
    nearest,
    of_kind,
    told,
)
from crosstask.learning.gradients import Group, MatrixGradients, TaskGradients, gradients_of
from crosstask.learning.objectives import LOSSES, Objective
from crosstask.points.balancer import Balancer, parts

METHODS = {"uncertainty": "uncertainty", "equal": "equal", "weights": "fixed", "gradnorm": "gradnorm"}
"""The methods by their classic names, and the balancers that they are."""
KINDS = {"mse": "mse", "bce": "bce_with_logits", "ce": "cross_entropy", "mae": "mae"}


class MultiTaskLoss(nn.Module):
    """One number to train several tasks by, from their predictions and targets by name.

        loss = MultiTaskLoss(["rating", "click"], {"rating": "mse", "click": "bce"})
        optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()])
        total, losses = loss(model(inputs), targets)
        total.backward()

    `loss_types`: for each task `mse`, `mae`, `bce` (of logits) or `ce` (of logits; of a single one it is that of two
    classes). Targets [N] belong to predictions [N, 1] and the other way round; what is not known is NaN, or the label
    -100.

    `balancing_method`: `uncertainty`, `equal`, `weights` (with `weights=`, by task or in their order; ones if not
    given) or `gradnorm`; or another balancer that weighs losses, by name (`dwa`, `famo`, …). They are components of the
    registry, and take their `options`. What `uncertainty` learns is among `parameters()`: give them to the optimiser.
    GradNorm looks at the gradients on `model_parameters` (those that several losses reach if not given), trains its
    weights with an optimiser of its own, and adds nothing to the total.

    A task that is not among the predictions or not among the targets, or has no label that is known, is not in that
    step: it keeps its weight. Of no task the total is 0. In evaluation mode, or without gradients, nothing is learned,
    and the weights are the last ones. All of it is in `state_dict`.

    OptionError for a method, a loss or an option that there is not, DataError for targets that do not fit, RunError for
    a loss that is not finite.
    """

    def __init__(
        self,
        task_names: Sequence[str],
        loss_types: Mapping[str, str],
        balancing_method: str = "uncertainty",
        device: str | torch.device = "cpu",
        *,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self.task_names = checked_names("MultiTaskLoss", task_names)
        self.loss_types = dict(of_kind(loss_types, Mapping, "MultiTaskLoss: loss_types"))  # type: ignore[type-abstract]
        self._objectives = {name: self._objective(name) for name in self.task_names}
        if strange := [name for name in self.loss_types if name not in self.task_names]:
            raise OptionError(
                f"MultiTaskLoss: loss_types: no task {strange[0]!r}{nearest(strange[0], self.task_names)}"
            )
        self.balancing_method = balancing_method
        self.balancer = self._made(seed, options)
        self.task_weights: dict[str, float] = {}
        """Of the tasks that were in a step so far, as they were in their last one."""
        if (prepare := getattr(self.balancer, "prepare", None)) is not None:
            prepare(self.task_names, torch.zeros(()))
        self.scales = nn.ParameterList(p for p in self.balancer.parameters() if p.numel())
        try:
            self.to(torch.empty(0, device=device).device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise OptionError(f"MultiTaskLoss: device {device!r} cannot be used: {told(error)}") from error

    def _objective(self, name: str) -> Objective:
        if name not in self.loss_types:
            raise OptionError(f"MultiTaskLoss: loss_types has none for task {name!r}{nearest(name, self.loss_types)}")
        kind = self.loss_types[name]
        if not isinstance(kind, str) or (kind not in KINDS and kind not in LOSSES):
            raise OptionError(f"MultiTaskLoss: unknown loss {kind!r} of task {name!r}{nearest(kind, KINDS)}")
        return LOSSES[KINDS.get(kind, kind)]

    def _made(self, seed: int, options: Mapping[str, Any]) -> Balancer:
        method = self.balancing_method
        component = METHODS.get(method, method) if isinstance(method, str) else method
        given = dict(options)
        if component == "fixed":
            given["weights"] = self._fixed(given.get("weights"))
        try:
            made = LocalContext(seed=seed).component("balancer", str(component), given)
        except UnknownComponentError as error:
            if isinstance(method, str) and method in METHODS:  # its package is missing, and the error says which
                raise
            raise OptionError(
                f"MultiTaskLoss: unknown balancing_method {method!r}{nearest(method, METHODS)}"
            ) from error
        assert isinstance(made, Balancer)
        if not made.weighs_losses:
            raise OptionError(
                f"MultiTaskLoss: balancing_method {method!r} makes an update of the tasks' gradients, which is that of "
                f"no total loss: use {type(made).__name__}().backward(losses). Those that weigh losses: "
                f"{', '.join(METHODS)}, and balancers such as dwa, famo"
            )
        return made

    def _fixed(self, weights: Any) -> Any:
        if weights is None:
            return dict.fromkeys(self.task_names, 1.0)
        if not isinstance(weights, Mapping):
            values = list(weights) if isinstance(weights, Iterable) else [weights]
            if len(values) != len(self.task_names):
                raise OptionError(f"MultiTaskLoss: {len(values)} weights for {len(self.task_names)} tasks")
            return dict(zip(self.task_names, values, strict=True))
        if missing := [name for name in self.task_names if name not in weights]:
            raise OptionError(f"MultiTaskLoss: weights has none for task {missing[0]!r}{nearest(missing[0], weights)}")
        if strange := [name for name in weights if name not in self.task_names]:
            raise OptionError(f"MultiTaskLoss: weights: no task {strange[0]!r}{nearest(strange[0], self.task_names)}")
        return dict(weights)

    # --- A step

    def forward(
        self,
        predictions: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
        model_parameters: nn.Module | Iterable[nn.Parameter] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total to train by, and the loss of each task that is in the step (not weighed, with its graph)."""
        losses = self.losses(predictions, targets)
        if not losses:
            like = next(iter(predictions.values()), torch.zeros(()))
            return torch.zeros((), device=like.device, requires_grad=torch.is_grad_enabled()), {}
        dtype = max((loss.dtype for loss in losses.values()), key=lambda kind: torch.finfo(kind).bits)
        values = torch.stack([loss.to(dtype) for loss in losses.values()])
        weights, slopes = self._weigh(values.detach(), losses, model_parameters)
        self.task_weights |= dict(zip(losses, weights.tolist(), strict=True))
        total = (weights * values).sum()
        if (penalty := getattr(self.balancer, "penalty", None)) is not None:
            total = total + penalty(list(losses))
        for parameter, slope in slopes:  # of value 0: the objective's slope on what the balancer learns
            total = total + ((parameter - parameter.detach()) * slope).sum().to(total)
        return total, losses

    def losses(self, predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each task that has predictions, and a target that is known."""
        for what, given in (("predictions", predictions), ("targets", targets)):
            of_kind(given, Mapping, f"MultiTaskLoss: {what}")  # type: ignore[type-abstract]
            if given and not any(name in given for name in self.task_names):
                first = next(iter(given))
                raise DataError(
                    f"MultiTaskLoss: no task among the {what}, which have {first!r}{nearest(first, self.task_names)}"
                )
        found = {}
        for name in self.task_names:
            if name in predictions and name in targets:
                loss = self._loss(name, predictions[name], targets[name])
                if loss is not None:
                    found[name] = loss
        return found

    def _loss(self, name: str, outputs: Tensor, targets: Tensor) -> Tensor | None:
        where = f"MultiTaskLoss: task {name!r}"
        of_kind(outputs, Tensor, f"{where}: predictions")
        targets = of_kind(targets, Tensor, f"{where}: targets").to(outputs.device)
        if not outputs.is_floating_point():
            raise DataError(f"{where}: predictions must be floating-point numbers, got {outputs.dtype}")
        objective = self._objectives[name]
        if objective is LOSSES["cross_entropy"]:
            outputs, targets, known = _classes(where, outputs, targets)
        else:
            _same_samples(where, outputs, targets)
            known = ~torch.isnan(targets) if targets.is_floating_point() else torch.ones_like(targets, dtype=torch.bool)
            if objective is LOSSES["bce_with_logits"] and bool(((targets < 0) | (targets > 1)).any()):
                low, high = (float(end) for end in targets[known].aminmax())
                raise DataError(f"{where}: targets of 'bce' are from 0 to 1, got {low:g} to {high:g}")
        if not bool(known.any()):
            return None
        outputs = outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
        loss = objective(outputs, targets)
        if not bool(torch.isfinite(loss.detach())):
            raise RunError(f"{where}: the loss is {loss.item()}; it cannot be weighed")
        return loss

    def _weigh(
        self, values: Tensor, losses: Mapping[str, Tensor], model_parameters: Any
    ) -> tuple[Tensor, list[tuple[nn.Parameter, Tensor]]]:
        """The weights [T], and the slopes of the objective on the balancer's own parameters, which may be learned."""
        if not (self.training and torch.is_grad_enabled()):
            state = self.balancer.state_dict()
            with self._slopes():
                weights = self._asked(values, _nothing_of(losses))
            self.balancer.load_state_dict(state)
            return weights, []
        gradients = self._gradients(losses, model_parameters)
        with self._slopes() as slopes:
            weights = self._asked(Group().mean(values.clone()), gradients)
        return weights, slopes

    def _asked(self, values: Tensor, gradients: TaskGradients) -> Tensor:
        answer, vector = parts(self.balancer.balance(values, gradients), gradients.tasks, self.balancer.origin)
        if answer is None or vector is not None:
            raise RunError(f"MultiTaskLoss: {self.balancer.origin} answers with a direction, and has no weights")
        return answer.detach().to(values)

    def _gradients(self, losses: Mapping[str, Tensor], model_parameters: Any) -> TaskGradients:
        """Those of the losses on what is shared, computed if the balancer asks; zeros where nothing can be shared."""
        if len(losses) < 2 or not all(loss.requires_grad for loss in losses.values()):
            return _nothing_of(losses)
        given = model_parameters.parameters() if isinstance(model_parameters, nn.Module) else model_parameters
        shared = None if given is None else list(given)
        return gradients_of(losses, shared, [], group=None, retain_graph=True)

    @contextmanager
    def _slopes(self) -> Iterator[list[tuple[nn.Parameter, Tensor]]]:
        """Inside, what the balancer adds to the `.grad` of its parameters is put into the list, not there."""
        before = {p: p.grad for p in self.balancer.parameters()}
        for parameter in before:
            parameter.grad = None
        found: list[tuple[nn.Parameter, Tensor]] = []
        try:
            yield found
        except ValueError as error:
            if isinstance(error, CrosstaskError):
                raise
            raise DataError(f"MultiTaskLoss: {self.balancing_method}: {error}; see `model_parameters`") from error
        finally:
            for parameter in self.balancer.parameters():
                if parameter.grad is not None:
                    found.append((parameter, parameter.grad))
                parameter.grad = before.get(parameter)

    # --- Going on later

    def get_extra_state(self) -> dict[str, Any]:
        """What the balancer remembers."""
        return {
            "method": self.balancing_method,
            "balancer": self.balancer.state_dict(),
            "task_weights": dict(self.task_weights),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from it. DataError if it is that of another method."""
        if state["method"] != self.balancing_method:
            raise DataError(f"MultiTaskLoss: the state is of {state['method']!r}, this is {self.balancing_method!r}")
        self.balancer.load_state_dict(state["balancer"])
        self.task_weights = dict(state["task_weights"])


def checked_names(where: str, task_names: Sequence[str]) -> list[str]:
    """The names of at least one task, all different. OptionError if they are not."""
    if (
        isinstance(task_names, str)
        or not isinstance(task_names, Iterable)
        or not all(isinstance(name, str) for name in task_names)
    ):
        raise OptionError(f"{where}: task_names must be a list of names, got {task_names!r}")
    names = list(task_names)
    if not names:
        raise OptionError(f"{where}: task_names is empty; name at least one task")
    if twice := [name for name in names if names.count(name) > 1]:
        raise OptionError(f"{where}: task_names has {twice[0]!r} twice")
    return names


def _nothing_of(losses: Mapping[str, Tensor]) -> TaskGradients:
    like = next(iter(losses.values()))
    return MatrixGradients(torch.zeros(len(losses), 1, dtype=like.dtype, device=like.device), tuple(losses))


def _same_samples(where: str, outputs: Tensor, targets: Tensor) -> None:
    """DataError unless the shapes are one, but for dimensions of size 1."""
    if [n for n in outputs.shape if n != 1] != [n for n in targets.shape if n != 1]:
        raise DataError(
            f"{where}: predictions {tuple(outputs.shape)} and targets {tuple(targets.shape)} are not of one shape"
        )


def _classes(where: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and labels as the cross entropy takes them, and which of the labels are known."""
    if not outputs.ndim or not targets.ndim:
        raise DataError(f"{where}: predictions and targets of 'ce' are [N, C] and [N], got a single number")
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    if targets.is_floating_point() and targets.shape == outputs.shape and outputs.shape[-1] > 1:  # probabilities
        known = ~torch.isnan(targets)
        rows = known.all(dim=1) if targets.ndim == 2 else slice(None)
        return outputs[rows], targets[rows], known[rows]
    if outputs.ndim == 2 and targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if len(outputs) != len(targets):
        raise DataError(f"{where}: {len(outputs)} predictions for {len(targets)} targets")
    turned = targets.ndim == 2 and outputs.ndim == 3
    if targets.shape != (outputs.shape[:2] if turned else (*outputs.shape[:1], *outputs.shape[2:])):
        raise DataError(
            f"{where}: predictions {tuple(outputs.shape)} and targets {tuple(targets.shape)} of 'ce' do not fit: "
            "labels [N] go with [N, C], dense ones [N, …] with [N, C, …], of sequences [N, L] with [N, L, C]; "
            "probabilities are floating-point numbers"
        )
    if targets.is_floating_point():
        labels = torch.where(torch.isnan(targets), -100, targets)
        if bool((labels != labels.round()).any()):
            raise DataError(f"{where}: targets of 'ce' are labels, whole numbers")
        targets = labels.long()
    targets = targets.long()
    known = targets != -100
    single = outputs.ndim == 2 and outputs.shape[1] == 1
    classes = 2 if single else outputs.shape[-1 if turned else 1]
    if bool((known & ((targets < 0) | (targets >= classes))).any()):
        wrong = targets[known & ((targets < 0) | (targets >= classes))][0]
        raise DataError(f"{where}: label {int(wrong)}, but there are the classes 0 to {classes - 1}")
    return (outputs[known], targets[known], known[known]) if single else (outputs, targets, known)
