"""A kit that proves itself: for each of its checks a wrong component that fails that check and no other.

For whoever defines an extension point. In the tests of its base:

    wrong = SelfTest(ReferenceContinual)  # the right components, each of which passes every check

    @wrong.caught_by("check_replays_what_it_saw")
    class Inventing(ReferenceContinual):
        ...

    test_right, test_wrong, test_every_check_has_a_wrong_component = wrong.tests()
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from crosstask.components import Component
from crosstask.options import component
from crosstask.testing.kit import Kit, Subject, _methods, kit_for, run_checks


class SelfTest:
    """Right components of some points, and a table of wrong ones.

    `given` are arguments of `run_checks` that every check of these points needs (`registry`, `portfolio`, …).
    """

    def __init__(self, *right: type[Component], **given: Any) -> None:
        self.right, self.given = right, given
        self.wrong: list[tuple[str, type[Component], dict[str, Any]]] = []

    def caught_by(self, check: str, **given: Any) -> Callable[[type[Component]], Any]:
        """Decorate a class as a component and put it into the table: `check` alone must fail. `given` as for
        `run_checks`, such as `options`.
        """

        def note(cls: type[Component]) -> type[Component]:
            made = component(cls)
            made.__doc__ = made.__doc__ or "Wrong."
            return self.add(check, made, **given)

        return note

    def add(self, check: str, cls: type[Component], **given: Any) -> type[Component]:
        """The same for a class that is decorated already."""
        self.wrong.append((check, cls, given))
        return cls

    def tests(self) -> Any:
        """Three pytest functions: right components pass, each wrong one fails its check and no other, and every check
        that the kit adds has a wrong component.
        """
        import pytest  # deferred: the kit works without it

        @pytest.mark.parametrize("right", self.right, ids=lambda cls: cls.__name__)
        def test_right(right: type[Component]) -> None:
            outcomes = run_checks(right, **self.given)
            assert [(o.name, o.message) for o in outcomes if o.status not in ("passed", "skipped")] == []
            assert sum(o.status == "passed" for o in outcomes) >= 9

        cases = [pytest.param(check, cls, given, id=f"{check}-{cls.__name__}") for check, cls, given in self.wrong]

        @pytest.mark.parametrize(("check", "wrong", "given"), cases)
        def test_wrong(check: str, wrong: type[Component], given: dict[str, Any]) -> None:
            if check == "check_cuda" and not torch.cuda.is_available():
                pytest.skip("no CUDA device")
            outcomes = run_checks(wrong, **{**self.given, **given})
            failed = {o.name: o.message for o in outcomes if not o.ok}
            assert set(failed) == {check}, failed
            assert failed[check].strip()

        def test_every_check_has_a_wrong_component() -> None:
            proved = {(cls.point, check) for check, cls, _ in self.wrong}
            for right in self.right:
                kit = kit_for(Subject(component=right, **self.given))
                missing = [name for name in own_checks(type(kit)) if (right.point, name) not in proved]
                assert not missing, f"no wrong component for {sorted(missing)} of {right.point}"

        return test_right, test_wrong, test_every_check_has_a_wrong_component


def own_checks(kit: type[Kit]) -> list[str]:
    """The checks that a kit adds to those of every component, which the kernel's own tests prove."""
    return [name for name in _methods(kit) if name not in vars(Kit)]
