"""For mypy (`plugins = ["crosstask.mypy_plugin"]`): `component`, `record` make attrs classes, `option`, `state` fields.

Other type checkers read the same from `dataclass_transform`; mypy needs this: positional defaults, `attrs.evolve`.
"""

from __future__ import annotations

from mypy.plugin import Plugin
from mypy.plugins.attrs import attr_attrib_makers, attr_define_makers, attr_frozen_makers

attr_define_makers.add("crosstask.options.component")
attr_frozen_makers.add("crosstask.options.record")
attr_attrib_makers.update({"crosstask.options.option", "crosstask.options.state"})


def plugin(version: str) -> type[Plugin]:
    """mypy's entry point; the module's import has done the work."""
    return Plugin
