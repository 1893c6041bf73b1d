import torch

from crosstask import Budget, ModelSpec, Task, TaskDescriptor, Transfer, component
from crosstask.learning.modules import head_of
from crosstask.learning.training import fit


@component
class HeadOnly(Transfer):
    """The source's trunk as it is, with a new head."""

    def learn(self, model, source, task, budget, generator):
        return fit(model, task, budget, generator, parameters=head_of(model).parameters())


rng = torch.Generator().manual_seed(0)
inputs = torch.randn(200, 6, generator=rng)
known = {"input_shape": (6,), "output_dim": 2}
source = Task(descriptor=TaskDescriptor(task_id="sign", **known), train=(inputs, (inputs[:, 0] > 0).long()))
target = Task(descriptor=TaskDescriptor(task_id="sum", **known), train=(inputs, (inputs.sum(1) > 0).long()))
target.validation = (inputs[:50], (inputs[:50].sum(1) > 0).long())
source.model = ModelSpec(hidden=[8]).build(source.descriptor, seed=0)
result = HeadOnly().transfer(source, target, Budget(steps=20), 2, "validation")
assert result.seeds == 2
assert len(result.not_transferred) == 2  # the weight and the bias of the new head
