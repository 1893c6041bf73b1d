import torch
from torch import nn

from crosstask import Task, TaskDescriptor, component
from crosstask_multitask import MultiTaskModule, Sharing


class OneHead(MultiTaskModule):
    """One trunk and one head for all tasks, which therefore must have the same classes."""

    def __init__(self, trunk, outputs):
        super().__init__()
        self.trunk, self.head = trunk, nn.LazyLinear(outputs)

    def forward(self, inputs):
        return {task_id: self.head(self.trunk(x)) for task_id, x in inputs.items()}

    def shared_parameters(self):
        return self.parameters()

    def task_parameters(self, task_id):
        return iter(())


@component
class SharedHead(Sharing):
    """Everything is shared."""

    def build(self, tasks, trunk):
        return OneHead(trunk, tasks[0].descriptor.output_dim)


tasks = [Task(descriptor=TaskDescriptor(task_id=t, output_dim=3)) for t in "ab"]
module = SharedHead().build(tasks, nn.Flatten())
assert module({"a": torch.ones(5, 2, 2)})["a"].shape == (5, 3)
