import torch

from crosstask import ModelSpec, Task, TaskDescriptor, component, option, state
from crosstask_continual import ContinualLearner, ContinualStrategy


@component
class Stay(ContinualStrategy):
    """Pulls every weight to where the last task left it."""

    capabilities = frozenset({"task", "domain"})
    unsuited = {"class": "no loss compares classes of different tasks"}
    strength: float = option(1.0, ge=0, help="of the pull")
    last: dict = state(factory=dict)

    def penalty(self, model, batch, outputs):
        if not self.last:
            return None
        return self.strength * sum((p - self.last[name]).square().sum() for name, p in model.named_parameters())

    def task_ends(self, model, task):
        self.last = {name: p.detach().clone() for name, p in model.named_parameters()}


rng = torch.Generator().manual_seed(0)
inputs = torch.randn(400, 6, generator=rng)
tasks = []
for column in range(2):
    descriptor = TaskDescriptor(task_id=f"sign of {column}", input_shape=(6,), output_dim=2)
    labels = (inputs[:, column] > 0).long()
    tasks.append(Task(descriptor=descriptor, train=(inputs[:300], labels[:300]), test=(inputs[300:], labels[300:])))
forgotten = []
for strategy in (None, Stay(strength=0.3)):
    model = ModelSpec(hidden=[16]).build(tasks[0].descriptor, seed=0)
    learner = ContinualLearner(model, strategy, scenario="domain", learning_rate=0.02)
    for task in tasks:
        learner.train_task(task, num_epochs=5)
    forgotten.append(learner.scores().forgetting.mean)
assert forgotten[1] < forgotten[0]
