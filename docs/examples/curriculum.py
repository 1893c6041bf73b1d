from crosstask import CurriculumPlanner, Portfolio, Task, TaskDescriptor, TransferGraph, component


@component
class Alphabetical(CurriculumPlanner):
    """Tasks by name; `plan` adds prerequisites and the target, and cuts off what does not fit."""

    def rank(self, portfolio, graph, target, candidates):
        return sorted(candidates)


tasks = Portfolio(Task(descriptor=TaskDescriptor(task_id=t)) for t in ("shapes", "digits", "letters"))
plan = Alphabetical().plan(tasks, TransferGraph(), "shapes", 2)
assert plan.task_sequence == ("letters", "shapes")
