"""Multi-task reinforcement learning: six CartPoles, one of them the other way round; steps per CPU second beside
stable-baselines3; balancers; transfer between tasks; a second world.

    OMP_NUM_THREADS=1 python tests/benchmarks/reinforcement.py [--parts solve speed balancers transfer swing_ups]
        [--seeds 5]

CPU time of one thread, 20 greedy episodes of each task in an evaluation, whose steps do not count; solved is a mean
return of 475 in each of six CartPoles. The peer's PPO has the same sizes, rollouts, batches, passes, rates and
scaling of rewards, the task as one-hot numbers beside the observation; on gymnasium's environments stepped one by one
(DummyVecEnv), as it comes, and on our batched copies, so that only the learning differs. The peer is not needed for the
other parts: pip install --no-deps --target peers stable-baselines3 cloudpickle, and PYTHONPATH=peers.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crosstask import Portfolio, TransferEngine
from crosstask.learning.metrics import confidence_interval
from crosstask_policy_gradient import A2C, PPO
from crosstask_reinforcement import ControlTask, Environment, Places, train
from crosstask_reinforcement.worlds import SPREAD, CartPoleWorld, SwingUpWorld

STEPS = 150_000
BALANCERS = ("pcgrad", "gradnorm", "rgb", "cagrad", "mgda", "imtl_g", "nash_mtl", "upgrad", "uncertainty", "dwa")


def tasks() -> list[Environment]:
    """The six CartPoles, from starts so wide that no state tells the task."""
    return list(CartPoleWorld(starts=SPREAD).environments().values())


def told(values: Sequence[float]) -> str:
    """Mean and 95 % interval."""
    made = confidence_interval(list(values))
    return f"{made.mean:.0f} [{made.low:.0f}, {made.high:.0f}]"


def row(*cells: object) -> None:
    """A line of a table, at once."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def head(*cells: object) -> None:
    """The head of a table."""
    print()
    row(*cells)
    row(*("---" for _ in cells))


# --- Solving


def solve(seeds: int) -> None:
    """All six together, with and without being told which; each alone."""
    head("agent", "all solved", "steps until all solved", "CPU s", "worst final return by seed")
    for name, agent in (
        ("ppo", PPO()),
        ("a2c", A2C()),
        ("ppo, task blind", PPO(task_blind=True)),
    ):
        made = [train(agent, tasks(), steps=STEPS, seed=seed) for seed in range(seeds)]
        at = [m.all_solved_at for m in made if m.all_solved_at is not None]
        worst = [min((c.final, t) for t, c in m.curves.items()) for m in made]
        row(
            name,
            f"{sum(m.solved for m in made)} of {seeds}",
            ", ".join(map(str, at)) or "never",
            f"{statistics.mean(m.seconds for m in made):.1f}",
            ", ".join(f"{value:.0f} ({task})" for value, task in worst),
        )
    spent, solved = [], 0
    for seed in range(seeds):
        alone = [train(PPO(), [e], steps=STEPS // 3, copies=8, evaluate_every=2000, seed=seed) for e in tasks()]
        solved += all(m.solved for m in alone)
        spent.append(sum(m.steps for m in alone))
    row("ppo, six alone", f"{solved} of {seeds}", f"{', '.join(map(str, spent))} (sum)", "", "")
    if peer := _peer():
        found = [peer(seed, STEPS, evaluate_every=10_000, ours=True) for seed in range(seeds)]
        at = [at for at, _, _ in found if at is not None]
        row(
            "stable-baselines3 PPO, one-hot task",
            f"{len(at)} of {seeds}",
            ", ".join(map(str, at)) or "never",
            f"{statistics.mean(seconds for _, seconds, _ in found):.1f}",
            ", ".join(f"{min(means):.0f}" for _, _, means in found),
        )


def _peer() -> Any:
    """Trains stable-baselines3's PPO; None where it is not installed."""
    try:
        from stable_baselines3 import PPO as Theirs  # noqa: N811
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize
    except ImportError as error:
        print(f"\nwithout stable-baselines3: {error}")
        return None
    import gymnasium

    environments, copies = tasks(), 8
    one_hot = np.eye(len(environments), dtype=np.float32)
    space = gymnasium.spaces.Box(-np.inf, np.inf, (4 + len(environments),), np.float32)

    class Told(gymnasium.ObservationWrapper):  # type: ignore[type-arg]
        """Which task it is, beside what is seen."""

        def __init__(self, made: Any, number: int) -> None:
            super().__init__(made)
            self.observation_space, self.number = space, number

        def observation(self, observation: Any) -> Any:
            return np.concatenate([observation, one_hot[self.number]])

    class Batched(VecEnv):
        """Our copies, as the peer wants them."""

        def __init__(self, seed: int) -> None:
            self.places, self.first = Places(environments, [copies] * len(environments)), seed
            super().__init__(self.places.count, space, gymnasium.spaces.Discrete(2))
            self.told = one_hot[self.places.tasks.numpy()]

        def reset(self) -> Any:
            return np.concatenate([self.places.reset(self.first), self.told], axis=1)

        def step_async(self, actions: Any) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            made = self.places.step(self.actions)
            ended, infos = made.terminated | made.truncated, [{} for _ in range(self.num_envs)]
            following = np.concatenate([made.following, self.told], axis=1) if ended.any() else None
            for place in np.flatnonzero(ended):
                infos[place] = {"terminal_observation": following[place]}  # type: ignore[index]
                infos[place]["TimeLimit.truncated"] = bool(made.truncated[place])
            return np.concatenate([made.observations, self.told], axis=1), made.rewards, ended, infos

        def close(self) -> None:
            pass

        def get_attr(self, *_: Any, **__: Any) -> Any:
            return [None] * self.num_envs

        set_attr = env_method = get_attr

        def env_is_wrapped(self, *_: Any, **__: Any) -> Any:
            return [False] * self.num_envs

    class Looking(BaseCallback):
        """The same evaluations; they cost no time of the peer's."""

        def __init__(self, every: int) -> None:
            super().__init__()
            self.every, self.due, self.spent = every, every, 0.0
            self.solved_at: int | None = None
            self.means: list[float] = [0.0]

        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.num_timesteps >= self.due:
                self.due += self.every
                self.look()

        def look(self) -> None:
            before = time.process_time()
            places = Places(environments, [20] * len(environments))
            seen, alive = places.reset(10_000 + self.num_timesteps), np.ones(places.count, dtype=bool)
            returns, numbers = np.zeros(places.count), places.tasks.numpy()
            while alive.any():
                actions, _ = self.model.predict(np.concatenate([seen, one_hot[numbers]], axis=1), deterministic=True)
                made = places.step(actions)
                returns += made.rewards * alive
                alive &= ~(made.terminated | made.truncated)
                seen = made.observations
            self.means = [float(returns[numbers == n].mean()) for n in range(len(environments))]
            fine = min(self.means) >= 475
            self.solved_at = (self.solved_at or self.num_timesteps) if fine else None
            self.spent += time.process_time() - before

    def trained(
        seed: int, steps: int, *, evaluate_every: int | None, ours: bool
    ) -> tuple[int | None, float, list[float]]:
        vector: Any = Batched(seed) if ours else DummyVecEnv(
            [lambda e=e, n=n: Told(e.make(), n) for n, e in enumerate(environments) for _ in range(copies)]
        )  # fmt: skip
        vector = VecNormalize(vector, norm_obs=False, norm_reward=True, clip_reward=np.inf, gamma=0.99)
        usual = PPO()
        widths = [*usual.shared_dims, *usual.task_dims]
        began = time.process_time()
        model = Theirs(
            "MlpPolicy", vector, seed=seed, n_steps=usual.steps, batch_size=usual.batch_size, n_epochs=usual.epochs,
            learning_rate=lambda left: usual.learning_rate * left, gamma=usual.discount, gae_lambda=usual.trace,
            clip_range=usual.clip, ent_coef=usual.entropy, vf_coef=usual.value_weight, max_grad_norm=usual.clip_norm,
            policy_kwargs={"net_arch": {"pi": widths, "vf": widths}}, device="cpu",
        )  # fmt: skip
        looking = Looking(evaluate_every or 10**9)
        model.learn(steps, callback=looking)
        if evaluate_every:
            looking.look()
        return looking.solved_at, time.process_time() - began - looking.spent, looking.means

    return trained


# --- Speed


def speed(rounds: int = 5, steps: int = 30_720) -> None:
    """Steps per CPU second, taken in turns."""
    peer = _peer()
    ways: dict[str, Any] = {
        "crosstask ppo": lambda seed: _timed(PPO(), steps, seed),
        "crosstask ppo, pcgrad": lambda seed: _timed(PPO(balancer="pcgrad"), steps, seed),
    }
    if peer:
        ways["stable-baselines3, DummyVecEnv"] = lambda seed: peer(seed, steps, evaluate_every=None, ours=False)[1]
        ways["stable-baselines3, our copies"] = lambda seed: peer(seed, steps, evaluate_every=None, ours=True)[1]
    for way in ways.values():
        way(0)  # whatever is loaded when it is first used
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way(number))
    head("learner", "steps per CPU second (median)", "ours over it (median of rounds, least to most)")
    for name, own in seconds.items():
        ratios = [b / a for a, b in zip(seconds["crosstask ppo"], own, strict=True)]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        row(name, f"{steps / statistics.median(own):.0f}", shown)


def _timed(agent: PPO, steps: int, seed: int) -> float:
    """CPU seconds of a training without evaluations."""
    from crosstask_reinforcement import Runner

    environments = tasks()
    began = time.process_time()
    agent.prepare([e.space for e in environments], seed=seed)
    runner = Runner(agent, environments, 8, seed)
    while runner.steps < steps:
        runner.learn(runner.collect(agent.rollout_steps(), progress=runner.steps / steps))
    return time.process_time() - began


# --- Balancers


def balancers(seeds: int) -> None:
    """Gradients of the trunk by each balancer, beside their plain mean."""
    head("gradients of the trunk", "all solved", "steps until all solved", "mean of those", "CPU s")
    for name in ("mean", *BALANCERS):
        made, failed = [], ""
        try:
            agent = PPO(balancer=None if name == "mean" else name)
            made = [train(agent, tasks(), steps=STEPS, seed=seed) for seed in range(seeds)]
        except Exception as error:  # a balancer that cannot take such losses is a row that says so
            failed = f"{type(error).__name__}: {error}"
        at = [m.all_solved_at for m in made if m.all_solved_at is not None]
        row(
            name,
            f"{sum(m.solved for m in made)} of {seeds}",
            failed or ", ".join(map(str, at)) or "never",
            told(at) if len(at) > 1 else "",
            f"{statistics.mean(m.seconds for m in made):.1f}" if made else "",
        )


# --- Transfer


def transfer(seeds: int, world: Any = None, **options: Any) -> None:
    """Steps to the return that solves a task, from another's weights and from none, all pairs."""
    found = (world or CartPoleWorld(starts=SPREAD)).environments()
    for what in ("shared", "network"):
        with TransferEngine(seeds=seeds, discoverers=[]) as engine:
            engine.register(Portfolio([ControlTask.of(e) for e in found.values()]))
            given = {"sources": list(found), "transferred": what, "steps": 1000, **options}
            result = engine.run_stage("reinforcement", **given).record
        print(f"\ntaken over: {what}; share of steps saved (rows: sources, columns: targets), * interval without 0")
        cells = {(m.source, m.target): m.coefficient for m in result.transfers}
        head("", *found)
        for source in found:
            shown = []
            for target in found:
                share = cells.get((source, target))
                certain = share is not None and (share.low > 0 or share.high < 0)
                shown.append("" if share is None else f"{share.mean:+.2f}{'*' if certain else ''}")
            row(source, *shown)
        scratch = {m.target: m.scratch_steps for m in result.transfers}
        for target, steps in scratch.items():
            print(f"{target} from scratch: {', '.join('never' if s is None else str(s) for s in steps)} steps")


def swing_ups(seeds: int) -> None:
    """Acrobots and mountain cars together, then transfer between them."""
    world = SwingUpWorld()
    environments = list(world.environments().values())
    head("agent", "task", "final return by seed", "solved at (steps of all tasks)")
    for name, agent in (("ppo", PPO()), ("ppo, task blind", PPO(task_blind=True))):
        made = [train(agent, environments, steps=600_000, evaluate_every=30_000, seed=seed) for seed in range(seeds)]
        for environment in environments:
            task = environment.task_id
            finals = ", ".join(f"{m.curves[task].final:.0f}" for m in made)
            row(name, task, finals, ", ".join(str(m.solved_at[task]) for m in made))
    transfer(seeds, world, transfer_steps=100_000, transfer_every=4000)


def main() -> None:
    parts = ("solve", "speed", "balancers", "transfer", "swing_ups")
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", nargs="+", default=["solve", "speed"], choices=parts)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.parts:
        print(f"\n## {name}", flush=True)
        speed() if name == "speed" else globals()[name](given.seeds)


if __name__ == "__main__":
    main()
