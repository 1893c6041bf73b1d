"""The README's table of components is what is installed."""

import re
from pathlib import Path

from crosstask import Registry, Settings

README = Path(__file__).parents[1] / "README.md"
ADD_ONS = {f"crosstask-{file.parent.name}" for file in README.parent.glob("contrib/*/pyproject.toml")}


def test_the_table_lists_every_builtin_component() -> None:
    rows = re.findall(r"^\| (\w+) \| (.*) \| works \|$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    listed = {point: re.findall(r"`([^`]+)`", names) for point, names in rows}
    built_in = [r for r in Registry.installed(Settings()).plugins() if r.distribution.startswith("crosstask-")]
    built_in = [record for record in built_in if record.distribution not in ADD_ONS]
    offered: dict[str, list[str]] = {}
    for record in built_in:
        assert record.plugin is not None, record.reason
        for extension in record.plugin.extensions:
            offered.setdefault(extension.point, []).append(extension.name)
    assert listed == {point: sorted(names) for point, names in offered.items()}
