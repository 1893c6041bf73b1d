import copy

import torch

from crosstask import Distilled, Distiller, MetaKnowledge, Task, TaskDescriptor, component


@component
class MeanWeights(Distiller):
    """The mean of the models' weights; giving it to a model moves that model's weights towards the mean."""

    def distill(self, tasks, samples):
        states = [task.model.state_dict() for task in tasks]
        mean = {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}
        return Distilled(MetaKnowledge(kind="prior", source_tasks=[t.task_id for t in tasks]), mean)

    def apply(self, model, knowledge, rate):
        moved = copy.deepcopy(model)
        moved.load_state_dict({n: w.lerp(knowledge.tensors[n], rate) for n, w in model.state_dict().items()})
        return moved


tasks = [Task(descriptor=TaskDescriptor(task_id=t), model=torch.nn.Linear(2, 1)) for t in "ab"]
knowledge = MeanWeights().distill(tasks, None)
half_way = MeanWeights().apply(tasks[0].model, knowledge, 1.0)
torch.testing.assert_close(half_way.weight, (tasks[0].model.weight + tasks[1].model.weight) / 2)
