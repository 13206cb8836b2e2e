"""Small networks in training, one or stacked ones, as mitigations reach them."""

from functools import partial

import torch
from torch import nn

from plasticity.initialization import initialization_of, torch_default
from plasticity.mitigations.context import Context, Progress
from plasticity.mitigations.optimizer_views import OrdinaryView, StackedView
from plasticity.mitigations.trained import Trained
from plasticity.optim.regularizers import regularized
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.stacking.networks import StackedNetworks


class Marker(nn.Module):
    """Three channels on maps of 2 x 2, flattened into a dense layer of 5 units, and 2 outputs.

    Args:
        channels_last: Whether the channels of a position lie side by side in the dense layer's inputs.
        crelu: Whether the dense layer's sums are rectified twice, the second time with the other sign.
    """

    def __init__(self, *, channels_last=False, crelu=False):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 3, 2), nn.Linear(12, 5)
        self.head = nn.Linear(10 if crelu else 5, 2)
        self.channels_last, self.crelu = channels_last, crelu

    def forward(self, images):
        maps = torch.tanh(self.conv(images))
        sums = self.fc((maps.permute(0, 2, 3, 1) if self.channels_last else maps).flatten(1))
        if self.crelu:
            return self.head(torch.cat([torch.relu(sums), torch.relu(-sums)], 1))
        return self.head(torch.tanh(sums))

    def initialization(self):
        fan_in = {"conv": 4, "fc": 12, "head": self.head.in_features}
        return {
            name: torch_default(fan_in[name.split(".")[0]]) for name, _ in self.named_parameters()
        }


def images(count=6, seed=0):
    return torch.randn(count, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def marker(seed=0, **settings):
    torch.manual_seed(seed)
    return Marker(**settings)


def adam(model):
    return regularized(torch.optim.Adam)(model.parameters(), lr=0.01, regularizer="none")


def step(forward, optimizer, inputs):
    """Take a step with gradients everywhere."""
    optimizer.zero_grad()
    torch.sin(forward(inputs) + 1).sum().backward()
    optimizer.step()


def single(model, optimizer, inputs):
    """Return one network whose units are known."""
    found = Trained(
        parameters=dict(model.named_parameters()),
        buffers=dict(model.named_buffers()),
        module=model,
        optimizer=OrdinaryView(optimizer, dict(model.named_parameters())),
        initialization=initialization_of(model),
        ordinary=lambda: model,
    )
    found.find_units(inputs)
    found.find_roles(inputs)
    return found


def stacked(models, inputs, make_optimizer=adam):
    """Return stacked networks whose units are known, the networks, and their optimizer."""
    networks = StackedNetworks(models)
    optimizers = [make_optimizer(model) for model in models]
    optimizer = StackedOptimizer(optimizers, networks.in_order_of(optimizers[0], models[0]))
    found = Trained(
        parameters=networks.parameters,
        buffers=networks.buffers,
        module=networks.template,
        optimizer=StackedView(optimizer, networks.parameters),
        initialization=initialization_of(models[0]),
        ordinary=partial(networks.network, 0),
        lead=(len(models),),
    )
    found.find_units(inputs.expand(len(models), *inputs.shape))
    found.find_roles(inputs.expand(len(models), *inputs.shape))
    return found, networks, optimizer


def context_of(networks, *seeds):
    """Return a context, with a generator of these seeds for each network."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds or (0,)]
    return Context(networks, Progress(), generators)


def everything(networks):
    """Return copies of all weights, buffers and moments, by name."""
    found = {}
    for name in (*networks.parameters, *networks.buffers):
        tensor, moments = networks.tensor(name)
        found[name] = tensor.clone()
        found |= {f"{name}/{index}": each.clone() for index, each in enumerate(moments)}
    return found
