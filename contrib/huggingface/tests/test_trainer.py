"""Several losses in a `Trainer`: the same numbers as a loop written by hand, however the training is set up."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor, nn
from transformers import BertConfig, BertModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainingArguments

from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, RunError, UnknownComponentError
from crosstask.learning.checkpoint import load_state
from crosstask.points.balancer import Balancer
from crosstask.registry import Registry
from crosstask_huggingface import BalancedTrainer, Balancing

CONFIG = BertConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=8,
)  # fmt: skip


class TwoHeads(nn.Module):
    """BERT with two questions about a text."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = BertModel(CONFIG, add_pooling_layer=False)
        self.mood, self.topic = nn.Linear(16, 2), nn.Linear(16, 3)

    def forward(self, input_ids: Tensor, mood: Tensor, topic: Tensor) -> dict[str, Any]:
        features = self.trunk(input_ids).last_hidden_state[:, 0]
        logits = {"mood": self.mood(features), "topic": self.topic(features)}
        losses = {
            "mood": nn.functional.cross_entropy(logits["mood"], mood),
            "topic": 5 * nn.functional.cross_entropy(logits["topic"], topic),
        }
        return {"losses": losses, "logits": logits["mood"]}


def rows(count: int = 48) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 40, (count, 6), generator=generator)
    return [{"input_ids": i, "mood": i.sum() % 2, "topic": i[0] % 3} for i in ids]


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    given = {
        "output_dir": str(folder), "use_cpu": True, "report_to": "none", "disable_tqdm": True,
        "per_device_train_batch_size": 4, "learning_rate": 1e-2, "weight_decay": 0.01, "max_grad_norm": 0.5,
        "max_steps": 6, "save_strategy": "no", "logging_steps": 2, "label_names": ["mood", "topic"],
    }  # fmt: skip
    return TrainingArguments(**(given | more))


class InOrder(BalancedTrainer):
    """Rows come in their order."""

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset if dataset is None else dataset)


def trainer_of(
    folder: Path,
    balancer: Any = "pcgrad",
    model: nn.Module | None = None,
    count: int = 48,
    own: dict[str, Any] | None = None,
    **more: Any,
) -> BalancedTrainer:
    model = TwoHeads().double() if model is None else model
    return InOrder(
        model, arguments(folder, **more), train_dataset=rows(count), eval_dataset=rows(8), balancer=balancer,
        **(own or {}),
    )  # fmt: skip


def trained(folder: Path, *args: Any, **more: Any) -> BalancedTrainer:
    trainer = trainer_of(folder, *args, **more)
    trainer.train()
    return trainer


def by_hand(balancer: Balancer, batches: list[list[int]], autocast: bool = False, clip: float = 0.5) -> nn.Module:
    """The same training with a plain loop: AdamW, a linear schedule, clipped gradients."""
    model = TwoHeads() if autocast else TwoHeads().double()
    shared = list(model.trunk.parameters())
    decayed = [p for n, p in model.named_parameters() if "bias" not in n and "LayerNorm" not in n]
    plain = [p for n, p in model.named_parameters() if "bias" in n or "LayerNorm" in n]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": [*plain, *balancer.parameters()]}]
    optimizer = torch.optim.AdamW(groups, 1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
    data = rows()
    for batch in batches:
        inputs = {name: torch.stack([data[row][name] for row in batch]) for name in data[0]}
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = model.train()(**inputs)["losses"]
        balancer.backward({name: loss.float() if autocast else loss for name, loss in losses.items()}, shared)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        schedule.step()
    return model


def in_fours(steps: int, count: int = 48) -> list[list[int]]:
    return [[(4 * step + n) % count for n in range(4)] for step in range(steps)]


def same(one: nn.Module, other: nn.Module, tolerance: float = 1e-9) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=tolerance, atol=tolerance)


def made(name: str, **options: Any) -> Balancer:
    found = LocalContext(42).component("balancer", name, options)
    assert isinstance(found, Balancer)
    return found


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize(("name", "options"), [("pcgrad", {}), ("rgb", {}), ("uncertainty", {"initial": 0.1})])
def test_a_training_is_what_a_loop_by_hand_gives(
    tmp_path: Path, name: str, options: dict[str, Any], accumulated: int
) -> None:
    """Small batches that are accumulated are one large batch; gradients are clipped, weights decay."""
    own = {"balancer_options": options}
    trainer = trained(
        tmp_path, name, own=own, gradient_accumulation_steps=accumulated, per_device_train_batch_size=4 // accumulated
    )
    expected = made(name, **options)
    same(trainer.model, by_hand(expected, in_fours(6)))
    assert trainer.balancer.name == name
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(trainer.balancer.state_dict()[key], value)


def test_what_is_left_of_an_epoch_is_a_step_too(tmp_path: Path) -> None:
    """11 small batches, two a step: the last step of an epoch has one, whose gradient is made another way. What `rgb`
    keeps of each parameter fits it all the same.
    """
    trainer = trained(
        tmp_path, "rgb", count=22, gradient_accumulation_steps=2, per_device_train_batch_size=2, max_steps=8
    )
    epoch = [*in_fours(5), [20, 21]]
    same(trainer.model, by_hand(made("rgb"), [*epoch, *epoch[:2]]))


def test_half_precision_is_as_autocast_gives_it(tmp_path: Path) -> None:
    trainer = trained(tmp_path, model=TwoHeads(), bf16=True)
    expected = by_hand(made("pcgrad"), in_fours(6), autocast=True)
    same(trainer.model, expected, 1e-6)
    with pytest.raises(AssertionError):
        same(trained(tmp_path, model=TwoHeads()).model, expected, 1e-6)


@pytest.mark.parametrize(("name", "accumulated"), [("pcgrad", 1), ("uncertainty", 2)])
def test_scaled_losses_change_nothing_and_what_overflows_is_skipped(
    tmp_path: Path, name: str, accumulated: int
) -> None:
    """A scaler as in half floats: gradients, and those of the balancer, are unscaled before they are clipped."""
    options: dict[str, Any] = {
        "own": {"conflicts": True}, "gradient_accumulation_steps": accumulated, "max_grad_norm": 0,
        "per_device_train_batch_size": 4 // accumulated,
    }  # fmt: skip
    trainer = trainer_of(tmp_path, name, **options)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    trainer.train()
    same(trainer.model, by_hand(made(name), in_fours(6), clip=1e9), 1e-7)
    trainer = trainer_of(tmp_path, name, TwoHeads(), max_steps=1, logging_steps=1, **options)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.state_dict().items())
    assert trainer.accelerator.scaler.get_scale() == 2.0**126
    assert all(not p.numel() or float(p.detach()) == 0 for p in trainer.balancer.parameters())


@pytest.mark.parametrize("name", ["rgb", "uncertainty"])
def test_a_resumed_training_goes_on_with_the_balancers_state(tmp_path: Path, name: str) -> None:
    whole = trained(tmp_path / "a", name, save_strategy="steps", save_steps=3, gradient_accumulation_steps=2)
    kept = load_state(tmp_path / "a" / "checkpoint-3" / "balancer.safetensors")
    assert kept["balancer"] == name
    again = trainer_of(tmp_path / "b", name, gradient_accumulation_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    same(again.model, whole.model, 1e-12)
    (tmp_path / "a" / "checkpoint-3" / "balancer.safetensors").unlink()
    afresh = trainer_of(tmp_path / "c", name, gradient_accumulation_steps=2)
    with capture_logs() as said:
        afresh.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert [each["event"] for each in said if each["log_level"] == "warning"][:1] == ["balancer_begins_afresh"]
    with pytest.raises(AssertionError):
        same(afresh.model, whole.model, 1e-12)


def test_a_checkpoint_of_another_balancer_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, "rgb", save_strategy="steps", save_steps=3)
    with pytest.raises(OptionError, match="is the state of balancer 'rgb', this training has 'pcgrad'"):
        trainer_of(tmp_path, "pcgrad").train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_more_tasks_than_prepared_parameters(tmp_path: Path) -> None:
    """`uncertainty` has a parameter for each of 32 tasks from the beginning; the optimiser is given those that come."""

    def losses(model: TwoHeads, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = model(**inputs)["losses"]
        return {f"{name}{n}": (n + 1) * loss for n in range(17) for name, loss in found.items()}

    trainer = trained(tmp_path, "uncertainty", own={"compute_losses": losses}, save_strategy="steps", save_steps=3)
    last = trainer.balancer.state_dict()["scales"]["topic16"]
    assert len(trainer.balancer.parameters()) == 34
    assert float(last) > 0.02  # it was trained, too
    again = trainer_of(tmp_path / "again", "uncertainty", own={"compute_losses": losses})
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    same(again.model, trainer.model, 1e-12)


def test_logs_have_losses_and_weights_of_each_task(tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    trainer = trained(tmp_path, "scale_invariant", logging_steps=1, **options)
    entries = trainer.state.log_history[:6]
    for entry in entries:
        assert entry["loss_mood"] + entry["loss_topic"] == pytest.approx(entry["loss"], abs=1e-4)
        assert entry["loss_topic"] * entry["weight_topic"] == pytest.approx(1, abs=1e-4)
        assert "mean_cosine" not in entry  # nobody looked
    twos = trained(tmp_path, "scale_invariant", logging_steps=2, **options).state.log_history[:3]
    for number, entry in enumerate(twos):
        for name in ("weight_mood", "loss_mood", "weight_topic", "loss_topic"):
            mean = sum(entries[2 * number + n][name] for n in range(2)) / 2
            assert entry[name] == pytest.approx(mean, abs=1e-5)


def test_conflicts_that_are_logged_are_those_of_the_gradients(tmp_path: Path) -> None:
    trainer = trained(tmp_path, "equal", own={"conflicts": True}, max_steps=1, logging_steps=1)
    model, data = TwoHeads().double(), rows()
    inputs = {name: torch.stack([row[name] for row in data[:4]]) for name in data[0]}
    losses = model(**inputs)["losses"]
    one, other = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.trunk.parameters()), retain_graph=True)])
        for loss in losses.values()
    )
    entry = trainer.state.log_history[0]
    assert entry["mean_cosine"] == pytest.approx(float(one @ other / one.norm() / other.norm()), abs=1e-9)
    assert entry["loss_mood"] == pytest.approx(float(losses["mood"].detach()), abs=1e-5)
    assert entry["loss_topic"] == pytest.approx(float(losses["topic"].detach()), abs=1e-5)


def test_evaluation_and_prediction_are_the_trainers(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    inputs = {name: torch.stack([row[name] for row in rows(8)]) for name in rows(1)[0]}
    with torch.no_grad():
        expected = trainer.model.eval()(**inputs)
    found = trainer.predict(rows(8))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(sum(expected["losses"].values())), abs=1e-5)
    torch.testing.assert_close(torch.as_tensor(found.predictions), expected["logits"])

    def losses(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
        made = model(**inputs)
        return made["losses"], {"loss": None, "logits": made["logits"]}

    own = trainer_of(tmp_path, own={"compute_losses": losses})
    own.train()
    same(own.model, trainer.model, 1e-12)
    torch.testing.assert_close(torch.as_tensor(own.predict(rows(8)).predictions), expected["logits"])


def test_parameters_to_balance_can_be_named_and_any_trainer_takes_it(tmp_path: Path) -> None:
    class Mine(Balancing, Seq2SeqTrainer):
        pass

    model = TwoHeads().double()
    shared = list(model.trunk.encoder.parameters())
    mine = Mine(
        model, Seq2SeqTrainingArguments(**{k: v for k, v in arguments(tmp_path, max_steps=1).to_dict().items() if k in (
            "output_dir", "use_cpu", "report_to", "disable_tqdm", "label_names", "max_steps", "save_strategy",
        )}), train_dataset=rows(8), balancer=made("pcgrad"), shared=shared,
    )  # fmt: skip
    mine.train()
    assert mine.balancer.last is not None
    assert mine.balancer.last.gramian is not None


@pytest.mark.parametrize("accumulated", [1, 2])
def test_losses_that_cannot_be_told_apart_are_refused(tmp_path: Path, accumulated: int) -> None:
    def stacked(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        both = torch.stack(list(model(**inputs)["losses"].values()))
        return {"mood": both[0], "topic": both[1]}

    own: dict[str, Any] = {"compute_losses": stacked}
    trainer = trainer_of(tmp_path, own=own, gradient_accumulation_steps=accumulated)
    with pytest.raises(RunError, match="parts of one tensor"):
        trainer.train()
    model = TwoHeads().double()
    own["shared"] = model.trunk.parameters()
    trained(tmp_path, model=model, own=own, gradient_accumulation_steps=accumulated)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "compute_losses must return a mapping of losses by task name, got none"),
        ({}, "got a dict"),
        (torch.ones(()), "got a Tensor"),
        ({"a": 1.0}, "the loss of task 'a' must be a single number .a mean., got a float"),
        ({"a": torch.ones(3)}, "the loss of task 'a' must be a single number .a mean., got shape .3,."),
    ],
)
def test_what_are_no_losses_is_said(tmp_path: Path, found: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        trained(tmp_path, own={"compute_losses": lambda model, inputs: found})


def test_a_model_without_losses_is_said(tmp_path: Path) -> None:
    class Plain(TwoHeads):
        def forward(self, input_ids: Tensor, mood: Tensor, topic: Tensor) -> Any:
            return super().forward(input_ids, mood, topic)["logits"]

    with pytest.raises(DataError, match=r"the model's outputs must hold `losses` .or give compute_losses.: a mapping"):
        trained(tmp_path, model=Plain().double())


def test_what_cannot_be_set_up_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="compute_loss_func gives one loss"):
        trainer_of(tmp_path, own={"compute_loss_func": lambda *args: None})
    with pytest.raises(OptionError, match=r"options .'x'. belong to a balancer that is named"):
        trainer_of(tmp_path, made("rgb"), own={"balancer_options": {"x": 1}})
    with pytest.raises(UnknownComponentError, match="did you mean 'pcgrad'"):
        trainer_of(tmp_path, "pcgrat")

    class Fsdp(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.is_fsdp_enabled = True

    class Sharded(Balancing, Fsdp):
        pass

    with pytest.raises(OptionError, match="balancing needs whole parameters on every process"):
        Sharded(TwoHeads(), arguments(tmp_path), balancer="rgb")


def test_losses_of_a_model_on_several_devices_are_averaged(tmp_path: Path) -> None:
    """nn.DataParallel gives a loss of each device."""
    trainer = trainer_of(tmp_path, own={"compute_losses": lambda model, inputs: {"a": torch.tensor([1.0, 3.0])}})
    trainer.args._n_gpu = 2
    assert trainer.task_losses(trainer.model, {})[0]["a"] == 2.0


RANKS = """
import os, sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_trainer import InOrder, TwoHeads, arguments, rows

folder = Path(sys.argv[2])
for name, several in (("pcgrad", (1, 2)), ("uncertainty", (2,))):
    for accumulated in several:
        trainer = InOrder(
            TwoHeads().double(), arguments(folder / name, per_device_train_batch_size=2 // accumulated,
            gradient_accumulation_steps=accumulated, ddp_backend="gloo", save_strategy="steps", save_steps=3,
            logging_steps=6),
            train_dataset=rows(), balancer=name, conflicts=True)
        trainer.train()
        entry = trainer.state.log_history[0]
        if accumulated == 2:  # goes on from the middle: every rank reads the balancer's state
            trainer = InOrder(TwoHeads().double(), trainer.args, train_dataset=rows(), balancer=name)
            trainer.train(resume_from_checkpoint=str(folder / name / "checkpoint-3"))
        torch.save([trainer.model.state_dict(), entry], folder / f"{name}{accumulated}-{trainer.args.process_index}.pt")
torch.distributed.barrier()
os._exit(0)  # a thread of torch's may abort the process as Python ends, with transformers' own Trainer, too
"""


def test_two_processes_are_one_with_the_whole_batch(tmp_path: Path) -> None:
    """Each takes half of every batch. Small batches that are accumulated interleave: they are the same rows."""
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    done = subprocess.run(
        [*command, str(Path(__file__).parent), str(tmp_path)], capture_output=True, text=True, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name, several in (("pcgrad", (1, 2)), ("uncertainty", (2,))):
        expected = trained(tmp_path, name, own={"conflicts": True}, logging_steps=6)
        for accumulated in several:
            first, second = (torch.load(tmp_path / f"{name}{accumulated}-{rank}.pt") for rank in range(2))
            for key, value in expected.model.state_dict().items():
                assert torch.equal(first[0][key], second[0][key])
                torch.testing.assert_close(first[0][key], value, rtol=1e-9, atol=1e-9)
            assert first[1]["loss_topic"] == second[1]["loss_topic"]
            for key in ("loss_mood", "weight_mood", "mean_cosine", "loss"):
                assert first[1][key] == pytest.approx(expected.state.log_history[0][key], abs=1e-4)


NEEDED: dict[str, dict[str, Any]] = {
    "blend": {"parts": ["pcgrad", "dwa"]}, "sequence": {"parts": ["scale_invariant", "pcgrad"]},
    "fixed": {"weights": {"mood": 1.0, "topic": 0.5}},
}  # fmt: skip
"""Options of those that cannot do without."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in Registry.installed().names("balancer") if name != "krum"])  # of 3
def test_every_balancer_trains_and_goes_on(tmp_path: Path, name: str) -> None:
    in_eights = [[(8 * step + n) % 48 for n in range(8)] for step in range(6)]
    options = {"own": {"balancer_options": NEEDED.get(name, {})}, "gradient_accumulation_steps": 2}
    whole = trained(tmp_path / "a", name, save_strategy="steps", save_steps=3, **options)
    same(whole.model, by_hand(made(name, **NEEDED.get(name, {})), in_eights), 1e-8)
    again = trainer_of(tmp_path / "b", name, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    same(again.model, whole.model, 1e-9)
