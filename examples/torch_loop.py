"""Track plasticity in a plain torch training loop: handwritten digits, with pixels permuted for each task.

python examples/torch_loop.py --regularizer syre
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from plasticity import Tracker, regularized


def make_data() -> tuple[Tensor, Tensor]:
    """Load 1797 digits of 8 × 8 pixels from 0 to 1, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def train(regularizer: str, *, strength: float, tasks: int, steps: int, seed: int) -> Tracker:
    """Learn one permutation of the pixels after another, with a row of measurements for each."""
    torch.manual_seed(seed)
    images, labels = make_data()
    model = nn.Sequential(
        nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    optimizer = regularized(torch.optim.SGD)(
        model.parameters(),
        lr=0.1,
        momentum=0.9,
        regularizer=regularizer,
        strength=strength,
        sigma=0.5,
    )
    tracker = Tracker(
        model, images[:512], metrics=["effective_rank", "dead_fraction", "weight_norm"]
    )
    for task in range(tasks):
        permuted = images[:, torch.randperm(64)]
        correct = 0
        for _ in range(steps):
            chosen = torch.randint(len(images), (64,))
            outputs = model(permuted[chosen])
            # Online accuracy: counted before the step that learns from these examples.
            correct += int((outputs.argmax(-1) == labels[chosen]).sum())
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs, labels[chosen]).backward()
            optimizer.step()
        # The probe batch comes from the task that ended. Training does not depend on this line.
        tracker.boundary(task, permuted[:512], online_accuracy=correct / (64 * steps))
    return tracker


def main() -> None:
    """Train, and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--regularizer", default="syre", help="syre, weight-decay, l2-init or none")
    parser.add_argument("--strength", type=float, default=3e-3)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--steps", type=int, default=500, help="optimizer steps per task")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tracker = train(
        given.regularizer,
        strength=given.strength,
        tasks=given.tasks,
        steps=given.steps,
        seed=given.seed,
    )
    print(
        f"{'task':>4s}{'online accuracy':>18s}{'effective rank':>18s}{'dead units':>16s}{'norm':>8s}"
    )
    for row in tracker.rows:
        rank = f"{row['effective_rank/1']:.1f} {row['effective_rank/3']:.1f}"
        dead = f"{row['dead_fraction/1']:.0%} {row['dead_fraction/3']:.0%}"
        print(
            f"{row['task']:4d}{row['online_accuracy']:18.3f}{rank:>18s}{dead:>16s}"
            f"{row['weight_norm/total']:8.1f}"
        )


if __name__ == "__main__":
    main()
