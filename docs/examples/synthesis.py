import copy

import torch

from crosstask import DataError, Provenance, Synthesizer, Task, TaskDescriptor, TransferGraph, component


@component
class BestSource(Synthesizer):
    """A copy of the model of the source that the graph says helps most; its outputs must be as many."""

    def synthesize(self, new_task, sources, graph, inputs):
        fitting = [s for s in sources if s.descriptor.output_dim == new_task.output_dim]
        if not fitting:
            raise DataError(f"no source of {new_task.task_id!r} has {new_task.output_dim} outputs")
        best = max(fitting, key=lambda source: graph.coefficient(source.task_id, new_task.task_id))
        model = copy.deepcopy(best.model)
        model.provenance = Provenance(strategy=self.origin, new_task=new_task.task_id, sources={best.task_id: 1.0})
        return model


source = Task(descriptor=TaskDescriptor(task_id="seen", output_dim=3), model=torch.nn.Linear(4, 3))
unseen = TaskDescriptor(task_id="unseen", output_dim=3)
model = BestSource().synthesize(unseen, [source], TransferGraph([source.descriptor, unseen]), None)
assert model.provenance.sources == {"seen": 1.0}
