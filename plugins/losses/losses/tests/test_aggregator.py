"""Names, sums, weights, what is off, and what is said when something is wrong."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from crosstask import component
from crosstask.errors import DataError, OptionError, PluginError, RunError, UnknownComponentError
from crosstask.learning.gradients import ConflictMonitor
from crosstask_gradnorm import GradNorm
from crosstask_losses import LossAggregator, Objective, Output, TaskLosses, linear
from crosstask_losses.given import Given
from crosstask_losses.testing import Autoencoder, ReferenceApart, ReferenceObjective, example_outputs
from crosstask_rgb import RGB

Outputs = dict[str, list[Tensor]]


def both(**given: Any) -> LossAggregator:
    return LossAggregator({"reference": ReferenceObjective(), "judged": ReferenceApart()}, **given)


def given(seed: int = 0) -> tuple[Outputs, Tensor]:
    return example_outputs({**ReferenceObjective.reads, **ReferenceApart.reads}, seed)


@component
class Signed(ReferenceObjective):
    """The same under other names."""

    total: ClassVar[str] = "signed_loss"
    weighting: ClassVar[dict[str, str]] = {"error": "error_weight", "size": "size_weight"}


# --- Sums


def test_sum_is_of_terms_times_weights_and_bonuses_are_subtracted() -> None:
    outputs, observations = given()
    losses, task_losses = both().compute_losses(outputs, observations, error_weight=2.0)
    torch.testing.assert_close(losses["reference_loss"], 2 * losses["error"] - 0.1 * losses["size"])
    assert list(losses) == ["error", "size", "reference_loss", "largest", "judged", "judged_loss", "judge_loss"]
    assert all(value.ndim == 0 for value in losses.values())
    assert task_losses.named == {"reference": losses["reference_loss"], "judged": losses["judged_loss"]}
    assert not losses["largest"].requires_grad


def test_the_three_usual_objectives_and_the_weights_of_the_specification() -> None:
    made = LossAggregator()
    assert list(made.objectives) == ["elbo", "perceiver", "predictive"]
    assert {
        name: made.weights_at(0)[name]
        for name in ("lambda_recon", "beta", "entropy_weight", "lambda_gram", "lambda_att_dyn")
    } == {"lambda_recon": 1, "beta": 1, "entropy_weight": 0.1, "lambda_gram": 0.05, "lambda_att_dyn": 0.1}
    reads = {key: each for objective in made.objectives.values() for key, each in objective.reads.items()}
    outputs, observations = example_outputs(reads)
    losses, task_losses = made.compute_losses(
        outputs=outputs, observations=observations, beta=1.0, lambda_recon=1.0, lambda_gan=0.1
    )
    assert task_losses.names == ("elbo", "perceiver", "predictive")
    assert {"total_vae_loss", "perceiver_loss", "attention_loss"} < set(losses)


# --- What a balancer is given


def test_task_losses_are_a_list_of_scalars_with_names() -> None:
    outputs, observations = given()
    _, found = both().compute_losses(outputs, observations)
    assert isinstance(found, list)
    assert isinstance(found, Mapping)
    assert [loss.ndim for loss in found] == [0, 0]
    torch.testing.assert_close(sum(found), torch.stack(found).sum())
    assert found.names == found.keys() == ("reference", "judged")
    assert torch.equal(found["judged"], found[1])
    assert dict(found) == found.named == dict(zip(found.names, found, strict=True))
    assert found.values() == found[:] == list(found)
    assert repr(found).startswith("TaskLosses(reference=")
    assert "judged" in found
    assert "juged" not in found
    assert found[0] in found
    assert found.get("judged") is found[1]
    assert found.get("juged") is None
    with pytest.raises(DataError, match="no objective 'juged' is on; did you mean 'judged'"):
        found["juged"]


def test_rgb_takes_them_and_keeps_the_names() -> None:
    torch.manual_seed(0)
    model, balancer = Autoencoder(16), RGB()
    observations = torch.rand(6, 3, 1, 4, 4)
    _, found = both().compute_losses(model(observations), observations)
    balancer.backward(found)
    assert balancer.last.names == ("reference", "judged")
    assert set(balancer.angles) == {"reference", "judged"}
    assert all(p.grad is not None for p in model.parameters())


def test_a_loss_that_is_not_finite_is_named_by_the_balancer_too() -> None:
    """`RGB().backward({'perceiver': nan})` says which it is."""
    weight = nn.Parameter(torch.ones(2))
    wrong = {"elbo": weight.sum(), "perceiver": weight.sum() * float("nan")}
    for losses in (wrong, TaskLosses(wrong)):
        with pytest.raises(RunError, match="loss 'perceiver' is nan"):
            RGB().backward(losses)


def test_conflicts_can_be_measured_of_them() -> None:
    torch.manual_seed(0)
    model, observations = Autoencoder(16), torch.rand(6, 3, 1, 4, 4)
    _, found = both().compute_losses(model(observations), observations)
    monitor = ConflictMonitor()
    measured = monitor.measure(found)
    assert monitor.measure(found.named) == measured
    assert measured is not None
    assert set(measured) == {"mean_cosine", "conflict_share", "magnitude_similarity"}


def test_rgb_goes_on_by_name_when_an_objective_is_switched_off() -> None:
    """The angles of those that remain stay, and the one that comes back finds its own."""
    torch.manual_seed(0)
    model, balancer, made = Autoencoder(16), RGB(), both(weights={"size_weight": 0.0})
    observations = torch.rand(6, 3, 1, 4, 4)

    def step() -> None:
        balancer.backward(made.compute_losses(model(observations), observations)[1])

    step()
    before = dict(balancer.angles)
    made.switch("judged", False)
    step()
    assert balancer.last.names == ("reference",)
    assert balancer.angles["judged"] == before["judged"]
    made.switch("judged")
    step()
    assert set(balancer.angles) == {"reference", "judged"}


def test_rgb_starts_again_when_the_losses_have_no_names_and_gradnorm_refuses() -> None:
    torch.manual_seed(0)
    model, made = Autoencoder(16), both(off=["size"], weights={"judged_weight": 1.0})
    observations = torch.rand(6, 3, 1, 4, 4)

    def losses(*, bare: bool) -> Any:
        found = made.compute_losses(model(observations), observations)[1]
        found[1] = found[1].square() + 1.0  # GradNorm divides by the first losses: they must be above zero
        return list(found) if bare else found

    rgb, again = RGB(), RGB()
    rgb.backward(losses(bare=True))
    three = [*losses(bare=True), model.decoder.weight.square().sum()]
    again.load_state_dict({**rgb.state_dict(), "angles": {}})
    rgb.backward(three, list(model.parameters()), retain_graph=True)
    again.backward(three, list(model.parameters()))
    assert rgb.angles == again.angles  # as if it had none before
    bare, named = GradNorm(), GradNorm()
    bare.backward(losses(bare=True))
    named.backward(losses(bare=False))
    with pytest.raises(RunError, match=r"remembers 2 tasks, was given 1.*or name them"):
        bare.backward(losses(bare=True)[:1], list(model.parameters()))
    named.backward({"reference": losses(bare=False)["reference"]}, list(model.parameters()))
    assert set(named.weights) == {"reference", "judged"}


def test_gradnorm_refuses_a_first_loss_below_zero() -> None:
    """A sum with a bonus may be: with this balancer the bonus is left out, or shifted."""
    torch.manual_seed(0)
    model, observations = Autoencoder(16), torch.rand(6, 3, 1, 4, 4)
    _, found = both(weights={"size_weight": 100.0}).compute_losses(model(observations), observations)
    with pytest.raises(RunError, match="the first losses must be positive"):
        GradNorm().backward(found)


# --- Off


def test_an_objective_that_is_off_is_left_out_and_its_outputs_are_not_needed() -> None:
    outputs, observations = given()
    del outputs["made"]
    losses, task_losses = both(off=["judged"]).compute_losses(outputs, observations)
    assert task_losses.names == ("reference",)
    assert "judged" not in losses
    assert both(off=["judged"]).parameters() == []


def test_a_term_that_is_off_is_left_out_and_its_outputs_are_not_needed() -> None:
    outputs, observations = given()
    del outputs["reconstructions"]
    losses, _ = both(off=["error", "largest"]).compute_losses(outputs, observations)
    assert "error" not in losses
    assert "largest" not in losses
    torch.testing.assert_close(losses["reference_loss"], -0.1 * losses["size"])


def test_a_weight_of_zero_is_not_off() -> None:
    """An annealed weight begins there: the term is computed, checked, and trains nothing yet."""
    outputs, observations = given()
    losses, found = both(off=["size"]).compute_losses(outputs, observations, error_weight=0.0)
    assert losses["error"] > 0
    assert found["reference"] == 0
    del outputs["reconstructions"]
    with pytest.raises(DataError, match="reconstructions"):
        both().compute_losses(outputs, observations, error_weight=0.0)


def test_all_off_is_refused_and_so_is_a_name_that_there_is_not() -> None:
    outputs, observations = given()
    with pytest.raises(OptionError, match="all objectives are switched off"):
        both(off=["reference", "judged"]).compute_losses(outputs, observations)
    assert both(off=["error", "size"]).terms() == {"judged": {"judged": "judged_weight"}}
    with pytest.raises(OptionError, match="no objective or term 'eror'; did you mean 'error'"):
        both(off=["eror"])


# --- Weights


def test_weights_of_a_call_go_before_the_aggregators_and_these_before_the_options() -> None:
    outputs, observations = given()
    made = LossAggregator({"r": ReferenceObjective(error_weight=3.0, size_weight=5.0)}, weights={"size_weight": 7.0})
    assert made.weights_at(None) == {"error_weight": 3.0, "size_weight": 7.0}
    losses, _ = made.compute_losses(outputs, observations, size_weight=0.0)
    torch.testing.assert_close(losses["reference_loss"], 3 * losses["error"])


def test_scheduled_weights_need_the_step() -> None:
    outputs, observations = given()
    made = both(weights={"error_weight": linear(0.0, 2.0, 10)})
    for step, factor in ((0, 0.0), (5, 1.0), (50, 2.0)):
        losses, _ = made.compute_losses(outputs, observations, step=step)
        torch.testing.assert_close(losses["reference_loss"], factor * losses["error"] - 0.1 * losses["size"])
    with pytest.raises(OptionError, match=r"weight 'error_weight' follows a schedule.*compute_losses\(step=…\)"):
        made.compute_losses(outputs, observations)


def test_unknown_weights_are_refused_with_the_nearest() -> None:
    outputs, observations = given()
    with pytest.raises(OptionError, match="no weight 'eror_weight'; did you mean 'error_weight'"):
        both().compute_losses(outputs, observations, eror_weight=1.0)
    with pytest.raises(OptionError, match="no weight 'bta'; did you mean 'beta'"):
        both(weights={"bta": 1.0})
    with pytest.raises(DataError, match="weights must be a Mapping, got a list"):
        both(weights=[1.0])
    both().compute_losses(outputs, observations, beta=0.5)  # of an objective that is not on


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "1", True])
def test_weights_that_are_none_are_refused(value: Any) -> None:
    outputs, observations = given()
    with pytest.raises(OptionError, match="weight 'error_weight' must be"):
        both().compute_losses(outputs, observations, error_weight=value)


# --- What is missing or wrong


def test_a_missing_output_is_named_with_its_term_and_what_there_is() -> None:
    outputs, observations = given()
    outputs["reconstruction"] = outputs.pop("reconstructions")
    with pytest.raises(DataError) as caught:
        both().compute_losses(outputs, observations)
    said = str(caught.value)
    for part in (
        "term 'error' needs outputs['reconstructions']", "a list of T tensors [B, C, H, W], one for each time step",
        "did you mean 'reconstruction'?", "Valid: centre, made, reconstruction, state", "off=['error']",
    ):  # fmt: skip
        assert part in said


def test_a_term_that_is_not_finite_names_itself() -> None:
    outputs, observations = given()
    outputs["state"][1] = outputs["state"][1] * float("inf")
    with pytest.raises(RunError, match="loss ReferenceObjective: term 'size' is inf"):
        both().compute_losses(outputs, observations)
    with pytest.raises(RunError, match="term 'error' is nan"):
        both().compute_losses(given()[0], observations * float("nan"))


@pytest.mark.parametrize(
    ("observations", "said"),
    [
        (torch.rand(4, 3, 2, 6), r"got \[4, 3, 2, 6\]; a single sequence needs a batch dimension"),
        (torch.rand(4, 3), r"a tensor \[B, T, C, H, W\] .*, got \[4, 3\]$"),
        (torch.rand(4, 0, 2, 6, 5), r"got \[4, 0, 2, 6, 5\]$"),
        (torch.zeros(4, 3, 2, 6, 5, dtype=torch.uint8), r"torch.uint8; of bytes: observations / 255"),
        ([1.0], "got a list"),
        (torch.rand(4, 2, 2, 6, 5), r"outputs\['reconstructions'\] has 3 tensors; it must have 2"),
        (torch.rand(5, 3, 2, 6, 5), r"\['reconstructions'\]\[0\] must have the shape \[B, C, H, W\] with B = 5, C = 2"),
    ],
)
def test_observations_of_another_shape_are_refused(observations: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        both().compute_losses(given()[0], observations)


@pytest.mark.parametrize("actions", [torch.zeros(4, 3), torch.zeros(4, 2, 1), "left"])
def test_actions_of_another_shape_are_refused(actions: Any) -> None:
    outputs, observations = given()
    with pytest.raises(DataError, match=r"actions must be a tensor \[B, T, A\] with B = 4, T = 3"):
        both().compute_losses(outputs, observations, actions)
    both().compute_losses(outputs, observations, torch.zeros(4, 3, 2))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("state", torch.zeros(3, 4, 5), r"must be a list of T tensors \[B, Z\].*got a tensor of shape \(3, 4, 5\)"),
        ("state", None, "must be a list of T tensors.*got a NoneType"),
        ("state", [torch.zeros(4)] * 3, r"\[0\] must have the shape \[B, Z\], got \[4\]"),
        ("state", [torch.zeros(4, 5), torch.zeros(4, 6), torch.zeros(4, 5)], r"\[1\] must have .* Z = 5, got \[4, 6\]"),
        ("state", [torch.zeros(4, 5).long()] * 3, r"must hold floating-point numbers, got torch.int64"),
        ("state", [1, 2, 3], r"\[0\] must be a Tensor, got a int"),
        ("centre", [torch.zeros(5)] * 2, r"has 2 tensors; it must have 1: a tensor \[Z\]"),
    ],
)
def test_outputs_of_another_shape_are_named(key: str, value: Any, said: str) -> None:
    outputs, observations = given()
    with pytest.raises(DataError, match=said):
        both().compute_losses({**outputs, key: value}, observations)


def test_outputs_must_be_a_mapping() -> None:
    with pytest.raises(DataError, match="outputs must be a mapping of names to lists of tensors, got a list"):
        both().compute_losses([], given()[1])  # type: ignore[arg-type]


def test_a_constant_may_be_the_tensor_itself() -> None:
    outputs, observations = given()
    one = both().compute_losses(outputs, observations)[0]
    other = both().compute_losses({**outputs, "centre": outputs["centre"][0]}, observations)[0]  # type: ignore[dict-item]
    assert torch.equal(one["size"], other["size"])


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("positive", torch.tensor([1.0, 0.0, 2.0]), "must be above zero, got 0; softplus makes it so"),
        ("index", torch.tensor([1.0, 0.0, 2.0]), "must hold whole numbers, got torch.float32"),
        ("index", torch.tensor([1, -1, 2]), "must hold whole numbers from zero, got -1"),
    ],
)
def test_kinds_of_outputs_are_held_to(kind: str, value: Tensor, said: str) -> None:
    made = Given({"x": value}, torch.rand(1, 1, 1, 1, 1), None, {"x": Output("N", "any", kind, constant=True)}, "mine")
    with pytest.raises(DataError, match=said):
        made.constant("x")


def test_half_precision_is_computed_in_full() -> None:
    outputs, observations = given()
    half = {key: [value.to(torch.bfloat16) for value in values] for key, values in outputs.items()}
    losses, _ = both().compute_losses(half, observations.to(torch.bfloat16))
    assert {value.dtype for value in losses.values()} == {torch.float32}
    losses, _ = both().compute_losses(outputs, observations)
    assert losses["error"].requires_grad


# --- Which objectives


def test_objectives_are_named_by_their_component_or_by_the_user() -> None:
    assert list(LossAggregator([ReferenceObjective()]).objectives) == ["referenceobjective"]
    assert list(LossAggregator(["elbo", {"use": "perceiver", "commitment": 0.5}]).objectives) == ["elbo", "perceiver"]
    with pytest.raises(OptionError, match="two objectives are called"):
        LossAggregator([ReferenceObjective(), ReferenceObjective()])
    with pytest.raises(OptionError, match="'b' and 'a' both have a loss 'error'"):
        LossAggregator({"a": ReferenceObjective(), "b": Signed()})
    with pytest.raises(UnknownComponentError, match=r"LossAggregator: .*elboo.*'elbo'"):
        LossAggregator(["elboo"])
    with pytest.raises(OptionError, match=r"must be several, in a list: \['elbo'\]"):
        LossAggregator("elbo")
    with pytest.raises(OptionError, match="at least one objective"):
        LossAggregator([])


def test_state_is_of_the_objectives() -> None:
    outputs, observations = given()
    one, other = both(seed=1), both(seed=2)
    first = one.compute_losses(outputs, observations)[0]["judge_loss"]
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.compute_losses(outputs, observations)[0]["judge_loss"], first)
    with pytest.raises(DataError, match=r"the state is of objectives \['judged'\]"):
        other.load_state_dict({"judged": {}})


# --- Objectives that are written wrongly


def test_an_objective_must_say_its_sum_and_weights_and_no_name_twice() -> None:
    with pytest.raises(PluginError, match="Nameless must say its `total`"):
        type("Nameless", (Objective,), {"weighting": {"a": "b"}, "term": lambda self, name, given: None})
    with pytest.raises(PluginError, match="Twice: 'a' names two things"):
        type("Twice", (Objective,), {"total": "a", "weighting": {"a": "b"}, "term": lambda self, name, given: None})


def test_an_objective_that_reads_what_it_does_not_declare_is_told() -> None:
    made = Given({}, torch.rand(1, 1, 1, 1, 1), None, {"x": Output("N", "any", constant=True)}, "mine")
    with pytest.raises(PluginError, match=r"mine: it reads outputs\['y'\], which its `reads` does not declare"):
        made.has("y")
    with pytest.raises(PluginError, match=r"outputs\['x'\] is declared as a tensor \[N\]"):
        made.steps("x")
    with pytest.raises(DataError, match=r"^mine needs outputs\['x'\]"):
        made.constant("x")


def test_a_term_that_is_no_scalar_is_refused() -> None:
    @component
    class Vector(ReferenceObjective):
        """Wrong."""

        def term(self, name: str, given: Given) -> Tensor:
            return given.steps("state")

    with pytest.raises(PluginError, match=r"term 'error' must be a scalar, got shape \(3, 4, 5\), torch.float32"):
        LossAggregator([Vector()]).compute_losses(*given())
