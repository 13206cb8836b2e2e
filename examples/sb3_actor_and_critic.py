"""Actor and critic regularized apart, saved, loaded in a fresh process, and continued: SAC on Pendulum.

The optimizers' groups are made with the policy, so `SAC.load(path)` alone restores them, anchors
included: these are drawn again from one integer. The callback is pickled beside the model, and goes on
with the same probe batch.

    python examples/sb3_actor_and_critic.py --folder pendulum              # train, save
    python examples/sb3_actor_and_critic.py --folder pendulum --continue   # load, go on, as often as you like
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
    """A critic under strong syre; an actor under weak weight decay."""
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
    """The model, its replay buffer, and the callback with its rows and probe batch."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.zip")
    model.save_replay_buffer(folder / "replay_buffer.pkl")
    with (folder / "callback.pkl").open("wb") as file:
        pickle.dump(callback, file)


def load(folder: Path) -> tuple[SAC, PlasticityCallback]:
    """What `save` wrote. Unpickle only files of your own: a pickle can run any code."""
    model = SAC.load(folder / "model.zip", env=gymnasium.make("Pendulum-v1"), device="cpu")
    model.load_replay_buffer(folder / "replay_buffer.pkl")
    with (folder / "callback.pkl").open("rb") as file:
        callback: PlasticityCallback = pickle.load(file)
    return model, callback


def show(callback: PlasticityCallback) -> None:
    """Effective rank on the fixed probe batch: of the actor's last layer, and of both critics'."""
    layers = ("actor.latent_pi.3", "critic.qf0.3", "critic.qf1.3")
    print(f"{'step':>7s}{'return':>9s}" + "".join(f"{layer:>20s}" for layer in layers))
    for row in callback.rows:
        episode_return = "-" if row["episode_return"] is None else f"{row['episode_return']:.0f}"
        ranks = "".join(f"{row[f'probe/effective_rank/{layer}']:20.1f}" for layer in layers)
        print(f"{row['step']:7d}{episode_return:>9s}{ranks}")


def main() -> None:
    """Train or go on, save, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the model is saved")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="load it, and go on")
    parser.add_argument("--steps", type=int, default=2000, help="environment steps")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.go_on:
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
    model.learn(given.steps, callback=callback, reset_num_timesteps=not given.go_on)
    save(model, callback, given.folder)
    show(callback)


if __name__ == "__main__":
    main()
