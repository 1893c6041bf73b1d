"""For tests of distillers: a check of their encoders, and a distiller that has one and needs no training."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import nn

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError
from crosstask.learning.modules import Headless
from crosstask.manifest import Extension, Plugin
from crosstask.options import component, structure, unstructure
from crosstask.points.distillation import Distilled
from crosstask.records import MetaKnowledge
from crosstask.tasks import Task
from crosstask.testing.kit import expect, refused
from crosstask.testing.tasks import small_portfolio
from crosstask_distillation.encoders import EncoderDistiller
from crosstask_distillation.given import with_models


@component
class FirstTrunk(EncoderDistiller):
    """The trunk of the first model, as it is."""

    def distill(self, tasks: list[Task], samples: torch.Tensor | MultiInput | None) -> Distilled:
        first = with_models(tasks)[0]
        assert first.model is not None
        knowledge = MetaKnowledge(kind="first_trunk", source_tasks=(first.task_id,), domains=(first.descriptor.domain,))
        state = Headless(first.model).state_dict()
        return Distilled(knowledge, {name: tensor.detach().clone() for name, tensor in state.items()})

    def apply(self, model: nn.Module, knowledge: Distilled, rate: float) -> nn.Module:
        raise DataError("a trunk for tests is not applied")

    def encoder(self, knowledge: Distilled, tasks: Sequence[Task]) -> nn.Module:
        model = with_models(tasks)[0].model
        assert model is not None
        found = Headless(model)
        found.load_state_dict(knowledge.tensors)
        return found


PLUGIN = Plugin(
    "reference-distillation",
    [Extension("distillation", "first_trunk", f"{__name__}:FirstTrunk", summary="For tests")],
    api=(2, 0),
)


def check_encoder(distiller: EncoderDistiller) -> None:
    """CheckFailure unless the encoder maps inputs to features [N, F], follows from stored knowledge, can be trained,
    has weights of its own, and is refused where no task says what its layers are.
    """
    tasks = list(small_portfolio())
    found = distiller.distill(tasks, None)
    told = structure(json.loads(json.dumps(unstructure(found.knowledge))), MetaKnowledge, "knowledge")
    stored = Distilled(told, {name: tensor.clone() for name, tensor in found.tensors.items()})
    encoder, again = distiller.encoder(found, tasks), distiller.encoder(stored, tasks)
    inputs = tasks[0].data("test").inputs
    features = encoder.eval()(inputs)
    shape = tuple(features.shape)
    expect(len(shape) == 2 and shape[0] == len(inputs), f"{distiller.origin}: features {shape} of {len(inputs)} inputs")
    expect(bool(torch.isfinite(features).all()), f"{distiller.origin}: features that are not finite")
    expect(torch.equal(features, again.eval()(inputs)), f"{distiller.origin}: stored knowledge gives another encoder")
    expect(all(p.requires_grad for p in encoder.parameters()), f"{distiller.origin}: its encoder cannot be trained")
    models = [task.model for task in tasks if task.model is not None]
    before = [tensor.clone() for one in (again, *models) for tensor in one.state_dict().values()]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1.0)
    after = [tensor for one in (again, *models) for tensor in one.state_dict().values()]
    same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    same = same and torch.equal(distiller.encoder(found, tasks).eval()(inputs), features)
    expect(same, f"{distiller.origin}: training its encoder changes the knowledge, or another model")
    with refused(f"{distiller.origin}: an encoder without models", DataError):
        distiller.encoder(found, [Task(descriptor=task.descriptor) for task in tasks])
