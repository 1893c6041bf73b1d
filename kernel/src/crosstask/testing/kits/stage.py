"""Checks of stages."""

from __future__ import annotations

import json
from typing import Any

import attrs

from crosstask.engine import TransferEngine
from crosstask.errors import CrosstaskError
from crosstask.graph import TransferGraph
from crosstask.options import structure, unstructure
from crosstask.parts import Reference
from crosstask.points.stage import Outcome, Section, Stage
from crosstask.stages import Finished, run_stage
from crosstask.tasks import Portfolio
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, NotApplicableError, expect
from crosstask.testing.tasks import small_portfolio


class StageKit(Kit):
    """Its options are the table, its record is data, what it provides is there; the report can be written without it.

    The stage works on the kit's small tasks (or `portfolio`), with components of `registry`: give one that has, marked
    as default, what the stage is made of. A stage that must be told something is given it with `options`.
    """

    point = "stage"

    def portfolio(self) -> Portfolio:
        return (self.subject.portfolio or small_portfolio)()

    def inputs(self) -> dict[str, Any]:
        return {}

    def engine(self, stage: Stage, seed: int = 0, **given: Any) -> TransferEngine:
        """An engine with the tasks, of which the stage is a component."""
        from crosstask.records import Budget

        small = Budget(steps=6, batch_size=16, learning_rate=0.01, evaluate_every=3)
        made = TransferEngine(
            registry=self.registry(), discoverers=[], train=small, budget=small, seeds=2, seed=seed, **given
        )
        made.register(self.portfolio())
        for wrapper in self.subject.wrappers():
            made.run.add(wrapper)
        made.run.add(stage)
        return made

    def worked(self, stage: Stage | None = None, seed: int = 0, **given: Any) -> Outcome:
        """What a new stage comes to on the kit's tasks."""
        made = self.make() if stage is None else stage
        with self.engine(made, seed, **given) as engine:
            made.check(engine.portfolio)
            return run_stage(engine, made, made.name, Finished())

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return plain(_data(self.worked(component)))

    def answer(
        self, component: Any = None, inputs: Any = None, *, seed: int = 0, wrappers: Any = (), noise: Any = 0
    ) -> Any:
        from crosstask.testing.kit import global_noise

        made = self.make() if component is None else component
        with self.engine(made, seed) as engine:
            for wrapper in wrappers:
                engine.run.add(wrapper)
            if noise is None:
                return plain(_data(run_stage(engine, made, made.name, Finished())))
            with global_noise(noise):
                return plain(_data(run_stage(engine, made, made.name, Finished())))

    check_works_outside_a_run = None  # type: ignore[assignment]  # a stage is made of a run
    check_picklable = None  # type: ignore[assignment]  # it never leaves the process of the run
    check_state_round_trip = None  # type: ignore[assignment]  # what survives is its record
    check_state_is_a_snapshot = None  # type: ignore[assignment]
    check_inputs_untouched = None  # type: ignore[assignment]  # it may change the engine

    def check_wrappers_see_it(self) -> None:
        """Wrappers hear `work`, and passing the answer on changes nothing."""
        from crosstask.testing.kit import _spy, contract_of

        heard: list[str] = []
        wrapped = self.answer(wrappers=(_spy(contract_of(self.subject.component), heard),))
        expect("work" in heard, f"{self.name}: no wrapper heard its work")
        found = difference(self.answer(), wrapped, "answer")
        expect(found is None, f"{self.name} answers otherwise under a wrapper that changes nothing: {found}")

    def check_result_is_a_record(self) -> None:
        """`Result` is a record, and what `work` returns survives being written as JSON."""
        kind = self.stage.Result
        expect(attrs.has(kind), f"{self.name}.Result must be made with @crosstask.record")
        record = self.worked().record
        text = json.dumps(unstructure(record), allow_nan=False)
        found = difference(
            plain(unstructure(structure(json.loads(text), kind, "Result"))), plain(json.loads(text)), "record"
        )
        expect(found is None, f"{self.name}: its record read back differs: {found}")

    def check_provides_what_it_says(self) -> None:
        """Each artifact is declared in `provides`, with its type."""
        artifacts = self.worked().artifacts
        for name, value in artifacts.items():
            kind = self.stage.provides[name]
            try:
                structure(value, kind, name)
            except CrosstaskError as error:
                expect(False, f"{self.name}: artifact {error}")

    def check_tells_its_progress(self) -> None:
        """Every stage that it tells observers of as started is told of as finished, too."""
        from crosstask.options import component
        from crosstask.points.observer import Observer

        told: list[tuple[str, str]] = []

        @component
        class Hearing(Observer):
            """Notes what it hears."""

            def stage_started(self, stage: str, total: int | None) -> None:
                told.append(("started", stage))

            def stage_finished(self, stage: str, result: Any) -> None:
                told.append(("finished", stage))

        self.worked(observers=[Hearing()])
        started = [stage for what, stage in told if what == "started"]
        finished = [stage for what, stage in told if what == "finished"]
        expect(sorted(started) == sorted(finished), f"{self.name}: started {started}, finished {finished}")

    def check_resumes(self) -> None:
        """With the store of a run that has finished it gives the same again: record and artifacts."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            store = f"{folder}/store.db"
            first, again = (plain(_data(self.worked(store=store))) for _ in range(2))
        found = difference(first, again, "outcome")
        expect(found is None, f"{self.name} gives otherwise in a resumed run: {found}")

    def check_shown(self) -> None:
        """`summary` gives rows of plain figures, `sections` sections with a title and HTML, from the record alone."""
        record = structure(unstructure(self.worked().record), self.stage.Result, "Result")
        rows = self.stage.summary(record)
        for name, value in rows.items():
            plain_value = unstructure(value)
            simple = plain_value is None or isinstance(plain_value, bool | int | float | str | dict | list)
            expect(isinstance(name, str) and simple, f"{self.name}.summary: {name!r} is {value!r}")
        graph = TransferGraph()
        for task in self.portfolio():
            graph.add_task(task.descriptor)
        for section in self.stage.sections(record, graph):
            expect(isinstance(section, Section), f"{self.name}.sections must give Section objects, got {section!r}")
            expect(section.title.strip() and section.html.strip(), f"{self.name}.sections: {section.title!r} is empty")

    def check_check_changes_nothing(self) -> None:
        """`check` neither trains nor changes tasks."""
        stage = self.make()
        with self.engine(stage) as engine:
            before = plain(engine.portfolio)
            stage.check(engine.portfolio)
            found = difference(before, plain(engine.portfolio), "tasks")
        expect(found is None, f"{self.name}.check changes the tasks: {found}")

    def check_refuses_no_tasks(self) -> None:
        """Without any task `check` says what is missing, or `work` copes."""
        stage = self.make()
        made = TransferEngine(registry=self.registry(), discoverers=[])
        try:
            with made as engine:
                engine.run.add(stage)
                stage.check(engine.portfolio)
                run_stage(engine, stage, stage.name, Finished())
        except CrosstaskError as error:
            expect(str(error).strip(), f"{self.name} without tasks: {type(error).__name__} without a message")

    def check_references_are_checked(self) -> None:
        """An option that takes what other stages provide refuses a table without the stage's name."""
        fields = attrs.fields(self.subject.component)  # type: ignore[arg-type]
        named = [f.name for f in fields if "reference" in f.metadata]
        if not named:
            raise NotApplicableError("it refers to no other stage")
        for name in named:
            self._refuses(name, {"from": 3}, "a reference to 3")
            self._refuses(name, {"from": "x", "given": "y"}, "a reference with an unknown key")
            # beside the options that must be given only: others may exclude one another
            required = {f.name for f in fields if f.init and f.default is attrs.NOTHING}
            given = {key: value for key, value in self.subject.options.items() if key in required}
            made = self.subject.component(**{**given, name: {"from": "x", "take": "y"}})
            expect(made.references()[name][0] == Reference("x", "y"), f"{self.name}: {name} loses its reference")

    @property
    def stage(self) -> type[Stage]:
        return self.subject.component  # type: ignore[return-value]


def _data(outcome: Outcome) -> dict[str, Any]:
    """An outcome without what differs from run to run: times."""
    return {"record": _timeless(unstructure(outcome.record)), "artifacts": dict(outcome.artifacts)}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k != "seconds" and not k.endswith("_seconds")}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


KIT = StageKit
