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

    A method is called like the hook that it wraps. Where two extension points have a hook of that name, or the method
    should be called otherwise, `@wraps("point.hook")` says which; `@wraps("balance", only="rgb")` wraps one component
    only. `self.context.called` is the component that is being asked. Wrappers of a run act on an answer in the order of
    the recipe: the first sees what the component answered.
    """

    point: ClassVar[str] = "wrapper"

    only: ClassVar[str | None] = None
    """The name of the one component that this wrapper wraps; None: every one whose hook it is."""
