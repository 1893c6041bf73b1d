"""`MultiModalMultiTask`: users, items and texts; every fault that the common form of this network has."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, OptionError
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Portfolio, Task
from crosstask_multimodal import MultiModalMultiTask
from crosstask_multitask.trainer import MultiTaskTrainer


def network(**more: object) -> MultiModalMultiTask:
    torch.manual_seed(0)
    given = {"embedding_dim": 8, "hidden_dims": [12, 6], "dropout_rate": 0.0} | more
    return MultiModalMultiTask(10, 20, 30, **given)  # type: ignore[arg-type]


def inputs(rows: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((10, (rows,)), (20, (rows,)), (30, (rows, 4)))
    users, items, texts = (torch.randint(0, size, shape, generator=generator) for size, shape in sizes)
    texts[:, 2:] = 0
    return users, items, texts


def test_the_defaults_and_the_shapes() -> None:
    net = MultiModalMultiTask(10, 20, 30)
    found = net(*inputs())
    assert {name: tuple(logits.shape) for name, logits in found.items()} == {
        "rating": (5, 1), "click": (5, 1), "category": (5, 10),
    }  # fmt: skip
    kinds = {name: config["task_type"] for name, config in net.task_configs.items()}
    assert kinds == {"rating": "regression", "click": "classification", "category": "classification"}
    tables = [m for m in net.modules() if isinstance(m, nn.Embedding)]
    assert [tuple(t.weight.shape) for t in tables] == [(10, 64), (20, 64), (30, 64)]
    assert net.module.trunk.between.heads == 4
    layers = [layer for layer in net.module.trunk.fusion if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [128, 64]
    assert net(*inputs(1))["rating"].shape == (1, 1)  # a training batch of one: nothing normalises over the batch


def test_dropout_is_everywhere_what_was_asked_for() -> None:
    """In the common form that of the heads is .1 whatever is said."""
    net = network(dropout_rate=0.35)
    drops = [m.p for m in net.modules() if isinstance(m, nn.Dropout)]
    assert set(drops) == {0.35}
    assert len(drops) == 1 + 2 + 3


def test_answers_are_logits() -> None:
    """A perfect prediction costs nothing: on top of a softmax it cost .551 at three classes."""
    net = network(task_configs={"kind": {"output_dim": 3, "task_type": "classification", "hidden_dims": []}})
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    users, items, texts = inputs()
    for _ in range(150):
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(users, items, texts)["kind"], users % 3)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.02


def test_padding_does_not_enter_the_mean_of_a_text() -> None:
    users, items, texts = inputs()
    net = network().eval()
    longer = torch.cat([texts, torch.zeros(5, 6).long()], dim=1)
    for one, other in zip(net(users, items, texts).values(), net(users, items, longer).values(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_row_of_the_padding_stays_zero() -> None:
    """In the common form it is drawn over after it was made."""
    net = network()
    table = net.module.trunk.encoder.parts["of text_ids"].weight
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    for _ in range(3):
        sum(logits.square().sum() for logits in net(*inputs()).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert bool((table[0] == 0).all())
    assert bool((table[1:] != 0).all())


def test_a_text_of_padding_alone_and_an_unknown_user_weigh_nothing() -> None:
    """0/0, once padding does not enter the mean."""
    users, items, texts = inputs()
    users[1], texts[2], users[3], items[3], texts[3] = -1, 0, -1, -1, 0
    net = network()
    nn.init.normal_(net.module.queries["task click"], std=5.0)
    found = net(users, items, texts)
    assert all(bool(torch.isfinite(logits).all()) for logits in found.values())
    sum(logits.sum() for logits in found.values()).backward()  # type: ignore[union-attr]
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)
    weights = net.attention(users, items, texts)
    for name in ("rating", "click", "category"):
        assert (weights[name] == 0).int().tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]


def test_the_weights_of_attention_can_be_had() -> None:
    net = network(dropout_rate=0.5)
    found = net.attention(*inputs())
    assert {name: tuple(w.shape) for name, w in found.items()} == {
        "between": (5, 3, 3), "rating": (5, 3), "click": (5, 3), "category": (5, 3),
    }  # fmt: skip
    for weights in found.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert net.training
    assert torch.equal(net.attention(*inputs())["click"], found["click"])


def test_every_width_is_used_and_need_not_divide() -> None:
    net = network(embedding_dim=6, hidden_dims=[11, 7, 5])
    layers = [layer for layer in net.module.trunk.fusion if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [11, 7, 5]
    assert net.module.trunk.between.heads == 3


def test_given_lists_and_tables_are_not_kept() -> None:
    widths = [12, 6]
    configs: dict[str, dict[str, object]] = {"a": {"output_dim": 2, "task_type": "classification"}}
    net = network(hidden_dims=widths, task_configs=configs)
    widths.append(1)
    configs["b"] = {}
    assert list(net(*inputs())) == ["a"]


def test_another_task_leaves_the_others() -> None:
    net = network().eval()
    before = net(*inputs())
    net.add_task("saved", {"output_dim": 2, "task_type": "classification", "hidden_dims": [4, 3]})
    after = net(*inputs())
    assert all(torch.equal(after[name], logits) for name, logits in before.items())
    assert after["saved"].shape == (5, 2)
    net.add_task("stars")
    assert net(*inputs())["stars"].shape == (5, 1)
    with pytest.raises(DataError, match="has a task 'click' already"):
        net.add_task("click")
    net.add_task(Task(descriptor=TaskDescriptor(task_id="kind", output_dim=4)))
    assert net(*inputs())["kind"].shape == (5, 4)
    batch = MultiInput(dict(zip(("user_ids", "item_ids", "text_ids"), inputs(), strict=True)))
    torch.testing.assert_close(net({"click": batch})["click"], before["click"])
    own = [{id(p) for p in net.task_parameters(name)} for name in net.task_configs]
    shared = {id(p) for p in net.shared_parameters()}
    assert sorted(id(p) for p in net.parameters()) == sorted([*shared, *(each for some in own for each in some)])


def test_it_is_trained_by_a_trainer_on_a_table_with_a_mask() -> None:
    """On ratings by a closed form; of the rows, half have been rated and all have a click."""
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randint(0, size, (300,), generator=generator) for size in (10, 20))
    texts = torch.randint(1, 30, (300, 3), generator=generator)
    likes = (users % 2).double() + (items % 3 == 0).double()
    known = torch.stack([torch.rand(300, generator=generator) < 0.5, torch.ones(300).bool()], dim=1)
    tasks = Portfolio.from_table(
        {"user_ids": users, "item_ids": items, "text_ids": texts},
        {"rating": likes, "click": (texts[:, 0] > 15).long()},
        mask=known,
        descriptors={
            "rating": TaskDescriptor(task_id="rating", task_type="regression", output_dim=1),
            "click": TaskDescriptor(task_id="click", output_dim=1),
        },
    )
    configs = {"rating": {}, "click": {"task_type": "classification"}}
    net = network(task_configs=configs)
    balancer = Registry.installed().create("balancer", "rgb")
    assert isinstance(balancer, Balancer)
    budget = Budget(steps=60, batch_size=100, learning_rate=0.03)
    trainer = MultiTaskTrainer(net, list(tasks), balancer, budget, LocalContext())
    trainer.fit()
    assert trainer.history["rating"][-1] < 0.5 * trainer.history["rating"][0]
    assert trainer.history["click"][-1] < trainer.history["click"][0]
    matrix, _ = net.learned({task.task_id: task.data().inputs for task in tasks})
    assert (matrix.rows, matrix.columns) == (("rating", "click"), ("user_ids", "item_ids", "text_ids"))


def test_what_cannot_be_is_said() -> None:
    users, items, texts = inputs()
    net = network()
    for given, told in (
        ((users + 10, items, texts), "user_ids: there is no id 1.: they run from 0 to 9, or -1"),
        ((users, items[:3], texts), "inputs of different lengths"),
        ((users, items, texts[:, 0]), r"text_ids: ids must have the shape \[N, L\], got \(5,\)"),
        ((users, [1], texts), "item_ids must be a tensor of ids, got a list"),
        ((users, torch.tensor(3), texts), r"item_ids must be a tensor of ids, got one of shape \(\)"),
        ((users,), "item_ids must be a tensor of ids, got a NoneType"),
    ):
        with pytest.raises(DataError, match=told):
            net(*given)
    with pytest.raises(OptionError, match="there is no task"):
        network(task_configs={})
    with pytest.raises(OptionError, match="task_type 'clasification' is unknown; did you mean 'classification'"):
        network(task_configs={"a": {"task_type": "clasification"}})
    with pytest.raises(OptionError, match="output_dimm"):
        network(task_configs={"a": {"output_dimm": 3}})


def test_wrong_types_are_told() -> None:
    with pytest.raises(OptionError, match="hidden_dims must be a list"):
        MultiModalMultiTask(5, 4, 4, hidden_dims=3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="'more' must be a table, got a list"):
        MultiModalMultiTask(5, 4, 4).add_task("more", [1])  # type: ignore[arg-type]
