"""Routers on a world where the best tool depends on a type that nobody says, and where it changes in mid-run.

Six tools, eight hidden types of tasks, each tool with its own probability of success at each type, uniform in [0, 1].
The context are eight numbers: which type it is, seen through noise. 3,000 steps; regret is the probability of success
of the best tool less that of the tool chosen, summed. With drift all probabilities are drawn anew in mid-run.

    python tests/benchmarks/routing.py [--seeds 10] [--steps 3000] [--noise 0.1] [--peer]

`--peer`: MABWiser's LinUCB beside ours, on the same steps, one after the other in the same process (it must be
importable). One thread, CPU time by `time.process_time`; choices and updates are timed in runs of their own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from crosstask.learning.metrics import confidence_interval
from crosstask.registry import Registry

TOOLS = tuple(f"tool {number}" for number in range(6))
TYPES = 8
REGISTRY = Registry.installed()


class World:
    """What every tool would come to, at every step, drawn before anybody chooses."""

    def __init__(self, seed: int, steps: int, noise: float, drift: bool) -> None:
        rng = np.random.default_rng(seed)
        before, after = rng.random((TYPES, len(TOOLS))), rng.random((TYPES, len(TOOLS)))
        of = rng.integers(TYPES, size=steps)
        self.contexts = np.eye(TYPES)[of] + noise * rng.standard_normal((steps, TYPES))
        late = np.arange(steps) >= steps // 2 if drift else np.zeros(steps, dtype=bool)
        self.chances = np.where(late[:, None], after[of], before[of])
        self.rewards = (rng.random((steps, 1)) < self.chances).astype(float)
        self.half = steps // 2

    def regret(self, taken: np.ndarray) -> np.ndarray:
        return np.cumsum(self.chances.max(axis=1) - self.chances[np.arange(len(taken)), taken])


def ours(name: str, **options: Any) -> Callable[[World, int], np.ndarray]:
    """A component of ours: places of the tools taken."""

    def play(world: World, seed: int) -> np.ndarray:
        from crosstask.context import LocalContext

        router: Any = REGISTRY.create("router", name, options)
        router.bind(LocalContext(seed=seed, registry=REGISTRY))
        taken = np.zeros(len(world.contexts), dtype=np.int64)
        for step, (context, rewards) in enumerate(zip(world.contexts, world.rewards, strict=True)):
            tool = router.choose(context, TOOLS).tool
            taken[step] = TOOLS.index(tool)
            router.update(context, tool, float(rewards[taken[step]]))
        return taken

    return play


def mabwiser(alpha: float) -> Callable[[World, int], np.ndarray]:
    """MABWiser's LinUCB, updated after every step."""

    def play(world: World, seed: int) -> np.ndarray:
        from mabwiser.mab import MAB, LearningPolicy

        mab = MAB(list(range(len(TOOLS))), LearningPolicy.LinUCB(alpha=alpha, l2_lambda=1.0), seed=seed)
        taken = np.zeros(len(world.contexts), dtype=np.int64)
        for step, (context, rewards) in enumerate(zip(world.contexts, world.rewards, strict=True)):
            row = context[None]
            if step < len(TOOLS):
                taken[step] = step  # it must have seen every arm
                (mab.partial_fit if step else mab.fit)([step], [rewards[step]], row)
                continue
            taken[step] = mab.predict(row)
            mab.partial_fit([int(taken[step])], [float(rewards[taken[step]])], row)
        return taken

    return play


def fixed(pick: Callable[[World, np.random.Generator], np.ndarray]) -> Callable[[World, int], np.ndarray]:
    return lambda world, seed: pick(world, np.random.default_rng([seed, 1]))


def best_static(world: World, rng: np.random.Generator) -> np.ndarray:
    return np.full(len(world.chances), world.chances.mean(axis=0).argmax())


def at_random(world: World, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(len(TOOLS), size=len(world.chances))


def microseconds(play_choose: Callable[[np.ndarray], Any], play_update: Callable[[np.ndarray, int], Any],
                 world: World) -> tuple[float, float]:  # fmt: skip
    """Of the CPU: (of a decision, of an update), the least of five rounds."""
    best = [np.inf, np.inf]
    for _ in range(5):
        start = time.process_time()
        for context in world.contexts:
            play_choose(context)
        middle = time.process_time()
        for step, context in enumerate(world.contexts):
            play_update(context, step % len(TOOLS))
        count = len(world.contexts)
        best = [min(best[0], (middle - start) / count), min(best[1], (time.process_time() - middle) / count)]
    return best[0] * 1e6, best[1] * 1e6


def speed(name: str, world: World) -> tuple[float, float]:
    router: Any = REGISTRY.create("router", name)
    for step, context in enumerate(world.contexts[:200]):
        router.update(context, TOOLS[step % len(TOOLS)], 0.5)
    return microseconds(lambda x: router.choose(x, TOOLS), lambda x, k: router.update(x, TOOLS[k], 0.5), world)


def speed_of_mabwiser(world: World) -> tuple[float, float]:
    from mabwiser.mab import MAB, LearningPolicy

    mab = MAB(list(range(len(TOOLS))), LearningPolicy.LinUCB(alpha=1.0, l2_lambda=1.0))
    mab.fit([n % len(TOOLS) for n in range(60)], [0.5] * 60, world.contexts[:60])
    return microseconds(lambda x: mab.predict(x[None]), lambda x, k: mab.partial_fit([k], [0.5], x[None]), world)


def main() -> None:
    given = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    given.add_argument("--seeds", type=int, default=10)
    given.add_argument("--steps", type=int, default=3000)
    given.add_argument("--noise", type=float, default=0.1)
    given.add_argument("--peer", action="store_true")
    options = given.parse_args()
    ways: dict[str, Callable[[World, int], np.ndarray]] = {
        "random": fixed(at_random),
        "best static tool (told)": fixed(best_static),
        "`best_static`": ours("best_static"),
        "`epsilon_greedy`": ours("epsilon_greedy"),
        "`thompson`": ours("thompson"),
        "`linucb`": ours("linucb"),
        "`discounted_linucb`": ours("discounted_linucb"),
        "`discounted_linucb`, gamma .995": ours("discounted_linucb", gamma=0.995),
    }
    if options.peer:
        ways["MABWiser LinUCB"] = mabwiser(1.0)
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    for seed in range(options.seeds):
        still = World(seed, options.steps, options.noise, drift=False)
        moving = World(seed, options.steps, options.noise, drift=True)
        static = still.regret(best_static(still, np.random.default_rng()))[-1]
        for name, play in ways.items():  # interleaved: every way meets the same world
            regret, drifted = still.regret(play(still, seed)), moving.regret(play(moving, seed))
            late = drifted[-1] - drifted[-len(drifted) // 6 - 1]
            found[name].append([regret[-1], regret[-1] / static, drifted[-1], late / (len(drifted) // 6)])
    print(f"{options.seeds} seeds, {options.steps} steps, noise {options.noise:g}; 95 % intervals over seeds\n")
    print("| | regret | of the best static tool's | with drift | a step in the last sixth after it |")
    print("|---|---|---|---|---|")
    for name, rows in found.items():
        cells = []
        for place, digits in ((0, 0), (1, 2), (2, 0), (3, 3)):
            told = confidence_interval([row[place] for row in rows])
            cells.append(f"{told.mean:.{digits}f} ± {(told.high - told.low) / 2:.{digits}f}")
        print(f"| {name} | {' | '.join(cells)} |")
    world = World(0, 2000, options.noise, drift=False)
    print("\n| µs of the CPU | a decision | an update |")
    print("|---|---|---|")
    for name in ("linucb", "discounted_linucb", "thompson", "epsilon_greedy", "best_static"):
        choosing, learning = speed(name, world)
        print(f"| `{name}` | {choosing:.1f} | {learning:.1f} |")
    if options.peer:
        choosing, learning = speed_of_mabwiser(world)
        print(f"| MABWiser LinUCB | {choosing:.1f} | {learning:.1f} |")


if __name__ == "__main__":
    main()
