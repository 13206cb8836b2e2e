"""Compare our PPO with Stable-Baselines3's: returns over seeds, and an interval of their difference.

Both get the same settings, those of the RL Zoo for the environment as far as both have them
(`plasticity.scripts.bench.stable_baselines3` tells ours in their words). Compared are
the mean return of the training episodes that end in the last fifth of the steps ("final"), and of all
episodes ("whole"), which shows how fast they learn. The 95 % interval is Welch's, of the difference of the
means over seeds.

    python examples/ppo_against_sb3.py CartPole-v1 --seeds 10 --out cartpole.jsonl

Running the same command again continues: seeds that are already in the file are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from stable_baselines3.common.env_util import make_vec_env

from plasticity.agents import PPO, PPOConfig
from plasticity.scripts.bench.stable_baselines3 import stable_baselines3_ppo

Array = NDArray[np.float64]

COMMON = PPOConfig(
    hidden=(64, 64),
    activation="tanh",
    initialization="orthogonal",
    learning_rate=1e-3,
    # Pendulum's is constant in the zoo; returns then fluctuate by a tenth until the end.
    learning_rate_schedule="linear",
    total_steps=1,
    epsilon=1e-5,
    value_coefficient=0.5,
    normalize_advantages="minibatch",
    max_gradient_norm=0.5,
)

SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "CartPole-v1": (
        8,
        {
            "rollout_steps": 256,
            "minibatch_size": 256,
            "epochs": 20,
            "gamma": 0.98,
            "gae_lambda": 0.8,
        },
    ),
    "Pendulum-v1": (
        4,
        {"rollout_steps": 4096, "minibatch_size": 64, "epochs": 10, "gamma": 0.9},
    ),
}
"""Number of environments, and what differs from the common settings, by environment."""


def settings(name: str, steps: int) -> tuple[int, PPOConfig]:
    """Return the number of environments and the configuration of a run of this length."""
    num_envs, changes = SETTINGS[name]
    return num_envs, replace(COMMON, total_steps=steps, **changes)


def train_ours(name: str, seed: int, steps: int) -> list[tuple[int, float]]:
    """Train our PPO, and return the last step and the return of every episode."""
    num_envs, config = settings(name, steps)
    envs = gym.vector.SyncVectorEnv(
        [lambda: gym.make(name)] * num_envs,
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    ppo = PPO(envs, config, seed=seed)
    episodes = []
    while ppo.num_steps < steps:
        episodes += [(e.step, e.episode_return) for e in ppo.iterate().episodes]
    return episodes


def train_theirs(name: str, seed: int, steps: int) -> list[tuple[int, float]]:
    """Train Stable-Baselines3's PPO, and return the last step and the return of every episode."""
    num_envs, config = settings(name, steps)
    envs = make_vec_env(name, n_envs=num_envs, seed=seed)
    model = stable_baselines3_ppo(envs, config, seed=seed)
    episodes: list[tuple[int, float]] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> bool:
        ended = [info["episode"]["r"] for info in local["infos"] if "episode" in info]
        episodes.extend((local["self"].num_timesteps, float(r)) for r in ended)
        return True

    model.learn(steps, callback=note)
    return episodes


TRAINERS = {"ours": train_ours, "stable-baselines3": train_theirs}


def mean_returns(trainer: str, name: str, seed: int, steps: int) -> dict[str, float]:
    """Train, and compute the mean return of the episodes in the last fifth of the steps, and of all."""
    torch.set_num_threads(1)
    episodes = TRAINERS[trainer](name, seed, steps)
    return {
        "final": float(np.mean([found for step, found in episodes if step > 0.8 * steps])),
        "whole": float(np.mean([found for _, found in episodes])),
    }


Results = dict[tuple[str, int], dict[str, float]]


def run_all(
    name: str, seeds: range, steps: int, jobs: int, known: Results
) -> Iterator[dict[str, Any]]:
    """Run the trainers and seeds without a known result, and yield each result when it is complete."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {
            pool.submit(mean_returns, trainer, name, seed, steps): (trainer, seed)
            for seed in seeds
            for trainer in TRAINERS
            if (trainer, seed) not in known
        }
        for future in as_completed(futures):
            trainer, seed = futures[future]
            run = {"env": name, "steps": steps, "trainer": trainer, "seed": seed}
            yield run | {"returns": future.result()}


def read(path: Path, name: str, steps: int) -> Results:
    """Read the results for this environment and length from a file of earlier runs."""
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return {
        (row["trainer"], row["seed"]): row["returns"]
        for row in rows
        if (row["env"], row["steps"]) == (name, steps)
    }


def welch_interval(ours: Array, theirs: Array) -> tuple[float, float]:
    """Compute the 95 % interval of the difference of two means whose variances may differ."""
    difference = float(ours.mean() - theirs.mean())
    parts = [(values.var(ddof=1) / len(values), len(values) - 1) for values in (ours, theirs)]
    variance = sum(part for part, _ in parts)
    if variance == 0:  # every seed has the same return, such as the maximum
        return difference, difference
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    width = float(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    return difference - width, difference + width


def summary(found: Results) -> str:
    """Describe the means and the interval of their difference, also relative to Stable-Baselines3's mean."""
    lines = []
    for measure in ("final", "whole"):
        ours, theirs = (
            np.array([r[measure] for (trainer, _), r in sorted(found.items()) if trainer == wanted])
            for wanted in TRAINERS
        )
        low, high = welch_interval(ours, theirs)
        scale = abs(theirs.mean())
        lines += [
            f"{measure}: {label:18s} mean {values.mean():9.2f}   standard deviation"
            f" {values.std(ddof=1):7.2f}   {len(values)} seeds"
            for label, values in zip(TRAINERS, (ours, theirs), strict=True)
        ]
        lines.append(
            f"{measure}: difference         {ours.mean() - theirs.mean():+.2f}   95 % interval"
            f" {low:+.2f} to {high:+.2f}   = {low / scale:+.1%} to {high / scale:+.1%} of theirs"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the missing seeds, and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("env", choices=SETTINGS)
    parser.add_argument(
        "--seeds", type=int, default=10, help="seeds per trainer, from --first-seed on"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps per run")
    parser.add_argument("--jobs", type=int, default=1, help="processes, with one thread each")
    parser.add_argument("--out", type=Path, help="file of JSON lines for the results")
    given = parser.parse_args()
    found = {} if given.out is None else read(given.out, given.env, given.steps)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    for row in run_all(given.env, seeds, given.steps, given.jobs, found):
        found[row["trainer"], row["seed"]] = row["returns"]
        numbers = "".join(f"   {key} {value:9.2f}" for key, value in row["returns"].items())
        print(f"{row['trainer']:18s} seed {row['seed']:3d}{numbers}", flush=True)
        if given.out is not None:
            with given.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(summary({key: value for key, value in found.items() if key[1] in seeds}))


if __name__ == "__main__":
    main()
