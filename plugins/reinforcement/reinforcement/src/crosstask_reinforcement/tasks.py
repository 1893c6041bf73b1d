"""Environments as tasks of a portfolio, and the source that loads them."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from crosstask.errors import DataError, nearest
from crosstask.identity import UnidentifiedError, identity_of
from crosstask.learning.transferring import key_of
from crosstask.options import component, option
from crosstask.parts import Part, part
from crosstask.points.source import Source
from crosstask.tasks import Portfolio, Task
from crosstask_reinforcement.contract import Environment, World


@attrs.define(eq=False, slots=False, kw_only=True)
class ControlTask(Task):
    """A task that is learned by acting in its environment. It has no data: what needs data says so."""

    environment: Environment = attrs.field()

    @classmethod
    def of(cls, environment: Environment) -> ControlTask:
        """The task of an environment."""
        return cls(descriptor=environment.descriptor, environment=environment)

    def fingerprint(self) -> str:
        """What the descriptor and the environment say. One whose `make` nobody can identify is like no other."""
        own = self.environment
        try:
            made: object = [identity_of(own.make), identity_of(own.copies)]
        except UnidentifiedError:
            made = id(own)
        parameters = sorted(own.parameters.items())
        return key_of("control", super().fingerprint(), made, parameters, own.limit, own.solved)[:24]


def control_tasks(portfolio: Iterable[Task]) -> list[ControlTask]:
    """Those that are learned by acting."""
    return [task for task in portfolio if isinstance(task, ControlTask)]


@component
class Environments(Source):
    """The environments of a world as tasks: `source = { use = "environments", world = "cartpoles" }`."""

    world: Part = part("world", help="where the environments come from")
    tasks: tuple[str, ...] = option((), help="which of them, in this order; all by default")

    def load(self) -> Portfolio:
        world: World = self.made_of("world")[0]
        found = self.context.call(world, "environments")
        for name in self.tasks:
            if name not in found:
                raise DataError(f"{self.origin}: tasks: {world.origin} has no {name!r}{nearest(name, found)}")
        chosen = [found[name] for name in self.tasks or found]
        return Portfolio([ControlTask.of(environment) for environment in chosen], name=world.name)
