"""Reset dormant units in a plain torch loop, and keep the rank with syre: permuted digits, task after task.

The loop stays as it is. `attach` puts mitigations on the model and its optimizer, one or several:

    python examples/redo_in_any_loop.py --methods none redo redo+syre
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import nn

from plasticity import Tracker
from plasticity.mitigations import Mitigation, ReDo, Syre
from plasticity.mitigations.attach import attach

METHODS: dict[str, tuple[Mitigation, ...]] = {
    "none": (),
    "redo": (ReDo(every=100, tau=0.05),),
    "syre": (Syre(strength=1e-3, sigma=0.5),),
    "redo+syre": (ReDo(every=100, tau=0.05), Syre(strength=1e-3, sigma=0.5)),
}


def train(
    mitigations: Sequence[Mitigation], *, tasks: int, steps: int, seed: int
) -> list[dict[str, float]]:
    """Learn one permutation of the pixels after another; return a row of measurements for each."""
    torch.manual_seed(seed)
    pixels, digits = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(digits)
    model = nn.Sequential(
        nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    attached = attach(model, optimizer, *mitigations, seed=seed)
    tracker = Tracker(model, images[:512], metrics=["effective_rank", "dead_fraction"])
    for task in range(tasks):
        permuted = images[:, torch.randperm(64)]
        if task > 0:
            attached.boundary(task)  # some mitigations act between tasks
        correct = 0
        for _ in range(steps):
            chosen = torch.randint(len(images), (64,))
            outputs = model(permuted[chosen])
            correct += int((outputs.argmax(-1) == labels[chosen]).sum())
            # A penalty is part of the loss; it is 0 unless a mitigation has one.
            loss = nn.functional.cross_entropy(outputs, labels[chosen]) + attached.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tracker.boundary(
            task,
            permuted[:512],
            online_accuracy=correct / (64 * steps),
            reset_units=sum(attached.take_counts().values()),
        )
    return tracker.rows


def main() -> None:
    """Train with each method, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["none", "redo+syre"])
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps per task")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    columns = ("task", "online accuracy", "effective rank", "dead units", "reset units")
    for method in given.methods:
        print(method)
        print("".join(f"{each:>17s}" for each in columns))
        for row in train(METHODS[method], tasks=given.tasks, steps=given.steps, seed=given.seed):
            numbers = (
                f"{row['task']:.0f}",
                f"{row['online_accuracy']:.3f}",
                f"{row['effective_rank/3']:.1f}",
                f"{row['dead_fraction/3']:.0%}",
                f"{row['reset_units']:.0f}",
            )
            print("".join(f"{each:>17s}" for each in numbers))


if __name__ == "__main__":
    main()
