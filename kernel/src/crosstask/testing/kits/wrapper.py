"""Checks of wrappers: around the reference component of each contract whose hooks they wrap."""

from __future__ import annotations

from typing import Any

import attrs

from crosstask.components import Component
from crosstask.errors import CrosstaskError
from crosstask.manifest import DEFAULT
from crosstask.testing.kit import Call, CheckFailure, Kit, Subject, expect, kit_for
from crosstask.testing.references import REFERENCES


class WrapperKit(Kit):
    """A wrapped component still does what its contract says."""

    point = "wrapper"

    def inputs(self) -> dict[str, Any]:
        return {kit.point: kit.inputs() for kit in self.wrapped()}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        raise NotImplementedError("a wrapper is never called by itself")  # see `answer`

    def answer(
        self,
        component: Component | None = None,
        inputs: dict[str, Any] | None = None,
        *,
        seed: int = 0,
        wrappers: tuple[Component, ...] = (),
        noise: int | None = 0,
    ) -> Any:
        """What the reference components answer inside the wrapper."""
        made, given = self.make() if component is None else component, self.inputs() if inputs is None else inputs
        return [
            kit.answer(inputs=given[kit.point], seed=seed, wrappers=(*wrappers, made), noise=noise)
            for kit in self.wrapped()
        ]

    def wrapped(self, *, inside: bool = False) -> list[Kit]:
        """The kits of the contracts that it wraps, with reference components; `inside`, all runs have the wrapper.

        That of a contributed point is what `registry` offers under the name `reference`, else its default component.
        """
        found = []
        for point, only in self.wraps().items():
            reference = REFERENCES.get(point)
            if reference is None:
                registry = self.registry()
                offered = "reference" in registry.names(point)
                reference = registry.component_class(point, "reference" if offered else only or DEFAULT)
            around = (lambda: (self.make(),)) if inside else tuple
            subject = Subject(component=reference, wrappers=around, portfolio=self.subject.portfolio)
            made = kit_for(attrs.evolve(subject, registry=self.subject.registry))
            if only is not None:  # it wraps what has that name alone
                made.make = lambda make=made.make, name=only: _called(make(), name)  # type: ignore[method-assign, misc]
            found.append(made)
        return found

    def wraps(self) -> dict[str, str | None]:
        """The points whose hooks it wraps, each with the one component that it is for, if it says so. None where it
        cannot be added to a run, which is for `check_wraps_known_hooks` to say.
        """
        try:
            with self.run(self.make()) as run:
                return {wrapped.point: wrapped.only for wrapped in run._wraps}
        except CrosstaskError:
            return {}

    def hooks(self) -> dict[str, dict[str, Any]]:
        """pluggy's options of each method that is marked as a hook."""
        methods = ((name, getattr(self.subject.component, name)) for name in dir(self.subject.component))
        return {name: method.crosstask_impl for name, method in methods if hasattr(method, "crosstask_impl")}

    # It is never called directly, and what hears it is what it wraps.
    check_works_outside_a_run = None  # type: ignore[assignment]
    check_wrappers_see_it = None  # type: ignore[assignment]
    check_signatures = None  # type: ignore[assignment]

    def check_wraps_known_hooks(self) -> None:
        """It wraps at least one hook, each one of a contract, each with `@hookimpl(wrapper=True)`."""
        expect(self.hooks(), f"{self.name} wraps nothing; mark a method with @hookimpl(wrapper=True)")
        for name, marks in self.hooks().items():
            expect(
                marks.get("wrapper") or marks.get("hookwrapper"),
                f"{self.name}.{name} is an implementation, not a wrapper: mark it with @hookimpl(wrapper=True)",
            )
        component = self.make()
        try:
            with self.run(component) as run:
                expect(component.context is run, f"{self.name}: its context is not the run it was added to")
        except CheckFailure:
            raise
        except Exception as error:
            raise CheckFailure(f"{self.name} cannot be added to a run: {error}") from error

    def check_contract_kept(self) -> None:
        """Reference components inside it pass the checks that their contract has for itself."""
        for kit in self.wrapped(inside=True):
            plain_kit = type(kit)(attrs.evolve(kit.subject, wrappers=tuple))
            for name, check in vars(type(kit)).items():
                if not name.startswith("check_") or check is None or name == "check_agrees_with_twin":
                    continue
                if _skipped(kit, check):
                    continue
                getattr(plain_kit, name)()
                try:
                    getattr(kit, name)()
                except Exception as error:
                    told = str(error) if isinstance(error, CheckFailure) else f"{type(error).__name__}: {error}"
                    raise CheckFailure(f"inside {self.name}, a {kit.point} fails {name}: {told}") from error


def _called(made: Component, name: str) -> Component:
    made._name = name
    return made


def _skipped(kit: Kit, check: Any) -> bool:
    wanted = getattr(check, "capabilities", None)
    return "cuda" in check.__name__ or (wanted is not None and not set(wanted) & kit.subject.component.capabilities)


KIT = WrapperKit
