import math

import numpy as np

from crosstask import component, option, state
from crosstask_routing import Decision, Router, TaskComplexity, TaskProfile, ToolMetaLearner, ToolProfile, ToolType


@component
class Nearest(Router):
    """The best tool in the contexts that were nearest, each of which counts less the farther it was."""

    reach: float = option(0.5, gt=0, help="distance at which a use counts 1/e")

    seen: list = state(factory=list)

    def choose(self, context, tools):
        means, bounds = [], []
        for tool in tools:
            near = [(math.exp(-np.linalg.norm(self._like(x, context) - context) / self.reach), r)
                    for x, name, r in self.seen if name == tool]  # fmt: skip
            weight = sum(w for w, _ in near)
            means.append(sum(w * r for w, r in near) / (weight + 1))
            bounds.append(means[-1] + 1 / math.sqrt(weight + 1))
        best = int(np.argmax(bounds))
        return Decision(tools[best], float(best != int(np.argmax(means))), np.array(means))

    def update(self, context, tool, reward):
        self.seen.append((list(map(float, context)), tool, float(reward)))

    def forget(self, tool):
        self.seen = [use for use in self.seen if use[1] != tool]

    def state_dict(self):
        return {"seen": [list(use) for use in self.seen]}

    def load_state_dict(self, state):
        self.seen = [tuple(use) for use in state["seen"]]

    def _like(self, seen, context):
        return np.pad(np.array(seen), (0, len(context) - len(seen)))


tools = {name: ToolProfile(name, ToolType.ANALYSIS) for name in ("table", "chart")}
learner = ToolMetaLearner(tools, router=Nearest())
for number in range(40):
    task = TaskProfile(f"t{number}", ("sums", "trends")[number % 2], TaskComplexity.SIMPLE)
    plan = learner.optimize_task_execution(task)
    right = {"sums": "table", "trends": "chart"}[task.task_type]
    learner.learn_from_execution(task, {plan.tools[0]: plan.tools[0] == right})
assert learner.optimize_task_execution(task).tools == ("chart",)
