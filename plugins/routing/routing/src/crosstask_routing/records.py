"""What plans, executions and comparisons of routers come to."""

from __future__ import annotations

import attrs

from crosstask.options import option, record
from crosstask.records import Interval
from crosstask.showing import Shown


@record
class ToolOutcome:
    """What came of one use of a tool. Cost and latency: None where they were not measured."""

    tool_id: str
    success: float = option(ge=0, le=1, help="1 or 0; between them for part of it")
    cost: float | None = option(None, ge=0, help="in the units of the budgets")
    latency: float | None = option(None, ge=0, help="seconds")


@record
class PlannedTool:
    """A tool of a plan: what to expect of one use of it for this task, with 95 % intervals of the expectations."""

    tool_id: str
    success: Interval
    cost: Interval
    latency: Interval
    uses: int = 0
    """Results that this rests on; 0: the profile alone."""


@record
class ExecutionPlan(Shown):
    """The tools for a task, in order. A `choice` tries them one after another until one succeeds; a `sequence` uses
    all, each on what the one before gave.

    `success`, `cost` and `latency` are of the whole plan, with 95 % intervals of the expectations (first order, tools
    independent); `exploration` is how probable it was that the plan begins with another tool than the one believed best
    (of a sequence: whether it is another sequence).
    """

    task_id: str
    kind: str = option(choices=("choice", "sequence"), help="how the tools are used")
    steps: tuple[PlannedTool, ...]
    success: Interval
    cost: Interval
    latency: Interval
    exploration: float = 0.0
    context: tuple[float, ...] = ()

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools, in order."""
        return tuple(step.tool_id for step in self.steps)

    def _rows(self) -> tuple[PlannedTool, ...]:
        return self.steps

    def _headline(self) -> str:
        joint = " → " if self.kind == "sequence" else ", else "
        return f"{self.task_id}: {joint.join(self.tools)}; success {self.success}, cost {self.cost}"


@record
class LearningResult:
    """What was learned from one execution, and how all of them went so far.

    `surprises` are success minus what was expected, by tool; `efficiency` is successes by unit of cost (None where
    nothing was paid); `exploration` the mean over the last 100 plans.
    """

    task_id: str
    success: bool
    reward: float
    rewards: dict[str, float]
    surprises: dict[str, float]
    executions: int
    success_rate: float
    mean_cost: float
    mean_latency: float | None
    efficiency: float | None
    exploration: float


@record
class ToolEfficiency:
    """One tool for a task: what it is expected to give for what it costs. `value` is the expected reward: success less
    weighted cost and latency; `per_cost` the expected successes by unit of cost (None where it costs nothing).
    """

    tool_id: str
    success: Interval
    cost: Interval
    latency: Interval
    value: float
    per_cost: float | None
    uses: int


@record
class PolicyFigures:
    """How one way of choosing did, over a whole run: means by task, the regret in all with its 95 % interval over
    repeats.
    """

    name: str
    reward: float
    success_rate: float
    cost: float
    regret: Interval
    efficiency: float | None = None
    exploration: tuple[float, ...] = ()
    """Share of decisions that explored, by tenth of the run."""
    regrets: tuple[float, ...] = ()
    """Regret so far after each tenth of the run, the mean over repeats."""


@record
class ToolBenchmark(Shown):
    """A learner beside what it has to beat, on simulated outcomes: `oracle` knows every expectation (its regret is 0),
    `best static` the best single tool, `random` nothing.
    """

    tasks: int
    repeats: int
    policies: tuple[PolicyFigures, ...]
    covered: float
    """Share of plans whose 95 % interval of success held the truth."""

    def of(self, name: str) -> PolicyFigures:
        """One policy by name."""
        return next(each for each in self.policies if each.name == name)

    def _rows(self) -> tuple[PolicyFigures, ...]:
        return self.policies

    def _headline(self) -> str:
        ours, static = self.of("learner").regret.mean, self.of("best static").regret.mean
        return f"{self.tasks} tasks: regret {ours:.2f}, of the best single tool {static:.2f}"


@record
class RoutingResult:
    """Routers that learn which model to ask for a request whose task is not said.

    `accuracy` is that of every tool on every task (what no router is told), `costs` what a use takes, as a part of the
    most expensive. The policies `best static` and `oracle` know all accuracies: the best single tool, and the best one
    for each task. `chosen` is, for each router, how often it used each tool for each task in the last fifth.
    """

    tools: tuple[str, ...]
    tasks: tuple[str, ...]
    accuracy: dict[str, tuple[float, ...]]
    """By tool, in the order of the tasks."""
    costs: dict[str, float]
    requests: int
    repeats: int
    cost_weight: float
    policies: tuple[PolicyFigures, ...]
    chosen: dict[str, dict[str, tuple[float, ...]]] = attrs.field(factory=dict)

    def of(self, name: str) -> PolicyFigures:
        """One policy by name."""
        return next(each for each in self.policies if each.name == name)

    @property
    def routers(self) -> tuple[str, ...]:
        """The names of the routers that learned."""
        return tuple(self.chosen)
