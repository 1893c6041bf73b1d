from collections import Counter

from crosstask import Outcome, RecipeError, Section, Stage, TransferEngine, component, option, record
from crosstask.testing import small_portfolio


@record
class BalanceResult:
    """The share of the most frequent class, by task."""

    share: dict[str, float]


@component
class Balance(Stage):
    """How even the classes of the tasks are: a table `[balance]` of a recipe."""

    Result = BalanceResult
    after = ("discovery",)
    provides = {"even": tuple[str, ...]}  # what later stages may refer to

    tasks: tuple[str, ...] = option((), help="tasks to look at; all by default")
    limit: float = option(0.6, gt=0, le=1, help="up to which share of one class a task counts as even")

    def check(self, portfolio):
        if unknown := set(self.tasks) - set(portfolio.ids):
            raise RecipeError(f"tasks: no task {min(unknown)!r}")

    def work(self, engine):
        share = {}
        for name in self.tasks or engine.portfolio.ids:
            labels = engine.portfolio[name].data().targets.tolist()
            share[name] = max(Counter(labels).values()) / len(labels)
        return Outcome(BalanceResult(share=share), {"even": tuple(n for n, s in share.items() if s <= self.limit)})

    @classmethod
    def summary(cls, result):
        return {"least_even_task": max(result.share, key=result.share.get)}

    @classmethod
    def sections(cls, result, graph):
        from crosstask.report.page import escape, number, table  # inside: a run without a report needs none of it

        rows = [(escape(name), number(share)) for name, share in result.share.items()]
        return [Section("Balance", table("Share of the most frequent class", ("Task", "Share"), rows))]


# In a recipe it is a table, `[balance]`; in Python its name with options, or, as here, the component itself.
with TransferEngine(discoverers=[]) as engine:
    engine.register(small_portfolio(models=False))
    outcome = engine.run.call(Balance(tasks=["moons", "quarters"]), "work", engine=engine)
assert outcome.record.share["quarters"] < 0.4
assert outcome.artifacts["even"] == ("moons", "quarters")
