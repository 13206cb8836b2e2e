"""A plain training loop of a small model, and a mitigation that adds a parameter to it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from plasticity.mitigations import Mitigation


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


def make_batch(seed, size=8):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 5, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


def train(model, optimizer, steps, penalty=lambda: 0.0):
    for step in steps:
        inputs, labels = make_batch(step)
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(inputs), labels) + penalty()).backward()
        optimizer.step()


@dataclass(frozen=True, kw_only=True)
class Extra(Mitigation):
    """A parameter beside the model's, pulled toward the mean output."""

    name: ClassVar[str] = "extra"

    def initial_weights(self, network, seed):
        network.register_parameter("extra", nn.Parameter(torch.zeros(())))

    def penalty(self, context):
        outputs = context.forward(context.inputs).mean((-1, -2)).detach()
        return (context.parameters["extra"] - outputs).square()
