"""A `Trainer` whose several losses a balancer puts together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, RunError
from crosstask.learning.checkpoint import load_state, save_state
from crosstask.learning.gradients import (
    AccumulatedLosses,
    GradientOverflowError,
    conflict_metrics,
    gradients_of,
    shared_leaves,
)
from crosstask.learning.gradients.graph import Graph
from crosstask.logs import logger
from crosstask.points.balancer import Balancer
from crosstask_huggingface.libraries import library

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = library("transformers").Trainer

Losses = Callable[..., Any]
FILE = "balancer.safetensors"
"""Of a checkpoint: the balancer's state."""


class Balancing:
    """Put before a trainer of transformers (`class Mine(Balancing, Seq2SeqTrainer)`), it trains on several losses at
    once, whose gradients a balancer puts together.

    `balancer` is a component of that point by name, with `balancer_options`, or a balancer. `compute_losses(model,
    inputs)` returns a mapping of scalar losses by task name, or a pair of that and the model's outputs; without one the
    model's outputs hold them as `losses`. `shared`: the parameters whose gradients are balanced, by default those that
    two or more losses reach. `conflicts`: look at the gradients' conflicts on every step that is logged, also where the
    balancer does not (one backward pass for each task).

    Accumulated small batches are balanced as the one batch that they are; this keeps a gradient for each task. Mixed
    precision, clipping and several processes work as with one loss: each process's gradients are averaged before they
    are balanced, DistributedDataParallel's own averaging is left out. A loss is a mean over its batch, and accumulated
    batches count alike. A checkpoint has the balancer's state (`balancer.safetensors`), and a resumed training goes on
    with it. Logs have, besides the sum of the losses, `loss_<task>` and `weight_<task>` (means since the last log, over
    all processes) and the conflicts of the last step.

    It overrides `training_step`, because a callback has no say in the backward pass; `compute_loss`, for evaluation;
    `create_optimizer`, for the balancer's own parameters; `log`; and what writes and reads the optimiser's state, so
    that the balancer's lies beside it wherever that is written.
    """

    args: Any
    accelerator: Any
    optimizer: Any
    state: Any
    model: Any
    compute_loss_context_manager: Any
    current_gradient_accumulation_steps: int
    _prepare_inputs: Any
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool

    def __init__(
        self,
        *args: Any,
        balancer: str | Balancer = "rgb",
        balancer_options: Mapping[str, Any] | None = None,
        compute_losses: Losses | None = None,
        shared: Iterable[nn.Parameter] | None = None,
        conflicts: bool = False,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("compute_loss_func") is not None:
            raise OptionError("compute_loss_func gives one loss: several come from compute_losses or the model itself")
        self.compute_losses, self.conflicts = compute_losses, conflicts
        self._shared = None if shared is None else list(shared)
        super().__init__(*args, **kwargs)
        # To look for unused parameters, and for a static graph, DDP leads all outputs through one node, so that each
        # loss seems to reach every parameter. Both serve its own averaging, which is left out here
        self.args.ddp_find_unused_parameters = self.args.ddp_static_graph = False
        if (handler := self.accelerator.ddp_handler) is not None:
            handler.find_unused_parameters = handler.static_graph = False
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise OptionError(
                "balancing needs whole parameters on every process: DeepSpeed and FSDP keep them in parts. Train with "
                "DistributedDataParallel (torchrun), or with one loss"
            )
        if isinstance(balancer, Balancer):
            if balancer_options:
                raise OptionError(
                    f"options {sorted(balancer_options)} belong to a balancer that is named, one was given"
                )
            self.balancer = balancer
        else:
            context = LocalContext(self.args.seed, str(self.args.device))
            made = context.component("balancer", balancer, balancer_options)
            assert isinstance(made, Balancer)
            self.balancer = made
        self._kept: AccumulatedLosses | None = None
        self._told: dict[str, tuple[Tensor, float]] = {}
        self._gramian: Tensor | None = None

    # --- losses

    def task_losses(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
        """(the losses by task, the model's outputs without them)."""
        if self.compute_losses is not None:
            made = self.compute_losses(model, inputs)
            losses, outputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
            where = "compute_losses must return"
        else:
            outputs = model(**inputs)
            get = outputs.get if isinstance(outputs, Mapping) else lambda name: getattr(outputs, name, None)
            losses = get("losses")
            where = "the model's outputs must hold `losses` (or give compute_losses):"
            if isinstance(outputs, Mapping):
                outputs = {name: value for name, value in outputs.items() if name != "losses"}
        if not isinstance(losses, Mapping) or not losses:
            got = "none" if losses is None else f"a {type(losses).__name__}"
            raise DataError(f"{where} a mapping of losses by task name, got {got}")
        several = self.args.n_gpu > 1  # of nn.DataParallel: a loss from each device
        found = {}
        for name, loss in losses.items():
            if not isinstance(loss, Tensor) or (loss.ndim and not several):
                got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
                raise DataError(f"the loss of task {str(name)!r} must be a single number (a mean), got {got}")
            found[str(name)] = loss.mean() if loss.ndim else loss
        return found, outputs

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum of the losses, for evaluation."""
        losses, outputs = self.task_losses(model, inputs)
        total = torch.stack(list(losses.values())).sum()
        return (total, {} if outputs is None else outputs) if return_outputs else total

    # --- a step

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Losses of a small batch; with the last one of a step, the balanced gradient in `.grad`. Their sum."""
        model.train()
        if callable(train := getattr(self.optimizer, "train", None)):  # schedule-free optimisers
            train()
        inputs = self._prepare_inputs(inputs)
        with self.accelerator.no_sync(model), self.compute_loss_context_manager():
            losses, _ = self.task_losses(model, inputs)
        del inputs
        if self._shared is None and Graph(list(losses.values())).stacked:
            raise RunError(
                "the losses are parts of one tensor, whose graph says nothing about which loss reaches what: return "
                "them as they were before they were stacked, or name the `shared` parameters"
            )
        count = self.current_gradient_accumulation_steps
        self._count("loss", {name: loss.detach() / count for name, loss in losses.items()}, count)
        total = torch.stack([loss.detach() for loss in losses.values()]).sum() / count
        if count == 1:
            self._balance(losses)
            return total
        if self._kept is None:
            self._kept = AccumulatedLosses(model.parameters())
        self._kept.add({name: loss / count for name, loss in losses.items()}, self._scale(total))
        if self.accelerator.sync_gradients:
            kept, self._kept = self._kept.losses(), None
            self._balance(kept)
        return total

    @property
    def _scaler(self) -> torch.amp.GradScaler | None:
        """Of mixed precision in half floats; None where there is none."""
        scaler: torch.amp.GradScaler | None = getattr(self.accelerator, "scaler", None)
        return scaler if scaler is not None and scaler.is_enabled() else None

    def _scale(self, like: Tensor) -> float:
        """What the scaler multiplies losses by."""
        scaler = self._scaler
        return 1.0 if scaler is None else float(scaler.scale(torch.ones((), device=like.device)))

    def _in_order(self, losses: Mapping[str, Tensor]) -> list[nn.Parameter]:
        """The parameters that two or more losses reach, in the model's order: what a balancer keeps of a gradient is
        for the same parameters however the losses came about.
        """
        reached = dict.fromkeys(shared_leaves(list(losses.values()))[0])
        own = [p for p in self.model.parameters() if p in reached]
        return own if len(own) == len(reached) else list(dict.fromkeys([*own, *reached]))

    def _balance(self, losses: Mapping[str, Tensor]) -> None:
        """Write the balanced gradient of a step's losses."""
        scaler = self._scaler
        shared = self._in_order(losses) if self._shared is None else self._shared
        if self.conflicts and self._is_logged():
            scale = (
                1.0
                if scaler is None
                else float(scaler.scale(torch.ones((), device=next(iter(losses.values())).device)))
            )
            with contextlib.suppress(GradientOverflowError):  # the step will be skipped
                self._gramian = gradients_of(losses, shared, scale=scale, group=None).gramian
        for parameter in self.balancer.parameters():  # the trainer clears the model's gradients only
            parameter.grad = None
        weights = self.balancer.backward(losses, shared, scaler=self._scaler)
        self._count("weight", dict(zip(losses, weights.detach().unbind(), strict=True)), 1)
        assert self.balancer.last is not None
        if self.balancer.last.gramian is not None:
            self._gramian = self.balancer.last.gramian
        self._adopt()

    # --- the balancer's own parameters and state

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The trainer's, with the parameters of the balancer in its last group, which has no weight decay."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        self._kept = None  # of a training that was stopped within a step
        self._adopt()
        return optimizer

    def _adopt(self) -> None:
        """Give the optimiser the balancer's parameters that it has not yet."""
        own = self.balancer.parameters()
        if own:
            groups = self.optimizer.param_groups
            known = {id(p) for group in groups for p in group["params"]}
            groups[-1]["params"].extend(p for p in own if id(p) not in known)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        if self.args.should_save:
            save_state(Path(output_dir) / FILE, {"balancer": self.balancer.name, "state": self.balancer.state_dict()})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        path = None if checkpoint is None else Path(checkpoint) / FILE
        if path is not None and path.exists():
            device = self.args.device
            kept = load_state(path, "cpu" if device.type == "cpu" else device)  # not cpu:0, which safetensors refuses
            if kept.get("balancer") != self.balancer.name:
                raise OptionError(
                    f"{path} is the state of balancer {kept.get('balancer')!r}, this training has "
                    f"{self.balancer.name!r}: resume with the same, or remove the file to begin afresh"
                )
            self.balancer.load_state_dict(kept["state"])
            self._adopt()
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if path is not None and not path.exists():
            logger().warning("balancer_begins_afresh", checkpoint=checkpoint, why=f"it has no {path.name}")
            for parameter in self.balancer.parameters():
                self.optimizer.state.pop(parameter, None)

    # --- logs

    def _count(self, what: str, values: Mapping[str, Tensor], parts: int) -> None:
        """Add to the sums that the next log has the means of; `parts` of a step come one after another."""
        for name, value in values.items():
            total, steps = self._told.get(f"{what}_{name}", (torch.zeros_like(value), 0.0))
            self._told[f"{what}_{name}"] = (total + value, steps + 1 / parts)

    def _is_logged(self) -> bool:
        """Whether the step under way will be logged."""
        step, every = self.state.global_step + 1, self.state.logging_steps
        return self.args.logging_strategy == "steps" and step % every == 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the trainer's, with each task's loss and weight, and the conflicts."""
        if "loss" in logs and self._told:
            means = torch.stack([(total / steps).float() for total, steps in self._told.values()])
            means = self.accelerator.reduce(means, reduction="mean")
            logs.update(zip(self._told, (round(value, 6) for value in means.tolist()), strict=True))
            if self._gramian is not None:
                logs.update(conflict_metrics(self._gramian))
            self._told, self._gramian = {}, None
        super().log(logs, start_time)  # type: ignore[misc]


class BalancedTrainer(Balancing, Trainer):
    """`Trainer` with several losses; see `Balancing`, whose arguments come beside the trainer's own.

    BalancedTrainer(model, args, train_dataset=data, balancer="pcgrad", compute_losses=losses).train()
    """
