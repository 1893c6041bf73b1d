"""The checks of choosers."""

from __future__ import annotations

from typing import Any, ClassVar

from crosstask.testing.kit import Call, Kit, claims, expect


class ChooserKit(Kit):
    """What is chosen was there to choose."""

    point = "chooser"
    capabilities: ClassVar[frozenset[str]] = frozenset({"keeps_order"})

    def inputs(self) -> dict[str, Any]:
        return {"tasks": ["a", "b", "c"], "most": 2}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return call("choose", **inputs)

    def check_at_most(self) -> None:
        """No more tasks than it may choose, each one that was given."""
        found = self.answer()
        expect(len(found) <= 2, f"{self.name} chose {found}, at most 2 were asked for")
        expect(set(found) <= {"a", "b", "c"}, f"{self.name} chose {found} among a, b and c")

    @claims("keeps_order")
    def check_keeps_order(self) -> None:
        """Tasks come in the order in which they were given."""
        found = self.answer()
        expect(found == sorted(found), f"{self.name} claims keeps_order and chose {found}")
