from crosstask import Portfolio, Strategist, StrategyAdvice, Task, TaskDescriptor, component


@component
class Majority(Strategist):
    """The transfer method that earlier runs used most; of other kinds what is usual."""

    def suggest(self, task, portfolio, usual):
        past = [entry for _, entry in self.context.past("transfers") if "strategy" in entry]
        methods = [entry["strategy"].split("'")[1] for entry in past]
        most = {"transfer": max(methods, key=methods.count)} if methods else {}
        return [
            StrategyAdvice(kind=kind, strategy=most.get(kind, name), usual=name, evidence=len(methods), text="As ever.")
            for kind, name in usual.items()
        ]


task = Task(descriptor=TaskDescriptor(task_id="new"))
(advice,) = Majority().suggest(task, Portfolio([task]), {"transfer": "fine_tuning"})
assert (advice.strategy, advice.evidence) == ("fine_tuning", 0)
