from crosstask import Discoverer, Portfolio, Task, TaskDescriptor, TransferEdge, TransferGraph, component


@component
class SameDomain(Discoverer):
    """Tasks of one domain help each other a little."""

    def discover(self, portfolio, graph):
        pairs = [
            (s.descriptor, t.descriptor) for s, t in portfolio.pairs() if s.descriptor.domain == t.descriptor.domain
        ]
        return [TransferEdge(source=s.task_id, target=t.task_id, transfer_coefficient=0.3) for s, t in pairs]


tasks = Portfolio(Task(descriptor=TaskDescriptor(task_id=t, domain=t[0])) for t in ("a1", "a2", "b1"))
edges = SameDomain().discover(tasks, TransferGraph())
assert [(e.source, e.target) for e in edges] == [("a1", "a2"), ("a2", "a1")]
