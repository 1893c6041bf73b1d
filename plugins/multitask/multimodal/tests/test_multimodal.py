"""The sharing over several modalities: attention of tasks, missing modalities, any trunk, training with a mask."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from crosstask.context import LocalContext
from crosstask.descriptors import MultiInput, TaskDescriptor
from crosstask.errors import DataError, OptionError
from crosstask.learning.modules import Headless, redraw
from crosstask.points.balancer import Balancer
from crosstask.records import Budget
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask_multimodal import MultiModal, MultiModalModule, MultiModalTrunk, network
from crosstask_multimodal.digits import VOCAB_SIZES, portfolio
from crosstask_multimodal.encoding import SPREAD, Encoder
from crosstask_multitask.trainer import MultiTaskTrainer

SHAPES: dict[str, tuple[int, ...]] = {"who": (), "text": (4,), "age": (2,)}


def task(name: str, outputs: int = 3) -> Task:
    return Task(descriptor=TaskDescriptor(task_id=name, input_shapes=SHAPES, output_dim=outputs))


def trunk(**more: Any) -> MultiModalTrunk:
    torch.manual_seed(0)
    given = {"embedding_dim": 6, "hidden_dims": (8, 7, 5), "dropout_rate": 0.0} | more
    return MultiModalTrunk({"who": 9}, {"text": 12}, {"age": 2}, **given)


def batch(rows: int = 6) -> MultiInput:
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, 12, (rows, 4), generator=generator)
    who = torch.randint(-1, 9, (rows,), generator=generator)
    text[1], who[1], text[2], who[2], text[3, 0], who[3] = 0, 3, 0, -1, 5, -1
    return MultiInput({"who": who, "text": text, "age": torch.randn(rows, 2, generator=generator)})


def built(names: str = "ab", **more: Any) -> MultiModalModule:
    made = MultiModal(**more).build([task(name) for name in names], trunk())
    assert isinstance(made, MultiModalModule)
    return made.eval()


def test_a_token_is_the_embedding_the_mean_of_the_words_or_a_linear_layer() -> None:
    encoder = trunk().encoder
    inputs = batch()
    tokens, present = encoder(inputs)
    who, text, age = encoder.parts.values()
    for row in range(len(inputs)):
        words = [int(w) for w in inputs.parts["text"][row] if w != 0]
        known = int(inputs.parts["who"][row])
        assert present[row].tolist() == [known >= 0, bool(words), True]
        wanted = [who.weight[known] if known >= 0 else torch.zeros(6)]  # type: ignore[index]
        wanted += [torch.stack([text.weight[w] for w in words]).mean(0) if words else torch.zeros(6)]  # type: ignore[index]
        torch.testing.assert_close(tokens[row], torch.stack([*wanted, age(inputs.parts["age"][row])]))


def test_padding_moves_nothing_and_its_row_stays_zero() -> None:
    module, inputs = built().train(), batch()
    longer = MultiInput(inputs.parts | {"text": torch.cat([inputs.parts["text"], torch.zeros(6, 3).long()], dim=1)})
    torch.testing.assert_close(module({"a": inputs})["a"], module({"a": longer})["a"])
    table = module.trunk.encoder.parts["of text"]
    assert bool((table.weight[0] == 0).all())
    optimizer = torch.optim.Adam(module.parameters(), 0.1, weight_decay=0.1)
    module({"a": longer})["a"].sum().backward()
    optimizer.step()
    assert bool((table.weight[0] == 0).all())
    redraw(module.trunk, 1)
    assert bool((table.weight[0] == 0).all())
    assert 0 < float(table.weight[1:].detach().std()) < 2 * SPREAD


def test_what_is_missing_gets_no_attention_and_gives_nothing() -> None:
    module, inputs = built(), batch()
    nn.init.normal_(module.queries["task a"])
    tokens, present, between = module.trunk.tokens(inputs)
    weights = module.weights("a", tokens, present)
    assert torch.equal(weights == 0, ~present)
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert torch.equal(between == 0, ~(present[:, :, None] & present[:, None, :]))
    assert bool((tokens[~present] == 0).all())
    nothing = MultiInput({"who": torch.tensor([-1]), "text": torch.zeros(1, 4).long()})
    alone = MultiModalTrunk({"who": 9}, {"text": 12}, embedding_dim=6, hidden_dims=[4])
    answer = alone.eval()(nothing)  # all of the sample is missing: 0 divided by 0, if one does not look
    torch.testing.assert_close(answer[0], alone.fuse(torch.zeros(1, 2, 6))[0])


def test_attention_between_is_torchs() -> None:
    module = trunk()
    layer = module.between
    twin = nn.MultiheadAttention(6, layer.heads, batch_first=True)
    twin.load_state_dict(
        {"in_proj_weight": layer.project.weight, "in_proj_bias": layer.project.bias,
         "out_proj.weight": layer.out.weight, "out_proj.bias": layer.out.bias}
    )  # fmt: skip
    tokens = torch.randn(5, 3, 6)
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [1, 1, 0], [1, 1, 1]]).bool()
    made, weights = layer(tokens, present)
    wanted, wanted_weights = twin(tokens, tokens, tokens, key_padding_mask=~present)
    torch.testing.assert_close(made, (tokens + wanted) * present[:, :, None])
    torch.testing.assert_close(weights, wanted_weights * present[:, :, None])


@pytest.mark.parametrize(("width", "heads", "found"), [(64, 4, 4), (6, 4, 3), (7, 4, 1), (2, 4, 2), (10, 3, 2)])
def test_there_are_as_many_heads_as_divide_the_width(width: int, heads: int, found: int) -> None:
    """In the common form the first width must divide by 4."""
    made = trunk(embedding_dim=width, heads=heads)
    assert made.between.heads == found
    assert made.eval()(batch()).shape == (6, 5)


def test_every_width_is_a_layer() -> None:
    """In the common form only two of hidden_dims are."""
    layers = [layer for layer in trunk().fusion if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(18, 8), (8, 7), (7, 5)]


def test_a_task_weighs_the_modalities_by_its_query() -> None:
    module, inputs = built(), batch()
    alike = built(own_attention=False)
    for name in "ab":  # a query of zeros leaves them as they are
        torch.testing.assert_close(module({name: inputs})[name], alike({name: inputs})[name])
    nn.init.normal_(module.queries["task a"], std=5.0)
    tokens, present, _ = module.trunk.tokens(inputs)
    wanted = []
    for row, there in zip(tokens, present, strict=True):
        scores = (row[there] @ module.queries["task a"]) / 6**0.5
        weighed = torch.zeros_like(row)
        weighed[there] = row[there] * scores.softmax(0)[:, None] * int(there.sum())
        wanted.append(weighed)
    features = module.trunk.fuse(torch.stack(wanted))
    torch.testing.assert_close(module({"a": inputs})["a"], module.heads["task a"](features))
    torch.testing.assert_close(module({"b": inputs})["b"], alike({"b": inputs})["b"])
    assert not torch.allclose(module({"a": inputs})["a"], alike({"a": inputs})["a"])


def test_what_is_learned_is_told_as_matrices() -> None:
    module, inputs = built(), batch()
    nn.init.normal_(module.queries["task b"], std=5.0)
    tasks, between = module.learned({"a": inputs, "b": inputs})
    assert (tasks.rows, tasks.columns) == (("a", "b"), ("who", "text", "age"))
    _, present, weights = module.trunk.tokens(inputs)
    alike = present / present.sum(1, keepdim=True)
    torch.testing.assert_close(torch.tensor(tasks.values[0]), alike.mean(0))
    assert tasks.values[1] != tasks.values[0]
    assert between.rows == between.columns == ("who", "text", "age")
    torch.testing.assert_close(torch.tensor(between.values), weights.mean(0))
    plain = built(own_attention=False).learned({"a": inputs})[0]
    torch.testing.assert_close(torch.tensor(plain.values[0]), alike.mean(0))


def test_one_pass_gives_the_tokens_of_all_tasks() -> None:
    module, inputs, passes = built(), batch(), []
    module.trunk.encoder.register_forward_hook(lambda *_: passes.append(1))
    module({"a": inputs, "b": inputs})
    assert passes == [1]


@pytest.mark.parametrize("own_attention", [True, False])
def test_a_task_that_is_added_leaves_the_others(own_attention: bool) -> None:
    module, inputs = built(own_attention=own_attention, hidden=4), batch()
    nn.init.normal_(module.queries["task a"]) if own_attention else None
    before = module({"a": inputs, "b": inputs})
    module.add_task(task("c.d", 2))
    after = module({"a": inputs, "b": inputs})
    assert all(torch.equal(before[name], after[name]) for name in "ab")
    assert module({"c.d": inputs})["c.d"].shape == (6, 2)
    assert len(list(module.task_parameters("c.d"))) == 4 + own_attention
    with pytest.raises(DataError, match="has a task 'a' already"):
        module.add_task(task("a"))


class Map(nn.Module):
    """A trunk that gives maps [N, 5, 2, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 30)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs).view(-1, 5, 2, 3)


def test_the_places_of_any_other_trunk_are_modalities() -> None:
    plain = Task(descriptor=TaskDescriptor(task_id="a", input_shape=(4,), output_dim=3))
    shared, inputs = Map(), torch.randn(7, 4)
    module = MultiModal().build([plain], shared)
    assert isinstance(module, MultiModalModule)
    maps = shared(inputs)
    torch.testing.assert_close(module({"a": inputs})["a"], module.heads["task a"](maps.mean(dim=(2, 3))))
    nn.init.normal_(module.queries["task a"])
    weights = (torch.einsum("nfhw,f->nhw", maps, module.queries["task a"]) / 5**0.5).flatten(1).softmax(1)
    pooled = torch.einsum("nfp,np->nf", maps.flatten(2), weights)
    torch.testing.assert_close(module({"a": inputs})["a"], module.heads["task a"](pooled))
    (matrix,) = module.learned({"a": inputs})
    assert matrix.columns == tuple(f"place {n}" for n in range(6))
    one = MultiModal().build([plain], nn.Linear(4, 5))
    assert one.learned({"a": inputs}) == []
    module.add_task(Task(descriptor=TaskDescriptor(task_id="b", input_shape=(4,), output_dim=2)))
    assert module({"b": inputs})["b"].shape == (7, 2)


def test_training_on_a_table_with_a_mask_by_any_balancer() -> None:
    tasks = list(portfolio(400))
    net = network(tasks[0].data().inputs.shapes, 10, VOCAB_SIZES, 8, (16, 8), dropout_rate=0.0)
    module = MultiModal().build(tasks, Headless(net))
    names = Registry.installed().names("balancer")
    for name in ("uncertainty", "gradnorm", "rgb"):
        assert name in names
        balancer = Registry.installed().create("balancer", name)
        assert isinstance(balancer, Balancer)
        budget = Budget(steps=2, batch_size=60, learning_rate=0.01, evaluate_every=1)
        trainer = MultiTaskTrainer(module, tasks, balancer, budget, LocalContext())
        trainer.fit()
        assert all(len(losses) == 2 for losses in trainer.history.values())
    equal = Registry.installed().create("balancer", "equal")
    assert isinstance(equal, Balancer)
    budget = Budget(steps=100, batch_size=120, learning_rate=0.015, evaluate_every=100)
    trainer = MultiTaskTrainer(module, tasks, equal, budget, LocalContext())
    trainer.fit()
    scores = trainer.scores()
    assert scores["digit"] > 0.6
    assert scores["even"] > 0.6
    assert scores["ink"] > 0.2


def test_the_digits_come_as_numbers_words_and_an_id() -> None:
    made = portfolio(50)
    data = made["digit"].data().inputs
    assert isinstance(data, MultiInput)
    assert data.shapes == {"left": (32,), "words": data.shapes["words"], "peak": ()}
    words, left = data.parts["words"], data.parts["left"]
    assert words.shape[1] <= 32
    assert int(words.max()) < VOCAB_SIZES["words"]
    assert bool((words[:, :-1] >= 0).all())
    assert not bool(((words[:, :-1] == 0) & (words[:, 1:] != 0)).any())  # padding at the end only
    assert float(left.max()) == 1.0
    known = [len(task.data()) for task in made]
    assert all(15 <= count <= 32 for count in known)


def test_a_network_is_made_for_a_tables_shapes() -> None:
    made = network(SHAPES, 4, {"who": 9, "text": 12}, 6, (5,))
    assert made.trunk.modalities == ("who", "text", "age")
    assert made.eval()(batch()).shape == (6, 4)
    with pytest.raises(DataError, match=r"needs several inputs by name, got a single one of shape \(8, 8\)"):
        network((8, 8), 4)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the task has no input 'wha'; did you mean 'who'"):
        network(SHAPES, 4, {"wha": 9})
    with pytest.raises(DataError, match=r"'text' has the shape \(3, 3\): ids are one of each sample"):
        network({"text": (3, 3)}, 4, {"text": 9})


def test_what_cannot_be_is_said() -> None:
    module, inputs = built(), batch()

    def refused(told: str, **changed: Tensor) -> None:
        with pytest.raises(DataError, match=told):
            module({"a": MultiInput(inputs.parts | changed)})

    refused("who: there is no id 9: they run from 0 to 8, or -1 where it is not known", who=torch.full((6,), 9))
    refused("who: there is no id -2", who=torch.full((6,), -2))
    refused(r"text: there is no id -1: they run from 0 to 11 \(0 is padding\)", text=torch.full((6, 4), -1))
    refused("who: ids must be whole numbers, got torch.float32", who=torch.ones(6))
    refused(r"text: ids must have the shape \[N, L\], got \(6,\)", text=torch.ones(6).long())
    refused("age: 2 values of each sample are expected, got 3", age=torch.ones(6, 3))
    refused("unknown modality 'wha'; did you mean 'who'", wha=torch.ones(6))
    with pytest.raises(DataError, match="the inputs have no 'text'"):
        module({"a": MultiInput({name: part for name, part in inputs.parts.items() if name != "text"})})
    with pytest.raises(DataError, match=r"must be several by name \(who, text, age\), got a Tensor"):
        module({"a": torch.ones(6, 3)})
    with pytest.raises(DataError, match="no head for task 'c'"):
        module({"c": inputs})
    with pytest.raises(DataError, match="no tasks"):
        MultiModal().build([], trunk())
    first = next(iter(portfolio(30)))
    flat = nn.Linear(sum(int(torch.tensor(shape).prod()) for shape in first.data().inputs.shapes.values()), 4)
    with pytest.raises(DataError, match="would take the ids of words, peak as quantities"):
        MultiModal().build([first], flat)
    for wrong, told in (
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
        ({"hidden_dims": []}, "hidden_dims must name at least one layer"),
        ({"hidden_dims": [4, 0]}, "hidden_dims must be at least 1, got 0"),
        ({"heads": 0}, "heads must be at least 1, got 0"),
        ({"dropout_rate": 1.0}, "dropout_rate must be at least 0 and less than 1"),
    ):
        with pytest.raises(OptionError, match=told):
            trunk(**wrong)
    for sizes, told in (
        (({}, {}, {}), "there is no modality"),
        (({"a": 0}, {}, {}), "modality 'a' needs at least 1 of its ids, got 0"),
        (({"a": 2}, {"a": 2}, {}), "modality 'a' is described twice"),
    ):
        with pytest.raises(OptionError, match=told):
            Encoder(*sizes, 4)
