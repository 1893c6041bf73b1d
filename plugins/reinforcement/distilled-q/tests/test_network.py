"""`MultiTaskDistilledQNetwork`, with each fault of its usual form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import nn

from crosstask.errors import CrosstaskError, DataError, OptionError
from crosstask_distilled_q import MultiTaskDistilledQNetwork, distillation_loss

ACTIONS = {"pole": 2, "arm": 3, "car": 3}
X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


def network(**given: Any) -> MultiTaskDistilledQNetwork:
    torch.manual_seed(0)
    small = {"shared_dims": [12, 8], "task_dims": [6], "dropout_rate": 0.0}
    return MultiTaskDistilledQNetwork(**{"state_dim": 4, "action_dims": ACTIONS, **small, **given})


def test_sizes_and_defaults_are_those_of_the_specification() -> None:
    made = MultiTaskDistilledQNetwork(4, ACTIONS)
    assert (made.shared_dims, made.task_dims) == ([256, 128], [64])
    assert (made.distillation_weight, made.dropout_rate, made.attention.heads) == (0.5, 0.2, 4)
    assert [layer.p for layer in made.shared if isinstance(layer, nn.Dropout)] == [0.2, 0.2]
    assert tuple(made.tokens.shape) == (3, 128)
    assert {name: tuple(values.shape) for name, values in made(X).items()} == {
        "pole": (7, 2), "arm": (7, 3), "car": (7, 3),
    }  # fmt: skip
    assert made(X, "arm").shape == (7, 3)
    assert made.train()(X[:1], "arm").shape == (1, 3)  # nothing is normalised over the batch
    assert made(X[0], "pole").shape == (2,)
    assert made(X[0])["car"].shape == (3,)


def test_lists_are_copied_so_that_networks_share_none() -> None:
    dims = [12, 8]
    one, other = network(shared_dims=dims), network()
    dims.append(3)
    one.shared_dims.append(5)
    assert other.shared_dims == [12, 8]


def test_attention_runs_over_the_tasks_of_each_sample_and_not_over_a_sequence_of_one() -> None:
    made = network()
    looks = made.task_attention(X)
    assert looks.shape == (7, 4, 3, 3)
    torch.testing.assert_close(looks.sum(dim=-1), torch.ones(7, 4, 3))
    assert float(looks.detach().max()) < 0.99  # a sequence of one has weight 1 everywhere
    assert float(looks.detach().std(dim=-1).max()) > 1e-3


def test_attention_is_that_of_torch_on_the_tokens_of_a_sample() -> None:
    made = network()
    part = made.attention
    theirs = nn.MultiheadAttention(8, 4, batch_first=True)
    with torch.no_grad():
        parts = (part.query, part.key, part.value)
        theirs.in_proj_weight.copy_(torch.cat([each.weight for each in parts]))
        theirs.in_proj_bias.copy_(torch.cat([each.bias for each in parts]))
        theirs.out_proj.weight.copy_(part.out.weight)
        theirs.out_proj.bias.copy_(part.out.bias)
        shared = made.shared(X)
        tokens = shared[:, None] + made.tokens
        right, weights = theirs(tokens, tokens, tokens, average_attn_weights=False)
        found, looks = part(shared, made.tokens, made.tokens)
    torch.testing.assert_close(found, right)
    torch.testing.assert_close(looks, weights)
    torch.testing.assert_close(torch.stack(list(made.task_features(X).values()), dim=1), tokens + right)


def test_other_samples_of_the_batch_play_no_part() -> None:
    made = network()
    alone = made(X[2:3])
    for name, values in made(X).items():
        torch.testing.assert_close(values[2:3], alone[name])


def test_tasks_do_not_get_identical_features() -> None:
    found = list(network().task_features(X).values())
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert float((found[one] - found[other]).detach().abs().mean()) > 0.05


def test_one_task_asked_for_alone_has_the_values_that_it_has_among_all() -> None:
    made = network()
    for name, values in made(X).items():
        torch.testing.assert_close(made(X, name), values)
    made(X, "arm").sum().backward()
    assert made.attention.query.weight.grad is not None  # the call by name goes through the attention, too
    assert float(made.attention.value.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_states_of_several_tasks_are_answered_at_once_and_missing_actions_are_never_the_best() -> None:
    made = network()
    tasks = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    found = made.evaluate(X, tasks)
    each = list(made(X).values())
    for row, task in enumerate(tasks.tolist()):
        count = [2, 3, 3][task]
        torch.testing.assert_close(found[row, :count], each[task][row])
        assert bool((found[row, count:] == -torch.inf).all())


def test_the_loss_is_the_square_of_the_temperature_times_the_divergence() -> None:
    made = network(distillation_weight=0.25, temperature=0.5)
    teacher = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    student = made(X, "arm").detach().double().numpy()
    for given, told in ((None, 0.5), (2.0, 2.0)):
        right, mine = softmax(teacher.double().numpy() / told, axis=1), softmax(student / told, axis=1)
        expected = 0.25 * told**2 * rel_entr(right, mine).sum(axis=1).mean()
        assert made.compute_distillation_loss(X, "arm", teacher, given).item() == pytest.approx(expected, rel=1e-4)


def test_with_a_temperature_of_its_own_the_student_learns_preferences() -> None:
    """Rusu et al. (2016), equation 3: KL(softmax(teacher / 0.01) || softmax(student))."""
    made = network(distillation_weight=1.0, temperature=0.01, student_temperature=1.0)
    teacher = torch.tensor([[0.50, 0.51, 0.20]]).expand(7, -1)
    right = softmax(np.array([[50.0, 51.0, 20.0]]), axis=1)
    expected = rel_entr(right, softmax(made(X, "arm").detach().double().numpy(), axis=1)).sum(axis=1).mean()
    assert made.compute_distillation_loss(X, "arm", teacher).item() == pytest.approx(expected, rel=1e-4)


def test_a_large_temperature_draws_values_to_the_teachers() -> None:
    """The limit of T² KL is half the variance of the difference over the actions (Hinton et al. 2015, section 2.1)."""
    student = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    teacher = torch.tensor([[2.0, 2.5, 3.0]], dtype=torch.float64)
    gap = (student - teacher).numpy()
    assert float(distillation_loss(student, teacher, 1e3)) == pytest.approx(gap.var() / 2, rel=1e-2)


def test_the_gradient_keeps_its_scale_as_the_temperature_grows() -> None:
    sizes = []
    for told in (10.0, 1000.0):
        student = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64, requires_grad=True)
        distillation_loss(student, torch.tensor([[2.0, 2.5, 3.0]]), told).backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)  # without the square it would be 10,000 times smaller


def test_the_distillation_weight_is_used() -> None:
    teacher = torch.randn(7, 3, generator=torch.Generator().manual_seed(1))
    losses = [
        network(distillation_weight=weight).compute_distillation_loss(X, "arm", teacher).item()
        for weight in (0.0, 0.5, 2.0)
    ]
    assert losses[0] == 0
    assert losses[2] == pytest.approx(4 * losses[1])
    assert losses[1] > 0


def test_nothing_flows_back_into_the_teacher() -> None:
    teacher = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    made = network(temperature=1.0)
    made.compute_distillation_loss(X, "arm", teacher).backward()
    assert teacher.grad is None
    assert float(made.heads[1][0].weight.grad.abs().sum()) > 0  # type: ignore[index]


def test_a_student_that_agrees_costs_nothing_and_learns_nothing() -> None:
    made = network(temperature=1.0)
    loss = made.compute_distillation_loss(X, "car", made(X, "car"))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-7)
    assert max(float(p.grad.abs().max()) for p in made.parameters() if p.grad is not None) < 1e-6


def test_heads_that_do_not_divide_the_width_are_refused_and_the_default_fits() -> None:
    with pytest.raises(
        OptionError, match=r"heads must divide the last of shared_dims, 10, and 4 does not; 1, 2, 5, 10"
    ):
        network(shared_dims=[10], heads=4)
    assert [network(shared_dims=[width]).attention.heads for width in (10, 9, 7, 16)] == [2, 3, 1, 4]
    assert network(shared_dims=[10], heads=5).attention.heads == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: network(state_dim=0), "state_dim must be at least 1"),
        (lambda: network(action_dims={}), "action_dims must name at least one task"),
        (lambda: network(action_dims={"a": 0}), "task 'a' must be at least 1"),
        (lambda: network(shared_dims=[]), "shared_dims must name at least one layer"),
        (lambda: network(dropout_rate=1.0), "dropout_rate must be at least 0 and less than 1"),
        (lambda: network(distillation_weight=-1.0), "distillation_weight must be a number of at least 0"),
        (lambda: network(temperature=0.0), "temperature must be greater than 0"),
        (lambda: network()(X, "armm"), "no task 'armm'; did you mean 'arm'"),
        (lambda: network()(X[:, :3]), r"state must be \[B, 4\] or \[4\], got \(7, 3\)"),
        (lambda: network().evaluate(X, torch.full((7,), 3)), "task_ids must be from 0 to 2, got 3 to 3"),
        (lambda: network().evaluate(X, torch.zeros(7)), r"task_ids must be whole numbers \[7\]"),
        (lambda: network().compute_distillation_loss(X, "arm", torch.zeros(7, 2)), r"must be \[7, 3\] as the student"),
        (lambda: network().compute_distillation_loss(X, "arm", torch.full((7, 3), torch.nan)), "not all finite"),
        (lambda: network().compute_distillation_loss(X, "arm", torch.zeros(7, 3), temperature=-1.0), "greater than 0"),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(CrosstaskError, match=message):
        call()


def test_a_single_state_and_whole_numbers_are_taken() -> None:
    made = network()
    whole = torch.ones(4, dtype=torch.long)
    torch.testing.assert_close(made(whole, "arm"), made(whole.float()[None], "arm")[0])
    loss = made.compute_distillation_loss(X[0], "arm", torch.zeros(3))
    assert loss.ndim == 0
    with pytest.raises(DataError, match="Tensor"):
        made([1.0, 2.0, 3.0, 4.0])  # type: ignore[arg-type]
