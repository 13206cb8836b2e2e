"""Syre's Fig. 1 on a small scale: identical neurons stay identical, unless trained with syre.

A two-layer ReLU network learns to imitate a wider random one. A share of its hidden neurons start as
copies of one another. Gradient descent moves copies in the same way, so they remain copies, the
network's rank stays low and its loss high. The same holds for weight decay, which is symmetric in the
copies. Syre pulls each copy toward a different point.

    python examples/identical_neurons.py --out identical_neurons.png
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from plasticity import (
    capture,
    degree_of_symmetry,
    numerical_rank,
    permutation_distance,
    regularized,
)

INPUTS, HIDDEN, OUTPUTS, EXAMPLES = 20, 32, 5, 512


@dataclass(frozen=True)
class Outcome:
    """Results of one run, measured at `steps`."""

    losses: list[float]
    """Mean squared error."""

    ranks: list[int]
    """Numerical rank of the hidden features, at most `HIDDEN`."""

    copies: list[int]
    """Neighbouring pairs of identical neurons (closer than 1e-6), at most `HIDDEN` - 1."""


def make_network(share: float, seed: int) -> nn.Sequential:
    """Make a network in which a share of the hidden neurons are copies of the first."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, OUTPUTS))
    copies = round(share * HIDDEN)
    with torch.no_grad():
        network[0].weight[:copies] = network[0].weight[0]
        network[0].bias[:copies] = network[0].bias[0]
        network[2].weight[:, :copies] = network[2].weight[:, :1]
    return network


def make_data(seed: int) -> tuple[Tensor, Tensor]:
    """Draw random inputs, and compute the outputs of a random network of four times the width."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(EXAMPLES, INPUTS, generator=generator)
    first = torch.randn(INPUTS, 4 * HIDDEN, generator=generator) / INPUTS**0.5
    second = torch.randn(4 * HIDDEN, OUTPUTS, generator=generator) / (2 * HIDDEN**0.5)
    return inputs, torch.relu(inputs @ first) @ second


def train(regularizer: str, *, share: float, seed: int, steps: list[int]) -> Outcome:
    """Train for the last of `steps`, and measure at each of them."""
    network = make_network(share, seed)
    inputs, targets = make_data(seed)
    optimizer = regularized(torch.optim.SGD)(
        network.parameters(),
        lr=0.1,
        regularizer=regularizer,
        strength=1e-3,
        sigma=0.5,
        anchor_seed=seed,
    )
    losses, ranks, copies = [], [], []
    for step in range(steps[-1] + 1):
        if step in steps:
            with torch.no_grad(), capture(network) as activations:
                losses.append(nn.functional.mse_loss(network(inputs), targets).item())
            ranks.append(int(numerical_rank(activations["1"])))
            distances = permutation_distance(network[0].weight, network[2].weight, network[0].bias)
            copies.append(int(degree_of_symmetry(distances, 1e-6)))
        optimizer.zero_grad()
        nn.functional.mse_loss(network(inputs), targets).backward()
        optimizer.step()
    return Outcome(losses, ranks, copies)


def draw(outcomes: dict[str, Outcome], steps: list[int]) -> Figure:
    """Plot loss, rank and copies over steps."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = figure.subplots(1, 3)
    looks = (("#000000", "-", "o"), ("#E69F00", "--", "s"), ("#0072B2", "-.", "^"))
    for (name, outcome), (color, line, marker) in zip(outcomes.items(), looks, strict=True):
        for panel, values in zip(
            panels, (outcome.losses, outcome.ranks, outcome.copies), strict=True
        ):
            panel.plot(steps, values, line, color=color, marker=marker, markersize=4, label=name)
    for panel, title in zip(
        panels,
        ("mean squared error", "numerical rank of the hidden layer", "pairs of identical neurons"),
        strict=True,
    ):
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("step")
        panel.set_ylim(bottom=0)
    panels[0].set_ylim(auto=True)
    panels[0].set_yscale("log")
    panels[0].legend(frameon=False)
    return figure


def main() -> None:
    """Print the three runs as a table, and plot them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.75, help="share of identical neurons")
    parser.add_argument("--steps", type=int, default=4000, help="steps of gradient descent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="image file to write")
    given = parser.parse_args()
    steps = [round(given.steps * part / 10) for part in range(11)]
    outcomes: dict[str, Outcome] = {}
    print(f"{'method':14s}{'loss':>18s}{'rank':>12s}{'copies':>12s}   (first and last step)")
    for name in ("none", "weight-decay", "syre"):
        outcome = train(name, share=given.share, seed=given.seed, steps=steps)
        outcomes[name] = outcome
        loss = f"{outcome.losses[0]:.4f} {outcome.losses[-1]:.4f}"
        rank = f"{outcome.ranks[0]} {outcome.ranks[-1]}"
        copies = f"{outcome.copies[0]} {outcome.copies[-1]}"
        print(f"{name:14s}{loss:>18s}{rank:>12s}{copies:>12s}", flush=True)
    if given.out is not None:
        draw(outcomes, steps).savefig(given.out, dpi=150)


if __name__ == "__main__":
    main()
