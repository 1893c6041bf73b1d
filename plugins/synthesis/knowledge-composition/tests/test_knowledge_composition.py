"""Pieces that fit give what their models give, and on real digits the composition nears full training."""

from __future__ import annotations

import copy
import functools
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from crosstask.engine import TransferEngine
from crosstask.errors import DataError
from crosstask.graph import TransferEdge, TransferGraph
from crosstask.learning.models import ModelSpec
from crosstask.learning.training import evaluate, fit, predict
from crosstask.records import Budget, SynthesisStrategy
from crosstask.registry import Registry
from crosstask.tasks import Task
from crosstask_knowledge_composition import KnowledgeComposition
from crosstask_knowledge_composition.pieces import adapted, blocks_of, joined
from crosstask_synthesis.testing import described, source


@functools.cache
def trained() -> dict[str, Task]:
    names = ["digits", "low", "high", "parity", "rotated", "mix"]
    portfolio = Registry.installed().create("source", "digits", {"tasks": names}).load()  # type: ignore[attr-defined]
    for number, task in enumerate(portfolio):
        task.model = ModelSpec().build(task.descriptor, seed=number)
        budget = Budget(steps=200, learning_rate=3e-3)
        fit(task.model, task, budget, torch.Generator().manual_seed(0), curve_split=None)
    return {t.task_id: t for t in [*portfolio, *portfolio.unseen]}


def compose(new: Task, *sources: str, graph: TransferGraph | None = None, **options: Any) -> nn.Module:
    known = [trained()[name] for name in sources]
    return KnowledgeComposition(**options).synthesize(new.descriptor, known, graph or TransferGraph(), None)


def test_two_halves_make_a_model_of_one_trunk() -> None:
    """Digits 1 and 3 from `low`, 6 and 8 from `high`; full training has .955."""
    made = compose(trained()["mix"], "low", "high")
    assert evaluate(made, trained()["mix"]) > 0.87
    assert evaluate(compose(trained()["mix"], "low", "high", calibrate=False), trained()["mix"]) > 0.78
    told = made.provenance
    assert set(told.sources) == {"low", "high"}
    assert sum(told.sources.values()) == pytest.approx(1)
    assert told.notes[0] == "trunk: low, of 2 tried"
    assert 0.5 < told.confidence < 0.95
    one = sum(p.numel() for p in ModelSpec().build(trained()["mix"].descriptor, 0).parameters())
    assert sum(p.numel() for p in made.parameters()) == one


def test_all_from_one_model_is_that_model() -> None:
    """Its own head on its own trunk: the same answers without and with another scale of the logits."""
    new, digits = trained()["mix"], trained()["digits"]
    made = compose(new, "digits", calibrate=False)
    inputs = new.data("test").inputs
    own = predict(digits.model, inputs)
    expected = own[:, [1, 3, 6, 8]] - own.mean(1, keepdim=True)
    found = predict(made, inputs)
    ratio = float((found * expected).sum() / (expected * expected).sum())
    torch.testing.assert_close(found, ratio * expected, atol=1e-4, rtol=1e-4)
    assert made.provenance.confidence == pytest.approx(1)


def rotated_parity() -> Task:
    """The images of `rotated` with the labels of `parity`: a question and a view that no source has together."""
    rotated, parity = trained()["rotated"], trained()["parity"]
    data: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        seen = rotated.data(split)
        data[split] = (seen.inputs, seen.targets % 2)
    told = attrs.evolve(parity.descriptor, task_id="rotated parity", domain=rotated.descriptor.domain, prerequisites=())
    return Task(descriptor=told, **data)


def test_a_known_question_about_images_of_a_known_kind() -> None:
    """Neither source alone can answer; through the ten digits, known in both domains, they can."""
    new = rotated_parity()
    made = compose(new, "digits", "rotated", "parity")
    full = ModelSpec().build(new.descriptor, seed=9)
    fit(full, new, Budget(steps=200, learning_rate=3e-3), torch.Generator().manual_seed(0), curve_split=None)
    assert evaluate(made, new) > 0.95 * evaluate(full, new)
    assert evaluate(trained()["parity"].model, new) < 0.6, "upright parity is worthless here"
    assert made.provenance.notes[:2] == (
        "trunk: rotated", f"even: carried from parity {made.provenance.confidence:.0%}, through classes known in both "
        "domains",
    )  # fmt: skip
    without = compose(new, "rotated", "parity")
    assert evaluate(without, new) < 0.7
    assert "from another domain" in without.provenance.notes[1]
    assert without.provenance.confidence < 0.25


def test_what_is_known_from_other_domains_only_is_not_trusted() -> None:
    """Heads on their own trunks are carried whole, but upright digits are another domain than turned ones."""
    new = trained()["rotated"]
    made = compose(new, "digits", calibrate=False)
    assert evaluate(made, new) < 0.5
    assert made.provenance.confidence == pytest.approx(0.25)
    assert made.provenance.notes[1] == "0: carried from digits 100%, from another domain"


def test_through_the_engine_with_an_expected_score() -> None:
    sources, new = [trained()[n] for n in ("digits", "low", "high")], trained()["mix"]
    with TransferEngine(store=":memory:", discoverers=["skills"], train=Budget(steps=60)) as engine:
        for task in sources:
            engine.register_task(task, trained_model=task.model)
        engine.register_task(new, unseen=True)
        engine.discover()
        made = engine.synthesize_zero_shot_model("mix", SynthesisStrategy.KNOWLEDGE_COMPOSITION)
    expected = made.provenance.expected
    assert expected is not None
    assert expected.low - 0.01 <= evaluate(made, new) <= expected.high + 0.01
    assert expected.high - expected.low < 0.2


def test_heads_that_are_expected_to_harm_are_left_out() -> None:
    graph = TransferGraph([trained()[n].descriptor for n in ("digits", "low", "high", "mix")])
    graph.add(TransferEdge(source="digits", target="mix", transfer_coefficient=-0.2))
    made = compose(trained()["mix"], "digits", "low", "high", graph=graph)
    assert all("carried from digits" not in note for note in made.provenance.notes)
    with pytest.raises(DataError, match=r"no source knows class '1'.*digits is not expected to help \(-0.20\)"):
        compose(trained()["mix"], "digits", "high", graph=graph)


def chain(seed: int, normalised: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        more = [nn.BatchNorm1d(7)] if normalised else []
        return nn.Sequential(
            nn.Flatten(), nn.Linear(5, 7), *more, nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 2)
        ).eval()


def task(name: str, model: nn.Module | None, **more: Any) -> Task:
    return source(name, "ab", model, input_shape=(5,), **more)


INPUTS = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))


def test_blocks_are_cut_before_layers_with_weights() -> None:
    blocks = blocks_of(task("one", chain(0, normalised=True)))
    kinds = [[type(m).__name__ for m in block] for block in blocks]
    assert kinds == [["Flatten", "Linear", "BatchNorm1d", "ReLU"], ["Linear", "ReLU"]]
    with pytest.raises(DataError, match=r"the Odd of task 'odd' is no nn.Sequential"):
        blocks_of(task("odd", Odd()))


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))


@torch.no_grad()
def test_blocks_of_models_that_see_the_same_are_stitched_without_loss() -> None:
    """The second model's first layer is the first one's, turned and scaled before a linear activation."""
    one, other = task("one", chain(0)), task("other", chain(1))
    for model in (one.model, other.model):
        model[2] = nn.Identity()  # linear, so that every turn can be undone
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)))[0] * 3
    other.model[1].weight.copy_(turn @ one.model[1].weight)
    other.model[1].bias.copy_(turn @ one.model[1].bias)
    trunk, notes = joined([one, other], INPUTS)
    expected = nn.Sequential(*list(other.model)[:-1])(INPUTS)
    torch.testing.assert_close(trunk(INPUTS), expected, atol=1e-3, rtol=1e-3)
    assert notes == ["block 2 from other after one: the stitch carries 100%"]
    alone, none = joined([one, one], None)
    torch.testing.assert_close(alone(INPUTS), nn.Sequential(*list(one.model)[:-1])(INPUTS))
    assert none == []
    with pytest.raises(DataError, match="blocks names 1 tasks, the trunk of 'one' has 2 blocks"):
        joined([one], INPUTS)
    with pytest.raises(DataError, match="needs inputs"):
        joined([one, other], None)


def test_blocks_of_convolutions_and_through_the_synthesizer() -> None:
    spec = ModelSpec(kind="conv", hidden=(6, 8))
    told = {n: described(n, "ab", input_shape=(1, 8, 8)) for n in "xyn"}
    sources = [Task(descriptor=told[n], model=spec.build(told[n], seed=k)) for k, n in enumerate("xy")]
    inputs = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made = KnowledgeComposition(blocks=("x", "y")).synthesize(told["n"], sources, TransferGraph(), inputs)
    assert made(inputs).shape == (60, 2)
    assert made.provenance.notes[0] == "trunk: x + y"
    assert any(note.startswith("block 2 from y after x: the stitch carries") for note in made.provenance.notes)
    assert any(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) for m in made.modules())


def test_adapters_hold_a_change_of_their_rank_and_no_more() -> None:
    base = task("base", chain(0))
    low, high = copy.deepcopy(base), copy.deepcopy(base)
    with torch.no_grad():
        low.model[1].weight += 0.02 * torch.outer(torch.arange(7.0), torch.ones(5))
        high.model[3].weight += 0.05 * torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    model, _ = adapted(base, [low], rank=1)
    torch.testing.assert_close(model[1].weight, low.model[1].weight)
    model, notes = adapted(base, [low, high], rank=2)
    change = high.model[3].weight - base.model[3].weight
    left, values, right = torch.linalg.svd(change.detach())
    torch.testing.assert_close(
        model[3].weight.detach(), base.model[3].weight.detach() + (left[:, :2] * values[:2]) @ right[:2]
    )
    torch.testing.assert_close(model[1].weight, low.model[1].weight)
    share = float(values[:2].square().sum() / values.square().sum())
    assert notes[1].endswith(f"rank 2 holds {share:.0%} of its change of base")
    assert torch.equal(model[-1].weight, base.model[-1].weight)
    high.descriptor = task("high", None).descriptor
    stranger = task("stranger", chain(5))
    with pytest.raises(DataError, match="'stranger': its model was not fine-tuned from that of 'base'"):
        adapted(base, [stranger], rank=2)
    made = KnowledgeComposition(trunk="base", adapters=("high",), rank=6).synthesize(
        task("new", None).descriptor, [base, high], TransferGraph(), INPUTS
    )
    assert set(made.provenance.sources) == {"base", "high"}
    torch.testing.assert_close(made.trunk.model[3].weight, high.model[3].weight)


def test_regression_keeps_units() -> None:
    told = {n: described(n, task_type="regression", input_shape=(5,), output_dim=2) for n in "xyn"}
    sources = [Task(descriptor=told[n], model=chain(k)) for k, n in enumerate("xy")]
    made = KnowledgeComposition(trunk="x").synthesize(told["n"], sources, TransferGraph(), INPUTS)
    known = TransferGraph(told[n] for n in "xy")  # that does not have the new task
    alone = KnowledgeComposition().synthesize(told["n"], sources[:1], known, INPUTS)
    torch.testing.assert_close(alone(INPUTS), sources[0].model(INPUTS))
    assert "output 0: carried from x" in made.provenance.notes[1]


def test_what_is_missing_is_said() -> None:
    sources = [task("one", chain(0)), task("other", chain(1), domain="elsewhere")]
    new = attrs.evolve(task("new", None).descriptor, domain="elsewhere")

    def bad(match: str, inputs: Tensor | None = INPUTS, **options: Any) -> None:
        with pytest.raises(DataError, match=match):
            KnowledgeComposition(**options).synthesize(new, sources, TransferGraph(), inputs)

    bad("no fitting source is called 'oter'.*did you mean 'other'", trunk="oter")
    bad("blocks already say", blocks=("one", "one"), trunk="one")
    bad("adapters need `trunk`", adapters=("one",))
    bad(r"has inputs \(5,\), the unlabelled ones have \(4,\)", inputs=torch.zeros(6, 4))
    bad("the head of 'other' cannot be stitched onto the trunk of one without inputs", inputs=None, trunk="one")
