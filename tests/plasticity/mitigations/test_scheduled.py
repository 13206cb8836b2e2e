from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from plasticity.mitigations.attach import attach
from plasticity.mitigations.scheduled import Scheduled


@dataclass(frozen=True, kw_only=True)
class Count(Scheduled):
    """Count of actions."""

    name: ClassVar[str] = "count"

    def act(self, context):
        context.count("actions", torch.ones(context.lead))


@pytest.mark.parametrize(
    # 7 steps, with a boundary after each
    ("settings", "expected"),
    [
        ({}, 7),
        ({"every": 3}, 9),
        ({"every": 3, "at_tasks": False}, 2),
        ({"every": 8, "at_tasks": False}, 0),
    ],
)
def test_the_action_is_due_at_tasks_and_after_steps(settings, expected):
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    attached = attach(network, optimizer, Count(**settings))
    for task in range(7):
        network(torch.ones(3, 2)).sum().backward()
        optimizer.step()
        attached.boundary(task + 1)
    assert attached.take_counts().get("actions", 0) == expected


def test_an_action_that_is_never_due_is_refused():
    with pytest.raises(ValueError, match="count would never act with at_tasks=False"):
        Count(at_tasks=False)
