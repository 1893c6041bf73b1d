from crosstask import Observer, Registry, component, state
from crosstask.run import Run


@component
class Steps(Observer):
    """Remembers the losses of every training step."""

    losses: list[dict[str, float]] = state(factory=list)

    def training_step(self, stage, step, metrics):
        self.losses.append(metrics["losses"])


steps = Steps()
with Run(Registry(), observers=[steps]) as run:
    run.tell("training_step", stage="multitask", step=1, metrics={"losses": {"digits": 2.3}})
assert steps.losses == [{"digits": 2.3}]
