"""The built-in source: a function of your own."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from crosstask.errors import DataError, OptionError, PluginError, nearest
from crosstask.options import component, option
from crosstask.points.source import Source
from crosstask.registry import load
from crosstask.tasks import Portfolio, Task


@component
class PythonSource(Source):
    """Calls a function that returns a `Portfolio`, or tasks: `source = { use = "python", function = "mine.data:tasks"
    }`.

    The module must be importable: installed, or in the folder that Python was started in (with `python -m crosstask`).
    """

    function: str = option(help="import string module:function")
    arguments: dict[str, Any] = attrs.field(factory=dict, metadata={"help": "keyword arguments of the function"})

    def load(self) -> Portfolio:
        if ":" not in self.function:
            raise OptionError(f"{self.origin}: function must look like 'module:function', got {self.function!r}")
        try:
            found = load(self.function, self.origin)
        except PluginError as error:
            module = self.function.partition(":")[0].partition(".")[0]
            if isinstance(error.__cause__, ModuleNotFoundError) and _lies_here(module):
                error.add_note(
                    f"{module} lies in this folder: `python -m crosstask` finds it there, `crosstask` does not"
                )
            raise
        if not callable(found):
            raise OptionError(f"{self.origin}: {self.function} is a {type(found).__name__}, not a function")
        self._check_arguments(found)
        made: Any = found(**self.arguments)
        if isinstance(made, Portfolio):
            return made
        tasks: list[Task] = []
        for each in made if isinstance(made, Iterable) and not isinstance(made, str | Mapping) else ():
            if not isinstance(each, Task):  # at once: what gives them may have no end
                tasks.clear()
                break
            tasks.append(each)
        if not tasks:
            raise DataError(
                f"{self.origin}: {self.function} must return a Portfolio or tasks, got {reprlib.repr(made)}"
            )
        return Portfolio(tasks)

    def _check_arguments(self, function: Callable[..., Any]) -> None:
        """OptionError for arguments that the function does not take, or lacks; what it raises itself is its own."""
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # made in C: the call says it
            return
        try:
            signature.bind(**self.arguments)
        except TypeError as error:
            by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
            valid = [name for name, parameter in signature.parameters.items() if parameter.kind in by_name]
            more = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.parameters.values())
            if odd := [name for name in self.arguments if name not in valid and not more]:
                told = f"{self.function} has no argument {odd[0]!r}{nearest(odd[0], valid)}"
            else:
                told = f"{self.function}: {error}; its arguments: {', '.join(valid)}"
            raise OptionError(f"{self.origin}: arguments: {told}") from None


def _lies_here(module: str) -> bool:
    """Whether a module is a file or a folder of the working directory."""
    try:
        return Path(f"{module}.py").exists() or Path(module).is_dir()
    except (OSError, ValueError):  # no file can have such a name
        return False
