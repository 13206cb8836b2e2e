"""Small networks in training, one or stacked ones, as mitigations reach them."""

from functools import partial

import torch
from torch import nn

from plasticity.initialization import initialization_of, torch_default
from plasticity.mitigations.attach import attach
from plasticity.mitigations.context import Context
from plasticity.mitigations.hooks import Hooks
from plasticity.mitigations.optimizer_views import OrdinaryView, StackedView
from plasticity.mitigations.progress import Progress
from plasticity.mitigations.trained import Trained
from plasticity.optim.regularizers import regularized
from plasticity.optim.stacked_optimizer import StackedOptimizer
from plasticity.seeds import child_seed
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
            name: torch_default(fan_in[layer])
            for name, _ in self.named_parameters()
            if (layer := name.split(".")[0]) in fan_in  # not what a mitigation adds
        }


class Normalized(nn.Module):
    """A convolution with a batch normalization, a dense layer with a layer normalization, and 2 outputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3)
        self.fc, self.scale = nn.Linear(12, 5), nn.LayerNorm(5)
        self.head = nn.Linear(5, 2)

    def forward(self, images):
        maps = torch.tanh(self.norm(self.conv(images)))
        return self.head(torch.tanh(self.scale(self.fc(maps.flatten(1)))))

    def initialization(self):
        fan_in = {"conv": 4, "fc": 12, "head": 5}
        return {
            f"{name}.{own}": torch_default(count)
            for name, count in fan_in.items()
            for own in ("weight", "bias")[: 1 + (name != "conv")]
        }


def normalized(seed=0):
    torch.manual_seed(seed)
    return Normalized()


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


class Training:
    """Tiny networks in float64, which mitigations act on while they are trained: alone, stacked or attached.

    Between two tasks there are 5 steps. The data of a task are two batches, with labels.

    Args:
        method: Mitigations of the first network; or, to stack, a list of those of each.
        attached: Whether `attach` puts them on the network.
        seed: Seed of the first network and of its noise.
        make: Function that makes a network from a seed.
    """

    def __init__(self, method, *, attached=False, seed=0, make=normalized):
        self.is_stacked = isinstance(method, list)
        methods = method if self.is_stacked else [method]
        models = [make(seed + run).double() for run in range(len(methods))]
        for each, own in zip(models, methods, strict=True):
            for one in own:
                one.initial_weights(each, 0)
        inputs = images().double()
        self.steps = 0
        self.attached = self.hooks = None
        if self.is_stacked:
            self.trained, self.networks, self.optimizer = stacked(models, inputs)
        else:
            (self.networks,) = models
            self.optimizer = adam(self.networks)
            self.trained = single(self.networks, self.optimizer, inputs)
        if attached:
            self.attached = attach(
                self.networks, self.optimizer, *methods[0], seed=seed, inputs=inputs
            )
        else:
            seeds = [child_seed(seed + run, "mitigations") for run in range(len(methods))]
            self.hooks = Hooks(methods, self.trained, seeds)
            self.hooks.begin(lambda: inputs)

    @property
    def runs(self):
        return [*range(len(self.hooks._seeds))]

    def batch(self, seed):
        inputs = images(seed=seed).double()
        labels = (inputs.flatten(1).sum(1) > 0).long()
        if not self.is_stacked:
            return inputs, labels
        return inputs.expand(len(self.runs), *inputs.shape), labels.expand(len(self.runs), -1)

    def task_batches(self):
        return [self.batch(100 + self.steps), self.batch(200 + self.steps)]

    def train(self, steps):
        """Train, and return itself."""
        for _ in range(steps):
            if self.steps and self.steps % 5 == 0:
                owner = self.attached or self.hooks
                arguments = () if self.attached else (self.runs,)
                owner.boundary(self.steps // 5, *arguments, self.task_batches)
            inputs, _ = self.batch(self.steps)
            self.steps += 1
            self.optimizer.zero_grad()
            loss = torch.sin(self.networks(inputs) + 1).sum()
            if self.attached:
                (loss + self.attached.penalty()).backward()
                self.optimizer.step()
                continue
            self.hooks.observe(inputs, {})
            penalty = self.hooks.penalty()
            (loss if penalty is None else loss + penalty.sum()).backward()
            self.hooks.before_step()
            self.optimizer.step()
            self.hooks.after_step()
        return self

    def continued(self, method, **settings):
        """Return a training, not stacked, that continues from this one's state."""
        other = Training(method, seed=17, **settings)
        other.networks.load_state_dict(self.networks.state_dict())
        other.optimizer.load_state_dict(self.optimizer.state_dict())
        other.hooks.load_state_dict(self.hooks.state_dict())
        other.steps = self.steps
        return other

    def everything(self, run=None):
        """Return copies of all weights, buffers and moments, of one stacked network if it is given."""
        found = everything(self.trained)
        return found if run is None else {name: each[run] for name, each in found.items()}
