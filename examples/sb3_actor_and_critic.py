"""Regularize actor and critic differently, save, load in a new process and continue: SAC on Pendulum.

The optimizers' groups are made with the policy, so `SAC.load(path)` alone restores them, including the
anchors, which are drawn again from one integer. The callback is pickled alongside the model and continues
with the same probe batch.

    python examples/sb3_actor_and_critic.py --folder pendulum              # train and save
    python examples/sb3_actor_and_critic.py --folder pendulum --continue   # load and continue, repeatedly
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import gymnasium
import torch
from stable_baselines3 import SAC

from plasticity import describe_groups
from plasticity.sb3 import PlasticityCallback, policy_kwargs


def new_model(seed: int) -> SAC:
    """Make a model with strong syre on the critic and weak weight decay on the actor."""
    return SAC(
        "MlpPolicy",
        gymnasium.make("Pendulum-v1"),
        learning_starts=200,
        policy_kwargs=policy_kwargs(
            SAC,
            actor={"regularizer": "weight-decay", "strength": 1e-4},
            critic={"regularizer": "syre", "strength": 1e-3, "sigma": 0.3},
            anchor_seed=seed,
            net_arch=[64, 64],
        ),
        seed=seed,
        device="cpu",
    )


def save(model: SAC, callback: PlasticityCallback, folder: Path) -> None:
    """Save the model, its replay buffer, and the callback with its rows and probe batch."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.zip")
    model.save_replay_buffer(folder / "replay_buffer.pkl")
    with (folder / "callback.pkl").open("wb") as file:
        pickle.dump(callback, file)


def load(folder: Path) -> tuple[SAC, PlasticityCallback]:
    """Load the files written by `save`. Unpickle only your own files, as a pickle can run any code."""
    model = SAC.load(folder / "model.zip", env=gymnasium.make("Pendulum-v1"), device="cpu")
    model.load_replay_buffer(folder / "replay_buffer.pkl")
    with (folder / "callback.pkl").open("rb") as file:
        callback: PlasticityCallback = pickle.load(file)
    return model, callback


def show(callback: PlasticityCallback) -> None:
    """Print the effective ranks of the last layers of the actor and both critics on the fixed probe batch."""
    layers = ("actor.latent_pi.3", "critic.qf0.3", "critic.qf1.3")
    print(f"{'step':>7s}{'return':>9s}" + "".join(f"{layer:>20s}" for layer in layers))
    for row in callback.rows:
        episode_return = "-" if row["episode_return"] is None else f"{row['episode_return']:.0f}"
        ranks = "".join(f"{row[f'probe/effective_rank/{layer}']:20.1f}" for layer in layers)
        print(f"{row['step']:7d}{episode_return:>9s}{ranks}")


def main() -> None:
    """Train or continue, save, and print the ranks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder of the saved model")
    parser.add_argument(
        "--continue", dest="resume", action="store_true", help="load the model and continue"
    )
    parser.add_argument("--steps", type=int, default=2000, help="environment steps")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.resume:
        model, callback = load(given.folder)
    else:
        every = max(given.steps // 4, 1)
        model, callback = (
            new_model(given.seed),
            PlasticityCallback(every, probe_size=min(256, every)),
        )
    for name, optimizer in (
        ("actor", model.policy.actor.optimizer),
        ("critic", model.policy.critic.optimizer),
    ):
        print(f"{name}:\n{describe_groups(optimizer)}")
    model.learn(given.steps, callback=callback, reset_num_timesteps=not given.resume)
    save(model, callback, given.folder)
    show(callback)


if __name__ == "__main__":
    main()
