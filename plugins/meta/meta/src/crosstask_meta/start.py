"""The network that meta-training starts from: drawn anew, or taken over; all of it trained, or an adapter on it."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.learning.episodes import Episodes
from crosstask.learning.models import ModelSpec
from crosstask.learning.modules import Headless, copy_of, head_name, trainable
from crosstask.learning.transferring import weights_digest
from crosstask.options import unstructure
from crosstask.points.adapter import Adapter
from crosstask.points.meta_learner import MetaLearner
from crosstask_meta.heads import answer_of, with_head


@attrs.frozen(eq=False)
class Start:
    """What the network is made from: a copy of `encoder` (inputs to features), or `model`, with weights drawn anew.

    With an `adapter` only that and the head of the classes are trained; the other weights stay bit for bit as they
    were. `told` says in results where the encoder came from.
    """

    model: ModelSpec
    encoder: nn.Module | None = None
    adapter: Adapter | None = None
    told: str = ""

    def build(self, context: Context, learner: MetaLearner, like: TaskDescriptor, episodes: Episodes) -> nn.Module:
        """The module that the learner trains on such episodes: without a head for a learner of encoders, else with one
        output per class; prepared by the learner, on the device of the run. The same each time in one run.
        """
        headless = "encoder" in learner.capabilities
        if self.encoder is not None:
            made = self._taken(context, episodes, headless)
        else:
            made = self._drawn(context, like, episodes.ways)
            made = Headless(made) if headless else made
        made = made.to(context.device)
        if self.adapter is not None:
            _adapt(context, self.adapter, made, None if headless else head_name(made))
        return learner.prepare(made, episodes.to(context.device)).to(context.device)

    def identity(self) -> dict[str, Any]:
        """What determines the module, for keys of stored results."""
        network: Any = self.model
        if self.encoder is not None:
            network = [self.told, str(self.encoder), weights_digest(self.encoder)]
        return {"network": network, "adapter": self.adapter and self.adapter.identity()}

    def options(self) -> dict[str, Any]:
        """The same for results, legible."""
        made: dict[str, Any] = {"model": unstructure(self.model)} if self.encoder is None else {"encoder": self.told}
        return made | ({"adapter": self.adapter.options()} if self.adapter is not None else {})

    def _drawn(self, context: Context, like: TaskDescriptor, ways: int | None) -> nn.Module:
        descriptor = TaskDescriptor(task_id="episodes", input_shape=like.input_shape, output_dim=ways)
        return self.model.build(descriptor, context.seed_for("few shot", "model"))

    def _taken(self, context: Context, episodes: Episodes, headless: bool) -> nn.Module:
        assert self.encoder is not None
        assert episodes.ways is not None
        network = trainable(copy_of(self.encoder)).train()
        inputs = episodes.support_inputs[0].to(next((p.device for p in network.parameters()), context.device))
        try:
            features = answer_of(network, inputs)
        except (RuntimeError, ValueError, TypeError) as error:
            raise DataError(f"{self.told} does not take inputs of shape {tuple(inputs.shape[1:])}: {error}") from error
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise DataError(f"{self.told} gives no features [N, …] of inputs [N, …], but {shape} of two of them")
        return (
            network if headless else with_head(network, features, episodes.ways, context.seed_for("few shot", "head"))
        )


def _adapt(context: Context, adapter: Adapter, module: nn.Module, head: str | None) -> None:
    """Put an adapter on all but the head, which stays trainable."""
    generator = context.generator("few shot", "adapter")
    targets = [] if head is None else [f"!{head}"]
    handle = context.call(adapter, "attach", model=module, targets=targets, generator=generator)
    inside = {id(p) for p in module.parameters()}
    if any(id(p) not in inside for p in handle.parameters()):
        raise DataError(
            f"{adapter.origin} keeps its weights outside the network: a meta-learner cannot train them there"
        )
    if head is not None:
        module.get_submodule(head).requires_grad_(True)
