"""Syre in Stable-Baselines3: PPO on the Slippery-Ant, whose floor changes from task to task.

It takes two lines: `policy_kwargs` regularizes the networks, and `PlasticityCallback` measures them.
The example takes about half a minute; an ant learns to walk in millions of steps, which take hours.

    python examples/sb3_slippery_ant.py --regularizers none syre --out ant.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import torch
from matplotlib.figure import Figure
from stable_baselines3 import PPO
from torch import nn

from plasticity.sb3 import PlasticityCallback, policy_kwargs

Rows = list[dict[str, Any]]

ENVIRONMENT = "plasticity.tasks:plasticity/SlipperyAntBullet-v0"
"""Environment id; Gymnasium imports the module before the colon, which registers it, also in workers."""

COLORS = {"none": "#666666", "weight-decay": "#D55E00", "syre": "#0072B2"}


def train(
    regularizer: str, *, strength: float, steps: int, seed: int, measurements: int = 8
) -> Rows:
    """Train for `steps` on four frictions, one after another, and return the callback's rows."""
    torch.set_num_threads(1)  # such small networks are slower with more
    every = max(steps // measurements, 1)
    env = gymnasium.make(ENVIRONMENT, task_seed=seed, change_every=max(steps // 4, 1))
    model = PPO(
        "MlpPolicy",
        env,
        learning_rate=1e-4,
        n_steps=min(2048, every),
        batch_size=min(128, every),
        policy_kwargs=policy_kwargs(
            PPO,
            regularizer=regularizer,
            strength=0.0 if regularizer == "none" else strength,
            sigma=0.3,
            # The published networks: two hidden layers of 256 for actor and critic, ReLU.
            net_arch=[256, 256],
            activation_fn=nn.ReLU,
        ),
        seed=seed,
        device="cpu",
    )
    # Measures at regular intervals and wherever the floor changes; the environment adds `friction` to its
    # info. The probe batch should have more observations than a layer has units.
    callback = PlasticityCallback(every, probe_size=min(512, every), info_keys=["friction"])
    model.learn(steps, callback=callback)
    env.close()
    return callback.rows


def show(rows: Rows) -> None:
    """Print a line for each measurement of the last hidden layers."""
    print(
        f"{'step':>8s}{'task':>6s}{'friction':>10s}{'return':>9s}  {'effective rank, dead units':s}"
    )
    for row in rows:
        layers = [
            f"{name} {row[f'effective_rank/{layer}']:5.1f} {row[f'dead_fraction/{layer}']:4.0%}"
            for name, layer in (("actor", "actor.3"), ("critic", "critic.3"))
            if f"effective_rank/{layer}" in row
        ]
        episode_return = "-" if row["episode_return"] is None else f"{row['episode_return']:.0f}"
        print(
            f"{row['step']:8d}{row['task']:6d}{row['friction']:10.3f}{episode_return:>9s}  "
            f"{'   '.join(layers)}{'   (end of the task)' if row['boundary'] else ''}"
        )


def draw(runs: dict[str, Rows]) -> Figure:
    """Plot returns and ranks over steps, by regularizer, with lines where the friction changes."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    panels = dict(
        zip(
            ("episode_return", "effective_rank/actor.3", "effective_rank/critic.3"),
            figure.subplots(1, 3),
            strict=True,
        )
    )
    for key, panel in panels.items():
        for regularizer, rows in runs.items():
            shown = [row for row in rows if row.get(key) is not None]
            steps, values = [row["step"] for row in shown], [row[key] for row in shown]
            panel.plot(steps, values, ".-", color=COLORS[regularizer], label=regularizer)
        for row in next(iter(runs.values())):
            if row["boundary"]:
                panel.axvline(row["step"], color="#CCCCCC", linewidth=0.8)
        panel.set_title(key.replace("_", " ").replace("/", ", "), fontsize=10)
        panel.set_xlabel("step")
        panel.ticklabel_format(axis="x", scilimits=(0, 0))
    panels["episode_return"].legend(frameon=False)
    return figure


def main() -> None:
    """Train, and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regularizers", nargs="+", default=["syre"], choices=list(COLORS))
    parser.add_argument("--strength", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=16_384, help="environment steps")
    parser.add_argument("--measurements", type=int, default=8, help="evenly spread over training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="image file to write")
    given = parser.parse_args()
    runs = {}
    for regularizer in given.regularizers:
        print(regularizer)
        runs[regularizer] = train(
            regularizer,
            strength=given.strength,
            steps=given.steps,
            seed=given.seed,
            measurements=given.measurements,
        )
        show(runs[regularizer])
    if given.out is not None:
        draw(runs).savefig(given.out, dpi=150)


if __name__ == "__main__":
    main()
