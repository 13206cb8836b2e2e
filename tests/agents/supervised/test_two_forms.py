"""Agreement of the two forms of syre on a real network and real images, in float64."""

import copy

import torch
from torch import nn

from plasticity.agents.networks import CNN
from plasticity.optim.regularizers import regularized
from plasticity.optim.shifted_model import ShiftedModel
from plasticity.tasks import PermutedImages, load_dataset


def test_thousand_steps_on_digits_agree_to_1e_10():
    """Compare loss(theta + theta_0) + strength / 2 |theta|^2 with decay toward theta_0, under SGD."""
    task = PermutedImages(load_dataset("digits"), num_tasks=2, seed=0)[1]
    torch.manual_seed(0)
    model = CNN().build(CNN().spec((1, 8, 8), 10)).double()
    optimizer = regularized(torch.optim.SGD)(
        model.parameters(), lr=0.05, regularizer="syre", strength=0.01, sigma=0.5, anchor_seed=1
    )
    anchors = {name: optimizer.anchor(p) for name, p in model.named_parameters()}
    shifted = ShiftedModel(copy.deepcopy(model), anchors)
    plain = torch.optim.SGD(shifted.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(2)
    start = [p.detach().clone() for p in model.parameters()]
    for _ in range(1000):
        images, labels = task.train_batch(
            torch.randint(0, task.num_train, (16,), generator=generator)
        )
        images = images.double()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        plain.zero_grad()
        penalty = sum(p.square().sum() for p in shifted.parameters())
        (nn.functional.cross_entropy(shifted(images), labels) + 0.01 / 2 * penalty).backward()
        plain.step()
    effective = shifted.effective_parameters()
    for name, parameter in model.named_parameters():
        assert (parameter - effective[name]).abs().max() < 1e-10
    moved = [(p - s).abs().max() for p, s in zip(model.parameters(), start, strict=True)]
    assert min(moved) > 1e-3
