"""The supernet holds every network; its hypergradient is the right one; what it prefers is good."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstask.context import LocalContext
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError, OptionError
from crosstask.records import Budget
from crosstask.tasks import Task
from crosstask.testing.tasks import small_task
from crosstask_nas import Darts, create_nas_search_space
from crosstask_nas.darts import choice_gradients
from crosstask_nas.supernet import Supernet
from crosstask_search.models import ModelSpace
from crosstask_search.networks import run_model_search
from crosstask_search.parameter import Parameter
from crosstask_search.records import Trial


def supernet(space: Any, seed: int = 0, dtype: torch.dtype = torch.float64) -> Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Supernet(space.models, space.space, space.input_shape, space.num_classes).to(dtype)


@pytest.mark.parametrize(
    ("shape", "operations"), [((5,), ("relu", "gelu", "tanh")), ((2, 8, 8), ("conv3", "conv5", "dilated3", "pool"))]
)
def test_a_choice_made_for_sure_is_the_network_itself(shape: tuple[int, ...], operations: tuple[str, ...]) -> None:
    """With all weight on one architecture, and its weights cut out of the supernet's, the outputs are the same."""
    space = create_nas_search_space(shape, 3, 3, operations=operations, widths=(2, 4))
    net = supernet(space).eval()
    for architecture in space.space.sample(np.random.default_rng(0), 6):
        for name in net.names:
            values = space.space.parameters[name].choices
            chosen = values.index(architecture.get(name, values[0]))
            net.choices[name].data = torch.where(torch.arange(len(values)) == chosen, 0.0, -1e4).double()
        model = space.build(architecture).double().eval()
        before = shape[0]
        layers = [m for m in model.trunk if isinstance(m, nn.Sequential)]  # type: ignore[union-attr]
        for depth, layer in enumerate(layers, start=1):
            width = architecture[f"width{depth}"]
            kind = operations.index(architecture[f"operation{depth}"])
            source = net.operations[depth - 1][kind].state_dict()  # type: ignore[index]
            own = layer.state_dict()
            for name in own:
                cut = source[name]
                if cut.dim() >= 2:
                    cut = cut[:width, :before]
                elif cut.dim() == 1:
                    cut = cut[:width]
                own[name] = cut
            layer.load_state_dict(own)
            before = width
        head = net.heads[len(layers) - 1]
        model.head.weight.data = head.weight[:, :before].detach().clone()  # type: ignore[union-attr, index]
        model.head.bias.data = head.bias.detach().clone()  # type: ignore[union-attr]
        inputs = torch.randn(6, *shape, dtype=torch.float64)
        assert torch.allclose(net(inputs), model(inputs), atol=1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_gradients_of_choices_agree_with_differences(rate: float) -> None:
    """Second order: of the exam's loss after a training step, with the step itself taken again for each difference."""
    space = create_nas_search_space((3,), 2, 2, operations=("gelu", "tanh"), widths=(2, 3))
    net = supernet(space, seed=1)
    generator = torch.Generator().manual_seed(0)
    lesson, exam = (
        (torch.randn(8, 3, generator=generator).double(), torch.randint(2, (8,), generator=generator)) for _ in range(2)
    )

    def examined() -> float:
        value = functional.cross_entropy(net(lesson[0]), lesson[1])
        slopes = torch.autograd.grad(value, net.weights())
        with torch.no_grad():
            for weight, slope in zip(net.weights(), slopes, strict=True):
                weight -= rate * slope
            found = float(functional.cross_entropy(net(exam[0]), exam[1]))
            for weight, slope in zip(net.weights(), slopes, strict=True):
                weight += rate * slope
        return found

    gradients = choice_gradients(net, functional.cross_entropy, lesson, exam, rate)
    for logits, gradient in zip(net.logits(), gradients, strict=True):
        for place in range(len(logits)):
            values = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    logits[place] += step
                values.append(examined())
                with torch.no_grad():
                    logits[place] -= step
            assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-8)


def ring_task(count: int = 300) -> Task:
    """Inside or outside of a circle: no linear boundary, so that a network needs its nonlinearity."""

    def drawn(seed: int) -> tuple[Tensor, Tensor]:
        points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
        return points, (points.norm(dim=1) > 1.18).long()

    descriptor = TaskDescriptor(task_id="ring", input_shape=(2,), output_dim=2)
    return Task(descriptor=descriptor, train=drawn(0), validation=drawn(1), test=drawn(2))


@pytest.mark.parametrize("order", [1, 2])
def test_it_prefers_the_width_that_the_task_needs(order: int) -> None:
    """One hidden unit cannot enclose a circle; thirty-two can."""
    task, models = ring_task(), ModelSpace(max_layers=1, widths=(1, 32))
    search = Darts(order=order, steps=80)
    assert search.search(task, models) == {"layers": 1, "width1": 32}
    assert search.learned is not None
    one, many = search.learned["width1"]
    assert many > one + 0.1


def test_later_proposals_follow_the_preferences_and_do_not_repeat() -> None:
    task, models = ring_task(), ModelSpace(max_layers=2, widths=(1, 4, 32))
    search = Darts(steps=40)
    space = models.space(task.descriptor)
    search.search_begins(space, task, models)
    trials: list[Trial] = []
    for number in range(12):
        trials.append(Trial(number=number, point=search.propose(space, trials), status="done", value=0.0))
    assert len({space.key(t.point) for t in trials}) == 12 == space.count()


def test_it_searches_in_a_model_search_beside_other_parameters() -> None:
    models = ModelSpace(max_layers=2, widths=(4, 16), tune={"learning_rate": Parameter(low=1e-3, high=1e-1, log=True)})
    budget = Budget(steps=20, batch_size=16)
    result = run_model_search(LocalContext(), Darts(steps=10), models, small_task("moons"), budget, 3, seeds=1)
    assert len({t.point["learning_rate"] for t in result.trials}) == 3
    assert result.best is not None


def test_images_of_the_kernels_own_convolutions() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 1, 8, 8, generator=generator)
    labels = (images.mean(dim=(1, 2, 3)) > 0).long()
    task = Task(
        descriptor=TaskDescriptor(task_id="bright", input_shape=(1, 8, 8), output_dim=2),
        train=(images[:40], labels[:40]),
        validation=(images[40:], labels[40:]),
    )
    models = ModelSpace(kind="conv", max_layers=2, widths=(2, 4))
    point = Darts(steps=5).search(task, models)
    assert models.space(task.descriptor).contains(point)
    assert models.model(point).build(task.descriptor, 0)(images).shape == (60, 2)


def test_what_it_cannot_search_is_refused() -> None:
    models = ModelSpace(kind="a.b:c", parameters={"layers": Parameter(choices=(1,))})
    with pytest.raises(OptionError, match=r"not those of 'a.b:c': use another search"):
        Darts().search(small_task("moons"), models)
    with pytest.raises(DataError, match="trains on the task itself and was given none"):
        Darts().propose(ModelSpace().space(small_task("moons").descriptor), [])
