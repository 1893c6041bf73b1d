"""Wrappers: change another component's answer without touching it. This is how downstream packages compose."""

from __future__ import annotations

from typing import ClassVar

from crosstask.components import Component


class Wrapper(Component):
    """Holds pluggy wrappers of any contract's hooks, each marked `@hookimpl(wrapper=True)`.

    A wrapper takes any subset of the hook's parameters by name, yields once, receives the answer, and returns the
    answer to use instead:

        @component
        class Cautious(Wrapper):
            '''Halves every predicted coefficient.'''

            @hookimpl(wrapper=True)
            def discover(self, portfolio, graph):
                edges = yield
                return [attrs.evolve(e, transfer_coefficient=e.transfer_coefficient / 2) for e in edges]
    """

    point: ClassVar[str] = "wrapper"
