"""Checks of bundles that packages carry."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from crosstask.testing.kit import Call, CheckFailure, Kit, expect
from crosstask_bundles.bundle import Bundle, open_bundle
from crosstask_bundles.errors import BundleError


class BundleKit(Kit):
    """The file is in the package, is a bundle, may be used, and its tasks can be recognised.

    A `twin()` returns the path.
    """

    point = "bundle"

    def inputs(self) -> dict[str, Any]:
        return {}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return call("file")

    def path(self) -> Path:
        """The file."""
        component = self.make()
        with self.run(component) as run:
            found: Path = run.call(component, "file")
        return found

    def bundle(self) -> Bundle:
        """The bundle, if it is one."""
        try:
            return open_bundle(self.path())
        except BundleError as error:
            raise CheckFailure(f"{self.name}: {error}") from error

    def check_verifies(self) -> None:
        """The file is a bundle, and what it says it is."""
        self.bundle()

    def check_in_the_package(self) -> None:
        """The file lies in the package of the component, so that it is installed with it."""
        package = Path(inspect.getfile(self.subject.component)).resolve().parent
        expect(self.path().resolve().is_relative_to(package), f"{self.name}: {self.path()} is not in {package}")

    def check_licence(self) -> None:
        """It says under which licence it may be used."""
        try:
            told = open_bundle(self.path()).manifest.licence
        except BundleError:
            return  # another check says so
        expect(told.strip(), f"{self.name}: no licence is stated: export it with --licence")

    def check_tasks_can_be_recognised(self) -> None:
        """The data of every task between which transfer is known are told: a name alone says nothing elsewhere."""
        try:
            manifest = open_bundle(self.path()).manifest
        except BundleError:
            return
        ends = {end for edge in manifest.edges for end in (edge.source, edge.target)}
        for task in manifest.tasks:
            known = task.content is not None or task.fingerprint is not None
            if task.descriptor.task_id in ends:
                expect(known, f"{self.name}: nothing tells what the data of task {task.descriptor.task_id!r} are")

    def check_agrees_with_twin(self) -> None:
        """Its answer is the twin's."""
        assert self.subject.twin is not None
        ours, theirs = self.path(), self.subject.twin()
        expect(ours == theirs, f"{self.name} answers {ours}, its twin {theirs}")
