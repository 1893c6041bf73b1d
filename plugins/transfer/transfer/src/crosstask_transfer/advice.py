"""The stage `advice`: which source to use for a target, with what method."""

from __future__ import annotations

from typing import Any, ClassVar

from crosstask.errors import DataError, RecipeError
from crosstask.graph import TransferGraph
from crosstask.manifest import DEFAULT
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.stage import Engine, Outcome, Section, Stage
from crosstask.records import Advice as Advised
from crosstask.records import Interval
from crosstask.tasks import Portfolio


@component
class Advice(Stage):
    """Which task's model to learn a target from: every source is looked at, the best few are tried on folds of the
    target's own samples, for a share of what trying all would take. The report begins with it.
    """

    Result: ClassVar[type] = Advised
    after: ClassVar[tuple[str, ...]] = ("discovery",)
    needs_models: ClassVar[bool] = True
    leads: ClassVar[bool] = True

    target: str = option(help="the task to learn")
    strategy: Part | None = part("transfer", None, help="how; the recipe's transfer by default")
    share: float = option(0.25, ge=0, le=1, help="what it may spend, as a share of learning from every source")

    def check(self, portfolio: Portfolio) -> None:
        """The target is there."""
        try:
            portfolio[self.target]
        except DataError as error:
            raise RecipeError(f"target: {error}") from None

    def identity(self) -> dict[str, Any]:
        """With who recommends strategies, where somebody is installed who does, beside what is usual."""
        registry = getattr(self.context, "registry", None)  # without a run nothing is kept, and nobody asks
        if registry is None or not registry.defaults("strategist"):
            return super().identity()
        from crosstask.engine import STRATEGIES  # deferred: it imports all of the kernel

        asked = self.context.component("strategist", DEFAULT).identity()
        usual = {point: registry.defaults(point)[:1] for point in STRATEGIES}
        return {**super().identity(), "strategist": asked, "usual": usual}

    def work(self, engine: Engine) -> Outcome:
        chosen = self.made_of("strategy")
        return Outcome(engine.advise(self.target, chosen[0] if chosen else None, share=self.share))

    @classmethod
    def summary(cls, result: Advised) -> dict[str, Any]:
        rows: dict[str, Any] = {"advised_source": result.source or "from scratch"}
        if result.expected is not None:
            rows["expected_score"] = result.expected
        for each in result.strategies:
            if each.evidence:
                rows[f"advised_{each.kind}"] = f"{each.strategy} (by {each.evidence} settings that were tried so far)"
        return rows

    @classmethod
    def sections(cls, result: Advised, graph: TransferGraph) -> list[Section]:
        from crosstask.report.page import escape, note, number, table  # deferred: it imports plotly

        cells = [
            (escape(row.source), _shown(row.expected), escape("; ".join(filter(None, (row.evidence, row.setting)))),
             *("–" if each is None else number(each) for each in (row.scratch, row.screened, row.untrained)))
            for row in result.rows
        ]  # fmt: skip
        head = (
            "Source", f"Expected {escape(result.metric)}", "Evidence", "From scratch", "Features alone",
            "Untrained features",
        )  # fmt: skip
        left = "".join(f"<li><strong>{escape(n)}</strong>: {escape(why)}</li>" for n, why in result.avoid.items())
        avoid = f"<p>What not to use:</p><ul>{left}</ul>" if left else ""
        hint = note(
            "“From scratch” is the score of the same training without the source, on the same folds or split. "
            "“Features alone” is the score of a linear model on the source's frozen features, each of the target's "
            f"{result.samples} samples predicted from the others; the last column is the best of the same on untrained "
            "networks of its architecture. What was tried on folds stands before what was only looked at. An interval "
            "is of the steps, samples and seeds beside it: with others another score is to be expected."
        )
        rows = table("Sources, the best first", head, cells) if cells else ""
        lead = f'<p class="lead">{escape(result.text)}</p>'
        title = f"What to do for {result.target}"
        return [Section(title, f"{lead}{rows}{avoid}{hint}{_strategies(result)}")]


def _strategies(result: Advised) -> str:
    """What runs of the store say of strategies; nothing where no strategist was asked."""
    if not result.strategies:
        return ""
    from crosstask.report.page import escape, note, table  # deferred: it imports plotly

    cells = [
        (escape(each.kind), escape(each.strategy), escape(each.usual), str(each.evidence), _shown(each.expected),
         _shown(each.gain, signed=True), whole(each.cost))
        for each in result.strategies
    ]  # fmt: skip
    head = ("Kind", "Recommended", "Usual", "Settings", f"Expected {escape(result.metric)}", "Gain", "Steps")
    hint = note(
        "“Settings” are tasks with their numbers of samples that runs of this store tried, this run too; “Gain” is "
        "over the usual."
    )
    return table("Strategies, by what runs of this store came to", head, cells) + hint


def whole(value: Interval | None) -> str:
    """A number of steps, with its interval where it has one."""
    if value is None:
        return "–"
    ends = f" [{value.low:,.0f}, {value.high:,.0f}]" if value.high > value.low else ""
    return f"{value.mean:,.0f}{ends}"


def _shown(value: Interval | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    from crosstask.report.page import number, spread  # deferred: it imports plotly

    return spread(value, signed=signed) if value.high > value.low else number(value.mean, signed=signed)
