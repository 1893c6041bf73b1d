"""A callback of Lightning that balances the losses of a module."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn.parallel import DistributedDataParallel

from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, RunError, nearest
from crosstask.learning.gradients import (
    AccumulatedLosses,
    GradientOverflowError,
    Group,
    conflict_metrics,
    gradients_of,
    shared_leaves,
)
from crosstask.learning.gradients.graph import Graph
from crosstask.logs import logger
from crosstask.points.balancer import Balancer
from crosstask_lightning.library import lightning

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = lightning().Callback

_WRAPPED = ("training_step", "backward", "manual_backward")


class Balance(Callback):
    """Balances the losses of a `LightningModule`, whose `training_step` returns several.

        Trainer(callbacks=[Balance("pcgrad")])

    `training_step` returns a mapping of scalar losses by task name, or one that has them as `losses` beside whatever
    other callbacks are to see. A task whose loss is None, or that is left out, does not take part in that step. With
    manual optimisation `self.manual_backward({name: loss, …})` takes them.

    `balancer` is a component of that point by name, with `options`, or a balancer. `shared`: names of submodules or
    parameters whose gradients are balanced; by default what two or more losses reach. `log`: losses, weights and
    conflicts by `self.log`, as `loss_<task>`, `weight_<task>`, `mean_cosine`, … on the steps that are logged
    (`log_every_n_steps`). `conflicts`: look at them then even if the balancer does not (a backward pass for each task).
    `seed`: of balancers that draw random numbers.

    Mixed precision, accumulation, clipping, schedulers and checkpoints are the trainer's: the callback takes the place
    of `loss.backward()`, and nothing else. Accumulated batches are balanced once, as the one batch that they are; this
    keeps a gradient for each task. Each process's gradients are averaged before they are balanced; the averaging of
    DistributedDataParallel is left out. What a balancer trains itself (`parameters()`) joins the first optimiser, in
    its first group without weight decay, or else in its last. Its state is part of the checkpoint; a step that
    mixed precision skips leaves none in it.

    While `fit` runs, three methods of the module are wrapped, on that object only; afterwards they are its own again.
    """

    def __init__(
        self,
        balancer: str | Balancer = "rgb",
        options: Mapping[str, Any] | None = None,
        *,
        shared: str | Sequence[str] = (),
        log: bool = True,
        conflicts: bool = False,
        seed: int = 0,
    ) -> None:
        if isinstance(balancer, Balancer):
            if options:
                raise OptionError(f"options {sorted(options)} belong to a balancer that is named, one was given")
            self.balancer = balancer
        else:
            made = LocalContext(seed).component("balancer", balancer, options)
            assert isinstance(made, Balancer)
            self.balancer = made
        self._logs, self.conflicts, self.seed = log, conflicts, seed  # `log` is Lightning's function
        self._names = (shared,) if isinstance(shared, str) else tuple(shared)
        self._shared: list[nn.Parameter] | None = None
        self._own: dict[str, Any] = {}  # of the module, what stood in the place of what is wrapped
        self._losses: dict[str, Tensor] | None = None
        self._single: Tensor | None = None
        self._kept: AccumulatedLosses | None = None
        self._parts = 0
        self._before: tuple[float, dict[str, Any]] | None = None  # a half-float step: scale and state
        self._restored = False
        self._said = False

    # --- while a training runs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wrap the module's methods. OptionError where balancing cannot be right."""
        if stage != "fit":
            return
        strategies, strategy = lightning().strategies, trainer.strategy
        whole = isinstance(strategy, strategies.SingleDeviceStrategy | strategies.DDPStrategy)
        if not whole or strategy.handles_gradient_accumulation:
            raise OptionError(
                f"Balance needs whole parameters on every process, {type(strategy).__name__} does not keep them so: "
                "train on one device or with DDP, or return one loss"
            )
        if getattr(strategy, "_model_averaging_period", None):
            raise OptionError("Balance averages gradients in every step: leave out DDP's model averaging")
        if type(pl_module).backward is not lightning().LightningModule.backward:
            raise OptionError(
                f"{type(pl_module).__name__} has a `backward` of its own, whose place Balance takes: remove one of them"
            )
        self.balancer.bind(LocalContext(self.seed, str(strategy.root_device)))
        self._losses = self._single = self._kept = self._before = None
        self._restored = self._said = False
        self._wrap(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the parameters that are named, and give the optimiser the balancer's own."""
        if self._names:
            self._shared = _named(pl_module, self._names)
        if trainer.ckpt_path is None or self._restored:  # else the checkpoint's optimiser does not know of them
            self._adopt(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same, after an optimiser was restored that had been trained without this callback."""
        if trainer.ckpt_path is not None and not self._restored:
            logger().warning("balancer_begins_afresh", checkpoint=str(trainer.ckpt_path), why="it has no Balance")
        self._adopt(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """DDP does not average what is averaged before it is balanced; it still makes buffers the same."""
        if isinstance(model := trainer.strategy.model, DistributedDataParallel):
            model.require_backward_grad_sync = False
            model.require_forward_param_sync = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take back what a skipped step has left in the balancer."""
        self._settle(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the module its own methods back."""
        self._unwrap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The same, when a training ends otherwise."""
        self._unwrap(pl_module)

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """The balancer's name and state, for the trainer's checkpoint."""
        return {"balancer": self.balancer.name, "state": self.balancer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them. OptionError if they are another balancer's."""
        if state_dict["balancer"] != self.balancer.name:
            raise OptionError(
                f"the checkpoint has the state of balancer {state_dict['balancer']!r}, this training has "
                f"{self.balancer.name!r}: resume with the same"
            )
        self.balancer.load_state_dict(_on(state_dict["state"], torch.device(self.balancer.context.device)))
        self._restored = True

    # --- the module's methods

    def _wrap(self, module: LightningModule) -> None:
        """Put functions before three of the module's methods: functions, not methods, so that copies of the module (of
        callbacks that average weights) do not copy this callback.
        """
        self._unwrap(module)
        callback, step, manual = self, module.training_step, module.manual_backward
        self._own = {name: module.__dict__[name] for name in _WRAPPED if name in module.__dict__}
        compiled = module._compiler_ctx is not None or any(
            part._compiled_call_impl is not None or hasattr(part, "_orig_mod") for part in module.modules()
        )

        @functools.wraps(step)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            with _reusable_buffers() if compiled else nullcontext():
                made = step(*args, **kwargs)
            return callback._take(module, made) if module.automatic_optimization else made

        def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            callback._backward(module, loss, *args, **kwargs)

        def manual_backward(loss: Any, *args: Any, **kwargs: Any) -> None:
            if isinstance(loss, Mapping):
                callback._losses = _checked(loss, "manual_backward takes")
                loss = _total(callback._losses)
            else:
                callback._single = loss
            manual(loss, *args, **kwargs)

        module.__dict__.update(training_step=training_step, backward=backward, manual_backward=manual_backward)

    def _unwrap(self, module: LightningModule) -> None:
        if "backward" in module.__dict__:
            for name in _WRAPPED:
                del module.__dict__[name]
            module.__dict__.update(self._own)
            self._own = {}

    def _take(self, module: LightningModule, made: Any) -> dict[str, Any] | None:
        """Keep the losses that `training_step` returned; what Lightning is to see: their sum, and the rest."""
        if made is None:
            if self._kept is not None and _ends(module.trainer):  # Lightning steps with what there is
                self._finish(module)
            return None
        losses, rest = made, {}
        if isinstance(made, Mapping) and "losses" in made:
            losses, rest = made["losses"], {name: value for name, value in made.items() if name != "losses"}
        self._losses = _checked(losses, "training_step must return")
        return {**rest, "loss": _total(self._losses)}

    def _backward(self, module: LightningModule, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """In place of `loss.backward()`."""
        losses, self._losses = self._losses, None
        single, self._single = self._single, None
        retain_graph = bool(kwargs.get("retain_graph"))
        if losses is None:  # manual optimisation, an ordinary loss
            if Group().size == 1 or single is None:
                loss.backward(*args, **kwargs)
            else:
                _plainly({"loss": single}, self._scale(module.trainer, single), retain_graph)
            return
        if args or kwargs.keys() - {"retain_graph"}:
            raise OptionError("backward of several losses takes `retain_graph` and nothing else")
        count = module.trainer.accumulate_grad_batches if module.automatic_optimization else 1
        if count == 1:
            self._balance(module, losses, retain_graph=retain_graph)
            return
        if self._kept is None or module.trainer.fit_loop.batch_idx % count == 0:
            self._kept, self._parts = AccumulatedLosses(module.parameters()), 0
        if self._shared is None:
            _told_apart(losses)
        self._kept.add(losses, self._scale(module.trainer, loss))
        self._parts += 1
        if _ends(module.trainer):
            self._finish(module)

    def _finish(self, module: LightningModule) -> None:
        """Balance the accumulated batches. Lightning weighs each by 1 / accumulate_grad_batches, also if an epoch ends
        with fewer: the balancer sees the mean of those that there are, and the update is made as small as Lightning's.
        """
        assert self._kept is not None
        kept, self._kept = self._kept, None
        self._balance(module, {name: loss / self._parts for name, loss in kept.losses().items()})
        share = self._parts / module.trainer.accumulate_grad_batches
        if share != 1.0:
            for parameter in [*module.parameters(), *self.balancer.parameters()]:
                if parameter.grad is not None:
                    parameter.grad *= share

    # --- a step

    def _balance(self, module: LightningModule, losses: Mapping[str, Tensor], retain_graph: bool = False) -> None:
        """Write the balanced gradient of a step's losses."""
        trainer, balancer = module.trainer, self.balancer
        self._settle(trainer)
        if not Group().agrees([zlib.crc32(name.encode()) for name in losses]):
            raise RunError(
                f"processes differ in the tasks of this step (here {', '.join(losses)}): return the same on all of "
                "them, in the same order; where a batch has nothing of a task, zero times the sum of its outputs"
            )
        shared = self._in_order(module, losses)
        scaler, logged, gramian = _scaler(trainer), self._is_logged(trainer), None
        if scaler is not None:
            self._before = (scaler.get_scale(), balancer.state_dict())
        if shared:
            if self.conflicts and logged:
                scale = self._scale(trainer, next(iter(losses.values())))
                with suppress(GradientOverflowError):  # the step will be skipped
                    gramian = gradients_of(losses, shared, scale=scale, group=None).gramian
            weights = balancer.backward(losses, shared, scaler=scaler, retain_graph=retain_graph)
            assert balancer.last is not None
            gramian = gramian if balancer.last.gramian is None else balancer.last.gramian
        else:
            weights = self._unshared(trainer, losses, retain_graph)
        self._adopt(trainer)
        if logged:
            told: dict[str, Any] = {f"loss_{name}": loss.detach() for name, loss in losses.items()}
            told.update((f"weight_{name}", weight) for name, weight in zip(losses, weights.unbind(), strict=True))
            told.update({} if gramian is None else conflict_metrics(gramian))
            module.log_dict(told, on_step=True, on_epoch=False)

    def _unshared(self, trainer: Trainer, losses: Mapping[str, Tensor], retain_graph: bool) -> Tensor:
        """A step whose losses share nothing that is trained: each task has its own gradient, times the weight of the
        whole loss if the balancer has such weights.
        """
        if not self._said:
            self._said = True
            logger().info("nothing_to_balance", why="the losses share no parameter that needs a gradient")
        if self.balancer.weighs_losses:
            everything = list(Graph(list(losses.values())).leaves)
            return self.balancer.backward(losses, everything, (), scaler=_scaler(trainer), retain_graph=retain_graph)
        return _plainly(losses, self._scale(trainer, next(iter(losses.values()))), retain_graph)

    def _in_order(self, module: LightningModule, losses: Mapping[str, Tensor]) -> list[nn.Parameter]:
        """The parameters to balance, in the module's order: what a balancer keeps of a gradient is for the same ones
        however the losses came about.
        """
        if self._shared is not None:
            return [p for p in self._shared if p.requires_grad]
        reached = dict.fromkeys(shared_leaves(list(losses.values()), _told_apart(losses))[0])
        own = [p for p in module.parameters() if p in reached]
        return own if len(own) == len(reached) else list(dict.fromkeys([*own, *reached]))

    def _scale(self, trainer: Trainer, like: Tensor) -> float:
        """What the scaler multiplies losses by."""
        scaler = _scaler(trainer)
        return 1.0 if scaler is None else float(scaler.scale(torch.ones((), device=like.device)))

    def _settle(self, trainer: Trainer) -> None:
        """Where the scaler skipped the last step (its scale is lower), the balancer forgets that step."""
        scaler = _scaler(trainer)
        if scaler is not None and self._before is not None:
            (scale, state), self._before = self._before, None
            if scaler.get_scale() < scale:
                self.balancer.load_state_dict(state)

    def _adopt(self, trainer: Trainer) -> None:
        """Give the optimiser the balancer's parameters that none has yet."""
        own = self.balancer.parameters()
        if own:
            known = {id(p) for optimizer in trainer.optimizers for g in optimizer.param_groups for p in g["params"]}
            groups = trainer.optimizers[0].param_groups
            group = next((g for g in groups if not g.get("weight_decay")), groups[-1])
            group["params"].extend(p for p in own if id(p) not in known)

    def _is_logged(self, trainer: Trainer) -> bool:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(self._logs and every > 0 and (trainer.global_step + 1) % every == 0)


# --- small things


def _scaler(trainer: Trainer) -> torch.amp.GradScaler | None:
    """Of mixed precision in half floats; None where there is none."""
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if scaler is not None and scaler.is_enabled() else None


def _ends(trainer: Trainer) -> bool:
    """Whether the optimiser makes a step after this batch."""
    done = trainer.fit_loop.batch_idx + 1
    return done % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch or done == trainer.num_training_batches


def _checked(losses: Any, where: str) -> dict[str, Tensor]:
    """The losses by task, without those that are None. DataError unless they are single numbers."""
    if not isinstance(losses, Mapping) or not losses:
        got = "an empty one" if isinstance(losses, Mapping) else f"a {type(losses).__name__}"
        raise DataError(f"{where} a mapping of losses by task name, got {got}")
    found = {str(name): loss for name, loss in losses.items() if loss is not None}
    for name, loss in found.items():
        if not isinstance(loss, Tensor) or loss.ndim:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise DataError(f"the loss of task {name!r} must be a single number (a mean), got {got}")
    if not found:
        raise DataError(f"{where} the loss of one task at least, all of {sorted(map(str, losses))} are None")
    return found


def _total(losses: Mapping[str, Tensor]) -> Tensor:
    """What Lightning is told, and divides and scales as it likes: nobody differentiates it."""
    return torch.stack([loss.detach() for loss in losses.values()]).sum()


def _told_apart(losses: Mapping[str, Tensor]) -> Graph:
    """The graph of losses; RunError where it does not say which of them reaches what."""
    graph = Graph(list(losses.values()))
    if graph.stacked or len({get_gradient_edge(loss).node for loss in losses.values()}) < len(losses):
        raise RunError(
            "the losses come out of one tensor or one compiled graph, which says nothing about which loss reaches "
            'what: return them as they were before, or name the shared parameters, as Balance(shared="trunk")'
        )
    return graph


def _plainly(losses: Mapping[str, Tensor], scale: float, retain_graph: bool) -> Tensor:
    """The gradient of the sum of losses, averaged over the processes; the weights [T], ones."""
    values = list(losses.values())
    reached = list(Graph(values).leaves)
    ones = torch.ones(len(values), dtype=values[0].dtype, device=values[0].device)
    return gradients_of(losses, reached, (), scale=scale, group=None, retain_graph=retain_graph).write(ones, None, True)


def _named(module: LightningModule, names: Sequence[str]) -> list[nn.Parameter]:
    """The parameters of submodules, or with names. OptionError for a name that there is not."""
    found: dict[nn.Parameter, None] = {}
    for name in names:
        own = [p for n, p in module.named_parameters() if n == name or n.startswith(f"{name}.")]
        if not own:
            known = [n for n, _ in module.named_modules() if n] + [n for n, _ in module.named_parameters()]
            raise OptionError(f"shared: {type(module).__name__} has no parameters {name!r}{nearest(name, known)}")
        found.update(dict.fromkeys(own))
    return list(found)


def _on(value: Any, device: torch.device) -> Any:
    """A state with its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: _on(each, device) for name, each in value.items()}
    return type(value)(_on(each, device) for each in value) if isinstance(value, list | tuple) else value


@contextmanager
def _reusable_buffers() -> Iterator[None]:
    """What is compiled now can be differentiated more than once."""
    from torch._functorch import config

    patch: Callable[..., Any] = config.patch
    with patch(donated_buffer=False):
        yield
