"""Distilled Q-networks and hierarchical controllers on six CartPoles, of which one has its force reversed.

    python tests/benchmarks/reinforcement_q.py --parts hierarchy                 # a minute or two
    python tests/benchmarks/reinforcement_q.py --parts distillation --seeds 0 1  # teachers take 2 to 3 minutes a seed
    python tests/benchmarks/reinforcement_q.py --teachers FOLDER                 # keeps them there, and takes them

Distillation: a teacher for each task is trained by deep Q-learning until it is solved, and one student learns from all,
from their values (`KL`), from their best actions alone (`hard labels`), or from values and rewards (`TD + KL`); beside
it the same network learns from rewards alone (`scratch`), with the same steps and updates. A share is the student's
mean return divided by the teacher's of the same task on the same episodes; the worst task counts.

Hierarchy: two worlds in which nothing names the task. In `felt` there are two CartPoles, one reversed; what is observed
is the pole, the last action, and how the cart's speed has changed, so which way the force acts has to be inferred from
the product of the last two; at an episode's first step nothing can be known. In `measured` there are six, and their
constants are observed with an error that is drawn anew in each episode. A decision is right where the controller that
it picks is as good as the best in that task: it keeps at least 95 % of the best return when it acts alone. Beside it
controllers picked at random, one for each episode, the share of controllers that are right by this rule, and the
return where the best controller of each task acts throughout.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch.nn import functional

from crosstask.descriptors import TaskDescriptor
from crosstask_distilled_q import DistilledQ
from crosstask_hierarchical import Hierarchical
from crosstask_reinforcement import Environment, Situation
from crosstask_reinforcement.copies import Places
from crosstask_reinforcement.physics import CartPoles
from crosstask_reinforcement.training import evaluate, train
from crosstask_reinforcement.worlds import CARTPOLES, CartPoleWorld

WIDTHS: dict[str, Any] = {"shared_dims": (64, 64), "task_dims": (64,), "n_steps": 3, "capacity": 20_000}
STUDENT: dict[str, Any] = {**WIDTHS, "updates": 0.5, "student_temperature": 1.0}


def means(returns: dict[str, tuple[float, ...]]) -> dict[str, float]:
    return {task: float(np.mean(values)) for task, values in returns.items()}


# --- Distillation


def teachers_of(seed: int, steps: int, folder: Path | None) -> dict[str, DistilledQ]:
    """One agent for each task, trained alone until it is solved."""
    path = None if folder is None else folder / f"teachers{seed}.pt"
    kept = torch.load(path, weights_only=True) if path is not None and path.exists() else {}
    found = {}
    for name, environment in CartPoleWorld().environments().items():
        agent = found[name] = DistilledQ(**WIDTHS)
        if name in kept:
            agent.load_state_dict(kept[name])
            continue
        began = time.process_time()
        made = train(agent, [environment], steps=steps, copies=8, evaluate_every=4000, episodes=20, seed=seed)
        print(f"teacher {name}: {made.steps} steps, {time.process_time() - began:.0f} CPU s", flush=True)
        kept[name] = agent.state_dict()
        if path is not None:
            torch.save(kept, path)
    return found


def values_of(agent: DistilledQ, name: str, hard: bool = False) -> Any:
    def told(states: torch.Tensor) -> torch.Tensor:
        values = agent.network(states, name)
        return 10.0 * functional.one_hot(values.argmax(dim=1), values.shape[1]) if hard else values

    return told


def distillation(
    seeds: list[int], students: int, steps: int, teacher_steps: int, folder: Path | None, only: list[str]
) -> None:
    environments = list(CartPoleWorld().environments().values())
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        teachers = teachers_of(seed, teacher_steps, folder)
        level = {
            n: means(evaluate(a, [e], 50, seed=99))[n] for (n, a), e in zip(teachers.items(), environments, strict=True)
        }
        print(f"teachers of seed {seed}: " + ", ".join(f"{n} {v:.0f}" for n, v in level.items()), flush=True)
        soft = {name: values_of(agent, name) for name, agent in teachers.items()}
        hard = {name: values_of(agent, name, hard=True) for name, agent in teachers.items()}
        kinds: dict[str, tuple[Any, dict[str, Any]]] = {
            "KL": (soft, {"td": False, "epsilon_start": 0.05}),
            "hard labels": (hard, {"td": False, "epsilon_start": 0.05}),
            "TD + KL": (soft, {"epsilon_start": 0.05}),
            "scratch": (None, {}),
        }
        for kind, (told, options) in kinds.items():
            if kind not in only:
                continue
            for student in range(students):
                agent = DistilledQ(**STUDENT, **options)
                if told is not None:
                    agent.teach(told)
                began = time.process_time()
                train(
                    agent, environments, steps=steps, copies=4, evaluate_every=steps, episodes=1, stop=False,
                    seed=100 * seed + student,
                )  # fmt: skip
                found = means(evaluate(agent, environments, 50, seed=99))
                shares = {name: found[name] / level[name] for name in found}
                rows.setdefault(kind, []).append(shares)
                worst = min(shares, key=lambda name: shares[name])
                print(
                    f"{kind}, seed {seed}.{student}: worst {worst} {found[worst]:.0f} ({shares[worst]:.1%}), mean "
                    f"{np.mean(list(found.values())):.0f}, {time.process_time() - began:.0f} CPU s",
                    flush=True,
                )
    print("\n| student | worst task, each run | worst task, mean | all tasks, mean |\n|---|---|---|---|")
    for kind, shares_of in rows.items():
        worsts = [min(shares.values()) for shares in shares_of]
        every = np.mean([list(shares.values()) for shares in shares_of])
        told = ", ".join(f"{worst:.1%}" for worst in worsts)
        print(f"| {kind} | {told} | {np.mean(worsts):.1%} | {every:.1%} |")


# --- Hierarchy


class Felt(CartPoles):
    """CartPoles that show the last action (-1, 1; 0 at first) and how much the cart's speed has changed by it."""

    size = state_dim = 6

    def start(self, generator: np.random.Generator, row: int) -> Any:
        return np.concatenate([super().start(generator, row), [0.0, 0.0]])

    def move(self, actions: Any) -> Any:
        self.state = self.state[:, :4]
        before = self.state[:, 1]
        made = super().move(actions)
        self.state = np.column_stack([self.state, 2.0 * actions - 1, 5 * (self.state[:, 1] - before)])
        return made


class Measured(CartPoles):
    """CartPoles that show their constants, as shares of the usual less 1, with an error of 0.05 in each episode."""

    size = state_dim = 9

    def start(self, generator: np.random.Generator, row: int) -> Any:
        return np.concatenate([super().start(generator, row), generator.normal(0, 0.05, size=5)])

    def move(self, actions: Any) -> Any:
        whole, self.state = self.state, self.state[:, :4]
        made = super().move(actions)
        self.state = np.concatenate([self.state, whole[:, 4:]], axis=1)
        return made

    def seen(self, state: Any) -> Any:
        shares = np.column_stack([self.constants[name] / usual - 1 for name, usual in self.defaults.items()])
        return np.concatenate([state[:, :4], np.clip(shares, -2, 2) + state[:, 4:]], axis=1).astype(np.float32)


def unnamed(kind: type[CartPoles], names: list[str]) -> list[Environment]:
    made = CartPoleWorld().environments()
    found = []
    for name in names:
        descriptor = TaskDescriptor(
            task_id=name, task_type="control", domain="cartpole", input_shape=(kind.state_dim,), output_dim=2
        )
        found.append(attrs.evolve(made[name], descriptor=descriptor, copies=kind, make=functools.partial(_none, name)))
    return found


def _none(name: str) -> Any:
    raise NotImplementedError(f"{name} is stepped with others only")


def play(agent: Hierarchical, environments: list[Environment], episodes: int, choose: Any = None) -> Any:
    """Mean returns by task, and the choices that were made: (task, choice, first of its episode). With `choose`, a
    function of the tasks, that picks, for whole episodes.
    """
    places = Places(environments, [episodes] * len(environments), agent.state_dim)
    observations, generator = places.reset(7), torch.Generator().manual_seed(0)
    running, returns = np.ones(places.count, dtype=bool), np.zeros(places.count)
    starts, memory, made = np.ones(places.count, dtype=bool), {}, []
    fixed = None if choose is None else choose(places.tasks)
    while running.any():
        if fixed is not None:
            memory = {"meta": fixed, "left": torch.full_like(fixed, 1000)}
        situation = Situation(
            torch.from_numpy(observations), places.tasks, torch.from_numpy(starts & (fixed is None)), memory, 1.0
        )
        decision = agent.act(situation, False, generator)
        fresh = decision.extras["begins"].numpy() & running
        rows = (places.tasks.numpy(), decision.extras["meta"].numpy(), starts)
        made.append(np.stack([np.asarray(each)[fresh] for each in rows], axis=1))
        stepped = places.step(decision.actions.numpy())
        returns += stepped.rewards * running
        ended = stepped.terminated | stepped.truncated
        running &= ~ended
        observations, starts, memory = stepped.observations, ended, decision.memory
    tasks = places.tasks.numpy()
    return np.array([returns[tasks == n].mean() for n in range(len(environments))]), np.concatenate(made)


def anything(count: int, seed: int, tasks: torch.Tensor) -> torch.Tensor:
    return torch.randint(count, tasks.shape, generator=torch.Generator().manual_seed(seed))


WORLDS: dict[str, tuple[type[CartPoles], list[str]]] = {
    "felt": (Felt, ["usual", "reversed"]),
    "measured": (Measured, list(CARTPOLES)),
}


def hierarchy(seeds: list[int], steps: int, worlds: list[str]) -> None:
    print("\n| world | seed | right decisions | after the first of an episode | at random | worst task's mean return "
          "| its task told | at random |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for world in worlds:
        kind, names = WORLDS[world]
        environments = unnamed(kind, names)
        for seed in seeds:
            agent = Hierarchical(told=False, meta_dims=(64, 64), task_dims=(64, 64), sub_share=0.6)
            train(
                agent, environments, steps=steps * len(names), copies=8, evaluate_every=steps * len(names), episodes=1,
                stop=False, seed=seed,
            )  # fmt: skip
            alone = np.stack(
                [
                    play(agent, environments, 20, lambda tasks, m=m: torch.full_like(tasks, m))[0]
                    for m in range(len(names))
                ],
                axis=1,
            )  # [task, controller]
            good = alone >= 0.95 * alone.max(axis=1, keepdims=True)
            got, decisions = play(agent, environments, 50)
            tasks, chosen, first = decisions.T
            right = good[tasks, chosen]
            randomly, _ = play(agent, environments, 50, functools.partial(anything, len(names), seed))
            print(
                f"| {world} | {seed} | {right.mean():.1%} | {right[first == 0].mean():.1%} | {good.mean():.1%} | "
                f"{got.min():.0f} | {alone.max(axis=1).min():.0f} | {randomly.min():.0f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--parts", nargs="+", default=["hierarchy", "distillation"], choices=["hierarchy", "distillation"]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of hierarchies, and of teachers")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--students", type=int, default=1, help="students for each set of teachers")
    parser.add_argument("--steps", type=int, default=60_000, help="of a student, in all tasks together")
    parser.add_argument("--teacher-steps", type=int, default=100_000, help="of a teacher, at most")
    parser.add_argument("--hierarchy-steps", type=int, default=60_000, help="of a hierarchy, for each task")
    parser.add_argument("--teachers", type=Path, help="folder to keep teachers in")
    parser.add_argument(
        "--only", nargs="+", default=["KL", "hard labels", "TD + KL", "scratch"], help="kinds of students"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    if "hierarchy" in given.parts:
        hierarchy(given.seeds, given.hierarchy_steps, given.worlds)
    if "distillation" in given.parts:
        distillation(given.seeds, given.students, given.steps, given.teacher_steps, given.teachers, given.only)


if __name__ == "__main__":
    main()
