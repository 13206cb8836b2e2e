"""Track the plasticity of any Stable-Baselines3 algorithm on custom tasks, here DQN on CartPole.

The callback reads the task from ``info["task"]``, so a task sequence only needs a wrapper that puts it
there; vector environments, `Monitor`, `VecNormalize` and frame stacks pass it on.

    python examples/sb3_own_tasks.py --log logs    # also writes CSV and TensorBoard files
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from plasticity.sb3 import PlasticityCallback

LAYERS = ("q_net.1", "q_net.3")  # the activations of DQN's two hidden layers


class ScrambledObservations(gymnasium.Wrapper):  # type: ignore[type-arg]
    """CartPole with its four observations permuted, and their signs flipped, differently for each task."""

    def __init__(self, env: gymnasium.Env, change_every: int, seed: int) -> None:  # type: ignore[type-arg]
        super().__init__(env)
        self.change_every = change_every
        self.seed = seed
        self.steps = 0
        self.task = 0

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode. The task changes only here, so that each episode belongs to one task."""
        self.task = self.steps // self.change_every
        generator = np.random.default_rng((self.seed, self.task))
        self.permutation = generator.permutation(4)
        self.signs = generator.choice([-1.0, 1.0], 4)
        observation, info = self.env.reset(**options)
        return self.scrambled(observation), {**info, "task": self.task}

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Make a step, with the task in its info."""
        self.steps += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, "task": self.task}
        return self.scrambled(observation), reward, terminated, truncated, info

    def scrambled(self, observation: np.ndarray) -> np.ndarray:
        """Return the observation as this task shows it."""
        return (self.signs * observation[self.permutation]).astype(observation.dtype)


def make_env(change_every: int, seed: int) -> ScrambledObservations:
    """Make a CartPole with bounds of ±infinity, since the permuted bounds would differ between tasks."""
    env = ScrambledObservations(gymnasium.make("CartPole-v1"), change_every, seed)
    env.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    return env


def train(*, steps: int, seed: int, log: Path | None = None) -> PlasticityCallback:
    """Train DQN on four tasks, one after another."""
    torch.set_num_threads(1)
    vector = VecMonitor(DummyVecEnv([lambda: make_env(max(steps // 4, 1), seed)]))
    model = DQN(
        "MlpPolicy",
        VecNormalize(vector, norm_reward=False),
        learning_rate=1e-3,
        buffer_size=max(steps // 4, 1),
        batch_size=64,
        target_update_interval=200,
        exploration_final_eps=0.04,
        seed=seed,
        device="cpu",
    )
    if log is not None:
        model.set_logger(configure(str(log), ["csv", "tensorboard"]))
    callback = PlasticityCallback(
        max(steps // 10, 1),
        metrics=["effective_rank", "dead_fraction", "update_norm"],
        probe_size=256,
    )
    model.learn(steps, callback=callback)
    model.logger.close()
    return callback


def main() -> None:
    """Train, and print the measurements on the latest and on the fixed observations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24_000, help="environment steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, help="folder for CSV and TensorBoard files")
    given = parser.parse_args()
    rows = train(steps=given.steps, seed=given.seed, log=given.log).rows
    print(f"{'step':>7s}{'task':>6s}{'return':>8s}   effective rank (fixed probe) and dead units")
    for row in rows:
        layers = [
            f"{layer} {row[f'effective_rank/{layer}']:5.1f} ({row[f'probe/effective_rank/{layer}']:5.1f})"
            f" {row[f'dead_fraction/{layer}']:4.0%}"
            for layer in LAYERS
            if f"effective_rank/{layer}" in row
        ]
        episode_return = "-" if row["episode_return"] is None else f"{row['episode_return']:.0f}"
        print(f"{row['step']:7d}{row['task']:6d}{episode_return:>8s}   {'   '.join(layers)}")


if __name__ == "__main__":
    main()
