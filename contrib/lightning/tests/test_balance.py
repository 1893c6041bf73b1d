"""Several losses in a `LightningModule`: the same numbers as a loop written by hand, however the trainer is set up."""

from __future__ import annotations

import copy
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from sklearn.datasets import load_digits
from structlog.testing import capture_logs
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, RunError, UnknownComponentError
from crosstask.points.balancer import Balancer
from crosstask_lightning import Balance

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's, of torch's pytrees and of loaders without workers
SAFELY: dict[str, Any] = {"weights_only": True} if "weights_only" in inspect.signature(Trainer.fit).parameters else {}
"""How a checkpoint is loaded: before 2.6 `fit` has no such option."""
ROWS = 48


def data() -> TensorDataset:
    pixels, digit = (torch.from_numpy(part)[:ROWS] for part in load_digits(return_X_y=True))
    return TensorDataset(pixels / 16, digit, (digit % 2).double(), pixels.mean(1) / 4)


class Digits(LightningModule):
    """Which digit, and how much ink; a trunk and two heads."""

    def __init__(self, decay: float = 0.01, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh())
        self.heads = nn.ModuleDict({"digit": nn.Linear(8, 10), "odd": nn.Linear(8, 1), "ink": nn.Linear(8, 1)})
        self.decay = decay
        self.to(dtype)

    def losses(self, batch: list[Tensor]) -> dict[str, Tensor]:
        images, digit, odd, ink = batch
        features = self.trunk(images.to(next(self.trunk.parameters()).dtype))
        found = {name: head(features).float() if self.bf16 else head(features) for name, head in self.heads.items()}
        odd, ink = odd.to(found["odd"].dtype), ink.to(found["ink"].dtype)
        return {
            "digit": nn.functional.cross_entropy(found["digit"], digit),
            "odd": nn.functional.binary_cross_entropy_with_logits(found["odd"][:, 0], odd),
            "ink": 5 * nn.functional.mse_loss(found["ink"][:, 0], ink),
        }

    bf16 = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.losses(batch)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("total", sum(self.losses(batch).values()))

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": self.trunk.parameters(), "weight_decay": self.decay},
            {"params": self.heads.parameters(), "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, 1e-2)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer_of(balance: Any, steps: int = 6, **more: Any) -> Trainer:
    given: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False, "max_steps": steps,
        "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "max_epochs": 50,
    }  # fmt: skip
    callbacks = balance if isinstance(balance, list) else [balance]
    return Trainer(callbacks=callbacks, **(given | more))


def loader(size: int = 8, rows: int = ROWS) -> DataLoader[Any]:
    return DataLoader(torch.utils.data.Subset(data(), range(rows)), batch_size=size)


def trained(balance: Any, module: LightningModule | None = None, size: int = 8, rows: int = ROWS, **more: Any) -> Any:
    module = Digits() if module is None else module
    trainer_of(balance, **more).fit(module, loader(size, rows))
    return module


def made(name: str, **options: Any) -> Balancer:
    found = LocalContext().component("balancer", name, options)
    assert isinstance(found, Balancer)
    return found


def batches(size: int, steps: int, rows: int = ROWS) -> list[list[Tensor]]:
    every = [[part[n : min(n + size, rows)] for part in data().tensors] for n in range(0, rows, size)]
    return [every[step % len(every)] for step in range(steps)]


def by_hand(
    balancer: Balancer,
    steps: int = 6,
    *,
    size: int = 8,
    rows: int = ROWS,
    module: Digits | None = None,
    clip: Callable[[list[nn.Parameter]], Any] = lambda parameters: None,
    losses: Callable[[Digits, list[Tensor], int], dict[str, Tensor]] = lambda module, batch, step: module.losses(batch),
    factor: Callable[[int], float] = lambda step: 1.0,
) -> Digits:
    """The same training with a plain loop."""
    module = Digits() if module is None else module
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    optimizer.param_groups[1]["params"].extend(balancer.parameters())
    for step, batch in enumerate(batches(size, steps, rows)):
        found = losses(module, batch, step)
        optimizer.zero_grad()
        balancer.backward(found, module.trunk.parameters())
        everything = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in everything:
            if parameter.grad is not None:
                parameter.grad *= factor(step)
        clip(everything)
        optimizer.step()
        schedule.step()
    return module


def same(one: nn.Module, other: nn.Module, tolerance: float = 1e-10) -> None:
    for (name, first), second in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize(
    ("name", "options"),
    [("pcgrad", {}), ("rgb", {}), ("uncertainty", {"initial": 0.1}), ("dwa", {"temperature": 1.0}), ("rlw", {})],
)
def test_a_training_is_what_a_loop_by_hand_gives(name: str, options: dict[str, Any], accumulated: int) -> None:
    """Accumulated batches are one large batch; a schedule, weight decay, a balancer with parameters of its own."""
    balance = Balance(name, options)
    module = trained(balance, size=8 // accumulated, accumulate_grad_batches=accumulated)
    expected = made(name, **options)
    same(module, by_hand(expected))
    assert balance.balancer.name == name
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(balance.balancer.state_dict()[key], value)
    assert not {"training_step", "backward", "manual_backward"} & set(vars(module))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_what_is_clipped_is_the_balanced_gradient(algorithm: str) -> None:
    clip = {
        "norm": lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.1),
        "value": lambda parameters: nn.utils.clip_grad_value_(parameters, 0.01),
    }[algorithm]
    value = {"norm": 0.1, "value": 0.01}[algorithm]
    module = trained(Balance("uncertainty"), gradient_clip_val=value, gradient_clip_algorithm=algorithm)
    same(module, by_hand(made("uncertainty"), clip=clip))
    with pytest.raises(AssertionError):
        same(module, by_hand(made("uncertainty")))


class Summed(Digits):
    """What Lightning does with one loss."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return sum(self.losses(batch).values())


def test_equal_weights_are_lightning_with_the_sum_to_the_last_step_of_an_epoch() -> None:
    """11 batches, three a step: the last step of an epoch has two, which Lightning weighs by a third each. A balancer
    sees the mean of the two, and the update is two thirds.
    """
    given: dict[str, Any] = {"size": 4, "rows": 44, "accumulate_grad_batches": 3, "steps": 10}
    same(trained(Balance("equal"), **given), trained([], Summed(), **given))
    last = {3, 7}
    seen = trained(Balance("rgb"), **given)

    def losses(module: Digits, batch: list[Tensor], step: int) -> dict[str, Tensor]:
        begin = 12 * (step % 4)
        return module.losses([part[begin : min(begin + 12, 44)] for part in data().tensors])

    same(seen, by_hand(made("rgb"), 10, losses=losses, factor=lambda step: 2 / 3 if step in last else 1.0))


def test_a_schedule_of_accumulation() -> None:
    given: dict[str, Any] = {"size": 4, "rows": 16, "steps": 8}
    ours = trained([Balance("equal"), GradientAccumulationScheduler({0: 1, 1: 2})], **given)
    same(ours, trained([GradientAccumulationScheduler({0: 1, 1: 2})], Summed(), **given))


def test_half_precision_is_as_autocast_gives_it() -> None:
    def losses(module: Digits, batch: list[Tensor], step: int) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            return module.losses(batch)

    def fresh() -> Digits:
        module = Digits(dtype=torch.float32)
        module.bf16 = True
        return module

    ours = trained(Balance("pcgrad"), fresh(), precision="bf16-mixed")
    same(ours, by_hand(made("pcgrad"), module=fresh(), losses=losses), 1e-6)
    with pytest.raises(AssertionError):
        same(ours, by_hand(made("pcgrad"), module=fresh()), 1e-6)


class Full(MixedPrecision):
    """A scaler as in 16-mixed, with whole floats, so that what it does can be compared."""

    def __init__(self, scale: float, **more: Any) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, **more))

    def autocast_context_manager(self) -> Any:
        return torch.autocast("cpu", enabled=False)


@pytest.mark.parametrize(("name", "accumulated"), [("pcgrad", 1), ("uncertainty", 2), ("dwa", 1)])
def test_a_scaler_changes_nothing(name: str, accumulated: int) -> None:
    """Balancers see unscaled gradients, and what is clipped is unscaled."""
    module = trained(
        Balance(name, conflicts=True), size=8 // accumulated, accumulate_grad_batches=accumulated,
        gradient_clip_val=0.1, plugins=[Full(2.0**12)],
    )  # fmt: skip
    same(module, by_hand(made(name), clip=lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.1)), 1e-8)


class Watch(Callback):
    """What balancer and module are after each batch."""

    def __init__(self, balance: Balance) -> None:
        self.balance, self.seen = balance, []  # type: ignore[var-annotated]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        state = copy.deepcopy([self.balance.balancer.state_dict(), dict(pl_module.state_dict())])
        self.seen.append([*state, trainer.precision_plugin.scaler.get_scale()])  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "accumulated"), [("pcgrad", 2), ("uncertainty", 1), ("dwa", 1), ("rgb", 2)])
def test_a_step_that_overflows_leaves_no_trace(name: str, accumulated: int) -> None:
    """Neither in the weights nor in the balancer's state, also of one that looks at losses only."""
    balance = Balance(name)
    watch, fresh = Watch(balance), made(name).state_dict()
    plugin = Full(2.0**127, backoff_factor=2.0**-100)
    before = Digits(dtype=torch.float32)
    module = trained(
        [balance, watch], copy.deepcopy(before), plugins=[plugin], accumulate_grad_batches=accumulated,
        size=8 // accumulated, limit_train_batches=3 * accumulated, max_epochs=1, steps=-1,
    )  # fmt: skip
    first = watch.seen[accumulated - 1]
    assert first[0] == fresh
    assert all(torch.equal(value, first[1][key]) for key, value in before.state_dict().items())
    assert first[2] == 2.0**27
    expected = Digits(dtype=torch.float32)
    made_ = expected.configure_optimizers()
    optimizer, balancer = made_["optimizer"], made(name)
    optimizer.param_groups[1]["params"].extend(balancer.parameters())
    for rate, batch in zip((1 / 2, 1 / 3), batches(8, 3)[1:], strict=True):  # Lightning counts the skipped step
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * rate
        optimizer.zero_grad()
        balancer.backward(expected.losses(batch), expected.trunk.parameters())
        optimizer.step()
    same(module, expected, 1e-4)


@pytest.mark.parametrize("name", ["rgb", "uncertainty", "famo"])
def test_a_resumed_training_goes_on_with_the_balancers_state(tmp_path: Path, name: str) -> None:
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    whole = trained([Balance(name), keep], size=4, rows=24, accumulate_grad_batches=2, enable_checkpointing=True)
    balance, module = Balance(name), Digits()
    second = trainer_of(balance, accumulate_grad_batches=2)
    second.fit(module, loader(4, 24), ckpt_path=tmp_path / "step=3.ckpt", **SAFELY)
    same(module, whole, 1e-12)
    with pytest.raises(OptionError, match=f"has the state of balancer '{name}', this training has 'pcgrad'"):
        trainer_of(Balance("pcgrad")).fit(Digits(), loader(4), ckpt_path=tmp_path / "step=3.ckpt", **SAFELY)


def test_a_training_with_one_loss_goes_on_with_several(tmp_path: Path) -> None:
    """The optimiser of the checkpoint knows nothing of the balancer's parameters."""
    first = trainer_of([], steps=3)
    first.fit(Summed(), loader())
    first.save_checkpoint(tmp_path / "at3.ckpt")
    with capture_logs() as said:
        module, balance = Digits(), Balance("uncertainty")
        trainer_of(balance).fit(module, loader(), ckpt_path=tmp_path / "at3.ckpt", **SAFELY)
    assert [each["event"] for each in said if each["log_level"] == "warning"] == ["balancer_begins_afresh"]
    assert all(float(scale) != 0 for scale in balance.balancer.state_dict()["scales"].values())


def test_another_fit_goes_on_where_the_first_stopped() -> None:
    balance = Balance("rgb")
    trainer, module = trainer_of(balance, steps=3), Digits()
    trainer.fit(module, loader())
    trainer.fit_loop.epoch_loop.max_steps = 6
    assert "backward" not in vars(module)
    state = balance.balancer.state_dict()
    trainer.fit(module, loader())
    assert balance.balancer.state_dict()["updates"] == 2 * state["updates"]


def test_validation_is_the_modules_own() -> None:
    trainer, module = trainer_of(Balance("pcgrad")), Digits()
    (before,) = trainer.validate(module, loader(ROWS), verbose=False)
    assert before["total"] == pytest.approx(
        float(torch.stack(list(module.losses(list(data().tensors)).values())).sum().detach())
    )
    trainer.fit(module, loader(), loader(ROWS))
    (after,) = trainer.validate(module, loader(ROWS), verbose=False)
    assert after["total"] == pytest.approx(
        float(torch.stack(list(module.losses(list(data().tensors)).values())).sum().detach())
    )
    assert after["total"] < before["total"]


def test_losses_weights_and_conflicts_are_logged(tmp_path: Path) -> None:
    module = trained(
        Balance("scale_invariant", conflicts=True), logger=CSVLogger(tmp_path), log_every_n_steps=2,
        accumulate_grad_batches=2, size=4,
    )  # fmt: skip
    lines = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, map(float, line.split(",")), strict=True)) for line in lines[1:]]
    assert [row["step"] for row in rows] == [1, 3, 5]
    seen = by_hand(made("scale_invariant"), 1)
    found = seen.losses(batches(8, 2)[1])
    for name, loss in found.items():
        assert rows[0][f"loss_{name}"] == pytest.approx(float(loss.detach()))
        assert rows[0][f"loss_{name}"] * rows[0][f"weight_{name}"] == pytest.approx(1)
    flat = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(seen.trunk.parameters()), retain_graph=True)])
        for loss in found.values()
    ]
    pairs = [(0, 1), (0, 2), (1, 2)]
    cosines = [float(nn.functional.cosine_similarity(flat[a], flat[b], dim=0)) for a, b in pairs]
    assert rows[0]["mean_cosine"] == pytest.approx(sum(cosines) / 3)
    assert rows[0]["conflict_share"] == pytest.approx(sum(c < 0 for c in cosines) / 3)
    quiet = trainer_of(Balance("pcgrad", log=False))
    quiet.fit(module, loader())
    assert not quiet.callback_metrics


def test_nobody_looks_at_conflicts_unasked() -> None:
    trainer = trainer_of(Balance("dwa"))
    trainer.fit(Digits(), loader())
    assert set(trainer.callback_metrics) == {
        f"{what}_{n}" for what in ("loss", "weight") for n in ("digit", "odd", "ink")
    }


class Rare(Digits):
    """`ink` is missing in every second batch, in each of two ways; and other callbacks are to see something."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        losses: dict[str, Tensor | None] = dict(self.losses(batch))
        if batch_idx % 4 == 1:
            del losses["ink"]
        if batch_idx % 4 == 3:
            losses["ink"] = None
        return {"losses": losses, "seen": batch_idx}


@pytest.mark.parametrize("name", ["rgb", "uncertainty", "dwa"])
def test_a_task_may_be_missing_in_a_batch(name: str) -> None:
    def losses(module: Digits, batch: list[Tensor], step: int) -> dict[str, Tensor]:
        return {n: loss for n, loss in module.losses(batch).items() if n != "ink" or step % 2 == 0}

    outputs = []

    class Looks(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, found: Any, *_: Any) -> None:
            outputs.append((found["seen"], sorted(found)))

    same(trained([Balance(name), Looks()], Rare()), by_hand(made(name), losses=losses))
    assert outputs == [(n, ["loss", "seen"]) for n in range(6)]


def test_a_task_that_is_missing_in_some_accumulated_batches() -> None:
    """It counts for nothing there, as in Lightning with one loss."""

    class Sum(Rare):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return sum(loss for loss in super().training_step(batch, batch_idx)["losses"].values() if loss is not None)

    given: dict[str, Any] = {"accumulate_grad_batches": 2, "size": 4}
    same(trained(Balance("equal"), Rare(), **given), trained([], Sum(), **given))


@pytest.mark.parametrize("skipped", [{1}, {0}, {0, 1}])
def test_batches_that_are_skipped(skipped: set[int]) -> None:
    """`training_step` returns None: Lightning steps with the batches that there are."""

    class Skips(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return None if batch_idx in skipped else super().training_step(batch, batch_idx)

    class Sum(Skips):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            losses = super().training_step(batch, batch_idx)
            return losses and sum(losses.values())

    given: dict[str, Any] = {"accumulate_grad_batches": 2, "size": 4, "max_epochs": 1, "steps": -1}
    same(trained(Balance("equal"), Skips(), **given), trained([], Sum(), **given))


def frozen() -> Digits:
    module = Digits()
    module.trunk.requires_grad_(False)
    return module


def test_heads_on_a_frozen_trunk_are_trained_each_by_its_loss() -> None:
    class Sum(Summed):
        def __init__(self) -> None:
            super().__init__()
            self.trunk.requires_grad_(False)

    with capture_logs() as said:
        ours = trained(Balance("pcgrad"), frozen(), accumulate_grad_batches=2, size=4)
    assert [each["event"] for each in said].count("nothing_to_balance") == 1
    same(ours, trained([], Sum()))

    weighed, other = trained(Balance("uncertainty"), frozen()), frozen()
    made_ = other.configure_optimizers()
    optimizer, schedule = made_["optimizer"], made_["lr_scheduler"]["scheduler"]
    scales = [nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(3)]
    optimizer.param_groups[1]["params"].extend(scales)
    for batch in batches(8, 6):
        optimizer.zero_grad()
        pairs = zip(scales, other.losses(batch).values(), strict=True)
        torch.stack([(-s).exp() * loss + s for s, loss in pairs]).sum().backward()
        optimizer.step()
        schedule.step()
    same(weighed, other)


def test_part_of_the_trunk_may_thaw() -> None:
    class Thaws(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            pl_module.trunk[0].requires_grad_(batch_idx >= 3)

    def losses(module: Digits, batch: list[Tensor], step: int) -> dict[str, Tensor]:
        module.trunk[0].requires_grad_(step >= 3)
        return module.losses(batch)

    same(trained([Balance("rgb"), Thaws()]), by_hand(made("rgb"), losses=losses))


def test_shared_parameters_can_be_named() -> None:
    ours = trained(Balance("pcgrad", shared=["trunk.2", "trunk.0.bias"]))
    other = Digits()
    made_ = other.configure_optimizers()
    balancer = made("pcgrad")
    for batch in batches(8, 6):
        made_["optimizer"].zero_grad()
        balancer.backward(other.losses(batch), [p for n, p in other.trunk.named_parameters() if n != "0.weight"])
        made_["optimizer"].step()
        made_["lr_scheduler"]["scheduler"].step()
    same(ours, other)
    with pytest.raises(OptionError, match=r"shared: Digits has no parameters 'trunc'.*did you mean 'trunk'"):
        trained(Balance("pcgrad", shared="trunc"))


class Manual(Digits):
    """Manual optimisation: an optimiser for the trunk, one for the heads, and a loss of its own every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.extra = nn.Linear(64, 1).double()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        optimizers: Any = self.optimizers()
        trunk, heads = optimizers
        losses: Any = self.losses(batch)
        trunk.zero_grad()
        heads.zero_grad()
        self.manual_backward(losses, retain_graph=True)
        if batch_idx % 2:
            self.manual_backward(self.extra(batch[0]).square().mean())
        trunk.step()
        heads.step()
        return sum(losses.values())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.trunk.parameters(), 1e-2), torch.optim.SGD(
            [*self.heads.parameters(), *self.extra.parameters()], 1e-1
        )


def manual_by_hand(size: int = 8) -> Manual:
    torch.manual_seed(0)
    module, balancer = Manual(), made("pcgrad")
    optimizers = module.configure_optimizers()
    for step, batch in enumerate(batches(size, 6)):
        for optimizer in optimizers:
            optimizer.zero_grad()
        balancer.backward(module.losses(batch), module.trunk.parameters())
        if step % 2:
            module.extra(batch[0]).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    return module


@pytest.mark.parametrize("plugins", [[], [Full(2.0**10)]])
def test_manual_optimisation(plugins: list[Any]) -> None:
    torch.manual_seed(0)
    same(trained(Balance("pcgrad"), Manual(), steps=12, plugins=plugins), manual_by_hand())


def test_manual_losses_that_are_none_are_said() -> None:
    class Wrong(Manual):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            losses: Any = self.losses(batch)
            self.manual_backward(losses, create_graph=True)

    with pytest.raises(OptionError, match="takes `retain_graph` and nothing else"):
        trained(Balance("pcgrad"), Wrong())


def test_many_tasks_come_one_by_one() -> None:
    """`uncertainty` prepares parameters for 32 tasks; the optimiser is given those that come."""

    class Many(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return {f"{name}{n}": (n + 1) * loss for n in range(12) for name, loss in self.losses(batch).items()}

    balance = Balance("uncertainty")
    trained(balance, Many())
    scales = balance.balancer.state_dict()["scales"]
    assert len(scales) == 36
    assert all(float(scale) > 0.02 for scale in list(scales.values())[32:])


@pytest.mark.parametrize("what", ["trunk", "all"])
def test_a_compiled_module(what: str) -> None:
    """Compiled alone, a trunk is found; where heads are compiled with it, it is named."""
    given: dict[str, Any] = {"steps": 3}
    module = Digits()
    if what == "trunk":
        module.trunk.compile(backend="aot_eager")
        trainer_of(Balance("pcgrad"), **given).fit(module, loader())
    else:
        compiled: Any = torch.compile(module, backend="aot_eager")
        with pytest.raises(RunError, match=r"one compiled graph.*Balance.shared=\"trunk\""):
            trainer_of(Balance("pcgrad"), **given).fit(compiled, loader())
        trainer_of(Balance("pcgrad", shared="trunk"), **given).fit(compiled, loader())
    same(module, by_hand(made("pcgrad"), 3))


def test_a_stack_of_losses_says_nothing_about_them() -> None:
    class Stacked(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            losses = super().training_step(batch, batch_idx)
            return dict(zip(losses, torch.stack(list(losses.values())), strict=True))

    for accumulated in (1, 2):
        with pytest.raises(RunError, match="out of one tensor"):
            trained(Balance("pcgrad"), Stacked(), accumulate_grad_batches=accumulated)
    same(trained(Balance("pcgrad", shared="trunk"), Stacked()), by_hand(made("pcgrad")))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (torch.ones(()), "training_step must return a mapping of losses by task name, got a Tensor"),
        ({}, "got an empty one"),
        ({"losses": None}, "got a NoneType"),
        ({"a": 1.0}, r"the loss of task 'a' must be a single number .a mean., got a float"),
        ({"a": torch.ones(3)}, r"the loss of task 'a' must be a single number .a mean., got shape .3,."),
        ({"a": None}, r"the loss of one task at least, all of .'a'. are None"),
    ],
)
def test_what_are_no_losses_is_said(found: Any, said: str) -> None:
    class Wrong(Digits):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return found

    module = Wrong()
    with pytest.raises(DataError, match=said):
        trained(Balance("pcgrad"), module)
    assert "backward" not in vars(module)  # also after an exception


def test_what_cannot_be_set_up_is_said_at_once() -> None:
    with pytest.raises(UnknownComponentError, match="did you mean 'pcgrad'"):
        Balance("pcgrat")
    with pytest.raises(OptionError, match=r"options .'x'. belong to a balancer that is named"):
        Balance(made("rgb"), {"x": 1})
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `Balance`"):  # Lightning itself
        trained([Balance("rgb"), Balance("pcgrad")])

    class Own(Digits):
        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            loss.backward()

    with pytest.raises(OptionError, match="Own has a `backward` of its own"):
        trained(Balance("rgb"), Own())
    trainer: Any = trainer_of(Balance("rgb"))
    for strategy, said in ((FSDPStrategy.__new__(FSDPStrategy), "whole parameters on every process, FSDPStrategy"),):
        trainer.strategy.__class__, kept = type(strategy), trainer.strategy.__class__
        with pytest.raises(OptionError, match=said):
            trainer.callbacks[0].setup(trainer, Digits(), "fit")
        trainer.strategy.__class__ = kept


RANKS = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_balance as t
from crosstask_lightning import Balance
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
import torch.distributed as dist

folder = Path(sys.argv[2])


def fitted(name, module, balance, accumulated=1, steps=6, ckpt=None, rows=48, **more):
    strategy = DDPStrategy(process_group_backend="gloo", **more)
    trainer = t.trainer_of(balance, steps=steps, devices=2, strategy=strategy, accumulate_grad_batches=accumulated,
                           enable_checkpointing=isinstance(balance, list), use_distributed_sampler=False)
    part = torch.utils.data.Subset(t.data(), range(trainer.global_rank, rows, 2))  # each process has every second row
    loader = torch.utils.data.DataLoader(part, batch_size=8 // 2 // accumulated)
    trainer.fit(module, loader, ckpt_path=ckpt, **t.SAFELY)
    torch.save([module.state_dict(), dict(trainer.callback_metrics)], folder / f"{name}-{trainer.global_rank}.pt")
    return trainer


for name, several in (("pcgrad", (1, 2)), ("uncertainty", (2,))):
    for accumulated in several:
        fitted(f"{name}{accumulated}", t.Digits(), Balance(name, conflicts=True), accumulated)
fitted("unused", t.Digits(), Balance("rgb"), find_unused_parameters=True)
fitted("static", t.Digits(), Balance("rgb"), static_graph=True)
keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
fitted("whole", t.Digits(), [Balance("rgb"), keep], rows=24)
fitted("resumed", t.Digits(), Balance("rgb"), ckpt=folder / "step=3.ckpt", rows=24)
torch.manual_seed(0)
fitted("manual", t.Manual(), Balance("pcgrad"), steps=12)
fitted("frozen", t.frozen(), Balance("pcgrad"))


class Norms(t.Digits):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(64).double()

    def losses(self, batch):
        return super().losses([self.norm(batch[0]), *batch[1:]])


fitted("norms", Norms(), Balance("pcgrad"), steps=5)


class Differs(t.Digits):
    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        del losses["odd" if self.global_rank else "ink"]
        return losses


try:
    fitted("differs", Differs(), Balance("pcgrad"))
except Exception as error:
    (folder / f"differs-{dist.get_rank()}").write_text(str(error))
os._exit(0)  # a thread of torch's may abort the process as Python ends; what was learned is written
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    done = subprocess.run(
        [*command, str(Path(__file__).parent), str(folder)], capture_output=True, text=True, timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    yield lambda name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
    for rank in range(2):
        said = (folder / f"differs-{rank}").read_text()
        assert said.startswith(f"processes differ in the tasks of this step (here digit, {('odd', 'ink')[rank]})")


def near(state: dict[str, Tensor], module: nn.Module, tolerance: float = 1e-9) -> None:
    for name, value in module.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(("name", "accumulated"), [("pcgrad", 1), ("pcgrad", 2), ("uncertainty", 2)])
def test_two_processes_are_one_with_the_whole_batch(ranks: Any, name: str, accumulated: int) -> None:
    """Each takes every second row, so that their batches together are the same rows."""
    first, second = ranks(f"{name}{accumulated}")
    near(first[0], by_hand(made(name)))
    assert all(torch.equal(value, second[0][key]) for key, value in first[0].items())
    assert first[1]["weight_digit"] == second[1]["weight_digit"]
    assert first[1]["mean_cosine"] == second[1]["mean_cosine"]


@pytest.mark.parametrize(("name", "rows"), [("unused", 48), ("static", 48), ("whole", 24), ("resumed", 24)])
def test_the_options_of_ddp_change_nothing(ranks: Any, name: str, rows: int) -> None:
    near(ranks(name)[0][0], by_hand(made("rgb"), rows=rows))


def test_manual_and_frozen_in_two_processes(ranks: Any) -> None:
    near(ranks("manual")[1][0], manual_by_hand())
    near(ranks("frozen")[1][0], trained(Balance("pcgrad"), frozen()))


def test_buffers_are_the_first_processes_as_with_one_loss(ranks: Any) -> None:
    """DDP gives all processes the buffers of the first before each batch."""
    first, second = ranks("norms")
    one, other = (each[0]["norm.running_mean"] for each in (first, second))
    assert not torch.equal(one, other)  # the last batch was each one's own
    rows = data().tensors[0]
    mean = torch.zeros(64, dtype=torch.float64)
    for step in range(5):
        mean = 0.9 * mean + 0.1 * rows[8 * step : 8 * step + 8 : 2].mean(0)
    torch.testing.assert_close(one, mean)
    before = (mean - 0.1 * rows[32:40:2].mean(0)) / 0.9
    torch.testing.assert_close(other, 0.9 * before + 0.1 * rows[33:40:2].mean(0))
