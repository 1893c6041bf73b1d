"""Changing a contract without raising the API version fails. The rule is in `crosstask.manifest.API_VERSION`.

After raising the version, record the contracts anew:  CROSSTASK_RECORD=1 pytest kernel/tests/test_api_version.py
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from crosstask.components import Component, hooks_of
from crosstask.manifest import API_VERSION, KERNEL_POINTS

SNAPSHOT = Path(__file__).with_name("contracts.json")


def contracts() -> dict[str, Any]:
    """The kernel's contracts as data: hooks and public methods with parameters, mode, abstractness; public fields.

    A point that a plugin brings has a version of its own (`Point.version`), which is its plugin's to watch.
    """
    found: dict[str, Any] = {}
    for point, target in {point.name: point.contract for point in KERNEL_POINTS}.items():
        module, _, name = target.partition(":")
        contract = getattr(import_module(module), name)
        hooks, members = hooks_of(contract), {}
        for member, value in {**vars(Component), **vars(contract)}.items():
            if member.startswith("_"):
                continue
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if inspect.isfunction(function):
                members[member] = {
                    "parameters": str(inspect.signature(function)),
                    "abstract": bool(getattr(function, "__isabstractmethod__", False)),
                    "mode": mode(hooks[member]) if member in hooks else "method",
                }
            else:
                members[member] = {"mode": "field"}
        found[point] = {"contract": target, "members": members}
    return found


def mode(hook: Any) -> str:
    return "first" if hook.crosstask_spec["firstresult"] else "each"


def due(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Which number of the version a change raises; None if nothing changed."""
    if old == new:
        return None
    for point, contract in old.items():
        if new.get(point, {}).get("contract") != contract["contract"]:
            return "major"
        members = new[point]["members"]
        if any(members.get(name) != member for name, member in contract["members"].items()):
            return "major"
        if any(m.get("abstract") for name, m in members.items() if name not in contract["members"]):
            return "major"
    return "minor"


def test_contracts_are_those_of_this_version() -> None:
    now = contracts()
    if os.environ.get("CROSSTASK_RECORD") == "1":
        text = json.dumps({"api": API_VERSION, "contracts": now}, indent=1, sort_keys=True)
        SNAPSHOT.write_text(text + "\n", encoding="utf-8")
    recorded = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    raised = due(recorded["contracts"], now)
    assert raised is None, (
        f"the contracts changed: raise the {raised} number of API_VERSION {API_VERSION} (or undo the change), and "
        "record them anew as this file says"
    )
    assert tuple(recorded["api"]) == API_VERSION, "API_VERSION was raised: record the contracts anew as this file says"


def changed(edit: Any) -> str | None:
    old = contracts()
    new = copy.deepcopy(old)
    edit(new)
    return due(old, new)


NEW_HOOK = {"parameters": "(self)", "abstract": False, "mode": "first"}


@pytest.mark.parametrize(
    ("number", "edit"),
    [
        (None, lambda c: None),
        ("minor", lambda c: c["discovery"]["members"].update(reset=NEW_HOOK)),
        ("minor", lambda c: c.update(router={"contract": "a:B", "members": {"route": NEW_HOOK}})),
        ("major", lambda c: c["discovery"]["members"].update(reset=NEW_HOOK | {"abstract": True})),
        ("major", lambda c: c["discovery"]["members"].pop("discover")),
        ("major", lambda c: c["discovery"]["members"]["discover"].update(parameters="(self, portfolio)")),
        ("major", lambda c: c["discovery"]["members"]["discover"].update(mode="each")),
        ("major", lambda c: c["balancer"]["members"]["combine"].update(abstract=True)),
        ("major", lambda c: c["balancer"]["members"].pop("weighs_losses")),
        ("major", lambda c: c.pop("wrapper")),
        ("major", lambda c: c["store"].update(contract="elsewhere:StoreOpener")),
    ],
)
def test_the_rule(number: str | None, edit: Any) -> None:
    assert changed(edit) == number
