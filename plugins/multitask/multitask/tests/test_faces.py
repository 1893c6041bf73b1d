"""Networks of several tasks constructed with their sizes, and the faults that the classic forms of them have."""

import copy
import inspect
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from crosstask import Budget, Registry, TaskDescriptor
from crosstask.context import LocalContext
from crosstask.errors import DataError, OptionError, UnknownComponentError
from crosstask.tasks import Portfolio, Task
from crosstask_multitask import (
    HardParameterSharing,
    MetaLearningMultiTask,
    MultiTaskBase,
    MultiTaskTrainer,
    ProgressiveMultiTask,
    SoftParameterSharing,
)

CONFIGS: dict[str, dict[str, Any]] = {
    "ink": {},
    "digit": {"output_dim": 10, "task_type": "classification", "hidden_dims": [16]},
    "odd": {"output_dim": 1, "task_type": "classification"},
}
FACES = ("hard", "soft", "progressive", "meta")
INSTALLED = Registry.installed()


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifests, which a face reads when it is made, are the same for all of these tests."""
    monkeypatch.setattr(Registry, "installed", lambda settings=None: INSTALLED)


def face(kind: str, configs: dict[str, Any] | None = None, **given: Any) -> Any:
    """A small one of each, drawn from the same seed."""
    torch.manual_seed(0)
    told = CONFIGS if configs is None else configs
    if kind == "hard":
        return HardParameterSharing(64, [24, 16], told, **given)
    if kind == "soft":
        return SoftParameterSharing(64, told, [24, 16], **given)
    if kind == "progressive":
        return ProgressiveMultiTask(64, [24, 16], list(told), told, **given)
    return MetaLearningMultiTask(64, 6, told, [24, 16], [12], **given)


def answers(net: Any, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = net.forward_all_tasks(x) if isinstance(net, MetaLearningMultiTask) else net(x)
    return found


def table(count: int = 120) -> Portfolio:
    images, digit = (torch.from_numpy(part)[:count] for part in load_digits(return_X_y=True))
    images = (images / 16).float()
    kinds = {"digit": "classification", "odd": "classification", "ink": "regression"}
    described = {
        name: TaskDescriptor(task_id=name, task_type=kind, output_dim=CONFIGS[name].get("output_dim", 1))
        for name, kind in kinds.items()
    }
    targets = {"ink": images.mean(dim=1), "digit": digit, "odd": digit % 2}
    return Portfolio.from_table(images, targets, descriptors=described)


def digits(count: int = 120) -> tuple[Tensor, Tensor]:
    images, digit = (torch.from_numpy(part)[:count] for part in load_digits(return_X_y=True))
    return (images / 16).float(), digit


# What all have in common ----------------------------------------------------------------------------------------------


def test_signatures_and_defaults_are_the_specifications() -> None:
    def told(cls: type) -> dict[str, Any]:
        found = inspect.signature(cls).parameters.values()
        return {p.name: p.default if p.default is not p.empty else None for p in found}

    assert told(HardParameterSharing) == {
        "input_dim": None, "shared_dims": None, "task_configs": None, "dropout_rate": 0.2,
    }  # fmt: skip
    assert told(SoftParameterSharing) == {
        "input_dim": None, "task_configs": None, "shared_dims": (128, 64), "dropout_rate": 0.2,
    }  # fmt: skip
    assert told(ProgressiveMultiTask) == {
        "input_dim": None, "base_dims": None, "task_sequence": None, "task_configs": None, "dropout_rate": 0.2,
    }  # fmt: skip
    assert told(MetaLearningMultiTask) == {
        "input_dim": None, "meta_dim": None, "task_configs": None, "base_network_dims": (128, 64),
        "meta_network_dims": (64, 32),
    }  # fmt: skip
    hard, soft = face("hard"), face("soft")
    assert hard.task_configs["ink"] == {"output_dim": 1, "task_type": "regression", "hidden_dims": [64, 32]}
    assert soft.task_configs["odd"]["hidden_dims"] == [32]
    assert [m.p for m in hard.modules() if isinstance(m, nn.Dropout)][:1] == [0.2]


@pytest.mark.parametrize("kind", FACES)
def test_fault_a_training_batch_of_one_fails(kind: str) -> None:
    net = face(kind).train()
    found = answers(net, torch.randn(1, 64))
    assert {name: tuple(each.shape) for name, each in found.items()} == {"ink": (1, 1), "digit": (1, 10), "odd": (1, 1)}
    sum(each.sum() for each in found.values()).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", FACES)
def test_fault_heads_give_probabilities_whose_perfect_prediction_costs(kind: str) -> None:
    """By softmax outputs taken for logits a perfect prediction of 10 classes costs log(1 + 9/e) = 1.46, not 0."""
    x, y = digits(60)
    net = face(kind, {"digit": CONFIGS["digit"]})
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(answers(net.train(), x)["digit"], y).backward()
        optimizer.step()
    found = answers(net.eval(), x)["digit"]
    assert cross_entropy(found, y) < 0.3 < torch.log1p(torch.tensor(9 / torch.e))
    assert found.min() < -1
    assert found.max() > 1


@pytest.mark.parametrize("kind", FACES)
def test_fault_given_lists_and_tables_are_not_copied(kind: str) -> None:
    told = copy.deepcopy(CONFIGS)
    net = face(kind, told)
    kept = copy.deepcopy(net.task_configs)
    told["digit"]["hidden_dims"].append(3)
    told["ink"]["output_dim"] = 7
    assert net.task_configs == kept
    assert answers(net.eval(), torch.ones(2, 64))["ink"].shape == (2, 1)


@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize("balancer", ["equal", "pcgrad", "uncertainty"])
def test_they_are_trained_by_the_trainer_with_a_balancer(kind: str, balancer: str) -> None:
    tasks, net = list(table()), face(kind)
    before = [p.clone() for p in net.parameters()]
    made: Any = Registry.installed().create("balancer", balancer)
    trainer = MultiTaskTrainer(net, tasks, made, Budget(steps=2, batch_size=30), LocalContext())
    trainer.fit()
    assert set(trainer.weights) == set(CONFIGS)
    moved = [not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    assert set(trainer.scores("train")) == set(CONFIGS)


@pytest.mark.parametrize("kind", FACES)
def test_a_task_is_added_and_the_others_answer_bit_for_bit_as_before(kind: str) -> None:
    net, x = face(kind).eval(), torch.randn(5, 64)
    before = answers(net, x)
    net.add_task("loops", {"output_dim": 3, "task_type": "classification", "hidden_dims": [5]})
    after = answers(net, x)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert after["loops"].shape == (5, 3)
    assert net.task_configs["loops"]["output_dim"] == 3
    net.add_task(Task(descriptor=TaskDescriptor(task_id="last", task_type="regression", output_dim=2)))
    assert answers(net, x)["last"].shape == (5, 2)
    for name in ("loops", "ink"):
        with pytest.raises(DataError, match=f"has a task {name!r} already"):
            net.add_task(name)
    with pytest.raises(OptionError, match="'more': output_dim must be >= 1"):
        net.add_task("more", {"output_dim": 0})
    assert "more" not in net.task_configs
    with pytest.raises(OptionError, match="a task's name must be a string"):
        net.add_task("")
    with pytest.raises(OptionError, match="'more' must be a table, got a list"):
        net.add_task("more", [1])  # type: ignore[arg-type]


def test_an_addition_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    net = face("hard")
    monkeypatch.setattr(net.module, "make_parts", lambda task: (_ for _ in ()).throw(DataError("not this one")))
    with pytest.raises(DataError, match="not this one"):
        net.add_task("loops")
    assert set(answers(net, torch.ones(2, 64))) == set(CONFIGS)


def test_an_addition_that_fails_in_somebodys_own_class_can_be_made_again() -> None:
    class Failing(Mine):
        def _build_task_specific_layers(self, config: dict[str, Any]) -> nn.Module:
            if config["output_dim"] == 13:
                raise ValueError("not so many")
            return super()._build_task_specific_layers(config)

    net = Failing(64, CONFIGS)
    with pytest.raises(ValueError, match="not so many"):
        net.add_task("more", {"output_dim": 13})
    assert net.module.tasks == list(net.task_configs) == list(CONFIGS)
    net.add_task("more", {"output_dim": 12})
    assert net(torch.ones(2, 64))["more"].shape == (2, 12)


def test_weights_come_from_torchs_generator() -> None:
    one, again = face("soft"), face("soft")
    other = SoftParameterSharing(64, CONFIGS, [24, 16])
    x = torch.ones(2, 64)
    assert torch.equal(one.eval()(x)["ink"], again.eval()(x)["ink"])
    assert not torch.equal(one(x)["ink"], other.eval()(x)["ink"])


def test_they_run_in_double_precision_and_are_added_to_there() -> None:
    for kind in FACES:
        net = face(kind).double()
        net.add_task("more")
        found = answers(net, torch.ones(2, 64, dtype=torch.float64))
        assert {each.dtype for each in found.values()} == {torch.float64}


# The mask -------------------------------------------------------------------------------------------------------------


def test_fault_task_mask_is_never_used() -> None:
    """Rows without a label give zeros without gradient and reach neither trunk nor head."""
    net = face("hard").eval()
    passed: dict[str, list[int]] = {"trunk": [], "ink": [], "digit": [], "odd": []}
    net.module.trunk[0].register_forward_hook(lambda _, given, __: passed["trunk"].append(len(given[0])))
    for name, head in zip(CONFIGS, net.module.heads.values(), strict=True):
        head.register_forward_hook(lambda _, given, __, name=name: passed[name].append(len(given[0])))
    x = torch.randn(4, 64, requires_grad=True)
    mask = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0]])
    found = net(x, mask)
    assert passed == {"trunk": [3], "ink": [2], "digit": [2], "odd": []}
    whole = net(x)
    for column, name in enumerate(CONFIGS):
        torch.testing.assert_close(found[name], whole[name] * mask[:, column, None])
    (gradient,) = torch.autograd.grad(sum(each.sum() for each in found.values()), x)  # type: ignore[arg-type]
    assert gradient[1].abs().sum() == 0
    assert bool((gradient[[0, 2, 3]].abs().sum(dim=1) > 0).all())
    assert not found["odd"].requires_grad


def test_a_mask_by_task_and_one_without_any_label() -> None:
    net, x = face("soft").eval(), torch.randn(4, 64)
    whole = net(x)
    found = net(x, {"digit": torch.tensor([True, False, False, True])})
    torch.testing.assert_close(found["ink"], whole["ink"])
    assert found["digit"][1:3].abs().sum() == 0
    nothing = net(x, torch.zeros(4, 3, dtype=torch.bool))
    assert {name: (tuple(each.shape), float(each.abs().sum())) for name, each in nothing.items()} == {
        name: (tuple(each.shape), 0.0) for name, each in whole.items()
    }


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.ones(3, 3), r"must have the shape \[2, 3\], got \(3, 3\)"),
        ({"digits": torch.ones(2)}, "no task 'digits'; did you mean 'digit'"),
        ({"digit": torch.ones(3)}, r"'digit' must have the shape \[2\], got \(3,\)"),
        ({"digit": [True, False]}, r"'digit' must have the shape \[2\], got list"),
        ({"digit": torch.tensor([0.5, 1.0])}, "must be true or false"),
        ([[1, 1, 1]], "a tensor, or tensors by task, got a list"),
    ],
)
def test_a_mask_that_does_not_fit_is_told(mask: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        face("hard")(torch.randn(2, 64), mask)


# What is wrong is told ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FACES)
@pytest.mark.parametrize(
    ("configs", "told"),
    [
        ({}, "there is no task"),
        (["ink"], "must be a table of tasks by name, got a list"),
        ({3: {}}, "a task's name must be a string"),
        ({"ink": {"outputs": 1}}, "'ink': unknown option 'outputs'; did you mean 'output_dim'"),
        ({"ink": {"task_type": "clasification"}}, "'ink': task_type 'clasification' is unknown; did you mean"),
        ({"ink": {"output_dim": "3"}}, "output_dim must be an integer"),
        ({"ink": {"hidden_dims": [0]}}, "hidden_dims must be >= 1"),
        ({"ink": 3}, "'ink' must be a TaskConfig, or a table of its options \\(output_dim"),
    ],
)
def test_wrong_task_configs_are_told(kind: str, configs: Any, told: str) -> None:
    made = face if kind != "progressive" else lambda _, told: ProgressiveMultiTask(64, [8], [], told)
    with pytest.raises(OptionError, match=told):
        made(kind, configs)


def test_wrong_sizes_are_told() -> None:
    for made, told in (
        (lambda: HardParameterSharing(0, [8], CONFIGS), "input_dim must be at least 1"),
        (lambda: HardParameterSharing(64, [], CONFIGS), "shared_dims must name at least one layer"),
        (lambda: HardParameterSharing(64, [8, 0], CONFIGS), "shared_dims must be at least 1"),
        (lambda: HardParameterSharing(64, [8], CONFIGS, 1.0), "dropout_rate must be at least 0 and less than 1"),
        (lambda: MetaLearningMultiTask(64, 0, CONFIGS), "meta_dim must be at least 1"),
        (lambda: ProgressiveMultiTask(64, [8], ["ink", "digits"], CONFIGS), "no task 'digits' .*did you mean 'digit'"),
        (lambda: ProgressiveMultiTask(64, [8], ["ink", "ink"], CONFIGS), "'ink' comes twice"),
        (lambda: ProgressiveMultiTask(64, [8], ["ink", "odd"], CONFIGS), "task 'digit' of task_configs has no place"),
    ):
        with pytest.raises(OptionError, match=told):
            made()


def test_wrong_inputs_are_told() -> None:
    with pytest.raises(DataError, match=r"SoftParameterSharing: inputs must have the shape \[B, 64\], got \(2, 63\)"):
        face("soft")(torch.randn(2, 63))
    with pytest.raises(DataError, match=r"inputs must have the shape \[B, 64\], got list"):
        face("hard")([1.0])
    with pytest.raises(DataError, match="target_tasks: no task 'od'; did you mean 'odd'"):
        face("progressive")(torch.randn(2, 64), ["od"])
    with pytest.raises(DataError, match="target_tasks must be names of tasks, got a int"):
        face("progressive")(torch.randn(2, 64), 3)
    with pytest.raises(DataError, match=r"task_name: no task \['odd'\]"):
        face("meta")(torch.randn(2, 64), ["odd"])
    with pytest.raises(DataError, match="task_name: no task 'od'; did you mean 'odd'"):
        face("meta")(torch.randn(2, 64), "od")
    with pytest.raises(DataError, match="no task 'od'"):
        face("hard").task_parameters("od")


# Classes of others ----------------------------------------------------------------------------------------------------


class Mine(MultiTaskBase):
    def __init__(self, input_dim: int, configs: Any, width: int = 12) -> None:
        self.width = width
        super().__init__(input_dim, configs)

    def _build_shared_layers(self) -> nn.Module:
        return nn.Sequential(nn.Linear(self.input_dim, self.width), nn.Tanh())

    def _build_task_specific_layers(self, config: dict[str, Any]) -> nn.Module:
        return nn.Linear(self.width, config["output_dim"])


def test_somebodys_own_class_works_and_is_trained() -> None:
    net = Mine(64, CONFIGS)
    assert sum(p.numel() for p in net.parameters()) == 65 * 12 + 13 * (1 + 10 + 1)
    x = torch.randn(3, 64)
    layers: Any = list(net.module.heads.values())
    torch.testing.assert_close(net(x)["digit"], layers[1](net.module.trunk(x)))  # type: ignore[operator]
    made: Any = Registry.installed().create("balancer", "equal")
    MultiTaskTrainer(net, list(table()), made, Budget(steps=1, batch_size=12), LocalContext()).fit()


def test_what_is_wrong_in_somebodys_own_class_is_told() -> None:
    class Early(Mine):
        def __init__(self) -> None:
            MultiTaskBase.__init__(self, 64, CONFIGS)
            self.width = 12

    class Nothing(Mine):
        def _build_shared_layers(self) -> Any:
            return None

    class Elsewhere(Mine):
        architecture = "cross_stich"

    with pytest.raises(OptionError, match="'width': it is called while super"):
        Early()
    with pytest.raises(OptionError, match=r"Nothing._build_shared_layers must return a torch module, got a NoneType"):
        Nothing(64, CONFIGS)
    with pytest.raises(UnknownComponentError, match="Elsewhere: no sharing named 'cross_stich'"):
        Elsewhere(64, CONFIGS)
    with pytest.raises(TypeError, match="abstract"):
        MultiTaskBase(64, CONFIGS)  # type: ignore[abstract]


def test_an_architecture_that_gives_no_heads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Module):
        pass

    class Given:
        origin = "sharing 'odd'"

        def build(self, tasks: Any, trunk: Any) -> Any:
            return Odd()

    monkeypatch.setattr(Mine, "_component", lambda self, options: Given())
    with pytest.raises(OptionError, match="sharing 'odd' has no head for each task"):
        Mine(64, CONFIGS)


# Soft parameter sharing -----------------------------------------------------------------------------------------------


def test_fault_the_stitch_is_a_full_matrix_over_all_features() -> None:
    """Of the classic form's 222,087 weights 184,320 are in it; here it has T² for each layer."""
    net = face("soft")
    stitches = sum(p.numel() for name, p in net.named_parameters() if "stitches" in name)
    assert stitches == 2 * 3 * 3


def test_fault_the_stitch_starts_as_noise_that_drowns_the_identity() -> None:
    learned = face("soft").learned({name: torch.randn(4, 64) for name in CONFIGS})
    for matrix in learned:
        alpha = torch.tensor(matrix.values)
        torch.testing.assert_close(alpha, 0.85 * torch.eye(3) + 0.05)
        torch.testing.assert_close(torch.linalg.svdvals(alpha), torch.tensor([1.0, 0.85, 0.85]))


def test_fault_stitches_are_found_by_the_absolute_name_of_a_layer() -> None:
    """There is one after each shared layer, after its dropout, however deep the trunk is."""
    for dims in ([8], [8, 8, 8], [8] * 5):
        net = SoftParameterSharing(64, CONFIGS, dims, dropout_rate=0.5)
        assert len(net.learned({"ink": torch.ones(2, 64)})) == len(dims)
        assert len(net.module.stitches) == len(dims)


# Progressive ----------------------------------------------------------------------------------------------------------


def test_fault_progressive_fails_with_its_defaults() -> None:
    """Columns of any width, classification among them: laterals have the size of what they go to."""
    configs = {"a": {}, "b": CONFIGS["digit"], "c": {"hidden_dims": []}, "d": {"hidden_dims": [1]}, "e": {}}
    net = ProgressiveMultiTask(64, [128, 64], list(configs), configs)
    found = net(torch.randn(7, 64))
    assert {name: each.shape[1] for name, each in found.items()} == {"a": 1, "b": 10, "c": 1, "d": 1, "e": 1}
    widths = [column.width for column in net.module.columns.values()]
    assert widths == [32, 16, 64, 1, 32]
    last: Any = list(net.module.columns.values())[-1]
    assert [(lateral[0].in_features, lateral[0].out_features) for lateral in last.laterals.values()] == [
        (32, 16), (16, 8), (64, 32), (1, 1),
    ]  # fmt: skip
    assert {lateral[2].out_features for lateral in last.laterals.values()} == {32}


def test_fault_an_answer_changes_with_which_earlier_tasks_are_asked_for() -> None:
    net, x = face("progressive").eval(), torch.randn(5, 64)
    whole = net(x)
    for asked in (["odd"], ["odd", "ink"], ["digit", "odd"], "odd"):
        found = net(x, asked)
        assert set(found) == ({asked} if isinstance(asked, str) else set(asked))
        assert torch.equal(found["odd"], whole["odd"])


def test_fault_the_gradient_of_later_tasks_reaches_earlier_columns_and_the_base() -> None:
    net = face("progressive").train()
    for number, name in enumerate(net.task_sequence):
        net.zero_grad(set_to_none=True)
        net(torch.randn(5, 64))[name].square().sum().backward()
        reached = {id(p) for p in net.parameters() if p.grad is not None}
        own = {id(p) for p in net.task_parameters(name)}
        base = {id(p) for p in net.shared_parameters()}
        assert reached == (own | base if number == 0 else own)


def test_fault_nothing_is_frozen_when_a_later_column_trains() -> None:
    """Trained on real digits with weight decay, the second column leaves the base and the first column bit for bit as
    they were; so does one that is added."""
    tasks = {task.task_id: task for task in table()}
    net = face("progressive")
    x = tasks["ink"].data("train").inputs[:20]
    made: Any = Registry.installed().create("balancer", "equal")
    budget = Budget(steps=3, batch_size=30, weight_decay=0.1, learning_rate=0.01)
    known: dict[str, Tensor] = {}
    for name in (*net.task_sequence, "added"):
        if name == "added":
            net.add_task(name, CONFIGS["digit"])
            tasks[name] = Task(descriptor=TaskDescriptor(task_id=name, output_dim=10), train=tasks["digit"].train)
        else:
            net.learn(name)
        net.eval()
        first = net(x, [name])[name]
        MultiTaskTrainer(net, [tasks[name]], made, budget, LocalContext()).fit()
        net.eval()
        assert all(torch.equal(net(x, [other])[other], answer) for other, answer in known.items())
        known[name] = net(x, [name])[name]
        assert not torch.equal(known[name], first)
    with pytest.raises(DataError, match="learn: no task 'od'"):
        net.learn("od")


def test_fault_a_column_runs_twice_with_other_dropout_masks() -> None:
    net = face("progressive").train()
    first: Any = next(iter(net.module.columns.values()))
    seen: list[int] = []
    first.layers.register_forward_hook(lambda *_: seen.append(1))
    net(torch.randn(3, 64))
    assert seen == [1]


def test_fault_the_dropout_rate_of_progressive_is_ignored() -> None:
    net = face("progressive", dropout_rate=0.35)
    assert {module.p for module in net.modules() if isinstance(module, nn.Dropout)} == {0.35}


def test_progressive_columns_are_in_the_order_of_the_sequence() -> None:
    net = ProgressiveMultiTask(64, [8], ["odd", "ink", "digit"], CONFIGS)
    assert net.module.tasks == ["odd", "ink", "digit"]
    assert list(net(torch.ones(2, 64))) == ["odd", "ink", "digit"]


# Hyper-network --------------------------------------------------------------------------------------------------------


def test_fault_meta_learning_always_fails() -> None:
    net = MetaLearningMultiTask(64, 8, CONFIGS)
    x = torch.randn(5, 64)
    weight, bias = net.generate_task_parameters("digit")
    assert (tuple(weight.shape), tuple(bias.shape)) == ((10, 64), (10,))
    net.eval()
    torch.testing.assert_close(net(x, "digit"), net.module.trunk(x) @ weight.T + bias)  # type: ignore[operator]
    whole = net.forward_all_tasks(x)
    assert all(torch.equal(net(x, name), whole[name]) for name in CONFIGS)
    with pytest.raises(DataError, match="generate_task_parameters: no task 'digits'"):
        net.generate_task_parameters("digits")


def test_fault_dropout_in_the_generator_makes_random_weights() -> None:
    net = MetaLearningMultiTask(64, 8, CONFIGS).train()
    (one, bias), (again, same) = net.generate_task_parameters("digit"), net.generate_task_parameters("digit")
    assert torch.equal(one, again)
    assert torch.equal(bias, same)


def test_fault_one_output_of_the_generator_is_a_weight_for_one_task_and_a_bias_for_another() -> None:
    """The layer that makes biases makes no weight, and the one that makes weights no bias, for tasks of any size."""
    net = MetaLearningMultiTask(64, 8, CONFIGS)
    generator: Any = net.module.generator
    for name in CONFIGS:
        weight, bias = net.generate_task_parameters(name)
        ours = [*generator.weight.parameters(), *generator.bias.parameters()]
        by_weight = torch.autograd.grad(weight.sum(), ours, allow_unused=True)
        by_bias = torch.autograd.grad(bias.sum(), ours, allow_unused=True)
        assert [each is None for each in by_weight] == [False, False, True, True]
        assert [each is None for each in by_bias] == [True, True, False, False]


@pytest.mark.parametrize("width", [16, 1024])
def test_fault_generated_weights_are_not_scaled_by_their_fan_in(width: int) -> None:
    """The mean square of generated weights is near 1/fan_in for narrow and wide features alike."""
    torch.manual_seed(1)
    net = MetaLearningMultiTask(64, 32, {"many": {"output_dim": 400, "task_type": "multilabel"}}, [width])
    weight, _ = net.generate_task_parameters("many")
    assert 0.5 < float(weight.detach().square().mean()) * width < 2


def test_a_new_task_of_a_hyper_network_is_rows_of_an_embedding_and_leaves_the_others_bit_for_bit() -> None:
    tasks = {task.task_id: task for task in table()}
    net = face("meta", {name: CONFIGS[name] for name in ("ink", "odd")})
    x = tasks["ink"].data("train").inputs[:20]
    made: Any = Registry.installed().create("balancer", "equal")
    others = [tasks[name] for name in ("ink", "odd")]
    MultiTaskTrainer(net, others, made, Budget(steps=60, batch_size=60, learning_rate=0.01), LocalContext()).fit()
    before = {name: net.eval()(x, name) for name in ("ink", "odd")}
    weights = sum(p.numel() for p in net.parameters())
    net.add_task("digit", CONFIGS["digit"])
    assert sum(p.numel() for p in net.parameters()) - weights == 10 * 6
    budget = Budget(steps=60, batch_size=60, learning_rate=0.05, weight_decay=1e-4)
    digit = tasks["digit"]
    untrained = cross_entropy(net.eval()(x, "digit"), digit.data("train").targets[:20])
    MultiTaskTrainer(net, [digit], made, budget, LocalContext()).fit()
    assert cross_entropy(net.eval()(x, "digit"), digit.data("train").targets[:20]) < 0.8 * untrained
    assert all(torch.equal(net(x, name), before[name]) for name in before)
